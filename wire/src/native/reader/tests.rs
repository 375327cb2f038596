use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::native::frame::{Flags, FrameType};

/// A frame that owns its parts, to compare with.
#[derive(Clone, Debug, PartialEq)]
struct Whole {
    header: FrameHeader,
    head: Vec<u8>,
    body: Vec<u8>,
}

fn whole(kind: FrameType, id: u64, head: Vec<u8>, body: Vec<u8>) -> Whole {
    let header = FrameHeader::new(kind, id).with_lens(head.len(), body.len()).unwrap();
    Whole { header, head, body }
}

impl Whole {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.header.encode());
        out.extend(&self.head);
        out.extend(&self.body);
    }
}

impl<B: Chunk> From<Frame<B>> for Whole {
    fn from(frame: Frame<B>) -> Self {
        Self { header: frame.header, head: frame.head.to_vec(), body: frame.body.to_vec() }
    }
}

/// Bytes that differ from place to place, so that a shift shows.
fn filled(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ seed).collect()
}

fn wire(frames: &[Whole]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}

/// Reads `bytes` in pieces that end at `cuts`, as slices or as `Bytes`; checks the bound on memory at each cut.
fn read_cut(bytes: &[u8], cuts: &[usize], counted: bool) -> Vec<Whole> {
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        let piece = &bytes[start..end];
        start = end;
        if counted {
            drain(&mut reader, Bytes::copy_from_slice(piece), &mut frames);
        } else {
            drain(&mut reader, piece, &mut frames);
        }
    }
    assert!(reader.is_idle());
    assert_eq!(reader.held(), 0);
    frames
}

fn drain<B: Chunk>(reader: &mut FrameReader, mut input: B, frames: &mut Vec<Whole>) {
    while let Some(frame) = reader.next(&mut input, &FrameLimits::GATEWAY).unwrap() {
        frames.push(frame.into());
    }
    assert!(input.is_empty());
}

/// Reads `bytes` like a driver that fills big bodies straight from the socket, at most `step` bytes at once.
fn read_direct(bytes: &[u8], step: usize) -> (Vec<Whole>, usize) {
    let mut reader = FrameReader::new();
    let (mut frames, mut rest, mut direct) = (Vec::new(), bytes, 0);
    while !rest.is_empty() {
        if let Some((body, wanted)) = reader.direct() {
            assert!(wanted > 0);
            let n = wanted.min(step).min(rest.len());
            assert!(body.capacity() - body.len() >= n, "no room for what is wanted");
            body.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            direct += n;
            frames.extend(reader.finish_direct::<&[u8]>().map(Whole::from));
        } else {
            let n = step.min(rest.len());
            drain(&mut reader, &rest[..n], &mut frames);
            rest = &rest[n..];
        }
    }
    assert!(reader.is_idle());
    (frames, direct)
}

#[test]
fn idle_reader_is_eight_bytes_and_holds_nothing() {
    assert_eq!(size_of::<FrameReader>(), 8);
    let reader = FrameReader::new();
    assert!(reader.is_idle());
    assert_eq!(reader.held(), 0);
}

#[test]
fn whole_frames_are_pieces_of_the_input() {
    let bytes = wire(&[
        whole(FrameType::Request, 1, filled(20, 1), filled(64, 2)),
        whole(FrameType::Ping, 2, vec![], vec![]),
        whole(FrameType::Publish, 3, filled(9, 3), filled(65_536, 4)),
    ]);
    let mut reader = FrameReader::new();
    let mut input = bytes.as_slice();
    let mut offset = 0;
    while let Some(frame) = reader.next(&mut input, &FrameLimits::GATEWAY).unwrap() {
        let (Piece::Input(head), Piece::Input(body)) = (frame.head, frame.body) else { panic!("copied") };
        let head_at = offset + HEADER_LEN;
        assert_eq!(head.as_ptr(), bytes[head_at..].as_ptr());
        assert_eq!(body.as_ptr(), bytes[head_at + head.len()..].as_ptr());
        assert_eq!(reader.held(), 0);
        offset += frame.header.frame_len();
    }
    assert_eq!(offset, bytes.len());
}

#[test]
fn counted_input_is_not_copied_either() {
    let input = Bytes::from(wire(&[whole(FrameType::Publish, 3, filled(9, 3), filled(100, 4))]));
    let mut rest = input.clone();
    let frame = FrameReader::new().next(&mut rest, &FrameLimits::GATEWAY).unwrap().unwrap();
    assert_eq!(frame.body.into_bytes().as_ptr(), input[HEADER_LEN + 9..].as_ptr());
}

