//! Calendars that step: of Redis, which is that of the cluster, of atlas, and of a gateway.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    clock::Clock,
    cluster::{Cluster, Plan, Store},
    redis::Redis,
};

use crate::scene::{Report, Story};

pub(crate) const STORIES: &[Story] = &[Story { name: "clocks: step", play: step }];

/// Where a calendar goes, in seconds from the right time.
const STEPS: &[i64] = &[30, 3_600, 0, -3_600, 0];
/// Where that of the cluster goes. Sessions admitted while it was more than a minute ahead count as from the future when it is put right, and
/// their tickets are not taken: that is decided so, and not tried here.
const STEPS_OF_ALL: &[i64] = &[-3_600, -3_570, -3_600, 0, 30, 0];

fn step(report: &mut Report) -> anyhow::Result<()> {
    let [redis, atlas, gateway] = [Clock::new()?, Clock::new()?, Clock::new()?];
    let envs = |clock: &Clock| {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        clock.envs().map(|(name, path)| (name.to_owned(), text(path))).to_vec()
    };
    let plan = Plan { envs: [envs(&atlas), envs(&gateway)], ..Plan::default() };
    redis.set(STEPS_OF_ALL.first().copied().unwrap_or_default())?;
    let store = Store::One(Redis::start_with([""; 0], redis.envs())?);
    let cluster = Cluster::start(store, &plan)?;
    let clocks = [
        ("a gateway's clock steps", &gateway, STEPS),
        ("atlas's clocks step", &atlas, STEPS),
        ("Redis's clock steps", &redis, STEPS_OF_ALL),
    ];
    for (what, clock, steps) in clocks {
        for off in steps {
            report.inject(what);
            clock.set(*off)?;
            // Whoever comes now has an epoch of the old time or of the new.
            cluster.churn(3)?;
            report.heals(&cluster, Instant::now())?;
            let edge = *cluster.edges_of(0)?.first().context("no edge")?;
            cluster.ledger.trouble([edge]);
            let lived = cluster.fleet.usurp(edge, &cluster.order(1))?;
            ensure!(lived <= Duration::from_secs(1), "the older session lived on for {lived:?}");
            cluster.add_edge(0)?;
            report.heals(&cluster, Instant::now())?;
        }
    }
    report.settle(&cluster)
}
