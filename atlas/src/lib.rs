//! The cluster registry of Frontier, called atlas: where every edge and every service is.
//!
//! An instance of it keeps nothing that its [store] does not have, so any number of them may run, and each may end at any moment.

#![deny(missing_docs)]

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod directory;
pub mod golink;
pub mod links;
pub mod metrics;
pub mod record;
pub mod store;
pub mod watch;
