//! Writes objects that differ from what they shall be, and removes those that shall not be any more.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::{
    Context, LookError, MANAGER, adopt, compare,
    observe::Count,
    trouble::{Area, Reason, Trouble},
};
use crate::{
    api::FrontierCluster,
    hash,
    render::{self, Kind, Names, Part, Wanted},
};

/// A hash of what was applied last: what is wished for no more is seen by it.
const APPLIED: &str = "frontier.singchia.io/applied";

/// Holds the number of pods until an autoscaler does: a field that nobody holds falls back to its default.
const REPLICAS_MANAGER: &str = "frontier-operator-replicas";

// === impl Context ===

impl Context {
    fn objects(&self, kind: Kind, cluster: &FrontierCluster) -> Api<DynamicObject> {
        let namespace = cluster.namespace().unwrap_or_default();
        Api::namespaced_with(self.client.clone(), &namespace, &kind.resource())
    }

    /// Makes an object what it shall be. The inner error is for people, the outer one passes.
    pub(super) async fn apply(
        &self,
        cluster: &FrontierCluster,
        wanted: &Wanted,
    ) -> Result<Result<(), Trouble>, LookError> {
        let (kind, name) = (wanted.kind, wanted.name.as_str());
        match self.try_apply(cluster, wanted).await {
            Ok(done) => Ok(done),
            Err(error) => match Trouble::of_write(kind, name, &error) {
                Some(trouble) => Ok(Err(trouble)),
                None => Err(LookError::of(format!("{} {name}", kind.name()))(error)),
            },
        }
    }

