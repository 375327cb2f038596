//! What packets of the peer do.

use std::mem;

use super::{Connection, Ending, Event, Fault, Micros, Operation, Phase, Role};
use crate::{
    chunk::{Chunk, Piece},
    error::ErrorCode,
    geminio::{
        data::{Data, Object},
        dialogue::{Dialogue, DialogueId, State},
        operations::Unanswered,
        packet::{ACQUIRE, FIRST_SESSION, PacketHeader, PacketType},
        reader::{Item, Packet},
        text,
    },
};

pub(super) const FORCE_CLOSED: &str = text::of(ErrorCode::SessionClosed);
const TOO_LARGE: &str = text::of(ErrorCode::PayloadTooLarge);
const OVERLOADED: &str = text::of(ErrorCode::Overloaded);

/// Seconds between heartbeats, by the code in Conn's flags.
const INTERVALS: [u64; 4] = [5, 20, 80, 320];

type Step<B> = Result<Option<Event<B>>, Fault>;

impl Connection {
    /// Takes the next event out of the input; `None` when it is used up.
    ///
    /// # Errors
    /// When the peer breaks the protocol: close the socket, without further packets.
    pub fn receive<B: Chunk>(&mut self, input: &mut B, now: Micros) -> Step<B> {
        if !input.is_empty() {
            self.last_rx = now;
        }
        while !self.is_over() {
            let limits = self.limits.packet;
            let Some(item) = self.reader.next(input, &limits)? else { return Ok(None) };
            if let Some(event) = self.item(item, now)? {
                return Ok(Some(event));
            }
        }
        let rest = input.len();
        input.skip(rest);
        Ok(None)
    }

