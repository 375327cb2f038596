//! One link, from its Welcome to its end: what is told, in which order, and what atlas says to it.
//!
//! Everything is told once as a whole, bucket by bucket, and from then on what changes; a bucket is told as a whole again if too much of it
//! has changed or atlas asks for it. Whole buckets and changes take turns. Nothing is queued: a message is made when there is room for it
//! among those unacknowledged, of what is here at that moment. Messages are made without waiting in between, so a renewal in between
//! carries digests of what was said up to its `seq`, no more and no less ([`Roll`](crate::core::roll::Roll)).

use std::{collections::VecDeque, future::pending, pin::Pin, sync::Arc, time::Duration};

use frontier_api::{
    bucket::{EDGE_BUCKETS, SERVICE_BUCKETS},
    registry::{
        Buckets, Changes, Edge, FromGateway, RenewRequest, RenewResponse, Resync, ToGateway, Welcome,
        from_gateway::Kind, to_gateway,
    },
};
use futures::StreamExt as _;
use tokio::{
    sync::mpsc::error::TrySendError,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    link::{Dial, Link, LinkError, Renew, Trouble},
    services::{Epochs, Services, addr, entry},
    source::{BucketSet, Source},
    status::Status,
};
use crate::core::roll::Here;

/// Edges looked for at a time, and remembered until they are told: 2 MiB, and a million edges take eight walks.
const WALK: u64 = 128 << 10;
/// Between two messages with fewer changes than fit, so that what happens at about the same time goes together.
const LULL: Duration = Duration::from_millis(2);
/// An atlas that answers that it cannot renew the lease, usually because it does not reach its store, is left after so long: others may
/// reach it, but moving costs a snapshot.
const PATIENCE: Duration = Duration::from_secs(15);
/// For atlas to notice that the gateway leaves.
const FAREWELL: Duration = Duration::from_secs(1);
/// An answer that took longer than so many microseconds says too little about the time.
const TRIP: u64 = 200_000;
/// Unless none has said more for so long.
const STALE: Duration = Duration::from_secs(10);
/// Times of the cluster are below this (the year 2248): an epoch has room for no more.
const END_OF_TIME: u64 = 1 << 43;

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What outlives a link.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) epochs: Epochs,
    /// When a quick answer told the time last.
    learned: Option<Instant>,
}

/// What was agreed upon.
#[derive(Clone, Copy, Debug)]
struct Terms {
    stream: u32,
    lease: Duration,
    renew: Duration,
    entries: usize,
    window: usize,
}

/// Why a link ended.
#[derive(Debug)]
pub(super) enum End {
    /// The gateway wants to go.
    Left,
    /// It has failed.
    Failed(LinkError),
}

/// See the module documentation.
pub(super) struct Attached<'a, D: Dial, S> {
    link: Link<D::Hear, D::Renew>,
    source: &'a Arc<S>,
    status: &'a Status,
    memory: &'a mut Memory,
    instance: [u8; 16],
    terms: Terms,
    /// Messages said.
    seq: u64,
    /// Of those, the ones not acknowledged.
    unacknowledged: Vec<u64>,
    services: Services,
    /// Buckets of edges to be looked for and told as a whole.
    todo: BucketSet,
    walk: Option<Walk>,
    found: Option<Found>,
    /// It is the turn of whole buckets.
    whole_next: bool,
    /// Where to look for changes next.
    next: usize,
    /// No further changes are told before.
    lull: Instant,
    renewal: Option<Renewal>,
    renewal_due: Instant,
    renewed: Instant,
}

struct Walk {
    buckets: VecDeque<u16>,
    walk: Later<Vec<(u16, u64)>>,
}

/// What a walk has found, of buckets that are not told yet.
struct Found {
    buckets: VecDeque<u16>,
    edges: VecDeque<(u16, u64)>,
}

struct Renewal {
    /// By the gateway's clock.
    asked: u64,
    request: RenewRequest,
    answer: Later<Result<RenewResponse, LinkError>>,
}

enum Event {
    Stop,
    Renewed(Result<RenewResponse, LinkError>),
    RenewalDue,
    Walked(Vec<(u16, u64)>),
    Heard(Option<Result<ToGateway, LinkError>>),
    News,
}

// === impl Memory ===

