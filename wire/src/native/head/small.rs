//! The short messages: Error, GoAway, Names, Credit, Locate.

use bytes::BufMut;

use super::{
    HeadError,
    fields::{self, Fields, Strings},
};
use crate::error::ErrorCode;

const ERROR_CODE: u32 = 1;
const ERROR_TEXT: u32 = 2;
const ERROR_RETRY_AFTER: u32 = 3;
const GO_AWAY_RECONNECT_IN: u32 = 1;
const GO_AWAY_REASON: u32 = 2;
const NAMES_METHODS: u32 = 1;
const NAMES_TOPICS: u32 = 2;
const CREDIT_BYTES: u32 = 1;
const LOCATE_EDGE: u32 = 1;
const LOCATE_EPOCH: u32 = 2;

/// The message Error: why something failed. Head of Reject and Cancel, and part of other heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRef<'a> {
    /// What went wrong. An unknown number, and none at all, count as [`ErrorCode::Internal`].
    pub code: ErrorCode,
    /// For people; for [`ErrorCode::Application`] the application's own.
    pub text: &'a str,
    /// When to try again, in milliseconds; 0 = nothing said.
    pub retry_after_ms: u32,
}

/// Head of GoAway: the sender is about to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoAway<'a> {
    /// When to connect again, in milliseconds; 0 = at once.
    pub reconnect_in_ms: u32,
    /// Why, if it was said.
    pub reason: Option<ErrorRef<'a>>,
}

/// Head of Register and Unregister.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    raw: &'a [u8],
    methods: usize,
    topics: usize,
}

/// Head of Credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// How many more body bytes the sender may have under way.
    pub bytes: u32,
}

/// Head of Locate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locate {
    /// The edge asked for.
    pub edge: u64,
    /// In the answer: the epoch of its session, 0 = not here.
    pub epoch: u64,
}

// === impl ErrorRef ===

impl Default for ErrorRef<'_> {
    fn default() -> Self {
        Self::new(ErrorCode::Internal, "")
    }
}

impl<'a> ErrorRef<'a> {
    /// An error without a retry hint.
    #[must_use]
    pub const fn new(code: ErrorCode, text: &'a str) -> Self {
        Self { code, text, retry_after_ms: 0 }
    }

    /// Reads the message.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(message: &'a [u8]) -> Result<Self, HeadError> {
        let mut error = Self::default();
        error.merge(message)?;
        Ok(error)
    }

    /// Reads a further occurrence of the message field, whose fields replace those read before.
    pub(super) fn merge(&mut self, message: &'a [u8]) -> Result<(), HeadError> {
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                ERROR_CODE => self.code = ErrorCode::from_wire(value.u32(number)?),
                ERROR_TEXT => self.text = value.str(number)?,
                ERROR_RETRY_AFTER => self.retry_after_ms = value.u32(number)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        fields::number_len(ERROR_CODE, self.code.to_wire().into())
            .saturating_add(fields::text_len(ERROR_TEXT, self.text.as_bytes()))
            .saturating_add(fields::number_len(ERROR_RETRY_AFTER, self.retry_after_ms.into()))
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut impl BufMut) {
        fields::put_number(out, ERROR_CODE, self.code.to_wire().into());
        fields::put_text(out, ERROR_TEXT, self.text.as_bytes());
        fields::put_number(out, ERROR_RETRY_AFTER, self.retry_after_ms.into());
    }

    /// Bytes of the message as a field of another one.
    pub(super) fn field_len(&self, field: u32) -> usize {
        fields::content_len(field, self.encoded_len())
    }

    /// Appends the message as a field of another one.
    pub(super) fn put_field(&self, out: &mut impl BufMut, field: u32) {
        fields::put_content_tag(out, field, self.encoded_len());
        self.encode(out);
    }
}

// === impl GoAway ===

