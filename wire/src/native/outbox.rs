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
//! The outbox exists only while there is something to send.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::yamux::{Engine, StreamId};

/// Payload of one yamux data frame at most.
pub const MAX_DATA: usize = 65_536;
/// Bytes kept free at the start of a block for the yamux header.
const RESERVED: usize = 12;
/// A block starts with this capacity: a batch of small calls rarely needs more.
const BLOCK_START: usize = 1_024;

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
    body: Bytes,
    /// Report the bytes of `body` when they were written (see [`Outbox::written`]).
    report: bool,
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
}

#[derive(Debug)]
enum Data {
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
    flows: Option<Box<Flows>>,
    front: Option<Segment>,
    rest: VecDeque<Segment>,
    /// Bytes of `front` that are written already.
    front_written: usize,
    /// Payload bytes in all lanes and segments.
    bytes: usize,
    /// Of those, bytes of user streams: windows bound them, so they do not count against an operation's room.
    stream_bytes: usize,
    sending: usize,
}

#[derive(Debug, Default)]
struct Flows {
    by_key: HashMap<FlowKey, Flow>,
    turns: VecDeque<FlowKey>,
}

// === impl Outbox ===

impl Outbox {
    /// Bytes held for the peer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of operations waiting for the peer: what a limit on new ones looks at.
    #[must_use]
    pub fn operation_bytes(&self) -> usize {
        self.held().saturating_sub(self.stream_bytes)
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

    /// Bytes that wait in a flow, not counting what was handed to the transport.
    #[must_use]
    pub fn flow_bytes(&self, key: FlowKey) -> usize {
        let flow = self.flows.as_ref().and_then(|flows| flows.by_key.get(&key));
        flow.map_or(0, |flow| {
            flow.items.iter().map(|item| item.lead.len().saturating_add(item.body.len())).sum()
        })
    }

    /// Where to append a small frame of `len` bytes (at most 64 KiB): exactly that many must be appended.
    pub fn small(&mut self, len: usize) -> &mut Vec<u8> {
        if self.block.len().saturating_add(len) > MAX_DATA.saturating_add(RESERVED) {
            let full = std::mem::take(&mut self.block);
            self.blocks.push_back(full);
        }
        if self.block.is_empty() {
            self.block.reserve(BLOCK_START.max(len.saturating_add(RESERVED)));
            self.block.extend_from_slice(&[0; RESERVED]);
        }
        self.bytes = self.bytes.saturating_add(len);
        &mut self.block
    }

    /// Queues a frame of the session stream in a flow: `lead` is its header and head. `lead` and `body` together are at most 96 KiB.
    pub fn push_frame(&mut self, key: u64, lead: Bytes, body: Bytes) {
        self.push(FlowKey::Operation(key), Item { lead, body, report: false });
    }

    /// Queues bytes of a user stream. With `report` they come back through [`Outbox::written`] once written.
    pub fn push_stream(&mut self, stream: StreamId, body: Bytes, report: bool) {
        self.stream_bytes = self.stream_bytes.saturating_add(body.len());
        self.push(FlowKey::Stream(stream), Item { lead: Bytes::new(), body, report });
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
        let dropped = flows.by_key.remove(&key).map_or(0, |flow| flow.items.iter().map(Item::len).sum());
        if flows.by_key.is_empty() {
            self.flows = None;
        }
        self.bytes = self.bytes.saturating_sub(dropped);
        if matches!(key, FlowKey::Stream(_)) {
            self.stream_bytes = self.stream_bytes.saturating_sub(dropped);
        }
        dropped
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
        let flow = flows.by_key.entry(key).or_default();
        flow.items.push_back(item);
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
            self.segment(Data::Own(control), None);
        }
        while self.sending < budget && self.fill_block(engine, session) {}
        // Small frames that wait for the window of the session stream must not be overtaken by later fragments of the same stream.
        let session_open = self.block.is_empty() && self.blocks.is_empty();
        self.fill_flows(engine, session, session_open, budget);
    }

