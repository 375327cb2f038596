//! What a connection has to send, in the order in which it goes.
//!
//! Small packets are encoded one behind the other into blocks, so that a batch of them costs one write. A large payload that is encoded
//! already goes by reference between the two parts of its packet. Raw bytes of sessions do not wait here but with their session
//! ([`dialogue`](super::dialogue)) until the socket takes more.
//!
//! ```text
//!  block … block │ lead │ payload (shared) │ tail + next block … ─▶ writev
//! ```
//! The outbox exists only while there is something to send.

use std::{collections::VecDeque, io::IoSlice, mem};

use bytes::Bytes;

use super::{
    data::{Content, Object},
    packet::{HEADER_LEN, MAX_BODY, PacketHeader, PacketType},
};

/// From this size on a block is closed and the next one begun.
const BLOCK: usize = 65_536;
/// What a block has room for from its beginning: the packets of most writes, without growing step by step.
const FIRST_ROOM: usize = 512;
/// From this size in bytes on an encoded payload goes by reference instead of being copied into a block.
const BULK: usize = 16_384;

/// A packet that no receiver would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet payload too large")]
pub struct TooLarge;

/// An encoded packet.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    lead: Vec<u8>,
    /// By reference; empty if all is in `lead`.
    payload: Bytes,
    tail: Vec<u8>,
}

/// Bytes that go in one piece.
#[derive(Debug)]
enum Segment {
    Own(Vec<u8>),
    Shared(Bytes),
}

/// Raw bytes of a session among what is queued, and who is told when the last of them was written.
#[derive(Debug)]
struct Mark {
    /// Where they end, in bytes since the outbox was made.
    end: usize,
    raw: usize,
    report: Report,
}

/// Raw bytes of a session whose writing is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) session: u64,
    pub(super) bytes: u32,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Outbox {
    segments: VecDeque<Segment>,
    /// The block that small packets are appended to; behind all segments.
    block: Vec<u8>,
    /// Bytes of the first segment that are written already.
    written: usize,
    /// Bytes in segments that are not written.
    segment_bytes: usize,
    /// Raw bytes of sessions, in order.
    marks: VecDeque<Mark>,
    /// All bytes in those: their writers are slowed down by other means than operations.
    raw: usize,
    /// Bytes written since the outbox was made.
    done: usize,
    /// Bytes of answers that nobody but the peer asked for, less what was written since.
    replies: usize,
}

// === impl Encoded ===

impl Encoded {
    /// A packet of a session with a JSON object.
    pub(super) fn new(
        kind: PacketType,
        id: u64,
        session: u64,
        object: &Object<'_>,
    ) -> Result<Self, TooLarge> {
        check(object)?;
        let mut packet = Self::default();
        match &object.value {
            Content::Shared(payload) if payload.len() >= BULK => {
                object.put_tail(&mut packet.tail);
                packet.payload = payload.clone();
                let behind = packet.tail.len().saturating_add(payload.len());
                put(&mut packet.lead, kind, id, session, object, Some(behind))?;
            }
            Content::Shared(_) | Content::None | Content::Plain(_) | Content::Encoded(_) => {
                put(&mut packet.lead, kind, id, session, object, None)?;
            }
        }
        // It may wait for long.
        packet.lead.shrink_to_fit();
        Ok(packet)
    }

    pub(super) fn len(&self) -> usize {
        self.lead.len().saturating_add(self.payload.len()).saturating_add(self.tail.len())
    }
}

/// Refuses what cannot fit before anything is encoded.
fn check(object: &Object<'_>) -> Result<(), TooLarge> {
    if object.value.encoded_len() > MAX_BODY as usize { Err(TooLarge) } else { Ok(()) }
}

/// Bytes that a packet of a session takes at most, unless its texts need many escapes.
fn room(object: &Object<'_>) -> usize {
    HEADER_LEN.saturating_add(size_of::<u64>()).saturating_add(object.room())
}

