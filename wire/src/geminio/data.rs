//! The JSON object of a packet.
//!
//! Reading one finds where its fields lie in the bytes that came; nothing is decoded or copied. Payloads stay base64, checked to be
//! well-formed, so that they can be handed on as they are. Only what is written in an unusual way is rewritten into memory of its own:
//!
//! ```text
//! {"value":"YWJj","topic":"t"}     value, topic: places in the text
//! {"VALUE":[97,98,99],"topic":"\u0074"}   the same, rewritten
//! ```
//! Writing gives the bytes that Go gives for the same content, field by field.

use std::ops::Deref;

use bytes::Bytes;

use super::{
    base64,
    json::{self, Json, MAX_DEPTH},
    time::Time,
};
use crate::chunk::{Chunk, Piece};

/// Bytes at the end of `custom` that carry an edge's ID between gateway and services.
const TAIL: usize = 8;

/// What the names of all fields take in the text of an object, and whatever else is not content: two times and a number.
const ENVELOPE: usize = 240;

/// Which fields an object may have; any other is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// `meta`, `error`: of Conn, ConnAck and DisConnAck.
    Connection,
    /// `meta`, `error`, `peer`: of Session, Dismiss and their answers.
    Session,
    /// `key`, `value`, `topic`, `custom`, `error`, `timeout`, `deadline`, `context`: of messages, calls and their answers.
    Message,
    /// `error`: of RegisterAck.
    Register,
}

/// A JSON object that Go would not take either. The peer is broken: its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// This is no JSON.
    #[error("no JSON at byte {at}")]
    Syntax {
        /// Offset in the object's text.
        at: usize,
    },
    /// A value is of another type than its field.
    #[error("value of a wrong type at byte {at}")]
    Type {
        /// Offset in the object's text.
        at: usize,
    },
    /// Bytes that are not base64 of the standard alphabet with padding.
    #[error("malformed base64 at byte {at}")]
    Base64 {
        /// Offset in the object's text.
        at: usize,
    },
    /// A point in time that is not of RFC 3339.
    #[error("malformed time at byte {at}")]
    Time {
        /// Offset in the object's text.
        at: usize,
    },
    /// Arrays and objects in each other beyond what is followed.
    #[error("nested too deeply")]
    Depth,
}

/// One field: where its content lies.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// So far into the text, so many bytes; none if there is no such field.
    Place(u32, u32),
    /// It was written in an unusual way.
    Rewritten(Box<[u8]>),
}

/// The fields of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    meta: Part,
    key: Part,
    value: Part,
    topic: Part,
    custom: Part,
    error: Part,
    peer: Part,
    timeout: i64,
    deadline: Option<Time>,
    context: Option<Time>,
}

/// A packet's JSON object, read and checked.
#[derive(Clone, Debug)]
pub struct Data<B> {
    text: Piece<B>,
    parts: Parts,
}

/// Bytes to be written into a JSON object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Content<'a> {
    /// Nothing; the field is left out, as it is for empty bytes.
    #[default]
    None,
    /// To be encoded.
    Plain(&'a [u8]),
    /// Base64 already, checked by [`Data`].
    Encoded(&'a [u8]),
    /// Base64 already, to be sent by reference if it is large.
    Shared(Bytes),
}

/// What is written into the JSON object of a packet. Empty fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object<'a> {
    /// Of a connection or session: opaque bytes for the acceptor.
    pub meta: Content<'a>,
    /// The method of a call.
    pub key: Content<'a>,
    /// The payload.
    pub value: Content<'a>,
    /// The topic of a message.
    pub topic: &'a str,
    /// Bytes beside the payload; between gateway and services the last eight are an edge's ID.
    pub custom: Content<'a>,
    /// Why it failed; empty = it did not.
    pub error: &'a str,
    /// Whom a session is for.
    pub peer: &'a str,
    /// In nanoseconds; without effect.
    pub timeout: i64,
    /// When the sender's own timeout ends, by its clock.
    pub deadline: Option<Time>,
    /// When the sender's context ends, by its clock.
    pub context: Option<Time>,
}

#[derive(Clone, Copy)]
enum Field {
    Meta,
    Key,
    Value,
    Topic,
    Custom,
    Error,
    Peer,
    Timeout,
    Deadline,
    Context,
}

// === impl Fields ===

