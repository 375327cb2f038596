//! Connections: how they end, and what comes after.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    certs::Authority,
    gateway::{Config, Gateway},
    http,
    player::{Command, Handle, Kind},
    proxy::Proxy,
    wait::{SOON, until},
};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    same,
    stage::{Scenario, Stage, all, kinds, sides, told},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("idle peers stay, dead ones go", alone, heartbeats),
    Scenario::new("a fleet comes back after a restart", alone, storm),
    Scenario::new("whom an operator sends away comes again", sides, kicked),
    Scenario::new("a gateway that stops sends everybody away", kinds, drained),
    Scenario::new("closing is quick and leaves nothing", all, closed),
    Scenario::new("one instance leaves, the other serves on", all, instances),
    Scenario::new("certificates are checked, then all is as without", kinds, tls),
    Scenario { config: trickle, ..Scenario::new("whom the rate refuses gets in later", alone, rate) },
];

/// Go edges, with a service of ours.
fn alone(edge: Kind, service: Kind) -> bool {
    edge.is_go() && service == Kind::Rust
}

fn heartbeats(stage: &Stage) -> anyhow::Result<()> {
    /// Go's heartbeats come every 20 s; after two that are missed the gateway gives up, and closes 3 s later.
    const LIMIT: Duration = Duration::from_secs(70);
    let service = stage.service("s", &[])?;
    service.offers("echo", "echo")?;
    let idle = stage.edge()?;
    let proxy = Proxy::start(stage.gateway.edges())?;
    let dead = stage.edge_by(Command { address: proxy.addr().to_string(), ..stage.edge_command("dead") })?;
    proxy.freeze();
    let start = Instant::now();
    let path = format!("/v1/edges/{}", dead.id());
    let control = stage.gateway.control()?;
    until("a dead edge is gone", LIMIT, || (http::get(control, &path).ok()?.status == 404).then_some(()))?;
    let took = start.elapsed();
    ensure!(took > Duration::from_secs(20), "gone after {took:?}");
    same!(idle.call(0, "echo", "still here")?.ok()?.data.text, "still here");
    Ok(())
}

fn storm(stage: &Stage) -> anyhow::Result<()> {
    const EDGES: usize = 40;
    let port = || anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
    let (edges, services) = (port()?, port()?);
    let config = Config::new().set("edgebound.listen.addr", edges.as_str());
    let config = config.set("servicebound.listen.addr", services.as_str());
    let gateway = Gateway::start(&config)?;
    let service = Command { address: services, retry: true, ..stage.service_command("s", &[]) };
    let service = stage.service_by(service)?;
    service.offers("echo", "echo")?;
    let edge = || Command { address: edges.clone(), retry: true, ..stage.edge_command("of a fleet") };
    let fleet = (0..EDGES).map(|_| stage.edge_by(edge())).collect::<anyhow::Result<Vec<Handle>>>()?;
    for edge in &fleet {
        edge.offers("echo", "echo")?;
    }
    drop(gateway);
    for edge in &fleet {
        edge.event("offline", SOON)?;
    }
    let gateway = Gateway::start(&config)?;
    for edge in &fleet {
        edge.event("online", 4 * SOON)?;
    }
    service.event("online", 2 * SOON)?;
    for edge in &fleet {
        same!(edge.call(0, "echo", "up again")?.ok()?.data.text, "up again");
        same!(service.call(edge.id_now()?, "echo", "down again")?.ok()?.data.text, "down again");
    }
    let list = http::get(gateway.control()?, "/v1/edges")?;
    ensure!(list.body.contains(&format!("\"count\":{EDGES}")), "{}", list.body);
    Ok(())
}

fn kicked(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service_by(Command { retry: true, ..stage.service_command("s", &["t"]) })?;
    let edge = stage.edge_by(Command { retry: true, ..stage.edge_command("") })?;
    for handle in [&service, &edge] {
        handle.offers("echo", "echo")?;
    }
    let control = stage.gateway.control()?;
    for (handle, plural) in [(&edge, "edges"), (&service, "services")] {
        let path = format!("/v1/{plural}/{}", handle.id());
        same!(http::request(control, "DELETE", &path, &[], "")?.status, 200);
        handle.event("offline", SOON)?;
        handle.event("online", 3 * SOON)?;
    }
    same!(edge.call(0, "echo", "up again")?.ok()?.data.text, "up again");
    same!(service.call(edge.id_now()?, "echo", "down again")?.ok()?.data.text, "down again");
    let publish = edge.publish(0, "t", "once more")?;
    let message = service.receive()?.ok()?;
    same!(message.client, edge.id_now()?);
    service.settle(&message, "")?;
    publish.ok()?;
    Ok(())
}

