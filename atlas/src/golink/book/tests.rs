use super::*;
use crate::record::{Claim, Instance};

const NOW: Duration = Duration::from_secs(1_000);
const UNHEARD: Duration = Duration::from_secs(30);

fn room(used: &AtomicUsize) -> Room<'_> {
    Room { used, all: 100_000, each: 50_000, unheard: UNHEARD }
}

fn addr() -> SocketAddr {
    "10.0.0.1:7".parse().unwrap()
}

/// A book whose snapshot was said.
fn open(used: &AtomicUsize) -> Book<'_> {
    let mut book = Book::new(room(used));
    book.attached(StoreTime(1_000_000), NOW);
    book.adopted();
    while book.next(1, 1_000).is_some() {}
    book
}

fn changes(book: &mut Book<'_>) -> Changes {
    match book.next(1, 1_000) {
        Some(from_gateway::Kind::Changes(changes)) => changes,
        other => panic!("{other:?}"),
    }
}

fn record(epoch: u64) -> EdgeRecord {
    EdgeRecord { claim: Claim { epoch, instance: Instance([1; 16]) }, stream: 1, addr: addr() }
}

fn digests(book: &mut Book<'_>) -> Vec<(u32, Digest)> {
    let digest = |digest: registry::Digest| (digest.bucket, Digest { count: digest.count, xor: digest.xor });
    book.digests().into_iter().map(|(_, told)| digest(told)).collect()
}

#[test]
fn a_snapshot_has_every_bucket_once_and_whole() {
    let used = AtomicUsize::new(0);
    let mut book = Book::new(room(&used));
    for id in 1..=5_000 {
        book.online(Kind::Edge, id, addr(), "", NOW).unwrap();
    }
    book.online(Kind::Service, 9, addr(), "echo", NOW).unwrap();
    book.attached(StoreTime(1_000_000), NOW);
    let (mut edges, mut services, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    while let Some(message) = book.next(1, 1_000) {
        let from_gateway::Kind::Buckets(buckets) = message else { panic!("changes in a snapshot") };
        assert!(buckets.edges.len() < 1_100 && buckets.edge_buckets.len() <= BUCKETS);
        for edge in &buckets.edges {
            assert!(buckets.edge_buckets.contains(&u32::from(edge_bucket(edge.id))));
            assert!(edge.epoch >= StoreTime(1_000_000).epoch(), "the store's time was not known before");
        }
        ids.extend(buckets.edges.iter().map(|edge| edge.id));
        edges.extend(buckets.edge_buckets);
        services.extend(buckets.service_buckets);
        assert!(buckets.services.iter().all(|service| service.name == "echo"));
    }
    assert_eq!(ids.len(), 5_000);
    assert_eq!(edges, (0..u32::from(EDGE_BUCKETS)).collect::<Vec<_>>());
    assert_eq!(services, (0..u32::from(SERVICE_BUCKETS)).collect::<Vec<_>>());
    assert!(book.is_said());
    assert_eq!(book.counts(), (5_000, 1));
}

#[test]
fn only_the_newest_state_is_said() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    book.online(Kind::Edge, 7, addr(), "", NOW).unwrap();
    book.offline(Kind::Edge, 7, NOW);
    book.online(Kind::Edge, 7, addr(), "", NOW).unwrap();
    book.online(Kind::Edge, 8, addr(), "", NOW).unwrap();
    book.offline(Kind::Edge, 8, NOW);
    let changes = changes(&mut book);
    assert_eq!(changes.edges.len(), 2);
    for edge in changes.edges {
        assert_eq!(edge.addr.is_empty(), edge.id == 8);
        assert!(edge.epoch > StoreTime(1_000_000).epoch());
    }
    assert!(book.is_said());
}

#[test]
fn each_session_has_a_greater_epoch_than_those_before() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    let mut last = 0;
    for second in [0, 0, 5, 4] {
        book.online(Kind::Edge, 7, addr(), "", NOW + Duration::from_secs(second)).unwrap();
        let epoch = changes(&mut book).edges[0].epoch;
        assert!(epoch > last);
        last = epoch;
    }
    assert_eq!(StoreTime::of_epoch(last), StoreTime(1_005_000), "the store's time, not that of this machine");
}

