//! A TLS connection as a tokio stream, for connections that no shard carries.

use std::{
    io::{self, IoSlice, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::tls::io::{ReadState, TlsIo, TlsScratch};

/// Plain bytes encrypted at a time: one full record.
const BUFFER_LIMIT: usize = 16 * 1024;

/// See the module documentation. Holds about 60 KiB of working memory once bytes flow, so it is for connections of which there is a
/// limited number.
///
/// The end of the peer's bytes without an announcement (`close_notify`) is an error of the kind `UnexpectedEof`.
#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    tls: Box<TlsIo>,
    scratch: TlsScratch,
    /// Plain bytes not yet read by the owner of the stream.
    plain: Vec<u8>,
    taken: usize,
    /// The peer's bytes have ended.
    ended: bool,
    closing: bool,
}

/// Lets `TlsIo` use a tokio socket without waiting for it.
pub(super) struct TryIo<'a>(pub(super) &'a TcpStream);

/// Lets `TlsIo` use a tokio socket and leaves the task's waker with it when it would block.
struct PollIo<'a, 'b> {
    socket: Pin<&'a mut TcpStream>,
    task: &'a mut Context<'b>,
}

// === impl TlsStream ===

impl TlsStream {
    /// Of a socket, its connection after the handshake, and the plain bytes already read.
    #[must_use]
    pub fn new(socket: TcpStream, mut tls: Box<TlsIo>, plain: Vec<u8>) -> Self {
        tls.set_buffer_limit(BUFFER_LIMIT);
        Self { socket, tls, scratch: TlsScratch::small(), plain, taken: 0, ended: false, closing: false }
    }

    /// Reads until there are plain bytes or their end.
    fn poll_fill(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken == self.plain.len() && !self.ended {
            self.plain.clear();
            self.taken = 0;
            let mut io = PollIo { socket: Pin::new(&mut self.socket), task };
            let outcome = self.tls.read(&mut io, &mut self.scratch, &mut self.plain);
            if self.tls.wants_write() {
                // Answers to key updates, alerts: they go now or with the next write. Not with this task's waker, which would take
                // the place of that of a writer who waits in another task.
                self.tls.flush(&mut TryIo(&self.socket))?;
            }
            match outcome.map_err(io::Error::from)?.state {
                ReadState::More | ReadState::Short => {}
                ReadState::WouldBlock => return Poll::Pending,
                ReadState::Closed => self.ended = true,
                ReadState::Truncated => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush_tls(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = PollIo { socket: Pin::new(&mut self.socket), task };
        if self.tls.flush(&mut io)? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_fill(task))?;
        let ready = &this.plain[this.taken..];
        let len = ready.len().min(into.remaining());
        into.put_slice(&ready[..len]);
        this.taken += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(task, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let mut io = PollIo { socket: Pin::new(&mut this.socket), task };
        match this.tls.write_vectored(&mut io, &mut this.scratch, slices)? {
            0 => Poll::Pending,
            accepted => Poll::Ready(Ok(accepted)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush_tls(task)
    }

    /// Announces the end of our bytes and ends the socket's.
    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closing {
            this.closing = true;
            let mut io = PollIo { socket: Pin::new(&mut this.socket), task };
            this.tls.close_notify(&mut io, &mut this.scratch)?;
        }
        ready!(this.poll_flush_tls(task))?;
        Pin::new(&mut this.socket).poll_shutdown(task)
    }
}

// === impl TryIo ===

impl Read for TryIo<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(space)
    }
}

impl Write for TryIo<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl PollIo ===

impl Read for PollIo<'_, '_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut space = ReadBuf::new(space);
        match self.socket.as_mut().poll_read(self.task, &mut space) {
            Poll::Ready(Ok(())) => Ok(space.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for PollIo<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.as_mut().poll_write(self.task, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
