//! One connection to a gateway through its life: connect, serve, reconnect, move.
//!
//! ```text
//!            ┌──────────────── lost ◀────────────────┐
//!            ▼                                       │
//!  connect (backoff) ──▶ session serves ── sent away ┤
//!            ▲                                       ▼
//!            └─────── the new one serves ◀── connect anew while the old one goes on;
//!                                            then the old one finishes and leaves
//! ```
//! The link owns the operations its handles ask for: while there is no session they wait in its channel, up to their deadline. In a
//! cluster they are given back instead, because there may be another way.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use frontier_wire::native::hello::{Hello, Role};
use tokio::{
    select,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    address::Address,
    error::{ConnectError, Error, ErrorCode},
    offered::Said,
    op::{NameLists, Names, Op},
    promise::promise,
    random::Random,
    reconnect::Reconnect,
    session::{Greeted, HELLO_MAX, Session, Turn, greet},
    site::Site,
    state::State,
};

/// A session that lived for so long counts as a success: the next wait is short again.
const LASTING: Duration = Duration::from_secs(10);

/// For how long a Hello whose connection was given up may still arrive: as long as systems send again what was not acknowledged.
const GHOST: Duration = Duration::from_secs(900);

/// Attempts that are remembered for that.
const GHOSTS: usize = 16;

/// Bytes of names in one Register frame: within every limit on heads.
const NAMES_MAX: usize = 12 * 1024;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Link {
    connector: Connector,
    ops: mpsc::Receiver<Op>,
    /// Sessions that were replaced and finish what they have.
    retired: JoinSet<()>,
}

/// Makes sessions, one after the other.
#[derive(Debug)]
struct Connector {
    site: Arc<Site>,
    index: usize,
    addresses: Vec<Address>,
    /// Which address is next.
    turn: usize,
    /// Resume ticket of the last session.
    ticket: Vec<u8>,
    /// Attempts since a session lasted.
    attempts: u32,
    ghosts: Ghosts,
    random: Random,
}

/// Attempts that were given up after Hello was sent, until when it may arrive: then a session that nobody has takes over the ID from the
/// one that was made instead.
#[derive(Debug, Default)]
struct Ghosts(VecDeque<Instant>);

/// How serving a session ended.
enum After {
    Replaced(Box<Session>),
    Lost(ConnectError),
    Over(ConnectError),
}

// === impl Link ===

impl Link {
    pub(crate) fn new(
        site: Arc<Site>,
        index: usize,
        addresses: Vec<Address>,
        ops: mpsc::Receiver<Op>,
    ) -> Self {
        let ticket = site.client.options.ticket.to_vec();
        let random = Random::new();
        let ghosts = Ghosts::default();
        let connector =
            Connector { site, index, addresses, turn: index, ticket, attempts: 0, ghosts, random };
        Self { connector, ops, retired: JoinSet::new() }
    }

    /// Lives until its site closes or gives up. `first` learns how the first attempts went; with `once`, their failure is the end.
    pub(crate) async fn run(mut self, first: oneshot::Sender<Result<(), ConnectError>>, once: bool) {
        let reason = self.live(first, once).await;
        // They have seen that the client closes, or are bounded by their own time.
        if self.connector.site.closing.is_cancelled() {
            while self.retired.join_next().await.is_some() {}
        }
        let Self { connector, mut ops, retired } = self;
        connector.site.link_ended(connector.index, reason);
        ops.close();
        while let Ok(op) = ops.try_recv() {
            if connector.site.is_one_of_many() {
                op.give_back();
            }
        }
        drop(retired);
    }

    async fn live(
        &mut self,
        first: oneshot::Sender<Result<(), ConnectError>>,
        once: bool,
    ) -> Arc<ConnectError> {
        let mut session = match self.first(first, once).await {
            Ok(session) => session,
            Err(reason) => return reason,
        };
        loop {
            match self.serve(session).await {
                After::Replaced(newer) => session = newer,
                After::Over(reason) => return Arc::new(reason),
                After::Lost(error) => match self.reconnect(error).await {
                    Ok(newer) => session = newer,
                    Err(reason) => return reason,
                },
            }
        }
    }

