//! The lines about sessions in the log: one per event, all with the same fields (`docs/configuration.md`).

use std::net::SocketAddr;

use frontier_wire::error::ErrorCode;

use super::Shard;
use crate::core::{
    Bound,
    dialect::Protocol,
    session::{Phase, Session},
    table::SessionRef,
};

/// A connection without a session, or not yet with one.
#[derive(Clone, Copy, Debug)]
pub struct Stranger {
    /// The listener it came in by.
    pub bound: Bound,
    /// What it speaks, once that is known.
    pub protocol: Option<Protocol>,
    /// The ID it was given, if it came so far.
    pub id: Option<u64>,
    /// Where from.
    pub addr: Option<SocketAddr>,
}

/// Why somebody is turned away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Because<'a> {
    pub(super) reason: &'a str,
    /// What the peer is told, if it is told anything.
    pub(super) code: Option<ErrorCode>,
    /// What was wrong with what it sent.
    pub(super) error: Option<&'a str>,
}

// === impl Because ===

impl<'a> Because<'a> {
    pub(super) const fn reason(reason: &'a str) -> Self {
        Self { reason, code: None, error: None }
    }
}

// === impl Shard ===

impl Shard {
    /// Who a session is until it is welcomed.
    pub(super) fn stranger(&self, me: SessionRef) -> Option<Stranger> {
        self.sessions.get(me).map(|session| Stranger {
            bound: session.bound,
            protocol: (session.phase != Phase::New).then(|| session.conn.protocol()),
            id: Some(session.id()).filter(|id| *id != 0),
            addr: session.addr(),
        })
    }

    /// A session was welcomed.
    pub(super) fn log_online(&self, me: SessionRef, epoch: u64) {
        let Some(session) = self.sessions.get(me) else { return };
        tracing::info!(
            target: "frontier::session",
            role = session.bound.name(), id = session.id(), service = service(session), protocol = session.conn.protocol().name(),
            client.addr = session.addr().map(tracing::field::display), epoch,
            "session online"
        );
    }

    /// A session that was welcomed has ended; `error` is the rule that its peer broke.
    pub(super) fn log_ended(&self, me: SessionRef, reason: &str, error: Option<&str>) {
        let Some(session) = self.sessions.get(me) else { return };
        let (role, id, service) = (session.bound.name(), session.id(), service(session));
        let (protocol, addr) = (session.conn.protocol().name(), session.addr().map(tracing::field::display));
        let seconds = (self.now.unix_ms / 1_000).saturating_sub(u64::from(session.since));
        if error.is_some() {
            tracing::warn!(
                target: "frontier::session",
                role, id, service, protocol, client.addr = addr, reason, error, seconds, "session ended"
            );
        } else {
            tracing::info!(
                target: "frontier::session",
                role, id, service, protocol, client.addr = addr, reason, seconds, "session ended"
            );
        }
    }

    /// Somebody was turned away. What peers do must not fill the disk, so there are not as many lines as there may be refusals, which
    /// are counted.
    pub(super) fn log_refused(&mut self, who: Stranger, because: Because<'_>) {
        if !self.may_complain() {
            return;
        }
        let Because { reason, code, error } = because;
        tracing::warn!(
            target: "frontier::session",
            role = who.bound.name(), id = who.id, protocol = who.protocol.map(Protocol::name),
            client.addr = who.addr.map(tracing::field::display), reason, code = code.map(ErrorCode::name), error, "refused"
        );
    }

    /// A connection went away before it had said who it is.
    pub(super) fn log_gone(&mut self, who: Stranger) {
        if self.may_complain() {
            // Not a warning: load balancers that look whether the port is open do the same.
            tracing::info!(
                target: "frontier::session",
                role = who.bound.name(), protocol = who.protocol.map(Protocol::name),
                client.addr = who.addr.map(tracing::field::display), "closed before Hello"
            );
        }
    }

    /// A stream was ended because its reader was so slow that its writer's session stood still. Who the reader is can be said if it is in
    /// the same shard.
    pub(super) fn log_stalled(&mut self, me: SessionRef, reader: Option<SessionRef>) {
        if !self.may_complain() {
            return;
        }
        let Some(session) = self.sessions.get(me) else { return };
        let reader = reader.and_then(|reader| self.sessions.get(reader));
        tracing::warn!(
            target: "frontier::session",
            role = session.bound.name(), id = session.id(), service = service(session), protocol = session.conn.protocol().name(),
            client.addr = session.addr().map(tracing::field::display),
            reader.id = reader.map(Session::id), reader.service = reader.and_then(service),
            "stream ended: its reader held up the writer's session"
        );
    }

    /// A method of a peer was left out, which its protocol has no way to tell it.
    pub(super) fn log_unregistered(&mut self, me: SessionRef, code: ErrorCode, reason: &str) {
        if !self.may_complain() {
            return;
        }
        let Some(session) = self.sessions.get(me) else { return };
        tracing::warn!(
            target: "frontier::session",
            role = session.bound.name(), id = session.id(), service = service(session), protocol = session.conn.protocol().name(),
            client.addr = session.addr().map(tracing::field::display), reason, code = code.name(),
            "method not registered"
        );
    }
}

/// The name of a service; edges have none.
fn service(session: &Session) -> Option<&str> {
    session.service.as_ref().map(|side| &*side.name)
}
