//! `log`: which lines are written, how and where to.

use std::{fmt, path::PathBuf};

use serde::Serialize;

use super::{
    read::{FromNode, Section, scalar},
    yaml::Node,
};

/// `log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Log {
    /// The least important lines written. Default info.
    pub level: LogLevel,
    /// Where lines go. Default stdout.
    pub output: LogOutput,
    /// How a line looks. Default text.
    pub format: LogFormat,
    /// The file of outputs `file` and `both`.
    pub file: LogFile,
}

/// `log.file`: a file that is rotated by size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogFile {
    /// Default `/var/log/frontier/frontier.log`.
    pub path: PathBuf,
    /// MB (2^20 bytes) before a new file is begun. Default 100.
    pub max_size: u64,
    /// Rotated files kept. Default 5.
    pub max_backups: u64,
    /// Days that rotated files are kept. Default 30.
    pub max_age: u64,
    /// Whether rotated files are compressed by gzip. Default false.
    pub compress: bool,
}

/// A choice with a fixed set of names.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident, $what:literal, $($(#[$item_doc:meta])* $item:ident = $text:literal),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$item_doc])* $item),+ }

        impl $name {
            /// The names, in the order in which messages list them.
            pub const NAMES: &[&str] = &[$($text),+];

            /// The name in files and flags.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$item => $text),+ }
            }

            /// Reads a name.
            ///
            /// # Errors
            /// Names the options.
            pub fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$item),)+
                    _ => Err(format!(
                        concat!("unsupported log ", $what, " \"{}\", options: {}"), text, Self::NAMES.join(", "),
                    )),
                }
            }
        }

        impl FromNode for $name {
            fn from_node(node: &Node) -> Result<Self, String> {
                Self::parse(scalar(node, "one word")?)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

choice! {
    /// How important a line is.
    LogLevel, "level",
    /// One line per session event and above.
    Debug = "debug",
    /// The life of the process and its parts.
    Info = "info",
    /// Something works less well than it should.
    Warn = "warn",
    /// A person has to act.
    Error = "error"
}

choice! {
    /// Where lines go.
    LogOutput, "output",
    /// Standard output.
    Stdout = "stdout",
    /// Standard error.
    Stderr = "stderr",
    /// The rotated file.
    File = "file",
    /// Standard output and the rotated file.
    Both = "both"
}

choice! {
    /// How a line looks.
    LogFormat, "format",
    /// For people.
    Text = "text",
    /// One JSON object per line.
    Json = "json"
}

// === impl Log ===

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            output: LogOutput::Stdout,
            format: LogFormat::Text,
            file: LogFile::default(),
        }
    }
}

impl Log {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        section.dead(
            &[
                "log_dir",
                "log_file",
                "log_file_max_size",
                "logtostderr",
                "alsologtostderr",
                "verbosity",
                "add_dir_header",
                "skip_headers",
                "one_output",
                "skip_log_headers",
                "stderrthreshold",
            ],
            "an early version's logger had it; see log.level, log.output and log.file",
        );
        let default = Self::default();
        Self {
            level: section
                .optional_by("level", non_empty(LogLevel::parse))
                .flatten()
                .unwrap_or(default.level),
            output: section
                .optional_by("output", non_empty(LogOutput::parse))
                .flatten()
                .unwrap_or(default.output),
            format: section
                .optional_by("format", non_empty(LogFormat::parse))
                .flatten()
                .unwrap_or(default.format),
            file: section.section("file", LogFile::read),
        }
    }
}

/// An empty text means the default, as a missing key does.
fn non_empty<T>(parse: impl Fn(&str) -> Result<T, String>) -> impl Fn(&Node) -> Result<Option<T>, String> {
    move |node| match scalar(node, "one word")? {
        "" => Ok(None),
        text => parse(text).map(Some),
    }
}

// === impl LogFile ===

impl Default for LogFile {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/log/frontier/frontier.log"),
            max_size: 100,
            max_backups: 5,
            max_age: 30,
            compress: false,
        }
    }
}

impl LogFile {
    fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        let path: PathBuf = section.value("path", PathBuf::new());
        // Zero and negative numbers mean the default, as in the Go system.
        let mut number = |key, default: u64| {
            section
                .optional::<i64>(key)
                .and_then(|n| u64::try_from(n).ok())
                .filter(|n| *n > 0)
                .unwrap_or(default)
        };
        Self {
            max_size: number("max_size", default.max_size),
            max_backups: number("max_backups", default.max_backups),
            max_age: number("max_age", default.max_age),
            compress: section.value("compress", default.compress),
            path: if path.as_os_str().is_empty() { default.path } else { path },
        }
    }
}
