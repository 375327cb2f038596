//! The data plane as a deterministic state machine: bytes, time and messages go in; bytes and messages come out.
//!
//! ```text
//!  driver ── on_bytes, on_inbox, on_tick, on_closed ──▶ Shard ── dirty sessions, messages to other shards ──▶ driver
//! ```
//!
//! A [`Shard`] owns its sessions and nobody else touches them, so there is no lock, no atomic and no task per session. Shards and the
//! async world talk by [`message::Msg`]. What all of them share ([`Shared`]) is read without waiting: the [`registry`] and counters.
//! Neither socket nor clock is used here; the mio driver and the simulation run the same core.

pub mod api;
pub mod card;
pub mod deadlines;
pub mod delivery;
pub mod dialect;
pub mod exchange;
pub mod footprint;
pub mod identity;
pub mod message;
pub mod names;
pub mod outlet;
pub mod registry;
pub mod roll;
pub mod session;
pub mod shard;
pub mod shared;
pub mod stats;
pub mod table;
pub mod timer;
pub mod topic;

pub use self::{
    shard::{Action, Shard},
    shared::{Protocols, Settings, Shared},
    table::SessionRef,
};

/// Time as the driver sees it, captured once per turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Microseconds of a clock that never steps.
    pub micros: u64,
    /// Milliseconds since 1970, for what people and tickets see.
    pub unix_ms: u64,
}

/// Which listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// :30012
    Edge,
    /// :30011
    Service,
}

// === impl Bound ===

impl Bound {
    /// The word used in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Service => "service",
        }
    }
}
