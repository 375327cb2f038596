//! The newest connection of an ID wins, and who hears of it.

use super::*;

/// A pool has two connections in a shard, an edge moves from one address to another, and instances are chosen by address.
#[test]
fn both_events_of_a_takeover_come_by_one_connection() {
    let mut used = BTreeSet::new();
    for seed in 0..20 {
        let mut lab = Lab::with(Settings { policy: Policy::SourceIp, ..settings() }, Chaos::NONE, seed);
        let mut hello = service_hello(1, "presence", &PRESENCE, &[]);
        let pool = [1, 3].map(|index| {
            hello.pool_index = index;
            let peer = lab.dial(Bound::Service, 1);
            lab.join(peer, &hello);
            peer
        });
        for _ in 0..5 {
            let edge = knock(&mut lab, 0, 5);
            let heard = pool.map(|peer| lab.frames(peer));
            for (at, notes) in heard.iter().enumerate().filter(|(_, notes)| !notes.is_empty()) {
                let methods: Vec<String> = notes.iter().map(|note| event(note).0).collect();
                assert_eq!(methods.last().map(String::as_str), Some("edge_online"), "{methods:?}");
                used.insert(at);
                notes.iter().for_each(|note| lab.answer(pool[at], note, &[]));
            }
            assert_eq!(heard.iter().filter(|notes| !notes.is_empty()).count(), 1, "seed {seed}");
            lab.run();
            assert_eq!(lab.expect(edge).header.kind, FrameType::Welcome);
        }
        lab.close();
    }
    assert_eq!(used.len(), 2, "either connection is used");
}

#[test]
fn the_newest_connection_takes_the_id() {
    for (old_shard, new_shard, service_shard) in [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 0)] {
        let mut lab = Lab::new(settings());
        let service = lab.service(service_shard, "svc", &["echo"], &[]);
        let old = lab.edge(old_shard, 5);
        lab.call(old, 1, "echo", 0, b"");
        lab.run();
        lab.expect(service);
        let new = lab.edge(new_shard, 5);
        let heard = lab.frames(old);
        let away = GoAway::parse(&heard.last().unwrap().head).unwrap();
        assert_eq!(away.reason.unwrap().code, ErrorCode::SessionClosed);
        assert!(lab.ended(old).is_some());
        assert_eq!(lab.expect(service).header.kind, FrameType::Cancel);
        lab.call_edge(service, 1, 5, "m", b"");
        lab.run();
        assert_eq!(lab.expect(new).call().name, "m");
        lab.close();
    }
}

#[test]
fn a_takeover_is_reported_in_order_to_one_instance() {
    for seed in 0..20 {
        let mut lab = Lab::with(settings(), Chaos::NONE, seed);
        let services: Vec<Peer> = (0..3).map(|n| lab.service(n % 2, "presence", &PRESENCE, &[])).collect();
        let mut told = None;
        let mut epochs = Vec::new();
        for round in 0..3 {
            let edge = knock(&mut lab, round % 2, seed + 1);
            for service in &services {
                let mut heard = lab.frames(*service);
                heard.retain(|note| note.header.kind == FrameType::Request);
                if heard.is_empty() {
                    continue;
                }
                assert_eq!(*told.get_or_insert(*service), *service, "always the same instance");
                let methods: Vec<String> = heard.iter().map(|note| event(note).0).collect();
                if round == 0 {
                    assert_eq!(methods, ["edge_online"]);
                } else {
                    assert_eq!(methods, ["edge_offline", "edge_online"]);
                    assert_eq!(event(&heard[0]).2, *epochs.last().unwrap());
                }
                epochs.push(event(heard.last().unwrap()).2);
                for note in &heard {
                    lab.answer(*service, note, &[]);
                }
            }
            lab.run();
            assert_eq!(lab.expect(edge).header.kind, FrameType::Welcome);
        }
        assert!(epochs.len() == 3 && epochs.is_sorted());
        lab.close();
    }
}

