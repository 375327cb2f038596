//! Connecting to a broker of AMQP 0-9-1, and declaring what is configured.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    CHANNEL,
    frame::{self, Frame, Method, Reader, Writer},
};
use crate::{
    ConnectError,
    config::{self, Address, AmqpBinding, AmqpExchange, AmqpQueue},
    socket::{self, Socket},
};

/// What both sides may send before they have agreed on more.
const FIRST_FRAMES: usize = 64 << 10;
/// Frames we would make if the broker set no bound.
const LARGE_FRAMES: usize = 128 << 10;
/// Signs of life if neither side has a wish.
const HEARTBEAT: u16 = 60;

/// A connection with an open channel, on which nothing is published yet.
pub(crate) struct Session {
    pub(crate) socket: Socket,
    pub(crate) input: BytesMut,
    pub(crate) frame_max: usize,
    pub(crate) heartbeat: Duration,
}

// === impl Session ===

impl Session {
    pub(crate) async fn connect(config: &config::Amqp, address: &Address) -> Result<Self, ConnectError> {
        let stream = socket::dial(address).await?;
        let tls = config.tls.client(address.secure()).map_err(ConnectError::refused)?;
        let socket: Socket = match tls {
            Some(tls) => socket::secure(stream, tls, config.tls.name(address.host())).await?,
            None => Box::new(stream),
        };
        let input = BytesMut::with_capacity(4096);
        let heartbeat = Duration::from_secs(u64::from(HEARTBEAT));
        let mut session = Self { socket, input, frame_max: FIRST_FRAMES, heartbeat };
        session.write(b"AMQP\0\0\x09\x01").await?;
        session.expect(Method::CONNECTION_START).await?;
        session.send(0, start_ok(config, address).map_err(ConnectError::refused)?).await?;
        let tune = session.expect(Method::CONNECTION_TUNE).await?;
        let tune_ok = session.tune(config, &tune).ok_or_else(cut)?;
        session.send(0, tune_ok).await?;
        let mut open = Writer::method(Method::CONNECTION_OPEN);
        let host = if config.vhost.is_empty() { address.path().unwrap_or("/") } else { &config.vhost };
        open.short(host);
        open.short("");
        open.u8(0);
        session.send(0, open).await?;
        session.expect(Method::CONNECTION_OPEN_OK).await?;
        let mut channel = Writer::method(Method::CHANNEL_OPEN);
        channel.short("");
        session.send(CHANNEL, channel).await?;
        session.expect(Method::CHANNEL_OPEN_OK).await?;
        Ok(session)
    }

    /// Declares exchanges, queues and bindings, and asks for confirms.
    pub(super) async fn declare(&mut self, config: &config::Amqp) -> Result<(), ConnectError> {
        for exchange in &config.exchanges {
            self.send(CHANNEL, declare_exchange(exchange)).await?;
            self.done(exchange.nowait, Method::EXCHANGE_DECLARE_OK).await?;
        }
        for queue in &config.queues {
            self.send(CHANNEL, declare_queue(queue)).await?;
            self.done(queue.nowait, Method::QUEUE_DECLARE_OK).await?;
        }
        for binding in &config.queuebindings {
            self.send(CHANNEL, bind(binding)).await?;
            self.done(binding.nowait, Method::QUEUE_BIND_OK).await?;
        }
        let exchange = &config.producer.exchange;
        if !exchange.is_empty() && !config.exchanges.iter().any(|declared| declared.name == *exchange) {
            // A missing one would end the connection at the first message.
            self.send(CHANNEL, ask_for_exchange(exchange)).await?;
            self.expect(Method::EXCHANGE_DECLARE_OK).await?;
        }
        let mut select = Writer::method(Method::CONFIRM_SELECT);
        select.u8(0);
        self.send(CHANNEL, select).await?;
        self.expect(Method::CONFIRM_SELECT_OK).await.map(drop)
    }

    async fn done(&mut self, nowait: bool, answer: Method) -> Result<(), ConnectError> {
        // An error of what is not waited for comes in place of the next answer.
        if nowait { Ok(()) } else { self.expect(answer).await.map(drop) }
    }

    fn tune(&mut self, config: &config::Amqp, payload: &[u8]) -> Option<Writer> {
        let mut reader = Reader(payload);
        let (channel_max, frame_max, heartbeat) = (reader.u16()?, reader.u32()?, reader.u16()?);
        let smaller = |ours: u32, theirs: u32| {
            if ours == 0 || theirs == 0 { ours.max(theirs) } else { ours.min(theirs) }
        };
        let channel_max = smaller(config.channel_max.into(), channel_max.into());
        let wanted = smaller(config.frame_size, frame_max);
        let frame_max = usize::try_from(wanted).ok().filter(|max| *max != 0).unwrap_or(LARGE_FRAMES);
        // The protocol allows no smaller ones.
        self.frame_max = frame_max.clamp(4096, 1 << 20);
        let heartbeat = match smaller(config.heartbeat, heartbeat.into()) {
            0 => HEARTBEAT,
            seconds => u16::try_from(seconds).unwrap_or(u16::MAX),
        };
        self.heartbeat = Duration::from_secs(heartbeat.max(1).into());
        let mut ok = Writer::method(Method::CONNECTION_TUNE_OK);
        ok.u16(u16::try_from(channel_max).unwrap_or(u16::MAX));
        ok.u32(u32::try_from(self.frame_max).unwrap_or(u32::MAX));
        ok.u16(heartbeat);
        Some(ok)
    }

