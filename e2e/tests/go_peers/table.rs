//! Runs scenarios with all their pairs, several at a time, and prints what became of each.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use frontier_e2e::player::Kind;
use parking_lot::Mutex;

use crate::stage::{Scenario, Stage};

/// Most of the time scenarios wait for something, so there are more of them than processors.
const WORKERS: usize = 6;

/// How often a scenario is played again that failed because of the Go library: A and B crash when connections end, and drop packets of
/// streams when they get no processor time.
const RETRIES: usize = 3;

/// How many scenarios may fail once for no reason that is known and then go well twice in a row, in one run. The library also loses
/// operations without a word when connections and streams end under load; a fault of the gateway hits the same scenario again, or many.
const UNEXPLAINED: usize = 3;

/// Where a Go peer failed, if it did.
#[derive(Debug, thiserror::Error)]
enum Within {
    #[error("the library crashed or dropped packets")]
    Library,
    #[error("the peer crashed, or has a data race")]
    Peer,
}

/// A scenario and who plays it.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    row: usize,
    scenario: Scenario,
    edge: Kind,
    service: Kind,
}

#[derive(Default)]
struct Results {
    /// By row and pair.
    cells: BTreeMap<usize, BTreeMap<(Kind, Kind), bool>>,
    failures: Vec<String>,
    /// What failed once for no reason that is known, and went well twice after that.
    unexplained: Vec<String>,
    /// By generation: data races and crashes in the library itself, and packets it dropped where that failed a scenario.
    races: BTreeMap<Kind, usize>,
    crashes: BTreeMap<Kind, usize>,
    dropped: BTreeMap<Kind, usize>,
    slowest: BTreeMap<usize, Duration>,
}

/// What is run: all pairs of all scenarios whose names contain every word.
pub(crate) fn jobs(scenarios: &[Scenario], words: &[String]) -> VecDeque<Job> {
    let mut jobs = VecDeque::new();
    for (row, scenario) in scenarios.iter().enumerate() {
        for (edge, service) in pairs() {
            let name = format!("{} {edge}/{service}", scenario.name);
            if (scenario.pairs)(edge, service) && words.iter().all(|word| name.contains(word)) {
                jobs.push_back(Job { row, scenario: *scenario, edge, service });
            }
        }
    }
    jobs
}

fn pairs() -> impl Iterator<Item = (Kind, Kind)> {
    Kind::ALL.into_iter().flat_map(|edge| Kind::ALL.into_iter().map(move |service| (edge, service)))
}

/// Runs all of it; true if all went well.
pub(crate) fn run(jobs: VecDeque<Job>) -> bool {
    let start = Instant::now();
    let names: BTreeMap<usize, &str> = jobs.iter().map(|job| (job.row, job.scenario.name)).collect();
    let queue = Mutex::new(jobs);
    let results = Mutex::new(Results::default());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(job) = queue.lock().pop_front() else { return };
                    job.run(&results);
                }
            });
        }
    });
    let results = results.into_inner();
    results.print(&names, start.elapsed());
    results.is_well()
}

// === impl Job ===

impl Job {
    fn run(self, results: &Mutex<Results>) {
        let start = Instant::now();
        let name = format!("{}, edge {}, service {}", self.scenario.name, self.edge, self.service);
        let mut outcome = self.play_to_a_verdict(results);
        let mut unexplained = None;
        if let Err(error) = &outcome
            && error.downcast_ref::<Within>().is_none()
            && (self.edge.is_go() || self.service.is_go())
        {
            eprintln!("ONCE MORE, TWICE: {name}: {error:#}\n");
            unexplained = Some(format!("{name}: {}", error.root_cause()));
            outcome = self.play_to_a_verdict(results).and_then(|()| self.play_to_a_verdict(results));
        }
        let mut results = results.lock();
        if outcome.is_ok() {
            results.unexplained.extend(unexplained);
        }
        results.cells.entry(self.row).or_default().insert((self.edge, self.service), outcome.is_ok());
        let slowest = results.slowest.entry(self.row).or_default();
        *slowest = start.elapsed().max(*slowest);
        if let Err(error) = outcome {
            eprintln!("FAILED {name}: {error:#}\n");
            results.failures.push(format!("{name}: {}", error.root_cause()));
        }
    }

