//! Cuts a byte stream into frames: the hot path of every native session.
//!
//! Bytes come as they were read, in pieces of any size. A frame that lies whole in the input is handed out as pieces of the
//! input: nothing is allocated or copied. Only a frame cut by the end of the input is assembled:
//!
//! ```text
//!                 whole in the input ──────────────────────────────────────────▶ Frame (pieces of the input)
//!  idle ── cut ─▶ Small: header, head, small body; grows as bytes come ────────▶ Frame (owned)
//!    ▲               └─ header and head complete, body ≥ 16 KiB ─▶ Big: own buffer ▶ Frame (owned)
//!    └──────────────── unknown type: Skip, counted down, not held ◀─ idle
//! ```
//!
//! Nothing is reserved on a peer's word but the body buffer of a [`Big`](BIG_BODY) frame (≤ `max_body`), and that only after
//! header and head have arrived. After a frame is complete no buffer stays: an idle reader is one null pointer.

use std::mem;

use bytes::Bytes;

use super::{
    frame::{FrameHeader, HEADER_LEN},
    limits::{DecodeError, FrameLimits},
};
use crate::chunk::Chunk;
pub use crate::chunk::Piece;

/// From this length in bytes on, a body that is not whole in the input gets a buffer of its own, which a driver may fill
/// straight from the socket. Below, copying once is cheaper than another system call.
pub const BIG_BODY: u32 = 16_384;

/// Assembles frames from input of any cut. 8 bytes when idle.
#[derive(Debug, Default)]
pub struct FrameReader {
    partial: Option<Box<Partial>>,
}

/// A complete frame.
#[derive(Clone, Debug)]
pub struct Frame<B> {
    /// Type, flags, lengths and id.
    pub header: FrameHeader,
    /// The protobuf message, `header.head_len` bytes.
    pub head: Piece<B>,
    /// The opaque payload, `header.body_len` bytes.
    pub body: Piece<B>,
}

/// A frame whose end has not come yet.
#[derive(Debug)]
enum Partial {
    /// Header, head and (below [`BIG_BODY`]) body, as far as they came.
    Small(Vec<u8>),
    /// Header and head are complete, the body is being filled.
    Big { header: FrameHeader, head: Bytes, body: Vec<u8> },
    /// So many bytes of a frame of unknown type are still to come.
    Skip(usize),
}

/// What one step of the reader came to.
enum Step<B> {
    Again,
    /// The header of a frame of unknown type was read.
    Skipped,
    Starved,
    Done(Frame<B>),
}

// === impl FrameReader ===

impl FrameReader {
    /// An idle reader.
    #[must_use]
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Consumes input up to the end of the next frame and returns that frame; `None` when the input is used up.
    ///
    /// # Errors
    /// When a frame breaks the limits. The input is not consumed past the frame's header, and every further call with
    /// input fails likewise.
    pub fn next<B: Chunk>(
        &mut self,
        input: &mut B,
        limits: &FrameLimits,
    ) -> Result<Option<Frame<B>>, DecodeError> {
        self.next_counted(input, limits, &mut 0)
    }

