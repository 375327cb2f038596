//! gRPC and REST on one port.

use axum::{
    Router,
    extract::{Request, State},
    middleware,
    response::Response,
};
use tower::ServiceExt as _;

use crate::guard::{Guard, is_grpc};

/// One port for two kinds of requests.
#[derive(Clone)]
struct Split {
    grpc: Router,
    rest: Router,
}

/// Requests that say they are gRPC go to one router and all others to the other one, both within the bounds of `guard`.
pub fn split(grpc: Router, rest: Router, guard: Guard) -> Router {
    let guard = middleware::from_fn(move |request, next| guard.clone().run(request, next));
    Router::new().fallback(Split::run).with_state(Split { grpc, rest }).layer(guard)
}

// === impl Split ===

impl Split {
    async fn run(State(split): State<Self>, request: Request) -> Response {
        let router = if is_grpc(request.headers()) { split.grpc } else { split.rest };
        match router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
