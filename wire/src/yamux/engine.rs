//! The state machine of one connection.

use std::mem;

use bytes::BufMut;

use super::{
    Config, Error, GoAwayCode, HEADER_LEN, MAX_DATA, MAX_PENDING_RESETS, OpenError, Role, START_WINDOW,
    SendError, StreamId,
    control::Control,
    header::{ACK, FIN, Header, Kind, RST, SYN},
    stream::{Breach, Stream},
    table::Table,
};
use crate::chunk::Chunk;

mod receive;

/// The last ID there is room for; the one after it would have to wrap.
const LAST_ID: u32 = u32::MAX - 2;

/// One side of a yamux connection, without its bytes.
///
/// Bytes must be written in the order in which [`Engine::take_control`] and [`Engine::data`] gave them out: an end of stream follows
/// the payload it ends.
///
/// A driver's turn is: read, [`Engine::receive`] until it returns `None`, [`Engine::release`] what was consumed, then
/// [`Engine::take_control`], then [`Engine::data`] and payloads. 88 bytes, and no heap memory while only the first stream is open and
/// nothing waits to be written.
#[derive(Debug)]
pub struct Engine {
    /// All streams but the first; absent if there are none.
    table: Option<Box<Table>>,
    /// Frames due that belong to no live stream; absent if there are none.
    control: Option<Box<Control>>,
    /// The client's first stream, inline because every connection has it.
    first: Option<Stream>,
    rx: Rx,
    /// The ID that the next stream of ours gets.
    next_local: u32,
    /// The lowest ID above all that the peer has opened.
    next_remote: u32,
    /// The window that user streams towards us shall have, in bytes.
    recv_window: u32,
    /// The window that user streams towards the peer start with, in bytes.
    send_window: u32,
    max_window: u32,
    max_streams: u32,
    max_frame: u32,
    counts: Counts,
    role: Role,
    /// The peer was told in Hello or Welcome what `recv_window` is; else it assumes [`START_WINDOW`].
    agreed: bool,
    /// We, or the peer, go away: no new streams.
    leaving: Leaving,
}

/// What happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<B> {
    /// The peer opened a stream. It is acknowledged already; [`Engine::reset`] refuses it.
    Opened {
        /// The stream.
        stream: StreamId,
    },
    /// The peer acknowledged a stream of ours. Some peers do not acknowledge one that we have finished before they looked at it.
    Accepted {
        /// The stream.
        stream: StreamId,
    },
    /// The peer sent payload: a piece of a data frame as far as it has arrived, never empty. The window it took must be given back by
    /// [`Engine::release`] when the piece was consumed.
    Data {
        /// The stream.
        stream: StreamId,
        /// The bytes, cut from the input.
        payload: B,
    },
    /// The peer sends nothing more on the stream. If this side had finished before, the stream is gone.
    Finished {
        /// The stream.
        stream: StreamId,
    },
    /// The peer reset the stream. It is gone, and what was not sent yet has nowhere to go.
    Reset {
        /// The stream.
        stream: StreamId,
    },
    /// The peer lets us send more.
    Window {
        /// The stream.
        stream: StreamId,
        /// Bytes more than before.
        grown_by: u32,
    },
    /// The answer to [`Engine::ping`].
    Pong {
        /// The value asked with.
        value: u32,
    },
    /// The peer opens no streams any more and wants none opened.
    GoAway {
        /// Why.
        code: GoAwayCode,
    },
}

/// What a peer did since [`Engine::take_counts`] was called last. Saturates at 65,535.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that carried no payload for a live stream: window updates, pings, resets, empty data, data for streams that are gone, and
    /// what [`Engine::count_control`] adds. A well-behaved peer sends few of them per payload; a driver may cut one that sends nothing else.
    pub control: u16,
    /// Streams refused because there were too many.
    pub refused: u16,
}

/// Who has announced to go away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Leaving {
    local: bool,
    remote: bool,
}

/// Where in the input the next byte belongs.
#[derive(Clone, Copy, Debug)]
enum Rx {
    /// At the start of a frame.
    Border,
    /// Inside a header that the end of the input had cut.
    Header { have: u8, bytes: [u8; HEADER_LEN] },
    /// Behind a header.
    Frame(Frame),
    /// The peer broke the protocol; nothing is read any more.
    Failed(Error),
}

