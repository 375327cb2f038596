use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use frontier_api::bucket::{Digest, EDGE_BUCKETS, edge_bucket};
use proptest::prelude::*;

use super::{Here, NOTED, Place, Roll};
use crate::core::{card::EdgeCard, registry::Registry, table::SessionRef};

fn session(slot: u32) -> SessionRef {
    SessionRef { shard: 0, generation: 0, slot }
}

fn claim(registry: &Registry, slot: u32, id: u64, epoch: u64) -> bool {
    let card = Arc::new(EdgeCard::new((id, epoch), ([127, 0, 0, 1], 1).into(), &[], []));
    registry.claim_edge(session(slot), &card, u64::MAX).is_ok()
}

fn roll(registry: &Registry) -> &Roll {
    registry.roll().unwrap()
}

/// Edges that share a bucket.
fn mates(bucket: u16) -> impl Iterator<Item = u64> {
    (1..).filter(move |id| edge_bucket(*id) == bucket)
}

/// What somebody was told, and the digest of it.
#[derive(Default)]
struct Told(BTreeMap<u64, u64>);

impl Told {
    fn whole(&mut self, registry: &Registry, bucket: u16) -> bool {
        let mut found = Vec::new();
        registry.each_edge(|id| found.push(id));
        let mut told = Vec::new();
        let found = found.into_iter().filter(|id| edge_bucket(*id) == bucket);
        let whole = roll(registry).whole(bucket, found, |id| registry.here(id), &mut told);
        if whole {
            self.0.retain(|id, _| edge_bucket(*id) != bucket);
            self.0.extend(told.into_iter().map(|(id, here)| (id, here.epoch)));
        }
        whole
    }

    fn changes(&mut self, registry: &Registry, next: &mut usize, most: usize) -> (usize, Vec<u16>) {
        let (mut told, mut dropped) = (Vec::new(), Vec::new());
        roll(registry).changes(next, most, |id| registry.here(id), &mut told, &mut dropped);
        let len = told.len();
        for (id, here) in told {
            match here {
                Some(here) => self.0.insert(id, here.epoch),
                None => self.0.remove(&id),
            };
        }
        (len, dropped)
    }

    fn digest(&self, bucket: u16) -> Digest {
        let here = self.0.iter().filter(|(id, _)| edge_bucket(**id) == bucket);
        Digest::of(here.map(|(id, epoch)| (*id, *epoch)))
    }

    fn check(&self, digests: &[(u16, Digest)]) {
        for (bucket, digest) in digests {
            assert_eq!(self.digest(*bucket), *digest, "bucket {bucket}");
        }
    }
}

#[test]
fn buckets_have_places_and_places_buckets() {
    for bucket in 0..EDGE_BUCKETS {
        assert_eq!(Place::of(bucket).bucket(), bucket);
    }
    assert_eq!(Place::of(u16::MAX).bucket(), EDGE_BUCKETS - 1, "out of range is no panic");
}

#[test]
fn nothing_is_noted_and_nobody_woken_while_nobody_follows() {
    let registry = Registry::with_roll();
    for id in 1..=1_000 {
        assert!(claim(&registry, 0, id, id));
    }
    assert_eq!(roll(&registry).depth().0, 0);
    assert!(!roll(&registry).has_changes());
    assert!(roll(&registry).digests().is_empty(), "nobody was told anything");
    assert_eq!(roll(&registry).follow(edge_bucket(7)), roll(&registry).digest(edge_bucket(7)).count);
}

#[test]
fn an_edge_that_changes_often_is_told_of_once_as_it_is() {
    let registry = Registry::with_roll();
    let (id, mut told, mut next) = (7, Told::default(), 0);
    let bucket = edge_bucket(id);
    roll(&registry).follow(bucket);
    assert!(told.whole(&registry, bucket));
    for epoch in 1..=10 {
        assert!(claim(&registry, 0, id, epoch));
    }
    assert!(registry.release_edge(id, session(0)));
    assert!(claim(&registry, 1, id, 11));
    assert!(roll(&registry).digests().is_empty(), "what is there was not told yet");
    assert_eq!(told.changes(&registry, &mut next, 100), (1, vec![]));
    assert_eq!(told.0, BTreeMap::from([(id, 11)]));
    let digests = roll(&registry).digests();
    assert_eq!(digests, [(bucket, Digest::of([(id, 11)]))]);
    assert!(roll(&registry).digests().is_empty(), "once");
    roll(&registry).unsure([bucket]);
    assert_eq!(roll(&registry).digests(), digests, "and again if it may not have arrived");
    assert_eq!(told.changes(&registry, &mut next, 100), (0, vec![]));
}

