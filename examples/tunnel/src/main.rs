//! Reaches TCP ports behind an edge: an agent dials them, a listener carries connections to it through streams.
//!
//! ```text
//!  curl ──TCP──▶ tunnel listen ══ stream ══▶ frontier ══ stream ══▶ tunnel agent ──TCP──▶ web server
//!                (a service)                                        (an edge)
//! ```

mod agent;
mod carry;
mod listen;
mod out;
mod target;

use std::net::SocketAddr;

use clap::Parser;

use self::target::{Pattern, Target};

/// What agents answer streams for; other edges refuse streams of this name.
const STREAM: &str = "tunnel";
/// How the meta of an agent begins; its name follows.
const META: &str = "tunnel/";

/// Reaches TCP ports behind an edge, through a gateway.
#[derive(Debug, Parser)]
enum Args {
    /// Run where the ports are: dials what it may, for listeners
    Agent {
        /// Where the gateway takes edges
        #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:30012")]
        gateway: String,
        /// What listeners call this agent
        #[arg(long, default_value = "agent")]
        name: String,
        /// What it may dial, as HOST:PORT with * for any; give it again for more. Nothing else is dialled
        #[arg(long, value_name = "HOST:PORT", required = true)]
        allow: Vec<Pattern>,
    },
    /// Run where the clients are: carries connections to an agent's target
    Listen {
        /// Where the gateway takes services
        #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:30011")]
        gateway: String,
        /// The agent: the ID of the edge, or the name the agent was given
        #[arg(long, value_name = "ID|NAME")]
        edge: String,
        /// What the agent dials for each connection
        #[arg(long, value_name = "HOST:PORT")]
        to: Target,
        /// Where clients connect
        #[arg(long, value_name = "ADDRESS")]
        listen: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Agent { gateway, name, allow } => agent::run(&gateway, &name, allow).await,
        Args::Listen { gateway, edge, to, listen } => listen::run(&gateway, edge, to, listen).await,
    }
}
