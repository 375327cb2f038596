//! The IDs a peer has skipped so far and may still use.
//!
//! Increasing IDs would need one number. But other implementations take an ID when a stream is made and send its SYN when it is first
//! written to, so SYNs may arrive in any order; and an ID that was used must not be used again.

use std::{mem::size_of, ops::RangeInclusive};

/// Ranges remembered. Above that the lowest are forgotten: a SYN from them then counts as a reuse. Peers bound how many streams they
/// open without an answer (256 in the implementations known), and n late streams make at most n ranges.
const MAX_RANGES: usize = 256;

/// Ascending ranges of IDs of one parity, both ends included. At most 2 KiB.
#[derive(Debug, Default)]
pub(super) struct Gaps(Vec<(u32, u32)>);

// === impl Gaps ===

impl Gaps {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Heap bytes held.
    pub(super) const fn held_bytes(&self) -> usize {
        self.0.capacity().saturating_mul(size_of::<(u32, u32)>())
    }

    /// Remembers that the IDs of a range, above all others, were skipped.
    pub(super) fn skip(&mut self, ids: RangeInclusive<u32>) {
        if self.0.len() >= MAX_RANGES {
            self.0.remove(0);
        }
        self.0.push((*ids.start(), *ids.end()));
    }

    /// Takes out an ID; false if it is not among them.
    pub(super) fn take(&mut self, id: u32) -> bool {
        let at = self.0.partition_point(|&(_, last)| last < id);
        let Some(range) = self.0.get_mut(at) else { return false };
        let (first, last) = *range;
        if first > id {
            return false;
        }
        let (below, above) = (id.saturating_sub(2), id.saturating_add(2));
        match (first < id, id < last) {
            (false, false) => {
                self.0.remove(at);
            }
            (false, true) => *range = (above, last),
            (true, false) => *range = (first, below),
            (true, true) => {
                *range = (first, below);
                self.0.insert(at.saturating_add(1), (above, last));
                if self.0.len() > MAX_RANGES {
                    self.0.remove(0);
                }
            }
        }
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        true
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow in a test is a failed test")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lowest_ranges_are_forgotten_first() {
        let mut gaps = Gaps::default();
        for first in (1..).step_by(6).take(MAX_RANGES + 1) {
            gaps.skip(first..=first + 2);
        }
        assert!(!gaps.take(1));
        assert!(gaps.take(7));
        assert!(gaps.held_bytes() <= 2 * MAX_RANGES * 8);
    }

    proptest! {
        #[test]
        fn an_id_can_be_taken_once_if_it_was_skipped(
            jumps in prop::collection::vec(0u32..6, 1..40),
            takes in prop::collection::vec(0u32..250, 0..200),
        ) {
            let (mut gaps, mut model, mut next) = (Gaps::default(), BTreeSet::new(), 1);
            for jump in jumps {
                if jump > 0 {
                    let last = next + 2 * (jump - 1);
                    gaps.skip(next..=last);
                    model.extend((next..=last).step_by(2));
                    next = last + 2;
                }
                next += 2;
            }
            for take in takes {
                let id = 2 * take + 1;
                prop_assert_eq!(gaps.take(id), model.remove(&id));
            }
            for id in model {
                prop_assert!(gaps.take(id));
            }
            prop_assert!(gaps.is_empty());
            prop_assert_eq!(gaps.held_bytes(), 0);
        }
    }
}
