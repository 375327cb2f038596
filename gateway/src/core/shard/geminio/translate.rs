//! Streams between a dialogue and a native peer: raw bytes are Data frames, messages and calls are Publish and Request frames
//! (`docs/protocol.md` section 8), whose fragments and grants end here.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use frontier_wire::{
    error::ErrorCode,
    geminio::{
        connection::Operation,
        data::{self, Content, Object},
        text as texts,
    },
    native::{
        frame::{Flags, FrameHeader, FrameType, HEADER_LEN, INITIAL_CREDIT, MAX_BODY_FRAME},
        head::{CallBuilder, CallHead, Credit, ErrorRef, ReplyBuilder, ReplyHead, encode_error_reply},
        limits::FrameLimits,
        reader::{Frame, FrameReader},
    },
};

use super::{legs::Dialogue, text};
use crate::core::{
    message::{Body, DialogueAnswer, Form, LegMsg, LegRef},
    shard::{
        Shard,
        ops::{BULK, LONGEST},
    },
    stats::OpKind,
};

/// Which body: of an operation or of an answer, by ID.
type Key = (bool, u64);

/// Frames of a native far end that are not complete, and bodies that wait for its grants.
#[derive(Debug, Default)]
pub(super) struct Translator {
    reader: FrameReader,
    /// Bytes of the incomplete frame, which have gone back already.
    early: usize,
    joining: HashMap<Key, Joining>,
    /// Bytes of those, as announced.
    joined: usize,
    leaving: HashMap<Key, Leaving>,
    /// Bytes of those.
    left: usize,
}

#[derive(Debug)]
struct Joining {
    header: FrameHeader,
    head: Bytes,
    body: Vec<u8>,
    total: usize,
}

#[derive(Debug)]
struct Leaving {
    kind: FrameType,
    rest: Bytes,
    credit: u64,
}

impl Shard {
    // --- from the dialogue's peer to the native one ---

