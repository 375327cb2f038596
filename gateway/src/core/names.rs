//! Sets of method and topic names. A fleet of one kind of device registers the same methods on every session, so equal sets are one
//! allocation per shard.

use std::sync::Arc;

use hashbrown::HashSet;

use crate::core::footprint::shared_str;

/// A sorted set of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NameSet {
    names: Vec<Arc<str>>,
    /// Bytes that the names take, without what knows of them.
    bytes: usize,
}

/// The sets in use in a shard.
#[derive(Debug, Default)]
pub struct Interner {
    sets: HashSet<Arc<NameSet>>,
    /// Bytes that the sets take.
    held: usize,
}

// === impl NameSet ===

impl NameSet {
    /// The names in order.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Bytes of memory that the set takes: an entry and a string per name.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.bytes + self.names.len() * size_of::<Arc<str>>()
    }

    /// Whether a name is in the set.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }

    /// Adds a name; says whether it was not there yet.
    pub fn insert(&mut self, name: &str) -> bool {
        let Err(at) = self.place(name) else { return false };
        self.names.insert(at, name.into());
        self.bytes += shared_str(name.len());
        true
    }

    /// Takes a name out; says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Ok(at) = self.place(name) else { return false };
        self.names.remove(at);
        self.bytes -= shared_str(name.len());
        true
    }

    /// Where a name is, or where it belongs.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.names.binary_search_by(|probe| (**probe).cmp(name))
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
        set.names.shrink_to_fit();
        set
    }
}

// === impl Interner ===

impl Interner {
    /// The shared copy of a set; `None` for the empty one, which needs no memory at all.
    pub fn intern(&mut self, set: NameSet) -> Option<Arc<NameSet>> {
        if set.names.is_empty() {
            return None;
        }
        if let Some(known) = self.sets.get(&set) {
            return Some(Arc::clone(known));
        }
        let set = Arc::new(set);
        self.held += kept(&set);
        self.sets.insert(Arc::clone(&set));
        Some(set)
    }

    /// Gives a set back; the last user frees it.
    pub fn release(&mut self, set: Option<Arc<NameSet>>) {
        // Ours and the one handed in: nobody else uses it.
        if let Some(set) = set
            && Arc::strong_count(&set) == 2
            && self.sets.remove(&set)
        {
            self.held -= kept(&set);
        }
    }

    /// What one of the users of a set has of it, in bytes of memory.
    #[must_use]
    pub fn share(set: &Arc<NameSet>) -> usize {
        // All but ours.
        kept(set) / (Arc::strong_count(set) - 1).max(1)
    }

    /// Bytes of memory that all sets take.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
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

/// What a set takes with the counters around it and its place among the others.
fn kept(set: &NameSet) -> usize {
    set.held() + size_of::<NameSet>() + 4 * size_of::<usize>()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Interner, NameSet, kept};

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
        let whole = interner.held();
        assert_eq!((whole, Interner::share(&one)), (kept(&one), kept(&one) / 2), "two names, counted once");
        assert_eq!(one.held(), 2 * (32 + 16));
        interner.release(Some(one));
        assert_eq!((interner.len(), interner.held()), (1, whole));
        interner.release(Some(two));
        assert!(interner.is_empty());
        assert_eq!(interner.held(), 0);
        assert!(interner.intern(NameSet::default()).is_none());
    }
}
