//! The streams of a connection beyond the first, held in a box that exists only while there are any.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    mem::{self, size_of},
    sync::LazyLock,
};

use bytes::BufMut;
use hashbrown::HashMap;

use super::{gaps::Gaps, stream::Stream};

/// The list of streams with something due is cleared of dead ones when it is this much longer than the table.
const SLACK: usize = 64;

/// Streams by ID.
#[derive(Debug, Default)]
pub(super) struct Table {
    streams: HashMap<u32, Stream, ById>,
    /// Streams with something due, each once, and some that died since.
    listed: Vec<u32>,
    /// IDs that the peer has skipped.
    pub(super) gaps: Gaps,
    /// How many of the streams the peer opened.
    remote: usize,
}

/// Hashes stream IDs, which a peer chooses, with a secret of the process.
#[derive(Clone, Copy, Debug, Default)]
struct ById;

/// State of [`ById`].
struct IdHasher(u64);

static SECRET: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));

// === impl Table ===

impl Table {
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Streams that the peer opened.
    pub(super) const fn remote(&self) -> usize {
        self.remote
    }

    /// Bytes the peer may make us hold, all streams together.
    #[cfg(test)]
    pub(super) fn granted(&self) -> u64 {
        self.streams.values().map(|stream| u64::from(stream.granted())).sum()
    }

    /// Whether the table holds nothing worth keeping.
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.gaps.is_empty()
    }

    /// Whether a stream has something due (or had, and died).
    pub(super) const fn has_due(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Heap bytes held, with the box.
    pub(super) fn held_bytes(&self) -> usize {
        size_of::<Self>()
            .saturating_add(self.streams.allocation_size())
            .saturating_add(self.listed.capacity().saturating_mul(size_of::<u32>()))
            .saturating_add(self.gaps.held_bytes())
    }

    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// For changes that make nothing due; else [`Table::update`].
    #[inline]
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    /// Adds a stream. Its SYN or ACK is due.
    pub(super) fn insert(&mut self, id: u32, mut stream: Stream, remote: bool) {
        if stream.list() {
            self.push_listed(id);
        }
        self.remote = self.remote.saturating_add(remote.into());
        self.streams.insert(id, stream);
    }

    /// Changes a stream and keeps the list true.
    pub(super) fn update<R>(&mut self, id: u32, change: impl FnOnce(&mut Stream) -> R) -> Option<R> {
        let stream = self.streams.get_mut(&id)?;
        let result = change(stream);
        if stream.list() {
            self.push_listed(id);
        }
        Some(result)
    }

    /// Removes a stream and gives back memory that a larger number of streams needed.
    pub(super) fn remove(&mut self, id: u32, remote: bool) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        self.remote = self.remote.saturating_sub(remote.into());
        let wanted = self.streams.len().saturating_mul(2).max(SLACK);
        if self.streams.capacity() > wanted.saturating_mul(4) {
            self.streams.shrink_to(wanted);
        }
        Some(stream)
    }

    fn push_listed(&mut self, id: u32) {
        // A peer that opens and resets in turn, while nothing is written, leaves dead entries. Clearing them only when they are the
        // majority makes each cost a constant.
        if self.listed.len() >= self.streams.len().saturating_mul(2).saturating_add(SLACK) {
            let streams = &self.streams;
            self.listed.retain(|id| streams.contains_key(id));
        }
        self.listed.push(id);
    }

    /// Writes what is due on each stream and forgets those that are over. `owns` says which IDs the peer opens.
    pub(super) fn write(&mut self, owns: impl Fn(u32) -> bool, out: &mut impl BufMut) {
        let mut listed = mem::take(&mut self.listed);
        for &id in &listed {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.unlist();
            if let Some(header) = stream.take_control(id) {
                out.put_slice(&header.encode());
            }
            if stream.is_over() {
                self.remove(id, owns(id));
            }
        }
        if listed.capacity() <= SLACK {
            listed.clear();
            self.listed = listed;
        }
    }
}

// === impl ById ===

impl BuildHasher for ById {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher(*SECRET)
    }
}

// === impl IdHasher ===

impl Hasher for IdHasher {
    fn write_u32(&mut self, id: u32) {
        // The tag comes from the top bits, the bucket from the low ones: folding lets the secret reach those, too.
        let product = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::accepted(100, 100, 100)
    }

    #[test]
    fn opening_and_resetting_without_writing_holds_bounded_memory() {
        let mut table = Table::default();
        for id in (1..200_000).step_by(2) {
            table.insert(id, stream(), true);
            table.remove(id, true);
        }
        assert!(table.held_bytes() < 4096, "{}", table.held_bytes());
    }

    #[test]
    fn memory_of_many_streams_is_given_back_when_they_are_gone() {
        let mut table = Table::default();
        for id in (1..20_000).step_by(2) {
            table.insert(id, stream(), true);
        }
        table.write(|_| true, &mut Vec::new());
        assert_eq!((table.len(), table.remote(), table.granted()), (10_000, 10_000, 1_000_000));
        for id in (3..20_000).step_by(2) {
            table.remove(id, true);
        }
        assert_eq!((table.len(), table.remote(), table.granted()), (1, 1, 100));
        assert!(table.held_bytes() < 8192, "{}", table.held_bytes());
    }

    #[test]
    fn ids_that_differ_little_hash_apart() {
        let mut buckets = [0u32; 64];
        for id in (1..8192).step_by(2) {
            buckets[usize::try_from(ById.hash_one(id as u32) % 64).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|&count| (16..=160).contains(&count)), "{buckets:?}");
    }
}
