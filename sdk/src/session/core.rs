//! One session without its socket: frames, notes and operations in, an outbox and events out.

use std::sync::Arc;

use bytes::Bytes;
use frontier_wire::native::{
    connection::{Connection, Event, Input},
    frame::{FrameHeader, FrameType, MAX_BODY_FRAME},
    head::{ErrorRef, GoAway},
    hello::Welcome,
    limits::FrameLimits,
    outbox::FlowKey,
    reader::Frame,
};
use tokio::time::Instant;

use super::{handshake::sent_away, streams::Streams};
use crate::{
    dialogue::{Dialogue, Sink},
    error::{ConnectError, Error},
    mailbox::{DialogueId, Mailbox, Note},
    op::Op,
    site::Site,
};

/// Bytes of answers that may wait to be written to a gateway that asks and does not read. Far more than one that reads leaves behind.
const OUTBOX_MAX: usize = 256 << 20;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) conn: Connection,
    pub(super) dialogue: Dialogue,
    pub(super) streams: Streams,
    pub(super) mailbox: Arc<Mailbox>,
    site: Arc<Site>,
    /// Operations of ours that may be unanswered.
    max_in_flight: usize,
    /// The gateway sends us away.
    pub(super) sent_away: Option<Error>,
    /// The gateway was told that this side leaves.
    leaving: bool,
    /// The gateway has answered that nothing is under way any more.
    released: bool,
    /// A Pong that did not fit behind what waits already.
    pong: Option<u64>,
    /// The Ping that was not answered yet, and when it went.
    ping: Option<(u64, Instant)>,
    last_ping: u64,
}

/// Where the session stream's frames go.
struct SessionSink<'a>(&'a mut Connection);

// === impl Core ===

