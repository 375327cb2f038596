//! Calendars of processes that step: a small library preloaded into a process adds a number of seconds to what the system says. It is
//! compiled when a test wants it; the processes themselves know nothing of it.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

const SOURCE: &str = include_str!("clock/step.c");

/// The calendar of one process, and of those started with the same [`envs`](Self::envs).
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
    off: File,
    _dir: TempDir,
}

// === impl Clock ===

impl Clock {
    /// One that goes right.
    ///
    /// # Errors
    /// When there is no compiler.
    pub fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (source, library) = (dir.path().join("step.c"), dir.path().join("step.so"));
        std::fs::write(&source, SOURCE)?;
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        let output = cc.output().context("cc cannot be run")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = dir.path().join("off");
        std::fs::write(&file, 0_i64.to_ne_bytes())?;
        let off = File::options().write(true).open(&file)?;
        Ok(Self { library, file, off, _dir: dir })
    }

    /// What a process needs in its environment.
    #[must_use]
    pub fn envs(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("FRONTIER_CLOCK", &self.file)]
    }

    /// From now on it is off by so many seconds.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64) -> anyhow::Result<()> {
        Ok(self.off.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_believes_in_its_clock() -> anyhow::Result<()> {
        let clock = Clock::new()?;
        let now = || -> anyhow::Result<i64> {
            let output = Command::new("date").arg("+%s").envs(clock.envs()).output()?;
            Ok(String::from_utf8(output.stdout)?.trim().parse()?)
        };
        let right = now()?;
        clock.set(1_000_000)?;
        let wrong = now()? - right;
        ensure!((1_000_000..1_000_060).contains(&wrong), "off by {wrong} s");
        Ok(())
    }
}
