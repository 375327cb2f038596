//! A session's socket: reads it for the core and writes what the core has for it.

use std::io::{self, IoSlice, Read, Write};

use mio::{Interest, net::TcpStream};
use smallvec::SmallVec;

use crate::{
    core::{shard::Shard, table::SessionRef},
    tls::io::{ReadState, TlsIo, TlsScratch},
};

/// Slices per write: what `writev` takes without splitting on any system.
const SLICES: usize = 64;
/// While a socket carries large bodies, only so much is read into the shared buffer: a frame header and its head. The body then goes
/// straight into its own buffer instead of being copied there.
const HEAD_READ: usize = 2_048;

/// A socket, with or without TLS.
pub(super) enum Io {
    Tcp(TcpStream),
    Tls(TcpStream, Box<TlsIo>),
}

/// A registered connection.
pub(super) struct Conn {
    pub(super) io: Io,
    pub(super) session: SessionRef,
    /// There may be bytes to read.
    pub(super) readable: bool,
    /// The poller saw the end: read until the socket says so, whatever its reads return.
    pub(super) ended: bool,
    /// There may be bytes to read, but the core takes none at the moment.
    pub(super) paused: bool,
    /// The poller tells when it can be written. Most sockets are never full, and one that is new could always be written: each would
    /// cost a turn for nothing.
    pub(super) armed: bool,
    /// It carries large bodies at the moment.
    bulk: bool,
    /// Bytes held by TLS that the core knows of.
    held: u32,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Read again.
    More,
    /// Wait for the poller.
    Drained,
    /// The connection is over.
    Closed(&'static str),
}

// === impl Io ===

impl Io {
    pub(super) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Tcp(socket) | Self::Tls(socket, _) => socket,
        }
    }

    /// Closes in good order. What the peer sent and nobody will read is taken first: the kernel would answer it with a reset, and that
    /// can overtake the last frame.
    pub(super) fn close(mut self, buffer: &mut [u8], scratch: &mut TlsScratch) {
        if let Self::Tls(socket, tls) = &mut self {
            // Best effort: the peer may be gone.
            drop(tls.close_notify(socket, scratch));
        }
        let socket = self.socket();
        drop(socket.read(buffer));
        drop(socket.shutdown(std::net::Shutdown::Write));
    }

    /// The socket and what is on it.
    pub(super) fn into_std(self) -> (std::net::TcpStream, Option<Box<TlsIo>>) {
        match self {
            Self::Tcp(socket) => (socket.into(), None),
            Self::Tls(socket, tls) => (socket.into(), Some(tls)),
        }
    }
}

// === impl Conn ===

impl Conn {
    pub(super) fn new(io: Io, session: SessionRef) -> Self {
        // TLS may have bytes of its own to write at any time.
        let armed = matches!(io, Io::Tls(..));
        let (readable, ended, paused, bulk) = (false, false, false, false);
        Self { io, session, readable, ended, paused, armed, bulk, held: 0 }
    }

    /// What the poller shall tell.
    pub(super) fn interest(&self) -> Interest {
        if self.armed { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }
    }

    /// Tells the core what TLS holds, if that has changed.
    pub(super) fn note_held(&mut self, shard: &mut Shard) {
        let Io::Tls(_, tls) = &self.io else { return };
        let held = u32::try_from(tls.held()).unwrap_or(u32::MAX);
        if held != self.held {
            self.held = held;
            shard.set_transport_held(self.session, held as usize);
        }
    }

    /// Writes what TLS has encrypted already; true if nothing of it is left.
    pub(super) fn flush_tls(&mut self) -> io::Result<bool> {
        match &mut self.io {
            Io::Tls(socket, tls) if tls.wants_write() => tls.flush(socket),
            Io::Tls(..) | Io::Tcp(_) => Ok(true),
        }
    }

