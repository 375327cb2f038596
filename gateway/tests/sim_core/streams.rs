//! User streams: opening, refusing, bytes, windows, half-close and reset.

use bytes::Bytes;
use frontier_gateway::{
    core::{Bound, Settings},
    sim::{
        dialer::Heard,
        lab::{Lab, Peer, edge_hello},
        net::Ending,
        stage::Chaos,
    },
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{FrameHeader, FrameType},
        head::{CallBuilder, CallHead, ReplyBuilder, ReplyHead, Sender, encode_error_reply},
    },
    yamux::StreamId,
};

use super::{MILLI, SECOND, head, held, settings};

/// An edge and a service with streams between them; the gateway's shards are all combinations.
const SHARDS: [(u16, u16); 3] = [(0, 0), (0, 1), (1, 0)];

fn pair(lab: &mut Lab, shards: (u16, u16)) -> (Peer, Peer) {
    let service = lab.service(shards.1, "files", &[], &[]);
    (lab.edge(shards.0, 5), service)
}

/// Opens a stream to a service name, or from a service to an edge.
fn open(lab: &mut Lab, peer: Peer, call: &CallBuilder<'_>) -> StreamId {
    open_by(lab, peer, &head(call))
}

/// The same by the head of Open.
fn open_by(lab: &mut Lab, peer: Peer, head: &[u8]) -> StreamId {
    let dialer = lab.dialer(peer);
    let stream = dialer.conn.open_stream().unwrap();
    dialer.send_on(stream, FrameHeader::new(FrameType::Open, 0), head);
    lab.run();
    stream
}

fn to_files(lab: &mut Lab, peer: Peer) -> StreamId {
    open(lab, peer, &CallBuilder::new("files").meta(b"which"))
}

/// All bytes of a stream so far, and how it ended: 'f' half-closed, 'r' reset.
fn listen(lab: &mut Lab, peer: Peer, stream: StreamId) -> (Vec<u8>, String) {
    let (mut bytes, mut end) = (Vec::new(), String::new());
    for heard in lab.take(peer) {
        match heard {
            Heard::Data(of, data) if of == stream => {
                lab.dialer(peer).conn.release(stream, u32::try_from(data.len()).unwrap());
                bytes.extend_from_slice(&data);
            }
            Heard::Finished(of) if of == stream => end.push('f'),
            Heard::Reset(of) if of == stream => end.push('r'),
            _ => {}
        }
    }
    lab.run();
    (bytes, end)
}

fn accept(lab: &mut Lab, peer: Peer, stream: StreamId) {
    let mut ack = Vec::new();
    ReplyBuilder::new().encode(&mut ack);
    lab.dialer(peer).send_on(stream, FrameHeader::new(FrameType::OpenAck, 0), &ack);
    lab.run();
}

/// Opens a stream from the edge to the service and accepts it: both ends.
fn joined(lab: &mut Lab, edge: Peer, service: Peer) -> (StreamId, StreamId) {
    let here = to_files(lab, edge);
    let there = lab.expect_stream(service);
    listen(lab, service, there);
    accept(lab, service, there);
    let (ack, _) = listen(lab, edge, here);
    assert_eq!(ack[0], FrameType::OpenAck.to_wire());
    (here, there)
}

fn write(lab: &mut Lab, peer: Peer, stream: StreamId, bytes: Vec<u8>) {
    lab.dialer(peer).conn.outbox().push_stream(stream, Bytes::from(bytes), false);
    lab.run();
}

fn legs(lab: &Lab) -> u64 {
    lab.stage.shared().stats.iter().map(|stats| stats.legs.get()).sum()
}

