//! Calls and messages: from the session that starts one to the session that answers, and back.
//!
//! ```text
//!  source session                      target session
//!  outgoing[id] ── place ────────────▶ pending[local] ─▶ Request(local)
//!  Response(id) ◀── answer ─────────── removed       ◀── Response(local)
//! ```
//! Every operation that was admitted gets exactly one answer: from the receiver, or from us when the deadline passes, the requester
//! cancels or the receiver's session ends. A late answer finds no entry and is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use frontier_wire::error::ErrorCode;
use frontier_wire::native::connection::Connection;
use frontier_wire::native::frame::{Flags, FrameHeader, FrameType, HEADER_LEN, INITIAL_CREDIT};
use frontier_wire::native::head::{
    CallHead, Credit, ErrorRef, ReplyHead, Sender, append_forwarded, encode_error_reply, error_reply_len,
    forwarded_len,
};
use frontier_wire::native::outbox::FlowKey;
use frontier_wire::native::reader::Frame;
use smallvec::SmallVec;

use super::{Fault, Shard, body};
use crate::core::exchange::{Choice, Policy, Targets, connection, mix, pick};
use crate::core::message::{Body, Destination, Msg, NOBODY, Place, PlaceOwned};
use crate::core::registry::NameKind;
use crate::core::session::{Outgoing, Pending, Phase, Session, Stay, Sticky};
use crate::core::stats::OpKind;
use crate::core::table::SessionRef;

/// From this size on a body is sent by reference, in turn with other large ones, instead of being copied into a block.
const BULK: usize = 16 << 10;
/// Targets tried for one operation before it fails.
const TRIES: usize = 3;
/// Topics a session remembers the receiver of: what a hash map of 512 places takes, 13 KiB. The receiver of a topic beyond them is
/// computed, so it stays while the instances do, but a new instance takes its share of them.
const STICKY_MAX: usize = 448;
/// The topic that takes what nobody else takes.
const CATCH_ALL: &str = "*";
/// Method names that only the gateway calls.
pub(super) const RESERVED: [&str; 3] = ["get_edge_id", "edge_online", "edge_offline"];
/// Room for the answer of an admitted operation is never refused up to this size.
const ANSWER_ALWAYS: usize = 64;

/// Why an operation was not carried out.
pub(super) type Refused = (ErrorCode, &'static str);

/// Why an operation could not be given to a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum PlaceError {
    /// The session is not there; another one may do.
    Gone,
    /// The session cannot take it.
    Refused(Refused),
}

/// Which operation of a target.
#[derive(Clone, Copy, Debug)]
pub(super) enum OpKey {
    /// By the ID the target knows.
    Local(u64),
    /// By its origin.
    Origin(SessionRef, u64),
}

/// Where an operation goes.
struct Route {
    target: SessionRef,
    instance: u64,
    in_flight: Option<Arc<AtomicU32>>,
}

impl OpKind {
    const fn operation(self) -> FrameType {
        match self {
            Self::Call => FrameType::Request,
            Self::Message => FrameType::Publish,
            Self::Stream => FrameType::Open,
        }
    }

    const fn answer(self) -> FrameType {
        match self {
            Self::Call => FrameType::Response,
            Self::Message => FrameType::Ack,
            Self::Stream => FrameType::OpenAck,
        }
    }
}

// --- starting ---

impl Shard {
    /// Request or Publish from a peer.
    pub(super) fn on_operation(&mut self, me: SessionRef, frame: Frame<&[u8]>) -> Result<(), Fault> {
        let header = frame.header;
        let kind = if header.kind == FrameType::Request { OpKind::Call } else { OpKind::Message };
        if header.head_len == 0 || header.flags.abort() {
            return self.on_fragment(me, frame);
        }
        let call = CallHead::parse(&frame.head)?;
        #[cfg(any(test, feature = "testing"))]
        {
            assert!(call.name != super::PANIC, "fault point: frontier.fault.panic");
            if call.name == super::PANIC_IN_TIMER {
                self.faulty = Some(me);
            }
        }
        if let Err((code, text)) =
            self.start(me, kind, header, &call, &frame.head, body(frame.body.clone()))?
        {
            self.stats.operations[kind as usize].record(Some(code), 0);
            self.answer_now(me, header.id, kind, false, code, text);
        }
        Ok(())
    }

