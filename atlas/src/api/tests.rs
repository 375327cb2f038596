use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use frontier_api::bucket::edge_bucket;
use prost::Message as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::record::{Claim, EdgeRecord, Instance, ServiceRecord};
use crate::store::{EdgeWrite, Memory, ServiceWrite};

const LEASE: Duration = Duration::from_secs(300);
const HORIZON: StoreTime = StoreTime(1 << 43);
const ONE: Instance = Instance([1; 16]);
const TWO: Instance = Instance([2; 16]);
const GONE: Instance = Instance([3; 16]);

/// Two gateways with edges 1 to 6 and 7 to 10, and service 5 at both; a third one that is gone has edge 99.
async fn cluster() -> Cluster<Memory> {
    let store = Arc::new(Memory::new());
    for (instance, name) in [(ONE, "one"), (TWO, "two"), (GONE, "gone")] {
        let frontier_id = name.to_owned();
        let gateway = Gateway {
            instance,
            frontier_id,
            service_addr: format!("{name}:1"),
            edge_addr: format!("{name}:2"),
        };
        store.join(&gateway, LEASE, false).await.unwrap();
    }
    store.leave(GONE, 1).await.unwrap();
    store.renew(ONE, 6, 1, LEASE).await.unwrap();
    store.renew(TWO, 4, 1, LEASE).await.unwrap();
    let claim = |instance| Claim { epoch: StoreTime(1_700_000_000_123).epoch(), instance };
    let online = |edge, instance| {
        let record = EdgeRecord { claim: claim(instance), stream: 1, addr: "10.0.0.1:9".parse().unwrap() };
        EdgeWrite::Online { edge, record }
    };
    let edges = (1..=6).map(|edge| online(edge, ONE)).chain((7..=10).map(|edge| online(edge, TWO)));
    store.write_edges(&edges.chain([online(99, GONE)]).collect::<Vec<_>>(), HORIZON).await.unwrap();
    let service = |instance| {
        let (addr, name) = ("10.0.0.2:9".parse().unwrap(), "files".to_owned());
        let record = ServiceRecord { claim: claim(instance), stream: 1, addr, name };
        ServiceWrite::Online { service: 5, record }
    };
    store.write_services(&[service(ONE), service(TWO)]).await.unwrap();
    let directory = Arc::new(Directory::new(Arc::clone(&store)));
    let watchers = Arc::new(Watchers::new(store, Arc::clone(&directory), 10));
    Cluster::new(directory, watchers)
}