#[test]
fn a_stream_opens_when_the_other_side_accepts() {
    for shards in SHARDS {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards);
        let here = to_files(&mut lab, edge);
        assert!(lab.is_quiet(edge), "nobody has accepted");
        let there = lab.expect_stream(service);
        let (bytes, _) = listen(&mut lab, service, there);
        let call = CallHead::parse(&bytes[16..]).unwrap();
        assert_eq!((call.name, call.meta, call.sender()), ("files", &b"which"[..], Some(Sender::Edge(5))));
        accept(&mut lab, service, there);
        let (bytes, end) = listen(&mut lab, edge, here);
        assert!(ReplyHead::parse(&bytes[16..]).unwrap().error.is_none() && end.is_empty());
        for (from, to, sending, receiving) in [(edge, service, here, there), (service, edge, there, here)] {
            write(&mut lab, from, sending, b"some bytes".to_vec());
            assert_eq!(listen(&mut lab, to, receiving).0, b"some bytes");
        }
        assert_eq!(legs(&lab), 2);
        lab.close();
    }
}

#[test]
fn a_service_opens_a_stream_to_an_edge() {
    for shards in SHARDS {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards);
        let here = open(&mut lab, service, &CallBuilder::new("anything").edge(5));
        let there = lab.expect_stream(edge);
        listen(&mut lab, edge, there);
        accept(&mut lab, edge, there);
        assert_eq!(listen(&mut lab, service, here).0.len(), 16);
        let nobody = open(&mut lab, service, &CallBuilder::new("anything").edge(6));
        let (bytes, end) = listen(&mut lab, service, nobody);
        assert_eq!(ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().code, ErrorCode::EdgeNotOnline);
        assert_eq!(end, "f");
        lab.close();
    }
}

#[test]
fn meta_or_a_head_longer_than_the_limits_refuses_that_stream_alone() {
    for shards in SHARDS {
        let mut lab = Lab::new(Settings { meta: 100, head: 200, ..settings() });
        let (edge, service) = pair(&mut lab, shards);
        let (fits, too_long, header) = ([7; 100], [7; 101], "h".repeat(190));
        let headers = [("key", header.as_str())];
        for long_meta in [true, false] {
            let call = CallBuilder::new("files");
            let call = if long_meta { head(&call.meta(&too_long)) } else { head(&call.headers(headers)) };
            let here = open_by(&mut lab, edge, &call);
            let (bytes, end) = listen(&mut lab, edge, here);
            let error = ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap();
            assert_eq!((error.code, end.as_str()), (ErrorCode::PayloadTooLarge, "f"));
            assert!(lab.is_quiet(service));
        }
        open(&mut lab, edge, &CallBuilder::new("files").meta(&fits));
        lab.expect_stream(service);
        lab.close();
    }
}

/// A service opens a stream to an edge in the very turn in which that is welcomed. If the edge heard of the stream first, it would take
/// its windows to be those of yamux and not those of Welcome, and wait for ever for bytes that the gateway thinks it may not send.
#[test]
fn a_stream_opened_right_behind_welcome_has_the_windows_agreed_there() {
    let mut offered = 0;
    for seed in 0..60 {
        let mut lab = Lab::with(settings(), Chaos::NONE, seed);
        let service = lab.service(0, "svc", &[], &[]);
        let edge = lab.dial(Bound::Edge, 0);
        lab.run();
        lab.dialer(edge).hello(&edge_hello(5));
        open(&mut lab, service, &CallBuilder::new("anything").edge(5));
        let opened = lab.take(edge).into_iter().find_map(|heard| match heard {
            Heard::Opened(stream) => Some(stream),
            _ => None,
        });
        // Else the edge was not there yet.
        if let Some(stream) = opened {
            offered += 1;
            let window = lab.dialer(edge).conn.engine().recv_window(stream).unwrap().0;
            assert_eq!(window, edge_hello(5).stream_window, "seed {seed}");
        }
        lab.close();
    }
    assert!(offered > 10, "{offered} of 60 came in one turn");
}