    fn start(
        &mut self,
        me: SessionRef,
        kind: OpKind,
        header: FrameHeader,
        call: &CallHead<'_>,
        head: &[u8],
        body: Body<'_>,
    ) -> Result<Result<(), Refused>, Fault> {
        let Some(session) = self.sessions.get_mut(me) else { return Ok(Ok(())) };
        if session.stay == Stay::Moved {
            return Ok(Err((ErrorCode::SessionClosed, "the session has moved to another gateway")));
        }
        let settings = &self.shared.settings;
        let more = header.flags.more();
        let total = if more { call.total_len } else { body.len() as u64 };
        if more && total <= body.len() as u64 || body.len() as u64 > u64::from(INITIAL_CREDIT) {
            return Err(Fault::Overrun);
        }
        if header.id == 0 {
            return Err(Fault::IdInUse(0));
        }
        if let Some(ops) = &session.ops {
            if ops.outgoing.contains_key(&header.id) {
                return Err(Fault::IdInUse(header.id));
            }
            let calls = ops.outgoing.len() as u32 - ops.messages;
            let (used, limit) = match kind {
                OpKind::Message => (ops.messages, settings.messages_in_flight),
                OpKind::Call | OpKind::Stream => (calls, settings.requests_in_flight),
            };
            if used >= limit {
                return Ok(Err((ErrorCode::Overloaded, "too many operations in flight")));
            }
        }
        if total > settings.body {
            return Ok(Err((ErrorCode::PayloadTooLarge, "body longer than limits.body")));
        }
        let timeout =
            if call.timeout_ms == 0 { settings.default_timeout } else { u64::from(call.timeout_ms) * 1_000 };
        let sender = session.sender();
        let flow = match kind {
            OpKind::Call | OpKind::Stream => flow(self.secret, me, header.id),
            OpKind::Message => flow(self.secret, me, hash_name(call.name)),
        };
        let deadline = self.now.micros + timeout;
        let (left, credit) = (total - body.len() as u64, u64::from(INITIAL_CREDIT) - body.len() as u64);
        let place = Place { from: me, from_id: header.id, sender, kind, more, head, body, deadline, flow };
        Ok(self.dispatch(me, call, place).map(|(route, local)| {
            let outgoing = Outgoing {
                target: route.target,
                local,
                credit,
                left,
                in_flight: route.in_flight,
                kind,
                sending: more,
                replying: false,
            };
            if let Some(session) = self.sessions.get_mut(me) {
                let ops = session.ops();
                ops.messages += u32::from(kind == OpKind::Message);
                ops.outgoing.insert(header.id, outgoing);
            }
        }))
    }

    /// Finds a target that takes the operation. A target that turns out to be gone is replaced by the next.
    fn dispatch(
        &mut self,
        me: SessionRef,
        call: &CallHead<'_>,
        place: Place<'_>,
    ) -> Result<(Route, u64), Refused> {
        let mut skip: SmallVec<[u64; TRIES]> = SmallVec::new();
        loop {
            let route = self.route(me, place.kind, call, &skip)?;
            if route.target.shard != self.id {
                let destination = destination(place.sender, place.kind, call);
                self.post_place(route.target, place, destination, 0);
                return Ok((count(route), 0));
            }
            match self.place(route.target, &place) {
                Ok(local) => return Ok((count(route), local)),
                Err(PlaceError::Refused(refused)) => return Err(refused),
                Err(PlaceError::Gone) if skip.len() < TRIES && route.instance != 0 => {
                    skip.push(route.instance)
                }
                Err(PlaceError::Gone) if route.instance == 0 => {
                    return Err((ErrorCode::EdgeNotOnline, "edge not online"));
                }
                Err(PlaceError::Gone) => return Err((ErrorCode::ServiceNotOnline, "service not online")),
            }
        }
    }

    fn route(
        &mut self,
        me: SessionRef,
        kind: OpKind,
        call: &CallHead<'_>,
        skip: &[u64],
    ) -> Result<Route, Refused> {
        let Some(session) = self.sessions.get(me) else {
            return Err((ErrorCode::SessionClosed, "session closed"));
        };
        if session.service.is_some() {
            if call.edge == 0 {
                return Err((ErrorCode::InvalidArgument, "a service addresses an edge by its id"));
            }
            let target = self.shared.registry.edge(call.edge);
            let target = target.ok_or((ErrorCode::EdgeNotOnline, "edge not online"))?;
            return Ok(Route { target, instance: 0, in_flight: None });
        }
        if RESERVED.contains(&call.name) && kind == OpKind::Call && !session.may(call.name) {
            return Err((ErrorCode::PermissionDenied, "reserved method"));
        }
        let key = choice_key(session, self.shared.settings.policy);
        let choice =
            Choice { policy: self.shared.settings.policy, key, random: self.random(), shard: self.id };
        let targets = self.targets(kind, call)?;
        if kind == OpKind::Message {
            return self.sticky_route(me, call, &targets, choice, skip);
        }
        self.pick_route(&targets, choice, skip, kind)
    }

