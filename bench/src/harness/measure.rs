//! Repetition: one system after the other, then all of them again, and what counts in the end.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};

use super::{
    server::Launcher,
    system::{Running, System},
};
use crate::{
    out,
    sample::{self, Sample},
};

/// From this share of steal on a run says more about the machine's neighbours than about us.
const MAX_STEAL: f64 = 0.02;
/// A run is repeated so often at most for steal; then it counts, and a note says so.
const REPEATS: usize = 4;

/// How everything is measured.
#[derive(Debug)]
pub struct Bench {
    /// Starts processes.
    pub launcher: Launcher,
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// The program of Go clients, if it was built.
    pub peers: Option<PathBuf>,
    /// Systems that are not on this machine; trials on them are left out.
    pub absent: Vec<System>,
    /// CPU of the server.
    pub server_cpu: Option<usize>,
    /// CPU of the load.
    pub load_cpu: Option<usize>,
    /// Runs of each figure.
    pub runs: usize,
    /// Seconds that one run measures, and warms up.
    pub seconds: f64,
    /// A smoke run: everything is started once and hardly anything is measured.
    pub quick: bool,
    /// Runs that were repeated for steal.
    pub discarded: AtomicU64,
    /// Runs that count in spite of steal.
    pub noisy: AtomicU64,
}

/// What a driver does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// `load`, `geminio`, `peers`, `client` or `broker`.
    program: &'static str,
    command: &'static str,
    args: Vec<String>,
    /// Takes warm-up and window.
    timed: bool,
}

/// Samples by name of what was measured.
#[derive(Clone, Debug, Default)]
pub struct Results(HashMap<String, Vec<Sample>>);

/// Something to measure, by the name its results get.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The name.
    pub name: String,
    /// On what.
    pub system: System,
    /// What.
    pub job: Job,
}

// === impl Job ===

impl Job {
    /// A scenario of the native load.
    #[must_use]
    pub fn load(command: &'static str, args: &[&str]) -> Self {
        Self { program: "load", command, args: strings(args), timed: command != "fleet" }
    }

    /// A scenario of the geminio load.
    #[must_use]
    pub fn geminio(command: &'static str, args: &[&str]) -> Self {
        Self { program: "geminio", ..Self::load(command, args) }
    }

    /// The same by Go clients.
    #[must_use]
    pub fn peers(command: &'static str, args: &[&str], program: &Path) -> Self {
        let mut all = vec!["--program".to_owned(), program.display().to_string(), "--".to_owned()];
        all.extend(strings(args));
        Self { program: "peers", command, args: all, timed: true }
    }

    /// A scenario through the SDK.
    #[must_use]
    pub fn client(command: &'static str, args: &[&str]) -> Self {
        Self { program: "client", command, args: strings(args), timed: true }
    }

    /// A client of a broker.
    #[must_use]
    pub fn broker(command: &'static str, args: &[&str]) -> Self {
        Self { program: "broker", command, args: strings(args), timed: command != "guests" }
    }

