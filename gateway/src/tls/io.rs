//! One TLS connection of a server, without a socket: [`TlsIo`] turns what a socket yields into plain bytes and plain bytes into
//! what a socket takes.
//!
//! ```text
//!  socket ──read──▶ scratch.inbound ──records──▶ rustls ──▶ plain bytes of the caller
//!  socket ◀─write── scratch.outbound ◀─records── rustls ◀── plain bytes of the caller
//! ```
//!
//! Both buffers belong to the thread ([`TlsScratch`]), none to the connection, which keeps only what cannot be left there: the
//! incomplete record at the end of a read (at most 20 KiB, 64 KiB during the handshake) and the records that the socket did not
//! take (at most [`TlsIo::set_buffer_limit`] of plain bytes). Both are freed as soon as they are empty. That is why this is built
//! on the unbuffered interface of rustls: the buffered one keeps a read buffer of 4 KiB per connection for ever and reads a socket
//! in pieces of that size. An idle connection holds 2.1 KiB of heap in all, with a client certificate 2.9 KiB (the buffered
//! interface: 5.9 KiB); `tests/tls_memory.rs` prints and bounds it.
//!
//! Edge-triggered pollers need to know whether a socket ran dry. A read says how many bytes it got and whether it filled the
//! space there was; a write has run into a full socket if and only if [`TlsIo::wants_write`] is true afterwards.

mod buffers;

use std::{
    fmt,
    io::{self, IoSlice, Read, Write},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::CertificateDer,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, UnbufferedStatus, WriteTraffic},
};

use self::buffers::{Cursor, MAX_RECORD, Pending, Records};

/// A record of that size with header, tag and the room TLS 1.2 allows for expansion is 18,437 bytes; a little more, so that an
/// incomplete handshake message (a key update has 5 bytes) may stand in front of it.
const MAX_PARTIAL: usize = 20 * 1024;

/// Certificate chains come in one handshake message; rustls itself refuses messages of more than 64 KiB.
const MAX_PARTIAL_HANDSHAKE: usize = 64 * 1024;

/// One system call for three to four full records.
const INBOUND: usize = 64 * 1024;

/// Plain bytes encrypted ahead of the socket: four full records per system call, and the worst case that one connection with a
/// full socket keeps.
const BUFFER_LIMIT: usize = 64 * 1024;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer broke the protocol, or the handshake was refused; an alert that says so may wait to be flushed.
    #[error("tls: {0}")]
    Protocol(#[from] rustls::Error),
    /// The peer sent more without completing a record or handshake message than any valid one has.
    #[error("tls: incomplete record of {len} bytes")]
    Oversized {
        /// Bytes received of it.
        len: usize,
    },
    /// The socket failed.
    #[error("tls: {0}")]
    Socket(#[from] io::Error),
}

/// Working memory of reads and writes, shared by all connections that one thread serves. About 200 KiB.
pub struct TlsScratch {
    inbound: Vec<u8>,
    outbound: Records,
    joined: Vec<u8>,
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Socket(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Plain bytes appended; may be 0 although the socket had bytes.
    pub plain: usize,
    /// Bytes that came from the socket.
    pub wire: usize,
    /// What is known about the rest.
    pub state: ReadState,
}

/// What is known about a socket after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// The read filled the space there was: read again.
    More,
    /// The read was short. There is nothing more unless the poller saw a hang-up.
    Short,
    /// The socket said that it would block.
    WouldBlock,
    /// The peer announced the end of its bytes (`close_notify`). It may still read.
    Closed,
    /// The socket ended without that announcement: something may be missing.
    Truncated,
}

/// See the module documentation.
pub struct TlsIo {
    conn: Box<UnbufferedServerConnection>,
    /// Received bytes from the first incomplete record on.
    partial: Vec<u8>,
    pending: Pending,
    buffer_limit: usize,
    /// No further bytes come from the peer.
    ended: Option<ReadState>,
    failed: Option<rustls::Error>,
}

// === impl TlsScratch ===

impl TlsScratch {
    /// For a single connection: reads a record at a time. Grows to about 60 KiB.
    #[must_use]
    pub fn small() -> Self {
        Self { inbound: vec![0; MAX_PARTIAL], outbound: Records::default(), joined: Vec::new() }
    }
}

impl Default for TlsScratch {
    /// For a thread.
    fn default() -> Self {
        Self { inbound: vec![0; INBOUND], ..Self::small() }
    }
}

impl fmt::Debug for TlsScratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsScratch").finish_non_exhaustive()
    }
}

