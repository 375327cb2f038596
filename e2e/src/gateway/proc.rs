//! What the kernel knows of a process.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::Context;

/// The entry of a process in `/proc`.
#[derive(Clone, Debug)]
pub struct Proc {
    dir: PathBuf,
}

// === impl Proc ===

impl Proc {
    pub(crate) fn new(pid: u32) -> Self {
        Self { dir: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(self.dir.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1_024)
    }

    /// Open file descriptors.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn fds(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(self.dir.join("fd"))?.count())
    }

    /// The number that the next open file gets: the lowest that is free.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn next_fd(&self) -> anyhow::Result<u64> {
        let numbers = fs::read_dir(self.dir.join("fd"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
        let taken: BTreeSet<u64> = numbers.collect();
        (0..).find(|number| !taken.contains(number)).context("no number is free")
    }
}
