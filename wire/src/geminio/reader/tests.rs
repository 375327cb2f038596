use proptest::{collection::vec, prelude::*};

use super::*;
use crate::geminio::packet::{MAX_BODY, VERSION};

const LIMITS: PacketLimits = PacketLimits { body: 70_000, control: 200, name: 20 };

/// What an item says, owned. Raw bytes of one session that follow each other are one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Packet(PacketHeader, Vec<u8>, Vec<u8>),
    Raw(u64, Vec<u8>),
    TooLarge(PacketHeader, u64),
}

fn note<B: Chunk>(seen: &mut Vec<Seen>, item: Item<B>) {
    match item {
        Item::Packet(packet) => {
            seen.push(Seen::Packet(packet.header, packet.fixed().to_vec(), packet.rest.to_vec()));
        }
        Item::Raw { session, bytes } => {
            assert!(!bytes.is_empty());
            match seen.last_mut() {
                Some(Seen::Raw(last, all)) if *last == session => all.extend(&*bytes),
                _ => seen.push(Seen::Raw(session, bytes.to_vec())),
            }
        }
        Item::TooLarge { header, session } => seen.push(Seen::TooLarge(header, session)),
    }
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketHeader::new(PacketType::from_wire(kind), 7).put(&mut out, body);
    out
}

fn drain<B: Chunk>(reader: &mut PacketReader, mut input: B, seen: &mut Vec<Seen>) -> Result<(), PacketError> {
    while let Some(item) = reader.next(&mut input, &LIMITS)? {
        note(seen, item);
    }
    assert!(input.is_empty());
    Ok(())
}

fn read(stream: &[u8]) -> Result<Vec<Seen>, PacketError> {
    let mut seen = Vec::new();
    let mut reader = PacketReader::new();
    drain(&mut reader, stream, &mut seen)?;
    assert!(reader.is_idle());
    assert_eq!(reader.held(), 0);
    Ok(seen)
}

fn session_body(session: u64, rest: &[u8]) -> Vec<u8> {
    [&session.to_be_bytes()[..], rest].concat()
}

#[test]
fn an_idle_reader_is_one_pointer() {
    assert_eq!(size_of::<PacketReader>(), 8);
}

#[test]
fn whole_packets_are_pieces_of_the_input() {
    let stream = Bytes::from([packet(0x71, &session_body(1, b"{}")), packet(0x21, b"")].concat());
    let mut input = stream.clone();
    let mut reader = PacketReader::new();
    let Ok(Some(Item::Packet(first))) = reader.next(&mut input, &LIMITS) else { panic!("a packet") };
    let Piece::Input(rest) = first.rest else { panic!("a piece of the input") };
    assert_eq!(rest.as_ptr(), stream[22..].as_ptr());
    assert!(matches!(reader.next(&mut input, &LIMITS), Ok(Some(Item::Packet(_)))));
    assert!(matches!(reader.next(&mut input, &LIMITS), Ok(None)));
}

#[test]
fn limits_hold_at_their_border() {
    let body = |len: usize| session_body(3, &vec![b'x'; len - 8]);
    assert!(matches!(read(&packet(0x71, &body(70_000))).unwrap()[..], [Seen::Packet(..)]));
    for kind in [0x51, 0x52, 0x71, 0x72] {
        let long = packet(kind, &body(70_001));
        let header = PacketHeader::new(PacketType::from_wire(kind), 7).with_body(70_001);
        let stream = [long, packet(0x21, b"")].concat();
        let heartbeat = Seen::Packet(PacketHeader::new(PacketType::Heartbeat, 7), vec![], vec![]);
        assert_eq!(read(&stream).unwrap(), [Seen::TooLarge(header, 3), heartbeat]);
    }
    for (kind, max) in [(0x01, 200), (0x31, 200), (0x41, 200), (0x42, 200), (0x81, 28), (0x99, 200)] {
        assert!(read(&packet(kind, &vec![b'x'; max])).is_ok());
        let kind = PacketType::from_wire(kind);
        let len = max as u32 + 1;
        let error = PacketError::TooLong { kind, len, max: max as u32 };
        assert_eq!(read(&packet(kind.to_wire(), &vec![b'x'; max + 1])), Err(error));
    }
}

#[test]
fn bodies_shorter_than_their_fixed_part_are_refused() {
    for kind in PacketType::ALL {
        let fixed = kind.fixed_len();
        assert!(read(&packet(kind.to_wire(), &vec![0; fixed])).is_ok(), "{}", kind.name());
        if fixed > 0 {
            let error = PacketError::TooShort { kind, len: fixed as u32 - 1 };
            assert_eq!(read(&packet(kind.to_wire(), &vec![0; fixed - 1])), Err(error));
        } else {
            let error = PacketError::TooLong { kind, len: 1, max: 0 };
            assert_eq!(read(&packet(kind.to_wire(), b"x")), Err(error));
        }
    }
}

