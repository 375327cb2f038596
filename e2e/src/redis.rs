//! A real Redis as a process of one test: `redis-server` of the machine, which keeps nothing on disk.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{SOON, until};

/// Ports are free when they are asked for and may be taken a moment later.
const ATTEMPTS: usize = 20;

/// See the module documentation. Dropping it kills the process.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    addr: SocketAddr,
    options: Vec<OsString>,
}

// === impl Redis ===

impl Redis {
    /// Starts one on a free port, with options as `redis-server` takes them: `["--requirepass", "x"]`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start<O: Into<OsString>>(options: impl IntoIterator<Item = O>) -> anyhow::Result<Self> {
        let options: Vec<OsString> = options.into_iter().map(Into::into).collect();
        for _ in 0..ATTEMPTS {
            let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            if let Some(child) = launch(addr, "--port", &options)? {
                return Ok(Self { child, addr, options });
            }
        }
        anyhow::bail!("no redis-server came up")
    }

    /// Starts one that speaks TLS alone.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_tls<O: Into<OsString>>(options: impl IntoIterator<Item = O>) -> anyhow::Result<Self> {
        let options: Vec<OsString> = options.into_iter().map(Into::into).collect();
        for _ in 0..ATTEMPTS {
            let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            if let Some(child) = launch(addr, "--tls-port", &options)? {
                return Ok(Self { child, addr, options });
            }
        }
        anyhow::bail!("no redis-server came up")
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
        self.child = launch(self.addr, port, &self.options)?.context("the port was taken")?;
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
fn launch(addr: SocketAddr, port: &str, options: &[OsString]) -> anyhow::Result<Option<Child>> {
    let mut command = Command::new("redis-server");
    if port == "--tls-port" {
        command.args(["--port", "0"]);
    }
    command.args([port, &addr.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
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
