//! Look-ups of single edges by many at once: those that arrive while others are under way are asked in one command.
//!
//! ```text
//!   few under way: caller ────────────────────────────▶ servers
//!   many:          caller ─▶ queue ─▶ task: a batch ─▶ servers
//! ```
//!
//! A command costs the client library and Redis more than the look-up in it. Nobody waits for company: a batch leaves when it is full,
//! or as soon as few are under way.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fred::prelude::Value;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};

use super::{bytes, keys::edge_key, servers::Servers};
use crate::{record::EdgeRecord, store::StoreError};
use frontier_api::bucket::edge_bucket;

/// Look-ups that go to the servers by themselves.
const ALONE: usize = 2;
/// Batches under way beyond which the next one waits until it is full.
const FEW: usize = 2;
/// Look-ups of a batch: it keeps Redis from others for some 50 µs.
pub(super) const FULL: usize = 64;
/// Batches under way at most.
const BATCHES: usize = 32;

type Found = Result<Option<EdgeRecord>, StoreError>;

/// Where callers leave what they look for.
pub(super) struct Lookups {
    alone: AtomicUsize,
    queue: mpsc::Sender<Lookup>,
}

/// The other end: [`run`](Queue::run) it.
pub(super) struct Queue {
    servers: Arc<Servers>,
    queue: mpsc::Receiver<Lookup>,
    /// Who waited that long for others gets an error.
    patience: Duration,
}

struct Lookup {
    edge: u64,
    since: Instant,
    tell: oneshot::Sender<Found>,
}

/// One of those that go by themselves.
struct Alone<'a>(&'a AtomicUsize);

// === impl Lookups ===

impl Lookups {
    /// With at most so many waiting, and so long.
    pub(super) fn new(servers: Arc<Servers>, capacity: usize, patience: Duration) -> (Self, Queue) {
        let (sender, queue) = mpsc::channel(capacity.max(1));
        (Self { alone: AtomicUsize::new(0), queue: sender }, Queue { servers, queue, patience })
    }

    /// Where an edge is.
    pub(super) async fn find(&self, servers: &Servers, edge: u64) -> Found {
        if let Some(_alone) = Alone::new(&self.alone) {
            let found = servers.find(vec![field(edge)]).await.pop();
            return found.unwrap_or(Err(StoreError::Busy)).map(read);
        }
        let (tell, told) = oneshot::channel();
        let lookup = Lookup { edge, since: Instant::now(), tell };
        self.queue.try_send(lookup).map_err(|_| StoreError::Busy)?;
        // It is told as long as the store lives.
        told.await.unwrap_or(Err(StoreError::Busy))
    }
}

// === impl Queue ===

impl Queue {
    /// Until the store is dropped.
    pub(super) async fn run(mut self) {
        let mut waiting: VecDeque<Lookup> = VecDeque::new();
        let mut under_way = FuturesUnordered::new();
        loop {
            while waiting.len() >= FULL && under_way.len() < BATCHES
                || !waiting.is_empty() && under_way.len() < FEW
            {
                let batch: Vec<Lookup> = waiting.drain(..waiting.len().min(FULL)).collect();
                under_way.push(self.send(batch));
            }
            // Beyond that they stay in the queue, which is bounded.
            let room = FULL.saturating_sub(waiting.len());
            tokio::select! {
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                more = receive(&mut self.queue, &mut waiting, room), if room > 0 => {
                    if !more {
                        return;
                    }
                }
            }
        }
    }

    fn send(&self, batch: Vec<Lookup>) -> impl Future<Output = ()> + use<> {
        let (servers, patience) = (Arc::clone(&self.servers), self.patience);
        async move {
            let (late, batch): (Vec<Lookup>, Vec<Lookup>) = batch
                .into_iter()
                .filter(|lookup| !lookup.tell.is_closed())
                .partition(|lookup| lookup.since.elapsed() >= patience);
            for lookup in late {
                lookup.tell(Err(StoreError::Unreachable("it does not answer in time".to_owned())));
            }
            if batch.is_empty() {
                return;
            }
            let fields = batch.iter().map(|lookup| field(lookup.edge)).collect();
            for (lookup, answer) in batch.into_iter().zip(servers.find(fields).await) {
                lookup.tell(answer.map(read));
            }
        }
    }
}

// === impl Lookup ===

impl Lookup {
    fn tell(self, found: Found) {
        // Who does not wait any more does not care.
        let _ = self.tell.send(found);
    }
}

// === impl Alone ===

impl<'a> Alone<'a> {
    fn new(count: &'a AtomicUsize) -> Option<Self> {
        let more = |count: usize| (count < ALONE).then_some(count + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(count))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes what is there, or waits for one; `false` when no more can come.
async fn receive(queue: &mut mpsc::Receiver<Lookup>, waiting: &mut VecDeque<Lookup>, room: usize) -> bool {
    let Some(first) = queue.recv().await else { return false };
    waiting.push_back(first);
    for _ in 1..room {
        let Ok(next) = queue.try_recv() else { break };
        waiting.push_back(next);
    }
    true
}

/// Where an edge is looked up.
pub(super) fn field(edge: u64) -> (String, Value) {
    (edge_key(edge_bucket(edge)), bytes(&edge.to_be_bytes()))
}

/// What an answer says of an edge.
pub(super) fn read(answer: Value) -> Option<EdgeRecord> {
    answer.as_bytes().and_then(EdgeRecord::decode)
}
