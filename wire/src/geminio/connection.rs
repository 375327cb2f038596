//! One geminio connection of either role.
//!
//! The connection cuts input into events, answers by itself what needs no decision, and orders output. What the events mean is decided
//! by its user: the gateway's session, or a client. Time is passed in with every call that needs it.
//!
//! ```text
//!  socket ─▶ receive(input, now) ─▶ Event        request, publish, respond, open, send_raw, … ◀─ user
//!  socket ◀─ slices(), written() ◀─ fill(budget, now)
//!  timer  ─▶ handle_timeout(now) ─▶ Event        poll_timeout(): when to call it
//! ```
//! It keeps what a server must keep to with peers of every generation: nothing before ConnAck, refusals that the opener notices, data
//! after a Dismiss, both Dismisses acknowledged, at most 32 unacknowledged messages, raw bytes in few big packets, no RequestCancel to
//! who never sent one, no early close.
//!
//! An idle connection owns no heap memory.

mod receive;
mod send;

use std::{io::IoSlice, sync::Arc};

pub use send::{Answered, OpenError, SendError, Sent};

use super::{
    data::{Data, DataError},
    dialogue::{DialogueId, Dialogues, State},
    limits::{Limits, Micros, PacketError},
    operations::Operations,
    outbox::Outbox,
    packet::{FIRST_SESSION, PacketHeader, PacketType},
    reader::PacketReader,
};
use crate::chunk::Piece;

/// Bytes of answers that a peer may leave unread before it is cut: nobody else bounds them.
const MAX_REPLIES: usize = 256 << 10;

/// The JSON object without fields.
const EMPTY: &[u8] = b"{}";

/// What happened on a connection.
#[derive(Debug)]
pub enum Event<B> {
    /// Server: a client wants in. Answer by [`Connection::admit`] or [`Connection::reject`].
    Hello {
        /// The ID it wishes for, 0 for none.
        wanted: u64,
        /// Its meta.
        data: Data<B>,
    },
    /// Client: the server has let us in.
    Welcome {
        /// The ID it gave us.
        client: u64,
    },
    /// Client: the server has refused us, and why. The connection is over.
    Rejected(Data<B>),
    /// The peer offers a method; this is acknowledged already, since it cannot be refused.
    Registered {
        /// Where. The gateway should care for those on the first session only.
        dialogue: DialogueId,
        /// The method's name: any bytes.
        name: Piece<B>,
    },
    /// A method that we registered is known to the peer.
    RegisterDone {
        /// The packet that [`Connection::register`] sent.
        packet: u64,
    },
    /// The peer calls. Answer by [`Connection::respond`], exactly once.
    Request(Operation<B>),
    /// The peer publishes. Answer by [`Connection::respond`], exactly once.
    Message(Operation<B>),
    /// The peer does not wait for an answer any more; one is due all the same.
    Cancelled {
        /// The operation.
        operation: u64,
    },
    /// The answer to a call; perhaps late, or the second one.
    Response {
        /// The packet that [`Connection::request`] sent.
        packet: u64,
        /// Where.
        dialogue: DialogueId,
        /// Value or error.
        data: Data<B>,
    },
    /// The answer to a call or message is too long to be read.
    AnswerTooLarge {
        /// The packet that [`Connection::request`] or [`Connection::publish`] sent.
        packet: u64,
    },
    /// The answer to a message; perhaps late.
    Acked {
        /// The packet that [`Connection::publish`] sent.
        packet: u64,
        /// Where.
        dialogue: DialogueId,
        /// Nothing or an error.
        data: Data<B>,
    },
    /// The peer opens a dialogue. Answer by [`Connection::accept`] or [`Connection::refuse`].
    Open {
        /// The dialogue.
        dialogue: DialogueId,
        /// Whom it is for, and meta.
        data: Data<B>,
    },
    /// The peer has taken a dialogue of ours into its queue.
    Opened {
        /// As [`Connection::open`] called it.
        opening: DialogueId,
        /// What it is called from now on: the same at a server, something else at a client.
        dialogue: DialogueId,
    },
    /// The peer has not answered [`Connection::open`] in time.
    OpenFailed {
        /// The dialogue, which is gone.
        dialogue: DialogueId,
    },
    /// Raw bytes, cut anywhere. Give them back with [`Connection::release`] when they are dealt with.
    Raw(DialogueId, Piece<B>),
    /// Raw bytes of a dialogue were not given back for so long that nothing else on the connection was read. It is closed as by
    /// [`Connection::close`].
    Stalled {
        /// The dialogue.
        dialogue: DialogueId,
    },
    /// A dialogue has ended, at both ends, and is gone; so are calls and messages on it.
    Closed {
        /// The dialogue.
        dialogue: DialogueId,
    },
    /// The peer leaves, or is dead: it takes nothing new. [`Event::Over`] follows.
    Leaving,
    /// Close the socket once what is queued was written.
    Over(Ending),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides have said that they leave.
    Agreed,
    /// The peer did not answer in time.
    Timeout,
    /// It was refused.
    Refused,
}

