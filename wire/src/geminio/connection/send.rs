//! What the user does.

use std::sync::Arc;

use bytes::Bytes;

use super::{Connection, EMPTY, Ending, Event, Micros, Phase, Role, receive::FORCE_CLOSED};
use crate::{
    error::ErrorCode,
    geminio::{
        data::{Content, Object},
        dialogue::{Dialogue, DialogueId, Dialogues, State},
        limits::Limits,
        outbox::{Encoded, TooLarge},
        packet::{ACQUIRE, CLIENT_FLAGS, FIRST_SESSION, PacketHeader, PacketType},
        text,
        window::Offer,
    },
};

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection or dialogue takes nothing new.
    #[error("the session takes nothing new")]
    Closed,
    /// No room to wait for a slot.
    #[error("too many messages wait")]
    Overloaded,
    /// No receiver would take the packet.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// Why a dialogue was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The connection takes nothing new.
    #[error("the connection takes nothing new")]
    Closed,
    /// Too many are open, or wait to be.
    #[error("too many sessions are open or wait")]
    TooMany,
    /// The peer's application leaves too many alone: some generations freeze when there is one more.
    #[error("too many sessions were not used by the peer")]
    Silent,
}

/// A message that was sent or waits for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The packet that its answer names.
    pub packet: u64,
    /// It waits: it can still be taken back by [`Connection::take_back`].
    pub waits: bool,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It was sent.
    Sent,
    /// It is too long for the peer, which was told so instead.
    TooLarge,
    /// Nobody waits for it: answered before, or its dialogue has ended.
    Late,
}

impl Connection {
    /// The dialer's side: says who we are. `wanted` is the ID wished for, 0 for none.
    #[must_use]
    pub fn dial(limits: Arc<Limits>, wanted: u64, meta: &[u8], now: Micros) -> Self {
        let mut connection = Self::new(Role::Client, limits, now);
        let id = connection.take_id();
        connection.conn_packet = id;
        PacketHeader::new(PacketType::Conn, id).put_with(connection.outbox().block(), |out| {
            out.extend_from_slice(&[CLIENT_FLAGS, 0]);
            out.extend_from_slice(&wanted.to_be_bytes());
            Object { meta: Content::Plain(meta), ..Object::default() }.put(out);
        });
        connection
    }

    /// Server: lets the client in under this ID. The answer goes out 2 ms after Conn at the earliest, and whatever is sent meanwhile
    /// behind it.
    pub fn admit(&mut self, client: u64, now: Micros) {
        if self.phase != Phase::Deciding {
            return;
        }
        self.answer_conn(0, client, "");
        self.ready(now);
    }

    /// Server: refuses the client. The socket is closed a little later, so that the peer can read why.
    pub fn reject(&mut self, error: &str, now: Micros) {
        if self.phase != Phase::Deciding {
            return;
        }
        self.answer_conn(1, 0, error);
        self.phase = Phase::Lingering;
        self.since = now.max(self.hold_until).saturating_add(self.limits.linger);
        self.wake = self.next_wake(now);
    }

    fn answer_conn(&mut self, code: u8, client: u64, error: &str) {
        let id = self.conn_packet;
        PacketHeader::new(PacketType::ConnAck, id).put_with(self.outbox().block(), |out| {
            out.push(code);
            out.extend_from_slice(&client.to_be_bytes());
            Object { error, ..Object::default() }.put(out);
        });
    }

    /// Ends the connection: in its first two seconds as soon as they are over, since Go clients could deadlock. Nothing new is taken
    /// from now on; calls of the peer get an error. [`Event::Over`] comes at the end, or is returned at once where there is nothing to
    /// wait for.
    pub fn disconnect<B>(&mut self, now: Micros) -> Option<Event<B>> {
        match self.phase {
            Phase::Greeting | Phase::Deciding => Some(self.over(Ending::Refused)),
            Phase::Ready => {
                self.fail_operations();
                self.drop_all();
                self.goodbye.told = true;
                self.goodbye.doomed = true;
                let old_at = self.since.saturating_add(self.limits.youth);
                if self.role == Role::Client || now >= old_at {
                    self.begin_close(now);
                } else {
                    self.arm(old_at);
                }
                None
            }
            Phase::Lingering | Phase::Closing | Phase::Over => None,
        }
    }

    /// Answers what the peer waits for.
    fn fail_operations(&mut self) {
        let waiting: Vec<u64> = self.operations.iter().flat_map(|all| all.iter()).map(|(id, _)| id).collect();
        for operation in waiting {
            self.respond(operation, &Object { error: FORCE_CLOSED, ..Object::default() });
        }
    }

