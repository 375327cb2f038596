//! The yamux engine against the `yamux` crate, in both roles, over pipes of a few KiB and loopback TCP.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::{
    collections::BTreeMap,
    future::poll_fn,
    time::{Duration, Instant},
};

use bytes::Bytes;
use frontier_wire::yamux::{Config, Event, Role, START_WINDOW, StreamId};
use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::compat::TokioAsyncReadCompatExt;
use yamux::{Mode, Stream};

#[path = "yamux_driver/connection.rs"]
mod connection;
#[path = "yamux_driver/driver.rs"]
mod driver;

use connection::Connection;
use driver::{App, Load, Manual, Quota, drive, pattern, pattern_bytes};

const MIB: usize = 1 << 20;

/// The other side: a connection of the crate, driven by a task, and what happens on its streams in others.
struct Peer {
    opened: Vec<Stream>,
    accepted: mpsc::Receiver<Stream>,
    tasks: JoinSet<()>,
}

impl Peer {
    /// Opens so many streams and drives the connection until it ends. The crate announces a stream with its first bytes.
    async fn start<S>(ours: Role, io: S, open: usize) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mode = match ours {
            Role::Client => Mode::Server,
            Role::Server => Mode::Client,
        };
        let mut connection = yamux::Connection::new(io.compat(), yamux::Config::default(), mode);
        let mut opened = Vec::new();
        for _ in 0..open {
            opened.push(poll_fn(|cx| connection.poll_new_outbound(cx)).await.unwrap());
        }
        let (accept, accepted) = mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(Ok(stream)) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
                // Nobody accepts any more when the test is over.
                let _ = accept.send(stream).await;
            }
        });
        Self { opened, accepted, tasks }
    }

    /// Waits for all tasks: the connection was closed by us, and nothing of the peer's may have failed.
    async fn end(mut self, io: impl AsyncRead + AsyncWrite) {
        drop(io);
        drop(self.opened);
        while let Some(result) = self.tasks.join_next().await {
            result.expect("the peer is content");
        }
    }
}

/// Sends back what arrives, and grants only what it has sent back: a slow reader slows its writer.
#[derive(Debug, Default)]
struct Echo {
    expected: usize,
    finished: usize,
    backlog: BTreeMap<StreamId, (Vec<Bytes>, bool)>,
    bytes: usize,
}

impl Echo {
    /// Done after so many streams of the peer.
    fn new(expected: usize) -> Self {
        Self { expected, ..Self::default() }
    }
}

impl App for Echo {
    fn on_event(&mut self, _: &mut Connection, event: Event<Bytes>) {
        match event {
            Event::Opened { stream } => {
                self.backlog.insert(stream, (Vec::new(), false));
            }
            Event::Data { stream, payload } => self.backlog.get_mut(&stream).unwrap().0.push(payload),
            Event::Finished { stream } => self.backlog.get_mut(&stream).unwrap().1 = true,
            Event::Window { .. } | Event::Pong { .. } | Event::Accepted { .. } => {}
            Event::Reset { .. } | Event::GoAway { .. } => panic!("unexpected {event:?}"),
        }
    }

    fn fill(&mut self, connection: &mut Connection) {
        let (finished, bytes) = (&mut self.finished, &mut self.bytes);
        self.backlog.retain(|&stream, (backlog, end)| {
            for payload in &mut *backlog {
                let n = connection.write(stream, payload).unwrap();
                connection.engine_mut().release(stream, n.try_into().unwrap());
                *bytes += n;
            }
            backlog.retain(|payload| !payload.is_empty());
            let over = backlog.is_empty() && *end;
            if over {
                connection.finish(stream);
                *finished += 1;
            }
            !over
        });
    }

    fn is_done(&self, connection: &Connection) -> bool {
        self.finished == self.expected && connection.engine().streams() == 0
    }
}

/// Two ends of a pipe that holds 4 KiB each way.
fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(4096)
}

async fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

fn connection(role: Role) -> Connection {
    Connection::new(role, &Config::default())
}

