//! What a connection has to send, in the order in which it should go.
//!
//! Three lanes share one socket. Control frames of yamux go first. Then come *small* frames of the session stream: they are encoded
//! straight into blocks of at most 64 KiB, each of which becomes one yamux data frame, so that a batch of small frames costs one
//! header and one write. Last, *flows* take turns, one frame each: the fragments of one large body, or the bytes of one user stream.
//! That is why a body of megabytes never delays a call by more than one frame per flow.
//!
//! ```text
//!  control ──────────────┐
//!  small → blocks ───────┼─▶ sending ─▶ writev
//!  flows ⟲ one frame each┘   (≤ budget)
//! ```
//!
//! Everything goes by reference but what is small: small frames are copied into a block of their lane, small pieces of a stream into
//! one of its flow, so that a peer that sends single bytes makes nobody hold an entry for each. A block that the peer's window cuts
//! is cut by reference as well: however little a peer grants at a time, no byte is copied again.
//!
//! The outbox exists only while there is something to send. [`Outbox::held`] is the memory it takes, entries and spare room included.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};
use hashbrown::HashMap;

use crate::yamux::{Engine, HEADER_LEN, StreamId};

/// Payload of one yamux data frame at most.
pub const MAX_DATA: usize = 65_536;
/// Bytes kept free at the start of a block for the yamux header.
const RESERVED: usize = HEADER_LEN;
/// A block starts with this capacity: a batch of small calls rarely needs more.
const BLOCK_START: usize = 1_024;
/// What a block of small frames takes at most.
const BLOCK_FULL: usize = MAX_DATA + RESERVED;
/// Pieces of a stream below this length are copied behind each other; from it on a copy costs more than an entry.
const SMALL_PIECE: usize = 4_096;
/// What small pieces of a stream are copied into: each block has twice the room of the one before, so that a few bytes take little
/// and many take few blocks.
const PIECES_START: usize = 128;
const PIECES_FULL: usize = 16 << 10;
/// What an entry of a flow takes.
const ITEM: usize = size_of::<Item>();

/// What takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKey {
    /// Frames of the session stream that keep their order among each other; the number is the caller's.
    Operation(u64),
    /// The bytes of a user stream.
    Stream(StreamId),
}

/// One frame or piece that waits in a flow.
#[derive(Debug)]
struct Item {
    /// Header and head of a frame; empty for the raw bytes of a stream.
    lead: Bytes,
    body: Body,
    /// Bytes that the buffer of `body` has beyond it.
    slack: usize,
    /// Report the bytes of `body` when they were written (see [`Outbox::written`]).
    report: bool,
}

#[derive(Debug)]
enum Body {
    Shared(Bytes),
    /// Small pieces of a stream; more of them may be appended until the first are sent.
    Pieces(Vec<u8>),
}

#[derive(Debug, Default)]
struct Flow {
    items: VecDeque<Item>,
    /// Half-close the stream after the last item.
    finish: bool,
    /// In the turn list. A stream without window is not.
    queued: bool,
}

/// Bytes handed to the transport, to be written in this order.
#[derive(Debug)]
struct Segment {
    data: Data,
    /// The stream to report, see [`Outbox::written`].
    report: Option<StreamId>,
    /// Whether it is part of a user stream.
    of_stream: bool,
}

#[derive(Debug)]
enum Data {
    Header([u8; HEADER_LEN]),
    Own(Vec<u8>),
    Shared(Bytes),
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The block that small frames are appended to; its first [`RESERVED`] bytes are the yamux header to be.
    block: Vec<u8>,
    /// Full blocks before it.
    blocks: VecDeque<Vec<u8>>,
    /// The rest of a block of which the window let only a part through; it goes before all others.
    cut: Bytes,
    flows: Option<Box<Flows>>,
    front: Option<Segment>,
    rest: VecDeque<Segment>,
    /// Bytes of `front` that are written already.
    front_written: usize,
    /// Payload bytes in all lanes and segments.
    bytes: usize,
    /// Of those, bytes of user streams: windows bound them, so they do not count against an operation's room.
    stream_bytes: usize,
    /// Bytes handed to the transport and not yet written.
    sending: usize,
    /// Of those, the ones of user streams.
    sending_of_streams: usize,
    /// Entries of flows and spare room of buffers, in bytes: what `bytes` takes beyond itself.
    overhead: usize,
}

