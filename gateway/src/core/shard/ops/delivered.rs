//! Messages that came in by the door: in the shard of their edge from beginning to end.

use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::Flags,
        head::{CallHead, ReplyHead, Sender},
    },
};
use hashbrown::HashMap;

use super::{PlaceError, TRIES, flow, hash_name};
use crate::core::{
    delivery::{DOOR, Delivery, Settle},
    message::{Body, Form, Msg, Place},
    shard::Shard,
    stats::OpKind,
    table::SessionRef,
};

/// What edges have not answered.
#[derive(Debug, Default)]
pub(in crate::core::shard) struct Delivered {
    pub(in crate::core::shard) entries: HashMap<u64, Entry>,
    next: u64,
    /// Bytes accounted for all of them.
    pub(in crate::core::shard) accounted: usize,
}

/// A message on its way to an edge.
#[derive(Debug)]
pub(in crate::core::shard) struct Entry {
    settle: Settle,
    pub(in crate::core::shard) held: usize,
}

impl Shard {
    /// A message from the door for an edge that is, or was a moment ago, in this shard.
    pub(in crate::core::shard) fn on_deliver(&mut self, target: SessionRef, mut delivery: Box<Delivery>) {
        self.delivered.next += 1;
        let number = self.delivered.next;
        // It knows its edge by the head alone, and what is written there was checked when it was made.
        let Ok(call) = CallHead::parse(&delivery.head) else {
            return delivery.settle.tell(Err(ErrorCode::InvalidArgument));
        };
        let place = Place {
            from: DOOR,
            from_id: number,
            sender: Sender::Service(0),
            kind: OpKind::Message,
            more: false,
            head: &delivery.head,
            body: Body::Shared(delivery.body.clone()),
            form: Form::Plain,
            context: None,
            deadline: self.now.micros.saturating_add(delivery.timeout),
            flow: flow(self.secret, DOOR, hash_name(call.name)),
        };
        match self.place(target, &place) {
            Ok(_) => {
                let held = delivery.held();
                self.delivered.entries.insert(number, Entry { settle: delivery.settle, held });
                self.delivered.accounted += held;
                self.shared.account(0, held);
            }
            Err(PlaceError::Refused((code, _))) => self.refuse_delivery(*delivery, code),
            Err(PlaceError::Gone) => {
                delivery.hops += 1;
                let next = self.shared.registry.edge(delivery.edge);
                match next.filter(|next| *next != target && usize::from(delivery.hops) <= TRIES) {
                    Some(next) if next.shard == self.id => self.on_deliver(next, delivery),
                    Some(next) => self.post(next.shard, Msg::Deliver { target: next, delivery }),
                    None => self.refuse_delivery(*delivery, ErrorCode::EdgeNotOnline),
                }
            }
        }
    }

    fn refuse_delivery(&self, delivery: Delivery, code: ErrorCode) {
        self.stats.operations[OpKind::Message as usize].record(Some(code), 0);
        delivery.settle.tell(Err(code));
    }

    /// The edge has answered, or nobody waits for it any more.
    pub(super) fn settle_delivery(&mut self, number: u64, outcome: Result<(), ErrorCode>) {
        let Some(entry) = self.delivered.entries.remove(&number) else { return };
        self.delivered.accounted -= entry.held;
        self.shared.account(entry.held, 0);
        if self.delivered.entries.is_empty() {
            // After a burst.
            self.delivered.entries = HashMap::new();
        }
        entry.settle.tell(outcome);
    }

    /// The acknowledgement of an edge, or a part of one.
    pub(super) fn on_delivery_answer(&mut self, number: u64, flags: Flags, head: &[u8]) {
        if flags.more() {
            return;
        }
        let error = ReplyHead::parse(head).map(|reply| reply.error.map(|error| error.code));
        let outcome = match error {
            Ok(None) if !flags.abort() => Ok(()),
            Ok(Some(code)) => Err(code),
            Ok(None) | Err(_) => Err(ErrorCode::Internal),
        };
        self.settle_delivery(number, outcome);
    }
}