/// Sends the pattern and checks what comes back, both at once, each to its end; returns (sent, received).
async fn exchange(stream: Stream, quota: Quota) -> (usize, usize) {
    let id = stream.id().to_string().parse().unwrap();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let mut sent = 0;
        loop {
            let left = quota.left(sent);
            if left == 0 {
                break;
            }
            let payload = pattern_bytes(id, sent, left.min(32 * 1024));
            writer.write_all(&payload).await.unwrap();
            sent += payload.len();
        }
        writer.close().await.unwrap();
        sent
    };
    let read = async {
        let (mut buffer, mut received) = (vec![0; 32 * 1024], 0);
        loop {
            let n = reader.read(&mut buffer).await.unwrap();
            if n == 0 {
                return received;
            }
            for &byte in &buffer[..n] {
                assert_eq!(byte, pattern(id, received));
                received += 1;
            }
        }
    };
    tokio::join!(write, read)
}

/// The crate sends on each of its streams and takes back what we echo.
async fn check_our_echo<S>(role: Role, (mut ours, theirs): (S, S), streams: usize, bytes: usize)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut peer = Peer::start(role, theirs, streams).await;
    let (mut connection, mut echo) = (connection(role), Echo::new(streams));
    let exchanges: Vec<_> =
        peer.opened.drain(..).map(|stream| exchange(stream, Quota::Bytes(bytes))).collect();
    let all = async { join_all(exchanges).await };
    let (totals, ()) = tokio::join!(all, drive(&mut ours, &mut connection, &mut echo));
    assert_eq!(totals, vec![(bytes, bytes); streams]);
    assert_eq!((echo.bytes, connection.held_bytes()), (streams * bytes, 0));
    peer.end(ours).await;
}

#[tokio::test]
async fn many_streams_of_the_crate_are_echoed() {
    check_our_echo(Role::Server, loopback().await, 200, 20_000).await;
    check_our_echo(Role::Client, loopback().await, 200, 20_000).await;
    check_our_echo(Role::Server, pipe(), 20, 300_000).await;
    check_our_echo(Role::Client, pipe(), 20, 300_000).await;
}

/// Streams of both sides, sending in both directions at once.
async fn check_load<S>(role: Role, (mut ours, theirs): (S, S), streams: usize, quota: Quota) -> (usize, usize)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut peer = Peer::start(role, theirs, streams).await;
    let (mut connection, mut load) = (connection(role), Load::new(streams, streams, quota));
    let opened: Vec<_> = peer.opened.drain(..).map(|stream| exchange(stream, quota)).collect();
    let accepted = async {
        let mut exchanges = Vec::new();
        for _ in 0..streams {
            exchanges.push(exchange(peer.accepted.recv().await.unwrap(), quota));
        }
        join_all(exchanges).await
    };
    let (opened, accepted, ()) =
        tokio::join!(join_all(opened), accepted, drive(&mut ours, &mut connection, &mut load));
    let theirs = opened.into_iter().chain(accepted).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let (sent, received) = load.totals();
    assert_eq!(theirs, (received, sent));
    assert_eq!(load.streams.values().filter(|progress| progress.accepted).count(), streams);
    assert_eq!(connection.held_bytes(), 0);
    peer.end(ours).await;
    (sent, received)
}

#[tokio::test]
async fn both_sides_open_many_streams_at_once() {
    for role in [Role::Client, Role::Server] {
        let totals = check_load(role, loopback().await, 200, Quota::Bytes(10_000)).await;
        assert_eq!(totals, (4_000_000, 4_000_000));
    }
}

fn for_two_seconds() -> Quota {
    Quota::Until(Instant::now() + Duration::from_secs(2), MIB)
}

#[tokio::test]
async fn a_small_pipe_full_both_ways_never_stalls() {
    for role in [Role::Client, Role::Server] {
        let (sent, received) = check_load(role, pipe(), 4, for_two_seconds()).await;
        // A pipe that stalls has moved its windows at most.
        let windows = 8 * START_WINDOW as usize;
        assert!(sent > 2 * windows && received > 2 * windows, "{sent} sent, {received} received");
    }
}

