//! A queue of AMQP 0-9-1: consumed by one channel with a prefetch, acknowledged message by message.
//!
//! What is given back is held for the pause, and then put back where it was in the queue. A quorum queue says how often it has given a
//! message out; for a classic one that is counted here.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Origin,
    desk::{Desk, Verdict},
    mail::{Flaw, Mail},
    pipe::{Intake, Pipe},
};
use crate::{
    ConnectError,
    amqp::consume::{self, Said, Session},
    config::{self, Address},
};

/// See the module documentation.
pub(super) struct Consumer {
    config: config::Amqp,
    queue: String,
    prefetch: u16,
    counts: Arc<Mutex<Counts>>,
}

/// Deliveries of messages that were given back, by a number for each message; the oldest go when there are too many, as those that
/// somebody else has taken.
struct Counts {
    by_message: HashMap<u64, u32>,
    order: VecDeque<u64>,
    most: usize,
    hasher: RandomState,
}

/// What is said on a connection.
pub(super) struct Channel {
    frame_max: usize,
    heartbeat: Duration,
    longest: usize,
    counts: Arc<Mutex<Counts>>,
    reading: Option<Reading>,
    /// By the number of the desk.
    held: HashMap<u64, Held>,
    /// What is to be given back, and when.
    parked: BTreeMap<(Instant, u64), u64>,
}

/// A message of which a part has come.
struct Reading {
    tag: u64,
    redelivered: bool,
    head: Option<consume::Content>,
    body: BytesMut,
    /// Bytes that are still to come.
    left: u64,
    /// Longer than there is room for; what comes of it is not kept.
    skipped: bool,
}

struct Held {
    tag: u64,
    message: u64,
    attempt: u32,
}

// === impl Consumer ===

impl Consumer {
    pub(super) fn new(config: &config::Source) -> Self {
        let counts = Counts {
            by_message: HashMap::new(),
            order: VecDeque::new(),
            most: config.max_in_flight * 4,
            hasher: RandomState::new(),
        };
        Self {
            config: config.queue().amqp,
            queue: config.amqp.queue.clone(),
            prefetch: u16::try_from(config.max_in_flight).unwrap_or(u16::MAX),
            counts: Arc::new(Mutex::new(counts)),
        }
    }
}

impl Origin for Consumer {
    type Inflow = Pipe<Channel>;

    fn addresses(&self) -> Vec<Arc<str>> {
        self.config.addrs.iter().map(Address::shown).collect()
    }

    async fn connect(&mut self, index: usize, desk: &Arc<Desk>) -> Result<Pipe<Channel>, ConnectError> {
        let mut session = Session::connect(&self.config, &self.config.addrs[index]).await?;
        session.consume(&self.queue, self.prefetch).await?;
        let intake = Channel {
            frame_max: session.frame_max,
            heartbeat: session.heartbeat,
            longest: desk.options.max_in_flight_bytes,
            counts: Arc::clone(&self.counts),
            reading: None,
            held: HashMap::new(),
            parked: BTreeMap::new(),
        };
        Ok(Pipe { socket: session.socket, input: session.input, intake })
    }
}

// === impl Counts ===

impl Counts {
    /// A number for a message: by its ID if it has one, else by what it is. Two messages without an ID that are the same are counted
    /// together.
    fn name(&self, mail: &Mail, id: &str) -> u64 {
        if id.is_empty() {
            self.hasher.hash_one((&mail.headers, &mail.body))
        } else {
            self.hasher.hash_one(id)
        }
    }

    fn note(&mut self, message: u64, attempt: u32) {
        if self.by_message.insert(message, attempt).is_none() {
            self.order.push_back(message);
        }
        while self.by_message.len() > self.most || self.order.len() > 2 * self.most {
            let Some(oldest) = self.order.pop_front() else { return };
            self.by_message.remove(&oldest);
        }
    }
}

// === impl Channel ===

impl Intake for Channel {
    fn decode(&mut self, input: &mut BytesMut, _: &mut BytesMut, desk: &Arc<Desk>) -> Result<bool, String> {
        let Some(said) = consume::said(input, self.frame_max)? else { return Ok(false) };
        match said {
            Said::Deliver { tag, redelivered } => {
                let body = BytesMut::new();
                self.reading = Some(Reading { tag, redelivered, head: None, body, left: 0, skipped: false });
            }
            Said::Content(content) => {
                let Some(reading) = &mut self.reading else { return Ok(true) };
                reading.left = content.size;
                reading.skipped = content.size > self.longest as u64;
                reading.head = Some(*content);
                self.complete(desk);
            }
            Said::Body(bytes) => {
                let Some(reading) = &mut self.reading else { return Ok(true) };
                reading.left = reading
                    .left
                    .checked_sub(bytes.len() as u64)
                    .ok_or("no AMQP: a body is longer than its header says")?;
                if !reading.skipped {
                    reading.body.extend_from_slice(&bytes);
                }
                self.complete(desk);
            }
            Said::Cancelled => return Err("the broker ended the consumer: the queue is gone".to_owned()),
            Said::Closed(reason) => return Err(reason),
            Said::Nothing => {}
        }
        Ok(true)
    }

    fn rule(&mut self, number: u64, verdict: Verdict, desk: &Desk, out: &mut BytesMut) {
        let Some(held) = self.held.get(&number) else { return };
        match verdict {
            Verdict::Take => {
                consume::ack(held.tag, out);
                self.counts.lock().by_message.remove(&held.message);
                self.held.remove(&number);
                desk.release(number);
            }
            Verdict::Return => {
                self.counts.lock().note(held.message, held.attempt);
                self.parked.insert((Instant::now() + desk.options.retry_delay, number), number);
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.parked.first_key_value().map(|((due, _), _)| *due)
    }

    fn tick(&mut self, now: Instant, desk: &Desk, out: &mut BytesMut) {
        while let Some(first) = self.parked.first_entry()
            && first.key().0 <= now
        {
            let number = first.remove();
            if let Some(held) = self.held.remove(&number) {
                consume::give_back(held.tag, out);
            }
            desk.release(number);
        }
    }

    fn ping(&mut self, out: &mut BytesMut) {
        consume::heartbeat(out);
    }

    fn beat(&self) -> Duration {
        self.heartbeat / 2
    }

    fn longest(&self) -> usize {
        self.frame_max + 64
    }

    fn leave(&mut self, out: &mut BytesMut) {
        consume::goodbye(out);
    }
}

impl Channel {
    /// Takes the message that was read, if it is complete.
    fn complete(&mut self, desk: &Arc<Desk>) {
        let Some(Reading { tag, redelivered, head: Some(head), body, skipped, .. }) =
            self.reading.take_if(|reading| reading.head.is_some() && reading.left == 0)
        else {
            return;
        };
        let id = head.properties.message_id.clone();
        let mail = Mail {
            headers: head.headers,
            body: body.freeze(),
            properties: Some(Arc::new(head.properties)),
            flaw: skipped.then_some(Flaw::TooLong),
        };
        let counts = self.counts.lock();
        let message = counts.name(&mail, &id);
        let before = match head.delivered {
            Some(delivered) => delivered,
            None if redelivered => counts.by_message.get(&message).copied().unwrap_or_default(),
            None => 0,
        };
        drop(counts);
        let attempt = before.saturating_add(1);
        let number = desk.take(mail, attempt);
        self.held.insert(number, Held { tag, message, attempt });
    }
}
