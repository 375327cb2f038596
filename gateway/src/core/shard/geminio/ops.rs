//! Calls and messages of geminio sessions: the same tables as of native ones. `outgoing` goes by the number that the connection gives
//! an operation of the peer, `pending` by the packet that carries one to it.

use std::borrow::Cow;

use frontier_wire::{
    error::ErrorCode,
    geminio::{
        base64,
        connection::{Answered, Operation, SendError},
        data::{self, Content, Data, Object, split_tail_into},
        dialogue::DialogueId,
        text as texts,
        time::Time,
    },
    native::{
        frame::Flags,
        head::{CallBuilder, CallHead, ErrorRef, Sender, encode_error_reply, error_reply_len},
    },
};
use smallvec::SmallVec;

use super::{answer_text, edge_value, text};
use crate::core::{
    Shared,
    message::{Body, Form, NOBODY, Place},
    session::{Outgoing, Phase, Session},
    shard::{
        Shard,
        ops::{
            BULK, HEAD_TOO_LONG, OUT_OF_BUDGET, OpKey, PlaceError, Refused, flow, hash_name, room_in_flight,
        },
    },
    stats::OpKind,
    table::SessionRef,
};

/// Bytes of buffers that are kept for the next operation.
const KEPT: usize = 16 << 10;

/// Buffers for what is read of an operation until it is placed.
#[derive(Debug, Default)]
pub(in crate::core::shard) struct Scratch {
    key: Vec<u8>,
    custom: Vec<u8>,
    head: Vec<u8>,
}

impl Scratch {
    /// Without what a rare long operation has left.
    fn trimmed(self) -> Self {
        let most = self.key.capacity().max(self.custom.capacity()).max(self.head.capacity());
        if most > KEPT { Self::default() } else { self }
    }
}

/// Whether an operation may start whose body is so long.
fn room_for(shared: &Shared, session: &Session, kind: OpKind, len: usize) -> Result<(), Refused> {
    if session.phase != Phase::Ready {
        return Err((ErrorCode::SessionClosed, "session closed"));
    }
    room_in_flight(session, kind, &shared.settings)?;
    room_for_body(shared, session, len)
}

/// Whether a session may have the gateway hold a body of so many bytes, of its peer or for it.
pub(super) fn room_for_body(shared: &Shared, session: &Session, len: usize) -> Result<(), Refused> {
    if len as u64 > shared.settings.body {
        return Err((ErrorCode::PayloadTooLarge, "body longer than limits.body"));
    }
    if shared.admits(session.held as usize, len) { Ok(()) } else { Err(OUT_OF_BUDGET) }
}

impl Shard {
    // --- what a geminio peer starts ---

