//! The life of a session: its handshake, its silence, its floods and its end.

use frontier_gateway::{
    core::{
        Bound, Protocols, Settings,
        message::{Msg, ScanReply},
        shard::walks::SLOTS_PER_TURN,
    },
    sim::{
        dialer::Heard,
        lab::{Lab, Peer, edge_hello, service_hello},
        net::{Ending, Quality},
        stage::Path,
    },
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType},
        head::{CallBuilder, ErrorRef, GoAway},
        presence::{EdgeInfo, PresencePage},
    },
};

use super::{MILLI, SECOND, head, held, kinds, names, settings};

/// A yamux data frame of the dialer on its first stream; the first one opens it.
fn on_first_stream(first: bool, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, 0, 0, u8::from(first), 0, 0, 0, 1], &len[..], payload].concat()
}

fn frame(kind: FrameType, id: u64, head: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    FrameHeader::new(kind, id).put_frame(&mut frame, head, &[]).unwrap();
    frame
}

/// An edge that speaks in raw bytes and never grants a byte of window.
fn miser(lab: &mut Lab, id: u64) -> Peer {
    let peer = lab.dial_raw(Bound::Edge, 0);
    let mut hello = Vec::new();
    edge_hello(id).encode(&mut hello);
    lab.raw(peer, &on_first_stream(true, &frame(FrameType::Hello, 0, &hello)));
    lab.run();
    assert!(!lab.read_raw(peer).is_empty(), "welcome");
    peer
}

fn counts(lab: &Lab) -> (u64, u64) {
    let stats = &lab.stage.shared().stats;
    let sum = |role: usize| stats.iter().map(|stats| stats.sessions[role].get()).sum();
    (sum(0), sum(1))
}

#[test]
fn a_connection_that_says_nothing_is_cut_in_time() {
    let mut lab = Lab::new(Settings { handshake: SECOND, ..settings() });
    let silent = lab.dial_raw(Bound::Edge, 0);
    let slow = lab.dial_raw(Bound::Edge, 1);
    lab.advance(900 * MILLI);
    lab.raw(slow, b"\0");
    assert!(lab.ended(silent).is_none());
    lab.advance(200 * MILLI);
    assert!(lab.ended(silent).is_some() && lab.ended(slow).is_some());
    lab.close();
}

#[test]
fn whoever_comes_in_by_the_wrong_door_is_told() {
    let mut lab = Lab::new(settings());
    let peer = lab.dial(Bound::Service, 0);
    let answer = lab.greet(peer, &edge_hello(5));
    assert_eq!(answer.header.kind, FrameType::Reject);
    assert_eq!(ErrorRef::parse(&answer.head).unwrap().code, ErrorCode::InvalidArgument);
    lab.run();
    assert!(lab.ended(peer).is_some());
    lab.close();
}

#[test]
fn nothing_but_hello_may_come_first() {
    let mut lab = Lab::new(settings());
    let peer = lab.dial(Bound::Edge, 0);
    lab.call(peer, 1, "echo", 0, b"");
    lab.run();
    assert_eq!(kinds(&lab.frames(peer)), [FrameType::Reject]);
    assert!(lab.ended(peer).is_some());
    lab.close();
}

#[test]
fn the_rate_of_new_sessions_is_kept_and_no_lower() {
    // Ten per second for two shards, asked for every 20 ms at one of them.
    let mut lab = Lab::new(Settings { accept_rate: 10, ..settings() });
    lab.advance(2 * SECOND);
    let mut welcome = 0;
    for id in 1..=200 {
        let peer = lab.dial(Bound::Edge, 0);
        let answer = lab.greet(peer, &edge_hello(id));
        if answer.header.kind == FrameType::Welcome {
            welcome += 1;
        } else {
            let error = ErrorRef::parse(&answer.head).unwrap();
            assert_eq!(error.code, ErrorCode::Overloaded);
            assert!(
                (500..5_000).contains(&error.retry_after_ms),
                "spread, so that they do not come back at once"
            );
        }
    }
    assert!((20..=30).contains(&welcome), "{welcome} in four seconds at five per second");
    lab.close();
}

#[test]
fn a_storm_of_edges_does_not_keep_services_out() {
    let mut lab = Lab::new(Settings { accept_rate: 10, ..settings() });
    let mut refused = 0;
    for id in 1..=20 {
        let peer = lab.dial(Bound::Edge, 0);
        refused += u32::from(lab.greet(peer, &edge_hello(id)).header.kind == FrameType::Reject);
    }
    assert!(refused > 0, "the bucket is empty");
    for _ in 0..5 {
        lab.service(0, "svc", &["echo"], &[]);
    }
    lab.close();
}

