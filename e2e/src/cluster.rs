//! A whole cluster of processes: Redis, instances of atlas, gateways, and a fleet of edges and services that use it all the time.
//!
//! ```text
//!  edges ──▶ gateways ──(proxy)──▶ atlas ──(proxy)──▶ Redis
//!  services ──▶ all gateways, and atlas
//! ```
//! - [`Cluster`] starts and ends the processes, each on the ports it had, and knows when what atlas says is what is.
//! - [`fleet`]: who uses it. [`ledger`]: the books of what they asked of each other.

pub mod fleet;
pub mod ledger;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use frontier_ops::testing::free_port;
use rustix::process::Signal;
use serde_json::{Value, json};

use self::{
    fleet::Fleet,
    ledger::{Counts, Ledger},
};
use crate::{
    frontlas::{self, Frontlas},
    gateway::{self, Gateway},
    http,
    proxy::Proxy,
    redis::{Nodes, Redis, Watched, sentinel::MASTER},
    wait::{SOON, until},
};

/// Within which everything is right again after a fault is over.
pub const HEALED: Duration = Duration::from_secs(5);
/// After which the wait for that is given up, to tell how it is then.
const GIVEN_UP: Duration = Duration::from_secs(20);
/// What all gateways share.
const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

/// Where the state of the cluster is.
#[derive(Debug)]
pub enum Store {
    /// One server.
    One(Redis),
    /// A master that sentinels watch.
    Watched(Watched),
    /// A Redis Cluster.
    Nodes(Nodes),
}

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Instances of atlas.
    pub atlases: usize,
    /// Gateways.
    pub gateways: usize,
    /// Edges, spread over the gateways.
    pub edges: usize,
    /// Services.
    pub services: usize,
    /// Environment of the instances of atlas, and of the first gateway.
    pub envs: [Vec<(String, String)>; 2],
    /// Whether edges and services come to gateways through [`Door`]s.
    pub doors: bool,
}

/// How edges and services come to a gateway that hears of their silence soon.
#[derive(Debug)]
pub struct Door {
    /// The way of edges.
    pub edges: Proxy,
    /// The way of services.
    pub services: Proxy,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they go: whoever asks goes first.
    /// Who uses it.
    pub fleet: Fleet,
    /// What they asked.
    pub ledger: Arc<Ledger>,
    gateways: Vec<Option<Gateway>>,
    gateway_configs: Vec<gateway::Config>,
    atlases: Vec<Option<Frontlas>>,
    atlas_configs: Vec<frontlas::Config>,
    /// From each gateway to each atlas.
    links: Vec<Vec<Proxy>>,
    /// To each gateway, if planned so.
    doors: Vec<Door>,
    /// From each atlas to Redis, if that is one server.
    ways: Vec<Proxy>,
    /// Where the state is.
    pub store: Store,
    edges_at: Vec<SocketAddr>,
}

/// An edge, as atlas and as the fleet have it: its gateway, and the epoch of its session.
type Seats = BTreeMap<u64, (String, u64)>;

// === impl Plan ===

impl Default for Plan {
    fn default() -> Self {
        Self { atlases: 2, gateways: 3, edges: 30, services: 2, envs: [Vec::new(), Vec::new()], doors: false }
    }
}

// === impl Store ===

impl Store {
    /// What atlas needs to know of it; `way` leads to a single server.
    fn configure(&self, config: frontlas::Config, way: Option<&Proxy>) -> frontlas::Config {
        match self {
            Self::One(redis) => {
                let addr = way.map_or_else(|| redis.addr(), Proxy::addr);
                config.set("redis.mode", "standalone").set("redis.standalone.addr", addr.to_string())
            }
            Self::Watched(watched) => config
                .set("redis.mode", "sentinel")
                .set("redis.sentinel", json!({"addrs": watched.sentinels(), "master_name": MASTER})),
            Self::Nodes(nodes) => {
                let addrs: Vec<String> = nodes.addrs().iter().take(3).map(ToString::to_string).collect();
                config.set("redis.mode", "cluster").set("redis.cluster", json!({"addrs": addrs}))
            }
        }
    }

