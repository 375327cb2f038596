//! TLS to Redis, by rustls with aws-lc-rs.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};

use super::settings::{SettingsError, Tls};

/// A client of servers that these settings trust.
pub(super) fn client(tls: &Tls) -> Result<ClientConfig, SettingsError> {
    if let Some(name) = &tls.server_name {
        ServerName::try_from(name.as_str()).map_err(|_| SettingsError::ServerName(name.clone()))?;
    }
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, error))?;
            }
        }
        // Some of a system's roots may be unreadable; a server that needs one of those is not trusted.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error))?;
            Ok(client.with_client_auth_cert(certificates(cert)?, key)?)
        }
        (None, None) => Ok(client.with_no_client_auth()),
        _ => Err(SettingsError::HalfIdentity),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(|error| wrong(path, error))? {
        found if found.is_empty() => Err(wrong(path, "no certificate in it")),
        found => Ok(found),
    }
}

fn wrong(path: &Path, problem: impl ToString) -> SettingsError {
    SettingsError::File { path: path.display().to_string(), problem: problem.to_string() }
}
