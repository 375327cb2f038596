//! A thin driver around a [`Connection`] and what the interop tests make it do.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use frontier_wire::yamux::{Event, StreamId};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::connection::Connection;

/// A test that takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a test does with a connection.
pub(crate) trait App {
    /// Takes in what arrived.
    fn on_event(&mut self, connection: &mut Connection, event: Event<Bytes>);

    /// Queues what there is to send; called whenever there may be room.
    fn fill(&mut self, connection: &mut Connection);

    /// Whether the test is over, once everything queued is written.
    fn is_done(&self, connection: &Connection) -> bool;
}

/// Runs an app on a connection until it is done.
pub(crate) async fn drive<S>(io: &mut S, connection: &mut Connection, app: &mut impl App)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let run = poll_fn(|cx| poll(cx, io, connection, app));
    timeout(PATIENCE, run).await.expect("no progress").expect("the connection failed");
}

fn poll<S>(
    cx: &mut Context<'_>,
    io: &mut S,
    connection: &mut Connection,
    app: &mut impl App,
) -> Poll<io::Result<()>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        app.fill(connection);
        connection.fill(256 * 1024);
        if connection.sending() == 0 && app.is_done(connection) {
            return Poll::Ready(Ok(()));
        }
        // Both are tried in every round: neither ever waits for the other.
        let written = poll_write(cx, io, connection)?;
        let read = poll_read(cx, io, connection, app)?;
        if written.is_pending() && read.is_pending() {
            return Poll::Pending;
        }
    }
}

fn poll_write<S>(cx: &mut Context<'_>, io: &mut S, connection: &mut Connection) -> io::Result<Poll<()>>
where
    S: AsyncWrite + Unpin,
{
    if connection.sending() == 0 {
        return Ok(Poll::Pending);
    }
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(64);
    connection.slices(&mut slices, 64);
    match Pin::new(io).poll_write_vectored(cx, &slices) {
        Poll::Ready(n) => {
            connection.written(n?);
            Ok(Poll::Ready(()))
        }
        Poll::Pending => Ok(Poll::Pending),
    }
}

fn poll_read<S>(
    cx: &mut Context<'_>,
    io: &mut S,
    connection: &mut Connection,
    app: &mut impl App,
) -> io::Result<Poll<()>>
where
    S: AsyncRead + Unpin,
{
    let mut space = vec![0; 64 * 1024];
    let mut buffer = ReadBuf::new(&mut space);
    if Pin::new(io).poll_read(cx, &mut buffer)?.is_pending() {
        return Ok(Poll::Pending);
    }
    let len = buffer.filled().len();
    if len == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    space.truncate(len);
    let mut input = Bytes::from(space);
    while let Some(event) = connection.receive(&mut input).map_err(io::Error::other)? {
        app.on_event(connection, event);
    }
    Ok(Poll::Ready(()))
}

/// What both sides of every test send: the byte at a place of a stream, in either direction.
pub(crate) fn pattern(stream: u32, at: usize) -> u8 {
    (stream as usize).wrapping_mul(7).wrapping_add(at).wrapping_add((at >> 8).wrapping_mul(3)) as u8
}

/// A piece of the pattern.
pub(crate) fn pattern_bytes(stream: u32, at: usize, len: usize) -> Bytes {
    (at..at + len).map(|at| pattern(stream, at)).collect::<Vec<_>>().into()
}

/// How much is sent on each stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Quota {
    Bytes(usize),
    /// Until that time, and on until it was so many bytes: a machine under load must not look like a link that stalls.
    Until(Instant, usize),
}

// === impl Quota ===

impl Quota {
    /// What is left to send after so many bytes.
    pub(crate) fn left(self, sent: usize) -> usize {
        match self {
            Self::Bytes(total) => total - sent,
            Self::Until(end, least) if Instant::now() < end || sent < least => usize::MAX,
            Self::Until(..) => 0,
        }
    }
}

/// Sends the pattern on every stream, of its own or the peer's, ends each, and checks what comes back to its end.
#[derive(Debug)]
pub(crate) struct Load {
    quota: Quota,
    /// Streams still to be opened.
    open: usize,
    /// Streams there will be in all.
    expected: usize,
    pub(crate) streams: BTreeMap<StreamId, Progress>,
}

/// How far a stream of a [`Load`] is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) sent: usize,
    pub(crate) received: usize,
    pub(crate) accepted: bool,
    pub(crate) finished: bool,
    pub(crate) ended: bool,
}