async fn get(router: &Router, path: &str) -> (StatusCode, Value) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn frontiers_are_listed_by_every_combination_of_cursor_count_and_ids() {
    let cluster = cluster().await;
    let list = async |cursor, count, edge_ids: &[u64], frontier_ids: &[&str]| {
        let request = ListFrontiersRequest {
            cursor,
            count,
            edge_ids: edge_ids.to_vec(),
            frontier_ids: frontier_ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let list = cluster.list_frontiers(&request).await.unwrap();
        (list.frontiers.into_iter().map(|one| one.frontier_id).collect::<Vec<_>>(), list.cursor.unwrap())
    };
    let names =
        |names: &[&str], cursor| (names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), cursor);
    assert_eq!(list(None, None, &[], &[]).await, names(&["one", "two"], 0));
    assert_eq!(list(None, Some(1), &[], &[]).await, names(&["one"], 1));
    assert_eq!(list(Some(1), Some(1), &[], &[]).await, names(&["two"], 0));
    assert_eq!(list(Some(1), None, &[], &[]).await, names(&["two"], 0));
    assert_eq!(list(Some(u32::MAX), Some(u32::MAX), &[], &[]).await, names(&[], 0));
    assert_eq!(list(None, Some(0), &[], &[]).await, names(&["one", "two"], 0));
    assert_eq!(list(None, None, &[9, 1, 2, 99, 1_000], &[]).await, names(&["two", "one"], 0));
    assert_eq!(list(None, Some(1), &[9, 1], &[]).await, names(&["two"], 1));
    assert_eq!(list(None, None, &[99], &[]).await, names(&[], 0));
    assert_eq!(list(None, None, &[], &["two", "gone", "none", "two"]).await, names(&["two"], 0));
    assert_eq!(list(None, None, &[1], &["two", "one"]).await, names(&["one", "two"], 0));
    let many = ListFrontiersRequest { edge_ids: vec![1; IDS_MAX + 1], ..ListFrontiersRequest::default() };
    assert_eq!(cluster.list_frontiers(&many).await.unwrap_err().code, ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn edges_are_listed_by_every_combination_of_cursor_count_and_ids() {
    let cluster = cluster().await;
    let list = async |cursor, count, ids: &[u64]| {
        let list =
            cluster.list_edges(&ListEdgesRequest { cursor, count, edge_ids: ids.to_vec() }).await.unwrap();
        (list.edges.into_iter().map(|edge| edge.edge_id).collect::<Vec<_>>(), list.cursor.unwrap())
    };
    let (mut all, end) = list(None, None, &[]).await;
    all.sort_unstable();
    assert_eq!((all, end), ((1..=10).collect(), 0));
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let (edges, next) = list(cursor, Some(3), &[]).await;
        seen.extend(edges);
        if next == 0 {
            break;
        }
        cursor = Some(next);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    assert_eq!(list(Some(u32::MAX), Some(5), &[]).await, (vec![], 0));
    assert_eq!(list(None, None, &[8, 99, 3, 8, 0]).await, (vec![8, 3], 0));
    assert_eq!(list(None, Some(1), &[8, 3]).await, (vec![8], 1));
    assert_eq!(list(Some(1), Some(1), &[8, 3]).await, (vec![3], 0));
    let one = cluster.edge_by_id(7).await.unwrap().edge.unwrap();
    assert_eq!((one.edge_id, one.frontier_id.as_str(), one.update_time), (7, "two", 1_700_000_000));
    assert_eq!((one.addr.as_str(), one.epoch >> 20), ("10.0.0.1:9", 1_700_000_000_123));
    for missing in [0, 99, u64::MAX] {
        let error = cluster.edge_by_id(missing).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::EdgeNotOnline, "edge not online"));
        assert_eq!(cluster.frontier_by_edge(missing).await.unwrap_err().code, ErrorCode::EdgeNotOnline);
    }
    assert_eq!(cluster.frontier_by_edge(7).await.unwrap().fontier.unwrap().advertised_sb_addr, "two:1");
    assert_eq!(cluster.edges_count().await.unwrap().count, 10);
    assert!(edge_bucket(1) < 16_384);
}

#[tokio::test]
async fn services_are_listed_at_each_gateway() {
    let cluster = cluster().await;
    let list = async |cursor, count, ids: &[u64]| {
        let request = ListServicesRequest { cursor, count, service_ids: ids.to_vec() };
        let list = cluster.list_services(&request).await.unwrap();
        (list.services.into_iter().map(|one| one.frontier_id).collect::<Vec<_>>(), list.cursor.unwrap())
    };
    let both = vec!["one".to_owned(), "two".to_owned()];
    assert_eq!(list(None, None, &[]).await, (both.clone(), 0));
    assert_eq!(list(None, None, &[6, 5, 5]).await, (both.clone(), 0));
    let (first, next) = list(None, Some(1), &[]).await;
    assert!(first == both[..1] && next > 0);
    assert_eq!(list(Some(next), Some(1), &[]).await, (both[1..].to_vec(), 0));
    assert_eq!(list(None, None, &[6]).await, (vec![], 0));
    let found = cluster.service_by_id(5).await.unwrap().service.unwrap();
    assert_eq!((found.service.as_str(), found.service_id, found.frontier_id.as_str()), ("files", 5, "two"));
    assert_eq!(cluster.service_by_id(6).await.unwrap_err().code, ErrorCode::ServiceNotOnline);
    assert_eq!(cluster.services_count().await.unwrap().count, 2);
}

