//! Edges and services made with our SDK, played by the same commands as the Go peers.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use frontier::{
    Edge, EdgeInfo, Error, ErrorCode, Message, Reconnect, Reply, Request, Service, State, Stream, TlsOptions,
};
use futures::{
    future::{BoxFuture, FutureExt},
    stream::StreamExt,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
    sync::{Mutex as AsyncMutex, oneshot},
    time::{sleep, timeout},
};

use super::{Command, Events, Payload, Told, soak::soak};
use crate::{certs, proxy::Proxy};

/// How long one of several operations on a stream keeps the others waiting.
const SLICE: Duration = Duration::from_millis(2);
/// How long what is under way may take to end when a client is closed.
const CLOSE: Duration = Duration::from_secs(1);
/// How long a stream that was closed is read on, for its end to be seen.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Native {
    stage: Arc<Stage>,
}

#[derive(Debug, Default)]
struct Stage {
    last: AtomicU64,
    events: Events,
    ends: Mutex<HashMap<u64, End>>,
    streams: Mutex<HashMap<u64, Shared>>,
    requests: Mutex<HashMap<u64, oneshot::Sender<Verdict>>>,
    messages: Mutex<HashMap<u64, Message>>,
    /// Dropped, the command is cancelled.
    commands: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

/// A stream is used by several commands at once, each for a slice of time.
type Shared = Arc<AsyncMutex<Stream>>;

#[derive(Clone, Debug)]
struct End {
    client: Client,
    // Breaks the connection when it is dropped.
    proxy: Arc<Mutex<Option<Proxy>>>,
}

#[derive(Clone, Debug)]
enum Client {
    Edge(Edge),
    Service(Service),
}

/// What a test says to a request that it holds.
#[derive(Debug)]
struct Verdict {
    data: Vec<u8>,
    edge: u64,
    error: Option<String>,
}

fn runtime() -> anyhow::Result<&'static Runtime> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let runtime = RUNTIME
        .get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build());
    runtime.as_ref().map_err(|error| anyhow!("no runtime: {error}"))
}

// === impl Native ===

impl Native {
    pub(super) fn start() -> anyhow::Result<Self> {
        runtime()?;
        Ok(Self { stage: Arc::default() })
    }

    pub(super) fn begin(&self, command: Command) -> anyhow::Result<(u64, Receiver<Told>)> {
        let (sender, receiver) = sync_channel(1);
        let (cancel, cancelled) = oneshot::channel();
        let id = self.stage.number();
        self.stage.commands.lock().insert(id, cancel);
        let stage = Arc::clone(&self.stage);
        runtime()?.spawn(async move {
            let acted = tokio::select! {
                acted = stage.act(&command) => acted,
                _ = cancelled => Err(Error::new(ErrorCode::Cancelled, "").into()),
            };
            let told =
                acted.unwrap_or_else(|error| Told { error: Some(error_text(&error)), ..Told::default() });
            stage.commands.lock().remove(&id);
            // Who began the command may not wait for its answer.
            drop(sender.try_send(told));
        });
        Ok((id, receiver))
    }

    pub(super) fn events(&self) -> &Events {
        &self.stage.events
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.stage.commands.lock().clear();
        let ends: Vec<End> = self.stage.ends.lock().drain().map(|(_, end)| end).collect();
        self.stage.streams.lock().clear();
        drop(ends);
    }
}

/// What a scenario compares: the text of an application, the code of anything else.
fn error_text(error: &anyhow::Error) -> String {
    let coded = error.downcast_ref::<Error>().or_else(|| {
        let io = error.downcast_ref::<io::Error>()?;
        io.get_ref()?.downcast_ref()
    });
    match coded {
        Some(error) if error.code() == ErrorCode::Application => error.text().to_owned(),
        Some(error) => error.code().to_string(),
        None => match error.downcast_ref::<frontier::ConnectError>() {
            Some(frontier::ConnectError::Rejected(error)) if error.code() == ErrorCode::Application => {
                error.text().to_owned()
            }
            Some(frontier::ConnectError::Rejected(error)) => error.code().to_string(),
            _ => format!("{error:#}"),
        },
    }
}

