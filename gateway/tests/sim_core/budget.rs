//! The memory budget: what counts, what is refused when it grows short, and who goes when it is used up.

use std::sync::atomic::Ordering;

use frontier_gateway::{
    core::{Bound, Settings},
    sim::{
        dialer::Heard,
        lab::{Lab, Peer, edge_hello, service_hello},
        net::{Ending, Quality},
        stage::Path,
    },
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType, INITIAL_CREDIT},
        head::{CallBuilder, ErrorRef, ReplyBuilder},
    },
    yamux::StreamId,
};

use super::{SECOND, head, held, names, settings};

/// An edge that says much and takes so many bytes before its connection is full.
fn slow(lab: &mut Lab, bound: Bound, shard: u16) -> Peer {
    lab.dial_by(
        bound,
        shard,
        Path { up: Quality::PERFECT, down: Quality { capacity: 2_000, ..Quality::PERFECT } },
    )
}

fn long_names(of: u64, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{of}-{n}-{}", "n".repeat(240))).collect()
}

fn register(lab: &mut Lab, peer: Peer, id: u64, methods: &[String]) -> Option<ErrorCode> {
    let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
    lab.send(peer, FrameType::Register, id, &names(&methods, &[]), &[]);
    lab.run();
    lab.expect(peer).error()
}

/// So much of the budget counts as used by somebody else while `then` runs.
pub(super) fn with_used(lab: &mut Lab, percent: u64, then: impl FnOnce(&mut Lab)) {
    let used = usize::try_from(lab.stage.shared().settings.memory / 100 * percent).unwrap();
    lab.cooked = true;
    lab.stage.shared().account(0, used);
    then(lab);
    lab.stage.shared().account(used, 0);
    lab.cooked = false;
}

#[test]
fn what_peers_say_of_themselves_counts_and_what_they_share_counts_once() {
    let mut lab = Lab::new(settings());
    for id in 1..=10 {
        let peer = lab.dial(Bound::Edge, 0);
        let mut hello = edge_hello(id);
        hello.meta = vec![7; 16_000];
        hello.labels = [("k".repeat(100), "v".repeat(200))].into();
        lab.join(peer, &hello);
        let before = held(&lab);
        for (n, methods) in long_names(id, 200).chunks(50).enumerate() {
            assert_eq!(register(&mut lab, peer, n as u64 + 1, methods), None);
        }
        assert!(held(&lab) - before >= 200 * (240 + 32), "{} bytes for names", held(&lab) - before);
    }
    assert!(held(&lab) >= 10 * (16_000 + 300 + 200 * (240 + 32)), "{}", held(&lab));
    let own = held(&lab);
    for id in 100..200 {
        let peer = lab.edge(0, id);
        assert_eq!(register(&mut lab, peer, 1, &long_names(0, 10)), None);
    }
    assert!(held(&lab) - own < 2 * 10 * (240 + 100), "{} bytes for a hundred equal sets", held(&lab) - own);
    let service = lab.service(1, "svc", &["a"], &["b"]);
    let before = held(&lab);
    assert_eq!(register(&mut lab, service, 1, &long_names(0, 50)), None);
    assert!(held(&lab) - before >= 50 * 2 * 240, "a service's names are in the registry as well");
    lab.close();
}

#[test]
fn beginnings_of_frames_count_wherever_they_come() {
    let mut lab = Lab::new(settings());
    let raw = lab.dial_raw(Bound::Edge, 0);
    lab.raw(raw, b"G");
    lab.run();
    assert!(held(&lab) > 0, "a byte that does not tell the protocol yet");
    lab.hang_up(raw, Ending::Closed);
    lab.run();
    let service = lab.service(0, "files", &[], &[]);
    let edge = lab.edge(0, 5);
    let before = held(&lab);
    let streams = begin_streams(&mut lab, edge, 10);
    assert!(held(&lab) - before >= 80_000, "{} bytes of ten frames", held(&lab) - before);
    for stream in streams {
        lab.dialer(edge).conn.reset_stream(stream);
    }
    lab.run();
    assert!(held(&lab) - before < 5_000, "{} bytes after the reset", held(&lab) - before);
    assert!(lab.is_quiet(service));
    lab.close();
}

#[test]
fn an_edge_that_waits_to_be_admitted_counts_with_all_it_said() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "ids", &["get_edge_id"], &[]);
    let before = held(&lab);
    let edge = lab.dial(Bound::Edge, 1);
    let mut hello = edge_hello(0);
    hello.meta = vec![7; 9_000];
    hello.methods = long_names(1, 100);
    lab.dialer(edge).hello(&hello);
    lab.run();
    let asked = lab.expect(service);
    assert!(held(&lab) - before > 9_000 + 100 * 240, "{}", held(&lab) - before);
    lab.answer_error(service, &asked, ErrorCode::PermissionDenied, "no");
    lab.advance(2 * SECOND);
    assert!(held(&lab) < before + 2_000, "{} left of it", held(&lab) - before);
    lab.close();
}

