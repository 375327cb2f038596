//! Gateways of the Go system at the registry: programs on the Go library, in three generations, that do what those do.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, ensure};
use frontier_e2e::{
    certs::Authority,
    frontlas::{Config, Frontlas},
    http,
    player::{Kind, Unavailable, go_program},
    program::Program,
    redis::Redis,
    wait::{SOON, until},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Runs a test for generations of the Go library; left out without network where that is wanted.
fn with_go(kinds: &[Kind], test: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for kind in kinds {
        match go_program(*kind) {
            Err(error) if error.is::<Unavailable>() && std::env::var_os("FRONTIER_OFFLINE").is_some() => {
                eprintln!(
                    "\n!!!!! SKIPPED: no gateway of generation {kind}, as FRONTIER_OFFLINE wants it !!!!!\n"
                );
            }
            program => test(program?).with_context(|| format!("generation {kind}"))?,
        }
    }
    Ok(())
}

/// A Go gateway.
struct GoGateway(Program);

impl GoGateway {
    fn start(
        program: &Path,
        registry: SocketAddr,
        name: &str,
        port: u16,
        tls: &[&str],
    ) -> anyhow::Result<Self> {
        let (registry, services) = (registry.to_string(), format!("127.0.0.1:{port}"));
        let args = ["gateway", &registry, name, &services, "127.0.0.1:30012"];
        Ok(Self(Program::start(program, args.iter().chain(tls))?))
    }

    fn connect(program: &Path, registry: SocketAddr, name: &str, port: u16) -> anyhow::Result<Self> {
        let gateway = Self::start(program, registry, name, port, &[])?;
        gateway.0.says("connected")?;
        Ok(gateway)
    }

    /// Calls; what became of it.
    fn call(&mut self, method: &str, value: &Value) -> anyhow::Result<String> {
        let before = self.0.said(&format!("{method} ")).len();
        self.0.types(&format!("{method} {value}"))?;
        until(method, SOON, || self.0.said(&format!("{method} ")).get(before).cloned())
            .with_context(|| self.0.printed())
    }

    fn tell(&mut self, method: &str, value: &Value) -> anyhow::Result<()> {
        let answer = self.call(method, value)?;
        ensure!(answer == format!("{method} done \"\""), "{answer}");
        Ok(())
    }

    fn online(&mut self, edge: u64) -> anyhow::Result<()> {
        self.tell("edge_online", &json!({"edge_id": edge, "addr": "1.2.3.4:5"}))
    }

    fn heartbeat(&mut self, edge: u64) -> anyhow::Result<()> {
        self.tell("edge_heartbeat", &json!({"edge_id": edge}))
    }
}

fn ask(atlas: &Frontlas, path: &str) -> anyhow::Result<Value> {
    let answer = http::get(atlas.api(), path)?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    Ok(serde_json::from_str(&answer.body)?)
}

/// The name of the gateway that has an edge.
fn place(atlas: &Frontlas, edge: u64) -> Option<String> {
    let answer = ask(atlas, &format!("/cluster/v1/frontier?edge_id={edge}")).ok()?;
    Some(answer["fontier"]["frontierId"].as_str()?.to_owned())
}

/// Waits until an edge is there, or nowhere.
fn found(atlas: &Frontlas, edge: u64, at: Option<&str>) -> anyhow::Result<()> {
    let mut last = None;
    until("place of an edge", SOON, || {
        last = place(atlas, edge);
        (last.as_deref() == at).then_some(())
    })
    .with_context(|| format!("edge {edge} is at {last:?}, not at {at:?}"))
}

fn names(atlas: &Frontlas) -> anyhow::Result<Vec<String>> {
    let frontiers = ask(atlas, "/cluster/v1/frontiers")?;
    let name = |frontier: &Value| frontier["frontierId"].as_str().map(str::to_owned);
    Ok(frontiers["frontiers"].as_array().context("no list")?.iter().filter_map(name).collect())
}

#[test]
fn a_gateway_of_every_generation_reports_what_it_has() -> anyhow::Result<()> {
    with_go(&Kind::GO, |program| {
        let atlas = Frontlas::start(&Config::new())?;
        atlas.ready()?;
        let mut gateway = GoGateway::connect(program, atlas.gateways(), "go-a", 30_011)?;
        for method in ["edge_online", "edge_offline", "edge_heartbeat", "service_online"] {
            gateway.0.says(&format!("offered {method}"))?;
        }
        gateway.0.says("offered frontier_stats")?;
        gateway.online(7)?;
        // What it was answered is there.
        assert_eq!(place(&atlas, 7).as_deref(), Some("go-a"));
        let frontiers = ask(&atlas, "/cluster/v1/frontiers")?;
        assert_eq!(frontiers["frontiers"][0]["advertisedSbAddr"], "127.0.0.1:30011");
        let service = json!({"service_id": 9, "service": "{\"service\":\"echo\",\"topics\":null}", "addr": "1.2.3.4:6"});
        gateway.tell("service_online", &service)?;
        let services = ask(&atlas, "/cluster/v1/services")?;
        assert_eq!(services["services"][0]["service"], "echo");
        gateway.heartbeat(7)?;
        gateway.tell("service_heartbeat", &json!({"service_id": 9}))?;
        gateway.tell("frontier_stats", &json!({"edge_count": 5, "service_count": 1}))?;
        until("count of edges", SOON, || {
            (ask(&atlas, "/cluster/v1/edges/count").ok()?["count"] == "5").then_some(())
        })?;
        let answer = gateway.call("edge_online", &json!({"edge_id": "seven"}))?;
        ensure!(answer.starts_with("edge_online failed: invalid argument"), "{answer}");
        gateway.tell("edge_offline", &json!({"edge_id": 7}))?;
        assert_eq!(place(&atlas, 7), None);

        gateway.online(8)?;
        gateway.0.types("close")?;
        gateway.0.says("closed")?;
        until("an empty list", SOON, || names(&atlas).is_ok_and(|names| names.is_empty()).then_some(()))?;
        assert_eq!(atlas.metric("frontlas_go_gateways_refused_total", &[])?, 0.0);
        Ok(())
    })
}

#[test]
fn a_registry_that_is_killed_finds_the_edges_again() -> anyhow::Result<()> {
    with_go(&[Kind::C], |program| {
        let redis = Redis::start([""; 0])?;
        let first = Frontlas::start(&Config::redis(redis.addr()))?;
        first.ready()?;
        let plane = first.gateways();
        let mut gateway = GoGateway::connect(program, plane, "go-a", 30_011)?;
        for edge in [1, 2] {
            gateway.online(edge)?;
        }
        first.signal(Signal::KILL)?;
        drop(first);
        gateway.0.says("registry lost")?;
        let config = Config::redis(redis.addr()).set("frontier_plane.listen.addr", plane.to_string());
        let second = Frontlas::start(&config)?;
        second.ready()?;
        gateway.0.says("registry found")?;
        for edge in [1, 2] {
            found(&second, edge, Some("go-a"))?;
        }
        // One leaves, the other one stays.
        gateway.tell("edge_offline", &json!({"edge_id": 2}))?;
        gateway.heartbeat(1)?;
        found(&second, 1, Some("go-a"))?;
        assert_eq!(place(&second, 2), None);
        Ok(())
    })
}

#[test]
fn a_registry_without_memory_learns_of_edges_by_their_heartbeats() -> anyhow::Result<()> {
    with_go(&[Kind::C], |program| {
        let first = Frontlas::start(&Config::new())?;
        let plane = first.gateways();
        let mut gateway = GoGateway::connect(program, plane, "go-a", 30_011)?;
        gateway.online(1)?;
        drop(first);
        gateway.0.says("registry lost")?;
        let second = Frontlas::start(&Config::new().set("frontier_plane.listen.addr", plane.to_string()))?;
        gateway.0.says("registry found")?;
        assert_eq!(place(&second, 1), None);
        gateway.heartbeat(1)?;
        found(&second, 1, Some("go-a"))
    })
}

#[test]
fn edges_move_between_gateways_and_the_newest_session_counts() -> anyhow::Result<()> {
    with_go(&[Kind::C], |program| {
        let redis = Redis::start([""; 0])?;
        let config = Config::redis(redis.addr());
        // Each at an atlas of its own.
        let (one, two) = (Frontlas::start(&config)?, Frontlas::start(&config)?);
        let mut a = GoGateway::connect(program, one.gateways(), "go-a", 30_011)?;
        let mut b = GoGateway::connect(program, two.gateways(), "go-b", 30_111)?;
        a.online(7)?;
        found(&two, 7, Some("go-a"))?;
        b.online(7)?;
        found(&one, 7, Some("go-b"))?;
        // The session that a still has takes nothing back, neither while it lives nor when it ends.
        a.heartbeat(7)?;
        a.tell("edge_offline", &json!({"edge_id": 7}))?;
        b.heartbeat(7)?;
        found(&one, 7, Some("go-b"))?;
        a.online(7)?;
        found(&two, 7, Some("go-a"))?;
        assert_eq!(names(&two)?, ["go-a", "go-b"]);
        // Its name is taken as long as it lives.
        let other = GoGateway::start(program, two.gateways(), "go-a", 30_211, &[])?;
        other.0.says("frontier already set")?;
        Ok(())
    })
}

#[test]
fn certificates_hold_for_go_gateways_too() -> anyhow::Result<()> {
    with_go(&[Kind::C], |program| {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let ca = dir.path().join("ca.crt");
        std::fs::write(&ca, &authority.pem)?;
        let pair = authority.issue("frontlas")?.write(dir.path(), "frontlas")?;
        authority.issue("go-a")?.write(dir.path(), "go-a")?;
        let tls = json!({"enable": true, "mtls": true, "ca_certs": [ca], "certs": [pair]});
        let atlas = Frontlas::start(&Config::new().set("frontier_plane.listen.tls", tls))?;
        let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let files = [file("ca.crt"), file("go-a.crt"), file("go-a.key")];
        let files = files.each_ref().map(String::as_str);

        let mut gateway = GoGateway::start(program, atlas.gateways(), "go-a", 30_011, &files)?;
        gateway.0.says("connected")?;
        gateway.online(7)?;
        assert_eq!(place(&atlas, 7).as_deref(), Some("go-a"));
        let forged = GoGateway::start(program, atlas.gateways(), "go-b", 30_111, &files)?;
        forged.0.says("the certificate does not cover the name `go-b`")?;
        let mut nobody = GoGateway::start(program, atlas.gateways(), "go-a", 30_011, &files[..1])?;
        ensure!(!nobody.0.exit()?.success(), "without a certificate");
        Ok(())
    })
}

#[test]
fn a_registry_that_drains_lets_its_gateways_go() -> anyhow::Result<()> {
    with_go(&[Kind::C], |program| {
        let mut atlas = Frontlas::start(&Config::new())?;
        let gateway = GoGateway::connect(program, atlas.gateways(), "go-a", 30_011)?;
        atlas.signal(Signal::TERM)?;
        gateway.0.says("registry lost")?;
        let status = atlas.wait_exit(Duration::from_secs(15))?;
        ensure!(status.success(), "{status:?}");
        Ok(())
    })
}
