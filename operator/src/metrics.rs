//! What the operator counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use frontier_ops::metrics::{Family, Times};

use crate::client::Writes;

/// How a look at a cluster ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it shall be.
    Settled,
    /// A change is on its way.
    Progressing,
    /// Somebody has to act.
    Degraded,
    /// The API did not do what it was asked; tried again soon.
    Failed,
}

/// What the operator counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// What was written to the API.
    pub writes: Arc<Writes>,
    looks: [AtomicU64; 4],
    times: Times,
    leads: AtomicBool,
}

// === impl Outcome ===

impl Outcome {
    const ALL: [Self; 4] = [Self::Settled, Self::Progressing, Self::Degraded, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Progressing => "progressing",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

// === impl Counters ===

impl Counters {
    /// A look at a cluster has ended.
    pub fn look(&self, outcome: Outcome, time: std::time::Duration) {
        self.looks[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.times.add(time);
    }

    /// Whether this operator is the one that works.
    pub fn leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// How many looks ended so.
    #[must_use]
    pub fn looks(&self, outcome: Outcome) -> u64 {
        self.looks[outcome as usize].load(Ordering::Relaxed)
    }

    /// As a scraper reads it.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut looks =
            Family::counter("frontier_operator_reconciles", "Looks at a cluster, by how they ended");
        for outcome in Outcome::ALL {
            looks = looks.row(&[("outcome", outcome.name())], self.looks(outcome));
        }
        let mut writes =
            Family::counter("frontier_operator_api_writes", "Requests that write to the API, by verb");
        for (verb, count) in self.writes.by_verb() {
            writes = writes.row(&[("verb", verb)], count);
        }
        vec![
            looks,
            Family::histogram("frontier_operator_reconcile_duration", "Time of a look at a cluster")
                .times(self.times.latency()),
            writes,
            Family::gauge("frontier_operator_leader", "1: this operator is the one that works")
                .row(&[], u64::from(self.leads.load(Ordering::Relaxed))),
        ]
    }
}
