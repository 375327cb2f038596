//! Streams of geminio peers, with each other and with native ones.

use frontier_gateway::sim::{net::Quality, stage::Path};

use super::*;

fn open(lab: &mut Lab, guest: GuestId, peer: &str) -> DialogueId {
    let now = lab.stage.now();
    lab.guest(guest).conn.open(peer, Content::Plain(b"meta"), now).unwrap()
}

/// What the opener calls its stream, once it is open.
fn opened(lab: &mut Lab, guest: GuestId) -> DialogueId {
    match only(lab, guest) {
        Event::Opened { dialogue, .. } => dialogue,
        other => panic!("{other:?}"),
    }
}

/// An open stream between two geminio peers: the opener's name of it, and the acceptor's.
pub(super) fn stream(
    lab: &mut Lab,
    from: GuestId,
    to: GuestId,
    peer: &str,
    opener: &str,
) -> (DialogueId, DialogueId) {
    open(lab, from, peer);
    lab.run();
    let Event::Open { dialogue, data } = only(lab, to) else { panic!() };
    assert_eq!((decode(data.meta()), data.peer()), (b"meta".to_vec(), opener));
    assert!(lab.events(from).is_empty(), "not before the far end has it");
    assert!(lab.guest(to).conn.accept(dialogue));
    lab.run();
    (opened(lab, from), dialogue)
}

/// A flood of openings is a flood of control frames; one peer's is nobody else's.
#[test]
fn openings_and_heartbeats_count_as_control_frames() {
    let mut lab = Lab::new(Settings { control_frames: 50, ..settings() });
    let (loud, calm) = (lab.guest_edge(0, 5), lab.guest_edge(0, 6));
    for round in 0..60 {
        if lab.guest_ended(loud).is_some() {
            break;
        }
        open(&mut lab, loud, "nobody");
        if round % 4 == 0 {
            open(&mut lab, calm, "nobody");
        }
        lab.advance(MILLI);
    }
    lab.advance(10 * MILLI);
    assert!(lab.guest_ended(loud).is_some() && lab.guest_ended(calm).is_none());
    lab.close();
}

#[test]
fn a_stream_with_meta_longer_than_the_limit_is_refused_and_nothing_else_ends() {
    let mut lab = Lab::new(Settings { meta: 3, ..settings() });
    let service = lab.guest_service(0, "svc", &["echo"], &[]);
    let edge = lab.guest_edge(0, 5);
    let here = open(&mut lab, edge, "svc");
    lab.run();
    lab.run();
    assert!(lab.events(service).is_empty());
    let events = lab.events(edge);
    assert!(
        events.iter().any(|event| matches!(event, Event::Closed { dialogue } if *dialogue == here)),
        "{events:?}"
    );
    let packet = request(&mut lab, edge, &call("echo", b"still here"));
    lab.run();
    let got = asked(&mut lab, service);
    respond(&mut lab, service, got.id, &call("echo", b"yes"));
    lab.run();
    assert_eq!(decode(answered(&mut lab, edge, packet).value()), b"yes");
    lab.close();
}

#[test]
fn bytes_messages_and_calls_flow_on_a_stream_that_either_side_opened() {
    for shards in [(0, 0), (0, 1)] {
        for by_edge in [true, false] {
            let mut lab = Lab::new(settings());
            let (edge, service) = pair(&mut lab, shards.0, shards.1);
            let id = 1;
            let (from, to, peer) = if by_edge { (edge, service, "svc") } else { (service, edge, "5") };
            open(&mut lab, from, peer);
            lab.run();
            let Event::Open { dialogue: there, data } = only(&mut lab, to) else { panic!() };
            assert_eq!(decode(data.meta()), b"meta");
            assert!(by_edge == (data.peer() == "5"));
            assert!(lab.events(from).is_empty(), "not before the far end has it");
            assert!(lab.guest(to).conn.accept(there));
            lab.run();
            let here = opened(&mut lab, from);
            for (a, x, b, y) in [(from, here, to, there), (to, there, from, here)] {
                lab.guest(a).conn.send_raw(x, Bytes::from(vec![id; 200_000]), false);
                lab.run();
                assert_eq!(raw(&lab.events(b)), vec![id; 200_000]);
                let ask = Object { custom: Content::Plain(b"mine"), ..call("inside", b"q") };
                let packet = lab.guest(a).conn.request(x, &ask).unwrap();
                lab.run();
                let got = asked(&mut lab, b);
                assert_eq!(
                    (got.dialogue, decode(got.data.custom())),
                    (y, b"mine".to_vec()),
                    "no tail on streams"
                );
                respond(&mut lab, b, got.id, &call("inside", b"a"));
                lab.run();
                assert_eq!(decode(answered(&mut lab, a, packet).value()), b"a");
                let now = lab.stage.now();
                let packet = lab.guest(a).conn.publish(x, 0, &message("t", b"m"), now).unwrap().packet;
                lab.run();
                let got = asked(&mut lab, b);
                assert_eq!((got.data.topic(), decode(got.data.value())), ("t", b"m".to_vec()));
                respond(&mut lab, b, got.id, &Object { error: "no", ..Object::default() });
                lab.run();
                assert_eq!(error(&mut lab, a, packet), "no");
            }
            // What is queued comes before the end.
            lab.guest(from).conn.send_raw(here, Bytes::from_static(b"last"), false);
            let now = lab.stage.now();
            lab.guest(from).conn.close(here, now);
            lab.run();
            let events = lab.events(to);
            assert_eq!(raw(&events), b"last");
            assert!(
                matches!(events.last(), Some(Event::Closed { dialogue }) if *dialogue == there),
                "{events:?}"
            );
            assert!(matches!(only(&mut lab, from), Event::Closed { .. }));
            lab.close();
        }
    }
}

