//! What must not disturb each other: small calls and big ones, streams and memory, busy edges and a stalled one.

use anyhow::Result;

use super::super::{
    measure::{Bench, Job, Trial, number},
    system::System,
    table::{Column, Line, Table},
};
use crate::sample::Sample;

/// The share of the relay's throughput that paced big calls take.
const SHARE: f64 = 0.25;
/// What may pass before a small call while big ones go as fast as they can, in bytes.
const AHEAD: f64 = 512.0 * 1024.0;
/// "Unchanged": within what runs differ by themselves.
const UNCHANGED: f64 = 1.2;
/// Memory is flat when its peak in the second half of a run exceeds that of the first half by no more than this, in bytes: the largest
/// window of a stream, which may happen to be full in one half alone. Without a bound it would grow by what passes, hundreds of MiB.
const FLAT: f64 = 4.0 * 1024.0 * 1024.0;

pub(super) fn beside(bench: &Bench, table: &mut Table) -> Result<()> {
    let size = if bench.quick { "1048576" } else { "8388608" };
    let job = |extra: &[&str]| Job::load("beside", &[&["--big-size", size], extra].concat());
    let big = "big_bytes_per_second";
    let full = bench.alternate(&[Trial::new("relay-big", System::Relay, &job(&["--small-rate", "0"]))])?;
    let throughput = full.median("relay-big", |s| s.figure(big)).unwrap_or_default();
    let pace = (throughput * SHARE).max(1.0).to_string();
    let mut trials = Vec::new();
    for (name, system) in [("relay", System::Relay), ("gateway", System::GATEWAY)] {
        trials.push(Trial::new(&format!("{name}-alone"), system, &job(&["--big", "0"])));
        trials.push(Trial::new(&format!("{name}-paced"), system, &job(&["--big-rate", &pace])));
        trials.push(Trial::new(&format!("{name}-saturating"), system, &job(&[])));
    }
    let results = bench.alternate(&trials)?;
    let line = |figure: &str, kind: &str| {
        Line::new(format!("64 B calls {figure}: p50 / p99 / p999, µs"))
            .cell(Column::Relay, results.latency(&format!("relay-{kind}")))
            .cell(Column::Gateway, results.latency(&format!("gateway-{kind}")))
    };
    let p99 = |name: &str| results.median(name, |s| s.latency.p99);
    let alone = p99("gateway-alone");
    let rate = results.median("gateway-saturating", |s| s.figure(big)).filter(|rate| *rate > 0.0);
    let ahead = rate.map(|rate| AHEAD / rate * 1e6);
    let saturating = p99("gateway-saturating");
    let most = alone.zip(ahead).map(|(alone, ahead)| 2.0 * alone + ahead);
    table.push(vec![
        line("alone, 1,000/s", "alone"),
        line("beside 8 MiB calls, paced", "paced").at_most(p99("gateway-paced"), 2.0, alone, "p99 alone"),
        line("beside 8 MiB calls, saturating", "saturating").must(
            saturating.zip(most).map(|(found, most)| found <= most),
            &format!(
                "p99 ≤ 2 × alone + 512 KiB at the measured rate = {} µs",
                most.map(number).unwrap_or_default()
            ),
        ),
        Line::new("8 MiB calls beside them: MiB/s, both ways together")
            .cell(Column::Relay, results.cell("relay-saturating", "", |s| s.figure(big) / MIB))
            .cell(Column::Gateway, results.cell("gateway-saturating", "", |s| s.figure(big) / MIB)),
    ]);
    table.note(format!(
        "8 MiB calls alone, two in flight, pass the relay at {} MiB/s, both ways together; paced is 25 % of that",
        number(throughput / MIB)
    ));
    Ok(())
}

const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn stream(bench: &Bench, table: &mut Table) -> Result<()> {
    let mut trials = Vec::new();
    for (direction, args) in [("up", [].as_slice()), ("down", &["--down"])] {
        let job = Job::load("stream", args);
        trials.push(Trial::new(&format!("relay-{direction}"), System::Relay, &job));
        trials.push(Trial::new(&format!("gateway-{direction}"), System::GATEWAY, &job));
        let job = Job::client("stream", &[&["--payload", "32768"], args].concat());
        trials.push(Trial::new(&format!("sdk-{direction}"), System::GATEWAY, &job));
    }
    let results = bench.alternate(&trials)?;
    let speed = |s: &Sample| s.figure("bytes_per_second") / MIB;
    let growth = |s: &Sample| s.figure("rss_late") - s.figure("rss_early");
    let most = |s: &Sample| s.figure("rss_late").max(s.figure("rss_early")) - s.figure("rss_before");
    for (direction, arrow) in [("up", "edge→service"), ("down", "service→edge")] {
        let (relay, gateway) = (format!("relay-{direction}"), format!("gateway-{direction}"));
        let found = results.median(&gateway, growth);
        table.push(vec![
            Line::new(format!("stream {arrow}, 32 KiB writes: MiB/s"))
                .cell(Column::Relay, results.cell(&relay, "", speed))
                .cell(Column::Gateway, results.cell(&gateway, "", speed))
                .cell(Column::Sdk, results.cell(&format!("sdk-{direction}"), "", speed))
                .at_least(results.median(&gateway, speed), 0.8, results.median(&relay, speed), "relay"),
            Line::new(format!("stream {arrow}: memory in the second half of the run over the first, KiB"))
                .cell(Column::Relay, results.cell(&relay, "", |s| growth(s) / 1024.0))
                .cell(Column::Gateway, results.cell(&gateway, "", |s| growth(s) / 1024.0))
                .must(found.map(|found| found <= FLAT), "flat (≤ 4 MiB)"),
            Line::new(format!("stream {arrow}: memory at most over that before it, KiB"))
                .cell(Column::Relay, results.cell(&relay, "", |s| most(s) / 1024.0))
                .cell(Column::Gateway, results.cell(&gateway, "", |s| most(s) / 1024.0)),
        ]);
    }
    Ok(())
}

pub(super) fn stalled(bench: &Bench, table: &mut Table) -> Result<()> {
    let (edges, rate) = if bench.quick { ("50", "1000") } else { ("1000", "20000") };
    let args = ["--edges", edges, "--in-flight", "8", "--rate", rate];
    let (calm, stalled) = (Job::load("call", &args), Job::load("call", &[&args[..], &["--stall"]].concat()));
    let results = bench.alternate(&[
        Trial::new("calm", System::GATEWAY, &calm),
        Trial::new("stalled", System::GATEWAY, &stalled),
        Trial::new("relay-calm", System::Relay, &calm),
    ])?;
    let p99 = |name: &str| results.median(name, |s| s.latency.p99);
    table.push(vec![
        Line::new("1,000 edges, 20,000 calls/s: p50 / p99 / p999, µs")
            .cell(Column::Relay, results.latency("relay-calm"))
            .cell(Column::Gateway, results.latency("calm")),
        Line::new("the same beside a stalled reader")
            .cell(Column::Gateway, results.latency("stalled"))
            .at_most(p99("stalled"), UNCHANGED, p99("calm"), "p99 without it"),
    ]);
    let figure = |name: &str| results.median("stalled", |s| s.figure(name)).map(number).unwrap_or_default();
    table.note(format!(
        "the stalled edge was sent {} messages of 16 KiB; {} were refused",
        figure("stalled_sent"),
        figure("stalled_refused")
    ));
    Ok(())
}
