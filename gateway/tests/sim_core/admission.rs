//! Who may come in, under which ID, who is told, and who has to go.

mod lists;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};

use frontier_gateway::{
    core::{Bound, Settings, exchange::Policy, message::Msg},
    sim::{
        dialer::Note,
        gate::{BAD_TOKEN, TRUSTED_TOKEN},
        lab::{Lab, Peer, edge_hello, service_hello},
        net::{Ending, Quality},
        stage::{Chaos, Path},
    },
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType},
        head::{CallBuilder, ErrorRef, GoAway, Locate},
        presence::{EdgeInfo, EdgeInfoBuilder, PresencePage},
    },
};

use super::{MILLI, SECOND, head, held, kinds, names, settings};

const PRESENCE: [&str; 2] = ["edge_online", "edge_offline"];

fn reject(note: &Note) -> (ErrorCode, String) {
    assert_eq!(note.header.kind, FrameType::Reject, "{note:?}");
    let error = ErrorRef::parse(&note.head).unwrap();
    (error.code, error.text.to_owned())
}

/// Dials and says hello without waiting for an answer that takes its time.
fn knock(lab: &mut Lab, shard: u16, id: u64) -> Peer {
    let peer = lab.dial(Bound::Edge, shard);
    lab.dialer(peer).hello(&edge_hello(id));
    lab.run();
    peer
}

/// (method, edge, epoch) of a presence event.
fn event(note: &Note) -> (String, u64, u64) {
    let info = EdgeInfo::parse(&note.body).unwrap();
    (note.call().name.to_owned(), info.edge, info.epoch)
}

fn events(lab: &mut Lab, service: Peer) -> Vec<(String, u64, u64)> {
    lab.frames(service).iter().filter(|note| note.header.kind == FrameType::Request).map(event).collect()
}

fn edge_info(id: u64) -> Vec<u8> {
    let mut body = Vec::new();
    EdgeInfoBuilder::new(id, 0).encode(&mut body);
    body
}

#[test]
fn the_id_service_decides_on_the_id() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shard, "ids", &["get_edge_id"], &[]);
        let edge = lab.dial(Bound::Edge, 0);
        let mut hello = edge_hello(0);
        hello.meta = b"sn-42".to_vec();
        lab.dialer(edge).hello(&hello);
        lab.run();
        let question = lab.expect(service);
        let info = EdgeInfo::parse(&question.body).unwrap();
        assert_eq!((question.call().name, info.edge, info.meta), ("get_edge_id", 0, &b"sn-42"[..]));
        assert!(info.addr.starts_with("10.0.0."), "{}", info.addr);
        lab.answer(service, &question, &edge_info(77));
        lab.run();
        let answer = lab.expect(edge);
        assert_eq!(Lab::welcome(&answer).id, 77);
        lab.close();
    }
}

#[test]
fn an_id_service_may_leave_the_choice_to_the_gateway_or_refuse() {
    let mut lab = Lab::new(settings());
    let service = lab.service(1, "ids", &["get_edge_id"], &[]);
    let (any, refused, garbled) = (knock(&mut lab, 0, 0), knock(&mut lab, 0, 0), knock(&mut lab, 1, 0));
    let questions = lab.frames(service);
    lab.answer(service, &questions[0], &[]);
    lab.answer_error(service, &questions[1], ErrorCode::Application, "unknown device");
    lab.answer(service, &questions[2], &[0xff]);
    lab.run();
    let answers = [any, refused, garbled].map(|peer| lab.expect(peer));
    assert_eq!(answers[0].header.kind, FrameType::Welcome);
    assert_eq!(reject(&answers[1]), (ErrorCode::Application, "unknown device".to_owned()));
    assert_eq!(reject(&answers[2]).0, ErrorCode::Internal);
    lab.close();
}

