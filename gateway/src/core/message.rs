//! What shards and the async world tell each other.
//!
//! Everything owns its bytes: large bodies travel by reference, small ones are copied into the batch's arena by the sender.

use std::any::Any;

use bytes::Bytes;
use frontier_wire::error::ErrorCode;
use frontier_wire::native::frame::Flags;
use frontier_wire::native::head::Sender;
use frontier_wire::yamux::StreamId;

use crate::core::Bound;
use crate::core::api::Page;
use crate::core::registry::NameKind;
use crate::core::shard::Moved;
use crate::core::stats::OpKind;
use crate::core::table::SessionRef;

/// The origin of operations whose answer nobody waits for, such as `edge_offline`.
pub const NOBODY: SessionRef = SessionRef { shard: u16::MAX, generation: 0, slot: 0 };

/// An operation on its way to the session that shall carry it out.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// Whose operation it is.
    pub from: SessionRef,
    /// Its ID there.
    pub from_id: u64,
    /// What the receiver learns of the sender.
    pub sender: Sender,
    /// Call or message.
    pub kind: OpKind,
    /// More fragments follow.
    pub more: bool,
    /// The head as the sender wrote it.
    pub head: &'a [u8],
    /// The body or its first fragment.
    pub body: Body<'a>,
    /// In microseconds of the shards' clock.
    pub deadline: u64,
    /// The order it belongs to.
    pub flow: u64,
}

/// A body: borrowed from the read buffer, or shared.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// Must be copied to outlive the turn.
    Slice(&'a [u8]),
    /// Travels by reference.
    Shared(Bytes),
}

/// Where an operation may go when its target turns out to be gone.
#[derive(Clone, Debug)]
pub enum Destination {
    /// The edge with this ID.
    Edge(u64),
    /// Any instance that offers a name.
    Name(NameKind, Box<str>),
    /// Nowhere else.
    Fixed,
}

/// One end of a user stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LegRef {
    /// The session.
    pub session: SessionRef,
    /// The stream there.
    pub stream: StreamId,
}

/// What one leg of a stream tells the other.
#[derive(Debug)]
pub enum LegMsg {
    /// The far end answered Open: its OpenAck frame, to be passed on.
    Accepted(Bytes),
    /// The far end refused: its OpenAck frame, after which the stream ends.
    Refused(Bytes),
    /// Bytes.
    Data(Bytes),
    /// Half-close.
    Finish,
    /// Reset.
    Reset,
    /// So many bytes reached the socket: the writer may send as many more.
    Release(u32),
}

