//! What happens to gateways.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use frontier_e2e::{
    cluster::{Cluster, Plan, Store, get, name},
    proxy::Proxy,
    redis::Redis,
    wait::{SOON, until},
};

use crate::scene::{Report, Story, go_on, lasts, soak};

/// Within which the older of two sessions of an edge ends.
const CUT: Duration = Duration::from_secs(1);

pub(crate) const STORIES: &[Story] = &[
    Story { name: "gateway: partitioned from atlas", play: partitioned },
    Story { name: "gateway: killed", play: killed },
    Story { name: "gateway: drained", play: drained },
    Story { name: "gateway: one edge ID on two of them", play: usurped },
];

fn start() -> anyhow::Result<Cluster> {
    Cluster::start(Store::One(Redis::start([""; 0])?), &Plan::default())
}

fn killed(report: &mut Report) -> anyhow::Result<()> {
    let mut cluster = start()?;
    for at in 0..2 * soak() {
        report.inject("gateway killed with SIGKILL");
        cluster.kill_gateway(at % 3)?;
        report.heals(&cluster, Instant::now())?;
        report.inject("started again");
        cluster.restart_gateway(at % 3)?;
        // A gateway without services has nobody to call: they come first.
        report.heals(&cluster, Instant::now())?;
        cluster.add_edge(at % 3)?;
        report.heals(&cluster, Instant::now())?;
    }
    report.inject("killed and started again at once");
    cluster.kill_gateway(1)?;
    cluster.restart_gateway(1)?;
    report.heals(&cluster, Instant::now())?;
    report.settle(&cluster)
}

fn drained(report: &mut Report) -> anyhow::Result<()> {
    let mut cluster = start()?;
    for at in 0..2 * soak() {
        report.inject("gateway drained by SIGTERM");
        cluster.ledger.trouble(cluster.edges_of(at % 3)?);
        cluster.drain_gateway(at % 3)?;
        report.heals(&cluster, Instant::now())?;
        report.inject("started again");
        cluster.restart_gateway(at % 3)?;
        // A gateway without services has nobody to call: they come first.
        report.heals(&cluster, Instant::now())?;
        cluster.add_edge(at % 3)?;
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)?;
    // A call that meets an edge as it leaves its old session is answered there.
    let (calls, failed) = report.counts.troubled;
    ensure!(failed == 0, "{failed} of {calls} calls of edges that moved failed");
    Ok(())
}

fn partitioned(report: &mut Report) -> anyhow::Result<()> {
    let cluster = start()?;
    for at in 0..soak() {
        let cut_off = at % 3;
        let time = lasts(8, 20);
        report.inject(format!(
            "gateway cut off from atlas for {} s and more, edges come and go",
            time.as_secs()
        ));
        let begin = Instant::now();
        cluster.links(cut_off).iter().for_each(Proxy::freeze);
        until("a list without the gateway", SOON, || {
            let list = get(cluster.atlas(0).ok()?.api(), "/cluster/v1/frontiers").ok()?;
            (!list.to_string().contains(&format!("\"{}\"", name(cut_off)))).then_some(())
        })?;
        let noticed = begin.elapsed();
        ensure!(noticed < Duration::from_secs(6), "listed for {noticed:?}");
        go_on(&cluster, time)?;
        let admin = cluster.gateway(cut_off)?.admin()?;
        let ready = frontier_e2e::http::get(admin, "/readyz")?;
        ensure!(ready.status == 200 && ready.body.contains("degraded"), "{ready:?}");
        cluster.links(cut_off).iter().for_each(Proxy::thaw);
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)
}

fn usurped(report: &mut Report) -> anyhow::Result<()> {
    let cluster = start()?;
    let mut slowest = Duration::ZERO;
    for at in 0..6 * soak() {
        report.inject("second session of an edge at another gateway");
        let from = at % 3;
        let edges = cluster.edges_of(from)?;
        let edge = *edges.first().context("no edge")?;
        cluster.ledger.trouble([edge]);
        let lived = cluster.fleet.usurp(edge, &cluster.order(from + 1))?;
        slowest = slowest.max(lived);
        ensure!(lived <= CUT, "the older session lived on for {lived:?}");
        report.heals(&cluster, Instant::now())?;
    }
    report.notes.push(format!("the older session ended within {} ms", slowest.as_millis()));
    report.settle(&cluster)
}
