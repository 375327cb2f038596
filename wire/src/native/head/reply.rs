//! The message Reply: head of Ack, Response and OpenAck.

use bytes::BufMut;

use super::{
    ErrorRef, HeadError,
    fields::{self, Fields, Headers, NoHeaders},
};
use crate::error::ErrorCode;

const ERROR: u32 = 1;
const TOTAL_LEN: u32 = 2;
const HEADERS: u32 = 3;

/// The head of Ack, Response and OpenAck, read in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyHead<'a> {
    /// Why the operation failed; `None` = it did not.
    pub error: Option<ErrorRef<'a>>,
    /// With flag *more*: bytes of the whole body.
    pub total_len: u64,
    raw: &'a [u8],
}

/// Writes the head of Ack, Response and OpenAck.
#[derive(Clone, Debug)]
pub struct ReplyBuilder<'a, H = NoHeaders<'a>> {
    error: Option<ErrorRef<'a>>,
    total_len: u64,
    headers: H,
}

// === impl ReplyHead ===

impl<'a> ReplyHead<'a> {
    /// Reads and checks a head. An empty head is a plain success.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(head: &'a [u8]) -> Result<Self, HeadError> {
        let mut reply = Self { raw: head, ..Self::default() };
        let mut fields = Fields::new(head);
        while let Some((number, value)) = fields.next()? {
            match number {
                ERROR => reply.error.get_or_insert_default().merge(value.bytes(number)?)?,
                TOTAL_LEN => reply.total_len = value.u64(number)?,
                HEADERS => {
                    value.pair(number)?;
                }
                _ => {}
            }
        }
        Ok(reply)
    }

    /// The string headers of the answer.
    #[must_use]
    pub const fn headers(&self) -> Headers<'a> {
        Headers::new(self.raw, HEADERS)
    }
}

// === errors ===

/// Bytes of [`encode_error_reply`].
#[must_use]
pub fn error_reply_len(code: ErrorCode, text: &str) -> usize {
    ErrorRef::new(code, text).field_len(ERROR)
}

/// Appends the head of an answer that failed.
pub fn encode_error_reply(out: &mut impl BufMut, code: ErrorCode, text: &str) {
    ErrorRef::new(code, text).put_field(out, ERROR);
}

// === impl ReplyBuilder ===

impl<'a> ReplyBuilder<'a> {
    /// The head of a success, so far empty.
    #[must_use]
    pub const fn new() -> Self {
        Self { error: None, total_len: 0, headers: std::iter::empty() }
    }

    /// The head of a failure.
    #[must_use]
    pub const fn error(error: ErrorRef<'a>) -> Self {
        let mut head = Self::new();
        head.error = Some(error);
        head
    }
}

impl Default for ReplyBuilder<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a, H> ReplyBuilder<'a, H> {
    /// Bytes of the whole body, for a body in fragments.
    #[must_use]
    pub fn total_len(mut self, total_len: u64) -> Self {
        self.total_len = total_len;
        self
    }

    /// The string headers, each key once.
    #[must_use]
    pub fn headers<N>(self, headers: N) -> ReplyBuilder<'a, N>
    where
        N: IntoIterator<Item = (&'a str, &'a str)> + Clone,
    {
        ReplyBuilder { error: self.error, total_len: self.total_len, headers }
    }
}

impl<'a, H> ReplyBuilder<'a, H>
where
    H: IntoIterator<Item = (&'a str, &'a str)> + Clone,
{
    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let headers = self.headers.clone().into_iter().map(|pair| fields::pair_len(HEADERS, pair));
        [self.error.map_or(0, |error| error.field_len(ERROR)), fields::number_len(TOTAL_LEN, self.total_len)]
            .into_iter()
            .chain(headers)
            .fold(0, usize::saturating_add)
    }

    /// Appends the head, its fields in the order of their numbers.
    pub fn encode(&self, out: &mut impl BufMut) {
        if let Some(error) = &self.error {
            error.put_field(out, ERROR);
        }
        fields::put_number(out, TOTAL_LEN, self.total_len);
        for pair in self.headers.clone() {
            fields::put_pair(out, HEADERS, pair);
        }
    }
}
