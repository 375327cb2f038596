//! Geminio, the protocol of the Go system: its packets, and the connection that two peers build from them.
//!
//! - [`packet`]: the 14 byte header in front of everything, the packet types, and how packets are written.
//! - [`reader`]: cuts a byte stream into packets without copying what is already there.
//! - [`data`]: the JSON object in most packets, as places in the bytes that came, and its exact writer.
//! - [`base64`] and [`time`]: the encodings inside the JSON.
//! - [`dialogue`]: one multiplexed session of a connection (a *stream* for its users), its unacknowledged messages included.
//! - [`connection`]: one connection of either role, [`outbox`]: what waits to be written on it.
//! - [`text`]: the error texts that applications compare.
//! - [`limits`]: what is accepted, and how much may wait.
//!
//! `docs/geminio.md` says what of the protocol is spoken and where each rule comes from. Peers of three generations exist and cannot be
//! told apart, so everybody is held to the strictest limits of all.

pub mod base64;
pub mod connection;
pub mod data;
pub mod dialogue;
pub mod limits;
pub mod outbox;
pub mod packet;
pub mod reader;
pub mod text;
pub mod time;

mod json;
mod operations;
mod window;
