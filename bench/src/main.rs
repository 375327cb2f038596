//! Flags; everything else is in the library.

use anyhow::Result;
use clap::{Parser, Subcommand};
use frontier_bench::{load, relay};

/// Measures Frontier beside its neighbours.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The bare relay: copies bytes between two sockets.
    Relay(relay::RelayArgs),
    /// The bare accept-read-write server.
    Greeter(relay::GreeterArgs),
    /// Native edges and services.
    #[command(subcommand)]
    Load(load::LoadCommand),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Relay(args) => relay::run_relay(&args),
        Command::Greeter(args) => relay::run_greeter(&args),
        Command::Load(command) => load::run(&command),
    }
}
