//! Requests by method and outcome, and how long they took.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use axum::{extract::Request, middleware::Next, response::Response};
use frontier_ops::{
    guard::is_grpc,
    metrics::{Family, Times},
};
use http::StatusCode;
use tonic::{Code, Status};

/// The methods told apart, with the path that REST has for each. What is none of them counts as `other`: labels are a closed set.
const METHODS: [(&str, &str); 14] = [
    ("GetFrontierByEdge", "/cluster/v1/frontier"),
    ("ListFrontiers", "/cluster/v1/frontiers"),
    ("ListEdges", "/cluster/v1/edges"),
    ("GetEdgeByID", "/cluster/v1/edge"),
    ("GetEdgesCount", "/cluster/v1/edges/count"),
    ("ListServices", "/cluster/v1/services"),
    ("GetServiceByID", "/cluster/v1/service"),
    ("GetServicesCount", "/cluster/v1/services/count"),
    ("Check", "/cluster/v1/health"),
    ("Watch", ""),
    ("Attach", ""),
    ("Renew", ""),
    ("ServerReflectionInfo", ""),
    ("other", ""),
];

/// The outcomes told apart: the codes of gRPC, by their numbers.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// Of one port.
#[derive(Debug, Default)]
pub struct Requests {
    methods: [Method; METHODS.len()],
}

#[derive(Debug, Default)]
struct Method {
    outcomes: [AtomicU64; CODES.len()],
    times: Times,
}

// === impl Requests ===

impl Requests {
    /// Runs a request and counts it when its answer begins: how an answer without an end ends is not seen here.
    pub async fn count(&self, request: Request, next: Next) -> Response {
        let grpc = is_grpc(request.headers());
        let index = index_of(request.uri().path(), grpc);
        let start = Instant::now();
        let response = next.run(request).await;
        let code = if grpc { grpc_code(&response) } else { rest_code(response.status()) };
        if let Some(method) = self.methods.get(index) {
            method.times.add(start.elapsed());
            if let Some(count) = method.outcomes.get(code as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        response
    }

    /// Adds what was counted on the port of this name, methods that nobody has asked for left out, to counts and to times.
    #[must_use]
    pub fn rows(&self, port: &'static str, families: [Family; 2]) -> [Family; 2] {
        METHODS.iter().zip(&self.methods).fold(families, |[counts, times], ((name, _), method)| {
            let outcomes = CODES.iter().zip(&method.outcomes);
            let outcomes = outcomes.map(|(code, count)| (*code, count.load(Ordering::Relaxed)));
            let asked: Vec<_> = outcomes.filter(|(_, count)| *count > 0).collect();
            if asked.is_empty() {
                return [counts, times];
            }
            let counts = asked.into_iter().fold(counts, |counts, (code, count)| {
                counts.row(&[("port", port), ("method", name), ("code", code)], count)
            });
            [counts, times.times_of(&[("port", port), ("method", name)], method.times.latency())]
        })
    }
}

fn index_of(path: &str, grpc: bool) -> usize {
    let found = if grpc {
        let name = path.rsplit('/').next().unwrap_or_default();
        METHODS.iter().position(|(method, _)| *method == name)
    } else {
        METHODS.iter().position(|(_, rest)| !rest.is_empty() && *rest == path)
    };
    found.unwrap_or(METHODS.len() - 1)
}

/// An answer that begins with its status is one that failed: of others the status comes last.
fn grpc_code(response: &Response) -> Code {
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

fn rest_code(status: StatusCode) -> Code {
    match status.as_u16() {
        200..=399 => Code::Ok,
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        409 => Code::AlreadyExists,
        429 => Code::ResourceExhausted,
        499 => Code::Cancelled,
        500 => Code::Internal,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing::get};
    use frontier_ops::metrics::Metrics;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_method_and_code() {
        let requests = std::sync::Arc::new(Requests::default());
        let counter = std::sync::Arc::clone(&requests);
        let router = Router::new()
            .route("/cluster/v1/frontiers", get(|| async { "[]" }))
            .route(
                "/controlplane.ClusterService/GetEdgeByID",
                get(|| async { Status::not_found("no such edge").into_http::<Body>() }),
            )
            .layer(middleware::from_fn(move |request, next| {
                let counter = std::sync::Arc::clone(&counter);
                async move { counter.count(request, next).await }
            }));
        for (path, kind) in [
            ("/cluster/v1/frontiers", "text/plain"),
            ("/controlplane.ClusterService/GetEdgeByID", "application/grpc"),
            ("/whatever/a/peer/says", "text/plain"),
        ] {
            let request = http::Request::builder().uri(path).header("content-type", kind);
            router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        }
        let metrics = Metrics::new("frontlas");
        let seen = crate::metrics::Seen { requests: vec![("control_plane", requests)], ..Default::default() };
        metrics.register(move || seen.families());
        let text = metrics.encode().unwrap();
        for row in [
            "method=\"ListFrontiers\",code=\"ok\"} 1",
            "method=\"GetEdgeByID\",code=\"not_found\"} 1",
            "method=\"other\",code=\"not_found\"} 1",
            "frontlas_request_duration_seconds_count{port=\"control_plane\",method=\"other\"} 1",
        ] {
            assert!(text.contains(row), "{row} is not in\n{text}");
        }
        assert!(!text.contains("whatever"));
    }

    #[test]
    fn every_call_of_the_api_has_its_name() {
        let generated = [
            include_str!("../../../api/src/gen/cluster.rs"),
            include_str!("../../../api/src/gen/registry.rs"),
        ];
        let paths = generated
            .iter()
            .flat_map(|text| text.split('"'))
            .filter(|word| word.starts_with("/controlplane.") || word.starts_with("/frontier.atlas."));
        let mut seen = 0;
        for path in paths {
            assert_ne!(index_of(path, true), METHODS.len() - 1, "{path}");
            seen += 1;
        }
        assert!(seen >= 12, "{seen}");
    }
}
