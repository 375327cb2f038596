//! Services: what edges talk to, and what talks to edges.

use std::fmt;
#[cfg(feature = "cluster")]
use std::time::Duration;

use bytes::Bytes;
use frontier_wire::native::{
    hello::Role,
    presence::{self, EdgeInfoBuilder},
};

#[cfg(feature = "cluster")]
use crate::reconnect::Reconnect;
use crate::{
    address::IntoAddresses,
    builder::{common_methods, common_setters},
    call::{Call, OpenStream, Publish},
    client::Client,
    error::{ConnectError, Error, Result},
    gateway::GatewayInfo,
    handler::Handler,
    ids::{EdgeId, ServiceId},
    options::{Options, POOL_MAX, Pool},
    presence::EdgeInfo,
    request::Request,
};

/// A service: an instance of what edges talk to. A cheap handle; its connections close when the last one is dropped, streams included.
///
/// ```
/// use frontier::{Request, Service};
///
/// # frontier::testing::scene::play(async |()| {
/// let svc = Service::builder("tcp://127.0.0.1:30011").name("files").topics(["telemetry"]).connect().await?;
/// svc.register("sum", |req: Request| async move { Ok(format!("{} bytes", req.body().len())) }).await?;
/// svc.on_edge_online(|edge| async move {
///     println!("edge {} is here", edge.id());
///     Ok(())
/// })
/// .await?;
///
/// let reply = svc.call(42, "echo", "hello").await?;
/// svc.publish(42, "a message").await?;
/// let stream = svc.open_stream(42).await?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # });
/// ```
#[derive(Clone)]
pub struct Service {
    client: Client,
}

/// How a service connects and what it says of itself. See [`Service::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until `connect` is awaited"]
pub struct ServiceBuilder {
    options: Options,
}

/// What is different with many gateways: they are said to be alive, so one that is not connected is tried again soon, and one that is silent
/// is noticed soon.
#[cfg(feature = "cluster")]
struct InCluster {
    heartbeat: Duration,
    connect_timeout: Duration,
    reconnect: Reconnect,
}

#[cfg(feature = "cluster")]
const IN_CLUSTER: InCluster = InCluster {
    heartbeat: Duration::from_secs(5),
    connect_timeout: Duration::from_secs(5),
    reconnect: Reconnect::DEFAULT.cap(Duration::from_secs(3)),
};

// === impl Service ===

impl Service {
    /// A service behind the gateway at this address, or at one of several.
    ///
    /// ```
    /// let builder = frontier::Service::builder("tcp://127.0.0.1:30011").name("files");
    /// # let _ = builder;
    /// ```
    pub fn builder(addresses: impl IntoAddresses) -> ServiceBuilder {
        ServiceBuilder { options: Options::new(Role::Service, addresses.into_addresses()) }
    }

    /// A service of a cluster: connected to all of its gateways, those that come later included. `addresses` are those of the cluster's
    /// registry, atlas (`http://host:port`; `https://` trusts, and shows, what [`tls`](ServiceBuilder::tls) says).
    ///
    /// Everything else is as with one gateway. What the service offers it offers on every gateway, under the same ID if they grant it; what
    /// comes from them is received in turns, so that a loud gateway keeps none waiting. An edge is found wherever it is. An operation that
    /// came too late, because the edge had just moved, is repeated at the new place, once, if it was surely not passed on. Limits on what
    /// waits are per gateway. `max_concurrent_handlers` and `max_inbound_bytes` are for all together; of the latter one gateway may take
    /// half.
    ///
    /// Atlas is needed to hear of gateways. When it is gone, those that are connected go on, and are asked themselves where an edge is. A
    /// gateway that fails concerns no other, and one that the cluster does not list any more is left when its connection ends.
    ///
    /// Because a gateway that is listed is alive, some defaults differ: a [`heartbeat`](ServiceBuilder::heartbeat) of 5 s, a
    /// [`connect_timeout`](ServiceBuilder::connect_timeout) of 5 s, and a [`reconnect`](ServiceBuilder::reconnect) with a cap of 3 s. Its policy
    /// holds for each gateway; one that has used it up is connected to again when the cluster lists it anew.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |()| {
    /// use frontier::Service;
    ///
    /// let svc = Service::cluster("http://127.0.0.1:40011").name("files").connect().await?;
    /// let reply = svc.call(42, "echo", "hello").await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # });
    /// ```
    #[cfg(feature = "cluster")]
    pub fn cluster(addresses: impl IntoAddresses) -> ServiceBuilder {
        let mut options = Options::new(Role::Service, Vec::new());
        options.atlas = Some(addresses.into_addresses());
        (options.reconnect, options.connect_timeout) = (IN_CLUSTER.reconnect, IN_CLUSTER.connect_timeout);
        options.heartbeat = Some(IN_CLUSTER.heartbeat);
        ServiceBuilder { options }
    }

