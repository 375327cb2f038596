//! Geminio peers, which do the same as the native ones: edges and services of the Go system among all others. They know whole packets
//! where native peers know frames, closes where those know halves and resets, and texts instead of codes.

use std::collections::BTreeMap;

use bytes::Bytes;
use frontier_gateway::{
    core::{Bound, message::Msg, stats::OpKind},
    sim::{guest::Guest, net::Ending, stage::Path},
};
use frontier_wire::{
    error::ErrorCode,
    geminio::{
        connection::{Event, Operation},
        data::{Content, Data, Object, decode, split_tail},
        dialogue::DialogueId,
        packet::{FIRST_SESSION, PacketHeader, PacketType},
        text as texts,
    },
};

use super::{
    agent::Phase,
    ledger::{Op, Verdict, Wire},
    operations::REPLY_SALT,
    plan::{ANSWERS, Act, Answer, GRANTS, Grant},
    streams::SIDE_SALT,
    world::{CALLBACKS, GUESTS, Later, METHODS, NOBODYS, SERVICES, TOPICS, World},
};

const FIRST: DialogueId = DialogueId::FIRST;

/// One geminio peer.
pub(crate) struct GuestAgent {
    pub guest: Guest,
    pub bound: Bound,
    pub phase: Phase,
    pub id: u64,
    pub epoch: u64,
    pub begun_at: u64,
    /// Names it offers: it cannot take one back.
    pub offered: BTreeMap<&'static str, u64>,
    /// Unanswered, by packet: the number in the ledger.
    pub ops: BTreeMap<u64, usize>,
    /// The token of its timer.
    timer: u64,
    /// The network takes whatever it writes.
    roomy: bool,
    /// Its end of the connection is closed.
    gone: bool,
    tasks: BTreeMap<u64, Task>,
    /// Streams it has opened and does not know to be open.
    opening: BTreeMap<DialogueId, usize>,
    lines: BTreeMap<DialogueId, Line>,
    /// Raw bytes kept back.
    kept: Vec<(DialogueId, usize)>,
}

/// An operation that it is to answer.
#[derive(Clone, Copy, Debug)]
struct Task {
    kind: OpKind,
    what: Asked,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    /// Something that a peer has started.
    Op(usize),
    /// Something that the gateway asks about an edge.
    Callback(&'static str),
}

/// Its end of a stream.
#[derive(Clone, Copy, Debug)]
struct Line {
    wire: usize,
    side: usize,
    /// It has closed it, and drops what still comes.
    closed: bool,
}

// --- coming and going ---

impl World {
    pub(crate) fn new_guest(&mut self, bound: Bound) {
        let path = self.plan.path(&mut self.rng);
        let shard = self.rng.below(u64::from(self.plan.shards)) as u16;
        let mut offered = BTreeMap::new();
        let (wish, meta) = match bound {
            Bound::Edge => {
                let size = self.rng.size(0, 40);
                (self.wish(), vec![b'x'; size])
            }
            Bound::Service => {
                let name = *self.rng.pick(&SERVICES);
                let topics: Vec<&'static str> = TOPICS.into_iter().filter(|_| self.rng.chance(500)).collect();
                let known = topics.iter().chain([&name]);
                offered.extend(known.map(|name| (*name, u64::MAX)));
                (0, format!("{{\"service\":{name:?},\"topics\":{topics:?}}}").into_bytes())
            }
        };
        let mut guest = Guest::new(&mut self.stage, bound, shard, path, wish, &meta);
        guest.greedy = true;
        let number = self.guests.len();
        self.later.push(Later::Guest(number));
        self.links.insert(guest.link, GUESTS + number);
        self.guests.push(GuestAgent {
            guest,
            bound,
            phase: Phase::Greeted,
            id: 0,
            epoch: 0,
            begun_at: self.stage.now(),
            offered,
            ops: BTreeMap::new(),
            timer: self.later.len() as u64 - 1,
            roomy: path.up.capacity == Path::PERFECT.up.capacity,
            gone: false,
            tasks: BTreeMap::new(),
            opening: BTreeMap::new(),
            lines: BTreeMap::new(),
            kept: Vec::new(),
        });
        self.note(|| format!("guest {number} dials as {bound:?} {wish}"));
        self.flush_guest(number);
    }

