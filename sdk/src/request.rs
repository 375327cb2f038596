//! A call that came in, and who it came from.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use frontier_wire::native::head::Sender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    headers::Headers,
    ids::{EdgeId, ServiceId},
};

/// Who sent something. The gateway vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// An edge.
    Edge(EdgeId),
    /// An instance of a service.
    Service(ServiceId),
    /// The gateway itself.
    Gateway,
}

/// A call that came in: what a handler gets.
///
/// Nothing stops a handler whose caller is gone; one that works for long looks at [`is_cancelled`](Self::is_cancelled) or waits for
/// [`cancelled`](Self::cancelled) beside its work.
///
/// ```
/// # frontier::testing::scene::play(async |edge: frontier::Edge| {
/// use frontier::{Error, Request};
///
/// edge.register("reverse", |req: Request| async move {
///     let mut body = req.into_body().to_vec();
///     body.reverse();
///     Ok(body)
/// })
/// .await
/// # });
/// ```
pub struct Request {
    pub(crate) method: Arc<str>,
    pub(crate) body: Bytes,
    pub(crate) headers: Headers,
    pub(crate) from: Peer,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: CancellationToken,
}

// === impl Peer ===

impl Peer {
    /// The edge's ID, if it is one.
    ///
    /// ```
    /// use frontier::{EdgeId, Peer};
    ///
    /// assert_eq!(Peer::Edge(EdgeId::from(4)).edge(), Some(EdgeId::from(4)));
    /// assert_eq!(Peer::Gateway.edge(), None);
    /// ```
    #[must_use]
    pub const fn edge(self) -> Option<EdgeId> {
        match self {
            Self::Edge(id) => Some(id),
            Self::Service(_) | Self::Gateway => None,
        }
    }

    /// The service instance's ID, if it is one.
    ///
    /// ```
    /// assert_eq!(frontier::Peer::Gateway.service(), None);
    /// ```
    #[must_use]
    pub const fn service(self) -> Option<ServiceId> {
        match self {
            Self::Service(id) => Some(id),
            Self::Edge(_) | Self::Gateway => None,
        }
    }

    pub(crate) fn from_wire(sender: Option<Sender>) -> Self {
        match sender {
            Some(Sender::Edge(id)) => Self::Edge(id.into()),
            Some(Sender::Service(id)) => Self::Service(id.into()),
            None => Self::Gateway,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edge(id) => write!(f, "edge {id}"),
            Self::Service(id) => write!(f, "service {id}"),
            Self::Gateway => f.write_str("gateway"),
        }
    }
}

// === impl Request ===

impl Request {
    /// The method called.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |req: frontier::Request| {
    /// println!("{} was called", req.method());
    /// # });
    /// ```
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The body.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |req: frontier::Request| {
    /// println!("{} bytes", req.body().len());
    /// # });
    /// ```
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body, without a copy.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |req: frontier::Request| {
    /// let body: frontier::Bytes = req.into_body();
    /// # });
    /// ```
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// The headers.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |req: frontier::Request| {
    /// println!("{:?}", req.headers().get("traceparent"));
    /// # });
    /// ```
    #[must_use]
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Who called.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |req: frontier::Request| {
    /// println!("called by {}", req.from());
    /// # });
    /// ```
    #[must_use]
    pub const fn from(&self) -> Peer {
        self.from
    }

    /// What is left until nobody waits for the answer any more; `None` = no deadline is known.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |req: frontier::Request| {
    /// if req.remaining().is_some_and(|left| left.as_secs() < 1) {
    ///     println!("hurry");
    /// }
    /// # });
    /// ```
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the caller has cancelled, its deadline has passed, or the connection is gone.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |req: frontier::Request| {
    /// if req.is_cancelled() { return }
    /// # });
    /// ```
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until the caller has cancelled, its deadline has passed, or the connection is gone. The future is independent of the request.
    ///
    /// # Cancel safety
    /// Safe.
    ///
    /// ```
    /// # async fn work(_: frontier::Bytes) -> frontier::Result<()> { Ok(()) }
    /// # frontier::testing::scene::play(async |req: frontier::Request| {
    /// use frontier::{Error, ErrorCode};
    ///
    /// let cancelled = req.cancelled();
    /// tokio::select! {
    ///     result = work(req.into_body()) => result,
    ///     () = cancelled => Err(Error::new(ErrorCode::Cancelled, "nobody waits")),
    /// }
    /// # });
    /// ```
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        self.cancel.clone().cancelled_owned()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("from", &self.from)
            .field("body_len", &self.body.len())
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}
