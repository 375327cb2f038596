//! A cluster within the process: several gateways, and a registry that lists them.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use frontier_api::cluster::{
    self as api, Frontier, WatchRequest, WatchResponse,
    cluster_service_server::{ClusterService, ClusterServiceServer},
    watch_response::Kind,
};
use parking_lot::Mutex;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Request, Response, Status,
    codegen::tokio_stream::{StreamExt, wrappers::ReceiverStream},
    transport::Server,
};

use super::{
    Gateway, WAITING,
    hub::{Numbers, Order},
};
use crate::{
    Edge, EdgeBuilder, Service, ServiceBuilder,
    transport::{Dialer, Switchboard},
};

/// A cluster within the process. Dropped, it breaks all connections.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use frontier::{Request, testing::Cluster};
///
/// let cluster = Cluster::start(2);
/// let svc = cluster.service().name("caller").connect().await?;
///
/// let edge = cluster.edge_at(1).connect().await?;
/// edge.register("echo", |req: Request| async move { Ok(req.into_body()) }).await?;
/// assert_eq!(svc.call(edge.id(), "echo", "hello").await?.body(), "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Cluster {
    gateways: BTreeMap<usize, Gateway>,
    registry: Registry,
    switchboard: Arc<Switchboard>,
    numbers: Arc<Numbers>,
    /// How many gateways there have been.
    started: usize,
}

/// The registry of a cluster.
#[derive(Debug)]
pub(crate) struct Registry {
    shared: Arc<Shared>,
    pipes: mpsc::Sender<DuplexStream>,
    _task: AbortOnDropHandle<()>,
}

/// How a registry behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    #[default]
    Helpful,
    /// It never says where an edge is.
    Silent,
    /// It has no `Watch`, as the older one.
    Old,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    look_ups: AtomicUsize,
    snapshots: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    listed: BTreeMap<String, Frontier>,
    gateways: BTreeMap<String, mpsc::Sender<Order>>,
    /// Every change of the list, in order.
    log: Vec<(Kind, Frontier)>,
    /// What it says of edges whatever is true.
    said: BTreeMap<u64, Frontier>,
    manner: Manner,
}

/// The registry's interface.
struct Server40011(Arc<Shared>);

const ATLAS: &str = "atlas:40011";

// === impl Cluster ===

impl Cluster {
    /// Starts so many gateways on the current runtime.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cluster = frontier::testing::Cluster::start(3);
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(gateways: usize) -> Self {
        let registry = Registry::start();
        let switchboard = Arc::new(Switchboard::default());
        switchboard.connect(ATLAS, registry.pipes());
        let numbers = Arc::default();
        let mut cluster = Self { gateways: BTreeMap::new(), registry, switchboard, numbers, started: 0 };
        for _ in 0..gateways {
            cluster.add_gateway();
        }
        cluster
    }

    /// A service of this cluster.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), frontier::ConnectError> {
    /// let cluster = frontier::testing::Cluster::start(2);
    /// let svc = cluster.service().name("files").connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn service(&self) -> ServiceBuilder {
        Service::cluster(format!("http://{ATLAS}")).dialer(self.dialer())
    }

    /// An edge that knows the addresses of all gateways there are now, and begins with the first.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), frontier::ConnectError> {
    /// let cluster = frontier::testing::Cluster::start(2);
    /// let edge = cluster.edge().connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn edge(&self) -> EdgeBuilder {
        let addresses: Vec<String> = self.gateways.keys().map(|gateway| address(*gateway)).collect();
        Edge::builder(addresses).dialer(self.dialer())
    }

    /// An edge that knows this gateway alone.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), frontier::ConnectError> {
    /// let cluster = frontier::testing::Cluster::start(2);
    /// let edge = cluster.edge_at(1).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn edge_at(&self, gateway: usize) -> EdgeBuilder {
        Edge::builder(address(gateway)).dialer(self.dialer())
    }

    /// One of its gateways; `None` if it was removed, or never was.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), frontier::ConnectError> {
    /// let cluster = frontier::testing::Cluster::start(2);
    /// let edge = cluster.edge_at(1).connect().await?;
    /// assert_eq!(cluster.gateway(1).unwrap().edges().await, [edge.id()]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn gateway(&self, gateway: usize) -> Option<&Gateway> {
        self.gateways.get(&gateway)
    }

    /// Starts another gateway and returns its number.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut cluster = frontier::testing::Cluster::start(2);
    /// assert_eq!(cluster.add_gateway(), 2);
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn add_gateway(&mut self) -> usize {
        let number = self.started;
        self.started += 1;
        let gateway = Gateway::start_with(self.numbers.clone());
        self.switchboard.connect(address(number), gateway.pipes.clone());
        self.registry.put(&name(number), &address(number), &gateway);
        self.gateways.insert(number, gateway);
        number
    }

    /// Ends a gateway: its connections break without a word, and the registry lists it no more. False if there is none.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut cluster = frontier::testing::Cluster::start(2);
    /// assert!(cluster.remove_gateway(1));
    /// # }
    /// ```
    pub fn remove_gateway(&mut self, gateway: usize) -> bool {
        self.registry.remove(&name(gateway));
        self.gateways.remove(&gateway).is_some()
    }

    pub(crate) fn dialer(&self) -> Dialer {
        Dialer::Switchboard(self.switchboard.clone())
    }

    /// Breaks a gateway and leaves it on the list.
    #[cfg(test)]
    pub(crate) fn kill_gateway(&mut self, gateway: usize) {
        drop(self.gateways.remove(&gateway));
    }

    /// Whoever is reached at the address of a gateway from now on.
    #[cfg(test)]
    pub(crate) fn reroute(&self, gateway: usize, pipes: mpsc::Sender<DuplexStream>) {
        self.switchboard.connect(address(gateway), pipes);
    }

    /// The gateway itself is reached there again.
    #[cfg(test)]
    pub(crate) fn reroute_home(&self, gateway: usize) {
        if let Some(there) = self.gateways.get(&gateway) {
            self.switchboard.connect(address(gateway), there.pipes.clone());
        }
    }

    #[cfg(test)]
    pub(crate) const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Ends the registry's process, so to speak; what it knows stays.
    #[cfg(test)]
    pub(crate) fn stop_registry(&mut self) {
        let (nobody, _) = mpsc::channel(1);
        self.switchboard.connect(ATLAS, nobody);
        self.registry.stop();
    }

    #[cfg(test)]
    pub(crate) fn start_registry(&mut self) {
        self.registry.restart();
        self.switchboard.connect(ATLAS, self.registry.pipes());
    }
}

