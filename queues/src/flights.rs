//! The messages of one queue that nobody was told about yet, or that the broker may still confirm.
//!
//! Each has a number, in the order of arrival. The driver takes them in that order; what was taken and not confirmed when a connection
//! is lost is given again, in the same order, to the next one. So a resend never overtakes, and may make a copy.
//!
//! A message whose deadline passes is told at once, but counts until the connection lets go of it: its bytes are still there, in
//! buffers of sockets and client libraries. That bounds memory while a broker hangs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{Done, Kind, Message, Options, PublishError, State, Stats, driver::Outgoing};

/// How often a message is given to a connection. A message that itself ends connections would otherwise do so for ever.
const ATTEMPTS: u8 = 3;

/// What handle, driver and clock of one queue share.
pub(crate) struct Flights {
    pub(crate) options: Options,
    inner: Mutex<Inner>,
    /// There is something to send.
    pub(crate) wake: Notify,
    /// The first deadline has changed.
    pub(crate) clock: Notify,
    /// The last message has ended.
    pub(crate) idle: Notify,
    pub(crate) state: watch::Sender<State>,
}

struct Inner {
    next: u64,
    /// The first number that was not taken yet.
    unsent: u64,
    by_number: BTreeMap<u64, Flight>,
    deadlines: BTreeSet<(Instant, u64)>,
    bytes: usize,
    /// Why nothing is taken.
    refusing: Option<PublishError>,
    /// When the broker last confirmed something, or the first message was given to an idle connection.
    progress: Instant,
    /// Messages taken and not confirmed.
    sent: usize,
    stats: Stats,
}

struct Flight {
    message: Arc<Message>,
    /// `None` once its sender was told.
    done: Option<Done>,
    cost: usize,
    deadline: Instant,
    /// This connection has it.
    sent: bool,
    /// Some connection had it.
    given: bool,
    attempts: u8,
}

// === impl Flights ===

