//! Edges that do nothing: what they cost to come up, and to be there.

use anyhow::Result;

use super::super::{
    measure::{Bench, Job, Results, Trial, number},
    system::{System, Variant},
    table::{Column, Line, Table},
};
use crate::{
    load::fleet::PER_EDGE,
    sample::{self, Sample},
};

/// Bytes of memory that an idle edge may cost, over TCP and over TLS.
const PLAIN: f64 = 512.0;
const TLS: f64 = 9.0 * 1024.0;

/// The gateway without a limit on new sessions: what is measured is not that limit.
pub(super) const OPEN: System = System::Gateway(Variant { tls: false, any_rate: true });
const OPEN_TLS: System = System::Gateway(Variant { tls: true, any_rate: true });

/// Edges, and of them those that come up before anything counts.
const fn crowd(bench: &Bench) -> [&str; 2] {
    if bench.quick { ["300", "50"] } else { ["9000", "100"] }
}

pub(super) fn idle(bench: &Bench, table: &mut Table) -> Result<()> {
    let [edges, warm] = crowd(bench);
    let fleet =
        |extra: &[&str]| Job::load("fleet", &[&["--edges", edges, "--warm", warm, "--hold"], extra].concat());
    let guests =
        |dialect| Job::broker("guests", &["--guests", edges, "--warm", warm, "--hold", "--dialect", dialect]);
    let results = bench.alternate(&[
        Trial::new("plain", OPEN, &fleet(&[])),
        Trial::new("methods", OPEN, &fleet(&["--methods", "3"])),
        Trial::new("tls", OPEN_TLS, &fleet(&[])),
        Trial::new("nats", System::Nats, &guests("nats")),
        Trial::new("mosquitto", System::Mosquitto, &guests("mqtt")),
    ])?;
    let bytes = |s: &Sample| s.figure("bytes_per_edge");
    let line = |figure: &str, name: &str, most: f64| {
        let met = results.median(name, bytes).map(|found| found <= most);
        Line::new(format!("memory per idle edge, {figure}, bytes"))
            .cell(Column::Gateway, results.cell(name, "", bytes))
            .must(met, &format!("≤ {}", number(most)))
    };
    table.push(vec![
        line("16 B meta, no method", "plain", PLAIN)
            .cell(Column::Nats, results.cell("nats", "", bytes))
            .cell(Column::Mosquitto, results.cell("mosquitto", "", bytes)),
        line("16 B meta, 3 methods", "methods", PLAIN),
        line("over TLS", "tls", TLS),
    ]);
    for (name, title) in [("plain", "no method"), ("methods", "3 methods"), ("tls", "over TLS")] {
        if let Some(text) = breakdown(&results, name) {
            table.note(format!("memory per idle edge, {title}: {text}"));
        }
    }
    Ok(())
}

/// What the gateway says its memory is made of, per edge; the kernel's figure counts whole pages, freed ones included.
fn breakdown(results: &Results, name: &str) -> Option<String> {
    let samples = results.samples(name);
    let series: Vec<&String> =
        samples.first()?.figures.keys().filter(|key| key.starts_with(PER_EDGE)).collect();
    let parts: Vec<String> = series
        .iter()
        .filter_map(|series| {
            let bytes = sample::median_of(samples, |s| s.figure(series))?;
            let short = series.trim_start_matches(PER_EDGE).replace("frontier_", "").replace("_bytes", "");
            (bytes.abs() >= 0.5).then(|| format!("{short} {}", number(bytes)))
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub(super) fn connect(bench: &Bench, table: &mut Table) -> Result<()> {
    let [edges, warm] = crowd(bench);
    let fleet = Job::load("fleet", &["--edges", edges, "--warm", warm]);
    let guests = |dialect| Job::broker("guests", &["--guests", edges, "--warm", warm, "--dialect", dialect]);
    let results = bench.alternate(&[
        Trial::new("greeter", System::Greeter, &fleet),
        Trial::new("gateway", OPEN, &fleet),
        Trial::new("tls", OPEN_TLS, &fleet),
        Trial::new("nats", System::Nats, &guests("nats")),
        Trial::new("mosquitto", System::Mosquitto, &guests("mqtt")),
    ])?;
    let (found, bare) =
        (results.median("gateway", Sample::server_micros), results.median("greeter", Sample::server_micros));
    let line = |figure: &str, cell: &dyn Fn(&str) -> String| {
        Line::new(format!("new edge: {figure}"))
            .cell(Column::Relay, cell("greeter"))
            .cell(Column::Gateway, cell("gateway"))
            .cell(Column::Nats, cell("nats"))
            .cell(Column::Mosquitto, cell("mosquitto"))
    };
    table.push(vec![
        line("server CPU", &|name| results.cell(name, " µs", Sample::server_micros)).at_most(
            found,
            2.0,
            bare,
            "accept-read-write server",
        ),
        line("edges/s, 64 under way", &|name| results.cell(name, "", Sample::rate)),
        line("p50 / p99 / p999, µs", &|name| results.latency(name)),
        Line::new("new edge over TLS: server CPU")
            .cell(Column::Gateway, results.cell("tls", " µs", Sample::server_micros)),
    ]);
    table.note("new edge: the column of the relay is the bare accept-read-write server, which answers the same Hello");
    Ok(())
}