#[test]
fn a_list_that_a_service_does_not_read_counts_and_is_not_begun_when_memory_is_short() {
    let mut lab = Lab::new(settings());
    for id in 1..=3_000 {
        lab.edge(0, id);
    }
    let service = slow(&mut lab, Bound::Service, 0);
    lab.join(service, &service_hello(1, "svc", &[], &[]));
    with_used(&mut lab, 85, |lab| {
        lab.send(service, FrameType::Presence, 1, &[], &[]);
        lab.run();
        assert_eq!(lab.expect_error(service, 1), ErrorCode::Overloaded);
    });
    let before = held(&lab);
    lab.freeze(service, true);
    lab.send(service, FrameType::Presence, 2, &[], &[]);
    lab.run();
    assert!(held(&lab) - before >= 3_000 * 8, "{}", held(&lab) - before);
    lab.freeze(service, false);
    lab.advance(SECOND);
    assert_eq!(held(&lab), before);
    lab.close();
}

#[test]
fn names_are_not_registered_when_memory_is_short() {
    let mut lab = Lab::new(settings());
    for peer in [lab.edge(0, 5), lab.service(1, "svc", &["known"], &[])] {
        let known = ["known".to_owned()];
        assert_eq!(register(&mut lab, peer, 1, &known), None);
        with_used(&mut lab, 85, |lab| {
            let new = ["known".to_owned(), "new".to_owned()];
            assert_eq!(register(lab, peer, 2, &new), Some(ErrorCode::Overloaded));
            assert_eq!(register(lab, peer, 3, &known), None, "what is there needs no room");
            lab.send(peer, FrameType::Unregister, 4, &names(&["known"], &[]), &[]);
            lab.run();
            assert_eq!(lab.expect(peer).error(), None, "what goes makes room");
        });
    }
    lab.close();
}

#[test]
fn who_comes_while_memory_is_used_up_is_told_to_come_again() {
    let mut lab = Lab::new(settings());
    // Somebody who holds more, and is cut first.
    let largest = lab.edge(0, 100);
    begin_streams(&mut lab, largest, 20);
    with_used(&mut lab, 101, |lab| {
        for (bound, hello) in
            [(Bound::Edge, edge_hello(5)), (Bound::Service, service_hello(1, "svc", &["echo"], &[]))]
        {
            let peer = lab.dial(bound, 0);
            lab.dialer(peer).hello(&hello);
            lab.run();
            let answer = lab.expect(peer);
            let error = ErrorRef::parse(&answer.head).unwrap();
            assert_eq!((answer.header.kind, error.code), (FrameType::Reject, ErrorCode::Overloaded));
            assert!(error.retry_after_ms >= 2_000, "{} ms", error.retry_after_ms);
        }
    });
    lab.edge(0, 5);
    lab.close();
}

/// Who is heard, and with what, at so much of the budget: (5,000 bytes, 1,000 bytes) of an edge that holds 80,000 bytes, and the same of
/// one that holds nothing.
fn heard(shards: (u16, u16), percent: u64) -> [(bool, bool); 2] {
    let mut lab = Lab::new(settings());
    let service = lab.service(shards.1, "svc", &["echo"], &[]);
    let (greedy, modest) = (lab.edge(shards.0, 5), lab.edge(shards.0, 6));
    begin_streams(&mut lab, greedy, 10);
    // The largest holders of each shard are looked for ten times a second, and these are found first.
    for shard in 0..2 {
        let largest = lab.edge(shard, 100 + u64::from(shard));
        begin_streams(&mut lab, largest, 20);
    }
    let mut outcome = [(false, false); 2];
    with_used(&mut lab, percent, |lab| {
        // An equal share is less than what the greedy one holds.
        lab.stage.shared().sessions.fetch_add(100_000, Ordering::Relaxed);
        lab.run();
        for (edge, id, len) in
            [(greedy, 1, 5_000), (greedy, 2, 1_000), (modest, 1, 5_000), (modest, 2, 1_000)]
        {
            lab.call(edge, id, "echo", 0, &vec![0; len]);
        }
        lab.run();
        for call in lab.frames(service) {
            lab.answer(service, &call, b"done");
        }
        lab.run();
        for (edge, outcome) in [greedy, modest].into_iter().zip(&mut outcome) {
            for answer in lab.frames(edge) {
                let ok = match answer.error() {
                    None => true,
                    Some(code) => {
                        assert_eq!(code, ErrorCode::Overloaded);
                        false
                    }
                };
                *(if answer.header.id == 1 { &mut outcome.0 } else { &mut outcome.1 }) = ok;
            }
        }
        lab.stage.shared().sessions.fetch_sub(100_000, Ordering::Relaxed);
    });
    lab.close();
    outcome
}

