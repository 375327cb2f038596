//! Cuts a byte stream into packets.
//!
//! Bytes come as they were read, in pieces of any size. A packet that lies whole in the input is handed out as pieces of the input:
//! nothing is allocated or copied. Only a packet cut by the end of the input is assembled:
//!
//! ```text
//!                whole in the input ─────────────────────────────────────────▶ Packet (pieces of the input)
//!  idle ── cut ─▶ Small: header and body; grows as bytes come ───────────────▶ Packet (owned)
//!    ▲              └─ fixed part complete, body ≥ 16 KiB ─▶ Big: own buffer ─▶ Packet (owned)
//!    ├── Stream: raw bytes go out as they come, whatever their packet's length
//!    └── Skip: a type nobody knows, or a body that is too long; counted down, not held
//! ```
//! Nothing is reserved on a peer's word beyond 128 KiB, and nothing at all before header and fixed part have arrived. After a packet is
//! complete no buffer stays: an idle reader is one null pointer.

use std::{mem, ops::Deref};

use bytes::Bytes;

use super::{
    limits::{PacketError, PacketLimits},
    packet::{HEADER_LEN, PacketHeader, PacketType, number_at},
};
use crate::chunk::{Chunk, Piece};

/// From this length in bytes on, a body that is not whole in the input gets a buffer of its own, which a driver may fill straight from
/// the socket. Below, copying once is cheaper than another system call.
pub const BIG_BODY: u32 = 16_384;

/// Bytes reserved for a body on the word of its header; from then on the buffer doubles with what has arrived.
const RESERVED: usize = 131_072;

/// Bytes of a Stream packet read straight from the socket at a time.
const DIRECT_MAX: usize = 65_536;

/// The longest fixed part of a body.
const MAX_FIXED: usize = 18;

/// Assembles packets from input of any cut. 8 bytes when idle.
#[derive(Debug, Default)]
pub struct PacketReader {
    partial: Option<Box<Partial>>,
}

/// A complete packet.
#[derive(Clone, Debug)]
pub struct Packet<B> {
    /// Type, ID and length.
    pub header: PacketHeader,
    /// The fixed part, zero behind its end.
    fixed: [u8; MAX_FIXED],
    /// What follows the fixed part: JSON, or a name.
    pub rest: Piece<B>,
}

/// What was cut out of the input.
#[derive(Clone, Debug)]
pub enum Item<B> {
    /// A complete packet of any type but Stream.
    Packet(Packet<B>),
    /// Raw bytes of a session, at least one, cut anywhere.
    Raw {
        /// The session.
        session: u64,
        /// The bytes.
        bytes: Piece<B>,
    },
    /// A Message, a Request or the answer to one beyond the limit; its body is skipped.
    TooLarge {
        /// Its header.
        header: PacketHeader,
        /// The session.
        session: u64,
    },
}

/// A packet whose end has not come yet.
#[derive(Debug)]
enum Partial {
    /// Header and body, as far as they came.
    Small(Vec<u8>),
    /// Header and fixed part are complete, the rest is being filled.
    Big { header: PacketHeader, fixed: [u8; MAX_FIXED], body: Vec<u8> },
    /// So many raw bytes of a session are still to come; those being read straight from the socket.
    Raw { session: u64, left: u32, direct: Vec<u8> },
    /// So many bytes that nobody wants are still to come.
    Skip(u32),
}

/// What one step of the reader came to.
enum Step<B> {
    Again,
    Starved,
    Done(Item<B>),
}

/// What follows header and fixed part.
enum Kind {
    Raw(u64),
    TooLarge(u64),
    Unknown,
    Other,
}

// === impl PacketReader ===

