//! Two dialogues and a link between them that delivers frames one at a time, in any order the flows allow.

mod lists;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use frontier_wire::native::{limits::FrameLimits, reader::FrameReader};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::{
    ErrorCode, Reply,
    mailbox::Note,
    op::SendKind,
    promise::{Answer, promise},
    responder::Responder,
};

const BUDGET: usize = 3 << 20;
const MAX_BODY: usize = 1 << 20;

/// What waits to be sent: small frames first, then one frame per flow in turn, as in a session's outbox.
#[derive(Default)]
struct Wire {
    small: Vec<u8>,
    flows: BTreeMap<u64, VecDeque<Vec<u8>>>,
    turn: u64,
}

/// Keeps what it is given.
#[derive(Default)]
struct Keeper(Mutex<Vec<Kept>>);

struct Kept {
    kind: SendKind,
    name: String,
    body: Bytes,
    deadline: Instant,
    responder: Option<Responder>,
}

struct Side {
    dialogue: Dialogue,
    mailbox: Arc<Mailbox>,
    budget: Budget,
    wire: Wire,
    host: Keeper,
    asked: Vec<(SendKind, Option<Answer<Reply>>)>,
}

impl Sink for Wire {
    fn small(&mut self, _len: usize) -> &mut Vec<u8> {
        &mut self.small
    }

    fn piece(&mut self, flow: u64, lead: Bytes, body: Bytes) {
        let frame = [&lead[..], &body[..]].concat();
        self.flows.entry(flow).or_default().push_back(frame);
    }

    fn waits(&mut self, flow: u64) -> bool {
        self.flows.contains_key(&flow)
    }

    fn drop_flow(&mut self, flow: u64) {
        self.flows.remove(&flow);
    }

    fn room(&self) -> bool {
        true
    }
}

impl Wire {
    /// All small frames, or the next flow's next frame.
    fn next(&mut self) -> Option<Vec<u8>> {
        if !self.small.is_empty() {
            return Some(std::mem::take(&mut self.small));
        }
        let flow = *self.flows.range(self.turn..).next().or_else(|| self.flows.iter().next())?.0;
        self.turn = flow.wrapping_add(1);
        let frames = self.flows.get_mut(&flow)?;
        let frame = frames.pop_front();
        if frames.is_empty() {
            self.flows.remove(&flow);
        }
        frame
    }
}

impl Host for Keeper {
    fn admit(&self, _kind: SendKind, name: &str) -> crate::Result<()> {
        if name == "refused" { Err(Error::new(ErrorCode::MethodNotFound, "")) } else { Ok(()) }
    }

    fn deliver(&self, delivery: Delivery<'_>) {
        let Delivery { kind, head, body, deadline, responder, .. } = delivery;
        let (name, responder) = (head.name.to_owned(), Some(responder));
        self.0.lock().push(Kept { kind, name, body, deadline, responder });
    }
}

impl Side {
    fn new(now: Instant) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let budget = Budget::new(BUDGET);
        let limits = Limits { send_body: MAX_BODY as u64 * 2, recv_body: MAX_BODY, incoming: 64 };
        let dialogue = Dialogue::new(DialogueId::Session, mailbox.clone(), limits, budget.clone(), now);
        Self { dialogue, mailbox, budget, wire: Wire::default(), host: Keeper::default(), asked: Vec::new() }
    }

    fn ask(&mut self, kind: SendKind, name: &str, order: u64, body: Vec<u8>, now: Instant) {
        let mut head = Vec::new();
        frontier_wire::native::head::CallBuilder::new(name).encode(&mut head);
        let (promise, answer) = promise();
        let deadline = now + Duration::from_secs(3_600);
        let send = Outgoing { kind, head, body: body.into(), deadline, order, promise };
        self.dialogue.start(Box::new(send), now, &mut self.wire);
        self.asked.push((kind, Some(answer)));
    }

    /// Deals with what handlers and callers that gave up have to say.
    fn notes(&mut self) {
        let mut notes = Vec::new();
        self.mailbox.take(&mut notes, Waker::noop());
        for note in notes {
            match note {
                Note::Answer { id, outcome, .. } => self.dialogue.answer(id, outcome, &mut self.wire),
                Note::Cancel { id, .. } => self.dialogue.cancel(id, &mut self.wire),
                other => panic!("{other:?}"),
            }
        }
    }

    fn answer(&self, which: usize, outcome: crate::Result<Reply>) {
        let responder = {
            let mut kept = self.host.0.lock();
            let mut open: Vec<_> = kept.iter_mut().filter(|kept| kept.responder.is_some()).collect();
            if open.is_empty() {
                return;
            }
            let which = which % open.len();
            open[which].responder.take()
        };
        let _ = responder.unwrap().answer(outcome);
    }
}