/// A call or message of the peer.
#[derive(Debug)]
pub struct Operation<B> {
    /// Its number here, never reused.
    pub id: u64,
    /// Where.
    pub dialogue: DialogueId,
    /// Method or topic, and payload.
    pub data: Data<B>,
}

/// What a peer did that none may do. The connection ends without further packets, as in Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A packet breaks limits or layout.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A JSON object that cannot be read.
    #[error("{} packet: {error}", kind.name())]
    Data {
        /// The packet.
        kind: PacketType,
        /// What is wrong.
        #[source]
        error: DataError,
    },
    /// A packet where none of its type may be.
    #[error("{} packet where none may be", .0.name())]
    Unexpected(PacketType),
    /// The peer asks on and on and reads no answers.
    #[error("answers are not read")]
    Unread,
}

/// Which side dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It did.
    Client,
    /// It accepted.
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Server: Conn has not come. Client: ConnAck has not.
    Greeting,
    /// Server: Conn has come, the user decides.
    Deciding,
    /// Everything goes.
    Ready,
    /// Server: refused; the peer may read why.
    Lingering,
    /// DisConn was sent or has come.
    Closing,
    /// Nothing goes.
    Over,
}

/// What each side has said of the end.
#[derive(Clone, Copy, Debug, Default)]
struct Goodbye {
    /// We have sent DisConn.
    sent: bool,
    /// It was acknowledged.
    acked: bool,
    /// The peer has sent it, and we have acknowledged that.
    received: bool,
    /// We have sent Dismiss of the first session.
    dismissed: bool,
    /// The user was told that the peer leaves.
    told: bool,
    /// We are to send DisConn as soon as the connection is old enough.
    doomed: bool,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Connection {
    limits: Arc<Limits>,
    reader: PacketReader,
    outbox: Option<Box<Outbox>>,
    dialogues: Option<Box<Dialogues>>,
    operations: Option<Box<Operations>>,
    /// Of packets and operations: they share their numbers.
    next_id: u64,
    next_dialogue: u64,
    /// The packet of Conn.
    conn_packet: u64,
    /// When bytes last came.
    last_rx: Micros,
    /// When the handshake was done, or has to be, or when the closing has to be; once the peer has ended its first session, when it did.
    since: Micros,
    /// Nothing is written and nothing taken before.
    hold_until: Micros,
    /// Client: when the next Heartbeat is due. Server: the time without a packet after which the peer is dead.
    heartbeat: Micros,
    /// When [`Connection::handle_timeout`] has something to do, at the earliest.
    wake: Micros,
    /// Slots of messages reopened because no acknowledgement came.
    reopened: u32,
    /// See [`Connection::take_control`].
    control: u16,
    role: Role,
    phase: Phase,
    goodbye: Goodbye,
    /// The peer has sent RequestCancel, so it can read one.
    cancels: bool,
}

// === impl Fault ===

impl Fault {
    /// Its name, from a closed set.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Packet(error) => error.kind(),
            Self::Data { .. } => "data",
            Self::Unexpected(_) => "unexpected",
            Self::Unread => "unread",
        }
    }
}

