//! A whole atlas in this process, on real ports: gateways by gRPC, who may have which name, and the way out.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use frontier_api::{
    cluster::{
        ListFrontiersRequest, WatchRequest, cluster_service_client::ClusterServiceClient,
        watch_response::Kind,
    },
    registry::{
        FromGateway, Hello, RenewRequest, ToGateway, from_gateway, registry_client::RegistryClient,
        to_gateway,
    },
};
use frontier_atlas::{
    app::App,
    config::{Config, Mode},
    links::VERSION,
};
use frontier_ops::{
    config::{ListenAddr, Log, LogFile, LogOutput, Tls},
    life::Server as _,
    telemetry::{self, Telemetry},
    tls::testing::{Ca, Dir, Leaf, mutual},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// What should take milliseconds takes no longer than this.
const SOON: Duration = Duration::from_secs(20);

/// One log for all tests of the process.
fn log() -> &'static Telemetry {
    static LOG: OnceLock<Telemetry> = OnceLock::new();
    LOG.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap().keep();
        let file = LogFile { path: dir.join("frontlas.log"), ..LogFile::default() };
        telemetry::init(&Log { output: LogOutput::File, file, ..Log::default() }).unwrap()
    })
}

/// On free ports, with its state in memory.
fn config() -> Config {
    let mut config = Config::default();
    let free = || ListenAddr::parse("127.0.0.1:0").unwrap();
    config.control_plane.listen.addr = free();
    config.frontier_plane.listen.addr = free();
    config.observability.addr = free();
    config.redis.mode = Mode::Memory;
    config
}

fn start(config: &Config) -> App {
    App::start(config, log()).unwrap()
}

async fn plain(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

/// A gateway's link: what is sent on it, and what comes.
struct Link {
    instance: Vec<u8>,
    stream: u32,
    client: RegistryClient<Channel>,
    _to: mpsc::Sender<FromGateway>,
    from: Streaming<ToGateway>,
}

/// Says Hello under this name; the Welcome, or why there is none.
async fn attach(channel: Channel, instance: u8, name: &str) -> Result<Link, Status> {
    let mut client = RegistryClient::new(channel);
    let (to, messages) = mpsc::channel(4);
    let instance = vec![instance; 16];
    let hello = Hello {
        version: VERSION,
        instance: instance.clone(),
        frontier_id: name.to_owned(),
        service_addr: "10.0.0.1:30011".to_owned(),
        edge_addr: "10.0.0.1:30012".to_owned(),
        attached: false,
    };
    to.send(FromGateway { kind: Some(from_gateway::Kind::Hello(hello)) }).await.unwrap();
    let mut from = client.attach(ReceiverStream::new(messages)).await?.into_inner();
    let first = timeout(SOON, from.message()).await.expect("no answer to Hello")?;
    let Some(to_gateway::Kind::Welcome(welcome)) = first.and_then(|message| message.kind) else {
        panic!("no Welcome");
    };
    Ok(Link { instance, stream: welcome.stream, client, _to: to, from })
}

/// The end of a stream.
async fn end<T>(stream: &mut Streaming<T>) -> Status {
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    };
    timeout(SOON, ended).await.expect("the stream goes on")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_attach_clients_see_them_and_both_are_told_to_go() {
    let mut app = start(&config());
    let addresses = app.addresses();
    let mut link = attach(plain(addresses.frontier_plane).await, 1, "frontier-a").await.unwrap();
    let renewal = RenewRequest {
        instance: link.instance.clone(),
        stream: link.stream,
        edges: 7,
        ..RenewRequest::default()
    };
    assert!(link.client.renew(renewal).await.unwrap().into_inner().known);

    let mut cluster = ClusterServiceClient::new(plain(addresses.control_plane).await);
    let listed = cluster.list_frontiers(ListFrontiersRequest::default()).await.unwrap().into_inner();
    let names: Vec<&str> = listed.frontiers.iter().map(|frontier| frontier.frontier_id.as_str()).collect();
    assert_eq!(names, ["frontier-a"]);
    let request = WatchRequest { frontiers: true, ..WatchRequest::default() };
    let mut watch = cluster.watch(request).await.unwrap().into_inner();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&Kind::Current) {
        let message = timeout(SOON, watch.message()).await.expect("no snapshot").unwrap().unwrap();
        kinds.push(message.kind());
    }
    assert_eq!(kinds, [Kind::Reset, Kind::Put, Kind::Current]);

    let (drained, attached, watched) =
        tokio::join!(timeout(SOON, app.drain(true)), end(&mut link.from), end(&mut watch));
    drained.expect("the drain does not end");
    assert_eq!((attached.code(), watched.code()), (Code::Unavailable, Code::Unavailable));
    let refused =
        Endpoint::from_shared(format!("http://{}", addresses.frontier_plane)).unwrap().connect().await;
    assert!(refused.is_err(), "the port is closed");
    timeout(SOON, app.stop()).await.expect("it does not stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_too_many_is_told_to_go_elsewhere() {
    let mut few = config();
    few.limits.links = 1;
    let app = start(&few);
    let channel = plain(app.addresses().frontier_plane).await;
    let first = attach(channel.clone(), 1, "frontier-a").await.unwrap();
    let refused = attach(channel, 2, "frontier-b").await.err().expect("a second link was made");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_may_only_have_a_name_that_its_certificate_covers() {
    // As the binary does.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let tls: Tls = mutual(
        vec![dir.pair("atlas", &ca.issue("atlas", &["atlas.example"]))],
        vec![dir.write("ca.crt", &ca.pem)],
    );
    let mut strict = config();
    strict.frontier_plane.listen.tls = tls.clone();
    let app = start(&strict);
    let leaf = ca.issue("frontier-a", &[]);
    let channel = secure(app.addresses().frontier_plane, &ca, &leaf).await;
    let refused = attach(channel.clone(), 1, "frontier-b").await.err().expect("another name was taken");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let mut link = attach(channel, 1, "frontier-a").await.unwrap();
    // A renewal comes on a connection of its own, and is the business of whoever knows the instance.
    let renewal = RenewRequest { instance: vec![1; 16], stream: link.stream, ..RenewRequest::default() };
    assert!(link.client.renew(renewal).await.unwrap().into_inner().known);

    let mut lenient = config();
    lenient.frontier_plane.listen.tls = tls;
    lenient.frontier_plane.any_name = true;
    let app = start(&lenient);
    let channel = secure(app.addresses().frontier_plane, &ca, &leaf).await;
    assert!(attach(channel, 1, "frontier-b").await.is_ok(), "one certificate for all of them");
}

async fn secure(addr: SocketAddr, ca: &Ca, leaf: &Leaf) -> Channel {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ca.pem))
        .identity(Identity::from_pem(&leaf.cert_pem, &leaf.key_pem))
        .domain_name("atlas.example");
    let endpoint = Endpoint::from_shared(format!("https://{addr}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}
