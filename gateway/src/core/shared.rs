//! What the shards of a gateway have in common, and the settings they run by.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
};

use frontier_wire::sniff::Sniff;

use crate::core::{Bound, Now, exchange::Policy, identity::Gatekeeper, registry::Registry, stats::Stats};

/// Operations of at most so many bytes are small: a command that would free a device, or end what fills the memory, is one of them.
const SMALL: usize = 4 << 10;
/// However many sessions there are, whoever holds less than so many bytes holds no more than an equal share.
const LEAST_SHARE: u64 = 64 << 10;
/// An epoch counts within each millisecond by so many bits.
const COUNTER_BITS: u32 = 20;
/// Whoever draws epochs by a clock that is so many milliseconds ahead of the cluster's is not believed.
const AHEAD: u64 = 60_000;
/// Nobody has told the cluster's time.
const UNTOLD: i64 = i64::MIN;

/// The limits and rules of the data plane. Times in microseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From accept to Welcome.
    pub handshake: u64,
    /// For the services that admit an edge, within `handshake`.
    pub admission: u64,
    /// Longest head of an operation or stream.
    pub head: u16,
    /// Longest meta of a session, and of a stream. Labels have limits of their own.
    pub meta: usize,
    /// Longest body of an operation, all fragments.
    pub body: u64,
    /// Sessions of the process; see [`Settings::places`].
    pub sessions: u64,
    /// Connections that have not said who they are; beyond so many those who had their time give way.
    pub newcomers: u64,
    /// User streams a peer may have open.
    pub streams_per_session: u32,
    /// Streams opened to a geminio peer that it has not used yet.
    pub unused_streams: u32,
    /// Requests a peer may have unanswered.
    pub requests_in_flight: u32,
    /// Publishes a peer may have unanswered.
    pub messages_in_flight: u32,
    /// Bytes waiting for one peer.
    pub outbox: usize,
    /// Names a peer may register.
    pub registrations: usize,
    /// New edges per second, 0 = any number.
    pub accept_rate: u32,
    /// A peer with bytes waiting that takes none for so long is cut.
    pub stall: u64,
    /// Budget for all bytes held for peers.
    pub memory: u64,
    /// A dialer pings after so much silence; see [`Settings::silence`].
    pub heartbeat: u64,
    /// Frames without payload (pings, resets, window updates, cancels, registrations) per second and session.
    pub control_frames: u32,
    /// Time for the answer of operations whose sender names none.
    pub call_timeout: u64,
    /// The longest time that a sender may name; more is shortened to it.
    pub max_call_timeout: u64,
    /// Start window of user streams towards the gateway.
    pub stream_window: u32,
    /// What it may grow to.
    pub stream_window_max: u32,
    /// How an instance is chosen.
    pub policy: Policy,
    /// What edges and what services may speak, in the order of [`Bound`].
    pub protocols: [Protocols; 2],
    /// Allocate an ID when no service offers `get_edge_id`.
    pub allocate_ids: bool,
    /// Wait so long for a service that offers `get_edge_id` before allocating or refusing.
    pub wait_for_id_service: u64,
    /// There is a cluster, whose registry is told who is here.
    pub cluster: bool,
}

/// The protocols that a listener takes, of those that the core speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// The native one.
    pub native: bool,
    /// Geminio.
    pub geminio: bool,
}

/// See the module documentation.
pub struct Shared {
    /// Limits and rules.
    pub settings: Settings,
    /// Who is where.
    pub registry: Registry,
    /// One per shard.
    pub stats: Vec<Arc<Stats>>,
    /// Decides on identities.
    pub gatekeeper: Arc<dyn Gatekeeper>,
    /// The process is about to stop: new edges are sent on.
    pub draining: AtomicBool,
    /// Connections of all shards, those included that have not said who they are or are being closed.
    pub connections: AtomicU64,
    /// Of those, the ones that have a place among [`Settings::sessions`]: from Hello to their end.
    pub sessions: AtomicU64,
    /// Of those, the ones of edges.
    pub edges: AtomicU64,
    /// Bytes held for peers, all shards.
    pub held: AtomicU64,
    /// Of those, bytes in the inbox of each shard.
    mail: Vec<AtomicU64>,
    epoch: AtomicU64,
    /// The cluster's time at the zero of the shards' clock, in milliseconds since 1970, or [`UNTOLD`].
    cluster_time: AtomicI64,
}

// === impl Protocols ===

