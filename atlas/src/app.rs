//! Builds an atlas from its configuration, and takes it down again.
//!
//! ```text
//!  :40012 gateways ─▶ links ─┐              ┌─ directory ◀─ cluster API ◀─ services :40011
//!                            ├──▶  store  ◀─┤
//!  :9092 admin ◀─ readiness ─┘  (probe, 1 s)└─ sums for metrics
//! ```
//! Ports are bound at the start, whatever Redis does: while it is away, probes say so, and who asks is told that it is unavailable.
//! With port 0 the addresses are in [`App::addresses`].

mod drain;
mod planes;
mod probe;
mod storage;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use frontier_ops::{
    admin::Admin,
    life::Server,
    metrics::{Family, Metrics},
    parts::Failures,
    readiness::{Guard, Readiness},
    serve::{OperatorPort, serve},
    telemetry::Telemetry,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    planes::{Plane, Planes},
    probe::Probe,
};
use crate::{
    api::{self, Cluster},
    config::{Config, Drain, Mode},
    directory::Directory,
    golink::{self, GoLinks},
    links::{Links, Terms},
    metrics::{self, Seen, Sums},
    store::{Measured, Memory, Store},
    watch::Watchers,
};

/// Where an atlas listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The cluster API.
    pub control_plane: SocketAddr,
    /// Gateways.
    pub frontier_plane: SocketAddr,
    /// Health and metrics.
    pub admin: SocketAddr,
}

/// A running atlas.
pub struct App {
    addresses: Addresses,
    readiness: Readiness,
    drain: Drain,
    failures: mpsc::Receiver<String>,
    /// Tells gateways and watchers to go elsewhere.
    farewell: Vec<Box<dyn Fn() + Send + Sync>>,
    /// The ports of gateways and clients, and what lives behind them.
    planes: TaskTracker,
    planes_stop: CancellationToken,
    /// Everything else.
    rest: TaskTracker,
    rest_stop: CancellationToken,
    draining: Option<Guard>,
}

/// What the parts share while they are built.
struct Build<'a> {
    config: &'a Config,
    readiness: Readiness,
    metrics: Metrics,
    seen: Seen,
    failed: Failures,
    rest: TaskTracker,
    rest_stop: CancellationToken,
}

// === impl App ===