/// Appends a packet: whole, or (with the length of payload and tail that go behind) its lead.
fn put(
    out: &mut Vec<u8>,
    kind: PacketType,
    id: u64,
    session: u64,
    object: &Object<'_>,
    behind: Option<usize>,
) -> Result<(), TooLarge> {
    let start = out.len();
    out.reserve(room(object).saturating_sub(behind.unwrap_or_default()));
    out.extend_from_slice(&[0; HEADER_LEN]);
    let from = out.len();
    out.extend_from_slice(&session.to_be_bytes());
    if behind.is_some() {
        object.put_lead(out);
    } else {
        object.put(out);
    }
    let body = out.len().saturating_sub(from).saturating_add(behind.unwrap_or_default());
    if body > MAX_BODY as usize {
        out.truncate(start);
        return Err(TooLarge);
    }
    if let Some(space) = out.get_mut(start..from) {
        space.copy_from_slice(&PacketHeader::new(kind, id).with_body(body).encode());
    }
    Ok(())
}

// === impl Outbox ===

impl Outbox {
    /// Where to append small packets.
    pub(super) fn block(&mut self) -> &mut Vec<u8> {
        self.block_for(0)
    }

    /// The same, with room for so many bytes.
    fn block_for(&mut self, len: usize) -> &mut Vec<u8> {
        if self.block.len() >= BLOCK {
            self.close_block();
        }
        if self.block.capacity() == 0 {
            self.block.reserve_exact(len.max(FIRST_ROOM));
        } else {
            self.block.reserve(len);
        }
        &mut self.block
    }

    /// Appends a small packet that answers the peer by itself.
    pub(super) fn reply(&mut self, header: PacketHeader, body: &[u8]) {
        self.replies = self.replies.saturating_add(HEADER_LEN).saturating_add(body.len());
        header.put(self.block(), body);
    }

    /// Appends a packet of a session with a JSON object.
    pub(super) fn put(
        &mut self,
        kind: PacketType,
        id: u64,
        session: u64,
        object: &Object<'_>,
    ) -> Result<(), TooLarge> {
        check(object)?;
        match &object.value {
            Content::Shared(payload) if payload.len() >= BULK => {
                let packet = Encoded::new(kind, id, session, object)?;
                self.push(packet);
                Ok(())
            }
            Content::Shared(_) | Content::None | Content::Plain(_) | Content::Encoded(_) => {
                put(self.block_for(room(object)), kind, id, session, object, None)
            }
        }
    }

    /// Appends an encoded packet.
    pub(super) fn push(&mut self, packet: Encoded) {
        if packet.payload.is_empty() {
            self.block_for(packet.lead.len()).extend_from_slice(&packet.lead);
            return;
        }
        self.block().extend_from_slice(&packet.lead);
        self.close_block();
        self.segment(Segment::Shared(packet.payload));
        self.block().extend_from_slice(&packet.tail);
    }

    /// Appends one Stream packet made of `pieces`, each with whether to report it.
    pub(super) fn push_raw(&mut self, id: u64, session: u64, pieces: Vec<(Bytes, bool)>) {
        let sum = |len: usize, (piece, _): &(Bytes, bool)| len.saturating_add(piece.len());
        let len = pieces.iter().fold(0, sum);
        let copied = pieces.iter().filter(|(piece, _)| piece.len() < BULK).fold(0, sum);
        let header = PacketHeader::new(PacketType::Stream, id).with_body(len.saturating_add(8));
        let block = self.block_for(copied.saturating_add(HEADER_LEN).saturating_add(8));
        block.extend_from_slice(&header.encode());
        block.extend_from_slice(&session.to_be_bytes());
        let (mut raw, mut reported) = (0_usize, 0_usize);
        for (piece, report) in pieces {
            let count = if report { piece.len() } else { 0 };
            if piece.len() >= BULK {
                self.mark(session, raw, reported);
                (raw, reported) = (0, 0);
                self.close_block();
                let len = piece.len();
                self.segment(Segment::Shared(piece));
                self.mark(session, len, count);
            } else {
                self.block.extend_from_slice(&piece);
                raw = raw.saturating_add(piece.len());
                reported = reported.saturating_add(count);
            }
        }
        self.mark(session, raw, reported);
    }

