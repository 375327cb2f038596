//! Sessions of a connection beside the first: *dialogues*, as the Go multiplexer calls them, so that nobody confuses them with the
//! gateway's sessions. They carry raw bytes, messages and calls.
//!
//! ```text
//!  peer opens:  Offered ── accept ──▶ Open ─┐         we open:  Waiting ─ Session ─▶ Opening ─ SessionAck ─▶ Open
//!                  └─ refuse: SessionAck and Dismiss in one write, and forgotten
//!  end:  Dismiss out and acknowledged, Dismiss in and acknowledged, in any order. Until then what comes is delivered: older peers
//!        send their Dismiss before the data that was queued.
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;

use super::{
    limits::{Limits, Micros},
    packet::FIRST_SESSION,
    window::{Load, Offer, Window},
};

/// The ID of a dialogue on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialogueId(pub u64);

/// Where a dialogue is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Opened by the peer; the user has not decided. The packet to answer, and the negotiate ID in it.
    Offered { packet: u64, negotiate: u64 },
    /// Opened by us; another one has to be answered first.
    Waiting,
    /// Session was sent in this packet; once nobody waits any more, only to know that the peer is still busy with it.
    Opening { packet: u64, abandoned: bool },
    /// Both ends know it.
    Open,
}

/// One dialogue.
#[derive(Debug)]
pub(super) struct Dialogue {
    pub(super) state: State,
    pub(super) ours: bool,
    /// On whose behalf we opened it.
    pub(super) opener: Option<u64>,
    /// The peer has sent something on it.
    pub(super) heard: bool,
    /// The user has closed it: what still comes is dropped.
    pub(super) closed: bool,
    /// We are to send Dismiss, after what is queued.
    pub(super) ending: bool,
    /// Dismiss was sent.
    pub(super) sent: bool,
    /// And acknowledged.
    pub(super) acked: bool,
    /// The peer's Dismiss came and was acknowledged.
    pub(super) received: bool,
    /// For opening or ending.
    pub(super) deadline: Micros,
    /// Raw bytes handed out and not released.
    pub(super) unreleased: usize,
    /// How many of them had come at `marked`. When those are released, all that is left is marked anew: so the time since then never
    /// exceeds how long the oldest has been waiting, and reaches it, however slowly they are released.
    marked: usize,
    /// See `marked`.
    since: Micros,
    /// Session's JSON while it waits.
    pub(super) offer: Option<Box<[u8]>>,
    pub(super) raw: Option<Box<Raw>>,
}

/// Raw bytes that wait to be sent, and how fast they may go.
#[derive(Debug, Default)]
pub(super) struct Raw {
    /// With each whether to report it once written.
    pieces: VecDeque<(Bytes, bool)>,
    bytes: usize,
    /// In the list of turns.
    pub(super) queued: bool,
    /// When all packets sent so far were due, had they gone one per interval. Ahead of the clock by what was sent at once.
    due: Micros,
}

/// All dialogues of a connection; absent when there is nothing to keep.
#[derive(Debug, Default)]
pub(super) struct Dialogues {
    pub(super) table: HashMap<u64, Dialogue>,
    /// The window of the first session's messages: most peers have no other.
    first: Window,
    /// Those of dialogues, as long as there is something in them.
    windows: HashMap<u64, Window>,
    /// Those with raw bytes to send, in turn.
    pub(super) turns: VecDeque<u64>,
    /// Those in [`State::Waiting`], the oldest first.
    pub(super) waiting: VecDeque<u64>,
    /// The one in [`State::Opening`].
    pub(super) opening: Option<u64>,
    /// Raw bytes that wait to be sent, all together.
    pub(super) raw: usize,
    /// Raw bytes handed out and not released, all together.
    pub(super) unreleased: usize,
}

// === impl Dialogue ===

impl Dialogue {
    pub(super) fn new(state: State, ours: bool, deadline: Micros) -> Self {
        Self {
            state,
            ours,
            opener: None,
            heard: false,
            closed: false,
            ending: false,
            sent: false,
            acked: false,
            received: false,
            deadline,
            unreleased: 0,
            marked: 0,
            since: 0,
            offer: None,
            raw: None,
        }
    }

    /// Whether calls, messages and raw bytes of the peer are taken.
    pub(super) fn takes(&self) -> bool {
        self.state == State::Open && !self.closed
    }

    /// Raw bytes are handed out.
    pub(super) fn hand_out(&mut self, n: usize, now: Micros) {
        if self.unreleased == 0 {
            (self.marked, self.since) = (n, now);
        }
        self.unreleased = self.unreleased.saturating_add(n);
    }

