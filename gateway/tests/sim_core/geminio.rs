//! Geminio peers, among themselves and with native ones: identity, calls, messages, streams, and how each of them ends.

mod life;
mod streams;

use bytes::Bytes;
use frontier_gateway::{
    core::{Bound, Protocols, Settings, message::Msg},
    sim::{
        lab::{GuestId, Lab, Peer, edge_hello},
        net::Ending as LinkEnding,
        stage::Chaos,
    },
};
use frontier_wire::{
    error::ErrorCode,
    geminio::{
        connection::{Answered, Event, Operation},
        data::{Content, Data, Object, append_tail, decode, split_tail},
        dialogue::DialogueId,
        packet::{PacketHeader, PacketType},
        time::Time,
    },
    native::{
        frame::{FrameHeader, FrameType, INITIAL_CREDIT},
        head::{CallBuilder, CallHead, ReplyBuilder, Sender},
        presence::EdgeInfoBuilder,
    },
};

use super::{MILLI, SECOND, budget::with_used, head, kinds, settings};

const FIRST: DialogueId = DialogueId::FIRST;

// === what tests say ===

fn call<'a>(method: &'a str, value: &'a [u8]) -> Object<'a> {
    Object { key: Content::Plain(method.as_bytes()), value: Content::Plain(value), ..Object::default() }
}

fn message<'a>(topic: &'a str, value: &'a [u8]) -> Object<'a> {
    Object { topic, value: Content::Plain(value), ..Object::default() }
}

fn request(lab: &mut Lab, guest: GuestId, object: &Object<'_>) -> u64 {
    lab.guest(guest).conn.request(FIRST, object).unwrap()
}

fn publish(lab: &mut Lab, guest: GuestId, object: &Object<'_>) -> u64 {
    let now = lab.stage.now();
    lab.guest(guest).conn.publish(FIRST, 0, object, now).unwrap().packet
}

fn respond(lab: &mut Lab, guest: GuestId, operation: u64, object: &Object<'_>) {
    assert_eq!(lab.guest(guest).conn.respond(operation, object), Answered::Sent);
}

fn to_edge<'a>(object: Object<'a>, tail: &'a [u8]) -> Object<'a> {
    Object { custom: Content::Plain(tail), ..object }
}

// === what tests hear ===

