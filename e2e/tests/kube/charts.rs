//! The chart: installed, tested, upgraded under load, rolled back, removed.

use std::time::{Duration, Instant};

use anyhow::ensure;
use frontier_e2e::certs::Authority;

use crate::{
    Lane, Scenario, World,
    fleet::{Fleet, answered, connect},
    kube::{repo, until},
    tls,
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "chart",
        asserts: "helm install with default values serves an edge outside through the NodePort within 60 s, and back, via the registry; \
                  `helm test` passes; upgrade to more replicas and another image, and rollback, fail no call and lose no acknowledged note; \
                  password, identity key and volume stay; uninstall leaves nothing but the volume",
        lane: Lane::Defaults,
        run: chart,
    },
    Scenario {
        name: "chart-from-go",
        asserts: "helm upgrade from the objects of the Go chart, with all of its values written down: password, volume and what Redis has in it stay, \
                  and an edge calls a service then",
        lane: Lane::Defaults,
        run: chart_from_go,
    },
    Scenario {
        name: "chart-tls",
        asserts: "edges reach gateways by TLS with the certificate of a Secret; a changed Secret is in force without a restart of the pods",
        lane: Lane::Defaults,
        run: chart_tls,
    },
    Scenario {
        name: "chart-refused",
        asserts: "values that cannot work are refused by helm, with the name of what is wrong",
        lane: Lane::Defaults,
        run: chart_refused,
    },
];

const CHART: &str = "charts/frontier";
/// More than the preStop of a pod, its drain and the start of the next one.
const ROLL: Duration = Duration::from_secs(240);
const KINDS: &str = "deployments,statefulsets,replicasets,pods,services,configmaps,secrets,serviceaccounts,pdb,hpa,endpointslices";

/// The echo service in a pod, for the registry of this name.
fn echo_service(world: &World<'_>, registry: &str) -> anyhow::Result<()> {
    let manifest = std::fs::read_to_string(repo().join("deploy/samples/echo-service.yaml"))?;
    world.kube.apply(&manifest.replace("frontiercluster-frontlas-svc", registry)).map(drop)
}

/// What of the cluster's own objects every namespace has.
fn left(world: &World<'_>) -> anyhow::Result<Vec<String>> {
    let mut left = world.kube.names(KINDS)?;
    left.retain(|name| !name.ends_with("/kube-root-ca.crt") && !name.ends_with("serviceaccount/default"));
    Ok(left)
}

