//! TLS settings and what rustls makes of them.

use std::{fmt, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::error::ConnectError;

/// How to encrypt, whom to trust, and who to be. The default trusts what the operating system trusts and shows no certificate.
///
/// Files are read again at every connect, so certificates may be replaced while the client runs.
///
/// ```no_run
/// # // Not run: there are neither these files nor this gateway.
/// # async fn run() -> Result<(), frontier::ConnectError> {
/// use frontier::{Edge, TlsOptions};
///
/// let tls = TlsOptions::new()
///     .roots_file("/etc/frontier/ca.pem")
///     .identity_files("/etc/frontier/edge.pem", "/etc/frontier/edge.key");
/// let edge = Edge::builder("tls://gateway.example:30012").tls(tls).connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct TlsOptions {
    roots: Vec<Source>,
    identity: Option<(Source, Source)>,
    server_name: Option<String>,
    insecure: bool,
}

/// Where PEM text comes from.
#[derive(Clone)]
enum Source {
    File(PathBuf),
    Pem(Arc<[u8]>),
}

/// The settings of a client together with what was made of them last, so that sessions are resumed across reconnects.
#[derive(Debug)]
pub(crate) struct Tls {
    options: TlsOptions,
    made: Mutex<Option<(Material, Arc<ClientConfig>)>>,
}

/// The PEM texts that a configuration was made of.
#[derive(PartialEq, Eq)]
struct Material {
    roots: Vec<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Accepts every certificate, and still checks that the server holds its key.
#[derive(Debug)]
struct TrustAnything(Arc<CryptoProvider>);

// === impl TlsOptions ===

impl TlsOptions {
    /// Trust the roots of the operating system, show no certificate.
    ///
    /// ```
    /// let tls = frontier::TlsOptions::new();
    /// # let _ = tls;
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Trust the certificates in this PEM file, and no longer those of the system. May be given several times.
    ///
    /// ```
    /// let tls = frontier::TlsOptions::new().roots_file("ca.pem");
    /// # let _ = tls;
    /// ```
    pub fn roots_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots.push(Source::File(path.into()));
        self
    }

    /// Trust the certificates in this PEM text, and no longer those of the system. May be given several times.
    ///
    /// ```
    /// # let pem = "";
    /// let tls = frontier::TlsOptions::new().roots_pem(pem);
    /// # let _ = tls;
    /// ```
    pub fn roots_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.roots.push(Source::Pem(pem.as_ref().into()));
        self
    }

    /// Show the certificate chain in one PEM file, with the key in the other (mTLS).
    ///
    /// ```
    /// let tls = frontier::TlsOptions::new().identity_files("edge.pem", "edge.key");
    /// # let _ = tls;
    /// ```
    pub fn identity_files(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Source::File(chain.into()), Source::File(key.into())));
        self
    }

    /// Show this certificate chain with this key, both PEM texts (mTLS).
    ///
    /// ```
    /// # let (chain, key) = ("", "");
    /// let tls = frontier::TlsOptions::new().identity_pem(chain, key);
    /// # let _ = tls;
    /// ```
    pub fn identity_pem(mut self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.identity = Some((Source::Pem(chain.as_ref().into()), Source::Pem(key.as_ref().into())));
        self
    }

    /// Expect this name in the gateway's certificate (default: the host of the address).
    ///
    /// ```
    /// let tls = frontier::TlsOptions::new().server_name("gateway.example");
    /// # let _ = tls;
    /// ```
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Accept any certificate of the gateway. The connection is encrypted, but to whom, nobody knows: for tests only.
    ///
    /// ```
    /// let tls = frontier::TlsOptions::new().insecure();
    /// # let _ = tls;
    /// ```
    pub const fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("roots", &self.roots)
            .field("identity", &self.identity.as_ref().map(|(chain, _)| chain))
            .field("server_name", &self.server_name)
            .field("insecure", &self.insecure)
            .finish()
    }
}

// === impl Source ===

impl Source {
    fn read(&self) -> Result<Vec<u8>, ConnectError> {
        match self {
            Self::File(path) => {
                std::fs::read(path).map_err(|error| ConnectError::Tls(format!("{}: {error}", path.display())))
            }
            Self::Pem(pem) => Ok(pem.to_vec()),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Pem(_) => f.write_str("PEM"),
        }
    }
}

// === impl Tls ===

impl Tls {
    pub(crate) const fn new(options: TlsOptions) -> Self {
        Self { options, made: Mutex::new(None) }
    }

    /// The name to expect in the certificate of a gateway on `host`.
    pub(crate) fn server_name(&self, host: &str) -> Result<ServerName<'static>, ConnectError> {
        host_name(self.options.server_name.as_deref().unwrap_or(host))
    }

    /// The same configuration for a server that speaks HTTP/2.
    #[cfg(feature = "cluster")]
    pub(crate) fn http2_config(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        let mut config = ClientConfig::clone(&*self.config()?);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// The configuration, made anew only if a file has changed. Reads files: not for async context.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        let material = Material::read(&self.options)?;
        let mut made = self.made.lock();
        if let Some((of, config)) = made.as_ref()
            && *of == material
        {
            return Ok(config.clone());
        }
        let config = Arc::new(material.config(self.options.insecure)?);
        *made = Some((material, config.clone()));
        Ok(config)
    }
}

/// The name to expect in the certificate of a server on `host`.
pub(crate) fn host_name(host: &str) -> Result<ServerName<'static>, ConnectError> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| ConnectError::Tls(format!("`{host}` is no server name")))
}

// === impl Material ===

/// Without the texts: one of them is a key.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Material")
    }
}

impl Material {
    fn read(options: &TlsOptions) -> Result<Self, ConnectError> {
        let roots = options.roots.iter().map(Source::read).collect::<Result<_, _>>()?;
        let identity = match &options.identity {
            Some((chain, key)) => Some((chain.read()?, key.read()?)),
            None => None,
        };
        Ok(Self { roots, identity })
    }

    fn config(&self, insecure: bool) -> Result<ClientConfig, ConnectError> {
        let fail = |error: tokio_rustls::rustls::Error| ConnectError::Tls(error.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(fail)?;
        let builder = if insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnything(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| ConnectError::Tls(format!("client key: {error}")))?;
                builder.with_client_auth_cert(certificates(chain)?, key).map_err(fail)
            }
        }
    }

    fn roots(&self) -> Result<RootCertStore, ConnectError> {
        let mut store = RootCertStore::empty();
        if self.roots.is_empty() {
            let system = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(system.certs);
            if store.is_empty() {
                let why = system.errors.first().map_or_else(String::new, |error| format!(": {error}"));
                return Err(ConnectError::Tls(format!("the system has no root certificates{why}")));
            }
            return Ok(store);
        }
        for pem in &self.roots {
            for certificate in certificates(pem)? {
                store
                    .add(certificate)
                    .map_err(|error| ConnectError::Tls(format!("root certificate: {error}")))?;
            }
        }
        Ok(store)
    }
}

/// All certificates of a PEM text; none at all is an error.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(ConnectError::Tls("no certificate in the PEM text".into()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(ConnectError::Tls(format!("certificate: {error}"))),
    }
}

// === impl TrustAnything ===

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, tokio_rustls::rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
