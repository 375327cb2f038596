//! Who is where: edges by ID, and the instances that offer a method, a topic or a service name.
//!
//! Edges are read without waiting, on every operation of every service. Names change when services come and go and are looked up by a
//! shard in its own [`NameCache`]; only a miss after a change takes the lock. A session and its routes are one object with one life:
//! whoever owns the session adds and removes them, and a removal names the session it belongs to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use hashbrown::HashMap;
use papaya::{Compute, Operation};
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use crate::core::{
    card::{EdgeCard, PackedAddr},
    exchange::{Instance, Targets},
    outlet::{Offer, Outlet, Outlets},
    roll::{Here, Roll},
    table::SessionRef,
};

/// Names a shard remembers before it starts anew: bounds what edges that ask for random names can make it hold.
const CACHE_NAMES: usize = 8_192;

/// Bytes of the longest name that can be registered.
const LONGEST_NAME: usize = 255;

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// A method that can be called.
    Method,
    /// A topic that can be published to.
    Topic,
    /// A service name.
    Service,
}

/// The service instance a session belongs to.
#[derive(Clone, Debug)]
pub struct InstanceRef {
    /// Hash of service ID and instance bits.
    pub key: u64,
    /// The service ID.
    pub service_id: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Registry {
    edges: papaya::HashMap<u64, (SessionRef, Arc<EdgeCard>)>,
    names: Mutex<Names>,
    version: AtomicU64,
    /// By the key of the instance.
    pools: Mutex<HashMap<u64, Pool>>,
    /// Of lists under way; those that are done are dropped at the next claim.
    watches: Mutex<Vec<Weak<Latecomers>>>,
    /// What the cluster's registry is told; `None` = there is no such registry.
    roll: Option<Roll>,
}

/// Edges that came since a list of those online was begun.
#[derive(Debug, Default)]
pub struct Latecomers(Mutex<BTreeSet<u64>>);

/// The connections of one instance, the oldest first.
#[derive(Debug)]
struct Pool {
    name: Arc<str>,
    service_id: u64,
    /// Of the connection that made it.
    epoch: u64,
    conns: SmallVec<[Seat; 1]>,
}

/// The place of a connection in the pool of its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The connection.
    pub session: SessionRef,
    /// Its number among those of the instance.
    pub index: u32,
    /// Where it comes from.
    pub addr: PackedAddr,
    /// Of its session.
    pub epoch: u64,
}

/// A service that has a connection here, whatever the number of its instances: the newest of them is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHere {
    /// The service ID.
    pub id: u64,
    /// Of the instance.
    pub epoch: u64,
    /// Of its oldest connection.
    pub addr: PackedAddr,
    /// The service's name.
    pub name: Arc<str>,
}

/// The other connections of an instance have another service name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connections of one instance have one service name")]
pub struct OtherName;

#[derive(Debug, Default)]
struct Names {
    targets: HashMap<(NameKind, Box<str>), Arc<Targets>>,
    in_flight: HashMap<u64, (usize, Arc<AtomicU32>)>,
    /// What queues take, to be taken back when others come in their place.
    offers: Vec<Offer>,
    /// The queues as shards see them; `None` = there are none.
    outlets: Option<Arc<Outlets>>,
}

/// A shard's copy of the names it uses.
#[derive(Debug, Default)]
pub struct NameCache {
    version: u64,
    names: [HashMap<Box<str>, Option<Arc<Targets>>>; 3],
    outlets: Option<Arc<Outlets>>,
}

// === impl Registry ===

impl Registry {
    /// One that keeps a [`Roll`], for who reports to the cluster's registry.
    #[must_use]
    pub fn with_roll() -> Self {
        Self { roll: Some(Roll::new()), ..Self::default() }
    }

    /// What the cluster's registry is told.
    #[must_use]
    pub const fn roll(&self) -> Option<&Roll> {
        self.roll.as_ref()
    }

