//! What is accepted of a peer, and how much may wait for it. Limits are values passed in, never the accident of a buffer's size.

use super::packet::{MAX_BODY, PacketHeader, PacketType};

/// Microseconds of a clock that only goes forward; where it starts does not matter.
pub type Micros = u64;

const SECOND: Micros = 1_000_000;

/// Limits on one packet.
///
/// Worst case a reader holds for a peer: one body of `body` bytes, of which nothing is reserved before it came but 128 KiB. Raw bytes of
/// a session are handed out as they come and never held, however long their packet says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLimits {
    /// Bytes of the body of a Message, a Request or the answer to one (default and most 10 MiB: what every generation takes). A longer
    /// one is skipped and answered.
    pub body: u32,
    /// Bytes of the body of any other packet but Stream (default 64 KiB: 16 KiB of meta as base64 and room).
    pub control: u32,
    /// Bytes of a method's name in Register (default 255).
    pub name: u32,
}

/// Limits and times of a connection.
///
/// Worst case one connection holds beside its reader and what is queued to be sent: `dialogues` × 200 bytes, `operations` × 40 bytes,
/// and twice `waiting_bytes` of messages that wait for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Limits on one packet.
    pub packet: PacketLimits,
    /// Sessions opened by the peer and alive at the same time (default 1,024, `limits.streams`); one more is refused. As many may be
    /// opened by us.
    pub dialogues: usize,
    /// Sessions that wait to be opened because the peer has not answered the one before (default 64).
    pub opening: usize,
    /// Sessions opened by us on which the peer has sent nothing yet (default 32, `limits.unused_streams`: its queue; the 33rd that its
    /// application does not accept freezes some generations). No opener has more than three quarters of what others leave.
    pub silent: usize,
    /// Calls and messages of the peer that are not answered yet (default 2,048); one more is answered with `overloaded`.
    pub operations: usize,
    /// Messages towards one session of the peer that it has not acknowledged (default 32: its queue; beyond it everything waits).
    pub unacked: usize,
    /// Messages that wait for a slot of the first session, all senders together, and as many on all others (default 2,048). No sender has
    /// more than half of what others leave, and so no session beside the first.
    pub waiting: usize,
    /// Bytes of those (default 8 MiB).
    pub waiting_bytes: usize,
    /// Raw bytes handed out and not yet released, all sessions together, from which on the socket should not be read (default 4 MiB):
    /// the protocol has no windows, so this is the only way to slow a writer.
    pub unreleased: usize,
    /// How long the user may hold raw bytes of a session for whose sake the socket is not read (default: for ever); then the session is
    /// closed, so that the others go on.
    pub stall: Micros,
    /// Raw bytes of one session put into one packet (default 256 KiB).
    pub stream_packet: usize,
    /// Packets of raw bytes per session sent at once (default 8): a peer that has 32 unread drops what comes, and it may be busy.
    pub stream_burst: u32,
    /// Between further ones (default 1 ms): what comes meanwhile is joined, so this slows nothing but many small writes.
    pub stream_interval: Micros,
    /// Until Conn must have come and been answered (default 10 s: what Go clients wait).
    pub handshake: Micros,
    /// Between Conn and its answer, at least (default 2 ms): older clients begin to wait only after they have sent.
    pub answer_after: Micros,
    /// After a refusal the socket stays open so long, for the peer to read why (default 1 s).
    pub linger: Micros,
    /// No socket is closed by us earlier after its handshake (default 2 s): a Go client that is still registering deadlocks.
    pub youth: Micros,
    /// For opening and for ending a session (default 30 s).
    pub session_timeout: Micros,
    /// For ending the connection, after which the socket is closed whatever the peer does (default 3 s).
    pub close_timeout: Micros,
    /// If no slot of a session was freed for so long while the peer reads, one is reopened (default 30 s).
    pub reopen_slot: Micros,
    /// Between heartbeats of a dialer (default 20 s).
    pub heartbeat: Micros,
}

/// A packet that breaks the limits or the layout. The peer is broken or hostile: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// The body is longer than allowed.
    #[error("{} body of {len} bytes, at most {max} allowed", kind.name())]
    TooLong {
        /// What the packet is.
        kind: PacketType,
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        max: u32,
    },
    /// The body is shorter than the fixed part of its type.
    #[error("{} body of {len} bytes is too short", kind.name())]
    TooShort {
        /// What the packet is.
        kind: PacketType,
        /// Bytes announced.
        len: u32,
    },
}

// === impl PacketLimits ===

impl PacketLimits {
    /// Checks a header; `false` if the packet shall be skipped and answered.
    ///
    /// # Errors
    /// When the body is longer or shorter than any of its type may be.
    pub fn check(&self, header: &PacketHeader) -> Result<bool, PacketError> {
        let PacketHeader { kind, body_len: len, .. } = *header;
        if u64::from(len) < kind.fixed_len() as u64 {
            return Err(PacketError::TooShort { kind, len });
        }
        let max = match kind {
            PacketType::Stream => return Ok(true),
            PacketType::Message | PacketType::MessageAck | PacketType::Request | PacketType::Response => {
                return Ok(len <= self.body);
            }
            PacketType::DisConn | PacketType::Heartbeat | PacketType::HeartbeatAck => 0,
            PacketType::Register => self.name.saturating_add(8),
            PacketType::Conn
            | PacketType::ConnAck
            | PacketType::DisConnAck
            | PacketType::Session
            | PacketType::SessionAck
            | PacketType::Dismiss
            | PacketType::DismissAck
            | PacketType::RequestCancel
            | PacketType::RegisterAck
            | PacketType::Unknown(_) => self.control,
        };
        if len > max { Err(PacketError::TooLong { kind, len, max }) } else { Ok(true) }
    }
}

impl Default for PacketLimits {
    fn default() -> Self {
        Self { body: MAX_BODY, control: 65_536, name: 255 }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet: PacketLimits::default(),
            dialogues: 1_024,
            opening: 64,
            silent: 32,
            operations: 2_048,
            unacked: 32,
            waiting: 2_048,
            waiting_bytes: 8 << 20,
            unreleased: 4 << 20,
            stall: Micros::MAX,
            stream_packet: 256 << 10,
            stream_burst: 8,
            stream_interval: 1_000,
            handshake: 10 * SECOND,
            answer_after: 2_000,
            linger: SECOND,
            youth: 2 * SECOND,
            session_timeout: 30 * SECOND,
            close_timeout: 3 * SECOND,
            reopen_slot: 30 * SECOND,
            heartbeat: 20 * SECOND,
        }
    }
}

// === impl PacketError ===

impl PacketError {
    /// Its name, from a closed set.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::TooShort { .. } => "too_short",
        }
    }
}
