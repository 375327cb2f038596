//! User streams: two legs, one at each session, joined once the far end has accepted.
//!
//! Until then the gateway reads frames (Open, OpenAck); afterwards it passes bytes on without looking. Bytes are granted back to
//! their writer when they were written to the reader's socket, so the gateway holds at most a window per direction.

use bytes::{BufMut, Bytes, BytesMut};
use frontier_wire::{
    chunk::Chunk,
    error::ErrorCode,
    native::{
        frame::{FrameHeader, FrameType, HEADER_LEN},
        head::{
            CallHead, ReplyHead, Sender, append_forwarded, encode_error_reply, error_reply_len, forwarded_len,
        },
        limits::FrameLimits,
        reader::{Frame, FrameReader, Piece},
    },
    yamux::StreamId,
};

use super::{
    Fault, Shard,
    ops::{HEAD_TOO_LONG, INBOX_FULL, META_TOO_LONG, OUT_OF_BUDGET, PlaceError, Refused, TRIES, destination},
};
use crate::core::{
    dialect::Protocol,
    message::{LegId, LegMsg, LegRef, Msg, OpenLeg},
    session::{Leg, LegState, Phase, Session},
    stats::OpKind,
    table::SessionRef,
};

/// A refused opener has so long to close its end, in microseconds.
const REFUSED_GRACE: u64 = 2_000_000;

impl Shard {
    // --- what peers do ---

    /// A peer opened a stream; Open follows on it.
    pub(super) fn on_stream_opened(&mut self, me: SessionRef, stream: StreamId) -> Result<(), Fault> {
        let room = self.shared.has_room();
        let (now, window) = (self.now.micros, self.shared.settings.stream_window);
        let deadline = now + self.shared.settings.handshake;
        let most = self.shared.settings.streams_per_session;
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        if session.phase != Phase::Ready {
            return Err(Fault::Unexpected(FrameType::Open));
        }
        let leg = Leg::new(LegState::Opening(FrameReader::new()), None, window, deadline, now);
        let leaving = session.is_leaving();
        let crowded = has_all(session, Opener::Peer, most);
        session.legs.get_or_insert_default().insert(stream.into(), leg);
        self.stats.legs.add(1);
        let at = LegRef { session: me, stream: stream.into() };
        if !room {
            self.refuse(at, OUT_OF_BUDGET.0, OUT_OF_BUDGET.1);
        } else if leaving {
            self.refuse(at, ErrorCode::SessionClosed, "the session is leaving");
        } else if crowded {
            self.refuse(at, ErrorCode::Overloaded, "too many streams of this session");
        } else {
            self.wake_at(me, deadline);
        }
        Ok(())
    }

    /// Bytes of a stream.
    pub(super) fn on_stream_data(
        &mut self,
        me: SessionRef,
        stream: StreamId,
        piece: Piece<&[u8]>,
    ) -> Result<(), Fault> {
        let at = LegRef { session: me, stream: stream.into() };
        let Some(leg) = self.leg(at) else { return Ok(()) };
        match &leg.state {
            LegState::Open => match (leg.peer, piece) {
                (Some(peer), Piece::Input(slice)) if self.is_native_here(peer) => {
                    self.push_copy(peer, slice);
                }
                (_, Piece::Input(slice)) => {
                    let bytes = self.copy(slice);
                    self.forward(at, bytes);
                }
                (_, Piece::Owned(bytes)) => self.forward(at, bytes),
            },
            LegState::Refused => self.release(at, piece.len()),
            LegState::Waiting => self.abort(at),
            LegState::Opening(_) | LegState::Offered(_) => match piece {
                Piece::Input(slice) => self.read_frame(at, slice),
                Piece::Owned(bytes) => self.read_frame(at, bytes),
            },
        }
        Ok(())
    }

