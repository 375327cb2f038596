//! What is measured while: warm-up, then a window between two readings of the kernel's counters.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    hist::Hist,
    proc::{self, Snapshot},
    sample::Sample,
};

/// How long to warm up and to measure, and whose CPU counts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Load before anything counts.
    pub warmup: Duration,
    /// Length of the window.
    pub measure: Duration,
    /// Processes whose CPU time is the server's.
    pub servers: Vec<u32>,
}

/// Counts operations within the window.
#[derive(Debug)]
pub struct Meter {
    plan: Plan,
    phase: Phase,
    hist: Hist,
    ops: u64,
    bytes: u64,
}

#[derive(Debug)]
enum Phase {
    /// Sessions are being made.
    Waiting,
    Warming {
        until: Instant,
    },
    Measuring {
        since: Instant,
        start: Snapshot,
        rss: u64,
    },
    Done(Box<Sample>),
}

// === impl Meter ===

impl Meter {
    /// Waits for [`Meter::start`].
    ///
    /// # Errors
    /// As [`Hist::new`].
    pub fn new(plan: Plan) -> Result<Self> {
        Ok(Self { plan, phase: Phase::Waiting, hist: Hist::new()?, ops: 0, bytes: 0 })
    }

    /// Everybody is ready and the load begins.
    pub fn start(&mut self, now: Instant) {
        self.phase = Phase::Warming { until: now + self.plan.warmup };
    }

    /// An operation was completed and checked.
    pub fn done(&mut self, started: Instant, now: Instant, bytes: usize) {
        if matches!(self.phase, Phase::Measuring { .. }) {
            self.ops += 1;
            self.bytes += bytes as u64;
            self.hist.record(u64::try_from((now - started).as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Bytes arrived that belong to no operation with a latency.
    pub fn arrived(&mut self, bytes: usize) {
        if matches!(self.phase, Phase::Measuring { .. }) {
            self.ops += 1;
            self.bytes += bytes as u64;
        }
    }

    /// Whether the window is open.
    #[must_use]
    pub const fn is_measuring(&self) -> bool {
        matches!(self.phase, Phase::Measuring { .. })
    }

    /// Goes from phase to phase; whether the last one is over.
    ///
    /// # Errors
    /// If a server has ended.
    pub fn tick(&mut self, now: Instant) -> Result<bool> {
        match &self.phase {
            Phase::Waiting => {}
            Phase::Warming { until } if now >= *until => {
                let rss = self.rss()?;
                let start = Snapshot::take(&self.plan.servers)?;
                self.phase = Phase::Measuring { since: Instant::now(), start, rss };
            }
            Phase::Warming { .. } => {}
            Phase::Measuring { since, start, rss } => {
                if now - *since < self.plan.measure {
                    return Ok(false);
                }
                let seconds = since.elapsed().as_secs_f64();
                let used = start.until(&Snapshot::take(&self.plan.servers)?);
                let mut sample = Sample {
                    ops: self.ops,
                    seconds,
                    server_nanos: used.servers,
                    load_nanos: used.own,
                    steal: used.steal,
                    latency: self.hist.quantiles(),
                    ..Sample::default()
                };
                sample.set("bytes", self.bytes as f64);
                sample.set("rss_before", *rss as f64);
                sample.set("rss_after", self.rss()? as f64);
                self.phase = Phase::Done(Box::new(sample));
            }
            Phase::Done(_) => {}
        }
        Ok(matches!(self.phase, Phase::Done(_)))
    }

    fn rss(&self) -> Result<u64> {
        self.plan.servers.iter().map(|pid| Ok(proc::memory(*pid)?.rss)).sum()
    }

    /// The result, once [`Meter::tick`] has said that it is over; else an empty one.
    #[must_use]
    pub fn into_sample(self) -> Sample {
        match self.phase {
            Phase::Done(sample) => *sample,
            Phase::Waiting | Phase::Warming { .. } | Phase::Measuring { .. } => Sample::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts() {
        let plan = Plan {
            warmup: Duration::from_secs(1),
            measure: Duration::from_millis(1),
            servers: vec![std::process::id()],
        };
        let mut meter = Meter::new(plan).unwrap();
        let start = Instant::now();
        let micros = Duration::from_micros;
        meter.done(start, start + micros(10), 1);
        assert!(!meter.tick(start).unwrap());
        meter.start(start);
        meter.done(start, start + micros(10), 1);
        assert!(!meter.tick(start + Duration::from_secs(2)).unwrap() && meter.is_measuring());
        meter.done(start, start + micros(100), 7);
        meter.arrived(5);
        assert!(meter.tick(start + Duration::from_secs(60)).unwrap());
        meter.done(start, start + micros(10), 1);
        let sample = meter.into_sample();
        assert_eq!((sample.ops, sample.latency.count, sample.figure("bytes")), (2, 1, 12.0));
        assert!(sample.seconds > 0.0 && sample.figure("rss_after") > 0.0);
        assert!((sample.latency.p50 - 100.0).abs() < 1.0);
    }
}
