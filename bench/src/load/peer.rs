//! One end of a native connection, without a socket: bytes in, frames out, frames in, bytes out.
//!
//! The multiplexer and the frame reader are those of `wire/`; what a gateway or SDK puts on top of them (flows, turns, budgets) is left
//! out, so that the load costs as little as it can and relay and gateway meet the same one. Output is one vector: frames of a stream
//! that follow each other share one yamux header as long as nothing of it was written.

use anyhow::{Context as _, Result, bail};
use frontier_wire::{
    native::{
        frame::{FrameHeader, FrameType, HEADER_LEN as FRAME_LEN},
        limits::FrameLimits,
        reader::{Frame, FrameReader},
    },
    yamux::{Config, Engine, Event as Mux, HEADER_LEN, MAX_DATA, Role, StreamId},
};

/// The window granted to the other end on every stream, in bytes: larger than what a socket pair holds, so that no row measures the
/// window of the load. Both ends of a relayed connection, and the load's ends towards a gateway, are the same.
const WINDOW: u32 = 1 << 20;

/// Which of a connection's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The session stream.
    Session,
    /// The one user stream that this program keeps on a connection.
    Stream,
}

/// What a peer said.
#[derive(Debug)]
pub enum Event<'a> {
    /// A frame.
    Frame(Lane, Frame<&'a [u8]>),
    /// The other end opened a user stream.
    Opened,
    /// The other end finished or reset the user stream.
    StreamOver,
    /// The other end closed the session stream or goes away.
    Ended,
}

/// Input on its way through [`Peer::next`].
#[derive(Debug)]
pub struct Input<'a> {
    raw: &'a [u8],
    piece: Option<(Lane, &'a [u8])>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Peer {
    engine: Engine,
    session: Stream,
    user: Option<Box<Stream>>,
    out: Vec<u8>,
    /// Bytes of `out` that are written.
    written: usize,
    /// The yamux frame at the end of `out`, while it may grow.
    tail: Option<Tail>,
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    reader: FrameReader,
    /// Bytes that the window does not admit yet.
    backlog: Vec<u8>,
    /// Take, but give no window back: a reader that has stalled.
    hold: bool,
}

#[derive(Clone, Copy, Debug)]
struct Tail {
    stream: StreamId,
    /// Where in `out` its header begins.
    at: usize,
    /// Bytes of payload.
    len: u32,
}

// === impl Input ===

impl<'a> Input<'a> {
    /// Bytes as they were read.
    #[must_use]
    pub const fn new(raw: &'a [u8]) -> Self {
        Self { raw, piece: None }
    }
}

// === impl Peer ===

impl Peer {
    /// The dialer's end, its session stream open.
    ///
    /// # Errors
    /// Never on a new connection; the engine reports it as an error.
    pub fn dial() -> Result<Self> {
        let mut peer = Self::new(Role::Client);
        let id = peer.engine.open().context("open the session stream")?;
        peer.engine.grow(id, WINDOW);
        Ok(peer)
    }

    /// The acceptor's end.
    #[must_use]
    pub fn accept() -> Self {
        Self::new(Role::Server)
    }

    fn new(role: Role) -> Self {
        let config = Config { recv_window: WINDOW, ..Config::default() };
        Self {
            engine: Engine::new(role, &config),
            session: Stream::new(StreamId::FIRST),
            user: None,
            out: Vec::new(),
            written: 0,
            tail: None,
        }
    }

    /// Sets the start windows of user streams that Hello and Welcome agreed on, in bytes: towards us and towards the peer.
    pub const fn set_windows(&mut self, recv: u32, send: u32) {
        self.engine.set_stream_windows(recv, send);
    }

