//! Questions to atlas, at one of its addresses: the one that works is kept, the next one is asked when it does not.

use std::{
    fmt, io,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use frontier_api::cluster::{
    Frontier, GetFrontierByEdgeIdRequest, ListFrontiersRequest, WatchRequest, WatchResponse,
    cluster_service_client::ClusterServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::{
    Code, Status, Streaming,
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

use super::address::AtlasAddress;
use crate::{
    error::ConnectError,
    transport::{Dialer, Io},
};

/// How long connecting may take, and how long a list or the beginning of a watch.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long the look-up of an edge may take. Callers wait for it only when nothing else helped.
const LOOK_UP: Duration = Duration::from_secs(2);

/// A connection on which nothing comes is asked for a sign of life after the first, and given up after the second.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// See the module documentation.
pub(super) struct Atlas {
    instances: Vec<Instance>,
    /// Which one is asked; counts on.
    turn: AtomicUsize,
}

/// One address.
pub(super) struct Instance {
    /// What `turn` was when it was chosen.
    turn: usize,
    pub(super) address: String,
    client: ClusterServiceClient<Channel>,
}

/// Makes connections for gRPC by the client's own means.
#[derive(Clone)]
struct Connector {
    dialer: Dialer,
    address: AtlasAddress,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Io>>> + Send>>;

// === impl Atlas ===

impl Atlas {
    /// Connects when it is asked first.
    pub(super) fn new(addresses: Vec<AtlasAddress>, dialer: &Dialer) -> Result<Self, ConnectError> {
        let instances = addresses.into_iter().map(|address| Instance::new(address, dialer.clone()));
        Ok(Self { instances: instances.collect::<Result<_, _>>()?, turn: AtomicUsize::new(0) })
    }

    pub(super) fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whom to ask now.
    pub(super) fn instance(&self) -> Option<Instance> {
        let turn = self.turn.load(Ordering::Relaxed);
        let Instance { address, client, .. } = self.instances.get(turn % self.instances.len().max(1))?;
        Some(Instance { turn, address: address.clone(), client: client.clone() })
    }

    /// It does not answer as it should: the next one is asked, unless somebody else said so before.
    pub(super) fn give_up(&self, instance: &Instance) {
        let next = instance.turn.wrapping_add(1);
        let _ = self.turn.compare_exchange(instance.turn, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The gateway of an edge, if atlas knows of one.
    pub(super) async fn frontier_of(&self, edge: u64) -> Result<Option<Frontier>, ()> {
        let Some(mut instance) = self.instance() else { return Err(()) };
        let request = GetFrontierByEdgeIdRequest { edge_id: edge };
        let outcome = timeout(LOOK_UP, instance.client.get_frontier_by_edge(request)).await;
        match outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
            Ok(answer) => Ok(answer.into_inner().fontier),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => {
                tracing::debug!(address = %instance.address, error = %status, "atlas could not look an edge up");
                if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
                    self.give_up(&instance);
                }
                Err(())
            }
        }
    }
}

impl fmt::Debug for Atlas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.instances.iter().map(|instance| &instance.address)).finish()
    }
}

// === impl Instance ===

impl Instance {
    fn new(address: AtlasAddress, dialer: Dialer) -> Result<Self, ConnectError> {
        let bad = |_| ConnectError::Address { address: address.text.clone(), reason: "no valid host" };
        let origin = address.uri(if address.address.tls { "https" } else { "http" });
        let endpoint = Endpoint::from_shared(address.uri("http")).map_err(bad)?;
        let endpoint =
            endpoint.user_agent(concat!("frontier-sdk/", env!("CARGO_PKG_VERSION"))).map_err(bad)?;
        let endpoint = match origin.parse() {
            Ok(origin) => endpoint.origin(origin),
            Err(_) => endpoint,
        };
        let channel = endpoint
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(Connector { dialer, address: address.clone() });
        Ok(Self { turn: 0, address: address.text, client: ClusterServiceClient::new(channel) })
    }

    /// All gateways.
    pub(super) async fn list(&mut self) -> Result<Vec<Frontier>, Status> {
        let outcome = timeout(PATIENCE, self.client.list_frontiers(ListFrontiersRequest::default())).await;
        let answer = outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?;
        Ok(answer.into_inner().frontiers)
    }

    /// Follows the list of gateways from where an earlier watch ended.
    pub(super) async fn watch(&mut self, resume: Vec<u8>) -> Result<Streaming<WatchResponse>, Status> {
        let request = WatchRequest { frontiers: true, edges: false, resume };
        let outcome = timeout(PATIENCE, self.client.watch(request)).await;
        Ok(outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?.into_inner())
    }

    pub(super) fn error(&self, status: &Status) -> ConnectError {
        let reason = match (status.message(), std::error::Error::source(status)) {
            ("", _) => status.code().to_string(),
            (text, Some(cause)) => format!("{text}: {cause}"),
            (text, None) => text.to_owned(),
        };
        ConnectError::Atlas { address: self.address.clone(), reason }
    }
}

// === impl Connector ===

impl Service<Uri> for Connector {
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Connecting {
        let Self { dialer, address } = self.clone();
        Box::pin(async move {
            match timeout(PATIENCE, dialer.dial_http2(&address.address)).await {
                Ok(Ok(io)) => Ok(TokioIo::new(io)),
                Ok(Err(error)) => Err(io::Error::other(error.in_full())),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}
