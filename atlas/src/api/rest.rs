//! The cluster's calls as JSON over HTTP.
//!
//! Names are camelCase, every field is present, 64-bit integers are strings.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use frontier_api::cluster::{
    Edge, Frontier, ListEdgesRequest, ListFrontiersRequest, ListServicesRequest, Service,
};
use frontier_api::error::ApiError;
use frontier_ops::query::Query;
use frontier_ops::readiness::Readiness;
use frontier_ops::rest::{RestError, method_not_allowed, not_found};
use serde::Serialize;

use super::{Cluster, openapi};
use crate::store::Store;

/// Every route, and JSON answers for what is none.
pub(super) fn router<S: Store>(cluster: Arc<Cluster<S>>, readiness: &Readiness) -> Router {
    let readiness = readiness.clone();
    Router::new()
        .route("/cluster/v1/frontier", get(frontier::<S>))
        .route("/cluster/v1/frontiers", get(frontiers::<S>))
        .route("/cluster/v1/edges", get(edges::<S>))
        .route("/cluster/v1/edge", get(edge::<S>))
        .route("/cluster/v1/edges/count", get(edges_count::<S>))
        .route("/cluster/v1/services", get(services::<S>))
        .route("/cluster/v1/service", get(service::<S>))
        .route("/cluster/v1/services/count", get(services_count::<S>))
        .route("/cluster/v1/health", get(async move || health(readiness.is_ready())))
        .route("/openapi.json", get(openapi::document))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(cluster)
}

type Answer<T> = Result<Json<T>, RestError>;
type Calls<S> = State<Arc<Cluster<S>>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FrontierJson {
    frontier_id: String,
    advertised_sb_addr: String,
    advertised_eb_addr: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EdgeJson {
    edge_id: String,
    addr: String,
    update_time: String,
    frontier_id: String,
    epoch: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceJson {
    service: String,
    addr: String,
    update_time: String,
    frontier_id: String,
    service_id: String,
}

#[derive(Serialize)]
struct GetFrontierJson {
    /// As clients know it.
    fontier: FrontierJson,
}

#[derive(Serialize)]
struct GetEdgeJson {
    edge: EdgeJson,
}

#[derive(Serialize)]
struct GetServiceJson {
    service: ServiceJson,
}

#[derive(Serialize)]
struct FrontiersJson {
    cursor: u32,
    frontiers: Vec<FrontierJson>,
}

#[derive(Serialize)]
struct EdgesJson {
    cursor: u32,
    edges: Vec<EdgeJson>,
}

#[derive(Serialize)]
struct ServicesJson {
    cursor: u32,
    services: Vec<ServiceJson>,
}

#[derive(Serialize)]
struct CountJson {
    count: String,
}

#[derive(Serialize)]
struct HealthJson {
    status: &'static str,
}

impl From<Frontier> for FrontierJson {
    fn from(frontier: Frontier) -> Self {
        let Frontier { frontier_id, advertised_sb_addr, advertised_eb_addr } = frontier;
        Self { frontier_id, advertised_sb_addr, advertised_eb_addr }
    }
}

impl From<Edge> for EdgeJson {
    fn from(edge: Edge) -> Self {
        Self {
            edge_id: edge.edge_id.to_string(),
            addr: edge.addr,
            update_time: edge.update_time.to_string(),
            frontier_id: edge.frontier_id,
            epoch: edge.epoch.to_string(),
        }
    }
}

impl From<Service> for ServiceJson {
    fn from(service: Service) -> Self {
        Self {
            service: service.service,
            addr: service.addr,
            update_time: service.update_time.to_string(),
            frontier_id: service.frontier_id,
            service_id: service.service_id.to_string(),
        }
    }
}

async fn frontier<S: Store>(State(cluster): Calls<S>, RawQuery(query): RawQuery) -> Answer<GetFrontierJson> {
    let id = required(&Query::parse(query.as_deref())?, "edge_id")?;
    let found = cluster.frontier_by_edge(id).await?.fontier.unwrap_or_default();
    Ok(Json(GetFrontierJson { fontier: found.into() }))
}

async fn frontiers<S: Store>(State(cluster): Calls<S>, RawQuery(query): RawQuery) -> Answer<FrontiersJson> {
    let query = Query::parse(query.as_deref())?;
    let request = ListFrontiersRequest {
        cursor: query.number("cursor")?,
        count: query.number("count")?,
        edge_ids: query.numbers("edge_ids")?,
        frontier_ids: query.texts("frontier_ids"),
    };
    let list = cluster.list_frontiers(&request).await?;
    let frontiers = list.frontiers.into_iter().map(Into::into).collect();
    Ok(Json(FrontiersJson { cursor: list.cursor.unwrap_or_default(), frontiers }))
}

async fn edges<S: Store>(State(cluster): Calls<S>, RawQuery(query): RawQuery) -> Answer<EdgesJson> {
    let query = Query::parse(query.as_deref())?;
    let request = ListEdgesRequest {
        cursor: query.number("cursor")?,
        count: query.number("count")?,
        edge_ids: query.numbers("edge_ids")?,
    };
    let list = cluster.list_edges(&request).await?;
    let edges = list.edges.into_iter().map(Into::into).collect();
    Ok(Json(EdgesJson { cursor: list.cursor.unwrap_or_default(), edges }))
}

async fn edge<S: Store>(State(cluster): Calls<S>, RawQuery(query): RawQuery) -> Answer<GetEdgeJson> {
    let id = required(&Query::parse(query.as_deref())?, "edge_id")?;
    let found = cluster.edge_by_id(id).await?.edge.unwrap_or_default();
    Ok(Json(GetEdgeJson { edge: found.into() }))
}

async fn edges_count<S: Store>(State(cluster): Calls<S>) -> Answer<CountJson> {
    Ok(Json(CountJson { count: cluster.edges_count().await?.count.to_string() }))
}

async fn services<S: Store>(State(cluster): Calls<S>, RawQuery(query): RawQuery) -> Answer<ServicesJson> {
    let query = Query::parse(query.as_deref())?;
    let request = ListServicesRequest {
        cursor: query.number("cursor")?,
        count: query.number("count")?,
        service_ids: query.numbers("service_ids")?,
    };
    let list = cluster.list_services(&request).await?;
    let services = list.services.into_iter().map(Into::into).collect();
    Ok(Json(ServicesJson { cursor: list.cursor.unwrap_or_default(), services }))
}

async fn service<S: Store>(State(cluster): Calls<S>, RawQuery(query): RawQuery) -> Answer<GetServiceJson> {
    let id = required(&Query::parse(query.as_deref())?, "service_id")?;
    let found = cluster.service_by_id(id).await?.service.unwrap_or_default();
    Ok(Json(GetServiceJson { service: found.into() }))
}

async fn services_count<S: Store>(State(cluster): Calls<S>) -> Answer<CountJson> {
    Ok(Json(CountJson { count: cluster.services_count().await?.count.to_string() }))
}

fn health(ready: bool) -> Response {
    let (code, status) =
        if ready { (StatusCode::OK, "SERVING") } else { (StatusCode::SERVICE_UNAVAILABLE, "NOT_SERVING") };
    (code, Json(HealthJson { status })).into_response()
}

fn required(query: &Query, name: &str) -> Result<u64, ApiError> {
    query.number(name)?.ok_or_else(|| ApiError::invalid(format!("{name} is missing")))
}