    // --- calls, messages, registrations ---

    /// Whether something may be sent on a dialogue.
    fn sends_on(&self, dialogue: DialogueId) -> bool {
        let open = || {
            let all = self.dialogues.as_ref()?;
            all.table.get(&dialogue.0).map(Dialogue::sends)
        };
        self.is_ready() && (dialogue == DialogueId::FIRST || open().unwrap_or(false))
    }

    /// Calls; the number returned comes back with the answer.
    ///
    /// # Errors
    /// When the peer takes nothing, or not so much.
    pub fn request(&mut self, dialogue: DialogueId, call: &Object<'_>) -> Result<u64, SendError> {
        if !self.sends_on(dialogue) {
            return Err(SendError::Closed);
        }
        let id = self.take_id();
        let put = self.outbox().put(PacketType::Request, id, dialogue.0, call);
        self.tidy_outbox();
        put?;
        Ok(id)
    }

    /// Tells the peer that nobody waits for the answer any more, if it is known to understand that. False if it was not told.
    pub fn cancel(&mut self, dialogue: DialogueId, packet: u64) -> bool {
        if !self.cancels || !self.sends_on(dialogue) {
            return false;
        }
        let mut body = dialogue.0.to_be_bytes().to_vec();
        // Cancel type 1: by the caller.
        body.extend_from_slice(&1_u16.to_be_bytes());
        self.send(PacketType::RequestCancel, packet, &body);
        true
    }

    /// Publishes, at once or when the peer has acknowledged enough. `sender` is whose turn it takes while it waits.
    ///
    /// # Errors
    /// When the peer takes nothing, or not so much, or too many messages wait for it.
    pub fn publish(
        &mut self,
        dialogue: DialogueId,
        sender: u64,
        message: &Object<'_>,
        now: Micros,
    ) -> Result<Sent, SendError> {
        if !self.sends_on(dialogue) {
            return Err(SendError::Closed);
        }
        let len = message.value.encoded_len();
        let all = self.dialogues.as_ref();
        let offer = all.map_or(Offer::Send, |all| all.offer(dialogue.0, sender, len, &self.limits));
        if offer == Offer::Full {
            return Err(SendError::Overloaded);
        }
        let packet = self.take_id();
        let waits = offer == Offer::Wait;
        if waits {
            let encoded = Encoded::new(PacketType::Message, packet, dialogue.0, message)?;
            let window = self.dialogues.get_or_insert_default().window_or_new(dialogue.0);
            window.wait(sender, packet, encoded);
            if let Some(at) = window.reopen_at(&self.limits) {
                self.arm(at);
            }
        } else {
            let put = self.outbox().put(PacketType::Message, packet, dialogue.0, message);
            self.tidy_outbox();
            put?;
            let window = self.dialogues.get_or_insert_default().window_or_new(dialogue.0);
            window.sent(packet, now);
        }
        Ok(Sent { packet, waits })
    }

    /// Takes back a message that waits, because its publisher does not any more. False if it was sent already: its slot stays taken
    /// until the peer acknowledges it.
    pub fn take_back(&mut self, dialogue: DialogueId, packet: u64) -> bool {
        let window = self.dialogues.as_mut().and_then(|all| all.window_mut(dialogue.0));
        window.is_some_and(|window| window.take_back(packet))
    }

    /// Messages on their way to a session of the peer.
    #[must_use]
    pub fn unacked(&self, dialogue: DialogueId) -> usize {
        let window = self.dialogues.as_ref().and_then(|all| all.window(dialogue.0));
        window.map_or(0, |window| window.unacked())
    }

    /// Sends waiting messages as far as slots are free.
    pub(super) fn send_waiting(&mut self, session: u64, now: Micros) {
        let Some(dialogues) = self.dialogues.as_mut() else { return };
        let ends = session != FIRST_SESSION && !dialogues.table.get(&session).is_some_and(Dialogue::sends);
        if ends {
            // Nothing may follow a Dismiss: what waits ends with the dialogue.
            return;
        }
        let Some(window) = dialogues.window_mut(session) else { return };
        while let Some(packet) = window.next(&self.limits, now) {
            self.outbox.get_or_insert_default().push(packet);
        }
        let reopen_at = window.reopen_at(&self.limits);
        if window.is_empty() {
            dialogues.drop_window(session);
            if dialogues.is_empty() {
                self.dialogues = None;
            }
        }
        if let Some(at) = reopen_at {
            self.arm(at);
        }
    }

