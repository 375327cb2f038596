//! What is not the native protocol, or breaks its rules, is told so and closed at once; others notice nothing.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Line},
    peer::{Dial, Event, Frame, Incoming, Refusal, Wire},
    scene::Scene,
    wait::SOON,
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType},
        proto,
    },
};
use prost::Message;

/// A handshake that nobody waits for: what is refused here is refused at once and not by this timer.
fn patient() -> Config {
    Config::new().set("limits.handshake", "60s")
}

/// Sends bytes and returns what comes until the end, which must come soon.
fn say(addr: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut io = TcpStream::connect(addr)?;
    io.write_all(bytes)?;
    end(&mut io)
}

/// What comes until the end of a connection.
fn end(io: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    io.set_read_timeout(Some(SOON))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match io.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(answer),
            Err(error) => return Err(error).context("the connection is still open"),
        }
    }
}

/// The frames that come until the end of the connection.
fn last_words(wire: &mut Wire) -> anyhow::Result<Vec<Frame>> {
    let mut frames = Vec::new();
    loop {
        match wire.next(SOON)?.context("the connection is still open")? {
            Event::Frame(frame) => frames.push(frame),
            Event::Closed(_) => return Ok(frames),
            _ => {}
        }
    }
}

/// The code of the Reject or GoAway that ends a connection.
fn verdict(wire: &mut Wire) -> anyhow::Result<ErrorCode> {
    let frames = last_words(wire)?;
    let last = frames.last().context("closed without a word")?;
    let error = match last.kind {
        FrameType::Reject => last.head_as::<proto::Error>()?,
        FrameType::GoAway => last.head_as::<proto::GoAway>()?.reason.context("no reason")?,
        _ => anyhow::bail!("closed after {last:?}"),
    };
    Ok(ErrorCode::from_wire(error.code.cast_unsigned()))
}

/// Bytes that no seed makes equal and that are the same in every run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn a_port_scan_leaves_nothing_behind() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    for _ in 0..200 {
        for addr in [scene.gateway.edges(), scene.gateway.services()] {
            drop(TcpStream::connect(addr)?);
        }
    }
    scene.refused("gone", 400)?;
    scene.logged("closed before Hello")?;
    // Four hundred would be what a scanner wants; what is left out is counted in the next line that is written.
    let lines = scene.gateway.log().find(|line| line.message() == "closed before Hello").len();
    ensure!(lines < 200, "{lines} lines about 400 connections");
    scene.end(8)
}

