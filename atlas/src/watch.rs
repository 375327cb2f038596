//! What changes in the cluster, told to whoever watches.
//!
//! While somebody watches edges, a mirror of what clients may see is kept: buckets that this atlas writes or that others change are read again,
//! some every tick, and what differs goes into a log of bounded length. Gateways are looked at every second. Each watcher reads the log
//! at its own pace; who falls behind its beginning gets a new snapshot instead of what it missed, so a watcher that reads slowly costs nobody
//! anything. A minute after the last watcher has gone nothing is kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use frontier_api::bucket::EDGE_BUCKETS;
use frontier_api::cluster::{Edge, Frontier, WatchRequest, WatchResponse, watch_response::Kind};
use parking_lot::Mutex;
use tokio::select;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api;
use crate::directory::{self, Directory, names};
use crate::record::Instance;
use crate::store::{Change, Gateway, Store, StoreError};

/// How often buckets are read again that have changed.
const TICK: Duration = Duration::from_millis(100);

/// Buckets read in a tick: all of them in 1.7 s.
const STEP: usize = 1_000;

/// How often gateways are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Entries of one message.
const ENTRIES: usize = 1_000;

/// Changes that are remembered for those who lag behind: some seconds of a busy cluster, some ten MiB.
const LOG: usize = 65_536;

/// How long everything is kept after the last watcher has gone: it may only have lost its connection.
const LINGER: Duration = Duration::from_secs(60);

/// A snapshot waits so long for the store.
const PATIENCE: Duration = Duration::from_secs(30);

/// An atlas that has not read the store for so long sends its watchers to another one: what it could tell them is nothing.
const LOST: Duration = Duration::from_secs(5);

/// See the module documentation.
#[derive(Debug)]
pub struct Watchers<S> {
    store: Arc<S>,
    directory: Arc<Directory<S>>,
    most: usize,
    watching: AtomicUsize,
    watching_edges: AtomicUsize,
    /// Edges are mirrored.
    mirroring: AtomicBool,
    state: Mutex<State>,
    news: watch::Sender<News>,
    draining: CancellationToken,
}

/// What watchers wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    /// The number of the next change.
    next: u64,
    /// What is kept is whole.
    whole: bool,
    /// The store cannot be read any more.
    lost: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Of this run of the mirror: a watcher of another one begins anew.
    run: u64,
    log: VecDeque<Event>,
    /// The number of the first change in the log.
    first: u64,
    gateways: BTreeMap<Instance, Frontier>,
    /// By bucket; empty while nobody watches edges.
    edges: Vec<BTreeMap<u64, Edge>>,
    /// Buckets to be read again.
    touched: BTreeSet<u16>,
    /// Gateways, and edges if they are watched, were read once.
    whole: (bool, bool),
}

#[derive(Clone, Debug, PartialEq)]
enum Event {
    GatewayPut(Frontier),
    GatewayGone(Frontier),
    EdgePut(Edge),
    EdgeGone(Edge),
}

/// Somebody who watches.
#[derive(Debug)]
pub struct Watcher<S: Store> {
    watchers: Arc<Watchers<S>>,
    wants: Wants,
    at: Position,
    news: watch::Receiver<News>,
    /// The store could not be read when the last step was made.
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wants {
    gateways: bool,
    edges: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Nothing was told yet.
    Begin,
    /// A snapshot is being told, from this bucket on; then the log from this change of this run on.
    Snapshot { bucket: u16, run: u64, next: u64 },
    /// Everything before this change of this run was told.
    Log { run: u64, next: u64, current: bool },
}

// === impl Watchers ===

impl<S: Store> Watchers<S> {
    /// At most `most` at once; [`keep`](Self::keep) must run as long as there may be any.
    #[must_use]
    pub fn new(store: Arc<S>, directory: Arc<Directory<S>>, most: usize) -> Self {
        Self {
            store,
            directory,
            most,
            watching: AtomicUsize::new(0),
            watching_edges: AtomicUsize::new(0),
            mirroring: AtomicBool::new(false),
            state: Mutex::default(),
            news: watch::Sender::new(News::default()),
            draining: CancellationToken::new(),
        }
    }

