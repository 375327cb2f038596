//! The log of a process under test: its lines as they come, and waiting for one.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

/// Lines shown in an error.
const TAIL: usize = 40;

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Vec<Line>>,
    more: Condvar,
}

/// One line: JSON where the gateway logs, else bare text.
#[derive(Clone, Debug)]
pub struct Line {
    text: String,
    json: Option<Value>,
}

// === impl Log ===

impl Log {
    /// Reads both outputs on threads that end with the process. With `FRONTIER_E2E_LOG` set the lines are shown, too.
    pub(crate) fn collect(
        stdout: Option<impl Read + Send + 'static>,
        stderr: Option<impl Read + Send + 'static>,
    ) -> Self {
        let log = Self::default();
        if let Some(stdout) = stdout {
            log.read(stdout);
        }
        if let Some(stderr) = stderr {
            log.read(stderr);
        }
        log
    }

    fn read(&self, output: impl Read + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        let show = std::env::var_os("FRONTIER_E2E_LOG").is_some();
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines() {
                let Ok(text) = text else { return };
                if show {
                    eprintln!("{text}");
                }
                let json = serde_json::from_str(&text).ok();
                shared.lines.lock().push(Line { text, json });
                shared.more.notify_all();
            }
        });
    }

    /// The first line that fits, as soon as there is one.
    ///
    /// # Errors
    /// When there is none within the time.
    pub fn wait(&self, within: Duration, fits: impl Fn(&Line) -> bool) -> anyhow::Result<Line> {
        let deadline = Instant::now() + within;
        let mut lines = self.shared.lines.lock();
        let mut seen = 0;
        loop {
            if let Some(line) = lines.iter().skip(seen).find(|line| fits(line)) {
                return Ok(line.clone());
            }
            seen = lines.len();
            if self.shared.more.wait_until(&mut lines, deadline).timed_out() && lines.len() == seen {
                anyhow::bail!("no such line in the log within {within:?}");
            }
        }
    }

    /// Lines so far that fit.
    #[must_use]
    pub fn find(&self, fits: impl Fn(&Line) -> bool) -> Vec<Line> {
        self.shared.lines.lock().iter().filter(|line| fits(line)).cloned().collect()
    }

    /// The last lines, for errors.
    #[must_use]
    pub fn tail(&self) -> String {
        let lines = self.shared.lines.lock();
        let last = lines.iter().skip(lines.len().saturating_sub(TAIL));
        last.fold("the last lines:".to_owned(), |text, line| text + "\n" + &line.text)
    }
}

// === impl Line ===

impl Line {
    /// The message, or the whole line if it is bare text.
    #[must_use]
    pub fn message(&self) -> &str {
        self.field("message").and_then(Value::as_str).unwrap_or(&self.text)
    }

    /// The level in upper case, empty if the line is bare text.
    #[must_use]
    pub fn level(&self) -> &str {
        self.field("level").and_then(Value::as_str).unwrap_or_default()
    }

    /// A field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.json.as_ref()?.get(name)
    }

    /// A field as text.
    #[must_use]
    pub fn text_of(&self, name: &str) -> &str {
        self.field(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A field as an address.
    #[must_use]
    pub fn addr(&self, name: &str) -> Option<SocketAddr> {
        self.text_of(name).parse().ok()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
