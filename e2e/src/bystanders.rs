//! An edge and a service that call each other all the time. Whatever other peers do, every call must be answered, and soon.
//!
//! How soon depends on the machine, which may be building something meanwhile. So the same threads and sockets are there once more
//! without a gateway, at the same time and at the same pace: a caller, one who passes bytes on, and one who answers. What a call through
//! them takes is nobody's fault; what a call through the gateway takes beyond some multiple of that is the gateway's.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use crate::{
    gateway::Gateway,
    peer::{Dial, Peer, Worker},
    wait::{SOON, pause, until},
};

/// Between an answer and the next call.
const PACE: Duration = Duration::from_millis(2);
/// The method of the bystanders: other services of a test do not offer it.
const METHOD: &str = "bystander";
/// No call may take longer than this and [`TIMES`] the worst without a gateway together.
const UNNOTICED: Duration = Duration::from_secs(1);
/// See [`UNNOTICED`]. The two are not delayed in the same moments, only about as often.
const TIMES: u32 = 4;
/// Nor may one take longer than this, whatever the machine does.
const FROZEN: Duration = Duration::from_secs(3);

/// See the module documentation.
#[derive(Debug)]
pub struct Bystanders {
    service: Option<Worker>,
    edge: Option<JoinHandle<anyhow::Result<Duration>>>,
    control: Option<JoinHandle<anyhow::Result<Duration>>>,
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
        let (mut caller, state) = (without_gateway()?, Arc::clone(&shared));
        let control = std::thread::spawn(move || {
            repeat(&state, || {
                caller.write_all(&[0; 64])?;
                Ok(caller.read_exact(&mut [0; 64])?)
            })
        });
        let pair = Self { service: Some(service), edge: Some(edge), control: Some(control), shared };
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
        let worst = |thread: Option<JoinHandle<anyhow::Result<Duration>>>| {
            thread.context("no thread")?.join().map_err(|_| anyhow::anyhow!("a bystander panicked"))?
        };
        let (slowest, usual) = (worst(self.edge.take())?, worst(self.control.take())?);
        let most = (UNNOTICED + usual * TIMES).min(FROZEN);
        ensure!(
            slowest < most,
            "a call of a bystander took {slowest:?}, without a gateway at most {usual:?}"
        );
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
    repeat(shared, || {
        let body = shared.calls.load(Ordering::Relaxed).to_be_bytes();
        let answer = edge.call(METHOD, &body, SOON)?;
        ensure!(answer.as_deref() == Ok(&body), "call of a bystander: {answer:?}");
        shared.calls.fetch_add(1, Ordering::AcqRel);
        Ok(())
    })
}

/// Makes calls until told to stop; returns the longest time that one took.
fn repeat(shared: &Shared, mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let mut worst = Duration::ZERO;
    while !shared.stop.load(Ordering::Acquire) {
        let start = Instant::now();
        call()?;
        worst = worst.max(start.elapsed());
        pause(PACE);
    }
    Ok(worst)
}

/// A connection whose bytes are passed on by one thread to another, which answers the same way back. Both end with it.
fn without_gateway() -> anyhow::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let connect = || -> anyhow::Result<(TcpStream, TcpStream)> {
        let near = TcpStream::connect(listener.local_addr()?)?;
        let far = listener.accept()?.0;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        Ok((near, far))
    };
    let ((caller, mut left), (mut right, mut answerer)) = (connect()?, connect()?);
    std::thread::spawn(move || {
        let mut call = [0; 64];
        while left.read_exact(&mut call).and_then(|()| right.write_all(&call)).is_ok() {
            if right.read_exact(&mut call).and_then(|()| left.write_all(&call)).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let mut call = [0; 64];
        while answerer.read_exact(&mut call).and_then(|()| answerer.write_all(&call)).is_ok() {}
    });
    Ok(caller)
}
