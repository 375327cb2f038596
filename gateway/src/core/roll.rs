//! What the cluster's registry has been told of the edges here, and what not: a gateway that reports to no registry has no roll.
//!
//! For every bucket ([`frontier_api::bucket`]) there is a digest of what is in it now. Whoever reports follows some buckets or all; of
//! those it is noted which edges have changed since they were last told of, never how: what is told is what is there when it is told. A
//! bucket of which too much has changed is followed no longer, and must be told anew as a whole.
//!
//! ```text
//!  forget ──▶ (not followed) ── follow ──▶ (followed) ── whole ──▶ (told) ── changes ──▶ (told)
//!                    ▲                         │                     │
//!                    └──────────── too many changes ─────────────────┘
//! ```
//!
//! **A digest describes exactly what was told.** 64 buckets have a lock in common. The registry changes an edge's entry, the digest and
//! the note under it, and whoever reports looks the edge up under it. So at any moment that nobody holds the lock, what was told of a
//! bucket differs from what is there by the edges noted and nothing else, and a digest is given out only for a bucket of which none is.
//! What is told later than that is noted later, too.

use std::sync::atomic::{AtomicU64, Ordering};

use frontier_api::bucket::{Digest, EDGE_BUCKETS, edge_bucket};
use hashbrown::HashSet;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::core::card::PackedAddr;

/// Buckets that have a lock in common: as many as a word has bits.
const BUCKETS: usize = 64;
/// All buckets of edges, 64 by 64. With sixteen shards that take 20,000 edges per second, two of them want the same one of these once
/// in some thousand times.
const SHELVES: usize = EDGE_BUCKETS as usize / BUCKETS;
/// Edges noted per shelf; 65,536 in all, which take 1 MiB.
const NOTED: usize = 256;

/// See the module documentation.
#[derive(Debug)]
pub struct Roll {
    shelves: Box<[Mutex<Shelf>]>,
    /// Shelves that may have something to tell, a bit each.
    stirred: [AtomicU64; SHELVES / BUCKETS],
    /// Counts the changes of services.
    services: AtomicU64,
    /// Buckets that had more changes than are noted.
    overflows: AtomicU64,
    bell: Notify,
}

/// Where an edge is, of what is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// Of its session.
    pub epoch: u64,
    /// Where it connected from.
    pub addr: PackedAddr,
}

/// The lock of an edge's bucket, held while its entry changes.
#[derive(Debug)]
pub struct Entry<'a> {
    roll: &'a Roll,
    shelf: MutexGuard<'a, Shelf>,
    edge: u64,
    place: Place,
}

/// Where a bucket is.
#[derive(Clone, Copy, Debug)]
struct Place {
    shelf: usize,
    at: usize,
}

#[derive(Debug)]
struct Shelf {
    digests: [Digest; BUCKETS],
    /// How many of the noted edges are in each bucket.
    waiting: [u16; BUCKETS],
    /// A bit for each bucket, here and below. Its changes are noted.
    followed: u64,
    /// It was told as a whole.
    told: u64,
    /// Its digest has changed since it was given out.
    moved: u64,
    /// It was followed, and had too many changes.
    dropped: u64,
    noted: HashSet<u64>,
}

// === impl Roll ===

