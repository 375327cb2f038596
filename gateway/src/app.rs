//! Builds a gateway from its configuration, and takes it down again.
//!
//! Everything that can fail at start fails here, with the address or file in the error: the listeners of edges and services are bound
//! before any shard runs, those of operators behind them, because they ask the shards. With port 0 the addresses are in [`App`].

mod cluster;
mod drain;
mod gatekeeper;
mod guests;
mod operators;
mod reload;
mod settings;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::Instant,
};

use anyhow::Context;
use frontier_ops::{
    config::Listen, life::Server, parts::Failures, readiness::Readiness, telemetry::Telemetry,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::reload::Reload;
use self::{
    cluster::{Cluster, Place},
    guests::Guests,
    operators::Operators,
};
use crate::{
    config::Config,
    core::{Bound, Shard, Shared, identity::Gatekeeper},
    driver::{Accept, Driver, Foreign, Hub, Inbox, Listener, Tuning},
    plane::Plane,
    queues::Queues,
    sources::Sources,
};

/// A running gateway.
pub struct App {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    failures: mpsc::Receiver<String>,
    drain: crate::config::Drain,
    guests: Guests,
    operators: Operators,
    cluster: Cluster,
    queues: Arc<Queues>,
    sources: Arc<Sources>,
    readiness: Readiness,
    /// Ends with this value.
    _follow: JoinSet<()>,
}

// === impl App ===

impl App {
    /// Binds the listeners and starts the shards. On SIGHUP the configuration is read again by `reload`, if there is one.
    ///
    /// # Errors
    /// When an address is taken, a file cannot be read or a thread cannot be started.
    pub async fn start(
        config: &Config,
        telemetry: &Telemetry,
        reload: Option<Reload>,
    ) -> anyhow::Result<Self> {
        let readiness = Readiness::default();
        let starting = readiness.guard("shards");
        raise_open_files(config);
        let (authority, tokens) = gatekeeper::authority(config).context("identity")?;
        let (failed, failures) = Failures::new();
        let mut follow = gatekeeper::follow(
            Arc::clone(&authority),
            tokens,
            readiness.clone(),
            CancellationToken::new(),
            &failed,
        )?;
        authority.announce();
        let shards = u16::try_from(config.shard_count().get()).context("too many shards")?;
        let gatekeeper = Arc::clone(&authority) as Arc<dyn Gatekeeper>;
        let shared = Arc::new(Shared::new(settings::settings(config), shards, gatekeeper));
        let polls: Vec<mio::Poll> = (0..shards).map(|_| mio::Poll::new()).collect::<Result<_, _>>()?;
        let inboxes = polls.iter().map(Inbox::new).collect::<Result<_, _>>()?;
        let hub = Hub::new(inboxes, Arc::clone(&shared));
        let queues = Queues::start(&config.mqm, &hub, &shared, readiness.clone())?;
        let sources = Sources::start(&config.mqm, &hub, &shared, readiness.clone())?;
        let hangups = reload::follow(Arc::clone(&queues), Arc::clone(&sources), reload)?;
        follow.spawn(failed.clone().watch("queues", CancellationToken::new(), hangups));
        let guests = Guests::start(config, &hub, &readiness, &failed)?;
        let edge_tls = guests.handshake(Bound::Edge);
        let service_tls = guests.handshake(Bound::Service);
        let edges = bind(&config.edgebound.listen.port, Bound::Edge, edge_tls).context("edgebound.listen")?;
        let services = bind(&config.servicebound.listen.port, Bound::Service, service_tls)
            .context("servicebound.listen")?;
        let (edge_addr, service_addr) = (edges.local_addr()?, services.local_addr()?);
        let foreign = guests.foreign();
        let plane = Plane::new(Arc::clone(&hub), Arc::clone(&shared));
        let metrics = operators::metrics(&plane, telemetry, &authority, &guests);
        let counted = Arc::clone(&queues);
        metrics.register(move || counted.families());
        let counted = Arc::clone(&sources);
        metrics.register(move || counted.families());
        let start = Instant::now();
        let place = Place { edges: edge_addr, services: service_addr };
        let watched = (&readiness, &metrics);
        let cluster = Cluster::start(config, (&hub, &shared), start, &place, watched, &failed)?;
        cluster.ask_time().await;
        let listeners = vec![edges, services];
        let threads = spawn_shards(&shared, &hub, polls, listeners, &foreign, start, &failed)?;
        let operators = Operators::start(config, &plane, &readiness, telemetry, metrics, &failed)?;
        drop(starting);
        let (control, admin) = (operators.control.map(tracing::field::display), operators.admin);
        tracing::info!(control, %admin, "operators' ports listening");
        tracing::info!(edges = %edge_addr, services = %service_addr, shards, "gateway listening");
        Ok(Self {
            hub,
            shared,
            threads,
            failures,
            drain: config.drain.clone(),
            guests,
            operators,
            cluster,
            queues,
            sources,
            readiness,
            _follow: follow,
        })
    }
}

impl Server for App {
    fn failure(&mut self) -> Option<String> {
        self.failures.try_recv().ok()
    }

    async fn failed(&mut self) -> String {
        self.failures.recv().await.unwrap_or_else(|| "every shard has ended".to_owned())
    }

    async fn drain(&mut self, hurry: bool) {
        self.leave(hurry).await;
    }

    async fn stop(&mut self) {
        self.end().await;
    }
}

/// A connection is an open file, and the usual soft limit is far below what the hard one allows.
fn raise_open_files(config: &Config) {
    let outcome = config.daemon.rlimit.apply();
    tracing::info!(limit = outcome.limit, refused = outcome.refused, "open files");
}

/// Starts a thread per shard; the first one gets the listeners.
fn spawn_shards(
    shared: &Arc<Shared>,
    hub: &Arc<Hub>,
    polls: Vec<mio::Poll>,
    mut listeners: Vec<Listener>,
    foreign: &Foreign,
    start: Instant,
    failed: &Failures,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for (id, poll) in (0..).zip(polls) {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let shard = Shard::new(id, Arc::clone(shared), Driver::clock(start), u64::from_ne_bytes(seed));
        let own = std::mem::take(&mut listeners);
        let (hub, foreign) = (Arc::clone(hub), Some(Arc::clone(foreign)));
        let driver = Driver::new(shard, poll, hub, own, foreign, start, Tuning::default())?;
        let failed = failed.clone();
        let thread = std::thread::Builder::new().name(format!("shard-{id}")).spawn(move || {
            let why = match catch_unwind(AssertUnwindSafe(|| driver.run())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "panic".to_owned(),
            };
            // That ends the process: the others would wait for this shard for ever.
            failed.report(format!("shard {id} failed: {why}"));
        });
        threads.push(thread.context("shard thread")?);
    }
    Ok(threads)
}

fn bind(listen: &Listen, bound: Bound, tls: Option<Accept>) -> anyhow::Result<Listener> {
    Listener::bind(&listen.addr, bound, tls).with_context(|| format!("cannot bind {}", listen.addr))
}
