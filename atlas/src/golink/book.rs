//! What a Go gateway has, and what of it is yet to be said to the links.
//!
//! The newest state is kept, not the history: what waits to be said is a set of IDs, and where those become too many, of whole buckets. So a
//! store that is away costs nothing but time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Bound, RangeInclusive};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use frontier_api::bucket::{Digest, EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket, service_bucket};
use frontier_api::registry::{self, Buckets, Changes, Edge, ServiceInstance, from_gateway};

use super::calls::NOWHERE;
use crate::record::{EdgeRecord, ServiceRecord, StoreTime};

/// IDs that wait to be said one by one.
const PENDING: usize = 10_000;

/// Heartbeats of edges that are not known, which wait to be looked up; those of more come again.
const STRAYS: usize = 10_000;

/// Buckets of one message: an empty one costs the store a command all the same.
const BUCKETS: usize = 1_024;

/// Who has not been heard of yet may have heartbeats as rare as the protocol has them, which is every 320 s.
const PATIENCE: Duration = Duration::from_secs(800);

/// Edges or services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Edge,
    Service,
}

/// Who: in the order of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    bucket: u16,
    id: u64,
}

#[derive(Debug)]
struct Entry {
    /// 0 as long as the store's time is not known.
    epoch: u64,
    addr: SocketAddr,
    /// Of services.
    name: Box<str>,
    /// When it came or was heard of, since the book was opened.
    heard: Duration,
    /// How long it stays if it is not heard of again.
    patience: Duration,
}

/// What the store knows of an edge that the book does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is at no gateway that lives.
    Nowhere,
    /// It is this gateway's.
    Here(EdgeRecord),
    /// It is another one's, which lives.
    Elsewhere,
}

/// There is no room for another edge or service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Counts of entries, of all books and of one at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room<'a> {
    pub(super) used: &'a AtomicUsize,
    pub(super) all: usize,
    pub(super) each: usize,
    /// The least patience, and that with what was found in the store.
    pub(super) unheard: Duration,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Book<'a> {
    room: Room<'a>,
    entries: BTreeMap<Key, Entry>,
    edges: usize,
    /// What the gateway itself says it has.
    stats: Option<(u64, u64)>,
    /// To be said, with the epoch of the session that it is about.
    pending: BTreeMap<Key, u64>,
    /// To be said whole.
    again: BTreeSet<(Kind, u16)>,
    /// Those of which the next renewal tells the digest.
    changed: BTreeSet<(Kind, u16)>,
    strays: BTreeSet<u64>,
    /// Strays that are being looked up.
    sought: BTreeSet<u64>,
    /// What the store's time was when, since the book was opened.
    time: Option<(StoreTime, Duration)>,
    /// The last epoch given.
    last: u64,
    /// How far the search for those not heard of has come.
    swept: Option<Key>,
    /// Who has left while it is not known yet what the store has.
    left: Option<BTreeSet<Key>>,
}

// === impl Key ===

impl Key {
    fn new(kind: Kind, id: u64) -> Self {
        let bucket = match kind {
            Kind::Edge => edge_bucket(id),
            Kind::Service => service_bucket(id),
        };
        Self { kind, bucket, id }
    }

    fn all(kind: Kind, bucket: u16) -> RangeInclusive<Self> {
        Self { kind, bucket, id: 0 }..=Self { kind, bucket, id: u64::MAX }
    }
}

// === impl Book ===

impl<'a> Book<'a> {
    /// An empty one.
    pub(super) fn new(room: Room<'a>) -> Self {
        Self {
            room,
            entries: BTreeMap::new(),
            edges: 0,
            stats: None,
            pending: BTreeMap::new(),
            again: BTreeSet::new(),
            changed: BTreeSet::new(),
            strays: BTreeSet::new(),
            sought: BTreeSet::new(),
            time: None,
            last: 0,
            swept: None,
            left: Some(BTreeSet::new()),
        }
    }

    // --- what the gateway tells; `now` is the time since the book was opened

    /// It is there, and its session is new.
    pub(super) fn online(
        &mut self,
        kind: Kind,
        id: u64,
        addr: SocketAddr,
        name: &str,
        now: Duration,
    ) -> Result<(), Full> {
        self.enter(Key::new(kind, id), addr, name, (now, PATIENCE))
    }

