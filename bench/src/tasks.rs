//! Load by tasks: how client libraries are driven, all of it on one thread, a task for each operation that may be in flight.
//!
//! These are the clients that people use, with tasks, channels and timers of their own behind each operation; so the load costs more
//! than the bare one and may be what limits the rate. Server CPU per operation and latency are what is compared.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Args;
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

/// Operations that are due and not sent, at most: more means that the rate cannot be held.
const MAX_LATE: usize = 100_000;
/// For what is neither warm-up nor measured: connecting and the end.
const GRACE: Duration = Duration::from_secs(30);

/// Arguments of every load by tasks.
#[derive(Args, Clone, Debug)]
pub struct TasksArgs {
    /// Clients that take part.
    #[arg(long, default_value_t = 10)]
    pub clients: usize,
    /// Operations of each client in flight.
    #[arg(long, default_value_t = 8)]
    pub in_flight: usize,
    /// Bytes of payload, at least 16.
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// Operations per second over all clients; as fast as answers come if not given.
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

/// Tasks that end only with the load; the first one that ends otherwise says why it failed.
pub type Running = JoinSet<Result<()>>;

/// What the tasks share.
#[derive(Debug)]
pub struct Tasks {
    meter: RefCell<Meter>,
    pattern: RefCell<Pattern>,
    payload: usize,
    /// With a rate: operations that may be sent, and when they were due.
    permits: Option<Semaphore>,
    due: RefCell<VecDeque<Instant>>,
}

// === impl Tasks ===

impl Tasks {
    /// Runs a load: `begin` connects everybody and starts the tasks.
    ///
    /// # Errors
    /// If a task ends before the load does.
    pub fn run<F>(args: &TasksArgs, begin: impl FnOnce(Rc<Self>) -> F) -> Result<Sample>
    where
        F: Future<Output = Result<Running>>,
    {
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
        let tasks = Rc::new(Self {
            meter: RefCell::new(meter),
            pattern: RefCell::new(Pattern::new()),
            payload: args.payload,
            permits: args.rate.map(|_| Semaphore::new(0)),
            due: RefCell::new(VecDeque::new()),
        });
        let limit = Duration::from_secs_f64(args.warmup + args.seconds) + GRACE;
        let load = async {
            let mut running = begin(Rc::clone(&tasks)).await?;
            tasks.meter.borrow_mut().start(Instant::now());
            let (clock, rate) = (Rc::clone(&tasks), args.rate);
            running.spawn_local(async move { clock.keep_time(rate).await });
            // The clock ends well, everything else ends badly.
            let first = running.join_next().await.context("no task")?;
            running.shutdown().await;
            first?
        };
        LocalSet::new().block_on(&runtime, async {
            tokio::time::timeout(limit, load).await.context("not done in time")?
        })?;
        drop(runtime);
        let tasks = Rc::try_unwrap(tasks).ok().context("a task still runs")?;
        Ok(tasks.meter.into_inner().into_sample())
    }

    /// Waits until an operation may be sent: when it was due, and its payload.
    ///
    /// # Errors
    /// When the load is over.
    pub async fn next(&self, line: u64, number: u64) -> Result<(Instant, Bytes)> {
        let due = match &self.permits {
            None => Instant::now(),
            Some(permits) => {
                permits.acquire().await?.forget();
                self.due.borrow_mut().pop_front().context("a permit without a time")?
            }
        };
        Ok((due, Bytes::copy_from_slice(self.pattern.borrow_mut().piece(line, number, 0, self.payload))))
    }

    /// An operation was acknowledged.
    pub fn done(&self, due: Instant) {
        self.meter.borrow_mut().done(due, Instant::now(), self.payload);
    }

    /// Bytes of a stream arrived.
    pub fn arrived(&self, bytes: usize) {
        self.meter.borrow_mut().arrived(bytes);
    }

    /// Checks that a payload came as it was sent.
    ///
    /// # Errors
    /// If it did not.
    pub fn check(&self, line: u64, number: u64, payload: &[u8]) -> Result<()> {
        ensure!(payload.len() == self.payload, "a payload of {} bytes", payload.len());
        ensure!(read_stamp(payload) == Some((line, number)), "the payload of another operation");
        self.pattern.borrow().check(line, number, 0, payload)
    }

    /// Checks bytes of a stream, from `at` on.
    ///
    /// # Errors
    /// If they are others than were written.
    pub fn check_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.pattern.borrow().check(0, 0, at, bytes)
    }

    /// The next bytes of a stream, from `at` on.
    #[must_use]
    pub fn piece_at(&self, at: u64, len: usize) -> Bytes {
        Bytes::copy_from_slice(self.pattern.borrow_mut().piece(0, 0, at, len))
    }

    /// Moves the meter, and with a rate lets operations go.
    async fn keep_time(&self, rate: Option<f64>) -> Result<()> {
        let every = Duration::from_secs_f64(1.0 / rate.unwrap_or(1.0).max(0.001));
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if self.meter.borrow_mut().tick(now)? {
                return Ok(());
            }
            let Some(permits) = &self.permits else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            while next <= now {
                self.due.borrow_mut().push_back(next);
                permits.add_permits(1);
                next += every;
            }
            ensure!(
                self.due.borrow().len() < MAX_LATE,
                "the rate cannot be held: {MAX_LATE} operations late"
            );
            tokio::task::yield_now().await;
        }
    }
}
