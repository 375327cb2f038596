//! The library against a peer that says and expects exact frames.

mod bodies;
mod reconnect;

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
pub(super) struct Acceptor(pub(super) mpsc::Receiver<DuplexStream>);

/// One connection, driven by the test.
pub(super) struct Script {
    io: DuplexStream,
    conn: Connection,
    events: std::collections::VecDeque<Event<Bytes>>,
}

fn edge() -> (Acceptor, EdgeBuilder) {
    let (pipes, incoming) = mpsc::channel(8);
    (Acceptor(incoming), Edge::builder(["one:1", "two:2"]).dialer(Dialer::Memory(pipes)))
}

pub(super) fn welcome() -> Welcome {
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
    pub(super) async fn accept(&mut self) -> Script {
        let io = self.0.recv().await.unwrap();
        Script { io, conn: Connection::accept(&Config::default()), events: Default::default() }
    }

    /// Accepts, checks Hello by `look`, and welcomes.
    pub(super) async fn welcome(&mut self, welcome: Welcome, look: impl FnOnce(&Hello)) -> Script {
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
    pub(super) async fn send(&mut self, header: FrameHeader, head: &[u8], body: &[u8]) {
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
    pub(super) async fn frame(&mut self) -> Option<Frame<Bytes>> {
        loop {
            match self.event().await? {
                Event::Frame(frame) if frame.header.kind == FrameType::Ping => {}
                Event::Frame(frame) => return Some(frame),
                Event::Ended => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) async fn expect(&mut self, kind: FrameType) -> Frame<Bytes> {
        let frame = self.frame().await.unwrap();
        assert_eq!(frame.header.kind, kind, "{frame:?}");
        frame
    }

    pub(super) async fn ack(&mut self, id: u64) {
        self.send(FrameHeader::new(FrameType::Ack, id), b"", b"").await;
    }

    pub(super) async fn respond(&mut self, id: u64, body: &[u8]) {
        self.send(FrameHeader::new(FrameType::Response, id), b"", body).await;
    }

    /// Answers the client's GoAway.
    pub(super) async fn release(&mut self) {
        self.send(FrameHeader::new(FrameType::GoAway, 0), b"", b"").await;
    }

    pub(super) async fn go_away(&mut self, in_ms: u32, code: ErrorCode) {
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