#[test]
fn an_offender_gets_one_line_in_the_log() -> anyhow::Result<()> {
    let scene = Scene::start(&patient().shards(1).set("limits.handshake", "1s"))?;
    let (edges, services) = (scene.gateway.edges(), scene.gateway.services());
    let mut offenders = Vec::new();
    // Ten are as many as the shard writes of within a second.
    let silent = TcpStream::connect(edges)?;
    offenders.push(("says nothing", silent.local_addr()?));
    let scan = TcpStream::connect(services)?;
    offenders.push(("port scan", scan.local_addr()?));
    drop(scan);
    for (what, bytes) in
        [("HTTP", &b"GET / HTTP/1.1\r\n\r\n"[..]), ("TLS", b"\x16\x03\x01\x02\x00"), ("noise", &[0; 64])]
    {
        let mut io = TcpStream::connect(edges)?;
        io.write_all(bytes)?;
        offenders.push((what, io.local_addr()?));
        end(&mut io).context(what)?;
    }
    let wrong_role = Dial::edge(services)?;
    let wrong_version = Dial::edge(edges)?.with(|hello| hello.version = 0);
    for (what, addr, dial) in [("wrong role", services, wrong_role), ("wrong version", edges, wrong_version)]
    {
        let wire = Wire::dial(addr)?;
        offenders.push((what, wire.local_addr()?));
        ensure!(dial.attempt_over(wire)?.is_err(), "{what}: welcome");
    }
    let mut wire = Wire::dial(edges)?;
    offenders.push(("a call before Hello", wire.local_addr()?));
    wire.frame(FrameType::Request, Flags::NONE, 1, &[], &[])?;
    last_words(&mut wire)?;
    let mut peer = Dial::edge(edges)?.connect()?;
    let broken = peer.wire.local_addr()?;
    peer.wire.frame(FrameType::Data, Flags::NONE, 1, &[], b"?")?;
    peer.sent_away(SOON)?;
    let log = scene.gateway.log();
    let of = |line: &Line, addr: SocketAddr| line.addr("client.addr") == Some(addr);
    for (what, addr) in &offenders {
        log.wait(SOON, |line| of(line, *addr)).with_context(|| (*what).to_owned())?;
    }
    // Everybody has a line, so a second one would be there, too.
    for (what, addr) in &offenders {
        let lines = log.find(|line| of(line, *addr));
        ensure!(lines.len() == 1, "{what}: {lines:?}");
        let role = if ["port scan", "wrong role"].contains(what) { "service" } else { "edge" };
        ensure!(lines.iter().all(|line| line.text_of("role") == role), "{what}: {lines:?}");
    }
    // Its session has begun before: one line for that and one for how it ended.
    log.wait(SOON, |line| of(line, broken) && line.message() == "session ended")?;
    let lines = log.find(|line| of(line, broken));
    let told: Vec<_> =
        lines.iter().map(|line| (line.message(), line.level(), line.text_of("reason"))).collect();
    let expected = [("session online", "INFO", ""), ("session ended", "WARN", "protocol error")];
    assert_eq!(told, expected, "a broken rule of a session");
    drop(silent);
    scene.end(8)
}

#[test]
fn other_protocols_are_closed_at_once() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    let client_hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &noise(1, 500)].concat();
    let foreign: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nhost: example\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &client_hello,
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\xff\xff\xff\xff",
    ];
    for bytes in foreign {
        for addr in [scene.gateway.edges(), scene.gateway.services()] {
            let answer = say(addr, bytes)?;
            ensure!(answer.is_empty(), "{answer:02x?} in answer to {:?}", bytes.escape_ascii().to_string());
        }
    }
    scene.refused("protocol", 14)?;
    scene.logged("foreign protocol")?;
    scene.end(8)
}

#[test]
fn the_ports_of_operators_tell_what_is_not_http() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    let gateway = &scene.gateway;
    let native = FrameHeader::new(FrameType::Hello, 0).encode();
    let client_hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &noise(1, 500)].concat();
    let foreign: [&[u8]; 5] =
        [&native, &client_hello, b"SSH-2.0-OpenSSH_9.2\r\n", b"*1\r\n$4\r\nPING\r\n", b"\xff\xff\xff\xff"];
    for (port, addr) in [("control", gateway.control()?), ("admin", gateway.admin()?)] {
        for bytes in foreign {
            let answer = say(addr, bytes)?;
            ensure!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{port}: {answer:02x?}");
        }
        drop(TcpStream::connect(addr)?);
        let (name, port_label) = ("frontier_operator_connections_total", format!("port=\"{port}\""));
        gateway.metric_reaches(name, &[&port_label, "outcome=\"invalid\""], 5.0)?;
        gateway.metric_reaches(name, &[&port_label, "outcome=\"empty\""], 1.0)?;
        let of_port = |line: &Line| line.text_of("port") == port && line.message().contains("is not HTTP");
        gateway.log().wait(SOON, of_port)?;
        let lines = gateway.log().find(of_port).len();
        ensure!(lines == foreign.len(), "{lines} lines about {} clients", foreign.len());
    }
    scene.end(8)
}

