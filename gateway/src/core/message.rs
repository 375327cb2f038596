//! What shards and the async world tell each other.
//!
//! Everything owns its bytes: large bodies travel by reference, small ones are copied into the batch's arena by the sender.

use std::{any::Any, sync::Arc};

use bytes::Bytes;
use frontier_wire::{
    error::ErrorCode,
    geminio::time::Time,
    native::{frame::Flags, head::Sender},
    yamux::StreamId,
};

use crate::core::{
    Bound, api::Page, card::EdgeCard, delivery::Delivery, dialect::Protocol, outlet::Declined, shard::Moved,
    stats::OpKind, table::SessionRef,
};

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
    /// What the body is.
    pub form: Form,
    /// When the sender stops waiting by its own clock, if it has said so to a peer that reads it.
    pub context: Option<Time>,
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

/// How the bytes of a body are to be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    #[default]
    Plain,
    /// Base64 of the payload, checked, as geminio peers write it. Between two of them it is never decoded.
    Base64,
    /// An `EdgeInfo`: the gateway itself asks or tells a service something about an edge.
    EdgeInfo,
}

/// Where an operation may go when its target turns out to be gone.
#[derive(Clone, Debug)]
pub enum Destination {
    /// The edge with this ID.
    Edge(u64),
    /// Any instance that offers a name, of a service if one is named.
    Name {
        /// What offers it: a call its method, a message its topic, a stream its service.
        kind: OpKind,
        /// The name.
        name: Box<str>,
        /// The service, or empty.
        service: Box<str>,
    },
    /// Nowhere else.
    Fixed,
}

/// A stream of a session: the number of its yamux stream, or of its geminio dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(pub u64);

/// One end of a user stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LegRef {
    /// The session.
    pub session: SessionRef,
    /// The stream there.
    pub stream: LegId,
}

/// What one leg of a stream tells the other.
#[derive(Debug)]
pub enum LegMsg {
    /// The far end answered Open: its OpenAck frame, to be passed on, and what it speaks.
    Accepted(Bytes, Protocol),
    /// The far end refused: its OpenAck frame, after which the stream ends.
    Refused(Bytes),
    /// Bytes.
    Data(Bytes),
    /// Half-close.
    Finish,
    /// The far end, a dialogue, has ended in good order.
    Closed,
    /// A call or message, between dialogues.
    Operation(Box<DialogueOperation>),
    /// Its answer.
    Answer(Box<DialogueAnswer>),
    /// Nobody waits any more for the answer to the operation of this number.
    CancelOperation(u64),
    /// Reset.
    Reset,
    /// So many bytes reached the socket: the writer may send as many more.
    Release(u32),
}

/// A call or message on a stream, from one dialogue to another; payloads as they came, in base64.
#[derive(Debug)]
pub struct DialogueOperation {
    /// Its number at the sender.
    pub id: u64,
    /// Call or message.
    pub kind: OpKind,
    /// The method, in base64.
    pub key: Bytes,
    /// The payload.
    pub value: Bytes,
    /// The topic.
    pub topic: Box<str>,
    /// Bytes beside the payload.
    pub custom: Bytes,
    /// When its sender stops waiting, by its own clock.
    pub context: Option<Time>,
    /// In microseconds of the shards' clock.
    pub deadline: u64,
}

/// The answer to a [`DialogueOperation`].
#[derive(Debug)]
pub struct DialogueAnswer {
    /// The operation.
    pub id: u64,
    /// The method, in base64.
    pub key: Bytes,
    /// The payload, in base64.
    pub value: Bytes,
    /// Why it failed; empty = it did not.
    pub error: Box<str>,
}

