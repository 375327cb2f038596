//! The geminio load's sockets and its loop: one thread, edge-triggered, as that of the native load.
//!
//! [`Net`] greets (Conn, Register; behind a relay ConnAck), answers and sends heartbeats; everything else is the [`Scenario`]'s.

use std::{
    io::IoSlice,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use frontier_wire::geminio::{
    connection::{Connection, Event},
    data,
    dialogue::DialogueId,
    limits::{Limits, Micros},
    packet::{PacketHeader, PacketType},
};
use rustls::ClientConfig;
use slab::Slab;
use socket2::{SockRef, Socket};

use crate::{
    load::{
        drive::{Dial, Greeting, Next, Role},
        transport::{Read, Transport},
    },
    net::{self, Poller},
};

/// Read at once. Larger than a packet of 64 KiB as base64 with what is around it.
const BUFFER: usize = 256 * 1024;
const LISTENER: u64 = u64::MAX;
/// Bytes that the kernel holds unsent per socket at most, as in the native load.
const NOT_SENT: u32 = 128 * 1024;
/// Reads, and refills of output, of one connection within a turn, so that one that is never done does not keep the others waiting.
const ROUNDS: usize = 16;
/// How often it is looked whether heartbeats are due.
const SWEEP: Duration = Duration::from_secs(1);
/// Slices of output taken from a connection at once.
const SLICES: usize = 256;

/// What the load does with its connections. Errors end the run.
pub trait Scenario {
    /// The session stands and its methods are registered.
    ///
    /// # Errors
    /// Ends the run.
    fn ready(&mut self, net: &mut Net, key: usize) -> Result<()>;

    /// Something came that is not part of greeting or keeping alive.
    ///
    /// # Errors
    /// Ends the run.
    fn event(&mut self, net: &mut Net, key: usize, event: Event<&[u8]>) -> Result<()>;

    /// All output of a connection was written that asked for it ([`Net::want_room`]).
    ///
    /// # Errors
    /// Ends the run.
    fn room(&mut self, _net: &mut Net, _key: usize) -> Result<()> {
        Ok(())
    }

    /// Before every wait: starts what is due.
    ///
    /// # Errors
    /// Ends the run.
    fn turn(&mut self, net: &mut Net, now: Instant) -> Result<Next>;
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// Who it is.
    role: Role,
    /// Its protocol state.
    wire: Connection,
    /// The ID it was given.
    id: u64,
    /// Methods to be registered, then how many of them are not acknowledged.
    methods: Vec<String>,
    registering: usize,
    transport: Transport,
    /// Output on its way: that of `wire`, and raw bytes.
    out: Vec<u8>,
    written: usize,
    /// In the list of connections to be written.
    dirty: bool,
    wants_room: bool,
    /// To be buried at the end of the turn.
    gone: bool,
    /// The number of the last packet that did not come from `wire`.
    raw_packet: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Net {
    poller: Poller,
    conns: Slab<Conn>,
    limits: Arc<Limits>,
    dirty: Vec<usize>,
    over: Vec<usize>,
    /// Connections whose read stopped before their socket was empty.
    unread: Vec<usize>,
    listener: Option<Socket>,
    start: Instant,
    swept: Instant,
    now: Instant,
    next_id: u64,
}

// === impl Conn ===

impl Conn {
    /// Brings together what is to be written.
    fn collect(&mut self, now: Micros) {
        while self.wire.wants_write(now) && self.wire.sending() > 0 {
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            self.wire.slices(&mut slices, SLICES);
            let before = self.out.len();
            slices.iter().for_each(|slice| self.out.extend_from_slice(slice));
            self.wire.written(self.out.len() - before, |_, _| {});
        }
    }

    /// Whether everything there was is written.
    fn write(&mut self, now: Micros) -> std::io::Result<bool> {
        self.collect(now);
        while self.written < self.out.len() {
            let n = self.transport.write(&self.out[self.written..])?;
            self.written += n;
            if n == 0 {
                return Ok(false);
            }
        }
        self.written = 0;
        self.out.clear();
        if self.out.capacity() > BUFFER {
            self.out.shrink_to(BUFFER);
        }
        Ok(true)
    }

    const fn is_dialler(&self) -> bool {
        matches!(self.role, Role::Edge(_) | Role::Service(_))
    }
}

// === impl Net ===

impl Net {
    /// No connections yet.
    ///
    /// # Errors
    /// If descriptors have run out.
    pub fn new() -> Result<Self> {
        let now = Instant::now();
        // The load keeps to its operations in flight; no further limit shall be what is measured.
        let limits = Limits { unacked: 1 << 20, operations: 1 << 20, answer_after: 0, ..Limits::default() };
        Ok(Self {
            poller: Poller::new()?,
            conns: Slab::new(),
            limits: Arc::new(limits),
            dirty: Vec::new(),
            over: Vec::new(),
            unread: Vec::new(),
            listener: None,
            start: now,
            swept: now,
            now,
            next_id: 1,
        })
    }

    /// The protocol state of a connection; what it has to send is written at the end of the turn.
    ///
    /// # Panics
    /// If it is gone.
    pub fn wire(&mut self, key: usize) -> &mut Connection {
        self.touch(key);
        &mut self.conns[key].wire
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

    /// Queues one packet of raw bytes: a write of a Go application, which knows neither windows nor pace.
    pub fn send_raw(&mut self, key: usize, dialogue: DialogueId, bytes: &[u8]) {
        let now = self.micros();
        let conn = &mut self.conns[key];
        conn.collect(now);
        conn.raw_packet += 1;
        PacketHeader::new(PacketType::Stream, conn.raw_packet).put_with(&mut conn.out, |out| {
            out.extend_from_slice(&dialogue.0.to_be_bytes());
            out.extend_from_slice(bytes);
        });
        self.touch(key);
    }

    /// From now on [`Scenario::room`] is called whenever all output was written.
    pub fn want_room(&mut self, key: usize) {
        self.conns[key].wants_room = true;
        self.touch(key);
    }

    fn touch(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        if !conn.dirty {
            conn.dirty = true;
            self.dirty.push(key);
        }
    }

    fn insert(
        &mut self,
        transport: Transport,
        role: Role,
        wire: Connection,
        methods: Vec<String>,
    ) -> Result<usize> {
        SockRef::from(transport.socket()).set_tcp_notsent_lowat(NOT_SENT)?;
        let key = self.conns.insert(Conn {
            role,
            wire,
            id: 0,
            methods,
            registering: 0,
            transport,
            out: Vec::new(),
            written: 0,
            dirty: false,
            wants_room: false,
            gone: false,
            // Apart from those of `wire`, which count from 1.
            raw_packet: 1 << 32,
        });
        self.poller.add(self.conns[key].transport.socket(), key as u64, net::SOCKET)?;
        Ok(key)
    }

    /// Runs until the scenario is done.
    ///
    /// # Errors
    /// If the scenario fails, a connection is lost, or it has not come to its end after `limit`.
    pub fn run(&mut self, scenario: &mut dyn Scenario, limit: Duration) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        let deadline = Instant::now() + limit;
        loop {
            self.now = Instant::now();
            ensure!(self.now < deadline, "not done after {limit:?}");
            self.sweep(scenario)?;
            let Next::Wait(timeout) = scenario.turn(self, self.now)? else { return Ok(()) };
            self.write_dirty(scenario)?;
            let busy = !self.dirty.is_empty() || !self.unread.is_empty();
            self.poller.wait(Some(if busy { Duration::ZERO } else { timeout.min(SWEEP) }))?;
            self.now = Instant::now();
            self.serve(scenario, &mut buffer)?;
            self.write_dirty(scenario)?;
            for key in self.over.drain(..) {
                self.conns.try_remove(key);
            }
        }
    }

    fn serve(&mut self, scenario: &mut dyn Scenario, buffer: &mut [u8]) -> Result<()> {
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
            let wire = Connection::serve(Arc::clone(&self.limits), self.micros());
            self.insert(Transport::Plain(socket), Role::Unknown, wire, Vec::new())?;
        }
        self.listener = Some(listener);
        Ok(())
    }

    // --- reading

    fn read(
        &mut self,
        scenario: &mut dyn Scenario,
        key: usize,
        buffer: &mut [u8],
        to_the_end: bool,
    ) -> Result<()> {
        for _ in 0..ROUNDS {
            let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.gone) else { return Ok(()) };
            let (n, last) = match conn.transport.read(buffer) {
                Ok(Read::More(n)) => (n, false),
                Ok(Read::Short(n)) => (n, n == 0 || !to_the_end),
                Ok(Read::End) => return self.lose(key, "closed"),
                Err(error) => return self.lose(key, &error.to_string()),
            };
            self.touch(key);
            let (now, mut input) = (self.micros(), &buffer[..n]);
            loop {
                let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.gone) else { return Ok(()) };
                let role = conn.role;
                let event = conn.wire.receive(&mut input, now).with_context(|| format!("{role:?}"))?;
                let Some(event) = event else { break };
                self.event(scenario, key, event)?;
            }
            if last {
                return Ok(());
            }
        }
        self.unread.push(key);
        Ok(())
    }

    fn event(&mut self, scenario: &mut dyn Scenario, key: usize, event: Event<&[u8]>) -> Result<()> {
        match event {
            Event::Hello { data, .. } => {
                let meta = data::decode(data.meta());
                let index = meta.first_chunk().context("no index in meta")?;
                let (id, now) = (self.next_id, self.micros());
                self.next_id += 1;
                let conn = &mut self.conns[key];
                conn.role = Role::Far(usize::try_from(u64::from_be_bytes(*index))?);
                conn.id = id;
                conn.wire.admit(id, now);
                self.touch(key);
                scenario.ready(self, key)
            }
            Event::Welcome { client } => {
                ensure!(client != 0, "ConnAck without ID");
                let conn = &mut self.conns[key];
                conn.id = client;
                for method in std::mem::take(&mut conn.methods) {
                    conn.wire.register(method.as_bytes())?;
                    conn.registering += 1;
                }
                if conn.registering > 0 { Ok(()) } else { scenario.ready(self, key) }
            }
            Event::RegisterDone { .. } => {
                let conn = &mut self.conns[key];
                conn.registering = conn.registering.checked_sub(1).context("RegisterAck to nothing")?;
                if conn.registering > 0 { Ok(()) } else { scenario.ready(self, key) }
            }
            // At the far end of a relay nobody asks for what was registered.
            Event::Registered { .. } => Ok(()),
            Event::Rejected(data) => bail!("{:?} refused: {}", self.conns[key].role, data.error()),
            Event::Leaving | Event::Over(_) => self.lose(key, "closed by the protocol"),
            event => scenario.event(self, key, event),
        }
    }

    fn lose(&mut self, key: usize, why: &str) -> Result<()> {
        let conn = &mut self.conns[key];
        // Nobody yet: who only looks whether the relay listens, for example.
        ensure!(conn.role == Role::Unknown, "{:?} lost: {why}", conn.role);
        if !std::mem::replace(&mut conn.gone, true) {
            // The slot is free only after the turn: events for it may still be in the batch.
            self.over.push(key);
        }
        Ok(())
    }

    // --- writing

    fn write_dirty(&mut self, scenario: &mut dyn Scenario) -> Result<()> {
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
    fn write(&mut self, scenario: &mut dyn Scenario, key: usize) -> Result<bool> {
        for _ in 0..ROUNDS {
            let now = self.micros();
            let conn = &mut self.conns[key];
            match conn.write(now) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => return self.lose(key, &error.to_string()).map(|()| false),
            }
            if !conn.wants_room {
                return Ok(false);
            }
            scenario.room(self, key)?;
            if self.conns[key].out.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    // --- keeping alive

    fn sweep(&mut self, scenario: &mut dyn Scenario) -> Result<()> {
        if self.now - self.swept < SWEEP {
            return Ok(());
        }
        self.swept = self.now;
        let now = self.micros();
        let due = |conn: &Conn| conn.is_dialler() && !conn.gone && conn.wire.poll_timeout() <= now;
        let due: Vec<usize> = self.conns.iter().filter(|(_, conn)| due(conn)).map(|(key, _)| key).collect();
        for key in due {
            while let Some(event) = self.conns[key].wire.handle_timeout(now) {
                self.event(scenario, key, event)?;
            }
            self.touch(key);
        }
        Ok(())
    }
}

impl Dial for Net {
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
        ensure!(tls.is_none(), "no TLS here");
        let meta = match role {
            // What the service SDK says of itself.
            Role::Service(_) => serde_json::to_vec(
                &serde_json::json!({ "service": greeting.name, "topics": greeting.topics }),
            )?,
            Role::Edge(_) | Role::Far(_) | Role::Unknown => greeting.meta.clone(),
        };
        let socket = net::dial(to, from).with_context(|| format!("dial {to}"))?;
        net::reset_on_close(&socket)?;
        let wire = Connection::dial(Arc::clone(&self.limits), 0, &meta, self.micros());
        self.insert(Transport::Plain(socket), role, wire, greeting.methods.clone())
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
