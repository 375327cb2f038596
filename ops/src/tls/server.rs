//! What a listener shows and asks for: certificates, keys and authorities from PEM files, and which certificate a client gets.

use std::{
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig, SignatureScheme,
    crypto::aws_lc_rs::Ticketer,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};

use crate::{
    config::{CertKey, Tls},
    tls::{certificate, provider},
};

/// Largest file read. The largest bundles of public authorities have a quarter of it.
const MAX_FILE: u64 = 1 << 20;

/// Why certificates cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A file is not PEM, or holds nothing of the kind that was looked for.
    #[error("{}: no {wanted} found: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What went wrong.
        source: pem::Error,
    },
    /// A certificate cannot be used as an authority.
    #[error("{}: not an authority: {source}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: rustls::Error,
    },
    /// A certificate and a key cannot be used together.
    #[error("{} with {}: {source}", cert.display(), key.display())]
    Pair {
        /// The file of the chain.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What went wrong.
        source: rustls::Error,
    },
    /// TLS without a certificate.
    #[error("TLS needs at least one certificate and key")]
    NoPairs,
    /// Client certificates are asked for, but nothing verifies them.
    #[error("mutual TLS needs at least one authority")]
    NoAuthority(#[source] VerifierBuilderError),
    /// The cryptography in use does not offer what was asked for.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
}

/// The bytes of all files that a block of configuration names, read at one time: what is compared is what is used.
pub struct Files {
    files: Vec<(PathBuf, Result<Vec<u8>, io::Error>)>,
}

/// Tells one state of the files from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint([u8; SHA256_OUTPUT_LEN]);

/// Picks a certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName {
    /// In the order of the configuration, never empty.
    pairs: Vec<Pair>,
}

#[derive(Debug)]
struct Pair {
    key: Arc<CertifiedKey>,
    /// DNS names in lower case.
    names: Vec<String>,
}

// === impl Files ===

impl Files {
    /// Reads the files. Those that cannot be read are remembered as such.
    #[must_use]
    pub fn read(tls: &Tls) -> Self {
        let pairs = tls.certs.iter().flat_map(|pair| [&pair.cert, &pair.key]);
        let authorities = tls.ca_certs.iter().filter(|_| tls.mtls);
        let files = pairs.chain(authorities).map(|path| (path.clone(), read_file(path))).collect();
        Self { files }
    }

    /// Differs when the content of a file differs, or why it cannot be read. Times do not count: mounted secrets are swapped by
    /// links, and tools restore times.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = digest::Context::new(&SHA256);
        for (_, content) in &self.files {
            match content {
                Ok(bytes) => {
                    hash.update(&(bytes.len() as u64).to_be_bytes());
                    hash.update(bytes);
                }
                Err(error) => {
                    hash.update(&u64::MAX.to_be_bytes());
                    hash.update(error.to_string().as_bytes());
                }
            }
        }
        let mut fingerprint = [0; SHA256_OUTPUT_LEN];
        fingerprint.copy_from_slice(hash.finish().as_ref());
        Fingerprint(fingerprint)
    }

    fn get(&self, path: &Path) -> Result<&[u8], CertError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let source = match self.files.iter().find(|(of, _)| of == path) {
            Some((_, Ok(bytes))) => return Ok(bytes),
            // An error cannot be cloned; kind and text are what people need of it.
            Some((_, Err(error))) => io::Error::new(error.kind(), error.to_string()),
            None => missing(),
        };
        Err(CertError::Read { path: path.to_owned(), source })
    }

    /// The certificates in a file, at least one.
    fn chain(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
        let error = |source| CertError::Pem { path: path.to_owned(), wanted: "certificate", source };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.get(path)?).collect();
        let chain = chain.map_err(error)?;
        if chain.is_empty() { Err(error(pem::Error::NoItemsFound)) } else { Ok(chain) }
    }

    fn private_key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
        let error = |source| CertError::Pem { path: path.to_owned(), wanted: "private key", source };
        PrivateKeyDer::from_pem_slice(self.get(path)?).map_err(error)
    }

    fn pair(&self, pair: &CertKey) -> Result<Arc<CertifiedKey>, CertError> {
        let chain = self.chain(&pair.cert)?;
        let key = self.private_key(&pair.key)?;
        let unusable = |source| CertError::Pair { cert: pair.cert.clone(), key: pair.key.clone(), source };
        certified(chain, key).map(Arc::new).map_err(unusable)
    }

    /// The usable pairs whose certificate is of X.509 version 1, by their index.
    #[must_use]
    pub fn first_version(&self, tls: &Tls) -> Vec<usize> {
        let old = |pair: &CertKey| {
            let certified = self.pair(pair).ok()?;
            certificate::first_version_fits(certified.cert.first()?, &public_key(&certified)?).ok()?
        };
        let pairs = tls.certs.iter().enumerate();
        pairs.filter_map(|(index, pair)| old(pair).map(|_| index)).collect()
    }

    /// The pairs that can be used, in the order of the configuration. The others are left out.
    ///
    /// # Errors
    /// When there are pairs and none can be used: why the first one cannot.
    pub fn pairs(&self, tls: &Tls) -> Result<Vec<Arc<CertifiedKey>>, CertError> {
        let (mut usable, mut first) = (Vec::new(), None);
        for pair in &tls.certs {
            match self.pair(pair) {
                Ok(key) => usable.push(key),
                Err(error) => first = first.or(Some(error)),
            }
        }
        match first {
            Some(error) if usable.is_empty() => Err(error),
            _ => Ok(usable),
        }
    }

    /// The pairs that are left out, by their index, and why.
    #[must_use]
    pub fn unusable(&self, tls: &Tls) -> Vec<(usize, CertError)> {
        let pairs = tls.certs.iter().enumerate();
        pairs.filter_map(|(index, pair)| Some((index, self.pair(pair).err()?))).collect()
    }

    /// The authorities of `ca_certs`.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn authorities(&self, tls: &Tls) -> Result<RootCertStore, CertError> {
        let mut roots = RootCertStore::empty();
        for path in &tls.ca_certs {
            for cert in self.chain(path)? {
                roots.add(cert).map_err(|source| CertError::Authority { path: path.clone(), source })?;
            }
        }
        Ok(roots)
    }
}

