use std::{
    io::Write as _,
    net::TcpListener,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use frontier_ops::{
    config::Tls,
    tls::{
        server::{Files, server_config},
        testing::{Ca, Dir, Leaf, block, connect, mutual},
    },
};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::*;

/// Far longer than anything here takes; a test that waits for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    ca: Ca,
    config: Arc<ServerConfig>,
    listener: TcpListener,
    handshakes: Arc<Handshakes<u32>>,
    established: mpsc::Receiver<Established<u32>>,
}

type Client = StreamOwned<ClientConnection, std::net::TcpStream>;

impl Fixture {
    fn new(settings: &HandshakeSettings, mtls: bool) -> Self {
        let (ca, dir) = (Ca::new("ca"), Dir::new());
        let pair = vec![dir.pair("a", &ca.issue("a", &["a.example"]))];
        let tls: Tls = if mtls { mutual(pair, vec![dir.write("ca.crt", &ca.pem)]) } else { block(pair) };
        let (sender, established) = mpsc::channel();
        let sink: Sink<u32> = Arc::new(move |connection| drop(sender.send(connection)));
        Self {
            config: Arc::new(server_config(&tls, &Files::read(&tls), &[]).unwrap()),
            ca,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            handshakes: Arc::new(Handshakes::start(settings, sink).unwrap()),
            established,
        }
    }

    fn with(settings: HandshakeSettings) -> Self {
        Self::new(&settings, false)
    }

    /// A socket whose other end was accepted.
    fn sockets(&self) -> (std::net::TcpStream, Incoming<u32>) {
        let socket = std::net::TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (accepted, peer) = self.listener.accept().unwrap();
        let incoming = Incoming {
            socket: accepted,
            role: "edge",
            peer,
            accepted: Instant::now(),
            read: Vec::new(),
            config: Arc::clone(&self.config),
            tag: 7,
        };
        (socket, incoming)
    }

    fn submit(&self) -> std::net::TcpStream {
        let (socket, incoming) = self.sockets();
        assert!(self.handshakes.submit(incoming));
        socket
    }

    fn client(&self, identity: Option<&Leaf>) -> Client {
        StreamOwned::new(connect(&self.ca.client(identity, None), "a.example"), self.submit())
    }

    /// Waits until `count` handshakes ended so. There is no other sign of a connection that is closed.
    fn wait_for(&self, outcome: Outcome, count: u64) {
        let start = Instant::now();
        while self.handshakes.stats().get(outcome) < count {
            assert!(start.elapsed() < PATIENCE, "{outcome:?}: {:?}", self.handshakes.stats());
            thread::yield_now();
        }
    }
}

fn settings(timeout: Duration, at_once: usize) -> HandshakeSettings {
    HandshakeSettings { threads: 1, at_once, timeout }
}

fn patient() -> HandshakeSettings {
    settings(PATIENCE, 64)
}

/// Reads plain bytes from an established connection until there are `len`.
fn read(connection: &mut Established<u32>, len: usize) -> Vec<u8> {
    connection.socket.set_nonblocking(false).unwrap();
    let mut plain = std::mem::take(&mut connection.plain);
    let mut scratch = TlsScratch::default();
    while plain.len() < len {
        let outcome = connection.tls.read(&mut connection.socket, &mut scratch, &mut plain).unwrap();
        assert!(!matches!(outcome.state, ReadState::Truncated | ReadState::Closed), "{outcome:?}");
    }
    plain
}

#[test]
fn bytes_right_behind_the_handshake_arrive() {
    let fixture = Fixture::with(patient());
    for _ in 0..20 {
        let mut client = fixture.client(None);
        client.write_all(b"right behind").unwrap();
        let mut connection = fixture.established.recv_timeout(PATIENCE).unwrap();
        assert_eq!((connection.tag, connection.peer), (7, client.sock.local_addr().unwrap()));
        assert!(!connection.tls.wants_write() && connection.subject.is_none());
        assert_eq!(read(&mut connection, 12), b"right behind");
        let slices = [std::io::IoSlice::new(b"answer")];
        let accepted =
            connection.tls.write_vectored(&mut connection.socket, &mut TlsScratch::default(), &slices);
        assert_eq!(accepted.unwrap(), 6);
        let mut answer = [0; 6];
        io::Read::read_exact(&mut client, &mut answer).unwrap();
        assert_eq!(&answer, b"answer");
    }
    fixture.wait_for(Outcome::Established, 20);
}

