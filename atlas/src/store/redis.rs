//! The store on Redis: standalone, behind sentinels, or a Redis Cluster.
//!
//! | key | type | field → value |
//! |---|---|---|
//! | `fr:e:{0}` … `fr:e:{16383}` | hash | edge ID (8 bytes) → [`EdgeRecord`](crate::record::EdgeRecord) |
//! | `fr:s:{0}` … `fr:s:{255}` | hash | service ID and instance (24 bytes) → [`ServiceRecord`](crate::record::ServiceRecord) |
//! | `fr:c:{instance in hex}` | list | sessions of this gateway that were taken over elsewhere: edge ID, epoch, newer epoch (24 bytes) |
//! | `fr:{g}:rows` | hash | instance (16 bytes) → a gateway's name and addresses (JSON) |
//! | `fr:{g}:leases` | hash | instance → end of the lease in ms, number of the link, edges, services, who superseded it (text) |
//!
//! The part in braces decides the slot of a Redis Cluster, so scripts have all their keys in one. Each script touches declared keys only,
//! is sent by its hash, and compares before it writes: repeating one changes nothing. Nothing but the lists has a time to live, because an
//! eviction or a clock must not remove what is connected.
//!
//! What others change in these keys is heard by client tracking in broadcast mode on the connection that writes, which leaves out what came
//! over it: it costs nothing while nothing changes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use fred::interfaces::TrackingInterface as _;
use fred::prelude::{
    Builder, Client, ClientLike as _, Config, ConnectionConfig, Error, ErrorKind, EventInterface as _,
    HashesInterface as _, LuaInterface as _, PerformanceConfig, ReconnectPolicy, TcpConfig, Value,
};
use fred::types::RespVersion;
use fred::types::scripts::Script;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;

use super::{
    CUTS, Change, Cut, EdgeBucket, EdgeOutcome, EdgeWrite, Gateway, Joined, Member, Renewed, Roster,
    ServiceBucket, ServiceWrite, Store, StoreError,
};
use crate::record::{EdgeRecord, Instance, ServiceRecord, StoreTime};
use frontier_api::bucket::{EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket, service_bucket};

/// What all keys begin with.
const PREFIX: &str = "fr:";
/// Commands that may wait for Redis at once; who comes beyond is told [`StoreError::Busy`].
const IN_FLIGHT: usize = 65_536;
/// Commands sent in one go.
const BATCH: usize = 1_024;
/// Changes of others that are remembered for who reads them; beyond that, everything counts as changed.
const CHANGES: usize = 4_096;

/// Seconds that word is kept for a gateway: long after its lease is over.
const CUTS_SECONDS: u32 = 60;

/// The keys about gateways.
const ROWS: &str = "fr:{g}:rows";
const LEASES: &str = "fr:{g}:leases";

/// How Redis is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Servers, credentials, database, TLS.
    pub config: Config,
    /// For a connection, its TLS handshake and its authentication.
    pub connect_timeout: Duration,
    /// For one command, everything included.
    pub command_timeout: Duration,
    /// Between attempts to connect again: at first, and at most.
    pub backoff: (Duration, Duration),
}

/// See the module documentation.
pub struct Redis {
    client: Client,
    scripts: Scripts,
    room: Semaphore,
    changes: broadcast::Sender<Change>,
    /// End with this value.
    _tasks: JoinSet<()>,
}

