//! The properties of a message that came from a broker: what an edge learns of them, and what a dead letter keeps.

use bytes::{BufMut, Bytes};

use super::frame::{Reader, Writer};
use crate::MessageId;

/// The properties of a content. A dead letter has all of them but its own message ID, `user-id`, which a broker checks against who
/// publishes, and `expiration`, by which it would go again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    content_type: String,
    content_encoding: String,
    /// The fields of the header table as they came, but `CC` and `BCC`, by which a broker makes copies.
    table: Vec<u8>,
    priority: u8,
    correlation_id: String,
    reply_to: String,
    pub(crate) message_id: String,
    timestamp: u64,
    kind: String,
    app_id: String,
}

/// What else a header table says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) properties: Properties,
    /// Fields of the table that are text or numbers, and the properties that have a name among ours.
    pub(super) headers: Vec<(String, Bytes)>,
    /// How often a quorum queue has given it out before.
    pub(super) delivered: Option<u32>,
}

// === impl Properties ===

impl Properties {
    /// Bytes that they take.
    pub(crate) fn len(&self) -> usize {
        let texts = [&self.content_type, &self.content_encoding, &self.correlation_id, &self.reply_to];
        let more = [&self.message_id, &self.kind, &self.app_id];
        texts.iter().chain(&more).map(|text| text.len()).sum::<usize>() + self.table.len() + 128
    }

    /// Writes those of a dead letter with further headers. The property `message-id` is ours, by which a message that the broker
    /// returns is known again; the one that was there becomes a header.
    pub(super) fn encode(&self, id: MessageId, more: &[(String, Bytes)]) -> Vec<u8> {
        let mut table = Writer::default();
        table.raw(&self.table);
        if !self.message_id.is_empty() && !self.has("message-id") {
            table.short("message-id");
            table.u8(b'S');
            table.long(self.message_id.as_bytes());
        }
        for (name, value) in more {
            table.short(name);
            table.u8(b'S');
            table.long(value);
        }
        let (mut flags, mut values) = (0_u16, Writer::default());
        let text = |bit: u16, text: &str, flags: &mut u16, values: &mut Writer| {
            if !text.is_empty() {
                *flags |= 1 << bit;
                values.short(text);
            }
        };
        text(15, &self.content_type, &mut flags, &mut values);
        text(14, &self.content_encoding, &mut flags, &mut values);
        flags |= 1 << 13;
        values.long(&table.into_bytes());
        // What is to be looked at later must outlive a restart.
        flags |= 1 << 12;
        values.u8(2);
        if self.priority != 0 {
            flags |= 1 << 11;
            values.u8(self.priority);
        }
        text(10, &self.correlation_id, &mut flags, &mut values);
        text(9, &self.reply_to, &mut flags, &mut values);
        text(7, &id.to_string(), &mut flags, &mut values);
        if self.timestamp != 0 {
            flags |= 1 << 6;
            values.u64(self.timestamp);
        }
        text(5, &self.kind, &mut flags, &mut values);
        text(3, &self.app_id, &mut flags, &mut values);
        let mut all = Vec::with_capacity(256);
        all.put_u16(flags);
        all.extend_from_slice(&values.into_bytes());
        all
    }

    fn has(&self, name: &str) -> bool {
        let mut fields = Reader(&self.table);
        while let Some((other, _)) = field(&mut fields) {
            if other == name {
                return true;
            }
        }
        false
    }
}

