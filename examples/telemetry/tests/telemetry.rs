//! Telemetry with the real gateway: what the collector's table shows, and that edges are tuned by their load.

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Gateway},
    program::Program,
    wait::{SOON, until},
};

const TELEMETRY: &str = env!("CARGO_BIN_EXE_telemetry");
const METRICS: [&str; 5] = ["load", "cpu %", "memory %", "in KiB/s", "out KiB/s"];

#[test]
fn readings_are_aggregated_by_edge_and_metric() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let _edges = [edge(&gateway, "north")?, edge(&gateway, "south")?];
    let collector = collect(&gateway, &["--busy", "0", "--fast", "100"])?;
    for name in ["north", "south"] {
        for metric in METRICS {
            // Some readings, so that there is something to aggregate.
            let row = until("a row", SOON, || {
                let rows = collector.said(&format!("{name} ("));
                rows.iter().filter_map(|row| Row::parse(row, metric)).find(|row| row.count >= 3)
            })
            .with_context(|| format!("{metric} of {name}"))?;
            assert!(row.min <= row.mean && row.mean <= row.max, "{row:?}");
            assert!(row.min >= 0.0, "{row:?}");
            if metric.ends_with('%') {
                assert!(row.max <= 100.0, "{row:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn busy_machines_are_read_more_often_and_others_less() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let mut edge = edge(&gateway, "north")?;
    edge.says("readings are not collected: topic_not_online")?;
    let mut collector = collect(&gateway, &["--busy", "0", "--fast", "150"])?;
    edge.says("readings are collected again")?;
    edge.says("wants a reading every 150 ms")?;
    collector.says("is now read every 150 ms")?;
    collector.interrupt()?;
    ensure!(collector.exit()?.success());

    let collector = collect(&gateway, &["--busy", "1000000", "--slow", "500", "--window", "2"])?;
    edge.says("wants a reading every 500 ms")?;
    collector.says("is now read every 500 ms")?;
    edge.interrupt()?;
    ensure!(edge.exit()?.success());
    collector.says("is silent")?;
    Ok(())
}

#[test]
fn an_interval_out_of_bounds_is_refused() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let edge = edge(&gateway, "north")?;
    let collector = collect(&gateway, &["--busy", "0", "--fast", "1"])?;
    collector.says("cannot be tuned: invalid_argument: an interval has 100 to 60000 ms")?;
    assert!(edge.said("wants a reading").is_empty());
    Ok(())
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    min: f64,
    mean: f64,
    max: f64,
    count: usize,
}

// === impl Row ===

impl Row {
    fn parse(line: &str, metric: &str) -> Option<Self> {
        let (_, rest) = line.split_once(") ")?;
        let numbers: Vec<&str> = rest.trim().strip_prefix(metric)?.split_whitespace().collect();
        let [min, mean, max, count] = numbers[..] else { return None };
        let [min, mean, max] = [min.parse().ok()?, mean.parse().ok()?, max.parse().ok()?];
        Some(Self { min, mean, max, count: count.parse().ok()? })
    }
}

fn edge(gateway: &Gateway, name: &str) -> anyhow::Result<Program> {
    let edges = format!("tcp://{}", gateway.edges());
    let edge = Program::start(TELEMETRY, ["edge", "--gateway", &edges, "--name", name])?;
    edge.says(&format!("{name} is edge"))?;
    Ok(edge)
}

fn collect(gateway: &Gateway, args: &[&str]) -> anyhow::Result<Program> {
    let services = format!("tcp://{}", gateway.services());
    let common = ["collect", "--gateway", &services, "--every", "1"];
    let collector = Program::start(TELEMETRY, common.iter().chain(args))?;
    collector.says("collecting")?;
    Ok(collector)
}
