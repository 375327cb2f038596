//! Connections of geminio. A script begins with what runs it: a connection of either role against a hostile peer, or two connections joined
//! by a link that delivers any number of bytes at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use frontier_wire::geminio::{
    connection::{Connection, Event, Fault},
    data::{Content, Object, decode},
    dialogue::DialogueId,
    limits::{Limits, Micros, PacketLimits},
    packet::{PacketHeader, PacketType},
};

use super::script::{Noise, Script};

/// Bytes queued by the user of a connection, at most; it stands for the limits of a gateway.
const MAX_QUEUED: usize = 1 << 20;
const MS: Micros = 1_000;

fn limits() -> Arc<Limits> {
    Arc::new(Limits {
        packet: PacketLimits { body: 100_000, control: 4_096, name: 64 },
        dialogues: 6,
        opening: 4,
        silent: 6,
        operations: 20,
        unacked: 3,
        waiting: 8,
        waiting_bytes: 10_000,
        stream_packet: 1_000,
        ..Limits::default()
    })
}

pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.u8() % 3 {
        0 => hostile(Connection::serve(limits(), 0), &mut script),
        1 => hostile(Connection::dial(limits(), 7, b"meta", 0), &mut script),
        _ => pair(&mut script),
    }
}

/// A call or message: where, and its number.
type Sent = (DialogueId, u64);

/// One end: a connection, what its user has under way, and what it got.
struct End {
    connection: Connection,
    /// Calls and messages by packet, and how often each was answered.
    calls: BTreeMap<u64, (Sent, u32)>,
    messages: BTreeMap<u64, (Sent, u32)>,
    /// Messages in the order they were sent, and came.
    published: Vec<Sent>,
    received: Vec<Sent>,
    /// Unanswered ones of the peer.
    inbox: Vec<u64>,
    offers: Vec<DialogueId>,
    dialogues: Vec<DialogueId>,
    /// Closed or refused by this end's user.
    closed: BTreeSet<DialogueId>,
    raw_sent: BTreeMap<DialogueId, Vec<u8>>,
    raw_got: BTreeMap<DialogueId, Vec<u8>>,
    next: u64,
    over: bool,
}

