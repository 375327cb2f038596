//! An atlas by hand, and a gateway without shards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use frontier_api::{
    bucket::{Digest, EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket, service_bucket},
    registry::{
        Ack, FromGateway, Hello, RenewRequest, RenewResponse, ToGateway, Welcome, from_gateway, to_gateway,
    },
};
use frontier_ops::readiness::Readiness;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    atlas::{Dial, Identity, Link, LinkError, OwnSessions, Renew, Reporter, Status},
    core::{
        SessionRef, Settings, Shared,
        card::EdgeCard,
        identity::OpenHouse,
        message::Msg,
        registry::{InstanceRef, Registry, Seat},
    },
};

/// Longer than anything that is waited for takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway that reports, and the atlas it reports to.
pub(super) struct World {
    pub(super) shared: Arc<Shared>,
    pub(super) status: Arc<Status>,
    pub(super) readiness: Readiness,
    pub(super) posted: Arc<Mutex<Vec<Msg>>>,
    pub(super) stop: CancellationToken,
    pub(super) reporter: JoinHandle<()>,
    attached: mpsc::Receiver<Attached>,
    refusal: Arc<Mutex<Option<LinkError>>>,
    pub(super) dials: Arc<Mutex<Vec<Instant>>>,
    begin: Instant,
}

/// Atlas's end of a link.
pub(super) struct Attached {
    pub(super) hello: Hello,
    pub(super) said: mpsc::Receiver<FromGateway>,
    pub(super) say: mpsc::Sender<Result<ToGateway, LinkError>>,
    pub(super) renewals: mpsc::Receiver<Asked>,
    /// What was said.
    pub(super) seen: Seen,
}

/// A renewal that waits for its answer.
pub(super) struct Asked {
    pub(super) request: RenewRequest,
    pub(super) answer: oneshot::Sender<Result<RenewResponse, LinkError>>,
}

/// What a gateway has said it has.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) seq: u64,
    pub(super) edges: BTreeMap<u64, u64>,
    pub(super) services: BTreeMap<u64, (u64, String)>,
    pub(super) edge_buckets: BTreeSet<u16>,
    pub(super) service_buckets: BTreeSet<u16>,
    /// Entries of each message.
    pub(super) entries: Vec<usize>,
}

struct FakeDial {
    attached: mpsc::Sender<Attached>,
    refusal: Arc<Mutex<Option<LinkError>>>,
    dials: Arc<Mutex<Vec<Instant>>>,
}

struct FakeRenew(mpsc::Sender<Asked>);

// === impl World ===

impl World {
    pub(super) fn new() -> Self {
        let settings = Settings { cluster: true, ..Settings::default() };
        let shared = Arc::new(Shared::new(settings, 1, Arc::new(OpenHouse)));
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        let status = Arc::new(Status::new(readiness.clone()));
        let (posted, refusal, dials) = (Arc::<Mutex<Vec<Msg>>>::default(), Arc::default(), Arc::default());
        let (send, attached) = mpsc::channel(16);
        let dial = FakeDial { attached: send, refusal: Arc::clone(&refusal), dials: Arc::clone(&dials) };
        let (post, begin) = (Arc::clone(&posted), Instant::now());
        let source = OwnSessions::new(
            Arc::clone(&shared),
            move |_, msg| post.lock().push(msg),
            move || u64::try_from(begin.elapsed().as_micros()).unwrap(),
        );
        let identity = Identity {
            instance: [7; 16],
            frontier_id: "frontier-1".into(),
            service_addr: "10.0.0.1:30011".into(),
            edge_addr: "10.0.0.1:30012".into(),
        };
        let reporter = Reporter::new(dial, Arc::new(source.unwrap()), identity, Arc::clone(&status), 1);
        #[expect(clippy::disallowed_methods, reason = "the world keeps its handle")]
        let reporter = tokio::spawn(reporter.run(stop.clone()));
        Self { shared, status, readiness, posted, stop, reporter, attached, refusal, dials, begin }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// An edge comes, or comes again.
    pub(super) fn claim(&self, id: u64) -> u64 {
        let epoch = self.shared.next_epoch(1, 0);
        let card = Arc::new(EdgeCard::new((id, epoch), ([10, 1, 1, 1], 9).into(), &[], []));
        self.registry().claim_edge(session(0), &card, u64::MAX).unwrap();
        epoch
    }

    pub(super) fn release(&self, id: u64) {
        self.registry().release_edge(id, session(0));
    }

    pub(super) fn join(&self, id: u64, name: &str) {
        let addr = std::net::SocketAddr::from(([10, 1, 1, 2], 9)).into();
        let seat = Seat { session: session(1), index: 0, addr, epoch: self.shared.next_epoch(1, 0) };
        let instance = InstanceRef { key: id, service_id: id };
        self.registry().join_pool(seat, &instance, &name.into()).unwrap();
    }

    pub(super) fn leave(&self, id: u64) {
        self.registry().leave_pool(session(1), &InstanceRef { key: id, service_id: id });
    }

    /// From now on links are refused so, or made.
    pub(super) fn refuse(&self, why: Option<LinkError>) {
        *self.refusal.lock() = why;
    }

    /// The next link, before its Welcome.
    pub(super) async fn attached(&mut self) -> Attached {
        timeout(PATIENCE, self.attached.recv()).await.expect("a link").expect("the reporter runs")
    }

    /// The next link, welcomed.
    pub(super) async fn welcomed(&mut self) -> Attached {
        let link = self.attached().await;
        link.tell(to_gateway::Kind::Welcome(self.welcome())).await;
        link
    }

    pub(super) fn welcome(&self) -> Welcome {
        Welcome {
            version: 1,
            stream: 3,
            time_ms: 1_000_000 + self.millis(),
            lease_ms: 4_000,
            renew_ms: 1_000,
            entries: 100,
            unacknowledged: 4,
        }
    }

    /// Since the begin.
    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap()
    }

