//! Frontier on a real Kubernetes: charts, the operator, and what its users see of changes.
//!
//! `make e2e-kube` runs this on a cluster of its own, `make e2e-kind` on kind; `KUBECONFIG` says which cluster it is. The images of `e2e/kube/images/build`
//! must be in it. Each scenario has a namespace of its own and prints what it asserts; times are in a table at the end. Arguments pick
//! scenarios by parts of their names. Scenarios wait more than they work, so those of different lanes run side by side; what each has to say is printed when it is
//! over. Those that take away what others need come last, alone.

#![expect(clippy::print_stdout, reason = "a test that runs itself prints its results")]

mod charts;
mod fleet;
mod kube;
mod operator;
mod rollout;
mod table;
mod tls;

use std::{process::ExitCode, time::Instant};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use self::{kube::Kube, table::Table};

/// What a scenario works with.
pub(crate) struct World<'a> {
    pub(crate) kube: Kube,
    pub(crate) runtime: &'a Runtime,
    pub(crate) table: &'a Table,
    name: &'static str,
    said: Mutex<String>,
}

/// Scenarios of one lane run one after the other, in the order in which they are told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// They use the node ports of default values.
    Defaults,
    /// Clusters of the operator, and what is wrong with them.
    Clusters,
    /// A cluster that changes under load.
    Load,
    /// They end the operator or the API server, when all other lanes are done.
    Last,
}

/// A scenario: its name, what it asserts, and how.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    name: &'static str,
    asserts: &'static str,
    lane: Lane,
    run: fn(&World<'_>) -> anyhow::Result<()>,
}

// === impl World ===

impl World<'_> {
    /// Notes how long something took.
    pub(crate) fn took(&self, what: &str, since: Instant) {
        let took = since.elapsed();
        self.table.note(self.name, what, took);
        self.say(&format!("   {what}: {:.1} s", took.as_secs_f64()));
    }

    /// A line for whoever reads the results.
    pub(crate) fn say(&self, line: &str) {
        let mut said = self.said.lock();
        said.push_str(line);
        said.push('\n');
    }
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    match all(&wanted) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} scenarios FAILED");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenarios, and tells how many failed.
fn all(wanted: &[String]) -> anyhow::Result<usize> {
    Kube::new("default").kubectl(["get", "--raw", "/readyz"]).context(
        "there is no cluster: run `make e2e-kube`, or set KUBECONFIG to a cluster that has the images",
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let table = Table::default();
    let scenarios = [charts::SCENARIOS, operator::SCENARIOS, rollout::SCENARIOS].concat();
    let chosen: Vec<_> = scenarios
        .iter()
        .filter(|scenario| {
            wanted.is_empty() || wanted.iter().any(|part| scenario.name.contains(part.as_str()))
        })
        .collect();
    anyhow::ensure!(!chosen.is_empty(), "no scenario is called so: {wanted:?}");
    let lane = |lane: Lane| {
        let chosen = chosen.iter().filter(move |scenario| scenario.lane == lane);
        chosen.map(|scenario| one(scenario, &runtime, &table)).sum::<usize>()
    };
    let mut failed = std::thread::scope(|scope| {
        let lanes = [Lane::Defaults, Lane::Clusters, Lane::Load];
        let lanes = lanes.map(|which| scope.spawn(move || lane(which)));
        // A lane that panicked has failed.
        lanes.into_iter().map(|lane| lane.join().unwrap_or(1)).sum::<usize>()
    });
    failed += lane(Lane::Last);
    println!("\n{}", table.text());
    Ok(failed)
}

/// Runs a scenario and prints what came of it; 1 if it failed.
fn one(scenario: &Scenario, runtime: &Runtime, table: &Table) -> usize {
    let &Scenario { name, asserts, run, .. } = scenario;
    println!(".. {name} begins");
    let begin = Instant::now();
    let world = World { kube: Kube::new(name), runtime, table, name, said: Mutex::default() };
    world.say(&format!("== {name}\n   {asserts}"));
    let outcome = world.kube.create_namespace().and_then(|()| run(&world));
    if let Err(error) = &outcome {
        let operator = Kube::new(operator::HOME).report();
        let report = format!("{}--- the operator\n{operator}", world.kube.report());
        world.say(&format!("   FAILED after {:.1?}: {error:#}\n{report}", begin.elapsed()));
    }
    world.took("all of it", begin);
    let mut outcome = outcome;
    if outcome.is_ok() || std::env::var_os("KEEP").is_none() {
        let gone = world.kube.delete_namespace();
        if let Err(error) = &gone {
            world.say(&format!("   FAILED: the namespace does not go: {error:#}"));
        }
        outcome = outcome.and(gone);
    }
    println!("{}", world.said.lock());
    usize::from(outcome.is_err())
}
