//! Redis: channels and streams.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use frontier_queues::{Kind, config::QueueKind, testing::Redis};

use crate::harness::{
    down, hangs, in_order, is_refused, kills, message, nothing_lost, publish, publish_numbers, queue, up,
};

fn yaml(redis: &Redis, more: &str) -> String {
    format!("redis: {{enable: true, addrs: ['{}'], producer: {{channels: [t]}}, {more}}}\n", redis.0.addr())
}

/// The bodies of a stream's entries, in order.
fn bodies(redis: &Redis, stream: &str) -> Vec<String> {
    let text = redis.cli(&["--json", "XRANGE", stream, "-", "+"]).unwrap();
    let entries: Vec<(String, Vec<String>)> = serde_json::from_str(&text).unwrap();
    let body =
        |fields: &Vec<String>| fields[fields.iter().position(|field| field == "body").unwrap() + 1].clone();
    entries.iter().map(|(_, fields)| body(fields)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_gets_bodies_untouched() {
    let redis = Redis::start(&[]).unwrap();
    let queue = queue(QueueKind::Redis, &yaml(&redis, ""));
    let port = redis.0.addr().port().to_string();
    let mut subscriber = Command::new("redis-cli");
    subscriber.args(["-p", &port, "SUBSCRIBE", "t"]).stdout(Stdio::piped());
    let mut subscriber = subscriber.spawn().unwrap();
    let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    while next() != "1" {}
    publish_numbers(&queue, "t", 500).await;
    let mut found = Vec::new();
    while found.len() < 500 {
        assert_eq!((next().as_str(), next().as_str()), ("message", "t"));
        found.push(next());
    }
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
    in_order(&found, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_gets_fields_and_keeps_its_length() {
    let redis = Redis::start(&[]).unwrap();
    let queue = queue(QueueKind::Redis, &yaml(&redis, "db: 2, stream: {enable: true, max_len: 1000}"));
    publish_numbers(&queue, "t", 1000).await;
    let text = redis.cli(&["-n", "2", "--json", "XRANGE", "t", "-", "+", "COUNT", "1"]).unwrap();
    let entries: Vec<(String, Vec<String>)> = serde_json::from_str(&text).unwrap();
    let fields = &entries[0].1;
    let value =
        |name: &str| &fields[fields.iter().step_by(2).position(|field| field == name).unwrap() * 2 + 1];
    assert_eq!(
        (value("edge-id").as_str(), value("topic").as_str(), value("unit").as_str()),
        ("0", "asked/t", "C")
    );
    assert_eq!(
        (value("content-type").as_str(), value("message-id").len(), value("body").as_str()),
        ("text/plain", 36, "0")
    );
    assert!(value("time").ends_with('Z') && value("traceparent").starts_with("00-4bf9"));
    publish_numbers(&queue, "t", 2000).await;
    let length: u64 = redis.cli(&["-n", "2", "XLEN", "t"]).unwrap().trim().parse().unwrap();
    assert!((1000..1300).contains(&length), "{length}");
    // A key of another kind takes no entries; the others go on.
    redis.cli(&["-n", "2", "SET", "text", "x"]).unwrap();
    let refused = publish(&queue, message(1, "text", "x")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Rejected);
    assert!(refused.text().starts_with("WRONGTYPE"), "{refused}");
    publish(&queue, message(1, "t", "x")).await.unwrap();
    assert_eq!(queue.stats().connected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_needed_and_not_shown() {
    let redis = Redis::start(&["--requirepass", "hunter2"]).unwrap();
    let good = queue(QueueKind::Redis, &yaml(&redis, "password: hunter2"));
    up(&good).await;
    publish(&good, message(1, "t", "x")).await.unwrap();
    let reason = is_refused(&queue(QueueKind::Redis, &yaml(&redis, "password: wr0ng")), "wr0ng").await;
    assert!(reason.contains("WRONGPASS"), "{reason}");
    let reason = down(&queue(QueueKind::Redis, &yaml(&redis, ""))).await;
    assert!(reason.contains("NOAUTH"), "{reason}");
    // Name, password and database may stand in the address.
    redis.cli(&["-a", "hunter2", "ACL", "SETUSER", "gw", "on", ">s3cret", "+@all", "~*", "&*"]).unwrap();
    for (login, db) in [("gw:s3cret@", 3), (":hunter2@", 4)] {
        let addr = format!("redis://{login}{}/{db}", redis.0.addr());
        let text = format!(
            "redis: {{enable: true, addrs: ['{addr}'], db: 2, stream: {{enable: true}}, producer: {{channels: [t]}}}}\n"
        );
        publish(&queue(QueueKind::Redis, &text), message(1, "t", "x")).await.unwrap();
        assert_eq!(redis.cli(&["-a", "hunter2", "-n", &db.to_string(), "XLEN", "t"]).unwrap().trim(), "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_fails_alone() {
    let redis = Redis::start(&["--proto-max-bulk-len", "1mb"]).unwrap();
    let queue = queue(QueueKind::Redis, &yaml(&redis, "stream: {enable: true}"));
    up(&queue).await;
    let long = publish(&queue, message(1, "t", vec![b'x'; 2 << 20]));
    let short = publish(&queue, message(1, "t", "x"));
    let (long, short) = tokio::join!(long, short);
    assert_eq!(long.unwrap_err().kind(), Kind::TooLarge);
    short.unwrap();
    assert_eq!(bodies(&redis, "t"), ["x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stream_confirmed_survives_kills() {
    // As Redis is installed, it answers up to two seconds before it writes, when the disk is busy.
    let mut redis = Redis::start(&["--appendfsync", "always"]).unwrap();
    let queue = queue(QueueKind::Redis, &yaml(&redis, "stream: {enable: true}, timeout: 60s"));
    let confirmed = kills(&queue, &mut redis.0, "t").await;
    nothing_lost(&confirmed, &bodies(&redis, "t"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_costs_bounded_memory_and_time() {
    let redis = Redis::start(&[]).unwrap();
    let queue = queue(QueueKind::Redis, &yaml(&redis, "max_in_flight: 100, timeout: 1s"));
    hangs(&queue, &redis.0, "t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_address_is_taken_where_one_is_dead() {
    let redis = Redis::start(&[]).unwrap();
    let text = format!(
        "redis: {{enable: true, addrs: ['127.0.0.1:1', '{}'], producer: {{channels: [t]}}}}\n",
        redis.0.addr()
    );
    let queue = queue(QueueKind::Redis, &text);
    publish(&queue, message(1, "t", "x")).await.unwrap();
    let closing = queue.clone();
    closing.close(tokio::time::Instant::now() + Duration::from_secs(1)).await;
    let refused = publish(&queue, message(1, "t", "x")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Closed);
}
