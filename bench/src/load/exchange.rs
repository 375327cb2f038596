//! Calls and messages in both directions, as fast as answers come or at a fixed rate, with or without a reader that has stalled.
//!
//! A *line* is one edge's share of the load: so many operations in flight, each answered exactly once with what it was sent. Calls are
//! answered with their payload, messages with an Ack; receivers check payload, sender and, for messages, that none is missing or out of
//! order. Latency is counted from the moment an operation was due, not from when it could be sent.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use frontier_wire::native::{
    frame::FrameType,
    head::{CallBuilder, CallHead, ReplyHead},
    reader::Frame,
};

use super::{
    crew::{Crew, METHOD, TOPIC, Target},
    drive::{Lost, Net, Next, Role, Scenario, Speech},
    meter::Meter,
    native::Native,
    pattern::{Pattern, read_stamp},
    peer::{Lane, header},
};
use crate::sample::Sample;

/// Operations that are due and not started, at most: more means that the rate cannot be held.
const MAX_LATE: usize = 100_000;
/// Payload of the messages to a stalled edge, in bytes, and how many are sent per second.
const STALLED_PAYLOAD: usize = 16_384;
const STALLED_RATE: f64 = 1_000.0;

/// What is exchanged.
#[derive(Args, Clone, Debug)]
pub struct ExchangeArgs {
    /// From the service to the edges.
    #[arg(long)]
    pub down: bool,
    /// Edges that take part.
    #[arg(long, default_value_t = 10)]
    pub edges: usize,
    /// Operations of each edge in flight.
    #[arg(long, default_value_t = 8)]
    pub in_flight: usize,
    /// Bytes of payload, at least 16.
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// Operations per second over all edges; as fast as answers come if not given.
    #[arg(long)]
    pub rate: Option<f64>,
    /// One edge more, which the service sends messages to and which never reads.
    #[arg(long)]
    pub stall: bool,
}

/// Call or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Request and Response.
    Call,
    /// Publish and Ack.
    Publish,
}

/// How a protocol carries calls and messages.
pub trait Ask: Speech {
    /// Whom operations are for, as it is said with each of them: services name an edge.
    fn address(kind: Kind, edge: Option<u64>) -> Vec<u8>;

    /// Starts an operation; its ID comes back with the answer.
    ///
    /// # Errors
    /// If the connection takes none.
    fn ask(
        net: &mut Net<Self>,
        key: usize,
        kind: Kind,
        line: u64,
        address: &[u8],
        payload: &[u8],
    ) -> Result<u64>;

    /// What has come.
    ///
    /// # Errors
    /// If it cannot be read, or nothing of the kind may come.
    fn said(heard: &Self::Heard<'_>) -> Result<Said>;

    /// Its payload; where it has to be decoded, that is done in `plain`.
    ///
    /// # Errors
    /// If it cannot be decoded.
    fn payload<'a>(heard: &'a Self::Heard<'_>, plain: &'a mut Vec<u8>) -> Result<&'a [u8]>;

    /// Answers a call with its own payload, and a message with nothing.
    ///
    /// # Errors
    /// If nobody waits for that.
    fn answer(net: &mut Net<Self>, key: usize, heard: &Self::Heard<'_>) -> Result<()>;

    /// Whether a message of so many bytes would be on its way at once.
    fn has_room(net: &mut Net<Self>, key: usize, len: usize) -> bool;
}

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A call or a message, and of whom.
    Asked(Kind, Sender),
    /// The answer to the operation of this ID: why it failed, if it did.
    Answered(u64, Option<String>),
    /// Something that comes only where somebody does not read.
    Aside(&'static str),
}

/// Who has started an operation, as far as its receiver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The edge of this ID.
    Edge(u64),
    /// A service.
    Service,
    /// It is not said.
    Unknown,
}

/// One edge's share.
#[derive(Debug)]
struct Line {
    /// The connection operations start on.
    key: usize,
    address: Vec<u8>,
    in_flight: usize,
    started: u64,
    /// Messages that arrived at the receiver.
    received: u64,
}

/// Operations of one connection that are not answered, by ID: a window that starts at `base`.
#[derive(Debug, Default)]
struct Pending {
    base: u64,
    slots: VecDeque<Option<Operation>>,
}

/// One that is not answered.
#[derive(Clone, Copy, Debug)]
struct Operation {
    line: usize,
    number: u64,
    due: Instant,
}

/// Starts operations at fixed times.
#[derive(Debug)]
struct Pacer {
    every: Duration,
    next: Instant,
    late: VecDeque<Instant>,
    line: usize,
}

