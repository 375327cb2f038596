//! The two ports that atlas is asked on: the cluster API for services, and the registry for gateways, which Go gateways reach by geminio.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::Response,
};
use frontier_api::{descriptors, registry::registry_server::SERVICE_NAME};
use frontier_ops::{
    config::{Listen, ListenAddr},
    guard::Guard,
    health::{DESCRIPTORS as HEALTH, ReadyHealth},
    rest::{method_not_allowed, not_found},
    serve::{Bounds, ClientNames, Foreign, ForeignConnection, OperatorPort, TlsSource, serve},
    split::split,
    tls::{
        certificate::Names,
        reload::{CertStore, DEFAULT_INTERVAL, watch},
    },
};
use frontier_wire::sniff::{Sniff, sniff};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::Build;
use crate::{
    golink::{GoLinks, Names as GoNames},
    links::{
        Links,
        grpc::{self, Grpc},
    },
    metrics::Requests,
    store::Store,
};

/// Requests of gateways handled at once; a link counts until its first answer.
const REQUESTS: usize = 1_024;

/// Until an answer begins. Redis has 2 s, and a few commands may follow each other.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// Requests at once on one connection of a client: whoever asks for many edges at once does so on one.
const STREAMS: u32 = 256;

/// One of the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    Control,
    Frontier,
}

/// Opens them.
pub(super) struct Planes<'a, 'b> {
    pub(super) build: &'a mut Build<'b>,
    pub(super) tasks: &'a TaskTracker,
    pub(super) stop: &'a CancellationToken,
}

// === impl Plane ===

impl Plane {
    /// In logs, metrics and the configuration.
    const fn name(self) -> &'static str {
        match self {
            Self::Control => "control_plane",
            Self::Frontier => "frontier_plane",
        }
    }

    fn listen<'a>(self, build: &Build<'a>) -> &'a Listen {
        match self {
            Self::Control => &build.config.control_plane.listen,
            Self::Frontier => &build.config.frontier_plane.listen,
        }
    }
}

// === impl Planes ===

impl Planes<'_, '_> {
    /// Binds a port and serves it.
    pub(super) fn open(
        &mut self,
        plane: Plane,
        router: Router,
        foreign: Option<Foreign>,
    ) -> anyhow::Result<SocketAddr> {
        let listen = plane.listen(self.build);
        let name = plane.name();
        let listener = bind(&listen.addr).with_context(|| format!("{name}.listen"))?;
        let addr = listener.local_addr()?;
        let tls = self.certificates(name, listen)?;
        let connections = self.build.config.limits.connections;
        let bounds = Bounds { connections, streams: STREAMS, long_answers: true };
        let port = OperatorPort::bounded(name, bounds);
        let port = Arc::new(match foreign {
            Some(foreign) => port.with(foreign),
            None => port,
        });
        let requests = Arc::new(Requests::default());
        self.build.seen.ports.push(Arc::clone(&port));
        self.build.seen.requests.push((name, Arc::clone(&requests)));
        let router = router.layer(middleware::from_fn(move |request, next| {
            let requests = Arc::clone(&requests);
            async move { requests.count(request, next).await }
        }));
        let part = serve(listener, port, tls, router, self.stop.clone());
        self.tasks.spawn(self.build.failed.clone().watch(name, self.stop.clone(), part));
        Ok(addr)
    }

    fn certificates(&mut self, name: &'static str, listen: &Listen) -> anyhow::Result<Option<TlsSource>> {
        if !listen.tls.enable {
            return Ok(None);
        }
        let store = CertStore::load(name, &listen.tls, &[b"h2", b"http/1.1"]);
        let store = Arc::new(store.with_context(|| format!("{name}.listen.tls"))?);
        let (stop, readiness) = (self.build.rest_stop.clone(), self.build.readiness.clone());
        let part = watch(vec![Arc::clone(&store)], DEFAULT_INTERVAL, readiness, stop);
        self.build.spawn("certificates", part);
        self.build.seen.certificates.push(Arc::clone(&store));
        Ok(Some(Arc::new(move || store.current())))
    }
}