#[test]
fn a_handshake_and_its_bytes_in_one_segment_lose_nothing() {
    // With TLS 1.2 resumed by ticket, the client's last flight and its first bytes come together.
    let fixture = Fixture::with(patient());
    let config: Arc<ClientConfig> = fixture.ca.client(None, Some(&rustls::version::TLS12));
    for round in 0..3 {
        let mut client = connect(&config, "a.example");
        client.writer().write_all(&[b'x'; 40_000]).unwrap();
        let mut client = StreamOwned::new(client, fixture.submit());
        client.flush().unwrap();
        let mut connection = fixture.established.recv_timeout(PATIENCE).unwrap();
        assert_eq!(read(&mut connection, 40_000).len(), 40_000, "round {round}");
    }
}

#[test]
fn bytes_read_before_the_handshake_count() {
    let fixture = Fixture::with(patient());
    let (socket, mut incoming) = fixture.sockets();
    let mut client = connect(&fixture.ca.client(None, None), "a.example");
    client.write_tls(&mut incoming.read).unwrap();
    assert!(fixture.handshakes.submit(incoming));
    let mut client = StreamOwned::new(client, socket);
    client.write_all(b"hello").unwrap();
    let mut connection = fixture.established.recv_timeout(PATIENCE).unwrap();
    assert_eq!(read(&mut connection, 5), b"hello");
}

#[test]
fn the_subject_of_a_client_certificate_is_handed_on() {
    let fixture = Fixture::new(&patient(), true);
    let identity = fixture.ca.issue("edge-42", &["Edge-42.example"]);
    let mut client = fixture.client(Some(&identity));
    client.write_all(b"x").unwrap();
    let connection = fixture.established.recv_timeout(PATIENCE).unwrap();
    assert_eq!(connection.subject.unwrap().names, ["CN=edge-42", "DNS:edge-42.example"]);
}

#[test]
fn clients_without_the_right_certificate_are_refused_and_told() {
    let fixture = Fixture::new(&patient(), true);
    let stranger = Ca::new("other").issue("edge-42", &[]);
    let told = |identity: Option<&Leaf>| {
        let mut client = fixture.client(identity);
        // The client is done before the server looks at its certificate; the refusal comes with the first read.
        let sent = client.write_all(b"x");
        sent.and_then(|()| io::Read::read(&mut client, &mut [0]).map(drop)).unwrap_err().to_string()
    };
    assert!(told(None).contains("CertificateRequired"));
    assert!(told(Some(&stranger)).contains("UnknownCA"));
    fixture.wait_for(Outcome::NoCertificate, 1);
    fixture.wait_for(Outcome::BadCertificate, 1);
    assert!(fixture.established.try_recv().is_err());
}

#[test]
fn a_client_that_does_not_trust_us_is_counted() {
    let fixture = Fixture::with(patient());
    let config = Ca::new("other").client(None, None);
    let mut client = StreamOwned::new(connect(&config, "a.example"), fixture.submit());
    assert!(client.write_all(b"x").is_err());
    fixture.wait_for(Outcome::RefusedByPeer, 1);
}

#[test]
fn slow_handshakes_time_out_whatever_they_trickle() {
    let fixture = Fixture::with(settings(Duration::from_millis(200), 64));
    let mut silent = fixture.submit();
    let mut hello = Vec::new();
    connect(&fixture.ca.client(None, None), "a.example").write_tls(&mut hello).unwrap();
    let mut trickling = fixture.submit();
    let start = Instant::now();
    // A byte whenever the last one was taken, never the whole: progress must not prolong the time.
    let cut = hello.iter().cycle().take(hello.len() - 1).find(|byte| {
        let sent = trickling.write_all(std::slice::from_ref(*byte));
        thread::park_timeout(Duration::from_millis(1));
        sent.is_err() || fixture.handshakes.stats().get(Outcome::TimedOut) == 2
    });
    assert!(cut.is_some() || hello.len() < 400, "not cut in {:?}", start.elapsed());
    fixture.wait_for(Outcome::TimedOut, 2);
    assert!(matches!(io::Read::read(&mut silent, &mut [0; 8]), Ok(0) | Err(_)), "closed");
}

