//! The byte pipe under a peer: a TCP socket, or TLS over one.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};

/// See the module documentation.
#[derive(Debug)]
pub enum Transport {
    /// Bytes as they are.
    Plain(TcpStream),
    /// TLS as a client.
    Tls(Box<Tls>),
}

/// A socket with its TLS session.
#[derive(Debug)]
pub struct Tls {
    socket: TcpStream,
    session: ClientConnection,
}

/// What one read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes; there may be more.
    More(usize),
    /// So many bytes, and nothing more for now.
    Short(usize),
    /// The other side has closed.
    End,
}

// === impl Transport ===

impl Transport {
    /// TLS over a socket that may not be connected yet.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn tls(socket: TcpStream, config: &Arc<ClientConfig>) -> Result<Self> {
        let name = ServerName::try_from("localhost").context("server name")?;
        let session = ClientConnection::new(Arc::clone(config), name)?;
        Ok(Self::Tls(Box::new(Tls { socket, session })))
    }

    /// The socket, to be watched.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.socket,
        }
    }

    /// Reads once; `buffer` is not empty.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Read> {
        match self {
            Self::Plain(socket) => loop {
                return match socket.read(buffer) {
                    Ok(0) => Ok(Read::End),
                    Ok(n) if n < buffer.len() => Ok(Read::Short(n)),
                    Ok(n) => Ok(Read::More(n)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Short(0)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
            },
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// Writes as much as goes; 0 if the socket is full or not connected yet.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(_) if bytes.is_empty() => Ok(0),
            Self::Plain(socket) => loop {
                return match socket.write(bytes) {
                    Err(error) if blocked(&error) => Ok(0),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    result => result,
                };
            },
            Self::Tls(tls) => tls.write(bytes),
        }
    }
}

fn blocked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

// === impl Tls ===

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Read> {
        loop {
            match self.session.reader().read(buffer) {
                Ok(0) => return Ok(Read::End),
                Ok(n) => return Ok(Read::More(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match self.session.read_tls(&mut self.socket) {
                Ok(0) => return Ok(Read::End),
                Ok(_) => {
                    self.session.process_new_packets().map_err(io::Error::other)?;
                    // The handshake answers by itself.
                    self.flush()?;
                }
                Err(error) if blocked(&error) => return Ok(Read::Short(0)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        // Nothing is taken before the handshake is done: its buffer would count as written.
        let written = if self.session.is_handshaking() { 0 } else { self.session.writer().write(bytes)? };
        self.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if blocked(&error) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Trusts the one authority in a PEM file.
///
/// # Errors
/// If the file cannot be read or used.
pub fn client_config(authority: &std::path::Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).with_context(|| authority.display().to_string())?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
