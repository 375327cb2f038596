//! What a stream's handle and its session share: two small queues of bytes and what has ended.
//!
//! The lock is held for lines, never across an await or a call out. Memory is bounded on both sides: towards the user by the window
//! granted to the peer, which grows back only by what the user has read; towards the peer by [`WRITE_MAX`].

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use frontier_wire::yamux::StreamId;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::{
    dialogue::{Delivery, Host},
    error::{Error, ErrorCode, Result},
    handler::{Dispatcher, Handlers, Job},
    headers::Headers,
    mailbox::{Mailbox, Note},
    message::Message,
    op::SendKind,
    queue::Queue,
    request::{Peer, Request},
};

/// Bytes of a stream that may wait to be written before its writer has to wait: two round trips of data at 1 Gbit/s and 1 ms.
pub(crate) const WRITE_MAX: usize = 256 * 1024;

/// Bytes read by the user are reported to the session in steps of so many: a small part of every window.
const CONSUMED_STEP: u32 = 16 * 1024;

/// Pieces below this many bytes are copied together.
const JOIN_MAX: usize = 4 * 1024;

/// Calls and messages of ours that may be unanswered on one stream; more wait. The default of what a peer accepts.
const IN_FLIGHT: usize = 1_024;

/// What both ends of a stream know of it from the start.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) name: Box<str>,
    pub(crate) peer: Peer,
    pub(crate) meta: Bytes,
    pub(crate) headers: Headers,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: StreamId,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) facts: Facts,
    pub(crate) handlers: Handlers,
    pub(crate) messages: Queue<Message>,
    /// Calls and messages of ours on this stream that may be unanswered.
    pub(crate) slots: Semaphore,
    dispatcher: Arc<Dispatcher>,
    lane: u64,
    pipe: Mutex<Pipe>,
    /// Told when the pipe gets its error.
    over: Notify,
}