#[test]
fn frame_cut_at_each_place_is_the_same() {
    let frames = [
        whole(FrameType::Request, 7, filled(11, 1), filled(30, 2)),
        whole(FrameType::Unknown(0x60), 8, filled(5, 3), filled(6, 4)),
        whole(FrameType::Pong, 9, vec![], vec![]),
    ];
    let bytes = wire(&frames);
    let known = [frames[0].clone(), frames[2].clone()];
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            for counted in [false, true] {
                assert_eq!(read_cut(&bytes, &[first, second], counted), known, "cut at {first}, {second}");
            }
        }
    }
}

#[test]
fn single_bytes_are_enough() {
    let frames = [
        whole(FrameType::Hello, 0, filled(16_384, 1), filled(16_383, 2)),
        whole(FrameType::Publish, 1, filled(300, 3), filled(16_384, 4)),
    ];
    let bytes = wire(&frames);
    let cuts: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(read_cut(&bytes, &cuts, false), frames);
}

#[test]
fn body_from_sixteen_kib_on_is_read_directly() {
    let small = [whole(FrameType::Publish, 1, filled(10, 1), filled(16_383, 2))];
    let big = [whole(FrameType::Publish, 1, filled(10, 1), filled(16_384, 2))];
    let (frames, direct) = read_direct(&wire(&small), 100);
    assert_eq!((frames.as_slice(), direct), (small.as_slice(), 0));
    let (frames, direct) = read_direct(&wire(&big), 26);
    assert_eq!((frames.as_slice(), direct), (big.as_slice(), 16_384));
}

#[test]
fn big_body_buffer_has_exactly_its_length_and_waits_for_the_head() {
    let frame = whole(FrameType::Publish, 1, filled(100, 1), filled(65_536, 2));
    let bytes = wire(std::slice::from_ref(&frame));
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    drain(&mut reader, &bytes[..HEADER_LEN + 99], &mut frames);
    assert!(reader.direct().is_none());
    assert!(reader.held() < 1_000, "reserved on the peer's word: {}", reader.held());
    drain(&mut reader, &bytes[HEADER_LEN + 99..HEADER_LEN + 100], &mut frames);
    let (body, wanted) = reader.direct().unwrap();
    assert_eq!((body.capacity(), body.len(), wanted), (65_536, 0, 65_536));
    body.extend_from_slice(&frame.body[..60_000]);
    assert!(reader.finish_direct::<&[u8]>().is_none());
    drain(&mut reader, &bytes[HEADER_LEN + 100 + 60_000..], &mut frames);
    assert_eq!(frames, [frame]);
    assert!(reader.is_idle());
}

#[test]
fn directly_read_body_is_not_copied() {
    let bytes = wire(&[whole(FrameType::Publish, 1, filled(3, 1), filled(20_000, 2))]);
    let mut reader = FrameReader::new();
    drain(&mut reader, &bytes[..HEADER_LEN + 3], &mut Vec::new());
    let (body, _) = reader.direct().unwrap();
    body.extend_from_slice(&bytes[HEADER_LEN + 3..]);
    let filled_at = body.as_ptr();
    let frame = reader.finish_direct::<&[u8]>().unwrap();
    assert_eq!(frame.body.as_ptr(), filled_at);
}

#[test]
fn driver_that_appends_too_much_spoils_only_its_surplus() {
    let frame = whole(FrameType::Publish, 1, vec![], filled(20_000, 2));
    let mut reader = FrameReader::new();
    drain(&mut reader, frame.header.encode().as_slice(), &mut Vec::new());
    let (body, wanted) = reader.direct().unwrap();
    body.extend_from_slice(&frame.body);
    body.extend_from_slice(b"surplus");
    assert_eq!(wanted, 20_000);
    assert_eq!(reader.direct().unwrap().1, 0);
    assert_eq!(Whole::from(reader.finish_direct::<&[u8]>().unwrap()), frame);
}

#[test]
fn frames_of_unknown_types_are_counted_however_they_are_cut() {
    let unknown = whole(FrameType::Unknown(0xee), 1, vec![], filled(100, 2));
    let ping = whole(FrameType::Ping, 2, vec![], vec![]);
    let bytes = wire(&[unknown.clone(), unknown.clone(), ping, unknown]);
    for size in [1, 7, 16, 50, bytes.len()] {
        let (mut reader, mut skipped, mut frames) = (FrameReader::new(), 0, 0);
        for mut piece in bytes.chunks(size) {
            while reader.next_counted(&mut piece, &FrameLimits::GATEWAY, &mut skipped).unwrap().is_some() {
                frames += 1;
            }
        }
        assert_eq!((frames, skipped), (1, 3), "{size} bytes at a time");
    }
}

#[test]
fn unknown_types_are_skipped_without_holding_them() {
    let unknown = whole(FrameType::Unknown(0xee), 1, filled(16_384, 1), filled(65_536, 2));
    let after = whole(FrameType::Ping, 2, vec![], vec![]);
    let bytes = wire(&[unknown, after.clone()]);
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    for piece in bytes.chunks(1_000) {
        drain(&mut reader, piece, &mut frames);
        assert!(reader.held() <= 200, "{}", reader.held());
    }
    assert_eq!(frames, [after]);
}