    /// It is gone.
    pub(super) fn offline(&mut self, kind: Kind, id: u64, now: Duration) {
        let key = Key::new(kind, id);
        self.strays.remove(&id);
        self.sought.remove(&id);
        if let Some(left) = self.left.as_mut().filter(|left| left.len() < PENDING) {
            left.insert(key);
        }
        // The store may have what the book does not know of.
        let epoch = self.remove(key).unwrap_or_else(|| self.epoch(now));
        self.say(key, epoch);
    }

    /// It is still there.
    pub(super) fn heartbeat(&mut self, kind: Kind, id: u64, now: Duration) -> Result<(), Full> {
        let key = Key::new(kind, id);
        if let Some(entry) = self.entries.get_mut(&key) {
            let interval = now.saturating_sub(entry.heard);
            entry.heard = now;
            entry.patience = (interval * 5 / 2).max(self.room.unheard).min(PATIENCE);
            return Ok(());
        }
        match kind {
            // Another gateway may have it, so look first.
            Kind::Edge if self.strays.len() < STRAYS => drop(self.strays.insert(id)),
            Kind::Edge => {}
            // A service may be at several gateways. What it is called is not known until it comes again.
            Kind::Service => self.enter(key, NOWHERE, "", (now, self.room.unheard))?,
        }
        Ok(())
    }

    /// What the gateway says it has.
    pub(super) fn count(&mut self, edges: u64, services: u64) {
        self.stats = Some((edges, services));
    }

    // --- what the store knows

