//! Calls: routes, deadlines, cancellation, fragments and credit, and exactly one answer whatever happens.

use frontier_gateway::{
    core::{Bound, Settings, exchange::Policy},
    sim::{
        dialer::Note,
        lab::{Lab, Peer, service_hello},
        net::{Ending, Quality},
        stage::{Chaos, Path},
    },
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType, INITIAL_CREDIT},
        head::{CallBuilder, ErrorRef, ReplyBuilder, Sender},
    },
};

use super::{MILLI, SECOND, credit, error_head, head, kinds, settings};

/// More than a sender may have under way without credit.
const BIG: usize = INITIAL_CREDIT as usize + 100_000;

fn check_the_two_ends(lab: &mut Lab, edge: Peer, service: Peer, call: &Note, cancel: bool) {
    if cancel {
        lab.send(edge, FrameType::Cancel, 2, &[], &[]);
        lab.run();
        assert_eq!(lab.expect_error(edge, 2), ErrorCode::Cancelled);
        assert_eq!(kinds(&lab.frames(service)), [FrameType::Cancel]);
        return;
    }
    let response = FrameHeader::new(FrameType::Response, call.header.id);
    let window = INITIAL_CREDIT as usize;
    lab.send_part(service, response, &reply_head(BIG), 0, window, BIG);
    lab.run();
    lab.grant(edge, 2, Flags::REPLY, 100_000);
    lab.run();
    assert_eq!(kinds(&lab.frames(service)), [FrameType::Credit]);
    lab.send_part(service, response, &reply_head(BIG), window, BIG - window, BIG);
    lab.run();
    assert!(!lab.frames(edge).last().unwrap().header.flags.more());
}

fn reply_head(total: usize) -> Vec<u8> {
    let reply = ReplyBuilder::new().total_len(total as u64);
    let mut head = Vec::new();
    reply.encode(&mut head);
    head
}

/// An edge and a service that offers `echo`, at these shards.
fn pair(lab: &mut Lab, edge: u16, service: u16) -> (Peer, Peer) {
    let service = lab.service(service, "svc", &["echo"], &[]);
    (lab.edge(edge, 5), service)
}

#[test]
fn a_call_tells_the_service_who_calls_and_how_long_it_waits() {
    for shards in [(0, 0), (0, 1), (1, 0)] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards.0, shards.1);
        lab.call(edge, 1, "echo", 700, b"ping");
        lab.run();
        let call = lab.expect(service);
        assert_eq!((call.header.kind, &call.body[..]), (FrameType::Request, &b"ping"[..]));
        assert_eq!((call.call().name, call.call().sender()), ("echo", Some(Sender::Edge(5))));
        assert!((690..=700).contains(&call.call().timeout_ms), "{}", call.call().timeout_ms);
        lab.answer(service, &call, b"pong");
        lab.run();
        let answer = lab.expect(edge);
        assert_eq!(
            (answer.header.kind, answer.header.id, &answer.body[..]),
            (FrameType::Response, 1, &b"pong"[..])
        );
        assert_eq!(answer.error(), None);
        lab.close();
    }
}

#[test]
fn a_service_calls_an_edge_by_its_id() {
    for shards in [(0, 0), (0, 1)] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards.0, shards.1);
        lab.call_edge(service, 9, 5, "tune", b"up");
        lab.call_edge(service, 10, 6, "tune", b"up");
        lab.call_edge(service, 11, 0, "tune", b"up");
        lab.run();
        let call = lab.expect(edge);
        assert!(matches!(call.call().sender(), Some(Sender::Service(id)) if id != 0));
        assert_eq!(lab.expect_error(service, 10), ErrorCode::EdgeNotOnline);
        assert_eq!(lab.expect_error(service, 11), ErrorCode::InvalidArgument);
        lab.answer_error(edge, &call, ErrorCode::Application, "not today");
        lab.run();
        assert_eq!(lab.expect_error(service, 9), ErrorCode::Application);
        lab.close();
    }
}

#[test]
fn a_forged_sender_is_overridden() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 0);
    let forged = CallBuilder::new("echo").sender(Sender::Service(1)).timeout_ms(50);
    lab.send(edge, FrameType::Request, 1, &head(&forged), b"");
    lab.run();
    assert_eq!(lab.expect(service).call().sender(), Some(Sender::Edge(5)));
    lab.close();
}

