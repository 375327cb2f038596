//! How many may come in: connections that say nothing, sessions, and those who find the house full.

use std::sync::atomic::Ordering;

use frontier_gateway::{
    core::{Bound, Settings, stats::Refusal},
    sim::{
        lab::{Lab, Peer, edge_hello, service_hello},
        net::Ending,
    },
};
use frontier_wire::{
    error::ErrorCode,
    geminio::connection::Event,
    native::{frame::FrameType, head::ErrorRef, presence::EdgeInfoBuilder},
};

use super::{MILLI, SECOND, settings};

/// Two edges and two services.
fn four() -> Settings {
    Settings { sessions: 4, ..settings() }
}

fn places(lab: &Lab) -> u64 {
    lab.stage.shared().sessions.load(Ordering::Relaxed)
}

fn refused(lab: &Lab, why: Refusal) -> u64 {
    lab.stage.shared().stats.iter().map(|stats| stats.refusals[why as usize].get()).sum()
}

/// Says hello and is told that there is no room; returns when it may come again, in milliseconds.
fn turned_away(lab: &mut Lab, shard: u16, id: u64) -> u32 {
    let peer = lab.dial(Bound::Edge, shard);
    let answer = lab.greet(peer, &edge_hello(id));
    assert_eq!(answer.header.kind, FrameType::Reject);
    let error = ErrorRef::parse(&answer.head).unwrap();
    assert_eq!((error.code, error.text), (ErrorCode::Overloaded, "too many sessions"));
    lab.run();
    assert!(lab.ended(peer).is_some());
    error.retry_after_ms
}

fn silent(lab: &mut Lab, count: u16) -> Vec<Peer> {
    (0..count).map(|n| lab.dial_raw(Bound::Edge, n % 2)).collect()
}

#[test]
fn an_edge_too_many_is_told_so_and_when_to_come_again() {
    let mut lab = Lab::new(four());
    let first = lab.edge(0, 1);
    lab.edge(1, 2);
    let waits: Vec<u32> = (0..8).map(|n| turned_away(&mut lab, n % 2, 0)).collect();
    assert!(waits.iter().all(|wait| (2_000..10_000).contains(wait)), "{waits:?}");
    assert!(waits.windows(2).any(|pair| pair[0] != pair[1]), "spread, so that they do not come back at once");
    assert_eq!(refused(&lab, Refusal::Full), 8);
    lab.hang_up(first, Ending::Closed);
    lab.run();
    lab.edge(0, 3);
    lab.close();
}

#[test]
fn a_geminio_edge_too_many_is_told_so() {
    let mut lab = Lab::new(four());
    lab.guest_edge(0, 1);
    lab.guest_edge(1, 2);
    let third = lab.knock(Bound::Edge, 0, 3, b"");
    lab.run();
    let heard = lab.events(third);
    assert!(matches!(heard.as_slice(), [Event::Rejected(data)] if data.error() == "overloaded"), "{heard:?}");
    // One that has the ID of another takes its place.
    lab.guest_edge(0, 2);
    lab.close();
}

#[test]
fn edges_leave_places_to_services() {
    let mut lab = Lab::new(four());
    lab.edge(0, 1);
    lab.edge(1, 2);
    turned_away(&mut lab, 0, 3);
    lab.service(0, "svc", &[], &[]);
    let second = lab.service(1, "svc", &[], &[]);
    let third = lab.dial(Bound::Service, 0);
    let answer = lab.greet(third, &service_hello(99, "svc", &[], &[]));
    assert_eq!(ErrorRef::parse(&answer.head).unwrap().code, ErrorCode::Overloaded);
    lab.hang_up(second, Ending::Closed);
    lab.run();
    lab.service(0, "svc", &[], &[]);
    lab.close();
}