impl Core {
    pub(super) fn new(site: Arc<Site>, conn: Connection, welcome: &Welcome, now: Instant) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let client = &site.client;
        let limits = client.options.dialogue_limits(welcome.max_body);
        let dialogue = Dialogue::new(DialogueId::Session, mailbox.clone(), limits, site.budget.clone(), now);
        let streams = Streams::new(site.clone(), mailbox.clone(), welcome.max_body);
        let max_in_flight = usize::try_from(welcome.max_in_flight).unwrap_or(usize::MAX);
        Self {
            conn,
            dialogue,
            streams,
            mailbox,
            site,
            max_in_flight,
            sent_away: None,
            leaving: false,
            released: false,
            pong: None,
            ping: None,
            last_ping: 0,
        }
    }

    /// How many more operations of ours may be started.
    pub(super) fn room(&self) -> usize {
        self.max_in_flight.saturating_sub(self.dialogue.outgoing())
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.dialogue.is_idle() && self.streams.is_empty()
    }

    /// Takes bytes that were read.
    pub(super) fn on_input(&mut self, mut input: Input<Bytes>, now: Instant) -> Result<(), ConnectError> {
        loop {
            let event = self.conn.receive(&mut input, &FrameLimits::DIALER);
            match event.map_err(|error| ConnectError::Protocol(error.to_string()))? {
                Some(event) => self.on_event(event, now)?,
                None => break,
            }
        }
        let ours = self.dialogue.outgoing().saturating_mul(MAX_BODY_FRAME as usize);
        if self.conn.operation_bytes() > OUTBOX_MAX.saturating_add(ours) {
            return Err(ConnectError::Protocol("the gateway asks and does not read the answers".into()));
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event<Bytes>, now: Instant) -> Result<(), ConnectError> {
        match event {
            Event::Frame(frame) => self.on_frame(frame, now),
            Event::StreamOpened(id) => {
                self.streams.opened(id, now);
                Ok(())
            }
            Event::StreamData(id, bytes) => {
                self.streams.data(id, bytes.into_bytes(), now, &mut self.conn);
                Ok(())
            }
            Event::StreamFinished(id) => {
                self.streams.finished(id, &mut self.conn);
                Ok(())
            }
            Event::StreamReset(id) => {
                self.streams.reset(id);
                Ok(())
            }
            Event::Ended => Err(self.ended()),
        }
    }

    /// The gateway has ended the session: with its reason, if it gave one.
    pub(super) fn ended(&mut self) -> ConnectError {
        match self.sent_away.take() {
            Some(error) => ConnectError::SentAway(error),
            None => ConnectError::Lost(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn on_frame(&mut self, frame: Frame<Bytes>, now: Instant) -> Result<(), ConnectError> {
        let broken = |error: &dyn std::error::Error| ConnectError::Protocol(error.to_string());
        match frame.header.kind {
            FrameType::Ping => self.pong = Some(frame.header.id),
            FrameType::Pong => {
                if let Some((id, sent)) = self.ping
                    && id == frame.header.id
                {
                    self.ping = None;
                    self.streams.round_trip = now.saturating_duration_since(sent);
                }
            }
            FrameType::GoAway => {
                let away = GoAway::parse(&frame.head).map_err(|error| broken(&error))?;
                if self.leaving && away.reason.is_none() {
                    self.released = true;
                } else {
                    self.sent_away = Some(sent_away(&away));
                }
            }
            FrameType::Reject => {
                let error = ErrorRef::parse(&frame.head).map_err(|error| broken(&error))?;
                return Err(ConnectError::Rejected(Error::from_wire(error)));
            }
            _ => {
                let mut sink = SessionSink(&mut self.conn);
                self.dialogue.on_frame(frame, now, &mut sink, &*self.site);
            }
        }
        Ok(())
    }

    /// Takes an operation of the user.
    pub(super) fn on_op(&mut self, op: Op, now: Instant) {
        if op.is_abandoned() {
            return;
        }
        let mut sink = SessionSink(&mut self.conn);
        match op {
            Op::Send(send) => self.dialogue.start(send, now, &mut sink),
            Op::Names(names) => self.dialogue.start_names(names, &mut sink),
            Op::Locate { edge, promise } => self.dialogue.start_locate(edge, promise, &mut sink),
            Op::Presence { promise } => self.dialogue.start_presence(promise, &mut sink),
            Op::Open(open) => self.streams.open(open, now, &mut self.conn),
        }
    }

    /// Takes a note of a handler, a stream or a caller that gave up.
    pub(super) fn on_note(&mut self, note: Note, now: Instant) {
        let Self { conn, dialogue, streams, .. } = self;
        match note {
            Note::Answer { dialogue: DialogueId::Session, id, outcome } => {
                dialogue.answer(id, outcome, &mut SessionSink(conn));
            }
            Note::Answer { dialogue: DialogueId::Stream(stream), id, outcome } => {
                streams.answer(stream, id, outcome, conn);
            }
            Note::Cancel { dialogue: DialogueId::Session, id } => dialogue.cancel(id, &mut SessionSink(conn)),
            Note::Cancel { dialogue: DialogueId::Stream(stream), id } => streams.cancel(stream, id, conn),
            Note::StreamOp(id, send) => streams.start(id, send, now, conn),
            Note::StreamData(id, frames) => streams.write(id, frames, conn),
            Note::StreamConsumed(id, bytes) => streams.consumed(id, bytes, now, conn),
            Note::StreamFinish(id) => streams.finish(id, conn),
            Note::StreamAccept(id) => streams.accept(id),
            Note::StreamRefuse(id, error) => streams.refuse(id, &error, now, conn),
            Note::StreamReset(id) => streams.reset_by_user(id, conn),
            Note::StreamAbandon(id) => streams.abandon(id, now),
        }
    }

    /// Moves what is due to the transport, up to `budget` bytes.
    pub(super) fn fill(&mut self, budget: usize) {
        if let Some(id) = self.pong.take() {
            // Only the newest is answered: a gateway that asks without reading must not fill the outbox.
            self.conn.send(FrameHeader::new(FrameType::Pong, id), &[], &[]);
        }
        self.streams.flush(&mut self.conn);
        self.conn.fill(budget);
    }

    /// The transport took so many bytes.
    pub(super) fn written(&mut self, n: usize) {
        let mut to_pump = Vec::new();
        let streams = &mut self.streams;
        self.conn.written(n, |id, bytes| streams.written(id, bytes, &mut to_pump));
        for id in to_pump {
            self.streams.pump(id, &mut self.conn);
        }
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&mut self, now: Instant) {
        self.last_ping += 1;
        self.ping = Some((self.last_ping, now));
        self.conn.send(FrameHeader::new(FrameType::Ping, self.last_ping), &[], &[]);
    }

    /// Tells the gateway that this side leaves.
    pub(super) fn go_away(&mut self, reason: Option<&Error>) {
        let away = GoAway { reconnect_in_ms: 0, reason: reason.map(Error::to_wire) };
        let mut head = Vec::with_capacity(away.encoded_len());
        away.encode(&mut head);
        self.conn.send(FrameHeader::new(FrameType::GoAway, 0), &head, &[]);
        self.leaving = true;
    }

    /// Whether the gateway, too, has nothing under way any more, and has said so since this side said that it leaves.
    pub(super) fn is_released(&self) -> bool {
        self.released && self.is_idle()
    }

    /// Whether [`sweep`](Self::sweep) may have something to do after a second.
    pub(super) fn wants_sweep(&self) -> bool {
        self.dialogue.wants_sweep() || !self.streams.is_empty()
    }

    /// Gives up what should be complete by now.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.dialogue.sweep(now, &mut SessionSink(&mut self.conn));
        self.streams.sweep(now, &mut self.conn);
    }

    /// The session has ended: everybody who waits for it is told.
    pub(super) fn fail(&mut self, error: &Error) {
        // First, so that nobody adds what would not be dealt with. Promises among the notes are kept by their drop.
        drop(self.mailbox.close());
        self.dialogue.fail(error);
        self.streams.fail(error);
    }
}

// === impl SessionSink ===

impl Sink for SessionSink<'_> {
    fn small(&mut self, len: usize) -> &mut Vec<u8> {
        self.0.outbox().small(len)
    }

    fn piece(&mut self, flow: u64, lead: Bytes, body: Bytes) {
        self.0.outbox().push_frame(flow, lead, body);
    }

    fn waits(&mut self, flow: u64) -> bool {
        self.0.outbox().has_flow(FlowKey::Operation(flow))
    }

    fn drop_flow(&mut self, flow: u64) {
        self.0.drop_flow(FlowKey::Operation(flow));
    }

    /// Always: how much may be under way is said by credit, and fragments of different bodies take turns in the outbox.
    fn room(&self) -> bool {
        true
    }
}
