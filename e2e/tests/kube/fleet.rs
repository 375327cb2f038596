//! Edges outside the cluster that talk to the echo service in it all the time, and count what fails.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier::{Edge, Reconnect, Request};
use parking_lot::Mutex;
use tokio::{runtime::Runtime, task::JoinSet, time::sleep};

/// Between two rounds of an edge.
const PAUSE: Duration = Duration::from_millis(50);
/// For one operation.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that are told.
const TOLD: usize = 10;

/// Edges under load. Ends when it is dropped.
pub(crate) struct Fleet {
    edges: Vec<Edge>,
    books: Arc<Books>,
    tasks: JoinSet<()>,
}

/// What was done, and what went wrong.
#[derive(Default)]
struct Books {
    /// Edge to service.
    up: AtomicU64,
    /// Edge to service, and from there back to the edge by its ID.
    back: AtomicU64,
    /// Notes that were acknowledged.
    noted: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<VecDeque<String>>,
}

/// A connection from outside, for as long as the cluster needs to have one.
pub(crate) async fn connect(gateway: &str, name: &str, within: Duration) -> anyhow::Result<Edge> {
    let begin = Instant::now();
    loop {
        let answer = format!("{name} heard ");
        let edge = Edge::builder(format!("tcp://{gateway}"))
            .meta(name.to_owned())
            .method("whoami", move |request: Request| {
                let answer = format!("{answer}{}", String::from_utf8_lossy(request.body()));
                async move { Ok(answer) }
            })
            .reconnect(Reconnect::default().cap(Duration::from_secs(1)))
            .connect()
            .await;
        match edge {
            Ok(edge) => return Ok(edge),
            Err(error) if begin.elapsed() > within => return Err(error).context("no edge gets in"),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Calls until the service answers.
pub(crate) async fn answered(edge: &Edge, within: Duration) -> anyhow::Result<String> {
    let begin = Instant::now();
    loop {
        match edge.call("echo", "hello").timeout(Duration::from_secs(5)).await {
            Ok(answer) => return Ok(String::from_utf8_lossy(answer.body()).into_owned()),
            Err(error) if begin.elapsed() > within => {
                return Err(error).context("the service does not answer");
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

// === impl Fleet ===

impl Fleet {
    /// So many edges that reach the service and are reached by it, at work.
    pub(crate) fn start(runtime: &Runtime, gateway: &str, count: usize) -> anyhow::Result<Self> {
        let _inside = runtime.enter();
        let books = Arc::<Books>::default();
        let (mut edges, mut tasks) = (Vec::new(), JoinSet::new());
        for number in 0..count {
            let edge = runtime.block_on(async {
                let edge = connect(gateway, &format!("edge {number}"), Duration::from_secs(60)).await?;
                answered(&edge, Duration::from_secs(60)).await?;
                anyhow::Ok(edge)
            })?;
            tasks.spawn(work(edge.clone(), number, Arc::clone(&books)));
            edges.push(edge);
        }
        Ok(Self { edges, books, tasks })
    }

    /// Waits until so much more of everything was done.
    pub(crate) fn works(&self, runtime: &Runtime, rounds: u64) -> anyhow::Result<()> {
        let goal = self.done() + rounds;
        let more = async {
            while self.done() < goal {
                sleep(PAUSE).await;
            }
        };
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), more).await })
            .with_context(|| format!("the fleet stands still; {}", self.failures()))
    }

    fn done(&self) -> u64 {
        let counts = [&self.books.up, &self.books.back, &self.books.noted];
        counts.map(|count| count.load(Ordering::Relaxed)).into_iter().min().unwrap_or(0)
    }

    /// Edges that are connected.
    pub(crate) fn connected(&self) -> usize {
        self.edges.iter().filter(|edge| edge.state().is_connected()).count()
    }

    /// Operations that failed so far.
    pub(crate) fn failed(&self) -> u64 {
        self.books.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> String {
        let told = self.books.failures.lock().iter().cloned().collect::<Vec<_>>().join("\n     ");
        format!("{} failed:\n     {told}", self.failed())
    }

    /// Ends the work and checks the books: nothing failed, every note that was acknowledged is in the service.
    pub(crate) fn end(mut self, runtime: &Runtime) -> anyhow::Result<String> {
        self.works(runtime, 10)?;
        runtime.block_on(async { self.tasks.shutdown().await });
        let [up, back, acknowledged] =
            [&self.books.up, &self.books.back, &self.books.noted].map(|c| c.load(Ordering::Relaxed));
        ensure!(self.failed() == 0, self.failures());
        let edge = self.edges.first().context("an edge")?;
        let noted = runtime.block_on(async { edge.call("noted", "").timeout(PATIENCE).await })?;
        let noted: u64 = String::from_utf8_lossy(noted.body()).parse()?;
        ensure!(noted >= acknowledged, "{acknowledged} notes were acknowledged, and only {noted} are there");
        let total = up + back + acknowledged;
        Ok(format!("{total} operations of {} edges, none failed", self.edges.len()))
    }
}

/// One edge's rounds: a call, a call that comes back, a note.
async fn work(edge: Edge, number: usize, books: Arc<Books>) {
    let begin = Instant::now();
    for round in 0_u64.. {
        let id = edge.id();
        let outcomes = [
            ("echo", edge.call("echo", "hello").timeout(PATIENCE).await.map(drop), &books.up),
            (
                "relay",
                edge.call("relay", format!("{id} there?")).timeout(PATIENCE).await.map(drop),
                &books.back,
            ),
            (
                "note",
                edge.publish("notes", format!("{number}/{round}")).timeout(PATIENCE).await,
                &books.noted,
            ),
        ];
        for (what, outcome, count) in outcomes {
            match outcome {
                Ok(()) => {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => books.note(&format!(
                    "edge {number} ({id}, {}) {what} at {:.1?}: {error}",
                    edge.state(),
                    begin.elapsed()
                )),
            }
        }
        sleep(PAUSE).await;
    }
}

// === impl Books ===

impl Books {
    fn note(&self, failure: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock();
        if failures.len() < TOLD {
            failures.push_back(failure.to_owned());
        }
    }
}
