//! `redis`: where the cluster's state is kept, and how it is reached.

use std::{path::PathBuf, time::Duration};

use frontier_ops::{
    config::{
        CertKey, Environment, Problems, Secret, SecretSource, Tls, parse_duration,
        read::{FromNode, Section, scalar},
        serialize_duration, split_host_port,
        yaml::Node,
    },
    tls::server::Files,
};
use rustls::pki_types::ServerName;
use serde::Serialize;

/// Why keys about many connections do nothing.
const ONE_CONNECTION: &str = "one connection to each server carries all commands";
/// Why keys about replicas do nothing.
const MASTERS_ONLY: &str = "what is asked goes to masters: replicas are behind";

/// `redis`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redis {
    /// How the servers belong together. Default standalone.
    pub mode: Mode,
    /// The user, for servers with access control lists; empty = the default one.
    pub username: String,
    /// The password: the text itself, or `file:` and a path.
    pub password: Option<SecretSource>,
    /// Shown by `CLIENT LIST`. Default frontlas.
    pub clientname: String,
    /// For a connection, TLS included. Default 2 s.
    #[serde(serialize_with = "serialize_duration")]
    pub dial_timeout: Duration,
    /// For an answer. Default 2 s; the greater of this and the next counts.
    #[serde(serialize_with = "serialize_duration")]
    pub read_timeout: Duration,
    /// For a request. Default 2 s.
    #[serde(serialize_with = "serialize_duration")]
    pub write_timeout: Duration,
    /// Between the first attempts to connect again. Default 50 ms.
    #[serde(serialize_with = "serialize_duration")]
    pub min_retry_backoff: Duration,
    /// Between attempts to connect again, at most. Default 2 s.
    #[serde(serialize_with = "serialize_duration")]
    pub max_retry_backoff: Duration,
    /// `redis.standalone`.
    pub standalone: Standalone,
    /// `redis.sentinel`.
    pub sentinel: Sentinel,
    /// `redis.cluster`.
    pub cluster: Cluster,
    /// `redis.tls`.
    pub tls: RedisTls,
}

/// `redis.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One server.
    #[default]
    Standalone,
    /// A master that sentinels watch over.
    Sentinel,
    /// A Redis Cluster.
    Cluster,
    /// No Redis: the memory of this process, for a single atlas.
    Memory,
}

/// `redis.standalone`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standalone {
    /// Always `tcp`.
    pub network: String,
    /// Default 127.0.0.1:6379.
    pub addr: String,
    /// Database. Default 0.
    pub db: u8,
}

/// `redis.sentinel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sentinel {
    /// `host:port` each.
    pub addrs: Vec<String>,
    /// What they call the master.
    pub master_name: String,
    /// Database. Default 0.
    pub db: u8,
    /// The user of the sentinels themselves.
    pub sentinel_username: String,
    /// The password of the sentinels themselves.
    pub sentinel_password: Option<SecretSource>,
}

/// `redis.cluster`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// `host:port` of some of its servers.
    pub addrs: Vec<String>,
}

/// `redis.tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RedisTls {
    /// Whether TLS is spoken, to sentinels as well.
    pub enable: bool,
    /// PEM file of the authorities that verify servers; empty = those of the system.
    pub ca: PathBuf,
    /// PEM file of our certificate, where servers ask for one.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// The name in the servers' certificates, where it is not the host that is connected to.
    pub server_name: String,
}

/// What early files said in the block of each mode.
#[derive(Default)]
struct Early {
    username: Option<String>,
    password: Option<SecretSource>,
    clientname: Option<String>,
    dial_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    min_retry_backoff: Option<Duration>,
    max_retry_backoff: Option<Duration>,
}

// === impl Mode ===

impl Mode {
    const ALL: [Self; 4] = [Self::Standalone, Self::Sentinel, Self::Cluster, Self::Memory];

    /// The name in files and variables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
            Self::Memory => "memory",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// Names the options.
    pub fn parse(text: &str) -> Result<Self, String> {
        let options = Self::ALL.map(Self::name).join(", ");
        let mode = Self::ALL.into_iter().find(|mode| mode.name() == text);
        mode.ok_or_else(|| format!("unsupported redis mode {text:?}, options: {options}"))
    }
}

// === impl Redis ===