#[test]
fn what_waits_is_bounded_and_becomes_buckets() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    for id in 1..=40_000 {
        book.online(Kind::Edge, id, addr(), "", NOW).unwrap();
    }
    assert!(book.pending.len() <= PENDING);
    let mut ids = BTreeSet::new();
    while let Some(message) = book.next(1, 1_000) {
        let (edges, gone) = match message {
            from_gateway::Kind::Buckets(buckets) => (buckets.edges, false),
            from_gateway::Kind::Changes(changes) => (changes.edges, false),
            from_gateway::Kind::Hello(_) => panic!("a greeting"),
        };
        assert!(edges.iter().all(|edge| edge.addr.is_empty() == gone));
        ids.extend(edges.iter().map(|edge| edge.id));
    }
    assert_eq!(ids.len(), 40_000);
}

#[test]
fn there_is_an_end_of_room_and_it_is_given_back() {
    let used = AtomicUsize::new(0);
    let small = Room { used: &used, all: 3, each: 2, unheard: UNHEARD };
    let (mut one, mut two) = (Book::new(small), Book::new(small));
    assert_eq!(one.online(Kind::Edge, 1, addr(), "", NOW), Ok(()));
    assert_eq!(one.online(Kind::Service, 1, addr(), "", NOW), Ok(()));
    assert_eq!(one.online(Kind::Edge, 2, addr(), "", NOW), Err(Full), "of this gateway");
    assert_eq!(one.online(Kind::Edge, 1, addr(), "", NOW), Ok(()), "it has a place");
    assert_eq!(two.online(Kind::Edge, 2, addr(), "", NOW), Ok(()));
    assert_eq!(two.online(Kind::Edge, 3, addr(), "", NOW), Err(Full), "of all");
    one.offline(Kind::Edge, 1, NOW);
    assert_eq!(two.online(Kind::Edge, 3, addr(), "", NOW), Ok(()));
    drop(two);
    one.clear();
    assert_eq!((used.load(Ordering::Relaxed), one.counts()), (0, (0, 0)));
}

#[test]
fn digests_tell_what_was_said_and_nothing_that_waits() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    assert_eq!(digests(&mut book), []);
    book.online(Kind::Edge, 7, addr(), "", NOW).unwrap();
    assert_eq!(digests(&mut book), [], "it was not said yet");
    let epoch = changes(&mut book).edges[0].epoch;
    let told = (u32::from(edge_bucket(7)), Digest::of([(7, epoch)]));
    let first = book.digests();
    assert_eq!(first.len(), 1);
    assert_eq!(digests(&mut book), [], "it is told once");
    book.untold(&first);
    assert_eq!(digests(&mut book), [told]);
    book.repeat(&registry::Resync { edge_buckets: vec![told.0, 1 << 20], service_buckets: vec![256] });
    book.untold(&first);
    assert_eq!(digests(&mut book), [], "the bucket is said again first");
    assert!(matches!(
        book.next(1, 10),
        Some(from_gateway::Kind::Buckets(buckets)) if buckets.edge_buckets == [told.0] && buckets.edges.len() == 1
    ));
    assert_eq!(digests(&mut book), [told]);
}

#[test]
fn who_is_not_heard_of_goes_after_two_and_a_half_of_its_intervals() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    let at = |seconds| NOW + Duration::from_secs(seconds);
    let sweep = |book: &mut Book<'_>, seconds| {
        (0..=4).for_each(|_| book.sweep(4, at(seconds)));
        book.counts().0
    };
    for id in 1..=4 {
        book.online(Kind::Edge, id, addr(), "", NOW).unwrap();
    }
    book.adopt_edge(5, &record(1), NOW);
    for id in [1, 2] {
        book.heartbeat(Kind::Edge, id, at(20)).unwrap();
    }
    book.heartbeat(Kind::Edge, 3, at(80)).unwrap();
    assert_eq!(sweep(&mut book, 30), 5);
    assert_eq!(sweep(&mut book, 31), 4, "what was in the store has 30 s");
    book.heartbeat(Kind::Edge, 1, at(40)).unwrap();
    assert_eq!(sweep(&mut book, 71), 3, "2 had 50 s since 20");
    assert_eq!(sweep(&mut book, 91), 2, "1 had 50 s since 40");
    assert_eq!(sweep(&mut book, 279), 2, "3 comes every 80 s");
    assert_eq!(sweep(&mut book, 281), 1);
    assert_eq!(sweep(&mut book, 800), 1, "4 may have an interval of 320 s");
    assert_eq!(sweep(&mut book, 801), 0);
    let gone = changes(&mut book).edges;
    assert!(gone.len() == 5 && gone.iter().all(|edge| edge.addr.is_empty()));
}

