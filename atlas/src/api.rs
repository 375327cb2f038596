//! What clients and operators of a cluster ask: gRPC and REST on one port.
//!
//! ```text
//!             ┌ application/grpc → grpc ┐             ┌ directory (reads the store)
//!  port ─ guard                         ├→ Cluster ───┤
//!             └ everything else  → rest ┘             └ watchers (what changes)
//! ```

mod grpc;
mod openapi;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use frontier_api::cluster::{
    Edge, Frontier, GetEdgeByIdResponse, GetEdgesCountResponse, GetFrontierByEdgeIdResponse,
    GetServiceByIdResponse, GetServicesCountResponse, ListEdgesRequest, ListEdgesResponse,
    ListFrontiersRequest, ListFrontiersResponse, ListServicesRequest, ListServicesResponse, Service,
};
use frontier_api::error::ApiError;
use frontier_ops::guard::Guard;
use frontier_ops::readiness::Readiness;
use frontier_ops::split::split;
use frontier_wire::error::ErrorCode;

use crate::directory::{self, Directory, IDS_MAX, Page};
use crate::record::StoreTime;
use crate::store::{Gateway, Store, StoreError};
use crate::watch::Watchers;

/// Requests handled at once; a watch counts until its first answer.
const REQUESTS: usize = 1_024;

/// For one request, the store's part included.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The calls of the cluster, whoever made them: gRPC and REST only translate.
#[derive(Debug)]
pub struct Cluster<S> {
    directory: Arc<Directory<S>>,
    watchers: Arc<Watchers<S>>,
}

/// gRPC, REST and the documents about them as one service. Health follows `readiness`.
pub fn router<S: Store>(cluster: Cluster<S>, readiness: &Readiness) -> Router {
    let cluster = Arc::new(cluster);
    let grpc = grpc::router(Arc::clone(&cluster), readiness);
    split(grpc, rest::router(cluster, readiness), Guard::new(REQUESTS, REQUEST_TIME))
}

// === impl Cluster ===

impl<S: Store> Cluster<S> {
    /// Of this directory; changes are told by `watchers`.
    #[must_use]
    pub fn new(directory: Arc<Directory<S>>, watchers: Arc<Watchers<S>>) -> Self {
        Self { directory, watchers }
    }

    async fn frontier_by_edge(&self, edge: u64) -> Result<GetFrontierByEdgeIdResponse, ApiError> {
        let found = self.directory.gateways_of(&[edge]).await?;
        let gateway = found.into_iter().next().ok_or_else(|| no_edge(edge))?;
        Ok(GetFrontierByEdgeIdResponse { fontier: Some(frontier(gateway)) })
    }

    /// All, or those of some edges and those with some names, each once; of that the page that cursor and count say.
    async fn list_frontiers(
        &self,
        request: &ListFrontiersRequest,
    ) -> Result<ListFrontiersResponse, ApiError> {
        check_ids(request.edge_ids.len() + request.frontier_ids.len())?;
        let mut gateways = if request.edge_ids.is_empty() {
            Vec::new()
        } else {
            self.directory.gateways_of(&request.edge_ids).await?
        };
        if !request.frontier_ids.is_empty() || request.edge_ids.is_empty() {
            let all = self.directory.gateways().await?;
            if request.frontier_ids.is_empty() {
                gateways = all;
            } else {
                let named = |id: &String| all.iter().find(|gateway| gateway.frontier_id == *id).cloned();
                gateways.extend(request.frontier_ids.iter().filter_map(named));
            }
        }
        let mut seen = BTreeSet::new();
        gateways.retain(|gateway| seen.insert(gateway.instance));
        let page = part(gateways, request.cursor, request.count);
        let frontiers = page.entries.into_iter().map(frontier).collect();
        Ok(ListFrontiersResponse { cursor: Some(page.cursor), frontiers })
    }

    async fn list_edges(&self, request: &ListEdgesRequest) -> Result<ListEdgesResponse, ApiError> {
        check_ids(request.edge_ids.len())?;
        let page = if request.edge_ids.is_empty() {
            self.directory
                .edge_page(request.cursor.unwrap_or_default(), request.count.unwrap_or_default())
                .await?
        } else {
            let page = part(once(&request.edge_ids), request.cursor, request.count);
            Page { entries: self.directory.edges(&page.entries).await?, cursor: page.cursor }
        };
        Ok(ListEdgesResponse { cursor: Some(page.cursor), edges: page.entries.iter().map(edge).collect() })
    }

