//! The state of one stream: two windows, two halves, and what is due to be announced.
//!
//! The receiving window is conserved: `window = left + freed + held`, where `held` is what the consumer has not released yet and is
//! the only part that is not stored. Nothing here knows the stream's ID.

use super::header::{ACK, FIN, Header, Kind, SYN};

const SYN_DUE: u8 = 1;
const ACK_DUE: u8 = 2;
const FIN_DUE: u8 = 4;
const WINDOW_DUE: u8 = 8;
const ANY_DUE: u8 = SYN_DUE | ACK_DUE | FIN_DUE | WINDOW_DUE;
/// We send nothing any more, although the FIN may still be due.
const LOCAL_END: u8 = 16;
/// The peer sends nothing any more.
const REMOTE_END: u8 = 32;
/// The stream is in its table's list of those with something due.
const LISTED: u8 = 64;

/// One stream. 20 bytes; `Option<Stream>` is no larger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// Bytes the peer may still send.
    left: u32,
    /// Bytes that may be granted with the next update.
    freed: u32,
    /// Bytes the peer may have sent without our having released them, once all updates are out.
    window: u32,
    /// Bytes we may send.
    send: u32,
    flags: u8,
    /// Opened by the peer, or by us and acknowledged.
    acknowledged: bool,
}

/// What a peer may not do on a stream that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// More payload than it had window for.
    Window,
    /// Payload after its FIN.
    AfterEnd,
}

// === impl Stream ===

impl Stream {
    /// A stream that we open: SYN is due. `start` is the window that the peer assumes, `window` the one it shall have.
    pub(super) const fn opened(start: u32, window: u32, send: u32) -> Self {
        Self::new(start, window, send, SYN_DUE, false)
    }

    /// A stream that the peer opened: ACK is due.
    pub(super) const fn accepted(start: u32, window: u32, send: u32) -> Self {
        Self::new(start, window, send, ACK_DUE, true)
    }

    const fn new(start: u32, window: u32, send: u32, flags: u8, acknowledged: bool) -> Self {
        let freed = window.saturating_sub(start);
        // What the peer assumes is granted, whatever we want: the window is never smaller.
        let flags = if freed > 0 { flags | WINDOW_DUE } else { flags };
        Self { left: start, freed, window: start.saturating_add(freed), send, flags, acknowledged }
    }

    const fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether we have ended our half, even if the FIN was not written yet.
    pub(super) const fn has_local_end(&self) -> bool {
        self.is(LOCAL_END)
    }

    /// Whether the peer has ended its half.
    pub(super) const fn has_remote_end(&self) -> bool {
        self.is(REMOTE_END)
    }

    /// Whether both halves have ended and both sides know.
    pub(super) const fn is_over(&self) -> bool {
        self.is(LOCAL_END) && self.is(REMOTE_END) && !self.is(FIN_DUE)
    }

    /// Whether a control frame waits to be written.
    pub(super) const fn has_due(&self) -> bool {
        self.is(ANY_DUE)
    }

    /// Bytes we may send now.
    pub(super) const fn send_window(&self) -> u32 {
        self.send
    }

    /// (whole window, bytes of it that the peer may still send).
    pub(super) const fn recv_window(&self) -> (u32, u32) {
        (self.window, self.left)
    }

    /// Bytes that the peer may make us hold: the window, until it ends its half.
    #[cfg(test)]
    pub(super) const fn granted(&self) -> u32 {
        if self.is(REMOTE_END) { 0 } else { self.window }
    }

    /// Puts the stream on its table's list: true if it was not there and has something due.
    pub(super) const fn list(&mut self) -> bool {
        let lists = self.has_due() && !self.is(LISTED);
        if lists {
            self.flags |= LISTED;
        }
        lists
    }

    /// Takes the stream off its table's list.
    pub(super) const fn unlist(&mut self) {
        self.flags &= !LISTED;
    }

    // --- from the peer

