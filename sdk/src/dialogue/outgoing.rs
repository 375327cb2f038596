//! Our operations: how they go out, and how their answers come back.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use frontier_wire::native::{
    frame::{Flags, FrameHeader, FrameType, MAX_BODY_FRAME},
    head::{self, CallBuilder, Credit, HeadError, ReplyHead},
    reader::Frame,
};
use tokio::time::Instant;

use super::{
    Dialogue, Sink,
    assembly::{Assembly, Joined},
    lead, put,
    transfer::Transfer,
};
use crate::{
    error::{Error, ErrorCode, Result, millis},
    headers::Headers,
    op::{NameLists, Names, Outgoing, SendKind},
    promise::Promise,
    reply::Reply,
};

/// Bytes of deadline and length behind a head: two tags and two varints.
const TRAILER: usize = 24;

/// Flows of messages, which are shared by all of the same order, are told from those of calls by this bit.
const ORDERED: u64 = 1 << 63;

/// An operation of ours that is unanswered.
#[derive(Debug)]
pub(super) enum Pending {
    Call {
        promise: Promise<Reply>,
        /// The answer's body, while it comes in fragments.
        body: Option<Box<PartialReply>>,
    },
    Publish {
        promise: Promise<Reply>,
        order: u64,
    },
    Names(Promise<Reply>),
    Locate(Promise<u64>),
}

/// An answer whose last fragment has not come yet.
#[derive(Debug)]
pub(super) struct PartialReply {
    headers: Headers,
    assembly: Box<Assembly>,
}

// === impl Dialogue ===

impl Dialogue {
    /// Sends a call or a message, or queues it behind messages of the same order.
    pub(crate) fn start(&mut self, send: Box<Outgoing>, now: Instant, sink: &mut impl Sink) {
        self.now = now;
        if let Some(waiting) = self.order.get_mut(&send.order).filter(|_| send.kind == SendKind::Publish) {
            waiting.push_back(send);
            return;
        }
        self.launch(*send, sink);
        self.pump(sink);
    }

    fn launch(&mut self, send: Outgoing, sink: &mut impl Sink) {
        let Outgoing { kind, mut head, body, deadline, order, promise } = send;
        if let Err(error) = self.check(&body, deadline) {
            promise.fulfil(Err(error));
            return;
        }
        let id = self.last_out + 1;
        if !promise.sent(&self.mailbox, self.id, id) {
            return;
        }
        self.last_out = id;
        let timeout_ms = millis(deadline.saturating_duration_since(self.now));
        let fragmented = body.len() > MAX_BODY_FRAME as usize;
        let total_len = if fragmented { body.len() as u64 } else { 0 };
        let flow = if kind == SendKind::Publish { order | ORDERED } else { id << 1 };
        let mut space = [0; TRAILER];
        let trailer = trailer(&mut space, timeout_ms, total_len);
        if fragmented {
            head.extend_from_slice(trailer);
            let mut transfer = Transfer::new(kind.frame(), id, flow, head, body, deadline);
            if kind == SendKind::Publish {
                transfer.order = Some(order);
                self.order.insert(order, VecDeque::new());
            }
            self.transfers.begin(transfer, self.now);
        } else {
            put(sink, flow, FrameHeader::new(kind.frame(), id), [&head, trailer], body);
        }
        let pending = match kind {
            SendKind::Request => Pending::Call { promise, body: None },
            SendKind::Publish => Pending::Publish { promise, order },
        };
        self.pending.insert(id, pending);
    }

    fn check(&self, body: &Bytes, deadline: Instant) -> Result<()> {
        if deadline <= self.now {
            return Err(Error::deadline());
        }
        if body.len() as u64 > self.limits.send_body {
            let text =
                format!("a body of {} bytes, at most {} may be sent", body.len(), self.limits.send_body);
            return Err(Error::new(ErrorCode::PayloadTooLarge, text));
        }
        Ok(())
    }

    /// Sends what waited for the last fragment of a message of the same order, up to the next message in fragments.
    pub(super) fn next_of(&mut self, order: u64, sink: &mut impl Sink) {
        let Some(mut waiting) = self.order.remove(&order) else { return };
        while let Some(send) = waiting.pop_front() {
            self.launch(*send, sink);
            if let Some(behind) = self.order.get_mut(&order) {
                *behind = waiting;
                return;
            }
        }
    }

