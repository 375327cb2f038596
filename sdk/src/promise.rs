//! The answer to an operation: one side promises it, the other waits for it and may stop waiting at any time.
//!
//! Unlike a plain oneshot channel, an answer that is dropped tells the session that carries the operation, so that the peer learns
//! that nobody waits any more.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    mailbox::{DialogueId, Mailbox, Note},
};

/// The duty to answer. Dropped without an answer it answers `session_closed`, so nobody waits for ever.
pub(crate) struct Promise<T>(Option<Arc<Cell<T>>>);

/// The answer to come.
#[must_use]
pub(crate) struct Answer<T>(Arc<Cell<T>>);

struct Cell<T>(Mutex<State<T>>);

enum State<T> {
    Waiting {
        waker: Option<Waker>,
        /// Where the operation was sent, once it was.
        sent: Option<(Arc<Mailbox>, DialogueId, u64)>,
    },
    Done(Result<T>),
    /// Taken, or nobody waits any more.
    Over,
}

/// Both ends of one answer.
pub(crate) fn promise<T>() -> (Promise<T>, Answer<T>) {
    let cell = Arc::new(Cell(Mutex::new(State::Waiting { waker: None, sent: None })));
    (Promise(Some(cell.clone())), Answer(cell))
}

// === impl Promise ===

impl<T> Promise<T> {
    pub(crate) fn fulfil(mut self, result: Result<T>) {
        if let Some(cell) = self.0.take() {
            cell.fulfil(result);
        }
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_none_or(|cell| matches!(*cell.0.lock(), State::Over))
    }

    /// Notes where the operation was sent, for the case that nobody waits any more; false if that is so already.
    pub(crate) fn sent(&self, mailbox: &Arc<Mailbox>, dialogue: DialogueId, id: u64) -> bool {
        let Some(cell) = self.0.as_ref() else { return false };
        match &mut *cell.0.lock() {
            State::Waiting { sent, .. } => {
                *sent = Some((mailbox.clone(), dialogue, id));
                true
            }
            State::Done(_) | State::Over => false,
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.fulfil(Err(Error::session_closed("the session ended")));
        }
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Promise")
    }
}

// === impl Answer ===

impl<T> Future for Answer<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let mut state = self.0.0.lock();
        match &mut *state {
            State::Waiting { waker, .. } => {
                if waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            State::Done(_) | State::Over => match mem::replace(&mut *state, State::Over) {
                State::Done(result) => Poll::Ready(result),
                State::Waiting { .. } | State::Over => Poll::Pending,
            },
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let state = mem::replace(&mut *self.0.0.lock(), State::Over);
        if let State::Waiting { sent: Some((mailbox, dialogue, id)), .. } = state {
            mailbox.push(Note::Cancel { dialogue, id });
        }
    }
}

// === impl Cell ===

impl<T> Cell<T> {
    fn fulfil(&self, result: Result<T>) {
        let before = {
            let mut state = self.0.lock();
            match &*state {
                State::Waiting { .. } => mem::replace(&mut *state, State::Done(result)),
                State::Done(_) | State::Over => return,
            }
        };
        if let State::Waiting { waker: Some(waker), .. } = before {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn notes(mailbox: &Mailbox) -> Vec<Note> {
        let mut notes = Vec::new();
        mailbox.take(&mut notes, Waker::noop());
        notes
    }

    #[tokio::test]
    async fn an_answer_arrives_once() {
        let (promise, answer) = promise();
        promise.fulfil(Ok(5));
        assert_eq!(answer.await, Ok(5));
    }

    #[tokio::test]
    async fn a_dropped_promise_is_an_error() {
        let (promise, answer) = promise::<()>();
        drop(promise);
        assert_eq!(answer.await.unwrap_err().code(), crate::ErrorCode::SessionClosed);
    }

    #[test]
    fn a_dropped_answer_cancels_what_was_sent() {
        let mailbox = Arc::new(Mailbox::default());
        let (promise, answer) = promise::<()>();
        assert!(promise.sent(&mailbox, DialogueId::Session, 9));
        drop(answer);
        assert!(matches!(notes(&mailbox)[..], [Note::Cancel { dialogue: DialogueId::Session, id: 9 }]));
        assert!(promise.is_abandoned());
    }

    #[test]
    fn an_answer_dropped_before_sending_is_noticed_by_the_sender() {
        let mailbox = Arc::new(Mailbox::default());
        let (promise, answer) = promise::<()>();
        drop(answer);
        assert!(promise.is_abandoned());
        assert!(!promise.sent(&mailbox, DialogueId::Session, 9));
        assert!(notes(&mailbox).is_empty());
    }

    #[test]
    fn an_answer_dropped_after_it_came_cancels_nothing() {
        let mailbox = Arc::new(Mailbox::default());
        let (promise, answer) = promise::<()>();
        assert!(promise.sent(&mailbox, DialogueId::Session, 9));
        promise.fulfil(Ok(()));
        drop(answer);
        assert!(notes(&mailbox).is_empty());
    }
}
