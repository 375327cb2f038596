//! Byte pipes to a gateway: TCP, TLS over TCP, and pipes within a process for tests.

mod staggered;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    address::Address,
    error::ConnectError,
    tls::{Tls, TlsOptions},
};

/// One connection.
#[derive(Debug)]
pub(crate) enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(any(test, feature = "testing"))]
    Memory(tokio::io::DuplexStream),
}

/// Where connections come from.
#[derive(Clone, Debug)]
pub(crate) enum Dialer {
    /// The network.
    Net {
        /// For `tls://` addresses, and for all if the user asked for TLS.
        tls: Arc<Tls>,
        always_tls: bool,
    },
    /// An acceptor within the process, which takes the other end of each pipe.
    #[cfg(any(test, feature = "testing"))]
    Memory(tokio::sync::mpsc::Sender<tokio::io::DuplexStream>),
    /// The same for several, by their addresses.
    #[cfg(any(test, feature = "testing"))]
    Switchboard(Arc<Switchboard>),
}

/// Acceptors within the process, by host and port.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Default)]
pub(crate) struct Switchboard {
    lines: parking_lot::Mutex<
        std::collections::HashMap<String, tokio::sync::mpsc::Sender<tokio::io::DuplexStream>>,
    >,
    /// Takes all that have no line of their own.
    rest: Option<tokio::sync::mpsc::Sender<tokio::io::DuplexStream>>,
}

/// Bytes a pipe within the process holds in each direction.
#[cfg(any(test, feature = "testing"))]
const PIPE: usize = 64 * 1024;

// === impl Dialer ===

impl Dialer {
    /// The network, with TLS for `tls://` addresses, or for all if there are options for it.
    pub(crate) fn net(tls: Option<TlsOptions>) -> Self {
        let always_tls = tls.is_some();
        Self::Net { tls: Arc::new(Tls::new(tls.unwrap_or_default())), always_tls }
    }

    /// Connects. The caller limits the time.
    pub(crate) async fn dial(&self, address: &Address) -> Result<Io, ConnectError> {
        #[cfg(any(test, feature = "testing"))]
        let failed = |source| ConnectError::Dial { address: address.to_string(), source };
        match self {
            Self::Net { tls, always_tls } if address.tls || *always_tls => {
                encrypt(tls, address, connect(address).await?, Protocol::Frontier).await
            }
            Self::Net { .. } => Ok(Io::Tcp(connect(address).await?)),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(acceptor) => pipe(acceptor).await.map_err(failed),
            #[cfg(any(test, feature = "testing"))]
            Self::Switchboard(switchboard) => match switchboard.line(address) {
                Some(acceptor) => pipe(&acceptor).await.map_err(failed),
                None => Err(failed(io::ErrorKind::ConnectionRefused.into())),
            },
        }
    }

    /// Connects to a server that speaks HTTP/2, with TLS only if its address says so. The caller limits the time.
    #[cfg(feature = "cluster")]
    pub(crate) async fn dial_http2(&self, address: &Address) -> Result<Io, ConnectError> {
        match self {
            Self::Net { tls, .. } if address.tls => {
                encrypt(tls, address, connect(address).await?, Protocol::Http2).await
            }
            Self::Net { .. } => Ok(Io::Tcp(connect(address).await?)),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(_) | Self::Switchboard(_) => self.dial(address).await,
        }
    }
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Frontier,
    #[cfg(feature = "cluster")]
    Http2,
}

async fn connect(address: &Address) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Dial { address: address.to_string(), source };
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await.map_err(failed)?;
    let socket = staggered::first(found, TcpStream::connect).await.map_err(failed)?;
    // Frames are batched before they are written, so waiting for more would only delay them.
    socket.set_nodelay(true).map_err(failed)?;
    Ok(socket)
}

async fn encrypt(
    tls: &Arc<Tls>,
    address: &Address,
    socket: TcpStream,
    protocol: Protocol,
) -> Result<Io, ConnectError> {
    let failed = |source| ConnectError::Dial { address: address.to_string(), source };
    let name = match protocol {
        Protocol::Frontier => tls.server_name(&address.host)?,
        // The name that may have been set is that of the gateways.
        #[cfg(feature = "cluster")]
        Protocol::Http2 => crate::tls::host_name(&address.host)?,
    };
    let made = tls.clone();
    let config = tokio::task::spawn_blocking(move || match protocol {
        Protocol::Frontier => made.config(),
        #[cfg(feature = "cluster")]
        Protocol::Http2 => made.http2_config(),
    });
    let config = config.await.map_err(|error| failed(io::Error::other(error)))??;
    let handshake = TlsConnector::from(config).connect(name, socket).await;
    let stream =
        handshake.map_err(|source| ConnectError::Handshake { address: address.to_string(), source })?;
    Ok(Io::Tls(Box::new(stream)))
}

#[cfg(any(test, feature = "testing"))]
async fn pipe(acceptor: &tokio::sync::mpsc::Sender<tokio::io::DuplexStream>) -> io::Result<Io> {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    acceptor.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
    Ok(Io::Memory(ours))
}

// === impl Switchboard ===

#[cfg(any(test, feature = "testing"))]
impl Switchboard {
    /// With an acceptor for whatever has no line of its own.
    pub(crate) fn with_rest(rest: tokio::sync::mpsc::Sender<tokio::io::DuplexStream>) -> Self {
        Self { lines: parking_lot::Mutex::default(), rest: Some(rest) }
    }

    /// Who listens at `host:port`; replaces who did before.
    #[cfg(feature = "cluster")]
    pub(crate) fn connect(
        &self,
        address: impl Into<String>,
        acceptor: tokio::sync::mpsc::Sender<tokio::io::DuplexStream>,
    ) {
        self.lines.lock().insert(address.into(), acceptor);
    }

    fn line(&self, address: &Address) -> Option<tokio::sync::mpsc::Sender<tokio::io::DuplexStream>> {
        let key = format!("{}:{}", address.host, address.port);
        self.lines.lock().get(&key).cloned().or_else(|| self.rest.clone())
    }
}

// === impl Io ===

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
