//! From a spec, and what has been seen of the world, to the objects that shall be: pure, so that snapshots show all of it.
//!
//! Names, labels, ports and environment are those of the Go operator, so that its clusters can be taken over. Where a Deployment of it still
//! runs with the image that is wished for, its template stays as it is ([`Style::Go`]): those images know neither our hook nor our ports. Releases
//! of the Go system that somebody pins in a new cluster are described in the same way.

mod atlas;
mod config;
mod gateway;
mod monitoring;
mod names;
mod pod;
mod redis;
mod scaling;
mod secrets;
mod services;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{ConfigMap, Secret, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Resource as _,
    core::{ApiResource, GroupVersionKind},
};
use serde::Serialize;
use serde_json::Value;

pub use self::{
    names::{Names, Part},
    secrets::{Pair, TlsFiles},
};
use crate::api::FrontierCluster;

/// Images where the spec names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// The gateway's.
    pub frontier: String,
    /// The registry's.
    pub frontlas: String,
    /// That of the Redis the operator runs.
    pub redis: String,
}

/// What rendering must know of the world.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Checked files of the port of edges, with TLS.
    pub edge_tls: Option<TlsFiles>,
    /// Checked files of the port of services, with TLS.
    pub service_tls: Option<TlsFiles>,
    /// Checked files for TLS to Redis.
    pub redis_tls: Option<TlsFiles>,
    /// A hash of the password of Redis that is in a secret; pods are replaced when it changes.
    pub redis_password: Option<String>,
    /// The password of the Redis that the operator runs.
    pub own_redis_password: String,
    /// The key of resume tickets, which all gateways share.
    pub identity_key: String,
    /// The gateways' Deployment.
    pub gateway: Option<Running>,
    /// The registry's Deployment.
    pub atlas: Option<Running>,
    /// The address of the load balancer in front of edges.
    pub load_balancer: Option<String>,
    /// The node port of the Service of edges.
    pub edge_node_port: Option<i32>,
    /// Whether objects of the Prometheus operator can be made.
    pub monitoring: bool,
}

/// A Deployment as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    /// Wanted replicas.
    pub replicas: Option<i32>,
    /// How its pods were described.
    pub style: Style,
    /// The image of its pods.
    pub image: String,
    /// The hash of the password that its pods have, as far as it was noted.
    pub password: Option<String>,
    /// Whether the hash is a part of the pods' description.
    pub password_in_pods: bool,
}

/// How pods are described.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// By us.
    #[default]
    Own,
    /// By the Go operator, for images of the Go system.
    Go,
}

/// An object that shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All of it.
    pub value: Value,
}

/// The kinds of objects that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Certificates, passwords.
    Secret,
    /// Configuration files.
    ConfigMap,
    /// Addresses.
    Service,
    /// Redis.
    StatefulSet,
    /// Pods.
    Deployment,
    /// How many pods may be missing.
    PodDisruptionBudget,
    /// Who chooses the number of pods.
    HorizontalPodAutoscaler,
    /// Who reads metrics.
    ServiceMonitor,
    /// Alarms.
    PrometheusRule,
}

/// Everything that is rendered from.
pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a FrontierCluster,
    pub(crate) names: Names,
    pub(crate) images: &'a Images,
    pub(crate) seen: &'a Seen,
}

/// All objects of a cluster, in the order in which they are made.
///
/// # Errors
/// An object cannot be written as JSON, which no spec leads to.
pub fn all(
    cluster: &FrontierCluster,
    images: &Images,
    seen: &Seen,
) -> Result<Vec<Wanted>, serde_json::Error> {
    let scene = Scene { cluster, names: Names::new(cluster), images, seen };
    let mut wanted = Vec::new();
    for service in services::all(&scene) {
        wanted.push(Wanted::new(Kind::Service, &service)?);
    }
    for secret in secrets::all(&scene) {
        wanted.push(Wanted::new(Kind::Secret, &secret)?);
    }
    for map in config::maps(&scene)? {
        wanted.push(Wanted::new(Kind::ConfigMap, &map)?);
    }
    if let Some(set) = redis::stateful_set(&scene) {
        wanted.push(Wanted::new(Kind::StatefulSet, &set)?);
    }
    wanted.push(Wanted::new(Kind::Deployment, &atlas::deployment(&scene)?)?);
    wanted.push(Wanted::new(Kind::Deployment, &gateway::deployment(&scene)?)?);
    for budget in scaling::budgets(&scene) {
        wanted.push(Wanted::new(Kind::PodDisruptionBudget, &budget)?);
    }
    if let Some(autoscaler) = scaling::autoscaler(&scene) {
        wanted.push(Wanted::new(Kind::HorizontalPodAutoscaler, &autoscaler)?);
    }
    wanted.extend(monitoring::all(&scene));
    Ok(wanted)
}