    /// The gateways this service is connected to, or wants to be: one, or those of its [cluster](Self::cluster).
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// for gateway in svc.gateways() {
    ///     println!("{} at {}: {}", gateway.name(), gateway.addr(), gateway.state());
    /// }
    /// # });
    /// ```
    #[must_use]
    pub fn gateways(&self) -> Vec<GatewayInfo> {
        self.client.shared.sites().iter().map(|site| GatewayInfo::of(site)).collect()
    }

    /// The ID the gateway has given this instance; of the last session while there is none, 0 before the first. In a cluster it is that of
    /// the first gateway. The others are asked for the same; should one give another, its edges see that.
    ///
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// println!("I am service {}", svc.id());
    /// # });
    /// ```
    #[must_use]
    pub fn id(&self) -> ServiceId {
        self.client.shared.last_id().into()
    }

    /// Calls a method of an edge.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// let reply = svc.call(42, "echo", "hello").await?;
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub fn call(&self, edge: impl Into<EdgeId>, method: impl Into<String>, body: impl Into<Bytes>) -> Call {
        Call::new(self.client.clone(), Some(edge.into()), method.into(), body.into())
    }

    /// Sends a message to an edge; resolves when the edge has dealt with it, or with its error.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// svc.publish(42, "reboot at 3").await
    /// # });
    /// ```
    pub fn publish(&self, edge: impl Into<EdgeId>, body: impl Into<Bytes>) -> Publish {
        Publish::new(self.client.clone(), Some(edge.into()), String::new(), body.into())
    }

    /// Opens a stream to an edge; resolves when the edge has accepted.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// let stream = svc.open_stream(42).await?;
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub fn open_stream(&self, edge: impl Into<EdgeId>) -> OpenStream {
        OpenStream::new(self.client.clone(), Some(edge.into()), String::new())
    }

    /// Decides about the IDs of edges: called before an edge is online, with what it says of itself and the ID it wishes
    /// ([`EdgeInfo::id`], 0 = none). `None` leaves the choice to the gateway, an error refuses the edge.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// use frontier::EdgeId;
    ///
    /// svc.on_edge_id(|edge| async move {
    ///     let serial = std::str::from_utf8(edge.meta()).ok().and_then(|meta| meta.strip_prefix("sn-"));
    ///     Ok(serial.and_then(|number| number.parse::<u64>().ok()).map(EdgeId::from))
    /// })
    /// .await
    /// # });
    /// ```
    pub async fn on_edge_id<F, Fut>(&self, handler: F) -> Result<()>
    where
        F: Fn(EdgeInfo) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<EdgeId>>> + Send + 'static,
    {
        let answer = move |request: Request| {
            let outcome = edge_info(&request).map(&handler);
            async move {
                let id = outcome?.await?.map_or(0, EdgeId::get);
                let info = EdgeInfoBuilder::new(id, 0);
                let mut body = Vec::with_capacity(info.encoded_len());
                info.encode(&mut body);
                Ok(body)
            }
        };
        self.client.register("get_edge_id", Handler::new(answer)).await
    }