impl End {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            calls: BTreeMap::new(),
            messages: BTreeMap::new(),
            published: Vec::new(),
            received: Vec::new(),
            inbox: Vec::new(),
            offers: Vec::new(),
            dialogues: Vec::new(),
            closed: BTreeSet::new(),
            raw_sent: BTreeMap::new(),
            raw_got: BTreeMap::new(),
            next: 1,
            over: false,
        }
    }

    /// Something its user does.
    fn act(&mut self, script: &mut Script<'_>, noise: &mut Noise, now: Micros) {
        let (op, pick, len) = (script.u8() % 12, usize::from(script.u8()), script.usize());
        let room = self.connection.held() < MAX_QUEUED;
        let dialogue = self.dialogues.get(pick % self.dialogues.len().max(1)).copied();
        let somewhere = dialogue.filter(|_| pick % 3 > 0).unwrap_or(DialogueId::FIRST);
        match (op, dialogue) {
            (0, _) => {
                let _ = self.connection.open("peer", Content::Plain(b"meta"), now);
            }
            (1, _) => self.decide(pick % 4 > 0),
            (2 | 3, _) if room => self.call(somewhere, len, noise),
            (4 | 5, _) if room => self.publish(somewhere, len % 4_000, noise, now),
            (6 | 7, _) => self.answer(pick),
            (8, Some(dialogue)) if room => self.write_raw(dialogue, len % 9_000, noise),
            (9, Some(dialogue)) => {
                self.closed.insert(dialogue);
                self.connection.close(dialogue, now);
            }
            (10, _) => {
                let waiting = self.messages.iter().nth(pick % self.messages.len().max(1));
                let waiting = waiting.map(|(packet, (sent, _))| (*packet, *sent));
                if let Some((packet, sent)) = waiting
                    && self.connection.take_back(sent.0, packet)
                {
                    self.messages.remove(&packet);
                    self.published.retain(|published| *published != sent);
                }
            }
            (_, _) => {
                let _ = self.connection.register(b"method");
            }
        }
    }

    fn payload(&mut self, len: usize, noise: &mut Noise) -> (u64, Vec<u8>) {
        let number = self.next;
        self.next += 1;
        let mut bytes = number.to_be_bytes().to_vec();
        noise.fill(&mut bytes, len);
        (number, bytes)
    }

    fn call(&mut self, dialogue: DialogueId, len: usize, noise: &mut Noise) {
        let (number, bytes) = self.payload(len, noise);
        let object = Object { key: Content::Plain(b"m"), value: Content::Plain(&bytes), ..Object::default() };
        if let Ok(packet) = self.connection.request(dialogue, &object) {
            self.calls.insert(packet, ((dialogue, number), 0));
        }
    }

    fn publish(&mut self, dialogue: DialogueId, len: usize, noise: &mut Noise, now: Micros) {
        let (number, bytes) = self.payload(len, noise);
        let mut encoded = Vec::new();
        Content::Plain(&bytes).put(&mut encoded);
        let object = Object { topic: "t", value: Content::Shared(encoded.into()), ..Object::default() };
        if let Ok(sent) = self.connection.publish(dialogue, 7, &object, now) {
            self.messages.insert(sent.packet, ((dialogue, number), 0));
            self.published.push((dialogue, number));
        }
    }

    fn answer(&mut self, pick: usize) {
        if !self.inbox.is_empty() {
            let operation = self.inbox.swap_remove(pick % self.inbox.len());
            self.connection.respond(operation, &Object { error: "no", ..Object::default() });
        }
    }

    fn decide(&mut self, accept: bool) {
        let Some(dialogue) = self.offers.pop() else { return };
        if !accept {
            self.closed.insert(dialogue);
            self.connection.refuse(dialogue);
        } else if self.connection.accept(dialogue) {
            self.dialogues.push(dialogue);
        }
    }

    fn write_raw(&mut self, dialogue: DialogueId, len: usize, noise: &mut Noise) {
        let mut bytes = Vec::new();
        noise.fill(&mut bytes, len);
        if self.connection.send_raw(dialogue, Bytes::from(bytes.clone()), true) {
            self.raw_sent.entry(dialogue).or_default().extend(bytes);
        }
    }

    /// Writes at most `n` bytes to the link.
    fn write(&mut self, n: usize, link: &mut Vec<u8>, now: Micros) -> usize {
        self.connection.fill(n, now);
        if !self.connection.wants_write(now) {
            return 0;
        }
        let mut slices = Vec::new();
        self.connection.slices(&mut slices, 64);
        let before = link.len();
        for slice in &slices {
            let room = n - (link.len() - before);
            link.extend(&slice[..room.min(slice.len())]);
        }
        drop(slices);
        let written = link.len() - before;
        self.connection.written(written, |_, _| {});
        written
    }

    /// Reads what is on the link, about `cut` bytes at a time.
    fn read(&mut self, mut input: &[u8], cut: usize, now: Micros) -> Result<(), Fault> {
        let cut = cut + input.len() / 256;
        while !input.is_empty() {
            let want = self.connection.direct_want();
            let (piece, rest) = input.split_at(cut.max(1).min(input.len()));
            if want > 0 && cut.is_multiple_of(2) {
                let n = want.min(piece.len());
                self.connection.direct_buffer().expect("wanted").extend_from_slice(&piece[..n]);
                input = &input[n..];
                if let Some(event) = self.connection.finish_direct::<Bytes>(now)? {
                    self.take(event, now);
                }
            } else {
                input = rest;
                let mut piece = Bytes::copy_from_slice(piece);
                while let Some(event) = self.connection.receive(&mut piece, now)? {
                    self.take(event, now);
                }
            }
        }
        Ok(())
    }

    fn pass(&mut self, now: Micros) {
        let mut events = 0;
        while let Some(event) = self.connection.handle_timeout::<Bytes>(now) {
            self.take(event, now);
            events += 1;
            assert!(events < 100, "time stands still");
        }
        assert!(self.connection.poll_timeout() > now, "time stands still");
    }

    fn take(&mut self, event: Event<Bytes>, now: Micros) {
        match event {
            Event::Request(operation) => self.inbox.push(operation.id),
            Event::Message(operation) => {
                let value = decode(operation.data.value());
                if let Some(number) = value.first_chunk() {
                    self.received.push((operation.dialogue, u64::from_be_bytes(*number)));
                }
                self.inbox.push(operation.id);
            }
            Event::Response { packet, .. } => {
                if let Some((_, answers)) = self.calls.get_mut(&packet) {
                    *answers += 1;
                }
            }
            Event::Acked { packet, data, .. } => {
                if let Some((sent, answers)) = self.messages.get_mut(&packet) {
                    *answers += 1;
                    if data.error() == "overloaded" {
                        // The peer's user never saw it.
                        self.published.retain(|published| published != sent);
                    }
                }
            }
            Event::Open { dialogue, .. } => self.offers.push(dialogue),
            Event::Opened { dialogue, .. } => self.dialogues.push(dialogue),
            Event::Raw(dialogue, bytes) => {
                self.raw_got.entry(dialogue).or_default().extend(&bytes[..]);
                self.connection.release(dialogue, bytes.len(), now);
            }
            Event::Closed { dialogue } => {
                self.dialogues.retain(|other| *other != dialogue);
                self.offers.retain(|other| *other != dialogue);
                // What waits on it ends with it.
                self.calls.retain(|_, (sent, _)| sent.0 != dialogue);
                self.messages.retain(|_, (sent, _)| sent.0 != dialogue);
            }
            Event::Over(_) => self.over = true,
            Event::Hello { .. }
            | Event::Welcome { .. }
            | Event::Rejected(_)
            | Event::Registered { .. }
            | Event::RegisterDone { .. }
            | Event::Cancelled { .. }
            | Event::AnswerTooLarge { .. }
            | Event::Stalled { .. }
            | Event::OpenFailed { .. }
            | Event::Leaving => {}
        }
    }
}

