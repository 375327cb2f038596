//! A transcript once more, with one of its two sides played by our connection: it gets the packets of the other, recorded side, its user
//! does what the recorded user did, and everything it sends is checked against what peers of every generation take.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use frontier_wire::geminio::{
    connection::{Connection, Event, Fault, Role},
    data::{Content, Data, Object, decode},
    dialogue::DialogueId,
    limits::{Limits, Micros, PacketLimits},
    packet::{ACQUIRE, FIRST_SESSION, HEADER_LEN, PacketHeader, PacketType, number_at},
    reader::{Item, Packet, PacketReader},
};

use super::transcript::Line;

const START: Micros = 1_000_000;

/// What became of a replay.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Packets of the recorded peer that were taken.
    pub(crate) taken: usize,
    /// Packets that we sent.
    pub(crate) sent: usize,
    /// Of the recorded user's calls, messages, answers and raw bytes, those that could be done again.
    pub(crate) done: usize,
    pub(crate) fault: Option<Fault>,
    /// Answers that the peer waits for in vain.
    pub(crate) missing: Vec<(PacketType, u64)>,
}

/// One side of a connection.
struct Replay {
    role: Role,
    connection: Option<Connection>,
    limits: Arc<Limits>,
    now: Micros,
    /// Recorded packet IDs of our side, by what they are now.
    packets: HashMap<u64, u64>,
    /// Recorded session IDs, by what they are now.
    sessions: HashMap<u64, u64>,
    /// Our sessions whose packet has not been seen yet, by what they are now, with their recorded packet.
    opening: HashMap<u64, u64>,
    /// Calls and messages of the peer, by packet and session.
    operations: HashMap<(u64, u64), u64>,
    /// Sessions that the peer opens, by packet.
    offers: HashMap<u64, DialogueId>,
    check: Check,
    outcome: Outcome,
}

/// What peers may rely on.
#[derive(Default)]
struct Check {
    reader: PacketReader,
    greeted: bool,
    over: bool,
    /// The peer can read RequestCancel.
    cancels: bool,
    /// The packet that came last.
    last: u64,
    unacked: HashMap<u64, HashSet<u64>>,
    dismissed: HashSet<u64>,
    /// Answers that are due, by type and packet ID.
    due: HashMap<(PacketType, u64), usize>,
    /// Packets whose answer is not due, but may come.
    optional: HashSet<u64>,
    /// Packets of Session that were sent: its own ID and its packet's.
    opened: Vec<(u64, u64)>,
}

impl Check {
    /// The peer sends a packet.
    fn will_get(&mut self, packet: &[u8], role: Role) {
        let header = PacketHeader::parse(packet.first_chunk().unwrap());
        self.last = header.id;
        let session = number_at(packet, HEADER_LEN);
        let due = match header.kind {
            PacketType::Heartbeat if role == Role::Server => PacketType::HeartbeatAck,
            PacketType::Register => {
                if session != FIRST_SESSION {
                    // Only where the session is open.
                    self.optional.insert(header.id);
                }
                PacketType::RegisterAck
            }
            PacketType::Dismiss => PacketType::DismissAck,
            PacketType::DisConn => PacketType::DisConnAck,
            PacketType::RequestCancel => {
                self.cancels = true;
                return;
            }
            PacketType::MessageAck => {
                self.unacked.entry(session).or_default().remove(&header.id);
                return;
            }
            _ => return,
        };
        if self.greeted && !self.over {
            *self.due.entry((due, header.id)).or_default() += 1;
        }
    }

    /// We send; returns the number of packets.
    fn read(&mut self, mut bytes: &[u8], role: Role) -> usize {
        let mut count = 0;
        let limits = PacketLimits { control: u32::MAX, ..PacketLimits::default() };
        while let Some(item) = self.reader.next(&mut bytes, &limits).unwrap() {
            count += 1;
            match item {
                Item::Packet(packet) => self.sent(&packet, role),
                Item::Raw { session, .. } => {
                    assert!(!self.dismissed.contains(&session), "data behind our Dismiss");
                }
                Item::TooLarge { header, .. } => panic!("{} is too large", header.kind.name()),
            }
        }
        count
    }

