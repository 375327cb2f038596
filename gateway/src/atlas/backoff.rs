//! How long to wait before the next attempt: longer each time, and never as long as the others wait, or all gateways would come back to an
//! atlas at once that has just started.

use std::time::Duration;

use super::link::Trouble;
use crate::core::exchange::mix;

/// The shortest wait.
const LEAST: Duration = Duration::from_millis(100);
/// The longest, if there is no telling when atlas comes back: edges shall be found within 5 s of that.
const MOST: Duration = Duration::from_secs(3);
/// The longest, if it is there and only its store is not: asking costs little, and edges shall be found within 5 s.
const MOST_UNAVAILABLE: Duration = Duration::from_millis(2_500);

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Backoff {
    limit: Duration,
    random: u64,
}

// === impl Backoff ===

impl Backoff {
    pub(super) const fn new(seed: u64) -> Self {
        Self { limit: LEAST, random: seed }
    }

    /// It went well.
    pub(super) const fn reset(&mut self) {
        self.limit = LEAST;
    }

    /// The time to wait after this, at random between the shortest wait and a limit that doubles.
    pub(super) fn next(&mut self, trouble: Trouble) -> Duration {
        let most = if trouble == Trouble::Unavailable { MOST_UNAVAILABLE } else { MOST };
        self.limit = (self.limit * 2).min(most);
        self.random = self.random.wrapping_add(1);
        // 32 random bits as a fraction.
        let fraction = (mix(self.random) >> 32) as f64 / f64::from(u32::MAX);
        LEAST + (self.limit - LEAST).mul_f64(fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_differ() {
        let (mut one, mut other) = (Backoff::new(1), Backoff::new(2));
        let mut longest = Duration::ZERO;
        let mut same = 0;
        for _ in 0..100 {
            let (a, b) = (one.next(Trouble::Unreachable), other.next(Trouble::Unreachable));
            assert!(a >= LEAST && a <= MOST);
            longest = longest.max(a);
            same += u32::from(a == b);
        }
        assert!(longest > MOST / 2 && same < 3, "{longest:?} {same}");
        assert!((0..100).all(|_| one.next(Trouble::Unavailable) <= MOST_UNAVAILABLE));
        one.reset();
        assert!(one.next(Trouble::Unreachable) <= LEAST * 2);
    }
}
