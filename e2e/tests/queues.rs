//! What edges publish reaches queues of a real broker, and nobody is told so who must not be: brokers that are away, are killed, hang or are
//! full, files that change, services that compete.
//!
//! The independent client is `redis-cli`.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier::{Edge, ErrorCode, Message, Service};
use frontier_e2e::{
    gateway::{Config, Gateway},
    geminio::Client,
    http,
    program::Program,
    redis::Redis,
    wait::{SOON, until},
};
use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;

/// A gateway whose queue is streams of this Redis, for these topics.
fn streams(redis: &Redis, topics: &[&str]) -> Config {
    Config::new()
        .shards(2)
        .set("mqm.redis.enable", true)
        .set("mqm.redis.addrs", json!([redis.addr().to_string()]))
        .set("mqm.redis.stream.enable", true)
        .set("mqm.redis.producer.channels", json!(topics))
}

async fn edge(gateway: &Gateway) -> anyhow::Result<Edge> {
    Ok(Edge::builder(gateway.edges().to_string()).connect().await?)
}

/// What `redis-cli` prints.
fn cli(redis: &Redis, args: &[&str]) -> anyhow::Result<String> {
    let port = redis.addr().port().to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(args).output().context("redis-cli")?;
    ensure!(output.status.success(), "redis-cli {args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The entries of a stream: names and values of their fields.
fn entries(redis: &Redis, stream: &str) -> anyhow::Result<Vec<Vec<(String, String)>>> {
    let found: serde_json::Value =
        serde_json::from_str(&cli(redis, &["--json", "XRANGE", stream, "-", "+"])?)?;
    let entry = |entry: &serde_json::Value| {
        let fields = entry[1].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        fields.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
    };
    Ok(found.as_array().context("entries")?.iter().map(entry).collect())
}

fn field<'a>(entry: &'a [(String, String)], name: &str) -> Option<&'a str> {
    entry.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
}

fn bodies(redis: &Redis, stream: &str) -> anyhow::Result<Vec<String>> {
    let entries = entries(redis, stream)?;
    Ok(entries.iter().map(|entry| field(entry, "body").unwrap_or_default().to_owned()).collect())
}