    /// Raw bytes as Data frames.
    pub(super) fn send_data(&mut self, at: LegRef, peer: LegRef, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(MAX_BODY_FRAME as usize));
            let Ok(header) = FrameHeader::new(FrameType::Data, 0).with_lens(0, part.len()) else { return };
            if let Some(dialogue) = self.dialogue(at) {
                dialogue.overhead += HEADER_LEN;
            }
            if part.len() < BULK {
                let mut frame = BytesMut::with_capacity(HEADER_LEN + part.len());
                frame.put_slice(&header.encode());
                frame.put_slice(&part);
                self.tell(peer, LegMsg::Data(frame.freeze()));
            } else {
                self.tell(peer, LegMsg::Data(Bytes::copy_from_slice(&header.encode())));
                self.tell(peer, LegMsg::Data(part));
            }
        }
    }

    /// A call or message of the dialogue's peer.
    pub(super) fn send_operation(
        &mut self,
        at: LegRef,
        peer: LegRef,
        operation: &Operation<&[u8]>,
        kind: OpKind,
        timeout: u64,
    ) {
        let data = &operation.data;
        let (key, custom) = (data::decode(data.key()), data::decode(data.custom()));
        let name = if kind == OpKind::Message {
            data.topic()
        } else {
            std::str::from_utf8(&key).unwrap_or_default()
        };
        let timeout_ms = u32::try_from(timeout / 1_000).unwrap_or(u32::MAX).max(1);
        let body = Bytes::from(data::decode(data.value()));
        let mut call = CallBuilder::new(name).meta(&custom).timeout_ms(timeout_ms);
        if body.len() > MAX_BODY_FRAME as usize {
            call = call.total_len(body.len() as u64);
        }
        let mut head = Vec::with_capacity(call.encoded_len());
        call.encode(&mut head);
        let frame = if kind == OpKind::Message { FrameType::Publish } else { FrameType::Request };
        let limit = self.shared.settings.outbox;
        let waiting = self.translated(at, |dialogue, translator| dialogue.overhead + translator.left);
        if waiting > 0 && waiting + body.len() > limit {
            if let Some(dialogue) = self.dialogue(at) {
                dialogue.started.remove(&operation.id);
            }
            return self.respond_error(at.session, operation.id, ErrorCode::Overloaded, "");
        }
        self.send_frames(at, peer, frame, operation.id, &head, body);
    }

    /// The peer's answer to an operation of the native end.
    pub(super) fn send_answer(&mut self, at: LegRef, peer: LegRef, kind: OpKind, answer: &DialogueAnswer) {
        let body = Bytes::from(data::decode(&answer.value));
        let mut head = Vec::new();
        if !answer.error.is_empty() {
            encode_error_reply(&mut head, texts::code(&answer.error), &answer.error);
        } else if body.len() > MAX_BODY_FRAME as usize {
            ReplyBuilder::new().total_len(body.len() as u64).encode(&mut head);
        }
        let frame = if kind == OpKind::Message { FrameType::Ack } else { FrameType::Response };
        self.send_frames(at, peer, frame, answer.id, &head, body);
    }

    /// Nobody waits any more for the answer to an operation of the dialogue's peer.
    pub(super) fn send_cancel(&mut self, at: LegRef, peer: LegRef, id: u64) {
        self.drop_leaving(at, (false, id));
        let mut head = Vec::new();
        ErrorRef::new(ErrorCode::Cancelled, "").encode(&mut head);
        self.send_frame(at, peer, FrameHeader::new(FrameType::Cancel, id), &head, &[]);
    }

    /// A frame, or the fragments that the native end has granted of it.
    fn send_frames(
        &mut self,
        at: LegRef,
        peer: LegRef,
        kind: FrameType,
        id: u64,
        head: &[u8],
        mut body: Bytes,
    ) {
        let header = FrameHeader::new(kind, id);
        if body.len() <= MAX_BODY_FRAME as usize {
            return self.send_frame(at, peer, header, head, &body);
        }
        let first = body.split_to(MAX_BODY_FRAME as usize);
        self.send_frame(at, peer, header.with_flags(Flags::MORE), head, &first);
        let credit = u64::from(INITIAL_CREDIT).saturating_sub(first.len() as u64);
        let key = (is_reply(kind), id);
        if let Some(translator) = self.translator(at) {
            translator.left += body.len();
            translator.leaving.insert(key, Leaving { kind, rest: body, credit });
        }
        self.send_granted(at, peer, key);
    }

    fn send_granted(&mut self, at: LegRef, peer: LegRef, key: Key) {
        loop {
            let Some(translator) = self.translator(at) else { return };
            let Some(leaving) = translator.leaving.get_mut(&key) else { return };
            let credit = usize::try_from(leaving.credit).unwrap_or(usize::MAX);
            let n = leaving.rest.len().min(MAX_BODY_FRAME as usize).min(credit);
            if n == 0 {
                return;
            }
            let (part, kind) = (leaving.rest.split_to(n), leaving.kind);
            leaving.credit -= n as u64;
            translator.left -= n;
            let last = leaving.rest.is_empty();
            if last {
                translator.leaving.remove(&key);
            }
            let flags = if last { Flags::NONE } else { Flags::MORE };
            self.send_frame(at, peer, FrameHeader::new(kind, key.1).with_flags(flags), &[], &part);
        }
    }

    fn send_frame(&mut self, at: LegRef, peer: LegRef, header: FrameHeader, head: &[u8], body: &[u8]) {
        let mut frame = BytesMut::with_capacity(HEADER_LEN + head.len() + body.len());
        if header.put_frame(&mut frame, head, body).is_err() {
            return;
        }
        if let Some(dialogue) = self.dialogue(at) {
            dialogue.overhead += frame.len();
        }
        self.tell(peer, LegMsg::Data(frame.freeze()));
    }

    fn drop_leaving(&mut self, at: LegRef, key: Key) {
        if let Some(translator) = self.translator(at)
            && let Some(leaving) = translator.leaving.remove(&key)
        {
            translator.left -= leaving.rest.len();
        }
    }

    // --- from the native peer to the dialogue's ---

    /// Frames of the native end, or parts of them.
    pub(super) fn on_frames(&mut self, at: LegRef, mut input: Bytes) {
        loop {
            let before = input.len();
            let Some(dialogue) = self.dialogue(at) else { return };
            let Some(translator) = dialogue.translator.as_mut() else { return };
            match translator.reader.next(&mut input, &FrameLimits::GATEWAY) {
                Err(_) => return self.abort(at),
                Ok(None) => {
                    // Back at once, or a frame longer than the window would never be complete.
                    let read = before - input.len();
                    translator.early += read;
                    return self.give_native(at, read);
                }
                Ok(Some(frame)) => {
                    let raw = if frame.header.kind == FrameType::Data { frame.body.len() } else { 0 };
                    // Raw bytes go back when they were written; of everything else nothing is left to wait for.
                    let early = std::mem::take(&mut translator.early);
                    let rest = early + before - input.len() - raw;
                    dialogue.early += early.saturating_sub(rest);
                    self.give_native(at, rest.saturating_sub(early));
                    if self.on_frame_of_far(at, frame).is_none() {
                        return self.abort(at);
                    }
                }
            }
        }
    }

    /// The native end may send so many bytes more.
    fn give_native(&mut self, at: LegRef, n: usize) {
        let Some(peer) = self.leg(at).and_then(|leg| leg.peer) else { return };
        if n > 0 {
            self.tell(peer, LegMsg::Release(u32::try_from(n).unwrap_or(u32::MAX)));
        }
    }

    /// One frame of the native end; `None` if it breaks the protocol.
    fn on_frame_of_far(&mut self, at: LegRef, frame: Frame<Bytes>) -> Option<()> {
        let peer = self.leg(at)?.peer?;
        let Frame { header, head, body } = frame;
        let (head, body) = (head.into_bytes(), body.into_bytes());
        let (kind, id) = (header.kind, header.id);
        match kind {
            FrameType::Data => self.send_raw(at, body),
            FrameType::Request | FrameType::Publish | FrameType::Response | FrameType::Ack => {
                return self.on_body(at, peer, header, head, body);
            }
            FrameType::Cancel => {
                self.cancel_far_operation(at, id);
                self.drop_joining(at, (false, id));
            }
            FrameType::Credit => {
                let bytes = Credit::parse(&head).ok()?.bytes;
                let key = (header.flags.reply(), id);
                if let Some(leaving) =
                    self.translator(at).and_then(|translator| translator.leaving.get_mut(&key))
                {
                    leaving.credit = leaving.credit.saturating_add(bytes.into());
                }
                self.send_granted(at, peer, key);
            }
            FrameType::Unknown(_) => {}
            _ => return None,
        }
        Some(())
    }

    /// A body or a part of one: whole, it goes on.
    fn on_body(
        &mut self,
        at: LegRef,
        peer: LegRef,
        header: FrameHeader,
        head: Bytes,
        body: Bytes,
    ) -> Option<()> {
        let key = (is_reply(header.kind), header.id);
        let more = header.flags.more();
        let limit = self.shared.settings.outbox.max(LONGEST);
        // Only what is to be joined is asked for room.
        let under_way = if more { self.translated(at, |_, translator| translator.joined) } else { 0 };
        let translator = self.translator(at)?;
        let joined = translator.joining.contains_key(&key);
        if header.flags.abort() {
            self.drop_joining(at, key);
            return self.on_aborted(at, peer, header, &head);
        }
        if !joined && !more {
            return self.on_whole(at, peer, header, &head, body);
        }
        if !joined {
            if head.is_empty() && !key.0 {
                // Late fragments of what was answered already.
                return Some(());
            }
            let total = if key.0 {
                ReplyHead::parse(&head).ok()?.total_len
            } else {
                CallHead::parse(&head).ok()?.total_len
            };
            let total = usize::try_from(total).unwrap_or(usize::MAX);
            if total > LONGEST || under_way + total > limit {
                let code = if total > LONGEST { ErrorCode::PayloadTooLarge } else { ErrorCode::Overloaded };
                return self.on_too_much(at, peer, header, code);
            }
            translator.joined += total;
            translator.joining.insert(key, Joining { header, head, body: Vec::new(), total });
        }
        let len = body.len();
        let joining = translator.joining.get_mut(&key)?;
        joining.body.extend_from_slice(&body);
        if joining.body.len() > joining.total {
            return None;
        }
        if more {
            let flags = if key.0 { Flags::REPLY } else { Flags::NONE };
            let mut credit = Vec::new();
            Credit { bytes: u32::try_from(len).unwrap_or(u32::MAX) }.encode(&mut credit);
            let header = FrameHeader::new(FrameType::Credit, header.id).with_flags(flags);
            self.send_frame(at, peer, header, &credit, &[]);
            return Some(());
        }
        let joining = translator.joining.remove(&key)?;
        translator.joined -= joining.total;
        self.on_whole(at, peer, joining.header, &joining.head, joining.body.into())
    }

    /// A whole operation or answer of the native end.
    fn on_whole(
        &mut self,
        at: LegRef,
        _: LegRef,
        header: FrameHeader,
        head: &[u8],
        body: Bytes,
    ) -> Option<()> {
        let now = self.now.micros;
        if is_reply(header.kind) {
            let reply = ReplyHead::parse(head).ok()?;
            let Some(dialogue) = self.dialogue(at) else { return Some(()) };
            let Some(method) = dialogue.started.remove(&header.id) else {
                self.stats.late_answers.add(1);
                return Some(());
            };
            self.drop_leaving(at, (false, header.id));
            self.respond(at.session, header.id, &method, reply.error, Body::Shared(body), Form::Plain);
            return Some(());
        }
        if head.is_empty() {
            return Some(());
        }
        let call = CallHead::parse(head).ok()?;
        let deadline = self.shared.settings.deadline(now, call.timeout_ms);
        let context = self.named_deadline(call.timeout_ms);
        let mut object = Object {
            value: Content::Plain(&body),
            custom: Content::Plain(call.meta),
            context,
            ..Object::default()
        };
        let kind = if header.kind == FrameType::Publish {
            object.topic = call.name;
            OpKind::Message
        } else {
            object.key = Content::Plain(call.name.as_bytes());
            OpKind::Call
        };
        if body.len() as u64 > self.shared.settings.body {
            self.fail_dialogue_operation(at, header.id, kind, ErrorCode::PayloadTooLarge, "");
            return Some(());
        }
        self.ask_peer(at, header.id, kind, &object, deadline);
        Some(())
    }

    /// The native end cannot finish what it has begun to send.
    fn on_aborted(&mut self, at: LegRef, peer: LegRef, header: FrameHeader, head: &[u8]) -> Option<()> {
        if is_reply(header.kind) {
            let reply = ReplyHead::parse(head).ok()?;
            let error = reply.error.unwrap_or_default();
            if self.dialogue(at)?.started.remove(&header.id).is_some() {
                self.respond_error(at.session, header.id, error.code, text(error.code, error.text));
            }
            return Some(());
        }
        let kind = if header.kind == FrameType::Publish { FrameType::Ack } else { FrameType::Response };
        let mut answer = Vec::new();
        encode_error_reply(&mut answer, ErrorCode::Cancelled, "cancelled");
        self.send_frame(at, peer, FrameHeader::new(kind, header.id), &answer, &[]);
        Some(())
    }

    /// A body that is longer than can be joined: its transfer ends.
    fn on_too_much(&mut self, at: LegRef, peer: LegRef, header: FrameHeader, code: ErrorCode) -> Option<()> {
        let mut head = Vec::new();
        if is_reply(header.kind) {
            if self.dialogue(at)?.started.remove(&header.id).is_some() {
                self.respond_error(at.session, header.id, code, "");
            }
            ErrorRef::new(code, "").encode(&mut head);
            self.send_frame(at, peer, FrameHeader::new(FrameType::Cancel, header.id), &head, &[]);
        } else {
            let kind = if header.kind == FrameType::Publish { FrameType::Ack } else { FrameType::Response };
            encode_error_reply(&mut head, code, texts::of(code));
            self.send_frame(at, peer, FrameHeader::new(kind, header.id), &head, &[]);
        }
        Some(())
    }

    fn drop_joining(&mut self, at: LegRef, key: Key) {
        if let Some(translator) = self.translator(at)
            && let Some(joining) = translator.joining.remove(&key)
        {
            translator.joined -= joining.total;
        }
    }

    /// What is under way between the protocols on all streams of a session.
    fn translated(&self, at: LegRef, of: impl Fn(&Dialogue, &Translator) -> usize) -> usize {
        let legs = self.sessions.get(at.session).and_then(|session| session.legs.as_ref());
        let dialogues =
            legs.into_iter().flat_map(|legs| legs.iter()).filter_map(|(_, leg)| leg.dialogue.as_ref());
        dialogues.filter_map(|dialogue| Some(of(dialogue, dialogue.translator.as_ref()?))).sum()
    }

    fn translator(&mut self, at: LegRef) -> Option<&mut Translator> {
        self.dialogue(at)?.translator.as_deref_mut()
    }
}

const fn is_reply(kind: FrameType) -> bool {
    matches!(kind, FrameType::Response | FrameType::Ack)
}
