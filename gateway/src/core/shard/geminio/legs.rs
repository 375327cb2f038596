//! Streams of geminio sessions, which are its dialogues. Between two of them raw bytes, messages and calls are passed on as they are;
//! if the far end is native, `translate` turns them into frames and back.
//!
//! A dialogue has no windows: raw bytes count as held until the far end has given them back, and from a limit on the whole socket is not
//! read. It has no halves either: when the far end half-closes, ours is dismissed, and what its peer has under way is still taken.

use bytes::{Bytes, BytesMut};
use frontier_wire::{
    chunk::Piece,
    error::ErrorCode,
    geminio::{
        base64,
        connection::{OpenError, Operation, SendError},
        data::{self, Content, Data, Object},
        dialogue::DialogueId,
    },
    native::{
        frame::{FrameHeader, FrameType},
        head::{CallBuilder, CallHead, Sender},
        reader::FrameReader,
    },
};
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{ops::room_for_body, text, translate::Translator};
use crate::core::{
    deadlines::Deadlines,
    dialect::Protocol,
    message::{DialogueAnswer, DialogueOperation, LegId, LegMsg, LegRef, OpenLeg},
    session::{Leg, LegState, Phase},
    shard::{
        Shard,
        ops::{ANSWER_ALWAYS, HEAD_TOO_LONG, META_TOO_LONG, OUT_OF_BUDGET, Refused, destination},
    },
    stats::OpKind,
    table::SessionRef,
};

/// What only a stream of a geminio session has.
#[derive(Debug)]
pub struct Dialogue {
    /// What the far end speaks; known once it has accepted.
    pub(super) far: Protocol,
    /// Operations that the peer is to answer, by the packet that carried them.
    pub(super) pending: HashMap<u64, Pending>,
    deadlines: Deadlines<u64>,
    /// Operations of the peer that the far end has not answered, and their methods in base64.
    pub(super) started: HashMap<u64, Bytes>,
    /// Bytes passed on that were no raw bytes of the peer, and have not come back.
    pub(super) overhead: usize,
    /// Raw bytes of the far end that went back to it before they were written.
    pub(super) early: usize,
    /// With a native far end: frames that are read or wait for credit.
    pub(super) translator: Option<Box<Translator>>,
}

/// An operation on a dialogue that its peer is to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Its number at the far end.
    pub(super) id: u64,
    pub(super) kind: OpKind,
    /// In microseconds.
    pub(super) deadline: u64,
}

// === impl Dialogue ===

impl Dialogue {
    /// Of `n` raw bytes of the far end that are dealt with, how many it has got back before.
    pub(in crate::core::shard) fn take_early(&mut self, n: u32) -> u32 {
        let early = self.early.min(n as usize);
        self.early -= early;
        u32::try_from(early).unwrap_or(n)
    }

    fn take_pending(&mut self, packet: u64) -> Option<Pending> {
        let pending = self.pending.remove(&packet)?;
        let left = &self.pending;
        self.deadlines.remove(pending.deadline, |packet| left.contains_key(packet));
        Some(pending)
    }

    fn new(far: Protocol) -> Box<Self> {
        Box::new(Self {
            far,
            pending: HashMap::new(),
            deadlines: Deadlines::default(),
            started: HashMap::new(),
            overhead: 0,
            early: 0,
            translator: (far == Protocol::Native).then(Box::default),
        })
    }
}

impl Shard {
    // --- opening ---

