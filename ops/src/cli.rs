//! What command lines have in common: problems as lines, waiting, and what comes of `check-config`.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::config::{ConfigError, Loaded, Problems, parse_duration};

/// What a bare `--daemon-rlimit-nofile` asks for.
pub const NOFILE_OF_BARE_FLAG: &str = "1048576";

/// Prints what came of reading `file`: every problem in the order of the file, then a summary or the number of errors.
///
/// # Errors
/// `out` cannot be written to.
pub fn check_config<C>(
    file: &Path,
    loaded: Result<Loaded<C>, ConfigError>,
    summary: impl FnOnce(&C, &mut dyn Write) -> io::Result<()>,
    out: &mut dyn Write,
) -> io::Result<ExitCode> {
    match loaded {
        Ok(Loaded { config, problems }) => {
            print_problems(&problems, out)?;
            writeln!(out, "{}: ok", file.display())?;
            summary(&config, out)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            print_problems(&error.problems, out)?;
            let count = error.problems.errors().count();
            writeln!(out, "{}: {count} {}", file.display(), if count == 1 { "error" } else { "errors" })?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// In the order of the file.
fn print_problems(problems: &Problems, out: &mut dyn Write) -> io::Result<()> {
    let mut sorted: Vec<_> = problems.list().iter().collect();
    sorted.sort_by_key(|problem| problem.line);
    sorted.into_iter().try_for_each(|problem| writeln!(out, "{}", problems.line_of(problem)))
}

/// Reads a duration of the command line; a plain number counts seconds.
///
/// # Errors
/// Says what was expected.
pub fn parse_wait(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| parse_duration(text)).ok_or_else(|| "expected a duration such as 10s".to_owned())
}

/// Blocks the thread; parking may end early, for no reason at all.
pub fn wait(duration: Duration) {
    let begin = Instant::now();
    while let Some(left) = duration.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
