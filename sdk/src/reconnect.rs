//! How long to wait before connecting again.

use std::time::Duration;

use crate::random::Random;

/// When to connect again after a connection was lost or could not be made: exponential backoff with full jitter.
///
/// Before attempt *n* (from 0) the client waits a random time between zero and `min(cap, base × 2ⁿ)`, so that a fleet that lost its
/// gateway comes back spread out. The first attempt after a connection that had been up goes the same way. A gateway that says when
/// to come again is obeyed instead: the wait is what it said plus up to a quarter.
///
/// ```
/// use std::time::Duration;
/// use frontier::Reconnect;
///
/// let policy = Reconnect::default().base(Duration::from_millis(100)).cap(Duration::from_secs(10)).max_attempts(20);
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Reconnect {
    base: Duration,
    cap: Duration,
    max_attempts: Option<u32>,
}

/// The longest hint of a gateway that is obeyed: a number out of range must not switch a client off.
const MAX_HINT: Duration = Duration::from_secs(600);

// === impl Reconnect ===

impl Reconnect {
    pub(crate) const DEFAULT: Self =
        Self { base: Duration::from_millis(200), cap: Duration::from_secs(120), max_attempts: None };

    /// Never connect again: the first loss closes the client.
    ///
    /// ```
    /// # use frontier::{Edge, Reconnect};
    /// let edge = Edge::builder("127.0.0.1:30012").reconnect(Reconnect::never());
    /// # let _ = edge;
    /// ```
    pub fn never() -> Self {
        Self::default().max_attempts(0)
    }

    /// The longest first wait (default 200 ms).
    ///
    /// ```
    /// # use std::time::Duration;
    /// let policy = frontier::Reconnect::default().base(Duration::from_millis(50));
    /// # let _ = policy;
    /// ```
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// The longest wait ever (default 2 minutes).
    ///
    /// ```
    /// # use std::time::Duration;
    /// let policy = frontier::Reconnect::default().cap(Duration::from_secs(30));
    /// # let _ = policy;
    /// ```
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// Attempts after which the client gives up and is closed (default: none, it goes on for ever). An attempt is one try at one address.
    ///
    /// ```
    /// let policy = frontier::Reconnect::default().max_attempts(3);
    /// # let _ = policy;
    /// ```
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Whether attempt `attempt` (from 0) may be made.
    pub(crate) fn allows(&self, attempt: u32) -> bool {
        self.max_attempts.is_none_or(|max| attempt < max)
    }

    /// How long to wait before attempt `attempt` (from 0).
    pub(crate) fn delay(&self, attempt: u32, random: &mut Random) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        random.up_to(self.base.saturating_mul(factor).min(self.cap))
    }

    /// How long to wait after the gateway said when to come again.
    pub(crate) fn hinted(hint: Duration, random: &mut Random) -> Duration {
        let hint = hint.min(MAX_HINT);
        hint.saturating_add(random.up_to(hint / 4))
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_use_the_whole_range() {
        let policy = Reconnect::default().base(Duration::from_millis(100)).cap(Duration::from_secs(5));
        let mut random = Random::seeded(7);
        for attempt in [0_u32, 3, 10, 40, u32::MAX] {
            let bound = Duration::from_millis(100).saturating_mul(1 << attempt.min(20)).min(policy.cap);
            let delays: Vec<_> = (0..500).map(|_| policy.delay(attempt, &mut random)).collect();
            assert!(delays.iter().all(|delay| *delay <= bound), "{attempt}");
            assert!(delays.iter().any(|delay| *delay < bound / 10), "{attempt}");
            assert!(delays.iter().any(|delay| *delay > bound / 10 * 9), "{attempt}");
        }
    }

    #[test]
    fn a_hint_is_never_undercut_nor_taken_without_bound() {
        let mut random = Random::seeded(1);
        for _ in 0..200 {
            let delay = Reconnect::hinted(Duration::from_secs(4), &mut random);
            assert!(delay >= Duration::from_secs(4) && delay <= Duration::from_secs(5));
        }
        assert!(Reconnect::hinted(Duration::MAX, &mut random) <= MAX_HINT * 5 / 4);
    }

    #[test]
    fn never_allows_no_attempt() {
        assert!(!Reconnect::never().allows(0));
        assert!(Reconnect::default().allows(u32::MAX));
        assert!(Reconnect::default().max_attempts(2).allows(1));
        assert!(!Reconnect::default().max_attempts(2).allows(2));
    }
}
