//! How an operation ends: its answer, its cancel, its deadline, the end of a session.

use frontier_wire::{
    error::ErrorCode,
    geminio::{data::decode, text::CONTEXT_DEADLINE},
    native::{
        frame::{Flags, FrameHeader, FrameType, INITIAL_CREDIT, MAX_BODY_FRAME},
        head::{ErrorRef, ReplyHead, encode_error_reply, error_reply_len},
        reader::Frame,
    },
};

use super::{OpKey, append, flow, uncount};
use crate::core::{
    delivery::DOOR,
    dialect::Protocol,
    message::{Body, Form, Msg, NOBODY},
    session::{Outgoing, Pending, Phase},
    shard::{Fault, Shard, body},
    stats::OpKind,
    table::SessionRef,
    timer::TICK_MICROS,
};

/// Room for the answer of an admitted operation is never refused up to this size.
pub(in crate::core::shard) const ANSWER_ALWAYS: usize = 64;
/// Operations of a session that fail in one turn because of their deadline: about a millisecond's work.
pub(super) const EXPIRE_STEP: usize = 4_096;

impl Shard {
    // --- answers ---

    /// Response or Ack from the receiver of an operation.
    pub(in crate::core::shard) fn on_answer(
        &mut self,
        me: SessionRef,
        frame: Frame<&[u8]>,
    ) -> Result<(), Fault> {
        let header = frame.header;
        let max_body = self.shared.settings.body;
        let Some((local, pending)) = self.pending(me, OpKey::Local(header.id)) else {
            return self.on_late_answer(me, !header.flags.more());
        };
        if pending.kind.answer() != header.kind {
            return Err(Fault::WrongAnswer);
        }
        let len = frame.body.len() as u64;
        let ends = !header.flags.more();
        let first = !pending.replying;
        let mut error = None;
        if header.head_len > 0 {
            let reply = ReplyHead::parse(&frame.head)?;
            error = reply.error.map(|error| error.code);
            if first {
                pending.reply_left = if ends { len } else { reply.total_len };
            }
        } else if first {
            pending.reply_left = len;
        }
        let abort = header.flags.abort();
        if len > pending.reply_left
            || len > pending.reply_credit
            || ends && !abort && len != pending.reply_left
        {
            return Err(Fault::Overrun);
        }
        pending.reply_left -= len;
        pending.reply_credit -= len;
        pending.replying = true;
        let (to, id, kind, total) = (pending.from, pending.from_id, pending.kind, pending.reply_left + len);
        if first && total > max_body {
            self.abandon(me, local, ErrorCode::PayloadTooLarge, "answer longer than limits.body");
            return Ok(());
        }
        let size = frame.head.len() + frame.body.len();
        let fits = to.shard == self.id
            || to == NOBODY
            || to == DOOR
            || size <= ANSWER_ALWAYS
            || self.has_mail_room(to.shard);
        if !fits && !ends {
            self.abandon(me, local, ErrorCode::Overloaded, "answer does not fit");
            return Ok(());
        }
        if ends && let Some(pending) = self.remove_pending(me, local) {
            self.record(&pending, if fits { error } else { Some(ErrorCode::Overloaded) });
            // An answer before the last fragment ends the transfer of the body.
            if pending.receiving
                && kind == OpKind::Call
                && let Some(session) = self.sessions.get_mut(me)
            {
                session.conn.drop_operation(pending.flow);
            }
        }
        if fits {
            self.answer(to, id, kind, header.flags, &frame.head, body(frame.body), Form::Plain);
        } else {
            self.answer_error(to, id, kind, ErrorCode::Overloaded, "answer does not fit");
        }
        Ok(())
    }

    /// An answer, or its end, to what a peer has not to answer. To each operation that was given up one may still come; any other that
    /// nobody asked for counts as a control frame.
    pub(in crate::core::shard) fn on_late_answer(&mut self, me: SessionRef, ends: bool) -> Result<(), Fault> {
        self.stats.late_answers.add(1);
        let ops = self.sessions.get_mut(me).and_then(|session| session.ops.as_mut());
        if let Some(ops) = ops
            && ops.owed > 0
        {
            ops.owed -= u32::from(ends);
            return Ok(());
        }
        self.control_frame(me)
    }