impl PacketReader {
    /// An idle reader.
    #[must_use]
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Consumes input up to the end of the next item and returns that; `None` when the input is used up.
    ///
    /// # Errors
    /// When a packet breaks the limits. The input is not consumed past the header, and every further call with input fails likewise.
    pub fn next<B: Chunk>(
        &mut self,
        input: &mut B,
        limits: &PacketLimits,
    ) -> Result<Option<Item<B>>, PacketError> {
        loop {
            let step = match self.partial.as_deref_mut() {
                None if input.is_empty() => Step::Starved,
                None => self.start(input, limits)?,
                Some(Partial::Small(_)) => self.fill_small(input, limits)?,
                Some(Partial::Big { header, body, .. }) => {
                    let goal = rest_len(header);
                    pull(body, goal, input);
                    self.finish_big().map_or(Step::Starved, Step::Done)
                }
                Some(Partial::Raw { session, left, .. }) => {
                    let len = input.len().min(*left as usize);
                    let item = Item::Raw { session: *session, bytes: Piece::Input(input.take_front(len)) };
                    *left = left.saturating_sub(u32::try_from(len).unwrap_or(u32::MAX));
                    if *left == 0 {
                        self.partial = None;
                    }
                    if len == 0 { Step::Starved } else { Step::Done(item) }
                }
                Some(Partial::Skip(left)) => {
                    let len = input.len().min(*left as usize);
                    input.skip(len);
                    *left = left.saturating_sub(u32::try_from(len).unwrap_or(u32::MAX));
                    if *left == 0 { self.end() } else { Step::Starved }
                }
            };
            match step {
                Step::Again => {}
                Step::Starved => return Ok(None),
                Step::Done(item) => return Ok(Some(item)),
            }
        }
    }

    /// How many bytes the driver may read straight into [`direct_buffer`](Self::direct_buffer); 0 if it should read into its own.
    #[must_use]
    pub fn direct_want(&self) -> usize {
        match self.partial.as_deref() {
            Some(Partial::Big { header, body, .. }) => {
                let left = rest_len(header).saturating_sub(body.len());
                // As much as the buffer may grow to on what has arrived.
                left.min(RESERVED.max(body.len()))
            }
            Some(Partial::Raw { left, .. }) if *left >= BIG_BODY => (*left as usize).min(DIRECT_MAX),
            Some(Partial::Raw { .. } | Partial::Small(_) | Partial::Skip(_)) | None => 0,
        }
    }

    /// The buffer to append to, at most [`direct_want`](Self::direct_want) bytes, followed by [`finish_direct`](Self::finish_direct). It
    /// has room for them.
    pub fn direct_buffer(&mut self) -> Option<&mut Vec<u8>> {
        let want = self.direct_want();
        match self.partial.as_deref_mut() {
            Some(Partial::Big { body, .. }) => {
                body.reserve_exact(want);
                Some(body)
            }
            Some(Partial::Raw { direct, .. }) => {
                direct.reserve_exact(want);
                Some(direct)
            }
            Some(Partial::Small(_) | Partial::Skip(_)) | None => None,
        }
    }

    /// The driver has appended to the direct buffer: what is complete by that. What was appended beyond is dropped.
    pub fn finish_direct<B>(&mut self) -> Option<Item<B>> {
        match self.partial.as_deref_mut() {
            Some(Partial::Big { .. }) => self.finish_big(),
            Some(Partial::Raw { session, left, direct }) => {
                direct.truncate(*left as usize);
                if direct.is_empty() {
                    return None;
                }
                *left = left.saturating_sub(u32::try_from(direct.len()).unwrap_or(u32::MAX));
                let mut bytes = mem::take(direct);
                // A short read must not pin a whole buffer until somebody has taken it.
                bytes.shrink_to_fit();
                let item = Item::Raw { session: *session, bytes: Piece::Owned(bytes.into()) };
                if *left == 0 {
                    self.partial = None;
                }
                Some(item)
            }
            Some(Partial::Small(_) | Partial::Skip(_)) | None => None,
        }
    }

    /// Bytes of memory held for the packet that is not complete yet, 0 when idle.
    #[must_use]
    pub fn held(&self) -> usize {
        let Some(partial) = self.partial.as_deref() else { return 0 };
        let buffer = match partial {
            Partial::Small(bytes) => bytes.capacity(),
            Partial::Big { body, .. } => body.capacity(),
            Partial::Raw { direct, .. } => direct.capacity(),
            Partial::Skip(_) => 0,
        };
        buffer.saturating_add(size_of::<Partial>())
    }

