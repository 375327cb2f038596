//! Request and reply through nats-server: clients of `async-nats` on one thread, and one more that answers.
//!
//! These are the clients that people use, with a task, a channel and a timer behind each request; so the load costs more than the native
//! one and may be what limits the rate. Server CPU per call and latency are what is compared.

use std::{
    cell::RefCell,
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;
use tokio::{
    sync::Semaphore,
    task::{JoinSet, LocalSet},
};

use crate::{
    load::{
        meter::{Meter, Plan},
        pattern::{Pattern, read_stamp},
    },
    sample::Sample,
};

/// The subject that is answered.
const SUBJECT: &str = "bench.echo";
/// Requests that are due and not sent, at most: more means that the rate cannot be held.
const MAX_LATE: usize = 100_000;

/// Arguments of the request load.
#[derive(Args, Clone, Debug)]
pub struct NatsArgs {
    /// Where nats-server listens.
    #[arg(long)]
    pub server: SocketAddr,
    /// Clients that ask.
    #[arg(long, default_value_t = 10)]
    pub clients: usize,
    /// Requests of each client in flight.
    #[arg(long, default_value_t = 8)]
    pub in_flight: usize,
    /// Bytes of payload, at least 16.
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// Requests per second over all clients; as fast as answers come if not given.
    #[arg(long)]
    pub rate: Option<f64>,
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
}

/// What the tasks of the one thread share.
#[derive(Debug)]
struct Shared {
    meter: RefCell<Meter>,
    pattern: RefCell<Pattern>,
    payload: usize,
    /// With a rate: requests that may be sent, and when they were due.
    permits: Option<Semaphore>,
    due: RefCell<VecDeque<Instant>>,
}

/// Runs the load.
///
/// # Errors
/// If the server cannot be reached, or a request fails or is answered wrongly.
pub fn run(args: &NatsArgs) -> Result<Sample> {
    ensure!(args.payload >= 16, "a payload has at least 16 bytes");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The paced load never sleeps: look for arrivals after a few tasks, not after the default of 61.
        .event_interval(4)
        .build()?;
    let meter = Meter::new(Plan {
        warmup: Duration::from_secs_f64(args.warmup),
        measure: Duration::from_secs_f64(args.seconds),
        servers: args.servers.clone(),
    })?;
    let shared = Rc::new(Shared {
        meter: RefCell::new(meter),
        pattern: RefCell::new(Pattern::new()),
        payload: args.payload,
        permits: args.rate.map(|_| Semaphore::new(0)),
        due: RefCell::new(VecDeque::new()),
    });
    let limit = Duration::from_secs_f64(args.warmup + args.seconds + 30.0);
    let load = measure(args.clone(), Rc::clone(&shared));
    LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(limit, load).await.context("not done in time")? })?;
    let shared = Rc::try_unwrap(shared).ok().context("a task still runs")?;
    Ok(shared.meter.into_inner().into_sample())
}

async fn measure(args: NatsArgs, shared: Rc<Shared>) -> Result<()> {
    let mut tasks = JoinSet::new();
    let service = connect(args.server).await?;
    let mut requests = service.subscribe(SUBJECT).await?;
    service.flush().await?;
    tasks.spawn_local(async move {
        while let Some(request) = requests.next().await {
            let reply = request.reply.context("a request without a reply subject")?;
            service.publish(reply, request.payload).await?;
        }
        bail!("the subscription ended")
    });
    let mut lines = 0;
    for _ in 0..args.clients {
        let client = connect(args.server).await?;
        for _ in 0..args.in_flight {
            tasks.spawn_local(ask(client.clone(), lines, Rc::clone(&shared)));
            lines += 1;
        }
    }
    shared.meter.borrow_mut().start(Instant::now());
    tasks.spawn_local(async move { keep_time(args.rate, &shared).await });
    // The clock ends well, everything else ends badly.
    let first = tasks.join_next().await.context("no task")?;
    tasks.shutdown().await;
    first?
}

async fn connect(server: SocketAddr) -> Result<Client> {
    ConnectOptions::new()
        .request_timeout(Some(Duration::from_secs(10)))
        .connect(server.to_string())
        .await
        .with_context(|| format!("connect to nats-server at {server}"))
}

/// One request after the other.
async fn ask(client: Client, line: u64, shared: Rc<Shared>) -> Result<()> {
    for number in 0.. {
        let due = shared.next_due().await?;
        let body = Bytes::copy_from_slice(shared.pattern.borrow_mut().piece(line, number, 0, shared.payload));
        let answer = client.request(SUBJECT, body).await?.payload;
        ensure!(answer.len() == shared.payload, "answer of {} bytes", answer.len());
        ensure!(read_stamp(&answer) == Some((line, number)), "an answer to another request");
        shared.pattern.borrow().check(line, number, 0, &answer)?;
        shared.meter.borrow_mut().done(due, Instant::now(), shared.payload);
    }
    Ok(())
}

/// Moves the meter, and with a rate lets requests go.
async fn keep_time(rate: Option<f64>, shared: &Shared) -> Result<()> {
    let every = Duration::from_secs_f64(1.0 / rate.unwrap_or(1.0).max(0.001));
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if shared.meter.borrow_mut().tick(now)? {
            return Ok(());
        }
        let Some(permits) = &shared.permits else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        while next <= now {
            shared.due.borrow_mut().push_back(next);
            permits.add_permits(1);
            next += every;
        }
        ensure!(shared.due.borrow().len() < MAX_LATE, "the rate cannot be held: {MAX_LATE} requests late");
        tokio::task::yield_now().await;
    }
}

// === impl Shared ===

impl Shared {
    async fn next_due(&self) -> Result<Instant> {
        let Some(permits) = &self.permits else { return Ok(Instant::now()) };
        permits.acquire().await?.forget();
        self.due.borrow_mut().pop_front().context("a permit without a time")
    }
}
