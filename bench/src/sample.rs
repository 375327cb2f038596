//! What one run of a driver found, as one line of JSON between the driver and the harness.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hist::{Buckets, Quantiles};

/// The result of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Operations completed while measuring.
    pub ops: u64,
    /// How long was measured.
    pub seconds: f64,
    /// CPU nanoseconds of the server while measuring.
    pub server_nanos: u64,
    /// CPU nanoseconds of the driver while measuring.
    pub load_nanos: u64,
    /// Share of CPU time that the hypervisor took from the machine meanwhile, 0 to 1.
    pub steal: f64,
    /// From intended start to checked answer.
    pub latency: Quantiles,
    /// All latencies, where several processes measure one thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Buckets>,
    /// What only this program measures, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
}

// === impl Sample ===

impl Sample {
    /// Server CPU per operation in microseconds.
    #[must_use]
    pub fn server_micros(&self) -> f64 {
        per(self.server_nanos as f64 / 1e3, self.ops)
    }

    /// Driver CPU per operation in microseconds.
    #[must_use]
    pub fn load_micros(&self) -> f64 {
        per(self.load_nanos as f64 / 1e3, self.ops)
    }

    /// Operations per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.ops as f64 / self.seconds } else { 0.0 }
    }

    /// A figure by name; 0 if it was not measured.
    #[must_use]
    pub fn figure(&self, name: &str) -> f64 {
        self.figures.get(name).copied().unwrap_or_default()
    }

    /// Sets a figure.
    pub fn set(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }
}

fn per(sum: f64, ops: u64) -> f64 {
    if ops == 0 { 0.0 } else { sum / ops as f64 }
}

/// The median; the mean of the middle two for an even number, `None` for none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.as_slice() {
        [] => None,
        sorted if sorted.len() % 2 == 1 => Some(sorted[middle]),
        sorted => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median of a figure over samples; `None` without samples.
#[must_use]
pub fn median_of(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<f64> {
    median(&samples.iter().map(figure).collect::<Vec<_>>())
}

/// Smallest and largest of a figure over samples; `None` without samples.
#[must_use]
pub fn range_of(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<(f64, f64)> {
    samples.iter().map(figure).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_takes_the_middle_of_any_order() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn a_sample_survives_its_line_of_json() {
        let mut sample = Sample { ops: 4, seconds: 2.0, server_nanos: 8_000, ..Sample::default() };
        sample.set("refused", 3.0);
        let line = serde_json::to_string(&sample).unwrap();
        let back: Sample = serde_json::from_str(&line).unwrap();
        assert_eq!(back, sample);
        assert_eq!((back.server_micros(), back.rate(), back.figure("refused")), (2.0, 2.0, 3.0));
        assert_eq!(
            (back.figure("absent"), Sample::default().server_micros(), Sample::default().rate()),
            (0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn ranges_span_the_samples() {
        let samples = [1_000, 3_000, 2_000].map(|n| Sample { ops: 1, server_nanos: n, ..Sample::default() });
        assert_eq!(median_of(&samples, Sample::server_micros), Some(2.0));
        assert_eq!(range_of(&samples, Sample::server_micros), Some((1.0, 3.0)));
        assert_eq!(range_of(&[], Sample::server_micros), None);
    }
}
