//! External message queues as shards see them: something that takes a message at once or says why not, and tells later what came of it.
//!
//! ```text
//!  shard of the edge                                    async world
//!  Publish ── route ── offer(Letter) ─────────────────▶ outlet ── broker
//!      handed[number] = (session, its ID, deadline)          │
//!  Ack ◀── handed[number] removed ◀── Msg::Confirmed ◀── Receipt
//! ```
//! A queue stands among the instances of a topic under a handle of its own (`QUEUES`), so routing, stickiness and competition know
//! nothing of it. Its operations belong to the shard of their sender: nothing about them goes through another shard.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU32},
};

use bytes::Bytes;
use frontier_wire::{error::ErrorCode, native::head::CallHead};
use smallvec::smallvec;

use crate::core::{
    Shared,
    card::EdgeCard,
    exchange::{Instance, Targets},
    message::Msg,
    registry::InstanceRef,
    table::SessionRef,
    topic::TopicPattern,
};

/// The shard of handles that stand for queues.
const QUEUES: u16 = u16::MAX - 1;

/// What a message in a queue takes beside its head and body, counted in the memory budget.
const LETTER: usize = 512;

/// A queue of a broker.
pub trait Outlet: Send + Sync + fmt::Debug {
    /// Takes a message or declines it, without waiting. What was taken is confirmed by [`Receipt::confirm`], once, by its deadline;
    /// messages of one edge and topic are passed on in the order in which they are offered.
    ///
    /// # Errors
    /// Nothing was passed on, and the receipt is void.
    fn offer(&self, letter: Letter<'_>) -> Result<(), Declined>;

    /// Whether it would decline everything, as its broker is away.
    fn is_away(&self) -> bool;

    /// Bytes of messages that it has taken and not confirmed.
    fn held(&self) -> usize;
}

/// A message on its way to a queue.
#[derive(Debug)]
pub struct Letter<'a> {
    /// The edge that published it.
    pub card: &'a Arc<EdgeCard>,
    /// Its topic, and the headers that the application gave it.
    pub call: &'a CallHead<'a>,
    /// All of its body.
    pub body: Bytes,
    /// When it came, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Microseconds until nobody waits for the confirmation any more.
    pub left: u64,
    /// For whoever confirms it.
    pub receipt: Receipt,
}

/// Why a message was not taken, or not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declined {
    /// The broker is away and nothing was sent to it: another receiver may have the message.
    Away,
    /// What its sender is told.
    Refused(ErrorCode, &'static str),
}

/// Goes with a message and comes back with what became of it. As long as it lives, the message counts in the memory budget.
#[derive(Debug)]
pub struct Receipt {
    to: SessionRef,
    number: u64,
    hold: Hold,
}

/// Bytes of the memory budget.
struct Hold {
    shared: Arc<Shared>,
    bytes: usize,
}

/// A queue and what it takes.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Tells it from all queues that this process has had.
    pub number: u32,
    /// The same for the same queue on every gateway, so that gateways agree on the choice among equals.
    pub key: u64,
    /// The queue.
    pub outlet: Arc<dyn Outlet>,
    /// Topics by name; `*` takes what nobody else does.
    pub topics: Vec<String>,
    /// Topics by pattern.
    pub patterns: Vec<TopicPattern>,
}

/// The queues there are.
#[derive(Debug, Default)]
pub struct Outlets {
    outlets: Vec<(SessionRef, Arc<dyn Outlet>)>,
    /// Those that go before come first.
    patterns: Vec<(TopicPattern, Arc<Instance>)>,
}

// === impl SessionRef ===

impl SessionRef {
    /// The handle of a queue.
    #[must_use]
    pub const fn queue(number: u32) -> Self {
        Self { shard: QUEUES, generation: 0, slot: number }
    }

    /// Whether it stands for a queue.
    #[must_use]
    pub const fn is_queue(self) -> bool {
        self.shard == QUEUES
    }

    /// The shard where an operation from somebody is carried out by this target.
    #[must_use]
    pub const fn place_of(self, from: Self) -> u16 {
        if self.is_queue() { from.shard } else { self.shard }
    }
}

// === impl Receipt ===

impl Receipt {
    /// For an operation of a session that its shard knows by a number; the message takes so many bytes.
    pub(in crate::core) fn new(to: SessionRef, number: u64, shared: &Arc<Shared>, bytes: usize) -> Self {
        let bytes = bytes + LETTER;
        shared.account(0, bytes);
        Self { to, number, hold: Hold { shared: Arc::clone(shared), bytes } }
    }