#[test]
fn pings_are_answered_and_silence_ends_the_session() {
    let mut lab = Lab::new(Settings { heartbeat: SECOND, ..settings() });
    let (edge, silent) = (lab.edge(0, 5), lab.edge(1, 6));
    for id in 1..=3 {
        lab.advance(SECOND);
        lab.send(edge, FrameType::Ping, id, &[], &[]);
        lab.run();
        let pong = lab.expect(edge);
        assert_eq!((pong.header.kind, pong.header.id), (FrameType::Pong, id));
    }
    assert!(lab.ended(edge).is_none());
    assert!(lab.ended(silent).is_some(), "2.5 times the heartbeat are over");
    lab.close();
}

#[test]
fn a_peer_that_takes_nothing_is_cut_and_its_calls_fail() {
    let mut lab = Lab::new(Settings { stall: SECOND, ..settings() });
    let down = Quality { capacity: 2_000, ..Quality::PERFECT };
    let service = lab.dial_by(Bound::Service, 1, Path { up: Quality::PERFECT, down });
    let mut hello = service_hello(1, "svc", &["echo"], &[]);
    hello.pool_index = 1;
    lab.join(service, &hello);
    let edge = lab.edge(0, 5);
    lab.freeze(service, true);
    lab.call(edge, 1, "echo", 20_000, &[0; 50_000]);
    lab.advance(900 * MILLI);
    assert!(lab.is_quiet(edge));
    lab.advance(200 * MILLI);
    assert_eq!(lab.expect_error(edge, 1), ErrorCode::SessionClosed);
    lab.close();
}

#[test]
fn control_frames_have_a_limit() {
    let mut lab = Lab::new(Settings { control_frames: 50, ..settings() });
    let (loud, calm) = (lab.edge(0, 5), lab.edge(0, 6));
    for id in 1..=40 {
        lab.send(loud, FrameType::Ping, id, &[], &[]);
        lab.send(calm, FrameType::Ping, id, &[], &[]);
    }
    lab.advance(SECOND);
    for id in 41..=100 {
        lab.send(loud, FrameType::Ping, id, &[], &[]);
    }
    for id in 41..=80 {
        lab.send(calm, FrameType::Ping, id, &[], &[]);
    }
    lab.run();
    let heard = lab.frames(loud);
    let last = heard.last().unwrap();
    assert_eq!(last.header.kind, FrameType::GoAway);
    assert_eq!(GoAway::parse(&last.head).unwrap().reason.unwrap().code, ErrorCode::Overloaded);
    assert_eq!(lab.frames(calm).len(), 80);
    assert!(lab.ended(loud).is_some() && lab.ended(calm).is_none());
    lab.close();
}

/// Frames of a type that nobody knows, and answers to what nobody asked.
#[test]
fn what_means_nothing_counts_as_control_frames() {
    for kind in [FrameType::Unknown(0x7f), FrameType::Response, FrameType::Ack, FrameType::GoAway] {
        let mut lab = Lab::new(Settings { control_frames: 50, ..settings() });
        let (loud, calm) = (lab.edge(0, 5), lab.service(1, "svc", &[], &[]));
        for id in 1..=60 {
            lab.send(loud, kind, id, &[], &[]);
        }
        for id in 1..=40 {
            lab.send(calm, kind, id, &[], &[]);
        }
        lab.run();
        let heard = lab.frames(loud);
        assert_eq!(kinds(&heard), [FrameType::GoAway], "{kind:?}");
        assert_eq!(GoAway::parse(&heard[0].head).unwrap().reason.unwrap().code, ErrorCode::Overloaded);
        assert!(lab.ended(loud).is_some() && lab.ended(calm).is_none());
        lab.close();
    }
}

/// A service that was too slow answers many calls at once that have been given up: once each, that is no fault of its.
#[test]
fn a_late_answer_is_no_control_frame_and_a_second_one_is() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(Settings { control_frames: 50, ..settings() });
        let service = lab.service(service_shard, "svc", &["echo"], &[]);
        let edge = lab.edge(0, 5);
        for id in 1..=200 {
            lab.call(edge, id, "echo", 100, b"");
        }
        lab.advance(SECOND);
        let heard = lab.frames(service);
        let calls: Vec<_> = heard.iter().filter(|note| note.header.kind == FrameType::Request).collect();
        assert_eq!(calls.len(), 200);
        for call in &calls {
            lab.answer(service, call, b"late");
        }
        lab.run();
        assert!(lab.ended(service).is_none());
        for call in &calls {
            lab.answer(service, call, b"again");
        }
        lab.run();
        assert!(lab.ended(service).is_some());
        lab.close();
    }
}