#[test]
fn time_is_counted_from_the_accept() {
    let fixture = Fixture::with(settings(Duration::from_secs(3600), 64));
    let (_socket, mut incoming) = fixture.sockets();
    incoming.accepted = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
    assert!(fixture.handshakes.submit(incoming));
    fixture.wait_for(Outcome::TimedOut, 1);
}

#[test]
fn garbage_and_hang_ups_are_told_apart() {
    let fixture = Fixture::with(patient());
    let mut http = fixture.submit();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    fixture.wait_for(Outcome::NotTls, 1);
    let mut alert = [0; 7];
    io::Read::read_exact(&mut http, &mut alert).unwrap();
    assert_eq!(alert[0], 21, "an alert record");
    drop(fixture.submit());
    fixture.wait_for(Outcome::Gone, 1);
}

#[test]
fn one_too_many_is_closed_and_counted() {
    let fixture = Fixture::with(settings(PATIENCE, 2));
    let held = [fixture.submit(), fixture.submit()];
    let (mut socket, incoming) = fixture.sockets();
    assert!(!fixture.handshakes.submit(incoming), "those two have not had their second yet");
    assert_eq!(io::Read::read(&mut socket, &mut [0]).unwrap(), 0);
    assert_eq!(fixture.handshakes.stats().get(Outcome::Full), 1);
    drop(held);
    fixture.wait_for(Outcome::Gone, 2);
    let mut client = fixture.client(None);
    client.write_all(b"x").unwrap();
    fixture.established.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn silent_connections_give_way_to_new_ones() {
    let mut fixture = Fixture::with(patient());
    let (sender, established) = mpsc::channel();
    let sink: Sink<u32> = Arc::new(move |connection| drop(sender.send(connection)));
    let no_grace = Handshakes::start_with(&settings(PATIENCE, 2), Duration::ZERO, sink);
    (fixture.handshakes, fixture.established) = (Arc::new(no_grace.unwrap()), established);
    let mut silent = [fixture.submit(), fixture.submit()];
    let mut client = fixture.client(None);
    client.write_all(b"x").unwrap();
    fixture.established.recv_timeout(PATIENCE).unwrap();
    fixture.wait_for(Outcome::Evicted, 1);
    assert_eq!(io::Read::read(&mut silent[0], &mut [0]).unwrap(), 0, "the oldest");
}

#[test]
fn a_panic_of_the_sink_ends_one_connection() {
    let mut fixture = Fixture::with(patient());
    let (sender, established) = mpsc::channel();
    let failed = AtomicBool::new(false);
    let sink: Sink<u32> = Arc::new(move |connection| {
        assert!(failed.swap(true, Ordering::Relaxed), "the first one fails on purpose");
        drop(sender.send(connection));
    });
    fixture.handshakes = Arc::new(Handshakes::start(&patient(), sink).unwrap());
    fixture.established = established;
    let mut first = fixture.client(None);
    drop(first.write_all(b"x"));
    fixture.wait_for(Outcome::Panicked, 1);
    let mut second = fixture.client(None);
    second.write_all(b"x").unwrap();
    fixture.established.recv_timeout(PATIENCE).unwrap();
}

#[tokio::test]
async fn shutdown_cuts_those_that_do_not_end() {
    let fixture = Fixture::with(patient());
    let mut silent = fixture.submit();
    fixture.handshakes.shutdown(Duration::from_millis(20)).await;
    fixture.wait_for(Outcome::Stopped, 1);
    assert_eq!(io::Read::read(&mut silent, &mut [0]).unwrap(), 0);
    let (mut late, incoming) = fixture.sockets();
    assert!(!fixture.handshakes.submit(incoming));
    assert_eq!(io::Read::read(&mut late, &mut [0]).unwrap(), 0);
    fixture.handshakes.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn shutdown_lets_running_handshakes_end() {
    let fixture = Fixture::with(patient());
    let socket = fixture.submit();
    let config = fixture.ca.client(None, None);
    let client = thread::spawn(move || {
        let mut client = StreamOwned::new(connect(&config, "a.example"), socket);
        client.write_all(b"x").map(|()| client)
    });
    fixture.handshakes.shutdown(PATIENCE).await;
    fixture.established.recv_timeout(PATIENCE).unwrap();
    drop(client.join().unwrap().unwrap());
}
