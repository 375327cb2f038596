//! The native protocol: frames, their heads, and the session that two peers build from them.
//!
//! - [`frame`]: the 16 byte header in front of everything.
//! - [`reader`]: cuts a byte stream into frames without copying what is already there.
//! - [`head`]: borrowed readers and exact writers for the small protobuf messages in frames.
//! - [`hello`]: the handshake: what the two sides say of themselves, checked.
//! - [`presence`]: who is online, in pages.
//! - [`connection`]: yamux and frames of one connection, either role; [`outbox`]: what waits to be written on it.
//! - [`limits`]: what a decoder accepts.
//! - [`proto`]: all heads as generated structs, for the handshake and for tests.
//!
//! The document for other implementers is `docs/protocol.md`; section numbers in these modules are its.

pub mod connection;
pub mod frame;
pub mod head;
pub mod hello;
pub mod limits;
pub mod outbox;
pub mod presence;
pub mod reader;

/// The messages of `proto/native.proto` as owned structs. Checked in; `tests/native_gen.rs` keeps them equal to the proto.
pub mod proto {
    include!("gen/frontier.native.v1.rs");
}