#[test]
fn every_type_is_read_or_skipped() {
    for byte in 0..=u8::MAX {
        let kind = PacketType::from_wire(byte);
        let body = if kind.is_bare() { vec![] } else { vec![b'x'; 25] };
        let seen = read(&packet(byte, &body)).unwrap();
        match kind {
            PacketType::Unknown(_) => assert_eq!(seen, []),
            PacketType::Stream => assert_eq!(seen, [Seen::Raw(0x7878_7878_7878_7878, vec![b'x'; 17])]),
            _ => assert!(matches!(seen[..], [Seen::Packet(..)])),
        }
    }
}

#[test]
fn version_and_empty_streams_are_of_no_interest() {
    let mut odd = packet(0x21, b"");
    odd[0] = VERSION + 8;
    assert_eq!(read(&odd).unwrap().len(), 1);
    assert_eq!(read(&packet(0x61, &session_body(4, b""))).unwrap(), []);
}

#[test]
fn a_lying_length_reserves_little() {
    let limits = PacketLimits::default();
    let mut reader = PacketReader::new();
    let header = PacketHeader::new(PacketType::Request, 7).with_body(MAX_BODY as usize).encode();
    let stream = [&header[..], &session_body(1, b"{")].concat();
    let mut input = &stream[..];
    assert!(matches!(reader.next(&mut input, &limits), Ok(None)));
    assert!(reader.held() <= RESERVED + 200, "{}", reader.held());
    assert!(reader.direct_want() <= RESERVED);
    // A stream of 4 GiB holds nothing at all.
    let mut reader = PacketReader::new();
    let header = PacketHeader::new(PacketType::Stream, 7).with_body(u32::MAX as usize).encode();
    let stream = [&header[..], &session_body(1, b"raw")].concat();
    let mut input = &stream[..];
    assert!(matches!(reader.next(&mut input, &limits), Ok(Some(Item::Raw { session: 1, .. }))));
    assert!(matches!(reader.next(&mut input, &limits), Ok(None)));
    assert!(reader.held() <= size_of::<Partial>());
}

#[test]
fn a_failed_reader_stays_failed() {
    let mut reader = PacketReader::new();
    let stream = packet(0x01, &[0; 201]);
    let (mut first, mut rest) = stream.split_at(5);
    assert!(matches!(reader.next(&mut first, &LIMITS), Ok(None)));
    for _ in 0..2 {
        assert!(reader.next(&mut rest, &LIMITS).is_err());
    }
}

#[test]
fn big_bodies_are_read_directly() {
    let body = session_body(1, &(0..60_000).map(|i| i as u8).collect::<Vec<_>>());
    for kind in [0x71, 0x61] {
        let stream = packet(kind, &body);
        let mut reader = PacketReader::new();
        let mut seen = Vec::new();
        drain(&mut reader, &stream[..30], &mut seen).unwrap();
        let mut rest = &stream[30..];
        while !rest.is_empty() {
            let want = reader.direct_want().min(20_000);
            let (piece, after) = rest.split_at(want.max(1).min(rest.len()));
            rest = after;
            if want == 0 {
                drain(&mut reader, piece, &mut seen).unwrap();
                continue;
            }
            let buffer = reader.direct_buffer().unwrap();
            assert!(buffer.capacity() - buffer.len() >= want);
            buffer.extend_from_slice(piece);
            if let Some(item) = reader.finish_direct::<&[u8]>() {
                note(&mut seen, item);
            }
        }
        assert_eq!(seen, read(&stream).unwrap());
        assert!(reader.is_idle());
    }
}

/// Packets of any type, most of them known, with bodies near their limits now and then.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        8 => (0..PacketType::ALL.len()).prop_map(|i| PacketType::ALL[i].to_wire()),
        1 => any::<u8>(),
    ];
    let len = prop_oneof![8 => 0_usize..60, 1 => 16_370_usize..16_410, 1 => 69_990_usize..70_020];
    let one = (kind, len, any::<u8>()).prop_map(|(kind, len, byte)| {
        let known = PacketType::from_wire(kind);
        let fixed = known.fixed_len();
        let len = if known.is_bare() { 0 } else { fixed + len };
        let len = if matches!(kind, 0x51 | 0x61 | 0x71 | 0x72) { len } else { len.min(fixed + 10) };
        packet(kind, &vec![byte; len])
    });
    vec(one, 0..8).prop_map(|packets| packets.concat())
}

proptest! {
    #[test]
    fn packets_are_the_same_wherever_the_input_is_cut(
        stream in packets(),
        cuts in vec(1_usize..20_000, 1..40),
        counted: bool,
    ) {
        let whole = read(&stream).unwrap();
        let mut reader = PacketReader::new();
        let mut seen = Vec::new();
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            rest = after;
            if counted {
                drain(&mut reader, Bytes::copy_from_slice(piece), &mut seen).unwrap();
            } else {
                drain(&mut reader, piece, &mut seen).unwrap();
            }
        }
        prop_assert!(reader.is_idle());
        prop_assert_eq!(seen, whole);
    }

    #[test]
    fn any_bytes_are_read_or_refused(stream in vec(any::<u8>(), 0..200), cut in 1_usize..50) {
        let mut reader = PacketReader::new();
        let mut seen = Vec::new();
        for piece in stream.chunks(cut) {
            if drain(&mut reader, piece, &mut seen).is_err() {
                break;
            }
            prop_assert!(reader.held() <= 2 * RESERVED);
        }
    }
}