// === impl Stage ===

impl Stage {
    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn end(&self, number: u64) -> anyhow::Result<End> {
        self.ends.lock().get(&number).cloned().with_context(|| format!("no end {number}"))
    }

    fn stream(&self, number: u64) -> anyhow::Result<Shared> {
        self.streams.lock().get(&number).cloned().with_context(|| format!("no stream {number}"))
    }

    async fn act(self: &Arc<Self>, command: &Command) -> anyhow::Result<Told> {
        match command.verb {
            "connect" => self.connect(command).await,
            "id" => Ok(Told { client: self.end(command.end)?.client.id(), ..Told::default() }),
            "register" => self.register(command).await,
            "respond" => self.respond(command),
            "call" => self.call(command).await,
            "call_many" => self.call_many(command).await,
            "publish" => self.publish(command).await,
            "publish_many" => self.publish_many(command).await,
            "receive" => self.receive(command).await,
            "receive_many" => self.receive_many(command).await,
            "done" => self.settle(command).await,
            "cancel" => {
                self.commands.lock().remove(&command.of).context("no such command")?;
                Ok(Told::default())
            }
            "open" => self.open(command).await,
            "accept" => {
                let stream = self.end(command.end)?.client.accept().await.context("closed")?;
                Ok(self.keep(stream))
            }
            "write" => self.write(command).await,
            "read" => self.read(command).await,
            "close" => self.close(command).await,
            "soak" => soak(command, &self.events).await,
            "break" => {
                let proxy = self.end(command.end)?.proxy.lock().take().context("not to be broken")?;
                // It waits for its threads.
                tokio::task::spawn_blocking(|| drop(proxy)).await?;
                Ok(Told::default())
            }
            verb => bail!("no command {verb}"),
        }
    }

    // --- connections ---

    async fn connect(self: &Arc<Self>, command: &Command) -> anyhow::Result<Told> {
        let gateway = command.address.parse()?;
        let proxy = if command.how == "breakable" { Some(Proxy::start(gateway)?) } else { None };
        let address = format!("tcp://{}", proxy.as_ref().map_or(gateway, Proxy::addr));
        let policy = if command.retry { Reconnect::default() } else { Reconnect::never() };
        let tls = (!command.ca.is_empty())
            .then(|| TlsOptions::new().roots_file(&command.ca).server_name(certs::NAME));
        let client = if command.role == "edge" {
            let mut builder =
                Edge::builder(address).meta(command.data.bytes()).reconnect(policy).close_timeout(CLOSE);
            if command.wish != 0 {
                builder = builder.wished_id(command.wish);
            }
            if let Some(tls) = tls {
                builder = builder.tls(tls);
            }
            Client::Edge(builder.connect().await?)
        } else {
            let mut builder = Service::builder(address).name(&command.name).topics(command.topics.clone());
            if let Some(tls) = tls {
                builder = builder.tls(tls);
            }
            Client::Service(builder.reconnect(policy).close_timeout(CLOSE).connect().await?)
        };
        let number = self.number();
        self.watch(number, &client)?;
        let told = Told { end: number, client: client.id(), ..Told::default() };
        self.ends.lock().insert(number, End { client, proxy: Arc::new(Mutex::new(proxy)) });
        Ok(told)
    }

    /// Tells when the connection is lost, and when there is a new one.
    fn watch(self: &Arc<Self>, end: u64, client: &Client) -> anyhow::Result<()> {
        let mut watch = match client {
            Client::Edge(edge) => edge.watch(),
            Client::Service(service) => service.watch(),
        };
        let stage = Arc::downgrade(self);
        runtime()?.spawn(async move {
            while let Some(state) = watch.changed().await {
                let event = match state {
                    State::Ready { id, .. } => {
                        Told { event: "online".to_owned(), client: id, ..Told::default() }
                    }
                    State::Reconnecting { attempt: 0, .. } | State::Closed { .. } => {
                        Told { event: "offline".to_owned(), ..Told::default() }
                    }
                    _ => continue,
                };
                let Some(stage) = stage.upgrade() else { return };
                stage.events.push(Told { end, ..event });
            }
        });
        Ok(())
    }