    /// The last bytes queued are raw bytes of a session, and so many of them are to be reported.
    fn mark(&mut self, session: u64, raw: usize, reported: usize) {
        if raw > 0 {
            let report = Report { session, bytes: u32::try_from(reported).unwrap_or(u32::MAX) };
            self.raw = self.raw.saturating_add(raw);
            self.marks.push_back(Mark { end: self.done.saturating_add(self.bytes()), raw, report });
        }
    }

    fn close_block(&mut self) {
        if !self.block.is_empty() {
            let block = mem::take(&mut self.block);
            self.segment(Segment::Own(block));
        }
    }

    fn segment(&mut self, segment: Segment) {
        self.segment_bytes = self.segment_bytes.saturating_add(segment.as_slice().len());
        self.segments.push_back(segment);
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.block.is_empty()
    }

    /// Bytes that are to be written.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.segment_bytes.saturating_add(self.block.len())
    }

    /// Bytes of everything but raw bytes of sessions.
    #[must_use]
    pub fn operation_bytes(&self) -> usize {
        self.bytes().saturating_sub(self.raw)
    }

    /// Bytes of answers made without the user that may still wait.
    pub(super) fn replies(&self) -> usize {
        self.replies
    }

    /// What to write next, in order; at most `max` slices are added.
    pub fn slices<'a>(&'a self, slices: &mut impl Extend<IoSlice<'a>>, max: usize) {
        let mut skip = self.written;
        for segment in self.segments.iter().take(max) {
            slices.extend([IoSlice::new(segment.as_slice().get(skip..).unwrap_or_default())]);
            skip = 0;
        }
        if self.segments.len() < max && !self.block.is_empty() {
            slices.extend([IoSlice::new(&self.block)]);
        }
    }

    /// The transport took `n` bytes. `report` is told how many raw bytes of which session were written for good.
    pub(super) fn written(&mut self, mut n: usize, mut report: impl FnMut(Report)) {
        self.replies = self.replies.saturating_sub(n);
        self.done = self.done.saturating_add(n);
        if n > self.segment_bytes {
            self.close_block();
        }
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.end <= self.done) {
            self.raw = self.raw.saturating_sub(mark.raw);
            if mark.report.bytes > 0 {
                report(mark.report);
            }
        }
        while let Some(front) = self.segments.front() {
            let left = front.as_slice().len().saturating_sub(self.written);
            let taken = n.min(left);
            self.segment_bytes = self.segment_bytes.saturating_sub(taken);
            n = n.saturating_sub(taken);
            if taken < left {
                self.written = self.written.saturating_add(taken);
                return;
            }
            self.written = 0;
            self.segments.pop_front();
        }
    }
}

