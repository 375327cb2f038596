//! What a session speaks: one `match` per call instead of a trait object per session.
//!
//! What both protocols have is here; whatever only one of them has is done with its own connection ([`Dialect::native`],
//! [`Dialect::geminio`]).

use std::io::IoSlice;

use bytes::Bytes;
use frontier_wire::{
    geminio::{connection::Connection as Geminio, dialogue::DialogueId},
    native::{connection::Connection, frame::FrameHeader, outbox::FlowKey},
    yamux::StreamId,
};
use smallvec::SmallVec;

use crate::core::message::LegId;

/// The protocols that sessions speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `docs/protocol.md`
    Native,
    /// `docs/geminio.md`
    Geminio,
}

/// The protocol state of a session.
#[derive(Debug)]
pub enum Dialect {
    /// The native protocol; also before the first bytes have told which one it is.
    Native(Connection),
    /// Geminio, in the server's role.
    Geminio(Geminio),
}

/// Bytes of streams that were written to the socket.
pub type Written = SmallVec<[(LegId, u32); 4]>;

// === impl Protocol ===

impl Protocol {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Native, Self::Geminio];

    /// The word used in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Geminio => "geminio",
        }
    }
}

// === impl Dialect ===

impl Dialect {
    /// Which one it is.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::Native(_) => Protocol::Native,
            Self::Geminio(_) => Protocol::Geminio,
        }
    }

    /// The native connection, if that is what it speaks.
    pub const fn native(&mut self) -> Option<&mut Connection> {
        match self {
            Self::Native(conn) => Some(conn),
            Self::Geminio(_) => None,
        }
    }

    /// The geminio connection, if that is what it speaks.
    pub const fn geminio(&mut self) -> Option<&mut Geminio> {
        match self {
            Self::Native(_) => None,
            Self::Geminio(conn) => Some(conn),
        }
    }

    /// Appends a small native frame; nothing to a peer that knows no frames.
    pub fn send(&mut self, header: FrameHeader, head: &[u8], body: &[u8]) {
        if let Self::Native(conn) = self {
            conn.send(header, head, body);
        }
    }

    /// Whether the native session stream exists, so that a last frame can be sent.
    #[must_use]
    pub fn has_session_stream(&self) -> bool {
        match self {
            Self::Native(conn) => conn.engine().can_send(StreamId::FIRST),
            Self::Geminio(_) => false,
        }
    }

    // --- streams

    /// Queues bytes of a stream; with `report` they come back through [`Dialect::written`].
    pub fn push_stream(&mut self, stream: LegId, bytes: Bytes, report: bool) {
        match self {
            Self::Native(conn) => {
                if let Some(stream) = stream.yamux() {
                    conn.outbox().push_stream(stream, bytes, report);
                }
            }
            Self::Geminio(conn) => {
                conn.send_raw(DialogueId(stream.0), bytes, report);
            }
        }
    }

    /// Copies bytes of a stream behind what waits for it.
    pub fn copy_to_stream(&mut self, stream: LegId, bytes: &[u8], report: bool) {
        match self {
            Self::Native(conn) => {
                if let Some(stream) = stream.yamux() {
                    conn.outbox().copy_to_stream(stream, bytes, report);
                }
            }
            Self::Geminio(conn) => {
                conn.send_raw(DialogueId(stream.0), Bytes::copy_from_slice(bytes), report);
            }
        }
    }

    /// Half-closes a stream after what is queued for it. A dialogue knows no halves, but what its peer has under way is still taken.
    pub fn finish_stream(&mut self, stream: LegId, now: u64) {
        match self {
            Self::Native(conn) => {
                if let Some(stream) = stream.yamux() {
                    conn.finish_stream(stream);
                }
            }
            Self::Geminio(conn) => conn.finish(DialogueId(stream.0), now),
        }
    }

    /// Ends a stream at once. A dialogue knows no resets: it is closed.
    pub fn reset_stream(&mut self, stream: LegId, now: u64) {
        match self {
            Self::Native(conn) => {
                if let Some(stream) = stream.yamux() {
                    conn.reset_stream(stream);
                }
            }
            Self::Geminio(conn) => conn.close(DialogueId(stream.0), now),
        }
    }

    /// Forgets what is queued for a stream of a session that ends.
    pub fn drop_stream(&mut self, stream: LegId) {
        if let (Self::Native(conn), Some(stream)) = (self, stream.yamux()) {
            conn.drop_flow(FlowKey::Stream(stream));
        }
    }

    /// Forgets what waits of an operation's body.
    pub fn drop_operation(&mut self, flow: u64) {
        if let Self::Native(conn) = self {
            conn.drop_flow(FlowKey::Operation(flow));
        }
    }

    // --- input

    /// How many bytes the driver may read straight into [`Dialect::direct_buffer`], 0 if it should read into its own buffer.
    pub fn direct_want(&mut self) -> usize {
        match self {
            Self::Native(conn) => conn.direct_want(),
            Self::Geminio(conn) => conn.direct_want(),
        }
    }

    /// The buffer to append to.
    pub fn direct_buffer(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Self::Native(conn) => conn.direct_buffer(),
            Self::Geminio(conn) => conn.direct_buffer(),
        }
    }

    /// Whether the socket should be read. Without windows that is the only way to slow a peer that writes to a stream.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        match self {
            Self::Native(_) => true,
            Self::Geminio(conn) => conn.wants_read(),
        }
    }

    // --- output

    /// Whether anything can be sent now.
    #[must_use]
    pub fn wants_write(&self, now: u64) -> bool {
        match self {
            Self::Native(conn) => conn.wants_write(),
            Self::Geminio(conn) => conn.wants_write(now),
        }
    }

    /// What to write next, at most `max` slices.
    pub fn slices<'a>(&'a self, slices: &mut impl Extend<IoSlice<'a>>, max: usize) {
        match self {
            Self::Native(conn) => conn.slices(slices, max),
            Self::Geminio(conn) => conn.slices(slices, max),
        }
    }

    /// The transport took `n` bytes; says how many bytes of which stream are written.
    pub fn written(&mut self, n: usize) -> Written {
        let mut reports = Written::new();
        match self {
            Self::Native(conn) => conn.written(n, |stream, n| match reports.last_mut() {
                Some((last, sum)) if *last == stream.into() => *sum = sum.saturating_add(n),
                _ => reports.push((stream.into(), n)),
            }),
            Self::Geminio(conn) => conn.written(n, |dialogue, n| reports.push((LegId(dialogue.0), n))),
        }
        reports
    }

    /// Whether a write that took nothing should be followed by another one.
    #[must_use]
    pub fn has_more(&self, now: u64) -> bool {
        match self {
            // What waits for window alone is looked at again when the peer grants some; until then there is nothing to write.
            Self::Native(conn) => conn.sending() > 0 || conn.engine().has_control(),
            Self::Geminio(conn) => conn.wants_write(now),
        }
    }

    /// Bytes handed to the transport and not yet written.
    #[must_use]
    pub fn sending(&self) -> usize {
        match self {
            Self::Native(conn) => conn.sending(),
            Self::Geminio(conn) => conn.sending(),
        }
    }

    /// Bytes of operations waiting for the peer.
    #[must_use]
    pub fn operation_bytes(&self) -> usize {
        match self {
            Self::Native(conn) => conn.operation_bytes(),
            Self::Geminio(conn) => conn.operation_bytes(),
        }
    }

    /// Bytes waiting to be sent.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        match self {
            Self::Native(conn) => conn.outbox_bytes(),
            Self::Geminio(conn) => conn.sending(),
        }
    }

    /// Bytes of memory held for the peer in either direction.
    #[must_use]
    pub fn held(&self) -> usize {
        match self {
            Self::Native(conn) => conn.held(),
            Self::Geminio(conn) => conn.held(),
        }
    }

    /// Whether nothing more comes of the connection and it waits for nothing.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self {
            Self::Native(_) => true,
            Self::Geminio(conn) => conn.is_over(),
        }
    }
}
