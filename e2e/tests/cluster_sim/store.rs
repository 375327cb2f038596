//! The store as the world sees it: one memory behind a handle for each atlas, with the weather of a network in between.

use std::sync::Arc;
use std::time::Duration;

use frontier_api::bucket::{edge_bucket, service_bucket};
use frontier_atlas::record::{EdgeRecord, Instance, ServiceRecord, StoreTime};
use frontier_atlas::store::{
    Change, Cut, EdgeBucket, EdgeOutcome, EdgeWrite, Gateway, Joined, Memory, Renewed, Roster, ServiceBucket,
    ServiceWrite, Store, StoreError,
};
use frontier_gateway::sim::rng::Rng;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep};

/// When the world begins, in milliseconds since 1970.
pub(crate) const BEGIN: u64 = 1_800_000_000_000;

/// What all handles share.
pub(crate) struct Keep {
    memory: Mutex<Arc<Memory>>,
    begin: Instant,
    /// How far its clock has stepped so far, in milliseconds.
    stepped: Mutex<u64>,
    weather: Mutex<Weather>,
    handles: Mutex<Vec<(usize, broadcast::Sender<Change>)>>,
    next: Mutex<usize>,
}

struct Weather {
    rng: Rng,
    /// Nobody reaches it before.
    down_until: Instant,
    /// In a thousand operations: fail before, fail after, happen later though they have failed.
    failures: u64,
}

/// One atlas's connection.
pub(crate) struct Handle {
    id: usize,
    keep: Arc<Keep>,
    changes: broadcast::Sender<Change>,
}

/// What happens to an operation.
enum Fate {
    Done,
    /// It is done, and nobody hears of it.
    Unheard,
    /// It is done later, and counts as failed.
    Late(Duration),
}

// === impl Keep ===

impl Keep {
    pub(crate) fn new(rng: Rng) -> Arc<Self> {
        let begin = Instant::now();
        Arc::new(Self {
            memory: Mutex::new(Arc::new(Memory::starting_at(StoreTime(BEGIN)))),
            begin,
            stepped: Mutex::default(),
            weather: Mutex::new(Weather { rng, down_until: begin, failures: 0 }),
            handles: Mutex::default(),
            next: Mutex::default(),
        })
    }

    /// A new connection.
    pub(crate) fn connect(self: &Arc<Self>) -> Handle {
        let mut next = self.next.lock();
        *next += 1;
        let changes = broadcast::Sender::new(4_096);
        self.handles.lock().push((*next, changes.clone()));
        Handle { id: *next, keep: Arc::clone(self), changes }
    }

    /// Without weather: for whoever looks from outside.
    pub(crate) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory.lock())
    }

    /// Nobody reaches it for a while; when they do again they have new connections.
    pub(crate) fn down(self: &Arc<Self>, time: Duration) {
        self.weather.lock().down_until = Instant::now() + time;
        self.announce(None, [Change::Everything]);
    }

    pub(crate) fn set_failures(&self, per_mille: u64) {
        self.weather.lock().failures = per_mille;
    }

    /// Everything in it is gone.
    pub(crate) fn wipe(&self) {
        let now = self.now();
        *self.memory.lock() = Arc::new(Memory::starting_at(now));
        self.announce(None, [Change::Everything]);
    }

    /// Its clock, which also a wipe does not turn back.
    pub(crate) fn now(&self) -> StoreTime {
        StoreTime(BEGIN)
            .after(u64::try_from(self.begin.elapsed().as_millis()).unwrap() + *self.stepped.lock())
    }

    /// Its clock goes ahead, as that of another server may after a failover.
    pub(crate) fn step(&self, ahead: Duration) {
        *self.stepped.lock() += u64::try_from(ahead.as_millis()).unwrap();
        self.memory().set_time(self.now());
    }

    /// Somebody else changes something.
    pub(crate) fn announce(&self, but: Option<usize>, changes: impl IntoIterator<Item = Change> + Clone) {
        for (_, handle) in self.handles.lock().iter().filter(|(id, _)| Some(*id) != but) {
            for change in changes.clone() {
                let _ = handle.send(change);
            }
        }
    }

    /// A hand writes or removes a record.
    pub(crate) async fn forge(&self, edge: u64, record: Option<EdgeRecord>) {
        let (memory, end) = (self.memory(), StoreTime(u64::MAX >> 20));
        if let Some(current) = memory.edges(&[edge]).await.unwrap()[0] {
            memory.write_edges(&[EdgeWrite::Offline { edge, claim: current.claim }], end).await.unwrap();
        }
        if let Some(record) = record {
            memory.write_edges(&[EdgeWrite::Online { edge, record }], end).await.unwrap();
        }
        self.announce(None, [Change::Edges(edge_bucket(edge))]);
    }
}

