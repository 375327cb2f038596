//! Messages: done, error, dropped; order; limits.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{code, pattern, trio};
use crate::{ErrorCode, Peer};

#[tokio::test(start_paused = true)]
async fn a_publish_resolves_with_what_the_receiver_says() {
    let (_gateway, service, edge) = trio().await;
    let receiver = service.clone();
    let task = tokio::task::spawn(async move {
        let msg = receiver.receive().await.unwrap();
        assert_eq!((msg.topic(), &msg.body()[..]), ("t", &b"one"[..]));
        assert!(matches!(msg.from(), Peer::Edge(_)));
        assert_eq!(msg.headers().get("k"), Some("v"));
        msg.done().await.unwrap();
        receiver.receive().await.unwrap().error("no good").await.unwrap();
        drop(receiver.receive().await.unwrap());
    });
    edge.publish("t", "one").header("k", "v").await.unwrap();
    let error = edge.publish("t", "two").await.unwrap_err();
    assert_eq!((error.code(), error.text()), (ErrorCode::Application, "no good"));
    assert_eq!(code(edge.publish("t", "three").await.unwrap_err()), "application");
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn services_publish_to_edges() {
    let (_gateway, service, edge) = trio().await;
    let receiver = edge.clone();
    let task = tokio::task::spawn(async move {
        let msg = receiver.receive().await.unwrap();
        assert_eq!((msg.topic(), &msg.body()[..]), ("notice", &b"hi"[..]));
        msg.done().await.unwrap();
    });
    service.publish(edge.id(), "hi").topic("notice").await.unwrap();
    task.await.unwrap();
    assert_eq!(code(service.publish(99, "hi").await.unwrap_err()), "edge_not_online");
}

#[tokio::test(start_paused = true)]
async fn a_topic_nobody_takes_is_an_error_and_subscriptions_change_that() {
    let (_gateway, service, edge) = trio().await;
    assert_eq!(code(edge.publish("other", "x").await.unwrap_err()), "topic_not_online");
    service.subscribe("other").await.unwrap();
    let (published, received) = tokio::join!(edge.publish("other", "x").into_future(), async {
        service.receive().await.unwrap().done().await
    });
    published.unwrap();
    received.unwrap();
    service.unsubscribe("other").await.unwrap();
    assert_eq!(code(edge.publish("other", "x").await.unwrap_err()), "topic_not_online");
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_topic_keep_their_order_whatever_their_length() {
    let (_gateway, service, edge) = trio().await;
    service.subscribe("u").await.unwrap();
    let lens = [10, 200_000, 20, 20_000, 30, 65_536, 65_537, 5, 1_000_000, 1, 40_000, 2];
    let mut tasks = Vec::new();
    for (n, len) in lens.iter().enumerate() {
        for topic in ["t", "u"] {
            let mut body = pattern(*len);
            body.insert(0, n as u8);
            let mut publish = Box::pin(edge.publish(topic, body).into_future());
            // Polled once, in this order.
            let first = std::future::poll_fn(|cx| std::task::Poll::Ready(publish.as_mut().poll(cx))).await;
            assert!(first.is_pending());
            tasks.push(tokio::task::spawn(publish));
        }
    }
    let came = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..2 * lens.len() {
        let msg = service.receive().await.unwrap();
        came.lock().push((msg.topic().to_owned(), usize::from(msg.body()[0])));
        assert_eq!(msg.body().len(), lens[usize::from(msg.body()[0])] + 1);
        msg.done().await.unwrap();
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    for topic in ["t", "u"] {
        let order: Vec<usize> = came.lock().iter().filter(|(of, _)| of == topic).map(|(_, n)| *n).collect();
        assert_eq!(order, (0..lens.len()).collect::<Vec<_>>(), "{topic}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_not_received_are_overloaded_and_wait_for_nobody() {
    let gateway = crate::testing::Gateway::start();
    let service = gateway.service().name("svc").topics(["t"]).message_queue(2).connect().await.unwrap();
    let edge = gateway.edge().connect().await.unwrap();
    let first: Vec<_> = (0..2).map(|_| tokio::task::spawn(edge.publish("t", "x").into_future())).collect();
    super::until(async || service.waiting_messages() == 2).await;
    assert_eq!(code(edge.publish("t", "x").await.unwrap_err()), "overloaded");
    service.register("still", |_req| async { Ok("here") }).await.unwrap();
    assert!(edge.call("still", "").await.is_ok());
    for task in first {
        service.receive().await.unwrap().done().await.unwrap();
        let _ = task;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_sender_gave_up_is_not_delivered_late() {
    let (_gateway, service, edge) = trio().await;
    let error = edge.publish("t", "late").timeout(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(code(error), "deadline_exceeded");
    super::settle().await;
    let (published, msg) = tokio::join!(edge.publish("t", "next").into_future(), async {
        let msg = service.receive().await.unwrap();
        let body = msg.body().clone();
        msg.done().await.unwrap();
        body
    });
    published.unwrap();
    assert_eq!(msg, "next");
}

#[tokio::test(start_paused = true)]
async fn receive_ends_when_the_client_closes() {
    let (_gateway, service, _edge) = trio().await;
    let receiver = service.clone();
    let task = tokio::task::spawn(async move { receiver.receive().await.is_none() });
    service.close().await;
    assert!(task.await.unwrap());
}
