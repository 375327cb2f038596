use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use super::*;
use crate::api::problems;

/// The sample of the docs.
const SAMPLE: &str = include_str!("../../testdata/sample.yaml");

/// Everything that can be said.
const FULL: &str = include_str!("../../testdata/full.yaml");

fn images() -> Images {
    Images {
        frontier: "singchia/frontier:1".to_owned(),
        frontlas: "singchia/frontlas:1".to_owned(),
        redis: "redis:7.4".to_owned(),
    }
}

fn cluster(text: &str) -> FrontierCluster {
    let mut cluster: FrontierCluster = serde_saphyr::from_str(text).unwrap();
    cluster.metadata.namespace = Some("edge".to_owned());
    cluster.metadata.uid = Some("6f1c".to_owned());
    let name = cluster.metadata.name.clone().unwrap();
    assert_eq!(problems(&name, &cluster.spec), <[String; 0]>::default());
    cluster
}

fn files() -> TlsFiles {
    TlsFiles {
        pair: Some(Pair { cert: b"chain".to_vec(), key: b"key".to_vec() }),
        ca: Some(b"authority".to_vec()),
    }
}

fn text(wanted: &[Wanted]) -> String {
    wanted.iter().map(|object| format!("---\n{}", serde_saphyr::to_string(&object.value).unwrap())).collect()
}

fn find<'a>(wanted: &'a [Wanted], kind: Kind, name: &str) -> &'a Value {
    &wanted.iter().find(|object| object.kind == kind && object.name == name).unwrap().value
}

fn env<'a>(deployment: &'a Value, name: &str) -> Option<&'a Value> {
    let all = deployment.pointer("/spec/template/spec/containers/0/env").unwrap().as_array().unwrap();
    all.iter().find(|variable| variable["name"] == name).map(|variable| &variable["value"])
}

#[test]
fn the_sample() {
    let seen = Seen { identity_key: "ab".repeat(32), ..Seen::default() };
    insta::assert_snapshot!(text(&all(&cluster(SAMPLE), &images(), &seen).unwrap()));
}

#[test]
fn everything_that_can_be_said() {
    let seen = Seen {
        edge_tls: Some(files()),
        service_tls: Some(TlsFiles { ca: None, ..files() }),
        redis_tls: Some(files()),
        redis_password: Some("0011".to_owned()),
        identity_key: "ab".repeat(32),
        monitoring: true,
        ..Seen::default()
    };
    insta::assert_snapshot!(text(&all(&cluster(FULL), &images(), &seen).unwrap()));
}

#[test]
fn a_redis_of_its_own() {
    let mut cluster = cluster(SAMPLE);
    cluster.spec.frontlas.redis = None;
    let seen = Seen { own_redis_password: "cd".repeat(32), ..Seen::default() };
    let wanted = all(&cluster, &images(), &seen).unwrap();
    let redis: Vec<Wanted> = wanted.into_iter().filter(|object| object.name.contains("redis")).collect();
    insta::assert_snapshot!(text(&redis));
}

#[test]
fn what_the_go_operator_made_stays_while_the_image_stays() {
    let mut cluster = cluster(SAMPLE);
    cluster.spec.frontier.image = Some("singchia/frontier:1.1.0".to_owned());
    cluster.spec.frontlas.image = Some("singchia/frontlas:1.1.0".to_owned());
    let go = |image: &str| {
        Some(Running { replicas: Some(1), style: Style::Go, image: image.to_owned(), ..Running::default() })
    };
    let seen = Seen {
        gateway: go("singchia/frontier:1.1.0"),
        atlas: go("singchia/frontlas:1.1.0"),
        ..Seen::default()
    };
    let wanted = all(&cluster, &images(), &seen).unwrap();
    let deployments: Vec<Wanted> = wanted.iter().filter(|o| o.kind == Kind::Deployment).cloned().collect();
    insta::assert_snapshot!(text(&deployments));
    assert_eq!(wanted.len(), 5, "three Services and two Deployments, nothing else");
    cluster.spec.frontier.image = None;
    let wanted = all(&cluster, &images(), &seen).unwrap();
    let args = find(&wanted, Kind::Deployment, "frontiercluster-frontier")
        .pointer("/spec/template/spec/containers/0/args");
    assert!(args.is_some(), "another image gets our template");
}