#[test]
fn registrations_count_by_the_work_they_make() {
    let all: Vec<String> = (0..640).map(|n| format!("method {n}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut lab = Lab::new(Settings { control_frames: 1_000, ..settings() });
    let (loud, calm) = (lab.edge(0, 5), lab.edge(0, 6));
    let service = lab.service(0, "svc", &all, &[]);
    for (frame, some) in all.chunks(64).enumerate() {
        lab.send(loud, FrameType::Register, frame as u64 + 1, &names(some, &[]), &[]);
    }
    lab.run();
    assert_eq!(lab.frames(loud).len(), 10);
    lab.advance(SECOND);
    let change = |lab: &mut Lab, peer| {
        for id in 100..400 {
            let kind = if id % 2 == 0 { FrameType::Register } else { FrameType::Unregister };
            lab.send(peer, kind, id, &names(&["one"], &[]), &[]);
        }
        lab.run();
        lab.frames(peer).iter().filter(|frame| frame.header.kind == FrameType::Ack).count()
    };
    // The set of an edge is copied as a whole, that of a service is not.
    assert_eq!(change(&mut lab, calm), 300);
    assert_eq!(change(&mut lab, service), 300);
    assert_eq!(change(&mut lab, loud), 1_000 / (1 + 640 / 64));
    assert!(lab.ended(loud).is_some() && lab.ended(calm).is_none() && lab.ended(service).is_none());
    // Long lists count as well, also those that change nothing.
    lab.advance(SECOND);
    for id in 1..=10 {
        lab.send(service, FrameType::Register, id, &names(&all[..500], &[]), &[]);
    }
    lab.run();
    assert!(lab.ended(service).is_some());
    lab.close();
}

#[test]
fn yamux_control_counts_as_well() {
    let mut lab = Lab::new(Settings { control_frames: 50, ..settings() });
    let edge = lab.edge(0, 5);
    for _ in 0..60 {
        lab.raw(edge, &[0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
    }
    lab.run();
    assert!(lab.ended(edge).is_some());
    lab.close();
}

#[test]
fn registrations_have_limits_and_take_effect_before_they_are_acknowledged() {
    let mut lab = Lab::new(Settings { registrations: 3, ..settings() });
    let service = lab.service(1, "svc", &["a", "b"], &[]);
    let edge = lab.edge(0, 5);
    lab.send(service, FrameType::Register, 1, &names(&["c", "d"], &[]), &[]);
    lab.run();
    assert_eq!(lab.expect_error(service, 1), ErrorCode::InvalidArgument);
    lab.send(service, FrameType::Register, 2, &names(&["c"], &[]), &[]);
    lab.run();
    assert_eq!(lab.expect(service).error(), None);
    lab.call(edge, 1, "c", 0, b"");
    lab.call(edge, 2, "d", 0, b"");
    lab.run();
    assert_eq!(lab.expect_error(edge, 2), ErrorCode::MethodNotFound);
    assert_eq!(lab.expect(service).call().name, "c");
    lab.send(service, FrameType::Register, 3, &names(&[""], &[]), &[]);
    lab.run();
    assert_eq!(lab.expect_error(service, 3), ErrorCode::InvalidArgument);
    lab.close();
}

#[test]
fn edges_register_methods_but_neither_topics_nor_reserved_names() {
    let mut lab = Lab::new(settings());
    let edge = lab.edge(0, 5);
    lab.send(edge, FrameType::Register, 1, &names(&["tune"], &[]), &[]);
    lab.send(edge, FrameType::Register, 2, &names(&[], &["t"]), &[]);
    lab.send(edge, FrameType::Register, 3, &names(&["edge_online"], &[]), &[]);
    lab.send(edge, FrameType::Unregister, 4, &names(&["tune", "never there"], &[]), &[]);
    lab.run();
    assert_eq!(lab.expect(edge).error(), None);
    assert_eq!(lab.expect_error(edge, 2), ErrorCode::InvalidArgument);
    assert_eq!(lab.expect_error(edge, 3), ErrorCode::PermissionDenied);
    assert_eq!(lab.expect(edge).error(), None);
    lab.close();
}

#[test]
fn an_edge_that_goes_away_is_not_called_any_more() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &["edge_offline"], &[]);
    let edge = lab.edge(1, 5);
    lab.send(edge, FrameType::GoAway, 0, &[], &[]);
    lab.run();
    lab.call_edge(service, 1, 5, "m", b"");
    lab.run();
    assert_eq!(lab.expect_error(service, 1), ErrorCode::EdgeNotOnline);
    lab.hang_up(edge, Ending::Closed);
    lab.run();
    assert_eq!(lab.expect(service).call().name, "edge_offline");
    lab.close();
}

/// The head of the GoAway of an edge that says that it is elsewhere now.
fn moved() -> Vec<u8> {
    let away = GoAway { reconnect_in_ms: 0, reason: Some(ErrorRef::new(ErrorCode::GatewayDraining, "")) };
    let mut head = Vec::new();
    away.encode(&mut head);
    head
}

/// The gateway has said that nothing of this peer is under way any more, and nothing else.
fn released(lab: &mut Lab, peer: Peer) {
    let frame = lab.expect(peer);
    assert_eq!(frame.header.kind, FrameType::GoAway);
    assert!(GoAway::parse(&frame.head).unwrap().reason.is_none());
    assert!(lab.is_quiet(peer));
}

/// It was sent to the edge before the gateway heard that the edge is elsewhere: nobody loses it.
#[test]
fn a_call_that_meets_an_edge_which_leaves_is_answered() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(service_shard, "svc", &[], &[]);
        let edge = lab.edge(0, 5);
        lab.stage.post(0, Msg::Drain { edges: true, spread_ms: 1 });
        lab.run();
        assert_eq!(lab.expect(edge).header.kind, FrameType::GoAway);
        lab.call_edge(service, 1, 5, "m", b"");
        lab.run();
        lab.send(edge, FrameType::GoAway, 0, &moved(), &[]);
        lab.run();
        let call = lab.expect(edge);
        assert_eq!(call.header.kind, FrameType::Request);
        assert!(lab.is_quiet(edge), "it is not let go while it has something to answer");
        lab.call_edge(service, 2, 5, "m", b"");
        lab.run();
        assert_eq!(lab.expect_error(service, 2), ErrorCode::EdgeNotOnline, "nothing new is sent to it");
        lab.answer(edge, &call, b"done");
        lab.run();
        assert_eq!(lab.expect(service).error(), None);
        released(&mut lab, edge);
        lab.close();
    }
}

