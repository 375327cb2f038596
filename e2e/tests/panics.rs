//! A panic while a session is handled: the end of that session and of nobody else. Needs a binary with fault points (feature `testing` of
//! the gateway); one without must not contain them.

use std::fs;

use anyhow::ensure;
use frontier_e2e::gateway::{Config, binary};
use frontier_e2e::peer::Dial;
use frontier_e2e::scene::Scene;
use frontier_e2e::wait::SOON;
use frontier_wire::error::ErrorCode;
use frontier_wire::native::frame::FrameType;

/// Handling a call of this method panics.
const METHOD: &str = "frontier.fault.panic";
/// What the panic says, and so what a binary with the fault point contains.
const MARK: &[u8] = b"fault point: frontier.fault.panic";
const LINE: &str = "panic while a session was handled; the session is closed";

/// Whether the binary under test has fault points.
fn has_fault_points() -> anyhow::Result<bool> {
    let binary = fs::read(binary()?)?;
    Ok(binary.windows(MARK.len()).any(|window| window == MARK))
}

#[test]
fn a_panic_ends_one_session_and_nobody_else_notices() -> anyhow::Result<()> {
    if !has_fault_points()? {
        return Ok(());
    }
    // For a backtrace the standard library loads the binary's debug information and keeps it: that is not the session's memory.
    let scene = Scene::start(&Config::new().args(["--shards", "1"]).env("RUST_BACKTRACE", "0"))?;
    let mut service = Dial::service(scene.gateway.services(), "s")?.methods(&["m"]).connect()?;
    let mut caller = Dial::edge(scene.gateway.edges())?.connect()?;
    for round in 1..=20u32 {
        let mut victim = Dial::edge(scene.gateway.edges())?.connect()?;
        // What it had under way is given up, and whoever was to answer is told.
        let pending = victim.request("m", b"from the victim")?;
        let (id, ..) = service.operation(SOON)?;
        victim.request(METHOD, b"")?;
        victim.closed(SOON)?;
        let cancel = service.frame(FrameType::Cancel, SOON)?;
        assert_eq!(cancel.id, id, "round {round}, operation {pending}");
        let call = caller.request("m", b"still here")?;
        let (id, ..) = service.operation(SOON)?;
        service.respond(id, b"so am I")?;
        assert_eq!(caller.answer(call, SOON)?, Ok(b"so am I".to_vec()));
        scene.unnoticed()?;
        scene.gateway.metric_reaches("frontier_session_panics_total", &[], f64::from(round))?;
        let lines = scene.gateway.log().find(|line| line.message() == LINE).len();
        assert_eq!(lines, round as usize, "one line per panic");
    }
    drop((service, caller));
    scene.end(8)
}

#[test]
fn a_binary_without_fault_points_knows_no_such_method() -> anyhow::Result<()> {
    if has_fault_points()? {
        return Ok(());
    }
    let scene = Scene::start(&Config::new())?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let refusal = edge.call(METHOD, b"", SOON)?.err();
    ensure!(refusal.is_some_and(|refusal| refusal.code == ErrorCode::MethodNotFound));
    drop(edge);
    scene.end(8)
}
