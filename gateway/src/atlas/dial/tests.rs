use std::{sync::Arc, time::Duration};

use frontier_api::registry::{
    Ack, Buckets, RenewRequest, RenewResponse, Welcome,
    registry_server::{Registry, RegistryServer},
    to_gateway,
};
use frontier_ops::{
    config,
    tls::{
        server::{Files, server_config},
        testing::{Ca, Dir, mutual},
    },
};
use futures::stream::BoxStream;
use tokio::{
    io::ReadBuf,
    net::TcpListener,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Request, Response,
    transport::{Server, server::Connected},
};

use super::*;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An atlas that welcomes, acknowledges everything and tells what it heard.
#[derive(Clone)]
struct FakeAtlas {
    heard: mpsc::Sender<Option<Kind>>,
    renewed: mpsc::Sender<RenewRequest>,
    refusal: Option<Status>,
}

#[tonic::async_trait]
impl Registry for FakeAtlas {
    type AttachStream = BoxStream<'static, Result<ToGateway, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromGateway>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        if let Some(status) = &self.refusal {
            return Err(status.clone());
        }
        let mut says = request.into_inner();
        // As a server may: no answer before it knows who calls.
        let hello = says.message().await?.and_then(|message| message.kind);
        let heard = self.heard.clone();
        heard.send(hello).await.unwrap();
        let answers = futures::stream::unfold((says, heard, true), |(mut says, heard, first)| async move {
            if first {
                let welcome = Welcome { version: 1, stream: 9, ..Welcome::default() };
                let kind = Some(to_gateway::Kind::Welcome(welcome));
                return Some((Ok(ToGateway { kind }), (says, heard, false)));
            }
            let kind = says.message().await.ok().flatten().and_then(|message| message.kind);
            heard.send(kind.clone()).await.ok()?;
            let Some(Kind::Buckets(buckets)) = kind else { return None };
            let kind = Some(to_gateway::Kind::Ack(Ack { seq: buckets.seq }));
            Some((Ok(ToGateway { kind }), (says, heard, false)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        self.renewed.send(request.into_inner()).await.unwrap();
        Ok(Response::new(RenewResponse { time_ms: 5, known: true }))
    }
}

/// A connection to it.
struct Accepted(Box<dyn Duplex>);

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(task, into)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(task)
    }
}

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// A running one.
struct Running {
    addr: String,
    heard: mpsc::Receiver<Option<Kind>>,
    renewed: mpsc::Receiver<RenewRequest>,
    connections: mpsc::Receiver<()>,
    _server: AbortOnDropHandle<()>,
}

async fn atlas(tls: Option<TlsAcceptor>, refusal: Option<Status>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("localhost:{}", listener.local_addr().unwrap().port());
    let ((heard, hear), (renewed, renew)) = (mpsc::channel(16), mpsc::channel(16));
    let (counted, connections) = mpsc::channel(16);
    let service = RegistryServer::new(FakeAtlas { heard, renewed, refusal });
    let incoming = futures::stream::unfold((listener, tls, counted), |(listener, tls, counted)| async move {
        let accepted = loop {
            let (socket, _) = listener.accept().await.unwrap();
            counted.try_send(()).unwrap();
            let Some(tls) = &tls else { break Accepted(Box::new(socket)) };
            // Else somebody who may not come in.
            if let Ok(stream) = tls.accept(socket).await {
                break Accepted(Box::new(stream));
            }
        };
        Some((Ok::<_, io::Error>(accepted), (listener, tls, counted)))
    });
    let server = async move {
        Server::builder().add_service(service).serve_with_incoming(Box::pin(incoming)).await.unwrap();
    };
    #[expect(clippy::disallowed_methods, reason = "the handle ends it")]
    let server = AbortOnDropHandle::new(tokio::spawn(server));
    Running { addr, heard: hear, renewed: renew, connections, _server: server }
}

fn to(addrs: &[&str]) -> AtlasDial {
    let addrs = addrs.iter().map(|addr| (*addr).to_owned()).collect();
    AtlasDial::new(&config::Dial { addrs, ..config::Dial::default() }, 0).unwrap()
}

