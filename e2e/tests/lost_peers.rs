//! Peers that vanish without a word, and a gateway that has no room for more.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Line},
    http,
    peer::{Dial, Peer},
    proxy::Proxy,
    scene::Scene,
    wait::{SOON, until},
};
use frontier_wire::{error::ErrorCode, native::proto};
use prost::Message;

/// Silence after which a peer is gone, at the shortest heartbeat: two and a half of them.
const GONE_AFTER: Duration = Duration::from_millis(2_500);
/// What a machine under load may add.
const LATE: Duration = Duration::from_secs(5);

fn hasty() -> Config {
    Config::new().set("limits.heartbeat", "1s")
}

#[test]
fn an_edge_without_a_sign_of_life_is_gone_and_its_calls_fail_at_once() -> anyhow::Result<()> {
    let scene = Scene::start(&hasty())?;
    let proxy = Proxy::start(scene.gateway.edges())?;
    let mut service = Dial::service(scene.gateway.services(), "s")?.methods(&["edge_offline"]).connect()?;
    let mut edge = Dial::edge(proxy.addr())?.connect()?;
    // The gateway decides when it is too late, not the caller's own deadline.
    let call =
        proto::Call { edge: edge.id(), name: "m".to_owned(), timeout_ms: 60_000, ..proto::Call::default() };
    let pending = service.start(frontier_wire::native::frame::FrameType::Request, call, b"")?;
    edge.operation(SOON)?;
    let silent = Instant::now();
    proxy.freeze();
    let refusal = service.answer(pending, GONE_AFTER + LATE)?.err().context("answered by nobody")?;
    assert_eq!(refusal.code, ErrorCode::SessionClosed, "{refusal:?}");
    ensure!(silent.elapsed() > Duration::from_millis(1_500), "cut after {:?}", silent.elapsed());
    let (event, head, body) = service.operation(SOON)?;
    assert_eq!(head.name, "edge_offline");
    assert_eq!(proto::EdgeInfo::decode(body.as_slice())?.edge, edge.id());
    service.respond(event, &[])?;
    let again = service.request_edge(edge.id(), "m", b"")?;
    assert_eq!(service.answer(again, SOON)?.err().context("answer")?.code, ErrorCode::EdgeNotOnline);
    scene.refused("timeout", 1)?;
    let of_the_edge =
        |line: &Line| line.message() == "session ended" && line.text_of("reason") == "heartbeat lost";
    scene.gateway.log().wait(SOON, of_the_edge).context("line")?;
    drop((edge, service, proxy));
    scene.end(8)
}

#[test]
fn a_service_without_a_sign_of_life_is_gone_and_another_takes_over() -> anyhow::Result<()> {
    let scene = Scene::start(&hasty())?;
    let proxy = Proxy::start(scene.gateway.services())?;
    let mut lost = Dial::service(proxy.addr(), "s")?.methods(&["m"]).connect()?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let pending = edge.request("m", b"")?;
    lost.operation(SOON)?;
    proxy.freeze();
    let refusal = edge.answer(pending, GONE_AFTER + LATE)?.err().context("answered by nobody")?;
    assert_eq!(refusal.code, ErrorCode::SessionClosed, "{refusal:?}");
    let none = edge.call("m", b"", SOON)?.err().context("answered by nobody")?;
    assert_eq!(none.code, ErrorCode::MethodNotFound);
    let mut other = Dial::service(scene.gateway.services(), "s")?.methods(&["m"]).connect()?;
    let pending = edge.request("m", b"")?;
    let (id, ..) = other.operation(SOON)?;
    other.respond(id, b"here")?;
    assert_eq!(edge.answer(pending, SOON)?, Ok(b"here".to_vec()));
    drop((lost, other, edge, proxy));
    scene.end(8)
}

/// The limit of a running process is lowered until the system itself refuses the next connection.
#[test]
fn when_the_system_gives_no_descriptor_accepting_pauses_and_goes_on() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().shards(1))?;
    let pauses = || scene.gateway.metric("frontier_accept_pauses_total", &[]);
    let before = scene.gateway.limit_files(Some(scene.gateway.proc().next_fd()?))?;
    let crowd: Vec<TcpStream> =
        (0..8).map(|_| TcpStream::connect(scene.gateway.edges())).collect::<Result<_, _>>()?;
    let refused = |line: &Line| {
        line.message() == "no connections are taken for a moment"
            && line.text_of("why").contains("open files")
    };
    scene.gateway.log().wait(SOON, refused)?;
    scene.unnoticed()?;
    scene.gateway.limit_files(before)?;
    drop(Dial::edge(scene.gateway.edges())?.connect().context("room again")?);
    drop(crowd);
    ensure!(pauses()? >= 1.0, "no pause counted");
    assert_eq!(scene.gateway.metric("frontier_refusals_total", &["reason=\"descriptors\""])?, 0.0);
    scene.end(8)
}

#[test]
fn without_descriptors_accepting_pauses_and_sessions_live() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().shards(1).nofile(100).set("limits.handshake", "60s"))?;
    let turns = || scene.gateway.metric("frontier_shard_turns_total", &[]);
    let failed = |line: &Line| line.message() == "no connections are taken for a moment";
    let (start, before) = (Instant::now(), turns()?);
    let crowd: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(scene.gateway.edges())).collect::<Result<_, _>>()?;
    scene.gateway.log().wait(SOON, failed)?;
    scene.unnoticed()?;
    // Probes, operators and services have descriptors of their own.
    assert_eq!(http::get(scene.gateway.admin()?, "/healthz")?.status, 200);
    assert_eq!(http::get(scene.gateway.control()?, "/v1/edges")?.status, 200);
    drop(Dial::service(scene.gateway.services(), "late")?.connect().context("a service")?);
    // It tries on, and says so now and then.
    until("another line", SOON, || (scene.gateway.log().find(failed).len() >= 2).then_some(()))?;
    scene.unnoticed()?;
    // Who is closed for it is counted, one for each pause.
    let closed = scene.gateway.metric("frontier_refusals_total", &["reason=\"descriptors\""])?;
    let pauses = scene.gateway.metric("frontier_accept_pauses_total", &[])?;
    ensure!(closed >= 2.0 && pauses >= closed, "{closed} closed in {pauses} pauses");
    drop(crowd);
    let mut edge: Peer = Dial::edge(scene.gateway.edges())?.connect().context("room again")?;
    assert_eq!(edge.call("bystander", b"in", SOON)?, Ok(b"in".to_vec()));
    // No hot loop: the bystanders alone account for some thousand turns a second.
    let (took, turned) = (start.elapsed(), turns()? - before);
    ensure!(turned < took.as_secs_f64() * 20_000.0, "{turned} turns in {took:?}");
    drop(edge);
    scene.end(8)
}
