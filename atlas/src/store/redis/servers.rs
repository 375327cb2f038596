//! Which server gets a call: the only one, or in a Redis Cluster the one that has the slot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fred::prelude::{Error, Value};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::call::{Call, Script};
use super::errors::{Redirect, is_read_only, is_unknown_script, redirect, store_error};
use super::keys::{SLOTS, bucket_in, probe_key};
use super::link::{Link, Role};
use super::node::{Finder, Node};
use super::sentinel::Sentinels;
use super::settings::{Address, Mode};
use crate::store::StoreError;

/// How often a call is sent on before we give up.
const ROUNDS: usize = 16;
/// Before a call is repeated whose keys are at two servers for now.
const LATER: Duration = Duration::from_millis(5);
/// Between two looks at who has which slot, when nothing says that they moved.
const REFRESH: Duration = Duration::from_secs(10);
/// The same while a server is away, or slots have none.
const REFRESH_SOON: Duration = Duration::from_millis(250);
/// At least between two looks, however many redirections there are.
const REFRESH_LEAST: Duration = Duration::from_millis(100);
/// A server without slots is left after this long: one that is about to get some has none yet.
const UNUSED: Duration = Duration::from_secs(60);

/// See the module documentation.
pub(super) enum Servers {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// The servers of a Redis Cluster.
pub(super) struct Cluster {
    shared: Arc<Shared>,
    seeds: Vec<Address>,
    nodes: Mutex<BTreeMap<Address, Known>>,
    /// By slot.
    owners: RwLock<Vec<Option<Owner>>>,
    /// Why nobody could be asked for the slots.
    why: Mutex<StoreError>,
}

/// Who has a slot.
type Owner = (Address, Arc<Node>);

struct Known {
    node: Arc<Node>,
    used: Instant,
}

/// What a call has come to.
type Answer = Result<Value, StoreError>;

/// Who is asked next.
#[derive(Clone)]
struct Target {
    node: Arc<Node>,
    /// Where redirections without a host lead.
    host: String,
    asking: bool,
}

/// A server, and a bucket that it has.
type Holder = (Arc<Node>, Option<u16>);

// === impl Servers ===

impl Servers {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let one = |finder| Self::One(Arc::new(Node::start(Arc::clone(shared), finder, Some(0))));
        match &shared.settings.mode {
            Mode::Standalone { address } => one(Finder::At(address.clone())),
            Mode::Sentinel { sentinels, master, .. } => {
                one(Finder::Sentinels(Sentinels::new(sentinels.clone(), master.clone())))
            }
            Mode::Cluster { seeds } => Self::Cluster(Arc::new(Cluster {
                shared: Arc::clone(shared),
                seeds: seeds.clone(),
                nodes: Mutex::new(BTreeMap::new()),
                owners: RwLock::new(vec![None; usize::from(SLOTS)]),
                why: Mutex::new(StoreError::Unreachable("not connected yet".to_owned())),
            })),
        }
    }

    /// One call.
    pub(super) async fn call(&self, call: &Call) -> Answer {
        let link = self.target(call)?.node.link()?;
        match link.call(call).await {
            Ok(value) => Ok(value),
            Err(error)
                if redirect(&error).is_none() && !is_unknown_script(&error) && !is_read_only(&error) =>
            {
                Err(store_error(&error))
            }
            Err(_) => self.calls(std::slice::from_ref(call)).await.pop().unwrap_or_else(|| Err(lost())),
        }
    }