/// Delivers one portion of frames; false if there was none.
fn deliver(from: &mut Side, to: &mut Side, now: Instant) -> bool {
    let Some(bytes) = from.wire.next() else { return false };
    let mut input = Bytes::from(bytes);
    let mut reader = FrameReader::new();
    while let Some(frame) = reader.next(&mut input, &FrameLimits::DIALER).unwrap() {
        to.dialogue.on_frame(frame, now, &mut to.wire, &to.host);
    }
    assert!(reader.is_idle());
    true
}

/// Until nothing moves any more, with everything answered.
fn drain(a: &mut Side, b: &mut Side, now: Instant) {
    loop {
        a.notes();
        b.notes();
        if deliver(a, b, now) | deliver(b, a, now) {
            continue;
        }
        let open = |side: &Side| side.host.0.lock().iter().any(|kept| kept.responder.is_some());
        if !open(a) && !open(b) {
            break;
        }
        a.answer(0, Ok(Reply::from("drained")));
        b.answer(0, Ok(Reply::from("drained")));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask { back: bool, publish: bool, order: u64, len: usize, refused: bool },
    Cancel { back: bool, which: usize },
    Answer { back: bool, which: usize, len: usize, fail: bool },
    Deliver { back: bool },
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 8_usize..200,
        2 => 16_000_usize..17_000,
        2 => 65_530_usize..65_560,
        2 => 200_000_usize..700_000,
        1 => MAX_BODY - 1..MAX_BODY + 3,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<bool>(), any::<bool>(), 0_u64..3, length(), prop::bool::weighted(0.1)).prop_map(
            |(back, publish, order, len, refused)| Step::Ask { back, publish, order, len, refused }
        ),
        1 => (any::<bool>(), any::<usize>()).prop_map(|(back, which)| Step::Cancel { back, which }),
        3 => (any::<bool>(), any::<usize>(), length(), any::<bool>())
            .prop_map(|(back, which, len, fail)| Step::Answer { back, which, len, fail }),
        8 => any::<bool>().prop_map(|back| Step::Deliver { back }),
    ]
}

