//! The load's sockets and its loop: one thread, edge-triggered, the same for edges, services and the far ends of a relay, and for every
//! protocol ([`Speech`]).
//!
//! ```text
//!   ┌▶ Scenario::turn (start what is due) ─▶ write dirty ─▶ wait ─▶ read ready: Scenario::ready/frame/… ─▶ write dirty ─┐
//!   └────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`Net`] has its protocol greet and keep idle sessions alive; everything else is the [`Scenario`]'s.

use std::{
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use frontier_wire::native::proto::{self, Role as WireRole};
use prost::Message as _;
use rustls::ClientConfig;
use slab::Slab;
use socket2::{SockRef, Socket};

use super::transport::{Read, Transport};
use crate::net::{self, Poller};

/// Read at once. Larger than a frame of 64 KiB with what is around it.
const BUFFER: usize = 256 * 1024;
const LISTENER: u64 = u64::MAX;
/// Bytes that the kernel holds unsent per socket at most: what has been handed to it cannot be overtaken.
const NOT_SENT: u32 = 128 * 1024;
/// Refills of one connection's output within a turn, so that one that is never full does not keep the others waiting.
const REFILLS: usize = 16;
/// How often silent sessions are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Who a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An edge, by its index.
    Edge(usize),
    /// A service's connection to the gateway, by its index.
    Service(usize),
    /// The service at the far end of a relayed edge connection; the index is the edge's, as its Hello says.
    Far(usize),
    /// A relayed connection before its Hello.
    Unknown,
}

/// Microseconds since the load began.
pub type Micros = u64;

/// What a connection speaks: its protocol without a socket, and how it greets.
pub trait Speech: Debug + Sized {
    /// What all connections have in common.
    type Shared: Debug;
    /// Bytes on their way through [`Speech::next`].
    type Input<'a>;
    /// What comes of them.
    type Event<'a>;
    /// What the scenario is told of that.
    type Heard<'a>;

    /// What all connections have in common.
    fn shared() -> Self::Shared;

    /// The dialler's end, with what it says first.
    ///
    /// # Errors
    /// If that cannot be said.
    fn dial(shared: &Self::Shared, role: Role, greeting: &Greeting, now: Micros) -> Result<Self>;

    /// The end behind a relay.
    fn accept(shared: &Self::Shared, now: Micros) -> Self;

    /// Bytes that were read.
    fn input(bytes: &[u8]) -> Self::Input<'_>;

    /// The next event in the input; `None` when it is used up.
    ///
    /// # Errors
    /// If the other end breaks the protocol.
    fn next<'a>(&mut self, input: &mut Self::Input<'a>, now: Micros) -> Result<Option<Self::Event<'a>>>;

    /// Does what belongs to greeting and keeping alive, and tells the scenario everything else.
    ///
    /// # Errors
    /// Ends the run.
    fn handle(
        net: &mut Net<Self>,
        scenario: &mut dyn Scenario<Self>,
        key: usize,
        event: Self::Event<'_>,
    ) -> Result<()>;

    /// What is to be written now.
    fn pending(&mut self, now: Micros) -> &[u8];

    /// So many bytes of that were written.
    fn advance(&mut self, n: usize, now: Micros);

    /// Whether it is time for [`Speech::keep_alive`].
    fn is_due(&self, now: Micros) -> bool;

    /// Says what keeps a session alive, or does what else is due.
    ///
    /// # Errors
    /// Ends the run.
    fn keep_alive(net: &mut Net<Self>, scenario: &mut dyn Scenario<Self>, key: usize) -> Result<()>;
}

/// What the load does with its connections. Errors end the run.
pub trait Scenario<S: Speech> {
    /// The session stands: the gateway has let it in, or a relayed edge has said who it is.
    ///
    /// # Errors
    /// Ends the run.
    fn ready(&mut self, net: &mut Net<S>, key: usize) -> Result<()>;

    /// Something came that is not part of greeting or keeping alive.
    ///
    /// # Errors
    /// Ends the run.
    fn heard(&mut self, net: &mut Net<S>, key: usize, heard: S::Heard<'_>) -> Result<()>;

    /// All output of a connection was written that asked for it ([`Net::want_room`]).
    ///
    /// # Errors
    /// Ends the run.
    fn room(&mut self, _net: &mut Net<S>, _key: usize) -> Result<()> {
        Ok(())
    }

    /// A connection is gone: refused, cut or broken.
    ///
    /// # Errors
    /// Ends the run.
    fn lost(&mut self, _net: &mut Net<S>, role: Role, why: Lost) -> Result<()> {
        bail!("{role:?} lost: {why:?}")
    }

    /// Before every wait: starts what is due.
    ///
    /// # Errors
    /// Ends the run.
    fn turn(&mut self, net: &mut Net<S>, now: Instant) -> Result<Next>;
}

/// How connections come up, whatever protocol they speak.
pub trait Dial {
    /// Becomes the service behind a relay; returns where it listens.
    ///
    /// # Errors
    /// If the port is taken.
    fn listen(&mut self, at: SocketAddr) -> Result<SocketAddr>;

