//! A shard: the sessions of one thread and everything that happens to them.
//!
//! One turn of the driver: time ([`Shard::set_now`]), bytes of ready sockets ([`Shard::on_bytes`]), messages ([`Shard::on_msg`]), timers
//! ([`Shard::on_tick`]); then it writes what is dirty ([`Shard::next_dirty`], [`Shard::fill`], [`Shard::written`]), carries out
//! [`Action`]s and posts the batches for other shards. Nothing here waits.
//!
//! - `ops`: calls and messages
//! - `legs`: user streams
//! - `admission`: from Hello to Welcome, takeover, presence events
//! - `awaiting`: edges that wait for a service that knows their ID
//! - `geminio`: the same for sessions that speak geminio
//! - `output`: what goes next on the socket of a session
//! - `faults`: refusals, and what becomes of who breaks a rule
//! - `lifecycle`: timers, closing, drain
//! - `log`: the lines about sessions
//! - `newcomers`: connections before their Hello, and places for sessions
//! - `walks`: looks at many sessions, a few of them per turn

mod admission;
#[cfg(any(test, feature = "testing"))]
pub mod audit;
mod awaiting;
mod control;
mod faults;
mod geminio;
mod legs;
mod lifecycle;
mod log;
mod newcomers;
mod ops;
mod output;
mod presence;
mod soon;
pub mod walks;

use std::{
    any::Any,
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use frontier_ops::complaints::Complaints;
use frontier_wire::{
    geminio::{connection::Connection as Geminio, limits::Limits as GeminioLimits},
    native::{
        connection::{Connection, ConnectionError, Event, Input},
        frame::{FrameHeader, FrameType},
        head::HeadError,
        hello::Hello,
        limits::FrameLimits,
        reader::{Frame, Piece},
    },
    sniff::{Sniff, sniff},
    yamux::Config,
};
use hashbrown::HashMap;

use self::log::Because;
pub(in crate::core) use self::ops::Bodies;
pub use self::{geminio::Dialogue, log::Stranger};
use crate::core::{
    Bound, Now,
    dialect::Dialect,
    exchange::mix,
    identity::Subject,
    message::{Adopt, Batch, Body, Msg},
    names::Interner,
    registry::NameCache,
    session::{Greeting, Phase, Session, Step},
    shared::Shared,
    stats::{Refusal, Stats},
    table::{SessionRef, Table},
    timer::Wheel,
};

/// Bytes handed to the transport at a time: beyond it a frame that arrives later could no longer overtake.
pub const WRITE_BUDGET: usize = 128 << 10;

/// Why a session ends whose peer broke a rule of its protocol.
const PROTOCOL_ERROR: &str = "protocol error";

/// Fault point: a call of this method panics while its session is handled. The message of that panic tells a binary that has it.
#[cfg(any(test, feature = "testing"))]
pub const PANIC: &str = "frontier.fault.panic";

/// Fault point: after a call of this method the session's timer panics, once.
#[cfg(any(test, feature = "testing"))]
pub const PANIC_IN_TIMER: &str = "frontier.fault.timer";

/// Fault point: after a call of this method the shard's thread panics.
#[cfg(any(test, feature = "testing"))]
pub const PANIC_IN_SHARD: &str = "frontier.fault.shard";

/// What the driver has to do for the core.
#[derive(Debug)]
pub enum Action {
    /// The session is over: close its socket.
    Close(SessionRef),
    /// The socket of the session may be read again.
    Read(SessionRef),
    /// Its first bytes are of a protocol that the core does not speak; the session is gone, the socket is the driver's, which tells
    /// [`Shard::on_handover`] what became of it.
    Foreign {
        /// The handle it had here.
        session: SessionRef,
        /// Who it is.
        stranger: Stranger,
        /// What it has said.
        bytes: Vec<u8>,
    },
    /// Take the connection out of this shard and send it to another, which answers its Hello.
    Move {
        /// The handle it had here.
        session: SessionRef,
        /// The shard it belongs to.
        shard: u16,
        /// Everything but the driver's part.
        moved: Box<Moved>,
    },
}

/// What became of a connection whose protocol the core does not speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// Nobody takes such connections here: it is closed.
    Nobody,
    /// It is piped to a target of the bypass.
    Piped,
    /// It would be, but there are as many pipes as there may be: it is closed.
    Full,
}