    /// Passes an answer, or a part of one, to whoever waits for it.
    pub(in crate::core::shard) fn answer(
        &mut self,
        to: SessionRef,
        id: u64,
        kind: OpKind,
        flags: Flags,
        head: &[u8],
        body: Body<'_>,
        form: Form,
    ) {
        if to == NOBODY {
            return;
        }
        if to == DOOR {
            return self.on_delivery_answer(id, flags, head);
        }
        if to.shard != self.id {
            let (head, body) = (self.copy(head), self.own(body));
            return self.post(to.shard, Msg::Answer { to, id, kind, flags, head, body, form });
        }
        let limit = self.shared.settings.outbox;
        let Some(session) = self.sessions.get_mut(to) else { return };
        if session.phase == Phase::Admitting {
            if flags.more() {
                return self.deny(to, ErrorCode::Internal, "answer about an edge too long");
            }
            return self.on_admission_answer(to, id, head, body.as_slice(), form);
        }
        if session.conn.protocol() == Protocol::Geminio {
            return self.answer_geminio(to, id, kind, flags, head, body, form);
        }
        let body = match form {
            Form::Plain | Form::EdgeInfo => body,
            Form::Base64 => Body::Shared(decode(body.as_slice()).into()),
        };
        let Some(outgoing) = session.ops.as_mut().and_then(|ops| ops.outgoing.get_mut(&id)) else {
            self.stats.late_answers.add(1);
            return;
        };
        let replying = std::mem::replace(&mut outgoing.replying, true);
        let deadline = outgoing.deadline;
        let size = head.len() + body.len().min(INITIAL_CREDIT as usize);
        let full = size > ANSWER_ALWAYS && session.conn.operation_bytes() + size > limit;
        if full || !flags.more() {
            let Some(outgoing) = self.remove_outgoing(to, id) else { return };
            if full {
                if flags.more() {
                    self.cancel_outgoing(to, id, &outgoing, ErrorCode::Overloaded);
                }
                return self.answer_now(to, id, kind, replying, ErrorCode::Overloaded, "answer does not fit");
            }
        }
        let Some(session) = self.sessions.get_mut(to) else { return };
        let header = FrameHeader::new(kind.answer(), id).with_flags(flags);
        let flow = !flow(self.secret, to, id);
        if body.len() > MAX_BODY_FRAME as usize {
            return self.send_whole(to, header, flow, head, None, body.into_bytes(), deadline);
        }
        if let Some(conn) = session.conn.native() {
            append(conn, flow, header, head, None, body);
        }
        self.touch(to);
    }

    /// Fails an operation towards whoever waits for it.
    pub(in crate::core::shard) fn answer_error(
        &mut self,
        to: SessionRef,
        id: u64,
        kind: OpKind,
        code: ErrorCode,
        text: &'static str,
    ) {
        if to == NOBODY {
            return;
        }
        if to == DOOR {
            return self.settle_delivery(id, Err(code));
        }
        if to.shard != self.id {
            return self.post(to.shard, Msg::Fail { to, id, kind, code, text });
        }
        let Some(session) = self.sessions.get_mut(to) else { return };
        if session.phase == Phase::Admitting {
            let mut head = Vec::with_capacity(error_reply_len(code, text));
            encode_error_reply(&mut head, code, text);
            return self.on_admission_answer(to, id, &head, &[], Form::Plain);
        }
        // Without an entry it was answered before, by a cancel or a deadline that crossed this.
        match self.remove_outgoing(to, id) {
            Some(outgoing) => {
                let own = outgoing.own_deadline && code == ErrorCode::DeadlineExceeded;
                let text = if own { CONTEXT_DEADLINE } else { text };
                self.answer_now(to, id, kind, outgoing.replying, code, text);
            }
            None => self.stats.late_answers.add(1),
        }
    }

    /// Writes an error answer; the operation is gone from all tables. It never waits for room.
    pub(super) fn answer_now(
        &mut self,
        to: SessionRef,
        id: u64,
        kind: OpKind,
        replying: bool,
        code: ErrorCode,
        text: &'static str,
    ) {
        let Some(session) = self.sessions.get_mut(to) else { return };
        if session.conn.protocol() == Protocol::Geminio {
            return self.respond_error(to, id, code, text);
        }
        let mut head = Vec::with_capacity(error_reply_len(code, text));
        encode_error_reply(&mut head, code, text);
        // After fragments of the answer the error must say that the rest will not come.
        let flags = if replying { Flags::ABORT } else { Flags::default() };
        if replying {
            session.conn.drop_operation(!flow(self.secret, to, id));
        }
        session.conn.send(FrameHeader::new(kind.answer(), id).with_flags(flags), &head, &[]);
        self.touch(to);
        self.note_crowd(to);
    }

    // --- giving up ---

    /// Gives up an operation whose receiver is still there: it is told to stop, the requester gets the error.
    pub(in crate::core::shard) fn abandon(
        &mut self,
        target: SessionRef,
        local: u64,
        code: ErrorCode,
        text: &'static str,
    ) {
        let Some(pending) = self.remove_pending(target, local) else { return };
        self.record(&pending, Some(code));
        self.tell_cancel(target, local, &pending, code);
        self.answer_error(pending.from, pending.from_id, pending.kind, code, text);
    }

