mod sessions;

use super::*;
use crate::geminio::{
    data::{Content, Object, decode},
    limits::PacketLimits,
    packet::number_at,
    reader::{Item, Packet},
};

const MS: Micros = 1_000;
const SECOND: Micros = 1_000_000;
/// Tests begin here, not at zero.
const START: Micros = 77 * SECOND;

type Seen = Event<bytes::Bytes>;

/// A connection, and what its scripted peer has read of it.
struct Scene {
    connection: Connection,
    now: Micros,
    reader: PacketReader,
    /// Raw bytes reported as written.
    reported: Vec<(u64, u32)>,
}

/// A packet as the scripted peer sees it.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    kind: PacketType,
    id: u64,
    body: Vec<u8>,
}

impl Scene {
    fn server(limits: Limits) -> Self {
        Self::new(Connection::serve(Arc::new(limits), START))
    }

    fn new(connection: Connection) -> Self {
        Self { connection, now: START, reader: PacketReader::new(), reported: Vec::new() }
    }

    /// A server that has let its client in, and is old enough to be closed.
    fn ready_with(limits: Limits) -> Self {
        let mut scene = Self::server(limits);
        scene.conn();
        scene.connection.admit(42, scene.now);
        scene.pass(2_500 * MS);
        assert_eq!(scene.read().len(), 1);
        scene
    }

    fn ready() -> Self {
        Self::ready_with(Limits::default())
    }

    /// A client that has been let in.
    fn client() -> Self {
        let mut scene = Self::new(Connection::dial(Arc::default(), 7, b"hi", START));
        assert_eq!(scene.read().len(), 1);
        let welcome = scene.take(PacketType::ConnAck, 1, b"\0\0\0\0\0\0\0\0\x2a{}");
        assert!(matches!(welcome[..], [Event::Welcome { client: 42 }]));
        scene
    }

