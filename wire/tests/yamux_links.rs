//! Two of our own yamux sides with the writer of the native protocol, over links that are full both ways.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use frontier_wire::yamux::{Config, Event, Role, START_WINDOW, StreamId};
use proptest::{collection::vec, prelude::*};

#[path = "yamux_driver/connection.rs"]
mod connection;

use connection::Connection;

const MIB: usize = 1 << 20;

fn pair() -> (Connection, Connection) {
    let config = Config::default();
    (Connection::new(Role::Client, &config), Connection::new(Role::Server, &config))
}

/// A client with so many streams, and the server that has accepted them.
fn pair_with(streams: usize) -> (Connection, Connection, Vec<StreamId>) {
    let (mut a, mut b) = pair();
    let streams = (0..streams).map(|_| a.open().unwrap()).collect();
    exchange(&mut a, &mut b);
    (a, b, streams)
}

/// Takes at most `n` bytes of what there is to write.
fn take(from: &mut Connection, budget: usize, n: usize) -> Vec<u8> {
    from.fill(budget);
    let mut slices = Vec::new();
    from.slices(&mut slices, usize::MAX);
    let mut bytes = Vec::new();
    for slice in &slices {
        bytes.extend_from_slice(&slice[..slice.len().min(n - bytes.len())]);
    }
    from.written(bytes.len());
    bytes
}

/// Carries everything both ways until nothing moves; returns what the second side saw.
fn exchange(a: &mut Connection, b: &mut Connection) -> Vec<Event<Bytes>> {
    let mut seen = Vec::new();
    loop {
        let there = carry(a, b);
        let back = carry(b, a);
        if there.is_empty() && back.is_empty() && a.sending() + b.sending() == 0 {
            return seen;
        }
        seen.extend(there);
    }
}

fn carry(from: &mut Connection, to: &mut Connection) -> Vec<Event<Bytes>> {
    let mut bytes = Bytes::from(take(from, usize::MAX, usize::MAX));
    let mut events = Vec::new();
    while let Some(event) = to.receive(&mut bytes).unwrap() {
        events.push(event);
    }
    events
}

/// (stream, payload length) of frames, and what is no data as length 0.
fn frames(mut bytes: &[u8]) -> Vec<(u32, usize)> {
    let mut all = Vec::new();
    while bytes.has_remaining() {
        let kind = bytes.get_u16();
        let _flags = bytes.get_u16();
        let (stream, len) = (bytes.get_u32(), bytes.get_u32() as usize);
        let len = if kind == 0 { len } else { 0 };
        bytes.advance(len);
        all.push((stream, len));
    }
    all
}

fn bytes(len: usize) -> Bytes {
    vec![7; len].into()
}

#[test]
fn streams_take_turns_and_control_goes_first() {
    let (mut a, _, streams) = pair_with(3);
    for (&stream, len) in streams.iter().zip([128 * 1024, 100, 70_000]) {
        a.write(stream, &mut bytes(len)).unwrap();
    }
    a.open().unwrap();
    let expected = [(7, 0), (1, 65_536), (3, 100), (5, 65_536), (1, 65_536), (5, 4464)];
    assert_eq!(frames(&take(&mut a, usize::MAX, usize::MAX)), expected);
    assert_eq!(a.queued_bytes(), 0);
}

#[test]
fn a_stream_without_window_waits_without_holding_up_others() {
    let (mut a, mut b, streams) = pair_with(2);
    let mut sent = 0;
    while sent < START_WINDOW as usize + 1000 {
        sent += a.write(streams[0], &mut bytes(50_000)).unwrap();
        carry(&mut a, &mut b);
    }
    assert_eq!(a.queued_bytes(), sent - START_WINDOW as usize);
    assert!(take(&mut a, usize::MAX, usize::MAX).is_empty(), "what cannot be sent is no output");
    a.write(streams[1], &mut bytes(10)).unwrap();
    assert_eq!(exchange(&mut a, &mut b).len(), 1);
    b.engine_mut().release(streams[0], START_WINDOW);
    assert!(!exchange(&mut b, &mut a).is_empty());
    assert_eq!(a.queued_bytes(), 0);
}

#[test]
fn an_end_waits_for_the_window_like_the_data_before_it() {
    let (mut a, mut b, streams) = pair_with(1);
    let stream = streams[0];
    for _ in 0..3 {
        a.write(stream, &mut bytes(100_000)).unwrap();
        carry(&mut a, &mut b);
    }
    a.finish(stream);
    assert!(!carry(&mut a, &mut b).contains(&Event::Finished { stream }));
    b.engine_mut().release(stream, 200_000);
    carry(&mut b, &mut a);
    assert_eq!(carry(&mut a, &mut b).last(), Some(&Event::Finished { stream }));
}

