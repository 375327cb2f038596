//! A gateway on a simulated machine: shards, their sockets and inboxes, and the clock.
//!
//! What the mio driver does with threads and a poller is done here one step at a time from a queue of events. Two events of the same
//! microsecond come in any order, as the seed says; the same seed gives the same run.

mod shard;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use frontier_api::bucket::{Digest, EDGE_BUCKETS};
use frontier_wire::error::ErrorCode;
use parking_lot::Mutex;

use self::shard::SimShard;
use super::{
    net::{Ending, Pipe, Quality},
    queue::Taken,
    rng::Rng,
};
use crate::core::{
    Bound, Now, Settings, Shared,
    delivery::{Delivery, Settle},
    exchange::mix,
    identity::Gatekeeper,
    message::Msg,
    outlet::{Declined, Offer, Outlet},
    shard::audit::Flights,
    table::SessionRef,
};

/// Milliseconds since 1970 at the beginning of every simulation.
pub const UNIX_MS: u64 = 1_700_000_000_000;
/// The clock begins here: long before, nothing can have happened.
const START: u64 = 1_000_000;

/// What became of a delivery; `None` until that is clear.
pub type Fate = Arc<Mutex<Option<Result<(), ErrorCode>>>>;

/// A connection of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(usize);

/// How both directions of a connection behave.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Towards the gateway.
    pub up: Quality,
    /// Towards the peer.
    pub down: Quality,
}

/// What a peer has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Bytes or the end of the connection have come.
    Readable(LinkId),
    /// It can write again.
    Writable(LinkId),
    /// The time of [`Stage::timer`] has come.
    Timer(u64),
    /// A shard had its turn; nothing to do.
    Turn(u16),
}

/// What may go wrong in the driver beyond what the network does.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    /// Of a thousand turns, so many leave dirty sessions for the next one.
    pub lazy_writes: u32,
    /// Of a thousand reads, so many take only a few bytes.
    pub short_reads: u32,
    /// Of a thousand reads that could go straight into a body, so many do.
    pub direct_reads: u32,
    /// A shard that was told something runs within so many microseconds: the longer, the more can change in between.
    pub turn_delay: u64,
}

/// One connection: two pipes and the gateway's end.
#[derive(Debug)]
struct Link {
    up: Pipe,
    down: Pipe,
    bound: Bound,
    addr: SocketAddr,
    /// The shard that has it.
    shard: u16,
    /// Its session there, until the gateway has closed it.
    session: Option<SessionRef>,
    /// What the core would not speak.
    foreign: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Turn(u16),
    /// For the gateway: something has come.
    Up(usize),
    /// For the peer: something has come.
    Down(usize),
    /// For the peer: there is room.
    UpRoom(usize),
    /// For the gateway: there is room.
    DownRoom(usize),
    Timer(u64),
}

/// See the module documentation.
pub struct Stage {
    shared: Arc<Shared>,
    chaos: Chaos,
    rng: Rng,
    now: u64,
    links: Vec<Link>,
    shards: Vec<SimShard>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    hash: u64,
    turns: u64,
    panics: u64,
    /// All queues there were: they may hold something still.
    outlets: Vec<Arc<dyn Outlet>>,
}

// === impl Chaos ===

impl Chaos {
    /// A driver that does everything at once.
    pub const NONE: Self = Self { lazy_writes: 0, short_reads: 0, direct_reads: 0, turn_delay: 60 };
}

// === impl Path ===

impl Path {
    /// As if there were no network.
    pub const PERFECT: Self = Self { up: Quality::PERFECT, down: Quality::PERFECT };
}

// === impl Stage ===

impl Stage {
    /// A gateway of so many shards without a connection.
    #[must_use]
    pub fn new(
        settings: Settings,
        shards: u16,
        gatekeeper: Arc<dyn Gatekeeper>,
        chaos: Chaos,
        mut rng: Rng,
    ) -> Self {
        let shared = Arc::new(Shared::new(settings, shards, gatekeeper));
        let now = Now { micros: START, unix_ms: UNIX_MS };
        let shards = (0..shards).map(|id| SimShard::new(id, &shared, now, rng.next())).collect();
        Self {
            shared,
            chaos,
            rng,
            now: START,
            links: Vec::new(),
            shards,
            queue: BinaryHeap::new(),
            hash: 0,
            turns: 0,
            panics: 0,
            outlets: Vec::new(),
        }
    }

