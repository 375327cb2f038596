//! Latencies: recorded in nanoseconds with three significant digits, summed up in microseconds, merged across processes.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart, in nanoseconds: two minutes. Longer ones count as that.
const HIGHEST: u64 = 120_000_000_000;

/// A histogram of latencies.
#[derive(Clone, Debug)]
pub struct Hist {
    inner: hdrhistogram::Histogram<u64>,
}

/// The usual quantiles, in microseconds; all 0 if nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Values recorded.
    pub count: u64,
    /// Half of all values are at most this.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

/// A histogram on its way between processes: (nanoseconds, count) of every bucket that holds something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Buckets(Vec<(u64, u64)>);

// === impl Hist ===

impl Hist {
    /// An empty histogram, about 200 KiB.
    ///
    /// # Errors
    /// Never with the bounds used here; the library reports them as errors.
    pub fn new() -> Result<Self> {
        let inner = hdrhistogram::Histogram::new_with_bounds(1, HIGHEST, 3).context("histogram bounds")?;
        Ok(Self { inner })
    }

    /// Records one latency in nanoseconds.
    pub fn record(&mut self, nanos: u64) {
        self.inner.saturating_record(nanos);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.inner.reset();
    }

    /// Adds what another process recorded.
    pub fn merge(&mut self, buckets: &Buckets) {
        for &(nanos, count) in &buckets.0 {
            self.inner.saturating_record_n(nanos, count);
        }
    }

    /// For another process to merge.
    #[must_use]
    pub fn buckets(&self) -> Buckets {
        Buckets(self.inner.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect())
    }

    /// The summary.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        if self.inner.is_empty() {
            return Quantiles::default();
        }
        let at = |q| micros(self.inner.value_at_quantile(q));
        Quantiles {
            count: self.inner.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(self.inner.max()),
        }
    }
}

/// Nanoseconds as microseconds.
#[must_use]
pub fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_a_thousandth() {
        let mut hist = Hist::new().unwrap();
        for nanos in 1..=10_000_u64 {
            hist.record(nanos * 1_000);
        }
        let found = hist.quantiles();
        assert_eq!(found.count, 10_000);
        for (value, wanted) in
            [(found.p50, 5_000.0), (found.p99, 9_900.0), (found.p999, 9_990.0), (found.max, 10_000.0)]
        {
            assert!((value - wanted).abs() <= wanted / 900.0, "{value} is not {wanted}");
        }
    }

    #[test]
    fn merged_halves_equal_the_whole() {
        let (mut whole, mut even, mut odd) =
            (Hist::new().unwrap(), Hist::new().unwrap(), Hist::new().unwrap());
        for nanos in 1..5_000_u64 {
            whole.record(nanos * 777);
            if nanos % 2 == 0 { even.record(nanos * 777) } else { odd.record(nanos * 777) }
        }
        let mut merged = Hist::new().unwrap();
        merged.merge(&even.buckets());
        merged.merge(&odd.buckets());
        assert_eq!(merged.buckets(), whole.buckets());
        assert_eq!(merged.quantiles(), whole.quantiles());
    }

    #[test]
    fn beyond_two_minutes_counts_as_two_minutes_and_empty_is_zero() {
        let mut hist = Hist::new().unwrap();
        assert_eq!(hist.quantiles(), Quantiles::default());
        hist.record(u64::MAX);
        assert!(hist.quantiles().max >= 119e6);
        hist.clear();
        assert_eq!(hist.quantiles().count, 0);
    }
}