/// Seen from the caller there are two ways to lose a call: nobody had it, or somebody did and is gone.
#[test]
fn a_call_that_its_last_service_has_left_behind_is_lost_or_nobodys() {
    let chaos = Chaos { turn_delay: 400, ..Chaos::NONE };
    for (named, nobodys) in [("", ErrorCode::MethodNotFound), ("svc", ErrorCode::ServiceNotOnline)] {
        let mut told = [0; 2];
        for seed in 1..=200 {
            let mut lab = Lab::with(settings(), chaos, seed);
            let (edge, service) = pair(&mut lab, 0, 1);
            let call = head(&CallBuilder::new("echo").service(named));
            lab.send(edge, FrameType::Request, 1, &call, b"ping");
            lab.hang_up(service, Ending::Closed);
            lab.run();
            match lab.expect_error(edge, 1) {
                ErrorCode::SessionClosed => told[0] += 1,
                code if code == nobodys || code == ErrorCode::MethodNotFound => told[1] += 1,
                code => panic!("seed {seed}: a call of {named:?} was told {code:?}"),
            }
            lab.close();
        }
        assert!(told.iter().all(|count| *count > 0), "{told:?}");
    }
}

#[test]
fn what_nobody_offers_is_told_apart() {
    let mut lab = Lab::new(settings());
    let (edge, _) = pair(&mut lab, 0, 1);
    lab.service(0, "other", &["sum"], &[]);
    let cases = [
        (CallBuilder::new("nothing"), Some(ErrorCode::MethodNotFound)),
        (CallBuilder::new("Echo"), Some(ErrorCode::MethodNotFound)),
        (CallBuilder::new("echo").service("nobody"), Some(ErrorCode::ServiceNotOnline)),
        (CallBuilder::new("echo").service("other"), Some(ErrorCode::MethodNotFound)),
        (CallBuilder::new("edge_online"), Some(ErrorCode::PermissionDenied)),
        (CallBuilder::new("echo").service("svc"), None),
    ];
    for (id, (call, error)) in (1..).zip(cases) {
        lab.send(edge, FrameType::Request, id, &head(&call), b"");
        lab.run();
        match error {
            Some(code) => assert_eq!(lab.expect_error(edge, id), code),
            None => assert!(lab.is_quiet(edge), "it went to the service"),
        }
    }
    lab.close();
}

#[test]
fn an_id_in_use_ends_the_session() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    lab.call(edge, 1, "echo", 0, b"");
    lab.call(edge, 1, "echo", 0, b"");
    lab.run();
    assert_eq!(kinds(&lab.frames(edge)), [FrameType::GoAway]);
    assert_eq!(kinds(&lab.frames(service)), [FrameType::Request, FrameType::Cancel]);
    lab.close();
}

#[test]
fn a_deadline_fails_the_call_and_cancels_it() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        lab.call(edge, 1, "echo", 100, b"");
        lab.advance(90 * MILLI);
        let call = lab.expect(service);
        assert!(lab.is_quiet(edge), "not before its time");
        lab.advance(40 * MILLI);
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::DeadlineExceeded);
        let cancel = lab.expect(service);
        assert_eq!((cancel.header.kind, cancel.header.id), (FrameType::Cancel, call.header.id));
        lab.answer(service, &call, b"too late");
        lab.run();
        assert!(lab.is_quiet(edge), "one answer is enough");
        lab.close();
    }
}

#[test]
fn a_deadline_is_the_senders_or_the_gateways_and_never_beyond_the_longest() {
    for service_shard in [0, 1] {
        let (call_timeout, max_call_timeout) = (500 * MILLI, SECOND);
        let mut lab = Lab::new(Settings { call_timeout, max_call_timeout, ..settings() });
        let (edge, service) = pair(&mut lab, 0, service_shard);
        for (id, named) in [(1, 0), (2, u32::MAX), (3, 200)] {
            lab.call(edge, id, "echo", named, b"");
        }
        lab.run();
        let told: Vec<u32> = lab.frames(service).iter().map(|note| note.call().timeout_ms).collect();
        assert!((490..=500).contains(&told[0]), "{told:?}");
        assert!((990..=1_000).contains(&told[1]), "{told:?}");
        assert!((190..=200).contains(&told[2]), "{told:?}");
        for (id, after) in [(3, 200), (1, 300), (2, 500)] {
            lab.advance((after - 40) * MILLI);
            assert!(lab.is_quiet(edge), "{id} not before its time");
            lab.advance(40 * MILLI);
            assert_eq!(lab.expect_error(edge, id), ErrorCode::DeadlineExceeded);
        }
        lab.close();
    }
}

