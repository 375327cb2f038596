//! The places for handshakes that run at once, and who gives way when there is none.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    /// A handshake that runs for so long may be made to give way.
    grace: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// In the order of entry.
    running: BTreeMap<u64, Running>,
    /// Those made to give way that have not left yet.
    leaving: usize,
}

#[derive(Debug)]
struct Running {
    since: Instant,
    cancel: CancellationToken,
}

/// A place in use; dropping it leaves.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    key: u64,
}

// === impl Places ===

impl Places {
    pub(super) fn new(max: usize, grace: Duration) -> Self {
        Self { max: max.max(1), grace, inner: Mutex::default() }
    }

    /// Takes a place. If there is none, the oldest handshake is cancelled, if it has had its time; else `None`.
    pub(super) fn enter(this: &Arc<Self>, now: Instant, cancel: CancellationToken) -> Option<Place> {
        let mut inner = this.inner.lock();
        if inner.running.len() >= this.max {
            // As many as there are places may be on their way out, which bounds all of them even if the threads are stuck.
            if inner.leaving >= this.max {
                return None;
            }
            let oldest = inner.running.first_entry()?;
            if now.saturating_duration_since(oldest.get().since) < this.grace {
                return None;
            }
            oldest.remove().cancel.cancel();
            inner.leaving += 1;
        }
        let key = inner.next;
        inner.next += 1;
        inner.running.insert(key, Running { since: now, cancel });
        Some(Place { places: Arc::clone(this), key })
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.places.inner.lock();
        if inner.running.remove(&self.key).is_none() {
            inner.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    fn enter(places: &Arc<Places>, now: Instant) -> Option<(Place, CancellationToken)> {
        let cancel = CancellationToken::new();
        Places::enter(places, now, cancel.clone()).map(|place| (place, cancel))
    }

    #[test]
    fn a_full_house_refuses_until_somebody_leaves() {
        let places = Arc::new(Places::new(2, GRACE));
        let now = Instant::now();
        let first = enter(&places, now).unwrap();
        let second = enter(&places, now).unwrap();
        assert!(enter(&places, now + GRACE / 2).is_none());
        drop(first);
        let third = enter(&places, now).unwrap();
        assert!(enter(&places, now).is_none());
        assert!(!second.1.is_cancelled() && !third.1.is_cancelled());
    }

    #[test]
    fn the_oldest_gives_way_once_it_had_its_time() {
        let places = Arc::new(Places::new(2, GRACE));
        let now = Instant::now();
        let first = enter(&places, now).unwrap();
        let second = enter(&places, now + GRACE / 2).unwrap();
        let third = enter(&places, now + GRACE).unwrap();
        assert!(first.1.is_cancelled() && !second.1.is_cancelled());
        assert!(enter(&places, now + GRACE).is_none(), "the second still has half of its time");
        drop(first);
        assert!(enter(&places, now + GRACE).is_none(), "the place of the first was taken before it left");
        drop((second, third));
        assert_eq!(places.inner.lock().running.len(), 0);
        assert_eq!(places.inner.lock().leaving, 0);
    }

    #[test]
    fn those_on_their_way_out_are_bounded() {
        let places = Arc::new(Places::new(1, Duration::ZERO));
        let now = Instant::now();
        let stuck = [enter(&places, now).unwrap(), enter(&places, now).unwrap()];
        assert!(enter(&places, now).is_none());
        drop(stuck);
        assert!(enter(&places, now).is_some());
    }
}