#[test]
fn the_shorter_memory_is_the_less_is_started_by_those_who_hold_much() {
    for shards in [(0, 0), (0, 1)] {
        assert_eq!(heard(shards, 70), [(true, true), (true, true)]);
        assert_eq!(heard(shards, 85), [(false, true), (true, true)]);
        assert_eq!(heard(shards, 95), [(false, false), (false, true)]);
        assert_eq!(heard(shards, 101), [(false, false), (false, true)]);
    }
}

/// Streams of whose Open some 8,000 bytes come.
fn begin_streams(lab: &mut Lab, edge: Peer, count: usize) -> Vec<StreamId> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let stream = lab.dialer(edge).conn.open_stream().unwrap();
        let open = head(&CallBuilder::new("files").meta(&[7; 10_000]));
        let header = FrameHeader::new(FrameType::Open, 0).with_lens(open.len(), 0).unwrap();
        let mut frame = header.encode().to_vec();
        frame.extend(&open[..8_000]);
        lab.dialer(edge).conn.outbox().push_stream(stream, frame.into(), false);
        streams.push(stream);
    }
    lab.run();
    streams
}

/// A connection with the beginning of a Hello whose head has 60,000 bytes.
pub(super) fn stranger(lab: &mut Lab) -> Peer {
    let stranger = lab.dial_raw(Bound::Edge, 0);
    let header = FrameHeader::new(FrameType::Hello, 0).with_lens(60_000, 0).unwrap();
    let begin = [&[0, 0, 0, 1, 0, 0, 0, 1][..], &60_016_u32.to_be_bytes(), &header.encode(), &[0; 50_000]];
    lab.raw(stranger, &begin.concat());
    stranger
}

#[test]
fn those_who_have_not_even_said_hello_go_first_if_they_hold_the_most() {
    let mut lab = Lab::new(Settings { memory: 1_000_000, ..settings() });
    let service = lab.service(0, "svc", &["echo"], &[]);
    let edge = lab.edge(0, 5);
    let strangers: Vec<Peer> = (0..30).map(|_| stranger(&mut lab)).collect();
    lab.advance(SECOND);
    assert!(held(&lab) <= 1_000_000, "{}", held(&lab));
    let gone = strangers.iter().filter(|stranger| lab.ended(**stranger).is_some()).count();
    assert!((1..30).contains(&gone), "{gone} of 30 strangers are gone");
    assert!(lab.ended(edge).is_none() && lab.ended(service).is_none());
    for stranger in strangers {
        lab.hang_up(stranger, Ending::Closed);
    }
    lab.close();
}

#[test]
fn a_stream_in_single_bytes_costs_little_more_than_in_one() {
    for shards in [(0, 0), (0, 1)] {
        let mut lab = Lab::new(settings());
        let service = slow(&mut lab, Bound::Service, shards.1);
        let mut hello = service_hello(1, "files", &[], &[]);
        hello.pool_index = shards.1.into();
        lab.join(service, &hello);
        let edge = lab.edge(shards.0, 5);
        let stream = lab.dialer(edge).conn.open_stream().unwrap();
        lab.dialer(edge).send_on(
            stream,
            FrameHeader::new(FrameType::Open, 0),
            &head(&CallBuilder::new("files")),
        );
        lab.run();
        let there = lab.expect_stream(service);
        let mut ack = Vec::new();
        ReplyBuilder::new().encode(&mut ack);
        lab.dialer(service).send_on(there, FrameHeader::new(FrameType::OpenAck, 0), &ack);
        lab.run();
        lab.take(service);
        lab.freeze(service, true);
        let before = held(&lab);
        const BYTES: usize = 40_000;
        let sent: Vec<u8> = (0..BYTES).map(|n| n.to_le_bytes()[0]).collect();
        for bytes in sent.chunks(500) {
            let frame = |byte: &u8| [&[0; 4][..], &stream.get().to_be_bytes(), &[0, 0, 0, 1, *byte]].concat();
            lab.raw(edge, &bytes.iter().flat_map(frame).collect::<Vec<u8>>());
            lab.run();
        }
        let cost = held(&lab) - before;
        assert!(cost < 2 * BYTES as u64 + 10_000, "{cost} bytes held for {BYTES}");
        lab.freeze(service, false);
        lab.advance(SECOND);
        assert_eq!(stream_bytes(&mut lab, service, there), sent);
        lab.close();
    }
}

fn stream_bytes(lab: &mut Lab, peer: Peer, stream: StreamId) -> Vec<u8> {
    let mut bytes = Vec::new();
    for heard in lab.take(peer) {
        if let Heard::Data(of, data) = heard
            && of == stream
        {
            bytes.extend_from_slice(&data);
        }
    }
    bytes
}

