//! Bodies that are in fragments on one side and whole on the other: a native body is joined for a geminio receiver, a geminio one leaves in
//! fragments for a native receiver, as that grants them. The gateway acts for the side that knows no fragments: it grants what it joins
//! and waits for grants of what it sends.
//!
//! ```text
//!  native ── fragments ──▶ joining ── one packet ──▶ geminio         geminio ── one packet ──▶ leaving ── fragments ──▶ native
//!         ◀── Credit ────                                                                          ◀── Credit ─────────
//! ```

use bytes::Bytes;
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType, INITIAL_CREDIT, MAX_BODY_FRAME},
        head::{CallBuilder, CallHead, ReplyBuilder, ReplyHead, Sender},
    },
};
use hashbrown::HashMap;

use super::{OUT_OF_BUDGET, OpKey, PlaceError, append, finish::EXPIRE_STEP};
use crate::core::{
    deadlines::{Deadlines, tick},
    dialect::Dialect,
    message::{Body, Destination, Form, Msg, Place, PlaceOwned},
    shard::Shard,
    stats::OpKind,
    table::SessionRef,
    timer::TICK_MICROS,
};

/// The longest body that fits a geminio packet, with room for the rest of it.
pub(in crate::core::shard) const LONGEST: usize = (10 << 20) / 4 * 3 - (32 << 10);
/// Marks the IDs of operations that are being joined: packets count from one and never come so far.
pub(super) const JOINING: u64 = 1 << 63;

/// Which body of a session, by the ID of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::core) struct BodyKey {
    of: BodyOf,
    id: u64,
}

/// What a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum BodyOf {
    /// An operation that the session is to carry out.
    Operation,
    /// An answer to the session.
    Reply,
    /// A message of the session, for a queue.
    Publish,
}

/// Bodies on their way from one form to the other.
#[derive(Debug, Default)]
pub(in crate::core) struct Bodies {
    joining: HashMap<BodyKey, Joining>,
    leaving: HashMap<BodyKey, Leaving>,
    /// Of the answers that leave.
    deadlines: Deadlines<u64>,
    bytes: usize,
}

/// A body that comes in fragments.
#[derive(Debug)]
pub(super) struct Joining {
    /// The operation that it belongs to, if it is none of an answer.
    pub(super) place: Option<Box<PlaceOwned>>,
    pub(super) body: Vec<u8>,
    /// Bytes of it that were granted anew.
    pub(super) granted: usize,
    /// Bytes accounted: what was announced.
    pub(super) total: usize,
}

/// A body that leaves in fragments.
#[derive(Debug)]
struct Leaving {
    kind: FrameType,
    flow: u64,
    rest: Bytes,
    credit: u64,
    deadline: u64,
}

// === impl BodyKey ===

impl BodyKey {
    const fn operation(id: u64) -> Self {
        Self { of: BodyOf::Operation, id }
    }

    const fn reply(id: u64) -> Self {
        Self { of: BodyOf::Reply, id }
    }

    const fn publish(id: u64) -> Self {
        Self { of: BodyOf::Publish, id }
    }

    /// Of an answer, or of an operation.
    const fn new(reply: bool, id: u64) -> Self {
        if reply { Self::reply(id) } else { Self::operation(id) }
    }

    fn is_reply(self) -> bool {
        self.of == BodyOf::Reply
    }
}

// === impl Bodies ===

impl Bodies {
    /// Bytes of memory held.
    pub(in crate::core) fn held(&self) -> usize {
        let tables = self.joining.allocation_size() + self.leaving.allocation_size();
        size_of::<Self>() + tables + self.deadlines.memory() + self.bytes
    }

    pub(in crate::core) fn is_empty(&self) -> bool {
        self.joining.is_empty() && self.leaving.is_empty()
    }

    fn remove(&mut self, key: BodyKey) {
        if let Some(joining) = self.joining.remove(&key) {
            self.bytes -= joining.total;
        }
        self.remove_leaving(key);
    }

    fn remove_leaving(&mut self, key: BodyKey) {
        let Some(leaving) = self.leaving.remove(&key) else { return };
        self.bytes -= leaving.rest.len();
        if key.is_reply() {
            let (left, slot) = (&self.leaving, tick(leaving.deadline));
            self.deadlines.remove(leaving.deadline, |id| {
                left.get(&BodyKey::reply(*id)).is_some_and(|other| tick(other.deadline) == slot)
            });
        }
    }

    /// An answer that should be gone by now; call until `None`, and forget each.
    fn overdue(&mut self, now: u64) -> Option<u64> {
        let leaving = &self.leaving;
        let late =
            |id: &u64| leaving.get(&BodyKey::reply(*id)).is_some_and(|leaving| leaving.deadline <= now);
        std::iter::from_fn(|| self.deadlines.pop(now)).find(late)
    }
}

