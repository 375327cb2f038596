//! What edges and services have in common: the state shared by handles, links and sessions.
//!
//! ```text
//!  Edge, Service, Stream ──▶ Client ──▶ Shared ◀── links (a task each) ──▶ sessions
//!        handles               │          handlers, queues, state
//!                              └─ the last one dropped: `closing` is cancelled, links leave, tasks end
//! ```
//! Links and sessions hold `Shared` and no `Client`, so they never keep a client alive that nobody holds.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use frontier_wire::native::{
    hello::{InstanceId, Role, is_reserved},
    presence,
};
use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime,
    sync::{
        Semaphore, SemaphorePermit,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    address::Address,
    board::Board,
    budget::Budget,
    dialogue::{Delivery, Host},
    error::{ConnectError, Error, ErrorCode, Result},
    handler::{Dispatcher, Handler, Handlers, Job},
    link::Link,
    message::Message,
    op::{NameLists, Names, Op, SendKind, deadline},
    options::{Options, POOL_MAX, Pool},
    presence::Events,
    promise::promise,
    queue::Queue,
    random::Random,
    request::{Peer, Request},
    state::State,
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
    names_turn: Semaphore,
    pub(crate) messages: Queue<Message>,
    pub(crate) offers: Queue<Offer>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) events: Arc<Events>,
    pub(crate) budget: Budget,
    pub(crate) board: Board,
    /// Cancelled when the client closes.
    pub(crate) closing: CancellationToken,
    /// Which address the first link is connected to: a pool stays together.
    pub(crate) home: AtomicUsize,
    /// The ID of the last session, 0 before the first.
    last_id: AtomicU64,
    /// The newest resume ticket.
    pub(crate) ticket: Mutex<Bytes>,
    tasks: TaskTracker,
    pub(crate) runtime: runtime::Handle,
    links: RwLock<Vec<mpsc::Sender<Op>>>,
}

/// What became of an operation handed to a link.
enum Submit {
    Done,
    Closed,
    /// The link and the operation, to wait with.
    Full(Box<(mpsc::Sender<Op>, Op)>),
}

// === impl Client ===

impl Client {
    /// Starts a client and waits for its first connection; with `wait` false it is made in the background.
    pub(crate) async fn start(options: Options, wait: bool) -> Result<Self, ConnectError> {
        options.check()?;
        let addresses = Address::parse_all(&options.addresses)?;
        let shared = Arc::new(Shared::new(options));
        let client = Self { shared: shared.clone(), _open: Arc::new(shared.closing.clone().drop_guard()) };
        let first = shared.add_link(addresses, wait);
        if wait {
            first.await.unwrap_or(Err(ConnectError::Closed))?;
        }
        Ok(client)
    }

