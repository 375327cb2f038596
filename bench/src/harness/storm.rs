//! A hundred thousand edges that all reconnect at once: because they do (`storm`), or because their gateways were killed and started
//! again (`crash`).
//!
//! One process may hold 20,000 descriptors here, so there are as many gateways as it takes, with one load process for each: the load is
//! split, nothing is shared. All processes may use all CPUs. The storm is told to all load processes when every edge of every gateway is
//! up and the memory is steady; each then closes all its connections and dials again at once, showing its resume tickets. Before a
//! crash they are told the same way; each then waits for its connections to break, and dials until it is welcome again.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Resource;

use super::{
    measure::{Bench, number},
    system::{Running, System},
    table::{Column, Line, Table},
};
use crate::{
    hist::{Hist, Quantiles},
    load::fleet,
    out,
    sample::Sample,
};

/// Descriptors that a process keeps for other things than edges.
const SPARE: u64 = 2_000;
/// Edges in all.
const EDGES: usize = 100_000;
const QUICK_EDGES: usize = 400;
/// A storm in which more refusals than edges happen is one of refusals.
const REFUSALS: f64 = 1.0;

/// One load process.
struct Crew {
    child: Child,
    output: BufReader<ChildStdout>,
}

/// What makes all edges come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// They close.
    Storm,
    /// Their gateways are killed, and started again at once.
    Crash,
}

pub(super) fn storm(bench: &Bench, table: &mut Table) -> Result<()> {
    come_back(bench, table, Cause::Storm)
}

pub(super) fn crash(bench: &Bench, table: &mut Table) -> Result<()> {
    come_back(bench, table, Cause::Crash)
}

fn come_back(bench: &Bench, table: &mut Table, cause: Cause) -> Result<()> {
    let (edges, gateways) = split(bench.quick);
    let share = edges / gateways;
    out::note(&format!("    {gateways} gateways with {share} edges each"));
    let mut running = Vec::new();
    for _ in 0..gateways {
        running.push(System::GATEWAY.start(&bench.launcher, &bench.gateway, None)?);
    }
    let mut crews = running
        .iter()
        .enumerate()
        .map(|(n, gateway)| Crew::start(bench, gateway, n, share, cause))
        .collect::<Result<Vec<_>>>()?;
    let held = crews.iter_mut().map(Crew::sample).collect::<Result<Vec<_>>>()?;
    for crew in &mut crews {
        crew.go()?;
    }
    if cause == Cause::Crash {
        for crew in &mut crews {
            crew.knows()?;
        }
        for gateway in &mut running {
            gateway.server.kill()?;
        }
        for gateway in &mut running {
            bench.launcher.start_again(&mut gateway.server)?;
        }
    }
    let back = crews.iter_mut().map(Crew::sample).collect::<Result<Vec<_>>>()?;
    for crew in &mut crews {
        ensure!(crew.child.wait()?.success(), "a load process failed");
    }
    for gateway in &running {
        ensure!(gateway.server.is_alive(), "a gateway did not live to the end: {}", gateway.server.log());
    }
    match cause {
        Cause::Storm => report_storm(table, &held, &back, share * gateways, gateways),
        Cause::Crash => report_crash(table, &back, share * gateways, gateways),
    }
}

/// Edges and gateways.
fn split(quick: bool) -> (usize, usize) {
    if quick {
        return (QUICK_EDGES, 2);
    }
    let descriptors = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let room = usize::try_from(descriptors.saturating_sub(SPARE)).unwrap_or(usize::MAX).max(1);
    (EDGES, EDGES.div_ceil(room))
}

fn sum(samples: &[Sample], figure: &str) -> f64 {
    samples.iter().map(|sample| sample.figure(figure)).sum()
}

/// Latencies of all load processes together, and the time of the slowest.
fn together(back: &[Sample]) -> Result<(Quantiles, f64)> {
    let mut hist = Hist::new()?;
    for buckets in back.iter().filter_map(|sample| sample.buckets.as_ref()) {
        hist.merge(buckets);
    }
    Ok((hist.quantiles(), back.iter().map(|sample| sample.seconds).fold(0.0, f64::max)))
}

fn milliseconds(latency: &Quantiles) -> String {
    let [p50, p99, max] = [latency.p50, latency.p99, latency.max].map(|micros| number(micros / 1e3));
    format!("{p50} / {p99} / {max}")
}

fn report_crash(table: &mut Table, back: &[Sample], edges: usize, gateways: usize) -> Result<()> {
    let (latency, slowest) = together(back)?;
    let changed = sum(back, "changed_id");
    let (refused, vain) = (sum(back, "refused"), sum(back, "cut") + sum(back, "unreachable"));
    let all_back = latency.count as usize == edges && changed == 0.0;
    table.push(vec![
        Line::new(format!(
            "{gateways} gateways of {edges} edges killed and started again: seconds until all are back"
        ))
        .cell(Column::Gateway, number(slowest))
        .must(Some(all_back), "all back, with their IDs"),
        Line::new("the same: loss to Welcome, p50 / p99 / max, ms")
            .cell(Column::Gateway, milliseconds(&latency)),
        Line::new("the same: refusals and tries in vain per edge")
            .cell(Column::Gateway, format!("{:.3} and {:.3}", refused / edges as f64, vain / edges as f64)),
    ]);
    table.note(format!(
        "crash: kill -9 of all {gateways} gateways, which are started again at once on the same ports with the same ticket key; an edge \
         tries again 100 to 200 ms after a loss or a try in vain; {changed} edges came back under another ID",
    ));
    Ok(())
}

