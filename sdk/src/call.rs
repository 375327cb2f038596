//! Calls, messages and streams in the making: what can be said about each before it is awaited.

use std::{
    fmt,
    future::IntoFuture,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use frontier_wire::native::head::CallBuilder;
use tokio::time::timeout_at;

use crate::{
    client::Client,
    dialogue::HEAD_MAX,
    error::{Error, Result},
    headers::Headers,
    ids::EdgeId,
    mailbox::Note,
    op::{Op, Open, Outgoing, SendKind, deadline},
    promise::promise,
    reply::Reply,
    stream::{Stream, shared::Shared as StreamShared},
};

type Future<T> = Pin<Box<dyn std::future::Future<Output = Result<T>> + Send>>;

/// A call in the making: `await` it. Dropped before its answer came, it is cancelled.
///
/// ```
/// # frontier::testing::scene::play(async |edge: frontier::Edge| {
/// use std::time::Duration;
///
/// let reply = edge.call("sum", "1 2 3").timeout(Duration::from_secs(2)).header("unit", "km").await?;
/// println!("{:?}", reply.body());
/// # Ok::<_, frontier::Error>(())
/// # });
/// ```
#[derive(Debug)]
#[must_use = "a call is made when it is awaited"]
pub struct Call(Draft);

/// A message in the making: `await` it. Resolves when its receiver has dealt with it. Dropped before, it is cancelled.
///
/// Messages of one client with the same topic (and from services: to the same edge) arrive in the order in which they were first
/// polled, as long as receiver and connection stay the same. Do not wait for one before sending the next if that is all you want.
///
/// ```
/// # frontier::testing::scene::play(async |edge: frontier::Edge| {
/// edge.publish("telemetry", "21.5").header("unit", "°C").await?;
/// # Ok::<_, frontier::Error>(())
/// # });
/// ```
#[derive(Debug)]
#[must_use = "a message is sent when it is awaited"]
pub struct Publish(Draft);

/// A stream in the making: `await` it. Resolves when the other side has accepted.
///
/// ```
/// # frontier::testing::scene::play(async |edge: frontier::Edge| {
/// let stream = edge.open_stream("files").meta("/etc/hostname").await?;
/// # Ok::<_, frontier::Error>(())
/// # });
/// ```
#[derive(Debug)]
#[must_use = "a stream is opened when it is awaited"]
pub struct OpenStream(Draft);

/// What all three have.
struct Draft {
    via: Via,
    name: String,
    edge: u64,
    service: String,
    headers: Headers,
    body: Bytes,
    meta: Bytes,
    timeout: Duration,
}

/// Which way it goes.
enum Via {
    Session(Client),
    Stream(Client, Arc<StreamShared>),
}

/// What can be said about all three. `$until` is what is waited for, `$new` makes one in examples.
macro_rules! common_setters {
    ($until:literal, $new:literal) => {
        #[doc = concat!("How long to wait until ", $until, ", everything included (default: the client's `call_timeout`, 30 s).")]
        /// Travels along, so that nobody works on it longer than somebody waits.
        ///
        /// ```
        /// # use std::time::Duration;
        /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
        #[doc = concat!($new, ".timeout(Duration::from_millis(500)).await?;")]
        /// # Ok::<_, frontier::Error>(())
        /// # });
        /// ```
        pub const fn timeout(mut self, timeout: Duration) -> Self {
            self.0.timeout = timeout;
            self
        }

        /// Adds a header.
        ///
        /// ```
        /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
        #[doc = concat!($new, ".header(\"content-type\", \"text/plain\").await?;")]
        /// # Ok::<_, frontier::Error>(())
        /// # });
        /// ```
        pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.0.headers.insert(key, value);
            self
        }
    };
}

// === impl Call ===

impl Call {
    pub(crate) fn new(client: Client, edge: Option<EdgeId>, method: String, body: Bytes) -> Self {
        Self(Draft::new(Via::Session(client), edge, method, body))
    }

    pub(crate) fn on_stream(client: Client, stream: Arc<StreamShared>, method: String, body: Bytes) -> Self {
        Self(Draft::new(Via::Stream(client, stream), None, method, body))
    }

    common_setters!("the answer is there", "edge.call(\"sum\", \"1 2\")");

    /// From an edge: only to instances of this service (default: any that offers the method). Without meaning on a stream and from services.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// edge.call("sum", "1 2").service("calculator").await?;
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.0.service = name.into();
        self
    }
}

impl IntoFuture for Call {
    type Output = Result<Reply>;
    type IntoFuture = Future<Reply>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.send(SendKind::Request))
    }
}

// === impl Publish ===

impl Publish {
    pub(crate) fn new(client: Client, edge: Option<EdgeId>, topic: String, body: Bytes) -> Self {
        Self(Draft::new(Via::Session(client), edge, topic, body))
    }

