//! The names in a verified client certificate, as entries of the configuration name them.

use frontier_ops::tls::certificate;
use rustls::pki_types::CertificateDer;
use tracing::debug;

use crate::core::identity::Subject;

/// The names in a verified client certificate: `CN=…` first, then `DNS:…`, `URI:…`, `EMAIL:…` and `IP:…`. One that cannot be read has
/// none, so no entry fits it.
#[must_use]
pub fn subject_of(cert: &CertificateDer<'_>) -> Subject {
    let names = certificate::names(cert).unwrap_or_else(|error| {
        debug!(%error, "the names in a client certificate cannot be read");
        certificate::Names::default()
    });
    let common_name = names.common_name.into_iter().map(|name| format!("CN={name}"));
    let dns = names.dns.into_iter().map(|name| format!("DNS:{name}"));
    let uris = names.uris.into_iter().map(|uri| format!("URI:{uri}"));
    let emails = names.emails.into_iter().map(|email| format!("EMAIL:{email}"));
    let ips = names.ips.into_iter().map(|ip| format!("IP:{ip}"));
    Subject { names: common_name.chain(dns).chain(uris).chain(emails).chain(ips).collect() }
}
