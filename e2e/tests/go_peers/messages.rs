//! Messages, both ways.

use anyhow::ensure;
use frontier_e2e::{
    player::{Command, Handle, Payload},
    wait::SOON,
};

use crate::{
    same,
    stage::{Scenario, Stage, all, told},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("a message is over when its receiver says so", all, settled),
    Scenario::new("a failed message mutes nobody", all, absent),
    Scenario::new("the topic * takes what nobody else does", all, catch_all),
    Scenario::new("messages keep their order", all, order),
    Scenario::new("messages that are not received hold up nothing else", all, unreceived),
];

/// Publishes, receives and settles.
fn passes(from: &Handle, to: &Handle, edge: u64, topic: &str, data: &Payload) -> anyhow::Result<()> {
    let publish = from.publish(edge, topic, data.clone())?;
    let message = to.receive()?.ok()?;
    same!((message.name.as_str(), &message.data), (topic, &data.received()));
    ensure!(publish.is_open(), "acknowledged before it was");
    to.settle(&message, "")?;
    publish.ok()?;
    Ok(())
}

fn settled(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &["t", "other"])?;
    let edge = stage.edge()?;
    for (from, to, target) in [(&edge, &service, 0), (&service, &edge, edge.id())] {
        for data in [Payload::from("21.5 °C"), Payload::from(""), Payload::pattern(5, 300_000)] {
            passes(from, to, target, "t", &data)?;
        }
        let publish = from.publish(target, "t", "21,5")?;
        let message = to.receive()?.ok()?;
        // Edges are not told which instance it was.
        ensure!(target != 0 || message.client == edge.id(), "from {} says {message:?}", edge.id());
        to.settle(&message, "not a <number>")?;
        same!(publish.failed()?, "not a <number>");
        let command = Command {
            name: "t".to_owned(),
            edge: target,
            how: "async",
            data: "a".into(),
            ..Command::default()
        };
        let publish = from.begin("publish", command)?;
        to.settle(&to.receive()?.ok()?, "")?;
        publish.ok()?;
    }
    Ok(())
}

fn absent(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &["t"])?;
    let edge = stage.edge()?;
    let error = edge.publish(0, "nobody's", "a")?.failed()?;
    told(&edge, &error, "topic not online", "topic_not_online")?;
    let error = edge.publish(0, "T", "a")?.failed()?;
    told(&edge, &error, "topic not online", "topic_not_online")?;
    passes(&edge, &service, 0, "t", &"b".into())?;
    // The Go gateway forwards nothing of this service from here on.
    let error = service.publish(12_345, "t", "a")?.failed()?;
    told(&service, &error, "edge not online", "edge_not_online")?;
    passes(&service, &edge, edge.id(), "t", &"b".into())?;
    let publish = service.publish(edge.id(), "t", "a")?;
    edge.settle(&edge.receive()?.ok()?, "no")?;
    same!(publish.failed()?, "no");
    passes(&service, &edge, edge.id(), "t", &"c".into())
}

fn catch_all(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &["t"])?;
    let rest = stage.service("rest", &["*"])?;
    let edge = stage.edge()?;
    passes(&edge, &service, 0, "t", &"a".into())?;
    passes(&edge, &rest, 0, "anything", &"b".into())?;
    passes(&edge, &service, 0, "t", &"c".into())
}

fn order(stage: &Stage) -> anyhow::Result<()> {
    const MESSAGES: u64 = 400;
    let service = stage.service("s", &["t"])?;
    let edge = stage.edge()?;
    for (from, to, target) in [(&edge, &service, 0), (&service, &edge, edge.id())] {
        let count = MESSAGES.cast_signed();
        let publish = Command {
            name: "t".to_owned(),
            edge: target,
            count,
            window: 60,
            data: Payload::pattern(0, 200),
            ..Command::default()
        };
        let received = to.begin("receive_many", Command { count, ..Command::default() })?;
        let published = from.begin("publish_many", publish)?;
        received.within(3 * SOON)?.ok()?;
        from.all_well(published, MESSAGES, SOON)?;
    }
    Ok(())
}

fn unreceived(stage: &Stage) -> anyhow::Result<()> {
    const MESSAGES: u64 = 150;
    let service = stage.service("s", &["t"])?;
    let edge = stage.edge()?;
    for handle in [&service, &edge] {
        handle.offers("echo", "echo")?;
    }
    for (from, to, target) in [(&edge, &service, 0), (&service, &edge, edge.id())] {
        let count = MESSAGES.cast_signed();
        let publish = Command {
            name: "t".to_owned(),
            edge: target,
            count,
            window: 150,
            data: Payload::pattern(0, 20),
            ..Command::default()
        };
        let published = from.begin("publish_many", publish)?;
        // More than Go's queue holds are under way; calls pass them by, both ways and of other edges.
        let other = stage.edge()?;
        for _ in 0..5 {
            edge.call(0, "echo", "up")?.ok()?;
            service.call(edge.id(), "echo", "down")?.ok()?;
            other.call(0, "echo", "aside")?.ok()?;
        }
        ensure!(published.is_open(), "acknowledged by nobody");
        other.close()?.ok()?;
        to.begin("receive_many", Command { count, ..Command::default() })?.within(3 * SOON)?.ok()?;
        from.all_well(published, MESSAGES, SOON)?;
    }
    Ok(())
}
