//! Reads typed values out of the tree of a file, and remembers every key it was asked for.
//!
//! A block's `read` function asks a [`Section`] for its keys one by one, with their defaults. What is wrong with a
//! value is collected instead of returned, so one run shows everything. The keys asked for are at the same time the
//! list of all keys there are: unknown ones are compared with it, and a test compares the documentation with it.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    problem::{Problems, Severity},
    value::{ByteSize, ListenAddr, Secret, SecretSource, parse_duration},
    yaml::{Node, Value},
};

/// What to do about a key that nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum UnknownKeys {
    /// Start with a warning, for migrations.
    Warn,
    /// Do not start.
    #[default]
    Error,
}

/// A key that the configuration knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Full path; lists are marked `[]`, as in `edgebound.listen.tls.certs[].key`.
    pub path: String,
    /// What a value does.
    pub state: State,
}

/// What a value of a known key does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It acts.
    Live,
    /// It acts as the key named here, which is how it was meant.
    AliasOf(&'static str),
    /// It is accepted without effect; the text says why.
    Dead(&'static str),
}

/// What all sections of one reading share.
pub struct Reader {
    unknown: UnknownKeys,
    /// Every key of this kind of file, for the case that a key stands in the wrong block.
    all: fn() -> &'static [Known],
    /// Walks every block and one element of every list, present or not: the list of all keys.
    probe: bool,
    shared: RefCell<Shared>,
}

struct Shared {
    problems: Problems,
    known: Vec<Known>,
}

// === impl Reader ===

impl Reader {
    /// A reader for one document.
    #[must_use]
    pub fn new(problems: Problems, unknown: UnknownKeys, all: fn() -> &'static [Known]) -> Self {
        Self { unknown, all, probe: false, shared: RefCell::new(Shared { problems, known: Vec::new() }) }
    }

    /// A reader that visits every key there is.
    #[must_use]
    pub fn probe() -> Self {
        Self { probe: true, ..Self::new(Problems::default(), UnknownKeys::Error, || &[]) }
    }

    /// Reads the document with `read`, which asks for all its keys.
    pub fn document<T>(&self, node: Node, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let mut section = Section::new(self, String::new(), node);
        let value = read(&mut section);
        section.finish();
        value
    }

    /// What was found, and the keys asked for by a probe.
    #[must_use]
    pub fn into_parts(self) -> (Problems, Vec<Known>) {
        let shared = self.shared.into_inner();
        (shared.problems, shared.known)
    }

    fn push(&self, severity: Severity, key: &str, line: u32, message: String) {
        self.shared.borrow_mut().problems.push(severity, key.to_owned(), Some(line), message);
    }
}

/// One mapping of the file.
pub struct Section<'r> {
    reader: &'r Reader,
    path: String,
    entries: BTreeMap<String, (u32, Node)>,
    /// The keys asked for so far: what an unknown one is compared with.
    asked: Vec<&'static str>,
}

// === impl Section ===

impl<'r> Section<'r> {
    fn new(reader: &'r Reader, path: String, node: Node) -> Self {
        let mut section = Self { reader, path, entries: BTreeMap::new(), asked: Vec::new() };
        match node.value {
            Value::Null => {}
            Value::Map(entries) => {
                for (key, value) in entries {
                    section.insert(key.name, key.line, value);
                }
            }
            other => section.error(
                &section.path,
                node.line,
                format!("expected a block of keys, found {}", kind(&other)),
            ),
        }
        section
    }

    /// The later of two equal keys counts, as it did for the Go system; but it is hardly what anybody meant.
    fn insert(&mut self, name: String, line: u32, value: Node) {
        if let Some((first, _)) = self.entries.get(&name) {
            let message = format!("given twice, on line {first} and here");
            self.reader.push(self.unknown_severity(), &self.path_of(&name), line, message);
        }
        self.entries.insert(name, (line, value));
    }

