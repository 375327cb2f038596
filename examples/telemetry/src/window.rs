//! The readings of the last while, by edge.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use frontier::EdgeId;

use crate::reading::{METRICS, Reading};

/// Readings kept of one edge, at most: an edge that publishes faster has its oldest forgotten earlier.
const KEPT: usize = 4_096;
/// Edges known at a time: those beyond are not listened to.
const EDGES: usize = 10_000;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Windows {
    length: Duration,
    edges: BTreeMap<EdgeId, VecDeque<(Instant, Reading)>>,
}

/// What the readings of an edge say.
#[derive(Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) edge: EdgeId,
    /// The newest reading.
    pub(crate) last: Reading,
    pub(crate) count: usize,
    /// In the order of [`METRICS`].
    pub(crate) spans: [Span; METRICS.len()],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) max: f64,
}

// === impl Windows ===

impl Windows {
    pub(crate) const fn new(length: Duration) -> Self {
        Self { length, edges: BTreeMap::new() }
    }

    /// Takes a reading; false if there is no room for one more edge.
    pub(crate) fn put(&mut self, edge: EdgeId, now: Instant, reading: Reading) -> bool {
        if self.edges.len() >= EDGES && !self.edges.contains_key(&edge) {
            return false;
        }
        let readings = self.edges.entry(edge).or_default();
        if readings.len() >= KEPT {
            readings.pop_front();
        }
        readings.push_back((now, reading));
        true
    }

    /// Forgets what is too old; returns the edges of which nothing is left, with their names.
    pub(crate) fn trim(&mut self, now: Instant) -> Vec<(EdgeId, String)> {
        let mut silent = Vec::new();
        let length = self.length;
        self.edges.retain(|edge, readings| {
            let mut name = None;
            while let Some((at, _)) = readings.front()
                && now.saturating_duration_since(*at) > length
            {
                name = readings.pop_front().map(|(_, reading)| reading.name);
            }
            if readings.is_empty() {
                silent.push((*edge, name.unwrap_or_default()));
            }
            !readings.is_empty()
        });
        silent
    }

    pub(crate) fn summaries(&self) -> Vec<Summary> {
        self.edges.iter().filter_map(|(edge, readings)| Summary::of(*edge, readings)).collect()
    }
}

// === impl Summary ===

impl Summary {
    fn of(edge: EdgeId, readings: &VecDeque<(Instant, Reading)>) -> Option<Self> {
        let last = readings.back()?.1.clone();
        let spans = std::array::from_fn(|metric| {
            Span::of(readings.iter().map(|(_, reading)| reading.values[metric]))
        });
        Some(Self { edge, last, count: readings.len(), spans })
    }
}

// === impl Span ===

impl Span {
    fn of(values: impl ExactSizeIterator<Item = f64>) -> Self {
        let count = values.len() as f64;
        let start = (f64::INFINITY, 0.0, f64::NEG_INFINITY);
        let (min, sum, max) =
            values.fold(start, |(min, sum, max), value| (value.min(min), sum + value, value.max(max)));
        Self { min, mean: sum / count, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(load: f64) -> Reading {
        Reading { name: "a".into(), every: Duration::from_secs(1), values: [load, 0.0, 0.0, 0.0, 0.0] }
    }

    #[test]
    fn a_summary_covers_the_window_and_no_more() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut windows = Windows::new(10 * second);
        for (at, load) in [(0, 99.0), (5, 1.0), (8, 4.0), (11, 1.0)] {
            windows.put(7.into(), start + at * second, reading(load));
        }
        assert!(windows.trim(start + 11 * second).is_empty());
        let [summary] = &windows.summaries()[..] else { panic!("one edge") };
        assert_eq!((summary.edge, summary.count), (7.into(), 3));
        assert_eq!(summary.spans[0], Span { min: 1.0, mean: 2.0, max: 4.0 });
    }

    #[test]
    fn an_edge_that_falls_silent_is_forgotten() {
        let start = Instant::now();
        let mut windows = Windows::new(Duration::from_secs(1));
        windows.put(7.into(), start, reading(1.0));
        assert_eq!(windows.trim(start + Duration::from_secs(2)), [(7.into(), "a".to_owned())]);
        assert!(windows.summaries().is_empty());
    }

    #[test]
    fn memory_is_bounded_in_readings_and_edges() {
        let now = Instant::now();
        let mut windows = Windows::new(Duration::from_secs(1));
        for _ in 0..2 * KEPT {
            windows.put(1.into(), now, reading(1.0));
        }
        assert_eq!(windows.summaries()[0].count, KEPT);
        let taken =
            (0..2 * EDGES as u64).filter(|edge| windows.put((*edge).into(), now, reading(1.0))).count();
        assert_eq!(taken, EDGES);
    }
}
