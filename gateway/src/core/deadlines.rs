//! The deadlines of what a session waits for, in the order of time.
//!
//! Nearly everything that has a deadline is over long before it, so an entry must cost next to nothing: the keys of one tick of the
//! timer wheel share a slot, and one that is over is only counted off. Looking for what is due touches nothing that is not.

use std::collections::{BTreeMap, VecDeque};

use crate::core::timer::TICK_MICROS;

/// Keys that are over stay in a slot until they are so many more than those that are not: clearing them away costs each a step or two.
const SLACK: usize = 64;

/// What a slot takes in the tree, whose nodes are two thirds full.
const SLOT: usize = size_of::<(u64, Slot<u64>)>() * 3 / 2;

/// Keys by deadline. It holds at most some sixty keys and twice as many as are not over.
#[derive(Debug)]
pub struct Deadlines<K> {
    /// By tick.
    slots: BTreeMap<u64, Slot<K>>,
    /// The tick of the slot used last. That one is kept while it is empty: whoever has one operation at a time would else make a slot
    /// for each.
    last: u64,
    /// The memory of a slot that is gone, for the next one.
    spare: VecDeque<K>,
    /// Keys that all slots and the spare one have memory for.
    room: usize,
}

#[derive(Debug)]
struct Slot<K> {
    /// Keys that are not over.
    live: usize,
    /// All keys, in the order in which they came.
    keys: VecDeque<K>,
}

// === impl Deadlines ===

impl<K> Deadlines<K> {
    /// Notes a deadline in microseconds; `u64::MAX` is none.
    pub fn add(&mut self, deadline: u64, key: K) {
        if deadline == u64::MAX {
            return;
        }
        let tick = tick(deadline);
        if let Some(slot) = self.slots.get_mut(&tick) {
            slot.live += 1;
            self.room -= slot.keys.capacity();
            slot.keys.push_back(key);
            self.room += slot.keys.capacity();
        } else {
            let mut keys = std::mem::take(&mut self.spare);
            self.room -= keys.capacity();
            keys.push_back(key);
            self.room += keys.capacity();
            self.slots.insert(tick, Slot { live: 1, keys });
        }
        if tick != self.last {
            let left = std::mem::replace(&mut self.last, tick);
            if self.slots.get(&left).is_some_and(|slot| slot.live == 0) {
                self.discard(left);
            }
        }
    }

    /// A key noted with this deadline is over. `is_live` tells of a key whether it is not and its deadline has the same [`tick`].
    pub fn remove(&mut self, deadline: u64, is_live: impl Fn(&K) -> bool) {
        if deadline == u64::MAX {
            return;
        }
        let tick = tick(deadline);
        let Some(slot) = self.slots.get_mut(&tick) else { return };
        slot.live = slot.live.saturating_sub(1);
        if slot.live == 0 {
            slot.keys.clear();
            if tick != self.last {
                self.discard(tick);
            }
        } else if slot.keys.len() > 2 * slot.live + SLACK {
            slot.keys.retain(is_live);
        }
    }

    /// Takes out a key whose deadline has passed, or that is over already; call until `None`, and [`Deadlines::remove`] for each that
    /// was not over.
    pub fn pop(&mut self, now: u64) -> Option<K> {
        loop {
            let mut first = self.slots.first_entry()?;
            if first.key() * TICK_MICROS > now {
                return None;
            }
            if let Some(key) = first.get_mut().keys.pop_front() {
                return Some(key);
            }
            self.room -= first.remove().keys.capacity();
        }
    }

    /// When something is due next, in microseconds; `u64::MAX` = never.
    #[must_use]
    pub fn next(&self) -> u64 {
        // One slot at most is empty.
        let first = self.slots.iter().find(|(_, slot)| slot.live > 0);
        first.map_or(u64::MAX, |(tick, _)| tick * TICK_MICROS)
    }

