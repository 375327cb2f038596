//! The frame header: type, flags, lengths and id (`docs/protocol.md` section 3). Every bit pattern parses; whether it is
//! acceptable is decided by [`FrameLimits`](super::limits::FrameLimits) and by the session.

use std::ops::{BitOr, BitOrAssign};

use bytes::BufMut;

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 16;

/// Longest body of one frame in bytes; a longer body goes as fragments. 64 KiB hold another operation's frame up for
/// half a millisecond on a 1 Gbit/s link.
pub const MAX_BODY_FRAME: u32 = 65_536;

/// Body bytes of one fragmented operation that may be under way before its receiver grants more.
pub const INITIAL_CREDIT: u32 = 262_144;

/// What a frame is. Types of later versions are kept as they are, so that they can be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameType {
    /// First frame of the dialer.
    Hello,
    /// The acceptor admits the dialer.
    Welcome,
    /// The acceptor refuses the dialer and closes.
    Reject,
    /// Asks for a Pong of the same id.
    Ping,
    /// Answers a Ping.
    Pong,
    /// The sender is about to leave.
    GoAway,
    /// Methods and topics the dialer offers from now on.
    Register,
    /// Methods and topics the dialer offers no longer.
    Unregister,
    /// Answers Register, Unregister and Publish.
    Ack,
    /// A message.
    Publish,
    /// A call.
    Request,
    /// The answer to a Request.
    Response,
    /// Room for more bytes of a fragmented body.
    Credit,
    /// Nobody waits for the operation any more.
    Cancel,
    /// Where is this edge?
    Locate,
    /// A snapshot of the edges online, in pages.
    Presence,
    /// First frame of a user stream.
    Open,
    /// Accepts or refuses a user stream.
    OpenAck,
    /// Bytes of a user stream.
    Data,
    /// A type this version does not know.
    Unknown(u8),
}

/// The flag bits of a frame; bits without a meaning are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

/// The first 16 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameType,
    /// More, abort, reply.
    pub flags: Flags,
    /// Bytes of the head that follows the header.
    pub head_len: u16,
    /// Bytes of the body that follows the head.
    pub body_len: u32,
    /// The operation the frame belongs to, 0 if it starts and answers nothing.
    pub id: u64,
}

/// A head or body that does not fit into one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The head's length does not fit its field.
    #[error("head of {len} bytes, at most {} fit", u16::MAX)]
    HeadTooLong {
        /// Bytes of the head.
        len: usize,
    },
    /// The body needs fragments.
    #[error("body of {len} bytes in one frame, at most {MAX_BODY_FRAME} fit")]
    BodyTooLong {
        /// Bytes of the body.
        len: usize,
    },
}

// === impl FrameType ===

impl FrameType {
    /// Every type of this version, in the order of its number.
    pub const ALL: [Self; 19] = [
        Self::Hello,
        Self::Welcome,
        Self::Reject,
        Self::Ping,
        Self::Pong,
        Self::GoAway,
        Self::Register,
        Self::Unregister,
        Self::Ack,
        Self::Publish,
        Self::Request,
        Self::Response,
        Self::Credit,
        Self::Cancel,
        Self::Locate,
        Self::Presence,
        Self::Open,
        Self::OpenAck,
        Self::Data,
    ];

    /// The type of a number from the wire.
    #[must_use]
    pub const fn from_wire(number: u8) -> Self {
        match number {
            0x01 => Self::Hello,
            0x02 => Self::Welcome,
            0x03 => Self::Reject,
            0x04 => Self::Ping,
            0x05 => Self::Pong,
            0x06 => Self::GoAway,
            0x07 => Self::Register,
            0x08 => Self::Unregister,
            0x09 => Self::Ack,
            0x0a => Self::Publish,
            0x0b => Self::Request,
            0x0c => Self::Response,
            0x0d => Self::Credit,
            0x0e => Self::Cancel,
            0x0f => Self::Locate,
            0x10 => Self::Presence,
            0x11 => Self::Open,
            0x12 => Self::OpenAck,
            0x13 => Self::Data,
            unknown => Self::Unknown(unknown),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Hello => 0x01,
            Self::Welcome => 0x02,
            Self::Reject => 0x03,
            Self::Ping => 0x04,
            Self::Pong => 0x05,
            Self::GoAway => 0x06,
            Self::Register => 0x07,
            Self::Unregister => 0x08,
            Self::Ack => 0x09,
            Self::Publish => 0x0a,
            Self::Request => 0x0b,
            Self::Response => 0x0c,
            Self::Credit => 0x0d,
            Self::Cancel => 0x0e,
            Self::Locate => 0x0f,
            Self::Presence => 0x10,
            Self::Open => 0x11,
            Self::OpenAck => 0x12,
            Self::Data => 0x13,
            Self::Unknown(number) => number,
        }
    }

