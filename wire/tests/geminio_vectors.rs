//! Every packet of the transcripts through the codec: read, written again to the same bytes, cut at every place.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};

use frontier_wire::geminio::{
    connection::Role,
    data::{Content, Data, Object, append_tail},
    limits::PacketLimits,
    packet::{HEADER_LEN, PacketHeader, PacketType},
    reader::{Item, Packet, PacketReader},
    time::Time,
};
use transcript::{Line, Transcript};

#[path = "geminio/replay.rs"]
mod replay;
#[path = "geminio/sha256.rs"]
mod sha256;
#[path = "geminio/transcript.rs"]
mod transcript;

/// Reads one packet; raw bytes come back as their parts.
fn read(packet: &[u8]) -> Result<Vec<Item<&[u8]>>, String> {
    let mut reader = PacketReader::new();
    let mut input = packet;
    let mut items = Vec::new();
    while let Some(item) =
        reader.next(&mut input, &PacketLimits::default()).map_err(|error| error.to_string())?
    {
        items.push(item);
    }
    if reader.is_idle() { Ok(items) } else { Err("incomplete".to_owned()) }
}

/// The packet written from what was read of it, and whether its JSON was taken.
fn rewrite(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let header = PacketHeader::parse(bytes.first_chunk().unwrap());
    let mut out = Vec::new();
    match read(bytes)?.as_slice() {
        [] if header.kind.is_unknown() => return Err("unknown type".to_owned()),
        // No raw bytes at all.
        [] => header.put(&mut out, &bytes[HEADER_LEN..]),
        [Item::Packet(packet)] => header.put_with(&mut out, |out| {
            out.extend_from_slice(packet.fixed());
            match header.kind.fields() {
                Some(_) => data(packet).unwrap().object().put(out),
                None => out.extend_from_slice(&packet.rest),
            }
        }),
        [Item::Raw { session, bytes }] => header.put_with(&mut out, |out| {
            out.extend_from_slice(&session.to_be_bytes());
            out.extend_from_slice(bytes);
        }),
        [Item::TooLarge { .. }] => return Err("too large".to_owned()),
        [_, _, ..] => return Err("several".to_owned()),
    }
    Ok(out)
}

fn data<'a>(packet: &Packet<&'a [u8]>) -> Result<Data<&'a [u8]>, String> {
    let fields = packet.header.kind.fields().unwrap();
    Data::parse(packet.rest.clone(), fields).map_err(|error| error.to_string())
}

/// Whether the packet's JSON is refused.
fn refused(bytes: &[u8]) -> Option<String> {
    match read(bytes) {
        Err(error) => Some(error),
        Ok(items) => match items.as_slice() {
            [Item::Packet(packet)] if packet.header.kind.fields().is_some() => data(packet).err(),
            _ => None,
        },
    }
}

/// Scenarios in which a scripted peer sends what real ones refuse, or write otherwise.
const SCRIPTED: [&str; 6] = [
    "acks_with_content",
    "after_conn_oddities",
    "client_oddities",
    "g_json_variants",
    "h_connack_variants",
    "wrong_first_packet",
];
/// Scenarios with packets beyond the limit on bodies.
const OVERSIZE: [&str; 3] = ["oversize_full", "h_stream_oversize", "after_conn_oddities"];
/// Invalid UTF-8 is replaced by U+FFFD, which is an escape in Go's text and itself in ours.
const REPLACED: [&str; 1] = ["rpc_error"];

fn is_of(transcript: &Transcript, scenarios: &[&str]) -> bool {
    scenarios.iter().any(|scenario| transcript.name.ends_with(&format!("/{scenario}")))
}

#[test]
fn every_packet_is_read_and_written_to_the_same_bytes() {
    let (mut seen, mut rebuilt) = (0, 0);
    for transcript in transcript::all() {
        for line in &transcript.lines {
            let name = format!("{} {}", transcript.name, line.place());
            let packet = line.packet().unwrap_or_else(|| panic!("{name}: a cut packet is not rebuilt"));
            seen += 1;
            rebuilt += usize::from(line.cut.is_some());
            if let Some(error) = refused(&packet) {
                assert!(is_of(&transcript, &SCRIPTED), "{name}: {error}");
                continue;
            }
            match rewrite(&packet) {
                Ok(written) if written == packet => {}
                Ok(written) => {
                    // Written otherwise, meant the same.
                    assert!(is_of(&transcript, &SCRIPTED) || is_of(&transcript, &REPLACED), "{name}");
                    assert_eq!(rewrite(&written).unwrap(), written, "{name}");
                }
                Err(error) if error == "too large" => assert!(is_of(&transcript, &OVERSIZE), "{name}"),
                Err(error) => assert!(is_of(&transcript, &SCRIPTED), "{name}: {error}"),
            }
        }
    }
    assert_eq!((seen, rebuilt), (6_546, REBUILT));
}

/// All that are cut in the transcripts.
const REBUILT: usize = 188;

/// The packets of all transcripts, each form of them once.
fn forms() -> Vec<Vec<u8>> {
    let mut forms = BTreeMap::new();
    for transcript in transcript::all() {
        for line in transcript.lines.iter().filter(|line| line.cut.is_none() && line.bytes.len() < 1_000) {
            let kind = PacketType::from_wire(line.bytes[1]);
            let rest = line.bytes.get(HEADER_LEN + kind.fixed_len()..).unwrap_or_default();
            forms.entry((line.bytes[1], rest.to_vec())).or_insert_with(|| line.bytes.clone());
        }
    }
    forms.into_values().collect()
}

