//! What can go wrong: [`Error`] for one operation, [`ConnectError`] for a connection.

use std::{borrow::Cow, fmt, io, time::Duration};

pub use frontier_wire::error::ErrorCode;
use frontier_wire::native::head::ErrorRef;
use tokio_rustls::rustls;

use crate::address::Address;

/// Longest error text in bytes that is sent to a peer; the rest is cut off. Long enough for a sentence, short enough for a head.
const MAX_TEXT: usize = 4_096;

/// Why an operation failed: a code of a closed set, and a text for people.
///
/// Programs decide by [`code`](Self::code) and [`is_retryable`](Self::is_retryable), never by the text.
///
/// ```
/// use frontier::{Error, ErrorCode};
///
/// let error = Error::application("no such sensor");
/// assert_eq!(error.code(), ErrorCode::Application);
/// assert_eq!(error.text(), "no such sensor");
/// assert!(!error.is_retryable());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    code: ErrorCode,
    text: Cow<'static, str>,
    retry_after: Option<Duration>,
    /// Whether the operation has surely not left this client.
    unsent: bool,
}

/// Result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no connection to a gateway.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An address could not be read, or none was given.
    #[error("address `{address}`: {reason}")]
    Address {
        /// The text given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What was set on the builder cannot be sent.
    #[error("{what} of {len} bytes, at most {max} fit")]
    TooLong {
        /// Which setting.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest possible, in bytes.
        max: usize,
    },
    /// A method or topic that was set on the builder cannot be offered.
    #[error("setting: {0}")]
    Name(#[source] Error),
    /// A certificate, key or server name is not usable.
    #[error("TLS settings: {0}")]
    Tls(String),
    /// No connection could be made.
    #[error("no connection to {address}")]
    Dial {
        /// Where to.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is a connection and no TLS on it: one side does not trust the other, or the other does not speak TLS.
    #[error("no TLS with {address}")]
    Handshake {
        /// Where to.
        address: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// The gateway did not answer in time.
    #[error("no answer from {address} within {}", humantime(*.after))]
    Timeout {
        /// Where to.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// The gateway refused.
    #[error("refused: {0}")]
    Rejected(Error),
    /// The gateway sent this client away.
    #[error("sent away: {0}")]
    SentAway(Error),
    /// The other side does not follow the protocol.
    #[error("the gateway broke the protocol: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("the connection broke")]
    Lost(#[source] io::Error),
    /// The gateway was silent for too long.
    #[error("nothing was heard for {}", humantime(*.after))]
    Silent {
        /// How long.
        after: Duration,
    },
    /// The cluster's registry did not answer as it should.
    #[error("atlas at {address}: {reason}")]
    Atlas {
        /// Which instance of it.
        address: String,
        /// What it said, or what became of the connection.
        reason: String,
    },
    /// None of the cluster's gateways could be connected to.
    #[error("none of the cluster's {known} gateways is connected")]
    NoGateway {
        /// How many there are.
        known: usize,
        /// What became of one of them.
        #[source]
        last: Option<std::sync::Arc<Self>>,
    },
    /// A newer session with the same ID took over.
    #[error("a newer session with the same ID took over")]
    TakenOver,
    /// The client was closed by its user.
    #[error("the client was closed")]
    Closed,
}

// === impl Error ===

impl Error {
    /// An error of the application, with its own text: what a handler returns for the caller to see.
    ///
    /// ```
    /// let error = frontier::Error::application(std::fmt::Error);
    /// assert_eq!(error.code(), frontier::ErrorCode::Application);
    /// ```
    pub fn application(text: impl ToString) -> Self {
        Self::new(ErrorCode::Application, text.to_string())
    }

    /// An error with a code of the closed set.
    ///
    /// ```
    /// use frontier::{Error, ErrorCode};
    ///
    /// let error = Error::new(ErrorCode::PermissionDenied, "not yours");
    /// assert_eq!(error.to_string(), "permission_denied: not yours");
    /// ```
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { code, text: text.into(), retry_after: None, unsent: false }))
    }

    /// The same error, telling when to try again.
    ///
    /// ```
    /// use std::time::Duration;
    /// use frontier::{Error, ErrorCode};
    ///
    /// let error = Error::new(ErrorCode::Overloaded, "busy").retry_in(Duration::from_secs(2));
    /// assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    /// ```
    #[must_use]
    pub fn retry_in(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// What went wrong.
    ///
    /// ```
    /// # use frontier::{Error, ErrorCode};
    /// assert_eq!(Error::application("x").code(), ErrorCode::Application);
    /// ```
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The text for people; of an application error the application's own. May be empty.
    ///
    /// ```
    /// # use frontier::Error;
    /// assert_eq!(Error::application("no").text(), "no");
    /// ```
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// When the other side suggests to try again, if it said so.
    ///
    /// ```
    /// # use frontier::Error;
    /// assert_eq!(Error::application("no").retry_after(), None);
    /// ```
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same operation may succeed later without anybody changing it. After `deadline_exceeded` and `session_closed` the
    /// first attempt may have been carried out: repeat those only if that does no harm.
    ///
    /// ```
    /// use frontier::{Error, ErrorCode};
    ///
    /// assert!(Error::new(ErrorCode::Overloaded, "").is_retryable());
    /// assert!(!Error::new(ErrorCode::MethodNotFound, "").is_retryable());
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.0.code {
            ErrorCode::EdgeNotOnline
            | ErrorCode::ServiceNotOnline
            | ErrorCode::TopicNotOnline
            | ErrorCode::DeadlineExceeded
            | ErrorCode::Overloaded
            | ErrorCode::SessionClosed
            | ErrorCode::GatewayDraining
            | ErrorCode::Internal => true,
            ErrorCode::MethodNotFound
            | ErrorCode::Cancelled
            | ErrorCode::PayloadTooLarge
            | ErrorCode::PermissionDenied
            | ErrorCode::Unauthenticated
            | ErrorCode::InvalidArgument
            | ErrorCode::Application => false,
        }
    }

    pub(crate) fn from_wire(error: ErrorRef<'_>) -> Self {
        let retry_after = u64::from(error.retry_after_ms);
        Self(Box::new(Inner {
            code: error.code,
            text: Cow::Owned(error.text.to_owned()),
            retry_after: (retry_after > 0).then(|| Duration::from_millis(retry_after)),
            unsent: false,
        }))
    }

    pub(crate) fn to_wire(&self) -> ErrorRef<'_> {
        let mut error = ErrorRef::new(self.0.code, cut(&self.0.text, MAX_TEXT));
        error.retry_after_ms = self.0.retry_after.map_or(0, millis);
        error
    }

    /// The same, of an operation that has not left this client.
    pub(crate) fn unsent(mut self) -> Self {
        self.0.unsent = true;
        self
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn is_unsent(&self) -> bool {
        self.0.unsent
    }

    pub(crate) fn session_closed(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::SessionClosed, text)
    }

    pub(crate) fn overloaded(text: &'static str) -> Self {
        Self::new(ErrorCode::Overloaded, text)
    }

    pub(crate) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidArgument, text)
    }

    pub(crate) fn deadline() -> Self {
        Self::new(ErrorCode::DeadlineExceeded, "the deadline passed before the answer came")
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(ErrorCode::Cancelled, "")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            "" => self.0.code.fmt(f),
            text => write!(f, "{}: {text}", self.0.code),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("code", &self.0.code).field("text", &self.0.text);
        if let Some(after) = self.0.retry_after {
            debug.field("retry_after", &after);
        }
        debug.finish()
    }
}

