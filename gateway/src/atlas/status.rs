//! How the link to atlas is: for `/readyz`, the metrics and the log. The gateway serves its edges and services without it, so it is ready
//! in any case.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use frontier_ops::{
    metrics::Family,
    readiness::{Degraded, Readiness},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::link::{LinkError, Trouble};
use crate::core::roll::Roll;

/// The name under which it is listed on `/readyz`.
const PART: &str = "atlas";
/// A line about trouble at most so often: one that comes and goes must not fill the log.
const PAUSE: Duration = Duration::from_secs(5);

/// See the module documentation.
pub struct Status {
    readiness: Readiness,
    standing: Mutex<Standing>,
    up: watch::Sender<bool>,
    resyncs: AtomicU64,
    buckets: AtomicU64,
    changes: AtomicU64,
    cuts: AtomicU64,
    links: AtomicU64,
    errors: [AtomicU64; Trouble::ALL.len()],
}

#[derive(Debug, Default)]
struct Standing {
    degraded: Option<Degraded>,
    /// What the log said last: up, or which trouble.
    said: Option<Result<(), Trouble>>,
    complained: Option<Instant>,
    renewed: Option<Instant>,
}

// === impl Status ===

impl Status {
    /// Of a link that does not stand yet.
    #[must_use]
    pub fn new(readiness: Readiness) -> Self {
        let degraded = Some(readiness.degraded(PART, "no link yet"));
        Self {
            readiness,
            standing: Mutex::new(Standing { degraded, ..Standing::default() }),
            up: watch::Sender::new(false),
            resyncs: AtomicU64::new(0),
            buckets: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            links: AtomicU64::new(0),
            errors: Default::default(),
        }
    }

    /// Whether the link stands and the lease was renewed in time.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Waits until that is so.
    pub async fn come_up(&self) {
        // The sender lives as long as this.
        drop(self.up.subscribe().wait_for(|up| *up).await);
    }

    /// Links that came about.
    #[must_use]
    pub fn links(&self) -> u64 {
        self.links.load(Ordering::Relaxed)
    }

    /// How often something went wrong in this way.
    #[must_use]
    pub fn errors(&self, trouble: Trouble) -> u64 {
        self.errors[trouble as usize].load(Ordering::Relaxed)
    }

    /// Buckets told as a whole, of edges and of services.
    #[must_use]
    pub fn buckets(&self) -> u64 {
        self.buckets.load(Ordering::Relaxed)
    }

    /// Changes told.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// A link of this number stands.
    pub(super) fn linked(&self, stream: u32) {
        self.links.fetch_add(1, Ordering::Relaxed);
        let mut standing = self.standing.lock();
        standing.renewed = Some(Instant::now());
        self.work(&mut standing, Some(stream));
    }

    /// The lease was renewed.
    pub(super) fn renewed(&self) {
        let mut standing = self.standing.lock();
        standing.renewed = Some(Instant::now());
        if !self.is_up() {
            self.work(&mut standing, None);
        }
    }

    fn work(&self, standing: &mut Standing, stream: Option<u32>) {
        self.up.send_replace(true);
        standing.degraded = None;
        if !matches!(standing.said, Some(Ok(()))) {
            standing.said = Some(Ok(()));
            tracing::info!(stream, "atlas knows of this gateway");
        }
    }

    /// Something went wrong that does not end the link.
    pub(super) fn count(&self, trouble: Trouble) {
        self.errors[trouble as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The link does not stand, or the lease is over.
    pub(super) fn down(&self, error: &LinkError) {
        self.up.send_replace(false);
        let mut standing = self.standing.lock();
        let now = Instant::now();
        if standing.said != Some(Err(error.trouble))
            && standing.complained.is_none_or(|last| now.duration_since(last) >= PAUSE)
        {
            standing.said = Some(Err(error.trouble));
            standing.complained = Some(now);
            tracing::warn!(
                kind = error.trouble.name(),
                %error,
                "atlas does not know of this gateway; it serves on, and reports when atlas is back"
            );
        }
        // The new note first, or it would seem well for a moment.
        standing.degraded = Some(self.readiness.degraded(PART, error.to_string()));
    }

    /// The gateway has left in good order.
    pub(super) fn left(&self) {
        let linked = self.up.send_replace(false);
        self.standing.lock().degraded = None;
        if linked {
            tracing::info!("withdrawn from atlas");
        }
    }

    pub(super) fn resynced(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn told(&self, buckets: usize, changes: usize) {
        self.buckets.fetch_add(buckets as u64, Ordering::Relaxed);
        self.changes.fetch_add(changes as u64, Ordering::Relaxed);
    }

    pub(super) fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// Since the lease was renewed last.
    #[must_use]
    pub fn renewal_age(&self) -> Option<Duration> {
        self.standing.lock().renewed.map(|renewed| renewed.elapsed())
    }

    /// The metrics; `roll` is where changes wait.
    #[must_use]
    pub fn families(&self, roll: &Roll) -> Vec<Family> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counter = |name, help, value| Family::counter(name, help).row(&[], value);
        let (depth, capacity) = roll.depth();
        let errors =
            Family::counter("frontier_atlas_errors", "What went wrong with the link to atlas, by kind");
        let age =
            Family::gauge("frontier_atlas_renewal_age", "Time since atlas renewed the lease last").seconds();
        vec![
            Family::gauge("frontier_atlas_up", "Whether atlas knows of this gateway")
                .row(&[], self.is_up().into()),
            match self.renewal_age() {
                Some(since) => age.real(since.as_secs_f64()),
                None => age,
            },
            counter("frontier_atlas_links", "Links to atlas that came about", count(&self.links)),
            counter("frontier_atlas_resyncs", "Times that atlas wanted buckets anew", count(&self.resyncs)),
            counter("frontier_atlas_buckets_sent", "Buckets told as a whole", count(&self.buckets)),
            counter("frontier_atlas_changes_sent", "Changes told", count(&self.changes)),
            counter("frontier_atlas_cuts", "Sessions that atlas wanted ended", count(&self.cuts)),
            Trouble::ALL.into_iter().fold(errors, |errors, trouble| {
                errors.row(&[("kind", trouble.name())], self.errors(trouble))
            }),
            Family::gauge("frontier_atlas_feed", "Changed edges that atlas was not told of yet")
                .row(&[], depth as u64),
            Family::gauge("frontier_atlas_feed_capacity", "Changed edges that are noted one by one at most")
                .row(&[], capacity as u64),
            counter(
                "frontier_atlas_feed_overflows",
                "Buckets told as a whole because more of them had changed than is noted",
                roll.overflows(),
            ),
        ]
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status").field("standing", &self.standing.lock()).finish_non_exhaustive()
    }
}