// === impl Segment ===

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geminio::time::Time;

    fn all(outbox: &Outbox) -> Vec<u8> {
        let mut slices = Vec::new();
        outbox.slices(&mut slices, 64);
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn a_payload_by_reference_gives_the_same_packet_as_a_copied_one() {
        let payload = Bytes::from(vec![b'A'; BULK]);
        let object = |value| Object { key: Content::Plain(b"echo"), value, error: "e", ..Object::default() };
        let (mut copied, mut shared) = (Outbox::default(), Outbox::default());
        copied.put(PacketType::Request, 7, 1, &object(Content::Encoded(&payload))).unwrap();
        shared.put(PacketType::Request, 7, 1, &object(Content::Shared(payload.clone()))).unwrap();
        assert_eq!(all(&copied), all(&shared));
        let mut slices = Vec::new();
        shared.slices(&mut slices, 64);
        assert!(slices.iter().any(|slice| slice.as_ptr() == payload.as_ptr()), "not by reference");
        assert_eq!(shared.bytes(), all(&shared).len());
    }

    #[test]
    fn a_packet_that_no_receiver_takes_is_not_begun() {
        let room = MAX_BODY as usize - 8 - r#"{"value":""}"#.len();
        for (len, fits) in [(room, true), (room + 1, false), (MAX_BODY as usize + 1, false)] {
            for shared in [false, true] {
                let payload = Bytes::from(vec![b'A'; len]);
                let value =
                    if shared { Content::Shared(payload.clone()) } else { Content::Encoded(&payload) };
                let mut outbox = Outbox::default();
                let put = outbox.put(PacketType::Request, 7, 1, &Object { value, ..Object::default() });
                assert_eq!(put.is_ok(), fits, "{len}");
                assert_eq!(outbox.is_empty(), !fits);
            }
        }
    }

    #[test]
    fn raw_bytes_are_reported_when_they_are_written() {
        let mut outbox = Outbox::default();
        outbox.reply(PacketHeader::new(PacketType::HeartbeatAck, 1), b"");
        let pieces = [
            (Bytes::from(vec![1; 10]), true),
            (Bytes::from(vec![2; BULK]), true),
            (Bytes::from(vec![3; 5]), false),
        ];
        outbox.push_raw(9, 4, pieces.to_vec());
        outbox.reply(PacketHeader::new(PacketType::HeartbeatAck, 2), b"");
        let bytes = all(&outbox);
        assert_eq!(outbox.bytes(), bytes.len());
        assert_eq!(outbox.operation_bytes(), bytes.len() - BULK - 15);
        let mut reported = Vec::new();
        for step in bytes.chunks(1_000) {
            assert!(all(&outbox).starts_with(step));
            outbox.written(step.len(), |report| reported.push((report.session, report.bytes)));
        }
        assert!(outbox.is_empty());
        assert_eq!(reported, [(4, 10), (4, BULK as u32)]);
        assert_eq!((outbox.bytes(), outbox.operation_bytes()), (0, 0));
    }

    #[test]
    fn small_raw_packets_share_a_block_and_are_reported_each_at_its_end() {
        let mut outbox = Outbox::default();
        for session in 2..5 {
            outbox.push_raw(9, session, vec![(Bytes::from(vec![7; 100]), true)]);
        }
        let mut slices = Vec::new();
        outbox.slices(&mut slices, 64);
        assert_eq!(slices.len(), 1);
        let mut reported = Vec::new();
        let packet = HEADER_LEN + 8 + 100;
        for n in [packet - 1, 1, 2 * packet] {
            outbox.written(n, |report| reported.push(report.session));
            reported.push(0);
        }
        assert_eq!(reported, [0, 2, 0, 3, 4, 0]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_block_does_not_grow_for_the_packets_of_a_usual_write() {
        let time = Some(Time::from_unix_nanos(1_777_777_777_123_456_789));
        let error = "it is not there";
        for payload in [64, 1_000, 10_000] {
            let value = vec![b'A'; payload];
            let object = Object {
                meta: Content::Plain(b"meta"),
                key: Content::Plain(b"echo"),
                value: Content::Encoded(&value),
                topic: "a topic",
                custom: Content::Plain(&[0; 8]),
                error,
                peer: "18446744073709551615",
                timeout: i64::MIN,
                deadline: time,
                context: time,
            };
            let mut outbox = Outbox::default();
            outbox.put(PacketType::Request, u64::MAX, 1, &object).unwrap();
            assert!(outbox.block.len() <= room(&object), "{} bytes", outbox.block.len());
            let capacity = outbox.block.capacity();
            assert!(capacity == room(&object).max(FIRST_ROOM), "grown to {capacity}");
        }
        let mut outbox = Outbox::default();
        outbox.reply(PacketHeader::new(PacketType::HeartbeatAck, 1), b"");
        outbox.put(PacketType::Response, 2, 1, &Object::default()).unwrap();
        assert_eq!(outbox.block.capacity(), FIRST_ROOM);
    }
}
