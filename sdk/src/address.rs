//! Where a gateway listens: `tcp://host:port`, `tls://host:port` or `host:port`.

use std::fmt;

use crate::error::ConnectError;

/// One address of a gateway. The host is resolved at every attempt to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// One address or several: `"tcp://gateway:30012"`, `["tcp://a:30012", "tcp://b:30012"]`, a `String`, a `Vec` or a slice of them.
///
/// `tls://` encrypts; `tcp://` and an address without a scheme do so only if TLS options are set. Several addresses are tried
/// in turn: the one that worked comes first after a loss, and the next one when the gateway was silent, drains or cannot be reached.
///
/// ```
/// use frontier::Edge;
///
/// let one = Edge::builder("tcp://127.0.0.1:30012");
/// let several = Edge::builder(["tls://a.example:30012", "tls://b.example:30012"]);
/// # let _ = (one, several);
/// ```
pub trait IntoAddresses {
    /// The addresses as text.
    fn into_addresses(self) -> Vec<String>;
}

// === impl IntoAddresses ===

impl IntoAddresses for &str {
    fn into_addresses(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl IntoAddresses for String {
    fn into_addresses(self) -> Vec<String> {
        vec![self]
    }
}

impl IntoAddresses for &String {
    fn into_addresses(self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl<T: AsRef<str>> IntoAddresses for Vec<T> {
    fn into_addresses(self) -> Vec<String> {
        self.as_slice().into_addresses()
    }
}

impl<T: AsRef<str>> IntoAddresses for &[T] {
    fn into_addresses(self) -> Vec<String> {
        self.iter().map(|address| address.as_ref().to_owned()).collect()
    }
}

impl<T: AsRef<str>, const N: usize> IntoAddresses for [T; N] {
    fn into_addresses(self) -> Vec<String> {
        self.as_slice().into_addresses()
    }
}

// === impl Address ===

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, ConnectError> {
        let bad = |reason| ConnectError::Address { address: text.to_owned(), reason };
        let (tls, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (false, rest),
            Some(("tls", rest)) => (true, rest),
            Some(_) => return Err(bad("the scheme is neither tcp nor tls")),
            None => (false, text),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| bad("no port"))?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad("no valid port"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(host) => host,
            None if host.contains(':') => return Err(bad("an IPv6 address needs brackets")),
            None => host,
        };
        if host.is_empty() || host.contains(['/', '@', ' ', '[', ']']) {
            return Err(bad("no valid host"));
        }
        Ok(Self { tls, host: host.to_owned(), port })
    }

    /// Reads all of them.
    pub(crate) fn parse_all(texts: &[String]) -> Result<Vec<Self>, ConnectError> {
        if texts.is_empty() {
            return Err(ConnectError::Address { address: String::new(), reason: "none was given" });
        }
        texts.iter().map(|text| Self::parse(text)).collect()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "tls" } else { "tcp" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, &'static str> {
        match Address::parse(text) {
            Ok(address) => Ok(address.to_string()),
            Err(ConnectError::Address { reason, .. }) => Err(reason),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn addresses_with_and_without_scheme_are_read() {
        assert_eq!(parse("127.0.0.1:30012").as_deref(), Ok("tcp://127.0.0.1:30012"));
        assert_eq!(parse("tcp://gateway:1").as_deref(), Ok("tcp://gateway:1"));
        assert_eq!(parse("tls://gateway.example:30012").as_deref(), Ok("tls://gateway.example:30012"));
        assert_eq!(parse("tls://[::1]:30012").as_deref(), Ok("tls://[::1]:30012"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        assert_eq!(parse("http://gateway:80"), Err("the scheme is neither tcp nor tls"));
        assert_eq!(parse("gateway"), Err("no port"));
        assert_eq!(parse("gateway:0"), Err("no valid port"));
        assert_eq!(parse("gateway:70000"), Err("no valid port"));
        assert_eq!(parse("::1:30012"), Err("an IPv6 address needs brackets"));
        assert_eq!(parse(":30012"), Err("no valid host"));
        assert_eq!(parse("user@host:1"), Err("no valid host"));
    }

    #[test]
    fn no_address_at_all_is_an_error() {
        assert!(Address::parse_all(&[]).is_err());
    }
}
