//! Gateways' links to this atlas: takes what they have, writes it to the store, keeps their leases, and heals what differs.
//!
//! ```text
//!  gateway ── Attach ──▶ session ── writes ──▶ store ◀── changes by others ──┐
//!     ▲                     │ digests                                        │
//!     │                     ▼                                                │
//!     ├── Resync, Cut ── wants ◀── keeper: compares digests with records ◀───┘
//!     └── Renew (lease, digests of what changed)
//! ```
//! A gateway's word is what counts: whatever the store holds under its instance and it did not say is removed, whatever it said and
//! the store does not hold is asked for again. Nothing here is needed by another atlas: a link that breaks is made anew anywhere, and then
//! everything is said again.
//!
//! This module knows no transport: [`grpc`] serves it, and simulations drive it directly.

pub mod grpc;
mod keeper;
mod session;
#[cfg(test)]
mod tests;
mod told;
mod wants;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use frontier_api::registry::{FromGateway, RenewRequest, RenewResponse, ToGateway};
use frontier_ops::complaints::Complaints;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::keeper::Dirty;
use self::told::Told;
use self::wants::Wants;
use crate::record::{Instance, StoreTime};
use crate::store::{Store, StoreError};
use crate::watch::Watchers;

/// The version of the protocol between gateways and atlas.
pub const VERSION: u32 = 1;

/// What gateways are held to.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a lease lasts: 4 s.
    pub lease: Duration,
    /// How often it is renewed: every second.
    pub renew: Duration,
    /// Edges and services of one message, about: 1,000.
    pub entries: u32,
    /// Messages without an Ack: 4.
    pub unacknowledged: u32,
    /// From the begin of a link to its Hello: 5 s.
    pub hello: Duration,
    /// Links at once: 1,024. Each costs half a MiB.
    pub links: usize,
    /// How far in the future an epoch may lie: 60 s.
    pub ahead: Duration,
    /// How long records of a gateway stay after its lease: 60 s.
    pub bury: Duration,
    /// How long a look at every record of the store takes when there is no hurry: 10 minutes.
    pub round: Duration,
}

/// Why a link ends, or was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The gateway breaks the rules.
    #[error("{0}")]
    Invalid(String),
    /// Its certificate is not for this name.
    #[error("the certificate does not cover the name `{0}`")]
    Denied(String),
    /// Another process with the same name and addresses has taken its place.
    #[error("another process with the same name and addresses has taken over")]
    Superseded,
    /// The store does not know the gateway any more.
    #[error("the gateway is not known any more: attach again")]
    Forgotten,
    /// The gateway has made another link.
    #[error("there is a newer link of this gateway")]
    Replaced,
    /// There are too many.
    #[error("this atlas has as many links as it takes")]
    TooMany,
    /// The cluster knows of too many gateways.
    #[error(
        "the cluster knows as many gateways as it may: those that have gone are forgotten after a minute"
    )]
    Full,
    /// This atlas is going down.
    #[error("this atlas is shutting down")]
    Draining,
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
}

/// Counts what happened, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages of gateways that are in the store.
    pub messages: AtomicU64,
    /// Edges written or removed.
    pub edges: AtomicU64,
    /// Sessions told to end since another gateway has a newer one.
    pub cuts: AtomicU64,
    /// Buckets asked for again.
    pub resyncs: AtomicU64,
    /// Entries not taken since their epoch lies too far in the future.
    pub refused: AtomicU64,
    /// Gateways that came with the name of another that lives elsewhere.
    pub duplicates: AtomicU64,
    /// Records removed that belonged to nobody alive.
    pub buried: AtomicU64,
    /// Writes to the store that were tried again.
    pub retries: AtomicU64,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Links<S> {
    store: Arc<S>,
    /// Told of what is written here.
    watchers: Arc<Watchers<S>>,
    terms: Terms,
    links: Mutex<BTreeMap<Instance, Arc<Link>>>,
    dirty: Dirty,
    draining: CancellationToken,
    counts: Counts,
    complaints: Mutex<Complaints>,
    started: Instant,
}

/// A gateway that is attached here.
#[derive(Debug)]
struct Link {
    instance: Instance,
    /// The store's number of it.
    stream: u32,
    told: Mutex<Told>,
    wants: Wants,
    /// Ends it.
    over: CancellationToken,
    /// Somebody ended it because of this.
    why: Mutex<Option<LinkError>>,
    /// Held while it runs: what it has under way is written before its successor begins.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The store's time when it last told, and when that was.
    time: Mutex<(StoreTime, Instant)>,
}

