//! The admin port on a real listener: who is local is decided by the connection.

#![expect(clippy::unwrap_used, reason = "a test that fails by panicking")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use frontier_gateway::config::Config;
use frontier_ops::{
    admin::Admin,
    config::{ListenAddr, Log, LogFile, LogOutput},
    metrics::Metrics,
    readiness::Readiness,
    serve::{OperatorPort, serve},
    telemetry,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

async fn http(addr: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(addr: SocketAddr, path: &str) -> String {
    http(addr, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn the_port_answers_and_the_level_changes_what_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frontier.log");
    let file = LogFile { path: path.clone(), ..LogFile::default() };
    let log = telemetry::init(&Log { output: LogOutput::File, file, ..Log::default() }).unwrap();

    // A wildcard: IPv4 arrives inside IPv6 where the machine has it, and is still this machine.
    let listener = ListenAddr::parse("0.0.0.0:0").unwrap().bind().unwrap();
    let port = listener.local_addr().unwrap().port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let readiness = Readiness::default();
    let admin =
        Admin::new(Metrics::new("frontier"), readiness.clone(), log.level(), Config::default().effective());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (listener, name) = (TcpListener::from_std(listener).unwrap(), Arc::new(OperatorPort::new("admin")));
    tasks.spawn(serve(listener, name, None, admin.router(), stop.clone()));

    assert!(get(addr, "/healthz").await.ends_with("\r\n\r\nok"));
    assert!(get(addr, "/readyz").await.ends_with("\r\n\r\nready"));
    let guard = readiness.guard("edgebound");
    let waiting = get(addr, "/readyz").await;
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.ends_with("not ready: edgebound"), "{waiting}");
    drop(guard);
    let metrics = get(addr, "/metrics").await;
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(get(addr, "/config").await.contains("\"edgebound\""));

    tracing::debug!("hidden");
    let set = "PUT /log-level HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\ndebug";
    let answer = http(addr, set).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("debug"), "{answer}");
    tracing::debug!("shown");

    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
    drop(log);
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text.contains("log level changed") && text.contains("shown") && !text.contains("hidden"),
        "{text}"
    );
}
