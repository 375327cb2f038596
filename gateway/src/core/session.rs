//! A session: one peer's connection and everything the gateway knows of it.
//!
//! What an idle edge does not use is an `Option<Box<…>>`, interned or absent; a test below keeps the struct small.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU32},
};

use frontier_wire::{
    geminio::packet::MAX_BODY,
    native::{head::Sender, hello::Hello, reader::FrameReader},
};
use hashbrown::HashMap;

use crate::core::{
    Bound,
    card::EdgeCard,
    deadlines::{Deadlines, tick},
    dialect::Dialect,
    exchange::Policy,
    footprint::block,
    identity::Subject,
    message::{LegId, LegRef},
    names::NameSet,
    registry::{InstanceRef, Latecomers, NameKind},
    shard::{Bodies, Dialogue},
    shared::Settings,
    stats::OpKind,
    table::SessionRef,
};

/// What a name of a service takes in the registry beside its own copy there: the entry, the list of instances and one of them.
pub const REGISTERED: usize = 256;

/// Fewer answers than this that may still come are not worth remembering when there is nothing else to.
const OWED_FORGOTTEN: u32 = 64;

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has come yet; the protocol is unknown.
    New,
    /// It speaks the native protocol; Hello has not come yet.
    Greeting,
    /// Services are asked about it.
    Admitting,
    /// Welcomed.
    Ready,
    /// It has lost its routes; the last bytes go out.
    Closing,
}

/// Whether a session stays, as far as it and the gateway have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Nobody has said otherwise.
    Stays,
    /// It was told that the gateway is draining.
    SentAway,
    /// It has said that it goes, or is cut: nothing new is sent to it.
    Leaves,
    /// As `Leaves`, and it was told that nothing of it is under way any more.
    Released,
    /// It was sent away and is at another gateway now: nothing new is sent to it, and it finishes what it has and starts nothing.
    Moved,
    /// As `Moved`, and it was told that nothing of it is under way any more.
    MovedReleased,
}

/// Bytes that an ID takes in a tree whose nodes are two thirds full.
const LATECOMER: usize = 16;

/// See the module documentation.
#[derive(Debug)]
pub struct Session {
    /// The protocol state.
    pub conn: Dialect,
    /// The edge's card; shared with the registry.
    pub card: Option<Arc<EdgeCard>>,
    /// What only services have.
    pub service: Option<Box<ServiceSide>>,
    /// What only a session in its handshake has.
    pub greeting: Option<Box<Greeting>>,
    /// Operations in flight.
    pub ops: Option<Box<Ops>>,
    /// User streams.
    pub legs: Option<Box<Legs>>,
    /// Methods of an edge.
    pub methods: Option<Arc<NameSet>>,
    /// Reserved methods this identity may use; few sessions have a list of their own.
    pub reserved: Option<Box<Arc<[String]>>>,
    /// The next operation ID towards this peer.
    pub next_id: u64,
    /// When it must next be looked at, in microseconds; `u64::MAX` = never.
    pub wake: u64,
    /// When bytes last came, in microseconds.
    pub last_rx: u64,
    /// Since when bytes wait without any being taken, in microseconds; 0 = none wait.
    pub stalled: u64,
    /// Since when operations wait for window of the session stream without any being sent, in microseconds; 0 = none wait.
    pub starved: u64,
    /// Seconds since 1970 at Welcome.
    pub since: u32,
    /// Bytes accounted for this session in the memory budget.
    pub held: u32,
    /// Bytes that wait to be written to it.
    pub queued: u32,
    /// Control frames in the current second.
    pub control: u32,
    /// Which second that is, wrapping.
    pub second: u16,
    /// The listener it came in by.
    pub bound: Bound,
    /// Where it is in its life.
    pub phase: Phase,
    /// It has a place among `limits.sessions`.
    pub placed: bool,
    /// On the shard's list of sessions with something to send.
    pub dirty: bool,
    /// Whether it stays.
    pub stay: Stay,
    /// Its socket is not read, because what it has sent cannot go on.
    pub unread: bool,
}

/// What a service session has beyond an edge.
#[derive(Debug)]
pub struct ServiceSide {
    /// Its instance.
    pub instance: InstanceRef,
    /// The service name, possibly empty.
    pub name: Arc<str>,
    /// Where it connected from.
    pub addr: SocketAddr,
    /// Topics it takes; shared with those who list them.
    pub topics: Arc<NameSet>,
    /// Methods it offers.
    pub methods: Arc<NameSet>,
    /// A list of who is online that it is being sent.
    pub snapshot: Option<Box<Snapshot>>,
}