#[test]
fn an_edge_that_nobody_sent_away_cannot_make_itself_a_ghost() {
    for then in ["it closes", "it is replaced"] {
        let mut lab = Lab::new(settings());
        let service = lab.service(0, "svc", &["edge_offline", "echo"], &[]);
        let edge = lab.edge(1, 5);
        lab.send(edge, FrameType::GoAway, 0, &moved(), &[]);
        lab.run();
        released(&mut lab, edge);
        assert!(lab.stage.shared().registry.edge(5).is_some(), "it still has its ID");
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        let call = lab.expect(service);
        lab.answer(service, &call, b"");
        lab.run();
        assert_eq!(lab.expect(edge).error(), None, "it is served until it goes");
        if then == "it closes" {
            lab.hang_up(edge, Ending::Closed);
        } else {
            lab.edge(0, 5);
            assert_eq!(kinds(&lab.frames(edge)), [FrameType::GoAway]);
            assert!(lab.ended(edge).is_some(), "two sessions of one ID");
        }
        lab.run();
        assert_eq!(lab.expect(service).call().name, "edge_offline", "{then}");
        lab.close();
    }
}

#[test]
fn an_edge_that_moved_elsewhere_is_not_reported_offline() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &["edge_offline", "echo"], &[]);
    let edge = lab.edge(1, 5);
    lab.call(edge, 1, "echo", 0, b"");
    lab.run();
    let call = lab.expect(service);
    lab.stage.post(1, Msg::Drain { edges: true, spread_ms: 1 });
    lab.run();
    assert_eq!(lab.expect(edge).header.kind, FrameType::GoAway);
    lab.send(edge, FrameType::GoAway, 0, &moved(), &[]);
    lab.run();
    assert_eq!(lab.stage.shared().registry.edge(5), None);
    lab.call(edge, 2, "echo", 0, b"");
    lab.run();
    assert_eq!(lab.expect_error(edge, 2), ErrorCode::SessionClosed, "nobody could answer for it");
    lab.answer(service, &call, b"");
    lab.run();
    assert_eq!(lab.expect(edge).header.kind, FrameType::Response);
    released(&mut lab, edge);
    lab.hang_up(edge, Ending::Closed);
    lab.run();
    assert!(lab.is_quiet(service));
    lab.close();
}

