//! The yamux engine against Go's hashicorp/yamux, in both roles, over loopback TCP. The peer is `e2e/go/yamux`, which is built here:
//! without a Go toolchain these tests fail.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::{
    io::{self, BufRead, BufReader, Read},
    net::Shutdown,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use frontier_wire::yamux::{Config, Event, GoAwayCode, Role, START_WINDOW, StreamId};
use tokio::net::{TcpListener, TcpStream};

#[path = "yamux_driver/connection.rs"]
mod connection;
#[path = "yamux_driver/driver.rs"]
mod driver;

use connection::Connection;
use driver::{Load, Manual, PATIENCE, Quota, drive, pattern_bytes};

const MIB: usize = 1 << 20;

/// A running peer. Killed if the test fails before it has ended.
struct Peer {
    process: Child,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a peer that dials us (as yamux server if we are the client, and the other way round).
    async fn dialing(ours: Role, args: &[&str]) -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peer = Self::spawn(ours, &[&["-dial", &address], args].concat());
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        (peer, socket)
    }

    /// Starts a peer that listens.
    async fn listening(ours: Role, args: &[&str]) -> (Self, TcpStream) {
        let mut peer = Self::spawn(ours, &[&["-listen", "127.0.0.1:0"], args].concat());
        let line = peer.line();
        let address = line.strip_prefix("listening ").expect("the address comes first");
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        (peer, socket)
    }

    fn spawn(ours: Role, args: &[&str]) -> Self {
        let role = match ours {
            Role::Client => "server",
            Role::Server => "client",
        };
        let mut command = Command::new(binary());
        command.args(["-role", role]).args(args).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the peer was built");
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Self { process, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Closes the connection and waits for the peer to end well; returns what it printed.
    ///
    /// Only this direction is closed at first: a socket that is dropped while it has unread bytes, such as the peer's last window updates,
    /// resets the connection, and with it goes what the peer has not read yet.
    fn end(mut self, socket: TcpStream) -> String {
        let mut socket = socket.into_std().unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may have closed already.
        let _ = socket.shutdown(Shutdown::Write);
        let _ = io::copy(&mut socket, &mut io::sink());
        let mut output = String::new();
        self.stdout.read_to_string(&mut output).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}, {output}");
        assert!(output.ends_with("done\n"), "{output}");
        output
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether Go's modules cannot be had, and somebody knows that and says so: what was not tried has not passed.
fn left_out() -> bool {
    static LEFT_OUT: OnceLock<bool> = OnceLock::new();
    *LEFT_OUT.get_or_init(|| {
        if std::env::var_os("FRONTIER_OFFLINE").is_none() {
            return false;
        }
        let mut download = Command::new("go");
        let status = download.args(["mod", "download"]).current_dir(source()).status();
        let missing = !status.expect("this test needs Go on the path").success();
        if missing {
            eprintln!(
                "\n!!!!! SKIPPED: nothing was tested with Go's yamux, as FRONTIER_OFFLINE wants it !!!!!\n"
            );
        }
        missing
    })
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/go/yamux")
}

/// The program, built once per run into cargo's target directory.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("yamuxpeer");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&path).arg(".").current_dir(source());
        let status = build.status().expect("this test needs Go on the path");
        assert!(status.success(), "go build: {status}");
        path
    })
}

fn connection(role: Role) -> Connection {
    Connection::new(role, &Config::default())
}

fn is_end(event: &Event<bytes::Bytes>) -> bool {
    matches!(event, Event::Finished { .. })
}

fn is_reset(event: &Event<bytes::Bytes>) -> bool {
    matches!(event, Event::Reset { .. })
}

fn is_opened(event: &Event<bytes::Bytes>) -> bool {
    matches!(event, Event::Opened { .. })
}