    /// The time, in microseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// What the shards share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The source of chance.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// A number for everything that has happened so far: the same for the same seed.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Turns of all shards so far.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Panics caught so far.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics
    }

    /// Adds to the number for everything that has happened.
    pub fn trace(&mut self, what: u64, more: u64) {
        self.hash = mix(self.hash ^ mix(self.now ^ mix(what ^ mix(more))));
    }

    // --- what peers do

    /// Connects to a listener; the connection comes in at some shard.
    pub fn dial(&mut self, bound: Bound, shard: u16, path: Path) -> LinkId {
        let id = self.links.len();
        let host = u8::try_from(id % 200 + 1).unwrap_or(1);
        let port = u16::try_from(id % 60_000).unwrap_or(0) + 1_024;
        let link = Link {
            up: Pipe::new(path.up),
            down: Pipe::new(path.down),
            bound,
            addr: ([10, 0, 0, host], port).into(),
            shard,
            session: None,
            foreign: None,
        };
        self.links.push(link);
        self.post(shard, Msg::Connection(Box::new(LinkId(id))));
        LinkId(id)
    }

    /// Writes what there is room for; returns how many bytes that were.
    pub fn write(&mut self, link: LinkId, pieces: &[&[u8]]) -> usize {
        let (n, arrives) = self.links[link.0].up.write(self.now, &mut self.rng, pieces);
        self.trace(1, n as u64);
        if n > 0 {
            self.push(arrives, Event::Up(link.0));
        }
        if self.links[link.0].up.unblocked() {
            // Less was taken than there was room for.
            self.later(Event::UpRoom(link.0));
        }
        n
    }

    /// Appends at most `max` bytes that have come; returns how many.
    pub fn read(&mut self, link: LinkId, max: usize, into: &mut Vec<u8>) -> usize {
        let down = &mut self.links[link.0].down;
        let n = down.read(self.now, max, into);
        if down.unblocked() {
            self.later(Event::DownRoom(link.0));
        }
        n
    }

    /// How the gateway ended the connection, once everything before was read.
    #[must_use]
    pub fn ended(&self, link: LinkId) -> Option<Ending> {
        self.links[link.0].down.ended(self.now)
    }

    /// Ends the connection from the peer's side.
    pub fn hang_up(&mut self, link: LinkId, how: Ending) {
        self.trace(2, how as u64);
        let arrives = self.links[link.0].up.end(self.now, &mut self.rng, how);
        self.push(arrives, Event::Up(link.0));
        // Nobody reads what is still to come; a closed socket takes nothing.
        let down = &mut self.links[link.0].down;
        down.end(self.now, &mut self.rng, Ending::Reset);
        if down.unblocked() {
            self.later(Event::DownRoom(link.0));
        }
    }

    /// From now on nothing arrives on either side.
    pub fn cut_cable(&mut self, link: LinkId) {
        self.trace(3, 0);
        self.links[link.0].up.lose(self.now);
        self.links[link.0].down.lose(self.now);
    }

    /// The session that a connection has at the moment.
    #[must_use]
    pub fn session(&self, link: LinkId) -> Option<SessionRef> {
        self.links[link.0].session
    }

    /// What the core handed over as not its own.
    #[must_use]
    pub fn foreign(&self, link: LinkId) -> Option<&[u8]> {
        self.links[link.0].foreign.as_deref()
    }

    /// Bytes on their way to a peer or not read by it.
    #[must_use]
    pub fn unread(&self, link: LinkId) -> usize {
        self.links[link.0].down.queued()
    }

    /// Bytes on their way or unread in either direction.
    #[must_use]
    pub fn under_way(&self, link: LinkId) -> usize {
        self.links[link.0].down.queued() + self.links[link.0].up.queued()
    }

    // --- what happens besides

    /// A message from the async world.
    pub fn post(&mut self, shard: u16, msg: Msg) {
        let outside = self.shards.len();
        self.shared.mail_in(shard, msg.held());
        self.shards[usize::from(shard)].inbox[outside].push_back(msg);
        self.wake(shard);
    }

    /// From now on these queues take topics.
    pub fn set_queues(&mut self, offers: Vec<Offer>) {
        for offer in &offers {
            if !self.outlets.iter().any(|outlet| Arc::ptr_eq(outlet, &offer.outlet)) {
                self.outlets.push(Arc::clone(&offer.outlet));
            }
        }
        self.shared.registry.set_queues(offers);
    }

    /// A queue says what became of a message.
    pub fn confirm(&mut self, mut taken: Taken, outcome: Result<(), Declined>) {
        if let Some(receipt) = taken.receipt() {
            let (shard, msg) = receipt.confirm(outcome);
            self.post(shard, msg);
        }
    }

    /// A message comes in by the door; what became of it is told by the cell once it is clear.
    ///
    /// # Panics
    /// If it is longer than any edge is given.
    pub fn deliver(&mut self, edge: u64, topic: &str, body: &[u8], timeout: u64) -> Fate {
        let fate = Fate::default();
        let told = Arc::clone(&fate);
        let settle = Settle::new(move |outcome| *told.lock() = Some(outcome));
        let headers = [("unit", "C")];
        let delivery = Delivery::new(&self.shared, edge, topic, headers, Bytes::copy_from_slice(body));
        let delivery = delivery.expect("a delivery within the limits");
        if let Some((shard, msg)) = delivery.post(&self.shared, timeout, settle) {
            self.post(shard, msg);
        }
        fate
    }

    /// Lets the driver look at a connection although nothing has come.
    pub fn look(&mut self, link: LinkId) {
        self.push(self.now, Event::Up(link.0));
    }

    /// [`Notice::Timer`] with this token at that time.
    pub fn timer(&mut self, at: u64, token: u64) {
        self.push(at.max(self.now), Event::Timer(token));
    }

    /// Takes the next event, up to a time; `None` if there is none, and the time is then that.
    pub fn step(&mut self, until: u64) -> Option<Notice> {
        loop {
            match self.queue.peek() {
                Some(Reverse((at, ..))) if *at <= until => {}
                _ => {
                    self.now = self.now.max(until);
                    return None;
                }
            }
            let Reverse((at, _, event)) = self.queue.pop()?;
            self.now = self.now.max(at);
            match event {
                Event::Turn(shard) if self.shards[usize::from(shard)].next_turn == at => {
                    self.turn(shard);
                    return Some(Notice::Turn(shard));
                }
                Event::Turn(_) => {}
                Event::Up(link) => self.note(link, |shard, link| shard.readable.push(link)),
                Event::DownRoom(link) => self.note(link, |shard, link| shard.writable.push(link)),
                Event::Down(link) => return Some(Notice::Readable(LinkId(link))),
                Event::UpRoom(link) => return Some(Notice::Writable(LinkId(link))),
                Event::Timer(token) => return Some(Notice::Timer(token)),
            }
        }
    }

    fn note(&mut self, link: usize, what: impl FnOnce(&mut SimShard, usize)) {
        if self.links[link].session.is_some() {
            let shard = self.links[link].shard;
            what(&mut self.shards[usize::from(shard)], link);
            self.wake(shard);
        }
    }

    fn push(&mut self, at: u64, event: Event) {
        if at != u64::MAX {
            let order = self.rng.next();
            self.queue.push(Reverse((at, order, event)));
        }
    }

    fn later(&mut self, event: Event) {
        let at = self.now + self.rng.below(self.chaos.turn_delay);
        self.push(at, event);
    }

    fn wake(&mut self, shard: u16) {
        let at = self.now + self.rng.below(self.chaos.turn_delay);
        self.turn_at(shard, at);
    }

    fn turn_at(&mut self, shard: u16, at: u64) {
        let state = &mut self.shards[usize::from(shard)];
        if at < state.next_turn {
            state.next_turn = at;
            self.push(at, Event::Turn(shard));
        }
    }

    // --- what must hold

    /// Every operation and stream of all shards.
    #[must_use]
    pub fn flights(&self) -> Flights {
        let mut all = Flights::default();
        for shard in &self.shards {
            let flights = shard.core.flights();
            all.outgoing.extend(flights.outgoing);
            all.pending.extend(flights.pending);
            all.legs.extend(flights.legs);
            all.waiting.extend(flights.waiting);
        }
        all
    }

    /// Whether a session is welcome and has not ended.
    #[must_use]
    pub fn is_ready(&self, session: SessionRef) -> bool {
        self.shards.get(usize::from(session.shard)).is_some_and(|shard| shard.core.is_ready(session))
    }

    /// Whether a session waits for services to admit it.
    #[must_use]
    pub fn is_admitting(&self, session: SessionRef) -> bool {
        self.shards.get(usize::from(session.shard)).is_some_and(|shard| shard.core.is_admitting(session))
    }

    /// Whether no message is on its way between shards.
    #[must_use]
    pub fn inboxes_are_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.inbox.iter().all(std::collections::VecDeque::is_empty))
    }

    /// Checks that nothing is left of anybody.
    ///
    /// # Panics
    /// If something is.
    pub fn check_empty(&self) {
        self.check_books();
        assert!(self.inboxes_are_empty(), "messages are on their way");
        let shared = &self.shared;
        assert_eq!(shared.connections.load(Ordering::Relaxed), 0, "connections are left");
        let places = [&shared.sessions, &shared.edges].map(|places| places.load(Ordering::Relaxed));
        assert_eq!(places, [0, 0], "places are left");
        assert_eq!(shared.held.load(Ordering::Relaxed), 0, "bytes are held");
        assert_eq!(shared.registry.edges(), 0, "edges are registered");
        if let Some(roll) = shared.registry.roll() {
            let left = (0..EDGE_BUCKETS).filter(|bucket| roll.digest(*bucket) != Digest::default());
            assert_eq!(left.count(), 0, "buckets whose digest is not that of nobody");
        }
        assert_eq!(shared.registry.names(), 0, "names are registered");
        assert_eq!(shared.registry.instances(), 0, "instances are counted");
        assert_eq!(shared.registry.pools(), 0, "pools have connections");
        for shard in &self.shards {
            let id = shard.core.id();
            assert_eq!((shard.audit.legs, shard.audit.name_sets), (0, 0), "streams and names of shard {id}");
        }
    }

    /// Compares the books that all shards keep together with what their sessions say.
    ///
    /// # Panics
    /// If they differ.
    pub fn check_books(&self) {
        let moving = || self.shards.iter().flat_map(|shard| shard.inbox.iter().flatten()).filter_map(moving);
        let held: u64 = self.shards.iter().map(|shard| shard.audit.held).chain(moving()).sum();
        let mut mail = 0;
        for shard in &self.shards {
            let waiting: usize = shard.inbox.iter().flatten().map(Msg::held).sum();
            let id = shard.core.id();
            assert_eq!(self.shared.mail(id), waiting as u64, "bytes in the inbox of shard {id}");
            mail += waiting as u64;
        }
        let held = held + mail + self.outlets.iter().map(|outlet| outlet.held() as u64).sum::<u64>();
        assert_eq!(self.shared.held.load(Ordering::Relaxed), held, "bytes held, all sessions together");
        let sessions: usize =
            self.shards.iter().map(|shard| shard.audit.sessions).sum::<usize>() + moving().count();
        let connections = self.shared.connections.load(Ordering::Relaxed);
        assert_eq!(connections, sessions as u64, "sessions of all shards");
        let placed: usize = self.shards.iter().map(|shard| shard.audit.placed).sum();
        assert_eq!(self.shared.sessions.load(Ordering::Relaxed), placed as u64, "places taken");
        let holders: usize = self.shards.iter().map(|shard| shard.core.holders()).sum();
        assert_eq!(self.shared.registry.edges(), holders, "edge IDs in the registry and their sessions");
        let offers: usize = self.shards.iter().map(|shard| shard.core.offers()).sum();
        assert_eq!(self.shared.registry.offers(), offers, "names in the registry and their sessions");
        for (shard, stats) in self.shards.iter().zip(&self.shared.stats) {
            let id = shard.core.id();
            assert_eq!(stats.outbox_bytes.get(), shard.audit.queued, "bytes in the outboxes of shard {id}");
            assert_eq!(stats.legs.get(), shard.audit.legs as u64, "legs of shard {id}");
            for (count, ready) in stats.sessions.iter().zip(shard.audit.ready) {
                assert_eq!(count.get(), ready, "sessions counted at shard {id}");
            }
        }
    }
}

/// The bytes held by a session that is between two shards.
fn moving(msg: &Msg) -> Option<u64> {
    match msg {
        Msg::Adopt(adopt) => Some(u64::from(adopt.moved.session.held)),
        _ => None,
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage")
            .field("now", &self.now)
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}
