//! A peer that acts by itself on a thread of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use frontier_wire::native::frame::FrameType;

use super::{Incoming, Peer};

/// How often the thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(20);

/// See the module documentation. Dropping it ends the thread and the connection.
#[derive(Debug)]
pub struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<Peer>>>,
}

// === impl Worker ===

impl Worker {
    /// Calls `act` for everything that comes, until it fails or the worker is stopped.
    #[must_use]
    pub fn spawn(
        mut peer: Peer,
        mut act: impl FnMut(&mut Peer, Incoming) -> anyhow::Result<()> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                if let Some(incoming) = peer.next(LOOK)? {
                    act(&mut peer, incoming)?;
                }
            }
            Ok(peer)
        });
        Self { stop, thread: Some(thread) }
    }

    /// Answers every call with its own body and acknowledges every message.
    #[must_use]
    pub fn echo(peer: Peer) -> Self {
        Self::spawn(peer, |peer, incoming| match incoming {
            Incoming::Operation { kind: FrameType::Request, id, body, aborted: false, .. } => {
                peer.respond(id, &body)
            }
            Incoming::Operation { kind: FrameType::Publish, id, aborted: false, .. } => peer.ack(id),
            Incoming::Closed(closed) => anyhow::bail!("connection is over: {closed:?}"),
            _ => Ok(()),
        })
    }

    /// Ends the thread.
    ///
    /// # Errors
    /// With whatever ended it before.
    pub fn stop(mut self) -> anyhow::Result<Peer> {
        self.stop.store(true, Ordering::Release);
        let joined = self.thread.take().map(JoinHandle::join);
        joined.and_then(Result::ok).unwrap_or_else(|| Err(anyhow::anyhow!("the worker panicked")))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
