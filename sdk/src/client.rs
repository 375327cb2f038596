//! What edges and services have in common: the state shared by handles, links and sessions.
//!
//! ```text
//!  Edge, Service, Stream ──▶ Client ──▶ Shared ◀── sites ◀── links (a task each) ──▶ sessions
//!        handles               │          handlers, queues, state
//!                              └─ the last one dropped: `closing` is cancelled, links leave, tasks end
//! ```
//! Links and sessions hold `Shared` and no `Client`, so they never keep a client alive that nobody holds.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use frontier_wire::native::hello::{InstanceId, is_reserved};
use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime,
    sync::{Semaphore, watch},
    time::{timeout, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

#[cfg(feature = "cluster")]
use crate::cluster::Cluster;
use crate::{
    address::Address,
    board::overall,
    budget::Budget,
    error::{ConnectError, Error, ErrorCode, Result},
    handler::{Dispatcher, Handlers},
    message::Message,
    op::{Op, deadline},
    options::Options,
    presence::{EdgeInfo, Events},
    promise::promise,
    queue::Queue,
    random::Random,
    site::{Live, Site},
    state::{State, StateWatch},
    stream::Offer,
    transport::Dialer,
};

/// How much longer than the grace for what is under way closing may take: the end of the connection itself.
const CLOSE_SLACK: Duration = Duration::from_secs(5);

/// A handle of a client. The client closes when the last one is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    _open: Arc<DropGuard>,
}

/// What handles, links and sessions of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) instance: InstanceId,
    pub(crate) dialer: Dialer,
    pub(crate) handlers: Handlers,
    pub(crate) topics: Mutex<BTreeSet<Arc<str>>>,
    /// Changes of what is offered go one after the other: the outcome of one decides whether the next has anything to do.
    pub(crate) names_turn: Semaphore,
    /// How often what is offered has changed.
    pub(crate) revision: Mutex<u64>,
    pub(crate) messages: Queue<Message>,
    pub(crate) offers: Queue<Offer>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) events: Arc<Events>,
    pub(crate) budget: Budget,
    /// Cancelled when the client closes.
    pub(crate) closing: CancellationToken,
    /// The ID of the last session, 0 before the first; in a cluster the first ID that was given.
    last_id: AtomicU64,
    /// Whoever holds it is asking the first gateway of a cluster for an ID.
    pub(crate) first_id: Semaphore,
    /// The newest resume ticket.
    pub(crate) ticket: Mutex<Bytes>,
    tasks: TaskTracker,
    runtime: runtime::Handle,
    /// The gateways: one, or those of a cluster.
    sites: RwLock<Vec<Weak<Site>>>,
    /// What the user sees of them together.
    seen: watch::Sender<State>,
    /// The state while there is no gateway at all.
    without: Mutex<State>,
    /// Told when a gateway has come or gone, or one of its links has changed its state.
    pulse: watch::Sender<()>,
    #[cfg(feature = "cluster")]
    pub(crate) cluster: Option<Cluster>,
}

// === impl Client ===

impl Client {
    /// Starts a client and waits for its first connection; with `wait` false it is made in the background.
    pub(crate) async fn start(options: Options, wait: bool) -> Result<Self, ConnectError> {
        options.check()?;
        #[cfg(feature = "cluster")]
        if options.atlas.is_some() {
            return Self::start_cluster(options, wait).await;
        }
        let addresses = Address::parse_all(&options.addresses)?;
        let client = Self::new(Shared::new(options));
        let site = Site::new(client.shared.clone(), 0, addresses);
        client.shared.set_sites(std::iter::once(&site));
        let first = site.start(wait);
        if wait {
            first.await.unwrap_or(Err(ConnectError::Closed))?;
        }
        Ok(client)
    }

    pub(crate) fn new(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let open = Arc::new(shared.closing.clone().drop_guard());
        Self { shared, _open: open }
    }

