//! Bodies in fragments, and what is wrong about them.

use super::*;

#[tokio::test(start_paused = true)]
async fn fragments_stop_at_the_credit_and_go_on_with_more() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let body = pattern(400_000);
    let call = tokio::task::spawn(edge.call("big", body.clone()).into_future());
    let mut came = Vec::new();
    while came.len() < INITIAL_CREDIT as usize {
        let frame = script.expect(FrameType::Request).await;
        assert!(frame.header.flags.more());
        if came.is_empty() {
            assert_eq!(CallHead::parse(&frame.head).unwrap().total_len, 400_000);
        } else {
            assert!(frame.head.is_empty());
        }
        came.extend_from_slice(&frame.body);
    }
    assert_eq!(came.len(), INITIAL_CREDIT as usize);
    // Without credit nothing more comes, and small calls are not held up.
    let small = tokio::task::spawn(edge.call("small", "").into_future());
    let frame = script.expect(FrameType::Request).await;
    assert_eq!(CallHead::parse(&frame.head).unwrap().name, "small");
    script.respond(frame.header.id, b"").await;
    small.await.unwrap().unwrap();

    let mut head = Vec::new();
    Credit { bytes: 100_000 }.encode(&mut head);
    script.send(FrameHeader::new(FrameType::Credit, 1), &head, b"").await;
    while came.len() < INITIAL_CREDIT as usize + 100_000 {
        came.extend_from_slice(&script.expect(FrameType::Request).await.body);
    }
    script.send(FrameHeader::new(FrameType::Credit, 1), &head, b"").await;
    let last = script.expect(FrameType::Request).await;
    assert!(!last.header.flags.more());
    came.extend_from_slice(&last.body);
    assert!(came == body);
    script.respond(1, b"thanks").await;
    assert_eq!(call.await.unwrap().unwrap().body(), "thanks");
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_last_fragment_ends_the_transfer() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let call = tokio::task::spawn(edge.call("big", pattern(1 << 20)).into_future());
    script.expect(FrameType::Request).await;
    let mut head = Vec::new();
    ReplyBuilder::error(ErrorRef::new(ErrorCode::Overloaded, "no")).encode(&mut head);
    script.send(FrameHeader::new(FrameType::Response, 1), &head, b"").await;
    assert_eq!(code(call.await.unwrap().unwrap_err()), "overloaded");
    let mut head = Vec::new();
    Credit { bytes: 1 << 20 }.encode(&mut head);
    script.send(FrameHeader::new(FrameType::Credit, 1), &head, b"").await;
    let next = tokio::task::spawn(edge.call("next", "").into_future());
    // At most what was on its way already comes before.
    let frame = loop {
        let frame = script.expect(FrameType::Request).await;
        if frame.header.id == 2 {
            break frame;
        }
    };
    assert_eq!(CallHead::parse(&frame.head).unwrap().name, "next");
    script.respond(2, b"").await;
    next.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_in_fragments_is_granted_as_it_comes_and_its_answer_waits_for_credit() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let task = tokio::task::spawn(async move {
        edge.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
        edge
    });
    let register = script.expect(FrameType::Register).await;
    script.ack(register.header.id).await;
    let edge = task.await.unwrap();

    let body = pattern(500_000);
    let mut head = Vec::new();
    CallBuilder::new("echo")
        .timeout_ms(5_000)
        .total_len(500_000)
        .sender(Sender::Service(3))
        .encode(&mut head);
    let (mut credit, mut sent) = (INITIAL_CREDIT as usize, 0);
    while sent < body.len() {
        while credit == 0 {
            let frame = script.expect(FrameType::Credit).await;
            assert_eq!((frame.header.id, frame.header.flags.reply()), (5, false));
            credit += Credit::parse(&frame.head).unwrap().bytes as usize;
        }
        let len = credit.min(60_000).min(body.len() - sent);
        let flags = if sent + len < body.len() { Flags::MORE } else { Flags::NONE };
        let header = FrameHeader::new(FrameType::Request, 5).with_flags(flags);
        script.send(header, if sent == 0 { &head } else { b"" }, &body[sent..sent + len]).await;
        sent += len;
        credit -= len;
    }
    let mut back = Vec::new();
    while back.len() < body.len() {
        let frame = loop {
            let frame = script.frame().await.unwrap();
            if frame.header.kind != FrameType::Credit {
                break frame;
            }
        };
        assert_eq!((frame.header.kind, frame.header.id), (FrameType::Response, 5));
        if back.is_empty() {
            assert_eq!(ReplyHead::parse(&frame.head).unwrap().total_len, 500_000);
        }
        back.extend_from_slice(&frame.body);
        if back.len() == INITIAL_CREDIT as usize {
            let mut head = Vec::new();
            Credit { bytes: 1 << 20 }.encode(&mut head);
            script.send(FrameHeader::new(FrameType::Credit, 5).with_flags(Flags::REPLY), &head, b"").await;
        }
    }
    assert!(back == body);
    drop(edge);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_answered_at_its_deadline() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let task = tokio::task::spawn(async move {
        edge.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
        edge
    });
    let register = script.expect(FrameType::Register).await;
    script.ack(register.header.id).await;
    let edge = task.await.unwrap();
    let mut head = Vec::new();
    CallBuilder::new("echo").timeout_ms(5_000).total_len(500_000).encode(&mut head);
    script.send(FrameHeader::new(FrameType::Request, 1).with_flags(Flags::MORE), &head, b"begin").await;
    let began = Instant::now();
    let answer = script.expect(FrameType::Response).await;
    let error = ReplyHead::parse(&answer.head).unwrap().error.unwrap();
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    let elapsed = began.elapsed();
    assert!((5..=7).contains(&elapsed.as_secs()), "{elapsed:?}");
    // Late fragments are skipped.
    script.send(FrameHeader::new(FrameType::Request, 1), b"", b"end").await;
    script.request(2, "echo", b"fine").await;
    assert_eq!(script.expect(FrameType::Response).await.body.as_ref(), b"fine");
    assert_eq!(edge.budget_left(), 64 << 20);
}