    /// The first session: every address is tried once; after that it depends on `once`.
    async fn first(
        &mut self,
        first: oneshot::Sender<Result<(), ConnectError>>,
        once: bool,
    ) -> Result<Box<Session>, Arc<ConnectError>> {
        let connector = &mut self.connector;
        let site = connector.site.clone();
        let mut outcome = Err(ConnectError::Closed);
        for _ in 0..connector.addresses.len() {
            let attempt = site.closing.run_until_cancelled(connector.attempt()).await;
            outcome = attempt.unwrap_or(Err(ConnectError::Closed));
            if outcome.is_ok() || site.closing.is_cancelled() {
                break;
            }
        }
        match outcome {
            Ok((session, _)) if connector.index > 0 => {
                let _ = first.send(Ok(()));
                Ok(session)
            }
            Ok((session, shards)) => {
                // The pool is told apart from its first link, which must serve meanwhile.
                site.fill_pool(shards, first);
                Ok(session)
            }
            Err(error) if once => {
                let _ = first.send(Err(error));
                Err(Arc::new(ConnectError::Closed))
            }
            Err(error) => {
                drop(first);
                self.reconnect(error).await
            }
        }
    }

    /// Connects after a loss. What handles ask for meanwhile waits, or goes back to look for another way.
    async fn reconnect(&mut self, error: ConnectError) -> Result<Box<Session>, Arc<ConnectError>> {
        let Self { connector, ops, .. } = self;
        let site = connector.site.clone();
        let mut connecting = pin!(connector.connect(error, true));
        loop {
            select! {
                biased;
                outcome = &mut connecting => return outcome,
                Some(op) = ops.recv(), if site.is_one_of_many() => op.give_back(),
            }
        }
    }

    /// Serves until the session ends, or a newer one has taken its place.
    async fn serve(&mut self, mut session: Box<Session>) -> After {
        let began = Instant::now();
        let site = self.connector.site.clone();
        let turn = loop {
            select! {
                // Closing first: whoever closes waits for it.
                biased;
                () = site.closing.cancelled() => return leave(&mut session, &site).await,
                turn = session.run(Some(&mut self.ops)) => break turn,
                Some(_) = self.retired.join_next() => {}
            }
        };
        if began.elapsed() >= LASTING {
            self.connector.attempts = 0;
        }
        match turn {
            Turn::Ended(ConnectError::SentAway(error)) | Turn::SentAway(error)
                if error.code() == ErrorCode::SessionClosed =>
            {
                if self.connector.ghosts.may_come() {
                    After::Lost(ConnectError::TakenOver)
                } else {
                    After::Over(ConnectError::TakenOver)
                }
            }
            Turn::Ended(error) => {
                if let ConnectError::Silent { .. } = error {
                    // It would not answer soon either.
                    self.connector.turn = self.connector.turn.wrapping_add(1);
                }
                After::Lost(error)
            }
            Turn::SentAway(error) if error.code() == ErrorCode::GatewayDraining => {
                self.replace(session, error).await
            }
            // Kicked, or at fault: the connection is closed already.
            Turn::SentAway(error) => After::Lost(ConnectError::SentAway(error)),
        }
    }

    /// Make before break: connects anew while the session goes on.
    async fn replace(&mut self, mut session: Box<Session>, error: Error) -> After {
        let Self { connector, ops, retired } = self;
        let (site, index) = (connector.site.clone(), connector.index);
        connector.draining();
        connector.turn = connector.turn.wrapping_add(1);
        let newer = connector.connect(ConnectError::SentAway(error), false);
        tokio::pin!(newer);
        let mut gave_up = false;
        let lost = loop {
            select! {
                biased;
                () = site.closing.cancelled() => return leave(&mut session, &site).await,
                outcome = &mut newer, if !gave_up => match outcome {
                    Ok(newer) => {
                        session.retire(site.client.options.drain_timeout);
                        retired.spawn_on(run_out(session, site.clone()), site.client.runtime());
                        return After::Replaced(newer);
                    }
                    Err(_) => gave_up = true,
                },
                turn = session.run(Some(ops)) => {
                    if let Turn::Ended(error) = turn {
                        break error;
                    }
                }
            }
        };
        drop(session);
        if gave_up {
            return After::Over(lost);
        }
        site.set(index, State::Reconnecting { attempt: 0, error: Arc::new(lost) });
        match newer.await {
            Ok(newer) => After::Replaced(newer),
            Err(_) => After::Over(ConnectError::Closed),
        }
    }
}

/// Leaves the gateway in good order.
async fn leave(session: &mut Session, site: &Site) -> After {
    session.leave(None, site.client.close_timeout());
    // Ends within the grace and the time a close may take.
    while !matches!(session.run(None).await, Turn::Ended(_)) {}
    After::Over(ConnectError::Closed)
}

