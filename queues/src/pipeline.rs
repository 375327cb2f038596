//! Brokers that answer commands one by one, in order, on one connection: what Redis and NSQ have in common.
//!
//! Commands are written without waiting for answers; the n-th answer is that of the n-th command.

use std::{collections::VecDeque, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, WriteHalf},
    time::{Instant, sleep_until},
};

use crate::{Message, Outbox, Outgoing, PublishError, socket::Socket};

/// Bytes gathered for one write; no more messages are taken while that much waits for the socket.
const HIGH: usize = 256 << 10;

/// Messages taken at once.
const BATCH: usize = 128;

/// Longest answer that is waited for: those of brokers are a line.
const MAX_ANSWER: usize = 64 << 10;

/// A broker that says nothing for so long is asked for a sign of life; as long again, and it is lost.
const QUIET: Duration = Duration::from_secs(15);

/// How one such broker is spoken to.
pub(crate) trait Protocol: Send {
    /// Writes a message, or says why it cannot be one of this broker.
    fn encode(&mut self, message: &Message, out: &mut BytesMut) -> Result<(), PublishError>;

    /// Reads what the broker says next. `None` while it is not complete; an error ends the connection.
    fn decode(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Option<Event>, String>;

    /// Asks for a sign of life. Returns whether its answer counts as an answer to a command.
    fn ping(&mut self, out: &mut BytesMut) -> bool;
}

/// What a broker said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The answer to the oldest command without one.
    Answer(Result<(), PublishError>),
    /// Such an answer, and the connection is of no use after it: why.
    Last(Result<(), PublishError>, String),
    /// The oldest command without an answer must be sent to another server: why.
    Elsewhere(String),
    /// A sign of life.
    #[expect(dead_code, reason = "NSQ, the next one, has it")]
    Alive,
}

/// Speaks to the broker until the connection is lost; returns why.
pub(crate) async fn run(socket: Socket, mut protocol: impl Protocol, outbox: &mut Outbox) -> String {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let (mut input, mut out) = (BytesMut::with_capacity(4096), BytesMut::new());
    // Numbers of messages without an answer; `None` is a sign of life that was asked for.
    let mut waiting: VecDeque<Option<u64>> = VecDeque::new();
    let mut batch: Vec<Outgoing> = Vec::new();
    let (mut unflushed, mut asked) = (false, false);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            biased;
            read = reader.read_buf(&mut input) => {
                match read {
                    Ok(0) => return "the broker closed the connection".to_owned(),
                    Ok(_) => (heard, asked) = (Instant::now(), false),
                    Err(error) => return error.to_string(),
                }
                loop {
                    match protocol.decode(&mut input, &mut out) {
                        Ok(Some(event)) => if let Err(reason) = settle(event, &mut waiting, outbox) {
                            return reason;
                        },
                        Ok(None) if input.len() > MAX_ANSWER => return "an answer is too long".to_owned(),
                        Ok(None) => break,
                        Err(reason) => return reason,
                    }
                }
            }
            written = push(&mut writer, &mut out), if unflushed || !out.is_empty() => match written {
                Ok(rest) => unflushed = rest,
                Err(error) => return error.to_string(),
            },
            () = outbox.next(BATCH, &mut batch), if out.len() < HIGH => {
                for Outgoing { number, message } in batch.drain(..) {
                    match protocol.encode(&message, &mut out) {
                        Ok(()) => waiting.push_back(Some(number)),
                        Err(error) => outbox.confirm(number, Err(error)),
                    }
                }
            }
            () = sleep_until(heard + if asked { 2 * QUIET } else { QUIET }) => {
                if asked {
                    return "the broker gives no sign of life".to_owned();
                }
                asked = true;
                if protocol.ping(&mut out) {
                    waiting.push_back(None);
                }
            }
        }
    }
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

fn settle(event: Event, waiting: &mut VecDeque<Option<u64>>, outbox: &Outbox) -> Result<(), String> {
    const UNASKED: &str = "the broker answered more than it was asked";
    let (result, last) = match event {
        Event::Alive => return Ok(()),
        // Its message stays unconfirmed, and so goes to the next connection.
        Event::Elsewhere(reason) => return Err(reason),
        Event::Answer(result) => (result, None),
        Event::Last(result, reason) => (result, Some(reason)),
    };
    let number = waiting.pop_front().ok_or_else(|| UNASKED.to_owned())?;
    if let Some(number) = number {
        outbox.confirm(number, result);
    }
    last.map_or(Ok(()), Err)
}
