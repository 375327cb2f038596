//! Everybody does everything at once for a while, and leaves at any moment. `FRONTIER_SOAK_SECONDS` says for how long.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use frontier_e2e::{
    bystanders::Bystanders,
    gateway::Config,
    player::{Command, Faults, Kind, Player},
    wait::until,
};

use crate::stage::{Scenario, Stage};

pub(crate) const SCENARIOS: &[Scenario] =
    &[Scenario { config: fast, ..Scenario::new("everybody at once, leaving at any moment", once, soak) }];

/// Edges and services of each kind.
const EDGES: u64 = 3;
/// The last life may last so much longer.
const OVERTIME: Duration = Duration::from_secs(60);
/// Outcomes that must not be.
const BAD: [&str; 3] = ["lost", "wrong", "took"];
/// What the allocator may keep of what all of them used.
const KEPT: u64 = 64 << 20;

fn once(edge: Kind, service: Kind) -> bool {
    edge == Kind::C && service == Kind::C
}

fn fast() -> Config {
    Config::new().shards(2)
}

fn seconds() -> anyhow::Result<u64> {
    match std::env::var("FRONTIER_SOAK_SECONDS") {
        Ok(text) => text.parse().context("FRONTIER_SOAK_SECONDS"),
        Err(_) => Ok(10),
    }
}

fn soak(stage: &Stage) -> anyhow::Result<()> {
    let length = seconds()?;
    let bystanders = Bystanders::start(&stage.gateway)?;
    let rss = stage.gateway.proc().rss()?;
    let names: Vec<String> = Kind::ALL.iter().map(|kind| format!("of-{kind}")).collect();
    let over = Instant::now() + Duration::from_secs(length);
    let roles: Vec<(Kind, u64, Command)> = Kind::ALL
        .into_iter()
        .flat_map(|kind| (0..=EDGES).map(move |number| (kind, number)))
        .map(|(kind, number)| {
            let own = match number {
                0 => stage.service_command(&format!("of-{kind}"), &[]),
                _ => stage.edge_command("soak"),
            };
            (kind, number, Command { seed: number + 1, topics: names.clone(), ..own })
        })
        .collect();
    let lives = std::thread::scope(|scope| {
        let playing: Vec<_> = roles
            .into_iter()
            .map(|(kind, number, command)| scope.spawn(move || play(kind, number, &command, over)))
            .collect();
        playing
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("panic"))))
            .collect::<Vec<_>>()
    });
    let mut sums: BTreeMap<Kind, BTreeMap<String, u64>> = BTreeMap::new();
    for lived in lives {
        let (kind, outcomes) = lived?;
        for (outcome, count) in outcomes {
            *sums.entry(kind).or_default().entry(outcome).or_default() += count;
        }
    }
    for (kind, outcomes) in &sums {
        println!("soak of {length} s, {kind}: {outcomes:?}");
    }
    for (kind, outcomes) in &sums {
        for bad in BAD {
            let found = outcomes.keys().find(|outcome| outcome.contains(bad));
            ensure!(found.is_none(), "{kind}: {found:?} of {outcomes:?}");
        }
        for good in ["connect ok", "call ok", "publish ok", "stream ok", "close ok"] {
            ensure!(outcomes.contains_key(good), "{kind}: no {good} in {outcomes:?}");
        }
    }
    // The bystanders are still here.
    stage.connected("edges", 1)?;
    stage.connected("services", 1)?;
    bystanders.finish()?;
    let mut last = 0;
    until("memory given back", Duration::from_secs(20), || {
        last = stage.gateway.proc().rss().ok()?.saturating_sub(rss);
        (last < KEPT).then_some(())
    })
    .with_context(|| format!("grown by {last} bytes"))
}

/// Plays one role until the time is over. A process each: a crash of the library is counted, and the role begins anew.
fn play(
    kind: Kind,
    number: u64,
    command: &Command,
    over: Instant,
) -> anyhow::Result<(Kind, BTreeMap<String, u64>)> {
    let mut sum = BTreeMap::new();
    for attempt in 0.. {
        let left = over.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let player = Arc::new(Player::start(kind)?);
        let seed = number + 1 + attempt * 1_000;
        let count = i64::try_from(left.as_millis())?;
        let told =
            player.begin(Command { verb: "soak", count, seed, ..command.clone() })?.within(left + OVERTIME);
        for lived in player.drain("lived") {
            for (outcome, count) in lived.outcomes {
                *sum.entry(outcome).or_insert(0) += count;
            }
        }
        match player.faults() {
            faults if faults.crash_within => {
                *sum.entry("crash within the library".to_owned()).or_insert(0) += 1
            }
            Faults { crash: Some(crash), .. } => bail!("the Go peer of {kind} crashed: {crash}"),
            _ => drop(told?.ok()?),
        }
        if sum.keys().any(|outcome: &String| BAD.iter().any(|bad| outcome.contains(bad))) {
            eprintln!("{kind}: {}", player.last_words());
        }
    }
    Ok((kind, sum))
}
