//! The control plane on a real port: gRPC and REST beside each other, TLS, reflection, health, the end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use frontier_api::controlplane::{
    GetEdgeRequest, KickEdgeRequest, ListEdgesRequest, ListServiceTopicsRequest, ListServicesRequest,
    control_plane_client::ControlPlaneClient,
};
use frontier_gateway::{
    control::{DataPlane, EdgeRow, KickRule, NotOnline, Scan, ServiceRow, router},
    core::names::NameSet,
};
use frontier_ops::{
    config::SecretSource,
    readiness::Readiness,
    serve::{OperatorPort, TlsSource, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// One edge and one service; edge 99 answers when it is told to.
#[derive(Default)]
struct Fixture {
    asked: Notify,
    answer: Notify,
}

fn edge(id: u64) -> EdgeRow {
    EdgeRow {
        edge_id: id,
        meta: Bytes::from_static(b"sn-7"),
        addr: "10.0.0.7:5000".parse().unwrap(),
        create_time: 1_700_000_000,
        methods: Some(Arc::new(NameSet::default().edited(["echo"].into_iter(), [].into_iter()))),
    }
}

fn service() -> ServiceRow {
    ServiceRow {
        service_id: 11,
        name: "files".into(),
        addr: "10.0.0.11:5000".parse().unwrap(),
        create_time: 1_700_000_000,
        methods: Vec::new(),
        topics: vec!["uploads".into()],
    }
}

impl DataPlane for Fixture {
    async fn edges(&self, _: Option<u64>, _: usize) -> Scan<EdgeRow> {
        Scan { rows: vec![edge(7)], next: None }
    }

    async fn edge(&self, id: u64) -> Option<EdgeRow> {
        if id == 99 {
            self.asked.notify_one();
            self.answer.notified().await;
        }
        (id == 7 || id == 99).then(|| edge(id))
    }

    async fn kick_edge(&self, id: u64) -> Result<(), NotOnline> {
        if id == 7 { Ok(()) } else { Err(NotOnline) }
    }

    async fn services(&self) -> Vec<ServiceRow> {
        vec![service()]
    }

    async fn service(&self, id: u64) -> Option<ServiceRow> {
        (id == 11).then(service)
    }

    async fn kick_service(&self, _: u64) -> Result<(), NotOnline> {
        Err(NotOnline)
    }
}

/// A served control plane; dropping it ends it.
struct Port {
    addr: SocketAddr,
    data: Arc<Fixture>,
    readiness: Readiness,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Port {
    async fn open(tls: Option<TlsSource>, kicks: KickRule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (data, readiness, stop) =
            (Arc::new(Fixture::default()), Readiness::default(), CancellationToken::new());
        let app = router(Arc::clone(&data), kicks, &readiness);
        let mut tasks = JoinSet::new();
        let port = Arc::new(OperatorPort::new("control"));
        tasks.spawn(serve(listener, port, tls, app, stop.clone()));
        Self { addr, data, readiness, stop, tasks }
    }

    async fn plain() -> Self {
        Self::open(None, KickRule::default()).await
    }

    async fn grpc(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.addr)).unwrap().connect().await.unwrap()
    }

    /// The whole answer to an HTTP/1.1 request, after which the connection ends.
    async fn http(&self, request_line: &str) -> String {
        let mut socket = TcpStream::connect(self.addr).await.unwrap();
        talk(&mut socket, request_line).await
    }
}

async fn talk(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), request_line: &str) -> String {
    let request = format!("{request_line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn grpc_and_rest_share_the_port() {
    let port = Port::plain().await;
    let mut client = ControlPlaneClient::new(port.grpc().await);
    let list =
        client.list_edges(ListEdgesRequest { meta: Some("sn".into()), ..Default::default() }).await.unwrap();
    assert_eq!((list.get_ref().count, list.get_ref().edges[0].edge_id), (1, 7));
    assert_eq!(list.get_ref().edges[0].addr, "10.0.0.7:5000");
    let services = client.list_services(ListServicesRequest::default()).await.unwrap().into_inner();
    assert_eq!(services.services[0].service, "files");
    let topics = client.list_service_topics(ListServiceTopicsRequest::default()).await.unwrap().into_inner();
    assert_eq!(topics.topics, ["uploads"]);

    let answer = port.http("GET /v1/edges/7").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer
            .ends_with(r#"{"edge_id":"7","meta":"sn-7","addr":"10.0.0.7:5000","create_time":"1700000000"}"#),
        "{answer}"
    );
}

#[tokio::test]
async fn errors_have_grpc_codes_and_our_own_by_name() {
    let port = Port::plain().await;
    let mut client = ControlPlaneClient::new(port.grpc().await);
    let status = client.get_edge(GetEdgeRequest { edge_id: 1 }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "edge not online"));
    assert_eq!(status.metadata().get("frontier-reason").unwrap(), "edge_not_online");
    let status = client.kick_edge(KickEdgeRequest { edge_id: 1 }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    client.kick_edge(KickEdgeRequest { edge_id: 7 }).await.unwrap();
}

#[tokio::test]
async fn grpc_kicks_may_need_a_token() {
    let port = Port::open(None, KickRule::new(Some(SecretSource::parse("s3cret")))).await;
    let mut client = ControlPlaneClient::new(port.grpc().await);
    let status = client.kick_edge(KickEdgeRequest { edge_id: 7 }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let with = |token: &'static str| {
        let mut request = Request::new(KickEdgeRequest { edge_id: 7 });
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        request
    };
    let status = client.kick_edge(with("Bearer wrong")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    client.kick_edge(with("Bearer s3cret")).await.unwrap();
}

#[tokio::test]
async fn requests_longer_than_any_real_one_are_refused() {
    let port = Port::plain().await;
    let mut client = ControlPlaneClient::new(port.grpc().await);
    let long = ListEdgesRequest { meta: Some("x".repeat(100_000)), ..Default::default() };
    assert_eq!(client.list_edges(long).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn reflection_names_the_services() {
    let port = Port::plain().await;
    let mut client = ServerReflectionClient::new(port.grpc().await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let symbol = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("controlplane.ControlPlane".into())),
    };
    let requests = futures::stream::iter([ask, symbol]);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("not a list");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(
        names.contains(&"controlplane.ControlPlane") && names.contains(&"grpc.health.v1.Health"),
        "{names:?}"
    );
    let Some(MessageResponse::FileDescriptorResponse(file)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("not a file");
    };
    assert!(!file.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn health_follows_readiness() {
    let port = Port::plain().await;
    let mut client = HealthClient::new(port.grpc().await);
    let whole = || HealthCheckRequest { service: String::new() };
    assert_eq!(client.check(whole()).await.unwrap().get_ref().status, 1);
    let mut watch = client.watch(whole()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    let guard = port.readiness.guard("drain");
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    assert_eq!(client.check(whole()).await.unwrap().get_ref().status, 2);
    drop(guard);
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    let named = HealthCheckRequest { service: "controlplane.ControlPlane".into() };
    assert_eq!(client.check(named).await.unwrap().get_ref().status, 1);
    let unknown = HealthCheckRequest { service: "nobody".into() };
    assert_eq!(client.check(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn unknown_grpc_methods_get_grpc_errors() {
    let port = Port::plain().await;
    let answer = port
        .http("POST /controlplane.ControlPlane/Nothing HTTP/1.1\r\ncontent-type: application/grpc\r\nx: y\r\nz:")
        .await;
    assert!(answer.contains("grpc-status: 12"), "{answer}");
}

#[tokio::test]
async fn rest_answers_over_http_2_as_well() {
    let port = Port::plain().await;
    let stream = TcpStream::connect(port.addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, axum::body::Body>(executor, io).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async { drop(connection.await) });
    let request =
        http::Request::builder().uri("http://x/v1/services/11").body(axum::body::Body::empty()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn garbage_gets_an_answer_or_a_close() {
    let port = Port::plain().await;
    for garbage in [
        &b"\x00\x00\x00\x02\x00\x00"[..],
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(port.addr).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good as an end.
        let _ = socket.read_to_end(&mut answer).await;
        assert!(!answer.windows(4).any(|window| window == b" 200"), "{garbage:?}");
    }
    assert!(port.http("GET /v1/edges").await.contains("200 OK"));
}

#[tokio::test]
async fn stopping_lets_requests_end() {
    let mut port = Port::plain().await;
    let mut socket = TcpStream::connect(port.addr).await.unwrap();
    let request = talk(&mut socket, "GET /v1/edges/99");
    let end = async {
        port.data.asked.notified().await;
        port.stop.cancel();
        port.data.answer.notify_one();
    };
    let (answer, ()) = tokio::join!(request, end);
    assert!(answer.contains("200 OK"), "{answer}");
    port.tasks.join_next().await.unwrap().unwrap();
    assert!(TcpStream::connect(port.addr).await.is_err(), "the listener is gone");
}

/// A certificate for `localhost` and a client that trusts it.
fn tls() -> (TlsSource, Arc<rustls::ClientConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = Arc::new(server);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(move || Arc::clone(&server)), Arc::new(client))
}

#[tokio::test]
async fn tls_is_honoured() {
    let (server, client) = tls();
    let port = Port::open(Some(server), KickRule::default()).await;
    let socket = TcpStream::connect(port.addr).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, socket).await.unwrap();
    let answer = talk(&mut stream, "GET /v1/edges").await;
    assert!(answer.contains("200 OK") && answer.contains(r#""count":1"#), "{answer}");

    let mut plain = TcpStream::connect(port.addr).await.unwrap();
    plain.write_all(b"GET /v1/edges HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "no plain text on a TLS port");
}

#[tokio::test(start_paused = true)]
async fn connections_that_never_ask_are_closed() {
    let port = Port::plain().await;
    for begun in [
        "",
        "G",
        "GET /v1/edges HTTP/1.1\r\nhost: x\r\n",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(port.addr).await.unwrap();
        socket.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Time is paused, so an hour passes as soon as nothing else happens.
        let closed = timeout(Duration::from_secs(3_600), socket.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{begun:?} stays");
    }
    assert!(port.http("GET /v1/edges/7").await.starts_with("HTTP/1.1 200 OK\r\n"));
}
