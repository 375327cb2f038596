//! The peer's operations: how they come in, and how they are answered.

use std::time::Duration;

use bytes::Bytes;
use frontier_wire::native::{
    frame::{Flags, FrameHeader, FrameType, MAX_BODY_FRAME},
    head::{CallHead, ReplyBuilder},
    limits::MAX_HEAD,
    reader::Frame,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Dialogue, Sink,
    assembly::{Assembly, Joined},
    outgoing::{DEFAULT_TIMEOUT, detach, put_credit},
    put,
    transfer::Transfer,
};
use crate::{
    budget::Charge,
    error::{Error, ErrorCode, Result},
    headers::Headers,
    op::SendKind,
    reply::Reply,
    responder::Responder,
};

/// A deadline beyond this counts as this: it is the peer's word, and what belongs to the operation is held until then.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// A body of which nothing has come for so long is given up, and so is one of ours that nobody has granted anything for. Both ends
/// grant as they join, so this is silence, not slowness.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Who takes the peer's operations.
pub(crate) trait Host {
    /// Whether an operation of this name would be taken now; asked before its body is waited for.
    fn admit(&self, kind: SendKind, name: &str) -> Result<()>;

    /// Takes a complete operation, and with it the duty to answer.
    fn deliver(&self, delivery: Delivery<'_>);
}

/// A complete operation of the peer.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    pub(crate) kind: SendKind,
    pub(crate) head: CallHead<'a>,
    pub(crate) body: Bytes,
    pub(crate) deadline: Instant,
    pub(crate) cancel: CancellationToken,
    pub(crate) responder: Responder,
}

/// An operation of the peer that is unanswered.
#[derive(Debug)]
pub(super) struct Incoming {
    kind: SendKind,
    deadline: Instant,
    cancel: CancellationToken,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Its body comes in fragments.
    Partial(Box<Partial>),
    /// It was handed to its host; what its body is charged with is given back with the answer.
    Delivered(#[expect(dead_code, reason = "held for its drop")] Option<Charge>),
}

#[derive(Debug)]
struct Partial {
    head: Bytes,
    assembly: Box<Assembly>,
    /// When its last fragment came.
    since: Instant,
}

// === impl Dialogue ===

impl Dialogue {
    pub(super) fn on_operation(&mut self, frame: Frame<Bytes>, sink: &mut impl Sink, host: &impl Host) {
        let FrameHeader { id, flags, .. } = frame.header;
        // A small operation may overtake the first fragment of a large one, so a lower id is not always a fragment: only what has no
        // head is.
        let late = frame.header.head_len == 0 && id <= self.last_in;
        if late || flags.abort() || self.incoming.contains_key(&id) {
            return self.on_fragment(frame, sink, host);
        }
        self.last_in = self.last_in.max(id);
        let kind =
            if frame.header.kind == FrameType::Publish { SendKind::Publish } else { SendKind::Request };
        let head = match CallHead::parse(&frame.head) {
            Ok(head) => head,
            Err(error) => {
                let error = Error::invalid(format!("malformed head: {error}"));
                return self.put_answer(kind, id, self.now, Err(error), sink);
            }
        };
        if let Err(error) = self.admit(kind, &head, host) {
            return self.put_answer(kind, id, self.now, Err(error), sink);
        }
        let timeout = match head.timeout_ms {
            0 => DEFAULT_TIMEOUT,
            ms => Duration::from_millis(ms.into()).min(TIMEOUT_MAX),
        };
        let mut incoming = Incoming::new(kind, self.now + timeout);
        if !flags.more() {
            let body = detach(frame.body.into_bytes());
            host.deliver(incoming.delivery(head, body, self.responder(kind, id)));
            self.incoming.insert(id, incoming);
            return;
        }
        match Assembly::new(head.total_len, self.limits.recv_body, &self.budget) {
            Ok(assembly) => {
                let head = Bytes::copy_from_slice(&frame.head);
                incoming.stage =
                    Stage::Partial(Box::new(Partial { head, assembly: Box::new(assembly), since: self.now }));
                self.incoming.insert(id, incoming);
                self.on_fragment(frame, sink, host);
            }
            Err(error) => self.put_answer(kind, id, self.now, Err(error), sink),
        }
    }