    /// Sends a registration or its end.
    pub(crate) fn start_names(&mut self, names: Names, sink: &mut impl Sink) {
        let Names { register, lists: NameLists { methods, topics }, promise } = names;
        let Some(id) = self.next_id(&promise) else { return };
        let mut head = Vec::new();
        head::Names::encode(&mut head, methods.iter().map(AsRef::as_ref), topics.iter().map(AsRef::as_ref));
        let kind = if register { FrameType::Register } else { FrameType::Unregister };
        put(sink, id << 1, FrameHeader::new(kind, id), [&head, &[]], Bytes::new());
        self.pending.insert(id, Pending::Names(promise));
    }

    /// Asks where an edge is.
    pub(crate) fn start_locate(&mut self, edge: u64, promise: Promise<u64>, sink: &mut impl Sink) {
        let Some(id) = self.next_id(&promise) else { return };
        let mut head = Vec::new();
        head::Locate { edge, epoch: 0 }.encode(&mut head);
        put(sink, id << 1, FrameHeader::new(FrameType::Locate, id), [&head, &[]], Bytes::new());
        self.pending.insert(id, Pending::Locate(promise));
    }

    fn next_id<T>(&mut self, promise: &Promise<T>) -> Option<u64> {
        let id = self.last_out + 1;
        if !promise.sent(&self.mailbox, self.id, id) {
            return None;
        }
        self.last_out = id;
        Some(id)
    }

    /// Nobody waits for an operation of ours any more. Its answer will be skipped.
    pub(crate) fn cancel(&mut self, id: u64, sink: &mut impl Sink) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let flow = match pending {
            Pending::Call { .. } => id << 1,
            Pending::Publish { order, .. } => order | ORDERED,
            Pending::Names(_) | Pending::Locate(_) => return,
        };
        let error = Error::cancelled();
        match self.transfers.remove(false, id) {
            // What is queued of it goes before: a receiver must not be told of the end of something that it never heard of.
            Some(transfer) => {
                let mut head = Vec::new();
                CallBuilder::abort(error.to_wire()).encode(&mut head);
                let header = FrameHeader::new(transfer.kind, id).with_flags(Flags::ABORT);
                put(sink, flow, header, [&head, &[]], Bytes::new());
                if let Some(order) = transfer.order {
                    self.next_of(order, sink);
                }
                self.pump(sink);
            }
            None => put(sink, flow, FrameHeader::new(FrameType::Cancel, id), [&[], &[]], Bytes::new()),
        }
    }

    pub(super) fn on_response(&mut self, frame: Frame<Bytes>, sink: &mut impl Sink) {
        let (id, flags) = (frame.header.id, frame.header.flags);
        let Some(Pending::Call { body, .. }) = self.pending.get_mut(&id) else { return };
        let step = match body.take() {
            Some(partial) => (*partial).push(&frame),
            None if flags.more() => PartialReply::begin(&frame, self.limits.recv_body, &self.budget),
            None => ReplyStep::whole(frame),
        };
        match step {
            ReplyStep::Done(outcome) => self.finish_call(id, outcome, flags.more(), sink),
            ReplyStep::More(partial, credit) => {
                *body = Some(partial);
                put_credit(sink, id, Flags::REPLY, credit);
            }
        }
    }

    /// A call has its outcome. With `more_to_come` the responder still has to be stopped.
    fn finish_call(&mut self, id: u64, outcome: Result<Reply>, more_to_come: bool, sink: &mut impl Sink) {
        if let Some(Pending::Call { promise, .. }) = self.pending.remove(&id) {
            promise.fulfil(outcome);
        }
        if let Some(transfer) = self.transfers.remove(false, id) {
            sink.drop_flow(transfer.flow);
        }
        if more_to_come {
            put(sink, id << 1, FrameHeader::new(FrameType::Cancel, id), [&[], &[]], Bytes::new());
        }
    }

    pub(super) fn on_ack(&mut self, frame: &Frame<Bytes>, sink: &mut impl Sink) {
        let id = frame.header.id;
        let outcome =
            success(&frame.head).map(|head| Reply::with_headers(Bytes::new(), head.headers().collect()));
        match self.pending.remove(&id) {
            Some(Pending::Publish { promise, .. }) => {
                promise.fulfil(outcome);
                // Answered before the last fragment: the rest is not wanted, and the next message may begin.
                if let Some(Transfer { order: Some(order), .. }) = self.transfers.remove(false, id) {
                    self.next_of(order, sink);
                    self.pump(sink);
                }
            }
            Some(Pending::Names(promise)) => promise.fulfil(outcome),
            Some(other) => {
                self.pending.insert(id, other);
            }
            None => {}
        }
    }

    pub(super) fn on_locate(&mut self, frame: &Frame<Bytes>) {
        if let Some(Pending::Locate(_)) = self.pending.get(&frame.header.id)
            && let Some(Pending::Locate(promise)) = self.pending.remove(&frame.header.id)
        {
            promise.fulfil(head::Locate::parse(&frame.head).map(|head| head.epoch).map_err(unreadable));
        }
    }
}