    /// The newest session of an edge takes its ID; returns the session it replaces. One of an epoch above `latest` is newer than nobody: its
    /// epoch was drawn by a clock that was wrong.
    ///
    /// # Errors
    /// If the session that has the ID has an epoch that is not below the card's, that epoch: two shards may draw epochs in one order
    /// and come here in the other. Whoever comes later is the newer one, so it has to draw again.
    pub fn claim_edge(
        &self,
        session: SessionRef,
        card: &Arc<EdgeCard>,
        latest: u64,
    ) -> Result<Option<(SessionRef, Arc<EdgeCard>)>, u64> {
        let roll = self.roll.as_ref().map(|roll| roll.entry(card.id));
        let edges = self.edges.pin();
        let claim = |entry: Option<(&u64, &(SessionRef, Arc<EdgeCard>))>| match entry {
            Some((_, (_, old))) if (card.epoch..=latest).contains(&old.epoch) => Operation::Abort(old.epoch),
            _ => Operation::Insert((session, Arc::clone(card))),
        };
        let old = match edges.compute(card.id, claim) {
            Compute::Updated { old: (_, old), .. } => Some(old.clone()),
            Compute::Aborted(epoch) => return Err(epoch),
            Compute::Inserted(..) | Compute::Removed(..) => None,
        };
        if let Some(roll) = roll {
            roll.change(old.as_ref().map(|(_, old)| old.epoch), Some(card.epoch));
        }
        self.watches.lock().retain(|watch| {
            let watch = watch.upgrade();
            watch.is_some_and(|watch| {
                watch.0.lock().insert(card.id);
                true
            })
        });
        Ok(old)
    }

    /// The edges that claim their ID from now on, for as long as somebody holds the answer.
    pub fn watch_claims(&self) -> Arc<Latecomers> {
        let watch = Arc::default();
        self.watches.lock().push(Arc::downgrade(&watch));
        watch
    }

    /// Takes an edge out, if this session still holds the ID.
    pub fn release_edge(&self, id: u64, session: SessionRef) -> bool {
        let roll = self.roll.as_ref().map(|roll| roll.entry(id));
        let edges = self.edges.pin();
        let Ok(Some((_, (_, card)))) = edges.remove_if(&id, |_, (holder, _)| *holder == session) else {
            return false;
        };
        if let Some(roll) = roll {
            roll.change(Some(card.epoch), None);
        }
        true
    }

    /// The session of an edge.
    #[must_use]
    pub fn edge(&self, id: u64) -> Option<SessionRef> {
        self.edges.pin().get(&id).map(|(session, _)| *session)
    }

    /// The card of an edge.
    #[must_use]
    pub fn card(&self, id: u64) -> Option<Arc<EdgeCard>> {
        self.edges.pin().get(&id).map(|(_, card)| Arc::clone(card))
    }

    /// The session of an edge and the epoch it has.
    #[must_use]
    pub fn session(&self, id: u64) -> Option<(SessionRef, u64)> {
        self.edges.pin().get(&id).map(|(session, card)| (*session, card.epoch))
    }

    /// What the cluster's registry is told of an edge that is here.
    #[must_use]
    pub fn here(&self, id: u64) -> Option<Here> {
        self.edges.pin().get(&id).map(|(_, card)| Here { epoch: card.epoch, addr: card.addr })
    }

    /// Looks at every edge that is here from the begin to the end; whoever comes or goes meanwhile may be missed. A million takes a tenth
    /// of a second, most of which is waiting for memory.
    pub fn each_edge(&self, mut visit: impl FnMut(u64)) {
        self.edges.pin().keys().for_each(|id| visit(*id));
    }