    /// Open or OpenAck, and what may follow the latter.
    fn read_frame<B: Chunk>(&mut self, at: LegRef, mut input: B) {
        // Neither has a body, and nobody may make the gateway hold one.
        let limits = FrameLimits { max_body: 0, ..FrameLimits::GATEWAY };
        let len = input.len();
        let Some(leg) = self.leg(at) else { return };
        let (LegState::Opening(reader) | LegState::Offered(reader)) = &mut leg.state else { return };
        let before = reader.held();
        let frame = reader.next(&mut input, &limits);
        let after = reader.held();
        self.note_reading(at, before, after);
        self.release(at, len - input.len());
        match frame {
            Ok(None) => {}
            Err(_) => self.abort(at),
            Ok(Some(frame)) => match frame.header.kind {
                FrameType::Open if input.is_empty() => self.on_open(at, &frame),
                FrameType::OpenAck => {
                    self.on_open_ack(at, &frame);
                    if !input.is_empty() {
                        let rest = input.into_bytes();
                        self.forward(at, rest);
                    }
                }
                _ => self.abort(at),
            },
        }
    }

    /// Half-close by a peer.
    pub(super) fn on_stream_finished(&mut self, me: SessionRef, stream: StreamId) {
        let at = LegRef { session: me, stream: stream.into() };
        let Some(leg) = self.leg(at) else { return };
        leg.finished_in = true;
        let (peer, both) = (leg.peer, leg.finished_out);
        match leg.state {
            LegState::Open => {
                if let Some(peer) = peer {
                    self.tell(peer, LegMsg::Finish);
                }
                if both {
                    self.remove_leg(at);
                }
            }
            LegState::Refused => self.remove_leg(at),
            LegState::Offered(_) | LegState::Opening(_) | LegState::Waiting => self.abort(at),
        }
    }

    /// Reset by a peer; the stream is gone there.
    pub(super) fn on_stream_reset(&mut self, me: SessionRef, stream: StreamId) {
        let at = LegRef { session: me, stream: stream.into() };
        let Some(leg) = self.take_leg(at) else { return };
        self.far_end_lost(&leg, (ErrorCode::SessionClosed, "refused by reset"));
    }

    // --- opening ---

    fn on_open<B: Chunk>(&mut self, at: LegRef, frame: &Frame<B>) {
        let Ok(call) = CallHead::parse(&frame.head) else { return self.abort(at) };
        if !frame.body.is_empty() || frame.header.flags.more() {
            return self.abort(at);
        }
        let deadline = self.shared.settings.deadline(self.now.micros, call.timeout_ms);
        let Some(session) = self.sessions.get_mut(at.session) else { return };
        let sender = session.sender();
        if let Some(legs) = session.legs.as_mut()
            && let Some(leg) = legs.get_mut(at.stream)
        {
            leg.state = LegState::Waiting;
            legs.set_deadline(at.stream, deadline.saturating_add(1_000_000));
        }
        let settings = &self.shared.settings;
        if frame.head.len() > usize::from(settings.head) {
            return self.refuse(at, HEAD_TOO_LONG.0, HEAD_TOO_LONG.1);
        }
        if call.meta.len() > settings.meta {
            return self.refuse(at, META_TOO_LONG.0, META_TOO_LONG.1);
        }
        let head = Bytes::copy_from_slice(&frame.head);
        let destination = destination(sender, OpKind::Stream, &call);
        let protocol = Protocol::Native;
        let open = OpenLeg { from: at, sender, head, deadline, protocol, destination, hops: 0 };
        let target = self.route_stream(at.session, &call);
        self.pass_open(target, open);
    }

    /// Offers a stream to whom it is for.
    pub(super) fn pass_open(&mut self, target: Result<SessionRef, Refused>, open: OpenLeg) {
        match target {
            Ok(target) if target.shard == self.id => self.on_open_leg(target, open),
            Ok(target) if !self.has_mail_room(target.shard) => {
                self.refuse(open.from, INBOX_FULL.0, INBOX_FULL.1)
            }
            Ok(target) => self.post(target.shard, Msg::Open { target, open: Box::new(open) }),
            Err((code, text)) => self.refuse(open.from, code, text),
        }
    }