#[test]
fn a_listener_refuses_what_its_protocols_do_not_name() -> anyhow::Result<()> {
    let named = serde_json::json!(["native", "http"]);
    let scene = Scene::start(&patient().set("edgebound.listen.protocols", named))?;
    // Named, but not part of this version: the log says so at the start.
    let warned =
        scene.gateway.log().find(|line| line.text_of("problem").contains("http is not part of this version"));
    ensure!(!warned.is_empty() || scene.gateway.log().tail().contains("http is not part of this version"));
    ensure!(say(scene.gateway.edges(), b"GET / HTTP/1.1\r\n\r\n")?.is_empty(), "HTTP was answered");
    scene.refused("protocol", 1)?;
    drop(Dial::edge(scene.gateway.edges())?.connect()?);
    scene.end(8)
}

#[test]
fn random_bytes_are_closed_at_once() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    for seed in 0..100 {
        let mut bytes = noise(seed, 2_000);
        // Half of them look native at first sight.
        if let Some(first) = bytes.first_mut().filter(|_| seed % 2 == 0) {
            *first = 0;
        }
        let addr = if seed % 4 < 2 { scene.gateway.edges() } else { scene.gateway.services() };
        say(addr, &bytes).with_context(|| format!("seed {seed}"))?;
    }
    scene.logged("protocol error")?;
    scene.end(8)
}

#[test]
fn frames_of_another_order_of_bytes_are_closed_at_once() -> anyhow::Result<()> {
    // The session stream opens well; what it carries is noise.
    let scene = Scene::start(&patient())?;
    for seed in 0..50 {
        let mut wire = Wire::dial(scene.gateway.edges())?;
        let mut bytes = noise(seed, 40_000);
        // Not a known frame type, and too long to be skipped.
        if let Some(start) = bytes.get_mut(..8) {
            start.copy_from_slice(&[0xee, 0, 0xff, 0xff, 0xff, 0, 0, 0]);
        }
        drop(wire.session_bytes(&bytes));
        assert_eq!(verdict(&mut wire).with_context(|| format!("seed {seed}"))?, ErrorCode::InvalidArgument);
    }
    scene.refused("malformed", 50)?;
    scene.end(8)
}

#[test]
fn wrong_roles_and_versions_are_rejected() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    let refusal = |dial: Dial| -> anyhow::Result<Refusal> { dial.attempt()?.err().context("welcome") };
    let (edges, services) = (scene.gateway.edges(), scene.gateway.services());
    let wrong = [
        Dial::edge(services)?,
        Dial::service(edges, "s")?,
        Dial::edge(edges)?.with(|hello| hello.version = 0),
        Dial::edge(edges)?.with(|hello| hello.role = 0),
        Dial::edge(edges)?.with(|hello| hello.role = 7),
        Dial::edge(edges)?.with(|hello| hello.instance.truncate(15)),
        Dial::edge(edges)?.with(|hello| hello.stream_window = 1),
        Dial::edge(edges)?.with(|hello| hello.name = "a service's".to_owned()),
        Dial::edge(edges)?.topics(&["t"]),
        Dial::edge(edges)?.methods(&[""]),
        Dial::edge(edges)?.with(|hello| hello.meta = vec![1; 16_385]),
        Dial::service(services, &"x".repeat(256))?,
    ];
    for (index, dial) in wrong.into_iter().enumerate() {
        assert_eq!(
            refusal(dial).with_context(|| format!("case {index}"))?.code,
            ErrorCode::InvalidArgument,
            "{index}"
        );
    }
    let newer = Dial::edge(edges)?.with(|hello| hello.version = 2).connect()?;
    assert_eq!(newer.welcome().version, 1, "a newer dialer is spoken to in our version");
    drop(newer);
    scene.logged("refused")?;
    scene.end(8)
}

#[test]
fn frames_before_hello_are_rejected() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    for kind in
        [FrameType::Ping, FrameType::Request, FrameType::Welcome, FrameType::Register, FrameType::Open]
    {
        let mut wire = Wire::dial(scene.gateway.edges())?;
        wire.frame(kind, Flags::NONE, 1, &[], &[])?;
        assert_eq!(verdict(&mut wire)?, ErrorCode::InvalidArgument, "{}", kind.name());
    }
    let mut wire = Wire::dial(scene.gateway.edges())?;
    let stream = wire.conn().open_stream()?;
    wire.conn().outbox().push_stream(stream, bytes::Bytes::from_static(b"hello"), false);
    wire.flush()?;
    last_words(&mut wire)?;
    scene.refused("malformed", 6)?;
    scene.end(8)
}

