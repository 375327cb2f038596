//! The admin port: probes and metrics for machines, the log level and the configuration for people on this machine.
//!
//! | path | who | answer |
//! |---|---|---|
//! | `GET /healthz` | everybody | `ok` as long as the process can answer |
//! | `GET /readyz` | everybody | `ready`, or 503 and what is not; what works less well follows, a line each |
//! | `GET /metrics` | everybody | see [`crate::metrics`] |
//! | `GET /log-level` | loopback | the filter in force |
//! | `PUT /log-level` | loopback | sets it: a level or a list of directives as the body |
//! | `GET /config` | loopback | the effective configuration, secrets hidden |

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{
    guard::Guard,
    metrics::{CONTENT_TYPE as METRICS_TYPE, Metrics},
    readiness::Readiness,
    serve::Peer,
    telemetry::LevelHandle,
};

/// Requests at once: a few scrapers, a probe, a person.
const REQUESTS: usize = 16;

/// For one request.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// A filter is a line of text.
const FILTER_MAX: usize = 1024;

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    metrics: Metrics,
    readiness: Readiness,
    level: LevelHandle,
    config: Arc<str>,
}

// === impl Admin ===

impl Admin {
    /// Shows these; `config` as JSON, secrets hidden.
    #[must_use]
    pub fn new(metrics: Metrics, readiness: Readiness, level: LevelHandle, config: String) -> Self {
        Self { metrics, readiness, level, config: config.into() }
    }

    /// The port as one service, to be put on a listener by [`crate::serve::serve`].
    pub fn router(self) -> Router {
        let local = Router::new()
            .route("/log-level", get(show_level).put(set_level))
            .route("/config", get(show_config))
            .layer(DefaultBodyLimit::max(FILTER_MAX))
            .layer(middleware::from_fn(only_loopback));
        let guard = Guard::new(REQUESTS, REQUEST_TIME);
        Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(scrape))
            .merge(local)
            .layer(middleware::from_fn(move |request, next| guard.clone().run(request, next)))
            .with_state(self)
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let report = admin.readiness.report();
    let (status, mut text) = if report.waiting.is_empty() {
        (StatusCode::OK, "ready".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}", report.waiting.join(", ")))
    };
    for (name, why) in report.degraded {
        text.push_str(&format!("\ndegraded: {name}: {why}"));
    }
    (status, text)
}

async fn scrape(State(admin): State<Admin>) -> Response {
    // Counting open files takes a while on some kernels.
    let encoded = tokio::task::spawn_blocking(move || admin.metrics.encode()).await;
    match encoded {
        Ok(Ok(text)) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Ok(Err(_)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded").into_response()
        }
    }
}

async fn show_level(State(admin): State<Admin>) -> String {
    admin.level.current()
}