#[test]
fn a_cancelled_call_is_answered_at_once_and_the_receiver_told() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        let call = lab.expect(service);
        lab.send(edge, FrameType::Cancel, 1, &[], &[]);
        lab.run();
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::Cancelled);
        assert_eq!(lab.expect(service).header.kind, FrameType::Cancel);
        lab.answer(service, &call, b"late");
        lab.send(edge, FrameType::Cancel, 1, &[], &[]);
        lab.run();
        assert!(lab.is_quiet(edge));
        lab.close();
    }
}

#[test]
fn calls_of_an_edge_that_ends_are_cancelled() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        lab.hang_up(edge, Ending::Reset);
        lab.run();
        assert_eq!(kinds(&lab.frames(service)), [FrameType::Request, FrameType::Cancel]);
        lab.close();
    }
}

#[test]
fn too_many_in_flight_fail_alone() {
    let mut lab = Lab::new(Settings { requests_in_flight: 3, ..settings() });
    let (edge, service) = pair(&mut lab, 0, 1);
    for id in 1..=5 {
        lab.call(edge, id, "echo", 0, b"");
    }
    lab.run();
    assert_eq!(lab.frames(service).len(), 3);
    for id in [4, 5] {
        assert_eq!(lab.expect_error(edge, id), ErrorCode::Overloaded);
    }
    lab.close();
}

#[test]
fn a_head_longer_than_the_limit_is_refused_and_nothing_else_ends() {
    let mut lab = Lab::new(Settings { head: 200, ..settings() });
    let (edge, service) = pair(&mut lab, 0, 0);
    let call = |len: usize| {
        let header = "h".repeat(len);
        let call = head(&CallBuilder::new("echo").headers([("k", header.as_str())]));
        let header = "h".repeat(2 * len - call.len());
        head(&CallBuilder::new("echo").headers([("k", header.as_str())]))
    };
    let (fits, too_long) = (call(200), call(201));
    assert_eq!((fits.len(), too_long.len()), (200, 201));
    lab.send(edge, FrameType::Request, 1, &too_long, b"x");
    lab.run();
    assert_eq!(lab.expect_error(edge, 1), ErrorCode::PayloadTooLarge);
    assert!(lab.is_quiet(service) && lab.is_quiet(edge));
    // Late fragments of one that is refused are skipped.
    let header = "h".repeat(300);
    let long = head(&CallBuilder::new("echo").headers([("k", header.as_str())]).total_len(100_000));
    lab.send_part(edge, FrameHeader::new(FrameType::Request, 2), &long, 0, 100_000, 100_000);
    lab.send(edge, FrameType::Request, 3, &fits, b"y");
    lab.run();
    assert_eq!(lab.expect_error(edge, 2), ErrorCode::PayloadTooLarge);
    assert_eq!(lab.expect(service).body, b"y"[..]);
    lab.close();
}

#[test]
fn a_body_longer_than_the_limit_is_refused_before_anything_is_passed_on() {
    let mut lab = Lab::new(Settings { body: 100_000, ..settings() });
    let (edge, service) = pair(&mut lab, 0, 0);
    let call = head(&CallBuilder::new("echo").total_len(100_001));
    lab.send_part(edge, FrameHeader::new(FrameType::Request, 1), &call, 0, 100_001, 100_001);
    lab.run();
    assert_eq!(lab.expect_error(edge, 1), ErrorCode::PayloadTooLarge);
    assert!(lab.is_quiet(service) && lab.is_quiet(edge), "late fragments are skipped");
    let call = head(&CallBuilder::new("echo").total_len(100_000));
    lab.send_part(edge, FrameHeader::new(FrameType::Request, 2), &call, 0, 100_000, 100_000);
    lab.run();
    let parts = lab.frames(service);
    assert_eq!(parts.iter().map(|part| part.body.len()).sum::<usize>(), 100_000);
    let answer = reply_head(100_001);
    lab.send_part(
        service,
        FrameHeader::new(FrameType::Response, parts[0].header.id),
        &answer,
        0,
        65_536,
        100_001,
    );
    lab.run();
    assert_eq!(lab.expect_error(edge, 2), ErrorCode::PayloadTooLarge);
    assert_eq!(lab.expect(service).header.kind, FrameType::Cancel);
    lab.close();
}