    /// Begins to watch.
    ///
    /// # Errors
    /// When nothing is asked for, or too many watch already.
    pub fn watch(self: &Arc<Self>, request: &WatchRequest) -> Result<Watcher<S>, Status> {
        let wants = Wants { gateways: request.frontiers, edges: request.edges };
        if !wants.gateways && !wants.edges {
            return Err(Status::invalid_argument("watch frontiers, edges or both"));
        }
        if self.draining.is_cancelled() {
            return Err(Status::unavailable("this atlas is shutting down"));
        }
        let more = |now: usize| (now < self.most).then_some(now + 1);
        if self.watching.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(Status::resource_exhausted("as many watch as may"));
        }
        self.watching_edges.fetch_add(usize::from(wants.edges), Ordering::Relaxed);
        let at = resumed(&request.resume).unwrap_or(Position::Begin);
        Ok(Watcher { watchers: Arc::clone(self), wants, at, news: self.news.subscribe(), lost: false })
    }

    /// Who watches now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watching.load(Ordering::Relaxed)
    }

    /// Whether nobody watches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all, and takes no others.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// This atlas has written these buckets of edges: others' changes are heard of by themselves.
    pub fn touch(&self, buckets: impl IntoIterator<Item = u16>) {
        if self.mirroring.load(Ordering::Relaxed) {
            self.state.lock().touched.extend(buckets);
        }
    }

    /// Follows the store; ends never.
    pub async fn keep(&self) {
        let mut changes = self.store.changes();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looked, mut deaf) = (None::<Instant>, false);
        // When the store could be read last, since somebody watches.
        let mut read = None::<Instant>;
        // When somebody watched anything, and edges.
        let mut watched = [None::<Instant>; 2];
        loop {
            select! {
                // The ticks first: however much changes, it is read in its time.
                biased;
                _ = ticks.tick() => {
                    let now = Instant::now();
                    for (watched, counter) in watched.iter_mut().zip([&self.watching, &self.watching_edges]) {
                        if counter.load(Ordering::Relaxed) > 0 {
                            *watched = Some(now);
                        } else if watched.is_some_and(|last| last + LINGER <= now) {
                            *watched = None;
                        }
                    }
                    self.mirroring.store(watched[1].is_some(), Ordering::Relaxed);
                    if watched[0].is_none() {
                        self.forget();
                        // Nobody looks any more, so nobody knows.
                        self.lost(false);
                        (looked, read) = (None, None);
                        continue;
                    }
                    let begun = *read.get_or_insert(now);
                    // Between two looks there may be nothing to be read, which says nothing of the store.
                    let looks =
                        looked.is_none_or(|looked| looked.elapsed() >= LOOK) || !self.state.lock().whole.0;
                    let mut done = Ok(());
                    if looks {
                        looked = Some(now);
                        done = self.look().await;
                    }
                    if done.is_ok() {
                        done = self.read().await;
                    }
                    match done {
                        Ok(()) if looks || now.elapsed() >= LOOK => read = Some(Instant::now()),
                        Ok(()) => {}
                        Err(error) => tracing::debug!(%error, "cannot read what has changed"),
                    }
                    self.lost(read.unwrap_or(begun).elapsed() >= LOST);
                }
                change = changes.recv(), if !deaf => match change {
                    Ok(Change::Edges(bucket)) => self.touch([bucket]),
                    Ok(Change::Services(_) | Change::Members | Change::Cuts(_)) => {}
                    Ok(Change::Everything) | Err(RecvError::Lagged(_)) => self.touch(0..EDGE_BUCKETS),
                    Err(RecvError::Closed) => deaf = true,
                },
            }
        }
    }

    /// Nobody watches: nothing is kept.
    fn forget(&self) {
        let mut state = self.state.lock();
        if state.whole != (false, false) || !state.edges.is_empty() {
            *state = State { run: state.run, ..State::default() };
            self.news.send_replace(News::default());
        }
    }

    /// Compares the gateways with what was told of them.
    async fn look(&self) -> Result<(), StoreError> {
        let roster = self.directory.roster().await?;
        let names = names(&roster);
        let now: BTreeMap<Instance, Frontier> = names
            .into_iter()
            .filter_map(|(instance, frontier_id)| {
                let gateway = roster.living(instance)?.gateway.clone();
                Some((instance, api::frontier(Gateway { frontier_id, ..gateway })))
            })
            .collect();
        let mut state = self.state.lock();
        state.begin();
        let before = std::mem::replace(&mut state.gateways, now.clone());
        // What the edges' gateway is called now, if that has changed.
        let mut renamed = BTreeMap::new();
        for (instance, frontier) in &before {
            let after = now.get(instance);
            if after != Some(frontier) {
                state.push(Event::GatewayGone(frontier.clone()));
                let name = after.map(|after| after.frontier_id.as_str());
                if name != Some(&frontier.frontier_id) {
                    renamed.insert(frontier.frontier_id.as_str(), name);
                }
            }
        }
        // At once: to read all buckets again takes seconds.
        state.rename(&renamed);
        for (instance, frontier) in &now {
            if before.get(instance) != Some(frontier) {
                state.push(Event::GatewayPut(frontier.clone()));
            }
        }
        // Who has come, or come back, may have edges there already.
        if now.keys().any(|instance| !before.contains_key(instance)) && !state.edges.is_empty() {
            state.touched.extend(0..EDGE_BUCKETS);
        }
        state.whole.0 = true;
        self.tell(&state);
        Ok(())
    }

    /// Reads buckets that have changed, and at first all.
    async fn read(&self) -> Result<(), StoreError> {
        let some: Vec<u16> = {
            let mut state = self.state.lock();
            if !self.mirroring.load(Ordering::Relaxed) {
                if !state.edges.is_empty() {
                    // The log has changes of edges that will miss others: a new run.
                    let run = state.run;
                    *state = State { run, ..State::default() };
                }
                return Ok(());
            }
            if state.edges.is_empty() {
                // Whoever watched gateways goes on; what was said of edges before is of another run.
                state.begin();
                state.edges = vec![BTreeMap::new(); usize::from(EDGE_BUCKETS)];
                state.touched = (0..EDGE_BUCKETS).collect();
                state.whole.1 = false;
            }
            // The first time in large steps: somebody waits.
            let step = if state.whole.1 { STEP } else { 4 * STEP };
            state.touched.iter().copied().take(step).collect()
        };
        if !some.is_empty() {
            // Those of the last look, not of now: a lease that lapses and comes back between two looks would hide edges, and no look would
            // find that anything has changed.
            let gateways = {
                let mut state = self.state.lock();
                state.touched.retain(|bucket| some.binary_search(bucket).is_err());
                state.gateways.clone()
            };
            let read = self.store.edge_buckets(&some).await;
            let read = read.inspect_err(|_| self.state.lock().touched.extend(some.iter().copied()))?;
            for (bucket, records) in some.iter().zip(read) {
                let seen = |(id, record): (u64, crate::record::EdgeRecord)| {
                    let frontier_id = gateways.get(&record.claim.instance)?.frontier_id.clone();
                    Some((id, api::edge(&directory::Edge { id, record, frontier_id })))
                };
                let now = records.into_iter().filter_map(seen).collect();
                self.state.lock().replace(*bucket, now);
            }
        }
        let mut state = self.state.lock();
        if state.touched.is_empty() && !state.edges.is_empty() {
            state.whole.1 = true;
        }
        self.tell(&state);
        Ok(())
    }

    fn tell(&self, state: &State) {
        let edges = !self.mirroring.load(Ordering::Relaxed) || state.whole.1;
        let (next, whole) = (state.next(), state.whole.0 && edges);
        self.news.send_if_modified(|last| {
            let news = News { next, whole, ..*last };
            std::mem::replace(last, news) != news
        });
    }

    fn lost(&self, lost: bool) {
        self.news.send_if_modified(|last| std::mem::replace(&mut last.lost, lost) != lost);
    }
}

