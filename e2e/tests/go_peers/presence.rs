//! Who is who, who may come in, and who hears of it.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use frontier_e2e::{
    gateway::Config,
    player::{Command, Kind},
    wait::SOON,
};

use crate::{
    same,
    stage::{Scenario, Stage, all},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("a service gives IDs and hears who comes and goes", all, heard),
    Scenario::new("a service refuses edges in its own words", all, refused),
    Scenario {
        config: no_allocation,
        ..Scenario::new("without an ID service edges are refused", all, no_ids)
    },
    Scenario::new("a wished ID is not granted by asking for it", all, wished),
    Scenario::new("the newest edge of an ID takes over", all, takeover),
    Scenario::new("an edge that calls right after connecting is answered", all, at_once),
];

fn no_allocation() -> Config {
    Config::new().set("edgebound.edgeid_alloc_when_no_idservice_on", false)
}

fn heard(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("ids", &[])?;
    for name in ["get_edge_id", "edge_online", "edge_offline"] {
        service.offers(name, "hold")?;
    }
    // Above 2^53, where numbers of JSON end in many languages.
    let id = (1 << 60) + 1;
    for round in 0..3 {
        let meta = format!("sn-{round}");
        let connecting = stage.begin_edge(&meta)?;
        let question = service.request("get_edge_id")?;
        same!(question.data.text, meta);
        service.grant(&question, id)?;
        let online = service.request("edge_online")?;
        same!((online.client, online.data.text.as_str()), (id, meta.as_str()));
        ensure!(online.addr.parse::<SocketAddr>()?.ip().is_loopback(), "from {}", online.addr);
        ensure!(connecting.is_open(), "welcome before the service agreed");
        service.answer(&online, "")?;
        let connected = connecting.ok()?;
        same!(connected.client, id);
        let close = Command { verb: "close", end: connected.end, ..Command::default() };
        stage.edges.begin(close)?.ok()?;
        let offline = service.request("edge_offline")?;
        same!((offline.client, &offline.data, &offline.addr), (id, &online.data, &online.addr));
        service.answer(&offline, "")?;
    }
    Ok(())
}

fn refused(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("ids", &[])?;
    for name in ["get_edge_id", "edge_online"] {
        service.offers(name, "hold")?;
    }
    let connecting = stage.begin_edge("a stranger")?;
    service.refuse(&service.request("get_edge_id")?, "unknown device")?;
    same!(connecting.failed()?, "unknown device");
    let connecting = stage.begin_edge("a friend")?;
    service.grant(&service.request("get_edge_id")?, 42)?;
    service.refuse(&service.request("edge_online")?, "not today")?;
    same!(connecting.failed()?, "not today");
    service.call(42, "echo", "")?.failed()?;
    let connecting = stage.begin_edge("a friend")?;
    service.grant(&service.request("get_edge_id")?, 42)?;
    service.answer(&service.request("edge_online")?, "")?;
    same!(connecting.ok()?.client, 42);
    Ok(())
}

fn no_ids(stage: &Stage) -> anyhow::Result<()> {
    let error = stage.begin_edge("")?.failed()?;
    let expected = if stage.edges.kind() == Kind::Rust { "service_not_online" } else { "service not online" };
    same!(error, expected);
    let service = stage.service("ids", &[])?;
    service.offers("get_edge_id", "hold")?;
    let connecting = stage.begin_edge("")?;
    service.grant(&service.request("get_edge_id")?, 7)?;
    same!(connecting.ok()?.client, 7);
    Ok(())
}

fn wished(stage: &Stage) -> anyhow::Result<()> {
    let edge = stage.edge_by(Command { wish: 77, ..stage.edge_command("") })?;
    ensure!(edge.id() != 77, "granted to whoever asks");
    Ok(())
}

fn takeover(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("ids", &[])?;
    for name in ["get_edge_id", "edge_offline"] {
        service.offers(name, "hold")?;
    }
    let connect = || {
        let connecting = stage.begin_edge("sn-1")?;
        service.grant(&service.request("get_edge_id")?, 42)?;
        connecting.ok()
    };
    let first = connect()?;
    let second = connect()?;
    let register = Command {
        verb: "register",
        end: second.end,
        name: "who".to_owned(),
        how: "echo",
        ..Command::default()
    };
    stage.edges.begin(register)?.ok()?;
    // Routes move at once, although a young connection of geminio is not closed at once.
    same!(service.call(42, "who", "the second")?.ok()?.data.text, "the second");
    let offline = service.request("edge_offline")?;
    same!(offline.client, 42);
    service.answer(&offline, "")?;
    let closed = |told: &frontier_e2e::player::Told| told.event == "offline" && told.end == first.end;
    stage.edges.event(SOON, closed)?;
    same!(service.call(42, "who", "still")?.ok()?.data.text, "still");
    // The end of the first one was no event about the second.
    ensure!(
        stage.services.event(Duration::from_millis(100), |told| told.name == "edge_offline").is_err(),
        "offline twice"
    );
    Ok(())
}

fn at_once(stage: &Stage) -> anyhow::Result<()> {
    let service = stage.service("s", &["t"])?;
    service.offers("echo", "echo")?;
    for number in 0..10 {
        let edge = stage.edge()?;
        let text = format!("call {number}");
        let (call, open) = (edge.call(0, "echo", text.as_str())?, edge.open(0, "s", "")?);
        same!(call.ok()?.data.text, text);
        service.accept()?.ok()?;
        open.ok()?;
        let publish = edge.publish(0, "t", "")?;
        service.settle(&service.receive()?.ok()?, "")?;
        publish.ok()?;
        edge.close()?.within(Duration::from_secs(5))?.ok()?;
    }
    Ok(())
}