    /// A peer opens a stream.
    pub(super) fn on_dialogue_offered(&mut self, me: SessionRef, dialogue: DialogueId, data: &Data<&[u8]>) {
        let (now, room) = (self.now.micros, self.shared.has_room());
        let deadline = self.shared.settings.deadline(now, 0);
        let Some(session) = self.sessions.get_mut(me) else { return };
        if session.phase != Phase::Ready {
            return;
        }
        let at = LegRef { session: me, stream: LegId(dialogue.0) };
        let mut leg = Leg::new(LegState::Waiting, None, 0, deadline.saturating_add(1_000_000), now);
        leg.dialogue = Some(Dialogue::new(Protocol::Geminio));
        session.legs.get_or_insert_default().insert(at.stream, leg);
        let (sender, of_service) = (session.sender(), session.service.is_some());
        self.stats.legs.add(1);
        if !room {
            return self.refuse(at, ErrorCode::Overloaded, "gateway out of memory budget");
        }
        let meta = data::decode(data.meta());
        let edge = if of_service { data.peer().parse().ok() } else { Some(0) };
        let Some(edge) = edge else {
            return self.refuse(at, ErrorCode::InvalidArgument, "a service addresses an edge by its id");
        };
        if meta.len() > self.shared.settings.meta {
            return self.refuse(at, META_TOO_LONG.0, META_TOO_LONG.1);
        }
        let name = if of_service { "" } else { data.peer() };
        let builder = CallBuilder::new(name).edge(edge).meta(&meta);
        let mut head = Vec::with_capacity(builder.encoded_len());
        builder.encode(&mut head);
        if head.len() > usize::from(self.shared.settings.head) {
            return self.refuse(at, HEAD_TOO_LONG.0, HEAD_TOO_LONG.1);
        }
        let mut call = CallHead::default();
        (call.name, call.edge) = (name, edge);
        let target = self.route_stream(me, &call);
        let (head, protocol) = (head.into(), Protocol::Geminio);
        let destination = destination(sender, OpKind::Stream, &call);
        let open = OpenLeg { from: at, sender, head, deadline, protocol, destination, hops: 0 };
        self.pass_open(target, open);
    }

    /// Offers a stream to a geminio session.
    pub(in crate::core::shard) fn offer_dialogue(
        &mut self,
        target: SessionRef,
        open: &OpenLeg,
    ) -> Result<LegRef, Refused> {
        let now = self.now.micros;
        let call = CallHead::parse(&open.head).map_err(|_| (ErrorCode::Internal, "malformed head"))?;
        let closed = (ErrorCode::SessionClosed, "session closed");
        let session = self.sessions.get_mut(target).ok_or(closed)?;
        let conn = session.conn.geminio().ok_or(closed)?;
        let (Sender::Edge(id) | Sender::Service(id)) = open.sender;
        let opener = open.from.session.to_bits();
        let opened = conn.open_for(opener, &id.to_string(), Content::Plain(call.meta), now);
        let dialogue = opened.map_err(|error| match error {
            OpenError::Closed => closed,
            OpenError::TooMany => (ErrorCode::Overloaded, "receiver has too many streams"),
            OpenError::Silent => {
                (ErrorCode::Overloaded, "receiver has too many streams that it does not use")
            }
        })?;
        let at = LegRef { session: target, stream: LegId(dialogue.0) };
        let state = LegState::Offered(FrameReader::new());
        let mut leg = Leg::new(state, Some(open.from), 0, open.deadline, now);
        leg.dialogue = Some(Dialogue::new(open.protocol));
        session.legs.get_or_insert_default().insert(at.stream, leg);
        self.stats.legs.add(1);
        self.wake_at(target, open.deadline);
        self.touch(target);
        Ok(at)
    }

    /// The peer has taken a stream into its queue.
    pub(super) fn on_dialogue_opened(&mut self, me: SessionRef, dialogue: DialogueId) {
        let (now, at) = (self.now.micros, LegRef { session: me, stream: LegId(dialogue.0) });
        let Some(leg) = self.leg(at) else { return };
        let (Some(peer), LegState::Offered(_)) = (leg.peer, &leg.state) else { return self.abort(at) };
        let micros = now.saturating_sub(leg.started);
        self.set_open(at);
        self.stats.operations[OpKind::Stream as usize].record(None, micros);
        let mut frame = BytesMut::new();
        // Without head and body it fits.
        let _ = FrameHeader::new(FrameType::OpenAck, 0).put_frame(&mut frame, &[], &[]);
        self.tell(peer, LegMsg::Accepted(frame.freeze(), Protocol::Geminio));
    }

    /// The peer did not take a stream, or not in time.
    pub(super) fn on_dialogue_failed(&mut self, me: SessionRef, dialogue: DialogueId) {
        let at = LegRef { session: me, stream: LegId(dialogue.0) };
        let Some(leg) = self.take_leg(at) else { return };
        self.far_end_lost(&leg, (ErrorCode::DeadlineExceeded, "stream not accepted in time"));
    }