    /// Tells a receiver that nobody waits for its answer, and drops what it was not sent yet of a call. The messages of a topic share
    /// their flow, so what is queued of one is sent, and its Cancel behind it: the receiver never hears of it again.
    pub(super) fn tell_cancel(&mut self, target: SessionRef, local: u64, pending: &Pending, code: ErrorCode) {
        let Some(session) = self.sessions.get_mut(target) else { return };
        if let Some(ops) = session.ops.as_mut() {
            ops.owed = ops.owed.saturating_add(1);
        }
        if session.conn.protocol() == Protocol::Geminio {
            return self.cancel_geminio(target, local, pending.kind);
        }
        if pending.kind != OpKind::Message {
            session.conn.drop_operation(pending.flow);
        }
        let error = ErrorRef::new(code, "");
        let mut head = Vec::with_capacity(error.encoded_len());
        error.encode(&mut head);
        let header = FrameHeader::new(FrameType::Cancel, local);
        if let Some(conn) = session.conn.native() {
            append(conn, pending.flow, header, &head, None, Body::Slice(&[]));
        }
        self.touch(target);
        self.note_crowd(target);
    }

    /// The requester does not wait any more.
    pub(in crate::core::shard) fn cancel(&mut self, target: SessionRef, key: OpKey, code: ErrorCode) {
        let Some((local, _)) = self.pending(target, key) else { return };
        if let Some(pending) = self.remove_pending(target, local) {
            self.record(&pending, Some(code));
            self.tell_cancel(target, local, &pending, code);
        }
    }

    /// Cancel from a requester.
    pub(in crate::core::shard) fn on_cancel(
        &mut self,
        me: SessionRef,
        frame: &Frame<&[u8]>,
    ) -> Result<(), Fault> {
        self.control_frame(me)?;
        let id = frame.header.id;
        let Some(outgoing) = self.remove_outgoing(me, id) else {
            self.cancel_leaving(me, id, ErrorCode::Cancelled, "cancelled");
            return Ok(());
        };
        self.cancel_outgoing(me, id, &outgoing, ErrorCode::Cancelled);
        self.answer_now(me, id, outgoing.kind, outgoing.replying, ErrorCode::Cancelled, "cancelled");
        Ok(())
    }

    pub(in crate::core::shard) fn cancel_outgoing(
        &mut self,
        me: SessionRef,
        id: u64,
        outgoing: &Outgoing,
        code: ErrorCode,
    ) {
        let target = outgoing.target;
        if target.is_queue() {
            self.cancel_handed(outgoing.local, code);
        } else if target.shard == self.id {
            self.cancel(target, OpKey::Local(outgoing.local), code);
        } else {
            self.post(target.shard, Msg::Cancel { target, from: me, from_id: id, code });
        }
    }

    /// Fails what is overdue; returns when the next deadline is.
    pub(in crate::core::shard) fn expire_ops(&mut self, me: SessionRef) -> u64 {
        let now = self.now.micros;
        for _ in 0..EXPIRE_STEP {
            let ops = self.sessions.get_mut(me).and_then(|session| session.ops.as_mut());
            let Some(local) = ops.and_then(|ops| ops.deadlines.pop(now)) else { break };
            // What is over already is in no table any more.
            self.abandon(me, local, ErrorCode::DeadlineExceeded, "deadline exceeded");
        }
        let ops = self.sessions.get(me).and_then(|session| session.ops.as_ref());
        let next = ops.map_or(u64::MAX, |ops| ops.deadlines.next());
        // What is left of a great many comes with the next tick.
        if next <= now { now + TICK_MICROS } else { next }
    }

    /// The operations of a session that ends: what it was to answer fails, what it waited for is cancelled.
    pub(in crate::core::shard) fn end_ops(&mut self, me: SessionRef) {
        let Some(ops) = self.sessions.get_mut(me).and_then(|session| session.ops.take()) else { return };
        // In the order in which they came: whoever watches an end should not be puzzled, and a simulation must repeat.
        let mut pending: Vec<(u64, Pending)> = ops.pending.into_iter().collect();
        pending.sort_unstable_by_key(|(local, _)| *local);
        for (_, pending) in pending {
            let code = ErrorCode::SessionClosed;
            self.record(&pending, Some(code));
            self.answer_error(pending.from, pending.from_id, pending.kind, code, "session closed");
        }
        let mut outgoing: Vec<(u64, Outgoing)> = ops.outgoing.into_iter().collect();
        outgoing.sort_unstable_by_key(|(id, _)| *id);
        for (id, outgoing) in outgoing {
            uncount(&outgoing);
            self.detours.forget(me, id);
            self.cancel_outgoing(me, id, &outgoing, ErrorCode::SessionClosed);
        }
    }
}
