//! The way out: edges are told first, what is in flight finishes, the exit code is 0.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Gateway, needs_fault_points},
    http,
    peer::{Dial, Peer},
    wait::{SOON, until},
};
use frontier_wire::{
    error::ErrorCode,
    native::{frame::FrameType, proto},
};
use rustix::process::Signal;

fn draining(seconds: u32) -> Config {
    Config::new().set("drain.accept_for", "500ms").set("drain.seconds", seconds)
}

/// The GoAway of a peer whose connection stays for now.
fn told_to_go(peer: &mut Peer) -> anyhow::Result<proto::GoAway> {
    let frame = peer.frame(FrameType::GoAway, SOON)?;
    let head: proto::GoAway = frame.head_as()?;
    let code = head.reason.as_ref().map(|reason| ErrorCode::from_wire(reason.code.cast_unsigned()));
    assert_eq!(code, Some(ErrorCode::GatewayDraining));
    Ok(head)
}

#[test]
fn edges_go_first_and_what_is_in_flight_finishes() -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&draining(30))?;
    let mut service = Dial::service(gateway.services(), "s")?.methods(&["slow"]).connect()?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let pending = edge.request("slow", b"")?;
    let (theirs, ..) = service.operation(SOON)?;
    gateway.signal(Signal::TERM)?;
    until("not ready", SOON, || {
        http::get(gateway.admin().ok()?, "/readyz").is_ok_and(|answer| answer.status == 503).then_some(())
    })?;
    // Load balancers that have not noticed yet: the edge is taken and sent on.
    let mut late = Dial::edge(gateway.edges())?.connect()?;
    told_to_go(&mut late)?;
    drop(late);
    let head = told_to_go(&mut edge)?;
    ensure!(head.reconnect_in_ms < 30_000, "{head:?}");
    until("listeners closed", SOON, || TcpStream::connect(gateway.edges()).is_err().then_some(()))?;
    // Services work on until the edges are gone.
    service.respond(theirs, b"done")?;
    assert_eq!(edge.answer(pending, SOON)?, Ok(b"done".to_vec()));
    ensure!(gateway.exited()?.is_none(), "it waits for the edge");
    service.sync(SOON)?;
    let early = service.next(Duration::from_millis(1))?;
    ensure!(early.is_none(), "the service was told before the edge was gone: {early:?}");
    drop(edge);
    told_to_go(&mut service)?;
    drop(service);
    let status = gateway.wait_exit(SOON)?;
    ensure!(status.success(), "{status}");
    gateway.log().wait(SOON, |line| line.message() == "gateway stopped")?;
    Ok(())
}

/// Fault point: after a call of this method the shard's thread panics.
const SHARD_FAULT: &str = "frontier.fault.shard";

#[test]
fn a_part_that_fails_ends_the_process() -> anyhow::Result<()> {
    needs_fault_points()?;
    let mut gateway = Gateway::start(&draining(30).shards(1))?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    edge.request(SHARD_FAULT, b"")?;
    assert_eq!(gateway.wait_exit(SOON)?.code(), Some(1));
    gateway.log().wait(SOON, |line| line.text_of("failure") == "shard 0 failed: panic")?;
    Ok(())
}

#[test]
fn a_part_that_fails_during_a_drain_is_an_error_at_its_end() -> anyhow::Result<()> {
    needs_fault_points()?;
    let mut gateway = Gateway::start(&draining(2).shards(1))?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    gateway.signal(Signal::TERM)?;
    told_to_go(&mut edge)?;
    edge.request(SHARD_FAULT, b"")?;
    assert_eq!(gateway.wait_exit(SOON)?.code(), Some(1));
    gateway.log().wait(SOON, |line| line.text_of("failure") == "shard 0 failed: panic")?;
    gateway.log().wait(SOON, |line| line.message() == "gateway stopped")?;
    Ok(())
}

