//! AMQP 0-9-1, as RabbitMQ speaks it: publisher confirms on one channel, mandatory returns, declarations at every connection.
//!
//! A small client of our own: one channel that only publishes is little, and the usual library brings a runtime of its own, sends again
//! in an order of its own and takes no TLS settings of ours. [`frame`] reads and writes, [`handshake`] connects and declares; here
//! messages flow.

pub(crate) mod consume;
mod frame;
mod handshake;
mod properties;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::{BufMut, BytesMut};
use parking_lot::Mutex;

pub(crate) use self::properties::Properties;
use self::{
    frame::{Frame, Method, Reader, Writer},
    handshake::Session,
};
use crate::{
    Broker, ConnectError, Kind, Message, MessageId, Outgoing, PublishError,
    config::{self, Address, AmqpProducer},
    headers,
    limit::Limit,
    pipeline::{Ending, Pipe, Protocol, Told},
};

/// The channel everything happens on.
const CHANNEL: u16 = 1;
/// The class of publishing, in headers of contents.
const BASIC: u16 = 60;

/// See the module documentation.
pub(crate) struct Amqp {
    config: Arc<config::Amqp>,
    limit: Limit,
    suspects: Arc<Mutex<Option<Suspects>>>,
}

/// The broker closed the channel on one of these and did not say which: they are sent again with fewer of them under way at a time, down
/// to one, which then is the one to blame. When two in a row are refused with the same words, it is for what all have in common.
#[derive(Debug, PartialEq, Eq)]
struct Suspects {
    /// The number of the last one.
    upto: u64,
    /// How many may be under way.
    room: usize,
    /// What the last one that was sent alone was refused with; `None` once another one was taken.
    last: Option<String>,
    /// What all that are left are refused with.
    all: Option<PublishError>,
}

/// What is said on a connection.
pub(crate) struct Publisher {
    config: Arc<config::Amqp>,
    limit: Limit,
    suspects: Arc<Mutex<Option<Suspects>>>,
    frame_max: usize,
    heartbeat: Duration,
    /// The tag of the next message.
    next: u64,
    /// By tag, what was sent and not confirmed.
    waiting: BTreeMap<u64, Sent>,
    /// What came back, until its content is read.
    returning: Option<Returning>,
}

struct Sent {
    number: u64,
    id: MessageId,
    key: Arc<str>,
    size: usize,
    /// Why it came back; its acknowledgement follows.
    returned: Option<PublishError>,
}

struct Returning {
    error: PublishError,
    /// Bytes of its content that are still to come; `None` before the header.
    left: Option<u64>,
}

// === impl Amqp ===

impl Amqp {
    pub(crate) fn new(config: &config::Amqp) -> Self {
        Self { config: Arc::new(config.clone()), limit: Limit::new(), suspects: Arc::default() }
    }
}

impl Broker for Amqp {
    type Link = Pipe<Publisher>;

    fn addresses(&self) -> Vec<Arc<str>> {
        self.config.addrs.iter().map(Address::shown).collect()
    }

    async fn connect(&mut self, index: usize) -> Result<Pipe<Publisher>, ConnectError> {
        let mut session = Session::connect(&self.config, &self.config.addrs[index]).await?;
        session.declare(&self.config).await?;
        self.limit.connected();
        let protocol = Publisher {
            config: Arc::clone(&self.config),
            limit: self.limit.clone(),
            suspects: Arc::clone(&self.suspects),
            frame_max: session.frame_max,
            heartbeat: session.heartbeat,
            next: 1,
            waiting: BTreeMap::new(),
            returning: None,
        };
        Ok(Pipe { socket: session.socket, input: session.input, protocol })
    }
}

// === impl Publisher ===

impl Protocol for Publisher {
    fn encode(&mut self, outgoing: &Outgoing, out: &mut BytesMut) -> Result<(), PublishError> {
        let message = &outgoing.message;
        let (config, body) = (&self.config.producer, &message.body);
        if message.destination.len() > 255 {
            return Err(PublishError::new(Kind::Rejected, "a routing key has at most 255 bytes"));
        }
        if body.len() > self.limit.bytes() {
            return Err(PublishError::new(Kind::TooLarge, "the message is longer than the broker takes"));
        }
        self.suspected(outgoing.number)?;
        let properties = properties(message, config)?;
        if properties.len() + 22 > self.frame_max {
            return Err(PublishError::new(Kind::TooLarge, "the headers are longer than a frame"));
        }
        let mut publish = Writer::method(Method::BASIC_PUBLISH);
        publish.u16(0);
        publish.short(&config.exchange);
        publish.short(&message.destination);
        publish.u8(u8::from(config.mandatory));
        frame::put(frame::METHOD, CHANNEL, &publish.into_bytes(), out);
        let mut head = Writer::default();
        head.u16(BASIC);
        head.u16(0);
        head.u64(body.len() as u64);
        head.raw(&properties);
        frame::put(frame::HEADER, CHANNEL, &head.into_bytes(), out);
        for chunk in body.chunks(self.frame_max - frame::OVERHEAD) {
            frame::put(frame::BODY, CHANNEL, chunk, out);
        }
        let (number, key) = (outgoing.number, Arc::clone(&message.destination));
        let sent = Sent { number, id: message.id, key, size: body.len(), returned: None };
        self.waiting.insert(self.next, sent);
        self.next += 1;
        Ok(())
    }

