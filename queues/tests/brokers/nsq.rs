//! NSQ: nsqd from its Go module.

use frontier_queues::{Kind, config::QueueKind, testing::Nsq};

use crate::harness::{hangs, in_order, kills, message, nothing_lost, publish, publish_numbers, queue, up};

fn yaml(nsq: &Nsq, more: &str) -> String {
    format!("nsq: {{enable: true, addrs: ['{}'], {more}}}\n", nsq.server.addr())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_gets_bodies_in_order() {
    let nsq = Nsq::start(&[]).unwrap();
    let queue = queue(QueueKind::Nsq, &yaml(&nsq, "producer: {topics: [t]}"));
    publish_numbers(&queue, "t", 500).await;
    let mut found = nsq.tail("t", 500).unwrap();
    // nsqd itself keeps no order.
    found.sort_by_key(|body| body.parse::<u64>().unwrap());
    in_order(&found, 500);
    for wrong in ["a/b", "", "a b", "t\nPUB u"] {
        assert_eq!(
            publish(&queue, message(1, wrong, "x")).await.unwrap_err().kind(),
            Kind::Rejected,
            "{wrong:?}"
        );
    }
    assert_eq!(queue.stats().connected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_carries_headers() {
    let nsq = Nsq::start(&[]).unwrap();
    let queue = queue(QueueKind::Nsq, &yaml(&nsq, "producer: {topics: [t], envelope: true}"));
    publish(&queue, message(7, "t", "body")).await.unwrap();
    let found = nsq.print("t", 1).unwrap();
    let bytes = found.as_bytes();
    assert_eq!(&bytes[..5], b"FQ\x01\0\x07");
    let mut rest = &bytes[5..];
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at(length);
        rest = left;
        String::from_utf8(taken.to_vec()).unwrap()
    };
    let mut names = Vec::new();
    for _ in 0..7 {
        let length = take(2);
        let name = take(usize::from(length.as_bytes()[1]));
        let length = take(4);
        let value = take(usize::from(length.as_bytes()[3]));
        if name == "edge-id" {
            assert_eq!(value, "7");
        }
        names.push(name);
    }
    assert_eq!(names, ["edge-id", "topic", "message-id", "time", "content-type", "traceparent", "unit"]);
    assert_eq!(rest, b"body\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_fails_alone_and_then_at_once() {
    let nsq = Nsq::start(&["--max-msg-size", "100000"]).unwrap();
    let queue = queue(QueueKind::Nsq, &yaml(&nsq, "producer: {topics: [t]}"));
    up(&queue).await;
    let (long, short) = tokio::join!(
        publish(&queue, message(1, "t", vec![b'x'; 100_001])),
        publish(&queue, message(1, "t", "x"))
    );
    assert_eq!(long.unwrap_err().kind(), Kind::TooLarge);
    short.unwrap();
    let connected = queue.stats().connected;
    let long = publish(&queue, message(1, "t", vec![b'x'; 100_001])).await;
    assert_eq!(long.unwrap_err().kind(), Kind::TooLarge);
    publish(&queue, message(1, "t", vec![b'x'; 100_000])).await.unwrap();
    assert_eq!(queue.stats().connected, connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_kills() {
    let mut nsq = Nsq::start(&[]).unwrap();
    let queue = queue(QueueKind::Nsq, &yaml(&nsq, "producer: {topics: [t]}, timeout: 60s"));
    let confirmed = kills(&queue, &mut nsq.server, "t").await;
    // As many as are missing are still there, unless they are lost; copies of resends, and what was not confirmed, may come first.
    let mut found: std::collections::HashSet<String> =
        nsq.tail("t", confirmed.len()).unwrap().into_iter().collect();
    let deadline = std::time::Instant::now() + 5 * crate::harness::SOON;
    loop {
        let missing = confirmed.iter().filter(|body| !found.contains(*body)).count();
        if missing == 0 || std::time::Instant::now() > deadline {
            break;
        }
        found.extend(nsq.tail("t", missing).unwrap());
    }
    nothing_lost(&confirmed, &found.into_iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_costs_bounded_memory_and_time() {
    let nsq = Nsq::start(&[]).unwrap();
    let queue =
        queue(QueueKind::Nsq, &yaml(&nsq, "producer: {topics: [t]}, max_in_flight: 100, timeout: 1s"));
    hangs(&queue, &nsq.server, "t").await;
}
