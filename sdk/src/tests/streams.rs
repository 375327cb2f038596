//! Streams: bytes with backpressure, half-close, reset, refusal, and calls and messages on them.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{code, pattern, settle, trio};
use crate::{ErrorCode, Peer, Request, Stream};

async fn joined() -> (crate::testing::Gateway, crate::Service, crate::Edge, Stream, Stream) {
    let (gateway, service, edge) = trio().await;
    let (ours, theirs) = tokio::join!(
        edge.open_stream("svc").meta("m").header("h", "1").into_future(),
        service.accept_stream()
    );
    (gateway, service, edge, ours.unwrap(), theirs.unwrap())
}

#[tokio::test(start_paused = true)]
async fn both_ends_know_of_each_other() {
    let (_gateway, service, edge, _ours, theirs) = joined().await;
    assert_eq!((theirs.name(), theirs.meta().as_ref()), ("svc", &b"m"[..]));
    assert_eq!(theirs.headers().get("h"), Some("1"));
    assert_eq!(theirs.peer(), Peer::Edge(edge.id()));

    let (ours, theirs) =
        tokio::join!(service.open_stream(edge.id()).name("shell").into_future(), edge.accept_stream());
    assert_eq!(ours.unwrap().peer(), Peer::Edge(edge.id()));
    let theirs = theirs.unwrap();
    assert_eq!((theirs.name(), theirs.peer()), ("shell", Peer::Service(service.id())));
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_in_order_both_ways_at_once() {
    let (_gateway, _service, _edge, ours, theirs) = joined().await;
    let body = pattern(3 << 20);
    let work = async |stream: Stream| {
        let (mut read, mut write) = tokio::io::split(stream);
        let mut came = Vec::new();
        let (sent, got) = tokio::join!(
            async {
                write.write_all(&body).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut came)
        );
        sent.unwrap();
        got.unwrap();
        came
    };
    let (one, two) = tokio::join!(work(ours), work(theirs));
    assert!(one == body && two == body);
}

#[tokio::test(start_paused = true)]
async fn bytes_need_not_be_copied() {
    let (_gateway, _service, _edge, mut ours, mut theirs) = joined().await;
    let body = pattern(700_000);
    let (_, came) = tokio::join!(
        async {
            ours.write_bytes(body.clone()).await.unwrap();
            ours.shutdown().await.unwrap();
        },
        async {
            let mut came = Vec::new();
            while let Some(bytes) = theirs.read_bytes().await.unwrap() {
                came.extend_from_slice(&bytes);
            }
            came
        }
    );
    assert!(came == body);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_its_writer_and_nobody_else() {
    let (_gateway, service, edge, mut ours, mut theirs) = joined().await;
    let mut sent = 0_usize;
    let chunk = pattern(64 << 10);
    // Until nothing more goes: two windows and the buffers between.
    while tokio::time::timeout(Duration::from_secs(1), ours.write_all(&chunk)).await.is_ok() {
        sent += chunk.len();
        assert!(sent < 8 << 20, "nobody reads and still it goes");
    }
    service.register("quick", |_req| async { Ok("ok") }).await.unwrap();
    for _ in 0..50 {
        edge.call("quick", "").await.unwrap();
    }
    let (mut one, mut two) = {
        let (one, two) = tokio::join!(edge.open_stream("svc").into_future(), service.accept_stream());
        (one.unwrap(), two.unwrap())
    };
    one.write_all(b"past it").await.unwrap();
    let mut came = [0; 7];
    two.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"past it");
    let mut came = vec![0; sent];
    theirs.read_exact(&mut came).await.unwrap();
    assert!(came.chunks(chunk.len()).all(|piece| piece == chunk));
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_one_direction_only() {
    let (_gateway, _service, _edge, mut ours, mut theirs) = joined().await;
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    assert!(ours.write_all(b"more").await.is_err());
    let mut question = Vec::new();
    theirs.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    drop(theirs);
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_all_of_a_stream_that_was_shut_down_and_dropped() {
    let (_gateway, _service, _edge, mut ours, mut theirs) = joined().await;
    let sent = pattern(1 << 20);
    let writer = tokio::task::spawn({
        let sent = sent.clone();
        async move {
            ours.write_all(&sent).await.unwrap();
            ours.shutdown().await.unwrap();
        }
    });
    let mut came = Vec::new();
    let mut piece = vec![0; 16 << 10];
    // Far slower in all than what a stream may wait for its peer's end.
    loop {
        let n = theirs.read(&mut piece).await.unwrap();
        if n == 0 {
            break;
        }
        came.extend_from_slice(&piece[..n]);
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
    writer.await.unwrap();
    assert!(came == sent, "{} bytes of {}", came.len(), sent.len());
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_without_shutdown_is_reset() {
    let (_gateway, _service, _edge, mut ours, mut theirs) = joined().await;
    ours.write_all(b"half").await.unwrap();
    drop(ours);
    let mut came = Vec::new();
    assert!(theirs.read_to_end(&mut came).await.is_err());
    assert!(theirs.write_all(&pattern(1 << 20)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn reset_wakes_a_reader_and_a_writer() {
    let (_gateway, _service, _edge, ours, mut theirs) = joined().await;
    let task = tokio::task::spawn(async move {
        let (mut read, mut write) = tokio::io::split(ours);
        let mut byte = [0; 1];
        let big = pattern(4 << 20);
        let (read, written) = tokio::join!(read.read(&mut byte), write.write_all(&big));
        (read.is_err(), written.is_err())
    });
    // It has begun to write.
    let mut byte = [0; 1];
    theirs.read_exact(&mut byte).await.unwrap();
    theirs.reset();
    assert_eq!(task.await.unwrap(), (true, true));
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_noticed_by_who_neither_reads_nor_writes() {
    let (_gateway, _service, _edge, ours, mut theirs) = joined().await;
    let mut failed = std::pin::pin!(theirs.failed());
    theirs.shutdown().await.unwrap();
    settle().await;
    assert!(timeout(Duration::ZERO, failed.as_mut()).await.is_err(), "a half-close is no failure");
    ours.reset();
    assert_eq!(code(failed.await), "session_closed");
    assert_eq!(code(theirs.failed().await), "session_closed", "whoever asks later hears it too");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_failure_ends_with_the_stream() {
    let (_gateway, _service, _edge, ours, _theirs) = joined().await;
    let failed = ours.failed();
    let task = tokio::spawn(failed);
    settle().await;
    drop(ours);
    assert_eq!(code(task.await.unwrap()), "session_closed");
}

#[tokio::test(start_paused = true)]
async fn refusal_tells_the_opener_why() {
    let (_gateway, service, edge) = trio().await;
    let (opened, ()) = tokio::join!(edge.open_stream("svc").into_future(), async {
        let incoming = service.next_stream().await.unwrap();
        assert_eq!(incoming.name(), "svc");
        incoming.refuse("closed today");
    });
    let error = opened.unwrap_err();
    assert_eq!((error.code(), error.text()), (ErrorCode::Application, "closed today"));

    let (opened, ()) = tokio::join!(edge.open_stream("svc").into_future(), async {
        drop(service.next_stream().await.unwrap());
    });
    assert_eq!(code(opened.unwrap_err()), "application");
    assert_eq!(code(edge.open_stream("nobody").await.unwrap_err()), "service_not_online");
    assert_eq!(code(service.open_stream(77).await.unwrap_err()), "edge_not_online");
}

#[tokio::test(start_paused = true)]
async fn an_open_that_nobody_accepts_ends_at_its_deadline_and_is_not_accepted_later() {
    let (_gateway, service, edge) = trio().await;
    let error = edge.open_stream("svc").timeout(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(code(error), "deadline_exceeded");
    super::settle().await;
    let (opened, accepted) =
        tokio::join!(edge.open_stream("svc").meta("second").into_future(), service.accept_stream());
    opened.unwrap();
    assert_eq!(accepted.unwrap().meta().as_ref(), b"second");
}

#[tokio::test(start_paused = true)]
async fn more_streams_than_the_backlog_are_refused() {
    let gateway = crate::testing::Gateway::start();
    let service = gateway.service().name("svc").stream_backlog(2).connect().await.unwrap();
    let edge = gateway.edge().connect().await.unwrap();
    let open: Vec<_> = (0..3).map(|_| tokio::task::spawn(edge.open_stream("svc").into_future())).collect();
    super::until(async || open.iter().any(tokio::task::JoinHandle::is_finished)).await;
    let mut accepted = Vec::new();
    for _ in 0..2 {
        accepted.push(service.accept_stream().await.unwrap());
    }
    let mut outcomes = Vec::new();
    for stream in open {
        outcomes.push(stream.await.unwrap().map_err(code));
    }
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2);
    assert_eq!(outcomes.into_iter().find_map(Result::err), Some("overloaded"));
}

#[tokio::test(start_paused = true)]
async fn calls_and_messages_travel_on_a_stream() {
    let (_gateway, _service, _edge, mut ours, mut theirs) = joined().await;
    theirs.register("len", |req: Request| async move { Ok(req.body().len().to_string()) });
    ours.register("echo", |req: Request| async move { Ok(req.into_body()) });
    assert_eq!(ours.call("len", "four").await.unwrap().body(), "4");
    let body = pattern(1 << 20);
    assert!(theirs.call("echo", body.clone()).await.unwrap().body() == &body);
    assert_eq!(code(ours.call("nobody", "").await.unwrap_err()), "method_not_found");

    let (published, ()) = tokio::join!(ours.publish("p", "50 %").into_future(), async {
        let msg = theirs.receive().await.unwrap();
        assert_eq!((msg.topic(), &msg.body()[..]), ("p", &b"50 %"[..]));
        msg.done().await.unwrap();
    });
    published.unwrap();

    ours.write_all(b"bytes too").await.unwrap();
    let mut came = [0; 9];
    theirs.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"bytes too");
}

#[tokio::test(start_paused = true)]
async fn messages_on_a_stream_keep_their_order() {
    let (_gateway, _service, _edge, ours, theirs) = joined().await;
    let lens = [10, 200_000, 20, 70_000, 30];
    let mut tasks = Vec::new();
    for (n, len) in lens.iter().enumerate() {
        let mut body = pattern(*len);
        body.insert(0, n as u8);
        let mut publish = Box::pin(ours.publish("t", body).into_future());
        let first = std::future::poll_fn(|cx| std::task::Poll::Ready(publish.as_mut().poll(cx))).await;
        assert!(first.is_pending());
        tasks.push(tokio::task::spawn(publish));
    }
    for (n, len) in lens.iter().enumerate() {
        let msg = theirs.receive().await.unwrap();
        assert_eq!((usize::from(msg.body()[0]), msg.body().len()), (n, len + 1));
        msg.done().await.unwrap();
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_fails_calls_on_the_stream() {
    let (_gateway, _service, _edge, ours, theirs) = joined().await;
    theirs.register("never", |req: Request| async move {
        req.cancelled().await;
        Ok(())
    });
    let call = tokio::task::spawn(ours.call("never", "").into_future());
    tokio::task::yield_now().await;
    theirs.reset();
    assert_eq!(code(call.await.unwrap().unwrap_err()), "session_closed");
    assert_eq!(code(ours.call("never", "").await.unwrap_err()), "session_closed");
}

#[tokio::test(start_paused = true)]
async fn a_call_on_a_stream_ends_at_its_deadline() {
    let (_gateway, _service, _edge, ours, theirs) = joined().await;
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    theirs.register("never", move |req: Request| {
        let told = told.clone();
        async move {
            req.cancelled().await;
            let _ = told.send(()).await;
            Ok(())
        }
    });
    let error = ours.call("never", "").timeout(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(code(error), "deadline_exceeded");
    heard.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_its_client_open() {
    let (gateway, service, edge, mut ours, mut theirs) = joined().await;
    drop((edge, service));
    ours.write_all(b"still").await.unwrap();
    let mut came = [0; 5];
    theirs.read_exact(&mut came).await.unwrap();
    assert_eq!(gateway.edges().await.len(), 1);
    drop((ours, theirs));
    super::until(async || gateway.edges().await.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn streams_come_and_go_by_the_thousand() {
    let (_gateway, service, edge) = trio().await;
    let acceptor = tokio::task::spawn(async move {
        while let Some(mut stream) = service.accept_stream().await {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    for n in 0..2_000_u32 {
        let mut stream = edge.open_stream("svc").await.unwrap();
        stream.write_all(&n.to_be_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, n.to_be_bytes());
    }
    acceptor.abort();
}
