//! What goes out: which sessions have something to write, what of it goes next, and what follows when it was written.

use std::io::IoSlice;

use frontier_wire::yamux::StreamId;

use super::{Shard, WRITE_BUDGET, account};
use crate::core::{dialect::Dialect, session::Phase, stats::Refusal, table::SessionRef};

impl Shard {
    /// The next session with something to send.
    pub fn next_dirty(&mut self) -> Option<SessionRef> {
        while let Some(me) = self.dirty.pop_front() {
            if let Some(session) = self.sessions.get_mut(me) {
                session.dirty = false;
                return Some(me);
            }
        }
        None
    }

    /// Whether sessions wait to be written.
    #[must_use]
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Prepares what a session sends next; false if there is nothing.
    pub fn fill(&mut self, me: SessionRef) -> bool {
        let Some(session) = self.sessions.get_mut(me) else { return false };
        let conn = match &mut session.conn {
            Dialect::Native(conn) => conn,
            Dialect::Geminio(conn) => {
                conn.fill(WRITE_BUDGET, self.now.micros);
                return conn.sending() > 0 && conn.wants_write(self.now.micros);
            }
        };
        if conn.sending() > 0 {
            return true;
        }
        let before = conn.engine().send_window(StreamId::FIRST);
        conn.fill(WRITE_BUDGET);
        let filled = conn.sending();
        // A peer may keep its socket empty and yet take nothing: it has to grant window on the session stream, always.
        let starved = filled < WRITE_BUDGET && conn.has_unsent_operations();
        if !starved {
            session.starved = 0;
        } else if session.starved == 0 || conn.engine().send_window(StreamId::FIRST) < before {
            session.starved = self.now.micros;
            let at = self.now.micros + self.shared.settings.stall;
            self.wake_at(me, at);
        }
        filled > 0
    }

    /// What [`Shard::fill`] prepared, at most `max` slices.
    pub fn slices<'a>(&'a self, me: SessionRef, slices: &mut impl Extend<IoSlice<'a>>, max: usize) {
        if let Some(session) = self.sessions.get(me) {
            session.conn.slices(slices, max);
        }
    }

    /// The transport took `n` bytes; `blocked` if it would take no more now.
    pub fn written(&mut self, me: SessionRef, n: usize, blocked: bool) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        self.stats.bytes_out.add(n as u64);
        let reports = session.conn.written(n);
        session.stalled = match (blocked, n, session.stalled) {
            (false, ..) => 0,
            (true, 0, since) if since != 0 => since,
            (true, ..) => self.now.micros,
        };
        let stalled = session.stalled;
        let now = self.now.micros;
        let more = n > 0 || session.conn.has_more(now);
        let done =
            session.phase == Phase::Closing && !session.conn.wants_write(now) && session.conn.is_over();
        let snapshot = session.service.as_ref().is_some_and(|side| side.snapshot.is_some());
        for (stream, n) in reports {
            self.on_stream_written(me, stream, n);
        }
        if snapshot {
            self.continue_snapshot(me);
        }
        if done {
            return self.remove(me);
        }
        if stalled != 0 {
            self.wake_at(me, stalled + self.shared.settings.stall);
        }
        if more {
            self.touch(me);
        } else if let Some(session) = self.sessions.get_mut(me) {
            // The outbox may be gone with what was noted in it.
            account(&self.shared, &self.stats, session);
        }
    }

    /// The transport can take bytes again.
    pub fn on_writable(&mut self, me: SessionRef) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        if session.stalled != 0 {
            session.stalled = 0;
            self.touch(me);
        }
    }

    /// The transport took bytes that the core had handed over before: the peer is slow, not gone.
    pub fn on_progress(&mut self, me: SessionRef) {
        let now = self.now.micros;
        if let Some(session) = self.sessions.get_mut(me)
            && session.stalled != 0
        {
            session.stalled = now;
        }
    }

    /// The peer closed its side or the connection broke.
    pub fn on_closed(&mut self, me: SessionRef, why: &'static str) {
        let Some(session) = self.sessions.get(me) else { return };
        if session.phase == Phase::Closing {
            self.remove(me);
        } else {
            self.note_early_end(me);
            self.end(me, why);
            self.remove(me);
        }
    }

    /// The peer went away: if it has never said who it is, nothing else will tell of it.
    pub(super) fn note_early_end(&mut self, me: SessionRef) {
        let Some(session) = self.sessions.get(me) else { return };
        if !matches!(session.phase, Phase::New | Phase::Greeting) {
            return;
        }
        self.refused(Refusal::Gone);
        if let Some(stranger) = self.stranger(me) {
            self.log_gone(stranger);
        }
    }
}
