//! The store on Redis: standalone, behind sentinels, or a Redis Cluster.
//!
//! | key | type | field → value |
//! |---|---|---|
//! | `fr:e:{0}` … `fr:e:{16383}` | hash | edge ID (8 bytes) → [`EdgeRecord`] |
//! | `fr:s:{0}` … `fr:s:{255}` | hash | service ID and instance (24 bytes) → [`ServiceRecord`] |
//! | `fr:c:{instance in hex}` | list | sessions of this gateway that were taken over elsewhere: edge ID, epoch, newer epoch (24 bytes) |
//! | `fr:{g}:rows` | hash | instance (16 bytes) → a gateway's name and addresses (JSON) |
//! | `fr:{g}:leases` | hash | instance → end of the lease in ms, number of the link, edges, services, who superseded it (text) |
//!
//! The part in braces decides the slot of a Redis Cluster, so scripts have all their keys in one. Each script touches declared keys only,
//! is sent by its hash, and compares before it writes: repeating one changes nothing. Nothing but the lists has a time to live, because an
//! eviction or a clock must not remove what is connected: `maxmemory-policy` has to be `noeviction`.
//!
//! What others change in these keys is heard by client tracking in broadcast mode on the connections that write, which costs nothing while
//! nothing changes; what we write ourselves is left out. Where servers cannot
//! tell, every bucket is said to have changed once in a minute.
//!
//! ```text
//!   Store for Redis ─▶ servers: who has the slot ─▶ node: one server ─▶ link: one connection, by fred
//!                         │ CLUSTER SLOTS, MOVED, ASK    │ connect again, markers, changes
//!                         └ follows a cluster            └ sentinel: where is the master
//! ```

mod call;
mod echoes;
mod errors;
mod keys;
mod link;
mod lookups;
mod node;
mod sentinel;
mod servers;
mod settings;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fred::prelude::Value;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, broadcast};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::call::{Call, Script};
use self::keys::{LEASES, ROWS, cuts_key, edge_key, service_key};
use self::lookups::Lookups;
use self::servers::Servers;
pub use self::settings::{Address, AddressError, Credentials, Mode, Settings, SettingsError, Tls};
use super::{
    CUTS, Change, Cut, EdgeBucket, EdgeOutcome, EdgeWrite, Gateway, Joined, Member, Renewed, Roster,
    ServiceBucket, ServiceWrite, Store, StoreError,
};
use crate::record::{EdgeRecord, Instance, ServiceRecord, StoreTime};
use frontier_api::bucket::{EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket, service_bucket};

/// Commands sent in one go.
const BATCH: usize = 1_024;
/// Whole hashes asked for in one go: with a million edges, about 3 KiB each.
const HASHES: usize = 256;
/// Changes of others that are remembered for who reads them; beyond that, everything counts as changed.
const CHANGES: usize = 4_096;
/// One part of the slow round.
const ROUND_STEP: Duration = Duration::from_millis(250);
/// Parts of the slow round: a minute.
const ROUND: usize = 240;
/// Seconds that word is kept for a gateway: long after its lease is over.
const CUTS_SECONDS: u32 = 60;

/// See the module documentation.
pub struct Redis {
    shared: Arc<Shared>,
    servers: Arc<Servers>,
    lookups: Lookups,
    room: Semaphore,
    /// End with this value.
    _tasks: JoinSet<()>,
}

/// What all connections share.
struct Shared {
    settings: Settings,
    changes: broadcast::Sender<Change>,
    /// Servers may have changed their roles.
    refresh: Notify,
    /// Some server cannot tell of changes.
    deaf: AtomicBool,
    /// Whether the servers tell of what our own scripts write; found out at the first connection.
    echoes: OnceLock<bool>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    opened: AtomicU64,
    lost: AtomicU64,
    failed: AtomicU64,
    redirected: AtomicU64,
}

/// What became of connections to Redis so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Made.
    pub opened: u64,
    /// Of these, lost.
    pub lost: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Calls that a Redis Cluster sent on to another server.
    pub redirected: u64,
}

/// What is kept of a gateway that does not change while it lives.
#[derive(Serialize, Deserialize)]
struct Row {
    frontier_id: String,
    service_addr: String,
    edge_addr: String,
}

