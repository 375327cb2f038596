//! The answer to a call.

use std::ops::Deref;

use bytes::Bytes;

use crate::headers::Headers;

/// The answer to a call: a body and, seldom, headers. Reads as its body.
///
/// Handlers may return anything that turns into one: bytes, strings, `()`.
///
/// ```
/// use frontier::Reply;
///
/// let reply = Reply::from("21.5").header("unit", "°C");
/// assert_eq!(&*reply, b"21.5");
/// assert_eq!(reply.headers().get("unit"), Some("°C"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    body: Bytes,
    headers: Headers,
}

// === impl Reply ===

impl Reply {
    /// An answer with this body.
    ///
    /// ```
    /// assert_eq!(&*frontier::Reply::new(vec![1, 2]), [1, 2]);
    /// ```
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), headers: Headers::new() }
    }

    pub(crate) const fn with_headers(body: Bytes, headers: Headers) -> Self {
        Self { body, headers }
    }

    /// The same answer with one more header.
    ///
    /// ```
    /// let reply = frontier::Reply::from("{}").header("content-type", "application/json");
    /// assert_eq!(reply.headers().len(), 1);
    /// ```
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(key, value);
        self
    }

    /// The body.
    ///
    /// ```
    /// assert_eq!(frontier::Reply::from("a").body(), "a");
    /// ```
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body, without a copy.
    ///
    /// ```
    /// let body: frontier::Bytes = frontier::Reply::from("a").into_body();
    /// assert_eq!(body, "a");
    /// ```
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// The headers.
    ///
    /// ```
    /// assert!(frontier::Reply::from("a").headers().is_empty());
    /// ```
    #[must_use]
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    pub(crate) fn into_parts(self) -> (Bytes, Headers) {
        (self.body, self.headers)
    }
}

impl Deref for Reply {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.body
    }
}

impl From<()> for Reply {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<Bytes> for Reply {
    fn from(body: Bytes) -> Self {
        Self::new(body)
    }
}

impl From<Vec<u8>> for Reply {
    fn from(body: Vec<u8>) -> Self {
        Self::new(body)
    }
}

impl From<String> for Reply {
    fn from(body: String) -> Self {
        Self::new(body)
    }
}

impl From<&'static str> for Reply {
    fn from(body: &'static str) -> Self {
        Self::new(body)
    }
}

impl From<&'static [u8]> for Reply {
    fn from(body: &'static [u8]) -> Self {
        Self::new(body)
    }
}

impl<const N: usize> From<&'static [u8; N]> for Reply {
    fn from(body: &'static [u8; N]) -> Self {
        Self::new(body.as_slice())
    }
}
