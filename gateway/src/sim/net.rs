//! The network in memory: one pipe per direction of a connection, with delay, a limited buffer and all the ways to be lost.
//!
//! ```text
//!  writer ──▶ [ under way: until its time has come ][ arrived: until it is read ] ──▶ reader
//!             └───────────── together at most `capacity` bytes ────────────────┘
//! ```
//! Bytes keep their order. A pipe knows no clock; its owner says what time it is.

use std::collections::VecDeque;

use super::rng::Rng;

/// How a direction of a connection behaves.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// Bytes that may be under way or unread; the writer is blocked beyond.
    pub capacity: usize,
    /// Delay in microseconds: at least and at most.
    pub delay: (u64, u64),
    /// Of a thousand writes, so many take less than there is room for.
    pub short_writes: u32,
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The writer closed it; everything before was delivered.
    Closed,
    /// The connection broke; what was under way is lost.
    Reset,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Pipe {
    quality: Quality,
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that were read.
    taken: usize,
    queued: usize,
    /// When the last chunk arrives: nothing overtakes it.
    last: u64,
    ending: Option<(u64, Ending)>,
    /// The writer found no room and waits to be told.
    blocked: bool,
    /// What is written from now on never arrives, and nobody is told.
    lost: bool,
}

#[derive(Debug)]
struct Chunk {
    arrives: u64,
    bytes: Vec<u8>,
}

// === impl Quality ===

impl Quality {
    /// No delay and more room than anybody uses.
    pub const PERFECT: Self = Self { capacity: usize::MAX / 2, delay: (0, 0), short_writes: 0 };
}

// === impl Pipe ===

impl Pipe {
    /// An empty pipe.
    #[must_use]
    pub fn new(quality: Quality) -> Self {
        Self {
            quality,
            chunks: VecDeque::new(),
            taken: 0,
            queued: 0,
            last: 0,
            ending: None,
            blocked: false,
            lost: false,
        }
    }

    /// Writes what there is room for. Returns how many bytes that were and when they arrive, `u64::MAX` for never; the writer is
    /// blocked if it was less than all.
    pub fn write(&mut self, now: u64, rng: &mut Rng, pieces: &[&[u8]]) -> (usize, u64) {
        if self.ending.is_some() {
            // Whoever writes to a closed connection is told by its end.
            return (pieces.iter().map(|piece| piece.len()).sum(), u64::MAX);
        }
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut n = total.min(self.quality.capacity.saturating_sub(self.queued));
        if n > 1 && rng.chance(self.quality.short_writes) {
            n = rng.size(1, n);
        }
        self.blocked = n < total;
        if n == 0 {
            return (0, u64::MAX);
        }
        let mut bytes = Vec::with_capacity(n);
        for piece in pieces {
            let left = n - bytes.len();
            bytes.extend_from_slice(&piece[..piece.len().min(left)]);
        }
        let (least, most) = self.quality.delay;
        let arrives = if self.lost { u64::MAX } else { self.last.max(now + rng.between(least, most)) };
        self.last = arrives;
        self.queued += n;
        self.chunks.push_back(Chunk { arrives, bytes });
        (n, arrives)
    }

    /// Appends at most `max` bytes that have arrived; returns how many.
    pub fn read(&mut self, now: u64, max: usize, into: &mut Vec<u8>) -> usize {
        let mut left = max;
        while left > 0
            && let Some(chunk) = self.chunks.front()
            && chunk.arrives <= now
        {
            let rest = &chunk.bytes[self.taken..];
            let n = rest.len().min(left);
            into.extend_from_slice(&rest[..n]);
            left -= n;
            self.taken += n;
            if self.taken == chunk.bytes.len() {
                self.chunks.pop_front();
                self.taken = 0;
            }
        }
        self.queued -= max - left;
        max - left
    }