    /// The value of a key, or its default.
    pub fn value<T: FromNode>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The value of a key; `None` where it is absent, null or wrong.
    pub fn optional<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        self.optional_by(key, T::from_node)
    }

    /// The value of a key read by `read`, which answers what is wrong.
    pub fn optional_by<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node) -> Result<T, String>,
    ) -> Option<T> {
        self.know(key, State::Live);
        let (line, node) = self.take(key)?;
        if node.value == Value::Null {
            return None;
        }
        match read(&node) {
            Ok(value) => Some(value),
            Err(message) => {
                self.error(&self.path_of(key), line, message);
                None
            }
        }
    }

    /// The value of a key that must be there.
    pub fn required_by<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node) -> Result<T, String>,
    ) -> Option<T> {
        let line = self.entries.get(key).filter(|(_, node)| node.value != Value::Null).map(|(line, _)| *line);
        if line.is_none() {
            self.reader.shared.borrow_mut().problems.error(self.path_of(key), "is missing");
        }
        self.optional_by(key, read)
    }

    /// A block of keys; absent and null blocks are read too, and give the defaults.
    pub fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        self.know(key, State::Live);
        let node = self.take(key).map_or(Node { line: 0, value: Value::Null }, |(_, node)| node);
        let mut section = Section::new(self.reader, self.path_of(key), node);
        let value = read(&mut section);
        section.finish();
        value
    }

    /// A list of blocks.
    pub fn list<T>(&mut self, key: &'static str, read: impl Fn(&mut Section<'_>) -> T) -> Vec<T> {
        self.know(key, State::Live);
        let path = self.path_of(key);
        if self.reader.probe {
            let mut section =
                Section::new(self.reader, format!("{path}[]"), Node { line: 0, value: Value::Null });
            read(&mut section);
        }
        let Some((line, node)) = self.take(key) else { return Vec::new() };
        match node.value {
            Value::Null => Vec::new(),
            Value::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| {
                    let path = format!("{path}[{index}]");
                    self.reader.shared.borrow_mut().problems.note_line(&path, item.line);
                    let mut section = Section::new(self.reader, path, item);
                    let value = read(&mut section);
                    section.finish();
                    value
                })
                .collect(),
            other => {
                self.error(&path, line, format!("expected a list, found {}", kind(&other)));
                Vec::new()
            }
        }
    }

    /// Other spellings under which files give `key`; to be called before `key` is asked for.
    ///
    /// The right spelling wins if both are there.
    pub fn also(&mut self, key: &'static str, spellings: &[&'static str]) {
        for spelling in spellings {
            self.know(spelling, State::AliasOf(key));
            let Some((line, node)) = self.entries.remove(*spelling) else { continue };
            if self.entries.contains_key(key) {
                let message = format!("means the same as `{key}`, which is given too and counts");
                self.reader.push(Severity::Warning, &self.path_of(spelling), line, message);
            } else {
                self.entries.insert(key.to_owned(), (line, node));
            }
        }
    }

    /// Keys that were shown once and never did, or no longer do, anything.
    ///
    /// Zero values (`false`, `0`, `""`, empty lists) pass in silence: sample files are full of them.
    pub fn dead(&mut self, keys: &[&'static str], why: &'static str) {
        for key in keys {
            self.know(key, State::Dead(why));
            if let Some((line, node)) = self.take(key)
                && !is_zero(&node.value)
            {
                self.reader.push(
                    Severity::Warning,
                    &self.path_of(key),
                    line,
                    format!("has no effect: {why}"),
                );
            }
        }
    }

    /// The value of a key that stands here instead of at `of`, a full path.
    pub fn alias<T: FromNode>(&mut self, key: &'static str, of: &'static str) -> Option<T> {
        let value = self.optional(key);
        if let Some(known) = self.reader.shared.borrow_mut().known.last_mut() {
            known.state = State::AliasOf(of);
        }
        value
    }

    /// A warning about the value of a key that was asked for.
    pub fn warn(&self, key: &str, message: &str) {
        self.reader.shared.borrow_mut().problems.warn(self.path_of(key), message);
    }

    /// Reports what is left.
    fn finish(self) {
        for (name, (line, _)) in &self.entries {
            let hint = nearest(name, &self.asked)
                .map(|known| format!("did you mean `{known}`?"))
                .or_else(|| self.elsewhere(name))
                .unwrap_or_else(|| format!("known here: {}", self.asked.join(", ")));
            let message = format!("unknown key; {hint}");
            self.reader.push(self.unknown_severity(), &self.path_of(name), *line, message);
        }
    }

    /// The key exists, but in another block.
    fn elsewhere(&self, name: &str) -> Option<String> {
        let mut paths = (self.reader.all)().iter().map(|known| known.path.as_str());
        let path = paths.find(|path| path.rsplit('.').next() == Some(name))?;
        Some(format!("did you mean `{path}`?"))
    }

    fn unknown_severity(&self) -> Severity {
        match self.reader.unknown {
            UnknownKeys::Warn => Severity::Warning,
            UnknownKeys::Error => Severity::Error,
        }
    }

    fn know(&mut self, key: &'static str, state: State) {
        self.asked.push(key);
        if self.reader.probe {
            self.reader.shared.borrow_mut().known.push(Known { path: self.path_of(key), state });
        }
    }

    fn take(&mut self, key: &str) -> Option<(u32, Node)> {
        let (line, node) = self.entries.remove(key)?;
        self.reader.shared.borrow_mut().problems.note_line(&self.path_of(key), line);
        Some((line, node))
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn error(&self, path: &str, line: u32, message: String) {
        self.reader.push(Severity::Error, path, line, message);
    }
}

/// A value that a key can have.
pub trait FromNode: Sized {
    /// The value.
    ///
    /// # Errors
    /// What was expected and found.
    fn from_node(node: &Node) -> Result<Self, String>;
}

/// The text of a scalar.
///
/// # Errors
/// What was expected and found.
pub fn scalar<'a>(node: &'a Node, expected: &str) -> Result<&'a str, String> {
    match &node.value {
        Value::Scalar { text, .. } => Ok(text),
        other => Err(format!("expected {expected}, found {}", kind(other))),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Scalar { text, .. } => format!("{text:?}"),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a block of keys".to_owned(),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Scalar { text, .. } => matches!(text.as_str(), "" | "0" | "false"),
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.iter().all(|(_, node)| is_zero(&node.value)),
    }
}

