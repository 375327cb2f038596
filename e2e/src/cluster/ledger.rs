//! The books of a cluster under test: who asked what of whom, what became of it, and how often it was done.
//!
//! Every operation has a number that travels in its body. Whoever carries it out notes the number, whoever asked notes the outcome; in
//! the end both must agree. Edges that something has happened to are *troubled* for a time, and what was asked of or by them then may fail,
//! if only the one who asked is told. Whatever else fails is a fault.

use std::{
    collections::HashMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long any operation may take.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// What a loaded machine may add until its error is there.
const LATE: Duration = Duration::from_secs(3);
/// Faults told in full.
const TOLD: usize = 12;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A service calls an edge.
    CallEdge,
    /// An edge calls a service.
    CallService,
    /// A service sends an edge a message.
    TellEdge,
    /// An edge publishes.
    Publish,
}

/// An operation that has begun.
#[derive(Debug)]
pub struct Begun {
    /// Its number.
    pub number: u64,
    verb: Verb,
    edge: u64,
    at: Instant,
}

#[derive(Debug)]
struct Ended {
    begun: Begun,
    took: Duration,
    outcome: Result<(), String>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Ledger {
    next: AtomicU64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    ended: Vec<Ended>,
    done: HashMap<u64, u32>,
    troubled: HashMap<u64, Vec<(Instant, Option<Instant>)>>,
    wrong: Vec<String>,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Calls with nobody troubled, and how many of them failed.
    pub calls: (u64, u64),
    /// Calls with somebody troubled, and how many of them failed.
    pub troubled: (u64, u64),
    /// Messages sent and acknowledged.
    pub messages: (u64, u64),
    /// Messages acknowledged that nobody has received.
    pub lost: u64,
    /// Messages and calls that were carried out more than once.
    pub twice: u64,
    /// Messages with nobody troubled that failed.
    pub unsent: u64,
    /// The longest operation with nobody troubled.
    pub slowest: Duration,
}

// === impl Ledger ===

impl Ledger {
    /// Notes that somebody asks; `edge` is the one who asks or is asked.
    #[must_use]
    pub fn begin(&self, verb: Verb, edge: u64) -> Begun {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Begun { number, verb, edge, at: Instant::now() }
    }

    /// Notes what came of it.
    pub fn end(&self, begun: Begun, outcome: Result<(), String>) {
        let took = begun.at.elapsed();
        self.books.lock().ended.push(Ended { begun, took, outcome });
    }

    /// Somebody carries out the operation whose number is in this body.
    pub fn done(&self, body: &[u8]) {
        let number = std::str::from_utf8(body).ok().and_then(|text| text.parse().ok());
        let mut books = self.books.lock();
        match number {
            Some(number) => *books.done.entry(number).or_default() += 1,
            None => books.wrong.push(format!("a body that nobody sent: {body:?}")),
        }
    }

    /// Something that must never be.
    pub fn wrong(&self, what: impl Into<String>) {
        self.books.lock().wrong.push(what.into());
    }

    /// From now on these edges are troubled.
    pub fn trouble(&self, edges: impl IntoIterator<Item = u64>) {
        let now = Instant::now();
        let mut books = self.books.lock();
        for edge in edges {
            books.troubled.entry(edge).or_default().push((now, None));
        }
    }

    /// From now on nobody is any more, except those that are gone for good.
    pub fn calm(&self, gone: &[u64]) {
        let now = Instant::now();
        let mut books = self.books.lock();
        for (edge, times) in &mut books.troubled {
            if !gone.contains(edge) {
                for (_, until) in times {
                    until.get_or_insert(now);
                }
            }
        }
    }

    /// Compares both sides, when nobody asks any more.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn settle(&self) -> (Counts, Result<(), String>) {
        let books = self.books.lock();
        let mut counts = Counts::default();
        let mut wrong = books.wrong.clone();
        for ended in &books.ended {
            books.count(ended, &mut counts, &mut wrong);
        }
        let told = wrong.len().min(TOLD);
        let more = wrong.len() - told;
        let text = wrong.get(..told).unwrap_or_default().join("\n  ");
        (counts, if wrong.is_empty() { Ok(()) } else { Err(format!("{text}\n  and {more} more")) })
    }
}

