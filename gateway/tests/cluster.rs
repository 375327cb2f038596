//! Gateways and an atlas in one process: what services ask atlas for is what is here, whatever happens to the link.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use frontier::{Edge, Service};
use frontier_api::bucket::service_bucket;
use frontier_atlas::{
    directory::Directory,
    links::{Links, Terms, grpc::Grpc},
    record::{EdgeRecord, StoreTime},
    store::{EdgeWrite, Memory, Store},
    watch::Watchers,
};
use frontier_gateway::{
    app::App,
    config::{Sources, load},
    core::Bound,
};
use frontier_ops::{
    config::Log,
    life::Server as _,
    telemetry::{self, Telemetry},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tonic::transport::{Server, server::TcpIncoming};

/// Everybody may have any ID: the hash of `edge`, and that of `service`.
const TOKENS: &str = "\
tokens:
- {name: edges, sha256: a1cb100f57e971cacf269e7c26e4630a25a8e9d4bdd35e32df1a80b66b896254, role: edge, ids: '*'}
- {name: services, sha256: 9df6b026a8c6c26e3c3acd2370a16e93fffdc0015ff5bd879218788025db0280, role: service}
";

/// An atlas with a store in memory.
struct Atlas {
    store: Arc<Memory>,
    links: Arc<Links<Memory>>,
    stop: CancellationToken,
    serve: AbortOnDropHandle<()>,
    _keep: AbortOnDropHandle<()>,
}

/// A gateway and where it is.
struct Gateway {
    app: App,
    edges: SocketAddr,
    services: SocketAddr,
}

// === impl Atlas ===

impl Atlas {
    fn start(addr: SocketAddr) -> Self {
        let store = Arc::new(Memory::new());
        let directory = Arc::new(Directory::new(Arc::clone(&store)));
        let watchers = Arc::new(Watchers::new(Arc::clone(&store), directory, 1));
        // What this process itself removes from the store is found in its rounds alone.
        let terms = Terms { round: Duration::from_secs(2), ..Terms::default() };
        let links = Arc::new(Links::new(Arc::clone(&store), watchers, terms));
        let service = Grpc::server(Arc::clone(&links), TaskTracker::new());
        let incoming = TcpIncoming::bind(addr).unwrap().with_nodelay(Some(true));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serve = async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        };
        let kept = Arc::clone(&links);
        let keep = async move { kept.keep().await };
        Self { store, links, stop, serve: spawn(serve), _keep: spawn(keep) }
    }

    /// Goes, and forgets everything.
    async fn stop(self) {
        self.links.drain();
        self.stop.cancel();
        timeout(Duration::from_secs(10), self.serve).await.unwrap().unwrap();
    }

    async fn edge(&self, edge: u64) -> Option<EdgeRecord> {
        self.store.edges(&[edge]).await.unwrap().remove(0)
    }
}

#[expect(clippy::disallowed_methods, reason = "whoever holds the handle ends it")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

// === impl Gateway ===

impl Gateway {
    async fn start(name: &str, atlas: SocketAddr, dir: &Path) -> Self {
        static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
        let telemetry = TELEMETRY.get_or_init(|| telemetry::init(&Log::default()).unwrap());
        let [edges, services, admin] = [(); 3].map(|()| free());
        let tokens = dir.join("tokens.yaml");
        std::fs::write(&tokens, TOKENS).unwrap();
        let text = format!(
            "daemon: {{frontier_id: {name}}}\n\
             edgebound: {{listen: {{addr: '{edges}'}}}}\n\
             servicebound: {{listen: {{addr: '{services}'}}}}\n\
             observability: {{addr: '{admin}'}}\n\
             auth: {{tokens: '{}'}}\n\
             frontlas: {{enable: true, dial: {{addrs: ['{atlas}']}}}}\n\
             drain: {{seconds: 2, accept_for: 100ms}}\n\
             shards: 2\n",
            tokens.display()
        );
        let file = dir.join(format!("{name}.yaml"));
        std::fs::write(&file, text).unwrap();
        let loaded = load(&Sources { file: Some(&file), ..Sources::default() }).unwrap();
        let app = App::start(&loaded.config, telemetry, None).await.unwrap();
        Self { app, edges, services }
    }

    async fn edge(&self, id: u64) -> Edge {
        let edge = Edge::builder(format!("tcp://{}", self.edges)).token("edge").wished_id(id);
        edge.connect().await.unwrap()
    }

    /// Leaves as on SIGTERM.
    async fn stop(mut self) {
        self.app.drain(true).await;
        self.app.stop().await;
    }
}

/// An address that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until something is there.
async fn soon<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not come about");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn atlas_knows_who_is_where_whatever_happens_to_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let addr = free();
    // Gateways first: it does not matter.
    let one = Gateway::start("one", addr, dir.path()).await;
    let two = Gateway::start("two", addr, dir.path()).await;
    let edge = one.edge(7).await;
    let service = Service::builder(format!("tcp://{}", two.services)).token("service").name("files");
    let service = service.connect().await.unwrap();
    let atlas = Atlas::start(addr);
    let record = soon("the edge's record", async || atlas.edge(7).await).await;
    let first = record.claim;
    let bucket = service_bucket(service.id().get());
    let services = soon("the service's record", async || {
        let buckets = atlas.store.service_buckets(&[bucket]).await.unwrap().remove(0);
        (!buckets.is_empty()).then_some(buckets)
    })
    .await;
    assert!(
        services.values().all(|record| record.name == "files" && record.claim.instance != first.instance)
    );

    // Somebody removes the record from the store.
    let gone = EdgeWrite::Offline { edge: 7, claim: first };
    let horizon = StoreTime(u64::MAX >> 20);
    atlas.store.write_edges(&[gone], horizon).await.unwrap();
    assert_eq!(atlas.edge(7).await, None);
    soon("the record after it was removed", async || atlas.edge(7).await).await;

    // The edge comes to the other gateway, which has no ticket of it.
    let moved = two.edge(7).await;
    let newer = soon("the newer record", async || {
        atlas.edge(7).await.filter(|record| record.claim.instance != first.instance)
    })
    .await;
    assert!(newer.claim > first);
    soon("the end of the older session", async || (one.app.sessions(Bound::Edge) == 0).then_some(())).await;
    assert_eq!(two.app.sessions(Bound::Edge), 1);
    drop(edge);

    // Atlas goes, and has lost everything when it comes back.
    atlas.stop().await;
    let atlas = Atlas::start(addr);
    let again = soon("the record after atlas came back", async || atlas.edge(7).await).await;
    assert_eq!(again.claim, newer.claim);
    let roster = atlas.store.members().await.unwrap();
    assert!(roster.lives(again.claim.instance));

    // A gateway that leaves in order is not looked for any more.
    drop((moved, service));
    two.stop().await;
    assert!(!atlas.store.members().await.unwrap().lives(again.claim.instance));
    one.stop().await;
}
