use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream},
    thread,
};

use frontier_ops::{
    config::Tls,
    tls::{
        server::{Files, server_config},
        testing::{Ca, Dir, block, connect, mutual},
    },
};
use rustls::{ClientConnection, StreamOwned};
use tokio::sync::mpsc;

use super::*;
use crate::{
    identity::SeededRandom,
    tls::{HandshakeSettings, Handshakes, Incoming},
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that says its name, echoes all it gets, and ends when its peer does.
fn echo(name: &'static str) -> String {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            thread::spawn(move || {
                socket.write_all(name.as_bytes()).unwrap();
                let mut copy = socket.try_clone().unwrap();
                // The end of the peer's bytes must come through, or this never returns.
                drop(std::io::copy(&mut socket, &mut copy));
                drop(copy.shutdown(Shutdown::Write));
            });
        }
    });
    addr
}

/// A port that nobody listens on.
fn closed_port() -> String {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn dial(addrs: &[&str]) -> Dial {
    Dial { addrs: addrs.iter().map(|addr| (*addr).to_owned()).collect(), ..Dial::default() }
}

fn bypass(settings: &BypassSettings) -> Bypass {
    Bypass::new(settings, Box::new(SeededRandom::new(&[1; 32])), Handle::current()).unwrap()
}

/// A client and the socket it was accepted as.
fn sockets() -> (StdStream, StdStream) {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let client = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, listener.accept().unwrap().0)
}

fn plain(socket: StdStream, read: &[u8]) -> Bypassed {
    Bypassed { socket, tls: None, read: read.to_vec() }
}

/// Sends, ends, and reads to the end, off the async threads.
async fn exchange(mut client: StdStream, send: &'static [u8]) -> Vec<u8> {
    let exchange = move || {
        client.write_all(send).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all)
    };
    tokio::task::spawn_blocking(exchange).await.unwrap().unwrap()
}

