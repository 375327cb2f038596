//! Events about edges, the choice of IDs, snapshots.

use std::sync::Arc;

use parking_lot::Mutex;

use super::code;
use crate::{ConnectError, EdgeId, testing::Gateway};

#[tokio::test(start_paused = true)]
async fn a_service_hears_of_edges_and_sees_who_is_there() {
    let gateway = Gateway::start();
    let service = gateway.service().name("svc").connect().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (on, off) = (seen.clone(), seen.clone());
    service
        .on_edge_online(move |edge| {
            on.lock().push(format!("+{} {:?} {:?}", edge.id(), edge.meta(), edge.labels().get("site")));
            async { Ok(()) }
        })
        .await
        .unwrap();
    service
        .on_edge_offline(move |edge| {
            off.lock().push(format!("-{}", edge.id()));
            async {}
        })
        .await
        .unwrap();
    let edge = gateway.edge().meta("m").label("site", "berlin").connect().await.unwrap();
    let id = edge.id();
    let present = service.presence().await.unwrap();
    assert_eq!(present.iter().map(|edge| edge.id()).collect::<Vec<_>>(), [id]);
    assert_eq!(service.locate(id).await.unwrap(), Some(present[0].epoch()));
    assert_eq!(service.locate(12_345).await.unwrap(), None);
    edge.close().await;
    super::until(async || seen.lock().len() == 2).await;
    assert_eq!(*seen.lock(), [format!("+{id} b\"m\" Some(\"berlin\")"), format!("-{id}")]);
    assert!(service.presence().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_service_refuses_edges_and_chooses_ids() {
    let gateway = Gateway::start();
    let service = gateway.service().name("svc").connect().await.unwrap();
    service
        .on_edge_id(|edge| async move {
            Ok(edge.meta().strip_prefix(b"sn-").map(|n| EdgeId::from(n.len() as u64)))
        })
        .await
        .unwrap();
    service
        .on_edge_online(|edge| async move {
            if edge.meta().is_empty() { Err("who are you?".into()) } else { Ok(()) }
        })
        .await
        .unwrap();
    assert_eq!(gateway.edge().meta("sn-1234567").connect().await.unwrap().id(), EdgeId::from(7));
    match gateway.edge().connect().await {
        Err(ConnectError::Rejected(error)) => {
            assert_eq!((error.text(), code(error.clone())), ("who are you?", "application"))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn events_about_one_edge_run_in_order_even_when_handlers_are_slow() {
    let gateway = Gateway::start();
    let service = gateway.service().name("svc").connect().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (on, off) = (seen.clone(), seen.clone());
    service.on_edge_id(|_| async { Ok(Some(EdgeId::from(5))) }).await.unwrap();
    service
        .on_edge_online(move |edge| {
            on.lock().push(("online", edge.epoch()));
            async { Ok(()) }
        })
        .await
        .unwrap();
    service
        .on_edge_offline(move |edge| {
            let off = off.clone();
            async move {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                off.lock().push(("offline", edge.epoch()));
            }
        })
        .await
        .unwrap();
    let first = gateway.edge().meta("a").connect().await.unwrap();
    // The second takes over: offline of the first and online of the second come in one breath.
    let second = gateway.edge().meta("b").connect().await.unwrap();
    assert_eq!(first.id(), second.id());
    super::until(async || seen.lock().len() == 3).await;
    let seen = seen.lock();
    assert_eq!(seen.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["online", "offline", "online"]);
    assert!(seen[1].1 < seen[2].1);
}

#[tokio::test(start_paused = true)]
async fn the_newer_of_two_clients_with_one_id_wins_and_the_older_stays_away() {
    let gateway = Gateway::start();
    let service = gateway.service().name("svc").connect().await.unwrap();
    service.on_edge_id(|_| async { Ok(Some(EdgeId::from(5))) }).await.unwrap();
    let first = gateway.edge().connect().await.unwrap();
    let second = gateway.edge().connect().await.unwrap();
    let mut watch = first.watch();
    watch.until(crate::State::is_closed).await;
    assert!(
        matches!(first.state(), crate::State::Closed { reason } if matches!(*reason, ConnectError::TakenOver))
    );
    assert_eq!(code(first.call("x", "").await.unwrap_err()), "session_closed");
    assert!(second.state().is_connected());
}
