//! A program that talks to a person, as a process of one test: what it prints, what is typed into it, Ctrl-C.

use std::{
    ffi::OsStr,
    io::Write,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    gateway::Log,
    wait::{SOON, until},
};

/// A program that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Log,
}

// === impl Program ===

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        binary: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<Self> {
        let binary = binary.as_ref();
        let mut command = Command::new(binary);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", binary.display()))?;
        let output = Log::collect(child.stdout.take(), child.stderr.take());
        Ok(Self { stdin: child.stdin.take(), child, output })
    }

    /// Waits until it has printed a line that contains this text, and returns the line.
    ///
    /// # Errors
    /// When it does not; what it printed is in the error.
    pub fn says(&self, text: &str) -> anyhow::Result<String> {
        let line = self.output.wait(SOON, |line| line.message().contains(text));
        Ok(line.with_context(|| format!("`{text}`; {}", self.output.tail()))?.message().to_owned())
    }

    /// Lines so far that contain this text.
    #[must_use]
    pub fn said(&self, text: &str) -> Vec<String> {
        let lines = self.output.find(|line| line.message().contains(text));
        lines.iter().map(|line| line.message().to_owned()).collect()
    }

    /// The last it printed, for an error.
    #[must_use]
    pub fn printed(&self) -> String {
        self.output.tail()
    }

    /// Types a line.
    ///
    /// # Errors
    /// When it does not read any more.
    pub fn types(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("its input has ended")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// Ends its input, as Ctrl-D does.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Asks it to end, as Ctrl-C does.
    ///
    /// # Errors
    /// When it is gone.
    pub fn interrupt(&self) -> anyhow::Result<()> {
        self.signal(Signal::INT)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it runs on.
    pub fn exit(&mut self) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        until("exit", SOON, || child.try_wait().transpose())
            .with_context(|| self.output.tail())?
            .context("exit status")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
