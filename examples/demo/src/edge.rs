//! The edges of the demo.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{self, SHA256};
use frontier::{Edge, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::out::say;
use crate::service::Counters;

/// Calls of one edge under way.
const IN_FLIGHT: usize = 8;
/// Between two readings.
const PERIOD: Duration = Duration::from_millis(20);

/// Connects an edge and starts everything it does.
pub(crate) async fn start(
    address: &str,
    number: usize,
    file: PathBuf,
    counters: &Arc<Counters>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Edge> {
    let edge = Edge::builder(address).meta(format!("demo edge {number}")).connect().await.context("edge")?;
    edge.register("uptime", |_: Request| async move {
        std::fs::read("/proc/uptime").map_err(frontier::Error::application)
    })
    .await?;
    for _ in 0..IN_FLIGHT {
        tasks.spawn(call(edge.clone(), Arc::clone(counters)));
    }
    tasks.spawn(publish(edge.clone(), number, Arc::clone(counters)));
    tasks.spawn(carry(edge.clone(), number, file, Arc::clone(counters)));
    Ok(edge)
}

async fn call(edge: Edge, counters: Arc<Counters>) {
    while let Ok(reply) = edge.call("count-words", "the quick brown fox jumps").await {
        counters.mistakes.fetch_add(u64::from(reply.body() != "5"), Ordering::Relaxed);
    }
}

async fn publish(edge: Edge, number: usize, counters: Arc<Counters>) {
    loop {
        match reading(number) {
            Ok(text) => drop(edge.publish("readings", text).await),
            Err(_) => {
                counters.mistakes.fetch_add(1, Ordering::Relaxed);
            }
        }
        sleep(PERIOD).await;
    }
}

/// What this machine says of itself.
fn reading(number: usize) -> anyhow::Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let load = load.split(' ').next().context("load")?;
    let free = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("memory")?;
    Ok(format!("edge={number} load={load} available={}", free.trim()))
}

/// Carries the file over a stream, again and again.
async fn carry(edge: Edge, number: usize, file: PathBuf, counters: Arc<Counters>) {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    loop {
        let start = Instant::now();
        match carry_once(&edge, &file).await {
            Ok(length) => {
                counters.files.fetch_add(1, Ordering::Relaxed);
                if TOLD.fetch_add(1, Ordering::Relaxed) < 3 {
                    let rate = length as f64 / start.elapsed().as_secs_f64() / 1_048_576.0;
                    let name = file.file_name().unwrap_or_default().to_string_lossy();
                    say(format!(
                        "  edge {number}: carried {name} ({length} bytes) over a stream, {rate:.0} MiB/s, SHA-256 equal on both sides"
                    ));
                }
            }
            Err(error) => {
                counters.mistakes.fetch_add(1, Ordering::Relaxed);
                say(format!("  edge {number}: the file did not arrive: {error:#}"));
            }
        }
        sleep(Duration::from_secs(2)).await;
    }
}

async fn carry_once(edge: &Edge, file: &std::path::Path) -> anyhow::Result<usize> {
    let bytes = tokio::fs::read(file).await?;
    let own = digest::digest(&SHA256, &bytes);
    let mut stream = edge.open_stream("demo").await.context("open")?;
    stream.write_all(&bytes).await.context("write")?;
    stream.shutdown().await.context("half-close")?;
    let mut theirs = Vec::new();
    stream.read_to_end(&mut theirs).await.context("read the digest")?;
    ensure!(theirs == own.as_ref(), "the digests differ");
    Ok(bytes.len())
}