impl Default for Redis {
    fn default() -> Self {
        // A server that is up answers within milliseconds; one that is not should be given up before leases (4 s) end.
        let timeout = Duration::from_secs(2);
        Self {
            mode: Mode::Standalone,
            username: String::new(),
            password: None,
            clientname: "frontlas".to_owned(),
            dial_timeout: timeout,
            read_timeout: timeout,
            write_timeout: timeout,
            min_retry_backoff: Duration::from_millis(50),
            max_retry_backoff: Duration::from_secs(2),
            standalone: Standalone { network: "tcp".to_owned(), addr: "127.0.0.1:6379".to_owned(), db: 0 },
            sentinel: Sentinel::default(),
            cluster: Cluster::default(),
            tls: RedisTls::default(),
        }
    }
}

impl Redis {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        section.also("clientname", &["client_name"]);
        section
            .dead(&["protocol"], "version 3 of the protocol is spoken, as changes by others are heard by it");
        section.dead(&["max_retries"], "whoever needs a command done repeats it");
        section.dead(
            &[
                "pool_fifo",
                "pool_size",
                "pool_timeout",
                "min_idle_conns",
                "max_idle",
                "max_idle_conns",
                "max_active_conns",
                "conn_max_idle_time",
                "conn_max_life_time",
                "conn_max_lifetime",
            ],
            ONE_CONNECTION,
        );
        section.dead(
            &["disable_identity", "disable_indentity", "identity_suffix"],
            "servers are told `clientname` alone",
        );
        let mode = section.optional_by("mode", |node| match scalar(node, "one word")? {
            "" => Ok(Mode::default()),
            text => Mode::parse(text),
        });
        let mode = mode.unwrap_or_default();
        let (username, password) = (text(section, "username"), section.optional_by("password", password));
        let clientname = text(section, "clientname");
        let mut time = |key| section.optional_by(key, time).flatten();
        let (dial_timeout, read_timeout) = (time("dial_timeout"), time("read_timeout"));
        let (write_timeout, min_retry_backoff) = (time("write_timeout"), time("min_retry_backoff"));
        let max_retry_backoff = time("max_retry_backoff");
        let mut early = Early::default();
        let mut keep = |of: Mode, found: Early| {
            if of == mode {
                early = found;
            }
        };
        let standalone = section.section("standalone", |block| {
            keep(Mode::Standalone, Early::read(block));
            Standalone::read(block, default.standalone)
        });
        let sentinel = section.section("sentinel", |block| {
            keep(Mode::Sentinel, Early::read(block));
            Sentinel::read(block)
        });
        let cluster = section.section("cluster", |block| {
            keep(Mode::Cluster, Early::read(block));
            Cluster::read(block)
        });
        Self {
            mode,
            username: username.or(early.username).unwrap_or_default(),
            password: password.flatten().or(early.password),
            clientname: clientname.or(early.clientname).unwrap_or(default.clientname),
            dial_timeout: dial_timeout.or(early.dial_timeout).unwrap_or(default.dial_timeout),
            read_timeout: read_timeout.or(early.read_timeout).unwrap_or(default.read_timeout),
            write_timeout: write_timeout.or(early.write_timeout).unwrap_or(default.write_timeout),
            min_retry_backoff: min_retry_backoff
                .or(early.min_retry_backoff)
                .unwrap_or(default.min_retry_backoff),
            max_retry_backoff: max_retry_backoff
                .or(early.max_retry_backoff)
                .unwrap_or(default.max_retry_backoff),
            standalone,
            sentinel,
            cluster,
            tls: section.section("tls", RedisTls::read),
        }
    }

    /// The variables of the Go system. Where `REDIS_TYPE` names a mode, they replace mode, addresses, database, user and password of the
    /// file, also by nothing; else they do nothing.
    pub(super) fn apply_env(&mut self, env: &Environment, problems: &mut Problems) {
        let Some(mode) = env.get("REDIS_TYPE") else {
            let others = ["REDIS_ADDRS", "REDIS_USER", "REDIS_PASSWORD", "REDIS_DB", "MASTER_NAME"];
            for name in others.into_iter().filter(|name| env.get(name).is_some()) {
                problems.warn(name, "has no effect without REDIS_TYPE");
            }
            return;
        };
        match Mode::parse(mode) {
            Ok(mode) => self.mode = mode,
            Err(message) => {
                problems.error("REDIS_TYPE", message);
                return;
            }
        }
        let addrs = env.get("REDIS_ADDRS").unwrap_or_default().split(',').map(str::trim);
        let addrs: Vec<String> = addrs.filter(|addr| !addr.is_empty()).map(str::to_owned).collect();
        let db = env.get("REDIS_DB").map_or(Ok(0), str::parse).unwrap_or_else(|_| {
            problems.error("REDIS_DB", "is not the number of a database (0 to 255)");
            0
        });
        match self.mode {
            Mode::Standalone => {
                self.standalone.addr = addrs.into_iter().next().unwrap_or_default();
                self.standalone.db = db;
            }
            Mode::Sentinel => {
                self.sentinel.addrs = addrs;
                self.sentinel.master_name = env.get("MASTER_NAME").unwrap_or_default().to_owned();
                self.sentinel.db = db;
            }
            Mode::Cluster => {
                self.cluster.addrs = addrs;
                if db != 0 {
                    problems.warn("REDIS_DB", "has no effect: a Redis Cluster has only database 0");
                }
            }
            Mode::Memory => return,
        }
        self.username = env.get("REDIS_USER").unwrap_or_default().to_owned();
        // A secret, whatever it begins with: variables come from files already.
        self.password = env.get("REDIS_PASSWORD").map(|text| SecretSource::Inline(Secret::new(text)));
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        match self.mode {
            Mode::Standalone => self.standalone.validate(problems),
            Mode::Sentinel => self.sentinel.validate(problems),
            Mode::Cluster => addresses("redis.cluster.addrs", &self.cluster.addrs, problems),
            Mode::Memory => return,
        }
        secret("redis.password", self.password.as_ref(), problems);
        if !self.clientname.bytes().all(|byte| byte.is_ascii_graphic()) {
            problems.error("redis.clientname", "must be one word: Redis takes no spaces in names of clients");
        }
        let hour = Duration::from_secs(3600);
        for (key, time) in [
            ("redis.dial_timeout", self.dial_timeout),
            ("redis.read_timeout", self.read_timeout),
            ("redis.write_timeout", self.write_timeout),
        ] {
            if !(Duration::from_millis(10)..=hour).contains(&time) {
                problems.error(key, "must be from 10ms to 1h");
            }
        }
        if self.min_retry_backoff > self.max_retry_backoff {
            problems.error("redis.min_retry_backoff", "must not exceed redis.max_retry_backoff");
        }
        if self.max_retry_backoff > hour {
            problems.error("redis.max_retry_backoff", "must not exceed 1h");
        }
        if self.tls.enable {
            self.tls.validate(problems);
        }
    }
}

