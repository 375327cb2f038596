//! One gateway that a client is connected to: its links, what they have reported, and what comes from it.
//!
//! A client of one gateway has one site for its whole life. In a cluster there is a site for each gateway; they come and go with the
//! list of gateways, and each lives and fails for itself. What they share is the client's ([`Shared`]): handlers, queues, presence.
//! Links own their site; the client knows it only weakly, so that neither keeps the other alive.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use frontier_wire::native::{
    hello::{Role, is_reserved},
    presence,
};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{
        SemaphorePermit,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    address::Address,
    board::Board,
    budget::Budget,
    client::Shared,
    dialogue::{Delivery, Host},
    error::{ConnectError, Error, ErrorCode, Result},
    handler::Job,
    link::Link,
    message::Message,
    op::{Op, SendKind},
    options::{POOL_MAX, Pool},
    request::{Peer, Request},
    state::State,
};

/// How long a gateway waits, before it is told which ID this service would like, for the ID that another one is about to give.
const FIRST_ID: Duration = Duration::from_secs(1);

/// See the module documentation.
pub(crate) struct Site {
    pub(crate) client: Arc<Shared>,
    /// Tells it from all other sites of the client.
    pub(crate) lane: u64,
    addresses: Vec<Address>,
    /// For bodies that come from it. In a cluster each gateway may use up half of what there is, or what one body needs.
    pub(crate) budget: Budget,
    board: Board,
    /// Cancelled when the client closes or has no use for this gateway any more.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the first link has ended.
    pub(crate) ended: CancellationToken,
    /// Which address the first link is connected to: a pool stays together.
    pub(crate) home: AtomicUsize,
    /// The ID of the last session with it, 0 before the first.
    last_id: AtomicU64,
    links: RwLock<Vec<mpsc::Sender<Op>>>,
    /// What the cluster calls this gateway; empty where nobody has said.
    name: Mutex<String>,
    /// Whether the cluster's list has it.
    listed: AtomicBool,
}

/// A link that is connected, and how to hand operations to it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) site: Arc<Site>,
    pub(crate) link: usize,
    pub(crate) ops: mpsc::Sender<Op>,
}

/// What became of an operation handed to a link.
enum Submit {
    Done,
    Closed,
    /// The link and the operation, to wait with.
    Full(Box<(mpsc::Sender<Op>, Op)>),
}

// === impl Site ===

impl Site {
    pub(crate) fn new(client: Arc<Shared>, lane: u64, addresses: Vec<Address>) -> Arc<Self> {
        let closing = client.closing.child_token();
        let budget = if client.is_cluster() {
            let whole = client.options.max_inbound_bytes;
            client.budget.part((whole / 2).max(client.options.max_body).min(whole))
        } else {
            client.budget.clone()
        };
        Arc::new(Self {
            client,
            lane,
            addresses,
            budget,
            board: Board::new(),
            closing,
            ended: CancellationToken::new(),
            home: AtomicUsize::new(0),
            last_id: AtomicU64::new(0),
            links: RwLock::default(),
            name: Mutex::default(),
            listed: AtomicBool::new(true),
        })
    }

    /// Starts the first link. The outcome of its first attempts comes by the receiver; with `once` a failure ends the site, otherwise it
    /// goes on.
    pub(crate) fn start(self: &Arc<Self>, once: bool) -> oneshot::Receiver<Result<(), ConnectError>> {
        let (ops, commands) = mpsc::channel(self.client.options.command_queue.max(1));
        let index = {
            let mut links = self.links.write();
            links.push(ops);
            self.board.add()
        };
        let (done, first) = oneshot::channel();
        let link = Link::new(self.clone(), index, self.addresses.clone(), commands);
        self.client.spawn(link.run(done, once));
        first
    }

    /// The first link is connected: brings a service's pool to its full size, then tells `first`. The pool's other links go on trying
    /// should they fail; the site works without them.
    pub(crate) fn fill_pool(self: &Arc<Self>, shards: u32, first: oneshot::Sender<Result<(), ConnectError>>) {
        let options = &self.client.options;
        let wanted = match (options.role, options.pool) {
            (Role::Edge, _) => 1,
            (Role::Service, Pool::Auto) => shards,
            (Role::Service, Pool::Fixed(n)) => n,
        };
        let mut more = Vec::new();
        while self.links.read().len() < wanted.clamp(1, POOL_MAX) as usize {
            more.push(self.start(false));
        }
        if more.is_empty() {
            let _ = first.send(Ok(()));
            return;
        }
        self.client.spawn(async move {
            for link in more {
                let _ = link.await;
            }
            let _ = first.send(Ok(()));
        });
    }

    // --- operations

    /// Hands an operation to the link for `key`, waiting for room until the deadline.
    pub(crate) async fn submit(&self, op: Op, key: u64, deadline: Instant) -> Result<()> {
        let (link, op) = match self.try_submit(op, key) {
            Submit::Done => return Ok(()),
            Submit::Closed => return Err(self.closed_error()),
            Submit::Full(full) => *full,
        };
        match timeout_at(deadline, link.send(op)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.closed_error()),
            Err(_) => Err(Error::deadline()),
        }
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

    /// What operations are told that this gateway cannot have. In a cluster another one may.
    fn closed_error(&self) -> Error {
        let error = self.client.closed_error();
        if self.is_one_of_many() { error.unsent() } else { error }
    }

    /// Whether operations should look for another way when this gateway is not connected, instead of waiting for it.
    pub(crate) fn is_one_of_many(&self) -> bool {
        self.client.is_cluster() && !self.client.closing.is_cancelled()
    }

    // --- what links report

