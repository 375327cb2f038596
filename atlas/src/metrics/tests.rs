use std::{collections::BTreeSet, sync::Arc, time::Duration};

use frontier_ops::metrics::Metrics;

use super::*;
use crate::{
    directory::Directory,
    golink,
    links::Terms,
    record::Instance,
    store::{Gateway, Measured, Memory},
    watch::Watchers,
};

fn gateway(number: u8) -> Gateway {
    Gateway {
        instance: Instance([number; 16]),
        frontier_id: format!("frontier-{number}"),
        service_addr: format!("10.0.0.{number}:30011"),
        edge_addr: format!("10.0.0.{number}:30012"),
    }
}

async fn scrape() -> String {
    let store = Arc::new(Measured::new(Memory::new()));
    for (number, edges, services) in [(1, 10, 2), (2, 5, 1), (3, 100, 7)] {
        let gateway = gateway(number);
        store.join(&gateway, Duration::from_secs(4), false).await.unwrap();
        store.renew(gateway.instance, edges, services, Duration::from_secs(4)).await.unwrap();
    }
    let stream = store.members().await.unwrap().members[&gateway(3).instance].stream;
    store.leave(gateway(3).instance, stream).await.unwrap();
    let stats = store.stats();
    let sums = Sums::default();
    sums.take(&store.members().await.unwrap());
    let directory = Arc::new(Directory::new(Arc::clone(&store)));
    let watchers = Arc::new(Watchers::new(Arc::clone(&store), directory, 1));
    let links = Arc::new(Links::new(Arc::clone(&store), watchers, Terms::default()));
    let go = GoLinks::new(store, Arc::clone(&links), golink::Terms::default());
    let port = || vec![Arc::new(OperatorPort::new("admin"))];
    let seen = Seen { ports: port(), requests: vec![("control_plane", Arc::default())], ..Seen::default() };
    let metrics = Metrics::new("frontlas");
    metrics.register(move || families(&sums, &links, 3));
    metrics.register(move || go_gateways(&go));
    metrics.register(move || seen.families());
    metrics.register(move || super::store(&stats));
    metrics.register(|| connections(Connections::default()));
    metrics.encode().unwrap()
}

#[tokio::test]
async fn gateways_without_a_lease_do_not_count() {
    let text = scrape().await;
    for line in ["frontlas_members 2", "frontlas_edges 15", "frontlas_services 3", "frontlas_watchers 3"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("frontlas_store_duration_seconds_count{operation=\"join\"} 3"), "{text}");
}

#[tokio::test]
async fn every_metric_is_documented() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let document =
        ["frontlas.md", "configuration.md"].map(|name| std::fs::read_to_string(docs.join(name)).unwrap());
    let mut seen = BTreeSet::new();
    for line in scrape().await.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        let row = format!("| `{name}{suffix}` | {kind} |");
        let document = if name.starts_with("frontlas_") { &document[0] } else { &document[1] };
        assert!(document.contains(&row), "{name} ({kind})");
        assert!(seen.insert(name.to_owned()), "{name} twice");
    }
    let described = document[0].lines().filter(|line| line.starts_with("| `frontlas_")).count();
    let ours = seen.iter().filter(|name| name.starts_with("frontlas_")).count();
    // The allocator's depends on how it is built; those of logs and of certificates are registered where these are known.
    let elsewhere = if seen.contains("frontlas_allocator_bytes") { 2 } else { 3 };
    assert_eq!(described, ours + elsewhere, "{seen:?}");
}
