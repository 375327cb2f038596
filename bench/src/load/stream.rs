//! One stream as full as it goes: the opener writes, in Data frames or in packets of raw bytes as Go applications do, the acceptor checks
//! and counts the bytes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use frontier_wire::{
    chunk::Piece,
    native::{
        frame::FrameType,
        head::{CallBuilder, ReplyHead},
    },
};

use super::{
    crew::{Crew, SERVICE, Target},
    drive::{Net, Next, Scenario, Speech},
    meter::Meter,
    native::Native,
    pattern::Pattern,
    peer::{Lane, header},
};
use crate::{proc, sample::Sample};

/// How often the server's memory is read for its peak: rarely enough that reading it, which walks its page tables, costs nothing.
const LOOK: Duration = Duration::from_millis(100);

/// Which way and how.
#[derive(Args, Clone, Debug)]
pub struct StreamArgs {
    /// From the service to the edge.
    #[arg(long)]
    pub down: bool,
    /// Bytes of a write.
    #[arg(long, default_value_t = 32 * 1024)]
    pub write: usize,
}

/// How a protocol carries the one stream.
pub trait Carry: Speech {
    /// Opens it towards an edge, or towards the service.
    ///
    /// # Errors
    /// If the connection takes none.
    fn open(net: &mut Net<Self>, key: usize, edge: Option<u64>) -> Result<()>;

    /// Writes at once; false if there is no room for that now.
    ///
    /// # Errors
    /// If the stream is gone.
    fn write(net: &mut Net<Self>, key: usize, bytes: &[u8]) -> Result<bool>;

    /// What came of the stream; an offer is accepted.
    ///
    /// # Errors
    /// If it was refused, or something else came.
    fn told<'a>(net: &mut Net<Self>, key: usize, heard: Self::Heard<'a>) -> Result<Told<'a>>;
}

/// What came of a stream.
#[derive(Debug)]
pub enum Told<'a> {
    /// It was offered here.
    Accepted,
    /// It was accepted there.
    Opened,
    /// Bytes, cut anywhere.
    Bytes(Piece<&'a [u8]>),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Stream {
    args: StreamArgs,
    crew: Crew,
    meter: Meter,
    pattern: Pattern,
    footprint: Footprint,
    writer: usize,
    opened: bool,
    sent: u64,
    received: u64,
}

/// The server's memory beside a stream.
#[derive(Debug)]
pub struct Footprint {
    servers: Vec<u32>,
    /// Before the stream, and the most in the first and in the second half of the window.
    rss: [u64; 3],
    half: Duration,
    opened: Option<Instant>,
    looked: Instant,
}

// === impl Stream ===

impl Stream {
    /// Runs one stream.
    ///
    /// # Errors
    /// If it is refused, cut, or carries a wrong byte.
    pub fn run<S: Carry>(args: &StreamArgs, target: &Target) -> Result<Sample> {
        ensure!((16..=65_536).contains(&args.write), "a write has 16 to 65,536 bytes");
        let mut scenario = Self {
            args: args.clone(),
            crew: Crew::new(target.clone(), 1),
            meter: Meter::new(target.plan())?,
            pattern: Pattern::new(),
            footprint: Footprint::new(target),
            writer: 0,
            opened: false,
            sent: 0,
            received: 0,
        };
        Net::<S>::new()?.run(&mut scenario, target.limit())?;
        let mut sample = scenario.meter.into_sample();
        scenario.footprint.report(&mut sample);
        Ok(sample)
    }

    fn begin<S: Carry>(&mut self, net: &mut Net<S>) -> Result<()> {
        let (edge, service) = (self.crew.edge(0)?, self.crew.service_of(0)?);
        self.writer = if self.args.down { service } else { edge };
        self.footprint.before()?;
        S::open(net, self.writer, self.args.down.then(|| self.crew.edge_id(0)))
    }
}

// === impl Footprint ===