    fn room(&self) -> usize {
        let room = self.suspects.lock().as_ref().map_or(usize::MAX, |suspects| suspects.room);
        room.saturating_sub(self.waiting.len())
    }

    fn decode(
        &mut self,
        input: &mut BytesMut,
        _: &mut BytesMut,
        told: &mut Vec<Told>,
    ) -> Result<bool, Ending> {
        let Some(frame) = Frame::take(input, self.frame_max).map_err(Ending::of)? else { return Ok(false) };
        match frame.kind {
            frame::METHOD => self.heard(&frame.payload, told)?,
            frame::HEADER => self.returned_head(&frame.payload)?,
            frame::BODY => self.returned_body(frame.payload.len()),
            _ => {}
        }
        Ok(true)
    }

    fn ping(&mut self, out: &mut BytesMut) {
        frame::put(frame::HEARTBEAT, 0, &[], out);
    }

    fn beat(&self) -> Duration {
        self.heartbeat / 2
    }

    fn longest(&self) -> usize {
        self.frame_max + frame::OVERHEAD
    }
}

impl Publisher {
    /// Whether it is known already that this one is refused.
    fn suspected(&self, number: u64) -> Result<(), PublishError> {
        let mut suspects = self.suspects.lock();
        // They come in order, so nothing follows that is suspected.
        suspects.take_if(|suspects| suspects.upto < number);
        suspects.as_ref().and_then(|suspects| suspects.all.clone()).map_or(Ok(()), Err)
    }

    /// Nothing that comes here wants an answer but a close, and that one ends with the connection.
    fn heard(&mut self, payload: &[u8], told: &mut Vec<Told>) -> Result<(), Ending> {
        const CUT: &str = "a method of the broker is cut short";
        let mut reader = Reader(payload);
        let method = reader.method().ok_or_else(|| Ending::of(CUT))?;
        match method {
            Method::BASIC_ACK | Method::BASIC_NACK => {
                let tag = reader.u64().ok_or_else(|| Ending::of(CUT))?;
                let multiple = reader.u8().ok_or_else(|| Ending::of(CUT))? & 1 != 0;
                self.settle(tag, multiple, method == Method::BASIC_ACK, told);
            }
            Method::BASIC_RETURN => {
                let (code, text) = reader.refusal().ok_or_else(|| Ending::of(CUT))?;
                let error =
                    PublishError::new(Kind::Rejected, format!("returned by the broker: {code} {text}"));
                self.returning = Some(Returning { error, left: None });
            }
            Method::CHANNEL_CLOSE | Method::CONNECTION_CLOSE => {
                let (code, text) = reader.refusal().ok_or_else(|| Ending::of(CUT))?;
                return Err(self.closed(method == Method::CHANNEL_CLOSE, code, text, told));
            }
            Method::CONNECTION_BLOCKED => {
                tracing::warn!(
                    queue = "amqp",
                    "the broker takes no messages for now: it is short of memory or disk"
                );
            }
            Method::CONNECTION_UNBLOCKED => tracing::info!(queue = "amqp", "the broker takes messages again"),
            // `update-secret` and what later versions say does not concern a publisher.
            _ => {}
        }
        Ok(())
    }

    fn settle(&mut self, tag: u64, multiple: bool, stored: bool, told: &mut Vec<Told>) {
        let settled: Vec<Sent> = if multiple {
            // Tag 0 means all of them.
            let later =
                if tag == 0 { BTreeMap::new() } else { self.waiting.split_off(&tag.saturating_add(1)) };
            std::mem::replace(&mut self.waiting, later).into_values().collect()
        } else {
            self.waiting.remove(&tag).into_iter().collect()
        };
        if stored
            && !settled.is_empty()
            && let Some(suspects) = &mut *self.suspects.lock()
        {
            suspects.last = None;
        }
        told.extend(settled.into_iter().map(|sent| {
            let refused =
                || PublishError::new(Kind::Overloaded, "the broker did not take the message (nack)");
            let result = match sent.returned {
                Some(error) => Err(error),
                None if stored => Ok(()),
                None => Err(refused()),
            };
            (sent.number, result)
        }));
    }

