//! A gateway within the process, for tests of what is built on this library. Feature `testing`.
//!
//! Edges and services connect to it through pipes in memory, by the same protocol and code as to a real one. It routes calls, messages
//! and streams, keeps presence, admits edges by the services that want to be asked, and lets the newest session of an edge win. What it
//! has not: authentication, limits, deadlines of its own, and speed.

#[cfg(feature = "cluster")]
pub(crate) mod cluster;
mod hub;
mod peer;
#[doc(hidden)]
pub mod pipes;
#[doc(hidden)]
pub mod scene;

use std::{sync::Arc, time::Duration};

use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
};
use tokio_util::task::AbortOnDropHandle;

#[cfg(feature = "cluster")]
pub use self::cluster::Cluster;
use self::hub::{Hub, Numbers, Order};
use crate::{Edge, EdgeBuilder, EdgeId, Service, ServiceBuilder, transport::Dialer};

/// A gateway within the process. Dropped, it breaks all connections and takes none any more.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use frontier::{Request, testing::Gateway};
///
/// let gateway = Gateway::start();
/// let svc = gateway.service().name("greeter").connect().await?;
/// svc.register("greet", |req: Request| async move {
///     Ok(format!("hello {}", String::from_utf8_lossy(req.body())))
/// })
/// .await?;
///
/// let edge = gateway.edge().connect().await?;
/// assert_eq!(edge.call("greet", "you").await?.body(), "hello you");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Gateway {
    pipes: mpsc::Sender<DuplexStream>,
    orders: mpsc::Sender<Order>,
    _task: AbortOnDropHandle<()>,
}

/// Connections and orders that wait for the gateway's task.
const WAITING: usize = 64;

// === impl Gateway ===

impl Gateway {
    /// Starts one on the current runtime.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let gateway = frontier::testing::Gateway::start();
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Arc::default())
    }

    /// One whose IDs and epochs are not those of others with the same numbers.
    fn start_with(numbers: Arc<Numbers>) -> Self {
        let (pipes, incoming) = mpsc::channel(WAITING);
        let (orders, commands) = mpsc::channel(WAITING);
        let task = tokio::runtime::Handle::current().spawn(Hub::new(incoming, commands, numbers).run());
        Self { pipes, orders, _task: AbortOnDropHandle::new(task) }
    }

    fn dialer(&self) -> Dialer {
        Dialer::Memory(self.pipes.clone())
    }

    /// An edge of this gateway.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), frontier::ConnectError> {
    /// let gateway = frontier::testing::Gateway::start();
    /// let edge = gateway.edge().meta("sn-42").connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn edge(&self) -> EdgeBuilder {
        Edge::builder("memory:1").dialer(self.dialer())
    }

    /// A service of this gateway.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), frontier::ConnectError> {
    /// let gateway = frontier::testing::Gateway::start();
    /// let svc = gateway.service().name("files").connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn service(&self) -> ServiceBuilder {
        Service::builder("memory:1").dialer(self.dialer())
    }

    /// The edges online.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), frontier::ConnectError> {
    /// let gateway = frontier::testing::Gateway::start();
    /// let edge = gateway.edge().connect().await?;
    /// assert_eq!(gateway.edges().await, [edge.id()]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn edges(&self) -> Vec<EdgeId> {
        let ids = self.order(Order::Edges).await.unwrap_or_default();
        ids.into_iter().map(Into::into).collect()
    }

    /// Breaks the connection of an edge, without a word; false if it is not online.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), frontier::ConnectError> {
    /// let gateway = frontier::testing::Gateway::start();
    /// let edge = gateway.edge().connect().await?;
    /// assert!(gateway.cut(edge.id()).await);
    /// edge.watch().until(frontier::State::is_connected).await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cut(&self, edge: impl Into<EdgeId>) -> bool {
        let edge = edge.into().get();
        self.order(|done| Order::Cut(edge, done)).await.unwrap_or_default()
    }

    /// Breaks all connections, without a word.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let gateway = frontier::testing::Gateway::start();
    /// gateway.cut_all().await;
    /// # }
    /// ```
    pub async fn cut_all(&self) {
        self.order(Order::CutAll).await;
    }

    /// Asks all clients to connect anew after this time, as a gateway does that is about to stop.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let gateway = frontier::testing::Gateway::start();
    /// gateway.send_away(std::time::Duration::ZERO).await;
    /// # }
    /// ```
    pub async fn send_away(&self, after: Duration) {
        self.order(|done| Order::SendAway(after, done)).await;
    }

    /// A connection to it for somebody who brings their own client.
    #[cfg(test)]
    pub(crate) async fn pipe(&self) -> crate::transport::Io {
        let here = crate::address::Address { tls: false, host: "memory".into(), port: 1 };
        self.dialer().dial(&here).await.expect("the gateway runs")
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.orders.send(order(done)).await.ok()?;
        answer.await.ok()
    }
}