async fn eventually(what: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !what() {
        assert!(start.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bytes_already_read_go_first_and_half_close_goes_through() {
    let bypass = bypass(&BypassSettings::new(dial(&[&echo("name:")])));
    let (client, socket) = sockets();
    assert!(bypass.pipe(plain(socket, b"GET ")));
    assert_eq!(exchange(client, b"/ HTTP/1.1").await, b"name:GET / HTTP/1.1");
    let stats = Arc::clone(bypass.stats());
    eventually(|| stats.ended.load(Ordering::Relaxed) == 1).await;
    assert_eq!(stats.bytes_in.load(Ordering::Relaxed), 14);
    assert_eq!(stats.bytes_out.load(Ordering::Relaxed), 19);
    assert_eq!(bypass.running(), 0);
}

#[tokio::test]
async fn every_address_gets_its_part() {
    let bypass = bypass(&BypassSettings::new(dial(&[&echo("a"), &echo("b")])));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..16 {
        let (client, socket) = sockets();
        assert!(bypass.pipe(plain(socket, b"")));
        seen.insert(exchange(client, b"").await);
    }
    assert_eq!(seen.len(), 2, "the seed is fixed: 16 draws meet both");
}

#[tokio::test]
async fn an_address_that_refuses_is_replaced_by_the_next() {
    let bypass = bypass(&BypassSettings::new(dial(&[&closed_port(), &echo("b")])));
    for _ in 0..8 {
        let (client, socket) = sockets();
        assert!(bypass.pipe(plain(socket, b"x")));
        assert_eq!(exchange(client, b"").await, b"bx");
    }
}

#[tokio::test]
async fn unreachable_targets_close_the_peer() {
    let bypass = bypass(&BypassSettings::new(dial(&[&closed_port()])));
    let (mut client, socket) = sockets();
    assert!(bypass.pipe(plain(socket, b"")));
    let read = tokio::task::spawn_blocking(move || client.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    eventually(|| bypass.stats().unreachable.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn a_target_that_does_not_answer_gets_its_part_of_the_time_only() {
    // The first accepts connections but never speaks TLS; the second does.
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let leaf = ca.issue("target", &["localhost"]);
    let silent = StdListener::bind("127.0.0.1:0").unwrap();
    let answering = tls_echo(&block(vec![dir.pair("target", &leaf)]));
    let tls = Tls { insecure_skip_verify: true, ..block(Vec::new()) };
    let silent = format!("localhost:{}", silent.local_addr().map(|addr| addr.port()).unwrap());
    let dial = Dial { tls, ..dial(&[&silent, &answering]) };
    let settings =
        BypassSettings { connect_timeout: Duration::from_millis(800), ..BypassSettings::new(dial) };
    let bypass = bypass(&settings);
    for _ in 0..4 {
        let (client, socket) = sockets();
        assert!(bypass.pipe(plain(socket, b"x")));
        assert_eq!(exchange(client, b"").await, b"x");
    }
}

#[tokio::test]
async fn one_too_many_is_closed_and_counted() {
    let settings = BypassSettings { at_once: 1, ..BypassSettings::new(dial(&[&echo("a")])) };
    let bypass = bypass(&settings);
    let (held, socket) = sockets();
    assert!(bypass.pipe(plain(socket, b"")));
    let (mut refused, socket) = sockets();
    assert!(!bypass.pipe(plain(socket, b"")));
    assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    assert_eq!(bypass.stats().refused.load(Ordering::Relaxed), 1);
    exchange(held, b"").await;
    eventually(|| bypass.running() == 0).await;
    let (client, socket) = sockets();
    assert!(bypass.pipe(plain(socket, b"")));
    assert_eq!(exchange(client, b"").await, b"a");
}

#[tokio::test]
async fn a_pipe_without_a_byte_is_cut_and_one_with_a_few_is_not() {
    let settings =
        BypassSettings { idle: Duration::from_secs(1), ..BypassSettings::new(dial(&[&echo("a")])) };
    let bypass = bypass(&settings);
    let (mut silent, socket) = sockets();
    assert!(bypass.pipe(plain(socket, b"")));
    let (mut busy, socket) = sockets();
    assert!(bypass.pipe(plain(socket, b"")));
    let start = std::time::Instant::now();
    let talk = tokio::task::spawn_blocking(move || {
        let mut byte = [0];
        busy.read_exact(&mut byte).unwrap();
        while start.elapsed() < Duration::from_secs(2) {
            busy.write_all(b"x").unwrap();
            busy.read_exact(&mut byte).unwrap();
        }
        busy
    });
    let cut = tokio::task::spawn_blocking(move || {
        silent.read_exact(&mut [0]).unwrap();
        assert!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)));
        start.elapsed()
    });
    let cut = cut.await.unwrap();
    assert!((Duration::from_millis(990)..PATIENCE).contains(&cut), "{cut:?}");
    let busy = talk.await.unwrap();
    assert_eq!(exchange(busy, b"still").await, b"still");
    eventually(|| bypass.running() == 0).await;
    let stats = bypass.stats();
    assert_eq!((stats.idle.load(Ordering::Relaxed), stats.ended.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_end() {
    let bypass = bypass(&BypassSettings::new(dial(&[&echo("a")])));
    let (mut client, socket) = sockets();
    assert!(bypass.pipe(plain(socket, b"")));
    let first = tokio::task::spawn_blocking(move || {
        client.read_exact(&mut [0]).unwrap();
        client
    });
    let mut client = first.await.unwrap();
    bypass.shutdown(Duration::from_millis(20)).await;
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(bypass.stats().broken.load(Ordering::Relaxed), 1);
    let (mut late, socket) = sockets();
    assert!(!bypass.pipe(plain(socket, b"")));
    assert_eq!(late.read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn addresses_are_checked_at_start() {
    let error = |dial: Dial| {
        Bypass::new(&BypassSettings::new(dial), Box::new(SeededRandom::new(&[1; 32])), Handle::current())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error(dial(&[])), "illegal bypass addrs");
    assert!(error(dial(&["nowhere"])).contains("nowhere"));
    let tls = Tls { insecure_skip_verify: true, ..block(Vec::new()) };
    assert!(error(Dial { tls, ..dial(&["under_score..x:1"]) }).contains("under_score..x:1"));
}

/// A TLS server that echoes until its peer ends.
fn tls_echo(tls: &Tls) -> String {
    let config = Arc::new(server_config(tls, &Files::read(tls), &[]).unwrap());
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let config = Arc::clone(&config);
            thread::spawn(move || {
                let connection = rustls::ServerConnection::new(config).unwrap();
                let mut stream = StreamOwned::new(connection, socket);
                let mut all = Vec::new();
                if stream.read_to_end(&mut all).is_ok() {
                    drop(stream.write_all(&all));
                }
                stream.conn.send_close_notify();
                drop(stream.flush());
            });
        }
    });
    format!("localhost:{port}")
}

#[tokio::test]
async fn mutual_tls_to_the_target_verifies_both_sides() {
    let (ca, other, dir) = (Ca::new("ca"), Ca::new("other"), Dir::new());
    let ca_file = dir.write("ca.crt", &ca.pem);
    let target = dir.pair("target", &ca.issue("target", &["localhost"]));
    let addr = tls_echo(&mutual(vec![target], vec![ca_file.clone()]));
    let ours = dir.pair("ours", &ca.issue("gateway", &[]));
    let strangers = dir.pair("strangers", &other.issue("gateway", &[]));
    for (pair, authority, good) in [
        (&ours, ca_file.clone(), true),
        (&strangers, ca_file.clone(), false),
        (&ours, dir.write("other.crt", &other.pem), false),
    ] {
        let dial = Dial { tls: mutual(vec![pair.clone()], vec![authority]), ..dial(&[&addr]) };
        let bypass = bypass(&BypassSettings::new(dial));
        let (client, socket) = sockets();
        assert!(bypass.pipe(plain(socket, b"over ")));
        let mut client = client;
        let reply = tokio::task::spawn_blocking(move || {
            drop(client.write_all(b"tls"));
            drop(client.shutdown(Shutdown::Write));
            let mut all = Vec::new();
            drop(client.read_to_end(&mut all));
            all
        });
        assert_eq!(reply.await.unwrap() == b"over tls", good);
    }
}

#[tokio::test]
async fn an_unverified_target_is_refused_unless_told_otherwise() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let addr = tls_echo(&block(vec![dir.pair("target", &ca.issue("target", &["localhost"]))]));
    for skip in [false, true] {
        let tls = Tls { insecure_skip_verify: skip, ..block(Vec::new()) };
        // Without a single authority on the system nothing can be verified, which is refused at start.
        let settings = BypassSettings::new(Dial { tls, ..dial(&[&addr]) });
        let random = Box::new(SeededRandom::new(&[1; 32]));
        let Ok(bypass) = Bypass::new(&settings, random, Handle::current()) else {
            assert!(!skip);
            continue;
        };
        let (mut client, socket) = sockets();
        assert!(bypass.pipe(plain(socket, b"x")));
        let reply = tokio::task::spawn_blocking(move || {
            drop(client.shutdown(Shutdown::Write));
            let mut all = Vec::new();
            drop(client.read_to_end(&mut all));
            all
        });
        assert_eq!(reply.await.unwrap(), if skip { &b"x"[..] } else { b"" });
    }
}

#[tokio::test]
async fn a_connection_over_the_listeners_tls_is_piped_in_plain() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let tls = block(vec![dir.pair("a", &ca.issue("a", &["a.example"]))]);
    let config = Arc::new(server_config(&tls, &Files::read(&tls), &[]).unwrap());
    let (sender, mut established) = mpsc::channel(1);
    let sink = Arc::new(move |connection| drop(sender.try_send(connection)));
    let handshakes = Handshakes::start(&HandshakeSettings::default(), sink).unwrap();
    let (client, socket) = sockets();
    let peer = client.local_addr().unwrap();
    let accepted = std::time::Instant::now();
    let incoming = Incoming { socket, role: "edge", peer, accepted, read: Vec::new(), config, tag: () };
    assert!(handshakes.submit(incoming));
    let client_config = ca.client(None, None);
    let client = tokio::task::spawn_blocking(move || {
        let connection: ClientConnection = connect(&client_config, "a.example");
        let mut stream = StreamOwned::new(connection, client);
        stream.write_all(&[b'x'; 100_000]).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    });
    let connection = established.recv().await.unwrap();
    let bypass = bypass(&BypassSettings::new(dial(&[&echo("name:")])));
    let bypassed = Bypassed { socket: connection.socket, tls: Some(connection.tls), read: connection.plain };
    assert!(bypass.pipe(bypassed));
    let reply = client.await.unwrap().unwrap();
    assert!(reply == [&b"name:"[..], &[b'x'; 100_000]].concat());
    handshakes.shutdown(PATIENCE).await;
}
