//! Several instances, pools of connections, several shards, and a service that is restarted under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Gateway},
    http,
    peer::{Answer, Dial, Incoming, Peer, Worker},
    wait::{SOON, until},
};
use frontier_wire::{error::ErrorCode, native::frame::FrameType};

/// Answers every call with a word of its own.
fn answering(peer: Peer, word: &'static str) -> Worker {
    Worker::spawn(peer, move |peer, incoming| match incoming {
        Incoming::Operation { kind: FrameType::Request, id, .. } => peer.respond(id, word.as_bytes()),
        Incoming::Operation { kind: FrameType::Publish, id, .. } => peer.ack(id),
        _ => Ok(()),
    })
}

/// The word that a call of `m` is answered with.
fn who(edge: &mut Peer) -> anyhow::Result<String> {
    let answer = edge.call("m", b"", SOON)?;
    Ok(String::from_utf8(answer.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?)?)
}

fn edges(gateway: &Gateway, count: usize) -> anyhow::Result<Vec<Peer>> {
    (0..count).map(|_| Dial::edge(gateway.edges())?.connect()).collect()
}

#[test]
fn edges_and_services_of_all_shards_reach_each_other() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().args(["--shards", "2"]))?;
    let listening = gateway.log().find(|line| line.message() == "gateway listening");
    assert_eq!(listening.first().and_then(|line| line.field("shards")), Some(&2.into()));
    let dial = Dial::service(gateway.services(), "s")?.methods(&["m"]).topics(&["t"]);
    let service = answering(dial.connect()?, "here");
    for edge in &mut edges(&gateway, 8)? {
        assert_eq!(who(edge)?, "here");
        assert_eq!(edge.publish("t", b"x", SOON)?, Ok(Vec::new()));
    }
    // Shards count by themselves; both have worked.
    for shard in ["shard=\"0\"", "shard=\"1\""] {
        ensure!(gateway.metric("frontier_shard_turns_total", &[shard])? > 8.0, "{shard}");
    }
    assert_eq!(gateway.metric("frontier_calls_total", &["code=\"ok\""])?, 8.0);
    // And a service calls an edge of each.
    let mut caller = Dial::service(gateway.services(), "caller")?.connect()?;
    let workers: Vec<(u64, Worker)> =
        edges(&gateway, 8)?.into_iter().map(|edge| (edge.id(), Worker::echo(edge))).collect();
    for (id, _) in &workers {
        let call = caller.request_edge(*id, "echo", b"hi")?;
        assert_eq!(caller.answer(call, SOON)?, Ok(b"hi".to_vec()));
    }
    drop(service);
    Ok(())
}

#[test]
fn an_edge_keeps_its_instance_as_long_as_that_lives() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let dial = || Ok::<_, anyhow::Error>(Dial::service(gateway.services(), "s")?.methods(&["m"]));
    let (a, b) = (answering(dial()?.connect()?, "a"), answering(dial()?.connect()?, "b"));
    let mut edges = edges(&gateway, 24)?;
    let before = edges.iter_mut().map(who).collect::<Result<Vec<_>, _>>()?;
    ensure!(before.iter().any(|word| word == "a") && before.iter().any(|word| word == "b"), "{before:?}");
    assert_eq!(edges.iter_mut().map(who).collect::<Result<Vec<_>, _>>()?, before);
    drop(a.stop()?);
    until("those of the first move", SOON, || {
        let moved =
            edges.iter_mut().map(|edge| edge.call("m", b"", SOON)).collect::<Result<Vec<Answer>, _>>();
        moved.ok()?.iter().all(|answer| answer.as_deref() == Ok(b"b")).then_some(())
    })?;
    drop(b);
    Ok(())
}

