//! The connections of a driver by the slot of their session.
//!
//! Slots come in chunks that never move: growing a flat vector would copy every connection of a large fleet within one turn, and leave
//! the old copy behind for the allocator to give back.

use super::conn::Conn;

/// Connections per chunk, 8 KiB.
const CHUNK: usize = 256;

/// See the module documentation.
#[derive(Default)]
pub(super) struct Conns {
    chunks: Vec<Box<[Option<Conn>]>>,
}

// === impl Conns ===

impl Conns {
    pub(super) fn get(&self, slot: usize) -> Option<&Conn> {
        self.chunks.get(slot / CHUNK)?[slot % CHUNK].as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Conn> {
        self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK].as_mut()
    }

    pub(super) fn put(&mut self, slot: usize, conn: Conn) {
        while self.chunks.len() <= slot / CHUNK {
            self.chunks.push((0..CHUNK).map(|_| None).collect());
        }
        self.chunks[slot / CHUNK][slot % CHUNK] = Some(conn);
    }

    pub(super) fn take(&mut self, slot: usize) -> Option<Conn> {
        self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK].take()
    }
}
