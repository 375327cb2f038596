//! The client library of Frontier: [`Edge`]s and [`Service`]s that reach each other through a gateway.
//!
//! Three verbs work in both directions between an edge and the services: **call** a method, **publish** a message that its receiver
//! acknowledges, **open** a [`Stream`] on which bytes, messages and calls flow. Services address an edge by its ID; edges address a
//! method, a topic or a service name, and the gateway picks the instance. Services hear which edges come and go.
//!
//! ```
//! use frontier::{Edge, Request, Service};
//!
//! # frontier::testing::scene::play(async |()| {
//! let svc = Service::builder("tcp://127.0.0.1:30011").name("calculator").connect().await?;
//! svc.register("sum", |req: Request| async move {
//!     let text = std::str::from_utf8(req.body()).map_err(frontier::Error::application)?;
//!     let sum: i64 = text.split(' ').filter_map(|word| word.parse::<i64>().ok()).sum();
//!     Ok(sum.to_string())
//! })
//! .await?;
//!
//! let edge = Edge::builder("tcp://127.0.0.1:30012").connect().await?;
//! assert_eq!(edge.call("sum", "1 2 3").await?.body(), "6");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # });
//! ```
//!
//! Handles are cheap to clone; a task of the client owns the socket; dropping the last handle closes. A lost connection is made anew in
//! the background: methods and topics are registered again before the client reports itself [`Ready`](State::Ready), operations that
//! were under way fail with [`session_closed`](ErrorCode::SessionClosed), new ones wait. Everything has a deadline, 30 s unless said
//! otherwise. All limits are on the builders, with their defaults.
//!
//! A tokio runtime with I/O and time enabled is needed. The feature `testing` brings a gateway within the process for tests.

#![deny(missing_docs)]

mod address;
mod board;
mod budget;
mod builder;
mod call;
mod client;
#[cfg(feature = "cluster")]
mod cluster;
mod dialogue;
mod edge;
mod error;
mod gateway;
mod handler;
mod headers;
mod ids;
mod lanes;
mod link;
mod mailbox;
mod message;
mod offered;
mod op;
mod options;
mod presence;
mod promise;
mod queue;
mod random;
mod reconnect;
mod reply;
mod request;
mod responder;
mod route;
mod secret;
mod service;
mod session;
mod site;
mod state;
mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tls;
mod transport;

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::let_underscore_future,
    clippy::unnecessary_operation,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]
mod tests;

pub use bytes::Bytes;

pub use crate::{
    address::IntoAddresses,
    call::{Call, OpenStream, Publish},
    edge::{Edge, EdgeBuilder},
    error::{ConnectError, Error, ErrorCode, Result},
    gateway::GatewayInfo,
    headers::Headers,
    ids::{EdgeId, ServiceId},
    message::Message,
    presence::EdgeInfo,
    reconnect::Reconnect,
    reply::Reply,
    request::{Peer, Request},
    service::{Service, ServiceBuilder},
    state::{State, StateWatch},
    stream::{IncomingStream, Stream},
    tls::TlsOptions,
};
