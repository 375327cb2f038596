//! Edges publish through the gateway into a real broker, and a consumer prints what comes out.

mod consumer;
mod out;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use frontier::Edge;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep},
};

use self::{consumer::Consumer, out::say};

/// Name and region of each edge; one does not say where it is.
const EDGES: [(&str, Option<&str>); 3] = [("one", Some("north")), ("two", Some("south")), ("three", None)];
/// Between two readings of an edge.
const PAUSE: Duration = Duration::from_millis(500);
/// Messages after which `--once` ends.
const ENOUGH: u64 = 12;
/// How long a process may take to listen, and `--once` as a whole.
const START: Duration = Duration::from_secs(30);

/// Starts a broker, a gateway and edges, and prints what comes out of the broker.
#[derive(Debug, Parser)]
struct Args {
    /// The gateway's binary
    #[arg(long, value_name = "PATH")]
    gateway_binary: PathBuf,

    /// End after some messages, and check that all that were acknowledged came out
    #[arg(long)]
    once: bool,
}

/// The processes; they end with this value.
struct Processes {
    redis: u16,
    edges: u16,
    broker: Child,
    gateway: Child,
    _dir: TempDir,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let once = args.once;
    tokio::select! {
        outcome = run(args) => outcome,
        _ = tokio::signal::ctrl_c() => {
            say("\nEnding.");
            ensure!(!once, "told to end before everything was checked");
            Ok(())
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut processes = Processes::start(&args.gateway_binary).await?;
    say(format!(
        "Redis on port {} (process {}), a gateway on port {}, {} edges. What comes out of Redis:",
        processes.redis,
        processes.broker.id().unwrap_or_default(),
        processes.edges,
        EDGES.len()
    ));
    let mut consumer = Consumer::subscribe(processes.redis, "readings.*").await?;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut edges = JoinSet::new();
    for (name, region) in EDGES {
        edges.spawn(publish(processes.edges, name, region, Arc::clone(&acknowledged)));
    }
    let (mut came, mut channels, start) = (0, BTreeSet::new(), Instant::now());
    loop {
        tokio::select! {
            message = consumer.next() => match message {
                Ok((channel, body)) => {
                    say(format!("  {channel:<16} {body}"));
                    channels.insert(channel);
                    came += 1;
                }
                // Somebody has killed it to see what happens.
                Err(error) if !args.once => {
                    say(format!("  the consumer has lost its broker: {error}"));
                    std::future::pending::<()>().await;
                }
                Err(error) => return Err(error),
            },
            ended = edges.join_next() => ended.context("edges")??.context("an edge")?,
            status = processes.gateway.wait() => anyhow::bail!("the gateway has ended: {}", status?),
        }
        if args.once && came >= ENOUGH {
            break;
        }
        ensure!(!args.once || start.elapsed() < START, "{came} messages in {START:?}");
    }
    edges.shutdown().await;
    // Each was acknowledged after Redis had it, which had passed it on by then.
    while came < acknowledged.load(Ordering::Relaxed) {
        consumer.next().await?;
        came += 1;
    }
    ensure!(channels.contains("readings.north") && channels.contains("readings.nowhere"), "{channels:?}");
    say(format!("{} were acknowledged, and {came} came out.", acknowledged.load(Ordering::Relaxed)));
    Ok(())
}

/// One edge: reads this machine's load and publishes it, for ever.
async fn publish(
    port: u16,
    name: &'static str,
    region: Option<&'static str>,
    acknowledged: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut edge = Edge::builder(format!("tcp://127.0.0.1:{port}"));
    if let Some(region) = region {
        edge = edge.label("region", region);
    }
    let edge = edge.connect().await?;
    let topic = format!("sensors/{name}/load");
    loop {
        let load = tokio::fs::read_to_string("/proc/loadavg").await?;
        let load = load.split(' ').next().unwrap_or_default();
        match edge.publish(&topic, format!("edge {} at {topic}: {load}", edge.id())).await {
            Ok(()) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => say(format!("  edge {name} hears: {error}")),
        }
        sleep(PAUSE).await;
    }
}

// === impl Processes ===

impl Processes {
    async fn start(gateway: &Path) -> anyhow::Result<Self> {
        let gateway = gateway.canonicalize().context("--gateway-binary")?;
        let dir = tempfile::tempdir()?;
        let [redis, edges, services, admin] = free_ports()?;
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &redis.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let broker = child(command).context("redis-server cannot be started; is it installed?")?;
        listens(redis).await?;
        let file = dir.path().join("frontier.yaml");
        let text = format!(
            "edgebound: {{listen: {{addr: '127.0.0.1:{edges}'}}, edgeid_alloc_when_no_idservice_on: true}}\n\
             servicebound: {{listen: {{addr: '127.0.0.1:{services}'}}}}\n\
             observability: {{addr: '127.0.0.1:{admin}'}}\nlog: {{level: warn}}\n\
             mqm:\n  redis:\n    enable: true\n    addrs: ['127.0.0.1:{redis}']\n    producer:\n\
             \x20     patterns: ['sensors/+/load']\n      map: 'readings.{{label.region:nowhere}}'\n"
        );
        tokio::fs::write(&file, text).await?;
        let mut command = Command::new(gateway);
        // Whatever the shell has set for other gateways is not meant for this one.
        for name in ["FRONTIER_EDGEBOUND_PORT", "FRONTIER_SERVICEBOUND_PORT", "FRONTLAS_ADDR"] {
            command.env_remove(name);
        }
        command.arg("--config").arg(&file);
        let gateway = child(command).context("the gateway cannot be started")?;
        listens(edges).await?;
        Ok(Self { redis, edges, broker, gateway, _dir: dir })
    }
}

fn child(mut command: Command) -> anyhow::Result<Child> {
    Ok(command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
}

/// Some that are free now: held together, so that they differ.
fn free_ports() -> anyhow::Result<[u16; 4]> {
    let held = [0; 4].map(|_| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 4];
    for (port, listener) in ports.iter_mut().zip(held) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

async fn listens(port: u16) -> anyhow::Result<()> {
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        ensure!(start.elapsed() < START, "nobody listens on port {port}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