// === impl Standalone ===

impl Standalone {
    fn read(section: &mut Section<'_>, default: Self) -> Self {
        Self {
            network: text(section, "network").unwrap_or(default.network),
            addr: text(section, "addr").unwrap_or(default.addr),
            db: section.value("db", default.db),
        }
    }

    fn validate(&self, problems: &mut Problems) {
        if self.network != "tcp" {
            problems
                .error("redis.standalone.network", format!("unsupported network: {}; use tcp", self.network));
        }
        addresses("redis.standalone.addr", std::slice::from_ref(&self.addr), problems);
    }
}

// === impl Sentinel ===

impl Sentinel {
    fn read(section: &mut Section<'_>) -> Self {
        section.dead(
            &[
                "route_by_latency",
                "route_randomly",
                "replica_only",
                "use_disconnected_replicas",
                "routebylatency",
                "routerandomly",
                "replicaonly",
                "usedisconnectedreplicas",
            ],
            MASTERS_ONLY,
        );
        Self {
            addrs: section.value("addrs", Vec::new()),
            master_name: section.value("master_name", String::new()),
            db: section.value("db", 0),
            sentinel_username: section.value("sentinel_username", String::new()),
            sentinel_password: section.optional_by("sentinel_password", password).flatten(),
        }
    }

    fn validate(&self, problems: &mut Problems) {
        addresses("redis.sentinel.addrs", &self.addrs, problems);
        if self.master_name.is_empty() {
            problems
                .error("redis.sentinel.master_name", "is missing: what do the sentinels call the master?");
        }
        secret("redis.sentinel.sentinel_password", self.sentinel_password.as_ref(), problems);
    }
}

// === impl Cluster ===

impl Cluster {
    fn read(section: &mut Section<'_>) -> Self {
        section
            .dead(&["route_by_latency", "route_randomly", "routebylatency", "routerandomly"], MASTERS_ONLY);
        section.dead(&["max_redirects", "maxredirects"], "the map of the cluster is read again instead");
        Self { addrs: section.value("addrs", Vec::new()) }
    }
}

// === impl RedisTls ===

