//! Sessions that speak geminio: from the packets of a peer to what the core does, and back.
//!
//! The protocol itself, with everything that peers of any generation must be spared, is `frontier_wire::geminio`. What comes out of it
//! ends in the same tables as what native sessions say, so an operation does not know what its two ends speak: its head is always a
//! native one, its body stays in the sender's encoding and is translated by the receiver's session, once, if that speaks the other
//! protocol ([`Form`](crate::core::message::Form)).
//!
//! - here: events, timers, the handshake
//! - `ops`: calls and messages
//! - `legs`: streams
//! - `translate`: streams between a dialogue and a native peer

mod legs;
mod ops;
mod translate;

use std::borrow::Cow;

use frontier_wire::{
    error::ErrorCode,
    geminio::{
        connection::{Ending, Event},
        data::{self, Data},
        dialogue::DialogueId,
        limits::{Limits, PacketLimits},
        text as texts,
    },
    native::{
        head::{ErrorRef, Names},
        hello::{Hello, InstanceId, Role},
        presence::EdgeInfo,
    },
};
use serde::{Deserialize, Serialize};

pub use self::legs::Dialogue;
pub(super) use self::ops::Scratch;
use super::Shard;
use crate::core::{
    Bound,
    message::Form,
    session::{Phase, Stay},
    shared::Settings,
    stats::{OpKind, Refusal},
    table::SessionRef,
    timer::TICK_MICROS,
};

/// What a service says of itself when it connects.
#[derive(Deserialize)]
struct ServiceMeta {
    #[serde(default, alias = "Service")]
    service: Option<String>,
    #[serde(default, alias = "Topics")]
    topics: Option<Vec<String>>,
}

/// What services are told of an edge that comes or goes; the names of the fields are part of the protocol.
#[derive(Serialize)]
struct EdgeEvent<'a> {
    #[serde(rename = "EdgeID")]
    edge: u64,
    #[serde(rename = "Meta")]
    meta: Option<String>,
    #[serde(rename = "Net")]
    net: &'a str,
    #[serde(rename = "Str")]
    addr: &'a str,
}

/// What geminio peers are held to.
pub(super) fn limits(settings: &Settings) -> Limits {
    let defaults = Limits::default();
    // Meta is base64, and there are a few bytes around it.
    let control = u32::try_from(settings.meta / 3 * 4 + 1_024).unwrap_or(u32::MAX);
    let in_flight = settings.requests_in_flight.saturating_add(settings.messages_in_flight);
    Limits {
        packet: PacketLimits { control: defaults.packet.control.max(control), ..defaults.packet },
        dialogues: settings.streams_per_session as usize,
        silent: settings.unused_streams as usize,
        stall: settings.stall,
        operations: in_flight as usize,
        // One sender has half of it, unless others have more.
        waiting: settings.messages_in_flight as usize * 2,
        waiting_bytes: settings.outbox.saturating_mul(2),
        handshake: settings.handshake,
        ..defaults
    }
}

/// What a geminio peer is told of an error: applications compare texts. One that came from another geminio peer keeps its text.
pub(super) fn text(code: ErrorCode, text: &str) -> &str {
    match code {
        ErrorCode::Application if !text.is_empty() => text,
        ErrorCode::Internal if text == texts::ILLEGAL_EDGE_ID => text,
        _ if texts::code(text) == code && !text.is_empty() => text,
        _ => texts::of(code),
    }
}

/// The same for an answer of whoever was to carry out a call: that it does not know the method is said in other words than that nobody
/// offers it. `method` is base64, empty for a message.
pub(super) fn answer_text<'a>(error: ErrorRef<'a>, method: &[u8]) -> Cow<'a, str> {
    if error.code == ErrorCode::MethodNotFound && texts::code(error.text) != error.code {
        let method = data::decode(method);
        return format!("{}{}", texts::NO_SUCH_RPC, String::from_utf8_lossy(&method)).into();
    }
    text(error.code, error.text).into()
}

impl Shard {
    // --- what comes ---

    /// Bytes of a geminio peer.
    pub(super) fn drive_geminio(&mut self, me: SessionRef, mut input: &[u8]) {
        loop {
            let now = self.now.micros;
            let Some(session) = self.sessions.get_mut(me) else { return };
            let closing = session.phase == Phase::Closing;
            let Some(conn) = session.conn.geminio() else { return };
            match conn.receive(&mut input, now) {
                Ok(Some(event)) => self.on_packet(me, event),
                Ok(None) => break,
                Err(_) if closing => return self.remove(me),
                Err(fault) => return self.fault(me, fault.into()),
            }
        }
        if let Some(conn) = self.sessions.get_mut(me).and_then(|session| session.conn.geminio()) {
            let control = u32::from(conn.take_control());
            let outcome = self.control_frames(me, control);
            self.outcome(me, outcome);
        }
    }

