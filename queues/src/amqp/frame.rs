//! Frames of AMQP 0-9-1 and the few values in them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::MessageId;

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;
/// Bytes of a frame beside its payload.
pub(super) const OVERHEAD: usize = 8;

const END: u8 = 0xce;

/// A method: its class and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method(u16, u16);

/// A frame of the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) payload: Bytes,
}

/// Values written one after the other.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

/// Values read one after the other; `None` where there are too few bytes.
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

// === impl Method ===

impl Method {
    pub(super) const CONNECTION_START: Self = Self(10, 10);
    pub(super) const CONNECTION_START_OK: Self = Self(10, 11);
    pub(super) const CONNECTION_TUNE: Self = Self(10, 30);
    pub(super) const CONNECTION_TUNE_OK: Self = Self(10, 31);
    pub(super) const CONNECTION_OPEN: Self = Self(10, 40);
    pub(super) const CONNECTION_OPEN_OK: Self = Self(10, 41);
    pub(super) const CONNECTION_CLOSE: Self = Self(10, 50);
    pub(super) const CONNECTION_BLOCKED: Self = Self(10, 60);
    pub(super) const CONNECTION_UNBLOCKED: Self = Self(10, 61);
    pub(super) const CHANNEL_OPEN: Self = Self(20, 10);
    pub(super) const CHANNEL_OPEN_OK: Self = Self(20, 11);
    pub(super) const CHANNEL_CLOSE: Self = Self(20, 40);
    pub(super) const EXCHANGE_DECLARE: Self = Self(40, 10);
    pub(super) const EXCHANGE_DECLARE_OK: Self = Self(40, 11);
    pub(super) const QUEUE_DECLARE: Self = Self(50, 10);
    pub(super) const QUEUE_DECLARE_OK: Self = Self(50, 11);
    pub(super) const QUEUE_BIND: Self = Self(50, 20);
    pub(super) const QUEUE_BIND_OK: Self = Self(50, 21);
    pub(super) const BASIC_QOS: Self = Self(60, 10);
    pub(super) const BASIC_QOS_OK: Self = Self(60, 11);
    pub(super) const BASIC_CONSUME: Self = Self(60, 20);
    pub(super) const BASIC_CONSUME_OK: Self = Self(60, 21);
    pub(super) const BASIC_CANCEL: Self = Self(60, 30);
    pub(super) const BASIC_DELIVER: Self = Self(60, 60);
    pub(super) const BASIC_PUBLISH: Self = Self(60, 40);
    pub(super) const BASIC_RETURN: Self = Self(60, 50);
    pub(super) const BASIC_ACK: Self = Self(60, 80);
    pub(super) const BASIC_NACK: Self = Self(60, 120);
    pub(super) const CONFIRM_SELECT: Self = Self(85, 10);
    pub(super) const CONFIRM_SELECT_OK: Self = Self(85, 11);
}

// === impl Frame ===

impl Frame {
    /// Takes a whole frame off the buffer.
    pub(super) fn take(input: &mut BytesMut, frame_max: usize) -> Result<Option<Self>, &'static str> {
        let Some(head) = input.first_chunk::<7>() else { return Ok(None) };
        // Brokers of another protocol or version answer with the name of theirs.
        if head[0] == b'A' {
            return Err("the broker speaks another version of AMQP");
        }
        let kind = head[0];
        let mut rest = &head[3..];
        let size = rest.get_u32() as usize;
        if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) || size > frame_max {
            return Err("no AMQP: a frame is not understood");
        }
        if input.len() < size + OVERHEAD {
            return Ok(None);
        }
        let whole = input.split_to(size + OVERHEAD).freeze();
        match whole.last() {
            Some(&END) => Ok(Some(Self { kind, payload: whole.slice(7..7 + size) })),
            _ => Err("no AMQP: a frame has no end"),
        }
    }
}

/// Appends a frame.
pub(super) fn put(kind: u8, channel: u16, payload: &[u8], out: &mut BytesMut) {
    out.reserve(payload.len() + OVERHEAD);
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_slice(payload);
    out.put_u8(END);
}

// === impl Writer ===

impl Writer {
    pub(super) fn method(Method(class, number): Method) -> Self {
        let mut writer = Self::default();
        writer.u16(class);
        writer.u16(number);
        writer
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.put_u16(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.put_u32(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.put_u64(value);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    /// At most 255 bytes; what is longer is cut, where nobody has checked.
    pub(super) fn short(&mut self, text: &str) {
        let bytes = &text.as_bytes()[..text.len().min(255)];
        self.u8(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        self.raw(bytes);
    }

    pub(super) fn long(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

// === impl Reader ===

impl Reader<'_> {
    pub(super) fn method(&mut self) -> Option<Method> {
        Some(Method(self.u16()?, self.u16()?))
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    fn skip(&mut self, length: usize) -> Option<&[u8]> {
        let (skipped, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(skipped)
    }

    pub(super) fn short(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        self.skip(length).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    pub(super) fn long(&mut self) -> Option<&[u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.skip(length)
    }

    /// A code and its text, as closes and returns have them.
    pub(super) fn refusal(&mut self) -> Option<(u16, String)> {
        Some((self.u16()?, self.short()?))
    }
}

/// Of the header of a content: the size of the body, and the ID of the message if it has one of ours.
pub(super) fn size_and_id(payload: &[u8]) -> Option<(u64, Option<MessageId>)> {
    let mut reader = Reader(payload);
    reader.u32()?;
    let size = reader.u64()?;
    let flags = reader.u16()?;
    let has = |bit: u16| flags & 1 << bit != 0;
    for bit in [15, 14] {
        if has(bit) {
            reader.short()?;
        }
    }
    if has(13) {
        reader.long()?;
    }
    for bit in [12, 11] {
        if has(bit) {
            reader.u8()?;
        }
    }
    for bit in [10, 9, 8] {
        if has(bit) {
            reader.short()?;
        }
    }
    let id = if has(7) { reader.short()? } else { String::new() };
    let bits = u128::from_str_radix(&id.replace('-', ""), 16).ok();
    Some((size, bits.map(MessageId::from_random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut bytes = BytesMut::new();
        put(METHOD, 1, b"abc", &mut bytes);
        put(HEARTBEAT, 0, b"", &mut bytes);
        for cut in 0..bytes.len() {
            let (mut input, mut found) = (BytesMut::from(&bytes[..cut]), Vec::new());
            while let Some(frame) = Frame::take(&mut input, 100).unwrap() {
                found.push(frame);
            }
            input.put_slice(&bytes[cut..]);
            while let Some(frame) = Frame::take(&mut input, 100).unwrap() {
                found.push(frame);
            }
            let abc = Frame { kind: METHOD, payload: Bytes::from_static(b"abc") };
            assert_eq!(found, [abc, Frame { kind: HEARTBEAT, payload: Bytes::new() }], "{cut}");
        }
    }

    #[test]
    fn hostile_frames_are_refused() {
        for bytes in
            [&b"AMQP\0\0\x09\x01"[..], b"HTTP/1.1 400", b"\x01\0\x01\xff\xff\xff\xff", b"\x01\0\0\0\0\0\0\0"]
        {
            assert!(Frame::take(&mut BytesMut::from(bytes), 100).is_err(), "{bytes:?}");
        }
        let payload = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0xff, 0xff, 200, 1, 2];
        assert_eq!(size_and_id(&payload), None);
    }
}