#[test]
fn what_changes_while_a_bucket_is_looked_for_is_told_with_it() {
    let registry = Registry::with_roll();
    let bucket = 5;
    let ids: Vec<u64> = mates(bucket).take(4).collect();
    for id in &ids[..3] {
        assert!(claim(&registry, 0, *id, 1));
    }
    let roll = roll(&registry);
    assert_eq!(roll.follow(bucket), 3);
    // Seen by the walk: the first two. Meanwhile the first goes, the second has a newer session, the third is missed, the fourth comes.
    assert!(registry.release_edge(ids[0], session(0)));
    assert!(claim(&registry, 1, ids[1], 2));
    assert!(claim(&registry, 0, ids[2], 3));
    assert!(claim(&registry, 0, ids[3], 4));
    let mut told = Vec::new();
    assert!(roll.whole(bucket, ids[..2].iter().copied(), |id| registry.here(id), &mut told));
    let mut told: Vec<_> = told.into_iter().map(|(id, here)| (id, here.epoch)).collect();
    told.sort_unstable();
    assert_eq!(told, [(ids[1], 2), (ids[2], 3), (ids[3], 4)]);
    assert_eq!(roll.depth().0, 0);
    assert!(!roll.has_changes());
}

#[test]
fn a_bucket_with_too_many_changes_is_told_anew() {
    let registry = Registry::with_roll();
    let (mut told, mut next) = (Told::default(), 0);
    let roll = roll(&registry);
    for bucket in [5, 6] {
        roll.follow(bucket);
        assert!(told.whole(&registry, bucket));
    }
    for id in mates(5).take(NOTED) {
        assert!(claim(&registry, 0, id, 1));
    }
    assert_eq!((roll.overflows(), roll.depth().0), (0, NOTED));
    let other = mates(6).next().unwrap();
    assert!(claim(&registry, 0, other, 1));
    assert_eq!((roll.overflows(), roll.depth().0), (1, NOTED), "the shelf is full");
    assert!(claim(&registry, 0, mates(5).next().unwrap(), 2), "noted already");
    assert_eq!(roll.overflows(), 1);
    let (len, dropped) = told.changes(&registry, &mut next, 1_000);
    assert_eq!((len, dropped), (NOTED, vec![6]));
    assert!(!told.whole(&registry, 6), "not followed any more");
    roll.follow(6);
    assert!(told.whole(&registry, 6));
    let digests = roll.digests();
    assert_eq!(digests.len(), 2);
    told.check(&digests);
}

#[test]
fn a_bucket_that_overflows_while_it_is_looked_for_is_not_told() {
    let registry = Registry::with_roll();
    let roll = roll(&registry);
    roll.follow(5);
    for id in mates(5).take(NOTED + 1) {
        assert!(claim(&registry, 0, id, 1));
    }
    let (mut told, mut next) = (Told::default(), 0);
    assert!(!told.whole(&registry, 5));
    assert!(roll.has_changes(), "or nobody would ever know");
    assert_eq!(told.changes(&registry, &mut next, 10), (0, vec![5]));
}

#[test]
fn everybody_has_a_turn_however_much_changes_elsewhere() {
    let registry = Registry::with_roll();
    let roll = roll(&registry);
    let (mut told, mut next) = (Told::default(), 0);
    let (busy, quiet) = (0, 64);
    for bucket in [busy, quiet] {
        roll.follow(bucket);
        assert!(told.whole(&registry, bucket));
    }
    let late = mates(quiet).next().unwrap();
    assert!(claim(&registry, 0, late, 1));
    for epoch in 1..=20 {
        for id in mates(busy).take(20) {
            assert!(claim(&registry, 0, id, epoch));
        }
        told.changes(&registry, &mut next, 10);
    }
    assert!(told.0.contains_key(&late));
}

