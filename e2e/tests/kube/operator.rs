//! The operator and what becomes of a `FrontierCluster`.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use frontier_e2e::certs::Authority;
use parking_lot::Mutex;

use crate::{
    Lane, Scenario, World,
    fleet::{Fleet, answered, connect},
    kube::{Kube, until},
    tls,
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "sample",
        asserts: "install.yaml by kubectl, and the sample as it is: Ready within 60 s, an edge outside calls a service in a pod through the NodePort, which calls it \
                  back via the registry; without changes nothing is written; delete leaves nothing",
        lane: Lane::Last,
        run: sample,
    },
    Scenario {
        name: "operator-chart",
        asserts: "helm install, upgrade to two instances, rollback and uninstall of the operator's chart; a cluster made meanwhile is served all along and stays \
                  when the chart goes",
        lane: Lane::Last,
        run: operator_chart,
    },
    Scenario {
        name: "wrong",
        asserts: "clusters that cannot work are refused by the API server with a message that says why",
        lane: Lane::Clusters,
        run: wrong,
    },
    Scenario {
        name: "mended",
        asserts: "a password secret that is not there makes the cluster Degraded with the reason; it recovers by itself when the secret comes",
        lane: Lane::Clusters,
        run: mended,
    },
    Scenario {
        name: "taken",
        asserts: "a second cluster with a node port that is taken is Degraded, reason PortTaken, and the first goes on; with nodePort 0 it recovers; an image that \
                  does not exist is said, and mended by a new one",
        lane: Lane::Clusters,
        run: taken,
    },
    Scenario {
        name: "secured",
        asserts: "TLS asked for without its secret is Degraded with the reason, and the gateway goes on as it was; the secret comes, and edges connect by TLS; a changed \
                  secret is in force without new pods",
        lane: Lane::Clusters,
        run: secured,
    },
];

const CHART: &str = "charts/frontier-operator";
/// The namespace of install.yaml.
pub(crate) const HOME: &str = "frontier-system";
/// What belongs to a cluster.
const KINDS: [&str; 9] =
    ["deployments", "statefulsets", "replicasets", "pods", "services", "configmaps", "secrets", "pdb", "pvc"];

/// Installs the operator, unless it is there.
pub(crate) fn install(world: &World<'_>) -> anyhow::Result<()> {
    /// Scenarios beside each other want the same one.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock();
    let home = Kube::new(HOME);
    let there = home.names("deployments")?.iter().any(|name| name.ends_with("/frontiercluster-operator"));
    let begin = Instant::now();
    home.apply_file("deploy/install.yaml")?;
    home.rolled_out("deployment/frontiercluster-operator", Duration::from_secs(60))
        .with_context(|| home.report())?;
    if !there {
        world.took("kubectl apply of install.yaml until the operator is ready", begin);
    }
    Ok(())
}

/// Waits until a cluster is available in its newest generation.
pub(crate) fn available(kube: &Kube, name: &str, within: Duration) -> anyhow::Result<()> {
    until(&format!("{name} is available"), within, || {
        let cluster = kube.get(&format!("frontiercluster {name}"))?;
        let status = &cluster["status"];
        let text = || serde_json::to_string(status).unwrap_or_default();
        ensure!(
            status["observedGeneration"] == cluster["metadata"]["generation"],
            "not seen yet: {}",
            text()
        );
        let condition = condition(status, "Available");
        ensure!(condition == Some("True") && status["phase"] == "Running", "{}", text());
        Ok(())
    })
}

