//! More of everything than a peer may have: it is told or cut, and nobody else notices.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use frontier_e2e::{
    gateway::Config,
    peer::{Closed, Dial, Incoming, Peer},
    scene::Scene,
    wait::{SOON, until},
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        connection::SESSION_WINDOW,
        frame::{Flags, FrameHeader, FrameType},
        proto,
    },
};
use prost::Message;

/// Few control frames: a flood is over it at once, whatever the machine.
fn strict() -> Config {
    Config::new().set("limits.control_frames", 500)
}

/// Lets a peer send `one` again and again until it is cut, which must be for flooding.
fn flood(scene: Scene, mut one: impl FnMut(&mut Peer, u64) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let mut sent = 0;
    // Far more than a second's worth; the limit counts by seconds.
    while sent < 20_000 && one(&mut edge, sent).is_ok() {
        sent += 1;
    }
    let end = edge.wait("end", SOON, |incoming| match incoming {
        Incoming::Frame(frame) if frame.kind == FrameType::GoAway => Some(Ok(frame.clone())),
        Incoming::Closed(closed) => Some(Err(*closed)),
        _ => None,
    })?;
    match end {
        Ok(frame) => {
            let reason = frame.head_as::<proto::GoAway>()?.reason.context("no reason")?;
            assert_eq!(ErrorCode::from_wire(reason.code.cast_unsigned()), ErrorCode::Overloaded);
            edge.closed(SOON)?;
        }
        // What was still being sent made the kernel forget the last frame.
        Err(closed) => assert_eq!(closed, Closed::Reset),
    }
    scene.refused("abuse", 1)?;
    scene.logged("protocol error")?;
    drop(edge);
    scene.end(16)
}

#[test]
fn a_flood_of_pings_is_cut() -> anyhow::Result<()> {
    flood(Scene::start(&strict())?, |edge, n| edge.wire.frame(FrameType::Ping, Flags::NONE, n, &[], &[]))
}

#[test]
fn a_flood_of_multiplexer_pings_is_cut() -> anyhow::Result<()> {
    let ping = b"\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07";
    flood(Scene::start(&strict())?, move |edge, _| Ok(edge.wire.raw(ping)?))
}

#[test]
fn a_flood_of_window_updates_is_cut() -> anyhow::Result<()> {
    let update = b"\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01";
    flood(Scene::start(&strict())?, move |edge, _| Ok(edge.wire.raw(update)?))
}

#[test]
fn a_flood_of_cancels_is_cut() -> anyhow::Result<()> {
    flood(Scene::start(&strict())?, |edge, n| {
        edge.wire.frame(FrameType::Cancel, Flags::NONE, n + 1, &[], &[])
    })
}

#[test]
fn a_flood_of_credits_is_cut() -> anyhow::Result<()> {
    flood(Scene::start(&strict())?, |edge, n| edge.grant(n + 1, Flags::REPLY, 1))
}

#[test]
fn a_flood_of_registrations_is_cut() -> anyhow::Result<()> {
    let head = proto::Names { methods: vec!["m".to_owned()], topics: Vec::new() }.encode_to_vec();
    flood(Scene::start(&strict())?, move |edge, n| {
        let kind = if n % 2 == 0 { FrameType::Register } else { FrameType::Unregister };
        edge.wire.frame(kind, Flags::NONE, n + 1, &head, &[])
    })
}

#[test]
fn a_flood_of_streams_opened_and_reset_is_cut() -> anyhow::Result<()> {
    flood(Scene::start(&strict())?, |edge, _| {
        let stream = edge.wire.conn().open_stream()?;
        edge.wire.flush()?;
        edge.reset(stream)
    })
}

#[test]
fn streams_beyond_the_limit_are_refused_and_the_session_lives() -> anyhow::Result<()> {
    let scene =
        Scene::start(&Config::new().set("limits.streams_per_session", 8).set("limits.handshake", "2s"))?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    // Opened, but Open never comes: they count, and they are not kept for ever.
    let mut unfinished = Vec::new();
    for _ in 0..8 {
        let stream = edge.wire.conn().open_stream()?;
        edge.wire.conn().outbox().push_stream(stream, Bytes::from_static(b"\x11"), false);
        unfinished.push(stream);
    }
    edge.wire.flush()?;
    let call = proto::Call { name: "bystanders".to_owned(), ..proto::Call::default() };
    let more = (0..32).map(|_| edge.start_stream(&call)).collect::<Result<Vec<_>, _>>()?;
    // There is room to tell as many as may be open why they are refused.
    let (told, cut) = more.split_at(8);
    for stream in told {
        let refusal = edge.open_ack(*stream, SOON)?.err().context("one too many was taken")?;
        assert_eq!(refusal.code, ErrorCode::Overloaded);
    }
    for stream in cut {
        edge.was_reset(*stream, SOON).with_context(|| format!("stream {stream}, far beyond the limit"))?;
    }
    assert_eq!(edge.call("bystander", b"alive", SOON)?, Ok(b"alive".to_vec()));
    for stream in &unfinished {
        edge.was_reset(*stream, SOON).with_context(|| format!("stream {stream}, never completed"))?;
    }
    scene.gateway.metric_reaches("frontier_sessions", &["role=\"edge\""], 2.0)?;
    until("all streams are gone", SOON, || {
        scene.gateway.metric("frontier_stream_ends", &[]).is_ok_and(|ends| ends == 0.0).then_some(())
    })?;
    drop(edge);
    scene.end(8)
}

