//! Random numbers for edge IDs and for choices that nobody may foresee.

use std::fmt;

use aws_lc_rs::hmac;

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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_another_seed_others() {
        let numbers = |seed: u8| {
            let mut random = SeededRandom::new(&[seed; 32]);
            (0..1000).map(|_| random.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        let all: HashSet<u64> = numbers(1).into_iter().chain(numbers(2)).collect();
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