    /// Whether the input so far ended at the end of a packet.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// The next packet of an idle reader.
    fn start<B: Chunk>(&mut self, input: &mut B, limits: &PacketLimits) -> Result<Step<B>, PacketError> {
        let Some((header, kind)) = classify(input, limits)? else {
            return Ok(self.keep(input));
        };
        let fixed = header.kind.fixed_len();
        match kind {
            Kind::Other if input.len().saturating_sub(HEADER_LEN) >= header.body_len as usize => {
                input.skip(HEADER_LEN);
                let packet = Packet {
                    header,
                    fixed: fixed_part(input, fixed),
                    rest: {
                        input.skip(fixed);
                        Piece::Input(input.take_front(rest_len(&header)))
                    },
                };
                Ok(Step::Done(Item::Packet(packet)))
            }
            Kind::Other if header.body_len < BIG_BODY => Ok(self.keep(input)),
            Kind::Other | Kind::Raw(_) | Kind::TooLarge(_) | Kind::Unknown => {
                input.skip(HEADER_LEN);
                let fixed_part = fixed_part(input, fixed);
                input.skip(fixed);
                Ok(self.begin(header, &kind, fixed_part))
            }
        }
    }

    /// Keeps the rest of the input, the beginning of a packet.
    fn keep<B: Chunk>(&mut self, input: &mut B) -> Step<B> {
        self.partial = Some(Box::new(Partial::Small(input.to_vec())));
        input.skip(input.len());
        Step::Starved
    }

    /// Goes on behind header and fixed part of a packet that is not assembled as a whole.
    fn begin<B>(&mut self, header: PacketHeader, kind: &Kind, fixed: [u8; MAX_FIXED]) -> Step<B> {
        let left = u32::try_from(rest_len(&header)).unwrap_or(u32::MAX);
        let (partial, step) = match *kind {
            Kind::Raw(session) => (Partial::Raw { session, left, direct: Vec::new() }, Step::Again),
            Kind::TooLarge(session) => (Partial::Skip(left), Step::Done(Item::TooLarge { header, session })),
            Kind::Unknown => (Partial::Skip(left), Step::Again),
            Kind::Other => {
                let body = Vec::with_capacity(rest_len(&header).min(RESERVED));
                (Partial::Big { header, fixed, body }, Step::Again)
            }
        };
        let nothing_left = left == 0 && !matches!(kind, Kind::Other);
        self.partial = (!nothing_left).then(|| Box::new(partial));
        step
    }

    /// Moves input to the small buffer: first header and fixed part, which say how much more belongs there.
    fn fill_small<B: Chunk>(&mut self, input: &mut B, limits: &PacketLimits) -> Result<Step<B>, PacketError> {
        let Some(Partial::Small(bytes)) = self.partial.as_deref_mut() else { return Ok(Step::Again) };
        pull(bytes, HEADER_LEN, input);
        let Some(first) = bytes.first_chunk() else { return Ok(Step::Starved) };
        let header = PacketHeader::parse(first);
        limits.check(&header)?;
        pull(bytes, HEADER_LEN.saturating_add(header.kind.fixed_len()), input);
        let Some((header, kind)) = classify(bytes, limits)? else { return Ok(Step::Starved) };
        let fixed = header.kind.fixed_len();
        let body_at = HEADER_LEN.saturating_add(fixed);
        let fixed_part = fixed_part(bytes.get(HEADER_LEN..).unwrap_or_default(), fixed);
        if !matches!(kind, Kind::Other) || header.body_len >= BIG_BODY && bytes.len() == body_at {
            return Ok(self.begin(header, &kind, fixed_part));
        }
        let goal = HEADER_LEN.saturating_add(header.body_len as usize);
        pull(bytes, goal, input);
        if bytes.len() < goal {
            return Ok(Step::Starved);
        }
        let rest = Bytes::from(mem::take(bytes)).split_off(body_at);
        self.partial = None;
        Ok(Step::Done(Item::Packet(Packet { header, fixed: fixed_part, rest: Piece::Owned(rest) })))
    }

