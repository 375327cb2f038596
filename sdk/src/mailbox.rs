//! What handlers, streams and abandoned calls tell the session they belong to.
//!
//! A mailbox never makes anybody wait, so that it can be used from `drop` and from `poll_write`. It is bounded all the same: every
//! note belongs to something the session has admitted, an operation in flight or a stream with its own limit on queued bytes.
//! Notes that may be merged (bytes consumed) are merged by their sender.

use std::{mem, task::Waker};

use bytes::Bytes;
use frontier_wire::yamux::StreamId;
use parking_lot::Mutex;

use crate::{error::Error, op::Outgoing, reply::Reply};

/// Which sequence of frames an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DialogueId {
    Session,
    Stream(StreamId),
}

/// One thing to tell a session.
#[derive(Debug)]
pub(crate) enum Note {
    /// The outcome of an operation of the peer.
    Answer { dialogue: DialogueId, id: u64, outcome: Result<Reply, Error> },
    /// Nobody waits for an operation of ours any more.
    Cancel { dialogue: DialogueId, id: u64 },
    /// A call or message on a stream.
    StreamOp(StreamId, Box<Outgoing>),
    /// Frames of type Data, encoded.
    StreamData(StreamId, Bytes),
    /// The user has read so many bytes.
    StreamConsumed(StreamId, u32),
    /// The user sends nothing more.
    StreamFinish(StreamId),
    /// The user accepted a stream the peer had opened.
    StreamAccept(StreamId),
    /// The user refused it.
    StreamRefuse(StreamId, Error),
    /// The user ends both directions at once.
    StreamReset(StreamId),
    /// The user has dropped a stream after sending its end: what still comes is not wanted.
    StreamAbandon(StreamId),
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Mailbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    notes: Vec<Note>,
    waker: Option<Waker>,
    closed: bool,
}

// === impl Mailbox ===

impl Mailbox {
    /// Tells the session; false if it has ended.
    pub(crate) fn push(&self, note: Note) -> bool {
        let waker = {
            let mut state = self.0.lock();
            if state.closed {
                return false;
            }
            state.notes.push(note);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Swaps all notes with `empty`; if there are none, the next one wakes `waker`.
    pub(crate) fn take(&self, empty: &mut Vec<Note>, waker: &Waker) {
        let mut state = self.0.lock();
        if state.notes.is_empty() {
            if state.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
                state.waker = Some(waker.clone());
            }
        } else {
            mem::swap(&mut state.notes, empty);
        }
    }

    /// The session has ended: whoever comes now is told so. Returns what nobody has dealt with.
    pub(crate) fn close(&self) -> Vec<Note> {
        let mut state = self.0.lock();
        state.closed = true;
        state.waker = None;
        mem::take(&mut state.notes)
    }
}
