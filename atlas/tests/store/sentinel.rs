//! A master and its replica, watched by three sentinels.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use frontier_api::bucket::edge_bucket;
use frontier_atlas::store::{Change, Store};

use crate::rules::{HORIZON, online, record_of};
use crate::server::{SOON, Watched, connect, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_holds_behind_sentinels_and_a_failover_by_hand_loses_nothing() {
    // One for all: it takes seconds to start.
    let watched = Watched::start();
    let redis = connect(watched.settings()).await;
    let clear = || assert_eq!(watched.data[0].tell("FLUSHALL"), "OK");
    Box::pin(crate::every_rule(&redis, clear)).await;
    drop(redis);
    sentinels_without_a_master_of_that_name_say_so(&watched).await;
    clear();
    Box::pin(a_failover_by_hand_loses_nothing_that_was_replicated(&watched)).await;
}

async fn a_failover_by_hand_loses_nothing_that_was_replicated(watched: &Watched) {
    let redis = connect(watched.settings()).await;
    let mut changes = redis.changes();
    let mut acknowledged = BTreeMap::new();
    let mut write = async |edge: u64, epoch| {
        let done = redis.write_edges(&[online(edge, epoch)], HORIZON).await.is_ok();
        if done {
            acknowledged.insert(edge, epoch);
        }
        done
    };
    for edge in 0..500 {
        assert!(write(edge, 1).await);
    }
    assert_eq!(watched.data[0].tell("WAIT 1 5000"), "1");
    let replicated = 500;
    assert_eq!(watched.sentinels[0].tell("SENTINEL FAILOVER m"), "OK");
    // We keep writing all the while; the old master refuses at some time, or is gone.
    let (start, mut edge, mut gap) = (Instant::now(), replicated, None);
    let replica = &watched.data[1];
    while !(replica.tell("ROLE").starts_with("master") && write(edge, 1).await && gap.is_some()) {
        assert!(start.elapsed() < SOON, "writes do not work again");
        edge += 1;
        if !write(edge, 1).await {
            gap.get_or_insert_with(Instant::now);
        } else if replica.tell("DBSIZE") != "0" && watched.data[0].tell("ROLE").starts_with("slave") {
            // It may also go over without any write that fails.
            break;
        }
    }
    assert!(write(7, 2).await);
    assert_eq!(replica.tell("ROLE").lines().next(), Some("master"));
    for edge in 0..replicated {
        let epoch = if edge == 7 { 2 } else { 1 };
        assert_eq!(redis.edges(&[edge]).await.unwrap(), [Some(record_of(edge, epoch))], "edge {edge}");
    }
    // Whoever heals what was lost is told to look at everything.
    eventually("everything may have changed", async || matches!(changes.try_recv(), Ok(Change::Everything)))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_followed_by_its_replica() {
    let mut watched = Watched::start();
    let redis = connect(watched.settings()).await;
    redis.write_edges(&[online(1, 1)], HORIZON).await.unwrap();
    assert_eq!(watched.data[0].tell("WAIT 1 5000"), "1");
    watched.data[0].kill();
    // A sentinel dies as well: two of three are enough.
    watched.sentinels[0].kill();
    let start = Instant::now();
    eventually("a write works", async || {
        let asked = Instant::now();
        let written = redis.write_edges(&[online(2, 1)], HORIZON).await;
        assert!(asked.elapsed() < Duration::from_secs(3), "it hung");
        written.is_ok()
    })
    .await;
    assert!(start.elapsed() < SOON);
    assert_eq!(redis.edges(&[1]).await.unwrap(), [Some(record_of(1, 1))]);
    // The old one comes back, empty, and believes for a while that it is still the master: nobody writes to it.
    watched.data[0].restart();
    redis.write_edges(&[online(3, 1)], HORIZON).await.unwrap();
    assert_eq!(redis.edges(&[1, 2, 3]).await.unwrap(), [1, 2, 3].map(|edge| Some(record_of(edge, 1))));
    let late = connect(watched.settings()).await;
    late.write_edges(&[online(4, 1)], HORIZON).await.unwrap();
    assert_eq!(watched.data[0].tell("EXISTS fr:{g}:rows"), "0");
    assert_eq!(watched.data[0].tell(&format!("EXISTS fr:e:{{{}}}", edge_bucket(4))), "0");
}

async fn sentinels_without_a_master_of_that_name_say_so(watched: &Watched) {
    let mut settings = watched.settings();
    if let frontier_atlas::store::redis::Mode::Sentinel { master, .. } = &mut settings.mode {
        *master = "other".to_owned();
    }
    let redis = frontier_atlas::store::Redis::connect(settings).unwrap();
    eventually("it is said", async || {
        redis.edges(&[1]).await.is_err_and(|error| error.to_string().contains("knows no master `other`"))
    })
    .await;
}
