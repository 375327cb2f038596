//! What `/proc` says of this machine.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::reading::METRICS;

/// Remembers the counters of the last reading: rates are differences.
#[derive(Debug)]
pub(crate) struct Machine {
    last: Counters,
    at: Instant,
}

/// Counters that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counters {
    /// Processor time, busy and in all, in ticks.
    busy: u64,
    ticks: u64,
    /// Bytes over all interfaces but the loopback.
    received: u64,
    sent: u64,
}

// === impl Machine ===

impl Machine {
    /// The first rates are those since now.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { last: Counters::read()?, at: Instant::now() })
    }

    /// The values of a reading, in the order of [`METRICS`].
    pub(crate) fn read(&mut self) -> anyhow::Result<[f64; METRICS.len()]> {
        let now = Counters::read()?;
        let [cpu, rx, tx] = now.since(&self.last, self.at.elapsed());
        *self = Self { last: now, at: Instant::now() };
        let load = load(&fs::read_to_string("/proc/loadavg")?).context("/proc/loadavg")?;
        let memory = memory(&fs::read_to_string("/proc/meminfo")?).context("/proc/meminfo")?;
        Ok([load, cpu, memory, rx, tx])
    }

    /// The host's name.
    pub(crate) fn name() -> String {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
    }
}

// === impl Counters ===

impl Counters {
    fn read() -> anyhow::Result<Self> {
        let (busy, ticks) = processor(&fs::read_to_string("/proc/stat")?).context("/proc/stat")?;
        let (received, sent) = network(&fs::read_to_string("/proc/net/dev")?);
        Ok(Self { busy, ticks, received, sent })
    }

    /// Processor in percent, KiB received and sent per second.
    fn since(&self, before: &Self, time: Duration) -> [f64; 3] {
        // Interfaces may go, and their counters with them.
        let ticks = self.ticks.saturating_sub(before.ticks).max(1);
        let percent = 100.0 * self.busy.saturating_sub(before.busy) as f64 / ticks as f64;
        let seconds = time.as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1_024.0 / seconds;
        [percent.min(100.0), rate(self.received, before.received), rate(self.sent, before.sent)]
    }
}

/// The load of the last minute.
fn load(text: &str) -> Option<f64> {
    text.split(' ').next()?.parse().ok()
}

/// Memory in use, in percent.
fn memory(text: &str) -> Option<f64> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    };
    let total = kib("MemTotal").filter(|total| *total > 0.0)?;
    Some(100.0 * (total - kib("MemAvailable")?) / total)
}

/// Ticks of all processors: busy, and in all.
fn processor(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; what follows is contained in the first two.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let [_, _, _, idle, waiting, ..] = ticks[..] else { return None };
    let all = ticks.iter().sum();
    Some((all - idle - waiting, all))
}

/// Bytes received and sent by all interfaces but the loopback.
fn network(text: &str) -> (u64, u64) {
    let interfaces = text.lines().filter_map(|line| line.split_once(':'));
    let outward = interfaces.filter(|(name, _)| name.trim() != "lo");
    outward.fold((0, 0), |(received, sent), (_, line)| {
        let field = |index: usize| line.split_whitespace().nth(index).and_then(|field| field.parse().ok());
        (received + field(0).unwrap_or(0), sent + field(8).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(load("0.52 0.58 0.59 1/467 12345\n"), Some(0.52));
        assert_eq!(memory("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  250 kB\n"), Some(75.0));
        assert_eq!(processor("cpu  10 1 5 80 4 0 0 0 7 0\ncpu0 1 2 3 4 5\n"), Some((16, 100)));
        let dev =
            "Inter-| Receive\n face |bytes\n    lo: 9 9 0 0 0 0 0 0 9 9\n  eth0:100 2 0 0 0 0 0 0 30 1\n";
        assert_eq!(network(dev), (100, 30));
    }

    #[test]
    fn rates_are_differences_over_time() {
        let before = Counters { busy: 10, ticks: 100, received: 5_000, sent: 1_000 };
        let now = Counters { busy: 40, ticks: 200, received: 5_000 + 4_096, sent: 0 };
        assert_eq!(now.since(&before, Duration::from_secs(2)), [30.0, 2.0, 0.0]);
    }

    #[test]
    fn this_machine_can_be_read() {
        let [load, cpu, memory, rx, tx] = Machine::new().unwrap().read().unwrap();
        assert!(load >= 0.0 && (0.0..=100.0).contains(&cpu) && memory > 0.0 && memory < 100.0);
        assert!(rx >= 0.0 && tx >= 0.0);
    }
}
