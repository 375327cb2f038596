//! The way out: not ready, sent elsewhere, finished, gone.
//!
//! ```text
//!  signal ─▶ go on for `drain.accept_for` (at most half of the time) ─▶ gateways and watchers told to go, listeners closed
//!         ─▶ what is in flight finishes ─▶ exit 0 (at the deadline in any case)
//! ```
//! Gateways lose nothing by it: they attach to the next atlas, which finds their lease and records in the store.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::App;

/// For the admin port and the parts without a port to end.
const LAST: Duration = Duration::from_secs(2);

impl App {
    /// Lets gateways and clients go; returns when all are gone or the time is over. With `hurry` (a person waits at the terminal) it does not
    /// wait for load balancers that have not noticed yet.
    pub(super) async fn leave(&mut self, hurry: bool) {
        self.draining = Some(self.readiness.guard("draining"));
        let start = Instant::now();
        let deadline = start + self.drain.total();
        if !hurry {
            // A short window still leaves them the time to go.
            sleep(self.drain.accept_for.min(self.drain.total() / 2)).await;
        }
        tracing::info!("telling gateways and watchers to go elsewhere");
        for farewell in &self.farewell {
            farewell();
        }
        self.planes_stop.cancel();
        self.planes.close();
        if timeout_at(deadline, self.planes.wait()).await.is_err() {
            tracing::warn!("requests are left at the end of the drain");
        }
    }

    /// Ends what still runs.
    pub(super) async fn end(&mut self) {
        self.rest_stop.cancel();
        self.rest.close();
        if timeout(LAST, self.rest.wait()).await.is_err() {
            tracing::error!("a part did not end");
        }
        tracing::info!("atlas stopped");
    }
}
