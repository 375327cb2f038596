//! External message queues: from the block `mqm` to what shards hand messages to.
//!
//! ```text
//!  mqm ──▶ Queues ── offers (topics, patterns) ──▶ registry ──▶ shards ── Letter ──▶ Outlet ── Message ──▶ broker's driver
//!                                                    ▲                                                          │
//!                                                    └──────── Msg::Confirmed ◀── inbox ◀── Done ◀──────────────┘
//! ```
//! A block is one queue. A broker that is away keeps nobody from starting or serving; it is a note in `/readyz`, a number and a line in
//! the log of its driver. A change of the file replaces the queues whose block has changed: the old one takes nothing new, confirms what
//! it has and closes.

mod outlet;
mod stats;
mod template;

use std::{sync::Arc, time::Duration};

use frontier_ops::{metrics::Family, readiness::Readiness};
use frontier_queues::{
    Queue, State,
    config::{Mqm, QueueKind, Takes},
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

pub use self::template::{Template, TemplateError};
use self::{outlet::BrokerOutlet, stats::Tally};
use crate::{
    core::{
        Shared,
        exchange::mix,
        outlet::{Offer, Outlet},
        topic::TopicPattern,
    },
    driver::Hub,
};

/// A queue that is replaced has so long to confirm what it has.
const REPLACED: Duration = Duration::from_secs(60);

/// All queues of the gateway.
pub struct Queues {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    readiness: Readiness,
    state: Mutex<Inner>,
    runtime: Handle,
}

#[derive(Default)]
struct Inner {
    /// Queues that were ever opened.
    numbered: u32,
    mqm: Mqm,
    open: Vec<Open>,
    /// Those that were replaced, until they have confirmed what they have.
    closing: JoinSet<()>,
}

/// A queue in use.
struct Open {
    takes: Takes,
    offer: Offer,
    queue: Queue,
    tally: Arc<Tally>,
    _watch: AbortOnDropHandle<()>,
}

/// Why queues cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue itself.
    #[error("mqm.{name}: {error}", name = kind.name())]
    Open {
        /// Which one.
        kind: QueueKind,
        /// Why.
        #[source]
        error: frontier_queues::OpenError,
    },
    /// What it takes.
    #[error("mqm.{name}: {why}", name = kind.name())]
    Takes {
        /// Which one.
        kind: QueueKind,
        /// Why.
        why: String,
    },
}

// === impl Queues ===

impl Queues {
    /// Opens the queues of a configuration. Whether their brokers are there does not matter.
    ///
    /// # Errors
    /// When the configuration cannot be used, whatever the brokers do.
    pub fn start(
        mqm: &Mqm,
        hub: &Arc<Hub>,
        shared: &Arc<Shared>,
        readiness: Readiness,
    ) -> Result<Arc<Self>, QueueError> {
        let queues = Arc::new(Self {
            hub: Arc::clone(hub),
            shared: Arc::clone(shared),
            readiness,
            state: Mutex::default(),
            runtime: Handle::current(),
        });
        queues.replace(mqm)?;
        Ok(queues)
    }

    /// Goes over to another configuration: queues whose block is the same stay connected, and topics that go there stay there. Says
    /// which have begun and which have ended.
    ///
    /// # Errors
    /// When it cannot be used. Then everything stays as it is.
    pub fn replace(&self, mqm: &Mqm) -> Result<Changes, QueueError> {
        let mut state = self.state.lock();
        let mut changes = Changes::default();
        let mut fresh = Vec::new();
        let mut stays = Vec::new();
        for takes in mqm.queues() {
            let kind = takes.kind;
            let old =
                state.open.iter().position(|open| open.takes.kind == kind && same(kind, &state.mqm, mqm));
            match old {
                Some(at) => stays.push(at),
                None => {
                    changes.begun.push(kind.name());
                    state.numbered += 1;
                    fresh.push(self.open(mqm, takes, state.numbered)?);
                }
            }
        }
        let mut ended = Vec::new();
        for (at, open) in std::mem::take(&mut state.open).into_iter().enumerate() {
            if stays.contains(&at) { &mut fresh } else { &mut ended }.push(open);
        }
        state.open = fresh;
        state.mqm = mqm.clone();
        self.shared.registry.set_queues(state.open.iter().map(|open| open.offer.clone()).collect());
        let _entered = self.runtime.enter();
        while state.closing.try_join_next().is_some() {}
        for Open { takes, queue, .. } in ended {
            changes.ended.push(takes.kind.name());
            let deadline = Instant::now() + REPLACED;
            state.closing.spawn(async move { queue.close(deadline).await });
        }
        Ok(changes)
    }

