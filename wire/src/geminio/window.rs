//! Messages towards one session of the peer: those it has not acknowledged, and those that wait for one of them to be.
//!
//! Go peers stop reading everything when 33 messages are unread, so no more than 32 are ever on their way. Further ones wait in a queue
//! per sender, and senders are served in turn: one that publishes much delays others by one message. No sender may have more than half
//! of the room that the others leave, so that there is always some for one that comes next. A slot is freed by the acknowledgement only,
//! not by our timeout, since the message may still be unread.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::{
    limits::{Limits, Micros},
    outbox::Encoded,
};

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Packet IDs, the oldest first.
    unacked: VecDeque<u64>,
    /// When a slot was freed last, or the first one taken.
    since: Micros,
    /// By sender; never empty ones.
    queues: HashMap<u64, Queue>,
    /// Senders with a queue, in turn.
    turns: VecDeque<u64>,
    /// What waits of all senders.
    load: Load,
}

/// What waits of one sender.
#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(u64, Encoded)>,
    bytes: usize,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It may be sent at once.
    Send,
    /// It has to wait.
    Wait,
    /// There is no room to wait either.
    Full,
}

impl Window {
    /// What to do with a message of so many bytes. What waits elsewhere takes of the same room.
    pub(super) fn offer(&self, sender: u64, len: usize, elsewhere: Load, limits: &Limits) -> Offer {
        if self.is_open(limits) {
            return Offer::Send;
        }
        let queue = self.queues.get(&sender);
        let own = queue
            .map_or_else(Load::default, |queue| Load { messages: queue.messages.len(), bytes: queue.bytes });
        let fits = |own: usize, all: usize, elsewhere: usize, more: usize, room: usize| {
            let left = room.saturating_sub(all.saturating_add(elsewhere).saturating_sub(own));
            let first = queue.is_none() && more <= left && more <= room.div_ceil(2);
            first || own.saturating_add(more) <= left / 2
        };
        let messages = fits(own.messages, self.load.messages, elsewhere.messages, 1, limits.waiting);
        let bytes = fits(own.bytes, self.load.bytes, elsewhere.bytes, len, limits.waiting_bytes);
        if messages && bytes { Offer::Wait } else { Offer::Full }
    }

    /// A message is on its way.
    pub(super) fn sent(&mut self, id: u64, now: Micros) {
        if self.unacked.is_empty() {
            self.since = now;
        }
        self.unacked.push_back(id);
    }

    /// A message waits.
    pub(super) fn wait(&mut self, sender: u64, id: u64, packet: Encoded) {
        self.load.messages = self.load.messages.saturating_add(1);
        self.load.bytes = self.load.bytes.saturating_add(packet.len());
        let queue = self.queues.entry(sender).or_default();
        if queue.messages.is_empty() {
            self.turns.push_back(sender);
        }
        queue.bytes = queue.bytes.saturating_add(packet.len());
        queue.messages.push_back((id, packet));
    }

    /// A message was acknowledged; false if it was not on its way.
    pub(super) fn acked(&mut self, id: u64, now: Micros) -> bool {
        let Some(at) = self.unacked.iter().position(|unacked| *unacked == id) else { return false };
        self.unacked.remove(at);
        self.since = now;
        true
    }

