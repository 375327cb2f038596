//! Streams and large bodies through the gateway: backpressure, half-close, reset.

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Gateway},
    peer::{Dial, Peer, Worker},
    scene::Scene,
    wait::SOON,
};
use frontier_wire::{error::ErrorCode, native::proto, yamux::StreamId};

/// Enough for many windows.
const MANY: usize = 8 << 20;

fn to_service(name: &str) -> proto::Call {
    proto::Call { name: name.to_owned(), meta: b"why".to_vec(), ..proto::Call::default() }
}

/// Bytes that tell where they stood.
fn numbered(len: usize) -> Vec<u8> {
    (0..len.div_ceil(8) as u64).flat_map(u64::to_be_bytes).take(len).collect()
}

/// A stream between an edge and a service, opened by the edge.
fn connected(gateway: &Gateway) -> anyhow::Result<(Peer, StreamId, Peer, StreamId)> {
    let mut service = Dial::service(gateway.services(), "files")?.connect()?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let near = edge.start_stream(&to_service("files"))?;
    let (far, call) = service.offered(SOON)?;
    assert_eq!((call.from_edge, call.meta.as_slice()), (edge.id(), &b"why"[..]));
    service.accept(far)?;
    edge.open_ack(near, SOON)?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    Ok((edge, near, service, far))
}

#[test]
fn a_slow_reader_slows_its_writer_and_nobody_else() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().shards(2))?;
    let (mut edge, near, mut service, far) = connected(&scene.gateway)?;
    service.hold(far);
    let sent = numbered(MANY);
    edge.data(near, &sent)?;
    edge.finish(near)?;
    // What the windows let through goes, and then nothing moves.
    let mut waiting = usize::MAX;
    while std::mem::replace(&mut waiting, edge.queued()) != edge.queued() {
        for _ in 0..10 {
            edge.sync(SOON)?;
        }
    }
    let mut got = service.read(far, 64 << 10, SOON)?;
    scene.unnoticed()?;
    ensure!(edge.queued() > MANY / 4, "only {} bytes wait at the writer", edge.queued());
    let growth = scene.growth()?;
    ensure!(growth < 8 << 20, "the gateway holds {} KiB", growth >> 10);
    // Another stream of the same two is not behind it.
    let other = edge.start_stream(&to_service("files"))?;
    let (other_far, _) = service.offered(SOON)?;
    service.accept(other_far)?;
    edge.open_ack(other, SOON)?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    edge.data(other, b"quick")?;
    assert_eq!(service.read(other_far, 5, SOON)?, b"quick");
    service.let_go(far)?;
    // The writer has to hear of it to go on.
    let writer = Worker::spawn(edge, |_, _| Ok(()));
    got.extend(service.read_to_end(far, SOON)?);
    ensure!(got == sent, "{} of {} bytes came, or others", got.len(), sent.len());
    drop((writer.stop()?, service));
    scene.end(16)
}

#[test]
fn a_half_closed_stream_still_answers() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let (mut edge, near, mut service, far) = connected(&gateway)?;
    edge.data(near, b"question")?;
    edge.finish(near)?;
    assert_eq!(service.read_to_end(far, SOON)?, b"question");
    service.data(far, b"answer")?;
    service.finish(far)?;
    assert_eq!(edge.read_to_end(near, SOON)?, b"answer");
    frontier_e2e::wait::until("both ends forgotten", SOON, || {
        gateway.metric("frontier_stream_ends", &[]).is_ok_and(|ends| ends == 0.0).then_some(())
    })
}

#[test]
fn a_reset_reaches_the_other_end() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let (mut edge, near, mut service, far) = connected(&gateway)?;
    edge.reset(near)?;
    service.was_reset(far, SOON)?;
    let near = edge.start_stream(&to_service("files"))?;
    let (far, _) = service.offered(SOON)?;
    service.accept(far)?;
    edge.open_ack(near, SOON)?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    service.reset(far)?;
    edge.was_reset(near, SOON)?;
    // And the end of a session resets what it had open.
    let near = edge.start_stream(&to_service("files"))?;
    let (far, _) = service.offered(SOON)?;
    service.accept(far)?;
    edge.open_ack(near, SOON)?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    drop(service);
    edge.was_reset(near, SOON)
}

#[test]
fn a_service_opens_a_stream_to_an_edge_that_may_refuse() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let mut service = Dial::service(gateway.services(), "s")?.connect()?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let call = proto::Call { edge: edge.id(), ..proto::Call::default() };
    let stream = service.start_stream(&call)?;
    let (theirs, head) = edge.offered(SOON)?;
    assert_eq!(head.from_service, service.id());
    edge.refuse(theirs, ErrorCode::Application, "busy")?;
    let refusal = service.open_ack(stream, SOON)?.err().context("accepted")?;
    assert_eq!((refusal.code, refusal.text.as_str()), (ErrorCode::Application, "busy"));
    let stream = service.start_stream(&call)?;
    let (theirs, _) = edge.offered(SOON)?;
    edge.accept(theirs)?;
    service.open_ack(stream, SOON)?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    edge.data(theirs, b"from the edge")?;
    assert_eq!(service.read(stream, 13, SOON)?, b"from the edge");
    let absent = service.open(&proto::Call { edge: 1, ..proto::Call::default() }, SOON)?;
    assert_eq!(absent.err().context("accepted")?.code, ErrorCode::EdgeNotOnline);
    let nobody = edge.open(&to_service("nobody"), SOON)?.err().context("accepted")?;
    assert_eq!(nobody.code, ErrorCode::ServiceNotOnline);
    Ok(())
}

#[test]
fn a_stream_that_nobody_accepts_is_refused_in_time() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().set("limits.handshake", "1s"))?;
    let mut service = Dial::service(scene.gateway.services(), "files")?.connect()?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let call = proto::Call { timeout_ms: 500, ..to_service("files") };
    let stream = edge.start_stream(&call)?;
    service.offered(SOON)?;
    let refusal = edge.open_ack(stream, SOON)?.err().context("accepted")?;
    assert_eq!(refusal.code, ErrorCode::DeadlineExceeded);
    drop((edge, service));
    scene.end(8)
}

#[test]
fn ten_mebibytes_travel_both_ways_and_small_calls_pass_them() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().shards(2))?;
    let body = numbered(10 << 20);
    let dial = Dial::service(scene.gateway.services(), "s")?.methods(&["echo"]);
    let service = Worker::echo(dial.connect()?);
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let large = edge.request("echo", &body)?;
    let small = edge.call("echo", b"small", SOON)?;
    assert_eq!(small, Ok(b"small".to_vec()));
    let answer = edge.answer(large, SOON)?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    ensure!(answer == body, "what came back differs");
    // The other way: a service calls an edge.
    let (id, edge) = (edge.id(), Worker::echo(edge));
    let mut caller = Dial::service(scene.gateway.services(), "caller")?.connect()?;
    let large = caller.request_edge(id, "echo", &body)?;
    let answer = caller.answer(large, SOON)?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    ensure!(answer == body, "what came back differs");
    drop((edge.stop()?, service.stop()?, caller));
    scene.end(24)
}

#[test]
fn a_body_longer_than_the_limit_is_refused_alone() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().set("limits.body", "64KiB"))?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let refusal = edge.call("bystander", &numbered((64 << 10) + 1), SOON)?.err().context("answer")?;
    assert_eq!(refusal.code, ErrorCode::PayloadTooLarge);
    assert_eq!(edge.call("bystander", b"fits", SOON)?, Ok(b"fits".to_vec()));
    drop(edge);
    scene.end(8)
}
