//! The store of a cluster's registry on a real Redis: what a look-up costs beside a bare `GET`, how many commands a change takes, how much
//! memory an edge, and what renewals of leases cost.
//!
//! Everything runs over the loopback, Redis and this process on the cores that the kernel gives them; look-ups and `GET`s take turns.

mod server;
mod whole;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use fred::prelude::{Builder, Client, ClientLike as _, Config, ServerConfig, Value};
use fred::types::{ClusterHash, CustomCommand};
use frontier_atlas::record::{Claim, EdgeRecord, Instance, StoreTime};
use frontier_atlas::store::redis::{Address, Mode, Settings};
use frontier_atlas::store::{EdgeWrite, Gateway, Joined, Redis, Store};
use futures::future::{join_all, try_join_all};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use self::server::Server;
use crate::{
    hist::{Hist, Quantiles},
    out,
    proc::Snapshot,
};

/// Edges that one message of a gateway carries at most.
const BATCH: usize = 1_000;
/// Keys of the bare `GET`s.
const KEYS: u64 = 10_000;
/// Look-ups and `GET`s take turns so often.
const TURNS: u32 = 6;
/// Renewals come once a second and lease this long.
const LEASE: Duration = Duration::from_secs(4);

/// Arguments of `frontier-bench store`.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// Edges in the store.
    #[arg(long, default_value_t = 1_000_000)]
    pub edges: u64,
    /// Seconds that each measurement takes.
    #[arg(long, default_value_t = 20)]
    pub seconds: u32,
    /// Look-ups under way at once.
    #[arg(long, default_value_t = 64)]
    pub at_once: usize,
    /// Edges that come or go in a second.
    #[arg(long, default_value_t = 20_000)]
    pub churn: u64,
    /// Changes that one write of the churn carries, as a busy gateway collects them.
    #[arg(long, default_value_t = 400)]
    pub batch: u64,
    /// Gateways that renew their leases.
    #[arg(long, default_value_t = 50)]
    pub gateways: u64,
    /// The binary `frontlas`: with it, a whole one is measured as well.
    #[arg(long)]
    pub atlas_binary: Option<PathBuf>,
}

/// One line of the table.
struct Row {
    what: &'static str,
    figure: String,
    /// What is wanted, and whether it is so.
    bound: Option<(String, bool)>,
}

/// How fast something was.
struct Rate {
    per_second: f64,
    latency: Quantiles,
}

/// Measures, and prints the table.
///
/// # Errors
/// If Redis is not installed, or gives a wrong answer.
pub fn run(args: &StoreArgs) -> Result<()> {
    ensure!(
        args.edges > 0 && args.seconds > 0 && args.at_once > 0 && args.churn > 0 && args.batch > 0,
        "nothing to do"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: &StoreArgs) -> Result<()> {
    let server = Server::start()?;
    let address = Address::new("127.0.0.1", server.port());
    let store = Redis::connect(Settings::new(Mode::Standalone { address }))?;
    store.connected(Duration::from_secs(10)).await?;
    let client = client(server.port()).await?;
    let bench = Bench { args, server: &server, store: Arc::new(store), client };
    let mut rows = Vec::new();
    out::note(&format!("Writing {} edges …", args.edges));
    rows.extend(bench.fill().await?);
    out::note("Look-ups and GETs, in turns …");
    rows.extend(bench.look_up().await?);
    out::note("Edges come and go …");
    rows.extend(bench.churn().await?);
    out::note("Renewals …");
    rows.extend(bench.renew().await?);
    if let Some(binary) = &args.atlas_binary {
        out::note("A whole frontlas …");
        rows.extend(bench.whole(binary).await?);
    }
    out::line(&table(args, &rows)?);
    Ok(())
}

struct Bench<'a> {
    args: &'a StoreArgs,
    server: &'a Server,
    store: Arc<Redis>,
    client: Client,
}

// === impl Bench ===

