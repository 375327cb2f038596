//! Edges on all gateways and services of the cluster, all of the SDK, who ask something of each other all the time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier::{Edge, ErrorCode, Request, Service, State};
use parking_lot::Mutex;
use tokio::{runtime::Runtime, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::ledger::{DEADLINE, Ledger, Verb};
use crate::wait::SOON;

/// Between two operations of an edge, and of each of the two askers of a service.
const EDGE_PACE: Duration = Duration::from_millis(250);
const SERVICE_PACE: Duration = Duration::from_millis(40);

/// See the module documentation.
#[derive(Debug)]
pub struct Fleet {
    runtime: Runtime,
    shared: Arc<Shared>,
    services: Vec<Service>,
    /// Those who ask end with `stop`, those who receive with their clients.
    askers: TaskTracker,
    receivers: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    ledger: Arc<Ledger>,
    edges: Mutex<BTreeMap<u64, Member>>,
    gone: Mutex<Vec<u64>>,
    turn: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Member {
    edge: Edge,
    stop: CancellationToken,
}

// === impl Fleet ===

impl Fleet {
    /// Nobody yet.
    ///
    /// # Errors
    /// When there is no runtime.
    pub fn new(ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared =
            Shared { ledger, edges: Mutex::default(), gone: Mutex::default(), turn: AtomicUsize::new(0) };
        Ok(Self {
            runtime,
            shared: Arc::new(shared),
            services: Vec::new(),
            askers: TaskTracker::new(),
            receivers: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// A service of the cluster whose atlas is here; begins to ask.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn add_service(&mut self, atlas: &[SocketAddr]) -> anyhow::Result<()> {
        let ledger = Arc::clone(&self.shared.ledger);
        let echo = move |request: Request| {
            ledger.done(request.body());
            async move { Ok::<_, frontier::Error>(request.into_body()) }
        };
        let urls = atlas.iter().map(|addr| format!("http://{addr}")).collect::<Vec<_>>();
        let builder =
            Service::cluster(urls).name("s").topics(["t"]).method("echo", echo).call_timeout(DEADLINE);
        let service = self.runtime.block_on(builder.connect()).context("a service")?;
        for _ in 0..2 {
            let (service, shared, stop) = (service.clone(), Arc::clone(&self.shared), self.stop.clone());
            let asking = async move { shared.ask_edges(&service, &stop).await };
            drop(self.askers.spawn_on(asking, self.runtime.handle()));
        }
        for _ in 0..4 {
            let (service, shared) = (service.clone(), Arc::clone(&self.shared));
            let receiving = async move {
                while let Some(message) = service.receive().await {
                    shared.ledger.done(message.body());
                    drop(message.done().await);
                }
            };
            drop(self.receivers.spawn_on(receiving, self.runtime.handle()));
        }
        self.services.push(service);
        Ok(())
    }

    /// An edge that goes to the first of these gateways, and to the others when that is not there; begins to ask.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn add_edge(&self, gateways: &[SocketAddr]) -> anyhow::Result<u64> {
        self.edge(gateways, None)
    }

    /// A second session of an edge, at another gateway, shows the ticket of the first. Returns how long the first one lives on.
    ///
    /// # Errors
    /// When the ID is not granted, or the first session does not end.
    pub fn usurp(&self, id: u64, gateways: &[SocketAddr]) -> anyhow::Result<Duration> {
        let old = self.shared.edges.lock().get(&id).cloned().context("no such edge")?;
        old.stop.cancel();
        let watch = old.edge.watch();
        let new = self.edge(gateways, Some(&old.edge))?;
        let begin = Instant::now();
        ensure!(new == id, "edge {id} came back as {new}");
        let closed = async {
            let mut watch = watch;
            watch.until(State::is_closed).await
        };
        self.runtime.block_on(async { timeout(SOON, closed).await }).context("the older session lives on")?;
        Ok(begin.elapsed())
    }

    fn edge(&self, gateways: &[SocketAddr], old: Option<&Edge>) -> anyhow::Result<u64> {
        let known = Arc::new(OnceLock::new());
        let who = {
            let (ledger, known) = (Arc::clone(&self.shared.ledger), Arc::clone(&known));
            move |request: Request| {
                ledger.done(request.body());
                let id: u64 = known.get().copied().unwrap_or(0);
                async move { Ok::<_, frontier::Error>(id.to_string()) }
            }
        };
        let addresses = gateways.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut builder = Edge::builder(addresses).method("who", who).call_timeout(DEADLINE);
        if let Some(old) = old {
            builder = builder.resume(old.ticket());
        }
        let edge = self.runtime.block_on(builder.connect()).context("an edge")?;
        let id = edge.id().get();
        let _ = known.set(id);
        let stop = self.stop.child_token();
        let member = Member { edge: edge.clone(), stop: stop.clone() };
        self.shared.edges.lock().insert(id, member);
        self.shared.gone.lock().retain(|gone| *gone != id);
        let shared = Arc::clone(&self.shared);
        let asks = edge.clone();
        // Ends between two operations, so that the books have both sides of each.
        let asking = async move { shared.ask_services(&asks, id, &stop).await };
        drop(self.askers.spawn_on(asking, self.runtime.handle()));
        let shared = Arc::clone(&self.shared);
        let receiving = async move {
            while let Some(message) = edge.receive().await {
                shared.ledger.done(message.body());
                drop(message.done().await);
            }
        };
        drop(self.receivers.spawn_on(receiving, self.runtime.handle()));
        Ok(id)
    }

    /// An edge takes its leave.
    ///
    /// # Errors
    /// When there is no such edge.
    pub fn remove_edge(&self, id: u64) -> anyhow::Result<()> {
        self.shared.ledger.trouble([id]);
        let member = self.shared.edges.lock().remove(&id).context("no such edge")?;
        member.stop.cancel();
        self.shared.gone.lock().push(id);
        self.runtime.block_on(member.edge.close());
        Ok(())
    }

    /// The edges there are.
    #[must_use]
    pub fn edges(&self) -> Vec<u64> {
        self.shared.edges.lock().keys().copied().collect()
    }

    /// Those that have taken their leave.
    #[must_use]
    pub fn gone(&self) -> Vec<u64> {
        self.shared.gone.lock().clone()
    }

    /// How many services there are.
    #[must_use]
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// Every edge and the epoch of its session.
    ///
    /// # Errors
    /// With an edge that has none, or another ID than before.
    pub fn epochs(&self) -> anyhow::Result<BTreeMap<u64, u64>> {
        let edges = self.shared.edges.lock();
        let epochs = edges.iter().map(|(id, member)| match member.edge.state() {
            State::Ready { id: now, epoch } if now == *id => Ok((*id, epoch)),
            other => anyhow::bail!("edge {id}: {other}"),
        });
        epochs.collect()
    }

    /// Whether every service is connected to so many gateways.
    ///
    /// # Errors
    /// With one that is not.
    pub fn services_have(&self, gateways: usize) -> anyhow::Result<()> {
        for (at, service) in self.services.iter().enumerate() {
            let all = service.gateways();
            let connected = all.iter().filter(|gateway| gateway.state().is_connected()).count();
            ensure!(connected == gateways, "service {at} has {connected} of {gateways} gateways: {all:?}");
        }
        Ok(())
    }

    /// Every service calls every edge once, and those that are gone.
    ///
    /// # Errors
    /// With the first call that fails, or one that somebody answers who is gone.
    pub fn call_everybody(&self) -> anyhow::Result<()> {
        let (edges, gone) = (self.edges(), self.gone());
        self.runtime.block_on(async {
            let shared = &self.shared;
            let calls = self.services.iter().flat_map(|service| {
                edges.iter().map(move |edge| async move {
                    let outcome = shared.ask_edge(service, *edge, Verb::CallEdge).await;
                    outcome.map_err(|error| anyhow::anyhow!("edge {edge}: {error}"))
                })
            });
            futures::future::try_join_all(calls).await?;
            for service in &self.services {
                for edge in &gone {
                    let error = service.call(*edge, "who", "").timeout(DEADLINE).await.err();
                    let error = error.with_context(|| format!("edge {edge} is gone and answers"))?;
                    let code = error.code();
                    ensure!(code == ErrorCode::EdgeNotOnline, "edge {edge} is gone: {error}");
                }
            }
            Ok(())
        })
    }

    /// Everybody stops to ask, and what is under way ends.
    ///
    /// # Errors
    /// When it does not.
    pub fn hush(&self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.askers.close();
        self.runtime.block_on(async {
            timeout(DEADLINE + SOON, self.askers.wait()).await.context("operations that never end")
        })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

// === impl Shared ===

impl Shared {
    /// What a service does all day: it calls edges and sends them messages, one after the other.
    async fn ask_edges(&self, service: &Service, stop: &CancellationToken) {
        while pause(stop, SERVICE_PACE).await {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let edge = {
                let edges = self.edges.lock();
                edges.keys().nth(turn % edges.len().max(1)).copied()
            };
            let Some(edge) = edge else { continue };
            // Each edge gets both in the course of time: their number is not that of the verbs.
            let verb = if (turn / 3).is_multiple_of(2) { Verb::CallEdge } else { Verb::TellEdge };
            drop(self.ask_edge(service, edge, verb).await);
        }
    }

    async fn ask_edge(&self, service: &Service, edge: u64, verb: Verb) -> Result<(), String> {
        let begun = self.ledger.begin(verb, edge);
        let body = begun.number.to_string();
        let outcome = if verb == Verb::TellEdge {
            service.publish(edge, body).timeout(DEADLINE).await.map(|_| None)
        } else {
            service.call(edge, "who", body).timeout(DEADLINE).await.map(|reply| Some(reply.body().clone()))
        };
        if let Ok(Some(answer)) = &outcome
            && *answer != edge.to_string().as_bytes()
            // It has not been told yet who it is.
            && answer != "0"
        {
            self.ledger.wrong(format!("edge {answer:?} answers for {edge}"));
        }
        let outcome = outcome.map(drop).map_err(|error| error.to_string());
        self.ledger.end(begun, outcome.clone());
        outcome
    }

    /// What an edge does all day.
    async fn ask_services(&self, edge: &Edge, id: u64, stop: &CancellationToken) {
        let mut verb = Verb::Publish;
        while pause(stop, EDGE_PACE).await {
            verb = if verb == Verb::Publish { Verb::CallService } else { Verb::Publish };
            let begun = self.ledger.begin(verb, id);
            let body = begun.number.to_string();
            let outcome = if verb == Verb::Publish {
                edge.publish("t", body).timeout(DEADLINE).await.map(drop)
            } else {
                edge.call("echo", body.clone()).timeout(DEADLINE).await.map(|reply| {
                    if *reply.body() != body {
                        self.ledger.wrong(format!("{:?} is the answer to {body}", reply.body()));
                    }
                })
            };
            self.ledger.end(begun, outcome.map_err(|error| error.to_string()));
        }
    }
}

/// False when it is time to stop.
async fn pause(stop: &CancellationToken, pace: Duration) -> bool {
    stop.run_until_cancelled(tokio::time::sleep(pace)).await.is_some()
}
