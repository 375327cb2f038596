//! Serves HTTP/1.1 and HTTP/2 on one listener, plain or by TLS: the ports of operators and of programs that ask.
//!
//! One task per connection, at most so many, each with a time to finish its handshake, to send its first request and to
//! send the head of each. When all places are taken, the connection that has been idle for longest gives way, so that whoever opens many
//! and leaves them open keeps no probe out. What happens within a request is bounded by [`crate::guard`].

mod foreign;

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use http::Request;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::{
    complaints::Complaints,
    config::canonical,
    metrics::Family,
    places::{Busy, Place, Places},
    tls::certificate::{self, Names},
};

pub use self::foreign::{Duplex, Foreign, ForeignConnection, ServeForeign};

/// A connection that has been idle for so long gives way to a newcomer when all places are taken.
const GRACE: Duration = Duration::from_secs(1);

/// For a TLS handshake, for the first request, and for the head of each; also how long a kept connection may stay idle.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is in flight when the server stops gets this long.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// After a failed accept: too many open files does not pass within microseconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The configuration that a new TLS connection shall use; called once for each.
pub type TlsSource = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Who sent a request: an extension of every request served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The names in the certificate that a client showed: an extension of every request of a connection where it had to show one.
#[derive(Clone, Debug)]
pub struct ClientNames(pub Arc<Names>);

/// What a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at once; each holds some tens of KiB.
    pub connections: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// Whether a connection is being served for as long as an answer is sent, instead of until it begins: for ports whose answers are
    /// streams without an end. On others that would let whoever asks and does not read keep a place.
    pub long_answers: bool,
}

/// How a connection of an operator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Requests were answered.
    Served,
    /// It asked nothing, as the probes of load balancers do.
    Empty,
    /// What it said is not HTTP.
    Invalid,
    /// The TLS handshake failed or took too long.
    Handshake,
    /// It was idle, and another one needed its place.
    GaveWay,
    /// There was no place.
    Refused,
    /// The system could not accept it.
    Accept,
    /// It broke off.
    Broken,
    /// It spoke the other protocol of its port.
    Foreign,
}

/// What is known of a port of operators.
pub struct OperatorPort {
    name: &'static str,
    bounds: Bounds,
    foreign: Option<Foreign>,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    complaints: Mutex<Complaints>,
    started: Instant,
}

/// Serves `app` until `stop`, then lets running requests end.
///
/// # Cancel safety
/// Dropping the future ends the listener; connections end with their current request.
pub async fn serve(
    listener: TcpListener,
    port: Arc<OperatorPort>,
    tls: Option<TlsSource>,
    app: Router,
    stop: CancellationToken,
) {
    let places = Arc::new(Places::new(port.bounds.connections, GRACE));
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, addr)) => {
                let (now, give_way) = (Instant::now(), CancellationToken::new());
                let peer = Peer(canonical(addr));
                let Some(place) = Places::enter(&places, now, give_way.clone()) else {
                    // Dropping the socket tells the newcomer at once; those inside are being served.
                    port.count(Outcome::Refused);
                    port.complain(
                        || warn!(port = port.name, client.addr = %peer.0, "no place for a connection"),
                    );
                    continue;
                };
                let connection = Connection {
                    port: Arc::clone(&port),
                    tls: tls.clone(),
                    app: app.clone(),
                    peer,
                    names: None,
                    place: Arc::new(place),
                    give_way,
                };
                connections.spawn(connection.run(socket, stop.clone()));
            }
            Err(error) => {
                port.count(Outcome::Accept);
                port.complain(|| warn!(port = port.name, %error, "cannot accept"));
                stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(LAST_REQUESTS, connections.wait()).await.is_err() {
        debug!("requests were still running at the end");
    }
}

struct Connection {
    port: Arc<OperatorPort>,
    tls: Option<TlsSource>,
    app: Router,
    peer: Peer,
    names: Option<ClientNames>,
    place: Arc<Place>,
    /// Cancelled when somebody else needs the place.
    give_way: CancellationToken,
}

// === impl Connection ===

impl Connection {
    async fn run(mut self, socket: TcpStream, stop: CancellationToken) {
        // Answers are small; waiting for more of them helps nobody.
        let _ = socket.set_nodelay(true);
        let give_way = self.give_way.clone();
        let outcome = give_way.run_until_cancelled(self.end(socket, stop)).await;
        let outcome = outcome.unwrap_or(Outcome::GaveWay);
        self.port.count(outcome);
        debug!(port = self.port.name, client.addr = %self.peer.0, outcome = outcome.name(), "connection ended");
    }

    /// Runs to its end.
    async fn end(&mut self, socket: TcpStream, stop: CancellationToken) -> Outcome {
        let asked = AtomicBool::new(false);
        let Some(source) = &self.tls else { return Box::pin(self.tell(socket, &asked, stop)).await };
        match handshake(source, socket).await {
            Ok(socket) => {
                self.names = client_names(&socket);
                Box::pin(self.tell(socket, &asked, stop)).await
            }
            Err(error) => {
                self.port.complain(|| {
                    let port = self.port.name;
                    warn!(port, client.addr = %self.peer.0, %error, "TLS handshake failed");
                });
                Outcome::Handshake
            }
        }
    }

