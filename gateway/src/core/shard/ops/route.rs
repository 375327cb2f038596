//! Who carries out an operation: the instances that offer it, and one of them by the policy.

use std::sync::Arc;

use frontier_wire::{
    error::ErrorCode,
    native::head::{CallHead, Sender},
};
use smallvec::SmallVec;

use super::{RESERVED, Refused, Route};
use crate::core::{
    exchange::{Choice, Policy, Targets, connection, mix, pick},
    message::{Destination, Form},
    registry::NameKind,
    session::Sticky,
    shard::Shard,
    stats::OpKind,
    table::SessionRef,
};

/// Topics a session remembers the receiver of: what a hash map of 512 places takes, 13 KiB. The receiver of a topic beyond them is
/// computed, so it stays while the instances do, but a new instance takes its share of them.
const STICKY_MAX: usize = 448;
/// The topic that takes what nobody else takes.
const CATCH_ALL: &str = "*";

const SERVICE_GONE: Refused = (ErrorCode::ServiceNotOnline, "service not online");

impl Shard {
    pub(super) fn route(
        &mut self,
        me: SessionRef,
        kind: OpKind,
        call: &CallHead<'_>,
        skip: &[u64],
    ) -> Result<Route, Refused> {
        let Some(session) = self.sessions.get(me) else {
            return Err((ErrorCode::SessionClosed, "session closed"));
        };
        if session.service.is_some() {
            if call.edge == 0 {
                return Err((ErrorCode::InvalidArgument, "a service addresses an edge by its id"));
            }
            let target = self.shared.registry.edge(call.edge);
            let target = target.ok_or((ErrorCode::EdgeNotOnline, "edge not online"))?;
            return Ok(Route { target, instance: 0, in_flight: None });
        }
        if RESERVED.contains(&call.name) && kind == OpKind::Call && !session.may(call.name) {
            return Err((ErrorCode::PermissionDenied, "reserved method"));
        }
        let key = session.choice_key(self.shared.settings.policy);
        let choice =
            Choice { policy: self.shared.settings.policy, key, random: self.random(), shard: self.id };
        let targets = self.targets(kind, call.name, call.service)?;
        if kind == OpKind::Message {
            return self.sticky_route(me, call, &targets, choice, skip);
        }
        self.pick_route(&targets, choice, skip, nobody(kind, call.service))
    }

    /// The instances that may carry out an edge's operation, of a service if one is named.
    pub(in crate::core::shard) fn targets(
        &mut self,
        kind: OpKind,
        name: &str,
        service: &str,
    ) -> Result<Arc<Targets>, Refused> {
        let registry = &self.shared.registry;
        let named = match kind {
            OpKind::Call => self.names.targets(registry, NameKind::Method, name),
            OpKind::Message => self
                .names
                .targets(registry, NameKind::Topic, name)
                .or_else(|| self.names.targets(registry, NameKind::Topic, CATCH_ALL)),
            OpKind::Stream => self.names.targets(registry, NameKind::Service, name),
        };
        let missing = match kind {
            OpKind::Call => (ErrorCode::MethodNotFound, "method not found"),
            OpKind::Message => (ErrorCode::TopicNotOnline, "topic not online"),
            OpKind::Stream => (ErrorCode::ServiceNotOnline, "service not online"),
        };
        if service.is_empty() {
            return named.ok_or(missing);
        }
        let service = self.names.targets(registry, NameKind::Service, service);
        let service = service.ok_or((ErrorCode::ServiceNotOnline, "service not online"))?;
        let named = named.ok_or(missing)?;
        let both = named.iter().filter(|target| service.iter().any(|other| other.key == target.key));
        let both: Arc<Targets> = both.cloned().collect();
        if both.is_empty() { Err(missing) } else { Ok(both) }
    }

    pub(super) fn pick_route(
        &self,
        targets: &Targets,
        choice: Choice,
        skip: &[u64],
        none: Refused,
    ) -> Result<Route, Refused> {
        let instance = pick(targets, choice, skip).ok_or(none)?;
        let target = connection(instance, choice).ok_or(none)?;
        let counted = self.shared.settings.policy == Policy::LeastInFlight;
        let in_flight = counted.then(|| Arc::clone(&instance.in_flight));
        Ok(Route { target, instance: instance.key, in_flight })
    }

