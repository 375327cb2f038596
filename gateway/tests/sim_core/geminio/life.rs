//! Ends of connections, windows, and what must survive or not.

use super::{streams::stream, *};

#[test]
fn an_end_of_the_connection_ends_its_streams_everywhere() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    let (_, there) = stream(&mut lab, edge, service, "svc", "5");
    let link = lab.guest(edge).link;
    lab.stage.hang_up(link, LinkEnding::Reset);
    lab.run();
    assert!(matches!(only(&mut lab, service), Event::Closed { dialogue } if dialogue == there));
    lab.close();
}

// === the end ===

#[test]
fn a_silent_peer_is_gone_after_two_heartbeats() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    lab.advance(100 * SECOND);
    assert_eq!(lab.stage.shared().registry.edges(), 1, "heartbeats are answered");
    let link = lab.guest(edge).link;
    lab.stage.cut_cable(link);
    lab.advance(45 * SECOND);
    assert_eq!(lab.stage.shared().registry.edges(), 0);
    lab.advance(5 * SECOND);
    assert_eq!(lab.stage.session(link), None, "the socket is closed whatever the peer does");
    assert!(lab.events(service).is_empty());
    lab.close();
}

#[test]
fn a_peer_that_leaves_is_gone_at_once() {
    let mut lab = Lab::new(settings());
    let (edge, _) = pair(&mut lab, 0, 1);
    let now = lab.stage.now();
    assert!(lab.guest(edge).conn.disconnect::<Bytes>(now).is_none());
    lab.run();
    assert_eq!(lab.stage.shared().registry.edges(), 0);
    assert!(matches!(lab.events(edge).last(), Some(Event::Over(_))));
    assert!(lab.guest_ended(edge).is_some());
    lab.close();
}

#[test]
fn nonsense_ends_its_own_connection_alone() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    for bytes in [
        // Garbage instead of JSON, a second handshake, a body that is too short.
        &b"\x01\x71\0\0\0\0\0\0\0\x09\0\0\0\x0a\0\0\0\0\0\0\0\x01{x"[..],
        b"\x01\x01\0\0\0\0\0\0\0\x09\0\0\0\x0c\x18\0\0\0\0\0\0\0\0\0{}",
        b"\x01\x71\0\0\0\0\0\0\0\x09\0\0\0\x02{}",
    ] {
        let bad = lab.guest_edge(0, 9);
        let link = lab.guest(bad).link;
        lab.stage.write(link, &[bytes]);
        lab.run();
        assert!(lab.guest_ended(bad).is_some());
        assert_eq!(lab.stage.shared().registry.edges(), 1);
    }
    let packet = request(&mut lab, edge, &call("echo", b""));
    lab.run();
    let got = asked(&mut lab, service);
    respond(&mut lab, service, got.id, &call("echo", b"here"));
    lab.run();
    assert_eq!(decode(answered(&mut lab, edge, packet).value()), b"here");
    lab.close();
}

#[test]
fn a_drain_closes_geminio_peers_one_after_the_other() {
    let mut lab = Lab::new(settings());
    let edges: Vec<GuestId> = (1..=20).map(|id| lab.guest_edge(0, id)).collect();
    lab.advance(3 * SECOND);
    lab.stage.post(0, frontier_gateway::core::message::Msg::Drain { edges: true, spread_ms: 2_000 });
    lab.advance(SECOND);
    let half = lab.stage.shared().registry.edges();
    assert!((2..18).contains(&half), "{half} are left halfway");
    lab.advance(2 * SECOND);
    assert_eq!(lab.stage.shared().registry.edges(), 0);
    for edge in edges {
        assert!(matches!(lab.events(edge).last(), Some(Event::Over(_))));
    }
    lab.close();
}

#[test]
fn a_service_that_reads_and_never_acknowledges_gets_one_message_more_every_thirty_seconds() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    for n in 0..32 {
        publish(&mut lab, edge, &message("news", &[n]));
    }
    lab.run();
    assert_eq!(lab.events(service).len(), 32);
    lab.advance(20 * SECOND);
    // Of another one: a client of this protocol waits for acknowledgements itself.
    let other = lab.guest_edge(0, 6);
    for n in 32..36 {
        publish(&mut lab, other, &message("news", &[n]));
    }
    lab.advance(9 * SECOND);
    assert!(lab.events(service).is_empty());
    lab.advance(2 * SECOND);
    assert_eq!(decode(asked(&mut lab, service).data.value()), [32]);
    assert_eq!(reopened(&lab), 1);
    // The others have waited in vain, but not for ever.
    lab.advance(25 * SECOND);
    for (publisher, count) in [(edge, 32), (other, 4)] {
        let told = lab.events(publisher);
        assert_eq!(told.len(), count);
        for event in &told {
            let Event::Acked { data, .. } = event else { panic!("{event:?}") };
            assert_eq!(data.error(), "timeout");
        }
    }
    assert_eq!(reopened(&lab), 1);
    lab.close();
}