    /// Serves what it speaks.
    async fn tell<S>(&self, stream: S, asked: &AtomicBool, stop: CancellationToken) -> Outcome
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(foreign) = &self.port.foreign else { return self.serve(stream, asked, stop).await };
        let told = stop.run_until_cancelled(timeout(PATIENCE, foreign.look(Box::new(stream)))).await;
        let Some(Ok(Some((stream, is_foreign)))) = told else { return Outcome::Empty };
        if !is_foreign {
            return self.serve(stream, asked, stop).await;
        }
        let connection =
            ForeignConnection { stream: Box::new(stream), peer: self.peer, names: self.names.clone() };
        // It is bounded by whoever serves it, and is no less in use when it says nothing.
        let _busy = Place::busy(&self.place);
        (foreign.serve)(connection, stop).await;
        Outcome::Foreign
    }

    /// Answers requests; `asked` as soon as there was one.
    async fn serve<S>(&self, stream: S, asked: &AtomicBool, stop: CancellationToken) -> Outcome
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|mut request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(self.peer);
            if let Some(names) = &self.names {
                request.extensions_mut().insert(names.clone());
            }
            let served = self.app.clone().oneshot(request.map(Body::new));
            let (busy, long) = (Place::busy(&self.place), self.port.bounds.long_answers);
            async move {
                let answer = served.await;
                if long { answer.map(|answer| held(answer, busy)) } else { answer }
            }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        let mut http2 = server.http2();
        http2.timer(TokioTimer::new()).max_concurrent_streams(self.port.bounds.streams);
        http2.keep_alive_interval(2 * PATIENCE).keep_alive_timeout(PATIENCE);
        let connection = server.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // What says nothing, or never gets to its first request, must not keep a place from a probe. A program that connects long before
        // it asks is told in good order and connects again.
        let silent = async {
            sleep(PATIENCE).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending().await
            }
        };
        let ended = tokio::select! {
            // Requests that are there already are better answered than refused.
            biased;
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = silent => {
                connection.as_mut().graceful_shutdown();
                timeout(PATIENCE, connection).await.unwrap_or(Ok(()))
            }
        };
        match ended {
            Ok(()) if asked.load(Ordering::Relaxed) => Outcome::Served,
            Ok(()) => Outcome::Empty,
            Err(error) => self.broken(&*error),
        }
    }

    fn broken(&self, error: &(dyn std::error::Error + Send + Sync + 'static)) -> Outcome {
        let http = error.downcast_ref::<hyper::Error>();
        if http.is_some_and(hyper::Error::is_timeout) {
            Outcome::Empty
        } else if http.is_some_and(hyper::Error::is_parse) {
            self.port.complain(|| {
                warn!(port = self.port.name, client.addr = %self.peer.0, %error, "what a client says is not HTTP");
            });
            Outcome::Invalid
        } else {
            Outcome::Broken
        }
    }
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: 512, streams: 64, long_answers: false }
    }
}

// === impl OperatorPort ===

impl OperatorPort {
    /// A port nobody has come to yet, by its name in logs and metrics.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self::bounded(name, Bounds::default())
    }

    /// The same with other bounds than those for people, scrapers and a few programs.
    #[must_use]
    pub fn bounded(name: &'static str, bounds: Bounds) -> Self {
        let outcomes = [const { AtomicU64::new(0) }; Outcome::ALL.len()];
        let foreign = None;
        Self { name, bounds, foreign, outcomes, complaints: Mutex::default(), started: Instant::now() }
    }

    /// The same with another protocol beside HTTP.
    #[must_use]
    pub fn with(self, foreign: Foreign) -> Self {
        Self { foreign: Some(foreign), ..self }
    }

    /// Adds what was counted to a metric of all ports.
    #[must_use]
    pub fn rows(&self, family: Family) -> Family {
        Outcome::ALL.into_iter().zip(&self.outcomes).fold(family, |family, (outcome, count)| {
            family.row(&[("port", self.name), ("outcome", outcome.name())], count.load(Ordering::Relaxed))
        })
    }

    fn count(&self, outcome: Outcome) {
        if let Some(counter) = self.outcomes.get(outcome as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line unless there were too many.
    fn complain(&self, line: impl FnOnce()) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if self.complaints.lock().admit(micros) {
            line();
        }
    }
}

impl fmt::Debug for OperatorPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorPort")
            .field("name", &self.name)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

// === impl Outcome ===

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Served,
        Self::Empty,
        Self::Invalid,
        Self::Handshake,
        Self::GaveWay,
        Self::Refused,
        Self::Accept,
        Self::Broken,
        Self::Foreign,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Empty => "empty",
            Self::Invalid => "invalid",
            Self::Handshake => "handshake",
            Self::GaveWay => "gave_way",
            Self::Refused => "refused",
            Self::Accept => "accept",
            Self::Broken => "broken",
            Self::Foreign => "foreign",
        }
    }
}

async fn handshake(
    source: &TlsSource,
    socket: TcpStream,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let accept = TlsAcceptor::from(source()).accept(socket);
    timeout(PATIENCE, accept).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn client_names<S>(socket: &tokio_rustls::server::TlsStream<S>) -> Option<ClientNames> {
    let certificate = socket.get_ref().1.peer_certificates()?.first()?;
    // One that cannot be read has no names.
    Some(ClientNames(Arc::new(certificate::names(certificate).unwrap_or_default())))
}

/// An answer whose connection counts as being served until all of it is sent.
fn held(answer: Response, busy: Busy) -> Response {
    answer.map(|body| Body::new(Held { body, _busy: busy }))
}

struct Held {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
