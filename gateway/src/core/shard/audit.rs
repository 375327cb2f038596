//! What a shard holds, counted afresh from its sessions: the simulation compares it after every turn with the books that the core keeps
//! as it goes along.

use std::sync::Arc;

use hashbrown::HashSet;

use super::Shard;
use crate::core::{
    Bound,
    delivery::DOOR,
    footprint::shared_str,
    message::{LegRef, NOBODY},
    names::NameSet,
    session::{LegState, Ops, Phase, REGISTERED, Session},
    stats::OpKind,
    table::SessionRef,
    timer::TICK_MICROS,
};

/// Sums over the sessions of a shard.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Sessions in the table.
    pub sessions: usize,
    /// Of those, the ones that have a place among `limits.sessions`.
    pub placed: usize,
    /// Of those, welcomed and not closing: edges, services.
    pub ready: [u64; 2],
    /// Bytes accounted in the memory budget.
    pub held: u64,
    /// Bytes that wait in outboxes.
    pub queued: u64,
    /// User streams.
    pub legs: usize,
    /// Distinct sets of method names.
    pub name_sets: usize,
    /// Rules that are broken.
    pub problems: Vec<String>,
}

/// Operations and streams, for comparing both ends.
#[derive(Clone, Debug, Default)]
pub struct Flights {
    /// (who started it, its ID there, who carries it out).
    pub outgoing: Vec<(SessionRef, u64, SessionRef)>,
    /// (who started it, its ID there, who carries it out).
    pub pending: Vec<(SessionRef, u64, SessionRef)>,
    /// Each leg and its other end.
    pub legs: Vec<(LegRef, Option<LegRef>)>,
    /// The legs that wait for their far end to answer.
    pub waiting: Vec<LegRef>,
}