    /// Tells a geminio opener that nobody accepts its stream.
    pub(in crate::core::shard) fn refuse_dialogue(&mut self, at: LegRef) {
        self.remove_leg(at);
        if let Some(conn) = self.sessions.get_mut(at.session).and_then(|session| session.conn.geminio()) {
            conn.refuse(DialogueId(at.stream.0));
        }
        self.touch(at.session);
    }

    // --- from the peer ---

    /// Raw bytes of the peer.
    pub(super) fn on_raw(&mut self, me: SessionRef, dialogue: DialogueId, piece: Piece<&[u8]>) {
        let at = LegRef { session: me, stream: LegId(dialogue.0) };
        let len = piece.len();
        let open = self.leg(at).is_some_and(|leg| matches!(leg.state, LegState::Open));
        let peer = self.leg(at).and_then(|leg| leg.peer);
        let (Some(peer), true) = (peer, open) else { return self.give_back(at, len) };
        let bytes = match piece {
            Piece::Input(slice) => self.copy(slice),
            Piece::Owned(bytes) => bytes,
        };
        match self.dialogue(at).map(|dialogue| dialogue.far) {
            Some(Protocol::Native) => self.send_data(at, peer, bytes),
            Some(Protocol::Geminio) | None => self.tell(peer, LegMsg::Data(bytes)),
        }
    }

    /// A call or message on a stream.
    pub(super) fn on_dialogue_operation(
        &mut self,
        me: SessionRef,
        operation: Operation<&[u8]>,
        kind: OpKind,
    ) {
        let at = LegRef { session: me, stream: LegId(operation.dialogue.0) };
        let (timeout, _) = self.geminio_timeout(&operation.data);
        let deadline = self.now.micros + timeout;
        let open = self.leg(at).is_some_and(|leg| matches!(leg.state, LegState::Open));
        let (Some(peer), true) = (self.leg(at).and_then(|leg| leg.peer), open) else {
            return self.respond_error(me, operation.id, ErrorCode::SessionClosed, "session closed");
        };
        let len = base64::decoded_len(operation.data.value());
        let room = self.sessions.get(me).map(|session| room_for_body(&self.shared, session, len));
        if let Some(Err((code, why))) = room {
            return self.respond_error(me, operation.id, code, why);
        }
        let Some(dialogue) = self.dialogue(at) else { return };
        let method =
            if kind == OpKind::Call { Bytes::copy_from_slice(operation.data.key()) } else { Bytes::new() };
        dialogue.started.insert(operation.id, method);
        if dialogue.far == Protocol::Native {
            return self.send_operation(at, peer, &operation, kind, timeout);
        }
        let data = &operation.data;
        let operation = DialogueOperation {
            id: operation.id,
            kind,
            key: Bytes::copy_from_slice(data.key()),
            value: data.shared_value(),
            topic: data.topic().into(),
            custom: Bytes::copy_from_slice(data.custom()),
            context: data.deadline(),
            deadline,
        };
        self.tell(peer, LegMsg::Operation(Box::new(operation)));
    }

    /// The answer to an operation that the far end has sent.
    pub(super) fn on_dialogue_answer(
        &mut self,
        me: SessionRef,
        dialogue: DialogueId,
        packet: u64,
        data: &Data<&[u8]>,
    ) {
        let at = LegRef { session: me, stream: LegId(dialogue.0) };
        let Some(pending) = self.dialogue(at).and_then(|dialogue| dialogue.take_pending(packet)) else {
            return self.stats.late_answers.add(1);
        };
        let answer = DialogueAnswer {
            id: pending.id,
            key: Bytes::copy_from_slice(data.key()),
            value: if data.error().is_empty() { data.shared_value() } else { Bytes::new() },
            error: data.error().into(),
        };
        self.pass_answer(at, pending.kind, answer);
    }

    /// An answer to the far end, in its protocol.
    fn pass_answer(&mut self, at: LegRef, kind: OpKind, answer: DialogueAnswer) {
        let Some(peer) = self.leg(at).and_then(|leg| leg.peer) else { return };
        match self.dialogue(at).map(|dialogue| dialogue.far) {
            Some(Protocol::Native) => self.send_answer(at, peer, kind, &answer),
            Some(Protocol::Geminio) | None => self.tell(peer, LegMsg::Answer(Box::new(answer))),
        }
    }

