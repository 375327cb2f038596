#![expect(clippy::arithmetic_side_effects, reason = "an overflow in a test is a failed test")]
#![expect(clippy::cast_possible_truncation, reason = "test payloads are small")]

use std::collections::BTreeMap;

use bytes::Buf;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::yamux::{HEADER_LEN, START_WINDOW};

const MIB: usize = 1 << 20;

fn pair(config: &Config) -> (Connection, Connection) {
    (Connection::new(Role::Client, config), Connection::new(Role::Server, config))
}

/// A client with so many streams, and the server that has accepted them.
fn pair_with(streams: usize) -> (Connection, Connection, Vec<StreamId>) {
    let (mut a, mut b) = pair(&Config::default());
    let streams = (0..streams).map(|_| a.open().unwrap()).collect();
    exchange(&mut a, &mut b);
    (a, b, streams)
}

/// Carries everything both ways until nothing moves; returns what the second side saw.
fn exchange(a: &mut Connection, b: &mut Connection) -> Vec<Event<Bytes>> {
    let mut seen = Vec::new();
    while a.has_output() || b.has_output() {
        seen.extend(carry(a, b));
        carry(b, a);
    }
    seen
}

fn carry(from: &mut Connection, to: &mut Connection) -> Vec<Event<Bytes>> {
    let mut batch = from.transmit(usize::MAX);
    let mut bytes = batch.copy_to_bytes(batch.len());
    let mut events = Vec::new();
    while let Some(event) = to.receive(&mut bytes).unwrap() {
        events.push(event);
    }
    events
}

/// (stream, payload length) of the frames in a batch, and ends of streams as length 0.
fn frames(batch: &mut Batch) -> Vec<(u32, usize)> {
    let mut all = Vec::new();
    while batch.has_remaining() {
        let kind = batch.get_u16();
        let _flags = batch.get_u16();
        let (stream, len) = (batch.get_u32(), batch.get_u32() as usize);
        if kind == 0 {
            batch.copy_to_bytes(len);
        }
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
    assert_eq!(frames(&mut a.transmit(usize::MAX)), expected);
    assert!(!a.has_output());
}

#[test]
fn small_writes_share_a_frame_and_frames_share_a_buffer() {
    let (mut a, _, streams) = pair_with(10);
    for _ in 0..100 {
        for &stream in &streams {
            a.write(stream, &mut bytes(10)).unwrap();
        }
    }
    let mut batch = a.transmit(usize::MAX);
    assert_eq!(batch.len(), 10 * (HEADER_LEN + 1000));
    assert_eq!(batch.chunk().len(), batch.len());
    assert_eq!(frames(&mut batch).len(), 10);
    assert_eq!((a.queued_bytes(), a.held_bytes()), (0, a.engine().held_bytes()));
}

#[test]
fn a_batch_ends_at_its_limit_or_one_frame_after_it() {
    let (mut a, _, streams) = pair_with(4);
    for &stream in &streams {
        a.write(stream, &mut bytes(100_000)).unwrap();
    }
    assert_eq!(frames(&mut a.transmit(1)), [(1, 65_536)]);
    assert_eq!(frames(&mut a.transmit(70_000)), [(3, 65_536), (5, 65_536)]);
    assert!(a.has_output());
    assert!(a.transmit(0).is_empty());
}

#[test]
fn a_full_buffer_takes_nothing_more() {
    let mut a = Connection::with_send_buffer(Role::Client, &Config::default(), 1000);
    let stream = a.open().unwrap();
    let mut data = bytes(1500);
    assert_eq!(a.write(stream, &mut data), Ok(1000));
    assert_eq!((data.len(), a.room(stream), a.queued_bytes()), (500, 0, 1000));
    assert_eq!(a.write(stream, &mut data), Ok(0));
    a.transmit(usize::MAX);
    assert_eq!(a.write(stream, &mut data), Ok(500));
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
    assert!(!a.has_output(), "what cannot be sent is no output");
    a.write(streams[1], &mut bytes(10)).unwrap();
    assert_eq!(exchange(&mut a, &mut b).len(), 1);
    b.release(streams[0], START_WINDOW);
    assert!(!exchange(&mut a, &mut b).is_empty());
    assert_eq!(a.queued_bytes(), 0);
}

#[test]
fn a_stream_ends_after_what_is_queued() {
    let (mut a, mut b, streams) = pair_with(1);
    let stream = streams[0];
    a.write(stream, &mut bytes(5)).unwrap();
    a.finish(stream).unwrap();
    assert_eq!(a.finish(stream), Err(SendError::Finished { stream }));
    assert_eq!(a.write(stream, &mut bytes(1)), Err(SendError::Finished { stream }));
    let seen = exchange(&mut a, &mut b);
    assert_eq!(seen, [Event::Data { stream, payload: bytes(5) }, Event::Finished { stream }]);
    b.write(stream, &mut bytes(7)).unwrap();
    b.finish(stream).unwrap();
    let seen = exchange(&mut b, &mut a);
    assert_eq!(seen, [Event::Data { stream, payload: bytes(7) }, Event::Finished { stream }]);
    assert_eq!(a.write(stream, &mut bytes(1)), Err(SendError::Closed { stream }));
    assert_eq!((a.held_bytes(), b.held_bytes()), (0, 0));
}

#[test]
fn an_end_waits_for_the_window_like_the_data_before_it() {
    let (mut a, mut b, streams) = pair_with(1);
    let stream = streams[0];
    for _ in 0..3 {
        a.write(stream, &mut bytes(100_000)).unwrap();
        carry(&mut a, &mut b);
    }
    a.finish(stream).unwrap();
    assert!(!carry(&mut a, &mut b).contains(&Event::Finished { stream }));
    b.release(stream, 200_000);
    carry(&mut b, &mut a);
    assert_eq!(carry(&mut a, &mut b).last(), Some(&Event::Finished { stream }));
}

#[test]
fn a_reset_drops_what_is_queued_on_either_side() {
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

#[test]
fn a_peer_that_breaks_the_protocol_is_told() {
    let (_, mut b, _) = pair_with(1);
    assert!(b.receive(&mut &[9u8; 12][..]).is_err());
    assert_eq!(b.transmit(usize::MAX).chunk(), [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn answers_and_farewells_pass_through() {
    let (mut a, mut b, _) = pair_with(1);
    a.ping(9);
    a.go_away(GoAwayCode::Normal);
    assert_eq!(exchange(&mut a, &mut b), [Event::GoAway { code: GoAwayCode::Normal }]);
    assert_eq!(b.open(), Err(OpenError::GoingAway));
    assert_eq!(b.take_counts().control, 1 + 2, "a SYN, a ping, a farewell");
    assert_eq!(a.take_counts().control, 2, "an ACK, a pong");
}

// === links that are full both ways

/// One side of a connection over a small link, which sends and receives as much as it can.
struct Side {
    connection: Connection,
    batch: Batch,
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
            batch: Batch::default(),
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
                    self.connection.finish(stream).unwrap();
                }
            }
        }
    }

    /// Writes what the other side's link has room for, at most `n` bytes; whether anything moved.
    fn write(&mut self, link: &mut Vec<u8>, n: usize) -> bool {
        if self.batch.is_empty() {
            self.batch = self.connection.transmit(16 * 1024);
        }
        let n = n.min(LINK - link.len()).min(self.batch.len());
        link.extend(self.batch.copy_to_bytes(n));
        n > 0
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
                    self.connection.release(stream, payload.len() as u32);
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
    let (a, b) = pair(&Config::default());
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
            me.connection.ping(at as u32);
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
