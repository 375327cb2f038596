//! What lives in a seed: gateways with edges, atlases, and everything that goes wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use frontier_api::cluster::{WatchRequest, WatchResponse, watch_response::Kind};
use frontier_atlas::directory::Directory;
use frontier_atlas::links::{Links, Terms};
use frontier_atlas::record::{Claim, EdgeRecord, Instance, StoreTime};
use frontier_atlas::store::{Memory, Store as _};
use frontier_atlas::watch::Watchers;
use frontier_gateway::atlas::{BucketSet, Identity, OwnSessions, Reporter, Source, Status};
use frontier_gateway::core::card::EdgeCard;
use frontier_gateway::core::identity::OpenHouse;
use frontier_gateway::core::message::Msg;
use frontier_gateway::core::registry::{InstanceRef, Seat, ServiceHere};
use frontier_gateway::core::roll::{Here, Roll};
use frontier_gateway::core::{Now, SessionRef, Settings, Shared};
use frontier_gateway::sim::rng::Rng;
use frontier_ops::readiness::Readiness;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::net::{Atlas, Dialer, Net};
use super::store::{BEGIN, Handle, Keep};

const GATEWAYS: usize = 3;
const ATLASES: usize = 2;
const EDGES: u64 = 40;
const SERVICES: u64 = 4;
/// In which everything must be found after the faults are over: 5 s, and one renewal for the counts.
const HEALED: Duration = Duration::from_millis(6_500);

/// What a seed came to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) failure: Option<String>,
    pub(crate) healed: Duration,
    pub(crate) counts: Counts,
    /// The same for two lives that were the same.
    pub(crate) trace: u64,
}

macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        /// How often what happened.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Counts {
            $(pub(crate) $name: u64,)*
        }

        impl Counts {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            pub(crate) fn missing(&self) -> Vec<&'static str> {
                [$((stringify!($name), self.$name)),*].into_iter().filter(|(_, n)| *n == 0).map(|(name, _)| name).collect()
            }
        }

        impl fmt::Display for Counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write!(f, "{} {}, ", self.$name, stringify!($name).replace('_', " "))?;)*
                Ok(())
            }
        }
    };
}

counts! {
    connects, moves, leaves, cuts, gateway_crashes, gateway_drains, atlas_crashes, silences, breaks, store_outages, store_wipes, stormy_stores,
    removed_records, forged_records, resyncs, services_coming, services_going, long_outages,
    clock_steps, duplicates, watched_changes,
}

/// What the seed knows, and the gateways' sessions report to.
struct Ledger {
    /// By edge: the greatest epoch a session of it ever had.
    newest: BTreeMap<u64, u64>,
    /// Records that a hand has written: whoever lost its ID to one was cut rightly.
    forged: BTreeSet<u64>,
    failure: Option<String>,
    counts: Counts,
    tell: bool,
    begin: Instant,
}

/// A process of a gateway.
struct Gateway {
    shared: Arc<Shared>,
    instance: [u8; 16],
    clock: Clock,
    sessions: Arc<Mutex<BTreeMap<u64, SessionRef>>>,
    services: BTreeMap<u64, SessionRef>,
    next_slot: u32,
    /// It takes its leave.
    stop: CancellationToken,
    /// It has crashed.
    dead: CancellationToken,
}

/// A gateway's clocks: one that only runs, and a calendar that may be wrong.
#[derive(Clone, Copy)]
struct Clock {
    begin: Instant,
    wrong_ms: i64,
}

struct Sessions {
    own: OwnSessions,
}

struct World {
    rng: Rng,
    net: Arc<Net>,
    keep: Arc<Keep>,
    ledger: Arc<Mutex<Ledger>>,
    gateways: Vec<Option<Gateway>>,
    /// Where an edge's newest session is, and its ticket.
    edges: BTreeMap<u64, (Option<usize>, u64)>,
    /// What is seen by who watches each atlas.
    views: Vec<Arc<Mutex<View>>>,
    /// Somebody does.
    watched: bool,
    tasks: JoinSet<()>,
}

