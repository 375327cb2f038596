//! The same as `e2e/go/geminio/soak.go`, made with our SDK: an edge or a service that does everything for a while, leaves at any moment
//! and begins anew. After each life it tells the outcomes, `<operation> <ok or error>`.
//!
//! Services offer the method `echo-<name>`, take the topic `topic-<name>` and echo streams; edges offer `echo`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use frontier::{Edge, Error, ErrorCode, Message, Peer, Reconnect, Request, Service, Stream};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Command, Events, Payload, Told};

/// How long an operation may take. All are answered at once, so one that runs into it was lost.
const PATIENCE: Duration = Duration::from_secs(15);
/// Edges a service remembers, to call them back.
const REMEMBERED: usize = 8;

#[derive(Debug)]
struct Soak {
    command: Command,
    until: Instant,
    outcomes: Mutex<BTreeMap<String, u64>>,
    edges: Mutex<VecDeque<u64>>,
    random: Mutex<u64>,
}

#[derive(Clone, Debug)]
enum Client {
    Edge(Edge),
    Service(Service),
}

pub(super) async fn soak(command: &Command, events: &Events) -> anyhow::Result<Told> {
    let length = Duration::from_millis(u64::try_from(command.count)?);
    let soak = Arc::new(Soak {
        command: command.clone(),
        until: Instant::now() + length,
        outcomes: Mutex::default(),
        edges: Mutex::default(),
        random: Mutex::new(command.seed),
    });
    while Instant::now() < soak.until {
        soak.life().await?;
        let outcomes = std::mem::take(&mut *soak.outcomes.lock());
        events.push(Told { event: "lived".to_owned(), outcomes, ..Told::default() });
    }
    Ok(Told::default())
}

// === impl Soak ===

impl Soak {
    /// A random number below `limit`.
    fn random(&self, limit: u64) -> u64 {
        let mut state = self.random.lock();
        // The generator of Knuth's MMIX; its high bits are good enough to choose by.
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % limit
    }

    fn add(&self, outcome: String) {
        *self.outcomes.lock().entry(outcome).or_insert(0) += 1;
    }

    fn remember(&self, peer: Peer) {
        let Some(edge) = peer.edge() else { return };
        let mut edges = self.edges.lock();
        edges.push_back(edge.get());
        if edges.len() > REMEMBERED {
            edges.pop_front();
        }
    }

    async fn connect(self: &Arc<Self>) -> anyhow::Result<Client> {
        let address = format!("tcp://{}", self.command.address);
        let soak = Arc::clone(self);
        let echo = move |request: Request| {
            soak.remember(request.from());
            async move { Ok(request.into_body()) }
        };
        if self.command.role == "edge" {
            let builder = Edge::builder(address).meta("soak").reconnect(Reconnect::never());
            let edge = builder.close_timeout(PATIENCE / 15).connect().await?;
            edge.register("echo", echo).await?;
            return Ok(Client::Edge(edge));
        }
        let name = &self.command.name;
        let builder = Service::builder(address).name(name).topics([format!("topic-{name}")]);
        let builder = builder.method(format!("echo-{name}"), echo).reconnect(Reconnect::never());
        Ok(Client::Service(builder.close_timeout(PATIENCE / 15).connect().await?))
    }

    /// One connection.
    async fn life(self: &Arc<Self>) -> anyhow::Result<()> {
        let client = self.connect().await.context("connect")?;
        self.add("connect ok".to_owned());
        let mut inside = JoinSet::new();
        inside.spawn(Arc::clone(self).receive_all(client.clone()));
        inside.spawn(accept_all(client.clone()));
        let over = (Instant::now() + Duration::from_millis(200 + self.random(2_500))).min(self.until);
        let mut working = JoinSet::new();
        for _ in 0..3 {
            let (soak, client) = (Arc::clone(self), client.clone());
            working.spawn(async move { while Instant::now() < over && soak.operation(&client).await {} });
        }
        sleep_until(over).await;
        let start = Instant::now();
        client.close().await;
        while working.join_next().await.is_some() {}
        inside.shutdown().await;
        let took = start.elapsed();
        self.add(if took > PATIENCE { format!("close took {took:?}") } else { "close ok".to_owned() });
        Ok(())
    }