// === impl Redis ===

impl Redis {
    /// Begins to connect, in the background and for as long as the value lives. Until that has succeeded, and whenever the connection is
    /// lost, every operation fails at once; none takes longer than [`Settings::command_timeout`] for each 1,024 commands it needs, and a
    /// look-up of one edge, which may wait for others, no longer than twice that.
    ///
    /// # Errors
    /// When the settings cannot work.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect(settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        let room = Semaphore::new(usize::try_from(settings.in_flight).unwrap_or(Semaphore::MAX_PERMITS));
        let shared = Arc::new(Shared {
            settings,
            changes: broadcast::Sender::new(CHANGES),
            refresh: Notify::new(),
            deaf: AtomicBool::new(false),
            echoes: OnceLock::new(),
            counters: Counters::default(),
        });
        let servers = Arc::new(Servers::start(&shared));
        let mut tasks = JoinSet::new();
        if let Servers::Cluster(cluster) = &*servers {
            tasks.spawn(Arc::clone(cluster).follow());
        }
        let patience = shared.settings.command_timeout;
        let (lookups, queue) = Lookups::new(Arc::clone(&servers), room.available_permits(), patience);
        tasks.spawn(queue.run());
        tasks.spawn(go_round(Arc::clone(&shared)));
        Ok(Self { shared, servers, lookups, room, _tasks: tasks })
    }

    /// Waits until every server answers.
    ///
    /// # Errors
    /// What is wrong when the time is over.
    pub async fn connected(&self, within: Duration) -> Result<(), StoreError> {
        let deadline = Instant::now() + within;
        loop {
            match self.ping().await {
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(10)).await,
                Ok(()) => return Ok(()),
            }
        }
    }

    /// What became of connections so far.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let Counters { opened, lost, failed, redirected } = &self.shared.counters;
        let [opened, lost, failed, redirected] =
            [opened, lost, failed, redirected].map(|counter| counter.load(Ordering::Relaxed));
        Connections { opened, lost, failed, redirected }
    }

    /// One call.
    async fn call(&self, call: &Call) -> Result<Value, StoreError> {
        let _room = self.room(1)?;
        self.servers.call(call).await
    }

    /// Many calls, so many at a time; the answers in their order.
    async fn calls(&self, calls: &[Call], at_once: usize) -> Result<Vec<Value>, StoreError> {
        let mut answers = Vec::with_capacity(calls.len());
        for calls in calls.chunks(at_once) {
            let _room = self.room(calls.len())?;
            for answer in self.servers.calls(calls).await {
                answers.push(answer?);
            }
        }
        Ok(answers)
    }

    /// The contents of many hashes.
    async fn hashes(&self, keys: &[String]) -> Result<Vec<Vec<(Value, Value)>>, StoreError> {
        let calls: Vec<Call> =
            keys.iter().map(|key| Call::command("HGETALL", key.clone(), Vec::new())).collect();
        self.calls(&calls, HASHES).await?.into_iter().map(pairs).collect()
    }

    /// Removes what is no record.
    async fn tidy(&self, junk: Vec<(String, Vec<Value>)>) -> Result<(), StoreError> {
        let call = |(key, args)| Call::script(Script::Tidy, vec![key], args).writes(is_not_zero);
        let calls: Vec<Call> = junk.into_iter().map(call).collect();
        self.calls(&calls, BATCH).await.map(drop)
    }

    fn room(&self, commands: usize) -> Result<SemaphorePermit<'_>, StoreError> {
        let commands = u32::try_from(commands).map_err(|_| StoreError::Busy)?;
        self.room.try_acquire_many(commands).map_err(|_| StoreError::Busy)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("mode", &self.shared.settings.mode).finish_non_exhaustive()
    }
}

