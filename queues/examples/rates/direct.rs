//! The client libraries by themselves, with headers as this project sends them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use amqprs::{
    Ack, BasicProperties, Cancel, CloseChannel, Nack, Return,
    callbacks::{ChannelCallback, DefaultConnectionCallback},
    channel::{BasicPublishArguments, Channel, ConfirmSelectArguments},
    connection::{Connection, OpenConnectionArguments},
};
use anyhow::Result;
use bytes::Bytes;
use fred::{
    clients::Client as Fred,
    interfaces::ClientLike,
    types::{
        ClusterHash, CustomCommand, Value,
        config::{Config, ServerConfig},
    },
};
use frontier_queues::testing::rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::Notify;

use super::{Load, WINDOW};

/// As long as what this project sends.
const HEADERS: [(&str, &str); 4] = [
    ("edge-id", "42"),
    ("topic", "rates"),
    ("message-id", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"),
    ("time", "2026-01-01T00:00:00.000000000Z"),
];

/// Keeps a window of what `make` makes under way, and returns how many end in a second.
async fn keep<F: Future<Output = Result<()>>>(load: &Load, mut make: impl FnMut() -> F) -> Result<f64> {
    let mut flying = FuturesUnordered::new();
    let start = Instant::now();
    let mut confirmed = 0.0;
    loop {
        while flying.len() < WINDOW && start.elapsed() < load.time {
            flying.push(make());
        }
        match flying.next().await {
            Some(result) => result?,
            None => break,
        }
        confirmed += 1.0;
    }
    Ok(confirmed / start.elapsed().as_secs_f64())
}

pub(super) async fn redis(addr: SocketAddr) -> Result<Fred> {
    let server = ServerConfig::new_centralized(addr.ip().to_string(), addr.port());
    let client = Fred::new(Config { server, ..Config::default() }, None, None, None);
    client.init().await?;
    Ok(client)
}

pub(super) async fn run_redis(client: &Fred, stream: bool, load: &Load) -> Result<f64> {
    let body = Bytes::from(vec![b'x'; load.size]);
    keep(load, || {
        let mut args: Vec<Value> = vec!["t".into()];
        if stream {
            args.extend(["MAXLEN", "~", "10000", "*"].map(Value::from));
            args.extend(HEADERS.iter().flat_map(|(name, value)| [Value::from(*name), Value::from(*value)]));
            args.push("body".into());
        }
        args.push(Value::Bytes(body.clone()));
        let command =
            CustomCommand::new_static(if stream { "XADD" } else { "PUBLISH" }, ClusterHash::FirstKey, false);
        async move { Ok(client.custom::<Value, Value>(command, args).await.map(drop)?) }
    })
    .await
}

fn nats_headers() -> async_nats::HeaderMap {
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in HEADERS {
        headers.insert(name, value);
    }
    headers
}

/// Its flush says only that bytes are in the socket, so each window ends with a message to itself: what comes back says that the server
/// has dealt with those before.
pub(super) async fn run_nats(client: &async_nats::Client, load: &Load) -> Result<f64> {
    let (body, headers) = (Bytes::from(vec![b'x'; load.size]), nats_headers());
    let inbox = client.new_inbox();
    let mut back = client.subscribe(inbox.clone()).await?;
    let start = Instant::now();
    let mut count = 0.0;
    while start.elapsed() < load.time {
        for _ in 0..WINDOW {
            client.publish_with_headers("u", headers.clone(), body.clone()).await?;
            count += 1.0;
        }
        client.publish(inbox.clone(), Bytes::new()).await?;
        back.next().await;
    }
    Ok(count / start.elapsed().as_secs_f64())
}

pub(super) async fn run_jetstream(client: &async_nats::Client, load: &Load) -> Result<f64> {
    let (body, headers) = (Bytes::from(vec![b'x'; load.size]), nats_headers());
    let inbox = client.new_inbox();
    let mut acknowledged = client.subscribe(format!("{inbox}.*")).await?;
    client.flush().await?;
    let start = Instant::now();
    let (mut given, mut confirmed) = (0, 0);
    while start.elapsed() < load.time || confirmed < given {
        while given < confirmed + WINDOW && start.elapsed() < load.time {
            let mut headers = headers.clone();
            headers.insert("Nats-Msg-Id", format!("{inbox}{given}"));
            let reply = format!("{inbox}.{given}");
            client.publish_with_reply_and_headers("t", reply, headers, body.clone()).await?;
            given += 1;
        }
        acknowledged.next().await;
        confirmed += 1;
    }
    Ok(confirmed as f64 / start.elapsed().as_secs_f64())
}

pub(super) fn kafka(addr: SocketAddr) -> Result<FutureProducer> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", addr.to_string()).set("enable.idempotence", "true");
    Ok(settings.create()?)
}