/// A stream is on its way to a service of another shard while that ends: the next instance gets it.
#[test]
fn a_stream_whose_target_is_gone_goes_to_the_next() {
    let mut rerouted = 0;
    for seed in 0..160 {
        let mut lab = Lab::with(settings(), Chaos::NONE, seed);
        let edge = lab.edge(0, seed + 1);
        let services =
            [lab.service(1, "files", &[], &[]), lab.service(u16::from(seed % 4 < 2), "files", &[], &[])];
        // The policy sends both streams to the same instance, if that is alive.
        to_files(&mut lab, edge);
        let [first, second] = if lab.is_quiet(services[0]) { [services[1], services[0]] } else { services };
        let dialer = lab.dialer(edge);
        let stream = dialer.conn.open_stream().unwrap();
        dialer.send_on(stream, FrameHeader::new(FrameType::Open, 0), &head(&CallBuilder::new("files")));
        lab.advance(0);
        lab.hang_up(first, Ending::Reset);
        lab.run();
        if lab.is_quiet(second) {
            let (bytes, _) = listen(&mut lab, edge, stream);
            let code = ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().code;
            assert_eq!(code, ErrorCode::SessionClosed, "seed {seed}: it was with the first when that ended");
        } else {
            rerouted += 1;
            let there = lab.expect_stream(second);
            listen(&mut lab, second, there);
            accept(&mut lab, second, there);
            assert_eq!(listen(&mut lab, edge, stream).0.len(), 16);
        }
        lab.close();
    }
    assert!(rerouted > 40, "{rerouted} of 160 went on");
}

#[test]
fn a_refusal_carries_its_reason() {
    for shards in SHARDS {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards);
        let here = to_files(&mut lab, edge);
        let there = lab.expect_stream(service);
        let mut refusal = Vec::new();
        encode_error_reply(&mut refusal, ErrorCode::Application, "no such file");
        lab.dialer(service).send_on(there, FrameHeader::new(FrameType::OpenAck, 0), &refusal);
        lab.dialer(service).conn.finish_stream(there);
        lab.run();
        let (bytes, end) = listen(&mut lab, edge, here);
        assert_eq!(ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().text, "no such file");
        assert_eq!(end, "f");
        lab.dialer(edge).conn.finish_stream(here);
        lab.run();
        assert_eq!(legs(&lab), 0);
        assert_eq!(lab.dialer(edge).conn.engine().streams(), 1, "only the session stream is left");
        lab.close();
    }
}

#[test]
fn an_opener_that_was_refused_and_does_not_close_is_reset() {
    let mut lab = Lab::new(settings());
    let edge = lab.edge(0, 5);
    let here = to_files(&mut lab, edge);
    let (bytes, _) = listen(&mut lab, edge, here);
    assert_eq!(ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().code, ErrorCode::ServiceNotOnline);
    lab.advance(11 * SECOND);
    assert_eq!(listen(&mut lab, edge, here).1, "r");
    assert_eq!(legs(&lab), 0);
    lab.close();
}

#[test]
fn a_stream_nobody_answers_is_refused_at_its_deadline() {
    for shards in SHARDS {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards);
        let here = open(&mut lab, edge, &CallBuilder::new("files").timeout_ms(100));
        let there = lab.expect_stream(service);
        lab.advance(150 * MILLI);
        let (bytes, end) = listen(&mut lab, edge, here);
        assert_eq!(ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().code, ErrorCode::DeadlineExceeded);
        assert_eq!(end, "f");
        assert_eq!(listen(&mut lab, service, there).1, "r");
        accept(&mut lab, service, there);
        assert!(lab.is_quiet(edge));
        lab.close();
    }
}

#[test]
fn a_half_close_leaves_the_other_direction_open() {
    for shards in SHARDS {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards);
        let (here, there) = joined(&mut lab, edge, service);
        write(&mut lab, edge, here, vec![1; 1_000]);
        lab.dialer(edge).conn.finish_stream(here);
        lab.run();
        let (bytes, end) = listen(&mut lab, service, there);
        assert_eq!((bytes.len(), end.as_str()), (1_000, "f"));
        write(&mut lab, service, there, vec![2; 30_000]);
        assert_eq!(listen(&mut lab, edge, here).0.len(), 30_000);
        lab.dialer(service).conn.finish_stream(there);
        lab.run();
        assert_eq!(listen(&mut lab, edge, here).1, "f");
        assert_eq!(legs(&lab), 0);
        lab.close();
    }
}