    /// Called when an edge has come online, before it can do anything. An error refuses it with that text.
    ///
    /// Events about one edge run one after the other. A session that was told to be over already is left out.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// svc.on_edge_online(|edge| async move {
    ///     if edge.meta().is_empty() {
    ///         return Err("who are you?".into());
    ///     }
    ///     Ok(())
    /// })
    /// .await
    /// # });
    /// ```
    pub async fn on_edge_online<F, Fut>(&self, handler: F) -> Result<()>
    where
        F: Fn(EdgeInfo) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let events = self.client.shared.events.clone();
        let answer = move |request: Request| {
            let outcome = edge_info(&request).map(|edge| {
                let (id, epoch) = (edge.id().get(), edge.epoch());
                events.saw_online(id, epoch);
                (!events.is_over(id, epoch)).then(|| handler(edge))
            });
            async move {
                match outcome? {
                    Some(handling) => handling.await,
                    None => Err(Error::session_closed("the session is over")),
                }
            }
        };
        self.client.register("edge_online", Handler::new(answer)).await
    }

    /// Called when an edge has gone offline; not when it has merely moved to another connection or gateway, and not for a session older than
    /// one this service has already seen online.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// svc.on_edge_offline(|edge| async move { println!("edge {} is gone", edge.id()) }).await
    /// # });
    /// ```
    pub async fn on_edge_offline<F, Fut>(&self, handler: F) -> Result<()>
    where
        F: Fn(EdgeInfo) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let events = self.client.shared.events.clone();
        let answer = move |request: Request| {
            let outcome = edge_info(&request).map(|edge| {
                let stale = events.is_stale(edge.id().get(), edge.epoch());
                events.saw_offline(edge.id().get(), edge.epoch());
                (!stale).then(|| handler(edge))
            });
            async move {
                if let Some(handling) = outcome? {
                    handling.await;
                }
                Ok(())
            }
        };
        self.client.register("edge_offline", Handler::new(answer)).await
    }

    /// Who is online now. After registering for events: an edge may be in both, and its epoch tells which is newer. In a cluster: at any
    /// gateway that is connected.
    ///
    /// The gateway makes one list at a time for a service: calls that come while one is made wait and share the next.
    ///
    /// # Errors
    /// When the gateway does not answer within the `call_timeout`.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// for edge in svc.presence().await? {
    ///     println!("{} since epoch {}", edge.id(), edge.epoch());
    /// }
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub async fn presence(&self) -> Result<Vec<EdgeInfo>> {
        self.client.presence().await
    }

    /// Whether an edge is connected to this gateway, or to one of the cluster's that are connected, and the epoch of its session if so.
    ///
    /// # Errors
    /// When the gateway does not answer within the `call_timeout`.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// match svc.locate(42).await? {
    ///     Some(epoch) => println!("here, epoch {epoch}"),
    ///     None => println!("not here"),
    /// }
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub async fn locate(&self, edge: impl Into<EdgeId>) -> Result<Option<u64>> {
        let epoch = self.client.locate(edge.into().get()).await?;
        Ok(Some(epoch).filter(|epoch| *epoch != 0))
    }

    /// Takes messages of a topic as well, from now on and across reconnects.
    ///
    /// # Errors
    /// When the gateway refuses, or cannot be asked within the `call_timeout`; the topic is not taken then.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// svc.subscribe("telemetry").await
    /// # });
    /// ```
    pub async fn subscribe(&self, topic: impl AsRef<str>) -> Result<()> {
        self.client.subscribe(topic.as_ref()).await
    }

    /// Takes messages of a topic no longer. Those that came are still received.
    ///
    /// # Errors
    /// When the gateway cannot be told within the `call_timeout`; it is told at the next reconnect.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// svc.unsubscribe("telemetry").await
    /// # });
    /// ```
    pub async fn unsubscribe(&self, topic: impl AsRef<str>) -> Result<()> {
        self.client.unsubscribe(topic.as_ref()).await
    }

    common_methods!("Service");

    /// What of `max_inbound_bytes` is not in use.
    #[cfg(test)]
    pub(crate) fn budget_left(&self) -> usize {
        self.client.shared.budget.left()
    }

    /// Edges whose place in the cluster is remembered.
    #[cfg(all(test, feature = "cluster"))]
    pub(crate) fn places_remembered(&self) -> usize {
        self.client.shared.cluster.as_ref().map_or(0, |cluster| cluster.places_remembered())
    }

    /// Whether what its tasks and handles share is still there.
    #[cfg(all(test, feature = "cluster"))]
    pub(crate) fn remains(&self) -> impl Fn() -> bool + use<> {
        let shared = std::sync::Arc::downgrade(&self.client.shared);
        move || shared.strong_count() > 0
    }

    /// Messages that wait to be received.
    #[cfg(test)]
    pub(crate) fn waiting_messages(&self) -> usize {
        self.client.shared.messages.len()
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Service");
        debug.field("id", &self.id()).field("name", &self.client.shared.options.name);
        debug.field("state", &self.state()).finish()
    }
}