/// The one event that a peer has heard.
fn only(lab: &mut Lab, guest: GuestId) -> Event<Bytes> {
    let mut events = lab.events(guest);
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn asked(lab: &mut Lab, guest: GuestId) -> Operation<Bytes> {
    match only(lab, guest) {
        Event::Request(operation) | Event::Message(operation) => operation,
        other => panic!("{other:?}"),
    }
}

fn answered(lab: &mut Lab, guest: GuestId, packet: u64) -> Data<Bytes> {
    match only(lab, guest) {
        Event::Response { packet: of, data, .. } | Event::Acked { packet: of, data, .. } if of == packet => {
            data
        }
        other => panic!("{other:?}"),
    }
}

/// The error text that a call or message was answered with.
fn error(lab: &mut Lab, guest: GuestId, packet: u64) -> String {
    answered(lab, guest, packet).error().to_owned()
}

fn raw(events: &[Event<Bytes>]) -> Vec<u8> {
    let pieces = events
        .iter()
        .filter_map(|event| if let Event::Raw(_, piece) = event { Some(&piece[..]) } else { None });
    pieces.collect::<Vec<_>>().concat()
}

/// An edge and a service of geminio at these shards.
fn pair(lab: &mut Lab, edge: u16, service: u16) -> (GuestId, GuestId) {
    let service = lab.guest_service(service, "svc", &["echo"], &["news"]);
    (lab.guest_edge(edge, 5), service)
}

/// Slots for messages that were reopened.
fn reopened(lab: &Lab) -> u64 {
    lab.stage.shared().stats.iter().map(|stats| stats.reopened_slots.get()).sum()
}

// === identity ===

#[test]
fn an_edge_gets_the_id_it_wishes_for_or_another_and_a_service_is_known_by_what_it_says() {
    let mut lab = Lab::new(settings());
    let (_, service) = pair(&mut lab, 0, 1);
    let any = lab.knock(Bound::Edge, 0, 0, b"meta");
    lab.run();
    let Event::Welcome { client } = only(&mut lab, any) else { panic!() };
    assert!(client != 0 && client != 5);
    let registry = &lab.stage.shared().registry;
    assert_eq!(registry.card(client).unwrap().meta(), b"meta");
    assert_eq!(registry.edges(), 2);
    // Name, method, topic.
    assert_eq!(registry.names(), 3);
    assert!(lab.events(service).is_empty());
    lab.close();
}

#[test]
fn connack_takes_its_two_milliseconds_and_nothing_more() {
    let mut lab = Lab::new(settings());
    let edge = lab.knock(Bound::Edge, 0, 7, b"");
    lab.advance(1_900);
    assert!(lab.events(edge).is_empty());
    lab.advance(400);
    assert!(matches!(only(&mut lab, edge), Event::Welcome { client: 7 }));
    lab.close();
}

#[test]
fn a_listener_can_be_without_geminio() {
    let mut protocols = [Protocols::default(); 2];
    protocols[Bound::Edge as usize].geminio = false;
    let mut lab = Lab::new(Settings { protocols, ..settings() });
    let edge = lab.knock(Bound::Edge, 0, 7, b"");
    lab.run();
    let link = lab.guest(edge).link;
    assert!(lab.stage.foreign(link).is_some_and(|bytes| bytes.starts_with(b"\x01\x01")));
    lab.guest_service(0, "svc", &[], &[]);
    lab.close();
}

#[test]
fn services_of_either_protocol_admit_edges_of_either() {
    for native_service in [false, true] {
        for native_edge in [false, true] {
            let mut lab = Lab::new(settings());
            let methods = ["get_edge_id", "edge_online", "edge_offline"];
            let native = native_service.then(|| lab.service(1, "ids", &methods, &[]));
            let guest = (!native_service).then(|| lab.guest_service(1, "ids", &methods, &[]));
            let mut hello = edge_hello(0);
            hello.meta = b"sn-42".to_vec();
            let peer = native_edge.then(|| lab.dial(Bound::Edge, 0));
            let edge = match peer {
                Some(peer) => {
                    lab.dialer(peer).hello(&hello);
                    None
                }
                None => Some(lab.knock(Bound::Edge, 0, 0, b"sn-42")),
            };
            lab.run();
            if let Some(guest) = guest {
                let ask = asked(&mut lab, guest);
                assert_eq!(
                    (decode(ask.data.key()), decode(ask.data.value())),
                    (b"get_edge_id".to_vec(), b"sn-42".to_vec())
                );
                assert!(ask.data.custom().is_empty());
                respond(&mut lab, guest, ask.id, &call("get_edge_id", &77_u64.to_be_bytes()));
                lab.run();
                let ask = asked(&mut lab, guest);
                let told = String::from_utf8(decode(ask.data.value())).unwrap();
                assert!(
                    told.starts_with(r#"{"EdgeID":77,"Meta":"c24tNDI=","Net":"tcp","Str":"10.0.0."#),
                    "{told}"
                );
                respond(&mut lab, guest, ask.id, &Object::default());
            }
            if let Some(native) = native {
                let ask = lab.expect(native);
                let mut body = Vec::new();
                EdgeInfoBuilder::new(77, 0).encode(&mut body);
                lab.answer(native, &ask, &body);
                lab.run();
                let ask = lab.expect(native);
                assert_eq!(ask.call().name, "edge_online");
                lab.answer(native, &ask, b"");
            }
            lab.run();
            match (edge, peer) {
                (Some(edge), _) => assert!(matches!(only(&mut lab, edge), Event::Welcome { client: 77 })),
                (None, Some(peer)) => assert_eq!(Lab::welcome(&lab.expect(peer)).id, 77),
                (None, None) => unreachable!(),
            }
            let link = match edge {
                Some(edge) => lab.guest(edge).link,
                None => lab.dialer(peer.unwrap()).link,
            };
            lab.stage.hang_up(link, LinkEnding::Reset);
            lab.run();
            if let Some(guest) = guest {
                let ask = asked(&mut lab, guest);
                assert_eq!(decode(ask.data.key()), b"edge_offline");
                assert!(decode(ask.data.value()).starts_with(br#"{"EdgeID":77,"#));
            }
            lab.close();
        }
    }
}

#[test]
fn refusals_come_with_the_services_text() {
    let mut lab = Lab::new(settings());
    let service = lab.guest_service(0, "ids", &["get_edge_id", "edge_online"], &[]);
    for (answers, text) in [
        (vec![Object { error: "who are you", ..Object::default() }], "who are you"),
        (vec![call("", b"short")], "illegal edgeID"),
        (
            vec![call("", &9_u64.to_be_bytes()), Object { error: "not today", ..Object::default() }],
            "not today",
        ),
    ] {
        let edge = lab.knock(Bound::Edge, 1, 0, b"");
        lab.run();
        for answer in &answers {
            let ask = asked(&mut lab, service);
            respond(&mut lab, service, ask.id, answer);
            lab.run();
        }
        let Event::Rejected(data) = only(&mut lab, edge) else { panic!() };
        assert_eq!(data.error(), text);
        assert!(lab.guest_ended(edge).is_none(), "it may read why");
        lab.advance(1_100 * MILLI);
        assert!(lab.guest_ended(edge).is_some());
        lab.events(service);
    }
    assert_eq!(lab.stage.shared().registry.edges(), 0);
    lab.close();
}

#[test]
fn a_service_that_does_not_say_what_it_is_is_refused() {
    let mut lab = Lab::new(settings());
    let service = lab.knock(Bound::Service, 0, 0, b"{nonsense");
    lab.run();
    assert!(matches!(only(&mut lab, service), Event::Rejected(_)));
    lab.close();
}

#[test]
fn the_newest_of_an_id_wins_at_once_and_a_young_loser_is_closed_when_it_is_old_enough() {
    let mut lab = Lab::new(settings());
    let (old, service) = pair(&mut lab, 0, 1);
    let new = lab.knock(Bound::Edge, 1, 5, b"");
    lab.run();
    assert!(matches!(only(&mut lab, new), Event::Welcome { client: 5 }));
    let tail = append_tail(b"", 5);
    request(&mut lab, service, &to_edge(call("tune", b"up"), &tail));
    lab.run();
    asked(&mut lab, new);
    // What the loser still asks is answered, and nothing reaches it.
    let late = request(&mut lab, old, &call("echo", b""));
    lab.run();
    assert_eq!(error(&mut lab, old, late), "force closed");
    lab.advance(1_800 * MILLI);
    assert!(lab.events(old).is_empty() && lab.guest_ended(old).is_none());
    lab.advance(500 * MILLI);
    assert!(lab.events(old).iter().any(|event| matches!(event, Event::Leaving | Event::Over(_))));
    assert!(lab.guest_ended(old).is_some());
    lab.close();
}

#[test]
fn a_young_session_that_is_newer_elsewhere_is_gone_at_once_and_closed_when_it_is_old_enough() {
    let mut lab = Lab::new(settings());
    let (old, service) = pair(&mut lab, 0, 1);
    let (session, epoch) = lab.stage.shared().registry.session(5).unwrap();
    lab.stage.post(session.shard, Msg::Lost { session, edge: 5, epoch });
    lab.run();
    assert_eq!(lab.stage.shared().registry.edge(5), None);
    let late = request(&mut lab, old, &call("echo", b""));
    lab.run();
    assert_eq!(error(&mut lab, old, late), "force closed");
    lab.advance(1_800 * MILLI);
    assert!(lab.guest_ended(old).is_none());
    lab.advance(500 * MILLI);
    assert!(lab.guest_ended(old).is_some());
    assert!(lab.events(service).is_empty());
    lab.close();
}

// === calls ===

#[test]
fn calls_go_both_ways_with_the_edge_id_where_it_belongs() {
    for shards in [(0, 0), (0, 1), (1, 0)] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards.0, shards.1);
        let ask = Object { custom: Content::Plain(b"mine"), ..call("echo", b"ping") };
        let packet = request(&mut lab, edge, &ask);
        lab.run();
        let got = asked(&mut lab, service);
        assert_eq!((decode(got.data.key()), decode(got.data.value())), (b"echo".to_vec(), b"ping".to_vec()));
        assert_eq!(split_tail(got.data.custom()), Some((b"mine".to_vec(), 5)));
        respond(&mut lab, service, got.id, &call("echo", b"pong"));
        lab.run();
        let answer = answered(&mut lab, edge, packet);
        assert_eq!((decode(answer.value()), decode(answer.key())), (b"pong".to_vec(), b"echo".to_vec()));
        assert!(answer.custom().is_empty() && answer.error().is_empty());
        // And back: the tail says who, and is taken off.
        let tail = append_tail(b"bXk=", 5);
        let packet = request(&mut lab, service, &to_edge(call("tune", b"up"), &tail));
        lab.run();
        let got = asked(&mut lab, edge);
        assert_eq!(decode(got.data.custom()), b"my");
        respond(&mut lab, edge, got.id, &Object { error: "no such rpc: tune", ..Object::default() });
        lab.run();
        assert_eq!(error(&mut lab, service, packet), "no such rpc: tune");
        lab.close();
    }
}

#[test]
fn errors_have_the_texts_that_applications_compare() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    let tail = append_tail(b"", 6);
    let cases = [
        (edge, call("nothing", b""), "record not found"),
        (edge, call("ECHO", b""), "record not found"),
        (edge, call("edge_online", b""), "permission denied"),
        (service, call("tune", b""), "invalid argument"),
        (service, to_edge(call("tune", b""), &tail), "edge not online"),
    ];
    for (guest, object, text) in &cases {
        let packet = request(&mut lab, *guest, object);
        lab.run();
        assert_eq!(error(&mut lab, *guest, packet), *text);
    }
    let packet = publish(&mut lab, edge, &message("weather", b""));
    lab.run();
    assert_eq!(error(&mut lab, edge, packet), "topic not online");
    let tail = append_tail(b"", 6);
    let packet = publish(&mut lab, service, &to_edge(message("", b""), &tail));
    lab.run();
    assert_eq!(error(&mut lab, service, packet), "edge not online");
    // One failure ends nothing but itself.
    let tail = append_tail(b"", 5);
    publish(&mut lab, service, &to_edge(message("", b"hello"), &tail));
    lab.run();
    assert_eq!(decode(asked(&mut lab, edge).data.value()), b"hello");
    lab.close();
}

#[test]
fn a_call_ends_by_time_by_cancel_and_by_the_end_of_its_receiver() {
    for shards in [(0, 0), (0, 1)] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards.0, shards.1);
        // By the gateway's time.
        let packet = request(&mut lab, edge, &call("echo", b"1"));
        lab.advance(29 * SECOND);
        let first = asked(&mut lab, service);
        assert!(lab.events(edge).is_empty());
        lab.advance(2 * SECOND);
        assert_eq!(error(&mut lab, edge, packet), "timeout");
        // A late answer reaches nobody.
        respond(&mut lab, service, first.id, &call("echo", b"late"));
        lab.run();
        assert!(lab.events(edge).is_empty());
        // By its own.
        let unix = frontier_gateway::sim::stage::UNIX_MS * 1_000 + lab.stage.now();
        let context = Some(Time::from_unix_nanos((unix + 100 * MILLI) * 1_000));
        let packet = request(&mut lab, edge, &Object { context, ..call("echo", b"2") });
        lab.advance(200 * MILLI);
        assert_eq!(error(&mut lab, edge, packet), "context deadline exceeded");
        let got = asked(&mut lab, service);
        assert_eq!(got.data.deadline(), context, "the handler knows");
        // The receiver's end.
        let packet = request(&mut lab, edge, &call("echo", b"3"));
        lab.run();
        let link = lab.guest(service).link;
        lab.stage.hang_up(link, LinkEnding::Reset);
        lab.run();
        assert_eq!(error(&mut lab, edge, packet), "force closed");
        lab.close();
    }
}

