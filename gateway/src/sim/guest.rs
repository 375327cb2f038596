//! A geminio peer without any behaviour: the wire crate's own connection in the client's role, on a link of the stage.

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use bytes::Bytes;
use frontier_wire::geminio::{
    connection::{Connection, Event, Fault},
    limits::Limits,
};

use super::stage::{LinkId, Path, Stage};
use crate::core::Bound;

/// Bytes handed to the link at a time.
const BUDGET: usize = 64 << 10;

/// See the module documentation.
#[derive(Debug)]
pub struct Guest {
    /// The protocol.
    pub conn: Connection,
    /// Where it goes.
    pub link: LinkId,
    /// What the gateway has said.
    pub heard: VecDeque<Event<Bytes>>,
    /// Reads nothing.
    pub frozen: bool,
    /// Raw bytes are kept instead of given back.
    pub greedy: bool,
    planned: u64,
}

// === impl Guest ===

impl Guest {
    /// Connects, and says who it is: the ID it wishes for, or 0, and its meta.
    pub fn new(stage: &mut Stage, bound: Bound, shard: u16, path: Path, wanted: u64, meta: &[u8]) -> Self {
        let link = stage.dial(bound, shard, path);
        let conn = Connection::dial(Arc::new(Limits::default()), wanted, meta, stage.now());
        Self { conn, link, heard: VecDeque::new(), frozen: false, greedy: false, planned: u64::MAX }
    }

    /// Reads what has come, and does what is due.
    ///
    /// # Errors
    /// When the gateway broke the protocol.
    pub fn listen(&mut self, stage: &mut Stage) -> Result<(), Fault> {
        let now = stage.now();
        while let Some(event) = self.conn.handle_timeout(now) {
            self.heard.push_back(event);
        }
        if self.frozen {
            return Ok(());
        }
        let mut bytes = Vec::new();
        stage.read(self.link, usize::MAX, &mut bytes);
        let mut input = Bytes::from(bytes);
        while let Some(event) = self.conn.receive(&mut input, now)? {
            if let Event::Raw(dialogue, piece) = &event
                && !self.greedy
            {
                self.conn.release(*dialogue, piece.len(), now);
            }
            self.heard.push_back(event);
        }
        Ok(())
    }

    /// Writes what there is room for, and asks to be woken; `token` comes back with that.
    pub fn flush(&mut self, stage: &mut Stage, token: u64) {
        loop {
            let now = stage.now();
            if self.conn.wants_write(now) {
                self.conn.fill(BUDGET, now);
            }
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            self.conn.slices(&mut slices, 64);
            let pieces: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
            if pieces.is_empty() {
                break;
            }
            let n = stage.write(self.link, &pieces);
            self.conn.written(n, |_, _| {});
            if n == 0 {
                break;
            }
        }
        let at = self.conn.poll_timeout();
        if at != self.planned && at != u64::MAX {
            self.planned = at;
            stage.timer(at.max(stage.now() + 1), token);
        }
    }
}
