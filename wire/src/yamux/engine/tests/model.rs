//! Two engines, joined by pipes, against a model that knows what was sent.

use std::collections::{BTreeMap, VecDeque};

use proptest::{collection::vec, prelude::*};

use super::*;

/// What one side does next. Streams are picked by number among those it knows.
#[derive(Clone, Copy, Debug)]
enum Op {
    Open,
    Send {
        pick: usize,
        len: u32,
        fin: bool,
    },
    Finish {
        pick: usize,
    },
    Reset {
        pick: usize,
    },
    Release {
        pick: usize,
        n: u32,
    },
    Grow {
        pick: usize,
        to: u32,
    },
    Ping,
    Control,
    /// So many bytes reach this side.
    Deliver {
        n: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let pick = 0usize..6;
    prop_oneof![
        2 => Just(Op::Open),
        8 => (pick.clone(), prop_oneof![0u32..50, 30_000u32..=MAX_DATA], prop::bool::weighted(0.05))
            .prop_map(|(pick, len, fin)| Op::Send { pick, len, fin }),
        1 => pick.clone().prop_map(|pick| Op::Finish { pick }),
        1 => pick.clone().prop_map(|pick| Op::Reset { pick }),
        5 => (pick.clone(), 1u32..200_000).prop_map(|(pick, n)| Op::Release { pick, n }),
        1 => (pick, 0u32..1_000_000).prop_map(|(pick, to)| Op::Grow { pick, to }),
        1 => Just(Op::Ping),
        3 => Just(Op::Control),
        8 => prop_oneof![0usize..30, 0usize..200_000].prop_map(|n| Op::Deliver { n }),
    ]
}

/// One side of the pair, and what the model knows of it.
struct Side {
    engine: Engine,
    /// Bytes that have not reached this side yet.
    inbox: VecDeque<u8>,
    streams: BTreeMap<StreamId, Known>,
}

#[derive(Debug, Default)]
struct Known {
    sent: u32,
    received: u32,
    released: u32,
    /// We have ended our half.
    ended: bool,
    /// The peer's half has ended.
    end_seen: bool,
    /// A reset was sent or received: what is under way does not count any more.
    reset: bool,
}

/// The byte that belongs at a place of a stream in a direction.
fn byte(stream: StreamId, from: Role, at: u32) -> u8 {
    (stream.get() * 31 + at * 7 + u32::from(from == Role::Client)) as u8
}

impl Side {
    fn new(role: Role, windows: Option<(u32, u32)>) -> Self {
        let config = Config { recv_window: 300_000, ..Config::default() };
        let mut engine = Engine::new(role, &config);
        if let Some((recv, send)) = windows {
            engine.set_stream_windows(recv, send);
        }
        Self { engine, inbox: VecDeque::new(), streams: BTreeMap::new() }
    }

    fn pick(&self, pick: usize) -> Option<StreamId> {
        self.streams.keys().nth_back(pick).copied()
    }

    /// Does one thing; what it writes goes to the other side's inbox.
    fn run(&mut self, op: Op, out: &mut VecDeque<u8>) {
        match op {
            Op::Open => {
                if let Ok(stream) = self.engine.open() {
                    self.streams.insert(stream, Known::default());
                }
            }
            Op::Send { pick, len, fin } => {
                let Some(stream) = self.pick(pick) else { return };
                self.send(stream, len, fin, out);
            }
            Op::Finish { pick } => {
                let Some(stream) = self.pick(pick) else { return };
                let known = self.streams.get_mut(&stream).unwrap();
                assert_eq!(self.engine.finish(stream).is_ok(), !known.ended && !known.reset);
                known.ended = true;
            }
            Op::Reset { pick } => {
                let Some(stream) = self.pick(pick) else { return };
                if self.engine.reset(stream) {
                    self.streams.get_mut(&stream).unwrap().reset = true;
                }
            }
            Op::Release { pick, n } => {
                let Some(stream) = self.pick(pick) else { return };
                self.release(stream, n);
            }
            Op::Grow { pick, to } => {
                let Some(stream) = self.pick(pick) else { return };
                self.engine.grow(stream, to);
            }
            Op::Ping => self.engine.ping(7),
            Op::Control => self.control(out),
            Op::Deliver { n } => self.deliver(n),
        }
    }

    fn send(&mut self, stream: StreamId, len: u32, fin: bool, out: &mut VecDeque<u8>) {
        let (role, window) = (self.engine.role(), self.engine.send_window(stream));
        let known = self.streams.get_mut(&stream).unwrap();
        let may = !known.ended && !known.reset && len <= window;
        let Ok(header) = self.engine.data(stream, len, fin) else {
            assert!(!may, "the engine refuses what is allowed");
            return;
        };
        assert!(may);
        out.extend(header);
        out.extend((0..len).map(|at| byte(stream, role, known.sent + at)));
        known.sent += len;
        known.ended |= fin;
    }

