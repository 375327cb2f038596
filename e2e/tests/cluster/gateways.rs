//! What happens to gateways.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use frontier_e2e::{
    cluster::{Cluster, Plan, Store, get, name},
    proxy::Proxy,
    redis::Redis,
    wait::{SOON, until},
};

use crate::scene::{Report, Story, go_on, go_on_without, lasts, soak};

/// Within which the older of two sessions of an edge ends.
const CUT: Duration = Duration::from_secs(1);

pub(crate) const STORIES: &[Story] = &[
    Story { name: "gateway: partitioned from atlas", play: partitioned },
    Story { name: "gateway: partitioned from its services", play: without_services },
    Story { name: "gateway: partitioned from its edges", play: without_edges },
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

fn with_doors() -> anyhow::Result<Cluster> {
    let plan = Plan { doors: true, ..Plan::default() };
    Cluster::start(Store::One(Redis::start([""; 0])?), &plan)
}

/// Services have all other gateways meanwhile, and what they ask of edges there goes on.
fn without_services(report: &mut Report) -> anyhow::Result<()> {
    let cluster = with_doors()?;
    for at in 0..soak() {
        let cut_off = at % 3;
        // Services take a gateway for dead that says nothing for 12.5 s.
        let time = lasts(15, 30);
        report.inject(format!("gateway cut off from its services for {} s", time.as_secs()));
        cluster.ledger.trouble(cluster.edges_of(cut_off)?);
        cluster.door(cut_off)?.services.freeze();
        let begin = Instant::now();
        until("services that know it", SOON, || cluster.fleet.services_have(2).ok())?;
        report.notes.push(format!("given up by its services after {:.1} s", begin.elapsed().as_secs_f32()));
        let left = time.saturating_sub(begin.elapsed());
        go_on_without(&cluster, cut_off, left)?;
        cluster.door(cut_off)?.services.thaw();
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)
}

/// The edges move to the other gateways, where everybody finds them while the silence lasts.
fn without_edges(report: &mut Report) -> anyhow::Result<()> {
    let cluster = with_doors()?;
    for at in 0..soak() {
        let cut_off = at % 3;
        report.inject("gateway cut off from its edges until they are elsewhere, and as long again");
        let there = cluster.edges_of(cut_off)?;
        cluster.ledger.trouble(there.iter().copied());
        let begin = Instant::now();
        cluster.door(cut_off)?.edges.freeze();
        until("edges that moved", SOON, || {
            let count = |at: usize| Some(cluster.edges_of((cut_off + at) % 3).ok()?.len());
            (count(0)? == 0 && count(1)? + count(2)? == cluster.fleet.edges().len()).then_some(())
        })?;
        let moved = begin.elapsed();
        report.notes.push(format!("{} edges are elsewhere after {:.1} s", there.len(), moved.as_secs_f32()));
        report.heals(&cluster, Instant::now())?;
        go_on_without(&cluster, cut_off, moved)?;
        cluster.door(cut_off)?.edges.thaw();
        report.inject("and heard of again");
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