impl fmt::Debug for Files {
    /// Without the contents: keys are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.files.iter().map(|(path, _)| path)).finish()
    }
}

/// A chain with its key. `openssl x509 -req` without extensions makes certificates of version 1, which rustls does not read; it need
/// not, to show them, so whether the key belongs to one is looked up here.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let certified = CertifiedKey::new(chain, provider().key_provider.load_private_key(key)?);
    let (cert, public) = (certified.end_entity_cert()?, public_key(&certified));
    match public.map(|public| certificate::first_version_fits(cert, &public)) {
        Some(Ok(Some(true))) => Ok(certified),
        Some(Ok(Some(false))) => Err(InconsistentKeys::KeyMismatch.into()),
        // As rustls does it: a key that cannot say its public half is believed.
        Some(Ok(None) | Err(_)) | None => match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
            Err(error) => Err(error),
        },
    }
}

fn public_key(certified: &CertifiedKey) -> Option<Vec<u8>> {
    certified.key.public_key().map(|key| key.as_ref().to_vec())
}

fn read_file(path: &Path) -> Result<Vec<u8>, io::Error> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 1 MiB"));
    }
    Ok(bytes)
}

/// The configuration of a listener: TLS 1.2 and 1.3; with `mtls` a client must show a certificate of one of the authorities.
/// `alpn` lists application protocols, the best first; empty where peers say nothing of the kind.
///
/// # Errors
/// When a file cannot be used.
pub fn server_config(tls: &Tls, files: &Files, alpn: &[&[u8]]) -> Result<ServerConfig, CertError> {
    let resolver = ByName::new(files.pairs(tls)?)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(CertError::Setup)?;
    let builder = if tls.mtls {
        builder.with_client_cert_verifier(client_verifier(tls, files)?)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // Resumption must cost the server no memory: the state travels in a ticket, one per connection. A resumed session skips the
    // verification of the client's certificate, which may have expired or lost its authority since: none where one is asked for.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    if !tls.mtls {
        config.ticketer = Ticketer::new().map_err(CertError::Setup)?;
        config.send_tls13_tickets = 1;
    }
    Ok(config)
}

fn client_verifier(tls: &Tls, files: &Files) -> Result<Arc<dyn ClientCertVerifier>, CertError> {
    let roots = Arc::new(files.authorities(tls)?);
    WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(CertError::NoAuthority)
}

// === impl ByName ===

impl ByName {
    fn new(pairs: Vec<Arc<CertifiedKey>>) -> Result<Self, CertError> {
        if pairs.is_empty() {
            return Err(CertError::NoPairs);
        }
        let pair = |key: Arc<CertifiedKey>| {
            // A certificate whose names cannot be read can still be the default.
            let names = key.end_entity_cert().ok().and_then(|cert| certificate::names(cert).ok());
            Pair { key, names: names.map(|names| names.dns).unwrap_or_default() }
        };
        Ok(Self { pairs: pairs.into_iter().map(pair).collect() })
    }

    /// The first pair that has the name and a key that the client understands; else the first that it understands; else the first
    /// of all, so that the client learns what is wrong from the handshake.
    fn pick(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let understood = |pair: &&Pair| pair.key.key.choose_scheme(schemes).is_some();
        let name = name.map(str::to_ascii_lowercase);
        let named = |pair: &&Pair| name.as_deref().is_some_and(|name| pair.is_for(name));
        let mut best = self.pairs.iter().filter(understood).filter(named);
        let pair = best.next().or_else(|| self.pairs.iter().find(understood)).or_else(|| self.pairs.first());
        pair.map(|pair| &pair.key)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pick(hello.server_name(), hello.signature_schemes()).cloned()
    }
}

// === impl Pair ===

impl Pair {
    /// Whether the certificate has the name, or `*.` in place of its first label.
    fn is_for(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let matches = |of: &String| of == name || of.strip_prefix("*.").is_some_and(|of| Some(of) == parent);
        self.names.iter().any(matches)
    }
}

#[cfg(test)]
mod tests;