#[test]
fn the_connections_of_a_pool_are_one_service() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let dial = Dial::service(gateway.services(), "pool")?.methods(&["m"]).topics(&["t"]);
    let connect = |index| dial.clone().with(|hello| hello.pool_index = index).connect();
    let (first, second) = (connect(0)?, connect(1)?);
    assert_eq!(first.id(), second.id());
    assert_eq!(first.welcome().shards, 2, "so many connections make sense");
    let services: serde_json::Value =
        serde_json::from_str(&http::get(gateway.control()?, "/v1/services")?.body)?;
    assert_eq!(services["count"], 1);
    let (first, second) = (answering(first, "0"), answering(second, "1"));
    let mut edges = edges(&gateway, 8)?;
    for edge in &mut edges {
        let word = who(edge)?;
        for _ in 0..5 {
            assert_eq!(who(edge)?, word, "an edge is pinned to a connection");
        }
    }
    drop(first.stop()?);
    for edge in &mut edges {
        until("the other connection", SOON, || (who(edge).ok()? == "1").then_some(()))?;
    }
    drop(second);
    Ok(())
}

#[test]
fn messages_of_a_topic_keep_their_order() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2).set("exchange.hashby", "random"))?;
    let dial = Dial::service(gateway.services(), "s")?.topics(&["t"]);
    let mut services = [dial.connect()?, Dial::service(gateway.services(), "s")?.topics(&["t"]).connect()?];
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    // Larger and smaller ones in turn, many under way at once; none is in fragments, whose sender would have to wait.
    let body = |n: usize| [&n.to_be_bytes()[..], &vec![0; (n % 3) * 30_000]].concat();
    let call = frontier_wire::native::proto::Call { name: "t".to_owned(), ..Default::default() };
    let ids = (0..60)
        .map(|n| edge.start(FrameType::Publish, call.clone(), &body(n)))
        .collect::<Result<Vec<_>, _>>()?;
    let edge = Worker::spawn(edge, |_, _| Ok(()));
    let mut came = Vec::new();
    until("all messages", SOON, || {
        for service in &mut services {
            if let Ok(Some(Incoming::Operation { id, body, .. })) = service.next(Duration::from_millis(1)) {
                service.ack(id).ok()?;
                came.push(usize::from_be_bytes(*body.first_chunk()?));
            }
        }
        (came.len() == ids.len()).then_some(())
    })?;
    assert_eq!(came, (0..60).collect::<Vec<_>>(), "one target, in order, whatever the policy");
    drop(edge);
    Ok(())
}

#[test]
fn a_service_restarted_under_load_loses_no_call_without_an_error() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let dial = Dial::service(gateway.services(), "s")?.methods(&["m"]);
    let mut service = answering(dial.connect()?, "here");
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers = edges(&gateway, 4)?.into_iter().map(|mut edge| {
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        std::thread::spawn(move || -> anyhow::Result<u64> {
            let mut failed = 0;
            while !stop.load(Ordering::Acquire) {
                // Every one of them is answered, or this fails.
                let ids = (0..8).map(|_| edge.request("m", b"x")).collect::<Result<Vec<_>, _>>()?;
                for id in ids {
                    match edge.answer(id, SOON).context("a call was lost")? {
                        Ok(body) => {
                            ensure!(body == b"here", "{body:?}");
                            answered.fetch_add(1, Ordering::AcqRel);
                        }
                        Err(refusal) => {
                            let told = matches!(
                                refusal.code,
                                ErrorCode::SessionClosed
                                    | ErrorCode::MethodNotFound
                                    | ErrorCode::ServiceNotOnline
                            );
                            ensure!(told, "{refusal:?}");
                            failed += 1;
                        }
                    }
                }
            }
            Ok(failed)
        })
    });
    let callers: Vec<_> = callers.collect();
    for _ in 0..5 {
        let goal = answered.load(Ordering::Acquire) + 200;
        until("calls that work", SOON, || (answered.load(Ordering::Acquire) >= goal).then_some(()))?;
        // A crash: the socket is closed with calls under way.
        drop(service);
        service = answering(dial.connect()?, "here");
    }
    let goal = answered.load(Ordering::Acquire) + 200;
    until("calls that work again", SOON, || (answered.load(Ordering::Acquire) >= goal).then_some(()))?;
    stop.store(true, Ordering::Release);
    let mut failed = 0;
    for caller in callers {
        failed += caller.join().map_err(|_| anyhow::anyhow!("caller panicked"))??;
    }
    let counted = gateway.metric("frontier_calls_total", &[])?;
    assert_eq!(counted, (answered.load(Ordering::Acquire) + failed) as f64, "each call has one outcome");
    Ok(())
}
