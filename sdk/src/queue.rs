//! A bounded queue that any number of tasks may take from: messages and streams that wait for their user. What comes from different
//! gateways waits in lanes of its own ([`Lanes`]).
//!
//! Full means refused: whoever sent what does not fit is told `overloaded`, nobody waits.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::lanes::Lanes;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    came: Notify,
}

#[derive(Debug)]
struct State<T> {
    items: Lanes<T>,
    closed: bool,
}

// === impl Queue ===

impl<T> Queue<T> {
    /// A queue in which `capacity` items of each lane may wait.
    pub(crate) fn new(capacity: usize) -> Self {
        let state = Mutex::new(State { items: Lanes::new(capacity), closed: false });
        Self { state, came: Notify::new() }
    }

    /// Appends an item, or gives it back if its lane is full or the queue is closed.
    pub(crate) fn push(&self, lane: u64, item: T) -> Result<(), T> {
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(item);
            }
            state.items.push(lane, item)?;
        }
        self.came.notify_one();
        Ok(())
    }

    /// Whether a push would be refused now.
    pub(crate) fn is_full(&self, lane: u64) -> bool {
        let state = self.state.lock();
        state.closed || state.items.is_full(lane)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.state.lock().items.len()
    }

    /// The next item for which `wanted` holds, others are dropped on the way; `None` once the queue is closed and empty.
    pub(crate) async fn next(&self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        loop {
            let came = self.came.notified();
            tokio::pin!(came);
            // Enabled before looking: what comes after the look wakes us.
            came.as_mut().enable();
            loop {
                let (item, closed) = {
                    let mut state = self.state.lock();
                    (state.items.pop(), state.closed)
                };
                match item {
                    Some(item) if wanted(&item) => return Some(item),
                    Some(_) => {}
                    None if closed => return None,
                    None => break,
                }
            }
            came.await;
        }
    }

    /// Nothing comes any more. With `discard` what waits is dropped as well.
    pub(crate) fn close(&self, discard: bool) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            discard.then(|| state.items.take())
        };
        // Items may tell their senders when dropped: not under the lock.
        drop(dropped);
        self.came.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Arc, task::Poll};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn items_come_in_order_and_full_is_refused() {
        let queue = Queue::new(2);
        assert_eq!(queue.push(0, 1), Ok(()));
        assert_eq!(queue.push(0, 2), Ok(()));
        assert_eq!(queue.push(0, 3), Err(3));
        assert_eq!(queue.next(|_| true).await, Some(1));
        assert_eq!(queue.next(|_| true).await, Some(2));
    }

    #[tokio::test]
    async fn closing_lets_what_waits_through_unless_it_is_discarded() {
        let queue = Queue::new(2);
        queue.push(0, 1).unwrap();
        queue.close(false);
        assert_eq!(queue.push(0, 2), Err(2));
        assert_eq!(queue.next(|_| true).await, Some(1));
        assert_eq!(queue.next(|_| true).await, None);

        let queue = Queue::new(2);
        queue.push(0, 1).unwrap();
        queue.close(true);
        assert_eq!(queue.next(|_| true).await, None);
    }

    #[tokio::test]
    async fn closing_wakes_all_who_wait() {
        let queue = Arc::new(Queue::<u8>::new(1));
        let (mut one, mut two) = (pin!(queue.next(|_| true)), pin!(queue.next(|_| true)));
        assert!(poll(one.as_mut()).is_pending() && poll(two.as_mut()).is_pending());
        queue.close(false);
        assert_eq!((one.await, two.await), (None, None));
    }

    #[tokio::test]
    async fn a_waiting_taker_that_gives_up_loses_no_item() {
        let queue = Queue::new(4);
        let mut gone = Box::pin(queue.next(|_| true));
        let mut stays = Box::pin(queue.next(|_| true));
        assert!(poll(gone.as_mut()).is_pending() && poll(stays.as_mut()).is_pending());
        queue.push(0, 7).unwrap();
        // The wake-up was meant for `gone`; dropping it passes it on.
        drop(gone);
        assert_eq!(stays.await, Some(7));
    }
}
