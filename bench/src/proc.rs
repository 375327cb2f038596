//! What the kernel says about a process and about the machine: CPU time, memory, steal.

use std::{collections::HashMap, fs, io, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// CPU nanoseconds so far of every thread of a process that lives now, by thread ID.
///
/// From `schedstat`: counted by the scheduler to the nanosecond, where `stat` samples ticks of 4 ms.
///
/// # Errors
/// If there is no such process or the kernel keeps no such figures.
fn thread_nanos(pid: u32, into: &mut HashMap<u32, u64>) -> Result<()> {
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
        let task = task?;
        let thread = task.file_name().to_str().and_then(|name| name.parse().ok()).context("no thread ID")?;
        let path = task.path().join("schedstat");
        match fs::read_to_string(&path) {
            Ok(text) => {
                into.insert(thread, parse_schedstat(&text).with_context(|| path.display().to_string())?);
            }
            // The thread ended between listing and reading.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3 /* ESRCH */)
}

/// Nanoseconds on the CPU: the first of three numbers.
fn parse_schedstat(text: &str) -> Result<u64> {
    text.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).context("no run time in schedstat")
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident and not backed by a file: heap and stacks.
    pub anon: u64,
}

/// Memory of a process, from `smaps_rollup` (exact, walks the page tables) or else `status` (counters that lag by some pages per
/// thread).
///
/// # Errors
/// If there is no such process.
pub fn memory(pid: u32) -> Result<Memory> {
    match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        Ok(text) => parse_memory(&text, "Rss:", "Anonymous:"),
        Err(_) => parse_memory(
            &fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?,
            "VmRSS:",
            "RssAnon:",
        ),
    }
}

fn parse_memory(text: &str, rss: &str, anon: &str) -> Result<Memory> {
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        let kib: u64 =
            line.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).context("no number")?;
        Ok(kib * 1024)
    };
    Ok(Memory { rss: field(rss)?, anon: field(anon)? })
}

/// Ticks of the whole machine since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Of all kinds, idle included, guests not counted twice.
    pub total: u64,
    /// Taken by the hypervisor while we wanted to run.
    pub steal: u64,
}

// === impl Ticks ===

impl Ticks {
    /// Reads `/proc/stat`.
    ///
    /// # Errors
    /// If it cannot be read or has no line for all CPUs.
    pub fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").context("read /proc/stat")?)
    }

    fn parse(text: &str) -> Result<Self> {
        let line = text.lines().find(|line| line.starts_with("cpu ")).context("no line `cpu`")?;
        // user nice system idle iowait irq softirq steal; guest and guest_nice are part of user and nice.
        let ticks: Vec<u64> =
            line.split_ascii_whitespace().skip(1).take(8).map_while(|n| n.parse().ok()).collect();
        let &[.., steal] = ticks.as_slice() else { bail!("no ticks in {line:?}") };
        if ticks.len() < 8 {
            bail!("no steal in {line:?}");
        }
        Ok(Self { total: ticks.iter().sum(), steal })
    }

    /// The share of steal since `earlier`, 0 to 1.
    #[must_use]
    pub fn steal_since(&self, earlier: &Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        if total == 0 { 0.0 } else { self.steal.saturating_sub(earlier.steal) as f64 / total as f64 }
    }
}

/// What is read before and after a measurement. A thread that ends in between takes its time along: it is not counted, and nothing is
/// subtracted for it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    servers: HashMap<u32, u64>,
    own: HashMap<u32, u64>,
    ticks: Ticks,
}

/// What was used between two snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// CPU nanoseconds of the servers watched.
    pub servers: u64,
    /// CPU nanoseconds of this process.
    pub own: u64,
    /// Share of CPU time stolen on the machine, 0 to 1.
    pub steal: f64,
}

// === impl Snapshot ===

impl Snapshot {
    /// Reads the counters of the servers and of this process.
    ///
    /// # Errors
    /// If one of them has ended.
    pub fn take(servers: &[u32]) -> Result<Self> {
        let (mut theirs, mut own) = (HashMap::new(), HashMap::new());
        for &pid in servers {
            thread_nanos(pid, &mut theirs)?;
        }
        thread_nanos(std::process::id(), &mut own)?;
        Ok(Self { servers: theirs, own, ticks: Ticks::now()? })
    }

    /// What was used from this snapshot to the later one.
    #[must_use]
    pub fn until(&self, later: &Self) -> Used {
        Used {
            servers: grown(&self.servers, &later.servers),
            own: grown(&self.own, &later.own),
            steal: later.ticks.steal_since(&self.ticks),
        }
    }
}

fn grown(before: &HashMap<u32, u64>, after: &HashMap<u32, u64>) -> u64 {
    after
        .iter()
        .map(|(thread, nanos)| nanos.saturating_sub(before.get(thread).copied().unwrap_or_default()))
        .sum()
}

/// Whether the process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    // The state follows the name, which is in parentheses and may contain anything.
    stat.is_ok_and(|text| !matches!(text.rsplit_once(") ").map(|(_, rest)| &rest[..1]), Some("Z" | "X")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_the_first_number() {
        assert_eq!(parse_schedstat("510327 17 3\n").unwrap(), 510_327);
        assert!(parse_schedstat("").is_err());
        assert!(parse_schedstat("x 1 2").is_err());
    }

    #[test]
    fn memory_is_read_in_bytes_from_both_files() {
        let rollup = "5581c0-7ffd rollup\nRss:  1708 kB\nPss:  300 kB\nAnonymous:  116 kB\n";
        let found = parse_memory(rollup, "Rss:", "Anonymous:").unwrap();
        assert_eq!(found, Memory { rss: 1_748_992, anon: 118_784 });
        let status = "Name:\tx\nVmRSS:\t 12 kB\nRssAnon:\t 8 kB\n";
        let found = parse_memory(status, "VmRSS:", "RssAnon:").unwrap();
        assert_eq!(found, Memory { rss: 12_288, anon: 8_192 });
        assert!(parse_memory("Rss: none\n", "Rss:", "Anonymous:").is_err());
    }

    #[test]
    fn steal_is_a_share_of_all_ticks() {
        let before = Ticks::parse("cpu  100 0 50 800 10 0 5 35 7 0\ncpu0 1 1\n").unwrap();
        assert_eq!(before, Ticks { total: 1_000, steal: 35 });
        let after = Ticks::parse("cpu  180 0 60 890 10 0 5 55 7 0\n").unwrap();
        assert!((after.steal_since(&before) - 0.1).abs() < 1e-9);
        assert!(Ticks::parse("cpu  1 2 3 4 5 6 7\n").is_err());
        assert!(Ticks::parse("intr 1\n").is_err());
    }

    #[test]
    fn threads_that_come_and_go_neither_add_nor_subtract_their_past() {
        let before = HashMap::from([(1, 100), (2, 5_000)]);
        let after = HashMap::from([(1, 150), (3, 30)]);
        assert_eq!(grown(&before, &after), 80);
    }

    #[test]
    fn own_figures_can_be_read_and_grow() {
        let me = std::process::id();
        let before = Snapshot::take(&[me]).unwrap();
        let mut sum = 0_u64;
        // Until the scheduler has noticed: it updates its figures at ticks.
        let used = loop {
            sum = std::hint::black_box(sum.wrapping_add(1));
            let used = before.until(&Snapshot::take(&[me]).unwrap());
            if used.own > 0 && used.servers > 0 {
                break used;
            }
        };
        assert!(used.steal <= 1.0);
        assert!(memory(me).unwrap().rss > 100_000);
        assert!(is_alive(me) && !is_alive(u32::MAX));
    }
}