    /// Whether there is something to read: bytes, or the end.
    #[must_use]
    pub fn readable(&self, now: u64) -> bool {
        self.chunks.front().is_some_and(|chunk| chunk.arrives <= now) || self.ended(now).is_some()
    }

    /// How it ended, once everything before was read.
    #[must_use]
    pub fn ended(&self, now: u64) -> Option<Ending> {
        self.ending.filter(|(at, _)| self.chunks.is_empty() && *at <= now).map(|(_, how)| how)
    }

    /// True once if the writer was blocked and there is room again.
    pub fn unblocked(&mut self) -> bool {
        self.blocked && self.queued < self.quality.capacity && std::mem::take(&mut self.blocked)
    }

    /// Bytes written and not read yet.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Ends the direction; returns when the reader can know, `u64::MAX` for never.
    pub fn end(&mut self, now: u64, rng: &mut Rng, how: Ending) -> u64 {
        if self.ending.is_some() {
            return u64::MAX;
        }
        let (least, most) = self.quality.delay;
        let arrives = if self.lost { u64::MAX } else { self.last.max(now + rng.between(least, most)) };
        if how == Ending::Reset {
            self.chunks.clear();
            (self.taken, self.queued) = (0, 0);
        }
        self.ending = Some((arrives, how));
        arrives
    }

    /// From now on nothing arrives: a cable was pulled. What has not arrived yet is lost, too, but still takes room.
    pub fn lose(&mut self, now: u64) {
        self.lost = true;
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.arrives > now) {
            chunk.arrives = u64::MAX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ending, Pipe, Quality};
    use crate::sim::rng::Rng;

    const SMALL: Quality = Quality { capacity: 10, delay: (5, 5), short_writes: 0 };

    #[test]
    fn bytes_take_their_time_and_their_room() {
        let (mut pipe, mut rng) = (Pipe::new(SMALL), Rng::new(1));
        assert_eq!(pipe.write(100, &mut rng, &[b"abcdef", b"ghijkl"]), (10, 105));
        assert_eq!(pipe.write(101, &mut rng, &[b"kl"]), (0, u64::MAX));
        let mut read = Vec::new();
        assert!(!pipe.readable(104) && !pipe.unblocked());
        assert_eq!(pipe.read(104, 100, &mut read), 0);
        assert_eq!(pipe.read(105, 3, &mut read), 3);
        assert!(pipe.unblocked() && !pipe.unblocked());
        assert_eq!(pipe.write(106, &mut rng, &[b"kl"]), (2, 111));
        assert_eq!(pipe.read(200, 100, &mut read), 9);
        assert_eq!(read, b"abcdefghijkl");
        assert_eq!(pipe.queued(), 0);
    }

    #[test]
    fn an_end_comes_after_the_bytes_and_a_reset_instead_of_them() {
        let mut rng = Rng::new(1);
        for (how, bytes) in [(Ending::Closed, 2), (Ending::Reset, 0)] {
            let mut pipe = Pipe::new(SMALL);
            pipe.write(0, &mut rng, &[b"ab"]);
            assert_eq!(pipe.end(1, &mut rng, how), 6);
            let mut read = Vec::new();
            assert_eq!(pipe.read(6, 100, &mut read), bytes);
            assert_eq!(pipe.ended(5), None);
            assert_eq!(pipe.ended(6), Some(how));
        }
    }

    #[test]
    fn what_is_lost_never_arrives_but_fills_the_buffer() {
        let (mut pipe, mut rng) = (Pipe::new(SMALL), Rng::new(1));
        pipe.write(0, &mut rng, &[b"ab"]);
        pipe.lose(1);
        assert_eq!(pipe.write(2, &mut rng, &[b"cdefghijklm"]), (8, u64::MAX));
        assert_eq!(pipe.read(1_000_000, 100, &mut Vec::new()), 0);
        assert_eq!(pipe.end(3, &mut rng, Ending::Closed), u64::MAX);
        assert_eq!(pipe.ended(1_000_000), None);
    }
}
