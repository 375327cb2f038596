use std::{io::Write, sync::Arc};

use parking_lot::Mutex;
use tracing::{debug, error, info, info_span, trace};

use super::*;
use crate::config::SecretSource;

/// Collects what is written.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs with `log` whatever `what` does, and returns the lines.
fn lines(log: &Log, what: impl FnOnce(&LevelHandle)) -> Vec<String> {
    let memory = Memory::default();
    let outputs = Outputs { stream: Some(Box::new(memory.clone())), file: None };
    let (telemetry, subscriber) = build(log, outputs).unwrap();
    tracing::subscriber::with_default(subscriber, || what(&telemetry.level()));
    drop(telemetry);
    let text = String::from_utf8(memory.0.lock().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn log(level: LogLevel, format: LogFormat) -> Log {
    Log { level, format, ..Log::default() }
}

#[test]
fn json_lines_are_json() {
    let lines = lines(&log(LogLevel::Info, LogFormat::Json), |_| {
        let _span = info_span!("conn", edge = 7).entered();
        info!(code = "ok", text = "a \"quoted\"\nline", "edge came");
    });
    assert_eq!(lines.len(), 1);
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["message"], "edge came");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["text"], "a \"quoted\"\nline");
    assert_eq!(line["span"]["edge"], 7);
    assert!(line["timestamp"].is_string() && line["target"].is_string());
}

#[test]
fn text_lines_are_plain_where_nobody_looks() {
    let lines = lines(&log(LogLevel::Info, LogFormat::Text), |_| info!(edge = 7, "edge came"));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains(" INFO ") && lines[0].contains("edge came") && lines[0].contains("edge=7"));
    assert!(!lines[0].contains('\u{1b}'), "{}", lines[0]);
}

#[test]
fn levels_hide_what_is_less_important() {
    let count = |level| {
        let all = || {
            trace!("t");
            debug!("d");
            info!("i");
            warn!("w");
            error!("e");
        };
        lines(&log(level, LogFormat::Text), |_| all()).len()
    };
    assert_eq!(
        [LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error].map(count),
        [4, 3, 2, 1],
        "each line is written once"
    );
}

#[test]
fn libraries_stay_quiet_in_debug() {
    let lines = lines(&log(LogLevel::Debug, LogFormat::Text), |_| {
        debug!(target: "h2::codec", "frame");
        debug!(target: "frontier_gateway::session", "frame");
    });
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("frontier_gateway::session"));
}

#[test]
fn the_level_changes_while_it_runs() {
    let lines = lines(&log(LogLevel::Warn, LogFormat::Text), |level| {
        assert_eq!(level.current(), "warn");
        info!("hidden");
        level.set(" info\n").unwrap();
        info!("shown");
        level.set("error,frontier_ops=trace").unwrap();
        trace!("shown too");
        assert!(
            level
                .set("loud")
                .unwrap_err()
                .to_string()
                .starts_with("unsupported log level \"loud\", options: ")
        );
        assert!(level.set("a=b=c").is_err());
        assert!(level.set("").is_err());
        trace!("still shown");
        level.set("off").unwrap();
        error!("hidden");
    });
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[test]
fn files_get_the_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(LogLevel::Info, LogFormat::Json);
    log.output = LogOutput::File;
    log.file.path = dir.path().join("deep/frontier.log");
    let (telemetry, subscriber) = build(&log, outputs(&log).unwrap()).unwrap();
    tracing::subscriber::with_default(subscriber, || info!("to the file"));
    assert_eq!(telemetry.lost_lines()(), 0);
    drop(telemetry);
    assert!(std::fs::read_to_string(&log.file.path).unwrap().contains("to the file"));
}

#[test]
fn a_log_file_that_cannot_be_opened_stops_the_start() {
    let mut log = log(LogLevel::Info, LogFormat::Text);
    log.output = LogOutput::Both;
    log.file.path = "/proc/nowhere/frontier.log".into();
    let error = outputs(&log).err().unwrap();
    assert!(
        error.to_string().starts_with("cannot open the log file /proc/nowhere/frontier.log: "),
        "{error}"
    );
}

#[test]
fn the_configuration_is_logged_once_without_secrets() {
    #[derive(Serialize)]
    struct Config {
        port: u16,
        password: SecretSource,
    }
    let config = Config { port: 30012, password: SecretSource::parse("hunter2") };
    let lines = lines(&log(LogLevel::Info, LogFormat::Text), |_| log_config(&config, &Problems::default()));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("30012") && !lines[0].contains("hunter2"), "{lines:?}");
}
