//! `mqm`: external message queues that take messages of edges by topic.
//!
//! The blocks are read and checked in full, so that a file is known to be right before it is needed. This version
//! has no producers: an enabled block stops the start instead of losing messages in silence.

use frontier_ops::config::{Problems, Secret, read::Section};
use serde::Serialize;

/// `mqm`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mqm {
    /// `mqm.kafka`.
    pub kafka: Kafka,
    /// `mqm.amqp`.
    pub amqp: Amqp,
    /// `mqm.nats`.
    pub nats: Nats,
    /// `mqm.nsq`.
    pub nsq: Nsq,
    /// `mqm.redis`.
    pub redis: Redis,
}

/// `mqm.kafka`. Zero values leave the defaults of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kafka {
    /// Whether the block is used.
    pub enable: bool,
    /// Brokers, `host:port` each.
    pub addrs: Vec<String>,
    /// What is produced and how.
    pub producer: KafkaProducer,
}

/// `mqm.kafka.producer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KafkaProducer {
    /// Topics taken from edges.
    pub topics: Vec<String>,
    /// Acknowledge edges before the broker did.
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

/// `mqm.amqp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amqp {
    /// Whether the block is used.
    pub enable: bool,
    /// Brokers, `host:port` each.
    pub addrs: Vec<String>,
    /// Virtual host.
    pub vhost: String,
    /// Channels per connection; 0 = the broker's limit.
    pub channel_max: u16,
    /// Bytes per frame; 0 = the broker's limit.
    pub frame_size: u32,
    /// Seconds; 0 = the broker's interval.
    pub heartbeat: u32,
    /// Locale asked for.
    pub locale: String,
    /// Exchanges declared at start.
    pub exchanges: Vec<AmqpExchange>,
    /// Queues declared at start.
    pub queues: Vec<AmqpQueue>,
    /// Bindings declared at start.
    pub queuebindings: Vec<AmqpBinding>,
    /// What is published and how.
    pub producer: AmqpProducer,
}

/// One of `mqm.amqp.exchanges`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AmqpExchange {
    /// Its name.
    pub name: String,
    /// direct, topic, fanout or headers.
    pub kind: String,
    /// Survives the broker's restart.
    pub durable: bool,
    /// Goes with its last binding.
    pub auto_delete: bool,
    /// Takes nothing from clients.
    pub internal: bool,
    /// Declare without waiting for an answer.
    pub nowait: bool,
}

/// One of `mqm.amqp.queues`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AmqpQueue {
    /// Its name.
    pub name: String,
    /// Survives the broker's restart.
    pub durable: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// Belongs to this connection; written `exclustive` in old files.
    pub exclusive: bool,
    /// Declare without waiting for an answer.
    pub nowait: bool,
}

/// One of `mqm.amqp.queuebindings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AmqpBinding {
    /// The queue.
    pub queue_name: String,
    /// The exchange.
    pub exchange_name: String,
    /// The routing key.
    pub binding_key: String,
    /// Bind without waiting for an answer.
    pub nowait: bool,
}

/// `mqm.amqp.producer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AmqpProducer {
    /// Topics taken from edges.
    pub routing_keys: Vec<String>,
    /// The exchange published to.
    pub exchange: String,
    /// Return what no queue takes.
    pub mandatory: bool,
    /// Return what no consumer takes at once.
    pub immediate: bool,
    /// Property of every message.
    pub content_type: String,
    /// Property of every message.
    pub content_encoding: String,
    /// 0 or 1 transient, 2 persistent.
    pub delivery_mode: u8,
    /// 0 to 9.
    pub priority: u8,
    /// Property of every message.
    pub reply_to: String,
    /// Property of every message.
    pub expiration: String,
    /// Property of every message.
    pub r#type: String,
    /// Property of every message.
    pub user_id: String,
    /// Property of every message.
    pub app_id: String,
}

/// `mqm.nats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nats {
    /// Whether the block is used.
    pub enable: bool,
    /// Servers.
    pub addrs: Vec<String>,
    /// Core NATS.
    pub producer: Subjects,
    /// JetStream, which goes before core NATS.
    pub jetstream: JetStream,
}

/// `mqm.nats.producer` and `mqm.nats.jetstream.producer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subjects {
    /// Topics taken from edges.
    pub subjects: Vec<String>,
}