    fn returned_head(&mut self, payload: &[u8]) -> Result<(), Ending> {
        let Some(returning) = &mut self.returning else { return Ok(()) };
        let (size, id) =
            frame::size_and_id(payload).ok_or_else(|| Ending::of("a header of the broker is cut short"))?;
        returning.left = Some(size);
        // It is one of the oldest.
        if let Some(sent) = self.waiting.values_mut().find(|sent| Some(sent.id) == id) {
            sent.returned = Some(returning.error.clone());
        }
        if size == 0 {
            self.returning = None;
        }
        Ok(())
    }

    fn returned_body(&mut self, length: usize) {
        if let Some(Returning { left: Some(left), .. }) = &mut self.returning {
            *left = left.saturating_sub(length as u64);
            if *left == 0 {
                self.returning = None;
            }
        }
    }

    /// The broker hangs up. When it closes the channel, a message is to blame, but it does not say which.
    fn closed(&mut self, channel: bool, code: u16, text: String, told: &mut Vec<Told>) -> Ending {
        let reason = format!("closed by the broker: {code} {text}");
        if !channel {
            return Ending::of(reason);
        }
        // `message size 3145728 is larger than configured max size 1048576`
        let numbers: Vec<usize> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
        if let (true, [size, limit, ..]) = (text.contains("larger than"), &numbers[..]) {
            self.limit.learn(*limit);
            let long: Vec<u64> =
                self.waiting.iter().filter(|(_, sent)| sent.size >= *size).map(|(tag, _)| *tag).collect();
            for tag in long {
                let error = PublishError::new(Kind::TooLarge, "the message is longer than the broker takes");
                told.extend(self.waiting.remove(&tag).map(|sent| (sent.number, Err(error))));
            }
            return Ending::answer(reason);
        }
        let numbers = || self.waiting.values().map(|sent| sent.number);
        let (kind, meant): (_, Vec<u64>) = match code {
            // `ACCESS_REFUSED - access to topic 'a.b' in exchange 'e' in vhost '/' refused for user 'gw'`, a routing key that is; or all.
            403 => match text.split_once("access to topic '") {
                Some((_, rest)) => {
                    let of_key = |sent: &&Sent| {
                        rest.strip_prefix(&*sent.key).is_some_and(|rest| rest.starts_with('\''))
                    };
                    (Kind::Denied, self.waiting.values().filter(of_key).map(|sent| sent.number).collect())
                }
                None => (Kind::Denied, numbers().collect()),
            },
            // All go to the same exchange.
            404 => (Kind::Rejected, numbers().collect()),
            406 => (Kind::Rejected, self.suspect(&reason).into_iter().collect()),
            _ => return Ending::of(reason),
        };
        told.extend(meant.into_iter().map(|number| (number, Err(PublishError::new(kind, reason.clone())))));
        Ending::answer(reason)
    }
}

impl Publisher {
    /// Something of one message is wrong: returns its number once that is clear.
    fn suspect(&self, reason: &str) -> Option<u64> {
        let mut suspects = self.suspects.lock();
        let upto = self.waiting.last_key_value().map(|(_, sent)| sent.number)?;
        if self.waiting.len() > 1 {
            let room = self.waiting.len().isqrt();
            let before = suspects.take();
            let upto = before.as_ref().map_or(upto, |before| before.upto.max(upto));
            *suspects = Some(Suspects { upto, room, last: before.and_then(|before| before.last), all: None });
            return None;
        }
        if let Some(suspects) = &mut *suspects {
            let error = || PublishError::new(Kind::Rejected, reason.to_owned());
            suspects.all = suspects.last.as_ref().filter(|last| *last == reason).map(|_| error());
            suspects.last = Some(reason.to_owned());
        }
        Some(upto)
    }
}

