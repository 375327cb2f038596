//! `mqm.sources`: what comes from brokers for edges.

use std::time::Duration;

use frontier_ops::config::{ByteSize, Problems, read::Section, serialize_duration};
use serde::Serialize;

use super::{Address, Amqp, AmqpProducer, Choice, ClientTls, Login, Mqm, QueueKind, Redis, RedisStream};

/// The longest name; it is a label of metrics.
const MAX_NAME: usize = 64;

/// One of `mqm.sources`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// What it is called in metrics and logs.
    pub name: String,
    /// The topic of messages that name none.
    pub topic: String,
    /// Time that an edge has for its done.
    #[serde(serialize_with = "serialize_duration")]
    pub done_timeout: Duration,
    /// Pause before a message that was not done is delivered again.
    #[serde(serialize_with = "serialize_duration")]
    pub retry_delay: Duration,
    /// Deliveries after which a message is dead-lettered.
    pub max_deliveries: u32,
    /// Messages taken from the broker and not settled.
    pub max_in_flight: usize,
    /// Bytes that they may have.
    pub max_in_flight_bytes: ByteSize,
    /// Where at the same broker dead letters go; empty = they are dropped.
    pub dead_letter: String,
    /// A queue of AMQP 0-9-1.
    pub amqp: AmqpSource,
    /// A stream of Redis.
    pub redis: RedisSource,
}

/// `mqm.sources[].amqp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AmqpSource {
    /// Brokers; empty = the source is of another kind.
    pub addrs: Vec<Address>,
    /// Name and password; an address may have its own.
    #[serde(flatten)]
    pub login: Login,
    /// TLS.
    pub tls: ClientTls,
    /// Virtual host.
    pub vhost: String,
    /// Bytes per frame; 0 = the broker's limit.
    pub frame_size: u32,
    /// Seconds; 0 = the broker's interval.
    pub heartbeat: u32,
    /// The queue, which must be there.
    pub queue: String,
}

/// `mqm.sources[].redis`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RedisSource {
    /// Servers, tried in turn; empty = the source is of another kind.
    pub addrs: Vec<Address>,
    /// Database number.
    pub db: u32,
    /// Name (of an ACL) and password.
    #[serde(flatten)]
    pub login: Login,
    /// TLS.
    pub tls: ClientTls,
    /// The stream.
    pub stream: String,
    /// The group of consumers; it is made if it is absent.
    pub group: String,
    /// Our name in the group.
    pub consumer: String,
}

// === impl Source ===

impl Default for Source {
    fn default() -> Self {
        Self {
            name: String::new(),
            topic: String::new(),
            done_timeout: Duration::from_secs(30),
            // Five deliveries to an edge that is away take two minutes: about what a restart of it takes, network included.
            retry_delay: Duration::from_secs(30),
            max_deliveries: 5,
            max_in_flight: 1000,
            max_in_flight_bytes: ByteSize::mib(64),
            dead_letter: String::new(),
            amqp: AmqpSource::default(),
            redis: RedisSource::default(),
        }
    }
}