    /// An operation of the far end has failed here.
    pub(super) fn fail_dialogue_operation(
        &mut self,
        at: LegRef,
        id: u64,
        kind: OpKind,
        code: ErrorCode,
        why: &str,
    ) {
        let answer =
            DialogueAnswer { id, key: Bytes::new(), value: Bytes::new(), error: text(code, why).into() };
        self.pass_answer(at, kind, answer);
    }

    /// The peer does not wait any more for the answer to an operation on one of its streams.
    pub(super) fn on_dialogue_cancel(&mut self, me: SessionRef, operation: u64) {
        let legs = self.sessions.get(me).and_then(|session| session.legs.as_ref());
        let found = legs.and_then(|legs| {
            let has = |leg: &Leg| leg.dialogue.as_ref().is_some_and(|d| d.started.contains_key(&operation));
            legs.iter().find(|(_, leg)| has(leg)).map(|(stream, leg)| (stream, leg.peer))
        });
        let Some((stream, Some(peer))) = found else { return };
        let at = LegRef { session: me, stream };
        let Some(dialogue) = self.dialogue(at) else { return };
        dialogue.started.remove(&operation);
        if dialogue.far == Protocol::Native {
            self.send_cancel(at, peer, operation);
        } else {
            self.tell(peer, LegMsg::CancelOperation(operation));
        }
        self.respond_error(me, operation, ErrorCode::Cancelled, "cancelled");
    }

    /// The answer to a call on some stream was too long; it was skipped.
    pub(super) fn on_dialogue_answer_too_large(&mut self, me: SessionRef, packet: u64) {
        let legs = self.sessions.get(me).and_then(|session| session.legs.as_ref());
        let has = |leg: &Leg| leg.dialogue.as_ref().is_some_and(|d| d.pending.contains_key(&packet));
        let found = legs.and_then(|legs| legs.iter().find(|(_, leg)| has(leg)).map(|(stream, _)| stream));
        let Some(stream) = found else { return self.stats.late_answers.add(1) };
        let at = LegRef { session: me, stream };
        let Some(pending) = self.dialogue(at).and_then(|dialogue| dialogue.take_pending(packet)) else {
            return;
        };
        self.fail_dialogue_operation(at, pending.id, pending.kind, ErrorCode::PayloadTooLarge, "");
    }

    /// What the peer wrote on a stream was not taken for so long that nothing else of the session was read: the stream ends, so that the
    /// session goes on.
    pub(super) fn on_dialogue_stalled(&mut self, me: SessionRef, dialogue: DialogueId) {
        let at = LegRef { session: me, stream: LegId(dialogue.0) };
        let reader = self.leg(at).and_then(|leg| leg.peer).map(|peer| peer.session);
        self.stats.stalled_streams.add(1);
        self.log_stalled(me, reader);
        self.abort(at);
    }

    /// A stream has ended at the peer, and everything that it sent on it has come.
    pub(super) fn on_dialogue_closed(&mut self, me: SessionRef, dialogue: DialogueId) {
        let at = LegRef { session: me, stream: LegId(dialogue.0) };
        let Some(leg) = self.take_leg(at) else { return };
        match (leg.peer, &leg.state) {
            (Some(peer), LegState::Open) => self.tell(peer, LegMsg::Closed),
            _ => self.far_end_lost(&leg, (ErrorCode::SessionClosed, "stream closed before it was accepted")),
        }
    }

    // --- from the far end ---

