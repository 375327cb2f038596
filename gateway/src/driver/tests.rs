//! The rules of the module documentation, one test each, with room for 2 events per wait and budgets of 1 read.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use frontier_ops::{
    config::ListenAddr,
    tls::{
        server::{Files, server_config},
        testing::{Ca, Dir, block, connect},
    },
};
use frontier_wire::native::{
    frame::{FrameHeader, FrameType},
    hello::{Hello, InstanceId, Role},
};
use mio::{Poll, Token};
use parking_lot::Mutex;

use super::{BUFFER, Driver, Foreign, Handover, Hub, Inbox, LISTENERS, Listener, Parcel, Tuning, WAKE};
use crate::{
    core::{
        Bound, Settings, Shard, Shared,
        message::{Msg, ScanReply},
        shard::walks::SLOTS_PER_TURN,
    },
    sim::gate::Gate,
    tls::{
        io::{TlsIo, TlsScratch},
        testing::Pipe,
    },
};

/// What the driver handed over as not the core's: the bytes it had read and the socket.
type HandedOver = Arc<Mutex<Vec<(Vec<u8>, TcpStream)>>>;

/// A driver that runs only when it is told to.
struct Bench {
    driver: Driver,
    addr: SocketAddr,
    foreign: HandedOver,
}

// === impl Bench ===

impl Bench {
    fn new() -> Self {
        let shared = Arc::new(Shared::new(Settings::default(), 1, Arc::new(Gate)));
        let poll = Poll::new().unwrap();
        let hub = Hub::new(vec![Inbox::new(&poll).unwrap()], Arc::clone(&shared));
        let listener = Listener::bind(&ListenAddr::parse("127.0.0.1:0").unwrap(), Bound::Edge, None).unwrap();
        let addr = listener.local_addr().unwrap();
        let foreign = HandedOver::default();
        let sink = Arc::clone(&foreign);
        let hand_over: Foreign = Arc::new(move |_, socket, _, bytes| {
            sink.lock().push((bytes, socket));
            Handover::Piped
        });
        let start = Instant::now();
        let shard = Shard::new(0, shared, Driver::clock(start), 1);
        let tuning = Tuning { events: 2, reads: 1 };
        let driver = Driver::new(shard, poll, hub, vec![listener], Some(hand_over), start, tuning).unwrap();
        Self { driver, addr, foreign }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).unwrap()
    }

    /// Turns until something holds.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        // A wake-up ends the wait of a turn that would otherwise last until a handshake times out.
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what}");
            self.driver.hub.post(0, Msg::Drain { edges: true, spread_ms: 0 });
            self.driver.turn().unwrap();
        }
    }

    /// Turns while the driver says itself that it must not wait.
    fn run_on(&mut self) -> usize {
        let mut turns = 0;
        while self.driver.timeout() == Some(Duration::ZERO) {
            self.driver.turn().unwrap();
            turns += 1;
            assert!(turns < 10_000, "a driver that never comes to rest");
        }
        turns
    }

    /// Takes what the poller has now without handling it.
    fn poll(&mut self) {
        self.driver.poll.poll(&mut self.driver.events, Some(Duration::from_secs(20))).unwrap();
        self.driver.shard.set_now(Driver::clock(self.driver.start));
        self.driver.note_events();
    }

    fn sessions(&self) -> usize {
        self.driver.shard.len()
    }

    fn bytes_in(&self) -> u64 {
        self.driver.shard.stats().bytes_in.get()
    }

    fn load(&self) -> usize {
        self.driver.hub.connections(0)
    }

    fn held(&self) -> u64 {
        self.driver.shard.shared().held.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// A connection whose TLS handshake is done.
    fn connect_tls(&self) -> (TcpStream, rustls::ClientConnection) {
        let (ca, dir) = (Ca::new("ca"), Dir::new());
        let tls = block(vec![dir.pair("a", &ca.issue("a", &["a.example"]))]);
        let config = server_config(&tls, &Files::read(&tls), &[]).unwrap();
        let mut server = TlsIo::accept(Arc::new(config)).unwrap();
        let mut client = connect(&ca.client(None, None), "a.example");
        let (mut up, mut down) = (Pipe::new(1 << 20, 1 << 20), Pipe::new(1 << 20, 1 << 20));
        let (mut scratch, mut plain) = (TlsScratch::small(), Vec::new());
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            server.read(&mut up, &mut scratch, &mut plain).unwrap();
            server.flush(&mut down).unwrap();
            if down.len() > 0 {
                client.read_tls(&mut down).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, addr) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let (bound, accepted, tls) = (Bound::Edge, Instant::now(), Box::new(server));
        let parcel = Parcel::Established { socket, bound, addr, accepted, tls, plain, subject: None };
        self.driver.hub.post(0, Msg::Connection(Box::new(parcel)));
        (peer, client)
    }
}

/// A yamux frame of the session stream; the first one opens it.
fn on_session(first: bool, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, 0, 0, u8::from(first), 0, 0, 0, 1], &len[..], payload].concat()
}