#[test]
fn edges_that_are_left_at_the_end_of_a_drain_are_reported_offline() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &["edge_offline"], &[]);
    let (left, other, mover) = (lab.edge(0, 5), lab.edge(1, 6), lab.edge(1, 7));
    let guest = lab.guest_edge(0, 8);
    for shard in [0, 1] {
        lab.stage.post(shard, Msg::Drain { edges: true, spread_ms: 30_000 });
    }
    lab.run();
    lab.send(mover, FrameType::GoAway, 0, &moved(), &[]);
    lab.run();
    assert!(lab.is_quiet(service));
    for shard in [0, 1] {
        lab.stage.post(shard, Msg::Dismiss);
    }
    lab.run();
    let heard = lab.frames(service);
    let mut offline: Vec<u64> = heard.iter().map(|note| EdgeInfo::parse(&note.body).unwrap().edge).collect();
    offline.sort_unstable();
    assert_eq!(offline, [5, 6, 8]);
    assert!(heard.iter().all(|note| note.call().name == "edge_offline"));
    assert!([left, other].iter().all(|edge| lab.ended(*edge).is_some()));
    assert!(lab.ended(mover).is_none() && lab.ended(service).is_none(), "it may finish what it has");
    lab.advance(4 * SECOND);
    assert!(lab.guest_ended(guest).is_some());
    lab.close();
}

#[test]
fn a_scan_shows_every_welcomed_session_once() {
    let mut lab = Lab::new(settings());
    lab.service(0, "svc", &["m"], &["t"]);
    for id in 1..=30 {
        lab.edge(0, id);
    }
    lab.dial(Bound::Edge, 0);
    let (sender, receiver) = std::sync::mpsc::channel();
    let reply = ScanReply(Box::new(move |page| sender.send(page).unwrap()));
    lab.stage.post(0, Msg::Scan { from: 0, slots: 1_000, bound: Bound::Edge, reply });
    lab.run();
    let page = receiver.try_recv().unwrap();
    assert_eq!((page.views.len(), page.next), (30, None));
    lab.close();
}

/// Services are few: who asks for them does not wait for a walk over the fleet.
#[test]
fn a_scan_for_services_does_not_look_at_edges() {
    let mut lab = Lab::new(settings());
    lab.service(0, "first", &["m"], &["t"]);
    for id in 1..=3_000 {
        let edge = lab.dial(Bound::Edge, 0);
        lab.dialer(edge).hello(&edge_hello(id));
    }
    lab.run();
    let second = lab.service(0, "second", &[], &[]);
    let (sender, receiver) = std::sync::mpsc::channel();
    let scan = |lab: &mut Lab, from, slots| {
        let sender = sender.clone();
        let reply = ScanReply(Box::new(move |page| sender.send(page).unwrap()));
        lab.stage.post(0, Msg::Scan { from, slots, bound: Bound::Service, reply });
        lab.run();
        let page = receiver.try_recv().unwrap();
        (page.views.len(), page.next)
    };
    // One page, though there are three turns' worth of edges between them.
    assert_eq!(scan(&mut lab, 0, u32::MAX), (2, None));
    let (found, next) = scan(&mut lab, 0, 1);
    assert_eq!((found, scan(&mut lab, next.unwrap(), 1)), (1, (1, None)));
    lab.hang_up(second, Ending::Closed);
    lab.run();
    assert_eq!(scan(&mut lab, 0, u32::MAX), (1, None));
    lab.close();
}