#[test]
fn bodies_in_fragments_move_by_credit_both_ways() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        let call = head(&CallBuilder::new("echo").total_len(BIG as u64));
        let window = INITIAL_CREDIT as usize;
        lab.send_part(edge, FrameHeader::new(FrameType::Request, 1), &call, 0, window, BIG);
        lab.run();
        let id = lab.frames(service)[0].header.id;
        lab.grant(service, id, Flags::NONE, 100_000);
        lab.run();
        let granted = lab.expect(edge);
        assert_eq!(
            (granted.header.kind, granted.header.id, credit(&granted.head)),
            (FrameType::Credit, 1, 100_000)
        );
        lab.send_part(edge, FrameHeader::new(FrameType::Request, 1), &call, window, BIG - window, BIG);
        lab.run();
        assert!(!lab.frames(service).last().unwrap().header.flags.more());
        let response = FrameHeader::new(FrameType::Response, id);
        lab.send_part(service, response, &reply_head(BIG), 0, window, BIG);
        lab.run();
        assert_eq!(lab.frames(edge).iter().map(|part| part.body.len()).sum::<usize>(), window);
        lab.grant(edge, 1, Flags::REPLY, 100_000);
        lab.run();
        let granted = lab.expect(service);
        assert_eq!(
            (granted.header.id, granted.header.flags.reply(), credit(&granted.head)),
            (id, true, 100_000)
        );
        lab.send_part(service, response, &reply_head(BIG), window, BIG - window, BIG);
        lab.run();
        assert!(!lab.frames(edge).last().unwrap().header.flags.more());
        lab.close();
    }
}

#[test]
fn more_than_granted_or_announced_ends_the_session() {
    let window = INITIAL_CREDIT as usize;
    for (announced, sent) in [(BIG, window + 1), (70_000, 70_001)] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, 1);
        let call = head(&CallBuilder::new("echo").total_len(announced as u64));
        lab.send_part(edge, FrameHeader::new(FrameType::Request, 1), &call, 0, sent, usize::MAX);
        lab.run();
        assert_eq!(kinds(&lab.frames(edge)), [FrameType::GoAway]);
        assert_eq!(lab.frames(service).last().unwrap().header.kind, FrameType::Cancel);
        lab.close();
    }
}

#[test]
fn an_aborted_body_is_passed_on_with_its_reason_and_still_answered() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        let call = head(&CallBuilder::new("echo").total_len(BIG as u64));
        lab.send_part(edge, FrameHeader::new(FrameType::Request, 1), &call, 0, 65_536, BIG);
        let why = head(&CallBuilder::abort(ErrorRef::new(ErrorCode::Application, "disk gone")));
        lab.send_flagged(edge, FrameType::Request, 1, Flags::ABORT, &why, &[]);
        lab.run();
        let parts = lab.frames(service);
        let last = parts.last().unwrap();
        assert!(last.header.flags.abort());
        assert_eq!(last.call().error.map(|error| error.text), Some("disk gone"));
        lab.answer_error(service, &parts[0], ErrorCode::Cancelled, "");
        lab.run();
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::Cancelled);
        lab.close();
    }
}

#[test]
fn an_answer_before_the_last_fragment_ends_the_transfer() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        let call = head(&CallBuilder::new("echo").total_len(BIG as u64));
        lab.send_part(edge, FrameHeader::new(FrameType::Request, 1), &call, 0, 65_536, BIG);
        lab.run();
        let part = lab.expect(service);
        lab.answer_error(service, &part, ErrorCode::Application, "no");
        lab.run();
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::Application);
        lab.send_part(edge, FrameHeader::new(FrameType::Request, 1), &call, 65_536, 65_536, BIG);
        lab.run();
        assert!(lab.is_quiet(service) && lab.is_quiet(edge));
        lab.close();
    }
}

