//! Puts a file, the environment and the command line together.
//!
//! Log settings: flag, then environment, then file. Everything else: environment, then file; the flags that are not
//! about logs have no variable.

use std::path::Path;

use frontier_ops::config::{ConfigError, Environment, Loaded, LogFlags, Problems, UnknownKeys, read_file};

use super::{Config, known_keys};

/// What flags set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Those about logs.
    pub log: LogFlags,
    /// `--daemon-rlimit-nofile`; zero and negative numbers mean none.
    pub nofile: Option<i64>,
    /// `--shards`.
    pub shards: Option<usize>,
}

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// `--config`; `None` = the embedded defaults.
    pub file: Option<&'a Path>,
    /// The environment.
    pub env: Environment,
    /// The flags.
    pub flags: Overrides,
    /// `--unknown-keys`.
    pub unknown_keys: UnknownKeys,
}

/// Reads and checks everything.
///
/// # Errors
/// Every problem that stops the start, and the warnings beside them.
pub fn load(sources: &Sources<'_>) -> Result<Loaded<Config>, ConfigError> {
    let mut problems = Problems::new(sources.file);
    let mut config = Config::default();
    if let Some(path) = sources.file {
        let (read, found) = read_file(path, sources.unknown_keys, known_keys, Config::read);
        config = read.unwrap_or(config);
        problems = found;
    }
    apply_env(&mut config, &sources.env, &mut problems);
    config.log.apply(&sources.flags.log, &sources.env, &mut problems);
    apply_flags(&mut config, &sources.flags);
    config.validate(&mut problems);
    if problems.is_fatal() { Err(ConfigError { problems }) } else { Ok(Loaded { config, problems }) }
}

fn apply_env(config: &mut Config, env: &Environment, problems: &mut Problems) {
    let ports = [
        ("FRONTIER_SERVICEBOUND_PORT", &mut config.servicebound.listen.port.addr),
        ("FRONTIER_EDGEBOUND_PORT", &mut config.edgebound.listen.port.addr),
    ];
    for (name, addr) in ports {
        addr.replace_port(name, env, problems);
    }
    // In Kubernetes each pod has another one.
    if let Some(addr) = env.get("FRONTIER_EDGEBOUND_ADVERTISED_ADDR") {
        config.edgebound.listen.port.advertised_addr = addr.to_owned();
    }
    if let Some(node) = env.get("NODE_NAME") {
        config.daemon.frontier_id = format!("frontier-{node}");
    }
    // Several pods may be on one node.
    if let Some(id) = env.get("FRONTIER_ID") {
        config.daemon.frontier_id = id.to_owned();
    }
    if let Some(addr) = env.get("FRONTLAS_ADDR") {
        config.frontlas.enable = true;
        config.frontlas.dial.addrs = vec![addr.to_owned()];
    }
    if let Some(text) = env.get("FRONTIER_DRAIN_SECONDS") {
        match text.parse() {
            Ok(seconds) => config.drain.seconds = seconds,
            Err(_) => {
                config.drain.seconds = 30;
                problems
                    .warn("FRONTIER_DRAIN_SECONDS", format!("{text:?} is not a number of seconds; using 30"));
            }
        }
    }
}

fn apply_flags(config: &mut Config, flags: &Overrides) {
    if let Some(nofile) = flags.nofile {
        config.daemon.rlimit.apply_flag(nofile);
    }
    if let Some(shards) = flags.shards {
        config.shards = shards;
    }
}
