//! Edges and services of the Go system. Bounds are absolute: what the Go system takes stands beside them, found on a machine of this kind
//! with Go clients, which limit its rates; its CPU is the gateway's alone.

use anyhow::Result;

use super::{
    super::{
        measure::{Bench, Job, Results, Trial, number},
        syscalls,
        system::System,
        table::{Column, Line, Table},
    },
    edges::OPEN,
};
use crate::sample::Sample;

const RELAY: &str = "relay";
const GATEWAY: &str = "gateway";
const PEERS: &str = "go-clients";

const MIB: f64 = 1024.0 * 1024.0;
/// Bytes of memory that an idle edge may cost.
const IDLE: f64 = 512.0;
/// Microseconds of gateway CPU that a new edge may cost.
const CONNECT: f64 = 40.0;
/// p50 of a call over 10 edges × 1 in microseconds: the Go system's 1.3 ms less the 148 µs that its gateway took.
const P50: f64 = 1_300.0 - 148.0;
/// As for native streams.
const FLAT: f64 = MIB;

/// Operations between edges and a service, what they may cost, and what the Go system takes.
struct Shape {
    title: &'static str,
    /// What one is called.
    each: &'static str,
    command: &'static str,
    args: &'static [&'static str],
    /// Microseconds of gateway CPU for each.
    most: f64,
    /// The same of the Go system, its rate, and its latencies.
    go: [&'static str; 3],
}

pub(super) fn call_up(bench: &Bench, table: &mut Table) -> Result<()> {
    let results = Shape {
        title: "geminio call 64 B edge→service, 10 edges × 8",
        each: "call",
        command: "call",
        args: &["--edges", "10", "--in-flight", "8"],
        most: 10.0,
        go: ["116 µs", "8,900", "p99 18,000"],
    };
    results.measure(bench, table)?;
    table.note(
        "Go system: found with Go clients, which are the ceiling of its rates and most of its latencies; its figures are not measured in this \
         run. nats-server with its Go clients takes 12.5 µs for a call of 64 B and 503 µs for one of 64 KiB raw bytes",
    );
    Ok(())
}

pub(super) fn call_down(bench: &Bench, table: &mut Table) -> Result<()> {
    Shape {
        title: "geminio call 64 B service→edge, 10 edges × 8",
        each: "call",
        command: "call",
        args: &["--down", "--edges", "10", "--in-flight", "8"],
        most: 10.0,
        go: ["98 µs", "9,900", "p99 18,000"],
    }
    .measure(bench, table)
    .map(drop)
}

pub(super) fn call_one(bench: &Bench, table: &mut Table) -> Result<()> {
    let title = "geminio call 64 B, 10 edges × 1";
    let results = Shape {
        title,
        each: "call",
        command: "call",
        args: &["--edges", "10", "--in-flight", "1"],
        most: 15.0,
        go: ["148 µs", "6,400", "p50 1,300, p99 5,000"],
    }
    .measure(bench, table)?;
    let p50 = |s: &Sample| s.latency.p50;
    let met = results.median(GATEWAY, p50).map(|found| found <= P50);
    table.push(vec![
        Line::new(format!("{title}: p50, µs"))
            .cell(Column::Relay, results.cell(RELAY, "", p50))
            .cell(Column::Gateway, results.cell(GATEWAY, "", p50))
            .cell(Column::GoClients, results.cell(PEERS, "", p50))
            .cell(Column::Go, "1,300")
            .must(met, &format!("≤ {}: the Go system's less what its gateway took", number(P50))),
    ]);
    Ok(())
}

pub(super) fn call_large(bench: &Bench, table: &mut Table) -> Result<()> {
    Shape {
        title: "geminio call 64 KiB, 4 edges × 2",
        each: "call",
        command: "call",
        args: &["--edges", "4", "--in-flight", "2", "--payload", "65536"],
        most: 350.0,
        go: ["2,700–3,400 µs", "270", ""],
    }
    .measure(bench, table)
    .map(drop)
}

pub(super) fn publish_up(bench: &Bench, table: &mut Table) -> Result<()> {
    Shape {
        title: "geminio publish edge→service, 10 edges × 8",
        each: "message",
        command: "publish",
        args: &["--edges", "10", "--in-flight", "8"],
        most: 10.0,
        go: ["98 µs", "9,200", ""],
    }
    .measure(bench, table)
    .map(drop)
}

pub(super) fn publish_down(bench: &Bench, table: &mut Table) -> Result<()> {
    Shape {
        title: "geminio publish service→edge, 10 edges × 8",
        each: "message",
        command: "publish",
        args: &["--down", "--edges", "10", "--in-flight", "8"],
        most: 12.0,
        go: ["176 µs", "4,300", ""],
    }
    .measure(bench, table)
    .map(drop)
}

// === impl Shape ===

impl Shape {
    fn measure(&self, bench: &Bench, table: &mut Table) -> Result<Results> {
        let job = Job::geminio(self.command, self.args);
        let mut trials =
            vec![Trial::new(RELAY, System::Relay, &job), Trial::new(GATEWAY, System::GATEWAY, &job)];
        if let Some(program) = &bench.peers {
            trials.push(Trial::new(PEERS, System::GATEWAY, &Job::peers(self.command, self.args, program)));
        }
        let results = bench.alternate(&trials)?;
        let Self { title, each, most, go: [cpu, rate, latency], .. } = *self;
        let line = |figure: &str, cell: &dyn Fn(&str) -> String, go: &str| {
            Line::new(format!("{title}: {figure}"))
                .cell(Column::Relay, cell(RELAY))
                .cell(Column::Gateway, cell(GATEWAY))
                .cell(Column::GoClients, cell(PEERS))
                .cell(Column::Go, go)
        };
        let met = results.median(GATEWAY, Sample::server_micros).map(|found| found <= most);
        table.push(vec![
            line(
                &format!("server CPU per {each}"),
                &|name| results.cell(name, " µs", Sample::server_micros),
                cpu,
            )
            .must(met, &format!("≤ {} µs", number(most))),
            line(&format!("{each}s/s"), &|name| results.cell(name, "", Sample::rate), rate),
            line("p50 / p99 / p999, µs", &|name| results.latency(name), latency),
        ]);
        if let Some(counted) = syscalls::per_operation(bench, &trials[1])? {
            table.note(format!("{title}, gateway: {counted}"));
        }
        Ok(results)
    }
}

