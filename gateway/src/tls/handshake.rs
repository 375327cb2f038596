//! TLS handshakes, away from the threads that carry traffic.
//!
//! A handshake costs a few hundred microseconds of arithmetic and depends on a peer that may never answer. So it runs as a task on
//! a runtime of its own: a bounded number at once, each with a deadline counted from its accept. What comes out ([`Established`])
//! is the socket, the connection and every plain byte that came behind the handshake, given to a sink on one of these threads.
//!
//! When all places are taken, the oldest handshake gives way if it has had its second; else the newcomer is closed. So peers that
//! connect and stay silent cannot keep others out by their number alone.

mod stats;

use std::{
    fmt, io,
    net::{Shutdown, SocketAddr},
    num::NonZero,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use frontier_ops::{
    complaints::Complaints,
    places::{Place, Places},
};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::Interest,
    net::TcpStream,
    runtime::{Builder, Runtime},
    time::{timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

pub use self::stats::{HandshakeStats, Outcome};
use crate::{
    core::identity::Subject,
    identity::subject_of,
    tls::{
        io::{ReadState, TlsError, TlsIo, TlsScratch},
        stream::TryIo,
    },
};

/// What a handshake may take before it gives way to a newcomer when all places are taken: several round trips of a slow network.
const GRACE: Duration = Duration::from_secs(1);

/// After the end of a shutdown's patience: for tasks to notice that they were cancelled.
const CANCEL: Duration = Duration::from_secs(1);

/// How handshakes are run.
#[derive(Clone, Debug)]
pub struct HandshakeSettings {
    /// Threads; 0 = one per four cores, at least one.
    pub threads: usize,
    /// Handshakes at once. Default 1,024; each holds a socket and at most 64 KiB of what the peer sent.
    pub at_once: usize,
    /// From accept to the end of the handshake. Default 10 s.
    pub timeout: Duration,
}

/// A connection that was accepted. `T` is whatever the caller wants back with it.
#[derive(Debug)]
pub struct Incoming<T> {
    /// The socket.
    pub socket: std::net::TcpStream,
    /// Whose listener it came in by, for lines in the log.
    pub role: &'static str,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub accepted: Instant,
    /// Bytes already read from the socket.
    pub read: Vec<u8>,
    /// What to show and to ask for.
    pub config: Arc<ServerConfig>,
    /// For the sink.
    pub tag: T,
}

/// A connection whose handshake is done.
///
/// `plain` comes first; then `tls` must be read at least once even if the poller says nothing, since the peer may have announced
/// its end already.
#[derive(Debug)]
pub struct Established<T> {
    /// The socket, not blocking.
    pub socket: std::net::TcpStream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub accepted: Instant,
    /// The connection. Nothing waits to be flushed.
    pub tls: Box<TlsIo>,
    /// Decrypted bytes that came behind the handshake: at most 64 KiB.
    pub plain: Vec<u8>,
    /// The names in the client's certificate, where one was asked for.
    pub subject: Option<Arc<Subject>>,
    /// From [`Incoming`].
    pub tag: T,
}

/// Takes established connections. Runs on a thread of the handshakes: it must not wait.
pub type Sink<T> = Arc<dyn Fn(Established<T>) + Send + Sync>;

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the peer went away")]
    Gone,
    #[error("not done in time")]
    TimedOut,
    #[error("gave way to a newer connection")]
    Evicted,
    #[error("the gateway stops")]
    Stopped,
}

/// See the module documentation.
pub struct Handshakes<T> {
    runtime: Mutex<Option<Runtime>>,
    handle: tokio::runtime::Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    places: Arc<Places>,
    stats: Arc<HandshakeStats>,
    complaints: Arc<Log>,
    timeout: Duration,
    sink: Sink<T>,
}

/// Says which handshakes came to nothing, within the limit on such lines.
#[derive(Debug)]
struct Log {
    start: Instant,
    complaints: Mutex<Complaints>,
}

/// Counts how a handshake ended, also when its task is dropped or panics.
struct Ending {
    stats: Arc<HandshakeStats>,
    /// `None` until the task has come to its end.
    outcome: Option<Outcome>,
}

// === impl HandshakeSettings ===

impl Default for HandshakeSettings {
    fn default() -> Self {
        Self { threads: 0, at_once: 1024, timeout: Duration::from_secs(10) }
    }
}

// === impl HandshakeError ===

impl HandshakeError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Tls(error) => Outcome::of(error),
            Self::Gone => Outcome::Gone,
            Self::TimedOut => Outcome::TimedOut,
            Self::Evicted => Outcome::Evicted,
            Self::Stopped => Outcome::Stopped,
        }
    }
}

