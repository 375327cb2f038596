//! The inboxes of all shards: how they and the async world reach each other.
//!
//! An inbox is drained every turn without needing room anywhere else. A shard that sees another's inbox congested reads nothing until
//! the next turn, so what comes in is what the others had read before. Beyond [`Settings::inbox`](crate::core::Settings::inbox) bytes
//! they refuse operations towards it (`overloaded`); what always goes is small, or bounded by the windows of streams. Nothing is
//! dropped. The bytes count in the memory budget.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mio::{Poll, Waker};
use parking_lot::Mutex;

use crate::core::{
    Shared,
    message::{Batch, Msg},
};

/// Messages in an inbox from which on the other shards stop reading.
const CONGESTED: usize = 16_384;

/// One shard's inbox.
#[derive(Debug)]
pub struct Inbox {
    mail: Mutex<Batch>,
    depth: AtomicUsize,
    waker: Waker,
    connections: AtomicUsize,
}

/// All inboxes.
#[derive(Debug)]
pub struct Hub {
    inboxes: Vec<Inbox>,
    shared: Arc<Shared>,
}

// === impl Inbox ===

impl Inbox {
    /// The inbox of the shard that runs on this poll set.
    ///
    /// # Errors
    /// When the waker cannot be made.
    pub fn new(poll: &Poll) -> io::Result<Self> {
        let waker = Waker::new(poll.registry(), super::WAKE)?;
        Ok(Self {
            mail: Mutex::default(),
            depth: AtomicUsize::new(0),
            waker,
            connections: AtomicUsize::new(0),
        })
    }
}

// === impl Hub ===

impl Hub {
    /// The inboxes in the order of their shards, which share this.
    #[must_use]
    pub fn new(inboxes: Vec<Inbox>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { inboxes, shared })
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.inboxes.len()).unwrap_or(u16::MAX)
    }

    /// Puts a message into a shard's inbox.
    pub fn post(&self, shard: u16, msg: Msg) {
        self.post_all(shard, &mut msg.into());
    }

    /// Puts all messages of a batch into a shard's inbox and wakes it if it was empty.
    pub fn post_all(&self, shard: u16, batch: &mut Batch) {
        let Some(inbox) = self.inboxes.get(usize::from(shard)) else { return };
        // Before anybody can take them out again.
        self.shared.mail_in(shard, batch.held());
        let wake = {
            let mut mail = inbox.mail.lock();
            let wake = mail.is_empty();
            mail.append(batch);
            inbox.depth.store(mail.len(), Ordering::Relaxed);
            wake
        };
        if wake && let Err(error) = inbox.waker.wake() {
            tracing::error!(shard, %error, "shard cannot be woken");
        }
    }

    /// Moves everything in a shard's inbox to an empty batch. It counts as waiting until [`Hub::handled`].
    pub fn take(&self, shard: u16, batch: &mut Batch) {
        let Some(inbox) = self.inboxes.get(usize::from(shard)) else { return };
        if inbox.depth.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut mail = inbox.mail.lock();
        // Under the lock: behind it a message that has just come would be counted away, and nobody woken for it.
        inbox.depth.store(0, Ordering::Relaxed);
        batch.append(&mut mail);
    }

    /// A shard is done with messages of so many bytes.
    pub fn handled(&self, shard: u16, bytes: usize) {
        self.shared.mail_out(shard, bytes);
    }

    /// Whether a shard has messages.
    #[must_use]
    pub fn has_mail(&self, shard: u16) -> bool {
        self.inboxes.get(usize::from(shard)).is_some_and(|inbox| inbox.depth.load(Ordering::Relaxed) > 0)
    }

    /// Whether any inbox but this shard's own has more than it should: messages, or half of the bytes from which on operations are
    /// refused.
    #[must_use]
    pub fn is_congested(&self, own: u16) -> bool {
        let bytes = self.shared.settings.inbox() / 2;
        let mut others = (0..).zip(&self.inboxes).filter(|(shard, _)| *shard != own);
        others.any(|(shard, inbox)| {
            inbox.depth.load(Ordering::Relaxed) > CONGESTED || self.shared.mail(shard) > bytes
        })
    }

    /// The shard with the fewest connections.
    #[must_use]
    pub fn lightest(&self) -> u16 {
        let load = |inbox: &Inbox| inbox.connections.load(Ordering::Relaxed);
        let lightest = self.inboxes.iter().enumerate().min_by_key(|(_, inbox)| load(inbox));
        lightest.and_then(|(shard, _)| u16::try_from(shard).ok()).unwrap_or(0)
    }

    /// Counts connections of a shard up or down.
    pub fn load(&self, shard: u16, change: isize) {
        if let Some(inbox) = self.inboxes.get(usize::from(shard)) {
            inbox.connections.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
        }
    }

    /// Connections of a shard.
    #[cfg(test)]
    pub(super) fn connections(&self, shard: u16) -> usize {
        self.inboxes[usize::from(shard)].connections.load(Ordering::Relaxed)
    }
}
