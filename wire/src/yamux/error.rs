//! Why a connection ends, and why an operation on a stream is refused.

use super::{GoAwayCode, StreamId};

/// What a peer did that no yamux peer may do. Every one of them ends the connection; the peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first byte of a header is not 0.
    #[error("version {version} is not yamux")]
    Version {
        /// What the byte was.
        version: u8,
    },
    /// The second byte of a header is none of the four types.
    #[error("frame type {kind} is unknown")]
    Type {
        /// What the byte was.
        kind: u8,
    },
    /// A frame for stream 0, a SYN with an ID of our own side or beyond the last one, or a frame for a stream that we never opened.
    #[error("stream {id} cannot be addressed by the peer")]
    StreamId {
        /// The ID in the header.
        id: u32,
    },
    /// A SYN for a stream that is open or was open before.
    #[error("stream {id} was opened twice")]
    Reused {
        /// The ID in the header.
        id: u32,
    },
    /// More payload than the window of the stream had room for.
    #[error("{len} bytes on stream {stream} exceed its window")]
    Window {
        /// The stream.
        stream: StreamId,
        /// Payload length of the frame, in bytes.
        len: u32,
    },
    /// A window update that makes the window larger than a window can be.
    #[error("an update of {grown_by} bytes overflows the window of stream {stream}")]
    WindowOverflow {
        /// The stream.
        stream: StreamId,
        /// The update, in bytes.
        grown_by: u32,
    },
    /// Payload on a stream whose sender had finished it.
    #[error("data on stream {stream} after its end")]
    AfterEnd {
        /// The stream.
        stream: StreamId,
    },
    /// A data frame above `Config::max_frame`.
    #[error("a frame of {len} bytes exceeds the limit of {max}")]
    FrameTooLong {
        /// Its payload length, in bytes.
        len: u32,
        /// The limit, in bytes.
        max: u32,
    },
    /// More refused or reset streams than may wait to be announced: the peer opens streams and does not read.
    #[error("too many streams were reset without the peer taking notice")]
    Flood,
}

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer, or this side, has announced to go away.
    #[error("the connection is going away")]
    GoingAway,
    /// `Config::max_streams` of ours are open.
    #[error("{max} streams are open")]
    TooMany {
        /// The limit.
        max: u32,
    },
    /// [`MAX_PENDING_RESETS`](super::MAX_PENDING_RESETS) resets wait to be written.
    #[error("the connection takes no bytes")]
    Backlog,
    /// All IDs were used. Only a new connection helps.
    #[error("no stream ID is left")]
    Exhausted,
}

/// Why nothing can be sent on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream is not open: never opened, reset, or finished by both sides.
    #[error("stream {stream} is not open")]
    Closed {
        /// The stream.
        stream: StreamId,
    },
    /// This side has finished the stream.
    #[error("stream {stream} was finished")]
    Finished {
        /// The stream.
        stream: StreamId,
    },
    /// The payload is longer than the send window.
    #[error("the window of stream {stream} has room for {window} bytes")]
    Window {
        /// The stream.
        stream: StreamId,
        /// Bytes that may be sent now.
        window: u32,
    },
    /// The payload is longer than [`MAX_DATA`](super::MAX_DATA).
    #[error("a frame of {len} bytes is too long")]
    TooLong {
        /// The length asked for, in bytes.
        len: u32,
    },
}

// === impl Error ===

impl Error {
    /// What the peer is told before the connection is closed.
    #[must_use]
    pub const fn go_away(self) -> GoAwayCode {
        GoAwayCode::Protocol
    }

    /// The name used in metric labels and logs.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Version { .. } => "version",
            Self::Type { .. } => "type",
            Self::StreamId { .. } => "stream_id",
            Self::Reused { .. } => "reused",
            Self::Window { .. } => "window",
            Self::WindowOverflow { .. } => "window_overflow",
            Self::AfterEnd { .. } => "after_end",
            Self::FrameTooLong { .. } => "frame_too_long",
            Self::Flood => "flood",
        }
    }
}
