//! What goes on beside an operator that works, or instead of it: operators that die, people that edit at once, objects that are swapped.

use std::time::Duration;

use frontier_operator::{
    api::FrontierCluster,
    app::Election,
    lease::{self, Terms},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    coordination::v1::Lease,
    core::v1::{Pod, Service},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    stories::{spec, with},
    world::{OPERATOR, Operator, World, eventually},
};

#[tokio::test]
#[ignore = "needs a cluster"]
async fn an_operator_that_is_killed_at_any_moment_leaves_nothing_that_the_next_one_cannot_finish() {
    let world = World::new().await;
    let mut uid = String::new();
    let mut writes_at_the_end = Vec::new();
    // After so many of its writes: a cluster has eight objects.
    for killed_after in 0..8 {
        let name = format!("orders-{killed_after}");
        let operator = Operator::start().await;
        world.apply(&name, spec()).await.unwrap();
        eventually("it is at work", async || match operator.counters.writes.total() {
            writes if writes > killed_after => Ok(()),
            writes => Err(writes.to_string()),
        })
        .await;
        operator.task.abort();
        writes_at_the_end.push(operator.counters.writes.total());
        let next = Operator::start().await;
        world.until_mended(&name).await;
        let cluster = world.api::<FrontierCluster>().get(&name).await.unwrap();
        uid = cluster.uid().unwrap();
        let owned = world.owned_by(&uid).await;
        assert_eq!(owned.len(), 8, "killed after {killed_after} writes: {owned:?}");
        next.end().await;
        if killed_after < 7 {
            world.api::<FrontierCluster>().delete(&name, &DeleteParams::default()).await.unwrap();
        }
    }
    println!("killed after {writes_at_the_end:?} writes");
    // In the middle of a change.
    let operator = Operator::start().await;
    let mut changed = with("frontier.edgebound.serviceName", json!("edges"));
    changed["frontier"]["servicebound"]["port"] = json!(30021);
    world.apply("orders-7", changed).await.unwrap();
    eventually("it is at work", async || match operator.counters.writes.total() {
        0 => Err("no write".to_owned()),
        _ => Ok(()),
    })
    .await;
    operator.task.abort();
    let next = Operator::start().await;
    eventually("the change is carried out", async || {
        let old = world.service("orders-7-edgebound-svc").await;
        let new = world.service("edges").await;
        let port =
            world.service("orders-7-servicebound-svc").await.unwrap().spec.unwrap().ports.unwrap()[0].port;
        if new.is_some() && old.is_none() && port == 30021 { Ok(()) } else { Err(format!("{port}")) }
    })
    .await;
    assert_eq!(world.owned_by(&uid).await.len(), 8);
    next.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn holder_after_holder_may_die_and_never_do_two_write() {
    let world = World::new().await;
    let terms = Terms {
        duration: Duration::from_secs(4),
        hold: Duration::from_millis(2500),
        retry: Duration::from_millis(500),
    };
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "frontier-system");
    drop(leases.delete(lease::NAME, &DeleteParams::default()).await);
    let start = async |identity: &str| {
        let election =
            Election { namespace: "frontier-system".to_owned(), identity: identity.to_owned(), terms };
        Operator::start_as(OPERATOR, Some(election)).await
    };
    let holder = async || {
        let lease = leases.get_opt(lease::NAME).await.unwrap().and_then(|lease| lease.spec);
        lease.and_then(|spec| spec.holder_identity).unwrap_or_default()
    };
    let mut living = vec![("first", start("first").await), ("second", start("second").await)];
    world.apply("orders", spec()).await.unwrap();
    world.until_mended("orders").await;
    // Each change finds another holder: the one before was killed while it held the lease.
    for (port, newcomer) in [(30021, "third"), (30022, "fourth")] {
        let held = holder().await;
        let index = living.iter().position(|(name, _)| *name == held).unwrap();
        let (_, killed) = living.remove(index);
        killed.task.abort();
        let written = killed.counters.writes.total();
        assert!(written > 0, "{held} holds the lease and has written nothing");
        for (name, other) in &living {
            assert_eq!(other.counters.writes.total(), 0, "{name} has written beside {held}");
        }
        living.push((newcomer, start(newcomer).await));
        let begin = Instant::now();
        world.apply("orders", with("frontier.servicebound.port", json!(port))).await.unwrap();
        eventually("another one carries the change out", async || {
            let ports = world.service("orders-servicebound-svc").await.unwrap().spec.unwrap().ports.unwrap();
            if ports[0].port == port { Ok(()) } else { Err(ports[0].port.to_string()) }
        })
        .await;
        println!("{held} killed; its successor carried a change out after {:?}", begin.elapsed());
        assert_ne!(holder().await, held);
        assert_eq!(killed.counters.writes.total(), written, "who is dead writes nothing");
    }
    for (_, operator) in living {
        operator.end().await;
    }
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn of_two_people_who_edit_at_once_each_keeps_what_is_theirs() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let clusters = world.api::<FrontierCluster>();
    world.apply("orders", spec()).await.unwrap();
    world.until_mended("orders").await;
    // By apply: another field is taken, a field of somebody else is refused with their name.
    let other = PatchParams::apply("other");
    let patch = |frontier: Value| {
        Patch::Apply(json!({
            "apiVersion": "frontier.singchia.io/v1alpha1", "kind": "FrontierCluster",
            "metadata": {"name": "orders"}, "spec": {"frontier": frontier},
        }))
    };
    let refused =
        clusters.patch("orders", &other, &patch(json!({"replicas": 3}))).await.expect_err("user has it");
    assert!(refused.to_string().contains("conflict with \"user\""), "{refused}");
    clusters.patch("orders", &other, &patch(json!({"drainSeconds": 20}))).await.unwrap();
    // By update: who has read before the other wrote is refused, and nothing is lost.
    let stale = clusters.get("orders").await.unwrap();
    let mut newer = stale.clone();
    newer.spec.frontier.replicas = 2;
    clusters.replace("orders", &PostParams::default(), &newer).await.unwrap();
    let mut late = stale.clone();
    late.spec.frontlas.replicas = 2;
    let refused = clusters.replace("orders", &PostParams::default(), &late).await.expect_err("it is stale");
    assert!(refused.to_string().contains("the object has been modified"), "{refused}");
    // Many at once, with the operator's status in between: all edits are there in the end.
    let edits = (0..20).map(|number| {
        let clusters = clusters.clone();
        async move {
            let label = json!({"metadata": {"labels": {format!("edit-{number}"): "there"}}});
            clusters.patch("orders", &PatchParams::default(), &Patch::Merge(&label)).await
        }
    });
    for edit in futures::future::join_all(edits).await {
        edit.unwrap();
    }
    world.until_mended("orders").await;
    let cluster = clusters.get("orders").await.unwrap();
    assert_eq!(cluster.labels().len(), 20);
    let frontier = &cluster.spec.frontier;
    assert_eq!((frontier.replicas, frontier.drain_seconds), (2, Some(20)));
    eventually("both are carried out", async || {
        let deployment = world.api::<Deployment>().get("orders-frontier").await.unwrap().spec;
        let grace = deployment.template.spec.as_ref().unwrap().termination_grace_period_seconds;
        match (deployment.replicas, grace) {
            (Some(2), Some(35)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn the_redis_of_before_stays_until_the_registry_is_over_on_another_one() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let mut own = spec();
    own["frontlas"].as_object_mut().unwrap().remove("redis");
    world.apply("orders", own).await.unwrap();
    world.until_mended("orders").await;
    let sets = world.api::<StatefulSet>();
    let deployments = world.api::<Deployment>();
    assert!(sets.get_opt("orders-redis").await.unwrap().is_some());
    let cluster = world.apply("orders", spec()).await.unwrap();
    eventually("the registry is told of another one", async || {
        let deployment = deployments.get("orders-frontlas").await.unwrap();
        let env = deployment.spec.template.spec.unwrap().containers[0].env.clone().unwrap();
        let addrs = env.into_iter().find(|variable| variable.name == "REDIS_ADDRS").and_then(|v| v.value);
        if addrs.as_deref() == Some("redis:26379") { Ok(()) } else { Err(format!("{addrs:?}")) }
    })
    .await;
    world
        .until("orders", "the new spec is seen", |seen| {
            seen.status.as_ref().and_then(|status| status.observed_generation) == cluster.metadata.generation
        })
        .await;
    // No pod runs here, so the registry does not get there before the test says that it does.
    assert!(sets.get_opt("orders-redis").await.unwrap().is_some(), "its pods are still on the old one");
    assert!(world.service("orders-redis").await.is_some());
    let pods = world.api::<Pod>();
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    eventually("it goes", async || {
        for pod in pods.list(&ListParams::default().labels("app=orders-frontlas")).await.unwrap() {
            // Pods of before go meanwhile.
            drop(pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&ready)).await);
        }
        let left = sets.get_opt("orders-redis").await.unwrap().is_some();
        if left || world.service("orders-redis").await.is_some() {
            Err("it is there".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn zero_and_nothing_are_taken_as_the_go_operator_took_them() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let mut wanted = spec();
    wanted["frontier"]["servicebound"] = json!({"port": 0, "serviceType": ""});
    wanted["frontier"]["edgebound"] = json!({"port": 0, "serviceType": "", "nodePort": 0});
    wanted["frontlas"]["controlplane"] = json!({"port": 0, "frontierPlanePort": 0, "serviceType": ""});
    world.apply("orders", wanted).await.unwrap();
    world.until_mended("orders").await;
    let of = |service: Service| {
        let spec = service.spec.unwrap();
        let ports: Vec<i32> = spec.ports.unwrap().iter().map(|port| port.port).collect();
        (spec.type_.unwrap(), ports)
    };
    let service = async |name: &str| of(world.service(name).await.unwrap());
    assert_eq!(service("orders-servicebound-svc").await, ("ClusterIP".to_owned(), vec![30011]));
    assert_eq!(service("orders-edgebound-svc").await, ("NodePort".to_owned(), vec![30012]));
    assert_eq!(service("orders-frontlas-svc").await, ("ClusterIP".to_owned(), vec![40011, 40012]));
    operator.end().await;
    world.end().await;
}
