//! A bounded number of places for connections, and who gives way when there is none.
//!
//! Whoever waits (for the rest of a handshake, for a next request) may be made to give way to a newcomer, the one that waits longest
//! first, once it had its time. Whoever is being served may not.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// See the module documentation.
#[derive(Debug)]
pub struct Places {
    max: usize,
    /// Who waits for so long may be made to give way.
    grace: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// In the order in which they began to wait.
    waiting: BTreeMap<u64, Waiting>,
    /// Those that are being served.
    busy: usize,
    /// Those made to give way that have not left yet.
    leaving: usize,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    cancel: CancellationToken,
}

/// A place in use; dropping it leaves.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    cancel: CancellationToken,
    at: Mutex<At>,
}

/// What a place is used for.
#[derive(Debug)]
enum At {
    Waiting {
        key: u64,
    },
    /// So many requests are being served.
    Busy {
        requests: usize,
    },
    Leaving,
}

/// A request is being served; dropping it ends that.
#[derive(Debug)]
pub struct Busy(Arc<Place>);

// === impl Places ===

impl Places {
    /// So many places; who waits for longer than `grace` may be made to give way.
    #[must_use]
    pub fn new(max: usize, grace: Duration) -> Self {
        Self { max: max.max(1), grace, inner: Mutex::default() }
    }

    /// Takes a place. If there is none, `cancel` of the one that waits longest is cancelled, if it has had its time; else `None`.
    #[must_use]
    pub fn enter(this: &Arc<Self>, now: Instant, cancel: CancellationToken) -> Option<Place> {
        let mut inner = this.inner.lock();
        if inner.waiting.len() + inner.busy >= this.max {
            // As many as there are places may be on their way out, which bounds all of them even if the threads are stuck.
            if inner.leaving >= this.max {
                return None;
            }
            let oldest = inner.waiting.first_entry()?;
            if now.saturating_duration_since(oldest.get().since) < this.grace {
                return None;
            }
            oldest.remove().cancel.cancel();
            inner.leaving += 1;
        }
        let key = inner.wait(now, cancel.clone());
        Some(Place { places: Arc::clone(this), cancel, at: Mutex::new(At::Waiting { key }) })
    }
}

// === impl Inner ===

impl Inner {
    fn wait(&mut self, since: Instant, cancel: CancellationToken) -> u64 {
        let key = self.next;
        self.next += 1;
        self.waiting.insert(key, Waiting { since, cancel });
        key
    }
}

// === impl Place ===

impl Place {
    /// A request is being served until the value is dropped.
    #[must_use]
    pub fn busy(this: &Arc<Self>) -> Busy {
        let mut at = this.at.lock();
        match &mut *at {
            At::Waiting { key } => {
                let mut inner = this.places.inner.lock();
                *at = if inner.waiting.remove(key).is_some() {
                    inner.busy += 1;
                    At::Busy { requests: 1 }
                } else {
                    At::Leaving
                };
            }
            At::Busy { requests } => *requests += 1,
            At::Leaving => {}
        }
        drop(at);
        Busy(Arc::clone(this))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.places.inner.lock();
        match self.at.get_mut() {
            At::Busy { .. } => inner.busy -= 1,
            At::Waiting { key } => {
                if inner.waiting.remove(key).is_none() {
                    inner.leaving -= 1;
                }
            }
            At::Leaving => inner.leaving -= 1,
        }
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        let mut at = self.0.at.lock();
        if let At::Busy { requests } = &mut *at {
            *requests -= 1;
            if *requests == 0 {
                let mut inner = self.0.places.inner.lock();
                inner.busy -= 1;
                *at = At::Waiting { key: inner.wait(Instant::now(), self.0.cancel.clone()) };
            }
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
    fn the_one_that_waits_longest_gives_way_once_it_had_its_time() {
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
        assert_eq!(places.inner.lock().waiting.len(), 0);
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

    #[test]
    fn who_is_being_served_does_not_give_way_and_waits_anew_afterwards() {
        let places = Arc::new(Places::new(2, Duration::ZERO));
        let now = Instant::now();
        let first = enter(&places, now).unwrap();
        let second = enter(&places, now).unwrap();
        let served = Arc::new(first.0);
        let (one, two) = (Place::busy(&served), Place::busy(&served));
        let third = enter(&places, now).unwrap();
        assert!(second.1.is_cancelled() && !first.1.is_cancelled());
        drop(one);
        assert_eq!(places.inner.lock().busy, 1, "one of its two requests is still being served");
        drop(two);
        let fourth = enter(&places, Instant::now()).unwrap();
        assert!(third.1.is_cancelled() && !first.1.is_cancelled(), "the first waits since just now");
        drop((served, second, third, fourth));
        let inner = places.inner.lock();
        assert_eq!((inner.waiting.len(), inner.busy, inner.leaving), (0, 0, 0));
    }
}