    /// The server that has a key: of a Redis Cluster whoever is responsible for its slot.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn ask(&self, words: &[&[u8]]) -> anyhow::Result<String> {
        match self {
            Self::One(redis) => redis.ask(words),
            Self::Watched(watched) => {
                let master = watched.master().and_then(|at| watched.data.get(at));
                master.context("no master")?.ask(words)
            }
            Self::Nodes(nodes) => {
                let mut last = None;
                for node in nodes.masters() {
                    match node.ask(words) {
                        Ok(answer) => return Ok(answer),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.context("no master")?)
            }
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts all of it and waits until it is whole.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn start(store: Store, plan: &Plan) -> anyhow::Result<Self> {
        let ledger = Arc::new(Ledger::default());
        let mut cluster = Self {
            fleet: Fleet::new(Arc::clone(&ledger))?,
            ledger,
            gateways: Vec::new(),
            gateway_configs: Vec::new(),
            atlases: Vec::new(),
            atlas_configs: Vec::new(),
            links: Vec::new(),
            doors: Vec::new(),
            ways: Vec::new(),
            store,
            edges_at: Vec::new(),
        };
        let [atlas_envs, gateway_envs] = &plan.envs;
        for _ in 0..plan.atlases {
            cluster.add_atlas(atlas_envs)?;
        }
        for at in 0..plan.gateways {
            cluster.add_gateway(if at == 0 { gateway_envs } else { &[] }, plan.doors)?;
        }
        let atlases = cluster.atlases_at();
        for _ in 0..plan.services {
            cluster.fleet.add_service(&atlases)?;
        }
        for at in 0..plan.edges {
            cluster.add_edge(at)?;
        }
        cluster.whole(Instant::now(), GIVEN_UP).context("at the start")?;
        Ok(cluster)
    }

    fn add_atlas(&mut self, envs: &[(String, String)]) -> anyhow::Result<()> {
        if let Store::One(redis) = &self.store {
            self.ways.push(Proxy::start(redis.addr())?);
        }
        let config = frontlas::Config::new().set("drain.seconds", 5).set("redis.max_retry_backoff", "500ms");
        let config = self.store.configure(config, self.ways.last());
        let config = envs.iter().fold(config, |config, (name, value)| config.env(name, value));
        let atlas = Frontlas::start(&config)?;
        let at = [
            ("control_plane.listen.addr", atlas.api()),
            ("frontier_plane.listen.addr", atlas.gateways()),
            ("observability.addr", atlas.admin()),
        ];
        // Started again, it is where it was.
        let config = at.into_iter().fold(config, |config, (key, addr)| config.set(key, addr.to_string()));
        self.atlas_configs.push(config);
        self.atlases.push(Some(atlas));
        Ok(())
    }

    fn add_gateway(&mut self, envs: &[(String, String)], doors: bool) -> anyhow::Result<()> {
        let links = self
            .atlases
            .iter()
            .flatten()
            .map(|atlas| Proxy::start(atlas.gateways()))
            .collect::<Result<Vec<_>, _>>()?;
        let addrs: Vec<String> = links.iter().map(|link| link.addr().to_string()).collect();
        let config = gateway::Config::new()
            .shards(1)
            .set("identity.key", KEY)
            .set("daemon.frontier_id", name(self.gateways.len()))
            .set("frontlas", json!({"enable": true, "dial": {"addrs": addrs}}))
            .set("drain", json!({"accept_for": "300ms", "seconds": 15}));
        let config = if doors { self.add_door(config)? } else { config };
        let config = envs.iter().fold(config, |config, (name, value)| config.env(name, value));
        let gateway = Gateway::start(&config)?;
        let at = [
            ("edgebound.listen.addr", gateway.edges()),
            ("servicebound.listen.addr", gateway.services()),
            ("controlplane.listen.addr", gateway.control()?),
            ("observability.addr", gateway.admin()?),
        ];
        let config = at.into_iter().fold(config, |config, (key, addr)| config.set(key, addr.to_string()));
        self.gateway_configs.push(config);
        let door = doors.then(|| self.doors.last()).flatten();
        self.edges_at.push(door.map_or_else(|| gateway.edges(), |door| door.edges.addr()));
        self.gateways.push(Some(gateway));
        self.links.push(links);
        Ok(())
    }

    /// The gateway tells everybody to come through a door.
    fn add_door(&mut self, config: gateway::Config) -> anyhow::Result<gateway::Config> {
        let (edges, services) = (free_port()?, free_port()?);
        let door = Door { edges: Proxy::start(edges)?, services: Proxy::start(services)? };
        let config = config
            .set("edgebound.listen.addr", edges.to_string())
            .set("edgebound.listen.advertised_addr", door.edges.addr().to_string())
            .set("servicebound.listen.addr", services.to_string())
            .set("servicebound.listen.advertised_addr", door.services.addr().to_string())
            .set("limits.heartbeat", "2s");
        self.doors.push(door);
        Ok(config)
    }

    /// The ways of edges and services to a gateway.
    ///
    /// # Errors
    /// When the plan has none.
    pub fn door(&self, gateway: usize) -> anyhow::Result<&Door> {
        self.doors.get(gateway).context("no door")
    }

    /// An edge that comes to this gateway, counted in a circle.
    ///
    /// # Errors
    /// When it is not welcome.
    pub fn add_edge(&self, gateway: usize) -> anyhow::Result<u64> {
        self.fleet.add_edge(&self.order(gateway))
    }

    /// Addresses for edges, this gateway's first.
    #[must_use]
    pub fn order(&self, gateway: usize) -> Vec<SocketAddr> {
        let mut order = self.edges_at.clone();
        order.rotate_left(gateway % self.edges_at.len().max(1));
        order
    }

    /// Some edges leave and as many come.
    ///
    /// # Errors
    /// When they cannot.
    pub fn churn(&self, edges: usize) -> anyhow::Result<()> {
        for edge in self.fleet.edges().into_iter().take(edges) {
            self.fleet.remove_edge(edge)?;
        }
        // Those whose gateway is away go to the next one.
        (0..edges).try_for_each(|at| self.add_edge(at).map(drop))
    }

    /// An atlas that runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn atlas(&self, at: usize) -> anyhow::Result<&Frontlas> {
        self.atlases.get(at).and_then(Option::as_ref).context("this atlas is not running")
    }

    /// A gateway that runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn gateway(&self, at: usize) -> anyhow::Result<&Gateway> {
        self.gateways.get(at).and_then(Option::as_ref).context("this gateway is not running")
    }

