//! Compares what the store holds with what the gateways attached here told, and removes what belongs to nobody.
//!
//! Buckets that somebody else changed, or about which a write failed, are compared within a second or two; all of them after the
//! connection to the store was made anew; and in any case all of them in one slow round after the other. The rate is bounded, so that churn
//! at another atlas costs this one a known share of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use frontier_api::bucket::{Digest, EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket, service_bucket};
use parking_lot::Mutex;
use tokio::select;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::told::Kind;
use super::{Link, Links};
use crate::record::{Claim, Instance};
use crate::store::{Change, EdgeWrite, Roster, ServiceWrite, Store, StoreError};

/// How often it looks.
const TICK: Duration = Duration::from_millis(100);

/// Buckets compared in a tick: all of them in 1.7 s.
const STEP: usize = 1_000;

/// How often the list of gateways is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How long the store must have answered before anything is removed from it for want of an owner.
const TRUST: Duration = Duration::from_secs(10);

/// How long a write that has failed may yet be carried out by the store, behind what is compared at once: it is compared again after
/// once to twice that.
const LATE: Duration = Duration::from_secs(2);

/// Buckets to be compared.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    edges: Mutex<BTreeSet<u16>>,
    services: Mutex<BTreeSet<u16>>,
    suspects: Mutex<Suspects>,
}

/// Buckets about which a write has failed: not of every bucket its time is kept, but in two generations.
#[derive(Debug, Default)]
struct Suspects {
    young: [BTreeSet<u16>; 2],
    old: [BTreeSet<u16>; 2],
    /// When the young ones began to be gathered.
    since: Option<Instant>,
}

// === impl Dirty ===

impl Dirty {
    /// These are to be looked at.
    pub(super) fn mark(&self, edges: impl IntoIterator<Item = u16>, services: impl IntoIterator<Item = u16>) {
        self.edges.lock().extend(edges);
        self.services.lock().extend(services);
    }

    /// A write about these has failed: it may have been done, and it may yet be. They are to be looked at now and later.
    pub(super) fn suspect(&self, edges: &[u16], services: &[u16]) {
        self.mark(edges.iter().copied(), services.iter().copied());
        let mut suspects = self.suspects.lock();
        suspects.since.get_or_insert_with(Instant::now);
        let [young_edges, young_services] = &mut suspects.young;
        young_edges.extend(edges);
        young_services.extend(services);
    }

    /// Those whose time has come are to be looked at again; gives those of edges.
    fn turn(&self) -> BTreeSet<u16> {
        let mut suspects = self.suspects.lock();
        if suspects.since.is_none_or(|since| since.elapsed() < LATE) {
            return BTreeSet::new();
        }
        let young = std::mem::take(&mut suspects.young);
        let [edges, services] = std::mem::replace(&mut suspects.old, young);
        let over = suspects.old.iter().all(BTreeSet::is_empty);
        suspects.since = (!over).then(Instant::now);
        drop(suspects);
        self.mark(edges.iter().copied(), services);
        edges
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.edges.lock().len() + self.services.lock().len()
    }
}

/// See the module documentation.
pub(super) async fn run<S: Store>(links: &Links<S>) {
    let mut changes = links.store.changes();
    let mut keeper = Keeper::new(links);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deaf = false;
    loop {
        select! {
            biased;
            change = changes.recv(), if !deaf => match change {
                Ok(Change::Edges(bucket)) => links.dirty.mark([bucket], []),
                Ok(Change::Services(bucket)) => links.dirty.mark([], [bucket]),
                Ok(Change::Cuts(instance)) => {
                    let link = links.links.lock().get(&instance).cloned();
                    if let Some(link) = link {
                        links.deliver_cuts(&link).await;
                    }
                }
                Ok(Change::Members) => {}
                Ok(Change::Everything) | Err(RecvError::Lagged(_)) => {
                    links.dirty.mark(0..EDGE_BUCKETS, 0..SERVICE_BUCKETS);
                }
                Err(RecvError::Closed) => deaf = true,
            },
            _ = ticks.tick() => keeper.tick().await,
        }
    }
}

struct Keeper<'a, S> {
    links: &'a Links<S>,
    /// Where the round is, in buckets of edges and then of services.
    at: usize,
    /// Where the next look at those that are marked begins, by kind.
    next: [u16; 2],
    /// Fractions of a bucket that are due.
    due: f64,
    /// The gateways, as they were when last looked at.
    roster: Roster,
    /// Who has no lease since so long that what it had goes, from the begin of the round.
    dead: BTreeSet<Instance>,
    /// When the gateways were last looked at.
    looked: Option<Instant>,
    /// The store answers since then.
    good: Option<Instant>,
}

