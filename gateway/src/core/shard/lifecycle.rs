//! Timers, ends and drain.

use std::sync::atomic::Ordering;

use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{FrameHeader, FrameType},
        head::GoAway,
        reader::Frame,
    },
};

use super::{Action, Fault, Shard, log::Because};
use crate::core::{
    Bound,
    dialect::{Dialect, Protocol},
    names::Interner,
    session::{Phase, Session, Stay, Step},
    stats::Refusal,
    table::SessionRef,
    timer::TICK_MICROS,
};

/// A session that has ended gets so long to take its last bytes, in microseconds: a peer cut by takeover is gone within a second.
pub(super) const LAST_BYTES: u64 = 900_000;
/// Sessions told to go away per turn: telling a large fleet must not hold up the others.
const DRAIN_STEP: u32 = 512;
/// The largest holders are looked for so often at most, in microseconds.
const CULL_PERIOD: u64 = 100_000;

/// Where the drain of a shard is.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrainCursor {
    pub(super) next: u32,
    pub(super) bound: Bound,
    pub(super) spread_ms: u32,
}

impl Shard {
    /// Looks at a session at `at` (microseconds) or, if that is sooner, when it had to be looked at anyway.
    pub(super) fn wake_at(&mut self, me: SessionRef, at: u64) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        if at.saturating_add(TICK_MICROS) <= session.wake {
            self.set_timer(me, at);
        }
    }

    /// Looks at a session at `at` (microseconds) and not before.
    fn set_timer(&mut self, me: SessionRef, at: u64) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        if session.wake != u64::MAX {
            self.wheel.remove(session.wake / TICK_MICROS, me.slot);
        }
        session.wake = self.wheel.schedule(self.wheel.tick_of(at), me.slot) * TICK_MICROS;
    }

    /// Whether the next turn is to come at once: sessions wait to be written, or something is done in steps, one of them per turn.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let draining = self.dismissal.is_some() || self.drains.iter().any(Option::is_some);
        !self.dirty.is_empty() || !self.walks.is_empty() || self.awaiting.is_due() || draining
    }

    /// When the shard must be called again at the latest, in microseconds; `None` if nothing is planned.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        if self.has_work() {
            return Some(self.now.micros);
        }
        let cull = self.shared.over_budget().then_some(self.culled + CULL_PERIOD);
        let soon = self.soon.next_due().into_iter().chain(self.departures.next_due());
        let own = cull.into_iter().chain(self.give_way_due()).chain(self.handed.next_due());
        self.wheel.next_due().into_iter().chain(soon).chain(own).min()
    }

    /// The next session that may have something due, for [`Shard::on_timer`]. They come one by one, so that a panic over one of them
    /// takes no timer from the others.
    pub fn next_timer(&mut self) -> Option<SessionRef> {
        loop {
            let Some(slot) = self.wheel.pop(self.now.micros) else {
                return self.soon.expire(self.now.micros);
            };
            // Nobody is on the wheel who is not in the table.
            if let Some(session) = self.sessions.at_mut(slot) {
                session.wake = u64::MAX;
                return self.sessions.handle(slot);
            }
        }
    }

    /// Takes a session out of the table and off the wheel, and what its transport holds out of the books.
    pub(super) fn take_out(&mut self, me: SessionRef) -> Option<Session> {
        let mut session = self.sessions.remove(me)?;
        if session.bound == Bound::Service {
            self.services.remove(&me.slot);
        }
        self.leave_newcomers(session.phase);
        if std::mem::take(&mut session.placed) {
            self.shared.leave_place(session.bound);
        }
        self.stats.geminio_open.sub(u64::from(session.conn.protocol() == Protocol::Geminio));
        self.forget_transport(me);
        if session.wake != u64::MAX {
            self.wheel.remove(session.wake / TICK_MICROS, me.slot);
        }
        Some(session)
    }

    /// What is not about one session: steps of a drain and of walks, what queues have not confirmed in time, who gives way, and the
    /// memory budget.
    pub fn on_tick(&mut self) {
        self.drain_step(Bound::Edge);
        self.drain_step(Bound::Service);
        self.dismiss_step();
        while let Some(me) = self.departures.expire(self.now.micros) {
            self.cut_here(me, ErrorCode::GatewayDraining, "gateway draining");
        }
        self.expire_handed();
        self.walk_step();
        self.ask_step();
        self.give_way();
        if self.shared.over_budget() && self.now.micros >= self.culled + CULL_PERIOD {
            self.cull();
        }
    }

    /// Looks at a session and does what is due.
    pub fn on_timer(&mut self, me: SessionRef) {
        #[cfg(any(test, feature = "testing"))]
        assert!(self.faulty.take_if(|faulty| *faulty == me).is_none(), "fault point: frontier.fault.timer");
        let now = self.now.micros;
        let silence = self.shared.settings.silence();
        let Some(session) = self.sessions.get_mut(me) else { return };
        let ceiling = session.ceiling(&self.shared.settings);
        if session.conn.protocol() == Protocol::Geminio {
            self.protocol_timer(me);
        }
        let Some(session) = self.sessions.get_mut(me) else { return };
        let protocol = match &session.conn {
            Dialect::Native(_) => u64::MAX,
            // What is due sooner than the wheel is accurate has a place of its own.
            Dialect::Geminio(conn) => conn.poll_timeout().max(now + TICK_MICROS),
        };
        let silent = session.conn.protocol() == Protocol::Native && session.last_rx + silence <= now;
        let next = match session.phase {
            Phase::New | Phase::Greeting | Phase::Admitting => self.greeting_timer(me),
            Phase::Closing if session.conn.is_over() => return self.remove(me),
            Phase::Closing => protocol,
            Phase::Ready if silent => {
                self.stats.refusals[Refusal::Timeout as usize].add(1);
                return self.end(me, "heartbeat lost");
            }
            Phase::Ready if session.conn.operation_bytes() > ceiling => {
                self.refused(Refusal::Abuse);
                self.end(me, "does not read what it is answered");
                return self.remove(me);
            }
            Phase::Ready => {
                let heartbeat = if session.conn.protocol() == Protocol::Native {
                    session.last_rx + silence
                } else {
                    protocol
                };
                let stall = self.stall_timer(me);
                let ops = self.expire_ops(me);
                let legs = self.expire_legs(me).min(self.expire_dialogues(me)).min(self.expire_leaving(me));
                if let Some(session) = self.sessions.get_mut(me) {
                    session.tidy();
                }
                heartbeat.min(stall).min(ops).min(legs)
            }
        };
        if next != u64::MAX {
            self.wake_at(me, next);
        }
        self.touch(me);
    }

    fn stall_timer(&mut self, me: SessionRef) -> u64 {
        let Some(session) = self.sessions.get(me) else { return u64::MAX };
        let since = [session.stalled, session.starved].into_iter().filter(|since| *since != 0).min();
        let Some(since) = since else { return u64::MAX };
        let until = since + self.shared.settings.stall;
        if until <= self.now.micros {
            self.refused(Refusal::Abuse);
            self.end(me, "does not drain");
            self.remove(me);
            return u64::MAX;
        }
        until
    }

    fn greeting_timer(&mut self, me: SessionRef) -> u64 {
        let now = self.now.micros;
        let Some(session) = self.sessions.get(me) else { return u64::MAX };
        let Some(greeting) = session.greeting.as_ref() else { return u64::MAX };
        let (deadline, step) = (greeting.deadline, greeting.step);
        let admission = greeting.admission(&self.shared.settings);
        match (session.phase, step) {
            (Phase::Admitting, Step::IdService(until)) if now < until.min(admission) => until.min(admission),
            (Phase::Admitting, Step::IdService(_)) if now < admission => {
                self.without_id_service(me);
                admission
            }
            (Phase::Admitting, _) if now < admission => admission,
            (Phase::Admitting, _) => {
                self.deny(me, ErrorCode::DeadlineExceeded, "no service admitted the edge in time");
                u64::MAX
            }
            _ if now < deadline => deadline,
            _ => {
                self.refused(Refusal::Timeout);
                if let Some(stranger) = self.stranger(me) {
                    self.log_refused(stranger, Because::reason("handshake timed out"));
                }
                self.end(me, "handshake timed out");
                u64::MAX
            }
        }
    }

    /// A session is over: its routes, operations and streams go now, its last bytes as the peer takes them.
    pub(super) fn end(&mut self, me: SessionRef, why: &'static str) {
        self.end_for(me, why, None);
    }

    /// The same; `error` is the rule that the peer broke, if that is why.
    pub(super) fn end_for(&mut self, me: SessionRef, why: &'static str, error: Option<&str>) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        let phase = session.phase;
        if phase == Phase::Closing {
            return;
        }
        session.phase = Phase::Closing;
        // The next one may come in while this one takes its last bytes.
        if std::mem::take(&mut session.placed) {
            self.shared.leave_place(session.bound);
        }
        let left = std::mem::replace(&mut session.stay, Stay::Leaves) == Stay::Leaves;
        let asked = session.greeting.take().and_then(|greeting| greeting.asked);
        let methods = session.methods.take();
        self.leave_newcomers(phase);
        self.interner.release(methods);
        self.account_names();
        if let Some(asked) = asked {
            self.take_back(me, asked);
        }
        self.leave_registry(me);
        self.end_ops(me);
        self.end_legs(me);
        if phase == Phase::Ready {
            self.count_out(me);
            self.log_ended(me, why, error);
        }
        let now = self.now.micros;
        let mut deadline = now + LAST_BYTES;
        let Some(session) = self.sessions.get_mut(me) else { return };
        if let Dialect::Geminio(conn) = &mut session.conn {
            if !left {
                // The end is agreed upon, and a young connection waits for it; `Over` says when.
                drop(conn.disconnect::<&[u8]>(now));
            }
            if !conn.is_over() {
                deadline = conn.poll_timeout();
            }
        }
        if session.conn.wants_write(now) || !session.conn.is_over() {
            // What it was to be woken for sooner is over.
            self.set_timer(me, deadline);
            self.touch(me);
        } else {
            self.remove(me);
        }
    }

    /// A session that was welcomed is none any more.
    fn count_out(&self, me: SessionRef) {
        let Some(session) = self.sessions.get(me) else { return };
        self.stats.sessions[session.bound as usize].sub(1);
        let geminio = session.conn.protocol() == Protocol::Geminio;
        self.stats.geminio[session.bound as usize].sub(u64::from(geminio));
    }

    /// Takes back what the session had announced.
    fn leave_registry(&mut self, me: SessionRef) {
        let registry = &self.shared.registry;
        let Some(session) = self.sessions.get_mut(me) else { return };
        if let Some(side) = &session.service {
            registry.remove_names(me, &side.instance, side.offers());
            registry.leave_pool(me, &side.instance);
        }
        if let Some(card) = session.card.clone()
            && registry.release_edge(card.id, me)
            && card.withdraw()
        {
            self.notify_offline(&card, None);
        }
    }

    /// Forgets a session and lets the driver close its socket.
    pub(super) fn remove(&mut self, me: SessionRef) {
        let Some(session) = self.take_out(me) else { return };
        debug_assert_eq!(session.phase, Phase::Closing);
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.account(session.held as usize, 0);
        self.stats.outbox_bytes.sub(u64::from(session.queued));
        self.actions.push_back(Action::Close(me));
    }

    /// Ends a session of this shard: takeover, kick, drain.
    pub(super) fn cut_here(&mut self, me: SessionRef, code: ErrorCode, text: &'static str) {
        let Some(session) = self.sessions.get(me) else { return };
        match session.phase {
            Phase::Ready => {
                self.send_go_away(me, 0, code, text);
                self.end(me, text);
            }
            Phase::Admitting => self.reject(me, code, text, 0),
            Phase::New | Phase::Greeting => self.end(me, text),
            Phase::Closing => {}
        }
    }

    /// A panic while a session was handled ends that session alone.
    pub fn on_panic(&mut self, me: SessionRef) {
        self.stats.panics.add(1);
        tracing::error!(target: "frontier::session", session = ?me, "panic while a session was handled; the session is closed");
        self.end(me, "internal error");
        if let Some(session) = self.sessions.get_mut(me) {
            session.phase = Phase::Closing;
            self.remove(me);
        }
    }

    /// A panic over something that is about no session: nobody ends for it.
    pub fn on_stray_panic(&self, over: &'static str) {
        self.stats.panics.add(1);
        tracing::error!(over, "panic outside of any session; what it was about may not be complete");
    }

    /// GoAway from a peer: nothing new is sent to it, and it hears when nothing is under way any more ([`release`]). With the reason `gateway_draining` an edge that was told to go says that it has
    /// moved to another gateway, so it is not offline. From any other edge that is no more than a farewell, or everybody could vanish
    /// from the registry and stay connected.
    pub(super) fn on_go_away(&mut self, me: SessionRef, frame: &Frame<&[u8]>) -> Result<(), Fault> {
        self.control_frame(me)?;
        let reason = GoAway::parse(&frame.head)?.reason;
        let moved = reason.is_some_and(|reason| reason.code == ErrorCode::GatewayDraining);
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        let sent_away = std::mem::replace(&mut session.stay, Stay::Leaves) == Stay::SentAway;
        if let Some(card) = session.card.as_ref()
            && moved
            && sent_away
        {
            session.stay = Stay::Moved;
            card.hand_over();
            self.shared.registry.release_edge(card.id, me);
        }
        if session.service.is_some() {
            self.leave_registry(me);
            if let Some(side) = self.sessions.get_mut(me).and_then(|session| session.service.as_mut()) {
                side.methods = Default::default();
                side.topics = Default::default();
                side.name = "".into();
            }
        }
        Ok(())
    }

    // --- drain ---

    pub(super) fn start_drain(&mut self, bound: Bound, spread_ms: u32) {
        self.drains[bound as usize] = Some(DrainCursor { next: 0, bound, spread_ms });
    }

    fn drain_step(&mut self, bound: Bound) {
        let Some(mut drain) = self.drains[bound as usize].take() else { return };
        let end = drain.next.saturating_add(DRAIN_STEP).min(self.sessions.slots());
        for slot in drain.next..end {
            let Some(me) = self.sessions.handle(slot) else { continue };
            let ready = |session: &Session| {
                session.phase == Phase::Ready && session.bound == drain.bound && !session.is_leaving()
            };
            if self.sessions.get(me).is_some_and(ready) {
                let wait = (self.random() % u64::from(drain.spread_ms.max(1))) as u32;
                if self.sessions.get(me).is_some_and(|session| session.conn.protocol() == Protocol::Geminio) {
                    // It cannot be told to wait: all of them come back at once when they are closed at once.
                    self.departures.add(me, self.now.micros + u64::from(wait) * 1_000);
                    continue;
                }
                self.send_go_away(me, wait, ErrorCode::GatewayDraining, "gateway draining");
            }
        }
        drain.next = end;
        if end < self.sessions.slots() {
            self.drains[bound as usize] = Some(drain);
        }
    }

    /// Ends the sessions of some edges that are still here at the end of a drain: services that are here, too, would not hear of it
    /// when everything stops. Whoever has moved finishes what it has, and is not offline.
    fn dismiss_step(&mut self) {
        let Some(next) = self.dismissal else { return };
        let end = next.saturating_add(DRAIN_STEP).min(self.sessions.slots());
        for slot in next..end {
            let stays = |session: &Session| session.bound == Bound::Edge && !session.has_moved();
            if let Some(me) = self.sessions.handle(slot)
                && self.sessions.get(me).is_some_and(stays)
            {
                self.cut_here(me, ErrorCode::GatewayDraining, "gateway draining");
            }
        }
        self.dismissal = (end < self.sessions.slots()).then_some(end);
    }

    // --- memory ---

    /// Cuts the largest holders of this shard until the budget is kept.
    fn cull(&mut self) {
        self.culled = self.now.micros;
        let all = self.shared.held.load(Ordering::Relaxed);
        let slots = 0..self.sessions.slots();
        let held = slots.filter_map(|slot| {
            let (me, session) = (self.sessions.handle(slot)?, self.sessions.at(slot)?);
            let names = session.methods.as_ref().map_or(0, Interner::share);
            let transport = self.transport.get(&me).map_or(0, |held| *held as usize);
            let held = session.held as usize + names + transport;
            (held > 0).then_some((u32::try_from(held).unwrap_or(u32::MAX), slot))
        });
        let mut holders: Vec<(u32, u32)> = held.collect();
        holders.sort_unstable();
        // Every shard gives its share, or each of them would cut for all.
        let own: u64 = holders.iter().map(|(held, _)| u64::from(*held)).sum();
        let excess = all.saturating_sub(self.shared.settings.memory / 10 * 9);
        let mut over = (u128::from(excess) * u128::from(own) / u128::from(all.max(1))) as u64;
        while over > 0
            && let Some((held, slot)) = holders.pop()
        {
            let Some(me) = self.sessions.handle(slot) else { continue };
            over = over.saturating_sub(u64::from(held));
            self.stats.memory_cuts.add(1);
            self.end(me, "memory budget");
            self.remove(me);
        }
    }
}

/// Answers the GoAway of a peer, so that it closes: what was on its way to it when it said so has been answered. Without this, whoever
/// closes because nothing has come yet loses what comes a moment later.
pub(super) fn release(session: &mut Session) {
    let stay = if session.has_moved() { Stay::MovedReleased } else { Stay::Released };
    if let Some(conn) = session.conn.native() {
        session.stay = stay;
        conn.send(FrameHeader::new(FrameType::GoAway, 0), &[], &[]);
    }
}