impl Footprint {
    /// Nothing was looked at yet.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        Self {
            servers: target.servers.clone(),
            rss: [0; 3],
            half: Duration::from_secs_f64(target.warmup + target.seconds / 2.0),
            opened: None,
            looked: Instant::now(),
        }
    }

    /// The stream will be opened now.
    ///
    /// # Errors
    /// If a server has ended.
    pub fn before(&mut self) -> Result<()> {
        self.rss[0] = rss(&self.servers)?;
        Ok(())
    }

    /// The stream is open.
    pub const fn opened(&mut self, now: Instant) {
        self.opened = Some(now);
    }

    /// Looks while the window is open.
    ///
    /// # Errors
    /// If a server has ended.
    pub fn look(&mut self, now: Instant) -> Result<()> {
        let Some(opened) = self.opened.filter(|_| now - self.looked > LOOK) else { return Ok(()) };
        self.looked = now;
        let half = if now - opened < self.half { &mut self.rss[1] } else { &mut self.rss[2] };
        *half = (*half).max(rss(&self.servers)?);
        Ok(())
    }

    /// Says what was seen, and the rate.
    pub fn report(&self, sample: &mut Sample) {
        for (name, bytes) in ["rss_before", "rss_early", "rss_late"].into_iter().zip(self.rss) {
            sample.set(name, bytes as f64);
        }
        sample.set("bytes_per_second", sample.figure("bytes") / sample.seconds.max(1e-9));
    }
}

fn rss(servers: &[u32]) -> Result<u64> {
    servers.iter().map(|pid| Ok(proc::memory(*pid)?.rss)).sum()
}

impl<S: Carry> Scenario<S> for Stream {
    fn ready(&mut self, net: &mut Net<S>, key: usize) -> Result<()> {
        self.crew.ready(net, key)
    }

    fn heard(&mut self, net: &mut Net<S>, key: usize, heard: S::Heard<'_>) -> Result<()> {
        match S::told(net, key, heard)? {
            Told::Accepted => {}
            Told::Opened => {
                self.opened = true;
                self.footprint.opened(net.now());
                self.meter.start(net.now());
                net.want_room(key, true);
            }
            Told::Bytes(bytes) => {
                self.pattern.check(0, 0, self.received, &bytes)?;
                self.received += bytes.len() as u64;
                self.meter.arrived(bytes.len());
            }
        }
        Ok(())
    }

    fn room(&mut self, net: &mut Net<S>, key: usize) -> Result<()> {
        if self.opened && S::write(net, key, self.pattern.piece(0, 0, self.sent, self.args.write))? {
            self.sent += self.args.write as u64;
        }
        Ok(())
    }

    fn turn(&mut self, net: &mut Net<S>, now: Instant) -> Result<Next> {
        if self.crew.complete(net)? {
            self.begin(net)?;
        }
        if self.meter.is_measuring() {
            self.footprint.look(now)?;
        }
        if self.meter.tick(now)? {
            return Ok(Next::Done);
        }
        Ok(Next::Wait(Duration::from_millis(5)))
    }
}

impl Carry for Native {
    fn open(net: &mut Net<Self>, key: usize, edge: Option<u64>) -> Result<()> {
        let mut head = Vec::new();
        CallBuilder::new(SERVICE).edge(edge.unwrap_or_default()).encode(&mut head);
        net.conn(key).speech.peer.open()?;
        net.send(key, Lane::Stream, header(FrameType::Open, 1), &head, &[])
    }

    fn write(net: &mut Net<Self>, key: usize, bytes: &[u8]) -> Result<bool> {
        if !net.conn(key).speech.peer.has_room(Lane::Stream, bytes.len()) {
            return Ok(false);
        }
        net.send(key, Lane::Stream, header(FrameType::Data, 0), &[], bytes)?;
        Ok(true)
    }

    fn told<'a>(net: &mut Net<Self>, key: usize, (lane, frame): Self::Heard<'a>) -> Result<Told<'a>> {
        match (lane, frame.header.kind) {
            (Lane::Stream, FrameType::Open) => {
                net.send(key, Lane::Stream, header(FrameType::OpenAck, frame.header.id), &[], &[])?;
                Ok(Told::Accepted)
            }
            (Lane::Stream, FrameType::OpenAck) => {
                if let Some(error) = ReplyHead::parse(&frame.head)?.error {
                    bail!("stream refused: {:?} {}", error.code, error.text);
                }
                Ok(Told::Opened)
            }
            (Lane::Stream, FrameType::Data) => Ok(Told::Bytes(frame.body)),
            (_, kind) => bail!("unexpected {}", kind.name()),
        }
    }
}
