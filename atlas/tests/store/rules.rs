//! The rules.

use std::time::Duration;

use frontier_api::bucket::{EDGE_BUCKETS, edge_bucket, service_bucket};
use frontier_atlas::record::{Claim, EdgeRecord, Instance, ServiceRecord, StoreTime};
use frontier_atlas::store::{
    CUTS, Cut, EdgeOutcome, EdgeWrite, Gateway, Joined, ServiceWrite, Store, StoreError,
};

const LEASE: Duration = Duration::from_secs(4);
const HERE: Instance = Instance([1; 16]);
const THERE: Instance = Instance([2; 16]);
/// Later than every epoch here.
pub(crate) const HORIZON: StoreTime = StoreTime(1 << 40);

fn record(epoch: u64, instance: Instance, stream: u32) -> EdgeRecord {
    EdgeRecord { claim: Claim { epoch, instance }, stream, addr: "10.1.2.3:4567".parse().unwrap() }
}

async fn put(store: &impl Store, edge: u64, record: EdgeRecord) -> EdgeOutcome {
    store.write_edges(&[EdgeWrite::Online { edge, record }], HORIZON).await.unwrap()[0]
}

async fn remove(store: &impl Store, edge: u64, epoch: u64, instance: Instance) {
    let claim = Claim { epoch, instance };
    let outcomes = store.write_edges(&[EdgeWrite::Offline { edge, claim }], HORIZON).await.unwrap();
    assert_eq!(outcomes, [EdgeOutcome::Done]);
}

async fn get(store: &impl Store, edge: u64) -> Option<EdgeRecord> {
    store.edges(&[edge]).await.unwrap()[0]
}

pub(crate) fn gateway(instance: Instance, name: &str, port: u16) -> Gateway {
    Gateway {
        instance,
        frontier_id: name.to_owned(),
        service_addr: format!("10.0.0.1:{port}"),
        edge_addr: format!("10.0.0.1:{}", port + 1),
    }
}

/// What an edge's record is after so many writes: no two edges have the same.
pub(crate) fn record_of(edge: u64, epoch: u64) -> EdgeRecord {
    record((epoch << 32) + edge, HERE, 1)
}

pub(crate) fn online(edge: u64, epoch: u64) -> EdgeWrite {
    EdgeWrite::Online { edge, record: record_of(edge, epoch) }
}

/// The number of the link, or who superseded the instance.
async fn join(
    store: &impl Store,
    instance: Instance,
    port: u16,
) -> Result<Result<u32, Instance>, StoreError> {
    Ok(match store.join(&gateway(instance, "g", port), LEASE, false).await? {
        Joined::Lease { stream, .. } => Ok(stream),
        Joined::Superseded { by } => Err(by),
        Joined::Full => panic!("there are too many"),
    })
}

pub(crate) async fn the_greater_claim_has_an_edge(store: &impl Store) {
    let (old, new) = (record(5 << 40, HERE, 1), record((5 << 40) + 1, THERE, 1));
    assert_eq!(put(store, 7, old).await, EdgeOutcome::Done);
    assert_eq!(put(store, 7, new).await, EdgeOutcome::Replaced(old));
    assert_eq!(put(store, 7, old).await, EdgeOutcome::Lost(new));
    assert_eq!(get(store, 7).await, Some(new));
    // Between equal epochs the instance decides, everywhere alike.
    assert_eq!(put(store, 8, record(9, THERE, 1)).await, EdgeOutcome::Done);
    assert_eq!(put(store, 8, record(9, HERE, 1)).await, EdgeOutcome::Lost(record(9, THERE, 1)));
    // A difference in either half of an epoch counts, and as a number: half of it is more than 31 bits.
    let (low, high) = (record(0x7fff_ffff_0000_0001, HERE, 1), record(0x8000_0000_0000_0000, HERE, 1));
    let far = StoreTime(u64::MAX >> 20);
    for (record, outcome) in
        [(low, EdgeOutcome::Done), (high, EdgeOutcome::Replaced(low)), (low, EdgeOutcome::Lost(high))]
    {
        let write = [EdgeWrite::Online { edge: 9, record }];
        assert_eq!(store.write_edges(&write, far).await.unwrap(), [outcome]);
    }
}