#[test]
fn limits_hold_at_n_and_break_at_n_plus_one() {
    let limits = FrameLimits { max_head: 100, max_body: 200 };
    let read = |head: usize, body: usize, kind: FrameType, piece: usize| {
        let bytes = wire(&[whole(kind, 1, filled(head, 1), filled(body, 2))]);
        let mut reader = FrameReader::new();
        for mut piece in bytes.chunks(piece) {
            if let Some(frame) = reader.next(&mut piece, &limits)? {
                assert_eq!((frame.head.len(), frame.body.len()), (head, body));
            }
        }
        assert!(reader.is_idle());
        Ok(())
    };
    for kind in [FrameType::Request, FrameType::Unknown(0x99)] {
        for piece in [1, 15, 16, 17, 1_000] {
            assert_eq!(read(100, 200, kind, piece), Ok(()));
            assert_eq!(
                read(101, 200, kind, piece),
                Err(DecodeError::HeadTooLong { len: 101, max: 100 }),
                "pieces of {piece}"
            );
            assert_eq!(read(100, 201, kind, piece), Err(DecodeError::BodyTooLong { len: 201, max: 200 }));
        }
    }
}

#[test]
fn error_comes_again_and_takes_nothing() {
    let bytes = wire(&[whole(FrameType::Request, 1, filled(101, 1), vec![])]);
    let limits = FrameLimits { max_head: 100, max_body: 0 };
    let mut reader = FrameReader::new();
    let mut input = &bytes[..10];
    assert!(reader.next(&mut input, &limits).unwrap().is_none());
    let mut input = &bytes[10..];
    for _ in 0..3 {
        assert!(reader.next(&mut input, &limits).is_err());
        assert_eq!(input.len(), bytes.len() - HEADER_LEN);
        assert!(reader.held() < 200);
    }
}

#[test]
fn hello_limits_allow_a_long_head_and_no_body() {
    let check = |head_len, body_len| {
        let header = FrameHeader { head_len, body_len, ..FrameHeader::new(FrameType::Hello, 0) };
        FrameLimits::HELLO.check(&header)
    };
    assert_eq!(check(u16::MAX, 0), Ok(()));
    assert_eq!(check(0, 1), Err(DecodeError::BodyTooLong { len: 1, max: 0 }));
}

/// Frames of any kind, most of them small, some with a body around the border of [`BIG_BODY`].
fn any_frame() -> impl Strategy<Value = Whole> {
    let len = prop_oneof![4 => 0_usize..80, 1 => 16_380_usize..16_390, 1 => Just(65_536_usize)];
    (any::<u8>(), any::<u8>(), any::<u64>(), 0_usize..200, len, any::<u8>()).prop_map(
        |(kind, flags, id, head, body, seed)| {
            let mut frame =
                whole(FrameType::from_wire(kind % 24), id, filled(head, seed), filled(body, !seed));
            frame.header.flags = Flags::from_bits(flags);
            frame
        },
    )
}

fn known(frames: &[Whole]) -> Vec<Whole> {
    frames.iter().filter(|frame| !frame.header.kind.is_unknown()).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn frames_cut_anywhere_are_the_same(
        frames in vec(any_frame(), 0..6),
        cuts in vec(any::<Index>(), 0..12),
        counted: bool,
    ) {
        let bytes = wire(&frames);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(read_cut(&bytes, &cuts, counted), known(&frames));
    }

    #[test]
    fn frames_read_directly_are_the_same(frames in vec(any_frame(), 0..6), step in 1_usize..70_000) {
        let bytes = wire(&frames);
        prop_assert_eq!(read_direct(&bytes, step).0, known(&frames));
    }

    #[test]
    fn any_bytes_hold_bounded_memory(pieces in vec(vec(any::<u8>(), 0..40), 0..30), max_head: u16, max_body: u32) {
        let limits = FrameLimits { max_head, max_body: max_body % 100_000 };
        let mut reader = FrameReader::new();
        let mut received = 0;
        for piece in &pieces {
            received += piece.len();
            let mut input = piece.as_slice();
            while let Ok(Some(frame)) = reader.next(&mut input, &limits) {
                prop_assert!(frame.head.len() <= limits.max_head.into());
                prop_assert!(frame.body.len() <= limits.max_body as usize);
            }
            // A body buffer of its own is the only thing reserved ahead of what came.
            let body = reader.direct().map_or(0, |(body, _)| body.capacity());
            prop_assert!(body <= limits.max_body as usize);
            prop_assert!(reader.held() <= 2 * received + body + 200, "{} for {received}", reader.held());
        }
    }
}