impl App {
    /// Binds the ports and begins to connect to Redis. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When an address is taken, a file cannot be read or the settings cannot work.
    pub fn start(config: &Config, telemetry: &Telemetry) -> anyhow::Result<Self> {
        let open_files = config.daemon.rlimit.apply();
        tracing::info!(limit = open_files.limit, refused = open_files.refused, "open files");
        match config.redis.mode {
            Mode::Memory => {
                tracing::warn!("the state is in the memory of this process: no other atlas sees it");
                Self::over(config, telemetry, "memory", Memory::new(), |_| Vec::new())
            }
            Mode::Standalone | Mode::Sentinel | Mode::Cluster => {
                let redis = storage::redis(&config.redis).context("redis")?;
                Self::over(config, telemetry, "redis", redis, |redis| {
                    metrics::connections(redis.connections())
                })
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    fn over<S: Store>(
        config: &Config,
        telemetry: &Telemetry,
        store_name: &'static str,
        store: S,
        counted_by_store: fn(&S) -> Vec<Family>,
    ) -> anyhow::Result<Self> {
        let store = Arc::new(Measured::new(store));
        let (failed, failures) = Failures::new();
        let mut build = Build {
            config,
            readiness: Readiness::default(),
            metrics: Metrics::new("frontlas"),
            seen: Seen::default(),
            failed,
            rest: TaskTracker::new(),
            rest_stop: CancellationToken::new(),
        };
        let starting = build.readiness.guard("ports");
        let lost = telemetry.lost_lines();
        build.metrics.register(move || {
            let help = "Log lines dropped because the output is too slow";
            vec![Family::counter("frontlas_log_lines_lost", help).row(&[], lost())]
        });
        build.metrics.register({
            let store = Arc::clone(&store);
            move || {
                let mut families = metrics::store(&store.stats());
                families.extend(counted_by_store(store.inner()));
                families
            }
        });
        let sums = Arc::new(Sums::default());
        build.spawn("probe of the store", {
            let probe =
                Probe::new(store_name, Arc::clone(&store), build.readiness.clone(), Arc::clone(&sums));
            async move { probe.run().await }
        });
        let directory = Arc::new(Directory::new(Arc::clone(&store)));
        let most = config.limits.watchers;
        let watchers = Arc::new(Watchers::new(Arc::clone(&store), Arc::clone(&directory), most));
        build.spawn("watchers", {
            let watchers = Arc::clone(&watchers);
            async move { watchers.keep().await }
        });
        let terms = Terms { links: config.limits.links, ..Terms::default() };
        let links = Arc::new(Links::new(Arc::clone(&store), Arc::clone(&watchers), terms));
        let go = Arc::new(GoLinks::new(store, Arc::clone(&links), golink::Terms::default()));
        build.spawn("links", {
            let links = Arc::clone(&links);
            async move { links.keep().await }
        });
        build.metrics.register({
            let (links, watchers) = (Arc::clone(&links), Arc::clone(&watchers));
            let go = Arc::clone(&go);
            move || [metrics::families(&sums, &links, watchers.len()), metrics::go_gateways(&go)].concat()
        });
        let (planes, planes_stop) = (TaskTracker::new(), CancellationToken::new());
        let control = api::router(Cluster::new(directory, Arc::clone(&watchers)), &build.readiness);
        let frontier = planes::frontier(&build, &links, &planes);
        let go_gateways = planes::go_gateways(&build, &go);
        let mut open = Planes { build: &mut build, tasks: &planes, stop: &planes_stop };
        let control_plane = open.open(Plane::Control, control, None)?;
        let frontier_plane = open.open(Plane::Frontier, frontier, Some(go_gateways))?;
        let admin = build.admin(telemetry)?;
        let seen = std::mem::take(&mut build.seen);
        build.metrics.register(move || seen.families());
        drop(starting);
        tracing::info!(%control_plane, %frontier_plane, %admin, store = store_name, "atlas listening");
        Ok(Self {
            addresses: Addresses { control_plane, frontier_plane, admin },
            readiness: build.readiness,
            drain: config.drain.clone(),
            failures,
            farewell: vec![Box::new(move || links.drain()), Box::new(move || watchers.drain())],
            planes,
            planes_stop,
            rest: build.rest,
            rest_stop: build.rest_stop,
            draining: None,
        })
    }
}

impl Server for App {
    fn failure(&mut self) -> Option<String> {
        self.failures.try_recv().ok()
    }

    async fn failed(&mut self) -> String {
        self.failures.recv().await.unwrap_or_else(|| "every part has ended".to_owned())
    }

    async fn drain(&mut self, hurry: bool) {
        self.leave(hurry).await;
    }

    async fn stop(&mut self) {
        self.end().await;
    }
}

// === impl Build ===

impl Build<'_> {
    /// Runs a part for as long as the process does.
    fn spawn(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let stop = self.rest_stop.clone();
        let part = {
            let stop = stop.clone();
            async move {
                stop.run_until_cancelled(part).await;
            }
        };
        self.rest.spawn(self.failed.clone().watch(name, stop, part));
    }

    /// Binds the admin port and serves it.
    fn admin(&mut self, telemetry: &Telemetry) -> anyhow::Result<SocketAddr> {
        let listener = planes::bind(&self.config.observability.addr).context("observability.addr")?;
        let addr = listener.local_addr()?;
        let port = Arc::new(OperatorPort::new("admin"));
        self.seen.ports.push(Arc::clone(&port));
        let admin = Admin::new(
            self.metrics.clone(),
            self.readiness.clone(),
            telemetry.level(),
            self.config.effective(),
        );
        let part = serve(listener, port, None, admin.router(), self.rest_stop.clone());
        self.rest.spawn(self.failed.clone().watch("admin port", self.rest_stop.clone(), part));
        Ok(addr)
    }
}
