//! What is here: what the reporter tells, and what it is told to do.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use frontier_api::bucket::{EDGE_BUCKETS, edge_bucket};

use crate::core::{
    SessionRef, Shared,
    message::Msg,
    registry::ServiceHere,
    roll::{Here, Roll},
};

/// The gateway as its reporter sees it.
pub trait Source: Send + Sync + 'static {
    /// What was told, and what has changed.
    fn roll(&self) -> &Roll;

    /// What is here of an edge.
    fn edge(&self, id: u64) -> Option<Here>;

    /// The edges in these buckets, each with its bucket and in the order of buckets. Whoever comes or goes meanwhile may be missed.
    fn walk(&self, buckets: BucketSet) -> impl Future<Output = Vec<(u16, u64)>> + Send;

    /// The services that are here.
    fn services(&self) -> BTreeMap<u64, ServiceHere>;

    /// How many edges are here.
    fn edges(&self) -> u64;

    /// The greatest epoch given so far.
    fn last_epoch(&self) -> u64;

    /// The session of an edge is to end, if its epoch is not above this one. Says whether there is one.
    fn cut(&self, edge: u64, epoch: u64) -> bool;

    /// The gateway's clock, which never steps, in microseconds.
    fn clock(&self) -> u64;

    /// It was `unix_ms` by the cluster's time at `micros` of the gateway's clock.
    fn learn_time(&self, unix_ms: u64, micros: u64);
}

/// Some of the buckets of edges.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketSet {
    words: Box<[u64; EDGE_BUCKETS as usize / 64]>,
}

/// The sessions of the shards of this process.
pub struct OwnSessions {
    shared: Arc<Shared>,
    post: Box<dyn Fn(SessionRef, Msg) + Send + Sync>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
}

// === impl BucketSet ===

impl BucketSet {
    /// None of them.
    #[must_use]
    pub fn none() -> Self {
        Self { words: Box::new([0; EDGE_BUCKETS as usize / 64]) }
    }

    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self { words: Box::new([u64::MAX; EDGE_BUCKETS as usize / 64]) }
    }

    /// Adds a bucket.
    pub fn insert(&mut self, bucket: u16) {
        if let Some(word) = self.words.get_mut(usize::from(bucket / 64)) {
            *word |= 1 << (bucket % 64);
        }
    }

    /// Takes a bucket out.
    pub fn remove(&mut self, bucket: u16) {
        if let Some(word) = self.words.get_mut(usize::from(bucket / 64)) {
            *word &= !(1 << (bucket % 64));
        }
    }

    /// Whether a bucket is in it.
    #[must_use]
    pub fn contains(&self, bucket: u16) -> bool {
        self.words.get(usize::from(bucket / 64)).is_some_and(|word| word >> (bucket % 64) & 1 == 1)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Those in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let words = (0..).zip(self.words.iter()).filter(|(_, word)| **word != 0);
        words.flat_map(|(at, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)
        })
    }
}

impl FromIterator<u16> for BucketSet {
    fn from_iter<I: IntoIterator<Item = u16>>(buckets: I) -> Self {
        let mut set = Self::none();
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}

impl fmt::Debug for BucketSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

// === impl OwnSessions ===

impl OwnSessions {
    /// The sessions of shards that share this, which must have a roll: `None` if it has not. `post` sends a message to the shard of a
    /// session, `clock` is the shards'.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        post: impl Fn(SessionRef, Msg) + Send + Sync + 'static,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Option<Self> {
        shared.registry.roll()?;
        Some(Self { shared, post: Box::new(post), clock: Box::new(clock) })
    }

    /// The same look without a thread of its own, which a simulation must not have.
    #[must_use]
    pub fn walk_now(&self, buckets: &BucketSet) -> Vec<(u16, u64)> {
        walk(&self.shared, buckets, &AtomicBool::new(false))
    }
}

impl Source for OwnSessions {
    fn roll(&self) -> &Roll {
        self.shared.registry.roll().expect("looked at when this was made")
    }

    fn edge(&self, id: u64) -> Option<Here> {
        self.shared.registry.here(id)
    }

    /// On a thread for what takes long: renewals and the ports of operators do not wait for it.
    async fn walk(&self, buckets: BucketSet) -> Vec<(u16, u64)> {
        let (shared, unwanted) = (Arc::clone(&self.shared), Arc::new(AtomicBool::new(false)));
        let _guard = SetOnDrop(Arc::clone(&unwanted));
        match tokio::task::spawn_blocking(move || walk(&shared, &buckets, &unwanted)).await {
            Ok(found) => found,
            Err(error) => match error.try_into_panic() {
                // An empty answer would be a lie that atlas believes.
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn services(&self) -> BTreeMap<u64, ServiceHere> {
        self.shared.registry.services()
    }

    fn edges(&self) -> u64 {
        self.shared.registry.edges() as u64
    }

    fn last_epoch(&self) -> u64 {
        self.shared.last_epoch()
    }

    fn cut(&self, edge: u64, epoch: u64) -> bool {
        let session = self.shared.registry.session(edge).filter(|(_, has)| *has <= epoch);
        if let Some((session, _)) = session {
            (self.post)(session, Msg::Lost { session, edge, epoch });
        }
        session.is_some()
    }

    fn clock(&self) -> u64 {
        (self.clock)()
    }

    fn learn_time(&self, unix_ms: u64, micros: u64) {
        self.shared.learn_time(unix_ms, micros);
    }
}

/// Sets a flag when it goes.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn walk(shared: &Shared, buckets: &BucketSet, unwanted: &AtomicBool) -> Vec<(u16, u64)> {
    let mut found = Vec::new();
    shared.registry.each_edge(|id| {
        let bucket = edge_bucket(id);
        if buckets.contains(bucket) && !unwanted.load(Ordering::Relaxed) {
            found.push((bucket, id));
        }
    });
    found.sort_unstable();
    found
}

impl fmt::Debug for OwnSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnSessions").field("shared", &self.shared).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_what_was_put_in() {
        assert_eq!(BucketSet::all().iter().count(), usize::from(EDGE_BUCKETS));
        let mut set: BucketSet = [0, 63, 64, EDGE_BUCKETS - 1, EDGE_BUCKETS, u16::MAX].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, EDGE_BUCKETS - 1], "the rest is out of range");
        assert!(set.contains(64) && !set.contains(65) && !set.contains(u16::MAX));
        set.iter().collect::<Vec<_>>().into_iter().for_each(|bucket| set.remove(bucket));
        assert!(set.is_empty());
    }
}