/// What a client knows that follows an atlas.
#[derive(Default)]
struct View {
    current: bool,
    /// By ID: the gateway's name and the epoch.
    edges: BTreeMap<u64, (String, u64)>,
    gateways: BTreeSet<String>,
    changes: u64,
}

// === impl Clock ===

impl Clock {
    fn now(self) -> Now {
        let micros = u64::try_from(self.begin.elapsed().as_micros()).unwrap();
        let unix = i64::try_from(BEGIN + micros / 1_000).unwrap() + self.wrong_ms;
        Now { micros, unix_ms: unix.max(0).cast_unsigned() }
    }
}

// === impl Sessions ===

impl Source for Sessions {
    fn roll(&self) -> &Roll {
        self.own.roll()
    }

    fn edge(&self, id: u64) -> Option<Here> {
        self.own.edge(id)
    }

    async fn walk(&self, buckets: BucketSet) -> Vec<(u16, u64)> {
        self.own.walk_now(&buckets)
    }

    fn services(&self) -> BTreeMap<u64, ServiceHere> {
        self.own.services()
    }

    fn edges(&self) -> u64 {
        self.own.edges()
    }

    fn last_epoch(&self) -> u64 {
        self.own.last_epoch()
    }

    fn cut(&self, edge: u64, epoch: u64) -> bool {
        self.own.cut(edge, epoch)
    }

    fn clock(&self) -> u64 {
        self.own.clock()
    }

    fn learn_time(&self, unix_ms: u64, micros: u64) {
        self.own.learn_time(unix_ms, micros);
    }
}

// === impl Ledger ===

impl Ledger {
    fn say(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{:9.3} {}", self.begin.elapsed().as_secs_f64(), what());
        }
    }
}

// === impl Gateway ===

