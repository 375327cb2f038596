//! The Frontier gateway.
//!
//! - [`core`]: the data plane as a deterministic state machine, without sockets and clocks.
//! - [`driver`]: sockets and time for it, one thread per shard.
//! - `sim`: the simulated driver, under feature `testing`.
//! - [`plane`], [`control`]: what operators ask and order, and the API they do it by.
//! - [`tls`], [`identity`], [`tokens`], [`bypass`]: handshakes, who may come in, and what other protocols on the edge port get.
//! - [`atlas`]: the link to the cluster's registry.
//! - [`app`]: builds everything from a [`config`] and takes it down again.
//! - [`cli`], [`metrics`]: the command line and the numbers.
//!
//! What every server has (logs, readiness, the ports of operators) is in [`frontier_ops`].

pub mod app;
pub mod atlas;
pub mod bypass;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod driver;
pub mod identity;
pub mod metrics;
pub mod plane;
pub mod queues;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
pub mod sources;
pub mod tls;
pub mod tokens;
