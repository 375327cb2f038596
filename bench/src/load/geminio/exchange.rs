//! Calls and messages in both directions, as fast as answers come. As in the native load a *line* is one edge's share: so many
//! operations in flight, each answered exactly once, and checked: payload, sender and, for messages, that none is missing or out of
//! order.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use frontier_wire::geminio::{
    base64,
    connection::{Answered, Event, Operation as Asked},
    data::{Content, Data, Object, append_tail, split_tail},
    dialogue::DialogueId,
};

use super::{
    drive::{Net, Scenario},
    object,
};
use crate::{
    load::{
        crew::{Crew, METHOD, TOPIC, Target},
        drive::Next,
        exchange::{Kind, Operation, Pending},
        meter::Meter,
        pattern::{Pattern, read_stamp},
    },
    sample::Sample,
};

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
}

/// One edge's share.
#[derive(Debug)]
struct Line {
    /// The connection operations start on.
    key: usize,
    /// Whom they are for, as services say it.
    custom: Vec<u8>,
    started: u64,
    /// Messages that arrived at the receiver.
    received: u64,
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
}

// === impl Exchange ===

impl Exchange {
    /// Runs one exchange.
    ///
    /// # Errors
    /// If anybody is lost, answers wrongly or not at all.
    pub fn run(kind: Kind, args: &ExchangeArgs, target: &Target) -> Result<Sample> {
        ensure!(args.edges > 0 && args.in_flight > 0, "at least one edge and one operation in flight");
        ensure!((16..=65_536).contains(&args.payload), "a payload has 16 to 65,536 bytes");
        let mut scenario = Self {
            args: args.clone(),
            kind,
            crew: Crew::new(target.clone(), args.edges),
            meter: Meter::new(target.plan())?,
            pattern: Pattern::new(),
            lines: Vec::new(),
            pending: Vec::new(),
            plain: Vec::new(),
        };
        Net::new()?.run(&mut scenario, target.limit())?;
        Ok(scenario.meter.into_sample())
    }

    fn begin(&mut self, net: &mut Net, now: Instant) -> Result<()> {
        for edge in 0..self.args.edges {
            let (key, custom) = match (self.args.down, self.crew.is_relayed()) {
                (false, _) => (self.crew.edge(edge)?, Vec::new()),
                (true, true) => (self.crew.service_of(edge)?, Vec::new()),
                (true, false) => (self.crew.service_of(edge)?, append_tail(b"", self.crew.edge_id(edge))),
            };
            self.lines.push(Line { key, custom, started: 0, received: 0 });
        }
        self.meter.start(now);
        for _ in 0..self.args.in_flight {
            for line in 0..self.args.edges {
                self.start(net, line, now)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, net: &mut Net, index: usize, due: Instant) -> Result<()> {
        let line = &mut self.lines[index];
        let (key, number) = (line.key, line.started);
        line.started += 1;
        let value = Content::Plain(self.pattern.piece(index as u64, number, 0, self.args.payload));
        let custom = Content::Plain(&line.custom);
        let now = net.micros();
        let packet = match self.kind {
            Kind::Call => {
                let call = Object { key: Content::Plain(METHOD.as_bytes()), value, custom, ..object() };
                net.wire(key).request(DialogueId::FIRST, &call)?
            }
            Kind::Publish => {
                let message = Object { topic: TOPIC, value, custom, ..object() };
                net.wire(key).publish(DialogueId::FIRST, index as u64, &message, now)?.packet
            }
        };
        if self.pending.len() <= key {
            self.pending.resize_with(key + 1, Pending::default);
        }
        self.pending[key].insert(packet, Operation { line: index, number, due })
    }

    /// The receiver's side.
    fn serve(&mut self, net: &mut Net, key: usize, asked: &Asked<&[u8]>) -> Result<()> {
        let data = &asked.data;
        let plain = decode(&mut self.plain, data.value())?;
        let (index, number) = read_stamp(plain).context("payload without a stamp")?;
        let line = self.lines.get_mut(usize::try_from(index)?).context("payload of nobody")?;
        self.pattern.check(index, number, 0, plain)?;
        if !self.crew.is_relayed() && !self.args.down {
            let edge = self.crew.edge_id(usize::try_from(index)?);
            let sender = split_tail(data.custom()).map(|(_, edge)| edge);
            ensure!(sender == Some(edge), "edge {edge} and sender {sender:?} do not match");
        }
        let answer = match self.kind {
            Kind::Call => Object {
                key: Content::Encoded(data.key()),
                value: Content::Encoded(data.value()),
                ..object()
            },
            Kind::Publish => {
                ensure!(number == line.received, "message {number} arrived in place of {}", line.received);
                line.received += 1;
                object()
            }
        };
        let answered = net.wire(key).respond(asked.id, &answer);
        ensure!(answered == Answered::Sent, "answer was {answered:?}");
        Ok(())
    }

    /// The sender's side.
    fn answered(&mut self, net: &mut Net, key: usize, packet: u64, data: &Data<&[u8]>) -> Result<()> {
        let pending = self.pending.get_mut(key).context("an answer to nothing")?;
        let operation =
            pending.remove(packet).with_context(|| format!("answer to {packet}, which is not open"))?;
        if !data.error().is_empty() {
            bail!("operation failed: {}", data.error());
        }
        match self.kind {
            Kind::Call => {
                let plain = decode(&mut self.plain, data.value())?;
                ensure!(plain.len() == self.args.payload, "answer of {} bytes", plain.len());
                self.pattern.check(operation.line as u64, operation.number, 0, plain)?;
            }
            Kind::Publish => ensure!(data.value().is_empty(), "MessageAck with a value"),
        }
        let now = Instant::now();
        self.meter.done(operation.due, now, self.args.payload);
        self.start(net, operation.line, now)
    }
}

/// A payload as it was before it became base64.
fn decode<'a>(plain: &'a mut Vec<u8>, encoded: &[u8]) -> Result<&'a [u8]> {
    plain.clear();
    ensure!(base64::decode_to(plain, encoded), "malformed base64");
    Ok(plain)
}

impl Scenario for Exchange {
    fn ready(&mut self, net: &mut Net, key: usize) -> Result<()> {
        self.crew.ready(net, key)
    }

    fn event(&mut self, net: &mut Net, key: usize, event: Event<&[u8]>) -> Result<()> {
        match (self.kind, event) {
            (Kind::Call, Event::Request(asked)) | (Kind::Publish, Event::Message(asked)) => {
                self.serve(net, key, &asked)
            }
            (Kind::Call, Event::Response { packet, data, .. })
            | (Kind::Publish, Event::Acked { packet, data, .. }) => self.answered(net, key, packet, &data),
            (_, event) => bail!("unexpected {event:?}"),
        }
    }

    fn turn(&mut self, net: &mut Net, now: Instant) -> Result<Next> {
        if self.crew.complete(net)? {
            self.begin(net, now)?;
        }
        if self.meter.tick(now)? {
            return Ok(Next::Done);
        }
        Ok(Next::Wait(Duration::from_millis(5)))
    }
}
