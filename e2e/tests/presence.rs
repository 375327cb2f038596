//! Who is online, under which ID, and who hears of it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Gateway},
    peer::{Dial, Peer, Refusal, Wire},
    wait::{SOON, until},
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameType},
        proto,
    },
};
use prost::Message;

/// A peer cut by takeover is gone within a second, plus what a machine under load may add.
const TAKEOVER: Duration = Duration::from_secs(5);

/// The next question or event about an edge: what to answer to, its name and the edge.
fn asked(service: &mut Peer) -> anyhow::Result<(u64, String, proto::EdgeInfo)> {
    let (id, call, body) = service.operation(SOON)?;
    Ok((id, call.name, proto::EdgeInfo::decode(body.as_slice())?))
}

/// Says Hello and lets `answer` handle what the service is asked before the gateway answers.
fn join(
    gateway: &Gateway,
    dial: &Dial,
    answer: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Result<Peer, Refusal>> {
    let mut wire = Wire::dial(gateway.edges())?;
    dial.greet(&mut wire)?;
    answer()?;
    dial.welcomed(wire)
}

#[test]
fn the_id_service_decides_and_may_refuse() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let mut service = Dial::service(gateway.services(), "ids")?.methods(&["get_edge_id"]).connect()?;
    let dial = Dial::edge(gateway.edges())?.wish(5).with(|hello| hello.meta = b"sn-42".to_vec());
    let edge = join(&gateway, &dial, || {
        let (id, name, info) = asked(&mut service)?;
        assert_eq!((name.as_str(), info.edge, info.meta.as_slice()), ("get_edge_id", 5, &b"sn-42"[..]));
        service.respond(id, &proto::EdgeInfo { edge: 42, ..proto::EdgeInfo::default() }.encode_to_vec())
    })?;
    let edge = edge.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    assert_eq!(edge.id(), 42);
    let refusal = join(&gateway, &dial, || {
        let (id, ..) = asked(&mut service)?;
        service.fail(FrameType::Response, id, ErrorCode::Application, "unknown device")
    })?;
    let refusal = refusal.err().context("welcome")?;
    assert_eq!((refusal.code, refusal.text.as_str()), (ErrorCode::Application, "unknown device"));
    gateway.metric_reaches("frontier_refusals_total", &["reason=\"denied\""], 1.0)
}

#[test]
fn without_an_id_service_and_allocation_edges_are_refused() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().set("edgebound.edgeid_alloc_when_no_idservice_on", false))?;
    let refusal = Dial::edge(gateway.edges())?.attempt()?.err().context("welcome")?;
    assert_eq!(refusal.code, ErrorCode::ServiceNotOnline);
    Ok(())
}

#[test]
fn services_hear_who_comes_and_goes_and_may_refuse() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let dial = Dial::service(gateway.services(), "s")?.methods(&["edge_online", "edge_offline"]);
    let mut service = dial.connect()?;
    let dial = Dial::edge(gateway.edges())?.with(|hello| hello.meta = b"sn-1".to_vec());
    let mut online = None;
    let edge = join(&gateway, &dial, || {
        let (id, name, info) = asked(&mut service)?;
        assert_eq!((name.as_str(), info.meta.as_slice()), ("edge_online", &b"sn-1"[..]));
        online = Some(info);
        service.respond(id, &[])
    })?;
    let edge = edge.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    let online = online.context("no event")?;
    assert_eq!((online.edge, online.epoch), (edge.id(), edge.welcome().epoch));
    assert_eq!(online.addr, edge.wire.local_addr()?.to_string());
    drop(edge);
    let (id, name, info) = asked(&mut service)?;
    assert_eq!((name.as_str(), info.edge, info.epoch), ("edge_offline", online.edge, online.epoch));
    service.respond(id, &[])?;
    let mut refused = 0;
    let refusal = join(&gateway, &dial, || {
        let (id, _, info) = asked(&mut service)?;
        refused = info.edge;
        service.fail(FrameType::Response, id, ErrorCode::PermissionDenied, "not today")
    })?;
    assert_eq!(refusal.err().context("welcome")?.text, "not today");
    let call = service.request_edge(refused, "m", b"")?;
    assert_eq!(service.answer(call, SOON)?.err().context("answer")?.code, ErrorCode::EdgeNotOnline);
    Ok(())
}

#[test]
fn a_service_that_asks_gets_a_list_of_all() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let dial = Dial::edge(gateway.edges())?.with(|hello| hello.meta = vec![7; 1_000]);
    // More than one page.
    let edges: Vec<Peer> = (0..40).map(|_| dial.connect()).collect::<Result<_, _>>()?;
    let mut service = Dial::service(gateway.services(), "s")?.connect()?;
    let id = service.new_id();
    service.wire.frame(FrameType::Presence, Flags::NONE, id, &[], &[])?;
    let (mut seen, mut pages) = (BTreeSet::new(), 0);
    loop {
        let page = service.frame(FrameType::Presence, SOON)?;
        assert_eq!(page.id, id);
        pages += 1;
        let infos = proto::PresencePage::decode(page.body.as_slice())?.edges;
        seen.extend(infos.iter().map(|info| (info.edge, info.epoch)));
        if !page.flags.more() {
            break;
        }
    }
    ensure!(pages > 1, "40 KiB on one page");
    assert_eq!(seen, edges.iter().map(|edge| (edge.id(), edge.welcome().epoch)).collect());
    Ok(())
}

