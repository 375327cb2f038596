use axum::{body::Body, response::Response};
use frontier_ops::config::SecretSource;
use http::{Method, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::core::names::NameSet;

/// Edges and services in memory, scanned a few at a time.
#[derive(Default)]
struct Fixture {
    edges: Mutex<Vec<EdgeRow>>,
    services: Mutex<Vec<ServiceRow>>,
    /// Asking for this edge panics.
    cursed: Option<u64>,
    /// Asking for this edge never ends.
    stuck: Option<u64>,
}

/// Rows of one scan: smaller than what is asked for, as at the end of a shard.
const SCAN: usize = 3;

fn scan<R: Clone>(rows: &[R], cursor: Option<u64>, most: usize) -> Scan<R> {
    let begin = cursor.map_or(0, |cursor| usize::try_from(cursor).unwrap());
    let end = (begin + SCAN.min(most)).min(rows.len());
    Scan { rows: rows[begin..end].to_vec(), next: (end < rows.len()).then_some(end as u64) }
}

impl DataPlane for Fixture {
    async fn edges(&self, cursor: Option<u64>, most: usize) -> Scan<EdgeRow> {
        scan(&self.edges.lock(), cursor, most)
    }

    async fn edge(&self, id: u64) -> Option<EdgeRow> {
        assert_ne!(self.cursed, Some(id), "this edge is cursed");
        if self.stuck == Some(id) {
            std::future::pending::<()>().await;
        }
        self.edges.lock().iter().find(|row| row.edge_id == id).cloned()
    }

    async fn kick_edge(&self, id: u64) -> Result<(), NotOnline> {
        let mut edges = self.edges.lock();
        let before = edges.len();
        edges.retain(|row| row.edge_id != id);
        if edges.len() < before { Ok(()) } else { Err(NotOnline) }
    }

    async fn services(&self) -> Vec<ServiceRow> {
        self.services.lock().clone()
    }

    async fn service(&self, id: u64) -> Option<ServiceRow> {
        self.services.lock().iter().find(|row| row.service_id == id).cloned()
    }

    async fn kick_service(&self, id: u64) -> Result<(), NotOnline> {
        let mut services = self.services.lock();
        let before = services.len();
        services.retain(|row| row.service_id != id);
        if services.len() < before { Ok(()) } else { Err(NotOnline) }
    }
}

fn edge(id: u64, meta: &str, addr: &str, time: i64, methods: &[&str]) -> EdgeRow {
    EdgeRow {
        edge_id: id,
        meta: Bytes::copy_from_slice(meta.as_bytes()),
        addr: addr.parse().unwrap(),
        create_time: time,
        methods: Some(Arc::new(NameSet::default().edited(methods.iter().copied(), [].into_iter()))),
    }
}

fn service(id: u64, name: &str, addr: &str, time: i64, methods: &[&str], topics: &[&str]) -> ServiceRow {
    ServiceRow {
        service_id: id,
        name: name.into(),
        addr: addr.parse().unwrap(),
        create_time: time,
        methods: methods.iter().map(|name| Arc::from(*name)).collect(),
        topics: topics.iter().map(|name| Arc::from(*name)).collect(),
    }
}

/// Seven edges and four services.
fn fixture() -> Fixture {
    let edges = vec![
        edge(1, "alice", "10.0.0.1:51000", 100, &["echo"]),
        edge(2, "Albert", "10.0.0.2:51000", 200, &["echo", "sum"]),
        edge(3, "bob", "10.0.1.3:51000", 300, &[]),
        edge(4, "carol", "[::ffff:192.168.0.4]:51000", 400, &["reset"]),
        edge(5, "", "[2001:db8::5]:51000", 500, &["echo"]),
        edge(18_446_744_073_709_551_615, "last", "10.0.0.6:51000", 600, &[]),
        edge(7, "alan", "10.0.0.7:51000", 200, &["Echo"]),
    ];
    let services = vec![
        service(11, "files", "10.1.0.1:4000", 50, &["put", "get"], &["uploads"]),
        service(12, "telemetry", "10.1.0.2:4000", 60, &["tune"], &["readings", "alarms"]),
        service(12, "telemetry", "10.1.0.3:4000", 60, &["tune"], &["readings"]),
        service(13, "Filters", "10.1.1.4:4000", 70, &[], &[]),
    ];
    Fixture { edges: Mutex::new(edges), services: Mutex::new(services), ..Fixture::default() }
}

async fn send(
    router: Router,
    method: Method,
    uri: &str,
    authorization: Option<&str>,
) -> (StatusCode, Response) {
    let mut request = http::Request::builder().method(method).uri(uri);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    (response.status(), response)
}

async fn body(response: Response) -> Value {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"))
}

/// With room for so many requests at once.
fn app_of(data: impl DataPlane, kicks: KickRule, places: usize) -> Router {
    let api = Arc::new(Api::new(Arc::new(data), kicks));
    bounded(api, &Readiness::default(), places)
}

fn app(fixture: Fixture) -> Router {
    router(Arc::new(fixture), KickRule::default(), &Readiness::default())
}

/// `GET` from the usual fixture.
async fn get(uri: &str) -> (StatusCode, Value) {
    let (status, response) = send(app(fixture()), Method::GET, uri, None).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json", "{uri}");
    (status, body(response).await)
}

/// The edge IDs and the count of a list.
async fn edges(query: &str) -> (Vec<u64>, i64) {
    let (status, list) = get(&format!("/v1/edges?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{query}: {list}");
    let ids = list["edges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|edge| edge["edge_id"].as_str().unwrap().parse().unwrap());
    (ids.collect(), list["count"].as_i64().unwrap())
}

async fn services(query: &str) -> (Vec<String>, i64) {
    let (status, list) = get(&format!("/v1/services?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{query}: {list}");
    let name = |service: &Value| {
        format!("{}@{}", service["service"].as_str().unwrap(), service["addr"].as_str().unwrap())
    };
    (list["services"].as_array().unwrap().iter().map(name).collect(), list["count"].as_i64().unwrap())
}

const LAST: u64 = u64::MAX;

// --- shapes ---

#[tokio::test]
async fn json_has_every_field_and_long_numbers_as_text() {
    let (status, list) = get("/v1/edges?page_size=1").await;
    let first = json!({"edge_id": "18446744073709551615", "meta": "last", "addr": "10.0.0.6:51000", "create_time": "600"});
    assert_eq!((status, list), (StatusCode::OK, json!({"edges": [first], "count": 7})));
    let (_, one) = get("/v1/edges/5").await;
    assert_eq!(one, json!({"edge_id": "5", "meta": "", "addr": "[2001:db8::5]:51000", "create_time": "500"}));
    let (_, one) = get("/v1/services/11").await;
    assert_eq!(
        one,
        json!({"service_id": "11", "service": "files", "addr": "10.1.0.1:4000", "create_time": "50"})
    );
    assert_eq!(get("/v1/edges?meta=nobody").await.1, json!({"edges": [], "count": 0}));
    assert_eq!(get("/v1/services?service=nobody").await.1, json!({"services": [], "count": 0}));
}

#[tokio::test]
async fn fields_stand_in_the_order_of_the_proto() {
    let (_, response) = send(app(fixture()), Method::GET, "/v1/edges/1", None).await;
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let text = r#"{"edge_id":"1","meta":"alice","addr":"10.0.0.1:51000","create_time":"100"}"#;
    assert_eq!(bytes, text.as_bytes());
}

#[tokio::test]
async fn addresses_are_shown_as_people_know_them() {
    assert_eq!(get("/v1/edges/4").await.1["addr"], "192.168.0.4:51000");
    assert_eq!(edges("addr=192.168").await, (vec![4], 1));
}

#[tokio::test]
async fn metadata_that_is_no_text_does_not_break_lists() {
    let fixture = fixture();
    fixture.edges.lock()[0].meta = Bytes::from_static(b"\xff\x00ok");
    let (_, response) = send(app(fixture), Method::GET, "/v1/edges/1", None).await;
    assert_eq!(body(response).await["meta"], "\u{fffd}\u{0}ok");
}

// --- filters ---

#[tokio::test]
async fn edges_are_filtered_by_any_combination() {
    for (query, expected) in [
        ("meta=al", vec![1, 2, 7]),
        ("meta=AL", vec![1, 2, 7]),
        ("meta=lice", vec![]),
        ("addr=10.0.0.", vec![1, 2, LAST, 7]),
        ("rpc=echo", vec![1, 2, 5]),
        ("rpc=ech", vec![]),
        ("rpc=echo&meta=al&addr=10.0.0.2", vec![2]),
        ("start_time=200", vec![2, 3, 4, 5, LAST, 7]),
        ("end_time=200", vec![1]),
        ("start_time=200&end_time=300", vec![2, 7]),
        ("startTime=200&endTime=300&meta=alb", vec![2]),
        ("edge_id=3", vec![3]),
        ("edge_id=3&meta=al", vec![]),
        ("edge_id=99", vec![]),
        ("meta=", vec![1, 2, 3, 4, 5, LAST, 7]),
        ("unknown=1&meta=bob", vec![3]),
    ] {
        let (mut found, count) = edges(query).await;
        let mut expected = expected;
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(count, expected.len() as i64, "{query}");
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn services_are_filtered_by_any_combination() {
    for (query, expected) in [
        ("service=fil", vec!["Filters@10.1.1.4:4000", "files@10.1.0.1:4000"]),
        ("service=fil&topic=uploads", vec!["files@10.1.0.1:4000"]),
        ("rpc=tune", vec!["telemetry@10.1.0.2:4000", "telemetry@10.1.0.3:4000"]),
        ("topic=alarms", vec!["telemetry@10.1.0.2:4000"]),
        ("addr=10.1.1", vec!["Filters@10.1.1.4:4000"]),
        ("start_time=60&end_time=70", vec!["telemetry@10.1.0.2:4000", "telemetry@10.1.0.3:4000"]),
    ] {
        assert_eq!(
            services(query).await,
            (expected.iter().map(|name| (*name).to_owned()).collect(), expected.len() as i64)
        );
    }
}

// --- order and pages ---

#[tokio::test]
async fn edges_are_ordered_as_asked() {
    for (order, expected) in [
        ("", vec![LAST, 5, 4, 3, 2, 7, 1]),
        ("order=-create_time", vec![LAST, 5, 4, 3, 2, 7, 1]),
        ("order=%2Bcreate_time", vec![1, 2, 7, 3, 4, 5, LAST]),
        ("order=edge_id", vec![LAST, 7, 5, 4, 3, 2, 1]),
        ("order=%2Bedge_id", vec![1, 2, 3, 4, 5, 7, LAST]),
        ("order=+edge_id", vec![1, 2, 3, 4, 5, 7, LAST]),
        ("order=meta", vec![LAST, 4, 3, 1, 7, 2, 5]),
        ("order=%2Bmeta", vec![5, 2, 7, 1, 3, 4, LAST]),
        ("order=%2Baddr", vec![1, 2, LAST, 7, 3, 4, 5]),
        ("order=%2Bcolour", vec![LAST, 5, 4, 3, 2, 7, 1]),
    ] {
        assert_eq!(edges(order).await, (expected, 7), "{order}");
    }
}

#[tokio::test]
async fn services_ascend_by_themselves() {
    let names = services("order=service").await.0;
    assert_eq!(names[..2], ["Filters@10.1.1.4:4000", "files@10.1.0.1:4000"]);
    assert_eq!(services("order=-service").await.0[0], "telemetry@10.1.0.2:4000");
    assert_eq!(services("order=addr").await.0[0], "files@10.1.0.1:4000");
    assert_eq!(services("order=-service_id").await.0[0], "Filters@10.1.1.4:4000");
    assert_eq!(services("").await.0[0], "Filters@10.1.1.4:4000", "the newest first");
}

#[tokio::test]
async fn pages_cut_the_list_and_count_all_of_it() {
    assert_eq!(edges("order=%2Bedge_id&page=1&page_size=3").await, (vec![1, 2, 3], 7));
    assert_eq!(edges("order=%2Bedge_id&page=2&pageSize=3").await, (vec![4, 5, 7], 7));
    assert_eq!(edges("order=%2Bedge_id&page=3&page_size=3").await, (vec![LAST], 7));
    assert_eq!(edges("page=4&page_size=3").await, (vec![], 7));
    assert_eq!(edges("page=9223372036854775807&page_size=1000").await, (vec![], 7));
    assert_eq!(edges("page=0&page_size=-1&order=%2Bedge_id").await.0.len(), 7);
    assert_eq!(edges("page=&page_size=").await.0.len(), 7);
}

#[tokio::test]
async fn pages_fit_together_whatever_the_size() {
    for order in ["", "order=meta", "order=%2Baddr"] {
        let (all, _) = edges(&format!("{order}&page_size=1000")).await;
        for size in 1..=4 {
            let mut pages = Vec::new();
            for page in 1..=7 {
                pages.extend(edges(&format!("{order}&page={page}&page_size={size}")).await.0);
            }
            assert_eq!(pages, all, "{order} by {size}");
        }
    }
}

// --- names ---

#[tokio::test]
async fn methods_of_edges_are_listed_once() {
    let list = |query: &'static str| async move { get(&format!("/v1/edges/rpcs?{query}")).await.1 };
    assert_eq!(list("order=rpc").await, json!({"rpcs": ["Echo", "echo", "reset", "sum"], "count": 4}));
    assert_eq!(list("order=-rpc&page_size=2").await, json!({"rpcs": ["sum", "reset"], "count": 4}));
    assert_eq!(list("order=-rpc&page_size=3&page=2").await, json!({"rpcs": ["Echo"], "count": 4}));
    assert_eq!(list("edge_id=2&order=rpc").await, json!({"rpcs": ["echo", "sum"], "count": 2}));
    assert_eq!(list("meta=al&end_time=200").await, json!({"rpcs": ["echo"], "count": 1}));
    assert_eq!(list("start_time=400&end_time=500").await, json!({"rpcs": ["reset"], "count": 1}));
    assert_eq!(list("edge_id=99").await, json!({"rpcs": [], "count": 0}));
    assert_eq!(list("order=edge_id").await["rpcs"], json!(["echo", "sum", "reset", "Echo"]));
    assert_eq!(list("").await["rpcs"], json!(["echo", "reset", "sum", "Echo"]), "the newest first");
}

#[tokio::test]
async fn methods_and_topics_of_services_are_listed_once() {
    assert_eq!(
        get("/v1/services/rpcs?order=rpc").await.1,
        json!({"rpcs": ["get", "put", "tune"], "count": 3})
    );
    assert_eq!(get("/v1/services/rpcs?service_id=12").await.1, json!({"rpcs": ["tune"], "count": 1}));
    assert_eq!(get("/v1/services/rpcs?serviceId=12").await.1, json!({"rpcs": ["tune"], "count": 1}));
    let topics = json!({"topics": ["alarms", "readings", "uploads"], "count": 3});
    assert_eq!(get("/v1/services/topics?order=topic").await.1, topics);
    assert_eq!(get("/v1/services/topics?service=files").await.1, json!({"topics": ["uploads"], "count": 1}));
    assert_eq!(get("/v1/services/topics?end_time=60").await.1, json!({"topics": ["uploads"], "count": 1}));
}

// --- errors ---

async fn error(uri: &str) -> (u16, Value) {
    let (status, body) = get(uri).await;
    let fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["code", "message", "metadata", "reason"], "{uri}");
    assert_eq!(body["code"], status.as_u16(), "{uri}");
    (status.as_u16(), body)
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let (status, body) = error("/v1/edges/99").await;
    assert_eq!(status, 404);
    let expected = json!({"code": 404, "reason": "edge_not_online", "message": "edge not online", "metadata": {"edge_id": "99"}});
    assert_eq!(body, expected);
    assert_eq!(error("/v1/services/99").await.1["reason"], "service_not_online");
    for path in ["/", "/v1", "/v2/edges", "/v1/edges/1/2", "/debug/pprof/", "//host/", "/v1/edges/rpcs/x"] {
        assert_eq!(error(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn wrong_parameters_are_400() {
    for (uri, part) in [
        ("/v1/edges/x", "parsing field \"edge_id\": \"x\""),
        ("/v1/edges/-1", "parsing field \"edge_id\""),
        ("/v1/services/18446744073709551616", "parsing field \"service_id\""),
        ("/v1/edges?page=x", "parsing field \"page\""),
        ("/v1/edges?page=1&page=2", "too many values for field \"page\""),
        ("/v1/edges?page_size=1&pageSize=2", "too many values for field \"page_size\""),
        ("/v1/edges?meta=a&meta=b", "too many values for field \"meta\""),
        ("/v1/services?start_time=now", "parsing field \"start_time\""),
        ("/v1/services/rpcs?service_id=1.5", "parsing field \"service_id\""),
        ("/v1/edges?meta=%ff", "percent-encoded"),
    ] {
        let (status, body) = error(uri).await;
        assert_eq!((status, &body["reason"]), (400, &json!("invalid_argument")), "{uri}");
        assert!(body["message"].as_str().unwrap().contains(part), "{uri}: {body}");
    }
}

#[tokio::test]
async fn wrong_methods_are_405() {
    for (method, uri) in [
        (Method::POST, "/v1/edges"),
        (Method::DELETE, "/v1/edges"),
        (Method::PUT, "/v1/services/11"),
        (Method::DELETE, "/v1/edges/rpcs"),
    ] {
        let (status, response) = send(app(fixture()), method, uri, None).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{uri}");
        assert!(response.headers().contains_key(header::ALLOW), "{uri}");
        assert_eq!(body(response).await["code"], 405, "{uri}");
    }
}

#[tokio::test]
async fn a_slash_too_many_is_redirected() {
    for (uri, meant) in [
        ("/v1/edges/", "/v1/edges"),
        ("/v1/edges/1/", "/v1/edges/1"),
        ("/v1/services/rpcs/?page=2", "/v1/services/rpcs?page=2"),
    ] {
        let (status, response) = send(app(fixture()), Method::GET, uri, None).await;
        assert_eq!(status, StatusCode::PERMANENT_REDIRECT, "{uri}");
        assert_eq!(response.headers()[header::LOCATION], meant);
    }
}

#[tokio::test]
async fn the_document_is_served() {
    let (status, document) = get("/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    assert!(document["paths"]["/v1/edges/{edge_id}"]["delete"].is_object());
}

/// Shards that do not answer, or worse.
#[derive(Clone, Copy)]
enum Broken {
    Silent,
    Panicking,
}

impl Broken {
    async fn answer<T>(self) -> T {
        match self {
            Self::Silent => std::future::pending().await,
            Self::Panicking => panic!("no shard is as it should be"),
        }
    }
}

impl DataPlane for Broken {
    async fn edges(&self, _: Option<u64>, _: usize) -> Scan<EdgeRow> {
        self.answer().await
    }

    async fn edge(&self, _: u64) -> Option<EdgeRow> {
        self.answer().await
    }

    async fn kick_edge(&self, _: u64) -> Result<(), NotOnline> {
        self.answer().await
    }

    async fn services(&self) -> Vec<ServiceRow> {
        self.answer().await
    }

    async fn service(&self, _: u64) -> Option<ServiceRow> {
        self.answer().await
    }

    async fn kick_service(&self, _: u64) -> Result<(), NotOnline> {
        self.answer().await
    }
}

#[tokio::test(start_paused = true)]
async fn the_document_lists_every_status_of_every_path_and_no_other() {
    let (_, document) = get("/openapi.json").await;
    let kicks = || KickRule::new(Some(SecretSource::parse("s3cret")));
    let (right, wrong) = (Some("Bearer s3cret"), Some("Bearer wrong"));
    let mut compared = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let uri = path.replace("{edge_id}", "1").replace("{service_id}", "11");
            let nobody = path.replace("{edge_id}", "99").replace("{service_id}", "99");
            let garbled = path.replace("{edge_id}", "x").replace("{service_id}", "x") + "?page=1&page=2";
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for (uri, authorization) in
                [(&uri, right), (&uri, wrong), (&uri, None), (&nobody, right), (&garbled, right)]
            {
                let app = app_of(fixture(), kicks(), REQUESTS);
                seen.insert(send(app, method.clone(), uri, authorization).await.0.as_u16());
            }
            for broken in [Broken::Silent, Broken::Panicking] {
                let app = app_of(broken, kicks(), REQUESTS);
                seen.insert(send(app, method.clone(), &uri, right).await.0.as_u16());
            }
            let full = app_of(fixture(), kicks(), 0);
            seen.insert(send(full, method.clone(), &uri, right).await.0.as_u16());
            let documented = operation["responses"].as_object().unwrap().keys();
            let documented: std::collections::BTreeSet<u16> =
                documented.map(|status| status.parse().unwrap()).collect();
            assert_eq!(seen, documented, "{method} {path}");
            compared += 1;
        }
    }
    assert_eq!(compared, 10);
}

// --- kicks ---

#[tokio::test]
async fn kicks_end_sessions_and_answer_nothing() {
    let app = app(fixture());
    let (status, response) = send(app.clone(), Method::DELETE, "/v1/edges/1", None).await;
    assert_eq!((status, body(response).await), (StatusCode::OK, json!({})));
    let (status, response) = send(app.clone(), Method::DELETE, "/v1/edges/1", None).await;
    assert_eq!(
        (status, &body(response).await["message"]),
        (StatusCode::NOT_FOUND, &json!("edge not online"))
    );
    let (status, _) = send(app.clone(), Method::DELETE, "/v1/services/12", None).await;
    assert_eq!(status, StatusCode::OK);
    let (_, response) = send(app.clone(), Method::GET, "/v1/services", None).await;
    assert_eq!(body(response).await["count"], 2, "all instances with the ID are gone");
    let (status, _) = send(app, Method::DELETE, "/v1/services/12", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn kicks_may_need_a_token() {
    let rule = KickRule::new(Some(SecretSource::parse("s3cret")));
    let app = router(Arc::new(fixture()), rule, &Readiness::default());
    let (status, response) = send(app.clone(), Method::DELETE, "/v1/edges/1", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    assert_eq!(body(response).await["reason"], "unauthenticated");
    let (status, response) = send(app.clone(), Method::DELETE, "/v1/edges/1", Some("Bearer wrong")).await;
    assert_eq!(
        (status, &body(response).await["reason"]),
        (StatusCode::FORBIDDEN, &json!("permission_denied"))
    );
    let (status, _) = send(app.clone(), Method::DELETE, "/v1/services/11", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = send(app.clone(), Method::GET, "/v1/edges/1", None).await;
    assert_eq!(status, StatusCode::OK, "reading needs no token, and nothing was kicked");
    let (status, _) = send(app, Method::DELETE, "/v1/edges/1", Some("Bearer s3cret")).await;
    assert_eq!(status, StatusCode::OK);
}

// --- bounds ---

#[tokio::test]
async fn a_panic_ends_only_its_request() {
    let app = app(Fixture { cursed: Some(1), ..fixture() });
    let (status, response) = send(app.clone(), Method::GET, "/v1/edges/1", None).await;
    let expected =
        json!({"code": 500, "reason": "internal", "message": "unknown request error", "metadata": {}});
    assert_eq!((status, body(response).await), (StatusCode::INTERNAL_SERVER_ERROR, expected));
    assert_eq!(send(app, Method::GET, "/v1/edges/2", None).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_request_has_its_time() {
    let app = app(Fixture { stuck: Some(1), ..fixture() });
    let (status, response) = send(app, Method::GET, "/v1/edges/1", None).await;
    assert_eq!(
        (status, &body(response).await["reason"]),
        (StatusCode::GATEWAY_TIMEOUT, &json!("deadline_exceeded"))
    );
}

#[tokio::test]
async fn requests_past_the_bound_are_refused_at_once() {
    let app = app_of(Fixture { stuck: Some(1), ..fixture() }, KickRule::default(), 1);
    let stuck = send(app.clone(), Method::GET, "/v1/edges/1", None);
    tokio::pin!(stuck);
    // Polled once, so that it is inside.
    assert!(futures::poll!(&mut stuck).is_pending());
    let (status, response) = send(app.clone(), Method::GET, "/v1/edges/2", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    assert_eq!(body(response).await["reason"], "overloaded");
    let request = http::Request::builder().method(Method::POST).uri("/controlplane.ControlPlane/GetEdge");
    let request = request.header(header::CONTENT_TYPE, "application/grpc").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "8", "gRPC clients get a gRPC error: resource exhausted");
}
