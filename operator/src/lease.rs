//! One of several operators at a time: whoever holds a Lease writes.
//!
//! ```text
//!  wait ─▶ take (free, or not renewed for its duration by our own clock) ─▶ hold: renew every 2 s ─▶ give back
//!    ▲                                                                        │ 10 s without a renewal
//!    └────────────────────────────── stop at once ◀───────────────────────────┘
//! ```
//! The gate closes 10 s after the beginning of the last renewal that succeeded, 5 s before anybody else may take the lease; a request that has
//! passed it is given up after 4 s. No clock of another machine is compared with ours: what counts is how long a record has not changed
//! here.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease as Record, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// The name that the Go operator's lease has: the two do not work side by side.
pub const NAME: &str = "9dfcd8dc.singchia.io";

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long others wait after the last renewal.
    pub duration: Duration,
    /// How long the holder goes on after it.
    pub hold: Duration,
    /// Between attempts.
    pub retry: Duration,
}

/// Open while this operator may write; clones share it.
#[derive(Clone, Debug)]
pub struct Gate(Option<Arc<Mutex<Option<Instant>>>>);

/// A candidate, and sometimes the holder.
pub struct Lease {
    api: Api<Record>,
    identity: String,
    terms: Terms,
    gate: Gate,
    seen: Option<Seen>,
}

/// A record of somebody else, and since when it has not changed.
struct Seen {
    version: Option<String>,
    since: Instant,
}

// === impl Terms ===

impl Default for Terms {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            hold: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

// === impl Gate ===

impl Gate {
    /// Opened by a lease alone.
    #[must_use]
    pub fn closed() -> Self {
        Self(Some(Arc::default()))
    }

    /// For an operator that is the only one.
    #[must_use]
    pub fn open() -> Self {
        Self(None)
    }

    /// Whether it is open now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.0 {
            None => true,
            Some(until) => until.lock().is_some_and(|until| Instant::now() < until),
        }
    }

    fn set(&self, until: Option<Instant>) {
        if let Some(gate) = &self.0 {
            *gate.lock() = until;
        }
    }
}

// === impl Lease ===

impl Lease {
    /// A candidate by this name, for the lease [`NAME`] where `api` looks. Its requests must not pass the gate.
    #[must_use]
    pub fn new(api: Api<Record>, identity: String, terms: Terms, gate: Gate) -> Self {
        Self { api, identity, terms, gate, seen: None }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease cannot be read or taken"),
            }
            sleep(self.terms.retry).await;
        }
    }

    /// Renews it; returns when it is lost.
    pub async fn keep(&mut self) {
        let mut ticks = interval(self.terms.retry);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match timeout(self.terms.hold / 2, self.attempt()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    self.gate.set(None);
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be renewed"),
                Err(_) => tracing::warn!("the lease cannot be renewed: no answer"),
            }
            if !self.gate.is_open() {
                return;
            }
        }
    }

    /// Gives it back, so that the next one need not wait.
    pub async fn release(&mut self) {
        let was_held = self.gate.is_open();
        self.gate.set(None);
        if !was_held {
            return;
        }
        let released = async {
            let Some(mut record) = self.api.get_opt(NAME).await? else { return Ok(()) };
            let spec = record.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(NAME, &PostParams::default(), &record).await?;
            }
            Ok::<(), kube::Error>(())
        };
        if let Ok(Err(error)) = timeout(self.terms.retry, released).await {
            tracing::warn!(%error, "the lease could not be given back; the next operator waits for its end");
        }
    }

    /// Takes or renews it, if that is possible now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let begin = Instant::now();
        let params = PostParams::default();
        let written = match self.api.get_opt(NAME).await? {
            None => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                self.api.create(&params, &Record { metadata, spec: Some(self.spec(None)) }).await
            }
            Some(mut record) => {
                if !self.may_take(&record, begin) {
                    return Ok(false);
                }
                record.spec = Some(self.spec(record.spec.as_ref()));
                // With the version that was read: of two that try, one fails.
                self.api.replace(NAME, &params, &record).await
            }
        };
        match written {
            Ok(_) => {
                self.seen = None;
                self.gate.set(Some(begin + self.terms.hold));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn may_take(&mut self, record: &Record, now: Instant) -> bool {
        let spec = record.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let version = record.metadata.resource_version.clone();
        match &self.seen {
            Some(seen) if seen.version == version => {
                let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                let duration = seconds.map_or(self.terms.duration, Duration::from_secs);
                now.duration_since(seen.since) >= duration
            }
            _ => {
                self.seen = Some(Seen { version, since: now });
                false
            }
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mine = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.terms.duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if mine {
                before.and_then(|spec| spec.acquire_time.clone())
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if mine || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}
