//! The command line of `frontier`: flags, and the subcommands that do not start a gateway.
//!
//! Flags of the Go system mean what they meant there. What `main` does with the rest: [`Cli::sources`] for
//! [`crate::config::load`], and [`run`] where there is a subcommand.

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

use crate::config::{self, Config, Overrides, Sources};

const ABOUT: &str = "\
Frontier, a gateway between edges and services: calls, messages and streams both ways.

Edges (devices, apps, agents behind NAT) keep one connection to the gateway, services keep another. Either side
calls, publishes to and opens streams to the other through it. Without arguments the gateway starts with defaults
that suit a first look.";

const AFTER_HELP: &str = "\
Ports (with no file; see the keys in brackets):
  30012  edges connect here                     [edgebound.listen.addr]
  30011  services connect here                  [servicebound.listen.addr]
  30010  control plane, gRPC and REST, on the loopback address; off with a file unless it says so
                                                [controlplane.enable, controlplane.listen.addr]
   9091  /healthz /readyz /metrics              [observability.addr]

Environment:
  LOG_LEVEL, LOG_OUTPUT, LOG_FORMAT, LOG_FILE   as the flags, which win over them
  FRONTIER_EDGEBOUND_PORT                       replaces the port of edgebound.listen.addr
  FRONTIER_SERVICEBOUND_PORT                    replaces the port of servicebound.listen.addr
  FRONTIER_EDGEBOUND_ADVERTISED_ADDR            sets edgebound.listen.advertised_addr, where edges find this gateway
  FRONTIER_DRAIN_SECONDS                        from SIGTERM to the exit (default 30)
  FRONTIER_ID                                   sets daemon.frontier_id, the name in the cluster
  NODE_NAME                                     without it, sets daemon.frontier_id to frontier-<name>
  FRONTLAS_ADDR                                 address of the cluster registry
  NO_COLOR                                      no colours in the log on a terminal

Signals:
  SIGTERM, SIGINT  drain: not ready, keep accepting for drain.accept_for, send peers elsewhere, exit 0; a second one
                   ends at once
  SIGHUP           read the file of auth.tokens again, and go over to the mqm block that the file has now

Examples:
  frontier                                      start on defaults
  frontier --config /usr/conf/frontier.yaml     start with a file
  frontier check-config frontier.yaml           what is wrong with a file, all of it, before a roll-out
  frontier --loglevel debug --log-format json   more lines, for machines
  curl -s 127.0.0.1:30010/v1/edges              who is online
  curl -s 127.0.0.1:9091/metrics                how it goes

Exit codes:
  0  drained, or the subcommand succeeded
  1  the configuration is wrong, a port is taken, or another start-up error; a part that must run has failed
  2  the command line is wrong

