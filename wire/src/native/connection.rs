//! One native connection of either role: yamux below, frames above, an outbox beside them.
//!
//! The connection cuts input into events and orders output; what the events mean is decided by its user: the gateway's session or the
//! SDK's. It knows the session stream, hands out its frames whole, and passes the bytes of user streams on as they come, because only
//! their two ends look into them.
//!
//! ```text
//!  socket ─▶ receive(Input) ─▶ Event        outbox() ◀─ frames, stream bytes
//!  socket ◀─ slices(), written() ◀───────── fill()
//! ```
//!
//! An idle connection owns no heap memory.

use std::io::IoSlice;

use bytes::Bytes;

use super::{
    frame::{FrameHeader, FrameType},
    limits::{DecodeError, FrameLimits},
    outbox::{FlowKey, Outbox},
    reader::{Frame, FrameReader, Piece},
};
use crate::{
    chunk::Chunk,
    yamux::{self, Config, Engine, OpenError, Role, StreamId},
};

/// A data frame of a user stream of which more than this many bytes are still to come is read straight into a buffer of its own.
const DIRECT_MIN: u32 = 16_384;
/// That buffer's size at most.
const DIRECT_MAX: usize = 65_536;
/// Granted on the session stream beyond yamux's 256 KiB. It costs nothing: what comes is decoded at once and never held back, so the
/// window only has to be longer than a round trip.
pub const SESSION_WINDOW: u32 = 4 << 20;

/// Input of one [`Connection::receive`] loop. Nothing of it remains when `receive` has returned `None`.
#[derive(Debug)]
pub struct Input<B> {
    raw: B,
    session: Option<B>,
}

/// What happened on a connection.
#[derive(Debug)]
pub enum Event<B> {
    /// A frame of the session stream.
    Frame(Frame<B>),
    /// The peer opened a user stream; it is acknowledged.
    StreamOpened(StreamId),
    /// Bytes of a user stream, cut anywhere. Give them back with [`Connection::release`] when they are dealt with.
    StreamData(StreamId, Piece<B>),
    /// The peer half-closed a user stream.
    StreamFinished(StreamId),
    /// The peer reset a user stream.
    StreamReset(StreamId),
    /// The peer half-closed or reset the session stream, or announced by yamux that it goes away.
    Ended,
}

