//! Calls and messages: from the session that starts one to the session that answers, and back.
//!
//! ```text
//!  source session                      target session
//!  outgoing[id] ── place ────────────▶ pending[local] ─▶ Request(local)
//!  Response(id) ◀── answer ─────────── removed       ◀── Response(local)
//! ```
//! Every operation that was admitted gets exactly one answer: from the receiver, or from us when the deadline passes, the requester
//! cancels or the receiver's session ends. A late answer finds no entry and is dropped.

mod delivered;
mod detours;
mod finish;
mod queued;
mod route;
mod transfer;
mod whole;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::{BufMut, Bytes, BytesMut};
use frontier_wire::{
    error::ErrorCode,
    geminio::data::decode,
    native::{
        connection::Connection,
        frame::{Flags, FrameHeader, FrameType, HEADER_LEN, INITIAL_CREDIT, MAX_BODY_FRAME},
        head::{CallHead, Sender, append_forwarded, forwarded_len},
        outbox::FlowKey,
        reader::Frame,
    },
};
use smallvec::SmallVec;

use self::route::{nobody, nobody_there};
pub(in crate::core) use self::whole::Bodies;
pub(super) use self::{
    delivered::Delivered,
    detours::Detours,
    finish::ANSWER_ALWAYS,
    queued::Handed,
    route::{destination, hash_name},
    whole::LONGEST,
};
use super::{Fault, Shard, body};
use crate::core::{
    dialect::Dialect,
    exchange::mix,
    message::{Body, Destination, Form, Msg, NOBODY, Place, PlaceOwned},
    session::{Outgoing, Pending, Phase, Session},
    shared::Settings,
    stats::OpKind,
    table::SessionRef,
};

/// From this size on a body is sent by reference, in turn with other large ones, instead of being copied into a block.
pub(super) const BULK: usize = 16 << 10;
/// Copies for other shards below this length share blocks. Whoever gets one copies it again or is done with it in the same turn, so
/// that none of them keeps a block.
const SHARED_COPY: usize = 4 << 10;
/// Such a block.
const COPY_BLOCK: usize = 16 << 10;
/// Targets tried for one operation before it fails.
pub(super) const TRIES: usize = 3;
/// Method names that only the gateway calls.
pub(super) const RESERVED: [&str; 3] = ["get_edge_id", "edge_online", "edge_offline"];

/// Why an operation was not carried out.
pub(super) type Refused = (ErrorCode, &'static str);

/// What the budget refuses.
pub(super) const OUT_OF_BUDGET: Refused = (ErrorCode::Overloaded, "gateway out of memory budget");
/// What a full inbox refuses.
pub(super) const INBOX_FULL: Refused = (ErrorCode::Overloaded, "receiver's shard does not keep up");

/// What `limits.head` refuses.
pub(super) const HEAD_TOO_LONG: Refused = (ErrorCode::PayloadTooLarge, "head longer than limits.head");
/// What `limits.meta` refuses.
pub(super) const META_TOO_LONG: Refused = (ErrorCode::PayloadTooLarge, "meta longer than limits.meta");

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
pub(super) struct Route {
    pub(super) target: SessionRef,
    instance: u64,
    pub(super) in_flight: Option<Arc<AtomicU32>>,
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
            fault_point(call.name, me, &mut self.faulty);
            self.doomed |= call.name == super::PANIC_IN_SHARD;
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
        if session.has_moved() {
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
        if session.ops.as_ref().is_some_and(|ops| ops.outgoing.contains_key(&header.id)) {
            return Err(Fault::IdInUse(header.id));
        }
        if let Err(refused) = room_in_flight(session, kind, settings) {
            return Ok(Err(refused));
        }
        if head.len() > usize::from(settings.head) {
            return Ok(Err(HEAD_TOO_LONG));
        }
        if total > settings.body {
            return Ok(Err((ErrorCode::PayloadTooLarge, "body longer than limits.body")));
        }
        let whole = usize::try_from(total).unwrap_or(usize::MAX).saturating_add(head.len());
        if !self.shared.admits(session.held as usize, whole) {
            return Ok(Err(OUT_OF_BUDGET));
        }
        let deadline = settings.deadline(self.now.micros, call.timeout_ms);
        let sender = session.sender();
        let flow = match kind {
            OpKind::Call | OpKind::Stream => flow(self.secret, me, header.id),
            OpKind::Message => flow(self.secret, me, hash_name(call.name)),
        };
        let (left, credit) = (total - body.len() as u64, u64::from(INITIAL_CREDIT) - body.len() as u64);
        let (form, context) = (Form::Plain, self.named_deadline(call.timeout_ms));
        let place = Place {
            from: me,
            from_id: header.id,
            sender,
            kind,
            more,
            head,
            body,
            form,
            context,
            deadline,
            flow,
        };
        Ok(self.dispatch(me, call, place).map(|(route, local)| {
            let outgoing = Outgoing {
                target: route.target,
                local,
                credit,
                left,
                deadline,
                in_flight: route.in_flight,
                kind,
                sending: more,
                replying: false,
                own_deadline: false,
                method: None,
            };
            if let Some(session) = self.sessions.get_mut(me) {
                let ops = session.ops();
                ops.messages += u32::from(kind == OpKind::Message);
                ops.outgoing.insert(header.id, outgoing);
            }
        }))
    }

    /// Finds a target that takes the operation. A target that turns out to be gone is replaced by the next.
    pub(super) fn dispatch(
        &mut self,
        me: SessionRef,
        call: &CallHead<'_>,
        place: Place<'_>,
    ) -> Result<(Route, u64), Refused> {
        let mut skip: SmallVec<[u64; TRIES]> = SmallVec::new();
        loop {
            let route = self.route(me, place.kind, call, &skip)?;
            if route.target.place_of(me) != self.id {
                if !self.has_mail_room(route.target.shard) {
                    return Err(INBOX_FULL);
                }
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
                Err(PlaceError::Gone) => return Err(nobody(place.kind, call.service)),
            }
        }
    }

    pub(super) fn post_place(
        &mut self,
        target: SessionRef,
        place: Place<'_>,
        destination: Destination,
        hops: u8,
    ) {
        let place = self.own_place(place, destination, hops);
        self.post(target.shard, Msg::Place { target, place: Box::new(place) });
    }

    fn own_place(&mut self, place: Place<'_>, destination: Destination, hops: u8) -> PlaceOwned {
        PlaceOwned {
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
            form: place.form,
            context: place.context,
            deadline: place.deadline,
            flow: place.flow,
            destination,
            hops,
        }
    }

    /// A copy that outlives the turn; small ones share one allocation.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() >= SHARED_COPY {
            return Bytes::copy_from_slice(bytes);
        }
        if self.arena.capacity() < bytes.len() {
            self.arena.reserve(COPY_BLOCK);
        }
        self.arena.extend_from_slice(bytes);
        self.arena.split().freeze()
    }

    fn own(&mut self, body: Body<'_>) -> Bytes {
        match body {
            Body::Slice(slice) => self.copy(slice),
            Body::Shared(bytes) => bytes,
        }
    }
}

