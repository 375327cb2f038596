//! Messages with their acknowledgements.

use anyhow::Result;

use super::super::{
    measure::{Bench, Job, Results, Trial},
    system::System,
    table::{Column, Line, Table},
};
use crate::sample::Sample;

const RELAY: &str = "relay";
const GATEWAY: &str = "gateway";
const SDK: &str = "sdk";
const MOSQUITTO: &str = "mosquitto";

pub(super) fn up(bench: &Bench, table: &mut Table) -> Result<()> {
    let native = Job::load("publish", &["--edges", "1", "--in-flight", "64"]);
    let results = bench.alternate(&[
        Trial::new(RELAY, System::Relay, &native),
        Trial::new(GATEWAY, System::GATEWAY, &native),
        Trial::new(SDK, System::GATEWAY, &Job::client("publish", &["--clients", "1", "--in-flight", "64"])),
        Trial::new(MOSQUITTO, System::Mosquitto, &Job::broker("mqtt-publish", &["--in-flight", "64"])),
    ])?;
    table.push(lines("publish edge→service, 1 edge × 64", &results, 100_000.0));
    table.note("mosquitto acknowledges a QoS 1 message when it has it, the gateway when its receiver has it");
    Ok(())
}

pub(super) fn down(bench: &Bench, table: &mut Table) -> Result<()> {
    let native = Job::load("publish", &["--down", "--edges", "10", "--in-flight", "8"]);
    let results = bench.alternate(&[
        Trial::new(RELAY, System::Relay, &native),
        Trial::new(GATEWAY, System::GATEWAY, &native),
        Trial::new(
            SDK,
            System::GATEWAY,
            &Job::client("publish", &["--down", "--clients", "10", "--in-flight", "8"]),
        ),
    ])?;
    table.push(lines("publish service→edge, 10 edges × 8", &results, 80_000.0));
    Ok(())
}

fn lines(title: &str, results: &Results, least: f64) -> Vec<Line> {
    let line = |figure: &str, cell: &dyn Fn(&str) -> String| {
        Line::new(format!("{title}: {figure}"))
            .cell(Column::Relay, cell(RELAY))
            .cell(Column::Gateway, cell(GATEWAY))
            .cell(Column::Sdk, cell(SDK))
            .cell(Column::Mosquitto, cell(MOSQUITTO))
    };
    let met = results.median(GATEWAY, Sample::rate).map(|rate| rate >= least);
    vec![
        line("messages/s", &|name| results.cell(name, "", Sample::rate))
            .must(met, &format!("≥ {} /s", super::super::measure::number(least))),
        line("server CPU per message", &|name| results.cell(name, " µs", Sample::server_micros)),
        line("p50 / p99 / p999, µs", &|name| results.latency(name)),
    ]
}
