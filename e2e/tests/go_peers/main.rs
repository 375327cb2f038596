//! Real Go peers of three generations against the real binary, as edges and as services, with each other and with clients of our SDK.
//!
//! A scenario is written once and played by every pair (who plays the edge, who the service) that it is for. The test runs itself
//! instead of leaving that to the harness, to print a table of results. Arguments are words that all must occur in the name of what is
//! run: `cargo test -p frontier-e2e --test go_peers -- newest C/Rust`.

#![expect(clippy::print_stdout, reason = "a test that runs itself prints its results")]

mod calls;
mod life;
mod messages;
mod presence;
mod soak;
mod stage;
mod streams;
mod table;

use std::process::ExitCode;

use frontier_e2e::{
    gateway,
    player::{Unavailable, build_go},
};

use self::stage::Scenario;

/// Set where Go's modules cannot be downloaded: tests that need them are left out instead of failing.
const OFFLINE: &str = "FRONTIER_OFFLINE";

/// Everything that is played; what takes long begins first.
fn scenarios() -> Vec<Scenario> {
    [
        life::SCENARIOS,
        soak::SCENARIOS,
        calls::SCENARIOS,
        messages::SCENARIOS,
        streams::SCENARIOS,
        presence::SCENARIOS,
    ]
    .concat()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let jobs = table::jobs(&scenarios(), &words);
    if jobs.is_empty() || std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = build_go() {
        eprintln!("the Go peers cannot be built: {error:#}");
        // What was not tried has not passed, unless somebody knows that the modules cannot be had and says so.
        if error.is::<Unavailable>() && std::env::var_os(OFFLINE).is_some() {
            eprintln!("\n!!!!! SKIPPED: nothing was tested with Go peers, as {OFFLINE} wants it !!!!!\n");
            return ExitCode::SUCCESS;
        }
        if error.is::<Unavailable>() {
            eprintln!("with {OFFLINE}=1 their tests are left out");
        }
        return ExitCode::FAILURE;
    }
    if let Err(error) = gateway::binary() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    if table::run(jobs) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