#[tokio::test(start_paused = true)]
async fn broken_announcements_and_aborts_fail_their_operation_alone() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) =
        tokio::join!(builder.max_body(1 << 20).connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let task = tokio::task::spawn(async move {
        edge.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
        edge
    });
    let register = script.expect(FrameType::Register).await;
    script.ack(register.header.id).await;
    let edge = task.await.unwrap();
    let mut id = 0;
    let mut begin = async |script: &mut Script, total: u64| {
        id += 1;
        let mut head = Vec::new();
        CallBuilder::new("echo").timeout_ms(5_000).total_len(total).encode(&mut head);
        script.send(FrameHeader::new(FrameType::Request, id).with_flags(Flags::MORE), &head, &[1; 100]).await;
        id
    };
    let outcome = async |script: &mut Script| {
        let answer = script.expect(FrameType::Response).await;
        ReplyHead::parse(&answer.head).unwrap().error.unwrap().code
    };
    // More than the limit, more than announced, less than announced, broken off.
    begin(&mut script, 2 << 20).await;
    assert_eq!(outcome(&mut script).await, ErrorCode::PayloadTooLarge);
    begin(&mut script, 50).await;
    assert_eq!(outcome(&mut script).await, ErrorCode::InvalidArgument);
    let short = begin(&mut script, 5_000).await;
    script.send(FrameHeader::new(FrameType::Request, short), b"", b"end").await;
    assert_eq!(outcome(&mut script).await, ErrorCode::InvalidArgument);
    let broken = begin(&mut script, 5_000).await;
    let mut head = Vec::new();
    CallBuilder::abort(ErrorRef::new(ErrorCode::SessionClosed, "")).encode(&mut head);
    script.send(FrameHeader::new(FrameType::Request, broken).with_flags(Flags::ABORT), &head, b"").await;
    assert_eq!(outcome(&mut script).await, ErrorCode::SessionClosed);
    assert_eq!(edge.budget_left(), 64 << 20);
    script.request(100, "echo", b"fine").await;
    assert_eq!(script.expect(FrameType::Response).await.body.as_ref(), b"fine");
}
