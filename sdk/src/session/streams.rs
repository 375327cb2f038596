//! The user streams of one session: opening, accepting, bytes, and how they end.
//!
//! ```text
//!  ours:    Opening ── OpenAck ─────────────▶ Open ── both directions ended, or reset ──▶ gone
//!               └───── refused ─▶ Closing ──────────────────────────────────────────────▶ gone
//!  theirs:  Unopened ── Open ─▶ Offered ── accepted ─▶ Open
//!                                   └──── refused ─▶ Closing
//! ```
//! `Closing` is a stream nobody uses any more: what still comes is dropped, and if its peer does not end it, a reset does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use frontier_wire::{
    native::{
        connection::Connection,
        frame::{FrameHeader, FrameType, HEADER_LEN},
        head::{CallBuilder, CallHead, ReplyBuilder, ReplyHead},
        reader::Frame,
    },
    yamux::{OpenError, StreamId},
};
use tokio::time::Instant;

use super::reader::{Item, StreamReader};
use crate::{
    dialogue::{Dialogue, Sink},
    error::{Error, ErrorCode, Result, millis},
    mailbox::{DialogueId, Mailbox},
    op::{Open, Outgoing},
    promise::Promise,
    reply::Reply,
    request::Peer,
    site::Site,
    stream::{
        Handle, Offer, Opened,
        shared::{Facts, Shared},
    },
};

/// How long a stream that nobody uses may wait for its peer to end it, and one of the peer's for its Open.
const LINGER: Duration = Duration::from_secs(30);
/// The same for a peer that sends nothing itself and may still be reading what was sent to it before. What it has not read lies with the
/// gateway and in its own window, so nothing tells how far it is.
const READ_ON: Duration = Duration::from_secs(600);

/// Bytes of calls and messages that may be queued on a stream before further fragments wait.
const FRAGMENTS_AHEAD: usize = 128 * 1024;

/// Bytes of answers that the other ends of all streams together may leave unread; beyond it the stream with the most of them is reset.
const UNREAD_MAX: usize = 64 << 20;

/// All user streams of a session.
#[derive(Debug)]
pub(super) struct Streams {
    by_id: HashMap<StreamId, Entry>,
    /// Streams with frames in `out`.
    dirty: Vec<StreamId>,
    mailbox: Arc<Mailbox>,
    site: Arc<Site>,
    send_body: u64,
    /// Round trip to the gateway; a window that is used up faster than twice this holds its stream back.
    pub(super) round_trip: Duration,
}

#[derive(Debug)]
enum Entry {
    /// The peer's Open has not come yet.
    Unopened {
        reader: Box<StreamReader>,
        since: Instant,
    },
    Live(Box<Live>),
    Closing {
        since: Instant,
        /// The peer may still be reading what was sent before; a reset would take from it what it has not read yet.
        read_on: bool,
    },
}

/// A stream with a user, or with one to come.
#[derive(Debug)]
struct Live {
    shared: Arc<Shared>,
    dialogue: Dialogue,
    reader: StreamReader,
    /// Frames of calls and messages that go out together.
    out: Vec<u8>,
    stage: Stage,
    /// The user sends nothing more.
    ended: bool,
    /// The peer sends nothing more.
    finished: bool,
    window: Window,
    /// Of the bytes that wait to be written, at most so many are answers to what the other end asked.
    unread: usize,
}

#[derive(Debug)]
enum Stage {
    Opening(Promise<Opened>),
    Offered,
    Open,
}

/// How fast the peer uses up what it may send.
#[derive(Debug)]
struct Window {
    size: u32,
    used: u32,
    since: Instant,
}

/// Where a stream's frames go.
struct StreamSink<'a> {
    conn: &'a mut Connection,
    shared: &'a Shared,
    out: &'a mut Vec<u8>,
}

// === impl Streams ===

