//! Builds the operator, and takes it down again.
//!
//! ```text
//!  wait for the lease ─▶ controller ─▶ lease lost: dropped at once, wait again
//!                                  └─▶ told to end: finishes what it is at, lease given back
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, routing::get};
use frontier_ops::{
    admin::Admin,
    life::Server,
    metrics::{Family, Metrics},
    parts::Failures,
    readiness::Readiness,
    serve::{OperatorPort, serve},
    telemetry::Telemetry,
};
use kube::{Api, Client, Config};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cli::Cli,
    client,
    controller::{self, Context},
    lease::{Gate, Lease, Terms},
    metrics::Counters,
    render::Images,
};

/// For what is under way when the operator is told to end.
const LAST_LOOKS: Duration = Duration::from_secs(5);

/// For all parts to end.
const LAST: Duration = Duration::from_secs(8);

/// Between attempts to reach the API at the start.
const AGAIN: Duration = Duration::from_secs(2);

/// A running operator.
pub struct App {
    failures: mpsc::Receiver<String>,
    tasks: TaskTracker,
    /// Ends the work.
    stop: CancellationToken,
    /// Ends the ports.
    ports_stop: CancellationToken,
    /// Where metrics and probes are, if anywhere.
    pub addresses: (Option<SocketAddr>, Option<SocketAddr>),
}

/// Several at a time, one works.
#[derive(Clone, Debug)]
pub struct Election {
    /// Where the lease is.
    pub namespace: String,
    /// Who we are.
    pub identity: String,
    /// How long things take.
    pub terms: Terms,
}

/// What works: everything but the ports.
pub struct Work {
    /// Which cluster.
    pub config: Config,
    /// Images where specs name none.
    pub images: Images,
    /// Who we are in events.
    pub identity: String,
    /// With others, or alone.
    pub election: Option<Election>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

// === impl App ===

impl App {
    /// Binds the ports and begins to work. To be called within a tokio runtime.
    ///
    /// # Errors
    /// An address is taken, or it is not known which cluster to work in.
    pub async fn start(cli: &Cli, telemetry: &Telemetry) -> anyhow::Result<Self> {
        for warning in cli.warnings() {
            tracing::warn!("{warning}");
        }
        let config = Config::infer().await.context("which cluster to work in")?;
        let identity = identity();
        let election = cli.leader_elect.then(|| Election {
            namespace: cli
                .leader_election_namespace
                .clone()
                .unwrap_or_else(|| config.default_namespace.clone()),
            identity: identity.clone(),
            terms: Terms::default(),
        });
        let (failed, failures) = Failures::new();
        let (tasks, stop, ports_stop) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let (readiness, metrics, counters) =
            (Readiness::default(), Metrics::new("frontier_operator"), Arc::new(Counters::default()));
        let starting = readiness.guard("API");
        let lost = telemetry.lost_lines();
        metrics.register({
            let counters = Arc::clone(&counters);
            move || {
                let help = "Log lines dropped because the output is too slow";
                let mut families = counters.families();
                families.push(Family::counter("frontier_operator_log_lines_lost", help).row(&[], lost()));
                families
            }
        });
        let admin =
            Admin::new(metrics.clone(), readiness.clone(), telemetry.level(), "{}".to_owned()).router();
        let probes = probes(readiness);
        let mut addresses = [None, None];
        let ports = [
            ("metrics", &cli.metrics_bind_address.0, admin),
            ("probes", &cli.health_probe_bind_address.0, probes),
        ];
        for ((name, wanted, router), address) in ports.into_iter().zip(&mut addresses) {
            let Some(wanted) = wanted else { continue };
            let bound = wanted.bind().with_context(|| format!("cannot bind {wanted} for {name}"))?;
            let listener = TcpListener::from_std(bound)?;
            *address = Some(listener.local_addr()?);
            let part = serve(listener, Arc::new(OperatorPort::new(name)), None, router, ports_stop.clone());
            tasks.spawn(failed.clone().watch(name, ports_stop.clone(), part));
        }
        let work = Work { config, images: cli.images(), identity, election, counters };
        let part = {
            let stop = stop.clone();
            async move {
                let connected = async { work.wait_for_api().await };
                if stop.run_until_cancelled(connected).await.is_some() {
                    drop(starting);
                    if let Err(error) = work.run(stop).await {
                        tracing::error!(%error, "the operator cannot work");
                    }
                }
            }
        };
        tasks.spawn(failed.watch("operator", stop.clone(), part));
        let [metrics, probes] = addresses;
        tracing::info!(?metrics, ?probes, "operator listening");
        Ok(Self { failures, tasks, stop, ports_stop, addresses: (metrics, probes) })
    }
}

impl Server for App {
    async fn failed(&mut self) -> String {
        self.failures.recv().await.unwrap_or_else(|| "every part has ended".to_owned())
    }

