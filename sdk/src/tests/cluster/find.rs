//! Edges are found, wherever they are and wherever they go.

use super::*;

/// Moves an edge's connection to whatever its other address is.
async fn moved(cluster: &Cluster, edge: &Edge, from: usize, to: usize) {
    cluster.gateway(from).unwrap().send_away(Duration::ZERO).await;
    until(async || cluster.gateway(to).unwrap().edges().await.contains(&edge.id())).await;
    until(async || !cluster.gateway(from).unwrap().edges().await.contains(&edge.id())).await;
}

#[tokio::test(start_paused = true)]
async fn a_place_is_looked_up_once_and_again_when_the_edge_has_moved() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let edge = cluster.edge().connect().await.unwrap();
    let calls = offer(&edge).await;
    for _ in 0..10 {
        service.call(edge.id(), "echo", "").await.unwrap();
    }
    assert_eq!(cluster.registry().look_ups(), 1);
    moved(&cluster, &edge, 0, 1).await;
    for _ in 0..10 {
        service.call(edge.id(), "echo", "").await.unwrap();
    }
    assert_eq!(cluster.registry().look_ups(), 2);
    assert_eq!(calls.load(Ordering::SeqCst), 20);
    assert_eq!(service.places_remembered(), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_and_streams_follow_an_edge_as_well() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let edge = cluster.edge().connect().await.unwrap();
    let receiver = edge.clone();
    tokio::spawn(async move {
        while let Some(message) = receiver.receive().await {
            let _ = message.done();
        }
    });
    service.publish(edge.id(), "1").await.unwrap();
    moved(&cluster, &edge, 0, 1).await;
    service.publish(edge.id(), "2").await.unwrap();
    moved(&cluster, &edge, 1, 0).await;
    let (opened, accepted) = tokio::join!(service.open_stream(edge.id()).into_future(), edge.accept_stream());
    (opened.unwrap(), accepted.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_atlas_says_is_a_hint_that_gateways_correct() {
    let cluster = Cluster::start(3);
    let service = service(&cluster, 3).await;
    let (edge, calls) = echo(&cluster, 2).await;
    cluster.registry().say(edge.id().get(), 0);
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_may_have_been_done_is_not_repeated() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let edge = cluster.edge().connect().await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let stuck = move |req: Request| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            req.cancelled().await;
            Ok(())
        }
    };
    edge.register("stuck", stuck).await.unwrap();
    let call = tokio::spawn(service.call(edge.id(), "stuck", "").into_future());
    until(async || calls.load(Ordering::SeqCst) == 1).await;
    assert!(cluster.gateway(0).unwrap().cut(edge.id()).await);
    assert_eq!(code(call.await.unwrap().unwrap_err()), "session_closed");
    edge.watch().until(State::is_connected).await.unwrap();
    settle().await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_atlas_costs_200_ms_and_a_look_up_that_fails_not_much_more() {
    let cluster = Cluster::start(3);
    let service = service(&cluster, 3).await;
    let (edge, _) = echo(&cluster, 2).await;
    cluster.registry().set_manner(Manner::Silent);
    let began = Instant::now();
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");
    assert!((200..250).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(code(service.call(99, "echo", "").await.unwrap_err()), "edge_not_online");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_has_no_time_to_look_says_so_and_takes_none_from_the_others() {
    let cluster = Cluster::start(2);
    cluster.registry().set_manner(Manner::Silent);
    let service = service(&cluster, 2).await;
    let (edge, _) = echo(&cluster, 1).await;
    let call = |millis| {
        tokio::spawn(service.call(edge.id(), "echo", "").timeout(Duration::from_millis(millis)).into_future())
    };
    let (hasty, patient) = (call(100), call(1_000));
    assert_eq!(code(hasty.await.unwrap().unwrap_err()), "deadline_exceeded");
    patient.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_two_gateways_that_have_an_edge_the_newer_session_is_right() {
    for manner in [Manner::Helpful, Manner::Silent] {
        let cluster = Cluster::start(3);
        let service = service(&cluster, 3).await;
        service.on_edge_id(|_| async { Ok(Some(EdgeId::from(5))) }).await.unwrap();
        let (_older, old) = echo(&cluster, 2).await;
        let (newer, new) = echo(&cluster, 0).await;
        cluster.registry().set_manner(manner);
        service.call(5, "echo", "").await.unwrap();
        assert_eq!((old.load(Ordering::SeqCst), new.load(Ordering::SeqCst)), (0, 1));
        let State::Ready { epoch, .. } = newer.state() else { panic!() };
        assert_eq!(service.locate(5).await.unwrap(), Some(epoch));
        let present = service.presence().await.unwrap();
        assert_eq!(
            present.iter().map(|edge| (edge.id().get(), edge.epoch())).collect::<Vec<_>>(),
            [(5, epoch)]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn look_ups_of_many_callers_for_one_edge_are_one() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let (edge, _) = echo(&cluster, 1).await;
    let all = async |id: EdgeId| {
        let calls: Vec<_> =
            (0..100).map(|_| tokio::spawn(service.call(id, "echo", "").into_future())).collect();
        let mut outcomes = Vec::new();
        for call in calls {
            outcomes.push(call.await.unwrap().map_err(code));
        }
        outcomes
    };
    assert!(all(edge.id()).await.iter().all(Result::is_ok));
    assert_eq!(cluster.registry().look_ups(), 1);
    let nowhere = all(99.into()).await;
    assert!(nowhere.iter().all(|outcome| *outcome.as_ref().unwrap_err() == "edge_not_online"), "{nowhere:?}");
    assert_eq!(cluster.registry().look_ups(), 2);
    // Whoever comes later is not told what was said to those.
    assert_eq!(code(service.call(99, "echo", "").await.unwrap_err()), "edge_not_online");
    assert_eq!(cluster.registry().look_ups(), 3);
}

#[tokio::test(start_paused = true)]
async fn messages_keep_their_order_although_the_first_waits_for_a_look_up() {
    let cluster = Cluster::start(2);
    cluster.registry().set_manner(Manner::Silent);
    let service = service(&cluster, 2).await;
    let edge = cluster.edge_at(1).connect().await.unwrap();
    let id = edge.id();
    let mut sent: Vec<_> =
        (0..50).map(|n| Box::pin(service.publish(id, n.to_string()).into_future())).collect();
    // All are under way, in this order, before the first has found its way.
    for publish in &mut sent {
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(publish.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    }
    // They go on as they are woken, here last one first.
    let sent: Vec<_> = sent.into_iter().rev().map(tokio::spawn).collect();
    for n in 0..50 {
        let message = edge.receive().await.unwrap();
        assert_eq!(message.body(), n.to_string().as_bytes());
        message.done().await.unwrap();
    }
    for publish in sent {
        publish.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_one_gateway_needs_no_look_ups() {
    let cluster = Cluster::start(1);
    let service = service(&cluster, 1).await;
    let (edge, _) = echo(&cluster, 0).await;
    service.call(edge.id(), "echo", "").await.unwrap();
    assert_eq!(code(service.call(99, "echo", "").await.unwrap_err()), "edge_not_online");
    assert_eq!(cluster.registry().look_ups(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_edge_at_a_gateway_that_cannot_be_reached_is_an_error_that_names_it() {
    let mut cluster = Cluster::start(3);
    let service = service(&cluster, 3).await;
    cluster.kill_gateway(2);
    until(async || service.gateways().iter().any(|gateway| !gateway.state().is_connected())).await;
    cluster.registry().say(7, 2);
    let began = Instant::now();
    let error = service.call(7, "echo", "").await.unwrap_err();
    assert_eq!(error.code().name(), "edge_not_online");
    assert!(error.text().contains("frontier-2 (tcp://gateway-2:30011), which is not connected"), "{error}");
    assert_eq!(began.elapsed().as_secs(), 10);
    // Not longer than somebody waits.
    let began = Instant::now();
    let error = service.call(7, "echo", "").timeout(Duration::from_secs(2)).await.unwrap_err();
    assert!(error.text().contains("not connected"), "{error}");
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_edge_at_a_gateway_that_is_just_coming_is_waited_for() {
    let mut cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let joined = cluster.add_gateway();
    let (edge, _) = echo(&cluster, joined).await;
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");

    // The same when the list is polled and does not have it for seconds.
    let mut cluster = Cluster::start(2);
    cluster.registry().set_manner(Manner::Old);
    let service = self::service(&cluster, 2).await;
    let joined = cluster.add_gateway();
    let (edge, _) = echo(&cluster, joined).await;
    let began = Instant::now();
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_edge_whose_gateway_dies_is_found_where_it_comes_back() {
    let mut cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let edge = cluster.edge().connect().await.unwrap();
    let calls = offer(&edge).await;
    service.call(edge.id(), "echo", "").await.unwrap();
    cluster.kill_gateway(0);
    edge.watch().until(|state| !state.is_connected()).await.unwrap();
    edge.watch().until(State::is_connected).await.unwrap();
    assert_eq!(service.call(edge.id(), "echo", "2").await.unwrap().body(), "2");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
