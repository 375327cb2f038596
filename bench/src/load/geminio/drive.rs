//! Geminio as the load speaks it: Conn and Register, behind a relay ConnAck, heartbeats, and events for the scenario.

use std::{io::IoSlice, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use frontier_wire::geminio::{
    connection::{Connection, Event},
    data,
    dialogue::DialogueId,
    limits::Limits,
    packet::{PacketHeader, PacketType},
};

use crate::load::drive::{self, Greeting, Lost, Micros, Role, Scenario, Speech};

/// The load's connections, all of them geminio.
pub type Net = drive::Net<Geminio>;

/// Output that a connection keeps room for.
const KEPT: usize = 256 * 1024;
/// Slices of output taken from a connection at once.
const SLICES: usize = 256;

/// One connection.
#[derive(Debug)]
pub struct Geminio {
    wire: Connection,
    is_dialler: bool,
    /// Methods to be registered, then how many of them are not acknowledged.
    methods: Vec<String>,
    registering: usize,
    /// Output on its way: that of `wire`, and raw bytes.
    out: Vec<u8>,
    written: usize,
    /// The one user stream that this program keeps on a connection.
    pub(super) stream: Option<DialogueId>,
    /// The number of the last packet that did not come from `wire`.
    raw_packet: u64,
}

// === impl Geminio ===

impl Geminio {
    fn new(wire: Connection, is_dialler: bool, methods: Vec<String>) -> Self {
        // Apart from those of `wire`, which count from 1.
        let raw_packet = 1 << 32;
        let (registering, out, written, stream) = (0, Vec::new(), 0, None);
        Self { wire, is_dialler, methods, registering, out, written, stream, raw_packet }
    }

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
}

impl Speech for Geminio {
    type Shared = Arc<Limits>;
    type Input<'a> = &'a [u8];
    type Event<'a> = Event<&'a [u8]>;
    type Heard<'a> = Event<&'a [u8]>;

    /// The load keeps to its operations in flight; no further limit shall be what is measured.
    fn shared() -> Arc<Limits> {
        Arc::new(Limits { unacked: 1 << 20, operations: 1 << 20, answer_after: 0, ..Limits::default() })
    }

    fn dial(limits: &Arc<Limits>, role: Role, greeting: &Greeting, now: Micros) -> Result<Self> {
        let meta = match role {
            // What the service SDK says of itself.
            Role::Service(_) => serde_json::to_vec(
                &serde_json::json!({ "service": greeting.name, "topics": greeting.topics }),
            )?,
            Role::Edge(_) | Role::Far(_) | Role::Unknown => greeting.meta.clone(),
        };
        let wire = Connection::dial(Arc::clone(limits), 0, &meta, now);
        Ok(Self::new(wire, true, greeting.methods.clone()))
    }

    fn accept(limits: &Arc<Limits>, now: Micros) -> Self {
        Self::new(Connection::serve(Arc::clone(limits), now), false, Vec::new())
    }

    fn input(bytes: &[u8]) -> &[u8] {
        bytes
    }

    fn next<'a>(&mut self, input: &mut Self::Input<'a>, now: Micros) -> Result<Option<Self::Event<'a>>> {
        Ok(self.wire.receive(input, now)?)
    }

    fn handle(
        net: &mut Net,
        scenario: &mut dyn Scenario<Self>,
        key: usize,
        event: Event<&[u8]>,
    ) -> Result<()> {
        match event {
            Event::Hello { data, .. } => {
                let meta = data::decode(data.meta());
                let index = meta.first_chunk().context("no index in meta")?;
                let (id, now) = (net.fresh_id(), net.micros());
                let conn = net.conn(key);
                conn.role = Role::Far(usize::try_from(u64::from_be_bytes(*index))?);
                conn.id = id;
                conn.speech.wire.admit(id, now);
                net.touch(key);
                scenario.ready(net, key)
            }
            Event::Welcome { client } => {
                ensure!(client != 0, "ConnAck without ID");
                let conn = net.conn(key);
                conn.id = client;
                for method in std::mem::take(&mut conn.speech.methods) {
                    conn.speech.wire.register(method.as_bytes())?;
                    conn.speech.registering += 1;
                }
                if conn.speech.registering > 0 { Ok(()) } else { scenario.ready(net, key) }
            }
            Event::RegisterDone { .. } => {
                let speech = &mut net.conn(key).speech;
                speech.registering = speech.registering.checked_sub(1).context("RegisterAck to nothing")?;
                if speech.registering > 0 { Ok(()) } else { scenario.ready(net, key) }
            }
            // At the far end of a relay nobody asks for what was registered.
            Event::Registered { .. } => Ok(()),
            Event::Rejected(data) => bail!("{:?} refused: {}", net.conn(key).role, data.error()),
            Event::Leaving | Event::Over(_) => net.lose(scenario, key, Lost::Closed),
            event => scenario.heard(net, key, event),
        }
    }

    fn pending(&mut self, now: Micros) -> &[u8] {
        self.collect(now);
        &self.out[self.written..]
    }

    fn advance(&mut self, n: usize, _: Micros) {
        self.written += n;
        if self.written >= self.out.len() {
            self.written = 0;
            self.out.clear();
            if self.out.capacity() > KEPT {
                self.out.shrink_to(KEPT);
            }
        }
    }

    fn is_due(&self, now: Micros) -> bool {
        self.is_dialler && self.wire.poll_timeout() <= now
    }

    fn keep_alive(net: &mut Net, scenario: &mut dyn Scenario<Self>, key: usize) -> Result<()> {
        let now = net.micros();
        while let Some(event) = net.conn(key).speech.wire.handle_timeout::<&[u8]>(now) {
            Self::handle(net, scenario, key, event)?;
        }
        Ok(())
    }
}

// === impl Net ===

impl Net {
    /// The protocol state of a connection; what it has to send is written at the end of the turn.
    ///
    /// # Panics
    /// If it is gone.
    pub fn wire(&mut self, key: usize) -> &mut Connection {
        self.touch(key);
        &mut self.conn(key).speech.wire
    }

    /// Queues one packet of raw bytes: a write of a Go application, which knows neither windows nor pace.
    pub fn send_raw(&mut self, key: usize, dialogue: DialogueId, bytes: &[u8]) {
        let now = self.micros();
        let speech = &mut self.conn(key).speech;
        speech.collect(now);
        speech.raw_packet += 1;
        PacketHeader::new(PacketType::Stream, speech.raw_packet).put_with(&mut speech.out, |out| {
            out.extend_from_slice(&dialogue.0.to_be_bytes());
            out.extend_from_slice(bytes);
        });
        self.touch(key);
    }
}