#[test]
fn a_cancel_reaches_who_can_read_it_and_is_answered_at_once() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    let native = lab.edge(0, 6);
    // Whoever has sent a RequestCancel can read one. A raw one: a client of ours sends none to a gateway that has not.
    let packet = request(&mut lab, edge, &call("echo", b""));
    lab.run();
    let got = asked(&mut lab, service);
    let mut cancel = vec![1, 0x73];
    cancel.extend_from_slice(&packet.to_be_bytes());
    cancel.extend_from_slice(&10_u32.to_be_bytes());
    cancel.extend_from_slice(&1_u64.to_be_bytes());
    cancel.extend_from_slice(&1_u16.to_be_bytes());
    let link = lab.guest(edge).link;
    lab.stage.write(link, &[&cancel]);
    lab.run();
    assert_eq!(error(&mut lab, edge, packet), "context canceled");
    assert!(lab.events(service).is_empty(), "it has never sent one itself");
    respond(&mut lab, service, got.id, &call("echo", b""));
    // Now the edge is one that can read it.
    lab.call(native, 1, "echo", 0, b"");
    lab.run();
    let got = asked(&mut lab, service);
    lab.send(native, FrameType::Cancel, 1, &[], &[]);
    lab.run();
    assert_eq!(lab.expect_error(native, 1), ErrorCode::Cancelled);
    assert!(lab.events(service).is_empty());
    respond(&mut lab, service, got.id, &call("echo", b""));
    let tail = append_tail(b"", 5);
    request(&mut lab, service, &to_edge(call("tune", b""), &tail));
    lab.run();
    let got = asked(&mut lab, edge);
    let link = lab.guest(service).link;
    lab.stage.hang_up(link, LinkEnding::Reset);
    lab.run();
    assert!(matches!(only(&mut lab, edge), Event::Cancelled { operation } if operation == got.id));
    lab.close();
}

