//! The frame reader against a reader that sees everything at once: the same frames and the same error wherever the input is cut,
//! whether it is borrowed or counted, and whether big bodies are read directly; and never more memory than came.

use bytes::Bytes;
use frontier_wire::{
    chunk::Chunk,
    native::{
        frame::{Flags, FrameHeader, FrameType, HEADER_LEN},
        limits::{DecodeError, FrameLimits},
        reader::{BIG_BODY, Frame, FrameReader},
    },
};

use super::script::{Noise, Script};

/// Longest stream that is read, in bytes.
const MAX_STREAM: usize = 1 << 18;

type Whole = (FrameHeader, Vec<u8>, Vec<u8>);

struct Reading {
    reader: FrameReader,
    limits: FrameLimits,
    frames: Vec<Whole>,
    received: usize,
}

pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mode = script.u8();
    let limits = match mode >> 6 {
        0 => FrameLimits::GATEWAY,
        1 => FrameLimits::DIALER,
        2 => FrameLimits::HELLO,
        _ => FrameLimits { max_head: script.u16(), max_body: script.u32() % 100_000 },
    };
    let mut noise = Noise::new(script.u64());
    let most = script.usize();
    let stream = build(&mut script, &mut noise);
    // Long streams in single bytes would cost more time than they find.
    let most = most + stream.len() / 512;
    let (frames, error) = read_at_once(&stream, &limits);

    let mut reading = Reading { reader: FrameReader::new(), limits, frames: Vec::new(), received: 0 };
    let result = reading.read(&stream, &mut noise, most, mode & 1 != 0, mode & 2 != 0);
    assert_eq!(reading.frames, frames);
    assert_eq!(result.err(), error);
    if reading.reader.is_idle() {
        assert_eq!(reading.reader.held(), 0);
    }
}

/// A stream of raw bytes, whole frames and frames cut short.
fn build(script: &mut Script<'_>, noise: &mut Noise) -> Vec<u8> {
    let mut stream = Vec::new();
    while !script.is_over() && stream.len() < MAX_STREAM {
        match script.u8() % 4 {
            0 => {
                let len = script.u8().into();
                stream.extend(script.take(len));
            }
            kind => {
                let big = kind == 3;
                let header = FrameHeader {
                    kind: FrameType::from_wire(script.u8() % 0x18),
                    flags: Flags::from_bits(script.u8()),
                    head_len: if big { script.u16() } else { script.u8().into() },
                    body_len: if big { script.u32() % 70_000 } else { script.u8().into() },
                    id: script.u8().into(),
                };
                stream.extend(header.encode());
                let missing = if kind == 2 { script.usize() } else { 0 };
                noise.fill(&mut stream, header.rest_len().saturating_sub(missing));
            }
        }
    }
    stream
}

/// What the reader should find, by the plainest means.
fn read_at_once(mut stream: &[u8], limits: &FrameLimits) -> (Vec<Whole>, Option<DecodeError>) {
    let mut frames = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk::<HEADER_LEN>() {
        let header = FrameHeader::parse(header);
        if let Err(error) = limits.check(&header) {
            return (frames, Some(error));
        }
        if rest.len() < header.rest_len() {
            break;
        }
        let (head, rest) = rest.split_at(header.head_len.into());
        let (body, rest) = rest.split_at(header.body_len as usize);
        if !header.kind.is_unknown() {
            frames.push((header, head.to_vec(), body.to_vec()));
        }
        stream = rest;
    }
    (frames, None)
}

impl Reading {
    fn read(
        &mut self,
        mut stream: &[u8],
        noise: &mut Noise,
        most: usize,
        counted: bool,
        direct: bool,
    ) -> Result<(), DecodeError> {
        while !stream.is_empty() {
            let (piece, rest) = stream.split_at(noise.upto(most).min(stream.len()));
            match self.reader.direct() {
                Some((body, wanted)) if direct => {
                    let (piece, _) = piece.split_at(wanted.min(piece.len()));
                    body.extend_from_slice(piece);
                    stream = &stream[piece.len()..];
                    self.received += piece.len();
                    let frame = self.reader.finish_direct::<&[u8]>();
                    self.frames.extend(frame.map(whole));
                }
                _ => {
                    stream = rest;
                    self.received += piece.len();
                    if counted {
                        self.drain(Bytes::copy_from_slice(piece))?;
                    } else {
                        self.drain(piece)?;
                    }
                }
            }
            self.check_memory();
        }
        Ok(())
    }

    fn drain<B: Chunk>(&mut self, mut input: B) -> Result<(), DecodeError> {
        loop {
            match self.reader.next(&mut input, &self.limits) {
                Ok(Some(frame)) => self.frames.push(whole(frame)),
                Ok(None) => {
                    assert!(input.is_empty());
                    return Ok(());
                }
                Err(error) => {
                    // It stays.
                    assert_eq!(self.reader.next(&mut input, &self.limits).err(), Some(error));
                    return Err(error);
                }
            }
        }
    }

    fn check_memory(&mut self) {
        let body = self.reader.direct().map_or(0, |(body, _)| body.capacity());
        assert!(body == 0 || body >= BIG_BODY as usize && body <= self.limits.max_body as usize);
        // What came may be held twice over while a buffer doubles; the rest is the box around it.
        assert!(self.reader.held() <= 2 * self.received + body + 200);
    }
}

fn whole<B: Chunk>(frame: Frame<B>) -> Whole {
    (frame.header, frame.head.to_vec(), frame.body.to_vec())
}
