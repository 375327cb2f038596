//! Where a configuration comes from: a file and the environment.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Serialize;

use super::{
    problem::{Problems, Severity},
    read::{Known, Reader, Section, UnknownKeys},
    value::ListenAddr,
    yaml::{self, Node, Value},
};

/// The files read are a few KiB; anything much longer is not a configuration.
const MAX_FILE: u64 = 1 << 20;

/// Environment variables, as a value: tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

// === impl Environment ===

impl Environment {
    /// The variables of this process; those that are not text do not concern us.
    #[must_use]
    pub fn of_process() -> Self {
        let vars =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self(vars.collect())
    }

    /// A variable; an empty one counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(vars: [(&str, &str); N]) -> Self {
        Self(vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// A configuration to start with.
#[derive(Debug)]
pub struct Loaded<C> {
    /// The configuration.
    pub config: C,
    /// Warnings only.
    pub problems: Problems,
}

/// Reads a file: every key that `read` asks for, checked against `known`, which lists them all. `None` where the file cannot be read at all.
pub fn read_file<C>(
    path: &Path,
    unknown: UnknownKeys,
    known: fn() -> &'static [Known],
    read: impl FnOnce(&mut Section<'_>) -> C,
) -> (Option<C>, Problems) {
    let mut problems = Problems::new(Some(path));
    let text = match text_of(path) {
        Ok(text) => text,
        Err(message) => {
            problems.error("", message);
            return (None, problems);
        }
    };
    match yaml::parse(&text) {
        Ok(document) => {
            let reader = Reader::new(problems, unknown, known);
            let config = reader.document(document, read);
            (Some(config), reader.into_parts().0)
        }
        Err(error) => {
            problems.push(Severity::Error, String::new(), Some(error.line), error.message);
            (None, problems)
        }
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    let describe = |error| format!("cannot read {}: {error}", path.display());
    let length = fs::metadata(path).map_err(describe)?.len();
    if length > MAX_FILE {
        return Err(format!("{} is longer than 1 MiB; that is no configuration", path.display()));
    }
    fs::read_to_string(path).map_err(describe)
}

impl Known {
    /// Every key that `read` asks for, in order.
    pub fn of<C>(read: impl FnOnce(&mut Section<'_>) -> C) -> Vec<Self> {
        let reader = Reader::probe();
        reader.document(Node { line: 0, value: Value::Null }, read);
        reader.into_parts().1
    }
}

impl ListenAddr {
    /// Takes the port that a variable names.
    pub fn replace_port(&mut self, name: &str, env: &Environment, problems: &mut Problems) {
        let Some(text) = env.get(name) else { return };
        match text.parse() {
            Ok(port) => *self = self.with_port(port),
            Err(_) => problems.error(name, format!("{text:?} is not a port (0 to 65535)")),
        }
    }
}

/// A whole configuration as indented JSON, which is YAML too: what a server logs and shows. Secrets hide themselves.
#[must_use]
pub fn effective(config: &impl Serialize) -> String {
    serde_json::to_string_pretty(config).expect("keys are text and values plain")
}
