//! Messages for external queues: in the shard of their sender from beginning to end.
//!
//! A queue takes a message whole and at once, or not at all, so what waits here is only what it has not confirmed. The shard keeps the
//! deadline, whatever the queue does. A confirmation that comes later, or after a cancel or the end of the session, finds no entry.

use bytes::Bytes;
use frontier_wire::{
    error::ErrorCode,
    geminio::data::decode,
    native::{
        frame::{Flags, INITIAL_CREDIT},
        head::CallHead,
    },
};
use hashbrown::HashMap;

use super::{BULK, OUT_OF_BUDGET, PlaceError, Refused, destination, finish::EXPIRE_STEP, whole::Joining};
use crate::core::{
    deadlines::Deadlines,
    message::{Body, Form, Place},
    outlet::{Declined, Letter, Receipt},
    shard::Shard,
    stats::OpKind,
    table::SessionRef,
};

/// What a sender is told when the broker is away and nobody else takes the topic.
const AWAY: Refused = (ErrorCode::TopicNotOnline, "topic not online");
/// Whoever sends many long bodies at the same time.
const TOO_MANY_BODIES: Refused = (ErrorCode::Overloaded, "too many bodies under way");

/// Bytes of tables that are kept for the next message.
const KEPT: usize = 64 << 10;

/// What queues have not confirmed.
#[derive(Debug, Default)]
pub(in crate::core::shard) struct Handed {
    pub(in crate::core::shard) entries: HashMap<u64, Entry>,
    deadlines: Deadlines<u64>,
    next: u64,
    /// Bytes accounted for the two tables.
    pub(in crate::core::shard) accounted: usize,
}

/// A message of a session of this shard.
#[derive(Clone, Copy, Debug)]
pub(in crate::core::shard) struct Entry {
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "the audit of tests compares it")
    )]
    pub(in crate::core::shard) queue: SessionRef,
    pub(in crate::core::shard) from: SessionRef,
    pub(in crate::core::shard) from_id: u64,
    deadline: u64,
    started: u64,
    /// Its body is not complete: the queue has not heard of it.
    joining: bool,
}

// === impl Handed ===

impl Handed {
    /// Bytes of memory that the tables take for somebody. The little that is kept of empty ones is for nobody.
    pub(in crate::core::shard) fn held(&self) -> usize {
        if self.entries.is_empty() { 0 } else { self.memory() }
    }

    fn memory(&self) -> usize {
        self.entries.allocation_size() + self.deadlines.memory()
    }

    /// When something is due next, in microseconds.
    pub(in crate::core::shard) fn next_due(&self) -> Option<u64> {
        Some(self.deadlines.next()).filter(|next| *next != u64::MAX)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn add(&mut self, number: u64, entry: Entry) {
        self.deadlines.add(entry.deadline, number);
        self.entries.insert(number, entry);
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        let left = &self.entries;
        self.deadlines.remove(entry.deadline, |number| left.contains_key(number));
        if self.entries.is_empty() && self.memory() > KEPT {
            // After a burst.
            (self.entries, self.deadlines) = Default::default();
        }
        Some(entry)
    }
}

impl Shard {
    /// Hands a message of a session of this shard to a queue; returns the number under which it is known here.
    pub(super) fn place_queue(&mut self, queue: SessionRef, place: &Place<'_>) -> Result<u64, PlaceError> {
        let outlet = self.names.outlet(&self.shared.registry, queue);
        let outlet = outlet.filter(|outlet| !outlet.is_away()).ok_or(PlaceError::Gone)?;
        let closed = PlaceError::Refused((ErrorCode::SessionClosed, "session closed"));
        let card = self.sessions.get(place.from).and_then(|session| session.card.clone()).ok_or(closed)?;
        let malformed = PlaceError::Refused((ErrorCode::Internal, "malformed head"));
        let call = CallHead::parse(place.head).map_err(|_| malformed)?;
        if !self.shared.admits(outlet.held(), place.head.len() + place.body.len()) {
            return Err(PlaceError::Refused(OUT_OF_BUDGET));
        }
        if place.more {
            return self.join_publish(queue, place, &call);
        }
        let body = match place.form {
            Form::Plain | Form::EdgeInfo => own(&place.body),
            Form::Base64 => decode(place.body.as_slice()).into(),
        };
        let number = self.handed.number();
        let receipt = Receipt::new(place.from, number, &self.shared, place.head.len() + body.len());
        let left = place.deadline.saturating_sub(self.now.micros);
        let letter = Letter { card: &card, call: &call, body, unix_ms: self.now.unix_ms, left, receipt };
        outlet.offer(letter).map_err(|declined| match declined {
            Declined::Away => PlaceError::Gone,
            Declined::Refused(code, text) => PlaceError::Refused((code, text)),
        })?;
        self.note_handed(queue, number, place, false);
        Ok(number)
    }

    fn note_handed(&mut self, queue: SessionRef, number: u64, place: &Place<'_>, joining: bool) {
        let entry = Entry {
            queue,
            from: place.from,
            from_id: place.from_id,
            deadline: place.deadline,
            started: self.now.micros,
            joining,
        };
        self.handed.add(number, entry);
        self.account_handed();
    }