    /// Many calls, in their order.
    pub(super) async fn calls(&self, calls: &[Call]) -> Vec<Answer> {
        let deadline = Instant::now() + self.shared().settings.command_timeout;
        let mut answers: Vec<Option<Answer>> = calls.iter().map(|_| None).collect();
        let mut open: Vec<(usize, Option<Target>)> = (0..calls.len()).map(|at| (at, None)).collect();
        for round in 0..ROUNDS {
            let mut groups: HashMap<(usize, bool), (Target, Vec<usize>)> = HashMap::new();
            for (at, target) in open.drain(..) {
                match target.map_or_else(|| self.target(&calls[at]), Ok) {
                    Ok(target) => {
                        let group = (Arc::as_ptr(&target.node).addr(), target.asking);
                        groups.entry(group).or_insert_with(|| (target, Vec::new())).1.push(at);
                    }
                    Err(error) => answers[at] = Some(Err(error)),
                }
            }
            let asked = groups.into_values().map(async |(target, group)| {
                let calls: Vec<&Call> = group.iter().map(|at| &calls[*at]).collect();
                let answers = ask(&target, &calls, (round > 0).then_some(deadline)).await;
                (target, group, answers)
            });
            let mut later = false;
            for (target, group, group_answers) in join_all(asked).await {
                for (at, answer) in group.into_iter().zip(group_answers) {
                    let error = match answer {
                        Ok(Ok(value)) => {
                            answers[at] = Some(Ok(value));
                            continue;
                        }
                        Ok(Err(error)) => error,
                        Err(error) => {
                            answers[at] = Some(Err(error));
                            continue;
                        }
                    };
                    answers[at] = Some(Err(store_error(&error)));
                    if is_read_only(&error) {
                        target.node.suspect();
                        self.shared().refresh.notify_one();
                    }
                    if let (Self::Cluster(cluster), Some(way)) = (self, redirect(&error)) {
                        later |= way == Redirect::Later;
                        open.push((at, cluster.redirected(way, &target)));
                    }
                }
            }
            if open.is_empty() || Instant::now() >= deadline {
                break;
            }
            if later {
                sleep(LATER).await;
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost()))).collect()
    }

    /// Single fields of many hashes, in one command where one server has them all.
    pub(super) async fn find(&self, mut fields: Vec<(String, Value)>) -> Vec<Answer> {
        let call = |(key, field)| Call::command("HGET", key, vec![field]);
        if fields.len() <= 1 {
            let Some(field) = fields.pop() else { return Vec::new() };
            return vec![self.call(&call(field)).await];
        }
        if let Self::Cluster(_) = self {
            let calls: Vec<Call> = fields.into_iter().map(call).collect();
            return self.calls(&calls).await;
        }
        let count = fields.len();
        let (keys, fields) = fields.into_iter().unzip();
        match self.call(&Call::script(Script::Find, keys, fields)).await {
            Ok(Value::Array(found)) if found.len() == count => found.into_iter().map(Ok).collect(),
            Ok(_) => vec![Err(StoreError::Nonsense("not one answer for each".to_owned())); count],
            Err(error) => vec![Err(error); count],
        }
    }

    /// Whether all servers that hold something answer, and take writes.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let nodes = match self {
            Self::One(node) => vec![(Arc::clone(node), Some(0))],
            Self::Cluster(cluster) => cluster.all_owners()?,
        };
        let ping = async |(node, bucket): Holder| {
            let link = node.link()?;
            link.plain("PING", Vec::new()).await.map_err(|error| store_error(&error))?;
            let Some(bucket) = bucket else { return Ok(()) };
            let probe = Call::script(Script::Probe, vec![probe_key(bucket, 0)], Vec::new());
            match link.call(&probe).await.map_err(|error| store_error(&error)) {
                Err(StoreError::ReadOnly(why)) => Err(StoreError::ReadOnly(why)),
                // It answers; that a slot has moved, or that it has no scripts yet, is seen to elsewhere.
                Ok(_) | Err(_) => Ok(()),
            }
        };
        join_all(nodes.into_iter().map(ping)).await.into_iter().collect()
    }

    fn target(&self, call: &Call) -> Result<Target, StoreError> {
        match self {
            Self::One(node) => Ok(Target { node: Arc::clone(node), host: String::new(), asking: false }),
            Self::Cluster(cluster) => cluster.owner(call.slot),
        }
    }

    fn shared(&self) -> &Shared {
        match self {
            Self::One(node) => node.shared(),
            Self::Cluster(cluster) => &cluster.shared,
        }
    }
}

