//! Which changes we hear of are our own.
//!
//! Client tracking with `NOLOOP` leaves out what came over the same connection, but on many versions not what a script did, and all our
//! writes are scripts. So we count: each write of a key announces one echo, which is left out when it comes. An answer that says that
//! nothing was changed takes the announcement back. Redis joins the echoes of what it does within one turn of its loop (much less than a
//! millisecond), so a change by somebody else in the same turn as one of ours to the same key goes unheard; whoever compares everything now and
//! then finds that.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// An echo comes with the answer. One that has not come by then was joined with another one.
const WAIT: Duration = Duration::from_secs(1);
/// Keys that are remembered at most; beyond, our own changes are heard as well, which costs a look and nothing else.
const KEYS: usize = 65_536;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    announced: Mutex<HashMap<String, Announced>>,
}

#[derive(Debug)]
struct Announced {
    count: u32,
    last: Instant,
}

// === impl Echoes ===

impl Echoes {
    /// A write of this key is about to be sent.
    pub(super) fn announce(&self, key: &str) {
        let (mut announced, last) = (self.announced.lock(), Instant::now());
        if let Some(one) = announced.get_mut(key) {
            one.count = if last.duration_since(one.last) > WAIT { 1 } else { one.count.saturating_add(1) };
            one.last = last;
        } else if announced.len() < KEYS {
            announced.insert(key.to_owned(), Announced { count: 1, last });
        }
    }

    /// A write changed nothing, or was not done.
    pub(super) fn take_back(&self, key: &str) {
        self.is_own(key);
    }

    /// Whether a change that is heard was announced.
    pub(super) fn is_own(&self, key: &str) -> bool {
        let mut announced = self.announced.lock();
        let Some(one) = announced.get_mut(key) else { return false };
        let fresh = one.last.elapsed() <= WAIT;
        one.count = one.count.saturating_sub(1);
        if one.count == 0 || !fresh {
            announced.remove(key);
        }
        fresh
    }

    /// Forgets what has not come.
    pub(super) fn tidy(&self) {
        self.announced.lock().retain(|_, one| one.last.elapsed() <= WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_write_has_one_echo() {
        let echoes = Echoes::default();
        assert!(!echoes.is_own("a"));
        echoes.announce("a");
        echoes.announce("a");
        echoes.announce("b");
        assert!(echoes.is_own("a") && echoes.is_own("a") && !echoes.is_own("a"));
        echoes.take_back("b");
        assert!(!echoes.is_own("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_echo_that_does_not_come_hides_nothing_for_long() {
        let echoes = Echoes::default();
        echoes.announce("a");
        echoes.announce("a");
        assert!(echoes.is_own("a"));
        tokio::time::advance(WAIT + Duration::from_millis(1)).await;
        assert!(!echoes.is_own("a"));
        echoes.announce("b");
        tokio::time::advance(WAIT + Duration::from_millis(1)).await;
        echoes.announce("b");
        assert!(echoes.is_own("b") && !echoes.is_own("b"));
        echoes.announce("c");
        tokio::time::advance(WAIT + Duration::from_millis(1)).await;
        echoes.tidy();
        assert!(echoes.announced.lock().is_empty());
    }
}
