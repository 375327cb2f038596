//! A real Redis as a process of one test: `redis-server` of the machine, which keeps nothing on disk.

mod ask;
mod nodes;
pub mod sentinel;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use self::{
    ask::{ask, tell},
    nodes::Nodes,
    sentinel::Watched,
};
use crate::wait::{SOON, until};

/// Ports are free when they are asked for and may be taken a moment later.
const ATTEMPTS: usize = 20;

/// See the module documentation. Dropping it kills the process.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    addr: SocketAddr,
    options: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    // A replica writes to the folder it is in, whatever it is told to keep.
    dir: TempDir,
}

// === impl Redis ===

impl Redis {
    /// Starts one on a free port, with options as `redis-server` takes them: `["--requirepass", "x"]`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start<O: Into<OsString>>(options: impl IntoIterator<Item = O>) -> anyhow::Result<Self> {
        Self::start_with(options, [("", ""); 0])
    }

    /// Starts one with an environment of its own.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_with<O: Into<OsString>, N: Into<OsString>, V: Into<OsString>>(
        options: impl IntoIterator<Item = O>,
        envs: impl IntoIterator<Item = (N, V)>,
    ) -> anyhow::Result<Self> {
        let options: Vec<OsString> = options.into_iter().map(Into::into).collect();
        let envs: Vec<_> = envs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self::launch("--port", options, envs)
    }

    /// Starts one that speaks TLS alone.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_tls<O: Into<OsString>>(options: impl IntoIterator<Item = O>) -> anyhow::Result<Self> {
        Self::launch("--tls-port", options.into_iter().map(Into::into).collect(), Vec::new())
    }

    fn launch(port: &str, options: Vec<OsString>, envs: Vec<(OsString, OsString)>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        for _ in 0..ATTEMPTS {
            let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            if let Some(child) = launch(addr, port, &options, &envs, dir.path())? {
                return Ok(Self { child, addr, options, envs, dir });
            }
        }
        anyhow::bail!("no redis-server came up")
    }

    /// What it answers to one command; see [`ask`].
    ///
    /// # Errors
    /// When there is no answer, or it is an error.
    pub fn ask(&self, words: &[&[u8]]) -> anyhow::Result<String> {
        ask(self.addr, words)
    }

    /// The same for a command in plain words.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn tell(&self, command: &str) -> anyhow::Result<String> {
        tell(self.addr, command)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Kills it.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts it again where it was, empty.
    ///
    /// # Errors
    /// When it does not come up, or its port was taken meanwhile.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let port = if self.options.iter().any(|option| option == "--tls-cert-file") {
            "--tls-port"
        } else {
            "--port"
        };
        // The near end of somebody's connection may have it for a moment.
        self.child = until("redis-server at its port", SOON, || {
            launch(self.addr, port, &self.options, &self.envs, self.dir.path()).transpose()
        })??;
        Ok(())
    }

    /// Sends a signal: SIGSTOP and SIGCONT make it hang for a while.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `None` where it ended at once.
fn launch(
    addr: SocketAddr,
    port: &str,
    options: &[OsString],
    envs: &[(OsString, OsString)],
    dir: &Path,
) -> anyhow::Result<Option<Child>> {
    let mut command = Command::new("redis-server");
    command.envs(envs.iter().map(|(name, value)| (name, value)));
    if port == "--tls-port" {
        command.args(["--port", "0"]);
    }
    command.args([port, &addr.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(dir);
    command.args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("redis-server cannot be started; is it installed?")?;
    let up = until("redis-server", SOON, || {
        if TcpStream::connect(addr).is_ok() {
            return Some(true);
        }
        child.try_wait().ok().flatten().map(|_| false)
    });
    match up {
        Ok(true) => Ok(Some(child)),
        Ok(false) => Ok(None),
        Err(error) => {
            drop(child.kill());
            drop(child.wait());
            Err(error)
        }
    }
}
