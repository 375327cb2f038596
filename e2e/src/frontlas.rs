//! The built binary `frontlas` as a process of one test.

use std::{
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{
    gateway::{Log, Proc, frontlas_binary},
    http,
    wait::{SOON, until},
};

/// The configuration of one test: free ports, and what the test sets.
#[derive(Clone, Debug)]
pub struct Config {
    tree: Value,
    args: Vec<String>,
    envs: Vec<(String, String)>,
}

/// An atlas that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Frontlas {
    child: Child,
    log: Log,
    api: SocketAddr,
    gateways: SocketAddr,
    admin: SocketAddr,
    // Certificates are read again, so the folder lives as long as the process.
    _dir: TempDir,
}

// === impl Config ===

impl Config {
    /// An atlas on free ports of this machine that keeps its state in memory and logs for machines.
    #[must_use]
    pub fn new() -> Self {
        let listen = || json!({"listen": {"addr": "127.0.0.1:0"}});
        let tree = json!({
            "control_plane": listen(),
            "frontier_plane": listen(),
            "observability": {"addr": "127.0.0.1:0"},
            "redis": {"mode": "memory"},
            "log": {"format": "json", "level": "info"},
            // No load balancer has to notice anything.
            "drain": {"accept_for": "100ms"},
        });
        Self { tree, args: Vec::new(), envs: Vec::new() }
    }

    /// One whose state is in the Redis at this address, or will be.
    #[must_use]
    pub fn redis(addr: SocketAddr) -> Self {
        Self::new().set("redis.mode", "standalone").set("redis.standalone.addr", addr.to_string())
    }

    /// Sets a key, its sections divided by dots: `limits.links`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let mut node = &mut self.tree;
        for section in key.split('.') {
            if !node.is_object() {
                *node = Value::Object(Map::new());
            }
            let Value::Object(sections) = node else { return self };
            node = sections.entry(section).or_insert(Value::Null);
        }
        *node = value.into();
        self
    }

    /// Adds arguments of the command line.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The file: JSON, which is YAML.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:#}\n", self.tree)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Frontlas ===

impl Frontlas {
    /// Starts the binary and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be built or does not come up; its output is in the error.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("frontlas.yaml");
        std::fs::write(&file, config.text())?;
        let mut command = Command::new(frontlas_binary()?);
        for name in ["LOG_LEVEL", "LOG_OUTPUT", "LOG_FORMAT", "LOG_FILE", "REDIS_TYPE"] {
            command.env_remove(name);
        }
        command.arg("--config").arg(&file).args(&config.args).envs(config.envs.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("frontlas cannot be started")?;
        let log = Log::collect(child.stdout.take(), child.stderr.take());
        let listening = match log.wait(SOON, |line| line.message() == "atlas listening") {
            Ok(line) => line,
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                return Err(error.context(log.tail()));
            }
        };
        let addr = |field| listening.addr(field).with_context(|| format!("no {field} in the log"));
        let (api, gateways) = (addr("control_plane")?, addr("frontier_plane")?);
        let admin = addr("admin")?;
        Ok(Self { child, log, api, gateways, admin, _dir: dir })
    }

    /// Where services and operators ask.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Where gateways connect.
    #[must_use]
    pub fn gateways(&self) -> SocketAddr {
        self.gateways
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What `/readyz` says.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn readyz(&self) -> anyhow::Result<http::Answer> {
        http::get(self.admin, "/readyz")
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it is not; with what it said.
    pub fn ready(&self) -> anyhow::Result<()> {
        self.says_ready(|answer| answer.status == 200)
    }

    /// Waits until `/readyz` says something that fits.
    ///
    /// # Errors
    /// When it does not; with what it said.
    pub fn says_ready(&self, fits: impl Fn(&http::Answer) -> bool) -> anyhow::Result<()> {
        let mut last = None;
        let waited = until("readiness of frontlas", SOON, || {
            last = self.readyz().ok();
            last.as_ref().is_some_and(&fits).then_some(())
        });
        waited.with_context(|| format!("last: {last:?}; {}", self.log.tail()))
    }

    /// The sum of a metric over its rows with these labels; 0 if there is none.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let answer = http::get(self.admin, "/metrics")?;
        anyhow::ensure!(answer.status == 200, "metrics: {answer:?}");
        Ok(http::sample(&answer.body, name, labels).unwrap_or(0.0))
    }

    /// What it logged so far, and what it will.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What the kernel knows of the process.
    #[must_use]
    pub fn proc(&self) -> Proc {
        Proc::new(self.child.id())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it runs on for so long.
    pub fn wait_exit(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        until("exit of frontlas", within, || child.try_wait().transpose())?.context("exit status")
    }
}

impl Drop for Frontlas {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