/// A message to a shard.
#[derive(Debug)]
pub enum Msg {
    /// Carry out an operation.
    Place { target: SessionRef, place: Box<PlaceOwned> },
    /// More of its body.
    Fragment { target: SessionRef, from: SessionRef, from_id: u64, flags: Flags, head: Bytes, body: Bytes },
    /// The requester does not wait any more.
    Cancel { target: SessionRef, from: SessionRef, from_id: u64, code: ErrorCode },
    /// The requester grants bytes of the response.
    CreditReply { target: SessionRef, from: SessionRef, from_id: u64, bytes: u32 },
    /// An answer, or a part of one.
    Answer { to: SessionRef, id: u64, kind: OpKind, flags: Flags, head: Bytes, body: Bytes },
    /// The operation failed on the way.
    Fail { to: SessionRef, id: u64, kind: OpKind, code: ErrorCode, text: &'static str },
    /// The receiver grants bytes of the operation's body.
    CreditBody { to: SessionRef, id: u64, bytes: u32 },
    /// Another session than the one addressed carries out the operation, under the ID `local`.
    Rerouted { to: SessionRef, id: u64, target: SessionRef, local: u64 },
    /// Open a stream to a session.
    Open { target: SessionRef, open: Box<OpenLeg> },
    /// The session that was to accept a stream is not there or refused to.
    OpenFailed { to: LegRef, code: ErrorCode, text: &'static str },
    /// The far leg exists.
    Joined { to: LegRef, peer: LegRef },
    /// For one leg from the other.
    Leg { to: LegRef, what: LegMsg },
    /// End a session.
    Cut { session: SessionRef, code: ErrorCode, text: &'static str },
    /// End a session because an operator wants it.
    Kick { session: SessionRef },
    /// A service connection moves to this shard.
    Adopt(Box<Adopt>),
    /// Describe the sessions of a role in so many slots.
    Scan { from: u32, slots: u32, bound: Bound, reply: ScanReply },
    /// Tell the peers of a role to go away, spread over this many milliseconds.
    Drain { edges: bool, spread_ms: u32 },
    /// A connection that an async task accepted (TLS) or that another shard's listener accepted.
    Connection(Box<dyn Any + Send>),
}

/// Messages for one shard, and what they take.
#[derive(Debug, Default)]
pub struct Batch {
    msgs: Vec<Msg>,
    held: usize,
}

/// Gets a page of a scan.
pub struct ScanReply(pub Box<dyn FnOnce(Page) + Send>);

/// [`Place`] with bytes of its own.
#[derive(Debug)]
pub struct PlaceOwned {
    /// See [`Place`].
    pub from: SessionRef,
    /// See [`Place`].
    pub from_id: u64,
    /// See [`Place`].
    pub sender: Sender,
    /// See [`Place`].
    pub kind: OpKind,
    /// See [`Place`].
    pub more: bool,
    /// See [`Place`].
    pub head: Bytes,
    /// See [`Place`].
    pub body: Bytes,
    /// See [`Place`].
    pub deadline: u64,
    /// See [`Place`].
    pub flow: u64,
    /// Where else it may go if the target is gone.
    pub destination: Destination,
    /// How often it was sent on already.
    pub hops: u8,
}

/// A stream that one session opens to another.
#[derive(Debug)]
pub struct OpenLeg {
    /// The opener's leg.
    pub from: LegRef,
    /// What the acceptor learns of the opener.
    pub sender: Sender,
    /// The head of Open as the opener wrote it.
    pub head: Bytes,
    /// In microseconds of the shards' clock.
    pub deadline: u64,
}

/// A session on its way to another shard, with the driver's part of it.
pub struct Adopt {
    /// The core's part.
    pub moved: Moved,
    /// The driver's part.
    pub io: Box<dyn Any + Send>,
}

// === impl Msg ===

impl Msg {
    /// The session that handling this message is about.
    #[must_use]
    pub fn session(&self) -> Option<SessionRef> {
        match self {
            Self::Place { target: session, .. }
            | Self::Fragment { target: session, .. }
            | Self::Cancel { target: session, .. }
            | Self::CreditReply { target: session, .. }
            | Self::Answer { to: session, .. }
            | Self::Fail { to: session, .. }
            | Self::CreditBody { to: session, .. }
            | Self::Rerouted { to: session, .. }
            | Self::Open { target: session, .. }
            | Self::OpenFailed { to: LegRef { session, .. }, .. }
            | Self::Joined { to: LegRef { session, .. }, .. }
            | Self::Leg { to: LegRef { session, .. }, .. }
            | Self::Cut { session, .. }
            | Self::Kick { session } => Some(*session),
            Self::Adopt(_) | Self::Scan { .. } | Self::Drain { .. } | Self::Connection(_) => None,
        }
    }

    /// Bytes of memory that the message takes while it waits. A session on its way is in the books already.
    #[must_use]
    pub fn held(&self) -> usize {
        let more = match self {
            Self::Place { place, .. } => size_of::<PlaceOwned>() + place.head.len() + place.body.len(),
            Self::Fragment { head, body, .. } | Self::Answer { head, body, .. } => head.len() + body.len(),
            Self::Open { open, .. } => size_of::<OpenLeg>() + open.head.len(),
            Self::Leg {
                what: LegMsg::Data(bytes) | LegMsg::Accepted(bytes) | LegMsg::Refused(bytes),
                ..
            } => bytes.len(),
            Self::Adopt(adopt) => {
                let said = &adopt.moved.said;
                size_of::<Adopt>() + said.hello.len() + said.frames.len() + said.raw.len()
            }
            Self::Leg { what: LegMsg::Finish | LegMsg::Reset | LegMsg::Release(_), .. }
            | Self::Cancel { .. }
            | Self::CreditReply { .. }
            | Self::Fail { .. }
            | Self::CreditBody { .. }
            | Self::Rerouted { .. }
            | Self::OpenFailed { .. }
            | Self::Joined { .. }
            | Self::Cut { .. }
            | Self::Kick { .. }
            | Self::Scan { .. }
            | Self::Drain { .. }
            | Self::Connection(_) => 0,
        };
        size_of::<Self>() + more
    }
}

// === impl Batch ===

impl Batch {
    /// Messages whose room is kept for the next ones.
    const KEPT: usize = 4_096;

    /// Adds a message at the end.
    pub fn push(&mut self, msg: Msg) {
        self.held += msg.held();
        self.msgs.push(msg);
    }

    /// Moves all messages of another batch to the end of this one.
    pub fn append(&mut self, other: &mut Self) {
        self.held += std::mem::take(&mut other.held);
        if self.msgs.is_empty() {
            std::mem::swap(&mut self.msgs, &mut other.msgs);
        } else {
            self.msgs.append(&mut other.msgs);
        }
    }

    /// Takes all messages out, in order. Their room stays for others.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Msg> {
        self.held = 0;
        self.msgs.drain(..)
    }

    /// Gives back the room of a burst.
    pub fn trim(&mut self) {
        if self.msgs.capacity() > Self::KEPT {
            self.msgs.shrink_to(Self::KEPT);
        }
    }

    /// Bytes of memory that the messages take.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.msgs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.msgs.is_empty()
    }
}

impl From<Msg> for Batch {
    fn from(msg: Msg) -> Self {
        Self { held: msg.held(), msgs: vec![msg] }
    }
}

// === impl Body ===

impl Body<'_> {
    /// Bytes in the body.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether the body is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Slice(slice) => slice,
            Self::Shared(bytes) => bytes,
        }
    }

    /// The bytes, copied only if they are borrowed.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Slice(slice) => Bytes::copy_from_slice(slice),
            Self::Shared(bytes) => bytes,
        }
    }
}

// === impl PlaceOwned ===

impl PlaceOwned {
    /// The operation, borrowing this one's bytes.
    #[must_use]
    pub fn borrow(&self) -> Place<'_> {
        Place {
            from: self.from,
            from_id: self.from_id,
            sender: self.sender,
            kind: self.kind,
            more: self.more,
            head: &self.head,
            body: Body::Shared(self.body.clone()),
            deadline: self.deadline,
            flow: self.flow,
        }
    }
}

impl std::fmt::Debug for ScanReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScanReply")
    }
}

impl std::fmt::Debug for Adopt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adopt").field("moved", &self.moved).finish_non_exhaustive()
    }
}