    /// A packet was read straight into its own buffer, or a part of it.
    pub(super) fn finish_direct_geminio(&mut self, me: SessionRef) {
        let now = self.now.micros;
        let Some(session) = self.sessions.get_mut(me) else { return };
        let closing = session.phase == Phase::Closing;
        let Some(conn) = session.conn.geminio() else { return };
        match conn.finish_direct::<&[u8]>(now) {
            Ok(Some(event)) => self.on_packet(me, event),
            Ok(None) => {}
            Err(_) if closing => self.remove(me),
            Err(fault) => self.fault(me, fault.into()),
        }
    }

    /// Does what is due in the protocol of a session, whatever it speaks.
    pub(super) fn protocol_timer(&mut self, me: SessionRef) {
        loop {
            let now = self.now.micros;
            let Some(conn) = self.sessions.get_mut(me).and_then(|session| session.conn.geminio()) else {
                return;
            };
            let before = conn.reopened();
            let event = conn.handle_timeout::<&[u8]>(now);
            self.stats.reopened_slots.add(conn.reopened().wrapping_sub(before).into());
            let Some(event) = event else { return };
            self.on_packet(me, event);
        }
    }

    /// When the protocol of a session wants to be looked at: on the wheel, or sooner than that is accurate.
    pub(super) fn wake_soon(&mut self, me: SessionRef, at: u64) {
        if at == u64::MAX {
            return;
        }
        let now = self.now.micros;
        if at > now + 2 * TICK_MICROS {
            self.wake_at(me, at);
        } else {
            self.soon.add(me, at.max(now + 1));
        }
    }

    fn on_packet(&mut self, me: SessionRef, event: Event<&[u8]>) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        if session.phase == Phase::Closing && !matches!(event, Event::Over(_)) {
            return;
        }
        match event {
            Event::Hello { wanted, data } => self.on_conn(me, wanted, &data),
            Event::Registered { dialogue: DialogueId::FIRST, name } => self.on_register(me, &name),
            Event::Request(operation) => self.on_geminio_operation(me, operation, OpKind::Call),
            Event::Message(operation) => self.on_geminio_operation(me, operation, OpKind::Message),
            Event::Cancelled { operation } => self.on_geminio_cancel(me, operation),
            Event::Response { packet, dialogue, data } => {
                self.on_geminio_answer(me, dialogue, packet, OpKind::Call, &data);
            }
            Event::Acked { packet, dialogue, data } => {
                self.on_geminio_answer(me, dialogue, packet, OpKind::Message, &data);
            }
            Event::AnswerTooLarge { packet } => self.on_answer_too_large(me, packet),
            Event::Open { dialogue, data } => self.on_dialogue_offered(me, dialogue, &data),
            Event::Opened { dialogue, .. } => self.on_dialogue_opened(me, dialogue),
            Event::OpenFailed { dialogue } => self.on_dialogue_failed(me, dialogue),
            Event::Raw(dialogue, piece) => self.on_raw(me, dialogue, piece),
            Event::Stalled { dialogue } => self.on_dialogue_stalled(me, dialogue),
            Event::Closed { dialogue } => self.on_dialogue_closed(me, dialogue),
            Event::Leaving => {
                // It does the closing itself.
                session.stay = Stay::Leaves;
                self.end(me, "peer closed");
            }
            Event::Over(ending) => self.on_over(me, ending),
            // What is registered on a stream is acknowledged and means nothing.
            Event::Registered { .. } => {}
            // Only clients hear these.
            Event::Welcome { .. } | Event::Rejected(_) | Event::RegisterDone { .. } => {}
        }
    }

    /// Nothing more comes: the socket is closed as soon as what is queued was written.
    fn on_over(&mut self, me: SessionRef, ending: Ending) {
        let now = self.now.micros;
        let Some(session) = self.sessions.get_mut(me) else { return };
        if session.phase != Phase::Closing {
            if ending == Ending::Timeout {
                self.refused(Refusal::Timeout);
            }
            return self.end(me, if ending == Ending::Timeout { "timed out" } else { "peer closed" });
        }
        if session.conn.wants_write(now) {
            self.wake_at(me, now + super::lifecycle::LAST_BYTES);
        } else {
            self.remove(me);
        }
    }

    // --- handshake ---

    fn on_conn(&mut self, me: SessionRef, wanted: u64, data: &Data<&[u8]>) {
        let Some(bound) = self.sessions.get(me).map(|session| session.bound) else { return };
        let (first, second) = (self.random(), self.random());
        // Every connection is an instance of its own, also under an ID that another one has.
        let instance = InstanceId::new((u128::from(first) << 64 | u128::from(second)).to_be_bytes());
        let role = if bound == Bound::Edge { Role::Edge } else { Role::Service };
        let mut hello = Hello::new(role, instance);
        hello.wished_id = wanted;
        let meta = data::decode(data.meta());
        if role == Role::Edge {
            hello.meta = meta;
        } else {
            let Ok(meta) = serde_json::from_slice::<ServiceMeta>(&meta) else {
                self.refused(Refusal::Malformed);
                return self.reject(me, ErrorCode::Application, "illegal service meta", 0);
            };
            hello.name = meta.service.unwrap_or_default();
            hello.topics = meta.topics.unwrap_or_default();
        }
        if let Err(error) = hello.check(&self.hello_limits()) {
            self.refused(Refusal::Malformed);
            return self.reject(me, ErrorCode::Application, &error.to_string(), 0);
        }
        let outcome = self.greet(me, hello);
        self.outcome(me, outcome);
    }

    /// A method that the peer offers. The protocol has no way to refuse it, so what is beyond the limits is left out.
    fn on_register(&mut self, me: SessionRef, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        if name.is_empty() {
            return;
        }
        let mut head = Vec::with_capacity(name.len() + 8);
        Names::encode(&mut head, [name], []);
        let Ok(names) = Names::parse(&head) else { return };
        if let Err(fault) = self.control_frames(me, self.names_cost(me, &names)) {
            return self.fault(me, fault);
        }
        match self.names_refusal(me, &names) {
            None => self.edit_names(me, &names, true),
            Some((code, reason)) => {
                self.log_unregistered(me, code, &reason);
            }
        }
    }
}

