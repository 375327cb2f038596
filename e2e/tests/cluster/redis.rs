//! What happens to Redis.

use std::time::{Duration, Instant};

use anyhow::Context;
use frontier_e2e::{
    cluster::{Cluster, Plan, Store},
    redis::{Nodes, Redis, Watched},
};
use rustix::process::Signal;

use crate::scene::{Report, Story, go_on, soak};

pub(crate) const STORIES: &[Story] = &[
    Story { name: "redis: one server, edges come and go", play: one_server },
    Story { name: "redis: stops for a while", play: stops },
    Story { name: "redis: killed, comes back empty", play: killed },
    Story { name: "redis: out of reach for one atlas", play: out_of_reach },
    Story { name: "redis: sentinels, failovers", play: failovers },
    Story { name: "redis: six nodes, slots move", play: slots_move },
];

fn one_server(report: &mut Report) -> anyhow::Result<()> {
    let cluster = Cluster::start(Store::One(Redis::start([""; 0])?), &Plan::default())?;
    for _ in 0..3 * soak() {
        report.inject("10 edges leave, 10 come");
        cluster.churn(10)?;
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)
}

fn stops(report: &mut Report) -> anyhow::Result<()> {
    let cluster = Cluster::start(Store::One(Redis::start([""; 0])?), &Plan::default())?;
    let Store::One(redis) = &cluster.store else { anyhow::bail!("another store") };
    let time = Duration::from_secs(30);
    for _ in 0..soak() {
        report.inject(format!("Redis stopped for {} s, edges come and go", time.as_secs()));
        redis.signal(Signal::STOP)?;
        let gone_on = go_on(&cluster, time);
        redis.signal(Signal::CONT)?;
        gone_on?;
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)
}

fn killed(report: &mut Report) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Store::One(Redis::start([""; 0])?), &Plan::default())?;
    for _ in 0..soak() {
        report.inject("Redis killed, back empty after 5 s, edges come and go");
        let Store::One(redis) = &mut cluster.store else { anyhow::bail!("another store") };
        redis.kill();
        go_on(&cluster, Duration::from_secs(5))?;
        let Store::One(redis) = &mut cluster.store else { anyhow::bail!("another store") };
        redis.restart()?;
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)
}

fn out_of_reach(report: &mut Report) -> anyhow::Result<()> {
    let cluster = Cluster::start(Store::One(Redis::start([""; 0])?), &Plan::default())?;
    for at in 0..2 * soak() {
        report.inject("one of two atlases cut off from Redis for 8 s, edges come and go");
        cluster.way(at % 2)?.freeze();
        let gone_on = go_on(&cluster, Duration::from_secs(8));
        cluster.way(at % 2)?.thaw();
        gone_on?;
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)
}

fn failovers(report: &mut Report) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Store::Watched(Watched::start()?), &Plan::default())?;
    for _ in 0..soak() {
        let Store::Watched(watched) = &cluster.store else { anyhow::bail!("another store") };
        report.inject("failover by hand");
        cluster.churn(5)?;
        watched.fail_over()?;
        report.heals(&cluster, Instant::now())?;
    }
    report.inject("master killed, the replica takes its place");
    cluster.churn(5)?;
    let Store::Watched(watched) = &mut cluster.store else { anyhow::bail!("another store") };
    watched.kill_master()?;
    report.heals(&cluster, Instant::now())?;
    report.settle(&cluster)
}

fn slots_move(report: &mut Report) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Store::Nodes(Nodes::start()?), &Plan::default())?;
    for at in 0..soak() {
        report.inject("400 slots moved, edges come and go");
        let Store::Nodes(nodes) = &cluster.store else { anyhow::bail!("another store") };
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let moving = scope.spawn(|| {
                let moved = nodes.reshard(at % 3, (at + 1) % 3, 400);
                over.store(true, std::sync::atomic::Ordering::Release);
                moved
            });
            while !over.load(std::sync::atomic::Ordering::Acquire) {
                go_on(&cluster, Duration::from_millis(500))?;
            }
            moving.join().map_err(|_| anyhow::anyhow!("panic"))?
        })?;
        report.heals(&cluster, Instant::now())?;
    }
    report.inject("a master of three killed, its replica takes its place");
    let Store::Nodes(nodes) = &mut cluster.store else { anyhow::bail!("another store") };
    nodes.all.get_mut(1).context("a master")?.kill();
    let id = 4;
    let taken = |nodes: &Nodes| {
        nodes.all.get(id).is_some_and(|node| node.tell("ROLE").is_ok_and(|role| role.starts_with("master")))
    };
    let Store::Nodes(nodes) = &cluster.store else { anyhow::bail!("another store") };
    frontier_e2e::wait::until("a replica in the place of its master", frontier_e2e::wait::SOON, || {
        (taken(nodes)
            && nodes
                .masters()
                .all(|node| node.tell("CLUSTER INFO").is_ok_and(|info| info.contains("cluster_state:ok"))))
        .then_some(())
    })?;
    report.heals(&cluster, Instant::now())?;
    report.settle(&cluster)
}
