//! The command line of `frontlas`: flags, and the subcommands that do not start an atlas.
//!
//! Flags of the Go system mean what they meant there. What `main` does with the rest: [`Cli::sources`] for [`crate::config::load`], and
//! [`run`] where there is a subcommand.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use frontier_ops::{
    cli::{NOFILE_OF_BARE_FLAG, check_config as check, parse_wait, wait},
    config::{Environment, Listen, LogFlags, UnknownKeys},
};

use crate::config::{self, Config, Mode, Overrides, Sources};

const ABOUT: &str = "\
Frontlas, the registry of a Frontier cluster: where every edge and every service is.

Gateways tell it what they have, services ask it which gateway has an edge. It keeps its state in Redis, so any number
of instances may run, and each may end at any moment. Without Redis (redis.mode: memory) a single instance suffices for
a small cluster or a first look.";

const AFTER_HELP: &str = "\
Ports (with no file; see the keys in brackets):
  40011  services and operators ask here, gRPC and REST   [control_plane.listen.addr]
  40012  gateways connect here                            [frontier_plane.listen.addr]
   9092  /healthz /readyz /metrics                        [observability.addr]

Environment:
  LOG_LEVEL, LOG_OUTPUT, LOG_FORMAT, LOG_FILE   as the flags, which win over them
  FRONTLAS_CONTROLPLANE_PORT                    replaces the port of control_plane.listen.addr
  FRONTLAS_FRONTIERPLANE_PORT                   replaces the port of frontier_plane.listen.addr
  REDIS_TYPE                                    standalone, sentinel, cluster or memory; with it the following replace
                                                what the file says, also by nothing; without it they do nothing
  REDIS_ADDRS                                   host:port, several with commas between them
  REDIS_USER, REDIS_PASSWORD                    who to be for Redis
  REDIS_DB                                      the database, standalone and sentinel
  MASTER_NAME                                   what the sentinels call the master
  NO_COLOR                                      no colours in the log on a terminal

Signals:
  SIGTERM, SIGINT  drain: not ready, gateways and watchers sent elsewhere, exit 0; a second one ends at once

Examples:
  frontlas                                      start with Redis on 127.0.0.1:6379
  REDIS_TYPE=memory frontlas                    start without Redis
  frontlas --config /usr/conf/frontlas.yaml     start with a file
  frontlas check-config frontlas.yaml           what is wrong with a file, all of it, before a roll-out
  curl -s 127.0.0.1:40011/cluster/v1/frontiers  which gateways there are
  curl -s 127.0.0.1:9092/readyz                 whether it can do its work, and what is in the way

Exit codes:
  0  drained, or the subcommand succeeded
  1  the configuration is wrong, a port is taken, or another start-up error; a part that must run has failed
  2  the command line is wrong

Every key of the file: docs/frontlas.md.";

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "frontlas", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 120)]
#[command(args_conflicts_with_subcommands = false, disable_help_subcommand = true)]
pub struct Cli {
    /// Configuration file; without it the embedded defaults hold
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    log: LogFlags,

    /// Open files, and so connections, allowed (bare flag: 1048576); the soft limit is raised to the hard one anyway
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = NOFILE_OF_BARE_FLAG)]
    #[arg(allow_negative_numbers = true)]
    daemon_rlimit_nofile: Option<i64>,

    /// Whether keys that nobody knows stop the start
    #[arg(long, global = true, value_enum, default_value_t, value_name = "POLICY")]
    unknown_keys: UnknownKeys,

    /// Instead of a start.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of starting an atlas.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print everything wrong with a file, with line numbers, or a summary; exit 1 or 0
    CheckConfig {
        /// The file
        file: PathBuf,
    },
    /// Do nothing for a while, such as 10s: a preStop hook for images without a shell
    DrainWait {
        /// How long; a plain number counts seconds
        #[arg(value_parser = parse_wait)]
        duration: Duration,
    },
    /// Print the version
    Version,
}

// === impl Cli ===

impl Cli {
    /// Where the configuration comes from.
    #[must_use]
    pub fn sources(&self, env: Environment) -> Sources<'_> {
        let flags = Overrides { log: self.log.clone(), nofile: self.daemon_rlimit_nofile };
        Sources { file: self.config.as_deref(), env, flags, unknown_keys: self.unknown_keys }
    }
}

