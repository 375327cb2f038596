//! Losses and moves, seen from both sides of the gateway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{code, pattern, trio};
use crate::{Request, State};

#[tokio::test(start_paused = true)]
async fn everything_works_again_after_a_loss() {
    let (gateway, service, edge) = trio().await;
    service.register("up", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
    edge.register("down", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
    let id = edge.id();
    for _ in 0..5 {
        gateway.cut_all().await;
        // The service first: an edge's call may come before it is back, which is an error like any other.
        service.watch().until(State::is_connected).await;
        super::until(async || service.locate(id).await.is_ok_and(|here| here.is_some())).await;
        assert_eq!(edge.call("up", "1").await.unwrap().body(), "1");
        assert_eq!(service.call(id, "down", "2").await.unwrap().body(), "2");
        assert_eq!(edge.id(), id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_fails_what_is_under_way_and_streams() {
    let (gateway, service, edge) = trio().await;
    service
        .register("never", |req: Request| async move {
            req.cancelled().await;
            Ok(())
        })
        .await
        .unwrap();
    let (stream, accepted) = tokio::join!(edge.open_stream("svc").into_future(), service.accept_stream());
    let (mut stream, _accepted) = (stream.unwrap(), accepted.unwrap());
    let call = tokio::task::spawn(edge.call("never", "").into_future());
    super::settle().await;
    gateway.cut(edge.id()).await;
    assert_eq!(code(call.await.unwrap().unwrap_err()), "session_closed");
    assert!(stream.read_bytes().await.is_err());
    assert_eq!(code(stream.call("x", "").await.unwrap_err()), "session_closed");
}

#[tokio::test(start_paused = true)]
async fn moving_to_another_connection_loses_nothing_and_is_no_offline() {
    let (gateway, service, edge) = trio().await;
    let offline = Arc::new(AtomicUsize::new(0));
    let count = offline.clone();
    service
        .on_edge_offline(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .await
        .unwrap();
    service
        .register("slow", |req: Request| async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            Ok(req.into_body())
        })
        .await
        .unwrap();
    let (stream, accepted) = tokio::join!(edge.open_stream("svc").into_future(), service.accept_stream());
    let (mut ours, mut theirs) = (stream.unwrap(), accepted.unwrap());
    let mut calls = Vec::new();
    for round in 0..20 {
        if round == 5 {
            gateway.send_away(Duration::from_millis(300)).await;
        }
        calls.push(tokio::task::spawn(edge.call("slow", round.to_string()).into_future()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (round, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap().body(), round.to_string().as_bytes());
    }
    // The stream has stayed on the old connection.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = pattern(300_000);
    let mut came = Vec::new();
    let (sent, got) = tokio::join!(
        async {
            ours.write_all(&body).await?;
            ours.shutdown().await
        },
        theirs.read_to_end(&mut came)
    );
    (sent.unwrap(), got.unwrap());
    assert!(came == body);
    drop((ours, theirs));
    super::settle().await;
    assert!(matches!(edge.state(), State::Ready { .. }));
    assert_eq!(offline.load(Ordering::SeqCst), 0);
    edge.close().await;
    super::until(async || offline.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn connecting_in_the_background_lets_operations_wait() {
    let gateway = crate::testing::Gateway::start();
    let service = gateway.service().name("svc").connect_in_background().await.unwrap();
    let edge = gateway.edge().connect_in_background().await.unwrap();
    let (registered, called) = tokio::join!(service.register("m", |_req| async { Ok("ok") }), async {
        service.watch().until(State::is_connected).await;
        super::settle().await;
        edge.call("m", "").await
    });
    registered.unwrap();
    assert_eq!(called.unwrap().body(), "ok");
}

#[tokio::test(start_paused = true)]
async fn an_operation_waits_for_a_connection_no_longer_than_its_deadline() {
    let (gateway, _service, edge) = trio().await;
    drop(gateway);
    edge.watch().until(|state| matches!(state, State::Reconnecting { .. })).await;
    let began = tokio::time::Instant::now();
    let error = edge.call("m", "").timeout(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(code(error), "deadline_exceeded");
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_one_instance_and_works_while_one_of_its_connections_does() {
    let gateway = crate::testing::Gateway::start();
    let service = gateway.service().name("svc").pool(4).connect().await.unwrap();
    service.register("m", |_req| async { Ok("ok") }).await.unwrap();
    let edges: Vec<_> = futures_of((0..8).map(|_| gateway.edge().connect())).await;
    for edge in &edges {
        edge.register("who", {
            let id = edge.id();
            move |_req| async move { Ok(id.to_string()) }
        })
        .await
        .unwrap();
    }
    for edge in &edges {
        assert_eq!(edge.call("m", "").await.unwrap().body(), "ok");
        assert_eq!(
            service.call(edge.id(), "who", "").await.unwrap().body(),
            edge.id().to_string().as_bytes()
        );
    }
}

async fn futures_of<T, E: std::fmt::Debug>(
    futures: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
) -> Vec<T> {
    let mut all = Vec::new();
    for future in futures {
        all.push(future.await.unwrap());
    }
    all
}