    fn take_handed(&mut self, number: u64) -> Option<Entry> {
        let entry = self.handed.remove(number)?;
        self.account_handed();
        if entry.joining {
            self.take_publish(entry.from, entry.from_id);
        }
        Some(entry)
    }

    fn account_handed(&mut self) {
        let held = self.handed.held();
        self.shared.account(std::mem::replace(&mut self.handed.accounted, held), held);
    }

    /// A queue says what became of a message.
    pub(in crate::core::shard) fn on_confirmed(&mut self, number: u64, outcome: Result<(), Declined>) {
        let Some(entry) = self.take_handed(number) else { return self.stats.late_answers.add(1) };
        match outcome {
            Ok(()) => {
                self.record_handed(&entry, None);
                let (kind, body) = (OpKind::Message, Body::Slice(&[]));
                self.answer(entry.from, entry.from_id, kind, Flags::NONE, &[], body, Form::Plain);
            }
            Err(declined) => {
                let refused = match declined {
                    Declined::Away => AWAY,
                    Declined::Refused(code, text) => (code, text),
                };
                self.fail_handed(&entry, refused);
            }
        }
    }

    fn record_handed(&self, entry: &Entry, error: Option<ErrorCode>) {
        let micros = self.now.micros.saturating_sub(entry.started);
        self.stats.operations[OpKind::Message as usize].record(error, micros);
    }

    fn fail_handed(&mut self, entry: &Entry, (code, text): Refused) {
        self.record_handed(entry, Some(code));
        self.answer_error(entry.from, entry.from_id, OpKind::Message, code, text);
    }

    /// The sender does not wait any more. What a queue has taken stays there: nobody can take it back from a broker.
    pub(super) fn cancel_handed(&mut self, number: u64, code: ErrorCode) {
        if let Some(entry) = self.take_handed(number) {
            self.record_handed(&entry, Some(code));
        }
    }

    /// Fails what is overdue.
    pub(in crate::core::shard) fn expire_handed(&mut self) {
        if self.handed.entries.is_empty() {
            return;
        }
        for _ in 0..EXPIRE_STEP {
            let Some(number) = self.handed.deadlines.pop(self.now.micros) else { break };
            if let Some(entry) = self.take_handed(number) {
                self.fail_handed(&entry, (ErrorCode::DeadlineExceeded, "deadline exceeded"));
            }
        }
        // Looking for what is due clears away what is over.
        self.account_handed();
    }

    // --- bodies in fragments

    /// The first fragment of a message for a queue. Its body is joined among those of the sender, who is granted what has come.
    fn join_publish(
        &mut self,
        queue: SessionRef,
        place: &Place<'_>,
        call: &CallHead<'_>,
    ) -> Result<u64, PlaceError> {
        let settings = &self.shared.settings;
        let most = settings.outbox.max(usize::try_from(settings.body).unwrap_or(usize::MAX));
        let total = usize::try_from(call.total_len).unwrap_or(usize::MAX);
        let mut owned = self.own_place(place.clone_head(), destination(place.sender, place.kind, call), 0);
        // It waits for long, and must not keep a block that it shares.
        owned.head = Bytes::copy_from_slice(place.head);
        let body = place.body.as_slice().to_vec();
        let joining = Joining { place: Some(Box::new(owned)), body, granted: 0, total };
        if !self.add_publish(place.from, place.from_id, joining, most) {
            return Err(PlaceError::Refused(TOO_MANY_BODIES));
        }
        let number = self.handed.number();
        self.note_handed(queue, number, place, true);
        // Its bytes are granted with those of the next one: so far its sender's session does not know where it went.
        Ok(number)
    }

    /// A further fragment of such a body; false if none is joined.
    pub(super) fn join_publish_fragment(
        &mut self,
        from: SessionRef,
        id: u64,
        flags: Flags,
        body: &Body<'_>,
    ) -> bool {
        let Some(grant) = self.extend_publish(from, id, body.as_slice()) else { return false };
        if flags.more() {
            self.credit_body(from, id, u32::try_from(grant).unwrap_or(INITIAL_CREDIT));
            return true;
        }
        let Some((number, queue)) = self.outgoing(from, id).map(|out| (out.local, out.target)) else {
            return true;
        };
        let joined = self.take_publish(from, id);
        let Some(entry) = self.take_handed(number) else { return true };
        if flags.abort() {
            self.fail_handed(&entry, (ErrorCode::Cancelled, "cancelled"));
        } else if let Some(Joining { place: Some(mut place), body, .. }) = joined {
            // As if it came now: its queue may have gone meanwhile, and another receiver may have it then.
            (place.body, place.more, place.hops) = (body.into(), false, 1);
            self.on_place(queue, place);
        }
        true
    }
}

/// A body that may wait for long: by reference where it has a buffer of its own.
fn own(body: &Body<'_>) -> Bytes {
    match body {
        Body::Shared(bytes) if bytes.len() >= BULK => bytes.clone(),
        Body::Shared(bytes) => Bytes::copy_from_slice(bytes),
        Body::Slice(slice) => Bytes::copy_from_slice(slice),
    }
}
