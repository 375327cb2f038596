//! The interfaces of Frontier's control planes: protobuf messages and services, and the errors that gRPC and REST
//! share.
//!
//! The code below `gen` is generated from `proto/` and checked in, so that building needs no protobuf compiler; a
//! test regenerates it and fails on a difference.

pub mod bucket;
pub mod error;

/// Package `controlplane`: the control plane of one gateway.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::unused_async,
    clippy::or_fun_call,
    reason = "generated"
)]
pub mod controlplane {
    include!("gen/controlplane.rs");
}

/// Package `controlplane` as atlas serves it: who is where in the cluster.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::unused_async,
    clippy::or_fun_call,
    reason = "generated"
)]
pub mod cluster {
    include!("gen/cluster.rs");
}

/// Package `frontier.atlas.v1`: what gateways tell atlas.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::unused_async,
    clippy::or_fun_call,
    reason = "generated"
)]
pub mod registry {
    include!("gen/registry.rs");
}

/// Encoded `FileDescriptorSet`s, for server reflection.
pub mod descriptors {
    /// Of [`controlplane`](crate::controlplane).
    pub const CONTROLPLANE: &[u8] = include_bytes!("gen/controlplane.bin");
    /// Of [`cluster`](crate::cluster).
    pub const CLUSTER: &[u8] = include_bytes!("gen/cluster.bin");
    /// Of [`registry`](crate::registry).
    pub const REGISTRY: &[u8] = include_bytes!("gen/registry.bin");
}
