//! A connection of our own clients: TCP, or TLS over it.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{ConnectError, config::Address};

/// One address must answer within this time; the next one gets its turn.
const DIAL: Duration = Duration::from_secs(5);

/// A byte stream of either kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Either kind.
pub(crate) type Socket = Box<dyn Io>;

/// Connects by TCP.
pub(crate) async fn dial(address: &Address) -> Result<TcpStream, ConnectError> {
    let stream = timeout(DIAL, TcpStream::connect((address.host(), address.port())))
        .await
        .map_err(|_| ConnectError::unreachable("no answer in time"))?
        .map_err(ConnectError::unreachable)?;
    // Small writes are gathered before they are made.
    stream.set_nodelay(true).map_err(ConnectError::unreachable)?;
    Ok(stream)
}

/// Speaks TLS over a connection; `name` is what the certificate must be for.
pub(crate) async fn secure(
    stream: TcpStream,
    tls: Arc<ClientConfig>,
    name: &str,
) -> Result<Socket, ConnectError> {
    let name = ServerName::try_from(name.to_owned()).map_err(ConnectError::refused)?;
    let stream = timeout(DIAL, TlsConnector::from(tls).connect(name, stream))
        .await
        .map_err(|_| ConnectError::unreachable("no TLS handshake in time"))?
        .map_err(|error| ConnectError::unreachable(format!("TLS: {error}")))?;
    Ok(Box::new(stream))
}
