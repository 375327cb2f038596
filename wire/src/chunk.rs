//! Input of the decoders: a borrowed slice where the driver owns one read buffer, `Bytes` where payloads must outlive it.

use std::ops::Deref;

use bytes::{Buf, Bytes};

/// Bytes that can be cut at the front without copying.
pub trait Chunk: Deref<Target = [u8]> + Sized {
    /// Cuts off and returns the first `n` bytes, or all of them if there are fewer.
    #[must_use]
    fn take_front(&mut self, n: usize) -> Self;

    /// Drops the first `n` bytes, or all of them if there are fewer; cheaper than [`Chunk::take_front`] where bytes are counted.
    fn skip(&mut self, n: usize);

    /// Owned bytes: a copy of a borrowed slice, the same buffer of a counted one.
    fn into_bytes(self) -> Bytes;
}

/// A part of what came: a piece of the input, or a buffer that was assembled.
#[derive(Clone, Debug)]
pub enum Piece<B> {
    /// Cut out of the input.
    Input(B),
    /// Assembled from several inputs.
    Owned(Bytes),
}

// === impl Chunk ===

impl Chunk for &[u8] {
    fn take_front(&mut self, n: usize) -> Self {
        match self.split_at_checked(n) {
            Some((front, rest)) => {
                *self = rest;
                front
            }
            None => std::mem::take(self),
        }
    }

    fn skip(&mut self, n: usize) {
        *self = self.get(n..).unwrap_or_default();
    }

    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl Chunk for Bytes {
    fn take_front(&mut self, n: usize) -> Self {
        self.split_to(n.min(self.len()))
    }

    fn skip(&mut self, n: usize) {
        self.advance(n.min(self.len()));
    }

    fn into_bytes(self) -> Bytes {
        self
    }
}

// === impl Piece ===

impl<B: Deref<Target = [u8]>> Deref for Piece<B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Input(piece) => piece,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl<B: Chunk> Piece<B> {
    /// Owned bytes: a copy of a borrowed slice, otherwise the same buffer.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Input(piece) => piece.into_bytes(),
            Self::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<B: Chunk>(mut chunk: B) {
        assert_eq!(&chunk.take_front(2)[..], b"ab");
        assert_eq!(&chunk[..], b"cdef");
        chunk.skip(1);
        assert_eq!(&chunk[..], b"def");
        assert_eq!(&chunk.take_front(0)[..], b"");
        assert_eq!(&chunk.take_front(9)[..], b"def");
        assert!(chunk.is_empty());
        chunk.skip(9);
        assert_eq!(chunk.into_bytes(), Bytes::new());
    }

    #[test]
    fn both_inputs_are_cut_alike() {
        cut(&b"abcdef"[..]);
        cut(Bytes::from_static(b"abcdef"));
    }

    #[test]
    fn skipping_more_than_there_is_empties() {
        let (mut slice, mut bytes) = (&b"abc"[..], Bytes::from_static(b"abc"));
        slice.skip(4);
        bytes.skip(4);
        assert!(slice.is_empty() && bytes.is_empty());
    }
}
