//! What every server process of Frontier needs to be operated: the gateway (`frontier`) and the registry (`frontlas`) read their
//! configuration, log, count, say whether they are ready and serve operators in one way.
//!
//! - [`config`]: a file as a tree, typed reading with every problem at once, and the blocks that files have in common.
//! - [`cli`]: what command lines have in common.
//! - [`telemetry`], [`metrics`], [`readiness`]: logs, numbers, which parts are up.
//! - [`serve`], [`guard`], [`split`]: HTTP for operators and programs on one port, its connections and requests bounded;
//!   [`rest`], [`query`], [`health`]: what REST and gRPC answers have in common.
//! - [`admin`]: the port of probes, scrapers and people on this machine.
//! - [`life`]: from the start to the exit, by signals.
//! - [`tls`]: certificates of listeners and dialers, reloaded when they change.
//! - `testing`: ports of servers that tests start, under feature `testing`.
//! - [`parts`]: what must run as long as the process does. [`complaints`]: a limit on log lines about peers. [`places`]: who gives
//!   way when all connections are taken.

pub mod admin;
pub mod cli;
pub mod complaints;
pub mod config;
pub mod guard;
pub mod health;
pub mod life;
pub mod metrics;
pub mod parts;
pub mod places;
pub mod query;
pub mod readiness;
pub mod rest;
pub mod serve;
pub mod split;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