#[test]
fn when_a_service_goes_before_it_answers_another_is_asked() {
    for (method, shard) in [("get_edge_id", 0), ("get_edge_id", 1), ("edge_online", 0), ("edge_online", 1)] {
        let mut lab = Lab::new(settings());
        let services = [("one", 0), ("two", 1), ("three", shard)];
        let mut services = services.map(|(name, shard)| lab.service(shard, name, &[method], &[])).to_vec();
        let edge = knock(&mut lab, 0, 0);
        for left in [2, 1, 0] {
            let asked = services.iter().position(|service| !lab.is_quiet(*service)).unwrap();
            let service = services.remove(asked);
            let question = lab.expect(service);
            assert_eq!(question.call().name, method);
            assert!(services.iter().all(|service| lab.is_quiet(*service)), "one at a time");
            if left > 0 {
                assert!(lab.is_quiet(edge));
                lab.hang_up(service, Ending::Closed);
            } else {
                lab.answer_error(service, &question, ErrorCode::Application, "no");
            }
            lab.run();
        }
        assert_eq!(reject(&lab.expect(edge)), (ErrorCode::Application, "no".to_owned()));
        lab.close();
    }
}

#[test]
fn when_all_services_go_before_they_answer_it_is_as_if_there_were_none() {
    for method in ["get_edge_id", "edge_online"] {
        let mut lab = Lab::new(settings());
        let service = lab.service(1, "only", &[method], &[]);
        let edge = knock(&mut lab, 0, 0);
        assert_eq!(lab.expect(service).call().name, method);
        lab.hang_up(service, Ending::Closed);
        lab.run();
        assert_eq!(lab.expect(edge).header.kind, FrameType::Welcome, "{method}");
        lab.close();
    }
}

#[test]
fn a_service_that_says_of_every_edge_that_its_session_is_closed_does_not_keep_it_for_ever() {
    let mut lab = Lab::new(settings());
    let service = lab.service(1, "odd", &["edge_online"], &[]);
    let edge = knock(&mut lab, 0, 0);
    for _ in 0..4 {
        let question = lab.expect(service);
        lab.answer_error(service, &question, ErrorCode::SessionClosed, "odd");
        lab.run();
    }
    assert_eq!(reject(&lab.expect(edge)), (ErrorCode::SessionClosed, "odd".to_owned()));
    lab.close();
}

#[test]
fn edges_wait_for_an_id_service_as_long_as_they_are_told_to() {
    for allocate_ids in [true, false] {
        let wait_for_id_service = 2 * SECOND;
        let mut lab = Lab::new(Settings { wait_for_id_service, allocate_ids, ..settings() });
        let (lucky, other) = (knock(&mut lab, 0, 0), knock(&mut lab, 1, 0));
        lab.advance(SECOND);
        assert!(lab.is_quiet(lucky));
        let service = lab.service(1, "ids", &["get_edge_id"], &[]);
        lab.advance(100 * MILLI);
        for question in lab.frames(service) {
            lab.answer(service, &question, &edge_info(question.header.id));
        }
        lab.run();
        assert_eq!(lab.expect(lucky).header.kind, FrameType::Welcome);
        assert_eq!(lab.expect(other).header.kind, FrameType::Welcome);
        lab.hang_up(service, Ending::Closed);
        lab.run();
        let late = knock(&mut lab, 0, 0);
        lab.advance(1_900 * MILLI);
        assert!(lab.is_quiet(late));
        lab.advance(200 * MILLI);
        let answer = lab.expect(late);
        if allocate_ids {
            assert_eq!(answer.header.kind, FrameType::Welcome);
        } else {
            assert_eq!(reject(&answer).0, ErrorCode::ServiceNotOnline);
        }
        lab.close();
    }
}

