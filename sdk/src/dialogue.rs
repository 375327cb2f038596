//! The operations of one sequence of frames: of the session stream, or of one user stream.
//!
//! A dialogue keeps what is unanswered in both directions, cuts long bodies into fragments and joins those that come. It has no
//! socket and no clock: frames and the time go in, frames go out by a [`Sink`], complete operations of the peer by a [`Host`].
//!
//! ```text
//!  handles ── start, cancel ──▶ ┌──────────┐ ── Sink ──▶ frames to the peer
//!  handlers ─── answer ───────▶ │ Dialogue │
//!  frames from the peer ──────▶ └──────────┘ ── Host ──▶ handlers, queues     promises ──▶ handles
//! ```
//!
//! Invariants: every operation of the peer is answered exactly once; every promise is kept; of messages with the same order none
//! starts before the last fragment of the one before was handed out.

mod assembly;
mod incoming;
mod lists;
mod outgoing;
mod transfer;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use frontier_wire::native::{
    frame::{FrameHeader, FrameType, HEADER_LEN},
    head::Credit,
    reader::Frame,
};
use tokio::time::Instant;

use self::{incoming::Incoming, lists::Lists, outgoing::Pending, transfer::Transfers};
pub(crate) use self::{
    incoming::{Delivery, Host},
    outgoing::HEAD_MAX,
};
use crate::{
    budget::Budget,
    error::Error,
    mailbox::{DialogueId, Mailbox},
    op::Outgoing,
};

/// Bodies up to this many bytes are copied beside other small frames; longer ones are passed by reference, in a turn of their own.
const COPY_MAX: usize = 16 * 1024;

/// Where frames go.
pub(crate) trait Sink {
    /// Where to append a small frame: exactly `len` bytes.
    fn small(&mut self, len: usize) -> &mut Vec<u8>;

    /// Queues a frame in a flow: `lead` is its header and head. Frames of a flow keep their order.
    fn piece(&mut self, flow: u64, lead: Bytes, body: Bytes);

    /// Whether frames wait in a flow, so that later ones of the same order must queue behind them.
    fn waits(&mut self, flow: u64) -> bool;

    /// Forgets what waits in a flow.
    fn drop_flow(&mut self, flow: u64);

    /// Whether further fragments may be queued now.
    fn room(&self) -> bool;
}

/// What a dialogue accepts and sends.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Longest body that is sent, in bytes.
    pub(crate) send_body: u64,
    /// Longest body that is accepted, in bytes.
    pub(crate) recv_body: usize,
    /// Operations of the peer that may be unanswered.
    pub(crate) incoming: usize,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Dialogue {
    id: DialogueId,
    mailbox: Arc<Mailbox>,
    limits: Limits,
    /// For bodies in fragments, shared by all dialogues of a client.
    budget: Budget,
    /// The id our last operation got.
    last_out: u64,
    /// The highest id the peer has used.
    last_in: u64,
    pending: HashMap<u64, Pending>,
    lists: Lists,
    incoming: HashMap<u64, Incoming>,
    transfers: Transfers,
    /// For each order with a message under way in fragments: the messages behind it.
    order: HashMap<u64, VecDeque<Box<Outgoing>>>,
    /// The time of the last call that told it.
    now: Instant,
}

// === impl Dialogue ===

impl Dialogue {
    pub(crate) fn new(
        id: DialogueId,
        mailbox: Arc<Mailbox>,
        limits: Limits,
        budget: Budget,
        now: Instant,
    ) -> Self {
        Self {
            id,
            mailbox,
            limits,
            budget,
            last_out: 0,
            last_in: 0,
            pending: HashMap::new(),
            lists: Lists::default(),
            incoming: HashMap::new(),
            transfers: Transfers::default(),
            order: HashMap::new(),
            now,
        }
    }

