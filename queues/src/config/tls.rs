//! `tls`: towards a broker.

use std::{path::PathBuf, sync::Arc};

use frontier_ops::{
    config::{Problems, read::Section},
    tls::{
        dial::{any_certificate, system_authorities},
        provider,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    client::WebPkiServerVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Serialize;

/// TLS towards a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientTls {
    /// Whether TLS is spoken.
    pub enable: bool,
    /// PEM file of the authorities that verify the broker; empty = the system's.
    pub ca: PathBuf,
    /// PEM file of the chain shown to the broker; empty = none.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// The name that the broker's certificate must have; empty = the host of the address.
    pub server_name: String,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

// === impl ClientTls ===

impl ClientTls {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            ca: section.value("ca", PathBuf::new()),
            cert: section.value("cert", PathBuf::new()),
            key: section.value("key", PathBuf::new()),
            server_name: section.value("server_name", String::new()),
            insecure_skip_verify: section.value("insecure_skip_verify", false),
        }
    }

    pub(super) fn validate(&self, key: &str, problems: &mut Problems) {
        if self.cert.as_os_str().is_empty() != self.key.as_os_str().is_empty() {
            problems.error(format!("{key}.cert"), "a certificate needs its key and a key its certificate");
        } else if self.enable
            && let Err(error) = self.config()
        {
            problems.error(key, error);
        }
    }

    /// The name that the certificate of a broker at `host` must have.
    pub(crate) fn name<'a>(&'a self, host: &'a str) -> &'a str {
        if self.server_name.is_empty() { host } else { &self.server_name }
    }

    /// The client's side as the files are now; `None` where TLS is off.
    pub(crate) fn client(&self, asked: bool) -> Result<Option<Arc<ClientConfig>>, String> {
        if self.enable || asked { self.config().map(|config| Some(Arc::new(config))) } else { Ok(None) }
    }

    fn config(&self) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .dangerous();
        let builder = if self.insecure_skip_verify {
            builder.with_custom_certificate_verifier(any_certificate())
        } else {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(self.authorities()?), provider());
            builder.with_custom_certificate_verifier(verifier.build().map_err(|error| error.to_string())?)
        };
        if self.cert.as_os_str().is_empty() {
            return Ok(builder.with_no_client_auth());
        }
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", self.key.display());
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| failed(&error))?;
        builder.with_client_auth_cert(certificates(&self.cert)?, key).map_err(|error| failed(&error))
    }

    fn authorities(&self) -> Result<RootCertStore, String> {
        if self.ca.as_os_str().is_empty() {
            return Ok(system_authorities());
        }
        let mut roots = RootCertStore::empty();
        for cert in certificates(&self.ca)? {
            roots.add(cert).map_err(|error| format!("{}: {error}", self.ca.display()))?;
        }
        Ok(roots)
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display());
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let all = all.map_err(failed)?;
    if all.is_empty() { Err(format!("{}: no certificate found", path.display())) } else { Ok(all) }
}
