//! Logs: what is written, how, and who may change that while the server runs.
//!
//! [`init`] is called once by `main`; everything else logs through `tracing`. Lines are formatted by the thread that
//! logs and written by one thread of their own (`sink`), so that no other thread ever waits for a disk.

mod rotate;
mod sink;

use std::io::{self, IsTerminal};

use serde::Serialize;
use tracing::{info, warn};
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use self::{
    rotate::RotatingFile,
    sink::{Outputs, Sink, SinkGuard},
};
use crate::config::{Log, LogFormat, LogLevel, LogOutput, Problems};

/// Libraries whose own debug lines would bury ours.
const CHATTY: &[&str] = &["h2", "hyper", "hyper_util", "mio", "rustls", "tokio_util", "tonic", "tower"];

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log file cannot be opened.
    #[error("cannot open the log file {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The writer thread cannot be started.
    #[error("cannot start the log thread: {0}")]
    Thread(#[source] io::Error),
    /// The process logs already.
    #[error("logging was set up before")]
    Twice,
}

/// A level or filter that cannot be set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(String);

/// Keeps the log going; dropping it writes the last lines.
pub struct Telemetry {
    level: LevelHandle,
    sink: Sink,
    _guard: SinkGuard,
}

/// Shows and changes which lines are written.
#[derive(Clone)]
pub struct LevelHandle {
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging for the whole process.
///
/// # Errors
/// The log file cannot be opened, or the process logs already.
pub fn init(log: &Log) -> Result<Telemetry, TelemetryError> {
    let (telemetry, subscriber) = build(log, outputs(log)?)?;
    subscriber.try_init().map_err(|_| TelemetryError::Twice)?;
    Ok(telemetry)
}

/// Logs the start: what the configuration made doubtful, and what it is. Secrets are not in it.
pub fn log_config(config: &impl Serialize, problems: &Problems) {
    for problem in problems.warnings() {
        warn!(key = problem.key, line = problem.line, problem = problem.message, "doubtful configuration");
    }
    let config = serde_json::to_string(config).unwrap_or_else(|error| error.to_string());
    info!(%config, "effective configuration");
}

type BoxedSubscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn build(log: &Log, outputs: Outputs) -> Result<(Telemetry, BoxedSubscriber), TelemetryError> {
    let colours = outputs.file.is_none() && wants_colours(log.output);
    let (sink, guard) = Sink::spawn(outputs).map_err(TelemetryError::Thread)?;
    let (filter, handle) = reload::Layer::new(filter_of(log.level));
    let writer = sink.clone();
    let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
    let registry = tracing_subscriber::registry().with(filter);
    let subscriber: BoxedSubscriber = match log.format {
        LogFormat::Text => Box::new(registry.with(lines.with_ansi(colours))),
        LogFormat::Json => Box::new(registry.with(lines.json().flatten_event(true).with_span_list(false))),
    };
    Ok((Telemetry { level: LevelHandle { handle }, sink, _guard: guard }, subscriber))
}

fn outputs(log: &Log) -> Result<Outputs, TelemetryError> {
    let stream: Option<Box<dyn io::Write + Send>> = match log.output {
        LogOutput::Stdout | LogOutput::Both => Some(Box::new(io::stdout())),
        LogOutput::Stderr => Some(Box::new(io::stderr())),
        LogOutput::File => None,
    };
    let file =
        match log.output {
            LogOutput::File | LogOutput::Both => Some(RotatingFile::open(&log.file).map_err(|source| {
                TelemetryError::File { path: log.file.path.display().to_string(), source }
            })?),
            LogOutput::Stdout | LogOutput::Stderr => None,
        };
    Ok(Outputs { stream, file })
}

fn wants_colours(output: LogOutput) -> bool {
    let terminal = match output {
        LogOutput::Stdout => io::stdout().is_terminal(),
        LogOutput::Stderr => io::stderr().is_terminal(),
        LogOutput::File | LogOutput::Both => false,
    };
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn filter_of(level: LogLevel) -> EnvFilter {
    EnvFilter::new(directives_of(level))
}

fn directives_of(level: LogLevel) -> String {
    if level != LogLevel::Debug {
        return level.name().to_owned();
    }
    let chatty = CHATTY.iter().map(|name| format!(",{name}=info"));
    std::iter::once(level.name().to_owned()).chain(chatty).collect()
}

// === impl Telemetry ===

impl Telemetry {
    /// Shows and changes which lines are written.
    #[must_use]
    pub fn level(&self) -> LevelHandle {
        self.level.clone()
    }

    /// A counter of the lines lost because the output was too slow.
    pub fn lost_lines(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let sink = self.sink.clone();
        move || sink.dropped()
    }
}

// === impl LevelHandle ===

impl LevelHandle {
    /// The filter in force, as directives: `info`, `debug,h2=info`.
    #[must_use]
    pub fn current(&self) -> String {
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Sets a level (`debug`, `info`, `warn`, `error`) or a list of directives (`info,frontier_gateway::drain=trace`).
    ///
    /// # Errors
    /// The text is neither.
    pub fn set(&self, text: &str) -> Result<(), FilterError> {
        let text = text.trim();
        let filter = match LogLevel::parse(text) {
            Ok(level) => filter_of(level),
            // One plain word that is no level would be taken for the name of a module.
            Err(message) if !text.contains('=') && text != "trace" && text != "off" => {
                return Err(FilterError(message));
            }
            Err(_) => EnvFilter::try_new(text).map_err(|error| FilterError(error.to_string()))?,
        };
        self.handle.reload(filter).map_err(|error| FilterError(error.to_string()))
    }
}

/// A level that belongs to no log.
#[cfg(test)]
pub(crate) fn detached_level() -> LevelHandle {
    let (filter, handle) = reload::Layer::new(filter_of(LogLevel::Info));
    // The handle refers to it weakly.
    std::mem::forget(filter);
    LevelHandle { handle }
}

#[cfg(test)]
mod tests;
