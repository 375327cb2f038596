//! Certificates made for one test, their files, and TLS clients that trust them.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};

/// The name that every certificate of a listener has and every client asks for.
pub const NAME: &str = "gateway.example";

/// An authority.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate as PEM.
    pub pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Leaf {
    /// The certificate as a client sees it.
    pub der: CertificateDer<'static>,
    cert_pem: String,
    key: KeyPair,
}

// === impl Authority ===

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        Ok(Self { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// A certificate for [`NAME`] with this common name, good for listeners and clients.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn issue(&self, common_name: &str) -> anyhow::Result<Leaf> {
        let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { der: cert.der().clone(), cert_pem: cert.pem(), key })
    }

    /// A client that trusts this authority and shows `identity`.
    ///
    /// # Errors
    /// When the identity cannot be used.
    pub fn client(&self, identity: Option<&Leaf>) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let key = PrivatePkcs8KeyDer::from(leaf.key.serialize_der());
                builder.with_client_auth_cert(vec![leaf.der.clone()], key.into())?
            }
        }))
    }
}

// === impl Leaf ===

impl Leaf {
    /// Writes `NAME.crt` and `NAME.key` to a folder and returns the pair as it stands in a configuration.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> anyhow::Result<Value> {
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, &self.cert_pem)?;
        std::fs::write(&key, self.key.serialize_pem())?;
        Ok(json!({"cert": cert, "key": key}))
    }
}