#[test]
fn a_stream_to_nobody_is_refused_so_that_the_opener_notices() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, 0, 1);
    for (guest, peer) in [(edge, "nobody"), (service, "6"), (service, "not a number")] {
        open(&mut lab, guest, peer);
        lab.run();
        let events = lab.events(guest);
        assert!(matches!(events[..], [Event::Opened { .. }, Event::Closed { .. }]), "{events:?}");
    }
    lab.close();
}

/// Streams ended because their readers held up their writers.
fn stalled(lab: &Lab) -> u64 {
    lab.stage.shared().stats.iter().map(|stats| stats.stalled_streams.get()).sum()
}

#[test]
fn a_reader_that_takes_nothing_holds_its_writer_and_calls_go_on() {
    for (shards, frozen) in [((0, 0), false), ((0, 1), false), ((0, 1), true)] {
        let mut lab = Lab::new(Settings { call_timeout: 100 * SECOND, ..settings() });
        let service = lab.guest_service(shards.0, "svc", &["echo"], &[]);
        // What it reads in a second is what there is room for on the way to it.
        let down = Quality { capacity: 32 << 10, delay: (SECOND, SECOND), ..Quality::PERFECT };
        let path = Path { up: Quality::PERFECT, down };
        let slow = lab.knock_by(Bound::Edge, shards.1, path, 5, b"");
        lab.advance(3 * SECOND);
        assert!(matches!(only(&mut lab, slow), Event::Welcome { client: 5 }));
        open(&mut lab, slow, "svc");
        lab.run();
        let Event::Open { dialogue: there, .. } = only(&mut lab, service) else { panic!() };
        lab.guest(service).conn.accept(there);
        lab.advance(3 * SECOND);
        opened(&mut lab, slow);
        lab.guest(slow).frozen = frozen;
        lab.guest(service).conn.send_raw(there, Bytes::from(vec![1; 12 << 20]), false);
        lab.advance(3 * SECOND);
        let held = lab.stage.shared().held.load(std::sync::atomic::Ordering::Relaxed);
        assert!(held > 3 << 20 && held < 6 << 20, "{held} bytes held");
        // Somebody else calls the writer, whose answer comes behind all that it wrote.
        let edge = lab.guest_edge(shards.1, 6);
        let packet = request(&mut lab, edge, &call("echo", b"still here"));
        lab.run();
        let got = asked(&mut lab, service);
        respond(&mut lab, service, got.id, &call("echo", b"yes"));
        lab.run();
        assert!(lab.events(edge).is_empty(), "nothing holds the writer");
        let since = lab.stage.now();
        while lab.guest(edge).heard.is_empty() {
            lab.advance(SECOND);
            assert!(lab.stage.now() - since < 35 * SECOND, "the writer stands still");
        }
        assert_eq!(decode(answered(&mut lab, edge, packet).value()), b"yes");
        assert!(lab.guest_ended(service).is_none());
        // One that is only slow loses the stream; one that takes nothing at all is cut itself, at about the same time.
        let (ended, stalled) = (lab.guest_ended(slow).is_some(), stalled(&lab) == 1);
        assert!(if frozen { ended || stalled } else { stalled && !ended }, "{ended} {stalled}");
        let events = lab.events(service);
        assert!(events.iter().any(|event| matches!(event, Event::Closed { dialogue } if *dialogue == there)));
        lab.close();
    }
}