impl Shard {
    fn bodies(&mut self, me: SessionRef) -> Option<&mut Bodies> {
        self.sessions.get_mut(me)?.ops.as_mut()?.bodies.as_deref_mut()
    }

    /// Forgets what is under way of a body.
    pub(super) fn drop_body(&mut self, me: SessionRef, reply: bool, id: u64) {
        let Some(ops) = self.sessions.get_mut(me).and_then(|session| session.ops.as_mut()) else { return };
        if let Some(bodies) = ops.bodies.as_mut() {
            bodies.remove(BodyKey::new(reply, id));
            if bodies.is_empty() {
                ops.bodies = None;
            }
            self.touch(me);
        }
    }

    // --- joining: towards queues ---

    /// Begins to join the body of a message of a session; false if it has too many already. One alone may always be.
    pub(super) fn add_publish(&mut self, from: SessionRef, id: u64, joining: Joining, most: usize) -> bool {
        let Some(session) = self.sessions.get_mut(from) else { return false };
        let bodies = session.ops().bodies.get_or_insert_default();
        if bodies.bytes > 0 && bodies.bytes + joining.total > most {
            return false;
        }
        bodies.bytes += joining.total;
        bodies.joining.insert(BodyKey::publish(id), joining);
        self.touch(from);
        true
    }

    /// Adds a fragment; says how many bytes its sender has to be granted, or `None` if no such body is joined.
    pub(super) fn extend_publish(&mut self, from: SessionRef, id: u64, fragment: &[u8]) -> Option<usize> {
        let joining = self.bodies(from)?.joining.get_mut(&BodyKey::publish(id))?;
        if 2 * joining.body.len() >= joining.total {
            // It is on its way for certain, and takes no more than was accounted: nobody knows how long it will wait.
            joining.body.reserve_exact(joining.total.saturating_sub(joining.body.len()));
        }
        joining.body.extend_from_slice(fragment);
        let grant = joining.body.len() - joining.granted;
        joining.granted += grant;
        Some(grant)
    }

    /// Takes out what has come of the body of a message.
    pub(super) fn take_publish(&mut self, from: SessionRef, id: u64) -> Option<Joining> {
        let ops = self.sessions.get_mut(from)?.ops.as_mut()?;
        let bodies = ops.bodies.as_mut()?;
        let joining = bodies.joining.remove(&BodyKey::publish(id))?;
        bodies.bytes -= joining.total;
        if bodies.is_empty() {
            ops.bodies = None;
        }
        self.touch(from);
        Some(joining)
    }

    // --- joining: towards geminio ---

    /// The first fragment of an operation for a geminio session.
    pub(in crate::core::shard) fn join_operation(
        &mut self,
        target: SessionRef,
        place: &Place<'_>,
        call: &CallHead<'_>,
    ) -> Result<u64, PlaceError> {
        let limit = self.shared.settings.outbox;
        let total = usize::try_from(call.total_len).unwrap_or(usize::MAX);
        if total > LONGEST {
            let why = "body longer than the receiver takes";
            return Err(PlaceError::Refused((ErrorCode::PayloadTooLarge, why)));
        }
        let first = place.body.as_slice().to_vec();
        let owned = self.own_place(place.clone_head(), Destination::Fixed, 0);
        let session = self.sessions.get_mut(target).ok_or(PlaceError::Gone)?;
        let id = session.next_id | JOINING;
        session.next_id += 1;
        if !self.shared.admits(session.held as usize, total) {
            return Err(PlaceError::Refused(OUT_OF_BUDGET));
        }
        let bodies = session.ops().bodies.get_or_insert_default();
        // One alone may be longer than the outbox: it has to be whole.
        if bodies.bytes > 0 && bodies.bytes + total > limit {
            return Err(PlaceError::Refused((ErrorCode::Overloaded, "receiver does not keep up")));
        }
        bodies.bytes += total;
        let joining = Joining { place: Some(Box::new(owned)), body: first, granted: 0, total };
        bodies.joining.insert(BodyKey::operation(id), joining);
        self.pend(target, id, place, true);
        // Its bytes are granted with those of the next one: so far its sender does not know where it went.
        Ok(id)
    }