    // --- calls ---

    async fn register(self: &Arc<Self>, command: &Command) -> anyhow::Result<Told> {
        let (stage, end, number) = (Arc::downgrade(self), command.end, command.stream);
        let hold_until = move |about: Told, cancelled: BoxFuture<'static, ()>| {
            let stage = stage.upgrade();
            async move {
                let Some(stage) = stage else { return Err(Error::application("gone")) };
                stage.hold(Told { end, stream: number, ..about }, cancelled).await
            }
        };
        let how = command.how;
        let hold = hold_until.clone();
        let ask = move |about: Told| hold_until(about, std::future::pending().boxed());
        let handler = move |request: Request| {
            let hold = hold.clone();
            async move {
                match how {
                    "echo" => Ok(Reply::from(request.into_body())),
                    "fail" => Err(Error::application(String::from_utf8_lossy(request.body()))),
                    _ => {
                        let left = request.remaining().map_or(0, |left| left.as_millis().max(1));
                        let about = Told {
                            name: request.method().to_owned(),
                            client: request.from().edge().map_or(0, frontier::EdgeId::get),
                            data: Payload::summary(request.body()),
                            left: i64::try_from(left).unwrap_or(i64::MAX),
                            ..Told::default()
                        };
                        Ok(Reply::from(hold(about, request.cancelled().boxed()).await?.data))
                    }
                }
            }
        };
        if command.stream != 0 {
            self.stream(command.stream)?.lock().await.register(&command.name, handler);
            return Ok(Told::default());
        }
        let about = |name: &'static str| {
            move |edge: &EdgeInfo| Told {
                name: name.to_owned(),
                client: edge.id().get(),
                data: Payload::summary(edge.meta()),
                addr: edge.addr().to_owned(),
                ..Told::default()
            }
        };
        match (self.end(command.end)?.client, command.name.as_str()) {
            (Client::Edge(edge), name) => edge.register(name, handler).await?,
            (Client::Service(service), "get_edge_id") => {
                let about = about("get_edge_id");
                let handler = move |edge: EdgeInfo| {
                    let verdict = ask(about(&edge));
                    async move { Ok(Some(verdict.await?.edge.into())) }
                };
                service.on_edge_id(handler).await?;
            }
            (Client::Service(service), "edge_online") => {
                let about = about("edge_online");
                let handler = move |edge: EdgeInfo| {
                    let verdict = ask(about(&edge));
                    async move { verdict.await.map(drop) }
                };
                service.on_edge_online(handler).await?;
            }
            (Client::Service(service), "edge_offline") => {
                let about = about("edge_offline");
                let handler = move |edge: EdgeInfo| {
                    let verdict = ask(about(&edge));
                    async move { drop(verdict.await) }
                };
                service.on_edge_offline(handler).await?;
            }
            (Client::Service(service), name) => service.register(name, handler).await?,
        }
        Ok(Told::default())
    }

    /// Tells the test of a request and waits for its verdict.
    async fn hold(&self, about: Told, cancelled: BoxFuture<'static, ()>) -> Result<Verdict, Error> {
        let (sender, mut receiver) = oneshot::channel();
        let of = self.number();
        self.requests.lock().insert(of, sender);
        let again = Told {
            event: "cancelled".to_owned(),
            of,
            end: about.end,
            name: about.name.clone(),
            ..Told::default()
        };
        self.events.push(Told { event: "request".to_owned(), of, ..about });
        let verdict = tokio::select! {
            biased;
            verdict = &mut receiver => verdict,
            () = cancelled => {
                self.events.push(again);
                receiver.await
            }
        };
        let verdict = verdict.map_err(|_| Error::application("gone"))?;
        match verdict.error {
            Some(error) => Err(Error::application(error)),
            None => Ok(verdict),
        }
    }

    fn respond(&self, command: &Command) -> anyhow::Result<Told> {
        let request = self.requests.lock().remove(&command.of).context("no such request")?;
        let error = Some(command.error.clone()).filter(|error| !error.is_empty());
        drop(request.send(Verdict { data: command.data.bytes(), edge: command.edge, error }));
        Ok(Told::default())
    }

    async fn call(&self, command: &Command) -> anyhow::Result<Told> {
        let (name, body) = (command.name.as_str(), command.data.bytes());
        let mut call = if command.stream != 0 {
            self.stream(command.stream)?.lock().await.call(name, body)
        } else {
            match self.end(command.end)?.client {
                Client::Edge(edge) => edge.call(name, body),
                Client::Service(service) => service.call(command.edge, name, body),
            }
        };
        if let Some(after) = patience(command) {
            call = call.timeout(after);
        }
        let reply = call.await?;
        Ok(Told { client: command.edge, data: Payload::summary(reply.body()), ..Told::default() })
    }

    async fn call_many(&self, command: &Command) -> anyhow::Result<Told> {
        let calls = (0..command.count).map(|number| async move {
            let text = format!("{number} of {}", command.name);
            let one = Command { data: Payload::from(text.as_str()), ..command.clone() };
            match self.call(&one).await {
                Ok(told) if told.data.text == text => "ok".to_owned(),
                Ok(_) => "wrong answer".to_owned(),
                Err(error) => error_text(&error),
            }
        });
        Ok(counted(calls, command.window).await)
    }

    // --- messages ---

    async fn publish(&self, command: &Command) -> anyhow::Result<Told> {
        let (name, body) = (command.name.as_str(), command.data.bytes());
        let mut publish = if command.stream != 0 {
            self.stream(command.stream)?.lock().await.publish(name, body)
        } else {
            match self.end(command.end)?.client {
                Client::Edge(edge) => edge.publish(name, body),
                Client::Service(service) => service.publish(command.edge, body).topic(name),
            }
        };
        if let Some(after) = patience(command) {
            publish = publish.timeout(after);
        }
        publish.await?;
        Ok(Told::default())
    }

    /// Numbered messages in their order.
    async fn publish_many(&self, command: &Command) -> anyhow::Result<Told> {
        let publishes = (0..command.count).map(|number| async move {
            let text = numbered(number, command.data.len);
            let one = Command { data: Payload::from(text.as_str()), ..command.clone() };
            match self.publish(&one).await {
                Ok(_) => "ok".to_owned(),
                Err(error) => error_text(&error),
            }
        });
        Ok(counted(publishes, command.window).await)
    }

    async fn next_message(&self, command: &Command) -> anyhow::Result<Message> {
        if command.stream == 0 {
            return match self.end(command.end)?.client {
                Client::Edge(edge) => edge.receive().await,
                Client::Service(service) => service.receive().await,
            }
            .context("closed");
        }
        let stream = self.stream(command.stream)?;
        loop {
            if let Ok(message) = timeout(SLICE, stream.lock().await.receive()).await {
                return message.context("closed");
            }
        }
    }

    async fn receive(&self, command: &Command) -> anyhow::Result<Told> {
        let message = self.next_message(command).await?;
        let told = Told {
            of: self.number(),
            client: message.from().edge().map_or(0, frontier::EdgeId::get),
            name: message.topic().to_owned(),
            data: Payload::summary(message.body()),
            ..Told::default()
        };
        self.messages.lock().insert(told.of, message);
        Ok(told)
    }

    async fn settle(&self, command: &Command) -> anyhow::Result<Told> {
        let message = self.messages.lock().remove(&command.of).context("no such message")?;
        if command.error.is_empty() {
            message.done().await?;
        } else {
            message.error(command.error.clone()).await?;
        }
        Ok(Told::default())
    }

    async fn receive_many(&self, command: &Command) -> anyhow::Result<Told> {
        for number in 0..command.count {
            let message = self.next_message(command).await?;
            let text = String::from_utf8_lossy(message.body()).into_owned();
            if text != numbered(number, message.body().len()) {
                bail!("message {number} is {text:.40}");
            }
            message.done().await?;
        }
        Ok(Told { count: usize::try_from(command.count)?, ..Told::default() })
    }

    // --- streams ---

    fn keep(&self, stream: Stream) -> Told {
        let number = self.number();
        let told = Told {
            stream: number,
            name: stream.name().to_owned(),
            client: stream.peer().edge().map_or(0, frontier::EdgeId::get),
            data: Payload::summary(stream.meta()),
            ..Told::default()
        };
        self.streams.lock().insert(number, Arc::new(AsyncMutex::new(stream)));
        told
    }

    async fn open(&self, command: &Command) -> anyhow::Result<Told> {
        let open = match self.end(command.end)?.client {
            Client::Edge(edge) => edge.open_stream(&command.name),
            Client::Service(service) => service.open_stream(command.edge),
        };
        Ok(self.keep(open.meta(command.data.bytes()).await?))
    }

    async fn write(&self, command: &Command) -> anyhow::Result<Told> {
        let stream = self.stream(command.stream)?;
        let all = command.data.bytes();
        let chunk = if command.chunk == 0 { all.len().max(1) } else { command.chunk };
        for piece in all.chunks(chunk) {
            let mut rest = piece;
            while !rest.is_empty() {
                // A write that is given up has written nothing.
                if let Ok(written) = timeout(SLICE, stream.lock().await.write(rest)).await {
                    rest = rest.get(written?..).unwrap_or_default();
                }
            }
            rest_for(command.pause).await;
        }
        Ok(Told { count: all.len(), ..Told::default() })
    }

    async fn read(&self, command: &Command) -> anyhow::Result<Told> {
        let stream = self.stream(command.stream)?;
        let goal = usize::try_from(command.count).unwrap_or(usize::MAX);
        let mut piece = vec![0; if command.chunk == 0 { 32 << 10 } else { command.chunk }];
        let mut all = Vec::new();
        let mut eof = false;
        while !eof && all.len() < goal {
            let len = piece.len().min(goal - all.len());
            let Some(room) = piece.get_mut(..len) else { break };
            let Ok(read) = timeout(SLICE, stream.lock().await.read(room)).await else { continue };
            let read = read?;
            all.extend_from_slice(room.get(..read).unwrap_or_default());
            eof = read == 0;
            rest_for(command.pause).await;
        }
        Ok(Told { count: all.len(), data: Payload::summary(&all), eof, ..Told::default() })
    }

    async fn close(&self, command: &Command) -> anyhow::Result<Told> {
        if command.stream == 0 {
            let end = self.ends.lock().remove(&command.end).context("no such end")?;
            match end.client {
                Client::Edge(edge) => edge.close().await,
                Client::Service(service) => service.close().await,
            }
            return Ok(Told::default());
        }
        let stream = self.streams.lock().remove(&command.stream).context("no such stream")?;
        let mut stream = stream.lock().await;
        stream.shutdown().await?;
        // What the other end still sends is not wanted, only its end.
        let mut rest = [0; 4 << 10];
        drop(
            timeout(LINGER, async { while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {} }).await,
        );
        Ok(Told::default())
    }
}