#[test]
fn a_peer_gets_as_many_streams_that_it_does_not_use_as_is_configured_and_no_opener_takes_all() {
    let mut lab = Lab::new(Settings { unused_streams: 4, ..settings() });
    let (loud, calm) = (lab.guest_service(0, "a", &[], &[]), lab.guest_service(1, "b", &[], &[]));
    let edge = lab.guest_edge(0, 5);
    let mut taken = Vec::new();
    for (opener, tries, expected) in [(loud, 6, 3), (calm, 6, 1)] {
        for _ in 0..tries {
            open(&mut lab, opener, "5");
            lab.run();
            for event in lab.events(edge) {
                let Event::Open { dialogue, .. } = event else { panic!("{event:?}") };
                assert!(lab.guest(edge).conn.accept(dialogue));
                taken.push(dialogue);
            }
            lab.run();
        }
        let events = lab.events(opener);
        let refused = events.iter().filter(|event| matches!(event, Event::Closed { .. })).count();
        assert_eq!(refused, tries - expected, "{events:?}");
    }
    // Whatever it sends on one makes room for another.
    lab.guest(edge).conn.send_raw(taken[0], Bytes::from_static(b"x"), false);
    lab.run();
    open(&mut lab, calm, "5");
    lab.run();
    assert!(matches!(only(&mut lab, edge), Event::Open { .. }));
    lab.close();
}

#[test]
fn what_is_sent_on_streams_is_admitted_as_everything_else() {
    for far in [true, false] {
        let mut lab = Lab::new(Settings { body: 64 << 10, ..settings() });
        let (edge, service) = pair(&mut lab, 0, u16::from(far));
        let (here, _) = stream(&mut lab, edge, service, "svc", "5");
        let (most, more) = (vec![b'x'; 64 << 10], vec![b'x'; (64 << 10) + 1]);
        let packet = lab.guest(edge).conn.request(here, &call("echo", &more)).unwrap();
        lab.run();
        assert_eq!(error(&mut lab, edge, packet), "packet payload too large");
        let now = lab.stage.now();
        let packet = lab.guest(edge).conn.publish(here, 0, &message("t", &more), now).unwrap().packet;
        lab.run();
        assert_eq!(error(&mut lab, edge, packet), "packet payload too large");
        assert!(lab.events(service).is_empty());
        let packet = lab.guest(edge).conn.request(here, &call("echo", &most)).unwrap();
        lab.run();
        let got = asked(&mut lab, service);
        respond(&mut lab, service, got.id, &call("echo", b"yes"));
        lab.run();
        assert_eq!(decode(answered(&mut lab, edge, packet).value()), b"yes");
        // The memory of all is used up by somebody else.
        with_used(&mut lab, 95, |lab| {
            for small in [false, true] {
                let value = if small { &most[..10] } else { &most[..] };
                let packet = lab.guest(edge).conn.request(here, &call("echo", value)).unwrap();
                lab.run();
                if small {
                    asked(lab, service);
                } else {
                    assert_eq!(error(lab, edge, packet), "overloaded");
                }
            }
        });
        lab.close();
    }
}

