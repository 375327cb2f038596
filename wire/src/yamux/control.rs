//! What is due to the peer beside the streams that live: answers, refusals, and the end. Held in a box, because most connections never
//! need it.

use std::mem::size_of;

use bytes::BufMut;

use super::header::{ACK, Header, Kind, RST, SYN};

/// Resets that may wait to be written (4 KiB). Beyond that a peer that opens streams without reading is cut
/// ([`Error::Flood`](super::Error::Flood)) and [`Engine::open`](super::Engine::open) refuses; streams that are open then can still
/// be reset.
pub const MAX_PENDING_RESETS: usize = 1024;

/// Control frames that belong to no live stream.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Streams refused or reset.
    pub(super) resets: Vec<u32>,
    /// The newest value that was asked for: older ones need no answer, because this one says as much.
    pub(super) pong: Option<u32>,
    /// The newest value to ask for.
    pub(super) ping: Option<u32>,
    /// The reason to give for going away.
    pub(super) go_away: Option<u32>,
}

// === impl Control ===

impl Control {
    /// Heap bytes held, with the box.
    pub(super) const fn held_bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.resets.capacity().saturating_mul(size_of::<u32>()))
    }

    /// Writes everything but the farewell.
    pub(super) fn write(&self, out: &mut impl BufMut) {
        let connection = |flags, value| Header { kind: Kind::Ping, flags, stream: 0, length: value };
        if let Some(value) = self.pong {
            out.put_slice(&connection(ACK, value).encode());
        }
        if let Some(value) = self.ping {
            out.put_slice(&connection(SYN, value).encode());
        }
        for &stream in &self.resets {
            out.put_slice(&Header { kind: Kind::Window, flags: RST, stream, length: 0 }.encode());
        }
    }

    /// Writes the farewell, which is last: a peer may stop reading after it.
    pub(super) fn write_go_away(&self, out: &mut impl BufMut) {
        if let Some(code) = self.go_away {
            out.put_slice(&Header { kind: Kind::GoAway, flags: 0, stream: 0, length: code }.encode());
        }
    }
}
