//! One number for all bytes that peers may make a client hold in bodies that come in fragments.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that may still be promised to peers.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<AtomicUsize>);

/// Bytes taken out of a budget; given back on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<AtomicUsize>,
    bytes: usize,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes `bytes` out, or nothing if there are not so many left.
    pub(crate) fn charge(&self, bytes: usize) -> Option<Charge> {
        // Only the number itself is shared, nothing is published through it.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).ok()?;
        Some(Charge { budget: self.0.clone(), bytes })
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Charge ===

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.fetch_add(self.bytes, Ordering::Relaxed);
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
}