#[test]
fn a_pinned_release_of_the_go_system_gets_its_own_probes_in_a_new_cluster() {
    let probe = |image: &str| {
        let mut cluster = cluster(SAMPLE);
        cluster.spec.frontier.image = Some(image.to_owned());
        let wanted = all(&cluster, &images(), &Seen::default()).unwrap();
        let container = find(&wanted, Kind::Deployment, "frontiercluster-frontier")
            .pointer("/spec/template/spec/containers/0")
            .unwrap();
        (container["readinessProbe"]["tcpSocket"].is_object(), container["args"].is_array())
    };
    for go in [
        "singchia/frontier:1.1.0",
        "registry.example:5000/singchia/frontier:v1.2.5",
        "singchia/frontier:1.0.3@sha256:ab",
    ] {
        assert_eq!(probe(go), (true, false), "{go}");
    }
    for own in [
        "singchia/frontier:0.1.0",
        "singchia/frontier",
        "mysingchia/frontier:1.1.0",
        "example/frontier:1.1.0",
        "singchia/frontier:next",
    ] {
        assert_eq!(probe(own), (false, true), "{own}");
    }
    // What those images cannot do is only in ours.
    let mut cluster = cluster(SAMPLE);
    cluster.spec.frontier.image = Some("singchia/frontier:1.1.0".to_owned());
    cluster.spec.frontier.drain_seconds = Some(20);
    let wanted = all(&cluster, &images(), &Seen::default()).unwrap();
    let args = find(&wanted, Kind::Deployment, "frontiercluster-frontier")
        .pointer("/spec/template/spec/containers/0/args");
    assert!(args.is_some());
}

#[test]
fn pods_of_the_go_operator_are_replaced_when_their_password_changes() {
    let mut cluster = cluster(SAMPLE);
    cluster.spec.frontlas.image = Some("singchia/frontlas:1.1.0".to_owned());
    let go = Running { style: Style::Go, image: "singchia/frontlas:1.1.0".to_owned(), ..Running::default() };
    let described = |running: &Running, password: &str| {
        let seen = Seen {
            atlas: Some(running.clone()),
            redis_password: Some(password.to_owned()),
            ..Seen::default()
        };
        let wanted = all(&cluster, &images(), &seen).unwrap();
        let deployment = find(&wanted, Kind::Deployment, "frontiercluster-frontlas").clone();
        let pods = deployment.pointer("/spec/template/metadata/annotations").cloned();
        (Running::of(&serde_json::from_value(deployment).unwrap()), pods)
    };
    let (taken_over, pods) = described(&go, "one");
    assert_eq!((taken_over.password.as_deref(), pods), (Some("one"), None));
    let (same, pods) = described(&taken_over, "one");
    assert_eq!((&same, pods), (&taken_over, None));
    let (changed, pods) = described(&same, "two");
    assert!(changed.password_in_pods && pods.is_some());
    assert_eq!(described(&changed, "two").1, pods, "and stays so");
}

#[test]
fn a_deployment_tells_who_described_it() {
    let rendered = all(&cluster(SAMPLE), &images(), &Seen::default()).unwrap();
    let deployment: Deployment =
        serde_json::from_value(find(&rendered, Kind::Deployment, "frontiercluster-frontier").clone())
            .unwrap();
    let expected =
        Running { replicas: Some(1), image: "singchia/frontier:1".to_owned(), ..Running::default() };
    assert_eq!(Running::of(&deployment), expected);
}

#[test]
fn the_drain_ends_before_the_kill() {
    let drain = |change: Value| {
        let mut cluster = cluster(SAMPLE);
        let mut frontier = serde_json::to_value(&cluster.spec.frontier).unwrap();
        frontier.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        cluster.spec.frontier = serde_json::from_value(frontier).unwrap();
        let wanted = all(&cluster, &images(), &Seen::default()).unwrap();
        let deployment = find(&wanted, Kind::Deployment, "frontiercluster-frontier");
        let grace = deployment.pointer("/spec/template/spec/terminationGracePeriodSeconds").unwrap().as_i64();
        (grace.unwrap(), env(deployment, "FRONTIER_DRAIN_SECONDS").unwrap().as_str().unwrap().to_owned())
    };
    assert_eq!(drain(json!({})), (60, "45".to_owned()));
    assert_eq!(drain(json!({"drainSeconds": 300})), (315, "300".to_owned()));
    assert_eq!(drain(json!({"pod": {"terminationGracePeriodSeconds": 30}})), (30, "15".to_owned()));
    assert_eq!(drain(json!({"pod": {"terminationGracePeriodSeconds": 5}})), (5, "0".to_owned()));
    let hook = json!({"preStop": {"sleep": {"seconds": 3}}});
    assert_eq!(drain(json!({"pod": {"lifecycle": hook}})), (60, "52".to_owned()));
}