fn hello() -> Vec<u8> {
    let mut head = Vec::new();
    Hello::new(Role::Edge, InstanceId::new([9; 16])).encode(&mut head);
    let mut frame = Vec::new();
    FrameHeader::new(FrameType::Hello, 0).put_frame(&mut frame, &head, &[]).unwrap();
    on_session(true, &frame)
}

/// Frames that a gateway skips, `count` times 50,000 bytes.
fn skipped(count: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    FrameHeader::new(FrameType::Unknown(0x7f), 0).put_frame(&mut frame, &[], &[0; 50_000 - 28]).unwrap();
    on_session(false, &frame).repeat(count)
}

/// An edge that is welcome.
fn welcome(bench: &mut Bench) -> TcpStream {
    let mut peer = bench.connect();
    peer.write_all(&hello()).unwrap();
    bench.until("welcome", |bench| bench.driver.shard.stats().sessions[0].get() == 1);
    bench.run_on();
    peer
}

#[test]
fn more_events_than_fit_come_with_the_next_waits() {
    let mut bench = Bench::new();
    let mut peers: Vec<TcpStream> = (0..9).map(|_| bench.connect()).collect();
    bench.until("all are accepted", |bench| bench.sessions() == 9);
    for peer in &mut peers {
        peer.write_all(&hello()).unwrap();
    }
    bench.until("all are welcome", |bench| bench.driver.shard.stats().sessions[0].get() == 9);
}

#[test]
fn a_socket_that_used_up_its_budget_is_read_on_without_a_further_event() {
    let mut bench = Bench::new();
    let mut peer = welcome(&mut bench);
    let before = bench.bytes_in();
    let bytes = skipped(20);
    let len = bytes.len() as u64;
    let writer = std::thread::spawn(move || {
        peer.write_all(&bytes).unwrap();
        peer
    });
    bench.poll();
    bench.driver.read_ready();
    assert!(bench.bytes_in() - before <= BUFFER as u64, "one read per turn");
    bench.until("everything is read", |bench| bench.bytes_in() - before == len);
    drop(writer.join().unwrap());
}

#[test]
fn while_something_is_ready_or_an_inbox_has_mail_nobody_waits() {
    let mut bench = Bench::new();
    let _peer = welcome(&mut bench);
    assert_ne!(bench.driver.timeout(), Some(Duration::ZERO), "nothing to do");
    bench.driver.hub.post(0, Msg::Drain { edges: true, spread_ms: 0 });
    assert_eq!(bench.driver.timeout(), Some(Duration::ZERO), "mail");
    bench.run_on();
    bench.driver.ready.push_back(Token(0));
    assert_eq!(bench.driver.timeout(), Some(Duration::ZERO), "a socket that may have more");
}

#[test]
fn what_is_done_in_steps_goes_on_without_a_wait() {
    let mut bench = Bench::new();
    let _peer = welcome(&mut bench);
    let pages = Arc::new(Mutex::new(0));
    for _ in 0..3 {
        let pages = Arc::clone(&pages);
        let reply = ScanReply(Box::new(move |_| *pages.lock() += 1));
        bench.driver.shard.on_msg(Msg::Scan { from: 0, slots: SLOTS_PER_TURN, bound: Bound::Edge, reply });
    }
    assert_eq!(bench.driver.timeout(), Some(Duration::ZERO));
    bench.run_on();
    assert_eq!(*pages.lock(), 3);
    assert_ne!(bench.driver.timeout(), Some(Duration::ZERO), "nothing is left to do");
}

#[test]
fn a_short_read_clears_readiness() {
    let mut bench = Bench::new();
    let mut peer = welcome(&mut bench);
    peer.write_all(&on_session(false, &[])).unwrap();
    bench.poll();
    bench.driver.read_ready();
    assert!(bench.driver.ready.is_empty(), "no second read to learn that there is nothing");
    assert!(bench.driver.conns.get(0).is_some_and(|conn| !conn.readable));
    // And the next bytes make an event again.
    let before = bench.bytes_in();
    peer.write_all(&on_session(false, &[])).unwrap();
    bench.until("the next bytes", |bench| bench.bytes_in() > before);
}

#[test]
fn a_short_read_of_a_socket_whose_peer_has_closed_is_read_to_the_end() {
    let mut bench = Bench::new();
    let mut peer = welcome(&mut bench);
    peer.write_all(&on_session(false, &[])).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    // Both are there before the driver looks: one event says everything, and there will be no other.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bench.driver.conns.get(0).is_some_and(|conn| conn.ended) {
        assert!(Instant::now() < deadline);
        bench.poll();
    }
    bench.driver.read_ready();
    bench.run_on();
    assert_eq!(bench.sessions(), 0, "the end was read, too");
}

