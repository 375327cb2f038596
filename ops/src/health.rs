//! The standard health service of gRPC: serving while the server is ready.

use std::pin::Pin;

use futures::{Stream, stream};
use tonic::{Request, Response, Status};
pub use tonic_health::pb::FILE_DESCRIPTOR_SET as DESCRIPTORS;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::readiness::Readiness;

/// A request is the name of a service.
const REQUEST_MAX: usize = 4 * 1024;

/// See the module documentation.
#[derive(Debug)]
pub struct ReadyHealth {
    readiness: Readiness,
    services: &'static [&'static str],
}

type Answer<T> = Result<Response<T>, Status>;
type HealthStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

// === impl ReadyHealth ===

impl ReadyHealth {
    /// The service for a port that serves these services.
    #[must_use]
    pub fn server(readiness: &Readiness, services: &'static [&'static str]) -> HealthServer<Self> {
        let health = Self { readiness: readiness.clone(), services };
        HealthServer::new(health).max_decoding_message_size(REQUEST_MAX)
    }

    fn known(&self, service: &str) -> Result<(), Status> {
        if service.is_empty() || self.services.contains(&service) {
            Ok(())
        } else {
            Err(Status::not_found("no such service"))
        }
    }
}

#[tonic::async_trait]
impl Health for ReadyHealth {
    type WatchStream = HealthStream;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        self.known(&request.get_ref().service)?;
        Ok(Response::new(health(self.readiness.is_ready())))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Answer<HealthStream> {
        self.known(&request.get_ref().service)?;
        let mut ready = self.readiness.watch();
        // The first answer is the state now.
        ready.mark_changed();
        let states = stream::unfold(ready, |mut ready| async move {
            ready.changed().await.ok()?;
            let state = health(*ready.borrow_and_update());
            Some((Ok(state), ready))
        });
        Ok(Response::new(Box::pin(states)))
    }
}

fn health(ready: bool) -> HealthCheckResponse {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}