impl Protocols {
    /// Whether a connection that begins so is spoken to.
    #[must_use]
    pub const fn takes(self, first: Sniff) -> bool {
        match first {
            Sniff::Native => self.native,
            Sniff::Geminio => self.geminio,
            Sniff::NeedMore | Sniff::Tls | Sniff::Http | Sniff::Mqtt | Sniff::Unknown => false,
        }
    }
}

impl Default for Protocols {
    /// All of them.
    fn default() -> Self {
        Self { native: true, geminio: true }
    }
}

// === impl Settings ===

impl Settings {
    /// What may be spoken at a listener.
    #[must_use]
    pub const fn protocols(&self, bound: Bound) -> Protocols {
        self.protocols[bound as usize]
    }

    /// Of the places of all sessions, those that edges leave to services, without which they would be of no use: a 64th, at least 8 and at
    /// most half.
    #[must_use]
    pub const fn kept_for_services(&self) -> u64 {
        let (share, half) = (self.sessions / 64, self.sessions / 2);
        let share = if share < 8 { 8 } else { share };
        if share > half { half } else { share }
    }

    /// Sessions that those of a role may have.
    #[must_use]
    pub const fn places(&self, bound: Bound) -> u64 {
        match bound {
            Bound::Edge => self.sessions - self.kept_for_services(),
            Bound::Service => self.sessions,
        }
    }

    /// When an operation must be answered whose sender gives it so many milliseconds, 0 = names none.
    #[must_use]
    pub fn deadline(&self, now: u64, timeout_ms: u32) -> u64 {
        let timeout = if timeout_ms == 0 { self.call_timeout } else { u64::from(timeout_ms) * 1_000 };
        now.saturating_add(timeout.min(self.max_call_timeout))
    }

    /// A peer that says nothing for so long is gone.
    #[must_use]
    pub const fn silence(&self) -> u64 {
        self.heartbeat.saturating_mul(5) / 2
    }

    /// Bytes that may wait for one peer in all. Answers, errors, cancels and credits never wait for room in `outbox`; a peer that
    /// makes them pile up a quarter beyond it does not read.
    #[must_use]
    pub const fn outbox_ceiling(&self) -> usize {
        self.outbox.saturating_add(self.outbox / 4).saturating_add(64 << 10)
    }