    /// Edge IDs held.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.edges.len()
    }

    /// A connection takes its place in the pool of its instance; returns the one that had the same place, which it replaces.
    ///
    /// # Errors
    /// If the others have another service name.
    pub fn join_pool(
        &self,
        seat: Seat,
        instance: &InstanceRef,
        name: &Arc<str>,
    ) -> Result<Option<SessionRef>, OtherName> {
        let mut pools = self.pools.lock();
        let (service_id, epoch) = (instance.service_id, seat.epoch);
        let new = || Pool { name: Arc::clone(name), service_id, epoch, conns: SmallVec::new() };
        let pool = pools.entry(instance.key).or_insert_with(new);
        if pool.name != *name {
            return Err(OtherName);
        }
        let old = pool.conns.iter_mut().find(|old| old.index == seat.index);
        let replaced = match old {
            Some(old) => Some(std::mem::replace(old, seat).session),
            None => {
                pool.conns.push(seat);
                None
            }
        };
        drop(pools);
        self.service_changed();
        Ok(replaced)
    }

    /// A connection leaves the pool of its instance, if it is still in it.
    pub fn leave_pool(&self, session: SessionRef, instance: &InstanceRef) {
        let mut pools = self.pools.lock();
        let Some(pool) = pools.get_mut(&instance.key) else { return };
        pool.conns.retain(|seat| seat.session != session);
        if pool.conns.is_empty() {
            pools.remove(&instance.key);
        }
        drop(pools);
        self.service_changed();
    }

    fn service_changed(&self) {
        if let Some(roll) = &self.roll {
            roll.service_changed();
        }
    }

    /// The services that are here, by ID. They are few.
    #[must_use]
    pub fn services(&self) -> BTreeMap<u64, ServiceHere> {
        let mut services: BTreeMap<u64, ServiceHere> = BTreeMap::new();
        for pool in self.pools.lock().values() {
            let Some(oldest) = pool.conns.first() else { continue };
            let (id, epoch, addr) = (pool.service_id, pool.epoch, oldest.addr);
            if services.get(&id).is_none_or(|shown| shown.epoch < epoch) {
                services.insert(id, ServiceHere { id, epoch, addr, name: Arc::clone(&pool.name) });
            }
        }
        services
    }

    /// Instances with a connection, for leak checks.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn pools(&self) -> usize {
        self.pools.lock().len()
    }

    /// A session offers some names: one change, whatever their number, since every change makes all shards look names up again.
    pub fn add_names<'a>(
        &self,
        session: SessionRef,
        instance: &InstanceRef,
        names: impl IntoIterator<Item = (NameKind, &'a str)>,
    ) {
        self.change(names, |all, kind, name| {
            all.add(kind, name, session, instance);
            true
        });
    }

    /// A session offers some names no longer; those it did not offer do not matter.
    pub fn remove_names<'a>(
        &self,
        session: SessionRef,
        instance: &InstanceRef,
        names: impl IntoIterator<Item = (NameKind, &'a str)>,
    ) {
        self.change(names, |all, kind, name| all.remove(kind, name, session, instance));
    }

    fn change<'a>(
        &self,
        names: impl IntoIterator<Item = (NameKind, &'a str)>,
        one: impl Fn(&mut Names, NameKind, &str) -> bool,
    ) {
        let mut names = names.into_iter().peekable();
        if names.peek().is_none() {
            return;
        }
        let mut all = self.names.lock();
        let changed = names.fold(false, |changed, (kind, name)| one(&mut all, kind, name) | changed);
        if changed {
            // Before the lock is given back: whoever sees the new version finds the new names.
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// From now on these queues take topics, and no others. One that stays keeps its number: whose topics go there, they stay as well.
    pub fn set_queues(&self, offers: Vec<Offer>) {
        let mut names = self.names.lock();
        if names.offers.is_empty() && offers.is_empty() {
            return;
        }
        for offer in std::mem::take(&mut names.offers) {
            let (queue, instance) = (offer.handle(), offer.instance());
            for topic in &offer.topics {
                names.remove(NameKind::Topic, topic, queue, &instance);
            }
            names.uncount(offer.key);
        }
        for offer in &offers {
            let (queue, instance) = (offer.handle(), offer.instance());
            for topic in &offer.topics {
                names.add(NameKind::Topic, topic, queue, &instance);
            }
            // It may take topics by pattern alone.
            names.count(offer.key);
        }
        let outlets = Outlets::new(&offers, |key| {
            names.in_flight.get(&key).map(|(_, count)| Arc::clone(count)).unwrap_or_default()
        });
        names.outlets = (!offers.is_empty()).then(|| Arc::new(outlets));
        names.offers = offers;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The queues that take topics now.
    fn outlets(&self) -> Option<Arc<Outlets>> {
        self.names.lock().outlets.clone()
    }

    /// Tells whether an instance offers anything, by its key. Holds the lock for as long as it lives.
    pub fn living(&self) -> impl Fn(u64) -> bool {
        let names = self.names.lock();
        move |instance| names.in_flight.contains_key(&instance)
    }

    /// Counts the changes of names: as long as it stays the same, so does everybody who offers one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The live instances of a name.
    #[must_use]
    pub fn targets(&self, kind: NameKind, name: &str) -> Option<Arc<Targets>> {
        self.names.lock().targets.get(&(kind, Box::from(name))).cloned()
    }

    /// Names offered by anybody, for leak checks.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn names(&self) -> usize {
        self.names.lock().targets.len()
    }

    /// Names offered, each as often as a connection does, those of queues left out; for leak checks.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn offers(&self) -> usize {
        let names = self.names.lock();
        let targets = names.targets.values().flat_map(|targets| targets.iter());
        targets.map(|target| target.conns.iter().filter(|conn| !conn.is_queue()).count()).sum()
    }

    /// Operations counted in flight to all instances, for leak checks.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let names = self.names.lock();
        names.in_flight.values().map(|(_, count)| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// Instances that offer a name, for leak checks.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn instances(&self) -> usize {
        self.names.lock().in_flight.len()
    }
}

