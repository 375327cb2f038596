use proptest::prelude::*;

use super::*;

/// The table of section 3 says `| 0a | Publish | …`.
fn documented_types() -> Vec<(u8, String)> {
    let document = include_str!("../../../../docs/protocol.md");
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (number, name) = (cells.next()?, cells.next()?);
        // Four cells tell the table of types from the one of flags.
        (cells.count() == 4).then_some(())?;
        Some((u8::from_str_radix(number, 16).ok()?, name.to_lowercase()))
    });
    rows.collect()
}

#[test]
fn types_are_those_of_the_document() {
    let ours: Vec<(u8, String)> =
        FrameType::ALL.iter().map(|kind| (kind.to_wire(), kind.name().replace('_', ""))).collect();
    assert_eq!(documented_types(), ours);
}

#[test]
fn every_byte_is_a_type_and_keeps_its_number() {
    for number in 0..=u8::MAX {
        let kind = FrameType::from_wire(number);
        assert_eq!(kind.to_wire(), number);
        assert_eq!(kind.is_unknown(), !FrameType::ALL.contains(&kind));
    }
}

#[test]
fn every_known_type_travels_somewhere_and_unknown_ones_nowhere() {
    for kind in FrameType::ALL {
        assert!(kind.travels_on_session() || kind.travels_on_stream(), "{kind:?}");
    }
    let both: Vec<FrameType> = FrameType::ALL
        .into_iter()
        .filter(|kind| kind.travels_on_session() && kind.travels_on_stream())
        .collect();
    let operations = [
        FrameType::Ack,
        FrameType::Publish,
        FrameType::Request,
        FrameType::Response,
        FrameType::Credit,
        FrameType::Cancel,
    ];
    assert_eq!(both, operations);
    let unknown = FrameType::Unknown(0x7f);
    assert!(!unknown.travels_on_session() && !unknown.travels_on_stream());
}

#[test]
fn flags_combine_and_keep_unknown_bits() {
    let flags = Flags::MORE | Flags::from_bits(0x80);
    assert!(flags.more() && !flags.abort() && !flags.reply());
    assert_eq!(flags.bits(), 0x81);
    let mut flags = Flags::NONE;
    flags |= Flags::ABORT;
    flags |= Flags::REPLY;
    assert!(flags.abort() && flags.reply() && !flags.more());
    assert!(!flags.contains(Flags::MORE | Flags::ABORT));
}

#[test]
fn lengths_are_checked_at_the_border() {
    let header = FrameHeader::new(FrameType::Request, 1);
    let full = header.with_lens(65_535, 65_536).unwrap();
    assert_eq!((full.head_len, full.body_len), (65_535, 65_536));
    assert_eq!(full.frame_len(), 16 + 65_535 + 65_536);
    assert_eq!(header.with_lens(65_536, 0), Err(EncodeError::HeadTooLong { len: 65_536 }));
    assert_eq!(header.with_lens(0, 65_537), Err(EncodeError::BodyTooLong { len: 65_537 }));
}

#[test]
fn frame_that_does_not_fit_is_not_begun() {
    let mut out = Vec::new();
    let header = FrameHeader::new(FrameType::Request, 1);
    assert!(header.put_frame(&mut out, &[0; 65_536], &[]).is_err());
    assert!(header.put_frame(&mut out, &[], &[0; 65_537]).is_err());
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn any_header_survives_the_wire(kind: u8, flags: u8, head_len: u16, body_len: u32, id: u64) {
        let kind = FrameType::from_wire(kind);
        let header = FrameHeader { kind, flags: Flags::from_bits(flags), head_len, body_len, id };
        prop_assert_eq!(FrameHeader::parse(&header.encode()), header);
    }

    #[test]
    fn any_sixteen_bytes_are_a_header(bytes: [u8; 16]) {
        prop_assert_eq!(FrameHeader::parse(&bytes).encode(), bytes);
    }
}
