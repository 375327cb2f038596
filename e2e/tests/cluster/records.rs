//! What happens to records in Redis behind everybody's back.

use std::time::Instant;

use anyhow::{Context, ensure};
use frontier_api::bucket::edge_bucket;
use frontier_e2e::{
    cluster::{Cluster, Plan, Store},
    redis::Redis,
};

use crate::scene::{Report, Story, soak};

pub(crate) const STORIES: &[Story] =
    &[Story { name: "records: deleted and forged in Redis", play: tampered }];

/// What is done to the records of some edges.
type Tamper = fn(&Cluster, &[u64]) -> anyhow::Result<()>;

fn tampered(report: &mut Report) -> anyhow::Result<()> {
    let tampers: [(&str, Tamper); 7] = [
        ("records of 10 edges deleted", deleted),
        ("records of 10 edges with an older epoch of nobody", |cluster, edges| {
            edges.iter().try_for_each(|edge| put(cluster, *edge, &record(1, [7; 16])))
        }),
        ("records of 10 edges with a newer epoch of nobody", |cluster, edges| {
            edges.iter().try_for_each(|edge| put(cluster, *edge, &record(now(), [7; 16])))
        }),
        ("records of 10 edges that are no records", |cluster, edges| {
            edges.iter().try_for_each(|edge| put(cluster, *edge, b"nonsense"))
        }),
        ("records of 10 edges that do not exist", |cluster, _| {
            (1..=10_u64).try_for_each(|edge| put(cluster, edge, &record(now(), [7; 16])))
        }),
        ("records of 10 edges from next year", |cluster, edges| {
            let next_year = now() + 365 * 86_400_000;
            edges.iter().try_for_each(|edge| put(cluster, *edge, &record(next_year, [7; 16])))
        }),
        ("all gateways' rows and leases deleted", |cluster, _| {
            cluster.store.ask(&[b"DEL", b"fr:{g}:rows", b"fr:{g}:leases"]).map(drop)
        }),
    ];
    let cluster = Cluster::start(Store::One(Redis::start([""; 0])?), &Plan::default())?;
    for _ in 0..soak() {
        for (what, tamper) in tampers {
            report.inject(what);
            let edges: Vec<u64> = cluster.fleet.edges().into_iter().take(10).collect();
            tamper(&cluster, &edges)?;
            report.heals(&cluster, Instant::now())?;
        }
        report.inject("FLUSHALL");
        ensure!(cluster.store.ask(&[b"FLUSHALL"])? == "OK");
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)
}

fn deleted(cluster: &Cluster, edges: &[u64]) -> anyhow::Result<()> {
    for edge in edges {
        let removed = cluster.store.ask(&[b"HDEL", key(*edge).as_bytes(), &edge.to_be_bytes()])?;
        ensure!(removed == "1", "edge {edge} had no record");
    }
    Ok(())
}

fn put(cluster: &Cluster, edge: u64, record: &[u8]) -> anyhow::Result<()> {
    let (key, field) = (key(edge), edge.to_be_bytes());
    cluster.store.ask(&[b"HSET", key.as_bytes(), &field, record]).map(drop).context("HSET")
}

fn key(edge: u64) -> String {
    format!("fr:e:{{{}}}", edge_bucket(edge))
}

/// As atlas writes it: epoch, instance, number of the link, address.
fn record(epoch_ms: u64, instance: [u8; 16]) -> Vec<u8> {
    let mut record = (epoch_ms << 20).to_be_bytes().to_vec();
    record.extend(instance);
    record.extend(1_u32.to_be_bytes());
    record.extend([10, 0, 0, 1, 0, 80]);
    record
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
