//! Calls in both directions: answers, errors, deadlines, cancellation, limits, long bodies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, mpsc};

use super::{code, pattern, trio};
use crate::{Error, ErrorCode, Peer, Reply, Request};

#[tokio::test(start_paused = true)]
async fn calls_are_answered_in_both_directions() {
    let (_gateway, service, edge) = trio().await;
    service
        .register("sum", |req: Request| async move { Ok(format!("{}+", req.body().len())) })
        .await
        .unwrap();
    edge.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();

    assert_eq!(edge.call("sum", "four").await.unwrap().body(), "4+");
    assert_eq!(service.call(edge.id(), "echo", "back").await.unwrap().body(), "back");
}

#[tokio::test(start_paused = true)]
async fn headers_travel_and_the_caller_is_known() {
    let (_gateway, service, edge) = trio().await;
    let id = edge.id();
    service
        .register("who", move |req: Request| async move {
            assert_eq!(req.from(), Peer::Edge(id));
            assert_eq!(req.method(), "who");
            let asked = req.headers().get("ask").unwrap_or_default().to_owned();
            Ok(Reply::from("x").header("answer", asked))
        })
        .await
        .unwrap();
    let reply = edge.call("who", "").header("ask", "42").await.unwrap();
    assert_eq!(reply.headers().get("answer"), Some("42"));
}

#[tokio::test(start_paused = true)]
async fn errors_keep_their_code_and_text() {
    let (_gateway, service, edge) = trio().await;
    service
        .register("fail", |_req| async move {
            Err::<(), _>(Error::new(ErrorCode::PermissionDenied, "not you").retry_in(Duration::from_secs(7)))
        })
        .await
        .unwrap();
    let error = edge.call("fail", "").await.unwrap_err();
    assert_eq!((error.code(), error.text()), (ErrorCode::PermissionDenied, "not you"));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));

    assert_eq!(code(edge.call("nobody", "").await.unwrap_err()), "method_not_found");
    assert_eq!(code(service.call(7, "echo", "").await.unwrap_err()), "edge_not_online");
    assert_eq!(code(service.call(edge.id(), "nobody", "").await.unwrap_err()), "method_not_found");
}

#[tokio::test(start_paused = true)]
async fn a_method_is_gone_after_unregister() {
    let (_gateway, service, edge) = trio().await;
    service.register("m", |_req| async { Ok("here") }).await.unwrap();
    assert!(edge.call("m", "").await.is_ok());
    service.unregister("m").await.unwrap();
    assert_eq!(code(edge.call("m", "").await.unwrap_err()), "method_not_found");
}

#[tokio::test(start_paused = true)]
async fn reserved_and_impossible_names_are_refused() {
    let (_gateway, service, edge) = trio().await;
    let refused = edge.register("edge_online", |_req| async { Ok(()) }).await.unwrap_err();
    assert_eq!(code(refused), "permission_denied");
    let refused = service.register("get_edge_id", |_req| async { Ok(()) }).await.unwrap_err();
    assert_eq!(code(refused), "permission_denied");
    assert_eq!(code(edge.register("", |_req| async { Ok(()) }).await.unwrap_err()), "invalid_argument");
    assert_eq!(code(edge.call("edge_online", "").await.unwrap_err()), "permission_denied");
}

