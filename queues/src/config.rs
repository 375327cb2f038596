//! `mqm`: external message queues that take messages of edges by topic.
//!
//! Blocks that are off are read and checked too, so that a file is known to be right before it is needed.

mod address;
mod amqp;
mod kafka;
mod keys;
mod nats;
mod nsq;
mod redis;
mod source;
mod tls;

use frontier_ops::config::{Problems, read::Section};
use serde::Serialize;

pub use self::{
    address::Address,
    amqp::{Amqp, AmqpBinding, AmqpExchange, AmqpProducer, AmqpQueue},
    kafka::{Kafka, KafkaFlush, KafkaProducer, KafkaRetry, Sasl},
    keys::{Choice, Flow, Login},
    nats::{JetStream, Nats, Subjects, Token},
    nsq::{AuthSecret, Nsq, NsqProducer},
    redis::{Channels, Redis, RedisStream},
    source::{AmqpSource, RedisSource, Source},
    tls::ClientTls,
};
use crate::Options;

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
    /// `mqm.sources`.
    pub sources: Vec<Source>,
}

/// A block of `mqm`, which is one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueueKind {
    /// `mqm.kafka`.
    Kafka,
    /// `mqm.amqp`.
    Amqp,
    /// `mqm.nats`, core or JetStream.
    Nats,
    /// `mqm.nsq`.
    Nsq,
    /// `mqm.redis`, channels or streams.
    Redis,
}

/// What a queue in use takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takes {
    /// The queue.
    pub kind: QueueKind,
    /// Exact topics, and `*` for all that nobody else takes.
    pub topics: Vec<String>,
    /// Patterns of topics, and the template of destinations.
    pub choice: Choice,
}

// === impl Mqm ===

impl Mqm {
    /// Reads the block.
    pub fn read(section: &mut Section<'_>) -> Self {
        Self {
            kafka: section.section("kafka", Kafka::read),
            amqp: section.section("amqp", Amqp::read),
            nats: section.section("nats", Nats::read),
            nsq: section.section("nsq", Nsq::read),
            redis: section.section("redis", Redis::read),
            sources: section.list("sources", Source::read),
        }
    }

    /// Reports what is wrong.
    pub fn validate(&self, problems: &mut Problems) {
        for (kind, addrs) in self.enabled() {
            let name = kind.name();
            if addrs.is_empty() {
                problems.error(format!("mqm.{name}.addrs"), "empty address");
            }
            for (index, address) in addrs.iter().enumerate() {
                if address.port() == 0 {
                    problems.error(format!("mqm.{name}.addrs[{index}]"), "has no port; write host:port");
                }
            }
            self.flow(kind).validate(name, problems);
            self.tls(kind).validate(&format!("mqm.{name}.tls"), problems);
        }
        self.kafka.validate(problems);
        self.amqp.validate(problems);
        self.nats.validate(problems);
        self.nsq.validate(problems);
        self.redis.validate(problems);
        Source::validate_all(&self.sources, problems);
    }

    /// The queues in use, and what each takes.
    #[must_use]
    pub fn queues(&self) -> Vec<Takes> {
        self.enabled().into_iter().map(|(kind, _)| self.takes(kind)).collect()
    }

    /// What a queue may hold.
    #[must_use]
    pub fn options(&self, kind: QueueKind) -> Options {
        self.flow(kind).options(kind.name())
    }

    fn enabled(&self) -> Vec<(QueueKind, &[Address])> {
        let blocks = [
            (QueueKind::Kafka, self.kafka.enable, &self.kafka.addrs),
            (QueueKind::Amqp, self.amqp.enable, &self.amqp.addrs),
            (QueueKind::Nats, self.nats.enable, &self.nats.addrs),
            (QueueKind::Nsq, self.nsq.enable, &self.nsq.addrs),
            (QueueKind::Redis, self.redis.enable, &self.redis.addrs),
        ];
        let enabled = blocks.into_iter().filter(|(_, enable, _)| *enable);
        enabled.map(|(kind, _, addrs)| (kind, addrs.as_slice())).collect()
    }

    fn takes(&self, kind: QueueKind) -> Takes {
        let (topics, choice) = match kind {
            QueueKind::Kafka => (&self.kafka.producer.topics, &self.kafka.producer.choice),
            QueueKind::Amqp => (&self.amqp.producer.routing_keys, &self.amqp.producer.choice),
            QueueKind::Nats => {
                let producer = self.nats.producer_in_use();
                (&producer.subjects, &producer.choice)
            }
            QueueKind::Nsq => (&self.nsq.producer.topics, &self.nsq.producer.choice),
            QueueKind::Redis => (&self.redis.producer.channels, &self.redis.producer.choice),
        };
        Takes { kind, topics: topics.clone(), choice: choice.clone() }
    }

    const fn flow(&self, kind: QueueKind) -> &Flow {
        match kind {
            QueueKind::Kafka => &self.kafka.flow,
            QueueKind::Amqp => &self.amqp.flow,
            QueueKind::Nats => &self.nats.flow,
            QueueKind::Nsq => &self.nsq.flow,
            QueueKind::Redis => &self.redis.flow,
        }
    }

    const fn tls(&self, kind: QueueKind) -> &ClientTls {
        match kind {
            QueueKind::Kafka => &self.kafka.tls,
            QueueKind::Amqp => &self.amqp.tls,
            QueueKind::Nats => &self.nats.tls,
            QueueKind::Nsq => &self.nsq.tls,
            QueueKind::Redis => &self.redis.tls,
        }
    }
}

// === impl QueueKind ===

impl QueueKind {
    /// The name of the block; also in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Amqp => "amqp",
            Self::Nats => "nats",
            Self::Nsq => "nsq",
            Self::Redis => "redis",
        }
    }
}
