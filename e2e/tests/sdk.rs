//! The SDK against the real gateway when something ends: a crash, a drain, a takeover.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use frontier::{Edge, ErrorCode, Request, Service, State};
use frontier_e2e::{
    gateway::{Config, Gateway},
    wait::SOON,
};
use rustix::process::Signal;
use tokio::{task::JoinSet, time::timeout};

/// Gateways that know each other's tickets.
fn config() -> Config {
    Config::new().set("identity.key", "11".repeat(32)).shards(2)
}

fn at(config: Config, edges: SocketAddr, services: SocketAddr) -> Config {
    config
        .set("edgebound.listen.addr", edges.to_string())
        .set("servicebound.listen.addr", services.to_string())
}

async fn echo(request: Request) -> Result<bytes::Bytes, frontier::Error> {
    Ok(request.into_body())
}

async fn service(address: SocketAddr) -> anyhow::Result<Service> {
    Ok(Service::builder(address.to_string()).name("s").method("echo", echo).connect().await?)
}

/// Waits until the state is as wanted.
async fn until(watch: frontier::StateWatch, wanted: impl Fn(&State) -> bool) -> anyhow::Result<State> {
    let mut watch = watch;
    let state = timeout(SOON, watch.until(wanted)).await;
    state.with_context(|| format!("still {:?}", watch.current()))?.context("closed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_all_come_back_with_their_ids_and_what_they_offered() -> anyhow::Result<()> {
    let first = Gateway::start(&config())?;
    let (edges, services) = (first.edges(), first.services());
    let service = service(services).await?;
    let edge = Edge::builder(edges.to_string()).connect().await?;
    // Registered after the connection was made: it must be there after the next one as well.
    service.register("late", echo).await?;
    edge.register("ping", echo).await?;
    let (edge_id, service_id) = (edge.id(), service.id());
    assert_eq!(edge.call("late", "1").await?.body(), "1");

    let lost = (edge.watch(), service.watch());
    drop(first);
    until(lost.0, |state| !state.is_connected()).await?;
    until(lost.1, |state| !state.is_connected()).await?;
    let _second = Gateway::start(&at(config(), edges, services))?;
    until(edge.watch(), State::is_connected).await?;
    until(service.watch(), State::is_connected).await?;
    assert_eq!((edge.id(), service.id()), (edge_id, service_id));
    // Whoever is ready has been welcomed with all it offers, so nothing has to be tried twice.
    for (method, body) in [("echo", "2"), ("late", "3")] {
        assert_eq!(edge.call(method, body).await?.body(), body);
    }
    assert_eq!(service.call(edge_id, "ping", "4").await?.body(), "4");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_gateway_hands_its_edges_to_the_next_and_no_call_fails() -> anyhow::Result<()> {
    let drain = |config: Config| config.set("drain.accept_for", "300ms").set("drain.seconds", 20);
    let (mut first, second) = (Gateway::start(&drain(config()))?, Gateway::start(&drain(config()))?);
    let _services = (service(first.services()).await?, service(second.services()).await?);
    let edge = Edge::builder([first.edges().to_string(), second.edges().to_string()]).connect().await?;
    let id = edge.id();
    let over = Arc::new(AtomicBool::new(false));
    let mut calling = JoinSet::new();
    calling.spawn({
        let (edge, over) = (edge.clone(), Arc::clone(&over));
        async move {
            let mut calls = 0_u64;
            while !over.load(Ordering::Relaxed) {
                edge.call("echo", "x").await.with_context(|| format!("after {calls} calls"))?;
                calls += 1;
            }
            anyhow::Ok(calls)
        }
    });
    let mut watch = edge.watch();
    first.signal(Signal::TERM)?;
    let moved = async {
        watch.until(|state| matches!(state, State::Draining { .. })).await?;
        watch.until(|state| matches!(state, State::Ready { .. })).await
    };
    timeout(2 * SOON, moved).await?.context("closed")?;
    ensure!(first.wait_exit(3 * SOON)?.success());
    // Some more calls over the second gateway alone.
    tokio::time::timeout(SOON, async { edge.call("echo", "y").await }).await??;
    over.store(true, Ordering::Relaxed);
    let calls = calling.join_next().await.context("no caller")???;
    ensure!(calls > 10, "{calls} calls");
    assert_eq!(edge.id(), id, "its ticket is good at every gateway with the same key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_client_with_an_id_has_it_and_the_older_one_closes() -> anyhow::Result<()> {
    let gateway = Gateway::start(&config())?;
    let service = service(gateway.services()).await?;
    let old = Edge::builder(gateway.edges().to_string()).connect().await?;
    old.register("who", async |_: Request| Ok("old")).await?;
    let new = Edge::builder(gateway.edges().to_string()).resume(old.ticket()).connect().await?;
    new.register("who", async |_: Request| Ok("new")).await?;
    assert_eq!(new.id(), old.id());
    assert_eq!(service.call(new.id(), "who", "").await?.body(), "new");
    let error = old.call("echo", "").timeout(Duration::from_secs(5)).await.err().context("it lives on")?;
    assert_eq!(error.code(), ErrorCode::SessionClosed);
    until(new.watch(), State::is_connected).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_ask_at_once_who_is_online() -> anyhow::Result<()> {
    let gateway = Gateway::start(&config())?;
    let service = Service::builder(gateway.services().to_string()).connect().await?;
    let edge = Edge::builder(gateway.edges().to_string()).connect().await?;
    let mut asked = JoinSet::new();
    for _ in 0..50 {
        let service = service.clone();
        asked.spawn(async move { service.presence().await });
    }
    for online in asked.join_all().await {
        let ids: Vec<_> = online?.iter().map(frontier::EdgeInfo::id).collect();
        ensure!(ids == [edge.id()], "{ids:?}");
    }
    Ok(())
}
