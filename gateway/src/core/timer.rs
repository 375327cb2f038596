//! One timer per session, on a wheel of the shard.
//!
//! Deadlines, heartbeats and handshakes all use a session's single timer: the session knows when it must next be looked at. Moving that
//! to a later time costs nothing, because a timer that fires early is only set again; moving it to an earlier time takes it out of one
//! list and puts it into another. So a session is on the wheel once at most, however often its deadlines change.

/// One tick in microseconds: the accuracy of deadlines.
pub const TICK_MICROS: u64 = 16_384;
/// Buckets; a turn of the wheel is 67 s, longer waits go round again.
const BUCKETS: usize = 4_096;
const WORDS: usize = BUCKETS / 64;
/// Slots per block of links. Blocks never move: growing a flat vector would copy the links of a large fleet within one turn.
const BLOCK: usize = 1_024;
/// No slot.
const NONE: u32 = u32::MAX;

/// The wheel. It holds 8 bytes per slot of the session table: each bucket is a list that goes round through the slots themselves.
#[derive(Debug)]
pub struct Wheel {
    /// The first slot of each bucket; the one before it is the last.
    heads: Box<[u32]>,
    /// A bit per bucket that holds something.
    filled: [u64; WORDS],
    links: Vec<Box<[Link; BLOCK]>>,
    /// The tick up to which everything has fired, but for what is left in its own bucket.
    done: u64,
    len: usize,
}

/// The neighbours of a slot in its bucket.
#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    after: u32,
}

// === impl Wheel ===

impl Wheel {
    /// An empty wheel at a time in microseconds.
    #[must_use]
    pub fn new(micros: u64) -> Self {
        Self {
            heads: vec![NONE; BUCKETS].into_boxed_slice(),
            filled: [0; WORDS],
            links: Vec::new(),
            done: micros / TICK_MICROS,
            len: 0,
        }
    }

    /// Slots on the wheel.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is on the wheel.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tick that contains or follows a time, never one that has fired.
    #[must_use]
    pub fn tick_of(&self, micros: u64) -> u64 {
        micros.div_ceil(TICK_MICROS).max(self.done + 1)
    }

    /// Fires a slot that is not on the wheel at `tick`, or at the end of the wheel if that is further away. Returns the tick used.
    pub fn schedule(&mut self, tick: u64, slot: u32) -> u64 {
        let tick = tick.clamp(self.done + 1, self.done + BUCKETS as u64 - 1);
        let bucket = bucket(tick);
        while self.links.len() <= slot as usize / BLOCK {
            self.links.push(Box::new([Link { before: NONE, after: NONE }; BLOCK]));
        }
        match self.heads[bucket] {
            NONE => {
                self.heads[bucket] = slot;
                *self.link(slot) = Link { before: slot, after: slot };
                self.filled[bucket / 64] |= 1 << (bucket % 64);
            }
            head => {
                let last = std::mem::replace(&mut self.link(head).before, slot);
                self.link(last).after = slot;
                *self.link(slot) = Link { before: last, after: head };
            }
        }
        self.len += 1;
        tick
    }

    /// Takes a slot out that was scheduled for this tick and has not fired.
    pub fn remove(&mut self, tick: u64, slot: u32) {
        let bucket = bucket(tick);
        let Link { before, after } = *self.link(slot);
        if after == slot {
            self.heads[bucket] = NONE;
            self.filled[bucket / 64] &= !(1 << (bucket % 64));
        } else {
            self.link(before).after = after;
            self.link(after).before = before;
            if self.heads[bucket] == slot {
                self.heads[bucket] = after;
            }
        }
        self.len -= 1;
    }

    /// Takes out the next slot that is due at `micros`, in the order of ticks; call until `None`.
    pub fn pop(&mut self, micros: u64) -> Option<u32> {
        let now = micros / TICK_MICROS;
        loop {
            let head = self.heads[bucket(self.done)];
            if head != NONE {
                self.remove(self.done, head);
                return Some(head);
            }
            if self.done >= now {
                return None;
            }
            self.done = self.next_filled().map_or(now, |next| next.min(now));
        }
    }