    /// Does one thing; false when the connection is over.
    async fn operation(&self, client: &Client) -> bool {
        let edge = {
            let edges = self.edges.lock();
            let at = self.random(edges.len().max(1) as u64);
            usize::try_from(at).ok().and_then(|at| edges.get(at)).copied()
        };
        if edge.is_none() && matches!(client, Client::Service(_)) {
            sleep(Duration::from_millis(10)).await;
            return Instant::now() < self.until;
        }
        let edge = edge.unwrap_or_default();
        let at = usize::try_from(self.random(self.command.topics.len() as u64)).unwrap_or_default();
        let Some(target) = self.command.topics.get(at) else { return false };
        let len = usize::try_from(1 + self.random(4_096)).unwrap_or(1);
        let data = Payload::pattern(self.random(1_000), len).bytes();
        let (kind, done) = match self.random(5) {
            0 | 1 => {
                let call = match client {
                    Client::Edge(client) => client.call(format!("echo-{target}"), data.clone()),
                    Client::Service(client) => client.call(edge, "echo", data.clone()),
                };
                let reply = call.timeout(PATIENCE).await;
                let wrong = || Error::application("wrong answer");
                ("call", reply.and_then(|reply| if reply.body() == &data { Ok(()) } else { Err(wrong()) }))
            }
            2 | 3 => {
                let publish = match client {
                    Client::Edge(client) => client.publish(format!("topic-{target}"), data),
                    Client::Service(client) => client.publish(edge, data),
                };
                ("publish", publish.timeout(PATIENCE).await)
            }
            _ => {
                let open = match client {
                    Client::Edge(client) => client.open_stream(target),
                    Client::Service(client) => client.open_stream(edge),
                };
                let echoed = async { echoed(open.timeout(PATIENCE).await?, &data).await };
                (
                    "stream",
                    timeout(2 * PATIENCE, echoed).await.unwrap_or_else(|_| Err(Error::application("lost"))),
                )
            }
        };
        let outcome = match &done {
            Ok(()) => "ok".to_owned(),
            Err(error) if error.code() == ErrorCode::DeadlineExceeded => "lost".to_owned(),
            Err(error) if error.code() == ErrorCode::Application => error.text().to_owned(),
            Err(error) => error.code().to_string(),
        };
        self.add(format!("{kind} {outcome}"));
        done.err().is_none_or(|error| error.code() != ErrorCode::SessionClosed)
    }

    /// Acknowledges every message, some with an error.
    async fn receive_all(self: Arc<Self>, client: Client) {
        let mut number = 0_u32;
        while let Some(message) = client.receive().await {
            self.remember(message.from());
            let settled =
                if number % 10 == 9 { message.error("no more of these").await } else { message.done().await };
            // The session may have ended.
            drop(settled);
            number += 1;
        }
    }
}

/// Writes to a stream and wants the same back.
async fn echoed(mut stream: Stream, data: &[u8]) -> Result<(), Error> {
    // The other end may leave at any moment.
    let ended = |_| Error::application("ended");
    stream.write_all(data).await.map_err(ended)?;
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back).await.map_err(ended)?;
    if back == data { Ok(()) } else { Err(Error::application("wrong bytes")) }
}

/// Echoes every stream.
async fn accept_all(client: Client) {
    let mut open = JoinSet::new();
    while let Some(mut stream) = client.accept().await {
        open.spawn(async move {
            while let Ok(Some(bytes)) = stream.read_bytes().await {
                if stream.write_bytes(bytes).await.is_err() {
                    return;
                }
            }
            drop(stream.shutdown().await);
        });
        while open.try_join_next().is_some() {}
    }
}

// === impl Client ===

impl Client {
    async fn receive(&self) -> Option<Message> {
        match self {
            Self::Edge(edge) => edge.receive().await,
            Self::Service(service) => service.receive().await,
        }
    }

    async fn accept(&self) -> Option<Stream> {
        match self {
            Self::Edge(edge) => edge.accept_stream().await,
            Self::Service(service) => service.accept_stream().await,
        }
    }

    async fn close(&self) {
        match self {
            Self::Edge(edge) => edge.close().await,
            Self::Service(service) => service.close().await,
        }
    }
}