    /// Plays it, and again while it is the library that fails.
    fn play_to_a_verdict(self, results: &Mutex<Results>) -> anyhow::Result<()> {
        let mut outcome = self.play(results);
        for _ in 0..RETRIES {
            let library =
                outcome.as_ref().is_err_and(|error| matches!(error.downcast_ref(), Some(Within::Library)));
            if !library {
                break;
            }
            outcome = self.play(results);
        }
        outcome
    }

    fn play(self, results: &Mutex<Results>) -> anyhow::Result<()> {
        let stage = Stage::new(&(self.scenario.config)(), self.edge, self.service)?;
        let played = catch_unwind(AssertUnwindSafe(|| (self.scenario.play)(&stage)));
        let played = played.unwrap_or_else(|_| Err(anyhow!("panic")));
        let played = played.with_context(|| {
            format!(
                "{}\n{}\n{}",
                stage.gateway.log().tail(),
                stage.edges.last_words(),
                stage.services.last_words()
            )
        });
        self.look_after(&stage, played, results)
    }

    /// What went wrong in the Go peers. Races and crashes of the library are there with any gateway; those of the peer are faults of this test.
    fn look_after(
        self,
        stage: &Stage,
        played: anyhow::Result<()>,
        results: &Mutex<Results>,
    ) -> anyhow::Result<()> {
        let mut outcome = played;
        for player in [&stage.edges, &stage.services] {
            let found = player.faults();
            let mut results = results.lock();
            *results.races.entry(player.kind()).or_default() += found.library;
            if let Some(race) = found.own.first() {
                outcome = Err(anyhow!("a data race in the Go peer itself: {race}")).context(Within::Peer);
            }
            if found.dropped > 0 && outcome.is_err() {
                *results.dropped.entry(player.kind()).or_default() += found.dropped;
                outcome = outcome.context(Within::Library);
            }
            if let Some(crash) = found.crash {
                *results.crashes.entry(player.kind()).or_default() += 1;
                outcome = outcome.context(if found.crash_within { Within::Library } else { Within::Peer });
                outcome = outcome.with_context(|| format!("{} crashed: {crash}", player.kind()));
            }
        }
        outcome
    }
}

// === impl Results ===

impl Results {
    fn is_well(&self) -> bool {
        self.failures.is_empty() && self.unexplained.len() <= UNEXPLAINED
    }

    fn print(&self, names: &BTreeMap<usize, &str>, took: Duration) {
        let width = names.values().map(|name| name.len()).max().unwrap_or_default() + 2;
        let initial = |kind: Kind| kind.to_string().remove(0);
        let column = |of: fn((Kind, Kind)) -> Kind| {
            pairs().map(|pair| format!(" {}", initial(of(pair)))).collect::<String>()
        };
        println!(
            "\nGo peers against the gateway. A, B, C: geminio v1.1.7-rc.1, v1.2.2-rc.2, v1.3.0-rc.2; R: our SDK."
        );
        println!("{:>width$}{}", "edge ", column(|(edge, _)| edge));
        println!("{:>width$}{}", "service ", column(|(_, service)| service));
        for (row, name) in names {
            let cells = self.cells.get(row);
            let cell = |pair| match cells.and_then(|cells| cells.get(&pair)) {
                Some(true) => " +",
                Some(false) => " X",
                None => "  ",
            };
            let cells: String = pairs().map(cell).collect();
            let slowest = self.slowest.get(row).copied().unwrap_or_default();
            println!("{name:width$}{cells}  {:5.1} s at most", slowest.as_secs_f64());
        }
        let cells: Vec<bool> = self.cells.values().flat_map(|row| row.values().copied()).collect();
        let well = cells.iter().filter(|well| **well).count();
        println!("{well} of {} well in {:.0} s", cells.len(), took.as_secs_f64());
        for kind in Kind::GO {
            let races = self.races.get(&kind).copied().unwrap_or_default();
            let crashes = self.crashes.get(&kind).copied().unwrap_or_default();
            let dropped = self.dropped.get(&kind).copied().unwrap_or_default();
            println!(
                "generation {kind}: the library had {races} data races and {crashes} crashes, and dropped {dropped} packets"
            );
        }
        for once in &self.unexplained {
            println!("FAILED ONCE, and went well twice after that: {once}");
        }
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
    }
}
