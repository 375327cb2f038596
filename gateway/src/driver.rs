//! The mio driver: one thread per shard, one poll set, no task per session.
//!
//! One turn: wait for readiness → read what is ready into the shard's buffer → take the inbox → run timers → write every dirty session
//! once → carry out the core's actions → post the batches for other shards, one wake each.
//!
//! Sockets are registered edge-triggered, so readiness is ours to remember: a socket that used up its budget stays on the ready list,
//! and while that list or the inbox is not empty the poll does not wait. A short read clears readiness, unless the event also said that
//! the peer closed its side, hung up or failed: then it is read to the end. Listeners obey the same rules. Nor does it wait while the
//! shard does something in steps, one of them per turn.
//!
//! The loop owns its thread and calls `epoll_wait` itself. Hanging the poll set into a tokio runtime as one descriptor was measured at
//! 7 to 15 % more CPU and brings nothing that the loop needs (`docs/decisions.md`).

mod conn;
mod conns;
mod inbox;
mod listener;

use std::{
    any::Any,
    collections::VecDeque,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mio::{Events, Poll, Token, event::Source};

use self::{
    conn::{Conn, Io, Outcome},
    conns::Conns,
    listener::{Accepted, Then},
};
pub use self::{
    inbox::{Hub, Inbox},
    listener::{Accept, Listener},
};
use crate::{
    core::{
        Bound, Now,
        identity::Subject,
        message::{Adopt, Batch, Msg},
        shard::{Action, Handover, Moved, Shard},
        stats::Refusal,
        table::SessionRef,
    },
    tls::io::{TlsIo, TlsScratch},
};

/// Token of the inbox's waker.
const WAKE: Token = Token(usize::MAX);
/// Listeners count down from here; sessions count up from 0.
const LISTENERS: usize = usize::MAX - 1;
/// Events taken per wait.
const EVENTS: usize = 1_024;
/// Reads of one socket per turn.
const READS: usize = 4;
/// The shard's read buffer: a batch of small frames per system call. Half of it would do for calls, twice as much no longer fits the L2
/// cache of small machines together with what is written.
const BUFFER: usize = 64 << 10;
/// Writes per turn: a turn must end.
const WRITES: usize = 4_096;

/// What the async side hands a driver through [`Msg::Connection`].
pub enum Parcel {
    /// A connection that another shard's listener accepted.
    Accepted {
        /// The socket, non-blocking.
        socket: std::net::TcpStream,
        /// Which listener.
        bound: Bound,
        /// Where from.
        addr: SocketAddr,
    },
    /// A connection whose TLS handshake is done.
    Established {
        /// The socket, non-blocking.
        socket: std::net::TcpStream,
        /// Which listener.
        bound: Bound,
        /// Where from.
        addr: SocketAddr,
        /// When it was accepted: TLS has used up some of the time to Welcome.
        accepted: Instant,
        /// The TLS state.
        tls: Box<TlsIo>,
        /// Plain bytes read already.
        plain: Vec<u8>,
        /// Subject of the client certificate.
        subject: Option<Arc<Subject>>,
    },
    /// Stop listening.
    CloseListeners,
    /// End the thread.
    Stop,
}

/// Takes connections of protocols that the core does not speak: the listener, the socket and what was read from it. Says what becomes of
/// them.
pub type Foreign =
    Arc<dyn Fn(Bound, std::net::TcpStream, Option<Box<TlsIo>>, Vec<u8>) -> Handover + Send + Sync>;

/// Sizes that tests make small.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Events per wait.
    pub events: usize,
    /// Reads per socket and turn.
    pub reads: usize,
}

/// See the module documentation.
pub struct Driver {
    shard: Shard,
    poll: Poll,
    events: Events,
    hub: Arc<Hub>,
    conns: Conns,
    listeners: Vec<Listener>,
    foreign: Option<Foreign>,
    /// Slots and listeners that may have more to read.
    ready: VecDeque<Token>,
    buffer: Box<[u8]>,
    /// Where the inbox is emptied to.
    mail: Batch,
    plain: Vec<u8>,
    scratch: TlsScratch,
    start: Instant,
    reads: usize,
    stopped: bool,
}

// === impl Tuning ===

impl Default for Tuning {
    fn default() -> Self {
        Self { events: EVENTS, reads: READS }
    }
}

// === impl Driver ===