    /// The same, and adds to `skipped` for each frame of unknown type that is skipped.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_counted<B: Chunk>(
        &mut self,
        input: &mut B,
        limits: &FrameLimits,
        skipped: &mut u16,
    ) -> Result<Option<Frame<B>>, DecodeError> {
        loop {
            let step = match self.partial.as_deref_mut() {
                None if input.is_empty() => Step::Starved,
                None => self.start(input, limits)?,
                Some(Partial::Skip(left)) => {
                    let now = input.len().min(*left);
                    input.skip(now);
                    *left = left.saturating_sub(now);
                    if *left == 0 { self.end() } else { Step::Starved }
                }
                Some(Partial::Small(bytes)) => {
                    let step = fill_small(bytes, input, limits)?;
                    self.advance(step)
                }
                Some(Partial::Big { header, body, .. }) => {
                    pull(body, header.body_len as usize, input);
                    self.finish_direct().map_or(Step::Starved, Step::Done)
                }
            };
            match step {
                Step::Again => {}
                Step::Skipped => *skipped = skipped.saturating_add(1),
                Step::Starved => return Ok(None),
                Step::Done(frame) => return Ok(Some(frame)),
            }
        }
    }

    /// While a body of at least [`BIG_BODY`] bytes is being assembled: its buffer and how many bytes it still wants. The
    /// driver appends at most that many, straight from the socket into the spare capacity, and then calls
    /// [`finish_direct`](Self::finish_direct). What is appended beyond is dropped with the frame.
    pub fn direct(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        match self.partial.as_deref_mut() {
            Some(Partial::Big { header, body, .. }) => {
                let wanted = (header.body_len as usize).saturating_sub(body.len());
                Some((body, wanted))
            }
            Some(Partial::Small(_) | Partial::Skip(_)) | None => None,
        }
    }

    /// The frame whose body was filled through [`direct`](Self::direct), once it is complete.
    pub fn finish_direct<B>(&mut self) -> Option<Frame<B>> {
        match self.partial.as_deref_mut() {
            Some(Partial::Big { header, head, body }) if body.len() >= header.body_len as usize => {
                body.truncate(header.body_len as usize);
                let frame = Frame {
                    header: *header,
                    head: Piece::Owned(mem::take(head)),
                    body: Piece::Owned(mem::take(body).into()),
                };
                self.partial = None;
                Some(frame)
            }
            Some(Partial::Big { .. } | Partial::Small(_) | Partial::Skip(_)) | None => None,
        }
    }

    /// Bytes of memory held for the frame that is not complete yet, 0 when idle.
    #[must_use]
    pub fn held(&self) -> usize {
        let Some(partial) = self.partial.as_deref() else { return 0 };
        let buffers = match partial {
            Partial::Small(bytes) => bytes.capacity(),
            Partial::Big { head, body, .. } => head.len().saturating_add(body.capacity()),
            Partial::Skip(_) => 0,
        };
        buffers.saturating_add(size_of::<Partial>())
    }

    /// Whether the input so far ended at the end of a frame.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// The next frame of an idle reader.
    fn start<B: Chunk>(&mut self, input: &mut B, limits: &FrameLimits) -> Result<Step<B>, DecodeError> {
        let Some(first) = input.first_chunk::<HEADER_LEN>() else {
            return Ok(self.keep(input));
        };
        let header = FrameHeader::parse(first);
        limits.check(&header)?;
        if header.kind.is_unknown() {
            input.skip(HEADER_LEN);
            return Ok(self.advance(Filled::Unknown(header)));
        }
        if input.len() < header.frame_len() {
            return Ok(self.keep_cut(header, input));
        }
        input.skip(HEADER_LEN);
        let head = Piece::Input(input.take_front(header.head_len.into()));
        let body = Piece::Input(input.take_front(header.body_len as usize));
        Ok(Step::Done(Frame { header, head, body }))
    }

    /// Keeps the rest of the input, the beginning of a frame.
    fn keep<B: Chunk>(&mut self, input: &mut B) -> Step<B> {
        self.partial = Some(Box::new(Partial::Small(input.to_vec())));
        input.skip(input.len());
        Step::Starved
    }

    /// Keeps the rest of the input, a frame with its header: straight into the body's buffer where that is due.
    fn keep_cut<B: Chunk>(&mut self, header: FrameHeader, input: &mut B) -> Step<B> {
        let head_end = HEADER_LEN.saturating_add(header.head_len.into());
        match input.get(HEADER_LEN..head_end) {
            Some(head) if header.body_len >= BIG_BODY => {
                let head = Bytes::copy_from_slice(head);
                input.skip(head_end);
                self.begin_body(header, head);
                Step::Again
            }
            Some(_) | None => self.keep(input),
        }
    }

    fn begin_body(&mut self, header: FrameHeader, head: Bytes) {
        let body = Vec::with_capacity(header.body_len as usize);
        self.partial = Some(Box::new(Partial::Big { header, head, body }));
    }

    /// Goes on after the small buffer was filled as far as the input allowed.
    fn advance<B>(&mut self, filled: Filled) -> Step<B> {
        match filled {
            Filled::Starved => Step::Starved,
            Filled::Unknown(header) => {
                self.partial = Some(header.rest_len())
                    .filter(|left| *left > 0)
                    .map(|left| Box::new(Partial::Skip(left)));
                Step::Skipped
            }
            Filled::Head(header, head) => {
                self.begin_body(header, head);
                Step::Again
            }
            Filled::Frame(header, head, body) => {
                self.partial = None;
                Step::Done(Frame { header, head: Piece::Owned(head), body: Piece::Owned(body) })
            }
        }
    }

    fn end<B>(&mut self) -> Step<B> {
        self.partial = None;
        Step::Again
    }
}

/// How far a small buffer came.
enum Filled {
    Starved,
    Unknown(FrameHeader),
    Head(FrameHeader, Bytes),
    Frame(FrameHeader, Bytes, Bytes),
}

/// Moves input to a small buffer: first the header, which says how much more belongs to it.
fn fill_small<B: Chunk>(
    bytes: &mut Vec<u8>,
    input: &mut B,
    limits: &FrameLimits,
) -> Result<Filled, DecodeError> {
    pull(bytes, HEADER_LEN, input);
    let Some(first) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(Filled::Starved);
    };
    let header = FrameHeader::parse(first);
    limits.check(&header)?;
    if header.kind.is_unknown() {
        return Ok(Filled::Unknown(header));
    }
    let big = header.body_len >= BIG_BODY;
    let head_end = HEADER_LEN.saturating_add(header.head_len.into());
    let goal = if big { head_end } else { header.frame_len() };
    pull(bytes, goal, input);
    if bytes.len() < goal {
        return Ok(Filled::Starved);
    }
    let mut whole = Bytes::from(mem::take(bytes));
    let body = whole.split_off(head_end);
    let head = whole.split_off(HEADER_LEN);
    // A big body is still to come, so its head may be held for long: copied, it does not pin the buffer around it.
    Ok(if big {
        Filled::Head(header, Bytes::copy_from_slice(&head))
    } else {
        Filled::Frame(header, head, body)
    })
}

/// Moves input to `bytes` until these are `goal` long. The buffer doubles with what has arrived and never exceeds the goal,
/// so a peer that sends little holds little, and one that sends single bytes costs few reallocations.
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

#[cfg(test)]
mod tests;