impl std::error::Error for Error {}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Self::application(text)
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::application(text)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.code() {
            ErrorCode::DeadlineExceeded => io::ErrorKind::TimedOut,
            ErrorCode::SessionClosed => io::ErrorKind::ConnectionReset,
            ErrorCode::PermissionDenied | ErrorCode::Unauthenticated => io::ErrorKind::PermissionDenied,
            ErrorCode::InvalidArgument => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// The name of the case, one of a closed set, for logs and metrics.
    ///
    /// ```
    /// assert_eq!(frontier::ConnectError::TakenOver.kind(), "taken_over");
    /// ```
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address",
            Self::TooLong { .. } => "too_long",
            Self::Name(_) => "name",
            Self::Tls(_) => "tls",
            Self::Dial { .. } => "dial",
            Self::Handshake { .. } => "handshake",
            Self::Timeout { .. } => "timeout",
            Self::Rejected(_) => "rejected",
            Self::SentAway(_) => "sent_away",
            Self::Protocol(_) => "protocol",
            Self::Lost(_) => "lost",
            Self::Silent { .. } => "silent",
            Self::Atlas { .. } => "atlas",
            Self::NoGateway { .. } => "no_gateway",
            Self::TakenOver => "taken_over",
            Self::Closed => "closed",
        }
    }

    /// Whether the same settings may succeed later.
    ///
    /// ```
    /// assert!(!frontier::ConnectError::TakenOver.is_retryable());
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // A certificate may be renewed on the other side.
            Self::Dial { .. }
            | Self::Handshake { .. }
            | Self::Timeout { .. }
            | Self::Lost(_)
            | Self::Silent { .. }
            | Self::Atlas { .. } => true,
            // More may come, if it is not that this one refuses for good.
            Self::NoGateway { last, .. } => last.as_ref().is_none_or(|last| last.is_retryable()),
            Self::Rejected(error) | Self::SentAway(error) => {
                error.retry_after().is_some() || error.is_retryable()
            }
            Self::Address { .. }
            | Self::TooLong { .. }
            | Self::Name(_)
            | Self::Tls(_)
            | Self::Protocol(_)
            | Self::TakenOver
            | Self::Closed => false,
        }
    }

    /// The code the gateway gave as its reason, if it gave one, or would give.
    ///
    /// ```
    /// assert_eq!(frontier::ConnectError::TakenOver.code(), None);
    /// ```
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Name(error) | Self::Rejected(error) | Self::SentAway(error) => Some(error.code()),
            Self::NoGateway { last: Some(last), .. } => last.code(),
            _ => None,
        }
    }

    /// The same, of a connection that was not welcomed yet: with TLS 1.3 a gateway that does not trust this client says so only behind
    /// the handshake.
    pub(crate) fn before_welcome(self, address: &Address) -> Self {
        match self {
            Self::Lost(source) if source.get_ref().is_some_and(|cause| cause.is::<rustls::Error>()) => {
                Self::Handshake { address: address.to_string(), source }
            }
            other => other,
        }
    }

    /// With its cause, for people.
    pub(crate) fn in_full(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => match cause.source() {
                Some(deeper) => format!("{self}: {cause}: {deeper}"),
                None => format!("{self}: {cause}"),
            },
            None => self.to_string(),
        }
    }

    /// When the gateway asked to come again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(error) | Self::SentAway(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// Milliseconds as they go over the wire: rounded up, so that "soon" is not "nothing said".
