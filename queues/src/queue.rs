//! The handle of a queue.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    Broker, Done, Kind, Message, PublishError, State, amqp,
    config::{Mqm, QueueKind},
    driver,
    flights::Flights,
    nats, nsq, redis,
};

/// What a queue may hold, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name in metrics and logs.
    pub name: &'static str,
    /// Messages that may wait for the broker; more are refused as overloaded.
    pub max_in_flight: usize,
    /// Bytes that they may have.
    pub max_in_flight_bytes: usize,
    /// Longest time that a message waits, whatever its own deadline.
    pub timeout: Duration,
}

/// Numbers of a queue since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that wait for the broker now.
    pub in_flight: usize,
    /// Bytes that they have.
    pub in_flight_bytes: usize,
    /// Messages that the broker confirmed in time.
    pub confirmed: u64,
    /// Messages that failed, by [`Kind::index`].
    pub failed: [u64; Kind::ALL.len()],
    /// Answers of the broker that came after the deadline of their message.
    pub late: u64,
    /// Messages that were sent again after a loss; the broker may have copies.
    pub resent: u64,
    /// Connections that came about.
    pub connected: u64,
}

/// A queue of a broker. Cheap to clone; the last one to go closes it.
#[derive(Clone)]
pub struct Queue {
    flights: Arc<Flights>,
    /// Aborted with the last handle.
    tasks: Arc<parking_lot::Mutex<JoinSet<()>>>,
}

/// A queue that cannot be opened, whatever its broker does.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The program was built without it.
    #[error("{0} is not part of this build")]
    NotBuilt(&'static str),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
}

/// Opens a queue that is in use by the configuration. Needs a tokio runtime; the broker may be down.
///
/// # Errors
/// When the configuration cannot be used.
pub fn open(mqm: &Mqm, kind: QueueKind) -> Result<Queue, OpenError> {
    let options = mqm.options(kind);
    match kind {
        QueueKind::Redis => Ok(Queue::spawn(options, redis::Redis::new(&mqm.redis))),
        QueueKind::Nats => Ok(Queue::spawn(options, nats::Nats::new(&mqm.nats))),
        QueueKind::Nsq => Ok(Queue::spawn(options, nsq::Nsq::new(&mqm.nsq))),
        QueueKind::Amqp => Ok(Queue::spawn(options, amqp::Amqp::new(&mqm.amqp))),
        #[cfg(feature = "kafka")]
        QueueKind::Kafka => Ok(Queue::spawn(options.clone(), crate::kafka::Kafka::new(&mqm.kafka, options))),
        #[cfg(not(feature = "kafka"))]
        QueueKind::Kafka => Err(OpenError::NotBuilt("kafka")),
    }
}

// === impl Queue ===

impl Queue {
    /// Starts the driver of a broker.
    #[must_use]
    pub fn spawn(options: Options, broker: impl Broker) -> Self {
        let flights = Arc::new(Flights::new(options));
        let mut tasks = JoinSet::new();
        tasks.spawn(driver::run(broker, Arc::clone(&flights)));
        // A task of its own: deadlines are kept even if a client library hogs the driver's.
        tasks.spawn(driver::clock(Arc::clone(&flights)));
        Self { flights, tasks: Arc::new(parking_lot::Mutex::new(tasks)) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.flights.options.name
    }

    /// Hands a message over. Never waits.
    ///
    /// Messages reach the broker in the order of the calls. After `Ok`, `done` is told exactly once.
    ///
    /// # Errors
    /// When the queue is full, down or closed, or the message does not fit. Then `done` is never told.
    pub fn try_publish(&self, message: Message, done: Done) -> Result<(), PublishError> {
        self.flights.add(message, done)
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.flights.state.borrow().clone()
    }

    /// Its state, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.flights.state.subscribe()
    }

    /// Its numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.flights.stats()
    }

    /// Waits until nothing is in flight, at most until the deadline; then closes: what is left fails as closed, new messages are refused.
    pub async fn close(&self, deadline: Instant) {
        loop {
            let idle = self.flights.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.stats().in_flight == 0 || timeout_at(deadline, idle).await.is_err() {
                break;
            }
        }
        self.flights.refuse(&PublishError::new(Kind::Closed, "the queue was closed"));
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("name", &self.name()).finish_non_exhaustive()
    }
}
