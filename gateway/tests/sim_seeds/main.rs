//! The shard core under everything that peers and networks do, by seed: thousands of short lives of a gateway,
//! each checked after every step.
//!
//! `SIM_SEEDS=n` runs so many seeds instead of the usual number, `SIM_FROM=n` starts at another than the first. `SIM_SEED=n` runs that one
//! alone and prints what happens.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says how to repeat it"
)]
#![cfg(feature = "testing")]

mod agent;
mod guests;
mod ledger;
mod operations;
mod plan;
mod queues;
mod streams;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use self::world::World;

/// Seeds of an ordinary test run: ten seconds on two idle cores.
const SEEDS: u64 = 3_000;
/// What an ordinary run must have seen, each several times.
const REACHED: [&str; 42] = [
    "call ok",
    "call application",
    "call cancelled",
    "call deadline_exceeded",
    "call edge_not_online",
    "call method_not_found",
    "call overloaded",
    "call payload_too_large",
    "call permission_denied",
    "call service_not_online",
    "call session_closed",
    "message ok",
    "message cancelled",
    "message overloaded",
    "message session_closed",
    "message topic_not_online",
    "stream ok",
    "stream application",
    "stream deadline_exceeded",
    "stream overloaded",
    "streams ended by both",
    "bodies broken off",
    "cancelled with fragments under way",
    "credit withheld for answers",
    "credit withheld for bodies",
    "sent away by a drain",
    "edges that came and went",
    "guests: call cancelled",
    "guests: call ok",
    "guests: message ok",
    "guests: refused",
    "guests: streams read to their end",
    "guests: welcome",
    "queues: confirmed",
    "queues: failed",
    "queues: used",
    "takeovers",
    "memory cuts",
    "refused: abuse",
    "refused: malformed",
    "refused: rate",
    "refused: timeout",
];
/// After so many failures there is enough to look at.
const FAILURES: usize = 20;
/// What repeats one.
const AGAIN: &str =
    "cargo test -p frontier-gateway --features testing --test sim_seeds whatever -- --nocapture";

/// How often what happened.
type Tally = std::collections::BTreeMap<String, u64>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// A panic that was asked for is no news.
fn quiet_fault_points() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload_as_str().is_some_and(|text| text.starts_with("fault point")) {
            usual(panic);
        }
    }));
}

/// Runs a seed; what went wrong, if something did.
fn try_run(seed: u64, tally: &parking_lot::Mutex<Tally>) -> Result<u64, String> {
    let mut world = World::new(seed, false);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).map_err(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
    });
    world.tally(&mut tally.lock());
    outcome
}

#[test]
fn whatever_peers_do_nobody_is_wronged() {
    if let Some(seed) = number("SIM_SEED") {
        World::new(seed, true).run();
        return;
    }
    quiet_fault_points();
    let next = AtomicU64::new(number("SIM_FROM").unwrap_or(1));
    let end = next.load(Ordering::Relaxed) + number("SIM_SEEDS").unwrap_or(SEEDS);
    let tally = parking_lot::Mutex::new(Tally::new());
    let failures = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failures.lock().len() >= FAILURES {
                        return;
                    }
                    if let Err(why) = try_run(seed, &tally) {
                        failures.lock().push((seed, why));
                    }
                }
            });
        }
    });
    let tally = tally.into_inner();
    for (what, count) in &tally {
        println!("{count:>12} {what}");
    }
    let mut failures = failures.into_inner();
    failures.sort_unstable();
    for (seed, why) in &failures {
        println!("seed {seed}: {why}\n  again: SIM_SEED={seed} {AGAIN}");
    }
    assert!(failures.is_empty(), "{} seeds failed", failures.len());
    // Seeds that reach nothing find nothing.
    if number("SIM_SEEDS").is_none() {
        let never: Vec<_> = REACHED.iter().filter(|what| tally.get(**what).is_none_or(|n| *n < 10)).collect();
        assert!(never.is_empty(), "hardly ever happened: {never:?}");
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 1..=20 {
        let tally = parking_lot::Mutex::default();
        assert_eq!(try_run(seed, &tally), try_run(seed, &tally), "seed {seed}");
    }
}