pub(crate) async fn of_equal_claims_the_later_link_writes(store: &impl Store) {
    let (first, second) = (record(5, HERE, 1), record(5, HERE, 2));
    put(store, 7, second).await;
    assert_eq!(put(store, 7, first).await, EdgeOutcome::Done);
    assert_eq!(get(store, 7).await, Some(second));
    assert_eq!(put(store, 7, record(5, HERE, 300)).await, EdgeOutcome::Done);
    assert_eq!(get(store, 7).await.unwrap().stream, 300);
}

pub(crate) async fn only_its_holder_removes_an_edge(store: &impl Store) {
    put(store, 7, record(5, HERE, 1)).await;
    remove(store, 7, 4, HERE).await;
    remove(store, 7, 9, THERE).await;
    assert!(get(store, 7).await.is_some());
    remove(store, 7, 5, HERE).await;
    assert_eq!(get(store, 7).await, None);
    remove(store, 7, 5, HERE).await;
    // An offline that comes after everything means the session before as well.
    put(store, 7, record(5, HERE, 1)).await;
    remove(store, 7, 6, HERE).await;
    assert_eq!(get(store, 7).await, None);
}

pub(crate) async fn a_record_from_the_future_counts_as_none(store: &impl Store) {
    let (forged, real) =
        (record(StoreTime(2_000).epoch(), THERE, 1), record(StoreTime(1_000).epoch(), HERE, 1));
    put(store, 7, forged).await;
    let write = [EdgeWrite::Online { edge: 7, record: real }];
    assert_eq!(store.write_edges(&write, StoreTime(1_999)).await.unwrap(), [EdgeOutcome::Done]);
    assert_eq!(get(store, 7).await, Some(real));
}

pub(crate) async fn a_lease_ends_unless_it_is_renewed(store: &impl Store) {
    let joined = store.join(&gateway(HERE, "g", 1), LEASE, false).await.unwrap();
    let Joined::Lease { now, stream: 1 } = joined else { panic!("{joined:?}") };
    let roster = store.members().await.unwrap();
    assert!(roster.now >= now && roster.lives(HERE));
    assert_eq!(roster.members[&HERE].lease, now.after(4_000));
    let renewed = store.renew(HERE, 10, 2, Duration::from_secs(60)).await.unwrap();
    assert!(renewed.known);
    let roster = store.members().await.unwrap();
    let member = roster.living(HERE).unwrap();
    assert_eq!((member.lease, member.edges, member.services), (renewed.now.after(60_000), 10, 2));
    assert_eq!((member.stream, &member.gateway), (1, &gateway(HERE, "g", 1)));
    // An older link than its newest has nothing to end.
    store.leave(HERE, 7).await.unwrap();
    assert!(store.members().await.unwrap().lives(HERE));
    store.leave(HERE, 1).await.unwrap();
    let roster = store.members().await.unwrap();
    assert!(!roster.lives(HERE) && roster.members.contains_key(&HERE));
    assert!(!store.renew(HERE, 10, 2, LEASE).await.unwrap().known, "a renewal that was on its way");
    assert_eq!(join(store, HERE, 1).await.unwrap(), Ok(2));
    store.forget(HERE).await.unwrap();
    assert!(store.members().await.unwrap().lives(HERE), "who has come back is not forgotten");
    // A lease of a time before the clock stepped back is none.
    store.renew(HERE, 1, 1, Duration::from_secs(3_600)).await.unwrap();
    assert!(!store.members().await.unwrap().lives(HERE));
    store.renew(HERE, 1, 1, LEASE).await.unwrap();
    assert!(store.members().await.unwrap().lives(HERE));
    store.leave(HERE, 2).await.unwrap();
    store.forget(HERE).await.unwrap();
    assert_eq!(store.members().await.unwrap().members.len(), 0);
}

