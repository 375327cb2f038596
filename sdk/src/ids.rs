//! The identifiers users meet.

use std::fmt;

/// The ID of an edge. Given by the gateway, never 0 for an edge that is online.
///
/// ```
/// use frontier::EdgeId;
///
/// let edge = EdgeId::from(42);
/// assert_eq!(edge.get(), 42);
/// assert_eq!(edge.to_string(), "42");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeId(u64);

/// The ID of a running instance of a service. Given by the gateway, never 0 while connected.
///
/// ```
/// use frontier::ServiceId;
///
/// assert_eq!(ServiceId::from(7).get(), 7);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(u64);

// === impl EdgeId ===

impl EdgeId {
    /// The number.
    ///
    /// ```
    /// assert_eq!(frontier::EdgeId::from(42).get(), 42);
    /// ```
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for EdgeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for EdgeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl ServiceId ===

impl ServiceId {
    /// The number.
    ///
    /// ```
    /// assert_eq!(frontier::ServiceId::from(7).get(), 7);
    /// ```
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for ServiceId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
