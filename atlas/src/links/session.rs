//! One link: Hello and Welcome, then one message of the gateway after the other into the store, each acknowledged when it is there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use frontier_api::bucket::{Digest, EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket, service_bucket};
use frontier_api::registry::{
    Ack, Buckets, Changes, Edge, FromGateway, Hello, ServiceInstance, ToGateway, Welcome, from_gateway,
    to_gateway,
};
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::told::{Kind, Told};
use super::wants::Wants;
use super::{Link, LinkError, Links, VERSION};
use crate::record::{Claim, EdgeRecord, Instance, ServiceRecord, StoreTime};
use crate::store::{Cut, EdgeOutcome, EdgeWrite, Gateway, Joined, ServiceWrite, Store, StoreError};

/// Bytes of a gateway's name, and of each of its addresses.
const TEXT_MAX: usize = 255;

/// Before a write that failed is tried again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// See the module documentation. `Ok` after the gateway has taken its leave.
pub(super) async fn run<S: Store, E: Send>(
    links: &Links<S>,
    may_be_called: impl Fn(&str) -> bool + Send,
    mut inbound: impl Stream<Item = Result<FromGateway, E>> + Send + Unpin,
    out: mpsc::Sender<ToGateway>,
) -> Result<(), LinkError> {
    if links.draining.is_cancelled() {
        return Err(LinkError::Draining);
    }
    let first = timeout(links.terms.hello, inbound.next()).await;
    let first = first.map_err(|_| LinkError::Invalid("no Hello in time".to_owned()))?;
    let hello = match first.map(|message| message.map(|message| message.kind)) {
        Some(Ok(Some(from_gateway::Kind::Hello(hello)))) => hello,
        Some(Ok(_)) => return Err(LinkError::Invalid("the first message is no Hello".to_owned())),
        Some(Err(_)) | None => return Err(LinkError::Broken),
    };
    let back = hello.attached;
    let gateway = gateway(hello)?;
    if !may_be_called(&gateway.frontier_id) {
        return Err(LinkError::Denied(gateway.frontier_id));
    }
    let entered = Entered::new(links, gateway.instance)?;
    let _turn = entered.turn.lock().await;
    let (now, stream) = match links.store.join(&gateway, links.terms.lease, back).await? {
        Joined::Lease { now, stream } => (now, stream),
        Joined::Superseded { .. } => return Err(LinkError::Superseded),
        Joined::Full => return Err(LinkError::Full),
    };
    let link = entered.settle(stream, now)?;
    links.look_around(&gateway).await;
    links.say(|| {
        tracing::info!(
            frontier_id = gateway.frontier_id, instance = %gateway.instance, stream,
            services = gateway.service_addr, edges = gateway.edge_addr, "gateway attached"
        );
    });
    let ended = Session { links, link: &link }.serve(inbound, &out).await;
    links.say(|| match &ended {
        Ok(()) => {
            tracing::info!(frontier_id = gateway.frontier_id, instance = %link.instance, "gateway has left")
        }
        Err(why) => {
            tracing::warn!(frontier_id = gateway.frontier_id, instance = %link.instance, %why, "link ended");
        }
    });
    ended
}

/// Reads an instance.
pub(super) fn instance(bytes: &[u8]) -> Result<Instance, LinkError> {
    let instance: Option<[u8; 16]> = bytes.try_into().ok();
    let instance = instance.filter(|bytes| *bytes != [0; 16]).map(Instance);
    instance.ok_or_else(|| LinkError::Invalid("an instance is 16 bytes, not all of them 0".to_owned()))
}

fn gateway(hello: Hello) -> Result<Gateway, LinkError> {
    if hello.version != VERSION {
        let message = format!("version {} is not known here, {VERSION} is", hello.version);
        return Err(LinkError::Invalid(message));
    }
    let text = |name: &str, text: String| {
        let printable = text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
        if printable {
            Ok(text)
        } else {
            Err(LinkError::Invalid(format!("{name} is no text of at most 255 bytes")))
        }
    };
    Ok(Gateway {
        instance: instance(&hello.instance)?,
        frontier_id: text("frontier_id", hello.frontier_id)?,
        service_addr: text("service_addr", hello.service_addr)?,
        edge_addr: text("edge_addr", hello.edge_addr)?,
    })
}

