//! Go clients: edges and a service on the geminio module, all in one process of their own (`e2e/go/geminio`, its command `bench`). This one
//! reads the server's counters meanwhile and passes on what the clients have counted and checked.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::{hist::Quantiles, net, out, proc::Snapshot, sample::Sample};

/// Arguments of a run.
#[derive(Args, Clone, Debug)]
pub struct PeersArgs {
    /// `call`, `publish` or `stream`.
    pub kind: String,
    /// The clients' program.
    #[arg(long)]
    pub program: PathBuf,
    /// Where edges connect.
    #[arg(long)]
    pub edge: SocketAddr,
    /// Where the service connects.
    #[arg(long)]
    pub service: SocketAddr,
    /// Seconds of load before anything counts.
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Processes whose CPU time is the server's.
    #[arg(long = "server-pid")]
    pub servers: Vec<u32>,
    /// The CPU to run on.
    #[arg(long)]
    pub pin: Option<usize>,
    /// Passed on to the program.
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// What the clients tell, in microseconds.
#[derive(Debug, Deserialize)]
struct Told {
    ops: u64,
    bytes: u64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// The clients' process; it ends with this one, and is killed when this is dropped.
struct Clients(Child);

/// Runs the clients and prints a sample.
///
/// # Errors
/// If a client fails, is answered wrongly, or a server has ended.
pub fn run(args: &PeersArgs) -> Result<()> {
    if let Some(cpu) = args.pin {
        net::pin(cpu)?;
    }
    let mut clients = Clients::start(args)?;
    let mut input = clients.0.stdin.take().context("the clients' input")?;
    let mut lines = BufReader::new(clients.0.stdout.take().context("the clients' output")?).lines();
    let mut line = || lines.next().context("the clients have failed")?.context("read from the clients");
    ensure!(line()? == "ready", "the clients are not ready");
    pass(args.warmup);
    let pids = [clients.0.id()];
    let (server, load, since) = (Snapshot::take(&args.servers)?, Snapshot::take(&pids)?, Instant::now());
    say(&mut input)?;
    pass(args.seconds);
    let seconds = since.elapsed().as_secs_f64();
    let (server, load) = (server.until(&Snapshot::take(&args.servers)?), load.until(&Snapshot::take(&pids)?));
    say(&mut input)?;
    let told: Told = serde_json::from_str(&line()?).context("the clients' figures")?;
    let mut sample = Sample {
        ops: told.ops,
        seconds,
        server_nanos: server.servers,
        load_nanos: load.servers,
        steal: server.steal,
        latency: Quantiles { count: told.ops, p50: told.p50, p99: told.p99, p999: told.p999, max: told.max },
        ..Sample::default()
    };
    sample.set("bytes", told.bytes as f64);
    sample.set("bytes_per_second", told.bytes as f64 / seconds.max(1e-9));
    out::line(&serde_json::to_string(&sample)?);
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the load is another process; this thread has nothing else to do"
)]
fn pass(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
}

fn say(input: &mut ChildStdin) -> Result<()> {
    input.write_all(b"\n").context("the clients have ended")
}

// === impl Clients ===

impl Clients {
    fn start(args: &PeersArgs) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["exec", "--"])
            .arg(&args.program)
            .args(["bench", "--kind", &args.kind])
            .args(["--edge", &args.edge.to_string(), "--service", &args.service.to_string()])
            .args(&args.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", args.program.display()))?;
        Ok(Self(child))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}