#[tokio::test]
async fn a_socket_full_both_ways_never_stalls() {
    for role in [Role::Client, Role::Server] {
        let (sent, received) = check_load(role, loopback().await, 4, for_two_seconds()).await;
        assert!(sent > 4 * MIB && received > 4 * MIB, "{sent} sent, {received} received");
    }
}

#[tokio::test]
async fn half_closed_streams_carry_answers_both_ways() {
    for role in [Role::Client, Role::Server] {
        let (mut ours, theirs) = loopback().await;
        let mut peer = Peer::start(role, theirs, 1).await;
        let (mut connection, mut app) = (connection(role), Manual::default());

        // We end first, the crate answers.
        let stream = connection.open().unwrap();
        connection.write(stream, &mut pattern_bytes(stream.get(), 0, 100_000)).unwrap();
        connection.finish(stream);
        let answer = async {
            let mut stream = peer.accepted.recv().await.unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.unwrap();
            stream.write_all(&request).await.unwrap();
            stream.close().await.unwrap();
        };
        let is_end = |event: &Event<_>| matches!(event, Event::Finished { .. });
        tokio::join!(answer, app.until(&mut ours, &mut connection, is_end));
        assert!(app.payload(stream) == pattern_bytes(stream.get(), 0, 100_000));
        assert_eq!(connection.engine().streams(), 0);

        // The crate ends first, we answer.
        app.events.clear();
        let mut theirs = peer.opened.pop().unwrap();
        let request = async {
            theirs.write_all(b"request").await.unwrap();
            theirs.close().await.unwrap();
        };
        tokio::join!(request, app.until(&mut ours, &mut connection, is_end));
        let Some(&Event::Opened { stream }) = app.events.first() else { panic!("no stream of the peer") };
        connection.write(stream, &mut app.payload(stream).into()).unwrap();
        app.flush(&mut ours, &mut connection).await;
        connection.finish(stream);
        let mut answer = Vec::new();
        let (read, ()) = tokio::join!(theirs.read_to_end(&mut answer), app.flush(&mut ours, &mut connection));
        assert_eq!((read.unwrap(), answer.as_slice()), (7, b"request".as_slice()));
        assert_eq!(connection.engine().streams(), 0);
        drop(theirs);
        peer.end(ours).await;
    }
}

#[tokio::test]
async fn resets_are_told_apart_from_ends_both_ways() {
    for role in [Role::Client, Role::Server] {
        let (mut ours, theirs) = loopback().await;
        let mut peer = Peer::start(role, theirs, 0).await;
        let (mut connection, mut app) = (connection(role), Manual::default());
        let [mut theirs, mut others] = [const { None }; 2];
        let streams = [(); 2].map(|()| connection.open().unwrap());
        for stream in streams {
            connection.write(stream, &mut pattern_bytes(stream.get(), 0, 100)).unwrap();
        }
        let accept = async {
            theirs = peer.accepted.recv().await;
            others = peer.accepted.recv().await;
        };
        tokio::join!(accept, app.flush(&mut ours, &mut connection));

        // Ours: the reader over there comes to an end that is none, its writer fails.
        connection.reset(streams[0]);
        app.flush(&mut ours, &mut connection).await;
        let mut theirs = theirs.unwrap();
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), 100);
        assert!(theirs.is_closed(), "both halves");
        assert!(theirs.write_all(b"x").await.is_err());

        // Theirs: a stream that is dropped while open is reset.
        drop(others);
        app.until(&mut ours, &mut connection, |event| matches!(event, Event::Reset { .. })).await;
        assert!(app.events.contains(&Event::Reset { stream: streams[1] }));
        assert!(!app.events.iter().any(|event| matches!(event, Event::Finished { .. })));
        assert_eq!(connection.engine().streams(), 0);
        drop(theirs);
        peer.end(ours).await;
    }
}

