//! A Redis Cluster: three masters with a replica each.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use super::Redis;
use crate::wait::{SOON, until};

/// Slots of the masters, as they begin.
const SLOTS: [&str; 3] = ["0 5460", "5461 10922", "10923 16383"];

/// See the module documentation.
#[derive(Debug)]
pub struct Nodes {
    /// First the masters, as they were at the start.
    pub all: Vec<Redis>,
}

// === impl Nodes ===

impl Nodes {
    /// Starts all of them and waits until they are a whole.
    ///
    /// # Errors
    /// When they do not become one.
    pub fn start() -> anyhow::Result<Self> {
        let (mut all, mut buses) = (Vec::new(), Vec::new());
        for _ in 0..2 * SLOTS.len() {
            let bus = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let bus_text = bus.to_string();
            let node = Redis::start([
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1000",
                "--repl-diskless-sync-delay",
                "0",
                "--cluster-port",
                &bus_text,
            ])?;
            all.push(node);
            buses.push(bus);
        }
        let nodes = Self { all };
        nodes.join(&buses)?;
        Ok(nodes)
    }

    fn join(&self, buses: &[u16]) -> anyhow::Result<()> {
        for (node, slots) in self.all.iter().zip(SLOTS) {
            node.tell(&format!("CLUSTER ADDSLOTSRANGE {slots}"))?;
        }
        let first = self.all.first().context("no node")?;
        for (node, bus) in self.all.iter().zip(buses).skip(1) {
            first.tell(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.addr().port()))?;
        }
        self.all_say("CLUSTER INFO", "cluster_known_nodes:6")?;
        for (master, replica) in self.all.iter().zip(self.all.iter().skip(SLOTS.len())) {
            let id = master.tell("CLUSTER MYID")?;
            until("a replica that knows its master", SOON, || {
                replica.tell(&format!("CLUSTER REPLICATE {id}")).ok()
            })?;
        }
        self.all_say("CLUSTER INFO", "cluster_state:ok")?;
        for replica in self.all.iter().skip(SLOTS.len()) {
            until("a replica", SOON, || {
                replica.tell("INFO replication").ok()?.contains("master_link_status:up").then_some(())
            })?;
        }
        until("nodes that know all places", SOON, || {
            let knows = |node: &Redis| {
                node.tell("CLUSTER SLOTS").is_ok_and(|slots| slots.matches("127.0.0.1").count() == 6)
            };
            self.all.iter().all(knows).then_some(())
        })
    }

    fn all_say(&self, command: &str, text: &str) -> anyhow::Result<()> {
        until(text, SOON, || {
            let says = |node: &Redis| node.tell(command).is_ok_and(|told| told.contains(text));
            self.all.iter().all(says).then_some(())
        })
    }

    /// Where they are.
    #[must_use]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.all.iter().map(Redis::addr).collect()
    }

    /// Those that are masters now.
    pub fn masters(&self) -> impl Iterator<Item = &Redis> {
        self.all.iter().filter(|node| node.tell("ROLE").is_ok_and(|role| role.starts_with("master")))
    }

    /// Moves so many slots from one of the first masters to another while everything goes on.
    ///
    /// # Errors
    /// When that fails.
    pub fn reshard(&self, from: usize, to: usize, slots: u16) -> anyhow::Result<()> {
        let node = |at: usize| self.all.get(at).context("no such node");
        let (source, target) = (node(from)?.tell("CLUSTER MYID")?, node(to)?.tell("CLUSTER MYID")?);
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "reshard", &node(0)?.addr().to_string(), "--cluster-yes"]);
        command.args(["--cluster-from", &source, "--cluster-to", &target]);
        command.args(["--cluster-slots", &slots.to_string()]).stdin(Stdio::null());
        let output = command.output().context("redis-cli cannot be run; is it installed?")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        // Everybody must have heard of it before the next time.
        self.all_say("CLUSTER INFO", "cluster_state:ok")?;
        until("a cluster without open slots", SOON, || {
            let mut check = Command::new("redis-cli");
            check.args(["--cluster", "check", &node(0).ok()?.addr().to_string()]);
            check.stdin(Stdio::null()).output().ok()?.status.success().then_some(())
        })
    }
}