/// Lets a replaced session finish what it has.
async fn run_out(mut session: Box<Session>, site: Arc<Site>) {
    loop {
        select! {
            biased;
            () = site.closing.cancelled() => {
                leave(&mut session, &site).await;
                return;
            }
            turn = session.run(None) => {
                if let Turn::Ended(_) = turn {
                    return;
                }
            }
        }
    }
}

// === impl Connector ===

impl Connector {
    /// Connects after `error`, waiting longer from attempt to attempt, until it succeeds, the policy forbids more, or the client closes.
    /// With `report` the user sees the attempts.
    async fn connect(
        &mut self,
        error: ConnectError,
        report: bool,
    ) -> Result<Box<Session>, Arc<ConnectError>> {
        let mut error = Arc::new(error);
        let site = self.site.clone();
        let policy = site.client.options.reconnect;
        while policy.allows(self.attempts) {
            if report {
                let state = State::Reconnecting { attempt: self.attempts, error: error.clone() };
                site.set(self.index, state);
            }
            let delay = self.delay(policy, error.retry_after());
            self.attempts = self.attempts.saturating_add(1);
            let attempt = async {
                sleep(delay).await;
                self.attempt().await
            };
            match site.closing.run_until_cancelled(attempt).await {
                None => return Err(Arc::new(ConnectError::Closed)),
                Some(Ok((session, _))) => return Ok(session),
                Some(Err(next)) => {
                    tracing::debug!(error = %next, kind = next.kind(), attempt = self.attempts, "connecting failed");
                    error = Arc::new(next);
                }
            }
        }
        Err(error)
    }

    /// How long to wait before the next attempt.
    fn delay(&mut self, policy: Reconnect, hint: Option<Duration>) -> Duration {
        let Some(hint) = hint else { return policy.delay(self.attempts, &mut self.random) };
        let hinted = Reconnect::hinted(hint, &mut self.random);
        // A gateway that welcomes and sends away at once must not be asked in a tight loop.
        let paced =
            if self.attempts == 0 { Duration::ZERO } else { policy.delay(self.attempts, &mut self.random) };
        hinted.max(paced)
    }

    /// One attempt at the next address: dial, greet, register. Returns the session and how many shards the gateway has.
    async fn attempt(&mut self) -> Result<(Box<Session>, u32), ConnectError> {
        if self.index > 0 {
            self.turn = self.site.home.load(Ordering::Relaxed);
        }
        let turn = self.turn % self.addresses.len().max(1);
        let Some(address) = self.addresses.get(turn).cloned() else {
            return Err(ConnectError::Address { address: String::new(), reason: "none was given" });
        };
        let after = self.site.client.options.connect_timeout;
        let outcome = match timeout(after, Box::pin(self.establish(&address))).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.ghosts.leave();
                Err(ConnectError::Timeout { address: address.to_string(), after })
            }
        };
        match &outcome {
            Ok(_) if self.index == 0 => self.site.home.store(turn, Ordering::Relaxed),
            // What worked is tried first after the next loss.
            Ok(_) => {}
            Err(_) => self.turn = turn + 1,
        }
        outcome
    }

    async fn establish(&mut self, address: &Address) -> Result<(Box<Session>, u32), ConnectError> {
        let site = self.site.clone();
        let options = &site.client.options;
        let io = site.client.dialer.dial(address).await?;
        let first_id = site.first_id().await;
        let mut said = site.client.offered();
        let (hello, rest) = self.hello(&said);
        let greeted: Greeted =
            greet(io, &hello, &options.yamux()).await.map_err(|error| error.before_welcome(address))?;
        let (id, epoch, shards) = (greeted.welcome.id, greeted.welcome.epoch, greeted.welcome.shards);
        let ticket = greeted.welcome.ticket.clone();
        let mut session = Box::new(Session::new(site.clone(), greeted, Instant::now()));
        if !ticket.is_empty() {
            self.ticket = ticket;
        }
        site.welcomed(id, &self.ticket);
        drop(first_id);
        register(&mut session, true, rest).await?;
        while !site.set_ready(self.index, State::Ready { id, epoch }, said.revision) {
            let now = site.client.offered();
            let difference = said.until(&now);
            register(&mut session, true, portions(difference.gained)).await?;
            register(&mut session, false, portions(difference.lost)).await?;
            said = now;
        }
        tracing::debug!(%address, id, epoch, "connected");
        Ok((session, shards))
    }

    /// What this link says of itself, and the names that do not fit into it.
    fn hello(&self, said: &Said) -> (Hello, Vec<NameLists>) {
        let client = &self.site.client;
        let options = &client.options;
        let index = u32::try_from(self.index).unwrap_or(u32::MAX);
        let mut hello = options.hello(client.instance, index);
        hello.ticket.clone_from(&self.ticket);
        hello.wished_id = match options.role {
            Role::Edge => options.wished_id,
            // A service has no ticket: the ID it had is a wish like the first one.
            Role::Service => self.site.id_to_wish(),
        };
        let room = HELLO_MAX.saturating_sub(hello.encoded_len());
        let rest;
        (hello.methods, hello.topics, rest) = split(said.methods.clone(), said.topics.clone(), room);
        (hello, rest)
    }

    /// The gateway of the session is about to stop.
    fn draining(&self) {
        if let Some((id, epoch)) = self.site.session(self.index) {
            self.site.set(self.index, State::Draining { id, epoch });
        }
    }
}

