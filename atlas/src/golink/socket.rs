//! One geminio connection on a socket: gives its events, and writes what there is while it waits for them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use frontier_wire::geminio::connection::{Connection, Event, Fault};
use frontier_wire::geminio::limits::{Limits, Micros};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::select;
use tokio::time::{Instant, sleep_until};

/// Bytes read at a time, and handed to the socket.
const BUFFER: usize = 16 << 10;

/// Pieces handed to the socket at once.
const SLICES: usize = 64;

/// Longer than any timer of a connection.
const FAR: Duration = Duration::from_secs(3_600);

/// A connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// As the protocol has it.
    #[error("the protocol is done")]
    Over,
    /// The peer has ended its side of the socket.
    #[error("the peer has closed the connection")]
    Closed,
    /// The peer breaks the protocol.
    #[error("what it says is no geminio: {0}")]
    Fault(#[from] Fault),
    /// The socket is broken.
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// See the module documentation.
pub(super) struct Socket<C> {
    connection: Connection,
    read: ReadHalf<C>,
    write: WriteHalf<C>,
    start: Instant,
    buffer: BytesMut,
    heard: VecDeque<Event<Bytes>>,
    unflushed: bool,
    said_goodbye: bool,
}

// === impl Socket ===

impl<C: AsyncRead + AsyncWrite + Unpin> Socket<C> {
    /// The acceptor's side.
    pub(super) fn new(socket: C, limits: Arc<Limits>) -> Self {
        Self::with(socket, Connection::serve(limits, 0))
    }

    /// The dialer's side, as a Go gateway has it.
    #[cfg(test)]
    pub(super) fn dial(socket: C, meta: &[u8]) -> Self {
        Self::with(socket, Connection::dial(Arc::default(), 0, meta, 0))
    }

    fn with(socket: C, connection: Connection) -> Self {
        let (read, write) = split(socket);
        Self {
            connection,
            read,
            write,
            start: Instant::now(),
            buffer: BytesMut::new(),
            heard: VecDeque::new(),
            unflushed: false,
            said_goodbye: false,
        }
    }

    /// The protocol. What is queued there goes out with the next call of [`next`](Self::next).
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The clock that the protocol goes by.
    pub(super) fn now(&self) -> Micros {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether the peer itself has said that it leaves.
    pub(super) fn said_goodbye(&self) -> bool {
        self.said_goodbye
    }

    /// The next event.
    ///
    /// # Errors
    /// There is none any more, and why.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Event<Bytes>, Ended> {
        loop {
            if let Some(event) = self.heard.pop_front() {
                return Ok(event);
            }
            let now = self.now();
            while let Some(event) = self.connection.handle_timeout(now) {
                self.heard.push_back(event);
            }
            if self.heard.is_empty() {
                self.turn(now).await?;
            }
        }
    }

    /// Reads, writes or waits, whatever can be done first.
    async fn turn(&mut self, now: Micros) -> Result<(), Ended> {
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        if self.connection.wants_write(now) {
            self.connection.fill(BUFFER, now);
            self.connection.slices(&mut slices, SLICES);
        }
        let over = self.connection.is_over();
        let (some, unflushed) = (!slices.is_empty(), self.unflushed);
        if over && !some && !unflushed {
            return Err(Ended::Over);
        }
        let wake = Duration::from_micros(self.connection.poll_timeout().saturating_sub(now)).min(FAR);
        let write = &mut self.write;
        let writing = async {
            if some { write.write_vectored(&slices).await } else { write.flush().await.map(|()| 0) }
        };
        self.buffer.reserve(BUFFER);
        select! {
            read = self.read.read_buf(&mut self.buffer), if !over && self.connection.wants_read() => {
                if read? == 0 {
                    return Err(Ended::Closed);
                }
                self.take_in()?;
            }
            wrote = writing, if some || unflushed => match wrote? {
                0 if some => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                n => {
                    drop(slices);
                    self.unflushed = some;
                    self.connection.written(n, |_, _| {});
                }
            },
            () = sleep_until(Instant::now() + wake) => {}
        }
        Ok(())
    }

    fn take_in(&mut self) -> Result<(), Fault> {
        let mut input = self.buffer.split().freeze();
        let now = self.now();
        while let Some(event) = self.connection.receive(&mut input, now)? {
            self.said_goodbye |= matches!(event, Event::Leaving);
            self.heard.push_back(event);
        }
        Ok(())
    }
}