/// Many edges wait, nobody looks for the service meanwhile, and when it comes all of them ask at once.
#[test]
fn whoever_waits_for_an_id_service_is_woken_by_it() {
    for late in [false, true] {
        let wait_for_id_service = 5 * SECOND;
        let mut lab = Lab::new(Settings { wait_for_id_service, allocate_ids: false, ..settings() });
        let service = late.then(|| lab.service(0, "ids", &[], &[]));
        let edges: Vec<Peer> = (0..600)
            .map(|n| {
                let edge = lab.dial(Bound::Edge, n % 2);
                lab.dialer(edge).hello(&edge_hello(0));
                edge
            })
            .collect();
        lab.advance(SECOND);
        lab.hang_up(edges[0], Ending::Closed);
        let before = lab.stage.turns();
        lab.advance(3 * SECOND);
        let turns = lab.stage.turns() - before;
        assert!(turns < 20, "{turns} turns although nothing happens");
        let service = match service {
            Some(service) => {
                lab.send(service, FrameType::Register, 1, &names(&["get_edge_id"], &[]), &[]);
                lab.run();
                assert_eq!(lab.expect(service).header.kind, FrameType::Ack);
                service
            }
            None => lab.service(0, "ids", &["get_edge_id"], &[]),
        };
        let questions = lab.frames(service);
        assert_eq!(questions.len(), 599);
        for (id, question) in (1..).zip(&questions) {
            lab.answer(service, question, &edge_info(id));
        }
        lab.run();
        for edge in &edges[1..] {
            assert_eq!(lab.expect(*edge).header.kind, FrameType::Welcome);
        }
        lab.close();
    }
}

#[test]
fn without_an_id_service_ids_differ_and_tickets_bring_them_back() {
    let mut lab = Lab::new(settings());
    let mut ids = BTreeSet::new();
    for n in 0..20 {
        let peer = lab.dial(Bound::Edge, n % 2);
        let welcome = lab.join(peer, &edge_hello(0));
        assert!(welcome.id != 0 && ids.insert(welcome.id));
        lab.hang_up(peer, Ending::Reset);
        lab.run();
        let again = lab.dial(Bound::Edge, 1 - n % 2);
        let mut hello = edge_hello(0);
        hello.ticket = welcome.ticket.clone();
        let resumed = lab.join(again, &hello);
        assert_eq!(resumed.id, welcome.id);
        assert!(resumed.epoch > welcome.epoch);
    }
    lab.close();
}

#[test]
fn a_ticket_is_good_for_the_identity_that_got_it_alone() {
    let mut lab = Lab::new(settings());
    let mut come = |token: &[u8], ticket: &[u8]| {
        let peer = lab.dial(Bound::Edge, 0);
        let mut hello = edge_hello(0);
        (hello.token, hello.ticket) = (token.to_vec(), ticket.to_vec());
        let welcome = lab.join(peer, &hello);
        lab.hang_up(peer, Ending::Closed);
        lab.run();
        (welcome.id, welcome.ticket.clone())
    };
    let (anonymous, of_nobody) = come(b"", b"");
    let (trusted, of_trusted) = come(TRUSTED_TOKEN, b"");
    assert_eq!(come(b"", &of_nobody).0, anonymous);
    assert_eq!(come(TRUSTED_TOKEN, &of_trusted).0, trusted);
    assert_ne!(come(b"", &of_trusted).0, trusted);
    assert_ne!(come(TRUSTED_TOKEN, &of_nobody).0, anonymous);
    lab.close();
}

#[test]
fn a_bad_token_is_refused_and_a_trusted_one_opens_a_reserved_method() {
    let mut lab = Lab::new(settings());
    let peer = lab.dial(Bound::Edge, 0);
    let mut hello = edge_hello(5);
    hello.token = BAD_TOKEN.to_vec();
    assert_eq!(reject(&lab.greet(peer, &hello)).0, ErrorCode::Unauthenticated);
    let service = lab.service(1, "svc", &["get_edge_id", "edge_online"], &[]);
    let peer = lab.dial(Bound::Edge, 0);
    hello.token = TRUSTED_TOKEN.to_vec();
    lab.dialer(peer).hello(&hello);
    lab.run();
    let online = lab.expect(service);
    lab.answer(service, &online, &[]);
    lab.run();
    assert_eq!(lab.expect(peer).header.kind, FrameType::Welcome);
    lab.call(peer, 1, "get_edge_id", 0, b"");
    lab.call(peer, 2, "edge_online", 0, b"");
    lab.run();
    assert_eq!(lab.expect(service).call().name, "get_edge_id");
    assert_eq!(lab.expect_error(peer, 2), ErrorCode::PermissionDenied);
    lab.close();
}

