//! Sets of method and topic names. A fleet of one kind of device registers the same methods on every session, so equal sets are one
//! allocation per shard.

use std::sync::Arc;

use hashbrown::HashSet;

/// A sorted set of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NameSet(Vec<Arc<str>>);

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

    /// Adds a name; says whether it was not there yet.
    pub fn insert(&mut self, name: &str) -> bool {
        let place = self.0.binary_search_by(|probe| (**probe).cmp(name));
        place.map_err(|at| self.0.insert(at, name.into())).is_err()
    }

    /// Takes a name out; says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let place = self.0.binary_search_by(|probe| (**probe).cmp(name));
        place.map(|at| self.0.remove(at)).is_ok()
    }

    /// This set with some names added and some taken out.
    #[must_use]
    pub fn edited<'a>(
        &self,
        add: impl Iterator<Item = &'a str>,
        remove: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut set = self.clone();
        for name in remove {
            set.remove(name);
        }
        for name in add {
            set.insert(name);
        }
        // It is kept for long and changes no more.
        set.0.shrink_to_fit();
        set
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
        let mut own = less.clone();
        assert!(own.insert("a") && !own.insert("a") && own == *one, "a change is told from none");
        assert!(own.remove("a") && !own.remove("a") && own == less);
        interner.release(Some(one));
        assert_eq!(interner.len(), 1);
        interner.release(Some(two));
        assert!(interner.is_empty());
        assert!(interner.intern(NameSet::default()).is_none());
    }
}
