//! The calls of the control plane, whoever made them: gRPC and REST only translate.

use std::sync::Arc;

use frontier_api::{
    controlplane::{
        Edge, KickEdgeResponse, KickServiceResponse, ListEdgeRpCsRequest, ListEdgeRpCsResponse,
        ListEdgesRequest, ListEdgesResponse, ListServiceRpCsRequest, ListServiceRpCsResponse,
        ListServiceTopicsRequest, ListServiceTopicsResponse, ListServicesRequest, ListServicesResponse,
        Service,
    },
    error::ApiError,
};
use frontier_ops::{config::canonical, serve::Peer};
use frontier_wire::error::ErrorCode;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::info;

use super::{
    DataPlane, EdgeRow, KickRule, ServiceRow,
    list::{self, Column, EdgeFilter, Order, Paging, SCANS, ServiceFilter, TimeRange},
};

/// The calls over one data plane.
pub(super) struct Api<D> {
    data: Arc<D>,
    kicks: KickRule,
    scans: Semaphore,
}

/// Who asks for a kick, and what they show for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caller<'a> {
    pub(super) peer: Option<Peer>,
    pub(super) authorization: Option<&'a [u8]>,
}

// === impl Api ===

impl<D: DataPlane> Api<D> {
    pub(super) fn new(data: Arc<D>, kicks: KickRule) -> Self {
        Self { data, kicks, scans: Semaphore::new(SCANS) }
    }

    pub(super) async fn list_edges(&self, request: ListEdgesRequest) -> Result<ListEdgesResponse, ApiError> {
        let filter = EdgeFilter {
            edge_id: request.edge_id,
            meta: request.meta,
            addr: request.addr,
            rpc: request.rpc,
            time: TimeRange { start: request.start_time, end: request.end_time },
        };
        let columns = [("edge_id", Column::Id), ("addr", Column::Addr), ("meta", Column::Text)];
        let order = Order::parse(request.order.as_deref(), &columns, true);
        let _scan = self.scan().await?;
        let page =
            list::edges(&*self.data, &filter, order, Paging::new(request.page, request.page_size)).await;
        Ok(ListEdgesResponse { edges: page.items.iter().map(edge).collect(), count: count(page.total) })
    }

    pub(super) async fn get_edge(&self, id: u64) -> Result<Edge, ApiError> {
        self.data.edge(id).await.map(|row| edge(&row)).ok_or_else(|| no_edge(id))
    }

    pub(super) async fn kick_edge(&self, id: u64, caller: Caller<'_>) -> Result<KickEdgeResponse, ApiError> {
        self.kicks.check(caller.authorization).await?;
        self.data.kick_edge(id).await.map_err(|_| no_edge(id))?;
        info!(edge = id, by = ?caller.peer.map(|peer| peer.0), "edge kicked");
        Ok(KickEdgeResponse {})
    }

    pub(super) async fn list_edge_rpcs(
        &self,
        request: ListEdgeRpCsRequest,
    ) -> Result<ListEdgeRpCsResponse, ApiError> {
        let filter = EdgeFilter {
            edge_id: request.edge_id,
            meta: request.meta,
            time: TimeRange { start: request.start_time, end: request.end_time },
            ..EdgeFilter::default()
        };
        let columns = [("edge_id", Column::Id), ("rpc", Column::Text)];
        let order = Order::parse(request.order.as_deref(), &columns, false);
        let _scan = self.scan().await?;
        let page =
            list::edge_methods(&*self.data, &filter, order, Paging::new(request.page, request.page_size))
                .await?;
        Ok(ListEdgeRpCsResponse { rpcs: page.items, count: count(page.total) })
    }