// === impl DialogueId ===

impl DialogueId {
    /// The session that every connection has from its handshake on.
    pub const FIRST: Self = Self(FIRST_SESSION);
}

// === impl Connection ===

impl Connection {
    fn new(role: Role, limits: Arc<Limits>, now: Micros) -> Self {
        let deadline = now.saturating_add(limits.handshake);
        Self {
            reader: PacketReader::new(),
            outbox: None,
            dialogues: None,
            operations: None,
            next_id: 1,
            next_dialogue: match role {
                // Beyond what a server counts from.
                Role::Client => 1 << 32,
                Role::Server => 2,
            },
            conn_packet: 0,
            last_rx: now,
            since: deadline,
            hold_until: 0,
            heartbeat: limits.heartbeat,
            wake: deadline,
            reopened: 0,
            control: 0,
            role,
            phase: Phase::Greeting,
            goodbye: Goodbye::default(),
            cancels: false,
            limits,
        }
    }

    /// The acceptor's side: waits for Conn.
    #[must_use]
    pub fn serve(limits: Arc<Limits>, now: Micros) -> Self {
        Self::new(Role::Server, limits, now)
    }

    /// How many bytes the driver may read straight into [`Connection::direct_buffer`], 0 if it should read into its own buffer.
    #[must_use]
    pub fn direct_want(&self) -> usize {
        self.reader.direct_want()
    }

    /// The buffer to append to, at most [`Connection::direct_want`] bytes, followed by [`Connection::finish_direct`].
    pub fn direct_buffer(&mut self) -> Option<&mut Vec<u8>> {
        self.reader.direct_buffer()
    }

    /// When [`Connection::handle_timeout`] should be called next; `Micros::MAX` = never. It may have nothing to do then.
    #[must_use]
    pub const fn poll_timeout(&self) -> Micros {
        self.wake
    }

    /// Packets since the last time that carry nothing for anybody: heartbeats, openings and ends of streams, answers that nobody waits
    /// for, unknown types.
    pub const fn take_control(&mut self) -> u16 {
        let count = self.control;
        self.control = 0;
        count
    }

    /// Slots of messages that were reopened because a peer that reads has acknowledged nothing for long.
    #[must_use]
    pub const fn reopened(&self) -> u32 {
        self.reopened
    }