    /// The peer sends `len` bytes of payload.
    #[inline]
    pub(super) const fn take_in(&mut self, len: u32) -> Result<(), Breach> {
        if self.is(REMOTE_END) && len > 0 {
            return Err(Breach::AfterEnd);
        }
        match self.left.checked_sub(len) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Breach::Window),
        }
    }

    /// The peer lets us send `by` bytes more; `None` if no window can be that large.
    pub(super) const fn widen_send(&mut self, by: u32) -> Option<()> {
        match self.send.checked_add(by) {
            Some(send) => {
                self.send = send;
                Some(())
            }
            None => None,
        }
    }

    /// The peer acknowledged; true for the first time.
    pub(super) const fn acknowledge(&mut self) -> bool {
        !std::mem::replace(&mut self.acknowledged, true)
    }

    /// The peer ended its half. It needs no window any more.
    pub(super) const fn end_remote(&mut self) {
        self.flags = (self.flags | REMOTE_END) & !WINDOW_DUE;
    }

    // --- from our side

    /// The consumer is done with `n` bytes. An update is due once half of the window is free: sooner would cost a frame per read,
    /// later would let the writer run dry.
    pub(super) const fn release(&mut self, n: u32) {
        let held = self.window.saturating_sub(self.left).saturating_sub(self.freed);
        let n = if n < held { n } else { held };
        self.freed = self.freed.saturating_add(n);
        if self.freed >= self.window.div_ceil(2) {
            self.due_window();
        }
    }

    /// Makes the window at least `to` bytes and announces that at the next opportunity. Windows never shrink: what was granted
    /// cannot be taken back.
    pub(super) const fn grow(&mut self, to: u32) {
        let extra = to.saturating_sub(self.window);
        if extra > 0 {
            self.window = to;
            self.freed = self.freed.saturating_add(extra);
            self.due_window();
        }
    }

    const fn due_window(&mut self) {
        if self.freed > 0 && !self.is(REMOTE_END) {
            self.flags |= WINDOW_DUE;
        }
    }

    /// Ends our half: FIN is due.
    pub(super) const fn end_local(&mut self) {
        self.flags |= LOCAL_END | FIN_DUE;
    }

    /// The flags of a data frame of `len` bytes that is written now, which also announces what it can.
    ///
    /// An end goes with an empty frame, or follows as a control frame: a reader in hashicorp/yamux that is woken by a FIN finds the
    /// stream at its end before the payload of the same frame is there, and loses it.
    pub(super) const fn put_out(&mut self, len: u32, end: bool) -> u16 {
        self.send = self.send.saturating_sub(len);
        let flags = self.take_open_flags();
        match (end, len) {
            (false, _) => flags,
            (true, 0) => {
                self.flags |= LOCAL_END;
                flags | FIN
            }
            (true, _) => {
                self.end_local();
                flags
            }
        }
    }

    const fn take_open_flags(&mut self) -> u16 {
        let flags = if self.is(SYN_DUE) {
            SYN
        } else if self.is(ACK_DUE) {
            ACK
        } else {
            0
        };
        self.flags &= !(SYN_DUE | ACK_DUE);
        flags
    }

    /// The one frame that announces everything due, if anything is.
    pub(super) const fn take_control(&mut self, id: u32) -> Option<Header> {
        if !self.has_due() {
            return None;
        }
        let mut flags = self.take_open_flags();
        if self.is(FIN_DUE) {
            flags |= FIN;
        }
        let length = if self.is(REMOTE_END) { 0 } else { std::mem::replace(&mut self.freed, 0) };
        self.left = self.left.saturating_add(length);
        self.flags &= !ANY_DUE;
        Some(Header { kind: Kind::Window, flags, stream: id, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_a_stream_is_no_larger_than_a_stream() {
        assert_eq!(size_of::<Option<Stream>>(), 20);
    }

    #[test]
    fn an_update_is_due_at_half_of_the_window_and_not_before() {
        let mut stream = Stream::accepted(100, 100, 0);
        stream.take_control(1);
        stream.take_in(100).unwrap();
        stream.release(49);
        assert!(!stream.has_due());
        stream.release(1);
        let update = stream.take_control(1).unwrap();
        assert_eq!((update.flags, update.length), (0, 50));
        assert_eq!(stream.recv_window(), (100, 50));
    }

    #[test]
    fn a_consumer_cannot_release_more_than_it_holds() {
        let mut stream = Stream::accepted(100, 100, 0);
        stream.take_control(1);
        stream.take_in(60).unwrap();
        stream.release(1000);
        assert_eq!(stream.take_control(1).unwrap().length, 60);
    }

    #[test]
    fn a_window_beyond_the_start_is_granted_with_the_first_frame() {
        let mut stream = Stream::opened(100, 300, 0);
        let syn = stream.take_control(1).unwrap();
        assert_eq!((syn.flags, syn.length), (SYN, 200));
        assert_eq!(stream.recv_window(), (300, 300));
    }

    #[test]
    fn nothing_is_granted_to_a_peer_that_has_finished() {
        let mut stream = Stream::accepted(100, 100, 0);
        stream.take_control(1);
        stream.take_in(100).unwrap();
        stream.release(60);
        assert!(stream.has_due());
        stream.end_remote();
        stream.release(40);
        stream.grow(200);
        assert!(!stream.has_due());
        assert_eq!(stream.take_control(1), None);
        assert_eq!(stream.granted(), 0);
    }

    #[test]
    fn a_window_of_one_byte_still_moves() {
        let mut stream = Stream::accepted(1, 1, 0);
        stream.take_control(1);
        stream.take_in(1).unwrap();
        stream.release(0);
        assert!(!stream.has_due());
        stream.release(1);
        assert_eq!(stream.take_control(1).unwrap().length, 1);
    }
}
