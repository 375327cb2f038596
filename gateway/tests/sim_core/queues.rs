//! Messages that go to external queues: who gets them, what their senders hear, and what is left of them.

use std::sync::Arc;

use frontier_gateway::{
    core::{Settings, exchange::Policy, outlet::Declined},
    sim::{
        lab::{Lab, Peer},
        net::Ending,
        queue::{SimQueue, Taken},
    },
};
use frontier_wire::{
    error::ErrorCode,
    geminio::{
        connection::Event,
        data::{Content, Object},
        dialogue::DialogueId,
    },
    native::{
        frame::{Flags, FrameHeader, FrameType, INITIAL_CREDIT},
        head::{CallBuilder, ErrorRef},
    },
};

use super::{MILLI, SECOND, credit, error_head, head, held, kinds, settings};

fn publish(lab: &mut Lab, peer: Peer, id: u64, topic: &str, body: &[u8]) {
    let head = head(&CallBuilder::new(topic));
    lab.send(peer, FrameType::Publish, id, &head, body);
    lab.run();
}

/// What a queue has got: topic, body.
fn got(queue: &SimQueue) -> Vec<(String, Vec<u8>)> {
    queue.take().iter().map(|taken| (taken.topic.clone(), taken.body.to_vec())).collect()
}

fn one(queue: &SimQueue) -> Taken {
    let mut taken = queue.take();
    assert_eq!(taken.len(), 1, "{taken:?}");
    taken.remove(0)
}

#[test]
fn a_message_is_acknowledged_when_its_queue_has_confirmed_it() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let queue = lab.queue(&["t"], &[]);
        let edge = lab.edge(shard, 5);
        let headers = [("traceparent", "00-1"), ("content-type", "text/plain")];
        let message = head(&CallBuilder::new("t").timeout_ms(4_000).headers(headers));
        lab.send(edge, FrameType::Publish, 1, &message, b"one");
        publish(&mut lab, edge, 2, "t", b"two");
        let [first, second] = <[Taken; 2]>::try_from(queue.take()).unwrap();
        assert!(lab.is_quiet(edge), "nobody has confirmed anything");
        assert_eq!((first.edge, &*first.topic, &*first.body), (5, "t", &b"one"[..]));
        let mut sorted = first.headers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [("content-type", "text/plain"), ("traceparent", "00-1")].map(own));
        assert_eq!(first.left, 4 * SECOND);
        assert_eq!((&*second.body, second.left), (&b"two"[..], 30 * SECOND));
        lab.confirm(second, Err(Declined::Refused(ErrorCode::PayloadTooLarge, "too long for the broker")));
        lab.run();
        assert_eq!(lab.expect_error(edge, 2), ErrorCode::PayloadTooLarge);
        lab.confirm(first, Ok(()));
        lab.run();
        let ack = lab.expect(edge);
        assert_eq!((ack.header.kind, ack.header.id, ack.error()), (FrameType::Ack, 1, None));
        lab.close();
    }
}

