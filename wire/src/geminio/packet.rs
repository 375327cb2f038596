//! The header in front of every packet, and how packets are written.
//!
//! ```text
//!  0        1      2           10            14                14 + body length
//!  ┌────────┬──────┬───────────┬─────────────┬───────────────────┐
//!  │version │ type │ packet ID │ body length │ body              │   big-endian
//!  └────────┴──────┴───────────┴─────────────┴───────────────────┘
//! ```
//! Bodies begin with a fixed part whose length depends on the type; in most types one JSON object follows to the end of the body.

use super::data::Fields;

/// Bytes of a header.
pub const HEADER_LEN: usize = 14;

/// The version byte that everybody sends. Nobody checks it.
pub const VERSION: u8 = 1;

/// Longest body that every generation takes, in bytes; one of them drops its connection on a longer one, another never answers it.
pub const MAX_BODY: u32 = 10_485_760;

/// The session that exists from the handshake on and is never opened.
pub const FIRST_SESSION: u64 = 1;

/// Conn's flags of every Go client: assign me an ID, heartbeats each 20 s.
pub const CLIENT_FLAGS: u8 = 0x18;

/// Flag in the second byte of Session: the acceptor assigns the session's ID.
pub const ACQUIRE: u8 = 0x10;

/// What a packet is. Unknown types are representable and skipped by their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// First packet of a dialer.
    Conn,
    /// Its answer, with the client's ID or an error.
    ConnAck,
    /// The sender wants to end the connection.
    DisConn,
    /// Its answer.
    DisConnAck,
    /// Sign of life of a dialer.
    Heartbeat,
    /// Its answer.
    HeartbeatAck,
    /// Opens a session.
    Session,
    /// Its answer.
    SessionAck,
    /// Ends a session.
    Dismiss,
    /// Its answer.
    DismissAck,
    /// A message to be acknowledged by the application.
    Message,
    /// Its answer.
    MessageAck,
    /// Raw bytes of a session.
    Stream,
    /// A call.
    Request,
    /// Its answer.
    Response,
    /// The caller does not wait any more. Only the newest generation can read it.
    RequestCancel,
    /// The sender offers a method.
    Register,
    /// Its answer.
    RegisterAck,
    /// None of these.
    Unknown(u8),
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHeader {
    /// [`VERSION`] from everybody.
    pub version: u8,
    /// What the packet is.
    pub kind: PacketType,
    /// Correlates a packet with its answer.
    pub id: u64,
    /// Bytes that follow.
    pub body_len: u32,
}

// === impl PacketType ===

impl PacketType {
    /// Every known type.
    pub const ALL: [Self; 18] = [
        Self::Conn,
        Self::ConnAck,
        Self::DisConn,
        Self::DisConnAck,
        Self::Heartbeat,
        Self::HeartbeatAck,
        Self::Session,
        Self::SessionAck,
        Self::Dismiss,
        Self::DismissAck,
        Self::Message,
        Self::MessageAck,
        Self::Stream,
        Self::Request,
        Self::Response,
        Self::RequestCancel,
        Self::Register,
        Self::RegisterAck,
    ];