#[test]
fn a_session_cut_by_takeover_is_gone_within_a_second_whatever_it_does() {
    for new_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let down = Quality { capacity: 500, ..Quality::PERFECT };
        let old = lab.dial_by(Bound::Edge, 0, Path { up: Quality::PERFECT, down });
        lab.join(old, &edge_hello(5));
        lab.freeze(old, true);
        let service = lab.service(1, "svc", &[], &[]);
        lab.call_edge(service, 1, 5, "m", &[0; 50_000]);
        lab.run();
        lab.edge(new_shard, 5);
        assert_eq!(lab.expect_error(service, 1), ErrorCode::SessionClosed, "at once");
        let link = lab.dialer(old).link;
        lab.advance(SECOND - 2 * 20 * MILLI);
        assert_eq!(lab.stage.session(link), None);
        lab.close();
    }
}

/// Atlas says that the edge has a newer session at another gateway.
fn lose(lab: &mut Lab, edge: u64, epoch: u64) -> bool {
    let Some((session, _)) = lab.stage.shared().registry.session(edge) else { return false };
    lab.stage.post(session.shard, Msg::Lost { session, edge, epoch });
    lab.run();
    true
}

fn takeovers_elsewhere(lab: &Lab) -> u64 {
    lab.stage.shared().stats.iter().map(|stats| stats.takeovers_elsewhere.get()).sum()
}

#[test]
fn a_session_that_is_newer_elsewhere_goes_and_nobody_hears_that_it_is_offline() {
    for (edge_shard, service_shard) in [(0, 0), (0, 1)] {
        let mut lab = Lab::new(settings());
        let service = lab.service(service_shard, "presence", &PRESENCE, &[]);
        let edge = knock(&mut lab, edge_shard, 5);
        let online = lab.expect(service);
        let (method, _, epoch) = event(&online);
        assert_eq!(method, "edge_online");
        lab.answer(service, &online, &[]);
        lab.run();
        assert_eq!(lab.expect(edge).header.kind, FrameType::Welcome);
        lab.call_edge(service, 1, 5, "m", b"");
        lab.run();
        // A session of before is meant, which this one has replaced already.
        assert!(lose(&mut lab, 5, epoch - 1));
        assert!(lab.ended(edge).is_none() && takeovers_elsewhere(&lab) == 0);
        assert!(lose(&mut lab, 5, epoch));
        assert_eq!(lab.stage.shared().registry.edge(5), None, "at once");
        assert_eq!(takeovers_elsewhere(&lab), 1);
        let heard = lab.frames(edge);
        let away = GoAway::parse(&heard.last().unwrap().head).unwrap();
        assert_eq!(away.reason.unwrap().code, ErrorCode::SessionClosed, "it must not come again");
        assert!(lab.ended(edge).is_some());
        assert_eq!(lab.expect_error(service, 1), ErrorCode::SessionClosed);
        assert!(lab.is_quiet(service), "no edge_offline");
        assert!(!lose(&mut lab, 5, epoch), "nobody is there any more");
        lab.close();
    }
}

#[test]
fn an_edge_in_its_admission_can_be_newer_elsewhere_already() {
    let mut lab = Lab::new(settings());
    let service = lab.service(1, "presence", &PRESENCE, &[]);
    let edge = knock(&mut lab, 0, 5);
    let online = lab.expect(service);
    assert!(lose(&mut lab, 5, u64::MAX));
    assert_eq!(lab.expect(service).header.kind, FrameType::Cancel);
    lab.answer(service, &online, &[]);
    lab.run();
    let note = lab.expect(edge);
    assert_eq!(reject(&note).0, ErrorCode::SessionClosed);
    assert!(lab.is_quiet(service), "no edge_offline");
    lab.close();
}

#[test]
fn many_connections_with_one_id_leave_one() {
    for seed in 0..30 {
        let mut lab = Lab::with(settings(), Chaos::NONE, seed);
        let service = lab.service(1, "presence", &PRESENCE, &[]);
        let peers: Vec<Peer> = (0..8)
            .map(|n| {
                let peer = lab.dial(Bound::Edge, n % 2);
                lab.dialer(peer).hello(&edge_hello(5));
                peer
            })
            .collect();
        for _ in 0..3 {
            lab.run();
            for note in lab.frames(service) {
                if note.header.kind == FrameType::Request {
                    lab.answer(service, &note, &[]);
                }
            }
        }
        lab.run();
        let alive = peers.iter().filter(|peer| lab.ended(**peer).is_none()).count();
        assert_eq!(alive, 1, "seed {seed}");
        lab.close();
    }
}
