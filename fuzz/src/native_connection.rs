//! Native connections. A script begins with what runs it: a connection of either role against a hostile peer, or two connections
//! joined by a link that delivers any number of bytes at a time.

use std::collections::BTreeMap;

use bytes::Bytes;
use frontier_wire::{
    native::{
        connection::{Connection, ConnectionError, Event, Input},
        frame::{FrameHeader, FrameType},
        limits::FrameLimits,
    },
    yamux::{Config, StreamId},
};

use super::script::{Noise, Script};

const MAX_STREAMS: u32 = 8;
/// Bytes queued by the user of a connection, at most; it stands for the limits of a gateway.
const MAX_QUEUED: usize = 1 << 20;

fn config() -> Config {
    Config { max_streams: MAX_STREAMS, ..Config::default() }
}

pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.u8() % 3 {
        0 => hostile(Connection::dial(&config()), &mut script),
        1 => hostile(Connection::accept(&config()), &mut script),
        _ => pair(&mut script),
    }
}

/// One end: a connection, what its peer should still get from it, and what it got.
struct End {
    connection: Connection,
    /// Frames by id, in the order sent on the session stream.
    frames_sent: Vec<(FrameType, u64, Vec<u8>)>,
    frames_got: Vec<(FrameType, u64, Vec<u8>)>,
    streams_sent: BTreeMap<StreamId, Vec<u8>>,
    streams_got: BTreeMap<StreamId, Vec<u8>>,
    streams: Vec<StreamId>,
    finished: Vec<StreamId>,
    next_id: u64,
}

impl End {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            frames_sent: Vec::new(),
            frames_got: Vec::new(),
            streams_sent: BTreeMap::new(),
            streams_got: BTreeMap::new(),
            streams: Vec::new(),
            finished: Vec::new(),
            next_id: 1,
        }
    }

    /// Something its user does.
    fn act(&mut self, script: &mut Script<'_>, noise: &mut Noise) {
        let (op, pick, len) = (script.u8() % 8, usize::from(script.u8()), script.usize());
        let stream = self.streams.get(pick % self.streams.len().max(1)).copied();
        let room = self.connection.outbox_bytes() < MAX_QUEUED;
        match (op, stream) {
            (0, _) => self.streams.extend(self.connection.open_stream()),
            (1, Some(stream)) if room && !self.finished.contains(&stream) && len > 0 => {
                let mut bytes = Vec::new();
                noise.fill(&mut bytes, len % 40_000 + 1);
                self.streams_sent.entry(stream).or_default().extend(&bytes);
                self.connection.outbox().push_stream(stream, Bytes::from(bytes), pick % 2 == 0);
            }
            (2, Some(stream)) if !self.finished.contains(&stream) => {
                self.finished.push(stream);
                self.connection.finish_stream(stream);
            }
            (3, _) if room => {
                // A body that takes its turn among the flows, with a key of its own.
                let (header, body) = self.frame(FrameType::Publish, len, noise);
                let lead = Bytes::copy_from_slice(&header.encode());
                self.connection.outbox().push_frame(header.id, lead, Bytes::from(body));
            }
            (_, _) if room => {
                let (header, body) = self.frame(FrameType::Request, len % 300, noise);
                self.connection.send(header, &[], &body);
            }
            (_, _) => {}
        }
    }

    fn frame(&mut self, kind: FrameType, len: usize, noise: &mut Noise) -> (FrameHeader, Vec<u8>) {
        let mut body = Vec::new();
        noise.fill(&mut body, len);
        let header = FrameHeader::new(kind, self.next_id).with_lens(0, body.len()).expect("it fits");
        self.next_id += 1;
        self.frames_sent.push((kind, header.id, body.clone()));
        (header, body)
    }

    /// Writes at most `n` bytes to the link.
    fn write(&mut self, n: usize, link: &mut Vec<u8>) -> usize {
        self.connection.fill(n);
        let mut slices = Vec::new();
        self.connection.slices(&mut slices, 64);
        let before = link.len();
        for slice in &slices {
            let room = n - (link.len() - before);
            link.extend(&slice[..room.min(slice.len())]);
        }
        drop(slices);
        let written = link.len() - before;
        self.connection.written(written, |_, _| {});
        written
    }

    /// Reads what is on the link, about `cut` bytes at a time, some of it straight into the buffers of big bodies.
    fn read(&mut self, mut input: &[u8], cut: usize) -> Result<(), ConnectionError> {
        let cut = cut + input.len() / 256;
        while !input.is_empty() {
            let want = self.connection.direct_want();
            let (piece, rest) = input.split_at(cut.max(1).min(input.len()));
            if want > 0 {
                let n = want.min(piece.len());
                self.connection.direct_buffer().expect("wanted").extend_from_slice(&piece[..n]);
                input = &input[n..];
                let event = self.connection.finish_direct::<&[u8]>(n)?;
                if let Some(event) = event {
                    self.take(event);
                }
                self.receive(&[])?;
            } else {
                input = rest;
                self.receive(piece)?;
            }
            assert!(self.connection.direct_want() <= 65_536);
        }
        Ok(())
    }

    fn receive(&mut self, piece: &[u8]) -> Result<(), ConnectionError> {
        let mut input = Input::new(piece);
        while let Some(event) = self.connection.receive(&mut input, &FrameLimits::GATEWAY)? {
            self.take(event);
        }
        Ok(())
    }

    fn take(&mut self, event: Event<&[u8]>) {
        match event {
            Event::Frame(frame) => {
                assert!(frame.header.kind.travels_on_session());
                self.frames_got.push((frame.header.kind, frame.header.id, frame.body.to_vec()));
            }
            Event::StreamOpened(stream) => self.streams.push(stream),
            Event::StreamData(stream, piece) => {
                self.streams_got.entry(stream).or_default().extend(&*piece);
                let len = u32::try_from(piece.len()).expect("a frame");
                self.connection.release(stream, len);
            }
            Event::StreamReset(stream) => self.streams.retain(|other| *other != stream),
            Event::StreamFinished(_) | Event::Ended => {}
        }
    }

    /// Streams are bounded, and memory by what was queued, with an entry for each frame and stream, and one frame being read.
    fn check(&self) {
        assert!(self.connection.engine().streams() <= 2 * MAX_STREAMS as usize + 1);
        let queued = self.connection.outbox_bytes();
        let entries = 1_024 * (self.frames_sent.len() + self.streams_sent.len());
        assert!(
            self.connection.held() <= 2 * queued + entries + 256 * 1024,
            "{} with {queued} queued",
            self.connection.held()
        );
    }
}