impl Memory {
    /// An answer to what was asked at `asked` says what time it is: about halfway.
    pub(super) fn learn(&mut self, source: &impl Source, asked: u64, unix_ms: u64) -> Result<(), LinkError> {
        if unix_ms >= END_OF_TIME {
            return Err(LinkError::new(Trouble::Protocol, "its time is beyond any"));
        }
        let trip = source.clock().saturating_sub(asked);
        let quick = trip <= TRIP;
        if quick || self.learned.is_none_or(|learned| learned.elapsed() > STALE) {
            source.learn_time(unix_ms, asked + trip / 2);
        }
        if quick {
            self.learned = Some(Instant::now());
        }
        Ok(())
    }
}

// === impl Terms ===

impl Terms {
    /// Whatever atlas wants, within what the gateway can do.
    fn of(welcome: &Welcome) -> Result<Self, LinkError> {
        if welcome.version != 1 {
            let text = format!("it speaks version {}", welcome.version);
            return Err(LinkError::new(Trouble::Protocol, text));
        }
        let renew = Duration::from_millis(welcome.renew_ms.clamp(50, 60_000).into());
        Ok(Self {
            stream: welcome.stream,
            lease: Duration::from_millis(welcome.lease_ms.into()).clamp(renew * 2, renew * 60),
            renew,
            entries: welcome.entries.clamp(1, 10_000) as usize,
            window: welcome.unacknowledged.clamp(1, 64) as usize,
        })
    }
}

// === impl Attached ===

impl<'a, D: Dial, S: Source> Attached<'a, D, S> {
    pub(super) fn new(
        link: Link<D::Hear, D::Renew>,
        welcome: &Welcome,
        source: &'a Arc<S>,
        status: &'a Status,
        memory: &'a mut Memory,
        instance: [u8; 16],
    ) -> Result<Self, LinkError> {
        let terms = Terms::of(welcome)?;
        let now = Instant::now();
        source.roll().forget_all();
        status.linked(terms.stream);
        Ok(Self {
            link,
            source,
            status,
            memory,
            instance,
            terms,
            seq: 0,
            unacknowledged: Vec::new(),
            services: Services::new(),
            todo: BucketSet::all(),
            walk: None,
            found: None,
            whole_next: true,
            next: 0,
            lull: now,
            renewal: None,
            renewal_due: now + terms.renew,
            renewed: now,
        })
    }