#[tokio::test]
async fn streams_we_refuse_are_reset() {
    let config = Config { max_streams: 1, ..Config::default() };
    let (mut ours, theirs) = loopback().await;
    let mut peer = Peer::start(Role::Server, theirs, 2).await;
    let (mut connection, mut app) = (Connection::new(Role::Server, &config), Manual::default());
    let [mut refused, mut kept] = [(); 2].map(|()| peer.opened.pop().unwrap());
    kept.write_all(b"kept").await.unwrap();
    app.until(&mut ours, &mut connection, |event| matches!(event, Event::Data { .. })).await;
    refused.write_all(b"refused").await.unwrap();
    let mut rest = Vec::new();
    let refusal = async {
        while connection.engine_mut().take_counts().refused == 0 {
            connection.engine_mut().ping(1);
            app.events.clear();
            app.until(&mut ours, &mut connection, |event| matches!(event, Event::Pong { .. })).await;
        }
    };
    let (read, ()) = tokio::join!(refused.read_to_end(&mut rest), refusal);
    assert_eq!(read.unwrap(), 0);
    assert!(refused.is_closed() && !kept.is_closed());
    drop((refused, kept));
    peer.end(ours).await;
}

#[tokio::test]
async fn a_slow_reader_in_the_crate_stops_its_own_stream_only() {
    let (mut ours, theirs) = loopback().await;
    let mut peer = Peer::start(Role::Client, theirs, 0).await;
    let mut connection = Connection::with_send_buffer(Role::Client, &Config::default(), MIB);
    let mut app = Manual::default();
    let [slow, fast] = [(); 2].map(|()| connection.open().unwrap());
    connection.write(slow, &mut pattern_bytes(slow.get(), 0, 600_000)).unwrap();
    app.flush(&mut ours, &mut connection).await;
    assert_eq!(connection.engine().send_window(slow), 0);
    assert_eq!(connection.queued_bytes(), 600_000 - START_WINDOW as usize);

    connection.write(fast, &mut pattern_bytes(fast.get(), 0, 200_000)).unwrap();
    connection.finish(fast);
    app.flush(&mut ours, &mut connection).await;
    let [mut slow_reader, mut fast_reader] =
        [peer.accepted.recv().await.unwrap(), peer.accepted.recv().await.unwrap()];
    let mut received = Vec::new();
    fast_reader.read_to_end(&mut received).await.unwrap();
    assert!(received == pattern_bytes(fast.get(), 0, 200_000));
    assert_eq!(connection.engine().send_window(slow), 0, "still");

    let mut received = vec![0; 600_000];
    let write = async {
        while connection.queued_bytes() > 0 {
            app.events.clear();
            app.until(&mut ours, &mut connection, |event| matches!(event, Event::Window { .. })).await;
        }
        app.flush(&mut ours, &mut connection).await;
    };
    let (read, ()) = tokio::join!(slow_reader.read_exact(&mut received), write);
    read.unwrap();
    assert!(received == pattern_bytes(slow.get(), 0, 600_000));
    drop((slow_reader, fast_reader));
    peer.end(ours).await;
}

#[tokio::test]
async fn a_slow_reader_of_ours_blocks_the_writer_in_the_crate_at_its_window() {
    let (mut ours, theirs) = loopback().await;
    let mut peer = Peer::start(Role::Server, theirs, 1).await;
    let (mut connection, mut app) = (connection(Role::Server), Manual::default());
    let mut writer = peer.opened.pop().unwrap();
    let id = writer.id().to_string().parse().unwrap();
    let total = 700_000;
    let write = async {
        writer.write_all(&pattern_bytes(id, 0, total)).await.unwrap();
        writer.close().await.unwrap();
    };
    let read = async {
        let stream = StreamId::new(id).unwrap();
        app.until_bytes(&mut ours, &mut connection, stream, START_WINDOW as usize).await;
        for _ in 0..3 {
            connection.engine_mut().ping(1);
            app.events.retain(|event| matches!(event, Event::Data { .. }));
            app.until(&mut ours, &mut connection, |event| matches!(event, Event::Pong { .. })).await;
        }
        assert_eq!(app.payload(stream).len(), START_WINDOW as usize, "not a byte more");
        connection.engine_mut().release(stream, START_WINDOW);
        connection.engine_mut().grow(stream, 700_000);
        app.until(&mut ours, &mut connection, |event| matches!(event, Event::Finished { .. })).await;
        assert!(app.payload(stream) == pattern_bytes(id, 0, total));
    };
    tokio::join!(write, read);
    drop(writer);
    peer.end(ours).await;
}
