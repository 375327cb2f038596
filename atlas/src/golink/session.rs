//! One Go gateway, from its greeting to its end: its calls go into the book, and what the book says goes to the links as a gateway's word.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use frontier_api::registry::{
    FromGateway, Hello, RenewRequest, RenewResponse, ToGateway, Welcome, from_gateway, to_gateway,
};
use frontier_wire::error::ErrorCode;
use frontier_wire::geminio::connection::{Ending, Event, Operation};
use frontier_wire::geminio::data::{Content, Object, decode};
use frontier_wire::geminio::text;
use futures::stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::book::{Book, Kind, Room};
use super::calls::{self, Call, METHODS};
use super::known::{Holdings, Places};
use super::socket::{Ended, Socket};
use super::{GoLinks, Names, identity};
use crate::links::{LinkError, VERSION};
use crate::record::StoreTime;
use crate::store::{Gateway, Store, StoreError};

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(250);

/// Ticks in which all entries are looked at: 10 s.
const ROUND: usize = 40;

/// A gateway waits so long to hear that what it told is in the store: its edges' connections wait with it.
const ANSWER: Duration = Duration::from_secs(1);

/// Calls that wait for that; the others are answered at once.
const WAITING: usize = 1_024;

/// For a look at who is there, before a gateway is let in. Without an answer it is let in: better found a little later than out.
const LOOK: Duration = Duration::from_secs(2);

/// For what is left to do when a connection ends.
const LAST: Duration = Duration::from_secs(5);

/// Before a link that ended is made again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Messages to a link without an Ack, whatever it allows.
const WINDOW: usize = 16;

/// Edges looked up at once.
const LOOK_UPS: usize = 1_000;

/// Something that is under way.
type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A gateway that was let in.
pub(super) struct Session<'a, S, C> {
    go: &'a GoLinks<S>,
    socket: Socket<C>,
    peer: SocketAddr,
    gateway: Gateway,
    start: Instant,
    book: Book<'a>,
    waiting: VecDeque<Waiting>,
    /// Calls that changed something.
    told: u64,
    /// Methods offered so far, and the packet that offers the last of them.
    offered: (usize, Option<u64>),
    link: Link<'a>,
}

/// The connection to the links.
struct Link<'a> {
    attach: Option<Work<'a, Result<(), LinkError>>>,
    /// When to make it.
    attach_at: Instant,
    pause: Duration,
    to: Option<mpsc::Sender<Result<FromGateway, ()>>>,
    from: Option<mpsc::Receiver<ToGateway>>,
    welcome: Option<Welcome>,
    seq: u64,
    acked: u64,
    /// After which messages everything had been said that was told until then.
    said: VecDeque<(u64, u64)>,
    renew: Option<Work<'a, Result<RenewResponse, LinkError>>>,
    renew_at: Instant,
    /// What the renewal under way tells.
    digests: Vec<(Kind, frontier_api::registry::Digest)>,
    adopt: Option<Work<'a, Result<Holdings, StoreError>>>,
    adopted: bool,
    look_up: Option<Work<'a, Result<Places, StoreError>>>,
}

/// A call that is answered when what it told is in the store.
struct Waiting {
    told: u64,
    until: Instant,
    operation: u64,
    /// The method as it came.
    key: Box<[u8]>,
}

/// How a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Run,
    /// The gateway has taken its leave: what it had is removed.
    Leave,
    /// The gateway is to be told to go.
    Dismiss,
    /// The connection is broken.
    Break,
}

// === impl Session ===

