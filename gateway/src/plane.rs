//! The running shards as the control plane and the metrics see them: questions go in as messages, answers come back by channel.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use frontier_ops::metrics::{Collect, Family, Latency};
use frontier_wire::error::ErrorCode;
use tokio::sync::oneshot;

use crate::{
    control::{DataPlane, EdgeRow, NotOnline, Scan, ServiceRow},
    core::{
        Bound, SessionRef, Shared,
        api::{Page, ServiceView, View},
        card::EdgeCard,
        dialect::Protocol,
        message::{Msg, ScanReply},
        stats::{OpKind, Outcomes, Refusal, Stats, Times},
    },
    driver::Hub,
    metrics::{DataPlaneSnapshot, OperationSnapshot, SessionCount, ShardSnapshot, families},
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

    async fn page(&self, shard: u16, from: u32, slots: u32, bound: Bound) -> Page {
        let (tell, told) = oneshot::channel();
        // Whoever asked may have gone meanwhile.
        let reply = ScanReply(Box::new(move |page| drop(tell.send(page))));
        self.hub.post(shard, Msg::Scan { from, slots, bound, reply });
        // A shard that stops drops the question.
        told.await.unwrap_or_default()
    }

    /// Every service connection, by instance.
    async fn instances(&self) -> BTreeMap<u64, Vec<ServiceView>> {
        let mut instances: BTreeMap<u64, Vec<ServiceView>> = BTreeMap::new();
        for shard in 0..self.hub.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                let page = self.page(shard, from, u32::MAX, Bound::Service).await;
                for view in page.views {
                    if let View::Service(view) = view {
                        instances.entry(view.instance).or_default().push(view);
                    }
                }
                next = page.next;
            }
        }
        instances
    }

    /// Ends a session because an operator wants it.
    fn kick(&self, session: SessionRef) {
        self.hub.post(session.shard, Msg::Kick { session });
    }
}

impl DataPlane for Plane {
    async fn edges(&self, cursor: Option<u64>, most: usize) -> Scan<EdgeRow> {
        let cursor = cursor.unwrap_or(0);
        // The upper half of a cursor is the shard, the lower one the slot.
        let (shard, from) = ((cursor >> 32) as u16, cursor as u32);
        let page = self.page(shard, from, u32::try_from(most).unwrap_or(u32::MAX), Bound::Edge).await;
        let rows = page.views.into_iter().filter_map(edge_row).collect();
        let next = page.next.map(|slot| (shard, slot));
        let next = next.or_else(|| (shard + 1 < self.hub.shards()).then_some((shard + 1, 0)));
        Scan { rows, next: next.map(|(shard, slot)| u64::from(shard) << 32 | u64::from(slot)) }
    }

    async fn edge(&self, id: u64) -> Option<EdgeRow> {
        let session = self.shared.registry.edge(id)?;
        let page = self.page(session.shard, session.slot, 1, Bound::Edge).await;
        page.views.into_iter().filter_map(edge_row).find(|row| row.edge_id == id)
    }

    async fn kick_edge(&self, id: u64) -> Result<(), NotOnline> {
        self.kick(self.shared.registry.edge(id).ok_or(NotOnline)?);
        Ok(())
    }

    async fn services(&self) -> Vec<ServiceRow> {
        let instances = self.instances().await;
        instances.values().filter_map(|connections| service_row(connections)).collect()
    }

    async fn service(&self, id: u64) -> Option<ServiceRow> {
        let instances = self.instances().await;
        let rows = instances.values().filter(|connections| connections.iter().any(|view| view.id == id));
        rows.filter_map(|connections| service_row(connections)).max_by_key(|row| row.create_time)
    }

    async fn kick_service(&self, id: u64) -> Result<(), NotOnline> {
        let instances = self.instances().await;
        let views: Vec<_> = instances.into_values().flatten().filter(|view| view.id == id).collect();
        if views.is_empty() {
            return Err(NotOnline);
        }
        for view in views {
            self.kick(view.session);
        }
        Ok(())
    }
}

fn edge_row(view: View) -> Option<EdgeRow> {
    let View::Edge(view) = view else { return None };
    Some(EdgeRow {
        edge_id: view.card.id,
        addr: view.card.addr.socket(),
        meta: Bytes::from_owner(Meta(view.card)),
        create_time: view.since,
        methods: view.methods,
    })
}