impl Roll {
    /// Of a registry without edges, of which nobody was told anything.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shelves: (0..SHELVES).map(|_| Mutex::new(Shelf::default())).collect(),
            stirred: Default::default(),
            services: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            bell: Notify::new(),
        }
    }

    // --- for the registry

    /// Takes the lock of an edge's bucket.
    pub fn entry(&self, edge: u64) -> Entry<'_> {
        let place = Place::of(edge_bucket(edge));
        Entry { roll: self, shelf: self.shelves[place.shelf].lock(), edge, place }
    }

    /// A service has come, gone or changed.
    pub fn service_changed(&self) {
        self.services.fetch_add(1, Ordering::Release);
        self.bell.notify_one();
    }

    // --- for who reports

    /// Nothing of what was told counts any more, and nothing is followed: as long as nobody listens, a change costs no more than its
    /// digest.
    pub fn forget_all(&self) {
        for shelf in &self.shelves {
            let mut shelf = shelf.lock();
            *shelf = Shelf { digests: shelf.digests, ..Shelf::default() };
        }
        self.stirred.iter().for_each(|stirred| stirred.store(0, Ordering::Release));
    }

    /// The same for one bucket.
    pub fn forget(&self, bucket: u16) {
        let place = Place::of(bucket);
        self.shelves[place.shelf].lock().leave(place.at);
    }

    /// Changes of a bucket are noted from now on. Says how many edges are in it.
    pub fn follow(&self, bucket: u16) -> u32 {
        let place = Place::of(bucket);
        let mut shelf = self.shelves[place.shelf].lock();
        shelf.leave(place.at);
        shelf.followed |= place.bit();
        shelf.dropped &= !place.bit();
        shelf.digests[place.at].count
    }

    /// Tells a followed bucket as a whole: `found` are the edges that were seen in it since, `look` says what is there of one. False if
    /// too much has changed meanwhile.
    pub fn whole(
        &self,
        bucket: u16,
        found: impl Iterator<Item = u64>,
        look: impl Fn(u64) -> Option<Here>,
        tell: &mut Vec<(u64, Here)>,
    ) -> bool {
        let place = Place::of(bucket);
        let mut shelf = self.shelves[place.shelf].lock();
        if shelf.followed & place.bit() == 0 {
            return false;
        }
        let mut edges: Vec<u64> = found.chain(shelf.take_noted(place.at)).collect();
        edges.sort_unstable();
        edges.dedup();
        let from = tell.len();
        tell.extend(edges.into_iter().filter_map(|edge| Some((edge, look(edge)?))));
        debug_assert_eq!(
            Digest::of(tell[from..].iter().map(|(edge, here)| (*edge, here.epoch))),
            shelf.digests[place.at],
            "the digest of bucket {bucket} and what is in it"
        );
        shelf.told |= place.bit();
        shelf.moved |= place.bit();
        true
    }

    /// Tells what is there now of at most so many edges that have changed, in buckets that were told: `None` = it is gone. `dropped` gets
    /// the buckets that must be told anew. `next` is where to begin, kept from one time to the next so that everybody's turn comes.
    pub fn changes(
        &self,
        next: &mut usize,
        most: usize,
        look: impl Fn(u64) -> Option<Here>,
        tell: &mut Vec<(u64, Option<Here>)>,
        dropped: &mut Vec<u16>,
    ) {
        for _ in 0..SHELVES {
            let number = *next % SHELVES;
            let (word, bit) = (number / BUCKETS, 1_u64 << (number % BUCKETS));
            if self.stirred[word].load(Ordering::Acquire) & bit != 0 {
                if tell.len() >= most {
                    return;
                }
                // Before the look: what comes behind it stirs again.
                self.stirred[word].fetch_and(!bit, Ordering::AcqRel);
                let mut shelf = self.shelves[number].lock();
                dropped.extend(
                    bits(std::mem::take(&mut shelf.dropped)).map(|at| Place { shelf: number, at }.bucket()),
                );
                let told = shelf.told;
                let is_told = |edge: &u64| told & Place::of(edge_bucket(*edge)).bit() != 0;
                let edges: Vec<u64> =
                    shelf.noted.iter().copied().filter(is_told).take(most - tell.len()).collect();
                for edge in edges {
                    shelf.noted.remove(&edge);
                    shelf.waiting[Place::of(edge_bucket(edge)).at] -= 1;
                    tell.push((edge, look(edge)));
                }
                if shelf.noted.is_empty() {
                    shelf.noted = HashSet::new();
                } else if shelf.noted.iter().any(is_told) {
                    self.stirred[word].fetch_or(bit, Ordering::AcqRel);
                    // The others first, or one that changes all the time would keep them out.
                    *next = (number + 1) % SHELVES;
                    return;
                }
            }
            *next = (number + 1) % SHELVES;
        }
    }

    /// Whether [`Self::changes`] may find something.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.stirred.iter().any(|stirred| stirred.load(Ordering::Acquire) != 0)
    }

    /// Waits until something has changed since this was last waited for.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn news(&self) {
        self.bell.notified().await;
    }

    /// A number that differs from earlier ones if services have changed since.
    #[must_use]
    pub fn services(&self) -> u64 {
        self.services.load(Ordering::Acquire)
    }

    /// The digests that have changed since they were given out, of buckets of which all that is there was told.
    #[must_use]
    pub fn digests(&self) -> Vec<(u16, Digest)> {
        let mut digests = Vec::new();
        for (number, shelf) in self.shelves.iter().enumerate() {
            let mut shelf = shelf.lock();
            for at in bits(shelf.moved & shelf.told) {
                if shelf.waiting[at] == 0 {
                    let place = Place { shelf: number, at };
                    shelf.moved &= !place.bit();
                    digests.push((place.bucket(), shelf.digests[at]));
                }
            }
        }
        digests
    }

    /// It is not known whether these digests arrived: they are given out again.
    pub fn unsure(&self, buckets: impl IntoIterator<Item = u16>) {
        for place in buckets.into_iter().map(Place::of) {
            self.shelves[place.shelf].lock().moved |= place.bit();
        }
    }

    /// Edges noted, and how many there may be.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        (self.shelves.iter().map(|shelf| shelf.lock().noted.len()).sum(), SHELVES * NOTED)
    }

    /// Buckets that had more changes than are noted.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// The digest of a bucket, whatever was told.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn digest(&self, bucket: u16) -> Digest {
        let place = Place::of(bucket);
        self.shelves[place.shelf].lock().digests[place.at]
    }
}

