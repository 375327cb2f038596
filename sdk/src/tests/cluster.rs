//! Services of a cluster: several gateways within the process, and a registry that speaks gRPC through pipes in memory.

mod find;
mod merge;
mod scripted;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{code, settle, until};
use crate::{
    ConnectError, Edge, EdgeId, Reconnect, Request, Service, State,
    testing::{Cluster, cluster::Manner},
};

/// A service that is connected to all gateways of the cluster.
async fn service(cluster: &Cluster, gateways: usize) -> Service {
    let service = cluster.service().name("svc").topics(["t"]).connect().await.unwrap();
    connected(&service, gateways).await;
    service
}

/// Until the service is connected to so many gateways, and wants no others.
async fn connected(service: &Service, gateways: usize) {
    until(async || {
        let all = service.gateways();
        all.len() == gateways && all.iter().all(|gateway| gateway.state().is_connected())
    })
    .await;
}

/// An edge at a gateway that answers `who` with its number, and counts.
async fn echo(cluster: &Cluster, gateway: usize) -> (Edge, Arc<AtomicUsize>) {
    let edge = cluster.edge_at(gateway).connect().await.unwrap();
    let count = offer(&edge).await;
    (edge, count)
}

/// Counts the calls of `echo`.
async fn offer(edge: &Edge) -> Arc<AtomicUsize> {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let echo = move |req: Request| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Ok(req.into_body()) }
    };
    edge.register("echo", echo).await.unwrap();
    calls
}