    /// The instances that may carry out an edge's operation.
    pub(super) fn targets(&mut self, kind: OpKind, call: &CallHead<'_>) -> Result<Arc<Targets>, Refused> {
        let registry = &self.shared.registry;
        let named = match kind {
            OpKind::Call => self.names.targets(registry, NameKind::Method, call.name),
            OpKind::Message => self
                .names
                .targets(registry, NameKind::Topic, call.name)
                .or_else(|| self.names.targets(registry, NameKind::Topic, CATCH_ALL)),
            OpKind::Stream => self.names.targets(registry, NameKind::Service, call.name),
        };
        let missing = match kind {
            OpKind::Call => (ErrorCode::MethodNotFound, "method not found"),
            OpKind::Message => (ErrorCode::TopicNotOnline, "topic not online"),
            OpKind::Stream => (ErrorCode::ServiceNotOnline, "service not online"),
        };
        if call.service.is_empty() {
            return named.ok_or(missing);
        }
        let service = self.names.targets(registry, NameKind::Service, call.service);
        let service = service.ok_or((ErrorCode::ServiceNotOnline, "service not online"))?;
        let named = named.ok_or(missing)?;
        let both = named.iter().filter(|target| service.iter().any(|other| other.key == target.key));
        let both: Arc<Targets> = both.cloned().collect();
        if both.is_empty() { Err(missing) } else { Ok(both) }
    }

    fn pick_route(
        &self,
        targets: &Targets,
        choice: Choice,
        skip: &[u64],
        kind: OpKind,
    ) -> Result<Route, Refused> {
        let none = match kind {
            OpKind::Message => (ErrorCode::TopicNotOnline, "topic not online"),
            OpKind::Call | OpKind::Stream => (ErrorCode::ServiceNotOnline, "service not online"),
        };
        let instance = pick(targets, choice, skip).ok_or(none)?;
        let target = connection(instance, choice).ok_or(none)?;
        let counted = self.shared.settings.policy == Policy::LeastInFlight;
        let in_flight = counted.then(|| Arc::clone(&instance.in_flight));
        Ok(Route { target, instance: instance.key, in_flight })
    }

    /// The receiver of a sender's topic stays the same while it lives, so that order holds under every policy: it is remembered, or
    /// computed from what does not change.
    fn sticky_route(
        &mut self,
        me: SessionRef,
        call: &CallHead<'_>,
        targets: &Arc<Targets>,
        choice: Choice,
        skip: &[u64],
    ) -> Result<Route, Refused> {
        let topic = mix(hash_name(call.name) ^ hash_name(call.service).rotate_left(32));
        let Some(session) = self.sessions.get_mut(me) else {
            return Err((ErrorCode::SessionClosed, "session closed"));
        };
        let id = session.id();
        let ops = session.ops();
        let known = ops.sticky.get(&topic).copied();
        if let Some(known) = known
            && let Some(instance) = targets.iter().find(|instance| instance.conns.contains(&known.target))
            && !skip.contains(&instance.key)
        {
            let counted = choice.policy == Policy::LeastInFlight;
            let in_flight = counted.then(|| Arc::clone(&instance.in_flight));
            return Ok(Route { target: known.target, instance: instance.key, in_flight });
        }
        if known.is_none() && ops.sticky.len() >= STICKY_MAX {
            let version = self.shared.registry.version();
            // Only who is gone makes room, and nobody goes without a change.
            if ops.crowded != Some(version) {
                let living = self.shared.registry.living();
                ops.sticky.retain(|_, sticky| living(sticky.instance));
                ops.crowded = Some(version);
            }
        }
        let fixed = Choice { policy: Policy::EdgeId, key: mix(id ^ topic), ..choice };
        let crowded = ops.crowded.is_some();
        let choice = match choice.policy {
            Policy::Random | Policy::LeastInFlight if crowded => fixed,
            _ => choice,
        };
        let route = self.pick_route(targets, choice, skip, OpKind::Message)?;
        if let Some(session) = self.sessions.get_mut(me) {
            let sticky = &mut session.ops().sticky;
            if known.is_some() || sticky.len() < STICKY_MAX {
                sticky.insert(topic, Sticky { instance: route.instance, target: route.target });
            }
        }
        Ok(route)
    }