    /// Moves one block; false if there is none or its window is used up.
    fn fill_block(&mut self, engine: &mut Engine, session: StreamId) -> bool {
        let mut block = match self.blocks.pop_front() {
            Some(block) => block,
            None if self.block.is_empty() => return false,
            None => std::mem::take(&mut self.block),
        };
        let len = block.len().saturating_sub(RESERVED);
        let window = usize::try_from(engine.send_window(session)).unwrap_or(usize::MAX);
        if window < len {
            // yamux borders mean nothing to frames: send what fits and keep the rest, reserved bytes in front.
            let mut rest = vec![0; RESERVED];
            rest.extend_from_slice(block.get(RESERVED.saturating_add(window)..).unwrap_or_default());
            block.truncate(RESERVED.saturating_add(window));
            self.blocks.push_front(rest);
            if window == 0 {
                return false;
            }
        }
        let len = block.len().saturating_sub(RESERVED);
        let Ok(header) = engine.data(session, u32::try_from(len).unwrap_or(u32::MAX), false) else {
            return false;
        };
        if let Some(space) = block.first_chunk_mut() {
            *space = header;
        }
        self.segment(Data::Own(block), None);
        self.bytes = self.bytes.saturating_sub(len);
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
                    flows.by_key.remove(&key);
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
        let Some(item) = flow.items.pop_front() else { return Turn::Done };
        self.bytes = self.bytes.saturating_sub(total);
        let first = total.min(MAX_DATA);
        let Ok(header) = engine.data(session, u32::try_from(first).unwrap_or(u32::MAX), false) else {
            return Turn::Wait;
        };
        let mut lead = Vec::with_capacity(RESERVED.saturating_add(item.lead.len()));
        lead.extend_from_slice(&header);
        lead.extend_from_slice(&item.lead);
        self.segment(Data::Own(lead), None);
        let mut body = item.body;
        let tail = body.split_off(first.saturating_sub(item.lead.len()).min(body.len()));
        self.segment(Data::Shared(body), None);
        if !tail.is_empty()
            && let Ok(header) = engine.data(session, u32::try_from(tail.len()).unwrap_or(u32::MAX), false)
        {
            self.segment(Data::Own(header.to_vec()), None);
            self.segment(Data::Shared(tail), None);
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
        self.segment(Data::Own(header.to_vec()), None);
        self.segment(Data::Shared(piece), report);
        if last { Turn::Done } else { Turn::More }
    }

    fn segment(&mut self, data: Data, report: Option<StreamId>) {
        let segment = Segment { data, report };
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

    /// What to write next, in order; at most as many slices as `slices` has room for.
    pub fn slices<'a>(&'a self, slices: &mut Vec<IoSlice<'a>>, max: usize) {
        let front = self.front.as_ref().and_then(|segment| segment.as_slice().get(self.front_written..));
        slices.extend(front.map(IoSlice::new));
        let room = max.saturating_sub(slices.len());
        slices.extend(self.rest.iter().take(room).map(|segment| IoSlice::new(segment.as_slice())));
    }

    /// The transport took `n` bytes. `report` is told how many bytes of which stream were written for good.
    pub fn written(&mut self, mut n: usize, mut report: impl FnMut(StreamId, u32)) {
        self.sending = self.sending.saturating_sub(n);
        while let Some(front) = self.front.as_ref() {
            let left = front.as_slice().len().saturating_sub(self.front_written);
            if n < left {
                if let Some(stream) = front.report {
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

    /// Everything held, for the memory budget.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.saturating_add(self.sending)
    }
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

// === impl Item ===

impl Item {
    fn len(&self) -> usize {
        self.lead.len().saturating_add(self.body.len())
    }
}

// === impl Segment ===

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match &self.data {
            Data::Own(bytes) => bytes,
            Data::Shared(bytes) => bytes,
        }
    }
}