#[test]
fn a_service_offers_only_the_reserved_methods_it_is_entitled_to() {
    let mut lab = Lab::new(settings());
    let peer = lab.dial(Bound::Service, 0);
    let mut hello = service_hello(1, "svc", &["edge_online"], &[]);
    hello.token = TRUSTED_TOKEN.to_vec();
    assert_eq!(reject(&lab.greet(peer, &hello)).0, ErrorCode::PermissionDenied);
    let peer = lab.dial(Bound::Service, 0);
    hello.methods = vec!["get_edge_id".to_owned()];
    lab.join(peer, &hello);
    lab.send(peer, FrameType::Register, 1, &names(&["edge_offline"], &[]), &[]);
    lab.run();
    assert_eq!(lab.expect_error(peer, 1), ErrorCode::PermissionDenied);
    lab.close();
}

#[test]
fn an_edge_comes_in_when_the_service_says_so_and_goes_with_an_event() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shard, "presence", &PRESENCE, &[]);
        let edge = knock(&mut lab, 0, 5);
        assert!(lab.is_quiet(edge), "not before the service agrees");
        let online = lab.expect(service);
        let (method, id, epoch) = event(&online);
        assert_eq!((method.as_str(), id), ("edge_online", 5));
        lab.answer(service, &online, &[]);
        lab.run();
        let answer = lab.expect(edge);
        assert_eq!(Lab::welcome(&answer).epoch, epoch);
        lab.hang_up(edge, Ending::Closed);
        lab.run();
        assert_eq!(event(&lab.expect(service)), ("edge_offline".to_owned(), 5, epoch));
        lab.close();
    }
}

#[test]
fn a_refused_edge_is_offline_and_nobody_hears_of_it() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shard, "presence", &PRESENCE, &[]);
        let edge = knock(&mut lab, 0, 5);
        let online = lab.expect(service);
        lab.answer_error(service, &online, ErrorCode::Application, "banned");
        lab.run();
        assert_eq!(reject(&lab.expect(edge)), (ErrorCode::Application, "banned".to_owned()));
        lab.run();
        assert!(lab.ended(edge).is_some());
        assert_eq!(lab.stage.shared().registry.edge(5), None);
        assert!(lab.is_quiet(service), "whoever refuses does not want to hear that it is offline");
        lab.close();
    }
}

#[test]
fn admission_has_its_time_and_a_late_yes_is_taken_back() {
    for shard in [0, 1] {
        let mut lab = Lab::new(Settings { handshake: 2 * SECOND, admission: SECOND, ..settings() });
        let service = lab.service(shard, "presence", &PRESENCE, &[]);
        let edge = knock(&mut lab, 0, 5);
        let online = lab.expect(service);
        lab.advance(1_100 * MILLI);
        assert_eq!(reject(&lab.expect(edge)).0, ErrorCode::DeadlineExceeded);
        lab.answer(service, &online, &[]);
        lab.run();
        assert!(lab.is_quiet(edge));
        let heard = lab.frames(service);
        assert_eq!(kinds(&heard).iter().filter(|kind| **kind == FrameType::Cancel).count(), 1);
        let offline: Vec<_> =
            heard.iter().filter(|note| note.header.kind == FrameType::Request).map(event).collect();
        assert_eq!(offline, [("edge_offline".to_owned(), 5, event(&online).2)]);
        lab.close();
    }
}