#[derive(Debug, Default)]
struct Pipe {
    inbound: VecDeque<Bytes>,
    /// Small pieces behind those, joined.
    tail: BytesMut,
    /// The peer sends nothing more.
    finished: bool,
    /// The stream was reset, by the peer or by the end of the session.
    error: Option<Error>,
    reader: Option<Waker>,
    /// Bytes read and not yet reported.
    consumed: u32,
    /// Bytes handed to the session and not yet written.
    queued: usize,
    writer: Option<Waker>,
    /// The user sends nothing more.
    ended: bool,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        id: StreamId,
        mailbox: Arc<Mailbox>,
        facts: Facts,
        (dispatcher, lane): (Arc<Dispatcher>, u64),
        message_queue: usize,
    ) -> Self {
        Self {
            id,
            mailbox,
            facts,
            handlers: Handlers::default(),
            messages: Queue::new(message_queue),
            slots: Semaphore::new(IN_FLIGHT),
            dispatcher,
            lane,
            pipe: Mutex::default(),
            over: Notify::new(),
        }
    }

    // --- the session's side

    /// Bytes from the peer.
    pub(crate) fn received(&self, bytes: Bytes) {
        let waker = {
            let mut pipe = self.pipe.lock();
            pipe.push(bytes);
            pipe.reader.take()
        };
        wake(waker);
    }

    /// The peer sends nothing more.
    pub(crate) fn finished(&self) {
        let waker = {
            let mut pipe = self.pipe.lock();
            pipe.finished = true;
            pipe.reader.take()
        };
        wake(waker);
        self.messages.close(false);
    }

    /// The stream is over at once.
    pub(crate) fn fail(&self, error: Error) {
        let wakers = {
            let mut pipe = self.pipe.lock();
            pipe.error.get_or_insert(error);
            pipe.clear();
            [pipe.reader.take(), pipe.writer.take()]
        };
        wakers.into_iter().for_each(wake);
        self.over.notify_waiters();
        self.messages.close(true);
        self.handlers.clear();
    }

    /// So many bytes are queued for the peer that do not come from the user's writes.
    pub(crate) fn queue(&self, bytes: usize) {
        self.pipe.lock().queued += bytes;
    }

    /// So many queued bytes were written.
    pub(crate) fn written(&self, bytes: usize) {
        let waker = {
            let mut pipe = self.pipe.lock();
            pipe.queued = pipe.queued.saturating_sub(bytes);
            if pipe.queued < WRITE_MAX { pipe.writer.take() } else { None }
        };
        wake(waker);
    }

    /// Bytes queued for the peer.
    pub(crate) fn queued(&self) -> usize {
        self.pipe.lock().queued
    }

    /// Whether the stream is over.
    pub(crate) fn is_dead(&self) -> bool {
        self.pipe.lock().error.is_some()
    }

    // --- the user's side

    /// Waits until the stream is over.
    pub(crate) async fn failed(&self) -> Error {
        loop {
            // Listening begins before looking: what happens in between is not missed.
            let over = self.over.notified();
            if let Some(error) = &self.pipe.lock().error {
                return error.clone();
            }
            over.await;
        }
    }

    /// The next bytes, at most `max`; empty at the end.
    pub(crate) fn poll_bytes(&self, cx: &Context<'_>, max: usize) -> Poll<io::Result<Bytes>> {
        let mut pipe = self.pipe.lock();
        if let Some(error) = &pipe.error {
            return Poll::Ready(Err(error.clone().into()));
        }
        let Some(front) = pipe.front() else {
            if pipe.finished {
                return Poll::Ready(Ok(Bytes::new()));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let taken = front.split_to(front.len().min(max));
        if !front.has_remaining() {
            pipe.inbound.pop_front();
        }
        pipe.consumed += u32::try_from(taken.len()).unwrap_or(u32::MAX);
        let report = if pipe.consumed >= CONSUMED_STEP { std::mem::take(&mut pipe.consumed) } else { 0 };
        drop(pipe);
        if report > 0 {
            self.mailbox.push(Note::StreamConsumed(self.id, report));
        }
        Poll::Ready(Ok(taken))
    }

    /// How many bytes may be handed over now, at least one.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let mut pipe = self.pipe.lock();
        if let Some(error) = &pipe.error {
            return Poll::Ready(Err(error.clone().into()));
        }
        if pipe.ended {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the stream was shut down")));
        }
        let room = WRITE_MAX.saturating_sub(pipe.queued);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// Hands encoded frames to the session.
    pub(crate) fn write(&self, frames: Bytes) -> io::Result<()> {
        self.queue(frames.len());
        if self.mailbox.push(Note::StreamData(self.id, frames)) {
            Ok(())
        } else {
            Err(Error::session_closed("the session ended").into())
        }
    }

    /// Ends the user's direction; false if that was done before or the stream is over.
    pub(crate) fn end(&self) -> Result<bool> {
        let mut pipe = self.pipe.lock();
        if let Some(error) = &pipe.error {
            return Err(error.clone());
        }
        let first = !std::mem::replace(&mut pipe.ended, true);
        drop(pipe);
        if first {
            self.mailbox.push(Note::StreamFinish(self.id));
        }
        Ok(first)
    }

    /// The user is done with the stream: what it has not ended is reset.
    pub(crate) fn release(&self) {
        let (dead, ended) = {
            let mut pipe = self.pipe.lock();
            let dead = pipe.error.is_some();
            if !dead {
                pipe.error = Some(Error::session_closed("the stream was dropped"));
                pipe.clear();
            }
            (dead, pipe.ended)
        };
        self.over.notify_waiters();
        if !dead {
            self.mailbox.push(if ended { Note::StreamAbandon(self.id) } else { Note::StreamReset(self.id) });
        }
        self.messages.close(true);
        self.handlers.clear();
    }
}

// === impl Pipe ===

impl Pipe {
    /// Takes bytes of the peer. Small pieces are joined: each alone would cost more than its bytes, and keep the whole buffer in memory
    /// that it was read into, of which the window says nothing.
    fn push(&mut self, bytes: Bytes) {
        if bytes.len() < JOIN_MAX {
            self.tail.extend_from_slice(&bytes);
        } else {
            self.join();
            self.inbound.push_back(bytes);
        }
    }

    fn join(&mut self) {
        if !self.tail.is_empty() {
            self.inbound.push_back(self.tail.split().freeze());
        }
    }

    /// The next piece for the user.
    fn front(&mut self) -> Option<&mut Bytes> {
        if self.inbound.is_empty() {
            self.join();
        }
        self.inbound.front_mut()
    }

    fn clear(&mut self) {
        self.inbound.clear();
        self.tail = BytesMut::new();
    }
}

impl Host for Shared {
    fn admit(&self, kind: SendKind, name: &str) -> Result<()> {
        match kind {
            SendKind::Request if self.handlers.contains(name) => Ok(()),
            SendKind::Request => {
                Err(Error::new(ErrorCode::MethodNotFound, "nobody offers the method on this stream"))
            }
            SendKind::Publish if self.messages.is_full(0) => {
                Err(Error::overloaded("the stream's messages are not received"))
            }
            SendKind::Publish => Ok(()),
        }
    }

    fn deliver(&self, delivery: Delivery<'_>) {
        let Delivery { kind, head, body, deadline, cancel, responder } = delivery;
        // What the head says of its sender was not written by the gateway: on a stream it is the stream's other end.
        let from = self.facts.peer;
        let headers = head.headers().collect();
        match kind {
            SendKind::Request => {
                let Some((method, handler)) = self.handlers.find(head.name) else {
                    let _ =
                        responder.answer(Err(Error::new(ErrorCode::MethodNotFound, "the method is gone")));
                    return;
                };
                let request = Request { method, body, headers, from, deadline: Some(deadline), cancel };
                let lane = self.lane;
                self.dispatcher.submit(Job { handler, request, responder, turn: None, lane });
            }
            SendKind::Publish => {
                let topic = head.name.into();
                let message = Message { topic, body, headers, from, cancel, responder };
                if let Err(message) = self.messages.push(0, message) {
                    let _ = message
                        .responder
                        .answer(Err(Error::overloaded("the stream's messages are not received")));
                }
            }
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_joined_and_all_keep_their_order() {
        let mut pipe = Pipe::default();
        for _ in 0..1_000 {
            pipe.push(Bytes::from_static(b"1"));
        }
        pipe.push(vec![2; JOIN_MAX].into());
        pipe.push(Bytes::from_static(b"3"));
        pipe.push(Bytes::from_static(b"3"));
        let mut lens = Vec::new();
        while let Some(front) = pipe.front() {
            lens.push((front[0], front.len()));
            pipe.inbound.pop_front();
        }
        assert_eq!(lens, [(b'1', 1_000), (2, JOIN_MAX), (b'3', 2)]);
    }
}
