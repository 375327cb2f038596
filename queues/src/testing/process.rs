//! A server that listens on a port, as a process of one test.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use frontier_ops::testing::free_port;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// What a loaded machine may take to start a broker that is written in Java or Erlang.
const START: Duration = Duration::from_secs(180);

/// How often a condition is looked at: there is no event of another process to wait for.
const LOOK: Duration = Duration::from_millis(10);

type Make = Box<dyn Fn(&Path, SocketAddr) -> Command + Send>;

/// See the module documentation. Dropping it kills the process and all its children.
pub struct Server {
    make: Make,
    child: Option<Child>,
    addr: SocketAddr,
    dir: TempDir,
}

// === impl Server ===

impl Server {
    /// Starts what `make` makes of a directory and an address that is free now.
    pub fn start(make: impl Fn(&Path, SocketAddr) -> Command + Send + 'static) -> anyhow::Result<Self> {
        let addr = free_port()?;
        let mut server = Self { make: Box::new(make), child: None, addr, dir: tempfile::tempdir()? };
        server.restart()?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it again where it was, with what it has on disk; kills it first if it runs.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let log = std::fs::File::create(self.dir.path().join("log"))?;
        let mut command = (self.make)(self.dir.path(), self.addr);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: brokers have helpers, which must go with them.
        command.process_group(0);
        let child =
            command.spawn().with_context(|| format!("{:?} cannot be started", command.get_program()))?;
        let child = self.child.insert(child);
        let start = Instant::now();
        while TcpStream::connect(self.addr).is_err() {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("ended at once: {status}: {}", self.log());
            }
            anyhow::ensure!(start.elapsed() < START, "did not come up: {}", self.log());
            std::thread::park_timeout(LOOK);
        }
        // What listens there must be this one.
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("ended, and another listens on {}: {status}: {}", self.addr, self.log());
        }
        Ok(())
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(signal(&child, Signal::KILL));
            drop(child.wait());
            // Its port is free when all of its group are gone.
            let start = Instant::now();
            while TcpStream::connect(self.addr).is_ok() && start.elapsed() < START {
                std::thread::park_timeout(LOOK);
            }
        }
    }

    /// Makes it hang; gives back when it does. A thread that runs elsewhere at the moment of the signal goes on for a while.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        let pid = self.child.as_ref().context("it does not run")?.id();
        let start = Instant::now();
        while !stands_still(pid)? {
            anyhow::ensure!(start.elapsed() < START, "it does not stop");
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// Makes it go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.chars().skip(text.chars().count().saturating_sub(2000)).collect()
    }

    fn signal(&self, what: Signal) -> anyhow::Result<()> {
        Ok(signal(self.child.as_ref().context("it does not run")?, what)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(child: &Child, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(kill_process_group(pid, signal)?)
}

/// What a command prints. It gets so many seconds.
pub(super) fn output(command: &mut Command, seconds: u64) -> anyhow::Result<String> {
    let mut limited = Command::new("timeout");
    limited.arg(seconds.to_string()).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        limited.envs(value.map(|value| (name, value)));
    }
    if let Some(dir) = command.get_current_dir() {
        limited.current_dir(dir);
    }
    let output = limited.stdin(Stdio::null()).output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    anyhow::ensure!(output.status.success(), "{:?}: {}: {out}{err}", command.get_program(), output.status);
    Ok(out.into_owned())
}

/// Whether all threads of a process are stopped.
fn stands_still(pid: u32) -> anyhow::Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
        // The state comes behind the name, which is in parentheses and may have some itself.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if state != Some('T') {
            return Ok(false);
        }
    }
    Ok(true)
}
