//! What happens to atlas.

use std::time::{Duration, Instant};

use frontier_e2e::{
    cluster::{Cluster, Plan, Store},
    redis::Redis,
};

use crate::scene::{Report, Story, go_on, soak};

pub(crate) const STORIES: &[Story] = &[
    Story { name: "atlas: the only one killed", play: only_one },
    Story { name: "atlas: one of two killed", play: one_of_two },
];

fn only_one(report: &mut Report) -> anyhow::Result<()> {
    let plan = Plan { atlases: 1, ..Plan::default() };
    let mut cluster = Cluster::start(Store::One(Redis::start([""; 0])?), &plan)?;
    for _ in 0..soak() {
        report.inject("atlas killed, back after 6 s, edges come and go");
        cluster.kill_atlas(0);
        go_on(&cluster, Duration::from_secs(6))?;
        cluster.restart_atlas(0)?;
        report.heals(&cluster, Instant::now())?;
    }
    report.inject("killed and started again at once");
    cluster.kill_atlas(0);
    cluster.restart_atlas(0)?;
    report.heals(&cluster, Instant::now())?;
    report.settle(&cluster)
}

fn one_of_two(report: &mut Report) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Store::One(Redis::start([""; 0])?), &Plan::default())?;
    for at in 0..2 * soak() {
        report.inject("one of two killed, edges leave and come at that moment");
        cluster.kill_atlas(at % 2);
        cluster.churn(5)?;
        report.heals(&cluster, Instant::now())?;
        report.inject("started again");
        cluster.restart_atlas(at % 2)?;
        cluster.churn(5)?;
        report.heals(&cluster, Instant::now())?;
    }
    report.settle(&cluster)
}
