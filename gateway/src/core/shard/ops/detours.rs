//! Fragments on their way to a session that was gone when their operation came.
//!
//! ```text
//!  source's shard ── Place, fragments ──▶ shard of the one that is gone ── the same, in order ──▶ shard of the next one
//!        ▲                                 detour: (gone, source, id) → next                             │
//!        └────────────────────────────────── Rerouted ───────────────────────────────────────────────────┘
//! ```
//! A fragment that took another way than those before it could overtake them, so all of one body take the same: a source that is told
//! of the new target sends to it what comes behind the body, and the rest of the body by the detour.

use frontier_wire::{error::ErrorCode, native::frame::Flags};
use hashbrown::HashMap;

use super::{INBOX_FULL, OpKey};
use crate::core::{
    message::{Body, Msg, PlaceOwned},
    shard::Shard,
    stats::OpKind,
    table::SessionRef,
};

/// Detours of operations that are over are forgotten when there are so many, and twice as many the next time.
const SWEEP: usize = 64;

/// See the module documentation.
#[derive(Debug, Default)]
pub(in crate::core::shard) struct Detours {
    /// By the session that is gone, and by source.
    onward: HashMap<(SessionRef, SessionRef, u64), Detour>,
    /// At the source, by its session and operation: the target that was gone.
    by_way_of: HashMap<(SessionRef, u64), SessionRef>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Detour {
    next: SessionRef,
    kind: OpKind,
    deadline: u64,
}

// === impl Detours ===

impl Detours {
    /// The way that the next fragment of an operation takes, if not the straight one; its last one ends that.
    pub(super) fn way(&mut self, me: SessionRef, id: u64, ends: bool) -> Option<SessionRef> {
        if self.by_way_of.is_empty() {
            return None;
        }
        if ends { self.by_way_of.remove(&(me, id)) } else { self.by_way_of.get(&(me, id)).copied() }
    }

    /// The source sends no more fragments of an operation.
    pub(super) fn forget(&mut self, me: SessionRef, id: u64) {
        if !self.by_way_of.is_empty() {
            self.by_way_of.remove(&(me, id));
        }
    }

    /// The source sends the fragments that are still to come of an operation as it sent those before.
    pub(super) fn keep_way(&mut self, me: SessionRef, id: u64, gone: SessionRef) {
        self.by_way_of.insert((me, id), gone);
    }

    /// Fragments of an operation whose target is gone go on to the next.
    pub(super) fn add(&mut self, gone: SessionRef, next: SessionRef, place: &PlaceOwned, now: u64) {
        let detour = Detour { next, kind: place.kind, deadline: place.deadline };
        self.onward.insert((gone, place.from, place.from_id), detour);
        // Most end with the last fragment; of an operation that was answered before, none comes.
        if self.onward.len() > self.sweep_at.max(SWEEP) {
            self.onward.retain(|_, detour| detour.deadline > now);
            self.onward.shrink_to(SWEEP);
            self.sweep_at = 2 * self.onward.len();
        }
    }
}

impl Shard {
    /// Sends a fragment after its operation, which went to another session than `gone`.
    pub(super) fn follow_detour(
        &mut self,
        gone: SessionRef,
        key: OpKey,
        flags: Flags,
        head: &[u8],
        body: Body<'_>,
    ) {
        let OpKey::Origin(from, id) = key else { return };
        let Some(detour) = self.detours.onward.get(&(gone, from, id)).copied() else { return };
        let (next, shard) = (detour.next, detour.next.place_of(from));
        let fits = shard == self.id || flags.abort() || self.has_mail_room(shard);
        if !flags.more() || !fits {
            self.detours.onward.remove(&(gone, from, id));
        }
        if !fits {
            let (code, text) = INBOX_FULL;
            // A queue's own shard hears it by the answer.
            if !next.is_queue() {
                let code = ErrorCode::Overloaded;
                self.post(shard, Msg::Cancel { target: next, from, from_id: id, code });
            }
            return self.answer_error(from, id, detour.kind, code, text);
        }
        if shard == self.id {
            return self.fragment(next, key, flags, head, body);
        }
        let (head, body) = (self.copy(head), self.own(body));
        self.post(shard, Msg::Fragment { target: next, from, from_id: id, flags, head, body });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use frontier_wire::native::head::Sender;

    use super::{Detours, OpKind, PlaceOwned, SWEEP, SessionRef};
    use crate::core::message::{Destination, Form};

    fn session(slot: u32) -> SessionRef {
        SessionRef { shard: 0, generation: 0, slot }
    }

    fn place(from_id: u64, deadline: u64) -> PlaceOwned {
        PlaceOwned {
            from: session(1),
            from_id,
            sender: Sender::Edge(1),
            kind: OpKind::Call,
            more: true,
            head: Bytes::new(),
            body: Bytes::new(),
            form: Form::Plain,
            context: None,
            deadline,
            flow: 0,
            destination: Destination::Fixed,
            hops: 0,
        }
    }

    #[test]
    fn a_way_is_kept_until_the_last_fragment() {
        let mut detours = Detours::default();
        assert_eq!(detours.way(session(1), 7, false), None);
        detours.keep_way(session(1), 7, session(2));
        assert_eq!(detours.way(session(1), 8, false), None);
        assert_eq!(detours.way(session(1), 7, false), Some(session(2)));
        assert_eq!(detours.way(session(1), 7, true), Some(session(2)));
        assert_eq!(detours.way(session(1), 7, true), None);
    }

    #[test]
    fn detours_of_operations_that_are_over_do_not_pile_up() {
        let mut detours = Detours::default();
        for id in 0..10_000 {
            detours.add(session(2), session(3), &place(id, id + 10), id);
            assert!(detours.onward.len() <= SWEEP + 1, "{}", detours.onward.len());
        }
    }
}
