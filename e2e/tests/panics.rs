//! A panic while a session is handled: the end of that session and of nobody else.

use frontier_e2e::{
    gateway::{Config, needs_fault_points},
    peer::Dial,
    scene::Scene,
    wait::SOON,
};
use frontier_wire::native::frame::FrameType;

/// Handling a call of this method panics.
const METHOD: &str = "frontier.fault.panic";
const LINE: &str = "panic while a session was handled; the session is closed";

#[test]
fn a_panic_ends_one_session_and_nobody_else_notices() -> anyhow::Result<()> {
    needs_fault_points()?;
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