impl Bench<'_> {
    /// Puts all edges there, and says what memory they take.
    async fn fill(&self) -> Result<Vec<Row>> {
        let before = self.server.info("memory", "used_memory:")?;
        let start = Instant::now();
        let edges: Vec<u64> = (0..self.args.edges).collect();
        for step in edges.chunks(BATCH * 4) {
            let write = |edges: &[u64]| {
                let writes: Vec<EdgeWrite> = edges.iter().map(|edge| online(*edge, 1)).collect();
                async move { self.store.write_edges(&writes, horizon()).await }
            };
            try_join_all(step.chunks(BATCH).map(write)).await?;
        }
        let rate = self.args.edges as f64 / start.elapsed().as_secs_f64();
        let grown = self.server.info("memory", "used_memory:")?.saturating_sub(before);
        let each = grown as f64 / self.args.edges as f64;
        let start = Instant::now();
        let buckets: Vec<u16> = (0..frontier_api::bucket::EDGE_BUCKETS).collect();
        let found: usize = self.store.edge_buckets(&buckets).await?.iter().map(|bucket| bucket.len()).sum();
        ensure!(found as u64 == self.args.edges, "{found} edges are in the store");
        let scan = start.elapsed();
        Ok(vec![
            Row::new("edges written, 1,000 at once, 4 writes under way", format!("{rate:.0} /s")),
            Row::new("Redis memory per edge", format!("{each:.0} bytes")).bound("≤ 200 bytes", each <= 200.0),
            Row::new("reading all buckets", format!("{:.2} s", scan.as_secs_f64())),
        ])
    }

    /// Where single edges are, beside a bare `GET`.
    async fn look_up(&self) -> Result<Vec<Row>> {
        let value = [7_u8; 34];
        for key in 0..KEYS {
            let args: Vec<Value> = vec![bare_key(key).into(), Value::Bytes(value.to_vec().into())];
            self.client.custom::<Value, _>(command("SET"), args).await?;
        }
        let (mut look_ups, mut gets) = (Tally::new()?, Tally::new()?);
        for _ in 0..TURNS {
            let store = &self.store;
            let edges = self.args.edges;
            self.turn(&mut look_ups, async |number| {
                let edge = scatter(number) % edges;
                let found = store.edges(&[edge]).await?;
                ensure!(found == [Some(record(edge, 1))], "edge {edge} is elsewhere");
                Ok(())
            })
            .await?;
            self.turn(&mut gets, async |number| {
                let args: Vec<Value> = vec![bare_key(scatter(number) % KEYS).into()];
                let found: Value = self.client.custom(command("GET"), args).await?;
                ensure!(found.as_bytes() == Some(&value), "a wrong value");
                Ok(())
            })
            .await?;
        }
        let (look_ups, gets) = (look_ups.rate(), gets.rate());
        let speed = look_ups.per_second / gets.per_second;
        let late = gets.latency.p99 / look_ups.latency.p99;
        let rate = |rate: &Rate| {
            format!(
                "{:.0} /s, p50 {:.0} µs, p99 {:.0} µs",
                rate.per_second, rate.latency.p50, rate.latency.p99
            )
        };
        Ok(vec![
            Row::new("look-up of one edge", rate(&look_ups)),
            Row::new("bare `GET` by the same client library", rate(&gets)),
            Row::new("look-ups per `GET`, by rate", format!("{speed:.2}")).bound("≥ 0.7", speed >= 0.7),
            Row::new("the same, by p99", format!("{late:.2}")).bound("≥ 0.7", late >= 0.7),
        ])
    }

    /// So many at once, for one turn.
    async fn turn(&self, tally: &mut Tally, one: impl AsyncFn(u64) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let end = start + Duration::from_secs(u64::from(self.args.seconds)) / (TURNS * 2);
        let worker = async |worker: u64| {
            let mut times = Vec::new();
            let mut number = worker << 32;
            while Instant::now() < end {
                let asked = Instant::now();
                one(number).await?;
                times.push(u64::try_from(asked.elapsed().as_nanos())?);
                number += 1;
            }
            anyhow::Ok(times)
        };
        let workers = (0..self.args.at_once as u64).map(|at| worker(at + tally.turns * 1_000));
        for times in join_all(workers).await {
            for nanos in times? {
                tally.hist.record(nanos);
                tally.count += 1;
            }
        }
        tally.time += start.elapsed();
        tally.turns += 1;
        Ok(())
    }

    /// Edges come and go.
    async fn churn(&self) -> Result<Vec<Row>> {
        let changes = Arc::new(AtomicU64::new(0));
        let late = Arc::new(AtomicU64::new(0));
        self.server.command("CONFIG RESETSTAT")?;
        let before = Snapshot::take(&[self.server.pid()])?;
        let start = Instant::now();
        let every = Duration::from_secs_f64(self.args.batch as f64 / self.args.churn as f64);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut writes, mut number) = (JoinSet::new(), 0_u64);
        while start.elapsed() < Duration::from_secs(u64::from(self.args.seconds)) {
            ticks.tick().await;
            // Each edge goes and comes back: half of the changes remove one.
            let batch: Vec<EdgeWrite> = (0..self.args.batch)
                .map(|at| {
                    let step = number + at;
                    let (edge, round) = (step / 2 % self.args.edges, step / 2 / self.args.edges);
                    if step % 2 == 0 { offline(edge, round + 1) } else { online(edge, round + 2) }
                })
                .collect();
            // An edge may occur once in a write.
            let (gone, back): (Vec<EdgeWrite>, Vec<EdgeWrite>) =
                batch.into_iter().partition(|write| matches!(write, EdgeWrite::Offline { .. }));
            number += self.args.batch;
            let (store, changes, late) = (Arc::clone(&self.store), Arc::clone(&changes), Arc::clone(&late));
            writes.spawn(async move {
                let asked = Instant::now();
                let done = gone.len() + back.len();
                store.write_edges(&gone, horizon()).await?;
                store.write_edges(&back, horizon()).await?;
                changes.fetch_add(done as u64, Ordering::Relaxed);
                late.fetch_max(u64::try_from(asked.elapsed().as_micros())?, Ordering::Relaxed);
                anyhow::Ok(())
            });
            while let Some(done) = writes.try_join_next() {
                done??;
            }
        }
        while let Some(done) = writes.join_next().await {
            done??;
        }
        let time = start.elapsed();
        let used = before.until(&Snapshot::take(&[self.server.pid()])?);
        let changes = changes.load(Ordering::Relaxed);
        let commands = self.server.commands()?;
        // What scripts call inside Redis is counted there as well; it is no command of ours.
        let sent: u64 =
            commands.iter().filter(|(name, _)| !INNER.contains(&name.as_str())).map(|(_, calls)| calls).sum();
        let inner: u64 = commands.iter().map(|(_, calls)| calls).sum::<u64>() - sent;
        let per_change = sent as f64 / changes as f64;
        let rate = changes as f64 / time.as_secs_f64();
        let wanted = self.args.churn as f64;
        let share = |nanos: u64| format!("{:.1} % of a core", nanos as f64 / time.as_nanos() as f64 * 100.0);
        Ok(vec![
            Row::new("changes of edges", format!("{rate:.0} /s"))
                .bound(&format!("{wanted:.0} /s"), rate >= wanted * 0.98),
            Row::new("slowest write of a batch", format!("{} µs", late.load(Ordering::Relaxed))),
            Row::new("commands sent to Redis per change", format!("{per_change:.3}"))
                .bound("≤ 1", per_change <= 1.0),
            Row::new(
                "calls by scripts inside Redis per change",
                format!("{:.3}", inner as f64 / changes as f64),
            ),
            Row::new("CPU of Redis meanwhile", share(used.servers)),
            Row::new("CPU of the store's side meanwhile", share(used.own)),
        ])
    }

    /// Gateways renew their leases, and nothing else happens.
    async fn renew(&self) -> Result<Vec<Row>> {
        let each = self.args.edges / self.args.gateways.max(1);
        for number in 0..self.args.gateways {
            let joined = self.store.join(&gateway(number), LEASE, false).await?;
            ensure!(matches!(joined, Joined::Lease { .. }), "a gateway was refused");
        }
        // First what it costs that atlas is there at all.
        let idle = self.renewals(0, each).await?;
        let busy = self.renewals(self.args.gateways, each).await?;
        let share = |(used, time): (u64, Duration)| used as f64 / time.as_nanos() as f64 * 100.0;
        let (redis, own) = (share((busy.0, busy.2)), share((busy.1, busy.2)));
        let bound = |row: Row, percent: f64| row.bound("< 1 % of a core", percent < 1.0);
        Ok(vec![
            Row::new("CPU of Redis without renewals", format!("{:.2} % of a core", share((idle.0, idle.2)))),
            bound(Row::new("CPU of Redis with renewals", format!("{redis:.2} % of a core")), redis),
            bound(Row::new("CPU of the store's side with renewals", format!("{own:.2} % of a core")), own),
        ])
    }

    async fn renewals(&self, gateways: u64, edges: u64) -> Result<(u64, u64, Duration)> {
        let before = Snapshot::take(&[self.server.pid()])?;
        let start = Instant::now();
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(gateways.max(1))?);
        let mut number = 0;
        while start.elapsed() < Duration::from_secs(u64::from(self.args.seconds)) {
            ticks.tick().await;
            if gateways > 0 {
                let renewed = self.store.renew(instance(number % gateways), edges, 0, LEASE).await?;
                ensure!(renewed.known, "a gateway is not known");
            }
            number += 1;
        }
        let used = before.until(&Snapshot::take(&[self.server.pid()])?);
        Ok((used.servers, used.own, start.elapsed()))
    }
}

