//! What is accepted of a peer. Limits are values passed in, never the accident of a buffer's size.

use super::packet::{MAX_BODY, PacketHeader, PacketType};

/// Limits on one packet.
///
/// Worst case a reader holds for a peer: one body of `body` bytes, of which nothing is reserved before it came but 128 KiB. Raw bytes of
/// a session are handed out as they come and never held, however long their packet says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLimits {
    /// Bytes of the body of a Message, Request or Response (default and most 10 MiB: what every generation takes). A longer one is
    /// skipped and answered.
    pub body: u32,
    /// Bytes of the body of any other packet but Stream (default 64 KiB: 16 KiB of meta as base64 and room).
    pub control: u32,
    /// Bytes of a method's name in Register (default 255).
    pub name: u32,
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
            PacketType::Message | PacketType::Request | PacketType::Response => {
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
            | PacketType::MessageAck
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

// === impl PacketError ===

impl PacketError {
    /// The name used in metric labels.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::TooShort { .. } => "too_short",
        }
    }
}
