//! A Redis Cluster of six servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use frontier_atlas::store::{EdgeOutcome, Store};

use crate::rules::{online, record_of};
use crate::server::{Cluster, SOON, connect, eventually, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_rules_and_its_edges_whatever_becomes_of_its_servers() {
    // One for all: it takes seconds to start.
    let mut cluster = Cluster::start();
    let redis = connect(cluster.settings()).await;
    Box::pin(crate::every_rule(&redis, || cluster.flush())).await;
    drop(redis);
    for story in [0, 1, 2, 3] {
        cluster.flush();
        match story {
            0 => Box::pin(crate::changes::changes_are_heard_on_every_server_of_a_cluster(&cluster)).await,
            1 => Box::pin(slots_move_and_nobody_notices(&cluster)).await,
            2 => Box::pin(a_master_dies_and_its_replica_takes_over(&mut cluster)).await,
            _ => Box::pin(a_slot_that_is_on_its_way_is_read_at_both_ends(&cluster)).await,
        }
    }
}

/// Slots move while edges are written and read: no operation fails, and no answer is another edge's.
async fn slots_move_and_nobody_notices(cluster: &Cluster) {
    const EDGES: u64 = 2_000;
    let redis = Arc::new(connect(cluster.settings()).await);
    write(&*redis, 0..EDGES, 1).await;
    let over = Arc::new(AtomicBool::new(false));
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let port = from.port;
    let [from, to] = [from, to].map(|node| node.tell("CLUSTER MYID"));
    let reshard = {
        let over = Arc::clone(&over);
        tokio::task::spawn_blocking(move || {
            let output = std::process::Command::new("redis-cli")
                .args(["--cluster", "reshard", &format!("127.0.0.1:{port}"), "--cluster-yes"])
                .args(["--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", "400"])
                .output()
                .unwrap();
            over.store(true, Ordering::SeqCst);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        })
    };
    let mut epoch = 1;
    while !over.load(Ordering::SeqCst) {
        epoch += 1;
        write(&*redis, 0..EDGES, epoch).await;
        read(&*redis, 0..EDGES, epoch).await;
        for edge in (0..EDGES).step_by(97) {
            assert_eq!(redis.edges(&[edge]).await.unwrap(), [Some(record_of(edge, epoch))], "edge {edge}");
        }
    }
    reshard.await.unwrap();
    write(&*redis, 0..EDGES, epoch + 1).await;
    read(&*redis, 0..EDGES, epoch + 1).await;
    assert!(redis.connections().redirected > 0, "no slot moved under our hands");
    // Who comes now finds everything as well.
    read(&connect(cluster.settings()).await, 0..EDGES, epoch + 1).await;
}

/// A slot that stays between two servers: some of its keys are here, some there.
async fn a_slot_that_is_on_its_way_is_read_at_both_ends(cluster: &Cluster) {
    let redis = connect(cluster.settings()).await;
    write(&redis, 0..500, 1).await;
    // The other two: the first is a replica by now.
    let (from, to) = (&cluster.nodes[2], &cluster.nodes[1]);
    let [from_id, to_id] = [from, to].map(|node| node.tell("CLUSTER MYID"));
    for slot in 16_000..16_200 {
        assert_eq!(to.tell(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}")), "OK");
        assert_eq!(from.tell(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}")), "OK");
    }
    for (edges, epoch) in [(0..1_000, 2), (0..1_500, 3)] {
        write(&redis, edges.clone(), epoch).await;
        read(&redis, edges, epoch).await;
    }
    assert!(redis.connections().redirected > 0);
}

/// A master dies: edges on the others are found throughout, and those it had are written again within seconds.
async fn a_master_dies_and_its_replica_takes_over(cluster: &mut Cluster) {
    const EDGES: u64 = 1_000;
    let redis = connect(cluster.settings()).await;
    write(&redis, 0..EDGES, 1).await;
    until("all is replicated", || cluster.nodes[..3].iter().all(|node| node.tell("WAIT 1 1000") == "1"));
    let mut elsewhere = None;
    cluster.nodes[0].kill();
    for edge in 0..EDGES {
        if redis.edges(&[edge]).await.is_ok_and(|found| found == [Some(record_of(edge, 1))]) {
            elsewhere = Some(edge);
            break;
        }
    }
    let elsewhere = elsewhere.expect("two masters are left");
    let mut lost = 0;
    eventually("everything can be read again", async || {
        if redis.edges(&[elsewhere]).await.is_err() {
            lost += 1;
        }
        let edges: Vec<u64> = (0..EDGES).collect();
        redis.edges(&edges).await.is_ok()
    })
    .await;
    // As long as the others do not know of it they answer; then all refuse for the moment of the election.
    read(&redis, 0..EDGES, 1).await;
    write(&redis, 0..EDGES, 2).await;
    redis.connected(SOON).await.unwrap();
    // It comes back as a replica.
    cluster.nodes[0].restart();
    until("the old master is a replica", || cluster.nodes[0].tell("ROLE").starts_with("slave"));
    write(&redis, 0..EDGES, 3).await;
    read(&redis, 0..EDGES, 3).await;
}

async fn write(store: &impl Store, edges: std::ops::Range<u64>, epoch: u64) {
    let writes: Vec<_> = edges.map(|edge| online(edge, epoch)).collect();
    let outcomes = store.write_edges(&writes, crate::rules::HORIZON).await.unwrap();
    for (write, outcome) in writes.iter().zip(outcomes) {
        let edge = write.edge();
        match outcome {
            EdgeOutcome::Done => {}
            // An answer that belongs to another edge would show here.
            EdgeOutcome::Replaced(record) => assert_eq!(record.claim.epoch & u64::from(u32::MAX), edge),
            EdgeOutcome::Lost(record) => panic!("edge {edge} was lost to {record:?}"),
        }
    }
}

async fn read(store: &impl Store, edges: std::ops::Range<u64>, epoch: u64) {
    let edges: Vec<u64> = edges.collect();
    let found = store.edges(&edges).await.unwrap();
    for (edge, found) in edges.iter().zip(found) {
        assert_eq!(found, Some(record_of(*edge, epoch)), "edge {edge}");
    }
}