    /// Something may have come for a guest, or its time has.
    pub(crate) fn serve_guest(&mut self, at: usize) {
        let state = &mut self.guests[at];
        if state.gone {
            return;
        }
        let rogue = state.phase == Phase::Rogue;
        if let Err(fault) = state.guest.listen(&mut self.stage) {
            assert!(rogue, "the gateway broke the protocol towards guest {at}: {fault}");
            return self.hang_up_guest(at, Ending::Reset);
        }
        let heard = std::mem::take(&mut state.guest.heard);
        for event in heard {
            if !rogue {
                self.hear_guest(at, event);
            }
        }
        if self.stage.ended(self.guests[at].guest.link).is_some() {
            self.hang_up_guest(at, Ending::Closed);
        }
        self.flush_guest(at);
    }

    fn flush_guest(&mut self, at: usize) {
        let state = &mut self.guests[at];
        if !state.gone {
            state.guest.flush(&mut self.stage, state.timer);
        }
    }

    pub(crate) fn hang_up_guest(&mut self, at: usize, how: Ending) {
        let state = &mut self.guests[at];
        if !std::mem::replace(&mut state.gone, true) {
            state.phase = Phase::Over;
            self.stage.hang_up(state.guest.link, how);
            self.note(|| format!("guest {at} hangs up: {how:?}"));
        }
    }

    /// From now on it reads, and gives back what it has kept.
    pub(crate) fn calm_guest(&mut self, at: usize) {
        let (now, state) = (self.stage.now(), &mut self.guests[at]);
        state.guest.frozen = false;
        for (dialogue, n) in std::mem::take(&mut state.kept) {
            state.guest.conn.release(dialogue, n, now);
        }
        self.serve_guest(at);
    }

    pub(crate) fn guest_act(&mut self, act: Act) {
        let ready = |(_, guest): &(usize, &GuestAgent)| guest.phase == Phase::Ready;
        let here: Vec<usize> = self.guests.iter().enumerate().filter(ready).map(|(at, _)| at).collect();
        if here.is_empty() {
            return;
        }
        let at = *self.rng.pick(&here);
        match act {
            Act::Call => self.guest_starts(at, OpKind::Call),
            Act::Publish => self.guest_starts(at, OpKind::Message),
            Act::Open => self.guest_opens(at),
            Act::Write => self.guest_writes(at),
            Act::Finish | Act::Reset => self.guest_closes(at),
            Act::Cancel => self.guest_cancels(at),
            Act::Names => self.guest_registers(at),
            Act::HangUp => {
                let how = *self.rng.pick(&[Ending::Closed, Ending::Reset]);
                self.hang_up_guest(at, how);
            }
            Act::CutCable => {
                self.note(|| format!("guest {at} is cut off"));
                self.stage.cut_cable(self.guests[at].guest.link);
                self.guests[at].phase = Phase::Over;
                // It tries on, but nobody hears it; nothing of that may count.
                self.guests[at].gone = true;
                self.guest_cut = true;
            }
            Act::GoAway => {
                self.note(|| format!("guest {at} leaves"));
                let now = self.stage.now();
                self.guests[at].phase = Phase::Over;
                let over = self.guests[at].guest.conn.disconnect::<Bytes>(now);
                assert!(over.is_none(), "a client waits for the answer");
            }
            Act::Mood => {
                self.guests[at].guest.frozen = true;
                let pause = *self.rng.pick(&[1_000, 100_000, 3_000_000]);
                self.after(pause, Later::Thaw(at));
            }
            Act::Kick => {
                if let Some(session) = self.stage.session(self.guests[at].guest.link) {
                    self.note(|| format!("guest {at} is kicked"));
                    self.stage.post(session.shard, Msg::Kick { session });
                }
            }
            Act::Nonsense => self.guest_babbles(at),
            Act::Edge | Act::Service | Act::AbortUpload | Act::Drain | Act::Ask | Act::Panic => {}
        }
        self.flush_guest(at);
    }

    pub(crate) fn thaw_guest(&mut self, at: usize) {
        self.guests[at].guest.frozen = false;
        self.serve_guest(at);
    }

