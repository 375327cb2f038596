//! What a source has taken from its broker and not settled, and what becomes of it.
//!
//! A message is with the edge, with the dead letters' queue, or there is a verdict on it that its connection carries out. When a connection
//! is lost all of them are forgotten, as the broker gives them out again; those that an edge or the queue still has count in the bound
//! until they let go, so that a broker that comes and goes costs no more memory than one that stays.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Instant as Clock, SystemTime},
};

use bytes::Bytes;
use frontier_ops::complaints::Complaints;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    BURIAL, Door, Parcel, Settle, SourceOptions, SourceStats, Undone,
    mail::{Flaw, Mail},
};
use crate::{Done, Kind, Message, MessageId, Passed, PublishError, Queue, State};

/// Why a dead letter is one.
const REASON: &str = "dead-letter-reason";
/// The source that it came by.
const SOURCE: &str = "dead-letter-source";
/// How often it was delivered.
const DELIVERIES: &str = "dead-letter-deliveries";

/// See the module documentation.
pub(crate) struct Desk {
    pub(crate) options: SourceOptions,
    door: Arc<dyn Door>,
    pub(super) grave: Option<Grave>,
    inner: Mutex<Inner>,
    /// There are verdicts.
    verdicts: Notify,
    /// There is more room than before.
    room: Notify,
    /// Nothing is to be waited for.
    idle: Notify,
    pub(super) state: watch::Sender<State>,
    /// The connection is to end.
    pub(crate) quit: CancellationToken,
    start: Clock,
}

/// Where dead letters go.
pub(crate) struct Grave {
    pub(super) queue: Queue,
    pub(super) destination: Arc<str>,
}

/// What is to be done with a message at its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is settled.
    Take,
    /// It is given out again after the pause that is configured.
    Return,
}

/// What may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Default)]
struct Inner {
    next: u64,
    items: BTreeMap<u64, Item>,
    bytes: usize,
    /// Messages of lost connections that somebody still has.
    orphans: usize,
    orphan_bytes: usize,
    verdicts: VecDeque<(u64, Verdict)>,
    stats: SourceStats,
    complaints: Complaints,
    stopped: bool,
}

struct Item {
    /// `None` once there is a verdict.
    mail: Option<Mail>,
    cost: usize,
    /// Which delivery this is.
    attempt: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// An edge or the dead letters' queue has it.
    Out,
    /// Its broker is to hear that it is settled.
    Settled,
    /// It waits to be given out again.
    Parked,
}

// === impl Desk ===

impl Desk {
    pub(super) fn new(options: SourceOptions, door: Arc<dyn Door>, grave: Option<Grave>) -> Self {
        Self {
            options,
            door,
            grave,
            inner: Mutex::default(),
            verdicts: Notify::new(),
            room: Notify::new(),
            idle: Notify::new(),
            state: watch::Sender::new(State::Connecting),
            quit: CancellationToken::new(),
            start: Clock::now(),
        }
    }

    // --- for connections

    /// What may be taken now.
    pub(crate) fn room(&self) -> Room {
        let inner = self.inner.lock();
        if inner.stopped {
            return Room { messages: 0, bytes: 0 };
        }
        let (messages, bytes) = (inner.items.len() + inner.orphans, inner.bytes + inner.orphan_bytes);
        Room {
            messages: self.options.max_in_flight.saturating_sub(messages),
            bytes: self.options.max_in_flight_bytes.saturating_sub(bytes),
        }
    }

