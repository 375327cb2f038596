//! Shows a gateway, a service and edges at work on real input, in plain words.

mod counters;
mod edge;
mod gateway;
mod out;
mod service;

use std::{
    future::{Future, poll_fn},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    counters::Counters,
    gateway::{Gateway, memory_kib},
    out::say,
};

/// Edges of the show.
const EDGES: usize = 3;
/// Seconds that `--once` lasts.
const ONCE: u64 = 4;
/// How long edges may take to finish what is under way, a file included.
const FINISH: Duration = Duration::from_secs(30);
/// Seconds after which it is said again how to take part: a line per second pushes it out of sight.
const REMIND: u64 = 60;

/// Starts a gateway, a service and some edges, and shows what they do.
#[derive(Debug, Parser)]
struct Args {
    /// The gateway's binary
    #[arg(long, value_name = "PATH")]
    gateway_binary: PathBuf,

    /// A few seconds on free ports, then check that everything was right
    #[arg(long)]
    once: bool,

    /// On free ports instead of the gateway's own
    #[arg(long)]
    free_ports: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let once = args.once;
    let end = end()?;
    tokio::select! {
        // Whatever it has started ends with it.
        outcome = run(args) => outcome,
        () = end => {
            say("\nEnding.");
            ensure!(!once, "told to end before everything was checked");
            Ok(())
        }
    }
}

/// Waits until somebody wants it to end: by Ctrl-C, by closing the terminal, or by `kill`.
fn end() -> anyhow::Result<impl Future<Output = ()>> {
    let kinds = [SignalKind::interrupt(), SignalKind::hangup(), SignalKind::terminate()];
    let mut signals = kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>()?;
    Ok(async move {
        poll_fn(|cx| match signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    })
}

async fn run(args: Args) -> anyhow::Result<()> {
    let binary = args.gateway_binary.canonicalize().context("--gateway-binary")?;
    say("Starting the gateway …");
    let mut gateway = Gateway::start(&binary, args.once || args.free_ports).await?;
    say(format!("It takes edges on {} and services on {}.", gateway.edges, gateway.services));
    let counters = Arc::new(Counters::default());
    // The service outlives what the edges do.
    let (mut serving, mut tasks) = (JoinSet::new(), JoinSet::new());
    let service = service::start(&gateway.services, Arc::clone(&counters), &mut serving).await?;
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
    let addresses = [gateway.edges.clone(), gateway.services.clone()];
    if args.once {
        for _ in 0..ONCE {
            report(process, &counters).await;
        }
        counters.end();
        timeout(FINISH, async { while tasks.join_next().await.is_some() {} })
            .await
            .context("the edges do not come to an end")?;
        counters.check(EDGES)?;
        say("Everything was right.");
        return Ok(());
    }
    tokio::select! {
        () = show(&addresses, process, &counters) => Ok(()),
        error = gateway.ended() => Err(error),
    }
}

/// Reports every second, and says how to take part before the first report and once a minute.
async fn show([edges, services]: &[String; 2], process: Option<u32>, counters: &Counters) {
    for second in 0_u64.. {
        if second.is_multiple_of(REMIND) {
            say(format!(
                "  To take part, connect edges to {edges} and services to {services}; in terminals of their own, say:"
            ));
            say("    cargo run -p frontier-chatroom -- room");
            say("    cargo run -p frontier-chatroom -- join you");
            say("  README.md shows a client of ten lines. Ctrl-C ends the show.");
        }
        report(process, counters).await;
    }
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
    let mistakes = match counters.mistakes() {
        0 => String::new(),
        count => format!(", {count} MISTAKES so far"),
    };
    say(format!(
        "  {up} calls edge→service, {down} calls service→edge, {readings} readings acknowledged, {} KiB over streams{memory}{mistakes}",
        bytes / 1024
    ));
}
