//! The link to the cluster's registry, if the configuration names one.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use frontier_ops::{metrics::Metrics, parts::Failures, readiness::Readiness};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    atlas::{AtlasDial, Identity, OwnSessions, Reporter, Source as _, Status, advertised},
    config::Config,
    core::{SessionRef, Shared},
    driver::{Driver, Hub},
};

/// For the gateway to leave, which it does by itself within a second.
const LEAVE: Duration = Duration::from_secs(2);

/// For atlas to answer before the gateway serves: usually it takes some milliseconds.
const ASK_TIME: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    stop: CancellationToken,
    reporter: Option<AbortOnDropHandle<()>>,
    status: Option<Arc<Status>>,
}

/// Where the gateway is.
pub(super) struct Place {
    pub(super) edges: SocketAddr,
    pub(super) services: SocketAddr,
}

// === impl Cluster ===

impl Cluster {
    /// Starts to report; `start` is the zero of the shards' clock. That there is no atlas yet, or none any more, is not an error.
    pub(super) fn start(
        config: &Config,
        (hub, shared): (&Arc<Hub>, &Arc<Shared>),
        start: Instant,
        place: &Place,
        (readiness, metrics): (&Readiness, &Metrics),
        failed: &Failures,
    ) -> anyhow::Result<Self> {
        if !config.frontlas.enable {
            return Ok(Self::default());
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let (instance, seeds) = random.split_at(16);
        let instance = instance.try_into().unwrap_or([1; 16]);
        let seed = |at: usize| seeds[at..].iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let dial = AtlasDial::new(&config.frontlas.dial, seed(0)).context("frontlas.dial.tls")?;
        let hub = Arc::clone(hub);
        let post = move |session: SessionRef, msg| hub.post(session.shard, msg);
        let source = OwnSessions::new(Arc::clone(shared), post, move || Driver::clock(start).micros);
        let source = Arc::new(source.context("a gateway that reports keeps a roll")?);
        let identity = Identity {
            instance,
            frontier_id: config.daemon.frontier_id.clone(),
            service_addr: advertised(&config.servicebound.listen.port, place.services),
            edge_addr: advertised(&config.edgebound.listen.port, place.edges),
        };
        let status = Arc::new(Status::new(readiness.clone()));
        let (seen, shown, counted) = (Arc::clone(&status), Arc::clone(&status), Arc::clone(&source));
        metrics.register(move || shown.families(counted.roll()));
        if config.identity.key.is_none() {
            tracing::warn!(
                "identity.key is not set: an edge that moves to another gateway cannot keep its ID by its ticket"
            );
        }
        tracing::info!(
            frontier_id = identity.frontier_id,
            edges = identity.edge_addr,
            services = identity.service_addr,
            atlas = config.frontlas.dial.addrs.join(", "),
            "reporting to atlas"
        );
        let stop = CancellationToken::new();
        let reporter = Reporter::new(dial, source, identity, status, seed(8));
        let part = failed.clone().watch("link to atlas", stop.clone(), reporter.run(stop.clone()));
        let status = Some(seen);
        Ok(Self { stop, status, reporter: Some(AbortOnDropHandle::new(Handle::current().spawn(part))) })
    }

    /// Waits a moment for atlas to tell the time, so that the first epochs are not drawn by a clock that may be wrong.
    pub(super) async fn ask_time(&self) {
        if let Some(status) = &self.status
            && timeout(ASK_TIME, status.come_up()).await.is_err()
        {
            tracing::info!("atlas does not answer yet; the gateway serves without it");
        }
    }

    /// The gateway leaves the cluster: nobody is sent to it any more.
    pub(super) async fn withdraw(&mut self) {
        self.stop.cancel();
        if let Some(reporter) = self.reporter.take()
            && timeout(LEAVE, reporter).await.is_err()
        {
            tracing::warn!("the link to atlas did not end in time");
        }
    }
}
