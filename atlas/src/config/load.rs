//! Puts a file, the environment and the command line together.
//!
//! Log settings: flag, then environment, then file. Everything else: environment, then file; the flag that is not about logs has no
//! variable.

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
    if let Some(nofile) = sources.flags.nofile {
        config.daemon.rlimit.apply_flag(nofile);
    }
    config.validate(&mut problems);
    if problems.is_fatal() { Err(ConfigError { problems }) } else { Ok(Loaded { config, problems }) }
}

fn apply_env(config: &mut Config, env: &Environment, problems: &mut Problems) {
    config.control_plane.listen.addr.replace_port("FRONTLAS_CONTROLPLANE_PORT", env, problems);
    config.frontier_plane.listen.addr.replace_port("FRONTLAS_FRONTIERPLANE_PORT", env, problems);
    config.redis.apply_env(env, problems);
}
