//! External queues, with the faults that brokers have: they confirm late, in any order, with errors or never, are full, or away.

use std::{collections::BTreeMap, sync::Arc};

use frontier_gateway::{
    core::{
        exchange::mix,
        outlet::{Declined, Offer, Outlet},
        stats::OpKind,
        topic::TopicPattern,
    },
    sim::queue::{SimQueue, Taken},
};
use frontier_wire::error::ErrorCode;

use super::{
    ledger::Verdict,
    plan::{ANSWERS, Answer},
    world::{GUESTS, Later, TOPICS, World},
};

/// Who has at least this number is a queue, and what is beyond is which one.
const QUEUES: usize = 2 * GUESTS;

/// One queue.
pub(crate) struct QueueAgent {
    queue: Arc<SimQueue>,
    offer: Offer,
    /// Whether it takes anything new.
    open: bool,
    /// What it has taken and not confirmed, and the operations those are.
    waiting: BTreeMap<u64, (usize, Taken)>,
    counted: u64,
}

impl World {
    pub(crate) fn new_queue(&mut self) {
        let topics = TOPICS.iter().filter(|_| self.rng.chance(400)).map(ToString::to_string).collect();
        let patterns = *self.rng.pick(&[&[][..], &["#"], &["+"], &["t0", "+/#"]]);
        let number = u32::try_from(self.queues.len()).unwrap_or(u32::MAX);
        let queue = Arc::new(SimQueue::default());
        let offer = Offer {
            number,
            key: mix(number.into()),
            outlet: Arc::clone(&queue) as Arc<dyn Outlet>,
            topics,
            patterns: patterns.iter().map(|text| TopicPattern::parse(text).expect("a pattern")).collect(),
        };
        self.note(|| format!("queue {number} takes {:?} {:?}", offer.topics, offer.patterns));
        let (waiting, counted) = (BTreeMap::new(), 0);
        self.queues.push(QueueAgent { queue, offer, open: true, waiting, counted });
        self.set_queues();
    }

    fn set_queues(&mut self) {
        let open = self.queues.iter().filter(|queue| queue.open);
        let offers = open.map(|queue| queue.offer.clone()).collect();
        self.stage.set_queues(offers);
    }

    /// Something that happens to a queue.
    pub(crate) fn queue_act(&mut self) {
        let open: Vec<usize> = (0..self.queues.len()).filter(|at| self.queues[*at].open).collect();
        if open.is_empty() {
            return;
        }
        let (at, what) = (*self.rng.pick(&open), self.rng.below(5));
        self.note(|| format!("queue {at}: {what}"));
        let agent = &mut self.queues[at];
        match what {
            0 => agent.queue.set_away(true),
            1 => agent.queue.set_full(true),
            2 => {
                agent.queue.set_away(false);
                agent.queue.set_full(false);
            }
            3 => {
                // The file has changed, and the queue is replaced by another.
                agent.open = false;
                self.new_queue();
            }
            _ => {
                agent.offer.topics = TOPICS.iter().map(ToString::to_string).collect();
                self.set_queues();
            }
        }
    }

    /// Looks what queues were given in the turn that is over.
    pub(crate) fn serve_queues(&mut self) {
        for at in 0..self.queues.len() {
            for taken in self.queues[at].queue.take() {
                self.queue_takes(at, taken);
            }
        }
    }

    fn queue_takes(&mut self, at: usize, taken: Taken) {
        let number = taken.meta.first_chunk().expect("every operation has its number");
        let token = usize::try_from(u64::from_be_bytes(*number)).expect("small");
        self.ledger.deliver(token, QUEUES + at, 0);
        let op = &self.ledger.ops[token];
        let offer = &self.queues[at].offer;
        assert_eq!((op.kind, op.name, op.edge), (OpKind::Message, &*taken.topic, 0), "operation {token}");
        assert_eq!(self.id_of(op.from), taken.edge, "sender of operation {token}");
        assert!(taken.left <= op.timeout, "deadline of {token} grows");
        let by_name = offer.topics.iter().any(|topic| *topic == taken.topic || topic == "*");
        let takes = by_name || offer.patterns.iter().any(|pattern| pattern.matches(&taken.topic));
        assert!(takes && self.queues[at].open, "queue {at} does not take operation {token}");
        assert_eq!(taken.body.len(), op.len, "body of {token}");
        assert!(self.content.check(token, 0, &taken.body), "body of {token} is spoilt");
        self.note(|| format!("queue {at} takes {token}"));
        let how = ANSWERS[self.rng.weighted(&self.plan.answers)];
        let agent = &mut self.queues[at];
        agent.counted += 1;
        let number = agent.counted;
        agent.waiting.insert(number, (token, taken));
        let pause = match how {
            Answer::Now | Answer::Early => 0,
            Answer::Later | Answer::Twice => *self.rng.pick(&[500, 20_000, 1_500_000]),
            Answer::Never => return,
        };
        self.after(pause, Later::QueueConfirms(at, number));
    }

    pub(crate) fn queue_confirms(&mut self, at: usize, number: u64) {
        let Some((token, taken)) = self.queues[at].waiting.remove(&number) else { return };
        if self.rng.chance(self.plan.errors) {
            let code = *self.rng.pick(&[ErrorCode::Overloaded, ErrorCode::SessionClosed]);
            self.note(|| format!("queue {at} fails {token}: {code:?}"));
            self.ledger.ops[token].verdict = Some(Verdict::Error);
            self.stage.confirm(taken, Err(Declined::Refused(code, "the broker says no")));
            self.count("queues: failed");
        } else {
            self.note(|| format!("queue {at} confirms {token}"));
            self.ledger.ops[token].verdict = Some(Verdict::Fine(0));
            self.stage.confirm(taken, Ok(()));
            self.count("queues: confirmed");
        }
    }

    /// Nobody will confirm what is left, and there are no queues any more.
    pub(crate) fn close_queues(&mut self) {
        let mut queues = std::mem::take(&mut self.queues);
        for agent in &mut queues {
            agent.waiting.clear();
        }
        self.stage.set_queues(Vec::new());
        for _ in queues.iter().filter(|agent| agent.counted > 0) {
            self.count("queues: used");
        }
    }
}
