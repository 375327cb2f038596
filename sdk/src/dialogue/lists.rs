//! Who is online. A gateway makes one list at a time for a session, so those who ask meanwhile share the next one: the list under way
//! may lack edges that were online when they asked.

use std::mem;

use bytes::Bytes;
use frontier_wire::native::{
    frame::{FrameHeader, FrameType},
    presence::PresencePage,
    reader::Frame,
};

use super::{
    Dialogue, Sink,
    outgoing::{success, unreadable},
    put,
};
use crate::{
    error::{Error, Result},
    presence::EdgeInfo,
    promise::Promise,
};

/// Edges on one list, at most: beyond what one gateway holds.
const LIST_MAX: usize = 8_000_000;

#[derive(Debug, Default)]
pub(super) struct Lists {
    /// The one that is coming. It is waited for even when nobody wants it any more, because another would be refused meanwhile.
    coming: Option<Box<Coming>>,
    /// Who gets the next one.
    next: Vec<Promise<Vec<EdgeInfo>>>,
}

#[derive(Debug)]
struct Coming {
    id: u64,
    promises: Vec<Promise<Vec<EdgeInfo>>>,
    edges: Vec<EdgeInfo>,
}

// === impl Lists ===

impl Lists {
    /// Questions that are unanswered.
    pub(super) fn asked(&self) -> usize {
        usize::from(self.coming.is_some())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.coming.is_none() && self.next.is_empty()
    }

    pub(super) fn fail(&mut self, error: &Error) {
        if let Some(mut coming) = self.coming.take() {
            coming.fail(error);
        }
        for promise in self.next.drain(..) {
            promise.fulfil(Err(error.clone()));
        }
    }
}

// === impl Coming ===

impl Coming {
    /// Takes a page; an error if the list is refused, unreadable or too long.
    fn take(&mut self, frame: &Frame<Bytes>) -> Result<()> {
        success(&frame.head)?;
        let page = PresencePage::parse(&frame.body).map_err(unreadable)?;
        // What nobody waits for is not kept.
        self.promises.retain(|promise| !promise.is_abandoned());
        if !self.promises.is_empty() {
            self.edges.extend(page.map(|info| EdgeInfo::from_wire(&info)));
        }
        if self.edges.len() > LIST_MAX { Err(Error::overloaded("more edges than fit")) } else { Ok(()) }
    }

    fn fail(&mut self, error: &Error) {
        self.edges = Vec::new();
        for promise in self.promises.drain(..) {
            promise.fulfil(Err(error.clone()));
        }
    }

    fn end(mut self) {
        let last = self.promises.pop();
        for promise in self.promises {
            promise.fulfil(Ok(self.edges.clone()));
        }
        if let Some(promise) = last {
            promise.fulfil(Ok(self.edges));
        }
    }
}

// === impl Dialogue ===

impl Dialogue {
    /// Asks who is online.
    pub(crate) fn start_presence(&mut self, promise: Promise<Vec<EdgeInfo>>, sink: &mut impl Sink) {
        let next = &mut self.lists.next;
        if next.len() == next.capacity() {
            // Before it grows, so that a gateway which never ends a list does not make it grow for ever.
            next.retain(|promise| !promise.is_abandoned());
        }
        next.push(promise);
        self.ask_presence(sink);
    }

    pub(super) fn on_presence(&mut self, frame: &Frame<Bytes>, sink: &mut impl Sink) {
        let FrameHeader { id, flags, .. } = frame.header;
        let Some(coming) = self.lists.coming.as_mut().filter(|coming| coming.id == id) else { return };
        if let Err(error) = coming.take(frame) {
            coming.fail(&error);
        }
        if flags.more() {
            return;
        }
        if let Some(coming) = self.lists.coming.take() {
            coming.end();
        }
        self.ask_presence(sink);
    }

    /// Asks for those who wait, unless a list is coming.
    fn ask_presence(&mut self, sink: &mut impl Sink) {
        let Lists { coming, next } = &mut self.lists;
        if coming.is_some() {
            return;
        }
        let mut promises = mem::take(next);
        promises.retain(|promise| !promise.is_abandoned());
        if promises.is_empty() {
            return;
        }
        self.last_out += 1;
        let id = self.last_out;
        *coming = Some(Box::new(Coming { id, promises, edges: Vec::new() }));
        put(sink, id << 1, FrameHeader::new(FrameType::Presence, id), [&[], &[]], Bytes::new());
    }
}
