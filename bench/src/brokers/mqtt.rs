//! As much MQTT 3.1.1 as is measured: CONNECT, SUBSCRIBE, PUBLISH at QoS 1 and their answers.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::{
    load::{
        meter::{Meter, Plan},
        pattern::{Pattern, read_stamp},
    },
    net::{self, Poller},
    sample::Sample,
};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
/// QoS 1.
const PUBLISH: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const TOPIC: &str = "load";
/// Longest packet taken in bytes.
const LONGEST: usize = 1 << 20;

/// Arguments of the message load: one publisher, one subscriber.
#[derive(Args, Clone, Debug)]
pub struct MqttArgs {
    /// Where mosquitto listens.
    #[arg(long)]
    pub server: SocketAddr,
    /// Messages in flight.
    #[arg(long, default_value_t = 64)]
    pub in_flight: usize,
    /// Bytes of payload, at least 16.
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// Seconds of load before anything counts.
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Processes whose CPU time is the server's.
    #[arg(long = "server-pid")]
    pub servers: Vec<u32>,
    /// The CPU to run on.
    #[arg(long)]
    pub pin: Option<usize>,
}

/// A connection with its buffers.
#[derive(Debug)]
struct Client {
    socket: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// A whole packet: its first byte and what follows the length.
#[derive(Debug, PartialEq, Eq)]
struct Packet<'a> {
    kind: u8,
    rest: &'a [u8],
}

/// Publisher, subscriber and what is between them.
#[derive(Debug)]
struct Session<'a> {
    args: &'a MqttArgs,
    meter: Meter,
    pattern: Pattern,
    publisher: Client,
    subscriber: Client,
    /// Starts of what is not acknowledged: mosquitto acknowledges in order.
    open: VecDeque<(u16, Instant)>,
    /// The packet that was started last; its number goes on where the 16 bits of its ID begin anew.
    started: u64,
    arrived: u64,
    greeted: usize,
}

/// Runs the load.
///
/// # Errors
/// If a client is refused, or a message is lost, out of order or wrong.
pub fn run(args: &MqttArgs) -> Result<Sample> {
    ensure!((1..=1_000).contains(&args.in_flight), "1 to 1,000 messages in flight");
    ensure!((16..=65_536).contains(&args.payload), "a payload has 16 to 65,536 bytes");
    let plan = Plan {
        warmup: Duration::from_secs_f64(args.warmup),
        measure: Duration::from_secs_f64(args.seconds),
        servers: args.servers.clone(),
    };
    let mut session = Session {
        args,
        meter: Meter::new(plan)?,
        pattern: Pattern::new(),
        publisher: Client::dial(args.server, "publisher")?,
        subscriber: Client::dial(args.server, "subscriber")?,
        open: VecDeque::new(),
        started: 0,
        arrived: 0,
        greeted: 0,
    };
    session.run(Duration::from_secs_f64(args.warmup + args.seconds + 30.0))?;
    let mut sample = session.meter.into_sample();
    sample.set("arrived", session.arrived as f64);
    Ok(sample)
}

// === impl Session ===

impl Session<'_> {
    fn run(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut poller = Poller::new()?;
        poller.add(&self.publisher.socket, 0, net::SOCKET)?;
        poller.add(&self.subscriber.socket, 1, net::SOCKET)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            poller.wait(Some(Duration::from_millis(5)))?;
            for at in 0..poller.len() {
                let ready = poller.event(at);
                if ready.readable {
                    let mine = if ready.token == 0 { &mut self.publisher } else { &mut self.subscriber };
                    mine.read(&mut buffer)?;
                }
            }
            self.serve_subscriber()?;
            self.serve_publisher()?;
            self.publisher.write()?;
            self.subscriber.write()?;
            let now = Instant::now();
            if self.meter.tick(now)? {
                return Ok(());
            }
            ensure!(now < deadline, "not done after {limit:?}");
        }
    }

    fn serve_subscriber(&mut self) -> Result<()> {
        let input = std::mem::take(&mut self.subscriber.input);
        let mut left = input.as_slice();
        while let Some(packet) = take(&mut left)? {
            match packet.kind {
                CONNACK => {
                    is_accepted(packet.rest)?;
                    self.subscriber.output.extend(subscribe());
                }
                SUBACK => {
                    ensure!(packet.rest.get(2) == Some(&1), "the subscription was refused");
                    self.greeted += 1;
                }
                kind if kind & 0xf0 == PUBLISH & 0xf0 => {
                    let (id, payload) = published(packet.rest)?;
                    ensure!(
                        read_stamp(payload) == Some((0, self.arrived)),
                        "a message is missing or out of order"
                    );
                    self.pattern.check(0, self.arrived, 0, payload)?;
                    self.arrived += 1;
                    self.subscriber.output.extend(put(PUBACK, &id.to_be_bytes()));
                }
                kind => bail!("unexpected packet {kind:#x}"),
            }
        }
        self.subscriber.input = left.to_vec();
        Ok(())
    }

    fn serve_publisher(&mut self) -> Result<()> {
        let input = std::mem::take(&mut self.publisher.input);
        let mut left = input.as_slice();
        while let Some(packet) = take(&mut left)? {
            match (packet.kind, packet.rest) {
                (CONNACK, rest) => {
                    is_accepted(rest)?;
                    self.greeted += 1;
                }
                (PUBACK, &[high, low]) => {
                    let Some((id, start)) = self.open.pop_front() else {
                        bail!("an acknowledgement of nothing")
                    };
                    ensure!(id == u16::from_be_bytes([high, low]), "acknowledgements out of order");
                    self.meter.done(start, Instant::now(), self.args.payload);
                }
                (kind, _) => bail!("unexpected packet {kind:#x}"),
            }
        }
        self.publisher.input = left.to_vec();
        if self.greeted < 2 {
            return Ok(());
        }
        if self.started == 0 {
            self.meter.start(Instant::now());
        }
        while self.open.len() < self.args.in_flight {
            self.publish();
        }
        Ok(())
    }

    fn publish(&mut self) {
        // 1 to 65,535: 0 is no packet ID.
        let id = (self.started % 65_535) as u16 + 1;
        let payload = self.pattern.piece(0, self.started, 0, self.args.payload);
        let mut rest = text(TOPIC);
        rest.extend_from_slice(&id.to_be_bytes());
        rest.extend_from_slice(payload);
        self.publisher.output.extend(put(PUBLISH, &rest));
        self.started += 1;
        self.open.push_back((id, Instant::now()));
    }
}

