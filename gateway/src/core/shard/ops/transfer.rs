//! The bodies of operations, fragment by fragment, and the credit they take.

use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType},
        head::{CallHead, Credit},
        reader::Frame,
    },
};

use super::{INBOX_FULL, OpKey, append, whole::JOINING};
use crate::core::{
    message::{Body, Msg},
    shard::{Fault, Shard, body},
    table::SessionRef,
};

impl Shard {
    /// A continuing fragment of an operation's body, from its source.
    pub(super) fn on_fragment(&mut self, me: SessionRef, frame: Frame<&[u8]>) -> Result<(), Fault> {
        let header = frame.header;
        let Some(outgoing) = self.outgoing(me, header.id) else { return Ok(()) };
        let len = frame.body.len() as u64;
        let ends = !header.flags.more();
        if !outgoing.sending
            || len > outgoing.left
            || len > outgoing.credit
            || ends && !header.flags.abort() && len != outgoing.left
        {
            return Err(Fault::Overrun);
        }
        if header.flags.abort() {
            // Why it ends. What the receiver reads is read here first: whoever writes nonsense is at fault, not the gateway.
            CallHead::parse(&frame.head)?;
        }
        outgoing.left -= len;
        outgoing.credit -= len;
        outgoing.sending = !ends;
        let (target, local) = (outgoing.target, outgoing.local);
        let (flags, body) = (header.flags, body(frame.body));
        let way = self.detours.way(me, header.id, ends);
        let target = way.unwrap_or(target);
        if target.is_queue() {
            self.fragment(target, OpKey::Origin(me, header.id), flags, &frame.head, body);
        } else if way.is_none() && target.shard == self.id {
            self.fragment(target, OpKey::Local(local), flags, &frame.head, body);
        } else if !flags.abort() && !self.has_mail_room(target.shard) {
            let Some(outgoing) = self.remove_outgoing(me, header.id) else { return Ok(()) };
            let (code, text) = INBOX_FULL;
            self.cancel_outgoing(me, header.id, &outgoing, code);
            self.answer_now(me, header.id, outgoing.kind, outgoing.replying, code, text);
        } else {
            let (head, body) = (self.copy(&frame.head), self.own(body));
            self.post(
                target.shard,
                Msg::Fragment { target, from: me, from_id: header.id, flags, head, body },
            );
        }
        Ok(())
    }

    /// Passes a fragment on to the receiver.
    pub(in crate::core::shard) fn fragment(
        &mut self,
        target: SessionRef,
        key: OpKey,
        flags: Flags,
        head: &[u8],
        body: Body<'_>,
    ) {
        if let (true, OpKey::Origin(from, id)) = (target.is_queue(), key) {
            if !self.join_publish_fragment(from, id, flags, &body) {
                self.follow_detour(target, key, flags, head, body);
            }
            return;
        }
        let limit = self.shared.settings.outbox;
        let Some((local, pending)) = self.pending(target, key) else {
            return self.follow_detour(target, key, flags, head, body);
        };
        if local & JOINING != 0 {
            return self.join_fragment(target, local, flags, &body);
        }
        pending.receiving = flags.more();
        let (kind, flow) = (pending.kind, pending.flow);
        let Some(session) = self.sessions.get_mut(target) else { return };
        if session.conn.operation_bytes() + body.len() > limit {
            return self.abandon(target, local, ErrorCode::Overloaded, "receiver does not keep up");
        }
        let header = FrameHeader::new(kind.operation(), local).with_flags(flags);
        if let Some(conn) = session.conn.native() {
            append(conn, flow, header, head, None, body);
        }
        self.touch(target);
    }

    /// Credit, in either direction.
    pub(in crate::core::shard) fn on_credit(
        &mut self,
        me: SessionRef,
        frame: &Frame<&[u8]>,
    ) -> Result<(), Fault> {
        self.control_frame(me)?;
        let (id, bytes) = (frame.header.id, Credit::parse(&frame.head)?.bytes);
        if self.grant_leaving(me, frame.header.flags.reply(), id, bytes) {
            return Ok(());
        }
        if frame.header.flags.reply() {
            let Some(outgoing) = self.outgoing(me, id) else { return Ok(()) };
            let (target, local) = (outgoing.target, outgoing.local);
            if target.shard == self.id {
                self.credit_reply(target, OpKey::Local(local), bytes);
            } else {
                self.post(target.shard, Msg::CreditReply { target, from: me, from_id: id, bytes });
            }
            return Ok(());
        }
        let Some((_, pending)) = self.pending(me, OpKey::Local(id)) else { return Ok(()) };
        let (to, id) = (pending.from, pending.from_id);
        if to.shard == self.id {
            self.credit_body(to, id, bytes);
        } else {
            self.post(to.shard, Msg::CreditBody { to, id, bytes });
        }
        Ok(())
    }

    /// The requester grants bytes of the answer.
    pub(in crate::core::shard) fn credit_reply(&mut self, target: SessionRef, key: OpKey, bytes: u32) {
        let Some((local, pending)) = self.pending(target, key) else { return };
        pending.reply_credit = pending.reply_credit.saturating_add(u64::from(bytes));
        self.send_credit(target, local, Flags::REPLY, bytes);
    }

    /// The receiver grants bytes of the operation's body.
    pub(in crate::core::shard) fn credit_body(&mut self, to: SessionRef, id: u64, bytes: u32) {
        let Some(outgoing) = self.outgoing(to, id) else { return };
        outgoing.credit = outgoing.credit.saturating_add(u64::from(bytes));
        self.send_credit(to, id, Flags::default(), bytes);
    }

    pub(super) fn send_credit(&mut self, to: SessionRef, id: u64, flags: Flags, bytes: u32) {
        let Some(session) = self.sessions.get_mut(to) else { return };
        let mut head = Vec::with_capacity(8);
        Credit { bytes }.encode(&mut head);
        session.conn.send(FrameHeader::new(FrameType::Credit, id).with_flags(flags), &head, &[]);
        self.touch(to);
        self.note_crowd(to);
    }
}
