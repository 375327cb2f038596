//! The protocol cores of Frontier: bytes in, events out, without socket, clock or runtime.
//!
//! - [`yamux`]: the stream multiplexer under the native protocol.
//! - [`geminio`]: packets and the connection of the Go system's protocol (`docs/geminio.md`).
//! - [`native`]: frames, heads and the session of the native protocol (`docs/protocol.md`).
//! - [`sniff`]: which protocol a new connection speaks, from its first bytes.
//! - [`error`]: the closed set of error codes.
//! - [`chunk`]: how decoders take input, borrowed or by reference count.

// Every byte here comes from a peer: nothing may panic, wrap or be cut short by accident. Tests may.
#![cfg_attr(
    not(test),
    deny(
        missing_docs,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )
)]

pub mod chunk;
pub mod error;
pub mod geminio;
pub mod native;
pub mod sniff;
pub mod yamux;