impl<'a, S: Store, C: AsyncRead + AsyncWrite + Send + Unpin> Session<'a, S, C> {
    /// Hears who it is, and lets it in or not.
    pub(super) async fn greet(
        go: &'a GoLinks<S>,
        mut socket: Socket<C>,
        peer: SocketAddr,
        names: Option<Names>,
        stop: &CancellationToken,
    ) -> Option<Self> {
        // The protocol has its own time for that.
        let meta = match stop.run_until_cancelled(socket.next()).await? {
            Ok(Event::Hello { data, .. }) => decode(data.meta()),
            Ok(_) => {
                go.end(peer, "", &"it does not say who it is");
                return None;
            }
            Err(why) => {
                go.end(peer, "", &why);
                return None;
            }
        };
        let admitted = match identity::gateway(&meta) {
            Ok(gateway) => {
                let covered = names.is_none_or(|names| names(&gateway.frontier_id));
                let roster = async { timeout(LOOK, go.store.members()).await.ok()?.ok() };
                if covered {
                    let admitted = roster.await.map_or(Ok(()), |roster| identity::admit(&gateway, &roster));
                    admitted.map(|()| gateway).map_err(str::to_owned)
                } else {
                    Err(LinkError::Denied(gateway.frontier_id).to_string())
                }
            }
            Err(why) => Err(why),
        };
        let now = socket.now();
        match admitted {
            Ok(gateway) => {
                // The same after a reconnect: a Go client that finds another ID fails the calls it repeats.
                let client =
                    u64::from_be_bytes(gateway.instance.0.first_chunk().copied().unwrap_or_default());
                socket.connection().admit(client.max(1), now);
                Some(Self::new(go, socket, peer, gateway))
            }
            Err(why) => {
                go.counts.refused.fetch_add(1, Ordering::Relaxed);
                go.complain(|| tracing::warn!(client.addr = %peer, why, "a Go gateway was refused"));
                socket.connection().reject(&why, now);
                drop(timeout(LAST, async { while socket.next().await.is_ok() {} }).await);
                None
            }
        }
    }

    fn new(go: &'a GoLinks<S>, socket: Socket<C>, peer: SocketAddr, gateway: Gateway) -> Self {
        let terms = &go.terms;
        let room =
            Room { used: &go.entries, all: terms.all_entries, each: terms.entries, unheard: terms.unheard };
        go.complain(|| {
            tracing::info!(
                frontier_id = gateway.frontier_id, instance = %gateway.instance, client.addr = %peer,
                services = gateway.service_addr, edges = gateway.edge_addr, "Go gateway connected"
            );
        });
        Self {
            go,
            socket,
            peer,
            gateway,
            start: Instant::now(),
            book: Book::new(room),
            waiting: VecDeque::new(),
            told: 0,
            offered: (0, None),
            link: Link::new(),
        }
    }

