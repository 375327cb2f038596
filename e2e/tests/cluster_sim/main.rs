//! A cluster under faults, by seed: the gateways' real link to atlas, atlas's real logic and the in-memory store, on virtual time and a
//! network of delays, silences and breaks.
//!
//! A seed decides everything that happens: edges that connect, move and leave, gateways that crash, drain and come back, atlases that do, a
//! store that is down, slow, forgets what it acknowledged, is wiped or written to by hand. While that goes on, no session may be cut that has
//! no newer one; when it is over, within five seconds every edge must be found where it is and nowhere else, and a renewal later the counts must be true.
//!
//! `CLUSTER_SEEDS=n` runs so many seeds, from `CLUSTER_FIRST` on, `CLUSTER_SEED=n` one of them, with what happened printed: the same every
//! time, message by message.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod net;
mod store;
mod world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;

fn run(seed: u64, tell: bool) -> world::Report {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(world::life(seed, tell))
}

#[test]
fn a_seed_is_one_life() {
    for seed in 1..=20 {
        let (one, other) = (run(seed, false), run(seed, false));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}

#[test]
fn whatever_happens_every_edge_is_found_where_it_is() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("CLUSTER_SEED") {
        let report = run(seed, true);
        assert_eq!(report.failure, None);
        return;
    }
    let seeds = number("CLUSTER_SEEDS").unwrap_or(SEEDS);
    let first = number("CLUSTER_FIRST").unwrap_or(1);
    let again =
        "again: CLUSTER_SEED=n cargo test -p frontier-e2e --features frontier-sdk/testing --test cluster_sim";
    let (seen, slowest) = (Mutex::new(world::Counts::default()), Mutex::new(Duration::ZERO));
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = std::panic::catch_unwind(|| run(seed, false));
                    let well = matches!(&outcome, Ok(report) if report.failure.is_none());
                    failed.fetch_or(!well, Ordering::Relaxed);
                    let report = outcome.unwrap_or_else(|_| panic!("seed {seed} panicked; {again}"));
                    if let Some(failure) = report.failure {
                        panic!("seed {seed}: {failure}; {again}");
                    }
                    seen.lock().add(&report.counts);
                    let mut slowest = slowest.lock();
                    *slowest = slowest.max(report.healed);
                }
            });
        }
    });
    let (seen, slowest) = (seen.into_inner(), slowest.into_inner());
    println!("{seeds} seeds from {first}: healed after {slowest:?} at most; {seen}");
    // A run that does not do what it is there for proves nothing.
    if seeds >= 100 {
        let missing = seen.missing();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}
