//! Who is online: lists for services that ask, and where a single edge is.
//!
//! ```text
//!  Presence ─▶ walk over this shard, then the next … ─▶ edges that came meanwhile ─▶ last page
//!                  │ at most a turn's slots at a time, and only while the service keeps up
//!                  ▼
//!                pages
//! ```
//! So a list holds no more than one step of a walk, however many edges there are. An edge that is online from its begin to its end is on
//! it; one that reconnects meanwhile may be on it twice, the newer session last.

use std::sync::Arc;

use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType},
        head::{Locate, encode_error_reply, error_reply_len},
        presence::EdgeInfoBuilder,
        reader::Frame,
    },
};

use super::{Fault, Shard, account, walks::Walk};
use crate::core::{card::EdgeCard, message::Msg, session::Snapshot, table::SessionRef};

/// Bytes of a page: small calls must not wait long behind one.
const PAGE: usize = 12 << 10;
/// Pages are made while fewer bytes than this wait for the service.
const PACE: usize = 64 << 10;

impl Shard {
    /// A service asks who is online.
    pub(super) fn on_presence(&mut self, me: SessionRef, frame: &Frame<&[u8]>) -> Result<(), Fault> {
        self.control_frame(me)?;
        let id = frame.header.id;
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        let Some(side) = session.service.as_mut() else { return Ok(()) };
        let refusal = if side.snapshot.is_some() {
            Some((ErrorCode::Overloaded, "a snapshot is under way"))
        } else if !self.shared.has_room() {
            Some((ErrorCode::Overloaded, "gateway out of memory budget"))
        } else {
            let late = self.shared.registry.watch_claims();
            let cards = Vec::new();
            let snapshot = Snapshot { id, place: (0, 0), waits: false, cards, late, latecomers: 0 };
            side.snapshot = Some(Box::new(snapshot));
            None
        };
        match refusal {
            Some((code, text)) => {
                let mut head = Vec::with_capacity(error_reply_len(code, text));
                encode_error_reply(&mut head, code, text);
                session.conn.send(FrameHeader::new(FrameType::Presence, id), &head, &[]);
            }
            None => self.continue_snapshot(me),
        }
        Ok(())
    }

    /// Sends the next pages of a list as far as the service keeps up, and asks for more to send.
    pub(super) fn continue_snapshot(&mut self, me: SessionRef) {
        let shards = self.posts.len();
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Some(side) = session.service.as_mut() else { return };
        let Some(snapshot) = side.snapshot.as_mut() else { return };
        let mut sent = false;
        while !snapshot.cards.is_empty() && session.conn.operation_bytes() < PACE {
            let page = page(&mut snapshot.cards);
            let header = FrameHeader::new(FrameType::Presence, snapshot.id).with_flags(Flags::MORE);
            if !page.is_empty() {
                session.conn.send(header, &[], &page);
                sent = true;
            }
        }
        let mut ask = None;
        if snapshot.cards.is_empty() && !snapshot.waits {
            if usize::from(snapshot.place.0) == shards && snapshot.late.is_empty() {
                session.conn.send(FrameHeader::new(FrameType::Presence, snapshot.id), &[], &[]);
                side.snapshot = None;
                sent = true;
            } else {
                snapshot.waits = true;
                ask = Some(snapshot.place);
            }
        }
        if let Some(snapshot) = side.snapshot.as_mut() {
            snapshot.latecomers = snapshot.late.len();
        }
        // What waits for window alone is not to be looked at again in this turn.
        if sent {
            self.touch(me);
        } else {
            account(&self.shared, &self.stats, session);
        }
        match ask {
            Some((shard, _)) if usize::from(shard) == shards => self.walk(Walk::Late { to: me }),
            Some((shard, from)) if shard == self.id => self.walk(Walk::List { to: me, from }),
            Some((shard, from)) => self.post(shard, Msg::List { to: me, from }),
            None => {}
        }
    }

    /// A step of the walk for a service's list: the edges found, and the slot to go on from in the same shard.
    pub(super) fn on_listed(&mut self, me: SessionRef, next: Option<u32>, cards: Vec<Arc<EdgeCard>>) {
        let shards = self.posts.len();
        let session = self.sessions.get_mut(me);
        let snapshot = session.and_then(|session| session.service.as_mut()?.snapshot.as_mut());
        let Some(snapshot) = snapshot else { return };
        snapshot.waits = false;
        snapshot.cards = cards;
        let (shard, _) = snapshot.place;
        snapshot.place = match next {
            Some(slot) => (shard, slot),
            None if usize::from(shard) < shards => (shard + 1, 0),
            None => (shard, 0),
        };
        self.continue_snapshot(me);
    }

    /// Some of the edges that came while a service's list was made.
    pub(super) fn late_ids(&mut self, me: SessionRef, most: usize) -> Vec<u64> {
        let side = self.sessions.get(me).and_then(|session| session.service.as_ref());
        side.and_then(|side| side.snapshot.as_ref()).map_or_else(Vec::new, |list| list.late.take(most))
    }

    /// A service asks whether an edge is here.
    pub(super) fn on_locate(&mut self, me: SessionRef, frame: &Frame<&[u8]>) -> Result<(), Fault> {
        self.control_frame(me)?;
        let edge = Locate::parse(&frame.head)?.edge;
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        let card = self.shared.registry.card(edge);
        let answer = Locate { edge, epoch: card.map_or(0, |card| card.epoch) };
        let mut head = Vec::with_capacity(answer.encoded_len());
        answer.encode(&mut head);
        session.conn.send(FrameHeader::new(FrameType::Locate, frame.header.id), &head, &[]);
        Ok(())
    }
}

/// A page of the last cards.
fn page(cards: &mut Vec<Arc<EdgeCard>>) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE);
    while let Some(card) = cards.last() {
        // Whoever was told that it is gone must not hear after that that it is there.
        if card.announced() {
            let addr = card.addr.to_string();
            let info =
                EdgeInfoBuilder::new(card.id, card.epoch).meta(card.meta()).addr(&addr).labels(card.labels());
            // One edge with much meta makes a page of its own.
            if !page.is_empty() && page.len() + info.page_len() > PAGE {
                break;
            }
            info.append_to_page(&mut page);
        }
        cards.pop();
    }
    page
}
