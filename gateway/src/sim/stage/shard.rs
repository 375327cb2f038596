//! One turn of a simulated shard: the same calls in the same order as the mio driver's, but for the choices of the seed.

use std::{
    collections::{BTreeMap, VecDeque},
    io::IoSlice,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{Event, LinkId, Stage, UNIX_MS};
use crate::{
    core::{
        Now, Shared,
        message::{Adopt, Msg},
        shard::{Action, Handover, Moved, Shard, audit::Audit},
        table::SessionRef,
    },
    sim::net::Ending,
};

/// Writes per turn, as in the mio driver.
const WRITES: usize = 4_096;
/// Reads of one socket per turn.
const READS: usize = 4;
/// The shard's read buffer.
const BUFFER: usize = 64 << 10;

/// A shard and what its driver knows.
pub(super) struct SimShard {
    pub(super) core: Shard,
    /// By the handle of the session; a closed one is not there.
    conns: BTreeMap<SessionRef, usize>,
    /// Links that may have something to read.
    pub(super) readable: Vec<usize>,
    /// Links that have room again.
    pub(super) writable: Vec<usize>,
    /// By sender; the last one is the async world.
    pub(super) inbox: Vec<VecDeque<Msg>>,
    /// When it runs next; events for other times are stale.
    pub(super) next_turn: u64,
    pub(super) audit: Audit,
}

// === impl SimShard ===

impl SimShard {
    pub(super) fn new(id: u16, shared: &Arc<Shared>, now: Now, seed: u64) -> Self {
        Self {
            core: Shard::new(id, Arc::clone(shared), now, seed),
            conns: BTreeMap::new(),
            readable: Vec::new(),
            writable: Vec::new(),
            inbox: (0..=shared.stats.len()).map(|_| VecDeque::new()).collect(),
            next_turn: u64::MAX,
            audit: Audit::default(),
        }
    }
}

impl Stage {
    pub(super) fn turn(&mut self, id: u16) {
        self.turns += 1;
        let at = usize::from(id);
        self.shards[at].next_turn = u64::MAX;
        let unix_ms = UNIX_MS + self.now / 1_000;
        self.shards[at].core.set_now(Now { micros: self.now, unix_ms });
        for link in std::mem::take(&mut self.shards[at].writable) {
            if self.links[link].shard == id
                && let Some(session) = self.links[link].session
            {
                self.shards[at].core.on_writable(session);
            }
        }
        // Which comes first depends on when the poller woke up.
        let mail_first = self.rng.chance(300);
        if mail_first {
            self.take_inbox(at);
        }
        self.read_ready(at);
        if !mail_first {
            self.take_inbox(at);
        }
        self.tick(at);
        self.write_dirty(at);
        self.act(at);
        self.deliver_posts(at);
        self.audit_turn(at);
        let shard = &self.shards[at];
        if !shard.readable.is_empty() || shard.inbox.iter().any(|inbox| !inbox.is_empty()) {
            self.wake(id);
        }
        if let Some(due) = self.shards[at].core.next_due() {
            self.turn_at(id, due.max(self.now + 1));
        }
    }

    fn audit_turn(&mut self, at: usize) {
        let shard = &mut self.shards[at];
        shard.audit = shard.core.audit();
        let (audit, len) = (&shard.audit, shard.core.len());
        assert!(audit.problems.is_empty(), "shard {at} after its turn: {:#?}", audit.problems);
        let (sessions, held) = (audit.sessions as u64, audit.held);
        self.trace(4 + at as u64, sessions << 32 ^ held);
        assert_eq!(self.shards[at].conns.len(), len, "connections without a session at shard {at}");
    }

    // --- reading

    fn read_ready(&mut self, at: usize) {
        let mut ready = std::mem::take(&mut self.shards[at].readable);
        ready.sort_unstable();
        ready.dedup();
        self.rng.shuffle(&mut ready);
        for link in ready {
            let read = |stage: &mut Self| {
                let more = stage.read_once(at, link);
                // As the mio driver does: what else comes is for whoever gets the connection next.
                stage.act(at);
                more
            };
            if (0..READS).all(|_| read(self)) {
                self.shards[at].readable.push(link);
            }
        }
    }

    /// Reads once and tells the core; true if there may be more.
    fn read_once(&mut self, at: usize, link: usize) -> bool {
        let Some(session) = self.links[link].session.filter(|session| usize::from(session.shard) == at)
        else {
            return false;
        };
        if !self.shards[at].core.wants_read(session) {
            return false;
        }
        let want = self.shards[at].core.direct_want(session);
        if want > 0 && self.rng.chance(self.chaos.direct_reads) {
            return self.read_direct(at, link, session, want);
        }
        let size = if self.rng.chance(self.chaos.short_reads) {
            *self.rng.pick(&[1, 2, 7, 12, 13, 28, 100, 1_000, 5_000])
        } else {
            BUFFER
        };
        let mut bytes = Vec::new();
        let n = self.links[link].up.read(self.now, size, &mut bytes);
        self.trace(20, n as u64);
        if n == 0 {
            if let Some(how) = self.links[link].up.ended(self.now) {
                let why = if how == Ending::Closed { "peer closed" } else { "connection lost" };
                self.guarded(at, session, |core| core.on_closed(session, why));
            }
            return false;
        }
        self.after_read(link);
        self.guarded(at, session, |core| core.on_bytes(session, &bytes));
        self.links[link].up.readable(self.now)
    }

    fn read_direct(&mut self, at: usize, link: usize, session: SessionRef, want: usize) -> bool {
        let max = if self.rng.chance(500) { want } else { self.rng.size(1, want) };
        let core = &mut self.shards[at].core;
        let Some(buffer) = core.direct_buffer(session) else { return false };
        let before = buffer.len();
        let n = self.links[link].up.read(self.now, max, buffer);
        assert_eq!(buffer.len(), before + n, "a direct read appends");
        self.trace(21, n as u64);
        if n == 0 {
            // As with a socket that has nothing: the core is not told, and the buffer may stay.
            return match self.links[link].up.ended(self.now) {
                Some(_) => {
                    self.guarded(at, session, |core| core.on_closed(session, "connection lost"));
                    false
                }
                None => false,
            };
        }
        self.after_read(link);
        self.guarded(at, session, |core| core.on_direct(session, n));
        self.links[link].up.readable(self.now)
    }

    fn after_read(&mut self, link: usize) {
        if self.links[link].up.unblocked() {
            self.later(Event::UpRoom(link));
        }
    }

    /// Calls the core for a session; a panic ends that session alone.
    fn guarded(&mut self, at: usize, session: SessionRef, call: impl FnOnce(&mut Shard)) {
        let core = &mut self.shards[at].core;
        if catch_unwind(AssertUnwindSafe(|| call(core))).is_err() {
            self.panics += 1;
            core.on_panic(session);
        }
    }

    // --- messages

    fn take_inbox(&mut self, at: usize) {
        let mut senders: Vec<usize> = (0..self.shards[at].inbox.len()).collect();
        self.rng.shuffle(&mut senders);
        let inbox = &mut self.shards[at].inbox;
        let mail: Vec<Msg> =
            senders.into_iter().flat_map(|sender| std::mem::take(&mut inbox[sender])).collect();
        let held: usize = mail.iter().map(Msg::held).sum();
        for msg in mail {
            let session = msg.session();
            let core = &mut self.shards[at].core;
            match catch_unwind(AssertUnwindSafe(|| core.on_msg(msg))) {
                Ok(None) => {}
                Ok(Some(Msg::Adopt(adopt))) => self.adopt(at, *adopt),
                Ok(Some(Msg::Connection(io))) => {
                    if let Ok(link) = io.downcast::<LinkId>() {
                        self.accept(at, link.0);
                    }
                }
                Ok(Some(_)) => {}
                Err(_) => {
                    self.panics += 1;
                    if let Some(session) = session {
                        self.shards[at].core.on_panic(session);
                    }
                }
            }
        }
        self.shared.mail_out(self.shards[at].core.id(), held);
    }

    fn accept(&mut self, at: usize, link: usize) {
        let (bound, addr) = (self.links[link].bound, self.links[link].addr);
        match self.shards[at].core.accept(bound, addr, None) {
            Some(session) => self.attach(at, link, session),
            None => self.close(link),
        }
    }

    fn adopt(&mut self, at: usize, adopt: Adopt) {
        let Ok(link) = adopt.io.downcast::<LinkId>() else { return };
        let Moved { session, said } = adopt.moved;
        let session = self.shards[at].core.adopt(session);
        self.attach(at, link.0, session);
        let core = &mut self.shards[at].core;
        if catch_unwind(AssertUnwindSafe(|| core.on_moved(session, &said))).is_err() {
            self.panics += 1;
            self.shards[at].core.on_panic(session);
        }
    }

    fn tick(&mut self, at: usize) {
        while let Some(session) = self.shards[at].core.next_timer() {
            let core = &mut self.shards[at].core;
            if catch_unwind(AssertUnwindSafe(|| core.on_timer(session))).is_err() {
                self.panics += 1;
                self.shards[at].core.on_panic(session);
            }
        }
        self.shards[at].core.on_tick();
    }

    fn attach(&mut self, at: usize, link: usize, session: SessionRef) {
        self.links[link].shard = session.shard;
        self.links[link].session = Some(session);
        self.shards[at].conns.insert(session, link);
        // Bytes may have come before; a poller tells a new socket that it is writable.
        self.shards[at].readable.push(link);
        self.shards[at].writable.push(link);
    }

    // --- writing

    fn write_dirty(&mut self, at: usize) {
        for _ in 0..WRITES {
            if self.rng.chance(self.chaos.lazy_writes) {
                return;
            }
            let Some(session) = self.shards[at].core.next_dirty() else { return };
            let Some(link) = self.shards[at].conns.get(&session).copied() else { continue };
            self.write_once(at, link, session);
        }
        assert!(!self.shards[at].core.has_dirty(), "a shard writes without end");
    }

    fn write_once(&mut self, at: usize, link: usize, session: SessionRef) {
        let core = &mut self.shards[at].core;
        if !core.fill(session) {
            return core.written(session, 0, false);
        }
        let max = *self.rng.pick(&[1, 2, 64, 64, 64]);
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(8);
        core.slices(session, &mut slices, max);
        let pieces: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert!(total > 0, "nothing to write after all");
        let (n, arrives) = self.links[link].down.write(self.now, &mut self.rng, &pieces);
        core.written(session, n, n < total);
        self.trace(22, n as u64);
        if n > 0 {
            self.push(arrives, Event::Down(link));
        }
        if self.links[link].down.unblocked() {
            self.later(Event::DownRoom(link));
        }
    }

    // --- what the core wants done

    fn act(&mut self, at: usize) {
        while let Some(action) = self.shards[at].core.next_action() {
            match action {
                Action::Close(session) => {
                    if let Some(link) = self.detach(at, session) {
                        self.close(link);
                    }
                }
                Action::Read(session) => {
                    if let Some(link) = self.shards[at].conns.get(&session).copied() {
                        self.shards[at].readable.push(link);
                        self.wake(u16::try_from(at).unwrap_or(u16::MAX));
                    }
                }
                Action::Foreign { session, stranger, bytes } => {
                    if let Some(link) = self.detach(at, session) {
                        self.links[link].foreign = Some(bytes);
                        self.close(link);
                    }
                    self.shards[at].core.on_handover(stranger, Handover::Nobody);
                }
                Action::Move { session, shard, moved } => {
                    if let Some(link) = self.detach(at, session) {
                        self.shards[at].core.send_moved(shard, moved, Box::new(LinkId(link)));
                    }
                }
            }
        }
    }

    fn detach(&mut self, at: usize, session: SessionRef) -> Option<usize> {
        let link = self.shards[at].conns.remove(&session)?;
        self.links[link].session = None;
        Some(link)
    }

    /// Closes the gateway's end of a connection.
    fn close(&mut self, link: usize) {
        // A socket that is closed with unread bytes is reset, which may cost the peer what is on its way to it.
        let unread = self.links[link].up.queued() > 0;
        let how = if unread && self.rng.chance(500) { Ending::Reset } else { Ending::Closed };
        let arrives = self.links[link].down.end(self.now, &mut self.rng, how);
        self.push(arrives, Event::Down(link));
        self.links[link].up.end(self.now, &mut self.rng, Ending::Reset);
        if self.links[link].up.unblocked() {
            self.later(Event::UpRoom(link));
        }
    }

    fn deliver_posts(&mut self, at: usize) {
        for to in 0..self.shards.len() {
            let to_shard = u16::try_from(to).unwrap_or(u16::MAX);
            let Some(batch) = self.shards[at].core.posts(to_shard) else { continue };
            assert_ne!(to, at, "a shard posts to itself");
            let (held, posts) = (batch.held(), batch.drain().collect::<Vec<Msg>>());
            assert_eq!(held, posts.iter().map(Msg::held).sum::<usize>(), "what a batch takes");
            self.shared.mail_in(to_shard, held);
            self.trace(23, posts.len() as u64);
            self.shards[to].inbox[at].extend(posts);
            self.wake(to_shard);
        }
    }
}