    fn finish_big<B>(&mut self) -> Option<Item<B>> {
        let Some(Partial::Big { header, fixed, body }) = self.partial.as_deref_mut() else { return None };
        let len = rest_len(header);
        if body.len() < len {
            return None;
        }
        body.truncate(len);
        let packet = Packet { header: *header, fixed: *fixed, rest: Piece::Owned(mem::take(body).into()) };
        self.partial = None;
        Some(Item::Packet(packet))
    }

    fn end<B>(&mut self) -> Step<B> {
        self.partial = None;
        Step::Again
    }
}

/// Bytes that follow the fixed part.
fn rest_len(header: &PacketHeader) -> usize {
    (header.body_len as usize).saturating_sub(header.kind.fixed_len())
}

/// The header, and what follows it; `None` if header and fixed part are not there yet.
fn classify(bytes: &[u8], limits: &PacketLimits) -> Result<Option<(PacketHeader, Kind)>, PacketError> {
    let Some(first) = bytes.first_chunk() else { return Ok(None) };
    let header = PacketHeader::parse(first);
    let fits = limits.check(&header)?;
    if bytes.len() < HEADER_LEN.saturating_add(header.kind.fixed_len()) {
        return Ok(None);
    }
    let session = number_at(bytes, HEADER_LEN);
    let kind = if header.kind.is_unknown() {
        Kind::Unknown
    } else if header.kind == PacketType::Stream {
        Kind::Raw(session)
    } else if fits {
        Kind::Other
    } else {
        Kind::TooLarge(session)
    };
    Ok(Some((header, kind)))
}

fn fixed_part(bytes: &[u8], len: usize) -> [u8; MAX_FIXED] {
    let mut fixed = [0; MAX_FIXED];
    for (to, from) in fixed.iter_mut().zip(bytes.iter().take(len)) {
        *to = *from;
    }
    fixed
}

/// Moves input to `bytes` until these are `goal` long. The buffer doubles with what has arrived and never exceeds the goal, so a peer
/// that sends little holds little, and one that sends single bytes costs few reallocations.
fn pull<B: Chunk>(bytes: &mut Vec<u8>, goal: usize, input: &mut B) {
    let missing = goal.saturating_sub(bytes.len());
    let Some(piece) = input.get(..missing.min(input.len())) else { return };
    let len = bytes.len().saturating_add(piece.len());
    if len > bytes.capacity() {
        let target = bytes.capacity().saturating_mul(2).clamp(len, goal.max(len));
        bytes.reserve_exact(target.saturating_sub(bytes.len()));
    }
    bytes.extend_from_slice(piece);
    let taken = piece.len();
    input.skip(taken);
}

// === impl Packet ===

impl<B: Deref<Target = [u8]>> Packet<B> {
    /// The session it belongs to; of Session and SessionAck the negotiate ID, of others without any 0.
    #[must_use]
    pub fn session(&self) -> u64 {
        match self.header.kind {
            PacketType::Dismiss
            | PacketType::DismissAck
            | PacketType::Message
            | PacketType::MessageAck
            | PacketType::Stream
            | PacketType::Request
            | PacketType::Response
            | PacketType::RequestCancel
            | PacketType::Register
            | PacketType::RegisterAck => number_at(&self.fixed, 0),
            PacketType::Session | PacketType::SessionAck => number_at(&self.fixed, 2),
            PacketType::Conn
            | PacketType::ConnAck
            | PacketType::DisConn
            | PacketType::DisConnAck
            | PacketType::Heartbeat
            | PacketType::HeartbeatAck
            | PacketType::Unknown(_) => 0,
        }
    }

    /// The session ID of SessionAck.
    #[must_use]
    pub fn assigned(&self) -> u64 {
        number_at(&self.fixed, 10)
    }

    /// The client's ID: wanted in Conn, granted in ConnAck.
    #[must_use]
    pub fn client(&self) -> u64 {
        let offset = if self.header.kind == PacketType::Conn { 2 } else { 1 };
        number_at(&self.fixed, offset)
    }

    /// The fixed part of the body.
    #[must_use]
    pub fn fixed(&self) -> &[u8] {
        self.fixed.get(..self.header.kind.fixed_len()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
