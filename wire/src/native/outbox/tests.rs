use proptest::prelude::*;

use super::*;
use crate::yamux::{Config, Event, Role, START_WINDOW};

/// Two ends of nothing: an engine whose session stream and one user stream have no window but what is granted here.
struct Bench {
    engine: Engine,
    stream: StreamId,
    outbox: Outbox,
}

// === impl Bench ===

impl Bench {
    fn new() -> Self {
        let mut engine = Engine::new(Role::Client, &Config::default());
        assert_eq!(engine.open(), Ok(StreamId::FIRST));
        let stream = engine.open().unwrap();
        engine.take_control(&mut Vec::new());
        for used in [StreamId::FIRST, stream] {
            for _ in 0..START_WINDOW / 65_536 {
                engine.data(used, 65_536, false).unwrap();
            }
        }
        Self { engine, stream, outbox: Outbox::default() }
    }

    /// The peer lets us send `n` bytes more on a stream.
    fn grant(&mut self, stream: StreamId, n: u32) {
        let update = [&[0, 1, 0, 0], &stream.get().to_be_bytes()[..], &n.to_be_bytes()].concat();
        let mut input = &update[..];
        while let Some(event) = self.engine.receive(&mut input).unwrap() {
            assert!(matches!(event, Event::Window { .. }), "{event:?}");
        }
        self.outbox.unpark(stream);
    }

    /// Takes what may go: (what was written, with the headers of yamux; what was reported).
    fn write(&mut self) -> (Vec<u8>, usize) {
        self.outbox.fill(&mut self.engine, StreamId::FIRST, 128 << 10);
        let mut slices = Vec::new();
        self.outbox.slices(&mut slices, usize::MAX);
        let bytes = join(&slices);
        let mut reported = 0;
        self.outbox.written(bytes.len(), |_, n| reported += n as usize);
        assert_eq!(self.outbox.sending(), 0);
        (bytes, reported)
    }

    /// Payloads alone.
    fn payload(mut bytes: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        while let Some((header, rest)) = bytes.split_first_chunk::<12>() {
            let len = u32::from_be_bytes(header[8..].try_into().unwrap()) as usize;
            payload.extend_from_slice(&rest[..len]);
            bytes = &rest[len..];
        }
        payload
    }
}

