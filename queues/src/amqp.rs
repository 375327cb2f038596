//! AMQP 0-9-1, as RabbitMQ speaks it: publisher confirms on one channel, mandatory returns, declarations at every connection.
//!
//! A small client of our own: one channel that only publishes is little, and the usual library brings a runtime of its own, sends again
//! in an order of its own and takes no TLS settings of ours. [`frame`] reads and writes, [`handshake`] connects and declares; here
//! messages flow.

mod frame;
mod handshake;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::{BufMut, BytesMut};

use self::{
    frame::{Frame, Method, Reader, Writer},
    handshake::Session,
};
use crate::{
    Broker, ConnectError, Kind, Link, Message, MessageId, Outbox, Outgoing, PublishError,
    config::{self, Address, AmqpProducer},
    headers,
    pipeline::{self, Ending, Protocol, Told},
    socket::Socket,
};

/// The channel everything happens on.
const CHANNEL: u16 = 1;
/// The class of publishing, in headers of contents.
const BASIC: u16 = 60;

/// See the module documentation.
pub(crate) struct Amqp {
    config: Arc<config::Amqp>,
    /// The longest message that the broker takes, learnt when it refused one; it does not say so before.
    limit: Arc<parking_lot::Mutex<usize>>,
}

/// A connection.
pub(crate) struct AmqpLink {
    socket: Socket,
    input: BytesMut,
    publisher: Publisher,
}

struct Publisher {
    config: Arc<config::Amqp>,
    limit: Arc<parking_lot::Mutex<usize>>,
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
        Self { config: Arc::new(config.clone()), limit: Arc::new(parking_lot::Mutex::new(usize::MAX)) }
    }
}

impl Broker for Amqp {
    type Link = AmqpLink;

    fn addresses(&self) -> Vec<Arc<str>> {
        self.config.addrs.iter().map(Address::shown).collect()
    }

    async fn connect(&mut self, index: usize) -> Result<AmqpLink, ConnectError> {
        let mut session = Session::connect(&self.config, &self.config.addrs[index]).await?;
        session.declare(&self.config).await?;
        let publisher = Publisher {
            config: Arc::clone(&self.config),
            limit: Arc::clone(&self.limit),
            frame_max: session.frame_max,
            heartbeat: session.heartbeat,
            next: 1,
            waiting: BTreeMap::new(),
            returning: None,
        };
        Ok(AmqpLink { socket: session.socket, input: session.input, publisher })
    }
}

// === impl AmqpLink ===

impl Link for AmqpLink {
    async fn run(self, outbox: &mut Outbox) -> String {
        pipeline::run_from(self.socket, self.input, self.publisher, outbox).await
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
        if body.len() > *self.limit.lock() {
            return Err(PublishError::new(Kind::TooLarge, "the message is longer than the broker takes"));
        }
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
        let sent = Sent { number: outgoing.number, id: message.id, size: body.len(), returned: None };
        self.waiting.insert(self.next, sent);
        self.next += 1;
        Ok(())
    }

    fn decode(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        told: &mut Vec<Told>,
    ) -> Result<bool, Ending> {
        let Some(frame) = Frame::take(input, self.frame_max).map_err(Ending::of)? else { return Ok(false) };
        match frame.kind {
            frame::METHOD => self.heard(&frame.payload, out, told)?,
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
    fn heard(&mut self, payload: &[u8], out: &mut BytesMut, told: &mut Vec<Told>) -> Result<(), Ending> {
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
        // Nothing that comes here wants an answer but a close, and that one ends with the connection.
        let _ = out;
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
            *self.limit.lock() = *limit;
            let long: Vec<u64> =
                self.waiting.iter().filter(|(_, sent)| sent.size >= *size).map(|(tag, _)| *tag).collect();
            for tag in long {
                let error = PublishError::new(Kind::TooLarge, "the message is longer than the broker takes");
                told.extend(self.waiting.remove(&tag).map(|sent| (sent.number, Err(error))));
            }
            return Ending::answer(reason);
        }
        let kind = match code {
            403 => Kind::Denied,
            404 | 406 => Kind::Rejected,
            _ => return Ending::of(reason),
        };
        let all = std::mem::take(&mut self.waiting).into_values();
        told.extend(all.map(|sent| (sent.number, Err(PublishError::new(kind, reason.clone())))));
        Ending::answer(reason)
    }
}

/// The properties of a message: what is configured, and our headers.
fn properties(message: &Message, config: &AmqpProducer) -> Result<Vec<u8>, PublishError> {
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
