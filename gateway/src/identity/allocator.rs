//! New edge IDs: random, so that gateways need not agree on them.
//!
//! IDs have 63 bits, which every language has a type for. Among a million IDs of one fleet the odds that a new one is taken are one
//! in nine million million; the allocator asks about those it can know of.

use std::fmt;

use aws_lc_rs::hmac;

/// A draw that is taken is drawn again so often; even with half of all IDs taken this is enough in all but one of 2^64 cases.
const DRAWS: usize = 64;

/// A source of numbers that nobody can guess from earlier ones.
pub trait Random: Send {
    /// The next number, uniform over all of its bits.
    fn next_u64(&mut self) -> u64;
}

/// Numbers from a seed: HMAC-SHA256 in counter mode. The same seed gives the same numbers, which is what simulations need.
pub struct SeededRandom {
    key: hmac::Key,
    counter: u64,
    /// Those of the last block that are not used yet, the next one last.
    ready: Vec<u64>,
}

/// The system gave no randomness to seed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct NoEntropy;

/// See the module documentation.
#[derive(Debug)]
pub struct IdAllocator<R> {
    random: R,
}

// === impl SeededRandom ===

impl SeededRandom {
    /// Of a seed that is as secret as the numbers shall be.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), counter: 0, ready: Vec::new() }
    }

    /// Of a seed from the operating system.
    ///
    /// # Errors
    /// When it gives none.
    pub fn from_system() -> Result<Self, NoEntropy> {
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| NoEntropy)?;
        Ok(Self::new(&seed))
    }
}

impl Random for SeededRandom {
    fn next_u64(&mut self) -> u64 {
        loop {
            if let Some(number) = self.ready.pop() {
                return number;
            }
            let block = hmac::sign(&self.key, &self.counter.to_be_bytes());
            self.counter = self.counter.wrapping_add(1);
            let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.ready.extend(block.as_ref().chunks_exact(8).map(word));
        }
    }
}

impl fmt::Debug for SeededRandom {
    /// Without the state: it tells the numbers to come.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeededRandom").finish_non_exhaustive()
    }
}

// === impl IdAllocator ===

impl<R: Random> IdAllocator<R> {
    /// Drawing from `random`.
    pub const fn new(random: R) -> Self {
        Self { random }
    }

    /// A new ID, from 1 to 2^63 − 1, for which `taken` is false; `None` if practically all are taken.
    pub fn allocate(&mut self, mut taken: impl FnMut(u64) -> bool) -> Option<u64> {
        let mut draw = || self.random.next_u64() >> 1;
        (0..DRAWS).map(|_| draw()).find(|id| *id != 0 && !taken(*id))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Gives these, then starts over.
    struct Script(Vec<u64>, usize);

    impl Random for Script {
        fn next_u64(&mut self) -> u64 {
            self.1 += 1;
            self.0[(self.1 - 1) % self.0.len()]
        }
    }

    #[test]
    fn zero_and_taken_ids_are_drawn_again() {
        let mut allocator = IdAllocator::new(Script(vec![0, 1, 5 << 1, u64::MAX], 0));
        assert_eq!(allocator.allocate(|_| false), Some(5), "0 and 1 >> 1 are no IDs");
        assert_eq!(allocator.allocate(|_| false), Some((1 << 63) - 1), "63 bits");
        assert_eq!(allocator.allocate(|id| id == 5), Some((1 << 63) - 1));
    }

    #[test]
    fn a_full_space_ends_the_search() {
        let mut allocator = IdAllocator::new(SeededRandom::new(&[1; 32]));
        assert_eq!(allocator.allocate(|_| true), None);
    }

    #[test]
    fn a_seed_gives_the_same_ids_and_another_seed_others() {
        let ids = |seed: u8| {
            let mut allocator = IdAllocator::new(SeededRandom::new(&[seed; 32]));
            (0..1000).map(|_| allocator.allocate(|_| false).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(ids(1), ids(1));
        let all: HashSet<u64> = ids(1).into_iter().chain(ids(2)).collect();
        assert_eq!(all.len(), 2000);
    }

    #[test]
    fn every_bit_is_as_often_one_as_zero() {
        let mut random = SeededRandom::new(&[7; 32]);
        let mut ones = [0_u32; 64];
        for _ in 0..4096 {
            let number = random.next_u64();
            (0..64).for_each(|bit| ones[bit] += u32::from(number >> bit & 1 == 1));
        }
        // 2,048 expected, standard deviation 32; the seed is fixed, so this cannot fail by chance.
        assert!(ones.iter().all(|ones| (1_848..2_248).contains(ones)), "{ones:?}");
    }

    #[test]
    fn the_system_seeds_differently_each_time() {
        let number = || SeededRandom::from_system().unwrap().next_u64();
        assert_ne!(number(), number());
    }
}
