//! One connection that messages are written to and answers read from, without one waiting for the other.
//!
//! What is sent and what an answer means is the [`Protocol`]'s; this is the loop around it, the same for all of our own clients.

use std::time::Duration;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, WriteHalf},
    time::{Instant, sleep_until},
};

use crate::{Link, Outbox, Outgoing, PublishError, socket::Socket};

/// Bytes gathered for one write; no more messages are taken while that much waits for the socket.
const HIGH: usize = 256 << 10;

/// Messages taken at once.
const BATCH: usize = 128;

/// How one broker is spoken to.
pub(crate) trait Protocol: Send {
    /// Writes a message, or says why it cannot be one of this broker.
    fn encode(&mut self, outgoing: &Outgoing, out: &mut BytesMut) -> Result<(), PublishError>;

    /// How many messages it takes now.
    fn room(&self) -> usize {
        BATCH
    }

    /// Some messages were written, and nothing more is at hand.
    fn written(&mut self, _: &mut BytesMut) {}

    /// Reads what the broker says next. `false` while it is not complete; an error ends the connection.
    fn decode(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        told: &mut Vec<Told>,
    ) -> Result<bool, Ending>;

    /// Shows and asks for a sign of life, every [`Protocol::beat`].
    fn ping(&mut self, out: &mut BytesMut);

    /// How often; a broker that says nothing for three of these is lost.
    fn beat(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Longest thing that a broker may say.
    fn longest(&self) -> usize {
        64 << 10
    }
}

/// What a broker said about a message.
pub(crate) type Told = (u64, Result<(), PublishError>);

/// A connection of one of our own clients.
pub(crate) struct Pipe<P> {
    pub(crate) socket: Socket,
    /// What of the broker was read already.
    pub(crate) input: BytesMut,
    pub(crate) protocol: P,
}

/// Why a connection is of no use any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// For people.
    pub(crate) reason: String,
    /// A message was answered with it; the others are not to blame.
    pub(crate) answered: bool,
}

// === impl Ending ===

impl Ending {
    /// It fell upon all messages alike.
    pub(crate) fn of(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), answered: false }
    }

    /// It was the answer to a message.
    pub(crate) fn answer(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), answered: true }
    }
}

// === impl Pipe ===

impl<P: Protocol> Link for Pipe<P> {
    async fn run(self, outbox: &mut Outbox) -> String {
        let Self { socket, input, protocol } = self;
        run(socket, input, protocol, outbox).await
    }
}

/// Speaks to the broker until the connection is lost; returns why.
async fn run(
    socket: Socket,
    mut input: BytesMut,
    mut protocol: impl Protocol,
    outbox: &mut Outbox,
) -> String {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let mut out = BytesMut::new();
    let mut batch: Vec<Outgoing> = Vec::new();
    let mut unflushed = false;
    let mut heard = Instant::now();
    let mut beat = heard + protocol.beat();
    if let Err(ending) = listen(&mut protocol, &mut input, &mut out, outbox) {
        return ending.reason;
    }
    loop {
        tokio::select! {
            biased;
            read = reader.read_buf(&mut input) => {
                match read {
                    Ok(0) => return "the broker closed the connection".to_owned(),
                    Ok(_) => heard = Instant::now(),
                    Err(error) => return error.to_string(),
                }
                if let Err(ending) = listen(&mut protocol, &mut input, &mut out, outbox) {
                    if ending.answered {
                        outbox.forgive();
                    }
                    return ending.reason;
                }
            }
            written = push(&mut writer, &mut out), if unflushed || !out.is_empty() => match written {
                Ok(rest) => unflushed = rest,
                Err(error) => return error.to_string(),
            },
            () = outbox.next(protocol.room().min(BATCH), &mut batch), if out.len() < HIGH && protocol.room() > 0 => {
                for outgoing in batch.drain(..) {
                    if let Err(error) = protocol.encode(&outgoing, &mut out) {
                        outbox.confirm(outgoing.number, Err(error));
                    }
                }
                protocol.written(&mut out);
            }
            () = sleep_until(beat) => {
                if heard.elapsed() >= 3 * protocol.beat() {
                    return "the broker gives no sign of life".to_owned();
                }
                beat = Instant::now() + protocol.beat();
                // What a broker does not read must not gather.
                if out.len() < HIGH {
                    protocol.ping(&mut out);
                }
            }
        }
    }
}

/// Hears everything that is complete.
fn listen(
    protocol: &mut impl Protocol,
    input: &mut BytesMut,
    out: &mut BytesMut,
    outbox: &Outbox,
) -> Result<(), Ending> {
    let mut told = Vec::new();
    let ended = loop {
        match protocol.decode(input, out, &mut told) {
            Ok(true) => {}
            Ok(false) if input.len() > protocol.longest() => break Err(Ending::of("an answer is too long")),
            Ok(false) => break Ok(()),
            Err(ending) => break Err(ending),
        }
    };
    for (number, result) in told {
        outbox.confirm(number, result);
    }
    ended
}

/// Writes some of what was gathered, or flushes what was written. Returns whether a flush is due.
async fn push(writer: &mut WriteHalf<Socket>, out: &mut BytesMut) -> std::io::Result<bool> {
    if out.is_empty() {
        writer.flush().await?;
        return Ok(false);
    }
    match writer.write_buf(out).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        _ => Ok(true),
    }
}