// === impl Latecomers ===

impl Latecomers {
    /// Takes out some of them.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<u64> {
        let mut ids = self.0.lock();
        std::iter::from_fn(|| ids.pop_first()).take(most).collect()
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether nobody came.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

// === impl Names ===

impl Names {
    fn add(&mut self, kind: NameKind, name: &str, session: SessionRef, instance: &InstanceRef) {
        let in_flight = self.count(instance.key);
        let key = (kind, Box::from(name));
        let mut targets = self.targets.get(&key).map_or_else(Vec::new, |targets| targets.to_vec());
        match targets.iter_mut().find(|target| target.key == instance.key) {
            Some(target) => {
                let mut conns = target.conns.clone();
                conns.push(session);
                *target =
                    Arc::new(Instance { conns, in_flight, key: target.key, service_id: target.service_id });
            }
            None => {
                let conns = smallvec![session];
                let (key, service_id) = (instance.key, instance.service_id);
                targets.push(Arc::new(Instance { key, service_id, conns, in_flight }));
            }
        }
        self.targets.insert(key, targets.into());
    }

    /// Says whether the session had offered the name.
    fn remove(&mut self, kind: NameKind, name: &str, session: SessionRef, instance: &InstanceRef) -> bool {
        let key = (kind, Box::from(name));
        let Some(targets) = self.targets.get(&key) else { return false };
        let mut targets = targets.to_vec();
        let Some(at) = targets.iter().position(|target| target.conns.contains(&session)) else {
            return false;
        };
        let conns = targets[at].conns.iter().copied().filter(|conn| *conn != session).collect();
        let old = &targets[at];
        let left = Instance {
            conns,
            key: old.key,
            service_id: old.service_id,
            in_flight: Arc::clone(&old.in_flight),
        };
        if left.conns.is_empty() {
            targets.remove(at);
        } else {
            targets[at] = Arc::new(left);
        }
        if targets.is_empty() {
            self.targets.remove(&key);
        } else {
            self.targets.insert(key, targets.into());
        }
        self.uncount(instance.key);
        true
    }

    /// Notes that an instance offers one thing more.
    fn count(&mut self, instance: u64) -> Arc<AtomicU32> {
        let counter = self.in_flight.entry(instance).or_default();
        counter.0 += 1;
        Arc::clone(&counter.1)
    }

    /// Notes that an instance offers one thing less.
    fn uncount(&mut self, instance: u64) {
        if let Some(counter) = self.in_flight.get_mut(&instance) {
            counter.0 -= 1;
            if counter.0 == 0 {
                self.in_flight.remove(&instance);
            }
        }
    }
}

// === impl NameCache ===

impl NameCache {
    /// The live instances of a name, as of the newest change; for a topic that nobody offers by name, the queues whose patterns fit it
    /// best.
    pub fn targets(&mut self, registry: &Registry, kind: NameKind, name: &str) -> Option<Arc<Targets>> {
        self.refresh(registry);
        let by_pattern = |outlets: &Option<Arc<Outlets>>| {
            outlets.as_ref().filter(|_| kind == NameKind::Topic)?.matching(name)
        };
        // Nobody can have registered it, and what cannot be is not worth remembering.
        if name.len() > LONGEST_NAME {
            return by_pattern(&self.outlets);
        }
        let names = &mut self.names[kind as usize];
        if let Some(targets) = names.get(name) {
            return targets.clone();
        }
        if names.len() >= CACHE_NAMES {
            names.clear();
        }
        let targets = registry.targets(kind, name).or_else(|| by_pattern(&self.outlets));
        names.insert(name.into(), targets.clone());
        targets
    }