impl Source {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            name: section.value("name", default.name),
            topic: section.value("topic", default.topic),
            done_timeout: section.value("done_timeout", default.done_timeout),
            retry_delay: section.value("retry_delay", default.retry_delay),
            max_deliveries: section.value("max_deliveries", default.max_deliveries),
            max_in_flight: section.value("max_in_flight", default.max_in_flight),
            max_in_flight_bytes: section.value("max_in_flight_bytes", default.max_in_flight_bytes),
            dead_letter: section.value("dead_letter", default.dead_letter),
            amqp: section.section("amqp", AmqpSource::read),
            redis: section.section("redis", RedisSource::read),
        }
    }

    /// The kind of its broker; `None` where that is not clear.
    #[must_use]
    pub fn kind(&self) -> Option<QueueKind> {
        let mut given = self.given().into_iter().filter(|(_, given)| *given).map(|(kind, _)| kind);
        given.next().filter(|_| given.next().is_none())
    }

    fn given(&self) -> [(QueueKind, bool); 2] {
        [(QueueKind::Amqp, !self.amqp.addrs.is_empty()), (QueueKind::Redis, !self.redis.addrs.is_empty())]
    }

    /// The same connection as a queue to publish to: for what is checked, and for dead letters.
    pub(crate) fn queue(&self) -> Mqm {
        Mqm { amqp: self.amqp.queue(), redis: self.redis.queue(), ..Mqm::default() }
    }

    /// What is consumed, for people and for telling two sources apart.
    fn place(&self) -> String {
        let amqp = &self.amqp;
        match self.kind() {
            Some(QueueKind::Amqp) => format!("amqp {:?} {:?} {:?}", amqp.addrs, amqp.vhost, amqp.queue),
            Some(QueueKind::Redis) => {
                let redis = &self.redis;
                format!("redis {:?} {} {:?} {:?}", redis.addrs, redis.db, redis.stream, redis.group)
            }
            _ => String::new(),
        }
    }

    /// Reports what is wrong with any of them.
    pub(super) fn validate_all(sources: &[Self], problems: &mut Problems) {
        for (index, source) in sources.iter().enumerate() {
            let key = format!("mqm.sources[{index}]");
            source.validate(&key, problems);
            let before = &sources[..index];
            if !source.name.is_empty() && before.iter().any(|other| other.name == source.name) {
                problems
                    .error(format!("{key}.name"), format!("{:?} is the name of two sources", source.name));
            }
            let place = source.place();
            if let Some(other) = before.iter().find(|other| !place.is_empty() && other.place() == place) {
                problems.error(&key, format!("consumes what {:?} consumes already", other.name));
            }
        }
    }

    fn validate(&self, key: &str, problems: &mut Problems) {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.chars().all(plain) {
            let message = format!("must have 1 to {MAX_NAME} letters, digits, '-', '_' and '.'");
            problems.error(format!("{key}.name"), message);
        }
        if self.topic.len() > 255 {
            problems.error(format!("{key}.topic"), "is longer than 255 bytes");
        }
        let hour = Duration::from_secs(3600);
        if !(Duration::from_millis(10)..=hour).contains(&self.done_timeout) {
            problems.error(format!("{key}.done_timeout"), "must be between 10ms and 1h");
        }
        if !(Duration::from_millis(10)..=hour).contains(&self.retry_delay) {
            problems.error(format!("{key}.retry_delay"), "must be between 10ms and 1h");
        }
        if !(1..=1000).contains(&self.max_deliveries) {
            problems.error(format!("{key}.max_deliveries"), "must be between 1 and 1000");
        }
        if !(1..=65_535).contains(&self.max_in_flight) {
            problems.error(format!("{key}.max_in_flight"), "must be between 1 and 65535");
        }
        if self.max_in_flight_bytes < ByteSize::kib(64) {
            problems.error(format!("{key}.max_in_flight_bytes"), "must be at least 64KiB");
        }
        let given = self.given();
        let count = given.iter().filter(|(_, given)| *given).count();
        if count != 1 {
            let kinds: Vec<&str> = given.iter().map(|(kind, _)| kind.name()).collect();
            let message = format!("needs addrs in exactly one of {}; {count} have them", kinds.join(", "));
            problems.error(key, message);
        }
        self.validate_connection(key, problems);
        for (name, value) in self.wanted() {
            if value.is_empty() {
                problems.error(format!("{key}.{name}"), "is missing");
            } else if value.len() > 255 {
                problems.error(format!("{key}.{name}"), "is longer than 255 bytes");
            }
        }
        if self.dead_letter.is_empty() {
            problems.warn(
                format!("{key}.dead_letter"),
                "is not set: what cannot be delivered is dropped, counted and logged",
            );
        } else if self.dead_letter.len() > 255 {
            problems.error(format!("{key}.dead_letter"), "is longer than 255 bytes");
        } else if self.consumes(&self.dead_letter) {
            problems.error(format!("{key}.dead_letter"), "is what the source consumes: that would go round");
        }
    }

    /// What the blocks of producers say about the same keys, with the key they have here.
    fn validate_connection(&self, key: &str, problems: &mut Problems) {
        let mut found = Problems::default();
        self.queue().validate(&mut found);
        for problem in found.list() {
            let here = |text: &str| text.replace("mqm.", &format!("{key}."));
            problems.push(problem.severity, here(&problem.key), None, here(&problem.message));
        }
    }

    /// The keys that a kind cannot do without.
    fn wanted(&self) -> Vec<(&'static str, &str)> {
        match self.kind() {
            Some(QueueKind::Amqp) => vec![("amqp.queue", &self.amqp.queue)],
            Some(QueueKind::Redis) => {
                let redis = &self.redis;
                vec![
                    ("redis.stream", &redis.stream),
                    ("redis.group", &redis.group),
                    ("redis.consumer", &redis.consumer),
                ]
            }
            _ => Vec::new(),
        }
    }

    /// Whether a message to this destination would come back.
    fn consumes(&self, destination: &str) -> bool {
        match self.kind() {
            Some(QueueKind::Amqp) => self.amqp.queue == destination,
            Some(QueueKind::Redis) => self.redis.stream == destination,
            _ => false,
        }
    }
}

// === impl AmqpSource ===

impl AmqpSource {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            addrs: Address::list(section, 0).into_iter().map(|address| address.or_port(5672, 5671)).collect(),
            login: Login::read(section),
            tls: section.section("tls", ClientTls::read),
            vhost: section.value("vhost", String::new()),
            frame_size: section.value("frame_size", 0),
            heartbeat: section.value("heartbeat", 0),
            queue: section.value("queue", String::new()),
        }
    }

    fn queue(&self) -> Amqp {
        Amqp {
            enable: !self.addrs.is_empty(),
            addrs: self.addrs.clone(),
            login: self.login.clone(),
            tls: self.tls.clone(),
            vhost: self.vhost.clone(),
            frame_size: self.frame_size,
            heartbeat: self.heartbeat,
            // To the default exchange, from which a message goes to the queue named by its key: one that is not there must be noticed.
            producer: AmqpProducer {
                mandatory: true,
                delivery_mode: 2,
                choice: Choice::default(),
                ..AmqpProducer::default()
            },
            ..Amqp::default()
        }
    }
}

// === impl RedisSource ===

impl RedisSource {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            addrs: Address::list(section, 0),
            db: section.value("db", 0),
            login: Login::read(section),
            tls: section.section("tls", ClientTls::read),
            stream: section.value("stream", String::new()),
            group: section.value("group", String::new()),
            consumer: section.value("consumer", "frontier".to_owned()),
        }
    }

    pub(crate) fn queue(&self) -> Redis {
        Redis {
            enable: !self.addrs.is_empty(),
            addrs: self.addrs.clone(),
            db: self.db,
            login: self.login.clone(),
            tls: self.tls.clone(),
            // Nobody's dead letters make room for others'.
            stream: RedisStream { enable: true, max_len: i64::MAX.unsigned_abs() },
            ..Redis::default()
        }
    }
}