    fn sent(&mut self, packet: &Packet<&[u8]>, role: Role) {
        let (kind, id, session) = (packet.header.kind, packet.header.id, packet.session());
        let first = if role == Role::Server { PacketType::ConnAck } else { PacketType::Conn };
        assert_eq!(!self.greeted, kind == first, "{} at the wrong time", kind.name());
        self.greeted = true;
        assert!(!kind.is_unknown());
        if let Some(fields) = kind.fields() {
            Data::parse(packet.rest.clone(), fields).unwrap();
        }
        match kind {
            PacketType::HeartbeatAck
            | PacketType::RegisterAck
            | PacketType::DismissAck
            | PacketType::DisConnAck => {
                let due = self.due.get_mut(&(kind, id)).filter(|due| **due > 0);
                *due.unwrap_or_else(|| panic!("{} of nothing", kind.name())) -= 1;
            }
            // Refused: nothing of the client is answered any more.
            PacketType::ConnAck => self.over |= packet.fixed().first() == Some(&1),
            PacketType::RequestCancel => assert!(self.cancels, "the peer cannot read RequestCancel"),
            PacketType::Message => {
                let unacked = self.unacked.entry(session).or_default();
                unacked.insert(id);
                assert!(unacked.len() <= 32, "{} messages are unread", unacked.len());
            }
            PacketType::Session => {
                assert_eq!(packet.fixed()[1], if role == Role::Client { ACQUIRE } else { 0 });
                self.opened.push((session, id));
                self.dismissed.remove(&session);
            }
            PacketType::SessionAck => {
                // Counted ones are only for peers that are not Go.
                assert!(packet.assigned() == session || session < 1 << 32);
                self.dismissed.remove(&packet.assigned());
            }
            PacketType::Dismiss => assert!(self.dismissed.insert(session), "dismissed twice"),
            _ => {}
        }
        if matches!(kind, PacketType::Message | PacketType::Request | PacketType::RequestCancel) {
            assert!(!self.dismissed.contains(&session), "{} behind our Dismiss", kind.name());
        }
    }
}

pub(crate) fn replay<'a>(role: Role, lines: impl Iterator<Item = &'a Line>) -> Outcome {
    // Recorded servers answer Conn at once, and some close what they have just accepted.
    let limits = Limits { answer_after: 0, youth: 0, ..Limits::default() };
    let mut replay = Replay {
        role,
        connection: None,
        limits: Arc::new(limits),
        now: START,
        packets: HashMap::new(),
        sessions: HashMap::new(),
        opening: HashMap::new(),
        operations: HashMap::new(),
        offers: HashMap::new(),
        check: Check::default(),
        outcome: Outcome::default(),
    };
    if role == Role::Server {
        replay.connection = Some(Connection::serve(Arc::clone(&replay.limits), START));
    }
    for line in lines {
        replay.pass(START + line.ms * 1_000);
        let packet = line.packet().unwrap();
        if line.from_client == (role == Role::Client) {
            replay.act(&packet);
        } else if !replay.take(packet) {
            break;
        }
        replay.write();
    }
    if !replay.check.over && replay.outcome.fault.is_none() {
        let check = &replay.check;
        let missing = check.due.iter().filter(|(_, count)| **count > 0).map(|(due, _)| *due);
        let missing = missing.filter(|(_, id)| !check.optional.contains(id));
        replay.outcome.missing = missing.collect();
    }
    replay.outcome
}

impl Replay {
    fn pass(&mut self, until: Micros) {
        while let Some(connection) = self.connection.as_mut() {
            let due = connection.poll_timeout();
            if due > until {
                break;
            }
            self.now = self.now.max(due);
            while let Some(event) = connection.handle_timeout::<Bytes>(self.now) {
                self.check.over |= matches!(event, Event::Over(_));
            }
            self.write();
        }
        self.now = self.now.max(until);
    }

    /// The recorded peer sends; false if that is the end.
    fn take(&mut self, mut packet: Vec<u8>) -> bool {
        self.translate(&mut packet);
        let Some(connection) = self.connection.as_mut() else { return true };
        self.check.will_get(&packet, self.role);
        self.outcome.taken += 1;
        let mut input = Bytes::from(packet);
        loop {
            match connection.receive(&mut input, self.now) {
                Ok(None) => return true,
                Ok(Some(event)) => match event {
                    Event::Request(operation) | Event::Message(operation) => {
                        let key = (self.check.last, operation.dialogue.0);
                        self.operations.insert(key, operation.id);
                    }
                    Event::Open { dialogue, .. } => {
                        self.offers.insert(self.check.last, dialogue);
                    }
                    Event::Over(_) | Event::Rejected(_) => self.check.over = true,
                    _ => {}
                },
                Err(fault) => {
                    self.outcome.fault = Some(fault);
                    return false;
                }
            }
        }
    }

    /// Gives a recorded packet the IDs that are ours now.
    fn translate(&self, packet: &mut [u8]) {
        let header = PacketHeader::parse(packet.first_chunk().unwrap());
        let answer = matches!(
            header.kind,
            PacketType::ConnAck
                | PacketType::SessionAck
                | PacketType::DismissAck
                | PacketType::MessageAck
                | PacketType::Response
                | PacketType::RegisterAck
        );
        if let Some(id) = self.packets.get(&header.id).filter(|_| answer) {
            packet[2..10].copy_from_slice(&id.to_be_bytes());
        }
        let at: &[usize] = match header.kind {
            PacketType::SessionAck if self.role == Role::Server => &[HEADER_LEN + 2, HEADER_LEN + 10],
            PacketType::SessionAck => &[HEADER_LEN + 2],
            kind if kind.fixed_len() == 8 || kind == PacketType::RequestCancel => &[HEADER_LEN],
            _ => &[],
        };
        for at in at {
            if let Some(id) = packet.get(*at..at + 8).and_then(|_| self.sessions.get(&number_at(packet, *at)))
            {
                packet[*at..at + 8].copy_from_slice(&id.to_be_bytes());
            }
        }
    }