    /// A packet that no peer may send, or none at all.
    fn guest_babbles(&mut self, at: usize) {
        let state = &mut self.guests[at];
        // Between two packets, or it would be taken for a part of one.
        if !state.roomy || state.guest.conn.sending() > 0 {
            return;
        }
        let mut bytes = Vec::new();
        let kind = *self.rng.pick(&[PacketType::Conn, PacketType::Request, PacketType::Message]);
        PacketHeader::new(kind, 7).put(&mut bytes, b"\0\0\0\0\0\0\0\x01\0\0{x");
        self.stage.write(state.guest.link, &[&bytes]);
        state.phase = Phase::Rogue;
        self.note(|| format!("guest {at} breaks the rules: {kind:?}"));
        self.after(1_000_000, Later::GuestHangsUp(at));
    }

    // --- hearing

    fn hear_guest(&mut self, at: usize, event: Event<Bytes>) {
        match event {
            Event::Welcome { client } => self.guest_welcome(at, client),
            Event::Rejected(data) => {
                self.note(|| format!("guest {at} is refused: {}", data.error()));
                self.count("guests: refused");
                self.hang_up_guest(at, Ending::Closed);
            }
            Event::Request(operation) => self.guest_asked(at, &operation, OpKind::Call),
            Event::Message(operation) => self.guest_asked(at, &operation, OpKind::Message),
            Event::Response { packet, dialogue, data } => {
                assert_eq!(dialogue, FIRST, "nothing was asked on a stream");
                self.guest_answered(at, packet, OpKind::Call, &data);
            }
            Event::Acked { packet, dialogue, data } => {
                assert_eq!(dialogue, FIRST, "nothing was asked on a stream");
                self.guest_answered(at, packet, OpKind::Message, &data);
            }
            Event::Open { dialogue, data } => self.guest_offered(at, dialogue, &data),
            Event::Opened { opening, dialogue } => self.guest_opened(at, opening, dialogue),
            Event::OpenFailed { dialogue } => self.guest_gives_up(at, dialogue),
            Event::Raw(dialogue, bytes) => self.guest_reads(at, dialogue, &bytes),
            Event::Closed { dialogue } => self.guest_line_over(at, dialogue),
            // An answer is due all the same.
            Event::Cancelled { .. } | Event::RegisterDone { .. } => {}
            Event::Leaving => {
                self.note(|| format!("guest {at} is told to go"));
                self.guests[at].phase = Phase::Over;
            }
            Event::Over(_) => self.hang_up_guest(at, Ending::Closed),
            Event::Hello { .. }
            | Event::Registered { .. }
            | Event::AnswerTooLarge { .. }
            | Event::Stalled { .. } => unreachable!("guest {at} hears {event:?}"),
        }
    }

    fn guest_welcome(&mut self, at: usize, id: u64) {
        let (now, link) = (self.stage.now(), self.guests[at].guest.link);
        let registry = &self.stage.shared().registry;
        // Geminio knows no epochs; it may have been replaced before it hears of its welcome.
        let own = registry.edge(id).is_some_and(|session| self.stage.session(link) == Some(session));
        let epoch = registry.card(id).filter(|_| own).map_or(0, |card| card.epoch);
        let state = &mut self.guests[at];
        assert_eq!(state.phase, Phase::Greeted, "guest {at} is welcomed twice");
        (state.phase, state.id, state.epoch, state.begun_at) = (Phase::Ready, id, epoch, now);
        self.note(|| format!("guest {at} is welcome as {id}, epoch {epoch}"));
        self.count("guests: welcome");
        if self.guests[at].bound == Bound::Service {
            for _ in 0..self.rng.below(4) {
                self.guest_registers(at);
            }
            return;
        }
        let holder = self.ledger.holders.entry(id).or_insert((GUESTS + at, 0, now));
        if holder.1 < epoch {
            *holder = (GUESTS + at, epoch, now);
        }
    }