fn own((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn exact_names_go_before_patterns_and_those_before_the_catch_all() {
    let mut lab = Lab::new(settings());
    let exact = lab.queue(&["a/b"], &[]);
    let long = lab.queue(&[], &["a/b/#"]);
    let short = lab.queue(&[], &["a/#"]);
    let rest = lab.queue(&["*"], &[]);
    let service = lab.service(0, "svc", &[], &["a/b/c"]);
    let edge = lab.edge(1, 5);
    let longest = format!("a/{}", "x".repeat(400));
    for (id, topic) in (1..).zip(["a/b", "a/b/c", "a/b/d", "a/d", "x", &longest]) {
        publish(&mut lab, edge, id, topic, b"");
    }
    let topics = |queue| got(queue).into_iter().map(|(topic, _)| topic).collect::<Vec<_>>();
    assert_eq!(topics(&exact), ["a/b"]);
    assert_eq!(topics(&long), ["a/b/d"]);
    assert_eq!(topics(&short), ["a/d".to_owned(), longest]);
    assert_eq!(topics(&rest), ["x"]);
    assert_eq!(lab.expect(service).call().name, "a/b/c");
    // Who comes in at a level that goes before takes it over.
    let late = lab.service(1, "late", &[], &["a/d"]);
    publish(&mut lab, edge, 20, "a/d", b"");
    assert_eq!(lab.expect(late).call().name, "a/d");
    lab.hang_up(late, Ending::Closed);
    lab.run();
    assert_eq!(lab.expect_error(edge, 20), ErrorCode::SessionClosed);
    publish(&mut lab, edge, 21, "a/d", b"");
    assert_eq!(topics(&short), ["a/d"]);
    lab.close();
}

#[test]
fn services_and_queues_are_equals_and_a_sender_keeps_its_own() {
    for policy in [Policy::EdgeId, Policy::SourceIp, Policy::Random, Policy::LeastInFlight] {
        let mut lab = Lab::new(Settings { policy, ..settings() });
        let queue = lab.queue(&["t"], &[]);
        let service = lab.service(0, "svc", &[], &["t"]);
        let edges: Vec<Peer> = (0..40).map(|n| lab.edge(n as u16 % 2, 5 + n)).collect();
        let mut first = Vec::new();
        for round in 1..=3 {
            for edge in &edges {
                publish(&mut lab, *edge, round, "t", b"");
            }
            let mut to_queue: Vec<u64> = queue.take().iter().map(|taken| taken.edge).collect();
            to_queue.sort_unstable();
            let to_service = lab.frames(service).len();
            assert_eq!(to_queue.len() + to_service, edges.len(), "{policy:?}: one receiver each");
            let sides = policy == Policy::SourceIp || !to_queue.is_empty() && to_service > 0;
            assert!(sides, "{policy:?}: {} to the queue", to_queue.len());
            if round == 1 {
                first = to_queue;
            } else {
                assert_eq!(to_queue, first, "{policy:?}: the receiver stays");
            }
        }
        lab.close();
    }
}

#[test]
fn who_names_a_service_means_no_queue() {
    let mut lab = Lab::new(settings());
    let queue = lab.queue(&["t"], &[]);
    let service = lab.service(0, "svc", &[], &["t"]);
    let edge = lab.edge(1, 5);
    for id in 1..=20 {
        let message = head(&CallBuilder::new("t").service("svc"));
        lab.send(edge, FrameType::Publish, id, &message, b"");
    }
    lab.run();
    assert_eq!((lab.frames(service).len(), queue.take().len()), (20, 0));
    lab.close();
}

#[test]
fn a_queue_that_is_away_is_replaced_by_the_next_and_alone_it_fails_at_once() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let queue = lab.queue(&["t"], &[]);
        let edge = lab.edge(shard, 5);
        queue.set_away(true);
        publish(&mut lab, edge, 1, "t", b"");
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::TopicNotOnline);
        let rest = lab.queue(&["*"], &[]);
        publish(&mut lab, edge, 2, "t", b"");
        assert_eq!(lab.expect_error(edge, 2), ErrorCode::TopicNotOnline, "only within one level");
        let service = lab.service(0, "svc", &[], &["t"]);
        publish(&mut lab, edge, 3, "t", b"");
        assert_eq!(lab.expect(service).call().name, "t");
        queue.set_away(false);
        publish(&mut lab, edge, 4, "t", b"");
        assert_eq!(lab.expect(service).call().name, "t", "a receiver stays while it lives");
        lab.hang_up(service, Ending::Closed);
        lab.run();
        assert_eq!(lab.expect_error(edge, 3), ErrorCode::SessionClosed);
        publish(&mut lab, edge, 5, "t", b"");
        assert_eq!(one(&queue).topic, "t");
        assert!(got(&rest).is_empty());
        lab.close();
    }
}

/// What was sent to a service of another shard while that went comes back to the shard of its sender, and its fragments with it.
#[test]
fn a_queue_takes_over_what_a_service_did_not_get() {
    for parts in [false, true] {
        let mut lab = Lab::new(settings());
        let service = lab.service(1, "svc", &[], &["t"]);
        let edge = lab.edge(0, 5);
        let queue = lab.queue(&["t"], &[]);
        // It goes to the service for certain, which is gone when it comes.
        queue.set_away(true);
        publish(&mut lab, edge, 1, "t", b"");
        assert_eq!(lab.frames(service).len(), 1);
        queue.set_away(false);
        lab.hang_up(service, Ending::Reset);
        let total: usize = if parts { 200_000 } else { 20_000 };
        let message = CallBuilder::new("t");
        let message = if parts { head(&message.total_len(total as u64)) } else { head(&message) };
        let publish = FrameHeader::new(FrameType::Publish, 2);
        lab.send_part(edge, publish, &message, 0, total, total);
        lab.run();
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::SessionClosed);
        let taken = one(&queue);
        assert_eq!(taken.body, vec![7; total]);
        lab.confirm(taken, Ok(()));
        lab.run();
        assert_eq!(lab.frames(edge).iter().filter(|note| note.header.kind == FrameType::Ack).count(), 1);
        lab.close();
    }
}