    /// Runs to the end of the connection.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.offer();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = Next::Run;
        while next == Next::Run {
            self.say();
            let link = &mut self.link;
            let attach_at = link.attach_at;
            select! {
                event = self.socket.next() => next = match event {
                    Ok(event) => self.heard(event),
                    Err(why) => self.ended(&why),
                },
                message = receive(&mut link.from) => self.hear_link(message),
                ended = finish(&mut link.attach) => next = self.unlinked(ended),
                renewed = finish(&mut link.renew) => self.renewed(renewed.is_ok()),
                adopted = finish(&mut link.adopt) => self.adopt(adopted),
                found = finish(&mut link.look_up) => {
                    let now = self.start.elapsed();
                    self.book.found(found.unwrap_or_default(), now);
                }
                _ = ticks.tick() => self.tick(),
                () = sleep_until(attach_at), if link.attach.is_none() => self.attach(),
                () = stop.cancelled() => next = Next::Dismiss,
            }
        }
        match next {
            Next::Leave => self.leave().await,
            Next::Dismiss => self.dismiss().await,
            Next::Run | Next::Break => {}
        }
        self.go.complain(|| {
            tracing::info!(
                frontier_id = self.gateway.frontier_id, instance = %self.gateway.instance,
                left = next == Next::Leave, "Go gateway disconnected"
            );
        });
    }

    // --- the gateway's side

    /// Offers the next method once the one before is known there, as the Go registry does.
    fn offer(&mut self) {
        let (count, _) = self.offered;
        let Some(method) = METHODS.get(count) else { return };
        let packet = self.socket.connection().register(method.as_bytes()).ok();
        self.offered = (count + 1, packet);
    }

    fn heard(&mut self, event: Event<Bytes>) -> Next {
        match event {
            Event::RegisterDone { packet } if self.offered.1 == Some(packet) => self.offer(),
            Event::Request(operation) => self.call(operation),
            Event::Message(operation) => {
                let error = text::of(ErrorCode::TopicNotOnline);
                self.socket.connection().respond(operation.id, &Object { error, ..Object::default() });
            }
            Event::Open { dialogue, .. } => self.socket.connection().refuse(dialogue),
            Event::Over(Ending::Agreed) => return Next::Leave,
            Event::Over(_) => {
                self.go.end(self.peer, &self.gateway.frontier_id, &"it is silent");
                return Next::Break;
            }
            _ => {}
        }
        Next::Run
    }

    fn ended(&mut self, why: &Ended) -> Next {
        if self.socket.said_goodbye() && !matches!(why, Ended::Fault(_)) {
            return Next::Leave;
        }
        self.go.end(self.peer, &self.gateway.frontier_id, why);
        Next::Break
    }

    fn call(&mut self, operation: Operation<Bytes>) {
        let key = operation.data.key().into();
        let call = calls::parse(
            &decode(operation.data.key()),
            &decode(operation.data.value()),
            &self.gateway.frontier_id,
        );
        self.go.counts.calls.fetch_add(1, Ordering::Relaxed);
        let (outcome, changes) = match call {
            Ok(call) => self.take(call),
            Err(why) => (Err(why), false),
        };
        let now = Instant::now();
        if outcome.is_ok() && changes && self.link.welcome.is_some() && self.waiting.len() < WAITING {
            self.told += 1;
            let waiting = Waiting { told: self.told, until: now + ANSWER, operation: operation.id, key };
            self.waiting.push_back(waiting);
        } else {
            self.answer(operation.id, &key, outcome);
        }
    }

    /// Carries a call out; whether that is worth waiting for.
    fn take(&mut self, call: Call) -> (Result<(), String>, bool) {
        let now = self.start.elapsed();
        let (outcome, changes) = match call {
            Call::EdgeOnline { id, addr } => (self.book.online(Kind::Edge, id, addr, "", now), true),
            Call::ServiceOnline { id, addr, name } => {
                (self.book.online(Kind::Service, id, addr, &name, now), true)
            }
            Call::EdgeOffline { id } => {
                self.book.offline(Kind::Edge, id, now);
                (Ok(()), true)
            }
            Call::ServiceOffline { id } => {
                self.book.offline(Kind::Service, id, now);
                (Ok(()), true)
            }
            Call::EdgeHeartbeat { id } => (self.book.heartbeat(Kind::Edge, id, now), false),
            Call::ServiceHeartbeat { id } => (self.book.heartbeat(Kind::Service, id, now), false),
            Call::Stats { edges, services } => {
                self.book.count(edges, services);
                (Ok(()), false)
            }
        };
        (outcome.map_err(|_| text::of(ErrorCode::Overloaded).to_owned()), changes)
    }

    fn answer(&mut self, operation: u64, key: &[u8], outcome: Result<(), String>) {
        let error = outcome.err().unwrap_or_default();
        if !error.is_empty() {
            self.go.counts.failed.fetch_add(1, Ordering::Relaxed);
            let frontier_id = &self.gateway.frontier_id;
            self.go.complain(|| tracing::warn!(frontier_id, error, "a call of a Go gateway failed"));
        }
        let object = Object { key: Content::Encoded(key), error: &error, ..Object::default() };
        self.socket.connection().respond(operation, &object);
    }

    /// Answers calls up to this one, and those that have waited long enough.
    fn answer_waiting(&mut self, told: u64) {
        let now = Instant::now();
        while let Some(waiting) =
            self.waiting.pop_front_if(|waiting| waiting.told <= told || waiting.until <= now)
        {
            self.answer(waiting.operation, &waiting.key, Ok(()));
        }
    }

    // --- the side of the links

    /// Says what there is to be said, as far as the link takes it.
    fn say(&mut self) {
        let (link, book) = (&mut self.link, &mut self.book);
        let (Some(welcome), Some(to)) = (&link.welcome, &link.to) else { return };
        if !link.adopted {
            return;
        }
        let window = u64::from(welcome.unacknowledged).min(WINDOW as u64);
        while link.seq - link.acked < window {
            let Some(kind) = book.next(link.seq + 1, welcome.entries as usize) else { break };
            link.seq += 1;
            // There is a place for each within the window. Without a receiver the link has ended, which is heard of soon.
            drop(to.try_send(Ok(FromGateway { kind: Some(kind) })));
        }
        if book.is_said() && link.said.back().is_none_or(|(_, told)| *told < self.told) {
            link.said.push_back((link.seq, self.told));
        }
        self.settle();
    }

    /// Answers what was waited for.
    fn settle(&mut self) {
        let mut told = 0;
        let acked = self.link.acked;
        while let Some((_, done)) = self.link.said.pop_front_if(|(seq, _)| *seq <= acked) {
            told = done;
        }
        self.answer_waiting(told);
    }

    fn attach(&mut self) {
        let (to, inbound) = mpsc::channel(WINDOW + 1);
        let (out, from) = mpsc::channel(WINDOW);
        let hello = Hello {
            version: VERSION,
            instance: self.gateway.instance.0.to_vec(),
            frontier_id: self.gateway.frontier_id.clone(),
            service_addr: self.gateway.service_addr.clone(),
            edge_addr: self.gateway.edge_addr.clone(),
            attached: self.link.adopted,
        };
        drop(to.try_send(Ok(FromGateway { kind: Some(from_gateway::Kind::Hello(hello)) })));
        let inbound = stream::unfold(inbound, |mut inbound| async { Some((inbound.recv().await?, inbound)) });
        let links = &self.go.links;
        let link = &mut self.link;
        link.attach = Some(Box::pin(async move {
            // Its certificate was looked at when it was let in.
            links.attach(|_| true, pin!(inbound), out).await
        }));
        (link.to, link.from) = (Some(to), Some(from));
        (link.seq, link.acked) = (0, 0);
        link.said.clear();
    }

    fn hear_link(&mut self, message: ToGateway) {
        match message.kind {
            Some(to_gateway::Kind::Welcome(welcome)) => self.welcome(welcome),
            Some(to_gateway::Kind::Ack(ack)) => {
                self.link.acked = self.link.acked.max(ack.seq).min(self.link.seq);
                self.settle();
            }
            Some(to_gateway::Kind::Cut(cut)) => {
                for lost in cut.edges {
                    tracing::debug!(edge = lost.id, instance = %self.gateway.instance, "lost to another gateway");
                    self.book.cut(lost.id, lost.epoch);
                }
            }
            Some(to_gateway::Kind::Resync(buckets)) => self.book.repeat(&buckets),
            None => {}
        }
    }

    fn welcome(&mut self, welcome: Welcome) {
        self.book.attached(StoreTime(welcome.time_ms), self.start.elapsed());
        let link = &mut self.link;
        link.pause = PAUSE.0;
        link.renew_at = Instant::now();
        if welcome.stream == 1 {
            // It was never here before.
            link.adopted = true;
            self.book.adopted();
        } else if !link.adopted && link.adopt.is_none() {
            link.adopt = Some(Box::pin(self.go.holdings(self.gateway.instance)));
        }
        link.welcome = Some(welcome);
    }

    fn adopt(&mut self, holdings: Result<Holdings, StoreError>) {
        match holdings {
            Ok((edges, services)) => {
                let now = self.start.elapsed();
                edges.iter().for_each(|(id, record)| self.book.adopt_edge(*id, record, now));
                services.iter().for_each(|(id, record)| self.book.adopt_service(*id, record, now));
                self.book.adopted();
                self.link.adopted = true;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read what a Go gateway has");
                let (go, instance) = (self.go, self.gateway.instance);
                self.link.adopt = Some(Box::pin(async move {
                    tokio::time::sleep(PAUSE.1 / 5).await;
                    go.holdings(instance).await
                }));
            }
        }
    }

    /// The link has ended.
    fn unlinked(&mut self, ended: Result<(), LinkError>) -> Next {
        let link = &mut self.link;
        let was_there = link.welcome.take().is_some();
        (link.to, link.from, link.renew) = (None, None, None);
        link.attach_at = Instant::now() + jittered(link.pause);
        link.pause = (link.pause * 2).min(PAUSE.1);
        self.answer_waiting(u64::MAX);
        let Err(why) = ended else { return Next::Run };
        match why {
            LinkError::Draining => return Next::Dismiss,
            LinkError::Forgotten | LinkError::Superseded if was_there => self.link.attach_at = Instant::now(),
            LinkError::Superseded | LinkError::Replaced | LinkError::Invalid(_) | LinkError::Denied(_) => {
                self.go.end(self.peer, &self.gateway.frontier_id, &why);
                return Next::Dismiss;
            }
            LinkError::Forgotten
            | LinkError::TooMany
            | LinkError::Full
            | LinkError::Store(_)
            | LinkError::Broken => {
                let frontier_id = &self.gateway.frontier_id;
                self.go.complain(|| tracing::warn!(frontier_id, %why, "a Go gateway has no link"));
            }
        }
        Next::Run
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.answer_waiting(0);
        self.book.sweep(ROUND, self.start.elapsed());
        if self.link.look_up.is_none() && self.link.adopted {
            let edges = self.book.seek(LOOK_UPS);
            if !edges.is_empty() {
                self.link.look_up = Some(Box::pin(self.go.look_up(self.gateway.instance, edges)));
            }
        }
        let Some(welcome) = &self.link.welcome else { return };
        if self.link.renew.is_some() || now < self.link.renew_at {
            return;
        }
        self.link.renew_at =
            now + Duration::from_millis(u64::from(welcome.renew_ms)).saturating_sub(TICK / 2);
        // What is yet to be taken over is not known.
        self.link.digests = if self.link.adopted { self.book.digests() } else { Vec::new() };
        let of = |wanted| {
            let digests = self.link.digests.iter().filter(move |(kind, _)| *kind == wanted);
            digests.map(|(_, digest)| *digest).collect()
        };
        let (edges, services) = self.book.counts();
        let request = RenewRequest {
            instance: self.gateway.instance.0.to_vec(),
            stream: welcome.stream,
            edges,
            services,
            edge_digests: of(Kind::Edge),
            service_digests: of(Kind::Service),
            seq: self.link.seq,
        };
        let links = &self.go.links;
        self.link.renew = Some(Box::pin(async move { links.renew(&request).await }));
    }

    fn renewed(&mut self, answered: bool) {
        let digests = std::mem::take(&mut self.link.digests);
        if !answered {
            self.book.untold(&digests);
        }
    }

    // --- the end

    /// Removes what the gateway had, and gives its lease back.
    async fn leave(&mut self) {
        let until = Instant::now() + LAST;
        self.book.clear();
        self.waiting.clear();
        // All buckets are said: what was not taken over yet goes as well.
        (self.link.adopt, self.link.adopted) = (None, true);
        while self.link.attach.is_some() && self.link.welcome.is_some() {
            self.say();
            if self.book.is_said() && self.link.acked == self.link.seq {
                self.link.to = None;
            }
            let link = &mut self.link;
            select! {
                message = receive(&mut link.from) => self.hear_link(message),
                _ = finish(&mut link.attach) => break,
                () = sleep_until(until) => break,
            }
        }
    }

    /// Says good-bye to the gateway, which connects again elsewhere.
    async fn dismiss(&mut self) {
        let now = self.socket.now();
        drop(self.socket.connection().disconnect::<Bytes>(now));
        let until = Instant::now() + LAST;
        drop(timeout_at(until, async { while self.socket.next().await.is_ok() {} }).await);
    }
}