// --- at the target ---

impl Shard {
    /// Gives an operation to a session of this shard; returns the ID it knows it by.
    pub(super) fn place(&mut self, target: SessionRef, place: &Place<'_>) -> Result<u64, PlaceError> {
        if target.is_queue() {
            return self.place_queue(target, place);
        }
        let limit = self.shared.settings.outbox;
        let now = self.now.micros;
        let session = self.sessions.get_mut(target).ok_or(PlaceError::Gone)?;
        if session.phase != Phase::Ready || session.is_leaving() && place.from != NOBODY {
            return Err(PlaceError::Gone);
        }
        let Dialect::Native(conn) = &session.conn else { return self.place_geminio(target, place) };
        let body = match place.form {
            Form::Plain | Form::EdgeInfo => place.body.clone(),
            Form::Base64 => Body::Shared(decode(place.body.as_slice()).into()),
        };
        // Of a body that leaves in fragments, no more is on its way than the receiver has granted.
        let size = place.head.len() + body.len().min(INITIAL_CREDIT as usize);
        // What services are told of edges is sent once and nobody asks again, so it needs no room: there is little of it, and the
        // ceiling holds for it.
        if conn.operation_bytes() + size > limit && place.from != NOBODY {
            return Err(PlaceError::Refused((ErrorCode::Overloaded, "receiver does not keep up")));
        }
        // What waits for it, not what it holds: whoever is asked much has large tables.
        if !self.shared.admits(session.conn.operation_bytes(), size) && place.from != NOBODY {
            return Err(PlaceError::Refused(OUT_OF_BUDGET));
        }
        let local = session.next_id;
        session.next_id += 1;
        let whole = !place.more && body.len() > MAX_BODY_FRAME as usize;
        let left = place.deadline.saturating_sub(now) / 1_000;
        let timeout_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let flags = if place.more { Flags::MORE } else { Flags::default() };
        let header = FrameHeader::new(place.kind.operation(), local).with_flags(flags);
        let forwarded = Some((place.sender, timeout_ms));
        if whole {
            let body = body.into_bytes();
            self.send_whole(target, header, place.flow, place.head, forwarded, body, place.deadline);
        } else if let Dialect::Native(conn) = &mut session.conn {
            append(conn, place.flow, header, place.head, forwarded, body);
        }
        self.pend(target, local, place, place.more || whole);
        Ok(local)
    }