    /// A call or message of the peer.
    pub(super) fn on_geminio_operation(&mut self, me: SessionRef, operation: Operation<&[u8]>, kind: OpKind) {
        if operation.dialogue != DialogueId::FIRST {
            return self.on_dialogue_operation(me, operation, kind);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = self.start_geminio(me, &operation, kind, &mut scratch);
        self.scratch = scratch.trimmed();
        if let Err((code, text)) = outcome {
            self.stats.operations[kind as usize].record(Some(code), 0);
            self.respond_error(me, operation.id, code, text);
        }
    }

    fn start_geminio(
        &mut self,
        me: SessionRef,
        operation: &Operation<&[u8]>,
        kind: OpKind,
        Scratch { key, custom, head }: &mut Scratch,
    ) -> Result<(), Refused> {
        let data = &operation.data;
        let Some(session) = self.sessions.get(me) else { return Ok(()) };
        room_for(&self.shared, session, kind, base64::decoded_len(data.value()))?;
        data::decode_into(key, data.key());
        let name = match kind {
            OpKind::Message => data.topic(),
            // Names are text here; another one is nobody's.
            OpKind::Call | OpKind::Stream => {
                std::str::from_utf8(key).map_err(|_| (ErrorCode::MethodNotFound, "method not found"))?
            }
        };
        #[cfg(any(test, feature = "testing"))]
        crate::core::shard::ops::fault_point(name, me, &mut self.faulty);
        let edge = if session.service.is_some() {
            let edge = split_tail_into(custom, data.custom());
            edge.ok_or((ErrorCode::InvalidArgument, "a service addresses an edge by its id"))?
        } else {
            data::decode_into(custom, data.custom());
            0
        };
        head.clear();
        CallBuilder::new(name).edge(edge).meta(custom).encode(head);
        if head.len() > usize::from(self.shared.settings.head) {
            return Err(HEAD_TOO_LONG);
        }
        let mut call = CallHead::default();
        (call.name, call.edge, call.meta) = (name, edge, custom.as_slice());
        let (timeout, own_deadline) = self.geminio_timeout(data);
        let deadline = self.now.micros + timeout;
        let sender = session.sender();
        let flow = match kind {
            OpKind::Call | OpKind::Stream => flow(self.secret, me, operation.id),
            OpKind::Message => flow(self.secret, me, hash_name(name)),
        };
        let body = if data.value().len() < BULK {
            Body::Slice(data.value())
        } else {
            Body::Shared(data.shared_value())
        };
        let place = Place {
            from: me,
            from_id: operation.id,
            sender,
            kind,
            more: false,
            head,
            body,
            form: Form::Base64,
            context: data.deadline(),
            deadline,
            flow,
        };
        let (route, local) = self.dispatch(me, &call, place)?;
        let outgoing = Outgoing {
            target: route.target,
            local,
            credit: 0,
            left: 0,
            deadline,
            in_flight: route.in_flight,
            kind,
            sending: false,
            replying: false,
            own_deadline,
            method: (kind == OpKind::Call).then(|| data.key().into()),
        };
        if let Some(session) = self.sessions.get_mut(me) {
            let ops = session.ops();
            ops.messages += u32::from(kind == OpKind::Message);
            ops.outgoing.insert(operation.id, outgoing);
        }
        Ok(())
    }

    /// How long an operation may take, in microseconds, and whether its sender has said so. Its deadline is a time of its own clock:
    /// one that has passed by ours means that the clocks differ, since nobody starts what is late already.
    pub(super) fn geminio_timeout(&self, data: &Data<&[u8]>) -> (u64, bool) {
        let most = self.shared.settings.call_timeout;
        let now = self.now.unix_ms * 1_000;
        let left = data.deadline().map(|deadline| (deadline.unix_nanos() / 1_000).saturating_sub(now));
        match left {
            Some(left) if left > 0 && left < most => (left, true),
            Some(_) | None => (most, false),
        }
    }

    /// The deadline that a native sender has named, as a time of our clock. One as long as those that nobody names is not told: a
    /// receiver whose clock is that much ahead would begin when it has passed.
    pub(in crate::core::shard) fn named_deadline(&self, timeout_ms: u32) -> Option<Time> {
        let named = timeout_ms != 0 && u64::from(timeout_ms) * 1_000 < self.shared.settings.call_timeout;
        named.then(|| Time::from_unix_nanos((self.now.unix_ms + u64::from(timeout_ms)) * 1_000_000))
    }

    /// The peer does not wait any more.
    pub(super) fn on_geminio_cancel(&mut self, me: SessionRef, operation: u64) {
        if let Err(fault) = self.control_frames(me, 1) {
            return self.fault(me, fault);
        }
        let Some(outgoing) = self.remove_outgoing(me, operation) else {
            return self.on_dialogue_cancel(me, operation);
        };
        self.cancel_outgoing(me, operation, &outgoing, ErrorCode::Cancelled);
        self.respond_error(me, operation, ErrorCode::Cancelled, "cancelled");
    }

    // --- what a geminio peer is to do ---

    /// Gives an operation to a geminio session of this shard; returns the packet it goes in.
    pub(in crate::core::shard) fn place_geminio(
        &mut self,
        target: SessionRef,
        place: &Place<'_>,
    ) -> Result<u64, PlaceError> {
        let malformed = PlaceError::Refused((ErrorCode::Internal, "malformed head"));
        let call = CallHead::parse(place.head).map_err(|_| malformed)?;
        if place.more {
            return self.join_operation(target, place, &call);
        }
        let (limit, now) = (self.shared.settings.outbox, self.now.micros);
        let session = self.sessions.get_mut(target).ok_or(PlaceError::Gone)?;
        let (to_service, held) = (session.service.is_some(), session.held as usize);
        if !self.shared.admits(held, place.head.len() + place.body.len()) && place.from != NOBODY {
            return Err(PlaceError::Refused(OUT_OF_BUDGET));
        }
        let Some(conn) = session.conn.geminio() else { return Err(PlaceError::Gone) };
        // A payload alone may be longer than the outbox: it cannot go in pieces.
        let waiting = conn.operation_bytes();
        if waiting > 0 && waiting + place.head.len() + place.body.len() > limit && place.from != NOBODY {
            return Err(PlaceError::Refused((ErrorCode::Overloaded, "receiver does not keep up")));
        }
        let mut custom: SmallVec<[u8; 32]> = SmallVec::from_slice(call.meta);
        if let (Sender::Edge(edge), true, false) = (place.sender, to_service, place.form == Form::EdgeInfo) {
            custom.extend_from_slice(&edge.to_be_bytes());
        }
        let about_edge: Cow<'_, [u8]> = match place.form {
            Form::EdgeInfo => edge_value(call.name, place.body.as_slice()).into(),
            Form::Plain | Form::Base64 => [].as_slice().into(),
        };
        let value = match (place.form, &place.body) {
            (Form::EdgeInfo, _) => Content::Plain(&about_edge),
            (Form::Plain, body) => Content::Plain(body.as_slice()),
            (Form::Base64, Body::Slice(slice)) => Content::Encoded(slice),
            (Form::Base64, Body::Shared(bytes)) => Content::Shared(bytes.clone()),
        };
        let mut object =
            Object { value, custom: Content::Plain(&custom), context: place.context, ..Object::default() };
        let sent = match place.kind {
            OpKind::Message => {
                object.topic = call.name;
                conn.publish(DialogueId::FIRST, place.from.to_bits(), &object, now).map(|sent| sent.packet)
            }
            OpKind::Call | OpKind::Stream => {
                object.key = Content::Plain(call.name.as_bytes());
                conn.request(DialogueId::FIRST, &object)
            }
        };
        let local = sent.map_err(|error| match error {
            SendError::Closed => PlaceError::Gone,
            SendError::Overloaded => {
                PlaceError::Refused((ErrorCode::Overloaded, "too many messages wait for the receiver"))
            }
            SendError::TooLarge(_) => {
                PlaceError::Refused((ErrorCode::PayloadTooLarge, "body longer than the receiver takes"))
            }
        })?;
        self.pend(target, local, place, false);
        Ok(local)
    }

