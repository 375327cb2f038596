//! The parts of a server that run as long as it does: one that panics or ends by itself ends the process, instead of leaving a server
//! behind that nobody can ask, or that follows its files no longer.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Failures that may wait to be read; the first one ends the process.
const FAILURES: usize = 16;

/// Where parts say that they have failed.
#[derive(Clone, Debug)]
pub struct Failures(mpsc::Sender<String>);

// === impl Failures ===

impl Failures {
    /// A place to say so, and the end where it is heard.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<String>) {
        let (failed, failures) = mpsc::channel(FAILURES);
        (Self(failed), failures)
    }

    /// A part has failed.
    pub fn report(&self, what: String) {
        tracing::error!(failure = what, "a part of the server has failed");
        // If nobody listens, the process ends already; if others came first, it will.
        drop(self.0.try_send(what));
    }

    /// Runs a part that may end once `stop` says so and not before.
    pub async fn watch(
        self,
        name: &'static str,
        stop: CancellationToken,
        part: impl Future<Output = ()> + Send,
    ) {
        match AssertUnwindSafe(part).catch_unwind().await {
            Ok(()) if stop.is_cancelled() => {}
            Ok(()) => self.report(format!("{name} has ended")),
            Err(_) => self.report(format!("{name} panicked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_or_ends_by_itself_is_heard_of() {
        let (failures, mut heard) = Failures::new();
        let stop = CancellationToken::new();
        failures.clone().watch("clock", stop.clone(), async { panic!("out of time") }).await;
        assert_eq!(heard.recv().await.as_deref(), Some("clock panicked"));
        failures.clone().watch("door", stop.clone(), async {}).await;
        assert_eq!(heard.recv().await.as_deref(), Some("door has ended"));
        stop.cancel();
        failures.watch("light", stop, async {}).await;
        assert_eq!(heard.recv().await, None, "it was told to");
    }
}
