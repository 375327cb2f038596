//! The one place that prints.

use std::io::Write;

/// Prints a line. That nobody reads it is no reason to end.
pub(crate) fn say(line: impl AsRef<str>) {
    drop(writeln!(std::io::stdout().lock(), "{}", line.as_ref()));
}
