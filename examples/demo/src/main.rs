//! Shows a gateway, a service and edges at work on real input, in plain words.

mod edge;
mod gateway;
mod out;
mod service;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::gateway::{Gateway, memory_kib};
use self::out::say;
use self::service::Counters;

/// Edges of the show.
const EDGES: usize = 3;
/// Seconds that `--once` lasts.
const ONCE: u64 = 4;

/// Starts a gateway, a service and some edges, and shows what they do.
#[derive(Debug, Parser)]
struct Args {
    /// The gateway's binary
    #[arg(long, value_name = "PATH")]
    gateway_binary: PathBuf,

    /// A few seconds on free ports, then check that everything was right
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let binary = args.gateway_binary.canonicalize().context("--gateway-binary")?;
    say("Starting the gateway …");
    let mut gateway = Gateway::start(&binary, args.once).await?;
    say(format!("It takes edges on {} and services on {}.", gateway.edges, gateway.services));
    let counters = Arc::new(Counters::default());
    let mut tasks = JoinSet::new();
    let service = service::start(&gateway.services, Arc::clone(&counters), &mut tasks).await?;
    say(format!("A service named \"demo\" is connected (id {}).", service.id()));
    let mut edges = Vec::new();
    for number in 1..=EDGES {
        edges.push(edge::start(&gateway.edges, number, binary.clone(), &counters, &mut tasks).await?);
    }
    say(format!(
        "{EDGES} edges are connected. They publish readings of this machine, call the service, carry a file to it over"
    ));
    say("streams, and the service calls them back. Every second:");
    let process = gateway.id();
    if args.once {
        for _ in 0..ONCE {
            report(process, &counters).await;
        }
        return check(&counters);
    }
    say(
        "Connect a client of your own to the two addresses above; the README shows how. Ctrl-C ends the show.",
    );
    tokio::select! {
        _ = tokio::signal::ctrl_c() => say("\nEnding."),
        () = async { loop { report(process, &counters).await } } => {}
        error = gateway.ended() => return Err(error),
    }
    Ok(())
}

/// Waits a second and says what happened in it.
async fn report(gateway: Option<u32>, counters: &Counters) {
    let numbers = || {
        [&counters.calls_up, &counters.calls_down, &counters.readings, &counters.file_bytes]
            .map(|count: &AtomicU64| count.load(Ordering::Relaxed))
    };
    let before = numbers();
    sleep(Duration::from_secs(1)).await;
    let after = numbers();
    let [up, down, readings, bytes] = [0, 1, 2, 3].map(|index| after[index] - before[index]);
    let memory = gateway.and_then(memory_kib);
    let memory = memory.map_or_else(String::new, |kib| format!(", gateway memory {kib} KiB"));
    say(format!(
        "  {up} calls edge→service, {down} calls service→edge, {readings} readings acknowledged, {} KiB over streams{memory}",
        bytes / 1024
    ));
}

/// Whether the whole show took place without a mistake.
fn check(counters: &Counters) -> anyhow::Result<()> {
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    ensure!(count(&counters.mistakes) == 0, "{} mistakes", count(&counters.mistakes));
    ensure!(count(&counters.calls_up) > 0, "no call reached the service");
    ensure!(count(&counters.calls_down) > 0, "no call reached an edge");
    ensure!(count(&counters.readings) > 0, "no reading reached the service");
    ensure!(count(&counters.files) as usize >= EDGES, "not every edge carried its file");
    say("Everything was right.");
    Ok(())
}