    /// Bytes that may wait in the inbox of one shard before operations towards it are refused: an eighth of the memory budget, 1 to
    /// 64 MiB.
    #[must_use]
    pub const fn inbox(&self) -> u64 {
        let share = self.memory / 8;
        if share < 1 << 20 {
            1 << 20
        } else if share > 64 << 20 {
            64 << 20
        } else {
            share
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000;
        Self {
            handshake: 10 * SECOND,
            admission: 8 * SECOND,
            head: 16 << 10,
            meta: 16 << 10,
            body: 16 << 20,
            sessions: 1_000_000,
            newcomers: 1_024,
            streams_per_session: 128,
            unused_streams: 32,
            requests_in_flight: 1_024,
            messages_in_flight: 1_024,
            outbox: 4 << 20,
            registrations: 1_024,
            accept_rate: 0,
            stall: 30 * SECOND,
            memory: 1 << 30,
            heartbeat: 20 * SECOND,
            control_frames: 10_000,
            call_timeout: 30 * SECOND,
            max_call_timeout: 3_600 * SECOND,
            stream_window: 64 << 10,
            stream_window_max: 4 << 20,
            policy: Policy::EdgeId,
            protocols: [Protocols::default(); 2],
            allocate_ids: true,
            wait_for_id_service: 0,
            cluster: false,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// For so many shards.
    #[must_use]
    pub fn new(settings: Settings, shards: u16, gatekeeper: Arc<dyn Gatekeeper>) -> Self {
        Self {
            registry: if settings.cluster { Registry::with_roll() } else { Registry::default() },
            settings,
            stats: (0..shards).map(|_| Arc::default()).collect(),
            gatekeeper,
            draining: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            edges: AtomicU64::new(0),
            held: AtomicU64::new(0),
            mail: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            epoch: AtomicU64::new(0),
            cluster_time: AtomicI64::new(UNTOLD),
        }
    }

    /// The cluster's registry says that it was `unix_ms` at `micros` of the shards' clock. From now on the gateway's own calendar does
    /// not matter to epochs and tickets, also while the registry is away: it may step, the shards' clock does not.
    pub fn learn_time(&self, unix_ms: u64, micros: u64) {
        let zero = unix_ms.cast_signed().saturating_sub((micros / 1_000).cast_signed());
        self.cluster_time.store(zero, Ordering::Relaxed);
        let latest = self.latest_epoch(Now { micros, unix_ms: 0 });
        let wrong = |last: u64| (last > latest).then_some(unix_ms << COUNTER_BITS);
        if self.epoch.fetch_update(Ordering::AcqRel, Ordering::Acquire, wrong).is_ok() {
            // Else nobody who comes would be believed in the cluster until its time has caught up.
            tracing::warn!(
                "the clock was ahead of the cluster's: edges that came meanwhile are found when they connect again"
            );
        }
    }

    /// Milliseconds since 1970 by the clock that the gateways of a cluster share, or by its own while nobody has told.
    #[must_use]
    pub fn unix_ms(&self, now: Now) -> u64 {
        match self.cluster_time.load(Ordering::Relaxed) {
            UNTOLD => now.unix_ms,
            zero => zero.saturating_add((now.micros / 1_000).cast_signed()).max(0).cast_unsigned(),
        }
    }

    /// The greatest epoch that a resume ticket may have. In a cluster one from far in the future is no ticket: its session would be
    /// taken for the newest whatever came later.
    #[must_use]
    pub fn latest_epoch(&self, now: Now) -> u64 {
        if !self.settings.cluster {
            return u64::MAX;
        }
        self.unix_ms(now).saturating_add(AHEAD).saturating_mul(1 << COUNTER_BITS)
    }

    /// The greatest epoch given so far.
    #[must_use]
    pub fn last_epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// An epoch greater than every one before and than `least`: milliseconds since 1970 in the upper 44 bits, a counter below.
    pub fn next_epoch(&self, unix_ms: u64, least: u64) -> u64 {
        let floor = (unix_ms << COUNTER_BITS).max(least.saturating_add(1));
        let next = |last: u64| Some(floor.max(last.saturating_add(1)));
        let last = self.epoch.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        last.map_or(floor, |last| floor.max(last.saturating_add(1)))
    }

    /// Takes a place for a session of a role, if there is one.
    pub fn take_place(&self, bound: Bound) -> bool {
        let take = |taken: &AtomicU64, most: u64| {
            let more = |taken: u64| (taken < most).then_some(taken + 1);
            taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        if bound == Bound::Service {
            return take(&self.sessions, self.settings.places(bound));
        }
        if !take(&self.edges, self.settings.places(bound)) {
            return false;
        }
        let taken = take(&self.sessions, self.settings.sessions);
        if !taken {
            self.edges.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    /// Takes a place that another edge is about to leave.
    pub fn take_over_place(&self) {
        self.edges.fetch_add(1, Ordering::Relaxed);
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// A session needs its place no longer.
    pub fn leave_place(&self, bound: Bound) {
        if bound == Bound::Edge {
            self.edges.fetch_sub(1, Ordering::Relaxed);
        }
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a further connection to a listener is taken, of which nobody knows yet who it is. Twice as many newcomers as may stay:
    /// where they are too many, the others get the time to say something, too.
    #[must_use]
    pub fn takes_connection(&self, bound: Bound) -> bool {
        let Settings { sessions, newcomers, .. } = self.settings;
        let kept = if bound == Bound::Service { self.settings.kept_for_services() } else { 0 };
        let most = sessions.saturating_add(2 * newcomers).saturating_add(kept);
        self.connections.load(Ordering::Relaxed) < most
    }

    /// Moves the count of bytes held for peers.
    pub fn account(&self, before: usize, after: usize) {
        if after > before {
            self.held.fetch_add((after - before) as u64, Ordering::Relaxed);
        } else if before > after {
            self.held.fetch_sub((before - after) as u64, Ordering::Relaxed);
        }
    }

    /// Messages of so many bytes were put into a shard's inbox.
    pub fn mail_in(&self, shard: u16, bytes: usize) {
        if let Some(mail) = self.mail.get(usize::from(shard)) {
            mail.fetch_add(bytes as u64, Ordering::Relaxed);
            self.account(0, bytes);
        }
    }

    /// Messages of so many bytes were taken out of a shard's inbox and handled.
    pub fn mail_out(&self, shard: u16, bytes: usize) {
        if let Some(mail) = self.mail.get(usize::from(shard)) {
            mail.fetch_sub(bytes as u64, Ordering::Relaxed);
            self.account(bytes, 0);
        }
    }

    /// Bytes in a shard's inbox.
    #[must_use]
    pub fn mail(&self, shard: u16) -> u64 {
        self.mail.get(usize::from(shard)).map_or(0, |mail| mail.load(Ordering::Relaxed))
    }

    /// Whether an operation of so many bytes may begin whose sender, or receiver, has `held` bytes waiting already.
    ///
    /// Below 80 % of the memory budget any may; below 90 % small ones and those of whoever holds less than an equal share; below 100 %
    /// those that are both; and above that small ones of whoever holds next to nothing: together they take a sixteenth of the budget
    /// at most, and notice nothing of what those who hold the most have brought about.
    #[must_use]
    pub fn admits(&self, held: usize, size: usize) -> bool {
        let (all, memory) = (self.held.load(Ordering::Relaxed), self.settings.memory);
        if all < memory / 10 * 8 {
            return true;
        }
        let share = (memory / self.sessions.load(Ordering::Relaxed).max(1)).max(LEAST_SHARE);
        let (small, modest) = (size <= SMALL, (held + size) as u64 <= share);
        if all < memory / 10 * 9 {
            small || modest
        } else if all <= memory {
            small && modest
        } else {
            small && (held + size) as u64 <= share / 16
        }
    }

    /// Whether what is not needed may be taken: windows grow, streams are opened, names are registered, and lists of who is online are
    /// made below 80 % of the memory budget.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.settings.memory / 10 * 8
    }

    /// Whether the largest holders must go, and nobody may come in.
    #[must_use]
    pub fn over_budget(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.settings.memory
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{AHEAD, Bound, Now, Settings, Shared};
    use crate::core::identity::OpenHouse;

    #[test]
    fn services_have_places_that_edges_leave_to_them() {
        let places = |sessions| {
            let settings = Settings { sessions, ..Settings::default() };
            [Bound::Edge, Bound::Service].map(|bound| settings.places(bound))
        };
        assert_eq!(places(1_000_000), [984_375, 1_000_000]);
        assert_eq!(places(100), [92, 100]);
        assert_eq!(places(6), [3, 6]);
        assert_eq!(places(1), [1, 1]);
    }

    #[test]
    fn the_time_of_the_cluster_goes_by_the_clock_that_does_not_step() {
        let shared = Shared::new(Settings { cluster: true, ..Settings::default() }, 1, Arc::new(OpenHouse));
        let now = |micros, unix_ms| Now { micros, unix_ms };
        assert_eq!(shared.unix_ms(now(5_000, 700)), 700, "its own, while nobody has told");
        shared.learn_time(1_000_000, 5_000);
        assert_eq!(shared.unix_ms(now(5_000, 700)), 1_000_000);
        assert_eq!(shared.unix_ms(now(7_000, 9_000_000)), 1_000_002);
        shared.learn_time(3, 9_000_000);
        assert_eq!(shared.unix_ms(now(0, 700)), 0, "before its begin");
    }

    #[test]
    fn epochs_drawn_by_a_wrong_clock_do_not_bind_those_of_the_cluster() {
        let shared = Shared::new(Settings { cluster: true, ..Settings::default() }, 1, Arc::new(OpenHouse));
        let next = || shared.next_epoch(shared.unix_ms(Now { micros: 0, unix_ms: 10_000_000 }), 0);
        let wrong = next();
        shared.learn_time(5_000_000, 0);
        let right = next();
        assert!(right < wrong && right > 5_000_000 << 20, "{right}");
        // A little ahead is as good as right.
        shared.learn_time(4_990_000, 0);
        assert!(next() > right);
    }

    #[test]
    fn tickets_from_the_future_are_none_in_a_cluster() {
        let now = Now { micros: 0, unix_ms: 1_000 };
        let alone = Shared::new(Settings::default(), 1, Arc::new(OpenHouse));
        assert_eq!(alone.latest_epoch(now), u64::MAX);
        let member = Shared::new(Settings { cluster: true, ..Settings::default() }, 1, Arc::new(OpenHouse));
        assert_eq!(member.latest_epoch(now), (1_000 + AHEAD) << 20);
        assert_eq!(member.latest_epoch(Now { micros: 0, unix_ms: u64::MAX }), u64::MAX);
    }

    #[test]
    fn epochs_only_grow_whatever_the_clock_does() {
        let shared = Shared::new(Settings::default(), 1, Arc::new(OpenHouse));
        let first = shared.next_epoch(1_000, 0);
        let stepped_back = shared.next_epoch(500, 0);
        assert!(stepped_back > first);
        let resumed = shared.next_epoch(500, stepped_back + 1_000_000);
        assert_eq!(resumed, stepped_back + 1_000_001);
        assert!(shared.next_epoch(2_000, 0) > resumed);
    }
}
