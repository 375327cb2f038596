//! Who is online: snapshots for services that ask, and where a single edge is.

use frontier_wire::error::ErrorCode;
use frontier_wire::native::frame::{Flags, FrameHeader, FrameType};
use frontier_wire::native::head::{Locate, encode_error_reply, error_reply_len};
use frontier_wire::native::presence::EdgeInfoBuilder;
use frontier_wire::native::reader::Frame;

use super::{Fault, Shard};
use crate::core::session::Snapshot;
use crate::core::table::SessionRef;

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
        let refusal = match session.service.as_mut() {
            None => Some((ErrorCode::PermissionDenied, "only services ask who is online")),
            Some(side) if side.snapshot.is_some() => Some((ErrorCode::Overloaded, "a snapshot is under way")),
            Some(_) if !self.shared.has_room() => {
                Some((ErrorCode::Overloaded, "gateway out of memory budget"))
            }
            Some(side) => {
                let edges = self.shared.registry.announced();
                side.snapshot = Some(Box::new(Snapshot { id, edges }));
                None
            }
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

    /// Sends the next pages of a snapshot as far as the service keeps up.
    pub(super) fn continue_snapshot(&mut self, me: SessionRef) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Some(side) = session.service.as_mut() else { return };
        while session.conn.operation_bytes() < PACE
            && let Some(snapshot) = side.snapshot.as_mut()
        {
            let mut page = Vec::with_capacity(PAGE);
            while let Some(card) = snapshot.edges.last() {
                let addr = card.addr.to_string();
                let info = EdgeInfoBuilder::new(card.id, card.epoch)
                    .meta(card.meta())
                    .addr(&addr)
                    .labels(card.labels());
                // One edge with much meta makes a page of its own.
                if !page.is_empty() && page.len() + info.page_len() > PAGE {
                    break;
                }
                info.append_to_page(&mut page);
                snapshot.edges.pop();
            }
            let last = snapshot.edges.is_empty();
            let flags = if last { Flags::default() } else { Flags::MORE };
            let header = FrameHeader::new(FrameType::Presence, snapshot.id).with_flags(flags);
            session.conn.send(header, &[], &page);
            if last {
                side.snapshot = None;
            }
        }
        self.touch(me);
    }

    /// A service asks whether an edge is here.
    pub(super) fn on_locate(&mut self, me: SessionRef, frame: &Frame<&[u8]>) -> Result<(), Fault> {
        self.control_frame(me)?;
        let edge = Locate::parse(&frame.head)?.edge;
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        // An edge may ask only for what it knows already: itself.
        let allowed = session.service.is_some() || session.id() == edge;
        let card = if allowed { self.shared.registry.card(edge) } else { None };
        let answer = Locate { edge, epoch: card.map_or(0, |card| card.epoch) };
        let mut head = Vec::with_capacity(answer.encoded_len());
        answer.encode(&mut head);
        session.conn.send(FrameHeader::new(FrameType::Locate, frame.header.id), &head, &[]);
        Ok(())
    }
}