#[test]
fn calls_beyond_the_limit_are_refused_and_the_others_answered() -> anyhow::Result<()> {
    let config = Config::new().set("limits.requests_in_flight", 4).set("limits.messages_in_flight", 3);
    let scene = Scene::start(&config)?;
    let dial = Dial::service(scene.gateway.services(), "s")?.methods(&["slow"]).topics(&["t"]);
    let mut service = dial.connect()?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    assert_eq!(edge.welcome().max_in_flight, 3, "what holds for either");
    for (kind, name, limit) in [(FrameType::Request, "slow", 4), (FrameType::Publish, "t", 3)] {
        let call = proto::Call { name: name.to_owned(), ..proto::Call::default() };
        let ids = (0..1_000).map(|_| edge.start(kind, call.clone(), b"x")).collect::<Result<Vec<_>, _>>()?;
        let (admitted, refused) = ids.split_at(limit);
        for id in refused {
            let refusal = edge.answer(*id, SOON)?.err().context("one too many was taken")?;
            assert_eq!(refusal.code, ErrorCode::Overloaded);
        }
        for id in admitted {
            let (theirs, ..) = service.operation(SOON)?;
            match kind {
                FrameType::Request => service.respond(theirs, b"")?,
                _ => service.ack(theirs)?,
            }
            assert_eq!(edge.answer(*id, SOON)?, Ok(Vec::new()));
        }
        ensure!(service.next(Duration::from_millis(50))?.is_none(), "the service was sent one too many");
    }
    drop((edge, service));
    scene.end(8)
}

#[test]
fn names_beyond_the_limit_are_refused_and_the_others_stay() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().set("limits.registrations", 10))?;
    let mut service = Dial::service(scene.gateway.services(), "s")?.connect()?;
    let names: Vec<String> = (0..11).map(|n| format!("m{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (most, rest) = names.split_at(10);
    let refusal = service
        .names(FrameType::Register, &names, &[], SOON)?
        .err()
        .context("11 names were taken at once")?;
    assert_eq!(refusal.code, ErrorCode::InvalidArgument, "{}", refusal.text);
    service.names(FrameType::Register, most, &[], SOON)?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    ensure!(service.names(FrameType::Register, rest, &[], SOON)?.is_err(), "an eleventh method was taken");
    ensure!(
        service.names(FrameType::Register, &[], &["t"], SOON)?.is_err(),
        "a topic beyond the limit was taken"
    );
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let id = edge.request("m9", b"")?;
    let (theirs, ..) = service.operation(SOON)?;
    service.respond(theirs, b"here")?;
    assert_eq!(edge.answer(id, SOON)?, Ok(b"here".to_vec()));
    let too_many = Dial::service(scene.gateway.services(), "t")?.methods(&names).attempt()?;
    ensure!(too_many.is_err(), "11 names in Hello were taken");
    drop((edge, service));
    scene.end(8)
}

#[test]
fn refused_calls_of_a_peer_that_never_reads_do_not_pile_up() -> anyhow::Result<()> {
    // Every one of these is answered with an error at once; a peer that does not read the errors must not make the gateway keep them.
    let scene = Scene::start(&Config::new().set("limits.outbox", "256KiB"))?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let head = proto::Call { name: "nobody".to_owned(), ..proto::Call::default() }.encode_to_vec();
    let (mut id, mut most, mut left) = (0, 0, SESSION_WINDOW as usize);
    while left > 0 {
        // Below the multiplexer: whoever sends through it also reads what the other side grants.
        let mut calls = Vec::new();
        while calls.len() < 60_000 {
            id += 1;
            FrameHeader::new(FrameType::Request, id).put_frame(&mut calls, &head, &[])?;
        }
        calls.truncate(left);
        left -= calls.len();
        let len = u32::try_from(calls.len())?.to_be_bytes();
        let data = [&[0, 0, 0, 0, 0, 0, 0, 1][..], &len, &calls].concat();
        if edge.wire.raw(&data).is_err() {
            break;
        }
        most = most.max(scene.growth()?);
    }
    scene.refused("abuse", 1)?;
    ensure!(most < 16 << 20, "memory grew by {} KiB", most >> 10);
    drop(edge);
    scene.end(16)
}
