//! What is measured and what it must reach. A row is a name for `ROW=`; it adds lines to the table.

use anyhow::Result;

use super::{measure::Bench, storm, table::Table};

mod calls;
mod edges;
mod geminio;
mod messages;
mod streams;

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    measure: fn(&Bench, &mut Table) -> Result<()>,
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    Row { name: "idle", about: "memory of idle edges", measure: edges::idle },
    Row { name: "connect", about: "CPU per new edge", measure: edges::connect },
    Row { name: "call-10x8", about: "calls of 64 B, 10 edges × 8 in flight", measure: calls::ten_by_eight },
    Row { name: "call-10x1", about: "calls of 64 B, 10 edges × 1 in flight", measure: calls::ten_by_one },
    Row { name: "call-paced", about: "calls of 64 B at 30,000 per second", measure: calls::paced },
    Row { name: "call-64k", about: "calls of 64 KiB, 4 edges × 2 in flight", measure: calls::large },
    Row { name: "publish-up", about: "messages from one edge, 64 in flight", measure: messages::up },
    Row { name: "publish-down", about: "messages to 10 edges × 8 in flight", measure: messages::down },
    Row { name: "beside", about: "small calls beside calls of 8 MiB", measure: streams::beside },
    Row { name: "stream", about: "one stream, writes of 32 KiB", measure: streams::stream },
    Row { name: "stalled", about: "1,000 busy edges and one that does not read", measure: streams::stalled },
    Row { name: "go-idle", about: "memory of idle geminio edges", measure: geminio::idle },
    Row { name: "go-connect", about: "CPU per new geminio edge", measure: geminio::connect },
    Row {
        name: "go-call-up",
        about: "geminio calls of 64 B, 10 edges × 8 in flight",
        measure: geminio::call_up,
    },
    Row {
        name: "go-call-down",
        about: "the same from the service to the edges",
        measure: geminio::call_down,
    },
    Row {
        name: "go-call-10x1",
        about: "geminio calls of 64 B, 10 edges × 1 in flight",
        measure: geminio::call_one,
    },
    Row {
        name: "go-call-64k",
        about: "geminio calls of 64 KiB, 4 edges × 2 in flight",
        measure: geminio::call_large,
    },
    Row {
        name: "go-publish-up",
        about: "geminio messages, 10 edges × 8 in flight",
        measure: geminio::publish_up,
    },
    Row {
        name: "go-publish-down",
        about: "the same from the service to the edges",
        measure: geminio::publish_down,
    },
    Row {
        name: "go-stream",
        about: "one geminio stream, writes of 32 KiB and of 1 KiB",
        measure: geminio::stream,
    },
    Row { name: "storm", about: "100,000 edges that all reconnect at once", measure: storm::storm },
    Row {
        name: "crash",
        about: "100,000 edges whose gateways are killed and started again",
        measure: storm::crash,
    },
];

// === impl Row ===

impl Row {
    /// Measures the row and adds its lines.
    ///
    /// # Errors
    /// If a server does not come up, a driver fails or an answer is wrong.
    pub fn measure(&self, bench: &Bench, table: &mut Table) -> Result<()> {
        (self.measure)(bench, table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        for (n, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..n].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(row.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        }
    }
}