#[test]
fn either_protocol_calls_the_other() {
    for shards in [(0, 0), (0, 1)] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shards.1, "svc", &["echo"], &["news"]);
        let edge = lab.guest_edge(shards.0, 5);
        let packet = request(&mut lab, edge, &call("echo", b"ping"));
        lab.run();
        let got = lab.expect(service);
        assert_eq!(
            (got.call().name, got.call().sender(), &got.body[..]),
            ("echo", Some(Sender::Edge(5)), &b"ping"[..])
        );
        lab.answer(service, &got, b"pong");
        lab.run();
        assert_eq!(decode(answered(&mut lab, edge, packet).value()), b"pong");
        let packet = request(&mut lab, edge, &call("echo", b""));
        lab.run();
        let got = lab.expect(service);
        lab.answer_error(service, &got, ErrorCode::Application, "the disk is full");
        lab.run();
        assert_eq!(error(&mut lab, edge, packet), "the disk is full");
        lab.call_edge(service, 9, 5, "tune", b"up");
        lab.run();
        let got = asked(&mut lab, edge);
        assert_eq!((decode(got.data.key()), decode(got.data.value())), (b"tune".to_vec(), b"up".to_vec()));
        respond(&mut lab, edge, got.id, &call("tune", b"done"));
        lab.run();
        assert_eq!(&lab.expect(service).body[..], b"done");
        lab.call_edge(service, 10, 5, "gone", b"");
        lab.run();
        let got = asked(&mut lab, edge);
        respond(&mut lab, edge, got.id, &Object { error: "no such rpc: gone", ..Object::default() });
        lab.run();
        assert_eq!(lab.expect_error(service, 10), ErrorCode::MethodNotFound);
        let packet = request(&mut lab, edge, &call("echo", b""));
        lab.run();
        let got = lab.expect(service);
        lab.answer_error(service, &got, ErrorCode::MethodNotFound, "method not found");
        lab.run();
        assert_eq!(error(&mut lab, edge, packet), "no such rpc: echo", "the callee's words");
        // A native edge and a geminio service.
        let guest = lab.guest_service(shards.1, "other", &["sum"], &[]);
        let native = lab.edge(shards.0, 6);
        lab.call(native, 1, "sum", 700, b"1 2");
        lab.run();
        let got = asked(&mut lab, guest);
        assert_eq!(split_tail(got.data.custom()), Some((vec![], 6)));
        let left = got.data.deadline().unwrap().unix_nanos() / 1_000_000;
        assert!(left - 700 >= frontier_gateway::sim::stage::UNIX_MS, "a deadline that was named travels");
        lab.call(native, 2, "sum", 30_000, b"1 2");
        lab.run();
        let other = asked(&mut lab, guest);
        assert_eq!(other.data.deadline(), None, "its clock may differ");
        respond(&mut lab, guest, got.id, &Object { error: "bad numbers", ..Object::default() });
        lab.run();
        assert_eq!(lab.expect_error(native, 1), ErrorCode::Application);
        lab.close();
    }
}