// === impl Handle ===

impl Drop for Handle {
    fn drop(&mut self) {
        self.keep.handles.lock().retain(|(id, _)| *id != self.id);
    }
}

impl Handle {
    /// The way to the store, for an operation that changes something or not.
    async fn go(&self, writes: bool) -> Result<Fate, StoreError> {
        let unreachable = || StoreError::Unreachable("the weather".to_owned());
        let (delay, down, fate) = {
            let mut weather = self.keep.weather.lock();
            let delay = Duration::from_micros(weather.rng.between(50, 2_000));
            let down = weather.down_until > Instant::now();
            let failures = weather.failures;
            let fate = match weather.rng.below(3_000) {
                at if at < failures => None,
                at if at < 2 * failures => Some(Fate::Unheard),
                at if at < 3 * failures && writes => {
                    Some(Fate::Late(Duration::from_millis(weather.rng.between(1, 2_000))))
                }
                _ => Some(Fate::Done),
            };
            (delay, down, fate)
        };
        sleep(delay).await;
        if down {
            sleep(Duration::from_millis(200)).await;
            return Err(unreachable());
        }
        fate.ok_or_else(unreachable)
    }

    async fn operate<T, F>(
        &self,
        changes: Vec<Change>,
        writes: bool,
        operation: impl Fn(Arc<Memory>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
        T: Send,
    {
        let unreachable = || Err(StoreError::Unreachable("no answer".to_owned()));
        match self.go(writes).await? {
            Fate::Done => {
                let done = operation(self.keep.memory()).await;
                self.keep.announce(Some(self.id), changes);
                done
            }
            Fate::Unheard => {
                let _ = operation(self.keep.memory()).await;
                self.keep.announce(Some(self.id), changes);
                unreachable()
            }
            Fate::Late(later) => {
                let keep = Arc::clone(&self.keep);
                #[allow(clippy::disallowed_methods, reason = "ends with the runtime of the seed")]
                tokio::spawn(async move {
                    sleep(later).await;
                    let _ = operation(keep.memory()).await;
                    // Whoever asked for it takes it for somebody else's, too: it had failed.
                    keep.announce(None, changes);
                });
                unreachable()
            }
        }
    }
}

fn of_edges(edges: impl IntoIterator<Item = u64>) -> Vec<Change> {
    edges.into_iter().map(|edge| Change::Edges(edge_bucket(edge))).collect()
}

fn of_edges_in(buckets: impl IntoIterator<Item = u16>) -> Vec<Change> {
    buckets.into_iter().map(Change::Edges).collect()
}

impl Store for Handle {
    async fn join(&self, gateway: &Gateway, lease: Duration, back: bool) -> Result<Joined, StoreError> {
        let gateway = gateway.clone();
        let join = move |memory: Arc<Memory>| {
            let gateway = gateway.clone();
            async move { memory.join(&gateway, lease, back).await }
        };
        self.operate(vec![Change::Members], true, join).await
    }

    async fn renew(
        &self,
        instance: Instance,
        edges: u64,
        services: u64,
        lease: Duration,
    ) -> Result<Renewed, StoreError> {
        let renew =
            move |memory: Arc<Memory>| async move { memory.renew(instance, edges, services, lease).await };
        self.operate(vec![Change::Members], true, renew).await
    }

    async fn leave(&self, instance: Instance, stream: u32) -> Result<(), StoreError> {
        let leave = move |memory: Arc<Memory>| async move { memory.leave(instance, stream).await };
        self.operate(vec![Change::Members], true, leave).await
    }

    async fn forget(&self, instance: Instance) -> Result<(), StoreError> {
        let forget = move |memory: Arc<Memory>| async move { memory.forget(instance).await };
        self.operate(vec![Change::Members], true, forget).await
    }

    async fn members(&self) -> Result<Roster, StoreError> {
        self.operate(Vec::new(), false, |memory: Arc<Memory>| async move { memory.members().await }).await
    }

    async fn write_edges(
        &self,
        writes: &[EdgeWrite],
        horizon: StoreTime,
    ) -> Result<Vec<EdgeOutcome>, StoreError> {
        let writes = Arc::new(writes.to_vec());
        let changes = of_edges(writes.iter().map(EdgeWrite::edge));
        let write = move |memory: Arc<Memory>| {
            let writes = Arc::clone(&writes);
            async move { memory.write_edges(&writes, horizon).await }
        };
        self.operate(changes, true, write).await
    }

    async fn edges(&self, edges: &[u64]) -> Result<Vec<Option<EdgeRecord>>, StoreError> {
        let edges = Arc::new(edges.to_vec());
        let read = move |memory: Arc<Memory>| {
            let edges = Arc::clone(&edges);
            async move { memory.edges(&edges).await }
        };
        self.operate(Vec::new(), false, read).await
    }

    async fn edge_buckets(&self, buckets: &[u16]) -> Result<Vec<EdgeBucket>, StoreError> {
        let buckets = Arc::new(buckets.to_vec());
        let read = move |memory: Arc<Memory>| {
            let buckets = Arc::clone(&buckets);
            async move { memory.edge_buckets(&buckets).await }
        };
        self.operate(Vec::new(), false, read).await
    }

    async fn write_services(&self, writes: &[ServiceWrite]) -> Result<(), StoreError> {
        let writes = Arc::new(writes.to_vec());
        let changes = writes.iter().map(|write| Change::Services(service_bucket(write.service()))).collect();
        let write = move |memory: Arc<Memory>| {
            let writes = Arc::clone(&writes);
            async move { memory.write_services(&writes).await }
        };
        self.operate(changes, true, write).await
    }

    async fn service_buckets(&self, buckets: &[u16]) -> Result<Vec<ServiceBucket>, StoreError> {
        let buckets = Arc::new(buckets.to_vec());
        let read = move |memory: Arc<Memory>| {
            let buckets = Arc::clone(&buckets);
            async move { memory.service_buckets(&buckets).await }
        };
        self.operate(Vec::new(), false, read).await
    }

    async fn replace_edges(
        &self,
        instance: Instance,
        stream: u32,
        buckets: &[(u16, Vec<(u64, EdgeRecord)>)],
        horizon: StoreTime,
    ) -> Result<Vec<(u64, EdgeOutcome)>, StoreError> {
        let buckets = Arc::new(buckets.to_vec());
        // A real store tells of each; here so many are told of as one.
        let changes = if buckets.len() > 1_000 {
            vec![Change::Everything]
        } else {
            of_edges_in(buckets.iter().map(|(bucket, _)| *bucket))
        };
        let replace = move |memory: Arc<Memory>| {
            let buckets = Arc::clone(&buckets);
            async move { memory.replace_edges(instance, stream, &buckets, horizon).await }
        };
        self.operate(changes, true, replace).await
    }

    async fn replace_services(
        &self,
        instance: Instance,
        buckets: &[(u16, Vec<(u64, ServiceRecord)>)],
    ) -> Result<(), StoreError> {
        let buckets = Arc::new(buckets.to_vec());
        let changes = buckets.iter().map(|(bucket, _)| Change::Services(*bucket)).collect();
        let replace = move |memory: Arc<Memory>| {
            let buckets = Arc::clone(&buckets);
            async move { memory.replace_services(instance, &buckets).await }
        };
        self.operate(changes, true, replace).await
    }

    async fn leave_cuts(&self, instance: Instance, cuts: &[Cut]) -> Result<(), StoreError> {
        let cuts = Arc::new(cuts.to_vec());
        let leave = move |memory: Arc<Memory>| {
            let cuts = Arc::clone(&cuts);
            async move { memory.leave_cuts(instance, &cuts).await }
        };
        self.operate(vec![Change::Cuts(instance)], true, leave).await
    }

    async fn take_cuts(&self, instance: Instance) -> Result<Vec<Cut>, StoreError> {
        // Not done unheard: word that is taken and not delivered is found by comparing buckets, which the tests of a store that loses
        // acknowledged writes do.
        self.operate(
            Vec::new(),
            true,
            move |memory: Arc<Memory>| async move { memory.take_cuts(instance).await },
        )
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.operate(Vec::new(), false, |memory: Arc<Memory>| async move { memory.ping().await }).await
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}