/// Several want to know everything at once; every turn looks at so many slots for all of them.
#[test]
fn a_turn_looks_at_so_many_slots_and_no_more() {
    let most = usize::try_from(SLOTS_PER_TURN).unwrap();
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &["m"], &["t"]);
    for id in 1..=1_500 {
        let edge = lab.dial(Bound::Edge, 0);
        lab.dialer(edge).hello(&edge_hello(id));
    }
    lab.run();
    let (sender, receiver) = std::sync::mpsc::channel();
    for (from, slots) in [(0, u32::MAX), (1_024, u32::MAX), (3, 1), (0, 1_000), (0, 1_000)] {
        let sender = sender.clone();
        let reply = ScanReply(Box::new(move |page| sender.send((from, page)).unwrap()));
        lab.stage.post(0, Msg::Scan { from, slots, bound: Bound::Edge, reply });
    }
    lab.send(service, FrameType::Presence, 1, &[], &[]);
    let (mut pages, mut turns) = (Vec::new(), 0);
    while pages.len() < 5 {
        // A turn takes a microsecond at least.
        lab.advance(1);
        let now: Vec<_> = receiver.try_iter().collect();
        let seen: usize = now.iter().map(|(_, page)| page.views.len()).sum();
        assert!(seen <= most, "{seen} in one turn");
        turns += u32::from(!now.is_empty());
        pages.extend(now);
    }
    assert!(turns >= 3, "{turns}");
    let found: Vec<_> = pages.iter().map(|(from, page)| (*from, page.views.len(), page.next)).collect();
    assert_eq!(found[0], (0, most - 1, Some(SLOTS_PER_TURN)), "a slot is the service's");
    assert_eq!(found[1], (1_024, 1_501 - most, None));
    assert_eq!(found[2], (3, 1, Some(4)));
    lab.advance(100 * MILLI);
    let pages = lab.frames(service);
    let listed = pages.iter().map(|page| PresencePage::parse(&page.body).unwrap().count()).sum::<usize>();
    assert_eq!(listed, 1_500);
    lab.close();
}

#[test]
fn the_largest_holders_go_when_memory_is_short() {
    let mut lab = Lab::new(Settings { memory: 1_000_000, ..settings() });
    let service = lab.service(0, "svc", &[], &[]);
    let down = Quality { capacity: 1_000, ..Quality::PERFECT };
    let mut edges = Vec::new();
    for id in 1..=10 {
        let edge = lab.dial_by(Bound::Edge, 0, Path { up: Quality::PERFECT, down });
        lab.join(edge, &edge_hello(id));
        lab.freeze(edge, true);
        edges.push(edge);
    }
    for id in 1..=10 {
        for n in 0..=id {
            lab.call_edge(service, id * 100 + n, id, "m", &[0; 30_000]);
        }
        lab.run();
    }
    assert!(held(&lab) <= 1_000_000, "calls are refused before the budget is used up");
    assert_eq!(counts(&lab).0, 10);
    let strangers: Vec<_> = (0..10).map(|_| super::budget::stranger(&mut lab)).collect();
    lab.advance(300 * MILLI);
    assert!(held(&lab) <= 1_000_000, "{}", held(&lab));
    let gone: Vec<u64> = (1..=10).filter(|id| lab.stage.shared().registry.edge(*id).is_none()).collect();
    // The sixth has got seven calls. Those after it came when memory was short already and got no more than their share.
    assert!(gone.contains(&6) && gone.iter().all(|id| (4..=6).contains(id)), "{gone:?}");
    for stranger in strangers {
        lab.hang_up(stranger, Ending::Closed);
    }
    lab.close();
}

#[test]
fn a_panic_ends_the_session_it_happened_in_and_no_other() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &["echo"], &[]);
    let (victim, other) = (lab.edge(0, 5), lab.edge(0, 6));
    lab.call(victim, 1, "echo", 0, b"");
    lab.run();
    lab.call(victim, 2, frontier_gateway::core::shard::PANIC, 0, b"");
    lab.call(other, 1, "echo", 0, b"");
    lab.run();
    assert_eq!(lab.stage.panics(), 1);
    assert!(lab.ended(victim).is_some() && lab.ended(other).is_none());
    let heard = lab.frames(service);
    assert_eq!(heard.iter().filter(|note| note.header.kind == FrameType::Request).count(), 2);
    assert_eq!(heard.iter().filter(|note| note.header.kind == FrameType::Cancel).count(), 1);
    lab.close();
}

#[test]
fn a_panic_in_a_timer_takes_no_timer_from_the_others() {
    let mut lab = Lab::new(settings());
    let services = ["a", "b", "c"].map(|name| lab.service(0, name, &[name], &[]));
    let edge = lab.edge(0, 5);
    lab.run();
    lab.call(services[1], 1, frontier_gateway::core::shard::PANIC_IN_TIMER, 0, b"");
    // All of them are due in the same tick, and the one in the middle must not cost those around it their timers.
    for (id, method) in [(1, "a"), (2, "b"), (3, "c")] {
        lab.call(edge, id, method, 500, b"");
    }
    lab.run();
    lab.advance(SECOND);
    assert_eq!(lab.stage.panics(), 1);
    let ended = services.map(|service| lab.ended(service).is_some());
    assert_eq!(ended, [false, true, false]);
    let mut codes: Vec<_> = lab.frames(edge).iter().map(|note| (note.header.id, note.error())).collect();
    codes.sort_unstable_by_key(|(id, _)| *id);
    let (late, gone) = (Some(ErrorCode::DeadlineExceeded), Some(ErrorCode::SessionClosed));
    assert_eq!(codes, [(1, late), (2, gone), (3, late)]);
    lab.close();
}

