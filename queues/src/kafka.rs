//! Kafka, through librdkafka: idempotent and acknowledged by all replicas in sync, unless the configuration says otherwise.
//!
//! The library keeps its connections itself, sends again by itself and keeps the order of each partition while it does. So a link here
//! is a producer, which is given up only when no broker can be reached for [`GRACE`], or when the library calls an error fatal, after which
//! it produces nothing any more; what it had then goes to the next one, and may be there twice.

use std::{ops::Deref, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::Instant,
};

use crate::{
    Broker, ConnectError, Kind, Link, Message, Options, Outbox, Outgoing, PublishError,
    config::{self, Address},
    driver::GRACE,
    headers,
};

/// Messages taken at once; the library gathers its own batches.
const BATCH: usize = 256;
/// How often it is looked whether brokers are there.
const LOOK: Duration = Duration::from_millis(500);
/// How long a broker may take to say which there are.
const METADATA: Duration = Duration::from_secs(5);

/// Producers at a time: one in use, and those that are being given up, which takes as long as the names of brokers take to be looked up.
const PRODUCERS: usize = 4;

type Confirm = Box<dyn Fn(u64, Result<(), PublishError>) + Send + Sync>;
type Client = ThreadedProducer<Context>;

/// See the module documentation.
pub(crate) struct Kafka {
    config: config::Kafka,
    options: Options,
    places: Arc<Semaphore>,
}

/// A producer in use.
pub(crate) struct KafkaLink {
    producer: Producer,
    key: String,
}

/// Ends on a thread that may block.
struct Producer {
    /// `None` once it ends.
    client: Option<Arc<Client>>,
    place: Option<OwnedSemaphorePermit>,
}

/// What the library tells, on threads of its own.
struct Context {
    confirm: Mutex<Option<Confirm>>,
    trouble: Mutex<Trouble>,
    /// Something fatal was told.
    fatal: Notify,
}

#[derive(Default)]
struct Trouble {
    /// The last thing that went wrong.
    reason: String,
    /// A broker said no to who we are.
    refused: bool,
    /// Since when no broker can be reached.
    since: Option<Instant>,
}

// === impl Kafka ===

impl Kafka {
    pub(crate) fn new(config: &config::Kafka, options: Options) -> Self {
        Self { config: config.clone(), options, places: Arc::new(Semaphore::new(PRODUCERS)) }
    }

    /// The settings of the library. Zero values leave its own.
    fn settings(&self) -> Result<ClientConfig, String> {
        let (config, producer) = (&self.config, &self.config.producer);
        let mut settings = ClientConfig::new();
        let addresses: Vec<String> = config.addrs.iter().map(|address| address.shown().to_string()).collect();
        let millis = |seconds: u32| (u64::from(seconds) * 1000).to_string();
        let acks = match producer.required_acks {
            0 | -1 => "all".to_owned(),
            other => other.to_string(),
        };
        let idempotent = acks == "all";
        let timeout =
            u64::try_from(self.options.timeout.as_millis()).unwrap_or(u64::MAX).clamp(1000, 600_000);
        settings
            .set("client.id", "frontier")
            .set("bootstrap.servers", addresses.join(","))
            .set("acks", acks)
            .set("enable.idempotence", idempotent.to_string())
            // Without it the library keeps the order only of one request at a time.
            .set("max.in.flight.requests.per.connection", if idempotent { "5" } else { "1" })
            .set("message.timeout.ms", timeout.to_string())
            // A topic that is not there is told so soon.
            .set("topic.metadata.propagation.max.ms", "2000")
            // The same partition for a key as Java's client takes.
            .set("partitioner", "murmur2_random")
            // Our own bound comes first.
            .set("queue.buffering.max.messages", (self.options.max_in_flight + 1).to_string())
            .set(
                "queue.buffering.max.kbytes",
                (self.options.max_in_flight_bytes / 1024 + 1024).clamp(1, 2_097_151).to_string(),
            )
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false");
        let mut given = |set: bool, name: &str, value: String| {
            if set {
                settings.set(name, value);
            }
        };
        let flush = &producer.flush;
        given(producer.max_message_bytes > 0, "message.max.bytes", producer.max_message_bytes.to_string());
        given(producer.timeout > 0, "request.timeout.ms", millis(producer.timeout));
        given(!producer.compression.is_empty(), "compression.type", producer.compression.clone());
        given(producer.compression_level != 0, "compression.level", producer.compression_level.to_string());
        given(flush.bytes > 0, "batch.size", flush.bytes.to_string());
        let most = if flush.max_messages > 0 { flush.max_messages } else { flush.messages };
        given(most > 0, "batch.num.messages", most.to_string());
        given(flush.frequency > 0, "linger.ms", millis(flush.frequency));
        given(producer.retry.max > 0, "retries", producer.retry.max.to_string());
        given(producer.retry.backoff > 0, "retry.backoff.ms", millis(producer.retry.backoff));
        self.secure(&mut settings)?;
        Ok(settings)
    }

