//! What the decoders accept. Limits are values passed in, never the accident of a buffer's size.

use super::frame::{FrameHeader, MAX_BODY_FRAME};

/// Longest head in bytes that a peer may send in any frame but Hello (`limits.head`, default 16 KiB).
pub const MAX_HEAD: u16 = 16_384;

/// Bytes a gateway appends to a head it passes on, at most: sender and deadline
/// ([`append_forwarded`](super::head::append_forwarded)), rounded up.
/// Dialers accept that much more than [`MAX_HEAD`].
pub const FORWARD_ROOM: u16 = 32;

/// Limits on one frame. Worst case a reader holds for a peer: `2 × max_head + max_body` and a small constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Longest head in bytes.
    pub max_head: u16,
    /// Longest body of one frame in bytes.
    pub max_body: u32,
}

/// A frame that breaks the limits of the connection. The peer is broken or hostile: the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The head is longer than allowed.
    #[error("frame head of {len} bytes, at most {max} allowed")]
    HeadTooLong {
        /// Bytes announced.
        len: u16,
        /// Bytes allowed.
        max: u16,
    },
    /// The body is longer than allowed.
    #[error("frame body of {len} bytes, at most {max} allowed")]
    BodyTooLong {
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        max: u32,
    },
}

// === impl FrameLimits ===

impl FrameLimits {
    /// What a gateway accepts after the handshake.
    pub const GATEWAY: Self = Self { max_head: MAX_HEAD, max_body: MAX_BODY_FRAME };

    /// What an edge or service accepts: heads have grown on their way through the gateway.
    pub const DIALER: Self =
        Self { max_head: MAX_HEAD.saturating_add(FORWARD_ROOM), max_body: MAX_BODY_FRAME };

    /// What a gateway accepts as the first frame: Hello carries meta, labels and names in its head and has no body.
    pub const HELLO: Self = Self { max_head: u16::MAX, max_body: 0 };

    /// Checks a header against the limits.
    ///
    /// # Errors
    /// When head or body is longer than allowed; unknown types included.
    pub const fn check(&self, header: &FrameHeader) -> Result<(), DecodeError> {
        if header.head_len > self.max_head {
            return Err(DecodeError::HeadTooLong { len: header.head_len, max: self.max_head });
        }
        if header.body_len > self.max_body {
            return Err(DecodeError::BodyTooLong { len: header.body_len, max: self.max_body });
        }
        Ok(())
    }
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self::GATEWAY
    }
}

// === impl DecodeError ===

impl DecodeError {
    /// The name used in metric labels.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::HeadTooLong { .. } => "head_too_long",
            Self::BodyTooLong { .. } => "body_too_long",
        }
    }
}
