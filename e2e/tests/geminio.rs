//! Peers of the Go system's protocol against the real gateway: among themselves, with native ones, and when they misbehave.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use frontier_e2e::{
    gateway::{Config, Gateway, Line},
    geminio::Client,
    peer::{Dial, Incoming, Worker},
    scene::Scene,
    wait::{SOON, until},
};
use frontier_wire::{
    error::ErrorCode,
    geminio::{
        connection::Event,
        data::{Content, decode, split_tail},
    },
    native::frame::FrameType,
};
use rustix::process::Signal;

/// A geminio edge; nobody grants its wish unless a service does.
fn edge(gateway: &Gateway) -> anyhow::Result<Client> {
    Client::connect(gateway.edges(), 0, b"sn-42", SOON)
}

/// Answers every call with what it was sent and every message with nothing, until the connection ends.
fn echo(mut client: Client) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while let Ok(operation) = client.asked(Duration::from_secs(60)) {
            let value = decode(operation.data.value());
            let failed = value == b"fail";
            let answer = if failed { Err("as you wish") } else { Ok(value.as_slice()) };
            if client.respond(operation.id, answer).is_err() {
                return;
            }
        }
    })
}

#[test]
fn calls_and_messages_of_geminio_peers_reach_each_other_and_native_ones() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().args(["--shards", "2"]))?;
    drop(echo(Client::service(gateway.services(), "g", &["g-echo"], &["g-news"], SOON)?));
    let native = Dial::service(gateway.services(), "n")?.methods(&["n-echo"]).topics(&["n-news"]);
    let _native = Worker::spawn(native.connect()?, |peer, incoming| match incoming {
        Incoming::Operation { kind: FrameType::Request, id, body, .. } => peer.respond(id, &body),
        Incoming::Operation { kind: FrameType::Publish, id, .. } => peer.ack(id),
        _ => Ok(()),
    });
    let long = vec![7; 1 << 20];
    for _ in 0..4 {
        let mut guest = edge(&gateway)?;
        for method in ["g-echo", "n-echo"] {
            assert_eq!(guest.call(None, method, b"ping", SOON)?, Ok(b"ping".to_vec()));
            assert!(guest.call(None, method, &long, SOON)? == Ok(long.clone()), "a long body by {method}");
        }
        assert_eq!(guest.call(None, "g-echo", b"fail", SOON)?, Err("as you wish".to_owned()));
        assert_eq!(guest.call(None, "nothing", b"", SOON)?, Err("record not found".to_owned()));
        assert_eq!(guest.publish(None, "g-news", b"x", SOON)?, Ok(Vec::new()));
        assert_eq!(guest.publish(None, "n-news", b"x", SOON)?, Ok(Vec::new()));
        assert_eq!(guest.publish(None, "weather", b"x", SOON)?, Err("topic not online".to_owned()));
        let mut peer = Dial::edge(gateway.edges())?.connect()?;
        assert_eq!(peer.call("g-echo", b"ping", SOON)?, Ok(b"ping".to_vec()));
        assert!(peer.call("g-echo", &long, SOON)? == Ok(long.clone()), "a long body of a native edge");
        let failed = peer.call("g-echo", b"fail", SOON)?.expect_err("an error");
        assert_eq!((failed.code, failed.text.as_str()), (ErrorCode::Application, "as you wish"));
        assert_eq!(peer.publish("g-news", b"x", SOON)?, Ok(Vec::new()));
        // And towards edges of either.
        let mut caller = Client::service(gateway.services(), "caller", &[], &[], SOON)?;
        let native_edge = peer.id();
        let _worker = Worker::echo(peer);
        assert_eq!(caller.call(Some(native_edge), "echo", b"up", SOON)?, Ok(b"up".to_vec()));
        let guest_edge = guest.id();
        let running = echo(guest);
        assert_eq!(caller.call(Some(guest_edge), "tune", b"up", SOON)?, Ok(b"up".to_vec()));
        assert_eq!(caller.publish(Some(guest_edge), "", b"up", SOON)?, Ok(Vec::new()));
        assert_eq!(caller.call(Some(1), "tune", b"up", SOON)?, Err("edge not online".to_owned()));
        let mut native_caller = Dial::service(gateway.services(), "caller")?.connect()?;
        let call = native_caller.request_edge(guest_edge, "tune", b"hi")?;
        assert_eq!(native_caller.answer(call, SOON)?, Ok(b"hi".to_vec()));
        drop(running);
    }
    ensure!(gateway.metric("frontier_sessions", &["role=\"edge\"", "protocol=\"geminio\""])? >= 1.0);
    ensure!(gateway.metric("frontier_sessions", &["role=\"service\"", "protocol=\"geminio\""])? >= 1.0);
    Ok(())
}