    fn secure(&self, settings: &mut ClientConfig) -> Result<(), String> {
        let (tls, sasl) = (&self.config.tls, &self.config.sasl);
        let secure = tls.enable || self.config.addrs.iter().any(Address::secure);
        let protocol = match (secure, sasl.mechanism.is_empty()) {
            (false, true) => "plaintext",
            (false, false) => "sasl_plaintext",
            (true, true) => "ssl",
            (true, false) => "sasl_ssl",
        };
        settings.set("security.protocol", protocol);
        if !sasl.mechanism.is_empty() {
            let (user, password) = sasl.login.load()?;
            settings.set("sasl.mechanisms", &sasl.mechanism);
            settings.set("sasl.username", user).set("sasl.password", password.expose());
        }
        if secure {
            let files = [
                ("ssl.ca.location", &tls.ca),
                ("ssl.certificate.location", &tls.cert),
                ("ssl.key.location", &tls.key),
            ];
            for (name, path) in files.into_iter().filter(|(_, path)| !path.as_os_str().is_empty()) {
                settings.set(name, path.display().to_string());
            }
            settings.set("enable.ssl.certificate.verification", (!tls.insecure_skip_verify).to_string());
        }
        Ok(())
    }
}

impl Broker for Kafka {
    type Link = KafkaLink;

    /// All of them are one: the library finds its way among them.
    fn addresses(&self) -> Vec<Arc<str>> {
        let all: Vec<_> = self.config.addrs.iter().map(|address| address.shown().to_string()).collect();
        if all.is_empty() { Vec::new() } else { vec![Arc::from(all.join(","))] }
    }

    async fn connect(&mut self, _: usize) -> Result<KafkaLink, ConnectError> {
        let context = Context {
            confirm: Mutex::new(None),
            trouble: Mutex::new(Trouble::default()),
            fatal: Notify::new(),
        };
        let mut settings = self.settings().map_err(ConnectError::refused)?;
        settings.set_log_level(RDKafkaLogLevel::Warning);
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(ConnectError::unreachable)?;
        let client: Client = settings.create_with_context(context).map_err(ConnectError::refused)?;
        let producer = Producer { client: Some(Arc::new(client)), place: Some(place) };
        match producer.look().await {
            Ok(()) => Ok(KafkaLink { producer, key: self.config.producer.key.clone() }),
            Err(error) => {
                let (reason, refused) = {
                    let trouble = producer.context().trouble.lock();
                    (trouble.reason.clone(), trouble.refused)
                };
                let reason = if reason.is_empty() { error } else { reason };
                Err(ConnectError { reason, refused })
            }
        }
    }

    fn patience(&self) -> Duration {
        // The library gives messages up itself, after its timeout.
        self.options.timeout + GRACE
    }
}

// === impl KafkaLink ===

impl Link for KafkaLink {
    async fn run(self, outbox: &mut Outbox) -> String {
        let context = self.producer.context();
        *context.confirm.lock() = Some(Box::new(outbox.confirmer()));
        let mut batch = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        // What the producer has when this ends was not confirmed: it goes to the next one.
        loop {
            tokio::select! {
                biased;
                () = context.fatal.notified() => return context.trouble.lock().reason.clone(),
                () = outbox.next(BATCH, &mut batch) => {
                    for outgoing in batch.drain(..) {
                        self.send(&outgoing, outbox);
                    }
                }
                _ = look.tick() => if let Some(reason) = self.unreachable().await {
                    return reason;
                },
            }
        }
    }
}

