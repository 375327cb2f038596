//! `FrontierCluster`, group `frontier.singchia.io`: the fields that the Go operator's users have, and new optional ones.
//!
//! Numbers are wider than their range, and words are checked when an object is read as a whole: one stored before these rules existed must
//! not keep the operator from reading the others.

#![expect(unreachable_pub, reason = "the derive of rules copies each type into a function of its own")]

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{LocalObjectReference, NodeAffinity, ResourceRequirements, SecretKeySelector},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{pod::PodOverrides, status::FrontierClusterStatus};

/// A cluster of gateways and the registry that knows where every edge is.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "frontier.singchia.io",
    version = "v1alpha1",
    kind = "FrontierCluster",
    plural = "frontierclusters",
    shortname = "fc",
    shortname = "fcs",
    category = "frontier",
    namespaced,
    status = "FrontierClusterStatus",
    derive = "PartialEq",
    doc = "A cluster of gateways and the registry that knows where every edge is.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Frontier", type_ = "integer", json_path = ".status.frontierReadyReplicas"),
    printcolumn(name = "Frontlas", type_ = "integer", json_path = ".status.frontlasReadyReplicas"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 46")
        .message("the name must not be longer than 46 characters: names of Services are made of it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must begin with a letter and consist of a-z, 0-9 and -: names of Services are made of it")
)]
#[x_kube(validation = Rule::new("(self.frontier.servicebound.port == 0 ? 30011 : self.frontier.servicebound.port) != (self.frontier.edgebound.port == 0 ? 30012 : self.frontier.edgebound.port)")
    .message("frontier.servicebound.port and frontier.edgebound.port must differ"))]
#[serde(rename_all = "camelCase")]
pub struct FrontierClusterSpec {
    /// The gateways.
    pub frontier: Gateway,
    /// The registry.
    pub frontlas: Atlas,
    /// Objects of the Prometheus operator. They are made where its resource definitions are installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,
}

/// The gateways.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.drainSeconds) || !has(self.pod) || !has(self.pod.terminationGracePeriodSeconds)")
    .message("drainSeconds and pod.terminationGracePeriodSeconds say the same: give one of them"))]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// How many gateways run. Not used while `autoscaling` is set.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub replicas: i32,
    /// Image of the gateways. Default: the one of the operator's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The port of services.
    pub servicebound: Servicebound,
    /// The port of edges.
    pub edgebound: Edgebound,
    /// Keys of the gateway's configuration file (docs/configuration.md). What the operator sets itself is refused: ports, TLS, the registry and the admin port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    /// Seconds in which a gateway that ends sends its edges elsewhere. The pod's grace period is 15 s longer. Default: 45.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub drain_seconds: Option<i32>,
    /// How pods are replaced by newer ones. Default: 25 % more for as long as it takes, none less below four replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// How many gateways may be missing while nodes are drained. Default: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<Budget>,
    /// Let a HorizontalPodAutoscaler choose the number of gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Node affinity of the pods. Not used when `pod.affinity` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
    /// What is special about the pods. Each field replaces the operator's value as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodOverrides>,
}

/// The port of services.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.port != 9091").message("9091 is the port of probes and metrics"))]
#[serde(rename_all = "camelCase")]
pub struct Servicebound {
    /// Port of the pods and of the Service. 0 means the default.
    #[serde(default = "servicebound_port", deserialize_with = "servicebound_port_or_default")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: i32,
    /// Name of the Service. Default: `<name>-servicebound-svc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub service: Option<String>,
    /// Type of the Service; empty means the default.
    #[serde(default, deserialize_with = "cluster_ip_if_empty")]
    #[schemars(schema_with = "service_types")]
    pub service_type: ServiceType,
    /// Port on every node with type NodePort or LoadBalancer; 0 = any free one. Default: any free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub node_port: Option<i32>,
    /// TLS on this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// The port of edges.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.port != 9091").message("9091 is the port of probes and metrics"))]
#[serde(rename_all = "camelCase")]
pub struct Edgebound {
    /// Port of the pods and of the Service. 0 means the default.
    #[serde(default = "edgebound_port", deserialize_with = "edgebound_port_or_default")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: i32,
    /// Name of the Service. Default: `<name>-edgebound-svc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub service_name: Option<String>,
    /// Type of the Service; empty means the default.
    #[serde(default = "node_port_type", deserialize_with = "node_port_if_empty")]
    #[schemars(schema_with = "service_types")]
    pub service_type: ServiceType,
    /// Port on every node with type NodePort or LoadBalancer; 0 = any free one. Default: `port` with type NodePort, else any free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub node_port: Option<i32>,
    /// TLS on this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The address of edges that gateways tell the registry. Default: that of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<Advertise>,
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Within the cluster.
    #[default]
    ClusterIP,
    /// A port on every node.
    NodePort,
    /// An address from outside.
    LoadBalancer,
}

/// TLS on a port. Changed secrets are in force within about a minute, without a restart.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!self.enabled || has(self.certificateKeySecretRef)")
    .message("certificateKeySecretRef is needed with tls.enabled"))]