impl FromNode for bool {
    fn from_node(node: &Node) -> Result<Self, String> {
        // The YAML 1.1 words too: files written for the Go system may use them. A quoted word was text there.
        match &node.value {
            Value::Scalar { text, quoted: false } => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" => Ok(true),
                "false" | "no" | "off" | "n" => Ok(false),
                _ => Err(format!("expected true or false, found {text:?}")),
            },
            other => Err(format!("expected true or false, found {}", kind(other))),
        }
    }
}

impl FromNode for String {
    fn from_node(node: &Node) -> Result<Self, String> {
        scalar(node, "text").map(str::to_owned)
    }
}

impl FromNode for PathBuf {
    fn from_node(node: &Node) -> Result<Self, String> {
        scalar(node, "a path").map(Self::from)
    }
}

impl FromNode for Secret {
    fn from_node(node: &Node) -> Result<Self, String> {
        // The value itself must not end up in an error text.
        scalar(node, "text").map(Self::new).map_err(|_| "expected text".to_owned())
    }
}

impl FromNode for SecretSource {
    fn from_node(node: &Node) -> Result<Self, String> {
        scalar(node, "text").map(Self::parse).map_err(|_| "expected text or the path of a file".to_owned())
    }
}

impl FromNode for ListenAddr {
    fn from_node(node: &Node) -> Result<Self, String> {
        Self::parse(scalar(node, "host:port")?)
    }
}

impl FromNode for Duration {
    fn from_node(node: &Node) -> Result<Self, String> {
        const EXPECTED: &str = "a duration with its unit, such as \"30s\" or \"250ms\"";
        let text = scalar(node, EXPECTED)?;
        parse_duration(text).ok_or_else(|| format!("expected {EXPECTED}, found {text:?}"))
    }
}

impl FromNode for ByteSize {
    fn from_node(node: &Node) -> Result<Self, String> {
        const EXPECTED: &str = "a size such as \"64KiB\" or a number of bytes";
        let text = scalar(node, EXPECTED)?;
        Self::parse(text).ok_or_else(|| format!("expected {EXPECTED}, found {text:?}"))
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: &Node) -> Result<Self, String> {
        match &node.value {
            Value::List(items) => items
                .iter()
                .map(|item| T::from_node(item).map_err(|message| format!("line {}: {message}", item.line)))
                .collect(),
            other => Err(format!("expected a list, found {}", kind(other))),
        }
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl FromNode for $number {
            fn from_node(node: &Node) -> Result<Self, String> {
                let expected = concat!("a whole number (", stringify!($number), ")");
                let text = scalar(node, expected)?;
                let plain = text.replace('_', "");
                let number = match plain.strip_prefix("0x") {
                    Some(hex) => Self::from_str_radix(hex, 16),
                    None => plain.parse(),
                };
                number.map_err(|_| format!("expected {expected}, found {text:?}"))
            }
        }
    )*};
}
whole_numbers!(u8, u16, u32, u64, usize, i32, i64);

/// The known key that `name` most likely means, if one is near enough.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain =
        |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let wanted = plain(name);
    let (distance, key) =
        known.iter().map(|key| (edits(&wanted, &plain(key)), *key)).min_by_key(|(d, _)| *d)?;
    // A third of the letters may differ; one letter always may.
    (distance <= (wanted.chars().count() / 3).max(1)).then_some(key)
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour to turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_letters_and_swaps() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("abc", "ab", 1),
            ("abc", "xbc", 1),
            ("ab", "cd", 2),
        ] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
            assert_eq!(edits(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn nearest_ignores_case_and_separators() {
        let known = ["bypass_enable", "listen", "edgeid_alloc_when_no_idservice_on"];
        assert_eq!(nearest("bypassEnable", &known), Some("bypass_enable"));
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(
            nearest("edgeid_alloc_when_no_id_service_on", &known),
            Some("edgeid_alloc_when_no_idservice_on")
        );
        assert_eq!(nearest("colour", &known), None);
    }
}
