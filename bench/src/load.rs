//! The load: native edges and the services they talk to, in one process and one thread, the same through a relay and through a gateway.
//!
//! - [`peer`]: one end of a connection, without a socket.
//! - [`drive`]: sockets and the loop, for any protocol; [`native`]: greeting and keeping alive.
//! - [`crew`]: who takes part and how they come up.
//! - [`meter`], [`pattern`]: what is counted, and how payloads are checked.
//! - scenarios: [`exchange`], [`beside`], [`stream`], [`fleet`].
//! - [`geminio`]: the same for the protocol of the Go system.

use anyhow::Result;
use clap::Subcommand;
use frontier_wire::native::{frame::FrameType, proto::Welcome};
use prost::Message as _;

use self::{
    beside::{Beside, BesideArgs},
    crew::Target,
    drive::{Greeting, Role},
    exchange::{Exchange, ExchangeArgs, Kind},
    fleet::{Fleet, FleetArgs},
    native::Native,
    peer::{Input, Lane, Peer, header},
    stream::{Stream, StreamArgs},
};
use crate::{net, out};

pub mod beside;
pub mod crew;
pub mod drive;
pub mod exchange;
pub mod fleet;
pub mod geminio;
pub mod meter;
pub mod native;
pub mod pattern;
pub mod peer;
pub mod stream;
pub mod transport;

/// Commands of `frontier-bench load`; each prints one line of JSON.
#[derive(Subcommand, Clone, Debug)]
pub enum LoadCommand {
    /// Calls, answered with what they were sent.
    Call {
        /// Between whom.
        #[command(flatten)]
        target: Target,
        /// What.
        #[command(flatten)]
        args: ExchangeArgs,
    },
    /// Messages, acknowledged by their receiver.
    Publish {
        /// Between whom.
        #[command(flatten)]
        target: Target,
        /// What.
        #[command(flatten)]
        args: ExchangeArgs,
    },
    /// Small calls beside big ones.
    Beside {
        /// Between whom.
        #[command(flatten)]
        target: Target,
        /// What.
        #[command(flatten)]
        args: BesideArgs,
    },
    /// One full stream.
    Stream {
        /// Between whom.
        #[command(flatten)]
        target: Target,
        /// What.
        #[command(flatten)]
        args: StreamArgs,
    },
    /// Many idle edges: connecting, holding, coming back.
    Fleet(FleetArgs),
}

/// Length of an edge's first bytes, and a service's answer to them: what the bare server needs to pass for a gateway.
///
/// # Errors
/// Never with these peers; the codecs report it as an error.
pub fn greeting() -> Result<(usize, Vec<u8>)> {
    let role = Role::Edge(0);
    let mut edge = Peer::dial()?;
    edge.send(Lane::Session, header(FrameType::Hello, 0), &Greeting::edge(0).encode(role), &[])?;
    let hello = edge.pending().to_vec();
    let mut gateway = Peer::accept();
    let mut input = Input::new(&hello);
    while gateway.next(&mut input)?.is_some() {}
    let welcome = Welcome { version: 1, id: 1, ..Welcome::default() }.encode_to_vec();
    gateway.send(Lane::Session, header(FrameType::Welcome, 0), &welcome, &[])?;
    Ok((hello.len(), gateway.pending().to_vec()))
}

/// Runs a command and prints its sample.
///
/// # Errors
/// If the run failed; nothing is printed then.
pub fn run(command: &LoadCommand) -> Result<()> {
    net::raise_descriptors()?;
    let pin = match command {
        LoadCommand::Call { target, .. }
        | LoadCommand::Publish { target, .. }
        | LoadCommand::Beside { target, .. }
        | LoadCommand::Stream { target, .. } => target.pin,
        LoadCommand::Fleet(args) => args.pin,
    };
    if let Some(cpu) = pin {
        net::pin(cpu)?;
    }
    let sample = match command {
        LoadCommand::Call { target, args } => Exchange::run::<Native>(Kind::Call, args, target),
        LoadCommand::Publish { target, args } => Exchange::run::<Native>(Kind::Publish, args, target),
        LoadCommand::Beside { target, args } => Beside::run(args, target),
        LoadCommand::Stream { target, args } => Stream::run::<Native>(args, target),
        LoadCommand::Fleet(args) => Fleet::run(args),
    }?;
    out::line(&serde_json::to_string(&sample)?);
    Ok(())
}

#[cfg(test)]
mod tests;
