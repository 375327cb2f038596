//! One connection that messages come by and verdicts go out on, without one waiting for the other; the counterpart of
//! [`crate::pipeline`].

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, WriteHalf},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Inflow,
    desk::{Desk, Verdict},
};
use crate::socket::Socket;

/// No more verdicts are taken while so many bytes wait for the socket.
const HIGH: usize = 256 << 10;

/// Bytes of room for one read.
const READ: usize = 32 << 10;

/// The end of what is written has so long to leave.
const FLUSH: Duration = Duration::from_secs(1);

/// How one broker is listened to.
pub(super) trait Intake: Send {
    /// Reads what the broker says next. `false` while it is not complete; an error ends the connection.
    fn decode(&mut self, input: &mut BytesMut, out: &mut BytesMut, desk: &Arc<Desk>) -> Result<bool, String>;

    /// Carries out a verdict.
    fn rule(&mut self, number: u64, verdict: Verdict, desk: &Desk, out: &mut BytesMut);

    /// When [`Intake::tick`] is to be called.
    fn due(&self) -> Option<Instant>;

    /// Does what is due.
    fn tick(&mut self, now: Instant, desk: &Desk, out: &mut BytesMut);

    /// Shows a sign of life, every [`Intake::beat`].
    fn ping(&mut self, out: &mut BytesMut);

    /// How often; a broker that says nothing for three of these is lost.
    fn beat(&self) -> Duration;

    /// Longest thing that a broker may say at once.
    fn longest(&self) -> usize;

    /// Says goodbye.
    fn leave(&mut self, out: &mut BytesMut);
}

/// A connection of one of our own clients.
pub(super) struct Pipe<I> {
    pub(super) socket: Socket,
    /// What of the broker was read already.
    pub(super) input: BytesMut,
    pub(super) intake: I,
}

// === impl Pipe ===

impl<I: Intake> Inflow for Pipe<I> {
    async fn run(self, desk: &Arc<Desk>) -> String {
        let Self { socket, mut input, mut intake } = self;
        let (mut reader, mut writer) = tokio::io::split(socket);
        let mut out = BytesMut::new();
        let mut verdicts = Vec::new();
        let mut unflushed = false;
        let mut heard = Instant::now();
        let mut beat = heard + intake.beat();
        loop {
            // Beyond the bound of bytes nothing is read: the broker waits. The number of messages is its own to keep.
            let mut open = desk.room().bytes > 0;
            while open {
                match intake.decode(&mut input, &mut out, desk) {
                    Ok(true) => open = desk.room().bytes > 0,
                    Ok(false) if input.len() > intake.longest() => {
                        return "something the broker says is too long".to_owned();
                    }
                    Ok(false) => break,
                    Err(reason) => return reason,
                }
            }
            if open {
                input.reserve(READ);
            } else {
                heard = Instant::now();
            }
            let due = intake.due();
            tokio::select! {
                biased;
                () = desk.quit.cancelled() => {
                    intake.leave(&mut out);
                    drop(timeout(FLUSH, finish(&mut writer, &mut out)).await);
                    return "closed".to_owned();
                }
                read = reader.read_buf(&mut input), if open => match read {
                    Ok(0) => return "the broker closed the connection".to_owned(),
                    Ok(_) => heard = Instant::now(),
                    Err(error) => return error.to_string(),
                },
                written = push(&mut writer, &mut out), if unflushed || !out.is_empty() => match written {
                    Ok(rest) => unflushed = rest,
                    Err(error) => return error.to_string(),
                },
                () = desk.next(&mut verdicts), if out.len() < HIGH => {
                    for (number, verdict) in verdicts.drain(..) {
                        intake.rule(number, verdict, desk, &mut out);
                    }
                }
                () = desk.more_room(), if !open => {}
                () = sleep_until(due.unwrap_or(beat)), if due.is_some() => {
                    intake.tick(Instant::now(), desk, &mut out);
                }
                () = sleep_until(beat) => {
                    if heard.elapsed() >= 3 * intake.beat() {
                        return "the broker gives no sign of life".to_owned();
                    }
                    beat = Instant::now() + intake.beat();
                    // What a broker does not read must not gather.
                    if out.len() < HIGH {
                        intake.ping(&mut out);
                    }
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

async fn finish(writer: &mut WriteHalf<Socket>, out: &mut BytesMut) -> std::io::Result<()> {
    writer.write_all_buf(out).await?;
    writer.flush().await?;
    writer.shutdown().await
}