    fn failure(&mut self) -> Option<String> {
        self.failures.try_recv().ok()
    }

    async fn drain(&mut self, _hurry: bool) {
        self.stop.cancel();
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.ports_stop.cancel();
        self.tasks.close();
        if timeout(LAST, self.tasks.wait()).await.is_err() {
            tracing::error!("a part did not end");
        }
        tracing::info!("operator stopped");
    }
}

fn probes(readiness: Readiness) -> Router {
    let ready = move || {
        let waiting = readiness.report().waiting;
        async move {
            if waiting.is_empty() {
                (http::StatusCode::OK, "ready".to_owned())
            } else {
                (http::StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}", waiting.join(", ")))
            }
        }
    };
    Router::new().route("/healthz", get(|| async { "ok" })).route("/readyz", get(ready))
}

/// The name of the pod, and something that tells this process from others in it.
fn identity() -> String {
    let mut bytes = [0; 4];
    let random = getrandom::fill(&mut bytes)
        .map(|()| u32::from_le_bytes(bytes))
        .unwrap_or_else(|_| std::process::id());
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "frontier-operator".to_owned());
    format!("{host}_{random:08x}")
}

// === impl Work ===

impl Work {
    /// Works until `stop`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), kube::Error> {
        let Some(election) = &self.election else {
            let context = self.context(Gate::open())?;
            self.counters.leads(true);
            controller::run(context, stop).await;
            return Ok(());
        };
        let gate = Gate::closed();
        let context = self.context(gate.clone())?;
        // The lease is written before the gate is open. It is not counted: it says nothing about clusters.
        let client = client::connect(self.config.clone(), Gate::open(), Arc::default())?;
        let api = Api::namespaced(client, &election.namespace);
        let mut lease = Lease::new(api, election.identity.clone(), election.terms, gate);
        while stop.run_until_cancelled(lease.acquire()).await.is_some() {
            tracing::info!(identity = election.identity, "the lease is ours");
            self.counters.leads(true);
            let finished = {
                let work = controller::run(Arc::clone(&context), stop.child_token());
                let told = async {
                    stop.cancelled().await;
                    sleep(LAST_LOOKS).await;
                };
                tokio::select! {
                    biased;
                    // Whoever holds the lease now does not wait for us.
                    () = lease.keep() => false,
                    () = work => true,
                    () = told => true,
                }
            };
            self.counters.leads(false);
            lease.release().await;
            if finished {
                break;
            }
            tracing::warn!("the lease is lost");
        }
        // It may have come while we were told to end.
        lease.release().await;
        Ok(())
    }

    fn context(&self, gate: Gate) -> Result<Arc<Context>, kube::Error> {
        let client = client::connect(self.config.clone(), gate, Arc::clone(&self.counters.writes))?;
        Ok(Arc::new(Context::new(
            client,
            self.images.clone(),
            Arc::clone(&self.counters),
            self.identity.clone(),
        )))
    }

    async fn wait_for_api(&self) {
        loop {
            let client: Result<Client, _> =
                client::connect(self.config.clone(), Gate::closed(), Arc::default());
            let answer = match client {
                Ok(client) => client.apiserver_version().await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(version) => {
                    tracing::info!(version = version.git_version, "the API answers");
                    return;
                }
                Err(error) => tracing::warn!(%error, "the API does not answer"),
            }
            sleep(AGAIN).await;
        }
    }
}
