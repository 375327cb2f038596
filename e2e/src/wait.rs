//! Waiting for another process: there is no event to wait for, so the condition is looked at again and again until a deadline.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What a loaded machine may take for something that is due at once.
pub const SOON: Duration = Duration::from_secs(30);

/// Looks until `done` returns something.
///
/// # Errors
/// When it has not within the time, naming `what` was waited for.
pub fn until<T>(what: &str, within: Duration, mut done: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return Ok(value);
        }
        anyhow::ensure!(start.elapsed() < within, "{what}: not within {within:?}");
        pause(LOOK);
    }
}

/// Gives the processor away for about so long.
pub fn pause(time: Duration) {
    // Parking may end early, which does no harm to callers that look again.
    std::thread::park_timeout(time);
}