    /// Answers a call or message: with a value, or an error that is not empty. The method should be echoed in the answer's key.
    pub fn respond(&mut self, operation: u64, answer: &Object<'_>) -> Answered {
        let Some(operations) = self.operations.as_mut() else { return Answered::Late };
        let Some(unanswered) = operations.remove(operation) else { return Answered::Late };
        if operations.is_empty() {
            self.operations = None;
        }
        let kind = if unanswered.call { PacketType::Response } else { PacketType::MessageAck };
        let outbox = self.outbox();
        if outbox.put(kind, unanswered.packet, unanswered.session, answer).is_ok() {
            return Answered::Sent;
        }
        let error = text::of(ErrorCode::PayloadTooLarge);
        let refusal = Object { error, ..Object::default() };
        // A text of a few bytes fits.
        let _ = outbox.put(kind, unanswered.packet, unanswered.session, &refusal);
        Answered::TooLarge
    }

    /// Offers a method to the peer.
    ///
    /// # Errors
    /// When the peer takes nothing.
    pub fn register(&mut self, name: &[u8]) -> Result<u64, SendError> {
        if !self.is_ready() {
            return Err(SendError::Closed);
        }
        let id = self.take_id();
        let body = [&FIRST_SESSION.to_be_bytes(), name].concat();
        self.send(PacketType::Register, id, &body);
        Ok(id)
    }

