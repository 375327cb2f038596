//! Calls and messages of the peer that are not answered, by the number that the connection gives them.
//!
//! Most peers have one or two at a time, which take one small allocation together; only more of them take a table.

use hashbrown::HashMap;

/// As many are kept without a table.
const FEW: usize = 4;

/// A call or message of the peer that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// Its packet, which the answer repeats.
    pub(super) packet: u64,
    pub(super) session: u64,
    pub(super) call: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Operations {
    few: [Option<(u64, Unanswered)>; FEW],
    many: HashMap<u64, Unanswered>,
}

impl Operations {
    /// Adds one under a number that is new.
    pub(super) fn insert(&mut self, id: u64, operation: Unanswered) {
        match self.few.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some((id, operation)),
            None => _ = self.many.insert(id, operation),
        }
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, id: u64) -> Option<Unanswered> {
        let mut few = self.few.iter_mut();
        let place = few.find(|place| place.is_some_and(|(known, _)| known == id));
        match place.and_then(Option::take) {
            Some((_, operation)) => Some(operation),
            None => self.many.remove(&id),
        }
    }

    /// Forgets all of a session.
    pub(super) fn remove_session(&mut self, session: u64) {
        for place in &mut self.few {
            place.take_if(|(_, operation)| operation.session == session);
        }
        self.many.retain(|_, operation| operation.session != session);
    }

    /// All of them, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Unanswered)> {
        let few = self.few.iter().flatten().map(|(id, operation)| (*id, operation));
        few.chain(self.many.iter().map(|(id, operation)| (*id, operation)))
    }

    pub(super) fn len(&self) -> usize {
        self.few.iter().flatten().count().saturating_add(self.many.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.many.is_empty() && self.few.iter().all(Option::is_none)
    }

    /// Bytes of memory held.
    pub(super) fn held(&self) -> usize {
        size_of::<Self>().saturating_add(self.many.allocation_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(packet: u64, session: u64) -> Unanswered {
        Unanswered { packet, session, call: true }
    }

    #[test]
    fn a_few_take_no_table_and_any_number_is_found() {
        let mut operations = Operations::default();
        for id in 1..=FEW as u64 {
            operations.insert(id, operation(id, 1));
        }
        assert_eq!(operations.many.allocation_size(), 0);
        for id in 5..=20 {
            operations.insert(id, operation(id, id % 2));
        }
        assert_eq!((operations.len(), operations.iter().count()), (20, 20));
        assert_eq!(operations.remove(2), Some(operation(2, 1)));
        assert_eq!(operations.remove(2), None);
        operations.insert(21, operation(21, 0));
        operations.remove_session(1);
        let mut left: Vec<u64> = operations.iter().map(|(id, _)| id).collect();
        left.sort_unstable();
        assert_eq!(left, [6, 8, 10, 12, 14, 16, 18, 20, 21]);
        for id in left {
            assert_eq!(operations.remove(id).map(|operation| operation.packet), Some(id));
        }
        assert!(operations.is_empty());
        assert_eq!(operations.len(), 0);
    }
}
