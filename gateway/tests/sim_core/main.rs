//! The shard core, one behaviour per test: peers that are told by hand what to do, on a simulated gateway of two shards.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(feature = "testing")]

mod admission;
mod budget;
mod calls;
mod deliveries;
mod geminio;
mod messages;
mod mixed;
mod places;
mod pools;
mod queues;
mod sessions;
mod streams;

use frontier_gateway::core::Settings;
use frontier_wire::native::{
    frame::FrameType,
    head::{CallBuilder, Credit, ErrorRef, Names},
};

const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000_000;

fn settings() -> Settings {
    Settings::default()
}

fn head<'a, H>(call: &CallBuilder<'a, H>) -> Vec<u8>
where
    H: IntoIterator<Item = (&'a str, &'a str)> + Clone,
{
    frontier_gateway::sim::lab::call_head(call)
}

fn names(methods: &[&str], topics: &[&str]) -> Vec<u8> {
    let mut head = Vec::new();
    Names::encode(&mut head, methods.iter().copied(), topics.iter().copied());
    head
}

fn error_head(error: ErrorRef<'_>) -> Vec<u8> {
    let mut head = Vec::new();
    error.encode(&mut head);
    head
}

fn credit(head: &[u8]) -> u32 {
    Credit::parse(head).unwrap().bytes
}

/// Bytes in the memory budget.
fn held(lab: &frontier_gateway::sim::lab::Lab) -> u64 {
    lab.stage.shared().held.load(std::sync::atomic::Ordering::Relaxed)
}

/// The kinds of some frames.
fn kinds(notes: &[frontier_gateway::sim::dialer::Note]) -> Vec<FrameType> {
    notes.iter().map(|note| note.header.kind).collect()
}