#[test]
fn a_reset_drops_what_waits_on_either_side() {
    let (mut a, mut b, streams) = pair_with(2);
    for side in [&mut a, &mut b] {
        for &stream in &streams {
            side.write(stream, &mut bytes(1000)).unwrap();
        }
    }
    assert!(a.reset(streams[1]));
    assert_eq!(carry(&mut a, &mut b)[0], Event::Reset { stream: streams[1] });
    assert_eq!(b.queued_bytes(), 1000);
    assert_eq!(exchange(&mut b, &mut a).len(), 1);
    assert_eq!((a.queued_bytes(), b.queued_bytes()), (0, 0));
}

/// One side of a connection over a small link, which sends and receives as much as it can.
struct Side {
    connection: Connection,
    /// Bytes on their way to this side.
    link: Vec<u8>,
    to_send: BTreeMap<StreamId, usize>,
    received: BTreeMap<StreamId, usize>,
    finished: usize,
}

const LINK: usize = 4096;

impl Side {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            link: Vec::new(),
            to_send: BTreeMap::new(),
            received: BTreeMap::new(),
            finished: 0,
        }
    }

    fn byte(stream: StreamId, at: usize) -> u8 {
        (at / 3 + stream.get() as usize) as u8
    }

    /// Queues as much as fits.
    fn fill(&mut self, total: usize) {
        for (&stream, sent) in &mut self.to_send {
            let n = self.connection.room(stream).min(total - *sent);
            if n > 0 {
                let payload: Vec<u8> = (*sent..*sent + n).map(|at| Self::byte(stream, at)).collect();
                assert_eq!(self.connection.write(stream, &mut payload.into()), Ok(n));
                *sent += n;
                if *sent == total {
                    self.connection.finish(stream);
                }
            }
        }
    }

    /// Writes what the other side's link has room for, at most `n` bytes; whether anything moved.
    fn write(&mut self, link: &mut Vec<u8>, n: usize) -> bool {
        let bytes = take(&mut self.connection, 16 * 1024, n.min(LINK - link.len()));
        link.extend_from_slice(&bytes);
        !bytes.is_empty()
    }

    /// Reads at most `n` bytes; whether anything moved.
    fn read(&mut self, n: usize) -> bool {
        let mut bytes: Bytes = self.link.drain(..n.min(self.link.len())).collect::<Vec<_>>().into();
        let moved = !bytes.is_empty();
        while let Some(event) = self.connection.receive(&mut bytes).unwrap() {
            match event {
                Event::Opened { stream } => {
                    self.to_send.insert(stream, 0);
                }
                Event::Data { stream, payload } => {
                    let at = self.received.entry(stream).or_default();
                    for byte in &payload {
                        assert_eq!(*byte, Self::byte(stream, *at));
                        *at += 1;
                    }
                    self.connection.engine_mut().release(stream, payload.len() as u32);
                }
                Event::Finished { .. } => self.finished += 1,
                Event::Accepted { .. } | Event::Window { .. } | Event::Pong { .. } => {}
                Event::Reset { .. } | Event::GoAway { .. } => panic!("unexpected {event:?}"),
            }
        }
        moved
    }
}

/// Both sides send `total` bytes on each of `streams` streams, moving bytes in steps as given.
fn run_full(streams: usize, total: usize, steps: &[(usize, usize, bool)]) -> [Side; 2] {
    let (a, b) = pair();
    let (mut a, mut b) = (Side::new(a), Side::new(b));
    for side in [&mut a, &mut b] {
        for _ in 0..streams / 2 {
            let stream = side.connection.open().unwrap();
            side.to_send.insert(stream, 0);
        }
    }
    let mut still = 0;
    for (at, &(writes, reads, ping)) in steps.iter().cycle().enumerate() {
        let (me, other) = if at % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        me.fill(total);
        let done = me.finished == streams && other.finished == streams;
        if ping && !done {
            me.connection.engine_mut().ping(at as u32);
        }
        let moved = me.write(&mut other.link, writes) | me.read(reads);
        still = if moved { 0 } else { still + 1 };
        if done && still > 2 {
            break;
        }
        assert!(still < 8, "stalled after {at} steps");
    }
    [a, b]
}

#[test]
fn small_links_full_both_ways_never_stall() {
    let steps = [(LINK, LINK, true), (LINK, LINK, true), (1, 12, false), (13, 1, false), (100, LINK, true)];
    let [a, b] = run_full(8, MIB, &steps);
    for side in [a, b] {
        assert!(side.received.len() == 8 && side.received.values().all(|&n| n == MIB));
        assert_eq!(side.connection.held_bytes(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_of_small_links_stalls(
        steps in vec((1usize..=LINK, 1usize..=LINK, any::<bool>()), 1..20),
        streams in 1usize..4,
    ) {
        for side in run_full(2 * streams, 400_000, &steps) {
            prop_assert_eq!(side.received.len(), 2 * streams);
            prop_assert!(side.received.values().all(|&n| n == 400_000));
            prop_assert_eq!((side.connection.engine().streams(), side.connection.held_bytes()), (0, 0));
        }
    }
}
