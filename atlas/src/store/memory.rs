//! A store in the memory of one atlas: for development, for a cluster that needs no second atlas, and for tests. It keeps every rule that
//! the one on Redis keeps. What it holds is lost with the process, and gateways bring it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::{
    CUTS, Change, Cut, EdgeBucket, EdgeOutcome, EdgeWrite, Gateway, Joined, Member, ROWS,
    ROWS_AND_SUCCESSORS, Renewed, Roster, ServiceBucket, ServiceWrite, Store, StoreError, decide, holds,
};
use crate::record::{EdgeRecord, Instance, ServiceRecord, StoreTime};
use frontier_api::bucket::{EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket, service_bucket};

/// See the module documentation.
#[derive(Debug)]
pub struct Memory {
    /// Store time at some moment; from then on it goes with the monotonic clock, so that a step of the wall clock moves no lease.
    clock: Mutex<(StoreTime, Instant)>,
    state: Mutex<State>,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug)]
struct State {
    members: BTreeMap<Instance, Member>,
    edges: Vec<EdgeBucket>,
    services: Vec<ServiceBucket>,
    cuts: BTreeMap<Instance, Vec<Cut>>,
}

// === impl Memory ===

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(StoreTime(millis(unix)))
    }

    /// An empty one whose clock shows this now.
    #[must_use]
    pub fn starting_at(origin: StoreTime) -> Self {
        let state = State {
            members: BTreeMap::new(),
            edges: vec![BTreeMap::new(); usize::from(EDGE_BUCKETS)],
            services: vec![BTreeMap::new(); usize::from(SERVICE_BUCKETS)],
            cuts: BTreeMap::new(),
        };
        Self {
            clock: Mutex::new((origin, Instant::now())),
            state: Mutex::new(state),
            // Nobody else can change anything here.
            changes: broadcast::Sender::new(1),
        }
    }

    /// From now on its clock shows this, and goes on: simulations let it step, as that of a real store may.
    pub fn set_time(&self, now: StoreTime) {
        *self.clock.lock() = (now, Instant::now());
    }

    fn now(&self) -> StoreTime {
        let (origin, start) = *self.clock.lock();
        origin.after(millis(start.elapsed()))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for Memory {
    async fn join(&self, gateway: &Gateway, lease: Duration, back: bool) -> Result<Joined, StoreError> {
        let now = self.now();
        let mut state = self.state.lock();
        let superseder = state.members.get(&gateway.instance).and_then(|member| member.superseded_by);
        let lives = |instance| state.members.get(&instance).is_some_and(|member| holds(member.lease, now));
        if let Some(by) = superseder.filter(|by| lives(*by)) {
            if let Some(member) = state.members.get_mut(&gateway.instance) {
                member.lease = now;
            }
            return Ok(Joined::Superseded { by });
        }
        if !state.members.contains_key(&gateway.instance) {
            let successor = state.members.values().filter(|_| back);
            let mut successor = successor.filter(|member| member.gateway.is_same_place(gateway));
            if let Some(by) = successor.find(|member| holds(member.lease, now)) {
                return Ok(Joined::Superseded { by: by.gateway.instance });
            }
            let restarted = state.members.values().any(|member| member.gateway.is_same_place(gateway));
            let room = if restarted { ROWS_AND_SUCCESSORS } else { ROWS };
            if state.members.len() >= room {
                return Ok(Joined::Full);
            }
        }
        for member in state.members.values_mut() {
            if member.gateway.instance != gateway.instance && member.gateway.is_same_place(gateway) {
                member.lease = member.lease.min(now);
                member.superseded_by = Some(gateway.instance);
            }
        }
        let stream = state.members.get(&gateway.instance).map_or(0, |member| member.stream).wrapping_add(1);
        let member = Member {
            gateway: gateway.clone(),
            lease: now.after(millis(lease)),
            stream,
            edges: 0,
            services: 0,
            superseded_by: None,
        };
        state.members.insert(gateway.instance, member);
        Ok(Joined::Lease { now, stream })
    }

    async fn renew(
        &self,
        instance: Instance,
        edges: u64,
        services: u64,
        lease: Duration,
    ) -> Result<Renewed, StoreError> {
        let now = self.now();
        let mut state = self.state.lock();
        let member = state.members.get_mut(&instance);
        let member = member.filter(|member| member.superseded_by.is_none() && member.lease > StoreTime(0));
        let Some(member) = member else { return Ok(Renewed { now, known: false }) };
        member.lease = now.after(millis(lease));
        member.edges = edges;
        member.services = services;
        Ok(Renewed { now, known: true })
    }

    async fn leave(&self, instance: Instance, stream: u32) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if let Some(member) = state.members.get_mut(&instance).filter(|member| member.stream == stream) {
            member.lease = StoreTime(0);
        }
        Ok(())
    }

    async fn forget(&self, instance: Instance) -> Result<(), StoreError> {
        let now = self.now();
        let mut state = self.state.lock();
        if state.members.get(&instance).is_some_and(|member| holds(member.lease, now)) {
            return Ok(());
        }
        state.members.remove(&instance);
        state.cuts.remove(&instance);
        Ok(())
    }

    async fn members(&self) -> Result<Roster, StoreError> {
        Ok(Roster { now: self.now(), members: self.state.lock().members.clone() })
    }

    async fn write_edges(
        &self,
        writes: &[EdgeWrite],
        horizon: StoreTime,
    ) -> Result<Vec<EdgeOutcome>, StoreError> {
        let mut state = self.state.lock();
        Ok(writes.iter().map(|write| state.write_edge(write, horizon)).collect())
    }

    async fn edges(&self, edges: &[u64]) -> Result<Vec<Option<EdgeRecord>>, StoreError> {
        let state = self.state.lock();
        Ok(edges.iter().map(|edge| state.edges[usize::from(edge_bucket(*edge))].get(edge).copied()).collect())
    }

    async fn edge_buckets(&self, buckets: &[u16]) -> Result<Vec<EdgeBucket>, StoreError> {
        let state = self.state.lock();
        Ok(buckets.iter().map(|bucket| state.edges[usize::from(bucket % EDGE_BUCKETS)].clone()).collect())
    }

    async fn write_services(&self, writes: &[ServiceWrite]) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        writes.iter().for_each(|write| state.write_service(write));
        Ok(())
    }

    async fn service_buckets(&self, buckets: &[u16]) -> Result<Vec<ServiceBucket>, StoreError> {
        let state = self.state.lock();
        Ok(buckets
            .iter()
            .map(|bucket| state.services[usize::from(bucket % SERVICE_BUCKETS)].clone())
            .collect())
    }

    async fn replace_edges(
        &self,
        instance: Instance,
        _: u32,
        buckets: &[(u16, Vec<(u64, EdgeRecord)>)],
        horizon: StoreTime,
    ) -> Result<Vec<(u64, EdgeOutcome)>, StoreError> {
        let mut state = self.state.lock();
        let mut outcomes = Vec::new();
        for (bucket, edges) in buckets {
            let kept: BTreeSet<u64> = edges.iter().map(|(edge, _)| *edge).collect();
            state.edges[usize::from(bucket % EDGE_BUCKETS)]
                .retain(|edge, record| record.claim.instance != instance || kept.contains(edge));
            for (edge, record) in edges {
                let outcome = state.write_edge(&EdgeWrite::Online { edge: *edge, record: *record }, horizon);
                if outcome != EdgeOutcome::Done {
                    outcomes.push((*edge, outcome));
                }
            }
        }
        Ok(outcomes)
    }

    async fn replace_services(
        &self,
        instance: Instance,
        buckets: &[(u16, Vec<(u64, ServiceRecord)>)],
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        for (bucket, services) in buckets {
            let kept: BTreeSet<u64> = services.iter().map(|(service, _)| *service).collect();
            state.services[usize::from(bucket % SERVICE_BUCKETS)]
                .retain(|(service, holder), _| *holder != instance || kept.contains(service));
            let records = services.iter().map(|(service, record)| ((*service, instance), record.clone()));
            state.services[usize::from(bucket % SERVICE_BUCKETS)].extend(records);
        }
        Ok(())
    }

    async fn leave_cuts(&self, instance: Instance, cuts: &[Cut]) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let left = state.cuts.entry(instance).or_default();
        left.extend_from_slice(cuts);
        let surplus = left.len().saturating_sub(CUTS);
        left.drain(..surplus);
        Ok(())
    }

    async fn take_cuts(&self, instance: Instance) -> Result<Vec<Cut>, StoreError> {
        Ok(self.state.lock().cuts.remove(&instance).unwrap_or_default())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

// === impl State ===

impl State {
    fn write_edge(&mut self, write: &EdgeWrite, horizon: StoreTime) -> EdgeOutcome {
        let bucket = &mut self.edges[usize::from(edge_bucket(write.edge()))];
        let (after, outcome) = decide(bucket.get(&write.edge()), write, horizon);
        match after {
            Some(Some(record)) => drop(bucket.insert(write.edge(), record)),
            Some(None) => drop(bucket.remove(&write.edge())),
            None => {}
        }
        outcome
    }

    fn write_service(&mut self, write: &ServiceWrite) {
        match write {
            ServiceWrite::Online { service, record } => {
                let key = (*service, record.claim.instance);
                let bucket = &mut self.services[usize::from(service_bucket(*service))];
                let newer = |current: &ServiceRecord| {
                    (record.claim, record.stream) >= (current.claim, current.stream)
                };
                if bucket.get(&key).is_none_or(newer) {
                    bucket.insert(key, record.clone());
                }
            }
            ServiceWrite::Offline { service, claim } => {
                let key = (*service, claim.instance);
                let bucket = &mut self.services[usize::from(service_bucket(*service))];
                if bucket.get(&key).is_some_and(|current| current.claim <= *claim) {
                    bucket.remove(&key);
                }
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