    /// Something from the other leg of a dialogue.
    pub(in crate::core::shard) fn on_dialogue_leg(&mut self, at: LegRef, what: LegMsg) {
        let (now, id) = (self.now.micros, DialogueId(at.stream.0));
        match what {
            LegMsg::Accepted(_, far) => self.on_far_accepted(at, far),
            LegMsg::Refused(_) => self.refuse_dialogue(at),
            LegMsg::Data(bytes) if self.dialogue(at).is_some_and(|d| d.far == Protocol::Native) => {
                self.on_frames(at, bytes);
            }
            LegMsg::Data(bytes) => self.send_raw(at, bytes),
            LegMsg::Finish => {
                if let Some(leg) = self.leg(at) {
                    leg.finished_out = true;
                }
                if let Some(conn) =
                    self.sessions.get_mut(at.session).and_then(|session| session.conn.geminio())
                {
                    conn.finish(id, now);
                }
            }
            LegMsg::Closed | LegMsg::Reset => {
                self.remove_leg(at);
                if let Some(conn) =
                    self.sessions.get_mut(at.session).and_then(|session| session.conn.geminio())
                {
                    conn.close(id, now);
                }
            }
            LegMsg::Release(n) => self.release_dialogue(at, n as usize),
            LegMsg::Operation(operation) => self.on_far_operation(at, &operation),
            LegMsg::Answer(answer) => {
                if let Some(dialogue) = self.dialogue(at) {
                    dialogue.started.remove(&answer.id);
                }
                self.answer_peer(at.session, &answer);
            }
            LegMsg::CancelOperation(operation) => self.cancel_far_operation(at, operation),
        }
        self.touch(at.session);
    }

    fn on_far_accepted(&mut self, at: LegRef, far: Protocol) {
        self.set_open(at);
        if let Some(dialogue) = self.dialogue(at) {
            dialogue.far = far;
            dialogue.translator = (far == Protocol::Native).then(Box::default);
        }
        let conn = self.sessions.get_mut(at.session).and_then(|session| session.conn.geminio());
        if !conn.is_some_and(|conn| conn.accept(DialogueId(at.stream.0))) {
            self.abort(at);
        }
    }

    /// Raw bytes for the peer.
    pub(super) fn send_raw(&mut self, at: LegRef, bytes: Bytes) {
        let len = bytes.len();
        let conn = self.sessions.get_mut(at.session).and_then(|session| session.conn.geminio());
        let sent = conn.is_some_and(|conn| conn.send_raw(DialogueId(at.stream.0), bytes, true));
        if !sent {
            // Nobody reads them; their writer must not wait.
            self.on_stream_written(at.session, at.stream, u32::try_from(len).unwrap_or(u32::MAX));
        }
    }

    fn on_far_operation(&mut self, at: LegRef, operation: &DialogueOperation) {
        let object = Object {
            key: Content::Encoded(&operation.key),
            value: Content::Shared(operation.value.clone()),
            topic: &operation.topic,
            custom: Content::Encoded(&operation.custom),
            context: operation.context,
            ..Object::default()
        };
        self.ask_peer(at, operation.id, operation.kind, &object, operation.deadline);
    }

    /// Sends an operation to the peer, which is to answer it.
    pub(super) fn ask_peer(&mut self, at: LegRef, id: u64, kind: OpKind, object: &Object<'_>, deadline: u64) {
        let (limit, now) = (self.shared.settings.outbox, self.now.micros);
        let dialogue = DialogueId(at.stream.0);
        let len = object.value.encoded_len();
        let held = self.sessions.get(at.session).map_or(0, |session| session.held as usize);
        if !self.shared.admits(held, len) {
            return self.fail_dialogue_operation(at, id, kind, OUT_OF_BUDGET.0, OUT_OF_BUDGET.1);
        }
        let Some(conn) = self.sessions.get_mut(at.session).and_then(|session| session.conn.geminio()) else {
            return;
        };
        let waiting = conn.operation_bytes();
        let full = waiting > 0 && waiting + len > limit;
        let sent = match kind {
            _ if full => Err(SendError::Overloaded),
            OpKind::Message => conn.publish(dialogue, at.stream.0, object, now).map(|sent| sent.packet),
            OpKind::Call | OpKind::Stream => conn.request(dialogue, object),
        };
        match sent {
            Ok(packet) => {
                if let Some(dialogue) = self.dialogue(at) {
                    dialogue.pending.insert(packet, Pending { id, kind, deadline });
                    dialogue.deadlines.add(deadline, packet);
                }
                self.wake_at(at.session, deadline);
            }
            Err(error) => {
                let code = match error {
                    SendError::Closed => ErrorCode::SessionClosed,
                    SendError::Overloaded => ErrorCode::Overloaded,
                    SendError::TooLarge(_) => ErrorCode::PayloadTooLarge,
                };
                self.fail_dialogue_operation(at, id, kind, code, "");
            }
        }
        self.touch(at.session);
    }

