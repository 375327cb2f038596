//! What becomes of a session that did wrong: who is told, what is counted and what is logged.

use std::sync::atomic::Ordering;

use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{FrameHeader, FrameType},
        head::{ErrorRef, GoAway},
    },
};

use super::{Action, Fault, PROTOCOL_ERROR, Shard, Stranger, geminio, log::Because};
use crate::core::{
    dialect::Protocol,
    session::{Phase, Stay},
    stats::Refusal,
    table::SessionRef,
};

impl Shard {
    pub(super) fn refused(&self, why: Refusal) {
        self.stats.refusals[why as usize].add(1);
    }

    pub(super) fn outcome(&mut self, me: SessionRef, outcome: Result<(), Fault>) {
        if let Err(fault) = outcome {
            self.fault(me, fault);
        }
    }

    /// A peer broke the protocol: it is told and cut.
    pub(super) fn fault(&mut self, me: SessionRef, fault: Fault) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        if session.phase == Phase::Closing {
            return;
        }
        let (code, why) = match fault {
            Fault::Flood => (ErrorCode::Overloaded, Refusal::Abuse),
            _ => (ErrorCode::InvalidArgument, Refusal::Malformed),
        };
        let session_is_geminio = session.conn.protocol() == Protocol::Geminio;
        let greeting = matches!(session.phase, Phase::New | Phase::Greeting | Phase::Admitting);
        let text = fault.to_string();
        self.refused(why);
        if greeting && let Some(stranger) = self.stranger(me) {
            let because = Because { reason: PROTOCOL_ERROR, code: Some(code), error: Some(&text) };
            self.log_refused(stranger, because);
        }
        if session_is_geminio {
            // It is told nothing, as in Go: what it sends cannot be relied on any more.
            self.end_for(me, PROTOCOL_ERROR, Some(&text));
            self.remove(me);
        } else if greeting {
            self.turn_away(me, code, &text, 0);
        } else {
            self.send_go_away(me, 0, code, &text);
            self.end_for(me, PROTOCOL_ERROR, Some(&text));
        }
    }

    /// Whether a line about a misbehaving peer may be written: what peers do must not fill the disk. Refusals are counted anyway.
    pub(super) fn may_complain(&mut self) -> bool {
        self.complaints.admit(self.now.micros)
    }

    /// Answers Hello with Reject and closes.
    pub(super) fn reject(&mut self, me: SessionRef, code: ErrorCode, text: &str, retry_after_ms: u32) {
        if let Some(stranger) = self.stranger(me) {
            self.log_refused(stranger, Because { code: Some(code), ..Because::reason(text) });
        }
        self.turn_away(me, code, text, retry_after_ms);
    }

    /// The same without a line in the log.
    pub(super) fn turn_away(&mut self, me: SessionRef, code: ErrorCode, text: &str, retry_after_ms: u32) {
        // Without a session stream there is nothing to say it on, and waiting for one would keep the connection.
        if let Some(session) = self.sessions.get_mut(me)
            && session.conn.has_session_stream()
        {
            let error = ErrorRef { code, text, retry_after_ms };
            let mut head = Vec::with_capacity(error.encoded_len());
            error.encode(&mut head);
            session.conn.send(FrameHeader::new(FrameType::Reject, 0), &head, &[]);
        }
        if let Some(conn) = self.sessions.get_mut(me).and_then(|session| session.conn.geminio()) {
            conn.reject(geminio::text(code, text), self.now.micros);
        }
        self.end(me, "rejected");
    }

    pub(super) fn send_go_away(&mut self, me: SessionRef, reconnect_in_ms: u32, code: ErrorCode, text: &str) {
        if let Some(session) = self.sessions.get_mut(me) {
            let reason = Some(ErrorRef { code, text, retry_after_ms: 0 });
            let go_away = GoAway { reconnect_in_ms, reason };
            if code == ErrorCode::GatewayDraining && session.stay == Stay::Stays {
                session.stay = Stay::SentAway;
            }
            let mut head = Vec::with_capacity(go_away.encoded_len());
            go_away.encode(&mut head);
            session.conn.send(FrameHeader::new(FrameType::GoAway, 0), &head, &[]);
            self.touch(me);
        }
    }

    /// First bytes that no codec of ours understands.
    pub(super) fn foreign(&mut self, me: SessionRef, bytes: &[u8]) {
        let Some(session) = self.take_out(me) else { return };
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.account(session.held as usize, 0);
        let stranger = Stranger { bound: session.bound, protocol: None, id: None, addr: session.addr() };
        self.actions.push_back(Action::Foreign { session: me, stranger, bytes: bytes.to_vec() });
    }
}
