//! The built binary `frontier` as a process of one test.

mod binary;
mod config;
mod log;
mod proc;

use std::{
    io,
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;

pub use self::{
    binary::{frontlas as frontlas_binary, needs_fault_points, path as binary},
    config::Config,
    log::{Line, Log},
    proc::Proc,
};
use crate::{
    http,
    wait::{SOON, until},
};

/// A gateway that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    log: Log,
    edges: SocketAddr,
    services: SocketAddr,
    operators: Line,
    // The configuration file is read again on reloads, so it lives as long as the process.
    dir: TempDir,
}

// === impl Gateway ===

impl Gateway {
    /// Starts the binary and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be built or does not come up; its output is in the error.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("frontier.yaml");
        std::fs::write(&file, config.text())?;
        let mut command = match config.nofile {
            // The gateway raises its soft limit to the hard one, so both are set, which a shell can do.
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]).arg(binary()?);
                shell
            }
            None => Command::new(binary()?),
        };
        command.arg("--config").arg(&file).args(&config.args).envs(config.envs.iter().cloned());
        for name in ["LOG_LEVEL", "LOG_OUTPUT", "LOG_FORMAT", "LOG_FILE"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("frontier cannot be started")?;
        let log = Log::collect(child.stdout.take(), child.stderr.take());
        let listening = match log.wait(SOON, |line| line.message() == "gateway listening") {
            Ok(line) => line,
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                return Err(error.context(log.tail()));
            }
        };
        let operators = log.wait(SOON, |line| line.message() == "operators' ports listening")?;
        let edges = listening.addr("edges").context("no address of edges in the log")?;
        let services = listening.addr("services").context("no address of services in the log")?;
        Ok(Self { child, log, edges, services, operators, dir })
    }

    /// Where edges connect.
    #[must_use]
    pub fn edges(&self) -> SocketAddr {
        self.edges
    }

    /// Where services connect.
    #[must_use]
    pub fn services(&self) -> SocketAddr {
        self.services
    }

    /// Where the control plane listens.
    ///
    /// # Errors
    /// When it is off.
    pub fn control(&self) -> anyhow::Result<SocketAddr> {
        self.operators.addr("control").context("no control plane")
    }

    /// Where health and metrics are.
    ///
    /// # Errors
    /// When the log did not say.
    pub fn admin(&self) -> anyhow::Result<SocketAddr> {
        self.operators.addr("admin").context("no admin port")
    }

    /// The sum of a metric over its rows with these labels, such as `reason="rate"`; 0 if there is none.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let answer = http::get(self.admin()?, "/metrics")?;
        anyhow::ensure!(answer.status == 200, "metrics: {answer:?}");
        Ok(http::sample(&answer.body, name, labels).unwrap_or(0.0))
    }

    /// Waits until a metric is at least this high.
    ///
    /// # Errors
    /// When it stays below, or the metrics cannot be read.
    pub fn metric_reaches(&self, name: &str, labels: &[&str], least: f64) -> anyhow::Result<()> {
        let mut last = Ok(0.0);
        let reached = until(&format!("{name} {labels:?} at {least}"), SOON, || {
            last = self.metric(name, labels);
            last.as_ref().is_ok_and(|value| *value >= least).then_some(())
        });
        reached.with_context(|| format!("last value: {last:?}"))
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

    /// Sets how many files it may have open from now on (`None`: as many as it wants); gives what it was before.
    ///
    /// # Errors
    /// When the process is gone or the limit is above the hard one.
    pub fn limit_files(&self, limit: Option<u64>) -> anyhow::Result<Option<u64>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        // Its hard limit is ours.
        let maximum = getrlimit(Resource::Nofile).maximum;
        Ok(prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit, maximum })?.current)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Changes its file and tells it so (SIGHUP).
    ///
    /// # Errors
    /// When the file cannot be written or the process is gone.
    pub fn reload(&self, config: &Config) -> anyhow::Result<()> {
        std::fs::write(self.dir.path().join("frontier.yaml"), config.text())?;
        self.signal(Signal::HUP)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it runs on for so long.
    pub fn wait_exit(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        until("exit of the gateway", within, || child.try_wait().transpose())?.context("exit status")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