    /// A further fragment of an operation's body that is being joined.
    pub(super) fn join_fragment(&mut self, target: SessionRef, local: u64, flags: Flags, body: &Body<'_>) {
        let key = BodyKey::operation(local);
        let Some(bodies) = self.bodies(target) else { return };
        let Some(joining) = bodies.joining.get_mut(&key) else { return };
        joining.body.extend_from_slice(body.as_slice());
        let complete = !flags.more();
        let grant = joining.body.len() - joining.granted;
        joining.granted += grant;
        let Some((_, pending)) = self.pending(target, OpKey::Local(local)) else { return };
        let (from, from_id, kind) = (pending.from, pending.from_id, pending.kind);
        if !complete {
            self.touch(target);
            return self.grant(from, from_id, grant);
        }
        let joined = self.bodies(target).and_then(|bodies| {
            let joining = bodies.joining.remove(&key)?;
            bodies.bytes -= joining.total;
            Some(joining)
        });
        let Some(pending) = self.remove_pending(target, local) else { return };
        let Some(Joining { place: Some(mut place), body, .. }) = joined else { return };
        if flags.abort() {
            let code = ErrorCode::Cancelled;
            self.record(&pending, Some(code));
            self.answer_error(from, from_id, kind, code, "cancelled");
            return;
        }
        (place.body, place.more) = (body.into(), false);
        match self.place(target, &place.borrow()) {
            Ok(packet) => self.tell_rerouted(from, from_id, target, packet),
            Err(error) => {
                let (code, text) = match error {
                    PlaceError::Gone => (ErrorCode::SessionClosed, "session closed"),
                    PlaceError::Refused(refused) => refused,
                };
                self.record(&pending, Some(code));
                self.answer_error(from, from_id, kind, code, text);
            }
        }
    }

    /// Grants the native sender of an operation more of its body, for a receiver that knows no grants.
    fn grant(&mut self, to: SessionRef, id: u64, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if to.shard == self.id {
            self.credit_body(to, id, bytes);
        } else {
            self.post(to.shard, Msg::CreditBody { to, id, bytes });
        }
    }

    /// An answer, or a fragment of one, for a geminio session.
    pub(super) fn answer_geminio(
        &mut self,
        to: SessionRef,
        id: u64,
        kind: OpKind,
        flags: Flags,
        head: &[u8],
        body: Body<'_>,
        form: Form,
    ) {
        let key = BodyKey::reply(id);
        let joins = self.bodies(to).is_some_and(|bodies| bodies.joining.contains_key(&key));
        if flags.more() || joins && !flags.abort() {
            return self.join_answer(to, id, kind, flags, head, &body);
        }
        let Some(outgoing) = self.remove_outgoing(to, id) else { return self.stats.late_answers.add(1) };
        self.drop_body(to, true, id);
        let Ok(reply) = ReplyHead::parse(head) else {
            return self.respond_error(to, id, ErrorCode::Internal, "malformed answer");
        };
        let method = outgoing.method.as_deref().unwrap_or_default();
        self.respond(to, id, method, reply.error, body, form);
    }

    fn join_answer(
        &mut self,
        to: SessionRef,
        id: u64,
        kind: OpKind,
        flags: Flags,
        head: &[u8],
        body: &Body<'_>,
    ) {
        let (key, limit) = (BodyKey::reply(id), self.shared.settings.outbox);
        let Some((target, local)) = self.outgoing(to, id).map(|outgoing| (outgoing.target, outgoing.local))
        else {
            return self.stats.late_answers.add(1);
        };
        let Some(session) = self.sessions.get_mut(to) else { return };
        let held = session.held as usize;
        let bodies = session.ops().bodies.get_or_insert_default();
        if !bodies.joining.contains_key(&key) {
            let total = ReplyHead::parse(head).map_or(u64::MAX, |reply| reply.total_len);
            let total = usize::try_from(total).unwrap_or(usize::MAX);
            let refused = if total > LONGEST {
                Some(ErrorCode::PayloadTooLarge)
            } else if bodies.bytes > 0 && bodies.bytes + total > limit || !self.shared.admits(held, total) {
                Some(ErrorCode::Overloaded)
            } else {
                None
            };
            if let Some(code) = refused {
                let Some(outgoing) = self.remove_outgoing(to, id) else { return };
                self.cancel_outgoing(to, id, &outgoing, code);
                self.respond_error(to, id, code, "");
                return self.drop_body(to, true, id);
            }
            bodies.bytes += total;
            bodies.joining.insert(key, Joining { place: None, body: Vec::new(), granted: 0, total });
        }
        if let Some(joining) = bodies.joining.get_mut(&key) {
            joining.body.extend_from_slice(body.as_slice());
        }
        if flags.more() {
            self.touch(to);
            let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
            if target.shard == self.id {
                self.credit_reply(target, OpKey::Local(local), bytes);
            } else {
                self.post(target.shard, Msg::CreditReply { target, from: to, from_id: id, bytes });
            }
            return;
        }
        let joined = bodies.joining.remove(&key);
        bodies.bytes -= joined.as_ref().map_or(0, |joining| joining.total);
        let Some(outgoing) = self.remove_outgoing(to, id) else { return };
        debug_assert_eq!(outgoing.kind, kind);
        let method = outgoing.method.as_deref().unwrap_or_default();
        let body = Body::Shared(joined.map(|joining| joining.body.into()).unwrap_or_default());
        self.respond(to, id, method, None, body, Form::Plain);
        self.drop_body(to, true, id);
    }