fn body(sequence: u64, len: usize) -> Vec<u8> {
    let mut body = vec![sequence as u8; len];
    body[..8].copy_from_slice(&sequence.to_be_bytes());
    body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn everything_is_answered_once_in_order_and_nothing_is_left(steps in prop::collection::vec(step(), 1..80)) {
        let now = Instant::from_std(std::time::Instant::now());
        let (mut a, mut b) = (Side::new(now), Side::new(now));
        let mut sequence = 0;
        for step in steps {
            let back = match &step {
                Step::Ask { back, .. } | Step::Cancel { back, .. } | Step::Answer { back, .. } | Step::Deliver { back } => *back,
            };
            let (one, two) = if back { (&mut b, &mut a) } else { (&mut a, &mut b) };
            match step {
                Step::Ask { publish, order, len, refused, .. } => {
                    sequence += 1;
                    let kind = if publish { SendKind::Publish } else { SendKind::Request };
                    let name = if refused { "refused".to_owned() } else { order.to_string() };
                    // Which way a name goes is its order: a refused one has one of its own.
                    let order = if refused { 9 } else { order };
                    one.ask(kind, &name, order, body(sequence, len), now);
                }
                Step::Cancel { which, .. } => {
                    let count = one.asked.len().max(1);
                    if let Some((_, answer)) = one.asked.get_mut(which % count) {
                        *answer = None;
                    }
                }
                Step::Answer { which, len, fail, .. } => {
                    let outcome = if fail { Err(Error::application("x")) } else { Ok(Reply::from(vec![1; len])) };
                    one.answer(which, outcome);
                }
                Step::Deliver { .. } => {
                    deliver(one, two, now);
                }
            }
            a.notes();
            b.notes();
        }
        drain(&mut a, &mut b, now);
        for side in [&mut a, &mut b] {
            let left = (side.dialogue.pending.len(), side.dialogue.incoming.len(), side.dialogue.order.len());
            prop_assert!(side.dialogue.is_idle(), "pending, incoming, orders left: {left:?}");
            prop_assert_eq!(side.budget.left(), BUDGET);
            for (_, answer) in &mut side.asked {
                if let Some(answer) = answer {
                    let answer = std::pin::Pin::new(answer).poll(&mut Context::from_waker(Waker::noop()));
                    let Poll::Ready(outcome) = answer else { panic!("an answer is missing") };
                    if let Err(error) = outcome {
                        prop_assert_ne!(error.code(), ErrorCode::SessionClosed);
                    }
                }
            }
            // Messages of one order came in the order in which they were sent.
            let kept = side.host.0.lock();
            for order in 0..3 {
                let came: Vec<u64> = kept
                    .iter()
                    .filter(|kept| kept.kind == SendKind::Publish && kept.name == order.to_string())
                    .map(|kept| u64::from_be_bytes(kept.body[..8].try_into().unwrap()))
                    .collect();
                prop_assert!(came.is_sorted(), "order {order}: {came:?}");
            }
            for kept in kept.iter() {
                let sequence = u64::from_be_bytes(kept.body[..8].try_into().unwrap());
                prop_assert!(kept.body[8..].iter().all(|byte| *byte == sequence as u8));
            }
        }
    }

    #[test]
    fn hostile_frames_never_break_a_dialogue(
        frames in prop::collection::vec((0_u8..0x15, any::<u8>(), 0_u64..6, prop::collection::vec(any::<u8>(), 0..40), 0_usize..70_000), 0..60)
    ) {
        let now = Instant::from_std(std::time::Instant::now());
        let mut side = Side::new(now);
        side.ask(SendKind::Request, "m", 0, vec![0; 300_000], now);
        side.ask(SendKind::Publish, "t", 1, vec![0; 300_000], now);
        for (kind, flags, id, head, len) in frames {
            let header = FrameHeader::new(FrameType::from_wire(kind), id)
                .with_flags(frontier_wire::native::frame::Flags::from_bits(flags));
            let mut bytes = Vec::new();
            let _ = header.put_frame(&mut bytes, &head, &vec![7; len.min(65_536)]);
            let mut input = Bytes::from(bytes);
            if let Ok(Some(frame)) = FrameReader::new().next(&mut input, &FrameLimits::DIALER) {
                side.dialogue.on_frame(frame, now, &mut side.wire, &side.host);
            }
            side.notes();
        }
        side.dialogue.fail(&Error::session_closed("over"));
        side.host.0.lock().clear();
        side.notes();
        prop_assert!(side.dialogue.is_idle());
        prop_assert_eq!(side.budget.left(), BUDGET);
    }
}

#[test]
fn a_grant_for_the_peer_outlives_an_operation_of_ours_with_the_same_id() {
    let now = Instant::from_std(std::time::Instant::now());
    let (mut a, mut b) = (Side::new(now), Side::new(now));
    // Both are number 1 of their side. A's is refused while its fragments, and behind them nothing of B's, wait.
    a.ask(SendKind::Request, "refused", 0, vec![1; 300_000], now);
    b.ask(SendKind::Request, "m", 0, vec![2; 300_000], now);
    deliver(&mut a, &mut b, now);
    while deliver(&mut b, &mut a, now) {}
    drain(&mut a, &mut b, now);
    let kept = a.host.0.lock();
    assert_eq!(kept.iter().map(|kept| kept.body.len()).collect::<Vec<_>>(), [300_000]);
}

#[test]
fn a_long_answer_to_somebody_who_gave_up_is_not_begun() {
    let now = Instant::from_std(std::time::Instant::now());
    let (mut a, mut b) = (Side::new(now), Side::new(now));
    a.ask(SendKind::Request, "m", 0, vec![1; 8], now);
    while deliver(&mut a, &mut b, now) {}
    a.asked[0].1 = None;
    a.notes();
    while deliver(&mut a, &mut b, now) {}
    b.answer(0, Ok(Reply::from(vec![1; 300_000])));
    b.notes();
    assert!(b.dialogue.is_idle());
}

