//! Edges: clients of services, and servers of what they offer.

use std::fmt;

use bytes::Bytes;
use frontier_wire::native::hello::Role;

use crate::{
    address::IntoAddresses,
    builder::{common_methods, common_setters},
    call::{Call, OpenStream, Publish},
    client::Client,
    error::ConnectError,
    ids::EdgeId,
    options::Options,
    secret::Secret,
};

/// An edge: one of many clients of a gateway. A cheap handle; the connection closes when the last one is dropped, streams included.
///
/// ```
/// use frontier::{Edge, Request};
///
/// # frontier::testing::scene::play(async |()| {
/// let edge = Edge::builder("tcp://127.0.0.1:30012").meta("sn-42").connect().await?;
/// edge.register("echo", |req: Request| async move { Ok(req.into_body()) }).await?;
///
/// let reply = edge.call("sum", "1 2 3").await?;
/// edge.publish("telemetry", "21.5").await?;
/// let stream = edge.open_stream("files").await?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # });
/// ```
#[derive(Clone)]
pub struct Edge {
    client: Client,
}

/// How an edge connects and what it says of itself. See [`Edge::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until `connect` is awaited"]
pub struct EdgeBuilder {
    options: Options,
}

// === impl Edge ===

impl Edge {
    /// An edge of the gateway at this address, or at one of several.
    ///
    /// ```
    /// let builder = frontier::Edge::builder("tcp://127.0.0.1:30012");
    /// # let _ = builder;
    /// ```
    pub fn builder(addresses: impl IntoAddresses) -> EdgeBuilder {
        EdgeBuilder { options: Options::new(Role::Edge, addresses.into_addresses()) }
    }

    /// The ID the gateway has given; of the last session while there is none, 0 before the first.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// println!("I am edge {}", edge.id());
    /// # });
    /// ```
    #[must_use]
    pub fn id(&self) -> EdgeId {
        self.client.shared.last_id().into()
    }

    /// The resume ticket: shown by [`EdgeBuilder::resume`] after a restart, it gives the edge its ID again. Empty if the gateway gave
    /// none. It is a secret.
    ///
    /// ```no_run
    /// # // Not run: the file is one of a device.
    /// # async fn run(edge: frontier::Edge) -> std::io::Result<()> {
    /// std::fs::write("/var/lib/sensor/ticket", edge.ticket())?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ticket(&self) -> Bytes {
        self.client.shared.ticket.lock().clone()
    }

    /// Calls a method of a service.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// let reply = edge.call("sum", "1 2 3").await?;
    /// println!("{:?}", reply.body());
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub fn call(&self, method: impl Into<String>, body: impl Into<Bytes>) -> Call {
        Call::new(self.client.clone(), None, method.into(), body.into())
    }

    /// Sends a message on a topic; resolves when a service has dealt with it, or with its error.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// edge.publish("telemetry", "21.5").await
    /// # });
    /// ```
    pub fn publish(&self, topic: impl Into<String>, body: impl Into<Bytes>) -> Publish {
        Publish::new(self.client.clone(), None, topic.into(), body.into())
    }

    /// Opens a stream to a service, by its name; resolves when one of its instances has accepted.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// let stream = edge.open_stream("files").await?;
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub fn open_stream(&self, service: impl Into<String>) -> OpenStream {
        OpenStream::new(self.client.clone(), None, service.into())
    }

    common_methods!("Edge");

    /// What of `max_inbound_bytes` is not in use.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn budget_left(&self) -> usize {
        self.client.shared.budget.left()
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("id", &self.id()).field("state", &self.state()).finish()
    }
}

// === impl EdgeBuilder ===

impl EdgeBuilder {
    /// What the edge says of itself to services that decide about it (default: nothing). Opaque, at most 16 KiB.
    ///
    /// ```
    /// let builder = frontier::Edge::builder("127.0.0.1:30012").meta("sn-42");
    /// # let _ = builder;
    /// ```
    pub fn meta(mut self, meta: impl Into<Bytes>) -> Self {
        self.options.meta = meta.into();
        self
    }

    /// The ID the edge would like to have (default: none). Only a service that gives out IDs, a token or a certificate can grant it.
    ///
    /// ```
    /// let builder = frontier::Edge::builder("127.0.0.1:30012").wished_id(42);
    /// # let _ = builder;
    /// ```
    pub fn wished_id(mut self, id: impl Into<EdgeId>) -> Self {
        self.options.wished_id = id.into().get();
        self
    }

    /// Shows the [ticket](Edge::ticket) of an earlier run to get the same ID again.
    ///
    /// ```
    /// # let saved = Vec::new();
    /// let builder = frontier::Edge::builder("127.0.0.1:30012").resume(saved);
    /// # let _ = builder;
    /// ```
    pub fn resume(mut self, ticket: impl Into<Bytes>) -> Self {
        self.options.ticket = Secret::from(ticket);
        self
    }

    common_setters!("Edge::builder(\"127.0.0.1:30012\")");

    /// Connects. Every address is tried once; after that success, losses are repaired in the background.
    ///
    /// # Errors
    /// When settings are wrong, or with the error of the last address when none could be connected to.
    ///
    /// # Cancel safety
    /// Safe: a connection that is not returned is closed.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |()| {
    /// let edge = frontier::Edge::builder(["tcp://a:30012", "tcp://b:30012"]).connect().await?;
    /// # Ok::<_, frontier::ConnectError>(())
    /// # });
    /// ```
    pub async fn connect(self) -> Result<Edge, ConnectError> {
        Ok(Edge { client: Client::start(self.options, true).await? })
    }

    /// Returns at once and connects in the background, for as long as the [`reconnect`](Self::reconnect) policy allows. Operations wait for
    /// the connection up to their deadline.
    ///
    /// # Errors
    /// When settings are wrong.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |()| {
    /// let edge = frontier::Edge::builder("tcp://gateway:30012").connect_in_background().await?;
    /// edge.watch().until(frontier::State::is_connected).await;
    /// # Ok::<_, frontier::ConnectError>(())
    /// # });
    /// ```
    pub async fn connect_in_background(self) -> Result<Edge, ConnectError> {
        Ok(Edge { client: Client::start(self.options, false).await? })
    }
}
