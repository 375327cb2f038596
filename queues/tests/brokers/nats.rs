//! NATS: core and JetStream.

use bytes::Bytes;
use frontier_queues::{Kind, config::QueueKind, testing::Nats};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{
    SOON, down, hangs, in_order, is_refused, kills, message, nothing_lost, publish, publish_numbers, queue,
    up, write,
};

fn yaml(nats: &Nats, more: &str) -> String {
    format!("nats: {{enable: true, addrs: ['{}'], producer: {{subjects: [t]}}, {more}}}\n", nats.0.addr())
}

const STREAM: &str = "jetstream: {enable: true, name: s, producer: {subjects: [t]}}";

async fn client(nats: &Nats) -> async_nats::Client {
    async_nats::connect(nats.0.addr().to_string()).await.unwrap()
}

async fn api(client: &async_nats::Client, subject: &str, body: Value) -> Value {
    let answer = client.request(subject.to_owned(), Bytes::from(body.to_string())).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// The bodies of a stream, in order.
async fn bodies(nats: &Nats) -> Vec<String> {
    let client = client(nats).await;
    let mut inbox = client.subscribe("read").await.unwrap();
    let info = api(&client, "$JS.API.STREAM.INFO.s", json!({})).await;
    let count = info["state"]["messages"].as_u64().unwrap();
    let consumer = json!({"stream_name": "s", "config": {"deliver_subject": "read", "ack_policy": "none", "deliver_policy": "all"}});
    let made = api(&client, "$JS.API.CONSUMER.CREATE.s", consumer).await;
    assert!(made.get("error").is_none(), "{made}");
    let mut found = Vec::new();
    while found.len() < usize::try_from(count).unwrap() {
        let message = tokio::time::timeout(SOON, inbox.next()).await.unwrap().unwrap();
        found.push(String::from_utf8(message.payload.to_vec()).unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn core_gets_bodies_and_headers_in_order() {
    let nats = Nats::start("").unwrap();
    let client = client(&nats).await;
    let mut messages = client.subscribe("t").await.unwrap();
    client.flush().await.unwrap();
    api(&client, "$JS.API.INFO", json!({})).await;
    let queue = queue(QueueKind::Nats, &yaml(&nats, ""));
    publish_numbers(&queue, "t", 1000).await;
    let mut found = Vec::new();
    while found.len() < 1000 {
        let message = tokio::time::timeout(SOON, messages.next()).await.unwrap().unwrap();
        if found.is_empty() {
            let headers = message.headers.unwrap();
            let value = |name: &str| headers.get(name).unwrap().as_str().to_owned();
            assert_eq!(
                (value("edge-id"), value("topic"), value("unit")),
                ("0".into(), "asked/t".into(), "C".into())
            );
            assert_eq!((value("content-type"), value("message-id").len()), ("text/plain".into(), 36));
            assert!(value("time").ends_with('Z') && value("traceparent").starts_with("00-4bf9"));
        }
        found.push(String::from_utf8(message.payload.to_vec()).unwrap());
    }
    in_order(&found, 1000);
    for wrong in ["a b", "a.*", "a..b", "a\r\nPUB x"] {
        assert_eq!(
            publish(&queue, message(1, wrong, "x")).await.unwrap_err().kind(),
            Kind::Rejected,
            "{wrong:?}"
        );
    }
    let long = publish(&queue, message(1, "t", vec![b'x'; 1 << 20])).await;
    assert_eq!(long.unwrap_err().kind(), Kind::TooLarge);
    assert_eq!(queue.stats().connected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_credentials_is_understood() {
    let users = "authorization { users: [{user: gw, password: hunter2, permissions: {publish: [\"t\"]}}, \
                 {nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4}] }";
    let nats = Nats::start(users).unwrap();
    let named = queue(QueueKind::Nats, &yaml(&nats, "user: gw, password: hunter2"));
    publish(&named, message(1, "t", "x")).await.unwrap();
    // What is not allowed fails alone.
    let (denied, allowed) =
        tokio::join!(publish(&named, message(1, "u", "x")), publish(&named, message(1, "t", "x")));
    assert_eq!(denied.unwrap_err().kind(), Kind::Denied);
    allowed.unwrap();
    assert_eq!(named.stats().connected, 1);
    let reason =
        is_refused(&queue(QueueKind::Nats, &yaml(&nats, "user: gw, password: wr0ng")), "wr0ng").await;
    assert!(reason.contains("Authorization Violation"), "{reason}");
    let dir = tempfile::tempdir().unwrap();
    let seed = write(dir.path(), "seed", "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n");
    let keyed = queue(QueueKind::Nats, &yaml(&nats, &format!("nkey_seed_file: '{seed}'")));
    publish(&keyed, message(1, "t", "x")).await.unwrap();
    let nats = Nats::start("authorization { token: s3cret }").unwrap();
    let token = write(dir.path(), "token", "s3cret\n");
    let with_token = queue(QueueKind::Nats, &yaml(&nats, &format!("token_file: '{token}'")));
    publish(&with_token, message(1, "t", "x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_made_used_or_named_as_the_reason() {
    let nats = Nats::start("").unwrap();
    let first = queue(QueueKind::Nats, &yaml(&nats, STREAM));
    publish_numbers(&first, "t", 500).await;
    in_order(&bodies(&nats).await, 500);
    let missing = publish(&first, message(1, "elsewhere", "x")).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::Rejected);
    // The same message again is stored once.
    let again = message(1, "t", "again");
    publish(&first, again.clone()).await.unwrap();
    publish(&first, again).await.unwrap();
    assert_eq!(bodies(&nats).await.len(), 501);
    let second = queue(QueueKind::Nats, &yaml(&nats, STREAM));
    up(&second).await;
    let other = "jetstream: {enable: true, name: s, producer: {subjects: [t, u]}}";
    let reason = down(&queue(QueueKind::Nats, &yaml(&nats, other))).await;
    assert!(reason.contains("stream s is there and does not take \"u\""), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stream_confirmed_survives_kills() {
    let mut nats = Nats::start("").unwrap();
    let queue = queue(QueueKind::Nats, &yaml(&nats, &format!("{STREAM}, timeout: 60s")));
    let confirmed = kills(&queue, &mut nats.0, "t").await;
    nothing_lost(&confirmed, &bodies(&nats).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_costs_bounded_memory_and_time() {
    for mode in ["", STREAM] {
        let nats = Nats::start("").unwrap();
        let queue = queue(QueueKind::Nats, &yaml(&nats, &format!("max_in_flight: 100, timeout: 1s, {mode}")));
        hangs(&queue, &nats.0, "t").await;
    }
}
