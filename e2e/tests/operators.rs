//! The control plane and the admin port of a gateway with real sessions.

use std::{collections::BTreeSet, io::Write, net::TcpStream, time::Duration};

use anyhow::{Context, ensure};
use frontier_e2e::{
    certs::Authority,
    gateway::{Config, Gateway},
    http::{self, Answer},
    peer::{Dial, Peer},
    wait::{SOON, until},
};
use frontier_wire::error::ErrorCode;
use serde_json::Value;

fn json(gateway: &Gateway, path: &str) -> anyhow::Result<Value> {
    let answer = http::get(gateway.control()?, path)?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    Ok(serde_json::from_str(&answer.body)?)
}

fn kick(gateway: &Gateway, path: &str, token: Option<&str>) -> anyhow::Result<Answer> {
    let header = token.map(|token| format!("authorization: Bearer {token}"));
    let headers: Vec<&str> = header.iter().map(String::as_str).collect();
    http::request(gateway.control()?, "DELETE", path, &headers, "")
}

#[test]
fn lists_show_who_is_here() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let dial = Dial::edge(gateway.edges())?.methods(&["reboot"]).with(|hello| hello.meta = b"sn-1".to_vec());
    let edge = dial.connect()?;
    let others: Vec<Peer> =
        (0..30).map(|_| Dial::edge(gateway.edges())?.connect()).collect::<Result<_, _>>()?;
    let service =
        Dial::service(gateway.services(), "files")?.methods(&["get"]).topics(&["uploads"]).connect()?;
    let edges = json(&gateway, "/v1/edges?page_size=7&page=2")?;
    assert_eq!((&edges["count"], edges["edges"].as_array().map(Vec::len)), (&31.into(), Some(7)));
    let one = json(&gateway, &format!("/v1/edges/{}", edge.id()))?;
    assert_eq!((&one["meta"], &one["addr"]), (&"sn-1".into(), &edge.wire.local_addr()?.to_string().into()));
    let found = json(&gateway, "/v1/edges?rpc=reboot")?;
    assert_eq!((&found["count"], &found["edges"][0]["edge_id"]), (&1.into(), &edge.id().to_string().into()));
    let services = json(&gateway, "/v1/services")?;
    assert_eq!((&services["count"], &services["services"][0]["service"]), (&1.into(), &"files".into()));
    assert_eq!(json(&gateway, "/v1/services/topics")?["topics"][0], "uploads");
    drop((others, service));
    until("those that went are not listed", SOON, || {
        let edges = json(&gateway, "/v1/edges").ok()?;
        (edges["count"] == 1 && json(&gateway, "/v1/services").ok()?["count"] == 0).then_some(())
    })
}

#[test]
fn a_kick_ends_a_session() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let mut service = Dial::service(gateway.services(), "s")?.connect()?;
    for (peer, path) in [(&mut edge, "edges"), (&mut service, "services")] {
        let path = format!("/v1/{path}/{}", peer.id());
        assert_eq!(kick(&gateway, &path, None)?.status, 200);
        let away = peer.sent_away(SOON)?;
        assert_eq!((away.code, away.retry_after_ms), (ErrorCode::Cancelled, 3_000), "it may come again");
        assert_eq!(http::get(gateway.control()?, &path)?.status, 404);
        assert_eq!(kick(&gateway, &path, None)?.status, 404);
    }
    Ok(())
}

#[test]
fn with_a_token_only_those_who_show_it_may_kick() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().set("controlplane.kick_token", "s3cret"))?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let path = format!("/v1/edges/{}", edge.id());
    assert_eq!(kick(&gateway, &path, None)?.status, 401);
    assert_eq!(kick(&gateway, &path, Some("guess"))?.status, 403);
    edge.sync(SOON).context("nobody was entitled")?;
    assert_eq!(http::get(gateway.control()?, &path)?.status, 200, "looking is free");
    assert_eq!(kick(&gateway, &path, Some("s3cret"))?.status, 200);
    edge.sent_away(SOON)?;
    Ok(())
}