/// Many streams at once, each echoed by the peer and checked.
async fn check_echo(ours: Role, peer: Peer, mut socket: TcpStream) {
    let mut connection = connection(ours);
    let mut load = Load::new(500, 0, Quota::Bytes(20_000));
    drive(&mut socket, &mut connection, &mut load).await;
    assert_eq!(load.totals(), (500 * 20_000, 500 * 20_000));
    assert_eq!(connection.held_bytes(), 0);
    peer.end(socket);
}

#[tokio::test]
async fn go_server_echoes_many_streams() {
    if left_out() {
        return;
    }
    let (peer, socket) = Peer::listening(Role::Client, &["-mode", "echo"]).await;
    check_echo(Role::Client, peer, socket).await;
}

#[tokio::test]
async fn go_client_echoes_many_streams() {
    if left_out() {
        return;
    }
    let (peer, socket) = Peer::dialing(Role::Server, &["-mode", "echo"]).await;
    check_echo(Role::Server, peer, socket).await;
}

#[tokio::test]
async fn both_sides_open_many_streams_at_once() {
    if left_out() {
        return;
    }
    for ours in [Role::Client, Role::Server] {
        let args = ["-mode", "load", "-streams", "200", "-bytes", "10000"];
        let (peer, mut socket) = Peer::dialing(ours, &args).await;
        let mut connection = connection(ours);
        let mut load = Load::new(200, 200, Quota::Bytes(10_000));
        drive(&mut socket, &mut connection, &mut load).await;
        assert_eq!((connection.held_bytes(), connection.queued_bytes()), (0, 0));
        let output = peer.end(socket);
        assert!(output.contains("sent 4000000 received 4000000"), "{output}");
    }
}

/// Eight streams, four of either side, that are full in both directions for a while.
async fn check_full(ours: Role, config: Config, window: &str) {
    let args = ["-mode", "load", "-streams", "4", "-for", "2500ms", "-window", window];
    let (peer, mut socket) = Peer::dialing(ours, &args).await;
    let mut connection = Connection::new(ours, &config);
    let until = Instant::now() + Duration::from_millis(2500);
    let mut load = Load::new(4, 4, Quota::Until(until, 4 * MIB));
    drive(&mut socket, &mut connection, &mut load).await;
    let (sent, received) = load.totals();
    let output = peer.end(socket);
    assert!(output.contains(&format!("sent {received} received {sent}")), "{output} but {sent}, {received}");
    // A slow machine moves hundreds of MiB in that time; a link that stalls moves its windows and buffers.
    assert!(sent > 16 * MIB && received > 16 * MIB, "{sent} sent, {received} received");
    assert!(load.streams.values().all(|progress| progress.sent > MIB && progress.received > MIB));
    assert_eq!(load.streams.values().filter(|progress| progress.accepted).count(), 4);
    assert_eq!(connection.held_bytes(), 0);
}

#[tokio::test]
async fn our_client_is_full_both_ways_with_go() {
    if left_out() {
        return;
    }
    check_full(Role::Client, Config::default(), "262144").await;
}

#[tokio::test]
async fn our_server_is_full_both_ways_with_go_and_larger_windows() {
    if left_out() {
        return;
    }
    let config = Config { recv_window: 1 << 20, ..Config::default() };
    check_full(Role::Server, config, "1048576").await;
}

#[tokio::test]
async fn half_closed_streams_carry_answers_both_ways() {
    if left_out() {
        return;
    }
    for ours in [Role::Client, Role::Server] {
        let (peer, mut socket) = Peer::listening(ours, &["-mode", "half-close", "-bytes", "100000"]).await;
        let (mut connection, mut app) = (connection(ours), Manual::default());
        let stream = connection.open().unwrap();
        connection.write(stream, &mut pattern_bytes(stream.get(), 0, 100_000)).unwrap();
        connection.finish(stream);
        app.until(&mut socket, &mut connection, is_end).await;
        assert!(app.payload(stream) == pattern_bytes(stream.get(), 0, 200_000));
        assert!(!connection.engine().contains(stream));

        let at = app.events.iter().position(is_end).unwrap();
        app.events.drain(..=at);
        app.until(&mut socket, &mut connection, is_end).await;
        let Some(&Event::Opened { stream }) = app.events.iter().find(|event| is_opened(event)) else {
            panic!("no stream of the peer");
        };
        assert!(app.payload(stream) == pattern_bytes(stream.get(), 0, 100_000));
        for at in [0, 100_000] {
            connection.write(stream, &mut pattern_bytes(stream.get(), at, 100_000)).unwrap();
            app.flush(&mut socket, &mut connection).await;
        }
        connection.finish(stream);
        app.flush(&mut socket, &mut connection).await;
        assert_eq!(connection.engine().streams(), 0);
        peer.end(socket);
    }
}

