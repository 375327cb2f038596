//! The reporter against an atlas by hand, on paused time.

mod fake;

use std::{collections::BTreeMap, time::Duration};

use frontier_api::{
    bucket::{EDGE_BUCKETS, edge_bucket, service_bucket},
    registry::{Cut, Lost, RenewResponse, Resync, ToGateway, Welcome, from_gateway::Kind, to_gateway},
};
use tokio::time::{Instant, sleep};

use self::fake::{Attached, World};
use super::{LinkError, Trouble};
use crate::core::{Now, message::Msg};

fn now(millis: u64) -> Now {
    Now { micros: millis * 1_000, unix_ms: 0 }
}

/// Nothing is said for a while.
async fn silence(link: &mut Attached) {
    sleep(Duration::from_millis(100)).await;
    assert!(link.said.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn everything_is_told_once_in_messages_within_the_window() {
    let mut world = World::new();
    for id in 1..=1_000 {
        world.claim(id);
    }
    world.join(5, "files");
    let mut link = world.attached().await;
    let hello = &link.hello;
    assert_eq!((hello.version, hello.instance.as_slice()), (1, [7; 16].as_slice()));
    assert_eq!(hello.frontier_id, "frontier-1");
    assert_eq!((hello.service_addr.as_str(), hello.edge_addr.as_str()), ("10.0.0.1:30011", "10.0.0.1:30012"));
    silence(&mut link).await;
    link.tell(to_gateway::Kind::Welcome(world.welcome())).await;
    for _ in 0..4 {
        link.heard().await;
    }
    silence(&mut link).await;
    link.ack(2).await;
    link.heard().await;
    silence(&mut link).await;
    for seq in [1, 3, 4, 5] {
        link.ack(seq).await;
    }
    link.hear_all().await;
    assert_eq!(link.seen.edges, world.here());
    assert_eq!(link.seen.services.keys().copied().collect::<Vec<_>>(), [5]);
    assert!(link.seen.entries.iter().all(|entries| *entries <= 100), "{:?}", link.seen.entries);
    assert!(link.seen.entries.len() <= 13, "about a hundred each: {:?}", link.seen.entries);
    silence(&mut link).await;
    assert!(world.status.is_up() && world.degraded().is_none());
    assert_eq!(world.status.buckets(), u64::from(EDGE_BUCKETS) + 256);
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_at_once_and_while_nobody_acknowledges_only_the_newest_state() {
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.hear_all().await;
    let begin = Instant::now();
    world.claim(1);
    assert!(matches!(link.heard().await, Kind::Changes(_)));
    assert!(begin.elapsed() < Duration::from_millis(5));
    for id in 2..=4 {
        world.claim(id);
        link.heard().await;
    }
    // Four wait for their Ack.
    for _ in 0..50 {
        world.claim(5);
        world.claim(6);
        world.release(6);
    }
    silence(&mut link).await;
    let last = world.shared.last_epoch();
    link.ack(link.seen.seq).await;
    let Kind::Changes(changes) = link.heard().await else { panic!("changes") };
    let mut told: Vec<_> = changes.edges.iter().map(|edge| (edge.id, edge.addr.is_empty())).collect();
    told.sort_unstable();
    assert_eq!(told, [(5, false), (6, true)]);
    assert!(changes.edges.iter().any(|edge| edge.id == 6 && edge.epoch == last));
    assert_eq!(link.seen.edges, world.here());
    assert_eq!(world.status.changes(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_happens_at_about_the_same_time_goes_together() {
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.hear_all().await;
    world.claim(1);
    link.heard().await;
    link.ack(link.seen.seq).await;
    for id in 2..=50 {
        world.claim(id);
        tokio::task::yield_now().await;
    }
    link.heard().await;
    assert_eq!(link.seen.edges.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn services_are_told_as_they_come_change_and_go() {
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.hear_all().await;
    world.join(9, "files");
    let Kind::Changes(changes) = link.heard().await else { panic!("changes") };
    assert_eq!((changes.services[0].id, changes.services[0].name.as_str()), (9, "files"));
    assert_eq!(changes.services[0].addr, [10, 1, 1, 2, 0, 9]);
    world.leave(9);
    world.join(9, "more files");
    link.heard().await;
    assert_eq!(link.seen.services[&9].1, "more files");
    world.leave(9);
    link.heard().await;
    assert!(link.seen.services.is_empty());
    let asked = link.renewal().await;
    assert!(asked.request.service_digests.iter().any(|d| d.bucket == u32::from(service_bucket(9))));
    link.renewed(asked);
}

#[tokio::test(start_paused = true)]
async fn buckets_are_told_again_when_atlas_asks() {
    let mut world = World::new();
    for id in 1..=200 {
        world.claim(id);
    }
    world.join(9, "files");
    let mut link = world.welcomed().await;
    link.hear_all().await;
    let (bucket, service) = (edge_bucket(7), service_bucket(9));
    let resync = Resync { edge_buckets: vec![bucket.into()], service_buckets: vec![service.into()] };
    link.tell(to_gateway::Kind::Resync(resync)).await;
    let Kind::Buckets(services) = link.heard().await else { panic!("buckets") };
    assert_eq!(
        (services.service_buckets.as_slice(), services.services.len()),
        ([service.into()].as_slice(), 1)
    );
    let Kind::Buckets(edges) = link.heard().await else { panic!("buckets") };
    assert_eq!(edges.edge_buckets, [u32::from(bucket)]);
    assert!(edges.edges.iter().any(|edge| edge.id == 7));
    // Changes of the bucket go on.
    world.release(7);
    link.heard().await;
    assert_eq!(link.seen.edges, world.here());
    let asked = link.renewal().await;
    link.renewed(asked);
}

#[tokio::test(start_paused = true)]
async fn lost_sessions_are_ended_where_they_are() {
    let mut world = World::new();
    let (old, epoch) = (world.claim(1), world.claim(1));
    let mut link = world.welcomed().await;
    link.hear_all().await;
    let lost = |id, epoch| Lost { id, epoch, newer: epoch + 1 };
    let edges = vec![lost(1, old), lost(2, u64::MAX - 1), lost(1, epoch)];
    link.tell(to_gateway::Kind::Cut(Cut { edges })).await;
    world.until(|world| !world.posted.lock().is_empty()).await;
    let posted = world.posted.lock();
    // That of an older session is over already, and nobody knows of edge 2.
    assert_eq!(posted.len(), 1, "{posted:?}");
    assert!(matches!(posted[0], Msg::Lost { edge: 1, epoch: at, .. } if at == epoch), "{posted:?}");
}

#[tokio::test(start_paused = true)]
async fn renewals_go_on_while_the_snapshot_stands_still() {
    let mut world = World::new();
    for id in 1..=1_000 {
        world.claim(id);
    }
    let mut link = world.welcomed().await;
    for number in 1..=3 {
        let asked = link.renewal().await;
        assert_eq!(world.millis() / 1_000, number);
        let request = &asked.request;
        assert_eq!((request.stream, request.edges, request.seq), (3, 1_000, 4));
        assert_eq!(request.instance, [7; 16]);
        link.renewed(asked);
    }
    for seq in 1..=4 {
        link.ack(seq).await;
    }
    link.hear_all().await;
    assert_eq!(link.seen.edges, world.here());
}

#[tokio::test(start_paused = true)]
async fn digests_go_again_until_they_are_answered() {
    let mut world = World::new();
    world.claim(1);
    let mut link = world.welcomed().await;
    link.hear_all().await;
    let first = link.renewal().await;
    assert_eq!(first.request.edge_digests.len(), usize::from(EDGE_BUCKETS));
    drop(first.answer.send(Err(Trouble::Unavailable.into())));
    let second = link.renewal().await;
    assert_eq!(second.request.edge_digests, first.request.edge_digests);
    assert_eq!(second.request.service_digests, first.request.service_digests);
    link.renewed(second);
    let third = link.renewal().await;
    assert!(third.request.edge_digests.is_empty() && third.request.service_digests.is_empty());
    link.renewed(third);
    world.claim(2);
    link.heard().await;
    let fourth = link.renewal().await;
    assert_eq!(fourth.request.edge_digests.len(), 1);
    link.renewed(fourth);
    assert_eq!(world.status.errors(Trouble::Unavailable), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_link_is_told_everything_and_nothing_is_kept_in_between() {
    let mut world = World::new();
    for id in 1..=300 {
        world.claim(id);
    }
    let mut link = world.welcomed().await;
    link.hear_all().await;
    world.refuse(Some(Trouble::Unreachable.into()));
    drop(link);
    world.until(|world| !world.status.is_up()).await;
    assert_eq!(world.degraded().as_deref(), Some("atlas ended the link"));
    for id in 200..=5_000 {
        world.claim(id);
    }
    (1..=100).for_each(|id| world.release(id));
    assert_eq!(world.registry().roll().unwrap().depth().0, 0);
    world.until(|world| world.status.errors(Trouble::Unreachable) > 5).await;
    assert_eq!(world.degraded().as_deref(), Some("atlas cannot be reached"));
    assert!(world.readiness.is_ready(), "the gateway serves without atlas");
    world.refuse(None);
    let mut link = world.welcomed().await;
    link.hear_all().await;
    assert_eq!(link.seen.edges, world.here());
    assert!(world.status.is_up() && world.degraded().is_none());
    let waits: Vec<_> = world.dials.lock().windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(100) && *wait <= Duration::from_secs(6)));
    assert!(waits.iter().any(|wait| *wait > Duration::from_secs(1)), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_whose_renewals_nobody_answers_is_left_when_the_lease_is_over() {
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.hear_all().await;
    let begin = Instant::now();
    let _next = world.attached().await;
    assert!(begin.elapsed() >= Duration::from_secs(4) && begin.elapsed() < Duration::from_secs(7));
    assert_eq!(world.status.errors(Trouble::Unrenewed), 1);
    assert_eq!(world.status.errors(Trouble::Timeout), 4);
    assert!(link.said.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_atlas_that_does_not_reach_its_store_is_given_time() {
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.hear_all().await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        let asked = link.renewal().await;
        drop(asked.answer.send(Err(LinkError::new(Trouble::Unavailable, "no store"))));
    }
    sleep(Duration::from_millis(10)).await;
    assert!(!world.status.is_up(), "the lease is over");
    let why = world.degraded().unwrap();
    assert!(why.contains("the lease is over") && why.contains("no store"), "{why}");
    let asked = link.renewal().await;
    link.renewed(asked);
    world.until(|world| world.status.is_up()).await;
    assert!(world.degraded().is_none());
    assert_eq!(world.status.links(), 1, "the same link");
    loop {
        tokio::select! {
            asked = link.renewals.recv() => {
                let Some(asked) = asked else { break };
                drop(asked.answer.send(Err(Trouble::Unavailable.into())));
            }
            _ = world.attached() => break,
        }
    }
    assert_eq!(world.status.errors(Trouble::Unrenewed), 1, "in the end another atlas may reach it");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_atlas_has_forgotten_attaches_again() {
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.hear_all().await;
    let asked = link.renewal().await;
    drop(asked.answer.send(Ok(RenewResponse { time_ms: 1, known: false })));
    let mut link = world.welcomed().await;
    link.hear_all().await;
    assert_eq!(world.status.errors(Trouble::Forgotten), 1);
    assert_eq!(world.status.links(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_was_superseded_asks_again_and_serves_on() {
    let mut world = World::new();
    let link = world.welcomed().await;
    let superseded = LinkError::new(Trouble::Superseded, "by another");
    world.refuse(Some(superseded.clone()));
    link.say.send(Err(superseded)).await.unwrap();
    world.until(|world| world.status.errors(Trouble::Superseded) > 4).await;
    assert!(world.degraded().unwrap().contains("has taken the place: by another"));
    assert!(world.readiness.is_ready());
    world.refuse(None);
    let _link = world.welcomed().await;
    world.until(|world| world.status.is_up()).await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_ends_what_it_says_and_waits_for_atlas() {
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.hear_all().await;
    world.stop.cancel();
    while link.said.recv().await.is_some() {}
    sleep(Duration::from_millis(500)).await;
    assert!(!world.reporter.is_finished(), "atlas has not ended the lease yet");
    drop(link);
    world.reporter.await.unwrap();
    assert!(!world.status.is_up());
    assert_eq!(world.readiness.report().degraded, [], "it wants to go");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_waits_no_longer_than_a_second() {
    let mut world = World::new();
    let link = world.welcomed().await;
    world.until(|world| world.status.is_up()).await;
    let begin = Instant::now();
    world.stop.cancel();
    (&mut world.reporter).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(1));
    drop(link);
    // And not at all without a link.
    let world = World::new();
    world.refuse(Some(Trouble::Unreachable.into()));
    world.until(|world| world.status.errors(Trouble::Unreachable) > 0).await;
    world.stop.cancel();
    world.reporter.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_time_is_that_of_atlas_halfway_of_a_quick_answer() {
    let mut world = World::new();
    let link = world.attached().await;
    sleep(Duration::from_millis(40)).await;
    link.tell(to_gateway::Kind::Welcome(Welcome { time_ms: 500_000, ..world.welcome() })).await;
    world.until(|world| world.status.is_up()).await;
    assert_eq!(world.shared.unix_ms(now(40)), 500_020);
    let mut link = link;
    let asked = link.renewal().await;
    let at = world.millis();
    sleep(Duration::from_millis(100)).await;
    drop(asked.answer.send(Ok(RenewResponse { time_ms: 700_000, known: true })));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(world.shared.unix_ms(now(at + 50)), 700_000);
    let asked = link.renewal().await;
    sleep(Duration::from_millis(500)).await;
    drop(asked.answer.send(Ok(RenewResponse { time_ms: 900_000, known: true })));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(world.shared.unix_ms(now(at + 50)), 700_000, "that answer took too long to tell much");
}

#[tokio::test(start_paused = true)]
async fn an_atlas_that_breaks_the_rules_is_left() {
    let welcome = |change: fn(&mut Welcome)| {
        let mut welcome = Welcome { version: 1, entries: 1, unacknowledged: 1, ..Welcome::default() };
        change(&mut welcome);
        vec![to_gateway::Kind::Welcome(welcome)]
    };
    let good = || welcome(|_| {});
    let ack = |seq| to_gateway::Kind::Ack(frontier_api::registry::Ack { seq });
    let resync = |edge, service| {
        to_gateway::Kind::Resync(Resync { edge_buckets: vec![edge], service_buckets: vec![service] })
    };
    for (at, messages) in [
        vec![ack(0)],
        welcome(|welcome| welcome.version = 2),
        welcome(|welcome| welcome.time_ms = u64::MAX),
        [good(), good()].concat(),
        [good(), vec![ack(1_000)]].concat(),
        [good(), vec![resync(u32::from(EDGE_BUCKETS), 0)]].concat(),
        [good(), vec![resync(0, 256)]].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = World::new();
        let link = world.attached().await;
        for message in messages {
            link.tell(message).await;
        }
        world.attached().await;
        assert_eq!(world.status.errors(Trouble::Protocol), 1, "{at}");
    }
    // What a later version says is skipped, and what is acknowledged twice does not matter.
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.say.send(Ok(ToGateway { kind: None })).await.unwrap();
    link.heard().await;
    link.ack(1).await;
    link.ack(1).await;
    link.hear_all().await;
}

#[tokio::test(start_paused = true)]
async fn an_atlas_that_says_nothing_is_left() {
    let mut world = World::new();
    let _silent = world.attached().await;
    let begin = Instant::now();
    world.attached().await;
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert_eq!(world.status.errors(Trouble::Timeout), 1);
}

#[tokio::test(start_paused = true)]
async fn more_changes_than_are_noted_are_told_bucket_by_bucket() {
    let mut world = World::new();
    let mut link = world.welcomed().await;
    link.hear_all().await;
    for id in 1..=4 {
        world.claim(id);
        link.heard().await;
    }
    // More than are noted of the buckets that have a lock in common.
    for id in (1..).filter(|id| edge_bucket(*id) < 64).take(400) {
        world.claim(id);
    }
    let roll = world.registry().roll().unwrap();
    assert!(roll.depth().0 <= 256 && roll.overflows() > 0);
    let here = world.here();
    for seq in 0..=link.seen.seq {
        link.ack(seq).await;
    }
    link.hear_until(&here).await;
    let asked = link.renewal().await;
    link.renewed(asked);
}

/// Whatever happens in whatever order, every digest is that of what was said, and in the end atlas has what is here.
#[tokio::test(start_paused = true)]
async fn atlas_has_what_is_here_whatever_happens() {
    for seed in 0..60 {
        let mut random = seed * 7_919 + 1;
        let mut draw = move |below: u64| {
            random =
                u64::wrapping_mul(random, 6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut world = World::new();
        for id in 1..=draw(400) {
            world.claim(id);
        }
        let mut link = world.welcomed().await;
        let mut unacked = Vec::new();
        for _ in 0..draw(300) {
            match draw(20) {
                0..=5 => drop(world.claim(1 + draw(500))),
                6..=9 => world.release(1 + draw(500)),
                10 => world.join(1 + draw(5), "files"),
                11 => (1..=5).for_each(|id| world.leave(id)),
                12 | 13 => sleep(Duration::from_millis(draw(1_500))).await,
                14 => {
                    let resync = Resync {
                        edge_buckets: (0..draw(50)).map(|_| u32::from(edge_bucket(draw(500)))).collect(),
                        service_buckets: vec![draw(256) as u32],
                    };
                    link.tell(to_gateway::Kind::Resync(resync)).await;
                }
                15 if draw(4) == 0 => {
                    drop(link);
                    link = world.welcomed().await;
                    unacked.clear();
                }
                16 | 17 if !unacked.is_empty() => {
                    let at = draw(unacked.len() as u64) as usize;
                    link.ack(unacked.swap_remove(at)).await;
                }
                _ => tokio::task::yield_now().await,
            }
            while let Ok(asked) = link.renewals.try_recv() {
                let before = link.seen.seq;
                if asked.answer.is_closed() {
                    // It waited for too long: its digests go again.
                    continue;
                }
                link.renewed(asked);
                unacked.extend(before + 1..=link.seen.seq);
            }
            if link.said.is_closed() {
                link = world.welcomed().await;
                unacked.clear();
            }
        }
        let here: BTreeMap<u64, u64> = world.here();
        for seq in unacked {
            link.ack(seq).await;
        }
        link.hear_until(&here).await;
        let asked = link.renewal().await;
        link.renewed(asked);
    }
}

#[tokio::test(start_paused = true)]
async fn every_metric_is_documented() {
    let mut world = World::new();
    let _link = world.welcomed().await;
    world.until(|world| world.status.is_up()).await;
    let metrics = frontier_ops::metrics::Metrics::new("frontier");
    let (shared, status) = (world.shared.clone(), world.status.clone());
    metrics.register(move || status.families(shared.registry.roll().unwrap()));
    let text = metrics.encode().unwrap();
    assert!(text.contains("\nfrontier_atlas_up 1\n"), "{text}");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap();
    let atlas = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for line in atlas.filter(|line| line.starts_with("frontier_atlas")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        assert!(document.contains(&format!("| `{name}{suffix}` | {kind} |")), "{name} ({kind})");
    }
}