/// Any packets, well-formed or not, at any time.
fn hostile(connection: Connection, script: &mut Script<'_>) {
    let mut noise = Noise::new(script.u64());
    let mut end = End::new(connection);
    let (mut now, mut out, mut steps) = (0, Vec::new(), 0_u64);
    while !script.is_over() {
        steps += 1;
        let mut input = Vec::new();
        match script.u8() % 8 {
            0 => {
                let len = script.u8().into();
                input.extend(script.take(len));
            }
            1 => end.act(script, &mut noise, now),
            2 => now += Micros::from(script.u8()) * MS,
            3 => now += Micros::from(script.u8() % 50) * 1_000_000,
            4 => {
                end.connection.admit(42, now);
            }
            5 if script.u8() == 0 => {
                end.connection.disconnect::<Bytes>(now);
            }
            _ => any_packet(script, &mut noise, &mut input),
        }
        let cut = usize::from(script.u8());
        if end.read(&input, cut, now).is_err() {
            return;
        }
        end.pass(now);
        let queued = end.connection.sending();
        // Of what a peer makes us hold only answers grow with its packets, up to their limit.
        assert!(end.connection.held() <= queued + 400_000 && queued <= 4 * MAX_QUEUED);
        if steps.is_multiple_of(3) {
            out.clear();
            end.write(script.usize(), &mut out, now);
        }
        end.published.clear();
        end.received.clear();
        end.raw_got.clear();
    }
}