fn hello() -> Hello {
    Hello {
        version: 1,
        service_addr: ":30011".into(),
        edge_addr: "edge.example:1".into(),
        ..Hello::default()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("soon")
}

/// Says and hears something on a new link.
async fn exchange(atlas: &mut Running, dial: &AtlasDial) -> Link<Heard, Renewals> {
    let mut link = soon(dial.dial(0, hello())).await.unwrap();
    let Some(Some(Kind::Hello(heard))) = soon(atlas.heard.recv()).await else { panic!("a Hello") };
    assert_eq!(heard.edge_addr, "edge.example:1");
    assert!(["127.0.0.1:30011", "[::1]:30011"].contains(&heard.service_addr.as_str()), "{heard:?}");
    let welcome = soon(link.hear.next()).await.unwrap().unwrap().kind;
    assert!(matches!(welcome, Some(to_gateway::Kind::Welcome(Welcome { stream: 9, .. }))), "{welcome:?}");
    let buckets = Buckets { seq: 1, edge_buckets: vec![3], ..Buckets::default() };
    link.tell.try_send(FromGateway { kind: Some(Kind::Buckets(buckets.clone())) }).unwrap();
    assert_eq!(soon(atlas.heard.recv()).await, Some(Some(Kind::Buckets(buckets))));
    let ack = soon(link.hear.next()).await.unwrap().unwrap().kind;
    assert_eq!(ack, Some(to_gateway::Kind::Ack(Ack { seq: 1 })));
    let request = RenewRequest { stream: 9, edges: 4, ..RenewRequest::default() };
    assert!(soon(link.renew.renew(request.clone())).await.unwrap().known);
    assert_eq!(soon(atlas.renewed.recv()).await, Some(request));
    link
}

#[tokio::test]
async fn a_link_carries_both_ways_and_renewals_have_a_connection_of_their_own() {
    let mut atlas = atlas(None, None).await;
    let dial = to(&[&atlas.addr]);
    let Link { tell, mut hear, renew } = exchange(&mut atlas, &dial).await;
    for _ in 0..2 {
        soon(atlas.connections.recv()).await.unwrap();
    }
    assert!(atlas.connections.try_recv().is_err());
    // The gateway leaves.
    drop(tell);
    assert_eq!(soon(atlas.heard.recv()).await, Some(None));
    assert!(soon(hear.next()).await.is_none());
    assert!(soon(renew.renew(RenewRequest::default())).await.is_ok(), "that is another one");
}

#[tokio::test]
async fn each_attempt_goes_to_the_next_address() {
    let mut atlas = atlas(None, None).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let dial = to(&[&closed, &atlas.addr]);
    for attempt in 0..4 {
        let link = soon(dial.dial(attempt, hello())).await;
        if attempt % 2 == 0 {
            let error = link.err().unwrap();
            assert_eq!(error.trouble, Trouble::Unreachable);
            assert!(error.text.contains("refused"), "{error}");
        } else {
            drop(link.unwrap());
            assert!(soon(atlas.heard.recv()).await.is_some());
        }
    }
}

#[tokio::test]
async fn what_atlas_says_no_by_is_told_apart() {
    for (status, trouble) in [
        (Status::already_exists("a"), Trouble::Superseded),
        (Status::permission_denied("b"), Trouble::Denied),
        (Status::unavailable("c"), Trouble::Unavailable),
        (Status::resource_exhausted("d"), Trouble::Full),
        (Status::invalid_argument("e"), Trouble::Invalid),
        (Status::unimplemented("f"), Trouble::Protocol),
        (Status::internal("g"), Trouble::Broken),
    ] {
        let atlas = atlas(None, Some(status.clone())).await;
        let error = soon(to(&[&atlas.addr]).dial(0, hello())).await.err().unwrap();
        assert_eq!(error, LinkError::new(trouble, status.message()));
    }
}

#[tokio::test]
async fn a_server_that_is_no_atlas_is_an_error_not_a_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let garbage = async {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            drop(tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
            sleep(Duration::from_millis(1)).await;
        }
    };
    let dial = to(&[&addr]);
    let error = tokio::select! {
        link = dial.dial(0, hello()) => link.err().unwrap(),
        () = garbage => unreachable!("it goes on"),
        () = sleep(PATIENCE) => panic!("it waits"),
    };
    assert!(matches!(error.trouble, Trouble::Broken | Trouble::Unreachable), "{error:?}");
}

#[tokio::test]
async fn links_go_by_mutual_tls_as_configured() {
    let (ca, other, dir) = (Ca::new("ca"), Ca::new("other"), Dir::new());
    let roots = vec![dir.write("ca.crt", &ca.pem)];
    let own = mutual(vec![dir.pair("atlas", &ca.issue("atlas", &["localhost"]))], roots.clone());
    let server = server_config(&own, &Files::read(&own), &[b"h2"]).unwrap();
    let mut atlas = atlas(Some(TlsAcceptor::from(Arc::new(server))), None).await;
    let with = |name: &str, tls| {
        let dial = config::Dial { addrs: vec![name.to_owned()], tls, ..config::Dial::default() };
        AtlasDial::new(&dial, 0).unwrap()
    };
    let gateway = mutual(vec![dir.pair("gateway", &ca.issue("frontier-1", &[]))], roots.clone());
    let dial = with(&atlas.addr, gateway.clone());
    exchange(&mut atlas, &dial).await;
    let port = atlas.addr.rsplit_once(':').unwrap().1;
    let stranger = mutual(vec![dir.pair("stranger", &other.issue("frontier-1", &[]))], roots);
    for (name, tls) in [
        // Atlas has no certificate for this name.
        (format!("127.0.0.1:{port}"), gateway),
        // A certificate of an authority that atlas does not know.
        (atlas.addr.clone(), stranger),
        // None at all.
        (
            atlas.addr.clone(),
            config::Tls { enable: true, insecure_skip_verify: true, ..config::Tls::default() },
        ),
    ] {
        let error = soon(with(&name, tls).dial(0, hello())).await.err().unwrap();
        assert!(matches!(error.trouble, Trouble::Unreachable | Trouble::Broken), "{error:?}");
    }
    assert!(
        AtlasDial::new(
            &config::Dial {
                addrs: vec![atlas.addr.clone()],
                tls: mutual(Vec::new(), vec!["/nowhere".into()]),
                ..config::Dial::default()
            },
            0
        )
        .is_err()
    );
}
