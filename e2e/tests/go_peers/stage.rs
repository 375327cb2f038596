//! What a scenario finds: a gateway of its own, and who plays the edge and the service.

use std::sync::Arc;

use anyhow::Context;
use frontier_e2e::{
    gateway::{Config, Gateway},
    http,
    player::{Command, Handle, Kind, Payload, Pending, Player},
    wait::{SOON, until},
};
use serde_json::Value;

/// A story that pairs of players tell.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// A claim.
    pub(crate) name: &'static str,
    /// Which pairs it is for: the edge's kind, the service's kind.
    pub(crate) pairs: fn(Kind, Kind) -> bool,
    /// How the gateway is configured.
    pub(crate) config: fn() -> Config,
    /// The story.
    pub(crate) play: fn(&Stage) -> anyhow::Result<()>,
}

/// See the module documentation.
pub(crate) struct Stage {
    /// The gateway.
    pub(crate) gateway: Gateway,
    /// Plays edges.
    pub(crate) edges: Arc<Player>,
    /// Plays services.
    pub(crate) services: Arc<Player>,
}

/// For every pair.
pub(crate) fn all(_: Kind, _: Kind) -> bool {
    true
}

/// For pairs of Go peers.
pub(crate) fn go(edge: Kind, service: Kind) -> bool {
    edge.is_go() && service.is_go()
}

/// Each kind on each side once, with the same or with ours on the other.
pub(crate) fn sides(edge: Kind, service: Kind) -> bool {
    edge == service || edge == Kind::Rust || service == Kind::Rust
}

/// Each kind once, as both.
pub(crate) fn kinds(edge: Kind, service: Kind) -> bool {
    edge == service
}

/// Fails the scenario if two values differ.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr) => {{
        let (left, right) = (&$left, &$right);
        anyhow::ensure!(left == right, "{} is {left:?}, not {right:?}", stringify!($left));
    }};
}

// === impl Scenario ===

impl Scenario {
    /// With a gateway on its defaults.
    pub(crate) const fn new(
        name: &'static str,
        pairs: fn(Kind, Kind) -> bool,
        play: fn(&Stage) -> anyhow::Result<()>,
    ) -> Self {
        Self { name, pairs, config: Config::new, play }
    }
}

// === impl Stage ===

impl Stage {
    pub(crate) fn new(config: &Config, edge: Kind, service: Kind) -> anyhow::Result<Self> {
        let gateway = Gateway::start(config)?;
        Ok(Self {
            gateway,
            edges: Arc::new(Player::start(edge)?),
            services: Arc::new(Player::start(service)?),
        })
    }

    /// What connects an edge.
    pub(crate) fn edge_command(&self, meta: &str) -> Command {
        let address = self.gateway.edges().to_string();
        Command { role: "edge", address, data: Payload::from(meta), ..Command::default() }
    }

    /// What connects a service.
    pub(crate) fn service_command(&self, name: &str, topics: &[&str]) -> Command {
        let topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        let address = self.gateway.services().to_string();
        Command { role: "service", address, name: name.to_owned(), topics, ..Command::default() }
    }

    /// An edge.
    pub(crate) fn edge(&self) -> anyhow::Result<Handle> {
        self.edge_by(self.edge_command("an edge"))
    }

    /// An edge connected by this command.
    pub(crate) fn edge_by(&self, command: Command) -> anyhow::Result<Handle> {
        connect(&self.edges, &command).context("edge")
    }

    /// A service that takes these topics.
    pub(crate) fn service(&self, name: &str, topics: &[&str]) -> anyhow::Result<Handle> {
        self.service_by(self.service_command(name, topics))
    }

    /// A service connected by this command.
    pub(crate) fn service_by(&self, command: Command) -> anyhow::Result<Handle> {
        connect(&self.services, &command).context("service")
    }

    /// Begins to connect an edge; the answer has its number.
    pub(crate) fn begin_edge(&self, meta: &str) -> anyhow::Result<Pending> {
        self.edges.begin(Command { verb: "connect", ..self.edge_command(meta) })
    }

    /// An edge whose connection can be broken.
    pub(crate) fn fragile_edge(&self) -> anyhow::Result<Handle> {
        self.edge_by(Command { how: "breakable", ..self.edge_command("fragile") })
    }

    /// A service whose connection can be broken.
    pub(crate) fn fragile_service(&self, name: &str) -> anyhow::Result<Handle> {
        self.service_by(Command { how: "breakable", ..self.service_command(name, &[]) })
    }

    /// What the control plane answers.
    pub(crate) fn json(&self, path: &str) -> anyhow::Result<Value> {
        let answer = http::get(self.gateway.control()?, path)?;
        anyhow::ensure!(answer.status == 200, "{path}: {answer:?}");
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// Waits until so many edges, or services, are connected.
    pub(crate) fn connected(&self, what: &str, count: u64) -> anyhow::Result<()> {
        until(&format!("{count} {what} connected"), 2 * SOON, || {
            (self.json(&format!("/v1/{what}")).ok()?.get("count")? == count).then_some(())
        })
    }
}

/// Connects. Clients of A and B miss an answer that comes faster than they begin to wait for it, and give up after 10 s.
fn connect(player: &Arc<Player>, command: &Command) -> anyhow::Result<Handle> {
    let mut connected = Handle::connect(player, command.clone())?;
    if matches!(player.kind(), Kind::A | Kind::B) && connected.as_ref().is_err_and(|error| error == "timeout")
    {
        connected = Handle::connect(player, command.clone())?;
    }
    connected.map_err(anyhow::Error::msg)
}

/// What a peer is told: Go applications compare texts, ours look at codes.
pub(crate) fn told(who: &Handle, error: &str, text: &str, code: &str) -> anyhow::Result<()> {
    let expected = if who.kind().is_go() { text } else { code };
    anyhow::ensure!(error == expected, "{} was told {error:?}, not {expected:?}", who.kind());
    Ok(())
}