/// A place among the links, given back in the end if nobody else has it by then.
struct Entered<'a, S: Store> {
    links: &'a Links<S>,
    link: Mutex<Arc<Link>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

// === impl Entered ===

impl<'a, S: Store> Entered<'a, S> {
    /// Takes the place of an older link of this gateway, which ends, or a free one.
    fn new(links: &'a Links<S>, instance: Instance) -> Result<Self, LinkError> {
        let mut all = links.links.lock();
        let older = all.get(&instance);
        if older.is_none() && all.len() >= links.terms.links {
            return Err(LinkError::TooMany);
        }
        let turn = older.map_or_else(Arc::default, |older| {
            older.end(LinkError::Replaced);
            Arc::clone(&older.turn)
        });
        let link = Arc::new(Link::new(
            instance,
            0,
            Arc::clone(&turn),
            links.draining.child_token(),
            StoreTime::default(),
        ));
        all.insert(instance, Arc::clone(&link));
        Ok(Self { links, link: Mutex::new(link), turn })
    }

    /// The link has its number now.
    fn settle(&self, stream: u32, now: StoreTime) -> Result<Arc<Link>, LinkError> {
        let mut all = self.links.links.lock();
        let mut mine = self.link.lock();
        if mine.over.is_cancelled() {
            return Err(if self.links.draining.is_cancelled() {
                LinkError::Draining
            } else {
                LinkError::Replaced
            });
        }
        *mine = Arc::new(Link::new(mine.instance, stream, Arc::clone(&self.turn), mine.over.clone(), now));
        all.insert(mine.instance, Arc::clone(&mine));
        Ok(Arc::clone(&mine))
    }
}

impl<S: Store> Drop for Entered<'_, S> {
    fn drop(&mut self) {
        let (mut all, mine) = (self.links.links.lock(), self.link.lock());
        if all.get(&mine.instance).is_some_and(|link| Arc::ptr_eq(link, &mine)) {
            all.remove(&mine.instance);
        }
    }
}

// === impl Link ===

impl Link {
    fn new(
        instance: Instance,
        stream: u32,
        turn: Arc<tokio::sync::Mutex<()>>,
        over: CancellationToken,
        now: StoreTime,
    ) -> Self {
        let time = Mutex::new((now, Instant::now()));
        Self {
            instance,
            stream,
            told: Mutex::new(Told::new()),
            wants: Wants::default(),
            over,
            why: Mutex::default(),
            turn,
            time,
        }
    }

    /// The store has said what time it is. Its clock may have stepped.
    pub(super) fn learn(&self, now: StoreTime) {
        *self.time.lock() = (now, Instant::now());
    }