/// The metadata of an edge, where its card has it: a list that skips the edge copies nothing.
struct Meta(Arc<EdgeCard>);

impl AsRef<[u8]> for Meta {
    fn as_ref(&self) -> &[u8] {
        self.0.meta()
    }
}

/// One row of the connections of an instance: the oldest one's address, and what any of them offers.
fn service_row(connections: &[ServiceView]) -> Option<ServiceRow> {
    let oldest = connections.iter().min_by_key(|view| (view.since, view.addr))?;
    let all = |names: fn(&ServiceView) -> &[Arc<str>]| {
        let names: BTreeSet<_> = connections.iter().flat_map(names).cloned().collect();
        names.into_iter().collect()
    };
    Some(ServiceRow {
        service_id: oldest.id,
        name: Arc::clone(&oldest.name),
        addr: oldest.addr,
        create_time: oldest.since,
        methods: all(|view| view.methods.names()),
        topics: all(|view| view.topics.names()),
    })
}

impl Collect for Plane {
    fn collect(&self) -> Vec<Family> {
        families(&self.snapshot())
    }
}

impl Plane {
    /// The counts of every shard now.
    #[must_use]
    pub fn snapshot(&self) -> DataPlaneSnapshot {
        DataPlaneSnapshot {
            shards: (0..)
                .zip(&self.shared.stats)
                .map(|(id, stats)| shard(stats, self.shared.mail(id)))
                .collect(),
            memory_held: self.shared.held.load(std::sync::atomic::Ordering::Relaxed),
            memory_budget: self.shared.settings.memory,
        }
    }
}

fn shard(stats: &Stats, inbox_bytes: u64) -> ShardSnapshot {
    let sessions = |bound: Bound, protocol: Protocol| {
        let (all, geminio) = (stats.sessions[bound as usize].get(), stats.geminio[bound as usize].get());
        let count = match protocol {
            // The two are not read at the same moment.
            Protocol::Native => all.saturating_sub(geminio),
            Protocol::Geminio => geminio,
        };
        SessionCount { role: bound.name(), protocol: protocol.name(), count }
    };
    let bounds = [Bound::Edge, Bound::Service];
    let refusals = Refusal::ALL.iter().zip(&stats.refusals);
    ShardSnapshot {
        sessions: Protocol::ALL
            .iter()
            .flat_map(|protocol| bounds.map(|bound| sessions(bound, *protocol)))
            .collect(),
        accepts: stats.accepts.get(),
        piped: stats.piped.get(),
        accept_pauses: stats.accept_pauses.get(),
        refusals: refusals.map(|(why, count)| (why.name(), count.get())).collect(),
        takeovers: stats.takeovers.get(),
        takeovers_elsewhere: stats.takeovers_elsewhere.get(),
        bytes_in: stats.bytes_in.get(),
        bytes_out: stats.bytes_out.get(),
        outbox_bytes: stats.outbox_bytes.get(),
        inbox_bytes,
        stream_ends: stats.legs.get(),
        operations: OpKind::ALL
            .iter()
            .zip(&stats.operations)
            .map(|(kind, outcomes)| operation(*kind, outcomes))
            .collect(),
        late_answers: stats.late_answers.get(),
        turns: stats.turns.get(),
        turn: latency(&stats.turn),
        panics: stats.panics.get(),
        memory_cuts: stats.memory_cuts.get(),
        reopened_slots: stats.reopened_slots.get(),
        stalled_streams: stats.stalled_streams.get(),
    }
}

fn latency(times: &Times) -> Latency {
    let counts: Vec<u64> = times.buckets.iter().map(|count| count.get()).collect();
    Latency::of_powers_of_two(&counts, times.micros.get())
}

fn operation(kind: OpKind, outcomes: &Outcomes) -> OperationSnapshot {
    let codes = std::iter::once(None).chain(ErrorCode::ALL.map(Some));
    OperationSnapshot {
        kind,
        outcomes: codes.map(|code| (code, outcomes.count(code))).collect(),
        latency: latency(&outcomes.latency),
    }
}
