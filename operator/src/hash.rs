//! Hashes of what pods are made of.

use aws_lc_rs::digest::{SHA256, digest};

/// Sixteen hex digits of a hash.
#[must_use]
pub(crate) fn short(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
