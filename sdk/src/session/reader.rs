//! Cuts the bytes of a user stream into frames, and lets the bytes of Data frames through as they come.
//!
//! A Data frame may be longer than the stream's window, so it must not be waited for as a whole.

use bytes::Bytes;
use frontier_wire::{
    chunk::Chunk,
    native::{
        frame::{FrameHeader, FrameType, HEADER_LEN},
        limits::{DecodeError, FrameLimits},
        reader::{Frame, FrameReader},
    },
};

/// What comes out of a stream.
#[derive(Debug)]
pub(super) enum Item {
    /// Bytes for the user.
    Data(Bytes),
    /// Any other frame.
    Frame(Frame<Bytes>),
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct StreamReader {
    frames: FrameReader,
    /// A header that the end of the input had cut.
    header: Vec<u8>,
    /// Bytes of a Data frame that are still to come.
    data_left: usize,
    /// Bytes that are for nobody and still to come: a frame of an unknown type, or the head of a Data frame, before its data.
    skip_left: usize,
}

/// How a frame begins.
enum Start {
    /// So many bytes are not for us, then so many bytes of data follow.
    Data { skip: usize, len: usize },
    /// Any other frame, header included.
    Frame,
}

// === impl StreamReader ===

impl StreamReader {
    /// Takes the next item out of the input; `None` when it is used up.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Item>, DecodeError> {
        loop {
            let skipped = self.skip_left.min(input.len());
            input.skip(skipped);
            self.skip_left -= skipped;
            let data = input.take_front(self.data_left);
            self.data_left -= data.len();
            if !data.is_empty() {
                return Ok(Some(Item::Data(data)));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let frame =
                if self.frames.is_idle() { self.begin(input)? } else { self.frames.next(input, &LIMITS)? };
            if frame.is_some() {
                return Ok(frame.map(Item::Frame));
            }
        }
    }

    /// Takes the header of the next frame, and the rest of the frame if it is all there and not data.
    fn begin(&mut self, input: &mut Bytes) -> Result<Option<Frame<Bytes>>, DecodeError> {
        if self.header.is_empty() && input.len() >= HEADER_LEN {
            return match start(input)? {
                Start::Frame => self.frames.next(input, &LIMITS),
                other => {
                    input.skip(HEADER_LEN);
                    self.go_on(&other);
                    Ok(None)
                }
            };
        }
        self.header.extend_from_slice(&input.take_front(HEADER_LEN - self.header.len()));
        if self.header.len() < HEADER_LEN {
            return Ok(None);
        }
        let mut header = Bytes::from(std::mem::take(&mut self.header));
        match start(&header)? {
            Start::Frame => self.frames.next(&mut header, &LIMITS),
            other => {
                self.go_on(&other);
                Ok(None)
            }
        }
    }

    const fn go_on(&mut self, start: &Start) {
        match start {
            Start::Data { skip, len } => {
                self.skip_left = *skip;
                self.data_left = *len;
            }
            Start::Frame => {}
        }
    }
}

const LIMITS: FrameLimits = FrameLimits::DIALER;

/// What the header at the start of `bytes` begins.
fn start(bytes: &[u8]) -> Result<Start, DecodeError> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>().map(FrameHeader::parse) else {
        return Ok(Start::Frame);
    };
    LIMITS.check(&header)?;
    Ok(match header.kind {
        // Data has no head yet; one that a later version gives it is not for us, and its body must not get around the window.
        FrameType::Data => Start::Data { skip: header.head_len.into(), len: header.body_len as usize },
        FrameType::Unknown(_) => Start::Data { skip: header.rest_len(), len: 0 },
        _ => Start::Frame,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: FrameType, head: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        FrameHeader::new(kind, 3).put_frame(&mut out, head, body).unwrap();
        out
    }

    fn read(reader: &mut StreamReader, input: &[u8]) -> (Vec<u8>, Vec<(FrameType, Vec<u8>)>) {
        let mut input = Bytes::copy_from_slice(input);
        let (mut data, mut frames) = (Vec::new(), Vec::new());
        while let Some(item) = reader.next(&mut input).unwrap() {
            match item {
                Item::Data(bytes) => data.extend_from_slice(&bytes),
                Item::Frame(frame) => frames.push((frame.header.kind, frame.body.to_vec())),
            }
        }
        assert!(input.is_empty());
        (data, frames)
    }

    #[test]
    fn cut_anywhere_the_same_comes_out() {
        let mut wire = frame(FrameType::Data, b"", b"hello ");
        wire.extend(frame(FrameType::Request, b"\x0a\x01x", b"body"));
        wire.extend(frame(FrameType::Data, b"", b""));
        wire.extend(frame(FrameType::Cancel, b"", b""));
        wire.extend(frame(FrameType::Unknown(0x77), b"zz", b"skipped"));
        wire.extend(frame(FrameType::Data, b"head", b"world"));
        for step in 1..=wire.len() {
            let mut reader = StreamReader::default();
            let (mut data, mut frames) = (Vec::new(), Vec::new());
            for piece in wire.chunks(step) {
                let (more_data, more_frames) = read(&mut reader, piece);
                data.extend(more_data);
                frames.extend(more_frames);
            }
            assert_eq!(data, b"hello world", "step {step}");
            let expected = [(FrameType::Request, b"body".to_vec()), (FrameType::Cancel, vec![])];
            assert_eq!(frames, expected, "step {step}");
        }
    }

    #[test]
    fn a_head_does_not_make_a_frame_of_data() {
        // What comes as data counts against the window until the user has read it.
        let mut reader = StreamReader::default();
        let (data, frames) = read(&mut reader, &frame(FrameType::Data, b"head", b"body"));
        assert_eq!((data.as_slice(), frames.len()), (&b"body"[..], 0));
    }

    #[test]
    fn data_comes_before_its_frame_is_whole() {
        let wire = frame(FrameType::Data, b"", &[7; 60_000]);
        let mut reader = StreamReader::default();
        let (data, _) = read(&mut reader, &wire[..1_000]);
        assert_eq!(data.len(), 1_000 - HEADER_LEN);
    }

    #[test]
    fn a_frame_beyond_the_limits_is_an_error() {
        let mut header = FrameHeader::new(FrameType::Data, 0);
        header.body_len = 65_537;
        let mut reader = StreamReader::default();
        assert!(reader.next(&mut Bytes::copy_from_slice(&header.encode())).is_err());
    }
}
