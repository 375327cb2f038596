//! A queue of the simulation: it keeps what it is given until somebody says what becomes of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use frontier_wire::error::ErrorCode;
use parking_lot::Mutex;

use crate::core::outlet::{Declined, Letter, Outlet, Receipt};

/// What it says when it is full.
pub const FULL: Declined = Declined::Refused(ErrorCode::Overloaded, "queue is full");

/// See the module documentation.
#[derive(Debug, Default)]
pub struct SimQueue {
    state: Mutex<State>,
    held: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    taken: VecDeque<Taken>,
    away: bool,
    full: bool,
}

/// A message that it has taken.
#[derive(Debug)]
pub struct Taken {
    /// The edge that published it.
    pub edge: u64,
    /// Its topic.
    pub topic: String,
    /// The headers that the application gave it.
    pub headers: Vec<(String, String)>,
    /// What stands beside the body.
    pub meta: Vec<u8>,
    /// All of its body.
    pub body: Bytes,
    /// Microseconds that its sender waits.
    pub left: u64,
    receipt: Option<Receipt>,
    held: Arc<AtomicUsize>,
    size: usize,
}

// === impl SimQueue ===

impl SimQueue {
    /// What it was given since the last time, in order.
    pub fn take(&self) -> Vec<Taken> {
        self.state.lock().taken.drain(..).collect()
    }

    /// Its broker goes away or comes back; what it has stays.
    pub fn set_away(&self, away: bool) {
        self.state.lock().away = away;
    }

    /// It takes nothing more, or does again.
    pub fn set_full(&self, full: bool) {
        self.state.lock().full = full;
    }
}

impl Outlet for SimQueue {
    fn offer(&self, letter: Letter<'_>) -> Result<(), Declined> {
        let mut state = self.state.lock();
        if state.away {
            return Err(Declined::Away);
        }
        if state.full {
            return Err(FULL);
        }
        let headers = letter.call.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let size = letter.receipt.held();
        self.held.fetch_add(size, Ordering::Relaxed);
        state.taken.push_back(Taken {
            edge: letter.card.id,
            topic: letter.call.name.to_owned(),
            headers: headers.collect(),
            meta: letter.call.meta.to_vec(),
            body: letter.body,
            left: letter.left,
            receipt: Some(letter.receipt),
            held: Arc::clone(&self.held),
            size,
        });
        Ok(())
    }

    fn is_away(&self) -> bool {
        self.state.lock().away
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

// === impl Taken ===

impl Taken {
    /// What there is to confirm; only once.
    pub(super) fn receipt(&mut self) -> Option<Receipt> {
        self.receipt.take()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.held.fetch_sub(self.size, Ordering::Relaxed);
    }
}
