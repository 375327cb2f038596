//! What is dialled behind an agent, and what the agent allows.

use std::{fmt, str::FromStr};

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// In lower case; an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Targets an agent may dial: `None` = any.
///
/// Hosts are compared as they are written: who may dial `localhost` may not dial `127.0.0.1`. Names are resolved by the agent when it
/// dials, so allow names only if their resolution can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    host: Option<String>,
    port: Option<u16>,
}

// === impl Target ===

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = split(text)?;
        Ok(Self { host, port: port_of(port)? })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

// === impl Pattern ===

impl Pattern {
    pub(crate) fn allows(&self, target: &Target) -> bool {
        self.host.as_ref().is_none_or(|host| *host == target.host)
            && self.port.is_none_or(|port| port == target.port)
    }
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = split(text)?;
        let port = if port == "*" { None } else { Some(port_of(port)?) };
        Ok(Self { host: Some(host).filter(|host| host != "*"), port })
    }
}

/// Host in lower case and without brackets, and what stands for the port.
fn split(text: &str) -> Result<(String, &str), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("a target is HOST:PORT")?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err("an IPv6 address needs brackets");
    }
    let host = bare.unwrap_or(host).to_ascii_lowercase();
    // Names end up in terminals of others.
    if host.is_empty() || host.len() > 253 || host.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("no valid host");
    }
    Ok((host, port))
}

fn port_of(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|port| *port != 0).ok_or("no valid port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, target: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().allows(&target.parse().unwrap())
    }

    #[test]
    fn only_what_is_written_is_allowed() {
        assert!(allows("127.0.0.1:8000", "127.0.0.1:8000"));
        assert!(!allows("127.0.0.1:8000", "127.0.0.1:8001"));
        assert!(!allows("127.0.0.1:8000", "127.0.0.2:8000"));
        assert!(!allows("127.0.0.1:8000", "localhost:8000"), "names are not resolved for the comparison");
    }

    #[test]
    fn a_star_is_any_host_or_any_port() {
        assert!(allows("db.local:*", "DB.local:5432"));
        assert!(!allows("db.local:*", "db.local.evil:5432"));
        assert!(allows("*:443", "example.org:443"));
        assert!(!allows("*:443", "example.org:80"));
        assert!(allows("[::1]:*", "[::1]:22"));
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<Target>().unwrap_err();
        assert_eq!(refused("localhost"), "a target is HOST:PORT");
        assert_eq!(refused("::1:22"), "an IPv6 address needs brackets");
        assert_eq!(refused("host:0"), "no valid port");
        assert_eq!(refused("host:*"), "no valid port");
        assert_eq!(refused("a\u{1b}[2J:22"), "no valid host");
        assert_eq!(refused(":22"), "no valid host");
    }
}
