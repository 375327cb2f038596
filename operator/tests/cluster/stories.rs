//! What users do, and what comes of it.

use std::time::Duration;

use frontier_operator::{
    api::{FrontierCluster, crd},
    app::Election,
    lease::{self, Terms},
    metrics::Outcome,
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        coordination::v1::Lease,
        core::v1::{Secret, Service},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::{Operator, World, condition, eventually};

/// Ports of tests do not meet those of others: node ports are chosen by the API server.
pub(crate) fn spec() -> Value {
    json!({
        "frontier": {"replicas": 1, "servicebound": {"port": 30011}, "edgebound": {"port": 30012, "nodePort": 0}},
        "frontlas": {
            "replicas": 1, "controlplane": {"port": 40011},
            "redis": {"addrs": ["redis:26379"], "password": "secret", "masterName": "mymaster", "redisType": "sentinel"},
        },
    })
}

pub(crate) fn with(path: &str, value: Value) -> Value {
    let mut spec = spec();
    let mut at = &mut spec;
    for part in path.split('.') {
        at = at.as_object_mut().unwrap().entry(part).or_insert_with(|| json!({}));
    }
    *at = value;
    spec
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn an_applied_cluster_gets_its_objects_and_a_deleted_one_leaves_nothing() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let begin = Instant::now();
    world.apply("orders", spec()).await.unwrap();
    let cluster =
        world.until("orders", "a status", |cluster| condition(cluster, "Progressing").0 == "True").await;
    println!("objects and status after {:?}", begin.elapsed());
    let uid = cluster.uid().unwrap();
    assert_eq!(
        world.owned_by(&uid).await,
        [
            "ConfigMap orders-frontier",
            "ConfigMap orders-frontlas",
            "Deployment orders-frontier",
            "Deployment orders-frontlas",
            "Secret orders-frontier-identity",
            "Service orders-edgebound-svc",
            "Service orders-frontlas-svc",
            "Service orders-servicebound-svc",
        ]
    );
    let edges = world.service("orders-edgebound-svc").await.unwrap().spec.unwrap();
    assert_eq!(edges.type_.as_deref(), Some("NodePort"));
    assert_ne!(edges.publish_not_ready_addresses, Some(true));
    let begin = Instant::now();
    world.api::<FrontierCluster>().delete("orders", &DeleteParams::default()).await.unwrap();
    eventually("nothing is left", async || match world.owned_by(&uid).await {
        left if left.is_empty() => Ok(()),
        left => Err(left.join(", ")),
    })
    .await;
    println!("nothing left after {:?}", begin.elapsed());
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn bad_clusters_are_refused_with_the_reason() {
    let world = World::new().await;
    let cases = [
        (
            "frontier.replicas",
            json!(0),
            "spec.frontier.replicas in body should be greater than or equal to 1",
        ),
        (
            "frontlas.replicas",
            json!(-1),
            "spec.frontlas.replicas in body should be greater than or equal to 1",
        ),
        (
            "frontier.edgebound.port",
            json!(30011),
            "frontier.servicebound.port and frontier.edgebound.port must differ",
        ),
        ("frontier.edgebound.port", json!(65536), "should be less than or equal to 65535"),
        ("frontier.edgebound.port", json!(9091), "9091 is the port of probes and metrics"),
        (
            "frontier.edgebound.serviceType",
            json!("Nodeport"),
            "supported values: \"\", \"ClusterIP\", \"NodePort\", \"LoadBalancer\"",
        ),
        (
            "frontier.edgebound.tls",
            json!({"enabled": true}),
            "certificateKeySecretRef is needed with tls.enabled",
        ),
        (
            "frontier.edgebound.tls",
            json!({"enabled": true, "mtls": true, "certificateKeySecretRef": {"name": "a"}}),
            "caCertificateSecretRef is needed with tls.mtls",
        ),
        (
            "frontier.autoscaling",
            json!({"minReplicas": 3, "maxReplicas": 2}),
            "minReplicas must not exceed maxReplicas",
        ),
        ("frontier.podDisruptionBudget", json!({}), "give one of minAvailable and maxUnavailable"),
        ("frontlas.controlplane.port", json!(40012), "port and frontierPlanePort must differ"),
        (
            "frontlas.redis.redisType",
            json!("single"),
            "supported values: \"standalone\", \"sentinel\", \"cluster\"",
        ),
        ("frontlas.redis.masterName", json!(""), "masterName is needed with redisType sentinel"),
        ("frontlas.redis.addrs", json!([]), "should have at least 1 items"),
        ("frontlas.redis.addrs", json!(["redis"]), "should match"),
        (
            "frontlas.managedRedis",
            json!({}),
            "managedRedis describes the Redis that the operator runs when redis is left out",
        ),
    ];
    for (path, value, expected) in cases {
        let error = world.apply("bad", with(path, value.clone())).await.expect_err(path).to_string();
        assert!(error.contains(expected), "{path} = {value}: {error}");
    }
    for (name, expected) in
        [("a".repeat(47), "longer than 46 characters"), ("1st".to_owned(), "begin with a letter")]
    {
        let error = world.apply(&name, spec()).await.expect_err(&name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    world.apply(&"a".repeat(46), spec()).await.expect("a name at the limit");
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_name_at_the_limit_works_as_any_other() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let name = "a".repeat(46);
    world.apply(&name, spec()).await.unwrap();
    world.until_mended(&name).await;
    assert!(world.service(&format!("{name}-servicebound-svc")).await.is_some());
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_taken_port_is_told_and_taken_when_it_is_free() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let other: Service = serde_json::from_value(json!({
        "metadata": {"name": "other"}, "spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 31777}]},
    }))
    .unwrap();
    world.api::<Service>().create(&PostParams::default(), &other).await.unwrap();
    world.apply("orders", with("frontier.edgebound.nodePort", json!(31777))).await.unwrap();
    let cluster = world.until_degraded("orders", "PortTaken").await;
    let message = cluster.status.unwrap().message.unwrap();
    assert!(message.contains("31777") && message.contains("orders-edgebound-svc"), "{message}");
    eventually("an event", async || {
        let events = world.events("ServiceEnsureFailed").await;
        let told = events.iter().any(|note| note.starts_with("PortTaken: "));
        if told { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    assert!(world.service("orders-servicebound-svc").await.is_some(), "the rest is there");
    world.api::<Service>().delete("other", &DeleteParams::default()).await.unwrap();
    world.until_mended("orders").await;
    let edges = world.service("orders-edgebound-svc").await.unwrap();
    assert_eq!(edges.spec.unwrap().ports.unwrap()[0].node_port, Some(31777));
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn broken_certificates_are_told_and_never_reach_pods() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let pair = || rcgen::generate_simple_self_signed(["edge.example".to_owned()]).unwrap();
    let (first, second) = (pair(), pair());
    let of = |pair: &rcgen::CertifiedKey<rcgen::KeyPair>| json!({"tls.crt": pair.cert.pem(), "tls.key": pair.signing_key.serialize_pem()});
    let tls = json!({"enabled": true, "certificateKeySecretRef": {"name": "pair"}});
    world.apply("orders", with("frontier.edgebound.tls", tls)).await.unwrap();
    let cluster = world.until_degraded("orders", "SecretMissing").await;
    assert_eq!(cluster.status.unwrap().message.as_deref(), Some("secret pair is not there"));
    let deployments = world.api::<Deployment>();
    assert!(deployments.get_opt("orders-frontlas").await.unwrap().is_some(), "the registry does not need it");
    assert!(deployments.get_opt("orders-frontier").await.unwrap().is_none(), "its pods would wait for ever");
    world.put_secret("pair", json!({"tls.crt": "no", "tls.key": "no"})).await;
    world.until_degraded("orders", "SecretMalformed").await;
    world.put_secret("pair", of(&first)).await;
    world.until_mended("orders").await;
    let copy = || async {
        let secret = world.api::<Secret>().get("orders-edgebound-certkey-certificate").await.unwrap();
        String::from_utf8(secret.data.unwrap()["tls.crt"].0.clone()).unwrap()
    };
    assert_eq!(copy().await, first.cert.pem());
    let generation = |deployment: Deployment| deployment.metadata.generation;
    let before = generation(deployments.get("orders-frontier").await.unwrap());
    // A key of another certificate.
    let mixed = json!({"tls.crt": second.cert.pem(), "tls.key": first.signing_key.serialize_pem()});
    world.put_secret("pair", mixed).await;
    world.until_degraded("orders", "SecretMalformed").await;
    assert_eq!(copy().await, first.cert.pem(), "the last good one stays");
    world.put_secret("pair", of(&second)).await;
    world.until_mended("orders").await;
    assert_eq!(copy().await, second.cert.pem());
    assert_eq!(generation(deployments.get("orders-frontier").await.unwrap()), before, "no pod is replaced");
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_changed_password_replaces_the_registrys_pods_alone() {
    let (world, operator) = (World::new().await, Operator::start().await);
    world.put_secret("redis", json!({"password": "one"})).await;
    let selector = json!({"name": "redis", "key": "password"});
    world.apply("orders", with("frontlas.redis.passwordSecret", selector)).await.unwrap();
    world.until_mended("orders").await;
    let deployments = world.api::<Deployment>();
    let generations = async || {
        let of = async |name: &str| deployments.get(name).await.unwrap().metadata.generation.unwrap();
        (of("orders-frontlas").await, of("orders-frontier").await)
    };
    let before = generations().await;
    world.put_secret("redis", json!({"password": "two"})).await;
    eventually("new pods of the registry", async || match generations().await {
        now if now.0 > before.0 => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    assert_eq!(generations().await.1, before.1);
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_renamed_service_leaves_no_old_one_behind() {
    let (world, operator) = (World::new().await, Operator::start().await);
    world.apply("orders", spec()).await.unwrap();
    world.until_mended("orders").await;
    world.apply("orders", with("frontier.edgebound.serviceName", json!("edges"))).await.unwrap();
    eventually("the new one alone", async || {
        let (new, old) = (world.service("edges").await, world.service("orders-edgebound-svc").await);
        if new.is_some() && old.is_none() {
            Ok(())
        } else {
            Err(format!("{} {}", new.is_some(), old.is_some()))
        }
    })
    .await;
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn what_others_change_is_put_right_and_what_they_own_is_left_alone() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let services = world.api::<Service>();
    let theirs: Service = serde_json::from_value(json!({
        "metadata": {"name": "orders-frontlas-svc"}, "spec": {"ports": [{"port": 1}]},
    }))
    .unwrap();
    services.create(&PostParams::default(), &theirs).await.unwrap();
    world.apply("orders", spec()).await.unwrap();
    world.until_degraded("orders", "NameTaken").await;
    let left = world.service("orders-frontlas-svc").await.unwrap().spec.unwrap();
    assert_eq!(left.ports.unwrap()[0].port, 1);
    services.delete("orders-frontlas-svc", &DeleteParams::default()).await.unwrap();
    world.until_mended("orders").await;
    services.delete("orders-servicebound-svc", &DeleteParams::default()).await.unwrap();
    eventually("it is back", async || {
        world.service("orders-servicebound-svc").await.map(|_| ()).ok_or_else(String::new)
    })
    .await;
    let patch =
        json!({"spec": {"publishNotReadyAddresses": true}, "metadata": {"annotations": {"theirs": "x"}}});
    services.patch("orders-edgebound-svc", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    eventually("it is put right", async || {
        let spec = world.service("orders-edgebound-svc").await.unwrap().spec.unwrap();
        if spec.publish_not_ready_addresses == Some(true) { Err("still true".to_owned()) } else { Ok(()) }
    })
    .await;
    let edges = world.service("orders-edgebound-svc").await.unwrap();
    assert_eq!(edges.annotations().get("theirs").map(String::as_str), Some("x"));
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_cluster_that_is_as_it_shall_be_is_not_written() {
    let (world, operator) = (World::new().await, Operator::start().await);
    let mut full = with("frontier.podDisruptionBudget", json!({"maxUnavailable": 1}));
    full["frontier"]["pod"] =
        json!({"resources": {"requests": {"cpu": "0.5", "memory": "1.5Gi"}}, "annotations": {"a": ""}});
    full["frontier"]["config"] = json!({"exchange": {"hashby": "random"}});
    full["frontlas"].as_object_mut().unwrap().remove("redis");
    world.apply("orders", full).await.unwrap();
    world.until_mended("orders").await;
    let looks = || {
        [Outcome::Settled, Outcome::Progressing, Outcome::Degraded]
            .iter()
            .map(|o| operator.counters.looks(*o))
            .sum::<u64>()
    };
    // Nothing runs here, so it is looked at every few seconds: each look could write.
    let wait_for_looks = async |more: u64| {
        let start = looks();
        eventually(
            "further looks",
            async || if looks() >= start + more { Ok(()) } else { Err(looks().to_string()) },
        )
        .await;
    };
    // Pods begin to be missed within half a minute, which is one change of the status.
    eventually("the status stays", async || {
        let before = operator.counters.writes.total();
        wait_for_looks(2).await;
        let writes = operator.counters.writes.total() - before;
        if writes == 0 { Ok(()) } else { Err(format!("{writes} writes")) }
    })
    .await;
    let before = operator.counters.writes.by_verb();
    wait_for_looks(3).await;
    assert_eq!(operator.counters.writes.by_verb(), before, "no write in three looks");
    assert_eq!(operator.counters.looks(Outcome::Failed), 0);
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn an_object_of_an_earlier_time_keeps_no_other_from_its_operator() {
    let world = World::new().await;
    // As if stored before there were rules.
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let mut lax = crd();
    let version = &mut lax.spec.versions[0];
    let anything =
        json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    version.schema = Some(serde_json::from_value(anything).unwrap());
    let install = PatchParams::apply("install").force();
    definitions.patch(&lax.name_any(), &install, &Patch::Apply(&lax)).await.unwrap();
    eventually("a strange one is stored", async || {
        let strange = world.apply("strange", with("frontlas.redis.redisType", json!("single"))).await;
        match strange {
            // It is stored all the same, and cannot be read by us either.
            Err(kube::Error::SerdeError(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    definitions.patch(&lax.name_any(), &install, &Patch::Apply(&crd())).await.unwrap();
    let operator = Operator::start().await;
    world.apply("orders", spec()).await.unwrap();
    world.until_mended("orders").await;
    let statuses: Api<DynamicObject> = Api::namespaced_with(
        world.client.clone(),
        &world.namespace,
        &ApiResource::erase::<FrontierCluster>(&()),
    );
    eventually("it is told", async || {
        let strange = statuses.get("strange").await.map_err(|error| error.to_string())?;
        let reason = strange.data.pointer("/status/conditions/2/reason").and_then(Value::as_str);
        if reason == Some("InvalidSpec") { Ok(()) } else { Err(strange.data.to_string()) }
    })
    .await;
    // It is told once, although nothing of it is remembered.
    let begin = operator.counters.looks(Outcome::Degraded);
    for round in 0..3 {
        let patch = json!({"metadata": {"labels": {"round": round.to_string()}}});
        statuses.patch("strange", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        eventually("a look", async || {
            let looks = operator.counters.looks(Outcome::Degraded) - begin;
            if looks > round { Ok(()) } else { Err(looks.to_string()) }
        })
        .await;
    }
    let looks = operator.counters.looks(Outcome::Degraded) - begin;
    assert!(looks < 10, "{looks} looks for three changes");
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_missing_right_is_told_and_the_operator_goes_on() {
    let world = World::new().await;
    let account = format!("system:serviceaccount:{}:weak", world.namespace);
    let roles: Api<ClusterRole> = Api::all(world.client.clone());
    let mut role = roles.get("frontiercluster-manager-role").await.unwrap();
    role.metadata = serde_json::from_value(json!({"name": world.namespace})).unwrap();
    // It may not make Services, and may do everything else.
    for rule in role.rules.iter_mut().flatten() {
        if let Some(resources) =
            rule.resources.as_mut().filter(|resources| resources.contains(&"services".to_owned()))
        {
            resources.retain(|resource| resource != "services");
        }
    }
    let watch = json!({"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]});
    role.rules.get_or_insert_default().push(serde_json::from_value(watch).unwrap());
    roles.create(&PostParams::default(), &role).await.unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(world.client.clone());
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": world.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": world.namespace},
        "subjects": [{"kind": "ServiceAccount", "name": "weak", "namespace": world.namespace}],
    }))
    .unwrap();
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    let operator = Operator::start_as(&account, None).await;
    world.apply("orders", spec()).await.unwrap();
    let cluster = world.until_degraded("orders", "Forbidden").await;
    let message = cluster.status.unwrap().message.unwrap();
    assert!(message.contains("services"), "{message}");
    eventually("an event", async || {
        let events = world.events("ServiceEnsureFailed").await;
        let told = events.iter().any(|note| note.starts_with("Forbidden: "));
        if told { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    // It waits between attempts, whatever else wakes it.
    let looks = operator.counters.looks(Outcome::Degraded);
    assert!(looks < 20, "{looks} looks");
    assert!(
        world.api::<Deployment>().get_opt("orders-frontier").await.unwrap().is_some(),
        "the rest is there"
    );
    operator.end().await;
    let _ = roles.delete(&world.namespace, &DeleteParams::default()).await;
    let _ = bindings.delete(&world.namespace, &DeleteParams::default()).await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn one_operator_of_several_works_and_the_next_takes_over() {
    let world = World::new().await;
    // In the namespace where the rights are.
    let terms = Terms {
        duration: Duration::from_secs(4),
        hold: Duration::from_millis(2500),
        retry: Duration::from_millis(500),
    };
    let election = |identity: &str| Election {
        namespace: "frontier-system".to_owned(),
        identity: identity.to_owned(),
        terms,
    };
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "frontier-system");
    drop(leases.delete(lease::NAME, &DeleteParams::default()).await);
    let holder = async |expected: &str| {
        let begin = Instant::now();
        eventually(expected, async || {
            let spec = leases.get_opt(lease::NAME).await.unwrap().and_then(|lease| lease.spec);
            let holder = spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            if holder == expected { Ok(()) } else { Err(holder) }
        })
        .await;
        begin.elapsed()
    };
    let account = crate::world::OPERATOR;
    let first = Operator::start_as(account, Some(election("first"))).await;
    holder("first").await;
    let second = Operator::start_as(account, Some(election("second"))).await;
    world.apply("orders", spec()).await.unwrap();
    world.until_mended("orders").await;
    assert!(first.counters.writes.total() > 0);
    assert_eq!(second.counters.writes.total(), 0, "only one of them writes");
    // In good order: the next one need not wait for the end of the lease.
    first.end().await;
    let handed_over = holder("second").await;
    println!("handed over in {handed_over:?}");
    assert!(handed_over < terms.duration, "{handed_over:?}");
    // By surprise: it has to.
    let third = Operator::start_as(account, Some(election("third"))).await;
    second.task.abort();
    let taken = holder("third").await;
    println!("taken over in {taken:?}");
    world.apply("orders", with("frontier.edgebound.port", json!(30013))).await.unwrap();
    world.until_mended("orders").await;
    assert!(third.counters.writes.total() > 0);
    third.end().await;
    world.end().await;
}