    /// A session shall accept a stream.
    pub(super) fn on_open_leg(&mut self, mut target: SessionRef, mut open: OpenLeg) {
        let (from, id) = (open.from, self.id);
        let (code, text) = loop {
            match self.offer(target, &open) {
                Ok(peer) if from.session.shard == id => return self.on_joined(from, peer),
                Ok(peer) => return self.post(from.session.shard, Msg::Joined { to: from, peer }),
                Err(PlaceError::Refused(refused)) => break refused,
                Err(PlaceError::Gone) => {}
            }
            // The route changed while it was on its way; nothing was sent, so another may have it.
            open.hops += 1;
            let next = if usize::from(open.hops) > TRIES {
                None
            } else {
                self.next_target(target, &open.destination, open.sender)
            };
            match (next, open.sender) {
                (Some(next), _) if next.shard == id => target = next,
                (Some(next), _) => {
                    return self.post(next.shard, Msg::Open { target: next, open: Box::new(open) });
                }
                (None, Sender::Edge(_)) => break (ErrorCode::ServiceNotOnline, "service not online"),
                (None, Sender::Service(_)) => break (ErrorCode::EdgeNotOnline, "edge not online"),
            }
        };
        if from.session.shard == id {
            self.refuse(from, code, text);
        } else {
            self.post(from.session.shard, Msg::OpenFailed { to: from, code, text });
        }
    }

    fn offer(&mut self, target: SessionRef, open: &OpenLeg) -> Result<LegRef, PlaceError> {
        let refused = |code, text| PlaceError::Refused((code, text));
        if !self.shared.has_room() {
            return Err(PlaceError::Refused(OUT_OF_BUDGET));
        }
        let (now, window) = (self.now.micros, self.shared.settings.stream_window);
        let session = self.sessions.get_mut(target).ok_or(PlaceError::Gone)?;
        if session.phase != Phase::Ready || session.is_leaving() {
            return Err(PlaceError::Gone);
        }
        let crowded = has_all(session, Opener::Gateway, self.shared.settings.streams_per_session);
        let Some(conn) = session.conn.native() else {
            return self.offer_dialogue(target, open).map_err(PlaceError::Refused);
        };
        if crowded {
            return Err(refused(ErrorCode::Overloaded, "receiver has too many streams"));
        }
        let left = u32::try_from(open.deadline.saturating_sub(now) / 1_000).unwrap_or(u32::MAX).max(1);
        let extra = forwarded_len(open.sender, left);
        let header = FrameHeader::new(FrameType::Open, 0);
        let header = header.with_lens(open.head.len() + extra, 0);
        let header = header.map_err(|_| refused(ErrorCode::PayloadTooLarge, "head too long"))?;
        let stream = conn.open_stream();
        let stream = stream.map_err(|_| refused(ErrorCode::Overloaded, "receiver has too many streams"))?;
        let mut frame = BytesMut::with_capacity(HEADER_LEN + open.head.len() + extra);
        frame.put_slice(&header.encode());
        frame.put_slice(&open.head);
        append_forwarded(&mut frame, open.sender, left);
        conn.outbox().push_stream(stream, frame.freeze(), false);
        let leg =
            Leg::new(LegState::Offered(FrameReader::new()), Some(open.from), window, open.deadline, now);
        let stream = stream.into();
        session.legs.get_or_insert_default().insert(stream, leg);
        self.stats.legs.add(1);
        self.wake_at(target, open.deadline);
        self.touch(target);
        Ok(LegRef { session: target, stream })
    }

    /// The far leg exists; its answer may come.
    pub(super) fn on_joined(&mut self, at: LegRef, peer: LegRef) {
        match self.leg(at) {
            Some(leg) => leg.peer = Some(peer),
            // The opener has gone meanwhile.
            None => self.tell(peer, LegMsg::Reset),
        }
    }

