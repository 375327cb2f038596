//! Connections that do not go straight to a shard: TLS handshakes first, and other protocols on the edge port for good.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use frontier_ops::{
    config::Listen,
    parts::Failures,
    readiness::Readiness,
    tls::reload::{CertStore, DEFAULT_INTERVAL, watch},
};
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::settings;
use crate::{
    bypass::{Bypass, Bypassed},
    config::Config,
    core::{Bound, message::Msg, shard::Handover},
    driver::{Accept, Foreign, Hub, Parcel},
    identity::SeededRandom,
    tls::handshake::{Established, HandshakeStats, Handshakes, Incoming},
};

/// What handshakes and pipes get to end in.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module documentation.
pub(super) struct Guests {
    handshakes: Option<Arc<Handshakes<Bound>>>,
    edges: Option<Arc<CertStore>>,
    services: Option<Arc<CertStore>>,
    bypass: Option<Arc<Bypass>>,
    stop: CancellationToken,
    _watch: AbortOnDropHandle<()>,
}

// === impl Guests ===

impl Guests {
    /// Reads certificates and starts what the configuration asks for.
    pub(super) fn start(
        config: &Config,
        hub: &Arc<Hub>,
        readiness: &Readiness,
        failed: &Failures,
    ) -> anyhow::Result<Self> {
        let edges = certificates("edgebound", &config.edgebound.listen.port)?;
        let services = certificates("servicebound", &config.servicebound.listen.port)?;
        let handshakes = if edges.is_some() || services.is_some() {
            let hub = Arc::clone(hub);
            let sink = Arc::new(move |established| deliver(&hub, established));
            Some(Arc::new(Handshakes::start(&settings::handshakes(config), sink).context("tls threads")?))
        } else {
            None
        };
        let bypass = if config.edgebound.bypass_enable {
            let settings = settings::bypass(config);
            let random = SeededRandom::from_system().context("no randomness")?;
            Some(Arc::new(
                Bypass::new(&settings, Box::new(random), Handle::current()).context("edgebound.bypass")?,
            ))
        } else {
            None
        };
        let stop = CancellationToken::new();
        let stores = edges.iter().chain(&services).cloned().collect();
        let watching = watch(stores, DEFAULT_INTERVAL, readiness.clone(), stop.clone());
        let watching = failed.clone().watch("certificates", stop.clone(), watching);
        let watch = AbortOnDropHandle::new(Handle::current().spawn(watching));
        Ok(Self { handshakes, edges, services, bypass, stop, _watch: watch })
    }

    /// What a listener does with sockets that need a handshake; none without TLS.
    pub(super) fn handshake(&self, bound: Bound) -> Option<Accept> {
        let store = match bound {
            Bound::Edge => self.edges.as_ref(),
            Bound::Service => self.services.as_ref(),
        };
        let (store, handshakes) = (Arc::clone(store?), Arc::clone(self.handshakes.as_ref()?));
        Some(Arc::new(move |socket, peer| {
            let (accepted, config) = (Instant::now(), store.current());
            let (role, read) = (bound.name(), Vec::new());
            // A refusal is counted and closes the socket.
            handshakes.submit(Incoming { socket, role, peer, accepted, read, config, tag: bound });
        }))
    }

    /// The certificates of the listeners that speak TLS.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &Arc<CertStore>> {
        self.edges.iter().chain(&self.services)
    }

    /// How handshakes ended; none without TLS.
    pub(super) fn handshake_stats(&self) -> Option<Arc<HandshakeStats>> {
        self.handshakes.as_ref().map(|handshakes| Arc::clone(handshakes.stats()))
    }

    /// Where other protocols are piped on, if they are.
    pub(super) fn bypass(&self) -> Option<Arc<Bypass>> {
        self.bypass.clone()
    }

    /// What becomes of other protocols: piped on from the edge port if it is so configured, else closed.
    pub(super) fn foreign(&self) -> Foreign {
        let bypass = self.bypass.clone();
        Arc::new(move |bound, socket, tls, read| match (bound, &bypass) {
            (Bound::Edge, Some(bypass)) if bypass.pipe(Bypassed { socket, tls, read }) => Handover::Piped,
            (Bound::Edge, Some(_)) => Handover::Full,
            _ => Handover::Nobody,
        })
    }

    /// Ends all of it.
    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        if let Some(handshakes) = &self.handshakes {
            handshakes.shutdown(PATIENCE).await;
        }
        if let Some(bypass) = &self.bypass {
            bypass.shutdown(PATIENCE).await;
        }
    }
}

fn certificates(name: &'static str, listen: &Listen) -> anyhow::Result<Option<Arc<CertStore>>> {
    if !listen.tls.enable {
        return Ok(None);
    }
    let store = CertStore::load(name, &listen.tls, &[]).with_context(|| format!("{name}.listen.tls"))?;
    Ok(Some(Arc::new(store)))
}

/// Hands a connection to the shard with the fewest.
fn deliver(hub: &Hub, established: Established<Bound>) {
    let Established { socket, peer, accepted, tls, plain, subject, tag } = established;
    let addr: SocketAddr = peer;
    let parcel = Parcel::Established { socket, bound: tag, addr, accepted, tls, plain, subject };
    let shard = hub.lightest();
    // Counted at once, or a burst would all go to the same shard.
    hub.load(shard, 1);
    hub.post(shard, Msg::Connection(Box::new(parcel)));
}