    /// Keys held, those included that are over.
    #[must_use]
    pub fn held(&self) -> usize {
        self.slots.values().map(|slot| slot.keys.len()).sum()
    }

    fn discard(&mut self, tick: u64) {
        let Some(mut slot) = self.slots.remove(&tick) else { return };
        if slot.keys.capacity() <= 2 * SLACK {
            slot.keys.clear();
            self.room -= std::mem::replace(&mut self.spare, slot.keys).capacity();
        } else {
            self.room -= slot.keys.capacity();
        }
    }

    /// Bytes of memory that all of this takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.room * size_of::<K>() + self.slots.len() * SLOT
    }
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), last: 0, spare: VecDeque::new(), room: 0 }
    }
}

/// Deadlines with one tick are due at the same time.
#[must_use]
pub const fn tick(deadline: u64) -> u64 {
    deadline.div_ceil(TICK_MICROS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{Deadlines, SLACK, TICK_MICROS};

    #[test]
    fn what_is_over_is_cleared_away_beside_what_is_not() {
        let mut deadlines = Deadlines::default();
        let deadline = 30_000_000;
        deadlines.add(deadline, 0);
        for key in 1..100_000 {
            deadlines.add(deadline, key);
            deadlines.remove(deadline, |key| *key == 0);
            assert!(deadlines.held() <= SLACK + 3, "{} at {key}", deadlines.held());
        }
        assert_eq!(deadlines.next(), deadline.div_ceil(TICK_MICROS) * TICK_MICROS);
        deadlines.remove(deadline, |_| false);
        assert_eq!((deadlines.held(), deadlines.next()), (0, u64::MAX));
    }

    /// A lone operation each time, every one with a later deadline: slots do not pile up.
    #[test]
    fn empty_slots_are_not_kept() {
        let mut deadlines = Deadlines::default();
        for key in 0..10_000 {
            let deadline = 30_000_000 + key * 20_000;
            deadlines.add(deadline, key);
            deadlines.remove(deadline, |_| false);
            assert_eq!(deadlines.slots.len(), 1);
        }
    }

    proptest! {
        /// Against a plain map: what is due comes out, in the order of its ticks; what is over may come as well, what is neither never.
        #[test]
        fn what_is_due_comes_out(steps in prop::collection::vec((0..4_u8, 0..2_000_u64), 1..300)) {
            let mut deadlines = Deadlines::default();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            let (mut now, mut fresh) = (0, 0);
            for (what, n) in steps {
                match what {
                    0 | 1 => {
                        fresh += 1;
                        deadlines.add(now + n * 100, fresh);
                        model.insert(fresh, now + n * 100);
                    }
                    2 => {
                        let over = model.keys().nth(n as usize % model.len().max(1)).copied();
                        if let Some(deadline) = over.and_then(|key| model.remove(&key)) {
                            deadlines.remove(deadline, |key| model.contains_key(key));
                        }
                    }
                    _ => {
                        now += n * 100;
                        while let Some(key) = deadlines.pop(now) {
                            if let Some(deadline) = model.remove(&key) {
                                prop_assert!(deadline <= now);
                                deadlines.remove(deadline, |key| model.contains_key(key));
                            }
                        }
                        let overdue = model.values().filter(|deadline| **deadline + TICK_MICROS <= now);
                        prop_assert_eq!(overdue.count(), 0);
                    }
                }
                let next = model.values().map(|deadline| deadline.div_ceil(TICK_MICROS) * TICK_MICROS).min();
                prop_assert_eq!(deadlines.next(), next.unwrap_or(u64::MAX));
                prop_assert!(deadlines.held() <= 3 * model.len() + SLACK * (1 + model.len()));
                let rooms = deadlines.slots.values().map(|slot| slot.keys.capacity());
                prop_assert_eq!(deadlines.room, rooms.sum::<usize>() + deadlines.spare.capacity());
            }
        }
    }
}