/// Commands that only scripts of the store call while edges come and go.
const INNER: [&str; 3] = ["hget", "hset", "hdel"];

// === impl Row ===

impl Row {
    fn new(what: &'static str, figure: String) -> Self {
        Self { what, figure, bound: None }
    }

    fn bound(mut self, wanted: &str, met: bool) -> Self {
        self.bound = Some((wanted.to_owned(), met));
        self
    }
}

/// Times of all turns.
struct Tally {
    hist: Hist,
    count: u64,
    time: Duration,
    turns: u64,
}

// === impl Tally ===

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self { hist: Hist::new()?, count: 0, time: Duration::ZERO, turns: 0 })
    }

    fn rate(&self) -> Rate {
        Rate { per_second: self.count as f64 / self.time.as_secs_f64(), latency: self.hist.quantiles() }
    }
}

fn table(args: &StoreArgs, rows: &[Row]) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "`frontier-bench store --edges {} --seconds {} --at-once {} --churn {} --batch {} --gateways {}`\n",
        args.edges, args.seconds, args.at_once, args.churn, args.batch, args.gateways
    )?;
    writeln!(text, "| {} edges in a standalone Redis | | bound |\n|---|---|---|", args.edges)?;
    for Row { what, figure, bound } in rows {
        let bound = bound.as_ref().map_or_else(String::new, |(wanted, met)| {
            format!("{wanted}: {}", if *met { "met" } else { "NOT MET" })
        });
        writeln!(text, "| {what} | {figure} | {bound} |")?;
    }
    Ok(text)
}

