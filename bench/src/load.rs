//! The load: native edges and the services they talk to, in one process and one thread, the same through a relay and through a gateway.
//!
//! - [`peer`]: one end of a connection, without a socket.
//! - [`drive`]: sockets, the loop, greeting, keeping alive.
//! - [`crew`]: who takes part and how they come up.
//! - [`meter`], [`pattern`]: what is counted, and how payloads are checked.
//! - scenarios: [`exchange`].

use anyhow::Result;
use clap::Subcommand;

use self::{
    crew::Target,
    exchange::{Exchange, ExchangeArgs, Kind},
};
use crate::{net, out};

pub mod crew;
pub mod drive;
pub mod exchange;
pub mod meter;
pub mod pattern;
pub mod peer;
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
}

/// Runs a command and prints its sample.
///
/// # Errors
/// If the run failed; nothing is printed then.
pub fn run(command: &LoadCommand) -> Result<()> {
    net::raise_descriptors()?;
    let sample = match command {
        LoadCommand::Call { target, args } => prepared(target, || Exchange::run(Kind::Call, args, target)),
        LoadCommand::Publish { target, args } => {
            prepared(target, || Exchange::run(Kind::Publish, args, target))
        }
    }?;
    out::line(&serde_json::to_string(&sample)?);
    Ok(())
}

fn prepared<R>(target: &Target, run: impl FnOnce() -> Result<R>) -> Result<R> {
    if let Some(cpu) = target.pin {
        net::pin(cpu)?;
    }
    run()
}

#[cfg(test)]
mod tests;