#[test]
fn a_service_learns_the_id_of_an_edge_and_says_who_comes_in() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let methods = ["get_edge_id", "edge_online", "edge_offline", "sum"];
    let mut service = Client::service(gateway.services(), "ids", &methods, &[], SOON)?;
    let addr = gateway.edges();
    let coming = thread::spawn(move || Client::connect(addr, 0, b"sn-42", SOON));
    let ask = service.asked(SOON)?;
    assert_eq!(
        (decode(ask.data.key()), decode(ask.data.value())),
        (b"get_edge_id".to_vec(), b"sn-42".to_vec())
    );
    service.respond(ask.id, Ok(&4_242_u64.to_be_bytes()))?;
    let ask = service.asked(SOON)?;
    let told: serde_json::Value = serde_json::from_slice(&decode(ask.data.value()))?;
    assert_eq!(
        (&told["EdgeID"], &told["Meta"], &told["Net"]),
        (&4_242.into(), &"c24tNDI=".into(), &"tcp".into())
    );
    service.respond(ask.id, Ok(b""))?;
    let mut edge = coming.join().map_err(|_| anyhow::anyhow!("the edge panicked"))??;
    assert_eq!(edge.id(), 4_242);
    // Right behind the answer: the methods are there.
    let calling = thread::spawn(move || {
        let answer = edge.call(None, "sum", b"1 2", SOON);
        (edge, answer)
    });
    let ask = service.asked(SOON)?;
    assert_eq!(split_tail(ask.data.custom()), Some((Vec::new(), 4_242)));
    service.respond(ask.id, Ok(b"3"))?;
    let (edge, answer) = calling.join().map_err(|_| anyhow::anyhow!("the edge panicked"))?;
    assert_eq!(answer?, Ok(b"3".to_vec()));
    drop(edge);
    assert_eq!(decode(service.asked(SOON)?.data.key()), b"edge_offline");
    // A refusal has the service's text.
    let coming =
        thread::spawn(move || Client::connect(addr, 0, b"", SOON).err().map(|error| error.to_string()));
    let ask = service.asked(SOON)?;
    service.respond(ask.id, Err("who are you"))?;
    assert_eq!(coming.join().ok().flatten().as_deref(), Some("who are you"));
    Ok(())
}

/// Bytes that two connections, one behind the other, have room for in buffers of the kernel, which grow by themselves.
fn sockets_hold() -> anyhow::Result<usize> {
    let mut hold = 0;
    for file in ["tcp_rmem", "tcp_wmem"] {
        let limits = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{file}"))?;
        hold += limits.split_whitespace().last().context("the longest buffer")?.parse::<usize>()?;
    }
    Ok(2 * hold)
}