    pub(super) async fn list_services(
        &self,
        request: ListServicesRequest,
    ) -> Result<ListServicesResponse, ApiError> {
        let filter = ServiceFilter {
            service_id: None,
            service: request.service,
            addr: request.addr,
            rpc: request.rpc,
            topic: request.topic,
            time: TimeRange { start: request.start_time, end: request.end_time },
        };
        let columns = [("service_id", Column::Id), ("addr", Column::Addr), ("service", Column::Text)];
        let order = Order::parse(request.order.as_deref(), &columns, false);
        let _scan = self.scan().await?;
        let page =
            list::services(&*self.data, &filter, order, Paging::new(request.page, request.page_size)).await?;
        Ok(ListServicesResponse {
            services: page.items.iter().map(service).collect(),
            count: count(page.total),
        })
    }

    pub(super) async fn get_service(&self, id: u64) -> Result<Service, ApiError> {
        self.data.service(id).await.map(|row| service(&row)).ok_or_else(|| no_service(id))
    }

    pub(super) async fn kick_service(
        &self,
        id: u64,
        caller: Caller<'_>,
    ) -> Result<KickServiceResponse, ApiError> {
        self.kicks.check(caller.authorization).await?;
        self.data.kick_service(id).await.map_err(|_| no_service(id))?;
        info!(service = id, by = ?caller.peer.map(|peer| peer.0), "service kicked");
        Ok(KickServiceResponse {})
    }

    pub(super) async fn list_service_rpcs(
        &self,
        request: ListServiceRpCsRequest,
    ) -> Result<ListServiceRpCsResponse, ApiError> {
        let filter = ServiceFilter {
            service_id: request.service_id,
            service: request.service,
            time: TimeRange { start: request.start_time, end: request.end_time },
            ..ServiceFilter::default()
        };
        let columns = [("service_id", Column::Id), ("rpc", Column::Text)];
        let order = Order::parse(request.order.as_deref(), &columns, false);
        let paging = Paging::new(request.page, request.page_size);
        let _scan = self.scan().await?;
        let page = list::service_names(&*self.data, &filter, |row| &row.methods, order, paging).await?;
        Ok(ListServiceRpCsResponse { rpcs: page.items, count: count(page.total) })
    }

    pub(super) async fn list_service_topics(
        &self,
        request: ListServiceTopicsRequest,
    ) -> Result<ListServiceTopicsResponse, ApiError> {
        let filter = ServiceFilter {
            service_id: request.service_id,
            service: request.service,
            time: TimeRange { start: request.start_time, end: request.end_time },
            ..ServiceFilter::default()
        };
        let columns = [("service_id", Column::Id), ("topic", Column::Text)];
        let order = Order::parse(request.order.as_deref(), &columns, false);
        let paging = Paging::new(request.page, request.page_size);
        let _scan = self.scan().await?;
        let page = list::service_names(&*self.data, &filter, |row| &row.topics, order, paging).await?;
        Ok(ListServiceTopicsResponse { topics: page.items, count: count(page.total) })
    }

    /// Waits for the right to ask every shard for everything.
    async fn scan(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        // The semaphore is never closed.
        self.scans.acquire().await.map_err(|_| ApiError::new(ErrorCode::Internal, "unknown request error"))
    }
}

fn edge(row: &EdgeRow) -> Edge {
    Edge {
        edge_id: row.edge_id,
        // Opaque to us, text to everybody who looks at a list.
        meta: String::from_utf8_lossy(&row.meta).into_owned(),
        addr: canonical(row.addr).to_string(),
        create_time: row.create_time,
    }
}

fn service(row: &ServiceRow) -> Service {
    Service {
        service_id: row.service_id,
        service: row.name.to_string(),
        addr: canonical(row.addr).to_string(),
        create_time: row.create_time,
    }
}

fn count(total: usize) -> i32 {
    i32::try_from(total).unwrap_or(i32::MAX)
}

fn no_edge(id: u64) -> ApiError {
    ApiError::new(ErrorCode::EdgeNotOnline, "edge not online").with("edge_id", id)
}

fn no_service(id: u64) -> ApiError {
    ApiError::new(ErrorCode::ServiceNotOnline, "service not online").with("service_id", id)
}
