//! AMQP 0-9-1: RabbitMQ.

use frontier_queues::{Kind, config::QueueKind, testing::Rabbit};

use crate::harness::{
    SOON, down, hangs, in_order, is_refused, kills, message, nothing_lost, publish, publish_each,
    publish_numbers, queue, up, write,
};

const DECLARED: &str = "exchanges: [{name: e, kind: topic, durable: true}], queues: [{name: q, durable: true}], \
                        queuebindings: [{queue_name: q, exchange_name: e, binding_key: 't.#'}]";

fn yaml(rabbit: &Rabbit, producer: &str, more: &str) -> String {
    format!(
        "amqp: {{enable: true, addrs: ['{}'], {DECLARED}, producer: {{routing_keys: [t], exchange: e, delivery_mode: 2, {producer}}}, {more}}}\n",
        rabbit.0.addr()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_gets_properties_and_bodies_and_its_errors_come_back() {
    let rabbit = Rabbit::start("max_message_size = 200000\n").unwrap();
    let producer = "mandatory: true, app_id: frontier, type: reading, priority: 3, reply_to: r, content_encoding: identity";
    let queue = queue(QueueKind::Amqp, &yaml(&rabbit, producer, "frame_size: 4096, heartbeat: 2"));
    publish_numbers(&queue, "t.1", 500).await;
    let code = "m, p, body = channel.basic_get('q', auto_ack=False)\n\
                h = {k: (v.decode() if isinstance(v, bytes) else v) for k, v in p.headers.items()}\n\
                print(json.dumps([h, p.content_type, p.content_encoding, p.delivery_mode, p.priority, p.reply_to, \
                p.message_id, p.timestamp, p.type, p.app_id, m.routing_key, m.exchange]))\n";
    let found: serde_json::Value = serde_json::from_str(&rabbit.python(code).unwrap()).unwrap();
    let header = |name: &str| found[0][name].as_str().unwrap().to_owned();
    assert_eq!(
        (header("edge-id"), header("topic"), header("unit")),
        ("0".into(), "asked/t.1".into(), "C".into())
    );
    assert_eq!(header("message-id"), found[6].as_str().unwrap());
    assert!(header("time").ends_with('Z') && header("traceparent").starts_with("00-4bf9"));
    let texts: Vec<&str> =
        [1, 2, 5, 8, 9, 10, 11].iter().map(|index| found[*index].as_str().unwrap()).collect();
    assert_eq!(texts, ["text/plain", "identity", "r", "reading", "frontier", "t.1", "e"]);
    assert_eq!((found[3].as_u64(), found[4].as_u64()), (Some(2), Some(3)));
    assert!(found[7].as_u64().unwrap() > 1_600_000_000);
    in_order(&rabbit.drain("q").unwrap(), 500);
    // Many frames, and what nobody takes comes back as an error.
    let (whole, returned) = tokio::join!(
        publish(&queue, message(1, "t.1", vec![b'y'; 50_000])),
        publish(&queue, message(1, "none", vec![b'z'; 9000]))
    );
    whole.unwrap();
    let returned = returned.unwrap_err();
    assert_eq!(returned.kind(), Kind::Rejected);
    assert!(returned.text().contains("312 NO_ROUTE"), "{returned}");
    assert_eq!(rabbit.drain("q").unwrap(), ["y".repeat(50_000)]);
    assert_eq!(queue.stats().connected, 1);
    // The broker hangs up on what is too long; the other messages are not to blame.
    let (long, short) = tokio::join!(
        publish(&queue, message(1, "t.1", vec![b'x'; 200_001])),
        publish(&queue, message(1, "t.1", "short"))
    );
    assert_eq!(long.unwrap_err().kind(), Kind::TooLarge);
    short.unwrap();
    let connected = queue.stats().connected;
    let long = publish(&queue, message(1, "t.1", vec![b'x'; 200_001])).await;
    assert_eq!((long.unwrap_err().kind(), queue.stats().connected), (Kind::TooLarge, connected));

    // On the same broker, as it takes seconds to start: what is wrong is told.
    let wrong = yaml(&rabbit, "", "user: guest, password: wr0ng");
    let reason = is_refused(&self::queue(QueueKind::Amqp, &wrong), "wr0ng").await;
    assert!(reason.contains("403 ACCESS_REFUSED"), "{reason}");
    let other = yaml(&rabbit, "", "").replace("kind: topic", "kind: fanout");
    let reason = down(&self::queue(QueueKind::Amqp, &other)).await;
    assert!(reason.contains("406 PRECONDITION_FAILED"), "{reason}");
    let missing = yaml(&rabbit, "", "").replace("exchange: e", "exchange: missing");
    let reason = down(&self::queue(QueueKind::Amqp, &missing)).await;
    assert!(reason.contains("404 NOT_FOUND"), "{reason}");
    let host = yaml(&rabbit, "", "vhost: nowhere");
    let reason = down(&self::queue(QueueKind::Amqp, &host)).await;
    assert!(reason.contains("530 NOT_ALLOWED"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_told_and_the_others_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    // `guest` with its password, salted; it may write what begins with `t.` only.
    let definitions = r#"{"vhosts": [{"name": "/"}], "users": [{"name": "guest", "tags": "administrator",
        "password_hash": "AQIDBEMMOXwY6PKx/JKP9PAqfsb4ozuD0Ta3pxxa9gEYBMmD", "hashing_algorithm": "rabbit_password_hashing_sha256"}],
        "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
        "topic_permissions": [{"user": "guest", "vhost": "/", "exchange": "e", "write": "^t\\.", "read": ".*"}]}"#;
    let file = write(dir.path(), "definitions.json", definitions);
    let rabbit = Rabbit::start(&format!("load_definitions = {file}\n")).unwrap();
    let queue = queue(QueueKind::Amqp, &yaml(&rabbit, "", ""));
    up(&queue).await;
    // One that is denied among many; the channel goes with it.
    let (first, denied, second) = tokio::join!(
        publish_each(&queue, "t.1", 50),
        publish(&queue, message(1, "u.1", "x")),
        publish_each(&queue, "t.2", 50)
    );
    assert_eq!(denied.unwrap_err().kind(), Kind::Denied);
    assert!(first.iter().chain(&second).all(Result::is_ok), "{first:?} {second:?}");
    assert!(queue.stats().connected > 1);
    // What the configuration gives to all of them makes all of them fail, soon and with the reason.
    let wrong = self::queue(QueueKind::Amqp, &yaml(&rabbit, "expiration: soon", "timeout: 60s"));
    up(&wrong).await;
    let refused = publish_each(&wrong, "t.1", 300).await;
    for result in refused {
        let error = result.unwrap_err();
        assert!(
            error.kind() == Kind::Rejected && error.text().contains("406 PRECONDITION_FAILED"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_was_raised_is_noticed() {
    let mut rabbit = Rabbit::start("max_message_size = 200000\n").unwrap();
    let queue = queue(QueueKind::Amqp, &yaml(&rabbit, "", ""));
    let long = || publish(&queue, message(1, "t.1", vec![b'x'; 200_001]));
    assert_eq!(long().await.unwrap_err().kind(), Kind::TooLarge);
    assert_eq!(long().await.unwrap_err().kind(), Kind::TooLarge);
    rabbit.set("max_message_size = 300000\n");
    rabbit.0.restart().unwrap();
    let deadline = std::time::Instant::now() + SOON;
    while let Err(error) = long().await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_kills() {
    let mut rabbit = Rabbit::start("").unwrap();
    let queue = queue(QueueKind::Amqp, &yaml(&rabbit, "", "timeout: 60s"));
    let confirmed = kills(&queue, &mut rabbit.0, "t.1").await;
    nothing_lost(&confirmed, &rabbit.drain("q").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_costs_bounded_memory_and_time() {
    let rabbit = Rabbit::start("").unwrap();
    let queue = queue(QueueKind::Amqp, &yaml(&rabbit, "", "max_in_flight: 100, timeout: 1s"));
    hangs(&queue, &rabbit.0, "t.1").await;
}