fn chart(world: &World<'_>) -> anyhow::Result<()> {
    let (kube, runtime) = (&world.kube, world.runtime);
    let begin = Instant::now();
    kube.helm(["install", "f", CHART, "--wait", "--timeout", "120s"])?;
    world.took("helm install --wait", begin);
    echo_service(world, "f-frontier-frontlas")?;
    let gateway = kube.node_port("f-frontier-frontier-edgebound")?;
    runtime.block_on(async {
        let edge = connect(&gateway, "an edge", Duration::from_secs(60)).await?;
        answered(&edge, Duration::from_secs(60)).await?;
        let back = edge.call("relay", format!("{} there?", edge.id())).await?;
        ensure!(back.body() == "an edge heard there?", "{back:?}");
        edge.close().await;
        Ok(())
    })?;
    world.took("from nothing to a call and back", begin);
    ensure!(begin.elapsed() < Duration::from_secs(60), "it took {:?}", begin.elapsed());

    let begin = Instant::now();
    kube.helm(["test", "f", "--timeout", "60s"])?;
    world.took("helm test", begin);

    let kept = |kind: &str, name: &str, path: &str| kube.ask(&format!("{kind} {name}"), path);
    let secrets = || -> anyhow::Result<[String; 3]> {
        Ok([
            kept("secret", "f-redis", "{.data.redis-password}")?,
            kept("secret", "f-frontier-frontier-identity", "{.data.identity-key}")?,
            kept("pvc", "redis-data-f-redis-master-0", "{.spec.volumeName}")?,
        ])
    };
    let before = secrets()?;
    ensure!(before.iter().all(|value| !value.is_empty()), "{before:?}");

    let fleet = Fleet::start(runtime, &gateway, 4)?;
    fleet.works(runtime, 5)?;
    let begin = Instant::now();
    let more =
        "frontier.replicaCount=2,frontlas.replicaCount=2,frontier.image.tag=next,frontlas.image.tag=next";
    kube.helm(["upgrade", "f", CHART, "--set", more, "--wait", "--timeout", "240s"])?;
    kube.rolled_out("deployment/f-frontier-frontier", ROLL)?;
    world.took("helm upgrade to two replicas and another image, under load", begin);
    fleet.works(runtime, 5)?;
    ensure!(fleet.failed() == 0, "during the upgrade {}", fleet.failures());
    ensure!(secrets()? == before, "the upgrade changed {before:?} to {:?}", secrets()?);
    let begin = Instant::now();
    kube.helm(["rollback", "f", "1", "--wait", "--timeout", "240s"])?;
    kube.rolled_out("deployment/f-frontier-frontier", ROLL)?;
    world.took("helm rollback under load", begin);
    until("the pods of before are gone", Duration::from_secs(120), || {
        let pods =
            kube.kubectl(["get", "pods", "-l", "app.kubernetes.io/component=frontier", "-o", "name"])?;
        ensure!(pods.lines().count() == 1, "{pods}");
        Ok(())
    })?;
    world.say(&format!("   {}", fleet.end(runtime)?));
    ensure!(secrets()? == before, "the rollback changed {before:?} to {:?}", secrets()?);

    kube.kubectl(["delete", "deployment", "echo", "--wait=true"])?;
    let begin = Instant::now();
    kube.helm(["uninstall", "f", "--wait", "--timeout", "120s"])?;
    until("nothing is left", Duration::from_secs(120), || {
        let left = left(world)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    world.took("helm uninstall until nothing is left", begin);
    ensure!(kube.names("pvc")?.len() == 1, "the volume should stay: {:?}", kube.names("pvc")?);
    Ok(())
}

fn chart_from_go(world: &World<'_>) -> anyhow::Result<()> {
    let (kube, runtime) = (&world.kube, world.runtime);
    kube.helm(["install", "f", "e2e/kube/go-chart", "--wait", "--timeout", "120s"])?;
    let redis = |command: &[&str]| {
        let begin = [
            "exec",
            "f-redis-master-0",
            "--",
            "redis-cli",
            "--no-auth-warning",
            "-a",
            "drawn-by-the-sub-chart",
        ];
        kube.kubectl(begin.iter().chain(command))
    };
    redis(&["set", "marker", "there"])?;
    let kept = || -> anyhow::Result<[String; 2]> {
        Ok([
            kube.ask("secret f-redis", "{.data.redis-password}")?,
            kube.ask("pvc redis-data-f-redis-master-0", "{.spec.volumeName}")?,
        ])
    };
    let before = kept()?;
    let begin = Instant::now();
    let values = "charts/frontier/testdata/go-chart.values.yaml";
    kube.helm(["upgrade", "f", CHART, "-f", values, "--wait", "--timeout", "180s"])?;
    world.took("helm upgrade from the Go chart", begin);
    ensure!(kept()? == before, "{before:?} became {:?}", kept()?);
    until("what Redis had", Duration::from_secs(30), || {
        let marker = redis(&["get", "marker"])?;
        ensure!(marker.contains("there"), "the marker is {marker}");
        Ok(())
    })?;
    echo_service(world, "f-frontier-frontlas")?;
    let gateway = kube.node_port("f-frontier-frontier-edgebound")?;
    runtime.block_on(async {
        let edge = connect(&gateway, "an edge", Duration::from_secs(60)).await?;
        answered(&edge, Duration::from_secs(60)).await?;
        edge.close().await;
        anyhow::Ok(())
    })?;
    kube.helm(["uninstall", "f", "--wait", "--timeout", "120s"]).map(drop)
}

fn chart_tls(world: &World<'_>) -> anyhow::Result<()> {
    let kube = &world.kube;
    let authority = Authority::new()?;
    tls::put(kube, &authority)?;
    let values = "frontier.tls.edgebound.enabled=true,frontier.tls.edgebound.existingSecret=edge-tls,frontier.service.edgebound.port=30022,\
                  redis.enabled=false,frontlas.externalRedis.redisType=memory";
    kube.helm(["install", "t", CHART, "--set", &values.replace(' ', ""), "--wait", "--timeout", "120s"])?;
    tls::renewed(world, &kube.node_port("t-frontier-frontier-edgebound")?, &authority)?;
    kube.helm(["uninstall", "t", "--wait", "--timeout", "120s"]).map(drop)
}

fn chart_refused(world: &World<'_>) -> anyhow::Result<()> {
    let wrong = [
        ("frontier.replicaCount=0", "replicaCount"),
        ("frontier.service.edgebound.port=70000", "port"),
        ("frontier.replicacount=2", "replicacount"),
        ("frontlas.externalRedis.redisType=mysql", "redisType"),
        ("redis.enabled=false", "frontlas.externalRedis.addrs is needed"),
        ("frontier.tls.edgebound.enabled=true", "frontier.tls.edgebound.existingSecret is needed"),
        ("redis.architecture=replication", "redis.architecture"),
    ];
    for (values, word) in wrong {
        let refused = world.kube.helm(["install", "w", CHART, "--dry-run=client", "--set", values]);
        let told = refused.map_or_else(|error| error.to_string(), |_| "it is taken".to_owned());
        ensure!(told.contains(word), "{values}: {told}");
    }
    let refused = world.kube.helm(["install", "w", CHART, "--set", "frontier.service.edgebound.port=8000"]);
    let told = refused.map_or_else(|error| error.to_string(), |_| "it is taken".to_owned());
    ensure!(told.contains("nodePort"), "a node port that there cannot be: {told}");
    world.kube.helm(["uninstall", "w", "--ignore-not-found"]).map(drop)
}