// === impl Ghosts ===

impl Ghosts {
    /// One may come from now on.
    fn leave(&mut self) {
        if self.0.len() == GHOSTS {
            self.0.pop_front();
        }
        self.0.push_back(Instant::now() + GHOST);
    }

    /// Whether it may have been one that took over; each comes once.
    fn may_come(&mut self) -> bool {
        let now = Instant::now();
        self.0.retain(|until| now < *until);
        self.0.pop_front().is_some()
    }
}

/// Registers what was not in Hello, or the end of what was, before the session counts as ready.
async fn register(session: &mut Session, register: bool, lists: Vec<NameLists>) -> Result<(), ConnectError> {
    for lists in lists {
        let (promise, answer) = promise();
        session.start(Op::Names(Names { register, lists, promise }));
        select! {
            biased;
            outcome = answer => drop(outcome.map_err(ConnectError::Rejected)?),
            turn = session.run(None) => return Err(match turn {
                Turn::SentAway(error) => ConnectError::SentAway(error),
                Turn::Ended(error) => error,
            }),
        }
    }
    Ok(())
}

/// The names that fit into `room` bytes of Hello, and the others in portions for Register.
fn split(
    methods: Vec<String>,
    topics: Vec<String>,
    mut room: usize,
) -> (Vec<String>, Vec<String>, Vec<NameLists>) {
    let mut fits = |name: &String| {
        let fits = cost(name) <= room;
        room -= if fits { cost(name) } else { room };
        fits
    };
    let (methods, more_methods): (Vec<_>, Vec<_>) = methods.into_iter().partition(&mut fits);
    let (topics, more_topics): (Vec<_>, Vec<_>) = topics.into_iter().partition(&mut fits);
    let boxed = |names: Vec<String>| names.into_iter().map(String::into_boxed_str).collect();
    (methods, topics, portions(NameLists { methods: boxed(more_methods), topics: boxed(more_topics) }))
}

/// What a name takes in a list: tag and length are around it.
const fn cost(name: &str) -> usize {
    name.len() + 4
}

/// Names in lists that fit into one Register frame each.
fn portions(names: NameLists) -> Vec<NameLists> {
    let named = names.methods.into_iter().map(|name| (true, name));
    let named = named.chain(names.topics.into_iter().map(|name| (false, name)));
    let mut rest: Vec<NameLists> = Vec::new();
    let mut left = 0;
    for (is_method, name) in named {
        if rest.is_empty() || left < cost(&name) {
            rest.push(NameLists::default());
            left = NAMES_MAX;
        }
        left = left.saturating_sub(cost(&name));
        if let Some(lists) = rest.last_mut() {
            let list = if is_method { &mut lists.methods } else { &mut lists.topics };
            list.push(name);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_into_hello_follow_in_portions_and_none_is_lost() {
        let names = |what: &str| (0..500).map(|n| format!("{what}-{n:0200}")).collect::<Vec<_>>();
        let (methods, topics, rest) = split(names("method"), names("topic"), 50_000);
        let bytes: usize = methods.iter().chain(&topics).map(|name| name.len() + 4).sum();
        assert!(bytes <= 50_000);
        let more: usize = rest.iter().map(|lists| lists.methods.len() + lists.topics.len()).sum();
        assert_eq!(methods.len() + topics.len() + more, 1_000);
        for lists in &rest {
            let bytes: usize = lists.methods.iter().chain(&lists.topics).map(|name| name.len() + 4).sum();
            assert!(bytes <= NAMES_MAX);
        }
    }

    #[test]
    fn names_that_fit_stay_in_hello() {
        let (methods, topics, rest) = split(vec!["a".into()], vec!["b".into()], 1_000);
        assert_eq!((methods, topics), (vec!["a".to_owned()], vec!["b".to_owned()]));
        assert!(rest.is_empty());
    }
}