    /// Frees an outbox that a refused packet has made.
    fn tidy_outbox(&mut self) {
        if self.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) {
            self.outbox = None;
        }
    }

    // --- dialogues ---

    /// Opens a dialogue; [`Event::Opened`] or [`Event::OpenFailed`] follows. One is opened after the other, as peers answer them.
    ///
    /// # Errors
    /// When the peer takes nothing, or no more of them.
    pub fn open(&mut self, peer: &str, meta: Content<'_>, now: Micros) -> Result<DialogueId, OpenError> {
        self.open_by(None, peer, meta, now)
    }

    /// Opens a dialogue on behalf of somebody, who gets a fair share of those that the peer may leave unused.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_for(
        &mut self,
        opener: u64,
        peer: &str,
        meta: Content<'_>,
        now: Micros,
    ) -> Result<DialogueId, OpenError> {
        self.open_by(Some(opener), peer, meta, now)
    }

    fn open_by(
        &mut self,
        opener: Option<u64>,
        peer: &str,
        meta: Content<'_>,
        now: Micros,
    ) -> Result<DialogueId, OpenError> {
        if !self.is_ready() {
            return Err(OpenError::Closed);
        }
        let limits = &self.limits;
        if let Some(all) = self.dialogues.as_ref() {
            if all.count(true) >= limits.dialogues || all.waiting.len() >= limits.opening {
                return Err(OpenError::TooMany);
            }
            if !all.has_place(opener, limits.silent) {
                return Err(OpenError::Silent);
            }
        }
        let deadline = now.saturating_add(limits.session_timeout);
        let id = self.take_dialogue();
        let mut dialogue = Dialogue::new(State::Waiting, true, deadline);
        dialogue.opener = opener;
        let mut offer = Vec::new();
        Object { meta, peer, ..Object::default() }.put(&mut offer);
        dialogue.offer = Some(offer.into());
        let dialogues = self.dialogues.get_or_insert_default();
        dialogues.table.insert(id, dialogue);
        dialogues.waiting.push_back(id);
        self.arm(deadline);
        self.send_session();
        Ok(DialogueId(id))
    }

    /// Sends the next Session unless one is unanswered.
    pub(super) fn send_session(&mut self) {
        let ready = |all: &Dialogues| all.opening.is_none() && !all.waiting.is_empty();
        if !self.dialogues.as_deref().is_some_and(ready) {
            return;
        }
        let packet = self.take_id();
        let Some(dialogues) = self.dialogues.as_mut() else { return };
        let Some(id) = dialogues.waiting.pop_front() else { return };
        let Some(dialogue) = dialogues.table.get_mut(&id) else { return };
        dialogue.state = State::Opening { packet, abandoned: false };
        let offer = dialogue.offer.take();
        dialogues.opening = Some(id);
        let flags = if self.role == Role::Client { ACQUIRE } else { 0 };
        let mut body = vec![0, flags];
        body.extend_from_slice(&id.to_be_bytes());
        body.extend_from_slice(offer.as_deref().unwrap_or(EMPTY));
        self.send(PacketType::Session, packet, &body);
    }

    /// Accepts a dialogue that the peer offers; false if it does not any more.
    pub fn accept(&mut self, dialogue: DialogueId) -> bool {
        let entry = self.dialogues.as_mut().and_then(|all| all.table.get_mut(&dialogue.0));
        let Some(entry) = entry else { return false };
        let State::Offered { packet, negotiate } = entry.state else { return false };
        entry.state = State::Open;
        entry.deadline = Micros::MAX;
        // Not more of these than the peer has opened dialogues.
        let _ = self.answer_session(packet, negotiate, dialogue.0);
        true
    }

    /// Refuses a dialogue that the peer offers, in the one way that openers of every generation notice: by accepting and dismissing it
    /// at once. It is forgotten; what the peer still says of it is answered.
    pub fn refuse(&mut self, dialogue: DialogueId) {
        let state = self.dialogues.as_ref().and_then(|all| all.table.get(&dialogue.0)).map(|d| d.state);
        if let Some(State::Offered { packet, negotiate }) = state {
            let _ = self.answer_session(packet, negotiate, dialogue.0);
            let id = self.take_id();
            self.send_empty(PacketType::Dismiss, id, dialogue.0);
            self.forget(dialogue.0);
        }
    }

    /// Queues raw bytes of a dialogue; false if it takes none any more. With `report` they come back through [`Connection::written`]
    /// once written.
    pub fn send_raw(&mut self, dialogue: DialogueId, bytes: Bytes, report: bool) -> bool {
        if !self.is_ready() {
            return false;
        }
        let Some(dialogues) = self.dialogues.as_mut() else { return false };
        let Some(entry) = dialogues.table.get_mut(&dialogue.0).filter(|entry| entry.sends()) else {
            return false;
        };
        if bytes.is_empty() {
            return true;
        }
        dialogues.raw = dialogues.raw.saturating_add(bytes.len());
        let raw = entry.raw.get_or_insert_default();
        raw.push(bytes, report);
        if !std::mem::replace(&mut raw.queued, true) {
            dialogues.turns.push_back(dialogue.0);
        }
        true
    }

    /// Bytes that wait on a dialogue.
    #[must_use]
    pub fn raw_bytes(&self, dialogue: DialogueId) -> usize {
        let entry = self.dialogues.as_ref().and_then(|all| all.table.get(&dialogue.0));
        entry.and_then(|entry| entry.raw.as_ref()).map_or(0, |raw| raw.bytes())
    }

    /// Ends a dialogue after what is queued for it; what still comes on it is dropped. [`Event::Closed`] follows. One that was not
    /// opened yet is given up.
    pub fn close(&mut self, dialogue: DialogueId, now: Micros) {
        let Some(dialogues) = self.dialogues.as_mut() else { return };
        let Some(entry) = dialogues.table.get_mut(&dialogue.0) else { return };
        match &mut entry.state {
            State::Offered { .. } => self.refuse(dialogue),
            State::Waiting => self.forget(dialogue.0),
            State::Opening { abandoned, .. } => {
                *abandoned = true;
                entry.deadline = Micros::MAX;
            }
            State::Open => {
                entry.closed = true;
                let unreleased = std::mem::take(&mut entry.unreleased);
                dialogues.unreleased = dialogues.unreleased.saturating_sub(unreleased);
                if !std::mem::replace(&mut entry.ending, true) {
                    self.dismiss_when_drained(dialogue.0, now);
                }
            }
        }
    }

    /// Ends a dialogue after what is queued for it, as [`Connection::close`] does, but what the peer has under way is still taken.
    pub fn finish(&mut self, dialogue: DialogueId, now: Micros) {
        let entry = self.dialogues.as_mut().and_then(|all| all.table.get_mut(&dialogue.0));
        let Some(entry) = entry else { return };
        if entry.state != State::Open {
            return self.close(dialogue, now);
        }
        if !std::mem::replace(&mut entry.ending, true) {
            self.dismiss_when_drained(dialogue.0, now);
        }
    }

    /// Sends our Dismiss if it is due and nothing is queued before it. From then on the peer has its time to answer.
    pub(super) fn dismiss_when_drained(&mut self, session: u64, now: Micros) {
        let deadline = now.saturating_add(self.limits.session_timeout);
        let entry = self.dialogues.as_mut().and_then(|all| all.table.get_mut(&session));
        let Some(entry) = entry else { return };
        let drained = entry.raw.as_ref().is_none_or(|raw| raw.bytes() == 0);
        if entry.ending && drained && !std::mem::replace(&mut entry.sent, true) {
            entry.deadline = entry.deadline.min(deadline);
            let id = self.take_id();
            self.send_empty(PacketType::Dismiss, id, session);
            self.arm(deadline);
        }
    }
}