/// Publishes until it is acknowledged.
async fn publish_until_taken(edge: &Edge, topic: &str, body: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    while let Err(error) = edge.publish(topic, body.to_owned()).await {
        ensure!(start.elapsed() < SOON, "{topic} is not taken: {error}");
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn ready(gateway: &Gateway) -> anyhow::Result<http::Answer> {
    http::get(gateway.admin()?, "/readyz")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_in_the_stream_with_its_headers_before_its_edge_hears_that_it_is_done()
-> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let config = streams(&redis, &["t", "long"])
        .set("mqm.redis.producer.patterns", json!(["sensors/+/temp"]))
        .set("mqm.redis.producer.map", "{topic}");
    let gateway = Gateway::start(&config)?;
    let edge = edge(&gateway).await?;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    edge.publish("t", "hello")
        .header("content-type", "text/plain")
        .header("traceparent", traceparent)
        .header("colour", "red")
        .await?;
    let found = entries(&redis, "t")?;
    ensure!(found.len() == 1, "{found:?}");
    for (name, expected) in [
        ("body", "hello"),
        ("edge-id", &*edge.id().to_string()),
        ("topic", "t"),
        ("content-type", "text/plain"),
        ("traceparent", traceparent),
        ("colour", "red"),
    ] {
        ensure!(field(&found[0], name) == Some(expected), "{name} of {found:?}");
    }
    // A body in many fragments is one entry, whole.
    let long: String = (0..300_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    edge.publish("long", long.clone()).await?;
    ensure!(bodies(&redis, "long")? == [long]);
    edge.publish("sensors/7/temp", "21").await?;
    ensure!(bodies(&redis, "sensors/7/temp")? == ["21"]);
    let error = edge.publish("sensors/7/temp/x", "21").await.unwrap_err();
    ensure!(error.code() == ErrorCode::TopicNotOnline, "{error}");
    for (topic, least) in [("t", 1.0), ("long", 1.0), ("*", 1.0)] {
        let labels = ["queue=\"redis\"", &format!("topic=\"{topic}\""), "outcome=\"confirmed\""];
        gateway.metric_reaches("frontier_queue_messages_total", &labels, least)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_and_go_edges() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let config = streams(&redis, &["t"]).set("mqm.redis.stream.enable", false);
    let gateway = Gateway::start(&config)?;
    let port = redis.addr().port().to_string();
    let listener = Program::start("redis-cli", ["-p", &port, "subscribe", "t"])?;
    listener.says("subscribe")?;
    publish_until_taken(&edge(&gateway).await?, "t", "from a native edge").await?;
    listener.says("from a native edge")?;
    let edges = gateway.edges();
    let answers = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let mut edge = Client::connect(edges, 0, b"", SOON)?;
        let taken = edge.publish(None, "t", b"from a Go edge", SOON)?;
        let nobodys = edge.publish(None, "u", b"", SOON)?;
        Ok((taken, nobodys))
    });
    let (taken, nobodys) = answers.await??;
    ensure!(taken == Ok(Vec::new()), "{taken:?}");
    ensure!(nobodys == Err("topic not online".to_owned()), "{nobodys:?}");
    listener.says("from a Go edge")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_serves_whether_the_broker_is_there_or_not() -> anyhow::Result<()> {
    let mut redis = Redis::start([""; 0])?;
    redis.kill();
    let gateway = Gateway::start(&streams(&redis, &["t"]))?;
    let service = Service::builder(gateway.services().to_string()).name("s").topics(["other"]);
    let service = service.method("echo", |request: frontier::Request| async move { Ok(request.into_body()) });
    let _service = service.connect().await?;
    let edge = edge(&gateway).await?;
    ensure!(edge.call("echo", "1").await?.body() == "1");
    for round in 0..2 {
        let down = until("the queue in /readyz", SOON, || {
            ready(&gateway).ok().filter(|answer| answer.body.contains("queue redis"))
        })?;
        ensure!(down.status == 200, "ready all the same: {down:?}");
        let start = Instant::now();
        let failed = loop {
            // The first ones may wait for a connection that is just being made.
            let error = edge.publish("t", "lost").await.unwrap_err();
            if error.code() == ErrorCode::TopicNotOnline || start.elapsed() > SOON {
                break error;
            }
        };
        ensure!(failed.code() == ErrorCode::TopicNotOnline, "{failed}");
        ensure!(edge.call("echo", "2").await?.body() == "2");
        redis.restart()?;
        publish_until_taken(&edge, "t", &format!("round {round}")).await?;
        until("a queue without trouble", SOON, || {
            ready(&gateway).ok().filter(|answer| !answer.body.contains("queue redis"))
        })?;
        gateway.metric_reaches("frontier_queue_up", &["queue=\"redis\""], 1.0)?;
        ensure!(bodies(&redis, "t")?.contains(&format!("round {round}")));
        redis.kill();
    }
    Ok(())
}

/// Kills: `FRONTIER_SOAK_KILLS`, or a few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_broker_is_killed_under_load() -> anyhow::Result<()> {
    let kills: usize = std::env::var("FRONTIER_SOAK_KILLS").ok().map_or(Ok(3), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    // On the disk before it is confirmed: what a killed Redis had in memory alone would not be ours to keep.
    let dir = dir.path().display().to_string();
    let mut redis = Redis::start(["--appendonly", "yes", "--appendfsync", "always", "--dir", &dir])?;
    let gateway = Gateway::start(&streams(&redis, &["a", "b"]).set("mqm.redis.timeout", "2s"))?;
    let (over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (edge, over, acknowledged) =
            (edge(&gateway).await?, Arc::clone(&over), Arc::clone(&acknowledged));
        writers.spawn(async move {
            for n in 0_u64.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (topic, body) = (if writer % 2 == 0 { "a" } else { "b" }, format!("{writer}-{n}"));
                if edge.publish(topic, body.clone()).await.is_ok() {
                    acknowledged.lock().push(body);
                }
            }
        });
    }
    let some_more = || {
        let least = acknowledged.lock().len() + 200;
        until("messages acknowledged", SOON, || (acknowledged.lock().len() >= least).then_some(()))
    };
    for _ in 0..kills {
        some_more()?;
        redis.restart()?;
    }
    some_more()?;
    over.store(true, Ordering::Relaxed);
    while writers.join_next().await.transpose()?.is_some() {}
    let kept: BTreeSet<String> = bodies(&redis, "a")?.into_iter().chain(bodies(&redis, "b")?).collect();
    let acknowledged = acknowledged.lock();
    let lost: Vec<&String> = acknowledged.iter().filter(|body| !kept.contains(*body)).collect();
    ensure!(lost.is_empty(), "{} of {} acknowledged are lost: {lost:?}", lost.len(), acknowledged.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_holds_no_more_than_it_may_and_everybody_hears_in_time() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let config = streams(&redis, &["t"]).set("mqm.redis.max_in_flight", 5).set("mqm.redis.timeout", "1s");
    let gateway = Gateway::start(&config)?;
    let edge = edge(&gateway).await?;
    publish_until_taken(&edge, "t", "first").await?;
    redis.signal(Signal::STOP)?;
    let mut publishes = JoinSet::new();
    let start = Instant::now();
    for n in 0..20 {
        let edge = edge.clone();
        publishes.spawn(async move { edge.publish("t", format!("{n}")).await });
    }
    let (mut full, mut late) = (0, 0);
    while let Some(outcome) = publishes.join_next().await {
        match outcome?.map_err(|error| error.code()) {
            Err(ErrorCode::Overloaded) => full += 1,
            // The time was up, or the connection was given up.
            Err(ErrorCode::DeadlineExceeded | ErrorCode::SessionClosed) => late += 1,
            other => anyhow::bail!("a stopped broker confirms: {other:?}"),
        }
    }
    ensure!((full, late) == (15, 5), "{full} overloaded, {late} late");
    ensure!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    redis.signal(Signal::CONT)?;
    publish_until_taken(&edge, "t", "last").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_and_a_queue_share_a_topic_and_each_edge_keeps_its_receiver() -> anyhow::Result<()> {
    const EDGES: usize = 24;
    let redis = Redis::start([""; 0])?;
    let gateway = Gateway::start(&streams(&redis, &["t"]))?;
    let service = Service::builder(gateway.services().to_string()).name("s").topics(["t"]).connect().await?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (receiver, hears) = (service.clone(), Arc::clone(&heard));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(message) = receiver.receive().await {
            hears.lock().push(text(&message));
            if message.done().await.is_err() {
                return;
            }
        }
    });
    let probe = edge(&gateway).await?;
    // Until the queue is connected all go to the service.
    gateway.metric_reaches("frontier_queue_up", &["queue=\"redis\""], 1.0)?;
    let mut edges = Vec::new();
    for _ in 0..EDGES {
        edges.push(edge(&gateway).await?);
    }
    for round in 0..3 {
        for edge in &edges {
            edge.publish("t", format!("{} {round}", edge.id())).await?;
        }
    }
    drop(probe);
    let (by_service, by_queue) = (heard.lock().clone(), bodies(&redis, "t")?);
    let all: BTreeSet<&String> = by_service.iter().chain(&by_queue).collect();
    ensure!(by_service.len() + by_queue.len() == 3 * EDGES && all.len() == 3 * EDGES, "one receiver each");
    let edges_of = |bodies: &[String]| -> BTreeSet<String> {
        bodies.iter().filter_map(|body| Some(body.split(' ').next()?.to_owned())).collect()
    };
    let (of_service, of_queue) = (edges_of(&by_service), edges_of(&by_queue));
    ensure!(of_service.is_disjoint(&of_queue), "an edge keeps its receiver");
    ensure!(!of_service.is_empty() && !of_queue.is_empty(), "{of_service:?} {of_queue:?}");
    Ok(())
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_changes_the_queues_and_a_wrong_one_nothing() -> anyhow::Result<()> {
    let (one, two) = (Redis::start([""; 0])?, Redis::start([""; 0])?);
    let gateway = Gateway::start(&streams(&one, &["t"]))?;
    let edge = edge(&gateway).await?;
    publish_until_taken(&edge, "t", "1").await?;

    gateway.reload(&streams(&one, &["t"]))?;
    gateway.log().wait(SOON, |line| line.message().contains("queues stay as they are"))?;
    publish_until_taken(&edge, "t", "2").await?;
    gateway.metric_reaches("frontier_queue_connects_total", &["queue=\"redis\""], 1.0)?;
    ensure!(gateway.metric("frontier_queue_connects_total", &["queue=\"redis\""])? == 1.0, "stays connected");

    gateway.reload(&streams(&one, &["t"]).set("mqm.redis.producer.patterns", json!(["a/#/b"])))?;
    gateway.log().wait(SOON, |line| line.message().contains("the file is wrong"))?;
    publish_until_taken(&edge, "t", "3").await?;
    ensure!(bodies(&one, "t")? == ["1", "2", "3"]);

    gateway.reload(&streams(&two, &["t", "u"]))?;
    gateway.log().wait(SOON, |line| line.message().contains("queues have changed"))?;
    publish_until_taken(&edge, "u", "4").await?;
    publish_until_taken(&edge, "t", "5").await?;
    ensure!(bodies(&one, "t")?.len() == 3 && bodies(&two, "t")? == ["5"] && bodies(&two, "u")? == ["4"]);

    gateway.reload(&Config::new().shards(2))?;
    let start = Instant::now();
    while edge.publish("t", "6").await.is_ok() {
        ensure!(start.elapsed() < SOON, "the queue is gone");
    }
    ensure!(edge.publish("t", "7").await.unwrap_err().code() == ErrorCode::TopicNotOnline);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_over_is_confirmed_before_the_gateway_goes() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let mut gateway = Gateway::start(&streams(&redis, &["t"]).set("drain.seconds", 10))?;
    let edge = edge(&gateway).await?;
    publish_until_taken(&edge, "t", "0").await?;
    redis.signal(Signal::STOP)?;
    let mut publishes = JoinSet::new();
    for n in 1..=20 {
        let edge = edge.clone();
        publishes.spawn(async move { edge.publish("t", format!("{n}")).await });
    }
    gateway.metric_reaches("frontier_queue_in_flight", &["queue=\"redis\""], 20.0)?;
    gateway.signal(Signal::TERM)?;
    gateway.log().wait(SOON, |line| line.message().contains("telling edges to connect elsewhere"))?;
    redis.signal(Signal::CONT)?;
    ensure!(gateway.wait_exit(SOON)?.success());
    ensure!(bodies(&redis, "t")?.len() == 21);
    Ok(())
}