#[derive(Debug, Default)]
struct Flows {
    by_key: HashMap<FlowKey, Flow>,
    turns: VecDeque<FlowKey>,
}

// === impl Outbox ===

impl Outbox {
    /// Bytes of operations waiting for the peer: what a limit on new ones looks at.
    #[must_use]
    pub fn operation_bytes(&self) -> usize {
        self.queued().saturating_sub(self.stream_bytes).saturating_sub(self.sending_of_streams)
    }

    /// Whether operations wait that were not handed to the transport yet.
    #[must_use]
    pub fn has_unsent_operations(&self) -> bool {
        self.bytes > self.stream_bytes
    }

    /// Whether nothing is left, not even a half-close.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0 && self.front.is_none() && self.flows.as_ref().is_none_or(|f| f.by_key.is_empty())
    }

    /// Whether frames wait in this flow, so that a later frame of the same order must queue behind them.
    #[must_use]
    pub fn has_flow(&self, key: FlowKey) -> bool {
        self.flows.as_ref().is_some_and(|flows| flows.by_key.contains_key(&key))
    }

    /// Where to append a small frame of `len` bytes (at most 64 KiB): exactly that many must be appended.
    pub fn small(&mut self, len: usize) -> &mut Vec<u8> {
        let mut needed = self.block.len().saturating_add(len);
        if needed > BLOCK_FULL && !self.block.is_empty() {
            let full = std::mem::take(&mut self.block);
            self.overhead = self.overhead.saturating_add(spare(&full));
            self.blocks.push_back(full);
            needed = len;
        }
        if self.block.is_empty() {
            self.block.reserve_exact(BLOCK_START.max(len.saturating_add(RESERVED)));
            self.block.extend_from_slice(&[0; RESERVED]);
        } else if needed > self.block.capacity() {
            // Doubled, but not beyond what it may ever take.
            let room = self.block.capacity().saturating_mul(2).min(BLOCK_FULL).max(needed);
            self.block.reserve_exact(room.saturating_sub(self.block.len()));
        }
        self.bytes = self.bytes.saturating_add(len);
        &mut self.block
    }

    /// Queues a frame of the session stream in a flow: `lead` is its header and head. `lead` and `body` together are at most 96 KiB.
    pub fn push_frame(&mut self, key: u64, lead: Bytes, body: Bytes) {
        let item = Item { lead, body: Body::Shared(body), slack: 0, report: false };
        self.push(FlowKey::Operation(key), item);
    }

    /// Queues bytes of a user stream. With `report` they come back through [`Outbox::written`] once written. A small piece is copied:
    /// it must not keep the buffer that it was cut from.
    pub fn push_stream(&mut self, stream: StreamId, body: Bytes, report: bool) {
        if body.len() < SMALL_PIECE {
            return self.copy_to_stream(stream, &body, report);
        }
        self.stream_bytes = self.stream_bytes.saturating_add(body.len());
        let item = Item { lead: Bytes::new(), body: Body::Shared(body), slack: 0, report };
        self.push(FlowKey::Stream(stream), item);
    }

    /// As [`Outbox::push_stream`], with bytes that are the caller's.
    pub fn copy_to_stream(&mut self, stream: StreamId, piece: &[u8], report: bool) {
        if piece.len() >= SMALL_PIECE {
            return self.push_stream(stream, Bytes::copy_from_slice(piece), report);
        }
        if piece.is_empty() {
            return;
        }
        self.stream_bytes = self.stream_bytes.saturating_add(piece.len());
        let key = FlowKey::Stream(stream);
        let flow = self.flows.as_mut().and_then(|flows| flows.by_key.get_mut(&key));
        let last = flow.and_then(|flow| flow.items.back_mut());
        let mut room = PIECES_START;
        if let Some(item) = last
            && let Body::Pieces(pieces) = &mut item.body
            && item.report == report
        {
            if piece.len() <= item.slack {
                pieces.extend_from_slice(piece);
                item.slack = item.slack.saturating_sub(piece.len());
                self.overhead = self.overhead.saturating_sub(piece.len());
                self.bytes = self.bytes.saturating_add(piece.len());
                return;
            }
            room = pieces.capacity().saturating_mul(2).min(PIECES_FULL);
        }
        let mut pieces = Vec::with_capacity(room.max(piece.len()));
        pieces.extend_from_slice(piece);
        let slack = spare(&pieces);
        self.push(key, Item { lead: Bytes::new(), body: Body::Pieces(pieces), slack, report });
    }

    /// Half-closes a stream after what is queued for it.
    pub fn finish_stream(&mut self, engine: &mut Engine, stream: StreamId) {
        let flow = self.flows.as_mut().and_then(|flows| flows.by_key.get_mut(&FlowKey::Stream(stream)));
        match flow {
            Some(flow) => flow.finish = true,
            None => {
                let _ = engine.finish(stream);
            }
        }
    }

    /// Forgets what waits in a flow; returns the bytes dropped.
    pub fn drop_flow(&mut self, key: FlowKey) -> usize {
        let Some(flows) = self.flows.as_mut() else { return 0 };
        let flow = flows.by_key.remove(&key);
        if flows.by_key.is_empty() {
            self.flows = None;
        }
        flow.map_or(0, |flow| self.forget(key, &flow))
    }

    /// Counts a flow out that is gone; returns the bytes that were left in it.
    fn forget(&mut self, key: FlowKey, flow: &Flow) -> usize {
        let left = flow.items.iter().map(Item::len).sum();
        let slack: usize = flow.items.iter().map(|item| item.slack).sum();
        let entries = flow.items.capacity().saturating_mul(ITEM);
        self.overhead = self.overhead.saturating_sub(slack.saturating_add(entries));
        self.bytes = self.bytes.saturating_sub(left);
        if matches!(key, FlowKey::Stream(_)) {
            self.stream_bytes = self.stream_bytes.saturating_sub(left);
        }
        left
    }

    /// A stream has window again.
    pub fn unpark(&mut self, stream: StreamId) {
        let key = FlowKey::Stream(stream);
        if let Some(flows) = self.flows.as_mut()
            && let Some(flow) = flows.by_key.get_mut(&key)
            && !flow.queued
        {
            flow.queued = true;
            flows.turns.push_back(key);
        }
    }

    fn push(&mut self, key: FlowKey, item: Item) {
        let flows = self.flows.get_or_insert_default();
        self.bytes = self.bytes.saturating_add(item.len());
        self.overhead = self.overhead.saturating_add(item.slack);
        let flow = flows.by_key.entry(key).or_default();
        let before = flow.items.capacity();
        flow.items.push_back(item);
        let grown = flow.items.capacity().saturating_sub(before);
        self.overhead = self.overhead.saturating_add(grown.saturating_mul(ITEM));
        if !flow.queued {
            flow.queued = true;
            flows.turns.push_back(key);
        }
    }

    /// Moves frames to the transport until `budget` bytes are there or nothing more may be sent.
    pub fn fill(&mut self, engine: &mut Engine, session: StreamId, budget: usize) {
        if engine.has_control() {
            let mut control = Vec::new();
            engine.take_control(&mut control);
            self.segment(Data::Own(control));
        }
        while self.sending < budget && self.fill_block(engine, session) {}
        // Small frames that wait for the window of the session stream must not be overtaken by later fragments of the same stream.
        let session_open = self.block.is_empty() && self.blocks.is_empty() && self.cut.is_empty();
        self.fill_flows(engine, session, session_open, budget);
    }

    /// Moves one block, or as much of it as the window lets through; false if there is none or the window is used up.
    fn fill_block(&mut self, engine: &mut Engine, session: StreamId) -> bool {
        let window = usize::try_from(engine.send_window(session)).unwrap_or(usize::MAX);
        if window == 0 {
            return false;
        }
        if self.cut.is_empty() {
            let mut block = match self.blocks.pop_front() {
                Some(block) => {
                    self.overhead = self.overhead.saturating_sub(spare(&block));
                    block
                }
                None if self.block.is_empty() => return false,
                None => std::mem::take(&mut self.block),
            };
            let len = block.len().saturating_sub(RESERVED);
            if len <= window {
                let Some(header) = begin(engine, session, len) else { return false };
                if let Some(space) = block.first_chunk_mut() {
                    *space = header;
                }
                self.bytes = self.bytes.saturating_sub(len);
                self.segment(Data::Own(block));
                return window > len;
            }
            // yamux borders mean nothing to frames: what fits is sent, the rest stays where it is.
            self.cut = block.into();
            self.cut.advance(RESERVED);
        }
        let len = self.cut.len().min(window);
        let Some(header) = begin(engine, session, len) else { return false };
        let piece = self.cut.split_to(len);
        self.bytes = self.bytes.saturating_sub(len);
        self.segment(Data::Header(header));
        self.segment(Data::Shared(piece));
        window > len
    }

    fn fill_flows(&mut self, engine: &mut Engine, session: StreamId, session_open: bool, budget: usize) {
        let Some(mut flows) = self.flows.take() else { return };
        let mut idle_turns = 0;
        while self.sending < budget && idle_turns < flows.turns.len() {
            let Some(key) = flows.turns.pop_front() else { break };
            let Some(flow) = flows.by_key.get_mut(&key) else { continue };
            let turn = match key {
                FlowKey::Operation(_) if session_open => self.operation_turn(engine, session, flow),
                FlowKey::Operation(_) => Turn::Wait,
                FlowKey::Stream(stream) => self.stream_turn(engine, stream, flow),
            };
            match turn {
                Turn::Done => {
                    if let Some(flow) = flows.by_key.remove(&key) {
                        self.forget(key, &flow);
                    }
                    idle_turns = 0;
                }
                Turn::More => {
                    flows.turns.push_back(key);
                    idle_turns = 0;
                }
                Turn::Wait => {
                    flows.turns.push_back(key);
                    idle_turns = idle_turns.saturating_add(1);
                }
                Turn::Park => flow.queued = false,
            }
        }
        if !flows.by_key.is_empty() {
            self.flows = Some(flows);
        }
    }

    /// Sends one frame of an operation as one yamux data frame.
    fn operation_turn(&mut self, engine: &mut Engine, session: StreamId, flow: &mut Flow) -> Turn {
        let Some(item) = flow.items.front_mut() else { return Turn::Done };
        let window = usize::try_from(engine.send_window(session)).unwrap_or(usize::MAX);
        // A frame whose header would push it over the yamux limit goes as two yamux frames; the frame itself stays whole, because
        // nothing else of this stream may come between its bytes.
        let total = item.len();
        if total > window {
            return Turn::Wait;
        }
        let first = total.min(MAX_DATA);
        let Some(header) = begin(engine, session, first) else { return Turn::Wait };
        let Some(item) = flow.items.pop_front() else { return Turn::Done };
        self.bytes = self.bytes.saturating_sub(total);
        self.overhead = self.overhead.saturating_sub(item.slack);
        let mut body = item.body.into_bytes();
        let tail = body.split_off(first.saturating_sub(item.lead.len()).min(body.len()));
        self.segment(Data::Header(header));
        self.segment(Data::Shared(item.lead));
        self.segment(Data::Shared(body));
        if !tail.is_empty()
            && let Some(header) = begin(engine, session, tail.len())
        {
            self.segment(Data::Header(header));
            self.segment(Data::Shared(tail));
        }
        if flow.items.is_empty() { Turn::Done } else { Turn::More }
    }

    /// Sends what the window lets through of a stream's next piece.
    fn stream_turn(&mut self, engine: &mut Engine, stream: StreamId, flow: &mut Flow) -> Turn {
        let Some(item) = flow.items.front_mut() else {
            let _ = engine.finish(stream);
            return Turn::Done;
        };
        let window = usize::try_from(engine.send_window(stream)).unwrap_or(usize::MAX);
        let len = item.body.len().min(window).min(MAX_DATA);
        if len == 0 && !item.body.is_empty() {
            return Turn::Park;
        }
        let piece = item.body.split_to(len);
        let report = item.report.then_some(stream);
        if item.body.is_empty() {
            self.overhead = self.overhead.saturating_sub(item.slack);
            flow.items.pop_front();
        }
        self.bytes = self.bytes.saturating_sub(len);
        self.stream_bytes = self.stream_bytes.saturating_sub(len);
        let last = flow.items.is_empty();
        let Ok(header) = engine.data(stream, u32::try_from(len).unwrap_or(u32::MAX), last && flow.finish)
        else {
            // Reset while bytes waited: whoever reset it drops the flow.
            return Turn::Done;
        };
        self.stream_segment(Data::Header(header), None);
        self.stream_segment(Data::Shared(piece), report);
        if last { Turn::Done } else { Turn::More }
    }

    fn segment(&mut self, data: Data) {
        self.hand_over(Segment { data, report: None, of_stream: false });
    }

    fn stream_segment(&mut self, data: Data, report: Option<StreamId>) {
        let segment = Segment { data, report, of_stream: true };
        self.sending_of_streams = self.sending_of_streams.saturating_add(segment.as_slice().len());
        self.hand_over(segment);
    }

    fn hand_over(&mut self, segment: Segment) {
        if segment.as_slice().is_empty() {
            return;
        }
        self.sending = self.sending.saturating_add(segment.as_slice().len());
        if self.front.is_none() {
            self.front = Some(segment);
        } else {
            self.rest.push_back(segment);
        }
    }

    /// Bytes handed to the transport and not yet written.
    #[must_use]
    pub fn sending(&self) -> usize {
        self.sending
    }

    /// What to write next, in order: at most `max` slices.
    pub fn slices<'a>(&'a self, slices: &mut impl Extend<IoSlice<'a>>, max: usize) {
        let front = self.front.as_ref().and_then(|segment| segment.as_slice().get(self.front_written..));
        let rest = self.rest.iter().map(Segment::as_slice);
        slices.extend(front.into_iter().chain(rest).take(max).map(IoSlice::new));
    }

    /// The transport took `n` bytes. `report` is told how many bytes of which stream were written for good.
    pub fn written(&mut self, mut n: usize, mut report: impl FnMut(StreamId, u32)) {
        self.sending = self.sending.saturating_sub(n);
        while let Some(front) = self.front.as_ref() {
            let left = front.as_slice().len().saturating_sub(self.front_written);
            if front.of_stream {
                self.sending_of_streams = self.sending_of_streams.saturating_sub(n.min(left));
            }
            if n < left {
                if let Some(stream) = front.report.filter(|_| n > 0) {
                    report(stream, u32::try_from(n).unwrap_or(u32::MAX));
                }
                self.front_written = self.front_written.saturating_add(n);
                return;
            }
            if let Some(stream) = front.report {
                report(stream, u32::try_from(left).unwrap_or(u32::MAX));
            }
            n = n.saturating_sub(left);
            self.front_written = 0;
            self.front = self.rest.pop_front();
        }
    }

    /// Bytes that wait for the peer, all lanes and what was handed to the transport.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.bytes.saturating_add(self.sending)
    }

    /// Memory held, for the memory budget: the bytes that wait, and what it takes to keep them.
    #[must_use]
    pub fn held(&self) -> usize {
        let segments = self.rest.capacity().saturating_mul(size_of::<Segment>());
        let flows = self.flows.as_ref().map_or(0, |flows| flows.held());
        let parts = [self.queued(), self.overhead, spare(&self.block), segments, flows];
        parts.into_iter().fold(size_of::<Self>(), usize::saturating_add)
    }
}

