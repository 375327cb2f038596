//! Welcome: what the acceptor grants, and what the dialer makes of it.

use std::fmt;

use bytes::BufMut;
use prost::Message;

use super::{DEFAULT_STREAM_WINDOW, MIN_STREAM_WINDOW, VERSION};
use crate::native::proto;

/// What the acceptor grants. As decoded it has a version spoken here, an ID and usable limits.
#[derive(Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version both use from now on.
    pub version: u32,
    /// The features both have.
    pub features: u64,
    /// Edge or service ID, never 0.
    pub id: u64,
    /// Epoch of this session: a later session of the same ID has a greater one.
    pub epoch: u64,
    /// Edges: opaque resume ticket, replaces the one kept; empty = none.
    pub ticket: Vec<u8>,
    /// Services: how many connections make a full pool, at least 1.
    pub shards: u32,
    /// Start window of user streams towards the gateway in bytes, at least [`MIN_STREAM_WINDOW`].
    pub stream_window: u32,
    /// Send a Ping when nothing was sent for this many milliseconds, not 0.
    pub heartbeat_ms: u32,
    /// Longest body in bytes, all fragments together, not 0.
    pub max_body: u64,
    /// Operations this peer may have unanswered, not 0.
    pub max_in_flight: u32,
}

/// Why a Welcome cannot be used. The acceptor is broken: the dialer closes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WelcomeError {
    /// Not the message Welcome.
    #[error("malformed welcome: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A version this side did not offer.
    #[error("acceptor chose protocol version {version}, at most {VERSION} was offered")]
    Version {
        /// What the acceptor said.
        version: u32,
    },
    /// A field that must not be 0.
    #[error("welcome without {field}")]
    Missing {
        /// Its name in the proto.
        field: &'static str,
    },
    /// The start window is too small.
    #[error("stream window of {window} bytes, at least {MIN_STREAM_WINDOW} needed")]
    StreamWindow {
        /// What the acceptor said.
        window: u32,
    },
}

// === impl Welcome ===

impl Welcome {
    /// Decodes and checks the head of a Welcome frame.
    ///
    /// # Errors
    /// When it is malformed or makes no sense.
    pub fn decode(head: &[u8]) -> Result<Self, WelcomeError> {
        let welcome = proto::Welcome::decode(head)?;
        if welcome.version == 0 || welcome.version > VERSION {
            return Err(WelcomeError::Version { version: welcome.version });
        }
        let missing = [
            ("id", welcome.id == 0),
            ("heartbeat_ms", welcome.heartbeat_ms == 0),
            ("max_body", welcome.max_body == 0),
            ("max_in_flight", welcome.max_in_flight == 0),
        ];
        if let Some((field, _)) = missing.into_iter().find(|(_, missing)| *missing) {
            return Err(WelcomeError::Missing { field });
        }
        let window = welcome.stream_window;
        if window != 0 && window < MIN_STREAM_WINDOW {
            return Err(WelcomeError::StreamWindow { window });
        }
        Ok(Self {
            version: welcome.version,
            features: welcome.features,
            id: welcome.id,
            epoch: welcome.epoch,
            ticket: welcome.ticket,
            shards: welcome.shards.max(1),
            stream_window: if window == 0 { DEFAULT_STREAM_WINDOW } else { window },
            heartbeat_ms: welcome.heartbeat_ms,
            max_body: welcome.max_body,
            max_in_flight: welcome.max_in_flight,
        })
    }

    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.to_proto().encoded_len()
    }

    /// Appends the head of a Welcome frame.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.to_proto().encode_to_vec());
    }

    fn to_proto(&self) -> proto::Welcome {
        proto::Welcome {
            version: self.version,
            features: self.features,
            id: self.id,
            epoch: self.epoch,
            ticket: self.ticket.clone(),
            shards: self.shards,
            stream_window: self.stream_window,
            heartbeat_ms: self.heartbeat_ms,
            max_body: self.max_body,
            max_in_flight: self.max_in_flight,
        }
    }
}

/// Without the ticket, which would let a reader of the log in.
impl fmt::Debug for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome")
            .field("version", &self.version)
            .field("id", &self.id)
            .field("epoch", &self.epoch)
            .field("ticket", &!self.ticket.is_empty())
            .field("shards", &self.shards)
            .field("stream_window", &self.stream_window)
            .field("heartbeat_ms", &self.heartbeat_ms)
            .field("max_body", &self.max_body)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}