    fn atlases_at(&self) -> Vec<SocketAddr> {
        self.atlases.iter().flatten().map(Frontlas::api).collect()
    }

    /// Kills an atlas with SIGKILL.
    pub fn kill_atlas(&mut self, at: usize) {
        self.atlases.get_mut(at).and_then(Option::take);
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_atlas(&mut self, at: usize) -> anyhow::Result<()> {
        let config = self.atlas_configs.get(at).context("no such atlas")?;
        let atlas = persist(|| Frontlas::start(config))?;
        *self.atlases.get_mut(at).context("no such atlas")? = Some(atlas);
        Ok(())
    }

    /// Kills a gateway with SIGKILL; whoever was there is troubled.
    ///
    /// # Errors
    /// When nobody knows who was there.
    pub fn kill_gateway(&mut self, at: usize) -> anyhow::Result<()> {
        let there = self.edges_of(at)?;
        self.ledger.trouble(there);
        self.gateways.get_mut(at).and_then(Option::take);
        Ok(())
    }

    /// Has a gateway drain, to its end.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn drain_gateway(&mut self, at: usize) -> anyhow::Result<()> {
        let mut gateway = self.gateways.get_mut(at).and_then(Option::take).context("no such gateway")?;
        gateway.signal(Signal::TERM)?;
        let status = gateway.wait_exit(SOON)?;
        ensure!(status.success(), "{status:?}; {}", gateway.log().tail());
        Ok(())
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_gateway(&mut self, at: usize) -> anyhow::Result<()> {
        let config = self.gateway_configs.get(at).context("no such gateway")?;
        let gateway = persist(|| Gateway::start(config))?;
        *self.gateways.get_mut(at).context("no such gateway")? = Some(gateway);
        Ok(())
    }

    /// The ways from a gateway to atlas.
    #[must_use]
    pub fn links(&self, gateway: usize) -> &[Proxy] {
        self.links.get(gateway).map_or(&[], Vec::as_slice)
    }

    /// The way from an atlas to its Redis.
    ///
    /// # Errors
    /// When that is not one server.
    pub fn way(&self, atlas: usize) -> anyhow::Result<&Proxy> {
        self.ways.get(atlas).context("no way to a single Redis")
    }

    fn living(&self) -> impl Iterator<Item = (usize, &Gateway)> {
        self.gateways.iter().enumerate().filter_map(|(at, gateway)| Some((at, gateway.as_ref()?)))
    }

    /// The edges of a gateway, as it says itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn edges_of(&self, at: usize) -> anyhow::Result<Vec<u64>> {
        let list = get(self.gateway(at)?.control()?, "/v1/edges?page_size=1000")?;
        list["edges"].as_array().context("edges")?.iter().map(|edge| number(&edge["edge_id"])).collect()
    }

