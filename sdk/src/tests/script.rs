//! The library against a peer that says and expects exact frames.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use frontier_wire::{
    native::{
        connection::{Connection, Event, Input},
        frame::{Flags, FrameHeader, FrameType, INITIAL_CREDIT},
        head::{CallBuilder, CallHead, Credit, ErrorRef, GoAway, Names, ReplyBuilder, ReplyHead, Sender},
        hello::{Hello, Welcome},
        limits::{FrameLimits, HelloLimits},
        reader::Frame,
    },
    yamux::{Config, StreamId},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::Instant,
};

use super::{code, pattern};
use crate::{
    ConnectError, Edge, EdgeBuilder, ErrorCode, Reconnect, Request, Service, State, transport::Dialer,
};

/// Accepts connections by hand.
struct Acceptor(mpsc::Receiver<DuplexStream>);

/// One connection, driven by the test.
struct Script {
    io: DuplexStream,
    conn: Connection,
    events: std::collections::VecDeque<Event<Bytes>>,
}

fn edge() -> (Acceptor, EdgeBuilder) {
    let (pipes, incoming) = mpsc::channel(8);
    (Acceptor(incoming), Edge::builder(["one:1", "two:2"]).dialer(Dialer::Memory(pipes)))
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        features: 0,
        id: 7,
        epoch: 1,
        ticket: b"ticket-1".to_vec(),
        shards: 1,
        stream_window: 64 << 10,
        heartbeat_ms: 20_000,
        max_body: 16 << 20,
        max_in_flight: 8,
    }
}

impl Acceptor {
    async fn accept(&mut self) -> Script {
        let io = self.0.recv().await.unwrap();
        Script { io, conn: Connection::accept(&Config::default()), events: Default::default() }
    }

    /// Accepts, checks Hello by `look`, and welcomes.
    async fn welcome(&mut self, welcome: Welcome, look: impl FnOnce(&Hello)) -> Script {
        let mut script = self.accept().await;
        let hello = script.expect(FrameType::Hello).await;
        look(&Hello::decode(&hello.head, &HelloLimits::default()).unwrap());
        let mut head = Vec::new();
        welcome.encode(&mut head);
        script.send(FrameHeader::new(FrameType::Welcome, 0), &head, b"").await;
        script
    }
}

impl Script {
    async fn send(&mut self, header: FrameHeader, head: &[u8], body: &[u8]) {
        let header = header.with_lens(head.len(), body.len()).unwrap();
        let mut lead = header.encode().to_vec();
        lead.extend_from_slice(head);
        self.conn.outbox().push_frame(1, lead.into(), Bytes::copy_from_slice(body));
        self.flush().await;
    }

    async fn stream_bytes(&mut self, id: StreamId, bytes: &[u8]) {
        self.conn.outbox().push_stream(id, Bytes::copy_from_slice(bytes), false);
        self.flush().await;
    }

    /// The next event, pings aside.
    async fn stream_event(&mut self) -> Event<Bytes> {
        loop {
            match self.event().await.unwrap() {
                Event::Frame(frame) if frame.header.kind == FrameType::Ping => {}
                other => return other,
            }
        }
    }

