//! Small calls at a fixed rate while the same edge and service exchange calls of megabytes, fragment by fragment.
//!
//! A big call carries its size there and back. Senders keep to the credit of their receiver and put one fragment behind what waits for
//! the socket, so that small frames of the load never queue behind more than one of its own fragments. Paced, every fragment of either
//! direction draws on one allowance of bytes per second; without a pace the next goes as soon as there is room and credit.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use frontier_wire::native::{
    frame::{Flags, FrameType, INITIAL_CREDIT, MAX_BODY_FRAME},
    head::{CallBuilder, Credit, ReplyBuilder, ReplyHead},
    reader::Frame,
};

use super::{
    crew::{Crew, METHOD, Target},
    drive::{Next, Scenario},
    meter::Meter,
    native::{Native, Net},
    pattern::Pattern,
    peer::{Lane, header},
};
use crate::{hist::Hist, sample::Sample};

/// Received bytes of a body that are credited at once: half of what may be under way, so that the sender never runs dry.
const CREDIT: u64 = INITIAL_CREDIT as u64 / 2;
/// Lines of the two kinds of payload, see [`Pattern`].
const SMALL: u64 = 0;
const BIG: u64 = 1;
/// Bytes of a small payload.
const SMALL_LEN: usize = 64;
/// What a pause may save up, in bytes: two fragments.
const BURST: f64 = 2.0 * MAX_BODY_FRAME as f64;

/// How much of each.
#[derive(Args, Clone, Debug)]
pub struct BesideArgs {
    /// Small calls per second; 0 = none.
    #[arg(long, default_value_t = 1_000.0)]
    pub small_rate: f64,
    /// Big calls in flight; 0 = none.
    #[arg(long, default_value_t = 2)]
    pub big: usize,
    /// Bytes of a big call, there and back.
    #[arg(long, default_value_t = 8 << 20)]
    pub big_size: u64,
    /// Bytes per second of big calls, both directions together; as fast as they go if not given.
    #[arg(long)]
    pub big_rate: Option<f64>,
}

/// A body that is being sent.
#[derive(Debug)]
struct Upload {
    kind: FrameType,
    id: u64,
    number: u64,
    sent: u64,
    credit: u64,
}

/// A body that is being received.
#[derive(Debug, Default)]
struct Download {
    number: u64,
    received: u64,
    uncredited: u64,
}

/// One end of the exchange.
#[derive(Debug, Default)]
struct End {
    key: usize,
    uploads: VecDeque<Upload>,
    downloads: HashMap<u64, Download>,
}

/// Bytes per second as an allowance.
#[derive(Debug)]
struct Allowance {
    rate: f64,
    /// Negative after a fragment that was more than there was.
    bytes: f64,
    at: Instant,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Beside {
    args: BesideArgs,
    crew: Crew,
    meter: Meter,
    big_hist: Hist,
    big_bytes: u64,
    pattern: Pattern,
    edge: End,
    service: End,
    small: HashMap<u64, (u64, Instant)>,
    small_number: u64,
    small_next: Option<Instant>,
    /// Big calls by ID: number and start.
    big: HashMap<u64, (u64, Instant)>,
    big_number: u64,
    allowance: Option<Allowance>,
}

// === impl Beside ===

impl Beside {
    /// Runs one exchange.
    ///
    /// # Errors
    /// If anybody is lost, answers wrongly or not at all.
    pub fn run(args: &BesideArgs, target: &Target) -> Result<Sample> {
        ensure!(args.big_size > u64::from(MAX_BODY_FRAME), "a big call has more than one fragment");
        let mut scenario = Self {
            args: args.clone(),
            crew: Crew::new(target.clone(), 1),
            meter: Meter::new(target.plan())?,
            big_hist: Hist::new()?,
            big_bytes: 0,
            pattern: Pattern::new(),
            edge: End::default(),
            service: End::default(),
            small: HashMap::new(),
            small_number: 0,
            small_next: None,
            big: HashMap::new(),
            big_number: 0,
            allowance: None,
        };
        Net::new()?.run(&mut scenario, target.limit())?;
        let big = scenario.big_hist.quantiles();
        let mut sample = scenario.meter.into_sample();
        sample.set("big_calls", big.count as f64);
        sample.set("big_p50", big.p50);
        sample.set("big_p99", big.p99);
        sample.set("big_bytes_per_second", scenario.big_bytes as f64 / sample.seconds.max(1e-9));
        Ok(sample)
    }

