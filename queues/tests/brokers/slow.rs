//! Brokers that go on, but slower than messages come: a queue holds no more than its bound, says how each message ends in time, and stays
//! connected.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

#[cfg(feature = "kafka")]
use frontier_queues::testing::Kafka;
use frontier_queues::{
    Done, Kind,
    config::QueueKind,
    testing::{Nats, Nsq, Rabbit, Redis},
};

use crate::{
    harness::{SOON, message, publish, queue, up},
    proxy::Proxy,
};

/// Bytes in a second that get through: some fifteen of the messages below.
const RATE: usize = 64 << 10;
const BOUND: usize = 256 << 10;
const FLOW: &str = "max_in_flight_bytes: 256KiB, timeout: 2s";

/// Publishes 4 KiB a hundred times faster than they get through, for four seconds.
async fn is_slow(kind: QueueKind, yaml: String, destination: &str) {
    let queue = queue(kind, &yaml);
    up(&queue).await;
    publish(&queue, message(1, destination, "x")).await.unwrap();
    let connected = queue.stats().connected;
    let told = Arc::new(AtomicUsize::new(0));
    let latest = Arc::new(parking_lot::Mutex::new(Duration::ZERO));
    let (mut taken, mut overloaded) = (0, 0);
    let start = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while start.elapsed() < Duration::from_secs(4) {
        tick.tick().await;
        for _ in 0..10 {
            let (told, latest, since) = (Arc::clone(&told), Arc::clone(&latest), Instant::now());
            let done = Done::new(move |result| {
                if let Err(error) = result {
                    assert_eq!(error.kind(), Kind::Deadline, "{error}");
                }
                let mut latest = latest.lock();
                *latest = since.elapsed().max(*latest);
                told.fetch_add(1, Ordering::Relaxed);
            });
            match queue.try_publish(message(1, destination, vec![b'x'; 4096]), done) {
                Ok(()) => taken += 1,
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
                    overloaded += 1;
                }
            }
        }
        assert!(queue.stats().in_flight_bytes <= BOUND);
    }
    let deadline = Instant::now() + SOON;
    while told.load(Ordering::Relaxed) < taken {
        assert!(Instant::now() < deadline, "{} of {taken} were told", told.load(Ordering::Relaxed));
        tick.tick().await;
    }
    let (stats, latest) = (queue.stats(), *latest.lock());
    eprintln!(
        "{}: {taken} taken, {overloaded} refused, told after at most {latest:?}, {stats:?}",
        queue.name()
    );
    assert!(overloaded > taken, "{overloaded} {taken}");
    // Some got through; it is the same connection.
    assert!(stats.confirmed > 10, "{stats:?}");
    assert_eq!(stats.connected, connected);
    assert!(latest < Duration::from_secs(4), "{latest:?}");
}

async fn way(to: SocketAddr) -> Proxy {
    let mut proxy = Proxy::bind().await;
    proxy.lead(to, RATE);
    proxy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_nsq_and_nats_that_are_slow_cost_bounded_memory_and_time() {
    let (redis, nsq, nats) = (Redis::start(&[]).unwrap(), Nsq::start(&[]).unwrap(), Nats::start("").unwrap());
    let (to_redis, to_nsq, to_nats) =
        (way(redis.0.addr()).await, way(nsq.server.addr()).await, way(nats.0.addr()).await);
    let yaml = |block: &str, addr: SocketAddr, more: &str| {
        format!("{block}: {{enable: true, addrs: ['{addr}'], {FLOW}, {more}}}\n")
    };
    let stream = "jetstream: {enable: true, name: s, producer: {subjects: [t]}}";
    tokio::join!(
        is_slow(QueueKind::Redis, yaml("redis", to_redis.addr(), "producer: {channels: [t]}"), "t"),
        is_slow(QueueKind::Nsq, yaml("nsq", to_nsq.addr(), "producer: {topics: [t]}"), "t"),
        is_slow(QueueKind::Nats, yaml("nats", to_nats.addr(), "producer: {subjects: [u]}"), "u"),
        is_slow(QueueKind::Nats, yaml("nats", to_nats.addr(), stream), "t"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_that_is_slow_costs_bounded_memory_and_time() {
    let rabbit = Rabbit::start("").unwrap();
    let proxy = way(rabbit.0.addr()).await;
    let yaml = format!(
        "amqp: {{enable: true, addrs: ['{}'], {FLOW}, queues: [{{name: q}}], producer: {{routing_keys: [q]}}}}\n",
        proxy.addr()
    );
    is_slow(QueueKind::Amqp, yaml, "q").await;
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_that_is_slow_costs_bounded_memory_and_time() {
    let mut proxy = Proxy::bind().await;
    // Clients go where brokers say that they are.
    let kafka = Kafka::start(&format!("advertised.listeners=PLAINTEXT://{}\n", proxy.addr())).unwrap();
    proxy.lead(kafka.0.addr(), RATE);
    kafka.create("t", 1).unwrap();
    let yaml =
        format!("kafka: {{enable: true, addrs: ['{}'], {FLOW}, producer: {{topics: [t]}}}}\n", proxy.addr());
    is_slow(QueueKind::Kafka, yaml, "t").await;
}
