//! Our side of the interop tests: the engine with the writer that the native protocol sends with, and no frames of that protocol on it.

use std::{collections::BTreeMap, io::IoSlice};

use bytes::Bytes;
use frontier_wire::{
    native::outbox::{FlowKey, Outbox},
    yamux::{Config, Engine, Error, Event, OpenError, Role, SendError, StreamId},
};

/// Payload that may wait on one stream, unless a test says otherwise: twice what one turn of it sends.
const SEND_BUFFER: usize = 128 * 1024;

/// See the module documentation. As in production an idle connection has no writer.
#[derive(Debug)]
pub(crate) struct Connection {
    engine: Engine,
    outbox: Option<Outbox>,
    /// Payload that was given to the writer and not yet written, by stream.
    waiting: BTreeMap<StreamId, usize>,
    send_buffer: usize,
}

impl Connection {
    pub(crate) fn new(role: Role, config: &Config) -> Self {
        Self::with_send_buffer(role, config, SEND_BUFFER)
    }

    /// One that takes at most so much payload per stream ahead of the socket.
    pub(crate) fn with_send_buffer(role: Role, config: &Config, send_buffer: usize) -> Self {
        Self { engine: Engine::new(role, config), outbox: None, waiting: BTreeMap::new(), send_buffer }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// For what the writer has nothing to do with.
    pub(crate) fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub(crate) fn open(&mut self) -> Result<StreamId, OpenError> {
        self.engine.open()
    }

    pub(crate) fn receive(&mut self, input: &mut Bytes) -> Result<Option<Event<Bytes>>, Error> {
        let event = self.engine.receive(input)?;
        match &event {
            Some(Event::Window { stream, .. }) => {
                if let Some(outbox) = &mut self.outbox {
                    outbox.unpark(*stream);
                }
            }
            Some(Event::Reset { stream }) => self.forget(*stream),
            _ => {}
        }
        Ok(event)
    }

    /// Bytes that [`Connection::write`] would take now.
    pub(crate) fn room(&self, stream: StreamId) -> usize {
        self.send_buffer.saturating_sub(self.waiting.get(&stream).copied().unwrap_or(0))
    }

    /// Takes payload from the front of `data` as far as there is room, and returns how many bytes that were.
    pub(crate) fn write(&mut self, stream: StreamId, data: &mut Bytes) -> Result<usize, SendError> {
        if !self.engine.contains(stream) {
            return Err(SendError::Closed { stream });
        }
        if !self.engine.can_send(stream) {
            return Err(SendError::Finished { stream });
        }
        let n = self.room(stream).min(data.len());
        if n > 0 {
            *self.waiting.entry(stream).or_default() += n;
            self.outbox.get_or_insert_default().push_stream(stream, data.split_to(n), true);
        }
        Ok(n)
    }

    /// Ends our half of a stream after what waits on it.
    pub(crate) fn finish(&mut self, stream: StreamId) {
        self.outbox.get_or_insert_default().finish_stream(&mut self.engine, stream);
    }

    pub(crate) fn reset(&mut self, stream: StreamId) -> bool {
        self.forget(stream);
        self.engine.reset(stream)
    }

    /// Moves what may be sent to the transport, unless something is there that it has not taken yet.
    pub(crate) fn fill(&mut self, budget: usize) {
        if self.sending() > 0 || self.outbox.is_none() && !self.engine.has_control() {
            return;
        }
        let outbox = self.outbox.get_or_insert_default();
        outbox.fill(&mut self.engine, StreamId::FIRST, budget);
        if self.engine.has_control() {
            // Ends of streams whose last byte went just now.
            outbox.fill(&mut self.engine, StreamId::FIRST, budget);
        }
        self.tidy();
    }

    /// Bytes handed to the transport and not yet written.
    pub(crate) fn sending(&self) -> usize {
        self.outbox.as_ref().map_or(0, Outbox::sending)
    }

    /// What to write next.
    pub(crate) fn slices<'a>(&'a self, slices: &mut Vec<IoSlice<'a>>, max: usize) {
        if let Some(outbox) = &self.outbox {
            outbox.slices(slices, max);
        }
    }

    /// The transport took `n` bytes.
    pub(crate) fn written(&mut self, n: usize) {
        let waiting = &mut self.waiting;
        if let Some(outbox) = &mut self.outbox {
            outbox.written(n, |stream, n| {
                // A stream that was reset meanwhile has none.
                if let Some(left) = waiting.get_mut(&stream) {
                    *left -= n as usize;
                }
            });
        }
        waiting.retain(|_, left| *left > 0);
        self.tidy();
    }

    /// Bytes that wait to be written, with what was handed to the transport.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, Outbox::queued)
    }

    /// Memory held by the engine and the writer.
    pub(crate) fn held_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, Outbox::held) + self.engine.held_bytes()
    }

    fn forget(&mut self, stream: StreamId) {
        self.waiting.remove(&stream);
        if let Some(outbox) = &mut self.outbox {
            outbox.drop_flow(FlowKey::Stream(stream));
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        self.outbox.take_if(|outbox| outbox.is_empty());
    }
}
