//! What others change is heard within a second; what we write is not heard.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use frontier_api::bucket::{edge_bucket, service_bucket};
use frontier_atlas::record::{Claim, Instance, ServiceRecord};
use frontier_atlas::store::{Change, EdgeWrite, ServiceWrite, Store};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use crate::rules::{HORIZON, gateway, online};
use crate::server::{Cluster, Server, connect, eventually};

/// Waits for a change.
async fn hear(changes: &mut Receiver<Change>, wanted: Change) {
    let start = Instant::now();
    eventually(&format!("{wanted:?} is heard"), async || match changes.try_recv() {
        Ok(change) => change == wanted,
        Err(TryRecvError::Lagged(_)) => panic!("too many changes"),
        Err(_) => false,
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(1), "{wanted:?} took {:?}", start.elapsed());
}

/// Forgets what was heard so far.
fn forget(changes: &mut Receiver<Change>) {
    while changes.try_recv().is_ok() {}
}

fn edge_key(edge: u64) -> String {
    format!("fr:e:{{{}}}", edge_bucket(edge))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_change_is_heard() {
    let server = Server::start(&[]);
    let redis = server.connect().await;
    let edges: Vec<u64> = (0..1_000).collect();
    redis.write_edges(&edges.iter().map(|edge| online(*edge, 1)).collect::<Vec<_>>(), HORIZON).await.unwrap();
    let mut changes = redis.changes();
    // A hand deletes one, forges another, and deletes a whole bucket.
    let (one, two, three) = (edges[0], edges[1], edges[2]);
    server.ask(&[b"HDEL", edge_key(one).as_bytes(), &one.to_be_bytes()]);
    hear(&mut changes, Change::Edges(edge_bucket(one))).await;
    server.ask(&[b"HSET", edge_key(two).as_bytes(), &two.to_be_bytes(), b"forged"]);
    hear(&mut changes, Change::Edges(edge_bucket(two))).await;
    server.ask(&[b"DEL", edge_key(three).as_bytes()]);
    hear(&mut changes, Change::Edges(edge_bucket(three))).await;
    server.ask(&[b"HSET", format!("fr:s:{{{}}}", service_bucket(9)).as_bytes(), b"x", b"y"]);
    hear(&mut changes, Change::Services(service_bucket(9))).await;
    server.ask(&[b"HSET", b"fr:{g}:rows", b"x", b"y"]);
    hear(&mut changes, Change::Members).await;
    // So is what another atlas writes, by the same scripts.
    let other = server.connect().await;
    other.write_edges(&[online(edges[3], 1)], HORIZON).await.unwrap();
    forget(&mut changes);
    other.write_edges(&[online(edges[3], 2)], HORIZON).await.unwrap();
    hear(&mut changes, Change::Edges(edge_bucket(edges[3]))).await;
    assert_eq!(server.tell("FLUSHALL"), "OK");
    hear(&mut changes, Change::Everything).await;
    // Again, and at once: it must be noticed each time.
    eventually("it is marked again", async || server.tell("KEYS fr:m:*") == "fr:m:{0}").await;
    assert_eq!(server.tell("FLUSHALL ASYNC"), "OK");
    hear(&mut changes, Change::Everything).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_write_is_not_heard() {
    let server = Server::start(&[]);
    let redis = server.connect().await;
    let (edges, here): (Vec<u64>, _) = ((0..1_000).collect(), Instance([1; 16]));
    redis.join(&gateway(here, "g", 1), Duration::from_secs(4), false).await.unwrap();
    let mut changes = redis.changes();
    for epoch in 1..6 {
        let writes: Vec<_> = edges.iter().map(|edge| online(*edge, epoch)).collect();
        redis.write_edges(&writes, HORIZON).await.unwrap();
        // The same again changes nothing, and neither does what comes too late.
        redis.write_edges(&writes, HORIZON).await.unwrap();
        let claim = Claim { epoch: 0, instance: here };
        let late = |edge: &u64| EdgeWrite::Offline { edge: *edge, claim };
        redis.write_edges(&edges.iter().map(late).collect::<Vec<_>>(), HORIZON).await.unwrap();
        redis.renew(here, epoch, 1, Duration::from_secs(4)).await.unwrap();
        let claim = Claim { epoch, instance: here };
        let addr = "10.0.0.1:1".parse().unwrap();
        let record = ServiceRecord { claim, stream: 1, addr, name: "s".to_owned() };
        redis.write_services(&[ServiceWrite::Online { service: 200, record }]).await.unwrap();
    }
    // A change by a hand comes behind all of that. On a machine that stands still for a second some echo may be taken for one as well.
    let last = edges[0];
    server.ask(&[b"DEL", edge_key(last).as_bytes()]);
    let mut heard = 0;
    eventually("the last change is heard", async || match changes.try_recv() {
        Ok(Change::Edges(bucket)) if bucket == edge_bucket(last) => true,
        Ok(change) => {
            heard += 1;
            assert!(heard < 3, "{change:?} and others before were heard");
            false
        }
        Err(_) => false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_loss_everything_may_have_changed_and_changes_are_heard_again() {
    let mut server = Server::start(&[]);
    let redis = server.connect().await;
    let mut changes = redis.changes();
    let edge = 1;
    server.kill();
    server.restart();
    eventually("everything", async || matches!(changes.try_recv(), Ok(Change::Everything))).await;
    redis.write_edges(&[online(edge, 1)], HORIZON).await.unwrap();
    server.ask(&[b"DEL", edge_key(edge).as_bytes()]);
    hear(&mut changes, Change::Edges(edge_bucket(edge))).await;
    // The same when only the connection is cut.
    assert!(server.tell("CLIENT KILL TYPE normal SKIPME yes").parse::<u32>().unwrap() > 0);
    eventually("everything", async || matches!(changes.try_recv(), Ok(Change::Everything))).await;
    redis.write_edges(&[online(edge, 1)], HORIZON).await.unwrap();
    server.ask(&[b"DEL", edge_key(edge).as_bytes()]);
    hear(&mut changes, Change::Edges(edge_bucket(edge))).await;
}

pub(crate) async fn changes_are_heard_on_every_server_of_a_cluster(cluster: &Cluster) {
    let redis = connect(cluster.settings()).await;
    let mut changes = redis.changes();
    let mut reached = BTreeSet::new();
    for edge in 0..30 {
        redis.write_edges(&[online(edge, 1)], HORIZON).await.unwrap();
        for node in &cluster.nodes[..3] {
            if node.ask(&[b"DEL", edge_key(edge).as_bytes()]) == "1" {
                hear(&mut changes, Change::Edges(edge_bucket(edge))).await;
                reached.insert(node.port);
            }
        }
    }
    assert_eq!(reached.len(), 3);
    for node in &cluster.nodes[..3] {
        eventually("it is marked", async || node.tell("KEYS fr:m:*").starts_with("fr:m:")).await;
        // The mark is known once it was looked at.
        let looks = || {
            node.tell("INFO commandstats").lines().find_map(|line| {
                line.strip_prefix("cmdstat_get:calls=")?.split(',').next()?.parse::<u32>().ok()
            })
        };
        let before = looks();
        eventually("it is looked at", async || looks() > before.map(|looks| looks + 1)).await;
        forget(&mut changes);
        assert_eq!(node.tell("FLUSHALL"), "OK");
        hear(&mut changes, Change::Everything).await;
    }
    assert!(matches!(redis.edges(&[1]).await, Ok(found) if found == [None]));
}