#[test]
fn gateways_advertise_what_they_are_told() {
    let advertised = |advertise: Value, change: Value, seen: &Seen| {
        let mut cluster = cluster(SAMPLE);
        let mut edges = serde_json::to_value(&cluster.spec.frontier.edgebound).unwrap();
        edges.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        edges["advertise"] = advertise;
        cluster.spec.frontier.edgebound = serde_json::from_value(edges).unwrap();
        let wanted = all(&cluster, &images(), seen).unwrap();
        let deployment = find(&wanted, Kind::Deployment, "frontiercluster-frontier");
        env(deployment, "FRONTIER_EDGEBOUND_ADVERTISED_ADDR").and_then(Value::as_str).map(str::to_owned)
    };
    let nothing = Seen::default();
    let node = json!({"mode": "NodePort"});
    assert_eq!(advertised(node.clone(), json!({}), &nothing).as_deref(), Some("$(NODE_IP):30012"));
    assert_eq!(
        advertised(node.clone(), json!({"nodePort": 31000}), &nothing).as_deref(),
        Some("$(NODE_IP):31000")
    );
    assert_eq!(advertised(node.clone(), json!({"nodePort": 0}), &nothing), None, "not known yet");
    let known =
        Seen { edge_node_port: Some(32000), load_balancer: Some("fd00::1".to_owned()), ..Seen::default() };
    assert_eq!(advertised(node, json!({"nodePort": 0}), &known).as_deref(), Some("$(NODE_IP):32000"));
    let balancer = json!({"mode": "LoadBalancer"});
    assert_eq!(advertised(balancer.clone(), json!({}), &nothing), None, "not known yet");
    assert_eq!(advertised(balancer, json!({}), &known).as_deref(), Some("[fd00::1]:30012"));
    let address = json!({"mode": "Address", "address": "edge.example:443"});
    assert_eq!(advertised(address, json!({}), &nothing).as_deref(), Some("edge.example:443"));
}

#[test]
fn an_autoscaler_chooses_from_its_first_moment_on() {
    let mut cluster = cluster(SAMPLE);
    cluster.spec.frontier.autoscaling =
        serde_json::from_value(json!({"minReplicas": 2, "maxReplicas": 5})).unwrap();
    let replicas = |seen: &Seen| {
        let wanted = all(&cluster, &images(), seen).unwrap();
        find(&wanted, Kind::Deployment, "frontiercluster-frontier").pointer("/spec/replicas").cloned()
    };
    assert_eq!(replicas(&Seen::default()), Some(json!(2)));
    let running = Seen { gateway: Some(Running::default()), ..Seen::default() };
    assert_eq!(replicas(&running), None);
}

#[test]
fn what_is_not_wanted_is_known_by_name() {
    let cluster = cluster(SAMPLE);
    let wanted = all(&cluster, &images(), &Seen::default()).unwrap();
    let others = unwanted(&cluster, &wanted);
    assert!(others.contains(&(Kind::StatefulSet, "frontiercluster-redis".to_owned())));
    assert!(others.contains(&(Kind::Secret, "frontiercluster-edgebound-ca-certificate".to_owned())));
    assert!(!others.contains(&(Kind::ConfigMap, "frontiercluster-frontier".to_owned())));
    let full = super::tests::cluster(FULL);
    let seen = Seen {
        edge_tls: Some(files()),
        service_tls: Some(files()),
        redis_tls: Some(files()),
        monitoring: true,
        ..Seen::default()
    };
    let wanted = all(&full, &images(), &seen).unwrap();
    let names = Names::new(&full);
    for object in &wanted {
        let variable = matches!(object.kind, Kind::Service | Kind::Deployment);
        let known = names.optional().contains(&(object.kind, object.name.clone()));
        assert!(variable || known, "{} {} would stay behind", object.kind.name(), object.name);
    }
}
