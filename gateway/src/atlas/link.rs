//! A link to one instance of atlas, whatever carries it.

use std::{fmt, sync::Arc};

use frontier_api::registry::{FromGateway, Hello, RenewRequest, RenewResponse, ToGateway};
use futures::Stream;
use tokio::sync::mpsc;

/// Bytes of what atlas says of an error that are kept: it is logged and shown.
const TEXT: usize = 200;

/// Opens links.
pub trait Dial: Send + Sync + 'static {
    /// What atlas says; its end is that of the link.
    type Hear: Stream<Item = Result<ToGateway, LinkError>> + Send + Unpin + 'static;
    /// See [`Renew`].
    type Renew: Renew;

    /// Opens a link whose first message is `hello`, to one of the instances of atlas: to another one at each attempt, if there are several.
    /// The caller bounds the time that it takes.
    fn dial(
        &self,
        attempt: u64,
        hello: Hello,
    ) -> impl Future<Output = Result<Link<Self::Hear, Self::Renew>, LinkError>> + Send;
}

/// Renews the lease, at the instance of atlas that the link goes to and past everything that goes by it.
pub trait Renew: Send + Sync + 'static {
    /// Asks. The caller bounds the time that it takes.
    fn renew(&self, request: RenewRequest) -> impl Future<Output = Result<RenewResponse, LinkError>> + Send;
}

/// An open link.
#[derive(Debug)]
pub struct Link<H, R> {
    /// What the gateway says; dropped, the gateway leaves in good order. It has room for [`Link::ROOM`] messages, more than may be
    /// unacknowledged, so that nobody waits to say something.
    pub tell: mpsc::Sender<FromGateway>,
    /// What atlas says.
    pub hear: H,
    /// The other connection.
    pub renew: Arc<R>,
}

// === impl Link ===

impl<H, R> Link<H, R> {
    /// The messages that `tell` must have room for.
    pub const ROOM: usize = 65;
}

/// What is wrong with a link, as a word for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// No connection comes about.
    Unreachable,
    /// No answer came in time.
    Timeout,
    /// The connection broke.
    Broken,
    /// Atlas ended the link in good order.
    Ended,
    /// Another process with the same name and addresses has taken this one's place.
    Superseded,
    /// Atlas does not admit the gateway under this name.
    Denied,
    /// Atlas drains or does not reach its store.
    Unavailable,
    /// Atlas has too many links.
    Full,
    /// Atlas says that the gateway breaks the rules.
    Invalid,
    /// Atlas itself breaks the rules.
    Protocol,
    /// Atlas does not know the gateway any more.
    Forgotten,
    /// The lease is over and nobody renews it.
    Unrenewed,
}

/// Why there is no link, or none any more, or no answer to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkError {
    /// The kind.
    pub trouble: Trouble,
    /// More about it, for people.
    pub text: String,
}

// === impl Trouble ===

impl Trouble {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Broken,
        Self::Ended,
        Self::Superseded,
        Self::Denied,
        Self::Unavailable,
        Self::Full,
        Self::Invalid,
        Self::Protocol,
        Self::Forgotten,
        Self::Unrenewed,
    ];

    /// The word in metric labels and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Ended => "ended",
            Self::Superseded => "superseded",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Invalid => "invalid",
            Self::Protocol => "protocol",
            Self::Forgotten => "forgotten",
            Self::Unrenewed => "unrenewed",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Unreachable => "atlas cannot be reached",
            Self::Timeout => "atlas does not answer",
            Self::Broken => "the link broke",
            Self::Ended => "atlas ended the link",
            Self::Superseded => "another process with this name and these addresses has taken the place",
            Self::Denied => "atlas does not admit this gateway",
            Self::Unavailable => "atlas is not available",
            Self::Full => "atlas has too many links",
            Self::Invalid => "atlas refuses what it is told",
            Self::Protocol => "atlas breaks the rules",
            Self::Forgotten => "atlas does not know this gateway any more",
            Self::Unrenewed => "the lease is over and is not renewed",
        }
    }

    /// Whether atlas itself has answered: it is there, it only cannot do what it is asked to.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        matches!(
            self,
            Self::Superseded
                | Self::Denied
                | Self::Unavailable
                | Self::Full
                | Self::Invalid
                | Self::Forgotten
        )
    }
}

// === impl LinkError ===

impl LinkError {
    /// Of a kind, with what is known about it.
    #[must_use]
    pub fn new(trouble: Trouble, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > TEXT {
            text.truncate(text.floor_char_boundary(TEXT));
        }
        Self { trouble, text }
    }
}

impl From<Trouble> for LinkError {
    fn from(trouble: Trouble) -> Self {
        Self::new(trouble, "")
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.trouble.what())?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for LinkError {}