#[test]
fn an_idle_session_holds_no_more_than_its_names() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &["echo"], &["t"]);
    let edge = lab.edge(0, 5);
    let names = held(&lab);
    lab.call(edge, 1, "echo", 0, &[0; 60_000]);
    lab.run();
    let call = lab.expect(service);
    assert!(held(&lab) > names + 100, "the tables of a call count");
    lab.answer(service, &call, &[0; 60_000]);
    lab.run();
    // Tables are given back when the sessions are looked at next.
    lab.advance(31 * SECOND);
    assert_eq!(held(&lab), names);
    lab.close();
}

#[test]
fn unknown_frames_are_skipped() {
    let mut lab = Lab::new(settings());
    let edge = lab.edge(0, 5);
    lab.send(edge, FrameType::Unknown(0x7f), 3, b"head", b"body");
    lab.send(edge, FrameType::Ping, 1, &[], &[]);
    lab.run();
    assert_eq!(kinds(&lab.frames(edge)), [FrameType::Pong]);
    lab.close();
}

#[test]
fn a_closed_session_stream_ends_the_session() {
    let mut lab = Lab::new(settings());
    let edge = lab.edge(0, 5);
    lab.dialer(edge).conn.finish_stream(frontier_wire::yamux::StreamId::FIRST);
    lab.run();
    assert!(lab.ended(edge).is_some());
    assert!(!lab.take(edge).iter().any(|heard| matches!(heard, Heard::Frame(_))));
    lab.close();
}

#[test]
fn a_frame_nobody_may_send_ends_the_session() {
    for kind in [FrameType::Welcome, FrameType::Reject, FrameType::Hello, FrameType::Open, FrameType::Data] {
        let mut lab = Lab::new(settings());
        let edge = lab.edge(0, 5);
        lab.send_flagged(edge, kind, 1, Flags::NONE, &[], &[]);
        lab.run();
        assert_eq!(kinds(&lab.frames(edge)), [FrameType::GoAway], "{kind:?}");
        assert!(lab.ended(edge).is_some());
        lab.close();
    }
}

#[test]
fn a_drain_tells_both_roles_with_a_spread() {
    let mut lab = Lab::new(settings());
    let services: Vec<Peer> = (0..4).map(|n| lab.service(n % 2, "svc", &[], &[])).collect();
    let edges: Vec<Peer> = (1..=20).map(|id| lab.edge(u16::from(id % 2 == 0), id)).collect();
    for shard in [0, 1] {
        for edges in [true, false] {
            lab.stage.post(shard, Msg::Drain { edges, spread_ms: 1_000 });
        }
    }
    lab.run();
    let mut waits = Vec::new();
    for peer in services.iter().chain(&edges) {
        let note = lab.expect(*peer);
        let away = GoAway::parse(&note.head).unwrap();
        assert_eq!(away.reason.unwrap().code, ErrorCode::GatewayDraining);
        waits.push(away.reconnect_in_ms);
    }
    assert!(waits.iter().all(|wait| *wait < 1_000));
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 15, "{waits:?}");
    lab.close();
}

#[test]
fn a_kick_tells_its_reason_even_if_the_session_is_busy() {
    let mut lab = Lab::new(settings());
    let down = Quality { capacity: 3_000, ..Quality::PERFECT };
    let edge = lab.dial_by(Bound::Edge, 0, Path { up: Quality::PERFECT, down });
    lab.join(edge, &edge_hello(5));
    let service = lab.service(1, "svc", &[], &[]);
    lab.freeze(edge, true);
    // The session was to be looked at soon because of this deadline.
    let call = head(&CallBuilder::new("m").edge(5).timeout_ms(60));
    lab.send(service, FrameType::Request, 1, &call, &[0; 20_000]);
    lab.run();
    let session = lab.stage.shared().registry.edge(5).unwrap();
    lab.stage.post(session.shard, Msg::Cut { session, code: ErrorCode::PermissionDenied, text: "kicked" });
    lab.advance(300 * MILLI);
    lab.freeze(edge, false);
    lab.run();
    let heard = lab.frames(edge);
    let reason = GoAway::parse(&heard.last().unwrap().head).unwrap().reason.unwrap();
    assert_eq!((reason.code, reason.text), (ErrorCode::PermissionDenied, "kicked"));
    lab.close();
}