#[test]
fn a_slow_reader_of_a_stream_slows_its_writer_and_costs_no_memory() -> anyhow::Result<()> {
    /// A writer that gets no further for so long waits for its reader.
    const STUCK: Duration = Duration::from_millis(500);
    // More than the kernel takes on both ways.
    let total = (sockets_hold()? + (16 << 20)).next_multiple_of(256 << 10);
    let gateway = Gateway::start(&Config::new())?;
    let mut service = Client::service(gateway.services(), "files", &[], &[], SOON)?;
    let mut edge = edge(&gateway)?;
    let now = edge.now();
    edge.conn().open("files", Content::None, now)?;
    edge.flush()?;
    let Event::Open { dialogue: there, .. } = service.next(SOON)? else { anyhow::bail!("no stream") };
    service.conn().accept(there);
    service.flush()?;
    let Event::Opened { dialogue: here, .. } = edge.next(SOON)? else { anyhow::bail!("not opened") };
    let before = gateway.proc().rss()?;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    // It blocks in `write` as soon as nobody reads.
    let writer = thread::spawn(move || -> anyhow::Result<Client> {
        for part in 0..total / (256 << 10) {
            edge.conn().send_raw(here, Bytes::from(vec![(part % 251) as u8; 256 << 10]), false);
            edge.flush()?;
            counter.store(part + 1, Ordering::Release);
        }
        let now = edge.now();
        edge.conn().close(here, now);
        while edge.take(SOON, |event| matches!(event, Event::Closed { .. })).is_err() {}
        Ok(edge)
    });
    let (mut seen, mut since) = (0, Instant::now());
    until("the writer stuck", Duration::from_secs(30), || {
        let now = written.load(Ordering::Acquire);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        (seen > 0 && since.elapsed() > STUCK).then_some(())
    })?;
    ensure!(seen < total / (256 << 10), "everything was written though nobody reads");
    let grown = gateway.proc().rss()?.saturating_sub(before);
    ensure!(grown < 24 << 20, "{} KiB more while nobody reads", grown >> 10);
    let bytes = service.read(there, total, Duration::from_secs(60))?;
    ensure!(
        bytes
            .chunks(256 << 10)
            .enumerate()
            .all(|(part, chunk)| chunk.iter().all(|byte| *byte == (part % 251) as u8))
    );
    service.take(SOON, |event| matches!(event, Event::Closed { .. }))?;
    drop(writer.join());
    Ok(())
}

/// Sends bytes and returns how many come back until the end, which must come soon.
fn say(addr: SocketAddr, pieces: &[&[u8]]) -> anyhow::Result<usize> {
    let mut io = TcpStream::connect(addr)?;
    for piece in pieces {
        io.write_all(piece)?;
    }
    io.set_read_timeout(Some(SOON))?;
    let mut answer = Vec::new();
    match io.read_to_end(&mut answer) {
        Ok(_) => Ok(answer.len()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(answer.len()),
        Err(error) => Err(error).context("the connection is still open"),
    }
}

/// A packet with that body.
fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![1, kind, 0, 0, 0, 0, 0, 0, 0, 9];
    packet.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    packet.extend_from_slice(body);
    packet
}

fn conn(json: &str) -> Vec<u8> {
    packet(1, &[b"\x18\0\0\0\0\0\0\0\0\0", json.as_bytes()].concat())
}

/// The body of a call as long as it may be: on the first session, an object that begins and ends like this.
fn filled(begin: &str, fill: &str, end: &str) -> Vec<u8> {
    let room = 10_485_760 - 8 - begin.len() - end.len();
    let json = [begin, &fill.repeat(room / fill.len()), end].concat();
    [&1_u64.to_be_bytes()[..], json.as_bytes()].concat()
}