#[test]
fn an_answer_that_stops_in_the_middle_says_so() {
    for (edge_shard, how) in [(0, Ending::Reset), (1, Ending::Closed)] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, edge_shard, 1);
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        let id = lab.expect(service).header.id;
        lab.send_part(service, FrameHeader::new(FrameType::Response, id), &reply_head(BIG), 0, 65_536, BIG);
        lab.run();
        lab.hang_up(service, how);
        lab.run();
        let parts = lab.frames(edge);
        assert_eq!(parts.len(), 2);
        assert!(parts[1].header.flags.abort());
        assert_eq!(parts[1].error(), Some(ErrorCode::SessionClosed));
        lab.close();
    }
}

/// A peer whose connection takes few bytes and that does not read them.
fn narrow() -> Path {
    let down = Quality { capacity: 2_000, ..Quality::PERFECT };
    Path { up: Quality::PERFECT, down }
}

#[test]
fn a_full_outbox_fails_the_one_operation_too_many() {
    let mut lab = Lab::new(Settings { outbox: 290_000, ..settings() });
    let service = lab.dial_by(Bound::Service, 0, narrow());
    lab.join(service, &service_hello(1, "svc", &["echo"], &[]));
    lab.freeze(service, true);
    let edge = lab.edge(0, 5);
    for id in 1..=10 {
        lab.call(edge, id, "echo", 0, &[1; 60_000]);
    }
    lab.run();
    let failed: Vec<u64> = lab.frames(edge).iter().map(|answer| answer.header.id).collect();
    assert_eq!(failed, [5, 6, 7, 8, 9, 10]);
    lab.freeze(service, false);
    lab.run();
    assert_eq!(lab.frames(service).len(), 4);
    lab.close();
}

#[test]
fn an_answer_that_does_not_fit_becomes_overloaded_and_a_small_one_always_fits() {
    let mut lab = Lab::new(Settings { outbox: 150_000, ..settings() });
    let service = lab.service(1, "svc", &["echo"], &[]);
    let edge = lab.dial_by(Bound::Edge, 0, narrow());
    lab.join(edge, &frontier_gateway::sim::lab::edge_hello(5));
    lab.freeze(edge, true);
    for id in 1..=5 {
        lab.call(edge, id, "echo", 0, b"");
    }
    lab.run();
    let calls = lab.frames(service);
    for call in &calls[..4] {
        lab.answer(service, call, &[3; 60_000]);
    }
    lab.answer(service, &calls[4], b"small");
    lab.run();
    lab.freeze(edge, false);
    lab.run();
    let answers: Vec<(u64, Option<ErrorCode>)> =
        lab.frames(edge).iter().map(|answer| (answer.header.id, answer.error())).collect();
    let mut sorted = answers.clone();
    sorted.sort_unstable_by_key(|answer| answer.0);
    let overloaded = Some(ErrorCode::Overloaded);
    assert_eq!(sorted, [(1, None), (2, None), (3, overloaded), (4, overloaded), (5, None)]);
    lab.close();
}

#[test]
fn least_in_flight_counts_up_and_down() {
    let mut lab = Lab::new(Settings { policy: Policy::LeastInFlight, ..settings() });
    let one = lab.service(0, "svc", &["echo"], &[]);
    let two = lab.service(1, "svc", &["echo"], &[]);
    let edge = lab.edge(0, 5);
    for id in 1..=6 {
        lab.call(edge, id, "echo", 0, b"");
        lab.run();
    }
    let (ones, twos) = (lab.frames(one), lab.frames(two));
    assert_eq!((ones.len(), twos.len()), (3, 3), "spread evenly while nobody answers");
    for call in &ones {
        lab.answer(one, call, b"");
    }
    lab.run();
    for id in 7..=9 {
        lab.call(edge, id, "echo", 0, b"");
        lab.run();
    }
    assert_eq!((lab.frames(one).len(), lab.frames(two).len()), (3, 0), "whoever is done gets the next");
    lab.close();
}

#[test]
fn an_edge_keeps_its_instance_and_others_spread() {
    let mut lab = Lab::new(settings());
    let services: Vec<Peer> = (0..4).map(|n| lab.service(n % 2, "svc", &["echo"], &[])).collect();
    for edge in 1..=20 {
        let peer = lab.edge(0, edge);
        for id in 1..=3 {
            lab.call(peer, id, "echo", 0, b"");
        }
    }
    lab.run();
    let mut used = 0;
    for service in services {
        let calls = lab.frames(service);
        let edges: Vec<u64> = calls.iter().map(|call| call.call().from_edge).collect();
        assert!(
            edges.iter().all(|edge| edges.iter().filter(|other| *other == edge).count() == 3),
            "{edges:?}"
        );
        used += usize::from(!edges.is_empty());
    }
    assert!(used >= 3, "{used} of 4 are used");
    lab.close();
}

