//! A cluster that the Go operator made.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Service,
};
use kube::{
    ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    stories::spec,
    world::{Operator, World, eventually},
};

/// As the Go operator writes it, by plain updates under the name of its binary.
fn deployment(part: &str, owner: &Value, env: Value, probes: [Value; 2], wait: u32, grace: u32) -> Value {
    let app = format!("orders-{part}");
    json!({
        "metadata": {"name": app, "labels": {"app": app}, "ownerReferences": [owner]},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": app}},
            "template": {
                "metadata": {"name": part, "labels": {"app": app}},
                "spec": {
                    "containers": [{
                        "name": part, "image": format!("singchia/{part}:1.1.0"), "imagePullPolicy": "IfNotPresent",
                        "env": env, "livenessProbe": probes[0], "readinessProbe": probes[1],
                        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", format!("sleep {wait}")]}}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                    "terminationGracePeriodSeconds": grace,
                    "securityContext": {
                        "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "runAsNonRoot": true,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": [app]}]},
                        },
                    }]}},
                },
            },
        },
    })
}

fn tcp(port: u32, initial_delay: u32, period: u32) -> Value {
    json!({
        "tcpSocket": {"port": port}, "initialDelaySeconds": initial_delay, "periodSeconds": period,
        "timeoutSeconds": 3, "failureThreshold": 3,
    })
}