pub(crate) async fn a_gateway_that_starts_again_takes_over_from_its_earlier_life(store: &impl Store) {
    assert_eq!(join(store, HERE, 1).await.unwrap(), Ok(1));
    assert_eq!(join(store, HERE, 1).await.unwrap(), Ok(2));
    assert_eq!(join(store, THERE, 1).await.unwrap(), Ok(1));
    let roster = store.members().await.unwrap();
    assert!(roster.lives(THERE) && !roster.lives(HERE));
    assert_eq!(roster.members[&HERE].superseded_by, Some(THERE));
    assert_eq!(roster.members[&THERE].superseded_by, None);
}

/// A lease ends as if nobody had renewed it.
async fn over(store: &impl Store, instance: Instance) {
    assert!(store.renew(instance, 0, 0, Duration::ZERO).await.unwrap().known);
}

pub(crate) async fn who_is_superseded_stays_away_while_its_successor_lives(store: &impl Store) {
    join(store, HERE, 1).await.unwrap().unwrap();
    join(store, THERE, 1).await.unwrap().unwrap();
    let refused = store.members().await.unwrap().members[&HERE].lease;
    assert!(!store.renew(HERE, 1, 1, LEASE).await.unwrap().known);
    assert_eq!(join(store, HERE, 1).await.unwrap(), Err(THERE));
    let roster = store.members().await.unwrap();
    assert!(roster.lives(THERE) && !roster.lives(HERE));
    // It tries, so its lease counts as just over: it is not forgotten.
    assert!(roster.members[&HERE].lease >= refused);
    // A third one takes over from both, living or not; then only that one matters.
    let third = Instance([0xf3; 16]);
    join(store, third, 1).await.unwrap().unwrap();
    assert_eq!(join(store, HERE, 1).await.unwrap(), Err(third));
    assert_eq!(join(store, THERE, 1).await.unwrap(), Err(third));
    over(store, third).await;
    assert!(!store.renew(HERE, 1, 1, LEASE).await.unwrap().known);
    assert_eq!(join(store, HERE, 1).await.unwrap(), Ok(2));
    assert!(store.renew(HERE, 1, 1, LEASE).await.unwrap().known);
    assert_eq!(join(store, third, 1).await.unwrap(), Err(HERE));
    assert_eq!(join(store, THERE, 1).await.unwrap(), Err(HERE));
    // At another place nothing is taken over.
    assert_eq!(join(store, Instance([4; 16]), 9).await.unwrap(), Ok(1));
    assert!(store.members().await.unwrap().lives(HERE));
}

pub(crate) async fn who_was_forgotten_stays_away_while_another_lives_at_its_place(store: &impl Store) {
    join(store, HERE, 1).await.unwrap().unwrap();
    join(store, THERE, 1).await.unwrap().unwrap();
    store.forget(HERE).await.unwrap();
    let here = gateway(HERE, "g", 1);
    let back = || store.join(&here, LEASE, true);
    assert_eq!(back().await.unwrap(), Joined::Superseded { by: THERE });
    assert!(store.members().await.unwrap().lives(THERE));
    // Nobody is there any more, or somebody elsewhere is: it is the gateway again.
    over(store, THERE).await;
    join(store, Instance([4; 16]), 9).await.unwrap().unwrap();
    assert!(matches!(back().await.unwrap(), Joined::Lease { stream: 1, .. }));
    // Who is known and not superseded joins as ever.
    assert!(matches!(back().await.unwrap(), Joined::Lease { stream: 2, .. }));
}

pub(crate) async fn a_lease_that_is_over_comes_back_by_a_renewal_unless_superseded(store: &impl Store) {
    join(store, HERE, 1).await.unwrap().unwrap();
    over(store, HERE).await;
    assert!(!store.members().await.unwrap().lives(HERE));
    assert!(store.renew(HERE, 3, 1, LEASE).await.unwrap().known);
    assert!(store.members().await.unwrap().lives(HERE));
    // Over, then superseded, and the successor is gone as well: what it had may have been taken, so it joins again.
    over(store, HERE).await;
    join(store, THERE, 1).await.unwrap().unwrap();
    over(store, THERE).await;
    assert!(!store.renew(HERE, 3, 1, LEASE).await.unwrap().known);
    assert!(store.renew(THERE, 3, 1, LEASE).await.unwrap().known);
}

