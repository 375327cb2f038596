//! One connection to a gateway: the socket and its clock around the session's core.
//!
//! A session is polled by the link that owns it. One turn takes notes and operations, reads, writes, looks at the clock, and goes on
//! as long as something moved. Reading never waits for writing, and nothing in a turn waits for anybody.

mod core;
mod handshake;
mod reader;
mod streams;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use frontier_wire::native::{connection::Input, hello::Welcome};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};

use self::core::Core;
pub(crate) use self::handshake::{Greeted, HELLO_MAX, greet};
use crate::{
    error::{ConnectError, Error, ErrorCode},
    mailbox::Note,
    op::{Op, deadline},
    random::Random,
    site::Site,
    transport::Io,
};

/// What one read may bring, in bytes: at first, and at most. Grows when reads fill it, and is given back when nothing comes.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 256 * 1024;

/// Reads and writes per turn, so that neither side starves the other.
const READS: usize = 4;
const WRITES: usize = 8;

/// Turns until the runtime gets its thread back.
const TURNS: usize = 16;

/// Operations taken per turn.
const OPS: usize = 256;

/// Bytes handed to the transport at once, and slices of them per system call.
const FILL: usize = 256 * 1024;
const SLICES: usize = 64;

/// How often things that may be late are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// How long after the last byte the gateway may take to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// What a session has to say to its link.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The gateway asks us to connect anew; until then everything goes on. Said once.
    SentAway(Error),
    /// The session is over.
    Ended(ConnectError),
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Session {
    core: Core,
    io: Io,
    buffer: BytesMut,
    read_size: usize,
    /// What was read with the Welcome.
    rest: Option<Input<Bytes>>,
    notes: Vec<Note>,
    ops: Vec<Op>,
    clock: Clock,
    stage: Stage,
    announced: bool,
}

/// How far a session is with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// Replaced by a newer session: finishes what is under way, then leaves.
    Retiring {
        until: Instant,
    },
    /// The gateway knows that we leave: what is under way may still finish.
    Leaving {
        until: Instant,
    },
    /// Our direction is being closed.
    ShuttingDown {
        until: Instant,
    },
    /// Our direction is closed; waits for the gateway's end so that nothing of ours is lost to a reset.
    Lingering {
        until: Instant,
    },
}

/// When to send a Ping, and when to give up.
#[derive(Debug)]
struct Clock {
    heartbeat: Duration,
    /// The next Ping if nothing is sent, or nothing heard, until then.
    ping_at: Instant,
    /// When something was heard last.
    heard: Instant,
    /// Since when the transport has taken nothing although something waits.
    stalled: Option<Instant>,
    sweep_at: Instant,
    timer: Pin<Box<Sleep>>,
    random: Random,
}

// === impl Session ===

impl Session {
    pub(crate) fn new(site: Arc<Site>, greeted: Greeted, now: Instant) -> Self {
        let Greeted { io, conn, welcome, rest } = greeted;
        let clock = Clock::new(heartbeat(site.client.options.heartbeat, &welcome), now);
        let mut core = Core::new(site, conn, &welcome, now);
        // The first one measures the round trip, by which windows grow.
        core.ping(now);
        Self {
            core,
            io,
            buffer: BytesMut::new(),
            read_size: READ_MIN,
            rest: Some(rest),
            notes: Vec::new(),
            ops: Vec::new(),
            clock,
            stage: Stage::Running,
            announced: false,
        }
    }

    /// Runs until there is something to say. Takes operations from `ops` if there are any to be taken.
    ///
    /// # Cancel safety
    /// Safe: all state is in the session.
    pub(crate) async fn run(&mut self, mut ops: Option<&mut mpsc::Receiver<Op>>) -> Turn {
        poll_fn(|cx| self.poll(cx, ops.as_deref_mut())).await
    }

    /// A newer session has taken over: finish what is under way, within `grace`.
    pub(crate) fn retire(&mut self, grace: Duration) {
        if self.stage == Stage::Running {
            self.stage = Stage::Retiring { until: deadline(grace) };
        }
    }

    /// Leave: tell the gateway, let what is under way finish within `grace`, close.
    pub(crate) fn leave(&mut self, reason: Option<&Error>, grace: Duration) {
        if matches!(self.stage, Stage::Running | Stage::Retiring { .. }) {
            self.core.go_away(reason);
            self.stage = Stage::Leaving { until: deadline(grace) };
        }
    }

    /// Hands an operation over outside of [`run`](Self::run).
    pub(crate) fn start(&mut self, op: Op) {
        self.core.on_op(op, Instant::now());
    }