    fn guest_registers(&mut self, at: usize) {
        let callback = self.guests[at].bound == Bound::Service && !self.plan.keeper && self.rng.chance(200);
        let name = if callback { *self.rng.pick(&CALLBACKS) } else { *self.rng.pick(&METHODS) };
        let state = &mut self.guests[at];
        if state.guest.conn.register(name.as_bytes()).is_ok() {
            state.offered.insert(name, u64::MAX);
            self.note(|| format!("guest {at} registers {name}"));
        }
    }
}

// --- operations ---

impl World {
    fn guest_starts(&mut self, at: usize, kind: OpKind) {
        let service = self.guests[at].bound == Bound::Service;
        let names = if kind == OpKind::Call { METHODS } else { TOPICS };
        let name = match self.rng.below(40) {
            0 => NOBODYS,
            1 if !service && kind == OpKind::Call => CALLBACKS[0],
            _ => *self.rng.pick(&names),
        };
        let edge = if service { self.some_edge() } else { 0 };
        let len = self.plan.size(&mut self.rng);
        let (token, now) = (self.ledger.ops.len(), self.stage.now());
        let mut custom = (token as u64).to_be_bytes().to_vec();
        if service {
            custom.extend_from_slice(&edge.to_be_bytes());
        }
        let value = self.content.whole(token, len);
        let object =
            Object { value: Content::Plain(&value), custom: Content::Plain(&custom), ..Object::default() };
        let conn = &mut self.guests[at].guest.conn;
        let sent = match kind {
            OpKind::Message => {
                conn.publish(FIRST, 0, &Object { topic: name, ..object }, now).map(|sent| sent.packet)
            }
            OpKind::Call | OpKind::Stream => {
                conn.request(FIRST, &Object { key: Content::Plain(name.as_bytes()), ..object })
            }
        };
        let Ok(packet) = sent else { return };
        self.guests[at].ops.insert(packet, token);
        self.ledger.sent[kind as usize] += 1;
        self.ledger.ops.push(Op {
            from: GUESTS + at,
            kind,
            name,
            edge,
            len,
            sent_at: now,
            timeout: self.stage.shared().settings.call_timeout,
            cancelled: false,
            delivered: None,
            verdict: None,
            credit: Default::default(),
            answer: None,
        });
        self.note(|| {
            format!("guest {at} starts {token} as {packet}: {kind:?} {name} of edge {edge}, {len} bytes")
        });
    }

    /// Sends RequestCancel, which the connection itself sends to nobody who has not sent one.
    fn guest_cancels(&mut self, at: usize) {
        let state = &mut self.guests[at];
        let calls = state.ops.iter().filter(|(_, token)| self.ledger.ops[**token].kind == OpKind::Call);
        let calls: Vec<(u64, usize)> = calls.map(|(packet, token)| (*packet, *token)).collect();
        if calls.is_empty() || !state.roomy || state.guest.conn.sending() > 0 {
            return;
        }
        let (packet, token) = *self.rng.pick(&calls);
        let mut bytes = Vec::new();
        let body = [&FIRST_SESSION.to_be_bytes()[..], &[0, 1]].concat();
        PacketHeader::new(PacketType::RequestCancel, packet).put(&mut bytes, &body);
        self.stage.write(state.guest.link, &[&bytes]);
        self.ledger.ops[token].cancelled = true;
        self.note(|| format!("guest {at} cancels {token}"));
    }

    fn guest_answered(&mut self, at: usize, packet: u64, kind: OpKind, data: &Data<Bytes>) {
        let Some(token) = self.guests[at].ops.remove(&packet) else {
            unreachable!("guest {at} is answered {packet} although nothing waits for it: {data:?}");
        };
        let (now, max) = (self.stage.now(), self.stage.shared().settings.body);
        let op = &self.ledger.ops[token];
        assert_eq!(op.kind, kind, "operation {token}");
        let heard = if data.error().is_empty() {
            let value = decode(data.value());
            assert!(self.content.check(token + REPLY_SALT, 0, &value), "answer of {token} is spoilt");
            Ok(value.len())
        } else {
            let code = texts::code(data.error());
            // What breaks off is told as an error like any other.
            Err((code, code == ErrorCode::Application && op.verdict == Some(Verdict::Abort)))
        };
        self.note(|| format!("guest {at} hears {heard:?} of {token}"));
        match (kind, heard) {
            (OpKind::Message, Ok(_)) => self.count("guests: message ok"),
            (_, Ok(_)) => self.count("guests: call ok"),
            (_, Err((ErrorCode::Cancelled, _))) => self.count("guests: call cancelled"),
            (_, Err(_)) => {}
        }
        self.ledger.answer(token, heard, now, max);
        if let Err((ErrorCode::SessionClosed | ErrorCode::Overloaded, _)) = heard {
            // That may have been said by the protocol, which counts nothing.
            self.ledger.answers[kind as usize] -= 1;
        }
    }

