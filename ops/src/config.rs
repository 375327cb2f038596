//! Configuration files: a tree that keeps lines, typed reading of it that reports everything wrong at once, and the blocks that the
//! files of several programs have in common.
//!
//! A file written for the Go system works as it is: misspelt keys act as what they meant, keys without effect warn, and any other unknown key
//! is refused with the nearest known one named.

mod listen;
mod log;
mod problem;
pub mod read;
mod rlimit;
mod source;
mod value;
pub mod yaml;

pub use self::{
    listen::{CertKey, Dial, Listen, Tls},
    log::{Log, LogFile, LogFlags, LogFormat, LogLevel, LogOutput},
    problem::{ConfigError, Problem, Problems, Severity},
    read::{Known, State, UnknownKeys},
    rlimit::{NofileOutcome, RLimit},
    source::{Environment, Loaded, effective, read_file},
    value::{
        ByteSize, ListenAddr, Secret, SecretSource, canonical, duration_text, parse_duration,
        serialize_duration, split_host_port,
    },
};