    fn begin(&mut self, net: &mut Net, now: Instant) -> Result<()> {
        self.edge.key = self.crew.edge(0)?;
        self.service.key = self.crew.service_of(0)?;
        self.meter.start(now);
        if self.args.small_rate > 0.0 {
            self.small_next = Some(now);
        }
        self.allowance = self.args.big_rate.map(|rate| Allowance { rate, bytes: 0.0, at: now });
        for _ in 0..self.args.big {
            self.start_big(net);
        }
        net.want_room(self.edge.key, true);
        net.want_room(self.service.key, true);
        Ok(())
    }

    fn start_big(&mut self, net: &mut Net) {
        let id = net.conn(self.edge.key).speech.fresh_id();
        let number = self.big_number;
        self.big_number += 1;
        self.big.insert(id, (number, Instant::now()));
        self.edge.uploads.push_back(Upload::new(FrameType::Request, id, number));
    }

    fn start_small(&mut self, net: &mut Net, due: Instant) -> Result<()> {
        let id = net.conn(self.edge.key).speech.fresh_id();
        let number = self.small_number;
        self.small_number += 1;
        self.small.insert(id, (number, due));
        ensure!(self.small.len() < 100_000, "the rate of small calls cannot be held");
        let mut head = Vec::new();
        CallBuilder::new(METHOD).encode(&mut head);
        let body = self.pattern.piece(SMALL, number, 0, SMALL_LEN);
        net.send(self.edge.key, Lane::Session, header(FrameType::Request, id), &head, body)
    }

    /// Sends one fragment if one may go.
    fn pump(&mut self, net: &mut Net, key: usize) -> Result<()> {
        let size = self.args.big_size;
        let end = if key == self.edge.key { &mut self.edge } else { &mut self.service };
        if self.allowance.as_ref().is_some_and(|allowance| allowance.bytes < 0.0)
            || !net.conn(key).speech.peer.has_room(Lane::Session, MAX_BODY_FRAME as usize + 64)
        {
            return Ok(());
        }
        let Some(at) = end.uploads.iter().position(|upload| upload.credit > 0) else { return Ok(()) };
        let Some(mut upload) = end.uploads.remove(at) else { return Ok(()) };
        let len = upload.credit.min(size - upload.sent).min(MAX_BODY_FRAME.into()) as usize;
        let last = upload.sent + len as u64 == size;
        let head = if upload.sent == 0 { first_head(upload.kind, size) } else { Vec::new() };
        let flags = if last { Flags::NONE } else { Flags::MORE };
        let body = self.pattern.piece(BIG, upload.number, upload.sent, len);
        net.send(key, Lane::Session, header(upload.kind, upload.id).with_flags(flags), &head, body)?;
        upload.sent += len as u64;
        upload.credit -= len as u64;
        if let Some(allowance) = &mut self.allowance {
            allowance.bytes -= len as f64;
        }
        if !last {
            end.uploads.push_back(upload);
        }
        Ok(())
    }

    /// A fragment of a big body; whether it was the last one.
    fn fragment(&mut self, net: &mut Net, key: usize, number: u64, frame: &Frame<&[u8]>) -> Result<bool> {
        let (end, flags) = if key == self.edge.key {
            (&mut self.edge, Flags::REPLY)
        } else {
            (&mut self.service, Flags::NONE)
        };
        let id = frame.header.id;
        let download = end.downloads.entry(id).or_insert_with(|| Download { number, ..Download::default() });
        self.pattern.check(BIG, download.number, download.received, &frame.body)?;
        download.received += frame.body.len() as u64;
        download.uncredited += frame.body.len() as u64;
        if self.meter.is_measuring() {
            self.big_bytes += frame.body.len() as u64;
        }
        if !frame.header.flags.more() {
            ensure!(download.received == self.args.big_size, "a big body of {} bytes", download.received);
            end.downloads.remove(&id);
            return Ok(true);
        }
        if download.uncredited >= CREDIT {
            let credit = Credit { bytes: u32::try_from(download.uncredited)? };
            download.uncredited = 0;
            let mut head = Vec::new();
            credit.encode(&mut head);
            net.send(key, Lane::Session, header(FrameType::Credit, id).with_flags(flags), &head, &[])?;
        }
        Ok(false)
    }

    fn request(&mut self, net: &mut Net, key: usize, frame: &Frame<&[u8]>) -> Result<()> {
        let id = frame.header.id;
        if !frame.header.flags.more() && !self.service.downloads.contains_key(&id) {
            return net.send(key, Lane::Session, header(FrameType::Response, id), &[], &frame.body);
        }
        let number = match self.service.downloads.get(&id) {
            Some(download) => download.number,
            None => super::pattern::read_stamp(&frame.body).context("a first fragment without a stamp")?.1,
        };
        if self.fragment(net, key, number, frame)? {
            self.service.uploads.push_back(Upload::new(FrameType::Response, id, number));
            net.touch(key);
        }
        Ok(())
    }