pub(crate) async fn gateways_with_one_name_and_other_addresses_live_beside_each_other(store: &impl Store) {
    store.join(&gateway(HERE, "g", 1), LEASE, false).await.unwrap();
    store.join(&gateway(THERE, "g", 3), LEASE, false).await.unwrap();
    let roster = store.members().await.unwrap();
    assert!(roster.lives(THERE) && roster.lives(HERE));
}

pub(crate) async fn who_is_not_known_is_told_so(store: &impl Store) {
    assert!(!store.renew(HERE, 0, 0, LEASE).await.unwrap().known);
    store.leave(HERE, 1).await.unwrap();
    store.forget(HERE).await.unwrap();
    assert_eq!(get(store, 7).await, None);
}

pub(crate) async fn services_of_several_gateways_stand_beside_each_other(store: &impl Store) {
    let record = |epoch, instance, name: &str| ServiceRecord {
        claim: Claim { epoch, instance },
        stream: 1,
        addr: "[2001:db8::1]:9".parse().unwrap(),
        name: name.to_owned(),
    };
    let (here, there) = (record(5, HERE, "files"), record(4, THERE, "files"));
    let online = |record: &ServiceRecord| ServiceWrite::Online { service: 3, record: record.clone() };
    store.write_services(&[online(&here), online(&there)]).await.unwrap();
    let read = async || store.service_buckets(&[service_bucket(3)]).await.unwrap().remove(0);
    let found = read().await;
    assert_eq!((found.len(), &found[&(3, HERE)], &found[&(3, THERE)]), (2, &here, &there));
    // An older offline, another gateway's, then the right one; and an older online changes nothing.
    for (epoch, instance, left) in [(4, HERE, 2), (5, Instance([9; 16]), 2), (5, HERE, 1)] {
        let claim = Claim { epoch, instance };
        store.write_services(&[ServiceWrite::Offline { service: 3, claim }]).await.unwrap();
        assert_eq!(read().await.len(), left);
    }
    store.write_services(&[online(&record(3, THERE, "other"))]).await.unwrap();
    assert_eq!(read().await[&(3, THERE)], there);
}

pub(crate) async fn many_edges_are_written_at_once_and_found_by_bucket(store: &impl Store) {
    let edges = 1..=10_000_u64;
    let writes: Vec<_> =
        edges.clone().map(|edge| EdgeWrite::Online { edge, record: record(edge, HERE, 1) }).collect();
    let outcomes = store.write_edges(&writes, HORIZON).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == EdgeOutcome::Done) && outcomes.len() == 10_000);
    let buckets: Vec<u16> = (0..EDGE_BUCKETS).collect();
    let found = store.edge_buckets(&buckets).await.unwrap();
    assert_eq!(found.iter().map(|bucket| bucket.len()).sum::<usize>(), 10_000);
    assert!(found.iter().zip(0..).all(|(bucket, at)| bucket.keys().all(|edge| edge_bucket(*edge) == at)));
    let asked: Vec<u64> = edges.rev().chain([20_000]).collect();
    let records = store.edges(&asked).await.unwrap();
    assert!(
        records
            .iter()
            .zip(&asked)
            .all(|(found, edge)| *found == (*edge <= 10_000).then(|| record(*edge, HERE, 1)))
    );
}