#[test]
fn both_questions_share_the_time_of_one_admission() {
    let mut lab = Lab::new(Settings { handshake: 2 * SECOND, admission: SECOND, ..settings() });
    let service = lab.service(1, "presence", &["get_edge_id", "edge_online"], &[]);
    let edge = knock(&mut lab, 0, 0);
    lab.advance(800 * MILLI);
    let question = lab.expect(service);
    lab.answer(service, &question, &edge_info(5));
    lab.run();
    let online = lab.expect(service);
    assert!(online.call().timeout_ms <= 250, "{}", online.call().timeout_ms);
    lab.advance(250 * MILLI);
    assert_eq!(reject(&lab.expect(edge)).0, ErrorCode::DeadlineExceeded);
    lab.close();
}

#[test]
fn an_edge_that_leaves_while_it_is_admitted_is_reported() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shard, "presence", &PRESENCE, &[]);
        let edge = knock(&mut lab, 0, 5);
        let online = lab.expect(service);
        lab.hang_up(edge, Ending::Reset);
        lab.run();
        let cancel = lab.expect(service);
        assert_eq!((cancel.header.kind, cancel.header.id), (FrameType::Cancel, online.header.id));
        assert_eq!(event(&lab.expect(service)).0, "edge_offline");
        lab.answer(service, &online, &[]);
        lab.run();
        assert!(lab.is_quiet(service));
        lab.close();
    }
}

#[test]
fn the_question_for_the_id_of_an_edge_that_leaves_is_taken_back() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shard, "ids", &["get_edge_id"], &[]);
        let edge = knock(&mut lab, 0, 0);
        let question = lab.expect(service);
        lab.hang_up(edge, Ending::Closed);
        lab.run();
        let cancel = lab.expect(service);
        assert_eq!((cancel.header.kind, cancel.header.id), (FrameType::Cancel, question.header.id));
        lab.answer(service, &question, &edge_info(5));
        lab.run();
        assert!(lab.is_quiet(service) && lab.stage.shared().registry.edge(5).is_none());
        lab.close();
    }
}

/// An answered question is not taken back when the edge leaves later.
#[test]
fn nothing_is_taken_back_that_was_answered() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shard, "presence", &["get_edge_id", "edge_online"], &[]);
        let edge = knock(&mut lab, 0, 0);
        let question = lab.expect(service);
        lab.answer(service, &question, &edge_info(5));
        lab.run();
        let online = lab.expect(service);
        lab.answer(service, &online, &[]);
        lab.run();
        assert_eq!(lab.expect(edge).header.kind, FrameType::Welcome);
        lab.hang_up(edge, Ending::Closed);
        lab.run();
        assert!(lab.is_quiet(service));
        lab.close();
    }
}

#[test]
fn a_kicked_session_is_told_when_it_may_come_again_and_a_replaced_one_that_it_may_not() {
    let mut lab = Lab::new(settings());
    let service = lab.service(1, "svc", &[], &[]);
    let (edge, replaced) = (lab.edge(0, 5), lab.edge(0, 6));
    let kicked = [edge, service].map(|peer| (peer, lab.dialer(peer).link));
    for (_, link) in kicked {
        let session = lab.stage.session(link).unwrap();
        lab.stage.post(session.shard, Msg::Kick { session });
    }
    lab.edge(1, 6);
    lab.run();
    let told = [(edge, ErrorCode::Cancelled, 3_000), (service, ErrorCode::Cancelled, 3_000)];
    for (peer, code, wait) in told.into_iter().chain([(replaced, ErrorCode::SessionClosed, 0)]) {
        let note = lab.expect(peer);
        let away = GoAway::parse(&note.head).unwrap();
        assert_eq!((away.reason.unwrap().code, away.reconnect_in_ms), (code, wait));
        assert!(lab.ended(peer).is_some());
    }
    lab.close();
}