fn join(slices: &[IoSlice<'_>]) -> Vec<u8> {
    slices.iter().flat_map(|slice| slice.iter().copied()).collect()
}

/// What an outbox holds, counted afresh.
fn count(outbox: &Outbox) -> usize {
    let items: Vec<&Item> = outbox
        .flows
        .iter()
        .flat_map(|flows| flows.by_key.values())
        .flat_map(|flow| flow.items.iter())
        .collect();
    let entries = outbox.flows.iter().flat_map(|flows| flows.by_key.values());
    let entries: usize = entries.map(|flow| flow.items.capacity() * ITEM).sum();
    let bodies = items.iter().map(|item| match &item.body {
        Body::Shared(bytes) => bytes.len() + item.slack,
        Body::Pieces(pieces) => pieces.capacity(),
    });
    let blocks: usize = outbox.blocks.iter().map(|block| block.capacity() - RESERVED).sum();
    let block = outbox.block.capacity().saturating_sub(if outbox.block.is_empty() { 0 } else { RESERVED });
    size_of::<Outbox>()
        + entries
        + items.iter().map(|item| item.lead.len()).sum::<usize>()
        + bodies.sum::<usize>()
        + blocks
        + block
        + outbox.cut.len()
        + outbox.sending
        + outbox.rest.capacity() * size_of::<Segment>()
        + outbox.flows.as_ref().map_or(0, |flows| flows.held())
}

/// They are bounded by windows: counted as operations, a peer that reads its streams slowly would be refused calls, or cut.
#[test]
fn bytes_of_streams_that_the_transport_has_are_no_operations() {
    let mut bench = Bench::new();
    bench.grant(bench.stream, 100_000);
    bench.outbox.push_stream(bench.stream, Bytes::from(vec![7; 100_000]), true);
    assert_eq!(bench.outbox.operation_bytes(), 0);
    bench.outbox.fill(&mut bench.engine, StreamId::FIRST, 128 << 10);
    let sending = bench.outbox.sending();
    assert!(sending > 100_000);
    for taken in [0, 5, 50_000, sending - 50_005] {
        bench.outbox.written(taken, |_, _| {});
        assert_eq!((bench.outbox.operation_bytes(), bench.outbox.has_unsent_operations()), (0, false));
    }
    bench.outbox.push_frame(1, Bytes::from_static(b"lead"), Bytes::from_static(b"body"));
    assert_eq!((bench.outbox.operation_bytes(), bench.outbox.has_unsent_operations()), (8, true));
    bench.grant(StreamId::FIRST, 100);
    bench.outbox.fill(&mut bench.engine, StreamId::FIRST, 128 << 10);
    assert_eq!((bench.outbox.operation_bytes(), bench.outbox.has_unsent_operations()), (8 + 12, false));
    bench.outbox.written(20, |_, _| {});
    assert_eq!(bench.outbox.operation_bytes(), 0);
}

#[test]
fn single_bytes_of_a_stream_share_blocks() {
    let mut bench = Bench::new();
    let sent: Vec<u8> = (0..60_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for byte in &sent {
        bench.outbox.push_stream(bench.stream, Bytes::copy_from_slice(&[*byte]), true);
    }
    let held = bench.outbox.held();
    assert!(held < 2 * sent.len(), "{held} bytes held for {}", sent.len());
    bench.grant(bench.stream, 60_000);
    let (written, reported) = bench.write();
    assert_eq!((Bench::payload(&written), reported), (sent, 60_000));
    assert!(bench.outbox.is_empty());
    assert_eq!(bench.outbox.overhead, 0);
}

#[test]
fn large_pieces_of_a_stream_go_by_reference_between_small_ones() {
    let mut bench = Bench::new();
    let large = Bytes::from(vec![7; SMALL_PIECE]);
    bench.outbox.copy_to_stream(bench.stream, b"before", true);
    bench.outbox.push_stream(bench.stream, large.clone(), true);
    bench.outbox.copy_to_stream(bench.stream, b"after", true);
    bench.grant(bench.stream, 60_000);
    bench.outbox.fill(&mut bench.engine, StreamId::FIRST, 1 << 20);
    let mut slices = Vec::new();
    bench.outbox.slices(&mut slices, 64);
    let payloads: Vec<&[u8]> = slices.iter().skip(1).step_by(2).map(|slice| &**slice).collect();
    assert_eq!(payloads, [b"before", &large[..], b"after"]);
    assert_eq!(payloads[1].as_ptr(), large.as_ptr());
}

#[test]
fn a_small_piece_keeps_nothing_of_the_buffer_that_it_was_cut_from() {
    let mut bench = Bench::new();
    let buffer = Bytes::from(vec![7; 60_000]);
    bench.outbox.push_stream(bench.stream, buffer.slice(..100), true);
    assert!(buffer.is_unique());
}

#[test]
fn a_write_that_took_nothing_reports_nothing() {
    let mut bench = Bench::new();
    bench.outbox.copy_to_stream(bench.stream, b"bytes", true);
    bench.grant(bench.stream, 5);
    bench.outbox.fill(&mut bench.engine, StreamId::FIRST, 1 << 20);
    bench.outbox.written(12, |_, n| assert!(n > 0, "reported nothing"));
    bench.outbox.written(0, |_, n| assert!(n > 0, "reported nothing"));
}

proptest! {
    /// However the peer grants, what goes out lies where it was written at first: nothing is copied again, so that a peer that grants
    /// single bytes costs no more than one that grants all at once.
    #[test]
    fn a_block_that_the_window_cuts_is_not_copied(
        frames in prop::collection::vec(1usize..20_000, 1..12),
        grants in prop::collection::vec(1u32..3_000, 1..8),
    ) {
        let mut bench = Bench::new();
        let mut all = Vec::new();
        for (at, len) in frames.into_iter().enumerate() {
            let frame = vec![u8::try_from(at).unwrap(); len];
            bench.outbox.small(len).extend_from_slice(&frame);
            all.extend(frame);
        }
        let blocks = bench.outbox.blocks.iter().chain([&bench.outbox.block]);
        let places: Vec<_> = blocks.map(|block| block.as_ptr_range()).collect();
        let mut written = Vec::new();
        for grant in grants.iter().cycle() {
            if written.len() == all.len() {
                break;
            }
            bench.grant(StreamId::FIRST, *grant);
            bench.outbox.fill(&mut bench.engine, StreamId::FIRST, usize::MAX);
            let mut slices = Vec::new();
            bench.outbox.slices(&mut slices, usize::MAX);
            for slice in slices.iter().filter(|slice| slice.len() != HEADER_LEN) {
                let at = slice.as_ptr();
                prop_assert!(places.iter().any(|place| place.contains(&at)), "copied before it was written");
            }
            let bytes = join(&slices);
            prop_assert!(bytes.len() > HEADER_LEN, "a grant lets something through");
            written.extend(Bench::payload(&bytes));
            bench.outbox.written(bytes.len(), |_, _| {});
            prop_assert_eq!(bench.outbox.held(), count(&bench.outbox));
        }
        prop_assert_eq!(written, all);
        prop_assert!(bench.outbox.is_empty());
    }

    #[test]
    fn the_books_agree_with_what_is_held(
        steps in prop::collection::vec((0u8..8, 0usize..40_000), 1..200),
    ) {
        let mut bench = Bench::new();
        let stream = bench.stream;
        for (what, len) in steps {
            let body = Bytes::from(vec![1; len]);
            match what {
                0 => bench.outbox.small(len).extend_from_slice(&body),
                1 => bench.outbox.push_frame(len as u64 % 3, Bytes::from_static(b"lead"), body),
                2 => bench.outbox.push_stream(stream, body, true),
                3 => bench.outbox.copy_to_stream(stream, &body[..len % 9], len % 2 == 0),
                4 => bench.grant(stream, u32::try_from(len).unwrap()),
                5 => bench.grant(StreamId::FIRST, u32::try_from(len).unwrap()),
                6 => drop(bench.outbox.drop_flow(FlowKey::Operation(len as u64 % 3))),
                _ => drop(bench.write()),
            }
            prop_assert_eq!(bench.outbox.held(), count(&bench.outbox));
        }
        for used in [stream, StreamId::FIRST] {
            bench.grant(used, 100 << 20);
        }
        while !bench.outbox.is_empty() {
            bench.write();
        }
        prop_assert_eq!((bench.outbox.queued(), bench.outbox.stream_bytes, bench.outbox.overhead), (0, 0, 0));
    }
}

/// A frame of eight bytes is mostly header: each with a header of yamux of its own would more than double it.
#[test]
fn small_frames_share_one_header() {
    let mut bench = Bench::new();
    bench.grant(StreamId::FIRST, 1_000);
    for n in 0..8 {
        bench.outbox.small(8).extend_from_slice(&[n; 8]);
    }
    bench.outbox.fill(&mut bench.engine, StreamId::FIRST, 128 << 10);
    let mut slices = Vec::new();
    bench.outbox.slices(&mut slices, usize::MAX);
    let expected: Vec<u8> = (0..8).flat_map(|n| [n; 8]).collect();
    assert_eq!((slices.len(), slices[0].len()), (1, 12 + 64), "one slice, one header");
    assert_eq!(Bench::payload(&slices[0]), expected);
}

#[test]
fn small_frames_go_first_and_operations_take_turns() {
    let mut bench = Bench::new();
    bench.grant(StreamId::FIRST, 1_000);
    for n in 0..3 {
        for operation in [b'A', b'B'] {
            let lead = Bytes::copy_from_slice(&[operation, b'0' + n]);
            bench.outbox.push_frame(operation.into(), lead, Bytes::from_static(b"."));
        }
    }
    bench.outbox.small(5).extend_from_slice(b"small");
    let (bytes, _) = bench.write();
    assert_eq!(String::from_utf8(Bench::payload(&bytes)).unwrap(), "smallA0.B0.A1.B1.A2.B2.");
}