fn name(gateway: usize) -> String {
    format!("frontier-{gateway}")
}

fn address(gateway: usize) -> String {
    format!("gateway-{gateway}:30011")
}

// === impl Registry ===

impl Registry {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let (pipes, task) = serve(shared.clone());
        Self { shared, pipes, _task: task }
    }

    pub(crate) fn pipes(&self) -> mpsc::Sender<DuplexStream> {
        self.pipes.clone()
    }

    /// Lists a gateway.
    pub(crate) fn put(&self, name: &str, address: &str, gateway: &Gateway) {
        self.shared.state.lock().gateways.insert(name.to_owned(), gateway.orders.clone());
        self.list(name, address);
    }

    pub(crate) fn list(&self, name: &str, address: &str) {
        let gateway = frontier(name, address);
        {
            let mut state = self.shared.state.lock();
            state.listed.insert(name.to_owned(), gateway.clone());
            state.log.push((Kind::Put, gateway));
        }
        self.shared.changed.send_replace(());
    }

    pub(crate) fn remove(&self, name: &str) {
        {
            let mut state = self.shared.state.lock();
            if let Some(gateway) = state.listed.remove(name) {
                state.log.push((Kind::Remove, gateway));
            }
        }
        self.shared.changed.send_replace(());
    }

    #[cfg(test)]
    pub(crate) fn set_manner(&self, manner: Manner) {
        self.shared.state.lock().manner = manner;
    }

    /// Says of an edge from now on that it is at this gateway, whatever is true.
    #[cfg(test)]
    pub(crate) fn say(&self, edge: u64, gateway: usize) {
        let there = frontier(&name(gateway), &address(gateway));
        self.shared.state.lock().said.insert(edge, there);
    }

    /// Edges it was asked for.
    #[cfg(test)]
    pub(crate) fn look_ups(&self) -> usize {
        self.shared.look_ups.load(Ordering::Relaxed)
    }

    /// Whole lists it has told.
    #[cfg(test)]
    pub(crate) fn snapshots(&self) -> usize {
        self.shared.snapshots.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    fn stop(&mut self) {
        let nothing = tokio::runtime::Handle::current().spawn(async {});
        self._task = AbortOnDropHandle::new(nothing);
    }

    #[cfg(test)]
    fn restart(&mut self) {
        (self.pipes, self._task) = serve(self.shared.clone());
    }
}

fn frontier(name: &str, address: &str) -> Frontier {
    Frontier {
        frontier_id: name.to_owned(),
        advertised_sb_addr: address.to_owned(),
        advertised_eb_addr: address.to_owned(),
    }
}

/// Serves until the handle is dropped, connections included.
fn serve(shared: Arc<Shared>) -> (mpsc::Sender<DuplexStream>, AbortOnDropHandle<()>) {
    let (pipes, incoming) = mpsc::channel(WAITING);
    let (breaker, broken) = watch::channel(());
    // The connections of a server are tasks of their own: each ends with the pipe that is taken away from it here.
    let incoming = ReceiverStream::new(incoming).map(move |io: DuplexStream| {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut broken = broken.clone();
        let relay = async move {
            let (mut ours, mut io) = (ours, io);
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut ours, &mut io) => {}
                _ = broken.changed() => {}
            }
        };
        drop(tokio::runtime::Handle::current().spawn(relay));
        Ok::<_, io::Error>(theirs)
    });
    let service = ClusterServiceServer::new(Server40011(shared));
    let serve = async move {
        let _breaker = breaker;
        let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
    };
    let task = tokio::runtime::Handle::current().spawn(serve);
    (pipes, AbortOnDropHandle::new(task))
}

