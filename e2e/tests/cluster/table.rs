//! Runs stories, some at a time, and prints what was seen.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use parking_lot::Mutex;

use crate::scene::{Report, Story};

/// Stories mostly wait, so there are more of them than processors.
const JOBS: usize = 3;

struct Row {
    at: usize,
    name: &'static str,
    report: Report,
    took: Duration,
    error: Option<String>,
}

/// Runs all of them; true if all went well.
pub(crate) fn run(stories: Vec<Story>) -> bool {
    let jobs = std::env::var("CLUSTER_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(JOBS);
    let begin = Instant::now();
    let queue: Mutex<VecDeque<_>> = Mutex::new(stories.into_iter().enumerate().collect());
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some((at, story)) = queue.lock().pop_front() else { return };
                    let row = play(at, story);
                    rows.lock().push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner();
    rows.sort_by_key(|row| row.at);
    print(&rows, begin.elapsed());
    rows.iter().all(|row| row.error.is_none())
}

fn play(at: usize, story: Story) -> Row {
    let begin = Instant::now();
    let mut report = Report::default();
    let played = catch_unwind(AssertUnwindSafe(|| (story.play)(&mut report)));
    let error = played.unwrap_or_else(|_| Err(anyhow!("panic"))).err().map(|error| format!("{error:#}"));
    let took = begin.elapsed();
    match &error {
        Some(error) => eprintln!("FAILED {} after {:.1} s: {error}\n", story.name, took.as_secs_f64()),
        None => eprintln!("ok {} in {:.1} s", story.name, took.as_secs_f64()),
    }
    Row { at, name: story.name, report, took, error }
}

fn print(rows: &[Row], took: Duration) {
    println!(
        "\n| story | injected | healed within | calls, failed of all | of the troubled | messages sent | acknowledged \
         | failed, nobody troubled | lost | twice | slowest operation |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let Report { injected, slowest, counts, .. } = &row.report;
        let injected: Vec<String> =
            injected.iter().map(|(what, times)| format!("{times} × {what}")).collect();
        let healed =
            if row.error.is_none() { format!("{:.1} s", slowest.as_secs_f64()) } else { "FAILED".into() };
        println!("| {} | {} | {healed} | {counts} |", row.name, injected.join(", "));
    }
    println!();
    for row in rows {
        for note in &row.report.notes {
            println!("{}: {note}", row.name);
        }
    }
    let bad = rows.iter().filter(|row| row.error.is_some()).count();
    let longest = rows.iter().max_by_key(|row| row.took);
    let longest =
        longest.map(|row| format!("; the longest was {}, {:.0} s", row.name, row.took.as_secs_f64()));
    println!(
        "{} stories, {bad} failed, {:.0} s{}",
        rows.len(),
        took.as_secs_f64(),
        longest.unwrap_or_default()
    );
}