/// A gateway whose inboxes take 1 MiB, and 40 edges at shard 0 of a service at shard 1.
fn two_shards() -> (Lab, Peer, Vec<Peer>) {
    let mut lab = Lab::new(Settings { memory: 8 << 20, ..settings() });
    let service = lab.service(1, "svc", &["echo"], &[]);
    let edges = (1..=40).map(|id| lab.edge(0, id)).collect();
    (lab, service, edges)
}

#[test]
fn operations_towards_a_shard_that_falls_behind_are_refused() {
    let (mut lab, service, edges) = two_shards();
    let before = held(&lab);
    // All of them are read in one turn of shard 0, before shard 1 has its own.
    for edge in &edges {
        lab.call(*edge, 1, "echo", 0, &[1; 60_000]);
    }
    lab.run();
    let calls = lab.frames(service);
    assert!((10..20).contains(&calls.len()), "{} calls of 60,000 bytes have room in 1 MiB", calls.len());
    let refused = edges.iter().filter(|edge| !lab.is_quiet(**edge)).copied().collect::<Vec<_>>();
    assert_eq!(refused.len() + calls.len(), 40);
    for edge in refused {
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::Overloaded);
        lab.call(edge, 2, "echo", 0, b"again");
    }
    lab.run();
    assert_eq!(lab.frames(service).len(), 40 - calls.len(), "there is room again");
    for call in &calls {
        lab.answer(service, call, b"done");
    }
    lab.advance(31 * SECOND);
    assert_eq!(lab.stage.shared().mail(1), 0);
    // But for the tables, which are given back when the sessions are looked at next.
    assert!(held(&lab) - before < 20_000, "{}", held(&lab) - before);
    lab.close();
}

#[test]
fn a_body_under_way_is_given_up_when_the_receivers_shard_falls_behind() {
    let (mut lab, service, edges) = two_shards();
    let total = INITIAL_CREDIT as usize;
    for edge in &edges {
        let head = head(&CallBuilder::new("echo").total_len(total as u64));
        lab.send_part(*edge, FrameHeader::new(FrameType::Request, 1), &head, 0, 1_000, total);
    }
    lab.run();
    assert_eq!(lab.frames(service).len(), 40, "the beginnings have room");
    for edge in &edges {
        lab.send_part(*edge, FrameHeader::new(FrameType::Request, 1), &[], 1_000, 60_000, total);
    }
    lab.run();
    let heard = lab.frames(service);
    let cancelled = heard.iter().filter(|note| note.header.kind == FrameType::Cancel).count();
    assert!((10..40).contains(&cancelled), "{cancelled} given up");
    let told = edges.iter().filter(|edge| !lab.is_quiet(**edge)).copied().collect::<Vec<_>>();
    assert_eq!(told.len(), cancelled);
    for edge in told {
        assert_eq!(lab.expect_error(edge, 1), ErrorCode::Overloaded);
        // What is still to come of it is skipped.
        lab.send_flagged(edge, FrameType::Request, 1, Flags::MORE, &[], &[7; 1_000]);
    }
    lab.run();
    lab.close();
}

#[test]
fn an_answer_comes_without_its_body_when_the_callers_shard_falls_behind() {
    let mut lab = Lab::new(Settings { memory: 8 << 20, ..settings() });
    let methods: Vec<String> = (0..20).map(|n| format!("m{n}")).collect();
    let services: Vec<Peer> = methods.iter().map(|method| lab.service(1, method, &[method], &[])).collect();
    let edge = lab.edge(0, 5);
    for (id, method) in (1..).zip(&methods) {
        lab.call(edge, id, method, 0, b"");
        lab.call(edge, 100 + id, method, 0, b"");
    }
    lab.run();
    for (n, service) in services.iter().enumerate() {
        for call in lab.frames(*service) {
            // Every other one of them in parts.
            let header = FrameHeader::new(FrameType::Response, call.header.id);
            let total = 60_000 + 60_000 * (n % 2);
            let mut head = Vec::new();
            ReplyBuilder::new().total_len(if n % 2 == 1 { total as u64 } else { 0 }).encode(&mut head);
            lab.send_part(*service, header, &head, 0, 60_000, total);
        }
    }
    lab.run();
    let answers = lab.frames(edge);
    let refused = answers.iter().filter(|answer| answer.error() == Some(ErrorCode::Overloaded)).count();
    assert_eq!(answers.len(), 40);
    assert!((10..30).contains(&refused), "{refused} of 40 answers of 60,000 bytes have no room in 1 MiB");
    let cancelled: usize = services.iter().map(|service| lab.frames(*service).len()).sum();
    assert!((1..refused).contains(&cancelled), "{cancelled} that had not ended are given up");
    lab.close();
}
