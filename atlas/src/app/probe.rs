//! Whether the store can be used: asked every second, told to probes, and logged when it changes.

use std::{sync::Arc, time::Duration};

use frontier_ops::readiness::{Guard, Readiness};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{metrics::Sums, store::Store};

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(1);

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(2);

/// See the module documentation.
pub(super) struct Probe<S> {
    name: &'static str,
    store: Arc<S>,
    readiness: Readiness,
    sums: Arc<Sums>,
    /// Why the store cannot be used. There from the beginning: nobody shall be told that all is well before the first question.
    not_ready: Option<(Guard, String)>,
}

// === impl Probe ===

impl<S: Store> Probe<S> {
    pub(super) fn new(name: &'static str, store: Arc<S>, readiness: Readiness, sums: Arc<Sums>) -> Self {
        let mut probe = Self { name, store, readiness, sums, not_ready: None };
        probe.not_ready = Some(probe.why("not asked yet".to_owned()));
        probe
    }

    /// Asks for ever.
    pub(super) async fn run(mut self) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.ask().await {
                Ok(()) => {
                    if self.not_ready.take().is_some() {
                        tracing::info!(store = self.name, "the store can be used");
                    }
                }
                Err(why) if self.not_ready.as_ref().is_some_and(|(_, before)| *before == why) => {}
                Err(why) => {
                    tracing::warn!(store = self.name, error = why, "the store cannot be used");
                    // The new reason is there before the old one goes: nobody sees a moment in between.
                    self.not_ready = Some(self.why(why));
                }
            }
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let asked = async {
            self.store.ping().await?;
            self.store.members().await
        };
        let roster = timeout(WITHIN, asked).await.map_err(|_| format!("no answer within {WITHIN:?}"))?;
        self.sums.take(&roster.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn why(&self, why: String) -> (Guard, String) {
        (self.readiness.guard(format!("{}: {why}", self.name)), why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[tokio::test(start_paused = true)]
    async fn readiness_begins_with_the_first_answer() {
        let readiness = Readiness::default();
        let mut ready = readiness.watch();
        let probe = Probe::new("memory", Arc::new(Memory::new()), readiness.clone(), Arc::default());
        assert_eq!(readiness.report().waiting, ["memory: not asked yet"], "before anybody runs it");
        let run = probe.run();
        tokio::pin!(run);
        assert!(futures::poll!(&mut run).is_pending());
        tokio::select! {
            () = &mut run => {}
            _ = ready.wait_for(|ready| *ready) => {}
        }
        assert_eq!(readiness.report().waiting, <[String; 0]>::default());
    }
}
