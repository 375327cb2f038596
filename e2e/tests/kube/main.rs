//! Frontier on a real Kubernetes: charts, the operator, and what its users see of changes.
//!
//! `make e2e-kube` runs this on a cluster of its own, `make e2e-kind` on kind; `KUBECONFIG` says which cluster it is. The images of `e2e/kube/images/build`
//! must be in it. Each scenario has a namespace of its own and prints what it asserts; times are in a table at the end. Arguments pick
//! scenarios by parts of their names.

#![expect(clippy::print_stdout, reason = "a test that runs itself prints its results")]

mod charts;
mod fleet;
mod kube;
mod operator;
mod rollout;
mod table;

use std::{process::ExitCode, time::Instant};

use anyhow::Context;
use tokio::runtime::Runtime;

use self::{kube::Kube, table::Table};

/// What a scenario works with.
pub(crate) struct World<'a> {
    pub(crate) kube: Kube,
    pub(crate) runtime: &'a Runtime,
    pub(crate) table: &'a Table,
    name: &'static str,
}

/// A scenario: its name, what it asserts, and how.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    name: &'static str,
    asserts: &'static str,
    run: fn(&World<'_>) -> anyhow::Result<()>,
}

// === impl World ===

impl World<'_> {
    /// Notes how long something took.
    pub(crate) fn took(&self, what: &str, since: Instant) {
        self.table.note(self.name, what, since.elapsed());
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
    let mut failed = 0;
    for Scenario { name, asserts, run } in chosen {
        println!("== {name}\n   {asserts}");
        let begin = Instant::now();
        let world = World { kube: Kube::new(name), runtime: &runtime, table: &table, name };
        let outcome = world.kube.create_namespace().and_then(|()| run(&world));
        if let Err(error) = &outcome {
            failed += 1;
            println!("   FAILED after {:.1?}: {error:#}\n{}", begin.elapsed(), world.kube.report());
        }
        world.took("all of it", begin);
        if outcome.is_ok() || std::env::var_os("KEEP").is_none() {
            world.kube.delete_namespace()?;
        }
    }
    println!("\n{}", table.text());
    Ok(failed)
}
