//! The load in geminio, the protocol of the Go system: edges and the services they talk to in one process and one thread, on the
//! client's role of `frontier_wire::geminio`, the same through a relay and through a gateway. Behind a relay the service is the server's
//! role.
//!
//! What is sent looks as a Go peer would send it, down to the unset times in every packet; unlike Go peers, this load is no ceiling.
//!
//! - [`drive`]: greeting and keeping alive; the loop is that of the native load.
//! - scenarios: those of the native load; [`exchange`] and [`stream`] say how geminio carries what is in them.

use anyhow::Result;
use clap::Subcommand;
use frontier_wire::geminio::{data::Object, time::Time};

use self::drive::Geminio;
use super::{
    crew::Target,
    exchange::{Exchange, ExchangeArgs, Kind},
    fleet::{Fleet, FleetArgs},
    stream::{Stream, StreamArgs},
};
use crate::{net, out};

pub mod drive;
pub mod exchange;
pub mod stream;

/// Commands of `frontier-bench geminio`; each prints one line of JSON.
#[derive(Subcommand, Clone, Debug)]
pub enum GeminioCommand {
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
    /// One full stream.
    Stream {
        /// Between whom.
        #[command(flatten)]
        target: Target,
        /// What.
        #[command(flatten)]
        args: StreamArgs,
    },
    /// Many idle edges: connecting, holding.
    Fleet(FleetArgs),
}

/// Runs a command and prints its sample.
///
/// # Errors
/// If the run failed; nothing is printed then.
pub fn run(command: &GeminioCommand) -> Result<()> {
    net::raise_descriptors()?;
    let pin = match command {
        GeminioCommand::Call { target, .. }
        | GeminioCommand::Publish { target, .. }
        | GeminioCommand::Stream { target, .. } => target.pin,
        GeminioCommand::Fleet(args) => args.pin,
    };
    if let Some(cpu) = pin {
        net::pin(cpu)?;
    }
    let sample = match command {
        GeminioCommand::Call { target, args } => Exchange::run::<Geminio>(Kind::Call, args, target),
        GeminioCommand::Publish { target, args } => Exchange::run::<Geminio>(Kind::Publish, args, target),
        GeminioCommand::Stream { target, args } => Stream::run::<Geminio>(args, target),
        GeminioCommand::Fleet(args) => Fleet::run_geminio(args),
    }?;
    out::line(&serde_json::to_string(&sample)?);
    Ok(())
}

/// An object as Go peers write them: with times that are not set.
fn object() -> Object<'static> {
    Object { deadline: Some(Time::ZERO), context: Some(Time::ZERO), ..Object::default() }
}

#[cfg(test)]
mod tests;