    fn on_open_ack<B: Chunk>(&mut self, at: LegRef, frame: &Frame<B>) {
        let started = match self.leg(at) {
            Some(leg) if matches!(leg.state, LegState::Offered(_)) => leg.started,
            _ => return self.abort(at),
        };
        let Ok(reply) = ReplyHead::parse(&frame.head) else { return self.abort(at) };
        let error = reply.error.map(|error| error.code);
        self.stats.operations[OpKind::Stream as usize].record(error, self.now.micros.saturating_sub(started));
        let mut bytes = BytesMut::with_capacity(frame.header.frame_len());
        bytes.put_slice(&frame.header.encode());
        bytes.put_slice(&frame.head);
        bytes.put_slice(&frame.body);
        let bytes = bytes.freeze();
        let Some(peer) = self.leg(at).and_then(|leg| leg.peer) else { return self.abort(at) };
        if error.is_none() {
            self.set_open(at);
            return self.tell(peer, LegMsg::Accepted(bytes, Protocol::Native));
        }
        // The acceptor closes its end itself; ours goes with the OpenAck.
        if self.take_leg(at).is_some()
            && let Some(session) = self.sessions.get_mut(at.session)
        {
            session.conn.reset_stream(at.stream, self.now.micros);
        }
        self.touch(at.session);
        self.tell(peer, LegMsg::Refused(bytes));
    }

    /// Tells an opener that nobody accepts its stream.
    pub(super) fn refuse(&mut self, at: LegRef, code: ErrorCode, text: &'static str) {
        let now = self.now.micros;
        let micros = self.leg(at).map_or(0, |leg| now.saturating_sub(leg.started));
        self.stats.operations[OpKind::Stream as usize].record(Some(code), micros);
        let mut head = Vec::with_capacity(error_reply_len(code, text));
        encode_error_reply(&mut head, code, text);
        let mut frame = BytesMut::with_capacity(HEADER_LEN + head.len());
        if let Ok(()) = FrameHeader::new(FrameType::OpenAck, 0).put_frame(&mut frame, &head, &[]) {
            self.on_refused(at, frame.freeze());
        }
    }

    fn on_refused(&mut self, at: LegRef, frame: Bytes) {
        let deadline = self.now.micros + REFUSED_GRACE;
        let Some(leg) = self.leg(at) else { return };
        if leg.dialogue.is_some() {
            return self.refuse_dialogue(at);
        }
        let before = leg.state.held();
        leg.state = LegState::Refused;
        leg.peer = None;
        leg.finished_out = true;
        self.note_reading(at, before, 0);
        if let Some(session) = self.sessions.get_mut(at.session) {
            if let Some(legs) = session.legs.as_mut() {
                legs.set_deadline(at.stream, deadline);
            }
            session.conn.push_stream(at.stream, frame, false);
            session.conn.finish_stream(at.stream, self.now.micros);
        }
        self.wake_at(at.session, deadline);
        self.touch(at.session);
    }

    // --- bytes ---

    fn forward(&mut self, at: LegRef, bytes: Bytes) {
        let Some(peer) = self.leg(at).and_then(|leg| leg.peer) else {
            return self.release(at, bytes.len());
        };
        self.tell(peer, LegMsg::Data(bytes));
    }

    /// Something from the other leg.
    pub(super) fn on_leg(&mut self, at: LegRef, what: LegMsg) {
        let Some(leg) = self.leg(at) else {
            // A leg that has ended: its far end must not wait for it. A release or a finish needs no answer.
            return;
        };
        if leg.dialogue.is_some() {
            return self.on_dialogue_leg(at, what);
        }
        match what {
            LegMsg::Accepted(frame, _) => {
                self.set_open(at);
                self.push(at, frame, false);
            }
            LegMsg::Refused(frame) => self.on_refused(at, frame),
            LegMsg::Data(bytes) => self.push(at, bytes, true),
            LegMsg::Finish => {
                leg.finished_out = true;
                let both = leg.finished_in;
                if let Some(session) = self.sessions.get_mut(at.session) {
                    session.conn.finish_stream(at.stream, self.now.micros);
                }
                if both {
                    self.remove_leg(at);
                }
                self.touch(at.session);
            }
            LegMsg::Closed => self.on_far_closed(at),
            // Between dialogues alone.
            LegMsg::Operation(_) | LegMsg::Answer(_) | LegMsg::CancelOperation(_) => {}
            LegMsg::Reset => self.reset_leg(at),
            LegMsg::Release(n) => self.release(at, n as usize),
        }
    }

