use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use frontier_wire::geminio::connection::{Ending, Event};
use frontier_wire::geminio::data::{Content, Object, decode};
use frontier_wire::geminio::dialogue::DialogueId;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, advance, timeout};

use super::calls::METHODS;
use super::socket::Ended;
use super::*;
use crate::directory::{Directory, Edge, ROSTER_AGE};
use crate::record::{Claim, EdgeRecord, Instance};
use crate::store::{EdgeOutcome, EdgeWrite, Gateway, Joined, Memory};
use crate::watch::Watchers;

const SOON: Duration = Duration::from_secs(5);

/// An atlas that Go gateways connect to.
struct Atlas {
    store: Arc<Memory>,
    links: Arc<Links<Memory>>,
    go: Arc<GoLinks<Memory>>,
    directory: Directory<Memory>,
    stop: CancellationToken,
    keeper: AbortHandle,
}

/// A Go gateway.
struct GoGateway {
    socket: Socket<DuplexStream>,
    name: String,
    served: JoinHandle<()>,
}

#[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}

impl Atlas {
    fn new() -> Self {
        Self::over(Arc::new(Memory::new()), Terms::default())
    }

    fn over(store: Arc<Memory>, terms: Terms) -> Self {
        let directory = Arc::new(Directory::new(Arc::clone(&store)));
        let watchers = Arc::new(Watchers::new(Arc::clone(&store), directory, 10));
        let links = Arc::new(Links::new(Arc::clone(&store), watchers, crate::links::Terms::default()));
        let keeper = spawn({
            let links = Arc::clone(&links);
            async move { links.keep().await }
        });
        Self {
            go: Arc::new(GoLinks::new(Arc::clone(&store), Arc::clone(&links), terms)),
            directory: Directory::new(Arc::clone(&store)),
            stop: CancellationToken::new(),
            keeper: keeper.abort_handle(),
            store,
            links,
        }
    }

    /// The other end of a connection to it.
    fn connection(&self, names: Option<Names>) -> (DuplexStream, JoinHandle<()>) {
        let (near, far) = duplex(64 << 10);
        let (go, stop) = (Arc::clone(&self.go), self.stop.clone());
        let peer = "10.0.0.9:1".parse().unwrap();
        (near, spawn(async move { go.serve(far, peer, names, stop).await }))
    }

    fn dial(&self, name: &str, port: u16) -> GoGateway {
        self.dial_as(name, port, None)
    }

    fn dial_as(&self, name: &str, port: u16, names: Option<Names>) -> GoGateway {
        let (near, served) = self.connection(names);
        let meta = json!({
            "frontier_id": name, "advertised_servicebound_addr": format!("10.0.0.1:{port}"),
            "advertised_edgebound_addr": "10.0.0.1:30012",
        });
        let socket = Socket::dial(near, meta.to_string().as_bytes());
        GoGateway { socket, name: name.to_owned(), served }
    }

    async fn connect(&self, name: &str, port: u16) -> GoGateway {
        let mut gateway = self.dial(name, port);
        gateway.welcome().await;
        gateway
    }