#[test]
fn an_unused_gateway_still_takes_whom_a_load_balancer_sends() -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&draining(90).set("drain.accept_for", "3s"))?;
    gateway.signal(Signal::TERM)?;
    until("not ready", SOON, || {
        http::get(gateway.admin().ok()?, "/readyz").is_ok_and(|answer| answer.status == 503).then_some(())
    })?;
    let mut late = Dial::edge(gateway.edges())?.connect()?;
    told_to_go(&mut late)?;
    drop(late);
    until("listeners closed", SOON, || TcpStream::connect(gateway.edges()).is_err().then_some(()))?;
    let status = gateway.wait_exit(SOON)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn an_unused_gateway_that_is_interrupted_ends_at_once() -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&draining(600).set("drain.accept_for", "600s"))?;
    gateway.signal(Signal::INT)?;
    let status = gateway.wait_exit(SOON)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn edges_that_stay_are_left_at_the_end() -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&draining(3))?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let start = Instant::now();
    gateway.signal(Signal::TERM)?;
    told_to_go(&mut edge)?;
    let status = gateway.wait_exit(Duration::from_secs(3) + SOON)?;
    ensure!(status.success(), "{status}");
    ensure!(start.elapsed() > Duration::from_secs(1), "it had 3 s and took {:?}", start.elapsed());
    edge.closed(SOON)?;
    Ok(())
}

#[test]
fn services_hear_of_the_edges_that_are_left_at_the_end() -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&draining(3))?;
    let mut service = Dial::service(gateway.services(), "s")?.methods(&["edge_offline"]).connect()?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let id = edge.id();
    gateway.signal(Signal::TERM)?;
    told_to_go(&mut edge)?;
    let (event, call, body) = service.operation(SOON)?;
    let offline = <proto::EdgeInfo as prost::Message>::decode(body.as_slice())?;
    assert_eq!((call.name.as_str(), offline.edge), ("edge_offline", id));
    service.respond(event, &[])?;
    told_to_go(&mut service).context("only then")?;
    drop(service);
    ensure!(gateway.wait_exit(SOON)?.success());
    Ok(())
}

#[test]
fn edges_are_told_in_time_however_short_the_drain_is() -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&Config::new().set("drain.seconds", 4))?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let start = Instant::now();
    gateway.signal(Signal::TERM)?;
    told_to_go(&mut edge)?;
    ensure!(start.elapsed() < Duration::from_millis(3_500), "told after {:?} of 4 s", start.elapsed());
    ensure!(gateway.wait_exit(SOON)?.success());
    Ok(())
}

#[test]
fn a_second_signal_ends_at_once() -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&draining(600))?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    // Nobody waits for the rest of this either.
    let mut probe = TcpStream::connect(gateway.admin()?)?;
    probe.write_all(b"GET /healthz HTTP/1.1\r\nho")?;
    gateway.signal(Signal::TERM)?;
    gateway.log().wait(SOON, |line| line.message().starts_with("stopping"))?;
    ensure!(gateway.exited()?.is_none(), "it has 600 s");
    gateway.signal(Signal::TERM)?;
    let status = gateway.wait_exit(Duration::from_secs(2))?;
    ensure!(status.success(), "{status}");
    edge.closed(SOON)?;
    Ok(())
}

#[test]
fn an_edge_that_moved_is_not_offline() -> anyhow::Result<()> {
    // What an SDK does that is told to go: it connects elsewhere, then says so here and closes.
    let gateway = Gateway::start(&draining(30))?;
    let mut service = Dial::service(gateway.services(), "s")?.methods(&["edge_offline"]).connect()?;
    let mut moved = Dial::edge(gateway.edges())?.connect()?;
    let mut gone = Dial::edge(gateway.edges())?.connect()?;
    gateway.signal(Signal::TERM)?;
    told_to_go(&mut moved)?;
    told_to_go(&mut gone)?;
    let reason =
        proto::Error { code: ErrorCode::GatewayDraining.to_wire().cast_signed(), ..proto::Error::default() };
    moved.send(
        FrameType::GoAway,
        0,
        &proto::GoAway { reason: Some(reason), ..proto::GoAway::default() },
        &[],
    )?;
    moved.sync(SOON)?;
    drop(moved);
    let id = gone.id();
    drop(gone);
    let (event, call, body) = service.operation(SOON)?;
    let offline = <proto::EdgeInfo as prost::Message>::decode(body.as_slice())?;
    assert_eq!((call.name.as_str(), offline.edge), ("edge_offline", id));
    service.respond(event, &[])?;
    told_to_go(&mut service).context("both edges are gone")?;
    let more = service.next(Duration::from_millis(1))?;
    ensure!(more.is_none(), "{more:?}");
    Ok(())
}