impl Fields {
    /// The field of a name, in whatever case that is written.
    fn find(self, name: &[u8]) -> Option<Field> {
        let known: &[(&[u8], Field)] = match self {
            Self::Connection => &[(b"meta", Field::Meta), (b"error", Field::Error)],
            Self::Session => &[(b"meta", Field::Meta), (b"error", Field::Error), (b"peer", Field::Peer)],
            Self::Message => &[
                (b"value", Field::Value),
                (b"key", Field::Key),
                (b"deadline", Field::Deadline),
                (b"context", Field::Context),
                (b"topic", Field::Topic),
                (b"custom", Field::Custom),
                (b"error", Field::Error),
                (b"timeout", Field::Timeout),
            ],
            Self::Register => &[(b"error", Field::Error)],
        };
        known.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, field)| *field)
    }
}

// === impl Part ===

impl Part {
    const ABSENT: Self = Self::Place(0, 0);

    fn place(start: usize, len: usize) -> Self {
        match (u32::try_from(start), u32::try_from(len)) {
            (_, Ok(0)) => Self::ABSENT,
            (Ok(start), Ok(len)) => Self::Place(start, len),
            // Packets are shorter than that.
            _ => Self::ABSENT,
        }
    }

    fn rewritten(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Self::ABSENT } else { Self::Rewritten(bytes.into()) }
    }

    fn resolve<'a>(&'a self, text: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Place(start, len) => {
                let start = *start as usize;
                text.get(start..start.saturating_add(*len as usize)).unwrap_or_default()
            }
            Self::Rewritten(bytes) => bytes,
        }
    }

    fn held(&self) -> usize {
        match self {
            Self::Place(..) => 0,
            Self::Rewritten(bytes) => bytes.len(),
        }
    }

    /// Bytes as base64; `null` is no bytes.
    fn read_bytes(json: &mut Json<'_>) -> Result<Self, DataError> {
        match json.peek() {
            Some(b'"') => Self::read_base64(json),
            Some(b'[') => {
                let mut bytes = Vec::new();
                json.array(|json| {
                    let (at, _) = json.rest();
                    let number = json.number()?;
                    let text = std::str::from_utf8(number).unwrap_or_default();
                    bytes.push(text.parse().map_err(|_| DataError::Type { at })?);
                    Ok(())
                })?;
                let mut encoded = Vec::new();
                base64::encode_to(&mut encoded, &bytes);
                Ok(Self::rewritten(encoded))
            }
            Some(b'n') if json.eat_null()? => Ok(Self::ABSENT),
            Some(_) | None => Err(DataError::Type { at: json.rest().0 }),
        }
    }

    fn read_base64(json: &mut Json<'_>) -> Result<Self, DataError> {
        json.skip(1);
        let (start, rest) = json.rest();
        let digits = base64::digits_in_front(rest);
        let behind = rest.get(digits..).unwrap_or_default();
        let padding = behind.iter().take(2).filter(|byte| **byte == b'=').count();
        let len = digits.saturating_add(padding);
        let error = DataError::Base64 { at: start };
        if behind.get(padding) == Some(&b'"') {
            json.skip(len.saturating_add(1));
            return if len.is_multiple_of(4) { Ok(Self::place(start, len)) } else { Err(error) };
        }
        // Escapes, line breaks, or no base64 at all: again from the quote on.
        *json = json.back_to(start.saturating_sub(1));
        let mut bytes = json.string()?.unescape().into_owned();
        bytes.retain(|byte| !matches!(byte, b'\r' | b'\n'));
        if base64::is_well_formed(&bytes) { Ok(Self::rewritten(bytes)) } else { Err(error) }
    }

    /// A string as UTF-8; `null` leaves the field as it was.
    fn read_text(&mut self, json: &mut Json<'_>) -> Result<(), DataError> {
        if json.eat_null()? {
            return Ok(());
        }
        let text = json.string()?;
        *self = match std::str::from_utf8(text.raw) {
            Ok(_) if !text.escaped => Self::place(text.start, text.raw.len()),
            Ok(_) | Err(_) => {
                let unescaped = text.unescape();
                Self::rewritten(String::from_utf8_lossy(&unescaped).into_owned().into_bytes())
            }
        };
        Ok(())
    }
}

impl Default for Part {
    fn default() -> Self {
        Self::ABSENT
    }
}

// === impl Parts ===

impl Parts {
    fn read(text: &[u8], fields: Fields) -> Result<Self, DataError> {
        let mut parts = Self::default();
        let mut json = Json::new(text);
        json.object(|json, name| match fields.find(&name) {
            Some(field) => parts.read_field(json, field),
            None => json.skip_value(MAX_DEPTH),
        })?;
        json.end()?;
        Ok(parts)
    }