    /// What is here.
    pub(super) fn here(&self) -> BTreeMap<u64, u64> {
        let mut here = BTreeMap::new();
        self.registry().each_edge(|id| {
            here.insert(id, self.registry().here(id).unwrap().epoch);
        });
        here
    }

    /// Waits until something is so.
    pub(super) async fn until(&self, what: impl Fn(&Self) -> bool) {
        let wait = async {
            while !what(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("it comes about");
    }

    pub(super) fn degraded(&self) -> Option<String> {
        self.readiness.report().degraded.into_iter().find(|(part, _)| part == "atlas").map(|(_, why)| why)
    }
}

fn session(slot: u32) -> SessionRef {
    SessionRef { shard: 0, generation: 0, slot }
}

// === impl Attached ===

impl Attached {
    pub(super) async fn tell(&self, kind: to_gateway::Kind) {
        drop(self.say.send(Ok(ToGateway { kind: Some(kind) })).await);
    }

    pub(super) async fn ack(&self, seq: u64) {
        self.tell(to_gateway::Kind::Ack(Ack { seq })).await;
    }

    /// The next message, noted.
    pub(super) async fn heard(&mut self) -> from_gateway::Kind {
        let message = timeout(PATIENCE, self.said.recv()).await.expect("a message").expect("the link stands");
        let kind = message.kind.expect("a kind");
        self.seen.note(&kind);
        kind
    }

    /// Hears and acknowledges until so much was said as a whole.
    pub(super) async fn hear_all(&mut self) {
        while self.seen.edge_buckets.len() < usize::from(EDGE_BUCKETS)
            || self.seen.service_buckets.len() < usize::from(SERVICE_BUCKETS)
        {
            self.heard().await;
            self.ack(self.seen.seq).await;
        }
    }

    /// Hears and acknowledges, renewals included, until what was said is this.
    pub(super) async fn hear_until(&mut self, edges: &BTreeMap<u64, u64>) {
        let until = Instant::now() + PATIENCE;
        while self.seen.edges != *edges {
            tokio::select! {
                message = self.said.recv() => {
                    self.seen.note(&message.expect("the link stands").kind.expect("a kind"));
                    self.ack(self.seen.seq).await;
                }
                asked = self.renewals.recv() => self.renewed(asked.unwrap()),
                () = tokio::time::sleep_until(until) => panic!("it does not come about"),
            }
        }
    }

    pub(super) async fn renewal(&mut self) -> Asked {
        timeout(PATIENCE, self.renewals.recv()).await.expect("a renewal").expect("the link stands")
    }

    /// Checks the digests of a renewal against what was said up to its number, and says yes.
    pub(super) fn renewed(&mut self, asked: Asked) {
        while self.seen.seq < asked.request.seq {
            let message = self.said.try_recv().expect("messages come before renewals that include them");
            self.seen.note(&message.kind.unwrap());
        }
        // What was said behind it is not in it.
        assert_eq!(self.seen.seq, asked.request.seq);
        self.seen.check(&asked.request);
        let time_ms = 1;
        drop(asked.answer.send(Ok(RenewResponse { time_ms, known: true })));
    }
}

// === impl Seen ===

impl Seen {
    fn note(&mut self, kind: &from_gateway::Kind) {
        let (seq, edges, services) = match kind {
            from_gateway::Kind::Hello(_) => panic!("a second Hello"),
            from_gateway::Kind::Changes(changes) => {
                assert!(changes.edges.len() + changes.services.len() > 0, "an empty message");
                for edge in &changes.edges {
                    let bucket = edge_bucket(edge.id);
                    assert!(self.edge_buckets.contains(&bucket), "bucket {bucket} was not said yet");
                }
                (changes.seq, &changes.edges, &changes.services)
            }
            from_gateway::Kind::Buckets(buckets) => {
                assert!(buckets.edge_buckets.len() + buckets.service_buckets.len() > 0, "an empty message");
                let edge_buckets: BTreeSet<u16> =
                    buckets.edge_buckets.iter().map(|bucket| u16::try_from(*bucket).unwrap()).collect();
                let service_buckets: BTreeSet<u16> =
                    buckets.service_buckets.iter().map(|bucket| u16::try_from(*bucket).unwrap()).collect();
                assert!(buckets.edges.iter().all(|edge| edge_buckets.contains(&edge_bucket(edge.id))));
                self.edges.retain(|id, _| !edge_buckets.contains(&edge_bucket(*id)));
                self.services.retain(|id, _| !service_buckets.contains(&service_bucket(*id)));
                self.edge_buckets.extend(edge_buckets);
                self.service_buckets.extend(service_buckets);
                (buckets.seq, &buckets.edges, &buckets.services)
            }
        };
        assert_eq!(seq, self.seq + 1);
        self.seq = seq;
        self.entries.push(edges.len() + services.len());
        for edge in edges {
            if edge.addr.is_empty() {
                let before = self.edges.remove(&edge.id);
                assert!(
                    before.is_none_or(|before| before <= edge.epoch),
                    "gone, by an epoch that is too small"
                );
            } else {
                assert_eq!(edge.addr, [10, 1, 1, 1, 0, 9]);
                self.edges.insert(edge.id, edge.epoch);
            }
        }
        for service in services {
            if service.addr.is_empty() {
                self.services.remove(&service.id);
            } else {
                self.services.insert(service.id, (service.epoch, service.name.clone()));
            }
        }
    }

    fn check(&self, request: &RenewRequest) {
        let mut by_bucket: BTreeMap<u32, Digest> = BTreeMap::new();
        for (id, epoch) in &self.edges {
            by_bucket.entry(edge_bucket(*id).into()).or_default().add(*id, *epoch);
        }
        for told in &request.edge_digests {
            let digest = by_bucket.get(&told.bucket).copied().unwrap_or_default();
            assert_eq!((digest.count, digest.xor), (told.count, told.xor), "bucket {}", told.bucket);
            assert!(self.edge_buckets.contains(&u16::try_from(told.bucket).unwrap()), "not said yet");
        }
        for told in &request.service_digests {
            let here = self.services.iter().filter(|(id, _)| u32::from(service_bucket(**id)) == told.bucket);
            let digest = Digest::of(here.map(|(id, (epoch, _))| (*id, *epoch)));
            assert_eq!((digest.count, digest.xor), (told.count, told.xor), "services {}", told.bucket);
        }
    }
}

// === impl FakeDial ===

impl Dial for FakeDial {
    type Hear = BoxStream<'static, Result<ToGateway, LinkError>>;
    type Renew = FakeRenew;

    async fn dial(&self, _: u64, hello: Hello) -> Result<Link<Self::Hear, FakeRenew>, LinkError> {
        self.dials.lock().push(Instant::now());
        if let Some(why) = self.refusal.lock().clone() {
            return Err(why);
        }
        let (tell, said) = mpsc::channel(Link::<Self::Hear, FakeRenew>::ROOM);
        let (say, mut hear) = mpsc::channel(1_000);
        let (renew, renewals) = mpsc::channel(8);
        let attached = Attached { hello, said, say, renewals, seen: Seen::default() };
        self.attached.send(attached).await.expect("the test lives");
        let hear = Box::pin(futures::stream::poll_fn(move |task| hear.poll_recv(task)));
        Ok(Link { tell, hear, renew: Arc::new(FakeRenew(renew)) })
    }
}

impl Renew for FakeRenew {
    async fn renew(&self, request: RenewRequest) -> Result<RenewResponse, LinkError> {
        let (answer, answered) = oneshot::channel();
        drop(self.0.send(Asked { request, answer }).await);
        match answered.await {
            Ok(answer) => answer,
            // Nobody says anything.
            Err(_) => std::future::pending().await,
        }
    }
}
