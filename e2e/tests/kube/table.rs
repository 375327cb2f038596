//! How long what took.

use std::time::Duration;

use parking_lot::Mutex;

/// The times noted so far, in order.
#[derive(Default)]
pub(crate) struct Table {
    rows: Mutex<Vec<(String, String, Duration)>>,
}

// === impl Table ===

impl Table {
    pub(crate) fn note(&self, scenario: &str, what: &str, took: Duration) {
        self.rows.lock().push((scenario.to_owned(), what.to_owned(), took));
    }

    pub(crate) fn text(&self) -> String {
        let mut rows = self.rows.lock();
        // Scenarios run side by side; the sort keeps the order within each.
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let rows = rows
            .iter()
            .map(|(scenario, what, took)| format!("| {scenario} | {what} | {:.1} |\n", took.as_secs_f64()));
        format!("| scenario | what | seconds |\n|---|---|---:|\n{}", rows.collect::<String>())
    }
}