/// What a frame of an answer came to.
enum ReplyStep {
    Done(Result<Reply>),
    More(Box<PartialReply>, u32),
}

// === impl ReplyStep ===

impl ReplyStep {
    /// An answer in one frame.
    fn whole(frame: Frame<Bytes>) -> Self {
        let headers = success(&frame.head).map(|head| head.headers().collect());
        Self::Done(headers.map(|headers| Reply::with_headers(detach(frame.body.into_bytes()), headers)))
    }
}

/// The head of an answer, unless it says why there is none or cannot be read.
pub(super) fn success(head: &[u8]) -> Result<ReplyHead<'_>> {
    let head = ReplyHead::parse(head).map_err(unreadable)?;
    match head.error {
        Some(error) => Err(Error::from_wire(error)),
        None => Ok(head),
    }
}

pub(super) fn unreadable(error: HeadError) -> Error {
    Error::new(ErrorCode::Internal, format!("the answer cannot be read: {error}"))
}

// === impl PartialReply ===

impl PartialReply {
    fn begin(frame: &Frame<Bytes>, max: usize, budget: &crate::budget::Budget) -> ReplyStep {
        let partial = success(&frame.head).and_then(|head| {
            let assembly = Box::new(Assembly::new(head.total_len, max, budget)?);
            Ok(Self { headers: head.headers().collect(), assembly })
        });
        match partial {
            Ok(partial) => partial.join(frame),
            Err(error) => ReplyStep::Done(Err(error)),
        }
    }

    fn push(self, frame: &Frame<Bytes>) -> ReplyStep {
        if !frame.header.flags.abort() {
            return self.join(frame);
        }
        let broke_off = || Error::new(ErrorCode::Internal, "the answer broke off");
        ReplyStep::Done(success(&frame.head).and_then(|_| Err(broke_off())))
    }

    fn join(self, frame: &Frame<Bytes>) -> ReplyStep {
        let Self { headers, mut assembly } = self;
        match assembly.push(&frame.body).and_then(|()| assembly.join(frame.header.flags.more())) {
            Ok((Joined::Credit(credit), Some(assembly))) => {
                ReplyStep::More(Box::new(Self { headers, assembly }), credit)
            }
            Ok((Joined::Whole(body, _), _)) => ReplyStep::Done(Ok(Reply::with_headers(body, headers))),
            Ok((Joined::Credit(_), None)) => ReplyStep::Done(Err(Error::invalid("the body is not complete"))),
            Err(error) => ReplyStep::Done(Err(error)),
        }
    }
}

// === impl Pending ===

impl Pending {
    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Call { promise, .. } | Self::Publish { promise, .. } | Self::Names(promise) => {
                promise.fulfil(Err(error));
            }
            Self::Locate(promise) => promise.fulfil(Err(error)),
        }
    }
}

/// Bodies up to this length are copied out of the read buffer, of which they would pin 64 KiB for as long as the user keeps them.
const DETACH_MAX: usize = 8 * 1024;

/// A body that may live for long without keeping much more memory than its own.
pub(super) fn detach(body: Bytes) -> Bytes {
    if body.len() <= DETACH_MAX { Bytes::copy_from_slice(&body) } else { body }
}

/// Grants more bytes to the sender of a body. Never in a flow: those are numbered by our operations, and what waits in one is dropped
/// when its operation ends early, while a grant that is lost stops the peer's body for good.
pub(super) fn put_credit(sink: &mut impl Sink, id: u64, flags: Flags, bytes: u32) {
    if bytes == 0 {
        return;
    }
    let mut head = Vec::new();
    Credit { bytes }.encode(&mut head);
    if let Ok(header) = FrameHeader::new(FrameType::Credit, id).with_flags(flags).with_lens(head.len(), 0) {
        lead(sink.small(header.frame_len()), header, [&head, &[]]);
    }
}

/// The fields that are known only when an operation goes out. A head's fields may come in any order.
fn trailer(space: &mut [u8; TRAILER], timeout_ms: u32, total_len: u64) -> &[u8] {
    let mut rest = &mut space[..];
    CallBuilder::new("").timeout_ms(timeout_ms).total_len(total_len).encode(&mut rest);
    let left = rest.len();
    space.get(..TRAILER - left).unwrap_or_default()
}

/// Longest head in bytes that a user may give: the trailer comes on top.
pub(crate) const HEAD_MAX: usize = frontier_wire::native::limits::MAX_HEAD as usize - TRAILER;

/// The deadline of something that came without one.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