async fn set_level(State(admin): State<Admin>, filter: String) -> (StatusCode, String) {
    match admin.level.set(&filter) {
        Ok(()) => {
            // At a level that is always shown: somebody changed what will be.
            tracing::warn!(filter = admin.level.current(), "log level changed");
            (StatusCode::OK, admin.level.current())
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn show_config(State(admin): State<Admin>) -> Response {
    ([(CONTENT_TYPE, "application/json")], admin.config.to_string()).into_response()
}

async fn only_loopback(peer: Option<Extension<Peer>>, request: Request, next: Next) -> Response {
    match peer {
        Some(Extension(Peer(addr))) if addr.ip().is_loopback() => next.run(request).await,
        _ => (StatusCode::FORBIDDEN, "only from this machine, over the loopback address").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Method;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{metrics::Family, telemetry};

    const LOOPBACK: &str = "127.0.0.1:5000";
    const ELSEWHERE: &str = "10.0.0.1:5000";

    fn admin() -> Admin {
        let metrics = Metrics::new("frontier");
        metrics.register(|| vec![Family::counter("frontier_accepts", "Connections taken").row(&[], 7)]);
        let config = r#"{"password": "***"}"#.to_owned();
        Admin::new(metrics, Readiness::default(), telemetry::detached_level(), config)
    }

    async fn send(
        admin: &Admin,
        method: Method,
        path: &str,
        peer: &str,
        body: &str,
    ) -> (u16, String, String) {
        let mut request =
            http::Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        let response = admin.clone().router().oneshot(request).await.unwrap();
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap(), kind.unwrap_or_default())
    }

    async fn get(admin: &Admin, path: &str, peer: &str) -> (u16, String) {
        let (status, text, _) = send(admin, Method::GET, path, peer, "").await;
        (status, text)
    }

    #[tokio::test]
    async fn health_is_ok() {
        assert_eq!(get(&admin(), "/healthz", ELSEWHERE).await, (200, "ok".to_owned()));
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let admin = admin();
        assert_eq!(get(&admin, "/readyz", ELSEWHERE).await, (200, "ready".to_owned()));
        let guards = (admin.readiness.guard("edgebound"), admin.readiness.guard("servicebound"));
        assert_eq!(
            get(&admin, "/readyz", ELSEWHERE).await,
            (503, "not ready: edgebound, servicebound".to_owned())
        );
        drop(guards);
        let _note = admin.readiness.degraded("registry", "no answer for 12 s");
        let expected = "ready\ndegraded: registry: no answer for 12 s".to_owned();
        assert_eq!(get(&admin, "/readyz", ELSEWHERE).await, (200, expected));
    }

    #[tokio::test]
    async fn metrics_are_served_in_their_format() {
        let (status, text, kind) = send(&admin(), Method::GET, "/metrics", ELSEWHERE, "").await;
        assert_eq!((status, kind.as_str()), (200, METRICS_TYPE));
        assert!(text.contains("frontier_accepts_total 7\n") && text.contains("process_cpu_seconds_total "));
    }

    #[tokio::test]
    async fn the_log_level_is_shown_and_set() {
        let admin = admin();
        assert_eq!(get(&admin, "/log-level", LOOPBACK).await, (200, "info".to_owned()));
        let (status, text, _) = send(&admin, Method::PUT, "/log-level", LOOPBACK, "warn\n").await;
        assert_eq!((status, text.as_str()), (200, "warn"));
        assert_eq!(get(&admin, "/log-level", "[::1]:5000").await, (200, "warn".to_owned()));
        let (status, text, _) = send(&admin, Method::PUT, "/log-level", LOOPBACK, "loud").await;
        assert_eq!(status, 400);
        assert!(text.starts_with("unsupported log level \"loud\""), "{text}");
        let long = "x".repeat(FILTER_MAX + 1);
        assert_eq!(send(&admin, Method::PUT, "/log-level", LOOPBACK, &long).await.0, 413);
    }

    #[tokio::test]
    async fn the_configuration_is_shown() {
        let (status, text, kind) = send(&admin(), Method::GET, "/config", LOOPBACK, "").await;
        assert_eq!(
            (status, kind.as_str(), text.as_str()),
            (200, "application/json", r#"{"password": "***"}"#)
        );
    }

    #[tokio::test]
    async fn what_is_for_this_machine_is_refused_to_others() {
        let admin = admin();
        for path in ["/log-level", "/config"] {
            assert_eq!(get(&admin, path, ELSEWHERE).await.0, 403, "{path}");
        }
        assert_eq!(send(&admin, Method::PUT, "/log-level", ELSEWHERE, "warn").await.0, 403);
        assert_eq!(get(&admin, "/log-level", LOOPBACK).await.1, "info");
        let request = http::Request::builder().uri("/config").body(Body::empty()).unwrap();
        assert_eq!(
            admin.router().oneshot(request).await.unwrap().status(),
            403,
            "nobody known is nobody local"
        );
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        assert_eq!(get(&admin(), "/debug/pprof/", LOOPBACK).await.0, 404);
        assert_eq!(send(&admin(), Method::POST, "/metrics", LOOPBACK, "").await.0, 405);
        assert_eq!(send(&admin(), Method::DELETE, "/log-level", LOOPBACK, "").await.0, 405);
    }
}
