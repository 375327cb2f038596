//! Under construction.

pub mod cli;
pub mod config;
pub mod core;
pub mod telemetry;
pub mod tls;
