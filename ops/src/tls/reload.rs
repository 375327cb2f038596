//! The certificates of a listener in force, replaced when their files change.
//!
//! A connection keeps the configuration it began with; new ones get the newest that was good. Files are compared by content, a few
//! seconds apart. While a change is not usable (a key that does not belong to its certificate yet, a file cut short) the old
//! certificates stay in force; each such state is logged and counted once. A pair that was left out at the start may stay unusable; one
//! that is in force may not become so.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::Tls,
    metrics::Family,
    readiness::{Degraded, Readiness},
    tls::server::{CertError, Files, Fingerprint, server_config},
};

/// How often [`watch`] should look: a few small files per listener.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// See the module documentation.
#[derive(Debug)]
pub struct CertStore {
    /// The listener, for logs.
    name: &'static str,
    tls: Tls,
    alpn: Vec<&'static [u8]>,
    current: ArcSwap<ServerConfig>,
    seen: Mutex<Seen>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug)]
struct Seen {
    /// Of the files as last looked at, good or not.
    files: Fingerprint,
    /// The pairs that are not part of what is in force, by their index.
    left_out: BTreeSet<usize>,
}

/// What a look at the files found.
#[derive(Debug)]
pub enum Check {
    /// The files are as they were.
    Unchanged,
    /// They changed, and the new certificates are in force.
    Reloaded,
    /// They changed, but cannot be used; the old certificates stay in force.
    Broken(CertError),
}

// === impl CertStore ===

impl CertStore {
    /// Reads the certificates of the listener `name`; `alpn` as in [`server_config`].
    ///
    /// # Errors
    /// When they cannot be used; the error names the file.
    pub fn load(name: &'static str, tls: &Tls, alpn: &[&'static [u8]]) -> Result<Self, CertError> {
        let files = Files::read(tls);
        let config = server_config(tls, &files, alpn)?;
        Ok(Self {
            name,
            tls: tls.clone(),
            alpn: alpn.to_vec(),
            current: ArcSwap::from_pointee(config),
            seen: Mutex::new(Seen { files: files.fingerprint(), left_out: left_out(&files.unusable(tls)) }),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Which listener's they are.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What a new connection shall use.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// How often changed files came into force.
    #[must_use]
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// How often changed files could not be used.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Looks at the files, and uses them if they changed. Reads files: not for a thread that must not wait.
    pub fn check(&self) -> Check {
        let files = Files::read(&self.tls);
        let fingerprint = files.fingerprint();
        // Held to the end, so that of two checks at once the one with the older files cannot come last.
        let mut seen = self.seen.lock();
        if seen.files == fingerprint {
            return Check::Unchanged;
        }
        seen.files = fingerprint;
        let mut unusable = files.unusable(&self.tls);
        let now_left_out = left_out(&unusable);
        let lost = unusable.iter().position(|(index, _)| !seen.left_out.contains(index));
        let config = match lost {
            Some(lost) => Err(unusable.swap_remove(lost).1),
            None => server_config(&self.tls, &files, &self.alpn),
        };
        match config {
            Ok(config) => {
                seen.left_out = now_left_out;
                self.current.store(Arc::new(config));
                self.reloads.fetch_add(1, Ordering::Relaxed);
                info!(listener = self.name, "certificates reloaded");
                Check::Reloaded
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                warn!(listener = self.name, %error, "changed certificates cannot be used, the old ones stay in force");
                Check::Broken(error)
            }
        }
    }
}

fn left_out(unusable: &[(usize, CertError)]) -> BTreeSet<usize> {
    unusable.iter().map(|(index, _)| *index).collect()
}

/// What became of changed files, by listener, as rows of a counter.
#[must_use]
pub fn rows(family: Family, stores: &[Arc<CertStore>]) -> Family {
    stores.iter().fold(family, |family, store| {
        let row = |outcome| [("listener", store.name()), ("outcome", outcome)];
        family.row(&row("reloaded"), store.reloads()).row(&row("broken"), store.failures())
    })
}

/// Looks at the files of all stores every `every` until `stop` is cancelled. While those of one cannot be used, that is a note on `readiness`.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn watch(
    stores: Vec<Arc<CertStore>>,
    every: Duration,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let mut notes: Vec<Option<Degraded>> = stores.iter().map(|_| None).collect();
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once, and the files were read just now.
    tick.tick().await;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let looked_at = stores.clone();
        let check = move || looked_at.iter().map(|store| store.check()).collect::<Vec<_>>();
        // A panic in there would have been logged; the next look may do better.
        let Ok(checks) = tokio::task::spawn_blocking(check).await else { continue };
        for ((store, note), check) in stores.iter().zip(&mut notes).zip(checks) {
            match check {
                Check::Unchanged => {}
                Check::Reloaded => *note = None,
                Check::Broken(error) => {
                    let name = format!("certificates of {}", store.name);
                    *note = Some(readiness.degraded(name, error.to_string()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
