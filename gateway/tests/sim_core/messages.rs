//! Messages: acknowledgements, order, and who gets them.

use frontier_gateway::{
    core::{Bound, Settings, exchange::Policy},
    sim::{
        lab::{Lab, Peer, service_hello},
        net::{Ending, Quality},
        stage::Path,
    },
};
use frontier_wire::{
    error::ErrorCode,
    native::{frame::FrameType, head::CallBuilder},
};

use super::{MILLI, head, kinds, names, settings};

fn publish(lab: &mut Lab, peer: Peer, id: u64, topic: &str, timeout_ms: u32, body: &[u8]) {
    let head = head(&CallBuilder::new(topic).timeout_ms(timeout_ms));
    lab.send(peer, FrameType::Publish, id, &head, body);
}

#[test]
fn a_message_is_acknowledged_by_its_receiver() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let service = lab.service(service_shard, "svc", &[], &["t"]);
        let edge = lab.edge(0, 5);
        publish(&mut lab, edge, 1, "t", 0, b"one");
        publish(&mut lab, edge, 2, "t", 0, b"two");
        lab.run();
        let messages = lab.frames(service);
        assert_eq!(kinds(&messages), [FrameType::Publish, FrameType::Publish]);
        assert!(lab.is_quiet(edge), "nobody has said that it is done");
        lab.answer_error(service, &messages[1], ErrorCode::Application, "full");
        lab.answer(service, &messages[0], &[]);
        lab.run();
        assert_eq!(lab.expect_error(edge, 2), ErrorCode::Application);
        assert_eq!(lab.expect(edge).header.kind, FrameType::Ack);
        publish(&mut lab, edge, 3, "other", 0, b"");
        lab.run();
        assert_eq!(lab.expect_error(edge, 3), ErrorCode::TopicNotOnline);
        lab.close();
    }
}

#[test]
fn the_catch_all_takes_what_nobody_else_takes() {
    let mut lab = Lab::new(settings());
    let rest = lab.service(0, "rest", &[], &["*"]);
    let exact = lab.service(1, "exact", &[], &["t"]);
    let edge = lab.edge(0, 5);
    publish(&mut lab, edge, 1, "t", 0, b"");
    publish(&mut lab, edge, 2, "u", 0, b"");
    lab.run();
    assert_eq!(lab.expect(exact).call().name, "t");
    assert_eq!(lab.expect(rest).call().name, "u");
    lab.hang_up(exact, Ending::Closed);
    lab.run();
    assert_eq!(lab.expect_error(edge, 1), ErrorCode::SessionClosed);
    publish(&mut lab, edge, 3, "t", 0, b"");
    lab.run();
    assert_eq!(lab.expect(rest).call().name, "t");
    lab.close();
}

#[test]
fn requests_and_messages_have_limits_of_their_own() {
    let mut lab = Lab::new(Settings { requests_in_flight: 2, messages_in_flight: 1, ..settings() });
    lab.service(1, "svc", &["m"], &["t"]);
    let edge = lab.edge(0, 5);
    for id in 1..=3 {
        lab.call(edge, id, "m", 0, b"");
    }
    for id in 4..=5 {
        publish(&mut lab, edge, id, "t", 0, b"");
    }
    lab.run();
    for id in [3, 5] {
        assert_eq!(lab.expect_error(edge, id), ErrorCode::Overloaded);
    }
    assert!(lab.is_quiet(edge));
    lab.close();
}

#[test]
fn a_topic_keeps_its_receiver_under_every_policy() {
    for policy in [Policy::EdgeId, Policy::SourceIp, Policy::Random, Policy::LeastInFlight] {
        let mut lab = Lab::new(Settings { policy, ..settings() });
        let services: Vec<Peer> = (0..3).map(|n| lab.service(n % 2, "svc", &[], &["t"])).collect();
        let edge = lab.edge(0, 5);
        for id in 1..=20 {
            publish(&mut lab, edge, id, "t", 0, b"");
            lab.run();
            if id == 10 {
                lab.service(0, "svc", &[], &["t"]);
            }
        }
        let mut counts: Vec<usize> = services.iter().map(|service| lab.frames(*service).len()).collect();
        counts.sort_unstable();
        assert_eq!(counts, [0, 0, 20], "{policy:?}");
        lab.close();
    }
}

