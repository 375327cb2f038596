//! The protocol cores of Frontier: bytes in, events out, without socket, clock or runtime.
//!
//! - [`yamux`]: the stream multiplexer under the native protocol.
//! - [`native`]: frames, heads and the session of the native protocol (`docs/protocol.md`).
//! - [`sniff`]: which protocol a new connection speaks, from its first bytes.
//! - [`error`]: the closed set of error codes.
//! - [`chunk`]: how decoders take input, borrowed or by reference count.

pub mod chunk;
pub mod error;
pub mod native;
pub mod sniff;
pub mod yamux;