Every key of the file: docs/configuration.md.";

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "frontier", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 120)]
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

    /// Threads of the data plane [default: one less than there are cores]
    #[arg(long, value_name = "N")]
    shards: Option<usize>,

    /// Whether keys that nobody knows stop the start
    #[arg(long, global = true, value_enum, default_value_t, value_name = "POLICY")]
    unknown_keys: UnknownKeys,

    /// Verbosity of the logger that the Go system no longer has; its compose file and units still pass it.
    #[arg(short = 'v', long = "v", hide = true, num_args = 0..=1, default_missing_value = "", value_name = "N")]
    verbosity: Option<String>,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of starting a gateway.
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
        Sources {
            file: self.config.as_deref(),
            env,
            flags: self.overrides(),
            unknown_keys: self.unknown_keys,
        }
    }

    /// What to log about the command line itself once there is a log.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let verbosity = self.verbosity.is_some().then_some("-v has no effect; use --loglevel debug");
        verbosity.into_iter().collect()
    }

    fn overrides(&self) -> Overrides {
        Overrides { log: self.log.clone(), nofile: self.daemon_rlimit_nofile, shards: self.shards }
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
            writeln!(out, "frontier {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check_config(cli: &Cli, file: &Path, env: Environment, out: &mut dyn Write) -> io::Result<ExitCode> {
    let sources = Sources { file: Some(file), ..cli.sources(env) };
    check(file, config::load(&sources), print_summary, out)
}

fn print_summary(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  edges          {}", port(&config.edgebound.listen.port))?;
    writeln!(out, "  services       {}", port(&config.servicebound.listen.port))?;
    let control =
        if config.controlplane.enable { port(&config.controlplane.listen) } else { "off".to_owned() };
    writeln!(out, "  control plane  {control}")?;
    writeln!(out, "  admin          {}", config.observability.addr)?;
    let admitted = match &config.auth.tokens {
        Some(path) => format!("identities of {}", path.display()),
        None => "everybody (auth.tokens is not set)".to_owned(),
    };
    writeln!(out, "  admitted       {admitted}")
}

fn port(listen: &Listen) -> String {
    let tls = match (listen.tls.enable, listen.tls.mtls) {
        (false, _) => "",
        (true, false) => ", TLS",
        (true, true) => ", TLS with client certificates",
    };
    format!("{} {}{tls}", listen.network, listen.addr)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use clap::error::ErrorKind;

    use super::*;

    fn parse(args: &[&str]) -> Cli {
        Cli::try_parse_from([&["frontier"], args].concat()).unwrap()
    }

    fn refuse(args: &[&str]) -> ErrorKind {
        Cli::try_parse_from([&["frontier"], args].concat()).unwrap_err().kind()
    }

    /// Runs a subcommand with an empty environment: exit code and output.
    fn run_args(args: &[&str]) -> (ExitCode, String) {
        let cli = parse(args);
        let mut out = Vec::new();
        let code = run(&cli, cli.command.as_ref().unwrap(), Environment::default(), &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    fn file_with(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn flags_of_the_go_system_are_taken() {
        let cli = parse(&[
            "--config",
            "/usr/conf/frontier.yaml",
            "--loglevel=debug",
            "--log-output",
            "both",
            "--log-format",
            "json",
            "--log-file",
            "/l",
            "--daemon-rlimit-nofile=65536",
        ]);
        let sources = cli.sources(Environment::default());
        assert_eq!(sources.file, Some(Path::new("/usr/conf/frontier.yaml")));
        let expected = Overrides {
            log: LogFlags {
                level: Some("debug".into()),
                output: Some("both".into()),
                format: Some("json".into()),
                file: Some("/l".into()),
            },
            nofile: Some(65_536),
            shards: None,
        };
        assert_eq!(sources.flags, expected);
        assert_eq!(parse(&[]).sources(Environment::default()).flags, Overrides::default());
    }

    #[test]
    fn a_bare_file_limit_means_a_million() {
        let nofile = |args: &[&str]| parse(args).overrides().nofile;
        assert_eq!(nofile(&["--daemon-rlimit-nofile"]), Some(1_048_576));
        assert_eq!(nofile(&["--daemon-rlimit-nofile", "--shards", "2"]), Some(1_048_576));
        assert_eq!(nofile(&["--daemon-rlimit-nofile", "-1"]), Some(-1));
        assert_eq!(nofile(&["--daemon-rlimit-nofile", "7"]), Some(7));
        assert_eq!(refuse(&["--daemon-rlimit-nofile=many"]), ErrorKind::ValueValidation);
    }

    #[test]
    fn the_old_verbosity_is_taken_with_a_warning() {
        for args in
            [&["-v", "1"][..], &["-v=1"], &["--v", "2"], &["--v=2"], &["-v"], &["-v", "1", "--config", "x"]]
        {
            assert_eq!(parse(args).warnings().len(), 1, "{args:?}");
        }
        assert_eq!(parse(&[]).warnings(), <[&str; 0]>::default());
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        assert_eq!(refuse(&["--colour"]), ErrorKind::UnknownArgument);
        assert_eq!(refuse(&["--shards", "many"]), ErrorKind::ValueValidation);
        assert_eq!(refuse(&["check-config"]), ErrorKind::MissingRequiredArgument);
        assert_eq!(refuse(&["drain-wait", "soon"]), ErrorKind::ValueValidation);
        assert_eq!(refuse(&["--unknown-keys", "maybe"]), ErrorKind::InvalidValue);
        let error = Cli::try_parse_from(["frontier", "--colour"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn help_and_version_are_no_errors() {
        assert_eq!(refuse(&["--help"]), ErrorKind::DisplayHelp);
        assert_eq!(refuse(&["--version"]), ErrorKind::DisplayVersion);
        let help = Cli::try_parse_from(["frontier", "--help"]).unwrap_err().to_string();
        for word in [
            "30010",
            "30011",
            "30012",
            "9091",
            "check-config",
            "FRONTIER_DRAIN_SECONDS",
            "Exit codes",
            "SIGHUP",
        ] {
            assert!(help.contains(word), "{word} is not in\n{help}");
        }
        let longest = help.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(120), "{longest:?}");
    }

    #[test]
    fn every_variable_is_in_the_help() {
        let help = Cli::try_parse_from(["frontier", "--help"]).unwrap_err().to_string();
        let source = concat!(include_str!("config/load.rs"), include_str!("../../ops/src/config/log.rs"));
        let variables = source.split('"').filter(|word| {
            word.len() > 6 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        });
        for variable in variables {
            assert!(help.contains(variable), "{variable}");
        }
    }

    #[test]
    fn check_config_prints_every_problem_in_order() {
        let file = file_with("limits: {stall: soon}\nedgebund: {}\ndao: {debug: true}\n");
        let path = file.path().to_str().unwrap();
        let (code, out) = run_args(&["check-config", path]);
        assert_eq!(code, ExitCode::FAILURE);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 4, "{out}");
        assert!(lines[0].starts_with(&format!("{path}:1: limits.stall: expected a duration")), "{out}");
        assert_eq!(lines[1], format!("{path}:2: edgebund: unknown key; did you mean `edgebound`?"));
        assert!(lines[2].starts_with(&format!("{path}:3: warning: dao.debug: has no effect")), "{out}");
        assert_eq!(lines[3], format!("{path}: 2 errors"));
    }

    #[test]
    fn check_config_sums_up_a_good_file() {
        let file = file_with("edgebound: {listen: {addr: ':4012'}}\n");
        let (code, out) = run_args(&["check-config", file.path().to_str().unwrap()]);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(out.contains(": ok\n") && out.contains("edges          tcp :4012\n"), "{out}");
        assert!(out.contains("control plane  off\n"), "{out}");
    }

    #[test]
    fn check_config_reads_the_identities() {
        let identities = file_with("tokens:\n- sha256: abc\n  role: edge\n");
        let (tokens, file) = (identities.path().display(), file_with(""));
        std::fs::write(file.path(), format!("auth:\n  tokens: {tokens}\n")).unwrap();
        let path = file.path().to_str().unwrap();
        let (code, out) = run_args(&["check-config", path]);
        assert_eq!(code, ExitCode::FAILURE);
        let expected = format!("{path}:2: auth.tokens: {tokens}:2: tokens[0].sha256: ");
        assert!(out.starts_with(&expected) && out.ends_with(": 1 error\n"), "{out}");
        std::fs::write(identities.path(), "tokens: []\n").unwrap();
        let (code, out) = run_args(&["check-config", path]);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(out.contains(&format!("admitted       identities of {tokens}\n")), "{out}");
    }

    #[test]
    fn check_config_can_forgive_unknown_keys() {
        let file = file_with("colour: red\n");
        let path = file.path().to_str().unwrap();
        assert_eq!(run_args(&["check-config", path]).0, ExitCode::FAILURE);
        assert_eq!(run_args(&["--unknown-keys", "warn", "check-config", path]).0, ExitCode::SUCCESS);
        assert_eq!(run_args(&["check-config", "--unknown-keys=warn", path]).0, ExitCode::SUCCESS);
        assert_eq!(run_args(&["check-config", "/nowhere"]).0, ExitCode::FAILURE);
    }

    #[test]
    fn version_and_wait_succeed() {
        assert_eq!(run_args(&["version"]).1, format!("frontier {}\n", env!("CARGO_PKG_VERSION")));
        let begin = Instant::now();
        assert_eq!(run_args(&["drain-wait", "20ms"]).0, ExitCode::SUCCESS);
        assert!(begin.elapsed() >= Duration::from_millis(20));
        assert_eq!(parse_wait("10"), Ok(Duration::from_secs(10)));
    }
}
