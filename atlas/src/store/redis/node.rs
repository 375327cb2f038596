//! One server of the store, or the one that its sentinels call the master: connected to again whenever the connection is lost, and watched
//! meanwhile.
//!
//! ```text
//!        ┌───────────── backoff ◀──────────────────────────────┐
//!        ▼                                                     │ lost, silent, or not the master any more
//!   open a [`Link`] ──▶ track changes ──▶ publish it ──▶ watch ┘
//!                                                          │ 4 times a second: the marker
//!                                                          │ always: what others change
//! ```
//!
//! While there is no link, every call fails at once with what is known of why.
//!
//! The marker is a key with a random value. If it is gone, or another one, all was deleted: fred does not pass on what Redis says of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fred::prelude::{Error, Value};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::call::Call;
use super::errors::{is_silence, store_error};
use super::keys::{change, marker_key};
use super::link::{Heard, Link, Role};
use super::sentinel::Sentinels;
use super::settings::Address;
use crate::store::{Change, StoreError};

/// Between two looks at the marker, which are signs of life as well.
const LOOK: Duration = Duration::from_millis(250);
/// Between two questions to the sentinels.
const ASK: Duration = Duration::from_secs(1);
/// After a connection that held for so long, the next one is tried soon.
const STEADY: Duration = Duration::from_secs(5);
/// A server that refuses writes is left for another look at where the master is, but not more often than this.
const RESPITE: Duration = Duration::from_secs(2);
/// While a server cannot be reached, that is said so often.
const REMIND: Duration = Duration::from_secs(60);
/// No bucket lies on this server.
const NO_BUCKET: u32 = u32::MAX;

/// See the module documentation.
pub(super) struct Node {
    state: Arc<State>,
    /// Ends with this value.
    _task: AbortOnDropHandle<()>,
}

/// Where the server is.
pub(super) enum Finder {
    At(Address),
    Sentinels(Sentinels),
}

struct State {
    shared: Arc<Shared>,
    finder: Finder,
    link: RwLock<Option<Arc<Link>>>,
    /// Why there is no link.
    why: Mutex<StoreError>,
    /// Whether there is one.
    up: watch::Sender<bool>,
    suspect: Notify,
    bucket: AtomicU32,
}

// === impl Node ===

impl Node {
    /// Connects in the background. The marker lies beside the keys of this bucket.
    pub(super) fn start(shared: Arc<Shared>, finder: Finder, bucket: Option<u16>) -> Self {
        let state = Arc::new(State {
            shared,
            finder,
            link: RwLock::new(None),
            why: Mutex::new(StoreError::Unreachable("not connected yet".to_owned())),
            up: watch::Sender::new(false),
            suspect: Notify::new(),
            bucket: AtomicU32::new(bucket.map_or(NO_BUCKET, u32::from)),
        });
        let task = Handle::current().spawn(Arc::clone(&state).run());
        Self { state, _task: AbortOnDropHandle::new(task) }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.state.shared
    }

    /// The connection.
    pub(super) fn link(&self) -> Result<Arc<Link>, StoreError> {
        let link = self.state.link.read().clone();
        link.ok_or_else(|| self.state.why.lock().clone())
    }

    /// The connection, waited for if there is none.
    pub(super) async fn wait(&self, until: Instant) -> Result<Arc<Link>, StoreError> {
        let mut up = self.state.up.subscribe();
        let _ = tokio::time::timeout_at(until, up.wait_for(|up| *up)).await;
        self.link()
    }

    /// It took no writes: perhaps it is not the master any more.
    pub(super) fn suspect(&self) {
        self.state.suspect.notify_one();
    }

    /// Moves the marker beside the keys of this bucket.
    pub(super) fn mark_beside(&self, bucket: Option<u16>) {
        self.state.bucket.store(bucket.map_or(NO_BUCKET, u32::from), Ordering::Relaxed);
    }
}

// === impl State ===

impl State {
    async fn run(self: Arc<Self>) {
        let (least, most) = self.shared.settings.backoff;
        let mut pause = least;
        let mut said: Option<Instant> = None;
        loop {
            match self.open().await {
                Ok((address, link, heard)) => {
                    let since = Instant::now();
                    self.shared.count(|counters| &counters.opened);
                    tracing::info!(server.addr = %address, tracks = heard.is_some(), "connected to Redis");
                    said = None;
                    *self.link.write() = Some(Arc::clone(&link));
                    self.up.send_replace(true);
                    // Whatever was changed before, nobody heard of it.
                    let _ = self.shared.changes.send(Change::Everything);
                    let why = self.watch(&address, &link, heard, since).await;
                    *self.why.lock() = why.clone();
                    *self.link.write() = None;
                    self.up.send_replace(false);
                    self.shared.count(|counters| &counters.lost);
                    tracing::warn!(server.addr = %address, error = %why, "lost the connection to Redis");
                    // It may be another one that has its slots now.
                    self.shared.refresh.notify_one();
                    if since.elapsed() > STEADY {
                        pause = least;
                    }
                }
                Err(error) => {
                    self.shared.count(|counters| &counters.failed);
                    if said.is_none_or(|said| said.elapsed() > REMIND) {
                        tracing::warn!(server = %self.finder.name(), %error, "cannot connect to Redis");
                        said = Some(Instant::now());
                    }
                    *self.why.lock() = error;
                }
            }
            sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(most.max(least));
        }
    }