#[test]
fn a_reset_reaches_the_other_end_and_drops_what_waits() {
    for shards in SHARDS {
        for from_edge in [true, false] {
            let mut lab = Lab::new(settings());
            let (edge, service) = pair(&mut lab, shards);
            let (here, there) = joined(&mut lab, edge, service);
            let ends = [(edge, here, service, there), (service, there, edge, here)];
            let (from, stream, to, other) = ends[usize::from(from_edge)];
            write(&mut lab, to, other, vec![1; 100_000]);
            lab.dialer(from).conn.reset_stream(stream);
            lab.run();
            assert_eq!(listen(&mut lab, to, other).1, "r");
            assert_eq!(legs(&lab), 0);
            lab.close();
        }
    }
}

#[test]
fn an_opener_that_gives_up_resets_the_other_end() {
    for shards in SHARDS {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards);
        let here = to_files(&mut lab, edge);
        let there = lab.expect_stream(service);
        lab.dialer(edge).conn.reset_stream(here);
        lab.run();
        assert_eq!(listen(&mut lab, service, there).1, "r");
        assert_eq!(legs(&lab), 0);
        lab.close();
    }
}

#[test]
fn an_acceptor_that_resets_or_talks_nonsense_refuses() {
    for shards in SHARDS {
        for nonsense in [false, true] {
            let mut lab = Lab::new(settings());
            let (edge, service) = pair(&mut lab, shards);
            let here = to_files(&mut lab, edge);
            let there = lab.expect_stream(service);
            if nonsense {
                write(&mut lab, service, there, vec![0xee; 40]);
            } else {
                lab.dialer(service).conn.reset_stream(there);
                lab.run();
            }
            let (bytes, _) = listen(&mut lab, edge, here);
            let error = ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap();
            assert_eq!(error.code, ErrorCode::SessionClosed);
            lab.close();
        }
    }
}

#[test]
fn bytes_before_the_answer_to_open_are_against_the_rules() {
    for shards in SHARDS {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, shards);
        let here = to_files(&mut lab, edge);
        let there = lab.expect_stream(service);
        write(&mut lab, edge, here, b"too early".to_vec());
        assert_eq!(listen(&mut lab, edge, here).1, "r");
        assert_eq!(listen(&mut lab, service, there).1, "r");
        lab.close();
    }
}

#[test]
fn windows_grow_by_use_within_their_limit() {
    let mut lab = Lab::new(Settings { stream_window_max: 256 << 10, ..settings() });
    let (edge, service) = pair(&mut lab, (0, 1));
    let (here, there) = joined(&mut lab, edge, service);
    for _ in 0..60 {
        write(&mut lab, edge, here, vec![1; 60_000]);
        assert_eq!(listen(&mut lab, service, there).0.len(), 60_000);
    }
    let window = lab.dialer(edge).conn.engine().send_window(here);
    assert!((129 << 10..=256 << 10).contains(&window), "{window}");
    lab.close();
}

#[test]
fn streams_of_a_session_that_ends_are_reset_at_the_other_end() {
    for shards in SHARDS {
        for edge_ends in [true, false] {
            let mut lab = Lab::new(settings());
            let (edge, service) = pair(&mut lab, shards);
            let (here, there) = joined(&mut lab, edge, service);
            let waiting = to_files(&mut lab, edge);
            let offered = lab.expect_stream(service);
            lab.hang_up(if edge_ends { edge } else { service }, Ending::Reset);
            lab.run();
            if edge_ends {
                let ends = lab.take(service).iter().filter(|heard| matches!(heard, Heard::Reset(_))).count();
                assert_eq!(ends, 2, "{there} and {offered}");
            } else {
                let heard = lab.take(edge);
                assert!(heard.iter().any(|heard| matches!(heard, Heard::Reset(of) if *of == here)));
                assert!(
                    heard.iter().any(|heard| matches!(heard, Heard::Finished(of) if *of == waiting)),
                    "refused"
                );
            }
            lab.close();
        }
    }
}

