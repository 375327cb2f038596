//! The running shards as the control plane and the metrics see them: questions go in as messages, answers come back by channel.

use std::sync::Arc;

use frontier_wire::error::ErrorCode;
use tokio::sync::oneshot;

use crate::core::api::{Page, View};
use crate::core::message::{Msg, ScanReply};
use crate::core::stats::{OpKind, Outcomes, Refusal, Stats};
use crate::core::{Bound, SessionRef, Shared};
use crate::driver::Hub;
use crate::metrics::{
    DataPlaneSnapshot, DataPlaneStats, Latency, OperationKind, OperationSnapshot, SessionCount, ShardSnapshot,
};

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Plane {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
}

// === impl Plane ===

impl Plane {
    /// For the shards of this hub.
    #[must_use]
    pub fn new(hub: Arc<Hub>, shared: Arc<Shared>) -> Self {
        Self { hub, shared }
    }

    /// Every session that `keep` wants, shard by shard in bounded steps so that a large fleet holds nobody up.
    pub async fn scan<T>(&self, mut keep: impl FnMut(View) -> Option<T>) -> Vec<T> {
        let mut found = Vec::new();
        for shard in 0..self.hub.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                let page = self.page(shard, from).await;
                found.extend(page.views.into_iter().filter_map(&mut keep));
                next = page.next;
            }
        }
        found
    }

    async fn page(&self, shard: u16, from: u32) -> Page {
        let (tell, told) = oneshot::channel();
        // Whoever asked may have gone meanwhile.
        let reply = ScanReply(Box::new(move |page| drop(tell.send(page))));
        self.hub.post(shard, vec![Msg::Scan { from, reply }]);
        // A shard that stops drops the question.
        told.await.unwrap_or_default()
    }

    /// Where an edge is.
    #[must_use]
    pub fn edge(&self, id: u64) -> Option<SessionRef> {
        self.shared.registry.edge(id)
    }

    /// Ends a session because an operator wants it.
    pub fn kick(&self, session: SessionRef) {
        let (code, text) = (ErrorCode::SessionClosed, "kicked by an operator");
        self.hub.post(session.shard, vec![Msg::Cut { session, code, text }]);
    }
}

impl DataPlaneStats for Plane {
    fn snapshot(&self) -> DataPlaneSnapshot {
        DataPlaneSnapshot {
            shards: self.shared.stats.iter().map(|stats| shard(stats)).collect(),
            memory_held: self.shared.held.load(std::sync::atomic::Ordering::Relaxed),
            memory_budget: self.shared.settings.memory,
        }
    }
}

fn shard(stats: &Stats) -> ShardSnapshot {
    let sessions = |bound: Bound| SessionCount {
        role: bound.name(),
        protocol: "native",
        count: stats.sessions[bound as usize].get(),
    };
    let refusals = Refusal::ALL.iter().zip(&stats.refusals);
    ShardSnapshot {
        sessions: vec![sessions(Bound::Edge), sessions(Bound::Service)],
        accepts: stats.accepts.get(),
        refusals: refusals.map(|(why, count)| (why.name(), count.get())).collect(),
        takeovers: stats.takeovers.get(),
        bytes_in: stats.bytes_in.get(),
        bytes_out: stats.bytes_out.get(),
        outbox_bytes: stats.outbox_bytes.get(),
        stream_ends: stats.legs.get(),
        operations: OpKind::ALL
            .iter()
            .zip(&stats.operations)
            .map(|(kind, outcomes)| operation(*kind, outcomes))
            .collect(),
        late_answers: stats.late_answers.get(),
        turns: stats.turns.get(),
        longest_turn_seconds: stats.loop_lag_micros.take() as f64 / 1e6,
        panics: stats.panics.get(),
        memory_cuts: stats.memory_cuts.get(),
    }
}

fn operation(kind: OpKind, outcomes: &Outcomes) -> OperationSnapshot {
    let codes = std::iter::once(None).chain(ErrorCode::ALL.map(Some));
    let counts: Vec<u64> = outcomes.latency.iter().map(|count| count.get()).collect();
    OperationSnapshot {
        kind: match kind {
            OpKind::Call => OperationKind::Call,
            OpKind::Message => OperationKind::Message,
            OpKind::Stream => OperationKind::Stream,
        },
        outcomes: codes.map(|code| (code, outcomes.count(code))).collect(),
        latency: Latency::of_powers_of_two(&counts, outcomes.latency_micros.get()),
    }
}
