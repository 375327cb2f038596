//! System calls per operation, counted by the kernel's tracer while the load runs: `perf trace -s`, else `strace -c`, else not at all.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    measure::{Bench, Trial},
    system::Running,
};
use crate::out;

/// Seconds that the load runs, and that of them are counted: between start and end there is time for a tracer to attach.
const RUN: f64 = 5.0;
const WINDOW: f64 = 1.0;
/// When the tracer is started.
const AFTER: Duration = Duration::from_secs(2);

/// A tracer, and what it takes to make it count a process for some seconds into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tracer {
    Perf,
    Strace,
}

/// Counts the system calls of a trial's server; `None` if no tracer works here.
///
/// The tracer sees a second in the middle of a run of its own, so its cost is in no other figure; it slows the server down a little,
/// which makes batches larger than they were.
///
/// # Errors
/// If the server or its driver fails.
pub fn per_operation(bench: &Bench, trial: &Trial) -> Result<Option<String>> {
    if bench.quick {
        // Attaching takes longer than a smoke run.
        return Ok(None);
    }
    for tracer in [Tracer::Perf, Tracer::Strace] {
        let running = bench.start(trial.system)?;
        let log = bench.launcher.dir().join("syscalls.txt");
        let (sample, traced) = thread::scope(|scope| {
            let counting = scope.spawn(|| trace(bench, tracer, &running, &log));
            let sample = bench.drive(trial, &running, RUN);
            (sample, counting.join())
        });
        let sample = sample?;
        let Ok(Ok(seconds)) = traced else { continue };
        let counts = parse(&fs::read_to_string(&log).unwrap_or_default());
        if !counts.is_empty() {
            return Ok(Some(describe(&counts, sample.rate() * seconds, tracer)));
        }
    }
    out::note("    no tracer works here: system calls are not counted");
    Ok(None)
}

/// Traces in the middle of the run; returns for how many seconds.
fn trace(bench: &Bench, tracer: Tracer, running: &Running, log: &Path) -> Result<f64> {
    // Past the warm-up: the driver tells nobody when its window opens.
    thread::park_timeout(AFTER);
    let pid = running.server.pid().to_string();
    let log = log.display().to_string();
    let time = WINDOW.to_string();
    let (program, args): (&str, Vec<&str>) = match tracer {
        Tracer::Perf => ("perf", vec!["trace", "-s", "-o", &log, "-p", &pid, "--", "sleep", &time]),
        Tracer::Strace => ("timeout", vec!["-s", "INT", &time, "strace", "-f", "-c", "-o", &log, "-p", &pid]),
    };
    let status = bench
        .launcher
        .command(bench.load_cpu, program.as_ref())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    // `timeout` says 124 when it had to end the tracer, which is how it ends.
    let ended_well = status.success() || (tracer == Tracer::Strace && status.code() == Some(124));
    ended_well.then_some(WINDOW).context("the tracer failed")
}

/// Calls by name from either tracer's table: of perf the name is first and the count second, of strace the name is last and the count
/// the fourth column.
fn parse(text: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let found = match words.as_slice() {
            [name, count, rest @ ..] if is_name(name) && rest.len() >= 4 => {
                count.parse().ok().map(|n: u64| (*name, n))
            }
            [_, _, _, count, .., name] if is_name(name) && *name != "total" => {
                count.parse().ok().map(|n| (*name, n))
            }
            _ => None,
        };
        if let Some((name, count)) = found {
            *counts.entry(name.to_owned()).or_default() += count;
        }
    }
    counts
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn describe(counts: &BTreeMap<String, u64>, operations: f64, tracer: Tracer) -> String {
    let per = |count: u64| count as f64 / operations.max(1.0);
    let mut parts: Vec<(&String, f64)> = counts.iter().map(|(name, count)| (name, per(*count))).collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown: Vec<String> =
        parts.iter().filter(|(_, n)| *n >= 0.005).map(|(name, n)| format!("{name} {n:.2}")).collect();
    let by = match tracer {
        Tracer::Perf => "perf trace",
        Tracer::Strace => "strace",
    };
    format!("{:.2} system calls per call ({}; {by})", per(counts.values().sum()), shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tracers_tables_are_read_and_threads_added_up() {
        let perf = "\
 Summary of events:

 frontier (7), 2000 events, 99.0%

   syscall            calls  errors  total       min       avg       max       stddev
                                     (msec)    (msec)    (msec)    (msec)        (%)
   --------------- --------  ------ -------- --------- --------- ---------     ------
   epoll_wait           300      0   804.1     0.000     0.002     2.511      0.62%
   recvfrom             700      1    10.0     0.001     0.001     0.100      0.10%

 shard-1 (8), 10 events, 1.0%

   epoll_wait             5      0     1.0     0.000     0.002     2.511      0.62%
";
        assert_eq!(
            parse(perf),
            BTreeMap::from([("epoll_wait".to_owned(), 305), ("recvfrom".to_owned(), 700)])
        );
        let strace = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 70.00    0.100000           1    100000        12 read
 30.00    0.050000           1     50000           writev
------ ----------- ----------- --------- --------- ----------------
100.00    0.150000           1    150000        12 total
";
        assert_eq!(
            parse(strace),
            BTreeMap::from([("read".to_owned(), 100_000), ("writev".to_owned(), 50_000)])
        );
        assert_eq!(parse("nothing here\n"), BTreeMap::new());
    }

    #[test]
    fn counts_are_told_per_operation_most_frequent_first() {
        let counts = BTreeMap::from([("a".to_owned(), 50), ("b".to_owned(), 150)]);
        assert_eq!(
            describe(&counts, 100.0, Tracer::Perf),
            "2.00 system calls per call (b 1.50, a 0.50; perf trace)"
        );
    }
}
