//! The protobuf wire format: a cursor over fields, and writers that know their lengths.

use bytes::BufMut;

use super::HeadError;

/// Largest field number of protobuf.
const MAX_FIELD: u64 = 0x1fff_ffff;

/// The map entry's fields.
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(in crate::native) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// 32 or 64 fixed bits: no field of ours, so only skipped.
    Fixed,
}

/// A cursor over the fields of a message.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::native) struct Fields<'a> {
    rest: &'a [u8],
}

/// The pairs of a string map in a head that parsed, in the order of the wire. A key that occurs twice counts with its last value.
#[derive(Clone, Debug, Default)]
pub struct Headers<'a> {
    fields: Fields<'a>,
    field: u32,
}

/// A repeated string field of a head that parsed, in the order of the wire.
#[derive(Clone, Debug, Default)]
pub struct Strings<'a> {
    fields: Fields<'a>,
    field: u32,
}

/// No headers, the default of the builders.
pub type NoHeaders<'a> = std::iter::Empty<(&'a str, &'a str)>;

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(in crate::native) const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value.
    pub(in crate::native) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, HeadError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = tag >> 3;
        let number = u32::try_from(field).ok().filter(|_| field != 0 && field <= MAX_FIELD);
        let number = number.ok_or(HeadError::Tag { tag })?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(HeadError::Tag { tag }),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, HeadError> {
        // Nearly all varints in a head are tags and short lengths.
        match self.rest.split_first() {
            Some((byte, rest)) if *byte < 0x80 => {
                self.rest = rest;
                Ok((*byte).into())
            }
            Some(_) => self.long_varint(),
            None => Err(HeadError::Truncated),
        }
    }

    fn long_varint(&mut self) -> Result<u64, HeadError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(HeadError::Truncated)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && *byte > 1 {
                return Err(HeadError::Varint);
            }
            value |= bits << shift;
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err(HeadError::Varint)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], HeadError> {
        let len = usize::try_from(len).map_err(|_| HeadError::Truncated)?;
        let (front, rest) = self.rest.split_at_checked(len).ok_or(HeadError::Truncated)?;
        self.rest = rest;
        Ok(front)
    }
}

// === impl Value ===

impl<'a> Value<'a> {
    pub(in crate::native) const fn u64(self, field: u32) -> Result<u64, HeadError> {
        match self {
            Self::Varint(value) => Ok(value),
            Self::Bytes(_) | Self::Fixed => Err(HeadError::WireType { field }),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "protobuf takes the low 32 bits")]
    pub(in crate::native) fn u32(self, field: u32) -> Result<u32, HeadError> {
        self.u64(field).map(|value| value as u32)
    }

    pub(in crate::native) const fn bytes(self, field: u32) -> Result<&'a [u8], HeadError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(HeadError::WireType { field }),
        }
    }

    pub(in crate::native) fn str(self, field: u32) -> Result<&'a str, HeadError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| HeadError::NotUtf8 { field })
    }

    /// One entry of a map from string to string.
    pub(in crate::native) fn pair(self, field: u32) -> Result<(&'a str, &'a str), HeadError> {
        let mut fields = Fields::new(self.bytes(field)?);
        let (mut key, mut text) = ("", "");
        while let Some((number, value)) = fields.next()? {
            match number {
                KEY => key = value.str(field)?,
                VALUE => text = value.str(field)?,
                _ => {}
            }
        }
        Ok((key, text))
    }
}

// === impl Headers ===

impl<'a> Headers<'a> {
    /// The map in field `field` of a message that was checked.
    pub(in crate::native) const fn new(message: &'a [u8], field: u32) -> Self {
        Self { fields: Fields::new(message), field }
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&'a str> {
        self.clone().filter(|(name, _)| *name == key).last().map(|(_, value)| value)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        while let Ok(Some((number, value))) = self.fields.next() {
            if number == self.field {
                return value.pair(number).ok();
            }
        }
        None
    }
}

// === impl Strings ===

impl<'a> Strings<'a> {
    /// The repeated field `field` of a message that was checked.
    pub(in crate::native) const fn new(message: &'a [u8], field: u32) -> Self {
        Self { fields: Fields::new(message), field }
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        while let Ok(Some((number, value))) = self.fields.next() {
            if number == self.field {
                return value.str(number).ok();
            }
        }
        None
    }
}

// === writers ===

/// Bytes of a varint: 1 to 10.
pub(in crate::native) const fn varint_len(value: u64) -> usize {
    // Seven bits a byte; `| 1` because 0 takes a byte as well.
    (value | 1).ilog2().wrapping_div(7).wrapping_add(1) as usize
}

pub(in crate::native) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(low_seven(value) | 0x80);
        value >>= 7;
    }
    out.put_u8(low_seven(value));
}

const fn low_seven(value: u64) -> u8 {
    let [.., low] = value.to_be_bytes();
    low & 0x7f
}

/// Bytes of a number field that is always written.
pub(in crate::native) const fn always_len(field: u32, value: u64) -> usize {
    tag_len(field).saturating_add(varint_len(value))
}

pub(in crate::native) fn put_always(out: &mut impl BufMut, field: u32, value: u64) {
    put_varint(out, u64::from(field) << 3);
    put_varint(out, value);
}

/// Bytes of a number field that is omitted when 0.
pub(in crate::native) const fn number_len(field: u32, value: u64) -> usize {
    if value == 0 { 0 } else { always_len(field, value) }
}

pub(in crate::native) fn put_number(out: &mut impl BufMut, field: u32, value: u64) {
    if value != 0 {
        put_always(out, field, value);
    }
}

/// Bytes of a field with `len` bytes of content.
pub(in crate::native) const fn content_len(field: u32, len: usize) -> usize {
    tag_len(field).saturating_add(varint_len(len as u64)).saturating_add(len)
}

pub(in crate::native) fn put_content(out: &mut impl BufMut, field: u32, content: &[u8]) {
    put_content_tag(out, field, content.len());
    out.put_slice(content);
}

/// The tag and length of a field whose content follows.
pub(in crate::native) fn put_content_tag(out: &mut impl BufMut, field: u32, len: usize) {
    put_varint(out, (u64::from(field) << 3) | 2);
    put_varint(out, len as u64);
}

/// Bytes of a string or bytes field that is omitted when empty.
pub(in crate::native) const fn text_len(field: u32, text: &[u8]) -> usize {
    if text.is_empty() { 0 } else { content_len(field, text.len()) }
}

pub(in crate::native) fn put_text(out: &mut impl BufMut, field: u32, text: &[u8]) {
    if !text.is_empty() {
        put_content(out, field, text);
    }
}

/// Bytes of one map entry, which is always written.
pub(in crate::native) const fn pair_len(field: u32, pair: (&str, &str)) -> usize {
    content_len(field, pair_content_len(pair))
}

pub(in crate::native) fn put_pair(out: &mut impl BufMut, field: u32, pair: (&str, &str)) {
    put_content_tag(out, field, pair_content_len(pair));
    put_text(out, KEY, pair.0.as_bytes());
    put_text(out, VALUE, pair.1.as_bytes());
}

const fn pair_content_len((key, value): (&str, &str)) -> usize {
    text_len(KEY, key.as_bytes()).saturating_add(text_len(VALUE, value.as_bytes()))
}

const fn tag_len(field: u32) -> usize {
    varint_len((field as u64) << 3)
}