    /// The store's time, near enough to judge epochs by.
    fn time(&self) -> StoreTime {
        let (now, learned) = *self.time.lock();
        now.after(u64::try_from(learned.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

struct Session<'a, S> {
    links: &'a Links<S>,
    link: &'a Link,
}

// === impl Session ===

impl<S: Store> Session<'_, S> {
    async fn serve<E: Send>(
        &self,
        mut inbound: impl Stream<Item = Result<FromGateway, E>> + Send + Unpin,
        out: &mpsc::Sender<ToGateway>,
    ) -> Result<(), LinkError> {
        self.say(out, to_gateway::Kind::Welcome(self.welcome())).await?;
        let mut last = 0;
        loop {
            let message = select! {
                biased;
                () = self.link.over.cancelled() => return Err(self.why_over()),
                wanted = self.link.wants.next() => {
                    self.send(out, wanted).await?;
                    continue;
                }
                message = inbound.next() => message,
            };
            let kind = match message {
                // The gateway has ended its side: it takes its leave.
                None => {
                    self.links.store.leave(self.link.instance, self.link.stream).await?;
                    return Ok(());
                }
                Some(Err(_)) => return Err(LinkError::Broken),
                Some(Ok(message)) => message.kind,
            };
            let seq = match &kind {
                Some(from_gateway::Kind::Changes(changes)) => changes.seq,
                Some(from_gateway::Kind::Buckets(buckets)) => buckets.seq,
                Some(from_gateway::Kind::Hello(_)) => return Err(invalid("a second Hello")),
                // Of a later version.
                None => continue,
            };
            if seq != last + 1 {
                return Err(invalid(format!("message {seq} after message {last}")));
            }
            last = seq;
            match kind {
                Some(from_gateway::Kind::Changes(changes)) => self.changes(changes).await?,
                Some(from_gateway::Kind::Buckets(buckets)) => self.buckets(buckets).await?,
                Some(from_gateway::Kind::Hello(_)) | None => {}
            }
            let differs = self.link.told.lock().done(seq);
            self.links.resync(self.link, differs.edges, differs.services);
            self.links.counts.messages.fetch_add(1, Ordering::Relaxed);
            self.say(out, to_gateway::Kind::Ack(Ack { seq })).await?;
        }
    }

    fn welcome(&self) -> Welcome {
        let terms = &self.links.terms;
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Welcome {
            version: VERSION,
            stream: self.link.stream,
            time_ms: self.link.time().0,
            lease_ms: millis(terms.lease),
            renew_ms: millis(terms.renew),
            entries: terms.entries,
            unacknowledged: terms.unacknowledged,
        }
    }

    /// Somebody ended the link.
    fn why_over(&self) -> LinkError {
        if self.links.draining.is_cancelled() {
            return LinkError::Draining;
        }
        self.link.why.lock().clone().unwrap_or(LinkError::Replaced)
    }

    async fn say(&self, out: &mpsc::Sender<ToGateway>, kind: to_gateway::Kind) -> Result<(), LinkError> {
        self.send(out, ToGateway { kind: Some(kind) }).await
    }

    /// A gateway that does not read holds up nobody but itself, and not for ever.
    async fn send(&self, out: &mpsc::Sender<ToGateway>, message: ToGateway) -> Result<(), LinkError> {
        let sent = timeout(self.links.terms.lease * 2, out.send(message)).await;
        sent.map_err(|_| invalid("it does not read"))?.map_err(|_| LinkError::Broken)
    }

    fn horizon(&self) -> StoreTime {
        self.link.time().after(u64::try_from(self.links.terms.ahead.as_millis()).unwrap_or(u64::MAX))
    }

    async fn changes(&self, changes: Changes) -> Result<(), LinkError> {
        let most = self.links.terms.entries as usize;
        if changes.edges.len() + changes.services.len() > most {
            return Err(invalid(format!("more than {most} changes in a message")));
        }
        let horizon = self.horizon();
        let mut edges = BTreeMap::new();
        for entry in &changes.edges {
            if self.admit(entry.id, entry.epoch, horizon)? {
                edges.insert(entry.id, self.edge_write(entry)?);
            }
        }
        let mut services = BTreeMap::new();
        for entry in &changes.services {
            if self.admit(entry.id, entry.epoch, horizon)? {
                services.insert(entry.id, self.service_write(entry)?);
            }
        }
        let edge_buckets: Vec<u16> = edges.keys().map(|edge| edge_bucket(*edge)).collect();
        let service_buckets: Vec<u16> = services.keys().map(|service| service_bucket(*service)).collect();
        self.begin(changes.seq, &edge_buckets, &service_buckets);
        let edges: Vec<EdgeWrite> = edges.into_values().collect();
        let services: Vec<ServiceWrite> = services.into_values().collect();
        let outcomes = if edges.is_empty() {
            Vec::new()
        } else {
            self.persist(&edge_buckets, &[], || self.links.store.write_edges(&edges, horizon)).await?
        };
        if !services.is_empty() {
            self.persist(&[], &service_buckets, || self.links.store.write_services(&services)).await?;
        }
        self.links.counts.edges.fetch_add(edges.len() as u64, Ordering::Relaxed);
        self.links.watchers.touch(edge_buckets.iter().copied());
        let lost = edges.iter().zip(outcomes).filter_map(|(write, outcome)| match write {
            EdgeWrite::Online { edge, record } if outcome != EdgeOutcome::Done => {
                Some((*edge, *record, outcome))
            }
            EdgeWrite::Online { .. } | EdgeWrite::Offline { .. } => None,
        });
        self.settle(lost.collect(), horizon).await?;
        let mut told = self.link.told.lock();
        told.end(Kind::Edges, edge_buckets.into_iter().map(|bucket| (bucket, None)));
        told.end(Kind::Services, service_buckets.into_iter().map(|bucket| (bucket, None)));
        Ok(())
    }

    async fn buckets(&self, buckets: Buckets) -> Result<(), LinkError> {
        let horizon = self.horizon();
        let mut edges = numbers(&buckets.edge_buckets, EDGE_BUCKETS)?;
        let mut services = numbers(&buckets.service_buckets, SERVICE_BUCKETS)?;
        for entry in &buckets.edges {
            let place = edges.get_mut(&edge_bucket(entry.id));
            let place =
                place.ok_or_else(|| invalid(format!("edge {} is in none of these buckets", entry.id)))?;
            if self.admit(entry.id, entry.epoch, horizon)?
                && let EdgeWrite::Online { edge, record } = self.edge_write(entry)?
            {
                place.push((edge, record));
            }
        }
        for entry in &buckets.services {
            let place = services.get_mut(&service_bucket(entry.id));
            let place =
                place.ok_or_else(|| invalid(format!("service {} is in none of these buckets", entry.id)))?;
            if self.admit(entry.id, entry.epoch, horizon)?
                && let ServiceWrite::Online { service, record } = self.service_write(entry)?
            {
                place.push((service, record));
            }
        }
        let edge_digests: Vec<_> = edges
            .iter()
            .map(|(bucket, edges)| {
                (*bucket, Digest::of(edges.iter().map(|(id, record)| (*id, record.claim.epoch))))
            })
            .collect();
        let service_digests: Vec<_> = services
            .iter()
            .map(|(bucket, all)| {
                (*bucket, Digest::of(all.iter().map(|(id, record)| (*id, record.claim.epoch))))
            })
            .collect();
        let edge_buckets: Vec<u16> = edges.keys().copied().collect();
        let service_buckets: Vec<u16> = services.keys().copied().collect();
        // What a gateway says in its first link for the first time, and has nothing in, is most likely empty in the store already: it is not
        // written, which would take a command for each of all buckets, but looked at in its turn.
        let first = |kind, bucket| self.link.stream == 1 && !self.link.told.lock().is_said(kind, bucket);
        let (unwritten_edges, edges): (Vec<_>, Vec<_>) =
            edges.into_iter().partition(|(at, all)| all.is_empty() && first(Kind::Edges, *at));
        let (unwritten_services, services): (Vec<_>, Vec<_>) =
            services.into_iter().partition(|(at, all)| all.is_empty() && first(Kind::Services, *at));
        self.begin(buckets.seq, &edge_buckets, &service_buckets);
        let (instance, stream) = (self.link.instance, self.link.stream);
        let mut outcomes = Vec::new();
        if !edges.is_empty() {
            let write = || self.links.store.replace_edges(instance, stream, &edges, horizon);
            outcomes = self.persist(&edge_buckets, &[], write).await?;
        }
        self.links.watchers.touch(edge_buckets.iter().copied());
        if !services.is_empty() {
            let write = || self.links.store.replace_services(instance, &services);
            self.persist(&[], &service_buckets, write).await?;
        }
        let records: BTreeMap<u64, EdgeRecord> = edges.into_iter().flat_map(|(_, edges)| edges).collect();
        self.links.counts.edges.fetch_add(records.len() as u64, Ordering::Relaxed);
        let lost =
            outcomes.into_iter().filter_map(|(edge, outcome)| Some((edge, *records.get(&edge)?, outcome)));
        let cut = self.settle(lost.collect(), horizon).await?;
        let mut told = self.link.told.lock();
        // What lost its ID is told again as gone, so the store does not have what the digest says: the next renewal knows better.
        let known = |(bucket, digest)| (bucket, (!cut.contains(&bucket)).then_some(digest));
        told.end(Kind::Edges, edge_digests.into_iter().map(known));
        told.end(Kind::Services, service_digests.into_iter().map(|(bucket, digest)| (bucket, Some(digest))));
        drop(told);
        let unwritten = unwritten_services.into_iter().map(|(at, _)| at);
        self.links.dirty.mark(unwritten_edges.into_iter().map(|(at, _)| at), unwritten);
        Ok(())
    }

    fn begin(&self, seq: u64, edges: &[u16], services: &[u16]) {
        let mut told = self.link.told.lock();
        told.begin(Kind::Edges, edges.iter().copied(), seq);
        told.begin(Kind::Services, services.iter().copied(), seq);
    }

    /// Deals with IDs that are contested; gives the buckets of those that this gateway has lost.
    async fn settle(
        &self,
        contested: Vec<(u64, EdgeRecord, EdgeOutcome)>,
        horizon: StoreTime,
    ) -> Result<Vec<u16>, LinkError> {
        if contested.is_empty() {
            return Ok(Vec::new());
        }
        let (mut again, mut lost, mut others) =
            (Vec::new(), Vec::new(), BTreeMap::<Instance, Vec<Cut>>::new());
        let roster = self.persist(&[], &[], || self.links.store.members()).await?;
        // Whose lease has ended is told nothing, but it may come back, and no atlas hears of its own writes: looked at again.
        let untold = contested.iter().filter(|(_, _, outcome)| {
            matches!(outcome, EdgeOutcome::Replaced(other) | EdgeOutcome::Lost(other) if !roster.lives(other.claim.instance))
        });
        let untold: Vec<u16> = untold.map(|(edge, ..)| edge_bucket(*edge)).collect();
        self.links.dirty.suspect(&untold, &[]);
        for (edge, record, outcome) in contested {
            match outcome {
                EdgeOutcome::Done => {}
                EdgeOutcome::Replaced(old) if old.claim.instance == self.link.instance => {}
                EdgeOutcome::Replaced(old) => {
                    let cut = Cut { edge, epoch: old.claim.epoch, newer: record.claim.epoch };
                    others.entry(old.claim.instance).or_default().push(cut);
                }
                EdgeOutcome::Lost(current)
                    if current.claim.instance != self.link.instance
                        && roster.lives(current.claim.instance) =>
                {
                    lost.push(Cut { edge, epoch: record.claim.epoch, newer: current.claim.epoch });
                }
                // Whoever has it is gone, or never was; or it is this gateway itself, which knows better.
                EdgeOutcome::Lost(current) => {
                    again.push(EdgeWrite::Offline { edge, claim: current.claim });
                    again.push(EdgeWrite::Online { edge, record });
                }
            }
        }
        let buckets: Vec<u16> = again.iter().map(|write| edge_bucket(write.edge())).collect();
        for writes in [0, 1] {
            let step: Vec<EdgeWrite> = again.iter().skip(writes).step_by(2).copied().collect();
            if !step.is_empty() {
                self.persist(&buckets, &[], || self.links.store.write_edges(&step, horizon)).await?;
            }
        }
        self.links.watchers.touch(buckets);
        for (instance, cuts) in others.into_iter().filter(|(instance, _)| roster.lives(*instance)) {
            let attached = self.links.links.lock().get(&instance).cloned();
            match attached {
                Some(link) => self.links.cut(&link, cuts),
                None => self.persist(&[], &[], || self.links.store.leave_cuts(instance, &cuts)).await?,
            }
        }
        let buckets = lost.iter().map(|cut| edge_bucket(cut.edge)).collect();
        self.links.cut(self.link, lost);
        Ok(buckets)
    }

    /// Does something with the store until it succeeds or the link ends: the gateway waits for its Ack, and keeps what is newer.
    async fn persist<T, F>(
        &self,
        edges: &[u16],
        services: &[u16],
        operation: impl Fn() -> F,
    ) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = RETRY.0;
        loop {
            match operation().await {
                Ok(done) => {
                    // Had it been done by the try before, nobody would know whom it replaced.
                    if pause != RETRY.0 {
                        self.links.dirty.suspect(edges, services);
                    }
                    return Ok(done);
                }
                Err(error) => {
                    self.links.dirty.suspect(edges, services);
                    self.links.counts.retries.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(instance = %self.link.instance, %error, "the store failed, trying again");
                    select! {
                        biased;
                        () = self.link.over.cancelled() => return Err(self.why_over()),
                        () = sleep(pause) => {}
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Whether an entry is taken.
    fn admit(&self, id: u64, epoch: u64, horizon: StoreTime) -> Result<bool, LinkError> {
        if id == 0 {
            return Err(invalid("0 is no ID"));
        }
        let admitted = epoch <= horizon.epoch();
        if !admitted && self.links.counts.refused.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
            tracing::warn!(instance = %self.link.instance, id, epoch, "an epoch lies too far in the future: not taken");
        }
        Ok(admitted)
    }

    fn edge_write(&self, entry: &Edge) -> Result<EdgeWrite, LinkError> {
        let claim = Claim { epoch: entry.epoch, instance: self.link.instance };
        Ok(match addr(&entry.addr)? {
            None => EdgeWrite::Offline { edge: entry.id, claim },
            Some(addr) => {
                let record = EdgeRecord { claim, stream: self.link.stream, addr };
                EdgeWrite::Online { edge: entry.id, record }
            }
        })
    }

    fn service_write(&self, entry: &ServiceInstance) -> Result<ServiceWrite, LinkError> {
        if entry.name.len() > TEXT_MAX {
            return Err(invalid("a service's name has more than 255 bytes"));
        }
        let claim = Claim { epoch: entry.epoch, instance: self.link.instance };
        Ok(match addr(&entry.addr)? {
            None => ServiceWrite::Offline { service: entry.id, claim },
            Some(addr) => {
                let record =
                    ServiceRecord { claim, stream: self.link.stream, addr, name: entry.name.clone() };
                ServiceWrite::Online { service: entry.id, record }
            }
        })
    }
}

// === impl Links ===

impl<S: Store> Links<S> {
    /// Ends the links of those that this gateway has superseded, and tells of gateways with its name: they are told apart by their
    /// instances, but it is rarely what somebody wants.
    async fn look_around(&self, gateway: &Gateway) {
        // Both are found by renewals, too.
        let Ok(roster) = self.store.members().await else { return };
        for other in roster.members.values().filter(|member| member.superseded_by == Some(gateway.instance)) {
            if let Some(link) = self.links.lock().get(&other.gateway.instance) {
                link.end(LinkError::Superseded);
            }
        }
        let others = roster.members.keys().filter_map(|instance| roster.living(*instance));
        let mut others =
            others.map(|other| &other.gateway).filter(|other| other.instance != gateway.instance);
        if let Some(other) = others.find(|other| other.frontier_id == gateway.frontier_id) {
            self.counts.duplicates.fetch_add(1, Ordering::Relaxed);
            self.say(|| {
                tracing::warn!(
                    frontier_id = gateway.frontier_id, instance = %gateway.instance, other = %other.instance,
                    other_services = other.service_addr, "two gateways have one name"
                );
            });
        }
    }
}

fn invalid(what: impl Into<String>) -> LinkError {
    LinkError::Invalid(what.into())
}

/// Buckets of a message, each once and in range.
fn numbers<T>(numbers: &[u32], buckets: u16) -> Result<BTreeMap<u16, Vec<T>>, LinkError> {
    let mut all = BTreeMap::new();
    for number in numbers {
        let bucket = u16::try_from(*number).ok().filter(|bucket| *bucket < buckets);
        let bucket = bucket.ok_or_else(|| invalid(format!("there is no bucket {number}")))?;
        if all.insert(bucket, Vec::new()).is_some() {
            return Err(invalid(format!("bucket {number} twice in a message")));
        }
    }
    Ok(all)
}

/// IP (4 or 16 bytes) and port (2); `None` if there is none.
fn addr(bytes: &[u8]) -> Result<Option<SocketAddr>, LinkError> {
    let Some((ip, port)) = bytes.split_last_chunk::<2>() else {
        return if bytes.is_empty() { Ok(None) } else { Err(invalid("an address of one byte")) };
    };
    let four = <[u8; 4]>::try_from(ip).ok().map(IpAddr::from);
    let ip = four.or_else(|| <[u8; 16]>::try_from(ip).ok().map(IpAddr::from));
    let ip = ip.ok_or_else(|| invalid(format!("an address of {} bytes", bytes.len())))?;
    Ok(Some(SocketAddr::new(ip, u16::from_be_bytes(*port))))
}