pub(super) async fn run_kafka(producer: &FutureProducer, load: &Load) -> Result<f64> {
    let body = vec![b'x'; load.size];
    keep(load, || {
        let headers = HEADERS
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let record = FutureRecord::to("t").key("42").payload(&body).headers(headers);
        let sent = producer.send_result(record).map_err(|(error, _)| error);
        async move { Ok(sent?.await?.map(drop).map_err(|(error, _)| error)?) }
    })
    .await
}

/// A channel with confirms.
pub(super) struct Amqp {
    channel: Channel,
    confirmed: Arc<Confirmed>,
    /// It closes when it is dropped.
    _connection: Connection,
}

#[derive(Default)]
struct Confirmed {
    upto: AtomicU64,
    more: Notify,
}

struct OnConfirm(Arc<Confirmed>);

pub(super) async fn amqp(addr: SocketAddr) -> Result<Amqp> {
    let arguments = OpenConnectionArguments::new(&addr.ip().to_string(), addr.port(), "guest", "guest");
    let connection = Connection::open(&arguments).await?;
    connection.register_callback(DefaultConnectionCallback).await?;
    let channel = connection.open_channel(None).await?;
    let confirmed = Arc::new(Confirmed::default());
    channel.register_callback(OnConfirm(Arc::clone(&confirmed))).await?;
    channel.confirm_select(ConfirmSelectArguments::default()).await?;
    Ok(Amqp { channel, confirmed, _connection: connection })
}

// === impl Amqp ===

impl Amqp {
    pub(super) async fn run(&self, load: &Load) -> Result<f64> {
        let body = vec![b'x'; load.size];
        let mut table = amqprs::FieldTable::new();
        for (name, value) in HEADERS {
            table.insert(name.try_into()?, amqprs::FieldValue::S(value.try_into()?));
        }
        let before = self.confirmed.upto.load(Ordering::Acquire);
        let mut given = before;
        let start = Instant::now();
        loop {
            let more = self.confirmed.more.notified();
            let confirmed = self.confirmed.upto.load(Ordering::Acquire);
            if start.elapsed() >= load.time {
                if confirmed >= given {
                    break;
                }
            } else if given < confirmed + WINDOW as u64 {
                while given < confirmed + WINDOW as u64 {
                    let mut properties = BasicProperties::default();
                    properties.with_headers(table.clone());
                    let arguments = BasicPublishArguments::new("", "q");
                    self.channel.basic_publish(properties, body.clone(), arguments).await?;
                    given += 1;
                }
                continue;
            }
            more.await;
        }
        Ok((given - before) as f64 / start.elapsed().as_secs_f64())
    }
}

// === impl OnConfirm ===

type AmqpResult<T> = std::result::Result<T, amqprs::error::Error>;

#[async_trait::async_trait]
impl ChannelCallback for OnConfirm {
    async fn close(&mut self, _: &Channel, _: CloseChannel) -> AmqpResult<()> {
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> AmqpResult<()> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> AmqpResult<bool> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        // They come in order for one queue, as far as a rate is concerned.
        self.0.upto.fetch_max(ack.delivery_tag(), Ordering::Release);
        self.0.more.notify_one();
    }

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {}

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {}
}
