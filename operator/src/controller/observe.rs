//! How far a cluster is: its Deployments' counts, and what its pods say when they do not get on.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ContainerStatus, Pod},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, ResourceExt as _, api::ListParams};

use super::{
    Context, LookError,
    trouble::{Area, Reason, Trouble},
};
use crate::{
    api::FrontierCluster,
    render::{Names, Part},
};

/// Pods that run for so long and are not ready are worth a word.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of a cluster after a look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observed {
    pub(super) gateways: Count,
    pub(super) atlas: Count,
    /// The Redis that the operator runs, if it does.
    pub(super) redis: Option<Count>,
    pub(super) troubles: Vec<Trouble>,
}

/// Pods of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Those that shall be.
    pub(super) wanted: i32,
    /// Those that get traffic.
    pub(super) ready: i32,
    /// All are there, of the newest kind, and no others.
    pub(super) settled: bool,
}

// === impl Observed ===

impl Observed {
    /// Nothing is known but this.
    pub(super) fn only(trouble: Trouble) -> Self {
        Self { troubles: vec![trouble], ..Self::default() }
    }

    /// Whether all is there and nothing is on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.gateways.settled && self.atlas.settled && self.redis.is_none_or(|redis| redis.settled)
    }

    /// Whether there are as many pods as there shall be, whatever their kind.
    pub(super) fn is_available(&self) -> bool {
        let enough = |count: Count| count.wanted > 0 && count.ready >= count.wanted;
        enough(self.gateways) && enough(self.atlas)
    }
}

// === impl Count ===

impl Count {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let ready = status.ready_replicas.unwrap_or(0);
        let all = |count: Option<i32>| count.unwrap_or(0) == wanted;
        let seen = status.observed_generation >= deployment.metadata.generation;
        let settled = seen
            && all(status.updated_replicas)
            && all(status.replicas)
            && all(status.available_replicas)
            && ready == wanted;
        Self { wanted, ready, settled }
    }

    fn of_set(set: &StatefulSet) -> Self {
        let status = set.status.clone().unwrap_or_default();
        let ready = status.ready_replicas.unwrap_or(0);
        let seen = status.observed_generation >= set.metadata.generation;
        Self { wanted: 1, ready, settled: seen && ready == 1 && status.updated_replicas.unwrap_or(0) == 1 }
    }
}

// === impl Context ===

impl Context {
    /// How far the cluster is.
    pub(super) async fn observe(&self, cluster: &FrontierCluster) -> Result<Observed, LookError> {
        let namespace = cluster.namespace().unwrap_or_default();
        let names = Names::new(cluster);
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
        let mut observed = Observed::default();
        if cluster.spec.frontlas.redis.is_none() {
            let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), &namespace);
            let name = names.app(Part::Redis);
            let live = sets.get_opt(&name).await.map_err(LookError::of(format!("StatefulSet {name}")))?;
            let count = live.as_ref().map(Count::of_set).unwrap_or_default();
            if live.is_some() && !count.settled {
                observed.troubles.extend(self.pods_that_do_not_get_on(cluster, &names, Part::Redis).await?);
            }
            observed.redis = Some(count);
        }
        for (part, count) in [(Part::Gateway, &mut observed.gateways), (Part::Atlas, &mut observed.atlas)] {
            let name = names.app(part);
            let live =
                deployments.get_opt(&name).await.map_err(LookError::of(format!("Deployment {name}")))?;
            *count = live.as_ref().map(Count::of).unwrap_or_default();
            if live.is_some() && !count.settled {
                let mut trouble = self.pods_that_do_not_get_on(cluster, &names, part).await?;
                // The registry waits for a Redis that is on its way.
                if part == Part::Atlas && observed.redis.is_some_and(|redis| !redis.settled) {
                    trouble = trouble.filter(|trouble| trouble.reason != Reason::PodsNotReady);
                }
                observed.troubles.extend(trouble);
            }
        }
        Ok(observed)
    }

    async fn pods_that_do_not_get_on(
        &self,
        cluster: &FrontierCluster,
        names: &Names,
        part: Part,
    ) -> Result<Option<Trouble>, LookError> {
        let namespace = cluster.namespace().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let params = ListParams::default().labels(&format!("app={}", names.app(part)));
        let pods = match pods.list(&params).await {
            Ok(pods) => pods,
            // Without them it works, it only says less.
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
            Err(error) => return Err(LookError::of("Pods")(error)),
        };
        let now = Timestamp::now();
        let mut trouble =
            pods.iter().filter_map(|pod| trouble_of(pod, now)).min_by_key(|trouble| rank(trouble.reason));
        if part == Part::Atlas
            && let Some(trouble) = trouble.as_mut().filter(|trouble| trouble.reason == Reason::PodsNotReady)
        {
            let redis = cluster.spec.frontlas.redis.as_ref();
            let addrs = redis.map_or_else(|| names.with("redis"), |redis| redis.addrs.join(", "));
            trouble.message.push_str(&format!(": does Redis answer at {addrs}, and is its password right?"));
        }
        Ok(trouble)
    }
}