/// The edge that does not read.
#[derive(Debug, Default)]
struct Stalled {
    sent: u64,
    refused: u64,
    cut: bool,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Exchange {
    args: ExchangeArgs,
    kind: Kind,
    crew: Crew,
    meter: Meter,
    pattern: Pattern,
    lines: Vec<Line>,
    /// By connection.
    pending: Vec<Pending>,
    /// A payload that was decoded to be checked.
    plain: Vec<u8>,
    pacer: Option<Pacer>,
    stalled: Stalled,
    stalled_pacer: Option<Pacer>,
}

// === impl Exchange ===

impl Exchange {
    /// Runs one exchange.
    ///
    /// # Errors
    /// If anybody is lost, answers wrongly or not at all.
    pub fn run<S: Ask>(kind: Kind, args: &ExchangeArgs, target: &Target) -> Result<Sample> {
        ensure!(args.edges > 0 && args.in_flight > 0, "at least one edge and one operation in flight");
        ensure!((16..=65_536).contains(&args.payload), "a payload has 16 to 65,536 bytes");
        let edges = args.edges + usize::from(args.stall);
        let mut scenario = Self {
            args: args.clone(),
            kind,
            crew: Crew::new(target.clone(), edges),
            meter: Meter::new(target.plan())?,
            pattern: Pattern::new(),
            lines: Vec::new(),
            pending: Vec::new(),
            plain: Vec::new(),
            pacer: None,
            stalled: Stalled::default(),
            stalled_pacer: None,
        };
        Net::<S>::new()?.run(&mut scenario, target.limit())?;
        let mut sample = scenario.meter.into_sample();
        if args.stall {
            sample.set("stalled_sent", scenario.stalled.sent as f64);
            sample.set("stalled_refused", scenario.stalled.refused as f64);
            sample.set("stalled_cut", f64::from(u8::from(scenario.stalled.cut)));
        }
        Ok(sample)
    }

    fn begin<S: Ask>(&mut self, net: &mut Net<S>, now: Instant) -> Result<()> {
        for edge in 0..self.crew.edges() {
            let down = self.args.down || edge >= self.args.edges;
            let key = if down { self.crew.service_of(edge)? } else { self.crew.edge(edge)? };
            let named = (down && !self.crew.is_relayed()).then(|| self.crew.edge_id(edge));
            let kind = if edge >= self.args.edges { Kind::Publish } else { self.kind };
            let address = S::address(kind, named);
            self.lines.push(Line { key, address, in_flight: 0, started: 0, received: 0 });
        }
        if self.args.stall {
            net.mute(self.crew.edge(self.args.edges)?);
            self.stalled_pacer = Some(Pacer::new(STALLED_RATE, now));
        }
        self.meter.start(now);
        if let Some(rate) = self.args.rate {
            self.pacer = Some(Pacer::new(rate, now));
            return Ok(());
        }
        for _ in 0..self.args.in_flight {
            for line in 0..self.args.edges {
                self.start(net, line, now)?;
            }
        }
        Ok(())
    }

    fn start<S: Ask>(&mut self, net: &mut Net<S>, index: usize, due: Instant) -> Result<()> {
        let stalled = index >= self.args.edges;
        let line = &mut self.lines[index];
        let number = line.started;
        line.started += 1;
        line.in_flight += 1;
        let (kind, len) =
            if stalled { (Kind::Publish, STALLED_PAYLOAD) } else { (self.kind, self.args.payload) };
        let payload = self.pattern.piece(index as u64, number, 0, len);
        let id = S::ask(net, line.key, kind, index as u64, &line.address, payload)?;
        if self.pending.len() <= line.key {
            self.pending.resize_with(line.key + 1, Pending::default);
        }
        self.pending[line.key].insert(id, Operation { line: index, number, due })
    }

    /// The receiver's side.
    fn serve<S: Ask>(
        &mut self,
        net: &mut Net<S>,
        key: usize,
        heard: &S::Heard<'_>,
        kind: Kind,
        sender: Sender,
    ) -> Result<()> {
        let payload = S::payload(heard, &mut self.plain)?;
        let (index, number) = read_stamp(payload).context("payload without a stamp")?;
        let line = self.lines.get_mut(usize::try_from(index)?).context("payload of nobody")?;
        self.pattern.check(index, number, 0, payload)?;
        let edge = self.crew.edge_id(usize::try_from(index)?);
        let right = match sender {
            Sender::Edge(id) => !self.args.down && id == edge,
            Sender::Service | Sender::Unknown => self.args.down,
        };
        ensure!(right || self.crew.is_relayed(), "edge {edge} and sender {sender:?} do not match");
        if kind == Kind::Publish {
            ensure!(number == line.received, "message {number} arrived in place of {}", line.received);
            line.received += 1;
        }
        S::answer(net, key, heard)
    }

