//! How many may come in, and how fast.

use std::net::TcpStream;

use anyhow::Context;
use frontier_e2e::{
    gateway::{Config, Gateway},
    peer::{Dial, Peer},
    scene::Scene,
    wait::{SOON, until},
};
use frontier_wire::error::ErrorCode;

#[test]
fn a_gateway_that_just_came_up_takes_its_rate_at_once() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(1).set("limits.accept_rate", 3))?;
    let dial = Dial::edge(gateway.edges())?;
    let _peers: Vec<Peer> = (0..3).map(|_| dial.connect()).collect::<Result<_, _>>()?;
    Ok(())
}

#[test]
fn sessions_beyond_the_rate_are_told_when_to_come_again() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().shards(1).set("limits.accept_rate", 5))?;
    let dial = Dial::edge(scene.gateway.edges())?;
    let mut welcome = Vec::new();
    // The rate is five a second, so that one of the first dozens comes too early on any machine that connects faster than that.
    let refusal = until("a refusal", SOON, || match dial.attempt() {
        Ok(Ok(peer)) => {
            welcome.push(peer);
            None
        }
        other => Some(other),
    })?;
    let refusal = refusal?.err().context("welcome")?;
    assert_eq!(refusal.code, ErrorCode::Overloaded);
    assert!((500..5_000).contains(&refusal.retry_after_ms), "{refusal:?}");
    scene.refused("rate", 1)?;
    scene.logged("refused")?;
    until("room again", SOON, || dial.attempt().ok()?.ok())?;
    drop(welcome);
    scene.end(8)
}

#[test]
fn sessions_beyond_the_limit_are_told_so_and_room_comes_back() -> anyhow::Result<()> {
    // Half of so few places are for edges; one of them is the bystander's.
    let scene = Scene::start(&Config::new().set("limits.sessions", 10))?;
    let dial = Dial::edge(scene.gateway.edges())?;
    let mut peers: Vec<Peer> = (0..4).map(|_| dial.connect()).collect::<Result<_, _>>()?;
    for _ in 0..20 {
        let refusal = dial.attempt()?.err().context("welcome")?;
        assert_eq!(refusal.code, ErrorCode::Overloaded);
        assert!((2_000..10_000).contains(&refusal.retry_after_ms), "{refusal:?}");
    }
    scene.refused("full", 20)?;
    drop(Dial::service(scene.gateway.services(), "late")?.connect().context("a service")?);
    peers.pop();
    peers.push(until("room again", SOON, || dial.attempt().ok()?.ok())?);
    drop(peers);
    scene.end(8)
}

#[test]
fn silent_connections_keep_nobody_out() -> anyhow::Result<()> {
    let config = Config::new().shards(1).set("limits.sessions", 10).set("limits.handshakes", 20);
    let scene = Scene::start(&config)?;
    // Beyond fifty connections none is taken, two of which are the bystanders'; of those that say nothing twenty stay.
    let silent: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(scene.gateway.edges())).collect::<Result<_, _>>()?;
    scene.refused("full", 40)?;
    let dial = Dial::edge(scene.gateway.edges())?;
    let comes_in = || until("a place for one that speaks", SOON, || dial.attempt().ok()?.ok());
    let peers: Vec<Peer> = (0..4).map(|_| comes_in()).collect::<Result<_, _>>()?;
    drop((silent, peers));
    scene.end(8)
}
