//! Another protocol on a port of HTTP: the first bytes of a connection tell which one it speaks, also within TLS.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::{ClientNames, Peer};

/// First bytes that are kept while nothing is told yet; more than any protocol needs to be told.
const FIRST: usize = 32;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that speaks the other protocol.
pub struct ForeignConnection {
    /// From its first byte on.
    pub stream: Box<dyn Duplex>,
    /// Where it comes from.
    pub peer: Peer,
    /// The names in the certificate that it showed, where it had to show one.
    pub names: Option<ClientNames>,
}

/// Serves a connection to its end, which should come soon after the token is cancelled.
pub type ServeForeign = Arc<
    dyn Fn(ForeignConnection, CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync,
>;

/// Another protocol on a port of HTTP.
#[derive(Clone)]
pub struct Foreign {
    /// Whether a connection that begins like this speaks it; `None` as long as that cannot be told.
    pub is_it: fn(&[u8]) -> Option<bool>,
    /// Serves it.
    pub serve: ServeForeign,
}

/// A stream of which the first bytes were read already.
pub(super) struct Rewound<S> {
    first: [u8; FIRST],
    /// Of those, the ones that are yet to be read again.
    left: std::ops::Range<usize>,
    stream: S,
}

// === impl Foreign ===

impl Foreign {
    /// Reads until it can be told what the connection speaks; whether that is this protocol. `None` if it ends before.
    pub(super) async fn look<S: AsyncRead + Unpin>(&self, mut stream: S) -> Option<(Rewound<S>, bool)> {
        let (mut first, mut len) = ([0; FIRST], 0);
        let is_it = loop {
            let known = (self.is_it)(first.get(..len)?);
            if let Some(is_it) = known.or_else(|| (len == FIRST).then_some(false)) {
                break is_it;
            }
            match stream.read(first.get_mut(len..)?).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => len += read,
            }
        };
        Some((Rewound { first, left: 0..len, stream }, is_it))
    }
}

// === impl Rewound ===

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let some = self.left.len().min(buf.remaining());
        let until = self.left.start + some;
        buf.put_slice(self.first.get(self.left.start..until).unwrap_or_default());
        self.left.start = until;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    fn other() -> Foreign {
        let is_it = |first: &[u8]| match first {
            [] | [1] => None,
            [1, 1, ..] => Some(true),
            _ => Some(false),
        };
        Foreign { is_it, serve: Arc::new(|_, _| Box::pin(std::future::ready(()))) }
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        for (begin, is_it) in [(&b"\x01\x01rest"[..], true), (b"GET / HTTP/1.1", false), (b"\x01x", false)] {
            let (mut near, far) = duplex(64);
            let write = async {
                // One byte after the other, as the network may bring them.
                for byte in begin {
                    near.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                near.shutdown().await.unwrap();
            };
            let read = async {
                let (mut stream, told) = other().look(far).await.unwrap();
                assert_eq!(told, is_it);
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                assert_eq!(all, begin);
            };
            tokio::join!(write, read);
        }
    }

    #[tokio::test]
    async fn who_never_tells_is_decided_in_the_end_and_who_leaves_is_gone() {
        let never = Foreign { is_it: |_| None, ..other() };
        let (mut near, far) = duplex(64);
        near.write_all(&[7; 64]).await.unwrap();
        assert!(!never.look(far).await.unwrap().1);
        let (near, far) = duplex(64);
        drop(near);
        assert!(other().look(far).await.is_none());
    }
}
