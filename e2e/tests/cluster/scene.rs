//! One story: a cluster, and what is noted of it for the table.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use frontier_e2e::{
    cluster::{Cluster, HEALED, ledger::Counts},
    wait::{pause, until},
};

/// A cluster and what happens to it.
#[derive(Clone, Copy)]
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) play: fn(&mut Report) -> anyhow::Result<()>,
}

/// What is noted of a story.
#[derive(Default)]
pub(crate) struct Report {
    /// What was injected, and how often.
    pub(crate) injected: Vec<(String, usize)>,
    pub(crate) slowest: Duration,
    /// What else was measured.
    pub(crate) notes: Vec<String>,
    pub(crate) counts: Counts,
}

/// Microseconds by which short sleeps were longer than they should be, since the start.
static STALLED: AtomicU64 = AtomicU64::new(0);

/// How long the machine has let us wait for nothing since the start: it has few processors, and other things to do as well.
pub(crate) fn stalled() -> Duration {
    Duration::from_micros(STALLED.load(Ordering::Relaxed))
}

/// Measures that, until the process ends.
pub(crate) fn watch_stalls() {
    const NAP: Duration = Duration::from_millis(10);
    std::thread::spawn(|| {
        loop {
            let begin = Instant::now();
            // The nap is what is measured.
            pause(NAP);
            let over = begin.elapsed().saturating_sub(NAP + Duration::from_millis(1));
            STALLED.fetch_add(u64::try_from(over.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    });
}

/// How often every fault is repeated, and how many times as long those last that last.
pub(crate) fn soak() -> usize {
    std::env::var("CLUSTER_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// How long a fault lasts: in CI the first, in a soak the second.
pub(crate) fn lasts(short: u64, long: u64) -> Duration {
    Duration::from_secs(if soak() > 1 { long } else { short })
}

// === impl Report ===

impl Report {
    /// Something was done to the cluster.
    pub(crate) fn inject(&mut self, what: impl Into<String>) {
        let what = what.into();
        match self.injected.iter_mut().find(|(name, _)| *name == what) {
            Some((_, times)) => *times += 1,
            None => self.injected.push((what, 1)),
        }
    }

    /// The fault is over since then: everything must be right again within five seconds, and as much more as the machine let us wait for
    /// nothing meanwhile.
    pub(crate) fn heals(&mut self, cluster: &Cluster, since: Instant) -> anyhow::Result<()> {
        let what = self.injected.last().map(|(what, _)| what.clone()).unwrap_or_default();
        let before = stalled();
        let took = cluster.whole(since, 2 * HEALED).with_context(|| format!("after: {what}"))?;
        let allowed = HEALED + stalled().saturating_sub(before);
        ensure!(took <= allowed, "after: {what}: right again after {took:?}, which may take {allowed:?}");
        self.slowest = self.slowest.max(took);
        Ok(())
    }

    /// The end of the story.
    pub(crate) fn settle(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        self.counts = cluster.settle()?;
        let Counts { calls, messages, .. } = &self.counts;
        ensure!(calls.0 > 100 && messages.1 > 100, "next to nothing was asked: {}", self.counts);
        Ok(())
    }
}

/// A fault lasts, while edges come and go.
pub(crate) fn go_on(cluster: &Cluster, time: Duration) -> anyhow::Result<()> {
    go_on_with(time, || cluster.churn(2))
}

/// The same, and no edge comes to this gateway.
pub(crate) fn go_on_without(cluster: &Cluster, gateway: usize, time: Duration) -> anyhow::Result<()> {
    go_on_with(time, || {
        let stay = cluster.edges_of(gateway)?;
        for edge in cluster.fleet.edges().into_iter().filter(|edge| !stay.contains(edge)).take(2) {
            cluster.fleet.remove_edge(edge)?;
            cluster.add_edge(gateway + 1)?;
        }
        Ok(())
    })
}

fn go_on_with(time: Duration, mut churn: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        churn()?;
        let next = end.min(Instant::now() + Duration::from_millis(500));
        // The time itself is what is waited for.
        let left = next.saturating_duration_since(Instant::now());
        drop(until("", left, || {
            pause(left / 10);
            None::<()>
        }));
    }
    Ok(())
}