    /// Dials and says who it is. The scenario hears of it when the session stands.
    ///
    /// # Errors
    /// If descriptors or ports have run out.
    fn dial(
        &mut self,
        to: SocketAddr,
        from: Option<IpAddr>,
        role: Role,
        greeting: &Greeting,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<usize>;

    /// Who a connection is, and the ID it was given.
    fn who(&self, key: usize) -> (Role, u64);

    /// Closes all connections at once, between turns.
    fn close_all(&mut self);
}

/// How the loop goes on after [`Scenario::turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for events so long at most.
    Wait(Duration),
    /// Everything was measured.
    Done,
}

/// Why a connection is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The gateway rejected it and named a pause.
    Rejected {
        /// The code's number.
        code: i32,
        /// Milliseconds to wait before trying again; 0 = nothing said.
        retry_after_ms: u32,
    },
    /// The other side closed it.
    Closed,
    /// It broke.
    Broken(String),
}

/// What an edge or service says in its Hello.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    /// The resume ticket of an earlier session; empty = none.
    pub ticket: Vec<u8>,
    /// 16 bytes: the edge's index twice, so that the far end of a relay knows whose connection it is.
    pub meta: Vec<u8>,
    /// Service name.
    pub name: String,
    /// Methods offered.
    pub methods: Vec<String>,
    /// Topics taken.
    pub topics: Vec<String>,
}

/// One connection.
#[derive(Debug)]
pub struct Conn<S> {
    /// Who it is.
    pub role: Role,
    /// Its protocol state.
    pub speech: S,
    /// The ID it was given.
    pub id: u64,
    transport: Transport,
    /// In the list of connections to be written.
    dirty: bool,
    /// Do not read: a reader that has stalled.
    mute: bool,
    wants_room: bool,
    /// To be buried at the end of the turn.
    gone: bool,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Net<S: Speech> {
    poller: Poller,
    shared: S::Shared,
    conns: Slab<Conn<S>>,
    dirty: Vec<usize>,
    over: Vec<usize>,
    listener: Option<Socket>,
    /// Connections whose read stopped before their socket was empty.
    unread: Vec<usize>,
    start: Instant,
    swept: Instant,
    next_id: u64,
    now: Instant,
}

// === impl Greeting ===

impl Greeting {
    /// That of edge `index`, with 16 bytes of meta.
    #[must_use]
    pub fn edge(index: usize) -> Self {
        let half = (index as u64).to_be_bytes();
        Self { meta: [half, half].concat(), ..Self::default() }
    }

