//! Whether a server should be sent traffic, and what works less well than it should.
//!
//! Each part that has to be up holds a [`Guard`] until it is; while any guard is held, the server is not ready. The
//! drain takes one again and keeps it. A [`Degraded`] note does not change readiness: it is for people.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The state of all parts; clones share it.
#[derive(Clone, Debug)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Mutex<Parts>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Parts {
    next: u64,
    waiting: BTreeMap<u64, Cow<'static, str>>,
    degraded: BTreeMap<u64, (Cow<'static, str>, String)>,
}

/// While it lives the server is not ready.
#[derive(Debug)]
#[must_use = "dropping the guard says that the part is up"]
pub struct Guard {
    inner: Arc<Inner>,
    key: u64,
}

/// While it lives the part counts as degraded.
#[derive(Debug)]
#[must_use = "dropping the note says that the part works again"]
pub struct Degraded {
    inner: Arc<Inner>,
    key: u64,
}

/// What a probe is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Parts that are not up; empty = ready.
    pub waiting: Vec<String>,
    /// Parts that work less well, with the reason.
    pub degraded: Vec<(String, String)>,
}

// === impl Readiness ===

impl Default for Readiness {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { parts: Mutex::default(), ready: watch::Sender::new(true) }) }
    }
}

impl Readiness {
    /// A part that is not up yet, or not any more.
    pub fn guard(&self, name: impl Into<Cow<'static, str>>) -> Guard {
        let key = self.inner.change(|parts, key| {
            parts.waiting.insert(key, name.into());
        });
        Guard { inner: Arc::clone(&self.inner), key }
    }

    /// A part that works less well than it should.
    pub fn degraded(&self, name: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Degraded {
        let key = self.inner.change(|parts, key| {
            parts.degraded.insert(key, (name.into(), why.into()));
        });
        Degraded { inner: Arc::clone(&self.inner), key }
    }

    /// Everything, in the order in which it began.
    #[must_use]
    pub fn report(&self) -> Report {
        let parts = self.inner.parts.lock();
        Report {
            waiting: parts.waiting.values().map(|name| name.to_string()).collect(),
            degraded: parts.degraded.values().map(|(name, why)| (name.to_string(), why.clone())).collect(),
        }
    }

    /// Whether no guard is held.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.inner.ready.borrow()
    }

    /// Follows [`Self::is_ready`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.inner.ready.subscribe()
    }
}

// === impl Inner ===

impl Inner {
    /// Changes the parts under a new key, and tells those who follow.
    fn change(&self, change: impl FnOnce(&mut Parts, u64)) -> u64 {
        let mut parts = self.parts.lock();
        let key = parts.next;
        parts.next += 1;
        change(&mut parts, key);
        // Told before the lock is released: otherwise two changes could be told in the wrong order.
        self.ready.send_if_modified(|ready| std::mem::replace(ready, parts.waiting.is_empty()) != *ready);
        key
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let key = self.key;
        self.inner.change(|parts, _| {
            parts.waiting.remove(&key);
        });
    }
}

impl Drop for Degraded {
    fn drop(&mut self) {
        let key = self.key;
        self.inner.change(|parts, _| {
            parts.degraded.remove(&key);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_must_go() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (edges, services) = (readiness.guard("edgebound"), readiness.guard("servicebound"));
        assert_eq!(readiness.report().waiting, ["edgebound", "servicebound"]);
        drop(edges);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report().waiting, ["servicebound"]);
        drop(services);
        assert!(readiness.is_ready());
        assert_eq!(readiness.report(), Report::default());
    }

    #[test]
    fn guards_of_one_name_are_two() {
        let readiness = Readiness::default();
        let (first, second) = (readiness.guard("x"), readiness.guard("x"));
        drop(first);
        assert!(!readiness.is_ready());
        drop(second);
        assert!(readiness.is_ready());
    }

    #[test]
    fn degraded_is_still_ready() {
        let readiness = Readiness::default();
        let note = readiness.degraded("registry", "no answer");
        assert!(readiness.is_ready());
        assert_eq!(readiness.report().degraded, [("registry".to_owned(), "no answer".to_owned())]);
        drop(note);
        assert_eq!(readiness.report(), Report::default());
    }

    #[test]
    fn watchers_are_told_of_changes_only() {
        let readiness = Readiness::default();
        let mut watch = readiness.watch();
        assert!(!watch.has_changed().unwrap());
        let first = readiness.guard("a");
        assert!(watch.has_changed().unwrap() && !*watch.borrow_and_update());
        let second = readiness.guard("b");
        drop(first);
        assert!(!watch.has_changed().unwrap());
        drop(second);
        assert!(watch.has_changed().unwrap() && *watch.borrow_and_update());
    }
}