// === impl Handshakes ===

impl<T: Send + 'static> Handshakes<T> {
    /// Starts the threads.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start(settings: &HandshakeSettings, sink: Sink<T>) -> io::Result<Self> {
        Self::start_with(settings, GRACE, sink)
    }

    fn start_with(settings: &HandshakeSettings, grace: Duration, sink: Sink<T>) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = if settings.threads == 0 { (cores / 4).max(1) } else { settings.threads };
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(1)
            .thread_name("tls")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            places: Arc::new(Places::new(settings.at_once, grace)),
            stats: Arc::default(),
            complaints: Arc::new(Log { start: Instant::now(), complaints: Mutex::default() }),
            timeout: settings.timeout,
            sink,
        })
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<HandshakeStats> {
        &self.stats
    }

    /// Begins a handshake, from any thread and without waiting. False if there was no place for it or the gateway stops: the socket
    /// is closed and counted.
    pub fn submit(&self, incoming: Incoming<T>) -> bool {
        if self.tasks.is_closed() {
            self.stats.count(Outcome::Stopped);
            return false;
        }
        let cancel = self.stop.child_token();
        let Some(place) = Places::enter(&self.places, Instant::now(), cancel.clone()) else {
            self.stats.count(Outcome::Full);
            self.complaints.failed(
                incoming.role,
                incoming.peer,
                Outcome::Full,
                "no place for another handshake",
            );
            return false;
        };
        let ending = Ending { stats: Arc::clone(&self.stats), outcome: None };
        let (stop, sink, log) = (self.stop.clone(), Arc::clone(&self.sink), Arc::clone(&self.complaints));
        let (role, peer) = (incoming.role, incoming.peer);
        let deadline = incoming.accepted + self.timeout;
        self.tasks.spawn_on(
            async move {
                let work = establish(incoming);
                let result = tokio::select! {
                    // A handshake that is done in the same moment loses: its place is promised to another.
                    biased;
                    () = cancel.cancelled() => Err(if stop.is_cancelled() { HandshakeError::Stopped } else { HandshakeError::Evicted }),
                    result = timeout_at(deadline.into(), work) => result.unwrap_or(Err(HandshakeError::TimedOut)),
                };
                if let Err(error) = &result {
                    log.failed(role, peer, error.outcome(), error);
                }
                finish(result, place, ending, &sink);
            },
            &self.handle,
        );
        true
    }

    /// Takes no more connections, gives running handshakes `patience` to come to their end, and ends the threads.
    ///
    /// # Cancel safety
    /// If dropped, call it again or drop `self`; handshakes go on until then.
    pub async fn shutdown(&self, patience: Duration) {
        self.tasks.close();
        if timeout(patience, self.tasks.wait()).await.is_err() {
            self.stop.cancel();
            drop(timeout(CANCEL, self.tasks.wait()).await);
        }
        self.end_threads();
    }
}

impl<T> Handshakes<T> {
    /// Does not wait: the caller may be on an async thread, where a runtime must not be dropped in the ordinary way.
    fn end_threads(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

impl<T> Drop for Handshakes<T> {
    fn drop(&mut self) {
        self.tasks.close();
        self.stop.cancel();
        self.end_threads();
    }
}

impl<T> fmt::Debug for Handshakes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").field("running", &self.tasks.len()).finish_non_exhaustive()
    }
}