#[test]
fn connections_of_a_pool_are_one_instance_and_the_own_shard_is_preferred() {
    let mut lab = Lab::new(settings());
    let mut pool = Vec::new();
    for index in [0, 1] {
        let peer = lab.dial(Bound::Service, 0);
        let mut hello = service_hello(7, "svc", &["echo"], &[]);
        hello.pool_index = index;
        let welcome = lab.join(peer, &hello);
        assert_eq!(welcome.shards, 2);
        pool.push(peer);
    }
    for (shard, edge) in [(0, 5), (1, 6), (0, 7), (1, 8)] {
        let peer = lab.edge(shard, edge);
        lab.call(peer, 1, "echo", 0, b"");
        lab.run();
        let used = pool[usize::from(shard)];
        assert_eq!(lab.expect(used).call().from_edge, edge);
    }
    lab.close();
}

#[test]
fn a_method_taken_back_is_not_called_and_calls_under_way_go_on() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        let call = lab.expect(service);
        lab.send(service, FrameType::Unregister, 50, &super::names(&["echo"], &[]), &[]);
        lab.run();
        assert_eq!(lab.expect(service).header.kind, FrameType::Ack);
        lab.call(edge, 2, "echo", 0, b"");
        lab.run();
        assert_eq!(lab.expect_error(edge, 2), ErrorCode::MethodNotFound);
        lab.answer(service, &call, b"done");
        lab.run();
        assert_eq!(lab.expect(edge).error(), None);
        lab.close();
    }
}

#[test]
fn a_deadline_storm_is_answered_in_full() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    for id in 1..=500 {
        lab.call(edge, id, "echo", 1 + u32::try_from(id % 60).unwrap(), b"");
    }
    lab.advance(SECOND);
    let answers = lab.frames(edge);
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().all(|answer| answer.error() == Some(ErrorCode::DeadlineExceeded)));
    assert_eq!(lab.frames(service).len(), 1_000);
    lab.close();
}

/// Each deadline is earlier than those before it. The shard's books are looked at after every turn: no session is on the wheel twice.
#[test]
fn earlier_and_earlier_deadlines_leave_nothing_behind() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        for round in 0..20 {
            for id in 1..=50 {
                lab.call(edge, round * 50 + id, "echo", u32::try_from(10_000 - 150 * id).unwrap(), b"");
            }
            lab.run();
            for call in lab.frames(service) {
                lab.answer(service, &call, b"");
            }
            lab.run();
            assert_eq!(lab.frames(edge).len(), 50);
        }
        lab.close();
    }
}

/// Edges make more calls than one turn can fail, all with the same deadline.
#[test]
fn deadlines_that_come_together_are_spread_over_turns() {
    let mut lab = Lab::new(settings());
    lab.service(0, "svc", &["echo"], &[]);
    let edges: Vec<Peer> = (1..=6).map(|id| lab.edge(0, id)).collect();
    for edge in &edges {
        for id in 1..=1_000 {
            lab.call(*edge, id, "echo", 500, b"");
        }
    }
    lab.run();
    let late = |lab: &Lab| {
        let stats = &lab.stage.shared().stats[0];
        stats.operations[0].count(Some(ErrorCode::DeadlineExceeded))
    };
    let (mut before, mut turns) = (0, 0);
    while before < 6_000 {
        lab.advance(MILLI);
        let now = late(&lab);
        assert!(now - before <= 4_096, "{} in a turn", now - before);
        turns += u32::from(now > before);
        before = now;
        assert!(lab.stage.now() < 5 * SECOND, "{now} of 6,000 have failed");
    }
    assert!(turns > 1);
    lab.run();
    for edge in edges {
        let answers = lab.frames(edge);
        assert!(answers.len() == 1_000 && answers.iter().all(|note| note.error().is_some()));
    }
    lab.close();
}

#[test]
fn an_answer_of_the_wrong_kind_ends_the_session_that_gave_it() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    lab.call(edge, 1, "echo", 0, b"");
    lab.run();
    let id = lab.expect(service).header.id;
    lab.send(service, FrameType::Ack, id, &[], &[]);
    lab.run();
    assert_eq!(kinds(&lab.frames(service)), [FrameType::GoAway]);
    assert_eq!(lab.expect_error(edge, 1), ErrorCode::SessionClosed);
    lab.close();
}