#[tokio::test]
async fn rest_answers_in_json() {
    let readiness = Readiness::default();
    let router = router(cluster().await, &readiness);
    let (status, body) = get(&router, "/cluster/v1/frontiers").await;
    let one = json!({"frontierId": "one", "advertisedSbAddr": "one:1", "advertisedEbAddr": "one:2"});
    assert_eq!((status, &body["cursor"], &body["frontiers"][0]), (StatusCode::OK, &json!(0), &one));
    assert_eq!(get(&router, "/cluster/v1/frontier?edge_id=1").await.1, json!({"fontier": one}));
    let (_, body) = get(&router, "/cluster/v1/edges?edgeIds=3&edgeIds=8&count=1").await;
    assert_eq!(body["cursor"], json!(1));
    assert_eq!(body["edges"][0]["edgeId"], json!("3"));
    let (_, body) = get(&router, "/cluster/v1/edge?edge_id=8").await;
    assert_eq!(
        body["edge"],
        json!({"edgeId": "8", "addr": "10.0.0.1:9", "updateTime": "1700000000", "frontierId": "two",
            "epoch": (1_700_000_000_123_u64 << 20).to_string()})
    );
    assert_eq!(get(&router, "/cluster/v1/edges/count").await.1, json!({"count": "10"}));
    assert_eq!(get(&router, "/cluster/v1/services/count").await.1, json!({"count": "2"}));
    assert_eq!(
        get(&router, "/cluster/v1/services?service_ids=5").await.1["services"].as_array().unwrap().len(),
        2
    );
    assert_eq!(
        get(&router, "/cluster/v1/service?service_id=5").await.1["service"]["service"],
        json!("files")
    );
    assert_eq!(get(&router, "/cluster/v1/health").await, (StatusCode::OK, json!({"status": "SERVING"})));
    let starting = readiness.guard("store");
    assert_eq!(get(&router, "/cluster/v1/health").await.0, StatusCode::SERVICE_UNAVAILABLE);
    drop(starting);
    for (path, status) in [
        ("/cluster/v1/edge?edge_id=99", StatusCode::NOT_FOUND),
        ("/cluster/v1/frontier?edge_id=-1", StatusCode::BAD_REQUEST),
        ("/cluster/v1/frontier", StatusCode::BAD_REQUEST),
        ("/cluster/v1/edges?cursor=-1", StatusCode::BAD_REQUEST),
        ("/cluster/v1/edges?cursor=99999999999", StatusCode::BAD_REQUEST),
        ("/cluster/v1/edges?edge_ids=1,2", StatusCode::BAD_REQUEST),
        ("/cluster/v1/service?service_id=6", StatusCode::NOT_FOUND),
        ("/cluster/v2/edges", StatusCode::NOT_FOUND),
    ] {
        let (found, body) = get(&router, path).await;
        assert_eq!((found, &body["code"]), (status, &json!(status.as_u16())), "{path}");
    }
}

#[test]
fn the_document_describes_every_route_call_and_field() {
    let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let source = include_str!("rest.rs");
    let routes: BTreeSet<&str> =
        source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.keys().map(String::as_str).collect::<BTreeSet<_>>(), routes);
    let set = prost_types::FileDescriptorSet::decode(frontier_api::descriptors::CLUSTER).unwrap();
    let messages: BTreeMap<&str, BTreeSet<&str>> = set.file[0]
        .message_type
        .iter()
        .map(|message| (message.name(), message.field.iter().map(|field| field.name()).collect()))
        .collect();
    let rpcs = set.file[0].service.iter().find(|service| service.name() == "ClusterService").unwrap();
    for rpc in rpcs.method.iter().filter(|rpc| rpc.name() != "Watch") {
        let operation = paths.values().find(|path| path["get"]["operationId"] == rpc.name());
        let operation = operation.unwrap_or_else(|| panic!("{} is not described", rpc.name()));
        let named: BTreeSet<&str> = operation["get"]["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        let message = rpc.input_type().rsplit('.').next().unwrap();
        assert_eq!(named, messages[message], "{}", rpc.name());
    }
    let text = include_str!("openapi.json");
    for reference in text.split("\"$ref\": \"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}
