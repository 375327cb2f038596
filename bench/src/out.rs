//! The one place that prints: results go to standard output, what is going on meanwhile to standard error.

/// Prints a line of results.
#[expect(clippy::print_stdout, reason = "a program whose results are its output")]
pub fn line(text: &str) {
    println!("{text}");
}

/// Says what is going on.
pub fn note(text: &str) {
    eprintln!("{text}");
}