    /// Answers an operation of the peer.
    pub(super) fn answer_peer(&mut self, me: SessionRef, answer: &DialogueAnswer) {
        let limit = self.shared.settings.outbox;
        let Some(conn) = self.sessions.get_mut(me).and_then(|session| session.conn.geminio()) else { return };
        let (waiting, len) = (conn.operation_bytes(), answer.value.len());
        if waiting > 0 && len > ANSWER_ALWAYS && waiting + len > limit {
            return self.respond_error(me, answer.id, ErrorCode::Overloaded, "answer does not fit");
        }
        let object = Object {
            key: Content::Encoded(&answer.key),
            value: Content::Shared(answer.value.clone()),
            error: &answer.error,
            ..Object::default()
        };
        conn.respond(answer.id, &object);
        self.touch(me);
        self.note_crowd(me);
    }

    /// The far end does not wait any more for the answer to its operation.
    pub(super) fn cancel_far_operation(&mut self, at: LegRef, id: u64) {
        let Some(dialogue) = self.dialogue(at) else { return };
        let found = dialogue
            .pending
            .iter()
            .find(|(_, pending)| pending.id == id)
            .map(|(packet, p)| (*packet, p.kind));
        let Some((packet, kind)) = found else { return };
        dialogue.take_pending(packet);
        self.withdraw(at, packet, kind);
    }

    fn withdraw(&mut self, at: LegRef, packet: u64, kind: OpKind) {
        let Some(conn) = self.sessions.get_mut(at.session).and_then(|session| session.conn.geminio()) else {
            return;
        };
        let dialogue = DialogueId(at.stream.0);
        match kind {
            OpKind::Message => drop(conn.take_back(dialogue, packet)),
            OpKind::Call | OpKind::Stream => drop(conn.cancel(dialogue, packet)),
        }
    }

    // --- flow and time ---

    /// The far end is done with bytes that were passed on.
    pub(in crate::core::shard) fn release_dialogue(&mut self, at: LegRef, n: usize) {
        let Some(dialogue) = self.dialogue(at) else { return };
        // Which of them were the peer's own makes no difference in the long run.
        let extra = n.min(dialogue.overhead);
        dialogue.overhead -= extra;
        self.give_back(at, n - extra);
    }

    /// The peer may send as many raw bytes more.
    fn give_back(&mut self, at: LegRef, n: usize) {
        let now = self.now.micros;
        if let Some(conn) = self.sessions.get_mut(at.session).and_then(|session| session.conn.geminio()) {
            conn.release(DialogueId(at.stream.0), n, now);
        }
        self.touch(at.session);
    }

    /// Fails what is overdue on streams; returns when the next deadline is.
    pub(in crate::core::shard) fn expire_dialogues(&mut self, me: SessionRef) -> u64 {
        let now = self.now.micros;
        let Some(legs) = self.sessions.get(me).and_then(|session| session.legs.as_ref()) else {
            return u64::MAX;
        };
        let dialogues = legs.iter().filter_map(|(stream, leg)| Some((stream, leg.dialogue.as_ref()?)));
        let due = dialogues.filter(|(_, dialogue)| dialogue.deadlines.next() <= now);
        let mut due: SmallVec<[LegId; 4]> = due.map(|(stream, _)| stream).collect();
        due.sort_unstable();
        for stream in due {
            let at = LegRef { session: me, stream };
            while let Some(dialogue) = self.dialogue(at)
                && let Some(packet) = dialogue.deadlines.pop(now)
            {
                let Some(pending) = dialogue.take_pending(packet) else { continue };
                self.withdraw(at, packet, pending.kind);
                let code = ErrorCode::DeadlineExceeded;
                self.fail_dialogue_operation(at, pending.id, pending.kind, code, "deadline exceeded");
            }
        }
        let legs = self.sessions.get(me).and_then(|session| session.legs.as_ref());
        let dialogues =
            legs.into_iter().flat_map(|legs| legs.iter()).filter_map(|(_, leg)| leg.dialogue.as_ref());
        dialogues.map(|dialogue| dialogue.deadlines.next()).min().unwrap_or(u64::MAX)
    }

    /// What only a dialogue has of a leg.
    pub(super) fn dialogue(&mut self, at: LegRef) -> Option<&mut Dialogue> {
        self.leg(at)?.dialogue.as_deref_mut()
    }
}
