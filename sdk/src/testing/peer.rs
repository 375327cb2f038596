//! One connection of the gateway within the process.

use std::{
    collections::{BTreeSet, HashMap},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use frontier_wire::{
    native::{
        connection::{Connection, Event, Input},
        frame::{FrameHeader, FrameType},
        head::{ErrorRef, GoAway, ReplyBuilder},
        hello::{Hello, Role},
        limits::FrameLimits,
        reader::FrameReader,
    },
    yamux::{Config, StreamId},
};
use tokio::io::{AsyncReadExt, AsyncWrite, DuplexStream};

use super::hub::{Key, Origin};
use crate::error::ErrorCode;

/// Bytes read, and bytes handed to the pipe, at once.
const CHUNK: usize = 64 * 1024;

/// A connection and everything known of who is behind it.
#[derive(Debug)]
pub(super) struct Peer {
    io: DuplexStream,
    pub(super) conn: Connection,
    buffer: BytesMut,
    pub(super) hello: Option<Hello>,
    pub(super) id: u64,
    pub(super) epoch: u64,
    /// Welcomed, so that it may be routed to.
    pub(super) ready: bool,
    /// Services were told of it.
    pub(super) announced: bool,
    /// Nothing new is sent to it.
    pub(super) leaving: bool,
    /// It was told that nothing of it is under way any more.
    released: bool,
    /// It was asked to connect anew.
    pub(super) sent_away: bool,
    /// The next bytes to be read are the last.
    pub(super) over: bool,
    pub(super) methods: BTreeSet<String>,
    pub(super) topics: BTreeSet<String>,
    /// Its operations: where they went, and under which id.
    pub(super) ops: HashMap<u64, (Key, u64)>,
    /// Operations sent to it: where they came from.
    pub(super) origins: HashMap<u64, Origin>,
    pub(super) last_id: u64,
    pub(super) streams: HashMap<StreamId, Leg>,
}

/// One end of a stream through the gateway.
#[derive(Debug)]
pub(super) enum Leg {
    /// Its Open is not complete yet.
    Unopened(Box<FrameReader>),
    /// The other end.
    Joined(Key, StreamId),
}

// === impl Peer ===

impl Peer {
    pub(super) fn new(io: DuplexStream) -> Self {
        Self {
            io,
            conn: Connection::accept(&Config::default()),
            buffer: BytesMut::new(),
            hello: None,
            id: 0,
            epoch: 0,
            ready: false,
            announced: false,
            leaving: false,
            released: false,
            sent_away: false,
            over: false,
            methods: BTreeSet::new(),
            topics: BTreeSet::new(),
            ops: HashMap::new(),
            origins: HashMap::new(),
            last_id: 0,
            streams: HashMap::new(),
        }
    }

    pub(super) fn is_edge(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.role == Role::Edge)
    }

    pub(super) fn is_service(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.role == Role::Service)
    }

    /// Whether new operations may go to it.
    pub(super) const fn takes(&self) -> bool {
        self.ready && !self.leaving && !self.over
    }

    /// What came; `None` when the connection is gone.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<Event<Bytes>>>> {
        self.buffer.reserve(CHUNK);
        match pin!(self.io.read_buf(&mut self.buffer)).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
            Poll::Ready(Ok(_)) => {}
        }
        let limits = if self.hello.is_none() { FrameLimits::HELLO } else { FrameLimits::GATEWAY };
        let mut input = Input::new(self.buffer.split().freeze());
        let mut events = Vec::new();
        loop {
            match self.conn.receive(&mut input, &limits) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => return Poll::Ready(Some(events)),
                Err(_) => return Poll::Ready(None),
            }
        }
    }

    /// Writes what it can; `written` gets the bytes of user streams that went. `Ready` when something was written or the pipe is gone.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        written: &mut Vec<(StreamId, u32)>,
    ) -> Poll<bool> {
        self.conn.fill(CHUNK);
        let mut slices = Vec::new();
        self.conn.slices(&mut slices, 64);
        if slices.is_empty() {
            return Poll::Pending;
        }
        match Pin::new(&mut self.io).poll_write_vectored(cx, &slices) {
            Poll::Ready(Ok(n)) => {
                self.conn.written(n, |stream, bytes| written.push((stream, bytes)));
                Poll::Ready(true)
            }
            Poll::Ready(Err(_)) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends a frame behind all others of the same origin.
    pub(super) fn forward(&mut self, flow: Key, header: FrameHeader, head: &[u8], body: Bytes) {
        let Ok(header) = header.with_lens(head.len(), body.len()) else { return };
        let mut lead = header.encode().to_vec();
        lead.extend_from_slice(head);
        self.conn.outbox().push_frame(flow, lead.into(), body);
    }

    pub(super) fn answer_error(&mut self, kind: FrameType, id: u64, code: ErrorCode, text: &str) {
        let mut head = Vec::new();
        ReplyBuilder::error(ErrorRef::new(code, text)).encode(&mut head);
        self.conn.send(FrameHeader::new(kind, id), &head, &[]);
    }

    pub(super) fn reject(&mut self, code: ErrorCode, text: &str) {
        let mut head = Vec::new();
        ErrorRef::new(code, text).encode(&mut head);
        self.conn.send(FrameHeader::new(FrameType::Reject, 0), &head, &[]);
        self.over = true;
    }

    /// Answers its GoAway once nothing of it is under way.
    pub(super) fn release(&mut self) {
        let idle = self.ops.is_empty() && self.origins.is_empty() && self.streams.is_empty();
        if self.leaving && !self.released && idle && !self.conn.wants_write() {
            self.released = true;
            self.conn.send(FrameHeader::new(FrameType::GoAway, 0), &[], &[]);
        }
    }

    pub(super) fn go_away(&mut self, reconnect_in_ms: u32, code: ErrorCode, text: &str) {
        let away = GoAway { reconnect_in_ms, reason: Some(ErrorRef::new(code, text)) };
        let mut head = Vec::new();
        away.encode(&mut head);
        self.conn.send(FrameHeader::new(FrameType::GoAway, 0), &head, &[]);
    }
}