#[tokio::test]
async fn our_reset_ends_one_stream_and_no_other() {
    if left_out() {
        return;
    }
    for ours in [Role::Client, Role::Server] {
        let (peer, mut socket) = Peer::dialing(ours, &["-mode", "reset", "-bytes", "1000"]).await;
        let (mut connection, mut app) = (connection(ours), Manual::default());
        let [doomed, other] = [(); 2].map(|()| connection.open().unwrap());
        connection.write(doomed, &mut pattern_bytes(doomed.get(), 0, 500)).unwrap();
        app.flush(&mut socket, &mut connection).await;
        connection.write(doomed, &mut pattern_bytes(doomed.get(), 500, 500)).unwrap();
        connection.reset(doomed);
        connection.write(other, &mut pattern_bytes(other.get(), 0, 1000)).unwrap();
        connection.finish(other);
        app.until(&mut socket, &mut connection, is_end).await;
        assert!(app.events.contains(&Event::Finished { stream: other }));
        peer.end(socket);
    }
}

#[tokio::test]
async fn a_reset_by_go_is_told_apart_from_an_end() {
    if left_out() {
        return;
    }
    for ours in [Role::Client, Role::Server] {
        let (peer, mut socket) = Peer::listening(ours, &["-mode", "close-resets", "-bytes", "1000"]).await;
        let (mut connection, mut app) = (connection(ours), Manual::default());
        app.until(&mut socket, &mut connection, is_end).await;
        assert_eq!(connection.engine().streams(), 1, "half of the stream is open");
        app.until(&mut socket, &mut connection, is_reset).await;
        assert_eq!(connection.engine().streams(), 0);
        peer.end(socket);
    }
}

#[tokio::test]
async fn streams_that_go_refuses_are_reset() {
    if left_out() {
        return;
    }
    let (peer, mut socket) = Peer::dialing(Role::Client, &["-mode", "refuse"]).await;
    let (mut connection, mut app) = (connection(Role::Client), Manual::default());
    let [kept, refused] = [(); 2].map(|()| connection.open().unwrap());
    app.until(&mut socket, &mut connection, is_reset).await;
    assert_eq!(app.events, [Event::Reset { stream: refused }]);
    assert!(connection.engine().contains(kept));
    peer.end(socket);
}

#[tokio::test]
async fn streams_that_we_refuse_are_reset() {
    if left_out() {
        return;
    }
    let config = Config { max_streams: 0, ..Config::default() };
    let (peer, mut socket) = Peer::dialing(Role::Server, &["-mode", "refused"]).await;
    let (mut connection, mut app) = (Connection::new(Role::Server, &config), Manual::default());
    let mut refused = 0;
    while refused == 0 {
        // Each round trip is a chance for the peer's SYN to arrive, the last one for our RST.
        connection.engine_mut().ping(1);
        app.until(&mut socket, &mut connection, |event| *event == Event::Pong { value: 1 }).await;
        app.events.clear();
        refused += connection.engine_mut().take_counts().refused;
    }
    assert_eq!((refused, connection.engine().streams()), (1, 0));
    connection.engine_mut().ping(1);
    app.until(&mut socket, &mut connection, |event| *event == Event::Pong { value: 1 }).await;
    peer.end(socket);
}

