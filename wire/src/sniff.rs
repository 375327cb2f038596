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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn each_protocol_is_told() {
        let cases: [(&[u8], Sniff); 18] = [
            (b"\x00\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00", Sniff::Native),
            (b"\x00", Sniff::Native),
            (b"\x01\x01\x00\x00", Sniff::Geminio),
            (b"\x01\x02", Sniff::Unknown),
            (b"\x16\x03\x01\x02\x00\x01", Sniff::Tls),
            (b"\x16", Sniff::Tls),
            (b"\x10\x0c\x00\x04MQTT", Sniff::Mqtt),
            (b"GET / HTTP/1.1\r\n", Sniff::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Http),
            (b"VERSION-CONTROL /x HTTP/1.1", Sniff::Http),
            (b"X /", Sniff::Http),
            (b"get / HTTP/1.1\r\n", Sniff::Unknown),
            (b"GET\t/", Sniff::Unknown),
            (b"SSH-2.0-OpenSSH_9.2", Sniff::Unknown),
            (b" GET /", Sniff::Unknown),
            (b"*1\r\n$4\r\nPING\r\n", Sniff::Unknown),
            (b"\x17\x03\x03", Sniff::Unknown),
            (b"\xff", Sniff::Unknown),
        ];
        for (first, expected) in cases {
            assert_eq!(sniff(first), expected, "{:?}", first.escape_ascii().to_string());
        }
    }

    #[test]
    fn beginnings_need_more() {
        for first in [&b""[..], b"\x01", b"G", b"GET", b"PRI", b"SSH"] {
            assert_eq!(sniff(first), Sniff::NeedMore, "{first:?}");
        }
    }

    #[test]
    fn longest_method_is_the_last_to_be_decided() {
        let method = [b'A'; MAX_METHOD];
        assert_eq!(sniff(&method), Sniff::NeedMore);
        assert_eq!(sniff(&[&method[..], b" "].concat()), Sniff::Http);
        assert_eq!(sniff(&[&method[..], b"A"].concat()), Sniff::Unknown);
        assert_eq!(sniff(&[&method[..], b"A "].concat()), Sniff::Unknown);
    }

    /// Bytes near the border: mostly letters.
    fn beginning() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![9 => b'A'..=b'Z', 1 => Just(b' '), 1 => any::<u8>()], 0..40)
    }

    proptest! {
        #[test]
        fn decision_is_final_and_comes_in_time(first in beginning()) {
            let mut decided = Sniff::NeedMore;
            for end in 0..=first.len() {
                let told = sniff(&first[..end]);
                prop_assert!(decided == Sniff::NeedMore || told == decided, "{:?} became {:?}", decided, told);
                decided = told;
            }
            prop_assert!(first.len() < SNIFF_LEN || decided != Sniff::NeedMore);
        }
    }
}