impl Driver {
    /// A driver on a poll set whose waker the hub already has. `start` is the zero of all shards' clocks.
    ///
    /// # Errors
    /// When a listener cannot be registered.
    pub fn new(
        shard: Shard,
        poll: Poll,
        hub: Arc<Hub>,
        mut listeners: Vec<Listener>,
        foreign: Option<Foreign>,
        start: Instant,
        tuning: Tuning,
    ) -> io::Result<Self> {
        for (index, listener) in listeners.iter_mut().enumerate() {
            listener.register(poll.registry(), Token(LISTENERS - index))?;
        }
        Ok(Self {
            shard,
            poll,
            events: Events::with_capacity(tuning.events),
            hub,
            conns: Conns::default(),
            listeners,
            foreign,
            ready: VecDeque::new(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            mail: Batch::default(),
            plain: Vec::new(),
            scratch: TlsScratch::default(),
            start,
            reads: tuning.reads,
            stopped: false,
        })
    }

    /// The clock of a gateway whose shards started at `start`.
    #[must_use]
    pub fn clock(start: Instant) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            // Never 0: a session's 0 means "not stalled".
            micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Runs until a [`Parcel::Stop`] comes.
    ///
    /// # Errors
    /// When the poll set fails.
    pub fn run(mut self) -> io::Result<()> {
        while !self.stopped {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let timeout = self.timeout();
        if let Err(error) = self.poll.poll(&mut self.events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        let now = Self::clock(self.start);
        self.shard.set_now(now);
        self.note_events();
        self.read_ready();
        self.take_inbox();
        self.tick();
        self.write_dirty();
        self.act();
        self.post();
        #[cfg(any(test, feature = "testing"))]
        assert!(!self.shard.is_doomed(), "fault point: frontier.fault.shard");
        let stats = self.shard.stats();
        stats.turns.add(1);
        stats.turn.record(Self::clock(self.start).micros - now.micros);
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || self.shard.has_work() || self.hub.has_mail(self.shard.id()) {
            return Some(Duration::ZERO);
        }
        let now = Self::clock(self.start).micros;
        let due =
            self.shard.next_due().into_iter().chain(self.listeners.iter().filter_map(Listener::retry_at));
        // Rounded up: a wait that ends before the tick would be repeated at once.
        due.min().map(|due| Duration::from_micros(due.saturating_sub(now)) + Duration::from_millis(1))
    }

    fn note_events(&mut self) {
        for event in &self.events {
            let token = event.token();
            if token == WAKE {
                continue;
            }
            if token.0 > LISTENERS - 16 {
                if let Some(listener) = self.listeners.get_mut(LISTENERS - token.0)
                    && listener.note()
                {
                    self.ready.push_back(token);
                }
                continue;
            }
            let Some(conn) = self.conns.get_mut(token.0) else { continue };
            let ended = event.is_read_closed() || event.is_error();
            if event.is_readable() || ended {
                conn.ended |= ended;
                if !std::mem::replace(&mut conn.readable, true) {
                    self.ready.push_back(token);
                }
            }
            if event.is_writable() {
                let flushed = conn.flush_tls();
                conn.note_held(&mut self.shard);
                match flushed {
                    Ok(true) => self.shard.on_writable(conn.session),
                    Ok(false) => self.shard.on_progress(conn.session),
                    // The failure shows at the next read, which the poller has announced with it.
                    Err(_) => {}
                }
            }
        }
        let now = Self::clock(self.start).micros;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.retry(now) {
                self.ready.push_back(Token(LISTENERS - index));
            }
        }
    }

    fn read_ready(&mut self) {
        // The one reason to skip reads: another shard cannot take what reading would produce. Its turn comes without our help.
        if self.hub.is_congested(self.shard.id()) {
            return;
        }
        for _ in 0..self.ready.len() {
            let Some(token) = self.ready.pop_front() else { return };
            let more =
                if token.0 > LISTENERS - 16 { self.accept(LISTENERS - token.0) } else { self.read(token.0) };
            if more {
                self.ready.push_back(token);
            }
        }
    }

    /// Accepts connections; true if there may be more.
    fn accept(&mut self, index: usize) -> bool {
        let now = Self::clock(self.start).micros;
        let Some(listener) = self.listeners.get_mut(index) else { return false };
        let bound = listener.bound();
        let Accepted { connections, then } = listener.accept(now);
        let stats = self.shard.stats();
        if matches!(then, Then::Pause | Then::Closed) {
            stats.accept_pauses.add(1);
        }
        if then == Then::Closed {
            stats.accepts.add(1);
            stats.refusals[Refusal::Descriptors as usize].add(1);
        }
        for (socket, addr) in connections {
            if let Some(tls) = self.listeners.get(index).and_then(Listener::tls) {
                tls(socket, addr);
                continue;
            }
            let shard = self.hub.lightest();
            if shard == self.shard.id() {
                self.add(Io::Tcp(mio::net::TcpStream::from_std(socket)), bound, addr);
            } else {
                // Counted at once, or a burst would all go to the same shard.
                self.hub.load(shard, 1);
                let parcel = Box::new(Parcel::Accepted { socket, bound, addr });
                self.hub.post(shard, Msg::Connection(parcel));
            }
        }
        then == Then::More
    }

    fn add(&mut self, io: Io, bound: Bound, addr: SocketAddr) {
        let Some(session) = self.shard.accept(bound, addr, None) else { return };
        self.begin(io, session, &[]);
    }

    fn begin(&mut self, io: Io, session: SessionRef, plain: &[u8]) {
        if self.attach(io, session) && !plain.is_empty() {
            self.guarded(session, |shard| shard.on_bytes(session, plain));
        }
    }

    /// Registers a connection; false if that failed and the session is gone.
    fn attach(&mut self, io: Io, session: SessionRef) -> bool {
        // The slot may be that of a session that ended in this turn: its socket goes where it belongs first.
        self.act();
        let slot = session.slot as usize;
        let mut conn = Conn::new(io, session);
        let interest = conn.interest();
        if conn.io.socket().register(self.poll.registry(), Token(slot), interest).is_err() {
            self.shard.on_closed(session, "registration failed");
            return false;
        }
        // Bytes may have come before the registration, and TLS may hold some: look once.
        conn.readable = true;
        conn.note_held(&mut self.shard);
        self.conns.put(slot, conn);
        self.ready.push_back(Token(slot));
        self.hub.load(self.shard.id(), 1);
        true
    }

    /// Reads a socket; true if there may be more.
    fn read(&mut self, slot: usize) -> bool {
        for _ in 0..self.reads {
            let Some(conn) = self.conns.get_mut(slot) else { return false };
            let session = conn.session;
            if !self.shard.wants_read(session) {
                conn.paused = true;
                return false;
            }
            let (shard, buffer) = (&mut self.shard, &mut self.buffer);
            let (plain, scratch) = (&mut self.plain, &mut self.scratch);
            let read = catch_unwind(AssertUnwindSafe(|| conn.read(shard, buffer, plain, scratch)));
            conn.note_held(shard);
            match read {
                Ok(Outcome::More) => {}
                Ok(Outcome::Drained) => {
                    conn.readable = false;
                    return false;
                }
                Ok(Outcome::Closed(why)) => {
                    conn.readable = false;
                    self.guarded(session, |shard| shard.on_closed(session, why));
                    return false;
                }
                Err(_) => {
                    self.guarded(session, |shard| shard.on_panic(session));
                    return false;
                }
            }
            // If the core has just let go of the session, what else is in the socket is for whoever gets it next.
            self.act();
        }
        true
    }

    /// Calls the core for a session; a panic ends that session alone.
    fn guarded(&mut self, session: SessionRef, call: impl FnOnce(&mut Shard)) {
        let shard = &mut self.shard;
        if catch_unwind(AssertUnwindSafe(|| call(shard))).is_err() {
            let again = catch_unwind(AssertUnwindSafe(|| self.shard.on_panic(session)));
            if again.is_err() {
                tracing::error!(?session, "session could not be ended after a panic");
            }
        }
    }

    fn take_inbox(&mut self) {
        let (mut mail, id) = (std::mem::take(&mut self.mail), self.shard.id());
        self.hub.take(id, &mut mail);
        let held = mail.held();
        for msg in mail.drain() {
            let session = msg.session();
            let shard = &mut self.shard;
            match catch_unwind(AssertUnwindSafe(|| shard.on_msg(msg))) {
                Ok(None) => {}
                Ok(Some(Msg::Adopt(adopt))) => self.adopt(*adopt),
                Ok(Some(Msg::Connection(parcel))) => self.parcel(parcel),
                Ok(Some(_)) => {}
                Err(_) => match session {
                    Some(session) => self.guarded(session, |shard| shard.on_panic(session)),
                    None => self.shard.on_stray_panic("a message"),
                },
            }
        }
        self.hub.handled(id, held);
        mail.trim();
        self.mail = mail;
    }

    fn adopt(&mut self, adopt: Adopt) {
        let Ok(io) = adopt.io.downcast::<Io>() else { return };
        let Moved { session, said } = adopt.moved;
        let session = self.shard.adopt(session);
        if self.attach(*io, session) {
            self.guarded(session, |shard| shard.on_moved(session, &said));
        }
    }

    fn tick(&mut self) {
        while let Some(session) = self.shard.next_timer() {
            self.guarded(session, |shard| shard.on_timer(session));
        }
        let shard = &mut self.shard;
        if catch_unwind(AssertUnwindSafe(|| shard.on_tick())).is_err() {
            self.shard.on_stray_panic("a drain, a list or the memory budget");
        }
    }

    fn parcel(&mut self, parcel: Box<dyn Any + Send>) {
        let Ok(parcel) = parcel.downcast::<Parcel>() else { return };
        match *parcel {
            Parcel::Accepted { socket, bound, addr } => {
                self.hub.load(self.shard.id(), -1);
                self.add(Io::Tcp(mio::net::TcpStream::from_std(socket)), bound, addr);
            }
            Parcel::Established { socket, bound, addr, accepted, tls, plain, subject } => {
                self.hub.load(self.shard.id(), -1);
                let io = Io::Tls(mio::net::TcpStream::from_std(socket), tls);
                let Some(session) = self.shard.accept(bound, addr, subject) else { return };
                let used = u64::try_from(accepted.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.shard.hasten(session, used);
                self.begin(io, session, &plain);
            }
            Parcel::CloseListeners => self.listeners.clear(),
            Parcel::Stop => self.stopped = true,
        }
    }

    fn write_dirty(&mut self) {
        for _ in 0..WRITES {
            let Some(session) = self.shard.next_dirty() else { return };
            let Some(conn) = self.conns.get_mut(session.slot as usize) else { continue };
            let (shard, scratch) = (&mut self.shard, &mut self.scratch);
            let written = catch_unwind(AssertUnwindSafe(|| conn.write(shard, scratch)));
            conn.note_held(shard);
            let written = written.map(|written| match written {
                // If there is room by now, this tells at once.
                Ok(true) if !std::mem::replace(&mut conn.armed, true) => {
                    let (interest, token) = (conn.interest(), Token(session.slot as usize));
                    conn.io.socket().reregister(self.poll.registry(), token, interest)
                }
                written => written.map(drop),
            });
            match written {
                Ok(Ok(())) => {}
                Ok(Err(_)) => self.guarded(session, |shard| shard.on_closed(session, "connection lost")),
                Err(_) => self.guarded(session, |shard| shard.on_panic(session)),
            }
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.shard.next_action() {
            match action {
                Action::Close(session) => {
                    if let Some(io) = self.detach(session) {
                        io.close(&mut self.buffer, &mut self.scratch);
                    }
                }
                Action::Read(session) => {
                    let slot = session.slot as usize;
                    if let Some(conn) = self.conns.get_mut(slot)
                        && conn.session == session
                        && std::mem::take(&mut conn.paused)
                    {
                        self.ready.push_back(Token(slot));
                    }
                }
                Action::Foreign { session, stranger, bytes } => {
                    let handover = match (self.detach(session), &self.foreign) {
                        (Some(io), Some(foreign)) => {
                            let (socket, tls) = io.into_std();
                            foreign(stranger.bound, socket, tls, bytes)
                        }
                        _ => Handover::Nobody,
                    };
                    self.shard.on_handover(stranger, handover);
                }
                Action::Move { session, shard, moved } => {
                    if let Some(io) = self.detach(session) {
                        self.shard.send_moved(shard, moved, Box::new(io));
                    }
                }
            }
        }
    }

    /// Takes a connection out of the poll set.
    fn detach(&mut self, session: SessionRef) -> Option<Io> {
        let slot = session.slot as usize;
        if self.conns.get(slot)?.session != session {
            return None;
        }
        let mut conn = self.conns.take(slot)?;
        self.hub.load(self.shard.id(), -1);
        // Closing would do it too; a socket that moves on must not keep its registration.
        drop(conn.io.socket().deregister(self.poll.registry()));
        Some(conn.io)
    }

    fn post(&mut self) {
        for shard in 0..self.hub.shards() {
            if shard != self.shard.id()
                && let Some(posts) = self.shard.posts(shard)
            {
                self.hub.post_all(shard, posts);
            }
        }
    }
}

#[cfg(test)]
mod tests;