    pub(super) fn post_place(
        &mut self,
        target: SessionRef,
        place: Place<'_>,
        destination: Destination,
        hops: u8,
    ) {
        let place = PlaceOwned {
            from: place.from,
            from_id: place.from_id,
            sender: place.sender,
            kind: place.kind,
            more: place.more,
            head: self.copy(place.head),
            body: match place.body {
                Body::Slice(slice) => self.copy(slice),
                Body::Shared(bytes) => bytes,
            },
            deadline: place.deadline,
            flow: place.flow,
            destination,
            hops,
        };
        self.post(target.shard, Msg::Place { target, place: Box::new(place) });
    }

    /// A copy that outlives the turn; small ones share one allocation.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() >= BULK {
            return Bytes::copy_from_slice(bytes);
        }
        self.arena.extend_from_slice(bytes);
        self.arena.split().freeze()
    }
}

// --- at the target ---

impl Shard {
    /// Gives an operation to a session of this shard; returns the ID it knows it by.
    pub(super) fn place(&mut self, target: SessionRef, place: &Place<'_>) -> Result<u64, PlaceError> {
        let limit = self.shared.settings.outbox;
        let (now, own) = (self.now.micros, place.from.shard == self.id);
        let session = self.sessions.get_mut(target).ok_or(PlaceError::Gone)?;
        if session.phase != Phase::Ready || session.is_leaving() && place.from != NOBODY {
            return Err(PlaceError::Gone);
        }
        let size = place.head.len() + place.body.len();
        // What services are told of edges is sent once and nobody asks again, so it needs no room: there is little of it, and the
        // ceiling holds for it.
        if session.conn.operation_bytes() + size > limit && place.from != NOBODY {
            return Err(PlaceError::Refused((ErrorCode::Overloaded, "receiver does not keep up")));
        }
        let local = session.next_id;
        session.next_id += 1;
        let pending = Pending {
            from: place.from,
            from_id: place.from_id,
            deadline: place.deadline,
            started: now,
            reply_credit: u64::from(INITIAL_CREDIT),
            reply_left: 0,
            flow: place.flow,
            kind: place.kind,
            replying: false,
            receiving: place.more,
        };
        let ops = session.ops();
        ops.pending.insert(local, pending);
        if !own {
            ops.index.insert((place.from, place.from_id), local);
        }
        let left = place.deadline.saturating_sub(now) / 1_000;
        let timeout_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let flags = if place.more { Flags::MORE } else { Flags::default() };
        let header = FrameHeader::new(place.kind.operation(), local).with_flags(flags);
        let forwarded = Some((place.sender, timeout_ms));
        append(&mut session.conn, place.flow, header, place.head, forwarded, place.body.clone());
        self.wake_at(target, place.deadline);
        self.touch(target);
        if place.from == NOBODY {
            self.note_crowd(target);
        }
        Ok(local)
    }

    /// An operation from another shard.
    pub(super) fn on_place(&mut self, target: SessionRef, mut owned: Box<PlaceOwned>) {
        let gone = match self.place(target, &owned.borrow()) {
            Ok(_) if owned.hops == 0 || owned.from == NOBODY => return,
            Ok(local) => return self.tell_rerouted(owned.from, owned.from_id, target, local),
            Err(PlaceError::Refused((code, text))) => {
                self.stats.operations[owned.kind as usize].record(Some(code), 0);
                return self.answer_error(owned.from, owned.from_id, owned.kind, code, text);
            }
            Err(PlaceError::Gone) => match owned.destination {
                Destination::Edge(_) => (ErrorCode::EdgeNotOnline, "edge not online"),
                Destination::Name(..) | Destination::Fixed => {
                    (ErrorCode::ServiceNotOnline, "service not online")
                }
            },
        };
        // The route changed while the operation was on its way. Nothing was sent, so another target may have it; fragments may be on
        // their way to the old one, therefore only whole operations go on.
        owned.hops += 1;
        let next = if usize::from(owned.hops) > TRIES || owned.more {
            None
        } else {
            self.next_target(target, &owned)
        };
        match next {
            Some(next) if next.shard == self.id => self.on_place(next, owned),
            Some(next) => self.post(next.shard, Msg::Place { target: next, place: owned }),
            None => {
                self.stats.operations[owned.kind as usize].record(Some(gone.0), 0);
                self.answer_error(owned.from, owned.from_id, owned.kind, gone.0, gone.1);
            }
        }
    }

