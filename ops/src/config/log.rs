//! `log`: which lines are written, how and where to.

use std::{fmt, path::PathBuf};

use serde::Serialize;

use super::{
    problem::Problems,
    read::{FromNode, Section, scalar},
    source::Environment,
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

/// What flags say about logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct LogFlags {
    /// debug, info, warn or error [default: info]
    #[arg(id = "loglevel", long = "loglevel", value_name = "LEVEL")]
    pub level: Option<String>,

    /// stdout, stderr, file or both [default: stdout]
    #[arg(id = "log_output", long = "log-output", value_name = "OUTPUT")]
    pub output: Option<String>,

    /// text or json [default: text]
    #[arg(id = "log_format", long = "log-format", value_name = "FORMAT")]
    pub format: Option<String>,

    /// File for the outputs file and both.
    #[arg(
        id = "log_file",
        long = "log-file",
        value_name = "FILE",
        help = "File for the outputs file and both [default: <program>.log in /var/log/frontier]"
    )]
    pub file: Option<PathBuf>,
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
    /// Reads the block.
    pub fn read(section: &mut Section<'_>, default: Self) -> Self {
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
            file: section.section("file", |file| LogFile::read(file, default.file)),
        }
    }

    /// Lays the environment (`LOG_LEVEL`, `LOG_OUTPUT`, `LOG_FORMAT`, `LOG_FILE`) and the flags over the file; flags win.
    pub fn apply(&mut self, flags: &LogFlags, env: &Environment, problems: &mut Problems) {
        let chosen = |flag: &'static str, given: Option<&str>, name: &'static str| {
            let flag = given.filter(|text| !text.is_empty()).map(|text| (flag, text.to_owned()));
            flag.or_else(|| env.get(name).map(|text| (name, text.to_owned())))
        };
        let level = chosen("--loglevel", flags.level.as_deref(), "LOG_LEVEL");
        let output = chosen("--log-output", flags.output.as_deref(), "LOG_OUTPUT");
        let format = chosen("--log-format", flags.format.as_deref(), "LOG_FORMAT");
        set(&mut self.level, level, LogLevel::parse, problems);
        set(&mut self.output, output, LogOutput::parse, problems);
        set(&mut self.format, format, LogFormat::parse, problems);
        let file = flags.file.clone().filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = file.or_else(|| env.get("LOG_FILE").map(PathBuf::from)) {
            self.file.path = path;
        }
    }
}

fn set<T>(
    target: &mut T,
    given: Option<(&'static str, String)>,
    parse: impl Fn(&str) -> Result<T, String>,
    problems: &mut Problems,
) {
    let Some((source, text)) = given else { return };
    match parse(&text) {
        Ok(value) => *target = value,
        Err(message) => problems.error(source, message),
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
    fn read(section: &mut Section<'_>, default: Self) -> Self {
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
