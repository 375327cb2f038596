//! What the cluster's clients ask: who is where. Reads the store and hides what belongs to gateways without a lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::record::{EdgeRecord, Instance, ServiceRecord};
use crate::store::{Gateway, Member, Roster, Store, StoreError};
use frontier_api::bucket::{EDGE_BUCKETS, PLACE_BITS, SERVICE_BUCKETS, place, service_bucket};

/// How old a list of gateways may be that an answer is made from.
pub const ROSTER_AGE: Duration = Duration::from_millis(250);

/// Entries of one page at most, and when nothing is said.
pub const PAGE_MAX: u32 = 1_000;

/// IDs of one request at most.
pub const IDS_MAX: usize = 1_000;

/// An edge that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Its ID.
    pub id: u64,
    /// Where it is.
    pub record: EdgeRecord,
    /// The name of its gateway, as [`names`] shows it.
    pub frontier_id: String,
}

/// An instance of a service that is connected to a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInstance {
    /// Its ID.
    pub id: u64,
    /// Where it is.
    pub record: ServiceRecord,
    /// The name of its gateway.
    pub frontier_id: String,
}

/// A part of a list, and where the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub entries: Vec<T>,
    /// 0 if nothing follows.
    pub cursor: u32,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Directory<S> {
    store: Arc<S>,
    seen: Mutex<Option<(Instant, Arc<Seen>)>>,
}

/// The gateways at one moment.
#[derive(Debug)]
struct Seen {
    roster: Arc<Roster>,
    /// As [`names`] gives them: made once, not for every question.
    names: BTreeMap<Instance, String>,
}

// === impl Directory ===

impl<S: Store> Directory<S> {
    /// Of this store.
    #[must_use]
    pub fn new(store: Arc<S>) -> Self {
        Self { store, seen: Mutex::new(None) }
    }

    /// The gateways, as they were at most [`ROSTER_AGE`] ago.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn roster(&self) -> Result<Arc<Roster>, StoreError> {
        Ok(Arc::clone(&self.seen().await?.roster))
    }

    async fn seen(&self) -> Result<Arc<Seen>, StoreError> {
        let now = Instant::now();
        if let Some((read, seen)) = &*self.seen.lock()
            && now.duration_since(*read) < ROSTER_AGE
        {
            return Ok(Arc::clone(seen));
        }
        let roster = Arc::new(self.store.members().await?);
        let seen = Arc::new(Seen { names: names(&roster), roster });
        *self.seen.lock() = Some((now, Arc::clone(&seen)));
        Ok(seen)
    }

    /// Gateways with a lease, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn gateways(&self) -> Result<Vec<Gateway>, StoreError> {
        Ok(named(&*self.seen().await?))
    }

    /// The gateways of these edges, each once, in the order of the edges; those of edges that are not connected left out.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn gateways_of(&self, edges: &[u64]) -> Result<Vec<Gateway>, StoreError> {
        let (seen, records) = (self.seen().await?, self.store.edges(edges).await?);
        let mut told = BTreeSet::new();
        let gateway = |record: EdgeRecord| {
            let member = seen.roster.living(record.claim.instance)?;
            told.insert(member.gateway.instance).then(|| shown(member, &seen.names))
        };
        Ok(records.into_iter().flatten().filter_map(gateway).collect())
    }

    /// These edges, as far as they are connected.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn edges(&self, ids: &[u64]) -> Result<Vec<Edge>, StoreError> {
        let (seen, records) = (self.seen().await?, self.store.edges(ids).await?);
        let edge = |(id, record): (&u64, Option<EdgeRecord>)| edge(*id, record?, &seen.names);
        Ok(ids.iter().zip(records).filter_map(edge).collect())
    }

    /// The edges from a cursor on. All that are connected throughout are on some page once.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn edge_page(&self, cursor: u32, count: u32) -> Result<Page<Edge>, StoreError> {
        let seen = self.seen().await?;
        let store = &*self.store;
        let read = |buckets: Vec<u16>| async move { store.edge_buckets(&buckets).await };
        let make = |id: u64, record| edge(id, record, &seen.names);
        page(cursor, count, EDGE_BUCKETS, read, |id| place(*id), make).await
    }

    /// Edges that are connected, as their gateways count them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn edge_count(&self) -> Result<u64, StoreError> {
        self.count(|member| member.edges).await
    }

    /// Services that are connected, as their gateways count them: one that is connected to several gateways counts at each.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn service_count(&self) -> Result<u64, StoreError> {
        self.count(|member| member.services).await
    }

    /// The instances with this ID, one for each gateway they are connected to.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn services(&self, ids: &[u64]) -> Result<Vec<ServiceInstance>, StoreError> {
        let seen = self.seen().await?;
        let wanted: BTreeSet<u64> = ids.iter().copied().collect();
        let buckets: BTreeSet<u16> = ids.iter().map(|id| service_bucket(*id)).collect();
        let buckets: Vec<u16> = buckets.into_iter().collect();
        let found = self.store.service_buckets(&buckets).await?.into_iter().flatten();
        let mut found: Vec<_> = found
            .filter(|((id, _), _)| wanted.contains(id))
            .filter_map(|((id, _), record)| service(id, record, &seen.names))
            .collect();
        found.sort_by_key(|instance| ids.iter().position(|id| *id == instance.id));
        Ok(found)
    }

    /// The services from a cursor on.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn service_page(&self, cursor: u32, count: u32) -> Result<Page<ServiceInstance>, StoreError> {
        let seen = self.seen().await?;
        let store = &*self.store;
        let read = |buckets: Vec<u16>| async move { store.service_buckets(&buckets).await };
        let make = |(id, _): (u64, Instance), record| service(id, record, &seen.names);
        // An ID has an instance at every gateway that its service is connected to: each has a place of its own.
        let stands = |(id, instance): &(u64, Instance)| place(id ^ instance.low());
        page(cursor, count, SERVICE_BUCKETS, read, stands, make).await
    }

    async fn count(&self, of: impl Fn(&Member) -> u64) -> Result<u64, StoreError> {
        let roster = self.roster().await?;
        Ok(roster
            .members
            .keys()
            .filter_map(|instance| roster.living(*instance))
            .map(of)
            .fold(0, u64::saturating_add))
    }
}