    /// Whether calls, messages and dialogues may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready && !self.goodbye.doomed && !self.goodbye.told
    }

    /// Whether nothing more comes of this connection.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    fn arm(&mut self, at: Micros) {
        self.wake = self.wake.min(at);
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1).max(1);
        id
    }

    fn outbox(&mut self) -> &mut Outbox {
        self.outbox.get_or_insert_default()
    }

    /// A small packet of our own accord.
    fn send(&mut self, kind: PacketType, id: u64, body: &[u8]) {
        PacketHeader::new(kind, id).put(self.outbox().block(), body);
    }

    /// A small packet of a session without content.
    fn send_empty(&mut self, kind: PacketType, id: u64, session: u64) {
        let mut body = [0; 10];
        for (to, from) in body.iter_mut().zip(session.to_be_bytes().iter().chain(EMPTY)) {
            *to = *from;
        }
        self.send(kind, id, &body);
    }

    /// An answer to what the peer sent.
    fn reply(&mut self, kind: PacketType, id: u64, body: &[u8]) -> Result<(), Fault> {
        let outbox = self.outbox();
        outbox.reply(PacketHeader::new(kind, id), body);
        if outbox.replies() > MAX_REPLIES { Err(Fault::Unread) } else { Ok(()) }
    }

    fn reply_empty(&mut self, kind: PacketType, id: u64, session: u64) -> Result<(), Fault> {
        let mut body = [0; 10];
        for (to, from) in body.iter_mut().zip(session.to_be_bytes().iter().chain(EMPTY)) {
            *to = *from;
        }
        self.reply(kind, id, &body)
    }

    // --- the end ---

    /// Forgets everything under way; the gateway fails what it knows of.
    fn drop_all(&mut self) {
        self.dialogues = None;
        self.operations = None;
    }

    /// Says that we leave.
    fn begin_close(&mut self, now: Micros) {
        self.drop_all();
        self.phase = Phase::Closing;
        if !self.goodbye.sent {
            self.goodbye.sent = true;
            let id = self.take_id();
            self.send(PacketType::DisConn, id, &[]);
        }
        self.since = now.saturating_add(self.limits.close_timeout);
        self.arm(self.since);
    }

    /// The user is told once that the peer leaves.
    fn leaving<B>(&mut self) -> Option<Event<B>> {
        (!std::mem::replace(&mut self.goodbye.told, true)).then_some(Event::Leaving)
    }

    fn over<B>(&mut self, ending: Ending) -> Event<B> {
        self.phase = Phase::Over;
        self.wake = Micros::MAX;
        self.drop_all();
        Event::Over(ending)
    }

    // --- time ---

    /// Does what is due, one event at a time, until there is none.
    pub fn handle_timeout<B>(&mut self, now: Micros) -> Option<Event<B>> {
        if now < self.wake {
            return None;
        }
        let event = self.handle_phase(now).or_else(|| self.handle_dialogues(now));
        if event.is_none() {
            self.wake = self.next_wake(now);
        }
        event
    }

    fn handle_phase<B>(&mut self, now: Micros) -> Option<Event<B>> {
        match self.phase {
            Phase::Greeting | Phase::Deciding if now >= self.since => Some(self.over(Ending::Timeout)),
            Phase::Lingering if now >= self.since => Some(self.over(Ending::Refused)),
            Phase::Closing if now >= self.since => Some(self.over(Ending::Timeout)),
            Phase::Ready if self.goodbye.doomed && now >= self.since.saturating_add(self.limits.youth) => {
                self.begin_close(now);
                None
            }
            // It has ended its first session, and then not the connection: a Go client that closes while a stream of its own is being
            // opened dismisses that by a wrong ID, and would wait 30 s.
            Phase::Ready
                if self.goodbye.told && now >= self.since.saturating_add(self.limits.close_timeout) =>
            {
                self.begin_close(now);
                None
            }
            Phase::Ready if now >= self.dead_at() && !self.wants_read() => {
                // It is not heard because it is not read.
                self.last_rx = now;
                None
            }
            Phase::Ready if now >= self.dead_at() => {
                self.begin_close(now);
                self.leaving()
            }
            Phase::Ready if self.role == Role::Client && now >= self.heartbeat => {
                self.heartbeat = now.saturating_add(self.limits.heartbeat);
                let id = self.take_id();
                self.send(PacketType::Heartbeat, id, &[]);
                None
            }
            Phase::Greeting
            | Phase::Deciding
            | Phase::Lingering
            | Phase::Closing
            | Phase::Ready
            | Phase::Over => None,
        }
    }

    /// When a silent peer counts as dead: after two of its heartbeats, or of ours.
    fn dead_at(&self) -> Micros {
        let interval = match self.role {
            Role::Server => self.heartbeat,
            Role::Client => self.limits.heartbeat,
        };
        self.last_rx.saturating_add(interval.saturating_mul(2))
    }

    fn handle_dialogues<B>(&mut self, now: Micros) -> Option<Event<B>> {
        let dialogues = self.dialogues.as_mut()?;
        let due = dialogues.table.iter().find(|(_, dialogue)| now >= dialogue.deadline);
        if let Some(id) = due.map(|(id, _)| *id) {
            return Some(self.expire(id));
        }
        if let Some(dialogue) = dialogues.stalled(&self.limits, now).map(DialogueId) {
            self.close(dialogue, now);
            return Some(Event::Stalled { dialogue });
        }
        self.reopen_slots(now);
        None
    }

    /// A dialogue was not opened, or not ended, in time.
    fn expire<B>(&mut self, id: u64) -> Event<B> {
        let dialogue = DialogueId(id);
        let Some(dialogues) = self.dialogues.as_mut() else { return Event::Closed { dialogue } };
        let opening = dialogues.table.get_mut(&id).and_then(|dialogue| match &mut dialogue.state {
            State::Opening { abandoned, .. } => {
                // The peer is still busy with it: the next one has to wait for the answer.
                *abandoned = true;
                dialogue.deadline = Micros::MAX;
                Some(())
            }
            State::Offered { .. } | State::Waiting | State::Open => None,
        });
        if opening.is_some() {
            return Event::OpenFailed { dialogue };
        }
        let state = dialogues.table.get(&id).map(|dialogue| dialogue.state);
        if matches!(state, Some(State::Offered { .. })) {
            self.refuse(dialogue);
        }
        self.forget(id);
        if state == Some(State::Waiting) {
            Event::OpenFailed { dialogue }
        } else {
            Event::Closed { dialogue }
        }
    }

    /// Removes a dialogue and what the peer waits for on it.
    fn forget(&mut self, id: u64) {
        if let Some(dialogues) = self.dialogues.as_mut() {
            dialogues.remove(id);
            if dialogues.is_empty() {
                self.dialogues = None;
            }
        }
        if let Some(operations) = self.operations.as_mut() {
            operations.remove_session(id);
            if operations.is_empty() {
                self.operations = None;
            }
        }
    }

    fn reopen_slots(&mut self, now: Micros) {
        // A peer that does not even read has not forgotten to acknowledge.
        let reads = self.outbox.is_none();
        let Some(dialogues) = self.dialogues.as_mut() else { return };
        let mut freed = Vec::new();
        for (id, window) in dialogues.windows_mut() {
            if window.reopen_at(&self.limits).is_some_and(|at| now >= at) {
                if reads {
                    window.reopen(now);
                    freed.push(id);
                } else {
                    window.postpone(now);
                }
            }
        }
        for id in freed {
            self.reopened = self.reopened.saturating_add(1);
            self.send_waiting(id, now);
        }
    }

    /// The earliest time at which something is due.
    fn next_wake(&self, now: Micros) -> Micros {
        let mut wake = match self.phase {
            Phase::Over => return Micros::MAX,
            Phase::Greeting | Phase::Deciding | Phase::Lingering | Phase::Closing => self.since,
            Phase::Ready => self.dead_at(),
        };
        if self.phase == Phase::Ready {
            if self.role == Role::Client {
                wake = wake.min(self.heartbeat);
            }
            if self.goodbye.doomed {
                wake = wake.min(self.since.saturating_add(self.limits.youth));
            }
            if self.goodbye.told {
                wake = wake.min(self.since.saturating_add(self.limits.close_timeout));
            }
        }
        if self.hold_until > now {
            wake = wake.min(self.hold_until);
        }
        let Some(dialogues) = self.dialogues.as_ref() else { return wake };
        let deadlines = dialogues.table.values().map(|dialogue| dialogue.deadline);
        let slots = dialogues.windows().filter_map(|window| window.reopen_at(&self.limits));
        // Also of those without bytes: more may be queued when nobody says what time it is.
        let paced = dialogues.table.values().filter_map(|dialogue| dialogue.raw.as_ref());
        let paced = paced.map(|raw| raw.ready_at(now, &self.limits)).filter(|at| *at > now);
        let full = dialogues.unreleased >= self.limits.unreleased;
        let held = dialogues.table.values().filter(|_| full).map(|dialogue| dialogue.stalls_at(&self.limits));
        let held = held.filter(|at| *at > now);
        deadlines.chain(slots).chain(paced).chain(held).fold(wake, Micros::min)
    }

    // --- output ---

    /// Whether anything can be sent now. Raw bytes that go too fast, and what waits for the end of the handshake, count from the time
    /// [`Connection::poll_timeout`] says.
    #[must_use]
    pub fn wants_write(&self, now: Micros) -> bool {
        now >= self.hold_until
            && (self.outbox.is_some()
                || self.dialogues.as_ref().is_some_and(|dialogues| {
                    dialogues.turns.iter().any(|id| {
                        let raw = dialogues.table.get(id).and_then(|dialogue| dialogue.raw.as_ref());
                        raw.is_some_and(|raw| raw.ready_at(now, &self.limits) <= now)
                    })
                }))
    }

    /// Moves raw bytes of dialogues to the transport, in turn, until `budget` bytes are there.
    pub fn fill(&mut self, budget: usize, now: Micros) {
        if now < self.hold_until {
            return;
        }
        let mut paced = 0_usize;
        while self.outbox.as_ref().map_or(0, |outbox| outbox.bytes()) < budget {
            let Some(dialogues) = self.dialogues.as_mut() else { return };
            if paced >= dialogues.turns.len() {
                break;
            }
            let Some(id) = dialogues.turns.pop_front() else { return };
            let Some(raw) = dialogues.table.get_mut(&id).and_then(|dialogue| dialogue.raw.as_mut()) else {
                continue;
            };
            let ready_at = raw.ready_at(now, &self.limits);
            if ready_at > now {
                dialogues.turns.push_back(id);
                paced = paced.saturating_add(1);
                self.wake = self.wake.min(ready_at);
                continue;
            }
            paced = 0;
            let before = raw.bytes();
            let pieces = raw.take(now, &self.limits);
            let len = before.saturating_sub(raw.bytes());
            let empty = raw.bytes() == 0;
            raw.queued = !empty;
            // Whether more is queued or will be: `budget` may end this before anybody sees that the next packet has to wait.
            let ready_at = raw.ready_at(now, &self.limits);
            if ready_at > now {
                self.wake = self.wake.min(ready_at);
            }
            dialogues.raw = dialogues.raw.saturating_sub(len);
            if !empty {
                dialogues.turns.push_back(id);
            }
            if len > 0 {
                let packet = self.take_id();
                self.outbox().push_raw(packet, id, pieces);
            }
            if empty {
                self.dismiss_when_drained(id, now);
            }
        }
    }

    /// What to write next, at most `max` slices more.
    pub fn slices<'a>(&'a self, slices: &mut impl Extend<IoSlice<'a>>, max: usize) {
        if let Some(outbox) = self.outbox.as_ref() {
            outbox.slices(slices, max);
        }
    }

    /// The transport took `n` bytes; `report` learns how many raw bytes of which dialogue were written.
    pub fn written(&mut self, n: usize, mut report: impl FnMut(DialogueId, u32)) {
        if let Some(outbox) = self.outbox.as_mut() {
            outbox.written(n, |done| report(DialogueId(done.session), done.bytes));
            if outbox.is_empty() {
                self.outbox = None;
            }
        }
    }

    /// Bytes handed to the transport and not yet written.
    #[must_use]
    pub fn sending(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    /// Bytes of calls, messages and answers waiting for the peer; raw bytes of dialogues do not count.
    #[must_use]
    pub fn operation_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.operation_bytes())
    }

    /// Bytes of memory held for the peer in either direction.
    #[must_use]
    pub fn held(&self) -> usize {
        let operations = self.operations.as_ref().map_or(0, |operations| operations.held());
        self.sending()
            .saturating_add(self.reader.held())
            .saturating_add(self.dialogues.as_ref().map_or(0, |dialogues| dialogues.held()))
            .saturating_add(operations)
    }

    /// Whether the socket should be read. It should not while the user holds too many raw bytes: nothing else slows their writer.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        let unreleased = self.dialogues.as_ref().map_or(0, |dialogues| dialogues.unreleased);
        unreleased < self.limits.unreleased
    }

    /// The user is done with `n` raw bytes of a dialogue.
    pub fn release(&mut self, dialogue: DialogueId, n: usize, now: Micros) {
        let Some(dialogues) = self.dialogues.as_mut() else { return };
        if let Some(state) = dialogues.table.get_mut(&dialogue.0) {
            let n = state.release(n, now);
            dialogues.unreleased = dialogues.unreleased.saturating_sub(n);
        }
    }
}

#[cfg(test)]
mod tests;
