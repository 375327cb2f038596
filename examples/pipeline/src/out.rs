//! The one place that prints.
#![expect(clippy::print_stdout, reason = "this program talks to a person")]

/// Prints a line.
pub(crate) fn say(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}
