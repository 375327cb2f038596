//! Shows a cluster at work: two gateways, one atlas on Redis, a service that is at both gateways, and edges that come back on the other
//! one when theirs is killed.

mod fleet;
mod out;
mod process;

use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use self::fleet::Fleet;
use self::out::say;
use self::process::{Cluster, Home, Ports};

/// Edges that begin at each gateway.
const EDGES: usize = 5;
/// Seconds before a gateway is killed.
const BEFORE: u64 = 5;
/// By when all edges must be back.
const BACK: Duration = Duration::from_secs(15);

/// Starts a small cluster, kills a gateway, and shows that calls go on.
#[derive(Debug, Parser)]
struct Args {
    /// The gateway's binary
    #[arg(long, value_name = "PATH")]
    gateway_binary: PathBuf,

    /// The registry's binary
    #[arg(long, value_name = "PATH")]
    atlas_binary: PathBuf,

    /// End after the gateway was killed and everybody is back, and check that everything was right
    #[arg(long)]
    once: bool,

    /// On free ports instead of those of the documentation
    #[arg(long)]
    free_ports: bool,

    /// Keep the registry's state in its memory even if Redis is installed
    #[arg(long)]
    memory: bool,
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
    let home = Home {
        gateway: args.gateway_binary.canonicalize().context("--gateway-binary")?,
        atlas: args.atlas_binary.canonicalize().context("--atlas-binary")?,
        ports: if args.once || args.free_ports { Ports::free()? } else { Ports::usual() },
        dir: tempfile::tempdir().context("folder for configurations")?,
    };
    let mut cluster = Cluster::start(home, args.memory).await?;
    say(format!(
        "Atlas keeps where everybody is in {}. Clients ask it on {}.",
        cluster.store(),
        cluster.atlas_address()
    ));
    for (name, edges, services) in cluster.gateways() {
        say(format!("Gateway {name} takes edges on {edges} and services on {services}."));
    }
    let fleet = Fleet::start(&cluster, EDGES).await?;
    say(format!(
        "A service is connected to both, {EDGES} edges begin at each. Edges call the service and it calls them, all the time."
    ));
    for _ in 0..BEFORE {
        second(&fleet).await?;
    }
    say("Gateway two is killed (SIGKILL).");
    let killed = Instant::now();
    cluster.kill_second().await?;
    while fleet.connected() < 2 * EDGES || fleet.at("one").await? < 2 * EDGES {
        ensure!(
            killed.elapsed() < BACK,
            "{} of {} edges are back after {BACK:?}",
            fleet.connected(),
            2 * EDGES
        );
        sleep(Duration::from_millis(10)).await;
    }
    say(format!("All its edges are back on gateway one, after {:.1} s.", killed.elapsed().as_secs_f64()));
    let found = fleet.all_answer(BACK).await?;
    say(format!(
        "The service reaches every edge where it is now, {:.1} s after the kill.",
        (found - killed).as_secs_f64()
    ));
    second(&fleet).await?;
    fleet.check()?;
    say(format!("Calls of edges that were at gateway one all along: {}, none failed.", fleet.calm_calls()));
    if args.once {
        say("Everything was right.");
        return Ok(());
    }
    say("Gateway two is started again; new edges may choose it. Ctrl-C ends the show. Every second:");
    cluster.start_second().await?;
    tokio::select! {
        never = async { loop { second(&fleet).await? } } => never,
        error = cluster.ended() => Err(error),
    }
}

/// Waits a second and says what happened in it.
async fn second(fleet: &Fleet) -> anyhow::Result<()> {
    let before = fleet.numbers();
    sleep(Duration::from_secs(1)).await;
    let after = fleet.numbers();
    let [up, down, failed] = [0, 1, 2].map(|at| after[at] - before[at]);
    say(format!(
        "  {} edges at gateway one, {} at gateway two; {up} calls edge→service, {down} calls service→edge, {failed} failed",
        fleet.at("one").await?,
        fleet.at("two").await?
    ));
    Ok(())
}