/// More than a native sender may have under way without credit.
const LONG: usize = INITIAL_CREDIT as usize + 100_000;

#[test]
fn long_bodies_are_joined_for_geminio_and_cut_for_native() {
    for shards in [(0, 0), (0, 1)] {
        let mut lab = Lab::new(settings());
        let guest = lab.guest_service(shards.1, "svc", &["echo"], &[]);
        let native = lab.edge(shards.0, 6);
        // Native to geminio: the gateway grants what it joins.
        let call_head = head(&CallBuilder::new("echo").total_len(LONG as u64));
        let header = FrameHeader::new(FrameType::Request, 1);
        let window = INITIAL_CREDIT as usize;
        lab.send_part(native, header, &call_head, 0, window, LONG);
        lab.run();
        let credits = lab.frames(native);
        let granted: u32 = credits.iter().map(|note| super::credit(&note.head)).sum();
        assert_eq!(
            (granted, credits.iter().all(|note| note.header.kind == FrameType::Credit)),
            (INITIAL_CREDIT, true)
        );
        lab.send_part(native, header, &call_head, window, LONG - window, LONG);
        lab.run();
        let got = asked(&mut lab, guest);
        assert_eq!(decode(got.data.value()), vec![7; LONG]);
        lab.frames(native);
        // And the answer leaves in fragments, as the edge grants.
        let answer: Vec<u8> = (0..LONG).map(|at| (at % 251) as u8).collect();
        respond(&mut lab, guest, got.id, &call("echo", &answer));
        lab.run();
        let first = lab.frames(native);
        let mut body: Vec<u8> = first.iter().flat_map(|note| note.body.to_vec()).collect();
        assert_eq!(body.len(), window);
        assert!(first.iter().all(|note| note.header.kind == FrameType::Response && note.header.flags.more()));
        lab.grant(native, 1, frontier_wire::native::frame::Flags::REPLY, 1 << 20);
        lab.run();
        let rest = lab.frames(native);
        body.extend(rest.iter().flat_map(|note| note.body.to_vec()));
        assert!(!rest.last().unwrap().header.flags.more());
        assert!(body == answer);
        // Geminio to native, and a native answer.
        let service = lab.service(shards.1, "other", &["store"], &[]);
        let edge = lab.guest_edge(shards.0, 5);
        let packet = request(&mut lab, edge, &call("store", &answer));
        lab.run();
        let first = lab.frames(service);
        let id = first[0].header.id;
        assert_eq!(first[0].call().total_len, LONG as u64);
        lab.grant(service, id, frontier_wire::native::frame::Flags::NONE, 1 << 20);
        lab.run();
        let all = first.into_iter().chain(lab.frames(service));
        assert!(all.flat_map(|note| note.body.to_vec()).collect::<Vec<_>>() == answer);
        let mut reply = Vec::new();
        ReplyBuilder::new().total_len(LONG as u64).encode(&mut reply);
        let header = FrameHeader::new(FrameType::Response, id);
        lab.send_part(service, header, &reply, 0, window, LONG);
        lab.run();
        assert_eq!(kinds(&lab.frames(service))[0], FrameType::Credit);
        lab.send_part(service, header, &reply, window, LONG - window, LONG);
        lab.run();
        assert_eq!(decode(answered(&mut lab, edge, packet).value()), vec![7; LONG]);
        lab.close();
    }
}