#[test]
fn a_packet_cut_anywhere_is_incomplete_until_its_last_byte() {
    for packet in forms().iter().filter(|packet| refused(packet).is_none()) {
        for end in 0..packet.len() {
            let mut reader = PacketReader::new();
            let mut input = &packet[..end];
            while let Some(item) = reader.next(&mut input, &PacketLimits::default()).unwrap() {
                assert!(matches!(item, Item::Raw { .. }));
            }
            let mut rest = &packet[end..];
            let last = reader.next(&mut rest, &PacketLimits::default()).unwrap();
            let kind = PacketType::from_wire(packet[1]);
            assert!(last.is_some() || kind.is_unknown() || packet.len() == HEADER_LEN + 8, "{}", kind.name());
        }
    }
}

/// The length in the header says that the body ends earlier than it does.
#[test]
fn a_body_cut_anywhere_is_read_or_refused() {
    for packet in forms() {
        for end in HEADER_LEN..packet.len() {
            let mut cut = packet[..end].to_vec();
            cut[10..HEADER_LEN].copy_from_slice(&((end - HEADER_LEN) as u32).to_be_bytes());
            let kind = PacketType::from_wire(cut[1]);
            let fixed = HEADER_LEN + kind.fixed_len();
            let whole_json = refused(&packet).is_none() && kind.fields().is_some();
            let error = refused(&cut);
            if end < fixed && !kind.is_unknown()
                || whole_json && packet[end..].iter().any(|b| !b.is_ascii_whitespace())
            {
                assert!(error.is_some(), "{} at {end}", kind.name());
            }
        }
    }
}

/// What the document of the protocol shows as examples, written by us.
#[test]
fn known_packets_are_written() {
    let hex = |packet: &[u8]| packet.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let written = |kind, id, fixed: &[u8], object: &Object<'_>| {
        let mut out = Vec::new();
        PacketHeader::new(kind, id).put_with(&mut out, |out| {
            out.extend_from_slice(fixed);
            object.put(out);
        });
        hex(&out)
    };
    let id = 0x66a1_b2c3_0000_0005;
    let conn = Object { meta: Content::Plain(b"hi"), ..Object::default() };
    assert_eq!(
        written(PacketType::Conn, id, &[0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0], &conn),
        "010166a1b2c30000000500000019180000000000000000007b226d657461223a2261476b3d227d"
    );
    let refusal = Object { error: "no", ..Object::default() };
    assert_eq!(
        written(PacketType::ConnAck, id, &[1, 0, 0, 0, 0, 0, 0, 0, 0], &refusal),
        "010266a1b2c300000005000000170100000000000000007b226572726f72223a226e6f227d"
    );
    let tail = append_tail(b"", 42);
    let message = Object {
        value: Content::Plain(b"abc"),
        topic: "t",
        custom: Content::Plain(&tail),
        ..Object::default()
    };
    assert_eq!(
        written(PacketType::Message, 3, &1_u64.to_be_bytes(), &message),
        "015100000000000000030000003c00000000000000017b2276616c7565223a2259574a6a222c22746f706963223a2274222c\
         22637573746f6d223a22414141414141414141436f3d227d"
    );
    let ack = Object { deadline: Some(Time::ZERO), context: Some(Time::ZERO), ..Object::default() };
    assert_eq!(
        written(PacketType::MessageAck, 0x66a1_b2c3_0000_0011, &1_u64.to_be_bytes(), &ack),
        "015266a1b2c3000000110000005900000000000000017b22646561646c696e65223a22303030312d30312d30315430303a30\
         303a30305a222c22636f6e74657874223a7b22646561646c696e65223a22303030312d30312d30315430303a30303a30305a\
         227d7d"
    );
}

/// The packets of each connection of a transcript.
fn connections(transcript: &Transcript) -> Vec<Vec<&Line>> {
    let mut connections = Vec::<Vec<&Line>>::new();
    let legs: BTreeSet<&str> = transcript.lines.iter().map(|line| line.leg.as_str()).collect();
    for leg in legs {
        connections.push(Vec::new());
        for line in transcript.lines.iter().filter(|line| line.leg == leg) {
            let begins = line.from_client && line.bytes[1] == PacketType::Conn.to_wire();
            // Only there does somebody say Conn twice on one connection.
            if begins && !is_of(transcript, &["after_conn_oddities"]) {
                connections.push(Vec::new());
            }
            connections.last_mut().unwrap().push(line);
        }
    }
    connections.retain(|lines| !lines.is_empty());
    connections
}

#[test]
fn our_side_of_every_transcript_keeps_to_the_rules() {
    let (mut taken, mut sent, mut done) = (0, 0, 0);
    for transcript in transcript::all() {
        for (lines, role) in
            connections(&transcript).into_iter().flat_map(|c| [(c.clone(), Role::Server), (c, Role::Client)])
        {
            let place = format!("{} {} as {role:?}", transcript.name, lines[0].place());
            // Shown only when a rule is broken.
            println!("{place}");
            let outcome = replay::replay(role, lines.into_iter());
            let faulty = outcome.fault.is_some();
            assert!(!faulty || is_of(&transcript, &SCRIPTED), "{place}: {:?}", outcome.fault);
            assert_eq!(outcome.missing, [], "{place}");
            taken += outcome.taken;
            sent += outcome.sent;
            done += outcome.done;
        }
    }
    // Nearly everything that was recorded happens again.
    assert!(taken > 6_300 && sent > 5_800 && done > 3_600, "{taken} taken, {sent} sent, {done} done");
}