    pub(crate) fn set(&self, link: usize, state: State) {
        self.board.set(link, state);
        self.client.refresh();
    }

    /// A link is connected and said what was offered when the count of changes was `revision`. False if it has to say more first.
    pub(crate) fn set_ready(&self, link: usize, state: State, revision: u64) -> bool {
        // Held until it counts as connected: whoever changes what is offered either sees it, or comes before the count is read.
        let current = self.client.revision.lock();
        if *current == revision {
            self.set(link, state);
        }
        *current == revision
    }

    /// ID and epoch of a link's session, while it has one.
    pub(crate) fn session(&self, link: usize) -> Option<(u64, u64)> {
        self.board.session(link)
    }

    pub(crate) fn state(&self) -> State {
        self.board.current()
    }

    /// The links that are connected.
    pub(crate) fn live(self: &Arc<Self>) -> Vec<Live> {
        let links = self.links.read();
        let connected = links.iter().enumerate().filter(|(link, _)| self.board.is_connected(*link));
        connected.map(|(link, ops)| Live { site: self.clone(), link, ops: ops.clone() }).collect()
    }

    /// Whether a link has no session now.
    pub(crate) fn is_down(&self, link: usize) -> bool {
        !self.board.is_connected(link)
    }

    /// A link has ended for good.
    pub(crate) fn link_ended(&self, link: usize, reason: Arc<ConnectError>) {
        // The first link is the site: a pool's others come and go with it.
        if link > 0 && !self.closing.is_cancelled() {
            self.set(link, State::Closed { reason });
            return;
        }
        self.closing.cancel();
        self.board.close(&reason);
        self.client.site_ended(&reason);
        if link == 0 {
            self.ended.cancel();
        }
    }

    // --- who this client is to it

    /// A session was welcomed.
    pub(crate) fn welcomed(&self, id: u64, ticket: &[u8]) {
        self.last_id.store(id, Ordering::Relaxed);
        self.client.welcomed(id, ticket);
    }

    /// The ID a service wishes: the one it had here, else the one it has elsewhere, else the one its user wants.
    pub(crate) fn id_to_wish(&self) -> u64 {
        let known = [self.last_id.load(Ordering::Relaxed), self.client.last_id()];
        known.into_iter().find(|id| *id != 0).unwrap_or(self.client.options.wished_id)
    }

    /// Lets one gateway of a cluster give the ID that is then wished at the others. Nobody waits long for one that is slow.
    pub(crate) async fn first_id(&self) -> Option<SemaphorePermit<'_>> {
        if !self.client.is_cluster() || self.id_to_wish() != 0 {
            return None;
        }
        let turn = timeout(FIRST_ID, self.client.first_id.acquire()).await.ok()?.ok()?;
        // Those behind the first one know it now.
        (self.id_to_wish() == 0).then_some(turn)
    }

    // --- what the cluster says of it

    /// The address that tells it from the others.
    pub(crate) fn addr(&self) -> String {
        self.addresses.get(self.home.load(Ordering::Relaxed)).map_or_else(String::new, Address::to_string)
    }

    pub(crate) fn name(&self) -> String {
        self.name.lock().clone()
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }

    /// The cluster's list has it under this name, or has it no more.
    #[cfg(feature = "cluster")]
    pub(crate) fn set_listed(&self, name: Option<&str>) {
        self.listed.store(name.is_some(), Ordering::Relaxed);
        if let Some(name) = name {
            name.clone_into(&mut self.name.lock());
        }
    }
}

/// What one would tell a person.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            name if name.is_empty() => write!(f, "gateway {}", self.addr()),
            name => write!(f, "gateway {name} ({})", self.addr()),
        }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Site");
        debug.field("addresses", &self.addresses).field("board", &self.board).finish_non_exhaustive()
    }
}

impl Host for Site {
    fn admit(&self, kind: SendKind, name: &str) -> Result<()> {
        match kind {
            SendKind::Request if self.client.handlers.contains(name) => Ok(()),
            SendKind::Request => Err(no_method()),
            SendKind::Publish if self.client.messages.is_full(self.lane) => Err(not_received()),
            SendKind::Publish => Ok(()),
        }
    }

    fn deliver(&self, delivery: Delivery<'_>) {
        let Delivery { kind, head, body, deadline, cancel, responder } = delivery;
        let client = &self.client;
        let from = Peer::from_wire(head.sender());
        let headers = head.headers().collect();
        if kind == SendKind::Publish {
            let topic = client.topics.lock().get(head.name).cloned().unwrap_or_else(|| head.name.into());
            let message = Message { topic, body, headers, from, cancel, responder };
            if let Err(message) = client.messages.push(self.lane, message) {
                let _ = message.responder.answer(Err(not_received()));
            }
            return;
        }
        // Only the gateway calls these, in the name of the edge they are about.
        let reserved = is_reserved(head.name);
        let Some((method, handler)) = client.handlers.find(head.name) else {
            let _ = responder.answer(Err(no_method()));
            return;
        };
        let about = if reserved { presence::EdgeInfo::parse(&body).ok().map(|info| info.edge) } else { None };
        let request = Request { method, body, headers, from, deadline: Some(deadline), cancel };
        let job = Job { handler, request, responder, turn: None, lane: self.lane };
        match about {
            // An edge that has no ID yet cannot be confused with itself.
            Some(edge) if edge != 0 => client.events.submit(edge, job, &client.dispatcher),
            _ => client.dispatcher.submit(job),
        }
    }
}

fn no_method() -> Error {
    Error::new(ErrorCode::MethodNotFound, "the method is not registered")
}

fn not_received() -> Error {
    Error::overloaded("messages are not received fast enough")
}
