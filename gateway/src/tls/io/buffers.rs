//! The buffers of [`TlsIo`](super::TlsIo): records on their way to a socket, and a place in the slices to be encrypted.

use std::io::{self, IoSlice, Write};

use rustls::{
    server::ServerConnectionData,
    unbuffered::{EncodeError, EncryptError, InsufficientSizeError, WriteTraffic},
};

/// Plain bytes of the largest record.
pub(super) const MAX_RECORD: usize = 16 * 1024;

/// What a record adds to its plain bytes, generously: header 5, TLS 1.2 nonce 8, content type 1, tag 16.
pub(super) const RECORD_OVERHEAD: usize = 64;

/// Encrypted bytes that the socket has not taken.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) bytes: Vec<u8>,
    sent: usize,
}

/// A buffer of records. Its length never shrinks, so that no use zeroes it again.
#[derive(Default)]
pub(super) struct Records {
    buffer: Vec<u8>,
    pub(super) used: usize,
}

/// A place in a list of slices.
pub(super) struct Cursor<'a, 'b> {
    slices: &'a [IoSlice<'b>],
    /// Bytes of the first slice that were taken.
    taken: usize,
}

/// What rustls says when the space for its output is too small.
pub(super) trait TooSmall: Sized {
    /// The space needed, or what else is wrong.
    fn needed(self) -> Result<usize, rustls::Error>;
}

// === impl Pending ===

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes `bytes`, which follow nothing that waits, and keeps what the socket does not take.
    pub(super) fn write(&mut self, io: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        let sent = write_some(io, bytes)?;
        self.append(&bytes[sent..]);
        Ok(())
    }

    pub(super) fn flush(&mut self, io: &mut impl Write) -> io::Result<()> {
        self.sent += write_some(io, &self.bytes[self.sent..])?;
        if self.sent == self.bytes.len() {
            *self = Self::default();
        }
        Ok(())
    }
}

/// Writes until the socket is full; says how many bytes it took.
fn write_some(io: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match io.write(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => sent += len.min(bytes.len() - sent),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

// === impl Records ===

impl TooSmall for EncodeError {
    fn needed(self) -> Result<usize, rustls::Error> {
        match self {
            Self::InsufficientSize(InsufficientSizeError { required_size }) => Ok(required_size),
            Self::AlreadyEncoded => Err(rustls::Error::General("record encoded twice".into())),
        }
    }
}

impl TooSmall for EncryptError {
    fn needed(self) -> Result<usize, rustls::Error> {
        match self {
            Self::InsufficientSize(InsufficientSizeError { required_size }) => Ok(required_size),
            Self::EncryptExhausted => Err(rustls::Error::EncryptError),
        }
    }
}

impl Records {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.used]
    }

    /// Appends what `encode` writes into the space it is given, making more as long as it asks for it.
    pub(super) fn append<E: TooSmall>(
        &mut self,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), rustls::Error> {
        self.reserve(MAX_RECORD + RECORD_OVERHEAD);
        loop {
            match encode(&mut self.buffer[self.used..]) {
                Ok(len) => {
                    self.used += len;
                    return Ok(());
                }
                Err(error) => self.reserve(error.needed()?),
            }
        }
    }

    fn reserve(&mut self, space: usize) {
        if self.buffer.len() - self.used < space {
            self.buffer.resize(self.used + space, 0);
        }
    }
}

// === impl Cursor ===

impl<'a, 'b> Cursor<'a, 'b> {
    /// At the beginning.
    pub(super) fn new(slices: &'a [IoSlice<'b>]) -> Self {
        Self { slices, taken: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.slices.iter().all(|slice| slice.is_empty())
    }

    /// The next bytes, at most `limit`: borrowed if one slice has so many or is the last, else gathered in `joined`, since a record
    /// per small slice would cost more than the copy.
    fn record<'r>(&'r self, limit: usize, joined: &'r mut Vec<u8>) -> &'r [u8] {
        let taken = |index| if index == 0 { self.taken } else { 0 };
        let slices = self.slices.iter().enumerate().map(|(index, slice)| &slice[taken(index)..]);
        let mut slices = slices.filter(|slice| !slice.is_empty()).peekable();
        let Some(first) = slices.next() else { return &[] };
        if first.len() >= limit || slices.peek().is_none() {
            return &first[..first.len().min(limit)];
        }
        joined.clear();
        joined.extend_from_slice(first);
        for slice in slices {
            let room = limit - joined.len();
            joined.extend_from_slice(&slice[..slice.len().min(room)]);
            if joined.len() == limit {
                break;
            }
        }
        joined
    }

    /// Encrypts at most `limit` bytes; says how many.
    pub(super) fn encrypt(
        &mut self,
        mut traffic: WriteTraffic<'_, ServerConnectionData>,
        limit: usize,
        joined: &mut Vec<u8>,
        out: &mut Records,
    ) -> Result<usize, rustls::Error> {
        let mut batch = 0;
        while batch < limit && !self.is_done() {
            let record = self.record(MAX_RECORD.min(limit - batch), joined);
            out.append(|space| traffic.encrypt(record, space))?;
            let len = record.len();
            self.advance(len);
            batch += len;
        }
        Ok(batch)
    }

    fn advance(&mut self, mut len: usize) {
        while let Some(first) = self.slices.first() {
            let left = first.len() - self.taken;
            if len < left {
                self.taken += len;
                return;
            }
            len -= left;
            self.taken = 0;
            self.slices = &self.slices[1..];
        }
    }
}