    /// The arguments against a running system.
    fn arguments(&self, seconds: f64, system: System, running: &Running) -> Vec<String> {
        let (edge, service) = (running.edge.to_string(), running.service.to_string());
        let mut all = strings(&[self.program, self.command]);
        all.extend(match (self.program, self.command, system) {
            ("broker", ..) => strings(&["--server", &edge]),
            (_, "fleet", _) => strings(&["--edge", &edge]),
            (_, _, System::Relay) => strings(&["--edge", &edge, "--far", &service]),
            _ => strings(&["--edge", &edge, "--service", &service]),
        });
        all.extend(strings(&["--server-pid", &running.server.pid().to_string()]));
        if self.timed {
            let warmup = (seconds / 4.0).to_string();
            all.extend(strings(&["--warmup", &warmup, "--seconds", &seconds.to_string()]));
        }
        if self.command == "fleet" {
            if let Some(admin) = running.admin {
                all.extend(strings(&["--metrics", &admin.to_string()]));
            }
            if let Some(authority) = &running.authority {
                all.extend(["--tls".to_owned(), authority.display().to_string()]);
            }
        }
        all.extend(self.args.iter().cloned());
        all
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

// === impl Trial ===

impl Trial {
    /// Something to measure.
    #[must_use]
    pub fn new(name: &str, system: System, job: &Job) -> Self {
        Self { name: name.to_owned(), system, job: job.clone() }
    }
}

// === impl Bench ===

impl Bench {
    /// Measures all trials in turn, as many times as there are runs; those on systems that are absent give no results.
    ///
    /// # Errors
    /// If a server does not come up or a driver fails.
    pub fn alternate(&self, trials: &[Trial]) -> Result<Results> {
        let mut results = Results::default();
        for run in 1..=self.runs {
            for trial in trials.iter().filter(|trial| !self.absent.contains(&trial.system)) {
                let sample = self.steady(trial)?;
                out::note(&format!(
                    "    {run}/{} {:<24} {:>9.2} µs/op {:>10.0} op/s  p50 {:>8.1}  p99 {:>8.1}  load {:>6.2} µs  steal {:.1} %",
                    self.runs,
                    trial.name,
                    sample.server_micros(),
                    sample.rate(),
                    sample.latency.p50,
                    sample.latency.p99,
                    sample.load_micros(),
                    sample.steal * 100.0,
                ));
                results.0.entry(trial.name.clone()).or_default().push(sample);
            }
        }
        Ok(results)
    }

    /// One run, repeated while the machine is disturbed.
    fn steady(&self, trial: &Trial) -> Result<Sample> {
        for _ in 0..REPEATS {
            let sample = self.once(trial)?;
            if sample.steal < MAX_STEAL || self.quick {
                return Ok(sample);
            }
            self.discarded.fetch_add(1, Ordering::Relaxed);
        }
        self.noisy.fetch_add(1, Ordering::Relaxed);
        self.once(trial)
    }

    /// One run against a fresh server.
    ///
    /// # Errors
    /// If the server does not come up or the driver fails.
    pub fn once(&self, trial: &Trial) -> Result<Sample> {
        let running = self.start(trial.system)?;
        self.drive(trial, &running, self.seconds)
            .with_context(|| format!("{}: {}", trial.name, running.server.log()))
    }

    /// Starts a system on the server's CPU.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(&self, system: System) -> Result<Running> {
        system.start(&self.launcher, &self.gateway, self.server_cpu)
    }

    /// One run against a server that is up, with a window of so many seconds.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn drive(&self, trial: &Trial, running: &Running, seconds: f64) -> Result<Sample> {
        let args = trial.job.arguments(seconds, trial.system, running);
        let printed = self.launcher.drive(self.load_cpu, &args)?;
        let line = printed.lines().last().context("the driver printed nothing")?;
        serde_json::from_str(line).with_context(|| format!("the driver printed {line:?}"))
    }
}

// === impl Results ===

impl Results {
    /// The median of a figure; `None` if it was not measured.
    #[must_use]
    pub fn median(&self, name: &str, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        sample::median_of(self.0.get(name)?, figure)
    }

    /// Median and range, as a cell.
    #[must_use]
    pub fn cell(&self, name: &str, unit: &str, figure: impl Fn(&Sample) -> f64) -> String {
        let Some(samples) = self.0.get(name) else { return String::new() };
        let (Some(median), Some((low, high))) =
            (sample::median_of(samples, &figure), sample::range_of(samples, &figure))
        else {
            return String::new();
        };
        let range =
            if samples.len() > 1 { format!(" [{}–{}]", number(low), number(high)) } else { String::new() };
        format!("{}{unit}{range}", number(median))
    }

    /// The three quantiles of latency, as a cell in microseconds.
    #[must_use]
    pub fn latency(&self, name: &str) -> String {
        let of = |figure: fn(&Sample) -> f64| self.median(name, figure).map(number);
        match (of(|s| s.latency.p50), of(|s| s.latency.p99), of(|s| s.latency.p999)) {
            (Some(p50), Some(p99), Some(p999)) => format!("{p50} / {p99} / {p999}"),
            _ => String::new(),
        }
    }

    /// All samples of a name.
    #[must_use]
    pub fn samples(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A number with as many digits as say something.
#[must_use]
pub fn number(value: f64) -> String {
    // The rounded value decides, so that 9.996 becomes 10.0 and not 10.00.
    let size = value.abs();
    if size >= 9_999.5 {
        thousands(value.round() as i64)
    } else if size >= 99.95 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn thousands(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    format!("{}{}", if value < 0 { "-" } else { "" }, groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.456, 9.994, 9.996, 99.96, 123.4, 9_999.0, 12_345.6, -1_234_567.0].map(number);
        assert_eq!(shown, ["0.46", "9.99", "10.0", "100", "123", "9999", "12,346", "-1,234,567"]);
    }

    #[test]
    fn cells_show_median_and_range() {
        let samples = [3_000, 1_000, 2_000].map(|n| Sample { ops: 1, server_nanos: n, ..Sample::default() });
        let results = Results(HashMap::from([("relay".to_owned(), samples.to_vec())]));
        assert_eq!(results.cell("relay", " µs", Sample::server_micros), "2.00 µs [1.00–3.00]");
        assert_eq!(results.cell("gateway", " µs", Sample::server_micros), "");
        assert_eq!(results.median("gateway", Sample::rate), None);
        assert_eq!(results.latency("relay"), "0.00 / 0.00 / 0.00");
    }
}