pub(crate) async fn a_bucket_said_anew_is_all_its_gateway_has_there(store: &impl Store) {
    // All in one bucket.
    let ids: Vec<u64> = (1..).filter(|id| edge_bucket(*id) == edge_bucket(1)).take(6).collect();
    let [a, b, c, d, e, f] = ids[..] else { panic!("{ids:?}") };
    let bucket = edge_bucket(1);
    put(store, a, record(10, HERE, 1)).await;
    put(store, b, record(10, HERE, 1)).await;
    put(store, c, record(10, THERE, 1)).await;
    put(store, d, record(50, THERE, 1)).await;
    put(store, e, record(10, HERE, 3)).await;
    let said = vec![
        (b, record(10, HERE, 2)),
        (c, record(20, HERE, 2)),
        (d, record(20, HERE, 2)),
        (f, record(5, HERE, 2)),
    ];
    let outcomes = store.replace_edges(HERE, 2, &[(bucket, said)], HORIZON).await.unwrap();
    let mut outcomes: Vec<_> = outcomes.into_iter().collect();
    outcomes.sort_by_key(|(edge, _)| *edge);
    let mut expected =
        [(c, EdgeOutcome::Replaced(record(10, THERE, 1))), (d, EdgeOutcome::Lost(record(50, THERE, 1)))];
    expected.sort_by_key(|(edge, _)| *edge);
    assert_eq!(outcomes, expected);
    assert_eq!(get(store, a).await, None);
    assert_eq!(get(store, b).await, Some(record(10, HERE, 2)));
    assert_eq!(get(store, c).await, Some(record(20, HERE, 2)));
    assert_eq!(get(store, d).await, Some(record(50, THERE, 1)));
    assert_eq!(get(store, e).await, None, "whichever link has written it");
    assert_eq!(get(store, f).await, Some(record(5, HERE, 2)));
    // Saying it again changes nothing.
    let outcomes =
        store.replace_edges(HERE, 2, &[(bucket, vec![(b, record(10, HERE, 2))])], HORIZON).await.unwrap();
    assert_eq!(outcomes, []);
    assert_eq!((get(store, b).await, get(store, f).await), (Some(record(10, HERE, 2)), None));
    // What lies beyond the horizon is nobody's.
    put(store, a, record(StoreTime(2_000).epoch(), THERE, 1)).await;
    let said = [(bucket, vec![(a, record(7, HERE, 2))])];
    assert_eq!(store.replace_edges(HERE, 2, &said, StoreTime(1_000)).await.unwrap(), []);
    assert_eq!(get(store, a).await, Some(record(7, HERE, 2)));
}

pub(crate) async fn a_bucket_of_services_said_anew_is_all_its_gateway_has_there(store: &impl Store) {
    let ids: Vec<u64> = (1..).filter(|id| service_bucket(*id) == service_bucket(1)).take(3).collect();
    let [a, b, c] = ids[..] else { panic!("{ids:?}") };
    let record = |epoch, instance, stream| ServiceRecord {
        claim: Claim { epoch, instance },
        stream,
        addr: "10.0.0.1:9".parse().unwrap(),
        name: "files".to_owned(),
    };
    let online = |service, record| ServiceWrite::Online { service, record };
    let writes = [
        online(a, record(5, HERE, 1)),
        online(b, record(5, THERE, 1)),
        online(c, record(5, HERE, 3)),
        online(b, record(9, HERE, 1)),
    ];
    store.write_services(&writes).await.unwrap();
    let said = [(service_bucket(1), vec![(b, record(4, HERE, 2))])];
    store.replace_services(HERE, &said).await.unwrap();
    let found = store.service_buckets(&[service_bucket(1)]).await.unwrap().remove(0);
    let mut keys: Vec<_> = found.keys().copied().collect();
    keys.sort_unstable();
    let mut expected = vec![(b, HERE), (b, THERE)];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(found[&(b, HERE)], record(4, HERE, 2));
}

pub(crate) async fn word_for_a_gateway_is_taken_once(store: &impl Store) {
    let cut = |edge| Cut { edge, epoch: 1 << 60, newer: u64::MAX };
    store.leave_cuts(HERE, &[cut(1), cut(2)]).await.unwrap();
    store.leave_cuts(HERE, &[cut(3)]).await.unwrap();
    store.leave_cuts(THERE, &[cut(4)]).await.unwrap();
    assert_eq!(store.take_cuts(HERE).await.unwrap(), [cut(1), cut(2), cut(3)]);
    assert_eq!(store.take_cuts(HERE).await.unwrap(), []);
    // However many there are, the newest are kept.
    let many: Vec<Cut> = (1..=CUTS as u64 + 5).map(cut).collect();
    for some in many.chunks(4_000) {
        store.leave_cuts(HERE, some).await.unwrap();
    }
    assert_eq!(store.take_cuts(HERE).await.unwrap(), many[5..]);
}
