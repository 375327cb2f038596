//! The gateway's configuration: `frontier.yaml`, the environment and the command line, checked as one.
//!
//! [`load`] reads a file into a tree, asks the tree for every key there is ([`frontier_ops::config`]), lays environment and flags over
//! it and checks the whole. Everything wrong is reported at once ([`Problems`]), with the line it stands on. A file
//! written for the Go system works as it is: misspelt keys act as what they meant, keys without effect warn, and any
//! other unknown key is refused with the nearest known one named.
//!
//! With no file at all the gateway serves edges on 0.0.0.0:30012, services on 0.0.0.0:30011 and the control plane on
//! 127.0.0.1:30010, and gives out edge IDs itself. A file begins from the Go system's defaults instead, where the last
//! two are off. `docs/configuration.md` describes every key; a test compares it with this module.

mod entrance;
mod limits;
mod load;

use std::{fmt, num::NonZero, path::PathBuf, sync::OnceLock, time::Duration};

use frontier_ops::config::{
    Dial, Known, Listen, ListenAddr, Log, Problems, RLimit, Secret, SecretSource,
    read::{FromNode, Section, scalar},
    serialize_duration,
};
use frontier_queues::config::{Mqm, QueueKind};
use serde::Serialize;

pub use self::{
    entrance::{Entrance, Protocol},
    limits::{Drain, Limits, default_memory},
    load::{Overrides, Sources, load},
};
use crate::{queues, sources, tokens};

/// Everything that can be set, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// `daemon`: the process.
    pub daemon: Daemon,
    /// `edgebound`: the port of edges.
    pub edgebound: Edgebound,
    /// `servicebound`: the port of services.
    pub servicebound: Servicebound,
    /// `controlplane`: the port of operators.
    pub controlplane: ControlPlane,
    /// `exchange`: how a service is picked for an edge.
    pub exchange: Exchange,
    /// `frontlas`: the cluster registry.
    pub frontlas: Frontlas,
    /// `mqm`: external message queues.
    pub mqm: Mqm,
    /// `observability`: the admin port.
    pub observability: Observability,
    /// `log`.
    pub log: Log,
    /// `limits`: what peers may use.
    pub limits: Limits,
    /// `drain`: from SIGTERM to the exit.
    pub drain: Drain,
    /// `auth`: who is admitted.
    pub auth: Auth,
    /// `identity`: what vouches for edge IDs.
    pub identity: Identity,
    /// `tls`: the work of handshakes.
    pub tls: TlsWork,
    /// `shards`: threads of the data plane; 0 = one less than there are cores.
    pub shards: usize,
}

/// `daemon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Daemon {
    /// Name in the cluster; `FRONTIER_ID` sets it, else `NODE_NAME` sets `frontier-<name>`.
    pub frontier_id: String,
    /// Open files.
    pub rlimit: RLimit,
}

/// `edgebound`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edgebound {
    /// Default tcp 0.0.0.0:30012.
    pub listen: Entrance,
    /// Give out an ID where no service offers `get_edge_id`. Default false with a file, true without.
    pub edgeid_alloc_when_no_idservice_on: bool,
    /// How long a new edge waits for a service that offers `get_edge_id` before the rule above applies. Default 0 s.
    #[serde(serialize_with = "serialize_duration")]
    pub wait_for_id_service: Duration,
    /// Pipe connections of unknown protocols to one of `bypass.addrs`. Default false.
    pub bypass_enable: bool,
    /// Where they are piped to.
    pub bypass: Dial,
}

/// `servicebound`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Servicebound {
    /// Default tcp 0.0.0.0:30011.
    pub listen: Entrance,
}

/// `controlplane`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ControlPlane {
    /// Default false with a file, true without.
    pub enable: bool,
    /// Default tcp 127.0.0.1:30010.
    pub listen: Listen,
    /// With it, kicks need `authorization: Bearer <token>`.
    pub kick_token: Option<SecretSource>,
}

/// `exchange`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Default edgeid.
    pub hashby: HashBy,
}

/// `exchange.hashby`: how one of several services is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// By the edge's ID: the same edge meets the same service.
    #[default]
    #[serde(rename = "edgeid")]
    EdgeId,
    /// By the edge's IP address.
    #[serde(rename = "srcip")]
    SrcIp,
    /// Evenly.
    Random,
    /// The one with the fewest unanswered calls.
    LeastInFlight,
}