    /// So many of them are released; returns how many there were at most.
    pub(super) fn release(&mut self, n: usize, now: Micros) -> usize {
        let n = n.min(self.unreleased);
        self.unreleased = self.unreleased.saturating_sub(n);
        self.marked = self.marked.saturating_sub(n);
        if self.marked == 0 {
            (self.marked, self.since) = (self.unreleased, now);
        }
        n
    }

    /// When its oldest raw bytes have been held for too long.
    pub(super) fn stalls_at(&self, limits: &Limits) -> Micros {
        if self.unreleased == 0 { Micros::MAX } else { self.since.saturating_add(limits.stall) }
    }

    /// Whether something may still be sent.
    pub(super) fn sends(&self) -> bool {
        self.state == State::Open && !self.ending
    }

    /// Whether both ends are through.
    pub(super) fn is_over(&self) -> bool {
        self.acked && self.received
    }
}

// === impl Raw ===

impl Raw {
    pub(super) fn push(&mut self, bytes: Bytes, report: bool) {
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.pieces.push_back((bytes, report));
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the next packet may go.
    pub(super) fn ready_at(&self, now: Micros, limits: &Limits) -> Micros {
        let ahead = limits.stream_interval.saturating_mul(u64::from(limits.stream_burst.saturating_sub(1)));
        self.due.saturating_sub(ahead).max(now)
    }

    /// The peer has sent something on this session: most likely it has read something, so one more packet may go.
    pub(super) fn heard(&mut self, limits: &Limits) {
        self.due = self.due.saturating_sub(limits.stream_interval);
    }

    /// The pieces of the next packet.
    pub(super) fn take(&mut self, now: Micros, limits: &Limits) -> Vec<(Bytes, bool)> {
        let max = limits.stream_packet;
        self.due = self.due.max(now).saturating_add(limits.stream_interval);
        let mut taken = Vec::new();
        let mut left = max.max(1);
        while let Some((piece, report)) = self.pieces.front_mut() {
            let part = piece.split_to(piece.len().min(left));
            left = left.saturating_sub(part.len());
            self.bytes = self.bytes.saturating_sub(part.len());
            taken.push((part, *report));
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            if left == 0 {
                break;
            }
        }
        taken
    }
}

// === impl Dialogues ===

impl Dialogues {
    /// What is on its way to a session, if anything is.
    pub(super) fn window(&self, session: u64) -> Option<&Window> {
        if session == FIRST_SESSION { Some(&self.first) } else { self.windows.get(&session) }
    }

    pub(super) fn window_mut(&mut self, session: u64) -> Option<&mut Window> {
        if session == FIRST_SESSION { Some(&mut self.first) } else { self.windows.get_mut(&session) }
    }

    /// The same, to put something into it.
    pub(super) fn window_or_new(&mut self, session: u64) -> &mut Window {
        if session == FIRST_SESSION { &mut self.first } else { self.windows.entry(session).or_default() }
    }

    /// What to do with a message of so many bytes to a session. Those that wait on dialogues share one room, as large as that of the first
    /// session.
    pub(super) fn offer(&self, session: u64, sender: u64, len: usize, limits: &Limits) -> Offer {
        let Some(window) = self.window(session) else { return Offer::Send };
        let mut elsewhere = Load::default();
        if session != FIRST_SESSION && !window.is_open(limits) {
            let others = self.windows.iter().filter(|(other, _)| **other != session);
            for (_, other) in others {
                elsewhere.messages = elsewhere.messages.saturating_add(other.load().messages);
                elsewhere.bytes = elsewhere.bytes.saturating_add(other.load().bytes);
            }
        }
        window.offer(sender, len, elsewhere, limits)
    }

    /// Nothing is on its way to a session any more.
    pub(super) fn drop_window(&mut self, session: u64) {
        if session == FIRST_SESSION {
            self.first = Window::default();
        } else {
            self.windows.remove(&session);
        }
    }

    pub(super) fn windows(&self) -> impl Iterator<Item = &Window> {
        std::iter::once(&self.first).chain(self.windows.values())
    }

    /// All of them with their sessions.
    pub(super) fn windows_mut(&mut self) -> impl Iterator<Item = (u64, &mut Window)> {
        let others = self.windows.iter_mut().map(|(session, window)| (*session, window));
        std::iter::once((FIRST_SESSION, &mut self.first)).chain(others)
    }

    /// Forgets a dialogue and everything that waits on it.
    pub(super) fn remove(&mut self, id: u64) -> Option<Dialogue> {
        let dialogue = self.table.remove(&id)?;
        self.windows.remove(&id);
        self.waiting.retain(|waiting| *waiting != id);
        if self.opening == Some(id) {
            self.opening = None;
        }
        self.unreleased = self.unreleased.saturating_sub(dialogue.unreleased);
        if let Some(raw) = &dialogue.raw {
            self.raw = self.raw.saturating_sub(raw.bytes());
            if raw.queued {
                self.turns.retain(|turn| *turn != id);
            }
        }
        Some(dialogue)
    }

