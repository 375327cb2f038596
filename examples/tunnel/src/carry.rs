//! Carries bytes between a TCP connection and a stream, and everything else a connection says: its half-close, its reset, its slowness.

use std::io;

use anyhow::{Context, anyhow, bail};
use frontier::Stream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest},
    net::{TcpStream, tcp::ReadHalf},
    select,
};
use tokio_util::sync::CancellationToken;

/// Bytes that one connection holds per direction. Beyond these, who reads slowly slows who writes: TCP's windows on either side and the
/// stream's between them.
const BUFFER: usize = 64 << 10;

/// Bytes carried so far.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// From the TCP connection into the stream.
    pub(crate) sent: u64,
    /// From the stream to the TCP connection.
    pub(crate) received: u64,
}

/// Carries until both directions have ended in order, or something breaks; then both ends are reset, because to be cut off must not look
/// like a good end.
///
/// # Errors
/// What broke.
pub(crate) async fn carry(
    mut tcp: TcpStream,
    stream: Stream,
    cancel: &CancellationToken,
    carried: &mut Carried,
) -> anyhow::Result<()> {
    // What is written in one piece should arrive in one.
    tcp.set_nodelay(true)?;
    let failed = stream.failed();
    let (mut from_stream, mut to_stream) = tokio::io::split(stream);
    let (mut from_tcp, mut to_tcp) = tcp.split();
    let Carried { sent, received } = carried;
    let there = send(&mut from_tcp, &mut to_stream, sent);
    let back = receive(&mut from_stream, &mut to_tcp, received);
    let outcome = select! {
        biased;
        outcome = async { tokio::try_join!(there, back) } => outcome.map(|_| ()),
        () = cancel.cancelled() => Err(anyhow!("the tunnel ends")),
        // Noticed even while the TCP connection takes nothing.
        error = failed => Err(error).context("the stream"),
    };
    if outcome.is_err() {
        from_stream.unsplit(to_stream).reset();
        // Closed like this, the connection is reset.
        tcp.set_zero_linger()?;
    }
    outcome
}

async fn send(
    tcp: &mut ReadHalf<'_>,
    stream: &mut (impl AsyncWrite + Unpin),
    count: &mut u64,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = tcp.read(&mut buffer).await.context("the TCP connection")?;
        if n == 0 {
            return stream.shutdown().await.context("the stream");
        }
        select! {
            biased;
            written = stream.write_all(&buffer[..n]) => written.context("the stream")?,
            // A reset is noticed even while the stream takes nothing.
            () = broken(tcp) => bail!(io::Error::from(io::ErrorKind::ConnectionReset)),
        }
        *count += n as u64;
    }
}

async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    tcp: &mut (impl AsyncWrite + Unpin),
    count: &mut u64,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = stream.read(&mut buffer).await.context("the stream")?;
        if n == 0 {
            return tcp.shutdown().await.context("the TCP connection");
        }
        tcp.write_all(&buffer[..n]).await.context("the TCP connection")?;
        *count += n as u64;
    }
}

/// Waits until the connection is broken, without reading from it.
async fn broken(tcp: &ReadHalf<'_>) {
    // An error here is the runtime's end: nothing will be noticed any more either way.
    drop(tcp.ready(Interest::ERROR).await);
}
