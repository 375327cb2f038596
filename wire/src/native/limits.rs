//! What the decoders accept. Limits are values passed in, never the accident of a buffer's size.

use super::{
    frame::{FrameHeader, MAX_BODY_FRAME},
    head::{Names, fields::Fields},
    hello::{HelloError, Part, at_most, not_more},
};

/// Fields of Hello whose number is limited before it is decoded.
const HELLO_LABELS: u32 = 12;
const HELLO_TOPICS: u32 = 13;
const HELLO_METHODS: u32 = 14;

/// Longest head in bytes that a peer may send in any frame but Hello (`limits.head`, default 16 KiB).
pub const MAX_HEAD: u16 = 16_384;

/// Bytes a gateway appends to a head it passes on, at most: sender and deadline
/// ([`append_forwarded`](super::head::append_forwarded)), rounded up.
/// Dialers accept that much more than [`MAX_HEAD`].
pub const FORWARD_ROOM: u16 = 32;

/// Limits on one frame. Worst case a reader holds for a peer: `2 × max_head + max_body` and a small constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Longest head in bytes.
    pub max_head: u16,
    /// Longest body of one frame in bytes.
    pub max_body: u32,
}

/// Limits on what a Hello and later registrations say. With the defaults an edge's meta, labels and address always fit into the
/// one frame body in which services hear of it, and a session keeps at most `meta + labels × (label_key + label_value) +
/// names × name` = 295 KiB of what its peer said (an edge that says little keeps little).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloLimits {
    /// Bytes of meta (`limits.meta`, default 16 KiB).
    pub meta: usize,
    /// Bytes of a token, default 4,096: room for a signed one.
    pub token: usize,
    /// Bytes of a resume ticket, default 256.
    pub ticket: usize,
    /// Number of labels, default 64.
    pub labels: usize,
    /// Bytes of a label's key, default 128.
    pub label_key: usize,
    /// Bytes of a label's value, default 256.
    pub label_value: usize,
    /// Methods and topics of one session together (`limits.registrations`, default 1,024).
    pub names: usize,
    /// Bytes of one method, topic, service name or version, default 255.
    pub name: usize,
}

/// A frame that breaks the limits of the connection. The peer is broken or hostile: the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The head is longer than allowed.
    #[error("frame head of {len} bytes, at most {max} allowed")]
    HeadTooLong {
        /// Bytes announced.
        len: u16,
        /// Bytes allowed.
        max: u16,
    },
    /// The body is longer than allowed.
    #[error("frame body of {len} bytes, at most {max} allowed")]
    BodyTooLong {
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        max: u32,
    },
}

// === impl FrameLimits ===

impl FrameLimits {
    /// What a gateway accepts after the handshake.
    pub const GATEWAY: Self = Self { max_head: MAX_HEAD, max_body: MAX_BODY_FRAME };

    /// What an edge or service accepts: heads have grown on their way through the gateway.
    pub const DIALER: Self =
        Self { max_head: MAX_HEAD.saturating_add(FORWARD_ROOM), max_body: MAX_BODY_FRAME };

    /// What a gateway accepts as the first frame: Hello carries meta, labels and names in its head and has no body.
    pub const HELLO: Self = Self { max_head: u16::MAX, max_body: 0 };

    /// Checks a header against the limits.
    ///
    /// # Errors
    /// When head or body is longer than allowed; unknown types included.
    pub const fn check(&self, header: &FrameHeader) -> Result<(), DecodeError> {
        if header.head_len > self.max_head {
            return Err(DecodeError::HeadTooLong { len: header.head_len, max: self.max_head });
        }
        if header.body_len > self.max_body {
            return Err(DecodeError::BodyTooLong { len: header.body_len, max: self.max_body });
        }
        Ok(())
    }
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self::GATEWAY
    }
}

// === impl HelloLimits ===

impl HelloLimits {
    /// Counts what repeats in a Hello, before anything is allocated for it.
    pub(super) fn check_counts(&self, head: &[u8]) -> Result<(), HelloError> {
        let (mut labels, mut names) = (0_usize, 0_usize);
        let mut fields = Fields::new(head);
        while let Some((number, _)) = fields.next()? {
            match number {
                HELLO_LABELS => labels = labels.saturating_add(1),
                HELLO_TOPICS | HELLO_METHODS => names = names.saturating_add(1),
                _ => {}
            }
        }
        not_more(Part::Labels, labels, self.labels)?;
        not_more(Part::Names, names, self.names)
    }

    /// Checks the names of a Register or Unregister; `present` is how many the session has already.
    ///
    /// # Errors
    /// When a name is empty or too long, or there would be too many.
    pub fn check_registration(&self, names: &Names<'_>, present: usize) -> Result<(), HelloError> {
        not_more(Part::Names, names.count().saturating_add(present), self.names)?;
        self.check_names(Part::Method, names.methods())?;
        self.check_names(Part::Topic, names.topics())
    }

    /// Checks each of some names.
    pub(super) fn check_names<N: AsRef<str>>(
        &self,
        part: Part,
        names: impl IntoIterator<Item = N>,
    ) -> Result<(), HelloError> {
        for name in names {
            let len = name.as_ref().len();
            if len == 0 {
                return Err(HelloError::Empty { part });
            }
            at_most(part, len, self.name)?;
        }
        Ok(())
    }
}

impl Default for HelloLimits {
    fn default() -> Self {
        Self {
            meta: 16_384,
            token: 4_096,
            ticket: 256,
            labels: 64,
            label_key: 128,
            label_value: 256,
            names: 1_024,
            name: 255,
        }
    }
}

// === impl DecodeError ===

impl DecodeError {
    /// Its name: that of the golden vectors.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::HeadTooLong { .. } => "head_too_long",
            Self::BodyTooLong { .. } => "body_too_long",
        }
    }
}
