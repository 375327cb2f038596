//! What the links to one gateway report about themselves, and the one state that comes of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{error::ConnectError, state::State};
use parking_lot::Mutex;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Board {
    links: Mutex<Vec<State>>,
    /// A bit for each link that is connected.
    connected: AtomicU64,
}

// === impl Board ===

impl Board {
    pub(crate) fn new() -> Self {
        Self { links: Mutex::default(), connected: AtomicU64::new(0) }
    }

    /// Another link; returns its index.
    pub(crate) fn add(&self) -> usize {
        let mut links = self.links.lock();
        links.push(State::Connecting);
        links.len() - 1
    }

    /// A link's state has changed.
    pub(crate) fn set(&self, link: usize, state: State) {
        let mut links = self.links.lock();
        let bit = 1_u64 << link.min(63);
        if state.is_connected() {
            self.connected.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.connected.fetch_and(!bit, Ordering::Relaxed);
        }
        if let Some(slot) = links.get_mut(link) {
            *slot = state;
        }
    }

    /// Whether a link is connected.
    pub(crate) fn is_connected(&self, link: usize) -> bool {
        self.connected.load(Ordering::Relaxed) & (1 << link.min(63)) != 0
    }

    /// ID and epoch of a link's session, while it has one.
    pub(crate) fn session(&self, link: usize) -> Option<(u64, u64)> {
        self.links.lock().get(link).and_then(State::session)
    }

    pub(crate) fn current(&self) -> State {
        overall(&self.links.lock()).unwrap_or(State::Connecting)
    }

    /// Which of `links` links shall carry what belongs to `key`: always the same one while the same are connected; one of all, if none is.
    pub(crate) fn choose(&self, key: u64, links: usize) -> usize {
        if links < 2 {
            return 0;
        }
        let connected = self.connected.load(Ordering::Relaxed);
        let weight = |link: usize| mix(key ^ (link as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let connected_ones = (0..links).filter(|link| connected & (1 << link) != 0);
        connected_ones
            .max_by_key(|link| weight(*link))
            .or_else(|| (0..links).max_by_key(|link| weight(*link)))
            .unwrap_or(0)
    }

    /// The gateway is over.
    pub(crate) fn close(&self, reason: &Arc<ConnectError>) {
        let mut links = self.links.lock();
        self.connected.store(0, Ordering::Relaxed);
        for state in links.iter_mut().filter(|state| !state.is_closed()) {
            *state = State::Closed { reason: reason.clone() };
        }
    }
}

/// A gateway is ready if one of its links is, and closed if all are; and so is a client by its gateways. `None` if there are none.
pub(crate) fn overall(links: &[State]) -> Option<State> {
    let rank = |state: &&State| match state {
        State::Ready { .. } => 0,
        State::Draining { .. } => 1,
        State::Reconnecting { .. } => 2,
        State::Connecting => 3,
        State::Closed { .. } => 4,
    };
    links.iter().min_by_key(rank).cloned()
}

/// Spreads the bits of a number (the finisher of splitmix64).
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: State = State::Ready { id: 1, epoch: 1 };

    fn lost() -> State {
        State::Reconnecting { attempt: 1, error: Arc::new(ConnectError::Closed) }
    }

    #[test]
    fn a_client_is_ready_while_one_link_is() {
        let board = Board::new();
        let (one, two) = (board.add(), board.add());
        board.set(one, READY);
        board.set(two, lost());
        assert!(matches!(board.current(), State::Ready { .. }));
        board.set(one, lost());
        assert!(matches!(board.current(), State::Reconnecting { .. }));
    }

    #[test]
    fn a_key_stays_with_its_link_while_that_lives_and_only_its_keys_move() {
        let board = Board::new();
        for _ in 0..4 {
            let link = board.add();
            board.set(link, READY);
        }
        let before: Vec<_> = (0..1_000).map(|key| board.choose(key, 4)).collect();
        for link in 0..4 {
            let share = before.iter().filter(|chosen| **chosen == link).count();
            assert!((150..350).contains(&share), "link {link} has {share} of 1000");
        }
        board.set(2, lost());
        for (key, chosen) in before.iter().enumerate() {
            let now = board.choose(key as u64, 4);
            assert!(now == *chosen || (*chosen == 2 && now != 2), "key {key}: {chosen} → {now}");
        }
    }

    #[test]
    fn with_no_link_connected_a_key_still_has_one_to_wait_for() {
        let board = Board::new();
        board.add();
        board.add();
        assert!(board.choose(5, 2) < 2);
    }
}