    /// The next waiting message, if a slot is free.
    pub(super) fn next(&mut self, limits: &Limits, now: Micros) -> Option<Encoded> {
        if self.unacked.len() >= limits.unacked {
            return None;
        }
        let sender = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&sender)?;
        let (id, packet) = queue.messages.pop_front()?;
        queue.bytes = queue.bytes.saturating_sub(packet.len());
        if queue.messages.is_empty() {
            self.queues.remove(&sender);
        } else {
            self.turns.push_back(sender);
        }
        self.load.messages = self.load.messages.saturating_sub(1);
        self.load.bytes = self.load.bytes.saturating_sub(packet.len());
        self.sent(id, now);
        Some(packet)
    }

    /// Takes back a message that still waits; false if it does not.
    pub(super) fn take_back(&mut self, id: u64) -> bool {
        let found = self.queues.iter().find_map(|(sender, queue)| {
            queue.messages.iter().position(|(waiting, _)| *waiting == id).map(|at| (*sender, at))
        });
        let Some((sender, at)) = found else { return false };
        let Some(queue) = self.queues.get_mut(&sender) else { return false };
        if let Some((_, packet)) = queue.messages.remove(at) {
            queue.bytes = queue.bytes.saturating_sub(packet.len());
            self.load.messages = self.load.messages.saturating_sub(1);
            self.load.bytes = self.load.bytes.saturating_sub(packet.len());
        }
        if queue.messages.is_empty() {
            self.queues.remove(&sender);
            self.turns.retain(|turn| *turn != sender);
        }
        true
    }

    /// When a slot has to be reopened because no acknowledgement comes.
    pub(super) fn reopen_at(&self, limits: &Limits) -> Option<Micros> {
        let stuck = self.load.messages > 0 && self.unacked.len() >= limits.unacked;
        stuck.then(|| self.since.saturating_add(limits.reopen_slot))
    }

    /// Reopens the oldest slot.
    pub(super) fn reopen(&mut self, now: Micros) {
        self.unacked.pop_front();
        self.since = now;
    }

    /// Looks again after the usual time, without reopening a slot.
    pub(super) fn postpone(&mut self, now: Micros) {
        self.since = now;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unacked.is_empty() && self.load.messages == 0
    }

    /// Whether the next message may be sent at once.
    pub(super) fn is_open(&self, limits: &Limits) -> bool {
        self.load.messages == 0 && self.unacked.len() < limits.unacked
    }

    /// What waits.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    pub(super) fn unacked(&self) -> usize {
        self.unacked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geminio::{data::Object, packet::PacketType};

    fn packet(id: u64) -> Encoded {
        Encoded::new(PacketType::Message, id, 1, &Object::default()).unwrap()
    }

    fn limits() -> Limits {
        Limits { unacked: 2, waiting: 6, waiting_bytes: 1_000, ..Limits::default() }
    }

    /// What becomes of a message of this sender; it waits if it has to.
    fn offer(window: &mut Window, sender: u64, id: u64, len: usize, limits: &Limits) -> Offer {
        let offer = window.offer(sender, len, Load::default(), limits);
        match offer {
            Offer::Send => window.sent(id, 0),
            Offer::Wait => window.wait(sender, id, packet(id)),
            Offer::Full => {}
        }
        offer
    }

    #[test]
    fn senders_take_turns() {
        let (mut window, limits) = (Window::default(), limits());
        for id in [1, 2] {
            assert_eq!(offer(&mut window, 7, id, 24, &limits), Offer::Send);
        }
        for (sender, id) in [(7, 3), (7, 4), (7, 6), (8, 5)] {
            assert_eq!(offer(&mut window, sender, id, 24, &limits), Offer::Wait);
        }
        assert!(window.next(&limits, 0).is_none());
        for acked in [2, 1, 3, 5] {
            assert!(window.acked(acked, 0));
            assert!(window.next(&limits, 0).is_some());
        }
        // 3 and 4 are of one sender, 5 of the other: it came between.
        assert_eq!(window.unacked, [4, 6]);
        assert!(!window.acked(5, 0));
        assert_eq!(window.load(), Load::default());
        assert!(window.acked(4, 0) && window.acked(6, 0) && window.is_empty());
    }

    #[test]
    fn waiting_is_bounded_in_bytes() {
        let (mut window, limits) = (Window::default(), limits());
        window.sent(1, 0);
        window.sent(2, 0);
        // Half of the room for the first of anybody, and what that leaves for more.
        assert_eq!(window.offer(7, 501, Load::default(), &limits), Offer::Full);
        assert_eq!(offer(&mut window, 7, 3, 500, &limits), Offer::Wait);
        let own = window.load().bytes;
        assert_eq!(window.offer(7, 501 - own, Load::default(), &limits), Offer::Full);
        assert_eq!(window.offer(7, 500 - own, Load::default(), &limits), Offer::Wait);
        assert_eq!(window.offer(8, 500, Load::default(), &limits), Offer::Wait);
        // What waits elsewhere takes of the same room.
        let elsewhere = Load { messages: 0, bytes: 600 };
        assert_eq!(window.offer(8, 401 - own, elsewhere, &limits), Offer::Full);
        assert_eq!(window.offer(8, 400 - own, elsewhere, &limits), Offer::Wait);
        assert_eq!(window.offer(8, 1, Load { messages: 5, bytes: 0 }, &limits), Offer::Full);
    }

    #[test]
    fn a_loud_sender_leaves_room_for_others() {
        let (mut window, limits) = (Window::default(), limits());
        window.sent(1, 0);
        window.sent(2, 0);
        let mut waits = |sender, tries: u64| {
            let ids = (0..tries).map(|id| sender * 100 + id);
            ids.filter(|id| offer(&mut window, sender, *id, 24, &limits) == Offer::Wait).count()
        };
        // Half of the six places; half of the three left, but one in any case; and so on while there are any.
        assert_eq!([waits(7, 50), waits(8, 50), waits(9, 50), waits(10, 50), waits(11, 50)], [3, 1, 1, 1, 0]);
    }

    #[test]
    fn what_waits_can_be_taken_back() {
        let (mut window, limits) = (Window::default(), limits());
        window.sent(1, 0);
        window.sent(2, 0);
        window.wait(7, 3, packet(3));
        window.wait(8, 4, packet(4));
        assert!(!window.take_back(1));
        assert!(window.take_back(3));
        assert!(!window.take_back(3));
        assert!(window.acked(1, 0));
        assert!(window.next(&limits, 0).is_some());
        assert_eq!(window.unacked, [2, 4]);
        assert_eq!(window.load(), Load::default());
    }

    #[test]
    fn a_slot_is_reopened_only_if_somebody_waits() {
        let (mut window, limits) = (Window::default(), limits());
        window.sent(1, 5);
        window.sent(2, 6);
        assert_eq!(window.reopen_at(&limits), None);
        window.wait(7, 3, packet(3));
        assert_eq!(window.reopen_at(&limits), Some(5 + limits.reopen_slot));
        window.reopen(100);
        assert!(window.next(&limits, 100).is_some());
        assert_eq!(window.unacked, [2, 3]);
        assert_eq!(window.reopen_at(&limits), None);
        window.wait(7, 4, packet(4));
        assert_eq!(window.reopen_at(&limits), Some(100 + limits.reopen_slot));
    }
}
