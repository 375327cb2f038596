//! The operator: a `FrontierCluster` becomes a running cluster, and stays one.
//!
//! - [`api`]: the custom resource, types only.
//! - [`render`]: from a spec to the objects that shall be; pure.
//! - [`controller`]: makes them so, and says how it goes.
//! - [`lease`]: one of several operators at a time. [`client`]: what every request to the API goes through.
//! - [`app`], [`cli`], [`metrics`]: the process.

pub mod api;
pub mod app;
pub mod cli;
pub mod client;
pub mod controller;
mod hash;
pub mod lease;
pub mod metrics;
pub mod render;
