//! Where atlas listens: `http://host:port` or `https://host:port`.

use crate::{address::Address, error::ConnectError};

/// One address of atlas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AtlasAddress {
    /// As its user wrote it.
    pub(super) text: String,
    /// Where to connect; TLS for `https`.
    pub(super) address: Address,
}

// === impl AtlasAddress ===

impl AtlasAddress {
    fn parse(text: &str) -> Result<Self, ConnectError> {
        let bad = |reason| ConnectError::Address { address: text.to_owned(), reason };
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(bad("the scheme is neither http nor https")),
            None => (false, text),
        };
        match Address::parse(rest.strip_suffix('/').unwrap_or(rest)) {
            Ok(address) => Ok(Self { text: text.to_owned(), address: Address { tls, ..address } }),
            Err(ConnectError::Address { reason, .. }) => Err(bad(reason)),
            Err(error) => Err(error),
        }
    }

    /// Reads all of them.
    pub(super) fn parse_all(texts: &[String]) -> Result<Vec<Self>, ConnectError> {
        if texts.is_empty() {
            return Err(ConnectError::Address { address: String::new(), reason: "none was given" });
        }
        texts.iter().map(|text| Self::parse(text)).collect()
    }

    /// As a URI without a path. Encryption is the business of the connection.
    pub(super) fn uri(&self, scheme: &str) -> String {
        let Address { host, port, .. } = &self.address;
        if host.contains(':') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, bool), &'static str> {
        match AtlasAddress::parse(text) {
            Ok(address) => Ok((address.uri("http"), address.address.tls)),
            Err(ConnectError::Address { reason, .. }) => Err(reason),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn addresses_of_atlas_are_read_and_others_refused_with_the_reason() {
        assert_eq!(parse("http://atlas:40011"), Ok(("http://atlas:40011".into(), false)));
        assert_eq!(parse("https://atlas.example:40011/"), Ok(("http://atlas.example:40011".into(), true)));
        assert_eq!(parse("[::1]:40011"), Ok(("http://[::1]:40011".into(), false)));
        assert_eq!(parse("tcp://atlas:40011"), Err("the scheme is neither http nor https"));
        assert_eq!(parse("http://atlas"), Err("no port"));
        assert_eq!(parse("http://atlas:40011/cluster"), Err("no valid port"));
        assert!(AtlasAddress::parse_all(&[]).is_err());
    }
}
