//! The longest message that a broker takes, where it does not say so before it refuses one.

use std::sync::Arc;

use parking_lot::Mutex;

/// Learnt from a refusal, and forgotten at the next connection but one: the next is the one that the refusal itself made necessary, and
/// whatever ends that may have been a restart with other settings.
#[derive(Clone)]
pub(crate) struct Limit(Arc<Mutex<Learnt>>);

struct Learnt {
    bytes: usize,
    /// This connection taught it.
    now: bool,
}

// === impl Limit ===

impl Limit {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Learnt { bytes: usize::MAX, now: false })))
    }

    /// Bytes; `usize::MAX` where nothing is known.
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().bytes
    }

    pub(crate) fn learn(&self, bytes: usize) {
        *self.0.lock() = Learnt { bytes, now: true };
    }

    /// A new connection begins.
    pub(crate) fn connected(&self) {
        let mut learnt = self.0.lock();
        if !learnt.now {
            learnt.bytes = usize::MAX;
        }
        learnt.now = false;
    }
}

#[cfg(test)]
mod tests {
    use super::Limit;

    #[test]
    fn a_limit_lasts_for_the_connection_that_follows() {
        let limit = Limit::new();
        limit.connected();
        limit.learn(100);
        limit.connected();
        assert_eq!(limit.bytes(), 100);
        limit.connected();
        assert_eq!(limit.bytes(), usize::MAX);
    }
}