#[test]
fn a_token_whose_file_has_gone_stays_in_force() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("token");
    std::fs::write(&file, "s3cret\n")?;
    let gateway = Gateway::start(&Config::new().set("controlplane.kick_token", file.to_string_lossy()))?;
    std::fs::remove_file(&file)?;
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    let path = format!("/v1/edges/{}", edge.id());
    assert_eq!(kick(&gateway, &path, Some("guess"))?.status, 403);
    assert_eq!(kick(&gateway, &path, Some("s3cret"))?.status, 200);
    edge.sent_away(SOON)?;
    Ok(())
}

#[test]
fn the_admin_port_tells_health_and_takes_a_log_level() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().set("identity.key", "00".repeat(32)))?;
    let admin = gateway.admin()?;
    assert_eq!(http::get(admin, "/healthz")?.status, 200);
    assert_eq!(http::get(admin, "/readyz")?.status, 200);
    let config = http::get(admin, "/config")?;
    ensure!(config.body.contains("***") && !config.body.contains("0000000000"), "{}", config.body);
    assert_eq!(http::request(admin, "PUT", "/log-level", &[], "no such level!")?.status, 400);
    ensure!(http::request(admin, "PUT", "/log-level", &[], "warn")?.status < 300);
    let online = |gateway: &Gateway| gateway.log().find(|line| line.message() == "session online").len();
    drop(Dial::edge(gateway.edges())?.connect()?);
    ensure!(http::request(admin, "PUT", "/log-level", &[], "info")?.status < 300);
    drop(Dial::edge(gateway.edges())?.connect()?);
    gateway.log().wait(SOON, |line| line.message() == "session online")?;
    assert_eq!(online(&gateway), 1, "the first one came while only warnings were logged");
    Ok(())
}

#[test]
fn a_scrape_names_every_metric_once_and_ends_as_it_should() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let scrape = http::get(gateway.admin()?, "/metrics")?.body;
    let mut seen = BTreeSet::new();
    for name in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        ensure!(seen.insert(name), "twice: {name}");
    }
    ensure!(seen.len() > 20 && scrape.ends_with("# EOF\n"));
    Ok(())
}

#[test]
fn connections_that_are_left_open_keep_no_probe_out() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let admin = gateway.admin()?;
    // Each asks once, as a program would that keeps its connection; together they are more than there are places.
    let mut idle = Vec::new();
    for _ in 0..600 {
        let mut io = TcpStream::connect(admin)?;
        // One that found no place is closed, before or after it could ask.
        drop(write!(io, "GET /healthz HTTP/1.1\r\nhost: {admin}\r\n\r\n"));
        idle.push(io);
    }
    until("a probe is answered", Duration::from_secs(5), || {
        http::get(admin, "/healthz").is_ok_and(|answer| answer.status == 200).then_some(())
    })
}

/// The metrics of `docs/configuration.md`: name in a scrape, and type.
fn documented() -> BTreeSet<(String, String)> {
    let rows = include_str!("../../docs/configuration.md").lines().filter_map(|row| row.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split_once("` | "));
    cells
        .filter_map(|(name, rest)| Some((name, rest.split_once(" | ")?.0)))
        .filter(|(_, kind)| ["counter", "gauge", "histogram"].contains(kind))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

#[test]
fn the_documents_name_every_metric_and_no_other() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let pair = Authority::new()?.issue("gateway")?.write(dir.path(), "gateway")?;
    let config = Config::new()
        .set("servicebound.listen.tls", serde_json::json!({"enable": true, "certs": [pair]}))
        .set("edgebound.bypass_enable", true)
        .set("edgebound.bypass.addrs", serde_json::json!(["127.0.0.1:9"]));
    let gateway = Gateway::start(&config)?;
    let scrape = http::get(gateway.admin()?, "/metrics")?.body;
    let shown: BTreeSet<(String, String)> = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| {
            (format!("{name}{}", if kind == "counter" { "_total" } else { "" }), kind.to_owned())
        })
        .collect();
    let mut documented = documented();
    if !shown.iter().any(|(name, _)| name.starts_with("frontier_allocator")) {
        documented.retain(|(name, _)| !name.starts_with("frontier_allocator"));
    }
    // Those of the link to the cluster's registry, which this gateway does not have; the link's own tests have them.
    documented.retain(|(name, _)| !name.starts_with("frontier_atlas_"));
    assert_eq!(documented, shown);
    Ok(())
}