#[test]
fn an_edge_kicked_while_it_is_admitted_is_turned_away() {
    let mut lab = Lab::new(settings());
    let service = lab.service(1, "presence", &PRESENCE, &[]);
    let edge = knock(&mut lab, 0, 5);
    lab.expect(service);
    let session = lab.stage.shared().registry.edge(5).unwrap();
    lab.stage.post(session.shard, Msg::Kick { session });
    lab.run();
    let refused = lab.expect(edge);
    assert_eq!(reject(&refused), (ErrorCode::Cancelled, "kicked by an operator".to_owned()));
    assert_eq!(ErrorRef::parse(&refused.head).unwrap().retry_after_ms, 3_000);
    assert_eq!(lab.expect(service).header.kind, FrameType::Cancel);
    assert_eq!(event(&lab.expect(service)).0, "edge_offline");
    lab.close();
}

#[test]
fn frames_sent_right_behind_hello_move_with_a_service_connection() {
    for seed in 0..20 {
        let chaos = Chaos { short_reads: 500, ..Chaos::NONE };
        let mut lab = Lab::with(settings(), chaos, seed);
        let edge = lab.edge(0, 5);
        let service = lab.dial(Bound::Service, 0);
        let mut hello = service_hello(1, "svc", &["echo"], &[]);
        hello.pool_index = 1;
        lab.dialer(service).hello(&hello);
        // Not waiting for Welcome is against the protocol's spirit, but a ping is allowed as soon as Hello is handled.
        lab.dialer(service).send(FrameType::Ping, 1, Flags::NONE, &[], &[]);
        lab.run();
        assert_eq!(kinds(&lab.frames(service)), [FrameType::Welcome, FrameType::Pong], "seed {seed}");
        let link = lab.dialer(service).link;
        assert_eq!(lab.stage.session(link).map(|session| session.shard), Some(1));
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        assert_eq!(lab.expect(service).header.kind, FrameType::Request);
        lab.close();
    }
}

#[test]
fn an_edge_welcomed_by_a_draining_gateway_is_sent_on() {
    let mut lab = Lab::new(settings());
    lab.stage.shared().draining.store(true, std::sync::atomic::Ordering::Relaxed);
    let edge = lab.edge(0, 5);
    let away = lab.expect(edge);
    assert_eq!(away.header.kind, FrameType::GoAway);
    assert_eq!(GoAway::parse(&away.head).unwrap().reason.unwrap().code, ErrorCode::GatewayDraining);
    lab.call(edge, 1, "nothing", 0, b"");
    lab.run();
    assert_eq!(lab.expect_error(edge, 1), ErrorCode::MethodNotFound, "it is served meanwhile");
    lab.close();
}

#[test]
fn a_hello_with_everything_too_much_is_refused() {
    let mut lab = Lab::new(Settings { meta: 100, registrations: 2, ..settings() });
    let refused = |lab: &mut Lab, change: &dyn Fn(&mut frontier_wire::native::hello::Hello)| {
        let peer = lab.dial(Bound::Edge, 0);
        let mut hello = edge_hello(5);
        change(&mut hello);
        let answer = lab.greet(peer, &hello);
        reject(&answer).0
    };
    assert_eq!(refused(&mut lab, &|hello| hello.meta = vec![0; 101]), ErrorCode::InvalidArgument);
    assert_eq!(refused(&mut lab, &|hello| hello.methods = vec!["m".into(); 3]), ErrorCode::InvalidArgument);
    assert_eq!(refused(&mut lab, &|hello| hello.name = "edges have none".into()), ErrorCode::InvalidArgument);
    assert_eq!(
        refused(&mut lab, &|hello| hello.methods = vec!["edge_online".into()]),
        ErrorCode::PermissionDenied
    );
    lab.close();
}