/// What is left of a frame whose header was read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Whose payload follows; `None` if it is skipped, because nobody wants it.
    stream: Option<StreamId>,
    /// Payload bytes to come; with [`GREW`], the window update instead.
    left: u32,
    /// Events to come, a bit each.
    todo: u8,
}

const OPENED: u8 = 1;
const ACCEPTED: u8 = 2;
const GREW: u8 = 4;
/// After the payload.
const FINISHED: u8 = 8;

// === impl Engine ===

impl Engine {
    /// An engine at the start of a connection. Values of `config` outside their bounds count as the bound.
    #[must_use]
    pub fn new(role: Role, config: &Config) -> Self {
        let (recv_window, max_window) = config.windows();
        Self {
            table: None,
            control: None,
            first: None,
            rx: Rx::Border,
            next_local: role.first_id(),
            next_remote: role.peer().first_id(),
            recv_window,
            send_window: START_WINDOW,
            max_window,
            max_streams: config.max_streams,
            max_frame: config.max_frame,
            counts: Counts::default(),
            role,
            agreed: false,
            leaving: Leaving::default(),
        }
    }

    /// Which side this is.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Sets what both sides agreed on for user streams opened from now on: the windows they start with towards us and towards the
    /// peer, in bytes; 0 means 256 KiB. The first stream keeps 256 KiB and what is granted explicitly.
    pub const fn set_stream_windows(&mut self, recv: u32, send: u32) {
        self.recv_window = if recv == 0 { START_WINDOW } else { recv };
        self.send_window = if send == 0 { START_WINDOW } else { send };
        self.agreed = true;
    }

    /// Opens a stream and announces it with the next control frames or its first data, whichever is written first.
    ///
    /// # Errors
    ///
    /// If the connection is going away, too many streams of ours are open, or the peer does not read.
    pub fn open(&mut self) -> Result<StreamId, OpenError> {
        if self.leaving.local || self.leaving.remote {
            return Err(OpenError::GoingAway);
        }
        if self.streams().saturating_sub(self.remote_streams()) >= as_count(self.max_streams) {
            return Err(OpenError::TooMany { max: self.max_streams });
        }
        if self.pending_resets() >= MAX_PENDING_RESETS {
            return Err(OpenError::Backlog);
        }
        let id = self.next_local;
        let stream = StreamId::new(id).filter(|_| id <= LAST_ID).ok_or(OpenError::Exhausted)?;
        self.next_local = id.saturating_add(2);
        let [start, recv, send] = self.start_windows(stream);
        self.insert(stream, Stream::opened(start, recv, send));
        Ok(stream)
    }

    /// The consumer is done with `n` bytes of payload of a stream, whose writer may then send as many more. Grants are joined: one
    /// update per half window. Does nothing if the stream is gone; more than was received counts as what was received.
    ///
    /// A consumer that must see n bytes at once before it releases any needs a window of at least n.
    pub fn release(&mut self, stream: StreamId, n: u32) {
        self.update(stream, |stream| stream.release(n));
    }

    /// Grows the window of a stream towards us to `to` bytes, at most `Config::max_window`, and announces that at once. Returns the
    /// window it has now; `None` if the stream is gone.
    pub fn grow(&mut self, stream: StreamId, to: u32) -> Option<u32> {
        let to = to.min(self.max_window);
        self.update(stream, |stream| {
            stream.grow(to);
            stream.recv_window().0
        })
    }

    /// Grows the window of a stream towards us by `extra` bytes; else as [`Engine::grow`].
    pub fn grant(&mut self, stream: StreamId, extra: u32) -> Option<u32> {
        let (window, _) = self.recv_window(stream)?;
        self.grow(stream, window.saturating_add(extra))
    }

    /// The window of a stream towards us: its size, and how much of it the peer may still use, in bytes.
    #[must_use]
    pub fn recv_window(&self, stream: StreamId) -> Option<(u32, u32)> {
        self.get(stream).map(Stream::recv_window)
    }

    /// Bytes that may be sent on a stream now; 0 if it is gone or finished by this side.
    #[must_use]
    pub fn send_window(&self, stream: StreamId) -> u32 {
        self.get(stream).filter(|stream| !stream.has_local_end()).map_or(0, Stream::send_window)
    }

