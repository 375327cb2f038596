//! Sources: what brokers have for edges.
//!
//! ```text
//!  broker ── Inflow ── take ──▶ desk (bounded) ── Parcel ──▶ Door ── edge
//!     ▲                          │  ▲                            │
//!     └── acknowledge, give back ┘  └────── Settle: done or not ◀┘
//!                                │
//!                                └── not done too often, or never: dead letter ──▶ Queue at the same broker, confirmed
//! ```
//! - [`Source`] is the handle. Its [`Door`] is whoever brings messages to edges, and says of each once what became of it.
//! - [`desk`] knows what was taken and decides; a broker hears that a message is settled only when that is so.
//! - [`driver`] connects, again and again; [`Origin`] and [`Inflow`] are what a new kind of broker implements.

mod amqp;
mod desk;
mod driver;
mod mail;
mod pipe;
mod redis;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use self::desk::{Desk, Grave};
use crate::{
    ConnectError, OpenError, Options, Queue, State,
    amqp::Amqp,
    config::{self, QueueKind},
    redis::Redis,
};

/// A connection that was told to end has so long to say so to its broker.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long a broker may take to confirm a dead letter.
const BURIAL: Duration = Duration::from_secs(10);

/// What a source may hold, and what becomes of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOptions {
    /// The name in metrics and logs.
    pub name: Arc<str>,
    /// The topic of messages that name none; empty = they must.
    pub topic: Arc<str>,
    /// Time that an edge has.
    pub done_timeout: Duration,
    /// Pause before a message is delivered again.
    pub retry_delay: Duration,
    /// Deliveries after which it is dead-lettered.
    pub max_deliveries: u32,
    /// Messages that are not settled.
    pub max_in_flight: usize,
    /// Bytes that they may have.
    pub max_in_flight_bytes: usize,
}

/// A message for an edge.
#[derive(Debug)]
pub struct Parcel {
    /// The edge.
    pub edge: u64,
    /// Its topic.
    pub topic: Arc<str>,
    /// What else came with it; values may be any bytes.
    pub headers: Vec<(String, Bytes)>,
    /// The body, untouched.
    pub body: Bytes,
    /// How long the edge has for its done.
    pub timeout: Duration,
    /// To be told once.
    pub settle: Settle,
}

/// Why an edge has not done a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It may another time.
    Again(&'static str),
    /// It never will: the message cannot be given to any edge.
    Never(&'static str),
}

/// Told once what became of a message; dropped, it says that the gateway has ended.
#[must_use]
pub struct Settle(Option<Tell>);

type Tell = Box<dyn FnOnce(Result<(), Undone>) + Send>;

/// Brings messages to edges.
pub trait Door: Send + Sync + 'static {
    /// Takes a message, without waiting. Those of one edge and topic are passed on in the order in which they are given.
    fn deliver(&self, parcel: Parcel);
}

/// Numbers of a source since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// Messages taken from the broker and not settled.
    pub in_flight: usize,
    /// Bytes that they have.
    pub in_flight_bytes: usize,
    /// Deliveries that the broker made.
    pub received: u64,
    /// Messages that edges have done.
    pub done: u64,
    /// Deliveries that were given back to the broker.
    pub returned: u64,
    /// Messages that the broker has confirmed as dead letters.
    pub dead_lettered: u64,
    /// Messages that were dropped.
    pub dropped: u64,
    /// Connections that came about.
    pub connected: u64,
}

/// A source of a broker. It closes when it is dropped, and what it had goes back.
pub struct Source {
    desk: Arc<Desk>,
    tasks: parking_lot::Mutex<JoinSet<()>>,
}

/// A kind of broker as a source.
pub(crate) trait Origin: Send + 'static {
    /// A connection to it.
    type Inflow: Inflow;

    /// The addresses to try, for people.
    fn addresses(&self) -> Vec<Arc<str>>;

    /// Connects to one of them and begins to consume. The future is dropped after [`crate::driver::CONNECT`].
    fn connect(
        &mut self,
        index: usize,
        desk: &Arc<Desk>,
    ) -> impl Future<Output = Result<Self::Inflow, ConnectError>> + Send;
}

