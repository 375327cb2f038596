//! What gateways and clients may use (`limits`), and how atlas leaves (`drain`).

use std::time::Duration;

use frontier_ops::config::{Problems, read::Section, serialize_duration};
use serde::Serialize;

/// `limits`: the bounds that hold whatever others do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Gateways attached at once. Default 1024; worst case each: half a MiB.
    pub links: usize,
    /// Clients that watch at once. Default 1024; worst case each: a MiB.
    pub watchers: usize,
    /// Connections of each port at once. Default 4096; worst case each: some tens of KiB.
    pub connections: usize,
}

/// `drain`: how atlas leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// How long everything goes on, for load balancers that have not noticed yet. Default 2 s.
    #[serde(serialize_with = "serialize_duration")]
    pub accept_for: Duration,
    /// Seconds from the signal to the exit. Default 10.
    pub seconds: u32,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { links: 1_024, watchers: 1_024, connections: 4_096 }
    }
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            links: section.value("links", default.links),
            watchers: section.value("watchers", default.watchers),
            connections: section.value("connections", default.connections),
        }
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        let limits = [
            ("limits.links", self.links),
            ("limits.watchers", self.watchers),
            ("limits.connections", self.connections),
        ];
        for (key, limit) in limits {
            if !(1..=1_000_000).contains(&limit) {
                problems.error(key, "must be from 1 to 1000000");
            }
        }
        // A link has a connection for its stream and one for its renewals.
        if self.links.saturating_mul(2) > self.connections {
            let message = format!(
                "{} links need two connections each, and limits.connections allows {} in all",
                self.links, self.connections
            );
            problems.warn("limits.links", message);
        }
    }
}

// === impl Drain ===

impl Default for Drain {
    fn default() -> Self {
        Self { accept_for: Duration::from_secs(2), seconds: 10 }
    }
}

impl Drain {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            accept_for: section.value("accept_for", default.accept_for),
            seconds: section.value("seconds", default.seconds),
        }
    }

    /// The time from the signal to the exit.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.seconds > 86_400 {
            problems.error("drain.seconds", "must not exceed 86400 (one day)");
        }
        if self.accept_for > self.total() / 2 {
            let message = format!(
                "longer than half of the drain of {} s, and everything goes on for no longer than that",
                self.seconds
            );
            problems.warn("drain.accept_for", message);
        }
    }
}
