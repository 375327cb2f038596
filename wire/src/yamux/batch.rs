//! What a connection wants written: many small frames in one buffer, large payloads by reference.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Payloads from this length on are passed by reference. Below it a copy is cheaper than one more element of a vectored write.
const BY_REFERENCE: usize = 4096;

/// Bytes to be written in order, as [`Buf`]: drivers hand [`Buf::chunks_vectored`] to a vectored write and [`Buf::advance`] by what it
/// took.
#[derive(Debug, Default)]
pub struct Batch {
    /// Complete pieces, none empty.
    parts: VecDeque<Bytes>,
    /// The piece that small frames are copied into; empty in a batch that was given out.
    tail: BytesMut,
    len: usize,
}

// === impl Batch ===

impl Batch {
    /// Bytes held, without what their buffers hold beyond them.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether all was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds bytes that are small or in many pieces.
    pub(super) fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
        self.len = self.len.saturating_add(bytes.len());
    }

    /// Adds a payload.
    pub(super) fn put(&mut self, payload: Bytes) {
        if payload.len() < BY_REFERENCE {
            self.put_slice(&payload);
        } else {
            self.seal();
            self.len = self.len.saturating_add(payload.len());
            self.parts.push_back(payload);
        }
    }

    /// Adds what `write` appends.
    pub(super) fn put_with(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        write(&mut self.tail);
        self.len = self.len.saturating_add(self.tail.len().saturating_sub(before));
    }

    /// Makes everything part of what [`Buf`] shows.
    pub(super) fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.parts.push_back(self.tail.split().freeze());
        }
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.len().min(self.parts.len());
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part);
        }
        filled
    }

    fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.len, "a writer cannot have written more than there was");
        let mut n = n.min(self.len);
        self.len = self.len.saturating_sub(n);
        while let Some(part) = self.parts.front_mut() {
            if n < part.len() {
                part.advance(n);
                return;
            }
            n = n.saturating_sub(part.len());
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow in a test is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_payloads_share_a_buffer_and_large_ones_are_not_copied() {
        let large = Bytes::from(vec![7; BY_REFERENCE]);
        let mut batch = Batch::default();
        for _ in 0..100 {
            batch.put(Bytes::from_static(b"small"));
        }
        batch.put(large.clone());
        batch.put(Bytes::from_static(b"tail"));
        batch.seal();
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(batch.chunks_vectored(&mut slices), 3);
        assert_eq!(slices[0].len(), 500);
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
        assert_eq!(batch.len(), 500 + BY_REFERENCE + 4);
    }

    proptest! {
        #[test]
        fn bytes_come_out_in_order_however_they_are_taken(
            lens in prop::collection::vec(prop_oneof![0usize..50, BY_REFERENCE - 1..BY_REFERENCE + 2], 0..12),
            steps in prop::collection::vec(1usize..3000, 1..20),
        ) {
            let (mut batch, mut all) = (Batch::default(), Vec::new());
            for (at, len) in lens.into_iter().enumerate() {
                let payload = vec![u8::try_from(at).unwrap(); len];
                all.extend_from_slice(&payload);
                batch.put(payload.into());
            }
            batch.seal();
            let mut taken = Vec::new();
            for step in steps.into_iter().cycle() {
                prop_assert_eq!(batch.len(), all.len() - taken.len());
                if batch.is_empty() {
                    break;
                }
                let n = step.min(batch.len());
                taken.extend_from_slice(&batch.copy_to_bytes(n));
            }
            prop_assert_eq!(taken, all);
        }
    }
}