// === impl State ===

impl State {
    /// A run that has not begun gets its number.
    fn begin(&mut self) {
        if self.first == 0 {
            self.first = 1;
            // Random, so that a token of another atlas, or of before a restart, is of another run.
            let mut run = [0; 8];
            let drawn = getrandom::fill(&mut run).is_ok();
            self.run = if drawn { u64::from_ne_bytes(run) } else { self.run.wrapping_add(1) };
        }
    }

    /// The number of the next change.
    fn next(&self) -> u64 {
        self.first + self.log.len() as u64
    }

    fn push(&mut self, event: Event) {
        append(&mut self.log, &mut self.first, event);
    }

    /// Gateways are called otherwise, or are gone, and what they have with them.
    fn rename(&mut self, renamed: &BTreeMap<&str, Option<&str>>) {
        if renamed.is_empty() {
            return;
        }
        let Self { edges, log, first, .. } = self;
        for bucket in edges {
            bucket.retain(|_, edge| match renamed.get(edge.frontier_id.as_str()) {
                None => true,
                Some(None) => {
                    append(log, first, Event::EdgeGone(edge.clone()));
                    false
                }
                Some(Some(name)) => {
                    edge.frontier_id = (*name).to_owned();
                    append(log, first, Event::EdgePut(edge.clone()));
                    true
                }
            });
        }
    }

