//! Pauses between attempts to connect.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);

/// A broker that is back is found within this time.
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles from 50 ms to 5 s; each pause is drawn between half of that and all of it, so that many gateways do not come at once.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

// === impl Backoff ===

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self(FIRST)
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (self.0 * 2).min(LONGEST);
        let share = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        pause.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_vary() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..12).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST, "{pauses:?}");
        assert!(pauses[11] >= LONGEST / 2 && pauses.iter().all(|pause| *pause <= LONGEST), "{pauses:?}");
        assert!(pauses[8..].windows(2).any(|two| two[0] != two[1]), "{pauses:?}");
    }
}