/// What one server answers; `wait` is for a server that we were sent to and may just have met.
async fn ask(
    target: &Target,
    calls: &[&Call],
    wait: Option<Instant>,
) -> Vec<Result<Result<Value, Error>, StoreError>> {
    let link = match wait {
        Some(until) => target.node.wait(until).await,
        None => target.node.link(),
    };
    match link {
        Ok(link) => link.calls_with_scripts(calls, target.asking).await.into_iter().map(Ok).collect(),
        Err(error) => calls.iter().map(|_| Err(error.clone())).collect(),
    }
}

// === impl Cluster ===

impl Cluster {
    fn owner(&self, slot: u16) -> Result<Target, StoreError> {
        let owners = self.owners.read();
        let owner = owners.get(usize::from(slot)).and_then(Option::as_ref);
        let (address, node) = owner.ok_or_else(|| self.why.lock().clone())?;
        Ok(Target { node: Arc::clone(node), host: address.host.clone(), asking: false })
    }

    /// Each with a bucket that it has.
    fn all_owners(&self) -> Result<Vec<Holder>, StoreError> {
        let owners = self.owners.read();
        let mut nodes = BTreeMap::new();
        for (slot, owner) in (0..SLOTS).zip(owners.iter()) {
            let (address, node) = owner.as_ref().ok_or_else(|| self.why.lock().clone())?;
            let (_, bucket) = nodes.entry(address).or_insert_with(|| (Arc::clone(node), None));
            *bucket = bucket.or_else(|| bucket_in([slot]));
        }
        Ok(nodes.into_values().collect())
    }

    /// Where to ask instead; `None`: whoever has the slot.
    fn redirected(&self, way: Redirect, from: &Target) -> Option<Target> {
        self.shared.count(|counters| &counters.redirected);
        let address = |server: &str| {
            // Without a host it is another port of the same one.
            let server =
                if server.starts_with(':') { format!("{}{server}", from.host) } else { server.to_owned() };
            server.parse::<Address>().ok()
        };
        match way {
            Redirect::Moved(slot, server) => {
                self.shared.refresh.notify_one();
                let address = address(&server)?;
                let node = self.node(&address);
                if let Some(owner) = self.owners.write().get_mut(usize::from(slot)) {
                    *owner = Some((address, node));
                }
                None
            }
            Redirect::Ask(server) => {
                let address = address(&server)?;
                Some(Target { node: self.node(&address), host: address.host, asking: true })
            }
            Redirect::Later => None,
        }
    }

    fn node(&self, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        let known = nodes.entry(address.clone()).or_insert_with(|| Known {
            node: Arc::new(Node::start(Arc::clone(&self.shared), Finder::At(address.clone()), None)),
            used: Instant::now(),
        });
        known.used = Instant::now();
        Arc::clone(&known.node)
    }

