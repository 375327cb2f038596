//! Peers that take their time: in the handshake, in reading, in answering.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::Config,
    peer::{Dial, Incoming, Peer, Refusal},
    scene::Scene,
    wait::{SOON, pause, until},
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{FrameHeader, FrameType},
        proto,
    },
};

/// What a machine under load may add to a limit of one second.
const LATE: Duration = Duration::from_secs(5);

/// Little room for a peer that does not read, and little patience with it.
fn deaf() -> Config {
    Config::new().set("limits.stall", "1s").set("limits.outbox", "256KiB")
}

/// Whether the other side has closed; never waits.
fn is_closed(io: &mut TcpStream) -> bool {
    let mut byte = [0; 64];
    loop {
        match io.read(&mut byte) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                );
            }
        }
    }
}

#[test]
fn handshakes_that_dribble_are_cut_at_the_limit() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().set("limits.handshake", "1s"))?;
    // What a native dialer begins with, then a Hello that never ends.
    let mut opening = b"\x00\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00".to_vec();
    opening.extend_from_slice(
        b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x40\x00\x01\x00\x3f\xf0\x00\x00\x00\x00",
    );
    opening.resize(4_096, 0);
    let start = Instant::now();
    let mut sockets: Vec<TcpStream> = Vec::new();
    for n in 0..50 {
        let addr = if n % 2 == 0 { scene.gateway.edges() } else { scene.gateway.services() };
        let socket = TcpStream::connect(addr)?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    let mut sent = 0;
    let mut first_cut = None;
    until("all of them cut", Duration::from_secs(1) + LATE, || {
        // Every fifth says nothing at all.
        let byte = opening.get(sent..=sent).unwrap_or_default();
        for (_, socket) in sockets.iter_mut().enumerate().filter(|(n, _)| n % 5 != 0) {
            // Those that were cut already fail, which is what is waited for.
            let _ = socket.write(byte);
        }
        sent += 1;
        pause(Duration::from_millis(20));
        sockets.retain_mut(|socket| !is_closed(socket));
        if sockets.len() < 50 && first_cut.is_none() {
            first_cut = Some(start.elapsed());
        }
        sockets.is_empty().then_some(())
    })?;
    ensure!(first_cut > Some(Duration::from_millis(900)), "cut after {first_cut:?}, before the limit");
    scene.refused("timeout", 50)?;
    scene.logged("refused")?;
    scene.end(8)
}

/// Calls a peer that never reads until it is gone; what the callers are told must be one of the two errors there are for that.
fn call_a_deaf_peer(
    scene: &Scene,
    caller: &mut Peer,
    mut start: impl FnMut(&mut Peer, &[u8]) -> anyhow::Result<u64>,
) -> anyhow::Result<()> {
    let ids = (0..400).map(|_| start(caller, &[7; 48 << 10])).collect::<Result<Vec<_>, _>>()?;
    let (mut codes, mut most) = (Vec::new(), 0);
    for id in ids {
        codes
            .push(caller.answer(id, SOON)?.err().context("nobody answered and yet there is an answer")?.code);
        most = most.max(scene.growth()?);
    }
    ensure!(codes.contains(&ErrorCode::Overloaded), "what does not fit is refused: {codes:?}");
    ensure!(codes.contains(&ErrorCode::SessionClosed), "what was sent fails with the session: {codes:?}");
    let told = |code: &ErrorCode| matches!(code, ErrorCode::Overloaded | ErrorCode::SessionClosed);
    ensure!(codes.iter().all(told), "{codes:?}");
    // 20 MiB were sent to it; its outbox may hold a quarter of one.
    ensure!(most < 16 << 20, "memory grew by {} KiB meanwhile", most >> 10);
    scene.refused("abuse", 1)
}

#[test]
fn an_edge_that_never_reads_costs_its_callers_an_error_and_nobody_else() -> anyhow::Result<()> {
    let scene = Scene::start(&deaf())?;
    let edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let mut service = Dial::service(scene.gateway.services(), "s")?.connect()?;
    let id = edge.id();
    call_a_deaf_peer(&scene, &mut service, |service, body| service.request_edge(id, "sink", body))?;
    let request = service.request_edge(id, "sink", b"")?;
    let after = service.answer(request, SOON)?.err().context("the edge is gone")?;
    assert_eq!(after.code, ErrorCode::EdgeNotOnline);
    drop((edge, service));
    scene.end(16)
}