    fn tell_rerouted(&mut self, to: SessionRef, id: u64, target: SessionRef, local: u64) {
        if to.shard == self.id {
            self.on_rerouted(to, id, target, local);
        } else {
            self.post(to.shard, Msg::Rerouted { to, id, target, local });
        }
    }

    /// An operation went to another session than the one it was sent to: its credit and its cancel go there from now on.
    pub(super) fn on_rerouted(&mut self, to: SessionRef, id: u64, target: SessionRef, local: u64) {
        if let Some(outgoing) = self.outgoing(to, id) {
            (outgoing.target, outgoing.local) = (target, local);
            return;
        }
        // What services are asked about an edge is in no list. Anything else was given up meanwhile, and the cancel went astray.
        if self.sessions.get(to).is_some_and(|session| session.phase == Phase::Admitting) {
            return;
        }
        if target.shard == self.id {
            self.cancel(target, OpKey::Local(local), ErrorCode::Cancelled);
        } else {
            let code = ErrorCode::Cancelled;
            self.post(target.shard, Msg::Cancel { target, from: to, from_id: id, code });
        }
    }

    fn next_target(&mut self, failed: SessionRef, place: &PlaceOwned) -> Option<SessionRef> {
        match &place.destination {
            Destination::Edge(id) => self.shared.registry.edge(*id).filter(|next| *next != failed),
            Destination::Name(kind, name) => {
                let targets = self.names.targets(&self.shared.registry, *kind, name)?;
                let random = self.random();
                // The same instance for all of an edge's, as if it had been chosen at first.
                let (policy, key) = match (self.shared.settings.policy, place.sender) {
                    (Policy::EdgeId, Sender::Edge(id)) => (Policy::EdgeId, id),
                    _ => (Policy::Random, random),
                };
                let choice = Choice { policy, key, random, shard: self.id };
                let skip: SmallVec<[u64; 1]> =
                    targets.iter().filter(|t| t.conns.contains(&failed)).map(|t| t.key).collect();
                connection(pick(&targets, choice, &skip)?, choice).filter(|next| *next != failed)
            }
            Destination::Fixed => None,
        }
    }

    /// A continuing fragment of an operation's body, from its source.
    fn on_fragment(&mut self, me: SessionRef, frame: Frame<&[u8]>) -> Result<(), Fault> {
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
        if target.shard == self.id {
            self.fragment(target, OpKey::Local(local), flags, &frame.head, body);
        } else {
            let (head, body) = (self.copy(&frame.head), self.own(body));
            self.post(
                target.shard,
                Msg::Fragment { target, from: me, from_id: header.id, flags, head, body },
            );
        }
        Ok(())
    }

    fn own(&mut self, body: Body<'_>) -> Bytes {
        match body {
            Body::Slice(slice) => self.copy(slice),
            Body::Shared(bytes) => bytes,
        }
    }

    /// Passes a fragment on to the receiver.
    pub(super) fn fragment(
        &mut self,
        target: SessionRef,
        key: OpKey,
        flags: Flags,
        head: &[u8],
        body: Body<'_>,
    ) {
        let limit = self.shared.settings.outbox;
        let Some((local, pending)) = self.pending(target, key) else { return };
        pending.receiving = flags.more();
        let (kind, flow) = (pending.kind, pending.flow);
        let Some(session) = self.sessions.get_mut(target) else { return };
        if session.conn.operation_bytes() + body.len() > limit {
            return self.abandon(target, local, ErrorCode::Overloaded, "receiver does not keep up");
        }
        let header = FrameHeader::new(kind.operation(), local).with_flags(flags);
        append(&mut session.conn, flow, header, head, None, body);
        self.touch(target);
    }

    /// Gives up an operation whose receiver is still there: it is told to stop, the requester gets the error.
    pub(super) fn abandon(&mut self, target: SessionRef, local: u64, code: ErrorCode, text: &'static str) {
        let Some(pending) = self.remove_pending(target, local) else { return };
        self.record(&pending, Some(code));
        self.tell_cancel(target, local, &pending, code);
        self.answer_error(pending.from, pending.from_id, pending.kind, code, text);
    }