    fn guest_asked(&mut self, at: usize, operation: &Operation<Bytes>, kind: OpKind) {
        let data = &operation.data;
        let (key, custom) = (decode(data.key()), decode(data.custom()));
        let callback = CALLBACKS.into_iter().find(|callback| callback.as_bytes() == key);
        let what = match callback {
            Some(callback) => {
                self.note(|| format!("guest {at} is asked {callback}"));
                self.ledger.asked += 1;
                Asked::Callback(callback)
            }
            None => Asked::Op(self.guest_gets(at, data, kind, &key, custom)),
        };
        self.guests[at].tasks.insert(operation.id, Task { kind, what });
        match ANSWERS[self.rng.weighted(&self.plan.answers)] {
            Answer::Now | Answer::Early | Answer::Twice => self.guest_answers(at, operation.id),
            Answer::Later => {
                let pause = *self.rng.pick(&[1_000, 30_000, 400_000, 2_500_000]);
                self.after(pause, Later::GuestAnswers(at, operation.id));
            }
            Answer::Never => {}
        }
    }

    /// An operation has come; its number.
    fn guest_gets(
        &mut self,
        at: usize,
        data: &Data<Bytes>,
        kind: OpKind,
        key: &[u8],
        mut custom: Vec<u8>,
    ) -> usize {
        let mut sender = None;
        if self.guests[at].bound == Bound::Service {
            let (front, edge) = split_tail(data.custom()).expect("services are told who it was");
            (custom, sender) = (front, Some(edge));
        }
        let token = custom.try_into().map(u64::from_be_bytes).expect("every operation has its number");
        let token = usize::try_from(token).expect("small");
        self.ledger.deliver(token, GUESTS + at, self.guests[at].begun_at);
        let op = &self.ledger.ops[token];
        let name = if kind == OpKind::Message { data.topic().as_bytes() } else { key };
        assert_eq!((op.kind, op.name.as_bytes()), (kind, name), "operation {token}");
        if let Some(edge) = sender {
            assert_eq!(edge, self.id_of(op.from), "sender of operation {token}");
        }
        self.check_receiver(GUESTS + at, op.name, op.edge, op.sent_at, || format!("operation {token}"));
        let value = decode(data.value());
        assert_eq!(value.len(), op.len, "operation {token} has another length");
        assert!(self.content.check(token, 0, &value), "body of {token} is spoilt");
        self.note(|| format!("guest {at} gets {token}"));
        token
    }

    pub(crate) fn guest_answers(&mut self, at: usize, id: u64) {
        let mut errors = self.rng.chance(self.plan.errors);
        let Some(task) = self.guests[at].tasks.remove(&id) else { return };
        if self.guests[at].phase != Phase::Ready {
            return;
        }
        let value = match task.what {
            Asked::Callback(callback) => {
                // Or hardly any edge would ever come in.
                errors &= self.rng.chance(250);
                let edge = if self.rng.chance(300) { 0 } else { self.rng.between(1, self.plan.ids) };
                if callback == CALLBACKS[0] { edge.to_be_bytes().to_vec() } else { Vec::new() }
            }
            Asked::Op(token) => {
                let message = task.kind == OpKind::Message;
                let len = if errors || message { 0 } else { self.plan.size(&mut self.rng) };
                self.ledger.ops[token].verdict =
                    Some(if errors { Verdict::Error } else { Verdict::Fine(len) });
                self.note(|| format!("guest {at} answers {token}: {len} bytes, error: {errors}"));
                self.content.whole(token + REPLY_SALT, len)
            }
        };
        let answer = if errors {
            Object { error: "no", ..Object::default() }
        } else {
            Object { value: Content::Plain(&value), ..Object::default() }
        };
        self.guests[at].guest.conn.respond(id, &answer);
        self.flush_guest(at);
    }
}

// --- streams ---

impl World {
    fn guest_opens(&mut self, at: usize) {
        let service = self.guests[at].bound == Bound::Service;
        let name = *self.rng.pick(&SERVICES);
        let edge = if service { self.some_edge() } else { 0 };
        let peer = if service { edge.to_string() } else { name.to_owned() };
        let (wire, now) = (self.ledger.wires.len(), self.stage.now());
        let number = (wire as u64).to_be_bytes();
        let state = &mut self.guests[at];
        let Ok(dialogue) = state.guest.conn.open(&peer, Content::Plain(&number), now) else { return };
        state.opening.insert(dialogue, wire);
        let end = Some((GUESTS + at, dialogue.0));
        self.ledger.wires.push(Wire { ends: [end, None], edge, name, sent_at: now, ..Wire::default() });
        self.ledger.sent[OpKind::Stream as usize] += 1;
        self.note(|| format!("guest {at} opens stream {wire} to {name} {edge}"));
    }