    fn admit(&self, kind: SendKind, head: &CallHead<'_>, host: &impl Host) -> Result<()> {
        if self.incoming.len() >= self.limits.incoming {
            return Err(Error::overloaded("too many operations are unanswered"));
        }
        host.admit(kind, head.name)
    }

    /// A fragment of a body that is being joined; late ones are skipped.
    fn on_fragment(&mut self, frame: Frame<Bytes>, sink: &mut impl Sink, host: &impl Host) {
        let FrameHeader { id, flags, .. } = frame.header;
        let Some(incoming) = self.incoming.get_mut(&id) else { return };
        let Stage::Partial(partial) = std::mem::replace(&mut incoming.stage, Stage::Delivered(None)) else {
            return;
        };
        if flags.abort() {
            // It is over, whether the reason can be read or not.
            let error = CallHead::parse(&frame.head).ok().and_then(|head| head.error);
            return self.answer(id, Err(error.map_or_else(Error::cancelled, Error::from_wire)), sink);
        }
        let Partial { head, mut assembly, .. } = *partial;
        match assembly.push(&frame.body).and_then(|()| assembly.join(flags.more())) {
            Ok((Joined::Credit(credit), Some(assembly))) => {
                incoming.stage = Stage::Partial(Box::new(Partial { head, assembly, since: self.now }));
                put_credit(sink, id, Flags::NONE, credit);
            }
            Ok((Joined::Whole(body, charge), _)) => {
                incoming.stage = Stage::Delivered(Some(charge));
                // It was read once before its body was waited for.
                let Ok(head) = CallHead::parse(&head) else {
                    return self.answer(id, Err(Error::invalid("malformed head")), sink);
                };
                let responder = responder(self.mailbox.clone(), self.id, incoming.kind, id);
                host.deliver(incoming.delivery(head, body, responder));
            }
            Ok((Joined::Credit(_), None)) => self.answer(id, Err(Error::invalid("incomplete body")), sink),
            Err(error) => self.answer(id, Err(error), sink),
        }
    }

    fn responder(&self, kind: SendKind, id: u64) -> Responder {
        responder(self.mailbox.clone(), self.id, kind, id)
    }

    /// The outcome of an operation of the peer, unless it was answered already.
    pub(crate) fn answer(&mut self, id: u64, outcome: Result<Reply>, sink: &mut impl Sink) {
        let Some(incoming) = self.incoming.remove(&id) else { return };
        // Nobody waits, so nobody would grant a long answer its credit: it would be kept until its deadline.
        let outcome =
            if incoming.cancel.is_cancelled() { outcome.and(Err(Error::cancelled())) } else { outcome };
        self.put_answer(incoming.kind, id, incoming.deadline, outcome, sink);
    }

    fn put_answer(
        &mut self,
        kind: SendKind,
        id: u64,
        deadline: Instant,
        outcome: Result<Reply>,
        sink: &mut impl Sink,
    ) {
        let frame = if kind == SendKind::Publish { FrameType::Ack } else { FrameType::Response };
        let error = match outcome.and_then(|reply| self.put_reply(frame, id, deadline, reply, sink)) {
            Ok(()) => return,
            Err(error) => error,
        };
        let mut head = Vec::new();
        ReplyBuilder::error(error.to_wire()).encode(&mut head);
        put(sink, response_flow(id), FrameHeader::new(frame, id), [&head, &[]], Bytes::new());
    }