    /// The next event in the input; `None` when it is used up.
    ///
    /// # Errors
    /// If the other end breaks the protocol.
    pub fn next<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<Event<'a>>> {
        loop {
            if let Some((lane, piece)) = &mut input.piece {
                let lane = *lane;
                let stream = match lane {
                    Lane::Session => Some(&mut self.session),
                    Lane::Stream => self.user.as_deref_mut(),
                };
                // What is left of a stream that was dropped meanwhile has no reader.
                if let Some(stream) = stream
                    && let Some(frame) = stream.reader.next(piece, &FrameLimits::DIALER)?
                {
                    return Ok(Some(Event::Frame(lane, frame)));
                }
                input.piece = None;
            }
            let Some(event) = self.engine.receive(&mut input.raw)? else { return Ok(None) };
            if let Some(event) = self.mux(event, input)? {
                return Ok(Some(event));
            }
        }
    }

    fn mux<'a>(&mut self, event: Mux<&'a [u8]>, input: &mut Input<'a>) -> Result<Option<Event<'a>>> {
        match event {
            Mux::Data { stream, payload } => {
                let lane = self.lane_of(stream)?;
                if !self.lane(lane)?.hold {
                    self.engine.release(stream, u32::try_from(payload.len())?);
                }
                input.piece = Some((lane, payload));
                Ok(None)
            }
            Mux::Opened { stream } if stream == StreamId::FIRST => {
                self.engine.grow(stream, WINDOW);
                Ok(None)
            }
            Mux::Opened { stream } => {
                if self.user.is_some() {
                    bail!("a second user stream on one connection");
                }
                self.user = Some(Box::new(Stream::new(stream)));
                self.engine.grow(stream, WINDOW);
                Ok(Some(Event::Opened))
            }
            Mux::Window { stream, .. } => {
                if let Ok(lane) = self.lane_of(stream) {
                    self.unblock(lane)?;
                }
                Ok(None)
            }
            Mux::Finished { stream } | Mux::Reset { stream } if stream == StreamId::FIRST => {
                Ok(Some(Event::Ended))
            }
            Mux::Finished { .. } | Mux::Reset { .. } => Ok(Some(Event::StreamOver)),
            Mux::GoAway { .. } => Ok(Some(Event::Ended)),
            Mux::Accepted { .. } | Mux::Pong { .. } => Ok(None),
        }
    }

    fn lane_of(&self, stream: StreamId) -> Result<Lane> {
        if stream == StreamId::FIRST {
            return Ok(Lane::Session);
        }
        match &self.user {
            Some(user) if user.id == stream => Ok(Lane::Stream),
            _ => bail!("stream {stream} is not ours"),
        }
    }

    fn lane(&mut self, lane: Lane) -> Result<&mut Stream> {
        match lane {
            Lane::Session => Ok(&mut self.session),
            Lane::Stream => self.user.as_deref_mut().context("no user stream"),
        }
    }

    /// Opens the user stream.
    ///
    /// # Errors
    /// If there is one or the peer goes away.
    pub fn open(&mut self) -> Result<()> {
        if self.user.is_some() {
            bail!("a second user stream on one connection");
        }
        let id = self.engine.open().context("open a user stream")?;
        self.user = Some(Box::new(Stream::new(id)));
        self.engine.grow(id, WINDOW);
        Ok(())
    }

    /// From now on the peer gets no window back on this lane.
    ///
    /// # Errors
    /// If there is no such stream.
    pub fn hold(&mut self, lane: Lane) -> Result<()> {
        self.lane(lane)?.hold = true;
        Ok(())
    }

    /// Queues a frame. What the window does not admit waits, without a bound of its own: the caller keeps to its operations in flight.
    ///
    /// # Errors
    /// If it does not fit into a frame or the stream is gone.
    pub fn send(&mut self, lane: Lane, header: FrameHeader, head: &[u8], body: &[u8]) -> Result<()> {
        let header = header.with_lens(head.len(), body.len())?.encode();
        for part in [&header, head, body] {
            self.push(lane, part)?;
        }
        Ok(())
    }

    fn push(&mut self, lane: Lane, mut bytes: &[u8]) -> Result<()> {
        if !self.lane(lane)?.backlog.is_empty() {
            self.lane(lane)?.backlog.extend_from_slice(bytes);
            return Ok(());
        }
        let id = self.lane(lane)?.id;
        while !bytes.is_empty() {
            let tail = match self.tail {
                Some(tail) if tail.stream == id && tail.len < MAX_DATA => tail,
                _ => Tail { stream: id, at: self.out.len(), len: 0 },
            };
            let room = (MAX_DATA - tail.len).min(self.engine.send_window(id));
            let n = room.min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            if n == 0 {
                self.lane(lane)?.backlog.extend_from_slice(bytes);
                return Ok(());
            }
            let header = self.engine.data(id, n, false).context("send")?;
            if tail.len == 0 {
                self.out.extend_from_slice(&header);
            }
            let (now, rest) = bytes.split_at(n as usize);
            self.out.extend_from_slice(now);
            let len = tail.len + n;
            self.out[tail.at + HEADER_LEN - 4..tail.at + HEADER_LEN].copy_from_slice(&len.to_be_bytes());
            self.tail = Some(Tail { len, ..tail });
            bytes = rest;
        }
        Ok(())
    }

    /// The window grew: brings what waited for it.
    fn unblock(&mut self, lane: Lane) -> Result<()> {
        let stream = self.lane(lane)?;
        if stream.backlog.is_empty() {
            return Ok(());
        }
        let backlog = std::mem::take(&mut stream.backlog);
        self.push(lane, &backlog)
    }

    /// Whether a frame with this much head and body would be on its way at once: nothing waits and the window admits it.
    #[must_use]
    pub fn has_room(&self, lane: Lane, len: usize) -> bool {
        let stream = match lane {
            Lane::Session => Some(&self.session),
            Lane::Stream => self.user.as_deref(),
        };
        stream.is_some_and(|stream| {
            stream.backlog.is_empty()
                && self.written == self.out.len()
                && self.engine.send_window(stream.id) as usize >= len + FRAME_LEN
        })
    }

    /// What is to be written now.
    pub fn pending(&mut self) -> &[u8] {
        if self.engine.has_control() {
            self.engine.take_control(&mut self.out);
            self.tail = None;
        }
        &self.out[self.written..]
    }

    /// So many bytes of [`Peer::pending`] were written.
    pub fn advance(&mut self, n: usize) {
        self.written += n;
        self.tail = None;
        if self.written >= self.out.len() {
            self.written = 0;
            self.out.clear();
        } else if self.written >= 1 << 20 {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Gives back memory that an idle connection does not need.
    pub fn shrink(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
    }
}

// === impl Stream ===

impl Stream {
    const fn new(id: StreamId) -> Self {
        Self { id, reader: FrameReader::new(), backlog: Vec::new(), hold: false }
    }
}

/// A header of an operation.
#[must_use]
pub const fn header(kind: FrameType, id: u64) -> FrameHeader {
    FrameHeader::new(kind, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries what `from` has to write to `to`, in pieces of `cut` bytes; the frames that came out, as (lane, kind, id, body).
    fn carry(from: &mut Peer, to: &mut Peer, cut: usize) -> Vec<(Lane, FrameType, u64, Vec<u8>)> {
        let bytes = from.pending().to_vec();
        from.advance(bytes.len());
        let mut frames = Vec::new();
        for piece in bytes.chunks(cut) {
            let mut input = Input::new(piece);
            while let Some(event) = to.next(&mut input).unwrap() {
                if let Event::Frame(lane, frame) = event {
                    frames.push((lane, frame.header.kind, frame.header.id, frame.body.to_vec()));
                }
            }
        }
        frames
    }

    #[test]
    fn small_frames_share_one_yamux_header() {
        let mut edge = Peer::dial().unwrap();
        edge.send(Lane::Session, header(FrameType::Ping, 1), &[], &[]).unwrap();
        let first = edge.pending().len();
        let written = first;
        edge.advance(written);
        for id in 2..10 {
            edge.send(Lane::Session, header(FrameType::Ping, id), &[], &[]).unwrap();
        }
        assert_eq!(edge.pending().len(), HEADER_LEN + 8 * FRAME_LEN);
        assert!(first > HEADER_LEN);
    }

    #[test]
    fn frames_survive_any_cut_and_any_window() {
        for cut in [1, 7, 4096, 1 << 20] {
            let (mut edge, mut far) = (Peer::dial().unwrap(), Peer::accept());
            // Far more than the 256 KiB that a fresh window admits.
            let bodies: Vec<Vec<u8>> = (0..12_u8).map(|n| vec![n; 60_000]).collect();
            for (id, body) in (1..).zip(&bodies) {
                edge.send(Lane::Session, header(FrameType::Request, id), b"", body).unwrap();
            }
            let mut got = Vec::new();
            for _ in 0..20 {
                got.extend(carry(&mut edge, &mut far, cut));
                carry(&mut far, &mut edge, cut);
            }
            let expected: Vec<_> =
                (1..).zip(bodies).map(|(id, body)| (Lane::Session, FrameType::Request, id, body)).collect();
            assert!(got == expected, "cut {cut}");
            assert!(edge.has_room(Lane::Session, 60_000));
        }
    }

    #[test]
    fn a_held_stream_stops_its_writer_and_nobody_else() {
        let (mut edge, mut far) = (Peer::dial().unwrap(), Peer::accept());
        edge.send(Lane::Session, header(FrameType::Ping, 1), &[], &[]).unwrap();
        edge.open().unwrap();
        edge.send(Lane::Stream, header(FrameType::Open, 0), &[], &[]).unwrap();
        assert_eq!(carry(&mut edge, &mut far, 100).len(), 2);
        far.hold(Lane::Stream).unwrap();
        for _ in 0..40 {
            edge.send(Lane::Stream, header(FrameType::Data, 0), &[], &[7; 60_000]).unwrap();
        }
        let mut bytes = 0;
        for _ in 0..20 {
            bytes += carry(&mut edge, &mut far, 4096).iter().map(|(.., body)| body.len()).sum::<usize>();
            carry(&mut far, &mut edge, 4096);
        }
        assert!(bytes <= WINDOW as usize, "{bytes} passed");
        edge.send(Lane::Session, header(FrameType::Ping, 2), &[], &[]).unwrap();
        assert_eq!(carry(&mut edge, &mut far, 100)[0].2, 2);
    }
}