    fn release(&mut self, stream: StreamId, n: u32) {
        let known = self.streams.get_mut(&stream).unwrap();
        let n = n.min(known.received - known.released);
        known.released += n;
        self.engine.release(stream, n);
    }

    fn control(&mut self, out: &mut VecDeque<u8>) {
        let mut bytes = Vec::new();
        self.engine.take_control(&mut bytes);
        out.extend(bytes);
    }

    fn deliver(&mut self, n: usize) {
        let bytes: Vec<u8> = self.inbox.drain(..n.min(self.inbox.len())).collect();
        let from = self.engine.role().peer();
        for event in feed(&mut self.engine, &bytes).unwrap() {
            match event {
                Event::Opened { stream } => {
                    assert!(self.streams.insert(stream, Known::default()).is_none());
                }
                Event::Data { stream, payload } => {
                    let known = self.streams.get_mut(&stream).unwrap();
                    assert!(!known.end_seen && !known.reset);
                    for byte_in in payload {
                        assert_eq!(byte_in, byte(stream, from, known.received));
                        known.received += 1;
                    }
                }
                Event::Finished { stream } => {
                    let known = self.streams.get_mut(&stream).unwrap();
                    assert!(!known.reset && !std::mem::replace(&mut known.end_seen, true));
                }
                Event::Reset { stream } => self.streams.get_mut(&stream).unwrap().reset = true,
                Event::Accepted { .. } | Event::Window { .. } => {}
                Event::Pong { value } => assert_eq!(value, 7),
                Event::GoAway { code } => panic!("nobody went away, but {code:?}"),
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.inbox.is_empty() && !self.engine.has_control()
    }
}

/// Writes and delivers until nothing moves any more.
fn settle(a: &mut Side, b: &mut Side) {
    while !a.is_quiet() || !b.is_quiet() {
        a.control(&mut b.inbox);
        b.control(&mut a.inbox);
        a.deliver(usize::MAX);
        b.deliver(usize::MAX);
    }
}

/// With everything delivered, both sides agree on every stream.
fn check_agreement(a: &mut Side, b: &mut Side) -> Result<(), TestCaseError> {
    for (&stream, known) in &mut a.streams {
        let Some(other) = b.streams.get_mut(&stream) else {
            prop_assert!(known.reset, "an open stream is known to both");
            continue;
        };
        prop_assert_eq!(a.engine.contains(stream), b.engine.contains(stream));
        if known.reset || other.reset {
            prop_assert!(!a.engine.contains(stream));
            continue;
        }
        prop_assert_eq!((known.received, known.end_seen), (other.sent, other.ended));
        prop_assert_eq!((other.received, other.end_seen), (known.sent, known.ended));
        for (from, to) in [(&a.engine, &b.engine), (&b.engine, &a.engine)] {
            if from.can_send(stream) {
                prop_assert_eq!(from.send_window(stream), to.recv_window(stream).unwrap().1);
            }
        }
    }
    Ok(())
}

/// Once everything is released and announced, a window is whole but for less than a half.
fn check_windows(side: &mut Side) -> Result<(), TestCaseError> {
    let open: Vec<StreamId> = side.streams.keys().copied().filter(|&id| side.engine.contains(id)).collect();
    for stream in open {
        let (window, left) = side.engine.recv_window(stream).unwrap();
        if !side.streams[&stream].end_seen {
            prop_assert!(left <= window && window - left <= window / 2, "{} of {}", left, window);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out_and_nothing_stays(
        ops in vec((any::<bool>(), op()), 1..200),
        agreed in proptest::option::of((1u32..400_000, 1u32..400_000)),
    ) {
        let mut a = Side::new(Role::Client, agreed);
        let mut b = Side::new(Role::Server, agreed.map(|(recv, send)| (send, recv)));
        for (client, op) in ops {
            if client { a.run(op, &mut b.inbox) } else { b.run(op, &mut a.inbox) }
        }
        settle(&mut a, &mut b);
        check_agreement(&mut a, &mut b)?;
        for side in [&mut a, &mut b] {
            for stream in side.streams.keys().copied().collect::<Vec<_>>() {
                side.release(stream, u32::MAX);
            }
        }
        settle(&mut a, &mut b);
        check_agreement(&mut a, &mut b)?;
        check_windows(&mut a)?;
        check_windows(&mut b)?;
        for side in [&mut a, &mut b] {
            for &stream in side.streams.keys() {
                let _ = side.engine.finish(stream);
            }
        }
        settle(&mut a, &mut b);
        for side in [&a, &b] {
            prop_assert!(side.engine.is_idle());
            prop_assert_eq!((side.engine.streams(), side.engine.granted_bytes()), (0, 0));
            prop_assert_eq!(side.engine.held_bytes(), 0);
        }
    }
}