/// The edge an event is about.
fn edge_info(request: &Request) -> Result<EdgeInfo> {
    match presence::EdgeInfo::parse(request.body()) {
        Ok(info) => Ok(EdgeInfo::from_wire(&info)),
        Err(error) => Err(Error::invalid(format!("malformed edge info: {error}"))),
    }
}

// === impl ServiceBuilder ===

impl ServiceBuilder {
    /// The service's name, by which edges open streams and restrict calls (default: none). At most 255 bytes.
    ///
    /// ```
    /// let builder = frontier::Service::builder("127.0.0.1:30011").name("files");
    /// # let _ = builder;
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = name.into();
        self
    }

    /// The service's version, for people and for routes by version (default: none). At most 255 bytes.
    ///
    /// ```
    /// let builder = frontier::Service::builder("127.0.0.1:30011").name("files").version("1.4.0");
    /// # let _ = builder;
    /// ```
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.options.version = version.into();
        self
    }

    /// Topics whose messages the service takes (default: none). `*` takes what nobody else takes. More by [`Service::subscribe`].
    ///
    /// ```
    /// let builder = frontier::Service::builder("127.0.0.1:30011").topics(["telemetry", "alarms"]);
    /// # let _ = builder;
    /// ```
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.options.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// The ID this instance would like to have (default: none, and the gateway gives one). A gateway that has identities configured grants
    /// it to a token or certificate that lists it and to nobody else; one that has none grants it to everybody.
    ///
    /// ```
    /// let builder = frontier::Service::builder("127.0.0.1:30011").service_id(7);
    /// # let _ = builder;
    /// ```
    pub fn service_id(mut self, id: impl Into<ServiceId>) -> Self {
        self.options.wished_id = id.into().get();
        self
    }

    /// Gateways that are connected to before the cluster's list is there, and if it never comes (default: none). Without meaning outside of
    /// [clusters](Service::cluster).
    ///
    /// ```
    /// let builder = frontier::Service::cluster("http://atlas:40011").gateways(["tcp://a:30011", "tcp://b:30011"]);
    /// # let _ = builder;
    /// ```
    #[cfg(feature = "cluster")]
    pub fn gateways(mut self, addresses: impl IntoAddresses) -> Self {
        self.options.gateways = addresses.into_addresses();
        self
    }

    /// How many connections to hold as one instance, 1 to 64 (default: as many as the gateway has shards, so that each of its threads
    /// reaches this service without another one's help).
    ///
    /// ```
    /// let builder = frontier::Service::builder("127.0.0.1:30011").pool(1);
    /// # let _ = builder;
    /// ```
    pub fn pool(mut self, connections: u32) -> Self {
        self.options.pool = Pool::Fixed(connections.clamp(1, POOL_MAX));
        self
    }

    common_setters!("Service::builder(\"127.0.0.1:30011\")");

    /// Connects. Every address is tried once; after that success, losses are repaired in the background. In a cluster one gateway is waited
    /// for, and the others follow.
    ///
    /// # Errors
    /// When settings are wrong, or with the error of the last address when none could be connected to. In a cluster: when neither atlas nor
    /// a gateway could be reached, or none of the gateways there are ([`ConnectError::Atlas`], [`ConnectError::NoGateway`]).
    ///
    /// # Cancel safety
    /// Safe: a connection that is not returned is closed.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |()| {
    /// let svc = frontier::Service::builder("tcp://127.0.0.1:30011").name("files").connect().await?;
    /// # Ok::<_, frontier::ConnectError>(())
    /// # });
    /// ```
    pub async fn connect(self) -> Result<Service, ConnectError> {
        Ok(Service { client: Client::start(self.options, true).await? })
    }

    /// Returns at once and connects in the background, for as long as the [`reconnect`](Self::reconnect) policy allows. Operations wait for
    /// the connection up to their deadline.
    ///
    /// # Errors
    /// When settings are wrong.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |()| {
    /// let svc = frontier::Service::builder("tcp://gateway:30011").name("files").connect_in_background().await?;
    /// svc.watch().until(frontier::State::is_connected).await;
    /// # Ok::<_, frontier::ConnectError>(())
    /// # });
    /// ```
    pub async fn connect_in_background(self) -> Result<Service, ConnectError> {
        Ok(Service { client: Client::start(self.options, false).await? })
    }
}