    /// When the next slot is due, in microseconds.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let left = self.heads[bucket(self.done)] != NONE;
        if left { Some(self.done * TICK_MICROS) } else { self.next_filled().map(|tick| tick * TICK_MICROS) }
    }

    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.links[slot as usize / BLOCK][slot as usize % BLOCK]
    }

    fn next_filled(&self) -> Option<u64> {
        let start = (self.done + 1) % BUCKETS as u64;
        let (word, bit) = ((start / 64) as usize, start % 64);
        for step in 0..=WORDS {
            let index = (word + step) % WORDS;
            let mut bits = self.filled[index];
            if step == 0 {
                bits &= u64::MAX << bit;
            } else if step == WORDS {
                bits &= !(u64::MAX << bit);
            }
            if bits != 0 {
                let bucket = (index * 64) as u64 + u64::from(bits.trailing_zeros());
                let ahead = (bucket + BUCKETS as u64 - start) % BUCKETS as u64;
                return Some(self.done + 1 + ahead);
            }
        }
        None
    }
}

fn bucket(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BUCKETS, TICK_MICROS, Wheel};

    #[test]
    fn fires_in_order_and_not_early() {
        let mut wheel = Wheel::new(1_000_000);
        for (slot, after) in [(1, 50_000), (2, 20_000), (3, 5_000_000), (4, 66_000_000)] {
            let tick = wheel.tick_of(1_000_000 + after);
            wheel.schedule(tick, slot);
        }
        let mut fired = Vec::new();
        let mut now = 1_000_000;
        while fired.len() < 4 {
            let due = wheel.next_due().unwrap();
            assert!(due > now);
            assert!(wheel.pop(due - 1).is_none());
            now = due;
            while let Some(slot) = wheel.pop(now) {
                fired.push((slot, now));
            }
        }
        assert_eq!(fired.iter().map(|f| f.0).collect::<Vec<_>>(), [2, 1, 3, 4]);
        assert!(fired[0].1 >= 1_020_000 && fired[0].1 <= 1_020_000 + 2 * TICK_MICROS);
        assert_eq!(wheel.next_due(), None);
    }

    #[test]
    fn what_lies_beyond_the_wheel_fires_at_its_end() {
        let mut wheel = Wheel::new(0);
        let used = wheel.schedule(10 * BUCKETS as u64, 9);
        assert_eq!(used, BUCKETS as u64 - 1);
        assert!(wheel.pop(used * TICK_MICROS - 1).is_none());
        assert_eq!(wheel.pop(used * TICK_MICROS), Some(9));
    }

    proptest! {
        /// Against a plain list of (slot, tick): a slot fires once, in its tick, and not at all if it was taken out.
        #[test]
        fn a_slot_fires_once_at_its_tick_unless_taken_out(
            steps in prop::collection::vec((0..3_u8, 0..40_u32, 1..200_u64), 1..400),
        ) {
            let mut wheel = Wheel::new(0);
            let mut model: Vec<(u32, u64)> = Vec::new();
            let mut now = 0;
            for (what, slot, ticks) in steps {
                let known = model.iter().position(|(of, _)| *of == slot);
                match (what, known) {
                    (0, None) => {
                        let tick = wheel.schedule(now + ticks, slot);
                        model.push((slot, tick));
                    }
                    (0 | 1, Some(at)) => {
                        let (slot, tick) = model.remove(at);
                        wheel.remove(tick, slot);
                    }
                    _ => {
                        now += ticks;
                        let mut fired = Vec::new();
                        while let Some(slot) = wheel.pop(now * TICK_MICROS) {
                            fired.push(slot);
                        }
                        let mut due: Vec<(u32, u64)> = model.extract_if(.., |(_, tick)| *tick <= now).collect();
                        // Stable: slots of one tick fire in the order in which they came.
                        due.sort_by_key(|(_, tick)| *tick);
                        prop_assert_eq!(fired, due.into_iter().map(|(slot, _)| slot).collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let next = model.iter().map(|(_, tick)| *tick).min();
                prop_assert_eq!(wheel.next_due(), next.map(|tick| tick * TICK_MICROS));
            }
        }
    }
}
