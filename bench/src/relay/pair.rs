//! Two sockets joined: what is read from one is written to the other.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

/// Which socket of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that was accepted.
    Edge,
    /// The one that was dialled for it.
    Upstream,
}

/// One socket and what waits to be written to it.
#[derive(Debug)]
struct End {
    socket: TcpStream,
    /// Read from the other end and not yet taken by this one. While it is not empty nothing more is read there, so it never holds
    /// more than one buffer.
    waiting: Vec<u8>,
    /// Everything there is was read.
    at_end: bool,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Pair {
    edge: End,
    upstream: End,
}

/// How a pair goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// With the next event.
    Open,
    /// Not at all: both directions are at their end, or a connection is broken.
    Over,
}

// === impl Side ===

impl Side {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Edge => Self::Upstream,
            Self::Upstream => Self::Edge,
        }
    }
}

// === impl Pair ===

impl Pair {
    pub(super) const fn new(edge: TcpStream, upstream: TcpStream) -> Self {
        Self { edge: End::new(edge), upstream: End::new(upstream) }
    }

    pub(super) const fn socket(&self, side: Side) -> &TcpStream {
        match side {
            Side::Edge => &self.edge.socket,
            Side::Upstream => &self.upstream.socket,
        }
    }

    /// The socket of `side` can be read: copies until it is drained or the other one is full.
    pub(super) fn readable(&mut self, side: Side, to_the_end: bool, buffer: &mut [u8]) -> Flow {
        let (from, to) = self.ends(side);
        match copy(from, to, to_the_end, buffer) {
            Ok(()) => self.flow(),
            Err(_) => Flow::Over,
        }
    }

    /// The socket of `side` can be written: brings what waits, then reads on where reading had stopped for it.
    pub(super) fn writable(&mut self, side: Side, buffer: &mut [u8]) -> Flow {
        let (to, from) = self.ends(side);
        if to.waiting.is_empty() {
            return self.flow();
        }
        // The event that announced more from the other side may be long gone: so read until nothing is there.
        let moved =
            to.drain().and_then(|drained| if drained { copy(from, to, true, buffer) } else { Ok(()) });
        match moved {
            Ok(()) => self.flow(),
            Err(_) => Flow::Over,
        }
    }

    const fn ends(&mut self, side: Side) -> (&mut End, &mut End) {
        match side {
            Side::Edge => (&mut self.edge, &mut self.upstream),
            Side::Upstream => (&mut self.upstream, &mut self.edge),
        }
    }

    const fn flow(&self) -> Flow {
        let over = self.edge.at_end && self.upstream.at_end;
        if over && self.edge.waiting.is_empty() && self.upstream.waiting.is_empty() {
            Flow::Over
        } else {
            Flow::Open
        }
    }
}

// === impl End ===

impl End {
    const fn new(socket: TcpStream) -> Self {
        Self { socket, waiting: Vec::new(), at_end: false }
    }

    /// Writes what waits; whether nothing waits any more.
    fn drain(&mut self) -> io::Result<bool> {
        let written = write(&self.socket, &self.waiting)?;
        if written < self.waiting.len() {
            self.waiting.drain(..written);
            return Ok(false);
        }
        // Not kept for the next time: a relay of many pairs would keep a buffer for each.
        self.waiting = Vec::new();
        Ok(true)
    }
}

/// A short read means that the socket is empty, unless its end was announced as well.
fn copy(from: &mut End, to: &mut End, to_the_end: bool, buffer: &mut [u8]) -> io::Result<()> {
    while to.waiting.is_empty() && !from.at_end {
        let read = match (&from.socket).read(buffer) {
            Ok(0) => {
                from.at_end = true;
                to.socket.shutdown(Shutdown::Write)?;
                return Ok(());
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let written = write(&to.socket, &buffer[..read])?;
        to.waiting.extend_from_slice(&buffer[written..read]);
        if read < buffer.len() && !to_the_end {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes as much as the socket takes. A socket that is not connected yet takes nothing.
fn write(mut socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            Ok(n) => {
                written += n;
                // The rest would only meet a full socket.
                if written < bytes.len() && n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
