//! The 12 bytes in front of everything: `version, type, flags (2), stream (4), length (4)`, big-endian.

use super::{Error, StreamId};

/// Length of a frame header, in bytes.
pub const HEADER_LEN: usize = 12;

/// The only version there is.
const VERSION: u8 = 0;

pub(super) const SYN: u16 = 1;
pub(super) const ACK: u16 = 2;
pub(super) const FIN: u16 = 4;
pub(super) const RST: u16 = 8;

/// What follows a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `length` bytes of payload.
    Data,
    /// Nothing; the window grows by `length`.
    Window,
    /// Nothing; `length` is a value to be echoed.
    Ping,
    /// Nothing; `length` is a reason.
    GoAway,
}

/// A frame header. Flag bits that mean nothing are kept and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: u16,
    /// 0 for frames about the connection.
    pub(super) stream: u32,
    pub(super) length: u32,
}

/// Why a side goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GoAwayCode {
    /// It is done: open streams may go on, new ones are refused.
    Normal,
    /// The other side broke the protocol.
    Protocol,
    /// A fault of its own.
    Internal,
    /// A number that the specification does not name.
    Unknown(u32),
}

// === impl Header ===

impl Header {
    /// A data header, the one that is written for every payload.
    pub(super) const fn data(stream: StreamId, flags: u16, length: u32) -> Self {
        Self { kind: Kind::Data, flags, stream: stream.get(), length }
    }

    /// Decodes a header.
    #[inline]
    pub(super) const fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, Error> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        if version != VERSION {
            return Err(Error::Version { version });
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Window,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            kind => return Err(Error::Type { kind }),
        };
        Ok(Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// The header of a data frame without flags; `None` for every other. Quicker to tell than [`Header::parse`].
    #[inline]
    pub(super) const fn parse_plain_data(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let [v, k, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        if u32::from_be_bytes([v, k, f0, f1]) != 0 {
            return None;
        }
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        Some(Self { kind: Kind::Data, flags: 0, stream, length: u32::from_be_bytes([l0, l1, l2, l3]) })
    }

    /// Encodes the header.
    #[inline]
    pub(super) const fn encode(self) -> [u8; HEADER_LEN] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Window => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        let [f0, f1] = self.flags.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [VERSION, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }

    /// Whether a flag is set.
    pub(super) const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

// === impl GoAwayCode ===

impl GoAwayCode {
    /// The code of a number from the wire.
    #[must_use]
    pub const fn from_wire(code: u32) -> Self {
        match code {
            0 => Self::Normal,
            1 => Self::Protocol,
            2 => Self::Internal,
            code => Self::Unknown(code),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Normal => 0,
            Self::Protocol => 1,
            Self::Internal => 2,
            Self::Unknown(code) => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes_of_a_data_header_with_fin() {
        let header = Header { kind: Kind::Data, flags: FIN, stream: 0x0102_0304, length: 0x1_0000 };
        assert_eq!(header.encode(), [0, 0, 0, 4, 1, 2, 3, 4, 0, 1, 0, 0]);
    }

    #[test]
    fn other_versions_and_types_are_refused() {
        assert_eq!(Header::parse(&[1; 12]), Err(Error::Version { version: 1 }));
        assert_eq!(Header::parse(&[0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Error::Type { kind: 4 }));
    }

    proptest! {
        #[test]
        fn what_parses_encodes_to_the_same_bytes(kind in 0u8..4, rest in any::<[u8; 10]>()) {
            let mut bytes = [0; HEADER_LEN];
            bytes[1] = kind;
            bytes[2..].copy_from_slice(&rest);
            prop_assert_eq!(Header::parse(&bytes).unwrap().encode(), bytes);
        }

        #[test]
        fn plain_data_is_what_parses_to_it(mut bytes in any::<[u8; 12]>(), mask in 0u8..16) {
            for (at, byte) in bytes.iter_mut().take(4).enumerate() {
                if mask & (1 << at) == 0 {
                    *byte = 0;
                }
            }
            let plain = Header::parse(&bytes).ok().filter(|header| header.kind == Kind::Data && header.flags == 0);
            prop_assert_eq!(Header::parse_plain_data(&bytes), plain);
        }

        #[test]
        fn codes_survive_the_wire(code in any::<u32>()) {
            prop_assert_eq!(GoAwayCode::from_wire(code).to_wire(), code);
        }
    }
}
