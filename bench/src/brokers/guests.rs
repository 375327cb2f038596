//! Connections that greet and then do nothing, in dialects that need no state: what they cost to come up and to be held.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

use super::mqtt;
use crate::{
    hist::Hist,
    net::{self, Poller},
    proc::{self, Snapshot},
    sample::Sample,
};

/// Longest answer that is waited for in bytes; nats-server's INFO has about 400.
const LONGEST: usize = 4_096;
/// What a guest of nats-server says.
const NATS_HELLO: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\"}\r\nPING\r\n";
/// Memory is steady when two readings so far apart differ by less than a five-hundredth.
const STEADY_FOR: Duration = Duration::from_secs(2);
/// It need not become steady.
const SETTLE: Duration = Duration::from_secs(20);

/// Who is greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// nats-server: CONNECT and PING, answered by PONG. It pings after two minutes, which is longer than guests stay.
    Nats,
    /// mosquitto: CONNECT without keep-alive, answered by CONNACK.
    Mqtt,
}

/// Arguments of a crowd of guests.
#[derive(Args, Clone, Debug)]
pub struct GuestsArgs {
    /// Who is greeted.
    #[arg(long)]
    pub dialect: Dialect,
    /// Where.
    #[arg(long)]
    pub server: SocketAddr,
    /// Guests in all.
    #[arg(long, default_value_t = 9_000)]
    pub guests: usize,
    /// Of them, guests that come before anything counts.
    #[arg(long, default_value_t = 100)]
    pub warm: usize,
    /// Guests on their way at once.
    #[arg(long, default_value_t = 64)]
    pub concurrency: usize,
    /// Guests from one address before the next is used.
    #[arg(long, default_value_t = 5_000)]
    pub per_source: usize,
    /// Hold all guests until the server's memory is steady.
    #[arg(long)]
    pub hold: bool,
    /// Processes whose CPU time and memory are the server's.
    #[arg(long = "server-pid")]
    pub servers: Vec<u32>,
    /// The CPU to run on.
    #[arg(long)]
    pub pin: Option<usize>,
}

#[derive(Debug)]
struct Guest {
    socket: TcpStream,
    dialled: Instant,
    hello: Vec<u8>,
    got: Vec<u8>,
    up: bool,
}

/// The guests and their sockets.
#[derive(Debug)]
struct Crowd<'a> {
    args: &'a GuestsArgs,
    poller: Poller,
    guests: Vec<Guest>,
    up: usize,
    hist: Hist,
    buffer: Box<[u8]>,
}

/// Brings all guests up and, if asked to, holds them.
///
/// # Errors
/// If one is refused or lost, or not all come up within a minute.
pub fn run(args: &GuestsArgs) -> Result<Sample> {
    ensure!(args.warm < args.guests && args.concurrency > 0 && args.per_source > 0, "no guests to measure");
    let mut crowd = Crowd {
        args,
        poller: Poller::new()?,
        guests: Vec::new(),
        up: 0,
        hist: Hist::new()?,
        buffer: vec![0; LONGEST].into_boxed_slice(),
    };
    crowd.bring(args.warm)?;
    crowd.hist.clear();
    let rss_before = rss(&args.servers)?;
    let (start, since) = (Snapshot::take(&args.servers)?, Instant::now());
    crowd.bring(args.guests)?;
    let seconds = since.elapsed().as_secs_f64();
    let used = start.until(&Snapshot::take(&args.servers)?);
    let counted = args.guests - args.warm;
    let mut sample = Sample {
        ops: counted as u64,
        seconds,
        server_nanos: used.servers,
        load_nanos: used.own,
        steal: used.steal,
        latency: crowd.hist.quantiles(),
        ..Sample::default()
    };
    if args.hold {
        let rss_after = crowd.settle()?;
        sample.set("rss_before", rss_before as f64);
        sample.set("rss_after", rss_after as f64);
        sample.set("bytes_per_edge", (rss_after as f64 - rss_before as f64) / counted as f64);
    }
    Ok(sample)
}

fn rss(servers: &[u32]) -> Result<u64> {
    servers.iter().map(|pid| Ok(proc::memory(*pid)?.rss)).sum()
}

// === impl Crowd ===