#[x_kube(validation = Rule::new("!self.enabled || !self.mtls || has(self.caCertificateSecretRef)")
    .message("caCertificateSecretRef is needed with tls.mtls"))]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Whether the port speaks TLS.
    #[serde(default)]
    pub enabled: bool,
    /// Whether who connects must show a certificate of the authority in `caCertificateSecretRef`.
    #[serde(default)]
    pub mtls: bool,
    /// No effect; earlier versions had it.
    #[serde(default)]
    pub optional: bool,
    /// Secret with `tls.crt` and `tls.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_key_secret_ref: Option<LocalObjectReference>,
    /// Secret with `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate_secret_ref: Option<LocalObjectReference>,
}

/// What gateways tell the registry as the address of edges.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.mode != 'Address' || has(self.address)")
    .message("address is needed with mode Address"))]
#[serde(rename_all = "camelCase")]
pub struct Advertise {
    /// `NodePort`: the node's address and the node port. `LoadBalancer`: the address of the Service, once it has one. `Address`: the one in `address`.
    pub mode: AdvertiseMode,
    /// host:port, with mode Address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^.+:[0-9]{1,5}$"))]
    pub address: Option<String>,
}

/// Where an advertised address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdvertiseMode {
    /// Address of the node, port of the Service on it.
    NodePort,
    /// Address of the Service's load balancer.
    LoadBalancer,
    /// As given.
    Address,
}

/// How pods are replaced by newer ones.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// How many pods more there may be meanwhile: a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
    /// How many pods less there may be meanwhile: a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// How many pods may be missing.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.minAvailable) != has(self.maxUnavailable)")
    .message("give one of minAvailable and maxUnavailable"))]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Pods that must stay: a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_available: Option<IntOrString>,
    /// Pods that may be missing: a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// Bounds of a HorizontalPodAutoscaler.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("minReplicas must not exceed maxReplicas"))]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// The fewest gateways.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub min_replicas: i32,
    /// The most gateways.
    #[schemars(range(min = 1))]
    pub max_replicas: i32,
    /// Average use of the CPU that pods ask for, in percent. Default: 80, if no memory is given.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "targetCPUUtilizationPercentage")]
    #[schemars(range(min = 1))]
    pub target_cpu: Option<i32>,
    /// Average use of the memory that pods ask for, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "targetMemoryUtilizationPercentage")]
    #[schemars(range(min = 1))]
    pub target_memory: Option<i32>,
}

/// The registry.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.redis) || !has(self.managedRedis)")
    .message("managedRedis describes the Redis that the operator runs when redis is left out: give one of them"))]
#[serde(rename_all = "camelCase")]
pub struct Atlas {
    /// How many instances run.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub replicas: i32,
    /// Image of the registry. Default: the one of the operator's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its ports.
    #[serde(default)]
    pub controlplane: ControlPlane,
    /// Where it keeps its state. Without it the operator runs a single Redis, which is for small and test clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// The Redis that the operator runs when `redis` is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_redis: Option<ManagedRedis>,
    /// Keys of the registry's configuration file (docs/frontlas.md). What the operator sets itself is refused: ports, Redis and the admin port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    /// How pods are replaced by newer ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// How many instances may be missing while nodes are drained. Default: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<Budget>,
    /// Node affinity of the pods. Not used when `pod.affinity` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
    /// What is special about the pods. Each field replaces the operator's value as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodOverrides>,
}

/// The registry's ports.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("(self.port == 0 ? 40011 : self.port) != (self.frontierPlanePort == 0 ? 40012 : self.frontierPlanePort)")
    .message("port and frontierPlanePort must differ"))]
#[x_kube(validation = Rule::new("self.port != 9092 && self.frontierPlanePort != 9092")
    .message("9092 is the port of probes and metrics"))]
#[serde(rename_all = "camelCase")]
pub struct ControlPlane {
    /// Port where services ask. 0 means the default.
    #[serde(default = "controlplane_port", deserialize_with = "controlplane_port_or_default")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: i32,
    /// Port of gateways. 0 means the default.
    #[serde(default = "frontier_plane_port", deserialize_with = "frontier_plane_port_or_default")]
    #[schemars(range(min = 0, max = 65535))]
    pub frontier_plane_port: i32,
    /// Name of the Service. Default: `<name>-frontlas-svc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub service: Option<String>,
    /// Type of the Service; empty means the default.
    #[serde(default, deserialize_with = "cluster_ip_if_empty")]
    #[schemars(schema_with = "service_types")]
    pub service_type: ServiceType,
    /// Port for services on every node with type NodePort or LoadBalancer; 0 = any free one. Default: any free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub node_port: Option<i32>,
}

