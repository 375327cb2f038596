//! The configuration of atlas: `frontlas.yaml`, the environment and the command line, checked as one.
//!
//! With no file at all the cluster API is on 0.0.0.0:40011, gateways connect to 0.0.0.0:40012, health and metrics are on 0.0.0.0:9092, and
//! Redis is expected on 127.0.0.1:6379. A file written for the Go system works as it is. `docs/frontlas.md` describes every key; a test compares
//! it with this module.

mod limits;
mod load;
mod redis;

use std::sync::OnceLock;

use frontier_ops::config::{
    Known, Listen, ListenAddr, Log, LogFile, Problems, RLimit,
    read::{FromNode as _, Section, scalar},
};
use serde::Serialize;

pub use self::{
    limits::{Drain, Limits},
    load::{Overrides, Sources, load},
    redis::{Cluster, Mode, Redis, RedisTls, Sentinel, Standalone},
};

/// Everything that can be set, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// `daemon`: the process.
    pub daemon: Daemon,
    /// `control_plane`: the port of the cluster API.
    pub control_plane: ControlPlane,
    /// `frontier_plane`: the port of gateways.
    pub frontier_plane: FrontierPlane,
    /// `redis`: where the cluster's state is kept.
    pub redis: Redis,
    /// `observability`: the admin port.
    pub observability: Observability,
    /// `log`.
    pub log: Log,
    /// `limits`: what gateways and clients may use.
    pub limits: Limits,
    /// `drain`: from SIGTERM to the exit.
    pub drain: Drain,
}

/// `daemon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Daemon {
    /// Open files.
    pub rlimit: RLimit,
}

/// `control_plane`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ControlPlane {
    /// Default tcp 0.0.0.0:40011.
    pub listen: Listen,
}

/// `frontier_plane`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrontierPlane {
    /// Default tcp 0.0.0.0:40012.
    pub listen: Listen,
    /// With mutual TLS, let a gateway have a name that its certificate does not cover: for gateways that share one. Default false.
    pub any_name: bool,
}

/// `observability`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observability {
    /// Default 0.0.0.0:9092.
    pub addr: ListenAddr,
}

// === impl Config ===

impl Default for Config {
    /// What atlas does with no file at all, which is what it does with an empty one.
    fn default() -> Self {
        let file = LogFile { path: "/var/log/frontier/frontlas.log".into(), ..LogFile::default() };
        Self {
            daemon: Daemon::default(),
            control_plane: ControlPlane { listen: Listen::on("0.0.0.0:40011") },
            frontier_plane: FrontierPlane { listen: Listen::on("0.0.0.0:40012"), any_name: false },
            redis: Redis::default(),
            observability: Observability {
                addr: ListenAddr::parse("0.0.0.0:9092").expect("a default address is well formed"),
            },
            log: Log { file, ..Log::default() },
            limits: Limits::default(),
            drain: Drain::default(),
        }
    }
}

impl Config {
    /// The whole configuration as indented JSON, which is YAML too: what atlas logs and shows. Without secrets.
    #[must_use]
    pub fn effective(&self) -> String {
        frontier_ops::config::effective(self)
    }

    fn read(section: &mut Section<'_>) -> Self {
        let base = Self::default();
        // What the shipped file with every key calls it.
        section.also("frontier_plane", &["frontier_manager"]);
        Self {
            daemon: section.section("daemon", Daemon::read),
            control_plane: section.section("control_plane", |plane| ControlPlane {
                listen: plane.section("listen", |listen| Listen::read(listen, base.control_plane.listen)),
            }),
            frontier_plane: section
                .section("frontier_plane", |plane| FrontierPlane::read(plane, base.frontier_plane)),
            redis: section.section("redis", Redis::read),
            observability: section.section("observability", |observability| {
                Observability::read(observability, base.observability)
            }),
            log: section.section("log", |log| Log::read(log, base.log)),
            limits: section.section("limits", Limits::read),
            drain: section.section("drain", Drain::read),
        }
    }

    fn validate(&self, problems: &mut Problems) {
        self.control_plane.listen.validate("control_plane.listen", problems);
        self.frontier_plane.listen.validate("frontier_plane.listen", problems);
        self.redis.validate(problems);
        self.limits.validate(problems);
        self.drain.validate(problems);
        self.validate_ports(problems);
    }

    /// Two ports at one address: the second could not be bound, with an error that does not say why.
    fn validate_ports(&self, problems: &mut Problems) {
        let ports = [
            ("control_plane.listen.addr", &self.control_plane.listen.addr),
            ("frontier_plane.listen.addr", &self.frontier_plane.listen.addr),
            ("observability.addr", &self.observability.addr),
        ];
        for (index, (key, addr)) in ports.iter().enumerate() {
            if let Some((other, before)) = ports[..index].iter().find(|(_, before)| before.meets(addr)) {
                problems.error(*key, format!("{addr} is the address of {other} ({before}) already"));
            }
        }
    }
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
                "it is Go's profiler, which this program does not have",
            );
        });
        Self {
            rlimit: section.section("rlimit", |rlimit| {
                rlimit.also("nofile", &["num_file"]);
                RLimit::read(rlimit)
            }),
        }
    }
}

// === impl FrontierPlane ===

impl FrontierPlane {
    fn read(section: &mut Section<'_>, base: Self) -> Self {
        section.section("expiration", |expiration| {
            expiration.dead(
                &["service_meta", "edge_meta"],
                "what a gateway has is there for as long as the gateway renews its lease, which takes 4 s to end",
            );
        });
        Self {
            listen: section.section("listen", |listen| Listen::read(listen, base.listen)),
            any_name: section.value("any_name", base.any_name),
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

#[cfg(test)]
mod tests;