#[tokio::test(start_paused = true)]
async fn the_constructor_is_all_that_differs() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    service.register("up", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
    for gateway in 0..2 {
        let (edge, _) = echo(&cluster, gateway).await;
        assert_eq!(edge.call("up", "1").await.unwrap().body(), "1");
        assert_eq!(service.call(edge.id(), "echo", "2").await.unwrap().body(), "2");

        let (published, message) = tokio::join!(edge.publish("t", "3").into_future(), async {
            let message = service.receive().await.unwrap();
            (message.from(), message.done().await)
        });
        published.unwrap();
        assert_eq!(message.0.edge(), Some(edge.id()));
        let (published, message) = tokio::join!(service.publish(edge.id(), "4").into_future(), async {
            edge.receive().await.unwrap().done().await
        });
        (published.unwrap(), message.unwrap());

        let (opened, accepted) =
            tokio::join!(service.open_stream(edge.id()).into_future(), edge.accept_stream());
        (opened.unwrap(), accepted.unwrap());
        let (opened, accepted) = tokio::join!(edge.open_stream("svc").into_future(), service.accept_stream());
        assert_eq!(accepted.unwrap().peer().edge(), Some(edge.id()));
        opened.unwrap();
    }
    assert!(matches!(service.state(), State::Ready { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_joins_knows_what_is_offered_before_it_counts() {
    let mut cluster = Cluster::start(1);
    let service = service(&cluster, 1).await;
    service.register("m", |_| async { Ok("ok") }).await.unwrap();
    service.subscribe("late").await.unwrap();
    let receiver = service.clone();
    tokio::spawn(async move {
        while let Some(message) = receiver.receive().await {
            let _ = message.done();
        }
    });
    let joined = cluster.add_gateway();
    connected(&service, 2).await;
    let edge = cluster.edge_at(joined).connect().await.unwrap();
    assert_eq!(edge.call("m", "").await.unwrap().body(), "ok");
    edge.publish("late", "").await.unwrap();
    service.unregister("m").await.unwrap();
    assert_eq!(code(edge.call("m", "").await.unwrap_err()), "method_not_found");
}

#[tokio::test(start_paused = true)]
async fn all_gateways_know_the_service_by_one_id() {
    let cluster = Cluster::start(3);
    let service = service(&cluster, 3).await;
    for gateway in 0..3 {
        let edge = cluster.edge_at(gateway).connect().await.unwrap();
        edge.register("who", |req: Request| async move { Ok(req.from().to_string()) }).await.unwrap();
        let me = service.call(edge.id(), "who", "").await.unwrap();
        assert_eq!(me.body(), format!("service {}", service.id()).as_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_not_listed_is_left_only_when_its_connection_ends() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let (edge, _) = echo(&cluster, 1).await;
    cluster.registry().remove("frontier-1");
    until(async || service.gateways().iter().any(|gateway| !gateway.is_listed())).await;
    // For longer than any reconnect would take.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");
    cluster.gateway(1).unwrap().cut_all().await;
    connected(&service, 1).await;
    assert_eq!(service.gateways()[0].name(), "frontier-0");

    cluster.registry().list("frontier-1", "gateway-1:30011");
    connected(&service, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_with_another_address_is_another_gateway_and_one_with_another_name_is_not() {
    let mut cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let (edge, _) = echo(&cluster, 1).await;
    // A third one takes the name of the second.
    cluster.add_gateway();
    cluster.registry().remove("frontier-2");
    cluster.registry().list("frontier-1", "gateway-2:30011");
    connected(&service, 3).await;
    let listed = |addr: &str| {
        let all = service.gateways();
        let gateway = all.iter().find(|gateway| gateway.addr() == addr).unwrap();
        (gateway.name().to_owned(), gateway.is_listed())
    };
    assert_eq!(listed("tcp://gateway-2:30011"), ("frontier-1".to_owned(), true));
    assert!(!listed("tcp://gateway-1:30011").1);
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");

    cluster.registry().remove("frontier-0");
    cluster.registry().list("other", "gateway-0:30011");
    until(async || listed("tcp://gateway-0:30011") == ("other".to_owned(), true)).await;
    assert_eq!(service.gateways().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_fails_disturbs_no_other() {
    let mut cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let edge = cluster.edge_at(0).connect().await.unwrap();
    let slow = |_| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok("at last")
    };
    edge.register("slow", slow).await.unwrap();
    let call = tokio::spawn(service.call(edge.id(), "slow", "").into_future());
    settle().await;
    let mut watch = service.watch();
    cluster.kill_gateway(1);
    assert_eq!(call.await.unwrap().unwrap().body(), "at last");
    for _ in 0..20 {
        service.call(edge.id(), "slow", "").await.unwrap();
    }
    assert_eq!(service.gateways().iter().filter(|gateway| gateway.state().is_connected()).count(), 1);
    assert!(matches!(watch.current(), State::Ready { .. }));
    let change = tokio::time::timeout(Duration::from_secs(1), watch.changed()).await;
    assert!(change.is_err(), "the service is as ready as before: {change:?}");
}

#[tokio::test(start_paused = true)]
async fn the_service_reconnects_when_all_gateways_are_lost_and_is_ready_with_the_first() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let mut watch = service.watch();
    for gateway in 0..2 {
        cluster.gateway(gateway).unwrap().cut_all().await;
    }
    assert!(matches!(watch.changed().await, Some(State::Reconnecting { .. } | State::Ready { .. })));
    watch.until(State::is_connected).await.unwrap();
    connected(&service, 2).await;
}

#[tokio::test(start_paused = true)]
async fn without_atlas_everything_goes_on_and_its_return_costs_no_new_list() {
    let mut cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    assert_eq!(cluster.registry().snapshots(), 1);
    cluster.stop_registry();
    tokio::time::sleep(Duration::from_secs(60)).await;
    for gateway in 0..2 {
        let (edge, _) = echo(&cluster, gateway).await;
        assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");
    }
    // One that was lost comes back by itself.
    cluster.gateway(1).unwrap().cut_all().await;
    until(async || service.gateways().iter().any(|gateway| !gateway.state().is_connected())).await;
    connected(&service, 2).await;

    cluster.add_gateway();
    let back = Instant::now();
    cluster.start_registry();
    connected(&service, 3).await;
    assert!(back.elapsed() < Duration::from_secs(6), "{:?}", back.elapsed());
    assert_eq!(cluster.registry().snapshots(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_address_of_atlas_is_asked_when_one_does_not_answer() {
    let mut cluster = Cluster::start(1);
    let builder = Service::cluster(["http://nowhere:40011", "http://atlas:40011"]).dialer(cluster.dialer());
    let service = builder.connect().await.unwrap();
    cluster.add_gateway();
    connected(&service, 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_old_registry_is_polled() {
    let mut cluster = Cluster::start(1);
    cluster.registry().set_manner(Manner::Old);
    let service = service(&cluster, 1).await;
    let began = Instant::now();
    let joined = cluster.add_gateway();
    connected(&service, 2).await;
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
    let (edge, _) = echo(&cluster, joined).await;
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");
    cluster.remove_gateway(joined);
    connected(&service, 1).await;
}

#[tokio::test(start_paused = true)]
async fn gateways_known_from_the_start_need_no_atlas() {
    let mut cluster = Cluster::start(2);
    cluster.stop_registry();
    let known = ["gateway-0:30011", "tcp://gateway-1:30011"];
    let service = cluster.service().gateways(known).connect().await.unwrap();
    connected(&service, 2).await;
    let (edge, _) = echo(&cluster, 1).await;
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");
    cluster.start_registry();
    until(async || service.gateways().iter().all(|gateway| gateway.name().starts_with("frontier-"))).await;
    assert_eq!(service.gateways().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn connecting_says_what_is_missing() {
    let mut empty = Cluster::start(0);
    let none = empty.service().connect().await.unwrap_err();
    assert!(matches!(none, ConnectError::NoGateway { known: 0, last: None }), "{none:?}");
    assert!(none.is_retryable());
    empty.stop_registry();
    let unreachable = empty.service().connect().await.unwrap_err();
    assert_eq!(unreachable.kind(), "atlas", "{unreachable}");
    assert!(unreachable.to_string().contains("http://atlas:40011"), "{unreachable}");

    let mut dead = Cluster::start(2);
    dead.kill_gateway(0);
    dead.kill_gateway(1);
    let dead = dead.service().connect().await.unwrap_err();
    let ConnectError::NoGateway { known: 2, last: Some(last) } = &dead else { panic!("{dead:?}") };
    assert_eq!(last.kind(), "dial");

    let bad = Service::cluster("tcp://atlas:1").connect().await.unwrap_err();
    assert_eq!(bad.kind(), "address");
    let bad = Service::cluster("http://atlas:1").gateways(["http://a:1"]).connect().await.unwrap_err();
    assert_eq!(bad.kind(), "address");
}

#[tokio::test(start_paused = true)]
async fn one_that_connects_in_the_background_waits_for_the_cluster() {
    let mut cluster = Cluster::start(0);
    let service = cluster.service().name("svc").connect_in_background().await.unwrap();
    let registered = tokio::spawn({
        let service = service.clone();
        async move { service.register("m", |_| async { Ok("ok") }).await }
    });
    service.watch().until(|state| matches!(state, State::Reconnecting { .. })).await.unwrap();
    let gateway = cluster.add_gateway();
    registered.await.unwrap().unwrap();
    let edge = cluster.edge_at(gateway).connect().await.unwrap();
    assert_eq!(edge.call("m", "").await.unwrap().body(), "ok");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_used_up_its_attempts_is_tried_again_when_it_is_listed_anew() {
    let cluster = Cluster::start(2);
    let service = cluster.service().reconnect(Reconnect::never()).connect().await.unwrap();
    connected(&service, 2).await;
    cluster.gateway(1).unwrap().cut_all().await;
    until(async || service.gateways().iter().any(|gateway| gateway.state().is_closed())).await;
    assert!(matches!(service.state(), State::Ready { .. }));
    cluster.registry().remove("frontier-1");
    until(async || service.gateways().len() == 1).await;
    cluster.registry().list("frontier-1", "gateway-1:30011");
    connected(&service, 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_address_is_left_out() {
    let cluster = Cluster::start(1);
    for (name, address) in [("a", ""), ("b", "no address"), ("c", "http://x:1"), ("d", ":30011")] {
        cluster.registry().list(name, address);
    }
    let service = service(&cluster, 1).await;
    cluster.registry().list("frontier-0", "no address any more");
    until(async || service.gateways().iter().all(|gateway| !gateway.is_listed())).await;
    assert!(service.state().is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_list_without_end_is_cut() {
    let cluster = Cluster::start(1);
    let service = service(&cluster, 1).await;
    for number in 0..2_000 {
        cluster.registry().list(&format!("x-{number}"), &format!("nowhere-{number}:1"));
    }
    until(async || service.gateways().len() >= 1_024).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(service.gateways().len(), 1_024);
    assert!(service.state().is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_back_after_long_is_connected_to_within_seconds() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    // Nobody answers at the second one any more, for longer than any backoff of one gateway grows.
    let (nobody, mut silence) = tokio::sync::mpsc::channel(64);
    cluster.reroute(1, nobody);
    cluster.gateway(1).unwrap().cut_all().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(600) {
        tokio::select! {
            Some(pipe) = silence.recv() => drop(pipe),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    cluster.reroute_home(1);
    let back = Instant::now();
    connected(&service, 2).await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_leaves_all_gateways_and_nothing_behind() {
    let cluster = Cluster::start(3);
    let service = service(&cluster, 3).await;
    let edge = cluster.edge_at(2).connect().await.unwrap();
    let remains = service.remains();
    service.register("m", |_| async { Ok("ok") }).await.unwrap();
    assert_eq!(edge.call("m", "").await.unwrap().body(), "ok");
    service.close().await;
    assert!(matches!(service.state(), State::Closed { reason } if matches!(*reason, ConnectError::Closed)));
    assert!(service.receive().await.is_none());
    assert_eq!(code(service.call(edge.id(), "echo", "").await.unwrap_err()), "session_closed");
    assert_eq!(code(edge.call("m", "").await.unwrap_err()), "method_not_found");
    drop(service);
    until(async || !remains()).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_dropped_leaves_all_gateways() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let remains = service.remains();
    service.register("m", |_| async { Ok("ok") }).await.unwrap();
    let edge = cluster.edge_at(1).connect().await.unwrap();
    drop(service);
    until(async || edge.call("m", "").await.is_err()).await;
    until(async || !remains()).await;
}

#[tokio::test(start_paused = true)]
async fn an_edge_moves_on_when_its_gateway_drains_and_keeps_its_id() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let offline = Arc::new(AtomicUsize::new(0));
    let count = offline.clone();
    let gone = move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async {}
    };
    service.on_edge_offline(gone).await.unwrap();
    let edge = cluster.edge().connect().await.unwrap();
    let calls = offer(&edge).await;
    let id: EdgeId = edge.id();
    assert_eq!(cluster.gateway(0).unwrap().edges().await, [id]);
    assert_eq!(service.call(id, "echo", "1").await.unwrap().body(), "1");

    cluster.gateway(0).unwrap().send_away(Duration::from_millis(200)).await;
    until(async || cluster.gateway(1).unwrap().edges().await == [id]).await;
    // It goes on there, and is found there.
    edge.watch().until(|state| matches!(state, State::Ready { .. })).await.unwrap();
    until(async || !cluster.gateway(0).unwrap().edges().await.contains(&id)).await;
    assert_eq!(service.call(id, "echo", "2").await.unwrap().body(), "2");
    assert_eq!((calls.load(Ordering::SeqCst), edge.id()), (2, id));
    assert_eq!(offline.load(Ordering::SeqCst), 0);
}
