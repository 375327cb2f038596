//! One stream as full as it goes: the opener writes Data frames, the acceptor checks and counts them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use frontier_wire::native::{
    frame::FrameType,
    head::{CallBuilder, ReplyHead},
    reader::Frame,
};

use super::{
    crew::{Crew, SERVICE, Target},
    drive::{Net, Next, Scenario},
    meter::Meter,
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
    pub fn run(args: &StreamArgs, target: &Target) -> Result<Sample> {
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
        Net::new()?.run(&mut scenario, target.limit())?;
        let mut sample = scenario.meter.into_sample();
        scenario.footprint.report(&mut sample);
        Ok(sample)
    }

    fn begin(&mut self, net: &mut Net) -> Result<()> {
        let (edge, service) = (self.crew.edge(0)?, self.crew.service_of(0)?);
        self.writer = if self.args.down { service } else { edge };
        let mut head = Vec::new();
        let call = CallBuilder::new(SERVICE);
        if self.args.down {
            call.edge(self.crew.edge_id(0)).encode(&mut head)
        } else {
            call.encode(&mut head)
        }
        self.footprint.before()?;
        net.conn(self.writer).peer.open()?;
        net.send(self.writer, Lane::Stream, header(FrameType::Open, 1), &head, &[])
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

impl Scenario for Stream {
    fn ready(&mut self, net: &mut Net, key: usize) -> Result<()> {
        self.crew.ready(net, key)
    }

    fn frame(&mut self, net: &mut Net, key: usize, lane: Lane, frame: &Frame<&[u8]>) -> Result<()> {
        match (lane, frame.header.kind) {
            (Lane::Stream, FrameType::Open) => {
                net.send(key, Lane::Stream, header(FrameType::OpenAck, frame.header.id), &[], &[])
            }
            (Lane::Stream, FrameType::OpenAck) => {
                if let Some(error) = ReplyHead::parse(&frame.head)?.error {
                    bail!("stream refused: {:?} {}", error.code, error.text);
                }
                self.opened = true;
                self.footprint.opened(net.now());
                self.meter.start(net.now());
                net.want_room(key, true);
                Ok(())
            }
            (Lane::Stream, FrameType::Data) => {
                self.pattern.check(0, 0, self.received, &frame.body)?;
                self.received += frame.body.len() as u64;
                self.meter.arrived(frame.body.len());
                Ok(())
            }
            (_, kind) => bail!("unexpected {}", kind.name()),
        }
    }

    fn room(&mut self, net: &mut Net, key: usize) -> Result<()> {
        let len = self.args.write;
        if self.opened && net.conn(key).peer.has_room(Lane::Stream, len) {
            let body = self.pattern.piece(0, 0, self.sent, len);
            net.send(key, Lane::Stream, header(FrameType::Data, 0), &[], body)?;
            self.sent += len as u64;
        }
        Ok(())
    }

    fn turn(&mut self, net: &mut Net, now: Instant) -> Result<Next> {
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
