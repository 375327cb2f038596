//! Around every request: at most so many at once, each with a time limit, and a panic ends only the request.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::Request, middleware::Next, response::Response};
use frontier_api::error::ApiError;
use frontier_wire::error::ErrorCode;
use http::{HeaderMap, header::CONTENT_TYPE};
use tokio::{sync::Semaphore, time::timeout};
use tonic::Status;
use tracing::error;

use crate::rest::error_response;

/// Bounds of what runs at once.
#[derive(Clone, Debug)]
pub struct Guard {
    places: Arc<Semaphore>,
    time: Duration,
}

// === impl Guard ===

impl Guard {
    /// At most `requests` at once, each for at most `time`.
    #[must_use]
    pub fn new(requests: usize, time: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(requests)), time }
    }

    /// Runs a request within the bounds.
    pub async fn run(self, request: Request, next: Next) -> Response {
        let grpc = is_grpc(request.headers());
        let Ok(_place) = self.places.try_acquire() else {
            return refuse(grpc, ApiError::new(ErrorCode::Overloaded, "too many requests at once"));
        };
        match timeout(self.time, Caught(Box::pin(next.run(request)))).await {
            Ok(Some(response)) => response,
            Ok(None) => {
                error!("a request handler panicked");
                refuse(grpc, ApiError::new(ErrorCode::Internal, "unknown request error"))
            }
            Err(_) => refuse(grpc, ApiError::new(ErrorCode::DeadlineExceeded, "the request took too long")),
        }
    }
}

/// Whether a request is gRPC: the rule by which both share a port.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn refuse(grpc: bool, error: ApiError) -> Response {
    if grpc { Status::from(error).into_http() } else { error_response(&error) }
}

/// A future whose panic becomes `None`.
struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The future is dropped after a panic, so nobody sees what it left half done but shared state, whose locks
        // (parking_lot) do not outlive the unwinding.
        let poll = AssertUnwindSafe(|| self.0.as_mut().poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}