pub(crate) fn millis(duration: Duration) -> u32 {
    let micros = duration.as_micros();
    u32::try_from(micros.div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// The longest beginning of `text` that has at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let end = text.floor_char_boundary(max);
    text.get(..end).unwrap_or(text)
}

fn humantime(duration: Duration) -> String {
    format!("{duration:.1?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        let error = Error::new(ErrorCode::Overloaded, "busy").retry_in(Duration::from_millis(1_500));
        assert_eq!(Error::from_wire(error.to_wire()), error);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let error = Error::application("ä".repeat(MAX_TEXT));
        assert_eq!(error.to_wire().text.len(), MAX_TEXT);
        let odd = Error::application(format!("x{}", "ä".repeat(MAX_TEXT)));
        assert_eq!(odd.to_wire().text.len(), MAX_TEXT - 1);
    }

    #[test]
    fn milliseconds_are_rounded_up() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_millis(30_000)), 30_000);
        assert_eq!(millis(Duration::MAX), u32::MAX);
    }

    #[test]
    fn a_refusal_with_a_hint_is_retryable_whatever_its_code() {
        let hint = Error::new(ErrorCode::PermissionDenied, "").retry_in(Duration::from_secs(1));
        assert!(ConnectError::Rejected(hint).is_retryable());
        assert!(!ConnectError::Rejected(Error::new(ErrorCode::PermissionDenied, "")).is_retryable());
    }
}
