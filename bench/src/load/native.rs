//! The native protocol as the load speaks it: Hello and Welcome, Pings, and frames for the scenario.

use anyhow::{Context as _, Result, bail, ensure};
use frontier_wire::native::{
    frame::{FrameHeader, FrameType},
    proto,
    reader::Frame,
};
use prost::Message as _;

use super::{
    drive::{self, Greeting, Lost, Micros, Role, Scenario, Speech},
    peer::{Event, Input, Lane, Peer, header},
};

/// The load's connections, all of them native.
pub type Net = drive::Net<Native>;

/// One connection.
#[derive(Debug)]
pub struct Native {
    /// Its end without a socket.
    pub peer: Peer,
    /// The resume ticket it was given.
    pub ticket: Vec<u8>,
    greeted: bool,
    /// Microseconds without a word after which the gateway gives it up.
    heartbeat: Micros,
    wrote: Micros,
    last_id: u64,
}

// === impl Native ===

impl Native {
    const fn new(peer: Peer, now: Micros) -> Self {
        Self { peer, ticket: Vec::new(), greeted: false, heartbeat: Micros::MAX, wrote: now, last_id: 0 }
    }

    /// The ID of the next operation on the session stream: one sequence for all that is started here.
    pub const fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn greet(
        net: &mut Net,
        scenario: &mut dyn Scenario<Self>,
        key: usize,
        frame: &Frame<&[u8]>,
    ) -> Result<()> {
        match (net.conn(key).role, frame.header.kind) {
            (Role::Unknown, FrameType::Hello) => {
                let hello = proto::Hello::decode(&*frame.head)?;
                let index = hello.meta.first_chunk().context("no index in meta")?;
                let id = net.fresh_id();
                let welcome = proto::Welcome { version: 1, id, ..proto::Welcome::default() }.encode_to_vec();
                net.send(key, Lane::Session, header(FrameType::Welcome, 0), &welcome, &[])?;
                let conn = net.conn(key);
                conn.role = Role::Far(usize::try_from(u64::from_be_bytes(*index))?);
                conn.id = id;
                conn.speech.greeted = true;
            }
            (Role::Edge(_) | Role::Service(_), FrameType::Welcome) => {
                let welcome = proto::Welcome::decode(&*frame.head)?;
                let conn = net.conn(key);
                ensure!(welcome.version == 1 && welcome.id != 0, "Welcome without version or ID");
                conn.speech.peer.set_windows(0, welcome.stream_window);
                conn.id = welcome.id;
                conn.speech.ticket = welcome.ticket;
                if welcome.heartbeat_ms > 0 {
                    conn.speech.heartbeat = Micros::from(welcome.heartbeat_ms) * 1_000;
                }
                conn.speech.greeted = true;
            }
            (Role::Edge(_) | Role::Service(_), FrameType::Reject) => {
                let error = proto::Error::decode(&*frame.head)?;
                let lost = Lost::Rejected { code: error.code, retry_after_ms: error.retry_after_ms };
                return net.lose(scenario, key, lost);
            }
            (role, kind) => bail!("{} before the session of {role:?} stood", kind.name()),
        }
        scenario.ready(net, key)
    }
}

impl Speech for Native {
    type Shared = ();
    type Input<'a> = Input<'a>;
    type Event<'a> = Event<'a>;
    type Heard<'a> = (Lane, Frame<&'a [u8]>);

    fn shared() {}

    fn dial((): &(), role: Role, greeting: &Greeting, now: Micros) -> Result<Self> {
        let mut peer = Peer::dial()?;
        peer.send(Lane::Session, header(FrameType::Hello, 0), &greeting.encode(role), &[])?;
        Ok(Self::new(peer, now))
    }

    fn accept((): &(), now: Micros) -> Self {
        Self::new(Peer::accept(), now)
    }

    fn input(bytes: &[u8]) -> Input<'_> {
        Input::new(bytes)
    }

    fn next<'a>(&mut self, input: &mut Self::Input<'a>, _: Micros) -> Result<Option<Self::Event<'a>>> {
        self.peer.next(input)
    }

    fn handle(net: &mut Net, scenario: &mut dyn Scenario<Self>, key: usize, event: Event<'_>) -> Result<()> {
        match event {
            Event::Frame(Lane::Session, frame) => match frame.header.kind {
                FrameType::Ping => {
                    net.send(key, Lane::Session, header(FrameType::Pong, frame.header.id), &[], &[])
                }
                FrameType::Pong => Ok(()),
                _ if !net.conn(key).speech.greeted => Self::greet(net, scenario, key, &frame),
                _ => scenario.heard(net, key, (Lane::Session, frame)),
            },
            Event::Frame(Lane::Stream, frame) => scenario.heard(net, key, (Lane::Stream, frame)),
            Event::Opened => Ok(()),
            Event::StreamOver => bail!("the stream of {:?} was cut", net.conn(key).role),
            Event::Ended => net.lose(scenario, key, Lost::Closed),
        }
    }

    fn pending(&mut self, _: Micros) -> &[u8] {
        self.peer.pending()
    }

    fn advance(&mut self, n: usize, now: Micros) {
        self.wrote = now;
        self.peer.advance(n);
    }

    /// At 60 % of the heartbeat: late by a sweep and a busy turn it is still in time.
    fn is_due(&self, now: Micros) -> bool {
        self.greeted && now - self.wrote > self.heartbeat / 10 * 6
    }

    fn keep_alive(net: &mut Net, _: &mut dyn Scenario<Self>, key: usize) -> Result<()> {
        let now = net.micros();
        let speech = &mut net.conn(key).speech;
        speech.wrote = now;
        let ping = header(FrameType::Ping, speech.fresh_id());
        net.send(key, Lane::Session, ping, &[], &[])
    }
}

// === impl Net ===

impl Net {
    /// Queues a frame on a connection.
    ///
    /// # Errors
    /// If it does not fit into a frame or the stream is gone.
    pub fn send(
        &mut self,
        key: usize,
        lane: Lane,
        header: FrameHeader,
        head: &[u8],
        body: &[u8],
    ) -> Result<()> {
        self.conn(key).speech.peer.send(lane, header, head, body)?;
        self.touch(key);
        Ok(())
    }
}