    /// A link begins: this is the store's time.
    pub(super) fn attached(&mut self, time: StoreTime, now: Duration) {
        self.time = Some((time, now));
        let fresh: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| entry.epoch == 0).map(|(key, _)| *key).collect();
        for key in fresh {
            let epoch = self.epoch(now);
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.epoch = epoch;
            }
        }
        self.again = (0..EDGE_BUCKETS).map(|bucket| (Kind::Edge, bucket)).collect();
        self.again.extend((0..SERVICE_BUCKETS).map(|bucket| (Kind::Service, bucket)));
        self.pending.clear();
        self.changed.clear();
    }

    /// Takes over an edge that the store has of this gateway, unless the gateway itself has told of it by now.
    pub(super) fn adopt_edge(&mut self, id: u64, record: &EdgeRecord, now: Duration) {
        self.adopt(Key::new(Kind::Edge, id), record.claim.epoch, record.addr, "", now);
    }

    /// The same of a service.
    pub(super) fn adopt_service(&mut self, id: u64, record: &ServiceRecord, now: Duration) {
        self.adopt(Key::new(Kind::Service, id), record.claim.epoch, record.addr, &record.name, now);
    }

    /// What the store has was taken over.
    pub(super) fn adopted(&mut self) {
        self.left = None;
    }

    /// Edges to be looked up, some of them.
    pub(super) fn seek(&mut self, most: usize) -> Vec<u64> {
        let some: Vec<u64> = std::iter::from_fn(|| self.strays.pop_first()).take(most).collect();
        self.sought = some.iter().copied().collect();
        some
    }

    /// What became of that; nothing if the store failed.
    pub(super) fn found(&mut self, all: Vec<(u64, Found)>, now: Duration) {
        let sought = std::mem::take(&mut self.sought);
        for (id, found) in all.into_iter().filter(|(id, _)| sought.contains(id)) {
            let key = Key::new(Kind::Edge, id);
            if self.entries.contains_key(&key) {
                continue;
            }
            match found {
                // Without room it comes again with its next heartbeat.
                Found::Nowhere => drop(self.enter(key, NOWHERE, "", (now, self.room.unheard))),
                Found::Here(record) => self.adopt_edge(id, &record, now),
                Found::Elsewhere => {}
            }
        }
    }

    /// This session has lost its ID to one of another gateway.
    pub(super) fn cut(&mut self, id: u64, epoch: u64) {
        let key = Key::new(Kind::Edge, id);
        if self.entries.get(&key).is_some_and(|entry| entry.epoch <= epoch) {
            self.remove(key);
            self.say(key, epoch);
        }
    }

    /// These are to be said whole.
    pub(super) fn repeat(&mut self, buckets: &registry::Resync) {
        let numbers = |numbers: &[u32], kind, most| -> Vec<(Kind, u16)> {
            let number = |number: &u32| u16::try_from(*number).ok().filter(|number| *number < most);
            numbers.iter().filter_map(number).map(|number| (kind, number)).collect()
        };
        self.again.extend(numbers(&buckets.edge_buckets, Kind::Edge, EDGE_BUCKETS));
        self.again.extend(numbers(&buckets.service_buckets, Kind::Service, SERVICE_BUCKETS));
    }

    // --- what is to be said

    /// Whether everything was said.
    pub(super) fn is_said(&self) -> bool {
        self.again.is_empty() && self.pending.is_empty()
    }

    /// The next message, of about so many entries.
    pub(super) fn next(&mut self, seq: u64, most: usize) -> Option<from_gateway::Kind> {
        if self.again.is_empty() {
            self.changes(seq, most).map(from_gateway::Kind::Changes)
        } else {
            Some(from_gateway::Kind::Buckets(self.buckets(seq, most)))
        }
    }

    /// Edges and services, as the gateway counts them or as they are here.
    pub(super) fn counts(&self) -> (u64, u64) {
        let services = self.entries.len() - self.edges;
        self.stats.unwrap_or((self.edges as u64, services as u64))
    }

    /// Digests of what has changed since the last time and was said.
    pub(super) fn digests(&mut self) -> Vec<(Kind, registry::Digest)> {
        let changed = std::mem::take(&mut self.changed);
        let (now, later): (BTreeSet<_>, BTreeSet<_>) = changed.into_iter().partition(|(kind, bucket)| {
            let range = Key::all(*kind, *bucket);
            !self.again.contains(&(*kind, *bucket)) && self.pending.range(range).next().is_none()
        });
        self.changed = later;
        let digest = |(kind, bucket): (Kind, u16)| {
            let all = self.entries.range(Key::all(kind, bucket));
            let Digest { count, xor } = Digest::of(all.map(|(key, entry)| (key.id, entry.epoch)));
            (kind, registry::Digest { bucket: u32::from(bucket), count, xor })
        };
        now.into_iter().map(digest).collect()
    }

    /// A renewal that told these was not answered.
    pub(super) fn untold(&mut self, digests: &[(Kind, registry::Digest)]) {
        let bucket =
            |(kind, digest): &(Kind, registry::Digest)| Some((*kind, digest.bucket.try_into().ok()?));
        self.changed.extend(digests.iter().filter_map(bucket));
    }

    // --- time

    /// Removes some of those not heard of for too long, so that all are looked at in this many calls.
    pub(super) fn sweep(&mut self, calls: usize, now: Duration) {
        let some = self.entries.len() / calls.max(1) + 1;
        let first = self.swept.map_or(Bound::Unbounded, Bound::Excluded);
        let mut silent = Vec::new();
        let mut last = None;
        for (key, entry) in self.entries.range((first, Bound::Unbounded)).take(some) {
            if now.saturating_sub(entry.heard) > entry.patience {
                silent.push((*key, entry.epoch));
            }
            last = Some(*key);
        }
        self.swept = last;
        for (key, epoch) in silent {
            self.remove(key);
            self.say(key, epoch);
        }
    }

    /// The gateway has left, and everything with it.
    pub(super) fn clear(&mut self) {
        self.again.extend(self.entries.keys().map(|key| (key.kind, key.bucket)));
        self.room.used.fetch_sub(self.entries.len(), Ordering::Relaxed);
        self.entries.clear();
        self.strays.clear();
        self.sought.clear();
        self.edges = 0;
    }

    // --- inside

    fn enter(
        &mut self,
        key: Key,
        addr: SocketAddr,
        name: &str,
        (heard, patience): (Duration, Duration),
    ) -> Result<(), Full> {
        let epoch = self.epoch(heard);
        self.put(key, Entry { epoch, addr, name: name.into(), heard, patience })?;
        self.strays.remove(&key.id);
        self.sought.remove(&key.id);
        self.say(key, epoch);
        Ok(())
    }

    fn adopt(&mut self, key: Key, epoch: u64, addr: SocketAddr, name: &str, now: Duration) {
        let left = self.left.as_ref().is_some_and(|left| left.contains(&key));
        if left || self.entries.contains_key(&key) || self.pending.contains_key(&key) {
            return;
        }
        let patience = self.room.unheard;
        if self.put(key, Entry { epoch, addr, name: name.into(), heard: now, patience }).is_ok() {
            self.say(key, epoch);
        }
    }

    fn put(&mut self, key: Key, entry: Entry) -> Result<(), Full> {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= self.room.each {
                return Err(Full);
            }
            if self.room.used.fetch_add(1, Ordering::Relaxed) >= self.room.all {
                self.room.used.fetch_sub(1, Ordering::Relaxed);
                return Err(Full);
            }
            self.edges += usize::from(key.kind == Kind::Edge);
        }
        self.entries.insert(key, entry);
        Ok(())
    }

    /// Gives the epoch of what was there.
    fn remove(&mut self, key: Key) -> Option<u64> {
        let entry = self.entries.remove(&key)?;
        self.room.used.fetch_sub(1, Ordering::Relaxed);
        self.edges -= usize::from(key.kind == Kind::Edge);
        Some(entry.epoch)
    }

    fn say(&mut self, key: Key, epoch: u64) {
        self.changed.insert((key.kind, key.bucket));
        if self.again.contains(&(key.kind, key.bucket)) {
            // It is said anyway; a later record of the store is none of this gateway's.
            return;
        }
        if self.pending.len() < PENDING || self.pending.contains_key(&key) {
            self.pending.insert(key, epoch);
        } else {
            self.again.insert((key.kind, key.bucket));
        }
    }

    /// Of a session that begins now. 0 if no store was ever reached: then it is given with the first link.
    fn epoch(&mut self, now: Duration) -> u64 {
        let Some((time, at)) = self.time else { return 0 };
        let since = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        self.last = time.after(since).epoch().max(self.last.saturating_add(1));
        self.last
    }

    fn changes(&mut self, seq: u64, most: usize) -> Option<Changes> {
        let mut changes = Changes { seq, ..Changes::default() };
        for (key, epoch) in std::iter::from_fn(|| self.pending.pop_first()).take(most) {
            let entry = self.entries.get(&key);
            let epoch = entry.map_or(epoch, |entry| entry.epoch);
            let addr = entry.map(|entry| address(entry.addr)).unwrap_or_default();
            match key.kind {
                Kind::Edge => changes.edges.push(Edge { id: key.id, epoch, addr }),
                Kind::Service => {
                    let name = entry.map(|entry| String::from(&*entry.name)).unwrap_or_default();
                    changes.services.push(ServiceInstance { id: key.id, epoch, addr, name });
                }
            }
        }
        (!changes.edges.is_empty() || !changes.services.is_empty()).then_some(changes)
    }

    fn buckets(&mut self, seq: u64, most: usize) -> Buckets {
        let mut buckets = Buckets { seq, ..Buckets::default() };
        for _ in 0..BUCKETS {
            if buckets.edges.len() + buckets.services.len() >= most {
                break;
            }
            let Some((kind, bucket)) = self.again.pop_first() else { break };
            let said: Vec<Key> = self.pending.range(Key::all(kind, bucket)).map(|(key, _)| *key).collect();
            for key in said {
                self.pending.remove(&key);
            }
            let all = self.entries.range(Key::all(kind, bucket));
            match kind {
                Kind::Edge => {
                    buckets.edge_buckets.push(u32::from(bucket));
                    let edge = |(key, entry): (&Key, &Entry)| Edge {
                        id: key.id,
                        epoch: entry.epoch,
                        addr: address(entry.addr),
                    };
                    buckets.edges.extend(all.map(edge));
                }
                Kind::Service => {
                    buckets.service_buckets.push(u32::from(bucket));
                    let service = |(key, entry): (&Key, &Entry)| ServiceInstance {
                        id: key.id,
                        epoch: entry.epoch,
                        addr: address(entry.addr),
                        name: String::from(&*entry.name),
                    };
                    buckets.services.extend(all.map(service));
                }
            }
        }
        buckets
    }
}

impl Drop for Book<'_> {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.entries.len(), Ordering::Relaxed);
    }
}

/// IP (4 or 16 bytes) and port (2).
fn address(addr: SocketAddr) -> Vec<u8> {
    let mut out = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    out.extend_from_slice(&addr.port().to_be_bytes());
    out
}

#[cfg(test)]
mod tests;