/// A list of edges that is made and sent step by step, as the service keeps up.
#[derive(Debug)]
pub struct Snapshot {
    /// The ID of the question.
    pub id: u64,
    /// The shard that is looked at, and the slot there; one past the last shard when all have been.
    pub place: (u16, u32),
    /// A step of the walk is under way.
    pub waits: bool,
    /// Found and not sent yet.
    pub cards: Vec<Arc<EdgeCard>>,
    /// Those who came meanwhile, perhaps to where the walk has been already.
    pub late: Arc<Latecomers>,
    /// How many they were when it was looked at last.
    pub latecomers: usize,
}

/// What is needed until Welcome.
#[derive(Debug)]
pub struct Greeting {
    /// Where it connected from.
    pub addr: SocketAddr,
    /// Subject of its client certificate.
    pub subject: Option<Arc<Subject>>,
    /// First bytes that do not tell the protocol yet: a few at most.
    pub first: Vec<u8>,
    /// When the handshake must be done, in microseconds.
    pub deadline: u64,
    /// What it said in Hello.
    pub hello: Option<Box<Hello>>,
    /// Bytes of memory that this takes.
    pub hello_held: usize,
    /// What it was granted.
    pub grant: crate::core::identity::Grant,
    /// Which answer it waits for.
    pub step: Step,
    /// The question whose answer that is.
    pub asked: Option<Asked>,
    /// How often a service went away before it answered.
    pub lost: u8,
}

/// What a service was asked about an edge in its admission.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Who was asked.
    pub target: SessionRef,
    /// The ID of the question, here.
    pub id: u64,
    /// Its ID there; 0 = not known here (another shard).
    pub local: u64,
}

/// What an edge in its admission waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    None,
    /// A service that offers `get_edge_id` to come up, until this time.
    IdService(u64),
    /// The answer to `get_edge_id`.
    EdgeId,
    /// The answer to `edge_online`.
    Online,
}

/// Operations of a session.
#[derive(Debug, Default)]
pub struct Ops {
    /// Sent to this peer, by the ID it knows them by.
    pub pending: HashMap<u64, Pending>,
    /// When those must be answered.
    pub deadlines: Deadlines<u64>,
    /// The pending ones whose origin does not know that ID.
    pub index: HashMap<(SessionRef, u64), u64>,
    /// Started by this peer, by its own ID.
    pub outgoing: HashMap<u64, Outgoing>,
    /// Of `outgoing`, the messages.
    pub messages: u32,
    /// Where this peer's messages of a topic go while that lives.
    pub sticky: HashMap<u64, Sticky>,
    /// The registry's version when `sticky` was found full. From then on a new topic's target is not picked but computed, since
    /// whoever it was before, while there was no room to remember it, was computed as well.
    pub crowded: Option<u64>,
    /// Answers that may still come to what was given up.
    pub owed: u32,
    /// Bodies that are whole on one side and in fragments on the other.
    pub(in crate::core) bodies: Option<Box<Bodies>>,
}

/// Where a peer's messages of a topic go.
#[derive(Clone, Copy, Debug)]
pub struct Sticky {
    /// The key of the instance.
    pub instance: u64,
    /// Its connection.
    pub target: SessionRef,
}

/// An operation that this peer is to answer.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Whose it is.
    pub from: SessionRef,
    /// Its ID there.
    pub from_id: u64,
    /// In microseconds.
    pub deadline: u64,
    /// In microseconds.
    pub started: u64,
    /// Bytes of the answer that may still come without credit.
    pub reply_credit: u64,
    /// Bytes of the answer still announced.
    pub reply_left: u64,
    /// The order its body's fragments keep.
    pub flow: u64,
    /// Call or message.
    pub kind: OpKind,
    /// The first frame of the answer has come.
    pub replying: bool,
    /// Its body is not complete yet.
    pub receiving: bool,
}

