//! Who takes part in a scenario and how they come up: first the services, then the edges, then everybody is there.
//!
//! Through a gateway the services dial its service port and edges its edge port; through a relay this process listens, and the far end
//! of every edge connection is the service. Everything after that is the same.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{
    drive::{Dial, Greeting, Role},
    meter::Plan,
};

/// The method that services, and edges for calls towards them, answer with what they were sent.
pub const METHOD: &str = "echo";
/// The topic that services take.
pub const TOPIC: &str = "load";
/// The name of the services.
pub const SERVICE: &str = "bench";

/// Arguments of every scenario.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Where edges connect: the gateway's edge port or the relay.
    #[arg(long)]
    pub edge: SocketAddr,
    /// The gateway's service port.
    #[arg(long, conflicts_with = "far", required_unless_present = "far")]
    pub service: Option<SocketAddr>,
    /// Listen here as the service behind a relay.
    #[arg(long)]
    pub far: Option<SocketAddr>,
    /// Service connections to the gateway, as one instance.
    #[arg(long, default_value_t = 1)]
    pub service_conns: usize,
    /// Address that edges connect from.
    #[arg(long)]
    pub source: Option<IpAddr>,
    /// Seconds of load before anything counts.
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Processes whose CPU time and memory are the server's.
    #[arg(long = "server-pid")]
    pub servers: Vec<u32>,
    /// The CPU to run on.
    #[arg(long)]
    pub pin: Option<usize>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Crew {
    target: Target,
    edges: Vec<Option<usize>>,
    services: Vec<Option<usize>>,
    /// Far ends, by edge.
    fars: Vec<Option<usize>>,
    edge_ids: Vec<u64>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Services,
    Edges,
    Complete,
}

// === impl Target ===

impl Target {
    /// Warm-up and window.
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan {
            warmup: Duration::from_secs_f64(self.warmup),
            measure: Duration::from_secs_f64(self.seconds),
            servers: self.servers.clone(),
        }
    }

    /// How long a run may take in all before it has failed.
    #[must_use]
    pub fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.warmup + self.seconds + 30.0)
    }
}

// === impl Crew ===

impl Crew {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(target: Target, edges: usize) -> Self {
        let services = if target.far.is_some() { 0 } else { target.service_conns.max(1) };
        Self {
            target,
            edges: vec![None; edges],
            services: vec![None; services],
            fars: vec![None; edges],
            edge_ids: vec![0; edges],
            stage: Stage::Start,
        }
    }

    /// Whether everybody is there now, for the first time; called whenever something may have changed.
    ///
    /// # Errors
    /// If somebody cannot be dialled or listened for.
    pub fn complete(&mut self, net: &mut impl Dial) -> Result<bool> {
        if self.stage == Stage::Start {
            self.start_services(net)?;
            self.stage = Stage::Services;
        }
        if self.stage == Stage::Services && self.services.iter().all(Option::is_some) {
            for index in 0..self.edges.len() {
                let greeting = Greeting { methods: vec![METHOD.to_owned()], ..Greeting::edge(index) };
                net.dial(self.target.edge, self.target.source, Role::Edge(index), &greeting, None)?;
            }
            self.stage = Stage::Edges;
        }
        if self.stage == Stage::Edges && self.edges.iter().all(Option::is_some) {
            self.stage = Stage::Complete;
            return Ok(true);
        }
        Ok(false)
    }

    fn start_services(&self, net: &mut impl Dial) -> Result<()> {
        if let Some(at) = self.target.far {
            net.listen(at)?;
            return Ok(());
        }
        let to = self.target.service.context("neither --service nor --far")?;
        let greeting = Greeting {
            name: SERVICE.to_owned(),
            methods: vec![METHOD.to_owned()],
            topics: vec![TOPIC.to_owned()],
            ..Greeting::default()
        };
        for index in 0..self.services.len() {
            net.dial(to, None, Role::Service(index), &greeting, None)?;
        }
        Ok(())
    }

    /// Notes who is there.
    ///
    /// # Errors
    /// If nobody expects them.
    pub fn ready(&mut self, net: &impl Dial, key: usize) -> Result<()> {
        let (role, id) = net.who(key);
        let slot = match role {
            Role::Edge(index) => {
                self.edge_ids[index] = id;
                self.edges.get_mut(index)
            }
            Role::Service(index) => self.services.get_mut(index),
            Role::Far(index) => self.fars.get_mut(index),
            Role::Unknown => None,
        };
        match slot {
            Some(slot @ None) => *slot = Some(key),
            _ => bail!("{role:?} with ID {id} is one too many"),
        }
        Ok(())
    }

    /// Edges there shall be.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.edges.len()
    }

    /// The connection of an edge.
    ///
    /// # Errors
    /// If it is not there.
    pub fn edge(&self, index: usize) -> Result<usize> {
        self.edges.get(index).copied().flatten().with_context(|| format!("edge {index} is not there"))
    }

    /// The service's connection over which edge `index` is reached.
    ///
    /// # Errors
    /// If it is not there.
    pub fn service_of(&self, index: usize) -> Result<usize> {
        let key = if self.is_relayed() {
            self.fars.get(index)
        } else {
            self.services.get(index % self.services.len())
        };
        key.copied().flatten().with_context(|| format!("no service for edge {index}"))
    }

    /// The ID that the gateway gave an edge.
    #[must_use]
    pub fn edge_id(&self, index: usize) -> u64 {
        self.edge_ids.get(index).copied().unwrap_or_default()
    }

    /// Whether there is a relay between, and no gateway.
    #[must_use]
    pub const fn is_relayed(&self) -> bool {
        self.target.far.is_some()
    }
}