#[tokio::test]
async fn a_slow_reader_in_go_stops_its_own_stream_only() {
    if left_out() {
        return;
    }
    let (peer, mut socket) = Peer::dialing(Role::Client, &["-mode", "slow-reader", "-bytes", "600000"]).await;
    let mut connection = Connection::with_send_buffer(Role::Client, &Config::default(), MIB);
    let mut app = Manual::default();
    let slow = connection.open().unwrap();
    connection.write(slow, &mut pattern_bytes(slow.get(), 0, 600_000)).unwrap();
    connection.finish(slow);
    app.flush(&mut socket, &mut connection).await;
    connection.engine_mut().ping(1);
    app.until(&mut socket, &mut connection, |event| matches!(event, Event::Pong { .. })).await;
    assert_eq!(connection.engine().send_window(slow), 0);
    assert_eq!(connection.queued_bytes(), 600_000 - START_WINDOW as usize);

    let fast = connection.open().unwrap();
    connection.write(fast, &mut pattern_bytes(fast.get(), 0, 600_000)).unwrap();
    connection.finish(fast);
    let ends = |event: &Event<_>| matches!(event, Event::Window { stream, .. } if stream.get() == 1);
    app.until(&mut socket, &mut connection, ends).await;
    while connection.queued_bytes() > 0 {
        app.events.clear();
        app.until(&mut socket, &mut connection, |event| matches!(event, Event::Window { .. })).await;
    }
    app.flush(&mut socket, &mut connection).await;
    assert_eq!(connection.queued_bytes(), 0);
    peer.end(socket);
}

#[tokio::test]
async fn a_slow_reader_of_ours_blocks_the_writer_in_go_at_its_window() {
    if left_out() {
        return;
    }
    let (peer, mut socket) = Peer::listening(Role::Client, &["-mode", "blocked", "-bytes", "700000"]).await;
    let (mut connection, mut app) = (connection(Role::Client), Manual::default());
    let [slow, signal] = [2, 4].map(|id| StreamId::new(id).unwrap());
    let is_signal = |event: &Event<_>| matches!(event, Event::Finished { stream } if stream.get() == 4);
    app.until(&mut socket, &mut connection, is_signal).await;
    assert_eq!(app.payload(slow).len(), START_WINDOW as usize);
    assert_eq!(connection.engine().recv_window(slow), Some((START_WINDOW, 0)));
    connection.engine_mut().release(slow, START_WINDOW);
    connection.engine_mut().grow(slow, 700_000);
    connection.finish(signal);
    app.until_bytes(&mut socket, &mut connection, slow, 700_000).await;
    assert!(app.payload(slow) == pattern_bytes(slow.get(), 0, 700_000));
    let output = peer.end(socket);
    assert!(output.contains("blocked 262144"), "{output}");
}

#[tokio::test]
async fn pings_are_answered_both_ways() {
    if left_out() {
        return;
    }
    let (peer, mut socket) = Peer::dialing(Role::Server, &["-mode", "ping", "-streams", "50"]).await;
    let (mut connection, mut app) = (connection(Role::Server), Manual::default());
    let mut answered = 0;
    for value in 0..50 {
        connection.engine_mut().ping(value);
        app.until(&mut socket, &mut connection, |event| matches!(event, Event::Pong { .. })).await;
        assert_eq!(std::mem::take(&mut app.events), [Event::Pong { value }]);
        answered += connection.engine_mut().take_counts().control;
    }
    while answered < 100 {
        connection.engine_mut().ping(0);
        app.until(&mut socket, &mut connection, |event| matches!(event, Event::Pong { .. })).await;
        app.events.clear();
        // The answer to this ping is not counted.
        answered += connection.engine_mut().take_counts().control - 1;
    }
    connection.engine_mut().go_away(GoAwayCode::Normal);
    app.flush(&mut socket, &mut connection).await;
    peer.end(socket);
}