impl Gateway {
    fn start(
        at: usize,
        rng: &mut Rng,
        net: &Arc<Net>,
        ledger: &Arc<Mutex<Ledger>>,
        begin: Instant,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let settings = Settings { cluster: true, ..Settings::default() };
        let shared = Arc::new(Shared::new(settings, 1, Arc::new(OpenHouse)));
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&rng.next().to_be_bytes());
        instance[8..].copy_from_slice(&rng.next().to_be_bytes());
        // Calendars are often right, and sometimes slow by an hour or a year. One that is fast by more than a minute before the gateway has
        // ever reached an atlas is a known fault.
        let hour = 3_600_000_i64;
        let wrong_ms = [0, 0, 0, 5, -30_000, 30_000, -hour, -365 * 24 * hour][rng.size(0, 7)];
        let clock = Clock { begin, wrong_ms };
        let sessions: Arc<Mutex<BTreeMap<u64, SessionRef>>> = Arc::default();
        let (lost_of, lost_in, book) = (Arc::clone(&sessions), Arc::clone(&shared), Arc::clone(ledger));
        let post = move |_, msg| {
            let Msg::Lost { session, edge, epoch } = msg else { panic!("{msg:?}") };
            let mut book = book.lock();
            let here = lost_in.registry.session(edge);
            // As the shard does: it may have been replaced meanwhile.
            let Some((_, has)) = here.filter(|(now, has)| *now == session && *has <= epoch) else { return };
            book.counts.cuts += 1;
            book.say(|| format!("gateway {at} cuts edge {edge} at {has:x}"));
            if book.newest.get(&edge).is_none_or(|newest| *newest <= has) && !book.forged.contains(&edge) {
                book.failure.get_or_insert_with(|| {
                    format!("edge {edge} was cut at gateway {at} though its session is the newest")
                });
            }
            lost_in.registry.release_edge(edge, session);
            lost_of.lock().remove(&edge);
        };
        let own = OwnSessions::new(Arc::clone(&shared), post, move || clock.now().micros).unwrap();
        let (stop, dead) = (CancellationToken::new(), CancellationToken::new());
        let dialer = Dialer { net: Arc::clone(net), gateway: at, dead: dead.clone() };
        let identity = Identity {
            instance,
            frontier_id: format!("g{at}"),
            service_addr: format!("10.0.0.{at}:1"),
            edge_addr: format!("10.0.0.{at}:2"),
        };
        let status = Arc::new(Status::new(Readiness::default()));
        let reporter = Reporter::new(dialer, Arc::new(Sessions { own }), identity, status, rng.next());
        let (leave, crash) = (stop.clone(), dead.clone());
        let run = async move {
            tokio::select! {
                biased;
                () = crash.cancelled() => {}
                () = reporter.run(leave) => {}
            }
        };
        (Self { shared, instance, clock, sessions, services: BTreeMap::new(), next_slot: 0, stop, dead }, run)
    }

    /// A session of an edge; its epoch.
    fn connect(&mut self, edge: u64, ticket: u64) -> u64 {
        self.next_slot += 1;
        let session = SessionRef { shard: 0, generation: 0, slot: self.next_slot };
        let unix_ms = self.shared.unix_ms(self.clock.now());
        let latest = self.shared.latest_epoch(self.clock.now());
        let mut least = if ticket > latest { 0 } else { ticket };
        loop {
            let epoch = self.shared.next_epoch(unix_ms, least);
            let card = Arc::new(EdgeCard::new((edge, epoch), ([10, 1, 1, 1], 7).into(), &[], []));
            match self.shared.registry.claim_edge(session, &card, latest) {
                Ok(_) => {
                    self.sessions.lock().insert(edge, session);
                    return epoch;
                }
                Err(newer) => least = newer,
            }
        }
    }

    /// A service comes if it is not here, else it leaves; true if it has come.
    fn toggle(&mut self, service: u64) -> bool {
        let instance = InstanceRef { key: service, service_id: service };
        if let Some(session) = self.services.remove(&service) {
            self.shared.registry.leave_pool(session, &instance);
            return false;
        }
        self.next_slot += 1;
        let session = SessionRef { shard: 0, generation: 0, slot: self.next_slot };
        let epoch = self.shared.next_epoch(self.shared.unix_ms(self.clock.now()), 0);
        let seat = Seat { session, index: 0, addr: SocketAddr::from(([10, 2, 2, 2], 7)).into(), epoch };
        self.shared.registry.join_pool(seat, &instance, &Arc::from("files")).unwrap();
        self.services.insert(service, session);
        true
    }

    fn disconnect(&self, edge: u64) -> bool {
        let Some(session) = self.sessions.lock().remove(&edge) else { return false };
        self.shared.registry.release_edge(edge, session)
    }

    fn epoch(&self, edge: u64) -> Option<u64> {
        self.shared.registry.session(edge).map(|(_, epoch)| epoch)
    }
}

// === impl World ===

impl World {
    fn say(&self, what: impl FnOnce() -> String) {
        self.ledger.lock().say(what);
    }

    fn start_gateway(&mut self, at: usize) {
        let begin = self.ledger.lock().begin;
        let (gateway, run) = Gateway::start(at, &mut self.rng, &self.net, &self.ledger, begin);
        self.say(|| format!("gateway {at} starts, its calendar {} ms off", gateway.clock.wrong_ms));
        self.tasks.spawn(run);
        self.gateways[at] = Some(gateway);
    }

    fn start_atlas(&mut self, at: usize) {
        let store = Arc::new(self.keep.connect());
        let directory = Arc::new(Directory::new(Arc::clone(&store)));
        let watchers = Arc::new(Watchers::new(Arc::clone(&store), directory, 16));
        let links = Arc::new(Links::new(store, Arc::clone(&watchers), Terms::default()));
        let dead = CancellationToken::new();
        if self.watched {
            self.watch(at, &watchers, &dead);
        }
        let (keeping, end) = (Arc::clone(&links), dead.clone());
        self.tasks.spawn(async move { end.run_until_cancelled(keeping.keep()).await.unwrap_or_default() });
        self.net.set_atlas(at, Some(Atlas { links, dead }));
        self.say(|| format!("atlas {at} starts"));
    }

