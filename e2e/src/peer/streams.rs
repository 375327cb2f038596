//! User streams of a peer.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType, MAX_BODY_FRAME},
        limits::FrameLimits,
        proto,
        reader::FrameReader,
    },
    yamux::StreamId,
};
use prost::Message;

use super::{Frame, Incoming, Peer, Refusal, error};

/// Streams by their ID.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: HashMap<StreamId, State>,
}

#[derive(Debug, Default)]
struct State {
    reader: FrameReader,
    /// Bytes are not granted back: this side reads slowly.
    held: bool,
    /// Bytes not granted back yet.
    owed: u32,
}

impl Streams {
    pub(super) fn opened(&mut self, stream: StreamId) {
        self.open.insert(stream, State::default());
    }
}

impl Peer {
    /// Opens a stream without waiting for an answer.
    ///
    /// # Errors
    /// When the connection is broken or has too many streams.
    pub fn start_stream(&mut self, call: &proto::Call) -> anyhow::Result<StreamId> {
        let stream = self.wire.conn().open_stream()?;
        self.streams.opened(stream);
        self.stream_frame(stream, FrameType::Open, Flags::NONE, 1, &call.encode_to_vec(), &[])?;
        Ok(stream)
    }

    /// Opens a stream; the refusal is that of OpenAck.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn open(
        &mut self,
        call: &proto::Call,
        within: Duration,
    ) -> anyhow::Result<Result<StreamId, Refusal>> {
        let stream = self.start_stream(call)?;
        let reply = self.open_ack(stream, within)?;
        Ok(reply.map(|()| stream))
    }

    /// Waits for the OpenAck of a stream.
    ///
    /// # Errors
    /// When none comes.
    pub fn open_ack(&mut self, stream: StreamId, within: Duration) -> anyhow::Result<Result<(), Refusal>> {
        let frame = self.wait("OpenAck", within, |incoming| match incoming {
            Incoming::StreamFrame(on, frame) if *on == stream && frame.kind == FrameType::OpenAck => {
                Some(frame.clone())
            }
            _ => None,
        })?;
        let reply: proto::Reply = frame.head_as()?;
        Ok(reply.error.as_ref().map_or(Ok(()), |error| Err(Refusal::from_proto(error))))
    }

    /// The next stream that the other side wants.
    ///
    /// # Errors
    /// When none comes within the time.
    pub fn offered(&mut self, within: Duration) -> anyhow::Result<(StreamId, proto::Call)> {
        self.wait("Open", within, |incoming| match incoming {
            Incoming::Open { stream, call } => Some((*stream, call.clone())),
            _ => None,
        })
    }

    /// Takes a stream that the other side wants.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn accept(&mut self, stream: StreamId) -> anyhow::Result<()> {
        self.stream_frame(stream, FrameType::OpenAck, Flags::NONE, 1, &[], &[])
    }

    /// Refuses a stream that the other side wants.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn refuse(&mut self, stream: StreamId, code: ErrorCode, text: &str) -> anyhow::Result<()> {
        let reply = proto::Reply { error: Some(error(code, text)), ..proto::Reply::default() };
        self.stream_frame(stream, FrameType::OpenAck, Flags::NONE, 1, &reply.encode_to_vec(), &[])?;
        self.finish(stream)
    }

    /// Sends bytes as Data frames; what the window does not let through waits.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn data(&mut self, stream: StreamId, bytes: &[u8]) -> anyhow::Result<()> {
        for piece in bytes.chunks(MAX_BODY_FRAME as usize) {
            self.queue_on(stream, FrameType::Data, Flags::NONE, 0, &[], piece)?;
        }
        Ok(self.wire.flush()?)
    }

    /// Sends a frame on a user stream.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn stream_frame(
        &mut self,
        stream: StreamId,
        kind: FrameType,
        flags: Flags,
        id: u64,
        head: &[u8],
        body: &[u8],
    ) -> anyhow::Result<()> {
        self.queue_on(stream, kind, flags, id, head, body)?;
        Ok(self.wire.flush()?)
    }

    fn queue_on(
        &mut self,
        stream: StreamId,
        kind: FrameType,
        flags: Flags,
        id: u64,
        head: &[u8],
        body: &[u8],
    ) -> anyhow::Result<()> {
        let mut bytes = BytesMut::new();
        FrameHeader::new(kind, id).with_flags(flags).put_frame(&mut bytes, head, body)?;
        self.wire.conn().outbox().push_stream(stream, bytes.freeze(), false);
        Ok(())
    }

    /// Bytes that wait for window or for the socket.
    pub fn queued(&mut self) -> usize {
        self.wire.conn().outbox_bytes()
    }

    /// Half-closes a stream behind what was sent on it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn finish(&mut self, stream: StreamId) -> anyhow::Result<()> {
        self.wire.conn().finish_stream(stream);
        Ok(self.wire.flush()?)
    }

    /// Resets a stream.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn reset(&mut self, stream: StreamId) -> anyhow::Result<()> {
        self.wire.conn().reset_stream(stream);
        Ok(self.wire.flush()?)
    }

    /// From now on bytes of the stream are read but not granted back.
    pub fn hold(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.open.get_mut(&stream) {
            state.held = true;
        }
    }

    /// Grants everything back that was held.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn let_go(&mut self, stream: StreamId) -> anyhow::Result<()> {
        let owed = self.streams.open.get_mut(&stream).map_or(0, |state| {
            state.held = false;
            std::mem::take(&mut state.owed)
        });
        self.wire.conn().release(stream, owed);
        Ok(self.wire.flush()?)
    }

    /// The bytes of Data frames of a stream until its half-close.
    ///
    /// # Errors
    /// When the end does not come within the time, or the stream is reset.
    pub fn read_to_end(&mut self, stream: StreamId, within: Duration) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let frame = self.wait("data or end of a stream", within, |incoming| match incoming {
                Incoming::StreamFrame(on, frame) if *on == stream => Some(Ok(Some(frame.clone()))),
                Incoming::Finished(on) if *on == stream => Some(Ok(None)),
                Incoming::Reset(on) if *on == stream => Some(Err(anyhow::anyhow!("stream was reset"))),
                _ => None,
            })??;
            let Some(frame) = frame else { return Ok(bytes) };
            anyhow::ensure!(frame.kind == FrameType::Data, "unexpected {frame:?}");
            bytes.extend_from_slice(&frame.body);
        }
    }

    /// At least so many bytes of Data frames of a stream.
    ///
    /// # Errors
    /// When they do not come within the time.
    pub fn read(&mut self, stream: StreamId, least: usize, within: Duration) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < least {
            let frame = self.on_stream(stream, FrameType::Data, within)?;
            bytes.extend_from_slice(&frame.body);
        }
        Ok(bytes)
    }

    /// The next frame of a type on a stream.
    ///
    /// # Errors
    /// When none comes within the time.
    pub fn on_stream(
        &mut self,
        stream: StreamId,
        kind: FrameType,
        within: Duration,
    ) -> anyhow::Result<Frame> {
        self.wait("frame on a stream", within, |incoming| match incoming {
            Incoming::StreamFrame(on, frame) if *on == stream && frame.kind == kind => Some(frame.clone()),
            _ => None,
        })
    }

    /// Waits for the other side to reset a stream.
    ///
    /// # Errors
    /// When it does not within the time.
    pub fn was_reset(&mut self, stream: StreamId, within: Duration) -> anyhow::Result<()> {
        self.wait("reset of a stream", within, |incoming| match incoming {
            Incoming::Reset(on) if *on == stream => Some(()),
            _ => None,
        })
    }

    pub(super) fn on_stream_bytes(&mut self, stream: StreamId, bytes: &[u8]) -> anyhow::Result<()> {
        let len = u32::try_from(bytes.len())?;
        let state = self.streams.open.get_mut(&stream).context("bytes of an unknown stream")?;
        if state.held {
            state.owed += len;
        } else {
            self.wire.conn().release(stream, len);
        }
        let mut input = Bytes::copy_from_slice(bytes);
        while let Some(frame) =
            state.reader.next(&mut input, &FrameLimits::DIALER).context("bytes of a stream")?
        {
            let kind = frame.header.kind;
            let (head, body) = (frame.head.to_vec(), frame.body.to_vec());
            let frame = Frame { kind, flags: frame.header.flags, id: frame.header.id, head, body };
            let incoming = if kind == FrameType::Open {
                Incoming::Open { stream, call: frame.head_as()? }
            } else {
                Incoming::StreamFrame(stream, frame)
            };
            self.inbox.push_back(incoming);
        }
        Ok(())
    }
}