fn condition<'a>(status: &'a serde_json::Value, kind: &str) -> Option<&'a str> {
    let conditions = status["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}

/// Objects of a cluster by owner: those of the cluster itself, and what these own.
pub(crate) fn owned(kube: &Kube, uid: &str) -> anyhow::Result<Vec<String>> {
    let (mut uids, mut names) = (vec![uid.to_owned()], Vec::new());
    // Deployment, ReplicaSet, Pod.
    for _ in 0..3 {
        names.clear();
        let list = kube.get(&KINDS.join(","))?;
        for item in list["items"].as_array().context("items")? {
            let meta = &item["metadata"];
            let owners = meta["ownerReferences"].as_array().into_iter().flatten();
            if owners
                .filter_map(|owner| owner["uid"].as_str())
                .any(|owner| uids.iter().any(|uid| uid == owner))
            {
                names.push(format!(
                    "{}/{}",
                    item["kind"].as_str().unwrap_or_default(),
                    meta["name"].as_str().unwrap_or_default()
                ));
                uids.extend(meta["uid"].as_str().map(str::to_owned));
            }
        }
    }
    Ok(names)
}

fn sample(world: &World<'_>) -> anyhow::Result<()> {
    let (kube, runtime) = (&world.kube, world.runtime);
    install(world)?;
    kube.apply_file("deploy/samples/redis.yaml")?;
    kube.rolled_out("deployment/redisfailover", Duration::from_secs(60))?;

    let begin = Instant::now();
    kube.apply_file("deploy/samples/frontiercluster.yaml")?;
    kube.apply_file("deploy/samples/echo-service.yaml")?;
    available(kube, "frontiercluster", Duration::from_secs(60))?;
    world.took("kubectl apply of the sample until Available", begin);
    let gateway = kube.node_port("frontiercluster-edgebound-svc")?;
    ensure!(gateway.ends_with(":30012"), "{gateway}");
    runtime.block_on(async {
        let edge = connect(&gateway, "an edge", Duration::from_secs(60)).await?;
        answered(&edge, Duration::from_secs(60)).await?;
        let back = edge.call("relay", format!("{} there?", edge.id())).await?;
        ensure!(back.body() == "an edge heard there?", "{back:?}");
        edge.close().await;
        Ok(())
    })?;
    world.took("kubectl apply of the sample until a call and back", begin);

    quiet(kube, "frontiercluster")?;
    let cluster = kube.get("frontiercluster frontiercluster")?;
    let uid = cluster["metadata"]["uid"].as_str().context("uid")?;
    let owned_before = owned(kube, uid)?;
    ensure!(owned_before.len() >= 7, "owned: {owned_before:?}");
    let begin = Instant::now();
    kube.kubectl(["delete", "frontiercluster", "frontiercluster", "--timeout=60s"])?;
    until("nothing is left", Duration::from_secs(120), || {
        let left = owned(kube, uid)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    world.took("kubectl delete until nothing is left", begin);
    Ok(())
}

/// Makes the operator look at a settled cluster by edits that mean nothing, and sees that it writes nothing at all.
fn quiet(kube: &Kube, name: &str) -> anyhow::Result<()> {
    let home = Kube::new(HOME);
    let pod = home.ask("pods -l control-plane=operator", "{.items[0].metadata.name}")?;
    let metrics = format!("/api/v1/namespaces/{HOME}/pods/{pod}:8080/proxy/metrics");
    let sum = |text: &str, family: &str| -> anyhow::Result<f64> {
        let rows = text.lines().filter(|line| line.starts_with(family));
        let values: Vec<f64> = rows.filter_map(|row| row.rsplit_once(' ')?.1.parse().ok()).collect();
        ensure!(!values.is_empty(), "no {family} in {text}");
        Ok(values.iter().sum())
    };
    let counts = || -> anyhow::Result<(f64, f64)> {
        let text = home.kubectl(["get", "--raw", &metrics])?;
        Ok((
            sum(&text, "frontier_operator_reconciles_total")?,
            sum(&text, "frontier_operator_api_writes_total")?,
        ))
    };
    let (_, written) = counts()?;
    ensure!(written > 0.0, "the operator counts no writes");
    for edit in 0..3 {
        let (looks, _) = counts()?;
        let note = format!("edit={edit}");
        kube.kubectl(["annotate", "--overwrite", "frontiercluster", name, &note])?;
        until("the operator looks", Duration::from_secs(60), || {
            let now = counts()?.0;
            ensure!(now > looks, "{now} looks");
            Ok(())
        })?;
    }
    let (_, now) = counts()?;
    #[expect(clippy::float_cmp, reason = "counts")]
    let same = now == written;
    ensure!(same, "{} writes to the API for a settled cluster", now - written);
    Ok(())
}

fn operator_chart(world: &World<'_>) -> anyhow::Result<()> {
    let (kube, runtime) = (&world.kube, world.runtime);
    // The other way to install it, from a scenario before.
    let home = Kube::new(HOME);
    home.kubectl(["delete", "-f", "deploy/operator.yaml", "--ignore-not-found", "--timeout=60s"])?;
    let begin = Instant::now();
    kube.helm(["install", "o", CHART, "--take-ownership", "--wait", "--timeout", "60s"])?;
    world.took("helm install of the operator", begin);
    kube.apply_file("deploy/samples/redis.yaml")?;
    kube.apply_file("deploy/samples/frontiercluster.yaml")?;
    kube.apply_file("deploy/samples/echo-service.yaml")?;
    available(kube, "frontiercluster", Duration::from_secs(90))?;
    let fleet = Fleet::start(runtime, &kube.node_port("frontiercluster-edgebound-svc")?, 2)?;
    kube.helm(["upgrade", "o", CHART, "--set", "replicaCount=2", "--wait", "--timeout", "60s"])?;
    kube.helm(["rollback", "o", "1", "--wait", "--timeout", "60s"])?;
    available(kube, "frontiercluster", Duration::from_secs(60))?;
    kube.helm(["uninstall", "o", "--wait", "--timeout", "60s"])?;
    world.say(&format!("   {}", fleet.end(runtime)?));
    ensure!(kube.names("frontierclusters")?.len() == 1, "the cluster went with the chart");
    kube.kubectl(["delete", "frontiercluster", "frontiercluster", "--timeout=60s"]).map(drop)
}

/// A small cluster with registry in memory, and the text that differs.
fn cluster(name: &str, edgebound: u16, servicebound: u16, redis: &str) -> String {
    format!(
        "apiVersion: frontier.singchia.io/v1alpha1\nkind: FrontierCluster\nmetadata: {{name: {name}}}\nspec:\n  \
         frontier: {{replicas: 1, servicebound: {{port: {servicebound}}}, edgebound: {{port: {edgebound}}}}}\n  \
         frontlas: {{replicas: 1, controlplane: {{port: 40011}}, redis: {redis}}}\n"
    )
}

fn wrong(world: &World<'_>) -> anyhow::Result<()> {
    install(world)?;
    let kube = &world.kube;
    let redis = "{addrs: ['redis:6379'], redisType: standalone}";
    let good = cluster("wrong", 30032, 30031, redis);
    kube.apply(&good).context("this one is right")?;
    kube.kubectl(["delete", "frontiercluster", "wrong", "--timeout=60s"])?;
    let cases = [
        ("no replicas", good.replacen("replicas: 1", "replicas: 0", 1), "spec.frontier.replicas"),
        ("fewer than none", good.replacen("replicas: 1", "replicas: -1", 1), "spec.frontier.replicas"),
        (
            "a port out of range",
            good.replacen("port: 30031", "port: 70000", 1),
            "spec.frontier.servicebound.port",
        ),
        ("one port twice", cluster("wrong", 30032, 30032, redis), "must differ"),
        ("an unknown kind of Redis", good.replace("standalone", "mysql"), "redisType"),
        ("a name too long", cluster(&"n".repeat(60), 30032, 30031, redis), "must not be longer"),
        ("no port of edges", good.replace("edgebound:", "edgebund:"), "edgebund"),
    ];
    for (what, manifest, word) in cases {
        let told =
            kube.apply(&manifest).map_or_else(|error| error.to_string(), |text| format!("taken: {text}"));
        ensure!(told.contains(word) && !told.starts_with("taken"), "{what}: {told}");
    }
    ensure!(kube.names("frontierclusters")?.is_empty(), "something was made");
    Ok(())
}

fn mended(world: &World<'_>) -> anyhow::Result<()> {
    install(world)?;
    let kube = &world.kube;
    kube.apply_file("deploy/samples/redis.yaml")?;
    let redis = "{addrs: ['rfs-redisfailover:26379'], redisType: sentinel, masterName: mymaster, passwordSecret: {name: redis-password, key: password}}";
    kube.apply(&cluster("mended", 30042, 30041, redis))?;
    let begin = Instant::now();
    until("Degraded", Duration::from_secs(60), || {
        let cluster = kube.get("frontiercluster mended")?;
        let text = serde_json::to_string(&cluster["status"])?;
        ensure!(condition(&cluster["status"], "Degraded") == Some("True"), "{text}");
        ensure!(text.contains("redis-password"), "it is not said what is missing: {text}");
        Ok(())
    })?;
    world.took("a secret that is not there until Degraded", begin);
    let events = kube.kubectl([
        "get",
        "events",
        "--field-selector",
        "type=Warning,involvedObject.kind=FrontierCluster",
    ])?;
    ensure!(events.contains("redis-password"), "no event says so:\n{events}");
    let begin = Instant::now();
    kube.kubectl(["create", "secret", "generic", "redis-password", "--from-literal=password=your-password"])?;
    available(kube, "mended", Duration::from_secs(90))?;
    world.took("the secret comes until Available", begin);
    kube.kubectl(["delete", "frontiercluster", "mended", "--timeout=60s"]).map(drop)
}

/// Waits until the cluster's status, as text, has all of these words.
fn says(kube: &Kube, name: &str, words: &[&str]) -> anyhow::Result<()> {
    until(&format!("{name} says {words:?}"), Duration::from_secs(90), || {
        let cluster = kube.get(&format!("frontiercluster {name}"))?;
        let text = serde_json::to_string(&cluster["status"])?;
        ensure!(words.iter().all(|word| text.contains(word)), "{text}");
        Ok(())
    })
}

fn taken(world: &World<'_>) -> anyhow::Result<()> {
    install(world)?;
    let kube = &world.kube;
    kube.apply_file("deploy/samples/redis.yaml")?;
    let redis = "{addrs: ['rfs-redisfailover:26379'], redisType: sentinel, masterName: mymaster, password: your-password}";
    kube.apply(&cluster("first", 30092, 30091, redis))?;
    available(kube, "first", Duration::from_secs(90))?;
    kube.apply(&cluster("second", 30092, 30091, redis))?;
    let begin = Instant::now();
    says(kube, "second", &["PortTaken", "30092"])?;
    world.took("a node port that is taken until it is said", begin);
    available(kube, "first", Duration::from_secs(5))?;
    let patch =
        |patch: &str| kube.kubectl(["patch", "frontiercluster", "second", "--type=merge", "-p", patch]);
    patch(r#"{"spec":{"frontier":{"edgebound":{"nodePort":0}}}}"#)?;
    available(kube, "second", Duration::from_secs(90))?;

    patch(r#"{"spec":{"frontlas":{"image":"localhost/there-is-no-such-image:1"}}}"#)?;
    let begin = Instant::now();
    says(kube, "second", &["there-is-no-such-image"])?;
    world.took("an image that does not exist until it is said", begin);
    patch(r#"{"spec":{"frontlas":{"image":null}}}"#)?;
    available(kube, "second", Duration::from_secs(90))?;
    kube.kubectl(["delete", "frontierclusters", "--all", "--timeout=60s"]).map(drop)
}

fn secured(world: &World<'_>) -> anyhow::Result<()> {
    install(world)?;
    let (kube, runtime) = (&world.kube, world.runtime);
    kube.apply_file("deploy/samples/redis.yaml")?;
    let redis = "{addrs: ['rfs-redisfailover:26379'], redisType: sentinel, masterName: mymaster, password: your-password}";
    kube.apply(&cluster("secured", 30095, 30096, redis))?;
    available(kube, "secured", Duration::from_secs(90))?;
    let gateway = kube.node_port("secured-edgebound-svc")?;
    let pods = kube.names("pods -l app=secured-frontier")?;
    let patch = format!(
        r#"{{"spec":{{"frontier":{{"edgebound":{{"tls":{{"enabled":true,"certificateKeySecretRef":{{"name":"{}"}}}}}}}}}}}}"#,
        tls::SECRET
    );
    kube.kubectl(["patch", "frontiercluster", "secured", "--type=merge", "-p", &patch])?;
    says(kube, "secured", &["SecretMissing", tls::SECRET])?;
    ensure!(kube.names("pods -l app=secured-frontier")? == pods, "a secret that is not there replaced pods");
    runtime.block_on(async {
        connect(&gateway, "an edge without TLS", Duration::from_secs(10)).await?.close().await;
        anyhow::Ok(())
    })?;
    let authority = Authority::new()?;
    let begin = Instant::now();
    tls::put(kube, &authority)?;
    until("edges by TLS", Duration::from_secs(120), || tls::connect(runtime, &gateway, &authority))?;
    world.took("the secret comes until edges connect by TLS", begin);
    // The pod of before drains meanwhile.
    until("the pod of before is gone", Duration::from_secs(120), || {
        let left = kube.names("pods -l app=secured-frontier")?;
        ensure!(left.len() == 1 && left != pods, "{left:?}");
        Ok(())
    })?;
    available(kube, "secured", Duration::from_secs(60))?;
    tls::renewed(world, &gateway, &authority)?;
    kube.kubectl(["delete", "frontiercluster", "secured", "--timeout=60s"]).map(drop)
}