    /// Whether this version does not know the type, so that the frame is skipped.
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Whether the type may travel on the session stream.
    #[must_use]
    pub const fn travels_on_session(self) -> bool {
        !matches!(self, Self::Open | Self::OpenAck | Self::Data | Self::Unknown(_))
    }

    /// Whether the type may travel on a user stream.
    #[cfg(test)]
    const fn travels_on_stream(self) -> bool {
        matches!(
            self,
            Self::Open
                | Self::OpenAck
                | Self::Data
                | Self::Publish
                | Self::Ack
                | Self::Request
                | Self::Response
                | Self::Credit
                | Self::Cancel
        )
    }

    /// The name used in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Welcome => "welcome",
            Self::Reject => "reject",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::GoAway => "go_away",
            Self::Register => "register",
            Self::Unregister => "unregister",
            Self::Ack => "ack",
            Self::Publish => "publish",
            Self::Request => "request",
            Self::Response => "response",
            Self::Credit => "credit",
            Self::Cancel => "cancel",
            Self::Locate => "locate",
            Self::Presence => "presence",
            Self::Open => "open",
            Self::OpenAck => "open_ack",
            Self::Data => "data",
            Self::Unknown(_) => "unknown",
        }
    }
}

// === impl Flags ===

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Further frames of the same type and id follow.
    pub const MORE: Self = Self(0x01);
    /// Last frame of a fragmented body whose rest will not come.
    pub const ABORT: Self = Self(0x02);
    /// On Credit: for the body of the Response.
    pub const REPLY: Self = Self(0x04);

    /// The flags of a byte from the wire.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether further fragments follow.
    #[must_use]
    pub const fn more(self) -> bool {
        self.contains(Self::MORE)
    }

    /// Whether the body ends here without being complete.
    #[must_use]
    pub const fn abort(self) -> bool {
        self.contains(Self::ABORT)
    }

    /// Whether a Credit is for the Response's body.
    #[must_use]
    pub const fn reply(self) -> bool {
        self.contains(Self::REPLY)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

// === impl FrameHeader ===

impl FrameHeader {
    /// A header without flags, head and body.
    #[must_use]
    pub const fn new(kind: FrameType, id: u64) -> Self {
        Self { kind, flags: Flags::NONE, head_len: 0, body_len: 0, id }
    }

    /// The same header with these flags.
    #[must_use]
    pub const fn with_flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// The same header announcing a head and a body of these lengths.
    ///
    /// # Errors
    /// When one of them does not fit into a frame.
    pub fn with_lens(mut self, head: usize, body: usize) -> Result<Self, EncodeError> {
        self.head_len = u16::try_from(head).map_err(|_| EncodeError::HeadTooLong { len: head })?;
        self.body_len = u32::try_from(body)
            .ok()
            .filter(|len| *len <= MAX_BODY_FRAME)
            .ok_or(EncodeError::BodyTooLong { len: body })?;
        Ok(self)
    }

    /// Bytes of head and body together.
    #[must_use]
    pub const fn rest_len(&self) -> usize {
        (self.body_len as usize).saturating_add(self.head_len as usize)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        self.rest_len().saturating_add(HEADER_LEN)
    }

    /// The header as it goes over the wire.
    #[must_use]
    pub const fn encode(&self) -> [u8; HEADER_LEN] {
        let [h0, h1] = self.head_len.to_be_bytes();
        let [b0, b1, b2, b3] = self.body_len.to_be_bytes();
        let [i0, i1, i2, i3, i4, i5, i6, i7] = self.id.to_be_bytes();
        let (kind, flags) = (self.kind.to_wire(), self.flags.bits());
        [kind, flags, h0, h1, b0, b1, b2, b3, i0, i1, i2, i3, i4, i5, i6, i7]
    }

    /// Reads a header. Total: limits are checked by the reader, meaning by the session.
    #[must_use]
    pub const fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let [kind, flags, h0, h1, b0, b1, b2, b3, i0, i1, i2, i3, i4, i5, i6, i7] = *bytes;
        Self {
            kind: FrameType::from_wire(kind),
            flags: Flags::from_bits(flags),
            head_len: u16::from_be_bytes([h0, h1]),
            body_len: u32::from_be_bytes([b0, b1, b2, b3]),
            id: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
        }
    }

    /// Appends a whole frame: this header with the lengths of `head` and `body`, then both.
    ///
    /// # Errors
    /// When one of them does not fit into a frame; nothing is written then.
    pub fn put_frame(self, out: &mut impl BufMut, head: &[u8], body: &[u8]) -> Result<(), EncodeError> {
        out.put_slice(&self.with_lens(head.len(), body.len())?.encode());
        out.put_slice(head);
        out.put_slice(body);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