    /// Notes that a session is to answer an operation, which goes out with its next write.
    pub(super) fn pend(&mut self, target: SessionRef, local: u64, place: &Place<'_>, receiving: bool) {
        let own = place.from.shard == self.id;
        let Some(session) = self.sessions.get_mut(target) else { return };
        let pending = Pending {
            from: place.from,
            from_id: place.from_id,
            deadline: place.deadline,
            started: self.now.micros,
            reply_credit: u64::from(INITIAL_CREDIT),
            reply_left: 0,
            flow: place.flow,
            kind: place.kind,
            replying: false,
            receiving,
        };
        let ops = session.ops();
        ops.pending.insert(local, pending);
        ops.deadlines.add(place.deadline, local);
        if !own {
            ops.index.insert((place.from, place.from_id), local);
        }
        self.wake_at(target, place.deadline);
        self.touch(target);
        if place.from == NOBODY {
            self.note_crowd(target);
        }
    }

    /// An operation from another shard.
    pub(super) fn on_place(&mut self, target: SessionRef, mut owned: Box<PlaceOwned>) {
        if target.is_queue() && self.outgoing(owned.from, owned.from_id).is_none() {
            // Its sender gave it up while it was on its way here.
            return;
        }
        let gone = match self.place(target, &owned.borrow()) {
            Ok(_) if owned.hops == 0 || owned.from == NOBODY => return,
            Ok(local) => return self.tell_rerouted(owned.from, owned.from_id, target, local),
            Err(PlaceError::Refused((code, text))) => {
                self.stats.operations[owned.kind as usize].record(Some(code), 0);
                return self.answer_error(owned.from, owned.from_id, owned.kind, code, text);
            }
            Err(PlaceError::Gone) => nobody_there(&owned.destination, owned.form),
        };
        // The route changed while the operation was on its way. Nothing was sent, so another target may have it; further fragments, which
        // may be on their way to the old one, follow it.
        owned.hops += 1;
        let next = if usize::from(owned.hops) > TRIES {
            None
        } else {
            self.next_target(target, &owned.destination, owned.sender)
        };
        if let Some(next) = next
            && owned.more
        {
            self.detours.add(target, next, &owned, self.now.micros);
        }
        match next {
            Some(next) if next.place_of(owned.from) == self.id => self.on_place(next, owned),
            Some(next) => {
                self.post(next.place_of(owned.from), Msg::Place { target: next, place: owned });
            }
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
            let (gone, sending) = (outgoing.target, outgoing.sending);
            (outgoing.target, outgoing.local) = (target, local);
            if sending && gone != target {
                self.detours.keep_way(to, id, gone);
            }
            return;
        }
        // What a service is asked about an edge is in no list.
        if let Some(session) = self.sessions.get_mut(to)
            && session.phase == Phase::Admitting
        {
            let asked = session.greeting.as_mut().and_then(|greeting| greeting.asked.as_mut());
            if let Some(asked) = asked.filter(|asked| asked.id == id) {
                (asked.target, asked.local) = (target, local);
            }
            return;
        }
        // It was given up meanwhile, and the cancel went astray.
        if target.is_queue() {
            self.cancel_handed(local, ErrorCode::Cancelled);
        } else if target.shard == self.id {
            self.cancel(target, OpKey::Local(local), ErrorCode::Cancelled);
        } else {
            let code = ErrorCode::Cancelled;
            self.post(target.shard, Msg::Cancel { target, from: to, from_id: id, code });
        }
    }
}

// --- tables ---

impl Shard {
    fn outgoing(&mut self, me: SessionRef, id: u64) -> Option<&mut Outgoing> {
        self.sessions.get_mut(me)?.ops.as_mut()?.outgoing.get_mut(&id)
    }

    pub(super) fn remove_outgoing(&mut self, me: SessionRef, id: u64) -> Option<Outgoing> {
        let ops = self.sessions.get_mut(me)?.ops.as_mut()?;
        let outgoing = ops.outgoing.remove(&id)?;
        ops.messages -= u32::from(outgoing.kind == OpKind::Message);
        uncount(&outgoing);
        self.detours.forget(me, id);
        Some(outgoing)
    }

    pub(super) fn pending(&mut self, target: SessionRef, key: OpKey) -> Option<(u64, &mut Pending)> {
        let local = match key {
            OpKey::Local(local) => local,
            // It came back to the shard it is from, where its source knows it.
            OpKey::Origin(from, id) if from.shard == self.id => {
                self.outgoing(from, id).filter(|outgoing| outgoing.target == target)?.local
            }
            OpKey::Origin(from, id) => *self.sessions.get(target)?.ops.as_ref()?.index.get(&(from, id))?,
        };
        let ops = self.sessions.get_mut(target)?.ops.as_mut()?;
        ops.pending.get_mut(&local).map(|pending| (local, pending))
    }