    /// Follows the slots, for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            let asked = Instant::now();
            match self.slots().await {
                Ok(slots) => self.take(slots),
                Err(error) => *self.why.lock() = error,
            }
            let whole =
                self.all_owners().is_ok_and(|nodes| nodes.iter().all(|(node, _)| node.link().is_ok()));
            let next = if whole { REFRESH } else { REFRESH_SOON };
            let _ = timeout(next, self.shared.refresh.notified()).await;
            tokio::time::sleep_until(asked + REFRESH_LEAST).await;
        }
    }

    /// Asks a server that we know, or else one that we were told of at first.
    async fn slots(&self) -> Result<Vec<(Address, u16, u16)>, StoreError> {
        let known: Vec<(Address, Arc<Node>)> = {
            let nodes = self.nodes.lock();
            nodes.iter().map(|(address, known)| (address.clone(), Arc::clone(&known.node))).collect()
        };
        let mut why = StoreError::Unreachable("no server of the cluster is known".to_owned());
        for (address, node) in known {
            let Ok(link) = node.link() else { continue };
            match slots_by(&link, &address).await {
                Ok(slots) => return Ok(slots),
                Err(error) => why = error,
            }
        }
        for seed in &self.seeds {
            let asked = async {
                let (link, _) = Link::open(&self.shared.settings, seed, Role::Data).await?;
                slots_by(&link, seed).await
            };
            match asked.await {
                Ok(slots) => return Ok(slots),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn take(&self, slots: Vec<(Address, u16, u16)>) {
        let mut owners: Vec<Option<Owner>> = vec![None; usize::from(SLOTS)];
        let mut ranges: BTreeMap<Address, Vec<u16>> = BTreeMap::new();
        for (address, first, last) in slots {
            let node = self.node(&address);
            for slot in first..=last {
                if let Some(owner) = owners.get_mut(usize::from(slot)) {
                    *owner = Some((address.clone(), Arc::clone(&node)));
                }
            }
            ranges.entry(address).or_default().extend(first..=last);
        }
        *self.owners.write() = owners;
        let mut nodes = self.nodes.lock();
        for (address, known) in nodes.iter() {
            known.node.mark_beside(bucket_in(ranges.get(address).into_iter().flatten().copied()));
        }
        nodes.retain(|address, known| ranges.contains_key(address) || known.used.elapsed() < UNUSED);
    }
}

/// Which server has which slots, as this one sees it.
async fn slots_by(link: &Link, address: &Address) -> Result<Vec<(Address, u16, u16)>, StoreError> {
    let answer = link.plain("CLUSTER", vec!["SLOTS".into()]).await.map_err(|error| store_error(&error))?;
    let slots = read_slots(answer, &address.host)
        .ok_or_else(|| StoreError::Nonsense("something that is no list of slots".to_owned()))?;
    if slots.is_empty() {
        return Err(StoreError::Unreachable(format!("{address} has no slots: is it part of a cluster?")));
    }
    Ok(slots)
}

fn read_slots(answer: Value, host: &str) -> Option<Vec<(Address, u16, u16)>> {
    let range = |range: Value| {
        let mut parts = range.into_array().into_iter();
        let mut number = || parts.next()?.as_u64().and_then(|number| u16::try_from(number).ok());
        let (first, last) = (number()?, number()?);
        let mut master = parts.next()?.into_array().into_iter();
        let name = master.next()?;
        let name = name.as_string().filter(|name| !name.is_empty() && name != "?");
        let port = master.next()?.as_u64().and_then(|port| u16::try_from(port).ok())?;
        let right = first <= last && last < SLOTS;
        right.then(|| (Address::new(name.unwrap_or_else(|| host.to_owned()), port), first, last))
    };
    answer.into_array().into_iter().map(range).collect()
}

fn lost() -> StoreError {
    StoreError::Unreachable("sent from one server to another too often".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(values: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(values.into_iter().collect())
    }

    #[test]
    fn slots_are_read_and_what_is_none_is_refused() {
        let range = |first: i64, last: i64, host: Value| {
            let master = list([host, 7_000.into(), "id".into()]);
            let replica = list(["10.0.0.9".into(), 7_001.into(), "id".into()]);
            list([first.into(), last.into(), master, replica])
        };
        let answer = list([range(0, 9, "10.0.0.1".into()), range(10, 16_383, "".into())]);
        let slots = read_slots(answer, "seed").unwrap();
        assert_eq!(
            slots,
            [(Address::new("10.0.0.1", 7_000), 0, 9), (Address::new("seed", 7_000), 10, 16_383)]
        );
        let unknown = read_slots(list([range(0, 1, Value::Null)]), "seed").unwrap();
        assert_eq!(unknown[0].0, Address::new("seed", 7_000));
        for (first, last) in [(9, 0), (0, 16_384), (-1, 5), (0, 70_000)] {
            assert_eq!(read_slots(list([range(first, last, "h".into())]), "seed"), None, "{first}-{last}");
        }
        for wrong in [list(["x".into()]), list([list([1.into(), 2.into()])]), "x".into()] {
            assert_eq!(read_slots(wrong, "seed"), None);
        }
    }
}
