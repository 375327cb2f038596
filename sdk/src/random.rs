//! Randomness for jitter and instance numbers.

use std::time::Duration;

/// A small generator (splitmix64): good enough to spread clients, of no use for secrets.
#[derive(Debug)]
pub(crate) struct Random(u64);

// === impl Random ===

impl Random {
    /// Seeded by the system; should that have no randomness, by what tells two processes apart.
    pub(crate) fn new() -> Self {
        let mut seed = [0; 8];
        if getrandom::fill(&mut seed).is_err() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let nanos = now.map_or(0, |now| now.as_nanos() as u64);
            return Self::seeded(nanos ^ u64::from(std::process::id()).rotate_left(32));
        }
        Self::seeded(u64::from_ne_bytes(seed))
    }

    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly between zero and `max`, of which no more than a year counts: beyond, floats could overflow a `Duration`.
    pub(crate) fn up_to(&mut self, max: Duration) -> Duration {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let max = max.min(YEAR);
        // 53 bits are what a float holds exactly.
        let part = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        max.mul_f64(part)
    }

    /// Evenly within a quarter around `middle`.
    pub(crate) fn around(&mut self, middle: Duration) -> Duration {
        middle.saturating_sub(middle / 4).saturating_add(self.up_to(middle / 2))
    }

    /// 16 bytes that tell one running client from all others.
    pub(crate) fn instance(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            bytes = ((u128::from(self.next()) << 64) | u128::from(self.next())).to_ne_bytes();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn around_stays_within_a_quarter() {
        let mut random = Random::seeded(3);
        let middle = Duration::from_secs(20);
        for _ in 0..1_000 {
            let value = random.around(middle);
            assert!(value >= Duration::from_secs(15) && value <= Duration::from_secs(25));
        }
    }

    #[test]
    fn two_clients_are_told_apart() {
        assert_ne!(Random::new().instance(), Random::new().instance());
    }
}
