//! Messages of the async world for edges, as sources of brokers have them: a door into the shard of the edge, and the word of the edge back.
//!
//! ```text
//!  async world                                    shard of the edge
//!  Delivery::post ── Msg::Deliver ─────────────▶ deliveries[number] ── place ──▶ Publish
//!  Settle::tell  ◀── deliveries[number] removed ◀── answer, deadline, end ◀───── Ack
//! ```
//! A delivery is settled exactly once, whatever happens to the edge or the shard. The door is as wide as the inbox of the shard; behind it
//! the limits of any operation hold: what an edge does not read in time is refused, and so is what the memory budget does not allow.

use std::fmt;

use bytes::Bytes;
use frontier_wire::{error::ErrorCode, native::head::CallBuilder};

use crate::core::{Shared, message::Msg, table::SessionRef};

/// The origin of deliveries.
pub const DOOR: SessionRef = SessionRef { shard: u16::MAX - 2, generation: 0, slot: 0 };

/// What a delivery takes beside its head and body, counted in the memory budget until the edge has answered.
pub(in crate::core) const DELIVERY: usize = 256;

/// A message for an edge.
#[derive(Debug)]
pub struct Delivery {
    /// The edge.
    pub edge: u64,
    /// The head of the Publish.
    pub head: Bytes,
    /// All of its body.
    pub body: Bytes,
    /// Microseconds that the edge has for its done.
    pub timeout: u64,
    /// Whoever waits for that.
    pub settle: Settle,
    /// How often it was sent on to another shard.
    pub hops: u8,
}

/// Called once with what became of a delivery; dropped, it says that the shard has ended. It runs on a shard's thread, so it must neither
/// block nor take long.
#[must_use]
pub struct Settle(Option<Tell>);

type Tell = Box<dyn FnOnce(Result<(), ErrorCode>) + Send>;

// === impl Delivery ===

impl Delivery {
    /// A message of a topic, with the application's headers.
    ///
    /// # Errors
    /// When it is longer than any edge would be given; nobody is told then.
    pub fn new<'a>(
        shared: &Shared,
        edge: u64,
        topic: &'a str,
        headers: impl IntoIterator<Item = (&'a str, &'a str)> + Clone,
        body: Bytes,
    ) -> Result<Self, &'static str> {
        let call = CallBuilder::new(topic).edge(edge).headers(headers);
        if call.encoded_len() > usize::from(shared.settings.head) {
            return Err("topic and headers are longer than limits.head");
        }
        if body.len() as u64 > shared.settings.body {
            return Err("body longer than limits.body");
        }
        let mut head = Vec::with_capacity(call.encoded_len());
        call.encode(&mut head);
        Ok(Self { edge, head: head.into(), body, timeout: 0, settle: Settle(None), hops: 0 })
    }

    /// The message that brings it to the shard of its edge, and that shard. `None` if the edge is not here or its shard does not keep
    /// up; that was told then.
    pub fn post(mut self, shared: &Shared, timeout: u64, settle: Settle) -> Option<(u16, Msg)> {
        let Some(target) = shared.registry.edge(self.edge) else {
            settle.tell(Err(ErrorCode::EdgeNotOnline));
            return None;
        };
        if shared.mail(target.shard) >= shared.settings.inbox() {
            settle.tell(Err(ErrorCode::Overloaded));
            return None;
        }
        (self.timeout, self.settle) = (timeout, settle);
        Some((target.shard, Msg::Deliver { target, delivery: Box::new(self) }))
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn held(&self) -> usize {
        DELIVERY + self.head.len() + self.body.len()
    }
}

// === impl Settle ===

impl Settle {
    /// Calls `tell`.
    pub fn new(tell: impl FnOnce(Result<(), ErrorCode>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// Tells.
    pub fn tell(mut self, outcome: Result<(), ErrorCode>) {
        if let Some(tell) = self.0.take() {
            tell(outcome);
        }
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(Err(ErrorCode::SessionClosed));
        }
    }
}

impl fmt::Debug for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settle")
    }
}
