//! The ports of operators: the control plane, and health and metrics.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context;
use frontier_ops::{
    admin::Admin,
    config::ListenAddr,
    metrics::{Family, Metrics},
    parts::Failures,
    readiness::Readiness,
    serve::{OperatorPort, TlsSource, serve},
    telemetry::Telemetry,
    tls::reload::{self, CertStore, DEFAULT_INTERVAL, watch},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::guests::Guests;
use crate::{
    bypass::Bypass,
    config::Config,
    control::{self, KickRule},
    identity::{authority::Authority, ticket::TicketError},
    plane::Plane,
    tls::handshake::{HandshakeStats, Outcome},
};

/// See the module documentation.
pub(super) struct Operators {
    /// Where the control plane listens, if it is enabled.
    pub(super) control: Option<SocketAddr>,
    /// Where health and metrics are.
    pub(super) admin: SocketAddr,
    tasks: TaskTracker,
    stop: CancellationToken,
}

// === impl Operators ===

impl Operators {
    /// Binds both ports and serves them.
    pub(super) fn start(
        config: &Config,
        plane: &Plane,
        readiness: &Readiness,
        telemetry: &Telemetry,
        metrics: Metrics,
        failed: &Failures,
    ) -> anyhow::Result<Self> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (control_port, admin_port) =
            (Arc::new(OperatorPort::new("control")), Arc::new(OperatorPort::new("admin")));
        let ports = [Arc::clone(&control_port), Arc::clone(&admin_port)];
        metrics.register(move || {
            let help = "Connections of operators that have ended, by port and by how";
            let family = Family::counter("frontier_operator_connections", help);
            vec![ports.iter().fold(family, |family, port| port.rows(family))]
        });
        let mut control = None;
        if config.controlplane.enable {
            let listener = listen(&config.controlplane.listen.addr).context("controlplane.listen")?;
            control = Some(listener.local_addr()?);
            let kicks = KickRule::new(config.controlplane.kick_token.clone());
            let router = control::router(Arc::new(plane.clone()), kicks, readiness);
            let certificates = certificates(config)?;
            if let Some(store) = &certificates {
                let stores = vec![Arc::clone(store)];
                let part = watch(stores, DEFAULT_INTERVAL, readiness.clone(), stop.clone());
                tasks.spawn(failed.clone().watch("certificates of the control plane", stop.clone(), part));
                register_certificates(&metrics, vec![Arc::clone(store)]);
            }
            let tls = certificates.map(|store| Arc::new(move || store.current()) as TlsSource);
            let part = serve(listener, control_port, tls, router, stop.clone());
            tasks.spawn(failed.clone().watch("control plane", stop.clone(), part));
        }
        let listener = listen(&config.observability.addr).context("observability.addr")?;
        let admin = listener.local_addr()?;
        let router = Admin::new(metrics, readiness.clone(), telemetry.level(), config.effective()).router();
        let part = serve(listener, admin_port, None, router, stop.clone());
        tasks.spawn(failed.clone().watch("admin port", stop.clone(), part));
        tasks.close();
        Ok(Self { control, admin, tasks, stop })
    }

    /// Lets running requests end.
    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// The metrics of this process and its shards.
pub(super) fn metrics(
    plane: &Plane,
    telemetry: &Telemetry,
    authority: &Arc<Authority>,
    guests: &Guests,
) -> Metrics {
    let metrics = Metrics::new("frontier");
    metrics.register(plane.clone());
    let lost = telemetry.lost_lines();
    metrics.register(move || {
        vec![
            Family::counter("frontier_log_lines_lost", "Log lines dropped because the output is too slow")
                .row(&[], lost()),
        ]
    });
    let authority = Arc::clone(authority);
    metrics.register(move || vec![tickets(&authority)]);
    if let Some(stats) = guests.handshake_stats() {
        metrics.register(move || vec![tls_handshakes(&stats)]);
    }
    let stores: Vec<_> = guests.certificates().cloned().collect();
    if !stores.is_empty() {
        register_certificates(&metrics, stores);
    }
    if let Some(bypass) = guests.bypass() {
        metrics.register(move || pipes(&bypass));
    }
    metrics
}

fn tickets(authority: &Authority) -> Family {
    let family = Family::counter("frontier_tickets", "Resume tickets shown, by what they were worth")
        .row(&[("outcome", "resumed")], authority.resumed());
    let ignored = [
        ("malformed", TicketError::Malformed),
        ("forged", TicketError::Forged),
        ("expired", TicketError::Expired),
        ("foreign", TicketError::Foreign),
        ("future", TicketError::Future),
    ];
    ignored.into_iter().fold(family, |family, (outcome, why)| {
        family.row(&[("outcome", outcome)], authority.tickets_ignored(why))
    })
}

fn tls_handshakes(stats: &HandshakeStats) -> Family {
    let family = Family::counter("frontier_tls_handshakes", "TLS handshakes by how they ended");
    let outcomes = Outcome::ALL.into_iter();
    outcomes.fold(family, |family, outcome| family.row(&[("outcome", outcome.name())], stats.get(outcome)))
}

fn pipes(bypass: &Bypass) -> Vec<Family> {
    let stats = bypass.stats();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let ended = [
        ("ended", &stats.ended),
        ("idle", &stats.idle),
        ("broken", &stats.broken),
        ("unreachable", &stats.unreachable),
        ("refused", &stats.refused),
    ];
    let open = bypass.running() as u64;
    let family = Family::counter("frontier_pipes", "Pipes to bypass targets, by how they ended");
    vec![
        Family::gauge("frontier_pipes_open", "Pipes to bypass targets now").row(&[], open),
        ended
            .iter()
            .fold(family, |family, (outcome, counter)| family.row(&[("outcome", *outcome)], count(counter))),
        Family::counter("frontier_piped", "Bytes read from and written to peers by pipes")
            .bytes()
            .row(&[("direction", "in")], count(&stats.bytes_in))
            .row(&[("direction", "out")], count(&stats.bytes_out)),
    ]
}

fn listen(addr: &ListenAddr) -> anyhow::Result<TcpListener> {
    let listener = addr.bind().with_context(|| format!("cannot bind {}", addr.as_str()))?;
    Ok(TcpListener::from_std(listener)?)
}

fn certificates(config: &Config) -> anyhow::Result<Option<Arc<CertStore>>> {
    let tls = &config.controlplane.listen.tls;
    if !tls.enable {
        return Ok(None);
    }
    let store = CertStore::load("controlplane", tls, &[b"h2", b"http/1.1"]);
    Ok(Some(Arc::new(store.context("controlplane.listen.tls")?)))
}

fn register_certificates(metrics: &Metrics, stores: Vec<Arc<CertStore>>) {
    metrics.register(move || {
        let help = "Changed certificate files by what became of them";
        vec![reload::rows(Family::counter("frontier_certificate_reloads", help), &stores)]
    });
}
