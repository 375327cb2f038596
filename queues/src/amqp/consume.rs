//! The consumer's part of the protocol: what is said to a broker, and what it says, for [`crate::source`].

use bytes::{Bytes, BytesMut};

pub(crate) use super::handshake::Session;
use super::{
    CHANNEL,
    frame::{self, Frame, Method, Reader, Writer},
    properties::{self, Properties},
};
use crate::ConnectError;

/// Something of a broker.
#[derive(Debug)]
pub(crate) enum Said {
    /// A message follows.
    Deliver { tag: u64, redelivered: bool },
    /// Its header.
    Content(Box<Content>),
    /// A part of its body.
    Body(Bytes),
    /// The consumer is one no more.
    Cancelled,
    /// The broker hangs up, and why.
    Closed(String),
    /// What does not concern a consumer.
    Nothing,
}

/// The header of a message.
#[derive(Debug)]
pub(crate) struct Content {
    /// Bytes of the body.
    pub(crate) size: u64,
    pub(crate) properties: Properties,
    /// As text.
    pub(crate) headers: Vec<(String, Bytes)>,
    /// How often a quorum queue has given it out before.
    pub(crate) delivered: Option<u32>,
}

// === impl Session ===

impl Session {
    /// Begins to consume a queue, with at most so many messages that are not acknowledged.
    pub(crate) async fn consume(&mut self, queue: &str, prefetch: u16) -> Result<(), ConnectError> {
        let mut qos = Writer::method(Method::BASIC_QOS);
        qos.u32(0);
        qos.u16(prefetch);
        qos.u8(0);
        self.send(CHANNEL, qos).await?;
        self.expect(Method::BASIC_QOS_OK).await?;
        let mut consume = Writer::method(Method::BASIC_CONSUME);
        consume.u16(0);
        consume.short(queue);
        consume.short("frontier");
        consume.u8(0);
        consume.u32(0);
        self.send(CHANNEL, consume).await?;
        // What is delivered comes behind it.
        self.expect(Method::BASIC_CONSUME_OK).await.map(drop)
    }
}

/// Takes what the broker says next off the buffer.
pub(crate) fn said(input: &mut BytesMut, frame_max: usize) -> Result<Option<Said>, String> {
    const CUT: &str = "no AMQP: a frame is cut short";
    let Some(Frame { kind, payload }) = Frame::take(input, frame_max)? else { return Ok(None) };
    let said = match kind {
        frame::METHOD => method(&payload).ok_or(CUT)?,
        frame::HEADER => {
            let head = properties::head(&payload).ok_or(CUT)?;
            let properties::Head { size, properties, headers, delivered } = head;
            Said::Content(Box::new(Content { size, properties, headers, delivered }))
        }
        frame::BODY => Said::Body(payload),
        _ => Said::Nothing,
    };
    Ok(Some(said))
}

fn method(payload: &[u8]) -> Option<Said> {
    let mut reader = Reader(payload);
    Some(match reader.method()? {
        Method::BASIC_DELIVER => {
            reader.short()?;
            Said::Deliver { tag: reader.u64()?, redelivered: reader.u8()? & 1 != 0 }
        }
        Method::BASIC_CANCEL => Said::Cancelled,
        Method::CHANNEL_CLOSE | Method::CONNECTION_CLOSE => {
            let (code, text) = reader.refusal()?;
            Said::Closed(format!("closed by the broker: {code} {text}"))
        }
        _ => Said::Nothing,
    })
}

/// Acknowledges a message.
pub(crate) fn ack(tag: u64, out: &mut BytesMut) {
    let mut ack = Writer::method(Method::BASIC_ACK);
    ack.u64(tag);
    ack.u8(0);
    frame::put(frame::METHOD, CHANNEL, &ack.into_bytes(), out);
}

/// Puts a message back where it was.
pub(crate) fn give_back(tag: u64, out: &mut BytesMut) {
    let mut nack = Writer::method(Method::BASIC_NACK);
    nack.u64(tag);
    nack.u8(0b10);
    frame::put(frame::METHOD, CHANNEL, &nack.into_bytes(), out);
}

/// A sign of life.
pub(crate) fn heartbeat(out: &mut BytesMut) {
    frame::put(frame::HEARTBEAT, 0, &[], out);
}

/// Ends the connection in good order, behind everything that was written.
pub(crate) fn goodbye(out: &mut BytesMut) {
    let mut close = Writer::method(Method::CONNECTION_CLOSE);
    close.u16(200);
    close.short("closed");
    close.u32(0);
    frame::put(frame::METHOD, 0, &close.into_bytes(), out);
}