    /// Tells a receiver that nobody waits for its answer, and drops what it was not sent yet of a call. The messages of a topic share
    /// their flow, so what is queued of one is sent, and its Cancel behind it: the receiver never hears of it again.
    fn tell_cancel(&mut self, target: SessionRef, local: u64, pending: &Pending, code: ErrorCode) {
        let Some(session) = self.sessions.get_mut(target) else { return };
        if pending.kind != OpKind::Message {
            session.conn.drop_flow(FlowKey::Operation(pending.flow));
        }
        let error = ErrorRef::new(code, "");
        let mut head = Vec::with_capacity(error.encoded_len());
        error.encode(&mut head);
        let header = FrameHeader::new(FrameType::Cancel, local);
        append(&mut session.conn, pending.flow, header, &head, None, Body::Slice(&[]));
        self.touch(target);
        self.note_crowd(target);
    }

    /// The requester does not wait any more.
    pub(super) fn cancel(&mut self, target: SessionRef, key: OpKey, code: ErrorCode) {
        let Some((local, _)) = self.pending(target, key) else { return };
        if let Some(pending) = self.remove_pending(target, local) {
            self.record(&pending, Some(code));
            self.tell_cancel(target, local, &pending, code);
        }
    }

    /// Cancel from a requester.
    pub(super) fn on_cancel(&mut self, me: SessionRef, frame: &Frame<&[u8]>) -> Result<(), Fault> {
        self.control_frame(me)?;
        let id = frame.header.id;
        let Some(outgoing) = self.remove_outgoing(me, id) else { return Ok(()) };
        self.cancel_outgoing(me, id, &outgoing, ErrorCode::Cancelled);
        self.answer_now(me, id, outgoing.kind, outgoing.replying, ErrorCode::Cancelled, "cancelled");
        Ok(())
    }

    pub(super) fn cancel_outgoing(&mut self, me: SessionRef, id: u64, outgoing: &Outgoing, code: ErrorCode) {
        let target = outgoing.target;
        if target.shard == self.id {
            self.cancel(target, OpKey::Local(outgoing.local), code);
        } else {
            self.post(target.shard, Msg::Cancel { target, from: me, from_id: id, code });
        }
    }

