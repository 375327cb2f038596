//! One peer: what it has started, what it was asked and how it behaves.

use std::collections::BTreeMap;

use bytes::Bytes;
use frontier_gateway::{
    core::{Bound, stats::OpKind},
    sim::dialer::Dialer,
};
use frontier_wire::{
    native::{
        frame::{Flags, FrameHeader, FrameType, INITIAL_CREDIT, MAX_BODY_FRAME},
        hello::Hello,
    },
    yamux::StreamId,
};

use super::{
    ledger::Content,
    plan::{Answer, Reading},
    streams::Line,
};

/// IDs of peers' operations begin here.
pub(crate) const FIRST_ID: u64 = 10;

/// Where a peer is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Has not said hello.
    Silent,
    Greeted,
    Ready,
    /// Has broken the rules: nothing it hears is looked at.
    Rogue,
    /// The connection has ended, or it was cut off.
    Over,
}

/// A body on its way to the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub kind: FrameType,
    /// Of the first frame.
    pub head: Vec<u8>,
    pub salt: usize,
    pub total: usize,
    pub sent: usize,
    pub begun: bool,
    pub credit: usize,
    pub flow: u64,
    /// Stops here with *abort*.
    pub abort: Option<Vec<u8>>,
}

/// An operation that this peer is to answer.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// None: one of the gateway's own.
    pub token: Option<usize>,
    pub kind: OpKind,
    pub got: usize,
    pub total: usize,
    pub complete: bool,
    pub answer: Answer,
    /// Of the gateway's own: what is asked of whom.
    pub asked: Option<(&'static str, u64, u64)>,
}

/// How a peer is done with an operation that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Answered,
    Cancelled,
}

/// See the module documentation.
pub(crate) struct Agent {
    pub dialer: Dialer,
    pub bound: Bound,
    pub hello: Hello,
    pub phase: Phase,
    pub id: u64,
    pub epoch: u64,
    pub begun_at: u64,
    pub reading: Reading,
    /// A slow reader has a timer running.
    pub reads_later: bool,
    /// Its network is good, and it always read at once.
    pub good: bool,
    /// It said that it goes away.
    pub leaving: bool,
    next_id: u64,
    /// Unanswered, by ID: the number in the ledger.
    pub ops: BTreeMap<u64, usize>,
    /// Bodies of its operations under way, by ID.
    pub uploads: BTreeMap<u64, Upload>,
    /// Answers under way, by ID.
    pub replies: BTreeMap<u64, Upload>,
    /// Of answers in fragments: bytes so far and in all.
    pub downloads: BTreeMap<u64, (usize, usize)>,
    pub tasks: BTreeMap<u64, Task>,
    pub done: BTreeMap<u64, Done>,
    /// Register and Unregister without an answer.
    pub names: BTreeMap<u64, (bool, Vec<&'static str>)>,
    /// Names it offers or did: until when, in microseconds.
    pub offered: BTreeMap<&'static str, u64>,
    /// Credit and window kept back.
    pub kept: Vec<(u64, Flags, u32)>,
    pub lines: BTreeMap<StreamId, Line>,
}

// === impl Agent ===

impl Agent {
    pub(crate) fn new(dialer: Dialer, bound: Bound, hello: Hello, reading: Reading) -> Self {
        let mut offered = BTreeMap::new();
        for name in super::world::METHODS.iter().chain(&super::world::TOPICS).chain(&super::world::SERVICES) {
            let said = hello.methods.iter().chain(&hello.topics).chain([&hello.name]);
            if said.into_iter().any(|said| said == name) {
                offered.insert(*name, u64::MAX);
            }
        }
        Self {
            dialer,
            bound,
            hello,
            phase: Phase::Silent,
            id: 0,
            epoch: 0,
            begun_at: 0,
            reading,
            reads_later: false,
            good: false,
            leaving: false,
            next_id: FIRST_ID,
            ops: BTreeMap::new(),
            uploads: BTreeMap::new(),
            replies: BTreeMap::new(),
            downloads: BTreeMap::new(),
            tasks: BTreeMap::new(),
            done: BTreeMap::new(),
            names: BTreeMap::new(),
            offered,
            kept: Vec::new(),
            lines: BTreeMap::new(),
        }
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Hands everything that has credit to the protocol.
    pub(crate) fn pump(&mut self, content: &Content) {
        let (dialer, mut over) = (&mut self.dialer, Vec::new());
        for (reply, uploads) in [(false, &mut self.uploads), (true, &mut self.replies)] {
            for (id, upload) in uploads.iter_mut() {
                if upload.pump(*id, dialer, content) {
                    over.push((reply, *id));
                }
            }
        }
        for (reply, id) in over {
            if reply {
                self.replies.remove(&id)
            } else {
                self.uploads.remove(&id)
            };
        }
        for (stream, line) in &mut self.lines {
            line.pump(*stream, &mut self.dialer, content);
        }
    }
}

// === impl Upload ===

impl Upload {
    pub(crate) fn new(kind: FrameType, head: Vec<u8>, salt: usize, total: usize, flow: u64) -> Self {
        let credit = INITIAL_CREDIT as usize;
        Self { kind, head, salt, total, sent: 0, begun: false, credit, flow, abort: None }
    }

    /// Sends what there is credit for; true at its end.
    fn pump(&mut self, id: u64, dialer: &mut Dialer, content: &Content) -> bool {
        loop {
            if self.begun
                && let Some(error) = self.abort.take()
            {
                let header = FrameHeader::new(self.kind, id).with_flags(Flags::ABORT);
                dialer.send_in(self.flow, header, &error, Bytes::new());
                return true;
            }
            let n = (self.total - self.sent).min(MAX_BODY_FRAME as usize).min(self.credit);
            if self.begun && n == 0 {
                return false;
            }
            let more = self.sent + n < self.total;
            let head = if self.begun { Vec::new() } else { std::mem::take(&mut self.head) };
            let flags = if more { Flags::MORE } else { Flags::NONE };
            let header = FrameHeader::new(self.kind, id).with_flags(flags);
            dialer.send_in(self.flow, header, &head, content.part(self.salt, self.sent, n));
            self.begun = true;
            self.sent += n;
            self.credit -= n;
            if !more {
                return true;
            }
        }
    }
}