    /// Waits until there may be more room than before. Only one may wait.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn more_room(&self) {
        self.room.notified().await;
    }

    /// Takes a message, which its broker delivers for the so-manieth time; returns the number under which verdicts come.
    pub(crate) fn take(self: &Arc<Self>, mail: Mail, attempt: u32) -> u64 {
        let (cost, address) = (mail.cost(), mail.address(&self.options.topic));
        let parcel = address.map(|(edge, topic)| (edge, topic, mail.for_edge(), mail.body.clone()));
        let flaw = mail.flaw;
        let number = {
            let mut inner = self.inner.lock();
            inner.next += 1;
            inner.stats.received += 1;
            inner.bytes += cost;
            let number = inner.next;
            inner.items.insert(number, Item { mail: Some(mail), cost, attempt, stage: Stage::Out });
            number
        };
        match parcel {
            _ if flaw == Some(Flaw::TooLong) => {
                self.drop_one(number, cost, "longer than max_in_flight_bytes")
            }
            Err(why) => self.bury(number, cost, why, true),
            Ok(_) if attempt > self.options.max_deliveries => self.bury(number, cost, "not done", true),
            Ok((edge, topic, headers, body)) => {
                let desk = Arc::clone(self);
                let settle = Settle::new(move |outcome| desk.on_outcome(number, cost, outcome));
                let timeout = self.options.done_timeout;
                self.door.deliver(Parcel { edge, topic, headers, body, timeout, settle });
            }
        }
        number
    }

    /// Waits for verdicts and takes them, in order. Only one may wait.
    ///
    /// # Cancel safety
    /// Nothing is taken if the future is dropped before it is ready.
    pub(crate) async fn next(&self, into: &mut Vec<(u64, Verdict)>) {
        loop {
            into.extend(self.inner.lock().verdicts.drain(..));
            if !into.is_empty() {
                return;
            }
            self.verdicts.notified().await;
        }
    }

    /// The broker has a message back, or knows that it is settled.
    pub(crate) fn release(&self, number: u64) {
        let mut inner = self.inner.lock();
        if let Some(item) = inner.items.remove(&number) {
            inner.bytes -= item.cost;
        }
        self.note(&inner);
    }

    /// The connection is gone, and with it the right to settle what came by it.
    pub(super) fn lost(&self) {
        let mut inner = self.inner.lock();
        let items = std::mem::take(&mut inner.items);
        for item in items.values().filter(|item| item.stage == Stage::Out) {
            inner.orphans += 1;
            inner.orphan_bytes += item.cost;
        }
        inner.bytes = 0;
        inner.verdicts.clear();
        self.note(&inner);
    }

    // --- for the handle

    pub(super) fn connected(&self) {
        self.inner.lock().stats.connected += 1;
    }

    pub(super) fn stats(&self) -> SourceStats {
        let inner = self.inner.lock();
        SourceStats {
            in_flight: inner.items.len() + inner.orphans,
            in_flight_bytes: inner.bytes + inner.orphan_bytes,
            ..inner.stats.clone()
        }
    }

    /// Nothing more is taken.
    pub(super) fn stop(&self) {
        self.inner.lock().stopped = true;
    }

    /// Waits until nothing is with an edge and the broker knows what is settled, at most until the deadline.
    pub(super) async fn settled(&self, deadline: Instant) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.is_idle(&self.inner.lock()) || timeout_at(deadline, idle).await.is_err() {
                return;
            }
        }
    }

    /// Nothing is settled any more.
    pub(super) fn close(&self) {
        self.lost();
    }

    fn is_idle(&self, inner: &Inner) -> bool {
        inner.items.values().all(|item| item.stage == Stage::Parked)
    }

    fn note(&self, inner: &Inner) {
        self.room.notify_one();
        if inner.stopped && self.is_idle(inner) {
            self.idle.notify_waiters();
        }
    }

    // --- what becomes of messages

    /// The edge has done it, or not.
    fn on_outcome(self: &Arc<Self>, number: u64, cost: usize, outcome: Result<(), Undone>) {
        match outcome {
            Ok(()) => self.rule(number, cost, Verdict::Take, |stats| stats.done += 1),
            Err(Undone::Never(why)) => self.bury(number, cost, why, true),
            Err(Undone::Again(why)) => {
                let attempt = self.inner.lock().items.get(&number).map(|item| item.attempt);
                if attempt.is_some_and(|attempt| attempt >= self.options.max_deliveries) {
                    self.bury(number, cost, why, true);
                } else {
                    self.rule(number, cost, Verdict::Return, |stats| stats.returned += 1);
                }
            }
        }
    }

    /// Passes a verdict. Nobody holds the message any more, so its bytes are free.
    fn rule(&self, number: u64, cost: usize, verdict: Verdict, count: impl FnOnce(&mut SourceStats)) {
        let mut inner = self.inner.lock();
        let Some(item) = inner.items.get_mut(&number) else {
            // Of a connection that is lost.
            inner.orphans = inner.orphans.saturating_sub(1);
            inner.orphan_bytes = inner.orphan_bytes.saturating_sub(cost);
            return self.note(&inner);
        };
        item.mail = None;
        item.stage = if verdict == Verdict::Take { Stage::Settled } else { Stage::Parked };
        let cost = std::mem::take(&mut item.cost);
        inner.bytes -= cost;
        inner.verdicts.push_back((number, verdict));
        count(&mut inner.stats);
        self.verdicts.notify_one();
        self.note(&inner);
    }

    fn drop_one(&self, number: u64, cost: usize, why: &str) {
        self.complain("a message is dropped", why);
        self.rule(number, cost, Verdict::Take, |stats| stats.dropped += 1);
    }

    /// Sends a message to the dead letters, with why it goes there if there is room for that.
    fn bury(self: &Arc<Self>, number: u64, cost: usize, why: &'static str, epitaph: bool) {
        let Some(grave) = &self.grave else {
            // Both of what follows lock it again.
            let known = self.inner.lock().items.contains_key(&number);
            return if known {
                self.drop_one(number, cost, why);
            } else {
                self.rule(number, cost, Verdict::Return, |_| {});
            };
        };
        let found = {
            let inner = self.inner.lock();
            inner.items.get(&number).and_then(|item| Some((item.mail.clone()?, item.attempt)))
        };
        let Some((mail, attempt)) = found else {
            return self.rule(number, cost, Verdict::Return, |_| {});
        };
        let message = self.letter(grave, mail, attempt, why, epitaph);
        let desk = Arc::clone(self);
        let done = Done::new(move |result| desk.buried(number, cost, why, epitaph, result));
        if let Err(error) = grave.queue.try_publish(message, done) {
            self.buried(number, cost, why, epitaph, Err(error));
        }
    }

    fn letter(&self, grave: &Grave, mail: Mail, attempt: u32, why: &'static str, epitaph: bool) -> Message {
        // What the client of a broker has as properties holds the headers too.
        let mut headers = if mail.properties.is_some() { Vec::new() } else { mail.headers };
        // Those of an earlier burial would contradict ours.
        headers.retain(|(name, _)| ![REASON, SOURCE, DELIVERIES].contains(&name.as_str()));
        if epitaph {
            let mut say = |name: &str, value: String| headers.push((name.to_owned(), Bytes::from(value)));
            say(REASON, why.to_owned());
            say(SOURCE, self.options.name.to_string());
            say(DELIVERIES, attempt.min(self.options.max_deliveries).to_string());
        }
        Message {
            id: MessageId::random(),
            edge: 0,
            topic: Arc::from(""),
            destination: Arc::clone(&grave.destination),
            body: mail.body,
            time: SystemTime::now(),
            content_type: None,
            traceparent: None,
            headers,
            deadline: Clock::now() + BURIAL,
            passed: Some(Passed { properties: mail.properties }),
        }
    }

    fn buried(
        self: &Arc<Self>,
        number: u64,
        cost: usize,
        why: &'static str,
        epitaph: bool,
        result: Result<(), PublishError>,
    ) {
        match result {
            Ok(()) => {
                self.complain("a message is dead-lettered", why);
                self.rule(number, cost, Verdict::Take, |stats| stats.dead_lettered += 1);
            }
            // It came from this broker, so it may be only what was added that is too long.
            Err(error) if error.kind() == Kind::TooLarge && epitaph => self.bury(number, cost, why, false),
            Err(error) if error.kind() == Kind::TooLarge => {
                self.drop_one(number, cost, "too long for a dead letter")
            }
            Err(error) => {
                self.complain("a dead letter cannot be stored; trying again later", &error.to_string());
                self.rule(number, cost, Verdict::Return, |stats| stats.returned += 1);
            }
        }
    }

    /// A line in the log, as long as there are few of them.
    fn complain(&self, what: &'static str, why: &str) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        if self.inner.lock().complaints.admit(micros) {
            tracing::warn!(source = %self.options.name, why, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures::FutureExt as _;

    use super::*;
    use crate::source::{Parcel, Undone};

    /// Keeps what it is given.
    #[derive(Default)]
    struct Shelf(Mutex<Vec<Parcel>>);

    impl Door for Shelf {
        fn deliver(&self, parcel: Parcel) {
            self.0.lock().push(parcel);
        }
    }

    fn mail(edge: Option<&'static str>) -> Mail {
        let headers = edge.map(|edge| ("edge-id".to_owned(), Bytes::from_static(edge.as_bytes())));
        let body = Bytes::from_static(b"body");
        Mail { headers: headers.into_iter().collect(), body, properties: None, flaw: None }
    }

    fn verdicts(desk: &Desk) -> Vec<(u64, Verdict)> {
        let mut verdicts = Vec::new();
        desk.next(&mut verdicts).now_or_never();
        verdicts
    }

    /// Each of them is dropped, and nobody waits for a lock that he has himself.
    #[test]
    fn without_a_place_for_dead_letters_they_are_dropped() {
        let options = SourceOptions {
            name: "s".into(),
            topic: "t".into(),
            done_timeout: Duration::from_secs(1),
            retry_delay: Duration::from_secs(1),
            max_deliveries: 2,
            max_in_flight: 10,
            max_in_flight_bytes: 1 << 20,
        };
        let shelf = Arc::new(Shelf::default());
        let desk = Arc::new(Desk::new(options, Arc::clone(&shelf) as Arc<dyn Door>, None));
        let tell = |outcome| shelf.0.lock().pop().unwrap().settle.tell(outcome);
        let nameless = desk.take(mail(None), 1);
        assert_eq!(verdicts(&desk), [(nameless, Verdict::Take)]);
        let late = desk.take(mail(Some("7")), 3);
        assert_eq!(verdicts(&desk), [(late, Verdict::Take)]);
        let last = desk.take(mail(Some("7")), 2);
        tell(Err(Undone::Again("no")));
        assert_eq!(verdicts(&desk), [(last, Verdict::Take)]);
        let never = desk.take(mail(Some("7")), 1);
        tell(Err(Undone::Never("no")));
        assert_eq!(verdicts(&desk), [(never, Verdict::Take)]);
        assert_eq!(desk.stats().dropped, 4);
        for number in [nameless, late, last, never] {
            desk.release(number);
        }
        // Of a connection that was lost meanwhile its broker knows better.
        desk.take(mail(Some("7")), 1);
        desk.lost();
        tell(Err(Undone::Never("no")));
        assert_eq!(verdicts(&desk), []);
        assert_eq!(desk.stats().in_flight, 0);
    }
}