    /// Whether a stream is open in at least one direction.
    #[must_use]
    pub fn contains(&self, stream: StreamId) -> bool {
        self.get(stream).is_some()
    }

    /// Whether this side may still send on a stream, now or when its window allows.
    #[must_use]
    pub fn can_send(&self, stream: StreamId) -> bool {
        self.get(stream).is_some_and(|stream| !stream.has_local_end())
    }

    /// Begins a data frame: the caller writes the header and exactly `len` bytes of payload behind it. With `fin` the payload is the
    /// last, and the end of the stream is among the next control frames, unless `len` is 0: then this frame says it.
    ///
    /// # Errors
    ///
    /// If this side may not send so much on the stream; nothing has changed then.
    #[inline]
    pub fn data(&mut self, stream: StreamId, len: u32, fin: bool) -> Result<[u8; HEADER_LEN], SendError> {
        if len > MAX_DATA {
            return Err(SendError::TooLong { len });
        }
        let state = self.get_mut(stream).ok_or(SendError::Closed { stream })?;
        if state.has_local_end() {
            return Err(SendError::Finished { stream });
        }
        if len > state.send_window() {
            return Err(SendError::Window { stream, window: state.send_window() });
        }
        let flags = if fin { self.put_last(stream, len) } else { state.put_out(len, false) };
        Ok(Header::data(stream, flags, len).encode())
    }

    /// The flags of the last data frame of a stream.
    fn put_last(&mut self, stream: StreamId, len: u32) -> u16 {
        let put = |state: &mut Stream| (state.put_out(len, true), state.is_over());
        let (flags, over) = self.update(stream, put).unwrap_or_default();
        if over {
            self.remove(stream);
        }
        flags
    }

    /// Ends this side's half of a stream: nothing more is sent, the peer may go on.
    ///
    /// # Errors
    ///
    /// If the stream is gone or was finished before.
    pub fn finish(&mut self, stream: StreamId) -> Result<(), SendError> {
        let finished = self.update(stream, |stream| {
            let first_time = !stream.has_local_end();
            if first_time {
                stream.end_local();
            }
            first_time
        });
        match finished {
            Some(true) => Ok(()),
            Some(false) => Err(SendError::Finished { stream }),
            None => Err(SendError::Closed { stream }),
        }
    }

    /// Ends both halves of a stream at once and forgets it; payload of it that still arrives is skipped. False if it was gone.
    pub fn reset(&mut self, stream: StreamId) -> bool {
        if self.remove(stream).is_none() {
            return false;
        }
        if let Rx::Frame(frame) = &mut self.rx
            && frame.stream == Some(stream)
        {
            if frame.todo & GREW != 0 {
                frame.left = 0;
            }
            frame.stream = None;
            frame.todo = 0;
            if frame.left == 0 {
                self.rx = Rx::Border;
            }
        }
        // Also if the peer never heard of the stream: it would keep the ID in mind as one to come.
        self.control_mut().resets.push(stream.get());
        true
    }

    /// Announces that this side opens no streams any more and refuses new ones. Open streams are not touched.
    pub fn go_away(&mut self, code: GoAwayCode) {
        self.leaving.local = true;
        self.control_mut().go_away = Some(code.to_wire());
    }

    /// Asks the peer for a sign of life. Of several values that wait to be written the last one is sent.
    pub fn ping(&mut self, value: u32) {
        self.control_mut().ping = Some(value);
    }

    /// Whether [`Engine::take_control`] has something to write. It may turn out to be nothing, when streams died meanwhile.
    #[must_use]
    pub fn has_control(&self) -> bool {
        self.control.is_some()
            || self.first.as_ref().is_some_and(Stream::has_due)
            || self.table.as_ref().is_some_and(|table| table.has_due())
    }

    /// Appends all control frames that are due. At most one per open stream, [`MAX_PENDING_RESETS`] and as many as streams were open
    /// for resets, and three more.
    pub fn take_control(&mut self, out: &mut impl BufMut) {
        let control = self.control.take();
        if let Some(control) = &control {
            control.write(out);
        }
        if let Some(first) = &mut self.first {
            if let Some(header) = first.take_control(StreamId::FIRST.get()) {
                out.put_slice(&header.encode());
            }
            if first.is_over() {
                self.first = None;
            }
        }
        if let Some(table) = &mut self.table {
            let peer = self.role.peer();
            table.write(|id| peer.owns(id), out);
            self.free_table();
        }
        if let Some(control) = &control {
            control.write_go_away(out);
        }
    }