    /// Somebody watches an atlas, edges and all.
    fn watch(&mut self, at: usize, watchers: &Arc<Watchers<Handle>>, dead: &CancellationToken) {
        let (mirroring, end) = (Arc::clone(watchers), dead.clone());
        self.tasks.spawn(async move { end.run_until_cancelled(mirroring.keep()).await.unwrap_or_default() });
        let view = Arc::new(Mutex::new(View::default()));
        let (follower, end) = (follow(Arc::clone(watchers), Arc::clone(&view)), dead.clone());
        self.tasks.spawn(async move { end.run_until_cancelled(follower).await.unwrap_or_default() });
        self.views[at] = view;
    }

    fn crash_atlas(&mut self, at: usize) {
        let Some(atlas) = self.net.atlas(at) else { return };
        let counts = atlas.links.counts();
        self.ledger.lock().counts.resyncs += counts.resyncs.load(std::sync::atomic::Ordering::Relaxed);
        atlas.dead.cancel();
        self.net.set_atlas(at, None);
        for gateway in 0..GATEWAYS {
            self.net.break_off(gateway, at);
        }
    }

    /// One thing that happens.
    async fn step(&mut self) {
        let weights = [300, 120, 60, 40, 12, 8, 12, 25, 25, 10, 3, 8, 12, 40, 4, 12];
        let (gateway, atlas) = (self.rng.size(0, GATEWAYS - 1), self.rng.size(0, ATLASES - 1));
        let edge = self.rng.between(1, EDGES);
        let time = Duration::from_millis(self.rng.between(100, 9_000));
        match self.rng.weighted(&weights) {
            0 => self.connect(edge, gateway),
            1 => self.leave(edge),
            // Somebody whose connection was half-open ends there.
            2 => {
                if let Some(gateway) = &self.gateways[gateway] {
                    gateway.disconnect(edge);
                }
            }
            3 => sleep(Duration::from_millis(self.rng.between(1, 1_500))).await,
            4 => self.end_gateway(gateway, true),
            5 => self.end_gateway(gateway, false),
            6 => {
                self.ledger.lock().counts.atlas_crashes += 1;
                self.say(|| format!("atlas {atlas} crashes"));
                self.crash_atlas(atlas);
            }
            7 => {
                self.ledger.lock().counts.silences += 1;
                self.say(|| {
                    format!("gateway {gateway} and atlas {atlas} hear nothing of each other for {time:?}")
                });
                self.net.silence(gateway, atlas, time);
            }
            8 => {
                self.ledger.lock().counts.breaks += 1;
                self.say(|| format!("connections of gateway {gateway} and atlas {atlas} break"));
                self.net.break_off(gateway, atlas);
            }
            9 => {
                self.ledger.lock().counts.store_outages += 1;
                // Rarely for so long that gateways are forgotten, and what was kept for watchers too.
                let long = self.rng.chance(30);
                let time = if long { Duration::from_secs(75) } else { time };
                self.say(|| format!("the store is down for {time:?}"));
                self.keep.down(time);
                if long {
                    self.ledger.lock().counts.long_outages += 1;
                    sleep(time).await;
                }
            }
            10 => {
                self.ledger.lock().counts.store_wipes += 1;
                self.say(|| "the store forgets everything".to_owned());
                self.keep.wipe();
            }
            11 => {
                self.ledger.lock().counts.stormy_stores += 1;
                let failures = self.rng.between(0, 150);
                self.say(|| format!("of a thousand operations of the store {failures} fail in each way"));
                self.keep.set_failures(failures);
            }
            12 => {
                self.ledger.lock().counts.removed_records += 1;
                self.say(|| format!("a hand removes edge {edge}"));
                self.keep.forge(edge, None).await;
            }
            13 => {
                let service = self.rng.between(1, SERVICES);
                self.service(service, gateway);
            }
            14 => {
                self.ledger.lock().counts.clock_steps += 1;
                self.say(|| format!("the store's clock goes ahead by {time:?}"));
                self.keep.step(time);
            }
            _ => self.forge(edge).await,
        }
    }

