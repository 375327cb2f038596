//! What the operator says about a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator says about a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrontierClusterStatus {
    /// `Pending` while something is on its way, `Running` when all is there, `Failed` when somebody has to act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What is going on, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `Available`: gateways and registry are ready. `Progressing`: a change is on its way. `Degraded`: something is wrong, see its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the object that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Gateways that are ready.
    #[serde(default)]
    pub frontier_ready_replicas: i32,
    /// Instances of the registry that are ready.
    #[serde(default)]
    pub frontlas_ready_replicas: i32,
}

/// How a cluster is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Something is on its way.
    Pending,
    /// All is there.
    Running,
    /// Somebody has to act.
    Failed,
}

/// The conditions of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// Gateways and registry are ready.
    Available,
    /// A change is on its way.
    Progressing,
    /// Something is wrong.
    Degraded,
}

// === impl Phase ===

impl Phase {
    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Failed => "Failed",
        }
    }
}

// === impl ConditionType ===

impl ConditionType {
    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
        }
    }
}