    fn read_field(&mut self, json: &mut Json<'_>, field: Field) -> Result<(), DataError> {
        match field {
            Field::Meta => self.meta = Part::read_bytes(json)?,
            Field::Key => self.key = Part::read_bytes(json)?,
            Field::Value => self.value = Part::read_bytes(json)?,
            Field::Custom => self.custom = Part::read_bytes(json)?,
            Field::Topic => self.topic.read_text(json)?,
            Field::Error => self.error.read_text(json)?,
            Field::Peer => self.peer.read_text(json)?,
            Field::Timeout => {
                if !json.eat_null()? {
                    let (at, _) = json.rest();
                    let text = std::str::from_utf8(json.number()?).unwrap_or_default();
                    self.timeout = text.parse().map_err(|_| DataError::Type { at })?;
                }
            }
            Field::Deadline => read_time(&mut self.deadline, json)?,
            Field::Context => {
                let context = &mut self.context;
                json.object(|json, name| {
                    if name.eq_ignore_ascii_case(b"deadline") {
                        read_time(context, json)
                    } else {
                        json.skip_value(MAX_DEPTH)
                    }
                })?;
            }
        }
        Ok(())
    }
}

fn read_time(time: &mut Option<Time>, json: &mut Json<'_>) -> Result<(), DataError> {
    if json.eat_null()? {
        return Ok(());
    }
    let text = json.string()?;
    *time = Some(Time::parse(text.raw).ok_or(DataError::Time { at: text.start })?);
    Ok(())
}

// === impl Data ===

impl<B: Deref<Target = [u8]>> Data<B> {
    /// Reads the object that is the whole of `text`.
    ///
    /// # Errors
    /// When it is not one complete JSON object, or a known field has a value that Go does not take.
    pub fn parse(text: Piece<B>, fields: Fields) -> Result<Self, DataError> {
        let parts = Parts::read(&text, fields)?;
        Ok(Self { text, parts })
    }

    /// Opaque bytes for the acceptor of a connection or session, base64.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        self.parts.meta.resolve(&self.text)
    }

    /// The method of a call, base64.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.parts.key.resolve(&self.text)
    }

    /// The payload, base64.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.parts.value.resolve(&self.text)
    }

    /// Bytes beside the payload, base64.
    #[must_use]
    pub fn custom(&self) -> &[u8] {
        self.parts.custom.resolve(&self.text)
    }

    /// The topic of a message.
    #[must_use]
    pub fn topic(&self) -> &str {
        text(self.parts.topic.resolve(&self.text))
    }

    /// Why it failed; empty = it did not.
    #[must_use]
    pub fn error(&self) -> &str {
        text(self.parts.error.resolve(&self.text))
    }

    /// Whom a session is for.
    #[must_use]
    pub fn peer(&self) -> &str {
        text(self.parts.peer.resolve(&self.text))
    }

    /// When the sender stops waiting, by its own clock: the earlier of its deadline and its context's. `None` = never.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let set =
            [self.parts.deadline, self.parts.context].into_iter().flatten().filter(|time| !time.is_zero());
        set.min_by_key(|time| time.unix_nanos())
    }

    /// The same content, to be written again, perhaps after a change.
    #[must_use]
    pub fn object(&self) -> Object<'_> {
        Object {
            meta: Content::Encoded(self.meta()),
            key: Content::Encoded(self.key()),
            value: Content::Encoded(self.value()),
            topic: self.topic(),
            custom: Content::Encoded(self.custom()),
            error: self.error(),
            peer: self.peer(),
            timeout: self.parts.timeout,
            deadline: self.parts.deadline,
            context: self.parts.context,
        }
    }

    /// Bytes of memory held beyond the text.
    #[must_use]
    pub fn rewritten(&self) -> usize {
        let Parts { meta, key, value, topic, custom, error, peer, .. } = &self.parts;
        [meta, key, value, topic, custom, error, peer]
            .into_iter()
            .fold(0, |sum, part| part.held().saturating_add(sum))
    }
}

