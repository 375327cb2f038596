//! One number for all bytes that peers may make a client hold in bodies that come in fragments.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that may still be promised to peers.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    left: Arc<AtomicUsize>,
    /// The budget that this is a part of.
    whole: Option<Arc<AtomicUsize>>,
}

/// Bytes taken out of a budget; given back on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Budget,
    bytes: usize,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)), whole: None }
    }

    /// A budget of its own within this one: who uses it up leaves the rest to others.
    pub(crate) fn part(&self, bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)), whole: Some(self.left.clone()) }
    }

    /// Takes `bytes` out, or nothing if there are not so many left.
    pub(crate) fn charge(&self, bytes: usize) -> Option<Charge> {
        take(&self.left, bytes)?;
        if self.whole.as_ref().is_some_and(|whole| take(whole, bytes).is_none()) {
            self.left.fetch_add(bytes, Ordering::Relaxed);
            return None;
        }
        Some(Charge { budget: self.clone(), bytes })
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

fn take(left: &AtomicUsize, bytes: usize) -> Option<usize> {
    // Only the number itself is shared, nothing is published through it.
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).ok()
}

// === impl Charge ===

impl Drop for Charge {
    fn drop(&mut self) {
        let Budget { left, whole } = &self.budget;
        for left in std::iter::once(left).chain(whole) {
            left.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_comes_back_and_no_more_is_given_than_there_is() {
        let budget = Budget::new(100);
        let first = budget.charge(60).unwrap();
        assert!(budget.charge(41).is_none());
        let second = budget.charge(40).unwrap();
        assert_eq!(budget.left(), 0);
        drop((first, second));
        assert_eq!(budget.left(), 100);
    }

    #[test]
    fn who_uses_up_a_part_leaves_the_rest_and_gets_no_more_than_the_whole_has() {
        let whole = Budget::new(100);
        let (loud, quiet) = (whole.part(60), whole.part(60));
        let first = loud.charge(60).unwrap();
        assert!(loud.charge(1).is_none());
        assert!(quiet.charge(41).is_none());
        assert_eq!(quiet.left(), 60, "what the whole refused is not kept");
        let second = quiet.charge(40).unwrap();
        drop((first, second));
        assert_eq!((whole.left(), loud.left(), quiet.left()), (100, 60, 60));
    }
}
