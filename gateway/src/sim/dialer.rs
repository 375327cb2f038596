//! The protocol of a peer without any behaviour: the wire crate's own connection in the dialer's role, on a link of the stage.

use std::io::IoSlice;

use bytes::{BufMut, Bytes, BytesMut};
use frontier_wire::{
    native::{
        connection::{Connection, ConnectionError, Event, Input},
        frame::{Flags, FrameHeader, FrameType, HEADER_LEN},
        hello::{DEFAULT_STREAM_WINDOW, Hello, Welcome},
        limits::FrameLimits,
        reader::Frame,
    },
    yamux::{Config, StreamId},
};

use super::stage::{LinkId, Path, Stage};
use crate::core::Bound;

/// Bytes handed to the link at a time.
const BUDGET: usize = 64 << 10;

/// What a peer hears from the gateway.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A frame of the session stream.
    Frame(Note),
    /// The gateway opened a stream.
    Opened(StreamId),
    /// Bytes of a stream.
    Data(StreamId, Bytes),
    /// The gateway half-closed a stream.
    Finished(StreamId),
    /// The gateway reset a stream.
    Reset(StreamId),
    /// The gateway ended the session stream.
    Ended,
}

/// A frame with bytes of its own.
#[derive(Clone, Debug)]
pub struct Note {
    /// Type, flags and ID.
    pub header: FrameHeader,
    /// The protobuf message.
    pub head: Bytes,
    /// The payload.
    pub body: Bytes,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Dialer {
    /// The protocol.
    pub conn: Connection,
    /// Where it goes.
    pub link: LinkId,
    /// What it said in Hello: the window that user streams towards it start with.
    stream_window: u32,
    /// Of a thousand writes, so many have one byte changed.
    pub garbage: u32,
    /// Whether a byte was changed.
    pub spoilt: bool,
}

// === impl Dialer ===

impl Dialer {
    /// Connects.
    pub fn new(stage: &mut Stage, bound: Bound, shard: u16, path: Path) -> Self {
        let link = stage.dial(bound, shard, path);
        let conn = Connection::dial(&Config::default());
        Self { conn, link, stream_window: DEFAULT_STREAM_WINDOW, garbage: 0, spoilt: false }
    }

    /// Says hello; user streams towards this peer start with the window it names.
    pub fn hello(&mut self, hello: &Hello) {
        self.stream_window = hello.stream_window;
        let mut head = Vec::with_capacity(hello.encoded_len());
        hello.encode(&mut head);
        self.send(FrameType::Hello, 0, Flags::NONE, &head, &[]);
    }

    /// Sends a small frame.
    pub fn send(&mut self, kind: FrameType, id: u64, flags: Flags, head: &[u8], body: &[u8]) {
        self.conn.send(FrameHeader::new(kind, id).with_flags(flags), head, body);
    }

    /// Sends a frame in turn with those of other flows and in order with those of its own.
    ///
    /// # Panics
    /// If head or body do not fit a frame.
    pub fn send_in(&mut self, flow: u64, header: FrameHeader, head: &[u8], body: Bytes) {
        let header = header.with_lens(head.len(), body.len()).expect("peers know how long frames may be");
        self.conn.outbox().push_frame(flow, lead(header, head), body);
    }

    /// Sends a frame on a user stream.
    ///
    /// # Panics
    /// If the head does not fit a frame.
    pub fn send_on(&mut self, stream: StreamId, header: FrameHeader, head: &[u8]) {
        let header = header.with_lens(head.len(), 0).expect("peers know how long frames may be");
        self.conn.outbox().push_stream(stream, lead(header, head), false);
    }

    /// Reads at most `max` bytes and says what they were.
    ///
    /// # Errors
    /// When the gateway broke the protocol.
    pub fn listen(&mut self, stage: &mut Stage, max: usize) -> Result<(usize, Vec<Heard>), ConnectionError> {
        let mut bytes = Vec::new();
        let n = stage.read(self.link, max, &mut bytes);
        let mut heard = Vec::new();
        if n > 0 {
            let mut input = Input::new(Bytes::from(bytes));
            while let Some(event) = self.conn.receive(&mut input, &FrameLimits::DIALER)? {
                // At once: a stream opened right behind Welcome starts with the windows agreed in it.
                if let Event::Frame(frame) = &event
                    && frame.header.kind == FrameType::Welcome
                    && let Ok(welcome) = Welcome::decode(&frame.head)
                {
                    self.conn.engine_mut().set_stream_windows(self.stream_window, welcome.stream_window);
                }
                heard.push(Heard::from(event));
            }
        }
        Ok((n, heard))
    }

    /// Writes what there is room for.
    pub fn flush(&mut self, stage: &mut Stage) {
        loop {
            if self.conn.sending() == 0 {
                self.conn.fill(BUDGET);
            }
            let total = self.conn.sending();
            if total == 0 {
                return;
            }
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            self.conn.slices(&mut slices, 64);
            let pieces: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
            let n = if stage.rng().chance(self.garbage) {
                let mut bytes = pieces.concat();
                let at = stage.rng().size(0, bytes.len() - 1);
                bytes[at] ^= 1 << stage.rng().below(8);
                self.spoilt = true;
                stage.write(self.link, &[&bytes])
            } else {
                stage.write(self.link, &pieces)
            };
            self.conn.written(n, |_, _| {});
            if n == 0 {
                return;
            }
        }
    }
}

fn lead(header: FrameHeader, head: &[u8]) -> Bytes {
    let mut lead = BytesMut::with_capacity(HEADER_LEN + head.len());
    lead.put_slice(&header.encode());
    lead.put_slice(head);
    lead.freeze()
}

// === impl Heard ===

impl From<Event<Bytes>> for Heard {
    fn from(event: Event<Bytes>) -> Self {
        match event {
            Event::Frame(Frame { header, head, body }) => {
                Self::Frame(Note { header, head: head.into_bytes(), body: body.into_bytes() })
            }
            Event::StreamOpened(stream) => Self::Opened(stream),
            Event::StreamData(stream, piece) => Self::Data(stream, piece.into_bytes()),
            Event::StreamFinished(stream) => Self::Finished(stream),
            Event::StreamReset(stream) => Self::Reset(stream),
            Event::Ended => Self::Ended,
        }
    }
}