/// An operation that this peer has started.
#[derive(Debug)]
pub struct Outgoing {
    /// Who carries it out.
    pub target: SessionRef,
    /// Its ID there; 0 = not known here (another shard).
    pub local: u64,
    /// Bytes of the body that may still come without credit.
    pub credit: u64,
    /// Bytes of the body still announced.
    pub left: u64,
    /// When its answer, the last byte of it included, must be on its way; in microseconds.
    pub deadline: u64,
    /// Counts it down at its end, under the policy that needs it.
    pub in_flight: Option<Arc<AtomicU32>>,
    /// Call or message.
    pub kind: OpKind,
    /// The body's last fragment has not come.
    pub sending: bool,
    /// Fragments of the answer have been passed on.
    pub replying: bool,
    /// The peer has set the deadline, by its own clock.
    pub own_deadline: bool,
    /// Of a geminio peer: the method, in base64, to be repeated in the answer.
    pub method: Option<Box<[u8]>>,
}

/// User streams of a session, by the number they have there.
#[derive(Debug, Default)]
pub struct Legs {
    legs: HashMap<LegId, Leg>,
    deadlines: Deadlines<LegId>,
    /// Bytes of memory in frames that are not complete: what the readers of all legs hold together.
    pub reading: usize,
}

/// This session's end of a user stream.
#[derive(Debug)]
pub struct Leg {
    /// Where it is in its life.
    pub state: LegState,
    /// The other end; known once it exists.
    pub peer: Option<LegRef>,
    /// The peer half-closed.
    pub finished_in: bool,
    /// We half-closed.
    pub finished_out: bool,
    /// The window granted on it, in bytes.
    pub window: u32,
    /// Bytes released since the window last grew.
    pub released: u32,
    /// Until when Open must be answered, in microseconds; changed by [`Legs::set_deadline`] alone.
    pub deadline: u64,
    /// When it was opened, in microseconds.
    pub started: u64,
    /// What only a stream of a geminio session has.
    pub dialogue: Option<Box<Dialogue>>,
}

/// Where a leg is in its life.
#[derive(Debug)]
pub enum LegState {
    /// The peer opened it; its Open is being read.
    Opening(FrameReader),
    /// Its Open was passed on; nothing may come from the opener.
    Waiting,
    /// We opened it; its OpenAck is being read.
    Offered(FrameReader),
    /// Bytes are passed on.
    Open,
    /// The opener was told that nobody accepts; it has yet to close.
    Refused,
}

// === impl Session ===

impl Session {
    /// A fresh connection.
    #[must_use]
    pub fn new(conn: Dialect, bound: Bound, greeting: Greeting) -> Self {
        Self {
            conn,
            card: None,
            service: None,
            greeting: Some(Box::new(greeting)),
            ops: None,
            legs: None,
            methods: None,
            reserved: None,
            next_id: 1,
            wake: u64::MAX,
            last_rx: 0,
            stalled: 0,
            starved: 0,
            since: 0,
            held: 0,
            queued: 0,
            control: 0,
            second: 0,
            bound,
            phase: Phase::New,
            placed: false,
            dirty: false,
            stay: Stay::Stays,
            unread: false,
        }
    }

    /// The edge or service ID; 0 before it has one.
    #[must_use]
    pub fn id(&self) -> u64 {
        match (&self.card, &self.service) {
            (Some(card), _) => card.id,
            (None, Some(service)) => service.instance.service_id,
            (None, None) => 0,
        }
    }

