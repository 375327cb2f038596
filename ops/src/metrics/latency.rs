//! Times in buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Powers of two of microseconds that are told apart: the last bucket begins at half a minute.
const POWERS: usize = 26;

/// Times in buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latency {
    /// Upper bounds in seconds, ascending, with the count of each bucket alone; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all times in seconds.
    pub sum_seconds: f64,
}

// === impl Latency ===

impl Latency {
    /// From counts by power of two: bucket `n` counts times below `2^n` microseconds, the last one all above.
    ///
    /// Every second bound is shown: half the series, and a factor of four is what people ask for.
    #[must_use]
    pub fn of_powers_of_two(counts: &[u64], sum_micros: u64) -> Self {
        let mut buckets = Vec::with_capacity(counts.len() / 2 + 1);
        let mut below = 0;
        for (power, count) in counts.iter().enumerate() {
            below += count;
            let last = power + 1 == counts.len();
            if last || power % 2 == 0 && power > 0 {
                let bound = if last {
                    f64::INFINITY
                } else {
                    2_f64.powi(i32::try_from(power).unwrap_or(i32::MAX)) / 1e6
                };
                buckets.push((bound, below));
                below = 0;
            }
        }
        Self { buckets, sum_seconds: sum_micros as f64 / 1e6 }
    }

    /// How many times were taken.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// Adds the counts of another with the same bounds.
    pub fn add(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else {
            self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| mine.1 += theirs.1);
        }
        self.sum_seconds += other.sum_seconds;
    }
}

/// Counts times, by any number of threads.
#[derive(Debug, Default)]
pub struct Times {
    counts: [AtomicU64; POWERS],
    sum_micros: AtomicU64,
}

// === impl Times ===

impl Times {
    /// Takes one time.
    pub fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // Below 2^n for the nth bucket.
        let power = usize::try_from(u64::BITS - micros.leading_zeros()).unwrap_or(POWERS).min(POWERS - 1);
        if let Some(count) = self.counts.get(power) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Latency::of_powers_of_two(&counts, self.sum_micros.load(Ordering::Relaxed))
    }
}