    /// Hands an operation to the link for `key`, waiting for room until the deadline.
    pub(crate) async fn submit(&self, op: Op, key: u64, deadline: Instant) -> Result<()> {
        let (link, op) = match self.shared.try_submit(op, key) {
            Submit::Done => return Ok(()),
            Submit::Closed => return Err(self.shared.closed_error()),
            Submit::Full(full) => *full,
        };
        match timeout_at(deadline, link.send(op)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.shared.closed_error()),
            Err(_) => Err(Error::deadline()),
        }
    }

    /// Offers a method; on failure it is not offered.
    pub(crate) async fn register(&self, method: &str, handler: Handler) -> Result<()> {
        let deadline = deadline(self.shared.options.call_timeout);
        let _turn = self.shared.names_turn(deadline).await?;
        let before = self.shared.handlers.insert(method, handler);
        let replaced = before.is_some();
        // Handlers may hold handles: what was replaced must not be dropped later than it has to.
        drop(before);
        if replaced {
            return Ok(());
        }
        let outcome = self.names(true, Some(method), None, deadline).await;
        if outcome.is_err() {
            self.shared.handlers.remove(method);
            // Some gateway connections of a pool may have taken it.
            let _ = self.names(false, Some(method), None, deadline).await;
        }
        outcome
    }

    pub(crate) async fn unregister(&self, method: &str) -> Result<()> {
        let deadline = deadline(self.shared.options.call_timeout);
        let _turn = self.shared.names_turn(deadline).await?;
        match self.shared.handlers.remove(method) {
            Some(_) => self.names(false, Some(method), None, deadline).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn subscribe(&self, topic: &str) -> Result<()> {
        check_topic(topic)?;
        let deadline = deadline(self.shared.options.call_timeout);
        let _turn = self.shared.names_turn(deadline).await?;
        if !self.shared.topics.lock().insert(topic.into()) {
            return Ok(());
        }
        let outcome = self.names(true, None, Some(topic), deadline).await;
        if outcome.is_err() {
            self.shared.topics.lock().remove(topic);
            let _ = self.names(false, None, Some(topic), deadline).await;
        }
        outcome
    }

    pub(crate) async fn unsubscribe(&self, topic: &str) -> Result<()> {
        let deadline = deadline(self.shared.options.call_timeout);
        let _turn = self.shared.names_turn(deadline).await?;
        if !self.shared.topics.lock().remove(topic) {
            return Ok(());
        }
        self.names(false, None, Some(topic), deadline).await
    }

    /// Offers methods and topics on all links, or no longer.
    async fn names(
        &self,
        register: bool,
        method: Option<&str>,
        topic: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        let links = self.shared.links.read().clone();
        let mut answers = Vec::with_capacity(links.len());
        for link in links {
            let (promise, answer) = promise();
            let lists = NameLists {
                methods: method.map(Into::into).into_iter().collect(),
                topics: topic.map(Into::into).into_iter().collect(),
            };
            let names = Op::Names(Names { register, lists, promise });
            match timeout_at(deadline, link.send(names)).await {
                Ok(Ok(())) => answers.push(answer),
                Ok(Err(_)) => return Err(self.shared.closed_error()),
                Err(_) => return Err(Error::deadline()),
            }
        }
        for answer in answers {
            match timeout_at(deadline, answer).await {
                // A session that ended took the names along: the next one says them in its Hello.
                Ok(Err(error)) if error.code() == ErrorCode::SessionClosed && !self.shared.is_closed() => {}
                Ok(outcome) => drop(outcome?),
                Err(_) => return Err(Error::deadline()),
            }
        }
        Ok(())
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
    fn new(options: Options) -> Self {
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
            messages: Queue::new(options.message_queue),
            offers: Queue::new(options.stream_backlog),
            dispatcher: Arc::new(dispatcher),
            events: Arc::default(),
            budget: Budget::new(options.max_inbound_bytes),
            board: Board::new(),
            closing: CancellationToken::new(),
            home: AtomicUsize::new(0),
            last_id: AtomicU64::new(0),
            ticket: Mutex::new(Bytes::clone(&options.ticket)),
            tasks,
            runtime,
            links: RwLock::default(),
            options,
        }
    }

    /// Starts a link. The outcome of its first attempts comes by the receiver; with `once` a failure ends the link, otherwise it goes on.
    fn add_link(
        self: &Arc<Self>,
        addresses: Vec<Address>,
        once: bool,
    ) -> oneshot::Receiver<Result<(), ConnectError>> {
        let (ops, commands) = mpsc::channel(self.options.command_queue.max(1));
        let index = {
            let mut links = self.links.write();
            links.push(ops);
            self.board.add()
        };
        let (done, first) = oneshot::channel();
        let link = Link::new(self.clone(), index, addresses, commands);
        self.tasks.spawn_on(link.run(done, once), &self.runtime);
        first
    }

    /// The first link is connected: brings a service's pool to its full size, then tells `first`. The pool's other links go on trying
    /// should they fail; the client works without them.
    pub(crate) fn fill_pool(
        self: Arc<Self>,
        shards: u32,
        addresses: &[Address],
        first: oneshot::Sender<Result<(), ConnectError>>,
    ) {
        let wanted = match (self.options.role, self.options.pool) {
            (Role::Edge, _) => 1,
            (Role::Service, Pool::Auto) => shards,
            (Role::Service, Pool::Fixed(n)) => n,
        };
        let mut more = Vec::new();
        while self.links.read().len() < wanted.clamp(1, POOL_MAX) as usize {
            more.push(self.add_link(addresses.to_vec(), false));
        }
        if more.is_empty() {
            let _ = first.send(Ok(()));
            return;
        }
        let wait = async move {
            for link in more {
                let _ = link.await;
            }
            let _ = first.send(Ok(()));
        };
        self.tasks.spawn_on(wait, &self.runtime);
    }

    /// Waits until nobody else changes what is offered, or until the deadline.
    async fn names_turn(&self, deadline: Instant) -> Result<SemaphorePermit<'_>> {
        let turn = timeout_at(deadline, self.names_turn.acquire()).await;
        turn.map_err(|_| Error::deadline())?.map_err(|_| self.closed_error())
    }

    /// A session was welcomed.
    pub(crate) fn welcomed(&self, id: u64, ticket: &[u8]) {
        self.last_id.store(id, Ordering::Relaxed);
        if self.ticket.lock().as_ref() != ticket {
            *self.ticket.lock() = Bytes::copy_from_slice(ticket);
        }
    }

    /// The ID a service wishes: the one it had, else the one its user wants.
    pub(crate) fn id_to_wish(&self) -> u64 {
        match self.last_id.load(Ordering::Relaxed) {
            0 => self.options.wished_id,
            id => id,
        }
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    pub(crate) fn topic_names(&self) -> Vec<String> {
        self.topics.lock().iter().map(|topic| topic.to_string()).collect()
    }

    /// Hands an operation to the link for `key`; if that is full, gives both back.
    fn try_submit(&self, op: Op, key: u64) -> Submit {
        let links = self.links.read();
        let Some(link) = links.get(self.board.choose(key, links.len())) else { return Submit::Closed };
        match link.try_send(op) {
            Ok(()) => Submit::Done,
            Err(TrySendError::Closed(_)) => Submit::Closed,
            Err(TrySendError::Full(op)) => Submit::Full(Box::new((link.clone(), op))),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closing.is_cancelled() || self.board.current().is_closed()
    }

    pub(crate) fn closed_error(&self) -> Error {
        match self.board.current() {
            State::Closed { reason } => {
                Error::session_closed(format!("the client is closed: {}", reason.in_full()))
            }
            _ => Error::session_closed("the client is closed"),
        }
    }

    /// A link has ended for good.
    pub(crate) fn link_ended(&self, index: usize, reason: Arc<ConnectError>) {
        // The first link is the client: a pool's others come and go with it.
        if index > 0 && !self.closing.is_cancelled() {
            self.board.set(index, State::Closed { reason });
            return;
        }
        self.closing.cancel();
        self.board.close(&reason);
        self.messages.close(true);
        self.offers.close(true);
        self.handlers.clear();
        self.tasks.close();
    }

    /// How long leaving may take.
    pub(crate) const fn close_timeout(&self) -> Duration {
        self.options.close_timeout
    }
}

impl Host for Shared {
    fn admit(&self, kind: SendKind, name: &str) -> Result<()> {
        match kind {
            SendKind::Request if self.handlers.contains(name) => Ok(()),
            SendKind::Request => Err(no_method()),
            SendKind::Publish if self.messages.is_full() => Err(not_received()),
            SendKind::Publish => Ok(()),
        }
    }

    fn deliver(&self, delivery: Delivery<'_>) {
        let Delivery { kind, head, body, deadline, cancel, responder } = delivery;
        let from = Peer::from_wire(head.sender());
        let headers = head.headers().collect();
        if kind == SendKind::Publish {
            let topic = self.topics.lock().get(head.name).cloned().unwrap_or_else(|| head.name.into());
            let message = Message { topic, body, headers, from, cancel, responder };
            if let Err(message) = self.messages.push(message) {
                let _ = message.responder.answer(Err(not_received()));
            }
            return;
        }
        // Only the gateway calls these, in the name of the edge they are about.
        let reserved = is_reserved(head.name);
        let Some((method, handler)) = self.handlers.find(head.name) else {
            let _ = responder.answer(Err(no_method()));
            return;
        };
        let about = if reserved { presence::EdgeInfo::parse(&body).ok().map(|info| info.edge) } else { None };
        let request = Request { method, body, headers, from, deadline: Some(deadline), cancel };
        let job = Job { handler, request, responder, turn: None };
        match about {
            // An edge that has no ID yet cannot be confused with itself.
            Some(edge) if edge != 0 => self.events.submit(edge, job, &self.dispatcher),
            _ => self.dispatcher.submit(job),
        }
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

fn no_method() -> Error {
    Error::new(ErrorCode::MethodNotFound, "the method is not registered")
}

fn not_received() -> Error {
    Error::overloaded("messages are not received fast enough")
}
