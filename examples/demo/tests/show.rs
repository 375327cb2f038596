//! The show with somebody in it who spoils it: it must say so and fail.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::binary,
    peer::{Dial, Incoming, Worker},
    program::Program,
    wait::{SOON, until},
};
use frontier_wire::{error::ErrorCode, native::frame::FrameType};
use rustix::process::Signal;
use tempfile::TempDir;

const DEMO: &str = env!("CARGO_BIN_EXE_frontier-demo");
/// Instances that spoil it: so many that no edge's calls all miss them.
const SPOILERS: usize = 40;

/// The show, and the folder of what it takes for the gateway's binary: a file that is carried in no time.
fn start(how: &str) -> anyhow::Result<(Program, TempDir)> {
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("frontier");
    fs::write(&script, format!("#!/bin/sh\nexec '{}' \"$@\"\n", binary()?.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let show = Program::start(DEMO, ["--gateway-binary".as_ref(), script.as_os_str(), how.as_ref()])?;
    Ok((show, dir))
}

/// Where the show's gateway takes edges and services.
fn addresses(show: &Program) -> anyhow::Result<[SocketAddr; 2]> {
    let line = show.says("It takes edges on")?;
    let mut found = line.split("tcp://").skip(1).map(|rest| rest.split(' ').next().unwrap_or_default());
    let mut next =
        || Ok::<_, anyhow::Error>(found.next().context("no address")?.trim_end_matches('.').parse()?);
    Ok([next()?, next()?])
}

/// The show ends with a failure, having said what was wrong.
fn fails(mut show: Program, why: &str) -> anyhow::Result<()> {
    show.says("  wrong: ")?;
    show.says("mistakes")?;
    ensure!(!show.exit()?.success(), "the show was a success");
    ensure!(!show.said(why).is_empty(), "not said: {why}; {:?}", show.said("wrong"));
    ensure!(show.said("wrong: ").len() <= 3, "{:?}", show.said("wrong: "));
    ensure!(show.said("Everything was right").is_empty());
    Ok(())
}

#[test]
fn calls_that_a_service_refuses_fail_the_show() -> anyhow::Result<()> {
    let (show, _dir) = start("--once")?;
    let [_, services] = addresses(&show)?;
    let mut spoilers = Vec::new();
    for _ in 0..SPOILERS {
        let service = Dial::service(services, "spoiler")?.methods(&["count-words"]).connect()?;
        spoilers.push(Worker::spawn(service, |peer, incoming| match incoming {
            Incoming::Operation { id, .. } => {
                peer.fail(FrameType::Response, id, ErrorCode::Application, "spoiled")
            }
            _ => Ok(()),
        }));
    }
    fails(show, "a call of edge")
}

#[test]
fn an_edge_that_does_not_answer_as_it_should_fails_the_show() -> anyhow::Result<()> {
    let (show, _dir) = start("--once")?;
    let [edges, _] = addresses(&show)?;
    let dial = Dial::edge(edges)?.with(|hello| hello.meta = b"demo edge 9".to_vec());
    let _edge = Worker::spawn(dial.connect()?, |peer, incoming| match incoming {
        Incoming::Operation { id, .. } => {
            peer.fail(FrameType::Response, id, ErrorCode::Application, "spoiled")
        }
        _ => Ok(()),
    });
    fails(show, "the service's call of edge")
}

#[test]
fn whoever_takes_part_hears_of_everybody_and_nothing_is_left_when_the_show_is_ended() -> anyhow::Result<()> {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (mut show, _dir) = start("--free-ports")?;
        let [edges, services] = addresses(&show)?;
        show.says("To take part")?;
        let mut room = Dial::service(services, "room")?.methods(&["edge_online"]).connect()?;
        let mut members = Vec::new();
        for _ in 0..6 {
            let member = std::thread::spawn(move || Dial::edge(edges)?.connect());
            let (id, call, _) = room.operation(SOON)?;
            ensure!(call.name == "edge_online", "{call:?}");
            room.respond(id, b"")?;
            members.push(member.join().ok().context("a member")??);
        }
        show.says("calls edge→service")?;
        show.signal(signal)?;
        ensure!(show.exit()?.success(), "the show failed");
        for addr in [edges, services] {
            until("the gateway gone", SOON, || TcpStream::connect(addr).is_err().then_some(()))?;
        }
    }
    Ok(())
}