impl Default for Roll {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Entry ===

impl Entry<'_> {
    /// The edge's session of the epoch `old` has given way to that of `new`; `None` = it has none.
    pub fn change(mut self, old: Option<u64>, new: Option<u64>) {
        let (at, bit) = (self.place.at, self.place.bit());
        let shelf = &mut *self.shelf;
        if let Some(epoch) = old {
            shelf.digests[at].remove(self.edge, epoch);
        }
        if let Some(epoch) = new {
            shelf.digests[at].add(self.edge, epoch);
        }
        shelf.moved |= bit;
        if shelf.followed & bit == 0 {
            return;
        }
        if shelf.noted.len() < NOTED {
            shelf.waiting[at] += u16::from(shelf.noted.insert(self.edge));
        } else if !shelf.noted.contains(&self.edge) {
            shelf.leave(at);
            shelf.dropped |= bit;
            self.roll.overflows.fetch_add(1, Ordering::Relaxed);
        }
        // Whoever tells a bucket as a whole takes what is noted of it along. That it is dropped must be known in any case.
        let stirs = (shelf.told | shelf.dropped) & bit != 0;
        drop(self.shelf);
        if stirs {
            let (word, bit) = (self.place.shelf / BUCKETS, 1 << (self.place.shelf % BUCKETS));
            if self.roll.stirred[word].fetch_or(bit, Ordering::AcqRel) & bit == 0 {
                self.roll.bell.notify_one();
            }
        }
    }
}

// === impl Place ===

impl Place {
    const fn of(bucket: u16) -> Self {
        let bucket = bucket as usize % EDGE_BUCKETS as usize;
        Self { shelf: bucket / BUCKETS, at: bucket % BUCKETS }
    }

    const fn bucket(self) -> u16 {
        (self.shelf * BUCKETS + self.at) as u16
    }

    const fn bit(self) -> u64 {
        1 << self.at
    }
}

// === impl Shelf ===

impl Shelf {
    /// A bucket is not followed any more.
    fn leave(&mut self, at: usize) {
        self.take_noted(at);
        let bit = 1 << at;
        self.followed &= !bit;
        self.told &= !bit;
    }

    /// Takes out what is noted of a bucket.
    fn take_noted(&mut self, at: usize) -> Vec<u64> {
        if std::mem::take(&mut self.waiting[at]) == 0 {
            return Vec::new();
        }
        self.noted.extract_if(|edge| Place::of(edge_bucket(*edge)).at == at).collect()
    }
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            digests: [Digest::default(); BUCKETS],
            waiting: [0; BUCKETS],
            followed: 0,
            told: 0,
            moved: 0,
            dropped: 0,
            noted: HashSet::new(),
        }
    }
}

/// The bits of a word that are set.
fn bits(word: u64) -> impl Iterator<Item = usize> {
    (0..BUCKETS).filter(move |at| word >> at & 1 == 1)
}

#[cfg(test)]
mod tests;