#[test]
fn too_many_streams_are_refused_on_either_side() {
    let mut lab = Lab::new(Settings { streams_per_session: 4, ..settings() });
    let (edge, service) = pair(&mut lab, (0, 1));
    let streams: Vec<StreamId> = (0..4).map(|_| to_files(&mut lab, edge)).collect();
    assert!(lab.is_quiet(edge));
    for _ in 0..2 {
        let stream = to_files(&mut lab, edge);
        let (bytes, end) = listen(&mut lab, edge, stream);
        assert_eq!(ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().code, ErrorCode::Overloaded);
        assert_eq!(end, "f");
    }
    let other = lab.edge(1, 6);
    let last = streams[3];
    let refused = to_files(&mut lab, other);
    let (bytes, _) = listen(&mut lab, other, refused);
    assert_eq!(ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().code, ErrorCode::Overloaded);
    let offered = (0..4).map(|_| lab.expect_stream(service)).last().unwrap();
    accept(&mut lab, service, offered);
    assert_eq!(listen(&mut lab, edge, last).0.len(), 16);
    lab.close();
}

#[test]
fn refused_streams_that_are_not_ended_by_their_opener_take_nobodys_place() {
    let mut lab = Lab::new(Settings { streams_per_session: 4, ..settings() });
    let (edge, service) = pair(&mut lab, (0, 1));
    for _ in 0..4 {
        let stream = open(&mut lab, edge, &CallBuilder::new("nobody"));
        let (bytes, _) = listen(&mut lab, edge, stream);
        assert_eq!(ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().code, ErrorCode::ServiceNotOnline);
    }
    let stream = to_files(&mut lab, edge);
    let offered = lab.expect_stream(service);
    accept(&mut lab, service, offered);
    assert_eq!(listen(&mut lab, edge, stream).0.len(), 16);
    lab.close();
}

#[test]
fn no_stream_is_opened_when_memory_is_short() {
    for from_edge in [true, false] {
        let mut lab = Lab::new(settings());
        let (edge, service) = pair(&mut lab, (0, 1));
        let most = usize::try_from(settings().memory / 10 * 9).unwrap();
        lab.cooked = true;
        lab.stage.shared().account(0, most);
        let (peer, call) = if from_edge {
            (edge, CallBuilder::new("files"))
        } else {
            (service, CallBuilder::new("any").edge(5))
        };
        let stream = open(&mut lab, peer, &call);
        let (bytes, end) = listen(&mut lab, peer, stream);
        assert_eq!(ReplyHead::parse(&bytes[16..]).unwrap().error.unwrap().code, ErrorCode::Overloaded);
        assert_eq!(end, "f");
        lab.dialer(peer).conn.finish_stream(stream);
        lab.run();
        assert_eq!(legs(&lab), 0);
        lab.stage.shared().account(most, 0);
        lab.close();
    }
}

/// A stream is reset while a piece of it was to be read straight into its own buffer; the next direct read is another stream's, or
/// a frame's.
#[test]
fn a_direct_read_belongs_to_the_stream_it_is_of() {
    for stream_next in [true, false] {
        let chaos = Chaos { direct_reads: 1_000, ..Chaos::NONE };
        let mut lab = Lab::with(settings(), chaos, 1);
        let (edge, service) = pair(&mut lab, (0, 0));
        let (one, one_there) = joined(&mut lab, edge, service);
        let (two, two_there) = joined(&mut lab, edge, service);
        let frame = |stream: StreamId, len: u32| {
            [&[0; 4][..], &stream.get().to_be_bytes(), &len.to_be_bytes(), &vec![1; len as usize]].concat()
        };
        let cut = frame(one, 60_000);
        lab.raw(edge, &cut[..20_000]);
        lab.run();
        // The driver looks at a socket that has nothing.
        let link = lab.dialer(edge).link;
        lab.stage.look(link);
        lab.run();
        lab.dialer(service).conn.reset_stream(one_there);
        lab.run();
        lab.raw(edge, &cut[20_000..]);
        lab.run();
        if stream_next {
            let next = frame(two, 50_000);
            lab.raw(edge, &next[..10_000]);
            lab.run();
            lab.raw(edge, &next[10_000..]);
            lab.run();
            assert_eq!(listen(&mut lab, service, two_there).0.len(), 50_000);
        } else {
            let mut call = Vec::new();
            let head = head(&CallBuilder::new("nothing"));
            FrameHeader::new(FrameType::Request, 1).put_frame(&mut call, &head, &[0; 50_000]).unwrap();
            let mut next = frame(StreamId::FIRST, u32::try_from(call.len()).unwrap());
            next.truncate(12);
            next.extend(call);
            lab.raw(edge, &next[..10_000]);
            lab.run();
            lab.raw(edge, &next[10_000..]);
            lab.run();
            let answers = lab.frames(edge);
            assert_eq!(answers.last().and_then(|note| note.error()), Some(ErrorCode::MethodNotFound));
        }
        lab.close();
    }
}

