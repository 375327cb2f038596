//! What the examples in this library's documentation play in, so that they run: a gateway within the process, services and an edge that
//! answer, and the handle the example is about.
//!
//! The services are `calculator` (method `sum`), `collector` (topic `telemetry`) and `files` (streams); the edge has the ID 42 and
//! offers `echo`. A stream brings back what was written to it, and there are a method and a message on it. Everybody is called on once
//! in the background. At port 40011 there is the registry of a cluster that has this one gateway.

use std::{cell::RefCell, fmt::Debug, future::poll_fn, pin::Pin, time::Duration};

use tokio::{io::AsyncWriteExt, runtime, sync::mpsc, task::JoinSet, time::timeout};

use super::Gateway;
use crate::{
    Edge, EdgeId, EdgeInfo, IncomingStream, Message, Request, Result, Service, Stream, transport::Dialer,
};

thread_local! {
    /// The gateway that builders on this thread reach, whatever their addresses.
    static GATEWAY: RefCell<Option<Dialer>> = const { RefCell::new(None) };
}

/// How long an example may take; milliseconds are usual.
const PATIENCE: Duration = Duration::from_secs(20);

/// The edge services talk to.
const EDGE: u64 = 42;

/// Who takes part beside the example.
#[derive(Debug)]
pub struct Cast {
    gateway: Gateway,
    #[cfg(feature = "cluster")]
    registry: super::cluster::Registry,
    edge: Edge,
    services: Vec<Service>,
    tasks: JoinSet<Result<()>>,
}

/// What an example may be about.
pub trait Part: Sized {
    /// Brings it about.
    fn enter(cast: &mut Cast) -> impl Future<Output = Self>;
}

/// What an example may return.
pub trait Outcome {
    /// Panics if it is an error.
    fn check(self);
}

/// An example, of whatever it is about. There are many, and `run` is compiled once.
type Example = Box<dyn for<'a> FnOnce(&'a mut Cast) -> Pin<Box<dyn Future<Output = ()> + 'a>>>;

/// Runs an example.
///
/// # Panics
/// If it fails or takes too long.
pub fn play<P: Part + 'static, O: Outcome>(example: impl AsyncFnOnce(P) -> O + 'static) {
    run(Box::new(|cast| Box::pin(async move { example(P::enter(cast).await).await.check() })));
}

fn run(example: Example) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.expect("a runtime can be had").block_on(async {
        let mut cast = Cast::assemble().await;
        GATEWAY.set(Some(cast.dialer()));
        timeout(PATIENCE, example(&mut cast)).await
    });
    ended.expect("an example ends");
}

/// The gateway that builders on this thread reach.
pub(crate) fn dialer() -> Option<Dialer> {
    GATEWAY.with_borrow(Clone::clone)
}

// === impl Cast ===

impl Cast {
    async fn assemble() -> Self {
        let gateway = Gateway::start();
        #[cfg(feature = "cluster")]
        let registry = super::cluster::Registry::start();
        #[cfg(feature = "cluster")]
        registry.put("gateway", "127.0.0.1:30011", &gateway);
        let calculator = gateway.service().name("calculator").method("sum", sum);
        let collector = gateway.service().name("collector").topics(["telemetry"]);
        let files = gateway.service().name("files");
        let mut services = Vec::new();
        for service in [calculator, collector, files] {
            services.push(service.connect().await.expect("services are admitted"));
        }
        // Whoever wishes for an ID gets it.
        let ids =
            services[0].on_edge_id(|edge| async move { Ok(Some(edge.id()).filter(|id| id.get() != 0)) });
        ids.await.expect("reserved methods can be offered");
        let edge = gateway.edge().wished_id(EDGE).meta("sn-42").label("site", "berlin");
        let edge = edge.method("echo", |req: Request| async move { Ok(req.into_body()) });
        let edge = edge.connect().await.expect("edges are admitted");

        let mut tasks = JoinSet::new();
        let (collector, files) = (services[1].clone(), services[2].clone());
        tasks.spawn(async move {
            while let Some(message) = collector.receive().await {
                message.done().await?;
            }
            Ok(())
        });
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Some(stream) = files.accept_stream().await {
                serving.spawn(serve(stream));
            }
            Ok(())
        });
        let (messages, streams) = (edge.clone(), edge.clone());
        tasks.spawn(async move {
            while let Some(message) = messages.receive().await {
                message.done().await?;
            }
            Ok(())
        });
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Some(stream) = streams.accept_stream().await {
                serving.spawn(serve(stream));
            }
            Ok(())
        });
        Self {
            gateway,
            #[cfg(feature = "cluster")]
            registry,
            edge,
            services,
            tasks,
        }
    }

    /// Reaches the gateway at every address, except at that of the registry.
    fn dialer(&self) -> Dialer {
        let switchboard = crate::transport::Switchboard::with_rest(self.gateway.pipes.clone());
        #[cfg(feature = "cluster")]
        switchboard.connect("127.0.0.1:40011", self.registry.pipes());
        Dialer::Switchboard(switchboard.into())
    }

    /// A service which the edge turns to.
    async fn service(&mut self) -> Service {
        let service = self.gateway.service().name("press").topics(["news"]);
        let service = service.connect().await.expect("services are admitted");
        let (writer, opener) = (self.edge.clone(), self.edge.clone());
        self.tasks.spawn(async move { writer.publish("news", "it works").await });
        self.tasks.spawn(async move { opener.open_stream("press").meta("/etc/hostname").await.map(drop) });
        service
    }

    /// Hands over what comes first by `by`, which is asked for by a service of the cast.
    async fn first<T: Send + 'static>(&mut self, come: impl AsyncFnOnce(Service) -> Option<T>) -> T {
        let service = self.service().await;
        self.services.push(service.clone());
        come(service).await.expect("the edge turns to it")
    }
}

