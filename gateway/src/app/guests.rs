//! Connections that do not go straight to a shard: TLS handshakes first, and other protocols on the edge port for good.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::parts::Failures;
use crate::bypass::{Bypass, BypassSettings, Bypassed};
use crate::config::{Config, Listen};
use crate::core::Bound;
use crate::core::message::Msg;
use crate::driver::{Accept, Foreign, Hub, Parcel};
use crate::identity::SeededRandom;
use crate::tls::handshake::{Established, HandshakeSettings, HandshakeStats, Handshakes, Incoming};
use crate::tls::reload::{CertStore, DEFAULT_INTERVAL, watch};

/// Pipes to bypass targets at once, and the time to reach one: see [`BypassSettings`].
const PIPES: usize = 1_024;
const CONNECT: Duration = Duration::from_secs(10);
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
    pub(super) fn start(config: &Config, hub: &Arc<Hub>, failed: &Failures) -> anyhow::Result<Self> {
        let edges = certificates("edgebound", &config.edgebound.listen)?;
        let services = certificates("servicebound", &config.servicebound.listen)?;
        let handshakes = if edges.is_some() || services.is_some() {
            let settings = HandshakeSettings {
                threads: config.tls_threads().get(),
                at_once: config.limits.handshakes,
                timeout: config.limits.handshake,
            };
            let hub = Arc::clone(hub);
            let sink = Arc::new(move |established| deliver(&hub, established));
            Some(Arc::new(Handshakes::start(&settings, sink).context("tls threads")?))
        } else {
            None
        };
        let bypass = if config.edgebound.bypass_enable {
            let dial = config.edgebound.bypass.clone();
            let settings = BypassSettings { dial, at_once: PIPES, connect_timeout: CONNECT };
            let random = SeededRandom::from_system().context("no randomness")?;
            Some(Arc::new(
                Bypass::new(&settings, Box::new(random), Handle::current()).context("edgebound.bypass")?,
            ))
        } else {
            None
        };
        let stop = CancellationToken::new();
        let stores: Vec<_> = edges.iter().chain(&services).cloned().collect();
        let watching = watch(stores, DEFAULT_INTERVAL, stop.clone());
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
            // A refusal is counted and closes the socket.
            handshakes.submit(Incoming { socket, peer, accepted, read: Vec::new(), config, tag: bound });
        }))
    }

    /// How handshakes ended; none without TLS.
    pub(super) fn handshake_stats(&self) -> Option<Arc<HandshakeStats>> {
        self.handshakes.as_ref().map(|handshakes| Arc::clone(handshakes.stats()))
    }

    /// What becomes of other protocols: piped on from the edge port if it is so configured, else closed.
    pub(super) fn foreign(&self) -> Foreign {
        let bypass = self.bypass.clone();
        Arc::new(move |bound, socket, tls, read| {
            if let (Bound::Edge, Some(bypass)) = (bound, &bypass) {
                bypass.pipe(Bypassed { socket, tls, read });
            }
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
