//! The edges of the demo.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{self, SHA256};
use frontier::{Edge, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::sleep,
};

use crate::{
    counters::Counters,
    out::say,
    service::{AFTER_MISTAKE, META},
};

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
    // Offered from the start: the service calls as soon as it sees the edge.
    let edge = Edge::builder(address)
        .meta(format!("{META}{number}"))
        .method("uptime", |_: Request| async move {
            std::fs::read("/proc/uptime").map_err(frontier::Error::application)
        })
        .connect()
        .await
        .context("edge")?;
    for _ in 0..IN_FLIGHT {
        tasks.spawn(call(edge.clone(), number, Arc::clone(counters)));
    }
    tasks.spawn(publish(edge.clone(), number, Arc::clone(counters)));
    tasks.spawn(carry(edge.clone(), number, file, Arc::clone(counters)));
    Ok(edge)
}

async fn call(edge: Edge, number: usize, counters: Arc<Counters>) {
    while !counters.ending() {
        match edge.call("count-words", "the quick brown fox jumps").await {
            Ok(reply) if reply.body() == "5" => {}
            Ok(reply) => {
                counters.mistake(format!("edge {number} was told that five words are {:?}", reply.body()));
            }
            Err(error) => {
                counters.mistake(format!("a call of edge {number} failed: {error}"));
                sleep(AFTER_MISTAKE).await;
            }
        }
    }
}

async fn publish(edge: Edge, number: usize, counters: Arc<Counters>) {
    while !counters.ending() {
        match reading(number) {
            Ok(text) => {
                counters.published.fetch_add(1, Ordering::Relaxed);
                match edge.publish("readings", text).await {
                    Ok(()) => drop(counters.acknowledged.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        counters.mistake(format!("a reading of edge {number} was not acknowledged: {error}"));
                        sleep(AFTER_MISTAKE).await;
                    }
                }
            }
            Err(error) => counters.mistake(format!("edge {number} has no reading: {error:#}")),
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
    while !counters.ending() {
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
            Err(error) => counters.mistake(format!("the file of edge {number} did not arrive: {error:#}")),
        }
        tokio::select! {
            () = sleep(Duration::from_secs(2)) => {}
            () = counters.ended() => {}
        }
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
