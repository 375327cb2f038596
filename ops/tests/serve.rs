//! A port on a real listener: who gives way, and who shows which certificate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{Extension, Router, body::Body, response::Response, routing::get};
use frontier_ops::{
    serve::{Bounds, ClientNames, OperatorPort, TlsSource, serve},
    tls::{
        reload::CertStore,
        testing::{Ca, Dir, mutual},
    },
};
use futures::stream;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Duration, Instant, sleep},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Serves one path that answers without an end, and one that says who asks.
async fn open(bounds: Bounds, tls: Option<TlsSource>) -> (SocketAddr, JoinSet<()>) {
    let endless = || async {
        let begin = stream::iter([Ok::<_, Infallible>("begin\n")]);
        Response::new(Body::from_stream(stream::StreamExt::chain(begin, stream::pending())))
    };
    let who = |names: Option<Extension<ClientNames>>| async {
        names.and_then(|Extension(ClientNames(names))| names.common_name.clone()).unwrap_or_default()
    };
    let app = Router::new().route("/endless", get(endless)).route("/who", get(who));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let port = Arc::new(OperatorPort::bounded("test", bounds));
    tasks.spawn(serve(listener, port, tls, app, CancellationToken::new()));
    (addr, tasks)
}

/// Asks, and waits for the first line of an answer without an end.
async fn follow(addr: SocketAddr) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    while !line.contains("begin") {
        line.clear();
        assert!(socket.read_line(&mut line).await.unwrap() > 0, "cut before the answer");
    }
    socket
}

/// Whether somebody new gets an answer within this time.
async fn is_served(addr: SocketAddr, within: Duration) -> bool {
    let until = Instant::now() + within;
    while Instant::now() < until {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let request = b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        if socket.write_all(request).await.is_ok()
            && socket.read_to_string(&mut answer).await.is_ok()
            && answer.starts_with("HTTP/1.1 200")
        {
            return true;
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test]
async fn who_is_sent_an_endless_answer_gives_way_only_where_answers_are_short() {
    let bounds = Bounds { connections: 1, ..Bounds::default() };
    let (addr, _tasks) = open(bounds, None).await;
    let mut reader = follow(addr).await;
    assert!(is_served(addr, Duration::from_secs(20)).await, "who does not read holds a place");
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest).await;

    let (addr, _tasks) = open(Bounds { long_answers: true, ..bounds }, None).await;
    let reader = follow(addr).await;
    // Longer than the second after which the idle give way.
    assert!(!is_served(addr, Duration::from_millis(1_500)).await, "a long answer was cut");
    drop(reader);
    assert!(is_served(addr, Duration::from_secs(20)).await, "its place was not given back");
}

#[tokio::test]
async fn requests_carry_the_names_of_the_certificate_that_was_shown() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let tls = mutual(
        vec![dir.pair("server", &ca.issue("server", &["server.example"]))],
        vec![dir.write("ca.crt", &ca.pem)],
    );
    let store = Arc::new(CertStore::load("test", &tls, &[b"http/1.1"]).unwrap());
    let (addr, _tasks) = open(Bounds::default(), Some(Arc::new(move || store.current()))).await;
    let client = ca.client(Some(&ca.issue("frontier-7", &[])), None);
    let socket = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("server.example").unwrap();
    let mut socket = TlsConnector::from(client).connect(name, socket).await.unwrap();
    socket.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer).await;
    assert!(answer.ends_with("\r\n\r\nfrontier-7"), "{answer}");
}
