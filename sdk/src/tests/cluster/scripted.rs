//! Gateways that say and expect exact frames.

use frontier_wire::native::{
    frame::{FrameHeader, FrameType},
    head::{ErrorRef, Locate, Names, ReplyBuilder},
    hello::Welcome,
};
use tokio::sync::mpsc;

use super::{
    super::script::{Acceptor, Script, welcome},
    *,
};
use crate::ErrorCode;

/// A gateway of the cluster is played by the test from now on.
fn played(cluster: &Cluster, gateway: usize) -> Acceptor {
    let (pipes, incoming) = mpsc::channel(8);
    cluster.reroute(gateway, pipes);
    Acceptor(incoming)
}

async fn refuse(script: &mut Script, kind: FrameType, id: u64, code: ErrorCode) {
    let mut head = Vec::new();
    ReplyBuilder::error(ErrorRef::new(code, "no")).encode(&mut head);
    script.send(FrameHeader::new(kind, id), &head, b"").await;
}

/// Says that it has the edge, and that it has not when it is needed. Counts how often it is.
async fn deceive(mut script: Script, needed: Arc<AtomicUsize>) {
    while let Some(frame) = script.frame().await {
        match frame.header.kind {
            FrameType::Locate => {
                let mut head = Vec::new();
                Locate { edge: Locate::parse(&frame.head).unwrap().edge, epoch: 9 }.encode(&mut head);
                script.send(FrameHeader::new(FrameType::Locate, frame.header.id), &head, b"").await;
            }
            FrameType::Request => {
                needed.fetch_add(1, Ordering::SeqCst);
                refuse(&mut script, FrameType::Response, frame.header.id, ErrorCode::EdgeNotOnline).await;
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_brought_to_a_new_place_once() {
    let cluster = Cluster::start(2);
    let (mut one, mut two) = (played(&cluster, 0), played(&cluster, 1));
    let service = cluster.service().connect_in_background().await.unwrap();
    let needed = Arc::new(AtomicUsize::new(0));
    for gateway in [&mut one, &mut two] {
        let script = gateway.welcome(welcome(), |_| {}).await;
        tokio::spawn(deceive(script, needed.clone()));
    }
    connected(&service, 2).await;
    assert_eq!(code(service.call(5, "m", "").await.unwrap_err()), "edge_not_online");
    assert_eq!(needed.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_id_of_the_first_gateway_is_wished_at_the_others_and_welcome_decides() {
    let cluster = Cluster::start(2);
    let (mut one, mut two) = (played(&cluster, 0), played(&cluster, 1));
    let service = cluster.service().connect_in_background().await.unwrap();
    let mut first = one.accept().await;
    first.expect(FrameType::Hello).await;
    let mut second = two.accept().await;
    let mut head = Vec::new();
    Welcome { id: 77, ..welcome() }.encode(&mut head);
    first.send(FrameHeader::new(FrameType::Welcome, 0), &head, b"").await;
    let hello = second.expect(FrameType::Hello).await;
    let limits = frontier_wire::native::limits::HelloLimits::default();
    let wished = frontier_wire::native::hello::Hello::decode(&hello.head, &limits).unwrap().wished_id;
    assert_eq!(wished, 77);
    let mut head = Vec::new();
    Welcome { id: 78, ..welcome() }.encode(&mut head);
    second.send(FrameHeader::new(FrameType::Welcome, 0), &head, b"").await;
    connected(&service, 2).await;
    assert_eq!(service.id().get(), 77);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_slow_to_give_an_id_keeps_the_others_a_second() {
    let cluster = Cluster::start(2);
    let (mut one, mut two) = (played(&cluster, 0), played(&cluster, 1));
    let began = Instant::now();
    let _service = cluster.service().connect_in_background().await.unwrap();
    let mut slow = one.accept().await;
    slow.expect(FrameType::Hello).await;
    two.accept().await.expect(FrameType::Hello).await;
    assert!((1_000..1_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_offered_while_a_gateway_is_connecting_is_said_before_it_counts() {
    let cluster = Cluster::start(2);
    let mut played = played(&cluster, 1);
    let service = cluster.service().method("early", |_| async { Ok(()) }).connect().await.unwrap();
    let mut script = played.accept().await;
    script.expect(FrameType::Hello).await;
    // The other gateway takes it at once; this one was asked before.
    service.register("late", |_| async { Ok(()) }).await.unwrap();
    service.unregister("early").await.unwrap();
    let mut head = Vec::new();
    welcome().encode(&mut head);
    script.send(FrameHeader::new(FrameType::Welcome, 0), &head, b"").await;
    let names = |head: &[u8]| Names::parse(head).unwrap().methods().map(str::to_owned).collect::<Vec<_>>();
    let register = script.expect(FrameType::Register).await;
    assert_eq!(names(&register.head), ["late"]);
    settle().await;
    assert_eq!(service.gateways().iter().filter(|gateway| gateway.state().is_connected()).count(), 1);
    script.ack(register.header.id).await;
    let unregister = script.expect(FrameType::Unregister).await;
    assert_eq!(names(&unregister.head), ["early"]);
    script.ack(unregister.header.id).await;
    connected(&service, 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_one_gateway_refuses_is_offered_by_none_and_one_that_is_silent_holds_nothing_up() {
    let cluster = Cluster::start(2);
    let mut played = played(&cluster, 1);
    let service = cluster.service().connect().await.unwrap();
    let mut script = played.welcome(welcome(), |_| {}).await;
    connected(&service, 2).await;
    let registering = tokio::spawn({
        let service = service.clone();
        async move { service.register("m", |_| async { Ok(()) }).await }
    });
    let register = script.expect(FrameType::Register).await;
    refuse(&mut script, FrameType::Ack, register.header.id, ErrorCode::PermissionDenied).await;
    let unregister = script.expect(FrameType::Unregister).await;
    script.ack(unregister.header.id).await;
    assert_eq!(code(registering.await.unwrap().unwrap_err()), "permission_denied");
    let edge = cluster.edge_at(0).connect().await.unwrap();
    assert_eq!(code(edge.call("m", "").await.unwrap_err()), "method_not_found");

    let began = Instant::now();
    service.register("n", |_| async { Ok("ok") }).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(edge.call("n", "").await.unwrap().body(), "ok");
    script.expect(FrameType::Register).await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_does_not_say_where_an_edge_is_holds_nobody_up_for_long() {
    let cluster = Cluster::start(3);
    cluster.registry().set_manner(Manner::Silent);
    let mut played = played(&cluster, 2);
    let builder = cluster.service().call_timeout(Duration::from_secs(3));
    let service = builder.connect().await.unwrap();
    let _script = played.welcome(welcome(), |_| {}).await;
    connected(&service, 3).await;
    let (edge, _) = echo(&cluster, 1).await;
    let began = Instant::now();
    assert_eq!(service.call(edge.id(), "echo", "1").await.unwrap().body(), "1");
    assert!((300..350).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    // Whether an edge is online cannot be said without it, though.
    assert_eq!(code(service.locate(99).await.unwrap_err()), "deadline_exceeded");
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_waits_when_its_gateway_is_lost_finds_another_way() {
    let cluster = Cluster::start(2);
    let mut played = played(&cluster, 1);
    let service = cluster.service().connect().await.unwrap();
    // Of all that is asked it takes eight at a time, and answers nothing.
    let mut script = played.welcome(Welcome { max_in_flight: 8, ..welcome() }, |_| {}).await;
    connected(&service, 2).await;
    let (edge, count) = echo(&cluster, 0).await;
    cluster.registry().say(edge.id().get(), 1);
    let call = |_| tokio::spawn(service.call(edge.id(), "echo", "").into_future());
    let calls: Vec<_> = (0..20).map(call).collect();
    for _ in 0..8 {
        script.expect(FrameType::Request).await;
    }
    settle().await;
    cluster.registry().say(edge.id().get(), 0);
    drop(script);
    let mut lost = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(code(error), "session_closed");
                lost += 1;
            }
        }
    }
    // Nobody knows what became of those that were sent; all others were done, once.
    assert_eq!((lost, count.load(Ordering::SeqCst)), (8, 12));
}