    /// Takes a frame of the peer. Frames that belong to no dialogue are ignored.
    ///
    /// A malformed head fails its own operation alone: on a user stream every byte is the other end's, and on the session stream a
    /// gateway may pass on heads as they came, so it says nothing about who carries them.
    pub(crate) fn on_frame(
        &mut self,
        frame: Frame<Bytes>,
        now: Instant,
        sink: &mut impl Sink,
        host: &impl Host,
    ) {
        self.now = now;
        match frame.header.kind {
            FrameType::Request | FrameType::Publish => self.on_operation(frame, sink, host),
            FrameType::Response => self.on_response(frame, sink),
            FrameType::Ack => self.on_ack(&frame, sink),
            FrameType::Locate => self.on_locate(&frame),
            FrameType::Presence => self.on_presence(&frame, sink),
            FrameType::Cancel => self.on_cancel(frame.header.id, sink),
            FrameType::Credit => {
                // One that grants nothing readable grants nothing: its body waits until its deadline.
                if let Ok(credit) = Credit::parse(&frame.head) {
                    let FrameHeader { id, flags, .. } = frame.header;
                    self.transfers.credit(flags.reply(), id, credit.bytes, now);
                    self.pump(sink);
                }
            }
            _ => {}
        }
    }

    /// Hands out fragments for which there is credit and room.
    pub(crate) fn pump(&mut self, sink: &mut impl Sink) {
        while let Some(order) = self.transfers.pump(sink) {
            self.next_of(order, sink);
        }
    }

    /// Gives up what should have been complete by now. To be called about every second while [`wants_sweep`](Self::wants_sweep).
    pub(crate) fn sweep(&mut self, now: Instant, sink: &mut impl Sink) {
        self.now = now;
        self.sweep_incoming(sink);
        for id in self.transfers.expired(now) {
            self.abort_response(id, &Error::deadline(), sink);
        }
    }

    /// Whether anything under way may have to be given up after some time.
    pub(crate) fn wants_sweep(&self) -> bool {
        !self.transfers.is_empty() || self.incoming.values().any(Incoming::is_partial)
    }

    /// Operations of ours that are unanswered.
    pub(crate) fn outgoing(&self) -> usize {
        let waiting: usize = self.order.values().map(VecDeque::len).sum();
        self.pending.len() + self.lists.asked() + waiting
    }

    /// Whether nothing is unanswered in either direction.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
            && self.lists.is_idle()
            && self.incoming.is_empty()
            && self.order.is_empty()
            && self.transfers.is_empty()
    }

    /// The session or stream has ended: fails what is unanswered, tells handlers that nobody waits.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.fail_outgoing(error);
        for (_, incoming) in self.incoming.drain() {
            incoming.cancel();
        }
        self.transfers.clear();
    }

    /// Answers cannot come any more: fails our operations.
    pub(crate) fn fail_outgoing(&mut self, error: &Error) {
        for (_, pending) in self.pending.drain() {
            pending.fail(error.clone());
        }
        self.lists.fail(error);
        for send in self.order.drain().flat_map(|(_, waiting)| waiting) {
            send.promise.fulfil(Err(error.clone()));
        }
        self.transfers.end_operations();
    }
}

/// Sends a frame that must not be overtaken by later ones of the same flow. Its head comes in two parts.
fn put(sink: &mut impl Sink, flow: u64, header: FrameHeader, head: [&[u8]; 2], body: Bytes) {
    let head_len = head.iter().map(|part| part.len()).sum::<usize>();
    // Both were checked where they came from; a frame that does not fit cannot be sent.
    let Ok(header) = header.with_lens(head_len, body.len()) else { return };
    if body.len() <= COPY_MAX && !sink.waits(flow) {
        let out = sink.small(header.frame_len());
        lead(out, header, head);
        out.extend_from_slice(&body);
    } else {
        let mut out = Vec::with_capacity(HEADER_LEN + head_len);
        lead(&mut out, header, head);
        sink.piece(flow, out.into(), body);
    }
}

fn lead(out: &mut Vec<u8>, header: FrameHeader, [first, second]: [&[u8]; 2]) {
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(first);
    out.extend_from_slice(second);
}

#[cfg(test)]
mod tests;
