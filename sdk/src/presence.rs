//! Who is online: events about edges, their order, and snapshots.
//!
//! The gateway may report that one session of an edge went and another came in one breath, and a pool brings such events by several
//! connections. Handlers of a user must not see them overtake each other, so events about one edge run one after the other in the order
//! in which they came, and an `offline` of an older epoch than the `online` seen last is dropped. When sessions replace each other within
//! moments, the end of one may be told before its beginning: then the beginning is dropped.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use frontier_wire::native::presence;
use parking_lot::Mutex;

use crate::{
    handler::{Dispatcher, Job},
    headers::Headers,
    ids::EdgeId,
};

/// How many edges per generation the newest epoch is remembered of. What is guarded against is a race of moments, in which not many
/// more edges take part; twice (of the sessions that began, and of those that ended) 2 × 65,536 × 16 bytes is what it costs at most.
const REMEMBERED: usize = 65_536;

/// An edge as services see it.
///
/// ```
/// # frontier::testing::scene::play(async |svc: frontier::Service| {
/// svc.on_edge_online(|edge| async move {
///     println!("edge {} from {} says {:?}", edge.id(), edge.addr(), edge.meta());
///     Ok(())
/// })
/// .await
/// # });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeInfo {
    id: EdgeId,
    epoch: u64,
    meta: Bytes,
    addr: Box<str>,
    labels: Headers,
}

/// Events under way, and the epochs seen.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Edges with an event being handled, and what waits behind it.
    busy: Mutex<HashMap<u64, VecDeque<Job>>>,
    seen: Mutex<Epochs>,
    ended: Mutex<Epochs>,
}

/// An event about an edge is being handled; dropped, the next one begins.
#[derive(Debug)]
pub(crate) struct Turn {
    edge: u64,
    events: Arc<Events>,
    dispatcher: Arc<Dispatcher>,
}

/// The newest epoch of the edges heard of lately, in two generations.
#[derive(Debug, Default)]
struct Epochs {
    young: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
}

// === impl EdgeInfo ===

impl EdgeInfo {
    /// The edge's ID. For [`on_edge_id`](crate::Service::on_edge_id) the one it wishes, 0 if none.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::EdgeInfo| {
    /// println!("{}", edge.id());
    /// # });
    /// ```
    #[must_use]
    pub const fn id(&self) -> EdgeId {
        self.id
    }

    /// The epoch of its session: a later session of the same edge has a greater one.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::EdgeInfo| {
    /// println!("{}", edge.epoch());
    /// # });
    /// ```
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the edge said of itself by [`EdgeBuilder::meta`](crate::EdgeBuilder::meta).
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::EdgeInfo| {
    /// println!("{:?}", edge.meta());
    /// # });
    /// ```
    #[must_use]
    pub const fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// Address and port it connects from, as the gateway sees them.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::EdgeInfo| {
    /// println!("{}", edge.addr());
    /// # });
    /// ```
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Its labels.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::EdgeInfo| {
    /// println!("{:?}", edge.labels().get("site"));
    /// # });
    /// ```
    #[must_use]
    pub const fn labels(&self) -> &Headers {
        &self.labels
    }

    pub(crate) fn from_wire(info: &presence::EdgeInfo<'_>) -> Self {
        Self {
            id: info.edge.into(),
            epoch: info.epoch,
            meta: Bytes::copy_from_slice(info.meta),
            addr: info.addr.into(),
            labels: info.labels().collect(),
        }
    }
}

// === impl Events ===

impl Events {
    /// Runs a job about an edge, after those about the same edge that came before. Bounded as the dispatcher's jobs are: each is an
    /// operation the session has admitted.
    pub(crate) fn submit(self: &Arc<Self>, edge: u64, job: Job, dispatcher: &Arc<Dispatcher>) {
        {
            let mut busy = self.busy.lock();
            if let Some(waiting) = busy.get_mut(&edge) {
                waiting.push_back(job);
                return;
            }
            busy.insert(edge, VecDeque::new());
        }
        self.start(edge, job, dispatcher);
    }

    fn start(self: &Arc<Self>, edge: u64, mut job: Job, dispatcher: &Arc<Dispatcher>) {
        job.turn = Some(Turn { edge, events: self.clone(), dispatcher: dispatcher.clone() });
        dispatcher.submit(job);
    }

    /// An edge is online with this epoch.
    pub(crate) fn saw_online(&self, edge: u64, epoch: u64) {
        self.seen.lock().put(edge, epoch);
    }

    /// The session of this epoch is over.
    pub(crate) fn saw_offline(&self, edge: u64, epoch: u64) {
        self.ended.lock().put(edge, epoch);
    }

    /// Whether an `online` is about the very session that was told to be over last. Not about any older one: the gateways that a service
    /// is connected to may have clocks that differ.
    pub(crate) fn is_over(&self, edge: u64, epoch: u64) -> bool {
        self.ended.lock().get(edge) == Some(epoch)
    }

    /// Whether an `offline` of this epoch is about a session older than the one seen online.
    pub(crate) fn is_stale(&self, edge: u64, epoch: u64) -> bool {
        self.seen.lock().get(edge).is_some_and(|seen| epoch < seen)
    }
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut busy = self.events.busy.lock();
            let next = busy.get_mut(&self.edge).and_then(VecDeque::pop_front);
            if next.is_none() {
                busy.remove(&self.edge);
            }
            next
        };
        if let Some(job) = next {
            self.events.start(self.edge, job, &self.dispatcher);
        }
    }
}

// === impl Epochs ===

impl Epochs {
    fn get(&self, edge: u64) -> Option<u64> {
        self.young.get(&edge).or_else(|| self.old.get(&edge)).copied()
    }

    fn put(&mut self, edge: u64, epoch: u64) {
        let epoch = self.get(edge).map_or(epoch, |seen| seen.max(epoch));
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&edge) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(edge, epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offline_older_than_the_online_seen_is_stale() {
        let events = Events::default();
        events.saw_online(7, 20);
        assert!(events.is_stale(7, 19));
        assert!(!events.is_stale(7, 20));
        assert!(!events.is_stale(7, 21));
        assert!(!events.is_stale(8, 1), "of an edge never seen nothing is known");
    }

    #[test]
    fn an_online_behind_its_own_offline_is_over_and_no_other_is() {
        let events = Events::default();
        events.saw_offline(7, 20);
        assert!(events.is_over(7, 20));
        assert!(!events.is_over(7, 19) && !events.is_over(7, 21) && !events.is_over(8, 20));
    }

    #[test]
    fn a_late_online_does_not_take_a_newer_epoch_back() {
        let events = Events::default();
        events.saw_online(7, 20);
        events.saw_online(7, 10);
        assert!(events.is_stale(7, 15));
    }

    #[test]
    fn memory_of_epochs_is_bounded_and_keeps_the_latest() {
        let mut epochs = Epochs::default();
        for edge in 0..3 * REMEMBERED as u64 {
            epochs.put(edge, edge + 1);
        }
        assert!(epochs.young.len() + epochs.old.len() <= 2 * REMEMBERED);
        let last = 3 * REMEMBERED as u64 - 1;
        assert_eq!(epochs.get(last), Some(last + 1));
        assert_eq!(epochs.get(0), None);
    }
}