/// What the gateways with a lease are called: by their configured name where that is one gateway's alone, else with the beginning of their
/// instance behind it.
#[must_use]
pub fn names(roster: &Roster) -> BTreeMap<Instance, String> {
    let living = || roster.members.keys().filter_map(|instance| roster.living(*instance));
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for member in living() {
        *uses.entry(&member.gateway.frontier_id).or_default() += 1;
    }
    let name = |member: &Member| {
        let id = &member.gateway.frontier_id;
        if uses.get(id.as_str()).is_some_and(|uses| *uses > 1) {
            let digits = member.gateway.instance.to_string();
            format!("{id}-{}", digits.get(..8).unwrap_or_default())
        } else {
            id.clone()
        }
    };
    living().map(|member| (member.gateway.instance, name(member))).collect()
}

fn named(Seen { roster, names }: &Seen) -> Vec<Gateway> {
    let living = roster.members.keys().filter_map(|instance| roster.living(*instance));
    let mut gateways: Vec<Gateway> = living.map(|member| shown(member, names)).collect();
    gateways.sort_by(|one, other| one.frontier_id.cmp(&other.frontier_id));
    gateways
}

fn shown(member: &Member, names: &BTreeMap<Instance, String>) -> Gateway {
    let mut gateway = member.gateway.clone();
    if let Some(name) = names.get(&gateway.instance) {
        gateway.frontier_id.clone_from(name);
    }
    gateway
}

fn edge(id: u64, record: EdgeRecord, names: &BTreeMap<Instance, String>) -> Option<Edge> {
    Some(Edge { id, record, frontier_id: names.get(&record.claim.instance)?.clone() })
}

fn service(id: u64, record: ServiceRecord, names: &BTreeMap<Instance, String>) -> Option<ServiceInstance> {
    let frontier_id = names.get(&record.claim.instance)?.clone();
    Some(ServiceInstance { id, record, frontier_id })
}

/// Reads buckets from a cursor on until a page is full. A cursor is a bucket and a place within it, both from 0: who comes and goes meanwhile
/// moves nobody else. Those who share a place are never on two pages, so a page may have some more than `count`.
async fn page<K: Ord, V, T, F: Future<Output = Result<Vec<BTreeMap<K, V>>, StoreError>>>(
    cursor: u32,
    count: u32,
    buckets: u16,
    read: impl Fn(Vec<u16>) -> F,
    stands: impl Fn(&K) -> u32,
    make: impl Fn(K, V) -> Option<T>,
) -> Result<Page<T>, StoreError> {
    /// Buckets read at once: few if a page is small, and so many that an empty store is through at once.
    const STRIDE: u16 = 256;
    let count = match count {
        0 => PAGE_MAX,
        count => count.min(PAGE_MAX),
    } as usize;
    let (mut bucket, mut from) = (cursor >> PLACE_BITS, cursor & ((1 << PLACE_BITS) - 1));
    let mut entries = Vec::new();
    let mut stride = 1;
    while bucket < u32::from(buckets) {
        let first = u16::try_from(bucket).unwrap_or(buckets);
        let last = first.saturating_add(stride).min(buckets);
        for records in read((first..last).collect()).await? {
            let placed = records.into_iter().map(|(key, value)| (stands(&key), key, value));
            let mut placed: Vec<_> = placed.filter(|(place, ..)| *place >= from).collect();
            // By key where places are the same: the sort is stable.
            placed.sort_by_key(|(place, ..)| *place);
            let mut shared = None;
            for (place, key, value) in placed {
                if entries.len() >= count && shared != Some(place) {
                    return Ok(Page { entries, cursor: (bucket << PLACE_BITS) | place });
                }
                entries.extend(make(key, value));
                shared = Some(place);
            }
            from = 0;
            bucket += 1;
        }
        // Sparse buckets are read many at a time.
        stride = stride.saturating_mul(4).min(STRIDE);
    }
    Ok(Page { entries, cursor: 0 })
}

#[cfg(test)]
mod tests;