/// A client with nothing around it.
async fn client(port: u16) -> Result<Client> {
    let server = ServerConfig::new_centralized("127.0.0.1", port);
    let client = Builder::from_config(Config { server, ..Config::default() })
        .with_performance_config(|performance| performance.default_command_timeout = Duration::from_secs(10))
        .build()?;
    let _connection = client.init().await.context("connect to Redis")?;
    Ok(client)
}

fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::FirstKey, false)
}

fn bare_key(key: u64) -> String {
    format!("bare:{key}")
}

/// A number that looks like chance.
fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 7
}

fn instance(number: u64) -> Instance {
    Instance(u128::from(number + 1).to_be_bytes())
}

fn gateway(number: u64) -> Gateway {
    let frontier_id = format!("gateway-{number}");
    let [service_addr, edge_addr] = [30_011, 30_012].map(|port| format!("10.1.0.{number}:{port}"));
    Gateway { instance: instance(number), frontier_id, service_addr, edge_addr }
}

fn record(edge: u64, round: u64) -> EdgeRecord {
    let claim = Claim { epoch: round << 20, instance: instance(edge % 50) };
    let [.., a, b, c, d] = edge.to_be_bytes();
    EdgeRecord { claim, stream: 1, addr: ([10, b, c, d], 1_024 + u16::from(a)).into() }
}

fn online(edge: u64, round: u64) -> EdgeWrite {
    EdgeWrite::Online { edge, record: record(edge, round) }
}

fn offline(edge: u64, round: u64) -> EdgeWrite {
    EdgeWrite::Offline { edge, claim: record(edge, round).claim }
}

/// Later than every epoch here.
fn horizon() -> StoreTime {
    StoreTime(1 << 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_prints_every_row() {
        let args = StoreArgs {
            edges: 3_000,
            seconds: 1,
            at_once: 8,
            churn: 4_000,
            batch: 100,
            gateways: 5,
            atlas_binary: None,
        };
        if Server::is_installed() {
            run(&args).unwrap();
        }
    }

    #[test]
    fn bounds_are_shown() {
        let args = StoreArgs {
            edges: 1,
            seconds: 1,
            at_once: 1,
            churn: 1,
            batch: 1,
            gateways: 1,
            atlas_binary: None,
        };
        let rows =
            [Row::new("a", "1".into()).bound("≤ 1", true), Row::new("b", "2".into()).bound("≤ 1", false)];
        let text = table(&args, &rows).unwrap();
        assert!(text.contains("| a | 1 | ≤ 1: met |") && text.contains("| b | 2 | ≤ 1: NOT MET |"));
    }

    #[test]
    fn numbers_look_like_chance() {
        let found: std::collections::BTreeSet<u64> =
            (0..1_000).map(|number| scatter(number) % 100_000).collect();
        assert!(found.len() > 980);
    }
}