    /// Credit, in either direction.
    pub(super) fn on_credit(&mut self, me: SessionRef, frame: &Frame<&[u8]>) -> Result<(), Fault> {
        self.control_frame(me)?;
        let (id, bytes) = (frame.header.id, Credit::parse(&frame.head)?.bytes);
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
    pub(super) fn credit_reply(&mut self, target: SessionRef, key: OpKey, bytes: u32) {
        let Some((local, pending)) = self.pending(target, key) else { return };
        pending.reply_credit = pending.reply_credit.saturating_add(u64::from(bytes));
        self.send_credit(target, local, Flags::REPLY, bytes);
    }

    /// The receiver grants bytes of the operation's body.
    pub(super) fn credit_body(&mut self, to: SessionRef, id: u64, bytes: u32) {
        let Some(outgoing) = self.outgoing(to, id) else { return };
        outgoing.credit = outgoing.credit.saturating_add(u64::from(bytes));
        self.send_credit(to, id, Flags::default(), bytes);
    }

    fn send_credit(&mut self, to: SessionRef, id: u64, flags: Flags, bytes: u32) {
        let Some(session) = self.sessions.get_mut(to) else { return };
        let mut head = Vec::with_capacity(8);
        Credit { bytes }.encode(&mut head);
        session.conn.send(FrameHeader::new(FrameType::Credit, id).with_flags(flags), &head, &[]);
        self.touch(to);
        self.note_crowd(to);
    }
}

// --- answers ---

impl Shard {
    /// Response or Ack from the receiver of an operation.
    pub(super) fn on_answer(&mut self, me: SessionRef, frame: Frame<&[u8]>) -> Result<(), Fault> {
        let header = frame.header;
        let max_body = self.shared.settings.body;
        let Some((local, pending)) = self.pending(me, OpKey::Local(header.id)) else {
            self.stats.late_answers.add(1);
            return Ok(());
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
        if ends && let Some(pending) = self.remove_pending(me, local) {
            self.record(&pending, error);
            // An answer before the last fragment ends the transfer of the body.
            if pending.receiving
                && kind == OpKind::Call
                && let Some(session) = self.sessions.get_mut(me)
            {
                session.conn.drop_flow(FlowKey::Operation(pending.flow));
            }
        }
        self.answer(to, id, kind, header.flags, &frame.head, body(frame.body));
        Ok(())
    }

    /// Passes an answer, or a part of one, to whoever waits for it.
    pub(super) fn answer(
        &mut self,
        to: SessionRef,
        id: u64,
        kind: OpKind,
        flags: Flags,
        head: &[u8],
        body: Body<'_>,
    ) {
        if to == NOBODY {
            return;
        }
        if to.shard != self.id {
            let (head, body) = (self.copy(head), self.own(body));
            return self.post(to.shard, Msg::Answer { to, id, kind, flags, head, body });
        }
        let limit = self.shared.settings.outbox;
        let Some(session) = self.sessions.get_mut(to) else { return };
        if session.phase == Phase::Admitting {
            if flags.more() {
                return self.deny(to, ErrorCode::Internal, "answer about an edge too long");
            }
            return self.on_admission_answer(to, id, head, body.as_slice());
        }
        let Some(outgoing) = session.ops.as_mut().and_then(|ops| ops.outgoing.get_mut(&id)) else {
            self.stats.late_answers.add(1);
            return;
        };
        let replying = std::mem::replace(&mut outgoing.replying, true);
        let size = head.len() + body.len();
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
        append(&mut session.conn, !flow(self.secret, to, id), header, head, None, body);
        self.touch(to);
    }

    /// Fails an operation towards whoever waits for it.
    pub(super) fn answer_error(
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
        if to.shard != self.id {
            return self.post(to.shard, Msg::Fail { to, id, kind, code, text });
        }
        let Some(session) = self.sessions.get_mut(to) else { return };
        if session.phase == Phase::Admitting {
            let mut head = Vec::with_capacity(error_reply_len(code, text));
            encode_error_reply(&mut head, code, text);
            return self.on_admission_answer(to, id, &head, &[]);
        }
        // Without an entry it was answered before, by a cancel or a deadline that crossed this.
        match self.remove_outgoing(to, id) {
            Some(outgoing) => self.answer_now(to, id, kind, outgoing.replying, code, text),
            None => self.stats.late_answers.add(1),
        }
    }

    /// Writes an error answer; the operation is gone from all tables. It never waits for room.
    fn answer_now(
        &mut self,
        to: SessionRef,
        id: u64,
        kind: OpKind,
        replying: bool,
        code: ErrorCode,
        text: &'static str,
    ) {
        let Some(session) = self.sessions.get_mut(to) else { return };
        let mut head = Vec::with_capacity(error_reply_len(code, text));
        encode_error_reply(&mut head, code, text);
        // After fragments of the answer the error must say that the rest will not come.
        let flags = if replying { Flags::ABORT } else { Flags::default() };
        if replying {
            session.conn.drop_flow(FlowKey::Operation(!flow(self.secret, to, id)));
        }
        session.conn.send(FrameHeader::new(kind.answer(), id).with_flags(flags), &head, &[]);
        self.touch(to);
        self.note_crowd(to);
    }

    /// The operations of a session that ends: what it was to answer fails, what it waited for is cancelled.
    pub(super) fn end_ops(&mut self, me: SessionRef) {
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
            self.cancel_outgoing(me, id, &outgoing, ErrorCode::SessionClosed);
        }
    }

    /// Fails what is overdue; returns when the next deadline is.
    pub(super) fn expire_ops(&mut self, me: SessionRef) -> u64 {
        let now = self.now.micros;
        let Some(ops) = self.sessions.get(me).and_then(|session| session.ops.as_ref()) else {
            return u64::MAX;
        };
        let due = ops.pending.iter().filter(|(_, pending)| pending.deadline <= now);
        let mut due: SmallVec<[u64; 16]> = due.map(|(local, _)| *local).collect();
        due.sort_unstable();
        for local in due {
            self.abandon(me, local, ErrorCode::DeadlineExceeded, "deadline exceeded");
        }
        let ops = self.sessions.get(me).and_then(|session| session.ops.as_ref());
        ops.and_then(|ops| ops.pending.values().map(|pending| pending.deadline).min()).unwrap_or(u64::MAX)
    }

    // --- tables ---

    fn outgoing(&mut self, me: SessionRef, id: u64) -> Option<&mut Outgoing> {
        self.sessions.get_mut(me)?.ops.as_mut()?.outgoing.get_mut(&id)
    }

    fn remove_outgoing(&mut self, me: SessionRef, id: u64) -> Option<Outgoing> {
        let ops = self.sessions.get_mut(me)?.ops.as_mut()?;
        let outgoing = ops.outgoing.remove(&id)?;
        ops.messages -= u32::from(outgoing.kind == OpKind::Message);
        uncount(&outgoing);
        Some(outgoing)
    }

