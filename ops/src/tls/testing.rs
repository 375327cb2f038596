//! Certificates and clients for tests.

#![expect(clippy::unwrap_used, reason = "a test that fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SignatureAlgorithm,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};

use crate::{
    config::{CertKey, Tls},
    tls::provider,
};

/// An authority.
pub struct Ca {
    pub pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Leaf {
    pub cert_pem: String,
    pub key_pem: String,
    pub der: CertificateDer<'static>,
    key: Vec<u8>,
}

/// A directory of PEM files.
pub struct Dir(tempfile::TempDir);

// === impl Ca ===

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for a common name and DNS names, good for servers and clients.
    pub fn issue(&self, common_name: &str, dns: &[&str]) -> Leaf {
        self.issue_with(common_name, dns, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub fn issue_with(
        &self,
        common_name: &str,
        dns: &[&str],
        algorithm: &'static SignatureAlgorithm,
    ) -> Leaf {
        let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate_for(algorithm).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            der: cert.der().clone(),
            key: key.serialize_der(),
        }
    }

    /// A client that trusts this authority and shows `identity`, speaking TLS 1.3 or 1.2 only if one is named.
    pub fn client(
        &self,
        identity: Option<&Leaf>,
        version: Option<&'static rustls::SupportedProtocolVersion>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider());
        let versions: Vec<_> = version.map_or_else(|| rustls::ALL_VERSIONS.to_vec(), |version| vec![version]);
        let builder = builder.with_protocol_versions(&versions).unwrap().with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some(leaf) => builder.with_client_auth_cert(vec![leaf.der.clone()], leaf.key()).unwrap(),
        })
    }
}

// === impl Leaf ===

impl Leaf {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

// === impl Dir ===

impl Default for Dir {
    fn default() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Dir {
    /// An empty one, removed with the value.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes `NAME.crt` and `NAME.key`.
    pub fn pair(&self, name: &str, leaf: &Leaf) -> CertKey {
        CertKey {
            cert: self.write(&format!("{name}.crt"), &leaf.cert_pem),
            key: self.write(&format!("{name}.key"), &leaf.key_pem),
        }
    }
}

/// A block of configuration with these certificates.
pub fn block(certs: Vec<CertKey>) -> Tls {
    Tls { enable: true, certs, ..Tls::default() }
}

/// The same with mutual TLS.
pub fn mutual(certs: Vec<CertKey>, ca_certs: Vec<PathBuf>) -> Tls {
    Tls { mtls: true, ca_certs, ..block(certs) }
}

/// A client about to connect to `name`.
pub fn connect(config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}
