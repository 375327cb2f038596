//! The way out: not ready, sent on, closed, finished, gone.
//!
//! ```text
//!  signal ─▶ withdraw from atlas ─▶ accept for `drain.accept_for` (at most half of the time), new edges are sent on ─▶ close listeners ─▶ edges told to go, spread out
//!         ─▶ what is in flight finishes ─▶ edges that are left are cut ─▶ services told to go ─▶ queues confirm what they have
//!         ─▶ exit 0 (at the deadline in any case)
//! ```

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::App;
use crate::{
    core::{Bound, message::Msg},
    driver::Parcel,
};

/// How often it is looked whether sessions are gone.
const LOOK: Duration = Duration::from_millis(50);
/// Kept back from the window for services and for what is in flight, at most; of a short window a quarter.
const LAST: Duration = Duration::from_secs(2);
/// For connections of geminio to be closed in good order, the two seconds included that they have at least.
const FAREWELL: Duration = Duration::from_millis(3_500);
/// For the shards' threads to end after they were told to.
const STOP: Duration = Duration::from_secs(2);

impl App {
    /// Lets peers go in order; returns when all are gone or the time is over. With `hurry` (a person waits at the terminal) a gateway
    /// without edges does not wait for load balancers that have not noticed yet and may still send some.
    pub(super) async fn leave(&mut self, hurry: bool) {
        let _not_ready = self.readiness.guard("draining");
        let start = Instant::now();
        let deadline = start + self.drain.total();
        let last = LAST.min(self.drain.total() / 4);
        self.shared.draining.store(true, Ordering::Release);
        // What edges have may still be done; nothing new comes for them.
        self.sources.stop();
        // Before edges go: nobody is to look for them here when they are elsewhere.
        self.cluster.withdraw().await;
        // A short window still leaves edges the time to go.
        let accept_until = start + self.drain.accept_for.min(self.drain.total() / 2);
        if hurry {
            drop(timeout_at(accept_until, self.gone(Bound::Edge)).await);
        } else {
            sleep_until(accept_until).await;
        }
        self.broadcast(|| Msg::Connection(Box::new(Parcel::CloseListeners)));
        let spread = deadline.saturating_duration_since(Instant::now() + last) / 2;
        let spread_ms = u32::try_from(spread.as_millis()).unwrap_or(u32::MAX);
        tracing::info!(edges = self.sessions(Bound::Edge), spread_ms, "telling edges to connect elsewhere");
        self.broadcast(|| Msg::Drain { edges: true, spread_ms });
        let edges_until = deadline.checked_sub(last / 2).unwrap_or(deadline).max(Instant::now());
        if timeout_at(edges_until, self.gone(Bound::Edge)).await.is_err() {
            tracing::warn!(edges = self.sessions(Bound::Edge), "edges are left at the end of the drain");
            // Services hear of their end before they are told to go, or they would not.
            self.broadcast(|| Msg::Dismiss);
            let most = deadline.checked_sub(last / 4).unwrap_or(deadline).max(Instant::now());
            drop(timeout_at(most, self.gone(Bound::Edge)).await);
        }
        self.broadcast(|| Msg::Drain { edges: false, spread_ms: 0 });
        drop(timeout_at(deadline, self.gone(Bound::Service)).await);
        // Peers of geminio say goodbye, and the youngest of them are not to be closed yet.
        drop(timeout_at(deadline.min(Instant::now() + FAREWELL), self.farewell()).await);
        // Nothing is with an edge any more, so this only waits for brokers to hear it.
        self.sources.close(deadline).await;
        // What edges have published was handed over before they went.
        self.queues.close(deadline).await;
    }

    /// Ends the shards and waits for their threads.
    pub(super) async fn end(&mut self) {
        self.broadcast(|| Msg::Connection(Box::new(Parcel::Stop)));
        let threads = std::mem::take(&mut self.threads);
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        match timeout(STOP, joined).await {
            Ok(Ok(true)) => {}
            Ok(_) => tracing::error!("a shard had panicked"),
            Err(_) => tracing::error!("a shard did not end"),
        }
        self.guests.shutdown().await;
        self.operators.shutdown().await;
        tracing::info!("gateway stopped");
    }

    /// Sessions of a role, all shards.
    #[must_use]
    pub fn sessions(&self, bound: Bound) -> u64 {
        self.shared.stats.iter().map(|stats| stats.sessions[bound as usize].get()).sum()
    }

    async fn gone(&self, bound: Bound) {
        while self.sessions(bound) > 0 {
            sleep(LOOK).await;
        }
    }

    async fn farewell(&self) {
        while self.shared.stats.iter().any(|stats| stats.geminio_open.get() > 0) {
            sleep(LOOK).await;
        }
    }

    fn broadcast(&self, msg: impl Fn() -> Msg) {
        for shard in 0..self.hub.shards() {
            self.hub.post(shard, msg());
        }
    }
}
