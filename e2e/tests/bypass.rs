//! Connections of other protocols on the edge port, piped to a server of theirs: not refused, bounded in number and in silence.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Gateway},
    peer::Dial,
    scene::Scene,
    wait::SOON,
};

/// A server that gives back what it gets until its peer ends.
fn echo() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            std::thread::spawn(move || {
                let Ok(mut copy) = socket.try_clone() else { return };
                // The end of the peer's bytes must come through, or this never returns.
                drop(std::io::copy(&mut socket, &mut copy));
                drop(copy.shutdown(Shutdown::Write));
            });
        }
    });
    Ok(addr)
}

fn config() -> anyhow::Result<Config> {
    let config = Config::new().shards(1).set("edgebound.bypass_enable", true);
    Ok(config.set("edgebound.bypass.addrs", serde_json::json!([echo()?.to_string()])))
}

/// A connection that speaks no protocol of ours, piped: what it said came back.
fn piped(gateway: &Gateway) -> anyhow::Result<TcpStream> {
    let mut io = TcpStream::connect(gateway.edges())?;
    io.set_read_timeout(Some(SOON))?;
    ping(&mut io, b"GET / HTTP/1.1\r\n\r\n")?;
    Ok(io)
}

fn ping(io: &mut TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    io.write_all(bytes)?;
    let mut echoed = vec![0; bytes.len()];
    io.read_exact(&mut echoed).context("echo")?;
    ensure!(echoed == bytes, "{echoed:02x?}");
    Ok(())
}

/// Whether a connection has come to its end.
fn ended(io: &mut TcpStream) -> anyhow::Result<bool> {
    match io.read(&mut [0]) {
        Ok(n) => Ok(n == 0),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn other_protocols_are_piped_and_not_counted_as_refused() -> anyhow::Result<()> {
    let scene = Scene::start(&config()?)?;
    let mut io = piped(&scene.gateway)?;
    scene.gateway.metric_reaches("frontier_pipes_open", &[], 1.0)?;
    io.shutdown(Shutdown::Write)?;
    ensure!(ended(&mut io)?, "the other side's end did not come through");
    scene.gateway.metric_reaches("frontier_pipes_total", &["outcome=\"ended\""], 1.0)?;
    let metric = |name, labels: &[&str]| scene.gateway.metric(name, labels);
    assert_eq!(metric("frontier_pipes_open", &[])?, 0.0);
    assert_eq!(metric("frontier_accepts_piped_total", &[])?, 1.0);
    assert_eq!(metric("frontier_piped_bytes_total", &["direction=\"in\""])?, 18.0);
    assert_eq!(metric("frontier_piped_bytes_total", &["direction=\"out\""])?, 18.0);
    assert_eq!(metric("frontier_refusals_total", &[])?, 0.0);
    // Services have no bypass.
    let mut service = TcpStream::connect(scene.gateway.services())?;
    service.set_read_timeout(Some(SOON))?;
    service.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    ensure!(ended(&mut service)?, "a foreign protocol on the port of services");
    scene.refused("protocol", 1)?;
    drop((io, service));
    scene.end(8)
}

#[test]
fn one_pipe_too_many_is_refused_and_its_place_is_given_again() -> anyhow::Result<()> {
    let scene = Scene::start(&config()?.set("limits.pipes", 2))?;
    let mut held = [piped(&scene.gateway)?, piped(&scene.gateway)?];
    let mut third = TcpStream::connect(scene.gateway.edges())?;
    third.set_read_timeout(Some(SOON))?;
    third.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    ensure!(ended(&mut third)?, "a third pipe");
    scene.refused("full", 1)?;
    scene.gateway.metric_reaches("frontier_pipes_total", &["outcome=\"refused\""], 1.0)?;
    scene.logged("no room for another pipe")?;
    assert_eq!(scene.gateway.metric("frontier_accepts_piped_total", &[])?, 2.0);
    // Edges have nothing to do with it, nor have those who came before.
    drop(Dial::edge(scene.gateway.edges())?.connect()?);
    for io in &mut held {
        ping(io, b"still here")?;
    }
    let [first, second] = held;
    drop(first);
    scene.gateway.metric_reaches("frontier_pipes_total", &[], 2.0)?;
    drop((piped(&scene.gateway)?, second, third));
    scene.end(8)
}

#[test]
fn a_pipe_that_is_silent_for_too_long_is_cut() -> anyhow::Result<()> {
    let scene = Scene::start(&config()?.set("limits.pipe_idle", "1s"))?;
    let mut silent = piped(&scene.gateway)?;
    let mut busy = piped(&scene.gateway)?;
    silent.set_nonblocking(true)?;
    let start = std::time::Instant::now();
    // Whoever says something now and then is not silent, however long that takes.
    while !ended(&mut silent)? {
        ping(&mut busy, b"tick")?;
        ensure!(start.elapsed() < SOON, "the silent pipe is still open");
    }
    scene.gateway.metric_reaches("frontier_pipes_total", &["outcome=\"idle\""], 1.0)?;
    ping(&mut busy, b"tick")?;
    assert_eq!(scene.gateway.metric("frontier_pipes_open", &[])?, 1.0);
    drop((silent, busy));
    scene.end(8)
}
