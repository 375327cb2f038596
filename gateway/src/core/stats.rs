//! Counters of one shard. Only the shard writes them, everybody may read them: a plain load and store instead of a locked add.

use std::sync::atomic::{AtomicU64, Ordering};

use frontier_wire::error::ErrorCode;

/// Buckets of a latency histogram: bucket n counts values below 2^n microseconds, the last one everything above.
pub const LATENCY_BUCKETS: usize = 26;

/// A number written by one thread.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

/// What kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// A request and its response.
    Call,
    /// A message and its acknowledgement.
    Message,
    /// A user stream.
    Stream,
}

/// Outcomes of one kind of operation: index 0 is success, then the error codes by number.
#[derive(Debug, Default)]
pub struct Outcomes {
    counts: [Count; ErrorCode::ALL.len() + 1],
    /// Time from the first frame to the answer.
    pub latency: Times,
}

/// Times in buckets.
#[derive(Debug)]
pub struct Times {
    /// See [`LATENCY_BUCKETS`].
    pub buckets: [Count; LATENCY_BUCKETS],
    /// Sum of the times in microseconds.
    pub micros: Count,
}

/// Why a connection was turned away or cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// `limits.sessions`, memory or `limits.pipes`, or it gave way while too many said nothing.
    Full,
    /// `limits.accept_rate`.
    Rate,
    /// Not a protocol of this listener, or not the role that it is for.
    Protocol,
    /// The handshake was not done in time, or a session gave no sign of life.
    Timeout,
    /// Identity or service said no.
    Denied,
    /// A protocol rule was broken.
    Malformed,
    /// It flooded, or did not take what waited for it.
    Abuse,
    /// It went away before it had said who it is: port scans and probes do.
    Gone,
    /// The process has too few descriptors left.
    Descriptors,
}

/// Everything a shard counts.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections taken from listeners.
    pub accepts: Count,
    /// Of those, connections of other protocols that are piped to a target of the bypass.
    pub piped: Count,
    /// Times that a listener took nothing for a moment, because the process had too few descriptors or the system refused.
    pub accept_pauses: Count,
    /// By [`Refusal`].
    pub refusals: [Count; Refusal::ALL.len()],
    /// Sessions now: edges, services.
    pub sessions: [Count; 2],
    /// Of those, the ones that speak geminio.
    pub geminio: [Count; 2],
    /// Connections that speak geminio, those included that are being closed.
    pub geminio_open: Count,
    /// Sessions replaced by a newer one: of the same edge ID, or of the same place in a service's pool.
    pub takeovers: Count,
    /// Sessions of edges replaced by a newer one at another gateway.
    pub takeovers_elsewhere: Count,
    /// Bytes read from and written to sockets, after TLS.
    pub bytes_in: Count,
    /// See `bytes_in`.
    pub bytes_out: Count,
    /// Bytes waiting in outboxes now.
    pub outbox_bytes: Count,
    /// User streams open now (legs; a stream has two).
    pub legs: Count,
    /// Operations by kind and outcome.
    pub operations: [Outcomes; 3],
    /// Answers that nobody waits for any more.
    pub late_answers: Count,
    /// Slots for messages that were reopened because a geminio peer that reads has acknowledged nothing for long.
    pub reopened_slots: Count,
    /// Streams ended because a slow reader held up all that their writer, a geminio peer, sends.
    pub stalled_streams: Count,
    /// Turns of the loop.
    pub turns: Count,
    /// Time that each of them took: how late a frame may have been handled.
    pub turn: Times,
    /// Panics caught, most of them while a session was handled.
    pub panics: Count,
    /// Sessions cut to keep within `limits.memory`.
    pub memory_cuts: Count,
}

// === impl Count ===

impl Count {
    /// Adds; only the owning shard may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts; only the owning shard may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Outcomes ===

impl Outcomes {
    /// Counts one operation that took `micros`.
    pub fn record(&self, error: Option<ErrorCode>, micros: u64) {
        self.counts[error.map_or(0, |code| code.to_wire() as usize)].add(1);
        self.latency.record(micros);
    }

    /// How many ended so; `None` is success.
    #[must_use]
    pub fn count(&self, error: Option<ErrorCode>) -> u64 {
        self.counts[error.map_or(0, |code| code.to_wire() as usize)].get()
    }
}

// === impl Times ===

impl Times {
    /// Counts one time.
    pub fn record(&self, micros: u64) {
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(LATENCY_BUCKETS - 1)].add(1);
        self.micros.add(micros);
    }
}

impl Default for Times {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Count::default()), micros: Count::default() }
    }
}

// === impl Refusal ===

impl Refusal {
    /// Every reason, in the order of [`Stats::refusals`].
    pub const ALL: [Self; 9] = [
        Self::Full,
        Self::Rate,
        Self::Protocol,
        Self::Timeout,
        Self::Denied,
        Self::Malformed,
        Self::Abuse,
        Self::Gone,
        Self::Descriptors,
    ];

    /// The word used in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Rate => "rate",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::Abuse => "abuse",
            Self::Gone => "gone",
            Self::Descriptors => "descriptors",
        }
    }
}

// === impl OpKind ===

impl OpKind {
    /// Every kind, in the order of [`Stats::operations`].
    pub const ALL: [Self; 3] = [Self::Call, Self::Message, Self::Stream];

    /// Its word, in what simulations say.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Message => "message",
            Self::Stream => "stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorCode, LATENCY_BUCKETS, Outcomes};

    #[test]
    fn outcomes_count_by_code_and_time() {
        let outcomes = Outcomes::default();
        outcomes.record(None, 0);
        outcomes.record(None, 1);
        outcomes.record(Some(ErrorCode::Overloaded), 1000);
        outcomes.record(Some(ErrorCode::Application), u64::MAX);
        assert_eq!(outcomes.count(None), 2);
        assert_eq!(outcomes.count(Some(ErrorCode::Overloaded)), 1);
        assert_eq!(outcomes.latency.buckets[0].get(), 1);
        assert_eq!(outcomes.latency.buckets[1].get(), 1);
        assert_eq!(outcomes.latency.buckets[10].get(), 1);
        assert_eq!(outcomes.latency.buckets[LATENCY_BUCKETS - 1].get(), 1);
    }
}
