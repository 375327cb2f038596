//! What is published, and who learns how it ended.

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;

use crate::{Kind, PublishError, amqp::Properties};

/// What a message takes beyond its texts and bytes: the records of it in queue, driver and client library.
const RECORD: usize = 512;

/// Names a message, the same in every copy of it that a resend may make. Random; printed as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u128);

/// A message of an edge on its way to a broker.
#[derive(Clone, Debug)]
pub struct Message {
    /// Names it.
    pub id: MessageId,
    /// The edge it is of.
    pub edge: u64,
    /// The topic that the edge named.
    pub topic: Arc<str>,
    /// Where it goes at the broker: topic, routing key, subject, channel or stream.
    pub destination: Arc<str>,
    /// What the edge sent, untouched.
    pub body: Bytes,
    /// When the gateway took it.
    pub time: SystemTime,
    /// What the body is, if the edge said so.
    pub content_type: Option<Arc<str>>,
    /// The trace it belongs to, as W3C writes it.
    pub traceparent: Option<Arc<str>>,
    /// The application's own. Those named like ours are left out.
    pub headers: Vec<(String, Bytes)>,
    /// When its sender stops waiting.
    pub deadline: Instant,
    /// It is of no edge: a dead letter, which keeps the headers that it came with.
    pub passed: Option<Passed>,
}

/// What a message that is passed on had beside its headers.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// AMQP: its properties.
    pub(crate) properties: Option<Arc<Properties>>,
}

/// Called exactly once with how a message ended; also when the queue goes away or its driver fails.
///
/// It runs on the task that found out, so it must neither block nor take long.
#[must_use]
pub struct Done(Option<Tell>);

type Tell = Box<dyn FnOnce(Result<(), PublishError>) + Send>;

// === impl MessageId ===

impl MessageId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        // Without randomness the system is unusable anyway; the ID is a label and not a secret.
        let _ = getrandom::fill(&mut bytes);
        Self::from_random(u128::from_be_bytes(bytes))
    }

    /// One of these random bits; six of them are replaced by what marks a random UUID.
    #[must_use]
    pub const fn from_random(bits: u128) -> Self {
        let bits = bits & !(0xf << 76) & !(0x3 << 62);
        Self(bits | (0x4 << 76) | (0x2 << 62))
    }

    /// Its 128 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        let (a, b, c, d, e) =
            (n >> 96, n >> 80 & 0xffff, n >> 64 & 0xffff, n >> 48 & 0xffff, n & ((1 << 48) - 1));
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Message ===

impl Message {
    /// Any message to a destination.
    #[cfg(test)]
    pub(crate) fn of_test(destination: &str, body: &'static str) -> Self {
        Self {
            id: MessageId::random(),
            edge: 1,
            topic: Arc::from("asked"),
            destination: Arc::from(destination),
            body: Bytes::from_static(body.as_bytes()),
            time: SystemTime::now(),
            content_type: None,
            traceparent: None,
            headers: Vec::new(),
            passed: None,
            deadline: Instant::now() + std::time::Duration::from_secs(60),
        }
    }

    /// Bytes it counts for in the bound of a queue.
    #[must_use]
    pub fn cost(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        let texts = self.content_type.as_ref().map_or(0, |text| text.len())
            + self.traceparent.as_ref().map_or(0, |text| text.len())
            + self.passed.as_ref().and_then(|passed| passed.properties.as_ref()).map_or(0, |one| one.len());
        RECORD + self.body.len() + self.topic.len() + self.destination.len() + texts + headers
    }
}

// === impl Done ===

impl Done {
    /// Calls `tell`.
    pub fn new(tell: impl FnOnce(Result<(), PublishError>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// Tells.
    pub(crate) fn tell(mut self, result: Result<(), PublishError>) {
        if let Some(tell) = self.0.take() {
            tell(result);
        }
    }

    /// Makes it be forgotten: its owner was told in another way.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(Err(PublishError::new(Kind::Closed, "the queue was closed")));
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_printed_as_random_uuids() {
        assert_eq!(MessageId::from_random(0).to_string(), "00000000-0000-4000-8000-000000000000");
        assert_eq!(MessageId::from_random(u128::MAX).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_ne!(MessageId::random(), MessageId::random());
    }
}
