//! Hashes of what pods are made of.

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};

/// Sixteen hex digits of a hash.
#[must_use]
pub(crate) fn short(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// The same of what is secret: who does not know the key cannot try what it may have been.
#[must_use]
pub(crate) fn keyed(key: &str, bytes: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hex(hmac::sign(&key, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_hash_says_nothing_to_who_does_not_know_the_key() {
        assert_eq!(keyed("a", b"password"), keyed("a", b"password"));
        assert_ne!(keyed("a", b"password"), keyed("b", b"password"));
        assert_ne!(keyed("a", b"password"), keyed("a", b"passwort"));
        assert_ne!(keyed("", b"password"), short(b"password"));
        assert_eq!(keyed("a", b"password").len(), 16);
    }
}