    /// A service comes to a gateway, or leaves it.
    fn service(&mut self, service: u64, at: usize) {
        let Some(gateway) = &mut self.gateways[at] else { return };
        let comes = gateway.toggle(service);
        let mut ledger = self.ledger.lock();
        match comes {
            true => ledger.counts.services_coming += 1,
            false => ledger.counts.services_going += 1,
        }
        ledger
            .say(|| format!("service {service} {} gateway {at}", if comes { "comes to" } else { "leaves" }));
    }

    fn connect(&mut self, edge: u64, at: usize) {
        if self.gateways[at].is_none() {
            return self.start_gateway(at);
        }
        let (place, ticket) = self.edges.get(&edge).copied().unwrap_or_default();
        let gateway = self.gateways[at].as_mut().unwrap();
        let epoch = gateway.connect(edge, ticket);
        self.edges.insert(edge, (Some(at), epoch));
        let mut ledger = self.ledger.lock();
        match place {
            Some(before) if before != at => ledger.counts.moves += 1,
            _ => ledger.counts.connects += 1,
        }
        let newest = ledger.newest.entry(edge).or_default();
        *newest = (*newest).max(epoch);
        ledger.say(|| format!("edge {edge} is at gateway {at} with {epoch:x}"));
        drop(ledger);
        // Often its old connection ends at once.
        if let Some(before) = place.filter(|before| *before != at)
            && self.rng.chance(500)
            && let Some(gateway) = &self.gateways[before]
        {
            gateway.disconnect(edge);
        }
    }

    fn leave(&mut self, edge: u64) {
        let Some((Some(at), ticket)) = self.edges.get(&edge).copied() else { return };
        if let Some(gateway) = &self.gateways[at] {
            gateway.disconnect(edge);
        }
        self.ledger.lock().counts.leaves += 1;
        self.say(|| format!("edge {edge} leaves gateway {at}"));
        self.edges.insert(edge, (None, ticket));
    }

    fn end_gateway(&mut self, at: usize, crash: bool) {
        let Some(gateway) = self.gateways[at].take() else { return };
        self.say(|| format!("gateway {at} {}", if crash { "crashes" } else { "leaves" }));
        if crash {
            self.ledger.lock().counts.gateway_crashes += 1;
            gateway.dead.cancel();
            for atlas in 0..ATLASES {
                self.net.break_off(at, atlas);
            }
        } else {
            self.ledger.lock().counts.gateway_drains += 1;
            gateway.stop.cancel();
        }
        for (place, _) in self.edges.values_mut().filter(|(place, _)| *place == Some(at)) {
            *place = None;
        }
    }

    async fn forge(&mut self, edge: u64) {
        let instance = match self.rng.below(3) {
            0 => [9; 16],
            at => match &self.gateways[usize::try_from(at).unwrap()] {
                Some(gateway) => gateway.instance,
                None => return,
            },
        };
        let StoreTime(now) = self.keep.now();
        let off = self.rng.between(0, 200_000);
        let epoch = StoreTime((now + off).saturating_sub(100_000)).epoch();
        let record = EdgeRecord {
            claim: Claim { epoch, instance: Instance(instance) },
            stream: 1,
            addr: ([10, 9, 9, 9], 9).into(),
        };
        {
            let mut ledger = self.ledger.lock();
            ledger.counts.forged_records += 1;
            ledger.forged.insert(edge);
            ledger.say(|| format!("a hand writes edge {edge} at {} with {epoch:x}", Instance(instance)));
        }
        self.keep.forge(edge, Some(record)).await;
    }

    /// Everything works again, and whoever is down comes back.
    fn heal(&mut self) {
        self.say(|| "everything is well again".to_owned());
        self.net.heal();
        self.keep.set_failures(0);
        self.keep.down(Duration::ZERO);
        for at in 0..ATLASES {
            if self.net.atlas(at).is_none() {
                self.start_atlas(at);
            }
        }
    }

