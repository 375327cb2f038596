//! Connections of unknown protocols on the edge port, piped to another server (`edgebound.bypass`).
//!
//! ```text
//!  peer ── socket, TLS of the listener if any ──▶ bytes already read, then all that follows ──▶ one of `addrs`
//!       ◀───────────────────────────────────────────────────────────────────────────────────
//! ```
//!
//! The gateway looks at nothing. An end of bytes in one direction is passed on and the other direction goes on. Each pipe holds two
//! buffers of 8 KiB (with TLS on a side about 60 KiB more), and their number is bounded, as is the time that one may be silent. Peers
//! that vanish are noticed by TCP keep-alive, or by that time if it is shorter.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use frontier_ops::{
    config::{Dial, split_host_port},
    tls::{CertError, dial::client_config},
};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    net::TcpStream,
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::{
    identity::Random,
    tls::{TlsIo, TlsStream},
};

/// A peer that is gone is noticed within about a minute and a half of silence.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How pipes are run.
#[derive(Clone, Debug)]
pub struct BypassSettings {
    /// Where to: one of `addrs` picked at random, the others in turn if it cannot be reached; TLS as the block says.
    pub dial: Dial,
    /// Pipes at once (`limits.pipes`). Default 1,024, worst case about 80 KiB each (16 KiB without TLS).
    pub at_once: usize,
    /// How long no byte may pass in either direction before a pipe is cut (`limits.pipe_idle`). Default 10 min.
    pub idle: Duration,
    /// To reach one of the addresses, TLS included. Default 10 s.
    pub connect_timeout: Duration,
}

/// A connection to be piped: its socket, with the connection of the listener's TLS if there is one.
#[derive(Debug)]
pub struct Bypassed {
    /// The socket.
    pub socket: std::net::TcpStream,
    /// TLS of the listener.
    pub tls: Option<Box<TlsIo>>,
    /// Plain bytes already read.
    pub read: Vec<u8>,
}

/// Why pipes cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BypassError {
    /// Nowhere to pipe to.
    #[error("illegal bypass addrs")]
    NoAddress,
    /// An address cannot be used.
    #[error("bypass address {addr:?}: {message}")]
    Address {
        /// The address.
        addr: String,
        /// What is wrong.
        message: String,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertError),
}

/// How pipes ended, and what passed through them so far.
#[derive(Debug, Default)]
pub struct BypassStats {
    /// Refused: too many at once, or the gateway stops.
    pub refused: AtomicU64,
    /// None of the addresses could be reached.
    pub unreachable: AtomicU64,
    /// Ended in both directions.
    pub ended: AtomicU64,
    /// Broken in one direction, or cut by a shutdown.
    pub broken: AtomicU64,
    /// Cut because no byte had passed for too long.
    pub idle: AtomicU64,
    /// Bytes from peers to targets.
    pub bytes_in: AtomicU64,
    /// Bytes from targets to peers.
    pub bytes_out: AtomicU64,
}

/// See the module documentation.
pub struct Bypass {
    targets: Arc<Targets>,
    places: Arc<Semaphore>,
    random: Mutex<Box<dyn Random>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    stats: Arc<BypassStats>,
    handle: Handle,
}

struct Targets {
    /// Never empty.
    addrs: Vec<Target>,
    tls: Option<TlsConnector>,
    connect_timeout: Duration,
    idle: Duration,
}

struct Target {
    host: String,
    port: u16,
    /// The name its certificate must have, with TLS.
    name: Option<ServerName<'static>>,
}

/// A socket that gives out bytes already read from it first. Writing them ahead of the copying would wait for a target that itself
/// waits until somebody reads from it.
struct Rewound {
    read: Vec<u8>,
    taken: usize,
    socket: TcpStream,
}

/// When the last byte passed through a pipe.
struct Pulse {
    start: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

/// The peer's side of a pipe, where whatever passes is counted.
struct Counted<'a> {
    side: Box<dyn Duplex>,
    pulse: &'a Pulse,
    stats: &'a BypassStats,
}