    pub(super) async fn send(&mut self, channel: u16, method: Writer) -> Result<(), ConnectError> {
        let mut out = BytesMut::new();
        frame::put(frame::METHOD, channel, &method.into_bytes(), &mut out);
        self.write(&out).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        self.socket.write_all(bytes).await.map_err(ConnectError::unreachable)?;
        self.socket.flush().await.map_err(ConnectError::unreachable)
    }

    /// Waits for this answer, and returns what it says.
    pub(super) async fn expect(&mut self, wanted: Method) -> Result<Bytes, ConnectError> {
        loop {
            let Some(frame) =
                Frame::take(&mut self.input, self.frame_max).map_err(ConnectError::unreachable)?
            else {
                if self.socket.read_buf(&mut self.input).await.map_err(ConnectError::unreachable)? == 0 {
                    return Err(ConnectError::unreachable("the broker closed the connection"));
                }
                continue;
            };
            if frame.kind != frame::METHOD {
                continue;
            }
            let mut reader = Reader(&frame.payload);
            match reader.method().ok_or_else(cut)? {
                Method::CONNECTION_CLOSE | Method::CHANNEL_CLOSE => {
                    let (code, text) = reader.refusal().ok_or_else(cut)?;
                    let error = format!("{code} {text}");
                    // 320: an operator or the broker's stop closed it.
                    let again = matches!(code, 320 | 541 | 506);
                    return Err(if again {
                        ConnectError::unreachable(error)
                    } else {
                        ConnectError::refused(error)
                    });
                }
                method if method == wanted => return Ok(frame.payload.slice(4..)),
                _ => {}
            }
        }
    }
}

fn cut() -> ConnectError {
    ConnectError::unreachable("no AMQP: a method is cut short")
}

fn start_ok(config: &config::Amqp, address: &Address) -> Result<Writer, String> {
    let (user, password) = match address.login() {
        Some((user, password)) => (user.to_owned(), password.clone()),
        None => config.login.load()?,
    };
    // What brokers are installed with.
    let guest = user.is_empty() && password.expose().is_empty();
    let user = if user.is_empty() { "guest" } else { &user };
    let password = if guest { "guest" } else { password.expose() };
    let mut capabilities = Writer::default();
    let known = ["publisher_confirms", "basic.nack", "connection.blocked", "authentication_failure_close"];
    for name in known.into_iter().chain(["consumer_cancel_notify"]) {
        capabilities.short(name);
        capabilities.u8(b't');
        capabilities.u8(1);
    }
    let mut properties = Writer::default();
    for (name, value) in [("product", "frontier"), ("version", env!("CARGO_PKG_VERSION"))] {
        properties.short(name);
        properties.u8(b'S');
        properties.long(value.as_bytes());
    }
    properties.short("capabilities");
    properties.u8(b'F');
    properties.long(&capabilities.into_bytes());
    let mut ok = Writer::method(Method::CONNECTION_START_OK);
    ok.long(&properties.into_bytes());
    ok.short("PLAIN");
    ok.long(format!("\0{user}\0{password}").as_bytes());
    ok.short(if config.locale.is_empty() { "en_US" } else { &config.locale });
    Ok(ok)
}

fn bits(bits: &[bool]) -> u8 {
    bits.iter().enumerate().fold(0, |all, (index, bit)| all | u8::from(*bit) << index)
}

fn declare_exchange(exchange: &AmqpExchange) -> Writer {
    let mut declare = Writer::method(Method::EXCHANGE_DECLARE);
    declare.u16(0);
    declare.short(&exchange.name);
    declare.short(if exchange.kind.is_empty() { "direct" } else { &exchange.kind });
    declare.u8(bits(&[false, exchange.durable, exchange.auto_delete, exchange.internal, exchange.nowait]));
    declare.u32(0);
    declare
}

fn ask_for_exchange(name: &str) -> Writer {
    let mut declare = Writer::method(Method::EXCHANGE_DECLARE);
    declare.u16(0);
    declare.short(name);
    declare.short("direct");
    declare.u8(bits(&[true]));
    declare.u32(0);
    declare
}

fn declare_queue(queue: &AmqpQueue) -> Writer {
    let mut declare = Writer::method(Method::QUEUE_DECLARE);
    declare.u16(0);
    declare.short(&queue.name);
    declare.u8(bits(&[false, queue.durable, queue.exclusive, queue.auto_delete, queue.nowait]));
    declare.u32(0);
    declare
}

fn bind(binding: &AmqpBinding) -> Writer {
    let mut bind = Writer::method(Method::QUEUE_BIND);
    bind.u16(0);
    bind.short(&binding.queue_name);
    bind.short(&binding.exchange_name);
    bind.short(&binding.binding_key);
    bind.u8(bits(&[binding.nowait]));
    bind.u32(0);
    bind
}
