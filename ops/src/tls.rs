//! TLS of listeners and dialers: what they show and ask for.
//!
//! - [`server`]: a listener's configuration from PEM files; which certificate a client gets.
//! - [`reload`]: the configuration in force, replaced when the files change.
//! - [`dial`]: the client's side.
//! - [`certificate`]: the names in a certificate.
//! - `testing`: certificates for tests, under feature `testing`.

pub mod certificate;
pub mod dial;
pub mod reload;
pub mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs, aws_lc_rs::cipher_suite as suite};

pub use self::{
    reload::{CertStore, Check},
    server::CertError,
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