    pub(crate) fn on_stream(client: Client, stream: Arc<StreamShared>, topic: String, body: Bytes) -> Self {
        Self(Draft::new(Via::Stream(client, stream), None, topic, body))
    }

    common_setters!("its receiver has dealt with it", "edge.publish(\"telemetry\", \"21.5\")");

    /// From a service to an edge: the topic (default: none). Messages to one edge with the same topic keep their order.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// svc.publish(42, "reboot at 3").topic("notices").await
    /// # });
    /// ```
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.0.name = topic.into();
        self
    }

    /// From an edge: only to instances of this service (default: any that takes the topic). Without meaning on a stream and from services.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// edge.publish("telemetry", "21.5").service("collector").await
    /// # });
    /// ```
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.0.service = name.into();
        self
    }
}

impl IntoFuture for Publish {
    type Output = Result<()>;
    type IntoFuture = Future<()>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.0.send(SendKind::Publish).await.map(drop) })
    }
}

// === impl OpenStream ===

impl OpenStream {
    pub(crate) fn new(client: Client, edge: Option<EdgeId>, name: String) -> Self {
        Self(Draft::new(Via::Session(client), edge, name, Bytes::new()))
    }

    common_setters!("the other side has accepted", "edge.open_stream(\"files\")");

    /// What to tell the acceptor (default: nothing). With the headers at most 16 KiB.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// let stream = edge.open_stream("files").meta("/etc/hostname").await?;
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub fn meta(mut self, meta: impl Into<Bytes>) -> Self {
        self.0.meta = meta.into();
        self
    }

    /// From a service: a name for the acceptor (default: none).
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// let stream = svc.open_stream(42).name("shell").await?;
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }
}

impl IntoFuture for OpenStream {
    type Output = Result<Stream>;
    type IntoFuture = Future<Stream>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.open())
    }
}

// === impl Draft ===

impl Draft {
    fn new(via: Via, edge: Option<EdgeId>, name: String, body: Bytes) -> Self {
        let timeout = via.client().shared.options.call_timeout;
        Self {
            via,
            name,
            edge: edge.map_or(0, EdgeId::get),
            service: String::new(),
            headers: Headers::new(),
            body,
            meta: Bytes::new(),
            timeout,
        }
    }

    /// The head without what is known only when it goes.
    fn head(&self) -> Result<Vec<u8>> {
        let head = CallBuilder::new(&self.name)
            .edge(self.edge)
            .service(&self.service)
            .meta(&self.meta)
            .headers(self.headers.iter());
        let len = head.encoded_len();
        if len > HEAD_MAX {
            return Err(Error::invalid(format!(
                "name, headers and meta of {len} bytes, at most {HEAD_MAX} fit"
            )));
        }
        // Room for what is appended later.
        let mut out = Vec::with_capacity(len + 24);
        head.encode(&mut out);
        Ok(out)
    }

    /// What decides which connection of a pool is taken, and which messages keep their order.
    fn order(&self) -> u64 {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        hasher.hash_one((self.edge, &self.name))
    }

    async fn send(self, kind: SendKind) -> Result<Reply> {
        let (head, order) = (self.head()?, self.order());
        let Self { via, edge, body, timeout, .. } = self;
        let deadline = deadline(timeout);
        // The handle is held until the answer is there: a client is not closed under somebody who waits.
        match &via {
            Via::Session(client) => {
                let op = |promise, (head, body)| {
                    Op::Send(Box::new(Outgoing { kind, head, body, deadline, order, promise }))
                };
                client.carry(edge, (head, body), op, deadline).await
            }
            Via::Stream(_, stream) => {
                let (promise, answer) = promise();
                let send = Box::new(Outgoing { kind, head, body, deadline, order, promise });
                let slot = timeout_at(deadline, stream.slots.acquire()).await;
                let _slot = slot.map_err(|_| Error::deadline())?.ok();
                if !stream.mailbox.push(Note::StreamOp(stream.id, send)) {
                    return Err(Error::session_closed("the stream is over"));
                }
                timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Error::deadline()))
            }
        }
    }

    async fn open(self) -> Result<Stream> {
        let head = self.head()?;
        let deadline = deadline(self.timeout);
        let (Via::Session(client) | Via::Stream(client, _)) = self.via;
        let op = |promise, head| Op::Open(Open { head, deadline, promise });
        let handle = client.carry(self.edge, head, op, deadline).await?;
        Ok(Stream::new(handle, client))
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("name", &self.name)
            .field("edge", &self.edge)
            .field("body_len", &self.body.len())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

// === impl Via ===

impl Via {
    const fn client(&self) -> &Client {
        match self {
            Self::Session(client) | Self::Stream(client, _) => client,
        }
    }
}