/// What gateways tell.
pub(super) fn frontier<S: Store>(build: &Build<'_>, links: &Arc<Links<S>>, tasks: &TaskTracker) -> Router {
    let registry = Grpc::server(Arc::clone(links), tasks.clone());
    let health = ReadyHealth::server(&build.readiness, &[SERVICE_NAME]);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors::REGISTRY)
            .register_encoded_file_descriptor_set(HEALTH)
    };
    // Both versions: clients of either age find the one they know.
    let v1 = reflection().build_v1().expect("the descriptors are generated and tested");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors are generated and tested");
    let grpc = Routes::new(registry).add_service(health).add_service(v1).add_service(v1alpha);
    let rest = Router::new().fallback(not_found).method_not_allowed_fallback(method_not_allowed);
    let router = split(grpc.prepare().into_axum_router(), rest, Guard::new(REQUESTS, REQUEST_TIME));
    if build.config.frontier_plane.any_name { router } else { router.layer(middleware::from_fn(name_of)) }
}

/// Go gateways, on the same port.
pub(super) fn go_gateways<S: Store>(build: &Build<'_>, go: &Arc<GoLinks<S>>) -> Foreign {
    let (go, any_name) = (Arc::clone(go), build.config.frontier_plane.any_name);
    let serve = move |connection: ForeignConnection, stop| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let go = Arc::clone(&go);
        let names = connection.names.filter(|_| !any_name);
        let names = names.map(|ClientNames(names)| -> GoNames { Arc::new(move |name| covers(&names, name)) });
        Box::pin(async move { go.serve(connection.stream, connection.peer.0, names, stop).await })
    };
    let is_it = |first: &[u8]| match sniff(first) {
        Sniff::NeedMore => None,
        told => Some(told == Sniff::Geminio),
    };
    Foreign { is_it, serve: Arc::new(serve) }
}

/// A gateway that shows a certificate may only have a name that this covers.
async fn name_of(mut request: Request, next: Next) -> Response {
    if let Some(ClientNames(names)) = request.extensions().get::<ClientNames>().cloned() {
        let names = grpc::Names(Arc::new(move |name: &str| covers(&names, name)));
        request.extensions_mut().insert(names);
    }
    next.run(request).await
}

/// Whether a certificate is for a gateway of this name: its common name, one of its DNS names (`*.` stands for one label), or the last
/// part of one of its URIs (SPIFFE).
fn covers(names: &Names, name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let parent = lower.split_once('.').map(|(_, parent)| parent);
    let dns = |of: &String| *of == lower || of.strip_prefix("*.").is_some_and(|of| Some(of) == parent);
    !name.is_empty()
        && (names.common_name.as_deref() == Some(name)
            || names.dns.iter().any(dns)
            || names.uris.iter().any(|uri| uri.rsplit('/').next() == Some(name)))
}

pub(super) fn bind(addr: &ListenAddr) -> anyhow::Result<TcpListener> {
    let listener = addr.bind().with_context(|| format!("cannot bind {addr}"))?;
    Ok(TcpListener::from_std(listener)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_covers_its_own_names_alone() {
        let names = Names {
            common_name: Some("frontier-a".to_owned()),
            dns: vec!["frontier-b".to_owned(), "*.pods.example".to_owned()],
            uris: vec!["spiffe://example/ns/x/frontier-c".to_owned()],
            ..Names::default()
        };
        for name in ["frontier-a", "frontier-b", "FRONTIER-B", "frontier-7.pods.example", "frontier-c"] {
            assert!(covers(&names, name), "{name}");
        }
        for name in ["", "frontier", "frontier-d", "a.b.pods.example", "pods.example", "FRONTIER-A", "x"] {
            assert!(!covers(&names, name), "{name}");
        }
        assert!(!covers(&Names::default(), ""), "no name is no name");
    }
}
