//! Where edges were the last time, and the turns of those who look for the same edge.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    error::{Error, Result},
    site::Site,
};

/// The gateways of the edges that were turned to lately, in two generations: when the young one is full it becomes the old one, and who is
/// asked for grows young again. What is remembered is a hint, which the gateway itself corrects.
#[derive(Debug)]
pub(super) struct Places {
    young: HashMap<u64, Weak<Site>>,
    old: HashMap<u64, Weak<Site>>,
    /// Of a generation, at most.
    half: usize,
}

/// Who looks for which edge. Bounded by the operations that their callers have under way.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<HashMap<u64, (Arc<Gate>, usize)>>);

/// Those who look for one edge: one after the other, in the order in which they came, so that messages keep theirs.
#[derive(Debug)]
struct Gate {
    turn: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    joined: u64,
    /// Why the last look-up failed, and how many had joined by then: it holds for them.
    failure: Option<(u64, Error)>,
}

/// A place in the row; dropped, it is left.
#[derive(Debug)]
pub(super) struct Waiting {
    gates: Arc<Gates>,
    gate: Arc<Gate>,
    edge: u64,
    /// How many had joined with this one.
    number: u64,
}

/// The right to look for an edge, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
    waiting: Waiting,
}

// === impl Places ===

impl Places {
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    pub(super) fn get(&mut self, edge: u64) -> Option<&Weak<Site>> {
        if let Some(place) = self.old.remove(&edge) {
            self.put(edge, place);
        }
        self.young.get(&edge)
    }

    pub(super) fn put(&mut self, edge: u64, place: Weak<Site>) {
        self.old.remove(&edge);
        if self.young.len() >= self.half && !self.young.contains_key(&edge) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(edge, place);
    }

    pub(super) fn remove_if(&mut self, edge: u64, is: impl Fn(&Weak<Site>) -> bool) {
        for generation in [&mut self.young, &mut self.old] {
            if generation.get(&edge).is_some_and(&is) {
                generation.remove(&edge);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

// === impl Gates ===

impl Gates {
    /// Takes a place behind those who look for this edge.
    pub(super) fn join(self: &Arc<Self>, edge: u64) -> Waiting {
        let mut gates = self.0.lock();
        let (gate, users) = gates.entry(edge).or_insert_with(|| (Arc::new(Gate::new()), 0));
        *users += 1;
        let gate = gate.clone();
        let number = {
            let mut state = gate.state.lock();
            state.joined += 1;
            state.joined
        };
        Waiting { gates: self.clone(), gate, edge, number }
    }

    /// The outcome of `fast`, unless somebody looks for this edge: who comes later must not overtake them. Otherwise a place behind them.
    pub(super) fn pass<T>(
        self: &Arc<Self>,
        edge: u64,
        fast: impl FnOnce() -> Option<T>,
    ) -> Result<T, Waiting> {
        {
            let gates = self.0.lock();
            if !gates.contains_key(&edge)
                && let Some(outcome) = fast()
            {
                return Ok(outcome);
            }
        }
        Err(self.join(edge))
    }
}

// === impl Gate ===

impl Gate {
    fn new() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), state: Mutex::default() }
    }
}

// === impl Waiting ===

impl Waiting {
    pub(super) async fn turn(self, deadline: Instant) -> Result<Turn> {
        let permit = timeout_at(deadline, self.gate.turn.clone().acquire_owned()).await;
        match permit {
            Ok(Ok(permit)) => Ok(Turn { _permit: permit, waiting: self }),
            Ok(Err(_)) | Err(_) => Err(Error::deadline().unsent()),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut gates = self.gates.0.lock();
        if let Some((_, users)) = gates.get_mut(&self.edge) {
            *users -= 1;
            if *users == 0 {
                gates.remove(&self.edge);
            }
        }
    }
}

// === impl Turn ===

impl Turn {
    /// Why a look-up failed that was made after this one had come.
    pub(super) fn failure(&self) -> Option<Error> {
        let state = self.waiting.gate.state.lock();
        state
            .failure
            .as_ref()
            .filter(|(joined, _)| self.waiting.number <= *joined)
            .map(|(_, error)| error.clone())
    }

    /// A look-up has failed, for all who wait now.
    pub(super) fn fail(&self, error: &Error) {
        let mut state = self.waiting.gate.state.lock();
        state.failure = Some((state.joined, error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_places_are_remembered_than_there_is_room_for_and_those_in_use_stay() {
        let mut places = Places::new(100);
        for edge in 0..10_000 {
            places.put(edge, Weak::new());
            assert!(places.get(0).is_some(), "edge 0 is asked for all the time and forgotten after {edge}");
        }
        assert!(places.len() <= 100, "{}", places.len());
        assert!(places.get(9_999).is_some() && places.get(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_holds_for_those_who_waited_and_for_nobody_who_comes_later() {
        let gates = Arc::<Gates>::default();
        let deadline = crate::op::deadline(std::time::Duration::from_secs(1));
        let first = gates.join(7).turn(deadline).await.unwrap();
        let second = gates.join(7);
        first.fail(&Error::application("nowhere"));
        let third = gates.join(7);
        drop(first);
        let second = second.turn(deadline).await.unwrap();
        assert_eq!(second.failure().unwrap().text(), "nowhere");
        drop(second);
        assert!(third.turn(deadline).await.unwrap().failure().is_none());
        assert!(gates.0.lock().is_empty());
    }
}
