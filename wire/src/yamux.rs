//! The stream multiplexer under the native protocol: frames and semantics of the
//! [yamux specification](https://github.com/hashicorp/yamux/blob/master/spec.md), without socket, clock or task.
//!
//! ```text
//!    socket ──bytes──▶ Engine::receive ──▶ Event   (payloads are slices of the input, never copied or kept)
//!                          │
//!                          └─ notes what must be answered: ACK, RST, Pong, window updates
//!    socket ◀─bytes── Engine::take_control          (all of it at once, bounded, a few frames at most)
//!    socket ◀─bytes── Engine::data + the payload    (the caller owns the payload queues)
//! ```
//!
//! [`Engine`] owns framing, stream states and windows, and is small enough to be held by the hundred thousand: with only the first
//! stream it owns no heap memory. Reading never waits for writing: whatever must be answered is state, not a queue of frames, so two
//! engines that are full in both directions keep each other moving. Whoever uses it has queues and a writer of their own, as
//! `native::outbox` is.
//!
//! Everything a peer can make an engine hold is bounded: see [`Config`], [`MAX_PENDING_RESETS`] and [`Engine::held_bytes`].

#![deny(
    missing_docs,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

mod config;
mod control;
mod engine;
mod error;
mod gaps;
mod header;
mod stream;
mod table;

pub use config::{Config, Role, StreamId};
pub use control::MAX_PENDING_RESETS;
pub use engine::{Counts, Engine, Event};
pub use error::{Error, OpenError, SendError};
pub use header::{GoAwayCode, HEADER_LEN};

/// The window every stream starts with in both directions unless both sides agreed otherwise, in bytes: what every yamux assumes.
pub const START_WINDOW: u32 = 256 * 1024;

/// The longest payload [`Engine::data`] puts behind one header, in bytes. Small enough that a frame on another stream never waits
/// long, large enough that 12 bytes of header do not count.
pub const MAX_DATA: u32 = 64 * 1024;