    async fn refusal(&self, name: &str, port: u16, names: Option<Names>) -> String {
        let mut gateway = self.dial_as(name, port, names);
        match gateway.next().await {
            Ok(Event::Rejected(data)) => data.error().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    async fn edge(&self, id: u64) -> Option<Edge> {
        advance(ROSTER_AGE).await;
        self.directory.edges(&[id]).await.unwrap().pop()
    }

    /// Where an edge is after a while.
    async fn place(&self, id: u64) -> Option<String> {
        self.edge(id).await.map(|edge| edge.frontier_id)
    }

    /// Another gateway, of our own kind, holds an edge since now.
    async fn claim(&self, instance: u8, edge: u64) -> Claim {
        let gateway = Gateway {
            instance: Instance([instance; 16]),
            frontier_id: format!("rust-{instance}"),
            service_addr: String::new(),
            edge_addr: String::new(),
        };
        let joined = self.store.join(&gateway, Duration::from_secs(300), false).await.unwrap();
        let Joined::Lease { now, .. } = joined else { panic!("superseded") };
        let claim = Claim { epoch: now.epoch(), instance: gateway.instance };
        let record = EdgeRecord { claim, stream: 1, addr: "10.0.0.2:2".parse().unwrap() };
        let outcomes = self.store.write_edges(&[EdgeWrite::Online { edge, record }], now.after(60_000)).await;
        assert_ne!(
            std::mem::discriminant(&outcomes.unwrap()[0]),
            std::mem::discriminant(&EdgeOutcome::Lost(record))
        );
        claim
    }
}

impl Drop for Atlas {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl GoGateway {
    async fn next(&mut self) -> Result<Event<Bytes>, Ended> {
        timeout(Duration::from_secs(60), self.socket.next()).await.expect("nothing came")
    }

    /// Is let in, and learns of all methods.
    async fn welcome(&mut self) {
        assert!(matches!(self.next().await, Ok(Event::Welcome { client }) if client != 0));
        for method in METHODS {
            let event = self.next().await.unwrap();
            assert!(
                matches!(&event, Event::Registered { name, .. } if **name == *method.as_bytes()),
                "{event:?}"
            );
        }
    }

    async fn call(&mut self, method: &str, value: &[u8]) -> Result<Vec<u8>, String> {
        let call = Object {
            key: Content::Plain(method.as_bytes()),
            value: Content::Plain(value),
            ..Object::default()
        };
        let sent = self.socket.connection().request(DialogueId::FIRST, &call).unwrap();
        loop {
            match self.next().await.unwrap() {
                Event::Response { packet, data, .. } if packet == sent => {
                    return match data.error() {
                        "" => {
                            assert_eq!(decode(data.key()), method.as_bytes());
                            Ok(decode(data.value()))
                        }
                        error => Err(error.to_owned()),
                    };
                }
                Event::Response { .. } | Event::Leaving | Event::Over(_) => panic!("no answer"),
                _ => {}
            }
        }
    }

    async fn tell(&mut self, method: &str, mut value: serde_json::Value) -> Result<(), String> {
        value["frontier_id"] = json!(self.name);
        self.call(method, value.to_string().as_bytes()).await.map(|value| assert!(value.is_empty()))
    }

    async fn online(&mut self, edge: u64) {
        self.tell("edge_online", json!({ "edge_id": edge, "addr": "1.2.3.4:5" })).await.unwrap();
    }

    async fn offline(&mut self, edge: u64) {
        self.tell("edge_offline", json!({ "edge_id": edge })).await.unwrap();
    }

    async fn heartbeat(&mut self, edge: u64) {
        self.tell("edge_heartbeat", json!({ "edge_id": edge })).await.unwrap();
    }

    /// Stays connected for so long, with these edges alive.
    async fn stay(&mut self, time: Duration, edges: &[u64]) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            for edge in edges {
                self.heartbeat(*edge).await;
            }
            let pause = (until - Instant::now()).min(Duration::from_secs(20));
            if let Ok(event) = timeout(pause, self.socket.next()).await {
                panic!("{event:?}");
            }
        }
    }

    /// Takes its leave, as a Go gateway does that is shut down.
    async fn leave(mut self) {
        let now = self.socket.now();
        drop(self.socket.connection().disconnect::<Bytes>(now));
        while !matches!(self.next().await.unwrap(), Event::Over(Ending::Agreed)) {}
        while self.next().await.is_ok() {}
        drop(self.socket);
        timeout(SOON, self.served).await.unwrap().unwrap();
    }

    /// Is killed.
    async fn die(self) {
        drop(self.socket);
        timeout(SOON, self.served).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_go_gateway_has_is_found_as_soon_as_it_has_its_answer() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    gateway.online(7).await;
    let edge = atlas.edge(7).await.unwrap();
    assert_eq!((edge.frontier_id.as_str(), edge.record.addr.to_string().as_str()), ("go", "1.2.3.4:5"));
    let gateways = atlas.directory.gateways_of(&[7]).await.unwrap();
    assert_eq!(gateways[0].service_addr, "10.0.0.1:1");
    let service = json!({ "service_id": 3, "service": r#"{"service":"echo"}"#, "addr": "1.2.3.4:6" });
    gateway.tell("service_online", service).await.unwrap();
    let services = atlas.directory.services(&[3]).await.unwrap();
    assert_eq!((services[0].record.name.as_str(), services[0].frontier_id.as_str()), ("echo", "go"));
    gateway.stay(Duration::from_secs(2), &[]).await;
    assert_eq!(atlas.directory.edge_count().await.unwrap(), 1);
    assert_eq!(atlas.directory.service_count().await.unwrap(), 1);
    gateway.tell("frontier_stats", json!({ "edge_count": 12, "service_count": 4 })).await.unwrap();
    gateway.stay(Duration::from_secs(2), &[]).await;
    assert_eq!(atlas.directory.edge_count().await.unwrap(), 12);

    gateway.offline(7).await;
    assert_eq!(atlas.edge(7).await, None);
    gateway.tell("service_offline", json!({ "service_id": 3 })).await.unwrap();
    assert_eq!(atlas.directory.services(&[3]).await.unwrap(), []);
    gateway.tell("service_heartbeat", json!({ "service_id": 3 })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_makes_no_sense_is_answered_and_the_next_one_works() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    assert_eq!(gateway.call("edge_kick", b"{}").await, Err("no such rpc: edge_kick".to_owned()));
    for value in [&b""[..], b"{", b"\xff", br#"{"edge_id":7}"#, br#"{"frontier_id":"go"}"#] {
        assert!(gateway.call("edge_online", value).await.unwrap_err().starts_with("invalid argument"));
    }
    gateway.call("edge_online", &vec![b' '; 100_000]).await.unwrap_err();
    gateway.online(7).await;
    assert_eq!(atlas.place(7).await.as_deref(), Some("go"));
    assert_eq!(atlas.go.counts().failed.load(Ordering::Relaxed), 6);
}

#[tokio::test(start_paused = true)]
async fn after_a_reconnect_edges_are_there_and_those_without_a_heartbeat_go() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    for edge in 1..=3 {
        gateway.online(edge).await;
    }
    let before = atlas.edge(1).await.unwrap().record.claim;
    gateway.die().await;
    assert_eq!(atlas.place(1).await.as_deref(), Some("go"), "its lease lives on for a while");
    advance(Duration::from_secs(5)).await;
    assert_eq!(atlas.place(1).await, None);

    // At another atlas over the same store.
    let other = Atlas::over(Arc::clone(&atlas.store), Terms::default());
    let mut gateway = other.connect("go", 1).await;
    gateway.stay(Duration::from_secs(1), &[1]).await;
    assert_eq!(other.edge(1).await.unwrap().record.claim, before, "the same member, the same session");
    assert_eq!(other.place(2).await.as_deref(), Some("go"));
    gateway.offline(3).await;
    assert_eq!(other.place(3).await, None);
    gateway.stay(Duration::from_secs(50), &[1]).await;
    assert_eq!(other.place(1).await.as_deref(), Some("go"));
    assert_eq!(other.place(2).await, None, "nobody has heard of it");
}

#[tokio::test(start_paused = true)]
async fn edges_come_back_with_their_heartbeats_when_the_store_has_forgotten_everything() {
    let mut gateway = {
        let atlas = Atlas::new();
        let mut gateway = atlas.connect("go", 1).await;
        gateway.online(7).await;
        gateway
    };
    gateway.served.abort();
    let atlas = Atlas::new();
    gateway = atlas.connect("go", 1).await;
    gateway.heartbeat(7).await;
    gateway.stay(Duration::from_secs(1), &[]).await;
    assert_eq!(atlas.place(7).await.as_deref(), Some("go"));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_takes_its_leave_leaves_nothing() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    gateway.online(7).await;
    gateway.tell("service_online", json!({ "service_id": 3, "service": "{}" })).await.unwrap();
    gateway.leave().await;
    assert_eq!(atlas.store.edges(&[7]).await.unwrap(), [None]);
    assert_eq!(atlas.directory.gateways().await.unwrap(), []);
    assert_eq!((atlas.go.len(), atlas.go.entries(), atlas.links.len()), (0, 0, 0));
    // What it had does not come back with it.
    let mut gateway = atlas.connect("go", 1).await;
    gateway.stay(Duration::from_secs(1), &[]).await;
    assert_eq!(atlas.place(7).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_name_belongs_to_one_go_gateway_at_a_time() {
    let atlas = Atlas::new();
    let one = atlas.connect("go", 1).await;
    advance(Duration::from_secs(1)).await;
    assert_eq!(atlas.refusal("go", 2, None).await, "frontier already set");
    let other = atlas.connect("other", 2).await;
    one.leave().await;
    let _again = atlas.connect("go", 2).await;
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_of_the_same_gateway_takes_over_from_the_first() {
    let atlas = Atlas::new();
    let mut one = atlas.connect("go", 1).await;
    one.online(7).await;
    let mut two = atlas.connect("go", 1).await;
    two.online(8).await;
    while one.next().await.is_ok() {}
    timeout(SOON, one.served).await.unwrap().unwrap();
    two.stay(Duration::from_secs(2), &[7, 8]).await;
    for edge in [7, 8] {
        assert_eq!(atlas.place(edge).await.as_deref(), Some("go"), "{edge}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_session_has_the_id_and_a_heartbeat_of_the_older_one_takes_nothing() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    gateway.online(7).await;
    advance(Duration::from_secs(1)).await;
    let claim = atlas.claim(1, 7).await;
    assert_eq!(atlas.place(7).await.as_deref(), Some("rust-1"));
    // The atlas that the other gateway is at leaves word, which comes with the next renewal.
    let ours = atlas.links.clone();
    let instance = identity::gateway(
        br#"{"frontier_id":"go","advertised_servicebound_addr":"10.0.0.1:1","advertised_edgebound_addr":"10.0.0.1:30012"}"#,
    );
    let cut = crate::store::Cut { edge: 7, epoch: claim.epoch - 1, newer: claim.epoch };
    atlas.store.leave_cuts(instance.unwrap().instance, &[cut]).await.unwrap();
    gateway.stay(Duration::from_secs(60), &[7]).await;
    // By the word left, and once more if its buckets are looked at before that has come.
    assert!((1..=2).contains(&ours.counts().cuts.load(Ordering::Relaxed)));
    assert_eq!(atlas.place(7).await.as_deref(), Some("rust-1"));
    assert_eq!(atlas.go.entries(), 0);

    // The edge has left the other one, and what is left of it is here.
    atlas.store.leave(claim.instance, 1).await.unwrap();
    gateway.stay(Duration::from_secs(25), &[7]).await;
    assert_eq!(atlas.place(7).await.as_deref(), Some("go"));
    // A later session at the other gateway wins again.
    advance(Duration::from_secs(1)).await;
    atlas.claim(2, 7).await;
    assert_eq!(atlas.place(7).await.as_deref(), Some("rust-2"));
    // And a new one here does.
    advance(Duration::from_secs(1)).await;
    gateway.online(7).await;
    assert_eq!(atlas.place(7).await.as_deref(), Some("go"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_does_not_cover_the_name_is_refused() {
    let atlas = Atlas::new();
    let names: Names = Arc::new(|name: &str| name == "covered");
    let why = atlas.refusal("go", 1, Some(Arc::clone(&names))).await;
    assert_eq!(why, "the certificate does not cover the name `go`");
    atlas.dial_as("covered", 1, Some(names)).welcome().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_gateway_is_closed() {
    let atlas = Atlas::new();
    let conn = |body: &[u8]| {
        let mut packet = vec![1, 1];
        packet.extend_from_slice(&7_u64.to_be_bytes());
        packet.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        packet.extend_from_slice(body);
        packet
    };
    let garbage: [Vec<u8>; 5] = [
        b"\x01\x01garbage that is long enough to be a header".to_vec(),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0xff; 1_000],
        conn(b"\x18\x00\0\0\0\0\0\0\0\0no JSON"),
        [1, 1].into_iter().chain([0; 8]).chain([0xff; 4]).collect(),
    ];
    for first in garbage {
        let (mut near, served) = atlas.connection(None);
        near.write_all(&first).await.unwrap();
        timeout(Duration::from_secs(15), near.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
        timeout(SOON, served).await.unwrap().unwrap();
    }
    assert_eq!(
        atlas.refusal("a\nb", 1, None).await,
        "illegal meta: a name or address is no text of at most 255 bytes"
    );
    // Nothing at all is no gateway either.
    let (mut near, served) = atlas.connection(None);
    timeout(Duration::from_secs(15), near.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    timeout(SOON, served).await.unwrap().unwrap();
    assert_eq!(atlas.go.len(), 0);
    assert_eq!(atlas.go.counts().refused.load(Ordering::Relaxed), 7);
}

#[tokio::test(start_paused = true)]
async fn garbage_of_a_gateway_that_was_let_in_ends_it() {
    let atlas = Atlas::new();
    let (near, served) = atlas.connection(None);
    let (mut read, mut write) = tokio::io::split(near);
    let meta = br#"{"meta":"e30="}"#;
    let mut packet = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 10 + u8::try_from(meta.len()).unwrap()];
    packet.extend_from_slice(&[0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(meta);
    write.write_all(&packet).await.unwrap();
    let mut header = [0; 14];
    read.read_exact(&mut header).await.unwrap();
    assert_eq!(header[..2], [1, 2], "let in");
    write.write_all(&packet).await.unwrap();
    timeout(SOON, read.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    timeout(SOON, served).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_gateway_is_gone_with_its_lease() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    gateway.online(7).await;
    // Nobody reads, writes or beats there any more, and the socket stays open.
    advance(Duration::from_secs(30)).await;
    assert_eq!(atlas.go.len(), 1);
    timeout(Duration::from_secs(60), &mut gateway.served).await.unwrap().unwrap();
    advance(Duration::from_secs(5)).await;
    assert_eq!(atlas.place(7).await, None);
}

#[tokio::test(start_paused = true)]
async fn who_has_too_much_is_told_so() {
    let terms = Terms { entries: 2, connections: 1, ..Terms::default() };
    let atlas = Atlas::over(Arc::new(Memory::new()), terms);
    let mut gateway = atlas.connect("go", 1).await;
    gateway.online(1).await;
    gateway.online(2).await;
    let third = gateway.tell("edge_online", json!({ "edge_id": 3, "addr": "1.2.3.4:5" })).await;
    assert_eq!(third, Err("overloaded".to_owned()));
    gateway.offline(1).await;
    gateway.online(3).await;
    assert!(matches!(atlas.dial("other", 2).next().await, Err(Ended::Closed)), "one connection, no more");
    gateway.leave().await;
    atlas.connect("other", 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_atlas_that_goes_down_says_good_bye() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    gateway.online(7).await;
    let begun = Instant::now();
    atlas.links.drain();
    while !matches!(gateway.next().await.unwrap(), Event::Over(_)) {}
    assert!(begun.elapsed() < Duration::from_secs(5));
    while gateway.next().await.is_ok() {}
    timeout(SOON, gateway.served).await.unwrap().unwrap();

    let other = Atlas::new();
    let mut gateway = other.connect("go", 1).await;
    other.stop.cancel();
    while !matches!(gateway.next().await.unwrap(), Event::Over(_)) {}
    drop(gateway.socket);
    timeout(SOON, gateway.served).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rust_gateway_that_takes_the_place_ends_the_go_one() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    let successor = Gateway {
        instance: Instance([7; 16]),
        frontier_id: "go".to_owned(),
        service_addr: "10.0.0.1:1".to_owned(),
        edge_addr: "10.0.0.1:30012".to_owned(),
    };
    atlas.store.join(&successor, Duration::from_secs(30), false).await.unwrap();
    while gateway.next().await.is_ok() {}
    timeout(SOON, gateway.served).await.unwrap().unwrap();
    assert_eq!(atlas.refusal("go", 1, None).await, "frontier already set");
    advance(Duration::from_secs(31)).await;
    let mut gateway = atlas.connect("go", 1).await;
    gateway.stay(Duration::from_secs(2), &[]).await;
    assert_eq!(atlas.directory.gateways().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_answered_and_keep_a_gateway_without_edges() {
    let atlas = Atlas::new();
    let mut gateway = atlas.connect("go", 1).await;
    gateway.stay(Duration::from_secs(300), &[]).await;
    assert_eq!(atlas.directory.gateways().await.unwrap().len(), 1);
}