    /// What is wrong with what clients are told.
    async fn wrong(&mut self) -> Option<String> {
        let memory: Arc<Memory> = self.keep.memory();
        let directory = Directory::new(Arc::clone(&memory));
        let roster = memory.members().await.unwrap();
        let mut expected = BTreeMap::new();
        let mut sessions = 0;
        for (at, gateway) in
            self.gateways.iter().enumerate().filter_map(|(at, one)| Some((at, one.as_ref()?)))
        {
            if !roster.lives(Instance(gateway.instance)) {
                return Some(format!("gateway {at} has no lease"));
            }
            for edge in 1..=EDGES {
                if let Some(epoch) = gateway.epoch(edge) {
                    sessions += 1;
                    if let Some((other, its)) = expected.insert(edge, (at, epoch)) {
                        return Some(format!(
                            "edge {edge} has sessions at {other} with {its:x} and at {at} with {epoch:x}"
                        ));
                    }
                }
            }
        }
        let living = roster.members.keys().filter(|instance| roster.lives(**instance)).count();
        let running = self.gateways.iter().flatten().count();
        if living != running {
            return Some(format!("{living} gateways have leases, {running} run"));
        }
        let ids: Vec<u64> = (1..=EDGES).collect();
        let found = directory.edges(&ids).await.unwrap();
        let found: BTreeMap<u64, (String, u64)> =
            found.into_iter().map(|edge| (edge.id, (edge.frontier_id, edge.record.claim.epoch))).collect();
        for edge in ids {
            let here = expected.get(&edge).map(|(at, epoch)| (format!("g{at}"), *epoch));
            if found.get(&edge) != here.as_ref() {
                return Some(format!("edge {edge} is at {here:x?} and found at {:x?}", found.get(&edge)));
            }
        }
        let counted = directory.edge_count().await.unwrap();
        if counted != sessions {
            return Some(format!("{sessions} edges are counted as {counted}"));
        }
        if let Some(wrong) = self.wrong_services(&directory).await.or_else(|| self.wrong_views(&expected)) {
            return Some(wrong);
        }
        let page = directory.edge_page(0, 0).await.unwrap();
        if page.entries.len() as u64 != sessions {
            return Some(format!("{sessions} edges, {} on the list", page.entries.len()));
        }
        None
    }

    /// What is wrong with what clients are told of services.
    async fn wrong_services(&self, directory: &Directory<Memory>) -> Option<String> {
        let running = self.gateways.iter().enumerate().filter_map(|(at, one)| Some((at, one.as_ref()?)));
        let here: BTreeSet<(u64, String)> = running
            .flat_map(|(at, gateway)| gateway.services.keys().map(move |id| (*id, format!("g{at}"))))
            .collect();
        let page = directory.service_page(0, 0).await.unwrap();
        let found: BTreeSet<(u64, String)> =
            page.entries.into_iter().map(|one| (one.id, one.frontier_id)).collect();
        let counted = directory.service_count().await.unwrap();
        (here != found || counted != here.len() as u64)
            .then(|| format!("services are {here:?}, found {found:?}, counted {counted}"))
    }

    /// What is wrong with what those see who watch.
    fn wrong_views(&self, expected: &BTreeMap<u64, (usize, u64)>) -> Option<String> {
        let there: BTreeMap<u64, (String, u64)> =
            expected.iter().map(|(edge, (at, epoch))| (*edge, (format!("g{at}"), *epoch))).collect();
        let running = self.gateways.iter().enumerate().filter(|(_, one)| one.is_some());
        let gateways: BTreeSet<String> = running.map(|(at, _)| format!("g{at}")).collect();
        for (at, view) in self.views.iter().enumerate().filter(|_| self.watched) {
            let view = view.lock();
            if !view.current || view.gateways != gateways || view.edges != there {
                let other = |id: &&u64| view.edges.get(*id) != there.get(*id);
                let ids: BTreeSet<&u64> = view.edges.keys().chain(there.keys()).filter(other).collect();
                let edges: Vec<_> = ids.iter().map(|id| (id, view.edges.get(*id), there.get(*id))).collect();
                return Some(format!(
                    "who watches atlas {at} sees {:?} and other edges than there are: {edges:x?}, current: {}",
                    view.gateways, view.current
                ));
            }
        }
        None
    }
}