    /// Whether it has not said yet who it is.
    #[must_use]
    pub const fn is_newcomer(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Greeting)
    }

    /// Whether nothing new is sent to it.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        !matches!(self.stay, Stay::Stays | Stay::SentAway)
    }

    /// Whether it is at another gateway now.
    #[must_use]
    pub const fn has_moved(&self) -> bool {
        matches!(self.stay, Stay::Moved | Stay::MovedReleased)
    }

    /// Whether it leaves, neither side waits for anything of the other (no operation, no stream, no byte to be written), and it was not told
    /// so yet.
    #[must_use]
    pub fn is_done(&self, now: u64) -> bool {
        let idle = |ops: &Ops| ops.pending.is_empty() && ops.outgoing.is_empty();
        matches!(self.stay, Stay::Leaves | Stay::Moved)
            && self.phase == Phase::Ready
            && self.ops.as_deref().is_none_or(idle)
            && self.legs.as_deref().is_none_or(Legs::is_empty)
            && !self.conn.wants_write(now)
    }

    /// What the policy chooses its instances by.
    #[must_use]
    pub fn choice_key(&self, policy: Policy) -> u64 {
        policy.key(self.id(), self.addr().map(|addr| addr.ip()))
    }

    /// Where it connected from.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        match (&self.card, &self.service, &self.greeting) {
            (Some(card), ..) => Some(card.addr.socket()),
            (None, Some(service), _) => Some(service.addr),
            (None, None, Some(greeting)) => Some(greeting.addr),
            (None, None, None) => None,
        }
    }

    /// Bytes that may wait for it in all: to a geminio peer a payload goes in one packet, however long.
    #[must_use]
    pub const fn ceiling(&self, settings: &Settings) -> usize {
        match self.conn {
            Dialect::Native(_) => settings.outbox_ceiling(),
            Dialect::Geminio(_) => settings.outbox_ceiling().saturating_add(MAX_BODY as usize),
        }
    }

    /// What a receiver is told of this sender.
    #[must_use]
    pub fn sender(&self) -> Sender {
        match &self.service {
            Some(service) => Sender::Service(service.instance.service_id),
            None => Sender::Edge(self.id()),
        }
    }

    /// Whether its identity entitles it to a reserved method.
    #[must_use]
    pub fn may(&self, method: &str) -> bool {
        self.reserved.as_ref().is_some_and(|reserved| reserved.iter().any(|allowed| allowed == method))
    }

    /// Operations, made on demand.
    pub fn ops(&mut self) -> &mut Ops {
        self.ops.get_or_insert_default()
    }

    /// Frees what is empty.
    pub fn tidy(&mut self) {
        if self.ops.as_ref().is_some_and(|ops| ops.is_empty()) {
            self.ops = None;
        } else if let Some(ops) = self.ops.as_mut().filter(|ops| ops.pending.is_empty()) {
            ops.deadlines = Deadlines::default();
        }
        if self.legs.as_ref().is_some_and(|legs| legs.is_empty()) {
            self.legs = None;
        }
    }

    /// Bytes of memory that it takes beyond its fixed size, but for the names of an edge, which many may share. Costs a few additions:
    /// it is asked for after everything that happens to a session.
    #[must_use]
    pub fn held(&self) -> usize {
        self.conn.held()
            + self.card.as_ref().map_or(0, |card| card.held())
            + self.service.as_ref().map_or(0, |side| side.held())
            + self.greeting.as_ref().map_or(0, |greeting| greeting.held())
            + self.ops.as_ref().map_or(0, |ops| ops.held())
            + self.legs.as_ref().map_or(0, |legs| legs.held())
    }
}

// === impl Greeting ===

impl Greeting {
    /// Keeps what the peer said.
    pub fn keep(&mut self, hello: Hello) {
        self.hello_held = size_of::<Hello>() + said(&hello);
        self.hello = Some(Box::new(hello));
    }

    /// Takes out what an edge's card is made of.
    pub fn take_card(&mut self) -> (Vec<u8>, BTreeMap<String, String>) {
        let Some(hello) = self.hello.as_mut() else { return Default::default() };
        let (meta, labels) = (std::mem::take(&mut hello.meta), std::mem::take(&mut hello.labels));
        self.hello_held = size_of::<Hello>() + said(hello);
        (meta, labels)
    }

    /// Until when services may admit it, in microseconds.
    #[must_use]
    pub const fn admission(&self, settings: &Settings) -> u64 {
        self.deadline.saturating_sub(settings.handshake.saturating_sub(settings.admission))
    }

    /// Bytes of memory held for the peer.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.hello_held + self.first.capacity()
    }
}

/// Bytes of memory that a Hello takes beyond its fixed size.
fn said(hello: &Hello) -> usize {
    let text = |text: &String| block(text.len()) + size_of::<String>();
    let names: usize = hello.methods.iter().chain(&hello.topics).map(text).sum();
    let labels: usize = hello.labels.iter().map(|(key, value)| text(key) + text(value)).sum();
    names + labels + hello.meta.len() + hello.token.len() + hello.ticket.len()
}

// === impl ServiceSide ===

impl ServiceSide {
    /// Bytes of memory held: names, their places in the registry, and a list that is being sent.
    #[must_use]
    pub fn held(&self) -> usize {
        let names = self.methods.names().len() + self.topics.names().len();
        let strings = self.methods.held() + self.topics.held() + self.name.len();
        strings + names * REGISTERED + self.snapshot.as_ref().map_or(0, |list| list.held())
    }

