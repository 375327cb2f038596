//! Connections that have not said who they are, the one that waits longest first.
//!
//! They have no place among `limits.sessions` yet, so that silent ones can take none from those who speak. While they are more than
//! `limits.handshakes`, those who had their time give way.

use std::collections::VecDeque;

use super::{Shard, log::Because};
use crate::core::{
    session::{Phase, Session},
    stats::Refusal,
    table::SessionRef,
};

/// So long a connection may take to say Hello before it gives way when there are too many of them, in microseconds: several round
/// trips of a slow network, as for a TLS handshake.
pub(super) const GRACE: u64 = 1_000_000;
/// Connections that give way in one turn.
const STEP: usize = 256;
/// Entries of those who wait no longer are kept up to so many more than there are that do.
const SLACK: usize = 64;

/// See the module documentation. Times in microseconds.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// In the order in which they came, with the time; those who do not wait any more are taken out now and then.
    queue: VecDeque<(SessionRef, u64)>,
    waiting: usize,
}

// === impl Newcomers ===

impl Newcomers {
    /// How many wait.
    pub(super) const fn len(&self) -> usize {
        self.waiting
    }

    fn add(&mut self, session: SessionRef, now: u64) {
        self.waiting += 1;
        self.queue.push_back((session, now));
    }

    fn leave(&mut self) {
        debug_assert!(self.waiting > 0, "somebody left who had not come");
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Forgets those who do not wait any more once there are many of them.
    fn sweep(&mut self, waits: impl Fn(SessionRef) -> bool) {
        if self.queue.len() > 2 * self.waiting + SLACK {
            self.queue.retain(|(session, _)| waits(*session));
            self.queue.shrink_to(2 * self.waiting + SLACK);
        }
    }

    /// The one that waits longest, and since when.
    fn oldest(&mut self, waits: impl Fn(SessionRef) -> bool) -> Option<(SessionRef, u64)> {
        while let Some((session, since)) = self.queue.front().copied() {
            if waits(session) {
                return Some((session, since));
            }
            self.queue.pop_front();
        }
        None
    }
}

impl Shard {
    /// A connection came that has not said who it is.
    pub(super) fn add_newcomer(&mut self, me: SessionRef) {
        self.newcomers.add(me, self.now.micros);
        let sessions = &self.sessions;
        self.newcomers.sweep(|session| sessions.get(session).is_some_and(Session::is_newcomer));
    }

    /// One of them is none any more: it said who it is, or it goes.
    pub(super) fn leave_newcomers(&mut self, before: Phase) {
        if matches!(before, Phase::New | Phase::Greeting) {
            self.newcomers.leave();
        }
    }

    /// More than so many do not wait for long: this shard's part of `limits.handshakes`.
    fn newcomers_share(&self) -> usize {
        (self.shared.settings.newcomers as usize / self.posts.len()).max(1)
    }

    /// When the next of them may have to give way, in microseconds.
    pub(super) fn give_way_due(&self) -> Option<u64> {
        let crowded = self.newcomers.len() > self.newcomers_share();
        self.newcomers.queue.front().filter(|_| crowded).map(|(_, since)| since + GRACE)
    }

    /// Ends those who had their time while there are too many.
    pub(super) fn give_way(&mut self) {
        for _ in 0..STEP {
            if self.newcomers.len() <= self.newcomers_share() {
                return;
            }
            let sessions = &self.sessions;
            let waits = |session| sessions.get(session).is_some_and(Session::is_newcomer);
            let Some((me, since)) = self.newcomers.oldest(waits) else { return };
            if since + GRACE > self.now.micros {
                return;
            }
            self.refused(Refusal::Full);
            let reason = "gave way to newer connections";
            if let Some(stranger) = self.stranger(me) {
                self.log_refused(stranger, Because::reason(reason));
            }
            self.end(me, reason);
        }
    }

    /// Gives a session a place among `limits.sessions`, if there is one.
    pub(super) fn take_place(&mut self, me: SessionRef) -> bool {
        let Some(session) = self.sessions.get_mut(me) else { return false };
        session.placed = session.placed || self.shared.take_place(session.bound);
        session.placed
    }

    /// Gives a session a place that somebody else is about to leave.
    pub(super) fn take_over_place(&mut self, me: SessionRef) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        if !std::mem::replace(&mut session.placed, true) {
            self.shared.take_over_place();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Newcomers, SLACK, SessionRef};

    fn session(slot: u32) -> SessionRef {
        SessionRef { shard: 0, generation: 0, slot }
    }

    #[test]
    fn the_one_that_waits_longest_comes_first() {
        let mut newcomers = Newcomers::default();
        for slot in 0..3 {
            newcomers.add(session(slot), 10 + u64::from(slot));
        }
        newcomers.leave();
        assert_eq!(newcomers.oldest(|other| other != session(0)), Some((session(1), 11)));
        assert_eq!(newcomers.len(), 2);
        assert_eq!(newcomers.oldest(|_| false), None);
    }

    #[test]
    fn those_who_went_on_take_no_memory_for_long() {
        let mut newcomers = Newcomers::default();
        newcomers.add(session(0), 0);
        for slot in 1..10_000 {
            newcomers.add(session(slot), 0);
            newcomers.leave();
            newcomers.sweep(|other| other == session(0));
            assert!(newcomers.queue.len() <= 2 * newcomers.len() + SLACK + 1);
        }
        assert!(newcomers.queue.capacity() < 8 * SLACK, "{}", newcomers.queue.capacity());
        assert_eq!(newcomers.oldest(|other| other == session(0)), Some((session(0), 0)));
    }
}
