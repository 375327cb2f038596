//! `mqm.amqp`.

use frontier_ops::config::{Problems, read::Section};
use serde::Serialize;

use super::{Address, Choice, ClientTls, Flow, Login};

/// `mqm.amqp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amqp {
    /// Whether the block is used.
    pub enable: bool,
    /// Brokers, `host:port` each.
    pub addrs: Vec<Address>,
    /// Name and password; an address may have its own.
    #[serde(flatten)]
    pub login: Login,
    /// TLS.
    pub tls: ClientTls,
    /// Bounds.
    #[serde(flatten)]
    pub flow: Flow,
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
    /// More of them, and where they go.
    #[serde(flatten)]
    pub choice: Choice,
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

// === impl Amqp ===

impl Amqp {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        section.also("channel_max", &["channelmax"]);
        section.also("frame_size", &["framesize"]);
        section.also("queuebindings", &["queueBindings", "queue_bindings"]);
        Self {
            enable: section.value("enable", false),
            addrs: Address::list(section, 0).into_iter().map(|address| address.or_port(5672, 5671)).collect(),
            login: Login::read(section),
            tls: section.section("tls", ClientTls::read),
            flow: Flow::read(section),
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

    pub(super) fn validate(&self, problems: &mut Problems) {
        for (index, exchange) in self.exchanges.iter().enumerate() {
            let key = format!("mqm.amqp.exchanges[{index}]");
            if exchange.name.is_empty() {
                problems.error(format!("{key}.name"), "an exchange needs a name");
            }
            // Those of plugins begin with x-.
            let kind = exchange.kind.as_str();
            if !matches!(kind, "" | "direct" | "topic" | "fanout" | "headers") && !kind.starts_with("x-") {
                let message = format!(
                    "unknown kind {kind:?}, options: direct, topic, fanout, headers, or a plugin's x-…"
                );
                problems.error(format!("{key}.kind"), message);
            }
        }
        for (index, binding) in self.queuebindings.iter().enumerate() {
            if binding.queue_name.is_empty() {
                problems
                    .error(format!("mqm.amqp.queuebindings[{index}].queue_name"), "a binding needs a queue");
            }
        }
        if self.enable {
            self.login.validate("mqm.amqp", problems);
        }
        if self.producer.immediate {
            problems.error(
                "mqm.amqp.producer.immediate",
                "is not supported: RabbitMQ closes the connection on it; `mandatory` returns what no queue takes",
            );
        }
        if self.producer.delivery_mode > 2 {
            problems.error("mqm.amqp.producer.delivery_mode", "must be 0 or 1 (transient) or 2 (persistent)");
        }
        if self.producer.priority > 9 {
            problems.error("mqm.amqp.producer.priority", "must be between 0 and 9");
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
            choice: Choice::read(section),
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