/// Streams multiply nothing: what waits on all of one peer's is bounded together.
#[test]
fn messages_that_wait_on_many_streams_have_one_bound() {
    let mut lab = Lab::new(Settings { outbox: 256 << 10, ..settings() });
    let (edge, service) = pair(&mut lab, 0, 1);
    let streams: Vec<_> = (0..16).map(|_| stream(&mut lab, edge, service, "svc", "5").0).collect();
    // The service acknowledges none of them, and the edge does not care that it should wait for that.
    let link = lab.guest(edge).link;
    let json = format!(r#"{{"topic":"t","value":"{}"}}"#, "eHh4".repeat(3 << 10));
    let mut sent = Vec::new();
    for id in 0..64 {
        for on in &streams {
            let body = [&on.0.to_be_bytes()[..], json.as_bytes()].concat();
            PacketHeader::new(PacketType::Message, id).put(&mut sent, &body);
        }
        lab.stage.write(link, &[&sent]);
        sent.clear();
        lab.run();
    }
    let held = lab.stage.shared().held.load(std::sync::atomic::Ordering::Relaxed);
    assert!(held < 1 << 20, "{held} bytes held");
    let refused = lab
        .events(edge)
        .into_iter()
        .filter(|event| matches!(event, Event::Acked { data, .. } if data.error() == "overloaded"));
    assert!(refused.count() > 16 * 32 - 60);
    // The first session has room of its own.
    let sent = publish(&mut lab, edge, &message("news", b"x"));
    lab.run();
    let got = lab.events(service).into_iter().find_map(|event| match event {
        Event::Message(operation) if operation.data.topic() == "news" => Some(operation),
        _ => None,
    });
    respond(&mut lab, service, got.unwrap().id, &Object::default());
    lab.run();
    assert_eq!(error(&mut lab, edge, sent), "");
    lab.close();
}

// --- streams with a native end

/// Opens a stream of a native peer and says whom it is for.
fn open_native(lab: &mut Lab, peer: Peer, call: &CallBuilder<'_>) -> frontier_wire::yamux::StreamId {
    let dialer = lab.dialer(peer);
    let stream = dialer.conn.open_stream().unwrap();
    dialer.send_on(stream, FrameHeader::new(FrameType::Open, 0), &head(call));
    lab.run();
    stream
}

fn native_bytes(lab: &mut Lab, peer: Peer, stream: frontier_wire::yamux::StreamId) -> Vec<u8> {
    use frontier_gateway::sim::dialer::Heard;
    let mut bytes = Vec::new();
    for heard in lab.take(peer) {
        if let Heard::Data(of, data) = heard
            && of == stream
        {
            lab.dialer(peer).conn.release(stream, u32::try_from(data.len()).unwrap());
            bytes.extend_from_slice(&data);
        }
    }
    lab.run();
    bytes
}

/// The frames in some bytes.
fn parse(mut bytes: &[u8]) -> Vec<(FrameHeader, Vec<u8>, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<16>() {
        let header = FrameHeader::parse(header);
        let (frame, rest) = rest.split_at(header.rest_len());
        let (head, body) = frame.split_at(header.head_len.into());
        frames.push((header, head.to_vec(), body.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

fn frame(kind: FrameType, id: u64, head: &[u8], body: &[u8]) -> Bytes {
    let mut bytes = bytes::BytesMut::new();
    FrameHeader::new(kind, id).put_frame(&mut bytes, head, body).unwrap();
    bytes.freeze()
}

fn write_native(lab: &mut Lab, peer: Peer, stream: frontier_wire::yamux::StreamId, bytes: Bytes) {
    lab.dialer(peer).conn.outbox().push_stream(stream, bytes, false);
    lab.run();
}

#[test]
fn a_stream_between_the_protocols_carries_bytes_calls_and_messages() {
    for shards in [(0, 0), (0, 1)] {
        for by_native in [true, false] {
            let mut lab = Lab::new(settings());
            let guest = lab.guest_service(shards.0, "svc", &[], &[]);
            let native = lab.edge(shards.1, 6);
            let (stream, there) = if by_native {
                let stream = open_native(&mut lab, native, &CallBuilder::new("svc").meta(b"meta"));
                let Event::Open { dialogue, data } = only(&mut lab, guest) else { panic!() };
                assert_eq!((decode(data.meta()), data.peer()), (b"meta".to_vec(), "6"));
                lab.guest(guest).conn.accept(dialogue);
                lab.run();
                let ack = parse(&native_bytes(&mut lab, native, stream));
                assert!(ack.len() == 1 && ack[0].0.kind == FrameType::OpenAck && ack[0].1.is_empty());
                (stream, dialogue)
            } else {
                open(&mut lab, guest, "6");
                lab.run();
                let stream = lab.expect_stream(native);
                let open = parse(&native_bytes(&mut lab, native, stream));
                let call = CallHead::parse(&open[0].1).unwrap();
                assert_eq!((open[0].0.kind, call.meta), (FrameType::Open, &b"meta"[..]));
                assert!(matches!(call.sender(), Some(Sender::Service(_))));
                assert!(lab.events(guest).is_empty());
                write_native(&mut lab, native, stream, frame(FrameType::OpenAck, 0, &[], &[]));
                (stream, opened(&mut lab, guest))
            };
            // Bytes, both ways, far more than a window.
            let sent: Vec<u8> = (0..900_000_usize).map(|at| (at % 251) as u8).collect();
            lab.guest(guest).conn.send_raw(there, Bytes::from(sent.clone()), false);
            let mut got = Vec::new();
            for _ in 0..60 {
                lab.run();
                got.extend(native_bytes(&mut lab, native, stream));
            }
            let data: Vec<u8> = parse(&got)
                .into_iter()
                .flat_map(|(header, _, body)| {
                    assert_eq!(header.kind, FrameType::Data);
                    body
                })
                .collect();
            assert!(data == sent, "{} of {}", data.len(), sent.len());
            for part in sent.chunks(60_000) {
                lab.dialer(native).conn.outbox().push_stream(
                    stream,
                    frame(FrameType::Data, 0, &[], part),
                    false,
                );
            }
            for _ in 0..20 {
                lab.run();
            }
            assert!(raw(&lab.events(guest)) == sent);
            // A call of either.
            let call_head = head(&CallBuilder::new("inside"));
            write_native(&mut lab, native, stream, frame(FrameType::Request, 1, &call_head, b"q"));
            let ask = asked(&mut lab, guest);
            assert_eq!(
                (decode(ask.data.key()), decode(ask.data.value())),
                (b"inside".to_vec(), b"q".to_vec())
            );
            respond(&mut lab, guest, ask.id, &call("inside", b"a"));
            lab.run();
            let answer = parse(&native_bytes(&mut lab, native, stream));
            assert_eq!(
                (answer[0].0.kind, answer[0].0.id, &answer[0].2[..]),
                (FrameType::Response, 1, &b"a"[..])
            );
            let packet = lab.guest(guest).conn.request(there, &call("outside", b"q")).unwrap();
            lab.run();
            let ask = parse(&native_bytes(&mut lab, native, stream));
            assert_eq!(CallHead::parse(&ask[0].1).unwrap().name, "outside");
            write_native(&mut lab, native, stream, frame(FrameType::Response, ask[0].0.id, &[], b"a"));
            assert_eq!(decode(answered(&mut lab, guest, packet).value()), b"a");
            let packet = lab.guest(guest).conn.request(there, &call("nothing", b"q")).unwrap();
            lab.run();
            let ask = parse(&native_bytes(&mut lab, native, stream));
            let mut unknown = Vec::new();
            frontier_wire::native::head::encode_error_reply(&mut unknown, ErrorCode::MethodNotFound, "what?");
            write_native(&mut lab, native, stream, frame(FrameType::Response, ask[0].0.id, &unknown, b""));
            assert_eq!(error(&mut lab, guest, packet), "no such rpc: nothing");
            // A message of either.
            let topic = head(&CallBuilder::new("t"));
            write_native(&mut lab, native, stream, frame(FrameType::Publish, 2, &topic, b"m"));
            let got = asked(&mut lab, guest);
            assert_eq!(got.data.topic(), "t");
            respond(&mut lab, guest, got.id, &Object { error: "no", ..Object::default() });
            lab.run();
            let answer = parse(&native_bytes(&mut lab, native, stream));
            assert_eq!((answer[0].0.kind, answer[0].0.id), (FrameType::Ack, 2));
            // The end, of either side.
            let now = lab.stage.now();
            if by_native {
                lab.dialer(native).conn.finish_stream(stream);
                lab.run();
                assert!(matches!(only(&mut lab, guest), Event::Closed { dialogue } if dialogue == there));
            } else {
                lab.guest(guest).conn.send_raw(there, Bytes::from_static(b"last"), false);
                lab.guest(guest).conn.close(there, now);
                lab.run();
                assert!(matches!(only(&mut lab, guest), Event::Closed { .. }));
                assert_eq!(parse(&native_bytes(&mut lab, native, stream))[0].2, b"last");
                lab.dialer(native).conn.finish_stream(stream);
            }
            lab.run();
            lab.close();
        }
    }
}

#[test]
fn a_native_reader_that_takes_nothing_holds_a_geminio_writer() {
    let mut lab = Lab::new(settings());
    let guest = lab.guest_service(0, "svc", &["echo"], &[]);
    let native = lab.edge(1, 6);
    open(&mut lab, guest, "6");
    lab.run();
    let stream = lab.expect_stream(native);
    native_bytes(&mut lab, native, stream);
    write_native(&mut lab, native, stream, frame(FrameType::OpenAck, 0, &[], &[]));
    let there = opened(&mut lab, guest);
    let sent = 12 << 20;
    lab.guest(guest).conn.send_raw(there, Bytes::from(vec![3; sent]), false);
    lab.advance(5 * SECOND);
    let held = lab.stage.shared().held.load(std::sync::atomic::Ordering::Relaxed);
    assert!(held < 6 << 20, "{held} bytes held");
    // The stream's reader takes it all now.
    let mut got = 0;
    for _ in 0..3_000 {
        let bytes = native_bytes(&mut lab, native, stream);
        got += bytes.len();
        if bytes.is_empty() {
            lab.advance(20 * MILLI);
        }
    }
    assert!(got >= sent, "{got}");
    lab.close();
}
