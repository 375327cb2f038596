//! Losses, and how the client comes back.

use super::*;

#[tokio::test(start_paused = true)]
async fn waits_between_attempts_grow_and_a_hint_is_obeyed() {
    let (mut acceptor, builder) = edge();
    let policy = Reconnect::default().base(Duration::from_secs(1)).cap(Duration::from_secs(60));
    let (edge, script) =
        tokio::join!(builder.reconnect(policy).connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    drop(script);
    let mut last = Instant::now();
    for attempt in 0..12_u32 {
        drop(acceptor.accept().await);
        let bound = Duration::from_secs(1 << attempt.min(6)).min(Duration::from_secs(60));
        assert!(
            last.elapsed() <= bound + Duration::from_millis(5),
            "attempt {attempt} after {:?}",
            last.elapsed()
        );
        last = Instant::now();
    }
    let mut script = acceptor.accept().await;
    script.expect(FrameType::Hello).await;
    let mut head = Vec::new();
    ErrorRef { code: ErrorCode::Overloaded, text: "", retry_after_ms: 100_000 }.encode(&mut head);
    script.send(FrameHeader::new(FrameType::Reject, 0), &head, b"").await;
    let told = Instant::now();
    acceptor.accept().await;
    assert!(told.elapsed() >= Duration::from_secs(100), "{:?}", told.elapsed());
    assert!(matches!(edge.state(), State::Reconnecting { attempt: 13.., .. }));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_may_not_reconnect_closes_with_the_loss() {
    let (mut acceptor, builder) = edge();
    let (edge, script) =
        tokio::join!(builder.reconnect(Reconnect::never()).connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    drop(script);
    edge.watch().until(State::is_closed).await;
    let State::Closed { reason } = edge.state() else { panic!() };
    assert_eq!(reason.kind(), "lost");
    assert!(edge.receive().await.is_none());
    assert!(edge.accept_stream().await.is_none());
    assert_eq!(code(edge.call("m", "").await.unwrap_err()), "session_closed");
}

#[tokio::test(start_paused = true)]
async fn sent_away_it_connects_anew_before_it_leaves_and_old_calls_finish() {
    let (mut acceptor, builder) = edge();
    let (edge, mut old) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let pending = tokio::task::spawn(edge.call("slow", "").into_future());
    let slow = old.expect(FrameType::Request).await;
    old.go_away(1_000, ErrorCode::GatewayDraining).await;
    let told = Instant::now();
    edge.watch().until(|state| matches!(state, State::Draining { id: 7, .. })).await.unwrap();
    // Until the new connection is there, the old one carries what is new.
    let between = tokio::task::spawn(edge.call("between", "").into_future());
    let frame = old.expect(FrameType::Request).await;
    assert_eq!(CallHead::parse(&frame.head).unwrap().name, "between");
    old.respond(frame.header.id, b"ok").await;
    between.await.unwrap().unwrap();

    let mut new = acceptor
        .welcome(Welcome { epoch: 2, ..welcome() }, |hello| assert_eq!(hello.ticket, b"ticket-1"))
        .await;
    assert!(told.elapsed() >= Duration::from_secs(1));
    edge.watch().until(|state| matches!(state, State::Ready { epoch: 2, .. })).await.unwrap();
    let moved = tokio::task::spawn(edge.call("moved", "").into_future());
    let frame = new.expect(FrameType::Request).await;
    new.respond(frame.header.id, b"ok").await;
    moved.await.unwrap().unwrap();

    old.respond(slow.header.id, b"at last").await;
    assert_eq!(pending.await.unwrap().unwrap().body(), "at last");
    let bye = old.expect(FrameType::GoAway).await;
    assert_eq!(GoAway::parse(&bye.head).unwrap().reason.unwrap().code, ErrorCode::GatewayDraining);
    // What the gateway sent before it heard that is answered still.
    old.request(9, "late", b"").await;
    assert_eq!(old.expect(FrameType::Response).await.header.id, 9);
    old.release().await;
    let released = Instant::now();
    assert!(old.frame().await.is_none());
    assert_eq!(released.elapsed(), Duration::ZERO, "it waits for nothing else");
    assert!(edge.state().is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_welcomes_and_sends_away_at_once_is_not_asked_in_a_tight_loop() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let _edge = edge.unwrap();
    let began = Instant::now();
    let mut old = Vec::new();
    for _ in 0..12 {
        script.go_away(0, ErrorCode::GatewayDraining).await;
        old.push(script);
        script = acceptor.welcome(welcome(), |_| {}).await;
    }
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn another_client_with_the_same_id_ends_this_one() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    script.go_away(0, ErrorCode::SessionClosed).await;
    edge.watch().until(State::is_closed).await;
    assert!(matches!(edge.state(), State::Closed { reason } if matches!(*reason, ConnectError::TakenOver)));
    let again = tokio::time::timeout(Duration::from_secs(3_600), acceptor.accept()).await;
    assert!(again.is_err(), "it must not come again");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_given_up_and_arrives_late_does_not_end_it() {
    let (mut acceptor, builder) = edge();
    let builder = builder.connect_timeout(Duration::from_secs(1));
    // The first address does not answer; what was said to it may arrive later.
    let connecting = async {
        let silent = acceptor.accept().await;
        (silent, acceptor.welcome(welcome(), |_| {}).await)
    };
    let (edge, (_silent, mut script)) = tokio::join!(builder.connect(), connecting);
    let edge = edge.unwrap();
    script.go_away(0, ErrorCode::SessionClosed).await;
    let mut script = acceptor.welcome(welcome(), |hello| assert_eq!(hello.ticket, b"ticket-1")).await;
    edge.watch().until(State::is_connected).await.unwrap();
    assert_eq!(edge.id().get(), 7);
    // It comes once only: now it is somebody else.
    script.go_away(0, ErrorCode::SessionClosed).await;
    edge.watch().until(State::is_closed).await;
    assert!(matches!(edge.state(), State::Closed { reason } if matches!(*reason, ConnectError::TakenOver)));
}

/// What a gateway says to a client that an operator kicks.
async fn kick(mut script: Script) -> Instant {
    script.go_away(3_000, ErrorCode::Cancelled).await;
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn a_kicked_edge_comes_again_when_it_may() {
    let (mut acceptor, builder) = edge();
    let (edge, script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let kicked = kick(script).await;
    edge.watch().until(|state| matches!(state, State::Reconnecting { .. })).await.unwrap();
    let _script = acceptor
        .welcome(Welcome { epoch: 2, ..welcome() }, |hello| assert_eq!(hello.ticket, b"ticket-1"))
        .await;
    let away = kicked.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&away), "{away:?}");
    edge.watch().until(|state| matches!(state, State::Ready { id: 7, epoch: 2 })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_kicked_service_comes_again_with_what_it_offers() {
    let (pipes, incoming) = mpsc::channel(8);
    let mut acceptor = Acceptor(incoming);
    let builder = Service::builder("one:1").dialer(Dialer::Memory(pipes)).topics(["t"]);
    let (service, script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let service = service.unwrap();
    let kicked = kick(script).await;
    let look = |hello: &Hello| assert_eq!((hello.wished_id, &hello.topics[..]), (7, &["t".to_owned()][..]));
    let _script = acceptor.welcome(Welcome { epoch: 2, ..welcome() }, look).await;
    assert!(kicked.elapsed() >= Duration::from_secs(3), "{:?}", kicked.elapsed());
    service.watch().until(|state| matches!(state, State::Ready { id: 7, epoch: 2 })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_pings_and_a_silent_gateway_is_left() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let began = Instant::now();
    let mut pings = Vec::new();
    while let Some(event) = script.event().await {
        let Event::Frame(frame) = event else { continue };
        assert_eq!(frame.header.kind, FrameType::Ping);
        pings.push(began.elapsed());
    }
    assert!(pings.len() >= 3, "{pings:?}");
    // The first is sent at once, to measure; then after 20 s, give or take a quarter.
    assert!(pings[1] >= Duration::from_secs(15) && pings[1] <= Duration::from_secs(25), "{pings:?}");
    assert_eq!(began.elapsed().as_secs(), 50);
    edge.watch()
        .until(|state| matches!(state, State::Reconnecting { error, .. } if error.kind() == "silent"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_heard_lives() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(600) {
        let Some(Event::Frame(frame)) = script.event().await else { panic!() };
        script.send(FrameHeader::new(FrameType::Pong, frame.header.id), b"", b"").await;
    }
    assert!(matches!(edge.state(), State::Ready { .. }));
}