    /// The type of a byte from the wire.
    #[must_use]
    pub const fn from_wire(byte: u8) -> Self {
        match byte {
            0x01 => Self::Conn,
            0x02 => Self::ConnAck,
            0x11 => Self::DisConn,
            0x12 => Self::DisConnAck,
            0x21 => Self::Heartbeat,
            0x22 => Self::HeartbeatAck,
            0x31 => Self::Session,
            0x32 => Self::SessionAck,
            0x41 => Self::Dismiss,
            0x42 => Self::DismissAck,
            0x51 => Self::Message,
            0x52 => Self::MessageAck,
            0x61 => Self::Stream,
            0x71 => Self::Request,
            0x72 => Self::Response,
            0x73 => Self::RequestCancel,
            0x81 => Self::Register,
            0x82 => Self::RegisterAck,
            other => Self::Unknown(other),
        }
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Conn => 0x01,
            Self::ConnAck => 0x02,
            Self::DisConn => 0x11,
            Self::DisConnAck => 0x12,
            Self::Heartbeat => 0x21,
            Self::HeartbeatAck => 0x22,
            Self::Session => 0x31,
            Self::SessionAck => 0x32,
            Self::Dismiss => 0x41,
            Self::DismissAck => 0x42,
            Self::Message => 0x51,
            Self::MessageAck => 0x52,
            Self::Stream => 0x61,
            Self::Request => 0x71,
            Self::Response => 0x72,
            Self::RequestCancel => 0x73,
            Self::Register => 0x81,
            Self::RegisterAck => 0x82,
            Self::Unknown(byte) => byte,
        }
    }

    /// Whether this is none of the known types.
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Bytes in front of JSON, name or payload.
    #[must_use]
    pub const fn fixed_len(self) -> usize {
        match self {
            Self::DisConn | Self::Heartbeat | Self::HeartbeatAck | Self::Unknown(_) => 0,
            Self::DisConnAck => 1,
            Self::Dismiss
            | Self::DismissAck
            | Self::Message
            | Self::MessageAck
            | Self::Stream
            | Self::Request
            | Self::Response
            | Self::Register
            | Self::RegisterAck => 8,
            Self::ConnAck => 9,
            Self::Conn | Self::Session | Self::RequestCancel => 10,
            Self::SessionAck => 18,
        }
    }

    /// Whether a JSON object follows the fixed part, and with which fields.
    #[must_use]
    pub const fn fields(self) -> Option<Fields> {
        match self {
            Self::Conn | Self::ConnAck | Self::DisConnAck => Some(Fields::Connection),
            Self::Session | Self::SessionAck | Self::Dismiss | Self::DismissAck => Some(Fields::Session),
            Self::Message | Self::MessageAck | Self::Request | Self::Response => Some(Fields::Message),
            Self::RegisterAck => Some(Fields::Register),
            Self::DisConn
            | Self::Heartbeat
            | Self::HeartbeatAck
            | Self::Stream
            | Self::RequestCancel
            | Self::Register
            | Self::Unknown(_) => None,
        }
    }

    /// Whether packets of this type have no body at all.
    #[must_use]
    pub const fn is_bare(self) -> bool {
        matches!(self, Self::DisConn | Self::Heartbeat | Self::HeartbeatAck)
    }

    /// The name used in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conn => "conn",
            Self::ConnAck => "conn_ack",
            Self::DisConn => "dis_conn",
            Self::DisConnAck => "dis_conn_ack",
            Self::Heartbeat => "heartbeat",
            Self::HeartbeatAck => "heartbeat_ack",
            Self::Session => "session",
            Self::SessionAck => "session_ack",
            Self::Dismiss => "dismiss",
            Self::DismissAck => "dismiss_ack",
            Self::Message => "message",
            Self::MessageAck => "message_ack",
            Self::Stream => "stream",
            Self::Request => "request",
            Self::Response => "response",
            Self::RequestCancel => "request_cancel",
            Self::Register => "register",
            Self::RegisterAck => "register_ack",
            Self::Unknown(_) => "unknown",
        }
    }
}

// === impl PacketHeader ===

impl PacketHeader {
    /// The header of a packet without body.
    #[must_use]
    pub const fn new(kind: PacketType, id: u64) -> Self {
        Self { version: VERSION, kind, id, body_len: 0 }
    }

    /// The same header announcing a body of this length. A longer one than a header can announce is not: nobody can hold it.
    #[must_use]
    pub fn with_body(mut self, len: usize) -> Self {
        self.body_len = u32::try_from(len).unwrap_or(u32::MAX);
        self
    }

    /// The header as it goes over the wire.
    #[must_use]
    pub const fn encode(&self) -> [u8; HEADER_LEN] {
        let [i0, i1, i2, i3, i4, i5, i6, i7] = self.id.to_be_bytes();
        let [l0, l1, l2, l3] = self.body_len.to_be_bytes();
        [self.version, self.kind.to_wire(), i0, i1, i2, i3, i4, i5, i6, i7, l0, l1, l2, l3]
    }

    /// Reads a header. Total: limits are checked by the reader, meaning by the connection.
    #[must_use]
    pub const fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let [version, kind, i0, i1, i2, i3, i4, i5, i6, i7, l0, l1, l2, l3] = *bytes;
        Self {
            version,
            kind: PacketType::from_wire(kind),
            id: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            body_len: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }

    /// Appends the whole packet: this header with the length of `body`, then `body`.
    pub fn put(self, out: &mut Vec<u8>, body: &[u8]) {
        self.put_with(out, |out| out.extend_from_slice(body));
    }

    /// Appends the whole packet; `body` appends what follows the header, whose length is filled in afterwards.
    pub fn put_with(self, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        let from = out.len();
        body(out);
        let header = self.with_body(out.len().saturating_sub(from)).encode();
        if let Some(space) = out.get_mut(start..from) {
            space.copy_from_slice(&header);
        }
    }
}

/// A big-endian number at an offset, 0 where the bytes end before it does.
#[must_use]
pub fn number_at(bytes: &[u8], offset: usize) -> u64 {
    let number = bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
    number.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_a_type_and_comes_back() {
        for byte in 0..=u8::MAX {
            let kind = PacketType::from_wire(byte);
            assert_eq!(kind.to_wire(), byte);
            assert_eq!(kind.is_unknown(), !PacketType::ALL.contains(&kind));
        }
    }

    #[test]
    fn header_is_laid_out_as_documented() {
        let header = PacketHeader::new(PacketType::Session, 0x0102_0304_0506_0708).with_body(0x0a0b);
        assert_eq!(header.encode(), [1, 0x31, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x0a, 0x0b]);
        assert_eq!(PacketHeader::parse(&header.encode()), header);
    }

    #[test]
    fn length_of_a_body_is_filled_in() {
        let mut out = b"before".to_vec();
        PacketHeader::new(PacketType::Register, 7).put(&mut out, b"12345678echo");
        assert_eq!(&out[6..20], &PacketHeader::new(PacketType::Register, 7).with_body(12).encode());
        assert_eq!(&out[20..], b"12345678echo");
    }
}
