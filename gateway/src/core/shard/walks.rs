//! Walks over the sessions of a shard: lists for operators, and lists of who is online for services.
//!
//! A fleet is never walked at once: however many want to know how much, a turn looks at [`SLOTS_PER_TURN`] slots and the rest waits
//! for the next. What is found is handed out by reference; whoever wanted it filters, copies and encodes elsewhere.

use std::sync::Arc;

use super::Shard;
use crate::core::{
    Bound,
    api::{EdgeView, Page, ServiceView, View},
    message::{Msg, ScanReply},
    session::{Phase, Session},
    table::SessionRef,
};

/// Slots looked at in a turn by all walks together: some 50 ns each, most of which is waiting for memory.
pub const SLOTS_PER_TURN: u32 = 1_024;

/// Somebody wants to know what is in some slots.
#[derive(Debug)]
pub(super) enum Walk {
    /// The sessions of a role, for operators.
    Scan { from: u32, slots: u32, bound: Bound, reply: ScanReply },
    /// Edges that are online, for the list that a service connection is sent.
    List { to: SessionRef, from: u32 },
    /// Of the edges that came while that list was made, those that are online.
    Late { to: SessionRef },
}

impl Shard {
    /// Puts a walk behind those that wait.
    pub(super) fn walk(&mut self, walk: Walk) {
        self.walks.push_back(walk);
    }

    /// This turn's part of the walks that wait.
    pub(super) fn walk_step(&mut self) {
        let mut left = SLOTS_PER_TURN;
        while left > 0
            && let Some(walk) = self.walks.pop_front()
        {
            let used = match walk {
                Walk::Scan { from, slots, bound, reply } => {
                    let (page, used) = self.scan(from, slots.min(left), bound);
                    (reply.0)(page);
                    used
                }
                Walk::List { to, from } => {
                    let end = from.saturating_add(left).min(self.sessions.slots());
                    let sessions = (from..end).filter_map(|slot| self.sessions.at(slot));
                    let cards = sessions.filter_map(|session| session.card.as_ref());
                    let cards: Vec<_> = cards.filter(|card| card.list()).cloned().collect();
                    let next = (end < self.sessions.slots()).then_some(end);
                    if to.shard == self.id {
                        self.on_listed(to, next, cards);
                    } else {
                        self.post(to.shard, Msg::Listed { to, next, cards });
                    }
                    end - from.min(end)
                }
                Walk::Late { to } => {
                    let ids = self.late_ids(to, left as usize);
                    let used = ids.len();
                    let registry = &self.shared.registry;
                    let cards = ids.into_iter().filter_map(|id| registry.card(id)).filter(|card| card.list());
                    let cards: Vec<_> = cards.collect();
                    self.on_listed(to, None, cards);
                    u32::try_from(used).unwrap_or(u32::MAX)
                }
            };
            left = left.saturating_sub(used.max(1));
        }
    }

    fn scan(&self, from: u32, slots: u32, bound: Bound) -> (Page, u32) {
        if bound == Bound::Service {
            let mut rest = self.services.range(from..).copied();
            let looked: Vec<u32> = rest.by_ref().take(slots as usize).collect();
            let views = looked.iter().filter_map(|slot| self.view(*slot, bound)).collect();
            return (Page { views, next: rest.next() }, u32::try_from(looked.len()).unwrap_or(u32::MAX));
        }
        let end = from.saturating_add(slots).min(self.sessions.slots());
        let views = (from..end).filter_map(|slot| self.view(slot, bound)).collect();
        (Page { views, next: (end < self.sessions.slots()).then_some(end) }, end - from.min(end))
    }

    fn view(&self, slot: u32, bound: Bound) -> Option<View> {
        let (me, session) = (self.sessions.handle(slot)?, self.sessions.at(slot)?);
        if session.phase != Phase::Ready || session.bound != bound {
            return None;
        }
        view(me, session)
    }
}

fn view(me: SessionRef, session: &Session) -> Option<View> {
    let since = i64::from(session.since);
    if let Some(side) = &session.service {
        return Some(View::Service(ServiceView {
            session: me,
            id: side.instance.service_id,
            instance: side.instance.key,
            name: Arc::clone(&side.name),
            addr: side.addr,
            since,
            methods: Arc::clone(&side.methods),
            topics: Arc::clone(&side.topics),
        }));
    }
    let card = Arc::clone(session.card.as_ref()?);
    Some(View::Edge(EdgeView { card, since, methods: session.methods.clone() }))
}