#[test]
fn the_newest_connection_takes_over_and_services_hear_it_in_order() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let mut old = Dial::edge(gateway.edges())?.connect()?;
    let id = old.id();
    let dial = Dial::service(gateway.services(), "s")?.methods(&["edge_online", "edge_offline"]);
    let mut service = dial.connect()?;
    let ticket = old.welcome().ticket.clone();
    let dial = Dial::edge(gateway.edges())?.with(|hello| hello.ticket = ticket);
    let (start, old_epoch) = (Instant::now(), old.welcome().epoch);
    let mut epochs = Vec::new();
    let new = join(&gateway, &dial, || {
        let (offline, name, info) = asked(&mut service)?;
        assert_eq!((name.as_str(), info.edge), ("edge_offline", id));
        epochs.push(info.epoch);
        let (online, name, info) = asked(&mut service)?;
        assert_eq!((name.as_str(), info.edge), ("edge_online", id));
        epochs.push(info.epoch);
        service.respond(offline, &[])?;
        service.respond(online, &[])
    })?;
    let mut new = new.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    assert_eq!((new.id(), epochs), (id, vec![old_epoch, new.welcome().epoch]));
    gateway.metric_reaches("frontier_tickets_total", &["outcome=\"resumed\""], 1.0)?;
    ensure!(new.welcome().epoch > old_epoch, "the newer session has the greater epoch");
    assert_eq!(old.sent_away(TAKEOVER)?.code, ErrorCode::SessionClosed);
    ensure!(start.elapsed() < TAKEOVER, "the old session lived on for {:?}", start.elapsed());
    let call = service.request_edge(id, "m", b"for the new one")?;
    let (theirs, _, body) = new.operation(SOON)?;
    assert_eq!(body, b"for the new one");
    new.respond(theirs, b"here")?;
    assert_eq!(service.answer(call, SOON)?, Ok(b"here".to_vec()));
    gateway.metric_reaches("frontier_takeovers_total", &[], 1.0)?;
    assert_eq!(gateway.metric("frontier_sessions", &["role=\"edge\""])?, 1.0);
    Ok(())
}

#[test]
fn a_session_that_reads_nothing_is_replaced_all_the_same() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let deaf = Dial::edge(gateway.edges())?.connect()?;
    let mut service = Dial::service(gateway.services(), "s")?.connect()?;
    // More than its sockets take, less than its outbox may hold.
    let calls = (0..70).map(|_| service.request_edge(deaf.id(), "m", &[7; 48 << 10]));
    let calls = calls.collect::<Result<Vec<_>, _>>()?;
    service.sync(SOON)?;
    let fds = gateway.proc().fds()?;
    let ticket = deaf.welcome().ticket.clone();
    let start = Instant::now();
    let new = Dial::edge(gateway.edges())?.with(|hello| hello.ticket = ticket).connect()?;
    assert_eq!(new.id(), deaf.id());
    // One more and one less, though the old one has not even noticed.
    until("the old connection closed", TAKEOVER, || (gateway.proc().fds().ok()? <= fds).then_some(()))?;
    ensure!(start.elapsed() < TAKEOVER, "closed after {:?}", start.elapsed());
    for call in calls {
        let refusal = service.answer(call, SOON)?.err().context("answered by nobody")?;
        assert_eq!(refusal.code, ErrorCode::SessionClosed);
    }
    drop((deaf, new));
    Ok(())
}

#[test]
fn a_service_that_never_decides_costs_the_edge_a_reject_in_time() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().set("limits.handshake", "1s"))?;
    for method in ["get_edge_id", "edge_online"] {
        let mut service = Dial::service(gateway.services(), "s")?.methods(&[method]).connect()?;
        let start = Instant::now();
        let refusal = Dial::edge(gateway.edges())?.attempt()?.err().context("welcome")?;
        assert_eq!(refusal.code, ErrorCode::DeadlineExceeded, "{method}: {refusal:?}");
        ensure!(
            start.elapsed() > Duration::from_millis(700),
            "{method}: refused after {:?}",
            start.elapsed()
        );
        let (asked, name, _) = asked(&mut service)?;
        assert_eq!(name, method);
        // The service is told that nobody waits any more; its answer is for nobody and harms nobody.
        assert_eq!(service.frame(FrameType::Cancel, SOON)?.id, asked);
        service.respond(asked, &[])?;
        service.sync(SOON)?;
    }
    Ok(())
}