/// Adds up.
async fn sum(req: Request) -> Result<String> {
    let text = std::str::from_utf8(req.body()).map_err(crate::Error::application)?;
    Ok(text.split(' ').filter_map(|word| word.parse::<i64>().ok()).sum::<i64>().to_string())
}

/// Offers a method, sends a message, and brings back what comes.
async fn serve(mut stream: Stream) -> std::io::Result<()> {
    stream.register("size", |_| async { Ok("42") });
    let message = stream.publish("progress", "0 %");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { message.await });
    loop {
        tokio::select! {
            Some(message) = stream.receive() => drop(message.done()),
            bytes = poll_fn(|cx| stream.shared().poll_bytes(cx, usize::MAX)) => match bytes? {
                bytes if bytes.is_empty() => return stream.shutdown().await,
                bytes => stream.write_bytes(bytes).await?,
            },
        }
    }
}

// === impl Part ===

impl Part for () {
    async fn enter(_: &mut Cast) {}
}

impl Part for Edge {
    async fn enter(cast: &mut Cast) -> Self {
        let edge = cast.gateway.edge().meta("sn-7").connect().await.expect("edges are admitted");
        let id: EdgeId = edge.id();
        let (writer, opener) = (cast.services[0].clone(), cast.services[0].clone());
        cast.tasks.spawn(async move { writer.publish(id, "it works").topic("news").await });
        cast.tasks.spawn(async move { opener.open_stream(id).name("files").await.map(drop) });
        edge
    }
}

impl Part for Service {
    async fn enter(cast: &mut Cast) -> Self {
        cast.service().await
    }
}

impl Part for Stream {
    async fn enter(cast: &mut Cast) -> Self {
        cast.edge.open_stream("files").await.expect("streams are accepted")
    }
}

impl Part for IncomingStream {
    async fn enter(cast: &mut Cast) -> Self {
        cast.first(async |service| service.next_stream().await).await
    }
}

impl Part for Message {
    async fn enter(cast: &mut Cast) -> Self {
        cast.first(async |service| service.receive().await).await
    }
}

impl Part for Request {
    async fn enter(cast: &mut Cast) -> Self {
        let (requests, mut came) = mpsc::channel(1);
        let answer = move |request| {
            let requests = requests.clone();
            async move {
                requests.send(request).await.map_err(crate::Error::application)?;
                // The example deals with it.
                std::future::pending::<Result<()>>().await
            }
        };
        cast.edge.register("look", answer).await.expect("methods can be offered");
        let caller = cast.services[0].clone();
        cast.tasks.spawn(async move { caller.call(EDGE, "look", "closely").await.map(drop) });
        came.recv().await.expect("the service calls")
    }
}

impl Part for EdgeInfo {
    async fn enter(cast: &mut Cast) -> Self {
        let online = cast.services[0].presence().await.expect("presence can be asked for");
        online.into_iter().next().expect("the edge is online")
    }
}

// === impl Outcome ===

impl Outcome for () {
    fn check(self) {}
}

impl<E: Debug> Outcome for Result<(), E> {
    fn check(self) {
        self.expect("an example works");
    }
}