    async fn stream_opened(&mut self) -> StreamId {
        match self.stream_event().await {
            Event::StreamOpened(id) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn stream_data(&mut self, stream: StreamId) -> Bytes {
        match self.stream_event().await {
            Event::StreamData(id, bytes) if id == stream => bytes.into_bytes(),
            other => panic!("{other:?}"),
        }
    }

    async fn stream_reset(&mut self, stream: StreamId) {
        let event = self.stream_event().await;
        assert!(matches!(event, Event::StreamReset(id) if id == stream), "{event:?}");
    }

    async fn flush(&mut self) {
        while self.conn.wants_write() {
            self.conn.fill(usize::MAX);
            let mut slices = Vec::new();
            self.conn.slices(&mut slices, 1);
            let Some(slice) = slices.first() else { break };
            let n = self.io.write(slice).await.unwrap();
            self.conn.written(n, |_, _| {});
        }
    }

    async fn event(&mut self) -> Option<Event<Bytes>> {
        while self.events.is_empty() {
            let mut buffer = BytesMut::with_capacity(64 << 10);
            if self.io.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return None;
            }
            let mut input = Input::new(buffer.freeze());
            while let Some(event) =
                self.conn.receive(&mut input, &FrameLimits::HELLO.max_body_of(65_536)).unwrap()
            {
                self.events.push_back(event);
            }
            self.flush().await;
        }
        self.events.pop_front()
    }

    /// The next frame of the session stream, pings aside.
    async fn frame(&mut self) -> Option<Frame<Bytes>> {
        loop {
            match self.event().await? {
                Event::Frame(frame) if frame.header.kind == FrameType::Ping => {}
                Event::Frame(frame) => return Some(frame),
                Event::Ended => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn expect(&mut self, kind: FrameType) -> Frame<Bytes> {
        let frame = self.frame().await.unwrap();
        assert_eq!(frame.header.kind, kind, "{frame:?}");
        frame
    }

    async fn ack(&mut self, id: u64) {
        self.send(FrameHeader::new(FrameType::Ack, id), b"", b"").await;
    }

    async fn respond(&mut self, id: u64, body: &[u8]) {
        self.send(FrameHeader::new(FrameType::Response, id), b"", body).await;
    }

    async fn go_away(&mut self, in_ms: u32, code: ErrorCode) {
        let away = GoAway { reconnect_in_ms: in_ms, reason: Some(ErrorRef::new(code, "")) };
        let mut head = Vec::new();
        away.encode(&mut head);
        self.send(FrameHeader::new(FrameType::GoAway, 0), &head, b"").await;
    }

    async fn request(&mut self, id: u64, method: &str, body: &[u8]) {
        let mut head = Vec::new();
        CallBuilder::new(method).timeout_ms(5_000).sender(Sender::Service(3)).encode(&mut head);
        self.send(FrameHeader::new(FrameType::Request, id), &head, body).await;
    }
}

/// Frames of Hello are longer than others, and have no body.
trait MaxBodyOf {
    fn max_body_of(self, len: u32) -> Self;
}

impl MaxBodyOf for FrameLimits {
    fn max_body_of(mut self, len: u32) -> Self {
        self.max_body = len;
        self
    }
}

#[tokio::test(start_paused = true)]
async fn hello_says_what_was_set() {
    let (mut acceptor, builder) = edge();
    let builder = builder.meta("m").wished_id(9).token("t").label("k", "v").resume("old ticket");
    let (edge, _script) = tokio::join!(
        builder.connect(),
        acceptor.welcome(welcome(), |hello| {
            assert_eq!((&hello.meta[..], hello.wished_id, &hello.token[..]), (&b"m"[..], 9, &b"t"[..]));
            assert_eq!(hello.labels["k"], "v");
            assert_eq!(hello.ticket, b"old ticket");
        })
    );
    let edge = edge.unwrap();
    assert_eq!((edge.id().get(), edge.ticket().as_ref()), (7, &b"ticket-1"[..]));
    assert!(matches!(edge.state(), State::Ready { id: 7, epoch: 1 }));
}

#[tokio::test(start_paused = true)]
async fn every_address_is_tried_once_and_the_last_error_returned() {
    let (mut acceptor, builder) = edge();
    let (outcome, ()) = tokio::join!(builder.connect(), async {
        drop(acceptor.accept().await);
        let mut second = acceptor.accept().await;
        let mut head = Vec::new();
        ErrorRef::new(ErrorCode::Unauthenticated, "who?").encode(&mut head);
        second.expect(FrameType::Hello).await;
        second.send(FrameHeader::new(FrameType::Reject, 0), &head, b"").await;
    });
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.code()), ("rejected", Some(ErrorCode::Unauthenticated)));
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_says_nothing_is_given_up_in_time() {
    let (mut acceptor, builder) = edge();
    let began = Instant::now();
    let builder = builder.connect_timeout(Duration::from_secs(3));
    let (outcome, _held) =
        tokio::join!(builder.connect(), async { (acceptor.accept().await, acceptor.accept().await) });
    assert_eq!(outcome.unwrap_err().kind(), "timeout");
    assert_eq!(began.elapsed().as_secs(), 6);
}

#[tokio::test(start_paused = true)]
async fn garbage_instead_of_welcome_is_a_protocol_error() {
    let (mut acceptor, builder) = edge();
    let (outcome, ()) = tokio::join!(builder.connect(), async {
        for _ in 0..2 {
            let mut script = acceptor.accept().await;
            script.io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        }
    });
    assert_eq!(outcome.unwrap_err().kind(), "protocol");
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_names_and_ticket_go_with_hello_and_ready_comes_after_welcome() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let (registered, ()) =
        tokio::join!(edge.register("echo", |req: Request| async move { Ok(req.into_body()) }), async {
            let frame = script.expect(FrameType::Register).await;
            assert_eq!(Names::parse(&frame.head).unwrap().methods().collect::<Vec<_>>(), ["echo"]);
            script.ack(frame.header.id).await;
        });
    registered.unwrap();

    let pending = tokio::task::spawn(edge.call("m", "").into_future());
    script.expect(FrameType::Request).await;
    drop(script);
    assert_eq!(code(pending.await.unwrap().unwrap_err()), "session_closed");
    let mut watch = edge.watch();
    watch.until(|state| matches!(state, State::Reconnecting { .. })).await.unwrap();

    // Asked for while there is no connection: waits.
    let waiting = tokio::task::spawn(edge.call("later", "").into_future());
    let next = Welcome { epoch: 2, ticket: b"ticket-2".to_vec(), ..welcome() };
    let mut script = acceptor
        .welcome(next, |hello| {
            assert_eq!(hello.ticket, b"ticket-1");
            assert_eq!(hello.methods, ["echo"]);
        })
        .await;
    watch.until(|state| matches!(state, State::Ready { id: 7, epoch: 2 })).await.unwrap();
    assert_eq!(edge.ticket(), "ticket-2");
    let frame = script.expect(FrameType::Request).await;
    assert_eq!(CallHead::parse(&frame.head).unwrap().name, "later");
    script.respond(frame.header.id, b"done").await;
    assert_eq!(waiting.await.unwrap().unwrap().body(), "done");
    script.request(1, "echo", b"x").await;
    assert_eq!(script.expect(FrameType::Response).await.body.as_ref(), b"x");
}

#[tokio::test(start_paused = true)]
async fn an_edge_offers_its_first_methods_with_hello() {
    let (mut acceptor, builder) = edge();
    let builder = builder.method("echo", |req: Request| async move { Ok(req.into_body()) });
    let (edge, mut script) = tokio::join!(
        builder.connect(),
        acceptor.welcome(welcome(), |hello| assert_eq!(hello.methods, ["echo"]))
    );
    let _edge = edge.unwrap();
    script.request(1, "echo", b"x").await;
    assert_eq!(script.expect(FrameType::Response).await.body.as_ref(), b"x");
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_offered_are_errors_before_anything_is_dialled() {
    let echo = |req: Request| async move { Ok(req.into_body()) };
    for (method, expected) in [("", "invalid_argument"), ("edge_online", "permission_denied")] {
        let (_acceptor, builder) = edge();
        let error = builder.method(method, echo).connect().await.unwrap_err();
        assert_eq!((error.kind(), error.code().unwrap().name()), ("name", expected));
    }
    let error = Service::builder("one:1").topics(["t".repeat(256)]).connect().await.unwrap_err();
    assert_eq!(error.kind(), "name");
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn more_names_than_fit_into_hello_are_registered_before_ready() {
    let (pipes, incoming) = mpsc::channel(8);
    let mut acceptor = Acceptor(incoming);
    let topics: Vec<String> = (0..400).map(|n| format!("{n:0250}")).collect();
    let builder = Service::builder("one:1").dialer(Dialer::Memory(pipes)).topics(topics.clone());
    let mut came = Vec::new();
    let (service, _script) = tokio::join!(builder.connect(), async {
        let mut script = acceptor.welcome(welcome(), |hello| came.extend(hello.topics.clone())).await;
        assert!(came.len() < topics.len());
        while came.len() < topics.len() {
            let frame = script.expect(FrameType::Register).await;
            came.extend(Names::parse(&frame.head).unwrap().topics().map(str::to_owned));
            script.ack(frame.header.id).await;
        }
        script
    });
    service.unwrap();
    came.sort();
    assert_eq!(came, topics);
}

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
    assert!(old.frame().await.is_none());
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

/// A head that is no protobuf message.
const GARBAGE: &[u8] = b"\xff\xff\xff";

#[tokio::test(start_paused = true)]
async fn a_head_that_cannot_be_read_fails_its_operation_alone() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let service = tokio::task::spawn(async move {
        edge.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
        edge
    });
    let register = script.expect(FrameType::Register).await;
    script.ack(register.header.id).await;
    let edge = service.await.unwrap();
    let code_of = async |script: &mut Script, kind: FrameType, id: u64| {
        let answer = script.expect(kind).await;
        assert_eq!(answer.header.id, id);
        ReplyHead::parse(&answer.head).unwrap().error.unwrap().code
    };
    // Theirs: a call, a message, one whose further fragments must be skipped, one that breaks off.
    script.send(FrameHeader::new(FrameType::Request, 1), GARBAGE, b"body").await;
    assert_eq!(code_of(&mut script, FrameType::Response, 1).await, ErrorCode::InvalidArgument);
    script.send(FrameHeader::new(FrameType::Publish, 2).with_flags(Flags::MORE), GARBAGE, b"body").await;
    assert_eq!(code_of(&mut script, FrameType::Ack, 2).await, ErrorCode::InvalidArgument);
    script.send(FrameHeader::new(FrameType::Publish, 2), b"", b"the rest").await;
    let mut head = Vec::new();
    CallBuilder::new("echo").timeout_ms(5_000).total_len(5_000).encode(&mut head);
    script.send(FrameHeader::new(FrameType::Request, 3).with_flags(Flags::MORE), &head, &[1; 100]).await;
    script.send(FrameHeader::new(FrameType::Request, 3).with_flags(Flags::ABORT), GARBAGE, b"").await;
    assert_eq!(code_of(&mut script, FrameType::Response, 3).await, ErrorCode::Cancelled);
    script.send(FrameHeader::new(FrameType::Credit, 3), GARBAGE, b"").await;
    // Ours: an answer, one in fragments, one that breaks off, an acknowledgement.
    for flags in [Flags::NONE, Flags::MORE, Flags::ABORT] {
        let call = tokio::task::spawn(edge.call("m", "").into_future());
        let id = script.expect(FrameType::Request).await.header.id;
        script.send(FrameHeader::new(FrameType::Response, id).with_flags(flags), GARBAGE, b"body").await;
        assert_eq!(call.await.unwrap().unwrap_err().code(), ErrorCode::Internal);
        if flags.more() {
            script.expect(FrameType::Cancel).await;
        }
    }
    let message = tokio::task::spawn(edge.publish("t", "").into_future());
    let id = script.expect(FrameType::Publish).await.header.id;
    script.send(FrameHeader::new(FrameType::Ack, id), GARBAGE, b"").await;
    assert_eq!(message.await.unwrap().unwrap_err().code(), ErrorCode::Internal);
    script.request(4, "echo", b"fine").await;
    assert_eq!(script.expect(FrameType::Response).await.body.as_ref(), b"fine");
    assert_eq!(edge.budget_left(), 64 << 20);
}

/// Whether the session of `edge` still carries a call.
async fn still_calls(edge: &Edge, script: &mut Script) {
    let call = tokio::task::spawn(edge.call("m", "").into_future());
    let id = script.expect(FrameType::Request).await.header.id;
    script.respond(id, b"fine").await;
    assert_eq!(call.await.unwrap().unwrap().body(), "fine");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_on_a_stream_resets_that_stream_alone() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let mut too_long = FrameHeader::new(FrameType::Data, 0);
    too_long.body_len = 65_537;
    let mut head = Vec::new();
    CallBuilder::new("svc").encode(&mut head);
    let mut open = Vec::new();
    FrameHeader::new(FrameType::Open, 1).put_frame(&mut open, &head, b"").unwrap();

    // Theirs: cannot be read on after a frame that is too long.
    let id = script.conn.open_stream().unwrap();
    script.stream_bytes(id, &open).await;
    let mut stream = edge.accept_stream().await.unwrap();
    script.stream_data(id).await;
    script.stream_bytes(id, &too_long.encode()).await;
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(error.to_string().contains("broke the protocol"), "{error}");
    script.stream_reset(id).await;
    still_calls(&edge, &mut script).await;

    // Theirs: says more before it is accepted.
    let id = script.conn.open_stream().unwrap();
    FrameHeader::new(FrameType::Cancel, 1).put_frame(&mut open, b"", b"").unwrap();
    script.stream_bytes(id, &open).await;
    script.stream_reset(id).await;
    still_calls(&edge, &mut script).await;

    // Ours: accepted by a frame that cannot be read.
    let opening = tokio::task::spawn(edge.open_stream("svc").into_future());
    let id = script.stream_opened().await;
    script.stream_data(id).await;
    let mut ack = Vec::new();
    FrameHeader::new(FrameType::OpenAck, 0).put_frame(&mut ack, GARBAGE, b"").unwrap();
    script.stream_bytes(id, &ack).await;
    assert_eq!(opening.await.unwrap().unwrap_err().code(), ErrorCode::SessionClosed);
    script.stream_reset(id).await;
    still_calls(&edge, &mut script).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_on_a_stream_and_does_not_read_loses_that_stream_alone() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let mut open = Vec::new();
    let mut head = Vec::new();
    CallBuilder::new("svc").encode(&mut head);
    FrameHeader::new(FrameType::Open, 1).put_frame(&mut open, &head, b"").unwrap();
    let id = script.conn.open_stream().unwrap();
    script.stream_bytes(id, &open).await;
    let mut stream = edge.accept_stream().await.unwrap();
    stream.register("big", |_: Request| async move { Ok(Bytes::from_static(&[7; 65_000])) });
    let mut head = Vec::new();
    CallBuilder::new("big").encode(&mut head);
    let mut over = None;
    for call in 1..=1_100 {
        let mut request = Vec::new();
        FrameHeader::new(FrameType::Request, call).put_frame(&mut request, &head, b"").unwrap();
        script.stream_bytes(id, &request).await;
        tokio::task::yield_now().await;
    }
    while over.is_none() {
        match script.stream_event().await {
            Event::StreamReset(stream) => over = Some(stream),
            Event::StreamData(..) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(over, Some(id));
    let error = stream.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("does not read the answers"), "{error}");
    still_calls(&edge, &mut script).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_reset_before_it_was_answered_was_one_too_many() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let opening = tokio::task::spawn(edge.open_stream("svc").into_future());
    let id = script.stream_opened().await;
    script.stream_data(id).await;
    script.conn.reset_stream(id);
    script.flush().await;
    assert_eq!(opening.await.unwrap().unwrap_err().code(), ErrorCode::Overloaded);
    still_calls(&edge, &mut script).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_registration_of_a_name_waits_for_the_outcome_of_the_first() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let register = |edge: Edge| async move {
        edge.register("m", |req: Request| async move { Ok(req.into_body()) }).await
    };
    let first = tokio::task::spawn(register(edge.clone()));
    let id = script.expect(FrameType::Register).await.header.id;
    let second = tokio::task::spawn(register(edge.clone()));
    tokio::task::yield_now().await;
    assert!(!second.is_finished(), "nobody knows yet whether the name is offered");
    let mut head = Vec::new();
    ReplyBuilder::error(ErrorRef::new(ErrorCode::Overloaded, "no")).encode(&mut head);
    script.send(FrameHeader::new(FrameType::Ack, id), &head, b"").await;
    // The first is taken back everywhere; then the second tries for itself.
    let id = script.expect(FrameType::Unregister).await.header.id;
    script.ack(id).await;
    assert_eq!(first.await.unwrap().unwrap_err().code(), ErrorCode::Overloaded);
    let id = script.expect(FrameType::Register).await.header.id;
    script.ack(id).await;
    second.await.unwrap().unwrap();
    script.request(1, "m", b"here").await;
    assert_eq!(script.expect(FrameType::Response).await.body.as_ref(), b"here");
}

#[tokio::test(start_paused = true)]
async fn the_longest_of_all_times_is_no_reason_to_panic() {
    let (mut acceptor, builder) = edge();
    let builder = builder
        .call_timeout(Duration::MAX)
        .close_timeout(Duration::MAX)
        .drain_timeout(Duration::MAX)
        .heartbeat(Duration::MAX)
        .connect_timeout(Duration::MAX);
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let task = tokio::task::spawn({
        let edge = edge.clone();
        async move { edge.register("m", |req: Request| async move { Ok(req.into_body()) }).await }
    });
    let id = script.expect(FrameType::Register).await.header.id;
    script.ack(id).await;
    task.await.unwrap().unwrap();
    // The first connection retires in favour of a second.
    script.go_away(0, ErrorCode::GatewayDraining).await;
    let mut second = acceptor.welcome(welcome(), |_| {}).await;
    still_calls(&edge, &mut second).await;
    drop((script, second));
    edge.close().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_operations_go_out_than_the_gateway_allows() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let calls: Vec<_> = (0..9).map(|_| tokio::task::spawn(edge.call("m", "").into_future())).collect();
    for _ in 0..8 {
        script.expect(FrameType::Request).await;
    }
    let nothing = tokio::time::timeout(Duration::from_secs(5), script.frame()).await;
    assert!(nothing.is_err());
    script.respond(1, b"").await;
    assert_eq!(script.expect(FrameType::Request).await.header.id, 9);
    for id in 2..=9 {
        script.respond(id, b"").await;
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_an_error() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let call = tokio::task::spawn(edge.call("m", "").into_future());
    script.expect(FrameType::Request).await;
    let mut head = Vec::new();
    ReplyBuilder::new().total_len(500_000).encode(&mut head);
    script.send(FrameHeader::new(FrameType::Response, 1).with_flags(Flags::MORE), &head, &[1; 60_000]).await;
    let mut head = Vec::new();
    ReplyBuilder::error(ErrorRef::new(ErrorCode::SessionClosed, "lost")).encode(&mut head);
    script.send(FrameHeader::new(FrameType::Response, 1).with_flags(Flags::ABORT), &head, b"").await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.text()), (ErrorCode::SessionClosed, "lost"));
    assert_eq!(edge.budget_left(), 64 << 20);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_says_goodbye_and_closes() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let other = edge.clone();
    drop(edge);
    super::settle().await;
    assert!(other.state().is_connected());
    drop(other);
    let bye = script.expect(FrameType::GoAway).await;
    assert!(GoAway::parse(&bye.head).unwrap().reason.is_none());
    assert!(script.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn closing_lets_handlers_answer_and_waits_for_them_not_longer_than_said() {
    let (mut acceptor, builder) = edge();
    let (edge, mut script) = tokio::join!(
        builder.close_timeout(Duration::from_secs(3)).connect(),
        acceptor.welcome(welcome(), |_| {})
    );
    let edge = edge.unwrap();
    let task = tokio::task::spawn(async move {
        edge.register("slow", |req: Request| async move {
            let seconds = u64::from(req.body()[0]);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok("done")
        })
        .await
        .unwrap();
        edge
    });
    let register = script.expect(FrameType::Register).await;
    script.ack(register.header.id).await;
    let edge = task.await.unwrap();
    script.request(1, "slow", &[1]).await;
    script.request(2, "slow", &[60]).await;
    super::settle().await;
    let began = Instant::now();
    let closing = tokio::task::spawn(async move { edge.close().await });
    script.expect(FrameType::GoAway).await;
    assert_eq!(script.expect(FrameType::Response).await.header.id, 1);
    assert!(script.frame().await.is_none());
    assert_eq!(began.elapsed().as_secs(), 3);
    drop(script);
    closing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_does_not_read_is_left() {
    let (mut acceptor, builder) = edge();
    let (edge, script) = tokio::join!(builder.connect(), acceptor.welcome(welcome(), |_| {}));
    let edge = edge.unwrap();
    let began = Instant::now();
    let error = edge.call("big", pattern(1 << 20)).timeout(Duration::from_secs(300)).await.unwrap_err();
    assert_eq!(code(error), "session_closed");
    assert!(began.elapsed().as_secs() <= 51);
    drop(script);
}
