//! `frontier-bench run`: which rows, how often, and where the table goes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::{
    measure::Bench,
    rows::{ROWS, Row},
    server::Launcher,
    system::System,
    table::{Line, Table},
};
use crate::{net, out, proc::Ticks};

/// Runs, seconds per run.
const RUNS: usize = 5;
const SECONDS: f64 = 2.0;
const QUICK_SECONDS: f64 = 0.3;

/// Arguments of a run.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Rows to measure, by name; all if none is given. May be given several times or with commas.
    #[arg(long = "row", value_delimiter = ',')]
    rows: Vec<String>,
    /// Runs of each figure; the median counts.
    #[arg(long, default_value_t = RUNS)]
    runs: usize,
    /// Seconds that one run measures.
    #[arg(long, default_value_t = SECONDS)]
    seconds: f64,
    /// A smoke run: every row once and short, its figures worth nothing.
    #[arg(long)]
    quick: bool,
    /// The gateway's binary; the default is `frontier` beside this program.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// The program of Go clients (`e2e/go/geminio`); the default is `geminio-peer` beside this program. Without it their column is
    /// missing.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// CPU of the servers.
    #[arg(long, default_value_t = 1)]
    server_cpu: usize,
    /// CPU of the load.
    #[arg(long, default_value_t = 0)]
    load_cpu: usize,
    /// Where the table is written, besides being printed.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Says which rows there are.
    #[arg(long)]
    list: bool,
}

/// Measures and prints the table.
///
/// # Errors
/// If a row could not be measured; the table is printed all the same. A bound that is not met is no error.
pub fn run(args: &RunArgs) -> Result<()> {
    if args.list {
        ROWS.iter().for_each(|row| out::line(&format!("{:<16} {}", row.name, row.about)));
        return Ok(());
    }
    let rows = select(&args.rows)?;
    let bench = bench(args)?;
    let start = Ticks::now()?;
    let mut table = Table::default();
    for system in &bench.absent {
        let text = format!(
            "{} is not installed: its column is missing, and bounds against it are not compared",
            system.name()
        );
        out::note(&format!("!! {text}"));
        table.note(text);
    }
    let mut failed = Vec::new();
    for row in rows {
        out::note(&format!("{}: {}", row.name, row.about));
        if let Err(error) = row.measure(&bench, &mut table) {
            out::note(&format!("    failed: {error:#}"));
            table.push(vec![
                Line::new(format!("{}: {}", row.name, row.about)).must(Some(false), "be measured"),
            ]);
            table.note(format!("{} could not be measured: {error:#}", row.name));
            failed.push(row.name);
        }
    }
    conclude(args, &bench, &start, &mut table)?;
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

fn select(names: &[String]) -> Result<Vec<&'static Row>> {
    if names.iter().all(String::is_empty) {
        return Ok(ROWS.iter().collect());
    }
    names
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| {
            let known = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            ROWS.iter()
                .find(|row| row.name == name)
                .with_context(|| format!("no row {name:?}; there are {}", known()))
        })
        .collect()
}

fn bench(args: &RunArgs) -> Result<Bench> {
    ensure!(args.runs > 0 && args.seconds > 0.0, "at least one run of some length");
    net::raise_descriptors()?;
    let launcher = Launcher::new()?;
    let gateway = args.gateway.clone().unwrap_or_else(|| launcher.exe().with_file_name("frontier"));
    let peers = args.peers.clone().unwrap_or_else(|| launcher.exe().with_file_name("geminio-peer"));
    // With one core there is nothing to keep apart.
    let cores = thread::available_parallelism()?.get();
    let cpu = |wanted: usize| (wanted < cores).then_some(wanted);
    Ok(Bench {
        gateway,
        peers: peers.is_file().then_some(peers),
        launcher,
        absent: [System::Nats, System::Mosquitto]
            .into_iter()
            .filter(|system| system.program().is_none())
            .collect(),
        server_cpu: cpu(args.server_cpu),
        load_cpu: cpu(args.load_cpu),
        runs: if args.quick { 1 } else { args.runs },
        seconds: if args.quick { QUICK_SECONDS } else { args.seconds },
        quick: args.quick,
        discarded: AtomicU64::new(0),
        noisy: AtomicU64::new(0),
    })
}

/// Says how it was measured, prints and writes the table.
fn conclude(args: &RunArgs, bench: &Bench, start: &Ticks, table: &mut Table) -> Result<()> {
    let (discarded, noisy) = (bench.discarded.load(Ordering::Relaxed), bench.noisy.load(Ordering::Relaxed));
    let steal = Ticks::now()?.steal_since(start) * 100.0;
    table.note(format!(
        "cells are medians of {} alternating runs of {} s [smallest–largest]; {discarded} runs were repeated because of CPU steal ≥ 2 %, \
         {noisy} count in spite of it; steal over everything {steal:.1} %",
        bench.runs, bench.seconds
    ));
    table.note(
        "bare relay: one thread, its own edge-triggered epoll loop, one upstream connection per edge connection, bytes copied in user \
         space; relay and gateway (one shard) are driven by the same load program; server and load are pinned to a core each",
    );
    if let Some(machine) = machine() {
        table.note(machine);
    }
    if args.quick {
        table.note("a smoke run: these figures are worth nothing");
    }
    let text = format!("{}\n{}.", table.render(), table.score());
    out::line(&format!("\n{text}"));
    if let Some(path) = &args.out {
        write(path, &text).with_context(|| path.display().to_string())?;
        out::note(&format!("written to {}", path.display()));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, format!("{text}\n"))
}

/// Cores, model, kernel and the versions of the neighbours, as far as they say.
fn machine() -> Option<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").ok()?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "))?.1.to_owned();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let cores = thread::available_parallelism().ok()?;
    let versions: Vec<String> = [("nats-server", "-v"), ("mosquitto", "-h")]
        .iter()
        .filter_map(|(program, flag)| {
            // mosquitto lives where ordinary users do not look, and says its version with its help, unsuccessfully.
            let output = Command::new(program)
                .arg(flag)
                .output()
                .or_else(|_| Command::new(format!("/usr/sbin/{program}")).arg(flag).output())
                .ok()?;
            Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
        })
        .collect();
    Some(format!("{cores} × {model}, Linux {}; {}", kernel.trim(), versions.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name_and_unknown_ones_named() {
        let names = |rows: &[&str]| select(&rows.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&[]).unwrap().len(), ROWS.len());
        assert_eq!(names(&[""]).unwrap().len(), ROWS.len());
        assert_eq!(names(&["storm", "idle"]).unwrap()[0].name, "storm");
        assert!(names(&["call"]).unwrap_err().to_string().contains("call-10x8"));
    }
}
