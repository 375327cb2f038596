//! What a real broker has for edges reaches them, and the broker hears that it is done when they say so: native edges and Go edges, edges that
//! fail or go, a broker that comes back, files that change, a gateway that goes.
//!
//! The independent client is `redis-cli`.

use std::{process::Command as Process, sync::Arc};

use anyhow::{Context, ensure};
use frontier::{Edge, Message};
use frontier_e2e::{
    gateway::{Config, Gateway},
    http,
    player::{Command, Handle, Kind, Payload, Player},
    redis::Redis,
    wait::{SOON, until},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A gateway with a source of the stream `q` of this Redis.
fn source(redis: &Redis, more: Value) -> Config {
    let mut source = json!({
        "name": "commands", "topic": "cmd", "dead_letter": "dead",
        "done_timeout": "20s", "retry_delay": "200ms", "max_deliveries": 5,
        "redis": {"addrs": [redis.addr().to_string()], "stream": "q", "group": "gateways"},
    });
    if let (Some(source), Value::Object(more)) = (source.as_object_mut(), more) {
        source.extend(more);
    }
    Config::new()
        .shards(2)
        .set("edgebound.edgeid_alloc_when_no_idservice_on", true)
        .set("mqm.sources", json!([source]))
}

/// What `redis-cli` prints.
fn cli(redis: &Redis, args: &[&str]) -> anyhow::Result<String> {
    let port = redis.addr().port().to_string();
    let output = Process::new("redis-cli").args(["-p", &port]).args(args).output().context("redis-cli")?;
    ensure!(output.status.success(), "redis-cli {args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

async fn received(edge: &Edge) -> anyhow::Result<Message> {
    let message = tokio::time::timeout(SOON, edge.receive()).await;
    message.context("no message in time")?.context("a message")
}

fn add(redis: &Redis, edge: impl std::fmt::Display, fields: &[&str]) -> anyhow::Result<()> {
    cli(redis, &[&["XADD", "q", "*", "edge-id", &edge.to_string()], fields].concat()).map(drop)
}

/// Nothing is given out that is not acknowledged.
fn all_acknowledged(redis: &Redis) -> anyhow::Result<()> {
    until("the broker sees the acknowledgements", SOON, || {
        let text = cli(redis, &["XPENDING", "q", "gateways"]).ok()?;
        (text.lines().next() == Some("0")).then_some(())
    })
}

fn outcome(gateway: &Gateway, outcome: &str, least: f64) -> anyhow::Result<()> {
    let labels = ["source=\"commands\"", &format!("outcome=\"{outcome}\"")];
    gateway.metric_reaches("frontier_source_messages_total", &labels, least)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_edge_gets_what_is_for_it_and_the_broker_hears_that_it_is_done() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let gateway = Gateway::start(&source(&redis, json!({})))?;
    let edge = Edge::builder(gateway.edges().to_string()).connect().await?;
    add(&redis, edge.id(), &["topic", "reboot", "unit", "C", "body", "now"])?;
    let message = received(&edge).await?;
    ensure!(message.topic() == "reboot" && message.body() == "now", "{message:?}");
    ensure!(message.headers().get("unit") == Some("C"), "{message:?}");
    ensure!(cli(&redis, &["XPENDING", "q", "gateways"])?.starts_with('1'), "acknowledged before it was done");
    message.done().await?;
    all_acknowledged(&redis)?;
    // Without a topic of its own, and a body in many pieces.
    let long = "x".repeat(100_000);
    add(&redis, edge.id(), &["body", &long])?;
    let message = received(&edge).await?;
    ensure!(message.topic() == "cmd" && message.body() == long.as_str());
    message.done().await?;
    all_acknowledged(&redis)?;
    outcome(&gateway, "done", 2.0)?;
    gateway.metric_reaches("frontier_source_up", &["source=\"commands\""], 1.0)?;

    // Who fails five times has had enough.
    add(&redis, edge.id(), &["unit", "C", "body", "broken"])?;
    for _ in 0..5 {
        let message = received(&edge).await?;
        ensure!(message.body() == "broken", "{message:?}");
        message.error("no").await?;
    }
    outcome(&gateway, "dead_lettered", 1.0)?;
    all_acknowledged(&redis)?;
    let dead = cli(&redis, &["XRANGE", "dead", "-", "+"])?;
    for expected in ["broken", "the edge answered with an error", "dead-letter-deliveries\n5", "unit\nC"] {
        ensure!(dead.contains(expected), "{expected:?} in {dead}");
    }
    ensure!(cli(&redis, &["XLEN", "dead"])?.trim() == "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_of_go_gets_what_is_for_it() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let gateway = Gateway::start(&source(&redis, json!({})))?;
    let edges = gateway.edges().to_string();
    let redis = Arc::new(redis);
    let broker = Arc::clone(&redis);
    let played = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        for kind in [Kind::A, Kind::B, Kind::C] {
            let player = Arc::new(Player::start(kind)?);
            let command = Command { role: "edge", address: edges.clone(), ..Command::default() };
            // Clients of A and B miss an answer that comes faster than they begin to wait for it.
            let mut connected = Handle::connect(&player, command.clone())?;
            if connected.is_err() {
                connected = Handle::connect(&player, command)?;
            }
            let edge = connected.map_err(anyhow::Error::msg)?;
            add(&broker, edge.id(), &["topic", "reboot", "body", "now"])?;
            let message = edge.receive()?.ok()?;
            ensure!(
                message.name == "reboot" && message.data == Payload::from("now").received(),
                "{kind:?}: {message:?}"
            );
            ensure!(cli(&broker, &["XPENDING", "q", "gateways"])?.starts_with('1'), "{kind:?}: too early");
            edge.settle(&message, "")?;
            all_acknowledged(&broker)?;
            // An error, and then done.
            add(&broker, edge.id(), &["topic", "again", "body", "2"])?;
            let message = edge.receive()?.ok()?;
            edge.settle(&message, "not now")?;
            let message = edge.receive()?.ok()?;
            ensure!(message.name == "again", "{kind:?}: {message:?}");
            edge.settle(&message, "")?;
            all_acknowledged(&broker)?;
        }
        Ok(())
    });
    played.await??;
    outcome(&gateway, "done", 6.0)?;
    outcome(&gateway, "returned", 3.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_an_edge_that_goes_is_given_back_and_a_broker_that_comes_back_is_used_again()
-> anyhow::Result<()> {
    let mut redis = Redis::start([""; 0])?;
    let gateway = Gateway::start(&source(&redis, json!({"max_deliveries": 1000})))?;
    let edge = Edge::builder(gateway.edges().to_string()).connect().await?;
    add(&redis, edge.id(), &["body", "early"])?;
    let message = received(&edge).await?;
    ensure!(message.body() == "early", "{message:?}");
    // It goes in the middle of it, and is not here the next times.
    edge.close().await;
    drop(message);
    outcome(&gateway, "returned", 3.0)?;
    ensure!(cli(&redis, &["XPENDING", "q", "gateways"])?.starts_with('1'), "it is the broker's still");
    let edge = Edge::builder(gateway.edges().to_string()).connect().await?;

    // The broker goes: told in /readyz, ready all the same, and used again.
    redis.kill();
    until("the source in /readyz", SOON, || {
        let answer = http::get(gateway.admin().ok()?, "/readyz").ok()?;
        (answer.status == 200 && answer.body.contains("source commands")).then_some(())
    })?;
    redis.restart()?;
    add(&redis, edge.id(), &["body", "late"])?;
    let message = received(&edge).await?;
    ensure!(message.body() == "late", "{message:?}");
    message.done().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_changes_the_sources_and_sigterm_settles_what_edges_have() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let config = source(&redis, json!({})).set("drain.seconds", 10);
    let mut gateway = Gateway::start(&config)?;
    let edge = Edge::builder(gateway.edges().to_string()).connect().await?;
    gateway.reload(&config)?;
    gateway.log().wait(SOON, |line| line.message().contains("sources stay as they are"))?;
    // A wrong one changes nothing.
    gateway.reload(&source(&redis, json!({"dead_letter": "q"})))?;
    gateway.log().wait(SOON, |line| line.message().contains("the file is wrong"))?;
    gateway.reload(&source(&redis, json!({"topic": "other"})).set("drain.seconds", 10))?;
    gateway.log().wait(SOON, |line| line.message().contains("sources have changed"))?;
    add(&redis, edge.id(), &["body", "1"])?;
    let message = received(&edge).await?;
    ensure!(message.topic() == "other", "{message:?}");
    // What an edge has at the end is done by it before it goes.
    gateway.signal(Signal::TERM)?;
    gateway.log().wait(SOON, |line| line.message().contains("telling edges to connect elsewhere"))?;
    message.done().await?;
    edge.close().await;
    ensure!(gateway.wait_exit(SOON)?.success());
    all_acknowledged(&redis)
}