/// The header of a content.
pub(super) fn head(payload: &[u8]) -> Option<Head> {
    let mut reader = Reader(payload);
    reader.u32()?;
    let mut head = Head { size: reader.u64()?, ..Head::default() };
    let flags = reader.u16()?;
    let has = |bit: u16| flags & 1 << bit != 0;
    let short =
        |bit: u16, reader: &mut Reader<'_>| if has(bit) { reader.short() } else { Some(String::new()) };
    let properties = &mut head.properties;
    properties.content_type = short(15, &mut reader)?;
    properties.content_encoding = short(14, &mut reader)?;
    if has(13) {
        let mut fields = Reader(reader.long()?);
        while !fields.0.is_empty() {
            let before = fields.0;
            let (name, value) = field(&mut fields)?;
            if name == "x-delivery-count"
                && let Value::Text(text) = &value
            {
                head.delivered = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            }
            if !matches!(name.as_str(), "CC" | "BCC" | "x-death" | "x-delivery-count") && !is_epitaph(&name) {
                properties.table.extend_from_slice(&before[..before.len() - fields.0.len()]);
                if let Value::Text(text) = value {
                    head.headers.push((name, text));
                }
            }
        }
    }
    if has(12) {
        reader.u8()?;
    }
    properties.priority = if has(11) { reader.u8()? } else { 0 };
    properties.correlation_id = short(10, &mut reader)?;
    properties.reply_to = short(9, &mut reader)?;
    short(8, &mut reader)?;
    properties.message_id = short(7, &mut reader)?;
    properties.timestamp = if has(6) { reader.u64()? } else { 0 };
    properties.kind = short(5, &mut reader)?;
    short(4, &mut reader)?;
    properties.app_id = short(3, &mut reader)?;
    let named = [("content-type", &properties.content_type), ("message-id", &properties.message_id)];
    for (name, value) in named {
        if !value.is_empty() && !head.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            head.headers.push((name.to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        }
    }
    Some(head)
}

fn is_epitaph(name: &str) -> bool {
    name.starts_with("dead-letter-")
}

/// The value of a field.
enum Value {
    /// Text, or a number in decimal.
    Text(Bytes),
    /// Something that no header of ours is.
    Other,
}

/// The next field of a table.
fn field(reader: &mut Reader<'_>) -> Option<(String, Value)> {
    let name = reader.short()?;
    let number = |number: i64| Some(Value::Text(Bytes::from(number.to_string())));
    let value = match reader.u8()? {
        b't' => Some(Value::Text(Bytes::from_static(if reader.u8()? == 0 { b"false" } else { b"true" }))),
        b'b' => number((reader.u8()?.cast_signed()).into()),
        b'B' => number(reader.u8()?.into()),
        b'U' | b's' => number((reader.u16()?.cast_signed()).into()),
        b'u' => number(reader.u16()?.into()),
        b'I' => number((reader.u32()?.cast_signed()).into()),
        b'i' => number(reader.u32()?.into()),
        b'L' | b'l' => number(reader.u64()?.cast_signed()),
        b'S' | b'x' => Some(Value::Text(Bytes::copy_from_slice(reader.long()?))),
        b'T' | b'd' => reader.u64().map(|_| Value::Other),
        b'f' => reader.u32().map(|_| Value::Other),
        b'D' => {
            reader.u8()?;
            reader.u32().map(|_| Value::Other)
        }
        b'A' | b'F' => reader.long().map(|_| Value::Other),
        b'V' => Some(Value::Other),
        _ => None,
    };
    Some((name, value?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(table: &[u8], size: u64) -> Vec<u8> {
        let mut head = Writer::default();
        head.u32(60 << 16);
        head.u64(size);
        head.u16(1 << 15 | 1 << 13 | 1 << 8 | 1 << 7 | 1 << 4);
        head.short("text/plain");
        head.long(table);
        for text in ["60000", "original", "gw"] {
            head.short(text);
        }
        head.into_bytes()
    }

    #[test]
    fn a_dead_letter_keeps_what_it_may() {
        let mut table = Writer::default();
        table.short("edge-id");
        table.u8(b'l');
        table.u64(7);
        table.short("CC");
        table.u8(b'A');
        table.long(b"S\0\0\0\x01q");
        table.short("unit");
        table.u8(b'S');
        table.long(b"C");
        table.short("x-delivery-count");
        table.u8(b'l');
        table.u64(3);
        let head = head(&payload(&table.into_bytes(), 5)).unwrap();
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let expected =
            [("edge-id", "7"), ("unit", "C"), ("content-type", "text/plain"), ("message-id", "original")];
        assert_eq!(head.headers, expected.map(|(name, value)| (name.to_owned(), text(value))));
        assert_eq!((head.size, head.delivered), (5, Some(3)));
        let id = MessageId::from_random(9);
        let reason = ("dead-letter-reason".to_owned(), text("no topic"));
        let mut encoded = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        encoded.extend(head.properties.encode(id, &[reason]));
        let again = super::head(&encoded).unwrap();
        assert_eq!(again.properties.message_id, id.to_string());
        assert!(again.headers.contains(&("message-id".to_owned(), text("original"))));
        assert!(!again.properties.has("CC") && again.properties.has("unit"), "no copies are made of it");
        let flags = u16::from_be_bytes([encoded[12], encoded[13]]);
        assert_eq!(flags & (1 << 8 | 1 << 4), 0, "neither expiration nor user-id");
    }

    #[test]
    fn hostile_heads_are_none() {
        for table in [&b"\x05edge"[..], b"\x01a?", b"\x01aS\xff\xff\xff\xff", b"\x01al\0"] {
            assert_eq!(head(&payload(table, 1)), None, "{table:?}");
        }
        let whole = payload(b"\x01at\x01", 1);
        for cut in 0..whole.len() {
            assert_eq!(head(&whole[..cut]), None, "{cut}");
        }
    }
}
