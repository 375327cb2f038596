//! The control plane as JSON over HTTP: the routes, parameters and shapes that existing clients know.
//!
//! Names are snake_case, every field is present, 64-bit integers are strings, counts are numbers.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, HeaderValue, header},
    routing::get,
};
use frontier_api::controlplane::{
    Edge, ListEdgeRpCsRequest, ListEdgesRequest, ListServiceRpCsRequest, ListServiceTopicsRequest,
    ListServicesRequest, Service,
};
use frontier_ops::{
    query::{Query, number},
    rest::{RestError, method_not_allowed, not_found},
    serve::Peer,
};
use serde::Serialize;

use super::{
    DataPlane,
    api::{Api, Caller},
    openapi,
};

/// Every route, and JSON answers for what is none.
pub(super) fn router<D: DataPlane>(api: Arc<Api<D>>) -> Router {
    Router::new()
        .route("/v1/edges", get(list_edges::<D>))
        .route("/v1/edges/rpcs", get(list_edge_rpcs::<D>))
        .route("/v1/edges/{edge_id}", get(get_edge::<D>).delete(kick_edge::<D>))
        .route("/v1/services", get(list_services::<D>))
        .route("/v1/services/rpcs", get(list_service_rpcs::<D>))
        .route("/v1/services/topics", get(list_service_topics::<D>))
        .route("/v1/services/{service_id}", get(get_service::<D>).delete(kick_service::<D>))
        .route("/openapi.json", get(openapi::document))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(api)
}

type Answer<T> = Result<Json<T>, RestError>;
type Calls<D> = State<Arc<Api<D>>>;

#[derive(Serialize)]
struct EdgeJson {
    edge_id: String,
    meta: String,
    addr: String,
    create_time: String,
}

#[derive(Serialize)]
struct ServiceJson {
    service_id: String,
    service: String,
    addr: String,
    create_time: String,
}

#[derive(Serialize)]
struct EdgesJson {
    edges: Vec<EdgeJson>,
    count: i32,
}

#[derive(Serialize)]
struct ServicesJson {
    services: Vec<ServiceJson>,
    count: i32,
}

#[derive(Serialize)]
struct RpcsJson {
    rpcs: Vec<String>,
    count: i32,
}

#[derive(Serialize)]
struct TopicsJson {
    topics: Vec<String>,
    count: i32,
}

/// `{}`.
#[derive(Serialize)]
struct EmptyJson {}

// === impl EdgeJson ===

impl From<Edge> for EdgeJson {
    fn from(edge: Edge) -> Self {
        Self {
            edge_id: edge.edge_id.to_string(),
            meta: edge.meta,
            addr: edge.addr,
            create_time: edge.create_time.to_string(),
        }
    }
}

// === impl ServiceJson ===

impl From<Service> for ServiceJson {
    fn from(service: Service) -> Self {
        Self {
            service_id: service.service_id.to_string(),
            service: service.service,
            addr: service.addr,
            create_time: service.create_time.to_string(),
        }
    }
}

async fn list_edges<D: DataPlane>(State(api): Calls<D>, RawQuery(query): RawQuery) -> Answer<EdgesJson> {
    let query = Query::parse(query.as_deref())?;
    let request = ListEdgesRequest {
        meta: query.text("meta")?,
        addr: query.text("addr")?,
        rpc: query.text("rpc")?,
        edge_id: query.number("edge_id")?,
        page: query.number("page")?.unwrap_or_default(),
        page_size: query.number("page_size")?.unwrap_or_default(),
        start_time: query.number("start_time")?,
        end_time: query.number("end_time")?,
        order: query.text("order")?,
    };
    let list = api.list_edges(request).await?;
    Ok(Json(EdgesJson { edges: list.edges.into_iter().map(Into::into).collect(), count: list.count }))
}

async fn get_edge<D: DataPlane>(State(api): Calls<D>, Path(id): Path<String>) -> Answer<EdgeJson> {
    Ok(Json(api.get_edge(number("edge_id", &id)?).await?.into()))
}