#[test]
fn bad_packets_end_their_own_connection_and_nothing_else() -> anyhow::Result<()> {
    let scene = Scene::start(&Config::new().set("limits.handshake", "60s"))?;
    let addr = scene.gateway.edges();
    let deep = format!("{{\"meta\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let hostile = [
        conn("{"),
        conn("[]"),
        conn("{\"meta\":\"!!!\"}"),
        conn(&deep),
        packet(1, b"\x18\0"),
        // Before the handshake none of these may be.
        packet(0x11, b""),
        // A length that nobody allows.
        b"\x01\x01\0\0\0\0\0\0\0\x09\xff\xff\xff\xff\x18\0\0\0".to_vec(),
        // After it, a body too short, garbage, another handshake.
        [conn("{}"), packet(0x71, b"\0")].concat(),
    ];
    let count = u32::try_from(hostile.len())?;
    for bytes in &hostile {
        say(addr, &[bytes])?;
    }
    for (kind, body) in [
        (0x71, &b"\0\0\0\0\0\0\0\x01{x"[..]),
        (0x51, b"\0\0\0\0\0\0\0\x01"),
        (0x01, b"\x18\0\0\0\0\0\0\0\0\0{}"),
    ] {
        let mut client = Client::connect(addr, 0, b"", SOON)?;
        client.raw(&packet(kind, body))?;
        client.closed(SOON)?;
    }
    // As long, and as deep, as a packet may be: what is right is answered, what is not ends the connection, with one line each.
    let good = [
        filled("{\"key\":\"bm90aGluZw==\",\"value\":\"", "AAAA", "\"}"),
        filled("{\"key\":\"bm90aGluZw==\",\"value\":[1", ",1", "]}"),
        filled("{", "\"key\":\"YQ==\",", "\"key\":\"bm90aGluZw==\"}"),
    ];
    let mut client = Client::connect(addr, 0, b"", SOON)?;
    for body in &good {
        client.raw(&packet(0x71, body))?;
        assert_eq!(client.answer(9, SOON)?, Err("record not found".to_owned()));
    }
    drop(client);
    let bad = [
        filled("{\"value\":\"", "AAAA", "AA*=\"}"),
        filled("{\"value\":[1", ",1", ",]}"),
        filled("{\"value\":", "[", ""),
        filled(&"[".repeat(5_000_000), "]", ""),
    ];
    let mut ended = Vec::new();
    for body in &bad {
        let mut client = Client::connect(addr, 0, b"", SOON)?;
        client.raw(&packet(0x71, body))?;
        client.closed(SOON)?;
        ended.push(client.id());
    }
    for id in ended {
        let of = |line: &Line| line.field("id").and_then(serde_json::Value::as_u64) == Some(id);
        let line = scene.gateway.log().wait(SOON, |line| of(line) && line.message() != "session online")?;
        assert_eq!((line.message(), line.text_of("reason")), ("session ended", "protocol error"));
        assert_eq!(scene.gateway.log().find(|line| of(line) && line.message() != "session online").len(), 1);
    }
    // A generation that nobody knows is let in; what does not begin as they all do is no peer.
    let unknown = packet(1, &[&[0xff; 2][..], &[0; 8], b"{\"new\":[{\"a\":null}],\"meta\":null}"].concat());
    let mut io = TcpStream::connect(addr)?;
    io.set_read_timeout(Some(SOON))?;
    io.write_all(&unknown)?;
    let mut answer = [0; 15];
    io.read_exact(&mut answer)?;
    assert_eq!((answer[1], answer[14]), (0x02, 0), "ConnAck, and no refusal");
    drop(io);
    assert_eq!(say(addr, &[&[2], &unknown[1..]])?, 0);
    scene.refused("malformed", count)?;
    scene.logged("protocol error")?;
    // What means nothing is skipped: unknown types, acknowledgements of nothing, sessions that nobody opened.
    let mut client = Client::connect(addr, 0, b"", SOON)?;
    for kind in 0..=255 {
        // As long as the fixed part of the type, and an object where one belongs; of a session that nobody has opened.
        let body = match kind {
            // These begin or end something.
            0x01 | 0x11 | 0x12 | 0x31 | 0x41 => continue,
            0x21 | 0x22 => Vec::new(),
            0x02 => b"\0\0\0\0\0\0\0\0\x63{}".to_vec(),
            0x32 => [&[0; 17][..], b"\x63{}"].concat(),
            0x73 => b"\0\0\0\0\0\0\0\x63\0\x01".to_vec(),
            _ => b"\0\0\0\0\0\0\0\x63{}".to_vec(),
        };
        client.raw(&packet(kind, &body))?;
    }
    assert_eq!(client.call(None, "nothing", b"", SOON)?, Err("record not found".to_owned()));
    drop(client);
    scene.end(8)
}