    /// The recorded user of our side does what led to this packet.
    fn act(&mut self, bytes: &[u8]) {
        let mut reader = PacketReader::new();
        let mut input = bytes;
        let Ok(Some(item)) = reader.next(&mut input, &self.limits.packet) else { return };
        let packet = match item {
            Item::Packet(packet) => packet,
            Item::Raw { session, bytes } => {
                let dialogue = self.dialogue(session);
                if let Some(connection) = self.connection.as_mut() {
                    let sent = connection.send_raw(dialogue, Bytes::copy_from_slice(&bytes), false);
                    self.outcome.done += usize::from(sent);
                }
                return;
            }
            Item::TooLarge { .. } => return,
        };
        let data =
            packet.header.kind.fields().and_then(|fields| Data::parse(packet.rest.clone(), fields).ok());
        let Some(object) = data.as_ref().map(Data::object) else { return self.act_bare(&packet) };
        self.act_with(&packet, &object);
    }

    fn act_bare(&mut self, packet: &Packet<&[u8]>) {
        let (id, dialogue) = (packet.header.id, self.dialogue(packet.session()));
        let Some(connection) = self.connection.as_mut() else { return };
        match packet.header.kind {
            PacketType::Register => {
                if let Ok(sent) = connection.register(&packet.rest) {
                    self.packets.insert(id, sent);
                }
            }
            PacketType::RequestCancel => {
                if let Some(sent) = self.packets.get(&id) {
                    connection.cancel(dialogue, *sent);
                }
            }
            PacketType::DisConn => {
                let event = connection.disconnect::<Bytes>(self.now);
                self.check.over |= event.is_some();
            }
            _ => {}
        }
    }

    fn act_with(&mut self, packet: &Packet<&[u8]>, object: &Object<'_>) {
        let (kind, id) = (packet.header.kind, packet.header.id);
        let dialogue = self.dialogue(packet.session());
        if kind == PacketType::Conn && self.connection.is_none() {
            let meta = decode(encoded_meta(object));
            let connection = Connection::dial(Arc::clone(&self.limits), packet.client(), &meta, self.now);
            self.connection = Some(connection);
            self.packets.insert(id, 1);
            return;
        }
        let now = self.now;
        let Some(connection) = self.connection.as_mut() else { return };
        let done = match kind {
            PacketType::ConnAck if object.error.is_empty() => {
                connection.admit(packet.client(), now);
                true
            }
            PacketType::ConnAck => {
                connection.reject(object.error, now);
                true
            }
            PacketType::Request => {
                connection.request(dialogue, object).map(|sent| self.packets.insert(id, sent)).is_ok()
            }
            PacketType::Message => connection
                .publish(dialogue, 0, object, now)
                .map(|sent| self.packets.insert(id, sent.packet))
                .is_ok(),
            PacketType::Response | PacketType::MessageAck => {
                let operation = self.operations.remove(&(id, dialogue.0));
                if let Some(operation) = operation {
                    connection.respond(operation, object);
                }
                operation.is_some()
            }
            PacketType::Session => match connection.open(object.peer, object.meta.clone(), now) {
                Ok(opened) => {
                    self.sessions.insert(packet.session(), opened.0);
                    self.opening.insert(opened.0, id);
                    true
                }
                Err(_) => false,
            },
            PacketType::SessionAck => {
                let offer = self.offers.remove(&id);
                if let Some(offer) = offer {
                    self.sessions.insert(packet.assigned(), offer.0);
                    connection.accept(offer);
                }
                offer.is_some()
            }
            PacketType::Dismiss if packet.session() != FIRST_SESSION => {
                connection.close(dialogue, now);
                true
            }
            _ => return,
        };
        self.outcome.done += usize::from(done);
    }

    fn dialogue(&self, recorded: u64) -> DialogueId {
        DialogueId(self.sessions.get(&recorded).copied().unwrap_or(recorded))
    }

    /// What our side sends.
    fn write(&mut self) {
        let Some(connection) = self.connection.as_mut() else { return };
        while connection.wants_write(self.now) {
            connection.fill(1 << 20, self.now);
            let mut slices = Vec::new();
            connection.slices(&mut slices, 1_024);
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            connection.written(bytes.len(), |_, _| {});
            self.outcome.sent += self.check.read(&bytes, self.role);
            for (session, packet) in self.check.opened.drain(..) {
                if let Some(recorded) = self.opening.remove(&session) {
                    self.packets.insert(recorded, packet);
                }
            }
        }
    }
}

fn encoded_meta<'a>(object: &'a Object<'_>) -> &'a [u8] {
    match &object.meta {
        Content::Encoded(meta) => meta,
        _ => b"",
    }
}