async fn hashes(world: &World) -> Vec<String> {
    let sets = world.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap();
    let mut hashes: Vec<String> = sets.iter().map(|set| set.labels()["pod-template-hash"].clone()).collect();
    hashes.sort();
    hashes
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_cluster_of_the_go_operator_is_taken_over_without_new_pods() {
    let world = World::new().await;
    let mut wanted = spec();
    wanted["frontier"]["image"] = json!("singchia/frontier:1.1.0");
    wanted["frontlas"]["image"] = json!("singchia/frontlas:1.1.0");
    let cluster = world.apply("orders", wanted.clone()).await.unwrap();
    let owner = json!({
        "apiVersion": "frontier.singchia.io/v1alpha1", "kind": "FrontierCluster", "name": "orders",
        "uid": cluster.uid().unwrap(), "controller": true, "blockOwnerDeletion": true,
    });
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let gateway = json!([
        value("FRONTIER_DRAIN_SECONDS", "50"),
        value("FRONTIER_EDGEBOUND_PORT", "30012"),
        value("FRONTIER_SERVICEBOUND_PORT", "30011"),
        value("FRONTLAS_ADDR", "orders-frontlas-svc:40012"),
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ]);
    let atlas = json!([
        value("FRONTLAS_CONTROLPLANE_PORT", "40011"),
        value("FRONTLAS_FRONTIERPLANE_PORT", "40012"),
        value("MASTER_NAME", "mymaster"),
        value("REDIS_ADDRS", "redis:26379"),
        value("REDIS_DB", "0"),
        value("REDIS_PASSWORD", "secret"),
        value("REDIS_TYPE", "sentinel"),
        value("REDIS_USER", ""),
    ]);
    let health = json!({"httpGet": {"path": "/cluster/v1/health", "port": 40011}, "periodSeconds": 5});
    // The API server calls a writer by its binary.
    let go = PostParams { field_manager: Some("manager".to_owned()), ..PostParams::default() };
    for made in [
        deployment("frontier", &owner, gateway, [tcp(30012, 10, 20), tcp(30011, 5, 10)], 10, 60),
        deployment("frontlas", &owner, atlas, [tcp(40011, 10, 20), health], 5, 30),
    ] {
        let made: Deployment = serde_json::from_value(made).unwrap();
        world.api::<Deployment>().create(&go, &made).await.unwrap();
    }
    let service: Service = serde_json::from_value(json!({
        "metadata": {
            "name": "orders-servicebound-svc", "labels": {"app": "orders-frontier"},
            "annotations": {"of": "the Go operator"}, "ownerReferences": [owner],
        },
        "spec": {
            "selector": {"app": "orders-frontier"}, "publishNotReadyAddresses": true,
            "ports": [{"name": "orders-servicebound", "port": 30011, "targetPort": 30011}],
        },
    }))
    .unwrap();
    let address = world.api::<Service>().create(&go, &service).await.unwrap().spec.unwrap().cluster_ip;
    eventually("pods are described", async || match hashes(&world).await {
        hashes if hashes.len() == 2 => Ok(()),
        hashes => Err(format!("{hashes:?}")),
    })
    .await;
    let before = hashes(&world).await;

    let operator = Operator::start().await;
    world.until_mended("orders").await;
    assert_eq!(hashes(&world).await, before, "no pod is replaced");
    let deployment = world.api::<Deployment>().get("orders-frontier").await.unwrap();
    assert_eq!(
        managers(&deployment.metadata.managed_fields),
        ["frontier-operator Apply", "kube-controller-manager Update"]
    );
    let service = world.service("orders-servicebound-svc").await.unwrap();
    assert!(!service.annotations().contains_key("of"), "what it held and is not wished for any more is gone");
    let spec = service.spec.unwrap();
    assert_eq!((spec.cluster_ip, spec.publish_not_ready_addresses.unwrap_or(false)), (address, false));

    // Another image is another description, ours.
    wanted["frontier"]["image"] = json!("singchia/frontier:2.0.0");
    world.apply("orders", wanted).await.unwrap();
    eventually("new pods of gateways", async || match hashes(&world).await {
        hashes if hashes.len() == 3 => Ok(()),
        hashes => Err(format!("{hashes:?}")),
    })
    .await;
    let deployment = world.api::<Deployment>().get("orders-frontier").await.unwrap();
    let container = &deployment.spec.template.spec.unwrap().containers[0];
    let hook = container.lifecycle.clone().unwrap().pre_stop.unwrap().exec.unwrap().command.unwrap();
    assert_eq!(hook, ["/usr/bin/frontier", "drain-wait", "10s"]);
    assert!(container.liveness_probe.as_ref().unwrap().tcp_socket.is_none(), "the old probe is gone");
    operator.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_cluster_that_is_taken_over_and_given_an_autoscaler_in_one_keeps_its_pods() {
    let world = World::new().await;
    let mut wanted = spec();
    wanted["frontier"]["autoscaling"] = json!({"minReplicas": 2, "maxReplicas": 8});
    let cluster = world.apply("orders", wanted).await.unwrap();
    let owner = json!({
        "apiVersion": "frontier.singchia.io/v1alpha1", "kind": "FrontierCluster", "name": "orders",
        "uid": cluster.uid().unwrap(), "controller": true, "blockOwnerDeletion": true,
    });
    let mut made = deployment("frontier", &owner, json!([]), [tcp(30012, 10, 20), tcp(30011, 5, 10)], 10, 60);
    made["spec"]["replicas"] = json!(5);
    let made: Deployment = serde_json::from_value(made).unwrap();
    let go = PostParams { field_manager: Some("manager".to_owned()), ..PostParams::default() };
    world.api::<Deployment>().create(&go, &made).await.unwrap();
    let operator = Operator::start().await;
    world.until_mended("orders").await;
    let live = world.api::<Deployment>().get("orders-frontier").await.unwrap();
    assert_eq!(live.spec.replicas, Some(5), "as many as there were, until the autoscaler chooses");
    // One write of the description, none of another number of pods in between.
    assert_eq!(live.metadata.generation, Some(2));
    operator.end().await;
    world.end().await;
}

fn managers(
    fields: &Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry>>,
) -> Vec<String> {
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut all: Vec<String> = fields
        .iter()
        .flatten()
        .map(|entry| format!("{} {}", name(&entry.manager), name(&entry.operation)))
        .collect();
    all.sort();
    all.dedup();
    all
}