    fn conn(&mut self) {
        let body = [&[0x18, 0][..], &7_u64.to_be_bytes(), br#"{"meta":"aGk="}"#].concat();
        let events = self.take(PacketType::Conn, 99, &body);
        let [Event::Hello { wanted: 7, data }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(decode(data.meta()), b"hi");
    }

    fn try_take(&mut self, bytes: &[u8]) -> Result<Vec<Seen>, Fault> {
        let mut input = bytes::Bytes::copy_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(event) = self.connection.receive(&mut input, self.now)? {
            events.push(event);
        }
        assert!(input.is_empty());
        Ok(events)
    }

    /// The peer sends a packet.
    fn take(&mut self, kind: PacketType, id: u64, body: &[u8]) -> Vec<Seen> {
        self.try_take(&packet(kind, id, body)).unwrap()
    }

    /// The peer sends a packet of a session.
    fn take_on(&mut self, kind: PacketType, id: u64, session: u64, rest: &[u8]) -> Vec<Seen> {
        self.take(kind, id, &on(session, rest))
    }

    fn open_by_peer(&mut self, negotiate: u64) -> DialogueId {
        let body = [&[0, 0x10][..], &negotiate.to_be_bytes(), br#"{"peer":"svc"}"#].concat();
        let events = self.take(PacketType::Session, 5, &body);
        let [Event::Open { dialogue, data }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(data.peer(), "svc");
        *dialogue
    }

    /// A dialogue that the peer opened, ready to be used.
    fn dialogue(&mut self) -> DialogueId {
        let dialogue = self.open_by_peer(NEGOTIATE);
        assert!(self.connection.accept(dialogue));
        assert_eq!(kinds(&self.read()), [PacketType::SessionAck]);
        dialogue
    }

    /// Everything the connection wants to write now, written.
    fn read(&mut self) -> Vec<Got> {
        let mut got = Vec::new();
        while self.connection.wants_write(self.now) {
            self.connection.fill(64 << 10, self.now);
            let mut bytes = Vec::new();
            let mut slices = Vec::new();
            self.connection.slices(&mut slices, 64);
            slices.iter().for_each(|slice| bytes.extend(&slice[..]));
            assert!(!bytes.is_empty(), "wants to write nothing");
            self.connection.written(bytes.len(), |dialogue, n| self.reported.push((dialogue.0, n)));
            let mut input = &bytes[..];
            while let Some(item) = self.reader.next(&mut input, &PacketLimits::default()).unwrap() {
                got.push(Got::new(item));
            }
        }
        got
    }

    /// Time passes, in the steps the connection asks for.
    fn pass(&mut self, micros: Micros) -> Vec<Seen> {
        let end = self.now + micros;
        let mut events = Vec::new();
        loop {
            self.now = end.min(self.connection.poll_timeout().max(self.now));
            let before = events.len();
            while let Some(event) = self.connection.handle_timeout(self.now) {
                events.push(event);
            }
            if self.now == end {
                return events;
            }
            assert!(self.connection.poll_timeout() > self.now || events.len() > before, "time stands still");
        }
    }
}

const NEGOTIATE: u64 = 0x6b03_3153_8710_52e2;

fn packet(kind: PacketType, id: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketHeader::new(kind, id).put(&mut out, body);
    out
}

fn on(session: u64, rest: &[u8]) -> Vec<u8> {
    [&session.to_be_bytes()[..], rest].concat()
}

fn kinds(got: &[Got]) -> Vec<PacketType> {
    got.iter().map(|got| got.kind).collect()
}

impl Got {
    fn new(item: Item<&[u8]>) -> Self {
        match item {
            Item::Packet(Packet { header, ref rest, .. }) => {
                let Item::Packet(packet) = &item else { unreachable!() };
                let body = [packet.fixed(), &rest[..]].concat();
                Self { kind: header.kind, id: header.id, body }
            }
            Item::Raw { session, bytes } => {
                Self { kind: PacketType::Stream, id: 0, body: on(session, &bytes) }
            }
            Item::TooLarge { .. } => panic!("a packet that no peer takes"),
        }
    }

    fn session(&self) -> u64 {
        number_at(&self.body, 0)
    }

    fn text(&self) -> &str {
        let at = self.kind.fixed_len();
        std::str::from_utf8(&self.body[at..]).unwrap()
    }
}

fn value(text: &[u8]) -> Object<'_> {
    Object { value: Content::Plain(text), ..Object::default() }
}

#[test]
fn an_idle_connection_is_small_and_holds_nothing() {
    assert!(size_of::<Connection>() <= 144, "{} bytes", size_of::<Connection>());
    let mut scene = Scene::ready();
    assert_eq!(scene.connection.held(), 0);
    // Also after it was used.
    let sent = scene.connection.publish(DialogueId::FIRST, 1, &value(b"x"), scene.now).unwrap();
    scene.read();
    scene.take_on(PacketType::MessageAck, sent.packet, 1, b"{}");
    let dialogue = scene.dialogue();
    scene.connection.close(dialogue, scene.now);
    let dismiss = scene.read()[0].id;
    scene.take_on(PacketType::DismissAck, dismiss, NEGOTIATE, b"{}");
    scene.take_on(PacketType::Dismiss, 6, NEGOTIATE, b"{}");
    scene.read();
    assert_eq!(scene.connection.held(), 0);
}

// --- handshake ---

#[test]
fn nothing_goes_out_before_the_answer_to_conn_and_that_not_at_once() {
    let mut scene = Scene::server(Limits::default());
    assert!(scene.take(PacketType::Heartbeat, 1, b"").is_empty());
    scene.conn();
    assert!(scene.take_on(PacketType::Register, 2, 1, b"early").is_empty());
    scene.connection.admit(42, scene.now);
    // A service calls it at once.
    scene.connection.request(DialogueId::FIRST, &value(b"x")).unwrap();
    assert!(scene.take_on(PacketType::Register, 3, 1, b"early").is_empty());
    assert_eq!(scene.read(), []);
    assert!(scene.pass(2 * MS).is_empty());
    let got = scene.read();
    assert_eq!(kinds(&got), [PacketType::ConnAck, PacketType::Request]);
    assert_eq!((got[0].id, &got[0].body[..]), (99, &b"\0\0\0\0\0\0\0\0\x2a{}"[..]));
    assert!(matches!(scene.take_on(PacketType::Register, 4, 1, b"m")[..], [Event::Registered { .. }]));
}

#[test]
fn a_refused_client_can_read_why() {
    let mut scene = Scene::server(Limits::default());
    scene.conn();
    scene.connection.reject("no", scene.now);
    scene.pass(2 * MS);
    let got = scene.read();
    assert_eq!(
        (got[0].kind, &got[0].body[..]),
        (PacketType::ConnAck, &b"\x01\0\0\0\0\0\0\0\0{\"error\":\"no\"}"[..])
    );
    assert!(scene.pass(990 * MS).is_empty());
    assert!(matches!(scene.pass(SECOND)[..], [Event::Over(Ending::Refused)]));
}

#[test]
fn a_handshake_ends_in_time() {
    let mut scene = Scene::server(Limits::default());
    assert!(scene.pass(9_999 * MS).is_empty());
    assert!(matches!(scene.pass(MS)[..], [Event::Over(Ending::Timeout)]));
    let mut scene = Scene::server(Limits::default());
    scene.pass(5 * SECOND);
    scene.conn();
    assert!(matches!(scene.pass(5 * SECOND)[..], [Event::Over(Ending::Timeout)]));
}

#[test]
fn a_client_is_told_its_id_or_why_not() {
    let mut scene = Scene::new(Connection::dial(Arc::default(), 7, b"hi", START));
    let got = scene.read();
    assert_eq!(got[0].kind, PacketType::Conn);
    assert_eq!(got[0].body, b"\x18\0\0\0\0\0\0\0\0\x07{\"meta\":\"aGk=\"}");
    let events = scene.take(PacketType::ConnAck, got[0].id, b"\x01\0\0\0\0\0\0\0\0{\"error\":\"no\"}");
    let [Event::Rejected(data)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(data.error(), "no");
    assert!(scene.connection.is_over());
    Scene::client();
}

#[test]
fn a_second_handshake_is_a_fault() {
    let mut scene = Scene::ready();
    let conn = packet(PacketType::Conn, 1, b"\x18\0\0\0\0\0\0\0\0\0{}");
    assert_eq!(scene.try_take(&conn).err(), Some(Fault::Unexpected(PacketType::Conn)));
    let mut scene = Scene::client();
    let ack = packet(PacketType::ConnAck, 1, b"\0\0\0\0\0\0\0\0\x2a{}");
    assert_eq!(scene.try_take(&ack).err(), Some(Fault::Unexpected(PacketType::ConnAck)));
}

// --- heartbeats ---

#[test]
fn heartbeats_are_answered_and_any_packet_shows_life() {
    let mut scene = Scene::ready();
    assert!(scene.pass(30 * SECOND).is_empty());
    scene.take(PacketType::Heartbeat, 8, b"");
    assert_eq!(scene.read(), [Got { kind: PacketType::HeartbeatAck, id: 8, body: vec![] }]);
    scene.pass(30 * SECOND);
    scene.take_on(PacketType::Register, 9, 1, b"m");
    assert!(scene.pass(39 * SECOND).is_empty());
    scene.read();
    // 40 s of silence: we leave, and then go.
    assert!(matches!(scene.pass(SECOND)[..], [Event::Leaving]));
    assert_eq!(kinds(&scene.read()), [PacketType::DisConn]);
    assert!(matches!(scene.pass(3 * SECOND)[..], [Event::Over(Ending::Timeout)]));
}

#[test]
fn how_long_a_peer_may_be_silent_is_what_it_has_said() {
    for (code, interval) in [(0, 5), (1, 20), (2, 80), (3, 320)] {
        let mut scene = Scene::server(Limits::default());
        let body = [&[code << 4 | 0x08, 0][..], &7_u64.to_be_bytes(), b"{}"].concat();
        assert!(matches!(scene.take(PacketType::Conn, 99, &body)[..], [Event::Hello { .. }]));
        scene.connection.admit(42, scene.now);
        assert!(scene.pass(2 * interval * SECOND - MS).is_empty(), "code {code}");
        assert!(matches!(scene.pass(MS)[..], [Event::Leaving]), "code {code}");
    }
}

#[test]
fn a_peer_that_is_not_read_is_not_dead() {
    let mut scene = Scene::ready_with(Limits { unreleased: 10, ..Limits::default() });
    let dialogue = scene.dialogue();
    scene.take_on(PacketType::Stream, 9, NEGOTIATE, &[0; 10]);
    assert!(scene.pass(100 * SECOND).is_empty());
    scene.connection.release(dialogue, 10, scene.now);
    assert!(matches!(scene.pass(60 * SECOND)[..], [Event::Leaving, Event::Over(_)]));
}

#[test]
fn a_client_sends_heartbeats_and_notices_a_dead_server() {
    let mut scene = Scene::client();
    scene.pass(20 * SECOND);
    let got = scene.read();
    assert_eq!(kinds(&got), [PacketType::Heartbeat]);
    scene.take(PacketType::HeartbeatAck, got[0].id, b"");
    scene.pass(39 * SECOND);
    assert!(matches!(scene.pass(SECOND)[..], [Event::Leaving]));
}

// --- calls and registrations ---

#[test]
fn calls_go_both_ways_and_are_answered_once() {
    let mut scene = Scene::ready();
    let call = Object { key: Content::Plain(b"echo"), ..value(b"abc") };
    let packet = scene.connection.request(DialogueId::FIRST, &call).unwrap();
    let got = scene.read();
    assert_eq!((got[0].kind, got[0].id, got[0].session()), (PacketType::Request, packet, 1));
    assert_eq!(got[0].text(), r#"{"key":"ZWNobw==","value":"YWJj"}"#);
    let events = scene.take_on(PacketType::Response, packet, 1, br#"{"value":"eA=="}"#);
    let [Event::Response { packet: answered, data, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((*answered, decode(data.value())), (packet, b"x".to_vec()));

    let events = scene.take_on(PacketType::Request, 0x77, 1, br#"{"key":"bQ=="}"#);
    let [Event::Request(operation)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(scene.connection.respond(operation.id, &value(b"y")), Answered::Sent);
    assert_eq!(scene.connection.respond(operation.id, &value(b"z")), Answered::Late);
    let got = scene.read();
    assert_eq!((got[0].kind, got[0].id, got[0].text()), (PacketType::Response, 0x77, r#"{"value":"eQ=="}"#));
    assert_eq!(got.len(), 1);
}

#[test]
fn the_same_packet_id_twice_is_answered_twice() {
    let mut scene = Scene::ready();
    for text in ["one", "two"] {
        let events = scene.take_on(PacketType::Message, 7, 1, b"{}");
        let [Event::Message(operation)] = &events[..] else { panic!("{events:?}") };
        scene.connection.respond(operation.id, &Object { error: text, ..Object::default() });
    }
    let got = scene.read();
    assert_eq!(kinds(&got), [PacketType::MessageAck, PacketType::MessageAck]);
    assert_eq!((got[0].id, got[1].id), (7, 7));
}

#[test]
fn an_answer_that_no_peer_takes_becomes_an_error() {
    let mut scene = Scene::ready();
    let events = scene.take_on(PacketType::Request, 0x77, 1, b"{}");
    let [Event::Request(operation)] = &events[..] else { panic!("{events:?}") };
    let long = vec![b'x'; 8_000_000];
    assert_eq!(scene.connection.respond(operation.id, &value(&long)), Answered::TooLarge);
    assert_eq!(scene.read()[0].text(), r#"{"error":"packet payload too large"}"#);
    assert!(matches!(
        scene.connection.request(DialogueId::FIRST, &value(&long)),
        Err(SendError::TooLarge(_))
    ));
    assert_eq!(scene.connection.held(), 0);
}

#[test]
fn what_is_too_long_is_answered_without_being_held() {
    let mut scene = Scene::ready_with(Limits {
        packet: PacketLimits { body: 100, ..PacketLimits::default() },
        ..Limits::default()
    });
    for (kind, answer) in
        [(PacketType::Request, PacketType::Response), (PacketType::Message, PacketType::MessageAck)]
    {
        assert!(scene.take_on(kind, 3, 1, &[b'x'; 200]).is_empty());
        let got = scene.read();
        assert_eq!((got[0].kind, got[0].id), (answer, 3));
        assert_eq!(got[0].text(), r#"{"error":"packet payload too large"}"#);
    }
    let events = scene.take_on(PacketType::Response, 4, 1, &[b'x'; 200]);
    assert!(matches!(events[..], [Event::AnswerTooLarge { packet: 4 }]));
}

#[test]
fn an_acknowledgement_may_be_as_long_as_an_answer_and_a_longer_one_frees_its_slot() {
    let mut scene = Scene::ready_with(Limits { unacked: 1, ..Limits::default() });
    let [first, second] =
        [1, 2].map(|_| scene.connection.publish(DialogueId::FIRST, 1, &value(b"x"), scene.now).unwrap());
    assert!(second.waits && scene.read().len() == 1);
    let why = "x".repeat(70_000);
    let text = format!(r#"{{"error":"{why}"}}"#);
    let events = scene.take_on(PacketType::MessageAck, first.packet, 1, text.as_bytes());
    assert!(matches!(&events[..], [Event::Acked { data, .. }] if data.error() == why), "{events:?}");
    assert_eq!(scene.read().len(), 1);
    let third = scene.connection.publish(DialogueId::FIRST, 1, &value(b"x"), scene.now).unwrap();
    let most = PacketLimits::default().body as usize;
    let events = scene.take_on(PacketType::MessageAck, second.packet, 1, &vec![b'x'; most]);
    assert!(matches!(events[..], [Event::AnswerTooLarge { packet }] if packet == second.packet));
    assert_eq!((third.waits, scene.read().len()), (true, 1));
    assert_eq!(scene.connection.unacked(DialogueId::FIRST), 1);
}

#[test]
fn registrations_are_acknowledged() {
    let mut scene = Scene::ready();
    let events = scene.take_on(PacketType::Register, 4, 1, b"echo");
    let [Event::Registered { dialogue: DialogueId::FIRST, name }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(&name[..], b"echo");
    assert_eq!(scene.read(), [Got { kind: PacketType::RegisterAck, id: 4, body: on(1, b"{}") }]);
    let packet = scene.connection.register(b"mine").unwrap();
    assert_eq!(scene.read(), [Got { kind: PacketType::Register, id: packet, body: on(1, b"mine") }]);
    let events = scene.take_on(PacketType::RegisterAck, packet, 1, b"{}");
    assert!(matches!(events[..], [Event::RegisterDone { packet: done }] if done == packet));
}

#[test]
fn cancel_goes_only_to_who_has_sent_one() {
    let mut scene = Scene::ready();
    let packet = scene.connection.request(DialogueId::FIRST, &value(b"x")).unwrap();
    scene.read();
    assert!(!scene.connection.cancel(DialogueId::FIRST, packet));
    let events = scene.take_on(PacketType::Request, 0x77, 1, b"{}");
    let [Event::Request(operation)] = &events[..] else { panic!("{events:?}") };
    let operation = operation.id;
    assert!(scene.take_on(PacketType::RequestCancel, 0x78, 1, b"\0\x01").is_empty());
    let events = scene.take_on(PacketType::RequestCancel, 0x77, 1, b"\0\x01");
    assert!(matches!(events[..], [Event::Cancelled { operation: cancelled }] if cancelled == operation));
    assert!(scene.connection.cancel(DialogueId::FIRST, packet));
    let got = scene.read();
    assert_eq!(got, [Got { kind: PacketType::RequestCancel, id: packet, body: on(1, b"\0\x01") }]);
}

#[test]
fn one_operation_too_many_is_answered_at_once() {
    let mut scene = Scene::ready_with(Limits { operations: 2, ..Limits::default() });
    for id in 1..=3 {
        let events = scene.take_on(PacketType::Request, id, 1, b"{}");
        assert_eq!(events.len(), usize::from(id < 3));
    }
    let got = scene.read();
    assert_eq!((got[0].id, got[0].text()), (3, r#"{"error":"overloaded"}"#));
}

#[test]
fn a_peer_that_asks_and_never_reads_is_cut() {
    let mut scene = Scene::ready();
    let many = packet(PacketType::Heartbeat, 1, b"").repeat(1_000);
    let fault = (0..100).find_map(|_| scene.try_take(&many).err());
    assert_eq!(fault, Some(Fault::Unread));
    assert!(scene.connection.held() < 2 * MAX_REPLIES);
    // Who reads may go on for ever, even if something is always under way.
    let mut scene = Scene::ready();
    for _ in 0..100 {
        scene.try_take(&many).unwrap();
        scene.connection.fill(64 << 10, scene.now);
        let waiting = scene.connection.sending();
        scene.connection.written(waiting - 1, |_, _| {});
        assert!(scene.connection.wants_write(scene.now));
    }
}

// --- messages ---

#[test]
fn at_most_32_messages_are_on_their_way() {
    let mut scene = Scene::ready();
    let publish = |scene: &mut Scene| scene.connection.publish(DialogueId::FIRST, 1, &value(b"x"), scene.now);
    let sent: Vec<Sent> = (0..40).map(|_| publish(&mut scene).unwrap()).collect();
    assert_eq!(sent.iter().filter(|sent| sent.waits).count(), 8);
    assert_eq!(scene.read().len(), 32);
    assert_eq!(scene.connection.unacked(DialogueId::FIRST), 32);
    // Calls go on meanwhile.
    scene.connection.request(DialogueId::FIRST, &value(b"x")).unwrap();
    assert_eq!(kinds(&scene.read()), [PacketType::Request]);
    // A timeout of ours frees no slot; an acknowledgement does.
    assert!(!scene.connection.take_back(DialogueId::FIRST, sent[0].packet));
    assert!(scene.connection.take_back(DialogueId::FIRST, sent[32].packet));
    let events = scene.take_on(PacketType::MessageAck, sent[5].packet, 1, br#"{"error":"no"}"#);
    let [Event::Acked { packet, data, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((*packet, data.error()), (sent[5].packet, "no"));
    let got = scene.read();
    assert_eq!((got[0].kind, got[0].id, got.len()), (PacketType::Message, sent[33].packet, 1));
    // A late or second acknowledgement frees nothing.
    scene.take_on(PacketType::MessageAck, sent[5].packet, 1, b"{}");
    assert_eq!(scene.read(), []);
    assert_eq!(scene.connection.unacked(DialogueId::FIRST), 32);
}

#[test]
fn too_many_waiting_messages_are_refused() {
    let limits = Limits { unacked: 1, waiting: 4, waiting_bytes: 200, ..Limits::default() };
    let mut scene = Scene::ready_with(limits);
    let mut publish = |len| {
        scene
            .connection
            .publish(DialogueId::FIRST, 1, &value(&vec![0; len]), scene.now)
            .map(|sent| sent.waits)
    };
    assert_eq!(publish(500), Ok(false));
    assert_eq!(publish(500), Err(SendError::Overloaded));
    assert_eq!([publish(1), publish(1), publish(1)], [Ok(true), Ok(true), Err(SendError::Overloaded)]);
}

#[test]
fn a_slot_is_reopened_for_a_peer_that_reads_and_never_acknowledges() {
    let mut scene = Scene::ready_with(Limits { unacked: 2, ..Limits::default() });
    for _ in 0..4 {
        scene.connection.publish(DialogueId::FIRST, 1, &value(b"x"), scene.now).unwrap();
    }
    let beat = |scene: &mut Scene| scene.take(PacketType::Heartbeat, 1, b"");
    // Not read: nothing is reopened.
    scene.pass(29 * SECOND);
    beat(&mut scene);
    scene.pass(2 * SECOND);
    assert_eq!(scene.connection.reopened(), 0);
    assert_eq!(scene.read().len(), 3);
    scene.pass(28 * SECOND);
    beat(&mut scene);
    scene.read();
    assert_eq!(scene.connection.reopened(), 0);
    scene.pass(2 * SECOND);
    assert_eq!(scene.connection.reopened(), 1);
    assert_eq!(kinds(&scene.read()), [PacketType::Message]);
    scene.pass(27 * SECOND);
    beat(&mut scene);
    assert_eq!(kinds(&scene.read()), [PacketType::HeartbeatAck]);
    scene.pass(3 * SECOND);
    assert_eq!((scene.connection.reopened(), scene.read().len()), (2, 1));
}

// --- dialogues ---

#[test]
fn a_peer_that_leaves_is_let_go_whatever_the_order() {
    for own_first in [false, true] {
        let mut scene = Scene::ready();
        if own_first {
            assert!(scene.connection.disconnect::<&[u8]>(scene.now).is_none());
            let own = scene.read().remove(0);
            assert_eq!(own.kind, PacketType::DisConn);
            assert!(scene.take(PacketType::DisConnAck, own.id, b"\0{}").is_empty());
            let events = scene.take(PacketType::DisConn, 5, b"");
            assert!(matches!(events[..], [Event::Over(Ending::Agreed)]));
            assert_eq!(kinds(&scene.read()), [PacketType::DisConnAck]);
        } else {
            assert!(matches!(scene.take_on(PacketType::Dismiss, 4, 1, b"{}")[..], [Event::Leaving]));
            assert_eq!(kinds(&scene.read()), [PacketType::DismissAck, PacketType::Dismiss]);
            assert!(scene.take(PacketType::DisConn, 5, b"").is_empty());
            let got = scene.read();
            assert_eq!(kinds(&got), [PacketType::DisConnAck, PacketType::DisConn]);
            assert_eq!(got[0].body, b"\0{}");
            let events = scene.take(PacketType::DisConnAck, 0, b"\0{}");
            assert!(matches!(events[..], [Event::Over(Ending::Agreed)]));
        }
        assert!(scene.take(PacketType::Heartbeat, 1, b"").is_empty());
        assert_eq!(scene.pass(100 * SECOND).len(), 0);
    }
}

#[test]
fn a_young_connection_is_not_closed_by_us() {
    let mut scene = Scene::server(Limits::default());
    scene.conn();
    scene.connection.admit(42, scene.now);
    scene.pass(10 * MS);
    let events = scene.take_on(PacketType::Request, 6, 1, b"{}");
    assert!(matches!(events[..], [Event::Request(_)]));
    assert!(scene.connection.disconnect::<&[u8]>(scene.now).is_none());
    assert_eq!(kinds(&scene.read()), [PacketType::ConnAck, PacketType::Response]);
    // It answers what comes, so that the client gets through its registrations.
    assert!(scene.take_on(PacketType::Register, 7, 1, b"m").is_empty());
    assert!(scene.take_on(PacketType::Request, 8, 1, b"{}").is_empty());
    assert!(
        scene
            .take(PacketType::Session, 9, &[&[0, 16][..], &NEGOTIATE.to_be_bytes(), b"{}"].concat())
            .is_empty()
    );
    let got = scene.read();
    let answers =
        [PacketType::RegisterAck, PacketType::Response, PacketType::SessionAck, PacketType::Dismiss];
    assert_eq!(kinds(&got), answers);
    assert_eq!(got[1].text(), r#"{"error":"force closed"}"#);
    assert!(scene.connection.request(DialogueId::FIRST, &value(b"x")).is_err());
    scene.pass(1_980 * MS);
    assert_eq!(scene.read(), []);
    scene.pass(10 * MS);
    assert_eq!(kinds(&scene.read()), [PacketType::DisConn]);
    assert!(matches!(scene.pass(3 * SECOND)[..], [Event::Over(Ending::Timeout)]));
}

#[test]
fn a_connection_in_its_handshake_is_closed_at_once() {
    let mut scene = Scene::server(Limits::default());
    scene.conn();
    assert!(matches!(scene.connection.disconnect::<&[u8]>(scene.now), Some(Event::Over(Ending::Refused))));
    assert_eq!(scene.read(), []);
}

#[test]
fn a_first_session_that_ended_takes_the_connection_with_it() {
    let mut scene = Scene::ready();
    scene.take_on(PacketType::Dismiss, 4, 1, b"{}");
    scene.read();
    scene.pass(2 * SECOND);
    scene.take(PacketType::Heartbeat, 1, b"");
    assert_eq!(kinds(&scene.read()), [PacketType::HeartbeatAck]);
    // Long before Go gives up by itself, which takes it 30 s.
    scene.pass(SECOND);
    assert_eq!(kinds(&scene.read()), [PacketType::DisConn]);
}

#[test]
fn answers_to_what_was_never_sent_are_ignored_or_faults() {
    let mut scene = Scene::ready();
    let session_ack = [0; 18].into_iter().chain(*b"{}").collect::<Vec<_>>();
    assert!(scene.take(PacketType::SessionAck, 5, &session_ack).is_empty());
    assert!(scene.take_on(PacketType::DismissAck, 5, 1, b"{}").is_empty());
    assert!(scene.take_on(PacketType::DismissAck, 5, 77, b"{}").is_empty());
    assert!(scene.take(PacketType::HeartbeatAck, 5, b"").is_empty());
    assert!(matches!(scene.take_on(PacketType::Response, 5, 1, b"{}")[..], [Event::Response { .. }]));
    assert!(matches!(scene.take_on(PacketType::MessageAck, 5, 1, b"{}")[..], [Event::Acked { .. }]));
    assert_eq!(scene.read(), []);
    let ack = packet(PacketType::DisConnAck, 5, b"\0{}");
    assert_eq!(scene.try_take(&ack).err(), Some(Fault::Unexpected(PacketType::DisConnAck)));
}

#[test]
fn garbage_is_a_fault_that_names_the_packet() {
    let mut scene = Scene::ready();
    for (kind, fixed) in [(PacketType::Request, 8), (PacketType::MessageAck, 8), (PacketType::Session, 10)] {
        let body = [&vec![0; fixed][..], b"{\"value\":"].concat();
        let fault = scene.try_take(&packet(kind, 5, &body)).err();
        assert!(matches!(fault, Some(Fault::Data { kind: named, .. }) if named == kind), "{fault:?}");
        scene = Scene::ready();
    }
}

/// In every phase of either role, one packet of every type, with every length of body up to a few bytes.
#[test]
fn any_packet_at_any_time_is_taken_or_a_fault() {
    let greeting = || Scene::server(Limits::default());
    let deciding = || {
        let mut scene = greeting();
        scene.conn();
        scene
    };
    let lingering = || {
        let mut scene = deciding();
        scene.connection.reject("no", scene.now);
        scene
    };
    let closing = || {
        let mut scene = Scene::ready();
        scene.connection.disconnect::<&[u8]>(scene.now);
        scene
    };
    let connecting = || Scene::new(Connection::dial(Arc::default(), 0, b"", START));
    let scenes: [&dyn Fn() -> Scene; 7] =
        [&greeting, &deciding, &lingering, &closing, &connecting, &Scene::ready, &Scene::client];
    for scene in scenes {
        for kind in 0..=u8::MAX {
            for body in [
                &b""[..],
                b"\0",
                b"\0\0\0\0\0\0\0\x01",
                b"\0\0\0\0\0\0\0\0\x01{}",
                b"\0\0\0\0\0\0\0\x01{}",
                &[0; 20],
            ] {
                let mut scene = scene();
                let packet = packet(PacketType::from_wire(kind), 5, body);
                let _ = scene.try_take(&packet);
                let _ = scene.try_take(&packet);
                scene.read();
                scene.pass(100 * SECOND);
                assert!(scene.connection.held() < 4_096);
            }
        }
    }
}
