//! Who is in the room, kept right by two sources: events, and lists asked for after every (re)connect of the room.
//!
//! A list is already old when it arrives, so it is merged with what events said meanwhile. An edge's epoch tells which of two sessions
//! is the newer one.

use std::collections::{BTreeMap, HashMap};

use frontier::EdgeId;

use crate::name::Name;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Members {
    here: BTreeMap<EdgeId, Member>,
    /// While a list is on its way: who has gone since it was asked for, with the epoch of the session that ended.
    gone: Option<HashMap<EdgeId, u64>>,
    /// Who was here when it was asked for.
    before: Vec<(EdgeId, u64)>,
}

#[derive(Debug)]
struct Member {
    name: Name,
    epoch: u64,
}

/// What a list changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) came: Vec<(EdgeId, Name)>,
    pub(crate) left: Vec<(EdgeId, Name)>,
}

// === impl Members ===

impl Members {
    /// Somebody wants to come in. True if it is new here, false if it was here and has merely reconnected.
    ///
    /// # Errors
    /// When somebody else has the name.
    pub(crate) fn enter(&mut self, edge: EdgeId, epoch: u64, name: &Name) -> Result<bool, String> {
        if self.here.iter().any(|(id, member)| *id != edge && member.name == *name) {
            return Err(format!("the name {name} is taken"));
        }
        Ok(self.put(edge, epoch, name.clone()))
    }

    /// Somebody has gone; its name if it was here and no newer session of it is.
    pub(crate) fn leave(&mut self, edge: EdgeId, epoch: u64) -> Option<Name> {
        if let Some(gone) = &mut self.gone {
            let newest = gone.entry(edge).or_default();
            *newest = epoch.max(*newest);
        }
        if self.here.get(&edge)?.epoch > epoch {
            return None;
        }
        self.here.remove(&edge).map(|member| member.name)
    }

    /// A list is about to be asked for.
    pub(crate) fn ask(&mut self) {
        self.gone = Some(HashMap::new());
        self.before = self.here.iter().map(|(edge, member)| (*edge, member.epoch)).collect();
    }

    /// The list has come.
    pub(crate) fn listed(&mut self, list: Vec<(EdgeId, u64, Name)>) -> Changes {
        let gone = self.gone.take().unwrap_or_default();
        let mut changes = Changes::default();
        for (edge, epoch) in std::mem::take(&mut self.before) {
            // Who came after the question is not missing in the answer.
            let same = self.here.get(&edge).is_some_and(|member| member.epoch == epoch);
            if same && !list.iter().any(|(id, ..)| *id == edge) {
                changes.left.extend(self.here.remove(&edge).map(|member| (edge, member.name)));
            }
        }
        for (edge, epoch, name) in list {
            if gone.get(&edge).is_some_and(|last| *last >= epoch) {
                continue;
            }
            // Two may have come with one name while nobody watched the door.
            let taken = self.here.iter().any(|(id, member)| *id != edge && member.name == name);
            let name = if taken { name.with_number(edge.get()) } else { name };
            if self.put(edge, epoch, name.clone()) {
                changes.came.push((edge, name));
            }
        }
        changes
    }

    pub(crate) fn name(&self, edge: EdgeId) -> Option<&Name> {
        self.here.get(&edge).map(|member| &member.name)
    }

    pub(crate) fn edges(&self) -> impl Iterator<Item = EdgeId> {
        self.here.keys().copied()
    }

    /// All names, for people.
    pub(crate) fn names(&self) -> String {
        let mut names: Vec<String> = self.here.values().map(|member| member.name.to_string()).collect();
        names.sort();
        if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
    }

    fn put(&mut self, edge: EdgeId, epoch: u64, name: Name) -> bool {
        match self.here.get_mut(&edge) {
            Some(member) => {
                member.epoch = member.epoch.max(epoch);
                false
            }
            None => self.here.insert(edge, Member { name, epoch }).is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn with(members: &[(u64, u64, &str)]) -> Members {
        let mut all = Members::default();
        for (edge, epoch, text) in members {
            all.enter((*edge).into(), *epoch, &name(text)).unwrap();
        }
        all
    }

    #[test]
    fn a_name_belongs_to_one_member_until_it_leaves() {
        let mut members = with(&[(1, 10, "ada")]);
        assert_eq!(members.enter(2.into(), 11, &name("ada")), Err("the name ada is taken".to_owned()));
        assert_eq!(members.enter(1.into(), 12, &name("ada")), Ok(false), "a reconnect is no newcomer");
        assert_eq!(members.leave(1.into(), 10), None, "the older session's end is old news");
        assert_eq!(members.leave(1.into(), 12), Some(name("ada")));
        assert_eq!(members.enter(2.into(), 13, &name("ada")), Ok(true));
    }

    #[test]
    fn a_list_brings_and_takes_what_no_event_told() {
        let mut members = with(&[(1, 10, "ada"), (2, 11, "bob")]);
        members.ask();
        let changes = members.listed(vec![(2.into(), 11, name("bob")), (3.into(), 12, name("cleo"))]);
        assert_eq!(changes.left, [(1.into(), name("ada"))]);
        assert_eq!(changes.came, [(3.into(), name("cleo"))]);
        assert_eq!(members.names(), "bob, cleo");
    }

    #[test]
    fn events_while_a_list_is_on_its_way_win_over_it() {
        let mut members = with(&[(1, 10, "ada")]);
        members.ask();
        members.enter(2.into(), 20, &name("bob")).unwrap();
        members.leave(1.into(), 10);
        let changes = members.listed(vec![(1.into(), 10, name("ada"))]);
        assert_eq!(changes, Changes::default());
        assert_eq!(members.names(), "bob");
    }

    #[test]
    fn of_two_listed_with_one_name_the_second_gets_a_number() {
        let mut members = Members::default();
        members.ask();
        members.listed(vec![(1.into(), 10, name("ada")), (2.into(), 11, name("ada"))]);
        assert_eq!(members.names(), "ada, ada-2");
    }
}