impl Shard {
    /// Counts, and checks what must hold of each session between two turns.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let mut audit = Audit { name_sets: self.interner.len(), ..Audit::default() };
        let (mut sets, mut names) = (HashSet::new(), 0);
        let (mut timers, mut services, mut newcomers) = (0, 0, 0);
        for slot in 0..self.sessions.slots() {
            let (Some(me), Some(session)) = (self.sessions.handle(slot), self.sessions.at(slot)) else {
                continue;
            };
            audit.sessions += 1;
            audit.placed += usize::from(session.placed);
            newcomers += usize::from(session.is_newcomer());
            audit.held += u64::from(session.held);
            audit.queued += u64::from(session.queued);
            audit.legs += session.legs.as_ref().map_or(0, |legs| legs.len());
            if session.phase == Phase::Ready {
                audit.ready[session.bound as usize] += 1;
            }
            if self.services.contains(&slot) != (session.bound == Bound::Service) {
                audit.problems.push(format!("{me:?} is on the wrong side of the list of services"));
            }
            services += usize::from(session.bound == Bound::Service);
            timers += usize::from(session.wake != u64::MAX);
            if let Some(set) = &session.methods
                && sets.insert(Arc::as_ptr(set))
            {
                names += count_names(set) + size_of::<NameSet>() + 4 * size_of::<usize>();
            }
            self.check(me, session, &mut audit.problems);
        }
        if (names, names) != (self.interner.held(), self.names_held) {
            audit.problems.push(format!("names take {names}, {} are accounted", self.names_held));
        }
        self.check_handed(&mut audit);
        self.check_delivered(&mut audit);
        audit.held += names as u64 + self.transport.values().map(|held| u64::from(*held)).sum::<u64>();
        if self.transport.keys().any(|me| self.sessions.get(*me).is_none()) {
            audit.problems.push("bytes of a transport whose session is gone".to_owned());
        }
        if sets.len() != audit.name_sets {
            audit.problems.push(format!("{} name sets interned, {} in use", audit.name_sets, sets.len()));
        }
        if services != self.services.len() {
            audit.problems.push(format!("{services} services, {} are listed", self.services.len()));
        }
        if timers != self.wheel.len() {
            audit
                .problems
                .push(format!("{timers} sessions have a timer, {} are on the wheel", self.wheel.len()));
        }
        if newcomers != self.newcomers.len() {
            audit.problems.push(format!("{newcomers} newcomers, {} are counted", self.newcomers.len()));
        }
        if audit.sessions != self.len() {
            audit.problems.push(format!("table says {} sessions, has {}", self.len(), audit.sessions));
        }
        audit
    }

    fn check_handed(&self, audit: &mut Audit) {
        let handed = &self.handed;
        if handed.held() != handed.accounted {
            audit.problems.push(format!("{handed:?} takes {} bytes", handed.held()));
        }
        audit.held += handed.accounted as u64;
        for (number, entry) in &handed.entries {
            let ops = self.sessions.get(entry.from).and_then(|session| session.ops.as_ref());
            let outgoing = ops.and_then(|ops| ops.outgoing.get(&entry.from_id));
            if outgoing.is_none_or(|outgoing| (outgoing.target, outgoing.local) != (entry.queue, *number)) {
                audit.problems.push(format!("nobody waits for message {number} of a queue: {entry:?}"));
            }
        }
    }

    /// Every message from the door is one that an edge of this shard is to answer, and the other way round.
    fn check_delivered(&self, audit: &mut Audit) {
        let held: usize = self.delivered.entries.values().map(|entry| entry.held).sum();
        if held != self.delivered.accounted {
            audit
                .problems
                .push(format!("deliveries take {held} bytes, {} are accounted", self.delivered.accounted));
        }
        audit.held += held as u64;
        let sessions = (0..self.sessions.slots()).filter_map(|slot| self.sessions.at(slot));
        let pending =
            sessions.filter_map(|session| session.ops.as_ref()).flat_map(|ops| ops.pending.values());
        let mut waiting: Vec<u64> =
            pending.filter(|pending| pending.from == DOOR).map(|pending| pending.from_id).collect();
        waiting.sort_unstable();
        let mut known: Vec<u64> = self.delivered.entries.keys().copied().collect();
        known.sort_unstable();
        if waiting != known {
            audit.problems.push(format!("edges are to answer deliveries {waiting:?}, known are {known:?}"));
        }
    }

    fn check(&self, me: SessionRef, session: &Session, problems: &mut Vec<String>) {
        let mut rule = |holds: bool, text: &str| {
            if !holds {
                problems.push(format!("{me:?} ({:?}): {text}", session.phase));
            }
        };
        let conn = &session.conn;
        let held = count(session);
        rule(session.held as usize == held, &format!("{} bytes accounted, {held} held", session.held));
        rule(session.queued as usize == conn.outbox_bytes(), "outbox is not what is accounted");
        // What others do to a session is looked at with its timer, a tick later.
        let ceiling = session.ceiling(&self.shared.settings) + (64 << 10);
        rule(conn.operation_bytes() <= ceiling, "outbox above its ceiling");
        let placed = session.phase == Phase::Ready || session.placed && session.phase == Phase::Admitting;
        rule(session.placed == placed, "a place for somebody who has none, or none for somebody who should");
        rule(session.wake != u64::MAX, "nothing will ever look at it again");
        rule(session.wake >= self.now.micros.saturating_sub(1), "its time has passed");
        let waits = session.dirty || session.stalled != 0 || !conn.wants_write(self.now.micros);
        rule(waits || conn.sending() == 0, "bytes are ready to go and nobody writes them");
        let idle = session.phase == Phase::Closing && (session.ops.is_some() || session.legs.is_some());
        rule(!idle, "closing with operations or streams");
        let Some(ops) = session.ops.as_ref() else { return };
        // Each slot of deadlines keeps a few keys that are over.
        let bound = 3 * ops.pending.len() + 64 * (1 + ops.pending.len());
        rule(ops.deadlines.held() <= bound, "deadlines of what is over pile up");
        let messages = ops.outgoing.values().filter(|outgoing| outgoing.kind == OpKind::Message).count();
        rule(ops.messages as usize == messages, "messages in flight are miscounted");
        let settings = &self.shared.settings;
        rule(messages <= settings.messages_in_flight as usize, "too many messages in flight");
        let calls = ops.outgoing.len() - messages;
        rule(calls <= settings.requests_in_flight as usize, "too many requests in flight");
        let foreign = ops.pending.iter().filter(|(_, pending)| pending.from.shard != self.id);
        let indexed =
            foreign.filter(|(local, p)| ops.index.get(&(p.from, p.from_id)) == Some(*local)).count();
        rule(indexed == ops.index.len(), "index of operations from other shards is off");
        let foreign = ops.pending.values().filter(|pending| pending.from.shard != self.id).count();
        rule(indexed == foreign, "an operation from another shard is not in the index");
        // What an edge that took its time to say Hello makes the gateway ask is late from the start.
        let soon = session.wake <= self.now.micros + 2 * TICK_MICROS;
        let overdue = ops.pending.values().any(|pending| pending.deadline + 100_000 < self.now.micros);
        rule(!overdue || soon, "a deadline has passed unnoticed");
    }

    /// Every operation and stream of the shard.
    #[must_use]
    pub fn flights(&self) -> Flights {
        let mut flights = Flights::default();
        let handed = self.handed.entries.values();
        flights.pending.extend(handed.map(|entry| (entry.from, entry.from_id, entry.queue)));
        for slot in 0..self.sessions.slots() {
            let (Some(me), Some(session)) = (self.sessions.handle(slot), self.sessions.at(slot)) else {
                continue;
            };
            if let Some(ops) = session.ops.as_ref() {
                flights.outgoing.extend(ops.outgoing.iter().map(|(id, outgoing)| (me, *id, outgoing.target)));
                // Those the gateway makes itself are not in anybody's list.
                let own = |from: SessionRef| from == NOBODY || from == DOOR;
                let pending = ops.pending.values().filter(|pending| !own(pending.from));
                flights.pending.extend(pending.map(|pending| (pending.from, pending.from_id, me)));
            }
            if let Some(legs) = session.legs.as_ref() {
                for (stream, leg) in legs.iter() {
                    let at = LegRef { session: me, stream };
                    match leg.state {
                        LegState::Open | LegState::Offered(_) => flights.legs.push((at, leg.peer)),
                        LegState::Waiting => flights.waiting.push(at),
                        LegState::Opening(_) | LegState::Refused => {}
                    }
                }
            }
        }
        flights
    }

    /// Whether a session is welcome and has not ended.
    #[must_use]
    pub fn is_ready(&self, me: SessionRef) -> bool {
        self.sessions.get(me).is_some_and(|session| session.phase == Phase::Ready)
    }

    /// Sessions that hold the ID of their edge in the registry.
    #[must_use]
    pub fn holders(&self) -> usize {
        let slots = (0..self.sessions.slots()).filter_map(|slot| self.sessions.handle(slot));
        let holds = |me: &SessionRef| {
            self.sessions.get(*me).is_some_and(|session| {
                let alive = matches!(session.phase, Phase::Admitting | Phase::Ready);
                let card = session.card.as_ref().filter(|_| alive);
                card.is_some_and(|card| self.shared.registry.edge(card.id) == Some(*me))
            })
        };
        slots.filter(holds).count()
    }

    /// Names that the sessions of this shard offer, each as often as a session does.
    #[must_use]
    pub fn offers(&self) -> usize {
        let sessions = (0..self.sessions.slots()).filter_map(|slot| self.sessions.at(slot));
        let sides = sessions.filter(|s| s.phase != Phase::Closing).filter_map(|s| s.service.as_ref());
        let names = |side: &crate::core::session::ServiceSide| {
            side.methods.names().len() + side.topics.names().len() + usize::from(!side.name.is_empty())
        };
        sides.map(|side| names(side)).sum()
    }

    /// Whether a session is in its admission: what services are asked about it is in nobody's list of operations.
    #[must_use]
    pub fn is_admitting(&self, me: SessionRef) -> bool {
        self.sessions.get(me).is_some_and(|session| session.phase == Phase::Admitting)
    }
}

