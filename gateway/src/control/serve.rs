//! Serves HTTP/1.1 and HTTP/2 on one listener, plain or by TLS: the control plane and the admin port.
//!
//! One task per connection, at most so many, each with a time to finish its handshake, to send its first request and to
//! send the head of each. When all places are taken, the connection that has been idle for longest gives way, so that whoever opens many
//! and leaves them open keeps no probe out. What happens within a request is bounded by `control::guard`.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
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
    config::canonical,
    places::{Place, Places},
};

/// Connections at once. People, scrapers and a few programs come here; each holds some tens of KiB.
const CONNECTIONS: usize = 512;

/// A connection that has been idle for so long gives way to a newcomer when all places are taken.
const GRACE: Duration = Duration::from_secs(1);

/// For a TLS handshake, for the first request, and for the head of each; also how long a kept connection may stay idle.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 64;

/// What is in flight when the gateway stops gets this long.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Between two lines about connections that cannot be taken.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// After a failed accept: too many open files does not pass within microseconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The configuration that a new TLS connection shall use; called once for each.
pub type TlsSource = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Who sent a request: an extension of every request served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Serves `app` until `stop`, then lets running requests end.
///
/// # Cancel safety
/// Dropping the future ends the listener; connections end with their current request.
pub async fn serve(listener: TcpListener, tls: Option<TlsSource>, app: Router, stop: CancellationToken) {
    let places = Arc::new(Places::new(CONNECTIONS, GRACE));
    let connections = TaskTracker::new();
    let (mut refused, mut complained) = (0_u64, None::<Instant>);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, addr)) => {
                let (now, give_way) = (Instant::now(), CancellationToken::new());
                let Some(place) = Places::enter(&places, now, give_way.clone()) else {
                    // Dropping the socket tells the newcomer at once; those inside are being served.
                    refused += 1;
                    if complained.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
                        complained = Some(now);
                        warn!(refused, client.addr = %addr, "no place for a connection");
                    }
                    continue;
                };
                let peer = Peer(canonical(addr));
                let connection =
                    Connection { tls: tls.clone(), app: app.clone(), peer, place: Arc::new(place), give_way };
                connections.spawn(connection.run(socket, stop.clone()));
            }
            Err(error) => {
                if complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
                    complained = Some(Instant::now());
                    warn!(%error, "cannot accept");
                }
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
    tls: Option<TlsSource>,
    app: Router,
    peer: Peer,
    place: Arc<Place>,
    /// Cancelled when somebody else needs the place.
    give_way: CancellationToken,
}

// === impl Connection ===

impl Connection {
    async fn run(self, socket: TcpStream, stop: CancellationToken) {
        // Answers are small; waiting for more of them helps nobody.
        let _ = socket.set_nodelay(true);
        let served = async {
            match &self.tls {
                None => self.serve(socket, stop).await,
                Some(source) => self.serve(handshake(source, socket).await?, stop).await,
            }
        };
        match self.give_way.run_until_cancelled(served).await {
            Some(Ok(())) => {}
            Some(Err(error)) => debug!(client.addr = %self.peer.0, %error, "connection ended"),
            None => debug!(client.addr = %self.peer.0, "an idle connection gave way to another"),
        }
    }

    async fn serve<S>(
        &self,
        stream: S,
        stop: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asked = AtomicBool::new(false);
        let service = service_fn(|mut request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(self.peer);
            let served = self.app.clone().oneshot(request.map(Body::new));
            let busy = Place::busy(&self.place);
            async move {
                let answer = served.await;
                drop(busy);
                answer
            }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        let mut http2 = server.http2();
        http2.timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
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
        tokio::select! {
            // Requests that are there already are better answered than refused.
            biased;
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = silent => {
                connection.as_mut().graceful_shutdown();
                timeout(PATIENCE, connection).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
            }
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