    async fn try_apply(
        &self,
        cluster: &FrontierCluster,
        wanted: &Wanted,
    ) -> Result<Result<(), Trouble>, kube::Error> {
        let (kind, name) = (wanted.kind, wanted.name.as_str());
        let api = self.objects(kind, cluster);
        let mut value = wanted.value.clone();
        let digest = hash::short(wanted.value.to_string().as_bytes());
        value["metadata"]["annotations"][APPLIED] = digest.as_str().into();
        if let Some(live) = api.get_opt(name).await? {
            if !belongs(&live, cluster) {
                let message =
                    format!("{} {name} is there already and does not belong to this cluster", kind.name());
                return Ok(Err(Trouble::new(Reason::NameTaken, Area::Deployment, message)));
            }
            if live.metadata.deletion_timestamp.is_some() {
                let message = format!("{} {name} of an earlier time is being deleted", kind.name());
                return Ok(Err(Trouble::new(Reason::NameTaken, Area::Deployment, message)));
            }
            let uid = live.metadata.uid.clone();
            let live = serde_json::to_value(&live).map_err(kube::Error::SerdeError)?;
            if compare::has(Some(&live), &value) && adopt::managers(&live).is_none() {
                return Ok(Ok(()));
            }
            let live = self.take_over(&api, name, live).await?;
            self.leave_replicas(&api, wanted, &live).await?;
            // Only if it is still this object: what somebody else has put in its place meanwhile is theirs.
            value["metadata"]["uid"] = json!(uid);
            tracing::info!(cluster = cluster.name_any(), kind = kind.name(), name, "applying");
            api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&value)).await?;
        } else {
            tracing::info!(cluster = cluster.name_any(), kind = kind.name(), name, "making");
            // Not by force: one that has come since, by somebody else, is a conflict, and is looked at anew.
            api.patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(&value)).await?;
        }
        Ok(Ok(()))
    }

    /// Takes over what the Go operator holds; the object as it is then.
    async fn take_over(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        live: Value,
    ) -> Result<Value, kube::Error> {
        let Some(managers) = adopt::managers(&live) else { return Ok(live) };
        // Only if nothing has changed since.
        let version = live.pointer("/metadata/resourceVersion");
        let patch = json!({"metadata": {"managedFields": managers, "resourceVersion": version}});
        tracing::info!(name, "taking over from the Go operator");
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let after = api.patch(name, &params, &Patch::Merge(&patch)).await?;
        serde_json::to_value(&after).map_err(kube::Error::SerdeError)
    }

    /// Where an autoscaler is to choose the number of pods from now on, it begins with what there is.
    async fn leave_replicas(
        &self,
        api: &Api<DynamicObject>,
        wanted: &Wanted,
        live: &Value,
    ) -> Result<(), kube::Error> {
        let left = wanted.kind == Kind::Deployment && wanted.value.pointer("/spec/replicas").is_none();
        let Some(replicas) = live.pointer("/spec/replicas").filter(|_| left) else { return Ok(()) };
        if adopt::hold(live, &["f:spec", "f:replicas"]) {
            let patch = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": wanted.name}, "spec": {"replicas": replicas},
            });
            api.patch(&wanted.name, &PatchParams::apply(REPLICAS_MANAGER).force(), &Patch::Apply(&patch))
                .await?;
        }
        Ok(())
    }

    /// Removes what the cluster has and shall not have any more.
    pub(super) async fn remove_others(
        &self,
        cluster: &FrontierCluster,
        wanted: &[Wanted],
        troubles: &mut Vec<Trouble>,
    ) -> Result<(), LookError> {
        let mut others = Vec::new();
        let keeps_redis = self.keeps_redis(cluster, troubles).await?;
        for (kind, name) in render::unwanted(cluster, wanted) {
            let optional_api = matches!(kind, Kind::ServiceMonitor | Kind::PrometheusRule);
            // The last good copy of a secret that is broken now.
            if kind == Kind::Secret && troubles.iter().any(|trouble| trouble.area == Area::Secret) {
                continue;
            }
            if keeps_redis && name == Names::new(cluster).app(Part::Redis) {
                continue;
            }
            match self.objects(kind, cluster).get_metadata_opt(&name).await {
                Ok(Some(object)) if owned(object.owner_references(), cluster) => others.push((kind, name)),
                Ok(_) => {}
                Err(kube::Error::Api(status)) if optional_api || status.code == 403 => {}
                Err(error) => return Err(LookError::of(format!("{} {name}", kind.name()))(error)),
            }
        }
        // Services may have had any name; what they belong to never changes.
        let names = Names::new(cluster);
        let apps = [Part::Gateway, Part::Atlas, Part::Redis].map(|part| names.app(part)).join(",");
        let params = ListParams::default().labels(&format!("app in ({apps})"));
        let services = self.objects(Kind::Service, cluster);
        let listed = services.list_metadata(&params).await.map_err(LookError::of("Services"))?;
        for service in listed {
            let name = service.name_any();
            let is_wanted = wanted.iter().any(|object| object.kind == Kind::Service && object.name == name);
            if keeps_redis && name == names.app(Part::Redis) {
                continue;
            }
            if !is_wanted && owned(service.owner_references(), cluster) {
                others.push((Kind::Service, name));
            }
        }
        for (kind, name) in others {
            // What takes its place is not there yet.
            if kind == Kind::Service && troubles.iter().any(|trouble| trouble.area == Area::Service) {
                continue;
            }
            if let Err(trouble) = self.remove(cluster, kind, &name).await? {
                troubles.push(trouble);
            }
        }
        Ok(())
    }

    /// Whether the registry may still need the Redis that the operator has run until now: until all its pods are over on the other one, and
    /// that one works, the old one stays with what is in it.
    async fn keeps_redis(&self, cluster: &FrontierCluster, troubles: &[Trouble]) -> Result<bool, LookError> {
        if cluster.spec.frontlas.redis.is_none() || !troubles.is_empty() {
            return Ok(true);
        }
        let name = Names::new(cluster).app(Part::Atlas);
        let namespace = cluster.namespace().unwrap_or_default();
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
        let live = deployments.get_opt(&name).await.map_err(LookError::of(format!("Deployment {name}")))?;
        Ok(!live.is_some_and(|live| Count::of(&live).settled))
    }

    async fn remove(
        &self,
        cluster: &FrontierCluster,
        kind: Kind,
        name: &str,
    ) -> Result<Result<(), Trouble>, LookError> {
        let api = self.objects(kind, cluster);
        let what = || format!("{} {name}", kind.name());
        let Some(object) = api.get_metadata_opt(name).await.map_err(LookError::of(what()))? else {
            return Ok(Ok(()));
        };
        if object.metadata.deletion_timestamp.is_some() {
            return Ok(Ok(()));
        }
        let preconditions = Preconditions { uid: object.uid(), resource_version: None };
        tracing::info!(cluster = cluster.name_any(), kind = kind.name(), name, "removing");
        match api.delete(name, &DeleteParams::background().preconditions(preconditions)).await {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Ok(())),
            Err(error) => match Trouble::of_write(kind, name, &error) {
                Some(trouble) => Ok(Err(trouble)),
                None => Err(LookError::of(what())(error)),
            },
        }
    }
}

fn belongs(object: &DynamicObject, cluster: &FrontierCluster) -> bool {
    owned(object.owner_references(), cluster)
}

/// Whether the cluster is what controls it: others may name it as an owner, so that theirs goes with it.
fn owned(
    owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference],
    cluster: &FrontierCluster,
) -> bool {
    cluster
        .metadata
        .uid
        .as_ref()
        .is_some_and(|uid| owners.iter().any(|owner| owner.uid == *uid && owner.controller == Some(true)))
}