/// `frontlas`: the registry of a cluster, atlas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Frontlas {
    /// Report to the registry. Default false.
    pub enable: bool,
    /// Its addresses; `FRONTLAS_ADDR` sets one and enables the block.
    pub dial: Dial,
}

/// `observability`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observability {
    /// Default 0.0.0.0:9091.
    pub addr: ListenAddr,
}

/// `auth`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Auth {
    /// File of token hashes and certificate subjects; `None` = everybody is admitted.
    pub tokens: Option<PathBuf>,
}

/// `identity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Key of resume tickets, at least 32 bytes, shared by the gateways of a cluster; `None` = random per start.
    pub key: Option<SecretSource>,
}

/// `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsWork {
    /// Threads that do handshakes; 0 = one per four cores.
    pub threads: usize,
}

// === impl Config ===

impl Default for Config {
    /// What the gateway does with no file at all.
    fn default() -> Self {
        Self {
            daemon: Daemon::default(),
            edgebound: Edgebound {
                listen: Entrance::on("0.0.0.0:30012"),
                edgeid_alloc_when_no_idservice_on: true,
                wait_for_id_service: Duration::ZERO,
                bypass_enable: false,
                bypass: Dial::default(),
            },
            servicebound: Servicebound { listen: Entrance::on("0.0.0.0:30011") },
            // Kicks and lists are open to whoever reaches this port, hence only this machine by default.
            controlplane: ControlPlane {
                enable: true,
                listen: Listen::on("127.0.0.1:30010"),
                kick_token: None,
            },
            exchange: Exchange::default(),
            frontlas: Frontlas::default(),
            mqm: Mqm::default(),
            observability: Observability {
                addr: ListenAddr::parse("0.0.0.0:9091").expect("a default address is well formed"),
            },
            log: Log::default(),
            limits: Limits::default(),
            drain: Drain::default(),
            auth: Auth::default(),
            identity: Identity::default(),
            tls: TlsWork::default(),
            shards: 0,
        }
    }
}

impl Config {
    /// What an empty file means: as without a file, but what the Go system leaves off is off.
    #[must_use]
    pub fn of_empty_file() -> Self {
        let mut config = Self::default();
        config.edgebound.edgeid_alloc_when_no_idservice_on = false;
        config.controlplane.enable = false;
        config
    }

    /// The number of shards: `shards`, else one less than there are cores, at least one.
    #[must_use]
    pub fn shard_count(&self) -> NonZero<usize> {
        NonZero::new(self.shards).or_else(|| NonZero::new(cores() - 1)).unwrap_or(NonZero::<usize>::MIN)
    }

    /// The number of handshake threads: `tls.threads`, else one per four cores, at least one.
    #[must_use]
    pub fn tls_threads(&self) -> NonZero<usize> {
        NonZero::new(self.tls.threads).or_else(|| NonZero::new(cores() / 4)).unwrap_or(NonZero::<usize>::MIN)
    }

    /// The whole configuration as indented JSON, which is YAML too: what the gateway logs and shows. Without secrets.
    #[must_use]
    pub fn effective(&self) -> String {
        frontier_ops::config::effective(self)
    }

    fn read(section: &mut Section<'_>) -> Self {
        let base = Self::of_empty_file();
        read_dao(section);
        Self {
            daemon: section.section("daemon", Daemon::read),
            edgebound: section.section("edgebound", |edgebound| Edgebound::read(edgebound, base.edgebound)),
            servicebound: section.section("servicebound", |servicebound| Servicebound {
                listen: servicebound
                    .section("listen", |listen| Entrance::read(listen, base.servicebound.listen)),
            }),
            controlplane: section
                .section("controlplane", |controlplane| ControlPlane::read(controlplane, base.controlplane)),
            exchange: section.section("exchange", Exchange::read),
            frontlas: section.section("frontlas", Frontlas::read),
            mqm: section.section("mqm", Mqm::read),
            observability: section.section("observability", |observability| {
                Observability::read(observability, base.observability)
            }),
            log: section.section("log", |log| Log::read(log, base.log)),
            limits: section.section("limits", Limits::read),
            drain: section.section("drain", Drain::read),
            auth: section.section("auth", |auth| Auth { tokens: auth.optional("tokens") }),
            identity: section.section("identity", Identity::read),
            tls: section.section("tls", |tls| TlsWork { threads: tls.value("threads", 0) }),
            shards: section.value("shards", 0),
        }
    }