/// A connection that messages come by.
pub(crate) trait Inflow: Send {
    /// Takes messages as there is room and carries out verdicts, until the connection is lost or the source closes; then what is written
    /// is flushed. Returns why it ended.
    fn run(self, desk: &Arc<Desk>) -> impl Future<Output = String> + Send;
}

/// Opens a source. Needs a tokio runtime; the broker may be down.
///
/// # Errors
/// When the configuration cannot be used.
pub fn open_source(config: &config::Source, door: Arc<dyn Door>) -> Result<Source, OpenError> {
    let options = SourceOptions {
        name: config.name.as_str().into(),
        topic: config.topic.as_str().into(),
        done_timeout: config.done_timeout,
        retry_delay: config.retry_delay,
        max_deliveries: config.max_deliveries,
        max_in_flight: config.max_in_flight,
        max_in_flight_bytes: config.max_in_flight_bytes.as_len(),
    };
    let kind =
        config.kind().ok_or_else(|| OpenError::Config("no kind of broker has addresses".to_owned()))?;
    let queue = config.queue();
    let grave = if config.dead_letter.is_empty() {
        None
    } else {
        // It holds what the source holds, and no more.
        let bounds = Options {
            name: "dead letters",
            max_in_flight: options.max_in_flight,
            max_in_flight_bytes: options.max_in_flight_bytes.saturating_mul(2),
            timeout: BURIAL,
        };
        let queue = match kind {
            QueueKind::Amqp => Queue::spawn(bounds, Amqp::new(&queue.amqp)),
            QueueKind::Redis => Queue::spawn(bounds, Redis::new(&queue.redis)),
            QueueKind::Kafka | QueueKind::Nats | QueueKind::Nsq => {
                return Err(OpenError::NotBuilt(kind.name()));
            }
        };
        Some(Grave { queue, destination: config.dead_letter.as_str().into() })
    };
    match kind {
        QueueKind::Amqp => Ok(Source::spawn(options, door, grave, amqp::Consumer::new(config))),
        QueueKind::Redis => Ok(Source::spawn(options, door, grave, redis::Group::new(config))),
        QueueKind::Kafka | QueueKind::Nats | QueueKind::Nsq => Err(OpenError::NotBuilt(kind.name())),
    }
}

// === impl Source ===

impl Source {
    fn spawn(options: SourceOptions, door: Arc<dyn Door>, grave: Option<Grave>, origin: impl Origin) -> Self {
        let desk = Arc::new(Desk::new(options, door, grave));
        let mut tasks = JoinSet::new();
        tasks.spawn(driver::run(origin, Arc::clone(&desk)));
        Self { desk, tasks: parking_lot::Mutex::new(tasks) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.desk.options.name
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.desk.state.borrow().clone()
    }

    /// Its state, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.desk.state.subscribe()
    }

    /// Its numbers.
    #[must_use]
    pub fn stats(&self) -> SourceStats {
        self.desk.stats()
    }

    /// Takes nothing more from the broker. What edges have goes on.
    pub fn stop(&self) {
        self.desk.stop();
    }

    /// Takes nothing more, waits until what edges have is settled, at most until the deadline, and closes: the broker has what is left.
    pub async fn close(&self, deadline: Instant) {
        self.desk.stop();
        self.desk.settled(deadline).await;
        self.desk.quit.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let ended = async { while tasks.join_next().await.is_some() {} };
        if timeout(GOODBYE, ended).await.is_err() {
            tasks.shutdown().await;
        }
        self.desk.close();
        if let Some(grave) = &self.desk.grave {
            grave.queue.close(Instant::now()).await;
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.desk.stop();
        self.desk.quit.cancel();
        self.desk.close();
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", self.name()).finish_non_exhaustive()
    }
}

// === impl Settle ===

impl Settle {
    /// Calls `tell`, which must neither block nor take long.
    pub(crate) fn new(tell: impl FnOnce(Result<(), Undone>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// Tells.
    pub fn tell(mut self, outcome: Result<(), Undone>) {
        if let Some(tell) = self.0.take() {
            tell(outcome);
        }
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(Err(Undone::Again("the gateway has ended")));
        }
    }
}

impl fmt::Debug for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settle")
    }
}