    fn pending(&mut self, target: SessionRef, key: OpKey) -> Option<(u64, &mut Pending)> {
        let ops = self.sessions.get_mut(target)?.ops.as_mut()?;
        let local = match key {
            OpKey::Local(local) => local,
            OpKey::Origin(from, id) => *ops.index.get(&(from, id))?,
        };
        ops.pending.get_mut(&local).map(|pending| (local, pending))
    }

    fn remove_pending(&mut self, target: SessionRef, local: u64) -> Option<Pending> {
        let own = self.id;
        let ops = self.sessions.get_mut(target)?.ops.as_mut()?;
        let pending = ops.pending.remove(&local)?;
        if pending.from.shard != own {
            ops.index.remove(&(pending.from, pending.from_id));
        }
        Some(pending)
    }

    fn record(&self, pending: &Pending, error: Option<ErrorCode>) {
        let micros = self.now.micros.saturating_sub(pending.started);
        self.stats.operations[pending.kind as usize].record(error, micros);
    }
}

/// Appends a frame to the lane it belongs to: small ones to the block, large ones and those behind them to their flow.
fn append(
    conn: &mut Connection,
    flow: u64,
    header: FrameHeader,
    head: &[u8],
    forwarded: Option<(Sender, u32)>,
    body: Body<'_>,
) {
    let extra = forwarded.map_or(0, |(sender, timeout)| forwarded_len(sender, timeout));
    let Ok(header) = header.with_lens(head.len() + extra, body.len()) else { return };
    let outbox = conn.outbox();
    let len = HEADER_LEN + head.len() + extra;
    if body.len() < BULK && !outbox.has_flow(FlowKey::Operation(flow)) {
        let out = outbox.small(len + body.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(head);
        if let Some((sender, timeout)) = forwarded {
            append_forwarded(out, sender, timeout);
        }
        out.extend_from_slice(body.as_slice());
        return;
    }
    let mut lead = BytesMut::with_capacity(len);
    lead.put_slice(&header.encode());
    lead.put_slice(head);
    if let Some((sender, timeout)) = forwarded {
        append_forwarded(&mut lead, sender, timeout);
    }
    outbox.push_frame(flow, lead.freeze(), body.into_bytes());
}

fn count(route: Route) -> Route {
    if let Some(in_flight) = &route.in_flight {
        in_flight.fetch_add(1, Ordering::Relaxed);
    }
    route
}

fn uncount(outgoing: &Outgoing) {
    if let Some(in_flight) = &outgoing.in_flight {
        in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn destination(sender: Sender, kind: OpKind, call: &CallHead<'_>) -> Destination {
    match (sender, kind) {
        (Sender::Service(_), _) => Destination::Edge(call.edge),
        (Sender::Edge(_), _) if !call.service.is_empty() => Destination::Fixed,
        (Sender::Edge(_), OpKind::Call) => Destination::Name(NameKind::Method, call.name.into()),
        (Sender::Edge(_), OpKind::Message) => Destination::Name(NameKind::Topic, call.name.into()),
        (Sender::Edge(_), OpKind::Stream) => Destination::Name(NameKind::Service, call.name.into()),
    }
}

/// What the policy hashes of an edge.
pub(super) fn choice_key(session: &Session, policy: Policy) -> u64 {
    match policy {
        Policy::SourceIp => match session.addr().map(|addr| addr.ip()) {
            Some(std::net::IpAddr::V4(ip)) => mix(u64::from(ip.to_bits())),
            Some(std::net::IpAddr::V6(ip)) => mix((ip.to_bits() >> 64) as u64) ^ mix(ip.to_bits() as u64),
            None => 0,
        },
        Policy::EdgeId | Policy::Random | Policy::LeastInFlight => session.id(),
    }
}

/// FNV-1a (Fowler, Noll and Vo): names are short. Two names of one sender that collide only share an order.
fn hash_name(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The number of a flow in somebody's outbox. Two flows with one number would be cut together, so an attacker, who chooses IDs and
/// names freely and can guess handles, must not be able to work one out: only the shard knows the secret.
pub(super) const fn flow(secret: u64, of: SessionRef, what: u64) -> u64 {
    mix(mix(of.to_bits() ^ secret) ^ mix(what.wrapping_add(secret)))
}
