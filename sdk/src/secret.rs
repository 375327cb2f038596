//! Bytes that are not shown: tokens and tickets among settings that are.

use std::{fmt, ops::Deref};

use bytes::Bytes;

/// See the module documentation.
#[derive(Clone, Default)]
pub(crate) struct Secret(Bytes);

// === impl Secret ===

impl<T: Into<Bytes>> From<T> for Secret {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Secret {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "secret" })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn settings_can_be_shown_without_their_secrets() {
        let builder = crate::Edge::builder("a:1").meta("shown").token("s3cret").resume("t1cket");
        let text = format!("{builder:?}");
        assert!(text.contains("shown"), "{text}");
        assert!(!text.contains("s3cret") && !text.contains("t1cket"), "{text}");
        assert!(!format!("{:?}", crate::Service::builder("a:1").token("s3cret")).contains("s3cret"));
    }
}
