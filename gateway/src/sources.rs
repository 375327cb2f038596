//! What brokers have for edges: from `mqm.sources` to the shards.
//!
//! ```text
//!  broker's connection ── Parcel ──▶ Gate ── Msg::Deliver ──▶ shard of the edge ──▶ edge
//!          ▲                                                          │
//!          └───────── done, or why not ◀── Settle ◀───────────────────┘
//! ```
//! A source reaches the edges of this gateway alone, so there are none where there is a cluster. A change of the file replaces those that have
//! changed: the old one takes nothing new and ends when what edges have is settled.

use std::sync::Arc;

use frontier_ops::{metrics::Family, readiness::Readiness};
use frontier_queues::{
    Door, OpenError, Parcel, Source, State, Undone,
    config::{self, Mqm},
    open_source,
};
use frontier_wire::error::ErrorCode;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    core::{
        Shared,
        delivery::{Delivery, Settle},
    },
    driver::Hub,
};

/// Why there are no sources in a cluster.
pub const CLUSTER: &str = "sources reach the edges of one gateway only, so they cannot be used with frontlas.enable; \
                           run them on a gateway without a cluster";

/// All sources of the gateway.
pub struct Sources {
    gate: Arc<Gate>,
    readiness: Readiness,
    state: Mutex<Inner>,
    runtime: Handle,
}

#[derive(Default)]
struct Inner {
    open: Vec<Open>,
    /// Those that were replaced, until what edges have is settled.
    closing: JoinSet<()>,
    /// Nothing is opened any more.
    closed: bool,
}

/// A source in use.
struct Open {
    config: config::Source,
    source: Source,
    _watch: AbortOnDropHandle<()>,
}

/// The way to the shards.
struct Gate {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
}

/// Why sources cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// One of them.
    #[error("mqm.sources: {name}: {error}")]
    Open {
        /// Which one.
        name: String,
        /// Why.
        #[source]
        error: OpenError,
    },
    /// The gateway runs in a cluster.
    #[error("mqm.sources: {CLUSTER}")]
    Cluster,
}

/// What a change of the configuration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sources that are new, or have a new connection.
    pub begun: Vec<String>,
    /// Sources that are no more, or have a new connection.
    pub ended: Vec<String>,
}

// === impl Sources ===

impl Sources {
    /// Opens the sources of a configuration. Whether their brokers are there does not matter.
    ///
    /// # Errors
    /// When the configuration cannot be used, whatever the brokers do.
    pub fn start(
        mqm: &Mqm,
        hub: &Arc<Hub>,
        shared: &Arc<Shared>,
        readiness: Readiness,
    ) -> Result<Arc<Self>, SourceError> {
        let gate = Arc::new(Gate { hub: Arc::clone(hub), shared: Arc::clone(shared) });
        let sources = Self { gate, readiness, state: Mutex::default(), runtime: Handle::current() };
        sources.replace(mqm)?;
        Ok(Arc::new(sources))
    }

    /// Goes over to another configuration: sources that are the same stay as they are. Says which have begun and which have ended.
    ///
    /// # Errors
    /// When it cannot be used. Then everything stays as it is.
    pub fn replace(&self, mqm: &Mqm) -> Result<Changes, SourceError> {
        // What the file says of a cluster does not matter: the one that the process is in does.
        if !mqm.sources.is_empty() && self.gate.shared.settings.cluster {
            return Err(SourceError::Cluster);
        }
        let mut state = self.state.lock();
        let mut changes = Changes::default();
        if state.closed {
            return Ok(changes);
        }
        let _entered = self.runtime.enter();
        let mut fresh = Vec::new();
        for config in &mqm.sources {
            if !state.open.iter().any(|open| open.config == *config) {
                changes.begun.push(config.name.clone());
                fresh.push(self.open(config)?);
            }
        }
        while state.closing.try_join_next().is_some() {}
        for open in std::mem::take(&mut state.open) {
            if mqm.sources.contains(&open.config) {
                fresh.push(open);
                continue;
            }
            changes.ended.push(open.config.name.clone());
            let deadline = Instant::now() + open.config.done_timeout;
            state.closing.spawn(async move { open.source.close(deadline).await });
        }
        state.open = fresh;
        Ok(changes)
    }

    fn open(&self, config: &config::Source) -> Result<Open, SourceError> {
        let door = Arc::clone(&self.gate) as Arc<dyn Door>;
        let source = open_source(config, door)
            .map_err(|error| SourceError::Open { name: config.name.clone(), error })?;
        let note = note_state(source.watch(), source.name().to_string(), self.readiness.clone());
        let watch = AbortOnDropHandle::new(self.runtime.spawn(note));
        Ok(Open { config: config.clone(), source, _watch: watch })
    }

    /// Takes nothing more from brokers. What edges have may still be done.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.open.iter().for_each(|open| open.source.stop());
    }

    /// Waits until what edges have is settled and brokers know it, at most until the deadline; then closes.
    pub async fn close(&self, deadline: Instant) {
        let (open, mut closing) = {
            let mut state = self.state.lock();
            state.closed = true;
            (std::mem::take(&mut state.open), std::mem::take(&mut state.closing))
        };
        for Open { source, .. } in open {
            closing.spawn_on(async move { source.close(deadline).await }, &self.runtime);
        }
        let all = async { while closing.join_next().await.is_some() {} };
        drop(timeout_at(deadline + std::time::Duration::from_secs(1), all).await);
    }

    /// The metrics.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let state = self.state.lock();
        families(state.open.iter().map(|open| &open.source))
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

