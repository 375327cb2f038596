//! Edges that wait for a service that knows their ID to come up (`edgebound.wait_for_id_service`).
//!
//! Nobody looks for it meanwhile: whoever registers `get_edge_id` makes all shards tell those who wait there, a few per turn.

use std::collections::VecDeque;

use super::Shard;
use crate::core::{
    message::Msg,
    session::{Phase, Session, Step},
    table::SessionRef,
};

/// The method by which a service is asked for the ID of an edge.
pub(super) const GET_EDGE_ID: &str = "get_edge_id";
/// Edges that ask in one turn: some microseconds each.
const STEP: usize = 256;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    /// In the order in which they began to wait, those who do not any more among them.
    queue: VecDeque<SessionRef>,
    /// Of those in front so many are to ask.
    asking: usize,
}

// === impl Awaiting ===

impl Awaiting {
    /// Whether somebody is to ask.
    pub(super) const fn is_due(&self) -> bool {
        self.asking > 0
    }

    /// All wait for the same time, so those who do not any more come to the front soon, and are forgotten there.
    fn add(&mut self, session: SessionRef, waits: impl Fn(SessionRef) -> bool) {
        while self.queue.front().is_some_and(|first| !waits(*first)) {
            self.pop();
        }
        self.queue.push_back(session);
    }

    fn pop(&mut self) -> Option<SessionRef> {
        self.asking = self.asking.saturating_sub(1);
        let first = self.queue.pop_front();
        if self.queue.is_empty() {
            // After a burst.
            *self = Self::default();
        }
        first
    }
}

impl Shard {
    /// The edge is to ask when a service comes that knows IDs, or does without when the time is over.
    pub(super) fn await_id_service(&mut self, me: SessionRef, until: u64) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Some(greeting) = session.greeting.as_mut() else { return };
        greeting.step = Step::IdService(until);
        let admission = greeting.admission(&self.shared.settings);
        let sessions = &self.sessions;
        self.awaiting.add(me, |session| sessions.get(session).is_some_and(waits));
        self.wake_at(me, until.min(admission));
    }

    /// A service of this shard offers to tell IDs.
    pub(super) fn announce_id_service(&mut self) {
        if self.shared.settings.wait_for_id_service == 0 {
            return;
        }
        self.on_id_service();
        for shard in (0..self.posts.len()).filter_map(|shard| u16::try_from(shard).ok()) {
            if shard != self.id {
                self.post(shard, Msg::IdService);
            }
        }
    }

    /// A service of any shard does.
    pub(super) fn on_id_service(&mut self) {
        self.awaiting.asking = self.awaiting.queue.len();
    }

    /// Lets some of those ask who waited. Whoever finds that the service has gone again waits anew.
    pub(super) fn ask_step(&mut self) {
        for _ in 0..STEP {
            if !self.awaiting.is_due() {
                return;
            }
            if let Some(me) = self.awaiting.pop()
                && self.sessions.get(me).is_some_and(waits)
            {
                self.ask_id(me);
            }
        }
    }
}

fn waits(session: &Session) -> bool {
    let step = session.greeting.as_ref().map(|greeting| greeting.step);
    session.phase == Phase::Admitting && matches!(step, Some(Step::IdService(_)))
}

#[cfg(test)]
mod tests {
    use super::{Awaiting, SessionRef};

    fn session(slot: u32) -> SessionRef {
        SessionRef { shard: 0, generation: 0, slot }
    }

    #[test]
    fn those_who_wait_no_longer_are_forgotten() {
        let mut awaiting = Awaiting::default();
        for slot in 0..10_000 {
            awaiting.add(session(slot), |other| other.slot + 10 > slot);
            assert!(awaiting.queue.len() <= 10);
        }
    }

    #[test]
    fn those_who_come_while_others_ask_are_not_taken_for_them() {
        let mut awaiting = Awaiting::default();
        for slot in 0..3 {
            awaiting.add(session(slot), |_| true);
        }
        awaiting.asking = 3;
        assert_eq!(awaiting.pop(), Some(session(0)));
        // The second has left, and the first waits again.
        awaiting.add(session(0), |other| other != session(1));
        assert_eq!((awaiting.asking, awaiting.pop()), (1, Some(session(2))));
        assert!(!awaiting.is_due());
        assert_eq!(awaiting.pop(), Some(session(0)));
    }
}
