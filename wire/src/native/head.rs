//! The heads of frames that travel often, read in place and written to the exact length (`docs/protocol.md` section 4).
//!
//! A head is a small protobuf message. Hot ones are not turned into owned structs: `parse` walks over the bytes once, checks
//! everything in them (lengths, wire types, UTF-8, map entries) and borrows what it finds. So a head that parsed can be
//! passed on as it came: the next reader will find the same. Rules, the same for every reader:
//!
//! - a scalar field that occurs more than once counts with its last value, a message field is merged;
//! - unknown fields are skipped; groups, field number 0 and a known field of the wrong wire type are errors;
//! - numbers of 32 bits take the low 32 bits of their varint, as every protobuf library does.
//!
//! Writers omit fields that have their default and know their length beforehand. The messages of the handshake and of
//! presence are generated structs: see [`proto`](super::proto).

mod call;
pub(super) mod fields;
mod reply;
mod small;

pub use self::{
    call::{CallBuilder, CallHead, FORWARDED_MAX, Sender, append_forwarded, forwarded_len},
    fields::{Headers, NoHeaders, Strings},
    reply::{ReplyBuilder, ReplyHead, encode_error_reply, error_reply_len},
    small::{Credit, ErrorRef, GoAway, Locate, Names},
};

/// Why a head could not be read. The peer is broken: `code()` is `invalid_argument`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// A field goes on after the end of the head.
    #[error("head ends within a field")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("varint of more than 64 bits")]
    Varint,
    /// Field number 0 or above 2^29 − 1, or a wire type without a meaning here (groups included).
    #[error("malformed field tag {tag}")]
    Tag {
        /// The tag, as far as it fits.
        tag: u64,
    },
    /// A known field has the wrong wire type.
    #[error("field {field} has the wrong wire type")]
    WireType {
        /// Number of the field.
        field: u32,
    },
    /// A string is not UTF-8.
    #[error("field {field} is not UTF-8")]
    NotUtf8 {
        /// Number of the field.
        field: u32,
    },
}

// === impl HeadError ===

impl HeadError {
    /// The code a peer is told.
    #[must_use]
    pub const fn code(self) -> crate::error::ErrorCode {
        crate::error::ErrorCode::InvalidArgument
    }

    /// Its name, from a closed set.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Varint => "varint",
            Self::Tag { .. } => "tag",
            Self::WireType { .. } => "wire_type",
            Self::NotUtf8 { .. } => "not_utf8",
        }
    }
}

#[cfg(test)]
mod tests;