    /// Response or MessageAck from the peer.
    pub(super) fn on_geminio_answer(
        &mut self,
        me: SessionRef,
        dialogue: DialogueId,
        packet: u64,
        kind: OpKind,
        data: &Data<&[u8]>,
    ) {
        if dialogue != DialogueId::FIRST {
            return self.on_dialogue_answer(me, dialogue, packet, data);
        }
        match self.pending(me, OpKey::Local(packet)) {
            Some((_, pending)) if pending.kind == kind => {}
            // An acknowledgement of a call, or an answer that nobody waits for.
            _ => {
                let outcome = self.on_late_answer(me, true);
                return self.outcome(me, outcome);
            }
        }
        let Some(pending) = self.remove_pending(me, packet) else { return };
        let error = data.error();
        let code = (!error.is_empty()).then(|| texts::code(error));
        self.record(&pending, code);
        let mut head = Vec::new();
        if let Some(code) = code {
            head.reserve(error_reply_len(code, error));
            encode_error_reply(&mut head, code, error);
        }
        // An acknowledgement says no more than that.
        let value = if code.is_some() || kind == OpKind::Message { &[] } else { data.value() };
        let body = if value.len() < BULK { Body::Slice(value) } else { Body::Shared(data.shared_value()) };
        self.answer(pending.from, pending.from_id, kind, Flags::NONE, &head, body, Form::Base64);
    }

