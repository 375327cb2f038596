//! Calls from edges to a service that answers with what it was sent.

use anyhow::Result;

use super::super::{
    measure::{Bench, Job, Results, Trial},
    syscalls,
    system::System,
    table::{Column, Line, Table},
};
use crate::sample::Sample;

/// The systems that calls go through, by the name of their results.
const RELAY: &str = "relay";
const GATEWAY: &str = "gateway";
const SDK: &str = "sdk";
const NATS: &str = "nats";

/// The share of the relay's rate that must be reached.
const RATE: f64 = 0.7;

pub(super) fn ten_by_eight(bench: &Bench, table: &mut Table) -> Result<()> {
    let shape = Shape { edges: 10, in_flight: 8, payload: 64, rate: None };
    let title = "call 64 B, 10 edges × 8";
    let results = shape.measure(bench)?;
    let cpu = cpu_line(title, &results);
    let found = results.median(GATEWAY, Sample::server_micros);
    let cpu = cpu.at_most(found, 2.0, results.median(RELAY, Sample::server_micros), "relay").at_most(
        found,
        0.4,
        results.median(NATS, Sample::server_micros),
        "nats-server",
    );
    table.push(vec![cpu, rate_line(title, &results), latency_line(title, &results)]);
    shape.syscalls(bench, title, table)
}

pub(super) fn ten_by_one(bench: &Bench, table: &mut Table) -> Result<()> {
    near_the_relay(
        bench,
        table,
        "call 64 B, 10 edges × 1",
        Shape { edges: 10, in_flight: 1, payload: 64, rate: None },
    )
}

pub(super) fn paced(bench: &Bench, table: &mut Table) -> Result<()> {
    let rate = if bench.quick { 2_000.0 } else { 30_000.0 };
    let shape = Shape { edges: 10, in_flight: 8, payload: 64, rate: Some(rate) };
    near_the_relay(bench, table, "call 64 B, paced at 30,000/s", shape)
}

fn near_the_relay(bench: &Bench, table: &mut Table, title: &str, shape: Shape) -> Result<()> {
    let results = shape.measure(bench)?;
    let (gateway, relay) =
        (results.median(GATEWAY, Sample::server_micros), results.median(RELAY, Sample::server_micros));
    let latency = latency_line(title, &results).at_most(
        results.median(GATEWAY, |s| s.latency.p50),
        1.0,
        results.median(NATS, |s| s.latency.p50),
        "nats-server's p50",
    );
    let cpu = cpu_line(title, &results).at_most(gateway, 1.3, relay, "relay");
    table.push(vec![cpu, rate_line(title, &results), latency]);
    shape.syscalls(bench, title, table)
}

pub(super) fn large(bench: &Bench, table: &mut Table) -> Result<()> {
    let title = "call 64 KiB, 4 edges × 2";
    let shape = Shape { edges: 4, in_flight: 2, payload: 65_536, rate: None };
    let results = shape.measure(bench)?;
    let (gateway, relay) =
        (results.median(GATEWAY, Sample::server_micros), results.median(RELAY, Sample::server_micros));
    let rate = line(format!("{title}: calls/s"), |name| results.cell(name, "", Sample::rate));
    table.push(vec![
        cpu_line(title, &results).at_most(gateway, 1.5, relay, "relay"),
        rate,
        latency_line(title, &results),
    ]);
    shape.syscalls(bench, title, table)
}

/// How many calls of what size.
#[derive(Clone, Copy, Debug)]
struct Shape {
    edges: usize,
    in_flight: usize,
    payload: usize,
    rate: Option<f64>,
}

// === impl Shape ===

impl Shape {
    fn args(&self, edges: &str) -> Vec<String> {
        let mut args = vec![
            format!("--{edges}"),
            self.edges.to_string(),
            "--in-flight".to_owned(),
            self.in_flight.to_string(),
            "--payload".to_owned(),
            self.payload.to_string(),
        ];
        if let Some(rate) = self.rate {
            args.extend(["--rate".to_owned(), rate.to_string()]);
        }
        args
    }

    fn native(&self) -> Job {
        let args = self.args("edges");
        Job::load("call", &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn measure(&self, bench: &Bench) -> Result<Results> {
        let args = self.args("clients");
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        bench.alternate(&[
            Trial::new(RELAY, System::Relay, &self.native()),
            Trial::new(GATEWAY, System::GATEWAY, &self.native()),
            Trial::new(SDK, System::GATEWAY, &Job::client("call", &args)),
            Trial::new(NATS, System::Nats, &Job::broker("nats-call", &args)),
        ])
    }

    fn syscalls(&self, bench: &Bench, title: &str, table: &mut Table) -> Result<()> {
        for system in [System::Relay, System::GATEWAY] {
            let trial = Trial::new(system.name(), system, &self.native());
            if let Some(counted) = syscalls::per_operation(bench, &trial)? {
                table.note(format!("{title}, {}: {counted}", system.name()));
            }
        }
        Ok(())
    }
}

fn cpu_line(title: &str, results: &Results) -> Line {
    line(format!("{title}: server CPU per call"), |name| results.cell(name, " µs", Sample::server_micros))
}

fn rate_line(title: &str, results: &Results) -> Line {
    let line = line(format!("{title}: calls/s"), |name| results.cell(name, "", Sample::rate));
    line.at_least(results.median(GATEWAY, Sample::rate), RATE, results.median(RELAY, Sample::rate), "relay")
}

fn latency_line(title: &str, results: &Results) -> Line {
    line(format!("{title}: p50 / p99 / p999, µs"), |name| results.latency(name))
}

fn line(figure: String, cell: impl Fn(&str) -> String) -> Line {
    Line::new(figure)
        .cell(Column::Relay, cell(RELAY))
        .cell(Column::Gateway, cell(GATEWAY))
        .cell(Column::Sdk, cell(SDK))
        .cell(Column::Nats, cell(NATS))
}
