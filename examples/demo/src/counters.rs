//! What the show counts, and whether all of it was right.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;
use tokio::sync::watch;

use crate::out::say;

/// Mistakes that are said in words; the others are only counted.
const SAID: u64 = 3;

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls_up: AtomicU64,
    pub(crate) calls_down: AtomicU64,
    /// Readings that edges began to publish, that the service received, and whose acknowledgement the edges got.
    pub(crate) published: AtomicU64,
    pub(crate) readings: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) file_bytes: AtomicU64,
    pub(crate) files: AtomicU64,
    mistakes: AtomicU64,
    ending: watch::Sender<bool>,
}

// === impl Counters ===

impl Counters {
    /// Counts something that should not have happened, and says it if it is one of the first.
    pub(crate) fn mistake(&self, text: impl AsRef<str>) {
        if self.mistakes.fetch_add(1, Ordering::Relaxed) < SAID {
            say(format!("  wrong: {}", text.as_ref()));
        }
    }

    /// How often [`Counters::mistake`] was called.
    pub(crate) fn mistakes(&self) -> u64 {
        self.mistakes.load(Ordering::Relaxed)
    }

    /// Asks the edges to finish what they do and to begin nothing more.
    pub(crate) fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Whether they were asked to.
    pub(crate) fn ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Returns when they are.
    pub(crate) async fn ended(&self) {
        // The sender is this value, so it outlives the wait.
        drop(self.ending.subscribe().wait_for(|ending| *ending).await);
    }

    /// Whether the whole show took place without a mistake, once `edges` edges have finished.
    pub(crate) fn check(&self, edges: usize) -> anyhow::Result<()> {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ensure!(self.mistakes() == 0, "{} mistakes", self.mistakes());
        ensure!(count(&self.calls_up) > 0, "no call reached the service");
        ensure!(count(&self.calls_down) > 0, "no call reached an edge");
        let (published, readings) = (count(&self.published), count(&self.readings));
        let acknowledged = count(&self.acknowledged);
        ensure!(published > 0, "no reading was published");
        ensure!(
            readings == published && acknowledged == published,
            "of {published} readings {readings} reached the service and {acknowledged} were acknowledged"
        );
        ensure!(count(&self.files) as usize >= edges, "not every edge carried its file");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> Counters {
        let counters = Counters::default();
        let Counters { calls_up, calls_down, published, readings, acknowledged, files, .. } = &counters;
        for count in [calls_up, calls_down, published, readings, acknowledged, files] {
            count.store(3, Ordering::Relaxed);
        }
        counters
    }

    #[test]
    fn whatever_is_missing_or_wrong_fails_the_check() {
        right().check(3).unwrap();
        assert!(right().check(4).is_err(), "one file too few");
        let wrong: [fn(&Counters); 6] = [
            |counters| counters.mistake("on purpose"),
            |counters| counters.calls_up.store(0, Ordering::Relaxed),
            |counters| counters.calls_down.store(0, Ordering::Relaxed),
            |counters| counters.readings.store(2, Ordering::Relaxed),
            |counters| counters.acknowledged.store(2, Ordering::Relaxed),
            |counters| {
                for count in [&counters.published, &counters.readings, &counters.acknowledged] {
                    count.store(0, Ordering::Relaxed);
                }
            },
        ];
        for (number, spoil) in wrong.iter().enumerate() {
            let counters = right();
            spoil(&counters);
            assert!(counters.check(3).is_err(), "number {number}");
        }
    }
}