    async fn edge_by_id(&self, id: u64) -> Result<GetEdgeByIdResponse, ApiError> {
        let found = self.directory.edges(&[id]).await?;
        let found = found.first().ok_or_else(|| no_edge(id))?;
        Ok(GetEdgeByIdResponse { edge: Some(edge(found)) })
    }

    async fn edges_count(&self) -> Result<GetEdgesCountResponse, ApiError> {
        Ok(GetEdgesCountResponse { count: self.directory.edge_count().await? })
    }

    async fn list_services(&self, request: &ListServicesRequest) -> Result<ListServicesResponse, ApiError> {
        check_ids(request.service_ids.len())?;
        let page = if request.service_ids.is_empty() {
            self.directory
                .service_page(request.cursor.unwrap_or_default(), request.count.unwrap_or_default())
                .await?
        } else {
            // An ID has an instance at every gateway that its service is connected to.
            part(self.directory.services(&once(&request.service_ids)).await?, request.cursor, request.count)
        };
        let services = page.entries.iter().map(service).collect();
        Ok(ListServicesResponse { cursor: Some(page.cursor), services })
    }

    async fn service_by_id(&self, id: u64) -> Result<GetServiceByIdResponse, ApiError> {
        let found = self.directory.services(&[id]).await?;
        // Of its connections to several gateways the newest.
        let newest = found.iter().max_by_key(|instance| instance.record.claim);
        let no_service =
            || ApiError::new(ErrorCode::ServiceNotOnline, "service not online").with("service_id", id);
        Ok(GetServiceByIdResponse { service: Some(service(newest.ok_or_else(no_service)?)) })
    }

    async fn services_count(&self) -> Result<GetServicesCountResponse, ApiError> {
        Ok(GetServicesCountResponse { count: self.directory.service_count().await? })
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            // As of a gateway whose connection is gone: ask again, or another atlas.
            StoreError::Unreachable(_) => ErrorCode::SessionClosed,
            StoreError::Busy | StoreError::ReadOnly(_) => ErrorCode::Overloaded,
            StoreError::Denied(_) | StoreError::Nonsense(_) => ErrorCode::Internal,
        };
        // What the store says is for the log.
        tracing::debug!(%error, "the store failed");
        let message = match code {
            ErrorCode::SessionClosed => "the store cannot be reached",
            ErrorCode::Overloaded => "the store has too much to do",
            _ => "the store does not work",
        };
        Self::new(code, message)
    }
}

/// A gateway as clients see it.
pub(crate) fn frontier(gateway: Gateway) -> Frontier {
    Frontier {
        frontier_id: gateway.frontier_id,
        advertised_sb_addr: gateway.service_addr,
        advertised_eb_addr: gateway.edge_addr,
    }
}

/// An edge as clients see it.
pub(crate) fn edge(edge: &directory::Edge) -> Edge {
    Edge {
        edge_id: edge.id,
        addr: edge.record.addr.to_string(),
        update_time: seconds(edge.record.claim.epoch),
        frontier_id: edge.frontier_id.clone(),
        epoch: edge.record.claim.epoch,
    }
}

fn service(instance: &directory::ServiceInstance) -> Service {
    Service {
        service: instance.record.name.clone(),
        addr: instance.record.addr.to_string(),
        update_time: seconds(instance.record.claim.epoch),
        frontier_id: instance.frontier_id.clone(),
        service_id: instance.id,
    }
}

fn seconds(epoch: u64) -> i64 {
    i64::try_from(StoreTime::of_epoch(epoch).0 / 1_000).unwrap_or(i64::MAX)
}

fn check_ids(ids: usize) -> Result<(), ApiError> {
    if ids <= IDS_MAX {
        return Ok(());
    }
    Err(ApiError::invalid(format!("{ids} IDs in one request: at most {IDS_MAX} are answered")))
}

/// Each once, in order.
fn once(ids: &[u64]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    ids.iter().copied().filter(|id| seen.insert(*id)).collect()
}

/// The part of a list that begins at `cursor` and has at most `count` entries; none and 0 mean all that one answer takes.
fn part<T>(all: Vec<T>, cursor: Option<u32>, count: Option<u32>) -> Page<T> {
    let count = match count.unwrap_or_default() {
        0 => directory::PAGE_MAX,
        count => count.min(directory::PAGE_MAX),
    };
    let first = cursor.unwrap_or_default();
    let next = first.saturating_add(count);
    let more = all.len() > next as usize;
    let entries = all.into_iter().skip(first as usize).take(count as usize).collect();
    Page { entries, cursor: if more { next } else { 0 } }
}

fn no_edge(id: u64) -> ApiError {
    ApiError::new(ErrorCode::EdgeNotOnline, "edge not online").with("edge_id", id)
}