/// Either side of a pipe.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Why a pipe came to nothing.
#[derive(Debug, thiserror::Error)]
enum PipeError {
    #[error("no target could be reached: {0}")]
    Unreachable(#[source] io::Error),
    #[error("broken: {0}")]
    Broken(#[from] io::Error),
    #[error("no byte has passed for {0:?}")]
    Idle(Duration),
}

// === impl BypassSettings ===

impl BypassSettings {
    /// To `dial`, with the defaults for all else.
    #[must_use]
    pub const fn new(dial: Dial) -> Self {
        Self { dial, at_once: 1024, idle: Duration::from_secs(600), connect_timeout: Duration::from_secs(10) }
    }
}

// === impl Bypass ===

impl Bypass {
    /// Pipes run on `handle`; `random` picks addresses.
    ///
    /// # Errors
    /// When there is no usable address or certificate.
    pub fn new(
        settings: &BypassSettings,
        random: Box<dyn Random>,
        handle: Handle,
    ) -> Result<Self, BypassError> {
        Ok(Self {
            targets: Arc::new(Targets::new(settings)?),
            places: Arc::new(Semaphore::new(settings.at_once.min(Semaphore::MAX_PERMITS))),
            random: Mutex::new(random),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            stats: Arc::default(),
            handle,
        })
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<BypassStats> {
        &self.stats
    }

    /// Pipes running now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tasks.len()
    }

    /// Begins a pipe, from any thread and without waiting. False if there was no place for it or the gateway stops: the socket is
    /// closed and counted.
    pub fn pipe(&self, peer: Bypassed) -> bool {
        let place = Arc::clone(&self.places).try_acquire_owned().ok().filter(|_| !self.tasks.is_closed());
        let Some(place) = place else {
            self.stats.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        let first = usize::try_from(self.random.lock().next_u64() >> 33).unwrap_or_default();
        let (targets, stats, stop) = (Arc::clone(&self.targets), Arc::clone(&self.stats), self.stop.clone());
        self.tasks.spawn_on(
            async move {
                let result = stop.run_until_cancelled(run(&targets, first, peer, &stats)).await;
                finish(result, place, &stats);
            },
            &self.handle,
        );
        true
    }

    /// Takes no more connections, gives those there are `patience` to come to their end, and cuts the rest.
    ///
    /// # Cancel safety
    /// If dropped, call it again; pipes go on until then.
    pub async fn shutdown(&self, patience: Duration) {
        self.tasks.close();
        if timeout(patience, self.tasks.wait()).await.is_err() {
            self.stop.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for Bypass {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bypass").field("running", &self.running()).finish_non_exhaustive()
    }
}

fn finish(result: Option<Result<(), PipeError>>, place: OwnedSemaphorePermit, stats: &BypassStats) {
    drop(place);
    let counter = match result {
        Some(Ok(())) => &stats.ended,
        Some(Err(error)) => {
            debug!(%error, "bypass ended early");
            match error {
                PipeError::Unreachable(_) => &stats.unreachable,
                PipeError::Broken(_) => &stats.broken,
                PipeError::Idle(_) => &stats.idle,
            }
        }
        None => &stats.broken,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn run(targets: &Targets, first: usize, peer: Bypassed, stats: &BypassStats) -> Result<(), PipeError> {
    let Bypassed { socket, tls, read } = peer;
    socket.set_nonblocking(true)?;
    let socket = TcpStream::from_std(socket)?;
    keep_alive(&socket)?;
    let mut target = targets.connect(first).await.map_err(PipeError::Unreachable)?;
    let side: Box<dyn Duplex> = match tls {
        Some(tls) => Box::new(TlsStream::new(socket, tls, read)),
        None => Box::new(Rewound { read, taken: 0, socket }),
    };
    let pulse = Pulse::new();
    let mut peer = Counted { side, pulse: &pulse, stats };
    tokio::select! {
        copied = copy_bidirectional(&mut peer, &mut target) => Ok(copied.map(drop)?),
        () = pulse.stops(targets.idle) => Err(PipeError::Idle(targets.idle)),
    }
}

fn keep_alive(socket: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 10).with_retries(5);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

// === impl Pulse ===

impl Pulse {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Something has passed.
    fn beat(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until nothing has passed for `idle`.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    async fn stops(&self, idle: Duration) {
        loop {
            let until = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + idle;
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }
}

// === impl Counted ===

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.side).poll_read(task, into);
        let read = into.filled().len() - before;
        if read > 0 {
            self.stats.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
            self.pulse.beat();
        }
        polled
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.side).poll_write(task, bytes);
        if let Poll::Ready(Ok(written @ 1..)) = polled {
            self.stats.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
            self.pulse.beat();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_shutdown(task)
    }
}

// === impl Rewound ===

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken == this.read.len() {
            return Pin::new(&mut this.socket).poll_read(task, into);
        }
        let ready = &this.read[this.taken..];
        let len = ready.len().min(into.remaining());
        into.put_slice(&ready[..len]);
        this.taken += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(task)
    }
}

// === impl Targets ===

impl Targets {
    fn new(settings: &BypassSettings) -> Result<Self, BypassError> {
        let tls = &settings.dial.tls;
        let connector =
            tls.enable.then(|| client_config(tls).map(|config| TlsConnector::from(Arc::new(config))));
        let addrs = settings.dial.addrs.iter().map(|addr| Target::new(addr, tls.enable));
        let addrs = addrs.collect::<Result<Vec<_>, BypassError>>()?;
        if addrs.is_empty() {
            return Err(BypassError::NoAddress);
        }
        let BypassSettings { connect_timeout, idle, .. } = *settings;
        Ok(Self { addrs, tls: connector.transpose()?, connect_timeout, idle })
    }

    /// A connection to the address `first` (modulo their number), or to the next that can be reached in time. One that does not
    /// answer gets its part of the time only.
    async fn connect(&self, first: usize) -> io::Result<Box<dyn Duplex>> {
        let deadline = Instant::now() + self.connect_timeout;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for turn in 0..self.addrs.len() {
            let left = u32::try_from(self.addrs.len() - turn).unwrap_or(u32::MAX);
            let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / left;
            let target = &self.addrs[(first + turn) % self.addrs.len()];
            match timeout_at(until, self.connect_to(target)).await {
                Ok(Ok(target)) => return Ok(target),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    async fn connect_to(&self, target: &Target) -> io::Result<Box<dyn Duplex>> {
        let socket = TcpStream::connect((target.host.as_str(), target.port)).await?;
        keep_alive(&socket)?;
        socket.set_nodelay(true)?;
        match (&self.tls, &target.name) {
            (Some(tls), Some(name)) => Ok(Box::new(tls.connect(name.clone(), socket).await?)),
            _ => Ok(Box::new(socket)),
        }
    }
}

// === impl Target ===

impl Target {
    fn new(addr: &str, tls: bool) -> Result<Self, BypassError> {
        let error = |message: String| BypassError::Address { addr: addr.to_owned(), message };
        let (host, port) = split_host_port(addr).map_err(error)?;
        // No host is this machine, as in the Go system.
        let host = if host.is_empty() { "localhost" } else { host };
        let name = || ServerName::try_from(host.to_owned()).map_err(|invalid| error(invalid.to_string()));
        // Only TLS needs a name that a certificate can have.
        let name = if tls { Some(name()?) } else { None };
        Ok(Self { host: host.to_owned(), port, name })
    }
}

#[cfg(test)]
mod tests;