#[test]
fn calls_and_messages_whose_last_service_leaves_are_lost_or_nobodys() {
    let chaos = Chaos { turn_delay: 400, ..Chaos::NONE };
    let mut told = std::collections::BTreeMap::new();
    for seed in 1..=200 {
        let mut lab = Lab::with(settings(), chaos, seed);
        let (edge, service) = pair(&mut lab, 0, 1);
        request(&mut lab, edge, &call("echo", b"ping"));
        publish(&mut lab, edge, &message("news", b"x"));
        let link = lab.guest(service).link;
        lab.stage.hang_up(link, LinkEnding::Closed);
        lab.run();
        for event in lab.events(edge) {
            let (Event::Response { data, .. } | Event::Acked { data, .. }) = &event else {
                panic!("seed {seed}: {event:?}")
            };
            let kind = if matches!(event, Event::Response { .. }) { "call" } else { "message" };
            *told.entry((kind, data.error().to_owned())).or_insert(0) += 1;
        }
        lab.close();
    }
    let known = [
        ("call", "force closed"),
        ("call", "record not found"),
        ("message", "force closed"),
        ("message", "topic not online"),
    ];
    assert!(told.keys().map(|(kind, text)| (*kind, text.as_str())).eq(known), "{told:?}");
}

/// An encoding that no encoder makes, but every decoder takes: it comes out as it went in only if nobody decodes it on the way.
#[test]
fn a_payload_between_geminio_peers_is_handed_on_as_it_is_encoded() {
    const ODD: &str = "YR==";
    for shards in [(0, 0), (0, 1)] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards.0, shards.1);
        let link = lab.guest(edge).link;
        let bodies = [
            (PacketType::Request, format!("{{\"key\":\"ZWNobw==\",\"value\":\"{ODD}\"}}")),
            (PacketType::Message, format!("{{\"topic\":\"news\",\"value\":\"{ODD}\"}}")),
        ];
        for (kind, json) in bodies {
            let mut bytes = Vec::new();
            let body = [&FIRST.0.to_be_bytes(), json.as_bytes()].concat();
            PacketHeader::new(kind, 1 << 40).put(&mut bytes, &body);
            lab.stage.write(link, &[&bytes]);
            lab.run();
            let operation = asked(&mut lab, service);
            assert_eq!(operation.data.value(), ODD.as_bytes());
            respond(&mut lab, service, operation.id, &Object::default());
            lab.run();
        }
        // And an answer, which the gateway reads from the service.
        let packet = request(&mut lab, edge, &call("echo", b""));
        lab.run();
        lab.events(edge).clear();
        let operation = asked(&mut lab, service);
        let answer = Object { value: Content::Encoded(ODD.as_bytes()), ..Object::default() };
        respond(&mut lab, service, operation.id, &answer);
        lab.run();
        assert_eq!(answered(&mut lab, edge, packet).value(), ODD.as_bytes());
        lab.close();
    }
}

#[test]
fn each_connection_of_a_service_has_a_window_of_its_own() {
    let mut lab = Lab::new(settings());
    let pool: Vec<GuestId> = (0..2).map(|shard| lab.guest_service(shard, "svc", &[], &["news"])).collect();
    // As many edges that some of them have the one connection, and some the other.
    for id in 1..=8 {
        let edge = lab.guest_edge(0, id);
        for n in 0..32 {
            publish(&mut lab, edge, &message("news", &[n]));
        }
    }
    lab.run();
    for connection in pool {
        assert_eq!(lab.events(connection).len(), 32);
    }
    lab.close();
}

#[test]
fn whom_an_operator_sends_away_is_gone_at_once_and_closed_when_it_is_old_enough() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    let link = lab.guest(edge).link;
    let session = lab.stage.session(link).unwrap();
    lab.stage.post(session.shard, Msg::Kick { session });
    lab.run();
    assert_eq!(lab.stage.shared().registry.edge(5), None);
    let tail = append_tail(b"", 5);
    let packet = request(&mut lab, service, &to_edge(call("tune", b"up"), &tail));
    lab.run();
    assert_eq!(error(&mut lab, service, packet), "edge not online");
    lab.advance(1_500 * MILLI);
    assert!(lab.events(edge).is_empty() && lab.guest_ended(edge).is_none());
    lab.advance(1_000 * MILLI);
    assert!(lab.events(edge).iter().any(|event| matches!(event, Event::Leaving)));
    assert!(lab.guest_ended(edge).is_some());
    lab.close();
}