    fn validate(&self, problems: &mut Problems) {
        self.edgebound.listen.validate("edgebound.listen", problems);
        self.servicebound.listen.validate("servicebound.listen", problems);
        if self.controlplane.enable {
            self.controlplane.validate(problems);
        }
        if self.edgebound.bypass_enable {
            self.edgebound.bypass.validate(
                "edgebound.bypass",
                "illegal bypass addrs: none is given",
                problems,
            );
        }
        if self.edgebound.wait_for_id_service > self.limits.handshake {
            problems.error(
                "edgebound.wait_for_id_service",
                "must not exceed limits.handshake, within which it falls",
            );
        }
        self.frontlas.validate(problems);
        self.mqm.validate(problems);
        for queue in self.mqm.queues() {
            if queue.kind == QueueKind::Kafka && !cfg!(feature = "kafka") {
                problems.error("mqm.kafka.enable", "Kafka is not part of this build (feature `kafka`)");
            }
            for (key, why) in queues::problems(&queue) {
                problems.error(format!("mqm.{}.producer.{key}", queue.kind.name()), why);
            }
            if queue.topics.is_empty() && queue.choice.patterns.is_empty() {
                problems.warn(format!("mqm.{}.producer", queue.kind.name()), "takes no topic");
            }
        }
        if self.frontlas.enable && !self.mqm.sources.is_empty() {
            problems.error("mqm.sources", sources::CLUSTER);
        }
        self.limits.validate(problems);
        self.drain.validate(problems);
        self.validate_files(problems);
        self.validate_ports(problems);
        if self.shards > 1024 {
            problems.error("shards", "must not exceed 1024");
        }
        if self.tls.threads > 1024 {
            problems.error("tls.threads", "must not exceed 1024");
        }
    }

    fn validate_files(&self, problems: &mut Problems) {
        if let Some(path) = &self.auth.tokens
            && let Err(error) = tokens::read(path)
        {
            // Each with the line of that file it stands on.
            for problem in error.problems.errors() {
                problems.error("auth.tokens", error.problems.line_of(problem));
            }
        }
        if let Err(message) = self.identity.load_key() {
            problems.error("identity.key", message);
        }
    }

    /// Two ports at one address: the second could not be bound, with an error that does not say why.
    fn validate_ports(&self, problems: &mut Problems) {
        let mut taken: Vec<(&str, &ListenAddr)> = vec![
            ("edgebound.listen.addr", &self.edgebound.listen.port.addr),
            ("servicebound.listen.addr", &self.servicebound.listen.port.addr),
            ("observability.addr", &self.observability.addr),
        ];
        if self.controlplane.enable {
            taken.push(("controlplane.listen.addr", &self.controlplane.listen.addr));
        }
        for (index, (key, addr)) in taken.iter().enumerate() {
            if let Some((other, before)) = taken[..index].iter().find(|(_, before)| before.meets(addr)) {
                problems.error(*key, format!("{addr} is the address of {other} ({before}) already"));
            }
        }
    }
}

/// `dao` chose the Go system's table storage.
fn read_dao(section: &mut Section<'_>) {
    section.section("dao", |dao| {
        let backend = dao.optional_by("backend", |node| match scalar(node, "a name")? {
            "" | "buntdb" | "sqlite" | "sqlite3" => Ok(()),
            other => Err(format!("unsupported dao backend: {other}")),
        });
        if backend.is_some() {
            dao.warn(
                "backend",
                "has no effect: lists come from the live sessions, filters and totals always work",
            );
        }
        dao.dead(&["debug"], "there is no SQL to print");
    });
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Every key that the configuration knows, in the order in which a file is read.
#[must_use]
pub fn known_keys() -> &'static [Known] {
    static KNOWN: OnceLock<Vec<Known>> = OnceLock::new();
    KNOWN.get_or_init(|| Known::of(Config::read))
}

// === impl Daemon ===

impl Daemon {
    fn read(section: &mut Section<'_>) -> Self {
        section.section("pprof", |pprof| {
            pprof.dead(
                &["enable", "addr", "cpu_profile_rate"],
                "it is Go's profiler, which this gateway does not have",
            );
        });
        Self {
            frontier_id: section.value("frontier_id", String::new()),
            rlimit: section.section("rlimit", RLimit::read),
        }
    }
}

// === impl Edgebound ===