impl Store for Redis {
    async fn join(&self, gateway: &Gateway, lease: Duration, back: bool) -> Result<Joined, StoreError> {
        let row = Row {
            frontier_id: gateway.frontier_id.clone(),
            service_addr: gateway.service_addr.clone(),
            edge_addr: gateway.edge_addr.clone(),
        };
        let row = serde_json::to_string(&row).map_err(|error| StoreError::Nonsense(error.to_string()))?;
        let lease = millis(lease).to_string();
        let hex = gateway.instance.to_string();
        let back = if back { "1" } else { "0" };
        let args = vec![
            bytes(&gateway.instance.0),
            row.into(),
            lease.into(),
            hex.into(),
            back.into(),
            super::ROWS.to_string().into(),
            super::ROWS_AND_SUCCESSORS.to_string().into(),
        ];
        let join = Call::script(Script::Join, member_keys(), args).writes_keys(2, joined);
        let answer = self.call(&join).await?;
        let (now, stream, by): (String, String, String) = convert(answer)?;
        if by == "full" {
            return Ok(Joined::Full);
        }
        if !by.is_empty() {
            let by = Instance::parse(&by).ok_or_else(|| nonsense("no instance"))?;
            return Ok(Joined::Superseded { by });
        }
        let stream = u32::try_from(number(&stream)?).map_err(|_| nonsense("a link's number"))?;
        Ok(Joined::Lease { now: StoreTime(number(&now)?), stream })
    }

    async fn renew(
        &self,
        instance: Instance,
        edges: u64,
        services: u64,
        lease: Duration,
    ) -> Result<Renewed, StoreError> {
        let numbers = [edges, services, millis(lease)].map(|number| number.to_string().into());
        let args = [bytes(&instance.0)].into_iter().chain(numbers).collect();
        let keys = vec![LEASES.to_owned(), ROWS.to_owned()];
        let renew = Call::script(Script::Renew, keys, args).writes(renewed);
        let answer = self.call(&renew).await?;
        let (now, known): (String, String) = convert(answer)?;
        Ok(Renewed { now: StoreTime(number(&now)?), known: known == "1" })
    }

    async fn leave(&self, instance: Instance, stream: u32) -> Result<(), StoreError> {
        let keys = vec![LEASES.to_owned()];
        let args = vec![bytes(&instance.0), stream.to_string().into()];
        let leave = Call::script(Script::Leave, keys, args).writes(is_not_zero);
        self.call(&leave).await.map(drop)
    }

    async fn forget(&self, instance: Instance) -> Result<(), StoreError> {
        let forget = Call::script(Script::Forget, member_keys(), vec![bytes(&instance.0)]);
        self.call(&forget.writes_keys(2, is_not_zero)).await.map(drop)
    }