#[test]
fn frames_before_welcome_are_rejected() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    // It never answers, so that the edge stays where it is.
    let mut service = Dial::service(scene.gateway.services(), "s")?.methods(&["edge_online"]).connect()?;
    let dial = Dial::edge(scene.gateway.edges())?;
    let mut wire = Wire::dial(scene.gateway.edges())?;
    dial.greet(&mut wire)?;
    let (asked, call, _) = service.operation(SOON)?;
    assert_eq!(call.name, "edge_online");
    let request = proto::Call { name: "bystander".to_owned(), ..proto::Call::default() };
    wire.frame(FrameType::Request, Flags::NONE, 1, &request.encode_to_vec(), b"too early")?;
    assert_eq!(verdict(&mut wire)?, ErrorCode::InvalidArgument);
    // The answer is for nobody, which harms nobody.
    service.respond(asked, &[])?;
    service.sync(SOON)?;
    drop((wire, service));
    scene.end(8)
}

#[test]
fn broken_rules_end_the_session_with_a_reason() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    let hello = Dial::edge(scene.gateway.edges())?.hello.encode_to_vec();
    let request = |flags: Flags, id: u64, head: &proto::Call, body: &[u8]| {
        frame(FrameType::Request, flags, id, &head.encode_to_vec(), body)
    };
    let call = proto::Call { name: "bystander".to_owned(), ..proto::Call::default() };
    let long = FrameHeader { body_len: 65_537, ..FrameHeader::new(FrameType::Request, 1) };
    let long_head = FrameHeader { head_len: 16_385, ..FrameHeader::new(FrameType::Request, 1) };
    let long_unknown = FrameHeader { body_len: u32::MAX, ..FrameHeader::new(FrameType::Unknown(0x7f), 1) };
    let announced = proto::Call { total_len: 10, ..call.clone() };
    let rules: [(&str, Vec<u8>); 14] = [
        ("a second Hello", frame(FrameType::Hello, Flags::NONE, 0, &hello, &[])),
        ("a body longer than a frame may be", long.encode().to_vec()),
        ("a head longer than any client takes", long_head.encode().to_vec()),
        ("an unknown frame longer than a frame may be", long_unknown.encode().to_vec()),
        ("a head that is not protobuf", frame(FrameType::Request, Flags::NONE, 1, b"\x0a\xff", &[])),
        ("a name that is not UTF-8", frame(FrameType::Request, Flags::NONE, 1, b"\x0a\x02\xff\xfe", &[])),
        ("a field of the wrong wire type", frame(FrameType::Request, Flags::NONE, 1, b"\x08\x01", &[])),
        ("a frame of streams", frame(FrameType::Data, Flags::NONE, 0, &[], b"x")),
        ("Open on the session stream", frame(FrameType::Open, Flags::NONE, 1, &call.encode_to_vec(), &[])),
        ("Welcome from a dialer", frame(FrameType::Welcome, Flags::NONE, 0, &[], &[])),
        ("operation 0", request(Flags::NONE, 0, &call, &[])),
        ("more bytes than announced", request(Flags::MORE, 1, &announced, b"twelve bytes")),
        (
            "an end before what was announced",
            [request(Flags::MORE, 1, &announced, b"x"), frame(FrameType::Request, Flags::NONE, 1, &[], b"y")]
                .concat(),
        ),
        ("names that are not protobuf", frame(FrameType::Register, Flags::NONE, 1, b"\xff", &[])),
    ];
    let mut count = 0;
    for (rule, bytes) in &rules {
        let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
        edge.wire.session_bytes(bytes)?;
        let refusal = edge.sent_away(SOON).with_context(|| (*rule).to_owned())?;
        assert_eq!(refusal.code, ErrorCode::InvalidArgument, "{rule}: {}", refusal.text);
        ensure!(!refusal.text.is_empty(), "{rule}: no text");
        count += 1;
    }
    scene.refused("malformed", count)?;
    scene.logged("protocol error")?;
    scene.end(8)
}