impl RedisTls {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            ca: section.value("ca", PathBuf::new()),
            cert: section.value("cert", PathBuf::new()),
            key: section.value("key", PathBuf::new()),
            server_name: section.value("server_name", String::new()),
        }
    }

    fn validate(&self, problems: &mut Problems) {
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        if given(&self.cert) != given(&self.key) {
            problems.error("redis.tls.cert", "a certificate and its key belong together");
            return;
        }
        let certs = vec![CertKey { cert: self.cert.clone(), key: self.key.clone() }];
        let tls = Tls {
            mtls: true,
            ca_certs: if given(&self.ca) { vec![self.ca.clone()] } else { Vec::new() },
            certs: if given(&self.cert) { certs } else { Vec::new() },
            ..Tls::default()
        };
        let files = Files::read(&tls);
        if let Err(error) = files.authorities(&tls) {
            problems.error("redis.tls.ca", error.to_string());
        }
        for (_, error) in files.unusable(&tls) {
            problems.error("redis.tls.cert", error.to_string());
        }
        if !self.server_name.is_empty() && ServerName::try_from(self.server_name.as_str()).is_err() {
            problems.error("redis.tls.server_name", format!("{:?} is no name of a server", self.server_name));
        }
    }
}

// === impl Early ===

impl Early {
    fn read(section: &mut Section<'_>) -> Self {
        section.dead(&["protocol", "maxretries"], "an early version had it here");
        section.dead(
            &[
                "poolfifo",
                "poolsize",
                "pooltimeout",
                "minidleconns",
                "maxidleconns",
                "maxactiveconns",
                "connmaxidletime",
                "connmaxlifetime",
            ],
            ONE_CONNECTION,
        );
        section.dead(&["disableindentity", "identitysuffix"], "servers are told `clientname` alone");
        let full = |text: Option<String>| text.filter(|text| !text.is_empty());
        let time = |time: Option<Time>| time.and_then(|time| time.0);
        Self {
            username: full(section.alias("username", "redis.username")),
            password: section.alias::<Password>("password", "redis.password").and_then(|password| password.0),
            clientname: full(section.alias("clientname", "redis.clientname")),
            dial_timeout: time(section.alias("dialtimeout", "redis.dial_timeout")),
            read_timeout: time(section.alias("readtimeout", "redis.read_timeout")),
            write_timeout: time(section.alias("writetimeout", "redis.write_timeout")),
            min_retry_backoff: time(section.alias("minretrybackoff", "redis.min_retry_backoff")),
            max_retry_backoff: time(section.alias("maxretrybackoff", "redis.max_retry_backoff")),
        }
    }
}

/// A password of a file, `None` where it is empty.
struct Password(Option<SecretSource>);

impl FromNode for Password {
    fn from_node(node: &Node) -> Result<Self, String> {
        password(node).map(Self)
    }
}

/// A time of a file, `None` where it is 0.
struct Time(Option<Duration>);

impl FromNode for Time {
    fn from_node(node: &Node) -> Result<Self, String> {
        time(node).map(Self)
    }
}

/// Only `file:` makes a path: passwords of old files may begin with a slash.
fn password(node: &Node) -> Result<Option<SecretSource>, String> {
    // The value itself must not end up in an error text.
    let text = scalar(node, "text").map_err(|_| "expected text, or `file:` and a path".to_owned())?;
    Ok(match text.strip_prefix("file:") {
        Some(path) => Some(SecretSource::File(path.into())),
        None if text.is_empty() => None,
        None => Some(SecretSource::Inline(Secret::new(text))),
    })
}

/// A number of seconds, as the Go system has it, or a duration with its unit. 0 stands for the default, as it did.
fn time(node: &Node) -> Result<Option<Duration>, String> {
    const EXPECTED: &str = "a number of seconds or a duration with its unit, such as \"500ms\"";
    let text = scalar(node, EXPECTED)?;
    let seconds = text.parse::<i64>().map(|seconds| u64::try_from(seconds).unwrap_or(0));
    let time = seconds.ok().map(Duration::from_secs).or_else(|| parse_duration(text));
    let time = time.ok_or_else(|| format!("expected {EXPECTED}, found {text:?}"))?;
    Ok(Some(time).filter(|time| !time.is_zero()))
}

/// A text; an empty one counts as not given.
fn text(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    section.optional(key).filter(|text: &String| !text.is_empty())
}

fn addresses(key: &str, addrs: &[String], problems: &mut Problems) {
    if addrs.is_empty() {
        problems.error(key, "no address of Redis is given");
    }
    for addr in addrs {
        match split_host_port(addr) {
            Ok(("", _)) => problems.error(key, format!("{addr:?} has no host")),
            Ok((_, 0)) => problems.error(key, format!("{addr:?}: nothing listens on port 0")),
            Ok(_) => {}
            Err(message) => problems.error(key, message),
        }
    }
}

fn secret(key: &str, source: Option<&SecretSource>, problems: &mut Problems) {
    if let Some(Err(error)) = source.map(SecretSource::load) {
        problems.error(key, format!("cannot be read: {error}"));
    }
}