    /// Every name it is known by.
    pub fn offers(&self) -> impl Iterator<Item = (NameKind, &str)> {
        let methods = self.methods.names().iter().map(|name| (NameKind::Method, &**name));
        let topics = self.topics.names().iter().map(|name| (NameKind::Topic, &**name));
        let name = (!self.name.is_empty()).then_some((NameKind::Service, &*self.name));
        methods.chain(topics).chain(name)
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Bytes of memory held: references to cards, and the IDs of those who came meanwhile.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.cards.capacity() * size_of::<Arc<EdgeCard>>() + self.latecomers * LATECOMER
    }
}

// === impl LegState ===

impl LegState {
    /// Bytes of memory in a frame that is not complete.
    #[must_use]
    pub fn held(&self) -> usize {
        match self {
            Self::Opening(reader) | Self::Offered(reader) => reader.held(),
            Self::Waiting | Self::Open | Self::Refused => 0,
        }
    }
}

// === impl Ops ===

impl Ops {
    /// Bytes of memory held: the tables, at the size that they have grown to.
    #[must_use]
    pub fn held(&self) -> usize {
        size_of::<Self>()
            + self.pending.allocation_size()
            + self.index.allocation_size()
            + self.outgoing.allocation_size()
            + self.sticky.allocation_size()
            + self.deadlines.memory()
            + self.bodies.as_ref().map_or(0, |bodies| bodies.held())
    }

    /// Nothing in flight and nothing to remember.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
            && self.outgoing.is_empty()
            && self.sticky.is_empty()
            && self.crowded.is_none()
            && self.owed < OWED_FORGOTTEN
            && self.bodies.as_ref().is_none_or(|bodies| bodies.is_empty())
    }
}

// === impl Legs ===

impl Legs {
    /// Bytes of memory held.
    #[must_use]
    pub fn held(&self) -> usize {
        size_of::<Self>() + self.legs.allocation_size() + self.deadlines.memory() + self.reading
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.legs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.legs.is_empty()
    }

    /// All of them, in any order.
    pub fn iter(&self) -> impl Iterator<Item = (LegId, &Leg)> {
        self.legs.iter().map(|(stream, leg)| (*stream, leg))
    }

    /// All of them, in any order.
    pub fn into_legs(self) -> impl Iterator<Item = (LegId, Leg)> {
        self.legs.into_iter()
    }

    /// The one of a stream.
    pub fn get_mut(&mut self, stream: LegId) -> Option<&mut Leg> {
        self.legs.get_mut(&stream)
    }

    /// Adds one.
    pub fn insert(&mut self, stream: LegId, leg: Leg) {
        self.deadlines.add(leg.deadline, stream);
        self.legs.insert(stream, leg);
    }

    /// Takes one out.
    pub fn remove(&mut self, stream: LegId) -> Option<Leg> {
        let leg = self.legs.remove(&stream)?;
        self.count_off(leg.deadline);
        Some(leg)
    }

    /// Moves a deadline; `u64::MAX` = it has none any more.
    pub fn set_deadline(&mut self, stream: LegId, deadline: u64) {
        let Some(leg) = self.legs.get_mut(&stream) else { return };
        let old = std::mem::replace(&mut leg.deadline, deadline);
        self.deadlines.add(deadline, stream);
        self.count_off(old);
    }

    /// A stream whose deadline has passed; call until `None`, and remove each.
    pub fn overdue(&mut self, now: u64) -> Option<LegId> {
        let legs = &self.legs;
        // What was answered or opened meanwhile is still noted under its old deadline.
        let late = |stream: &LegId| legs.get(stream).is_some_and(|leg| leg.deadline <= now);
        std::iter::from_fn(|| self.deadlines.pop(now)).find(late)
    }

    /// When the next deadline is, in microseconds; `u64::MAX` = there is none.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        self.deadlines.next()
    }

    fn count_off(&mut self, deadline: u64) {
        let legs = &self.legs;
        let same = |leg: &Leg| tick(leg.deadline) == tick(deadline);
        self.deadlines.remove(deadline, |stream| legs.get(stream).is_some_and(same));
    }
}

#[cfg(test)]
mod tests {
    use super::Session;

    /// Idle memory is a published number (ARCHITECTURE.md): a million idle edges cost a million of these.
    #[test]
    fn a_session_stays_small() {
        assert!(size_of::<Session>() <= 240, "{} bytes", size_of::<Session>());
    }
}
