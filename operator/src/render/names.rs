//! Names of objects. Clusters have them already: none may change.

use kube::ResourceExt as _;

use super::Kind;
use crate::api::FrontierCluster;

/// What an object belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The gateways.
    Gateway,
    /// The registry.
    Atlas,
    /// The Redis that the operator runs.
    Redis,
}

/// Names of the objects of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    cluster: String,
    servicebound: Option<String>,
    edgebound: Option<String>,
    frontlas: Option<String>,
}

// === impl Names ===

impl Names {
    /// Those of this cluster.
    #[must_use]
    pub fn new(cluster: &FrontierCluster) -> Self {
        let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let spec = &cluster.spec;
        Self {
            cluster: cluster.name_any(),
            servicebound: given(&spec.frontier.servicebound.service),
            edgebound: given(&spec.frontier.edgebound.service_name),
            frontlas: given(&spec.frontlas.controlplane.service),
        }
    }

    /// The cluster's own.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Label `app` of a part, and the name of its pods' owner.
    #[must_use]
    pub fn app(&self, part: Part) -> String {
        match part {
            Part::Gateway => self.with("frontier"),
            Part::Atlas => self.with("frontlas"),
            Part::Redis => self.with("redis"),
        }
    }

    /// The Service of services.
    #[must_use]
    pub fn servicebound(&self) -> String {
        self.servicebound.clone().unwrap_or_else(|| self.with("servicebound-svc"))
    }

    /// The Service of edges.
    #[must_use]
    pub fn edgebound(&self) -> String {
        self.edgebound.clone().unwrap_or_else(|| self.with("edgebound-svc"))
    }

    /// The Service of the registry.
    #[must_use]
    pub fn frontlas(&self) -> String {
        self.frontlas.clone().unwrap_or_else(|| self.with("frontlas-svc"))
    }

    /// `<cluster>-<what>`.
    #[must_use]
    pub fn with(&self, what: &str) -> String {
        format!("{}-{what}", self.cluster)
    }

    /// Objects that a cluster has or has not, as its spec says. Services, whose names can be anything, are found by their labels.
    #[must_use]
    pub fn optional(&self) -> Vec<(Kind, String)> {
        let named = |kind: Kind, what: &str| (kind, self.with(what));
        vec![
            named(Kind::Secret, "edgebound-certkey-certificate"),
            named(Kind::Secret, "edgebound-ca-certificate"),
            named(Kind::Secret, "servicebound-certkey-certificate"),
            named(Kind::Secret, "servicebound-ca-certificate"),
            named(Kind::Secret, "redis-tls"),
            named(Kind::Secret, "redis"),
            named(Kind::Secret, "frontier-identity"),
            named(Kind::ConfigMap, "frontier"),
            named(Kind::ConfigMap, "frontlas"),
            named(Kind::StatefulSet, "redis"),
            named(Kind::PodDisruptionBudget, "frontier"),
            named(Kind::PodDisruptionBudget, "frontlas"),
            named(Kind::HorizontalPodAutoscaler, "frontier"),
            named(Kind::ServiceMonitor, "frontier"),
            named(Kind::ServiceMonitor, "frontlas"),
            named(Kind::PrometheusRule, "frontier"),
        ]
    }
}
