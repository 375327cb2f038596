//! What comes from several sources, taken from each in turn: a loud source waits in its own bounded lane and keeps nobody else waiting.

use std::collections::{HashMap, VecDeque};

/// See the module documentation. A client of one gateway has one lane.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    /// Lanes in which something waits.
    lanes: HashMap<u64, VecDeque<T>>,
    /// The same lanes, in the order in which they are served.
    turns: VecDeque<u64>,
    /// What may wait in one lane.
    capacity: usize,
}

// === impl Lanes ===

impl<T> Lanes<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), capacity }
    }

    /// Appends an item to its lane, or gives it back if that is full.
    pub(crate) fn push(&mut self, lane: u64, item: T) -> Result<(), T> {
        if self.is_full(lane) {
            return Err(item);
        }
        let waiting = self.lanes.entry(lane).or_default();
        if waiting.is_empty() {
            self.turns.push_back(lane);
        }
        waiting.push_back(item);
        Ok(())
    }

    /// The first item of the lane whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let lane = self.turns.pop_front()?;
        let waiting = self.lanes.get_mut(&lane)?;
        let item = waiting.pop_front();
        if waiting.is_empty() {
            // Lanes come and go with gateways: those without anything in them leave nothing behind.
            self.lanes.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        item
    }

    pub(crate) fn is_full(&self, lane: u64) -> bool {
        self.lanes.get(&lane).map_or(0, VecDeque::len) >= self.capacity
    }

    /// Everything that waits.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.capacity))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lanes.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loud_lane_is_full_alone_and_the_others_have_their_turns() {
        let mut lanes = Lanes::new(100);
        for n in 0..100 {
            assert_eq!(lanes.push(1, (1, n)), Ok(()));
        }
        assert_eq!(lanes.push(1, (1, 100)), Err((1, 100)));
        for lane in [2, 3] {
            assert_eq!(lanes.push(lane, (lane, 0)), Ok(()));
            assert_eq!(lanes.push(lane, (lane, 1)), Ok(()));
        }
        let first: Vec<_> = std::iter::from_fn(|| lanes.pop()).take(8).collect();
        assert_eq!(first, [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]);
    }

    #[test]
    fn an_empty_lane_leaves_nothing_behind() {
        let mut lanes = Lanes::new(1);
        for lane in 0..1_000 {
            assert_eq!(lanes.push(lane, ()), Ok(()));
            assert_eq!(lanes.pop(), Some(()));
        }
        assert!(lanes.lanes.is_empty() && lanes.turns.is_empty());
        assert_eq!(lanes.pop(), None);
    }
}
