//! A scripted edge or service over a blocking socket.
//!
//! It uses the sans-IO connection of `wire` for the multiplexer and builds every head from the generated structs, not from the hot-path
//! writers that the gateway uses, so that each side checks the other. [`Wire`] sends and shows single frames and anything else, however
//! wrong; [`Peer`] behaves: it answers pings, joins fragments and grants credit, unless told otherwise.

mod dial;
mod operations;
mod streams;
mod wire;
mod worker;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameType},
        hello::Welcome,
        proto,
    },
    yamux::StreamId,
};

pub use self::{
    dial::Dial,
    wire::{Closed, Event, Frame, Transport, Wire},
    worker::Worker,
};
use self::{
    operations::{Assembly, Transfer},
    streams::Streams,
};

/// ID of the pings that are sent by themselves; their answers are not shown.
const HEARTBEAT: u64 = u64::MAX;

/// What an operation came to.
pub type Answer = Result<Vec<u8>, Refusal>;

/// An error as the other side sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// The text.
    pub text: String,
    /// When to come again, in milliseconds; 0 = not said.
    pub retry_after_ms: u32,
}

/// What a peer received.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A Request or Publish, its fragments joined.
    Operation {
        /// Which of the two.
        kind: FrameType,
        /// What to answer to.
        id: u64,
        /// Its head.
        call: proto::Call,
        /// The body, or what came of it before it was aborted.
        body: Vec<u8>,
        /// The sender gave up.
        aborted: bool,
    },
    /// A Response or Ack, its fragments joined.
    Answer {
        /// The operation it answers.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// The other side wants a stream.
    Open {
        /// The stream.
        stream: StreamId,
        /// The head of Open.
        call: proto::Call,
    },
    /// A frame on a user stream, Open excepted.
    StreamFrame(StreamId, Frame),
    /// The other side half-closed a user stream.
    Finished(StreamId),
    /// The other side reset a user stream.
    Reset(StreamId),
    /// Any other frame of the session stream.
    Frame(Frame),
    /// The connection is over.
    Closed(Closed),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Peer {
    /// The connection, for what a peer should not do.
    pub wire: Wire,
    welcome: Welcome,
    next_id: u64,
    grants_credit: bool,
    inbox: VecDeque<Incoming>,
    transfers: HashMap<(FrameType, u64), Transfer>,
    assemblies: HashMap<(FrameType, u64), Assembly>,
    streams: Streams,
    heartbeat: Duration,
    last_ping: Instant,
}

// === impl Refusal ===

impl Refusal {
    fn from_proto(error: &proto::Error) -> Self {
        let code = ErrorCode::from_wire(error.code.cast_unsigned());
        Self { code, text: error.text.clone(), retry_after_ms: error.retry_after_ms }
    }
}

/// An error for a head.
#[must_use]
pub fn error(code: ErrorCode, text: &str) -> proto::Error {
    proto::Error { code: code.to_wire().cast_signed(), text: text.to_owned(), retry_after_ms: 0 }
}

// === impl Peer ===

impl Peer {
    fn new(wire: Wire, welcome: Welcome) -> Self {
        // The rule is once per heartbeat; twice leaves room for a machine that is slow now and then.
        let heartbeat = Duration::from_millis(u64::from(welcome.heartbeat_ms) / 2);
        Self {
            wire,
            welcome,
            next_id: 1,
            grants_credit: true,
            inbox: VecDeque::new(),
            transfers: HashMap::new(),
            assemblies: HashMap::new(),
            streams: Streams::default(),
            heartbeat,
            last_ping: Instant::now(),
        }
    }

    /// What the gateway granted.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Its ID.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.welcome.id
    }

    /// From now on bodies that come in fragments get no credit by themselves.
    pub fn withhold_credit(&mut self) {
        self.grants_credit = false;
    }

    /// The next thing that came; `None` if nothing did within the time.
    ///
    /// # Errors
    /// When the gateway breaks the protocol.
    pub fn next(&mut self, within: Duration) -> anyhow::Result<Option<Incoming>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(incoming) = self.inbox.pop_front() {
                return Ok(Some(incoming));
            }
            if !self.pump(deadline)? {
                return Ok(None);
            }
        }
    }

    /// The first thing that `pick` takes, as soon as it comes; everything else waits its turn.
    ///
    /// # Errors
    /// When it does not come within the time, or the connection ends.
    pub fn wait<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(&Incoming) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + within;
        let mut seen = 0;
        loop {
            while let Some(incoming) = self.inbox.get(seen) {
                if let Some(value) = pick(incoming) {
                    self.inbox.remove(seen);
                    return Ok(value);
                }
                if let Incoming::Closed(closed) = incoming {
                    bail!("connection is over ({closed:?}) while waiting for {what}");
                }
                seen += 1;
            }
            if !self.pump(deadline)? {
                bail!("{what}: not within {within:?}; seen: {:?}", self.inbox);
            }
        }
    }

    /// A frame of the session stream of this type.
    ///
    /// # Errors
    /// As [`Peer::wait`].
    pub fn frame(&mut self, kind: FrameType, within: Duration) -> anyhow::Result<Frame> {
        self.wait(kind.name(), within, |incoming| match incoming {
            Incoming::Frame(frame) if frame.kind == kind => Some(frame.clone()),
            _ => None,
        })
    }

    /// How the connection ends, whatever comes before.
    ///
    /// # Errors
    /// When it does not end within the time.
    pub fn closed(&mut self, within: Duration) -> anyhow::Result<Closed> {
        self.wait("end of the connection", within, |incoming| match incoming {
            Incoming::Closed(closed) => Some(*closed),
            _ => None,
        })
    }

    /// The GoAway that ends the connection, and that it does end.
    ///
    /// # Errors
    /// When there is none or the connection stays.
    pub fn sent_away(&mut self, within: Duration) -> anyhow::Result<Refusal> {
        let frame = self.frame(FrameType::GoAway, within)?;
        self.closed(within)?;
        let away = frame.head_as::<proto::GoAway>()?;
        let reason = away.reason.context("GoAway without a reason")?;
        Ok(Refusal { retry_after_ms: away.reconnect_in_ms, ..Refusal::from_proto(&reason) })
    }

    /// Sends a frame on the session stream.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(
        &mut self,
        kind: FrameType,
        id: u64,
        head: &impl prost::Message,
        body: &[u8],
    ) -> anyhow::Result<()> {
        self.wire.frame(kind, Flags::NONE, id, &head.encode_to_vec(), body)
    }

    /// A new ID for an operation.
    pub fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Registers methods and topics, or takes them back.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub fn names(
        &mut self,
        kind: FrameType,
        methods: &[&str],
        topics: &[&str],
        within: Duration,
    ) -> anyhow::Result<Answer> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let id = self.new_id();
        self.send(kind, id, &proto::Names { methods: own(methods), topics: own(topics) }, &[])?;
        self.answer(id, within)
    }

    /// Pings the gateway and waits for the answer: whatever was sent before has been handled then.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn sync(&mut self, within: Duration) -> anyhow::Result<()> {
        let id = self.new_id();
        self.wire.frame(FrameType::Ping, Flags::NONE, id, &[], &[])?;
        self.wait("pong", within, |incoming| match incoming {
            Incoming::Frame(frame) if frame.kind == FrameType::Pong && frame.id == id => Some(()),
            _ => None,
        })
    }

    /// Handles one event of the connection; false if none came until the deadline.
    fn pump(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        let now = Instant::now();
        if now.duration_since(self.last_ping) >= self.heartbeat {
            self.last_ping = now;
            // A connection that is over is noticed by reading.
            drop(self.wire.frame(FrameType::Ping, Flags::NONE, HEARTBEAT, &[], &[]));
        }
        let slice = deadline.min(self.last_ping + self.heartbeat);
        let Some(event) = self.wire.next(slice.saturating_duration_since(now))? else {
            return Ok(Instant::now() < deadline);
        };
        match event {
            Event::Frame(frame) => self.on_frame(frame)?,
            Event::Opened(stream) => self.streams.opened(stream),
            Event::Bytes(stream, bytes) => self.on_stream_bytes(stream, &bytes)?,
            Event::Finished(stream) => self.inbox.push_back(Incoming::Finished(stream)),
            Event::Reset(stream) => self.inbox.push_back(Incoming::Reset(stream)),
            Event::Closed(closed) => {
                self.inbox.push_back(Incoming::Closed(closed));
                // The end is said once; whoever asks again gets nothing more.
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn on_frame(&mut self, frame: Frame) -> anyhow::Result<()> {
        match frame.kind {
            FrameType::Ping => self.wire.frame(FrameType::Pong, Flags::NONE, frame.id, &[], &[]),
            FrameType::Pong if frame.id == HEARTBEAT => Ok(()),
            FrameType::Request | FrameType::Publish | FrameType::Response | FrameType::Ack => {
                self.on_body(frame)
            }
            FrameType::Credit if self.on_credit(&frame)? => Ok(()),
            FrameType::Cancel => {
                // What has come of its body is of no use any more.
                self.assemblies.remove(&(FrameType::Request, frame.id));
                self.assemblies.remove(&(FrameType::Publish, frame.id));
                self.inbox.push_back(Incoming::Frame(frame));
                Ok(())
            }
            _ => {
                self.inbox.push_back(Incoming::Frame(frame));
                Ok(())
            }
        }
    }
}