/// A session on its way to another shard.
#[derive(Debug)]
pub struct Moved {
    /// The session.
    pub session: Session,
    /// What it has said.
    pub said: Said,
}

/// What a session had said when it moved.
#[derive(Debug)]
pub struct Said {
    /// Its Hello.
    pub hello: Vec<u8>,
    /// Payload of the session stream not handled yet.
    pub frames: Vec<u8>,
    /// Bytes of the connection not handled yet.
    pub raw: Vec<u8>,
}

/// A rule that a peer broke; its session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Geminio(#[from] frontier_wire::geminio::connection::Fault),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("{} frame where none may be", .0.name())]
    Unexpected(FrameType),
    #[error("Hello cannot be read")]
    Hello,
    #[error("operation id {0} is in use")]
    IdInUse(u64),
    #[error("more body bytes than announced or granted")]
    Overrun,
    #[error("answer does not match its operation")]
    WrongAnswer,
    #[error("too many control frames, or answers that are not read")]
    Flood,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Shard {
    id: u16,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    sessions: Table<Session>,
    /// The slots of connections to the listener of services: few, so what is about them need not look at the edges.
    services: BTreeSet<u32>,
    wheel: Wheel,
    #[cfg(any(test, feature = "testing"))]
    faulty: Option<SessionRef>,
    #[cfg(any(test, feature = "testing"))]
    doomed: bool,
    now: Now,
    dirty: VecDeque<SessionRef>,
    actions: VecDeque<Action>,
    posts: Vec<Batch>,
    names: NameCache,
    interner: Interner,
    /// Bytes accounted for the sets of names.
    names_held: usize,
    /// Bytes that the transport holds for a session besides the core; most hold none.
    transport: HashMap<SessionRef, u32>,
    random: u64,
    /// Keeps what peers choose apart, see `ops::flow`.
    secret: u64,
    /// Connections that have not said who they are.
    newcomers: newcomers::Newcomers,
    /// Sessions that may still begin, and when the bucket was filled last.
    tokens: (u32, u64),
    config: Config,
    /// What geminio peers are held to.
    geminio: Arc<GeminioLimits>,
    /// Sessions to be looked at before the wheel's next tick.
    soon: soon::Soon,
    /// Geminio sessions that are to be closed in a drain, each at its time.
    departures: soon::Soon,
    complaints: Complaints,
    /// Of edges and of services.
    drains: [Option<lifecycle::DrainCursor>; 2],
    /// The next slot of which the edge is sent away for good.
    dismissal: Option<u32>,
    /// Fragments that go another way than their operation was sent at first.
    detours: ops::Detours,
    /// Messages that external queues have not confirmed.
    handed: ops::Handed,
    /// Messages of the async world that edges have not answered.
    delivered: ops::Delivered,
    /// Edges that wait for a service that knows their ID.
    awaiting: awaiting::Awaiting,
    /// Who wants to know what is in the table, the oldest first.
    walks: VecDeque<walks::Walk>,
    /// When the largest holders were looked for last, in microseconds.
    culled: u64,
    /// Where small payloads for other shards are copied to.
    arena: bytes::BytesMut,
    /// What an operation of a geminio peer is read into.
    scratch: geminio::Scratch,
}

// === impl Shard ===

impl Shard {
    /// An empty shard. The seed makes its random choices repeatable.
    #[must_use]
    pub fn new(id: u16, shared: Arc<Shared>, now: Now, seed: u64) -> Self {
        let settings = &shared.settings;
        let config = Config {
            max_window: settings.stream_window_max,
            // Those beyond the limit are told so before they go, and so are those that nobody accepts: there is room for that.
            max_streams: settings.streams_per_session.saturating_mul(2).saturating_add(1),
            ..Config::default()
        };
        Self {
            id,
            stats: Arc::clone(&shared.stats[usize::from(id)]),
            sessions: Table::new(id),
            services: BTreeSet::new(),
            wheel: Wheel::new(now.micros),
            #[cfg(any(test, feature = "testing"))]
            faulty: None,
            #[cfg(any(test, feature = "testing"))]
            doomed: false,
            now,
            dirty: VecDeque::new(),
            actions: VecDeque::new(),
            posts: (0..shared.stats.len()).map(|_| Batch::default()).collect(),
            names: NameCache::default(),
            interner: Interner::default(),
            names_held: 0,
            transport: HashMap::new(),
            random: mix(seed),
            secret: mix(seed ^ 0xa076_1d64_78bd_642f),
            newcomers: newcomers::Newcomers::default(),
            tokens: (0, 0),
            config,
            geminio: Arc::new(geminio::limits(settings)),
            soon: soon::Soon::default(),
            departures: soon::Soon::default(),
            complaints: Complaints::default(),
            drains: [None; 2],
            dismissal: None,
            detours: ops::Detours::default(),
            handed: ops::Handed::default(),
            delivered: ops::Delivered::default(),
            awaiting: awaiting::Awaiting::default(),
            walks: VecDeque::new(),
            culled: 0,
            arena: bytes::BytesMut::new(),
            scratch: geminio::Scratch::default(),
            shared,
        }
    }

