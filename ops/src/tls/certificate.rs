//! The names in a certificate: the common name of its subject and its subject alternative names.
//!
//! Rustls verifies certificates but does not hand out their common name. This reads just enough DER (X.690, RFC 5280) to find it: a
//! total function over any bytes, which for client certificates rustls has verified before. Names with control characters are left
//! out, so that nothing in a log or in a comparison is cut at a NUL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;

/// Names of one kind taken from a certificate; real ones have a handful.
const MAX_NAMES: usize = 64;

/// 2.5.4.3, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17, subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The types of text that new certificates may use.
const TEXT: [u8; 3] = [0x0c, 0x13, 0x16];
/// `[0] version` and `[3] extensions` of a certificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// The kinds of alternative names that are of use as identities.
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;

/// The certificate is not what RFC 5280 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed certificate")]
pub struct Malformed;

/// What a certificate calls its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The last common name: the most specific one.
    pub common_name: Option<String>,
    /// DNS names, in lower case.
    pub dns: Vec<String>,
    /// URIs, among them SPIFFE identities.
    pub uris: Vec<String>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
}

/// A reader of DER values one after the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

/// The names in a certificate.
///
/// # Errors
/// When it is malformed where it was looked at.
pub fn names(cert: &CertificateDer<'_>) -> Result<Names, Malformed> {
    let mut names = Names::default();
    let mut tbs = Der(Der(cert).expect(SEQUENCE)?).enter(SEQUENCE)?;
    tbs.optional(VERSION)?;
    tbs.expect(INTEGER)?; // serial number
    tbs.expect(SEQUENCE)?; // signature algorithm
    tbs.expect(SEQUENCE)?; // issuer
    tbs.expect(SEQUENCE)?; // validity
    names.common_name = common_name(tbs.enter(SEQUENCE)?)?;
    tbs.expect(SEQUENCE)?; // public key
    while let Some((tag, value)) = tbs.next()? {
        if tag == EXTENSIONS {
            extensions(Der(value).enter(SEQUENCE)?, &mut names)?;
        }
    }
    Ok(names)
}

/// Whether a certificate of X.509 version 1 holds this public key (a DER SubjectPublicKeyInfo); `None` if it is of another version.
/// Rustls reads version 3 only.
///
/// # Errors
/// When it is malformed where it was looked at.
pub fn first_version_fits(cert: &CertificateDer<'_>, key: &[u8]) -> Result<Option<bool>, Malformed> {
    let mut tbs = Der(Der(cert).expect(SEQUENCE)?).enter(SEQUENCE)?;
    if tbs.0.first() == Some(&VERSION) {
        return Ok(None);
    }
    tbs.expect(INTEGER)?; // serial number
    for _ in ["signature algorithm", "issuer", "validity", "subject"] {
        tbs.expect(SEQUENCE)?;
    }
    Ok(Some(tbs.expect(SEQUENCE)? == Der(key).expect(SEQUENCE)?))
}

/// RDNSequence: sets of (type, value).
fn common_name(mut subject: Der<'_>) -> Result<Option<String>, Malformed> {
    let mut found = None;
    while !subject.is_empty() {
        let mut set = subject.enter(SET)?;
        while !set.is_empty() {
            let mut attribute = set.enter(SEQUENCE)?;
            if attribute.expect(OBJECT_IDENTIFIER)? != COMMON_NAME {
                continue;
            }
            match attribute.next()? {
                Some((tag, value)) if TEXT.contains(&tag) => found = text(value).or(found),
                _ => {}
            }
        }
    }
    Ok(found)
}

fn extensions(mut extensions: Der<'_>, names: &mut Names) -> Result<(), Malformed> {
    while !extensions.is_empty() {
        let mut extension = extensions.enter(SEQUENCE)?;
        let kind = extension.expect(OBJECT_IDENTIFIER)?;
        extension.optional(BOOLEAN)?; // critical
        let value = extension.expect(OCTET_STRING)?;
        if kind == SUBJECT_ALT_NAME {
            alternatives(Der(value).enter(SEQUENCE)?, names)?;
        }
    }
    Ok(())
}