    fn guest_opened(&mut self, at: usize, opening: DialogueId, dialogue: DialogueId) {
        let state = &mut self.guests[at];
        let Some(wire) = state.opening.remove(&opening) else {
            unreachable!("guest {at} has not opened {opening:?}");
        };
        state.lines.insert(dialogue, Line { wire, side: 0, closed: false });
        let known = &mut self.ledger.wires[wire];
        (known.ends[0], known.heard) = (Some((GUESTS + at, dialogue.0)), Some(None));
        self.note(|| format!("guest {at} has stream {wire}"));
    }

    /// The time for an opening is over at the guest; whoever accepts later is told at once that it has ended.
    fn guest_gives_up(&mut self, at: usize, dialogue: DialogueId) {
        let Some(wire) = self.guests[at].opening.remove(&dialogue) else { return };
        let known = &mut self.ledger.wires[wire];
        if known.ends[0] == Some((GUESTS + at, dialogue.0)) {
            (known.finished[0], known.reset[0]) = (true, true);
            self.note(|| format!("guest {at} gives up stream {wire}"));
        }
    }

    fn guest_offered(&mut self, at: usize, dialogue: DialogueId, data: &Data<Bytes>) {
        let number = decode(data.meta()).try_into().map(u64::from_be_bytes);
        let wire = usize::try_from(number.expect("every stream has its number")).expect("small");
        let known = &mut self.ledger.wires[wire];
        assert_eq!(known.ends[1], None, "stream {wire} is offered twice");
        known.ends[1] = Some((GUESTS + at, dialogue.0));
        let (opener, _) = known.ends[0].expect("somebody has opened it");
        let (name, edge, sent_at) = (known.name, known.edge, known.sent_at);
        assert_eq!(data.peer(), self.id_of(opener).to_string(), "opener of stream {wire}");
        self.check_receiver(GUESTS + at, name, edge, sent_at, || format!("stream {wire}"));
        self.note(|| format!("guest {at} is offered stream {wire}"));
        self.guests[at].opening.insert(dialogue, wire);
        match self.rng.below(10) {
            0 => {}
            1..=3 => {
                let pause = self.rng.below(500_000);
                self.after(pause, Later::GuestSettles(at, dialogue));
            }
            _ => self.guest_settles(at, dialogue),
        }
    }

    pub(crate) fn guest_settles(&mut self, at: usize, dialogue: DialogueId) {
        let refuses = self.rng.chance(self.plan.errors);
        let state = &mut self.guests[at];
        let Some(wire) = state.opening.remove(&dialogue).filter(|_| state.phase == Phase::Ready) else {
            return;
        };
        let known = &mut self.ledger.wires[wire];
        // In this protocol a refusal is a stream that ends at once.
        if refuses {
            state.guest.conn.refuse(dialogue);
            (known.accepted, known.finished[1], known.deaf[1]) = (true, true, true);
        } else if state.guest.conn.accept(dialogue) {
            known.accepted = true;
            state.lines.insert(dialogue, Line { wire, side: 1, closed: false });
        }
        self.note(|| format!("guest {at} settles stream {wire}; refuses: {refuses}"));
        self.flush_guest(at);
    }

    fn guest_line(&mut self, at: usize) -> Option<DialogueId> {
        let open = self.guests[at].lines.iter().filter(|(_, line)| !line.closed);
        let open: Vec<DialogueId> = open.map(|(dialogue, _)| *dialogue).collect();
        (!open.is_empty()).then(|| *self.rng.pick(&open))
    }

