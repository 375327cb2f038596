//! Calls, both ways.

use std::time::Duration;

use anyhow::ensure;
use frontier_e2e::{
    player::{Command, Handle, Kind, Payload},
    wait::SOON,
};

use crate::{
    same,
    stage::{Scenario, Stage, all, go, sides, told},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("an edge calls a service", all, edge_calls),
    Scenario::new("a service calls an edge", all, service_calls),
    Scenario::new("custom bytes travel, the edge's ID behind them", go, custom_bytes),
    Scenario::new("errors of handlers reach the caller as they are", all, errors),
    Scenario::new("what is not there is said in the known words", all, absent),
    Scenario::new("reserved names are refused from edges", all, reserved),
    Scenario::new("deadlines travel, and end only their call", all, deadlines),
    Scenario::new("a cancelled call ends nothing else", all, cancelled),
    Scenario::new("many calls at once, both ways", all, many),
    Scenario::new("a lost target fails its calls at once", all, lost),
    Scenario::new("what is too large is said to be, and ends nothing", sides, too_large),
];

/// Calls and compares the echo.
fn echoes(caller: &Handle, edge: u64, data: &Payload) -> anyhow::Result<()> {
    let told = caller.call(edge, "echo", data.clone())?.ok()?;
    same!(told.data, data.received());
    Ok(())
}

fn samples() -> [Payload; 5] {
    [
        Payload::from("ping"),
        Payload::from(""),
        Payload::from("<&> \u{2028} \"\\ ü 漢"),
        Payload::pattern(7, 64 << 10),
        Payload::pattern(9, 1 << 20),
    ]
}

fn edge_calls(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("calc", &[])?;
    service.offers("echo", "echo")?;
    service.offers("ask", "hold")?;
    let edge = stage.edge()?;
    for data in samples() {
        echoes(&edge, 0, &data)?;
    }
    let call = edge.call(0, "ask", "who am I")?;
    let request = service.request("ask")?;
    same!(request.data.text, "who am I");
    same!(request.client, edge.id());
    service.answer(&request, "an edge")?;
    same!(call.ok()?.data.text, "an edge");
    // By callback, as Go's CallAsync, which says no more than that it is over.
    let command = || Command { name: "echo".to_owned(), how: "async", ..Command::default() };
    edge.begin("call", command())?.ok()?;
    Ok(())
}

fn service_calls(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("calc", &[])?;
    let (edge, other) = (stage.edge()?, stage.edge()?);
    ensure!(edge.id() != other.id(), "two edges with one ID");
    for edge in [&edge, &other] {
        edge.offers("echo", "echo")?;
        edge.offers("ask", "hold")?;
        for data in samples() {
            echoes(&service, edge.id(), &data)?;
        }
        let call = service.call(edge.id(), "ask", "who are you")?;
        let request = edge.request("ask")?;
        same!(request.data.text, "who are you");
        edge.answer(&request, "me")?;
        let answer = call.ok()?;
        same!((answer.data.text.as_str(), answer.client), ("me", edge.id()));
    }
    let command = Command { name: "echo".to_owned(), how: "async", edge: edge.id(), ..Command::default() };
    service.begin("call", command)?.ok()?;
    Ok(())
}

fn custom_bytes(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &["t"])?;
    service.offers("ask", "hold")?;
    let edge = stage.edge()?;
    edge.offers("ask", "hold")?;
    let with = |name: &str, edge: u64| Command {
        name: name.to_owned(),
        edge,
        custom: "user".to_owned(),
        ..Command::default()
    };
    let call = edge.begin("call", with("ask", 0))?;
    let request = service.request("ask")?;
    same!(request.custom, format!("75736572{:016x}", edge.id()));
    service.answer(&request, "")?;
    call.ok()?;
    let call = service.begin("call", with("ask", edge.id()))?;
    let request = edge.request("ask")?;
    same!(request.custom, "75736572");
    edge.answer(&request, "")?;
    call.ok()?;
    for (from, to, target) in [(&edge, &service, 0), (&service, &edge, edge.id())] {
        let publish = from.begin("publish", with("t", target))?;
        let message = to.receive()?.ok()?;
        same!(message.custom, "75736572");
        to.settle(&message, "")?;
        publish.ok()?;
    }
    Ok(())
}

fn errors(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &[])?;
    service.offers("fail", "fail")?;
    let edge = stage.edge()?;
    edge.offers("fail", "fail")?;
    for text in ["no", "not <this> & \"that\"", "nächstes Mal 漢", "edge not online, or so"] {
        same!(edge.call(0, "fail", text)?.failed()?, text);
        same!(service.call(edge.id(), "fail", text)?.failed()?, text);
    }
    Ok(())
}

fn absent(stage: &Stage) -> anyhow::Result<()> {
    let edge = stage.edge()?;
    told(&edge, &edge.call(0, "echo", "")?.failed()?, "record not found", "method_not_found")?;
    let service = stage.service("s", &[])?;
    service.offers("echo", "echo")?;
    told(&edge, &edge.call(0, "nothing", "")?.failed()?, "record not found", "method_not_found")?;
    told(&edge, &edge.call(0, "ECHO", "")?.failed()?, "record not found", "method_not_found")?;
    let unknown = service.call(edge.id(), "nothing", "")?.failed()?;
    told(&service, &unknown, "no such rpc: nothing", "method_not_found")?;
    let offline = service.call(12_345, "echo", "")?.failed()?;
    told(&service, &offline, "edge not online", "edge_not_online")?;
    edge.close()?.ok()?;
    let gone = service.call(edge.id(), "echo", "")?.failed()?;
    told(&service, &gone, "edge not online", "edge_not_online")
}

