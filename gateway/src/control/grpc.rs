//! The control plane as gRPC, with health and reflection.

use std::sync::Arc;

use axum::Router;
use frontier_api::controlplane::{
    Edge, GetEdgeRequest, GetServiceRequest, KickEdgeRequest, KickEdgeResponse, KickServiceRequest,
    KickServiceResponse, ListEdgeRpCsRequest, ListEdgeRpCsResponse, ListEdgesRequest, ListEdgesResponse,
    ListServiceRpCsRequest, ListServiceRpCsResponse, ListServiceTopicsRequest, ListServiceTopicsResponse,
    ListServicesRequest, ListServicesResponse, Service,
    control_plane_server::{ControlPlane, ControlPlaneServer, SERVICE_NAME},
};
use frontier_ops::{
    health::{DESCRIPTORS as HEALTH_DESCRIPTORS, ReadyHealth},
    readiness::Readiness,
    serve::Peer,
};
use tonic::{Request, Response, Status, service::Routes};

use super::{
    DataPlane,
    api::{Api, Caller},
};

/// Requests are a few numbers and short texts.
const REQUEST_MAX: usize = 64 * 1024;

/// Every gRPC service of the port.
pub(super) fn router<D: DataPlane>(api: Arc<Api<D>>, readiness: &Readiness) -> Router {
    let control = ControlPlaneServer::new(Grpc { api }).max_decoding_message_size(REQUEST_MAX);
    let health = ReadyHealth::server(readiness, &[SERVICE_NAME]);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(frontier_api::descriptors::CONTROLPLANE)
            .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS)
    };
    // Both versions: clients of either age find the one they know.
    let v1 = reflection().build_v1().expect("the descriptors are generated and tested");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors are generated and tested");
    Routes::new(control).add_service(health).add_service(v1).add_service(v1alpha).prepare().into_axum_router()
}

struct Grpc<D> {
    api: Arc<Api<D>>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<D: DataPlane> ControlPlane for Grpc<D> {
    async fn list_edges(&self, request: Request<ListEdgesRequest>) -> Answer<ListEdgesResponse> {
        Ok(Response::new(self.api.list_edges(request.into_inner()).await?))
    }

    async fn get_edge(&self, request: Request<GetEdgeRequest>) -> Answer<Edge> {
        Ok(Response::new(self.api.get_edge(request.into_inner().edge_id).await?))
    }

    async fn kick_edge(&self, request: Request<KickEdgeRequest>) -> Answer<KickEdgeResponse> {
        Ok(Response::new(self.api.kick_edge(request.get_ref().edge_id, caller(&request)).await?))
    }

    async fn list_edge_rp_cs(&self, request: Request<ListEdgeRpCsRequest>) -> Answer<ListEdgeRpCsResponse> {
        Ok(Response::new(self.api.list_edge_rpcs(request.into_inner()).await?))
    }

    async fn list_services(&self, request: Request<ListServicesRequest>) -> Answer<ListServicesResponse> {
        Ok(Response::new(self.api.list_services(request.into_inner()).await?))
    }

    async fn get_service(&self, request: Request<GetServiceRequest>) -> Answer<Service> {
        Ok(Response::new(self.api.get_service(request.into_inner().service_id).await?))
    }

    async fn kick_service(&self, request: Request<KickServiceRequest>) -> Answer<KickServiceResponse> {
        Ok(Response::new(self.api.kick_service(request.get_ref().service_id, caller(&request)).await?))
    }

    async fn list_service_rp_cs(
        &self,
        request: Request<ListServiceRpCsRequest>,
    ) -> Answer<ListServiceRpCsResponse> {
        Ok(Response::new(self.api.list_service_rpcs(request.into_inner()).await?))
    }

    async fn list_service_topics(
        &self,
        request: Request<ListServiceTopicsRequest>,
    ) -> Answer<ListServiceTopicsResponse> {
        Ok(Response::new(self.api.list_service_topics(request.into_inner()).await?))
    }
}

fn caller<T>(request: &Request<T>) -> Caller<'_> {
    Caller {
        peer: request.extensions().get::<Peer>().copied(),
        authorization: request.metadata().get("authorization").map(|value| value.as_encoded_bytes()),
    }
}