/// What is in a bucket: who holds what.
type Holdings = Vec<(Instance, u64, u64)>;

// === impl Keeper ===

impl<'a, S: Store> Keeper<'a, S> {
    fn new(links: &'a Links<S>) -> Self {
        Self {
            links,
            at: 0,
            next: [0; 2],
            due: 0.0,
            roster: Roster::default(),
            dead: BTreeSet::new(),
            looked: None,
            good: None,
        }
    }

    async fn tick(&mut self) {
        let outcome = self.step().await;
        match outcome {
            Ok(()) => drop(self.good.get_or_insert_with(Instant::now)),
            Err(error) => {
                self.good = None;
                tracing::debug!(%error, "cannot compare with the store");
            }
        }
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        // Whether they were written nobody knows, those who watch included.
        self.links.watchers.touch(self.links.dirty.turn());
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.look().await?;
        }
        let mut room = STEP;
        for kind in [Kind::Services, Kind::Edges] {
            let dirty = match kind {
                Kind::Edges => &self.links.dirty.edges,
                Kind::Services => &self.links.dirty.services,
            };
            let some: Vec<u16> = {
                // Out before they are read: one that is marked meanwhile has changed again, and is looked at again.
                let mut dirty = dirty.lock();
                // In a circle: those that cannot be judged yet must not keep others from their turn.
                let from = self.next[kind as usize];
                let some: Vec<u16> =
                    dirty.range(from..).chain(dirty.range(..from)).copied().take(room).collect();
                for bucket in &some {
                    dirty.remove(bucket);
                }
                self.next[kind as usize] = some.last().map_or(from, |last| last.wrapping_add(1));
                some
            };
            if !some.is_empty() {
                room -= some.len();
                let compared = self.compare(kind, &some).await;
                let again = compared.as_ref().map_or_else(|_| some.clone(), Clone::clone);
                dirty.lock().extend(again);
                compared?;
            }
        }
        let all = usize::from(EDGE_BUCKETS) + usize::from(SERVICE_BUCKETS);
        let hurry = !self.dead.is_empty();
        let share = TICK.as_secs_f64() / self.links.terms.round.as_secs_f64();
        self.due += if hurry { STEP as f64 } else { all as f64 * share };
        let some = (self.due as usize).min(room.max(STEP / 4)).min(all - self.at);
        self.due = (self.due - some as f64).min(STEP as f64);
        self.walk(some).await?;
        if self.at >= all {
            self.end_round().await?;
        }
        Ok(())
    }

    /// Who is there, and who has been gone for so long that what it had goes: then a round begins, and hurries.
    async fn look(&mut self) -> Result<(), StoreError> {
        self.roster = self.links.store.members().await?;
        self.looked = Some(Instant::now());
        let bury = u64::try_from(self.links.terms.bury.as_millis()).unwrap_or(u64::MAX);
        let over = self.roster.members.values().filter(|member| member.lease.after(bury) <= self.roster.now);
        let dead: BTreeSet<Instance> = over.map(|member| member.gateway.instance).collect();
        if self.trusts() && !dead.is_subset(&self.dead) {
            self.dead.extend(dead);
            self.at = 0;
        }
        Ok(())
    }

    /// Nothing is removed shortly after the store could not be reached: gateways could not renew either.
    fn trusts(&self) -> bool {
        self.good.is_some_and(|good| good.elapsed() >= TRUST)
    }

    /// Some buckets of the round.
    async fn walk(&mut self, some: usize) -> Result<(), StoreError> {
        let edges = usize::from(EDGE_BUCKETS);
        let range =
            |from: usize, to: usize| -> Vec<u16> { (from..to).filter_map(|at| at.try_into().ok()).collect() };
        let (from, to) = (self.at, self.at + some);
        for (kind, buckets) in [
            (Kind::Edges, range(from.min(edges), to.min(edges))),
            (Kind::Services, range(from.max(edges) - edges, to.max(edges) - edges)),
        ] {
            if !buckets.is_empty() {
                self.compare(kind, &buckets).await?;
            }
        }
        self.at = to;
        Ok(())
    }

    async fn end_round(&mut self) -> Result<(), StoreError> {
        self.at = 0;
        if self.dead.is_empty() {
            return Ok(());
        }
        let roster = self.links.store.members().await?;
        for instance in std::mem::take(&mut self.dead) {
            // It may have come back: whoever has a lease is not forgotten.
            if !roster.lives(instance) {
                self.links.store.forget(instance).await?;
                self.links.say(|| tracing::info!(%instance, "forgot a gateway and what it had"));
            }
        }
        Ok(())
    }

    /// Looks at some buckets: asks gateways attached here for those that are not as they told, and removes what is nobody's.
    /// Gives those that could not be judged.
    async fn compare(&mut self, kind: Kind, buckets: &[u16]) -> Result<Vec<u16>, StoreError> {
        let links: Vec<Arc<Link>> = self.links.links.lock().values().cloned().collect();
        let marks = |link: &Arc<Link>| -> Vec<u32> {
            let told = link.told.lock();
            buckets.iter().map(|bucket| told.mark(kind, *bucket)).collect()
        };
        let before: Vec<Vec<u32>> = links.iter().map(marks).collect();
        let holdings = self.read(kind, buckets).await?;
        let mut again = Vec::new();
        for (at, (bucket, holdings)) in buckets.iter().zip(&holdings).enumerate() {
            let mut digests: BTreeMap<Instance, Digest> = BTreeMap::new();
            for (instance, id, epoch) in holdings {
                digests.entry(*instance).or_default().add(*id, *epoch);
            }
            for (link, before) in links.iter().zip(&before) {
                let told = link.told.lock();
                let mark = told.mark(kind, *bucket);
                let quiet = before.get(at) == Some(&mark) && mark & 1 == 0;
                match told.digest(kind, *bucket) {
                    Some(digest) if quiet => {
                        drop(told);
                        if digest != digests.get(&link.instance).copied().unwrap_or_default() {
                            match kind {
                                Kind::Edges => self.links.resync(link, [*bucket], []),
                                Kind::Services => self.links.resync(link, [], [*bucket]),
                            }
                        }
                    }
                    // It has said nothing of it yet; what it says will be written, whatever the store has.
                    _ if !told.is_said(kind, *bucket) => {}
                    // Something is on its way, or the next renewal tells.
                    Some(_) | None => again.push(*bucket),
                }
            }
        }
        self.bury(kind, &holdings).await?;
        Ok(again)
    }

    async fn read(&self, kind: Kind, buckets: &[u16]) -> Result<Vec<Holdings>, StoreError> {
        Ok(match kind {
            Kind::Edges => {
                let all = self.links.store.edge_buckets(buckets).await?;
                let holding = |(id, record): (u64, crate::record::EdgeRecord)| {
                    (record.claim.instance, id, record.claim.epoch)
                };
                all.into_iter().map(|bucket| bucket.into_iter().map(holding).collect()).collect()
            }
            Kind::Services => {
                let all = self.links.store.service_buckets(buckets).await?;
                let holding = |((id, instance), record): ((u64, Instance), crate::record::ServiceRecord)| {
                    (instance, id, record.claim.epoch)
                };
                all.into_iter().map(|bucket| bucket.into_iter().map(holding).collect()).collect()
            }
        })
    }

    /// Removes what belongs to gateways that are dead or unknown, by compare.
    async fn bury(&self, kind: Kind, holdings: &[Holdings]) -> Result<(), StoreError> {
        if !self.trusts() {
            return Ok(());
        }
        let mut dead: Vec<_> = holdings.iter().flatten().copied().collect();
        dead.retain(|(instance, ..)| {
            self.dead.contains(instance) || !self.roster.members.contains_key(instance)
        });
        if dead.is_empty() {
            return Ok(());
        }
        // They may have come, or come back, since.
        let roster = self.links.store.members().await?;
        dead.retain(|(instance, ..)| {
            let member = roster.members.contains_key(instance);
            !member || (self.dead.contains(instance) && !roster.lives(*instance))
        });
        if dead.is_empty() {
            return Ok(());
        }
        self.links.counts.buried.fetch_add(dead.len() as u64, Ordering::Relaxed);
        // Whose lease comes back at this moment lives on without what is removed now, and no atlas hears of its own writes: looked at again.
        match kind {
            Kind::Edges => self.links.dirty.mark(dead.iter().map(|(_, edge, _)| edge_bucket(*edge)), []),
            Kind::Services => {
                self.links.dirty.mark([], dead.iter().map(|(_, service, _)| service_bucket(*service)))
            }
        }
        let claim = |instance, epoch| Claim { epoch, instance };
        match kind {
            Kind::Edges => {
                let writes: Vec<_> = dead
                    .into_iter()
                    .map(|(instance, edge, epoch)| EdgeWrite::Offline { edge, claim: claim(instance, epoch) })
                    .collect();
                let horizon = crate::record::StoreTime(u64::MAX >> crate::record::COUNTER_BITS);
                self.links.store.write_edges(&writes, horizon).await.map(drop)
            }
            Kind::Services => {
                let writes: Vec<_> = dead
                    .into_iter()
                    .map(|(instance, service, epoch)| ServiceWrite::Offline {
                        service,
                        claim: claim(instance, epoch),
                    })
                    .collect();
                self.links.store.write_services(&writes).await
            }
        }
    }
}