    fn response(&mut self, net: &mut Net, key: usize, frame: &Frame<&[u8]>) -> Result<()> {
        let id = frame.header.id;
        if let Some(error) = ReplyHead::parse(&frame.head)?.error {
            bail!("operation failed: {:?} {}", error.code, error.text);
        }
        if let Some((number, due)) = self.small.remove(&id) {
            ensure!(frame.body.len() == SMALL_LEN, "answer of {} bytes", frame.body.len());
            self.pattern.check(SMALL, number, 0, &frame.body)?;
            self.meter.done(due, Instant::now(), SMALL_LEN);
            return Ok(());
        }
        let &(number, start) =
            self.big.get(&id).with_context(|| format!("answer to {id}, which is not open"))?;
        if self.fragment(net, key, number, frame)? {
            self.big.remove(&id);
            if self.meter.is_measuring() {
                self.big_hist.record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
            self.start_big(net);
            net.touch(key);
        }
        Ok(())
    }

    fn credit(&mut self, key: usize, frame: &Frame<&[u8]>) -> Result<()> {
        let credit = Credit::parse(&frame.head)?;
        let end = if key == self.edge.key { &mut self.edge } else { &mut self.service };
        // It may cross the last fragment.
        if let Some(upload) = end.uploads.iter_mut().find(|upload| upload.id == frame.header.id) {
            upload.credit += u64::from(credit.bytes);
        }
        Ok(())
    }
}

impl Scenario<Native> for Beside {
    fn ready(&mut self, net: &mut Net, key: usize) -> Result<()> {
        self.crew.ready(net, key)
    }

    fn heard(&mut self, net: &mut Net, key: usize, (_, frame): (Lane, Frame<&[u8]>)) -> Result<()> {
        let frame = &frame;
        match frame.header.kind {
            FrameType::Request => self.request(net, key, frame),
            FrameType::Response => self.response(net, key, frame),
            FrameType::Credit => self.credit(key, frame),
            kind => bail!("unexpected {}", kind.name()),
        }
    }

    fn room(&mut self, net: &mut Net, key: usize) -> Result<()> {
        self.pump(net, key)
    }

    fn turn(&mut self, net: &mut Net, now: Instant) -> Result<Next> {
        if self.crew.complete(net)? {
            self.begin(net, now)?;
        }
        while let Some(due) = self.small_next.filter(|due| *due <= now) {
            self.start_small(net, due)?;
            self.small_next = Some(due + Duration::from_secs_f64(1.0 / self.args.small_rate));
        }
        if let Some(allowance) = &mut self.allowance
            && allowance.refill(now)
        {
            net.touch(self.edge.key);
            net.touch(self.service.key);
        }
        if self.meter.tick(now)? {
            return Ok(Next::Done);
        }
        let paced = self.small_next.is_some() || self.allowance.is_some();
        Ok(Next::Wait(if paced { Duration::ZERO } else { Duration::from_millis(5) }))
    }
}

// === impl Upload ===

impl Upload {
    const fn new(kind: FrameType, id: u64, number: u64) -> Self {
        Self { kind, id, number, sent: 0, credit: INITIAL_CREDIT as u64 }
    }
}

// === impl Allowance ===

impl Allowance {
    /// Whether a fragment may go again that could not before.
    fn refill(&mut self, now: Instant) -> bool {
        let before = self.bytes;
        self.bytes = (self.bytes + self.rate * (now - self.at).as_secs_f64()).min(BURST);
        self.at = now;
        before < 0.0 && self.bytes >= 0.0
    }
}

/// The head of a first fragment.
fn first_head(kind: FrameType, size: u64) -> Vec<u8> {
    let mut head = Vec::new();
    match kind {
        FrameType::Request => CallBuilder::new(METHOD).total_len(size).encode(&mut head),
        _ => ReplyBuilder::new().total_len(size).encode(&mut head),
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_pays_its_debt_and_saves_no_more_than_a_burst() {
        let start = Instant::now();
        let mut allowance = Allowance { rate: 1_000_000.0, bytes: -65_536.0, at: start };
        assert!(!allowance.refill(start + Duration::from_millis(60)));
        assert!(allowance.refill(start + Duration::from_millis(70)));
        assert!(!allowance.refill(start + Duration::from_secs(9)));
        assert!((allowance.bytes - BURST).abs() < 1.0);
    }
}