#[test]
fn a_hello_cut_into_single_bytes_is_understood() {
    let chaos = Chaos { short_reads: 1_000, ..Chaos::NONE };
    let mut lab = Lab::with(settings(), chaos, 3);
    let peer = lab.dial(Bound::Edge, 0);
    let mut hello = edge_hello(5);
    hello.meta = vec![1; 5_000];
    lab.dialer(peer).hello(&hello);
    lab.advance(SECOND);
    assert_eq!(lab.expect(peer).header.kind, FrameType::Welcome);
    let service = lab.service(1, "svc", &[], &[]);
    let call = head(&CallBuilder::new("m").edge(5));
    lab.send_part(service, FrameHeader::new(FrameType::Request, 1), &call, 0, 50_000, 50_000);
    lab.advance(SECOND);
    assert_eq!(lab.expect(peer).body.len(), 50_000);
    lab.close();
}

/// The service that is to be told that an edge is gone ends before it hears of it: somebody else has to.
#[test]
fn an_offline_event_finds_the_next_instance() {
    let mut told = 0;
    for seed in 0..120 {
        let mut lab = Lab::with(settings(), Chaos::NONE, seed);
        let edge = lab.edge(0, seed + 1);
        let services: Vec<Peer> =
            (0..2).map(|_| lab.service(1, "presence", &["edge_offline"], &[])).collect();
        lab.hang_up(edge, Ending::Reset);
        while lab.stage.shared().registry.edge(seed + 1).is_some() {
            lab.advance(1);
        }
        lab.hang_up(services[0], Ending::Reset);
        lab.run();
        told += events(&mut lab, services[1]).len();
        lab.close();
    }
    // Half of them were for the second anyway, some reached the first just before it ended.
    assert!(told > 80, "{told} of 120 were told");
}

#[test]
fn an_offline_event_needs_no_room() {
    for shard in [0, 1] {
        let mut lab = Lab::new(Settings { outbox: 60_000, ..settings() });
        let down = Quality { capacity: 1_000, ..Quality::PERFECT };
        let service = lab.dial_by(Bound::Service, 0, Path { up: Quality::PERFECT, down });
        let mut hello = service_hello(1, "presence", &["edge_offline", "echo"], &[]);
        hello.pool_index = shard;
        lab.join(service, &hello);
        let (edge, other) = (lab.edge(0, 5), lab.edge(1, 6));
        lab.freeze(service, true);
        // Until not even a call without a body fits.
        for (id, len) in (1..).zip([30_000, 20_000, 8_000, 4_000, 2_000, 900, 400, 200, 100, 50, 20, 0, 0, 0])
        {
            lab.call(other, id, "echo", 0, &vec![0; len]);
        }
        lab.run();
        let refused = lab.frames(other);
        assert!(
            refused.iter().any(|note| note.header.id == 14 && note.error() == Some(ErrorCode::Overloaded))
        );
        lab.hang_up(edge, Ending::Reset);
        lab.run();
        lab.freeze(service, false);
        lab.run();
        let heard = lab.frames(service);
        assert!(
            heard
                .iter()
                .any(|note| note.header.kind == FrameType::Request && note.call().name == "edge_offline")
        );
        lab.close();
    }
}

#[test]
fn an_answer_in_fragments_is_no_answer_about_an_edge() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(shard, "ids", &["get_edge_id", "echo"], &[]);
        let edge = knock(&mut lab, 0, 0);
        let question = lab.expect(service);
        let mut total = Vec::new();
        frontier_wire::native::head::ReplyBuilder::new().total_len(100).encode(&mut total);
        let id = question.header.id;
        lab.send_flagged(service, FrameType::Response, id, Flags::MORE, &total, &edge_info(77));
        lab.run();
        assert_eq!(reject(&lab.expect(edge)).0, ErrorCode::Internal);
        lab.send_flagged(service, FrameType::Response, id, Flags::NONE, &[], &[0; 95]);
        lab.run();
        lab.close();
    }
}