    async fn members(&self) -> Result<Roster, StoreError> {
        let answer = self.call(&Call::script(Script::Members, member_keys(), Vec::new())).await?;
        let mut parts = answer.into_array().into_iter();
        let mut part = || parts.next().ok_or_else(|| nonsense("no list of gateways"));
        let now: String = convert(part()?)?;
        let (rows, leases) = (pairs(part()?)?, pairs(part()?)?);
        let leases: BTreeMap<Instance, Value> =
            leases.into_iter().filter_map(|(field, lease)| Some((instance(&field)?, lease))).collect();
        let member = |(field, row): (Value, Value)| {
            let instance = instance(&field)?;
            let row: Row = serde_json::from_slice(row.as_bytes()?).ok()?;
            let lease = leases.get(&instance).and_then(|lease| lease.as_string()).unwrap_or_default();
            let mut parts = lease.split(' ');
            let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).unwrap_or_default();
            let (lease, stream, edges, services) = (StoreTime(number()), number(), number(), number());
            let superseded_by = parts.next().and_then(Instance::parse);
            let Row { frontier_id, service_addr, edge_addr } = row;
            let gateway = Gateway { instance, frontier_id, service_addr, edge_addr };
            let stream = u32::try_from(stream).unwrap_or_default();
            Some((instance, Member { gateway, lease, stream, edges, services, superseded_by }))
        };
        Ok(Roster { now: StoreTime(number(&now)?), members: rows.into_iter().filter_map(member).collect() })
    }

    async fn write_edges(
        &self,
        writes: &[EdgeWrite],
        horizon: StoreTime,
    ) -> Result<Vec<EdgeOutcome>, StoreError> {
        let by_bucket = group(writes, |write| edge_bucket(write.edge()));
        let call = |(bucket, at): (&u16, &Vec<usize>)| {
            let horizon = horizon.epoch();
            let halves = [horizon >> 32, horizon & u64::from(u32::MAX)].map(|half| half.to_string().into());
            let changes = at.iter().filter_map(|at| writes.get(*at)).flat_map(|write| match write {
                EdgeWrite::Online { edge, record } => {
                    ["1".into(), bytes(&edge.to_be_bytes()), bytes(&record.encode())]
                }
                EdgeWrite::Offline { edge, claim } => {
                    ["0".into(), bytes(&edge.to_be_bytes()), bytes(&claim.encode())]
                }
            });
            let args = halves.into_iter().chain(changes).collect();
            Call::script(Script::Edges, vec![edge_key(*bucket)], args).writes(changed_edges)
        };
        let calls: Vec<Call> = by_bucket.iter().map(call).collect();
        let answers = self.calls(&calls, BATCH).await?;
        let mut outcomes = vec![EdgeOutcome::Done; writes.len()];
        for (at, answer) in by_bucket.values().zip(answers) {
            for (at, answer) in at.iter().zip(answer.into_array()) {
                let outcome = outcome(answer.as_bytes().unwrap_or_default())?;
                if let Some(place) = outcomes.get_mut(*at) {
                    *place = outcome;
                }
            }
        }
        Ok(outcomes)
    }

    async fn edges(&self, edges: &[u64]) -> Result<Vec<Option<EdgeRecord>>, StoreError> {
        if let [edge] = edges {
            let _room = self.room(1)?;
            return Ok(vec![self.lookups.find(&self.servers, *edge).await?]);
        }
        let mut found = Vec::with_capacity(edges.len());
        for edges in edges.chunks(lookups::FULL) {
            let _room = self.room(edges.len())?;
            let fields = edges.iter().map(|edge| lookups::field(*edge)).collect();
            for answer in self.servers.find(fields).await {
                found.push(lookups::read(answer?));
            }
        }
        Ok(found)
    }

    async fn edge_buckets(&self, buckets: &[u16]) -> Result<Vec<EdgeBucket>, StoreError> {
        let keys: Vec<String> = buckets.iter().map(|bucket| edge_key(*bucket)).collect();
        let read = |field: &[u8], value: &[u8]| {
            let edge = u64::from_be_bytes(field.try_into().ok()?);
            Some((edge, EdgeRecord::decode(value)?))
        };
        self.records(&keys, read).await
    }

    async fn write_services(&self, writes: &[ServiceWrite]) -> Result<(), StoreError> {
        let by_bucket = group(writes, |write| service_bucket(write.service()));
        let call = |(bucket, at): (&u16, &Vec<usize>)| {
            let changes = at.iter().filter_map(|at| writes.get(*at)).flat_map(|write| match write {
                ServiceWrite::Online { service, record } => {
                    ["1".into(), service_field(*service, record.claim.instance), bytes(&record.encode())]
                }
                ServiceWrite::Offline { service, claim } => {
                    ["0".into(), service_field(*service, claim.instance), bytes(&claim.encode())]
                }
            });
            Call::script(Script::Services, vec![service_key(*bucket)], changes.collect()).writes(is_not_zero)
        };
        let calls: Vec<Call> = by_bucket.iter().map(call).collect();
        self.calls(&calls, BATCH).await.map(drop)
    }

    async fn service_buckets(&self, buckets: &[u16]) -> Result<Vec<ServiceBucket>, StoreError> {
        let keys: Vec<String> = buckets.iter().map(|bucket| service_key(*bucket)).collect();
        let read = |field: &[u8], value: &[u8]| {
            let (service, instance) = field.split_first_chunk::<8>()?;
            let instance = Instance(instance.try_into().ok()?);
            let record = ServiceRecord::decode(value).filter(|record| record.claim.instance == instance)?;
            Some(((u64::from_be_bytes(*service), instance), record))
        };
        self.records(&keys, read).await
    }

    async fn replace_edges(
        &self,
        instance: Instance,
        stream: u32,
        buckets: &[(u16, Vec<(u64, EdgeRecord)>)],
        horizon: StoreTime,
    ) -> Result<Vec<(u64, EdgeOutcome)>, StoreError> {
        let call = |(bucket, edges): &(u16, Vec<(u64, EdgeRecord)>)| {
            let horizon = horizon.epoch();
            let halves = [horizon >> 32, horizon & u64::from(u32::MAX)].map(|half| half.to_string().into());
            let who = [bytes(&instance.0), stream.to_string().into()];
            let records =
                edges.iter().flat_map(|(edge, record)| [bytes(&edge.to_be_bytes()), bytes(&record.encode())]);
            let args = halves.into_iter().chain(who).chain(records).collect();
            Call::script(Script::Replace, vec![edge_key(*bucket)], args).writes(replaced)
        };
        let calls: Vec<Call> = buckets.iter().map(call).collect();
        let mut outcomes = Vec::new();
        for answer in self.calls(&calls, HASHES).await? {
            // The first says how much was changed.
            let mut parts = answer.into_array().into_iter().skip(1);
            while let Some((field, answer)) = parts.next().zip(parts.next()) {
                let edge = field.as_bytes().and_then(|field| field.try_into().ok());
                let edge = edge.map(u64::from_be_bytes).ok_or_else(|| nonsense("an ID that is none"))?;
                outcomes.push((edge, outcome(answer.as_bytes().unwrap_or_default())?));
            }
        }
        Ok(outcomes)
    }

    async fn replace_services(
        &self,
        instance: Instance,
        buckets: &[(u16, Vec<(u64, ServiceRecord)>)],
    ) -> Result<(), StoreError> {
        let call = |(bucket, services): &(u16, Vec<(u64, ServiceRecord)>)| {
            let who = [bytes(&instance.0)];
            let records = services
                .iter()
                .flat_map(|(service, record)| [service_field(*service, instance), bytes(&record.encode())]);
            let args = who.into_iter().chain(records).collect();
            Call::script(Script::ReplaceServices, vec![service_key(*bucket)], args).writes(is_not_zero)
        };
        let calls: Vec<Call> = buckets.iter().map(call).collect();
        self.calls(&calls, HASHES).await.map(drop)
    }

    async fn leave_cuts(&self, instance: Instance, cuts: &[Cut]) -> Result<(), StoreError> {
        let limits = [CUTS.to_string().into(), CUTS_SECONDS.to_string().into()];
        let args = limits.into_iter().chain(cuts.iter().map(|cut| bytes(&cut.encode()))).collect();
        let leave = Call::script(Script::LeaveCuts, vec![cuts_key(instance)], args).writes(always);
        self.call(&leave).await.map(drop)
    }

    async fn take_cuts(&self, instance: Instance) -> Result<Vec<Cut>, StoreError> {
        let take = Call::script(Script::TakeCuts, vec![cuts_key(instance)], Vec::new()).writes(is_not_empty);
        let cuts = self.call(&take).await?.into_array().into_iter();
        Ok(cuts.filter_map(|cut| Cut::decode(cut.as_bytes()?)).collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.servers.ping().await
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }
}