/// What a session holds, counted afresh; what the protocol's own state takes is counted, and compared, by its own tests.
fn count(session: &Session) -> usize {
    let mut held = session.conn.held();
    held += session.card.as_ref().map_or(0, |card| card.count_held());
    if let Some(side) = &session.service {
        let places = (side.methods.names().len() + side.topics.names().len()) * REGISTERED;
        let list = side.snapshot.as_ref().map_or(0, |list| list.held());
        held += count_names(&side.methods) + count_names(&side.topics) + side.name.len() + places + list;
    }
    if let Some(greeting) = &session.greeting {
        held += greeting.first.capacity() + if greeting.hello.is_some() { greeting.hello_held } else { 0 };
    }
    if let Some(ops) = &session.ops {
        let tables = [ops.pending.allocation_size(), ops.index.allocation_size()];
        let more = [ops.outgoing.allocation_size(), ops.sticky.allocation_size()];
        held += size_of::<Ops>() + tables.iter().chain(&more).sum::<usize>() + ops.deadlines.memory();
        held += ops.bodies.as_ref().map_or(0, |bodies| bodies.held());
    }
    if let Some(legs) = &session.legs {
        let reading: usize = legs.iter().map(|(_, leg)| leg.state.held()).sum();
        held += legs.held() - legs.reading + reading;
    }
    held
}

fn count_names(set: &NameSet) -> usize {
    set.names().iter().map(|name| shared_str(name.len()) + size_of::<Arc<str>>()).sum()
}