// === impl Link ===

impl Link<'_> {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            attach: None,
            attach_at: now,
            pause: PAUSE.0,
            to: None,
            from: None,
            welcome: None,
            seq: 0,
            acked: 0,
            said: VecDeque::new(),
            renew: None,
            renew_at: now,
            digests: Vec::new(),
            adopt: None,
            adopted: false,
            look_up: None,
        }
    }
}

// === impl GoLinks ===

impl<S: Store> GoLinks<S> {
    /// Counts and tells that a connection has ended otherwise than it should.
    fn end(&self, peer: SocketAddr, frontier_id: &str, why: &dyn std::fmt::Display) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        self.complain(
            || tracing::warn!(client.addr = %peer, frontier_id, %why, "a Go gateway's connection ended"),
        );
    }
}

/// Waits for what is under way, if anything is.
///
/// # Cancel safety
/// It goes on where it was.
async fn finish<T>(work: &mut Option<Work<'_, T>>) -> T {
    match work {
        Some(running) => {
            let done = running.await;
            *work = None;
            done
        }
        None => std::future::pending().await,
    }
}

/// The next message of a link, if there is one.
async fn receive(from: &mut Option<mpsc::Receiver<ToGateway>>) -> ToGateway {
    match from {
        Some(from) => match from.recv().await {
            Some(message) => message,
            // The link itself tells why.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Between half of it and all of it, so that many do not come at once.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter.
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause / 2 * u32::from(byte[0]) / 256
}