#[derive(Clone, Debug)]
struct Scripts {
    edges: Script,
    services: Script,
    replace: Script,
    replace_services: Script,
    leave_cuts: Script,
    take_cuts: Script,
    tidy: Script,
    join: Script,
    renew: Script,
    leave: Script,
    members: Script,
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
    /// Connects.
    ///
    /// # Errors
    /// When settings are wrong or no server answers in time.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let mut config = settings.config.clone();
        // Tracking needs it.
        config.version = RespVersion::RESP3;
        // Whether a start waits for Redis is decided above.
        config.fail_fast = true;
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let (least, most) = settings.backoff;
        let client = Builder::from_config(config)
            .with_connection_config(|connection: &mut ConnectionConfig| {
                connection.connection_timeout = settings.connect_timeout;
                connection.internal_command_timeout = settings.connect_timeout;
                connection.max_command_attempts = 2;
                connection.max_command_buffer_len = IN_FLIGHT * 2;
                connection.reconnect_on_auth_error = true;
                connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
                connection.unresponsive.max_timeout = Some(settings.command_timeout);
            })
            .with_performance_config(|performance: &mut PerformanceConfig| {
                performance.default_command_timeout = settings.command_timeout;
                performance.broadcast_channel_capacity = CHANGES;
            })
            .set_policy(ReconnectPolicy::new_exponential(0, millis(least), millis(most), 2))
            .build()
            .map_err(|error| store_error(&error))?;
        client.init().await.map_err(|error| store_error(&error))?;
        let mut redis = Self {
            client,
            scripts: Scripts::new(),
            room: Semaphore::new(IN_FLIGHT),
            changes: broadcast::Sender::new(CHANGES),
            _tasks: JoinSet::new(),
        };
        redis.listen().await;
        Ok(redis)
    }

    /// Hears what others change, again after each reconnect.
    async fn listen(&mut self) {
        let (changes, client) = (self.changes.clone(), self.client.clone());
        let mut invalidations = client.invalidation_rx();
        self._tasks.spawn(async move {
            loop {
                match invalidations.recv().await {
                    Ok(invalidation) => {
                        for key in &invalidation.keys {
                            let _ = changes.send(change(key.as_str().unwrap_or_default()));
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => drop(changes.send(Change::Everything)),
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        let (changes, client) = (self.changes.clone(), self.client.clone());
        let mut reconnects = client.reconnect_rx();
        self._tasks.spawn(async move {
            loop {
                match reconnects.recv().await {
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        // Without tracking (Redis before 6, some proxies) changes by hand are found by the slow round only.
                        let _ = client.start_tracking(PREFIX, true, false, false, true).await;
                        let _ = changes.send(Change::Everything);
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        let _ = self.client.start_tracking(PREFIX, true, false, false, true).await;
    }

    /// Sends one script per bucket, many at a time; the answers in the order of `calls`.
    async fn scripts(
        &self,
        script: &Script,
        calls: Vec<(String, Vec<Value>)>,
    ) -> Result<Vec<Value>, StoreError> {
        let mut answers = Vec::with_capacity(calls.len());
        for batch in calls.chunks(BATCH) {
            let _room = self.room(batch.len())?;
            let mut results = self.send(script, batch).await;
            if results.iter().any(is_unknown_script) {
                script.load(&self.client).await.map_err(|error| store_error(&error))?;
                results = self.send(script, batch).await;
            }
            for result in results {
                answers.push(result.map_err(|error| store_error(&error))?);
            }
        }
        Ok(answers)
    }

    async fn send(&self, script: &Script, batch: &[(String, Vec<Value>)]) -> Vec<Result<Value, Error>> {
        // The client sends what is asked at the same time in one go.
        let calls = batch.iter().map(|(key, args)| {
            self.client.evalsha::<Value, _, _, _>(script.sha1().clone(), key.as_str(), args.clone())
        });
        join_all(calls).await
    }

    /// Runs a script about gateways.
    async fn about_members(
        &self,
        script: &Script,
        keys: Vec<&str>,
        args: Vec<Value>,
    ) -> Result<Value, StoreError> {
        let _room = self.room(1)?;
        script.evalsha_with_reload(&self.client, keys, args).await.map_err(|error| store_error(&error))
    }

    /// The contents of many hashes.
    async fn hashes(&self, keys: &[String]) -> Result<Vec<Vec<(Value, Value)>>, StoreError> {
        let mut contents = Vec::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            let _room = self.room(batch.len())?;
            let pipeline = self.client.pipeline();
            for key in batch {
                let queued: Result<(), Error> = pipeline.hgetall(key.as_str()).await;
                queued.map_err(|error| store_error(&error))?;
            }
            for result in pipeline.try_all::<Value>().await {
                contents.push(pairs(result.map_err(|error| store_error(&error))?)?);
            }
        }
        Ok(contents)
    }

    /// Removes what is no record.
    async fn tidy(&self, junk: Vec<(String, Vec<Value>)>) -> Result<(), StoreError> {
        if junk.is_empty() {
            return Ok(());
        }
        self.scripts(&self.scripts.tidy, junk).await.map(drop)
    }

    fn room(&self, commands: usize) -> Result<tokio::sync::SemaphorePermit<'_>, StoreError> {
        let commands = u32::try_from(commands).map_err(|_| StoreError::Busy)?;
        self.room.try_acquire_many(commands).map_err(|_| StoreError::Busy)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("free", &self.room.available_permits()).finish_non_exhaustive()
    }
}

impl Store for Redis {
    async fn join(&self, gateway: &Gateway, lease: Duration) -> Result<Joined, StoreError> {
        let row = Row {
            frontier_id: gateway.frontier_id.clone(),
            service_addr: gateway.service_addr.clone(),
            edge_addr: gateway.edge_addr.clone(),
        };
        let row = serde_json::to_string(&row).map_err(|error| StoreError::Nonsense(error.to_string()))?;
        let lease = millis(lease).to_string();
        let hex = gateway.instance.to_string();
        let args = vec![bytes(&gateway.instance.0), row.into(), lease.into(), hex.into()];
        let answer = self.about_members(&self.scripts.join, vec![ROWS, LEASES], args).await?;
        let (now, stream, by): (String, String, String) = convert(answer)?;
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
        let answer = self.about_members(&self.scripts.renew, vec![ROWS, LEASES], args).await?;
        let (now, known): (String, String) = convert(answer)?;
        Ok(Renewed { now: StoreTime(number(&now)?), known: known == "1" })
    }

    async fn leave(&self, instance: Instance) -> Result<(), StoreError> {
        self.about_members(&self.scripts.leave, vec![LEASES], vec![bytes(&instance.0)]).await.map(drop)
    }

    async fn forget(&self, instance: Instance) -> Result<(), StoreError> {
        let _room = self.room(2)?;
        let pipeline = self.client.pipeline();
        for key in [ROWS, LEASES] {
            let queued: Result<(), Error> = pipeline.hdel(key, instance.0.as_slice()).await;
            queued.map_err(|error| store_error(&error))?;
        }
        for result in pipeline.try_all::<Value>().await {
            result.map_err(|error| store_error(&error))?;
        }
        Ok(())
    }

    async fn members(&self) -> Result<Roster, StoreError> {
        let answer = self.about_members(&self.scripts.members, vec![ROWS, LEASES], Vec::new()).await?;
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
            (edge_key(*bucket), halves.into_iter().chain(changes).collect())
        };
        let calls = by_bucket.iter().map(call).collect();
        let answers = self.scripts(&self.scripts.edges, calls).await?;
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
        let mut records = Vec::with_capacity(edges.len());
        for batch in edges.chunks(BATCH) {
            let _room = self.room(batch.len())?;
            if let [edge] = batch {
                let value: Result<Value, Error> =
                    self.client.hget(edge_key(edge_bucket(*edge)), edge.to_be_bytes().as_slice()).await;
                let value = value.map_err(|error| store_error(&error))?;
                records.push(value.as_bytes().and_then(EdgeRecord::decode));
                continue;
            }
            let pipeline = self.client.pipeline();
            for edge in batch {
                let queued: Result<(), Error> =
                    pipeline.hget(edge_key(edge_bucket(*edge)), edge.to_be_bytes().as_slice()).await;
                queued.map_err(|error| store_error(&error))?;
            }
            for result in pipeline.try_all::<Value>().await {
                let value = result.map_err(|error| store_error(&error))?;
                records.push(value.as_bytes().and_then(EdgeRecord::decode));
            }
        }
        Ok(records)
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
            (service_key(*bucket), changes.collect())
        };
        let calls = by_bucket.iter().map(call).collect();
        self.scripts(&self.scripts.services, calls).await.map(drop)
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
            (edge_key(*bucket), halves.into_iter().chain(who).chain(records).collect())
        };
        let answers = self.scripts(&self.scripts.replace, buckets.iter().map(call).collect()).await?;
        let mut outcomes = Vec::new();
        for (field, answer) in answers.into_iter().map(pairs).collect::<Result<Vec<_>, _>>()?.concat() {
            let edge = field.as_bytes().and_then(|field| field.try_into().ok());
            let edge = edge.map(u64::from_be_bytes).ok_or_else(|| nonsense("an ID that is none"))?;
            outcomes.push((edge, outcome(answer.as_bytes().unwrap_or_default())?));
        }
        Ok(outcomes)
    }

    async fn replace_services(
        &self,
        instance: Instance,
        stream: u32,
        buckets: &[(u16, Vec<(u64, ServiceRecord)>)],
    ) -> Result<(), StoreError> {
        let call = |(bucket, services): &(u16, Vec<(u64, ServiceRecord)>)| {
            let who = [bytes(&instance.0), stream.to_string().into()];
            let records = services
                .iter()
                .flat_map(|(service, record)| [service_field(*service, instance), bytes(&record.encode())]);
            (service_key(*bucket), who.into_iter().chain(records).collect())
        };
        let calls = buckets.iter().map(call).collect();
        self.scripts(&self.scripts.replace_services, calls).await.map(drop)
    }

    async fn leave_cuts(&self, instance: Instance, cuts: &[Cut]) -> Result<(), StoreError> {
        let limits = [CUTS.to_string().into(), CUTS_SECONDS.to_string().into()];
        let args = limits.into_iter().chain(cuts.iter().map(|cut| bytes(&cut.encode()))).collect();
        self.scripts(&self.scripts.leave_cuts, vec![(cuts_key(instance), args)]).await.map(drop)
    }

    async fn take_cuts(&self, instance: Instance) -> Result<Vec<Cut>, StoreError> {
        let answers = self.scripts(&self.scripts.take_cuts, vec![(cuts_key(instance), Vec::new())]).await?;
        let cuts = answers.into_iter().flat_map(Value::into_array);
        Ok(cuts.filter_map(|cut| Cut::decode(cut.as_bytes()?)).collect())
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
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

// === impl Scripts ===

impl Scripts {
    fn new() -> Self {
        Self {
            edges: Script::from_lua(include_str!("redis/edges.lua")),
            services: Script::from_lua(include_str!("redis/services.lua")),
            replace: Script::from_lua(include_str!("redis/replace.lua")),
            replace_services: Script::from_lua(include_str!("redis/replace_services.lua")),
            leave_cuts: Script::from_lua(include_str!("redis/leave_cuts.lua")),
            take_cuts: Script::from_lua(include_str!("redis/take_cuts.lua")),
            tidy: Script::from_lua(include_str!("redis/tidy.lua")),
            join: Script::from_lua(include_str!("redis/join.lua")),
            renew: Script::from_lua(include_str!("redis/renew.lua")),
            leave: Script::from_lua(include_str!("redis/leave.lua")),
            members: Script::from_lua(include_str!("redis/members.lua")),
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

fn edge_key(bucket: u16) -> String {
    format!("fr:e:{{{}}}", bucket % EDGE_BUCKETS)
}

fn service_key(bucket: u16) -> String {
    format!("fr:s:{{{}}}", bucket % SERVICE_BUCKETS)
}

fn cuts_key(instance: Instance) -> String {
    format!("fr:c:{{{instance}}}")
}

fn service_field(service: u64, instance: Instance) -> Value {
    bytes(&[service.to_be_bytes().as_slice(), &instance.0].concat())
}

/// What a change of this key is a change of.
fn change(key: &str) -> Change {
    let bucket = |rest: &str| rest.strip_prefix('{')?.strip_suffix('}')?.parse().ok();
    match key.strip_prefix(PREFIX) {
        Some(rest) if rest.starts_with("{g}") => Change::Members,
        Some(rest) => {
            let bucket = |kind| rest.strip_prefix(kind).and_then(bucket);
            let edges = || bucket("e:").filter(|bucket| *bucket < EDGE_BUCKETS).map(Change::Edges);
            let services = || bucket("s:").filter(|bucket| *bucket < SERVICE_BUCKETS).map(Change::Services);
            let cuts = || Instance::parse(rest.strip_prefix("c:{")?.strip_suffix('}')?).map(Change::Cuts);
            edges().or_else(services).or_else(cuts).unwrap_or(Change::Everything)
        }
        None => Change::Everything,
    }
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

fn is_unknown_script(result: &Result<Value, Error>) -> bool {
    result.as_ref().is_err_and(|error| error.details().starts_with("NOSCRIPT"))
}

/// What an error of the client means to us.
fn store_error(error: &Error) -> StoreError {
    let details = error.details();
    let starts = |words: &[&str]| words.iter().any(|word| details.starts_with(word));
    match error.kind() {
        ErrorKind::Auth => StoreError::Denied(details.to_owned()),
        _ if starts(&["NOAUTH", "WRONGPASS", "NOPERM", "ERR invalid password"]) => {
            StoreError::Denied(details.to_owned())
        }
        _ if starts(&["OOM", "READONLY", "MISCONF", "NOREPLICAS"]) => {
            StoreError::ReadOnly(details.to_owned())
        }
        ErrorKind::Backpressure => StoreError::Busy,
        ErrorKind::IO
        | ErrorKind::Timeout
        | ErrorKind::Canceled
        | ErrorKind::Cluster
        | ErrorKind::Sentinel
        | ErrorKind::Routing
        | ErrorKind::Tls => StoreError::Unreachable(error.to_string()),
        _ => StoreError::Nonsense(error.to_string()),
    }
}
