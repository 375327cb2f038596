//! What every scraper expects of a process, and what the allocator holds.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

use super::{Collect, Family};

/// This process, from `/proc` and the system's clocks.
pub struct Process {
    /// Whose allocator it is.
    #[cfg_attr(
        not(feature = "jemalloc"),
        expect(dead_code, reason = "only the allocator is named after it")
    )]
    product: &'static str,
    /// Seconds since 1970.
    started: f64,
}

// === impl Process ===

impl Process {
    /// To be called at the start of the process: there is no cheaper way to know when that was.
    #[must_use]
    pub fn start(product: &'static str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { product, started: now.as_secs_f64() }
    }
}

impl Collect for Process {
    fn collect(&self) -> Vec<Family> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut families = vec![
            Family::counter("process_cpu", "User and system CPU time")
                .seconds()
                .real(cpu_time().as_secs_f64()),
            Family::gauge("process_start_time", "Start of the process since 1970")
                .seconds()
                .real(self.started),
        ];
        let gauges = [
            ("process_resident_memory", "Memory in RAM", kib_of(&status, "VmRSS:")),
            ("process_virtual_memory", "Memory mapped", kib_of(&status, "VmSize:")),
        ];
        for (name, help, value) in gauges {
            families.extend(value.map(|value| Family::gauge(name, help).bytes().row(&[], value)));
        }
        let counts = [
            ("process_threads", "Threads", number_of(&status, "Threads:")),
            ("process_open_fds", "Open files, sockets among them", open_files()),
            ("process_max_fds", "Open files allowed", getrlimit(Resource::Nofile).current),
        ];
        for (name, help, value) in counts {
            families.extend(value.map(|value| Family::gauge(name, help).row(&[], value)));
        }
        #[cfg(feature = "jemalloc")]
        families.extend(allocator(self.product));
        families
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

fn number_of(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn kib_of(status: &str, key: &str) -> Option<u64> {
    number_of(status, key).map(|kib| kib * 1024)
}

/// Newer kernels tell the number of open files as the size of the folder; others have to be asked for every name,
/// which takes a while with a million sockets.
fn open_files() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // The folder being read is one of them.
        0 => u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1)).ok(),
        count => Some(count),
    }
}

#[cfg(feature = "jemalloc")]
fn allocator(product: &str) -> Option<Family> {
    use tikv_jemalloc_ctl::{epoch, stats};
    // The numbers are those of the last epoch.
    epoch::advance().ok()?;
    let kinds = [
        ("allocated", stats::allocated::read()),
        ("active", stats::active::read()),
        ("resident", stats::resident::read()),
        ("mapped", stats::mapped::read()),
        ("retained", stats::retained::read()),
        ("metadata", stats::metadata::read()),
    ];
    let name = format!("{product}_allocator");
    let family = Family::gauge(name, "Memory of the allocator by what it is used for").bytes();
    Some(kinds.into_iter().fold(family, |family, (kind, bytes)| match bytes {
        Ok(bytes) => family.row(&[("kind", kind)], bytes as u64),
        Err(_) => family,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_numbers() {
        let status = "Name:\tfrontier\nVmRSS:\t    1234 kB\nThreads:\t7\nVmSize:\tgarbage\n";
        assert_eq!(kib_of(status, "VmRSS:"), Some(1234 * 1024));
        assert_eq!(number_of(status, "Threads:"), Some(7));
        assert_eq!(number_of(status, "VmSize:"), None);
        assert_eq!(number_of(status, "VmPeak:"), None);
    }

    #[test]
    fn open_files_are_counted() {
        let before = open_files().unwrap();
        let files: Vec<_> = (0..20).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let during = open_files().unwrap();
        // Other tests open and close files at the same time.
        assert!(during + 10 >= before + 20, "{before} {during}");
        drop(files);
    }

    #[test]
    fn cpu_time_grows() {
        let before = cpu_time();
        let mut sum = 0_u64;
        while cpu_time() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time() > before);
    }
}