impl Edgebound {
    fn read(section: &mut Section<'_>, base: Self) -> Self {
        let mut old_enable = None;
        let bypass = section.section("bypass", |bypass| {
            // Before version 1.0 the switch stood here.
            old_enable = bypass.alias("enable", "edgebound.bypass_enable");
            Dial::read(bypass)
        });
        Self {
            listen: section.section("listen", |listen| Entrance::read(listen, base.listen)),
            edgeid_alloc_when_no_idservice_on: section
                .value("edgeid_alloc_when_no_idservice_on", base.edgeid_alloc_when_no_idservice_on),
            wait_for_id_service: section.value("wait_for_id_service", base.wait_for_id_service),
            bypass_enable: section.optional("bypass_enable").or(old_enable).unwrap_or(base.bypass_enable),
            bypass,
        }
    }
}

// === impl ControlPlane ===

impl ControlPlane {
    fn read(section: &mut Section<'_>, base: Self) -> Self {
        Self {
            enable: section.value("enable", base.enable),
            listen: section.section("listen", |listen| Listen::read(listen, base.listen)),
            kick_token: section.optional("kick_token"),
        }
    }

    fn validate(&self, problems: &mut Problems) {
        self.listen.validate("controlplane.listen", problems);
        match self.kick_token.as_ref().map(SecretSource::load) {
            None => {}
            Some(Ok(token)) if token.expose().is_empty() => {
                problems.error(
                    "controlplane.kick_token",
                    "is empty; leave the key out to allow kicks without a token",
                );
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => problems.error("controlplane.kick_token", format!("cannot be read: {error}")),
        }
    }
}

// === impl Exchange ===

impl Exchange {
    fn read(section: &mut Section<'_>) -> Self {
        let Some(text) = section.optional::<String>("hashby") else { return Self::default() };
        let hashby = HashBy::parse(&text).unwrap_or_else(|| {
            if !text.is_empty() {
                let known = "edgeid, srcip, random, least_in_flight";
                section.warn("hashby", &format!("unknown policy {text:?} acts as edgeid, options: {known}"));
            }
            HashBy::EdgeId
        });
        Self { hashby }
    }
}

// === impl HashBy ===

impl HashBy {
    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdgeId => "edgeid",
            Self::SrcIp => "srcip",
            Self::Random => "random",
            Self::LeastInFlight => "least_in_flight",
        }
    }

    /// The policy of a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::EdgeId, Self::SrcIp, Self::Random, Self::LeastInFlight]
            .into_iter()
            .find(|by| by.name() == text)
    }
}

impl fmt::Display for HashBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Frontlas ===

impl Frontlas {
    fn read(section: &mut Section<'_>) -> Self {
        section.section("metrics", |metrics| {
            metrics.dead(&["enable", "interval"], "totals go with every renewal of the lease");
        });
        Self { enable: section.value("enable", false), dial: section.section("dial", Dial::read) }
    }

    fn validate(&self, problems: &mut Problems) {
        if self.enable {
            self.dial.validate("frontlas.dial", "illegal dial addrs: none is given", problems);
        }
    }
}

// === impl Observability ===

impl Observability {
    fn read(section: &mut Section<'_>, base: Self) -> Self {
        if !section.value("enable", true) {
            section.warn("enable", "has no effect: the admin port is always on, because probes need it");
        }
        let addr = section.optional_by("addr", |node| match scalar(node, "host:port")? {
            "" => Ok(None),
            _ => ListenAddr::from_node(node).map(Some),
        });
        Self { addr: addr.flatten().unwrap_or(base.addr) }
    }
}

// === impl Identity ===

impl Identity {
    fn read(section: &mut Section<'_>) -> Self {
        let key = section.optional_by("key", |node| {
            let text = scalar(node, "a key in hex or a path")
                .map_err(|_| "expected a key in hex or a path".to_owned())?;
            let hex = text.len() >= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let path = text.strip_prefix("file:").unwrap_or(text);
            Ok(if hex { SecretSource::Inline(Secret::new(text)) } else { SecretSource::File(path.into()) })
        });
        Self { key }
    }

    /// The key, from its file if it is in one (hex text, or else the bytes as they are); `None` = make a random one.
    ///
    /// # Errors
    /// The file cannot be read, or the key is shorter than 32 bytes.
    pub fn load_key(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(source) = &self.key else { return Ok(None) };
        let bytes = match source {
            SecretSource::Inline(secret) => secret.expose().as_bytes().to_vec(),
            SecretSource::File(path) => {
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
        };
        let key = std::str::from_utf8(&bytes).ok().and_then(|text| decode_hex(text.trim())).unwrap_or(bytes);
        if key.len() < 32 {
            return Err(format!("the key has {} bytes; at least 32 are needed", key.len()));
        }
        Ok(Some(key))
    }
}

/// The bytes of a text of hex digits.
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

#[cfg(test)]
mod tests;