#[test]
fn an_edge_that_is_not_known_is_looked_up_before_it_counts() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    for id in 1..=5 {
        book.heartbeat(Kind::Edge, id, NOW).unwrap();
    }
    assert_eq!(book.counts().0, 0);
    assert_eq!(book.seek(10), [1, 2, 3, 4, 5]);
    // Meanwhile two of them are heard of otherwise.
    book.online(Kind::Edge, 4, addr(), "", NOW).unwrap();
    book.offline(Kind::Edge, 5, NOW);
    let found = [
        (1, Found::Nowhere),
        (2, Found::Elsewhere),
        (3, Found::Here(record(77))),
        (4, Found::Elsewhere),
        (5, Found::Nowhere),
    ];
    book.found(found.into(), NOW);
    let said: BTreeMap<u64, (bool, u64)> =
        changes(&mut book).edges.iter().map(|edge| (edge.id, (edge.addr.is_empty(), edge.epoch))).collect();
    assert_eq!(said.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert_eq!(said[&3], (false, 77), "as it was");
    assert!(!said[&1].0 && !said[&4].0 && said[&5].0);
    assert!(book.seek(10).is_empty());
}

#[test]
fn strays_are_bounded() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    for id in 1..=STRAYS as u64 + 10 {
        book.heartbeat(Kind::Edge, id, NOW).unwrap();
    }
    assert_eq!(book.strays.len(), STRAYS);
    assert_eq!(book.seek(1_000).len(), 1_000);
    book.found(Vec::new(), NOW);
    assert_eq!(book.counts().0, 0, "a store that fails tells nothing");
}

#[test]
fn an_edge_that_left_is_not_taken_over_from_the_store() {
    let used = AtomicUsize::new(0);
    let mut book = Book::new(room(&used));
    book.attached(StoreTime(1_000_000), NOW);
    book.offline(Kind::Edge, 1, NOW);
    book.online(Kind::Edge, 2, addr(), "", NOW).unwrap();
    for id in [1, 2, 3] {
        book.adopt_edge(id, &record(5), NOW);
    }
    book.adopted();
    let mut edges = BTreeMap::new();
    while let Some(from_gateway::Kind::Buckets(buckets)) = book.next(1, 1_000) {
        edges.extend(buckets.edges.iter().map(|edge| (edge.id, edge.epoch)));
    }
    assert_eq!(edges.keys().copied().collect::<Vec<_>>(), [2, 3]);
    assert!(edges[&2] > 5 && edges[&3] == 5);
}

#[test]
fn a_session_that_lost_its_id_goes_and_a_later_one_stays() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    book.online(Kind::Edge, 7, addr(), "", NOW).unwrap();
    let epoch = changes(&mut book).edges[0].epoch;
    book.cut(7, epoch - 1);
    assert_eq!(book.counts().0, 1);
    book.cut(7, epoch);
    assert_eq!(book.counts().0, 0);
    let gone = changes(&mut book).edges;
    assert!(gone[0].addr.is_empty() && gone[0].epoch == epoch);
}

#[test]
fn the_gateways_own_counts_come_first() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    book.online(Kind::Edge, 7, addr(), "", NOW).unwrap();
    assert_eq!(book.counts(), (1, 0));
    book.count(3, 2);
    assert_eq!(book.counts(), (3, 2));
}

#[test]
fn a_service_that_is_not_known_is_there_without_a_name() {
    let used = AtomicUsize::new(0);
    let mut book = open(&used);
    book.heartbeat(Kind::Service, 7, NOW).unwrap();
    let said = changes(&mut book).services;
    assert_eq!((said[0].id, said[0].name.as_str()), (7, ""));
}
