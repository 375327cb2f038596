use super::*;
use crate::record::{Claim, StoreTime};
use crate::store::{EdgeWrite, Memory, ServiceWrite};
use frontier_api::bucket::edge_bucket;

const LEASE: Duration = Duration::from_secs(4);
const HORIZON: StoreTime = StoreTime(1 << 40);
const ONE: Instance = Instance([1; 16]);
const TWO: Instance = Instance([0x2f; 16]);

async fn directory() -> Directory<Memory> {
    let store = Memory::new();
    for (instance, port) in [(ONE, 1), (TWO, 3)] {
        store.join(&gateway(instance, "same", port), LEASE, false).await.unwrap();
    }
    Directory::new(Arc::new(store))
}

fn gateway(instance: Instance, name: &str, port: u16) -> Gateway {
    let frontier_id = name.to_owned();
    Gateway { instance, frontier_id, service_addr: format!("h:{port}"), edge_addr: format!("h:{}", port + 1) }
}

async fn put(directory: &Directory<Memory>, edges: impl IntoIterator<Item = u64>, instance: Instance) {
    let claim = Claim { epoch: 7, instance };
    let record = EdgeRecord { claim, stream: 1, addr: "10.0.0.1:9".parse().unwrap() };
    let writes: Vec<_> = edges.into_iter().map(|edge| EdgeWrite::Online { edge, record }).collect();
    directory.store.write_edges(&writes, HORIZON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn gateways_with_one_name_are_told_apart() {
    let directory = directory().await;
    let names: Vec<_> = directory.gateways().await.unwrap().into_iter().map(|one| one.frontier_id).collect();
    assert_eq!(names, ["same-01010101", "same-2f2f2f2f"]);
    directory.store.leave(TWO, 1).await.unwrap();
    tokio::time::advance(ROSTER_AGE).await;
    let names: Vec<_> = directory.gateways().await.unwrap().into_iter().map(|one| one.frontier_id).collect();
    assert_eq!(names, ["same"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_gateway_without_a_lease_had_is_not_there() {
    let directory = directory().await;
    put(&directory, [1, 2], ONE).await;
    put(&directory, [3], TWO).await;
    let there = async |ids: &[u64]| {
        let edges = directory.edges(ids).await.unwrap();
        let page = directory.edge_page(0, 10).await.unwrap();
        let mut all: Vec<u64> = page.entries.iter().map(|edge| edge.id).collect();
        all.sort_unstable();
        (edges.iter().map(|edge| edge.id).collect::<Vec<_>>(), all)
    };
    assert_eq!(there(&[3, 9, 1]).await, (vec![3, 1], vec![1, 2, 3]));
    assert_eq!(directory.gateways_of(&[1, 2, 3]).await.unwrap().len(), 2);
    tokio::time::advance(LEASE).await;
    directory.store.renew(TWO, 1, 0, LEASE).await.unwrap();
    assert_eq!(there(&[1, 2, 3]).await, (vec![3], vec![3]));
    assert_eq!(directory.edge_count().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn pages_of_any_size_have_every_edge_once() {
    let directory = directory().await;
    put(&directory, 1..=3_000, ONE).await;
    for count in [1, 7, 999, 1_000, 0, u32::MAX] {
        let (mut cursor, mut seen) = (0, Vec::new());
        loop {
            let page = directory.edge_page(cursor, count).await.unwrap();
            assert!(page.entries.len() <= 1_000 && (page.cursor == 0 || !page.entries.is_empty()));
            seen.extend(page.entries.iter().map(|edge| edge.id));
            cursor = page.cursor;
            if cursor == 0 {
                break;
            }
        }
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(1..=3_000), "{count}: {} edges", seen.len());
    }
    for cursor in [u32::MAX, 1 << 31, (1 << PLACE_BITS) - 1] {
        directory.edge_page(cursor, 10).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_between_two_pages_moves_nobody_else() {
    let directory = directory().await;
    // All in one bucket, where places used to be counted.
    let mut bucket = (1..).filter(|id| edge_bucket(*id) == 9);
    let mut some = |count| bucket.by_ref().take(count).collect::<Vec<u64>>();
    let (staying, leaving, coming) = (some(50), some(50), some(50));
    put(&directory, staying.iter().chain(&leaving).copied(), ONE).await;
    let (mut cursor, mut seen) = (0, Vec::new());
    for page in 0_usize.. {
        let entries = directory.edge_page(cursor, 2).await.unwrap();
        seen.extend(entries.entries.iter().map(|edge| edge.id));
        if let (Some(gone), Some(new)) = (leaving.get(page), coming.get(page)) {
            let claim = Claim { epoch: 7, instance: ONE };
            let gone = EdgeWrite::Offline { edge: *gone, claim };
            directory.store.write_edges(&[gone], HORIZON).await.unwrap();
            put(&directory, [*new], ONE).await;
        }
        cursor = entries.cursor;
        if cursor == 0 {
            break;
        }
    }
    for id in staying {
        assert_eq!(seen.iter().filter(|other| **other == id).count(), 1, "edge {id}");
    }
}

#[tokio::test]
async fn those_who_share_a_place_are_on_one_page() {
    let records: BTreeMap<u64, u64> = (0..10).map(|id| (id, id)).collect();
    let read = |buckets: Vec<u16>| {
        let some = buckets.iter().map(|bucket| if *bucket == 1 { records.clone() } else { BTreeMap::new() });
        std::future::ready(Ok(some.collect()))
    };
    // Three to a place.
    let some =
        async |cursor, count| page(cursor, count, 4, read, |id| *id as u32 / 3, |id, _| Some(id)).await;
    let first = some(0, 2).await.unwrap();
    assert_eq!(first, Page { entries: vec![0, 1, 2], cursor: (1 << PLACE_BITS) | 1 });
    assert_eq!(
        some(first.cursor, 4).await.unwrap(),
        Page { entries: (3..9).collect(), cursor: (1 << PLACE_BITS) | 3 }
    );
    assert_eq!(some(0, 100).await.unwrap(), Page { entries: (0..10).collect(), cursor: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_service_is_found_at_every_gateway_it_is_connected_to() {
    let directory = directory().await;
    let online = |service, instance| {
        let claim = Claim { epoch: 7, instance };
        let (addr, name) = ("10.0.0.2:9".parse().unwrap(), "files".to_owned());
        ServiceWrite::Online { service, record: ServiceRecord { claim, stream: 1, addr, name } }
    };
    directory.store.write_services(&[online(5, ONE), online(5, TWO), online(6, ONE)]).await.unwrap();
    let found = directory.services(&[6, 5]).await.unwrap();
    assert_eq!(found.iter().map(|one| one.id).collect::<Vec<_>>(), [6, 5, 5]);
    assert_eq!(directory.service_page(0, 2).await.unwrap().entries.len(), 2);
    assert_eq!(directory.services(&[9]).await.unwrap(), []);
}