// === impl Shared ===

impl Shared {
    /// The next thing to tell a watcher, and where it is then; `None` if there is nothing.
    fn next(&self, at: &mut Option<usize>) -> Option<Vec<WatchResponse>> {
        let state = self.state.lock();
        let message = |kind: Kind, frontiers: Vec<Frontier>, at: usize| WatchResponse {
            kind: kind.into(),
            frontiers,
            edges: Vec::new(),
            resume: at.to_be_bytes().to_vec(),
        };
        let end = state.log.len();
        match at {
            None => {
                *at = Some(end);
                self.snapshots.fetch_add(1, Ordering::Relaxed);
                let mut first: Vec<Frontier> = state.listed.values().cloned().collect();
                let rest = first.split_off(first.len() / 2);
                Some(vec![
                    message(Kind::Reset, first, end),
                    message(Kind::Put, rest, end),
                    message(Kind::Current, Vec::new(), end),
                ])
            }
            Some(next) => {
                let (kind, gateway) = state.log.get(*next)?;
                *next += 1;
                Some(vec![message(*kind, vec![gateway.clone()], *next)])
            }
        }
    }

    async fn at(&self, edge: u64) -> Option<Frontier> {
        let gateways = {
            let state = self.state.lock();
            if let Some(said) = state.said.get(&edge) {
                return Some(said.clone());
            }
            state.gateways.clone()
        };
        let mut best = (0, None);
        for (name, orders) in gateways {
            let (done, epoch) = oneshot::channel();
            if orders.send(Order::Locate(edge, done)).await.is_ok() {
                best = best.max((epoch.await.unwrap_or(0), Some(name)));
            }
        }
        let (1.., Some(name)) = best else { return None };
        self.state.lock().listed.get(&name).cloned()
    }
}

// === impl Server40011 ===

#[tonic::async_trait]
impl ClusterService for Server40011 {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn get_frontier_by_edge(
        &self,
        request: Request<api::GetFrontierByEdgeIdRequest>,
    ) -> Result<Response<api::GetFrontierByEdgeIdResponse>, Status> {
        self.0.look_ups.fetch_add(1, Ordering::Relaxed);
        let manner = self.0.state.lock().manner;
        if manner == Manner::Silent {
            return std::future::pending().await;
        }
        match self.0.at(request.into_inner().edge_id).await {
            Some(there) => Ok(Response::new(api::GetFrontierByEdgeIdResponse { fontier: Some(there) })),
            None => Err(Status::not_found("no such edge")),
        }
    }

    async fn list_frontiers(
        &self,
        _: Request<api::ListFrontiersRequest>,
    ) -> Result<Response<api::ListFrontiersResponse>, Status> {
        let frontiers = self.0.state.lock().listed.values().cloned().collect();
        Ok(Response::new(api::ListFrontiersResponse { cursor: None, frontiers }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if self.0.state.lock().manner == Manner::Old {
            return Err(Status::unimplemented("unknown method Watch"));
        }
        let (answers, stream) = mpsc::channel(1);
        let shared = self.0.clone();
        let mut at = request.into_inner().resume.try_into().ok().map(usize::from_be_bytes);
        let tell = async move {
            let mut changed = shared.changed.subscribe();
            loop {
                changed.borrow_and_update();
                while let Some(messages) = shared.next(&mut at) {
                    for message in messages {
                        if answers.send(Ok(message)).await.is_err() {
                            return;
                        }
                    }
                }
                tokio::select! {
                    changed = changed.changed() => if changed.is_err() { return },
                    () = answers.closed() => return,
                }
            }
        };
        drop(tokio::runtime::Handle::current().spawn(tell));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_edges(
        &self,
        _: Request<api::ListEdgesRequest>,
    ) -> Result<Response<api::ListEdgesResponse>, Status> {
        Err(Status::unimplemented("not part of the double"))
    }

    async fn get_edge_by_id(
        &self,
        _: Request<api::GetEdgeByIdRequest>,
    ) -> Result<Response<api::GetEdgeByIdResponse>, Status> {
        Err(Status::unimplemented("not part of the double"))
    }

    async fn get_edges_count(
        &self,
        _: Request<api::GetEdgesCountRequest>,
    ) -> Result<Response<api::GetEdgesCountResponse>, Status> {
        Err(Status::unimplemented("not part of the double"))
    }

    async fn list_services(
        &self,
        _: Request<api::ListServicesRequest>,
    ) -> Result<Response<api::ListServicesResponse>, Status> {
        Err(Status::unimplemented("not part of the double"))
    }

    async fn get_service_by_id(
        &self,
        _: Request<api::GetServiceByIdRequest>,
    ) -> Result<Response<api::GetServiceByIdResponse>, Status> {
        Err(Status::unimplemented("not part of the double"))
    }

    async fn get_services_count(
        &self,
        _: Request<api::GetServicesCountRequest>,
    ) -> Result<Response<api::GetServicesCountResponse>, Status> {
        Err(Status::unimplemented("not part of the double"))
    }
}
