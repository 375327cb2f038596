//! What a server counts, as a scraper reads it.
//!
//! Its parts count in whatever way is cheapest for them; at each scrape a [`Collect`] turns that into
//! [`Family`]s. Nothing here is on the path of a frame. Labels are closed sets of words, or names that the configuration
//! lists: never IDs, addresses, names or texts of peers.

mod latency;
mod process;

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

pub use self::{
    latency::{Latency, Times},
    process::Process,
};

/// The format of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A part of a server that has something to report.
pub trait Collect: Send + Sync + 'static {
    /// What it counts, now. Called once per scrape, on a thread that may not be kept waiting.
    fn collect(&self) -> Vec<Family>;
}

impl<F: Fn() -> Vec<Family> + Send + Sync + 'static> Collect for F {
    fn collect(&self) -> Vec<Family> {
        self()
    }
}

/// One metric with all its label sets.
#[derive(Clone, Debug)]
pub struct Family {
    /// Name without unit and `_total`, which the encoder adds.
    name: Cow<'static, str>,
    help: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Debug)]
struct Row {
    labels: Vec<Label>,
    value: Value,
}

type Label = (&'static str, Cow<'static, str>);

#[derive(Clone, Debug)]
enum Value {
    Whole(u64),
    Real(f64),
    Histogram(Latency),
}

/// The registry of everything that can be scraped.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<parking_lot::Mutex<Registry>>,
}

// === impl Family ===

impl Family {
    /// Something that only grows.
    #[must_use]
    pub fn counter(name: impl Into<Cow<'static, str>>, help: &'static str) -> Self {
        Self { name: name.into(), help, unit: None, kind: Kind::Counter, rows: Vec::new() }
    }

    /// Something that goes up and down.
    #[must_use]
    pub fn gauge(name: impl Into<Cow<'static, str>>, help: &'static str) -> Self {
        Self { name: name.into(), help, unit: None, kind: Kind::Gauge, rows: Vec::new() }
    }

    /// Times in buckets.
    #[must_use]
    pub fn histogram(name: impl Into<Cow<'static, str>>, help: &'static str) -> Self {
        Self { name: name.into(), help, unit: Some(Unit::Seconds), kind: Kind::Histogram, rows: Vec::new() }
    }

    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> Self {
        Self { unit: Some(Unit::Seconds), ..self }
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> Self {
        Self { unit: Some(Unit::Bytes), ..self }
    }

    /// Adds a whole number.
    #[must_use]
    pub fn row(self, labels: &[(&'static str, &'static str)], value: u64) -> Self {
        let labels = labels.iter().map(|(key, word)| (*key, Cow::Borrowed(*word))).collect();
        self.push(labels, Value::Whole(value))
    }

    /// Adds a whole number of the shard with this index.
    #[must_use]
    pub fn shard(self, index: usize, value: u64) -> Self {
        self.push(vec![("shard", Cow::Owned(index.to_string()))], Value::Whole(value))
    }

    /// Adds a whole number by labels of which some are names from the configuration: a set that only its author makes longer.
    #[must_use]
    pub fn named_row(self, labels: &[(&'static str, &str)], value: u64) -> Self {
        self.push(owned(labels), Value::Whole(value))
    }

    /// Adds times by such labels.
    #[must_use]
    pub fn named_times(self, labels: &[(&'static str, &str)], times: Latency) -> Self {
        self.push(owned(labels), Value::Histogram(times))
    }

    /// Adds times by label.
    #[must_use]
    pub fn times_of(self, labels: &[(&'static str, &'static str)], times: Latency) -> Self {
        let labels = labels.iter().map(|(key, word)| (*key, Cow::Borrowed(*word))).collect();
        self.push(labels, Value::Histogram(times))
    }

    /// Adds a fraction.
    #[must_use]
    pub fn real(self, value: f64) -> Self {
        self.push(Vec::new(), Value::Real(value))
    }

    /// Adds a histogram of the shard with this index.
    #[must_use]
    pub fn shard_times(self, index: usize, times: Latency) -> Self {
        self.push(vec![("shard", Cow::Owned(index.to_string()))], Value::Histogram(times))
    }

    /// Adds a histogram.
    #[must_use]
    pub fn times(self, times: Latency) -> Self {
        self.push(Vec::new(), Value::Histogram(times))
    }

    fn push(mut self, labels: Vec<Label>, value: Value) -> Self {
        self.rows.push(Row { labels, value });
        self
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let help = format!("{}.", self.help);
        let mut metric = encoder.encode_descriptor(&self.name, &help, self.unit.as_ref(), kind)?;
        for row in &self.rows {
            if row.labels.is_empty() {
                row.encode(self.kind, &mut metric)?;
            } else {
                row.encode(self.kind, &mut metric.encode_family(&row.labels)?)?;
            }
        }
        Ok(())
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<Label> {
    labels.iter().map(|(key, word)| (*key, Cow::Owned((*word).to_owned()))).collect()
}

// === impl Row ===

impl Row {
    fn encode(&self, kind: Kind, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (&self.value, kind) {
            (Value::Whole(n), Kind::Gauge) => encoder.encode_gauge(n),
            (Value::Real(n), Kind::Gauge) => encoder.encode_gauge(n),
            (Value::Whole(n), _) => encoder.encode_counter::<NoLabelSet, _, f64>(n, None),
            (Value::Real(n), _) => encoder.encode_counter::<NoLabelSet, _, f64>(n, None),
            (Value::Histogram(times), _) => {
                encoder.encode_histogram::<NoLabelSet>(times.sum_seconds, times.count(), &times.buckets, None)
            }
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// A registry with what every process has: memory, CPU, open files, the allocator. `product` begins the names of those that are not
    /// the same for every process there is.
    #[must_use]
    pub fn new(product: &'static str) -> Self {
        let metrics = Self { registry: Arc::default() };
        metrics.register(Process::start(product));
        metrics
    }

    /// Adds a part of the server.
    pub fn register(&self, part: impl Collect) {
        self.registry.lock().register_collector(Box::new(Part(Box::new(part))));
    }

    /// The whole in the text format of [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// The encoder refuses a value.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

struct Part(Box<dyn Collect>);

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

impl Collector for Part {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.collect().iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

#[cfg(test)]
mod tests;