const TEXTS: [&str; 6] =
    ["{}", r#"{"value":"YWJj","topic":"t"}"#, r#"{"error":"no"}"#, "null", r#"{"value":"!"}"#, "{"];

fn any_packet(script: &mut Script<'_>, noise: &mut Noise, input: &mut Vec<u8>) {
    let kind = script.u8();
    let kind = match PacketType::ALL.get(usize::from(kind)) {
        Some(kind) => *kind,
        None => PacketType::from_wire(kind),
    };
    let (id, session, text) = (u64::from(script.u8()), u64::from(script.u8() % 16), script.u8());
    let mut body = session.to_be_bytes().to_vec();
    match kind.fixed_len() {
        10 => body = [&[script.u8(), 0x10][..], &body].concat(),
        18 => body = [&[0, 0][..], &body, &body].concat(),
        fixed => body.resize(fixed, 0),
    }
    if kind.is_bare() {
    } else if text & 0x80 == 0 {
        body.extend(TEXTS[usize::from(text) % TEXTS.len()].as_bytes());
    } else {
        noise.fill(&mut body, script.usize());
    }
    PacketHeader::new(kind, id).put(input, &body);
}

/// Two well-behaved ends: every call and message is answered once, order is kept, bytes arrive, and nothing is left behind.
fn pair(script: &mut Script<'_>) {
    let mut noise = Noise::new(script.u64());
    let client = End::new(Connection::dial(limits(), 7, b"meta", 0));
    let mut ends = [client, End::new(Connection::serve(limits(), 0))];
    let mut now = 0;
    exchange(&mut ends, 0, 1_000, 1_000, now);
    ends[1].connection.admit(42, now);
    now += 3_000 * MS;
    settle(&mut ends, &mut now);
    assert!(ends.iter().all(|end| end.connection.is_ready()));
    while !script.is_over() {
        let op = script.u8();
        let side = usize::from(op & 1);
        match op / 2 % 4 {
            0 | 1 => ends[side].act(script, &mut noise, now),
            2 => {
                exchange(&mut ends, side, script.usize(), script.u8().into(), now);
            }
            _ => {
                now += Micros::from(script.u8()) * 40;
                ends.iter_mut().for_each(|end| end.pass(now));
            }
        }
    }
    // Everybody answers what is left, then all is closed.
    for _ in 0..2_000 {
        settle(&mut ends, &mut now);
        if ends.iter().all(|end| end.inbox.is_empty() && end.offers.is_empty()) {
            break;
        }
        for end in &mut ends {
            end.decide(true);
            end.answer(0);
        }
    }
    for (from, to) in [(0, 1), (1, 0)] {
        arrived(&ends[from], &ends[to]);
    }
    for end in &mut ends {
        for dialogue in end.dialogues.clone() {
            end.connection.close(dialogue, now);
        }
    }
    settle(&mut ends, &mut now);
    for end in &ends {
        assert_eq!(end.connection.held(), 0);
        assert!(end.dialogues.is_empty());
    }
    ends[usize::from(now.is_multiple_of(2))].connection.disconnect::<Bytes>(now);
    settle(&mut ends, &mut now);
    assert!(ends.iter().all(|end| end.over));
}

/// Moves bytes until there are no more, however long they have to wait for their turn.
fn settle(ends: &mut [End; 2], now: &mut Micros) {
    let mut quiet = 0;
    while quiet < 3 {
        let moved = exchange(ends, 0, 1 << 20, 70_000, *now) + exchange(ends, 1, 1 << 20, 70_000, *now);
        quiet = if moved == 0 { quiet + 1 } else { 0 };
        *now += MS / 2;
        ends.iter_mut().for_each(|end| end.pass(*now));
    }
}

/// Moves up to `n` bytes from `ends[from]` to the other end.
fn exchange(ends: &mut [End; 2], from: usize, n: usize, cut: usize, now: Micros) -> usize {
    let mut link = Vec::new();
    let written = ends[from].write(n, &mut link, now);
    let got = ends[1 - from].read(&link, cut, now);
    assert_eq!(got, Ok(()), "a well-behaved peer was refused");
    written
}

fn arrived(from: &End, to: &End) {
    for (what, sent) in [("call", &from.calls), ("message", &from.messages)] {
        for ((dialogue, number), answers) in sent.values() {
            assert_eq!(*answers, 1, "answers to {what} {number} on {dialogue:?}");
        }
    }
    // Each dialogue keeps its order. Of one that was closed, the last may be missing.
    let dialogues: BTreeSet<DialogueId> = from.published.iter().map(|(dialogue, _)| *dialogue).collect();
    for dialogue in dialogues {
        let of = |sent: &[Sent]| -> Vec<u64> {
            sent.iter().filter(|(other, _)| *other == dialogue).map(|(_, number)| *number).collect()
        };
        let (sent, got) = (of(&from.published), of(&to.received));
        let closed = from.closed.contains(&dialogue) || to.closed.contains(&dialogue);
        assert!(sent == got || closed && sent.starts_with(&got), "{sent:?} came as {got:?}");
    }
    for (dialogue, sent) in &from.raw_sent {
        let got = to.raw_got.get(dialogue).map_or(&[][..], Vec::as_slice);
        let dropped = to.closed.contains(dialogue);
        assert!(sent == got || dropped && sent.starts_with(got), "{} of {} bytes", got.len(), sent.len());
    }
}
