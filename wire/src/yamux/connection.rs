//! An engine with payload queues and a scheduler, for users that do not have their own.

use std::{
    collections::{HashMap, VecDeque},
    mem::size_of,
};

use bytes::Bytes;

use super::{
    Batch, Config, Counts, Engine, Error, Event, GoAwayCode, MAX_DATA, OpenError, Role, SendError, StreamId,
};
use crate::chunk::Chunk;

/// Payload bytes that may wait on one stream, unless [`Connection::with_send_buffer`] says otherwise: twice what one turn sends, so that
/// a writer refills while a frame is under way.
pub const DEFAULT_SEND_BUFFER: usize = 128 * 1024;

/// An [`Engine`] that also keeps what is to be sent.
///
/// Each stream has a queue of at most `send_buffer` bytes; when it is full, [`Connection::write`] takes nothing. Control frames go
/// first, then each stream that has payload and window sends one frame of at most 64 KiB in turn, so a stream with much to say delays
/// the others by one frame each.
///
/// Worst case held: `send_buffer` for each stream that this side writes to, plus the engine's state.
#[derive(Debug)]
pub struct Connection {
    engine: Engine,
    queues: HashMap<StreamId, Queue>,
    /// Streams that could send, in turn, each once.
    ready: VecDeque<StreamId>,
    /// Sum over the queues, in bytes.
    queued: usize,
    send_buffer: usize,
}

/// What waits to be sent on one stream: never nothing.
#[derive(Debug, Default)]
struct Queue {
    payloads: VecDeque<Bytes>,
    len: usize,
    /// The stream ends after the payloads.
    finish: bool,
    /// Whether the stream is in `ready`.
    ready: bool,
}

// === impl Connection ===

impl Connection {
    /// A connection at its start, with send buffers of [`DEFAULT_SEND_BUFFER`] bytes.
    #[must_use]
    pub fn new(role: Role, config: &Config) -> Self {
        Self::with_send_buffer(role, config, DEFAULT_SEND_BUFFER)
    }

    /// A connection at its start that queues at most `send_buffer` bytes per stream.
    #[must_use]
    pub fn with_send_buffer(role: Role, config: &Config, send_buffer: usize) -> Self {
        Self {
            engine: Engine::new(role, config),
            queues: HashMap::new(),
            ready: VecDeque::new(),
            queued: 0,
            send_buffer,
        }
    }

    /// Opens a stream; see [`Engine::open`].
    ///
    /// # Errors
    ///
    /// As [`Engine::open`].
    pub fn open(&mut self) -> Result<StreamId, OpenError> {
        self.engine.open()
    }

    /// Takes the next event from `input`; see [`Engine::receive`]. Payloads are slices of `input`, without a copy if that is [`Bytes`].
    ///
    /// # Errors
    ///
    /// If the peer broke the protocol. The reason is due to be sent: write one more [`Connection::transmit`], then close.
    pub fn receive<B: Chunk>(&mut self, input: &mut B) -> Result<Option<Event<B>>, Error> {
        let event = match self.engine.receive(input) {
            Ok(event) => event,
            Err(error) => {
                self.engine.go_away(error.go_away());
                return Err(error);
            }
        };
        match &event {
            Some(Event::Window { stream, .. }) => self.make_ready(*stream),
            Some(Event::Reset { stream }) => self.drop_queue(*stream),
            Some(
                Event::Opened { .. }
                | Event::Accepted { .. }
                | Event::Data { .. }
                | Event::Finished { .. }
                | Event::Pong { .. }
                | Event::GoAway { .. },
            )
            | None => {}
        }
        Ok(event)
    }

    /// Queues payload from the front of `data` as far as the stream's buffer has room, and returns how many bytes that were.
    ///
    /// # Errors
    ///
    /// If the stream is gone or was finished by this side.
    pub fn write(&mut self, stream: StreamId, data: &mut Bytes) -> Result<usize, SendError> {
        self.check_open(stream)?;
        let n = self.room(stream).min(data.len());
        if n > 0 {
            let queue = self.queues.entry(stream).or_default();
            queue.payloads.push_back(data.split_to(n));
            queue.len = queue.len.saturating_add(n);
            self.queued = self.queued.saturating_add(n);
            self.make_ready(stream);
        }
        Ok(n)
    }

    /// Bytes that [`Connection::write`] would take now.
    #[must_use]
    pub fn room(&self, stream: StreamId) -> usize {
        self.send_buffer.saturating_sub(self.queues.get(&stream).map_or(0, |queue| queue.len))
    }

    /// Ends this side's half of a stream after what is queued.
    ///
    /// # Errors
    ///
    /// If the stream is gone or was finished by this side.
    pub fn finish(&mut self, stream: StreamId) -> Result<(), SendError> {
        self.check_open(stream)?;
        match self.queues.get_mut(&stream) {
            Some(queue) => {
                queue.finish = true;
                Ok(())
            }
            None => self.engine.finish(stream),
        }
    }

