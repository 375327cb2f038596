//! The command line of `frontier-operator`: flags of the Go operator mean what they meant there.

use std::{io::Write, process::ExitCode};

use clap::{ArgAction, Parser, Subcommand};
use frontier_ops::config::{ListenAddr, LogFlags};

use crate::{api, render::Images};

const ABOUT: &str = "\
The operator of Frontier: a FrontierCluster in Kubernetes becomes a running cluster of gateways and their registry.";

const AFTER_HELP: &str = "\
Ports:
  8080  /metrics             [--metrics-bind-address]
  8081  /healthz /readyz     [--health-probe-bind-address]

Environment:
  LOG_LEVEL, LOG_OUTPUT, LOG_FORMAT, LOG_FILE  as the flags, which win over them
  KUBECONFIG                                   which cluster, outside of one
  POD_NAMESPACE                                where the lease is, if --leader-election-namespace does not say
  FRONTIER_IMAGE, FRONTLAS_IMAGE, REDIS_IMAGE  as the flags, which win over them

Signals:
  SIGTERM, SIGINT  finish what is under way, give the lease back, exit 0; a second one ends at once

Exit codes:
  0  told to end, or the subcommand succeeded
  1  a start-up error; a part that must run has failed
  2  the command line is wrong";

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "frontier-operator", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 120)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// Where metrics are; 0 = nowhere
    #[arg(long, value_name = "ADDR", default_value = ":8080", value_parser = parse_address)]
    pub metrics_bind_address: Bind,

    /// Where probes are; 0 = nowhere
    #[arg(long, value_name = "ADDR", default_value = ":8081", value_parser = parse_address)]
    pub health_probe_bind_address: Bind,

    /// Work only while holding the lease, so that several may run
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    #[arg(action = ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,

    /// Where the lease is [default: where the operator runs]
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub leader_election_namespace: Option<String>,

    /// Image of gateways where the spec names none
    #[arg(long, value_name = "IMAGE", env = "FRONTIER_IMAGE")]
    #[arg(default_value = concat!("singchia/frontier:", env!("CARGO_PKG_VERSION")))]
    frontier_image: String,

    /// Image of the registry where the spec names none
    #[arg(long, value_name = "IMAGE", env = "FRONTLAS_IMAGE")]
    #[arg(default_value = concat!("singchia/frontlas:", env!("CARGO_PKG_VERSION")))]
    frontlas_image: String,

    /// Image of the Redis that the operator runs where the spec names none
    #[arg(long, value_name = "IMAGE", env = "REDIS_IMAGE", default_value = "redis:7.4")]
    redis_image: String,

    #[command(flatten)]
    pub log: LogFlags,

    /// Metrics are served in plain text; put a proxy in front where that does not do
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false)]
    #[arg(default_missing_value = "true", action = ArgAction::Set)]
    metrics_secure: bool,

    /// The ports speak HTTP/2 always
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false)]
    #[arg(default_missing_value = "true", action = ArgAction::Set)]
    enable_http2: bool,

    /// Of the Go operator's logger
    #[arg(long, hide = true, value_name = "LEVEL")]
    zap_log_level: Option<String>,

    /// Of the Go operator's logger
    #[arg(long, hide = true, value_name = "ENCODER")]
    zap_encoder: Option<String>,

    /// Of the Go operator's logger
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    zap_devel: Option<String>,

    /// Of the Go operator's logger
    #[arg(long, hide = true, value_name = "LEVEL")]
    zap_stacktrace_level: Option<String>,

    /// Of the Go operator's logger
    #[arg(long, hide = true, value_name = "ENCODING")]
    zap_time_encoding: Option<String>,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of working.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Print the resource definition
    Crd,
    /// Print the table of the resource's fields, for the docs
    #[command(hide = true)]
    Reference,
    /// Print the version
    Version,
}

/// Where to listen, if anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind(pub Option<ListenAddr>);

// === impl Cli ===