/// Somebody watches an atlas, and comes again when that ends.
async fn follow(watchers: Arc<Watchers<Handle>>, view: Arc<Mutex<View>>) {
    let mut resume = Vec::new();
    loop {
        let request = WatchRequest { frontiers: true, edges: true, resume: resume.clone() };
        let Ok(mut watcher) = watchers.watch(&request) else { return };
        while let Ok(Some(message)) = watcher.next().await {
            view.lock().take(&message);
            resume.clone_from(&message.resume);
        }
        sleep(Duration::from_millis(250)).await;
    }
}

// === impl View ===

impl View {
    fn take(&mut self, message: &WatchResponse) {
        let gateways = || message.frontiers.iter().map(|one| one.frontier_id.clone());
        match message.kind() {
            Kind::Reset => {
                *self = Self { gateways: gateways().collect(), changes: self.changes, ..Self::default() }
            }
            Kind::Put => {
                self.changes += message.edges.len() as u64;
                self.gateways.extend(gateways());
                let edges = message.edges.iter();
                self.edges.extend(edges.map(|edge| (edge.edge_id, (edge.frontier_id.clone(), edge.epoch))));
            }
            Kind::Remove => {
                self.gateways.retain(|id| gateways().all(|gone| gone != *id));
                message.edges.iter().for_each(|edge| drop(self.edges.remove(&edge.edge_id)));
            }
            Kind::Current => self.current = true,
            Kind::Unspecified => panic!("{message:?}"),
        }
    }
}

/// One seed.
pub(crate) async fn life(seed: u64, tell: bool) -> Report {
    // A mirror of all edges for each atlas takes as long as all the rest together.
    let watched = seed.is_multiple_of(4);
    let mut rng = Rng::new(seed);
    let begin = Instant::now();
    let ledger = Arc::new(Mutex::new(Ledger {
        newest: BTreeMap::new(),
        forged: BTreeSet::new(),
        failure: None,
        counts: Counts::default(),
        tell,
        begin,
    }));
    let net = Net::new(Rng::new(rng.next()), ATLASES, tell);
    let keep = Keep::new(Rng::new(rng.next()));
    let gateways = (0..GATEWAYS).map(|_| None).collect();
    let views = (0..ATLASES).map(|_| Arc::default()).collect();
    let mut world = World {
        rng,
        net,
        keep,
        ledger,
        gateways,
        edges: BTreeMap::new(),
        watched,
        views,
        tasks: JoinSet::new(),
    };
    for at in 0..ATLASES {
        // An order of starts does not matter.
        if world.rng.chance(800) {
            world.start_atlas(at);
        }
    }
    for at in 0..GATEWAYS {
        world.start_gateway(at);
    }
    let mut healed = Duration::ZERO;
    // Faults, quiet, faults.
    for _ in 0..2 {
        for _ in 0..world.rng.between(20, 80) {
            world.step().await;
            sleep(Duration::from_millis(world.rng.between(0, 150))).await;
        }
        for at in 0..GATEWAYS {
            if world.gateways[at].is_none() && world.rng.chance(700) {
                world.start_gateway(at);
            }
        }
        world.heal();
        let quiet = Instant::now();
        let mut wrong = world.wrong().await;
        while wrong.is_some() && quiet.elapsed() < HEALED {
            sleep(Duration::from_millis(50)).await;
            wrong = world.wrong().await;
        }
        healed = healed.max(quiet.elapsed());
        if let Some(wrong) = wrong {
            world.say(|| format!("still wrong: {wrong}"));
            world.ledger.lock().failure.get_or_insert_with(|| format!("after {HEALED:?} {wrong}"));
        }
        // Forged records are gone now.
        world.ledger.lock().forged.clear();
        if world.ledger.lock().failure.is_some() {
            break;
        }
    }
    for at in 0..ATLASES {
        world.crash_atlas(at);
    }
    world.tasks.abort_all();
    let changes: u64 = world.views.iter().map(|view| view.lock().changes).sum();
    let ledger = world.ledger.lock();
    let counts =
        Counts { duplicates: world.net.duplicates(), watched_changes: changes, ..ledger.counts.clone() };
    Report { failure: ledger.failure.clone(), healed, counts, trace: world.net.trace() }
}
