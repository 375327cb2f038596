//! Keys that several blocks have.

use std::{path::PathBuf, time::Duration};

use frontier_ops::config::{ByteSize, Problems, Secret, read::Section, serialize_duration};
use serde::Serialize;

use crate::Options;

/// How much waits for a broker and how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Messages that may wait; more are refused as overloaded.
    pub max_in_flight: usize,
    /// Bytes that they may have.
    pub max_in_flight_bytes: ByteSize,
    /// Longest time a message waits for the broker, whatever its own deadline.
    #[serde(serialize_with = "serialize_duration")]
    pub timeout: Duration,
}

/// Which topics, beside the exact ones, and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Patterns of topics as MQTT writes them.
    pub patterns: Vec<String>,
    /// Template of the destination; empty = the topic itself.
    pub map: String,
}

/// Declares a secret that stands in the file, in another one, or in the environment.
macro_rules! secret {
    ($(#[$doc:meta])* $name:ident { $($extra:ident),* } $inline:ident $file:ident $env:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct $name {
            $(
                /// Whose it is.
                pub $extra: String,
            )*
            /// The secret itself.
            pub $inline: frontier_ops::config::Secret,
            /// A file with it, read whenever a connection is made.
            pub $file: std::path::PathBuf,
            /// The environment variable with it.
            pub $env: String,
        }

        impl $name {
            pub(crate) fn read(section: &mut frontier_ops::config::read::Section<'_>) -> Self {
                Self {
                    $($extra: section.value(stringify!($extra), String::new()),)*
                    $inline: section.value(stringify!($inline), frontier_ops::config::Secret::default()),
                    $file: section.value(stringify!($file), std::path::PathBuf::new()),
                    $env: section.value(stringify!($env), String::new()),
                }
            }

            pub(crate) fn validate(&self, key: &str, problems: &mut frontier_ops::config::Problems) {
                if let Err(error) = self.secret() {
                    problems.warn(format!("{key}.{}", stringify!($inline)), error);
                }
            }

            /// The secret as it is now; empty where none is configured.
            pub(crate) fn secret(&self) -> Result<frontier_ops::config::Secret, String> {
                $crate::config::keys::load(&self.$inline, &self.$file, &self.$env)
            }
        }
    };
}
pub(crate) use secret;

secret! {
    /// Name and password towards a broker.
    Login { user } password password_file password_env
}

// === impl Flow ===

impl Default for Flow {
    fn default() -> Self {
        Self {
            // A second of what the slowest of the brokers confirms; with small messages some 6 MB.
            max_in_flight: 10_000,
            max_in_flight_bytes: ByteSize::mib(64),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Flow {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            max_in_flight: section.value("max_in_flight", default.max_in_flight),
            max_in_flight_bytes: section.value("max_in_flight_bytes", default.max_in_flight_bytes),
            timeout: section.value("timeout", default.timeout),
        }
    }

    pub(super) fn validate(&self, name: &str, problems: &mut Problems) {
        if !(1..=1_000_000).contains(&self.max_in_flight) {
            problems.error(format!("mqm.{name}.max_in_flight"), "must be between 1 and 1000000");
        }
        if self.max_in_flight_bytes < ByteSize::kib(64) {
            problems.error(format!("mqm.{name}.max_in_flight_bytes"), "must be at least 64KiB");
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(600)).contains(&self.timeout) {
            problems.error(format!("mqm.{name}.timeout"), "must be between 1ms and 10m");
        }
    }

    pub(super) fn options(&self, name: &'static str) -> Options {
        Options {
            name,
            max_in_flight: self.max_in_flight,
            max_in_flight_bytes: self.max_in_flight_bytes.as_len(),
            timeout: self.timeout,
        }
    }
}

// === impl Choice ===

impl Choice {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self { patterns: section.value("patterns", Vec::new()), map: section.value("map", String::new()) }
    }
}

// === impl Login ===

impl Login {
    /// Name and password as they are now.
    pub(crate) fn load(&self) -> Result<(String, Secret), String> {
        Ok((self.user.clone(), self.secret()?))
    }
}

/// A secret that is given at most once; errors do not show it.
pub(crate) fn load(inline: &Secret, file: &PathBuf, env: &str) -> Result<Secret, String> {
    if !file.as_os_str().is_empty() {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        return Ok(Secret::new(text.trim_end_matches(['\r', '\n'])));
    }
    if !env.is_empty() {
        return std::env::var(env).map(Secret::new).map_err(|_| format!("the environment has no {env}"));
    }
    Ok(inline.clone())
}