    /// The answer to a call was longer than anybody could pass on; it was skipped.
    pub(super) fn on_answer_too_large(&mut self, me: SessionRef, packet: u64) {
        let Some(pending) = self.remove_pending(me, packet) else {
            return self.on_dialogue_answer_too_large(me, packet);
        };
        let code = ErrorCode::PayloadTooLarge;
        self.record(&pending, Some(code));
        self.answer_error(
            pending.from,
            pending.from_id,
            pending.kind,
            code,
            "answer longer than can be passed on",
        );
    }

    /// Tells the peer that nobody waits for its answer, if it can be told.
    pub(in crate::core::shard) fn cancel_geminio(&mut self, target: SessionRef, local: u64, kind: OpKind) {
        let Some(conn) = self.sessions.get_mut(target).and_then(|session| session.conn.geminio()) else {
            return;
        };
        match kind {
            OpKind::Message => drop(conn.take_back(DialogueId::FIRST, local)),
            OpKind::Call | OpKind::Stream => drop(conn.cancel(DialogueId::FIRST, local)),
        }
        self.touch(target);
    }

    // --- answers to a geminio peer ---

    /// Answers what the peer waits for; the operation is gone from all tables.
    pub(in crate::core::shard) fn respond(
        &mut self,
        to: SessionRef,
        id: u64,
        method: &[u8],
        error: Option<ErrorRef<'_>>,
        body: Body<'_>,
        form: Form,
    ) {
        let limit = self.shared.settings.outbox;
        let Some(conn) = self.sessions.get_mut(to).and_then(|session| session.conn.geminio()) else { return };
        let waiting = conn.operation_bytes();
        if waiting > 0 && body.len() > super::super::ops::ANSWER_ALWAYS && waiting + body.len() > limit {
            return self.respond_error(to, id, ErrorCode::Overloaded, "answer does not fit");
        }
        let value = match (form, body, error) {
            (_, _, Some(_)) => Content::None,
            (Form::Base64, Body::Slice(slice), _) => Content::Encoded(slice),
            (Form::Base64, Body::Shared(bytes), _) => Content::Shared(bytes),
            (Form::Plain | Form::EdgeInfo, Body::Slice(slice), _) => Content::Plain(slice),
            (Form::Plain | Form::EdgeInfo, Body::Shared(ref bytes), _) => {
                let mut encoded = Vec::new();
                base64::encode_to(&mut encoded, bytes);
                Content::Shared(encoded.into())
            }
        };
        let error = error.map_or_else(Cow::default, |error| answer_text(error, method));
        let answer = Object { key: Content::Encoded(method), value, error: &error, ..Object::default() };
        match conn.respond(id, &answer) {
            Answered::Sent | Answered::TooLarge => {}
            Answered::Late => self.stats.late_answers.add(1),
        }
        self.touch(to);
        self.note_crowd(to);
    }

    /// Answers with an error; it never waits for room.
    pub(in crate::core::shard) fn respond_error(
        &mut self,
        to: SessionRef,
        id: u64,
        code: ErrorCode,
        why: &str,
    ) {
        let Some(conn) = self.sessions.get_mut(to).and_then(|session| session.conn.geminio()) else { return };
        conn.respond(id, &Object { error: text(code, why), ..Object::default() });
        self.touch(to);
        self.note_crowd(to);
    }
}
