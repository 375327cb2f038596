//! What the gateway's figures are measured against: the least that a process between two sockets, or behind one, must do.
//!
//! [`Relay`] is the bare relay: one thread, its own edge-triggered epoll loop, one upstream connection per edge connection, bytes copied
//! through one buffer in user space. It looks at nothing. [`Greeter`] is the bare accept-read-write server: it accepts, reads a hello of
//! a given length, writes a fixed answer, and holds the connection. Run as a program it answers with a Welcome, the same to everybody, so
//! that the very load that measures a gateway's new edges can measure it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;

mod greeter;
mod pair;
mod pipe;

pub use self::{greeter::Greeter, pipe::Relay};

/// Arguments of `frontier-bench relay`.
#[derive(Args, Clone, Debug)]
pub struct RelayArgs {
    /// Where edges connect.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Where each edge connection is passed on to.
    #[arg(long)]
    pub upstream: SocketAddr,
    /// The CPU to run on.
    #[arg(long)]
    pub pin: Option<usize>,
    /// Bytes of the copy buffer.
    #[arg(long, default_value_t = pipe::DEFAULT_BUFFER)]
    pub buffer: usize,
}

/// Arguments of `frontier-bench greeter`.
#[derive(Args, Clone, Debug)]
pub struct GreeterArgs {
    /// Where edges connect.
    #[arg(long)]
    pub listen: SocketAddr,
    /// The CPU to run on.
    #[arg(long)]
    pub pin: Option<usize>,
}

/// Serves until the process is killed.
///
/// # Errors
/// If the port is taken or the kernel runs out of descriptors.
pub fn run_relay(args: &RelayArgs) -> Result<()> {
    prepare(args.pin)?;
    let mut relay = Relay::bind(args.listen, args.upstream, args.buffer)?;
    loop {
        relay.turn(None).context("relay")?;
    }
}

/// Serves until the process is killed.
///
/// # Errors
/// If the port is taken or the kernel runs out of descriptors.
pub fn run_greeter(args: &GreeterArgs) -> Result<()> {
    prepare(args.pin)?;
    let (hello, answer) = crate::load::greeting()?;
    let mut greeter = Greeter::bind(args.listen, hello, answer)?;
    loop {
        greeter.turn(None::<Duration>).context("greeter")?;
    }
}

fn prepare(pin: Option<usize>) -> Result<()> {
    if let Some(cpu) = pin {
        crate::net::pin(cpu)?;
    }
    crate::net::raise_descriptors()?;
    Ok(())
}

#[cfg(test)]
mod tests;