    /// Where every edge is, as the edges and the gateways say.
    fn seats(&self) -> anyhow::Result<Seats> {
        let epochs = self.fleet.epochs()?;
        let mut seats = Seats::new();
        for (at, _) in self.living() {
            for edge in self.edges_of(at)? {
                let epoch =
                    epochs.get(&edge).with_context(|| format!("{} has dead edge {edge}", name(at)))?;
                let other = seats.insert(edge, (name(at), *epoch));
                ensure!(other.is_none(), "edge {edge} is at {} and at {other:?}", name(at));
            }
        }
        let lost = epochs.keys().find(|edge| !seats.contains_key(edge));
        ensure!(lost.is_none(), "edge {lost:?} is at no gateway");
        Ok(seats)
    }

    /// Whether what an atlas says is what is.
    fn agrees(&self, atlas: &Frontlas, seats: &Seats) -> anyhow::Result<()> {
        let api = atlas.api();
        let mut told = Seats::new();
        let mut cursor = 0;
        loop {
            let page = get(api, &format!("/cluster/v1/edges?cursor={cursor}&count=500"))?;
            for edge in page["edges"].as_array().context("edges")? {
                let at = edge["frontierId"].as_str().context("frontierId")?.to_owned();
                told.insert(number(&edge["edgeId"])?, (at, number(&edge["epoch"])?));
            }
            cursor = page["cursor"].as_u64().unwrap_or(0);
            if cursor == 0 {
                break;
            }
        }
        for (edge, seat) in seats {
            ensure!(told.get(edge) == Some(seat), "edge {edge} is {seat:?}, atlas says {:?}", told.get(edge));
        }
        let dead = told.keys().find(|edge| !seats.contains_key(edge));
        ensure!(dead.is_none(), "edge {dead:?} is gone, and atlas has it");
        let names = |list: &Value, field: &str, key: &str| -> anyhow::Result<Vec<String>> {
            let list = list[field].as_array().with_context(|| field.to_owned())?;
            Ok(list.iter().filter_map(|item| item[key].as_str().map(str::to_owned)).collect())
        };
        let living: BTreeSet<String> = self.living().map(|(at, _)| name(at)).collect();
        let gateways = names(&get(api, "/cluster/v1/frontiers")?, "frontiers", "frontierId")?;
        ensure!(gateways.iter().cloned().collect::<BTreeSet<_>>() == living, "gateways: {gateways:?}");
        let services = names(&get(api, "/cluster/v1/services?count=1000")?, "services", "service")?;
        let wanted = self.fleet.services() * living.len();
        ensure!(services.len() == wanted, "{} instances of services, not {wanted}", services.len());
        for (path, wanted) in [("edges", seats.len()), ("services", wanted)] {
            let count = number(&get(api, &format!("/cluster/v1/{path}/count"))?["count"])?;
            ensure!(count == wanted as u64, "{count} {path} are counted, {wanted} there are");
        }
        Ok(())
    }

