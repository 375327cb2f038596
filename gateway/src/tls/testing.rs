//! A connection in memory for tests.

use std::io::{self, Read, Write};

/// A byte pipe in memory that takes and gives at most so many bytes at once, and would block when it is full or empty.
#[derive(Debug)]
pub(crate) struct Pipe {
    bytes: std::collections::VecDeque<u8>,
    pub(crate) capacity: usize,
    pub(crate) step: usize,
    pub(crate) ended: bool,
}

// === impl Pipe ===

impl Pipe {
    pub(crate) fn new(capacity: usize, step: usize) -> Self {
        Self { bytes: std::collections::VecDeque::new(), capacity, step, ended: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl Read for Pipe {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let len = space.len().min(self.step).min(self.bytes.len());
        if len == 0 {
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        for (to, from) in space.iter_mut().zip(self.bytes.drain(..len)) {
            *to = from;
        }
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.step).min(self.capacity - self.bytes.len());
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bytes.extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