/// Runs the subcommand and tells what to exit with.
///
/// # Errors
/// `out` cannot be written to.
pub fn run(cli: &Cli, command: &Command, env: Environment, out: &mut dyn Write) -> io::Result<ExitCode> {
    match command {
        Command::CheckConfig { file } => check_config(cli, file, env, out),
        Command::DrainWait { duration } => {
            wait(*duration);
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            writeln!(out, "frontlas {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check_config(cli: &Cli, file: &Path, env: Environment, out: &mut dyn Write) -> io::Result<ExitCode> {
    let sources = Sources { file: Some(file), ..cli.sources(env) };
    check(file, config::load(&sources), print_summary, out)
}

fn print_summary(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  cluster API  {}", port(&config.control_plane.listen))?;
    writeln!(out, "  gateways     {}", port(&config.frontier_plane.listen))?;
    writeln!(out, "  admin        {}", config.observability.addr)?;
    writeln!(out, "  state        {}", state(config))
}

fn port(listen: &Listen) -> String {
    let tls = match (listen.tls.enable, listen.tls.mtls) {
        (false, _) => "",
        (true, false) => ", TLS",
        (true, true) => ", TLS with client certificates",
    };
    format!("{} {}{tls}", listen.network, listen.addr)
}

fn state(config: &Config) -> String {
    let redis = &config.redis;
    let tls = if redis.tls.enable { ", TLS" } else { "" };
    match redis.mode {
        Mode::Standalone => {
            format!("redis {}, database {}{tls}", redis.standalone.addr, redis.standalone.db)
        }
        Mode::Sentinel => {
            let sentinel = &redis.sentinel;
            let (master, addrs) = (&sentinel.master_name, sentinel.addrs.join(", "));
            format!("redis {master} of the sentinels {addrs}, database {}{tls}", sentinel.db)
        }
        Mode::Cluster => format!("redis cluster {}{tls}", redis.cluster.addrs.join(", ")),
        Mode::Memory => "memory of this process: run a single instance".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(args: &[&str]) -> Cli {
        Cli::try_parse_from([&["frontlas"], args].concat()).unwrap()
    }

    fn refuse(args: &[&str]) -> ErrorKind {
        Cli::try_parse_from([&["frontlas"], args].concat()).unwrap_err().kind()
    }

    /// Runs a subcommand with an empty environment: exit code and output.
    fn run_args(args: &[&str]) -> (ExitCode, String) {
        let cli = parse(args);
        let mut out = Vec::new();
        let code = run(&cli, cli.command.as_ref().unwrap(), Environment::default(), &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn flags_of_the_go_system_are_taken() {
        let cli = parse(&[
            "--config",
            "/usr/conf/frontlas.yaml",
            "--loglevel=debug",
            "--log-output",
            "both",
            "--log-format=json",
            "--log-file",
            "/l",
            "--daemon-rlimit-nofile",
        ]);
        let sources = cli.sources(Environment::default());
        assert_eq!(sources.file, Some(Path::new("/usr/conf/frontlas.yaml")));
        let log = LogFlags {
            level: Some("debug".into()),
            output: Some("both".into()),
            format: Some("json".into()),
            file: Some("/l".into()),
        };
        assert_eq!(sources.flags, Overrides { log, nofile: Some(1_048_576) });
        assert_eq!(parse(&[]).sources(Environment::default()).flags, Overrides::default());
        assert_eq!(parse(&["--daemon-rlimit-nofile", "-1"]).daemon_rlimit_nofile, Some(-1));
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        assert_eq!(refuse(&["--shards", "2"]), ErrorKind::UnknownArgument);
        assert_eq!(refuse(&["check-config"]), ErrorKind::MissingRequiredArgument);
        assert_eq!(refuse(&["--unknown-keys", "maybe"]), ErrorKind::InvalidValue);
        assert_eq!(refuse(&["--help"]), ErrorKind::DisplayHelp);
    }

    #[test]
    fn every_variable_is_in_the_help() {
        let help = Cli::try_parse_from(["frontlas", "--help"]).unwrap_err().to_string();
        let sources = [
            include_str!("config/load.rs"),
            include_str!("config/redis.rs"),
            include_str!("../../ops/src/config/log.rs"),
        ];
        let words = sources.iter().flat_map(|source| source.split('"'));
        let variables: Vec<&str> = words
            .filter(|word| {
                word.len() > 6 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
            })
            .collect();
        assert!(variables.len() >= 12, "{variables:?}");
        for variable in variables {
            assert!(help.contains(variable), "{variable}");
        }
        let longest = help.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(120), "{longest:?}");
    }

    #[test]
    fn check_config_sums_up_a_good_file_and_counts_what_is_wrong_with_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("frontlas.yaml");
        let path = file.to_str().unwrap();
        std::fs::write(&file, "redis: {mode: memory}\ncontrol_plane: {listen: {addr: ':4011'}}\n").unwrap();
        let (code, out) = run_args(&["check-config", path]);
        assert_eq!(code, ExitCode::SUCCESS, "{out}");
        assert!(out.contains(": ok\n") && out.contains("cluster API  tcp :4011\n"), "{out}");
        assert!(out.contains("state        memory of this process"), "{out}");
        std::fs::write(&file, "redis: {mode: sentinel}\nlimit: {}\n").unwrap();
        let (code, out) = run_args(&["check-config", path]);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(out.contains("limit: unknown key; did you mean `limits`?"), "{out}");
        assert!(out.ends_with(": 3 errors\n"), "{out}");
        assert_eq!(run_args(&["version"]).1, format!("frontlas {}\n", env!("CARGO_PKG_VERSION")));
    }
}
