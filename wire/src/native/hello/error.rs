//! Why a Hello is refused, and the checks every limit goes through.

use std::fmt;

use super::{MIN_STREAM_WINDOW, VERSION};
use crate::{error::ErrorCode, native::head::HeadError};

/// What a limit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The resume ticket.
    Ticket,
    /// The opaque meta.
    Meta,
    /// The token.
    Token,
    /// The service name.
    Name,
    /// The service version.
    ServiceVersion,
    /// The labels, their number.
    Labels,
    /// The key of a label.
    LabelKey,
    /// The value of a label.
    LabelValue,
    /// Topics.
    Topic,
    /// Methods.
    Method,
    /// Methods and topics together, their number.
    Names,
}

/// Why a Hello was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// Not a protobuf message.
    #[error("malformed hello: {0}")]
    Malformed(#[from] HeadError),
    /// Not the message Hello.
    #[error("malformed hello: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// No version both speak.
    #[error("protocol version {version} is not spoken here, lowest is {VERSION}")]
    Version {
        /// What the dialer said.
        version: u32,
    },
    /// Neither edge nor service.
    #[error("role {role} is neither edge nor service")]
    Role {
        /// What the dialer said.
        role: i32,
    },
    /// Not 16 bytes.
    #[error("instance of {len} bytes, must be 16")]
    Instance {
        /// Its length.
        len: usize,
    },
    /// Something is longer than a limit.
    #[error("{part} of {len} bytes, at most {max} allowed")]
    TooLong {
        /// What.
        part: Part,
        /// Its bytes.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// There are more of something than a limit allows.
    #[error("{count} {part}, at most {max} allowed")]
    TooMany {
        /// What.
        part: Part,
        /// How many.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A method or topic without a name.
    #[error("{part} with an empty name")]
    Empty {
        /// What.
        part: Part,
    },
    /// An edge said what only services say.
    #[error("only services have a {part}")]
    OnlyServices {
        /// What.
        part: Part,
    },
    /// An edge wants to offer a reserved method.
    #[error("method {name} is reserved for services")]
    Reserved {
        /// Which one.
        name: &'static str,
    },
    /// The start window is too small.
    #[error("stream window of {window} bytes, at least {MIN_STREAM_WINDOW} needed")]
    StreamWindow {
        /// What the dialer said.
        window: u32,
    },
}

/// `len` bytes of something.
pub(in crate::native) const fn at_most(part: Part, len: usize, max: usize) -> Result<(), HelloError> {
    if len > max { Err(HelloError::TooLong { part, len, max }) } else { Ok(()) }
}

/// `count` of something.
pub(in crate::native) const fn not_more(part: Part, count: usize, max: usize) -> Result<(), HelloError> {
    if count > max { Err(HelloError::TooMany { part, count, max }) } else { Ok(()) }
}

// === impl HelloError ===

impl HelloError {
    /// The code for the Reject.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Reserved { .. } => ErrorCode::PermissionDenied,
            Self::Malformed(_)
            | Self::Protobuf(_)
            | Self::Version { .. }
            | Self::Role { .. }
            | Self::Instance { .. }
            | Self::TooLong { .. }
            | Self::TooMany { .. }
            | Self::Empty { .. }
            | Self::OnlyServices { .. }
            | Self::StreamWindow { .. } => ErrorCode::InvalidArgument,
        }
    }

    /// Its name: that of the golden vectors.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Protobuf(_) => "malformed",
            Self::Version { .. } => "version",
            Self::Role { .. } => "role",
            Self::Instance { .. } => "instance",
            Self::TooLong { .. } => "too_long",
            Self::TooMany { .. } => "too_many",
            Self::Empty { .. } => "empty",
            Self::OnlyServices { .. } => "only_services",
            Self::Reserved { .. } => "reserved",
            Self::StreamWindow { .. } => "stream_window",
        }
    }
}

// === impl Part ===

impl Part {
    /// The name used in error texts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Meta => "meta",
            Self::Token => "token",
            Self::Name => "name",
            Self::ServiceVersion => "service version",
            Self::Labels => "labels",
            Self::LabelKey => "label key",
            Self::LabelValue => "label value",
            Self::Topic => "topic",
            Self::Method => "method",
            Self::Names => "methods and topics",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
