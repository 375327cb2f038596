//! Which protocol a new connection speaks, told from its first bytes.
//!
//! One listener serves several protocols; each begins in its own way, so nothing has to be configured or tried.

/// Longest HTTP method looked for, in bytes. The longest registered one has 17 (`UPDATEREDIRECTREF`).
const MAX_METHOD: usize = 20;

/// Bytes after which [`sniff`] always has an answer: a listener need not keep more of an undecided connection.
pub const SNIFF_LEN: usize = MAX_METHOD + 1;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sniff {
    /// Not told yet: ask again with more bytes.
    NeedMore,
    /// `00`: the native protocol (the version byte of yamux).
    Native,
    /// `01 01`: geminio (its version, then the type of its first packet).
    Geminio,
    /// `16`: a TLS handshake record; sniff again inside.
    Tls,
    /// An upper-case ASCII method and a space: HTTP/1, or the preface of HTTP/2.
    Http,
    /// `10`: CONNECT of MQTT.
    Mqtt,
    /// None of these.
    Unknown,
}

/// Tells the protocol from the first bytes of a connection. Total, and decided after [`SNIFF_LEN`] bytes at the latest.
#[must_use]
pub fn sniff(first: &[u8]) -> Sniff {
    match first {
        [] | [0x01] => Sniff::NeedMore,
        [0x00, ..] => Sniff::Native,
        [0x01, 0x01, ..] => Sniff::Geminio,
        [0x16, ..] => Sniff::Tls,
        [0x10, ..] => Sniff::Mqtt,
        [b'A'..=b'Z', rest @ ..] => sniff_method(rest),
        [..] => Sniff::Unknown,
    }
}

/// Goes on behind the first letter of a method.
fn sniff_method(rest: &[u8]) -> Sniff {
    let end = rest.iter().take(MAX_METHOD).position(|byte| !matches!(byte, b'A'..=b'Z' | b'-'));
    match end.and_then(|end| rest.get(end)) {
        Some(b' ') => Sniff::Http,
        Some(_) => Sniff::Unknown,
        None if rest.len() < MAX_METHOD => Sniff::NeedMore,
        None => Sniff::Unknown,
    }
}