    /// The driver appended to the direct buffer.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn finish_direct<B: Chunk>(&mut self, now: Micros) -> Step<B> {
        self.last_rx = now;
        match self.reader.finish_direct() {
            Some(item) if !self.is_over() => self.item(item, now),
            Some(_) | None => Ok(None),
        }
    }

    fn item<B: Chunk>(&mut self, item: Item<B>, now: Micros) -> Step<B> {
        match item {
            Item::Packet(packet) => self.packet(packet, now),
            Item::Raw { session, bytes } => Ok(self.raw(session, bytes, now)),
            Item::TooLarge { header, session } => self.too_large(header, session, now),
        }
    }

    fn packet<B: Chunk>(&mut self, packet: Packet<B>, now: Micros) -> Step<B> {
        let kind = packet.header.kind;
        match (self.phase, kind) {
            (Phase::Greeting, PacketType::Conn) if self.role == Role::Server => self.on_conn(packet),
            (Phase::Greeting, PacketType::ConnAck) if self.role == Role::Client => {
                self.on_conn_ack(packet, now)
            }
            (Phase::Greeting, PacketType::DisConn | PacketType::DisConnAck)
            | (Phase::Deciding | Phase::Ready, PacketType::DisConnAck) => Err(Fault::Unexpected(kind)),
            // A client that waits for its answer says nothing, or that it gives up.
            (Phase::Deciding, PacketType::DisConn) => Ok(Some(self.over(Ending::Agreed))),
            (Phase::Greeting | Phase::Deciding | Phase::Lingering | Phase::Over, _) => Ok(None),
            (Phase::Ready, _) if now < self.hold_until => Ok(None),
            (Phase::Ready | Phase::Closing, PacketType::DisConn) => self.on_dis_conn(&packet, now),
            (Phase::Closing, PacketType::DisConnAck) => self.on_dis_conn_ack(),
            (Phase::Closing, _) => self.on_late(&packet),
            (Phase::Ready, _) => {
                let step = self.on_packet(packet, now);
                if kind == PacketType::Session || kind != PacketType::Stream && matches!(step, Ok(None)) {
                    self.control = self.control.saturating_add(1);
                }
                step
            }
        }
    }

    fn on_packet<B: Chunk>(&mut self, packet: Packet<B>, now: Micros) -> Step<B> {
        let kind = packet.header.kind;
        match kind {
            PacketType::Conn if self.role == Role::Server => Err(Fault::Unexpected(kind)),
            PacketType::ConnAck if self.role == Role::Client => Err(Fault::Unexpected(kind)),
            PacketType::Heartbeat if self.role == Role::Server => {
                self.reply(PacketType::HeartbeatAck, packet.header.id, &[])?;
                Ok(None)
            }
            // Ignored in this direction, as in Go.
            PacketType::Conn
            | PacketType::ConnAck
            | PacketType::Heartbeat
            | PacketType::HeartbeatAck
            | PacketType::DisConn
            | PacketType::DisConnAck
            | PacketType::Stream
            | PacketType::Unknown(_) => Ok(None),
            PacketType::Session => self.on_session(packet, now),
            PacketType::SessionAck => self.on_session_ack(packet, now),
            PacketType::Dismiss => self.on_dismiss(&packet, now),
            PacketType::DismissAck => Ok(self.on_dismiss_ack(&packet)),
            PacketType::Message | PacketType::Request => self.on_operation(packet),
            PacketType::MessageAck => self.on_message_ack(packet, now),
            PacketType::Response => {
                let (id, dialogue) = (packet.header.id, DialogueId(packet.session()));
                let data = read(packet)?;
                self.hear(dialogue.0);
                Ok(Some(Event::Response { packet: id, dialogue, data }))
            }
            PacketType::RequestCancel => Ok(self.on_request_cancel(&packet)),
            PacketType::Register => self.on_register(packet),
            PacketType::RegisterAck => {
                let id = packet.header.id;
                read(packet)?;
                Ok(Some(Event::RegisterDone { packet: id }))
            }
        }
    }

    // --- handshake and end ---

    fn on_conn<B: Chunk>(&mut self, packet: Packet<B>) -> Step<B> {
        let wanted = packet.client();
        let code = packet.fixed().first().map_or(0, |flags| usize::from(flags >> 4 & 0x3));
        self.conn_packet = packet.header.id;
        self.heartbeat =
            INTERVALS.get(code).map_or(self.heartbeat, |seconds| seconds.saturating_mul(1_000_000));
        let data = read(packet)?;
        self.phase = Phase::Deciding;
        // The answer goes out no earlier than this long after what came now.
        self.hold_until = self.last_rx.saturating_add(self.limits.answer_after);
        Ok(Some(Event::Hello { wanted, data }))
    }

    fn on_conn_ack<B: Chunk>(&mut self, packet: Packet<B>, now: Micros) -> Step<B> {
        let client = packet.client();
        let data = read(packet)?;
        if data.error().is_empty() {
            self.ready(now);
            return Ok(Some(Event::Welcome { client }));
        }
        self.phase = Phase::Over;
        self.wake = Micros::MAX;
        Ok(Some(Event::Rejected(data)))
    }

    pub(super) fn ready(&mut self, now: Micros) {
        self.phase = Phase::Ready;
        self.since = now;
        if self.role == Role::Client {
            self.heartbeat = now.saturating_add(self.limits.heartbeat);
        }
        self.wake = self.next_wake(now);
    }

    fn on_dis_conn<B: Chunk>(&mut self, packet: &Packet<B>, now: Micros) -> Step<B> {
        if self.goodbye.received {
            return Err(Fault::Unexpected(PacketType::DisConn));
        }
        // Return code OK, and no fields.
        self.reply(PacketType::DisConnAck, packet.header.id, b"\0{}")?;
        self.goodbye.received = true;
        self.begin_close(now);
        if self.goodbye.acked { Ok(Some(self.over(Ending::Agreed))) } else { Ok(self.leaving()) }
    }

    fn on_dis_conn_ack<B>(&mut self) -> Step<B> {
        if !self.goodbye.sent || mem::replace(&mut self.goodbye.acked, true) {
            return Err(Fault::Unexpected(PacketType::DisConnAck));
        }
        Ok(self.goodbye.received.then(|| self.over(Ending::Agreed)))
    }

    /// While the connection closes, nothing is begun; what would wait for an answer gets one.
    fn on_late<B: Chunk>(&mut self, packet: &Packet<B>) -> Step<B> {
        let (id, session) = (packet.header.id, packet.session());
        match packet.header.kind {
            PacketType::Heartbeat if self.role == Role::Server => {
                self.reply(PacketType::HeartbeatAck, id, &[])?;
            }
            PacketType::Dismiss => self.reply_empty(PacketType::DismissAck, id, session)?,
            PacketType::Register => self.reply_empty(PacketType::RegisterAck, id, session)?,
            PacketType::Message | PacketType::Request => {
                self.answer_error(packet.header, session, FORCE_CLOSED)?;
            }
            PacketType::Conn
            | PacketType::ConnAck
            | PacketType::DisConn
            | PacketType::DisConnAck
            | PacketType::Heartbeat
            | PacketType::HeartbeatAck
            | PacketType::Session
            | PacketType::SessionAck
            | PacketType::DismissAck
            | PacketType::MessageAck
            | PacketType::Stream
            | PacketType::Response
            | PacketType::RequestCancel
            | PacketType::RegisterAck
            | PacketType::Unknown(_) => {}
        }
        Ok(None)
    }

    // --- dialogues ---

    fn on_session<B: Chunk>(&mut self, packet: Packet<B>, now: Micros) -> Step<B> {
        let (id, negotiate) = (packet.header.id, packet.session());
        let acquire = packet.fixed().get(1).is_some_and(|flags| flags & ACQUIRE != 0);
        let data = read(packet)?;
        let taken = |id: u64| {
            let known = self.dialogues.as_ref().is_some_and(|dialogues| dialogues.table.contains_key(&id));
            id <= FIRST_SESSION || known
        };
        let session = match self.role {
            // The opener's own ID wherever possible: only then what follows the answer at once is not lost.
            Role::Server if !taken(negotiate) => negotiate,
            Role::Server => self.take_dialogue(),
            Role::Client if acquire || taken(negotiate) => {
                return Err(Fault::Unexpected(PacketType::Session));
            }
            Role::Client => negotiate,
        };
        let full = self.dialogues.as_ref().is_some_and(|all| all.count(false) >= self.limits.dialogues);
        if full || !self.is_ready() {
            self.answer_session(id, negotiate, session)?;
            let dismiss = self.take_id();
            self.reply_empty(PacketType::Dismiss, dismiss, session)?;
            return Ok(None);
        }
        let deadline = now.saturating_add(self.limits.session_timeout);
        let state = State::Offered { packet: id, negotiate };
        self.dialogues.get_or_insert_default().table.insert(session, Dialogue::new(state, false, deadline));
        self.arm(deadline);
        Ok(Some(Event::Open { dialogue: DialogueId(session), data }))
    }

    pub(super) fn answer_session(&mut self, packet: u64, negotiate: u64, session: u64) -> Result<(), Fault> {
        let mut body = [0; 20];
        let fixed = [0, 0].into_iter().chain(negotiate.to_be_bytes()).chain(session.to_be_bytes());
        for (to, from) in body.iter_mut().zip(fixed.chain(*b"{}")) {
            *to = from;
        }
        self.reply(PacketType::SessionAck, packet, &body)
    }

    fn on_session_ack<B: Chunk>(&mut self, packet: Packet<B>, now: Micros) -> Step<B> {
        let (id, negotiate, assigned) = (packet.header.id, packet.session(), packet.assigned());
        read(packet)?;
        let Some(dialogues) = self.dialogues.as_mut() else { return Ok(None) };
        let state = dialogues.table.get(&negotiate).map(|dialogue| dialogue.state);
        let abandoned = match state {
            Some(State::Opening { packet, abandoned }) if packet == id => abandoned,
            Some(State::Opening { .. } | State::Offered { .. } | State::Waiting | State::Open) | None => {
                return Ok(None);
            }
        };
        let session = if self.role == Role::Server { negotiate } else { assigned };
        if session != negotiate && (session <= FIRST_SESSION || dialogues.table.contains_key(&session)) {
            return Err(Fault::Unexpected(PacketType::SessionAck));
        }
        dialogues.opening = None;
        if let Some(mut dialogue) = dialogues.table.remove(&negotiate) {
            dialogue.state = State::Open;
            dialogue.deadline = Micros::MAX;
            dialogues.table.insert(session, dialogue);
        }
        self.send_session();
        if abandoned {
            self.close(DialogueId(session), now);
            return Ok(None);
        }
        Ok(Some(Event::Opened { opening: DialogueId(negotiate), dialogue: DialogueId(session) }))
    }

    fn on_dismiss<B: Chunk>(&mut self, packet: &Packet<B>, now: Micros) -> Step<B> {
        let session = packet.session();
        self.reply_empty(PacketType::DismissAck, packet.header.id, session)?;
        if session == FIRST_SESSION {
            if !mem::replace(&mut self.goodbye.dismissed, true) {
                let id = self.take_id();
                self.send_empty(PacketType::Dismiss, id, FIRST_SESSION);
            }
            let event = self.leaving();
            if event.is_some() {
                self.since = now;
                self.arm(now.saturating_add(self.limits.close_timeout));
            }
            return Ok(event);
        }
        let deadline = now.saturating_add(self.limits.session_timeout);
        let dialogue = self.dialogues.as_mut().and_then(|all| all.table.get_mut(&session));
        let Some(dialogue) = dialogue else { return Ok(None) };
        dialogue.received = true;
        if dialogue.is_over() {
            return Ok(Some(self.closed(session)));
        }
        if dialogue.state != State::Open {
            let ours = dialogue.ours;
            return Ok(self.dismissed_early(session, ours));
        }
        if !mem::replace(&mut dialogue.ending, true) {
            // So long the peer waits, whatever is queued.
            dialogue.deadline = deadline;
            self.arm(deadline);
            self.dismiss_when_drained(session, now);
        }
        Ok(None)
    }

    /// The peer has ended a dialogue before it was opened: there is nothing to be delivered.
    fn dismissed_early<B>(&mut self, session: u64, ours: bool) -> Option<Event<B>> {
        let id = self.take_id();
        self.send_empty(PacketType::Dismiss, id, session);
        let closed = self.closed(session);
        self.send_session();
        let dialogue = DialogueId(session);
        Some(if ours { Event::OpenFailed { dialogue } } else { closed })
    }

    fn on_dismiss_ack<B: Chunk>(&mut self, packet: &Packet<B>) -> Option<Event<B>> {
        let session = packet.session();
        let dialogue = self.dialogues.as_mut()?.table.get_mut(&session)?;
        dialogue.acked |= dialogue.sent;
        dialogue.is_over().then(|| self.closed(session))
    }

    fn closed<B>(&mut self, session: u64) -> Event<B> {
        self.forget(session);
        Event::Closed { dialogue: DialogueId(session) }
    }

    /// The peer has sent something on a dialogue; whether it is taken.
    fn hear(&mut self, session: u64) -> bool {
        if session == FIRST_SESSION {
            return true;
        }
        let dialogue = self.dialogues.as_mut().and_then(|all| all.table.get_mut(&session));
        dialogue.is_some_and(|dialogue| {
            dialogue.heard = true;
            dialogue.takes()
        })
    }

    fn raw<B: Chunk>(&mut self, session: u64, bytes: Piece<B>, now: Micros) -> Option<Event<B>> {
        if self.phase != Phase::Ready || now < self.hold_until || !self.hear(session) {
            return None;
        }
        let dialogues = self.dialogues.as_mut()?;
        // Nobody reads raw bytes of the first session, which is not in the table.
        let dialogue = dialogues.table.get_mut(&session)?;
        dialogue.hand_out(bytes.len(), now);
        dialogues.unreleased = dialogues.unreleased.saturating_add(bytes.len());
        let full = dialogues.unreleased >= self.limits.unreleased;
        if let Some(raw) = &mut dialogue.raw {
            raw.heard(&self.limits);
            let ready_at = raw.ready_at(now, &self.limits);
            if ready_at > now {
                self.wake = self.wake.min(ready_at);
            }
        }
        if full {
            let stalls = dialogues.table.values().map(|dialogue| dialogue.stalls_at(&self.limits));
            self.wake = stalls.fold(self.wake, Micros::min);
        }
        Some(Event::Raw(DialogueId(session), bytes))
    }

    // --- calls, messages, registrations ---

    fn on_operation<B: Chunk>(&mut self, packet: Packet<B>) -> Step<B> {
        let (header, session) = (packet.header, packet.session());
        let data = read(packet)?;
        if !self.hear(session) {
            return Ok(None);
        }
        if self.goodbye.doomed {
            self.answer_error(header, session, FORCE_CLOSED)?;
            return Ok(None);
        }
        if self.operations.as_ref().is_some_and(|all| all.len() >= self.limits.operations) {
            self.answer_error(header, session, OVERLOADED)?;
            return Ok(None);
        }
        let id = self.take_id();
        let call = header.kind == PacketType::Request;
        let unanswered = Unanswered { packet: header.id, session, call };
        self.operations.get_or_insert_default().insert(id, unanswered);
        let operation = Operation { id, dialogue: DialogueId(session), data };
        Ok(Some(if call { Event::Request(operation) } else { Event::Message(operation) }))
    }

    /// Answers a call or message that nobody was asked to carry out.
    fn answer_error(&mut self, header: PacketHeader, session: u64, error: &str) -> Result<(), Fault> {
        let call = header.kind == PacketType::Request;
        let kind = if call { PacketType::Response } else { PacketType::MessageAck };
        let mut body = session.to_be_bytes().to_vec();
        Object { error, ..Object::default() }.put(&mut body);
        self.reply(kind, header.id, &body)
    }

    fn too_large<B>(&mut self, header: PacketHeader, session: u64, now: Micros) -> Step<B> {
        if !matches!(self.phase, Phase::Ready | Phase::Closing) || now < self.hold_until {
            return Ok(None);
        }
        if matches!(header.kind, PacketType::Response | PacketType::MessageAck) {
            if self.phase != Phase::Ready {
                return Ok(None);
            }
            self.hear(session);
            if header.kind == PacketType::MessageAck {
                self.free_slot(session, header.id, now);
            }
            return Ok(Some(Event::AnswerTooLarge { packet: header.id }));
        }
        if self.phase == Phase::Closing || self.hear(session) {
            self.answer_error(header, session, TOO_LARGE)?;
        }
        Ok(None)
    }

    fn on_message_ack<B: Chunk>(&mut self, packet: Packet<B>, now: Micros) -> Step<B> {
        let (id, session) = (packet.header.id, packet.session());
        let data = read(packet)?;
        self.hear(session);
        self.free_slot(session, id, now);
        Ok(Some(Event::Acked { packet: id, dialogue: DialogueId(session), data }))
    }

    /// A message was acknowledged, whatever that says.
    fn free_slot(&mut self, session: u64, packet: u64, now: Micros) {
        if let Some(dialogues) = self.dialogues.as_mut()
            && let Some(window) = dialogues.window_mut(session)
            && window.acked(packet, now)
        {
            self.send_waiting(session, now);
        }
    }

    fn on_request_cancel<B: Chunk>(&mut self, packet: &Packet<B>) -> Option<Event<B>> {
        self.cancels = true;
        let (id, session) = (packet.header.id, packet.session());
        let mut operations = self.operations.as_ref()?.iter();
        let found = operations
            .find(|(_, waiting)| waiting.call && waiting.packet == id && waiting.session == session);
        found.map(|(operation, _)| Event::Cancelled { operation })
    }

    fn on_register<B: Chunk>(&mut self, packet: Packet<B>) -> Step<B> {
        let (id, session) = (packet.header.id, packet.session());
        if !self.hear(session) {
            return Ok(None);
        }
        self.reply_empty(PacketType::RegisterAck, id, session)?;
        if self.goodbye.doomed {
            return Ok(None);
        }
        Ok(Some(Event::Registered { dialogue: DialogueId(session), name: packet.rest }))
    }

    pub(super) fn take_dialogue(&mut self) -> u64 {
        loop {
            let id = self.next_dialogue;
            self.next_dialogue = id.wrapping_add(1).max(2);
            let known = self.dialogues.as_ref().is_some_and(|all| all.table.contains_key(&id));
            if !known {
                return id;
            }
        }
    }
}

/// The JSON object of a packet of our peer.
fn read<B: Chunk>(packet: Packet<B>) -> Result<Data<B>, Fault> {
    let kind = packet.header.kind;
    let fields = kind.fields().ok_or(Fault::Unexpected(kind))?;
    Data::parse(packet.rest, fields).map_err(|error| Fault::Data { kind, error })
}