    /// The receiver of a sender's topic stays the same while it lives, so that order holds under every policy: it is remembered, or
    /// computed from what does not change.
    pub(super) fn sticky_route(
        &mut self,
        me: SessionRef,
        call: &CallHead<'_>,
        targets: &Arc<Targets>,
        choice: Choice,
        skip: &[u64],
    ) -> Result<Route, Refused> {
        let topic = mix(hash_name(call.name) ^ hash_name(call.service).rotate_left(32));
        let Some(session) = self.sessions.get_mut(me) else {
            return Err((ErrorCode::SessionClosed, "session closed"));
        };
        let id = session.id();
        let ops = session.ops();
        let known = ops.sticky.get(&topic).copied();
        if let Some(known) = known
            && let Some(instance) = targets.iter().find(|instance| instance.conns.contains(&known.target))
            && !skip.contains(&instance.key)
        {
            let counted = choice.policy == Policy::LeastInFlight;
            let in_flight = counted.then(|| Arc::clone(&instance.in_flight));
            return Ok(Route { target: known.target, instance: instance.key, in_flight });
        }
        if known.is_none() && ops.sticky.len() >= STICKY_MAX {
            let version = self.shared.registry.version();
            // Only who is gone makes room, and nobody goes without a change.
            if ops.crowded != Some(version) {
                let living = self.shared.registry.living();
                ops.sticky.retain(|_, sticky| living(sticky.instance));
                ops.crowded = Some(version);
            }
        }
        let fixed = Choice { policy: Policy::EdgeId, key: mix(id ^ topic), ..choice };
        let crowded = ops.crowded.is_some();
        let choice = match choice.policy {
            Policy::Random | Policy::LeastInFlight if crowded => fixed,
            _ => choice,
        };
        let route = self.pick_route(targets, choice, skip, nobody(OpKind::Message, call.service))?;
        if let Some(session) = self.sessions.get_mut(me) {
            let sticky = &mut session.ops().sticky;
            if known.is_some() || sticky.len() < STICKY_MAX {
                sticky.insert(topic, Sticky { instance: route.instance, target: route.target });
            }
        }
        Ok(route)
    }

    /// Who may have an operation instead of a session that is gone.
    pub(in crate::core::shard) fn next_target(
        &mut self,
        failed: SessionRef,
        destination: &Destination,
        sender: Sender,
    ) -> Option<SessionRef> {
        match destination {
            Destination::Edge(id) => self.shared.registry.edge(*id).filter(|next| *next != failed),
            Destination::Name { kind, name, service } => {
                let targets = self.targets(*kind, name, service).ok()?;
                let random = self.random();
                // The same instance for all of an edge's, as if it had been chosen at first.
                let (policy, key) = match (self.shared.settings.policy, sender) {
                    (Policy::EdgeId, Sender::Edge(id)) => (Policy::EdgeId, id),
                    _ => (Policy::Random, random),
                };
                let choice = Choice { policy, key, random, shard: self.id };
                let skip: SmallVec<[u64; 1]> =
                    targets.iter().filter(|t| t.conns.contains(&failed)).map(|t| t.key).collect();
                connection(pick(&targets, choice, &skip)?, choice).filter(|next| *next != failed)
            }
            Destination::Fixed => None,
        }
    }
}

/// What an edge is told when all those have gone that would have had its operation: who has named no service never knew of one, so the
/// method or topic is as good as one that nobody ever offered.
pub(super) const fn nobody(kind: OpKind, service: &str) -> Refused {
    match kind {
        OpKind::Call if service.is_empty() => (ErrorCode::MethodNotFound, "method not found"),
        OpKind::Message if service.is_empty() => (ErrorCode::TopicNotOnline, "topic not online"),
        OpKind::Call | OpKind::Message | OpKind::Stream => SERVICE_GONE,
    }
}

/// The same for an operation that was sent on to another shard.
pub(super) fn nobody_there(destination: &Destination, form: Form) -> Refused {
    match (destination, form) {
        (Destination::Edge(_), _) => (ErrorCode::EdgeNotOnline, "edge not online"),
        (Destination::Name { kind, service, .. }, Form::Plain | Form::Base64) => nobody(*kind, service),
        // Of what the gateway asks services about an edge, edges have always been told this.
        (Destination::Name { .. }, Form::EdgeInfo) | (Destination::Fixed, _) => SERVICE_GONE,
    }
}

/// Where else an operation may go.
pub(in crate::core::shard) fn destination(sender: Sender, kind: OpKind, call: &CallHead<'_>) -> Destination {
    match (sender, kind) {
        (Sender::Service(_), _) => Destination::Edge(call.edge),
        (Sender::Edge(_), kind) => {
            Destination::Name { kind, name: call.name.into(), service: call.service.into() }
        }
    }
}

/// FNV-1a (Fowler, Noll and Vo): names are short. Two names of one sender that collide only share an order.
pub(in crate::core::shard) fn hash_name(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