    /// The sender's side.
    fn answered<S: Ask>(
        &mut self,
        net: &mut Net<S>,
        key: usize,
        heard: &S::Heard<'_>,
        id: u64,
        error: Option<String>,
    ) -> Result<()> {
        let pending = self.pending.get_mut(key).context("an answer to nothing")?;
        let operation = pending.remove(id).with_context(|| format!("answer to {id}, which is not open"))?;
        let line = &mut self.lines[operation.line];
        line.in_flight -= 1;
        if operation.line >= self.args.edges {
            self.stalled.refused += u64::from(error.is_some());
            return Ok(());
        }
        if let Some(error) = error {
            bail!("operation failed: {error}");
        }
        let payload = S::payload(heard, &mut self.plain)?;
        match self.kind {
            Kind::Call => {
                ensure!(payload.len() == self.args.payload, "answer of {} bytes", payload.len());
                self.pattern.check(operation.line as u64, operation.number, 0, payload)?;
            }
            Kind::Publish => ensure!(payload.is_empty(), "an acknowledgement with a payload"),
        }
        let now = Instant::now();
        self.meter.done(operation.due, now, self.args.payload);
        match &mut self.pacer {
            None => self.start(net, operation.line, now),
            Some(_) => Ok(()),
        }
    }

    /// Starts what is due by the clock.
    fn pace<S: Ask>(&mut self, net: &mut Net<S>, now: Instant) -> Result<()> {
        if let Some(mut pacer) = self.pacer.take() {
            pacer.catch_up(now)?;
            while let Some(due) = pacer.late.pop_front() {
                let Some(line) = self.free_line(&mut pacer) else {
                    pacer.late.push_front(due);
                    break;
                };
                self.start(net, line, due)?;
            }
            self.pacer = Some(pacer);
        }
        let line = self.args.edges;
        if let Some(mut pacer) = self.stalled_pacer.take() {
            pacer.catch_up(now)?;
            for due in pacer.late.drain(..) {
                // Towards a relay nobody answers for the stalled edge, so the sender has to stop by itself.
                let key = self.lines[line].key;
                let room =
                    net.contains(key) && (!self.crew.is_relayed() || S::has_room(net, key, STALLED_PAYLOAD));
                if room && self.lines[line].in_flight < 1_000 {
                    self.start(net, line, due)?;
                    self.stalled.sent += 1;
                }
            }
            self.stalled_pacer = Some(pacer);
        }
        Ok(())
    }

    /// The next line in turn that may start an operation.
    fn free_line(&self, pacer: &mut Pacer) -> Option<usize> {
        for _ in 0..self.args.edges {
            let line = pacer.line;
            pacer.line = (pacer.line + 1) % self.args.edges;
            if self.lines[line].in_flight < self.args.in_flight {
                return Some(line);
            }
        }
        None
    }
}

impl<S: Ask> Scenario<S> for Exchange {
    fn ready(&mut self, net: &mut Net<S>, key: usize) -> Result<()> {
        self.crew.ready(net, key)
    }

    fn heard(&mut self, net: &mut Net<S>, key: usize, heard: S::Heard<'_>) -> Result<()> {
        match S::said(&heard)? {
            Said::Asked(kind, sender) => self.serve(net, key, &heard, kind, sender),
            Said::Answered(id, error) => self.answered(net, key, &heard, id, error),
            // The deadline of messages to the stalled edge.
            Said::Aside(_) if self.args.stall => Ok(()),
            Said::Aside(what) => bail!("unexpected {what}"),
        }
    }

    fn lost(&mut self, _: &mut Net<S>, role: Role, why: Lost) -> Result<()> {
        match role {
            Role::Edge(index) | Role::Far(index) if self.args.stall && index == self.args.edges => {
                self.stalled.cut = true;
                Ok(())
            }
            _ => bail!("{role:?} lost: {why:?}"),
        }
    }

    fn turn(&mut self, net: &mut Net<S>, now: Instant) -> Result<Next> {
        if self.crew.complete(net)? {
            self.begin(net, now)?;
        }
        self.pace(net, now)?;
        if self.meter.tick(now)? {
            return Ok(Next::Done);
        }
        // Timers of the kernel are late by tens of microseconds, which would be measured as latency.
        let paced = self.pacer.is_some();
        Ok(Next::Wait(if paced { Duration::ZERO } else { Duration::from_millis(5) }))
    }
}

impl Ask for Native {
    fn address(kind: Kind, edge: Option<u64>) -> Vec<u8> {
        let name = if kind == Kind::Call { METHOD } else { TOPIC };
        let mut head = Vec::new();
        CallBuilder::new(name).edge(edge.unwrap_or_default()).encode(&mut head);
        head
    }