#[test]
fn whoever_says_nothing_takes_no_place() {
    let mut lab = Lab::new(Settings { newcomers: 100, ..four() });
    let silent = silent(&mut lab, 50);
    lab.run();
    assert_eq!(places(&lab), 0);
    lab.edge(0, 1);
    lab.edge(1, 2);
    assert_eq!(places(&lab), 2);
    assert!(silent.iter().all(|peer| lab.ended(*peer).is_none()), "there is room for so many of them");
    lab.close();
}

#[test]
fn a_takeover_needs_no_further_place() {
    for shard in [0, 1] {
        let mut lab = Lab::new(four());
        let old = lab.edge(0, 1);
        lab.edge(1, 2);
        for _ in 0..3 {
            lab.edge(shard, 1);
            assert_eq!(places(&lab), 2);
        }
        assert!(lab.ended(old).is_some());
        turned_away(&mut lab, shard, 3);
        lab.close();
    }
}

/// In a full house it depends on the ID whether an edge may come in, so the service that knows it is asked.
#[test]
fn an_id_service_may_tell_that_an_edge_takes_over_a_place() {
    for shard in [0, 1] {
        let mut lab = Lab::new(four());
        let ids = lab.service(0, "ids", &["get_edge_id"], &[]);
        let come = |lab: &mut Lab, id: u64| {
            let peer = lab.dial(Bound::Edge, shard);
            lab.dialer(peer).hello(&edge_hello(0));
            lab.run();
            let question = lab.expect(ids);
            let mut body = Vec::new();
            EdgeInfoBuilder::new(id, 0).encode(&mut body);
            lab.answer(ids, &question, &body);
            lab.run();
            lab.expect(peer).header.kind
        };
        assert_eq!([1, 2, 3, 2, 1].map(|id| come(&mut lab, id)), {
            use FrameType::{Reject, Welcome};
            [Welcome, Welcome, Reject, Welcome, Welcome]
        });
        assert_eq!(places(&lab), 3);
        lab.close();
    }
}

#[test]
fn those_who_said_nothing_for_long_give_way_when_they_are_too_many() {
    // Four of them at each shard.
    let mut lab = Lab::new(Settings { newcomers: 8, ..settings() });
    let edge = lab.edge(0, 1);
    let first = silent(&mut lab, 8);
    lab.advance(1_500 * MILLI);
    assert!(first.iter().all(|peer| lab.ended(*peer).is_none()), "they are not too many");
    let second = silent(&mut lab, 4);
    lab.run();
    let gone = |lab: &Lab, peers: &[Peer]| peers.iter().map(|p| lab.ended(*p).is_some()).collect::<Vec<_>>();
    assert_eq!(gone(&lab, &first), [true, true, true, true, false, false, false, false], "the oldest");
    assert_eq!(refused(&lab, Refusal::Full), 4);
    // They are still as many as there may be; a flood of others has its time, too.
    let flood = silent(&mut lab, 40);
    lab.run();
    assert_eq!(gone(&lab, &first), [true; 8]);
    assert!(!gone(&lab, &second).contains(&true) && !gone(&lab, &flood).contains(&true));
    lab.edge(0, 2);
    lab.advance(1_100 * MILLI);
    assert_eq!(gone(&lab, &flood).iter().filter(|gone| !**gone).count(), 8);
    assert!(lab.ended(edge).is_none(), "whoever has said who it is stays");
    lab.close();
}

#[test]
fn connections_are_bounded_whatever_they_say() {
    // Four places and twice as many newcomers as may stay; services have two more.
    let mut lab = Lab::new(Settings { newcomers: 6, ..four() });
    let silent = silent(&mut lab, 30);
    lab.run();
    assert_eq!(silent.iter().filter(|peer| lab.ended(**peer).is_none()).count(), 16);
    let service = lab.service(0, "svc", &[], &[]);
    lab.advance(2 * SECOND);
    // Three stay at each shard, if so many came there.
    let left = silent.iter().filter(|peer| lab.ended(**peer).is_none()).count();
    assert!((3..=6).contains(&left), "{left}");
    lab.edge(1, 1);
    assert!(lab.ended(service).is_none());
    lab.close();
}