impl<B: Chunk> Data<B> {
    /// The payload as owned base64: a reference to the packet's own buffer where that is counted, else a copy.
    #[must_use]
    pub fn shared_value(&self) -> Bytes {
        match (&self.text, &self.parts.value) {
            (Piece::Owned(bytes), Part::Place(start, len)) => {
                let start = *start as usize;
                let end = start.saturating_add(*len as usize);
                if end <= bytes.len() { bytes.slice(start..end) } else { Bytes::new() }
            }
            (Piece::Owned(_) | Piece::Input(_), part) => Bytes::copy_from_slice(part.resolve(&self.text)),
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    // Checked when it was read.
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// What base64 that [`Data`] handed out stands for.
#[must_use]
pub fn decode(encoded: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    base64::decode_to(&mut plain, encoded);
    plain
}

/// The same in place of what is in a buffer.
pub fn decode_into(plain: &mut Vec<u8>, encoded: &[u8]) {
    plain.clear();
    base64::decode_to(plain, encoded);
}

/// Appends an edge's ID to `custom` (base64) of a packet towards a service; the result is plain.
#[must_use]
pub fn append_tail(custom: &[u8], edge: u64) -> Vec<u8> {
    let mut plain = Vec::with_capacity(base64::decoded_len(custom).saturating_add(TAIL));
    base64::decode_to(&mut plain, custom);
    plain.extend_from_slice(&edge.to_be_bytes());
    plain
}

/// Takes the edge's ID off `custom` (base64) of a packet from a service; `None` if there is none. What is left is plain.
#[must_use]
pub fn split_tail(custom: &[u8]) -> Option<(Vec<u8>, u64)> {
    let mut plain = Vec::new();
    let edge = split_tail_into(&mut plain, custom)?;
    Some((plain, edge))
}

/// The same in place of what is in a buffer; what is left goes there.
pub fn split_tail_into(plain: &mut Vec<u8>, custom: &[u8]) -> Option<u64> {
    decode_into(plain, custom);
    let edge = u64::from_be_bytes(*plain.last_chunk::<TAIL>()?);
    plain.truncate(plain.len().saturating_sub(TAIL));
    Some(edge)
}

// === impl Content ===

impl Content<'_> {
    /// Bytes of it as base64.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Plain(bytes) => base64::encoded_len(bytes.len()),
            Self::Encoded(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// Appends it as base64.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Plain(bytes) => base64::encode_to(out, bytes),
            Self::Encoded(bytes) => out.extend_from_slice(bytes),
            Self::Shared(bytes) => out.extend_from_slice(bytes),
        }
    }
}

// === impl Object ===

impl Object<'_> {
    /// Bytes that the text of the object takes at most, unless its texts need escapes.
    #[must_use]
    pub fn room(&self) -> usize {
        let contents = [&self.meta, &self.key, &self.value, &self.custom].map(Content::encoded_len);
        let texts = [self.topic, self.error, self.peer].map(str::len);
        contents.into_iter().chain(texts).fold(ENVELOPE, usize::saturating_add)
    }

    /// Appends the object up to where its payload goes.
    pub fn put_lead(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        put_bytes(out, "meta", &self.meta);
        put_bytes(out, "key", &self.key);
        if self.value.encoded_len() > 0 {
            put_name(out, "value");
            out.push(b'"');
        }
    }

    /// Appends what follows the payload.
    pub fn put_tail(&self, out: &mut Vec<u8>) {
        if self.value.encoded_len() > 0 {
            out.push(b'"');
        }
        put_text(out, "topic", self.topic);
        put_bytes(out, "custom", &self.custom);
        put_text(out, "error", self.error);
        put_text(out, "peer", self.peer);
        if self.timeout != 0 {
            put_name(out, "timeout");
            out.extend_from_slice(self.timeout.to_string().as_bytes());
        }
        if let Some(deadline) = self.deadline {
            put_name(out, "deadline");
            put_time(out, deadline);
        }
        if let Some(context) = self.context {
            put_name(out, "context");
            out.push(b'{');
            put_name(out, "deadline");
            put_time(out, context);
            out.push(b'}');
        }
        out.push(b'}');
    }

    /// Appends the whole object.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.put_lead(out);
        self.value.put(out);
        self.put_tail(out);
    }
}

fn put_time(out: &mut Vec<u8>, time: Time) {
    out.push(b'"');
    time.put(out);
    out.push(b'"');
}

fn put_bytes(out: &mut Vec<u8>, name: &str, content: &Content<'_>) {
    if content.encoded_len() > 0 {
        put_name(out, name);
        out.push(b'"');
        content.put(out);
        out.push(b'"');
    }
}

fn put_text(out: &mut Vec<u8>, name: &str, text: &str) {
    if !text.is_empty() {
        put_name(out, name);
        json::put_string(out, text);
    }
}

/// A field's name, behind a comma unless it is the first of its object.
fn put_name(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests;
