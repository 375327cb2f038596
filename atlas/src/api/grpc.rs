//! The cluster's calls as gRPC, with health and reflection.

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use frontier_api::cluster::cluster_service_server::{ClusterService, ClusterServiceServer, SERVICE_NAME};
use frontier_api::cluster::health_check_response::ServingStatus;
use frontier_api::cluster::health_server::{Health, HealthServer};
use frontier_api::cluster::{
    GetEdgeByIdRequest, GetEdgeByIdResponse, GetEdgesCountRequest, GetEdgesCountResponse,
    GetFrontierByEdgeIdRequest, GetFrontierByEdgeIdResponse, GetServiceByIdRequest, GetServiceByIdResponse,
    GetServicesCountRequest, GetServicesCountResponse, HealthCheckRequest, HealthCheckResponse,
    ListEdgesRequest, ListEdgesResponse, ListFrontiersRequest, ListFrontiersResponse, ListServicesRequest,
    ListServicesResponse, WatchRequest, WatchResponse,
};
use frontier_ops::health::{DESCRIPTORS, ReadyHealth};
use frontier_ops::readiness::Readiness;
use futures::{Stream, StreamExt as _, stream};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::Cluster;
use crate::store::Store;

/// A thousand IDs and names take some tens of KiB.
const REQUEST_MAX: usize = 512 * 1024;

/// Every gRPC service of the port.
pub(super) fn router<S: Store>(cluster: Arc<Cluster<S>>, readiness: &Readiness) -> Router {
    let calls = ClusterServiceServer::new(Grpc { cluster }).max_decoding_message_size(REQUEST_MAX);
    let health = HealthServer::new(ClusterHealth { readiness: readiness.clone() })
        .max_decoding_message_size(REQUEST_MAX);
    let standard = ReadyHealth::server(readiness, &[SERVICE_NAME]);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(frontier_api::descriptors::CLUSTER)
            .register_encoded_file_descriptor_set(DESCRIPTORS)
    };
    // Both versions: clients of either age find the one they know.
    let v1 = reflection().build_v1().expect("the descriptors are generated and tested");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors are generated and tested");
    Routes::new(calls)
        .add_service(health)
        .add_service(standard)
        .add_service(v1)
        .add_service(v1alpha)
        .prepare()
        .into_axum_router()
}

struct Grpc<S> {
    cluster: Arc<Cluster<S>>,
}

type Answer<T> = Result<Response<T>, Status>;
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Store> ClusterService for Grpc<S> {
    type WatchStream = Responses<WatchResponse>;

    async fn get_frontier_by_edge(
        &self,
        request: Request<GetFrontierByEdgeIdRequest>,
    ) -> Answer<GetFrontierByEdgeIdResponse> {
        Ok(Response::new(self.cluster.frontier_by_edge(request.get_ref().edge_id).await?))
    }

    async fn list_frontiers(&self, request: Request<ListFrontiersRequest>) -> Answer<ListFrontiersResponse> {
        Ok(Response::new(self.cluster.list_frontiers(request.get_ref()).await?))
    }

    async fn list_edges(&self, request: Request<ListEdgesRequest>) -> Answer<ListEdgesResponse> {
        Ok(Response::new(self.cluster.list_edges(request.get_ref()).await?))
    }

    async fn get_edge_by_id(&self, request: Request<GetEdgeByIdRequest>) -> Answer<GetEdgeByIdResponse> {
        Ok(Response::new(self.cluster.edge_by_id(request.get_ref().edge_id).await?))
    }

    async fn get_edges_count(&self, _: Request<GetEdgesCountRequest>) -> Answer<GetEdgesCountResponse> {
        Ok(Response::new(self.cluster.edges_count().await?))
    }

    async fn list_services(&self, request: Request<ListServicesRequest>) -> Answer<ListServicesResponse> {
        Ok(Response::new(self.cluster.list_services(request.get_ref()).await?))
    }

    async fn get_service_by_id(
        &self,
        request: Request<GetServiceByIdRequest>,
    ) -> Answer<GetServiceByIdResponse> {
        Ok(Response::new(self.cluster.service_by_id(request.get_ref().service_id).await?))
    }

    async fn get_services_count(
        &self,
        _: Request<GetServicesCountRequest>,
    ) -> Answer<GetServicesCountResponse> {
        Ok(Response::new(self.cluster.services_count().await?))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let watcher = self.cluster.watchers.watch(request.get_ref())?;
        // Pulled as the client reads: what it does not read is not made.
        let messages = stream::try_unfold(watcher, |mut watcher| async move {
            Ok(watcher.next().await?.map(|message| (message, watcher)))
        });
        Ok(Response::new(messages.boxed()))
    }
}

/// The health service that clients of the cluster know; serving while this atlas is ready.
struct ClusterHealth {
    readiness: Readiness,
}

#[tonic::async_trait]
impl Health for ClusterHealth {
    type WatchStream = Responses<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        Ok(Response::new(health(self.readiness.is_ready())))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        let mut ready = self.readiness.watch();
        // The first answer is the state now.
        ready.mark_changed();
        let states = stream::unfold(ready, |mut ready| async move {
            ready.changed().await.ok()?;
            let state = health(*ready.borrow_and_update());
            Some((Ok(state), ready))
        });
        Ok(Response::new(states.boxed()))
    }
}

fn health(ready: bool) -> HealthCheckResponse {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}
