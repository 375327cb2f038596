//! The interfaces of Frontier's control planes: protobuf messages and services, and the errors that gRPC and REST
//! share.
//!
//! The code below `gen` is generated from `proto/` and checked in, so that building needs no protobuf compiler; a
//! test regenerates it and fails on a difference.

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

/// The encoded `FileDescriptorSet` of every package here, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/controlplane.bin");