impl Flights {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            inner: Mutex::new(Inner {
                next: 0,
                unsent: 0,
                by_number: BTreeMap::new(),
                deadlines: BTreeSet::new(),
                bytes: 0,
                refusing: None,
                progress: Instant::now(),
                sent: 0,
                stats: Stats::default(),
            }),
            wake: Notify::new(),
            clock: Notify::new(),
            idle: Notify::new(),
            state: watch::Sender::new(State::Connecting),
        }
    }

    /// Takes a message, or says at once why not; then `done` is not told.
    pub(crate) fn add(&self, message: Message, done: Done) -> Result<(), PublishError> {
        let cost = message.cost();
        let now = Instant::now();
        let deadline = Instant::from_std(message.deadline).min(now + self.options.timeout);
        let first = {
            let mut inner = self.inner.lock();
            if let Err(error) = inner.admits(cost, deadline <= now, &self.options) {
                inner.stats.failed[error.kind().index()] += 1;
                drop(inner);
                done.forget();
                return Err(error);
            }
            let number = inner.next;
            inner.next += 1;
            inner.bytes += cost;
            let flight = Flight {
                message: Arc::new(message),
                done: Some(done),
                cost,
                deadline,
                sent: false,
                given: false,
                attempts: 0,
            };
            inner.by_number.insert(number, flight);
            inner.deadlines.insert((deadline, number));
            inner.deadlines.first() == Some(&(deadline, number))
        };
        self.wake.notify_one();
        if first {
            self.clock.notify_one();
        }
        Ok(())
    }

    /// Takes up to `max` messages that were not given to this connection yet, in order.
    pub(crate) fn take(&self, max: usize, into: &mut Vec<Outgoing>) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let (mut taken, mut last) = (0, None);
        for (number, flight) in inner.by_number.range_mut(inner.unsent..).take(max) {
            flight.sent = true;
            inner.stats.resent += u64::from(flight.given);
            (flight.given, flight.attempts) = (true, flight.attempts + 1);
            into.push(Outgoing { number: *number, message: Arc::clone(&flight.message) });
            taken += 1;
            last = Some(*number);
        }
        if let Some(last) = last {
            inner.unsent = last + 1;
            if inner.sent == 0 {
                inner.progress = Instant::now();
            }
            inner.sent += taken;
        }
    }

    /// The broker's word about a message.
    pub(crate) fn confirm(&self, number: u64, result: Result<(), PublishError>) {
        let done = {
            let mut inner = self.inner.lock();
            let Some(flight) = inner.remove(number) else { return };
            inner.progress = Instant::now();
            match &result {
                _ if flight.done.is_none() => inner.stats.late += 1,
                Ok(()) => inner.stats.confirmed += 1,
                Err(error) => inner.stats.failed[error.kind().index()] += 1,
            }
            self.note_idle(&inner);
            flight.done
        };
        if let Some(done) = done {
            done.tell(result);
        }
    }

    /// What was given to this connection is not counted as an attempt.
    pub(crate) fn forgive(&self) {
        for flight in self.inner.lock().by_number.values_mut().filter(|flight| flight.sent) {
            flight.attempts -= 1;
        }
    }

    /// The connection is gone: what it had is to be given to the next one, unless nobody waits for it or it was given too often.
    pub(crate) fn lost(&self, reason: &str) {
        let failed: Vec<Done> = {
            let mut inner = self.inner.lock();
            let ended: Vec<u64> = inner
                .by_number
                .iter()
                .filter(|(_, flight)| flight.sent && (flight.done.is_none() || flight.attempts >= ATTEMPTS))
                .map(|(number, _)| *number)
                .collect();
            let ended: Vec<Flight> = ended.into_iter().filter_map(|number| inner.remove(number)).collect();
            for flight in inner.by_number.values_mut() {
                flight.sent = false;
            }
            (inner.sent, inner.unsent) = (0, 0);
            let failed: Vec<Done> = ended.into_iter().filter_map(|flight| flight.done).collect();
            inner.stats.failed[Kind::Unavailable.index()] += failed.len() as u64;
            self.note_idle(&inner);
            failed
        };
        for done in failed {
            let text = format!("the broker was lost {ATTEMPTS} times while it had the message: {reason}");
            done.tell(Err(PublishError::new(Kind::Unavailable, text)));
        }
    }

    /// Nothing is taken any more, and what waits fails.
    pub(crate) fn refuse(&self, error: &PublishError) {
        let failed: Vec<Done> = {
            let mut inner = self.inner.lock();
            inner.refusing = Some(error.clone());
            inner.unsent = 0;
            inner.deadlines.clear();
            (inner.bytes, inner.sent) = (0, 0);
            let all = std::mem::take(&mut inner.by_number);
            let failed: Vec<Done> = all.into_values().filter_map(|flight| flight.done).collect();
            inner.stats.failed[error.kind().index()] += failed.len() as u64;
            self.note_idle(&inner);
            failed
        };
        for done in failed {
            done.tell(Err(error.clone()));
        }
    }

    /// Messages are taken again.
    pub(crate) fn accept(&self) {
        let mut inner = self.inner.lock();
        inner.stats.connected += 1;
        if inner.refusing.as_ref().is_some_and(|error| error.kind() != Kind::Closed) {
            inner.refusing = None;
        }
    }

    /// Tells those whose deadline has passed, and returns the next deadline.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let (failed, next) = {
            let mut inner = self.inner.lock();
            let mut failed = Vec::new();
            while let Some((deadline, number)) = inner.deadlines.first().copied()
                && deadline <= now
            {
                inner.deadlines.pop_first();
                let sent = inner.by_number.get(&number).is_some_and(|flight| flight.sent);
                let done = if sent {
                    inner.by_number.get_mut(&number).and_then(|flight| flight.done.take())
                } else {
                    inner.remove(number).and_then(|flight| flight.done)
                };
                failed.extend(done);
            }
            inner.stats.failed[Kind::Deadline.index()] += failed.len() as u64;
            self.note_idle(&inner);
            (failed, inner.deadlines.first().map(|(deadline, _)| *deadline))
        };
        for done in failed {
            done.tell(Err(PublishError::new(Kind::Deadline, "the broker did not confirm in time")));
        }
        next
    }

    /// For how long the broker has confirmed nothing of what it was given.
    pub(crate) fn silence(&self) -> Duration {
        let inner = self.inner.lock();
        if inner.sent == 0 { Duration::ZERO } else { inner.progress.elapsed() }
    }

    pub(crate) fn stats(&self) -> Stats {
        let inner = self.inner.lock();
        Stats { in_flight: inner.by_number.len(), in_flight_bytes: inner.bytes, ..inner.stats.clone() }
    }

    fn note_idle(&self, inner: &Inner) {
        if inner.by_number.is_empty() {
            self.idle.notify_waiters();
        }
    }
}

// === impl Inner ===

impl Inner {
    fn admits(&self, cost: usize, late: bool, options: &Options) -> Result<(), PublishError> {
        if let Some(error) = &self.refusing {
            return Err(error.clone());
        }
        if late {
            return Err(PublishError::new(Kind::Deadline, "the deadline had passed"));
        }
        if cost > options.max_in_flight_bytes {
            return Err(PublishError::new(Kind::TooLarge, "the message is larger than max_in_flight_bytes"));
        }
        if self.by_number.len() >= options.max_in_flight || self.bytes + cost > options.max_in_flight_bytes {
            return Err(PublishError::new(Kind::Overloaded, "too much waits for the broker"));
        }
        Ok(())
    }

    fn remove(&mut self, number: u64) -> Option<Flight> {
        let flight = self.by_number.remove(&number)?;
        self.deadlines.remove(&(flight.deadline, number));
        self.bytes -= flight.cost;
        if flight.sent {
            self.sent -= 1;
        }
        Some(flight)
    }
}