/// `mqm.nats.jetstream`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JetStream {
    /// Whether JetStream is used.
    pub enable: bool,
    /// Name of the stream.
    pub name: String,
    /// What it takes.
    pub producer: Subjects,
}

/// `mqm.nsq`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nsq {
    /// Whether the block is used.
    pub enable: bool,
    /// nsqd addresses, `host:port` each.
    pub addrs: Vec<String>,
    /// What is published.
    pub producer: Topics,
}

/// `mqm.nsq.producer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Topics {
    /// Topics taken from edges.
    pub topics: Vec<String>,
}

/// `mqm.redis`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Redis {
    /// Whether the block is used.
    pub enable: bool,
    /// Servers, `host:port` each.
    pub addrs: Vec<String>,
    /// Database number.
    pub db: u32,
    /// Password.
    pub password: Secret,
    /// What is published.
    pub producer: Channels,
}

/// `mqm.redis.producer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Channels {
    /// Topics taken from edges.
    pub channels: Vec<String>,
}

// === impl Mqm ===

impl Mqm {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            kafka: section.section("kafka", Kafka::read),
            amqp: section.section("amqp", Amqp::read),
            nats: section.section("nats", Nats::read),
            nsq: section.section("nsq", Nsq::read),
            redis: section.section("redis", Redis::read),
        }
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        let blocks = [
            ("kafka", self.kafka.enable, &self.kafka.addrs),
            ("amqp", self.amqp.enable, &self.amqp.addrs),
            ("nats", self.nats.enable, &self.nats.addrs),
            ("nsq", self.nsq.enable, &self.nsq.addrs),
            ("redis", self.redis.enable, &self.redis.addrs),
        ];
        for (name, _, addrs) in blocks.iter().filter(|(_, enable, _)| *enable) {
            if addrs.is_empty() {
                problems.error(format!("mqm.{name}.addrs"), "empty address");
            }
            problems.error(
                format!("mqm.{name}.enable"),
                "external message queues are not part of this version; let a service take these topics instead",
            );
        }
        self.validate_kafka(problems);
        self.validate_amqp(problems);
        if self.nats.jetstream.enable && self.nats.jetstream.name.is_empty() {
            problems.error("mqm.nats.jetstream.name", "JetStream needs the name of a stream");
        }
    }

    fn validate_kafka(&self, problems: &mut Problems) {
        let producer = &self.kafka.producer;
        if !matches!(producer.compression.as_str(), "" | "none" | "gzip" | "snappy" | "lz4" | "zstd") {
            let message = format!(
                "unknown compression {:?}, options: none, gzip, snappy, lz4, zstd",
                producer.compression
            );
            problems.error("mqm.kafka.producer.compression", message);
        }
    }

    fn validate_amqp(&self, problems: &mut Problems) {
        for (index, exchange) in self.amqp.exchanges.iter().enumerate() {
            let key = format!("mqm.amqp.exchanges[{index}]");
            if exchange.name.is_empty() {
                problems.error(format!("{key}.name"), "an exchange needs a name");
            }
            if !matches!(exchange.kind.as_str(), "" | "direct" | "topic" | "fanout" | "headers") {
                let message =
                    format!("unknown kind {:?}, options: direct, topic, fanout, headers", exchange.kind);
                problems.error(format!("{key}.kind"), message);
            }
        }
        for (index, binding) in self.amqp.queuebindings.iter().enumerate() {
            if binding.queue_name.is_empty() {
                problems
                    .error(format!("mqm.amqp.queuebindings[{index}].queue_name"), "a binding needs a queue");
            }
        }
        if self.amqp.producer.delivery_mode > 2 {
            problems.error("mqm.amqp.producer.delivery_mode", "must be 0 or 1 (transient) or 2 (persistent)");
        }
        if self.amqp.producer.priority > 9 {
            problems.error("mqm.amqp.producer.priority", "must be between 0 and 9");
        }
    }
}

// === impl Kafka ===