#[test]
fn a_body_in_fragments_is_handed_over_whole_and_its_sender_is_granted_the_rest() {
    let mut lab = Lab::new(settings());
    let queue = lab.queue(&["t"], &[]);
    let edge = lab.edge(0, 5);
    let total = 3 * INITIAL_CREDIT as usize;
    let message = head(&CallBuilder::new("t").total_len(total as u64));
    let publish = FrameHeader::new(FrameType::Publish, 1);
    let mut sent = INITIAL_CREDIT as usize;
    lab.send_part(edge, publish, &message, 0, sent, total);
    lab.run();
    assert!(queue.take().is_empty(), "not before it is complete");
    assert!(held(&lab) > total as u64, "what was announced counts");
    while sent < total {
        let grants: u32 = lab.frames(edge).iter().map(|note| credit(&note.head)).sum();
        assert!(grants > 0, "{sent} of {total} sent and no grant");
        let n = (grants as usize).min(total - sent);
        lab.send_part(edge, publish, &message, sent, n, total);
        sent += n;
        lab.run();
    }
    let taken = one(&queue);
    assert_eq!((taken.body.len(), held(&lab) > total as u64), (total, true), "held until it is confirmed");
    lab.frames(edge);
    lab.confirm(taken, Ok(()));
    lab.run();
    assert_eq!(kinds(&lab.frames(edge)), [FrameType::Ack]);
    assert!(held(&lab) < 100_000, "{}", held(&lab));
    lab.close();
}

#[test]
fn a_body_that_breaks_off_reaches_no_queue() {
    for how in 0..4 {
        let mut lab = Lab::new(settings());
        let queue = lab.queue(&["t"], &[]);
        let edge = lab.edge(0, 5);
        let message = head(&CallBuilder::new("t").total_len(200_000).timeout_ms(100));
        let publish = FrameHeader::new(FrameType::Publish, 1);
        lab.send_part(edge, publish, &message, 0, 150_000, 200_000);
        lab.run();
        lab.frames(edge);
        let code = match how {
            0 => {
                let mut abort = Vec::new();
                CallBuilder::abort(ErrorRef::new(ErrorCode::Cancelled, "no")).encode(&mut abort);
                lab.send_flagged(edge, FrameType::Publish, 1, Flags::ABORT, &abort, &[]);
                Some(ErrorCode::Cancelled)
            }
            1 => {
                lab.send(edge, FrameType::Cancel, 1, &error_head(ErrorRef::default()), &[]);
                Some(ErrorCode::Cancelled)
            }
            2 => {
                lab.advance(200 * MILLI);
                Some(ErrorCode::DeadlineExceeded)
            }
            _ => {
                lab.hang_up(edge, Ending::Closed);
                None
            }
        };
        lab.run();
        if let Some(code) = code {
            assert_eq!(lab.expect_error(edge, 1), code);
            // What still comes of it is skipped.
            lab.send_part(edge, publish, &message, 150_000, 50_000, 200_000);
            lab.run();
            assert!(lab.is_quiet(edge) && lab.ended(edge).is_none());
        }
        assert!(queue.take().is_empty(), "{how}");
        lab.close();
    }
}

#[test]
fn many_long_bodies_of_one_sender_have_a_bound() {
    let mut lab = Lab::new(Settings { outbox: 1 << 20, body: 1 << 20, ..settings() });
    let queue = lab.queue(&["*"], &[]);
    let edge = lab.edge(0, 5);
    for id in 1..=4 {
        let message = head(&CallBuilder::new(&format!("t{id}")).total_len(500_000));
        lab.send_part(edge, FrameHeader::new(FrameType::Publish, id), &message, 0, 100_000, 500_000);
    }
    lab.run();
    let refused: Vec<u64> =
        lab.frames(edge).iter().filter(|n| n.error().is_some()).map(|n| n.header.id).collect();
    assert_eq!(refused, [3, 4]);
    assert!(queue.take().is_empty());
    lab.close();
}