    fn poll(&mut self, cx: &mut Context<'_>, ops: Option<&mut mpsc::Receiver<Op>>) -> Poll<Turn> {
        match self.turns(cx, ops) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(turn)) => Poll::Ready(turn),
            Err(error) => {
                self.core.fail(&why(&error));
                Poll::Ready(Turn::Ended(error))
            }
        }
    }

    fn turns(
        &mut self,
        cx: &mut Context<'_>,
        mut ops: Option<&mut mpsc::Receiver<Op>>,
    ) -> Result<Poll<Turn>, ConnectError> {
        for _ in 0..TURNS {
            let now = Instant::now();
            let mut moved = self.take_notes(cx, now);
            moved |= self.take_ops(cx, ops.as_deref_mut(), now);
            moved |= self.read(cx, now)?;
            moved |= self.write(cx, now)?;
            moved |= self.tick(cx, now)?;
            moved |= self.advance(cx, now)?;
            if !self.announced
                && let Some(error) = &self.core.sent_away
            {
                self.announced = true;
                return Ok(Poll::Ready(Turn::SentAway(error.clone())));
            }
            if !moved {
                return Ok(Poll::Pending);
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    fn take_notes(&mut self, cx: &Context<'_>, now: Instant) -> bool {
        let mut notes = std::mem::take(&mut self.notes);
        self.core.mailbox.take(&mut notes, cx.waker());
        let any = !notes.is_empty();
        for note in notes.drain(..) {
            self.core.on_note(note, now);
        }
        self.notes = notes;
        any
    }

    fn take_ops(&mut self, cx: &mut Context<'_>, ops: Option<&mut mpsc::Receiver<Op>>, now: Instant) -> bool {
        let room = self.core.room().min(OPS);
        let Some(ops) = ops.filter(|_| room > 0) else { return false };
        let Poll::Ready(n) = ops.poll_recv_many(cx, &mut self.ops, room) else { return false };
        let mut batch = std::mem::take(&mut self.ops);
        for op in batch.drain(..) {
            self.core.on_op(op, now);
        }
        self.ops = batch;
        n > 0
    }

    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, ConnectError> {
        let mut moved = false;
        if let Some(rest) = self.rest.take() {
            self.core.on_input(rest, now)?;
            moved = true;
        }
        for _ in 0..READS {
            self.buffer.reserve(self.read_size);
            let space = self.buffer.capacity();
            let read = pin!(self.io.read_buf(&mut self.buffer)).poll(cx);
            let n = match read {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(self.core.ended()),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => {
                    return Err(self
                        .core
                        .sent_away
                        .take()
                        .map_or(ConnectError::Lost(error), ConnectError::SentAway));
                }
            };
            if n == space {
                self.read_size = (self.read_size * 2).min(READ_MAX);
            }
            self.clock.heard = now;
            moved = true;
            let input = Input::new(self.buffer.split().freeze());
            self.core.on_input(input, now)?;
        }
        Ok(moved)
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, ConnectError> {
        let mut moved = false;
        for _ in 0..WRITES {
            self.core.fill(FILL);
            let mut slices = Vec::with_capacity(SLICES.min(8));
            self.core.conn.slices(&mut slices, SLICES);
            if slices.is_empty() {
                self.clock.stalled = None;
                break;
            }
            match Pin::new(&mut self.io).poll_write_vectored(cx, &slices) {
                Poll::Pending => {
                    self.clock.stalled.get_or_insert(now);
                    break;
                }
                Poll::Ready(Ok(0)) => return Err(ConnectError::Lost(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.core.written(n);
                    self.clock.sent(now);
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(self.write_failed(cx, error, now)),
            }
        }
        // TLS keeps records that the socket did not take; it wakes us when it can go on.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.io).poll_flush(cx) {
            return Err(self.write_failed(cx, error, now));
        }
        Ok(moved)
    }

    /// A gateway that closes may have said why before: what it wrote is read to the end.
    fn write_failed(&mut self, cx: &mut Context<'_>, error: io::Error, now: Instant) -> ConnectError {
        match self.read(cx, now) {
            Err(better @ (ConnectError::SentAway(_) | ConnectError::Rejected(_))) => better,
            Ok(_) | Err(_) => {
                self.core.sent_away.take().map_or(ConnectError::Lost(error), ConnectError::SentAway)
            }
        }
    }

    /// Looks at the clock; true if something became due.
    fn tick(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, ConnectError> {
        let silence = self.clock.silence();
        let stalled = self.clock.stalled.is_some_and(|since| now >= since + silence);
        if stalled || now >= self.clock.heard + silence {
            return Err(ConnectError::Silent { after: silence });
        }
        let mut moved = false;
        if now >= self.clock.ping_at {
            self.core.ping(now);
            self.clock.sent(now);
            // Nothing was sent or heard for a while: the buffer is given back.
            self.buffer = BytesMut::new();
            self.read_size = READ_MIN;
            moved = true;
        }
        if now >= self.clock.sweep_at {
            self.core.sweep(now);
            self.clock.sweep_at = now + SWEEP;
            // What was given up is answered: it has to go out.
            moved = true;
        }
        let due = self.due();
        Ok(moved | self.clock.wait(cx, due))
    }

    /// When to look at the clock again.
    fn due(&self) -> Instant {
        let mut due = self.clock.ping_at.min(self.clock.heard + self.clock.silence());
        if let Some(since) = self.clock.stalled {
            due = due.min(since + self.clock.silence());
        }
        if self.core.wants_sweep() {
            due = due.min(self.clock.sweep_at);
        }
        match self.stage {
            Stage::Running => due,
            Stage::Retiring { until }
            | Stage::Leaving { until }
            | Stage::ShuttingDown { until }
            | Stage::Lingering { until } => due.min(until),
        }
    }

    /// Goes on with leaving; true if there was progress.
    fn advance(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, ConnectError> {
        match self.stage {
            Stage::Running => Ok(false),
            Stage::Retiring { until } if self.core.is_idle() || now >= until => {
                // Tells the gateway that this client has moved and has not gone.
                let moved = Error::new(ErrorCode::GatewayDraining, "moved to another connection");
                self.leave(Some(&moved), LINGER);
                Ok(true)
            }
            Stage::Leaving { until } => {
                // Idle is not enough: a call may be on its way that the gateway sent before it heard of our leaving.
                if now < until && (!self.core.is_released() || self.core.conn.wants_write()) {
                    return Ok(false);
                }
                self.stage = Stage::ShuttingDown { until: now + LINGER };
                Ok(true)
            }
            Stage::ShuttingDown { until } => match Pin::new(&mut self.io).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => {
                    self.stage = Stage::Lingering { until: now + LINGER };
                    Ok(true)
                }
                Poll::Pending if now < until => Ok(false),
                Poll::Pending | Poll::Ready(Err(_)) => Err(ConnectError::Closed),
            },
            Stage::Lingering { until } if now >= until => Err(ConnectError::Closed),
            Stage::Retiring { .. } | Stage::Lingering { .. } => Ok(false),
        }
    }
}

/// What operations in flight are told when a session ends.
fn why(error: &ConnectError) -> Error {
    match error {
        ConnectError::Closed => Error::session_closed("the client was closed"),
        other => Error::session_closed(format!("the session ended: {}", other.in_full())),
    }
}

/// The shorter of what the gateway asks for and what the user wants.
fn heartbeat(wanted: Option<Duration>, welcome: &Welcome) -> Duration {
    let asked = Duration::from_millis(welcome.heartbeat_ms.into());
    wanted.map_or(asked, |wanted| wanted.min(asked))
}

// === impl Clock ===

impl Clock {
    fn new(heartbeat: Duration, now: Instant) -> Self {
        // Below that a session would do little else.
        let heartbeat = heartbeat.max(Duration::from_millis(10));
        let mut random = Random::new();
        let ping_at = now + random.around(heartbeat);
        let timer = Box::pin(sleep_until(ping_at));
        Self { heartbeat, ping_at, heard: now, stalled: None, sweep_at: now + SWEEP, timer, random }
    }

    /// Silence after which the other side counts as gone.
    fn silence(&self) -> Duration {
        self.heartbeat.mul_f32(2.5)
    }

    /// Something was sent. The next Ping is due as if nothing more were sent, and in any case while nothing is heard: a side that only
    /// sends would else not learn that nobody is there.
    fn sent(&mut self, now: Instant) {
        self.stalled = None;
        if now < self.heard + self.heartbeat {
            self.ping_at = now + self.random.around(self.heartbeat);
        } else if now >= self.ping_at {
            self.ping_at = now + self.heartbeat / 2;
        }
    }

    /// Waits until `due`, if that is not what the timer waits for already or for longer; true if `due` has come.
    fn wait(&mut self, cx: &mut Context<'_>, due: Instant) -> bool {
        if due < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(due);
        }
        self.timer.as_mut().poll(cx).is_ready()
    }
}
