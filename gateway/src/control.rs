//! The control plane: who is connected, what they offer, and how to disconnect them; gRPC and REST on one port.
//!
//! ```text
//!             ┌ application/grpc → grpc ┐
//!  port ─ guard                         ├→ api (filters, order, pages) → DataPlane (the shards)
//!             └ everything else  → rest ┘
//! ```
//! [`router`] is all of it as one service, [`frontier_ops::serve`] puts it on a listener. Nothing here holds state: lists come
//! from the live sessions each time, in bounded pages, so they never tell of a connection that is gone.

mod api;
mod grpc;
mod kick;
mod list;
mod openapi;
mod rest;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use bytes::Bytes;
use frontier_ops::{guard::Guard, readiness::Readiness, split::split};

use self::api::Api;
pub use self::kick::KickRule;
use crate::core::names::NameSet;

/// Requests handled at once. Most are answered within a millisecond; lists of a million edges take a good part of a
/// second, and of those only [`list::SCANS`] run at once.
const REQUESTS: usize = 64;

/// For one request, waiting for other lists included.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// What the control plane sees of the sessions, and does to them. The shards implement it.
///
/// Sessions come and go during a scan; one that is there from its begin to its end is seen exactly once.
pub trait DataPlane: Send + Sync + 'static {
    /// Up to `most` edges after `cursor`, `None` at the begin; in any order.
    fn edges(&self, cursor: Option<u64>, most: usize) -> impl Future<Output = Scan<EdgeRow>> + Send;

    /// One edge.
    fn edge(&self, id: u64) -> impl Future<Output = Option<EdgeRow>> + Send;

    /// Those of the edges that are online, in the order of `ids`.
    fn edges_of(&self, ids: Vec<u64>) -> impl Future<Output = Vec<EdgeRow>> + Send {
        async move {
            let mut rows = Vec::with_capacity(ids.len());
            for id in ids {
                rows.extend(self.edge(id).await);
            }
            rows
        }
    }

    /// Ends the session of an edge.
    fn kick_edge(&self, id: u64) -> impl Future<Output = Result<(), NotOnline>> + Send;

    /// All service instances, of which there are few; the connections of one are one row.
    fn services(&self) -> impl Future<Output = Vec<ServiceRow>> + Send;

    /// The service with this ID; the newest instance if there are several.
    fn service(&self, id: u64) -> impl Future<Output = Option<ServiceRow>> + Send;

    /// Ends all connections of all instances with this ID.
    fn kick_service(&self, id: u64) -> impl Future<Output = Result<(), NotOnline>> + Send;
}

/// Some of the sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan<R> {
    /// What was found; may be empty before the end.
    pub rows: Vec<R>,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

/// An edge that is online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeRow {
    /// Its ID.
    pub edge_id: u64,
    /// What it connected with; opaque.
    pub meta: Bytes,
    /// Where it connected from.
    pub addr: SocketAddr,
    /// When, in seconds since 1970.
    pub create_time: i64,
    /// Methods it offers; `None` = none.
    pub methods: Option<Arc<NameSet>>,
}

/// A service instance that is online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// Its ID; instances may share it.
    pub service_id: u64,
    /// Its name.
    pub name: Arc<str>,
    /// Where its oldest connection came from.
    pub addr: SocketAddr,
    /// When, in seconds since 1970.
    pub create_time: i64,
    /// Methods it offers.
    pub methods: Vec<Arc<str>>,
    /// Topics it takes.
    pub topics: Vec<Arc<str>>,
}

/// Nobody with this ID is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not online")]
pub struct NotOnline;

// === impl EdgeRow ===

impl EdgeRow {
    /// Methods it offers, in order.
    #[must_use]
    pub fn methods(&self) -> &[Arc<str>] {
        self.methods.as_ref().map_or(&[], |methods| methods.names())
    }
}

/// gRPC, REST and the documents about them as one service.
///
/// The gRPC health service follows `readiness`; kicks obey `kicks`.
pub fn router<D: DataPlane>(data: Arc<D>, kicks: KickRule, readiness: &Readiness) -> Router {
    bounded(Arc::new(Api::new(data, kicks)), readiness, REQUESTS)
}

fn bounded<D: DataPlane>(api: Arc<Api<D>>, readiness: &Readiness, requests: usize) -> Router {
    let grpc = grpc::router(Arc::clone(&api), readiness);
    split(grpc, rest::router(api), Guard::new(requests, REQUEST_TIME))
}

#[cfg(test)]
mod tests;
