//! What must come of everything peers do: every operation and stream by its number, and what each of them may still hear of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use frontier_gateway::core::stats::OpKind;
use frontier_wire::error::ErrorCode;

/// What a receiver said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Success and so many bytes.
    Fine(usize),
    /// An error of its own.
    Error,
    /// Some bytes, then an error.
    Abort,
}

/// Credit that one side gave and the other got, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Granted {
    pub given: usize,
    pub given_at: u64,
    pub got: usize,
}

/// A call or a message.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub from: usize,
    pub kind: OpKind,
    pub name: &'static str,
    /// The edge it goes to, 0 for a name.
    pub edge: u64,
    pub len: usize,
    pub sent_at: u64,
    /// Its deadline in microseconds, counted from there.
    pub timeout: u64,
    /// Its sender has cancelled it, or broken off its body.
    pub cancelled: bool,
    pub delivered: Option<usize>,
    pub verdict: Option<Verdict>,
    /// Of its body and of its answer.
    pub credit: [Granted; 2],
    /// The answer that its sender heard: none if it was a success.
    pub answer: Option<Option<ErrorCode>>,
}

/// A stream, seen from both ends: its opener's first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire {
    /// Who, and the stream's number there.
    pub ends: [Option<(usize, u64)>; 2],
    pub edge: u64,
    pub name: &'static str,
    pub sent_at: u64,
    pub sent: [usize; 2],
    pub got: [usize; 2],
    pub finished: [bool; 2],
    pub reset: [bool; 2],
    /// Drops what still comes: a guest that has closed it.
    pub deaf: [bool; 2],
    pub accepted: bool,
    pub refused: bool,
    /// The opener heard an OpenAck: none if it was a success.
    pub heard: Option<Option<ErrorCode>>,
}

/// What the keeper of presence events knows of one session of an edge.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Who heard last that it wants to come in.
    pub asked: Option<usize>,
    /// Who refused it.
    pub refused: Option<usize>,
    pub offline: bool,
    /// The edge said itself that it has moved elsewhere.
    pub moved: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub ops: Vec<Op>,
    pub wires: Vec<Wire>,
    /// The newest session of an edge ID: who, its epoch, when it was welcomed.
    pub holders: BTreeMap<u64, (usize, u64, u64)>,
    /// The last message of (sender, name, edge) that a receiver got.
    pub order: BTreeMap<(usize, &'static str, u64, usize), usize>,
    /// When the names that services offer changed last, and the version of them.
    pub names: (u64, u64),
    /// By (edge, epoch).
    pub presence: BTreeMap<(u64, u64), Seen>,
    /// Answers heard: calls, messages, streams.
    pub answers: [u64; 3],
    pub sent: [u64; 3],
    /// Calls that services got from the gateway itself.
    pub asked: u64,
}

/// Bytes that tell where they belong: content repeats after 256 bytes and starts where the number says.
#[derive(Debug)]
pub(crate) struct Content(Bytes);

// === impl Ledger ===

impl Ledger {
    /// An operation reached a receiver whose session began at this time, as far as it knows.
    pub(crate) fn deliver(&mut self, token: usize, to: usize, begun_at: u64) {
        let op = &mut self.ops[token];
        assert_eq!(op.delivered, None, "operation {token} was delivered twice, now to {to}");
        if let Some(Some(code)) = op.answer {
            let unsent = matches!(
                code,
                ErrorCode::EdgeNotOnline
                    | ErrorCode::ServiceNotOnline
                    | ErrorCode::MethodNotFound
                    | ErrorCode::TopicNotOnline
                    | ErrorCode::PermissionDenied
            );
            assert!(!unsent, "operation {token} was delivered although its sender was told {code:?}");
        }
        op.delivered = Some(to);
        if op.kind == OpKind::Message {
            let last = self.order.insert((op.from, op.name, op.edge, to), token);
            // One that was on its way to the session before this one has no order among those to this one.
            // Nor has one on its way to an instance that was another's meanwhile.
            let moved = op.sent_at < begun_at || op.edge == 0 && op.sent_at <= self.names.0;
            assert!(
                last < Some(token) || moved,
                "message {token} came to {to} after {last:?} of the same topic"
            );
        }
    }

    /// A sender heard the end of its operation.
    pub(crate) fn answer(
        &mut self,
        token: usize,
        heard: Result<usize, (ErrorCode, bool)>,
        now: u64,
        max: u64,
    ) {
        let op = &mut self.ops[token];
        assert_eq!(op.answer, None, "operation {token} was answered twice, now with {heard:?}");
        op.answer = Some(heard.err().map(|(code, _)| code));
        self.answers[op.kind as usize] += 1;
        let because = |holds: bool| assert!(holds, "operation {token} heard {heard:?}: {op:?} at {now}");
        match heard {
            Ok(len) => because(op.verdict == Some(Verdict::Fine(len))),
            Err((ErrorCode::Application, true)) => because(op.verdict == Some(Verdict::Abort)),
            Err((ErrorCode::Application, false)) => because(op.verdict == Some(Verdict::Error)),
            Err((ErrorCode::DeadlineExceeded, _)) => because(now >= op.sent_at + op.timeout),
            Err((ErrorCode::Cancelled, _)) => because(op.cancelled),
            Err((ErrorCode::PayloadTooLarge, _)) => {
                let answer = if let Some(Verdict::Fine(len)) = op.verdict { len } else { 0 };
                let abort = op.verdict == Some(Verdict::Abort);
                because(abort || op.len as u64 > max || answer as u64 > max);
            }
            Err((
                ErrorCode::EdgeNotOnline
                | ErrorCode::ServiceNotOnline
                | ErrorCode::MethodNotFound
                | ErrorCode::TopicNotOnline
                | ErrorCode::PermissionDenied,
                _,
            )) => because(op.delivered.is_none()),
            Err((ErrorCode::Overloaded | ErrorCode::SessionClosed, _)) => {}
            Err((
                ErrorCode::Internal
                | ErrorCode::InvalidArgument
                | ErrorCode::GatewayDraining
                | ErrorCode::Unauthenticated,
                _,
            )) => because(false),
        }
    }
}

// === impl Content ===

impl Content {
    const REPEATS: usize = 256;

    pub(crate) fn new() -> Self {
        let longest = frontier_wire::native::frame::MAX_BODY_FRAME as usize + Self::REPEATS;
        Self((0..longest).map(|at| (at % Self::REPEATS) as u8).collect())
    }

    /// `len` bytes from `at` on of what `salt` stands for.
    pub(crate) fn part(&self, salt: usize, at: usize, len: usize) -> Bytes {
        let from = (salt + at) % Self::REPEATS;
        self.0.slice(from..from + len)
    }

    /// The first `len` bytes of what `salt` stands for.
    pub(crate) fn whole(&self, salt: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| ((salt + at) % Self::REPEATS) as u8).collect()
    }

    pub(crate) fn check(&self, salt: usize, mut at: usize, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(65_536));
            if self.part(salt, at, now.len()) != now {
                return false;
            }
            at += now.len();
            bytes = rest;
        }
        true
    }
}
