//! String headers of calls, messages, streams and answers.

use std::collections::BTreeMap;

/// String headers: `traceparent`, `content-type` and whatever an application adds. Keys are case-sensitive, each occurs once.
///
/// Head and headers of an operation together hold at most 16 KiB.
///
/// ```
/// use frontier::Headers;
///
/// let headers: Headers = [("content-type", "text/plain")].into_iter().collect();
/// assert_eq!(headers.get("content-type"), Some("text/plain"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<Box<str>, Box<str>>);

// === impl Headers ===

impl Headers {
    /// No headers.
    ///
    /// ```
    /// assert!(frontier::Headers::new().is_empty());
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The value of a key.
    ///
    /// ```
    /// assert_eq!(frontier::Headers::new().get("x"), None);
    /// ```
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(AsRef::as_ref)
    }

    /// Sets a key, replacing its value.
    ///
    /// ```
    /// let mut headers = frontier::Headers::new();
    /// headers.insert("tenant", "a");
    /// headers.insert("tenant", "b");
    /// assert_eq!(headers.get("tenant"), Some("b"));
    /// ```
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into().into_boxed_str(), value.into().into_boxed_str());
    }

    /// The pairs, in the order of their keys.
    ///
    /// ```
    /// let headers: frontier::Headers = [("b", "2"), ("a", "1")].into_iter().collect();
    /// assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many keys there are.
    ///
    /// ```
    /// assert_eq!(frontier::Headers::new().len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    ///
    /// ```
    /// assert!(frontier::Headers::new().is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut headers = Self::new();
        for (key, value) in pairs {
            headers.insert(key, value);
        }
        headers
    }
}
