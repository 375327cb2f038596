//! Changes of a running cluster, with edges at work.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::{
    Lane, Scenario, World,
    fleet::Fleet,
    kube::{Kube, until},
    operator::{HOME, available, install},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "rollout",
        asserts: "scaling gateways 1→3→1 and a new image, with edges at work: no call of native peers fails, no acknowledged note is lost; \
                  a password that changes and pods that are killed are recovered from",
        lane: Lane::Load,
        run: rollout,
    },
    Scenario {
        name: "kills",
        asserts: "the operator killed in the middle of a change, and all its instances at once: the change is carried out all the same; the API server \
                  restarted: edges notice nothing, and the operator goes on",
        lane: Lane::Last,
        run: kills,
    },
    Scenario {
        name: "two",
        asserts: "two clusters in one namespace, and a third in another that is called as one of them, serve edges side by side; deleting one leaves the others alone",
        lane: Lane::Clusters,
        run: two,
    },
];

/// More than the preStop of a pod, its drain and the start of the next one.
const ROLL: Duration = Duration::from_secs(240);

fn start(world: &World<'_>, name: &str, edgebound: u16) -> anyhow::Result<String> {
    install(world)?;
    start_in(&world.kube, name, edgebound)
}

/// A cluster with Redis and the echo service in this namespace; gives where its edges connect.
fn start_in(kube: &Kube, name: &str, edgebound: u16) -> anyhow::Result<String> {
    kube.apply_file("deploy/samples/redis.yaml")?;
    let sample = std::fs::read_to_string(crate::kube::repo().join("deploy/samples/frontiercluster.yaml"))?;
    let sample = sample.replace("name: frontiercluster\n", &format!("name: {name}\n"));
    // Half a minute less than without; the charts' scenario has the drain that there is without settings.
    let sample = sample.replacen("    replicas: 1\n", "    replicas: 1\n    drainSeconds: 15\n", 1);
    ensure!(sample.contains("drainSeconds"), "the sample has no gateways");
    // Clusters that share a database of Redis are one cluster to their registries.
    let sample = sample.replace("redisType:", &format!("db: {}\n      redisType:", edgebound % 10));
    kube.apply(&sample.replace("30012", &edgebound.to_string()))?;
    let echo = std::fs::read_to_string(crate::kube::repo().join("deploy/samples/echo-service.yaml"))?;
    let echo = echo.replace("frontiercluster-frontlas-svc", &format!("{name}-frontlas-svc"));
    kube.apply(
        &echo
            .replace("name: echo\n", &format!("name: echo-{name}\n"))
            .replace("app: echo\n", &format!("app: echo-{name}\n")),
    )?;
    available(kube, name, Duration::from_secs(90))?;
    kube.node_port(&format!("{name}-edgebound-svc"))
}

fn patch(world: &World<'_>, name: &str, patch: &str) -> anyhow::Result<()> {
    world.kube.kubectl(["patch", "frontiercluster", name, "--type=merge", "-p", patch]).map(drop)
}

/// Waits until the operator has carried out the last change, and there are exactly so many pods of gateways, all ready.
fn gateways(world: &World<'_>, name: &str, count: usize) -> anyhow::Result<()> {
    // Before that, what is there is as it was.
    available(&world.kube, name, ROLL)?;
    until(&format!("{count} gateways"), ROLL, || {
        let pods = world.kube.get(&format!("pods -l app={name}-frontier"))?;
        let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ready = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).count();
        ensure!(pods.len() == count && ready == count, "{ready} of {} are ready", pods.len());
        Ok(())
    })
}

