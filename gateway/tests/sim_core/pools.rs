//! Several connections that are one instance of a service.

use frontier_gateway::{
    core::Bound,
    sim::{
        lab::{Lab, Peer, service_hello},
        net::Ending,
    },
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::FrameType,
        head::{ErrorRef, GoAway},
    },
};

use super::settings;

/// A connection of instance 7, at this place of its pool.
fn join(lab: &mut Lab, name: &str, index: u32, methods: &[&str]) -> Peer {
    let peer = lab.dial(Bound::Service, 0);
    let mut hello = service_hello(7, name, methods, &[]);
    hello.pool_index = index;
    lab.join(peer, &hello);
    peer
}

#[test]
fn the_connections_of_an_instance_have_one_name() {
    let mut lab = Lab::new(settings());
    let first = join(&mut lab, "svc", 0, &["echo"]);
    for index in [0, 1] {
        let peer = lab.dial(Bound::Service, 0);
        let mut hello = service_hello(7, "other", &["echo"], &[]);
        hello.pool_index = index;
        let answer = lab.greet(peer, &hello);
        assert_eq!(answer.header.kind, FrameType::Reject);
        assert_eq!(ErrorRef::parse(&answer.head).unwrap().code, ErrorCode::InvalidArgument);
        lab.run();
        assert!(lab.ended(peer).is_some() && lab.ended(first).is_none());
    }
    assert_eq!(lab.stage.shared().registry.offers(), 2, "the name and the method of the first");
    lab.hang_up(first, Ending::Closed);
    lab.run();
    join(&mut lab, "other", 0, &[]);
    lab.close();
}

#[test]
fn the_newest_connection_has_its_place_in_the_pool() {
    // In the shard of the first, and in the other one: 2 and 3 are the places of those shards again.
    for index in [2, 3] {
        let mut lab = Lab::new(settings());
        let other = join(&mut lab, "svc", 0, &[]);
        let old = join(&mut lab, "svc", index, &["echo"]);
        let edge = lab.edge(0, 5);
        lab.call(edge, 1, "echo", 0, b"");
        lab.run();
        lab.expect(old);
        let new = join(&mut lab, "svc", index, &["echo"]);
        let heard = lab.frames(old);
        let away = GoAway::parse(&heard.last().unwrap().head).unwrap();
        assert_eq!(away.reason.unwrap().code, ErrorCode::SessionClosed);
        assert!(lab.ended(old).is_some() && lab.ended(other).is_none());
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::SessionClosed);
        lab.call(edge, 2, "echo", 0, b"");
        lab.run();
        assert_eq!(lab.expect(new).call().name, "echo");
        let takeovers: u64 = lab.stage.shared().stats.iter().map(|stats| stats.takeovers.get()).sum();
        assert_eq!(takeovers, 1);
        lab.close();
    }
}

#[test]
fn a_connection_that_says_goodbye_leaves_its_place() {
    let mut lab = Lab::new(settings());
    let old = join(&mut lab, "svc", 0, &["echo"]);
    lab.send(old, FrameType::GoAway, 0, &[], &[]);
    lab.run();
    join(&mut lab, "svc", 0, &["echo"]);
    assert!(lab.ended(old).is_none(), "it may finish what it has");
    lab.close();
}
