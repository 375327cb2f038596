//! Gateways of the Go system, which report by geminio on the port of gateways, so that both kinds serve one cluster while users migrate.
//!
//! ```text
//!  Go gateway ── geminio ──▶ socket ─▶ session ── calls ─▶ book (what the gateway has)
//!                                         │                  │ snapshot, changes, digests
//!                                         └── as a gateway ──▶ links ─▶ store
//! ```
//! A Go gateway tells of each edge and service as it comes and goes, and of heartbeats; it tells nothing again. So its part of a link is
//! played here: the book keeps what it has told, and the rest (leases, retries, healing, takeovers) is what [`links`](crate::links) do for
//! every gateway. What differs:
//!
//! - Its instance follows from its name and addresses, since it draws none: after a reconnect, also to another atlas, it is the same member,
//!   and what the store holds of it is taken over into the book until heartbeats tell.
//! - An edge's epoch is the moment its `edge_online` came. A heartbeat of an edge that is not in the book puts it there, unless it is at
//!   another gateway by then.
//! - It cannot be told to cut a session: one that has lost its ID is left out of the book, and nobody finds it any more.

mod book;
mod calls;
mod identity;
mod known;
mod session;
mod socket;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use frontier_wire::geminio::limits::{Limits, PacketLimits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::session::Session;
use self::socket::Socket;
use crate::links::Links;
use crate::store::Store;

/// What Go gateways are held to.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Connections at once: 256. Each costs about a MiB and what its gateway has.
    pub connections: usize,
    /// Edges and services of one gateway: 1,000,000. Each takes about 150 bytes.
    pub entries: usize,
    /// Edges and services of all of them: 4,000,000, so at most 600 MB.
    pub all_entries: usize,
    /// How long what was found in the store after a reconnect stays without a heartbeat: 30 s, as in the Go system. Others have two and a
    /// half of their own intervals, at least this.
    pub unheard: Duration,
}

/// Which names a gateway may have; any if there is none.
pub type Names = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// See the module documentation.
#[derive(Debug)]
pub struct GoLinks<S> {
    store: Arc<S>,
    links: Arc<Links<S>>,
    terms: Terms,
    limits: Arc<Limits>,
    connections: AtomicUsize,
    /// Edges and services in all books.
    entries: AtomicUsize,
    counts: Counts,
    /// Whoever takes over what the store has of its gateway reads all of it: one at a time.
    adoption: Semaphore,
}

/// What happened, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls that were answered.
    pub calls: AtomicU64,
    /// Calls that were answered with an error.
    pub failed: AtomicU64,
    /// Connections that were refused, or ended for what was said on them.
    pub refused: AtomicU64,
}

// === impl Terms ===

impl Default for Terms {
    fn default() -> Self {
        Self {
            connections: 256,
            entries: 1_000_000,
            all_entries: 4_000_000,
            unheard: Duration::from_secs(30),
        }
    }
}

// === impl GoLinks ===

impl<S: Store> GoLinks<S> {
    /// Reports to these links, over the store that they write to.
    #[must_use]
    pub fn new(store: Arc<S>, links: Arc<Links<S>>, terms: Terms) -> Self {
        let packet = PacketLimits { body: 64 << 10, ..PacketLimits::default() };
        // Gateways open no streams.
        let limits = Limits { packet, dialogues: 0, opening: 0, ..Limits::default() };
        Self {
            store,
            links,
            terms,
            limits: Arc::new(limits),
            connections: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
            counts: Counts::default(),
            adoption: Semaphore::new(1),
        }
    }

    /// Serves a connection until it ends, or in good order until a while after `stop`.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the connection: the gateway's lease ends by itself.
    pub async fn serve<C>(
        self: &Arc<Self>,
        connection: C,
        peer: SocketAddr,
        names: Option<Names>,
        stop: CancellationToken,
    ) where
        C: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let _place = Place(self);
        if self.connections.fetch_add(1, Ordering::Relaxed) >= self.terms.connections {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            self.complain(|| tracing::warn!(client.addr = %peer, "no place for a Go gateway"));
            return;
        }
        let socket = Socket::new(connection, Arc::clone(&self.limits));
        let session = Session::greet(self, socket, peer, names, &stop).await;
        if let Some(session) = session {
            Box::pin(session.run(stop)).await;
        }
    }

    /// Connections now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Edges and services that Go gateways have.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Writes a line unless there were too many, of all gateways.
    fn complain(&self, line: impl FnOnce()) {
        self.links.say(line);
    }
}

/// A connection that is counted.
struct Place<'a, S>(&'a GoLinks<S>);

// === impl Place ===

impl<S> Drop for Place<'_, S> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