// === impl Terms ===

impl Default for Terms {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(4),
            renew: Duration::from_secs(1),
            entries: 1_000,
            unacknowledged: 4,
            hello: Duration::from_secs(5),
            links: 1_024,
            ahead: Duration::from_secs(60),
            bury: Duration::from_secs(60),
            round: Duration::from_secs(600),
        }
    }
}

// === impl Link ===

impl Link {
    /// Ends it; the first reason counts.
    fn end(&self, why: LinkError) {
        self.why.lock().get_or_insert(why);
        self.over.cancel();
    }
}

// === impl Links ===

impl<S: Store> Links<S> {
    /// Over this store. [`keep`](Self::keep) must run as long as it is used.
    #[must_use]
    pub fn new(store: Arc<S>, watchers: Arc<Watchers<S>>, terms: Terms) -> Self {
        Self {
            store,
            watchers,
            terms,
            links: Mutex::default(),
            dirty: Dirty::default(),
            draining: CancellationToken::new(),
            counts: Counts::default(),
            complaints: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Serves a link until it ends; `may_be_called` tells whether the other side may have a name. `Ok` means that the gateway has taken its
    /// leave: its lease is over.
    ///
    /// # Errors
    /// Why it ended otherwise.
    pub async fn attach<E: Send>(
        &self,
        may_be_called: impl Fn(&str) -> bool + Send,
        inbound: impl Stream<Item = Result<FromGateway, E>> + Send + Unpin,
        out: mpsc::Sender<ToGateway>,
    ) -> Result<(), LinkError> {
        session::run(self, may_be_called, inbound, out).await
    }

    /// Extends a lease, and compares what the gateway has with what it told.
    ///
    /// # Errors
    /// When the request makes no sense, or the store fails.
    pub async fn renew(&self, request: &RenewRequest) -> Result<RenewResponse, LinkError> {
        let instance = session::instance(&request.instance)?;
        let RenewRequest { edges, services, .. } = *request;
        let renewed = self.store.renew(instance, edges, services, self.terms.lease).await?;
        let link = self.links.lock().get(&instance).cloned();
        if let Some(link) = link.filter(|link| link.stream == request.stream) {
            link.learn(renewed.now);
            if renewed.known {
                let differs = link.told.lock().compare(request);
                self.resync(&link, differs.edges, differs.services);
                // Whoever was told by tracking has come already.
                self.deliver_cuts(&link).await;
            } else {
                link.end(LinkError::Forgotten);
            }
        }
        Ok(RenewResponse { time_ms: renewed.now.0, known: renewed.known })
    }

    /// Heals and sweeps; ends never.
    pub async fn keep(&self) {
        keeper::run(self).await;
    }

    /// Ends all links, and takes no others.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Links now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.lock().len()
    }

    /// Whether there is no link.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.lock().is_empty()
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The terms.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Buckets that wait to be compared.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Writes a line unless there were too many: who attaches and leaves all the time must not fill the disk.
    pub(crate) fn say(&self, line: impl FnOnce()) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if self.complaints.lock().admit(micros) {
            line();
        }
    }

    /// Asks a gateway for these buckets again.
    fn resync(
        &self,
        link: &Link,
        edges: impl IntoIterator<Item = u16>,
        services: impl IntoIterator<Item = u16>,
    ) {
        let asked = link.wants.resync(edges, services);
        self.counts.resyncs.fetch_add(asked as u64, Ordering::Relaxed);
    }

    /// Takes the word that others left for a gateway.
    async fn deliver_cuts(&self, link: &Link) {
        match self.store.take_cuts(link.instance).await {
            Ok(cuts) => self.cut(link, cuts),
            Err(error) => tracing::debug!(%error, "cannot ask for cuts"),
        }
    }

    fn cut(&self, link: &Link, cuts: Vec<crate::store::Cut>) {
        self.counts.cuts.fetch_add(cuts.len() as u64, Ordering::Relaxed);
        let overflow = link.wants.cut(cuts);
        // They are asked about instead, and lose their IDs when they are said again.
        self.resync(link, overflow, []);
    }
}