/// The end of a stream that comes with the last bytes of a body read straight from the socket must not wait for more input. Our own
/// dialers send the end apart, others do not.
#[test]
fn a_half_close_behind_a_direct_read_arrives_at_once() {
    for seed in 0..40 {
        let chaos = Chaos { direct_reads: 1_000, short_reads: 500, ..Chaos::NONE };
        let mut lab = Lab::with(settings(), chaos, seed);
        let (edge, service) = pair(&mut lab, (0, 0));
        let (here, there) = joined(&mut lab, edge, service);
        let with_fin =
            [&[0, 0, 0, 4][..], &here.get().to_be_bytes(), &60_000_u32.to_be_bytes(), &[3; 60_000]].concat();
        lab.raw(edge, &with_fin);
        lab.run();
        let (bytes, end) = listen(&mut lab, service, there);
        assert_eq!((bytes.len(), end.as_str()), (60_000, "f"), "seed {seed}");
        lab.close();
    }
}

#[test]
fn bytes_are_granted_back_when_the_reader_takes_them_and_nobody_else_waits() {
    for shards in SHARDS {
        let mut lab = Lab::new(Settings { stream_window_max: 64 << 10, ..settings() });
        let (edge, service) = pair(&mut lab, shards);
        let (here, there) = joined(&mut lab, edge, service);
        lab.dialer(edge).conn.outbox().push_stream(here, Bytes::from(vec![1; 2_000_000]), false);
        lab.run();
        // The service grants nothing: its window and the gateway's are full, and that is all the gateway holds.
        let window = settings().stream_window as usize;
        let held = usize::try_from(held(&lab)).unwrap();
        assert!(held <= 2 * window + 10_000, "{held}");
        lab.call_edge(service, 1, 5, "m", b"");
        lab.run();
        let call = lab.expect(edge);
        lab.answer(edge, &call, b"meanwhile");
        lab.run();
        let mut total = 0;
        let mut answered = false;
        for _ in 0..2_000 {
            for heard in lab.take(service) {
                match heard {
                    Heard::Data(of, data) => {
                        assert_eq!(of, there);
                        total += data.len();
                        lab.dialer(service).conn.release(there, u32::try_from(data.len()).unwrap());
                    }
                    Heard::Frame(note) => answered |= note.header.kind == FrameType::Response,
                    other => panic!("{other:?}"),
                }
            }
            if total == 2_000_000 {
                break;
            }
            lab.run();
        }
        assert_eq!(total, 2_000_000);
        assert!(answered);
        lab.close();
    }
}

#[test]
fn a_first_frame_with_a_body_is_no_open() {
    let mut lab = Lab::new(settings());
    let (edge, service) = pair(&mut lab, (0, 0));
    let dialer = lab.dialer(edge);
    let stream = dialer.conn.open_stream().unwrap();
    let mut frame = Vec::new();
    FrameHeader::new(FrameType::Data, 0).put_frame(&mut frame, &[], &[0; 50_000]).unwrap();
    // The first bytes say enough.
    frame.truncate(5_000);
    write(&mut lab, edge, stream, frame);
    assert_eq!(listen(&mut lab, edge, stream).1, "r");
    assert!(lab.is_quiet(service));
    lab.close();
}
