//! The one source of chance of a simulation: everything that may happen one way or another asks it.

use crate::core::exchange::mix;

/// SplitMix64. The same seed gives the same choices.
#[derive(Clone, Debug)]
pub struct Rng(u64);

// === impl Rng ===

impl Rng {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// One of `0..n`; 0 if `n` is 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        let bits = self.next();
        if n == 0 { 0 } else { bits % n }
    }

    /// One of `from..=to`.
    pub const fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// As [`Rng::between`], for sizes.
    pub fn size(&mut self, from: usize, to: usize) -> usize {
        usize::try_from(self.between(from as u64, to as u64)).unwrap_or(from)
    }

    /// True in so many of a thousand cases.
    pub const fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1_000) < per_mille as u64
    }

    /// One of some things.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.size(0, from.len() - 1)]
    }

    /// An index, each as often as its weight says.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut at = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (index, weight) in weights.iter().enumerate() {
            if at < u64::from(*weight) {
                return index;
            }
            at -= u64::from(*weight);
        }
        0
    }

    /// Puts things into any order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.size(0, last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn choices_keep_their_bounds_and_repeat_with_their_seed() {
        let (mut one, mut two) = (Rng::new(7), Rng::new(7));
        let mut seen = [0u32; 3];
        for _ in 0..3_000 {
            let value = one.between(5, 9);
            assert!((5..=9).contains(&value));
            assert_eq!(value, two.between(5, 9));
            seen[one.weighted(&[1, 0, 9])] += 1;
            two.weighted(&[1, 0, 9]);
        }
        assert!(seen[0] > 200 && seen[1] == 0 && seen[2] > 2_500, "{seen:?}");
        assert_eq!(one.below(0), 0);
        assert_ne!(Rng::new(1).next(), Rng::new(2).next());
    }

    #[test]
    fn shuffling_keeps_everything() {
        let mut things: Vec<u32> = (0..50).collect();
        Rng::new(3).shuffle(&mut things);
        assert_ne!(things, (0..50).collect::<Vec<_>>());
        things.sort_unstable();
        assert_eq!(things, (0..50).collect::<Vec<_>>());
    }
}
