//! What is wrong with a configuration: every problem at once, each with the key and the line it stands on.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
};

/// Whether a problem stops the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The server starts; the text says what it does instead.
    Warning,
    /// The server does not start.
    Error,
}

/// One thing wrong with a key, an environment variable or a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it stops the start.
    pub severity: Severity,
    /// The key (`edgebound.listen.addr`), variable (`LOG_LEVEL`) or flag (`--loglevel`); empty for the whole file.
    pub key: String,
    /// Line in the file, from 1, when the key stands in it.
    pub line: Option<u32>,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Every problem found while reading and checking, with the place of each key that was read.
#[derive(Debug, Default)]
pub struct Problems {
    file: Option<PathBuf>,
    list: Vec<Problem>,
    lines: HashMap<String, u32>,
}

// === impl Problems ===

impl Problems {
    /// Problems of a file (named in every line printed), or of flags and environment alone.
    #[must_use]
    pub fn new(file: Option<&Path>) -> Self {
        Self { file: file.map(Path::to_path_buf), ..Self::default() }
    }

    /// All problems, in the order in which they were found.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Those that do not stop the start.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|problem| problem.severity == Severity::Warning)
    }

    /// Those that stop the start.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|problem| problem.severity == Severity::Error)
    }

    /// Whether one of them stops the start.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.errors().next().is_some()
    }

    /// One problem as one line of text: `frontier.yaml:12: edgebound.listen.addr: …`.
    #[must_use]
    pub fn line_of(&self, problem: &Problem) -> String {
        let mut text = String::new();
        if let (Some(file), Some(line)) = (&self.file, problem.line) {
            text.push_str(&format!("{}:{line}: ", file.display()));
        }
        if problem.severity == Severity::Warning {
            text.push_str("warning: ");
        }
        if !problem.key.is_empty() {
            text.push_str(&problem.key);
            text.push_str(": ");
        }
        text.push_str(&problem.message);
        text
    }

    /// Where a key stood in the file.
    pub fn note_line(&mut self, key: &str, line: u32) {
        self.lines.insert(key.to_owned(), line);
    }

    /// Adds what stops the start.
    pub fn error(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Error, key.into(), None, message.into());
    }

    /// Adds what does not.
    pub fn warn(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Warning, key.into(), None, message.into());
    }

    /// Adds a problem; without a line, the one of its key is looked for.
    pub fn push(&mut self, severity: Severity, key: String, line: Option<u32>, message: String) {
        let line = line.or_else(|| self.line_near(&key));
        self.list.push(Problem { severity, key, line, message });
    }

    /// The line of the key, or of the closest block above it that is in the file: a missing key is reported where
    /// it would have to be added.
    fn line_near(&self, key: &str) -> Option<u32> {
        let mut key = key;
        loop {
            if let Some(line) = self.lines.get(key) {
                return Some(*line);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A configuration that cannot be started with; `Display` prints every error, one per line.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct ConfigError {
    /// Everything found, warnings included.
    pub problems: Problems,
}

// === impl ConfigError ===

impl ConfigError {
    fn text(&self) -> String {
        let lines: Vec<String> =
            self.problems.errors().map(|problem| self.problems.line_of(problem)).collect();
        lines.join("\n")
    }
}