impl KafkaLink {
    fn send(&self, outgoing: &Outgoing, outbox: &Outbox) {
        let message = &outgoing.message;
        let Ok(opaque) = usize::try_from(outgoing.number) else { return };
        let key = key(&self.key, message);
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&message.destination, opaque)
                .payload(&message.body[..])
                .headers(head(message));
        if let Some(key) = &key {
            record = record.key(key.as_bytes());
        }
        if let Err((error, _)) = self.producer.send(record)
            && !is_fatal(&error)
        {
            outbox.confirm(outgoing.number, Err(refusal(&error)));
        }
    }

    /// Why, if no broker can be reached for too long.
    async fn unreachable(&self) -> Option<String> {
        let since = self.producer.context().trouble.lock().since?;
        if since.elapsed() < GRACE {
            return None;
        }
        // Idle connections come and go, so a broker is asked before anything is given up.
        let found = self.producer.look().await;
        let mut trouble = self.producer.context().trouble.lock();
        if found.is_ok() {
            trouble.since = None;
            return None;
        }
        Some(trouble.reason.clone())
    }
}

// === impl Producer ===

impl Producer {
    /// Asks which brokers there are.
    async fn look(&self) -> Result<(), String> {
        let asked = Arc::clone(self);
        let found = spawn_blocking(move || asked.client().fetch_metadata(None, METADATA).map(drop)).await;
        found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

impl Deref for Producer {
    type Target = Arc<Client>;

    fn deref(&self) -> &Arc<Client> {
        self.client.as_ref().expect("it is taken only when it ends")
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let (client, place) = (self.client.take(), self.place.take());
        if let Some(client) = &client {
            *client.context().confirm.lock() = None;
        }
        // It waits for its threads and for what it purges.
        let end = move || {
            if let Some(client) = &client {
                client.purge(PurgeConfig::default().queue().inflight());
            }
            drop((client, place));
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(end)),
            Err(_) => end(),
        }
    }
}

/// The producer is of no use any more, and the message none the worse for it.
fn is_fatal(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
}

fn key(kind: &str, message: &Message) -> Option<String> {
    match kind {
        "edge_id" => Some(message.edge.to_string()),
        "topic" => Some(message.topic.to_string()),
        "message_id" => Some(message.id.to_string()),
        _ => None,
    }
}

fn head(message: &Message) -> OwnedHeaders {
    headers::each(message).fold(OwnedHeaders::new_with_capacity(8), |all, (key, value)| {
        all.insert(Header { key, value: Some(&*value) })
    })
}

fn refusal(error: &KafkaError) -> PublishError {
    use RDKafkaErrorCode as Code;
    let kind = match error.rdkafka_error_code() {
        Some(Code::QueueFull | Code::PolicyViolation | Code::ThrottlingQuotaExceeded) => Kind::Overloaded,
        Some(Code::MessageTimedOut) => Kind::Deadline,
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => Kind::TooLarge,
        Some(
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed,
        ) => Kind::Denied,
        Some(
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::InvalidTopic
            | Code::UnknownPartition
            | Code::InvalidRecord
            | Code::InvalidMessage
            | Code::InvalidArgument,
        ) => Kind::Rejected,
        _ => Kind::Unavailable,
    };
    PublishError::new(kind, error.to_string())
}

// === impl Context ===

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(queue = "kafka", ?level, facility, text, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let mut trouble = self.trouble.lock();
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if trouble.reason.is_empty() {
                    trouble.reason = reason.to_owned();
                }
                trouble.since.get_or_insert_with(Instant::now);
            }
            Some(RDKafkaErrorCode::Fatal) => {
                trouble.reason = format!("the client gave up: {reason}");
                self.fatal.notify_one();
            }
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                (trouble.reason, trouble.refused) = (reason.to_owned(), true);
            }
            _ if !trouble.refused => trouble.reason = reason.to_owned(),
            _ => {}
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let result = match result {
            Ok(_) => {
                self.trouble.lock().since = None;
                Ok(())
            }
            Err((error, _)) => match error.rdkafka_error_code() {
                // Given up with the producer.
                Some(
                    RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight | RDKafkaErrorCode::Fatal,
                ) => return,
                _ => Err(refusal(error)),
            },
        };
        if let Some(confirm) = &*self.confirm.lock() {
            confirm(number as u64, result);
        }
    }
}