    /// This is in a bucket now.
    fn replace(&mut self, bucket: u16, now: BTreeMap<u64, Edge>) {
        let Some(place) = self.edges.get_mut(usize::from(bucket)) else { return };
        let before = std::mem::replace(place, now);
        let now = self.edges.get(usize::from(bucket)).cloned().unwrap_or_default();
        for (id, edge) in &before {
            if !now.contains_key(id) {
                self.push(Event::EdgeGone(edge.clone()));
            }
        }
        for (id, edge) in now {
            if before.get(&id) != Some(&edge) {
                self.push(Event::EdgePut(edge));
            }
        }
    }
}

// === impl Watcher ===

impl<S: Store> Watcher<S> {
    /// The next message; waits for one.
    ///
    /// # Errors
    /// When this atlas goes down, or cannot read the store.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        loop {
            if let Some(message) = self.step() {
                return Ok(Some(message));
            }
            // As the step saw it: what comes behind that wakes whoever waits below.
            if self.lost {
                return Err(Status::unavailable("the store cannot be reached"));
            }
            let draining = self.watchers.draining.clone();
            let waits_for_snapshot = self.at == Position::Begin;
            let changed = async {
                if waits_for_snapshot {
                    let news = timeout(PATIENCE, self.news.changed()).await;
                    news.map_err(|_| Status::unavailable("the store cannot be reached"))
                } else {
                    Ok(self.news.changed().await)
                }
            };
            select! {
                biased;
                () = draining.cancelled() => return Err(Status::unavailable("this atlas is shutting down")),
                // What is watched lives as long as its watchers.
                changed = changed => drop(changed?),
            }
        }
    }

    /// What can be told now.
    fn step(&mut self) -> Option<WatchResponse> {
        let News { whole, lost, .. } = *self.news.borrow_and_update();
        self.lost = lost;
        let watchers = Arc::clone(&self.watchers);
        let state = watchers.state.lock();
        let whole = whole && state.whole.0 && (!self.wants.edges || state.whole.1);
        match self.at {
            // Nothing is told before it can be told whole.
            _ if !whole => None,
            // Nobody begins with what was read long ago; who is there already is told all of it first.
            Position::Begin if lost => None,
            Position::Begin => {
                self.at = Position::Snapshot { bucket: 0, run: state.run, next: state.next() };
                let mut message = message(Kind::Reset, self.at);
                if self.wants.gateways {
                    // Together with the snapshot's begin: they are few.
                    message.frontiers = state.gateways.values().cloned().collect();
                }
                Some(message)
            }
            Position::Snapshot { run, .. } | Position::Log { run, .. } if run != state.run => {
                self.restart(state)
            }
            Position::Snapshot { bucket, run, next } => Some(self.snapshot(&state, bucket, run, next)),
            Position::Log { next, .. } if next < state.first || next > state.next() => self.restart(state),
            Position::Log { run, next, current } => self.log(&state, run, next, current),
        }
    }

    fn restart(&mut self, state: parking_lot::MutexGuard<'_, State>) -> Option<WatchResponse> {
        drop(state);
        self.at = Position::Begin;
        self.step()
    }

    /// Some of the snapshot's edges.
    fn snapshot(&mut self, state: &State, mut bucket: u16, run: u64, next: u64) -> WatchResponse {
        let mut edges = Vec::new();
        if self.wants.edges {
            while bucket < EDGE_BUCKETS && edges.len() < ENTRIES {
                let place = state.edges.get(usize::from(bucket));
                edges.extend(place.into_iter().flat_map(|edges| edges.values().cloned()));
                bucket += 1;
            }
        } else {
            bucket = EDGE_BUCKETS;
        }
        self.at = if bucket < EDGE_BUCKETS {
            Position::Snapshot { bucket, run, next }
        } else {
            Position::Log { run, next, current: false }
        };
        WatchResponse { edges, ..message(Kind::Put, self.at) }
    }

    /// What has changed since: as many changes of one kind as follow each other.
    fn log(&mut self, state: &State, run: u64, mut next: u64, current: bool) -> Option<WatchResponse> {
        let mut told = message(Kind::Unspecified, self.at);
        while let Some(event) = state.log.get(usize::try_from(next - state.first).unwrap_or(usize::MAX)) {
            let wanted = match event {
                Event::GatewayPut(_) | Event::GatewayGone(_) => self.wants.gateways,
                Event::EdgePut(_) | Event::EdgeGone(_) => self.wants.edges,
            };
            if wanted {
                let kind = match event {
                    Event::GatewayPut(_) | Event::EdgePut(_) => Kind::Put,
                    Event::GatewayGone(_) | Event::EdgeGone(_) => Kind::Remove,
                };
                let full = told.frontiers.len() + told.edges.len() >= ENTRIES;
                if full || (told.kind() != Kind::Unspecified && told.kind() != kind) {
                    break;
                }
                told.set_kind(kind);
                match event.clone() {
                    Event::GatewayPut(frontier) | Event::GatewayGone(frontier) => {
                        told.frontiers.push(frontier)
                    }
                    Event::EdgePut(edge) | Event::EdgeGone(edge) => told.edges.push(edge),
                }
            }
            next += 1;
        }
        if told.kind() != Kind::Unspecified {
            self.at = Position::Log { run, next, current };
            told.resume = token(self.at);
            return Some(told);
        }
        // All was told: said once, after the snapshot.
        self.at = Position::Log { run, next, current: true };
        (!current).then(|| message(Kind::Current, self.at))
    }
}