fn rollout(world: &World<'_>) -> anyhow::Result<()> {
    let (kube, runtime) = (&world.kube, world.runtime);
    let gateway = start(world, "rolling", 30052)?;
    let fleet = Fleet::start(runtime, &gateway, 4)?;
    for (replicas, what) in
        [(3, "scaled to three gateways under load"), (1, "scaled to one gateway under load")]
    {
        let begin = Instant::now();
        patch(world, "rolling", &format!(r#"{{"spec":{{"frontier":{{"replicas":{replicas}}}}}}}"#))?;
        gateways(world, "rolling", replicas)?;
        world.took(what, begin);
        fleet.works(runtime, 5)?;
        ensure!(fleet.failed() == 0, "{what}: {}", fleet.failures());
    }
    let begin = Instant::now();
    let image = kube.ask("deployment rolling-frontier", "{.spec.template.spec.containers[0].image}")?;
    let (name, _) = image.rsplit_once(':').unwrap_or((&image, ""));
    patch(world, "rolling", &format!(r#"{{"spec":{{"frontier":{{"image":"{name}:next"}}}}}}"#))?;
    gateways(world, "rolling", 1)?;
    let images = kube.ask("pods -l app=rolling-frontier", "{.items[*].spec.containers[*].image}")?;
    ensure!(images == format!("{name}:next"), "the gateways are of {images}");
    world.took("another image under load", begin);
    let told = fleet.end(runtime)?;
    world.say(&format!("   {told}"));

    // Somebody kills a gateway: edges come back, and calls go on.
    let fleet = Fleet::start(runtime, &gateway, 4)?;
    let begin = Instant::now();
    // No time for a drain; with --force kubectl would not wait until the gateway is gone.
    kube.kubectl(["delete", "pod", "-l", "app=rolling-frontier", "--grace-period=1", "--wait=true"])?;
    gateways(world, "rolling", 1)?;
    until("all edges are back", Duration::from_secs(60), || {
        ensure!(fleet.connected() == 4, "{} of 4", fleet.connected());
        Ok(())
    })?;
    fleet.works(runtime, 5)?;
    world.took("gateway killed until all edges are served", begin);
    drop(fleet);

    // Another password: Redis starts anew with it, and so does the registry; who is connected stays.
    let fleet = Fleet::start(runtime, &gateway, 2)?;
    let begin = Instant::now();
    let redis = std::fs::read_to_string(crate::kube::repo().join("deploy/samples/redis.yaml"))?;
    kube.apply(&redis.replace("your-password", "another-password"))?;
    patch(world, "rolling", r#"{"spec":{"frontlas":{"redis":{"password":"another-password"}}}}"#)?;
    kube.rolled_out("deployment/redisfailover", ROLL)?;
    kube.rolled_out("deployment/rolling-frontlas", ROLL)?;
    available(kube, "rolling", ROLL)?;
    world.took("another Redis with another password", begin);
    world.say(&format!("   {}", fleet.end(runtime)?));

    // Other ports: edges are where they were told to come, and come there.
    let begin = Instant::now();
    patch(world, "rolling", r#"{"spec":{"frontier":{"edgebound":{"port":30053}}}}"#)?;
    kube.rolled_out("deployment/rolling-frontier", ROLL)?;
    available(kube, "rolling", ROLL)?;
    let moved = kube.node_port("rolling-edgebound-svc")?;
    ensure!(moved.ends_with(":30053"), "{moved}");
    let fleet = Fleet::start(runtime, &moved, 2)?;
    world.took("another port of edges", begin);
    world.say(&format!("   {}", fleet.end(runtime)?));
    kube.kubectl(["delete", "frontiercluster", "rolling", "--timeout=60s"]).map(drop)
}

fn kills(world: &World<'_>) -> anyhow::Result<()> {
    let runtime = world.runtime;
    let home = Kube::new(HOME);
    let gateway = start(world, "kills", 30062)?;
    let fleet = Fleet::start(runtime, &gateway, 2)?;
    home.kubectl(["scale", "deployment", "frontiercluster-operator", "--replicas=2"])?;
    home.rolled_out("deployment/frontiercluster-operator", Duration::from_secs(60))?;
    let begin = Instant::now();
    patch(world, "kills", r#"{"spec":{"frontier":{"replicas":2}}}"#)?;
    home.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"])?;
    gateways(world, "kills", 2)?;
    world.took("both instances of the operator killed during a change, until it is carried out", begin);
    home.kubectl(["scale", "deployment", "frontiercluster-operator", "--replicas=1"])?;

    if let Ok(command) = std::env::var("RESTART_API_SERVER") {
        let begin = Instant::now();
        let status = std::process::Command::new("sh").args(["-c", &command]).status()?;
        ensure!(status.success(), "{command}: {status}");
        until("the API server is back", Duration::from_secs(60), || {
            world.kube.kubectl(["get", "--raw", "/readyz"])
        })?;
        world.took("API server restarted until it is ready", begin);
        let begin = Instant::now();
        patch(world, "kills", r#"{"spec":{"frontier":{"replicas":1}}}"#)?;
        gateways(world, "kills", 1)?;
        world.took("the next change carried out", begin);
    } else {
        world.say("   the API server is not restarted: RESTART_API_SERVER does not say how");
    }
    world.say(&format!("   {}", fleet.end(runtime)?));
    world.kube.kubectl(["delete", "frontiercluster", "kills", "--timeout=60s"]).map(drop)
}

fn two(world: &World<'_>) -> anyhow::Result<()> {
    let runtime = world.runtime;
    let one = Fleet::start(runtime, &start(world, "one", 30072)?, 2)?;
    let other = Fleet::start(runtime, &start(world, "other", 30083)?, 2)?;
    let elsewhere = Kube::new("two-elsewhere");
    elsewhere.create_namespace()?;
    let outcome = beside(world, one, other, &elsewhere);
    if outcome.is_err() {
        world.say(&format!("--- the other namespace\n{}", elsewhere.report()));
    }
    let gone = elsewhere.delete_namespace();
    outcome.and(gone)
}

/// The third is called as one of the two, and is in a namespace of its own.
fn beside(world: &World<'_>, one: Fleet, other: Fleet, elsewhere: &Kube) -> anyhow::Result<()> {
    let (kube, runtime) = (&world.kube, world.runtime);
    let third = Fleet::start(runtime, &start_in(elsewhere, "other", 30074)?, 2)?;
    for fleet in [&one, &other, &third] {
        fleet.works(runtime, 5)?;
    }
    ensure!(one.failed() == 0, "{}", one.failures());
    drop(one);
    kube.kubectl(["delete", "frontiercluster", "one", "--timeout=60s"])?;
    gone(kube, "one")?;
    world.say(&format!("   in the same namespace: {}", other.end(runtime)?));
    kube.kubectl(["delete", "frontiercluster", "other", "--timeout=60s"])?;
    gone(kube, "other")?;
    world.say(&format!("   in another namespace: {}", third.end(runtime)?));
    elsewhere.kubectl(["delete", "frontiercluster", "other", "--timeout=60s"]).map(drop)
}

/// Waits until no gateway of a deleted cluster is left.
fn gone(kube: &Kube, name: &str) -> anyhow::Result<()> {
    until(&format!("the pods of {name} are gone"), ROLL, || {
        let pods = kube.kubectl(["get", "pods", "-l", &format!("app={name}-frontier"), "-o", "name"])?;
        ensure!(pods.trim().is_empty() || pods.contains("No resources"), "{pods}");
        Ok(())
    })
}
