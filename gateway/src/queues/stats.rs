//! What queues count: by topic, as far as topics are named in the configuration, so that no edge can make rows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use frontier_ops::metrics::{Family, Latency};
use frontier_queues::{Kind, Queue};
use hashbrown::HashMap;

use crate::core::stats::LATENCY_BUCKETS;

/// Topics of a queue that have rows of their own; those beyond are counted with those that no name takes.
const ROWS: usize = 100;
/// The row of all others.
const OTHERS: &str = "*";

/// The counts of one queue.
#[derive(Debug)]
pub(super) struct Tally {
    queue: &'static str,
    rows: Vec<Row>,
    by_topic: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Row {
    topic: Arc<str>,
    confirmed: AtomicU64,
    failed: [AtomicU64; Kind::ALL.len()],
    /// Of those confirmed, by powers of two of microseconds.
    times: [AtomicU64; LATENCY_BUCKETS],
    micros: AtomicU64,
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(queue: &'static str, topics: &[String]) -> Self {
        let mut rows = vec![Row::new(OTHERS.into())];
        let mut by_topic = HashMap::new();
        for topic in topics.iter().filter(|topic| *topic != OTHERS) {
            let topic: Arc<str> = topic.as_str().into();
            let at = if rows.len() <= ROWS { rows.len() } else { 0 };
            if by_topic.insert(Arc::clone(&topic), at).is_none() && at > 0 {
                rows.push(Row::new(topic));
            }
        }
        Self { queue, rows, by_topic }
    }

    /// The row of a topic, and the topic to be kept with a message.
    pub(super) fn row(&self, topic: &str) -> (usize, Arc<str>) {
        match self.by_topic.get_key_value(topic) {
            Some((topic, at)) => (*at, Arc::clone(topic)),
            None => (0, topic.into()),
        }
    }

    /// Counts a message that ended so after so long.
    pub(super) fn record(&self, at: usize, error: Option<Kind>, time: Duration) {
        let Some(row) = self.rows.get(at) else { return };
        if let Some(kind) = error {
            row.failed[kind.index()].fetch_add(1, Ordering::Relaxed);
            return;
        }
        row.confirmed.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        row.times[bucket.min(LATENCY_BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        row.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Row {
    fn new(topic: Arc<str>) -> Self {
        Self {
            topic,
            confirmed: AtomicU64::new(0),
            failed: Default::default(),
            times: Default::default(),
            micros: AtomicU64::new(0),
        }
    }

    fn latency(&self) -> Latency {
        let counts: Vec<u64> = self.times.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Latency::of_powers_of_two(&counts, self.micros.load(Ordering::Relaxed))
    }
}

/// All queues as metrics.
pub(super) fn families<'a>(queues: impl Iterator<Item = (&'a Queue, &'a Tally)>) -> Vec<Family> {
    let mut up = Family::gauge("frontier_queue_up", "Whether the broker of a queue is connected");
    let mut in_flight =
        Family::gauge("frontier_queue_in_flight", "Messages that wait for a broker to confirm them");
    let mut held = Family::gauge("frontier_queue_held", "What those messages take").bytes();
    let mut connects = Family::counter("frontier_queue_connects", "Connections to brokers that came about");
    let mut late =
        Family::counter("frontier_queue_late", "Confirmations that came when nobody waited any more");
    let mut resent =
        Family::counter("frontier_queue_resent", "Messages sent again after a connection was lost");
    let mut messages = Family::counter("frontier_queue_messages", "Messages for queues, by outcome");
    let mut times =
        Family::histogram("frontier_queue_confirm_duration", "Time until a message was confirmed");
    for (queue, tally) in queues {
        let (stats, name) = (queue.stats(), [("queue", tally.queue)]);
        up = up.row(&name, queue.state().is_up().into());
        in_flight = in_flight.row(&name, stats.in_flight as u64);
        held = held.row(&name, stats.in_flight_bytes as u64);
        connects = connects.row(&name, stats.connected);
        late = late.row(&name, stats.late);
        resent = resent.row(&name, stats.resent);
        for row in &tally.rows {
            let count = |outcome, count: &AtomicU64, family: Family| {
                let labels = [("queue", tally.queue), ("topic", &*row.topic), ("outcome", outcome)];
                family.named_row(&labels, count.load(Ordering::Relaxed))
            };
            messages = count("confirmed", &row.confirmed, messages);
            for (kind, failed) in Kind::ALL.iter().zip(&row.failed) {
                messages = count(kind.name(), failed, messages);
            }
            times = times.named_times(&[("queue", tally.queue), ("topic", &row.topic)], row.latency());
        }
    }
    vec![up, in_flight, held, connects, late, resent, messages, times]
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use frontier_ops::metrics::Metrics;

    use super::{Kind, OTHERS, ROWS, Tally, families};

    #[test]
    fn topics_without_a_name_share_a_row() {
        let topics: Vec<String> = (0..ROWS + 50).map(|n| format!("t{n}")).chain(["*".to_owned()]).collect();
        let tally = Tally::new("redis", &topics);
        assert_eq!(tally.rows.len(), ROWS + 1);
        assert_eq!(&*tally.rows[tally.row("t7").0].topic, "t7");
        for other in ["*", "nobody's", &format!("t{}", ROWS + 7)] {
            let (at, topic) = tally.row(other);
            assert_eq!((&*tally.rows[at].topic, &*topic), (OTHERS, other));
        }
        tally.record(tally.row("t7").0, None, Duration::from_millis(3));
        tally.record(0, Some(Kind::Deadline), Duration::ZERO);
        assert_eq!(tally.rows[8].confirmed.load(Ordering::Relaxed), 1);
        assert_eq!(tally.rows[8].latency().count(), 1);
        assert_eq!(tally.rows[0].failed[Kind::Deadline.index()].load(Ordering::Relaxed), 1);
        assert_eq!(tally.rows[0].latency().count(), 0, "how long a failure took says nothing of the broker");
    }

    #[test]
    fn every_metric_is_documented() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let document = std::fs::read_to_string(path).unwrap();
        let metrics = Metrics::new("frontier");
        metrics.register(|| families(std::iter::empty()));
        let text = metrics.encode().unwrap();
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with("# TYPE frontier_queue")).collect();
        assert_eq!(lines.len(), 8);
        for (name, kind) in lines.iter().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            assert!(document.contains(&format!("| `{name}{suffix}` | {kind} |")), "{name} ({kind})");
        }
    }
}
