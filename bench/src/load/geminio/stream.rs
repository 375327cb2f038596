//! One stream as full as it goes: the opener writes packets of raw bytes, one per write as Go applications do, the acceptor checks and
//! counts the bytes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use frontier_wire::geminio::{connection::Event, data::Content, dialogue::DialogueId};

use super::drive::{Net, Scenario};
use crate::{
    load::{
        crew::{Crew, SERVICE, Target},
        drive::Next,
        meter::Meter,
        pattern::Pattern,
        stream::{Footprint, StreamArgs},
    },
    sample::Sample,
};

/// See the module documentation.
#[derive(Debug)]
pub struct Stream {
    args: StreamArgs,
    crew: Crew,
    meter: Meter,
    pattern: Pattern,
    footprint: Footprint,
    writer: usize,
    dialogue: Option<DialogueId>,
    sent: u64,
    received: u64,
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
            dialogue: None,
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
        let peer = if self.args.down { self.crew.edge_id(0).to_string() } else { SERVICE.to_owned() };
        self.footprint.before()?;
        let now = net.micros();
        net.wire(self.writer).open(&peer, Content::None, now)?;
        Ok(())
    }
}

impl Scenario for Stream {
    fn ready(&mut self, net: &mut Net, key: usize) -> Result<()> {
        self.crew.ready(net, key)
    }

    fn event(&mut self, net: &mut Net, key: usize, event: Event<&[u8]>) -> Result<()> {
        match event {
            Event::Open { dialogue, .. } => {
                ensure!(net.wire(key).accept(dialogue), "the stream was taken back");
                Ok(())
            }
            Event::Opened { dialogue, .. } => {
                self.dialogue = Some(dialogue);
                self.footprint.opened(net.now());
                self.meter.start(net.now());
                net.want_room(key);
                Ok(())
            }
            Event::Raw(dialogue, piece) => {
                self.pattern.check(0, 0, self.received, &piece)?;
                self.received += piece.len() as u64;
                self.meter.arrived(piece.len());
                net.wire(key).release(dialogue, piece.len());
                Ok(())
            }
            event => bail!("unexpected {event:?}"),
        }
    }

    fn room(&mut self, net: &mut Net, key: usize) -> Result<()> {
        if let Some(dialogue) = self.dialogue {
            net.send_raw(key, dialogue, self.pattern.piece(0, 0, self.sent, self.args.write));
            self.sent += self.args.write as u64;
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