impl<S: Store> Drop for Watcher<S> {
    fn drop(&mut self) {
        self.watchers.watching_edges.fetch_sub(usize::from(self.wants.edges), Ordering::Relaxed);
        self.watchers.watching.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds a change to a log; the oldest one goes if it is full.
fn append(log: &mut VecDeque<Event>, first: &mut u64, event: Event) {
    if log.len() >= LOG {
        log.pop_front();
        *first += 1;
    }
    log.push_back(event);
}

fn message(kind: Kind, at: Position) -> WatchResponse {
    WatchResponse { kind: kind.into(), resume: token(at), ..WatchResponse::default() }
}

/// 17 bytes: the run, the next change, and whether the snapshot was whole. A snapshot that was broken off begins anew.
fn token(at: Position) -> Vec<u8> {
    match at {
        Position::Begin | Position::Snapshot { .. } => Vec::new(),
        Position::Log { run, next, current } => {
            [&run.to_be_bytes()[..], &next.to_be_bytes(), &[u8::from(current)]].concat()
        }
    }
}

fn resumed(token: &[u8]) -> Option<Position> {
    let (run, rest) = token.split_first_chunk::<8>()?;
    let (next, rest) = rest.split_first_chunk::<8>()?;
    let &[current] = rest else { return None };
    let (run, next) = (u64::from_be_bytes(*run), u64::from_be_bytes(*next));
    Some(Position::Log { run, next, current: current == 1 })
}

#[cfg(test)]
mod tests;
