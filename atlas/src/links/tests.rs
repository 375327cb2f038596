use std::sync::Arc;
use std::time::Duration;

use frontier_api::bucket::{Digest, EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket, service_bucket};
use frontier_api::registry::{
    Buckets, Changes, Digest as DigestMessage, Edge, FromGateway, Hello, RenewRequest, ServiceInstance,
    ToGateway, Welcome, from_gateway, to_gateway::Kind,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{advance, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::directory::{Directory, ROSTER_AGE};
use crate::record::{Claim, EdgeRecord, StoreTime};
use crate::store::{EdgeWrite, Memory};

const ONE: u8 = 1;
const TWO: u8 = 2;

/// A gateway's side of a link, as a test writes it.
struct Gateway {
    instance: [u8; 16],
    to: mpsc::Sender<Result<FromGateway, ()>>,
    from: mpsc::Receiver<ToGateway>,
    end: JoinHandle<Result<(), LinkError>>,
    welcome: Welcome,
    seq: u64,
}

fn links(store: &Arc<Memory>) -> Arc<Links<Memory>> {
    links_on(store, Terms::default())
}

fn links_on(store: &Arc<Memory>, terms: Terms) -> Arc<Links<Memory>> {
    let directory = Arc::new(Directory::new(Arc::clone(store)));
    let watchers = Arc::new(Watchers::new(Arc::clone(store), directory, 10));
    Arc::new(Links::new(Arc::clone(store), watchers, terms))
}

fn hello(instance: u8, name: &str) -> Hello {
    Hello {
        version: VERSION,
        instance: vec![instance; 16],
        frontier_id: name.to_owned(),
        service_addr: format!("10.0.0.{instance}:30011"),
        edge_addr: format!("10.0.0.{instance}:30012"),
        attached: false,
    }
}

/// Begins a link with these words; the end of the link tells what came of it.
async fn attempt(
    links: &Arc<Links<Memory>>,
    first: impl Into<Option<from_gateway::Kind>>,
) -> (mpsc::Sender<Result<FromGateway, ()>>, mpsc::Receiver<ToGateway>, JoinHandle<Result<(), LinkError>>) {
    let (to, inbound) = mpsc::channel(8);
    let (out, from) = mpsc::channel(8);
    let links = Arc::clone(links);
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    let end = tokio::spawn(async move {
        links.attach(|name| name != "forbidden", ReceiverStream::new(inbound), out).await
    });
    if let Some(kind) = first.into() {
        to.send(Ok(FromGateway { kind: Some(kind) })).await.unwrap();
    }
    (to, from, end)
}

async fn refused(links: &Arc<Links<Memory>>, hello: Hello) -> LinkError {
    let (_to, _from, end) = attempt(links, from_gateway::Kind::Hello(hello)).await;
    end.await.unwrap().unwrap_err()
}

impl Gateway {
    async fn attach(links: &Arc<Links<Memory>>, hello: Hello) -> Self {
        let instance = hello.instance.clone().try_into().unwrap();
        let (to, mut from, end) = attempt(links, from_gateway::Kind::Hello(hello)).await;
        let Some(ToGateway { kind: Some(Kind::Welcome(welcome)) }) = from.recv().await else {
            panic!("no Welcome")
        };
        Self { instance, to, from, end, welcome, seq: 0 }
    }

    /// Attaches and has nothing.
    async fn empty(links: &Arc<Links<Memory>>, instance: u8) -> Self {
        let mut gateway = Self::attach(links, hello(instance, &format!("g{instance}"))).await;
        gateway.say_all(&[]).await;
        gateway
    }

    async fn next(&mut self) -> Kind {
        let next = timeout(Duration::from_secs(60), self.from.recv()).await.expect("nothing came");
        next.expect("the link has ended").kind.unwrap()
    }

    async fn send(&mut self, kind: from_gateway::Kind) {
        self.to.send(Ok(FromGateway { kind: Some(kind) })).await.unwrap();
    }

    /// Sends and waits for the Ack; gives what else came before it.
    async fn say(&mut self, kind: from_gateway::Kind) -> Vec<Kind> {
        self.send(kind).await;
        let mut others = Vec::new();
        loop {
            match self.next().await {
                Kind::Ack(ack) if ack.seq == self.seq => return others,
                other => others.push(other),
            }
        }
    }

    async fn change(&mut self, edges: Vec<Edge>) -> Vec<Kind> {
        self.seq += 1;
        self.say(from_gateway::Kind::Changes(Changes { seq: self.seq, edges, services: Vec::new() })).await
    }

    async fn buckets(&mut self, buckets: &[u16], edges: Vec<Edge>) -> Vec<Kind> {
        self.seq += 1;
        let edge_buckets = buckets.iter().copied().map(u32::from).collect();
        let buckets = Buckets { seq: self.seq, edge_buckets, edges, ..Buckets::default() };
        self.say(from_gateway::Kind::Buckets(buckets)).await
    }

    async fn say_all(&mut self, edges: &[(u64, u64)]) -> Vec<Kind> {
        let all: Vec<u16> = (0..EDGE_BUCKETS).collect();
        self.buckets(&all, edges.iter().map(|(id, epoch)| online(*id, *epoch)).collect()).await
    }

    async fn renew(&self, links: &Links<Memory>, digests: Vec<DigestMessage>) -> bool {
        let request = RenewRequest {
            instance: self.instance.to_vec(),
            stream: self.welcome.stream,
            edges: 1,
            services: 1,
            edge_digests: digests,
            service_digests: Vec::new(),
            seq: self.seq,
        };
        links.renew(&request).await.unwrap().known
    }
}

fn online(id: u64, epoch: u64) -> Edge {
    Edge { id, epoch, addr: vec![10, 1, 2, 3, 0, 80] }
}

fn gone(id: u64, epoch: u64) -> Edge {
    Edge { id, epoch, addr: Vec::new() }
}

/// Which gateway an edge is at, as clients are told.
async fn place(store: &Arc<Memory>, edge: u64) -> Option<String> {
    let found = Directory::new(Arc::clone(store)).edges(&[edge]).await.unwrap();
    found.into_iter().next().map(|edge| edge.frontier_id)
}

fn digest(bucket: u16, entries: &[(u64, u64)]) -> DigestMessage {
    let Digest { count, xor } = Digest::of(entries.iter().copied());
    DigestMessage { bucket: bucket.into(), count, xor }
}

#[tokio::test(start_paused = true)]
async fn what_a_gateway_says_is_in_the_store_when_it_is_acknowledged() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let mut gateway = Gateway::attach(&links, hello(ONE, "g")).await;
    let Welcome { version, stream, lease_ms, renew_ms, entries, unacknowledged, .. } = gateway.welcome;
    assert_eq!(
        (version, stream, lease_ms, renew_ms, entries, unacknowledged),
        (1, 1, 4_000, 1_000, 1_000, 4)
    );
    gateway.say_all(&[(7, 70), (8, 80)]).await;
    assert_eq!(place(&store, 7).await.as_deref(), Some("g"));
    gateway.change(vec![online(9, 90), gone(8, 80)]).await;
    assert_eq!((place(&store, 9).await.is_some(), place(&store, 8).await), (true, None));
    // A bucket said again is all there is in it.
    gateway.buckets(&[edge_bucket(7)], Vec::new()).await;
    assert_eq!((place(&store, 9).await.is_some(), place(&store, 7).await), (true, None));
    gateway.seq += 1;
    let service =
        ServiceInstance { id: 5, epoch: 1, addr: vec![127, 0, 0, 1, 0, 9], name: "files".to_owned() };
    let changes = Changes { seq: gateway.seq, edges: Vec::new(), services: vec![service] };
    gateway.say(from_gateway::Kind::Changes(changes)).await;
    let directory = Directory::new(Arc::clone(&store));
    assert_eq!(directory.services(&[5]).await.unwrap()[0].record.name, "files");
    let service_buckets = (0..u32::from(SERVICE_BUCKETS)).collect();
    gateway.seq += 1;
    let buckets = Buckets { seq: gateway.seq, service_buckets, ..Buckets::default() };
    gateway.say(from_gateway::Kind::Buckets(buckets)).await;
    assert_eq!(directory.services(&[5]).await.unwrap(), []);
    assert!(service_bucket(5) < SERVICE_BUCKETS);
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_the_store_may_step_under_a_link() {
    let store = Arc::new(Memory::starting_at(StoreTime(1_000_000)));
    let links = links(&store);
    let mut gateway = Gateway::empty(&links, ONE).await;
    let (later, too_late) = (StoreTime(5_000_000), StoreTime(5_100_000));
    store.set_time(later);
    assert!(gateway.renew(&links, Vec::new()).await);
    gateway.change(vec![online(7, later.epoch()), online(8, too_late.epoch())]).await;
    assert_eq!((place(&store, 7).await.as_deref(), place(&store, 8).await), (Some("g1"), None));
}

#[tokio::test(start_paused = true)]
async fn who_takes_leave_is_gone_at_once_and_who_breaks_off_when_the_lease_ends() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let mut gateway = Gateway::empty(&links, ONE).await;
    gateway.change(vec![online(7, 70)]).await;
    let Gateway { to, end, .. } = gateway;
    drop(to);
    assert_eq!(end.await.unwrap(), Ok(()));
    assert_eq!((place(&store, 7).await, links.len()), (None, 0));

    let mut gateway = Gateway::empty(&links, TWO).await;
    gateway.change(vec![online(7, 71)]).await;
    gateway.to.send(Err(())).await.unwrap();
    assert_eq!(gateway.end.await.unwrap(), Err(LinkError::Broken));
    assert_eq!(place(&store, 7).await.as_deref(), Some("g2"));
    advance(Duration::from_secs(4)).await;
    assert_eq!(place(&store, 7).await, None);
}

#[tokio::test(start_paused = true)]
async fn the_loser_of_an_id_is_told_at_this_atlas_and_at_another() {
    let store = Arc::new(Memory::new());
    let (here, there) = (links(&store), links(&store));
    let mut one = Gateway::empty(&here, ONE).await;
    let mut two = Gateway::empty(&here, TWO).await;
    let mut three = Gateway::empty(&there, 3).await;
    one.change(vec![online(7, 70)]).await;
    two.change(vec![online(7, 80)]).await;
    let Kind::Cut(cut) = one.next().await else { panic!("no Cut") };
    assert_eq!((cut.edges[0].id, cut.edges[0].epoch, cut.edges[0].newer), (7, 70, 80));
    // The old session's end takes nothing from the new one.
    one.change(vec![gone(7, 70)]).await;
    assert_eq!(place(&store, 7).await.as_deref(), Some("g2"));
    three.change(vec![online(7, 90)]).await;
    assert_eq!(place(&store, 7).await.as_deref(), Some("g3"));
    assert!(two.renew(&here, Vec::new()).await);
    let Kind::Cut(cut) = two.next().await else { panic!("no Cut") };
    assert_eq!((cut.edges[0].id, cut.edges[0].epoch, cut.edges[0].newer), (7, 80, 90));
    // Who comes too late is told so, whatever it says.
    two.change(vec![online(7, 85)]).await;
    let Kind::Cut(cut) = two.next().await else { panic!("no Cut") };
    assert_eq!((cut.edges[0].epoch, cut.edges[0].newer), (85, 90));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_a_dead_gateway_holds_is_nobodys() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let mut one = Gateway::empty(&links, ONE).await;
    let mut two = Gateway::empty(&links, TWO).await;
    one.change(vec![online(7, 90)]).await;
    for _ in 0..5 {
        advance(Duration::from_secs(1)).await;
        assert!(two.renew(&links, Vec::new()).await);
    }
    // Its clock was ahead, and it died.
    two.change(vec![online(7, 80)]).await;
    assert_eq!(place(&store, 7).await.as_deref(), Some("g2"));
    two.buckets(&[edge_bucket(7)], vec![online(7, 80)]).await;
    assert_eq!(place(&store, 7).await.as_deref(), Some("g2"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_in_the_store_as_it_was_told_is_asked_for_again() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let mut gateway = Gateway::attach(&links, hello(ONE, "g")).await;
    gateway.say_all(&[(7, 70), (8, 80)]).await;
    let keeping = Arc::clone(&links);
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move { keeping.keep().await });
    let claim = |epoch| Claim { epoch, instance: Instance([ONE; 16]) };
    let horizon = StoreTime(1 << 40);
    // Removed by hand.
    store.write_edges(&[EdgeWrite::Offline { edge: 7, claim: claim(70) }], horizon).await.unwrap();
    links.dirty.mark([edge_bucket(7)], []);
    let Kind::Resync(resync) = gateway.next().await else { panic!("no Resync") };
    assert_eq!(resync.edge_buckets, [u32::from(edge_bucket(7))]);
    gateway.buckets(&[edge_bucket(7)], vec![online(7, 70)]).await;
    assert!(place(&store, 7).await.is_some());
    // Written by hand; found by the slow round.
    let record = EdgeRecord { claim: claim(5), stream: 1, addr: "10.0.0.9:9".parse().unwrap() };
    store.write_edges(&[EdgeWrite::Online { edge: 99, record }], horizon).await.unwrap();
    let resync = loop {
        assert!(gateway.renew(&links, Vec::new()).await);
        if let Ok(kind) = timeout(Duration::from_secs(1), gateway.from.recv()).await {
            break kind.unwrap().kind;
        }
    };
    let Some(Kind::Resync(resync)) = resync else { panic!("no Resync") };
    assert_eq!(resync.edge_buckets, [u32::from(edge_bucket(99))]);
    gateway.buckets(&[edge_bucket(99)], Vec::new()).await;
    assert_eq!(place(&store, 99).await, None);
    // After changes only the gateway knows what it has there.
    gateway.change(vec![online(7, 71)]).await;
    links.dirty.mark([edge_bucket(7)], []);
    advance(Duration::from_secs(2)).await;
    assert!(gateway.from.try_recv().is_err());
    assert!(gateway.renew(&links, vec![digest(edge_bucket(7), &[(7, 71)])]).await);
    while links.dirty() > 0 {
        advance(Duration::from_millis(100)).await;
    }
    assert!(gateway.from.try_recv().is_err(), "it is as told");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_tells_something_else_is_an_occasion_to_ask() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let mut gateway = Gateway::attach(&links, hello(ONE, "g")).await;
    gateway.say_all(&[(7, 70)]).await;
    assert!(gateway.renew(&links, vec![digest(edge_bucket(7), &[(7, 70)])]).await);
    assert!(gateway.renew(&links, vec![digest(edge_bucket(7), &[(7, 71)])]).await);
    let Kind::Resync(resync) = gateway.next().await else { panic!("no Resync") };
    assert_eq!(resync.edge_buckets, [u32::from(edge_bucket(7))]);
    assert_eq!(links.counts().resyncs.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newer_link_of_a_gateway_replaces_the_older_one() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let mut old = Gateway::empty(&links, ONE).await;
    old.change(vec![online(7, 70)]).await;
    let mut new = Gateway::attach(&links, hello(ONE, "g1")).await;
    assert_eq!(old.end.await.unwrap(), Err(LinkError::Replaced));
    assert_eq!((new.welcome.stream, links.len()), (2, 1));
    // It says everything anew: what it does not say is not there.
    assert!(place(&store, 7).await.is_some());
    new.say_all(&[(8, 80)]).await;
    assert_eq!((place(&store, 7).await, place(&store, 8).await.is_some()), (None, true));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_takes_over_a_place_ends_the_link_of_the_one_before() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let mut old = Gateway::empty(&links, ONE).await;
    old.change(vec![online(7, 70)]).await;
    let new = Hello { instance: vec![TWO; 16], ..hello(ONE, "g1") };
    let _new = Gateway::attach(&links, new).await;
    assert_eq!(old.end.await.unwrap(), Err(LinkError::Superseded));
    assert_eq!(place(&store, 7).await, None, "its lease is over");
    assert_eq!(refused(&links, hello(ONE, "g1")).await, LinkError::Superseded);
}

#[tokio::test(start_paused = true)]
async fn gateways_with_one_name_are_counted() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let _one = Gateway::attach(&links, hello(ONE, "same")).await;
    let _two = Gateway::attach(&links, hello(TWO, "same")).await;
    assert_eq!(links.counts().duplicates.load(Ordering::Relaxed), 1);
    let names: Vec<_> =
        Directory::new(store).gateways().await.unwrap().into_iter().map(|one| one.frontier_id).collect();
    assert_eq!(names, ["same-01010101", "same-02020202"]);
}

#[tokio::test(start_paused = true)]
async fn who_breaks_the_rules_is_told_which() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let said = |error: LinkError| match error {
        LinkError::Invalid(what) => what,
        other => panic!("{other:?}"),
    };
    let wrong = [
        (Hello { version: 2, ..hello(ONE, "g") }, "version 2 is not known here, 1 is"),
        (Hello { instance: vec![1; 15], ..hello(ONE, "g") }, "an instance is 16 bytes, not all of them 0"),
        (Hello { instance: vec![0; 16], ..hello(ONE, "g") }, "an instance is 16 bytes, not all of them 0"),
        (hello(ONE, &"g".repeat(256)), "frontier_id is no text of at most 255 bytes"),
        (hello(ONE, "a\nb"), "frontier_id is no text of at most 255 bytes"),
    ];
    for (hello, text) in wrong {
        assert_eq!(said(refused(&links, hello).await), text);
    }
    assert_eq!(refused(&links, hello(ONE, "forbidden")).await, LinkError::Denied("forbidden".to_owned()));
    let (_to, _from, end) = attempt(&links, from_gateway::Kind::Changes(Changes::default())).await;
    assert_eq!(said(end.await.unwrap().unwrap_err()), "the first message is no Hello");
    let (_to, _from, end) = attempt(&links, None).await;
    assert_eq!(said(end.await.unwrap().unwrap_err()), "no Hello in time");

    let changes = |seq, edges| from_gateway::Kind::Changes(Changes { seq, edges, services: Vec::new() });
    let buckets = |numbers: &[u32], edges| {
        let edge_buckets = numbers.to_vec();
        from_gateway::Kind::Buckets(Buckets { seq: 1, edge_buckets, edges, ..Buckets::default() })
    };
    let short = Edge { addr: vec![1, 2, 3], ..online(1, 1) };
    let elsewhere = u32::from((edge_bucket(7) + 1) % EDGE_BUCKETS);
    let wrong = [
        (from_gateway::Kind::Hello(hello(ONE, "g")), "a second Hello".to_owned()),
        (changes(2, Vec::new()), "message 2 after message 0".to_owned()),
        (changes(0, Vec::new()), "message 0 after message 0".to_owned()),
        (changes(1, vec![online(0, 1)]), "0 is no ID".to_owned()),
        (changes(1, vec![short]), "an address of 3 bytes".to_owned()),
        (changes(1, vec![online(7, 1); 1_001]), "more than 1000 changes in a message".to_owned()),
        (buckets(&[1 << 14], Vec::new()), "there is no bucket 16384".to_owned()),
        (buckets(&[5, 5], Vec::new()), "bucket 5 twice in a message".to_owned()),
        (buckets(&[elsewhere], vec![online(7, 1)]), "edge 7 is in none of these buckets".to_owned()),
    ];
    for (kind, text) in wrong {
        let mut gateway = Gateway::attach(&links, hello(ONE, "g")).await;
        gateway.send(kind).await;
        assert_eq!(said(gateway.end.await.unwrap().unwrap_err()), text);
    }
    assert!(links.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_epoch_from_next_year_is_not_taken() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let mut gateway = Gateway::attach(&links, hello(ONE, "g")).await;
    let year = StoreTime(gateway.welcome.time_ms).after(365 * 24 * 3_600_000).epoch();
    let soon = StoreTime(gateway.welcome.time_ms).after(50_000).epoch();
    gateway.say_all(&[(7, year), (8, soon)]).await;
    gateway.change(vec![online(9, year), online(10, soon)]).await;
    let mut found = Vec::new();
    for edge in 7..=10 {
        found.push(place(&store, edge).await.is_some());
    }
    assert_eq!(found, [false, true, false, true]);
    assert_eq!(links.counts().refused.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn there_are_only_so_many_links_and_none_while_draining() {
    let store = Arc::new(Memory::new());
    let links = links_on(&store, Terms { links: 1, ..Terms::default() });
    let one = Gateway::attach(&links, hello(ONE, "g")).await;
    assert_eq!(refused(&links, hello(TWO, "h")).await, LinkError::TooMany);
    let again = Gateway::attach(&links, hello(ONE, "g")).await;
    assert_eq!(one.end.await.unwrap(), Err(LinkError::Replaced));
    links.drain();
    assert_eq!(again.end.await.unwrap(), Err(LinkError::Draining));
    assert_eq!(refused(&links, hello(ONE, "g")).await, LinkError::Draining);
    // The lease goes on: the gateway is expected at another atlas.
    assert_eq!(Directory::new(store).gateways().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_gone_is_buried_with_what_it_had() {
    let store = Arc::new(Memory::new());
    let links = links(&store);
    let keeping = Arc::clone(&links);
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move { keeping.keep().await });
    let mut one = Gateway::empty(&links, ONE).await;
    let mut two = Gateway::empty(&links, TWO).await;
    one.change((1..500).map(|id| online(id, 10)).collect()).await;
    two.change((500..1_000).map(|id| online(id, 10)).collect()).await;
    one.to.send(Err(())).await.unwrap();
    let all = async || {
        let buckets: Vec<u16> = (0..EDGE_BUCKETS).collect();
        store.edge_buckets(&buckets).await.unwrap().into_iter().flatten().count()
    };
    let start = tokio::time::Instant::now();
    while all().await > 500 {
        advance(Duration::from_millis(100)).await;
        assert!(two.renew(&links, Vec::new()).await);
        assert!(start.elapsed() < Duration::from_secs(80), "{} left", all().await);
    }
    assert!(start.elapsed() > Duration::from_secs(60));
    while store.members().await.unwrap().members.len() > 1 {
        advance(Duration::from_millis(100)).await;
        assert!(two.renew(&links, Vec::new()).await);
        assert!(start.elapsed() < Duration::from_secs(80));
    }
    assert_eq!(all().await, 500);
    advance(ROSTER_AGE).await;
    assert!(place(&store, 700).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_while_it_is_buried_is_asked_for_what_has_gone() {
    let store = Arc::new(Memory::starting_at(StoreTime(1_000_000)));
    let links = links(&store);
    let keeping = Arc::clone(&links);
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move { keeping.keep().await });
    let mut gateway = Gateway::empty(&links, ONE).await;
    gateway.change((1..500).map(|id| online(id, 10)).collect()).await;
    let all = async || {
        let buckets: Vec<u16> = (0..EDGE_BUCKETS).collect();
        store.edge_buckets(&buckets).await.unwrap().into_iter().flatten().count()
    };
    // Its digests are known, and the store is trusted.
    let told: Vec<u16> = (1..500).map(edge_bucket).collect();
    let digests = |bucket: &u16| {
        let entries: Vec<_> = (1..500).filter(|id| edge_bucket(*id) == *bucket).map(|id| (id, 10)).collect();
        digest(*bucket, &entries)
    };
    for _ in 0..15 {
        advance(Duration::from_secs(1)).await;
        assert!(gateway.renew(&links, told.iter().map(digests).collect()).await);
    }
    // The clock of the store steps: no lease is left, and the one keeper begins before the gateway renews.
    store.set_time(StoreTime(5_000_000));
    while all().await == 499 {
        advance(Duration::from_millis(100)).await;
    }
    let start = tokio::time::Instant::now();
    while all().await < 499 {
        assert!(gateway.renew(&links, Vec::new()).await, "its row has gone as well");
        if let Ok(kind) = timeout(Duration::from_millis(100), gateway.from.recv()).await {
            let Some(Kind::Resync(resync)) = kind.unwrap().kind else { panic!("no Resync") };
            let buckets: Vec<u16> = resync.edge_buckets.iter().map(|bucket| *bucket as u16).collect();
            let again = (1..500).filter(|id| buckets.contains(&edge_bucket(*id)));
            gateway.buckets(&buckets, again.map(|id| online(id, 10)).collect()).await;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{} are there", all().await);
    }
}