    fn ask(
        net: &mut Net<Self>,
        key: usize,
        kind: Kind,
        _: u64,
        address: &[u8],
        payload: &[u8],
    ) -> Result<u64> {
        let frame = if kind == Kind::Call { FrameType::Request } else { FrameType::Publish };
        let id = net.conn(key).speech.fresh_id();
        net.send(key, Lane::Session, header(frame, id), address, payload)?;
        Ok(id)
    }

    fn said((_, frame): &(Lane, Frame<&[u8]>)) -> Result<Said> {
        match frame.header.kind {
            FrameType::Request | FrameType::Publish => {
                let kind = if frame.header.kind == FrameType::Request { Kind::Call } else { Kind::Publish };
                let call = CallHead::parse(&frame.head)?;
                ensure!(kind == Kind::Publish || call.name == METHOD, "called by the name {:?}", call.name);
                let sender =
                    if call.from_service == 0 { Sender::Edge(call.from_edge) } else { Sender::Service };
                Ok(Said::Asked(kind, sender))
            }
            FrameType::Response | FrameType::Ack => {
                let error = ReplyHead::parse(&frame.head)?.error;
                let error = error.map(|error| format!("{:?} {}", error.code, error.text));
                Ok(Said::Answered(frame.header.id, error))
            }
            kind @ (FrameType::Cancel | FrameType::GoAway) => Ok(Said::Aside(kind.name())),
            kind => bail!("unexpected {}", kind.name()),
        }
    }

    fn payload<'a>((_, frame): &'a (Lane, Frame<&[u8]>), _: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        Ok(&frame.body)
    }

    fn answer(net: &mut Net<Self>, key: usize, (_, frame): &(Lane, Frame<&[u8]>)) -> Result<()> {
        let id = frame.header.id;
        if frame.header.kind == FrameType::Request {
            net.send(key, Lane::Session, header(FrameType::Response, id), &[], &frame.body)
        } else {
            net.send(key, Lane::Session, header(FrameType::Ack, id), &[], &[])
        }
    }

    fn has_room(net: &mut Net<Self>, key: usize, len: usize) -> bool {
        net.conn(key).speech.peer.has_room(Lane::Session, len)
    }
}

// === impl Pending ===

impl Pending {
    fn insert(&mut self, id: u64, operation: Operation) -> Result<()> {
        if self.slots.is_empty() {
            self.base = id;
        }
        let at = usize::try_from(id.checked_sub(self.base).context("IDs go back")?)?;
        // Other things than operations take IDs as well.
        while self.slots.len() < at {
            self.slots.push_back(None);
        }
        ensure!(self.slots.len() == at, "ID {id} is used twice");
        self.slots.push_back(Some(operation));
        Ok(())
    }

    fn remove(&mut self, id: u64) -> Option<Operation> {
        let at = usize::try_from(id.checked_sub(self.base)?).ok()?;
        let found = self.slots.get_mut(at)?.take();
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
        found
    }
}

// === impl Pacer ===

impl Pacer {
    fn new(rate: f64, now: Instant) -> Self {
        Self {
            every: Duration::from_secs_f64(1.0 / rate.max(0.001)),
            next: now,
            late: VecDeque::new(),
            line: 0,
        }
    }

    /// Notes all that became due.
    fn catch_up(&mut self, now: Instant) -> Result<()> {
        while self.next <= now {
            self.late.push_back(self.next);
            self.next += self.every;
        }
        ensure!(self.late.len() < MAX_LATE, "the rate cannot be held: {MAX_LATE} operations late");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_find_their_operations_in_any_order_and_once() {
        let mut pending = Pending::default();
        let operation = |line| Operation { line, number: 0, due: Instant::now() };
        for (line, id) in [(0, 5), (1, 6), (2, 9)] {
            pending.insert(id, operation(line)).unwrap();
        }
        assert!(pending.insert(9, operation(3)).is_err() && pending.insert(2, operation(3)).is_err());
        assert_eq!(pending.remove(6).map(|o| o.line), Some(1));
        assert!(pending.remove(6).is_none() && pending.remove(7).is_none() && pending.remove(4).is_none());
        assert_eq!(pending.remove(9).map(|o| o.line), Some(2));
        assert_eq!(pending.remove(5).map(|o| o.line), Some(0));
        assert!(pending.slots.is_empty());
        pending.insert(30, operation(4)).unwrap();
        assert_eq!(pending.remove(30).map(|o| o.line), Some(4));
    }

    #[test]
    fn a_pacer_owes_what_the_clock_says() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1_000.0, start);
        pacer.catch_up(start + Duration::from_micros(10_500)).unwrap();
        assert_eq!(pacer.late.len(), 11);
        assert_eq!(pacer.late[10] - start, Duration::from_millis(10));
        assert!(pacer.catch_up(start + Duration::from_secs(200)).is_err());
    }
}