#[tokio::test(start_paused = true)]
async fn a_panicking_handler_fails_its_call_alone() {
    let (_gateway, service, edge) = trio().await;
    service
        .register("boom", |req: Request| async move {
            assert!(req.body().is_empty(), "boom");
            Ok("fine")
        })
        .await
        .unwrap();
    assert_eq!(code(edge.call("boom", "x").await.unwrap_err()), "internal");
    assert_eq!(edge.call("boom", "").await.unwrap().body(), "fine");
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_and_its_handler_is_told() {
    let (_gateway, service, edge) = trio().await;
    let (told, mut heard) = mpsc::channel(1);
    service
        .register("slow", move |req: Request| {
            let told = told.clone();
            async move {
                assert!(req.remaining().unwrap() <= Duration::from_millis(300));
                req.cancelled().await;
                let _ = told.send(()).await;
                Ok(())
            }
        })
        .await
        .unwrap();
    let began = tokio::time::Instant::now();
    let error = edge.call("slow", "").timeout(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_millis(350));
    heard.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_cancels_its_handler() {
    let (_gateway, service, edge) = trio().await;
    let (told, mut heard) = mpsc::channel(2);
    service
        .register("slow", move |req: Request| {
            let told = told.clone();
            async move {
                told.send("called").await.unwrap();
                req.cancelled().await;
                told.send("cancelled").await.unwrap();
                Ok(())
            }
        })
        .await
        .unwrap();
    let mut call = Box::pin(edge.call("slow", "").into_future());
    tokio::select! {
        _ = &mut call => panic!("nobody answers"),
        came = heard.recv() => assert_eq!(came, Some("called")),
    }
    drop(call);
    assert_eq!(heard.recv().await, Some("cancelled"));
}

#[tokio::test(start_paused = true)]
async fn handlers_run_up_to_the_limit_the_rest_waits_and_beyond_is_overloaded() {
    let gateway = crate::testing::Gateway::start();
    let builder = gateway.service().name("svc").max_concurrent_handlers(2).max_in_flight(5);
    let service = builder.connect().await.unwrap();
    let edge = gateway.edge().connect().await.unwrap();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let go = Arc::new(Semaphore::new(0));
    let (count, peak, gate) = (running.clone(), most.clone(), go.clone());
    service
        .register("work", move |_req| {
            let (count, peak, gate) = (count.clone(), peak.clone(), gate.clone());
            async move {
                peak.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                count.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .await
        .unwrap();
    let calls: Vec<_> = (0..8).map(|_| tokio::task::spawn(edge.call("work", "").into_future())).collect();
    let mut outcomes = Vec::new();
    // Three are refused at once: two run, three wait.
    super::until(async || calls.iter().filter(|call| call.is_finished()).count() == 3).await;
    go.add_permits(5);
    for call in calls {
        outcomes.push(call.await.unwrap().map_err(code));
    }
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err("overloaded")).count(), 3);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_handler_does_not_keep_other_calls_from_being_answered() {
    let (_gateway, service, edge) = trio().await;
    let stop = Arc::new(Notify::new());
    let wait = stop.clone();
    service
        .register("stuck", move |_req| {
            let wait = wait.clone();
            async move {
                wait.notified().await;
                Ok(())
            }
        })
        .await
        .unwrap();
    service.register("quick", |_req| async { Ok("ok") }).await.unwrap();
    let stuck = tokio::task::spawn(edge.call("stuck", "").into_future());
    for _ in 0..100 {
        edge.call("quick", "").await.unwrap();
    }
    stop.notify_one();
    stuck.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn long_bodies_arrive_whole_in_both_directions_at_every_border() {
    let (_gateway, service, edge) = trio().await;
    service.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
    for len in [0, 1, 16_384, 16_385, 65_535, 65_536, 65_537, 262_144, 262_145, 1_000_000, 5 << 20] {
        let body = pattern(len);
        let reply = edge.call("echo", body.clone()).await.unwrap();
        assert!(reply.body() == &body, "{len} bytes came back as {}", reply.body().len());
    }
    assert_eq!(edge.budget_left(), 64 << 20);
}

#[tokio::test(start_paused = true)]
async fn many_long_and_short_calls_interleave() {
    let (_gateway, service, edge) = trio().await;
    service.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
    let long: Vec<_> = (0..4)
        .map(|n| {
            let body = pattern((2 << 20) + n);
            let call = edge.call("echo", body.clone()).into_future();
            tokio::task::spawn(async move { (call.await, body) })
        })
        .collect();
    let short: Vec<_> =
        (0..500).map(|n| tokio::task::spawn(edge.call("echo", n.to_string()).into_future())).collect();
    for (n, call) in short.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap().body(), n.to_string().as_bytes());
    }
    for call in long {
        let (reply, body) = call.await.unwrap();
        assert!(reply.unwrap().body() == &body);
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_beyond_the_limits_are_refused_on_the_side_that_knows_first() {
    let gateway = crate::testing::Gateway::start();
    let service = gateway.service().name("svc").max_body(100_000).connect().await.unwrap();
    let edge = gateway.edge().connect().await.unwrap();
    service.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
    service.register("long", |_req| async move { Ok(vec![0; 20 << 20]) }).await.unwrap();

    let beyond_gateway = edge.call("echo", vec![0; (16 << 20) + 1]).await.unwrap_err();
    assert_eq!(code(beyond_gateway), "payload_too_large");
    let beyond_receiver = edge.call("echo", vec![0; 100_001]).await.unwrap_err();
    assert_eq!(code(beyond_receiver), "payload_too_large");
    assert!(edge.call("echo", vec![0; 100_000]).await.is_ok());
    assert_eq!(code(edge.call("long", "").await.unwrap_err()), "payload_too_large");
    let head = edge.call("echo", "").header("k", "v".repeat(17_000)).await.unwrap_err();
    assert_eq!(code(head), "invalid_argument");
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_long_for_the_caller_fails_the_call_and_nothing_else() {
    let gateway = crate::testing::Gateway::start();
    let service = gateway.service().name("svc").connect().await.unwrap();
    let edge = gateway.edge().max_body(100_000).connect().await.unwrap();
    service
        .register("give", |req: Request| async move {
            let len: usize = String::from_utf8_lossy(req.body()).parse().map_err(Error::application)?;
            Ok(pattern(len))
        })
        .await
        .unwrap();
    assert_eq!(code(edge.call("give", "1000000").await.unwrap_err()), "payload_too_large");
    assert_eq!(edge.call("give", "100000").await.unwrap().body(), &pattern(100_000));
    assert_eq!(edge.budget_left(), 64 << 20);
}

#[tokio::test(start_paused = true)]
async fn cancelled_long_calls_leave_nothing_behind() {
    let (_gateway, service, edge) = trio().await;
    service.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
    for step in 0..60 {
        let call = edge.call("echo", pattern(1 << 20)).into_future();
        // Given up at a different stage each time.
        let mut turns = 0;
        let mut call = Box::pin(call);
        let gave_up = std::future::poll_fn(|cx| {
            turns += 1;
            match call.as_mut().poll(cx) {
                std::task::Poll::Ready(reply) => std::task::Poll::Ready(reply.is_err()),
                std::task::Poll::Pending if turns > step => std::task::Poll::Ready(true),
                std::task::Poll::Pending => {
                    cx.waker().wake_by_ref();
                    std::task::Poll::Pending
                }
            }
        });
        gave_up.await;
    }
    super::until(async || edge.budget_left() == 64 << 20 && service.budget_left() == 64 << 20).await;
    assert_eq!(edge.call("echo", "still here").await.unwrap().body(), "still here");
}