#[test]
fn a_cancel_for_a_receiver_says_why() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 0);
    lab.call(edge, 1, "echo", 0, b"");
    lab.send(edge, FrameType::Cancel, 1, &error_head(ErrorRef::new(ErrorCode::Cancelled, "")), &[]);
    lab.run();
    let notes = lab.frames(service);
    assert_eq!(kinds(&notes), [FrameType::Request, FrameType::Cancel]);
    assert_eq!(ErrorRef::parse(&notes[1].head).unwrap().code, ErrorCode::Cancelled);
    lab.close();
}

/// The failure of a receiver and the cancellation by the requester cross between two shards.
#[test]
fn a_failure_that_crosses_a_cancel_is_no_second_answer() {
    let mut crossed = 0;
    for seed in 0..60 {
        let mut lab = Lab::with(settings(), Chaos::NONE, seed);
        let (edge, service) = pair(&mut lab, 0, 1);
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        lab.send(edge, FrameType::Cancel, 1, &[], &[]);
        lab.hang_up(service, Ending::Reset);
        lab.run();
        let answers = lab.frames(edge);
        assert_eq!(answers.len(), 1, "seed {seed}: {answers:?}");
        crossed += u32::from(answers[0].error() == Some(ErrorCode::Cancelled));
        lab.close();
    }
    assert!(crossed > 10 && crossed < 60, "{crossed} of 60 crossed");
}

#[test]
fn an_operation_without_an_id_ends_the_session_even_as_the_first() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 0);
    lab.call(edge, 0, "echo", 0, b"");
    lab.run();
    assert_eq!(kinds(&lab.frames(edge)), [FrameType::GoAway]);
    assert!(lab.ended(edge).is_some());
    assert!(lab.is_quiet(service));
    lab.close();
}

#[test]
fn nothing_may_follow_the_end_of_a_body() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 0);
    lab.call(edge, 1, "echo", 0, b"whole");
    lab.send(edge, FrameType::Request, 1, &[], &[]);
    lab.run();
    assert_eq!(kinds(&lab.frames(edge)), [FrameType::GoAway]);
    assert_eq!(kinds(&lab.frames(service)), [FrameType::Request, FrameType::Cancel]);
    lab.close();
}

/// A call is on its way to a service of another shard while that ends; the next instance gets it, and everything the two ends tell
/// each other later must find it there.
#[test]
fn a_rerouted_call_keeps_its_credit_and_its_cancel() {
    let mut rerouted = 0;
    for seed in 0..160 {
        let mut lab = Lab::with(settings(), Chaos::NONE, seed);
        let edge = lab.edge(0, seed + 1);
        let services = [
            lab.service(1, "svc", &["echo"], &[]),
            lab.service(u16::from(seed % 4 < 2), "svc", &["echo"], &[]),
        ];
        // The policy sends both calls to the same instance, if that is alive.
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        let [first, second] = if lab.is_quiet(services[0]) { [services[1], services[0]] } else { services };
        lab.call(edge, 2, "echo", 0, b"again");
        lab.hang_up(first, Ending::Reset);
        lab.run();
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::SessionClosed);
        if lab.is_quiet(second) {
            assert_eq!(
                lab.expect_error(edge, 2),
                ErrorCode::SessionClosed,
                "it was with the first when that ended"
            );
            continue;
        }
        rerouted += 1;
        let call = lab.expect(second);
        assert_eq!(&call.body[..], b"again");
        check_the_two_ends(&mut lab, edge, second, &call, seed % 2 == 0);
        lab.close();
    }
    assert!(rerouted > 40, "{rerouted} of 160 were rerouted");
}