fn alternatives(mut alternatives: Der<'_>, names: &mut Names) -> Result<(), Malformed> {
    while let Some((tag, value)) = alternatives.next()? {
        match tag {
            DNS => push(&mut names.dns, text(value).map(|name| name.to_ascii_lowercase())),
            URI => push(&mut names.uris, text(value)),
            EMAIL => push(&mut names.emails, text(value)),
            IP => push(&mut names.ips, address(value)),
            _ => {}
        }
    }
    Ok(())
}

fn push<T>(list: &mut Vec<T>, item: Option<T>) {
    if list.len() < MAX_NAMES {
        list.extend(item);
    }
}

fn text(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    if text.is_empty() || text.chars().any(char::is_control) { None } else { Some(text.to_owned()) }
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(value).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = || <[u8; 16]>::try_from(value).map(|octets| Ipv6Addr::from(octets).into());
    v4().or_else(|_| v6()).ok()
}

// === impl Der ===

impl<'a> Der<'a> {
    fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next value and its tag; `None` at the end.
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Malformed> {
        let Some((&tag, rest)) = self.0.split_first() else { return Ok(None) };
        // Tags above 30 take more bytes and do not occur in certificates.
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        let (&first, rest) = rest.split_first().ok_or(Malformed)?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Up to 64 KiB; the handshake takes no larger certificates.
            0x81 | 0x82 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f)).ok_or(Malformed)?;
                (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
            }
            _ => return Err(Malformed),
        };
        let (value, rest) = rest.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some((tag, value)))
    }

    /// The next value, which must have the tag.
    fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            Some((found, value)) if found == tag => Ok(value),
            _ => Err(Malformed),
        }
    }

    /// A reader of the next value, which must have the tag.
    fn enter(&mut self, tag: u8) -> Result<Self, Malformed> {
        self.expect(tag).map(Der)
    }

    /// Skips the next value if it has the tag.
    fn optional(&mut self, tag: u8) -> Result<(), Malformed> {
        if self.0.first() == Some(&tag) { self.expect(tag).map(drop) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, string::Ia5String};

    use super::*;

    fn certificate(common_name: &str, alternatives: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Frontier");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = alternatives;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn ia5(text: &str) -> Ia5String {
        text.try_into().unwrap()
    }

    #[test]
    fn all_kinds_of_names_are_found() {
        let cert = certificate(
            "Gerät 42",
            vec![
                SanType::DnsName(ia5("Edge-42.Example")),
                SanType::URI(ia5("spiffe://fleet/edge/42")),
                SanType::Rfc822Name(ia5("ops@example")),
                SanType::IpAddress("10.0.0.1".parse().unwrap()),
                SanType::IpAddress("::1".parse().unwrap()),
            ],
        );
        let names = names(&cert).unwrap();
        assert_eq!(names.common_name.as_deref(), Some("Gerät 42"));
        assert_eq!(names.dns, ["edge-42.example"]);
        assert_eq!(names.uris, ["spiffe://fleet/edge/42"]);
        assert_eq!(names.emails, ["ops@example"]);
        assert_eq!(names.ips, ["10.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn certificate_without_alternatives_has_a_common_name() {
        let names = names(&certificate("edge-1", Vec::new())).unwrap();
        assert_eq!(names, Names { common_name: Some("edge-1".to_owned()), ..Names::default() });
    }

    #[test]
    fn names_with_control_characters_are_left_out() {
        let names = names(&certificate("admin\0.example", vec![SanType::DnsName(ia5("a\nb"))])).unwrap();
        assert_eq!(names, Names::default());
    }

    #[test]
    fn names_are_bounded() {
        let many = (0..MAX_NAMES + 5).map(|n| SanType::DnsName(ia5(&format!("h{n}")))).collect();
        assert_eq!(names(&certificate("x", many)).unwrap().dns.len(), MAX_NAMES);
    }

    #[test]
    fn every_truncation_is_malformed() {
        let cert = certificate("edge", vec![SanType::DnsName(ia5("edge.example"))]);
        for len in 0..cert.len() {
            assert_eq!(names(&CertificateDer::from(&cert[..len])), Err(Malformed), "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0_usize..400, with: u8, tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = certificate("edge", vec![SanType::DnsName(ia5("edge.example"))]).to_vec();
            let at = at % bytes.len();
            bytes[at] = with;
            drop(names(&CertificateDer::from(&bytes[..])));
            drop(names(&CertificateDer::from(tail)));
        }
    }
}