/// Every new socket could be written, which is no news.
#[test]
fn a_socket_without_anything_to_read_is_no_event() {
    let mut bench = Bench::new();
    let _silent = bench.connect();
    bench.until("accepted", |bench| bench.load() == 1);
    bench.driver.poll.poll(&mut bench.driver.events, Some(Duration::ZERO)).unwrap();
    assert!(bench.driver.events.iter().all(|event| event.token() == WAKE));
}

#[test]
fn a_listener_that_used_up_its_step_accepts_on_without_a_further_event() {
    let mut bench = Bench::new();
    let peers: Vec<TcpStream> = (0..100).map(|_| bench.connect()).collect();
    bench.poll();
    bench.driver.read_ready();
    assert_eq!(bench.sessions(), 64, "a bounded step");
    assert_eq!(bench.driver.ready.iter().filter(|token| token.0 == LISTENERS).count(), 1);
    bench.run_on();
    assert_eq!(bench.sessions(), peers.len());
}

#[test]
fn one_that_goes_and_one_that_comes_in_the_same_turn_keep_their_sockets() {
    let mut bench = Bench::new();
    let mut first = bench.connect();
    bench.until("accepted", |bench| bench.sessions() == 1);
    bench.run_on();
    first.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let second = bench.connect();
    // Both in one turn, the one that goes before the one that comes.
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.driver.ready.len() < 2 {
        assert!(Instant::now() < deadline);
        bench.poll();
    }
    bench.driver.ready = [Token(0), Token(LISTENERS)].into();
    bench.driver.read_ready();
    bench.driver.act();
    let taken = bench.foreign.lock().pop();
    let (bytes, _socket) = taken.expect("the foreign connection was handed over");
    assert_eq!(bytes, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!((bench.sessions(), bench.load()), (1, 1), "the newcomer alone is counted");
    assert!(bench.driver.conns.get(0).is_none() && bench.driver.conns.get(1).is_some());
    drop(second);
    bench.until("the newcomer has left", |bench| bench.sessions() == 0);
    assert_eq!(bench.load(), 0);
}

#[test]
fn no_byte_of_a_foreign_protocol_is_lost_behind_the_first_read() {
    let mut bench = Bench::new();
    // More has come than one read takes, and the budget allows for the next one at once.
    bench.driver.reads = 4;
    bench.driver.buffer = vec![0; 1_000].into();
    let mut peer = bench.connect();
    bench.until("accepted", |bench| bench.sessions() == 1);
    bench.run_on();
    let sent: Vec<u8> = b"GET ".iter().copied().chain((0..10_000u32).map(|n| n as u8)).collect();
    peer.write_all(&sent).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut room = vec![0; sent.len()];
    while bench.driver.conns.get_mut(0).unwrap().io.socket().peek(&mut room).unwrap_or(0) < sent.len() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    bench.until("handed over", |bench| !bench.foreign.lock().is_empty());
    let (mut got, mut socket) = bench.foreign.lock().pop().unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.read_to_end(&mut got).unwrap();
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

#[test]
fn a_panic_over_no_session_is_counted_and_ends_nobody() {
    let mut bench = Bench::new();
    let _peer = welcome(&mut bench);
    let panics = |bench: &Bench| bench.driver.shard.stats().panics.get();
    bench.driver.hub.post(0, Msg::Fault);
    bench.until("a message", |bench| panics(bench) == 1);
    // Whoever asked for a list is called from the turn's end, which is about no session either.
    let reply = ScanReply(Box::new(|_| panic!("the list is read by somebody who panics")));
    bench.driver.hub.post(0, Msg::Scan { from: 0, slots: 1, bound: Bound::Edge, reply });
    bench.until("the rest of a turn", |bench| panics(bench) == 2);
    assert_eq!(bench.sessions(), 1);
}

/// An incomplete record is memory that a peer makes the gateway hold, although the core never sees it.
#[test]
fn what_tls_holds_for_a_peer_is_in_the_memory_budget() {
    let mut bench = Bench::new();
    let (mut peer, mut client) = bench.connect_tls();
    let mut frame = Vec::new();
    FrameHeader::new(FrameType::Unknown(0x7f), 0).put_frame(&mut frame, &[], &[0; 10_000]).unwrap();
    client.writer().write_all(&hello()).unwrap();
    client.writer().write_all(&on_session(false, &frame)).unwrap();
    let mut records = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut records).unwrap();
    }
    let (last, most) = records.split_last().unwrap();
    peer.write_all(most).unwrap();
    bench.until("the beginning of a record counts", |bench| bench.held() >= 10_000);
    peer.write_all(&[*last]).unwrap();
    bench.until("a complete one does not", |bench| bench.bytes_in() > 10_000 && bench.held() == 0);
    client.writer().write_all(&[0; 5_000]).unwrap();
    records.clear();
    client.write_tls(&mut records).unwrap();
    peer.write_all(&records[..2_000]).unwrap();
    bench.until("another beginning", |bench| bench.held() >= 2_000);
    drop(peer);
    bench.until("the peer has left", |bench| bench.sessions() == 0);
    assert_eq!(bench.held(), 0);
}