#[test]
fn a_long_answer_is_joined_within_the_memory_budget_only() {
    for shards in [(0, 0), (0, 1)] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shards.1, "other", &["store"], &[]);
        let edge = lab.guest_edge(shards.0, 5);
        for (percent, refused) in [(70, false), (95, true)] {
            let packet = request(&mut lab, edge, &call("store", b""));
            lab.run();
            let header = FrameHeader::new(FrameType::Response, lab.expect(service).header.id);
            let mut reply = Vec::new();
            ReplyBuilder::new().total_len(LONG as u64).encode(&mut reply);
            let window = INITIAL_CREDIT as usize;
            with_used(&mut lab, percent, |lab| {
                lab.send_part(service, header, &reply, 0, window, LONG);
                lab.run();
            });
            let heard = kinds(&lab.frames(service));
            if refused {
                assert_eq!(heard, [FrameType::Cancel]);
                let error = error(&mut lab, edge, packet);
                assert!(error.contains("overloaded"), "{error}");
            } else {
                assert_eq!(heard[0], FrameType::Credit, "it is joined");
                lab.send_part(service, header, &reply, window, LONG - window, LONG);
                lab.run();
                assert_eq!(decode(answered(&mut lab, edge, packet).value()), vec![7; LONG]);
                // Further credit.
                lab.frames(service);
            }
        }
        lab.close();
    }
}

