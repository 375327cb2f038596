//! One timer per session, on a wheel of the shard.
//!
//! Deadlines, heartbeats and handshakes all use a session's single timer: the session knows when it must next be looked at. Moving that
//! to a later time costs nothing, because an entry that fires early is only put back; moving it to an earlier time adds an entry.

use crate::core::table::SessionRef;

/// One tick in microseconds: the accuracy of deadlines.
pub const TICK_MICROS: u64 = 16_384;
/// Buckets; a turn of the wheel is 67 s, longer waits go round again.
const BUCKETS: usize = 4_096;
const WORDS: usize = BUCKETS / 64;

/// The wheel. It holds 8 bytes per waiting session.
#[derive(Debug)]
pub struct Wheel {
    buckets: Vec<Vec<SessionRef>>,
    /// A bit per bucket that holds something.
    filled: [u64; WORDS],
    /// The tick up to which everything has fired.
    done: u64,
}

// === impl Wheel ===

impl Wheel {
    /// An empty wheel at a time in microseconds.
    #[must_use]
    pub fn new(micros: u64) -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Vec::new()).collect(),
            filled: [0; WORDS],
            done: micros / TICK_MICROS,
        }
    }

    /// The tick that contains or follows a time, never one that has fired.
    #[must_use]
    pub fn tick_of(&self, micros: u64) -> u64 {
        micros.div_ceil(TICK_MICROS).max(self.done + 1)
    }

    /// Fires `session` at `tick`, or at the end of the wheel if that is further away. Returns the tick used.
    pub fn schedule(&mut self, tick: u64, session: SessionRef) -> u64 {
        let tick = tick.clamp(self.done + 1, self.done + BUCKETS as u64 - 1);
        let bucket = (tick % BUCKETS as u64) as usize;
        self.buckets[bucket].push(session);
        self.filled[bucket / 64] |= 1 << (bucket % 64);
        tick
    }

    /// Takes out the next bucket that is due at `micros`; call until `None`.
    pub fn expire(&mut self, micros: u64) -> Option<Vec<SessionRef>> {
        let now = micros / TICK_MICROS;
        if self.done >= now {
            return None;
        }
        match self.next_filled() {
            Some(next) if next <= now => {
                self.done = next;
                let bucket = (next % BUCKETS as u64) as usize;
                self.filled[bucket / 64] &= !(1 << (bucket % 64));
                Some(std::mem::take(&mut self.buckets[bucket]))
            }
            Some(_) | None => {
                self.done = now;
                None
            }
        }
    }

    /// When the next entry is due, in microseconds.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.next_filled().map(|tick| tick * TICK_MICROS)
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

#[cfg(test)]
mod tests {
    use super::{BUCKETS, SessionRef, TICK_MICROS, Wheel};

    fn session(slot: u32) -> SessionRef {
        SessionRef { shard: 0, generation: 0, slot }
    }

    #[test]
    fn fires_in_order_and_not_early() {
        let mut wheel = Wheel::new(1_000_000);
        for (slot, after) in [(1, 50_000), (2, 20_000), (3, 5_000_000), (4, 66_000_000)] {
            let tick = wheel.tick_of(1_000_000 + after);
            wheel.schedule(tick, session(slot));
        }
        let mut fired = Vec::new();
        let mut now = 1_000_000;
        while fired.len() < 4 {
            let due = wheel.next_due().unwrap();
            assert!(due > now);
            assert!(wheel.expire(due - 1).is_none());
            now = due;
            while let Some(batch) = wheel.expire(now) {
                fired.extend(batch.into_iter().map(|s| (s.slot, now)));
            }
        }
        assert_eq!(fired.iter().map(|f| f.0).collect::<Vec<_>>(), [2, 1, 3, 4]);
        assert!(fired[0].1 >= 1_020_000 && fired[0].1 <= 1_020_000 + 2 * TICK_MICROS);
        assert_eq!(wheel.next_due(), None);
    }

    #[test]
    fn what_lies_beyond_the_wheel_fires_at_its_end() {
        let mut wheel = Wheel::new(0);
        let used = wheel.schedule(10 * BUCKETS as u64, session(9));
        assert_eq!(used, BUCKETS as u64 - 1);
        assert!(wheel.expire(used * TICK_MICROS - 1).is_none());
        assert_eq!(wheel.expire(used * TICK_MICROS), Some(vec![session(9)]));
    }
}