    // --- leaving: towards native ---

    /// Sends an operation whose body is longer than a frame.
    pub(super) fn send_whole(
        &mut self,
        to: SessionRef,
        header: FrameHeader,
        flow: u64,
        head: &[u8],
        forwarded: Option<(Sender, u32)>,
        mut body: Bytes,
        deadline: u64,
    ) {
        let Some(session) = self.sessions.get_mut(to) else { return };
        let Dialect::Native(conn) = &mut session.conn else { return };
        let total = body.len() as u64;
        let reply = matches!(header.kind, FrameType::Response | FrameType::Ack);
        let mut long = head.to_vec();
        if reply {
            ReplyBuilder::new().total_len(total).encode(&mut long);
        } else {
            CallBuilder::new("").total_len(total).encode(&mut long);
        }
        let first = body.split_to(body.len().min(MAX_BODY_FRAME as usize));
        let credit = u64::from(INITIAL_CREDIT).saturating_sub(first.len() as u64);
        append(conn, flow, header.with_flags(Flags::MORE), &long, forwarded, Body::Shared(first));
        let key = BodyKey::new(reply, header.id);
        let bodies = session.ops().bodies.get_or_insert_default();
        bodies.bytes += body.len();
        if reply {
            bodies.deadlines.add(deadline, header.id);
        }
        bodies.leaving.insert(key, Leaving { kind: header.kind, flow, rest: body, credit, deadline });
        self.wake_at(to, deadline);
        self.send_rest(to, key);
    }

    /// The receiver of a body that leaves grants more of it; false if none does.
    pub(super) fn grant_leaving(&mut self, me: SessionRef, reply: bool, id: u64, bytes: u32) -> bool {
        let key = BodyKey::new(reply, id);
        let Some(leaving) = self.bodies(me).and_then(|bodies| bodies.leaving.get_mut(&key)) else {
            return false;
        };
        leaving.credit = leaving.credit.saturating_add(bytes.into());
        self.send_rest(me, key);
        true
    }

    fn send_rest(&mut self, me: SessionRef, key: BodyKey) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Dialect::Native(conn) = &mut session.conn else { return };
        let Some(ops) = session.ops.as_mut() else { return };
        let Some(bodies) = ops.bodies.as_mut() else { return };
        let Some(leaving) = bodies.leaving.get_mut(&key) else { return };
        while leaving.credit > 0 && !leaving.rest.is_empty() {
            let credit = usize::try_from(leaving.credit).unwrap_or(usize::MAX);
            let n = leaving.rest.len().min(MAX_BODY_FRAME as usize).min(credit);
            let part = leaving.rest.split_to(n);
            leaving.credit -= n as u64;
            bodies.bytes -= n;
            let flags = if leaving.rest.is_empty() { Flags::NONE } else { Flags::MORE };
            let header = FrameHeader::new(leaving.kind, key.id).with_flags(flags);
            append(conn, leaving.flow, header, &[], None, Body::Shared(part));
        }
        if leaving.rest.is_empty() {
            bodies.remove_leaving(key);
            if !key.is_reply()
                && let Some(pending) = ops.pending.get_mut(&key.id)
            {
                pending.receiving = false;
            }
            if ops.bodies.as_ref().is_some_and(|bodies| bodies.is_empty()) {
                ops.bodies = None;
            }
        }
        self.touch(me);
    }

    /// The requester does not wait any more for the rest of an answer; false if none leaves.
    pub(super) fn cancel_leaving(
        &mut self,
        me: SessionRef,
        id: u64,
        code: ErrorCode,
        text: &'static str,
    ) -> bool {
        let key = BodyKey::reply(id);
        let kind = match self.bodies(me).and_then(|bodies| bodies.leaving.get(&key)) {
            Some(leaving) if leaving.kind == FrameType::Ack => OpKind::Message,
            Some(_) => OpKind::Call,
            None => return false,
        };
        self.drop_body(me, true, id);
        self.answer_now(me, id, kind, true, code, text);
        true
    }

    /// Gives up answers that were not taken in time; returns when the next is due.
    pub(in crate::core::shard) fn expire_leaving(&mut self, me: SessionRef) -> u64 {
        let now = self.now.micros;
        for _ in 0..EXPIRE_STEP {
            let Some(id) = self.bodies(me).and_then(|bodies| bodies.overdue(now)) else { break };
            self.cancel_leaving(me, id, ErrorCode::DeadlineExceeded, "deadline exceeded");
        }
        let next = self.bodies(me).map_or(u64::MAX, |bodies| bodies.deadlines.next());
        // What is left of a great many comes with the next tick.
        if next <= now { now + TICK_MICROS } else { next }
    }
}