/// The properties of a message: what is configured, and our headers.
fn properties(message: &Message, config: &AmqpProducer) -> Result<Vec<u8>, PublishError> {
    if let Some(passed) = message.passed.as_ref().and_then(|passed| passed.properties.as_ref()) {
        return Ok(passed.encode(message.id, &message.headers));
    }
    let mut table = Writer::default();
    for (name, value) in headers::each(message) {
        // These route copies to queues of their own, which is not for an edge to say; and as text they end the channel.
        if matches!(name, "CC" | "BCC") {
            continue;
        }
        if name.len() > 255 {
            return Err(PublishError::new(Kind::Rejected, "the name of a header has at most 255 bytes"));
        }
        table.short(name);
        table.u8(b'S');
        table.long(&value);
    }
    let content_type =
        message.content_type.as_deref().filter(|own| own.len() <= 255).unwrap_or(&config.content_type);
    let seconds = message.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = |bit: u16, text: &str| (!text.is_empty()).then(|| (bit, text.to_owned()));
    let (mut flags, mut values) = (0_u16, Writer::default());
    for (bit, value) in [text(15, content_type), text(14, &config.content_encoding)].into_iter().flatten() {
        flags |= 1 << bit;
        values.short(&value);
    }
    flags |= 1 << 13;
    values.long(&table.into_bytes());
    for (bit, value) in [(12, config.delivery_mode), (11, config.priority)] {
        if value != 0 {
            flags |= 1 << bit;
            values.u8(value);
        }
    }
    let id = message.id.to_string();
    let middle = [text(9, &config.reply_to), text(8, &config.expiration), text(7, &id)];
    for (bit, value) in middle.into_iter().flatten() {
        flags |= 1 << bit;
        values.short(&value);
    }
    flags |= 1 << 6;
    values.u64(seconds);
    let last = [text(5, &config.r#type), text(4, &config.user_id), text(3, &config.app_id)];
    for (bit, value) in last.into_iter().flatten() {
        flags |= 1 << bit;
        values.short(&value);
    }
    let mut all = Vec::with_capacity(256);
    all.put_u16(flags);
    all.extend_from_slice(&values.into_bytes());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher(suspects: &Arc<Mutex<Option<Suspects>>>) -> Publisher {
        Publisher {
            config: Arc::default(),
            limit: Limit::new(),
            suspects: Arc::clone(suspects),
            frame_max: 4096,
            heartbeat: Duration::from_secs(60),
            next: 1,
            waiting: BTreeMap::new(),
            returning: None,
        }
    }

    /// A broker that closes the channel on the messages in `wrong` and confirms the others. Returns how each ended, in order, and how
    /// many channels it took.
    fn serve(count: u64, wrong: &[u64]) -> (Vec<(u64, bool)>, usize) {
        let (suspects, mut ended, mut channels) = (Arc::default(), BTreeMap::new(), 0);
        while ended.len() < usize::try_from(count).unwrap() {
            let mut publisher = publisher(&suspects);
            channels += 1;
            'channel: loop {
                let mut given = Vec::new();
                let has = |number: &u64| publisher.waiting.values().any(|sent| sent.number == *number);
                let left: Vec<u64> =
                    (0..count).filter(|number| !ended.contains_key(number) && !has(number)).collect();
                for number in left {
                    if publisher.room() == 0 {
                        break;
                    }
                    let outgoing = Outgoing { number, message: Arc::new(Message::of_test("t", "x")) };
                    match publisher.encode(&outgoing, &mut BytesMut::new()) {
                        Ok(()) => given.push(number),
                        Err(_) => drop(ended.insert(number, false)),
                    }
                }
                if given.is_empty() {
                    break;
                }
                for number in given {
                    let mut told = Vec::new();
                    let ending = if wrong.contains(&number) {
                        let reason = "PRECONDITION_FAILED - something".to_owned();
                        Some(publisher.closed(true, 406, reason, &mut told))
                    } else {
                        let tag =
                            *publisher.waiting.iter().find(|(_, sent)| sent.number == number).unwrap().0;
                        // Confirms come late: what went before a close is not confirmed.
                        if publisher.waiting.values().all(|sent| !wrong.contains(&sent.number)) {
                            publisher.settle(tag, false, true, &mut told);
                        }
                        None
                    };
                    ended.extend(told.into_iter().map(|(number, result)| (number, result.is_ok())));
                    if let Some(ending) = ending {
                        assert!(ending.answered, "the others would be blamed");
                        break 'channel;
                    }
                }
            }
        }
        (ended.into_iter().collect(), channels)
    }

    #[test]
    fn the_one_that_is_to_blame_is_found_and_the_others_are_taken() {
        for wrong in [0, 7, 42, 99] {
            let (ended, channels) = serve(100, &[wrong]);
            let refused: Vec<u64> =
                ended.iter().filter(|(_, taken)| !taken).map(|(number, _)| *number).collect();
            assert_eq!((refused, ended.len()), (vec![wrong], 100));
            assert!(channels <= 6, "{channels}");
        }
    }

    #[test]
    fn what_all_have_in_common_fails_them_all_soon() {
        let (ended, channels) = serve(1000, &(0..1000).collect::<Vec<_>>());
        assert!(ended.iter().all(|(_, taken)| !taken));
        assert!(channels <= 8, "{channels}");
    }
}