#[test]
fn long_answers_that_are_not_taken_are_given_up_at_their_deadlines() {
    let mut lab = Lab::new(settings());
    let guest = lab.guest_service(0, "svc", &["echo"], &[]);
    let native = lab.edge(0, 6);
    let answer = vec![7; LONG];
    for id in 1..=3 {
        lab.call(native, id, "echo", 0, b"");
        lab.run();
        let got = asked(&mut lab, guest);
        respond(&mut lab, guest, got.id, &call("echo", &answer));
        lab.run();
        let first = lab.frames(native);
        assert!(first.iter().all(|note| note.header.flags.more()), "it waits for credit");
        lab.advance(SECOND);
    }
    // The second one is taken after all.
    lab.grant(native, 2, frontier_wire::native::frame::Flags::REPLY, 1 << 20);
    lab.run();
    assert!(lab.frames(native).iter().any(|note| !note.header.flags.more()));
    // Each has as long as an operation whose sender names no time.
    for (id, wait) in [(1, 27), (3, 3)] {
        lab.advance(wait * SECOND);
        assert_eq!(lab.expect_error(native, id), ErrorCode::DeadlineExceeded, "answer {id}");
        assert!(lab.is_quiet(native), "answer {id} alone");
    }
    lab.run();
    assert!(lab.is_quiet(native));
    lab.close();
}

#[test]
fn a_long_answer_may_be_taken_as_long_as_its_caller_waits() {
    let mut lab = Lab::new(Settings { call_timeout: SECOND, ..settings() });
    let guest = lab.guest_service(0, "svc", &["echo"], &[]);
    let native = lab.edge(0, 6);
    lab.call(native, 1, "echo", 5_000, b"");
    lab.run();
    let got = asked(&mut lab, guest);
    respond(&mut lab, guest, got.id, &call("echo", &vec![7; LONG]));
    // Longer than a call has that names no time.
    lab.advance(3 * SECOND);
    assert!(lab.frames(native).iter().all(|note| note.header.flags.more()), "it waits for credit");
    lab.grant(native, 1, frontier_wire::native::frame::Flags::REPLY, 1 << 20);
    lab.run();
    assert!(lab.frames(native).iter().any(|note| !note.header.flags.more()));
    lab.close();
}

#[test]
fn a_body_beyond_what_geminio_takes_is_refused_before_it_is_sent() {
    let mut lab = Lab::new(settings());
    let guest = lab.guest_service(1, "svc", &["echo"], &[]);
    let native = lab.edge(0, 6);
    let call_head = head(&CallBuilder::new("echo").total_len(9 << 20));
    lab.send_part(native, FrameHeader::new(FrameType::Request, 1), &call_head, 0, 65_536, 9 << 20);
    lab.run();
    assert_eq!(lab.expect_error(native, 1), ErrorCode::PayloadTooLarge);
    assert!(lab.events(guest).is_empty());
    lab.close();
}

// === messages ===

#[test]
fn messages_keep_their_order_and_no_more_than_thirty_two_are_unacknowledged() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    let native = lab.service(0, "native", &[], &[]);
    let packets: Vec<u64> = (0..100_u8).map(|n| publish(&mut lab, edge, &message("news", &[n]))).collect();
    for n in 100..140_u8 {
        let target = head(&CallBuilder::new("").edge(5));
        lab.send(native, FrameType::Publish, n.into(), &target, &[n]);
    }
    lab.run();
    let mut next = 0_u8;
    while next < 100 {
        let got = lab.events(service);
        assert!(!got.is_empty() && got.len() <= 32, "{}", got.len());
        for event in got {
            let Event::Message(operation) = event else { panic!("{event:?}") };
            assert_eq!(decode(operation.data.value()), [next]);
            assert_eq!(
                (operation.data.topic(), split_tail(operation.data.custom())),
                ("news", Some((vec![], 5)))
            );
            let error = if next == 50 { "not that one" } else { "" };
            respond(&mut lab, service, operation.id, &Object { error, ..Object::default() });
            next += 1;
        }
        lab.run();
    }
    let events = lab.events(edge);
    let acks: Vec<(u64, String)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Acked { packet, data, .. } => Some((*packet, data.error().to_owned())),
            _ => None,
        })
        .collect();
    assert_eq!(acks.len(), 100);
    for (at, packet) in packets.iter().enumerate() {
        let error = if at == 50 { "not that one" } else { "" };
        assert!(acks.contains(&(*packet, error.to_owned())), "{at}");
    }
    // Of the native service's forty, eight wait.
    let messages = events.iter().filter(|event| matches!(event, Event::Message(_))).count();
    assert_eq!(messages, 32);
    lab.close();
}

