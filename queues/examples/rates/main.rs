//! Confirmed publishes in a second through this crate, beside a client library that publishes directly, with the same window, payload and
//! headers, against brokers that it starts itself. Prints a table: `make bench-queues`; with the name of a block for that one alone, `--quick` for a
//! smoke run.

#![expect(clippy::print_stdout, reason = "a program whose results are its output")]

mod direct;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use frontier_ops::config::{Problems, UnknownKeys, read::Reader, yaml};
use frontier_queues::{
    Done, Message, MessageId, PublishError, Queue, State,
    config::{Mqm, QueueKind},
    open,
    testing::{Kafka, Nats, Nsq, Rabbit, Redis},
};
use tokio::{sync::mpsc, time::timeout};

/// Messages under way at a time, on both sides.
const WINDOW: usize = 1000;

/// Longest wait for a broker.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long each run is, how many there are of each side, and with which payloads.
struct Plan {
    time: Duration,
    runs: usize,
    sizes: &'static [usize],
}

/// What is published to, until a time has passed.
struct Load {
    size: usize,
    time: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let wanted = |name: &str| std::env::args().nth(1).is_none_or(|arg| arg.starts_with('-') || arg == name);
    let plan = if quick {
        Plan { time: Duration::from_millis(200), runs: 1, sizes: &[64] }
    } else {
        Plan { time: Duration::from_secs(3), runs: 3, sizes: &[64, 1024] }
    };
    println!("| | beside | payload | directly/s | frontier/s | ratio |\n|---|---|---|---|---|---|");
    if wanted("redis") {
        redis(&plan).await?;
    }
    if wanted("nats") {
        nats(&plan).await?;
    }
    if wanted("nsq") {
        nsq(&plan).await?;
    }
    if wanted("amqp") {
        amqp(&plan).await?;
    }
    if wanted("kafka") {
        kafka(&plan).await?;
    }
    Ok(())
}

async fn redis(plan: &Plan) -> Result<()> {
    let redis = Redis::start(&[])?;
    let addr = redis.0.addr();
    for (name, stream) in [("Redis channels", false), ("Redis streams", true)] {
        let queue = opened(
            QueueKind::Redis,
            &format!(
                "redis: {{enable: true, addrs: ['{addr}'], stream: {{enable: {stream}, max_len: 10000}}, producer: {{channels: [t]}}}}\n"
            ),
        )?;
        let client = direct::redis(addr).await?;
        row(plan, name, "fred", &queue, "t", async |load| direct::run_redis(&client, stream, &load).await)
            .await?;
    }
    Ok(())
}

async fn nats(plan: &Plan) -> Result<()> {
    let nats = Nats::start("")?;
    let addr = nats.0.addr();
    let core = opened(
        QueueKind::Nats,
        &format!("nats: {{enable: true, addrs: ['{addr}'], producer: {{subjects: [u]}}}}\n"),
    )?;
    let client = async_nats::connect(addr.to_string()).await?;
    row(plan, "NATS", "async-nats", &core, "u", async |load| direct::run_nats(&client, &load).await).await?;
    let stream = opened(
        QueueKind::Nats,
        &format!(
            "nats: {{enable: true, addrs: ['{addr}'], jetstream: {{enable: true, name: s, producer: {{subjects: [t]}}}}}}\n"
        ),
    )?;
    row(plan, "JetStream", "async-nats", &stream, "t", async |load| {
        direct::run_jetstream(&client, &load).await
    })
    .await
}

async fn nsq(plan: &Plan) -> Result<()> {
    // An ephemeral topic forgets what nobody reads, so the disk is not what is measured.
    let nsq = Nsq::start(&["--mem-queue-size", "1000"])?;
    let addr = nsq.server.addr();
    let queue = opened(
        QueueKind::Nsq,
        &format!("nsq: {{enable: true, addrs: ['{addr}'], producer: {{topics: [t]}}}}\n"),
    )?;
    row(plan, "NSQ", "go-nsq", &queue, "t#ephemeral", async |load| nsq.go_rate(load.size, WINDOW, load.time))
        .await
}