#[test]
fn an_edge_beyond_the_rate_is_told_so_and_gets_in_later() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(1).set("limits.accept_rate", 2))?;
    let (mut inside, mut refused) = (Vec::new(), 0.0);
    for _ in 0..20 {
        match edge(&gateway) {
            Ok(edge) => inside.push(edge),
            Err(error) => {
                assert_eq!(error.to_string(), "overloaded");
                refused += 1.0;
            }
        }
    }
    ensure!(!inside.is_empty() && refused > 0.0, "{} inside, {refused} refused", inside.len());
    gateway.metric_reaches("frontier_refusals_total", &["reason=\"rate\""], refused)?;
    // Everybody waits for services: they are let in however many edges come.
    let mut services = Vec::new();
    for _ in 0..10 {
        services.push(Client::service(gateway.services(), "s", &["m"], &[], SOON)?);
    }
    let mut late = until("a place", SOON, || edge(&gateway).ok())?;
    drop(echo(services.remove(0)));
    drop(services);
    until("the one service that answers", SOON, || {
        (late.call(None, "m", b"ping", SOON).ok()? == Ok(b"ping".to_vec())).then_some(())
    })
}

#[test]
fn a_drain_ends_geminio_peers_in_good_order() -> anyhow::Result<()> {
    let mut gateway =
        Gateway::start(&Config::new().set("drain.accept_for", "500ms").set("drain.seconds", 10))?;
    let mut service = Client::service(gateway.services(), "s", &["m"], &[], SOON)?;
    let mut edge = edge(&gateway)?;
    gateway.signal(Signal::TERM)?;
    edge.take(SOON, |event| matches!(event, Event::Leaving | Event::Over(_)))?;
    service.take(SOON, |event| matches!(event, Event::Leaving | Event::Over(_)))?;
    ensure!(gateway.wait_exit(Duration::from_secs(15))?.success());
    Ok(())
}

#[test]
fn a_drain_leaves_a_young_connection_its_two_seconds() -> anyhow::Result<()> {
    let mut gateway = Gateway::start(&Config::new().set("drain.accept_for", "1ms").set("drain.seconds", 20))?;
    let before = Instant::now();
    let mut service = Client::service(gateway.services(), "s", &[], &[], SOON)?;
    gateway.signal(Signal::TERM)?;
    service.closed(SOON)?;
    let lived = before.elapsed();
    ensure!(lived >= Duration::from_secs(2), "closed after {lived:?}");
    ensure!(gateway.wait_exit(Duration::from_secs(15))?.success());
    Ok(())
}

#[test]
fn the_newest_edge_of_an_id_has_it() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let mut ids = Client::service(gateway.services(), "ids", &["get_edge_id"], &[], SOON)?;
    let running = thread::spawn(move || {
        while let Ok(ask) = ids.asked(Duration::from_secs(30)) {
            if ids.respond(ask.id, Ok(&77_u64.to_be_bytes())).is_err() {
                return;
            }
        }
    });
    let mut caller = Client::service(gateway.services(), "caller", &[], &[], SOON)?;
    let mut old = edge(&gateway)?;
    for _ in 0..3 {
        let new = edge(&gateway)?;
        // Its predecessor is closed when its two seconds are over.
        let leaving = thread::spawn(move || old.take(SOON, |event| matches!(event, Event::Leaving)));
        let answering = echo(new);
        assert_eq!(caller.call(Some(77), "who", b"me", SOON)?, Ok(b"me".to_vec()));
        leaving.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        old = edge(&gateway)?;
        drop(answering);
    }
    until("one edge", SOON, || {
        (gateway.metric("frontier_sessions", &["role=\"edge\"", "protocol=\"geminio\""]).ok()? == 1.0)
            .then_some(())
    })?;
    drop((old, running));
    Ok(())
}
