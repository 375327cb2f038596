//! `mqm.kafka`.

use frontier_ops::config::{Problems, read::Section};
use serde::Serialize;

use super::{Address, Choice, ClientTls, Flow, Login};

/// The usual port, which addresses may leave out.
const PORT: u16 = 9092;

/// `mqm.kafka`. Zero values leave the defaults of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kafka {
    /// Whether the block is used.
    pub enable: bool,
    /// Brokers, `host:port` each.
    pub addrs: Vec<Address>,
    /// Who we are.
    pub sasl: Sasl,
    /// TLS.
    pub tls: ClientTls,
    /// Bounds.
    #[serde(flatten)]
    pub flow: Flow,
    /// What is produced and how.
    pub producer: KafkaProducer,
}

/// `mqm.kafka.sasl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sasl {
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty = none.
    pub mechanism: String,
    /// Name and password.
    #[serde(flatten)]
    pub login: Login,
}

/// `mqm.kafka.producer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KafkaProducer {
    /// Topics taken from edges.
    pub topics: Vec<String>,
    /// More of them, and where they go.
    #[serde(flatten)]
    pub choice: Choice,
    /// What the key of a record is: `edge_id`, `topic`, `message_id` or `none`.
    pub key: String,
    /// Once meant not to wait for the broker; edges are acknowledged after it all the same.
    pub r#async: bool,
    /// Bytes of one message.
    pub max_message_bytes: u32,
    /// Acknowledgements wanted: 1 leader, -1 all, 0 default.
    pub required_acks: i32,
    /// Seconds the broker may wait for them.
    pub timeout: u32,
    /// none, gzip, snappy, lz4 or zstd.
    pub compression: String,
    /// Level of that compression.
    pub compression_level: i32,
    /// Exactly one copy of each message; written `idepotent` in old files.
    pub idempotent: bool,
    /// When batches are sent.
    pub flush: KafkaFlush,
    /// What happens after a failure.
    pub retry: KafkaRetry,
}

/// `mqm.kafka.producer.flush`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KafkaFlush {
    /// Bytes that trigger a batch.
    pub bytes: u32,
    /// Messages that trigger a batch.
    pub messages: u32,
    /// Seconds between batches.
    pub frequency: u32,
    /// Messages of one batch at most.
    pub max_messages: u32,
}

/// `mqm.kafka.producer.retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KafkaRetry {
    /// Attempts.
    pub max: u32,
    /// Seconds between them.
    pub backoff: u32,
}

// === impl Kafka ===

impl Kafka {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            addrs: Address::list(section, PORT),
            sasl: section.section("sasl", |sasl| Sasl {
                mechanism: sasl.value("mechanism", String::new()),
                login: Login::read(sasl),
            }),
            tls: section.section("tls", ClientTls::read),
            flow: Flow::read(section),
            producer: section.section("producer", KafkaProducer::read),
        }
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.enable {
            let instead = "write mqm.kafka.sasl.mechanism, user and password";
            Address::only_places(&self.addrs, "kafka", Some(instead), problems);
            self.sasl.login.validate("mqm.kafka.sasl", problems);
        }
        if !matches!(self.sasl.mechanism.as_str(), "" | "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512") {
            let message = format!(
                "unknown mechanism {:?}, options: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
                self.sasl.mechanism
            );
            problems.error("mqm.kafka.sasl.mechanism", message);
        }
        if !matches!(self.producer.key.as_str(), "edge_id" | "topic" | "message_id" | "none") {
            let message =
                format!("unknown key {:?}, options: edge_id, topic, message_id, none", self.producer.key);
            problems.error("mqm.kafka.producer.key", message);
        }
        let producer = &self.producer;
        if !matches!(producer.compression.as_str(), "" | "none" | "gzip" | "snappy" | "lz4" | "zstd") {
            let message = format!(
                "unknown compression {:?}, options: none, gzip, snappy, lz4, zstd",
                producer.compression
            );
            problems.error("mqm.kafka.producer.compression", message);
        }
    }
}

// === impl KafkaProducer ===

impl Default for KafkaProducer {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            choice: Choice::default(),
            key: "edge_id".to_owned(),
            r#async: false,
            max_message_bytes: 0,
            required_acks: 0,
            timeout: 0,
            compression: String::new(),
            compression_level: 0,
            idempotent: false,
            flush: KafkaFlush::default(),
            retry: KafkaRetry::default(),
        }
    }
}

impl KafkaProducer {
    fn read(section: &mut Section<'_>) -> Self {
        // Versions before 1.1 had names without underscores.
        section.also("max_message_bytes", &["maxmessagebytes"]);
        section.also("required_acks", &["requiredacks"]);
        section.also("compression_level", &["compressionlevel"]);
        section.also("idempotent", &["idepotent"]);
        Self {
            topics: section.value("topics", Vec::new()),
            choice: Choice::read(section),
            key: section.value("key", Self::default().key),
            r#async: section.value("async", false),
            max_message_bytes: section.value("max_message_bytes", 0),
            required_acks: section.value("required_acks", 0),
            timeout: section.value("timeout", 0),
            compression: section.value("compression", String::new()),
            compression_level: section.value("compression_level", 0),
            idempotent: section.value("idempotent", false),
            flush: section.section("flush", |flush| {
                flush.also("max_messages", &["maxmessages"]);
                KafkaFlush {
                    bytes: flush.value("bytes", 0),
                    messages: flush.value("messages", 0),
                    frequency: flush.value("frequency", 0),
                    max_messages: flush.value("max_messages", 0),
                }
            }),
            retry: section.section("retry", |retry| KafkaRetry {
                max: retry.value("max", 0),
                backoff: retry.value("backoff", 0),
            }),
        }
    }
}