    fn guest_writes(&mut self, at: usize) {
        let Some(dialogue) = self.guest_line(at) else { return };
        let mut left = self.plan.size(&mut self.rng);
        let state = &mut self.guests[at];
        let Line { wire, side, .. } = state.lines[&dialogue];
        while left > 0 {
            let sent = &mut self.ledger.wires[wire].sent[side];
            let bytes = self.content.part(wire + side * SIDE_SALT, *sent, left.min(65_536));
            let n = bytes.len();
            // False if the far end has closed it.
            if !state.guest.conn.send_raw(dialogue, bytes, false) {
                return;
            }
            *sent += n;
            left -= n;
        }
    }

    fn guest_closes(&mut self, at: usize) {
        let Some(dialogue) = self.guest_line(at) else { return };
        let now = self.stage.now();
        let state = &mut self.guests[at];
        let Some(line) = state.lines.get_mut(&dialogue) else { return };
        line.closed = true;
        let (wire, side) = (line.wire, line.side);
        let known = &mut self.ledger.wires[wire];
        (known.finished[side], known.deaf[side]) = (true, true);
        state.guest.conn.close(dialogue, now);
        self.note(|| format!("guest {at} closes stream {wire}"));
    }

    fn guest_reads(&mut self, at: usize, dialogue: DialogueId, bytes: &[u8]) {
        let Some(line) = self.guests[at].lines.get(&dialogue).copied() else {
            unreachable!("guest {at} gets bytes of {dialogue:?}, which it does not have");
        };
        let (wire, from) = (line.wire, 1 - line.side);
        let known = &mut self.ledger.wires[wire];
        let here = known.got[from];
        assert!(
            self.content.check(wire + from * SIDE_SALT, here, bytes),
            "stream {wire} is spoilt at {here}"
        );
        known.got[from] += bytes.len();
        assert!(known.got[from] <= known.sent[from], "more comes out of stream {wire} than went in");
        let grant = if self.calm { Grant::Now } else { GRANTS[self.rng.weighted(&self.plan.grants)] };
        match grant {
            Grant::Now => self.guest_releases(at, dialogue, bytes.len()),
            Grant::Later => {
                let pause = self.rng.below(200_000);
                self.after(pause, Later::GuestReleases(at, dialogue, bytes.len()));
            }
            Grant::Never => self.guests[at].kept.push((dialogue, bytes.len())),
        }
    }

    pub(crate) fn guest_releases(&mut self, at: usize, dialogue: DialogueId, n: usize) {
        let now = self.stage.now();
        self.guests[at].guest.conn.release(dialogue, n, now);
        // It may read again.
        self.after(0, Later::Guest(at));
    }

    fn guest_line_over(&mut self, at: usize, dialogue: DialogueId) {
        self.guests[at].opening.remove(&dialogue);
        let Some(line) = self.guests[at].lines.remove(&dialogue) else { return };
        let (wire, other) = (line.wire, 1 - line.side);
        let known = &mut self.ledger.wires[wire];
        known.finished[line.side] = true;
        let known = &self.ledger.wires[wire];
        self.note(|| format!("guest {at} hears the end of stream {wire}: {known:?}"));
        let there = known.ends[other].is_some_and(|(who, _)| self.is_there(who));
        // Of a refusal an opener of geminio hears that it has the stream and that it has ended. Here nobody refused in time, and
        // whoever accepted did so too late.
        let settings = &self.plan.settings;
        let late = self.stage.now() >= known.sent_at + settings.call_timeout.min(settings.max_call_timeout);
        let refused = line.side == 0 && known.got[other] == 0 && late;
        if line.closed || !known.finished[other] || known.reset.contains(&true) || !there || refused {
            return;
        }
        assert_eq!(known.got[other], known.sent[other], "bytes of stream {wire} are lost");
        if known.got[other] > 0 {
            self.count("guests: streams read to their end");
        }
    }

    /// Whether a guest still has its end of a stream.
    pub(crate) fn guest_has_line(&self, at: usize, dialogue: u64) -> bool {
        self.guests[at].lines.contains_key(&DialogueId(dialogue))
    }
}