impl Streams {
    pub(super) fn new(site: Arc<Site>, mailbox: Arc<Mailbox>, send_body: u64) -> Self {
        Self {
            by_id: HashMap::new(),
            dirty: Vec::new(),
            mailbox,
            site,
            send_body,
            round_trip: Duration::from_millis(1),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    // --- opening

    /// Opens a stream for the user.
    pub(super) fn open(&mut self, open: Open, now: Instant, conn: &mut Connection) {
        let Open { mut head, deadline, promise } = open;
        let id = match conn.open_stream() {
            Ok(id) => id,
            Err(error) => return promise.fulfil(Err(open_error(error))),
        };
        if !promise.sent(&self.mailbox, DialogueId::Stream(id), 0) {
            conn.reset_stream(id);
            return;
        }
        let Ok(facts) = self.facts_of_ours(&head) else {
            conn.reset_stream(id);
            return promise.fulfil(Err(Error::invalid("malformed head")));
        };
        CallBuilder::new("").timeout_ms(millis(deadline.saturating_duration_since(now))).encode(&mut head);
        let Ok(header) = FrameHeader::new(FrameType::Open, 0).with_lens(head.len(), 0) else { return };
        let mut live = self.live(id, facts, StreamReader::default(), Stage::Opening(promise), now);
        live.out.extend_from_slice(&header.encode());
        live.out.extend_from_slice(&head);
        self.by_id.insert(id, Entry::Live(live));
        self.dirty.push(id);
    }

    /// What the opener knows of the other end: an edge is named, of a service only the name is known.
    fn facts_of_ours(&self, head: &[u8]) -> Result<Facts, ()> {
        let call = CallHead::parse(head).map_err(drop)?;
        let peer = if call.edge == 0 { Peer::Service(0.into()) } else { Peer::Edge(call.edge.into()) };
        Ok(Facts {
            name: call.name.into(),
            peer,
            meta: Bytes::copy_from_slice(call.meta),
            headers: call.headers().collect(),
        })
    }

    fn live(
        &self,
        id: StreamId,
        facts: Facts,
        reader: StreamReader,
        stage: Stage,
        now: Instant,
    ) -> Box<Live> {
        let client = &self.site.client;
        let shared = Shared::new(
            id,
            self.mailbox.clone(),
            facts,
            (client.dispatcher.clone(), self.site.lane),
            client.options.message_queue,
        );
        let limits = client.options.dialogue_limits(self.send_body);
        let dialogue = Dialogue::new(
            DialogueId::Stream(id),
            self.mailbox.clone(),
            limits,
            self.site.budget.clone(),
            now,
        );
        let size = client.options.stream_window;
        Box::new(Live {
            shared: Arc::new(shared),
            dialogue,
            reader,
            out: Vec::new(),
            stage,
            ended: false,
            finished: false,
            window: Window { size, used: 0, since: now },
            unread: 0,
        })
    }

    /// The peer opened a stream.
    pub(super) fn opened(&mut self, id: StreamId, now: Instant) {
        self.by_id.insert(id, Entry::Unopened { reader: Box::default(), since: now });
    }

    /// The peer's first frame on its stream: offers the stream to the user.
    fn offer(
        &mut self,
        id: StreamId,
        frame: &Frame<Bytes>,
        reader: StreamReader,
        now: Instant,
        conn: &mut Connection,
    ) {
        let Some(facts) = facts_of_theirs(frame) else {
            self.by_id.remove(&id);
            conn.reset_stream(id);
            return;
        };
        let live = self.live(id, facts, reader, Stage::Offered, now);
        let offer = Offer::new(live.shared.clone());
        self.by_id.insert(id, Entry::Live(live));
        // Refused, the offer says so itself when it is dropped; here with a better reason.
        if let Err(offer) = self.site.client.offers.push(self.site.lane, offer) {
            offer.refuse(Error::overloaded("too many streams wait to be accepted"));
        }
    }

    pub(super) fn accept(&mut self, id: StreamId) {
        let Some(Entry::Live(live)) = self.by_id.get_mut(&id) else { return };
        if matches!(live.stage, Stage::Offered) {
            live.stage = Stage::Open;
            live.put_open_ack(None);
            self.dirty.push(id);
        }
    }

    pub(super) fn refuse(&mut self, id: StreamId, error: &Error, now: Instant, conn: &mut Connection) {
        let Some(Entry::Live(live)) = self.by_id.get_mut(&id) else { return };
        if matches!(live.stage, Stage::Offered) {
            live.put_open_ack(Some(error));
            live.flush(conn);
            conn.finish_stream(id);
            live.fail(&Error::session_closed("the stream was refused"));
            self.close(id, now);
        }
    }

    // --- from the peer

    /// Bytes of a stream. The gateway passes them on unseen, so what is wrong with them ends their stream and nothing else.
    pub(super) fn data(&mut self, id: StreamId, mut bytes: Bytes, now: Instant, conn: &mut Connection) {
        while !bytes.is_empty() {
            let before = bytes.len();
            let item = match self.by_id.get_mut(&id) {
                Some(Entry::Unopened { reader, .. }) => reader.next(&mut bytes),
                Some(Entry::Live(live)) => live.reader.next(&mut bytes),
                Some(Entry::Closing { since, read_on: true }) if now >= *since + LINGER => {
                    // It writes to somebody who has long gone.
                    self.by_id.remove(&id);
                    conn.reset_stream(id);
                    return;
                }
                Some(Entry::Closing { .. }) | None => {
                    conn.release(id, as_u32(before));
                    return;
                }
            };
            let item = match item {
                Ok(item) => item,
                Err(error) => return self.break_off(id, &error.to_string(), conn),
            };
            // Bytes for the user come back when the user has read them, all others have been dealt with.
            let held = match &item {
                Some(Item::Data(data)) => data.len(),
                Some(Item::Frame(_)) | None => 0,
            };
            conn.release(id, as_u32(before - bytes.len() - held));
            match item {
                Some(Item::Data(data)) => self.user_data(id, data, conn),
                Some(Item::Frame(frame)) => self.frame(id, frame, now, conn),
                None => {}
            }
        }
    }

    /// Ends a stream whose other end does not keep to the protocol.
    fn break_off(&mut self, id: StreamId, fault: &str, conn: &mut Connection) {
        tracing::debug!(stream = id.get(), fault, "stream reset");
        let error = format!("the stream was reset: the other end broke the protocol: {fault}");
        self.end(id, &Error::session_closed(error));
        conn.reset_stream(id);
    }

    fn user_data(&mut self, id: StreamId, data: Bytes, conn: &mut Connection) {
        match self.by_id.get_mut(&id) {
            Some(Entry::Live(live)) if matches!(live.stage, Stage::Open) => live.shared.received(data),
            // The opener sends nothing before OpenAck, the acceptor nothing before the opener's Open.
            Some(Entry::Live(_) | Entry::Unopened { .. }) => {
                self.break_off(id, "bytes before the stream was open", conn);
            }
            Some(Entry::Closing { .. }) | None => conn.release(id, as_u32(data.len())),
        }
    }

    fn frame(&mut self, id: StreamId, frame: Frame<Bytes>, now: Instant, conn: &mut Connection) {
        match self.by_id.get_mut(&id) {
            Some(Entry::Unopened { reader, .. }) => {
                let reader = std::mem::take(&mut **reader);
                self.offer(id, &frame, reader, now, conn);
            }
            Some(Entry::Live(live)) => match &live.stage {
                Stage::Opening(_) if frame.header.kind == FrameType::OpenAck => {
                    self.open_acked(id, &frame, now, conn);
                }
                Stage::Open => {
                    let before = live.waiting();
                    let Live { dialogue, shared, out, .. } = &mut **live;
                    let host = shared.clone();
                    let mut sink = StreamSink { conn, shared, out };
                    dialogue.on_frame(frame, now, &mut sink, &*host);
                    let answered = live.waiting() - before;
                    self.dirty.push(id);
                    self.note_unread(id, answered, conn);
                }
                // The opener sends nothing before OpenAck, the acceptor nothing before its own.
                Stage::Opening(_) | Stage::Offered => {
                    self.break_off(id, "a frame before the stream was open", conn);
                }
            },
            Some(Entry::Closing { .. }) | None => {}
        }
    }

    fn open_acked(&mut self, id: StreamId, frame: &Frame<Bytes>, now: Instant, conn: &mut Connection) {
        let head = match ReplyHead::parse(&frame.head) {
            Ok(head) => head,
            Err(error) => return self.break_off(id, &error.to_string(), conn),
        };
        let Some(Entry::Live(live)) = self.by_id.get_mut(&id) else { return };
        let Stage::Opening(promise) = std::mem::replace(&mut live.stage, Stage::Open) else { return };
        match head.error {
            None => promise.fulfil(Ok(Handle::new(live.shared.clone()))),
            Some(error) => {
                promise.fulfil(Err(Error::from_wire(error)));
                conn.finish_stream(id);
                self.close(id, now);
            }
        }
    }

    /// The peer sends nothing more on a stream.
    pub(super) fn finished(&mut self, id: StreamId, conn: &mut Connection) {
        let over = match self.by_id.get_mut(&id) {
            Some(Entry::Live(live)) => {
                live.finished = true;
                match std::mem::replace(&mut live.stage, Stage::Open) {
                    Stage::Opening(promise) => {
                        promise.fulfil(Err(Error::session_closed("the stream ended before it was accepted")));
                        conn.reset_stream(id);
                        true
                    }
                    stage => {
                        live.stage = stage;
                        live.shared.finished();
                        // Answers to what we asked cannot come any more; what was asked of us can still be answered.
                        live.dialogue
                            .fail_outgoing(&Error::session_closed("the other end has ended the stream"));
                        live.ended
                    }
                }
            }
            Some(Entry::Closing { .. }) => true,
            Some(Entry::Unopened { .. }) => {
                conn.reset_stream(id);
                true
            }
            None => false,
        };
        if over {
            self.by_id.remove(&id);
        }
    }

    /// A stream is gone at once.
    pub(super) fn reset(&mut self, id: StreamId) {
        let opening =
            matches!(self.by_id.get(&id), Some(Entry::Live(live)) if matches!(live.stage, Stage::Opening(_)));
        let error = if opening {
            // Who accepts or refuses says so by OpenAck; without one the gateway has not even read what was asked.
            Error::overloaded("the gateway refused the stream: too many are open")
        } else {
            Error::session_closed("the stream was reset")
        };
        self.end(id, &error);
    }

    fn end(&mut self, id: StreamId, error: &Error) {
        if let Some(Entry::Live(mut live)) = self.by_id.remove(&id) {
            live.fail(error);
        }
    }

    // --- from the user

    /// Encoded Data frames.
    pub(super) fn write(&mut self, id: StreamId, frames: Bytes, conn: &mut Connection) {
        if let Some(Entry::Live(live)) = self.by_id.get_mut(&id) {
            live.flush(conn);
            conn.outbox().push_stream(id, frames, true);
        }
    }

    /// A call or message.
    pub(super) fn start(&mut self, id: StreamId, send: Box<Outgoing>, now: Instant, conn: &mut Connection) {
        self.with_dialogue(id, conn, |dialogue, sink| dialogue.start(send, now, sink));
    }

    pub(super) fn cancel(&mut self, id: StreamId, operation: u64, conn: &mut Connection) {
        match self.by_id.get(&id) {
            Some(Entry::Live(live)) if matches!(live.stage, Stage::Opening(_)) => {
                self.end(id, &Error::cancelled());
                conn.reset_stream(id);
            }
            _ => self.with_dialogue(id, conn, |dialogue, sink| dialogue.cancel(operation, sink)),
        }
    }

    pub(super) fn answer(
        &mut self,
        id: StreamId,
        operation: u64,
        outcome: Result<Reply>,
        conn: &mut Connection,
    ) {
        let waiting = |streams: &Self| match streams.by_id.get(&id) {
            Some(Entry::Live(live)) => live.waiting(),
            _ => 0,
        };
        let before = waiting(self);
        self.with_dialogue(id, conn, |dialogue, sink| dialogue.answer(operation, outcome, sink));
        let answered = waiting(self) - before;
        self.note_unread(id, answered, conn);
    }

    /// So many bytes more wait on a stream because its other end asked for them. Whoever asks and does not read loses its stream, not
    /// the session that all others use.
    fn note_unread(&mut self, id: StreamId, answered: usize, conn: &mut Connection) {
        if let Some(Entry::Live(live)) = self.by_id.get_mut(&id) {
            live.unread += answered;
        }
        // Nearly always the sum need not be made: what waits for all streams is known, and it is less.
        while conn.outbox_bytes() - conn.operation_bytes() > UNREAD_MAX {
            let unread = self.by_id.iter().filter_map(|(id, entry)| match entry {
                Entry::Live(live) => Some((live.unread, *id)),
                Entry::Unopened { .. } | Entry::Closing { .. } => None,
            });
            let (sum, most) = unread.fold((0, (0, id)), |(sum, most), one| (sum + one.0, most.max(one)));
            if sum <= UNREAD_MAX {
                return;
            }
            let most = most.1;
            tracing::debug!(stream = most.get(), "stream reset: its answers are not read");
            self.end(
                most,
                &Error::overloaded("the other end of the stream asks and does not read the answers"),
            );
            conn.reset_stream(most);
        }
    }

    fn with_dialogue(
        &mut self,
        id: StreamId,
        conn: &mut Connection,
        act: impl FnOnce(&mut Dialogue, &mut StreamSink<'_>),
    ) {
        if let Some(Entry::Live(live)) = self.by_id.get_mut(&id) {
            let Live { dialogue, shared, out, .. } = &mut **live;
            act(dialogue, &mut StreamSink { conn, shared, out });
            self.dirty.push(id);
        }
    }

    /// The user has read so many bytes: the peer may send as many more, and more at once if its window was what held it back.
    pub(super) fn consumed(&mut self, id: StreamId, bytes: u32, now: Instant, conn: &mut Connection) {
        conn.release(id, bytes);
        let Some(Entry::Live(live)) = self.by_id.get_mut(&id) else { return };
        let window = &mut live.window;
        window.used = window.used.saturating_add(bytes);
        if window.used < window.size {
            return;
        }
        let most = self.site.client.options.max_stream_window;
        if now.saturating_duration_since(window.since) < self.round_trip * 2 && window.size < most {
            let size = window.size.saturating_mul(2).min(most);
            window.size = conn.engine_mut().grow(id, size).unwrap_or(window.size);
        }
        window.used = 0;
        window.since = now;
    }

    /// The user sends nothing more.
    pub(super) fn finish(&mut self, id: StreamId, conn: &mut Connection) {
        let Some(Entry::Live(live)) = self.by_id.get_mut(&id) else { return };
        live.flush(conn);
        live.ended = true;
        conn.finish_stream(id);
        if live.finished {
            self.by_id.remove(&id);
        }
    }

    /// The user has reset the stream, or dropped it without ending it.
    pub(super) fn reset_by_user(&mut self, id: StreamId, conn: &mut Connection) {
        if self.by_id.contains_key(&id) {
            self.end(id, &Error::session_closed("the stream was reset"));
            conn.reset_stream(id);
        }
    }

    /// The user has ended its direction and dropped the stream.
    pub(super) fn abandon(&mut self, id: StreamId, now: Instant) {
        if let Some(Entry::Live(live)) = self.by_id.get_mut(&id) {
            live.fail(&Error::session_closed("the stream was dropped"));
            self.by_id.insert(id, Entry::Closing { since: now, read_on: true });
        }
    }

    fn close(&mut self, id: StreamId, now: Instant) {
        self.by_id.insert(id, Entry::Closing { since: now, read_on: false });
    }

    // --- time and transport

    /// So many bytes of a stream were written; `to_pump` gets its ID if fragments may be waiting for the room.
    pub(super) fn written(&mut self, id: StreamId, bytes: u32, to_pump: &mut Vec<StreamId>) {
        if let Some(Entry::Live(live)) = self.by_id.get_mut(&id) {
            live.shared.written(bytes as usize);
            // They are written in order, so no more answers wait than anything.
            live.unread = live.unread.min(live.waiting());
            if live.dialogue.wants_sweep() {
                to_pump.push(id);
            }
        }
    }

    /// There is room for further fragments on a stream.
    pub(super) fn pump(&mut self, id: StreamId, conn: &mut Connection) {
        self.with_dialogue(id, conn, |dialogue, sink| dialogue.pump(sink));
    }

    /// Hands the frames of this turn to the connection.
    pub(super) fn flush(&mut self, conn: &mut Connection) {
        while let Some(id) = self.dirty.pop() {
            if let Some(Entry::Live(live)) = self.by_id.get_mut(&id) {
                live.flush(conn);
            }
        }
    }

    /// Gives up what should have ended by now.
    pub(super) fn sweep(&mut self, now: Instant, conn: &mut Connection) {
        let (mut over, mut late) = (Vec::new(), Vec::new());
        for (id, entry) in &self.by_id {
            match entry {
                Entry::Closing { since, read_on: true } if now < *since + READ_ON => {}
                Entry::Unopened { since, .. } | Entry::Closing { since, .. } if now >= *since + LINGER => {
                    over.push(*id)
                }
                Entry::Live(live) if live.dialogue.wants_sweep() => late.push(*id),
                Entry::Unopened { .. } | Entry::Closing { .. } | Entry::Live(_) => {}
            }
        }
        for id in over {
            self.by_id.remove(&id);
            conn.reset_stream(id);
        }
        for id in late {
            self.with_dialogue(id, conn, |dialogue, sink| dialogue.sweep(now, sink));
        }
    }

    /// The session has ended.
    pub(super) fn fail(&mut self, error: &Error) {
        for (_, entry) in self.by_id.drain() {
            if let Entry::Live(mut live) = entry {
                live.fail(error);
            }
        }
    }
}

fn facts_of_theirs(frame: &Frame<Bytes>) -> Option<Facts> {
    if frame.header.kind != FrameType::Open {
        return None;
    }
    let call = CallHead::parse(&frame.head).ok()?;
    Some(Facts {
        name: call.name.into(),
        peer: Peer::from_wire(call.sender()),
        meta: Bytes::copy_from_slice(call.meta),
        headers: call.headers().collect(),
    })
}

fn open_error(error: OpenError) -> Error {
    let code = match error {
        OpenError::GoingAway => ErrorCode::GatewayDraining,
        OpenError::TooMany { .. } | OpenError::Backlog => ErrorCode::Overloaded,
        OpenError::Exhausted => ErrorCode::SessionClosed,
    };
    Error::new(code, error.to_string())
}

fn as_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

// === impl Live ===

impl Live {
    /// Bytes of this stream that wait to be written.
    fn waiting(&self) -> usize {
        self.shared.queued() + self.out.len()
    }

    fn put_open_ack(&mut self, error: Option<&Error>) {
        let reply = error.map_or_else(ReplyBuilder::new, |error| ReplyBuilder::error(error.to_wire()));
        let mut head = Vec::with_capacity(reply.encoded_len());
        reply.encode(&mut head);
        if let Ok(header) = FrameHeader::new(FrameType::OpenAck, 0).with_lens(head.len(), 0) {
            self.out.reserve(HEADER_LEN + head.len());
            self.out.extend_from_slice(&header.encode());
            self.out.extend_from_slice(&head);
        }
    }

    fn flush(&mut self, conn: &mut Connection) {
        flush(&mut self.out, &self.shared, conn);
    }

    fn fail(&mut self, error: &Error) {
        if let Stage::Opening(promise) = std::mem::replace(&mut self.stage, Stage::Open) {
            promise.fulfil(Err(error.clone()));
        }
        self.dialogue.fail(error);
        self.shared.fail(error.clone());
    }
}

fn flush(out: &mut Vec<u8>, shared: &Shared, conn: &mut Connection) {
    if !out.is_empty() {
        shared.queue(out.len());
        conn.outbox().push_stream(shared.id, std::mem::take(out).into(), true);
    }
}

// === impl StreamSink ===

impl Sink for StreamSink<'_> {
    fn small(&mut self, len: usize) -> &mut Vec<u8> {
        self.out.reserve(len);
        self.out
    }

    fn piece(&mut self, _flow: u64, lead: Bytes, body: Bytes) {
        flush(self.out, self.shared, self.conn);
        for part in [lead, body] {
            if !part.is_empty() {
                self.shared.queue(part.len());
                self.conn.outbox().push_stream(self.shared.id, part, true);
            }
        }
    }

    /// Never: all frames of a stream keep their order anyway.
    fn waits(&mut self, _flow: u64) -> bool {
        false
    }

    /// What is queued on a stream cannot be taken out of it.
    fn drop_flow(&mut self, _flow: u64) {}

    fn room(&self) -> bool {
        self.shared.queued() < FRAGMENTS_AHEAD
    }
}