    /// The queue of a handle, as of the newest change.
    pub fn outlet(&mut self, registry: &Registry, queue: SessionRef) -> Option<Arc<dyn Outlet>> {
        self.refresh(registry);
        self.outlets.as_ref()?.get(queue).map(Arc::clone)
    }

    fn refresh(&mut self, registry: &Registry) {
        let version = registry.version();
        if version != self.version {
            *self = Self { version, names: Default::default(), outlets: registry.outlets() };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        AtomicU64, EdgeCard, InstanceRef, LONGEST_NAME, Mutex, NameCache, NameKind, Ordering, OtherName,
        Registry, Seat, SessionRef,
    };

    fn session(slot: u32) -> SessionRef {
        SessionRef { shard: 0, generation: 0, slot }
    }

    fn seat(slot: u32, index: u32) -> Seat {
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into();
        Seat { session: session(slot), index, addr, epoch: slot.into() }
    }

    fn card(id: u64, epoch: u64) -> Arc<EdgeCard> {
        Arc::new(EdgeCard::new((id, epoch), ([127, 0, 0, 1], 1).into(), &[], []))
    }

    #[test]
    fn late_close_does_not_evict_successor() {
        let registry = Registry::default();
        assert!(registry.claim_edge(session(1), &card(7, 1), u64::MAX).unwrap().is_none());
        let (old, _) = registry.claim_edge(session(2), &card(7, 2), u64::MAX).unwrap().unwrap();
        assert_eq!(old, session(1));
        assert!(!registry.release_edge(7, session(1)));
        assert_eq!(registry.edge(7), Some(session(2)));
        assert!(registry.release_edge(7, session(2)));
        assert_eq!(registry.edge(7), None);
    }

    #[test]
    fn a_late_leave_does_not_evict_the_successor_in_a_pool() {
        let registry = Registry::default();
        let instance = InstanceRef { key: 1, service_id: 1 };
        let (name, other): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        assert_eq!(registry.join_pool(seat(1, 0), &instance, &name), Ok(None));
        assert_eq!(registry.join_pool(seat(2, 1), &instance, &name), Ok(None));
        assert_eq!(registry.join_pool(seat(3, 2), &instance, &other), Err(OtherName));
        assert_eq!(registry.join_pool(seat(4, 0), &instance, &name), Ok(Some(session(1))));
        for gone in [1, 2, 3] {
            registry.leave_pool(session(gone), &instance);
        }
        assert_eq!(registry.join_pool(seat(5, 0), &instance, &name), Ok(Some(session(4))));
        registry.leave_pool(session(5), &instance);
        assert_eq!(registry.pools(), 0);
        assert_eq!(
            registry.join_pool(seat(6, 0), &instance, &other),
            Ok(None),
            "nobody is left to differ from"
        );
    }

    #[test]
    fn the_longest_name_is_what_a_session_may_register() {
        assert_eq!(LONGEST_NAME, frontier_wire::native::limits::HelloLimits::default().name);
    }

    #[test]
    fn whoever_comes_later_has_the_greater_epoch() {
        let registry = Registry::default();
        registry.claim_edge(session(1), &card(7, 5), u64::MAX).unwrap();
        let late = card(7, 4);
        assert_eq!(registry.claim_edge(session(2), &late, u64::MAX).err(), Some(5));
        assert_eq!(registry.edge(7), Some(session(1)));
        assert!(registry.claim_edge(session(2), &Arc::new(late.with_epoch(6)), u64::MAX).unwrap().is_some());
        assert_eq!(registry.card(7).unwrap().epoch, 6);
    }

    #[test]
    fn who_drew_its_epoch_by_a_wrong_clock_is_newer_than_nobody() {
        let registry = Registry::default();
        registry.claim_edge(session(1), &card(7, 1_000), u64::MAX).unwrap();
        assert_eq!(registry.claim_edge(session(2), &card(7, 5), 1_000).err(), Some(1_000));
        assert!(registry.claim_edge(session(2), &card(7, 5), 999).unwrap().is_some());
        assert_eq!(registry.session(7), Some((session(2), 5)));
    }

    #[test]
    fn claims_of_many_threads_end_with_the_greatest_epoch() {
        let registry = Registry::default();
        let drawn = AtomicU64::new(0);
        let draw = || drawn.fetch_add(1, Ordering::Relaxed) + 1;
        let replaced = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for slot in 0..4 {
                let (registry, draw, replaced) = (&registry, &draw, &replaced);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let mut card = card(7, draw());
                        let old = loop {
                            match registry.claim_edge(session(slot), &card, u64::MAX) {
                                Ok(old) => break old,
                                Err(newer) => {
                                    assert!(newer >= card.epoch);
                                    card = Arc::new(card.with_epoch(draw()));
                                }
                            }
                        };
                        if let Some((_, old)) = old {
                            assert!(old.epoch < card.epoch);
                            replaced.lock().push(old.epoch);
                        }
                    }
                });
            }
        });
        let mut replaced = replaced.into_inner();
        assert_eq!(replaced.len(), 1_999, "all but the last one were replaced");
        replaced.sort_unstable();
        assert!(replaced.last().unwrap() < &registry.card(7).unwrap().epoch);
    }

    #[test]
    fn many_names_are_one_change_and_none_are_no_change() {
        let registry = Registry::default();
        let instance = InstanceRef { key: 1, service_id: 1 };
        let names = ["a", "b", "c"].map(|name| (NameKind::Topic, name));
        registry.add_names(session(1), &instance, names);
        assert_eq!((registry.version(), registry.offers()), (1, 3));
        registry.add_names(session(1), &instance, []);
        registry.remove_names(session(2), &instance, names);
        assert_eq!((registry.version(), registry.offers()), (1, 3));
        registry.remove_names(session(1), &instance, names);
        assert_eq!((registry.version(), registry.offers(), registry.instances()), (2, 0, 0));
    }

    #[test]
    fn connections_of_a_pool_are_one_instance_and_names_live_as_long_as_their_sessions() {
        let registry = Registry::default();
        let mut cache = NameCache::default();
        let pool = InstanceRef { key: 1, service_id: 1 };
        let other = InstanceRef { key: 2, service_id: 2 };
        assert!(cache.targets(&registry, NameKind::Method, "echo").is_none());
        registry.add_names(session(1), &pool, [(NameKind::Method, "echo")]);
        registry.add_names(session(2), &pool, [(NameKind::Method, "echo")]);
        registry.add_names(session(3), &other, [(NameKind::Method, "echo")]);
        let targets = cache.targets(&registry, NameKind::Method, "echo").unwrap();
        assert_eq!(targets.iter().map(|t| t.conns.len()).collect::<Vec<_>>(), [2, 1]);
        assert!(cache.targets(&registry, NameKind::Topic, "echo").is_none(), "kinds are apart");
        assert!(cache.targets(&registry, NameKind::Method, "Echo").is_none(), "names are exact");
        for slot in [1, 2] {
            registry.remove_names(session(slot), &pool, [(NameKind::Method, "echo")]);
        }
        registry.remove_names(session(9), &other, [(NameKind::Method, "echo")]);
        assert_eq!(cache.targets(&registry, NameKind::Method, "echo").unwrap().len(), 1);
        assert!(cache.targets(&registry, NameKind::Method, &"x".repeat(LONGEST_NAME + 1)).is_none());
        assert_eq!(cache.names[NameKind::Method as usize].len(), 1, "what cannot be is not remembered");
        registry.remove_names(session(3), &other, [(NameKind::Method, "echo")]);
        assert!(cache.targets(&registry, NameKind::Method, "echo").is_none());
        assert_eq!(registry.names(), 0);
        assert!(registry.names.lock().in_flight.is_empty());
    }
}
