//! The golden vectors in `testdata/native-v1.txt` hold for our readers, our writers and for protobuf itself, and the session in
//! `docs/protocol.md` is what its bytes say.

#![cfg(test)]

#[path = "native_golden/document.rs"]
mod document;
#[path = "native_golden/rewrite.rs"]
mod rewrite;
#[path = "native_golden/vector.rs"]
mod vector;

use std::collections::HashSet;

use frontier_wire::native::{
    frame::FrameType,
    head::CallHead,
    hello::Hello,
    limits::{FrameLimits, HelloLimits},
    reader::FrameReader,
};
use prost_reflect::DescriptorPool;

use self::{
    rewrite::rewrite,
    vector::{Kind, Vector},
};

fn vectors() -> Vec<Vector> {
    vector::parse_all(include_str!("../testdata/native-v1.txt"))
}

fn of_kind(kinds: &[Kind]) -> Vec<Vector> {
    let vectors: Vec<Vector> = vectors().into_iter().filter(|vector| kinds.contains(&vector.kind)).collect();
    assert!(!vectors.is_empty());
    vectors
}

fn pool() -> DescriptorPool {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let descriptors =
        protox::compile([format!("{proto}/native.proto")], [proto]).expect("the proto compiles");
    DescriptorPool::from_file_descriptor_set(descriptors).expect("descriptors are whole")
}

#[test]
fn names_are_unique_and_every_type_has_a_vector() {
    let (mut names, mut types) = (HashSet::new(), HashSet::new());
    for vector in vectors() {
        assert!(names.insert(vector.name.clone()), "{} occurs twice", vector.name);
        types.insert(vector.header.kind);
    }
    for kind in FrameType::ALL {
        assert!(types.contains(&kind), "no vector of type {}", kind.name());
    }
}

#[test]
fn reader_finds_the_frames_and_our_readers_their_values() {
    let pool = pool();
    for vector in of_kind(&[Kind::Encode, Kind::Decode]) {
        let name = &vector.name;
        let mut input = vector.bytes.as_slice();
        let frame = FrameReader::new().next(&mut input, &FrameLimits::GATEWAY).unwrap().expect(name);
        assert!(input.is_empty(), "{name} has bytes behind the frame");
        assert_eq!(
            (frame.header.kind, frame.header.flags),
            (vector.header.kind, vector.header.flags),
            "{name}"
        );
        assert_eq!(frame.header.id, vector.header.id, "{name}");
        // What our reader finds, written by our writer, is what protobuf makes of the values in the file.
        for (text, bytes) in [(&vector.head, &*frame.head), (&vector.page, &*frame.body)] {
            if let Some(message) = text {
                let expected = message.encode(&pool);
                assert_eq!(rewrite(&message.name, bytes), expected, "{name}: {}", message.text);
            }
        }
        assert!(vector.head.is_some() || frame.head.is_empty(), "{name} does not say what its head means");
    }
}

#[test]
fn our_writers_give_the_bytes() {
    for vector in of_kind(&[Kind::Encode]) {
        let name = &vector.name;
        let mut input = vector.bytes.as_slice();
        let frame = FrameReader::new().next(&mut input, &FrameLimits::GATEWAY).unwrap().expect(name);
        let again = |message: &Option<vector::Message>, bytes: &[u8]| match message {
            Some(message) => rewrite(&message.name, bytes),
            None => bytes.to_vec(),
        };
        let (head, body) = (again(&vector.head, &frame.head), again(&vector.page, &frame.body));
        let mut bytes = Vec::new();
        vector.header.put_frame(&mut bytes, &head, &body).expect(name);
        assert_eq!(bytes, vector.bytes, "{name}");
    }
}

#[test]
fn decode_only_vectors_would_be_written_differently() {
    let pool = pool();
    for vector in of_kind(&[Kind::Decode]) {
        let name = &vector.name;
        let frame = FrameReader::new().next(&mut vector.bytes.as_slice(), &FrameLimits::GATEWAY).unwrap();
        let written = vector.head.expect(name).encode(&pool);
        assert_ne!(&*frame.expect(name).head, written, "{name} could be an `encode` vector");
    }
}

#[test]
fn unknown_types_are_skipped() {
    for vector in of_kind(&[Kind::Skip]) {
        let ping = vectors().into_iter().find(|vector| vector.name == "ping").expect("a vector named ping");
        let bytes = [vector.bytes, ping.bytes].concat();
        let frame = FrameReader::new().next(&mut bytes.as_slice(), &FrameLimits::GATEWAY).unwrap();
        assert_eq!(frame.expect("the ping").header.kind, FrameType::Ping, "{}", vector.name);
    }
}

#[test]
fn refused_vectors_are_refused_for_the_reason_given() {
    for vector in of_kind(&[Kind::Refuse]) {
        let mut input = vector.bytes.as_slice();
        let read = FrameReader::new().next(&mut input, &FrameLimits::GATEWAY);
        let refused = match read {
            Err(error) => format!("frame {}", error.kind()),
            Ok(None) => panic!("{} is not whole", vector.name),
            Ok(Some(frame)) if frame.header.kind == FrameType::Hello => {
                let error = Hello::decode(&frame.head, &HelloLimits::default()).expect_err(&vector.name);
                format!("hello {}", error.kind())
            }
            Ok(Some(frame)) => {
                let error = CallHead::parse(&frame.head).expect_err(&vector.name);
                format!("call {}", error.kind())
            }
        };
        assert_eq!(Some(refused), vector.error, "{}", vector.name);
    }
}