    /// The frame's head.
    #[must_use]
    pub fn encode(&self, role: Role) -> Vec<u8> {
        let wire_role = match role {
            Role::Service(_) => WireRole::Service,
            Role::Edge(_) | Role::Far(_) | Role::Unknown => WireRole::Edge,
        };
        let mut instance = [0; 16];
        // All connections of this process are one instance; services count theirs.
        instance[..8].copy_from_slice(&u64::from(std::process::id()).to_be_bytes());
        let pool_index = match role {
            Role::Service(index) => u32::try_from(index).unwrap_or(u32::MAX),
            Role::Edge(index) => {
                instance[8..].copy_from_slice(&(index as u64).to_be_bytes());
                0
            }
            Role::Far(_) | Role::Unknown => 0,
        };
        proto::Hello {
            version: 1,
            role: wire_role.into(),
            ticket: self.ticket.clone(),
            instance: instance.to_vec(),
            pool_index,
            meta: self.meta.clone(),
            name: self.name.clone(),
            topics: self.topics.clone(),
            methods: self.methods.clone(),
            ..proto::Hello::default()
        }
        .encode_to_vec()
    }
}

// === impl Net ===

impl<S: Speech> Net<S> {
    /// No connections yet.
    ///
    /// # Errors
    /// If descriptors have run out.
    pub fn new() -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            poller: Poller::new()?,
            shared: S::shared(),
            conns: Slab::new(),
            dirty: Vec::new(),
            over: Vec::new(),
            listener: None,
            unread: Vec::new(),
            start: now,
            swept: now,
            next_id: 1,
            now,
        })
    }

    fn insert(&mut self, transport: Transport, speech: S, role: Role) -> Result<usize> {
        SockRef::from(transport.socket()).set_tcp_notsent_lowat(NOT_SENT)?;
        let conn = Conn {
            role,
            speech,
            id: 0,
            transport,
            dirty: false,
            mute: false,
            wants_room: false,
            gone: false,
        };
        let key = self.conns.insert(conn);
        self.poller.add(self.conns[key].transport.socket(), key as u64, net::SOCKET)?;
        Ok(key)
    }

    /// A connection. Whoever writes to its peer says so by [`Net::touch`].
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn conn(&mut self, key: usize) -> &mut Conn<S> {
        &mut self.conns[key]
    }

    /// Whether a connection is there.
    #[must_use]
    pub fn contains(&self, key: usize) -> bool {
        self.conns.contains(key)
    }

    /// The time of this turn.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The time of this turn by the clock of the connections.
    #[must_use]
    pub fn micros(&self) -> Micros {
        u64::try_from((self.now - self.start).as_micros()).unwrap_or(Micros::MAX)
    }

    /// An ID for an end behind a relay.
    pub const fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// There is something to write.
    pub fn touch(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if !conn.dirty {
            conn.dirty = true;
            self.dirty.push(key);
        }
    }

    /// From now on [`Scenario::room`] is called whenever all output was written, or no more.
    pub fn want_room(&mut self, key: usize, want: bool) {
        self.conns[key].wants_room = want;
        if want {
            self.touch(key);
        }
    }

    /// Never reads this connection again.
    pub fn mute(&mut self, key: usize) {
        self.conns[key].mute = true;
    }

    /// Closes a connection without [`Scenario::lost`].
    pub fn close(&mut self, key: usize) {
        // The slot is free only after the turn: events for it may still be in the batch.
        let conn = &mut self.conns[key];
        if !conn.gone {
            conn.gone = true;
            conn.mute = true;
            self.over.push(key);
        }
    }

    /// Runs until the scenario is done.
    ///
    /// # Errors
    /// If the scenario fails, or has not come to its end after `limit`.
    pub fn run(&mut self, scenario: &mut dyn Scenario<S>, limit: Duration) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        let deadline = Instant::now() + limit;
        loop {
            self.now = Instant::now();
            ensure!(self.now < deadline, "not done after {limit:?}");
            self.sweep(scenario)?;
            let Next::Wait(timeout) = scenario.turn(self, self.now)? else { return Ok(()) };
            self.write_dirty(scenario)?;
            // The longest wait keeps the deadline and the sweep in sight.
            let busy = !self.dirty.is_empty() || !self.unread.is_empty();
            self.poller.wait(Some(if busy { Duration::ZERO } else { timeout.min(SWEEP) }))?;
            self.now = Instant::now();
            self.serve(scenario, &mut buffer)?;
            self.write_dirty(scenario)?;
            self.bury();
        }
    }

    fn serve(&mut self, scenario: &mut dyn Scenario<S>, buffer: &mut [u8]) -> Result<()> {
        for key in std::mem::take(&mut self.unread) {
            self.read(scenario, key, buffer, false)?;
        }
        for index in 0..self.poller.len() {
            let ready = self.poller.event(index);
            if ready.token == LISTENER {
                self.accept()?;
                continue;
            }
            let key = ready.token as usize;
            if ready.writable && self.conns.contains(key) {
                self.touch(key);
            }
            if ready.readable {
                self.read(scenario, key, buffer, ready.closed)?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        while let Some(socket) = net::accept(&listener)? {
            socket.set_nodelay(true)?;
            let speech = S::accept(&self.shared, self.micros());
            self.insert(Transport::Plain(socket), speech, Role::Unknown)?;
        }
        self.listener = Some(listener);
        Ok(())
    }

    fn bury(&mut self) {
        for key in self.over.drain(..) {
            self.conns.try_remove(key);
        }
    }

    // --- reading

    fn read(
        &mut self,
        scenario: &mut dyn Scenario<S>,
        key: usize,
        buffer: &mut [u8],
        to_the_end: bool,
    ) -> Result<()> {
        for _ in 0..REFILLS {
            let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.mute) else { return Ok(()) };
            let (n, last) = match conn.transport.read(buffer) {
                Ok(Read::More(n)) => (n, false),
                Ok(Read::Short(n)) => (n, n == 0 || !to_the_end),
                Ok(Read::End) => return self.lose(scenario, key, Lost::Closed),
                Err(error) => return self.lose(scenario, key, Lost::Broken(error.to_string())),
            };
            // The protocol may have to answer even if no event comes of it; TLS may have a handshake to write.
            self.touch(key);
            let mut input = S::input(&buffer[..n]);
            while self.step(scenario, key, &mut input)? {}
            if last {
                return Ok(());
            }
        }
        self.unread.push(key);
        Ok(())
    }

    /// One event; whether there may be another.
    fn step(&mut self, scenario: &mut dyn Scenario<S>, key: usize, input: &mut S::Input<'_>) -> Result<bool> {
        let now = self.micros();
        let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.mute) else { return Ok(false) };
        let role = conn.role;
        let event = conn.speech.next(input, now).with_context(|| format!("{role:?}"))?;
        let Some(event) = event else { return Ok(false) };
        S::handle(self, scenario, key, event)?;
        Ok(true)
    }

    /// Loses a connection.
    ///
    /// # Errors
    /// If the scenario does not put up with that.
    pub fn lose(&mut self, scenario: &mut dyn Scenario<S>, key: usize, why: Lost) -> Result<()> {
        let conn = &self.conns[key];
        let role = conn.role;
        // Reading found out already, and there was still something to write.
        if conn.gone {
            return Ok(());
        }
        self.close(key);
        // Nobody yet: who only looks whether the relay listens, for example.
        if role == Role::Unknown { Ok(()) } else { scenario.lost(self, role, why) }
    }

    // --- writing

    fn write_dirty(&mut self, scenario: &mut dyn Scenario<S>) -> Result<()> {
        let mut full = Vec::new();
        while let Some(key) = self.dirty.pop() {
            let Some(conn) = self.conns.get_mut(key) else { continue };
            conn.dirty = false;
            if self.write(scenario, key)? {
                full.push(key);
            }
        }
        // Those that could go on are due in the next turn.
        for key in full {
            self.touch(key);
        }
        Ok(())
    }

    /// Writes and refills; whether there is more to write than one turn may.
    fn write(&mut self, scenario: &mut dyn Scenario<S>, key: usize) -> Result<bool> {
        for _ in 0..REFILLS {
            match self.write_once(key) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => {
                    self.lose(scenario, key, Lost::Broken(error.to_string()))?;
                    return Ok(false);
                }
            }
            if !self.conns[key].wants_room {
                return Ok(false);
            }
            scenario.room(self, key)?;
            let now = self.micros();
            if self.conns[key].speech.pending(now).is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether everything there was is written.
    fn write_once(&mut self, key: usize) -> std::io::Result<bool> {
        let now = self.micros();
        let conn = &mut self.conns[key];
        if conn.speech.pending(now).is_empty() {
            // TLS may have something of its own.
            conn.transport.write(&[]).map(|_| true)
        } else {
            loop {
                let pending = conn.speech.pending(now);
                let len = pending.len();
                let n = conn.transport.write(pending)?;
                if n > 0 {
                    conn.speech.advance(n, now);
                }
                if n == len {
                    return Ok(true);
                }
                // A socket that took less than it was given is full; TLS may only have filled a record.
                if n == 0 || matches!(conn.transport, Transport::Plain(_)) {
                    return Ok(false);
                }
            }
        }
    }

    // --- keeping alive

    fn sweep(&mut self, scenario: &mut dyn Scenario<S>) -> Result<()> {
        if self.now - self.swept < SWEEP {
            return Ok(());
        }
        self.swept = self.now;
        let now = self.micros();
        let due = |conn: &Conn<S>| !conn.gone && conn.speech.is_due(now);
        let due: Vec<usize> = self.conns.iter().filter(|(_, conn)| due(conn)).map(|(key, _)| key).collect();
        for key in due {
            S::keep_alive(self, scenario, key)?;
            self.touch(key);
        }
        Ok(())
    }
}

impl<S: Speech> Dial for Net<S> {
    fn listen(&mut self, at: SocketAddr) -> Result<SocketAddr> {
        let listener = net::listen(at)?;
        self.poller.add(&listener, LISTENER, net::LISTENER)?;
        let addr = net::local_addr(&listener)?;
        self.listener = Some(listener);
        Ok(addr)
    }

    fn dial(
        &mut self,
        to: SocketAddr,
        from: Option<IpAddr>,
        role: Role,
        greeting: &Greeting,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<usize> {
        let socket = net::dial(to, from).with_context(|| format!("dial {to}"))?;
        net::reset_on_close(&socket)?;
        let speech = S::dial(&self.shared, role, greeting, self.micros())?;
        let transport = match tls {
            None => Transport::Plain(socket),
            Some(config) => Transport::tls(socket, config)?,
        };
        self.insert(transport, speech, role)
    }

    fn who(&self, key: usize) -> (Role, u64) {
        (self.conns[key].role, self.conns[key].id)
    }

    fn close_all(&mut self) {
        self.conns.clear();
        self.dirty.clear();
        self.over.clear();
        self.unread.clear();
    }
}
