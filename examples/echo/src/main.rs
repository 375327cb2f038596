//! A service for a cluster, small enough to see through, and an edge that calls it. The samples of `deploy/` run the service in pods, and
//! the tests on a real Kubernetes ask it what they want to know.

mod edge;
mod out;
mod service;

use std::path::PathBuf;

use clap::Parser;

/// Answers with what it was told and who it is.
const ECHO: &str = "echo";
/// Passes a text on to another edge's method `whoami`, wherever that edge is: the body is its ID, a space and the text.
const RELAY: &str = "relay";
/// How many different notes there were.
const NOTED: &str = "noted";
/// The topic of notes.
const NOTES: &str = "notes";
/// What edges offer: their name.
const WHOAMI: &str = "whoami";

/// An echo through a Frontier cluster.
#[derive(Debug, Parser)]
enum Args {
    /// Answer edges at all gateways of a cluster
    Service {
        /// Where the cluster's registry answers; several with commas between them
        #[arg(long, value_name = "ADDRESS", default_value = "http://127.0.0.1:40011", value_delimiter = ',')]
        frontlas: Vec<String>,
        /// What to call this instance (default: its host name)
        #[arg(long)]
        name: Option<String>,
    },
    /// Say something, and offer to be asked who one is
    Edge {
        /// Where the gateways take edges; several with commas between them
        #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:30012", value_delimiter = ',')]
        gateway: Vec<String>,
        /// Authorities that verify the gateways, a PEM file, for addresses that begin with tls://
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// What to answer when asked who one is
        #[arg(long, default_value = "an edge")]
        name: String,
        /// Stay until Ctrl-C, so that others can ask
        #[arg(long)]
        stay: bool,
        /// What to say
        #[arg(default_value = "hello")]
        text: String,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Service { frontlas, name } => service::run(frontlas, name).await,
        Args::Edge { gateway, ca, name, stay, text } => edge::run(gateway, ca, name, text, stay).await,
    }
}