/// Where the registry keeps its state.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.redisType != 'sentinel' || (has(self.masterName) && self.masterName != '')")
    .message("masterName is needed with redisType sentinel"))]
#[x_kube(validation = Rule::new("self.redisType != 'cluster' || self.db == 0")
    .message("db must be 0 with redisType cluster"))]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// host:port of the server, of the sentinels, or of some servers of the cluster.
    #[schemars(length(min = 1, max = 64), inner(length(max = 300), regex(pattern = r"^.+:[0-9]{1,5}$")))]
    pub addrs: Vec<String>,
    /// What they are.
    pub redis_type: RedisType,
    /// Database.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub db: i32,
    /// User.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What the sentinels call the master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub master_name: Option<String>,
    /// Password in plain text, for everybody who may read this object; `passwordSecret` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Secret with the password. When it changes, the registry's pods are replaced one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretKeySelector>,
    /// TLS to every server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
}

/// What kind of Redis it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedisType {
    /// One server.
    Standalone,
    /// A master that sentinels watch over.
    Sentinel,
    /// A Redis Cluster.
    Cluster,
}

/// TLS to Redis.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {
    /// Whether to speak TLS.
    #[serde(default)]
    pub enabled: bool,
    /// Secret with `ca.crt`, the authority of the servers. Default: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate_secret_ref: Option<LocalObjectReference>,
    /// Secret with `tls.crt` and `tls.key`, where servers ask for a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_key_secret_ref: Option<LocalObjectReference>,
    /// The name in the servers' certificates, where it is not the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// The Redis that the operator runs: one instance, for small and test clusters.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedRedis {
    /// Image of Redis. Default: `redis:7.4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Size of its volume, which goes with the cluster. Default: 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub storage: Option<String>,
    /// Storage class of the volume. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Resources of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// Objects of the Prometheus operator.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Whether there shall be any.
    #[serde(default)]
    pub enabled: bool,
    /// How often metrics are read.
    #[serde(default = "half_a_minute")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub interval: String,
    /// Further labels, by which a Prometheus finds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Keys of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Config(pub Map<String, Value>);

fn one() -> i32 {
    1
}

fn servicebound_port() -> i32 {
    30011
}

fn edgebound_port() -> i32 {
    30012
}

fn controlplane_port() -> i32 {
    40011
}

fn frontier_plane_port() -> i32 {
    40012
}

fn node_port_type() -> ServiceType {
    ServiceType::NodePort
}

// Users of the Go operator have written zero and nothing for what they did not care about.

fn servicebound_port_or_default<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    port(from, servicebound_port())
}

fn edgebound_port_or_default<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    port(from, edgebound_port())
}

fn controlplane_port_or_default<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    port(from, controlplane_port())
}

fn frontier_plane_port_or_default<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    port(from, frontier_plane_port())
}

fn port<'de, D: Deserializer<'de>>(from: D, default: i32) -> Result<i32, D::Error> {
    i32::deserialize(from).map(|port| if port == 0 { default } else { port })
}

fn cluster_ip_if_empty<'de, D: Deserializer<'de>>(from: D) -> Result<ServiceType, D::Error> {
    MaybeServiceType::deserialize(from).map(|given| given.or(ServiceType::ClusterIP))
}

fn node_port_if_empty<'de, D: Deserializer<'de>>(from: D) -> Result<ServiceType, D::Error> {
    MaybeServiceType::deserialize(from).map(|given| given.or(ServiceType::NodePort))
}

fn service_types(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["", "ClusterIP", "NodePort", "LoadBalancer"] })
}

/// A type of a Service as it may be written.
#[derive(Deserialize)]
enum MaybeServiceType {
    #[serde(rename = "")]
    Empty,
    ClusterIP,
    NodePort,
    LoadBalancer,
}

// === impl MaybeServiceType ===

impl MaybeServiceType {
    fn or(self, default: ServiceType) -> ServiceType {
        match self {
            Self::Empty => default,
            Self::ClusterIP => ServiceType::ClusterIP,
            Self::NodePort => ServiceType::NodePort,
            Self::LoadBalancer => ServiceType::LoadBalancer,
        }
    }
}

fn half_a_minute() -> String {
    "30s".to_owned()
}

// === impl ServiceType ===

impl ServiceType {
    /// The word in a Service.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

// === impl RedisType ===

impl RedisType {
    /// The word in the registry's environment.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }
}

// === impl ControlPlane ===

impl Default for ControlPlane {
    fn default() -> Self {
        Self {
            port: controlplane_port(),
            frontier_plane_port: frontier_plane_port(),
            service: None,
            service_type: ServiceType::default(),
            node_port: None,
        }
    }
}

// === impl Config ===

impl JsonSchema for Config {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Config".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}