    /// Ends both halves of a stream at once and drops what is queued. False if it was gone.
    pub fn reset(&mut self, stream: StreamId) -> bool {
        self.drop_queue(stream);
        self.engine.reset(stream)
    }

    /// The consumer is done with `n` received bytes; see [`Engine::release`].
    pub fn release(&mut self, stream: StreamId, n: u32) {
        self.engine.release(stream, n);
    }

    /// Grows a window towards us; see [`Engine::grow`].
    pub fn grow(&mut self, stream: StreamId, to: u32) -> Option<u32> {
        self.engine.grow(stream, to)
    }

    /// Sets what was agreed on for user streams; see [`Engine::set_stream_windows`].
    pub const fn set_stream_windows(&mut self, recv: u32, send: u32) {
        self.engine.set_stream_windows(recv, send);
    }

    /// Announces that no more streams are opened or accepted; see [`Engine::go_away`].
    pub fn go_away(&mut self, code: GoAwayCode) {
        self.engine.go_away(code);
    }

    /// Asks the peer for a sign of life; see [`Engine::ping`].
    pub fn ping(&mut self, value: u32) {
        self.engine.ping(value);
    }

    /// What the peer did since the last call; see [`Engine::take_counts`].
    pub const fn take_counts(&mut self) -> Counts {
        self.engine.take_counts()
    }

    /// The state below, to look at.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether [`Connection::transmit`] has something to give out.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.engine.has_control() || !self.ready.is_empty()
    }

    /// Takes what is to be written next: all control frames, then data until `max` bytes are reached or nothing more can be sent. The
    /// last frame may exceed `max` by up to 64 KiB. Must be written completely before the next batch.
    pub fn transmit(&mut self, max: usize) -> Batch {
        let mut batch = Batch::default();
        self.put_control(&mut batch);
        while batch.len() < max {
            let Some(stream) = self.ready.pop_front() else { break };
            self.send_frame(stream, &mut batch);
        }
        // Ends of the streams whose last payload was sent just now.
        self.put_control(&mut batch);
        batch.seal();
        batch
    }

    /// Payload bytes that wait to be sent, all streams together.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// Bytes held: payloads queued and the memory of state.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let queues = self.queues.capacity().saturating_mul(size_of::<(StreamId, Queue)>());
        let payloads: usize = self.queues.values().map(|queue| queue.payloads.capacity()).sum();
        self.queued
            .saturating_add(self.engine.held_bytes())
            .saturating_add(queues)
            .saturating_add(payloads.saturating_mul(size_of::<Bytes>()))
            .saturating_add(self.ready.capacity().saturating_mul(size_of::<StreamId>()))
    }

    fn put_control(&mut self, batch: &mut Batch) {
        if self.engine.has_control() {
            batch.put_with(|out| self.engine.take_control(out));
        }
    }

    /// Sends one frame of a stream whose turn it is, and puts it at the end of the line if it could send another.
    fn send_frame(&mut self, stream: StreamId, batch: &mut Batch) {
        let Some(queue) = self.queues.get_mut(&stream) else { return };
        queue.ready = false;
        let len =
            self.engine.send_window(stream).min(MAX_DATA).min(u32::try_from(queue.len).unwrap_or(MAX_DATA));
        if len == 0 {
            // Without window: the update that brings some makes it ready again.
            return;
        }
        let fin = queue.finish && usize::try_from(len).is_ok_and(|len| len == queue.len);
        let Ok(header) = self.engine.data(stream, len, fin) else { return };
        batch.put_slice(&header);
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        while let Some(payload) = queue.payloads.front_mut().filter(|_| left > 0) {
            let piece = payload.split_to(payload.len().min(left));
            if payload.is_empty() {
                queue.payloads.pop_front();
            }
            left = left.saturating_sub(piece.len());
            queue.len = queue.len.saturating_sub(piece.len());
            self.queued = self.queued.saturating_sub(piece.len());
            batch.put(piece);
        }
        if queue.len > 0 {
            self.make_ready(stream);
        } else {
            self.drop_queue(stream);
        }
    }

    fn make_ready(&mut self, stream: StreamId) {
        if let Some(queue) = self.queues.get_mut(&stream)
            && !queue.ready
            && self.engine.send_window(stream) > 0
        {
            queue.ready = true;
            self.ready.push_back(stream);
        }
    }

    /// Forgets what is queued on a stream, and all buffers with the last one.
    fn drop_queue(&mut self, stream: StreamId) {
        let Some(queue) = self.queues.remove(&stream) else { return };
        self.queued = self.queued.saturating_sub(queue.len);
        if queue.ready {
            self.ready.retain(|&other| other != stream);
        }
        if self.queues.is_empty() {
            self.queues = HashMap::new();
            self.ready = VecDeque::new();
        }
    }

    fn check_open(&self, stream: StreamId) -> Result<(), SendError> {
        if !self.engine.contains(stream) {
            return Err(SendError::Closed { stream });
        }
        if !self.engine.can_send(stream) || self.queues.get(&stream).is_some_and(|queue| queue.finish) {
            return Err(SendError::Finished { stream });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