fn drained(stage: &Stage) -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&Config::new().set("drain.seconds", 15))?;
    let (edges, services) = (gateway.edges().to_string(), gateway.services().to_string());
    let service = stage.service_by(Command { address: services, ..stage.service_command("s", &[]) })?;
    service.offers("ask", "hold")?;
    let edge = stage.edge_by(Command { address: edges, ..stage.edge_command("") })?;
    let call = edge.call(0, "ask", "")?;
    let request = service.request("ask")?;
    gateway.signal(Signal::TERM)?;
    // What is under way is finished.
    service.answer(&request, "in time")?;
    same!(call.ok()?.data.text, "in time");
    for handle in [&edge, &service] {
        handle.event("offline", 2 * SOON)?;
    }
    let status = gateway.wait_exit(3 * SOON)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn closed(stage: &Stage) -> anyhow::Result<()> {
    /// Go waits up to 30 s for a close that is not answered rightly.
    const QUICK: Duration = Duration::from_secs(5);
    let service = stage.service("s", &[])?;
    service.offers("ask", "hold")?;
    let edge = stage.edge()?;
    let accepted = service.accept()?;
    let stream = edge.stream(&edge.open(0, "s", "")?.ok()?);
    let far = service.stream(&accepted.ok()?);
    stream.write("unread", 0)?.ok()?;
    let call = edge.call(0, "ask", "")?;
    let request = service.request("ask")?;
    let reads = far.read_to_end()?;
    edge.close()?.within(QUICK)?.ok()?;
    call.failed()?;
    reads.within(QUICK)?;
    // Nobody waits for this any more.
    service.answer(&request, "too late")?;
    stage.connected("edges", 0)?;
    service.close()?.within(QUICK)?.ok()?;
    stage.connected("services", 0)?;
    let edge = stage.edge()?;
    let error = edge.call(0, "ask", "")?.failed()?;
    told(&edge, &error, "record not found", "method_not_found")
}

fn instances(stage: &Stage) -> anyhow::Result<()> {
    // Connected in one moment, their IDs are neighbours: the Go gateway forgets both when one leaves.
    let one = stage.service("s", &["t"])?;
    let two = stage.service("s", &["t"])?;
    for service in [&one, &two] {
        service.offers("who", "hold")?;
    }
    let edge = stage.edge()?;
    let calls = (0..4).map(|_| edge.call(0, "who", "")).collect::<anyhow::Result<Vec<_>>>()?;
    let first = stage.services.event(SOON, |told| told.event == "request")?;
    let (at, other) = if one.is_of(&first) { (&one, &two) } else { (&two, &one) };
    let mut requests = vec![first];
    while requests.len() < calls.len() {
        requests.push(at.request("who").context("an edge stays with its instance")?);
    }
    for request in &requests {
        at.answer(request, "me")?;
    }
    for call in calls {
        same!(call.ok()?.data.text, "me");
    }
    at.close()?.ok()?;
    stage.connected("services", 1)?;
    let call = edge.call(0, "who", "")?;
    other.answer(&other.request("who")?, "the other")?;
    same!(call.ok()?.data.text, "the other");
    let publish = edge.publish(0, "t", "")?;
    other.settle(&other.receive()?.ok()?, "")?;
    publish.ok()?;
    Ok(())
}

fn tls(stage: &Stage) -> anyhow::Result<()> {
    let authority = Authority::new()?;
    let dir = tempfile::tempdir()?;
    let pair = authority.issue("gateway")?.write(dir.path(), "gateway")?;
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem)?;
    let config = ["edgebound", "servicebound"].into_iter().fold(Config::new(), |config, side| {
        config.set(&format!("{side}.listen.tls"), json!({"enable": true, "certs": [pair]}))
    });
    let gateway = Gateway::start(&config)?;
    let ca = ca.display().to_string();
    let (edges, services) = (gateway.edges().to_string(), gateway.services().to_string());
    let service = Command { address: services, ca: ca.clone(), ..stage.service_command("s", &[]) };
    let service = stage.service_by(service)?;
    service.offers("echo", "echo")?;
    let edge = stage.edge_by(Command { address: edges, ca, ..stage.edge_command("") })?;
    edge.offers("echo", "echo")?;
    same!(edge.call(0, "echo", "up")?.ok()?.data.text, "up");
    same!(service.call(edge.id(), "echo", "down")?.ok()?.data.text, "down");
    Ok(())
}

fn trickle() -> Config {
    Config::new().shards(1).set("limits.accept_rate", 1)
}

fn rate(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &[])?;
    service.offers("echo", "echo")?;
    let mut inside = Vec::new();
    let refused = loop {
        ensure!(inside.len() < 50, "nobody is refused");
        match Handle::connect(&stage.edges, stage.edge_command("of many"))? {
            Ok(edge) => inside.push(edge),
            // Clients of A and B may miss an answer.
            Err(error) if error == "timeout" => {}
            Err(error) => break error,
        }
    };
    same!(refused, "overloaded");
    stage.gateway.metric_reaches("frontier_refusals_total", &["reason=\"rate\""], 1.0)?;
    let late =
        until("a place", 2 * SOON, || Handle::connect(&stage.edges, stage.edge_command("late")).ok()?.ok())?;
    same!(late.call(0, "echo", "at last")?.ok()?.data.text, "at last");
    Ok(())
}