// === impl Books ===

impl Books {
    fn is_troubled(&self, ended: &Ended) -> bool {
        let (from, to) = (ended.begun.at, ended.begun.at + ended.took);
        let times = self.troubled.get(&ended.begun.edge);
        times.is_some_and(|times| {
            times.iter().any(|(begin, end)| *begin <= to && end.is_none_or(|end| end >= from))
        })
    }

    fn count(&self, ended: &Ended, counts: &mut Counts, wrong: &mut Vec<String>) {
        let Ended { begun, took, outcome } = ended;
        let troubled = self.is_troubled(ended);
        let done = self.done.get(&begun.number).copied().unwrap_or(0);
        let is_call = matches!(begun.verb, Verb::CallEdge | Verb::CallService);
        let failed = u64::from(outcome.is_err());
        if is_call {
            let (all, bad) = if troubled { &mut counts.troubled } else { &mut counts.calls };
            *all += 1;
            *bad += failed;
        } else {
            counts.messages.0 += 1;
            counts.messages.1 += 1 - failed;
            counts.lost += u64::from(failed == 0 && done == 0);
            counts.unsent += if troubled { 0 } else { failed };
        }
        counts.twice += u64::from(done > 1);
        if !troubled {
            counts.slowest = counts.slowest.max(*took);
        }
        let fault = match outcome {
            Ok(()) if done == 0 => Some("acknowledged and never done".to_owned()),
            _ if done > 1 => Some(format!("done {done} times")),
            Err(error) if !troubled => Some(error.clone()),
            _ if *took > DEADLINE + LATE => Some("too late".to_owned()),
            _ => None,
        };
        if let Some(fault) = fault {
            wrong
                .push(format!("{:?} {} of edge {}, {took:?}: {fault}", begun.verb, begun.number, begun.edge));
        }
    }
}

// === impl Counts ===

impl fmt::Display for Counts {
    /// Cells of the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, troubled, messages, lost, twice, unsent, slowest } = self;
        write!(f, "{}/{} | {}/{} | ", calls.1, calls.0, troubled.1, troubled.0)?;
        write!(
            f,
            "{} | {} | {unsent} | {lost} | {twice} | {} ms",
            messages.0,
            messages.1,
            slowest.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(ledger: &Ledger, verb: Verb, edge: u64, done: u32, outcome: Result<(), String>) {
        let begun = ledger.begin(verb, edge);
        (0..done).for_each(|_| ledger.done(begun.number.to_string().as_bytes()));
        ledger.end(begun, outcome);
    }

    #[test]
    fn what_goes_well_is_counted() {
        let ledger = Ledger::default();
        play(&ledger, Verb::CallEdge, 1, 1, Ok(()));
        play(&ledger, Verb::Publish, 1, 1, Ok(()));
        ledger.trouble([2]);
        play(&ledger, Verb::TellEdge, 2, 1, Err("told".to_owned()));
        play(&ledger, Verb::CallService, 2, 0, Err("told".to_owned()));
        let (counts, settled) = ledger.settle();
        assert_eq!(settled, Ok(()));
        assert_eq!((counts.calls, counts.troubled, counts.messages), ((1, 0), (1, 1), (2, 1)));
    }

    #[test]
    fn every_kind_of_fault_is_found() {
        let faulty: [fn(&Ledger); 5] = [
            |ledger| play(ledger, Verb::Publish, 1, 0, Ok(())),
            |ledger| play(ledger, Verb::CallEdge, 1, 2, Ok(())),
            |ledger| play(ledger, Verb::CallEdge, 1, 0, Err("no".to_owned())),
            |ledger| {
                ledger.trouble([1]);
                ledger.calm(&[]);
                std::thread::park_timeout(Duration::from_millis(1));
                play(ledger, Verb::TellEdge, 1, 0, Err("no".to_owned()));
            },
            |ledger| ledger.done(b"?"),
        ];
        for fault in faulty {
            let ledger = Ledger::default();
            fault(&ledger);
            assert!(ledger.settle().1.is_err());
        }
    }
}
