//! TLS towards what a server dials.
//!
//! Without `mtls` the system's authorities verify the peer, and `insecure_skip_verify` turns that off; with it `ca_certs` verify the
//! peer and `certs` are shown to it. So it was in the Go system.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tracing::warn;

use crate::{
    config::Tls,
    tls::{
        provider,
        server::{CertError, Files},
    },
};

/// Accepts any certificate whose key the peer has.
#[derive(Debug)]
struct AnyCertificate {
    signatures: Arc<rustls::crypto::CryptoProvider>,
}

/// Shows the first certificate that the peer understands.
#[derive(Debug)]
struct ClientCertificates(Vec<Arc<CertifiedKey>>);

/// The configuration of a dialer.
///
/// # Errors
/// When a file cannot be used.
pub fn client_config(tls: &Tls) -> Result<ClientConfig, CertError> {
    let files = Files::read(tls);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(CertError::Setup)?;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(any_certificate())
    } else {
        let roots = if tls.mtls { files.authorities(tls)? } else { system_authorities() };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        builder.with_webpki_verifier(verifier.build().map_err(CertError::NoAuthority)?)
    };
    if !tls.mtls {
        return Ok(builder.with_no_client_auth());
    }
    Ok(builder.with_client_cert_resolver(Arc::new(ClientCertificates(files.pairs(tls)?))))
}

/// Accepts any certificate whose key the peer has: it keeps listeners out, not those in between.
#[must_use]
pub fn any_certificate() -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyCertificate { signatures: provider() })
}

/// What the operating system trusts. What cannot be read of it is left out: stores contain odd things.
#[must_use]
pub fn system_authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "some of the system's authorities cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

// === impl AnyCertificate ===

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.signatures.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.signatures.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.signature_verification_algorithms.supported_schemes()
    }
}

// === impl ClientCertificates ===

impl ResolvesClientCert for ClientCertificates {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.iter().find(|key| key.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}