    /// This shard's number.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// What all shards share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// This shard's counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Sessions in the shard, those still in their handshake or closing included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Fault point: whether the thread is to panic.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn is_doomed(&self) -> bool {
        self.doomed
    }

    /// Whether the shard has no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The time of this turn.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// A new connection; `None` if there is no room for it.
    pub fn accept(
        &mut self,
        bound: Bound,
        addr: SocketAddr,
        subject: Option<Arc<Subject>>,
    ) -> Option<SessionRef> {
        self.stats.accepts.add(1);
        if !self.shared.takes_connection(bound) {
            self.refused(Refusal::Full);
            let stranger = Stranger { bound, protocol: None, id: None, addr: Some(addr) };
            self.log_refused(stranger, Because::reason("no room for another connection"));
            return None;
        }
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        let deadline = self.now.micros + self.shared.settings.handshake;
        let greeting = Greeting {
            addr,
            subject,
            first: Vec::new(),
            deadline,
            hello: None,
            hello_held: 0,
            grant: Default::default(),
            step: Step::None,
            asked: None,
            lost: 0,
        };
        let mut session = Session::new(Dialect::Native(Connection::accept(&self.config)), bound, greeting);
        session.last_rx = self.now.micros;
        let me = self.insert(session);
        self.wake_at(me, deadline);
        Some(me)
    }

    fn insert(&mut self, session: Session) -> SessionRef {
        let bound = session.bound;
        let me = self.sessions.insert(session);
        if bound == Bound::Service {
            self.services.insert(me.slot);
        }
        self.add_newcomer(me);
        me
    }

    /// So much of the time to Welcome was used before the connection came here.
    pub fn hasten(&mut self, me: SessionRef, used: u64) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Some(greeting) = session.greeting.as_mut() else { return };
        greeting.deadline = greeting.deadline.saturating_sub(used).max(self.now.micros);
        let deadline = greeting.deadline;
        self.wake_at(me, deadline);
    }

    /// Takes over a session from another shard. What it has said goes to [`Shard::on_moved`] as soon as the driver has its socket.
    pub fn adopt(&mut self, mut session: Session) -> SessionRef {
        session.dirty = false;
        session.wake = u64::MAX;
        let me = self.insert(session);
        self.wake_at(me, self.now.micros + self.shared.settings.handshake);
        me
    }

    /// What an adopted session has said already.
    pub fn on_moved(&mut self, me: SessionRef, said: &Said) {
        let outcome = self.on_hello(me, &said.hello);
        self.outcome(me, outcome);
        if self.sessions.get(me).is_some() {
            self.drive(me, Input::resume(said.frames.as_slice(), said.raw.as_slice()));
        }
        self.settle(me);
    }

    /// Bytes from a peer.
    pub fn on_bytes(&mut self, me: SessionRef, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        session.last_rx = self.now.micros;
        self.stats.bytes_in.add(bytes.len() as u64);
        let joined;
        let mut bytes = bytes;
        if session.phase == Phase::New {
            if let Some(greeting) = session.greeting.as_mut()
                && !greeting.first.is_empty()
            {
                greeting.first.extend_from_slice(bytes);
                joined = std::mem::take(&mut greeting.first);
                bytes = &joined;
            }
            match sniff(bytes) {
                Sniff::NeedMore => {
                    if let Some(greeting) = session.greeting.as_mut() {
                        greeting.first = bytes.to_vec();
                    }
                    return self.touch(me);
                }
                first if self.shared.settings.protocols(session.bound).takes(first) => {
                    session.phase = Phase::Greeting;
                    if first == Sniff::Geminio {
                        self.stats.geminio_open.add(1);
                        let limits = Arc::clone(&self.geminio);
                        session.conn = Dialect::Geminio(Geminio::serve(limits, self.now.micros));
                    }
                }
                _ => return self.foreign(me, bytes),
            }
        }
        match session.conn {
            Dialect::Native(_) => self.drive(me, Input::new(bytes)),
            Dialect::Geminio(_) => self.drive_geminio(me, bytes),
        }
        self.settle(me);
    }

    /// Whether the socket of a session should be read; if not, [`Action::Read`] says when it should be again.
    pub fn wants_read(&mut self, me: SessionRef) -> bool {
        let Some(session) = self.sessions.get_mut(me) else { return true };
        session.unread = !session.conn.wants_read();
        !session.unread
    }

    /// Whether the next bytes of a session should be read straight into [`Shard::direct_buffer`], and how many.
    pub fn direct_want(&mut self, me: SessionRef) -> usize {
        self.sessions.get_mut(me).map_or(0, |session| session.conn.direct_want())
    }

    /// The buffer to append to, followed by [`Shard::on_direct`].
    pub fn direct_buffer(&mut self, me: SessionRef) -> Option<&mut Vec<u8>> {
        let session = self.sessions.get_mut(me)?;
        session.conn.direct_buffer()?;
        // The buffer stays if the read brings nothing.
        account(&self.shared, &self.stats, session);
        session.conn.direct_buffer()
    }

    /// `n` bytes were appended to the direct buffer.
    pub fn on_direct(&mut self, me: SessionRef, n: usize) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        session.last_rx = self.now.micros;
        self.stats.bytes_in.add(n as u64);
        match &mut session.conn {
            Dialect::Native(conn) => {
                let outcome = match conn.finish_direct::<&[u8]>(n) {
                    Ok(None) => Ok(()),
                    Ok(Some(event)) => self.on_event(me, event),
                    Err(error) => Err(error.into()),
                };
                self.outcome(me, outcome);
                // What was read may have been the last of a yamux frame that also ends its stream.
                self.drive(me, Input::new(&[]));
            }
            Dialect::Geminio(_) => self.finish_direct_geminio(me),
        }
        self.settle(me);
    }

    /// The transport of a session holds so many bytes besides the core: incomplete records of TLS, and those that the socket did not
    /// take.
    pub fn set_transport_held(&mut self, me: SessionRef, held: usize) {
        if self.sessions.get(me).is_none() {
            return;
        }
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        let before = if held == 0 { self.transport.remove(&me) } else { self.transport.insert(me, held) };
        self.shared.account(before.unwrap_or(0) as usize, held as usize);
    }

    /// The session is gone, or goes elsewhere: nothing is held for it any more but what it takes along.
    fn forget_transport(&mut self, me: SessionRef) {
        // Most sessions never have an entry, and hashing costs more than looking.
        if !self.transport.is_empty()
            && let Some(held) = self.transport.remove(&me)
        {
            self.shared.account(held as usize, 0);
        }
    }

    /// Keeps the books on the memory of names, which sessions share.
    fn account_names(&mut self) {
        let held = self.interner.held();
        self.shared.account(std::mem::replace(&mut self.names_held, held), held);
    }

    fn drive(&mut self, me: SessionRef, mut input: Input<&[u8]>) {
        loop {
            let Some(session) = self.sessions.get_mut(me) else { return };
            let limits = match session.phase {
                Phase::New | Phase::Greeting => FrameLimits::HELLO,
                // Whose head is longer than `limits.head` has one operation refused, not its session ended.
                Phase::Admitting | Phase::Ready => FrameLimits::GATEWAY,
                Phase::Closing => return,
            };
            let Some(conn) = session.conn.native() else { return };
            let event = match conn.receive(&mut input, &limits) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => return self.fault(me, error.into()),
            };
            if let Event::Frame(frame) = &event
                && frame.header.kind == FrameType::Hello
                && let Some(shard) = self.home(me, frame)
            {
                return self.emigrate(me, shard, frame.head.to_vec(), input);
            }
            let outcome = self.on_event(me, event);
            self.outcome(me, outcome);
        }
    }

    fn on_event(&mut self, me: SessionRef, event: Event<&[u8]>) -> Result<(), Fault> {
        match event {
            Event::Frame(frame) => self.on_frame(me, frame),
            Event::StreamOpened(stream) => self.on_stream_opened(me, stream),
            Event::StreamData(stream, piece) => self.on_stream_data(me, stream, piece),
            Event::StreamFinished(stream) => {
                self.on_stream_finished(me, stream);
                Ok(())
            }
            Event::StreamReset(stream) => {
                self.on_stream_reset(me, stream);
                Ok(())
            }
            Event::Ended => {
                self.note_early_end(me);
                self.end(me, "peer closed");
                Ok(())
            }
        }
    }

    fn on_frame(&mut self, me: SessionRef, frame: Frame<&[u8]>) -> Result<(), Fault> {
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        let kind = frame.header.kind;
        match (session.phase, kind) {
            (Phase::Greeting, FrameType::Hello) => self.on_hello(me, &frame.head),
            (Phase::Greeting | Phase::New, _) => Err(Fault::Unexpected(kind)),
            (Phase::Closing, _) => Ok(()),
            (Phase::Admitting | Phase::Ready, FrameType::Ping) => {
                session.conn.send(FrameHeader::new(FrameType::Pong, frame.header.id), &[], &[]);
                self.control_frame(me)
            }
            (Phase::Admitting | Phase::Ready, FrameType::Pong | FrameType::Unknown(_)) => {
                self.control_frame(me)
            }
            (Phase::Admitting, _) => Err(Fault::Unexpected(kind)),
            (Phase::Ready, FrameType::Request | FrameType::Publish) => self.on_operation(me, frame),
            (Phase::Ready, FrameType::Response | FrameType::Ack) => self.on_answer(me, frame),
            (Phase::Ready, FrameType::Credit) => self.on_credit(me, &frame),
            (Phase::Ready, FrameType::Cancel) => self.on_cancel(me, &frame),
            (Phase::Ready, FrameType::Register | FrameType::Unregister) => self.on_names(me, &frame),
            // Edges learn nothing of each other.
            (Phase::Ready, FrameType::Locate | FrameType::Presence) if session.service.is_none() => {
                Err(Fault::Unexpected(kind))
            }
            (Phase::Ready, FrameType::Locate) => self.on_locate(me, &frame),
            (Phase::Ready, FrameType::Presence) => self.on_presence(me, &frame),
            (Phase::Ready, FrameType::GoAway) => self.on_go_away(me, &frame),
            (
                Phase::Ready,
                FrameType::Hello
                | FrameType::Welcome
                | FrameType::Reject
                | FrameType::Open
                | FrameType::OpenAck
                | FrameType::Data,
            ) => Err(Fault::Unexpected(kind)),
        }
    }

    /// After bytes were handled: limits on control frames, memory, output.
    fn settle(&mut self, me: SessionRef) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        let ceiling = session.ceiling(&self.shared.settings);
        let control = session.conn.native().map_or(0, |conn| conn.engine_mut().take_counts().control);
        let crowded = session.phase == Phase::Ready && session.conn.operation_bytes() > ceiling;
        if control > 0
            && let Err(fault) = self.control_frames(me, u32::from(control))
        {
            self.fault(me, fault);
        }
        if crowded {
            self.fault(me, Fault::Flood);
        }
        self.touch(me);
    }

    /// Whether more waits for a peer than even what never waits for room may make it: it asks, and never reads the answers.
    fn is_crowded(&self, me: SessionRef) -> bool {
        self.sessions.get(me).is_some_and(|session| {
            session.phase == Phase::Ready
                && session.conn.operation_bytes() > session.ceiling(&self.shared.settings)
        })
    }

    /// After something that never waits for room was sent: what others do can crowd a session, too.
    fn note_crowd(&mut self, me: SessionRef) {
        if self.is_crowded(me) {
            self.wake_at(me, self.now.micros);
        }
    }

    fn control_frame(&mut self, me: SessionRef) -> Result<(), Fault> {
        self.control_frames(me, 1)
    }

    fn control_frames(&mut self, me: SessionRef, many: u32) -> Result<(), Fault> {
        let second = (self.now.micros / 1_000_000) as u16;
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        if session.second != second {
            (session.control, session.second) = (0, second);
        }
        session.control = session.control.saturating_add(many);
        if session.control > self.shared.settings.control_frames { Err(Fault::Flood) } else { Ok(()) }
    }

    /// Puts a session on the dirty list if it has something to send, and keeps the books on its memory.
    fn touch(&mut self, me: SessionRef) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        if session.is_done(self.now.micros) {
            lifecycle::release(session);
        }
        account(&self.shared, &self.stats, session);
        if !session.dirty && session.conn.wants_write(self.now.micros) && session.stalled == 0 {
            session.dirty = true;
            self.dirty.push_back(me);
        }
        if let Dialect::Geminio(conn) = &session.conn {
            let at = conn.poll_timeout();
            if session.unread && conn.wants_read() {
                session.unread = false;
                self.actions.push_back(Action::Read(me));
            }
            self.wake_soon(me, at);
        }
    }

    /// The next thing the driver has to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Messages for another shard, to be taken out.
    pub fn posts(&mut self, shard: u16) -> Option<&mut Batch> {
        self.posts.get_mut(usize::from(shard)).filter(|batch| !batch.is_empty())
    }

    fn post(&mut self, shard: u16, msg: Msg) {
        debug_assert_ne!(shard, self.id, "local work is done directly: nobody takes this batch out");
        if let Some(batch) = self.posts.get_mut(usize::from(shard)) {
            batch.push(msg);
        }
    }

    /// Whether the inbox of a shard has room for operations. Full, it refuses them, and what else carries bodies; answers without
    /// one, cancels, credits and the bytes of streams, which windows bound, always go.
    fn has_mail_room(&self, shard: u16) -> bool {
        let Some(batch) = self.posts.get(usize::from(shard)) else { return false };
        self.shared.mail(shard) + (batch.held() as u64) < self.shared.settings.inbox()
    }

    /// What the driver did with a connection of [`Action::Foreign`].
    pub fn on_handover(&mut self, stranger: Stranger, handover: Handover) {
        let (why, reason) = match handover {
            // As many lines as there are connections would be too many: bypass is there for those of whole applications.
            Handover::Piped => return self.stats.piped.add(1),
            Handover::Nobody => (Refusal::Protocol, "foreign protocol"),
            Handover::Full => (Refusal::Full, "no room for another pipe"),
        };
        self.refused(why);
        self.log_refused(stranger, Because::reason(reason));
    }

    /// The shard a service connection belongs to, unless it is this one.
    fn home(&self, me: SessionRef, frame: &Frame<&[u8]>) -> Option<u16> {
        let session = self.sessions.get(me)?;
        if session.bound != Bound::Service || session.phase != Phase::Greeting || self.posts.len() < 2 {
            return None;
        }
        let index = Hello::pool_index_of(&frame.head)?;
        let shard = u16::try_from(index as usize % self.posts.len()).ok()?;
        (shard != self.id).then_some(shard)
    }

    fn emigrate(&mut self, me: SessionRef, shard: u16, hello: Vec<u8>, input: Input<&[u8]>) {
        let Some(mut session) = self.take_out(me) else { return };
        self.stats.outbox_bytes.sub(u64::from(std::mem::take(&mut session.queued)));
        let (frames, raw) = input.rest();
        let frames = frames.unwrap_or_default().to_vec();
        let moved = Box::new(Moved { session, said: Said { hello, frames, raw: raw.to_vec() } });
        self.actions.push_back(Action::Move { session: me, shard, moved });
    }

    /// Sends a moved session and the driver's part of it to its shard.
    pub fn send_moved(&mut self, shard: u16, moved: Box<Moved>, io: Box<dyn Any + Send>) {
        self.post(shard, Msg::Adopt(Box::new(Adopt { moved: *moved, io })));
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }
}

/// Keeps the books on a session's memory.
fn account(shared: &Shared, stats: &Stats, session: &mut Session) {
    let held = u32::try_from(session.held()).unwrap_or(u32::MAX);
    if held != session.held {
        shared.account(session.held as usize, held as usize);
        session.held = held;
    }
    let queued = u32::try_from(session.conn.outbox_bytes()).unwrap_or(u32::MAX);
    if queued != session.queued {
        stats.outbox_bytes.add(u64::from(queued));
        stats.outbox_bytes.sub(u64::from(session.queued));
        session.queued = queued;
    }
}

/// The body of a frame, by reference if the decoder assembled it.
fn body(piece: Piece<&[u8]>) -> Body<'_> {
    match piece {
        Piece::Input(slice) => Body::Slice(slice),
        Piece::Owned(bytes) => Body::Shared(bytes),
    }
}