    /// Until the link fails or the gateway wants to go.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> End {
        loop {
            let outcome = match self.say() {
                Ok(()) => match self.event(stop).await {
                    Event::Stop => return self.leave().await,
                    Event::Renewed(answer) => self.on_renewed(answer),
                    Event::RenewalDue => {
                        self.renew();
                        Ok(())
                    }
                    Event::Walked(edges) => {
                        self.found =
                            self.walk.take().map(|walk| Found { buckets: walk.buckets, edges: edges.into() });
                        Ok(())
                    }
                    Event::Heard(Some(Ok(message))) => self.on_heard(message),
                    Event::Heard(Some(Err(error))) => Err(error),
                    Event::Heard(None) => Err(Trouble::Ended.into()),
                    Event::News => Ok(()),
                },
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return End::Failed(error);
            }
        }
    }

    async fn event(&mut self, stop: &CancellationToken) -> Event {
        let roll = self.source.roll();
        let room = self.unacknowledged.len() < self.terms.window;
        let lingers = room && self.lull > Instant::now() && roll.has_changes();
        let renewal = self.renewal.as_mut().map(|renewal| &mut renewal.answer);
        let is_renewing = renewal.is_some();
        // The lease first: whatever atlas says, and however much there is to tell, must not hold it up.
        tokio::select! {
            biased;
            () = stop.cancelled() => Event::Stop,
            answer = when(renewal) => Event::Renewed(answer),
            () = sleep_until(self.renewal_due), if !is_renewing => Event::RenewalDue,
            found = when(self.walk.as_mut().map(|walk| &mut walk.walk)) => Event::Walked(found),
            heard = self.link.hear.next() => Event::Heard(heard),
            () = sleep_until(self.lull), if lingers => Event::News,
            () = roll.news(), if room && !lingers => Event::News,
        }
    }

    // --- saying

    /// Says what there is to say, as long as there is room for it.
    fn say(&mut self) -> Result<(), LinkError> {
        while self.unacknowledged.len() < self.terms.window
            && let Some(mut kind) = self.compose()
        {
            self.seq += 1;
            match &mut kind {
                Kind::Changes(changes) => changes.seq = self.seq,
                Kind::Buckets(buckets) => buckets.seq = self.seq,
                Kind::Hello(_) => {}
            }
            self.unacknowledged.push(self.seq);
            match self.link.tell.try_send(FromGateway { kind: Some(kind) }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    return Err(LinkError::new(Trouble::Broken, "what was said is not taken"));
                }
                // What is heard next says why.
                Err(TrySendError::Closed(_)) => return Ok(()),
            }
        }
        Ok(())
    }

    fn compose(&mut self) -> Option<Kind> {
        // Services first: they are few, and somebody waits for each.
        if let Some(kind) = self.compose_services() {
            return Some(kind);
        }
        let message = if self.whole_next {
            self.compose_whole().or_else(|| self.compose_changes())
        } else {
            self.compose_changes().or_else(|| self.compose_whole())
        };
        self.whole_next = !matches!(message, Some(Kind::Buckets(_)));
        message
    }

    fn compose_services(&mut self) -> Option<Kind> {
        let (most, version) = (self.terms.entries, self.source.roll().services());
        if self.services.is_told(version) {
            return None;
        }
        let here = self.source.services();
        let epochs = &mut self.memory.epochs;
        if self.services.is_whole() {
            let changes = self.services.changes(epochs, here, version, most)?;
            self.status.told(0, changes.services.len());
            return Some(Kind::Changes(changes));
        }
        let buckets = self.services.whole(epochs, here, most);
        self.status.told(buckets.service_buckets.len(), 0);
        Some(Kind::Buckets(buckets))
    }

    fn compose_changes(&mut self) -> Option<Kind> {
        if self.lull > Instant::now() {
            return None;
        }
        let (source, most) = (self.source, self.terms.entries);
        let (mut found, mut dropped) = (Vec::new(), Vec::new());
        source.roll().changes(&mut self.next, most, |edge| source.edge(edge), &mut found, &mut dropped);
        dropped.into_iter().for_each(|bucket| self.todo.insert(bucket));
        if found.is_empty() {
            return None;
        }
        if found.len() < most {
            self.lull = Instant::now() + LULL;
        }
        // Not below that of the session that has ended, and below that of any that comes and is told of later.
        let last = source.last_epoch();
        let edges = found.into_iter().map(|(id, here)| match here {
            Some(here) => edge(id, here),
            None => Edge { id, epoch: last, addr: Vec::new() },
        });
        let edges: Vec<Edge> = edges.collect();
        self.status.told(0, edges.len());
        Some(Kind::Changes(Changes { edges, ..Changes::default() }))
    }

    fn compose_whole(&mut self) -> Option<Kind> {
        let (source, most) = (self.source, self.terms.entries);
        loop {
            let Some(found) = &mut self.found else {
                if self.begin_walk() {
                    continue;
                }
                return None;
            };
            let (mut told, mut edge_buckets) = (Vec::new(), Vec::new());
            while let Some(bucket) = found.buckets.front().copied() {
                let many = found.edges.iter().take_while(|(of, _)| *of == bucket).count();
                if !told.is_empty() && told.len() + many > most {
                    break;
                }
                found.buckets.pop_front();
                let edges = found.edges.drain(..many).map(|(_, edge)| edge);
                if source.roll().whole(bucket, edges, |edge| source.edge(edge), &mut told) {
                    edge_buckets.push(u32::from(bucket));
                } else {
                    self.todo.insert(bucket);
                }
            }
            if found.buckets.is_empty() {
                self.found = None;
            }
            if !edge_buckets.is_empty() {
                self.status.told(edge_buckets.len(), 0);
                let edges = told.into_iter().map(|(id, here)| edge(id, here)).collect();
                return Some(Kind::Buckets(Buckets { edge_buckets, edges, ..Buckets::default() }));
            }
        }
    }

    /// Looks for the edges of the next buckets; true if that is done already, because there are none.
    fn begin_walk(&mut self) -> bool {
        if self.walk.is_some() {
            return false;
        }
        let (mut buckets, mut edges) = (VecDeque::new(), 0);
        for bucket in self.todo.iter() {
            // From before the walk on, so that it misses nothing.
            edges += u64::from(self.source.roll().follow(bucket));
            buckets.push_back(bucket);
            if edges >= WALK {
                break;
            }
        }
        if buckets.is_empty() {
            return false;
        }
        buckets.iter().for_each(|bucket| self.todo.remove(*bucket));
        if edges == 0 {
            self.found = Some(Found { buckets, edges: VecDeque::new() });
            return true;
        }
        let (source, set) = (Arc::clone(self.source), buckets.iter().copied().collect());
        self.walk = Some(Walk { buckets, walk: Box::pin(async move { source.walk(set).await }) });
        false
    }

    // --- the lease

    fn renew(&mut self) {
        self.renewal_due = Instant::now() + self.terms.renew;
        let digests = self.source.roll().digests();
        let request = RenewRequest {
            instance: self.instance.to_vec(),
            stream: self.terms.stream,
            edges: self.source.edges(),
            services: self.services.len() as u64,
            edge_digests: digests.into_iter().map(|(bucket, digest)| entry(bucket, digest)).collect(),
            service_digests: self.services.digests(),
            seq: self.seq,
        };
        let (renew, asking) = (Arc::clone(&self.link.renew), request.clone());
        let patience = self.terms.renew * 4 / 5;
        let answer = async move {
            timeout(patience, renew.renew(asking)).await.unwrap_or_else(|_| Err(Trouble::Timeout.into()))
        };
        self.renewal = Some(Renewal { asked: self.source.clock(), request, answer: Box::pin(answer) });
    }

    fn on_renewed(&mut self, answer: Result<RenewResponse, LinkError>) -> Result<(), LinkError> {
        let Some(renewal) = self.renewal.take() else { return Ok(()) };
        let error = match answer {
            Ok(RenewResponse { known: false, .. }) => return Err(Trouble::Forgotten.into()),
            Ok(answer) => {
                self.renewed = Instant::now();
                self.status.renewed();
                return self.memory.learn(&**self.source, renewal.asked, answer.time_ms);
            }
            Err(error) => error,
        };
        self.status.count(error.trouble);
        let edges =
            renewal.request.edge_digests.iter().filter_map(|digest| u16::try_from(digest.bucket).ok());
        self.source.roll().unsure(edges);
        self.services.unsure(&renewal.request.service_digests);
        let since = self.renewed.elapsed();
        let patience = match error.trouble {
            Trouble::Superseded | Trouble::Denied | Trouble::Invalid => Duration::ZERO,
            trouble if trouble.is_answer() => PATIENCE.max(self.terms.lease),
            _ => self.terms.lease,
        };
        let unrenewed = LinkError::new(Trouble::Unrenewed, error.to_string());
        if patience.is_zero() {
            return Err(error);
        } else if since >= patience {
            return Err(unrenewed);
        } else if since >= self.terms.lease {
            self.status.down(&unrenewed);
        }
        Ok(())
    }

    // --- hearing

    fn on_heard(&mut self, message: ToGateway) -> Result<(), LinkError> {
        match message.kind {
            Some(to_gateway::Kind::Ack(ack)) => {
                if ack.seq > self.seq {
                    return Err(LinkError::new(Trouble::Protocol, "it acknowledges what was not said"));
                }
                self.unacknowledged.retain(|seq| *seq != ack.seq);
                Ok(())
            }
            Some(to_gateway::Kind::Cut(cut)) => {
                for lost in cut.edges {
                    if self.source.cut(lost.id, lost.epoch) {
                        self.status.cut();
                    }
                }
                Ok(())
            }
            Some(to_gateway::Kind::Resync(resync)) => self.on_resync(&resync),
            Some(to_gateway::Kind::Welcome(_)) => Err(LinkError::new(Trouble::Protocol, "a second Welcome")),
            // Of a later version.
            None => Ok(()),
        }
    }

    fn on_resync(&mut self, resync: &Resync) -> Result<(), LinkError> {
        let bucket = |bucket: u32, buckets: u16| {
            let bucket = u16::try_from(bucket).ok().filter(|bucket| *bucket < buckets);
            bucket.ok_or_else(|| LinkError::new(Trouble::Protocol, "it wants a bucket that there is not"))
        };
        self.status.resynced();
        for wanted in &resync.edge_buckets {
            let bucket = bucket(*wanted, EDGE_BUCKETS)?;
            self.source.roll().forget(bucket);
            self.todo.insert(bucket);
        }
        for wanted in &resync.service_buckets {
            self.services.forget(bucket(*wanted, SERVICE_BUCKETS)?);
        }
        Ok(())
    }

    /// Ends what the gateway says and waits for atlas to do the same: it has ended the lease then.
    async fn leave(self) -> End {
        let Link { tell, mut hear, .. } = self.link;
        drop(tell);
        let ended = async { while let Some(Ok(_)) = hear.next().await {} };
        if timeout(FAREWELL, ended).await.is_err() {
            tracing::warn!("atlas did not confirm that the gateway leaves; its lease ends by itself");
        }
        self.source.roll().forget_all();
        End::Left
    }
}

/// An edge that is here, as it is sent.
fn edge(id: u64, here: Here) -> Edge {
    Edge { id, epoch: here.epoch, addr: addr(here.addr) }
}

/// What comes of something that may not be under way.
async fn when<T>(later: Option<&mut Later<T>>) -> T {
    match later {
        Some(later) => later.await,
        None => pending().await,
    }
}