/// How long the caller waits, if it says so.
fn patience(command: &Command) -> Option<Duration> {
    let least = [command.timeout, command.deadline].into_iter().filter(|millis| *millis > 0).min();
    least.map(Duration::from_millis)
}

async fn rest_for(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// Runs operations in their order, so many at once, and counts what became of them.
async fn counted(operations: impl Iterator<Item = impl Future<Output = String>>, window: u32) -> Told {
    let window = usize::try_from(window.max(1)).unwrap_or(usize::MAX);
    let mut outcomes = BTreeMap::new();
    let mut ends = futures::stream::iter(operations).buffered(window);
    while let Some(outcome) = ends.next().await {
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    Told { outcomes, ..Told::default() }
}

/// The message with a number, filled up to a length.
fn numbered(number: i64, len: usize) -> String {
    let mut text = format!("message {number} ");
    while text.len() < len {
        text.push('.');
    }
    text
}

// === impl Client ===

impl Client {
    fn id(&self) -> u64 {
        match self {
            Self::Edge(edge) => edge.id().get(),
            Self::Service(service) => service.id().get(),
        }
    }

    async fn accept(&self) -> Option<Stream> {
        match self {
            Self::Edge(edge) => edge.accept_stream().await,
            Self::Service(service) => service.accept_stream().await,
        }
    }
}