#[test]
fn a_name_said_twice_in_hello_is_one_registration() {
    let mut lab = Lab::new(settings());
    lab.service(0, "svc", &["echo", "echo"], &["t", "t"]);
    lab.close();
}

#[test]
fn a_peer_that_goes_away_gets_nothing_new_and_finishes_what_it_has() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(service_shard, "svc", &["echo"], &[]);
        let edge = lab.edge(0, 5);
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        let call = lab.expect(service);
        lab.send(service, FrameType::GoAway, 0, &[], &[]);
        lab.run();
        lab.call(edge, 2, "echo", 0, b"");
        lab.run();
        assert_eq!(lab.expect_error(edge, 2), ErrorCode::MethodNotFound);
        assert!(lab.is_quiet(service), "it has not finished");
        lab.answer(service, &call, b"done");
        lab.run();
        assert_eq!(lab.expect(edge).error(), None);
        released(&mut lab, service);
        lab.send(service, FrameType::Register, 9, &names(&["echo"], &[]), &[]);
        lab.run();
        assert_eq!(lab.expect_error(service, 9), ErrorCode::SessionClosed, "it wanted to leave");
        lab.close();
    }
}

/// Its socket is never full, but the stream that everything travels on is.
#[test]
fn a_peer_that_grants_no_window_is_cut_like_one_that_does_not_read() {
    let mut lab = Lab::new(Settings { stall: SECOND, heartbeat: 100 * SECOND, ..settings() });
    let service = lab.service(0, "svc", &[], &[]);
    let miser = miser(&mut lab, 5);
    for id in 1..=10 {
        lab.call_edge(service, id, 5, "m", &[0; 50_000]);
        lab.run();
        lab.read_raw(miser);
    }
    for _ in 0..12 {
        // It takes what the connection has to say besides.
        lab.advance(100 * MILLI);
        lab.read_raw(miser);
        lab.raw(miser, &[0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
    }
    assert_eq!(lab.frames(service).len(), 10);
    assert_eq!(counts(&lab), (0, 1));
    lab.close();
}

/// Every question gets its answer, whoever asks without listening must not fill the memory.
#[test]
fn a_peer_that_asks_and_never_reads_the_answers_is_cut() {
    let mut lab = Lab::new(Settings { outbox: 50_000, ..settings() });
    let down = Quality { capacity: 2_000, ..Quality::PERFECT };
    let edge = lab.dial_by(Bound::Edge, 0, Path { up: Quality::PERFECT, down });
    lab.join(edge, &edge_hello(5));
    lab.freeze(edge, true);
    for id in 1..=20_000 {
        lab.call(edge, id, "nobody offers this", 0, b"");
        if id % 100 == 0 {
            lab.run();
        }
        if counts(&lab) == (0, 0) {
            assert!(id > 1_000, "cut after {id} answers");
            return lab.close();
        }
    }
    panic!("never cut");
}

#[test]
fn other_protocols_are_handed_over_with_all_their_bytes() {
    for (pieces, whole) in [
        (&[&b"GET / HTTP/1.1\r\n"[..]][..], &b"GET / HTTP/1.1\r\n"[..]),
        (&[b"G", b"E", b"T / HTTP/1.1\r\n"], b"GET / HTTP/1.1\r\n"),
        (&[b"\x10\x0c\x00\x04MQTT"], b"\x10\x0c\x00\x04MQTT"),
        (&[b"\x16\x03\x01"], b"\x16\x03\x01"),
    ] {
        let mut lab = Lab::new(settings());
        let peer = lab.dial_raw(Bound::Edge, 0);
        for piece in pieces {
            lab.raw(peer, piece);
            lab.run();
        }
        let link = lab.dialer(peer).link;
        assert_eq!(lab.stage.foreign(link), Some(whole));
        lab.close();
    }
}

#[test]
fn a_protocol_that_a_listener_is_not_to_take_is_turned_away_there_alone() {
    let mut protocols = [Protocols::default(); 2];
    protocols[Bound::Edge as usize].native = false;
    let mut lab = Lab::new(Settings { protocols, ..settings() });
    let edge = lab.dial_raw(Bound::Edge, 0);
    lab.raw(edge, b"\x00\x01\x00\x01");
    lab.run();
    let link = lab.dialer(edge).link;
    assert_eq!(lab.stage.foreign(link), Some(&b"\x00\x01\x00\x01"[..]));
    lab.service(0, "s", &[], &[]);
    lab.close();
}