impl Load {
    /// Opens `open` streams and waits for `accept` of the peer's.
    pub(crate) fn new(open: usize, accept: usize, quota: Quota) -> Self {
        Self { quota, open, expected: open + accept, streams: BTreeMap::new() }
    }

    /// Bytes (sent, received) in all.
    pub(crate) fn totals(&self) -> (usize, usize) {
        self.streams
            .values()
            .fold((0, 0), |(sent, received), progress| (sent + progress.sent, received + progress.received))
    }
}

impl App for Load {
    fn on_event(&mut self, connection: &mut Connection, event: Event<Bytes>) {
        match event {
            Event::Opened { stream } => {
                self.streams.insert(stream, Progress::default());
            }
            Event::Accepted { stream } => self.streams.get_mut(&stream).unwrap().accepted = true,
            Event::Data { stream, payload } => {
                let progress = self.streams.get_mut(&stream).unwrap();
                for &byte in &payload {
                    assert_eq!(byte, pattern(stream.get(), progress.received), "stream {stream}");
                    progress.received += 1;
                }
                connection.engine_mut().release(stream, payload.len().try_into().unwrap());
            }
            Event::Finished { stream } => {
                assert!(!std::mem::replace(&mut self.streams.get_mut(&stream).unwrap().finished, true));
            }
            Event::Window { .. } | Event::Pong { .. } => {}
            Event::Reset { .. } | Event::GoAway { .. } => panic!("unexpected {event:?}"),
        }
    }

    fn fill(&mut self, connection: &mut Connection) {
        while self.open > 0 {
            self.open -= 1;
            self.streams.insert(connection.open().unwrap(), Progress::default());
        }
        for (&stream, progress) in self.streams.iter_mut().filter(|(_, progress)| !progress.ended) {
            let left = self.quota.left(progress.sent);
            let room = connection.room(stream).min(left);
            // Not byte by byte: a frame per turn is what real writers make.
            if room >= left.min(16 * 1024) {
                let mut payload = pattern_bytes(stream.get(), progress.sent, room);
                progress.sent += connection.write(stream, &mut payload).unwrap();
                if room == left {
                    connection.finish(stream);
                    progress.ended = true;
                }
            }
        }
    }

    fn is_done(&self, connection: &Connection) -> bool {
        self.streams.len() == self.expected
            && self.streams.values().all(|progress| progress.finished && progress.ended)
            && connection.engine().streams() == 0
    }
}

/// Collects events and does nothing of its own: tests act between the events they wait for.
#[derive(Debug, Default)]
pub(crate) struct Manual {
    pub(crate) events: Vec<Event<Bytes>>,
    wanted: Wanted,
}

#[derive(Debug, Default)]
enum Wanted {
    /// Until everything queued that can be is written.
    #[default]
    Flushed,
    /// Until an event was seen.
    Event(fn(&Event<Bytes>) -> bool),
    /// Until so many bytes of a stream have arrived since the start.
    Bytes(StreamId, usize),
}

impl Manual {
    /// Writes all that can be written now.
    pub(crate) async fn flush<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        connection: &mut Connection,
    ) {
        self.wanted = Wanted::Flushed;
        drive(io, connection, self).await;
    }

    /// Runs until an event arrives (or has arrived since the events were taken last).
    pub(crate) async fn until<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        connection: &mut Connection,
        wanted: fn(&Event<Bytes>) -> bool,
    ) {
        self.wanted = Wanted::Event(wanted);
        drive(io, connection, self).await;
    }

    /// Runs until `n` bytes of a stream have arrived.
    pub(crate) async fn until_bytes<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        connection: &mut Connection,
        stream: StreamId,
        n: usize,
    ) {
        self.wanted = Wanted::Bytes(stream, n);
        drive(io, connection, self).await;
    }

    /// The payload of a stream so far.
    pub(crate) fn payload(&self, stream: StreamId) -> Vec<u8> {
        let pieces = self.events.iter().filter_map(|event| match event {
            Event::Data { stream: of, payload } if *of == stream => Some(payload.as_ref()),
            _ => None,
        });
        pieces.collect::<Vec<_>>().concat()
    }
}

impl App for Manual {
    fn on_event(&mut self, _: &mut Connection, event: Event<Bytes>) {
        self.events.push(event);
    }

    fn fill(&mut self, _: &mut Connection) {}

    fn is_done(&self, _: &Connection) -> bool {
        match self.wanted {
            Wanted::Flushed => true,
            Wanted::Event(wanted) => self.events.iter().any(wanted),
            Wanted::Bytes(stream, n) => self.payload(stream).len() >= n,
        }
    }
}