/// One that sends as much as it may does not shut out another that sends one at a time.
#[test]
fn a_loud_sender_takes_the_room_of_nobody_else() {
    let mut lab = Lab::new(Settings { outbox: 256 << 10, ..settings() });
    let (loud, service) = pair(&mut lab, 0, 1);
    let calm = lab.guest_edge(1, 6);
    let load = vec![b'x'; 10 << 10];
    // It does not care how many are unacknowledged, as its own connection would.
    let link = lab.guest(loud).link;
    let json = format!(r#"{{"topic":"news","value":"{}"}}"#, "eHh4".repeat(3 << 10));
    let mut flood = Vec::new();
    for _ in 0..10 {
        let body = [&1_u64.to_be_bytes()[..], json.as_bytes()].concat();
        PacketHeader::new(PacketType::Message, 7).put(&mut flood, &body);
    }
    let mut refused = 0;
    let mut came = Vec::new();
    for n in 0..20_u8 {
        for _ in 0..8 {
            lab.stage.write(link, &[&flood]);
            lab.run();
        }
        let packet = publish(&mut lab, calm, &message("news", &[&[n], &load[..]].concat()));
        lab.run();
        // Not before it is that sender's turn: two messages at most are before it when a slot is free.
        while lab.guest(calm).heard.is_empty() {
            let events = lab.events(service);
            assert!(!events.is_empty(), "message {n} got lost");
            for event in events {
                let Event::Message(got) = event else { panic!("{event:?}") };
                let value = decode(got.data.value());
                if split_tail(got.data.custom()).is_some_and(|(_, edge)| edge == 6) {
                    came.push(value[0]);
                }
                respond(&mut lab, service, got.id, &Object::default());
            }
            lab.run();
        }
        assert_eq!(error(&mut lab, calm, packet), "");
        refused += lab
            .events(loud)
            .iter()
            .filter(|event| matches!(event, Event::Acked { data, .. } if data.error() == "overloaded"))
            .count();
    }
    assert_eq!(came, (0..20).collect::<Vec<u8>>());
    assert!(refused > 20 * 10, "{refused} refused: not loud enough");
    lab.close();
}

#[test]
fn an_acknowledgement_with_a_long_error_reaches_the_publisher_and_one_that_is_too_long_is_said_to_be() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    let packet = publish(&mut lab, edge, &message("news", b"x"));
    lab.run();
    let got = asked(&mut lab, service);
    let why = "x".repeat(70_000);
    respond(&mut lab, service, got.id, &Object { error: &why, ..Object::default() });
    lab.run();
    // As much as there is room for in a head.
    let told = error(&mut lab, edge, packet);
    assert!(told.len() > 1_000 && why.starts_with(&told), "{} bytes", told.len());
    let packet = publish(&mut lab, edge, &message("news", b"y"));
    lab.run();
    asked(&mut lab, service);
    // Beyond what the client's own connection would send; which packet it answers only that knows.
    let link = lab.guest(service).link;
    let body = [&1_u64.to_be_bytes()[..], &vec![b'x'; 10 << 20]].concat();
    let answers = (1..20).find_map(|id| {
        let mut ack = Vec::new();
        PacketHeader::new(PacketType::MessageAck, id).put(&mut ack, &body);
        lab.stage.write(link, &[&ack]);
        lab.run();
        Some(lab.events(edge)).filter(|events| !events.is_empty())
    });
    let answers = answers.unwrap();
    let [Event::Acked { packet: acked, data, .. }] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((*acked, data.error()), (packet, "packet payload too large"));
    assert!(lab.guest_ended(service).is_none());
    lab.close();
}

#[test]
fn a_message_without_owner_goes_to_whoever_takes_everything_and_is_acknowledged_across_protocols() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &[], &["*"]);
    let edge = lab.guest_edge(1, 5);
    let packet = publish(&mut lab, edge, &message("weather", b"rain"));
    lab.run();
    let got = lab.expect(service);
    assert_eq!(
        (got.header.kind, got.call().name, &got.body[..]),
        (FrameType::Publish, "weather", &b"rain"[..])
    );
    lab.answer(service, &got, b"");
    lab.run();
    assert_eq!(error(&mut lab, edge, packet), "");
    lab.send(service, FrameType::Publish, 3, &head(&CallBuilder::new("").edge(5)), b"sun");
    lab.run();
    let got = asked(&mut lab, edge);
    assert_eq!(decode(got.data.value()), b"sun");
    respond(&mut lab, edge, got.id, &Object { error: "cannot", ..Object::default() });
    lab.run();
    assert_eq!(lab.expect_error(service, 3), ErrorCode::Application);
    lab.close();
}

// === streams ===