impl Kafka {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            addrs: section.value("addrs", Vec::new()),
            producer: section.section("producer", KafkaProducer::read),
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

// === impl Amqp ===

impl Amqp {
    fn read(section: &mut Section<'_>) -> Self {
        section.also("channel_max", &["channelmax"]);
        section.also("frame_size", &["framesize"]);
        section.also("queuebindings", &["queueBindings", "queue_bindings"]);
        Self {
            enable: section.value("enable", false),
            addrs: section.value("addrs", Vec::new()),
            vhost: section.value("vhost", String::new()),
            channel_max: section.value("channel_max", 0),
            frame_size: section.value("frame_size", 0),
            heartbeat: section.value("heartbeat", 0),
            locale: section.value("locale", String::new()),
            exchanges: section.list("exchanges", AmqpExchange::read),
            queues: section.list("queues", AmqpQueue::read),
            queuebindings: section.list("queuebindings", AmqpBinding::read),
            producer: section.section("producer", AmqpProducer::read),
        }
    }
}

impl AmqpExchange {
    fn read(section: &mut Section<'_>) -> Self {
        section.also("auto_delete", &["autodelete"]);
        section.also("nowait", &["noWait"]);
        Self {
            name: section.value("name", String::new()),
            kind: section.value("kind", String::new()),
            durable: section.value("durable", false),
            auto_delete: section.value("auto_delete", false),
            internal: section.value("internal", false),
            nowait: section.value("nowait", false),
        }
    }
}

impl AmqpQueue {
    fn read(section: &mut Section<'_>) -> Self {
        section.also("auto_delete", &["autodelete"]);
        section.also("exclusive", &["exclustive"]);
        section.also("nowait", &["noWait"]);
        Self {
            name: section.value("name", String::new()),
            durable: section.value("durable", false),
            auto_delete: section.value("auto_delete", false),
            exclusive: section.value("exclusive", false),
            nowait: section.value("nowait", false),
        }
    }
}

impl AmqpBinding {
    fn read(section: &mut Section<'_>) -> Self {
        section.also("queue_name", &["queuename"]);
        section.also("exchange_name", &["exchangename"]);
        section.also("binding_key", &["bindingkey"]);
        section.also("nowait", &["noWait"]);
        Self {
            queue_name: section.value("queue_name", String::new()),
            exchange_name: section.value("exchange_name", String::new()),
            binding_key: section.value("binding_key", String::new()),
            nowait: section.value("nowait", false),
        }
    }
}

impl AmqpProducer {
    fn read(section: &mut Section<'_>) -> Self {
        section.dead(&["headers"], "it was never sent to the broker");
        section.also("routing_keys", &["routingkeys"]);
        section.also("content_type", &["contenttype"]);
        section.also("content_encoding", &["contentencoding"]);
        section.also("delivery_mode", &["deliverymode"]);
        section.also("reply_to", &["replyto"]);
        section.also("user_id", &["userid"]);
        section.also("app_id", &["appid"]);
        Self {
            routing_keys: section.value("routing_keys", Vec::new()),
            exchange: section.value("exchange", String::new()),
            mandatory: section.value("mandatory", false),
            immediate: section.value("immediate", false),
            content_type: section.value("content_type", String::new()),
            content_encoding: section.value("content_encoding", String::new()),
            delivery_mode: section.value("delivery_mode", 0),
            priority: section.value("priority", 0),
            reply_to: section.value("reply_to", String::new()),
            expiration: section.value("expiration", String::new()),
            r#type: section.value("type", String::new()),
            user_id: section.value("user_id", String::new()),
            app_id: section.value("app_id", String::new()),
        }
    }
}

// === impl Nats ===

impl Nats {
    fn read(section: &mut Section<'_>) -> Self {
        section.also("jetstream", &["jetStream"]);
        Self {
            enable: section.value("enable", false),
            addrs: section.value("addrs", Vec::new()),
            producer: section.section("producer", Subjects::read),
            jetstream: section.section("jetstream", |jetstream| JetStream {
                enable: jetstream.value("enable", false),
                name: jetstream.value("name", String::new()),
                producer: jetstream.section("producer", Subjects::read),
            }),
        }
    }
}

impl Subjects {
    fn read(section: &mut Section<'_>) -> Self {
        Self { subjects: section.value("subjects", Vec::new()) }
    }
}

// === impl Nsq ===

impl Nsq {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            addrs: section.value("addrs", Vec::new()),
            producer: section
                .section("producer", |producer| Topics { topics: producer.value("topics", Vec::new()) }),
        }
    }
}

// === impl Redis ===

impl Redis {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            addrs: section.value("addrs", Vec::new()),
            db: section.value("db", 0),
            password: section.value("password", Secret::default()),
            producer: section.section("producer", |producer| Channels {
                channels: producer.value("channels", Vec::new()),
            }),
        }
    }
}