/// Names that a cluster may have objects under although it wants none of them now.
#[must_use]
pub fn unwanted(cluster: &FrontierCluster, wanted: &[Wanted]) -> Vec<(Kind, String)> {
    let names = Names::new(cluster);
    let has = |kind: Kind, name: &str| wanted.iter().any(|object| object.kind == kind && object.name == name);
    names.optional().into_iter().filter(|(kind, name)| !has(*kind, name)).collect()
}

// === impl Wanted ===

impl Wanted {
    fn new<K: Serialize>(kind: Kind, object: &K) -> Result<Self, serde_json::Error> {
        let value = serde_json::to_value(object)?;
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self { kind, name, value })
    }
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Secret,
        Self::ConfigMap,
        Self::Service,
        Self::StatefulSet,
        Self::Deployment,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
        Self::ServiceMonitor,
        Self::PrometheusRule,
    ];

    /// Where the API has it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::HorizontalPodAutoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            Self::ServiceMonitor | Self::PrometheusRule => ApiResource::from_gvk(&GroupVersionKind::gvk(
                monitoring::GROUP,
                monitoring::VERSION,
                self.name(),
            )),
        }
    }

    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::StatefulSet => "StatefulSet",
            Self::Deployment => "Deployment",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::ServiceMonitor => "ServiceMonitor",
            Self::PrometheusRule => "PrometheusRule",
        }
    }
}

// === impl Scene ===

impl Scene<'_> {
    /// Metadata of an object that belongs to a part of the cluster.
    pub(crate) fn meta(&self, name: &str, part: Part) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: self.cluster.metadata.namespace.clone(),
            labels: Some([("app".to_owned(), self.names.app(part))].into()),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    /// Makes the object go with the cluster.
    pub(crate) fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: FrontierCluster::api_version(&()).into_owned(),
            kind: FrontierCluster::kind(&()).into_owned(),
            name: self.names.cluster().to_owned(),
            uid: self.cluster.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// How the gateways' pods are described.
    pub(crate) fn gateway_style(&self) -> Style {
        let spec = &self.cluster.spec.frontier;
        let tls = |tls: &Option<crate::api::Tls>| tls.as_ref().is_some_and(|tls| tls.enabled);
        let new = spec.config.is_some()
            || spec.drain_seconds.is_some()
            || spec.edgebound.advertise.is_some()
            || tls(&spec.edgebound.tls)
            || tls(&spec.servicebound.tls);
        style(self.seen.gateway.as_ref(), self.gateway_image(), new)
    }

    /// How the registry's pods are described.
    pub(crate) fn atlas_style(&self) -> Style {
        let spec = &self.cluster.spec.frontlas;
        let new = spec.config.is_some() || spec.redis.as_ref().is_none_or(|redis| redis.tls.is_some());
        style(self.seen.atlas.as_ref(), self.atlas_image(), new)
    }

    pub(crate) fn gateway_image(&self) -> &str {
        self.cluster
            .spec
            .frontier
            .image
            .as_deref()
            .filter(|image| !image.is_empty())
            .unwrap_or(&self.images.frontier)
    }

    pub(crate) fn atlas_image(&self) -> &str {
        self.cluster
            .spec
            .frontlas
            .image
            .as_deref()
            .filter(|image| !image.is_empty())
            .unwrap_or(&self.images.frontlas)
    }
}

fn style(running: Option<&Running>, image: &str, new: bool) -> Style {
    let stays = running.is_some_and(|running| running.style == Style::Go && running.image == image);
    if (stays || is_of_go(image)) && !new { Style::Go } else { Style::Own }
}

/// Whether this is a release of the Go system, as its users pin it: `singchia/frontier` or `singchia/frontlas`, of any registry, from 1.0 to 1.2.
fn is_of_go(image: &str) -> bool {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let Some((repository, tag)) = name.rsplit_once(':') else { return false };
    let ours = ["singchia/frontier", "singchia/frontlas"];
    let known = ours.iter().any(|name| {
        repository.strip_suffix(name).is_some_and(|registry| registry.is_empty() || registry.ends_with('/'))
    });
    let tag = tag.strip_prefix('v').unwrap_or(tag);
    known && ["1.0.", "1.1.", "1.2."].iter().any(|series| tag.starts_with(series))
}

#[cfg(test)]
mod tests;