    fn look(&self) -> anyhow::Result<()> {
        let seats = self.seats()?;
        self.fleet.services_have(self.living().count())?;
        for (at, atlas) in self.atlases.iter().enumerate() {
            if let Some(atlas) = atlas {
                self.agrees(atlas, &seats).with_context(|| format!("atlas {at}"))?;
            }
        }
        Ok(())
    }

    /// Waits until every connected edge is where atlas says, nobody else is found, every count is true and every service reaches every
    /// edge. Returns how long that took since then, or since the last edge was connected again if that was later.
    ///
    /// # Errors
    /// When it takes longer than that; with how long it took and what was not right last.
    pub fn whole(&self, since: Instant, within: Duration) -> anyhow::Result<Duration> {
        let mut from = since;
        let mut last = None;
        let healed = until("a whole cluster", GIVEN_UP, || {
            if self.fleet.epochs().is_err() {
                from = Instant::now();
            }
            match self.look() {
                Ok(()) => Some(Instant::now()),
                Err(error) => {
                    last = Some(format!("{error:#}"));
                    None
                }
            }
        });
        let Ok(at) = healed else {
            bail!(
                "{} s after the fault: {}\n{}",
                since.elapsed().as_secs(),
                last.unwrap_or_default(),
                self.logs()
            );
        };
        self.fleet.call_everybody()?;
        self.ledger.calm(&self.fleet.gone());
        let took = at.saturating_duration_since(from);
        ensure!(took <= within, "right again after {took:?}; last wrong: {last:?}");
        Ok(took)
    }

    /// The end: nobody asks any more, and the books are compared.
    ///
    /// # Errors
    /// With what is wrong in them.
    pub fn settle(&self) -> anyhow::Result<Counts> {
        self.fleet.hush()?;
        let (counts, settled) = self.ledger.settle();
        settled.map_err(|faults| anyhow::anyhow!("{counts}\n  {faults}\n{}", self.logs()))?;
        Ok(counts)
    }

    /// What the processes said last.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (at, atlas) in self.atlases.iter().enumerate() {
            text += &format!(
                "atlas {at}: {}\n",
                atlas.as_ref().map(|atlas| atlas.log().tail()).unwrap_or_default()
            );
        }
        for (at, gateway) in self.living() {
            text += &format!("{}: {}\n", name(at), gateway.log().tail());
        }
        text
    }
}

/// The name of a gateway.
#[must_use]
pub fn name(at: usize) -> String {
    format!("g{at}")
}

/// A port may be somebody's for a moment, as the near end of a connection.
fn persist<T>(mut start: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut last = None;
    let started =
        until("a start at the same ports", SOON, || start().map_err(|error| last = Some(error)).ok());
    started.map_err(|error| last.take().unwrap_or(error))
}

/// GET of JSON.
///
/// # Errors
/// When the answer is none.
pub fn get(addr: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let answer = http::get(addr, path)?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    Ok(serde_json::from_str(&answer.body)?)
}

fn number(value: &Value) -> anyhow::Result<u64> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.with_context(|| format!("{value} is no number"))
}