/// The same for calls that name the service, and for those whose body comes in fragments, which are on their way, too.
#[test]
fn a_rerouted_call_keeps_its_service_and_its_fragments() {
    const CREDIT: usize = INITIAL_CREDIT as usize;
    for (service, len) in [("svc", 100), ("", 150_000), ("svc", 150_000), ("", CREDIT + 100_000)] {
        let mut rerouted = 0;
        for seed in 0..120 {
            let chaos = Chaos { short_reads: 300, ..Chaos::NONE };
            let mut lab = Lab::with(settings(), chaos, seed);
            let edge = lab.edge(0, seed + 1);
            let services = [
                lab.service(1, "svc", &["echo"], &[]),
                lab.service(u16::from(seed % 4 < 2), "svc", &["echo"], &[]),
            ];
            // Nobody may turn to this one.
            lab.service(1, "other", if service.is_empty() { &[] } else { &["echo"] }, &[]);
            let call = CallBuilder::new("echo").service(service);
            lab.send(edge, FrameType::Request, 1, &head(&call), b"");
            lab.run();
            let [first, second] =
                if lab.is_quiet(services[0]) { [services[1], services[0]] } else { services };
            let call = if len > 65_536 { call.total_len(len as u64) } else { call };
            let header = FrameHeader::new(FrameType::Request, 2);
            lab.send_part(edge, header, &head(&call), 0, len.min(CREDIT), len);
            // Of a call in fragments the first one takes some reads.
            lab.advance(seed % 8 * 40);
            lab.hang_up(first, Ending::Reset);
            lab.run();
            assert_eq!(lab.expect_error(edge, 1), ErrorCode::SessionClosed);
            if lab.is_quiet(second) {
                assert_eq!(
                    lab.expect_error(edge, 2),
                    ErrorCode::SessionClosed,
                    "it was with the first when that ended"
                );
                continue;
            }
            rerouted += 1;
            let parts = lab.frames(second);
            let id = parts[0].header.id;
            let mut got: usize = parts.iter().map(|part| part.body.len()).sum();
            assert_eq!((parts[0].call().service, got), (service, len.min(CREDIT)));
            if len > CREDIT {
                lab.grant(second, id, Flags::NONE, 200_000);
                lab.run();
                assert_eq!(credit(&lab.expect(edge).head), 200_000);
                lab.send_part(edge, header, &[], CREDIT, len - CREDIT, len);
                lab.run();
                let rest = lab.frames(second);
                assert!(rest.iter().all(|part| part.header.id == id));
                assert!(!rest.last().unwrap().header.flags.more());
                got += rest.iter().map(|part| part.body.len()).sum::<usize>();
            }
            assert_eq!(got, len);
            lab.answer(second, &parts[0], b"done");
            lab.run();
            assert_eq!(&lab.expect(edge).body[..], b"done");
            lab.close();
        }
        assert!(rerouted > 5, "{rerouted} of 120 were rerouted: {service:?}, {len} bytes");
    }
}

#[test]
fn a_service_that_ends_fails_its_calls_at_once() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, 0, service_shard);
        for id in 1..=3 {
            lab.call(edge, id, "echo", 0, b"");
        }
        lab.run();
        lab.hang_up(service, Ending::Reset);
        lab.run();
        for id in 1..=3 {
            assert_eq!(lab.expect_error(edge, id), ErrorCode::SessionClosed, "in the order of their ids");
        }
        lab.call(edge, 4, "echo", 0, b"");
        lab.run();
        assert_eq!(lab.expect_error(edge, 4), ErrorCode::MethodNotFound);
        lab.close();
    }
}

#[test]
fn by_source_address_edges_of_one_address_meet_one_instance() {
    let mut lab = Lab::new(Settings { policy: Policy::SourceIp, ..settings() });
    let services = [0, 1, 0, 1].map(|shard| lab.service(shard, "svc", &["m"], &[]));
    let first: Vec<Peer> = (1..=20).map(|id| lab.edge(0, id)).collect();
    // Simulated addresses come again after 200 connections, with other ports.
    for _ in 0..180 {
        lab.dial_raw(Bound::Edge, 0);
    }
    let second: Vec<Peer> = (101..=120).map(|id| lab.edge(1, id)).collect();
    let mut asked = |edge: Peer| {
        lab.call(edge, 1, "m", 0, b"");
        lab.run();
        let at = services.iter().position(|service| !lab.is_quiet(*service)).unwrap();
        let call = lab.expect(services[at]);
        lab.answer(services[at], &call, b"");
        lab.run();
        at
    };
    let met: Vec<[usize; 2]> = first.into_iter().zip(second).map(|(a, b)| [asked(a), asked(b)]).collect();
    assert!(met.iter().all(|[first, second]| first == second), "{met:?}");
    assert!((0..4).all(|at| met.iter().any(|[first, _]| *first == at)), "not spread: {met:?}");
}
