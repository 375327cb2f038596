//! Sets of method and topic names. A fleet of one kind of device registers the same methods on every session, so equal sets are one
//! allocation per shard.

use std::sync::Arc;

use hashbrown::HashSet;

/// A sorted set of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NameSet(Box<[Arc<str>]>);

/// The sets in use in a shard.
#[derive(Debug, Default)]
pub struct Interner {
    sets: HashSet<Arc<NameSet>>,
}

// === impl NameSet ===

impl NameSet {
    /// The names in order.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.0
    }

    /// Whether a name is in the set.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.binary_search_by(|probe| (**probe).cmp(name)).is_ok()
    }

    /// This set with some names added and some taken out.
    #[must_use]
    pub fn edited<'a>(
        &self,
        add: impl Iterator<Item = &'a str>,
        remove: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut names = self.0.to_vec();
        for name in remove {
            if let Ok(at) = names.binary_search_by(|probe| (**probe).cmp(name)) {
                names.remove(at);
            }
        }
        for name in add {
            if let Err(at) = names.binary_search_by(|probe| (**probe).cmp(name)) {
                names.insert(at, name.into());
            }
        }
        Self(names.into_boxed_slice())
    }
}

// === impl Interner ===

impl Interner {
    /// The shared copy of a set; `None` for the empty one, which needs no memory at all.
    pub fn intern(&mut self, set: NameSet) -> Option<Arc<NameSet>> {
        if set.0.is_empty() {
            return None;
        }
        if let Some(known) = self.sets.get(&set) {
            return Some(Arc::clone(known));
        }
        let set = Arc::new(set);
        self.sets.insert(Arc::clone(&set));
        Some(set)
    }

    /// Gives a set back; the last user frees it.
    pub fn release(&mut self, set: Option<Arc<NameSet>>) {
        // Ours and the one handed in: nobody else uses it.
        if let Some(set) = set
            && Arc::strong_count(&set) == 2
        {
            self.sets.remove(&set);
        }
    }

    /// Distinct sets in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether no set is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Interner, NameSet};

    #[test]
    fn equal_sets_are_one_and_the_last_user_frees_it() {
        let mut interner = Interner::default();
        let empty = NameSet::default();
        let one = interner.intern(empty.edited(["b", "a"].into_iter(), [].into_iter())).unwrap();
        let two = interner.intern(empty.edited(["a", "b", "a"].into_iter(), [].into_iter())).unwrap();
        assert!(Arc::ptr_eq(&one, &two));
        assert!(one.contains("a") && !one.contains("c"));
        let less = one.edited([].into_iter(), ["a"].into_iter());
        assert_eq!(less.names(), [Arc::from("b")]);
        interner.release(Some(one));
        assert_eq!(interner.len(), 1);
        interner.release(Some(two));
        assert!(interner.is_empty());
        assert!(interner.intern(NameSet::default()).is_none());
    }
}
