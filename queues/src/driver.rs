//! The life of a queue's connection: connect, use, lose, connect again.
//!
//! Addresses are tried in turn. For [`GRACE`] after a loss, or after the start, messages wait; then the queue is down, what waited fails and
//! new messages are refused at once, until a connection stands again. A broker that refuses us (a wrong password, a declaration that
//! contradicts what is there) puts the queue down without that grace.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::{Kind, Message, PublishError, State, backoff::Backoff, flights::Flights};

/// How long messages wait for a broker that was lost: it is about what a restart of one takes.
pub const GRACE: Duration = Duration::from_secs(5);

/// A connection must stand, with everything declared, within this time.
pub const CONNECT: Duration = Duration::from_secs(10);

/// Longest reason that is kept: brokers write it.
const MAX_REASON: usize = 300;

/// A kind of broker.
pub trait Broker: Send + 'static {
    /// A connection to it.
    type Link: Link;

    /// The addresses to try, for people: they hold no secret.
    fn addresses(&self) -> Vec<Arc<str>>;

    /// Connects to one of them, proves who we are and declares what is configured.
    ///
    /// The future is dropped after [`CONNECT`].
    fn connect(&mut self, index: usize) -> impl Future<Output = Result<Self::Link, ConnectError>> + Send;

    /// For how long a connection may confirm nothing of what it was given. Then it is given up.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// A connection to a broker.
pub trait Link: Send {
    /// Sends what the outbox gives, in order, and confirms it, until the connection is lost. Returns why it was.
    ///
    /// The future is dropped when the queue goes away or the broker is silent for too long.
    fn run(self, outbox: &mut Outbox) -> impl Future<Output = String> + Send;
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ConnectError {
    /// For people; without secrets.
    pub reason: String,
    /// The broker said no, and will say so again.
    pub refused: bool,
}

/// What a connection is to send.
pub struct Outbox {
    flights: Arc<Flights>,
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Names it towards the outbox.
    pub number: u64,
    /// The message.
    pub message: Arc<Message>,
}

// === impl ConnectError ===

impl ConnectError {
    /// The broker cannot be reached or is not ready.
    #[must_use]
    pub fn unreachable(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string(), refused: false }
    }

    /// The broker said no.
    #[must_use]
    pub fn refused(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string(), refused: true }
    }
}

// === impl Outbox ===

impl Outbox {
    /// Waits for messages and takes up to `max` of them, in order.
    ///
    /// # Cancel safety
    /// Nothing is taken if the future is dropped before it is ready.
    pub async fn next(&mut self, max: usize, into: &mut Vec<Outgoing>) {
        loop {
            self.flights.take(max, into);
            if !into.is_empty() {
                return;
            }
            self.flights.wake.notified().await;
        }
    }

    /// The loss that follows was the answer to one message: it does not count as an attempt of the others.
    pub fn forgive(&self) {
        self.flights.forgive();
    }

    /// Says how messages ended, from anywhere.
    #[cfg(feature = "kafka")]
    pub(crate) fn confirmer(
        &self,
    ) -> impl Fn(u64, Result<(), PublishError>) + Clone + Send + Sync + 'static + use<> {
        let flights = Arc::clone(&self.flights);
        move |number, result| flights.confirm(number, result)
    }

    /// Says how a message ended. Only the first word counts.
    pub fn confirm(&self, number: u64, result: Result<(), PublishError>) {
        self.flights.confirm(number, result);
    }
}

/// Runs for ever.
pub(crate) async fn run<B: Broker>(mut broker: B, flights: Arc<Flights>) {
    let name = flights.options.name;
    let (mut backoff, mut lost_at) = (Backoff::new(), Instant::now());
    let mut turn = 0;
    loop {
        let addresses = broker.addresses();
        let mut refusal = None;
        let mut reason = "no address is configured".to_owned();
        for _ in 0..addresses.len() {
            let index = turn % addresses.len();
            turn += 1;
            let address = Arc::clone(&addresses[index]);
            let connecting = AssertUnwindSafe(timeout(CONNECT, broker.connect(index))).catch_unwind();
            let error = match connecting.await {
                Ok(Ok(Ok(link))) => {
                    let since = Instant::now();
                    reason = use_link(link, &flights, address, broker.patience()).await;
                    lost_at = Instant::now();
                    if since.elapsed() > GRACE {
                        backoff = Backoff::new();
                    }
                    // Another address may be well at once; this one gets its pause first.
                    break;
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => ConnectError::unreachable("no connection in time"),
                Err(_) => ConnectError::unreachable("the driver failed"),
            };
            reason = shorten(format!("{address}: {error}"));
            refusal = error.refused.then(|| reason.clone()).or(refusal);
        }
        if refusal.is_some() || (lost_at.elapsed() >= GRACE && !addresses.is_empty()) || addresses.is_empty()
        {
            down(&flights, refusal.unwrap_or(reason));
        } else {
            tracing::debug!(queue = name, reason, "not connected yet");
        }
        pause(&flights, backoff.next(), lost_at).await;
    }
}

/// Waits before the next attempt; what waits for longer than the grace fails on time.
async fn pause(flights: &Flights, pause: Duration, lost_at: Instant) {
    let grace = (lost_at + GRACE).saturating_duration_since(Instant::now());
    if *flights.state.borrow() == State::Connecting && !grace.is_zero() {
        sleep(pause.min(grace)).await;
    } else {
        sleep(pause).await;
    }
}

async fn use_link<L: Link>(link: L, flights: &Arc<Flights>, address: Arc<str>, patience: Duration) -> String {
    let name = flights.options.name;
    flights.accept();
    info!(queue = name, %address, "connected to the broker");
    flights.state.send_replace(State::Up { address: Arc::clone(&address) });
    let mut outbox = Outbox { flights: Arc::clone(flights) };
    let reason = tokio::select! {
        biased;
        ended = AssertUnwindSafe(link.run(&mut outbox)).catch_unwind() => {
            ended.unwrap_or_else(|_| "the driver failed".to_owned())
        }
        () = stall(flights, patience) => "the broker does not confirm anything".to_owned(),
    };
    let reason = shorten(reason);
    warn!(queue = name, %address, reason, "lost the broker; connecting again");
    flights.state.send_replace(State::Connecting);
    flights.lost(&reason);
    reason
}

/// Ends when the broker has been silent for too long.
async fn stall(flights: &Flights, patience: Duration) {
    loop {
        let silence = flights.silence();
        if silence >= patience {
            return;
        }
        sleep((patience - silence).max(Duration::from_millis(10))).await;
    }
}

fn down(flights: &Flights, reason: String) {
    flights.refuse(&PublishError::new(Kind::Unavailable, format!("not connected to the broker: {reason}")));
    let reason: Arc<str> = Arc::from(reason);
    let changed = flights.state.send_if_modified(|state| {
        let new = State::Down { reason: Arc::clone(&reason) };
        let changed = *state != new;
        *state = new;
        changed
    });
    if changed {
        warn!(queue = flights.options.name, %reason, "the queue is down; trying on");
    }
}

/// Tells those whose deadlines pass, for ever.
pub(crate) async fn clock(flights: Arc<Flights>) {
    loop {
        let changed = flights.clock.notified();
        match flights.expire(Instant::now()) {
            Some(next) => {
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(next) => {}
                }
            }
            None => changed.await,
        }
    }
}

/// One line of bounded length.
pub(crate) fn shorten(reason: String) -> String {
    let line: String =
        reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect();
    if line == reason { reason } else { line }
}
