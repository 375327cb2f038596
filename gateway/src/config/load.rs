//! Puts a file, the environment and the command line together.
//!
//! Log settings: flag, then environment, then file. Everything else: environment, then file; the flags that are not
//! about logs have no variable.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    Config, LogFormat, LogLevel, LogOutput, known_keys,
    problem::{ConfigError, Problems, Severity},
    read::{Reader, UnknownKeys},
    rlimit::positive,
    value::ListenAddr,
    yaml,
};

/// The files read are a few KiB; anything much longer is not a configuration.
const MAX_FILE: u64 = 1 << 20;

/// Environment variables, as a value: tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

// === impl Environment ===

impl Environment {
    /// The variables of this process; those that are not text do not concern us.
    #[must_use]
    pub fn of_process() -> Self {
        let vars =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self(vars.collect())
    }

    /// A variable; an empty one counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(vars: [(&str, &str); N]) -> Self {
        Self(vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// What flags set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--loglevel`.
    pub log_level: Option<String>,
    /// `--log-output`.
    pub log_output: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
    /// `--log-file`.
    pub log_file: Option<PathBuf>,
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

/// A configuration to start with.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings only.
    pub problems: Problems,
}

/// Reads and checks everything.
///
/// # Errors
/// Every problem that stops the start, and the warnings beside them.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, ConfigError> {
    let mut problems = Problems::new(sources.file);
    let mut config = Config::default();
    if let Some(path) = sources.file {
        match read_file(path) {
            Ok(text) => (config, problems) = read_text(&text, problems, sources.unknown_keys),
            Err(message) => problems.error("", message),
        }
    }
    apply_env(&mut config, &sources.env, &mut problems);
    apply_log(&mut config, sources, &mut problems);
    apply_flags(&mut config, &sources.flags);
    config.validate(&mut problems);
    if problems.is_fatal() { Err(ConfigError { problems }) } else { Ok(Loaded { config, problems }) }
}

fn read_file(path: &Path) -> Result<String, String> {
    let describe = |error| format!("cannot read {}: {error}", path.display());
    let length = fs::metadata(path).map_err(describe)?.len();
    if length > MAX_FILE {
        return Err(format!("{} is longer than 1 MiB; that is no configuration", path.display()));
    }
    fs::read_to_string(path).map_err(describe)
}

fn read_text(text: &str, mut problems: Problems, unknown: UnknownKeys) -> (Config, Problems) {
    match yaml::parse(text) {
        Ok(document) => {
            let reader = Reader::new(problems, unknown, known_keys);
            let config = reader.document(document, Config::read);
            (config, reader.into_parts().0)
        }
        Err(error) => {
            problems.push(Severity::Error, String::new(), Some(error.line), error.message);
            (Config::of_empty_file(), problems)
        }
    }
}

fn apply_env(config: &mut Config, env: &Environment, problems: &mut Problems) {
    let ports = [
        ("FRONTIER_SERVICEBOUND_PORT", &mut config.servicebound.listen.addr),
        ("FRONTIER_EDGEBOUND_PORT", &mut config.edgebound.listen.addr),
    ];
    for (name, addr) in ports {
        replace_port(addr, name, env, problems);
    }
    if let Some(node) = env.get("NODE_NAME") {
        config.daemon.frontier_id = format!("frontier-{node}");
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

fn replace_port(addr: &mut ListenAddr, name: &str, env: &Environment, problems: &mut Problems) {
    let Some(text) = env.get(name) else { return };
    match text.parse() {
        Ok(port) => *addr = addr.with_port(port),
        Err(_) => problems.error(name, format!("{text:?} is not a port (0 to 65535)")),
    }
}

fn apply_log(config: &mut Config, sources: &Sources<'_>, problems: &mut Problems) {
    let flags = &sources.flags;
    let chosen = |flag: &'static str, given: Option<&str>, name: &'static str| {
        let flag = given.filter(|text| !text.is_empty()).map(|text| (flag, text.to_owned()));
        flag.or_else(|| sources.env.get(name).map(|text| (name, text.to_owned())))
    };
    let level = chosen("--loglevel", flags.log_level.as_deref(), "LOG_LEVEL");
    let output = chosen("--log-output", flags.log_output.as_deref(), "LOG_OUTPUT");
    let format = chosen("--log-format", flags.log_format.as_deref(), "LOG_FORMAT");
    set(&mut config.log.level, level, LogLevel::parse, problems);
    set(&mut config.log.output, output, LogOutput::parse, problems);
    set(&mut config.log.format, format, LogFormat::parse, problems);
    let file = flags.log_file.clone().filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = file.or_else(|| sources.env.get("LOG_FILE").map(PathBuf::from)) {
        config.log.file.path = path;
    }
}

fn set<T>(
    target: &mut T,
    given: Option<(&'static str, String)>,
    parse: impl Fn(&str) -> Result<T, String>,
    problems: &mut Problems,
) {
    let Some((source, text)) = given else { return };
    match parse(&text) {
        Ok(value) => *target = value,
        Err(message) => problems.error(source, message),
    }
}

fn apply_flags(config: &mut Config, flags: &Overrides) {
    if let Some(nofile) = flags.nofile {
        // The flag has always overwritten the key, also with "none"; a number asks for it to be set.
        config.daemon.rlimit.nofile = positive(nofile);
        config.daemon.rlimit.enable |= nofile > 0;
    }
    if let Some(shards) = flags.shards {
        config.shards = shards;
    }
}