impl Crowd<'_> {
    /// Until so many are up.
    fn bring(&mut self, goal: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.up < goal {
            while self.guests.len() < goal && self.guests.len() - self.up < self.args.concurrency {
                self.dial()?;
            }
            ensure!(Instant::now() < deadline, "{} of {goal} up after a minute", self.up);
            self.turn(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn dial(&mut self) -> Result<()> {
        let index = self.guests.len();
        let step = u32::try_from(index / self.args.per_source)?;
        let from = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + step);
        let dialled = Instant::now();
        let socket = net::dial(self.args.server, Some(IpAddr::V4(from)))?;
        net::reset_on_close(&socket)?;
        self.poller.add(&socket, index as u64, net::SOCKET)?;
        let hello = match self.args.dialect {
            Dialect::Nats => NATS_HELLO.to_vec(),
            Dialect::Mqtt => mqtt::connect(&format!("edge-{index}")),
        };
        self.guests.push(Guest { socket, dialled, hello, got: Vec::new(), up: false });
        Ok(())
    }

    fn turn(&mut self, timeout: Duration) -> Result<()> {
        self.poller.wait(Some(timeout))?;
        for at in 0..self.poller.len() {
            let ready = self.poller.event(at);
            let guest = &mut self.guests[ready.token as usize];
            if ready.writable && !guest.hello.is_empty() {
                let hello = std::mem::take(&mut guest.hello);
                let written = guest.socket.write(&hello)?;
                ensure!(written == hello.len(), "a fresh socket took {written} bytes");
            }
            if ready.readable
                && guest.read(&mut self.buffer)?
                && !guest.up
                && self.args.answered(&guest.got)?
            {
                guest.up = true;
                guest.got = Vec::new();
                self.up += 1;
                self.hist.record(u64::try_from(guest.dialled.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }

    /// The server's memory once it is steady.
    fn settle(&mut self) -> Result<u64> {
        let start = Instant::now();
        let mut before = rss(&self.args.servers)?;
        loop {
            let look = Instant::now() + STEADY_FOR;
            while Instant::now() < look {
                self.turn(Duration::from_millis(100))?;
            }
            let after = rss(&self.args.servers)?;
            if after.abs_diff(before) <= before / 500 || start.elapsed() > SETTLE {
                return Ok(after);
            }
            before = after;
        }
    }
}

// === impl Guest ===

impl Guest {
    /// Reads all there is; whether there was anything. What comes after the answer is dropped.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut any = false;
        loop {
            match self.socket.read(buffer) {
                Ok(0) => bail!("a guest was shown out"),
                Ok(n) => {
                    any = true;
                    if !self.up {
                        self.got.extend_from_slice(&buffer[..n]);
                        ensure!(self.got.len() <= LONGEST, "an answer without end");
                    }
                    if n < buffer.len() {
                        return Ok(any);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("a guest broke"),
            }
        }
    }
}

// === impl GuestsArgs ===

impl GuestsArgs {
    /// Whether this is the whole answer.
    fn answered(&self, got: &[u8]) -> Result<bool> {
        match self.dialect {
            Dialect::Nats => {
                ensure!(
                    !got.windows(4).any(|w| w == b"-ERR"),
                    "nats-server: {}",
                    String::from_utf8_lossy(got)
                );
                Ok(got.ends_with(b"PONG\r\n"))
            }
            Dialect::Mqtt => mqtt::is_welcome(got),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::*;
    use crate::relay::Greeter;

    fn args(dialect: Dialect, server: SocketAddr) -> GuestsArgs {
        GuestsArgs {
            dialect,
            server,
            guests: 60,
            warm: 10,
            concurrency: 8,
            per_source: 25,
            hold: false,
            servers: vec![std::process::id()],
            pin: None,
        }
    }

    #[test]
    fn guests_come_up_and_are_counted() {
        let answer = b"INFO {}\r\nPONG\r\n".to_vec();
        let mut greeter = Greeter::bind("127.0.0.1:0".parse().unwrap(), NATS_HELLO.len(), answer).unwrap();
        let addr = greeter.addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let serving = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                greeter.turn(Some(Duration::from_millis(5))).unwrap();
            }
        });
        let sample = run(&args(Dialect::Nats, addr)).unwrap();
        over.store(true, Ordering::Relaxed);
        serving.join().unwrap();
        assert_eq!((sample.ops, sample.latency.count), (50, 50));
    }

    #[test]
    fn answers_are_told_from_beginnings_and_refusals() {
        let addr = "127.0.0.1:1".parse().unwrap();
        let nats = args(Dialect::Nats, addr);
        assert!(!nats.answered(b"INFO {}\r\nPO").unwrap());
        assert!(nats.answered(b"INFO {}\r\nPONG\r\n").unwrap());
        assert!(nats.answered(b"-ERR 'maximum connections exceeded'\r\n").is_err());
        let mqtt = args(Dialect::Mqtt, addr);
        assert!(!mqtt.answered(&[0x20, 2, 0]).unwrap());
        assert!(mqtt.answered(&[0x20, 2, 0, 0]).unwrap());
        assert!(mqtt.answered(&[0x20, 2, 0, 5]).is_err());
    }
}