#[test]
fn many_topics_of_one_sender_keep_their_receivers() {
    const TOPICS: u64 = 600;
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("t{n}")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    for policy in [Policy::EdgeId, Policy::SourceIp, Policy::Random, Policy::LeastInFlight] {
        let mut lab = Lab::new(Settings { policy, ..settings() });
        let services = [0, 1].map(|shard| lab.service(shard, "svc", &[], &topics));
        let edge = lab.edge(0, 5);
        // Which service got which topics.
        let round = |lab: &mut Lab, first: u64| {
            for (id, topic) in (first..).zip(&topics) {
                publish(lab, edge, id, topic, 0, b"");
                lab.run();
            }
            services.map(|service| {
                let messages = lab.frames(service);
                let mut names: Vec<String> =
                    messages.iter().map(|message| message.call().name.to_owned()).collect();
                for message in &messages {
                    lab.answer(service, message, &[]);
                }
                lab.run();
                names.sort_unstable();
                names
            })
        };
        let [one, two] = round(&mut lab, 1);
        assert_eq!(one.len() + two.len(), topics.len(), "{policy:?}");
        assert_eq!(round(&mut lab, 1_001), [one.clone(), two.clone()], "{policy:?}: both still live");
        let chosen = matches!(policy, Policy::Random | Policy::LeastInFlight);
        assert!(!chosen || one.len() > 100 && two.len() > 100, "{policy:?}: {} and {}", one.len(), two.len());
        // Those of the one that goes move, and come to stay as well.
        lab.hang_up(services[0], Ending::Closed);
        lab.run();
        for first in [2_001, 3_001] {
            for (id, topic) in (first..).zip(&topics) {
                publish(&mut lab, edge, id, topic, 0, b"");
            }
            lab.run();
            let messages = lab.frames(services[1]);
            assert_eq!(messages.len(), topics.len(), "{policy:?}");
            messages.iter().for_each(|message| lab.answer(services[1], message, &[]));
            lab.run();
            if first == 2_001 {
                lab.service(0, "svc", &[], &topics[..400]);
            }
        }
        lab.close();
    }
}

#[test]
fn a_topic_moves_when_its_receiver_takes_it_no_longer() {
    let mut lab = Lab::new(Settings { policy: Policy::Random, ..settings() });
    let one = lab.service(0, "svc", &[], &["t"]);
    let edge = lab.edge(0, 5);
    publish(&mut lab, edge, 1, "t", 0, b"");
    let two = lab.service(1, "svc", &[], &["t"]);
    lab.run();
    assert_eq!(lab.frames(one).len(), 1);
    lab.send(one, FrameType::Unregister, 9, &names(&[], &["t"]), &[]);
    lab.run();
    publish(&mut lab, edge, 2, "t", 0, b"");
    lab.run();
    assert_eq!(kinds(&lab.frames(one)), [FrameType::Ack]);
    assert_eq!(lab.frames(two).len(), 1);
    lab.close();
}

#[test]
fn large_and_small_messages_of_a_topic_keep_their_order() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let down = Quality { capacity: 50_000, ..Quality::PERFECT };
        let service = lab.dial_by(Bound::Service, 0, Path { up: Quality::PERFECT, down });
        let mut hello = service_hello(1, "svc", &[], &["t"]);
        hello.pool_index = service_shard;
        lab.join(service, &hello);
        lab.freeze(service, true);
        let edge = lab.edge(0, 5);
        for id in 1..=40 {
            let len = if id % 3 == 0 { 10 } else { 20_000 };
            publish(&mut lab, edge, id, "t", 0, &vec![u8::try_from(id).unwrap(); len]);
        }
        lab.run();
        lab.freeze(service, false);
        lab.run();
        let order: Vec<u8> = lab.frames(service).iter().map(|message| message.body[0]).collect();
        assert_eq!(order, (1..=40).collect::<Vec<u8>>());
        lab.close();
    }
}

#[test]
fn services_publish_to_edges() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &[], &[]);
    let edge = lab.edge(1, 5);
    let message = head(&CallBuilder::new("news").edge(5));
    lab.send(service, FrameType::Publish, 1, &message, b"hello");
    lab.run();
    let heard = lab.expect(edge);
    assert_eq!((heard.header.kind, heard.call().name), (FrameType::Publish, "news"));
    lab.hang_up(edge, Ending::Reset);
    lab.run();
    assert_eq!(lab.expect_error(service, 1), ErrorCode::SessionClosed);
    lab.close();
}

/// Messages of one topic share a queue towards their receiver. One of them being given up must not take the others with it.
#[test]
fn a_message_given_up_takes_no_other_with_it() {
    for service_shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let down = Quality { capacity: 2_000, ..Quality::PERFECT };
        let service = lab.dial_by(Bound::Service, 0, Path { up: Quality::PERFECT, down });
        let mut hello = service_hello(1, "svc", &[], &["t", "filler"]);
        hello.pool_index = service_shard;
        lab.join(service, &hello);
        let edge = lab.edge(0, 5);
        lab.freeze(service, true);
        // What is handed to the socket already cannot be taken back, so that is other messages.
        for id in 1..=4 {
            publish(&mut lab, edge, id, "filler", 0, &[0; 60_000]);
        }
        lab.run();
        for (id, timeout) in [(5, 0), (6, 100), (7, 0)] {
            publish(&mut lab, edge, id, "t", timeout, &[u8::try_from(id).unwrap(); 20_000]);
        }
        lab.advance(200 * MILLI);
        assert_eq!(lab.expect_error(edge, 6), ErrorCode::DeadlineExceeded);
        lab.freeze(service, false);
        lab.run();
        let frames = lab.frames(service);
        let messages: Vec<(u8, usize)> = frames
            .iter()
            .filter(|note| note.body.len() == 20_000)
            .map(|note| (note.body[0], note.body.len()))
            .collect();
        assert!(messages.starts_with(&[(5, 20_000)]) && messages.ends_with(&[(7, 20_000)]), "{messages:?}");
        // Whatever was sent of the one given up comes before its Cancel.
        let cancel = frames.iter().position(|note| note.header.kind == FrameType::Cancel).unwrap();
        let id = frames[cancel].header.id;
        assert!(frames[cancel + 1..].iter().all(|note| note.header.id != id));
        lab.close();
    }
}