    /// The far end has closed both its directions, after everything that came before.
    fn on_far_closed(&mut self, at: LegRef) {
        let Some(leg) = self.leg(at) else { return };
        let over = leg.finished_in;
        // What its peer still sends reaches nobody.
        (leg.state, leg.peer, leg.finished_out) = (LegState::Refused, None, true);
        if let Some(session) = self.sessions.get_mut(at.session) {
            session.conn.finish_stream(at.stream, self.now.micros);
        }
        if over {
            self.remove_leg(at);
        }
        self.touch(at.session);
    }

    fn push(&mut self, at: LegRef, bytes: Bytes, report: bool) {
        if let Some(session) = self.sessions.get_mut(at.session) {
            session.conn.push_stream(at.stream, bytes, report);
        }
        self.touch(at.session);
    }

    /// Whether a leg is of this shard and passes on bytes as they are.
    fn is_native_here(&mut self, at: LegRef) -> bool {
        at.session.shard == self.id && self.leg(at).is_none_or(|leg| leg.dialogue.is_none())
    }

    /// Bytes of a stream for a leg of this shard, which are copied behind what waits there.
    fn push_copy(&mut self, at: LegRef, bytes: &[u8]) {
        if self.leg(at).is_none() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(at.session) {
            session.conn.copy_to_stream(at.stream, bytes, true);
        }
        self.touch(at.session);
    }

    /// Bytes of a stream were written to the reader's socket: its writer may send as many more.
    pub(super) fn on_stream_written(&mut self, me: SessionRef, stream: LegId, n: u32) {
        let Some(leg) = self.leg(LegRef { session: me, stream }) else { return };
        let early = leg.dialogue.as_mut().map_or(0, |dialogue| dialogue.take_early(n));
        if let Some(peer) = leg.peer
            && n > early
        {
            self.tell(peer, LegMsg::Release(n - early));
        }
    }

    /// Gives bytes back to a writer, and more of them if it used up its window and the reader keeps up.
    pub(super) fn release(&mut self, at: LegRef, n: usize) {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        let max = self.shared.settings.stream_window_max;
        let room = self.shared.has_room();
        let Some(session) = self.sessions.get_mut(at.session) else { return };
        let Some(conn) = session.conn.native() else { return self.release_dialogue(at, n as usize) };
        let Some(stream) = at.stream.yamux() else { return };
        conn.release(stream, n);
        if let Some(leg) = session.legs.as_mut().and_then(|legs| legs.get_mut(at.stream)) {
            leg.released = leg.released.saturating_add(n);
            if leg.released >= leg.window && leg.window < max && room {
                leg.released = 0;
                leg.window = leg.window.saturating_mul(2).min(max);
                conn.engine_mut().grow(stream, leg.window);
            }
        }
        self.touch(at.session);
    }

    // --- ending ---

    /// A stream cannot go on: reset on this side, and whatever fits on the other.
    pub(super) fn abort(&mut self, at: LegRef) {
        let Some(leg) = self.take_leg(at) else { return };
        if let Some(session) = self.sessions.get_mut(at.session) {
            session.conn.reset_stream(at.stream, self.now.micros);
        }
        self.touch(at.session);
        self.far_end_lost(&leg, (ErrorCode::SessionClosed, "stream closed before it was accepted"));
    }

    /// Tells the other leg that this one is gone.
    pub(super) fn far_end_lost(&mut self, leg: &Leg, why: Refused) {
        let Some(peer) = leg.peer else { return };
        match leg.state {
            // The opener still waits for an OpenAck.
            LegState::Offered(_) if peer.session.shard == self.id => self.refuse(peer, why.0, why.1),
            LegState::Offered(_) => {
                self.post(peer.session.shard, Msg::OpenFailed { to: peer, code: why.0, text: why.1 });
            }
            LegState::Open | LegState::Waiting => self.tell(peer, LegMsg::Reset),
            LegState::Opening(_) | LegState::Refused => {}
        }
    }

    fn reset_leg(&mut self, at: LegRef) {
        if self.take_leg(at).is_some() {
            if let Some(session) = self.sessions.get_mut(at.session) {
                session.conn.reset_stream(at.stream, self.now.micros);
            }
            self.touch(at.session);
        }
    }

