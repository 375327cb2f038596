//! The format of `testdata/native-v1.txt`; the file describes it.

use frontier_wire::native::frame::{Flags, FrameHeader, FrameType};
use prost_reflect::{DescriptorPool, DynamicMessage, prost::Message as _};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Encode,
    Decode,
    Skip,
    Refuse,
}

/// A message in protobuf text format.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct Vector {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// Type, flags and id; the lengths are in the bytes.
    pub(crate) header: FrameHeader,
    pub(crate) head: Option<Message>,
    pub(crate) page: Option<Message>,
    pub(crate) error: Option<String>,
    pub(crate) bytes: Vec<u8>,
}

// === impl Message ===

impl Message {
    pub(crate) fn parse(text: &str) -> Self {
        let (name, rest) = text.split_once(" {").expect("NAME { FIELDS }");
        let fields = rest.strip_suffix('}').expect("NAME { FIELDS }");
        Self { name: name.to_owned(), text: fields.to_owned() }
    }

    /// What protobuf makes of it, without any code of ours.
    pub(crate) fn encode(&self, pool: &DescriptorPool) -> Vec<u8> {
        let name = format!("frontier.native.v1.{}", self.name);
        let descriptor = pool.get_message_by_name(&name).unwrap_or_else(|| panic!("no message {name}"));
        let message = DynamicMessage::parse_text_format(descriptor, &self.text)
            .unwrap_or_else(|error| panic!("{}: {error}", self.text));
        message.encode_to_vec()
    }
}

pub(crate) fn parse_all(file: &str) -> Vec<Vector> {
    let lines: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.is_empty())
        .filter_map(|block| block.split_first())
        .map(|(title, values)| parse(title, values))
        .collect()
}

fn parse(title: &str, values: &[&str]) -> Vector {
    let (kind, name) = title.split_once(' ').expect("KIND NAME");
    let kind = match kind {
        "encode" => Kind::Encode,
        "decode" => Kind::Decode,
        "skip" => Kind::Skip,
        "refuse" => Kind::Refuse,
        _ => panic!("unknown kind in {title}"),
    };
    let header = FrameHeader::new(FrameType::Unknown(0), 0);
    let (name, bytes) = (name.to_owned(), Vec::new());
    let mut vector = Vector { kind, name, header, head: None, page: None, error: None, bytes };
    for line in values {
        let (key, value) = line.trim_start().split_once(' ').expect("KEY VALUE");
        set(&mut vector, key, value.trim_start());
    }
    assert!(vector.bytes.len() >= 16, "{title} has no header");
    vector
}

fn set(vector: &mut Vector, key: &str, value: &str) {
    let hex = || u8::from_str_radix(value, 16).expect("hex");
    match key {
        "type" => vector.header.kind = FrameType::from_wire(hex()),
        "flags" => vector.header.flags = Flags::from_bits(hex()),
        "id" => vector.header.id = value.parse().expect("decimal"),
        "head" => vector.head = Some(Message::parse(value)),
        "page" => vector.page = Some(Message::parse(value)),
        "error" => vector.error = Some(value.to_owned()),
        "bytes" => vector.bytes.extend(unhex(value)),
        _ => panic!("unknown key {key} in {}", vector.name),
    }
}

/// Bytes in hex, two digits each, with single spaces between.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    text.split(' ')
        .map(|byte| {
            assert_eq!(byte.len(), 2, "not a byte: {byte}");
            u8::from_str_radix(byte, 16).expect("hex")
        })
        .collect()
}