impl Cli {
    /// Images where specs name none.
    #[must_use]
    pub fn images(&self) -> Images {
        Images {
            frontier: self.frontier_image.clone(),
            frontlas: self.frontlas_image.clone(),
            redis: self.redis_image.clone(),
        }
    }

    /// What flags say about logs; those of the Go operator's logger where ours say nothing.
    #[must_use]
    pub fn log_flags(&self) -> LogFlags {
        let mut flags = self.log.clone();
        let level = self.zap_log_level.as_deref().map(|level| match level {
            "info" | "error" | "debug" | "warn" => level,
            "panic" => "error",
            // Numbers are how much more than info.
            _ => "debug",
        });
        flags.level = flags.level.or_else(|| level.map(str::to_owned));
        let format =
            self.zap_encoder.as_deref().map(|encoder| if encoder == "json" { "json" } else { "text" });
        flags.format = flags.format.or_else(|| format.map(str::to_owned));
        flags
    }

    /// What to log about the command line itself once there is a log.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.metrics_secure {
            warnings.push("--metrics-secure has no effect: metrics are in plain text");
        }
        if self.zap_devel.is_some() || self.zap_stacktrace_level.is_some() || self.zap_time_encoding.is_some()
        {
            warnings.push("--zap-devel, --zap-stacktrace-level and --zap-time-encoding have no effect");
        }
        warnings
    }
}

/// Runs the subcommand and tells what to exit with.
///
/// # Errors
/// `out` cannot be written to, or the definition not be made.
pub fn run(command: Command, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {
        Command::Crd => write!(out, "{}", api::crd_yaml()?.1)?,
        Command::Reference => write!(out, "{}", api::reference())?,
        Command::Version => writeln!(out, "frontier-operator {}", env!("CARGO_PKG_VERSION"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `:8080`, `127.0.0.1:8080`, or `0` for nowhere.
fn parse_address(text: &str) -> Result<Bind, String> {
    if text == "0" || text.is_empty() {
        return Ok(Bind(None));
    }
    ListenAddr::parse(text).map(|addr| Bind(Some(addr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Bind {
        Bind(Some(ListenAddr::parse(text).unwrap()))
    }

    fn parse(args: &[&str]) -> Cli {
        Cli::try_parse_from([&["frontier-operator"], args].concat()).unwrap()
    }

    #[test]
    fn flags_of_the_go_operator_are_taken() {
        let cli = parse(&[
            "--health-probe-bind-address=:8081",
            "--metrics-bind-address=127.0.0.1:8080",
            "--leader-elect",
            "--metrics-secure=false",
            "--enable-http2=false",
            "--zap-log-level=debug",
            "--zap-encoder=json",
        ]);
        assert!(cli.leader_elect);
        assert_eq!(cli.metrics_bind_address, at("127.0.0.1:8080"));
        assert_eq!(cli.health_probe_bind_address, at(":8081"));
        assert_eq!(cli.log_flags().level.as_deref(), Some("debug"));
        assert_eq!(cli.log_flags().format.as_deref(), Some("json"));
        assert_eq!(cli.warnings(), <[&str; 0]>::default());
    }

    #[test]
    fn defaults_are_those_of_the_go_operator() {
        let cli = parse(&[]);
        assert!(!cli.leader_elect && !cli.metrics_secure && !cli.enable_http2);
        assert_eq!(cli.metrics_bind_address, at(":8080"));
        assert_eq!(parse(&["--metrics-bind-address=0"]).metrics_bind_address, Bind(None));
        assert_eq!(parse(&["--metrics-secure"]).warnings().len(), 1);
        assert!(Cli::try_parse_from(["frontier-operator", "--metrics-bind-address=here"]).is_err());
    }

    #[test]
    fn subcommands_print() {
        let print = |command| {
            let mut out = Vec::new();
            run(command, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(print(Command::Crd).contains("kind: CustomResourceDefinition"));
        assert!(print(Command::Reference).contains("| `spec.frontier.replicas` |"));
        assert!(print(Command::Version).starts_with("frontier-operator "));
    }
}