/// The header of a data frame; `None` if so much may not be sent on the stream.
fn begin(engine: &mut Engine, stream: StreamId, len: usize) -> Option<[u8; HEADER_LEN]> {
    engine.data(stream, u32::try_from(len).unwrap_or(u32::MAX), false).ok()
}

/// Bytes that a buffer has beyond what is in it.
const fn spare(buffer: &Vec<u8>) -> usize {
    buffer.capacity().saturating_sub(buffer.len())
}

/// What a flow's turn came to.
enum Turn {
    /// Nothing left in it.
    Done,
    /// It sent a frame and has more.
    More,
    /// It needs window of the session stream.
    Wait,
    /// It needs window of its own stream, which announces it.
    Park,
}

// === impl Flows ===

impl Flows {
    fn held(&self) -> usize {
        let turns = self.turns.capacity().saturating_mul(size_of::<FlowKey>());
        size_of::<Self>().saturating_add(self.by_key.allocation_size()).saturating_add(turns)
    }
}

// === impl Item ===

impl Item {
    fn len(&self) -> usize {
        self.lead.len().saturating_add(self.body.len())
    }
}

// === impl Body ===

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::Shared(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts off the first `n` bytes, without a copy.
    fn split_to(&mut self, n: usize) -> Bytes {
        if let Self::Pieces(pieces) = self {
            *self = Self::Shared(std::mem::take(pieces).into());
        }
        match self {
            Self::Shared(bytes) => bytes.split_to(n.min(bytes.len())),
            Self::Pieces(_) => Bytes::new(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Pieces(pieces) => pieces.into(),
        }
    }
}

// === impl Segment ===

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match &self.data {
            Data::Header(header) => header,
            Data::Own(bytes) => bytes,
            Data::Shared(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests;