// === impl Client ===

impl Client {
    fn dial(server: SocketAddr, name: &str) -> Result<Self> {
        let socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, input: Vec::new(), output: connect(name) })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => bail!("mosquitto closed the connection"),
                Ok(n) => {
                    self.input.extend_from_slice(&buffer[..n]);
                    if n < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(n) => {
                    self.output.drain(..n);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// CONNECT of a clean session without keep-alive.
#[must_use]
pub fn connect(client: &str) -> Vec<u8> {
    let mut rest = text("MQTT");
    // Level 4 is version 3.1.1; flag 2 is the clean session.
    rest.extend_from_slice(&[4, 2, 0, 0]);
    rest.extend(text(client));
    put(CONNECT, &rest)
}

/// Whether these bytes are a whole CONNACK.
///
/// # Errors
/// If they are one that refuses, or something else.
pub fn is_welcome(mut got: &[u8]) -> Result<bool> {
    let Some(packet) = take(&mut got)? else { return Ok(false) };
    ensure!(packet.kind == CONNACK, "packet {:#x} in place of CONNACK", packet.kind);
    is_accepted(packet.rest)?;
    Ok(true)
}

fn is_accepted(connack: &[u8]) -> Result<()> {
    ensure!(connack.get(1) == Some(&0), "CONNECT was refused: {connack:?}");
    Ok(())
}

fn subscribe() -> Vec<u8> {
    let mut rest = vec![0, 1];
    rest.extend(text(TOPIC));
    rest.push(1);
    put(SUBSCRIBE, &rest)
}

/// Packet ID and payload of a PUBLISH.
fn published(rest: &[u8]) -> Result<(u16, &[u8])> {
    let Some((&[high, low], rest)) = rest.split_first_chunk() else { bail!("PUBLISH without topic") };
    let Some(rest) = rest.get(usize::from(u16::from_be_bytes([high, low]))..) else { bail!("PUBLISH cut") };
    let Some((id, payload)) = rest.split_first_chunk() else { bail!("PUBLISH without ID") };
    Ok((u16::from_be_bytes(*id), payload))
}

fn text(text: &str) -> Vec<u8> {
    // All texts here are short.
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn put(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut len = rest.len();
    loop {
        let digit = (len % 128) as u8;
        len /= 128;
        bytes.push(if len > 0 { digit | 0x80 } else { digit });
        if len == 0 {
            break;
        }
    }
    bytes.extend_from_slice(rest);
    bytes
}

/// Cuts a whole packet off the front.
fn take<'a>(input: &mut &'a [u8]) -> Result<Option<Packet<'a>>> {
    let Some((&kind, mut rest)) = input.split_first() else { return Ok(None) };
    let mut len = 0_usize;
    for shift in [0, 7, 14, 21] {
        let Some((&digit, after)) = rest.split_first() else { return Ok(None) };
        rest = after;
        len |= usize::from(digit & 0x7f) << shift;
        if digit & 0x80 == 0 {
            ensure!(len <= LONGEST, "a packet of {len} bytes");
            let Some((body, after)) = rest.split_at_checked(len) else { return Ok(None) };
            *input = after;
            return Ok(Some(Packet { kind, rest: body }));
        }
    }
    bail!("a length of more than four digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_any_length_are_cut_where_they_end() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let packet = put(PUBLISH, &vec![7; len]);
            let mut two = [packet.clone(), packet.clone()].concat();
            two.pop();
            let mut left = two.as_slice();
            let first = take(&mut left).unwrap().unwrap();
            assert_eq!((first.kind, first.rest.len()), (PUBLISH, len));
            assert_eq!(take(&mut left).unwrap(), None);
            assert_eq!(left.len(), packet.len() - 1);
        }
        assert!(take(&mut [PUBLISH, 0xff, 0xff, 0xff, 0xff].as_slice()).is_err());
        assert!(take(&mut put(PUBLISH, &vec![0; LONGEST + 1]).as_slice()).is_err());
    }

    #[test]
    fn a_publish_is_read_as_it_was_written() {
        assert_eq!(published(&[0, 4, b'l', b'o', b'a', b'd', 1, 2, 9, 8]).unwrap(), (258, [9, 8].as_slice()));
        for cut in 0..8 {
            assert!(published(&[0, 4, b'l', b'o', b'a', b'd', 1, 2][..cut]).is_err());
        }
        assert_eq!(connect("ab")[..], [0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 2, b'a', b'b']);
    }
}
