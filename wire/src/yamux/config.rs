//! What an engine is told at its start, and the identifier of a stream.

use std::{fmt, num::NonZeroU32};

use super::START_WINDOW;

/// Windows beyond this are refused to [`Config`]: an update must fit the signed 31 bits that some peers count in.
const LARGEST_WINDOW: u32 = 1 << 30;

/// Which side of a connection an engine is. It decides who opens odd and who opens even stream IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The dialer: opens 1, 3, 5, …
    Client,
    /// The acceptor: opens 2, 4, 6, …
    Server,
}

/// The ID of a stream, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(NonZeroU32);

/// Limits and windows of an [`Engine`](super::Engine).
///
/// Worst case for one connection: `2 × max_streams` streams of 24 bytes of state each, and `max_window` bytes under way on each of
/// them, held by the caller and not by the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes a peer may have under way to us on a user stream at its start (default 256 KiB). A peer that was told nothing assumes
    /// 256 KiB, so less than that has no effect without [`Engine::set_stream_windows`](super::Engine::set_stream_windows); what
    /// is above is granted with the first frame of each stream. At most 1 GiB.
    pub recv_window: u32,
    /// The most a window towards us may grow to, in bytes (default 4 MiB, at least `recv_window`, at most 1 GiB). Some peers send
    /// a whole window as one frame: towards those keep it within `max_frame`.
    pub max_window: u32,
    /// Streams opened by the peer and alive at the same time (default 1,024); one more is refused by RST. The same number limits
    /// the streams we open, counted apart so that neither side can use up the other's share.
    pub max_streams: u32,
    /// Longest payload of one data frame that is accepted, in bytes (default 1 MiB). Nothing is reserved for it; the limit bounds
    /// how long one stream can keep the others from being heard.
    pub max_frame: u32,
}

// === impl Role ===

impl Role {
    /// The first ID this side opens.
    pub(super) const fn first_id(self) -> u32 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }

    /// The other side.
    pub(super) const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Whether `id` is one this side opens.
    pub(super) const fn owns(self, id: u32) -> bool {
        id != 0 && id % 2 == self.first_id() % 2
    }
}

// === impl StreamId ===

impl StreamId {
    /// The client's first stream. An engine keeps its state inline.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The ID of a number, unless that is 0.
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Config ===

impl Config {
    /// The windows within their bounds: (start, most).
    pub(super) fn windows(&self) -> (u32, u32) {
        let start = self.recv_window.clamp(START_WINDOW, LARGEST_WINDOW);
        (start, self.max_window.clamp(start, LARGEST_WINDOW))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { recv_window: START_WINDOW, max_window: 4 << 20, max_streams: 1024, max_frame: 1 << 20 }
    }
}