/// Any bytes, in frames of yamux and of ours or not.
fn hostile(connection: Connection, script: &mut Script<'_>) {
    let mut noise = Noise::new(script.u64());
    let mut end = End::new(connection);
    let mut out = Vec::new();
    while !script.is_over() {
        let mut input = Vec::new();
        match script.u8() % 4 {
            0 => {
                let len = script.u8().into();
                input.extend(script.take(len));
            }
            1 => end.act(script, &mut noise),
            _ => frames(script, &mut noise, &mut input),
        }
        let cut = usize::from(script.u8());
        if end.read(&input, cut).is_err() {
            return;
        }
        end.check();
        if script.u8().is_multiple_of(2) {
            out.clear();
            end.write(script.usize(), &mut out);
        }
        end.frames_got.clear();
        end.frames_sent.clear();
        end.streams_got.clear();
        end.streams_sent.clear();
    }
}

/// One yamux frame, often with a native frame in it.
fn frames(script: &mut Script<'_>, noise: &mut Noise, input: &mut Vec<u8>) {
    let (kind, flags, stream) = (script.u8(), script.u8() % 16, u32::from(script.u8() % 20));
    let mut payload = Vec::new();
    if kind & 0x80 == 0 {
        let (frame, flags) = (FrameType::from_wire(script.u8() % 0x18), script.u8());
        let (head, body) = (script.u8().into(), script.usize());
        let header = FrameHeader::new(frame, script.u64());
        let header = header.with_flags(frontier_wire::native::frame::Flags::from_bits(flags));
        payload.extend(header.with_lens(head, body).expect("it fits").encode());
        noise.fill(&mut payload, head + body);
        // Sometimes the frame goes on in the next one.
        payload.truncate(payload.len() - usize::from(script.u8()).min(payload.len()));
    }
    let length = if kind % 4 == 0 { payload.len() as u32 } else { script.u32() };
    input.extend([0, kind % 4, 0, flags]);
    input.extend(stream.to_be_bytes());
    input.extend(length.to_be_bytes());
    if kind % 4 == 0 {
        input.extend(payload);
    }
}

/// Two well-behaved ends: everything arrives, once, in order, and nothing is left behind.
fn pair(script: &mut Script<'_>) {
    let mut noise = Noise::new(script.u64());
    let mut ends = [End::new(Connection::dial(&config())), End::new(Connection::accept(&config()))];
    // The acceptor has no session stream before the dialer's SYN.
    exchange(&mut ends, 0, 1_000, 1_000);
    while !script.is_over() {
        let op = script.u8();
        let side = usize::from(op & 1);
        if op & 2 == 0 {
            ends[side].act(script, &mut noise);
        } else {
            exchange(&mut ends, side, script.usize(), script.u8().into());
        }
    }
    let mut quiet = 0;
    while quiet < 2 {
        let moved = exchange(&mut ends, 0, 1 << 20, 70_000) + exchange(&mut ends, 1, 1 << 20, 70_000);
        quiet = if moved == 0 { quiet + 1 } else { 0 };
    }
    for (from, to) in [(0, 1), (1, 0)] {
        settled(&ends[from], &ends[to]);
    }
}

/// Moves up to `n` bytes from `ends[from]` to the other end.
fn exchange(ends: &mut [End; 2], from: usize, n: usize, cut: usize) -> usize {
    let mut link = Vec::new();
    let written = ends[from].write(n, &mut link);
    let got = ends[1 - from].read(&link, cut);
    assert_eq!(got, Ok(()), "a well-behaved peer was refused");
    ends[1 - from].check();
    written
}

fn settled(from: &End, to: &End) {
    assert!(!from.connection.wants_write());
    assert_eq!(from.connection.outbox_bytes(), 0);
    // Large bodies are flows of their own: between them and the small frames there is no order, among each there is.
    for kind in [FrameType::Publish, FrameType::Request] {
        let of_kind = |frames: &[(FrameType, u64, Vec<u8>)]| -> Vec<(u64, Vec<u8>)> {
            let frames = frames.iter().filter(|(other, ..)| *other == kind);
            frames.map(|(_, id, body)| (*id, body.clone())).collect()
        };
        let (mut sent, mut got) = (of_kind(&from.frames_sent), of_kind(&to.frames_got));
        if kind == FrameType::Publish {
            // Each had a key of its own.
            sent.sort_unstable();
            got.sort_unstable();
        }
        assert_eq!(sent, got, "{}", kind.name());
    }
    assert_eq!(from.streams_sent, to.streams_got);
}
