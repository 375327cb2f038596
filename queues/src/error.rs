//! Why a message was not confirmed.

use std::{borrow::Cow, fmt};

/// The closed set of reasons; each has one error code of the project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Too many messages or bytes wait for the broker already, or the broker said that it is full; try later.
    Overloaded,
    /// The broker did not confirm in time. It may have the message.
    Deadline,
    /// The message is longer than the broker, or the bound of the queue, allows.
    TooLarge,
    /// The broker cannot be reached, or was lost too often while it had the message. It may have the message.
    Unavailable,
    /// The broker refused this message: no such exchange, topic or queue, a wrong name.
    Rejected,
    /// The broker does not allow us to publish there.
    Denied,
    /// The queue is closed: the process ends, or its configuration is gone.
    Closed,
}

/// A message that was not confirmed, with a text for people. The text holds no secret and nothing of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {text}")]
pub struct PublishError {
    kind: Kind,
    text: Cow<'static, str>,
}

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Overloaded,
        Self::Deadline,
        Self::TooLarge,
        Self::Unavailable,
        Self::Rejected,
        Self::Denied,
        Self::Closed,
    ];

    /// The name in metric labels and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Denied => "denied",
            Self::Closed => "closed",
        }
    }

    /// Its place in [`Kind::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl PublishError ===

impl PublishError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: Kind, text: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, text: text.into() }
    }

    /// The reason.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What a person can do something with.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}