pub(super) fn stream(bench: &Bench, table: &mut Table) -> Result<()> {
    let writes = [("32 KiB", "32768", 0.6, "220", "3.5 ms"), ("1 KiB", "1024", 4.0, "32", "31 ms")];
    let directions = [("edge→service", "up"), ("service→edge", "down")];
    let mut trials = Vec::new();
    for (size, bytes, ..) in writes {
        for (_, way) in directions {
            let down: &[&str] = if way == "down" { &["--down"] } else { &[] };
            let args = [&["--write", bytes], down].concat();
            let job = Job::geminio("stream", &args);
            trials.push(Trial::new(&format!("relay-{way}-{size}"), System::Relay, &job));
            trials.push(Trial::new(&format!("gateway-{way}-{size}"), System::GATEWAY, &job));
            if let Some(program) = &bench.peers {
                let job = Job::peers("stream", &args, program);
                trials.push(Trial::new(&format!("go-clients-{way}-{size}"), System::GATEWAY, &job));
            }
        }
    }
    let results = bench.alternate(&trials)?;
    let cost = |s: &Sample| s.server_nanos as f64 / 1e6 / (s.figure("bytes") / MIB).max(1e-9);
    let speed = |s: &Sample| s.figure("bytes_per_second") / MIB;
    let growth = |s: &Sample| s.figure("rss_late") - s.figure("rss_early");
    for (size, _, most, go_speed, go_cost) in writes {
        for (arrow, way) in directions {
            let title = format!("geminio stream {arrow}, {size} writes");
            let [relay, gateway, peers] =
                ["relay", "gateway", "go-clients"].map(|system| format!("{system}-{way}-{size}"));
            let line = |figure: &str, cell: &dyn Fn(&str) -> String, go: &str| {
                Line::new(format!("{title}: {figure}"))
                    .cell(Column::Relay, cell(&relay))
                    .cell(Column::Gateway, cell(&gateway))
                    .cell(Column::GoClients, cell(&peers))
                    .cell(Column::Go, go)
            };
            let cheap = results.median(&gateway, cost).map(|found| found <= most);
            let flat = results.median(&gateway, growth).map(|found| found <= FLAT);
            table.push(vec![
                line("server CPU per MiB", &|name| results.cell(name, " ms", cost), go_cost)
                    .must(cheap, &format!("≤ {} ms", number(most))),
                line("MiB/s", &|name| results.cell(name, "", speed), go_speed),
                Line::new(format!("{title}: memory in the second half of the run over the first, KiB"))
                    .cell(Column::Relay, results.cell(&relay, "", |s| growth(s) / 1024.0))
                    .cell(Column::Gateway, results.cell(&gateway, "", |s| growth(s) / 1024.0))
                    .cell(Column::Go, "grows")
                    .must(flat, "flat (≤ 1 MiB)"),
            ]);
        }
    }
    Ok(())
}

/// Edges, and of them those that come up before anything counts.
const fn crowd(bench: &Bench) -> [&str; 2] {
    if bench.quick { ["300", "50"] } else { ["4100", "100"] }
}

pub(super) fn idle(bench: &Bench, table: &mut Table) -> Result<()> {
    let [edges, warm] = crowd(bench);
    let fleet = Job::geminio("fleet", &["--edges", edges, "--warm", warm, "--hold"]);
    let results = bench.alternate(&[Trial::new(GATEWAY, OPEN, &fleet)])?;
    let bytes = |s: &Sample| s.figure("bytes_per_edge");
    let met = results.median(GATEWAY, bytes).map(|found| found <= IDLE);
    table.push(vec![
        Line::new("memory per idle geminio edge, 4,000 with 16 B meta, bytes")
            .cell(Column::Gateway, results.cell(GATEWAY, "", bytes))
            .cell(Column::Go, "95,000")
            .must(met, &format!("≤ {}", number(IDLE))),
    ]);
    Ok(())
}

pub(super) fn connect(bench: &Bench, table: &mut Table) -> Result<()> {
    let [edges, warm] = crowd(bench);
    let fleet = Job::geminio("fleet", &["--edges", edges, "--warm", warm]);
    let results = bench.alternate(&[Trial::new(GATEWAY, OPEN, &fleet)])?;
    let line = |figure: &str, cell: String| {
        Line::new(format!("new geminio edge: {figure}")).cell(Column::Gateway, cell)
    };
    let met = results.median(GATEWAY, Sample::server_micros).map(|found| found <= CONNECT);
    table.push(vec![
        line("server CPU", results.cell(GATEWAY, " µs", Sample::server_micros))
            .cell(Column::Go, "500 µs")
            .must(met, &format!("≤ {} µs", number(CONNECT))),
        line("edges/s, 64 under way", results.cell(GATEWAY, "", Sample::rate)),
        line("p50 / p99 / p999, µs", results.latency(GATEWAY)),
    ]);
    table.note(
        "new geminio edge: its answer goes out 2 ms after Conn at the earliest, which older Go clients need",
    );
    Ok(())
}
