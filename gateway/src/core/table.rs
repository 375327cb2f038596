//! Sessions of one shard by slot, and handles that cannot reach a successor.
//!
//! Slots live in chunks that never move: growing a flat vector would copy every session of a large fleet within one turn.

use std::{collections::VecDeque, fmt};

/// Slots per chunk; with sessions of some 240 bytes the values of a chunk take 60 KiB.
const CHUNK: usize = 256;
/// Slots that are free at least whenever one is given out. They are used in turn, so a handle could be mistaken for another only after
/// eight million sessions of its shard have come and gone, and exactly that many.
const SPARE: usize = CHUNK / 2;

/// Where a session is. A handle whose generation has passed finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRef {
    /// The shard that owns it.
    pub shard: u16,
    /// Counts the users of the slot, wrapping.
    pub generation: u16,
    /// The place in that shard's table.
    pub slot: u32,
}

/// A table of slots with generations.
#[derive(Debug)]
pub struct Table<T> {
    shard: u16,
    chunks: Vec<Chunk<T>>,
    /// Free slots, the one that is free the longest first.
    free: VecDeque<u32>,
    len: usize,
}

/// Generations stand apart: beside a value each would take eight bytes.
#[derive(Debug)]
struct Chunk<T> {
    generations: Box<[u16; CHUNK]>,
    values: Box<[Option<T>]>,
}

// === impl SessionRef ===

impl SessionRef {
    /// A handle as one number, for maps and logs.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.shard as u64) << 48 | (self.generation as u64) << 32 | self.slot as u64
    }
}

impl fmt::Debug for SessionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.shard, self.slot, self.generation)
    }
}

// === impl Table ===

impl<T> Table<T> {
    /// An empty table of a shard.
    #[must_use]
    pub fn new(shard: u16) -> Self {
        Self { shard, chunks: Vec::new(), free: VecDeque::new(), len: 0 }
    }

    /// Sessions in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One past the highest slot ever used.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).unwrap_or(u32::MAX)
    }

    /// Puts a value into a free slot.
    pub fn insert(&mut self, value: T) -> SessionRef {
        if self.free.len() < SPARE {
            self.grow();
        }
        let slot = self.free.pop_front().expect("a grown table has free slots");
        let (generation, entry) = self.slot_mut(slot).expect("free slots exist");
        *entry = Some(value);
        let generation = *generation;
        self.len += 1;
        SessionRef { shard: self.shard, generation, slot }
    }

    fn grow(&mut self) {
        let first = self.slots();
        let values = (0..CHUNK).map(|_| None).collect();
        self.chunks.push(Chunk { generations: Box::new([0; CHUNK]), values });
        // Low slots first: a small fleet stays dense.
        self.free.extend(first..self.slots());
    }

    fn slot(&self, slot: u32) -> Option<(u16, Option<&T>)> {
        let slot = slot as usize;
        let chunk = self.chunks.get(slot / CHUNK)?;
        Some((chunk.generations[slot % CHUNK], chunk.values[slot % CHUNK].as_ref()))
    }

    fn slot_mut(&mut self, slot: u32) -> Option<(&mut u16, &mut Option<T>)> {
        let slot = slot as usize;
        let chunk = self.chunks.get_mut(slot / CHUNK)?;
        Some((&mut chunk.generations[slot % CHUNK], &mut chunk.values[slot % CHUNK]))
    }

    /// The session of a slot, whoever it is.
    #[must_use]
    pub fn at(&self, slot: u32) -> Option<&T> {
        self.slot(slot)?.1
    }

    /// The session of a slot, whoever it is.
    pub fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slot_mut(slot)?.1.as_mut()
    }

    /// The handle of the session in a slot.
    #[must_use]
    pub fn handle(&self, slot: u32) -> Option<SessionRef> {
        let (generation, value) = self.slot(slot)?;
        value?;
        Some(SessionRef { shard: self.shard, generation, slot })
    }

    /// The session of a handle, unless it has ended.
    #[must_use]
    pub fn get(&self, handle: SessionRef) -> Option<&T> {
        let (generation, value) = self.slot(handle.slot)?;
        if generation == handle.generation { value } else { None }
    }

    /// The session of a handle, unless it has ended.
    pub fn get_mut(&mut self, handle: SessionRef) -> Option<&mut T> {
        let (generation, value) = self.slot_mut(handle.slot)?;
        if *generation == handle.generation { value.as_mut() } else { None }
    }

    /// Takes a session out; its handles are stale from now on.
    pub fn remove(&mut self, handle: SessionRef) -> Option<T> {
        let (generation, value) = self.slot_mut(handle.slot)?;
        if *generation != handle.generation {
            return None;
        }
        let value = value.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push_back(handle.slot);
        self.len -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, SPARE, Table};

    #[test]
    fn stale_handle_does_not_reach_successor() {
        let mut table = Table::new(3);
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = loop {
            let second = table.insert("second");
            if second.slot == first.slot {
                break second;
            }
            table.remove(second);
        };
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"second"));
    }

    /// One session after the other comes and goes in a table that is as full as it may be: more often than a slot has generations.
    #[test]
    fn generations_do_not_come_round_with_one_slot_reused() {
        let mut table = Table::new(0);
        let held: Vec<_> = (0..CHUNK - SPARE).map(|n| table.insert(n)).collect();
        let stale = table.insert(0);
        table.remove(stale);
        for n in 0..10 * (1 << 16) {
            let handle = table.insert(n);
            assert_ne!(handle, stale);
            table.remove(handle);
        }
        assert_eq!(table.get(stale), None);
        assert!(held.iter().enumerate().all(|(n, handle)| table.get(*handle) == Some(&n)));
    }

    #[test]
    fn slots_are_dense_and_survive_growth() {
        let mut table = Table::new(0);
        let handles: Vec<_> = (0..1000).map(|n| table.insert(n)).collect();
        assert_eq!(handles.iter().map(|h| h.slot).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
        assert!(handles.iter().enumerate().all(|(n, h)| table.get(*h) == Some(&n)));
        assert_eq!(table.len(), 1000);
        assert_eq!(table.handle(999), Some(handles[999]));
        assert_eq!(table.handle(1000), None);
    }
}