fn frame(kind: FrameType, flags: Flags, id: u64, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // All of these fit; what does not is made by hand.
    let _ = FrameHeader::new(kind, id).with_flags(flags).put_frame(&mut bytes, head, body);
    bytes
}

#[test]
fn an_id_in_use_ends_the_session() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    let mut service = Dial::service(scene.gateway.services(), "s")?.methods(&["slow"]).connect()?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    let call = proto::Call { name: "slow".to_owned(), ..proto::Call::default() };
    edge.wire.session_bytes(&frame(FrameType::Request, Flags::NONE, 9, &call.encode_to_vec(), &[]))?;
    service.operation(SOON)?;
    edge.wire.session_bytes(&frame(FrameType::Request, Flags::NONE, 9, &call.encode_to_vec(), &[]))?;
    assert_eq!(edge.sent_away(SOON)?.code, ErrorCode::InvalidArgument);
    service.frame(FrameType::Cancel, SOON).context("the first one is cancelled")?;
    drop(service);
    scene.end(8)
}

#[test]
fn a_multiplexer_that_breaks_its_rules_is_cut() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    let broken: [(&str, &[u8]); 4] = [
        ("version 1", b"\x01\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"),
        ("type 9", b"\x00\x09\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"),
        ("a stream ID of the acceptor", b"\x00\x01\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00"),
        ("a data frame of 16 MiB", b"\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00"),
    ];
    for (what, bytes) in broken {
        let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
        edge.wire.raw(bytes)?;
        edge.closed(SOON).with_context(|| what.to_owned())?;
    }
    scene.refused("malformed", 4)?;
    scene.end(8)
}

#[test]
fn what_is_unknown_is_skipped() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
    for number in [0x14, 0x7f, 0xff] {
        let kind = FrameType::Unknown(number);
        edge.wire.frame(kind, Flags::from_bits(0xf8), u64::MAX, &[0xff; 300], &[0xee; 65_536])?;
    }
    // An unknown field in the head and unknown flag bits.
    let mut head = proto::Call { name: "bystander".to_owned(), ..proto::Call::default() }.encode_to_vec();
    head.extend_from_slice(b"\xa2\x06\x03abc");
    let id = edge.new_id();
    edge.wire.frame(FrameType::Request, Flags::from_bits(0xf0), id, &head, b"still here")?;
    assert_eq!(edge.answer(id, SOON)?, Ok(b"still here".to_vec()));
    drop(edge);
    scene.end(8)
}

#[test]
fn a_connection_that_ends_within_a_frame_is_forgotten() -> anyhow::Result<()> {
    let scene = Scene::start(&patient())?;
    let hello = frame(
        FrameType::Hello,
        Flags::NONE,
        0,
        &Dial::edge(scene.gateway.edges())?.hello.encode_to_vec(),
        &[],
    );
    for cut in 1..hello.len() {
        let mut wire = Wire::dial(scene.gateway.edges())?;
        wire.session_bytes(hello.get(..cut).unwrap_or_default())?;
        if cut % 2 == 0 {
            // Half-closed: the gateway must not wait for the rest.
            wire.shutdown()?;
            last_words(&mut wire)?;
        }
    }
    let body = frame(FrameType::Request, Flags::NONE, 1, b"\x0a\x09bystander", &[7; 50_000]);
    for cut in [1, 15, 16, 20, 30, 1_000, 40_000] {
        let mut edge = Dial::edge(scene.gateway.edges())?.connect()?;
        edge.wire.session_bytes(body.get(..cut).unwrap_or_default())?;
        edge.wire.shutdown()?;
        edge.closed(SOON)?;
        let answers = edge.next(Duration::from_millis(1))?;
        ensure!(!matches!(answers, Some(Incoming::Answer { .. })), "half a request was answered");
    }
    scene.end(8)
}