    /// Reads once and tells the core.
    pub(super) fn read(
        &mut self,
        shard: &mut Shard,
        buffer: &mut [u8],
        plain: &mut Vec<u8>,
        scratch: &mut TlsScratch,
    ) -> Outcome {
        match &mut self.io {
            Io::Tcp(_) => self.read_tcp(shard, buffer),
            Io::Tls(socket, tls) => {
                plain.clear();
                let read = tls.read(socket, scratch, plain);
                if !plain.is_empty() {
                    shard.on_bytes(self.session, plain);
                }
                // Answers of TLS itself (key updates, alerts) go out with the next write or here.
                if tls.wants_write() && tls.flush(socket).is_err() {
                    return Outcome::Closed("connection lost");
                }
                match read.map(|read| read.state) {
                    Ok(ReadState::More) => Outcome::More,
                    Ok(ReadState::Short) if self.ended => Outcome::More,
                    Ok(ReadState::Short | ReadState::WouldBlock) => Outcome::Drained,
                    Ok(ReadState::Closed) => Outcome::Closed("peer closed"),
                    Ok(ReadState::Truncated) => Outcome::Closed("connection lost"),
                    Err(_) => Outcome::Closed("tls failed"),
                }
            }
        }
    }

    fn read_tcp(&mut self, shard: &mut Shard, buffer: &mut [u8]) -> Outcome {
        let Io::Tcp(socket) = &mut self.io else { return Outcome::Drained };
        let want = shard.direct_want(self.session);
        if want > 0 {
            self.bulk = true;
            let Some(body) = shard.direct_buffer(self.session) else {
                return Outcome::Closed("internal error");
            };
            let read = read_direct(socket, body, want);
            return match read {
                Ok(n) => {
                    if n > 0 {
                        shard.on_direct(self.session, n);
                    }
                    self.after(n, want)
                }
                Err(error) => failed(&error),
            };
        }
        let room = if self.bulk { HEAD_READ.min(buffer.len()) } else { buffer.len() };
        match socket.read(&mut buffer[..room]) {
            Ok(n) => {
                if n > 0 {
                    shard.on_bytes(self.session, &buffer[..n]);
                }
                if self.bulk && n == room && shard.direct_want(self.session) == 0 {
                    self.bulk = false;
                }
                self.after(n, room)
            }
            Err(error) => failed(&error),
        }
    }

    fn after(&self, n: usize, room: usize) -> Outcome {
        match n {
            0 => Outcome::Closed("peer closed"),
            n if n < room && !self.ended => Outcome::Drained,
            _ => Outcome::More,
        }
    }

    /// Writes once what the core has; whether the socket would take no more.
    pub(super) fn write(&mut self, shard: &mut Shard, scratch: &mut TlsScratch) -> io::Result<bool> {
        if let Io::Tls(socket, tls) = &mut self.io
            && tls.wants_write()
            && !tls.flush(socket)?
        {
            shard.written(self.session, 0, true);
            return Ok(true);
        }
        if !shard.fill(self.session) {
            // Only a half-close or the like was left to note.
            shard.written(self.session, 0, false);
            return Ok(false);
        }
        let mut slices: SmallVec<[IoSlice<'_>; 16]> = SmallVec::new();
        shard.slices(self.session, &mut slices, SLICES);
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = match &mut self.io {
            Io::Tcp(socket) => match slices.as_slice() {
                [one] => socket.write(one),
                many => socket.write_vectored(many),
            },
            Io::Tls(socket, tls) => tls.write_vectored(socket, scratch, &slices),
        };
        drop(slices);
        let pending = matches!(&self.io, Io::Tls(_, tls) if tls.wants_write());
        let (n, full) = match written {
            Ok(n) => (n, n < total || pending),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (0, false),
            Err(error) => return Err(error),
        };
        shard.written(self.session, n, full);
        Ok(full)
    }
}

/// Reads at most `want` bytes behind what is in `body`.
fn read_direct(socket: &TcpStream, body: &mut Vec<u8>, want: usize) -> io::Result<usize> {
    if body.capacity() - body.len() == want {
        // The spare capacity is exactly the room there is: no zeroing.
        return Ok(rustix::io::read(socket, rustix::buffer::spare_capacity(body))?);
    }
    let start = body.len();
    body.resize(start + want, 0);
    let mut socket = socket;
    let read = socket.read(&mut body[start..]);
    body.truncate(start + read.as_ref().copied().unwrap_or(0));
    read
}

fn failed(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::WouldBlock => Outcome::Drained,
        io::ErrorKind::Interrupted => Outcome::More,
        _ => Outcome::Closed("connection lost"),
    }
}
