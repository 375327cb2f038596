//! Links to a real atlas: gRPC over TCP or TLS, two connections each.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use frontier_api::registry::{
    FromGateway, Hello, RenewRequest, RenewResponse, ToGateway, from_gateway::Kind,
    registry_client::RegistryClient,
};
use frontier_ops::{
    config::{self, Tls, split_host_port},
    tls::{CertError, dial::client_config},
};
use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use super::{
    advertised::fill_host,
    link::{Dial, Link, LinkError, Renew, Trouble},
};

/// For one address of a name to answer, TLS included: several of them may be tried within the time for the whole.
const CONNECT: Duration = Duration::from_millis(1_500);
/// After so much silence the other side is asked for a sign of life, and has as long to give it.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Opens links to the addresses of `frontlas.dial`, one after the other.
#[derive(Debug)]
pub struct AtlasDial {
    addrs: Vec<String>,
    tls: Option<Tls>,
    /// Where to begin: gateways that start together spread over the instances of atlas.
    first: u64,
}

/// What atlas says on a link.
#[derive(Debug)]
pub struct Heard(Streaming<ToGateway>);

/// The other connection.
#[derive(Debug)]
pub struct Renewals(RegistryClient<Channel>);

/// How to get to one instance of atlas.
#[derive(Clone)]
struct Way {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    /// Where a connection came about, and this machine's address there: a name may stand for several machines, and both connections go to
    /// the same.
    came: Arc<Mutex<Option<(SocketAddr, IpAddr)>>>,
}

/// A connection with or without TLS.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

// === impl AtlasDial ===

impl AtlasDial {
    /// To these addresses, beginning anywhere among them.
    ///
    /// # Errors
    /// When a certificate cannot be used.
    pub fn new(dial: &config::Dial, first: u64) -> Result<Self, CertError> {
        let tls = dial.tls.enable.then(|| dial.tls.clone());
        if let Some(tls) = &tls {
            // Now, while somebody looks; files that have changed are read again for each link.
            client_config(tls)?;
        }
        Ok(Self { addrs: dial.addrs.clone(), tls, first })
    }

    async fn way(&self, attempt: u64) -> Result<Way, LinkError> {
        let unusable = |why: String| LinkError::new(Trouble::Unreachable, why);
        let many = (self.addrs.len() as u64).max(1);
        let at = usize::try_from(self.first.wrapping_add(attempt) % many).unwrap_or(0);
        let addr = self.addrs.get(at).ok_or_else(|| unusable("no address is given".to_owned()))?;
        let (host, port) = split_host_port(addr).map_err(unusable)?;
        let tls = match self.tls.clone() {
            None => None,
            Some(tls) => {
                let read = tokio::task::spawn_blocking(move || client_config(&tls)).await;
                let read = read.map_err(|error| unusable(error.to_string()))?;
                let mut config = read.map_err(|error| unusable(error.to_string()))?;
                config.alpn_protocols = vec![b"h2".to_vec()];
                Some(TlsConnector::from(Arc::new(config)))
            }
        };
        Ok(Way { host: host.to_owned(), port, tls, came: Arc::default() })
    }
}

impl Dial for AtlasDial {
    type Hear = Heard;
    type Renew = Renewals;

    async fn dial(&self, attempt: u64, mut hello: Hello) -> Result<Link<Heard, Renewals>, LinkError> {
        let way = self.way(attempt).await?;
        let endpoint = way.endpoint()?;
        let channel = endpoint.connect_with_connector(way.clone().connector()).await;
        let channel = channel.map_err(|error| LinkError::new(Trouble::Unreachable, causes(&error)))?;
        if let Some((_, own)) = *way.came.lock() {
            fill_host(&mut hello.service_addr, own);
            fill_host(&mut hello.edge_addr, own);
        }
        let (tell, mut told) = mpsc::channel::<FromGateway>(Link::<Heard, Renewals>::ROOM);
        // Before the call: atlas may not answer it until it has heard who calls.
        drop(tell.try_send(FromGateway { kind: Some(Kind::Hello(hello)) }));
        let says = futures::stream::poll_fn(move |task| told.poll_recv(task));
        let answer = RegistryClient::new(channel).attach(says).await.map_err(|status| trouble(&status))?;
        let renewals = endpoint.connect_with_connector_lazy(way.connector());
        Ok(Link {
            tell,
            hear: Heard(answer.into_inner()),
            renew: Arc::new(Renewals(RegistryClient::new(renewals))),
        })
    }
}

// === impl Way ===

impl Way {
    fn endpoint(&self) -> Result<Endpoint, LinkError> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        // TLS is the connector's.
        let endpoint = Endpoint::from_shared(format!("http://{host}:{}", self.port));
        let endpoint = endpoint.map_err(|error| LinkError::new(Trouble::Unreachable, causes(&error)))?;
        Ok(endpoint
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .user_agent(concat!("frontier/", env!("CARGO_PKG_VERSION")))
            .unwrap_or_else(|_| unreachable!("a version is a header value")))
    }

    fn connector(
        self,
    ) -> impl tower::Service<
        Uri,
        Response = TokioIo<Box<dyn Duplex>>,
        Error = io::Error,
        Future = impl Future<Output = io::Result<TokioIo<Box<dyn Duplex>>>> + Send,
    > + Clone
    + Send
    + 'static {
        service_fn(move |_: Uri| {
            let way = self.clone();
            async move { way.connect().await.map(TokioIo::new) }
        })
    }

    async fn connect(&self) -> io::Result<Box<dyn Duplex>> {
        let known = self.came.lock().map(|(addr, _)| addr);
        let addrs = match known {
            Some(addr) => vec![addr],
            None => lookup_host((self.host.as_str(), self.port)).await?.collect(),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for addr in addrs {
            match timeout(CONNECT, self.connect_to(addr)).await {
                Ok(Ok((stream, own))) => {
                    *self.came.lock() = Some((addr, own));
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    async fn connect_to(&self, addr: SocketAddr) -> io::Result<(Box<dyn Duplex>, IpAddr)> {
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        let own = socket.local_addr()?.ip();
        let Some(tls) = &self.tls else { return Ok((Box::new(socket), own)) };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        Ok((Box::new(tls.connect(name, socket).await?), own))
    }
}

// === impl Heard ===

impl Stream for Heard {
    type Item = Result<ToGateway, LinkError>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(task).map_err(|status| trouble(&status))
    }
}

// === impl Renewals ===

impl Renew for Renewals {
    async fn renew(&self, request: RenewRequest) -> Result<RenewResponse, LinkError> {
        let answer = self.0.clone().renew(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| trouble(&status))
    }
}

/// What a status of gRPC means. One that the transport made has a cause, one of atlas has none.
fn trouble(status: &Status) -> LinkError {
    if std::error::Error::source(status).is_some() {
        return LinkError::new(Trouble::Broken, causes(status));
    }
    let trouble = match status.code() {
        Code::AlreadyExists => Trouble::Superseded,
        Code::PermissionDenied | Code::Unauthenticated => Trouble::Denied,
        Code::Unavailable => Trouble::Unavailable,
        Code::ResourceExhausted => Trouble::Full,
        Code::InvalidArgument | Code::OutOfRange => Trouble::Invalid,
        Code::NotFound => Trouble::Forgotten,
        Code::DeadlineExceeded => Trouble::Timeout,
        Code::Unimplemented => Trouble::Protocol,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => Trouble::Broken,
    };
    LinkError::new(trouble, status.message())
}

/// An error with what caused it: those of gRPC alone say "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