    pub(super) fn remove_pending(&mut self, target: SessionRef, local: u64) -> Option<Pending> {
        let own = self.id;
        let ops = self.sessions.get_mut(target)?.ops.as_mut()?;
        let pending = ops.pending.remove(&local)?;
        let left = &ops.pending;
        ops.deadlines.remove(pending.deadline, |local| left.contains_key(local));
        let bodies = ops.bodies.is_some();
        if pending.from.shard != own {
            ops.index.remove(&(pending.from, pending.from_id));
        }
        if bodies {
            self.drop_body(target, false, local);
        }
        Some(pending)
    }

    pub(super) fn record(&self, pending: &Pending, error: Option<ErrorCode>) {
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
    let copied = if body.len() < BULK { body.len() } else { 0 };
    if copied == body.len() && !outbox.has_flow(FlowKey::Operation(flow)) {
        let out = outbox.small(len + body.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(head);
        if let Some((sender, timeout)) = forwarded {
            append_forwarded(out, sender, timeout);
        }
        out.extend_from_slice(body.as_slice());
        return;
    }
    let mut lead = BytesMut::with_capacity(len + copied);
    lead.put_slice(&header.encode());
    lead.put_slice(head);
    if let Some((sender, timeout)) = forwarded {
        append_forwarded(&mut lead, sender, timeout);
    }
    // A small body may be a part of something larger, which it must not keep while it waits.
    lead.put_slice(&body.as_slice()[..copied]);
    let body = if copied == body.len() { Bytes::new() } else { body.into_bytes() };
    outbox.push_frame(flow, lead.freeze(), body);
}

/// Fault points: what the names of operations of tests do to whoever handles them.
#[cfg(any(test, feature = "testing"))]
pub(super) fn fault_point(name: &str, me: SessionRef, faulty: &mut Option<SessionRef>) {
    assert!(name != super::PANIC, "fault point: frontier.fault.panic");
    if name == super::PANIC_IN_TIMER {
        *faulty = Some(me);
    }
}

/// Whether a peer may start one more.
pub(super) fn room_in_flight(session: &Session, kind: OpKind, settings: &Settings) -> Result<(), Refused> {
    let Some(ops) = &session.ops else { return Ok(()) };
    let calls = ops.outgoing.len() as u32 - ops.messages;
    let (used, limit) = match kind {
        OpKind::Message => (ops.messages, settings.messages_in_flight),
        OpKind::Call | OpKind::Stream => (calls, settings.requests_in_flight),
    };
    if used >= limit { Err((ErrorCode::Overloaded, "too many operations in flight")) } else { Ok(()) }
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

/// The number of a flow in somebody's outbox. Two flows with one number would be cut together, so an attacker, who chooses IDs and
/// names freely and can guess handles, must not be able to work one out: only the shard knows the secret.
pub(super) const fn flow(secret: u64, of: SessionRef, what: u64) -> u64 {
    mix(mix(of.to_bits() ^ secret) ^ mix(what.wrapping_add(secret)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use frontier_wire::{
        native::{
            connection::Connection,
            frame::{FrameHeader, FrameType},
        },
        yamux::Config,
    };

    use super::{BULK, SHARED_COPY, append};
    use crate::core::{Now, Settings, Shard, Shared, identity::OpenHouse, message::Body};

    #[test]
    fn small_copies_share_a_block_and_others_have_their_own() {
        let shared = Arc::new(Shared::new(Settings::default(), 1, Arc::new(OpenHouse)));
        let mut shard = Shard::new(0, shared, Now::default(), 1);
        let copies: Vec<Bytes> = (0..100).map(|n| shard.copy(&[n; 100])).collect();
        assert!(copies.iter().zip(0..).all(|(copy, n)| **copy == [n; 100]));
        assert!(copies.windows(2).all(|pair| pair[0].as_ptr().wrapping_add(100) == pair[1].as_ptr()));
        let large = shard.copy(&[1; SHARED_COPY]);
        assert!(large.is_unique(), "nobody keeps a block for long");
    }

    #[test]
    fn a_small_body_behind_a_large_one_of_its_flow_keeps_no_buffer() {
        let mut conn = Connection::dial(&Config::default());
        let header = FrameHeader::new(FrameType::Publish, 1);
        append(&mut conn, 7, header, &[], None, Body::Shared(Bytes::from(vec![1; BULK])));
        let buffer = Bytes::from(vec![2; 60_000]);
        append(&mut conn, 7, header, b"head", None, Body::Shared(buffer.slice(..9)));
        assert!(buffer.is_unique());
        conn.fill(usize::MAX);
        let mut slices = Vec::new();
        conn.slices(&mut slices, usize::MAX);
        let sent: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        assert!(sent.ends_with(&[&b"head"[..], &[2; 9]].concat()));
    }
}
