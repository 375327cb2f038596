//! Certificates and clients for tests.

use std::{
    fs,
    io::{self, Read, Write},
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
pub(crate) struct Ca {
    pub(crate) pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Leaf {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    pub(crate) der: CertificateDer<'static>,
    key: Vec<u8>,
}

/// A directory of PEM files.
pub(crate) struct Dir(tempfile::TempDir);

// === impl Ca ===

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for a common name and DNS names, good for servers and clients.
    pub(crate) fn issue(&self, common_name: &str, dns: &[&str]) -> Leaf {
        self.issue_with(common_name, dns, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub(crate) fn issue_with(
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
    pub(crate) fn client(
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

impl Dir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes `NAME.crt` and `NAME.key`.
    pub(crate) fn pair(&self, name: &str, leaf: &Leaf) -> CertKey {
        CertKey {
            cert: self.write(&format!("{name}.crt"), &leaf.cert_pem),
            key: self.write(&format!("{name}.key"), &leaf.key_pem),
        }
    }
}

/// A block of configuration with these certificates.
pub(crate) fn block(certs: Vec<CertKey>) -> Tls {
    Tls { enable: true, certs, ..Tls::default() }
}

/// The same with mutual TLS.
pub(crate) fn mutual(certs: Vec<CertKey>, ca_certs: Vec<PathBuf>) -> Tls {
    Tls { mtls: true, ca_certs, ..block(certs) }
}

/// A client about to connect to `name`.
pub(crate) fn connect(config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}

/// A byte pipe in memory that takes and gives at most so many bytes at once, and would block when it is full or empty.
#[derive(Debug)]
pub(crate) struct Pipe {
    bytes: std::collections::VecDeque<u8>,
    pub(crate) capacity: usize,
    pub(crate) step: usize,
    pub(crate) ended: bool,
}

// === impl Pipe ===

impl Pipe {
    pub(crate) fn new(capacity: usize, step: usize) -> Self {
        Self { bytes: std::collections::VecDeque::new(), capacity, step, ended: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl Read for Pipe {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let len = space.len().min(self.step).min(self.bytes.len());
        if len == 0 {
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        for (to, from) in space.iter_mut().zip(self.bytes.drain(..len)) {
            *to = from;
        }
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.step).min(self.capacity - self.bytes.len());
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bytes.extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
