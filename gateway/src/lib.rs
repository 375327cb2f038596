//! The Frontier gateway.
//!
//! - [`core`]: the data plane as a deterministic state machine, without sockets and clocks.
//! - [`driver`]: sockets and time for it, one thread per shard.
//! - `sim`: the simulated driver, under feature `testing`.
//! - [`plane`], [`control`], [`admin`]: what operators ask and order, the API they do it by, health and metrics;
//!   `places` bounds their connections.
//! - [`tls`], [`identity`], [`tokens`], [`bypass`]: handshakes, who may come in, and what other protocols on the edge port get.
//! - [`app`]: builds everything from a [`config`] and takes it down again; [`readiness`] says which parts are up.
//! - [`cli`], [`telemetry`], [`metrics`]: the command line, the logs and the numbers.

pub mod admin;
pub mod app;
pub mod bypass;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod driver;
pub mod identity;
pub mod metrics;
mod places;
pub mod plane;
pub mod readiness;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
pub mod telemetry;
pub mod tls;
pub mod tokens;