fn finish<T>(
    result: Result<Established<T>, HandshakeError>,
    place: Place,
    mut ending: Ending,
    sink: &Sink<T>,
) {
    // First the place, then the sink: whoever sees the connection finds the place free.
    drop(place);
    match result {
        Ok(established) => {
            sink(established);
            ending.outcome = Some(Outcome::Established);
        }
        Err(error) => {
            ending.outcome = Some(error.outcome());
        }
    }
}

/// Runs a handshake to its end.
async fn establish<T>(incoming: Incoming<T>) -> Result<Established<T>, HandshakeError> {
    let Incoming { socket, role: _, peer, accepted, read, config, tag } = incoming;
    let mut tls = TlsIo::accept(config)?;
    socket.set_nonblocking(true).map_err(TlsError::from)?;
    let socket = TcpStream::from_std(socket).map_err(TlsError::from)?;
    let mut plain = Vec::new();
    if let Err(error) = handshake(&socket, &mut tls, &read, &mut plain).await {
        // The alert that says why, if the socket takes it at once.
        drop(tls.flush(&mut TryIo(&socket)));
        if let Ok(socket) = socket.into_std() {
            drop(socket.shutdown(Shutdown::Write));
        }
        return Err(error);
    }
    let subject = tls.peer_certificates().and_then(<[_]>::first).map(|cert| Arc::new(subject_of(cert)));
    let socket = socket.into_std().map_err(TlsError::from)?;
    Ok(Established { socket, peer, accepted, tls: Box::new(tls), plain, subject, tag })
}

pub(super) async fn handshake(
    socket: &TcpStream,
    tls: &mut TlsIo,
    mut read: &[u8],
    plain: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    while !read.is_empty() {
        with_scratch(|scratch| tls.read(&mut read, scratch, plain))?;
    }
    loop {
        // Our flight first: it may be what the peer waits for.
        let flushed = tls.flush(&mut TryIo(socket)).map_err(TlsError::from)?;
        let interest = match (tls.is_handshaking(), flushed) {
            (false, true) => return Ok(()),
            (true, true) => Interest::READABLE,
            (true, false) => Interest::READABLE | Interest::WRITABLE,
            (false, false) => Interest::WRITABLE,
        };
        let ready = socket.ready(interest).await.map_err(TlsError::from)?;
        if ready.is_readable() && tls.is_handshaking() {
            let outcome = with_scratch(|scratch| tls.read(&mut TryIo(socket), scratch, plain))?;
            if matches!(outcome.state, ReadState::Truncated | ReadState::Closed) && tls.is_handshaking() {
                return Err(HandshakeError::Gone);
            }
        }
    }
}

/// The working memory of this thread. Nothing waits while it is in use.
fn with_scratch<R>(work: impl FnOnce(&mut TlsScratch) -> R) -> R {
    thread_local! {
        static SCRATCH: std::cell::RefCell<TlsScratch> = std::cell::RefCell::default();
    }
    SCRATCH.with_borrow_mut(work)
}

// === impl Log ===

impl Log {
    /// With the fields that lines about sessions have.
    fn failed(&self, role: &'static str, peer: SocketAddr, end: Outcome, error: impl fmt::Display) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let outcome = end.name();
        match end {
            Outcome::Stopped => {
                debug!(target: "frontier::session", role, client.addr = %peer, outcome, "tls handshake ended with the gateway")
            }
            _ if !self.complaints.lock().admit(micros) => {}
            // Not a warning: load balancers that look whether the port is open do the same.
            Outcome::Gone => {
                info!(target: "frontier::session", role, client.addr = %peer, outcome, "closed before Hello")
            }
            _ => {
                let reason = "tls handshake failed";
                warn!(target: "frontier::session", role, client.addr = %peer, reason, outcome, %error, "refused")
            }
        }
    }
}

// === impl Ending ===

impl Drop for Ending {
    fn drop(&mut self) {
        // Dropped on the way: by a panic, or with the threads.
        let dropped = if thread::panicking() { Outcome::Panicked } else { Outcome::Stopped };
        self.stats.count(self.outcome.unwrap_or(dropped));
    }
}

#[cfg(test)]
mod tests;