/// What a geminio service gets for a question or event about an edge.
fn edge_value(method: &str, body: &[u8]) -> Vec<u8> {
    let Ok(info) = EdgeInfo::parse(body) else { return Vec::new() };
    if method == "get_edge_id" {
        return info.meta.to_vec();
    }
    let mut meta = Vec::new();
    frontier_wire::geminio::base64::encode_to(&mut meta, info.meta);
    let meta = (!meta.is_empty()).then(|| String::from_utf8_lossy(&meta).into_owned());
    let event = EdgeEvent { edge: info.edge, meta, net: "tcp", addr: info.addr };
    serde_json::to_vec(&event).unwrap_or_default()
}

/// The ID in a service's answer to `get_edge_id`; `None` if it is none.
pub(super) fn answered_id(body: &[u8], form: Form) -> Option<u64> {
    match form {
        Form::Plain | Form::EdgeInfo => EdgeInfo::parse(body).ok().map(|info| info.edge),
        Form::Base64 => Some(u64::from_be_bytes(data::decode(body).try_into().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use frontier_wire::{error::ErrorCode, native::presence::EdgeInfoBuilder};

    use super::{answered_id, edge_value, text};
    use crate::core::message::Form;

    #[test]
    fn texts_of_the_go_system_are_kept_and_ours_become_them() {
        let cases = [
            (ErrorCode::MethodNotFound, "method not found", "record not found"),
            (ErrorCode::MethodNotFound, "no such rpc: echo", "no such rpc: echo"),
            (ErrorCode::DeadlineExceeded, "deadline exceeded", "timeout"),
            (ErrorCode::DeadlineExceeded, "context deadline exceeded", "context deadline exceeded"),
            (ErrorCode::Cancelled, "cancelled", "context canceled"),
            (ErrorCode::EdgeNotOnline, "edge not online", "edge not online"),
            (ErrorCode::SessionClosed, "session closed", "force closed"),
            (ErrorCode::Application, "the disk is full", "the disk is full"),
            (ErrorCode::Application, "", "application error"),
            (ErrorCode::Overloaded, "receiver does not keep up", "overloaded"),
        ];
        for (code, given, told) in cases {
            assert_eq!(text(code, given), told);
        }
    }

    #[test]
    fn events_are_written_as_go_reads_them() {
        let mut body = Vec::new();
        EdgeInfoBuilder::new(u64::MAX, 7).meta(b"hi").addr("10.0.0.1:5").encode(&mut body);
        let event = String::from_utf8(edge_value("edge_online", &body)).unwrap();
        assert_eq!(event, r#"{"EdgeID":18446744073709551615,"Meta":"aGk=","Net":"tcp","Str":"10.0.0.1:5"}"#);
        assert_eq!(edge_value("get_edge_id", &body), b"hi");
        let mut bare = Vec::new();
        EdgeInfoBuilder::new(1, 7).encode(&mut bare);
        let event = String::from_utf8(edge_value("edge_offline", &bare)).unwrap();
        assert_eq!(event, r#"{"EdgeID":1,"Meta":null,"Net":"tcp","Str":""}"#);
    }

    #[test]
    fn an_id_is_eight_bytes() {
        assert_eq!(answered_id(b"AAAAAAAAACo=", Form::Base64), Some(42));
        assert_eq!(answered_id(b"AAAAAAAAAA==", Form::Base64), None);
        assert_eq!(answered_id(b"", Form::Base64), None);
    }
}
