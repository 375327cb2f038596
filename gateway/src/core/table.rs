//! Sessions of one shard by slot, and handles that cannot reach a successor.
//!
//! Slots live in chunks that never move: growing a flat vector would copy every session of a large fleet within one turn.

use std::fmt;

/// Slots per chunk; with sessions of some 300 bytes a chunk is about 75 KiB.
const CHUNK: usize = 256;

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
    chunks: Vec<Box<[Slot<T>]>>,
    free: Vec<u32>,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u16,
    value: Option<T>,
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
        Self { shard, chunks: Vec::new(), free: Vec::new(), len: 0 }
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
        if self.free.is_empty() {
            self.grow();
        }
        let slot = self.free.pop().expect("a grown table has free slots");
        let entry = self.slot_mut(slot).expect("free slots exist");
        entry.value = Some(value);
        let generation = entry.generation;
        self.len += 1;
        SessionRef { shard: self.shard, generation, slot }
    }

    fn grow(&mut self) {
        let first = self.slots();
        let chunk = (0..CHUNK).map(|_| Slot { generation: 0, value: None }).collect();
        self.chunks.push(chunk);
        // Low slots first: a small fleet stays dense.
        self.free.extend((first..self.slots()).rev());
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Slot<T>> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)
    }

    /// The session of a slot, whoever it is.
    #[must_use]
    pub fn at(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.value.as_ref()
    }

    /// The session of a slot, whoever it is.
    pub fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slot_mut(slot)?.value.as_mut()
    }

    /// The handle of the session in a slot.
    #[must_use]
    pub fn handle(&self, slot: u32) -> Option<SessionRef> {
        let index = slot as usize;
        let entry = self.chunks.get(index / CHUNK)?.get(index % CHUNK)?;
        entry.value.as_ref()?;
        Some(SessionRef { shard: self.shard, generation: entry.generation, slot })
    }

    /// The session of a handle, unless it has ended.
    #[must_use]
    pub fn get(&self, handle: SessionRef) -> Option<&T> {
        let index = handle.slot as usize;
        let entry = self.chunks.get(index / CHUNK)?.get(index % CHUNK)?;
        if entry.generation == handle.generation { entry.value.as_ref() } else { None }
    }

    /// The session of a handle, unless it has ended.
    pub fn get_mut(&mut self, handle: SessionRef) -> Option<&mut T> {
        let entry = self.slot_mut(handle.slot)?;
        if entry.generation == handle.generation { entry.value.as_mut() } else { None }
    }

    /// Takes a session out; its handles are stale from now on.
    pub fn remove(&mut self, handle: SessionRef) -> Option<T> {
        let entry = self.slot_mut(handle.slot)?;
        if entry.generation != handle.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(handle.slot);
        self.len -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn stale_handle_does_not_reach_successor() {
        let mut table = Table::new(3);
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(second.slot, first.slot, "the slot is used again");
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"second"));
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
