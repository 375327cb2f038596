//! Flags; everything else is in the library.

use anyhow::Result;
use clap::{Parser, Subcommand};
use frontier_bench::{
    brokers, client,
    harness::{run, server},
    load, peers, relay, store,
};

/// Measures Frontier beside its neighbours.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Measures everything and prints the table.
    Run(run::RunArgs),
    /// The bare relay: copies bytes between two sockets.
    Relay(relay::RelayArgs),
    /// The bare accept-read-write server.
    Greeter(relay::GreeterArgs),
    /// Native edges and services.
    #[command(subcommand)]
    Load(load::LoadCommand),
    /// Edges and services that speak geminio.
    #[command(subcommand)]
    Geminio(load::geminio::GeminioCommand),
    /// Edges and a service on Go's geminio module.
    Peers(peers::PeersArgs),
    /// Edges and services of the SDK.
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Clients of nats-server and mosquitto.
    #[command(subcommand)]
    Broker(brokers::BrokerCommand),
    /// The store of a cluster's registry on Redis.
    Store(store::StoreArgs),
    /// Becomes another program that ends with the process that started it.
    #[command(hide = true)]
    Exec(server::ExecArgs),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Exec(args) => server::exec(&args),
        Command::Relay(args) => relay::run_relay(&args),
        Command::Greeter(args) => relay::run_greeter(&args),
        Command::Load(command) => load::run(&command),
        Command::Geminio(command) => load::geminio::run(&command),
        Command::Peers(args) => peers::run(&args),
        Command::Client(command) => client::run(&command),
        Command::Broker(command) => brokers::run(&command),
        Command::Store(args) => store::run(&args),
    }
}