#[test]
fn a_service_that_never_reads_costs_its_callers_an_error_and_nobody_else() -> anyhow::Result<()> {
    let scene = Scene::start(&deaf())?;
    let service = Dial::service(scene.gateway.services(), "s")?.methods(&["sink"]).connect()?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    call_a_deaf_peer(&scene, &mut edge, |edge, body| edge.request("sink", body))?;
    let after = edge.call("sink", b"", SOON)?.err().context("the service is gone")?;
    assert_eq!(after.code, ErrorCode::MethodNotFound);
    drop((edge, service));
    scene.end(16)
}

#[test]
fn a_service_that_never_answers_runs_into_the_deadline() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new())?;
    let mut service =
        Dial::service(scene.gateway.services(), "s")?.methods(&["sink"]).topics(&["t"]).connect()?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let start = Instant::now();
    for (kind, name) in [(FrameType::Request, "sink"), (FrameType::Publish, "t")] {
        let call = proto::Call { name: name.to_owned(), timeout_ms: 300, ..proto::Call::default() };
        let id = edge.start(kind, call, b"")?;
        let (theirs, head, _) = service.operation(SOON)?;
        ensure!((1..=300).contains(&head.timeout_ms), "what is left of the deadline: {}", head.timeout_ms);
        let refusal = edge.answer(id, SOON)?.err().context("an answer from nowhere")?;
        assert_eq!(refusal.code, ErrorCode::DeadlineExceeded);
        let cancel = service.frame(FrameType::Cancel, SOON)?;
        assert_eq!(cancel.id, theirs);
        // Too late: nobody gets it, and nobody minds.
        match kind {
            FrameType::Request => service.respond(theirs, b"late")?,
            _ => service.ack(theirs)?,
        }
    }
    ensure!(start.elapsed() >= Duration::from_millis(600), "deadlines passed early: {:?}", start.elapsed());
    service.sync(SOON)?;
    edge.sync(SOON)?;
    scene.gateway.metric_reaches("frontier_late_answers_total", &[], 2.0)?;
    drop((edge, service));
    scene.end(8)
}

#[test]
fn those_who_hold_the_most_are_cut_when_memory_runs_out() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().set("limits.memory", "16MiB"))?;
    let dial = Dial::edge(scene.gateway.edges())?;
    let deaf: Vec<Peer> = (0..10).map(|_| dial.connect()).collect::<Result<_, _>>()?;
    let mut service = Dial::service(scene.gateway.services(), "s")?.connect()?;
    // Some 35 MiB, of which no outbox is full.
    let mut most = 0;
    for edge in &deaf {
        for _ in 0..70 {
            service.request_edge(edge.id(), "sink", &[7; 48 << 10])?;
        }
        service.sync(SOON)?;
        most = most.max(scene.growth()?);
    }
    // The last of them were refused. What nobody can refuse uses up the rest: the beginnings of 40 frames of 60,000 bytes.
    let header = FrameHeader::new(FrameType::Request, 1).with_lens(0, 60_000)?;
    let begin = [&[0, 0, 0, 0, 0, 0, 0, 1][..], &60_016_u32.to_be_bytes(), &header.encode()].concat();
    let mut strangers: Vec<Peer> = (0..40).map(|_| dial.connect()).collect::<Result<_, _>>()?;
    for stranger in &mut strangers {
        stranger.wire.raw(&begin)?;
    }
    scene.gateway.metric_reaches("frontier_memory_cuts_total", &[], 1.0)?;
    ensure!(most < 48 << 20, "memory grew by {} KiB", most >> 10);
    until("the budget is kept", SOON, || {
        let held = scene.gateway.metric("frontier_memory_held_bytes", &[]);
        held.is_ok_and(|held| held <= f64::from(16 << 20)).then_some(())
    })?;
    // Those who waited for the ones that were cut are told so.
    let closed = |refusal: &Refusal| refusal.code == ErrorCode::SessionClosed;
    let told = |incoming: &Incoming| matches!(incoming, Incoming::Answer { answer: Err(refusal), .. } if closed(refusal));
    service.wait("answers for those who were cut", SOON, |incoming| told(incoming).then_some(()))?;
    drop((deaf, strangers, service));
    scene.end(16)
}