/// A message to a shard.
#[derive(Debug)]
pub enum Msg {
    /// Carry out an operation.
    Place { target: SessionRef, place: Box<PlaceOwned> },
    /// Give an edge a message of the async world.
    Deliver { target: SessionRef, delivery: Box<Delivery> },
    /// More of its body.
    Fragment { target: SessionRef, from: SessionRef, from_id: u64, flags: Flags, head: Bytes, body: Bytes },
    /// The requester does not wait any more.
    Cancel { target: SessionRef, from: SessionRef, from_id: u64, code: ErrorCode },
    /// The requester grants bytes of the response.
    CreditReply { target: SessionRef, from: SessionRef, from_id: u64, bytes: u32 },
    /// An answer, or a part of one.
    Answer { to: SessionRef, id: u64, kind: OpKind, flags: Flags, head: Bytes, body: Bytes, form: Form },
    /// The operation failed on the way.
    Fail { to: SessionRef, id: u64, kind: OpKind, code: ErrorCode, text: &'static str },
    /// A queue has confirmed or failed a message of a session, which its shard knows by a number.
    Confirmed { to: SessionRef, number: u64, outcome: Result<(), Declined> },
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
    /// End the session of an edge whose ID has a newer session at another gateway, if its epoch is not above this one.
    Lost { session: SessionRef, edge: u64, epoch: u64 },
    /// A service connection moves to this shard.
    Adopt(Box<Adopt>),
    /// Look which edges are online, from a slot on, for the list that a service connection is sent.
    List { to: SessionRef, from: u32 },
    /// What was found, and the slot to go on from.
    Listed { to: SessionRef, next: Option<u32>, cards: Vec<Arc<EdgeCard>> },
    /// Describe the sessions of a role in at most so many slots.
    Scan { from: u32, slots: u32, bound: Bound, reply: ScanReply },
    /// A service has come that knows the IDs of edges.
    IdService,
    /// Tell the peers of a role to go away, spread over this many milliseconds.
    Drain { edges: bool, spread_ms: u32 },
    /// End the sessions of edges that have not gone, so that services hear of it.
    Dismiss,
    /// A connection that an async task accepted (TLS) or that another shard's listener accepted.
    Connection(Box<dyn Any + Send>),
    /// Fault point: handling it panics.
    #[cfg(any(test, feature = "testing"))]
    Fault,
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
    pub form: Form,
    /// See [`Place`].
    pub context: Option<Time>,
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
    /// What the opener speaks.
    pub protocol: Protocol,
    /// Where else it may go if the target is gone.
    pub destination: Destination,
    /// How often it was sent on already.
    pub hops: u8,
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
            | Self::Deliver { target: session, .. }
            | Self::Fragment { target: session, .. }
            | Self::Cancel { target: session, .. }
            | Self::CreditReply { target: session, .. }
            | Self::Answer { to: session, .. }
            | Self::Fail { to: session, .. }
            | Self::Confirmed { to: session, .. }
            | Self::CreditBody { to: session, .. }
            | Self::Rerouted { to: session, .. }
            | Self::Open { target: session, .. }
            | Self::OpenFailed { to: LegRef { session, .. }, .. }
            | Self::Joined { to: LegRef { session, .. }, .. }
            | Self::Leg { to: LegRef { session, .. }, .. }
            | Self::Listed { to: session, .. }
            | Self::Cut { session, .. }
            | Self::Kick { session }
            | Self::Lost { session, .. } => Some(*session),
            Self::Adopt(_)
            | Self::List { .. }
            | Self::Scan { .. }
            | Self::IdService
            | Self::Drain { .. }
            | Self::Dismiss
            | Self::Connection(_) => None,
            #[cfg(any(test, feature = "testing"))]
            Self::Fault => None,
        }
    }

    /// Bytes of memory that the message takes while it waits. A session on its way is in the books already.
    #[must_use]
    pub fn held(&self) -> usize {
        let more = match self {
            Self::Place { place, .. } => size_of::<PlaceOwned>() + place.head.len() + place.body.len(),
            Self::Deliver { delivery, .. } => delivery.held(),
            Self::Fragment { head, body, .. } | Self::Answer { head, body, .. } => head.len() + body.len(),
            Self::Open { open, .. } => size_of::<OpenLeg>() + open.head.len(),
            Self::Leg {
                what: LegMsg::Data(bytes) | LegMsg::Accepted(bytes, _) | LegMsg::Refused(bytes),
                ..
            } => bytes.len(),
            Self::Adopt(adopt) => {
                let said = &adopt.moved.said;
                size_of::<Adopt>() + said.hello.len() + said.frames.len() + said.raw.len()
            }
            Self::Listed { cards, .. } => cards.capacity() * size_of::<Arc<EdgeCard>>(),
            Self::Leg { what: LegMsg::Operation(operation), .. } => {
                let DialogueOperation { key, value, topic, custom, .. } = &**operation;
                size_of::<DialogueOperation>() + key.len() + value.len() + topic.len() + custom.len()
            }
            Self::Leg { what: LegMsg::Answer(answer), .. } => {
                let DialogueAnswer { key, value, error, .. } = &**answer;
                size_of::<DialogueAnswer>() + key.len() + value.len() + error.len()
            }
            Self::Leg {
                what:
                    LegMsg::Finish
                    | LegMsg::Reset
                    | LegMsg::Release(_)
                    | LegMsg::Closed
                    | LegMsg::CancelOperation(_),
                ..
            }
            | Self::Cancel { .. }
            | Self::CreditReply { .. }
            | Self::Fail { .. }
            | Self::Confirmed { .. }
            | Self::CreditBody { .. }
            | Self::Rerouted { .. }
            | Self::OpenFailed { .. }
            | Self::Joined { .. }
            | Self::Cut { .. }
            | Self::Kick { .. }
            | Self::Lost { .. }
            | Self::List { .. }
            | Self::Scan { .. }
            | Self::IdService
            | Self::Drain { .. }
            | Self::Dismiss
            | Self::Connection(_) => 0,
            #[cfg(any(test, feature = "testing"))]
            Self::Fault => 0,
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

// === impl LegId ===

impl LegId {
    /// The yamux stream of that number.
    #[must_use]
    pub fn yamux(self) -> Option<StreamId> {
        u32::try_from(self.0).ok().and_then(StreamId::new)
    }
}

impl From<StreamId> for LegId {
    fn from(stream: StreamId) -> Self {
        Self(stream.get().into())
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

// === impl Place ===

impl Place<'_> {
    /// The same without its body.
    #[must_use]
    pub fn clone_head(&self) -> Self {
        Self { body: Body::Slice(&[]), ..self.clone() }
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
            form: self.form,
            context: self.context,
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