    /// Who is online.
    pub(crate) async fn presence(&self) -> Result<Vec<EdgeInfo>> {
        let deadline = deadline(self.shared.options.call_timeout);
        #[cfg(feature = "cluster")]
        if self.shared.is_cluster() {
            return self.shared.presence_everywhere(deadline).await;
        }
        let (promise, answer) = promise();
        self.shared.only_site()?.submit(Op::Presence { promise }, 0, deadline).await?;
        timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Error::deadline()))
    }

    /// The epoch of an edge's session, 0 if it has none.
    pub(crate) async fn locate(&self, edge: u64) -> Result<u64> {
        let deadline = deadline(self.shared.options.call_timeout);
        #[cfg(feature = "cluster")]
        if self.shared.is_cluster() {
            return self.shared.locate_everywhere(edge, deadline).await;
        }
        let (promise, answer) = promise();
        self.shared.only_site()?.submit(Op::Locate { edge, promise }, edge, deadline).await?;
        timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Error::deadline()))
    }

    /// Closes the client and waits until its tasks have ended; for handlers that go on and on, not longer than leaving may take.
    pub(crate) async fn close(&self) {
        self.shared.closing.cancel();
        let longest = self.shared.close_timeout().saturating_add(CLOSE_SLACK);
        let _ = timeout(longest, self.shared.tasks.wait()).await;
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        let runtime = runtime::Handle::current();
        let tasks = TaskTracker::new();
        let backlog = options.max_in_flight;
        let dispatcher =
            Dispatcher::new(options.max_concurrent_handlers, backlog, tasks.clone(), runtime.clone());
        let net = || Dialer::net(options.tls.clone());
        let dialer = options.dialer.clone();
        #[cfg(any(test, feature = "testing"))]
        let dialer = dialer.or_else(crate::testing::scene::dialer);
        let handlers = Handlers::default();
        for (method, handler) in &options.methods {
            handlers.insert(method, handler.clone());
        }
        Self {
            instance: InstanceId::new(Random::new().instance()),
            dialer: dialer.unwrap_or_else(net),
            handlers,
            topics: Mutex::new(options.topics.iter().map(|topic| topic.as_str().into()).collect()),
            names_turn: Semaphore::new(1),
            revision: Mutex::new(0),
            messages: Queue::new(options.message_queue),
            offers: Queue::new(options.stream_backlog),
            dispatcher: Arc::new(dispatcher),
            events: Arc::default(),
            budget: Budget::new(options.max_inbound_bytes),
            closing: CancellationToken::new(),
            last_id: AtomicU64::new(0),
            first_id: Semaphore::new(1),
            ticket: Mutex::new(Bytes::clone(&options.ticket)),
            tasks,
            runtime,
            sites: RwLock::default(),
            seen: watch::Sender::new(State::Connecting),
            without: Mutex::new(State::Connecting),
            pulse: watch::Sender::new(()),
            #[cfg(feature = "cluster")]
            cluster: None,
            options,
        }
    }

    /// Runs a task of this client.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    pub(crate) const fn runtime(&self) -> &runtime::Handle {
        &self.runtime
    }

    /// Whether this client may be connected to more than one gateway.
    pub(crate) const fn is_cluster(&self) -> bool {
        #[cfg(feature = "cluster")]
        let cluster = self.cluster.is_some();
        #[cfg(not(feature = "cluster"))]
        let cluster = false;
        cluster
    }

    // --- the gateways

    /// These are the gateways now.
    pub(crate) fn set_sites<'a>(&self, sites: impl Iterator<Item = &'a Arc<Site>>) {
        *self.sites.write() = sites.map(Arc::downgrade).collect();
        self.refresh();
    }

    pub(crate) fn sites(&self) -> Vec<Arc<Site>> {
        self.sites.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// The gateway of a client that has one.
    pub(crate) fn only_site(&self) -> Result<Arc<Site>> {
        let site = self.sites.read().first().and_then(Weak::upgrade);
        site.ok_or_else(|| self.closed_error())
    }

    /// All links that are connected.
    pub(crate) fn live(&self) -> Vec<Live> {
        self.sites().iter().flat_map(Site::live).collect()
    }

    /// Follows the changes of gateways and links; what was before is not told.
    pub(crate) fn pulse(&self) -> watch::Receiver<()> {
        self.pulse.subscribe()
    }

    /// Whether nothing is connected, and why, as the user sees it.
    #[cfg(feature = "cluster")]
    pub(crate) fn set_without(&self, state: State) {
        *self.without.lock() = state;
        self.refresh();
    }

    /// Makes the state that the user sees of what the gateways have reported.
    pub(crate) fn refresh(&self) {
        // Held until it is published: two links must not do so in the wrong order.
        let without = self.without.lock();
        let cluster = self.is_cluster();
        let states: Vec<State> = self.sites().iter().map(|site| site.state()).collect();
        let state = match overall(&states) {
            None => without.clone(),
            // The cluster may have other gateways tomorrow.
            Some(State::Closed { reason }) if cluster => State::Reconnecting { attempt: 0, error: reason },
            Some(state) => state,
        };
        self.publish(state);
        drop(without);
        self.pulse.send_replace(());
    }

    fn publish(&self, state: State) {
        // Of many gateways it does not matter which one makes the client ready.
        let cluster = self.is_cluster();
        self.seen.send_if_modified(|before| {
            // Links come up one by one; the user sees one client, which was ready before. Over is over.
            let as_ready =
                cluster && matches!((&*before, &state), (State::Ready { .. }, State::Ready { .. }));
            let differs = !(before.is_closed() || before.is_same(&state) || as_ready);
            if differs {
                *before = state;
            }
            differs
        });
    }

    pub(crate) fn state(&self) -> State {
        self.seen.borrow().clone()
    }

    pub(crate) fn watch(&self) -> StateWatch {
        StateWatch::new(self.seen.subscribe())
    }

    /// A gateway is over for this client. If it was the only one, so is the client.
    pub(crate) fn site_ended(&self, reason: &Arc<ConnectError>) {
        if self.is_cluster() { self.refresh() } else { self.end(reason) }
    }

    /// The client is over.
    pub(crate) fn end(&self, reason: &Arc<ConnectError>) {
        self.closing.cancel();
        self.publish(State::Closed { reason: reason.clone() });
        self.pulse.send_replace(());
        self.messages.close(true);
        self.offers.close(true);
        self.handlers.clear();
        self.tasks.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closing.is_cancelled() || self.seen.borrow().is_closed()
    }

    pub(crate) fn closed_error(&self) -> Error {
        match &*self.seen.borrow() {
            State::Closed { reason } => {
                Error::session_closed(format!("the client is closed: {}", reason.in_full()))
            }
            _ => Error::session_closed("the client is closed"),
        }
    }

    // --- who it is

    /// A session was welcomed.
    pub(crate) fn welcomed(&self, id: u64, ticket: &[u8]) {
        if self.is_cluster() {
            let _ = self.last_id.compare_exchange(0, id, Ordering::Relaxed, Ordering::Relaxed);
            return;
        }
        self.last_id.store(id, Ordering::Relaxed);
        if self.ticket.lock().as_ref() != ticket {
            *self.ticket.lock() = Bytes::copy_from_slice(ticket);
        }
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    /// How long leaving may take.
    pub(crate) const fn close_timeout(&self) -> Duration {
        self.options.close_timeout
    }
}

/// Methods users may offer: those the gateway calls itself have functions of their own.
pub(crate) fn check_method(method: &str) -> Result<()> {
    check_name(method, "method")?;
    if is_reserved(method) {
        let text = format!("`{method}` is reserved for events about edges");
        return Err(Error::new(ErrorCode::PermissionDenied, text));
    }
    Ok(())
}

/// Topics users may take.
pub(crate) fn check_topic(topic: &str) -> Result<()> {
    check_name(topic, "topic")
}

fn check_name(name: &str, what: &str) -> Result<()> {
    const MAX: usize = 255;
    if name.is_empty() || name.len() > MAX {
        return Err(Error::invalid(format!("a {what} has 1 to {MAX} bytes, this one {}", name.len())));
    }
    Ok(())
}
