//! Kafka 4, in KRaft mode.

use std::time::{Duration, Instant};

use frontier_queues::{Done, Kind, config::QueueKind, testing::Kafka};

use crate::harness::{hangs, in_order, kills, message, nothing_lost, publish, publish_numbers, queue};

fn yaml(kafka: &Kafka, producer: &str, more: &str) -> String {
    format!(
        "kafka: {{enable: true, addrs: ['{}'], producer: {{topics: [t], {producer}}}, {more}}}\n",
        kafka.0.addr()
    )
}

/// The bodies of `count` records.
fn bodies(kafka: &Kafka, topic: &str, count: usize) -> Vec<String> {
    let lines = kafka.read(topic, count).unwrap();
    lines.iter().filter_map(|line| line.rsplit('\t').next()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_gets_keys_headers_and_bodies_in_order() {
    let kafka = Kafka::start("message.max.bytes=200000\n").unwrap();
    kafka.create("t", 3).unwrap();
    let queue = queue(
        QueueKind::Kafka,
        &yaml(&kafka, "max_message_bytes: 500000, compression: lz4, async: true", ""),
    );
    publish_numbers(&queue, "t", 500).await;
    let lines = kafka.read("t", 500).unwrap();
    let first = lines.iter().find(|line| line.ends_with("\t0")).unwrap();
    let fields: Vec<&str> = first.split('\t').collect();
    assert!(fields[0].starts_with("edge-id:0,topic:asked/t,message-id:"), "{first}");
    assert!(
        fields[0].contains(",content-type:text/plain,traceparent:00-4bf9") && fields[0].ends_with(",unit:C")
    );
    assert_eq!(fields[1], "0");
    in_order(&lines.iter().map(|line| line.rsplit('\t').next().unwrap().to_owned()).collect::<Vec<_>>(), 500);
    let missing = publish(&queue, message(1, "missing", "x")).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::Rejected, "{missing}");
    // The broker's word, and the client's own. A broker refuses whole batches, so this goes alone.
    let long = publish(&queue, message(1, "t", random(300_000))).await;
    assert_eq!(long.unwrap_err().kind(), Kind::TooLarge);
    publish(&queue, message(1, "t", "short")).await.unwrap();
    let longer = publish(&queue, message(1, "t", random(600_000))).await;
    assert_eq!(longer.unwrap_err().kind(), Kind::TooLarge);
}

/// Bytes that do not compress.
fn random(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_kills() {
    let mut kafka = Kafka::start("").unwrap();
    kafka.create("t", 1).unwrap();
    let queue = queue(QueueKind::Kafka, &yaml(&kafka, "", "timeout: 60s"));
    let confirmed = kills(&queue, &mut kafka.0, "t").await;
    // The reader ends when nothing comes for a while, which on a loaded machine may be before anything came.
    let mut found = Vec::new();
    for _ in 0..3 {
        if found.len() < confirmed.len() {
            found = bodies(&kafka, "t", 1_000_000);
        }
    }
    nothing_lost(&confirmed, &found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_costs_bounded_memory_and_time() {
    let kafka = Kafka::start("").unwrap();
    kafka.create("t", 1).unwrap();
    let queue = queue(QueueKind::Kafka, &yaml(&kafka, "", "max_in_flight: 100, timeout: 1s"));
    hangs(&queue, &kafka.0, "t").await;
}

/// The library's own end waits for its threads; nobody else does.
#[tokio::test]
async fn a_queue_that_goes_holds_nobody_up() {
    let kafka = Kafka::start("").unwrap();
    kafka.create("t", 1).unwrap();
    let queue = queue(QueueKind::Kafka, &yaml(&kafka, "", ""));
    publish(&queue, message(1, "t", "x")).await.unwrap();
    kafka.0.pause().unwrap();
    for _ in 0..100 {
        queue.try_publish(message(1, "t", "x"), Done::new(|_| {})).unwrap();
    }
    // The only thread is this one, so the client has them now.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    queue.close(tokio::time::Instant::now()).await;
    let took = start.elapsed();
    assert!(took < Duration::from_millis(250), "{took:?}");
    kafka.0.resume().unwrap();
}