#[test]
fn nobody_waits_longer_than_the_deadline_and_late_confirmations_find_nobody() {
    let mut lab = Lab::new(settings());
    let queue = lab.queue(&["t"], &[]);
    let edge = lab.edge(0, 5);
    let message = head(&CallBuilder::new("t").timeout_ms(50));
    lab.send(edge, FrameType::Publish, 1, &message, b"");
    publish(&mut lab, edge, 2, "t", b"");
    let [first, second] = <[Taken; 2]>::try_from(queue.take()).unwrap();
    lab.advance(100 * MILLI);
    assert_eq!(lab.expect_error(edge, 1), ErrorCode::DeadlineExceeded);
    lab.send(edge, FrameType::Cancel, 2, &error_head(ErrorRef::default()), &[]);
    lab.run();
    assert_eq!(lab.expect_error(edge, 2), ErrorCode::Cancelled);
    let late = lab.stage.shared().stats[0].late_answers.get();
    lab.confirm(first, Ok(()));
    lab.confirm(second, Err(Declined::Away));
    lab.run();
    assert!(lab.is_quiet(edge));
    assert_eq!(lab.stage.shared().stats[0].late_answers.get(), late + 2);
    lab.close();
}

#[test]
fn a_session_that_is_gone_hears_nothing_and_what_its_queue_holds_counts() {
    let mut lab = Lab::new(settings());
    let queue = lab.queue(&["t"], &[]);
    let edge = lab.edge(0, 5);
    publish(&mut lab, edge, 1, "t", &[1; 50_000]);
    lab.hang_up(edge, Ending::Reset);
    lab.advance(2 * SECOND);
    assert!(held(&lab) > 50_000, "the broker may still get it");
    let taken = one(&queue);
    lab.confirm(taken, Ok(()));
    lab.run();
    assert_eq!(held(&lab), 0);
    lab.close();
}

#[test]
fn a_full_queue_refuses_what_is_beyond_and_only_that() {
    let mut lab = Lab::new(settings());
    let queue = lab.queue(&["t"], &[]);
    lab.service(0, "svc", &[], &["u"]);
    let edge = lab.edge(0, 5);
    publish(&mut lab, edge, 1, "t", b"");
    queue.set_full(true);
    publish(&mut lab, edge, 2, "t", b"");
    assert_eq!(lab.expect_error(edge, 2), ErrorCode::Overloaded);
    let taken = one(&queue);
    lab.confirm(taken, Ok(()));
    lab.run();
    assert_eq!(kinds(&lab.frames(edge)), [FrameType::Ack]);
    lab.close();
}

#[test]
fn other_queues_take_over_and_one_that_stays_keeps_its_senders() {
    let mut lab = Lab::new(Settings { policy: Policy::Random, ..settings() });
    let queues: Vec<Arc<SimQueue>> = (0..3).map(|_| lab.queue(&["t"], &[])).collect();
    let edge = lab.edge(0, 5);
    publish(&mut lab, edge, 1, "t", b"");
    let mine = queues.iter().position(|queue| !queue.take().is_empty()).unwrap();
    let other = lab.queue(&["t"], &[]);
    for id in 2..=20 {
        publish(&mut lab, edge, id, "t", b"");
    }
    let taken = queues[mine].take();
    assert_eq!(taken.len(), 19);
    for queue in &queues {
        lab.remove_queue(queue);
    }
    publish(&mut lab, edge, 21, "t", b"");
    assert_eq!(other.take().len(), 1, "the only one left");
    // What the old one has confirms as before.
    lab.confirm(taken.into_iter().next().unwrap(), Ok(()));
    lab.run();
    assert_eq!(kinds(&lab.frames(edge)), [FrameType::Ack]);
    lab.remove_queue(&other);
    publish(&mut lab, edge, 22, "t", b"");
    assert_eq!(lab.expect_error(edge, 22), ErrorCode::TopicNotOnline);
    lab.close();
}

#[test]
fn a_geminio_edge_is_acknowledged_the_same_way() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let queue = lab.queue(&["t"], &[]);
        let edge = lab.guest_edge(shard, 5);
        let now = lab.stage.now();
        let body = vec![9; 30_000];
        for value in [&b"hello"[..], &body] {
            let object = Object { value: Content::Plain(value), topic: "t", ..Object::default() };
            lab.guest(edge).conn.publish(DialogueId::FIRST, 1, &object, now).unwrap();
        }
        lab.run();
        let [first, second] = <[Taken; 2]>::try_from(queue.take()).unwrap();
        assert_eq!((first.edge, &*first.body), (5, &b"hello"[..]), "the payload itself");
        assert_eq!(second.body, body);
        assert!(lab.events(edge).is_empty());
        lab.confirm(first, Ok(()));
        lab.confirm(second, Err(Declined::Away));
        lab.run();
        let acks: Vec<String> = lab
            .events(edge)
            .iter()
            .filter_map(|event| match event {
                Event::Acked { data, .. } => Some(data.error().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(acks, ["", "topic not online"]);
        lab.close();
    }
}
