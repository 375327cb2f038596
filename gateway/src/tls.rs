//! TLS of the listeners, and of what the gateway dials.
//!
//! ```text
//!  accept ─▶ Handshakes (own threads) ─ socket, TlsIo, bytes already read ─▶ shard: TlsIo::read / write_vectored
//!               ▲
//!  files ─▶ CertStore ── current ServerConfig; `watch` looks for changed files
//! ```
//!
//! - [`server`]: what a listener shows and asks for, from PEM files; which certificate a client gets.
//! - [`reload`]: the configuration in force, replaced when the files change.
//! - [`handshake`]: handshakes, a bounded number at once, away from the threads that carry traffic.
//! - [`io`]: one connection, without its socket.
//! - [`stream`]: one connection as a tokio stream, for what is not carried by a shard.
//! - [`dial`]: the client's side.

pub mod dial;
pub mod handshake;
pub mod io;
pub mod reload;
pub mod server;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs, aws_lc_rs::cipher_suite as suite};

pub use self::{
    handshake::{Established, HandshakeSettings, HandshakeStats, Handshakes, Incoming, Outcome},
    io::{ReadOutcome, ReadState, TlsError, TlsIo, TlsScratch},
    reload::{CertStore, Check},
    server::CertError,
    stream::TlsStream,
};

/// The cryptography in use everywhere: aws-lc-rs, ECDHE with AES-GCM or ChaCha20-Poly1305 only.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            // Named one by one, so that a new release of rustls does not change what is spoken.
            cipher_suites: vec![
                suite::TLS13_AES_256_GCM_SHA384,
                suite::TLS13_AES_128_GCM_SHA256,
                suite::TLS13_CHACHA20_POLY1305_SHA256,
                suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(provider)
}
