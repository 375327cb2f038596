//! What handles ask of a session.

use std::time::Duration;

use bytes::Bytes;
use frontier_wire::native::frame::FrameType;
use tokio::time::Instant;

use crate::{error::Error, presence::EdgeInfo, promise::Promise, reply::Reply, stream::Opened};

/// An operation on its way from a handle to the driver.
#[derive(Debug)]
pub(crate) enum Op {
    /// A call or a message.
    Send(Box<Outgoing>),
    /// Methods and topics offered, or no longer.
    Names(Names),
    /// Where is this edge?
    Locate { edge: u64, promise: Promise<u64> },
    /// Who is online?
    Presence { promise: Promise<Vec<EdgeInfo>> },
    /// A stream.
    Open(Open),
}

/// A call or a message.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) kind: SendKind,
    /// The head without deadline and length, which are appended when it goes.
    pub(crate) head: Vec<u8>,
    pub(crate) body: Bytes,
    pub(crate) deadline: Instant,
    /// Messages of the same number keep their order.
    pub(crate) order: u64,
    pub(crate) promise: Promise<Reply>,
}

/// Call or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SendKind {
    Request,
    Publish,
}

/// A registration or its end.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) register: bool,
    pub(crate) lists: NameLists,
    pub(crate) promise: Promise<Reply>,
}

/// Methods and topics.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameLists {
    pub(crate) methods: Vec<Box<str>>,
    pub(crate) topics: Vec<Box<str>>,
}

/// A stream to be opened.
#[derive(Debug)]
pub(crate) struct Open {
    /// The head without deadline, which is appended when it goes.
    pub(crate) head: Vec<u8>,
    pub(crate) deadline: Instant,
    pub(crate) promise: Promise<Opened>,
}

// === impl SendKind ===

impl SendKind {
    pub(crate) const fn frame(self) -> FrameType {
        match self {
            Self::Request => FrameType::Request,
            Self::Publish => FrameType::Publish,
        }
    }
}

// === impl Op ===

impl Op {
    /// Whether nobody waits for the outcome any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Send(send) => send.promise.is_abandoned(),
            Self::Names(names) => names.promise.is_abandoned(),
            Self::Locate { promise, .. } => promise.is_abandoned(),
            Self::Presence { promise } => promise.is_abandoned(),
            Self::Open(open) => open.promise.is_abandoned(),
        }
    }

    /// Tells whoever waits that the operation was not sent.
    pub(crate) fn give_back(self) {
        let error = Error::session_closed("the gateway is not connected").unsent();
        match self {
            Self::Send(send) => send.promise.fulfil(Err(error)),
            Self::Names(names) => names.promise.fulfil(Err(error)),
            Self::Locate { promise, .. } => promise.fulfil(Err(error)),
            Self::Presence { promise } => promise.fulfil(Err(error)),
            Self::Open(open) => open.promise.fulfil(Err(error)),
        }
    }
}

/// A deadline that exists: what lies beyond the end of time counts as a year.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + timeout.min(YEAR)
}