// === impl TlsIo ===

impl TlsIo {
    /// A connection whose handshake has not begun.
    ///
    /// # Errors
    /// When the configuration is unusable.
    pub fn accept(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self {
            conn: Box::new(UnbufferedServerConnection::new(config)?),
            partial: Vec::new(),
            pending: Pending::default(),
            buffer_limit: BUFFER_LIMIT,
            ended: None,
            failed: None,
        })
    }

    /// How many plain bytes are encrypted ahead of the socket at most: what a connection keeps when its socket is full. Default
    /// 64 KiB; at least 1.
    pub fn set_buffer_limit(&mut self, bytes: usize) {
        self.buffer_limit = bytes.max(1);
    }

    /// Whether the handshake is still going on. Its last records may wait to be flushed afterwards.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.conn.is_handshaking()
    }

    /// Whether bytes wait for the socket.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes this connection holds besides its fixed size: incomplete records and records not yet sent.
    #[must_use]
    pub fn held(&self) -> usize {
        self.partial.capacity() + self.pending.bytes.capacity()
    }

    /// The certificate chain of the peer, the leaf first, if it had to show one.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.conn.peer_certificates()
    }

    /// The version agreed, once it is.
    #[must_use]
    pub fn protocol_version(&self) -> Option<rustls::ProtocolVersion> {
        self.conn.protocol_version()
    }

    /// The application protocol agreed, if any.
    #[must_use]
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.conn.alpn_protocol()
    }

    /// Reads the socket once and appends the plain bytes of all complete records to `plain`: at most 64 KiB.
    ///
    /// It may leave bytes to be flushed (handshake, answers to key updates, alerts), also when it fails.
    ///
    /// # Errors
    /// When the connection is over; the bytes appended before are still good.
    pub fn read(
        &mut self,
        io: &mut impl Read,
        scratch: &mut TlsScratch,
        plain: &mut Vec<u8>,
    ) -> Result<ReadOutcome, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        if let Some(state) = self.ended {
            return Ok(ReadOutcome { plain: 0, wire: 0, state });
        }
        let held = self.partial.len();
        if scratch.inbound.len() < held + MAX_RECORD {
            scratch.inbound.resize(held + MAX_RECORD, 0);
        }
        let (front, space) = scratch.inbound.split_at_mut(held);
        let wire = match read_once(io, space)? {
            None => return Ok(ReadOutcome { plain: 0, wire: 0, state: ReadState::WouldBlock }),
            Some(0) => {
                self.ended = Some(ReadState::Truncated);
                self.partial = Vec::new();
                return Ok(ReadOutcome { plain: 0, wire: 0, state: ReadState::Truncated });
            }
            Some(wire) => wire,
        };
        let filled = wire == space.len();
        front.copy_from_slice(&self.partial);
        let before = plain.len();
        self.process(&mut scratch.inbound[..held + wire], &mut scratch.outbound, plain)?;
        let dry = if filled { ReadState::More } else { ReadState::Short };
        Ok(ReadOutcome { plain: plain.len() - before, wire, state: self.ended.unwrap_or(dry) })
    }

    /// Works off the records in `input` and keeps the incomplete one at its end.
    fn process(&mut self, input: &mut [u8], out: &mut Records, plain: &mut Vec<u8>) -> Result<(), TlsError> {
        out.used = 0;
        let mut done = 0;
        let result = loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.conn.process_tls_records(&mut input[done..]);
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                plain.extend_from_slice(record.payload);
                                discard += record.discard;
                            }
                            Err(error) => return Err(self.fail(error, out)),
                        }
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    out.append(|space| data.encode(space))?;
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    // What follows the announcement is void.
                    self.ended = Some(ReadState::Closed);
                    discard = input.len() - done;
                    false
                }
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => false,
                // Early data is off, so there is no other state today.
                Ok(_) => break Err(rustls::Error::General("unexpected state".into())),
                Err(error) => break Err(error),
            };
            done += discard;
            if !more {
                break Ok(());
            }
        };
        match result {
            Ok(()) => self.keep(&input[done..], out),
            Err(error) => Err(self.fail(error, out)),
        }
    }

    /// Keeps the incomplete record at the end of a read, and what the handshake has to say.
    fn keep(&mut self, rest: &[u8], out: &Records) -> Result<(), TlsError> {
        self.pending.append(out.bytes());
        let limit = if self.conn.is_handshaking() { MAX_PARTIAL_HANDSHAKE } else { MAX_PARTIAL };
        if rest.len() > limit {
            let error = rustls::Error::General("incomplete record too long".into());
            self.failed = Some(error);
            self.partial = Vec::new();
            return Err(TlsError::Oversized { len: rest.len() });
        }
        // Equal bytes need no new allocation: a record that trickles in would cost one per read.
        self.partial.clear();
        self.partial.extend_from_slice(rest);
        if rest.is_empty() {
            self.partial = Vec::new();
        }
        Ok(())
    }

    /// Ends the connection and queues the alert that says why, if there is one.
    fn fail(&mut self, error: rustls::Error, out: &mut Records) -> TlsError {
        self.partial = Vec::new();
        self.failed = Some(error.clone());
        // With no input and only while something is queued: rustls would work on the input again otherwise.
        while self.conn.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) = self.conn.process_tls_records(&mut []).state
            else {
                break;
            };
            if out.append(|space| data.encode(space)).is_err() {
                break;
            }
        }
        self.pending.append(out.bytes());
        error.into()
    }

    /// Encrypts and writes as much of `slices` as the socket takes, and says how many plain bytes were accepted: all of them,
    /// unless the socket is full. Up to the buffer limit of accepted bytes may wait to be flushed then.
    ///
    /// # Errors
    /// When the socket failed or the connection is over or not yet established.
    pub fn write_vectored(
        &mut self,
        io: &mut impl Write,
        scratch: &mut TlsScratch,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut accepted = 0;
        let mut cursor = Cursor::new(slices);
        while self.flush(io)? && !cursor.is_done() {
            let TlsScratch { outbound, joined, .. } = scratch;
            outbound.used = 0;
            let limit = self.buffer_limit;
            let batch =
                self.encrypting(outbound, |traffic, out| cursor.encrypt(traffic, limit, joined, out))?;
            accepted += batch.map_err(io::Error::other)?;
            self.pending.write(io, outbound.bytes())?;
        }
        Ok(accepted)
    }

    /// Calls `encrypt` in the state in which bytes can be encrypted; what has to be sent before them is put into `out`.
    fn encrypting<R>(
        &mut self,
        out: &mut Records,
        encrypt: impl FnOnce(WriteTraffic<'_, ServerConnectionData>, &mut Records) -> R,
    ) -> io::Result<R> {
        let over = |error: rustls::Error| io::Error::new(io::ErrorKind::BrokenPipe, error);
        if let Some(error) = &self.failed {
            return Err(over(error.clone()));
        }
        loop {
            // Rustls wants to see the incomplete record again: it remembers places in it.
            match self.conn.process_tls_records(&mut self.partial).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => return Ok(encrypt(traffic, out)),
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    out.append(|space| data.encode(space)).map_err(over)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::Closed) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(_) => return Err(io::ErrorKind::NotConnected.into()),
                Err(error) => return Err(over(error)),
            }
        }
    }

    /// Writes what waits for the socket; true when nothing is left.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn flush(&mut self, io: &mut impl Write) -> io::Result<bool> {
        self.pending.flush(io)?;
        Ok(self.pending.is_empty())
    }

    /// Announces the end of our bytes (`close_notify`), behind all that was accepted, and flushes as far as the socket takes it;
    /// true when nothing is left. Nothing can be written afterwards; reading goes on.
    ///
    /// # Errors
    /// When the socket failed or the connection is over or not yet established.
    pub fn close_notify(&mut self, io: &mut impl Write, scratch: &mut TlsScratch) -> io::Result<bool> {
        let out = &mut scratch.outbound;
        out.used = 0;
        let queue = |mut traffic: WriteTraffic<'_, ServerConnectionData>, out: &mut Records| {
            out.append(|space| traffic.queue_close_notify(space))
        };
        self.encrypting(out, queue)?.map_err(io::Error::other)?;
        self.pending.append(out.bytes());
        self.flush(io)
    }
}

impl fmt::Debug for TlsIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIo")
            .field("handshaking", &self.is_handshaking())
            .field("partial", &self.partial.len())
            .field("pending", &self.pending.len())
            .field("ended", &self.ended)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// One successful read; `None` if it would block.
fn read_once(io: &mut impl Read, space: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match io.read(space) {
            Ok(len) => return Ok(Some(len.min(space.len()))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