    /// The dialogue to be closed for the others' sake, if there is one: the largest of those whose bytes have been held for too long, if
    /// they are at least half of what may be held. Otherwise most of the room is with those that move on, and so is the connection.
    pub(super) fn stalled(&self, limits: &Limits, now: Micros) -> Option<u64> {
        if self.unreleased < limits.unreleased {
            return None;
        }
        let stalled = || self.table.iter().filter(|(_, dialogue)| dialogue.stalls_at(limits) <= now);
        let held = stalled().fold(0_usize, |sum, (_, dialogue)| sum.saturating_add(dialogue.unreleased));
        let largest = stalled().max_by_key(|(id, dialogue)| (dialogue.unreleased, **id));
        largest.filter(|_| held >= limits.unreleased / 2).map(|(id, _)| *id)
    }

    /// Opened by us, known to the peer or about to be, and never heard on.
    pub(super) fn silent(&self) -> usize {
        self.table.values().filter(|dialogue| dialogue.ours && !dialogue.heard).count()
    }

    /// Whether one more may be opened on somebody's behalf that the peer may leave unused: as long as there are places, and nobody takes
    /// more than three quarters of those that others leave.
    pub(super) fn has_place(&self, opener: Option<u64>, places: usize) -> bool {
        let silent = self.silent();
        let unused = self.table.values().filter(|dialogue| dialogue.ours && !dialogue.heard);
        let own = opener.map_or(0, |_| unused.filter(|dialogue| dialogue.opener == opener).count());
        let left = places.saturating_sub(silent.saturating_sub(own));
        silent < places && own.saturating_mul(4) < left.saturating_mul(3)
    }

    /// Opened by this side or the other.
    pub(super) fn count(&self, ours: bool) -> usize {
        self.table.values().filter(|dialogue| dialogue.ours == ours).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty() && self.windows.is_empty() && self.first.is_empty()
    }

    /// Bytes of memory held.
    pub(super) fn held(&self) -> usize {
        let windows = self.windows().fold(0, |sum, window| window.load().bytes.saturating_add(sum));
        let offers = self.waiting.iter().filter_map(|id| self.table.get(id)?.offer.as_ref());
        let offers = offers.fold(0, |sum, offer| offer.len().saturating_add(sum));
        let entry = size_of::<(u64, Dialogue)>().saturating_add(1);
        let table = self.table.capacity().saturating_mul(entry);
        self.raw.saturating_add(windows).saturating_add(offers).saturating_add(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_at_hand_go_into_one_packet_up_to_its_size() {
        let limits = Limits { stream_packet: 20, ..Limits::default() };
        let mut raw = Raw::default();
        for _ in 0..5 {
            raw.push(Bytes::from_static(b"abcdef"), true);
        }
        let len =
            |pieces: Vec<(Bytes, bool)>| pieces.iter().map(|(piece, _)| piece.len()).collect::<Vec<_>>();
        assert_eq!(len(raw.take(0, &limits)), [6, 6, 6, 2]);
        assert_eq!(raw.bytes(), 10);
        assert_eq!(len(raw.take(0, &limits)), [4, 6]);
        assert_eq!(raw.bytes(), 0);
        assert!(raw.take(0, &limits).is_empty());
    }

    #[test]
    fn some_packets_go_at_once_and_then_one_per_interval() {
        let limits =
            Limits { stream_packet: 1, stream_burst: 3, stream_interval: 1_000, ..Limits::default() };
        let mut raw = Raw::default();
        raw.push(Bytes::from(vec![0; 100]), false);
        for _ in 0..3 {
            assert_eq!(raw.ready_at(5_999, &limits), 5_999);
            raw.take(5_999, &limits);
        }
        assert_eq!(raw.ready_at(5_999, &limits), 6_999);
        assert_eq!(raw.ready_at(6_999, &limits), 6_999);
        raw.take(6_999, &limits);
        assert_eq!(raw.ready_at(7_500, &limits), 7_999);
        raw.heard(&limits);
        assert_eq!(raw.ready_at(7_500, &limits), 7_500);
        // What was not used is not saved up.
        for _ in 0..50 {
            raw.heard(&limits);
        }
        for _ in 0..3 {
            assert_eq!(raw.ready_at(8_000, &limits), 8_000);
            raw.take(8_000, &limits);
        }
        assert_eq!(raw.ready_at(8_000, &limits), 9_000);
    }
}
