use std::collections::{BTreeMap, BTreeSet};

use frontier_ops::metrics::Metrics;
use frontier_wire::error::ErrorCode;

use super::*;
use crate::core::stats::OpKind;

/// Two shards with a bit of everything.
fn fixture() -> DataPlaneSnapshot {
    let mut latency = [0_u64; 26];
    (latency[1], latency[2], latency[3], latency[25]) = (1, 2, 4, 8);
    let shard = ShardSnapshot {
        sessions: vec![
            SessionCount { role: "edge", protocol: "native", count: 10 },
            SessionCount { role: "service", protocol: "native", count: 1 },
        ],
        accepts: 12,
        piped: 5,
        accept_pauses: 1,
        refusals: vec![("full", 2), ("rate", 0)],
        takeovers: 3,
        takeovers_elsewhere: 8,
        bytes_in: 100,
        bytes_out: 200,
        outbox_bytes: 7,
        inbox_bytes: 9,
        stream_ends: 4,
        operations: vec![OperationSnapshot {
            kind: OpKind::Call,
            outcomes: vec![(None, 14), (Some(ErrorCode::Overloaded), 1)],
            latency: Latency::of_powers_of_two(&latency, 1_500_000),
        }],
        late_answers: 1,
        turns: 1000,
        turn: Latency::of_powers_of_two(&latency, 250_000),
        panics: 1,
        memory_cuts: 0,
        reopened_slots: 6,
        stalled_streams: 7,
    };
    DataPlaneSnapshot { shards: vec![shard.clone(), shard], memory_held: 5, memory_budget: 50 }
}

fn scrape() -> String {
    let metrics = Metrics::new("frontier");
    metrics.register(|| families(&fixture()));
    metrics.encode().unwrap()
}

/// The value of one line.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[test]
fn numbers_of_all_shards_add_up() {
    let text = scrape();
    for (series, expected) in [
        ("frontier_sessions{role=\"edge\",protocol=\"native\"}", 20.0),
        ("frontier_sessions{role=\"service\",protocol=\"native\"}", 2.0),
        ("frontier_accepts_total", 24.0),
        ("frontier_accepts_piped_total", 10.0),
        ("frontier_accept_pauses_total", 2.0),
        ("frontier_refusals_total{reason=\"full\"}", 4.0),
        ("frontier_takeovers_total", 6.0),
        ("frontier_takeovers_elsewhere_total", 16.0),
        ("frontier_transferred_bytes_total{direction=\"in\"}", 200.0),
        ("frontier_transferred_bytes_total{direction=\"out\"}", 400.0),
        ("frontier_outbox_bytes{shard=\"1\"}", 7.0),
        ("frontier_inbox_bytes{shard=\"0\"}", 9.0),
        ("frontier_shard_turns_total{shard=\"0\"}", 1000.0),
        ("frontier_shard_turn_seconds_sum{shard=\"0\"}", 0.25),
        ("frontier_shard_turn_seconds_count{shard=\"1\"}", 15.0),
        ("frontier_shard_turn_seconds_bucket{le=\"0.000016\",shard=\"1\"}", 7.0),
        ("frontier_stream_ends", 8.0),
        ("frontier_memory_held_bytes", 5.0),
        ("frontier_memory_budget_bytes", 50.0),
        ("frontier_session_panics_total", 2.0),
        ("frontier_reopened_slots_total", 12.0),
        ("frontier_stalled_streams_total", 14.0),
        ("frontier_calls_total{code=\"ok\"}", 28.0),
        ("frontier_calls_total{code=\"overloaded\"}", 2.0),
        ("frontier_calls_total{code=\"application\"}", 0.0),
        ("frontier_messages_total{code=\"ok\"}", 0.0),
        ("frontier_call_duration_seconds_sum", 3.0),
        ("frontier_call_duration_seconds_count", 30.0),
        ("frontier_call_duration_seconds_bucket{le=\"0.000004\"}", 6.0),
        ("frontier_call_duration_seconds_bucket{le=\"0.000016\"}", 14.0),
        ("frontier_call_duration_seconds_bucket{le=\"+Inf\"}", 30.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
}

#[test]
fn the_text_is_well_formed() {
    let text = scrape();
    assert!(text.ends_with("# EOF\n"));
    let mut seen = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(seen.insert(line.to_owned()), "{line} twice");
    }
    let help: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
    assert_eq!(help.len(), seen.len());
    assert!(help.values().all(|help| help.ends_with('.') && !help.ends_with("..")), "{help:?}");
}

#[test]
fn every_metric_is_documented() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap();
    for line in scrape().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        assert!(document.contains(&format!("| `{name}{suffix}` | {kind} |")), "{name} ({kind})");
    }
}