    /// Sends a success, in fragments if its body is long.
    fn put_reply(
        &mut self,
        frame: FrameType,
        id: u64,
        deadline: Instant,
        reply: Reply,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let (body, headers) = reply.into_parts();
        // An Ack has no body (`docs/protocol.md` section 3).
        let body = if frame == FrameType::Ack { Bytes::new() } else { body };
        if body.len() as u64 > self.limits.send_body {
            let text =
                format!("an answer of {} bytes, at most {} may be sent", body.len(), self.limits.send_body);
            return Err(Error::new(ErrorCode::PayloadTooLarge, text));
        }
        let fragmented = body.len() > MAX_BODY_FRAME as usize;
        let total_len = if fragmented { body.len() as u64 } else { 0 };
        let head = reply_head(&headers, total_len)?;
        if fragmented {
            let transfer = Transfer::new(frame, id, response_flow(id), head, body, deadline);
            self.transfers.begin(transfer, self.now);
            self.pump(sink);
        } else {
            put(sink, response_flow(id), FrameHeader::new(frame, id), [&head, &[]], body);
        }
        Ok(())
    }

    /// The peer waits for an operation no more.
    pub(super) fn on_cancel(&mut self, id: u64, sink: &mut impl Sink) {
        self.abort_response(id, &Error::cancelled(), sink);
        let Some(incoming) = self.incoming.get(&id) else { return };
        incoming.cancel();
        if incoming.is_partial() {
            self.answer(id, Err(Error::cancelled()), sink);
        }
    }

    /// Ends an answer that is under way in fragments.
    pub(super) fn abort_response(&mut self, id: u64, error: &Error, sink: &mut impl Sink) {
        let Some(transfer) = self.transfers.remove(true, id) else { return };
        let mut head = Vec::new();
        ReplyBuilder::error(error.to_wire()).encode(&mut head);
        let header = FrameHeader::new(transfer.kind, id).with_flags(Flags::ABORT);
        put(sink, transfer.flow, header, [&head, &[]], Bytes::new());
    }

    /// Answers operations whose body did not come in time. Those with a handler are left to it: its caller has been told by the gateway.
    pub(super) fn sweep_incoming(&mut self, sink: &mut impl Sink) {
        let now = self.now;
        let late = |(_, incoming): &(&u64, &Incoming)| match &incoming.stage {
            Stage::Partial(partial) => incoming.deadline.min(partial.since + SILENCE_MAX) <= now,
            Stage::Delivered(_) => false,
        };
        let late: Vec<u64> = self.incoming.iter().filter(late).map(|(id, _)| *id).collect();
        for id in late {
            self.answer(id, Err(Error::deadline()), sink);
        }
    }
}

/// Flow of the answer to an operation: not that of an operation of ours with the same id.
const fn response_flow(id: u64) -> u64 {
    (id << 1) | 1
}

fn reply_head(headers: &Headers, total_len: u64) -> Result<Vec<u8>> {
    let head = ReplyBuilder::new().total_len(total_len).headers(headers.iter());
    let len = head.encoded_len();
    if len > MAX_HEAD.into() {
        return Err(Error::new(
            ErrorCode::Internal,
            format!("headers of {len} bytes, at most {MAX_HEAD} fit"),
        ));
    }
    let mut out = Vec::with_capacity(len);
    head.encode(&mut out);
    Ok(out)
}

fn responder(
    mailbox: std::sync::Arc<crate::mailbox::Mailbox>,
    dialogue: crate::mailbox::DialogueId,
    kind: SendKind,
    id: u64,
) -> Responder {
    let neglected = match kind {
        SendKind::Request => (ErrorCode::Internal, "the handler ended without an answer"),
        SendKind::Publish => (ErrorCode::Application, "the receiver dropped the message"),
    };
    Responder::new(mailbox, dialogue, id, neglected)
}

// === impl Incoming ===

impl Incoming {
    fn new(kind: SendKind, deadline: Instant) -> Self {
        Self { kind, deadline, cancel: CancellationToken::new(), stage: Stage::Delivered(None) }
    }

    fn delivery<'a>(&self, head: CallHead<'a>, body: Bytes, responder: Responder) -> Delivery<'a> {
        let Self { kind, deadline, cancel, .. } = self;
        Delivery { kind: *kind, head, body, deadline: *deadline, cancel: cancel.clone(), responder }
    }

    pub(super) const fn is_partial(&self) -> bool {
        matches!(self.stage, Stage::Partial(_))
    }

    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }
}
