//! TLS over real sockets: whom a client trusts, who it is, and what it says if that does not fit.

use std::{error::Error as _, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::{io::copy_bidirectional, net::TcpListener, runtime::Handle, task::JoinSet};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};
use tokio_util::task::AbortOnDropHandle;

use crate::{ConnectError, Edge, Request, State, TlsOptions, testing::Gateway};

/// The name in the certificate of every door.
const NAME: &str = "gateway.test";

#[tokio::test]
async fn a_gateway_with_a_trusted_root_is_reached_by_tls() {
    let ca = Ca::new();
    let door = Door::open(ca.server(None)).await;
    let service = door.gateway.service().name("svc").connect().await.unwrap();
    service.register("echo", |req: Request| async move { Ok(req.into_body()) }).await.unwrap();
    let edge = door.connect(trusting(&ca)).await.unwrap();
    assert_eq!(edge.call("echo", "secret").await.unwrap().body(), "secret");
}

#[tokio::test]
async fn a_gateway_that_nobody_vouches_for_is_refused_with_the_reason() {
    let ca = Ca::new();
    let door = Door::open(ca.server(None)).await;
    let stranger = door.connect(trusting(&Ca::new())).await.unwrap_err();
    assert!(handshake(&stranger).contains("invalid peer certificate"), "{stranger:?}");
    let misnamed = door.connect(trusting(&ca).server_name("other.test")).await.unwrap_err();
    assert!(handshake(&misnamed).contains("not valid for name"), "{misnamed:?}");
    door.connect(TlsOptions::new().server_name(NAME).insecure()).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_wants_to_know_its_clients_gets_their_certificate() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let door = Door::open(ca.server(Some(&clients))).await;
    let (chain, key) = clients.issue("edge.test");
    door.connect(trusting(&ca).identity_pem(chain, key)).await.unwrap();

    let anonymous = door.connect(trusting(&ca)).await.unwrap_err();
    assert!(handshake(&anonymous).contains("CertificateRequired"), "{anonymous:?}");
    let (chain, key) = Ca::new().issue("edge.test");
    let forger = door.connect(trusting(&ca).identity_pem(chain, key)).await.unwrap_err();
    assert_eq!(forger.kind(), "handshake", "{forger:?}");
}

#[tokio::test]
async fn files_that_were_renewed_are_read_at_the_next_connect() {
    let (old, new) = (Ca::new(), Ca::new());
    let door = Door::open(old.server(None)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, &old.pem).unwrap();
    let edge = door.connect(TlsOptions::new().roots_file(&file).server_name(NAME)).await.unwrap();

    *door.config.lock() = new.server(None);
    std::fs::write(&file, &new.pem).unwrap();
    let mut watch = edge.watch();
    assert!(door.gateway.cut(edge.id()).await);
    watch.until(|state| !state.is_connected()).await;
    assert!(watch.until(State::is_connected).await.is_some());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let ca = Ca::new();
    let door = Door::open(ca.server(None)).await;
    let tls = trusting(&ca).identity_files("/nowhere/edge.pem", "/nowhere/edge.key");
    let error = door.connect(tls).await.unwrap_err();
    assert_eq!(error.kind(), "tls");
    assert!(error.to_string().contains("/nowhere/edge.pem"), "{error}");
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn atlas_is_trusted_by_the_same_roots_under_its_own_name() {
    use crate::{Service, testing::cluster::Registry};

    let ca = Ca::new();
    let registry = Registry::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut config = ServerConfig::clone(&ca.server_named(None, "127.0.0.1"));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let pipes = registry.pipes();
    let door = Handle::current().spawn(async move {
        let mut visitors = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, pipes) = (TlsAcceptor::from(Arc::new(config.clone())), pipes.clone());
            visitors.spawn(async move {
                let (mut ours, theirs) = tokio::io::duplex(64 << 10);
                let mut tls = acceptor.accept(tcp).await?;
                assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                pipes.send(theirs).await.map_err(std::io::Error::other)?;
                copy_bidirectional(&mut tls, &mut ours).await
            });
        }
    });
    let _door = AbortOnDropHandle::new(door);
    // The name set is that of the gateways, of which there are none.
    let connect = |tls| Service::cluster(format!("https://{addr}")).tls(tls).connect();
    let reached = connect(trusting(&ca)).await.unwrap_err();
    assert!(matches!(reached, ConnectError::NoGateway { known: 0, .. }), "{reached:?}");
    let stranger = connect(trusting(&Ca::new())).await.unwrap_err();
    assert!(stranger.to_string().contains("certificate"), "{stranger}");
    let plain = Service::cluster(format!("http://{addr}")).tls(trusting(&ca)).connect().await.unwrap_err();
    assert_eq!(plain.kind(), "atlas");
}

/// The cause of a handshake that failed.
fn handshake(error: &ConnectError) -> String {
    assert_eq!(error.kind(), "handshake", "{error:?}");
    error.source().unwrap().to_string()
}

fn trusting(ca: &Ca) -> TlsOptions {
    TlsOptions::new().roots_pem(&ca.pem).server_name(NAME)
}

/// A listener with TLS in front of a gateway within the process.
struct Door {
    gateway: Arc<Gateway>,
    addr: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    _task: AbortOnDropHandle<()>,
}

/// An authority.
struct Ca {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

// === impl Door ===

impl Door {
    async fn open(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let gateway = Arc::new(Gateway::start());
        let config = Arc::new(Mutex::new(config));
        let task = Handle::current().spawn(admit(listener, config.clone(), gateway.clone()));
        Self { gateway, addr, config, _task: AbortOnDropHandle::new(task) }
    }

    async fn connect(&self, tls: TlsOptions) -> Result<Edge, ConnectError> {
        Edge::builder(format!("tls://{}", self.addr)).tls(tls).connect().await
    }
}

async fn admit(listener: TcpListener, config: Arc<Mutex<Arc<ServerConfig>>>, gateway: Arc<Gateway>) {
    let mut visitors = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, gateway) = (TlsAcceptor::from(config.lock().clone()), gateway.clone());
        visitors.spawn(async move {
            let mut tls = acceptor.accept(tcp).await?;
            copy_bidirectional(&mut tls, &mut gateway.pipe().await).await
        });
    }
}

// === impl Ca ===

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Chain and key for a name, as PEM texts.
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// What a gateway of this authority does; with `clients`, only for clients of that authority.
    fn server(&self, clients: Option<&Self>) -> Arc<ServerConfig> {
        self.server_named(clients, NAME)
    }

    fn server_named(&self, clients: Option<&Self>, name: &str) -> Arc<ServerConfig> {
        let (chain, key) = self.issue(name);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}
