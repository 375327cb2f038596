//! Whole clusters of real processes under faults: Redis of three kinds, instances of atlas, gateways, and edges and services that use
//! them all the time. After each fault every edge is found by everybody within five seconds (and what the machine itself stood still), nobody dead is, every count is true, and the
//! books of those who asked and of those who answered agree.
//!
//! The test runs itself to print one table of what was injected and what was seen. Arguments are words that all must occur in the name
//! of what is run: `cargo test -p frontier-e2e --test cluster -- redis`. `CLUSTER_SOAK=n` repeats every fault n times and makes those
//! that last longer; `CLUSTER_JOBS=n` runs so many stories at a time.

#![expect(clippy::print_stdout, reason = "a test that runs itself prints its results")]

mod atlas;
mod clocks;
mod gateways;
mod records;
mod redis;
mod scene;
mod table;

use std::process::ExitCode;

use frontier_e2e::gateway;

use self::scene::Story;

/// Everything there is; what takes long begins first.
fn stories() -> Vec<Story> {
    [redis::STORIES, gateways::STORIES, atlas::STORIES, clocks::STORIES, records::STORIES].concat()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut stories = stories();
    stories.retain(|story| words.iter().all(|word| story.name.contains(word.as_str())));
    if stories.is_empty() || std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    for binary in [gateway::binary(), gateway::frontlas_binary()] {
        if let Err(error) = binary {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    scene::watch_stalls();
    if table::run(stories) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
