//! A connection that sends and shows single frames, and raw bytes where a test wants to be wrong.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use frontier_wire::{
    native::{
        connection::{self, Connection, Input},
        frame::{Flags, FrameHeader, FrameType},
        limits::FrameLimits,
    },
    yamux::{Config, StreamId},
};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::certs::NAME;

/// Bytes moved to the socket at a time.
const BUDGET: usize = 256 << 10;
/// A write that is stuck for so long fails the test: the gateway always reads.
const STUCK: Duration = Duration::from_secs(20);

/// A byte stream with timeouts.
pub trait Transport: Read + Write + Send {
    /// The socket below.
    fn socket(&self) -> &TcpStream;
}

/// A frame, with copies of its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: FrameType,
    /// Its flags.
    pub flags: Flags,
    /// Its ID.
    pub id: u64,
    /// Its head.
    pub head: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The other side closed it.
    End,
    /// It was reset.
    Reset,
}

/// What happened on a connection.
#[derive(Clone, Debug)]
pub enum Event {
    /// A frame of the session stream.
    Frame(Frame),
    /// The other side opened a user stream.
    Opened(StreamId),
    /// Bytes of a user stream; nothing is granted back by itself.
    Bytes(StreamId, Vec<u8>),
    /// The other side half-closed a user stream.
    Finished(StreamId),
    /// The other side reset a user stream.
    Reset(StreamId),
    /// The connection is over; said again and again.
    Closed(Closed),
}

/// See the module documentation.
pub struct Wire {
    io: Box<dyn Transport>,
    conn: Connection,
    buffer: Box<[u8]>,
    events: VecDeque<Event>,
    closed: Option<Closed>,
}

// === impl Transport ===

impl Transport for StreamOwned<ClientConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

impl Transport for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

// === impl Frame ===

impl Frame {
    /// The head as the message it should be.
    ///
    /// # Errors
    /// When it is something else.
    pub fn head_as<M: prost::Message + Default>(&self) -> anyhow::Result<M> {
        M::decode(self.head.as_slice()).with_context(|| format!("head of {self:?}"))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}#{} {:?} head {:02x?} body of {}",
            self.kind.name(),
            self.id,
            self.flags,
            self.head,
            self.body.len()
        )
    }
}

// === impl Wire ===

impl Wire {
    /// Connects and opens the session stream, without a Hello.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn dial(addr: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect_timeout(&addr, STUCK).context("connect")?;
        socket.set_nodelay(true)?;
        Self::over(Box::new(socket))
    }

    /// The same over TLS. The handshake happens with the first bytes that are sent.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn dial_tls(addr: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<Self> {
        let socket = TcpStream::connect_timeout(&addr, STUCK).context("connect")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(STUCK))?;
        let name = ServerName::try_from(NAME)?;
        let tls = ClientConnection::new(Arc::clone(config), name)?;
        Self::over(Box::new(StreamOwned::new(tls, socket)))
    }

    /// The same over a byte stream that exists.
    ///
    /// # Errors
    /// When the socket takes no timeouts.
    pub fn over(io: Box<dyn Transport>) -> anyhow::Result<Self> {
        io.socket().set_write_timeout(Some(STUCK))?;
        let conn = Connection::dial(&Config::default());
        Ok(Self { io, conn, buffer: vec![0; 64 << 10].into(), events: VecDeque::new(), closed: None })
    }

    /// The multiplexer and the outbox, for what this type has no method for.
    pub fn conn(&mut self) -> &mut Connection {
        &mut self.conn
    }

    /// The address it connects from.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.socket().local_addr()
    }

    /// Sends a frame on the session stream.
    ///
    /// # Errors
    /// When the connection is broken or the frame is too long.
    pub fn frame(
        &mut self,
        kind: FrameType,
        flags: Flags,
        id: u64,
        head: &[u8],
        body: &[u8],
    ) -> anyhow::Result<()> {
        self.queue(kind, flags, id, head, body)?;
        Ok(self.flush()?)
    }

    /// Adds a frame to what is sent next.
    ///
    /// # Errors
    /// When the frame is too long.
    pub fn queue(
        &mut self,
        kind: FrameType,
        flags: Flags,
        id: u64,
        head: &[u8],
        body: &[u8],
    ) -> anyhow::Result<()> {
        let header = FrameHeader::new(kind, id).with_flags(flags);
        let mut lead = BytesMut::with_capacity(header.frame_len() + head.len() + body.len());
        header.put_frame(&mut lead, head, body)?;
        let body = lead.split_off(lead.len() - body.len());
        // One flow, so that frames of any size keep their order; they become yamux frames of 64 KiB at most.
        self.conn.outbox().push_frame(0, lead.freeze(), body.freeze());
        Ok(())
    }

    /// Sends any bytes on the session stream.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn session_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(32 << 10) {
            self.conn.outbox().push_frame(0, Bytes::copy_from_slice(piece), Bytes::new());
        }
        self.flush()
    }

    /// Sends any bytes below the multiplexer.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.flush()?;
        self.io.write_all(bytes)
    }

    /// Closes the sending side of the socket.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn shutdown(&self) -> io::Result<()> {
        self.io.socket().shutdown(Shutdown::Write)
    }

    /// Writes what waits and may go.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        loop {
            if self.conn.sending() == 0 {
                self.conn.fill(BUDGET);
            }
            if self.conn.sending() == 0 {
                return Ok(());
            }
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            self.conn.slices(&mut slices, 64);
            let n = self.io.write_vectored(&slices)?;
            self.conn.written(n, |_, _| {});
        }
    }

    /// The next thing that happens; `None` if nothing does within the time.
    ///
    /// # Errors
    /// When the gateway breaks the protocol.
    pub fn next(&mut self, within: Duration) -> anyhow::Result<Option<Event>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if let Some(closed) = self.closed {
                return Ok(Some(Event::Closed(closed)));
            }
            // Grants and acknowledgements. If the gateway has cut the connection, reading says so.
            drop(self.flush());
            let left = deadline.saturating_duration_since(Instant::now());
            self.io.socket().set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.io.read(&mut self.buffer) {
                Ok(0) => self.closed = Some(Closed::End),
                Ok(n) => self.feed(n)?,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                        self.closed = Some(Closed::Reset)
                    }
                    // What a TLS peer without a farewell looks like.
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => {
                        self.closed = Some(Closed::Reset)
                    }
                    _ => return Err(error).context("read"),
                },
            }
        }
    }

    fn feed(&mut self, n: usize) -> anyhow::Result<()> {
        let bytes = Bytes::copy_from_slice(self.buffer.get(..n).unwrap_or_default());
        let mut input = Input::new(bytes);
        while let Some(event) =
            self.conn.receive(&mut input, &FrameLimits::DIALER).context("the gateway's bytes")?
        {
            let event = match event {
                connection::Event::Frame(frame) => Event::Frame(Frame {
                    kind: frame.header.kind,
                    flags: frame.header.flags,
                    id: frame.header.id,
                    head: frame.head.to_vec(),
                    body: frame.body.to_vec(),
                }),
                connection::Event::StreamOpened(stream) => Event::Opened(stream),
                connection::Event::StreamData(stream, piece) => Event::Bytes(stream, piece.to_vec()),
                connection::Event::StreamFinished(stream) => Event::Finished(stream),
                connection::Event::StreamReset(stream) => Event::Reset(stream),
                connection::Event::Ended => Event::Closed(Closed::End),
            };
            self.events.push_back(event);
        }
        Ok(())
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("closed", &self.closed).finish_non_exhaustive()
    }
}
