//! Where a broker listens.

use std::{fmt, sync::Arc};

use frontier_ops::config::{
    Problems, Secret,
    read::{FromNode, Section, scalar},
    split_host_port,
    yaml::Node,
};
use serde::{Serialize, Serializer};

/// `host:port`; also as a URL, `scheme://user:password@host:port/path`, of which every part but the host may be missing.
///
/// Name and password are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    secure: bool,
    user: String,
    password: Secret,
    host: String,
    port: u16,
    path: Option<String>,
}

// === impl Address ===

impl Address {
    /// Reads one. Its port is 0 where none is given.
    ///
    /// # Errors
    /// What is wrong with it, without showing it: a password may be in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "" | "tcp" | "amqp" | "nats" | "redis" | "nsq" | "kafka" => false,
            "tls" | "amqps" | "rediss" | "nats+tls" => true,
            _ => return Err(format!("unknown scheme {scheme:?}")),
        };
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(decoded(path)?)),
            None => (rest, None),
        };
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = if place.is_empty() || place.ends_with(']') || !place.contains(':') {
            (place.trim_start_matches('[').trim_end_matches(']'), 0)
        } else {
            split_host_port(place)?
        };
        if host.is_empty() {
            return Err("has no host".to_owned());
        }
        Ok(Self {
            secure,
            user: decoded(user)?,
            password: Secret::new(decoded(password)?),
            host: host.to_owned(),
            port,
            path: path.filter(|path| !path.is_empty()),
        })
    }

    /// The list `addrs`, with a port for those that have none; 0 where the broker has no usual port.
    pub(super) fn list(section: &mut Section<'_>, port: u16) -> Vec<Self> {
        let mut list: Vec<Self> = section.value("addrs", Vec::new());
        for address in &mut list {
            if address.port == 0 {
                address.port = port;
            }
        }
        list
    }

    /// Reports parts of addresses that the broker has no use for; `instead` says what to write for a name and password.
    pub(super) fn only_places(list: &[Self], name: &str, instead: Option<&str>, problems: &mut Problems) {
        for (index, address) in list.iter().enumerate() {
            let key = format!("mqm.{name}.addrs[{index}]");
            if let (Some(_), Some(instead)) = (address.login(), instead) {
                problems.error(&key, format!("a name and password have no effect in an address; {instead}"));
            }
            if address.path().is_some() {
                problems.error(&key, "has something behind the port that has no effect; write host:port");
            }
        }
    }

    /// With this port where none is given, or this one with TLS.
    pub(super) fn or_port(mut self, plain: u16, secure: u16) -> Self {
        if self.port == 0 {
            self.port = if self.secure { secure } else { plain };
        }
        self
    }

    /// Whether the scheme asks for TLS.
    #[must_use]
    pub const fn secure(&self) -> bool {
        self.secure
    }

    /// Name and password, if it has one of them.
    #[must_use]
    pub fn login(&self) -> Option<(&str, &Secret)> {
        let given = !self.user.is_empty() || !self.password.expose().is_empty();
        given.then_some((self.user.as_str(), &self.password))
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What stands behind the host: a virtual host, or the number of a database.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Host and port, for logs.
    #[must_use]
    pub fn shown(&self) -> Arc<str> {
        if self.host.contains(':') {
            Arc::from(format!("[{}]:{}", self.host, self.port))
        } else {
            Arc::from(format!("{}:{}", self.host, self.port))
        }
    }
}

impl FromNode for Address {
    fn from_node(node: &Node) -> Result<Self, String> {
        let text = scalar(node, "host:port").map_err(|_| "expected host:port".to_owned())?;
        Self::parse(text).map_err(|error| {
            // Where a login is part of it, what is quoted may be a piece of the password.
            if text.contains('@') {
                "expected scheme://user:password@host:port, with / @ : and % in names and passwords as %2F %40 %3A %25".to_owned()
            } else {
                format!("expected host:port: {error}")
            }
        })
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.login().is_some() {
            f.write_str("***@")?;
        }
        f.write_str(&self.shown())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Replaces `%41` by what it stands for.
fn decoded(text: &str) -> Result<String, String> {
    const WRONG: &str = "a % is not followed by two hexadecimal digits";
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or(WRONG)?;
        let digits = std::str::from_utf8(digits).map_err(|_| WRONG)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| WRONG)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| "is not text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port_with_parts_around() {
        let plain = Address::parse("kafka-1:9092").unwrap();
        assert_eq!(
            (plain.host(), plain.port(), plain.secure(), plain.login()),
            ("kafka-1", 9092, false, None)
        );
        let full = Address::parse("amqps://gw:p%40ss:w@rabbit:5671/%2Fprod").unwrap();
        assert_eq!((full.host(), full.port(), full.secure()), ("rabbit", 5671, true));
        assert_eq!(full.path(), Some("/prod"));
        assert_eq!(full.login(), Some(("gw", &Secret::new("p@ss:w"))));
        assert_eq!(Address::parse("[::1]:4222").unwrap().shown().as_ref(), "[::1]:4222");
        assert_eq!(Address::parse("rabbit").unwrap().port(), 0);
        for wrong in ["", "http://a:1", "a:b", "a:70000", "u:p@", "a%4@b:1"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_broker_has_no_use_for_is_told_and_not_shown() {
        let list = ["kafka://gw:hunter2@k:9092", ":hunter2@k:9092", "k:9092/5", "k:9092/"]
            .map(|text| Address::parse(text).unwrap());
        let mut problems = Problems::default();
        Address::only_places(&list, "kafka", Some("write mqm.kafka.sasl"), &mut problems);
        let told: Vec<String> = problems.list().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("mqm.kafka.addrs[0]") && told[1].contains("mqm.kafka.addrs[1]"), "{told:?}");
        assert!(told[0].contains("write mqm.kafka.sasl") && told[2].contains("write host:port"), "{told:?}");
        assert!(!told.concat().contains("hunter2"), "{told:?}");
    }

    #[test]
    fn logins_are_not_shown() {
        let address = Address::parse("gw:hunter2@rabbit:5672").unwrap();
        for text in [
            format!("{address} {address:?}"),
            address.shown().to_string(),
            serde_json::to_string(&address).unwrap(),
        ] {
            assert!(!text.contains("hunter2") && !text.contains("gw"), "{text}");
        }
        let error = Address::parse("gw:hunter2@rabbit:port").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