    async fn open(&self) -> Result<(Address, Arc<Link>, Option<Heard>), StoreError> {
        let settings = &self.shared.settings;
        let address = match &self.finder {
            Finder::At(address) => address.clone(),
            Finder::Sentinels(sentinels) => sentinels.master(settings).await?,
        };
        let (mut link, mut heard) = Link::open(settings, &address, Role::Data).await?;
        if matches!(self.finder, Finder::Sentinels(_)) {
            // Sentinels call it the master before it is.
            let role = link.plain("ROLE", Vec::new()).await.map_err(|error| store_error(&error))?;
            let role = role.into_array().into_iter().next().and_then(|role| role.as_string());
            if role.as_deref() != Some("master") {
                return Err(StoreError::Unreachable(format!("{address} is not a master yet")));
            }
        }
        let bucket = u16::try_from(self.bucket.load(Ordering::Relaxed)).unwrap_or_default();
        let tracks = link.track(&self.shared, &mut heard, bucket).await;
        if !tracks {
            self.shared.deaf.store(true, Ordering::Relaxed);
        }
        Ok((address, Arc::new(link), tracks.then_some(heard)))
    }

    /// Returns when the link is of no use any more, and why.
    async fn watch(
        &self,
        address: &Address,
        link: &Link,
        mut heard: Option<Heard>,
        since: Instant,
    ) -> StoreError {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut marker = None;
        let mut moved = Box::pin(self.moved(address));
        let unreachable = |why: &str| StoreError::Unreachable(why.to_owned());
        loop {
            tokio::select! {
                // The end first; then what is heard, which must not fill up.
                biased;
                () = link.over() => return unreachable("the connection was lost"),
                master = &mut moved => {
                    return StoreError::Unreachable(format!("the master is {master} now"));
                }
                change = hear(&mut heard, link) => {
                    for change in change {
                        let _ = self.shared.changes.send(change);
                    }
                }
                () = self.suspect.notified() => {
                    if since.elapsed() > RESPITE && !matches!(self.shared.settings.mode, super::Mode::Cluster { .. }) {
                        return StoreError::ReadOnly("a replica".to_owned());
                    }
                }
                _ = looks.tick() => {
                    if let Err(error) = self.look(link, &mut marker).await {
                        return store_error(&error);
                    }
                    if let Some(echoes) = link.echoes() {
                        echoes.tidy();
                    }
                }
            }
        }
    }

    /// Whether the server is alive and has its marker; all has changed if not.
    async fn look(&self, link: &Link, marker: &mut Option<(u32, String)>) -> Result<(), Error> {
        // What the server itself refuses (it is full, or the slot is elsewhere now) is no matter here.
        let alive = |answer: Result<Value, Error>| match answer {
            Err(error) if is_silence(&error) => Err(error),
            answer => Ok(answer.ok()),
        };
        let place = self.bucket.load(Ordering::Relaxed);
        let Ok(bucket) = u16::try_from(place) else {
            return alive(link.plain("PING", Vec::new()).await).map(drop);
        };
        let known = marker.take().filter(|(at, _)| *at == place).map(|(_, value)| value);
        let key = || marker_key(bucket);
        let Some(found) = alive(link.call(&Call::command("GET", key(), Vec::new())).await)? else {
            return Ok(());
        };
        let found = (!found.is_null()).then(|| found.as_string().unwrap_or_default());
        if known.is_some() && found != known {
            let _ = self.shared.changes.send(Change::Everything);
        }
        *marker = match found {
            Some(found) => Some((place, found)),
            None => {
                let value = format!("{:016x}", getrandom::u64().unwrap_or_default());
                let set = Call::command("SET", key(), vec![value.as_str().into(), "NX".into()]);
                let set = alive(link.call(&set).await)?;
                // If it was not set, somebody else was first, and it is read next time.
                set.is_some_and(|set| !set.is_null()).then_some((place, value))
            }
        };
        Ok(())
    }

    /// Returns when the sentinels call another server the master.
    async fn moved(&self, address: &Address) -> Address {
        let Finder::Sentinels(sentinels) = &self.finder else { return std::future::pending().await };
        loop {
            sleep(ASK).await;
            match sentinels.master(&self.shared.settings).await {
                Ok(master) if master != *address => return master,
                // Without sentinels the master is as good as before.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

// === impl Finder ===

impl Finder {
    fn name(&self) -> String {
        match self {
            Self::At(address) => address.to_string(),
            Self::Sentinels(sentinels) => sentinels.to_string(),
        }
    }
}

/// What others changed.
async fn hear(heard: &mut Option<Heard>, link: &Link) -> Vec<Change> {
    let Some(heard) = heard else { return std::future::pending().await };
    match heard.recv().await {
        Ok(invalidation) => {
            let keys = invalidation.keys.iter().filter_map(|key| key.as_str());
            let foreign = |key: &&str| !link.echoes().is_some_and(|echoes| echoes.is_own(key));
            keys.filter(foreign).filter_map(change).collect()
        }
        Err(broadcast::error::RecvError::Lagged(_)) => vec![Change::Everything],
        // The end of the connection is told elsewhere.
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}

/// Between half of it and all of it.
fn jittered(pause: Duration) -> Duration {
    let share = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}