async fn kick_edge<D: DataPlane>(
    State(api): Calls<D>,
    Path(id): Path<String>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Answer<EmptyJson> {
    api.kick_edge(number("edge_id", &id)?, caller(peer, &headers)).await?;
    Ok(Json(EmptyJson {}))
}

async fn list_edge_rpcs<D: DataPlane>(State(api): Calls<D>, RawQuery(query): RawQuery) -> Answer<RpcsJson> {
    let query = Query::parse(query.as_deref())?;
    let request = ListEdgeRpCsRequest {
        meta: query.text("meta")?,
        edge_id: query.number("edge_id")?,
        page: query.number("page")?.unwrap_or_default(),
        page_size: query.number("page_size")?.unwrap_or_default(),
        start_time: query.number("start_time")?,
        end_time: query.number("end_time")?,
        order: query.text("order")?,
    };
    let list = api.list_edge_rpcs(request).await?;
    Ok(Json(RpcsJson { rpcs: list.rpcs, count: list.count }))
}

async fn list_services<D: DataPlane>(
    State(api): Calls<D>,
    RawQuery(query): RawQuery,
) -> Answer<ServicesJson> {
    let query = Query::parse(query.as_deref())?;
    let request = ListServicesRequest {
        service: query.text("service")?,
        addr: query.text("addr")?,
        rpc: query.text("rpc")?,
        topic: query.text("topic")?,
        page: query.number("page")?.unwrap_or_default(),
        page_size: query.number("page_size")?.unwrap_or_default(),
        start_time: query.number("start_time")?,
        end_time: query.number("end_time")?,
        order: query.text("order")?,
    };
    let list = api.list_services(request).await?;
    Ok(Json(ServicesJson {
        services: list.services.into_iter().map(Into::into).collect(),
        count: list.count,
    }))
}

async fn get_service<D: DataPlane>(State(api): Calls<D>, Path(id): Path<String>) -> Answer<ServiceJson> {
    Ok(Json(api.get_service(number("service_id", &id)?).await?.into()))
}

async fn kick_service<D: DataPlane>(
    State(api): Calls<D>,
    Path(id): Path<String>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Answer<EmptyJson> {
    api.kick_service(number("service_id", &id)?, caller(peer, &headers)).await?;
    Ok(Json(EmptyJson {}))
}

async fn list_service_rpcs<D: DataPlane>(
    State(api): Calls<D>,
    RawQuery(query): RawQuery,
) -> Answer<RpcsJson> {
    let query = Query::parse(query.as_deref())?;
    let request = ListServiceRpCsRequest {
        service: query.text("service")?,
        service_id: query.number("service_id")?,
        page: query.number("page")?.unwrap_or_default(),
        page_size: query.number("page_size")?.unwrap_or_default(),
        start_time: query.number("start_time")?,
        end_time: query.number("end_time")?,
        order: query.text("order")?,
    };
    let list = api.list_service_rpcs(request).await?;
    Ok(Json(RpcsJson { rpcs: list.rpcs, count: list.count }))
}

async fn list_service_topics<D: DataPlane>(
    State(api): Calls<D>,
    RawQuery(query): RawQuery,
) -> Answer<TopicsJson> {
    let query = Query::parse(query.as_deref())?;
    let request = ListServiceTopicsRequest {
        service: query.text("service")?,
        service_id: query.number("service_id")?,
        page: query.number("page")?.unwrap_or_default(),
        page_size: query.number("page_size")?.unwrap_or_default(),
        start_time: query.number("start_time")?,
        end_time: query.number("end_time")?,
        order: query.text("order")?,
    };
    let list = api.list_service_topics(request).await?;
    Ok(Json(TopicsJson { topics: list.topics, count: list.count }))
}

fn caller(peer: Option<Extension<Peer>>, headers: &HeaderMap) -> Caller<'_> {
    let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    Caller { peer: peer.map(|Extension(peer)| peer), authorization }
}
