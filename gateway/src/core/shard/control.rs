//! Messages from other shards and from the async world.

use frontier_wire::{error::ErrorCode, native::head::CallHead};

use super::{
    Shard,
    ops::{OpKey, Refused},
    walks::Walk,
};
use crate::core::{
    Bound,
    exchange::{Choice, connection, pick},
    message::{Body, Msg},
    session::Phase,
    stats::OpKind,
    table::SessionRef,
};

/// A kicked peer may come again after so many milliseconds: long enough to be seen gone, short enough to be no ban.
const BACK_AFTER_KICK: u32 = 3_000;

impl Shard {
    /// A message; the two that carry a connection are the driver's and come back.
    pub fn on_msg(&mut self, msg: Msg) -> Option<Msg> {
        match msg {
            Msg::Place { target, place } => self.on_place(target, place),
            Msg::Deliver { target, delivery } => self.on_deliver(target, delivery),
            Msg::Fragment { target, from, from_id, flags, head, body } => {
                self.fragment(target, OpKey::Origin(from, from_id), flags, &head, Body::Shared(body));
            }
            Msg::Cancel { target, from, from_id, code } => {
                self.cancel(target, OpKey::Origin(from, from_id), code)
            }
            Msg::CreditReply { target, from, from_id, bytes } => {
                self.credit_reply(target, OpKey::Origin(from, from_id), bytes);
            }
            Msg::Answer { to, id, kind, flags, head, body, form } => {
                self.answer(to, id, kind, flags, &head, Body::Shared(body), form);
            }
            Msg::Fail { to, id, kind, code, text } => self.answer_error(to, id, kind, code, text),
            Msg::Confirmed { number, outcome, .. } => self.on_confirmed(number, outcome),
            Msg::CreditBody { to, id, bytes } => self.credit_body(to, id, bytes),
            Msg::Rerouted { to, id, target, local } => self.on_rerouted(to, id, target, local),
            Msg::Open { target, open } => self.on_open_leg(target, *open),
            Msg::OpenFailed { to, code, text } => self.refuse(to, code, text),
            Msg::Joined { to, peer } => self.on_joined(to, peer),
            Msg::Leg { to, what } => self.on_leg(to, what),
            Msg::Cut { session, code, text } => self.cut_here(session, code, text),
            Msg::Kick { session } => self.kick(session),
            Msg::Lost { session, edge, epoch } => self.lose(session, edge, epoch),
            Msg::Scan { from, slots, bound, reply } => self.walk(Walk::Scan { from, slots, bound, reply }),
            Msg::List { to, from } => self.walk(Walk::List { to, from }),
            Msg::Listed { to, next, cards } => self.on_listed(to, next, cards),
            Msg::IdService => self.on_id_service(),
            Msg::Drain { edges, spread_ms } => {
                self.start_drain(if edges { Bound::Edge } else { Bound::Service }, spread_ms);
            }
            Msg::Dismiss => self.dismissal = Some(0),
            #[cfg(any(test, feature = "testing"))]
            #[expect(clippy::panic, reason = "that is what a fault point is for")]
            Msg::Fault => panic!("fault point: a message about no session"),
            msg @ (Msg::Adopt(_) | Msg::Connection(_)) => return Some(msg),
        }
        None
    }

    /// The service connection that a stream goes to.
    pub(super) fn route_stream(
        &mut self,
        me: SessionRef,
        call: &CallHead<'_>,
    ) -> Result<SessionRef, Refused> {
        let Some(session) = self.sessions.get(me) else {
            return Err((ErrorCode::SessionClosed, "session closed"));
        };
        if session.service.is_some() {
            return self.shared.registry.edge(call.edge).ok_or((ErrorCode::EdgeNotOnline, "edge not online"));
        }
        let policy = self.shared.settings.policy;
        let key = session.choice_key(policy);
        let choice = Choice { policy, key, random: self.random(), shard: self.id };
        let targets = self.targets(OpKind::Stream, call.name, call.service)?;
        let none = (ErrorCode::ServiceNotOnline, "service not online");
        let instance = pick(&targets, choice, &[]).ok_or(none)?;
        connection(instance, choice).ok_or(none)
    }

    /// The edge has a newer session at another gateway, which has told services of it: this one goes as if that had come here, and
    /// nobody is told that the edge is offline.
    fn lose(&mut self, me: SessionRef, edge: u64, epoch: u64) {
        let card = self.sessions.get(me).filter(|session| session.phase != Phase::Closing);
        let card = card.and_then(|session| session.card.as_ref());
        let Some(card) = card.filter(|card| card.id == edge && card.epoch <= epoch) else { return };
        card.hand_over();
        self.stats.takeovers_elsewhere.add(1);
        self.cut_here(me, ErrorCode::SessionClosed, "replaced by a newer session at another gateway");
    }

    /// An operator wants the session to end. Not `session_closed`, which tells the peer that a newer session has its place and that it
    /// must not come again: this one may.
    fn kick(&mut self, me: SessionRef) {
        const TEXT: &str = "kicked by an operator";
        let Some(session) = self.sessions.get(me) else { return };
        match session.phase {
            Phase::Ready => {
                self.send_go_away(me, BACK_AFTER_KICK, ErrorCode::Cancelled, TEXT);
                self.end(me, TEXT);
            }
            Phase::Admitting => self.reject(me, ErrorCode::Cancelled, TEXT, BACK_AFTER_KICK),
            Phase::New | Phase::Greeting => self.end(me, TEXT),
            Phase::Closing => {}
        }
    }
}