// === impl Gate ===

impl Door for Gate {
    fn deliver(&self, parcel: Parcel) {
        let Parcel { edge, topic, headers, body, timeout, settle } = parcel;
        // Headers towards edges are text.
        let text = |(name, value): &'_ (String, _)| -> Option<(String, String)> {
            let value: &bytes::Bytes = value;
            Some((name.clone(), std::str::from_utf8(value).ok()?.to_owned()))
        };
        let headers: Vec<(String, String)> = headers.iter().filter_map(text).collect();
        let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let delivery = match Delivery::new(&self.shared, edge, &topic, pairs, body) {
            Ok(delivery) => delivery,
            Err(why) => return settle.tell(Err(Undone::Never(why))),
        };
        let micros = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        let settle = Settle::new(move |outcome| settle.tell(outcome.map_err(undone)));
        if let Some((shard, msg)) = delivery.post(&self.shared, micros, settle) {
            self.hub.post(shard, msg);
        }
    }
}

/// What an error of a delivery means to its broker.
const fn undone(code: ErrorCode) -> Undone {
    match code {
        ErrorCode::PayloadTooLarge => Undone::Never("longer than the edge takes"),
        ErrorCode::EdgeNotOnline => Undone::Again("edge not online"),
        ErrorCode::DeadlineExceeded => Undone::Again("no done in time"),
        ErrorCode::Overloaded => Undone::Again("the edge does not keep up"),
        ErrorCode::SessionClosed => Undone::Again("the edge has gone"),
        _ => Undone::Again("the edge answered with an error"),
    }
}

/// Shows people in `/readyz` that a source is not connected.
async fn note_state(mut states: watch::Receiver<State>, name: String, readiness: Readiness) {
    let part = format!("source {name}");
    let mut note = None;
    loop {
        let state = states.borrow_and_update().clone();
        // The new note first, or it would seem well for a moment.
        let next = match state {
            State::Up { .. } => None,
            State::Connecting => Some(readiness.degraded(part.clone(), "connecting")),
            State::Down { reason } => Some(readiness.degraded(part.clone(), reason.to_string())),
        };
        drop(std::mem::replace(&mut note, next));
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// All sources as metrics.
fn families<'a>(sources: impl Iterator<Item = &'a Source>) -> Vec<Family> {
    let mut up = Family::gauge("frontier_source_up", "Whether the broker of a source is connected");
    let mut in_flight =
        Family::gauge("frontier_source_in_flight", "Messages taken from a broker and not settled");
    let mut held = Family::gauge("frontier_source_held", "What those messages take").bytes();
    let mut connects = Family::counter("frontier_source_connects", "Connections to brokers that came about");
    let mut messages =
        Family::counter("frontier_source_messages", "Messages of brokers, by what became of them");
    for source in sources {
        let (stats, label) = (source.stats(), ("source", &**source.name()));
        up = up.named_row(&[label], source.state().is_up().into());
        in_flight = in_flight.named_row(&[label], stats.in_flight as u64);
        held = held.named_row(&[label], stats.in_flight_bytes as u64);
        connects = connects.named_row(&[label], stats.connected);
        let outcomes = [
            ("received", stats.received),
            ("done", stats.done),
            ("returned", stats.returned),
            ("dead_lettered", stats.dead_lettered),
            ("dropped", stats.dropped),
        ];
        for (outcome, count) in outcomes {
            messages = messages.named_row(&[label, ("outcome", outcome)], count);
        }
    }
    vec![up, in_flight, held, connects, messages]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use frontier_ops::{metrics::Metrics, readiness::Readiness};
    use frontier_queues::config::{Mqm, Source};

    use super::{SourceError, Sources, families};
    use crate::{
        core::{Settings, Shared, identity::OpenHouse},
        driver::Hub,
    };

    /// A file that leaves the cluster out does not take a running gateway out of it.
    #[tokio::test]
    async fn a_gateway_that_runs_in_a_cluster_opens_no_source_whatever_the_file_says_now() {
        let settings = Settings { cluster: true, ..Settings::default() };
        let shared = Arc::new(Shared::new(settings, 1, Arc::new(OpenHouse)));
        let hub = Hub::new(Vec::new(), Arc::clone(&shared));
        let sources = Sources::start(&Mqm::default(), &hub, &shared, Readiness::default()).unwrap();
        let mqm = Mqm { sources: vec![Source::default()], ..Mqm::default() };
        assert!(matches!(sources.replace(&mqm), Err(SourceError::Cluster)));
        assert!(sources.state.lock().open.is_empty());
    }

    #[test]
    fn every_metric_is_documented() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let document = std::fs::read_to_string(path).unwrap();
        let metrics = Metrics::new("frontier");
        metrics.register(|| families(std::iter::empty()));
        let text = metrics.encode().unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let ours: Vec<_> = types.filter(|(name, _)| name.starts_with("frontier_source")).collect();
        assert_eq!(ours.len(), 5);
        for (name, kind) in ours {
            let suffix = if kind == "counter" { "_total" } else { "" };
            assert!(document.contains(&format!("| `{name}{suffix}` | {kind} |")), "{name} ({kind})");
        }
    }
}