    /// The streams of a session that ends.
    pub(super) fn end_legs(&mut self, me: SessionRef) {
        let Some(legs) = self.sessions.get_mut(me).and_then(|session| session.legs.take()) else { return };
        self.stats.legs.sub(legs.len() as u64);
        let mut legs: Vec<(LegId, Leg)> = legs.into_legs().collect();
        legs.sort_unstable_by_key(|(stream, _)| *stream);
        for (stream, leg) in legs {
            if let Some(session) = self.sessions.get_mut(me) {
                session.conn.drop_stream(stream);
            }
            self.far_end_lost(&leg, (ErrorCode::SessionClosed, "session closed"));
        }
    }

    /// Ends streams that were not answered in time; returns when the next one is due.
    pub(super) fn expire_legs(&mut self, me: SessionRef) -> u64 {
        let now = self.now.micros;
        while let Some(session) = self.sessions.get_mut(me)
            && let Some(stream) = session.legs.as_mut().and_then(|legs| legs.overdue(now))
        {
            let at = LegRef { session: me, stream };
            let Some(leg) = self.take_leg(at) else { continue };
            if let Some(session) = self.sessions.get_mut(me) {
                session.conn.reset_stream(stream, now);
            }
            self.far_end_lost(&leg, (ErrorCode::DeadlineExceeded, "deadline exceeded"));
        }
        let legs = self.sessions.get(me).and_then(|session| session.legs.as_ref());
        legs.map_or(u64::MAX, |legs| legs.next_deadline())
    }

    // --- tables ---

    pub(super) fn leg(&mut self, at: LegRef) -> Option<&mut Leg> {
        self.sessions.get_mut(at.session)?.legs.as_mut()?.get_mut(at.stream)
    }

    /// What a leg holds of a frame that is not complete has changed.
    fn note_reading(&mut self, at: LegRef, before: usize, after: usize) {
        let Some(session) = self.sessions.get_mut(at.session) else { return };
        if let Some(legs) = session.legs.as_mut() {
            legs.reading = legs.reading + after - before;
        }
    }

    /// The far end has accepted: bytes may go both ways, for as long as they like.
    pub(super) fn set_open(&mut self, at: LegRef) {
        let Some(session) = self.sessions.get_mut(at.session) else { return };
        let Some(legs) = session.legs.as_mut() else { return };
        if let Some(leg) = legs.get_mut(at.stream) {
            leg.state = LegState::Open;
            legs.set_deadline(at.stream, u64::MAX);
        }
    }

    pub(super) fn take_leg(&mut self, at: LegRef) -> Option<Leg> {
        let legs = self.sessions.get_mut(at.session)?.legs.as_mut()?;
        let leg = legs.remove(at.stream)?;
        legs.reading -= leg.state.held();
        self.stats.legs.sub(1);
        Some(leg)
    }

    pub(super) fn remove_leg(&mut self, at: LegRef) {
        drop(self.take_leg(at));
    }

    pub(super) fn tell(&mut self, to: LegRef, what: LegMsg) {
        if to.session.shard == self.id {
            self.on_leg(to, what);
        } else {
            self.post(to.session.shard, Msg::Leg { to, what });
        }
    }
}

// === impl Leg ===

impl Leg {
    pub(super) fn new(
        state: LegState,
        peer: Option<LegRef>,
        window: u32,
        deadline: u64,
        started: u64,
    ) -> Self {
        Self {
            state,
            peer,
            finished_in: false,
            finished_out: false,
            window,
            released: 0,
            deadline,
            started,
            dialogue: None,
        }
    }
}

/// Who opened a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opener {
    Peer,
    Gateway,
}

/// Whether one side has as many streams open on a native session as it may. Refused ones do not count: whoever opened them may have
/// gone on already.
fn has_all(session: &Session, opener: Opener, most: u32) -> bool {
    let Some(legs) = session.legs.as_ref().filter(|legs| legs.len() >= most as usize) else { return false };
    // The dialer's yamux streams are odd.
    let opened = |id: &LegId| if id.0 % 2 == 1 { Opener::Peer } else { Opener::Gateway };
    let open =
        legs.iter().filter(|(id, leg)| opened(id) == opener && !matches!(leg.state, LegState::Refused));
    open.count() >= most as usize
}