fn report_storm(
    table: &mut Table,
    held: &[Sample],
    back: &[Sample],
    edges: usize,
    gateways: usize,
) -> Result<()> {
    let (latency, slowest) = together(back)?;
    let (refused, cut) = (sum(back, "refused"), sum(back, "cut"));
    let changed = sum(back, "changed_id");
    let cpu = back.iter().map(|s| s.server_nanos as f64).sum::<f64>() / 1e3 / edges as f64;
    let all_back = latency.count as usize == edges && changed == 0.0;
    let calm = refused <= REFUSALS * edges as f64;
    table.push(vec![
        Line::new(format!("{edges} edges over {gateways} gateways, held: memory per edge, bytes"))
            .cell(Column::Gateway, number(sum(held, "bytes_per_edge") / held.len().max(1) as f64)),
        Line::new("all reconnect at once: seconds until all are back")
            .cell(Column::Gateway, number(slowest))
            .must(Some(all_back), "all back, with their IDs"),
        Line::new("the same: dial to Welcome, p50 / p99 / max, ms")
            .cell(Column::Gateway, milliseconds(&latency)),
        Line::new("the same: refusals and cuts per edge")
            .cell(Column::Gateway, format!("{:.3} and {:.3}", refused / edges as f64, cut / edges as f64))
            .must(Some(calm), "no refusal storm (≤ 1 refusal per edge)"),
        Line::new("the same: gateway CPU per edge").cell(Column::Gateway, format!("{} µs", number(cpu))),
    ]);
    table.note(format!(
        "storm: {gateways} gateway processes and as many load processes share all CPUs, because a process may hold only {} descriptors; \
         {changed} edges came back under another ID; memory after the storm {} MiB, before it {} MiB",
        rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        number(sum(back, "rss_after_storm") / (1024.0 * 1024.0)),
        number(sum(held, "rss_after") / (1024.0 * 1024.0)),
    ));
    Ok(())
}

// === impl Crew ===

impl Crew {
    fn start(bench: &Bench, gateway: &Running, n: usize, edges: usize, cause: Cause) -> Result<Self> {
        let then = match cause {
            Cause::Storm => "--storm",
            Cause::Crash => "--crash",
        };
        let mut child = bench
            .launcher
            .command(None, bench.launcher.exe().as_os_str())
            .args(["load", "fleet", then, "--warm", "10", "--concurrency", "0", "--per-source", "5000"])
            .args(["--edge", &gateway.edge.to_string(), "--edges", &edges.to_string()])
            .args(["--server-pid", &gateway.server.pid().to_string()])
            // Addresses of its own for every gateway.
            .args(["--source", &format!("127.0.{}.1", n + 1)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a load process")?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, output })
    }

    /// Its next line.
    fn sample(&mut self) -> Result<Sample> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "a load process ended early");
        Ok(serde_json::from_str(&line)?)
    }

    fn go(&mut self) -> Result<()> {
        let mut input = self.child.stdin.take().context("its input")?;
        Ok(input.write_all(b"go\n")?)
    }

    /// Waits until it expects its connections to break.
    fn knows(&mut self) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim() == fleet::READY, "a load process said {line:?}");
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_is_split_so_that_every_process_has_descriptors_to_spare() {
        let (edges, gateways) = split(false);
        let limit = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert!((edges as u64).div_ceil(gateways as u64) < limit);
        assert_eq!(split(true), (400, 2));
    }

    #[test]
    fn lost_edges_and_changed_ids_are_no_success() {
        let sample = |changed: f64| {
            let mut hist = Hist::new().unwrap();
            (0..10).for_each(|n| hist.record(1_000_000 * (n + 1)));
            let mut sample = Sample { seconds: 0.5, buckets: Some(hist.buckets()), ..Sample::default() };
            sample.set("changed_id", changed);
            sample
        };
        type Report = fn(&mut Table, &[Sample], usize) -> Result<()>;
        let storm: Report = |table, back, edges| report_storm(table, back, back, edges, 2);
        let crash: Report = |table, back, edges| report_crash(table, back, edges, 2);
        for (report, bounds) in [(storm, 2), (crash, 1)] {
            let missed = |back: &[Sample], edges| {
                let mut table = Table::default();
                report(&mut table, back, edges).unwrap();
                let score = table.score();
                assert_eq!(score.met + score.not_met, bounds);
                score.not_met
            };
            assert_eq!(missed(&[sample(0.0), sample(0.0)], 20), 0);
            assert_eq!(missed(&[sample(0.0), sample(0.0)], 21), 1);
            assert_eq!(missed(&[sample(0.0), sample(1.0)], 20), 1);
        }
    }
}
