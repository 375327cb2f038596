//! A master with a replica, watched by three sentinels.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use tempfile::TempDir;

use super::{Redis, tell};
use crate::wait::{SOON, until};

/// What the sentinels call the master.
pub const MASTER: &str = "m";
/// How long a master must be silent before they agree that it is down.
pub const DOWN_AFTER: Duration = Duration::from_millis(500);

/// See the module documentation.
#[derive(Debug)]
pub struct Watched {
    /// Two servers of data, one of which is the master.
    pub data: Vec<Redis>,
    sentinels: Vec<Sentinel>,
}

/// A sentinel rewrites its configuration, so it has a file.
#[derive(Debug)]
struct Sentinel {
    child: Child,
    addr: SocketAddr,
    _dir: TempDir,
}

// === impl Watched ===

impl Watched {
    /// Starts all of them and waits until they know each other.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn start() -> anyhow::Result<Self> {
        let master = Redis::start([""; 0])?;
        let port = master.addr().port().to_string();
        let replica =
            Redis::start(["--replicaof", "127.0.0.1", port.as_str(), "--repl-diskless-sync-delay", "0"])?;
        until("the replica", SOON, || {
            replica.tell("INFO replication").ok()?.contains("master_link_status:up").then_some(())
        })?;
        let sentinels = (0..3).map(|_| Sentinel::start(master.addr())).collect::<anyhow::Result<Vec<_>>>()?;
        for sentinel in &sentinels {
            until("the sentinels", SOON, || {
                let told = tell(sentinel.addr, &format!("SENTINEL MASTER {MASTER}")).ok()?;
                let field = |name: &str| told.lines().skip_while(|line| *line != name).nth(1);
                let whole = field("num-other-sentinels") == Some("2")
                    && field("num-slaves") == Some("1")
                    && field("flags") == Some("master");
                whole.then_some(())
            })?;
        }
        Ok(Self { data: vec![master, replica], sentinels })
    }

    /// Where the sentinels are.
    #[must_use]
    pub fn sentinels(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| sentinel.addr.to_string()).collect()
    }

    /// Where the master is, as the server of data itself says.
    #[must_use]
    pub fn master(&self) -> Option<usize> {
        self.data.iter().position(|server| server.tell("ROLE").is_ok_and(|role| role.starts_with("master")))
    }

    /// Has the sentinels make the other server the master, and waits until both agree.
    ///
    /// # Errors
    /// When they refuse, or it takes too long.
    pub fn fail_over(&self) -> anyhow::Result<()> {
        let (from, to) = self.sides()?;
        // Sentinels refuse to begin again so soon after the last time.
        until("a sentinel that begins", SOON, || {
            let mut asked = self.sentinels.iter();
            asked.find_map(|sentinel| tell(sentinel.addr, &format!("SENTINEL FAILOVER {MASTER}")).ok())
        })?;
        until("the failover", SOON, || {
            let is =
                |server: &Redis, role: &str| server.tell("ROLE").is_ok_and(|told| told.starts_with(role));
            (is(to, "master") && is(from, "slave")).then_some(())
        })
    }

    /// Kills the master, and waits until the other server has taken its place.
    ///
    /// # Errors
    /// When it does not.
    pub fn kill_master(&mut self) -> anyhow::Result<()> {
        let at = self.master().context("no master")?;
        self.data.get_mut(at).context("no master")?.kill();
        until("the replica in the place of its master", SOON, || self.master())?;
        Ok(())
    }

    fn sides(&self) -> anyhow::Result<(&Redis, &Redis)> {
        let at = self.master().context("no master")?;
        Ok((self.data.get(at).context("no master")?, self.data.get(1 - at).context("no replica")?))
    }
}

// === impl Sentinel ===

impl Sentinel {
    fn start(master: SocketAddr) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("sentinel.conf");
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let text = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds {MASTER} {}\nsentinel failover-timeout {MASTER} 3000\n",
            addr.port(),
            dir.path().display(),
            master.port(),
            DOWN_AFTER.as_millis(),
        );
        fs::write(&file, text)?;
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("redis-server cannot be started; is it installed?")?;
        let sentinel = Self { child, addr, _dir: dir };
        until("a sentinel", SOON, || tell(addr, "PING").ok())?;
        Ok(sentinel)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