/// Why a connection cannot go on. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The multiplexer's rules were broken.
    #[error(transparent)]
    Yamux(#[from] yamux::Error),
    /// A frame broke the limits.
    #[error(transparent)]
    Frame(#[from] DecodeError),
    /// A frame type that never travels on the session stream.
    #[error("{} frame on the session stream", .0.name())]
    Misplaced(FrameType),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Connection {
    engine: Engine,
    reader: FrameReader,
    outbox: Option<Box<Outbox>>,
    direct: Option<Box<DirectStream>>,
}

/// A piece of a user stream that the driver is reading straight from the socket.
#[derive(Debug)]
struct DirectStream {
    stream: StreamId,
    buffer: Vec<u8>,
}

// === impl Input ===

impl<B: Chunk> Input<B> {
    /// Input that starts with these bytes.
    pub fn new(raw: B) -> Self {
        Self { raw, session: None }
    }

    /// Input that another `receive` loop left: payload of the session stream, then bytes of the connection.
    pub fn resume(session: B, raw: B) -> Self {
        Self { raw, session: Some(session) }
    }

    /// What is left: payload of the session stream, then bytes of the connection.
    pub fn rest(self) -> (Option<B>, B) {
        (self.session, self.raw)
    }
}

// === impl Connection ===

impl Connection {
    /// The dialer's side: opens the session stream.
    #[must_use]
    pub fn dial(config: &Config) -> Self {
        let mut engine = Engine::new(Role::Client, config);
        // The first stream of a new engine: nothing can be in the way.
        let opened = engine.open();
        debug_assert_eq!(opened, Ok(StreamId::FIRST));
        engine.grant(StreamId::FIRST, SESSION_WINDOW);
        Self::new(engine)
    }

    /// The acceptor's side: waits for the session stream.
    #[must_use]
    pub fn accept(config: &Config) -> Self {
        Self::new(Engine::new(Role::Server, config))
    }

    fn new(engine: Engine) -> Self {
        Self { engine, reader: FrameReader::new(), outbox: None, direct: None }
    }

    /// Takes the next event out of the input; `None` when it is used up.
    ///
    /// # Errors
    /// When the peer breaks the protocol; the connection is of no further use but for sending a last frame.
    pub fn receive<B: Chunk>(
        &mut self,
        input: &mut Input<B>,
        limits: &FrameLimits,
    ) -> Result<Option<Event<B>>, ConnectionError> {
        loop {
            if let Some(session) = input.session.as_mut() {
                let mut skipped = 0;
                let frame = self.reader.next_counted(session, limits, &mut skipped)?;
                if skipped > 0 {
                    self.engine.count_control(skipped);
                }
                if let Some(frame) = frame {
                    return Self::session_frame(frame).map(Some);
                }
                input.session = None;
            }
            let Some(event) = self.engine.receive(&mut input.raw)? else { return Ok(None) };
            if let Some(event) = self.engine_event(event, input) {
                return Ok(Some(event));
            }
        }
    }

    fn session_frame<B>(frame: Frame<B>) -> Result<Event<B>, ConnectionError> {
        let kind = frame.header.kind;
        if kind.travels_on_session() || kind.is_unknown() {
            Ok(Event::Frame(frame))
        } else {
            Err(ConnectionError::Misplaced(kind))
        }
    }

    fn engine_event<B: Chunk>(&mut self, event: yamux::Event<B>, input: &mut Input<B>) -> Option<Event<B>> {
        match event {
            yamux::Event::Opened { stream: StreamId::FIRST } => {
                self.engine.grant(StreamId::FIRST, SESSION_WINDOW);
                None
            }
            yamux::Event::Opened { stream } => Some(Event::StreamOpened(stream)),
            yamux::Event::Data { stream: StreamId::FIRST, payload } => {
                // Decoded at once, so granted at once: the session stream never holds its writer back.
                self.engine.release(StreamId::FIRST, u32::try_from(payload.len()).unwrap_or(u32::MAX));
                input.session = Some(payload);
                None
            }
            yamux::Event::Data { stream, payload } => Some(Event::StreamData(stream, Piece::Input(payload))),
            yamux::Event::Finished { stream: StreamId::FIRST }
            | yamux::Event::Reset { stream: StreamId::FIRST }
            | yamux::Event::GoAway { .. } => Some(Event::Ended),
            yamux::Event::Finished { stream } => Some(Event::StreamFinished(stream)),
            yamux::Event::Reset { stream } => {
                self.drop_flow(FlowKey::Stream(stream));
                self.direct.take_if(|direct| direct.stream == stream);
                Some(Event::StreamReset(stream))
            }
            yamux::Event::Window { stream, .. } => {
                if let Some(outbox) = self.outbox.as_mut() {
                    outbox.unpark(stream);
                }
                None
            }
            yamux::Event::Accepted { .. } | yamux::Event::Pong { .. } => None,
        }
    }

    /// How many bytes the driver may read straight into [`Connection::direct_buffer`], 0 if it should read into its own buffer.
    #[must_use]
    pub fn direct_want(&mut self) -> usize {
        let Some((stream, left)) = self.engine.direct() else { return 0 };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if stream == StreamId::FIRST {
            return self.reader.direct().map_or(0, |(_, want)| want.min(left));
        }
        if left < DIRECT_MIN as usize { 0 } else { left.min(DIRECT_MAX) }
    }

    /// The buffer to append to, at most [`Connection::direct_want`] bytes, followed by [`Connection::finish_direct`].
    pub fn direct_buffer(&mut self) -> Option<&mut Vec<u8>> {
        let want = self.direct_want();
        let (stream, _) = self.engine.direct()?;
        if stream == StreamId::FIRST {
            return self.reader.direct().map(|(buffer, _)| buffer);
        }
        // A read that brought nothing leaves its buffer; the stream it was for may have been reset since.
        self.direct.take_if(|direct| direct.stream != stream);
        let direct = self
            .direct
            .get_or_insert_with(|| Box::new(DirectStream { stream, buffer: Vec::with_capacity(want) }));
        Some(&mut direct.buffer)
    }

    /// The driver appended `n` bytes to the direct buffer.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn finish_direct<B>(&mut self, n: usize) -> Result<Option<Event<B>>, ConnectionError> {
        let count = u32::try_from(n).unwrap_or(u32::MAX);
        let of_user = self.engine.direct().is_some_and(|(stream, _)| stream != StreamId::FIRST);
        self.engine.received_direct(count);
        if of_user {
            let Some(direct) = self.direct.take() else { return Ok(None) };
            let mut buffer = direct.buffer;
            if buffer.is_empty() {
                return Ok(None);
            }
            // A short read must not pin a whole buffer until the far end has taken it.
            buffer.shrink_to_fit();
            return Ok(Some(Event::StreamData(direct.stream, Piece::Owned(Bytes::from(buffer)))));
        }
        self.engine.release(StreamId::FIRST, count);
        self.reader.finish_direct().map(Self::session_frame).transpose()
    }

    /// The lanes to send on; made on demand.
    pub fn outbox(&mut self) -> &mut Outbox {
        self.outbox.get_or_insert_default()
    }

    /// Appends a small frame to the session stream. `head` and `body` are copied; together at most 64 KiB less 16.
    pub fn send(&mut self, header: FrameHeader, head: &[u8], body: &[u8]) {
        let len = head.len().saturating_add(body.len());
        let Ok(header) = header.with_lens(head.len(), body.len()) else { return };
        let out = self.outbox().small(len.saturating_add(super::frame::HEADER_LEN));
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(head);
        out.extend_from_slice(body);
    }

    /// Opens a user stream; the SYN goes out with the next write.
    ///
    /// # Errors
    /// When too many streams are open, or the peer goes away.
    pub fn open_stream(&mut self) -> Result<StreamId, OpenError> {
        self.engine.open()
    }

    /// Half-closes a user stream after what is queued for it.
    pub fn finish_stream(&mut self, stream: StreamId) {
        match self.outbox.as_mut() {
            Some(outbox) => outbox.finish_stream(&mut self.engine, stream),
            // Finishing what has gone already is no fault: both ends may do it at once.
            None => {
                let _ = self.engine.finish(stream);
            }
        }
    }

    /// Resets a user stream and drops what is queued for it; returns the bytes dropped.
    pub fn reset_stream(&mut self, stream: StreamId) -> usize {
        let dropped = self.drop_flow(FlowKey::Stream(stream));
        self.direct.take_if(|direct| direct.stream == stream);
        self.engine.reset(stream);
        dropped
    }

    /// Forgets what waits in a flow and is not yet on its way; returns the bytes dropped.
    pub fn drop_flow(&mut self, key: FlowKey) -> usize {
        self.outbox.as_mut().map_or(0, |outbox| outbox.drop_flow(key))
    }

    /// The user is done with `n` bytes of a user stream: the peer may send as many more.
    pub fn release(&mut self, stream: StreamId, n: u32) {
        self.engine.release(stream, n);
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.engine.has_control() || self.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty())
    }

    /// Moves up to `budget` bytes to the transport.
    pub fn fill(&mut self, budget: usize) {
        if self.outbox.is_none() && !self.engine.has_control() {
            return;
        }
        let outbox = self.outbox.get_or_insert_default();
        outbox.fill(&mut self.engine, StreamId::FIRST, budget);
    }

    /// What to write next, at most `max` slices.
    pub fn slices<'a>(&'a self, slices: &mut impl Extend<IoSlice<'a>>, max: usize) {
        if let Some(outbox) = self.outbox.as_ref() {
            outbox.slices(slices, max);
        }
    }

    /// The transport took `n` bytes; `report` learns how many bytes of which user stream were written.
    pub fn written(&mut self, n: usize, report: impl FnMut(StreamId, u32)) {
        if let Some(outbox) = self.outbox.as_mut() {
            outbox.written(n, report);
            if outbox.is_empty() {
                self.outbox = None;
            }
        }
    }

    /// Bytes handed to the transport and not yet written.
    #[must_use]
    pub fn sending(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.sending())
    }

    /// Bytes of operations waiting for the peer; those of user streams, which windows bound, do not count.
    #[must_use]
    pub fn operation_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.operation_bytes())
    }

    /// Whether operations wait that were not handed to the transport yet.
    #[must_use]
    pub fn has_unsent_operations(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.has_unsent_operations())
    }

    /// Bytes waiting to be sent, all lanes.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.queued())
    }

    /// Bytes of memory held for the peer in either direction. Costs a few additions, whatever is held.
    #[must_use]
    pub fn held(&self) -> usize {
        let outbox = self.outbox.as_ref().map_or(0, |outbox| outbox.held());
        outbox
            .saturating_add(self.reader.held())
            .saturating_add(self.engine.held_bytes())
            .saturating_add(self.direct.as_ref().map_or(0, |direct| direct.buffer.capacity()))
    }

    /// The multiplexer, for its windows and counters.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The multiplexer, to set windows after the handshake or to grow one.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }
}