    /// The message that tells the sender's shard what became of it, and that shard.
    #[must_use]
    pub fn confirm(self, outcome: Result<(), Declined>) -> (u16, Msg) {
        (self.to.shard, Msg::Confirmed { to: self.to, number: self.number, outcome })
    }

    /// Bytes of memory that the message counts for.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.hold.bytes
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.account(self.bytes, 0);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.bytes).finish()
    }
}

// === impl Outlets ===

impl Outlets {
    /// Of these queues. `in_flight` is the counter of an instance.
    #[must_use]
    pub fn new(offers: &[Offer], in_flight: impl Fn(u64) -> Arc<AtomicU32>) -> Self {
        let outlets = offers.iter().map(|offer| (offer.handle(), Arc::clone(&offer.outlet))).collect();
        let instances = offers.iter().map(|offer| {
            let instance = Instance {
                key: offer.key,
                service_id: 0,
                conns: smallvec![offer.handle()],
                in_flight: in_flight(offer.key),
            };
            (offer, Arc::new(instance))
        });
        let of_each = instances.flat_map(|(offer, instance)| {
            offer.patterns.iter().map(move |pattern| (pattern.clone(), Arc::clone(&instance)))
        });
        let mut patterns: Vec<_> = of_each.collect();
        patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.literal()));
        Self { outlets, patterns }
    }

    /// The queue of a handle.
    #[must_use]
    pub fn get(&self, handle: SessionRef) -> Option<&Arc<dyn Outlet>> {
        self.outlets.iter().find(|(other, _)| *other == handle).map(|(_, outlet)| outlet)
    }

    /// The queues that take a topic by the patterns that fit it best.
    #[must_use]
    pub fn matching(&self, topic: &str) -> Option<Arc<Targets>> {
        let mut best: Vec<Arc<Instance>> = Vec::new();
        let mut literal = None;
        for (pattern, instance) in &self.patterns {
            if literal.is_some_and(|literal| pattern.literal() < literal) {
                break;
            }
            if pattern.matches(topic) {
                literal = Some(pattern.literal());
                if !best.iter().any(|other| other.key == instance.key) {
                    best.push(Arc::clone(instance));
                }
            }
        }
        (!best.is_empty()).then(|| best.into())
    }
}

// === impl Offer ===

impl Offer {
    /// What it is known by among the targets of a topic.
    #[must_use]
    pub const fn handle(&self) -> SessionRef {
        SessionRef::queue(self.number)
    }

    /// The instance that it is.
    #[must_use]
    pub const fn instance(&self) -> InstanceRef {
        InstanceRef { key: self.key, service_id: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Declined, Letter, Offer, Outlet, Outlets, TopicPattern};

    #[derive(Debug)]
    struct Nowhere;

    impl Outlet for Nowhere {
        fn offer(&self, _: Letter<'_>) -> Result<(), Declined> {
            Err(Declined::Away)
        }

        fn is_away(&self) -> bool {
            true
        }

        fn held(&self) -> usize {
            0
        }
    }

    fn offer(number: u32, patterns: &[&str]) -> Offer {
        let patterns = patterns.iter().map(|text| TopicPattern::parse(text).unwrap()).collect();
        Offer { number, key: number.into(), outlet: Arc::new(Nowhere), topics: Vec::new(), patterns }
    }

    #[test]
    fn the_longest_literal_part_goes_before_and_equals_compete() {
        let offers = [
            offer(1, &["a/#", "#"]),
            offer(2, &["a/b/+", "a/b/#"]),
            offer(3, &["a/b/#"]),
            offer(4, &["+/b/c"]),
        ];
        let outlets = Outlets::new(&offers, |_| Arc::default());
        let keys = |topic: &str| {
            let targets = outlets.matching(topic);
            let mut keys: Vec<u64> = targets.iter().flat_map(|all| all.iter()).map(|one| one.key).collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(keys("a/b/c"), [2, 3], "each once, although two of its patterns fit");
        assert_eq!(keys("a/c"), [1]);
        assert_eq!(keys("x/b/c"), [1, 4], "no literal part at all: equals");
        assert_eq!(keys("x"), [1]);
        assert_eq!(Outlets::new(&offers[1..], |_| Arc::default()).matching("x").map(|all| all.len()), None);
        assert!(outlets.get(offers[3].handle()).is_some());
        assert!(outlets.get(offer(5, &[]).handle()).is_none());
    }
}
