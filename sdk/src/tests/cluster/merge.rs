//! What comes from several gateways comes as from one, and none keeps another waiting.

use parking_lot::Mutex;

use super::*;

#[tokio::test(start_paused = true)]
async fn messages_of_a_loud_gateway_keep_those_of_another_neither_out_nor_waiting() {
    let cluster = Cluster::start(2);
    let service = cluster.service().name("svc").topics(["t"]).message_queue(20).connect().await.unwrap();
    connected(&service, 2).await;
    let loud = cluster.edge_at(0).connect().await.unwrap();
    let quiet = cluster.edge_at(1).connect().await.unwrap();
    let mut sent: Vec<_> = (0..100).map(|_| tokio::spawn(loud.publish("t", "loud").into_future())).collect();
    until(async || service.waiting_messages() == 20).await;
    // What did not fit was refused.
    let refused = sent.split_off(20);
    for publish in refused {
        assert_eq!(code(publish.await.unwrap().unwrap_err()), "overloaded");
    }
    sent.push(tokio::spawn(quiet.publish("t", "quiet").into_future()));
    until(async || service.waiting_messages() == 21).await;
    let mut first = Vec::new();
    for _ in 0..2 {
        let message = service.receive().await.unwrap();
        first.push(message.body().clone());
        message.done().await.unwrap();
    }
    assert!(first.iter().any(|body| body == "quiet"), "{first:?}");
    sent.pop().unwrap().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_loud_gateway_keep_those_of_another_neither_out_nor_waiting() {
    let cluster = Cluster::start(2);
    let builder = cluster.service().name("svc").max_concurrent_handlers(1).max_in_flight(10);
    let service = builder.connect().await.unwrap();
    connected(&service, 2).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let slow = move |req: Request| {
        seen.lock().push(String::from_utf8_lossy(req.body()).into_owned());
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(())
        }
    };
    service.register("slow", slow).await.unwrap();
    let loud = cluster.edge_at(0).connect().await.unwrap();
    let quiet = cluster.edge_at(1).connect().await.unwrap();
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(loud.call("slow", "loud").into_future())).collect();
    settle().await;
    quiet.call("slow", "quiet").await.unwrap();
    assert_eq!(order.lock()[..3], ["loud", "loud", "quiet"]);
    drop(calls);
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_loud_gateway_keep_those_of_another_neither_out_nor_waiting() {
    let cluster = Cluster::start(2);
    let service = cluster.service().name("svc").stream_backlog(5).connect().await.unwrap();
    connected(&service, 2).await;
    let loud = cluster.edge_at(0).connect().await.unwrap();
    let quiet = cluster.edge_at(1).connect().await.unwrap();
    let open =
        |edge: &Edge, meta: &'static str| tokio::spawn(edge.open_stream("svc").meta(meta).into_future());
    let many: Vec<_> = (0..20).map(|_| open(&loud, "loud")).collect();
    settle().await;
    let one = open(&quiet, "quiet");
    settle().await;
    let first = [service.accept_stream().await.unwrap(), service.accept_stream().await.unwrap()];
    assert!(first.iter().any(|stream| stream.meta() == "quiet"));
    one.await.unwrap().unwrap();
    drop(many);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_one_gateway_tells_late_is_left_out_behind_the_beginning_at_another() {
    let cluster = Cluster::start(2);
    let service = service(&cluster, 2).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (on, off) = (seen.clone(), seen.clone());
    service.on_edge_id(|_| async { Ok(Some(EdgeId::from(5))) }).await.unwrap();
    let online = move |edge: crate::EdgeInfo| {
        on.lock().push(('+', edge.epoch()));
        async { Ok(()) }
    };
    service.on_edge_online(online).await.unwrap();
    let offline = move |edge: crate::EdgeInfo| {
        off.lock().push(('-', edge.epoch()));
        async {}
    };
    service.on_edge_offline(offline).await.unwrap();
    let first = cluster.edge_at(0).reconnect(Reconnect::never()).connect().await.unwrap();
    let second = cluster.edge_at(1).reconnect(Reconnect::never()).connect().await.unwrap();
    // The older session ends only now.
    first.close().await;
    settle().await;
    second.close().await;
    until(async || seen.lock().len() >= 3).await;
    settle().await;
    let seen = seen.lock();
    let (older, newer) = (seen[0].1, seen[1].1);
    assert!(older < newer);
    assert_eq!(*seen, [('+', older), ('+', newer), ('-', newer)]);
}

#[tokio::test(start_paused = true)]
async fn who_is_online_is_what_all_gateways_say() {
    let mut cluster = Cluster::start(3);
    let service = service(&cluster, 3).await;
    let mut edges = Vec::new();
    for gateway in [2, 0, 1, 1] {
        edges.push(cluster.edge_at(gateway).connect().await.unwrap());
    }
    let ids = async || service.presence().await.unwrap().iter().map(|edge| edge.id()).collect::<Vec<_>>();
    let mut expected: Vec<_> = edges.iter().map(Edge::id).collect();
    expected.sort();
    assert_eq!(ids().await, expected);
    assert!(service.locate(edges[0].id()).await.unwrap().is_some());
    assert_eq!(service.locate(99).await.unwrap(), None);
    cluster.remove_gateway(2);
    connected(&service, 2).await;
    expected.retain(|id| *id != edges[0].id());
    assert_eq!(ids().await, expected);
}