#[test]
fn who_forgets_begins_anew() {
    let registry = Registry::with_roll();
    let roll = roll(&registry);
    let mut told = Told::default();
    roll.follow(5);
    assert!(told.whole(&registry, 5));
    let id = mates(5).next().unwrap();
    assert!(claim(&registry, 0, id, 1));
    assert!(roll.has_changes());
    roll.forget_all();
    assert!(!roll.has_changes() && roll.digests().is_empty() && roll.depth().0 == 0);
    assert_eq!(roll.digest(5), Digest::of([(id, 1)]), "what is there, is there");
}

#[tokio::test]
async fn whoever_waits_for_news_is_woken_by_them() {
    let registry = Registry::with_roll();
    let roll = roll(&registry);
    let mut told = Told::default();
    roll.follow(5);
    assert!(told.whole(&registry, 5));
    assert!(claim(&registry, 0, mates(5).next().unwrap(), 1));
    roll.news().await;
    let before = roll.services();
    roll.service_changed();
    roll.news().await;
    assert_ne!(roll.services(), before);
}

/// Threads claim and release at random while one reports: every digest that is given out is that of what was told by then, and in the end
/// all that is there was told.
#[test]
fn digests_are_those_of_what_was_told_whatever_happens_meanwhile() {
    let registry = Registry::with_roll();
    let epochs = AtomicU64::new(1);
    let left = AtomicU64::new(4);
    let mut told = Told::default();
    let (mut next, mut rounds) = (0, 0_u32);
    // Few enough buckets that they overflow at times and are quiet at others.
    let buckets: Vec<u16> = (0..200).collect();
    let ids: Vec<u64> = (1..200_000).filter(|id| buckets.contains(&edge_bucket(*id))).take(2_000).collect();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (registry, epochs, left, ids) = (&registry, &epochs, &left, &ids);
            scope.spawn(move || {
                let mut random = u64::from(thread) + 1;
                for _ in 0..20_000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let id = ids[(random >> 33) as usize % ids.len()];
                    if random >> 60 < 10 {
                        claim(registry, thread, id, epochs.fetch_add(1, Ordering::Relaxed));
                    } else {
                        registry.release_edge(id, session(thread));
                    }
                }
                left.fetch_sub(1, Ordering::Release);
            });
        }
        let mut todo = buckets.clone();
        loop {
            let last = left.load(Ordering::Acquire) == 0;
            rounds += 1;
            todo.iter().for_each(|bucket| {
                roll(&registry).follow(*bucket);
            });
            todo.retain(|bucket| !told.whole(&registry, *bucket));
            let (len, dropped) = told.changes(&registry, &mut next, 50);
            todo.extend(dropped);
            told.check(&roll(&registry).digests());
            if last && len == 0 && todo.is_empty() && !roll(&registry).has_changes() {
                break;
            }
        }
    });
    assert!(rounds > 10, "{rounds}");
    let mut here = BTreeMap::new();
    registry.each_edge(|id| {
        here.insert(id, registry.here(id).unwrap().epoch);
    });
    assert_eq!(told.0, here);
}

proptest! {
    #[test]
    fn digests_equal_a_recount(steps in proptest::collection::vec((0..3_u32, 1..40_u64, any::<bool>()), 0..200)) {
        let registry = Registry::with_roll();
        for (epoch, (slot, id, come)) in (1..).zip(steps) {
            if come {
                claim(&registry, slot, id, epoch);
            } else {
                registry.release_edge(id, session(slot));
            }
        }
        for id in 1..40 {
            let bucket = edge_bucket(id);
            let mut digest = Digest::default();
            registry.each_edge(|other| {
                if edge_bucket(other) == bucket {
                    let Here { epoch, .. } = registry.here(other).unwrap();
                    digest.add(other, epoch);
                }
            });
            prop_assert_eq!(roll(&registry).digest(bucket), digest);
        }
    }
}
