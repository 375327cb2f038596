//! Bodies on their way out in fragments, as far as their receivers grant it.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use frontier_wire::native::frame::{
    Flags, FrameHeader, FrameType, HEADER_LEN, INITIAL_CREDIT, MAX_BODY_FRAME,
};
use tokio::time::Instant;

use super::{Sink, incoming::SILENCE_MAX, lead};

/// Bytes of header, head and body of one fragment: what fits into one yamux frame.
const FRAGMENT: usize = MAX_BODY_FRAME as usize;

/// All bodies of a dialogue on their way out.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    by_key: HashMap<Key, Transfer>,
    /// Those with credit take turns, a fragment each.
    turns: VecDeque<Key>,
}

/// Which body: of an operation of ours, or of our answer to one of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    reply: bool,
    id: u64,
}

/// One body.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) kind: FrameType,
    pub(super) id: u64,
    pub(super) flow: u64,
    /// Goes with the first fragment.
    pub(super) head: Vec<u8>,
    pub(super) body: Bytes,
    /// The order that is free again after the last fragment.
    pub(super) order: Option<u64>,
    /// When nobody waits any more.
    pub(super) deadline: Instant,
    /// When it was last granted something.
    since: Instant,
    credit: usize,
    in_turns: bool,
}

// === impl Transfers ===

impl Transfers {
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.by_key.clear();
        self.turns.clear();
    }

    /// Ends the bodies of our operations; answers to the peer's go on.
    pub(super) fn end_operations(&mut self) {
        self.by_key.retain(|key, _| key.reply);
    }

    /// Takes a body up.
    pub(super) fn begin(&mut self, mut transfer: Transfer, now: Instant) {
        transfer.since = now;
        let key = Key { reply: transfer.kind == FrameType::Response, id: transfer.id };
        self.by_key.insert(key, transfer);
        self.turns.push_back(key);
    }

    /// The receiver grants more.
    pub(super) fn credit(&mut self, reply: bool, id: u64, bytes: u32, now: Instant) {
        let key = Key { reply, id };
        let Some(transfer) = self.by_key.get_mut(&key) else { return };
        transfer.credit = transfer.credit.saturating_add(bytes as usize);
        transfer.since = now;
        if !transfer.in_turns && transfer.credit > 0 {
            transfer.in_turns = true;
            self.turns.push_back(key);
        }
    }

    /// Ends a transfer before its time.
    pub(super) fn remove(&mut self, reply: bool, id: u64) -> Option<Transfer> {
        self.by_key.remove(&Key { reply, id })
    }

    /// Answers for which nobody waits any more, by id. Operations of ours end by their callers.
    pub(super) fn expired(&self, now: Instant) -> Vec<u64> {
        let over = |(key, transfer): &(&Key, &Transfer)| {
            let silent = transfer.credit == 0 && transfer.since + SILENCE_MAX <= now;
            key.reply && (silent || transfer.deadline <= now)
        };
        self.by_key.iter().filter(over).map(|(key, _)| key.id).collect()
    }

    /// Hands out fragments, one per body and turn, until credit or room is used up, or until a body is complete that had held up
    /// others of its order, which is returned.
    pub(super) fn pump(&mut self, sink: &mut impl Sink) -> Option<u64> {
        while sink.room() {
            let key = self.turns.pop_front()?;
            let Some(transfer) = self.by_key.get_mut(&key) else { continue };
            if !transfer.send(sink) {
                if transfer.in_turns {
                    self.turns.push_back(key);
                }
                continue;
            }
            if let Some(Transfer { order: Some(order), .. }) = self.by_key.remove(&key) {
                return Some(order);
            }
        }
        None
    }
}

// === impl Transfer ===

impl Transfer {
    pub(super) fn new(
        kind: FrameType,
        id: u64,
        flow: u64,
        head: Vec<u8>,
        body: Bytes,
        deadline: Instant,
    ) -> Self {
        Self {
            kind,
            id,
            flow,
            head,
            body,
            order: None,
            deadline,
            since: deadline,
            credit: INITIAL_CREDIT as usize,
            in_turns: true,
        }
    }

    /// Sends one fragment if there is credit for it; true after the last one.
    fn send(&mut self, sink: &mut impl Sink) -> bool {
        let most = FRAGMENT.saturating_sub(HEADER_LEN + self.head.len());
        let body = self.body.split_to(self.body.len().min(self.credit).min(most));
        if body.is_empty() {
            self.in_turns = false;
            return false;
        }
        self.credit -= body.len();
        let last = self.body.is_empty();
        let flags = if last { Flags::NONE } else { Flags::MORE };
        let header = FrameHeader::new(self.kind, self.id).with_flags(flags);
        if let Ok(header) = header.with_lens(self.head.len(), body.len()) {
            let mut out = Vec::with_capacity(HEADER_LEN + self.head.len());
            lead(&mut out, header, [&self.head, &[]]);
            sink.piece(self.flow, out.into(), body);
        }
        self.head = Vec::new();
        last
    }
}