impl<'a> GoAway<'a> {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(head: &'a [u8]) -> Result<Self, HeadError> {
        let mut away = Self::default();
        let mut fields = Fields::new(head);
        while let Some((number, value)) = fields.next()? {
            match number {
                GO_AWAY_RECONNECT_IN => away.reconnect_in_ms = value.u32(number)?,
                GO_AWAY_REASON => {
                    away.reason.get_or_insert_default().merge(value.bytes(number)?)?;
                }
                _ => {}
            }
        }
        Ok(away)
    }

    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let reason = self.reason.map_or(0, |reason| reason.field_len(GO_AWAY_REASON));
        fields::number_len(GO_AWAY_RECONNECT_IN, self.reconnect_in_ms.into()).saturating_add(reason)
    }

    /// Appends the head.
    pub fn encode(&self, out: &mut impl BufMut) {
        fields::put_number(out, GO_AWAY_RECONNECT_IN, self.reconnect_in_ms.into());
        if let Some(reason) = &self.reason {
            reason.put_field(out, GO_AWAY_REASON);
        }
    }
}

// === impl Names ===

impl<'a> Names<'a> {
    /// Checks the head and counts its names. Lengths and counts are limited by the caller.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(head: &'a [u8]) -> Result<Self, HeadError> {
        let mut names = Self { raw: head, methods: 0, topics: 0 };
        let mut fields = Fields::new(head);
        while let Some((number, value)) = fields.next()? {
            let count = match number {
                NAMES_METHODS => &mut names.methods,
                NAMES_TOPICS => &mut names.topics,
                _ => continue,
            };
            value.str(number)?;
            *count = count.saturating_add(1);
        }
        Ok(names)
    }

    /// The methods.
    #[must_use]
    pub const fn methods(&self) -> Strings<'a> {
        Strings::new(self.raw, NAMES_METHODS)
    }

    /// The topics.
    #[must_use]
    pub const fn topics(&self) -> Strings<'a> {
        Strings::new(self.raw, NAMES_TOPICS)
    }

    /// How many names there are, methods and topics together.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.methods.saturating_add(self.topics)
    }

    /// Bytes of [`encode`](Self::encode).
    pub fn encoded_len<'n>(
        methods: impl IntoIterator<Item = &'n str>,
        topics: impl IntoIterator<Item = &'n str>,
    ) -> usize {
        let methods = methods.into_iter().map(|name| fields::content_len(NAMES_METHODS, name.len()));
        let topics = topics.into_iter().map(|name| fields::content_len(NAMES_TOPICS, name.len()));
        methods.chain(topics).fold(0, usize::saturating_add)
    }

    /// Appends a head with these names.
    pub fn encode<'n>(
        out: &mut impl BufMut,
        methods: impl IntoIterator<Item = &'n str>,
        topics: impl IntoIterator<Item = &'n str>,
    ) {
        for name in methods {
            fields::put_content(out, NAMES_METHODS, name.as_bytes());
        }
        for name in topics {
            fields::put_content(out, NAMES_TOPICS, name.as_bytes());
        }
    }
}

// === impl Credit ===

impl Credit {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(head: &[u8]) -> Result<Self, HeadError> {
        let mut credit = Self::default();
        let mut fields = Fields::new(head);
        while let Some((number, value)) = fields.next()? {
            if number == CREDIT_BYTES {
                credit.bytes = value.u32(number)?;
            }
        }
        Ok(credit)
    }

    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        fields::number_len(CREDIT_BYTES, self.bytes.into())
    }

    /// Appends the head.
    pub fn encode(&self, out: &mut impl BufMut) {
        fields::put_number(out, CREDIT_BYTES, self.bytes.into());
    }
}

// === impl Locate ===

impl Locate {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(head: &[u8]) -> Result<Self, HeadError> {
        let mut locate = Self::default();
        let mut fields = Fields::new(head);
        while let Some((number, value)) = fields.next()? {
            match number {
                LOCATE_EDGE => locate.edge = value.u64(number)?,
                LOCATE_EPOCH => locate.epoch = value.u64(number)?,
                _ => {}
            }
        }
        Ok(locate)
    }

    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        fields::number_len(LOCATE_EDGE, self.edge)
            .saturating_add(fields::number_len(LOCATE_EPOCH, self.epoch))
    }

    /// Appends the head.
    pub fn encode(&self, out: &mut impl BufMut) {
        fields::put_number(out, LOCATE_EDGE, self.edge);
        fields::put_number(out, LOCATE_EPOCH, self.epoch);
    }
}