async fn amqp(plan: &Plan) -> Result<()> {
    let rabbit = Rabbit::start("")?;
    let addr = rabbit.0.addr();
    let queue = opened(
        QueueKind::Amqp,
        &format!(
            "amqp: {{enable: true, addrs: ['{addr}'], queues: [{{name: q, durable: true}}], producer: {{routing_keys: [q]}}}}\n"
        ),
    )?;
    up(&queue).await?;
    let channel = direct::amqp(addr).await?;
    row(plan, "AMQP", "amqprs", &queue, "q", async |load| {
        let rate = channel.run(&load).await;
        // What gathers slows the broker down.
        rabbit.python("channel.queue_purge('q')\n")?;
        rate
    })
    .await
}

async fn kafka(plan: &Plan) -> Result<()> {
    let kafka = Kafka::start("")?;
    kafka.create("t", 1)?;
    let addr = kafka.0.addr();
    let queue = opened(
        QueueKind::Kafka,
        &format!("kafka: {{enable: true, addrs: ['{addr}'], producer: {{topics: [t]}}}}\n"),
    )?;
    let producer = direct::kafka(addr)?;
    row(plan, "Kafka", "rdkafka", &queue, "t", async |load| direct::run_kafka(&producer, &load).await).await
}

/// Measures both sides in turn, and prints the medians.
async fn row(
    plan: &Plan,
    name: &str,
    beside: &str,
    queue: &Queue,
    destination: &str,
    direct: impl AsyncFn(Load) -> Result<f64>,
) -> Result<()> {
    up(queue).await?;
    for &size in plan.sizes {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..plan.runs {
            let load = || Load { size, time: plan.time };
            theirs.push(timeout(PATIENCE, direct(load())).await??);
            ours.push(timeout(PATIENCE, through(queue, destination, load())).await??);
        }
        let (theirs, ours) = (median(theirs), median(ours));
        println!("| {name} | {beside} | {size} B | {theirs:.0} | {ours:.0} | {:.2} |", ours / theirs);
    }
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// What a queue confirms in a second.
async fn through(queue: &Queue, destination: &str, load: Load) -> Result<f64> {
    let (topic, destination, body): (Arc<str>, Arc<str>, _) =
        (Arc::from("rates"), Arc::from(destination), Bytes::from(vec![b'x'; load.size]));
    let (tell, mut told) = mpsc::channel::<Result<(), PublishError>>(WINDOW);
    let publish = |number: usize| {
        let tell = tell.clone();
        let message = Message {
            id: MessageId::random(),
            edge: number as u64 % 100,
            topic: Arc::clone(&topic),
            destination: Arc::clone(&destination),
            body: body.clone(),
            time: SystemTime::now(),
            content_type: None,
            traceparent: None,
            headers: Vec::new(),
            passed: None,
            deadline: Instant::now() + PATIENCE,
        };
        queue.try_publish(message, Done::new(move |result| drop(tell.try_send(result))))
    };
    let start = Instant::now();
    let (mut given, mut confirmed, mut batch) = (0, 0, Vec::new());
    while start.elapsed() < load.time || confirmed < given {
        while given < confirmed + WINDOW && start.elapsed() < load.time {
            publish(given)?;
            given += 1;
        }
        told.recv_many(&mut batch, WINDOW).await;
        for result in batch.drain(..) {
            result?;
            confirmed += 1;
        }
    }
    Ok(confirmed as f64 / start.elapsed().as_secs_f64())
}

fn opened(kind: QueueKind, text: &str) -> Result<Queue> {
    let reader = Reader::new(Problems::default(), UnknownKeys::Error, || &[]);
    let node = yaml::parse(text).map_err(|error| anyhow!("{error:?}"))?;
    let mqm = reader.document(node, Mqm::read);
    let (mut problems, _) = reader.into_parts();
    mqm.validate(&mut problems);
    ensure!(problems.list().is_empty(), "{problems:?}");
    Ok(open(&mqm, kind)?)
}

async fn up(queue: &Queue) -> Result<()> {
    let mut state = queue.watch();
    let waited = timeout(PATIENCE, state.wait_for(State::is_up)).await;
    waited.with_context(|| format!("{} is {}", queue.name(), queue.state()))??;
    Ok(())
}