/// What says most comes first.
fn rank(reason: Reason) -> u8 {
    match reason {
        Reason::ImagePullFailed => 0,
        Reason::PodsFailing => 1,
        Reason::PodsUnschedulable => 2,
        _ => 3,
    }
}

fn trouble_of(pod: &Pod, now: Timestamp) -> Option<Trouble> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (name, status) = (pod.name_any(), pod.status.as_ref()?);
    let says = |reason: Reason, what: String| {
        Some(Trouble::new(reason, Area::Deployment, format!("pod {name}: {what}")))
    };
    for container in status.container_statuses.iter().flatten() {
        if let Some((reason, what)) = failure_of(container) {
            return says(reason, what);
        }
    }
    let condition =
        |type_: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == type_);
    let since = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        let patience = SignedDuration::try_from(PATIENCE).unwrap_or(SignedDuration::ZERO);
        time.is_some_and(|time| now.duration_since(time.0) > patience)
    };
    if let Some(scheduled) = condition("PodScheduled").filter(|condition| condition.status == "False")
        && since(scheduled.last_transition_time.as_ref())
    {
        return says(Reason::PodsUnschedulable, scheduled.message.clone().unwrap_or_default());
    }
    let ready = condition("Ready").filter(|condition| condition.status == "False")?;
    let runs = status.phase.as_deref() == Some("Running");
    (runs && since(ready.last_transition_time.as_ref())).then_some(())?;
    says(Reason::PodsNotReady, "it runs and is not ready".to_owned())
}

fn failure_of(container: &ContainerStatus) -> Option<(Reason, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let why = waiting.reason.as_deref().unwrap_or_default();
    let reason = match why {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Reason::ImagePullFailed
        }
        "CrashLoopBackOff" | "CreateContainerError" | "CreateContainerConfigError" | "RunContainerError" => {
            Reason::PodsFailing
        }
        _ => return None,
    };
    let mut what = format!("{why}, image {}", container.image);
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(last) = last {
        what.push_str(&format!(", exit code {}", last.exit_code));
    }
    if let Some(message) =
        waiting.message.as_ref().filter(|_| reason == Reason::PodsFailing && last.is_none())
    {
        what.push_str(&format!(": {message}"));
    }
    Some((reason, what))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(generation: i64, replicas: i32, status: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"generation": generation},
            "spec": {"replicas": replicas, "selector": {}, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    fn status(generation: i64, replicas: i32, updated: i32, ready: i32) -> Value {
        json!({
            "observedGeneration": generation, "replicas": replicas, "updatedReplicas": updated,
            "readyReplicas": ready, "availableReplicas": ready,
        })
    }

    #[test]
    fn a_deployment_is_settled_when_all_and_only_the_newest_pods_are_ready() {
        let settled = |deployment: &Deployment| Count::of(deployment).settled;
        assert!(settled(&deployment(3, 2, status(3, 2, 2, 2))));
        assert!(!settled(&deployment(4, 2, status(3, 2, 2, 2))), "counts of an earlier generation");
        assert!(!settled(&deployment(3, 2, status(3, 3, 2, 3))), "an old pod is left");
        assert!(!settled(&deployment(3, 2, status(3, 2, 1, 2))), "one is of the old kind");
        assert!(!settled(&deployment(3, 2, status(3, 2, 2, 1))), "one is not ready");
        assert!(!settled(&deployment(1, 2, json!({}))));
    }

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[test]
    fn pods_that_do_not_get_on_say_why() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let reason = |status: Value| trouble_of(&pod(status), now).map(|trouble| trouble.reason);
        let waiting = |why: &str| {
            json!({"phase": "Pending", "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": why}},
            }]})
        };
        assert_eq!(reason(waiting("ImagePullBackOff")), Some(Reason::ImagePullFailed));
        assert_eq!(reason(waiting("CrashLoopBackOff")), Some(Reason::PodsFailing));
        assert_eq!(reason(waiting("ContainerCreating")), None);
        let ready = |since: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": since}]});
        assert_eq!(reason(ready("2026-01-01T00:00:00Z")), Some(Reason::PodsNotReady));
        assert_eq!(reason(ready("2026-01-01T00:00:50Z")), None, "it may still get ready");
    }
}
