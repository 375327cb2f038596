//! TLS of the listeners, and of what the gateway dials.
//!
//! ```text
//!  accept ─▶ Handshakes (own threads) ─ socket, TlsIo, bytes already read ─▶ shard: TlsIo::read / write_vectored
//!               ▲
//!  files ─▶ CertStore ── current ServerConfig; `watch` looks for changed files
//! ```
//!
//! - [`frontier_ops::tls`]: what listeners and dialers show and ask for, from files that may change.
//! - [`handshake`]: handshakes, a bounded number at once, away from the threads that carry traffic.
//! - [`io`]: one connection, without its socket.
//! - [`stream`]: one connection as a tokio stream, for what is not carried by a shard.

pub mod handshake;
pub mod io;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;

pub use self::{
    handshake::{Established, HandshakeSettings, HandshakeStats, Handshakes, Incoming, Outcome},
    io::{ReadOutcome, ReadState, TlsError, TlsIo, TlsScratch},
    stream::TlsStream,
};