fn reserved(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &[])?;
    let edge = stage.edge()?;
    service.offers("edge_offline", "hold")?;
    service.offers("echo", "echo")?;
    for name in ["get_edge_id", "edge_online", "edge_offline"] {
        let error = edge.call(0, name, "{}")?.failed()?;
        ensure!(edge.kind().is_go() || error == "permission_denied", "{name}: {error}");
    }
    echoes(&edge, 0, &Payload::from("still here"))
}

/// A call that its caller gives up after 400 ms, in the way of `how`.
fn hurried(caller: &Handle, edge: u64, how: &str) -> anyhow::Result<frontier_e2e::player::Pending> {
    let (timeout, deadline) = if how == "timeout" { (400, 0) } else { (0, 400) };
    let command = Command { edge, name: "ask".to_owned(), timeout, deadline, ..Command::default() };
    caller.begin("call", command)
}

fn deadlines(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &[])?;
    let edge = stage.edge()?;
    for handle in [&service, &edge] {
        handle.offers("ask", "hold")?;
        handle.offers("echo", "echo")?;
    }
    for (caller, callee, target) in [(&edge, &service, 0), (&service, &edge, edge.id())] {
        for (how, text) in [("deadline", "context deadline exceeded"), ("timeout", "timeout")] {
            let call = hurried(caller, target, how)?;
            let request = callee.request("ask")?;
            // A Go service's handler never sees the request's context.
            let blind = callee.kind().is_go() && callee.id() == service.id();
            let left = request.left;
            ensure!(blind || (1..=400).contains(&left), "{left} ms are left for {} by {how}", callee.kind());
            let error = call.failed()?;
            // Go's own clock and the gateway's answer run a race.
            if error != "context deadline exceeded" {
                told(caller, &error, text, "deadline_exceeded")?;
            }
            callee.answer(&request, "too late")?;
            echoes(caller, target, &Payload::from("next"))?;
        }
    }
    Ok(())
}

fn cancelled(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &[])?;
    let edge = stage.edge()?;
    for handle in [&service, &edge] {
        handle.offers("ask", "hold")?;
        handle.offers("echo", "echo")?;
    }
    for (caller, callee, target) in [(&edge, &service, 0), (&service, &edge, edge.id())] {
        for _ in 0..3 {
            let call = caller.call(target, "ask", "")?;
            let request = callee.request("ask")?;
            caller.cancel(&call)?;
            told(caller, &call.failed()?, "context canceled", "cancelled")?;
            // A and B say nothing to anybody; a Go peer is told only if it is sure to understand.
            if matches!(caller.kind(), Kind::C | Kind::Rust) && callee.kind() == Kind::Rust {
                callee.event("cancelled", SOON)?;
            }
            callee.answer(&request, "too late")?;
            // The Go gateway's way of telling kills peers of A and B.
            echoes(caller, target, &Payload::from("next"))?;
        }
    }
    Ok(())
}

fn many(stage: &Stage) -> anyhow::Result<()> {
    const CALLS: u64 = 400;
    let service = stage.service("s", &[])?;
    service.offers("echo", "echo")?;
    let edge = stage.edge()?;
    edge.offers("echo", "echo")?;
    let command = |edge| Command {
        name: "echo".to_owned(),
        edge,
        count: CALLS.cast_signed(),
        window: 100,
        ..Command::default()
    };
    let up = edge.begin("call_many", command(0))?;
    let down = service.begin("call_many", command(edge.id()))?;
    edge.all_well(up, CALLS, 3 * SOON)?;
    service.all_well(down, CALLS, 3 * SOON)
}

fn lost(stage: &Stage) -> anyhow::Result<()> {
    /// Far below any deadline, far above what a loaded machine takes.
    const AT_ONCE: Duration = Duration::from_secs(5);
    let service = stage.fragile_service("s")?;
    service.offers("ask", "hold")?;
    let edge = stage.fragile_edge()?;
    edge.offers("ask", "hold")?;
    let call = service.call(edge.id(), "ask", "")?;
    edge.request("ask")?;
    edge.breaks()?;
    let error = call.within(AT_ONCE)?.failed()?;
    told(&service, &error, "force closed", "session_closed")?;
    let edge = stage.edge()?;
    let call = edge.call(0, "ask", "")?;
    service.request("ask")?;
    service.breaks()?;
    let error = call.within(AT_ONCE)?.failed()?;
    told(&edge, &error, "force closed", "session_closed")
}

fn too_large(stage: &Stage) -> anyhow::Result<()> {
    /// Go reads and writes JSON of this size for seconds, watched by the race detector.
    const LONG: Duration = Duration::from_secs(45);
    // As base64 it does not fit into a packet of geminio; between native peers it does.
    let large = Payload::pattern(3, 8_000_000);
    let service = stage.service("s", &[])?;
    let edge = stage.edge()?;
    let native = stage.edges.kind() == Kind::Rust && stage.services.kind() == Kind::Rust;
    for handle in [&service, &edge] {
        handle.offers("echo", "echo")?;
        handle.offers("ask", "hold")?;
    }
    for (caller, callee, target) in [(&edge, &service, 0), (&service, &edge, edge.id())] {
        if native {
            echoes(caller, target, &large)?;
            continue;
        }
        let error = caller.call(target, "echo", large.clone())?.within(LONG)?.failed()?;
        told(caller, &error, "packet payload too large", "payload_too_large")?;
        let call = caller.call(target, "ask", "")?;
        callee.answer(&callee.request("ask")?, large.clone())?;
        let error = call.within(LONG)?.failed()?;
        told(caller, &error, "packet payload too large", "payload_too_large")?;
        echoes(caller, target, &Payload::pattern(4, 700_000))?;
    }
    Ok(())
}
