//! An edge and a service that call each other all the time. Whatever other peers do, every call must be answered, and soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::gateway::Gateway;
use crate::peer::{Dial, Peer, Worker};
use crate::wait::{SOON, pause, until};

/// Between an answer and the next call.
const PACE: Duration = Duration::from_millis(2);
/// The method of the bystanders: other services of a test do not offer it.
const METHOD: &str = "bystander";
/// No call may take longer. Far above what is usual, because the machine may be building something meanwhile; far below what a frozen
/// gateway would take.
pub const UNNOTICED: Duration = Duration::from_secs(3);

/// See the module documentation.
#[derive(Debug)]
pub struct Bystanders {
    service: Option<Worker>,
    edge: Option<JoinHandle<anyhow::Result<Duration>>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    calls: AtomicU64,
    stop: AtomicBool,
}

// === impl Bystanders ===

impl Bystanders {
    /// Connects both and begins.
    ///
    /// # Errors
    /// When they are not welcome.
    pub fn start(gateway: &Gateway) -> anyhow::Result<Self> {
        let service = Dial::service(gateway.services(), "bystander")?.methods(&[METHOD]).connect()?;
        let edge = Dial::edge(gateway.edges())?.connect()?;
        let service = Worker::echo(service);
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let edge = std::thread::spawn(move || call_on(edge, &state));
        let pair = Self { service: Some(service), edge: Some(edge), shared };
        pair.still_answered()?;
        Ok(pair)
    }

    /// Waits until some more calls were answered.
    ///
    /// # Errors
    /// When they are not.
    pub fn still_answered(&self) -> anyhow::Result<()> {
        let goal = self.shared.calls.load(Ordering::Acquire) + 10;
        until("calls of bystanders", SOON, || {
            (self.shared.calls.load(Ordering::Acquire) >= goal).then_some(())
        })
    }

    /// Ends both; every call was answered in time.
    ///
    /// # Errors
    /// When one was not.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.still_answered()?;
        self.shared.stop.store(true, Ordering::Release);
        let worst =
            self.edge.take().context("no thread")?.join().map_err(|_| anyhow::anyhow!("edge panicked"))??;
        ensure!(worst < UNNOTICED, "a call of a bystander took {worst:?}");
        self.service.take().context("no service")?.stop().context("service of the bystanders")?;
        Ok(())
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

fn call_on(mut edge: Peer, shared: &Shared) -> anyhow::Result<Duration> {
    let mut worst = Duration::ZERO;
    while !shared.stop.load(Ordering::Acquire) {
        let body = shared.calls.load(Ordering::Relaxed).to_be_bytes();
        let start = Instant::now();
        let answer = edge.call(METHOD, &body, SOON)?;
        worst = worst.max(start.elapsed());
        ensure!(answer.as_deref() == Ok(&body), "call of a bystander: {answer:?}");
        shared.calls.fetch_add(1, Ordering::AcqRel);
        pause(PACE);
    }
    Ok(worst)
}