impl Redis {
    /// What these hashes hold; what is none of it is removed.
    async fn records<K: Ord, V>(
        &self,
        keys: &[String],
        read: impl Fn(&[u8], &[u8]) -> Option<(K, V)>,
    ) -> Result<Vec<BTreeMap<K, V>>, StoreError> {
        let (mut all, mut junk) = (Vec::with_capacity(keys.len()), Vec::new());
        for (key, fields) in keys.iter().zip(self.hashes(keys).await?) {
            let (mut records, mut strays) = (BTreeMap::new(), Vec::new());
            for (field, value) in fields {
                match field.as_bytes().zip(value.as_bytes()).and_then(|(field, value)| read(field, value)) {
                    Some((id, record)) => drop(records.insert(id, record)),
                    None => strays.extend([field, value]),
                }
            }
            if !strays.is_empty() {
                junk.push((key.clone(), strays));
            }
            all.push(records);
        }
        self.tidy(junk).await?;
        Ok(all)
    }
}

// === impl Shared ===

impl Shared {
    fn count(&self, which: impl Fn(&Counters) -> &AtomicU64) {
        which(&self.counters).fetch_add(1, Ordering::Relaxed);
    }
}

/// Where servers cannot tell of changes, says of one bucket after the other that it may have changed, and of the gateways.
async fn go_round(shared: Arc<Shared>) {
    let mut steps = interval(ROUND_STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let edges = (0..EDGE_BUCKETS).map(Change::Edges);
    let mut round = edges.chain((0..SERVICE_BUCKETS).map(Change::Services)).cycle();
    let all = usize::from(EDGE_BUCKETS) + usize::from(SERVICE_BUCKETS);
    loop {
        steps.tick().await;
        if shared.deaf.load(Ordering::Relaxed) {
            for change in round.by_ref().take(all.div_ceil(ROUND)) {
                let _ = shared.changes.send(change);
            }
            let _ = shared.changes.send(Change::Members);
        }
    }
}

/// Which of these belong together, in order.
fn group<W>(writes: &[W], bucket: impl Fn(&W) -> u16) -> BTreeMap<u16, Vec<usize>> {
    let mut groups: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (at, write) in writes.iter().enumerate() {
        groups.entry(bucket(write)).or_default().push(at);
    }
    groups
}

fn member_keys() -> Vec<String> {
    vec![ROWS.to_owned(), LEASES.to_owned()]
}

fn service_field(service: u64, instance: Instance) -> Value {
    bytes(&[service.to_be_bytes().as_slice(), &instance.0].concat())
}

/// Whether some edge was changed: not if all writes came too late.
fn changed_edges(answer: &Value) -> bool {
    let outcome = |outcome: &Value| outcome.as_bytes().and_then(|bytes| bytes.first().copied());
    match answer {
        Value::Array(outcomes) => outcomes.iter().any(|one| !matches!(outcome(one), Some(b'=' | b'l'))),
        _ => false,
    }
}

/// Of a script that counts what it changes.
fn is_not_zero(answer: &Value) -> bool {
    answer.as_u64() != Some(0)
}

/// Of a script that says first how much it changed.
fn replaced(answer: &Value) -> bool {
    match answer {
        Value::Array(parts) => parts.first().is_some_and(is_not_zero),
        _ => false,
    }
}

/// Of a script that gives what it removes.
fn is_not_empty(answer: &Value) -> bool {
    matches!(answer, Value::Array(parts) if !parts.is_empty())
}

/// Of a join that was not refused: then nobody is named.
fn joined(answer: &Value) -> bool {
    matches!(answer, Value::Array(parts) if parts.last().and_then(Value::as_string).is_some_and(|by| by.is_empty()))
}

/// Of a renewal of a gateway that is known.
fn renewed(answer: &Value) -> bool {
    matches!(answer, Value::Array(parts) if parts.last().is_some_and(is_not_zero))
}

fn always(_: &Value) -> bool {
    true
}

fn outcome(answer: &[u8]) -> Result<EdgeOutcome, StoreError> {
    let record = |bytes| EdgeRecord::decode(bytes).ok_or_else(|| nonsense("a record that is none"));
    match answer.split_first() {
        None | Some((b'=', _)) => Ok(EdgeOutcome::Done),
        Some((b'r', rest)) => record(rest).map(EdgeOutcome::Replaced),
        Some((b'l', rest)) => record(rest).map(EdgeOutcome::Lost),
        Some(_) => Err(nonsense("an unknown outcome")),
    }
}

/// Fields and values of a hash, as either version of the protocol gives them.
fn pairs(value: Value) -> Result<Vec<(Value, Value)>, StoreError> {
    match value {
        Value::Map(map) => Ok(map.inner().into_iter().map(|(key, value)| (key.into(), value)).collect()),
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            Ok(std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect())
        }
        Value::Null => Ok(Vec::new()),
        other => Err(nonsense(format!("{:?} for a hash", other.kind()))),
    }
}

fn instance(field: &Value) -> Option<Instance> {
    field.as_bytes()?.try_into().ok().map(Instance)
}

fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(bytes.to_vec().into())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn number(text: &str) -> Result<u64, StoreError> {
    text.parse().map_err(|_| nonsense(format!("`{text}` for a number")))
}

fn convert<R: fred::types::FromValue>(value: Value) -> Result<R, StoreError> {
    value.convert().map_err(|error| nonsense(error.to_string()))
}

fn nonsense(what: impl Into<String>) -> StoreError {
    StoreError::Nonsense(what.into())
}
