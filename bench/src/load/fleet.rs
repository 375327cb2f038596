//! Many edges that do nothing: how fast they come up, what they cost while they are held, and how they all come back at once.
//!
//! ```text
//!   warm edges ─▶ [counters] ─▶ all edges, so many at a time ─▶ [counters] ─▶ hold until the server's memory is steady
//!                                                                                │ --storm: say so, wait for a line
//!                                                                                ├▶ close all, dial all ─▶ all back
//!                                                                   --crash: the same └▶ wait until all are cut, dial until all are back
//! ```

use std::{
    collections::BTreeMap,
    io::BufRead as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::Args;
use frontier_wire::{
    geminio::connection::Event,
    native::{frame::FrameType, reader::Frame},
};
use rustls::ClientConfig;

use super::{
    drive::{self, Dial, Greeting, Lost, Next, Role, Scenario},
    geminio::drive::Geminio,
    native::{Native, Net},
    peer::Lane,
    transport,
};
use crate::{
    hist::Hist,
    out,
    proc::{self, Snapshot},
    sample::Sample,
    scrape,
};

/// Dialled within one turn at most, so that answers are read in time.
const PER_TURN: usize = 64;
/// How long a connection that was cut while greeting waits before the next try; up to twice that, by its index.
const RETRY: Duration = Duration::from_millis(100);
/// Memory is steady when two readings so far apart differ by less than a five-hundredth.
const STEADY_FOR: Duration = Duration::from_secs(2);
/// What a fleet says when it has been told that its gateway will crash.
pub const READY: &str = "ready";
/// Figures of a sample that begin so are a series of the gateway's metrics, by how much it grew for each edge.
pub const PER_EDGE: &str = "per_edge:";
/// It need not become steady.
const SETTLE: Duration = Duration::from_secs(20);

/// Arguments of a fleet.
#[derive(Args, Clone, Debug)]
pub struct FleetArgs {
    /// Where edges connect.
    #[arg(long)]
    pub edge: SocketAddr,
    /// Edges in all.
    #[arg(long, default_value_t = 9_000)]
    pub edges: usize,
    /// Of them, edges that come up before anything counts.
    #[arg(long, default_value_t = 100)]
    pub warm: usize,
    /// Edges on their way at once; 0 = all.
    #[arg(long, default_value_t = 64)]
    pub concurrency: usize,
    /// Methods that each edge offers.
    #[arg(long, default_value_t = 0)]
    pub methods: usize,
    /// First address that edges connect from.
    #[arg(long, default_value = "127.0.0.1")]
    pub source: Ipv4Addr,
    /// Edges from one address before the next is used.
    #[arg(long, default_value_t = 5_000)]
    pub per_source: usize,
    /// TLS, trusting the authority in this PEM file.
    #[arg(long)]
    pub tls: Option<PathBuf>,
    /// Hold all edges until the server's memory is steady.
    #[arg(long)]
    pub hold: bool,
    /// Where the gateway's metrics are: what its memory is made of is read there, before and after.
    #[arg(long)]
    pub metrics: Option<SocketAddr>,
    /// Say when all are up, and let them all reconnect at once when a line comes on standard input.
    #[arg(long)]
    pub storm: bool,
    /// The same, but when the line comes they wait for the gateway to break all connections, and dial until it is there again.
    #[arg(long, conflicts_with = "storm")]
    pub crash: bool,
    /// Processes whose CPU time and memory are the server's.
    #[arg(long = "server-pid")]
    pub servers: Vec<u32>,
    /// The CPU to run on.
    #[arg(long)]
    pub pin: Option<usize>,
    /// Seconds that everything may take.
    #[arg(long, default_value_t = 180.0)]
    pub limit: f64,
}

/// An edge between its connections.
#[derive(Clone, Debug, Default)]
struct Member {
    id: u64,
    ticket: Vec<u8>,
    up: bool,
    dialled: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    Warming,
    Dialling,
    Settling {
        rss: u64,
        since: Instant,
        look: Instant,
    },
    Held,
    /// All are on their way back; `to_lose` of them have not noticed yet that they must.
    Storming {
        since: Instant,
        to_lose: usize,
    },
    Over,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Fleet {
    args: FleetArgs,
    tls: Option<Arc<ClientConfig>>,
    members: Vec<Member>,
    stage: Stage,
    /// Members to be dialled; the next is at `next`.
    next: usize,
    /// Members that try again, by when.
    again: BTreeMap<(Instant, usize), ()>,
    under_way: usize,
    up: usize,
    refused: u64,
    cut: u64,
    /// Dials that failed at once, because nobody listened.
    unreachable: u64,
    changed_id: u64,
    hist: Hist,
    start: Option<(Snapshot, Instant, u64)>,
    metrics: BTreeMap<String, f64>,
    go: Arc<AtomicBool>,
    sample: Sample,
}

// === impl FleetArgs ===

impl FleetArgs {
    /// Whether edges are to come back after they were held.
    const fn comes_back(&self) -> bool {
        self.storm || self.crash
    }
}

// === impl Fleet ===

impl Fleet {
    /// Runs one fleet.
    ///
    /// # Errors
    /// If an edge is refused or lost outside a storm, or not all come up in time.
    pub fn run(args: &FleetArgs) -> Result<Sample> {
        let mut scenario = Self::new(args)?;
        Net::new()?.run(&mut scenario, Duration::from_secs_f64(args.limit))?;
        Ok(scenario.sample)
    }

    /// The same with edges that speak geminio.
    ///
    /// # Errors
    /// As [`Fleet::run`].
    pub fn run_geminio(args: &FleetArgs) -> Result<Sample> {
        ensure!(
            args.tls.is_none() && !args.comes_back(),
            "geminio edges neither speak TLS nor come back here"
        );
        let mut scenario = Self::new(args)?;
        drive::Net::<Geminio>::new()?.run(&mut scenario, Duration::from_secs_f64(args.limit))?;
        Ok(scenario.sample)
    }

    fn new(args: &FleetArgs) -> Result<Self> {
        ensure!(args.edges > 0 && args.warm < args.edges, "fewer warm edges than edges");
        ensure!(args.per_source > 0, "at least one edge per address");
        let tls = args.tls.as_deref().map(transport::client_config).transpose()?;
        let go = Arc::new(AtomicBool::new(false));
        if args.comes_back() {
            wait_for_line(&go);
        }
        Ok(Self {
            args: args.clone(),
            tls,
            members: vec![Member::default(); args.edges],
            stage: Stage::Warming,
            next: 0,
            again: BTreeMap::new(),
            under_way: 0,
            up: 0,
            refused: 0,
            cut: 0,
            unreachable: 0,
            changed_id: 0,
            hist: Hist::new()?,
            start: None,
            metrics: BTreeMap::new(),
            go,
            sample: Sample::default(),
        })
    }

    fn source(&self, index: usize) -> IpAddr {
        let step = u32::try_from(index / self.args.per_source).unwrap_or(u32::MAX);
        Ipv4Addr::from_bits(self.args.source.to_bits().wrapping_add(step)).into()
    }

    fn greeting(&self, index: usize) -> Greeting {
        let methods = (0..self.args.methods).map(|n| format!("method-{n}")).collect();
        Greeting { ticket: self.members[index].ticket.clone(), methods, ..Greeting::edge(index) }
    }

    fn dial(&mut self, net: &mut impl Dial, index: usize, now: Instant) -> Result<()> {
        let greeting = self.greeting(index);
        let from = self.source(index);
        self.members[index].dialled.get_or_insert(now);
        match net.dial(self.args.edge, Some(from), Role::Edge(index), &greeting, self.tls.as_ref()) {
            Ok(_) => self.under_way += 1,
            Err(error) if self.args.crash && is_refused(&error) => {
                self.unreachable += 1;
                self.try_again(index, now, RETRY);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Tries again after a pause, spread over as much again, evenly and without chance.
    fn try_again(&mut self, index: usize, now: Instant, pause: Duration) {
        let jitter = pause.mul_f64((index * 7_919 % 1_000) as f64 / 1_000.0);
        self.again.insert((now + pause + jitter, index), ());
    }

    /// Dials those whose turn it is, up to `goal`.
    fn dial_some(&mut self, net: &mut impl Dial, goal: usize, now: Instant) -> Result<()> {
        let most = if self.args.concurrency == 0 { usize::MAX } else { self.args.concurrency };
        for _ in 0..PER_TURN {
            if self.under_way >= most {
                return Ok(());
            }
            if let Some(entry) = self.again.first_entry().filter(|entry| entry.key().0 <= now) {
                let ((_, index), ()) = entry.remove_entry();
                self.dial(net, index, now)?;
            } else if self.next < goal {
                self.next += 1;
                self.dial(net, self.next - 1, now)?;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    fn rss(&self) -> Result<u64> {
        self.args.servers.iter().map(|pid| Ok(proc::memory(*pid)?.rss)).sum()
    }

    /// What the gateway says of its memory; only when it is to be held, because asking costs it time and memory.
    fn scrape(&self) -> Result<BTreeMap<String, f64>> {
        let Some(admin) = self.args.metrics.filter(|_| self.args.hold) else { return Ok(BTreeMap::new()) };
        let mut series = scrape::scrape(admin)?;
        series.retain(|name, _| {
            ["frontier_allocator", "frontier_memory"].iter().any(|kept| name.starts_with(kept))
        });
        Ok(series)
    }

    fn counters(&self) -> Result<(Snapshot, Instant, u64)> {
        let rss = self.rss()?;
        Ok((Snapshot::take(&self.args.servers)?, Instant::now(), rss))
    }

    /// All are up for the first time.
    fn all_up(&mut self, now: Instant) -> Result<()> {
        if let Some((start, since, rss)) = &self.start {
            let used = start.until(&Snapshot::take(&self.args.servers)?);
            self.sample = Sample {
                ops: (self.args.edges - self.args.warm) as u64,
                seconds: since.elapsed().as_secs_f64(),
                server_nanos: used.servers,
                load_nanos: used.own,
                steal: used.steal,
                latency: self.hist.quantiles(),
                ..Sample::default()
            };
            self.sample.set("rss_before", *rss as f64);
        }
        let rss = self.rss()?;
        self.stage = if self.args.hold || self.args.comes_back() {
            Stage::Settling { rss, since: now, look: now + STEADY_FOR }
        } else {
            Stage::Over
        };
        Ok(())
    }

    fn settle(&mut self, now: Instant) -> Result<()> {
        let Stage::Settling { rss, since, look } = &mut self.stage else { return Ok(()) };
        if now < *look {
            return Ok(());
        }
        let (before, since) = (*rss, *since);
        let after = self.rss()?;
        if after.abs_diff(before) > before / 500 && now - since < SETTLE {
            self.stage = Stage::Settling { rss: after, since, look: now + STEADY_FOR };
            return Ok(());
        }
        let grown = after as f64 - self.sample.figure("rss_before");
        self.sample.set("rss_after", after as f64);
        let counted = (self.args.edges - self.args.warm) as f64;
        self.sample.set("bytes_per_edge", grown / counted);
        for (series, after) in self.scrape()? {
            let grown = after - self.metrics.get(&series).copied().unwrap_or_default();
            self.sample.set(&format!("{PER_EDGE}{series}"), grown / counted);
        }
        if self.args.comes_back() {
            out::line(&serde_json::to_string(&self.sample)?);
            self.stage = Stage::Held;
        } else {
            self.stage = Stage::Over;
        }
        Ok(())
    }

    fn storm(&mut self, net: &mut impl Dial, now: Instant) -> Result<()> {
        net.close_all();
        for member in &mut self.members {
            member.up = false;
            member.dialled = None;
        }
        self.up = 0;
        self.next = 0;
        self.under_way = 0;
        self.hist.clear();
        self.start = Some(self.counters()?);
        self.stage = Stage::Storming { since: now, to_lose: 0 };
        Ok(())
    }

    /// From now on the gateway may go. Its counters go with it, so only the time is taken.
    fn await_crash(&mut self, now: Instant) {
        for member in &mut self.members {
            member.dialled = None;
        }
        self.hist.clear();
        self.start = None;
        self.args.servers.clear();
        self.stage = Stage::Storming { since: now, to_lose: self.args.edges };
        out::line(READY);
    }

    fn all_back(&mut self, since: Instant) -> Result<()> {
        let seconds = since.elapsed().as_secs_f64();
        if let Some((start, ..)) = &self.start {
            let used = start.until(&Snapshot::take(&self.args.servers)?);
            self.sample.server_nanos = used.servers;
            self.sample.load_nanos = used.own;
            self.sample.steal = used.steal;
        }
        self.sample.ops = self.args.edges as u64;
        self.sample.seconds = seconds;
        self.sample.latency = self.hist.quantiles();
        self.sample.buckets = Some(self.hist.buckets());
        self.sample.set("refused", self.refused as f64);
        self.sample.set("cut", self.cut as f64);
        self.sample.set("unreachable", self.unreachable as f64);
        self.sample.set("changed_id", self.changed_id as f64);
        self.sample.set("rss_after_storm", self.rss()? as f64);
        self.stage = Stage::Over;
        Ok(())
    }

    /// An edge stands.
    fn up(&mut self, role: Role, id: u64, ticket: Vec<u8>) -> Result<()> {
        let Role::Edge(index) = role else { bail!("{role:?} in a fleet of edges") };
        let member = &mut self.members[index];
        ensure!(!member.up, "edge {index} is up twice");
        member.up = true;
        self.changed_id += u64::from(member.id != 0 && member.id != id);
        member.id = id;
        member.ticket = ticket;
        if let Some(dialled) = member.dialled {
            self.hist.record(u64::try_from(dialled.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        self.under_way -= 1;
        self.up += 1;
        Ok(())
    }

    /// Before every wait: what is due.
    fn go_on(&mut self, net: &mut impl Dial, now: Instant) -> Result<Next> {
        match self.stage {
            Stage::Warming => {
                self.dial_some(net, self.args.warm, now)?;
                if self.up == self.args.warm {
                    self.hist.clear();
                    self.metrics = self.scrape()?;
                    self.start = Some(self.counters()?);
                    self.stage = Stage::Dialling;
                }
            }
            Stage::Dialling => {
                self.dial_some(net, self.args.edges, now)?;
                if self.up == self.args.edges {
                    self.all_up(now)?;
                }
            }
            Stage::Settling { .. } => self.settle(now)?,
            Stage::Held if !self.go.load(Ordering::Acquire) => {}
            Stage::Held if self.args.crash => self.await_crash(now),
            Stage::Held => self.storm(net, now)?,
            Stage::Storming { since, to_lose } => {
                self.dial_some(net, self.args.edges, now)?;
                if self.up == self.args.edges && to_lose == 0 {
                    self.all_back(since)?;
                }
            }
            Stage::Over => return Ok(Next::Done),
        }
        // While something is to be dialled the loop does not sleep: every turn dials a few.
        let due = self.again.first_key_value().is_some_and(|((at, _), ())| *at <= now);
        let dialling = (due || self.next < self.members.len())
            && matches!(self.stage, Stage::Dialling | Stage::Storming { .. })
            && (self.args.concurrency == 0 || self.under_way < self.args.concurrency);
        Ok(Next::Wait(Duration::from_millis(if dialling { 0 } else { 5 })))
    }
}

impl Scenario<Native> for Fleet {
    fn ready(&mut self, net: &mut Net, key: usize) -> Result<()> {
        let conn = net.conn(key);
        conn.speech.peer.shrink();
        let (role, id, ticket) = (conn.role, conn.id, std::mem::take(&mut conn.speech.ticket));
        self.up(role, id, ticket)
    }

    fn heard(&mut self, _: &mut Net, _: usize, (_, frame): (Lane, Frame<&[u8]>)) -> Result<()> {
        match frame.header.kind {
            FrameType::Ack => Ok(()),
            kind => bail!("unexpected {}", kind.name()),
        }
    }

    fn lost(&mut self, net: &mut Net, role: Role, why: Lost) -> Result<()> {
        let Role::Edge(index) = role else { bail!("{role:?} lost: {why:?}") };
        let Stage::Storming { to_lose, .. } = &mut self.stage else { bail!("{role:?} lost: {why:?}") };
        let member = &mut self.members[index];
        if member.up {
            ensure!(*to_lose > 0, "{role:?} lost: {why:?}");
            *to_lose -= 1;
            self.up -= 1;
            member.up = false;
            member.dialled = Some(net.now());
            self.try_again(index, net.now(), RETRY);
            return Ok(());
        }
        let pause = match why {
            Lost::Rejected { retry_after_ms, .. } => {
                self.refused += 1;
                Duration::from_millis(retry_after_ms.into()).max(RETRY)
            }
            Lost::Closed | Lost::Broken(_) => {
                self.cut += 1;
                RETRY
            }
        };
        self.under_way -= 1;
        self.try_again(index, net.now(), pause);
        Ok(())
    }

    fn turn(&mut self, net: &mut Net, now: Instant) -> Result<Next> {
        self.go_on(net, now)
    }
}

impl Scenario<Geminio> for Fleet {
    fn ready(&mut self, net: &mut drive::Net<Geminio>, key: usize) -> Result<()> {
        let (role, id) = net.who(key);
        self.up(role, id, Vec::new())
    }

    fn heard(&mut self, _: &mut drive::Net<Geminio>, _: usize, event: Event<&[u8]>) -> Result<()> {
        bail!("unexpected {event:?}")
    }

    fn turn(&mut self, net: &mut drive::Net<Geminio>, now: Instant) -> Result<Next> {
        self.go_on(net, now)
    }
}

/// Whether nobody listened at the address.
fn is_refused(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Sets the flag when a line has come on standard input. The thread ends with the process at the latest.
fn wait_for_line(go: &Arc<AtomicBool>) {
    let go = Arc::clone(go);
    thread::spawn(move || {
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).is_ok_and(|n| n > 0) {
            go.store(true, Ordering::Release);
        }
    });
}