    fn open(&self, mqm: &Mqm, takes: Takes, number: u32) -> Result<Open, QueueError> {
        let kind = takes.kind;
        let wrong = |why: String| QueueError::Takes { kind, why };
        let template = Template::parse(&takes.choice.map).map_err(|error| wrong(error.to_string()))?;
        let parse =
            |text: &String| TopicPattern::parse(text).map_err(|error| wrong(format!("{text:?}: {error}")));
        let patterns = takes.choice.patterns.iter().map(parse).collect::<Result<_, _>>()?;
        let queue = {
            let _entered = self.runtime.enter();
            frontier_queues::open(mqm, kind).map_err(|error| QueueError::Open { kind, error })?
        };
        let tally = Arc::new(Tally::new(kind.name(), &takes.topics));
        let outlet = BrokerOutlet::new(queue.clone(), Arc::clone(&self.hub), template, Arc::clone(&tally));
        // By its name alone, so that gateways with the same queues agree on who gets what.
        let key = kind.name().bytes().fold(0, |key, byte| mix(key ^ u64::from(byte)));
        let offer = Offer {
            number,
            key,
            outlet: Arc::new(outlet) as Arc<dyn Outlet>,
            topics: takes.topics.clone(),
            patterns,
        };
        let note = note_state(queue.clone(), self.readiness.clone());
        let watch = AbortOnDropHandle::new(self.runtime.spawn(note));
        Ok(Open { takes, offer, queue, tally, _watch: watch })
    }

    /// Waits until everything handed over is confirmed, at most until the deadline; then closes.
    pub async fn close(&self, deadline: Instant) {
        let (open, mut closing) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.open), std::mem::take(&mut state.closing))
        };
        let left: usize = open.iter().map(|open| open.queue.stats().in_flight).sum();
        if left > 0 {
            tracing::info!(messages = left, "waiting for queues to confirm");
        }
        for Open { queue, .. } in open {
            let close = async move { queue.close(deadline).await };
            closing.spawn_on(close, &self.runtime);
        }
        // Those that were replaced may have longer than there is now.
        let all = async { while closing.join_next().await.is_some() {} };
        drop(timeout_at(deadline + Duration::from_secs(1), all).await);
    }

    /// The metrics.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let state = self.state.lock();
        stats::families(state.open.iter().map(|open| (&open.queue, &*open.tally)))
    }
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

/// What a change of the configuration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Queues that are new, or have a new connection.
    pub begun: Vec<&'static str>,
    /// Queues that are no more, or have a new connection.
    pub ended: Vec<&'static str>,
}

/// Whether a block is the same in two configurations.
fn same(kind: QueueKind, one: &Mqm, other: &Mqm) -> bool {
    match kind {
        QueueKind::Kafka => one.kafka == other.kafka,
        QueueKind::Amqp => one.amqp == other.amqp,
        QueueKind::Nats => one.nats == other.nats,
        QueueKind::Nsq => one.nsq == other.nsq,
        QueueKind::Redis => one.redis == other.redis,
    }
}

/// Shows people in `/readyz` that a queue is not connected.
async fn note_state(queue: Queue, readiness: Readiness) {
    let (mut states, part) = (queue.watch(), format!("queue {}", queue.name()));
    // This must not be what keeps the queue open.
    drop(queue);
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

/// What is wrong with what a queue takes, with the key it stands under.
pub fn problems(takes: &Takes) -> Vec<(&'static str, String)> {
    /// Bytes of the longest topic that is looked up by name.
    const LONGEST: usize = 255;
    let mut problems = Vec::new();
    for topic in takes.topics.iter().filter(|topic| topic.len() > LONGEST) {
        problems.push(("topics", format!("{:.40}… is longer than {LONGEST} bytes", topic)));
    }
    for pattern in &takes.choice.patterns {
        if let Err(error) = TopicPattern::parse(pattern) {
            problems.push(("patterns", format!("{pattern:?}: {error}")));
        }
    }
    if let Err(error) = Template::parse(&takes.choice.map) {
        problems.push(("map", error.to_string()));
    }
    problems
}
