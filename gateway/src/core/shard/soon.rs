//! Sessions to be looked at sooner than the timer wheel is accurate: geminio holds answers back for 2 ms and paces streams by the
//! millisecond. There are few of them at a time, each with one entry that counts.

use std::{cmp::Reverse, collections::BinaryHeap};

use hashbrown::HashMap;

use crate::core::table::SessionRef;

/// See the module documentation. Times in microseconds.
#[derive(Debug, Default)]
pub(super) struct Soon {
    heap: BinaryHeap<Reverse<(u64, SessionRef)>>,
    /// When each is to be looked at; entries of the heap that say otherwise are stale.
    times: HashMap<SessionRef, u64>,
}

impl Soon {
    /// Looks at a session at that time, or earlier if that was said before.
    pub(super) fn add(&mut self, session: SessionRef, at: u64) {
        let time = self.times.entry(session).or_insert(u64::MAX);
        if at < *time {
            *time = at;
            self.heap.push(Reverse((at, session)));
        }
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next one that is due.
    pub(super) fn expire(&mut self, now: u64) -> Option<SessionRef> {
        while let Some(Reverse((at, session))) = self.heap.peek().copied()
            && at <= now
        {
            self.heap.pop();
            if self.times.get(&session) == Some(&at) {
                self.times.remove(&session);
                return Some(session);
            }
        }
        if self.heap.is_empty() && self.heap.capacity() > 1_024 {
            // After a burst of sessions.
            *self = Self::default();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{SessionRef, Soon};

    fn session(slot: u32) -> SessionRef {
        SessionRef { shard: 0, generation: 0, slot }
    }

    #[test]
    fn each_comes_once_at_its_earliest_time() {
        let mut soon = Soon::default();
        for (slot, at) in [(1, 50), (2, 40), (1, 30), (1, 60)] {
            soon.add(session(slot), at);
        }
        assert_eq!(soon.next_due(), Some(30));
        assert_eq!(soon.expire(29), None);
        assert_eq!(soon.expire(45), Some(session(1)));
        assert_eq!(soon.expire(45), Some(session(2)));
        assert_eq!(soon.expire(100), None);
        assert_eq!(soon.next_due(), None);
    }
}
