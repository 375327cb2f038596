//! What the control plane sees of sessions. A shard only hands out what it has anyway; whoever asked reads, filters and copies.

use std::{net::SocketAddr, sync::Arc};

use crate::core::{card::EdgeCard, names::NameSet, table::SessionRef};

/// An edge that is online.
#[derive(Clone, Debug)]
pub struct EdgeView {
    /// What is known of it.
    pub card: Arc<EdgeCard>,
    /// Seconds since 1970.
    pub since: i64,
    /// Methods it offers; `None` = none.
    pub methods: Option<Arc<NameSet>>,
}

/// A connection of a service that is online.
#[derive(Clone, Debug)]
pub struct ServiceView {
    /// The connection.
    pub session: SessionRef,
    /// The service ID.
    pub id: u64,
    /// Instance key; the connections of a pool share it.
    pub instance: u64,
    /// The service name.
    pub name: Arc<str>,
    /// Where it connected from.
    pub addr: SocketAddr,
    /// Seconds since 1970.
    pub since: i64,
    /// Methods it offers.
    pub methods: Arc<NameSet>,
    /// Topics it takes.
    pub topics: Arc<NameSet>,
}

/// One session of a scan.
#[derive(Clone, Debug)]
pub enum View {
    /// An edge.
    Edge(EdgeView),
    /// A service connection.
    Service(ServiceView),
}

/// Some of the sessions of a shard.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What was found.
    pub views: Vec<View>,
    /// Where to go on; `None` at the end.
    pub next: Option<u32>,
}
