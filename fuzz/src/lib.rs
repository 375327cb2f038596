//! The bodies of the fuzz targets, without the fuzzer: `wire/tests/fuzz_corpus.rs` replays the committed corpus through them in the
//! ordinary test run. A body takes any bytes and panics when something is wrong; most read them as a [`script::Script`].
//!
//! The bodies of [`SESSIONS`] need more than `wire/`. Their programs and the tests of their crates take them in by path, so that nobody
//! builds a gateway to fuzz a decoder.

pub mod geminio_packets;
pub mod geminio_session;
pub mod native_connection;
pub mod native_heads;
pub mod native_reader;
pub mod script;
pub mod sniff;
pub mod yamux_engine;

/// A fuzz target: the name of its program and corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// The targets of sessions, whose bodies are not in this crate.
pub const SESSIONS: [&str; 2] = ["gateway_session", "sdk_session"];

/// Every other target.
pub const TARGETS: [Target; 7] = [
    ("geminio_packets", geminio_packets::run),
    ("geminio_session", geminio_session::run),
    ("native_connection", native_connection::run),
    ("native_heads", native_heads::run),
    ("native_reader", native_reader::run),
    ("sniff", sniff::run),
    ("yamux_engine", yamux_engine::run),
];