    /// Counts frames above the multiplexer that carried nothing either.
    pub const fn count_control(&mut self, frames: u16) {
        self.counts.control = self.counts.control.saturating_add(frames);
    }

    /// What the peer did since the last call.
    pub const fn take_counts(&mut self) -> Counts {
        mem::replace(&mut self.counts, Counts { control: 0, refused: 0 })
    }

    /// Streams open in at least one direction.
    #[must_use]
    pub fn streams(&self) -> usize {
        let others = self.table.as_ref().map_or(0, |table| table.len());
        others.saturating_add(self.first.is_some().into())
    }

    /// Sum of the windows granted, in bytes: what the peer may make the caller hold, counting what it holds already.
    #[cfg(test)]
    pub(super) fn granted_bytes(&self) -> u64 {
        let first = self.first.as_ref().map_or(0, Stream::granted);
        self.table.as_ref().map_or(0, |table| table.granted()).saturating_add(first.into())
    }

    /// Heap memory held, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let table = self.table.as_ref().map_or(0, |table| table.held_bytes());
        table.saturating_add(self.control.as_ref().map_or(0, |control| control.held_bytes()))
    }

    /// Whether nothing is under way: no user stream, no cut frame, nothing to be written. An idle engine holds no heap memory, unless
    /// the peer left gaps in its stream IDs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.rx, Rx::Border)
            && !self.has_control()
            && self.table.as_ref().is_none_or(|table| !table.has_streams())
    }

    // --- the streams

    #[inline]
    fn get(&self, stream: StreamId) -> Option<&Stream> {
        if stream == StreamId::FIRST { self.first.as_ref() } else { self.table.as_ref()?.get(stream.get()) }
    }

    /// For changes that make nothing due and leave the receiving window as it is; else [`Engine::update`].
    #[inline]
    fn get_mut(&mut self, stream: StreamId) -> Option<&mut Stream> {
        if stream == StreamId::FIRST {
            self.first.as_mut()
        } else {
            self.table.as_mut()?.get_mut(stream.get())
        }
    }

    fn update<R>(&mut self, stream: StreamId, change: impl FnOnce(&mut Stream) -> R) -> Option<R> {
        if stream == StreamId::FIRST {
            self.first.as_mut().map(change)
        } else {
            self.table.as_mut()?.update(stream.get(), change)
        }
    }

    fn insert(&mut self, stream: StreamId, state: Stream) {
        if stream == StreamId::FIRST {
            self.first = Some(state);
        } else {
            let remote = self.role.peer().owns(stream.get());
            self.table_mut().insert(stream.get(), state, remote);
        }
    }

    fn remove(&mut self, stream: StreamId) -> Option<Stream> {
        if stream == StreamId::FIRST {
            return self.first.take();
        }
        let remote = self.role.peer().owns(stream.get());
        let state = self.table.as_mut()?.remove(stream.get(), remote);
        self.free_table();
        state
    }

    fn table_mut(&mut self) -> &mut Table {
        self.table.get_or_insert_default()
    }

    fn free_table(&mut self) {
        if self.table.as_ref().is_some_and(|table| table.is_empty()) {
            self.table = None;
        }
    }

    fn control_mut(&mut self) -> &mut Control {
        self.control.get_or_insert_default()
    }

    fn pending_resets(&self) -> usize {
        self.control.as_ref().map_or(0, |control| control.resets.len())
    }

    /// Streams that the peer opened.
    fn remote_streams(&self) -> usize {
        let first = self.first.is_some() && self.role == Role::Server;
        self.table.as_ref().map_or(0, |table| table.remote()).saturating_add(first.into())
    }

    /// Of a stream that opens now: the window that the peer assumes, the one it shall have, and ours.
    const fn start_windows(&self, stream: StreamId) -> [u32; 3] {
        if stream.get() == StreamId::FIRST.get() {
            [START_WINDOW, START_WINDOW, START_WINDOW]
        } else if self.agreed {
            [self.recv_window, self.recv_window, self.send_window]
        } else {
            [START_WINDOW, self.recv_window, START_WINDOW]
        }
    }
}

/// A limit as a count; saturates where `usize` is narrower.
fn as_count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