#[test]
fn what_has_no_deadline_left_is_not_sent() {
    let now = Instant::from_std(std::time::Instant::now());
    let mut side = Side::new(now);
    side.ask(SendKind::Publish, "t", 0, vec![0; 300_000], now);
    // Behind the first; its time is over before its turn comes.
    side.ask(SendKind::Publish, "t", 0, vec![0; 10], now);
    side.asked[1].1 = None;
    side.notes();
    let cancelled_first = side.wire.next().is_some();
    assert!(cancelled_first);
    side.asked[0].1 = None;
    side.notes();
    assert_eq!(side.dialogue.outgoing(), 0);
}

#[test]
fn more_unanswered_operations_than_allowed_are_overloaded() {
    let now = Instant::from_std(std::time::Instant::now());
    let (mut a, mut b) = (Side::new(now), Side::new(now));
    for _ in 0..65 {
        a.ask(SendKind::Request, "m", 0, vec![0; 8], now);
    }
    while deliver(&mut a, &mut b, now) {}
    while deliver(&mut b, &mut a, now) {}
    let last = a.asked[64].1.as_mut().unwrap();
    let Poll::Ready(Err(error)) = std::pin::Pin::new(last).poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("not refused")
    };
    assert_eq!(error.code(), ErrorCode::Overloaded);
}

#[test]
fn a_body_that_stops_coming_is_given_up_long_before_a_far_deadline() {
    let now = Instant::from_std(std::time::Instant::now());
    let (mut a, mut b) = (Side::new(now), Side::new(now));
    a.ask(SendKind::Request, "long", 0, body(1, 500_000), now);
    assert!(deliver(&mut a, &mut b, now), "the first fragment");
    assert!(b.budget.left() < BUDGET);
    b.wire = Wire::default();
    b.dialogue.sweep(now + Duration::from_secs(59), &mut b.wire);
    assert!(b.wire.next().is_none(), "slow is not silent");
    b.dialogue.sweep(now + Duration::from_secs(60), &mut b.wire);
    assert!(b.wire.next().is_some());
    assert!(b.dialogue.is_idle());
    assert_eq!(b.budget.left(), BUDGET);
}

#[test]
fn an_answer_that_nobody_grants_anything_for_is_given_up_long_before_a_far_deadline() {
    let now = Instant::from_std(std::time::Instant::now());
    let (mut a, mut b) = (Side::new(now), Side::new(now));
    a.ask(SendKind::Request, "short", 0, body(1, 8), now);
    assert!(deliver(&mut a, &mut b, now));
    b.answer(0, Ok(Reply::from(vec![1; 500_000])));
    b.notes();
    while b.wire.next().is_some() {}
    assert!(b.dialogue.wants_sweep(), "the rest waits for credit");
    b.dialogue.sweep(now + Duration::from_secs(59), &mut b.wire);
    assert!(b.wire.next().is_none());
    b.dialogue.sweep(now + Duration::from_secs(60), &mut b.wire);
    let abort = b.wire.next().unwrap();
    let mut input = Bytes::from(abort);
    let frame = FrameReader::new().next(&mut input, &FrameLimits::DIALER).unwrap().unwrap();
    assert!(frame.header.flags.abort());
    assert!(b.dialogue.is_idle());
}

#[test]
fn a_deadline_is_at_most_an_hour_whatever_the_peer_says() {
    let now = Instant::from_std(std::time::Instant::now());
    let mut side = Side::new(now);
    let mut head = Vec::new();
    frontier_wire::native::head::CallBuilder::new("far").timeout_ms(u32::MAX).encode(&mut head);
    let mut frame = Vec::new();
    FrameHeader::new(frontier_wire::native::frame::FrameType::Request, 1)
        .put_frame(&mut frame, &head, b"")
        .unwrap();
    let mut input = Bytes::from(frame);
    let frame = FrameReader::new().next(&mut input, &FrameLimits::DIALER).unwrap().unwrap();
    side.dialogue.on_frame(frame, now, &mut side.wire, &side.host);
    assert_eq!(side.host.0.lock()[0].deadline, now + Duration::from_secs(3_600));
}
