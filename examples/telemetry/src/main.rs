//! Edges publish readings of their machine; a service aggregates them, prints a table, and calls the edges back to tune how often they
//! publish: often while a machine is busy, seldom while it is not.

mod collector;
mod edge;
mod machine;
mod out;
mod reading;
mod window;

use std::time::Duration;

use clap::Parser;

use self::collector::Plan;

/// The topic of readings.
const READINGS: &str = "telemetry.readings";
/// The method by which an edge's interval is set, in milliseconds.
const SET_INTERVAL: &str = "telemetry.set-interval";

/// Readings of machines, collected through a gateway.
#[derive(Debug, Parser)]
enum Args {
    /// Publish readings of this machine
    Edge {
        /// Where the gateway takes edges
        #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:30012")]
        gateway: String,
        /// What to call this machine (default: its host name)
        #[arg(long)]
        name: Option<String>,
    },
    /// Collect readings, print a table, tune the edges
    Collect {
        /// Where the gateway takes services
        #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:30011")]
        gateway: String,
        /// Readings of the last so many seconds count
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
        window: u64,
        /// Seconds between two tables
        #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
        every: u64,
        /// A machine with at least this load (mean of one minute) is busy
        #[arg(long, value_name = "LOAD", default_value_t = 1.0)]
        busy: f64,
        /// How often a busy machine is read, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 250)]
        fast: u64,
        /// How often another one is read, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 2_000)]
        slow: u64,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Edge { gateway, name } => edge::run(&gateway, name).await,
        Args::Collect { gateway, window, every, busy, fast, slow } => {
            let (fast, slow) = (Duration::from_millis(fast), Duration::from_millis(slow));
            let [window, every] = [window, every].map(Duration::from_secs);
            collector::run(&gateway, Plan { window, every, busy, fast, slow }).await
        }
    }
}
