//! The duty to answer an operation of the peer.

use std::sync::Arc;

use crate::{
    error::{Error, ErrorCode, Result},
    mailbox::{DialogueId, Mailbox, Note},
    reply::Reply,
};

/// Answers one operation, exactly once: by [`answer`](Self::answer), or with an error when dropped.
#[derive(Debug)]
pub(crate) struct Responder {
    mailbox: Option<Arc<Mailbox>>,
    dialogue: DialogueId,
    id: u64,
    /// What the peer is told if nobody answers.
    neglected: (ErrorCode, &'static str),
}

// === impl Responder ===

impl Responder {
    pub(crate) const fn new(
        mailbox: Arc<Mailbox>,
        dialogue: DialogueId,
        id: u64,
        neglected: (ErrorCode, &'static str),
    ) -> Self {
        Self { mailbox: Some(mailbox), dialogue, id, neglected }
    }

    /// Hands the outcome to the session.
    ///
    /// # Errors
    /// When the session has ended.
    pub(crate) fn answer(mut self, outcome: Result<Reply>) -> Result<()> {
        if self.send(outcome) {
            Ok(())
        } else {
            Err(Error::session_closed("the session ended before the answer"))
        }
    }

    fn send(&mut self, outcome: Result<Reply>) -> bool {
        let (dialogue, id) = (self.dialogue, self.id);
        self.mailbox.take().is_some_and(|mailbox| mailbox.push(Note::Answer { dialogue, id, outcome }))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.mailbox.is_some() {
            let (code, text) = self.neglected;
            self.send(Err(Error::new(code, text)));
        }
    }
}
